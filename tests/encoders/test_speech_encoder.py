"""Speech encoders by name: fresh, from a run, and wav2vec2-bert in transformers' own format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

from counterpoint.encoders import assets
from counterpoint.encoders.speech import SpeechEncoder
from counterpoint.storage import write_tensors
from counterpoint.views.audio import Utterance, pad_speech

FRESH = "conformer:2x16x2?kernel=5&bins=24&rate=8000&channels=4"


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny wav2vec2-bert as transformers stores it."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_depthwise_kernel_size=5
    )
    Wav2Vec2BertModel(config).save_pretrained(folder)
    return folder


def _batch(*lengths: int, bins: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = [{"features": torch.randn(length, bins, generator=generator)} for length in lengths]
    batch = pad_speech(samples)
    return batch["features"], batch["lengths"]


class _System(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.encoder = SpeechEncoder(name)


def _save(system: _System, folder: Path) -> None:
    """What of a run matters here."""
    assets.save(system, folder / "assets")
    (folder / "config.yaml").write_text("format: 1\n")
    write_tensors(folder / "model.safetensors", system.state_dict())


def test_a_fresh_one() -> None:
    encoder = SpeechEncoder(FRESH)
    assert (encoder.dim, encoder.stride, encoder.mel.rate, encoder.mel.bins) == (16, 4, 8000, 24)
    frames, lengths = encoder.frames(*_batch(20, 9))
    assert frames.shape == (2, 5, 16) and lengths.tolist() == [5, 3]
    vectors = encoder.eval()(*_batch(20, 9))
    torch.testing.assert_close(vectors[1], encoder.frames(*_batch(20, 9))[0][1, :3].mean(dim=0))
    default = SpeechEncoder("conformer:1x32x2")
    assert (default.mel.rate, default.mel.bins) == (16_000, 80)
    assert default.model.blocks[0].convolution.depthwise.kernel_size == (31,)


@pytest.mark.parametrize("source", ["fresh", "hub"])
def test_a_run_gives_the_same_encoder_back_without_its_source(source: str, hub_folder: Path, tmp_path: Path) -> None:
    name = FRESH if source == "fresh" else str(hub_folder)
    system = _System(name).eval()
    bins = system.encoder.mel.bins
    _save(system, tmp_path / "run")
    wanted = system.encoder(*_batch(20, 9, bins=bins))
    taken = SpeechEncoder(f"run:{tmp_path / 'run'}").eval()
    assert torch.equal(taken(*_batch(20, 9, bins=bins)), wanted)
    assert taken.mel == system.encoder.mel and taken.dim == system.encoder.dim
    with assets.loading(tmp_path / "run" / "assets"):
        rebuilt = SpeechEncoder(name).eval()
    rebuilt.load_state_dict(system.encoder.state_dict())
    assert torch.equal(rebuilt(*_batch(20, 9, bins=bins)), wanted)


def test_wav2vec2_bert_gives_what_transformers_gives(hub_folder: Path) -> None:
    encoder = SpeechEncoder(str(hub_folder)).eval()
    assert (encoder.dim, encoder.stride, encoder.mel.bins) == (16, 2, 80)
    sound = (0.1 * np.random.default_rng(0).standard_normal(16_500)).astype(np.float32)
    inputs = SeamlessM4TFeatureExtractor()(sound, sampling_rate=16_000, return_tensors="pt")
    model = AutoModel.from_pretrained(hub_folder).eval()
    with torch.no_grad():
        wanted = model(**inputs).last_hidden_state[0]
        found, lengths = encoder.frames(**pad_speech([Utterance(encoder.mel)({"audio": (sound, 16_000)})]))
    length = int(lengths)
    assert length == int(inputs["attention_mask"].sum())
    torch.testing.assert_close(found[0, :length], wanted[:length], atol=2e-4, rtol=0)


def test_padding_is_not_seen(hub_folder: Path) -> None:
    for name in (FRESH, str(hub_folder)):
        encoder = SpeechEncoder(name).eval()
        features, lengths = _batch(40, 9, 1, bins=encoder.mel.bins)
        together = encoder(features, lengths)
        for place, length in enumerate(lengths.tolist()):
            alone = encoder(features[place : place + 1, :length], lengths[place : place + 1])
            torch.testing.assert_close(together[place : place + 1], alone, atol=2e-6, rtol=1e-5)


def test_parts_can_be_frozen(hub_folder: Path) -> None:
    for name in (FRESH, str(hub_folder)):
        encoder = SpeechEncoder(name, trainable="last:1").train()
        trained = {parameter for parameter, value in encoder.named_parameters() if value.requires_grad}
        assert trained and trained == set(encoder.blocks()[-1])
        assert len(encoder.blocks()) == 2
        assert not any(value.requires_grad for value in SpeechEncoder(name, trainable="none").parameters())
    encoder = SpeechEncoder(FRESH, trainable="last:1").train()
    norms = [block.convolution.frame_norm for block in encoder.model.blocks]
    before = [norm.running_mean.clone() for norm in norms]
    encoder(*_batch(20, 9))
    assert [torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("conformer:2x16", "write conformer:LAYERSxWIDTHxHEADS"),
        ("conformer:0x16x2", "write conformer:LAYERSxWIDTHxHEADS"),
        ("conformer:2x16x3", "multiple of the number of heads"),
        ("conformer:2x16x2?kernel=4", "kernel must be odd"),
        ("conformer:2x16x2?norm=group", "norm must be batch or layer"),
        ("conformer:2x16x2?width=3", "unknown option"),
        ("wavlm", "no speech encoder is called .wavlm."),
        ("run:/nowhere/at/all", "is no run directory"),
    ],
)
def test_wrong_names_say_what_is_right(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SpeechEncoder(name)


def test_other_models_of_the_hub_are_refused_by_name(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=10, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is a bert, and wav2vec2-bert is what is read here"):
        SpeechEncoder(str(tmp_path))
    for file in tmp_path.glob("*"):
        file.unlink()
    with pytest.raises(ValueError, match="cannot be loaded as a speech encoder"):
        SpeechEncoder(str(tmp_path))


def test_features_of_another_width_are_named() -> None:
    with pytest.raises(ValueError, match=r"features must be \(B, T, 24\), got \(2, 20, 80\)"):
        SpeechEncoder(FRESH).frames(*_batch(20, 9, bins=80))
