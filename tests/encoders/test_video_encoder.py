"""Video encoders: the paper's network layer by layer, names and options, and transformers that tests make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from counterpoint.encoders import assets, hub
from counterpoint.encoders.networks3d import NETWORKS, build
from counterpoint.encoders.video import VideoEncoder

SMALL = "small3d?frames=4&size=16&width=4"
TRANSFORMERS = ("videomae", "timesformer", "vivit")


def _clips(rows: int = 2, frames: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


def _convolutions(module: nn.Module) -> list[nn.Conv3d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv3d)]


def test_the_network_of_the_paper() -> None:
    """R3D-50: 5-frame stem that halves the frames once; 1 frame in the first two stages, 3 in the others."""
    model = build("r3d50", 64)
    stem = _convolutions(model.stem)[0]
    assert (stem.kernel_size, stem.stride, stem.out_channels) == ((5, 7, 7), (2, 2, 2), 64)
    pool = next(part for part in model.stem if isinstance(part, nn.MaxPool3d))
    assert (pool.kernel_size, pool.stride) == ((1, 3, 3), (1, 2, 2))
    assert [len(stage) for stage in model.stages] == [3, 4, 6, 3]  # type: ignore[arg-type]
    for number, stage in enumerate(model.stages):
        time = 1 if number < 2 else 3
        for place, block in enumerate(stage.children()):
            first, second, third = _convolutions(block.get_submodule("branch"))
            stride = 2 if number > 0 and place == 0 else 1
            assert (first.kernel_size, first.stride) == ((time, 1, 1), (1, 1, 1))
            assert (second.kernel_size, second.stride) == ((1, 3, 3), (1, stride, stride))
            assert (third.kernel_size, third.out_channels) == ((1, 1, 1), 256 * 2**number)
    assert not any(part.bias is not None for part in _convolutions(model))
    with torch.inference_mode():
        assert model.eval().maps(torch.zeros(1, 3, 16, 64, 64)).shape == (1, 2048, 8, 2, 2)


def test_widths_and_depths() -> None:
    sizes = {name: sum(p.numel() for p in build(name, 8).parameters()) for name in NETWORKS}
    assert sizes["r3d18"] < sizes["r3d34"] and sizes["r3d50"] < sizes["r3d101"] < sizes["r3d152"]
    assert VideoEncoder("r3d50?width=8").dim == 256 and VideoEncoder("r3d18?width=8").dim == 64
    assert build("r3d152", 128).dim == 4096, "the 2x network"


@pytest.mark.parametrize("name", [SMALL, "r3d18?width=4&frames=4&size=16", "r3d50?width=4&frames=4&size=16"])
def test_a_clip_has_the_same_vector_in_any_batch(name: str) -> None:
    encoder = VideoEncoder(name).eval()
    clips = _clips(5)
    with torch.inference_mode():
        whole = encoder(clips)
        torch.testing.assert_close(encoder.maps(clips).mean(dim=(2, 3, 4)), whole)
        assert whole.shape == (5, encoder.dim) and whole.dtype == torch.float32
        for size in (1, 2):
            parts = torch.cat([encoder(part) for part in clips.split(size)])
            assert (parts - whole).abs().max() <= 1e-6 * max(1.0, whole.abs().max().item())
    assert (encoder.frames, encoder.size, encoder.stride) == (4, 16, 2)


def test_the_order_of_the_frames_matters() -> None:
    encoder = VideoEncoder(SMALL).eval()
    with torch.inference_mode():
        assert not torch.allclose(encoder(_clips()), encoder(_clips().flip(2)), atol=1e-3)


@pytest.mark.parametrize("clips", [torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 4, 16, 16)])
def test_shapes_that_do_not_fit(clips: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, T, H, W\)"):
        VideoEncoder(SMALL)(clips)
    with pytest.raises(TypeError, match="floating point"):
        VideoEncoder(SMALL)(torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8))


def test_names() -> None:
    encoder = VideoEncoder("r3d18?width=4")
    assert (encoder.frames, encoder.size, encoder.stride) == (16, 224, 2)
    with pytest.raises(ValueError, match="r3d50"):
        VideoEncoder("r3d51")
    with pytest.raises(ValueError, match="unknown option"):
        VideoEncoder("r3d18?depth=3")
    with pytest.raises(ValueError, match="positive whole number"):
        VideoEncoder("r3d18?frames=0")
    with pytest.raises(ValueError, match="hf:"):
        VideoEncoder("MCG-NJU/videomae-base")


def test_stages_are_frozen_one_by_one() -> None:
    encoder = VideoEncoder(SMALL, trainable="last:1").train()
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("model.stages.2.") for name in trained)
    assert not encoder.model.stem.training and encoder.model.stages[2].training  # type: ignore[union-attr, index]
    assert len(VideoEncoder("r3d18?width=4").blocks()) == 4


class _Holder(nn.Module):
    """A system, as far as runs are concerned."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.encoder = VideoEncoder(name)


def _run(name: str, folder: Path) -> VideoEncoder:
    """A run directory with this encoder in it."""
    torch.manual_seed(4)
    holder = _Holder(name)
    folder.mkdir()
    assets.save(holder, folder / "assets")
    save_file({key: value.contiguous() for key, value in holder.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.yaml").write_text("system: {}\n")
    return holder.encoder.eval()


def _tiny(kind: str, folder: Path) -> Path:
    """A small model of transformers, as `save_pretrained` writes it."""
    settings: dict[str, Any] = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 16,
        "patch_size": 8,
        "num_frames": 4,
        "tubelet_size": [2, 8, 8] if kind == "vivit" else 2,
    }
    if kind == "timesformer":
        del settings["tubelet_size"]
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **settings)
    transformers.AutoModel.from_config(config).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_of_a_folder(kind: str, tmp_path: Path) -> None:
    folder = _tiny(kind, tmp_path / "model")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}')
    encoder = VideoEncoder(f"{folder}?stride=4").eval()
    assert (encoder.dim, encoder.frames, encoder.size, encoder.stride) == (12, 4, 16, 4)
    assert encoder.mean == (0.5, 0.4, 0.3) and encoder.std == (0.2, 0.2, 0.1)
    original = transformers.AutoModel.from_pretrained(folder).eval()
    clips = _clips()
    with torch.inference_mode():
        states = original(pixel_values=clips.transpose(1, 2)).last_hidden_state
        expected = states.mean(dim=1) if kind == "videomae" else states[:, 0]
        torch.testing.assert_close(encoder(clips), expected)
    assert len(encoder.blocks()) == 2 and all(encoder.blocks())
    assert len(VideoEncoder(str(folder), trainable="last:1").blocks()) == 2
    with pytest.raises(ValueError, match="takes clips"):
        encoder(_clips(frames=8))
    with pytest.raises(ValueError, match="no feature map"):
        encoder.maps(clips)
    with pytest.raises(ValueError, match="leave them out"):
        VideoEncoder(f"{folder}?frames=8")


def test_every_parameter_of_a_transformer_learns(tmp_path: Path) -> None:
    for kind in TRANSFORMERS:
        encoder = VideoEncoder(str(_tiny(kind, tmp_path / kind)))
        encoder(_clips()).square().sum().backward()
        assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("made", ["small3d?frames=4&size=16&width=4", "videomae", "vivit"])
def test_runs_keep_their_encoder(made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `run:PATH`, and when the system is loaded; neither asks a hub, nor the folder it once came from."""
    name = made
    if made in TRANSFORMERS:
        name = f"{_tiny(made, tmp_path / 'model')}?stride=3"
    encoder = _run(name, tmp_path / "run")
    if made in TRANSFORMERS:
        (tmp_path / "model").rename(tmp_path / "gone")
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_: pytest.fail("the hub was asked"))
    again = VideoEncoder(f"run:{tmp_path / 'run'}").eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(_clips()), encoder(_clips()), rtol=0, atol=0)
    assert (again.stride, again.frames, again.mean) == (encoder.stride, encoder.frames, encoder.mean)
    with assets.loading(tmp_path / "run" / "assets"):
        fresh = VideoEncoder(name)
    fresh.load_state_dict(encoder.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(fresh.eval()(_clips()), encoder(_clips()), rtol=0, atol=0)


def test_a_run_may_be_given_other_clips(tmp_path: Path) -> None:
    _run(SMALL, tmp_path / "run")
    name = f"run:{tmp_path / 'run'}?frames=8&size=32&stride=1"
    again = VideoEncoder(name)
    assert (again.frames, again.size, again.stride) == (8, 32, 1)
    assets.save(nn.ModuleList([again]), tmp_path / "assets")
    with assets.loading(tmp_path / "assets"):
        assert VideoEncoder(name).frames == 8
    with pytest.raises(ValueError, match="fresh network"):
        VideoEncoder(f"run:{tmp_path / 'run'}?width=8")


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="cannot be loaded as a video model"):
        VideoEncoder(str(empty))
    picture = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.ViTModel(picture).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="it is a vit model; understood: videomae"):
        VideoEncoder(str(tmp_path / "vit"))
