"""Image encoders over timm: shapes, pretrained weights from a folder and from the hub's cache, freezing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from counterpoint.encoders import hub
from counterpoint.encoders.image import ImageEncoder

ARCHITECTURES = ["test_resnet?size=64", "test_vit?size=64", "test_convnext?size=64", "test_efficientnet?size=64"]


def pictures(count: int = 3, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small timm model with a classifier, in the hub's format."""
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=10)
    target = tmp_path_factory.mktemp("timm")
    timm.models.save_for_hf(model, target, model_args={}, safe_serialization=True)
    return target


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes(name: str) -> None:
    encoder = ImageEncoder(name).eval()
    images = pictures()
    vectors, maps, tokens = encoder(images), encoder.maps(images), encoder.tokens(images)
    assert vectors.shape == (3, encoder.dim)
    assert encoder.size == 64
    assert maps.dim() == 4 and maps.shape[0] == 3
    assert tokens.shape == (3, maps.shape[2] * maps.shape[3], maps.shape[1])
    torch.testing.assert_close(tokens[:, 1], maps.flatten(2)[:, :, 1])


@pytest.mark.parametrize("name", [*ARCHITECTURES, "resnet18?size=64"])
def test_a_picture_has_the_same_vector_in_any_batch(name: str) -> None:
    encoder = ImageEncoder(name).eval()
    images = pictures(7)
    with torch.inference_mode():
        whole = encoder(images)
        for size in (1, 2):
            parts = torch.cat([encoder(part) for part in images.split(size)])
            assert (parts - whole).abs().max() <= 1e-6 * max(1.0, whole.abs().max().item())


def test_convolutions_run_with_channels_last() -> None:
    encoder, seen = ImageEncoder("test_resnet?size=64"), []
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(pictures())
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in seen)
    assert len(seen) == len(convolutions)


def test_tokens_of_a_vision_transformer_are_its_patches() -> None:
    encoder = ImageEncoder("test_vit?size=64").eval()
    images = pictures(1)
    expected = encoder.model.forward_features(images)[:, encoder.model.num_prefix_tokens :]
    torch.testing.assert_close(encoder.tokens(images), expected)


def test_weights_from_a_folder(folder: Path) -> None:
    encoder = ImageEncoder(str(folder)).eval()
    torch.manual_seed(3)
    source = timm.create_model("test_resnet", num_classes=10).eval()
    images = pictures(2, 160)
    with torch.inference_mode():
        expected = source.forward_head(source.forward_features(images), pre_logits=True)
        torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=1e-5)
    assert encoder.size == 160
    assert encoder.architecture == "test_resnet"


def test_pretrained_weights_come_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    model = timm.create_model("test_resnet", num_classes=1000)
    timm.models.save_for_hf(model, folder / "whole", model_args={}, safe_serialization=True)

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(folder / "whole" / "model.safetensors")

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    encoder = ImageEncoder("timm:test_resnet.r160_in1k")
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert torch.equal(encoder.model.conv1[0].weight, model.conv1[0].weight)


def test_weights_that_are_not_to_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"timm:test_vit.r160_in1k: weights are neither in the hub's cache nor"):
        ImageEncoder("timm:test_vit.r160_in1k")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet81", "no timm architecture is called 'resnet81'; nearest: resnet18"),
        ("timm:resnet18.a1_in1kk", "nearest: resnet18.a1_in1k"),
        ("open_clip:RN50", "no prefix 'open_clip:'"),
    ],
)
def test_models_that_do_not_exist(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageEncoder(name)


def test_folders_that_hold_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="no timm model"):
        ImageEncoder(str(tmp_path))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ValueError, match="damaged"):
        ImageEncoder(str(tmp_path))


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (torch.zeros(3, 64, 64), ValueError),
        (torch.zeros(1, 1, 64, 64), ValueError),
        (torch.zeros(1, 3, 64, 64).int(), TypeError),
    ],
)
def test_wrong_inputs_are_named(images: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match="images must be"):
        ImageEncoder("test_resnet?size=64")(images)


def frozen_kinds(encoder: ImageEncoder) -> set[str]:
    return {name.split(".")[1] for name, parameter in encoder.named_parameters() if not parameter.requires_grad}


def test_partly_frozen() -> None:
    encoder = ImageEncoder("test_resnet?size=64", trainable="last:1").train()
    trained = {name.split(".")[1] for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {"layer4"}
    assert frozen_kinds(encoder) == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    statistics = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder(pictures()).sum().backward()
    changed = {
        name.split(".")[1] for name, value in encoder.named_buffers() if not torch.equal(value, statistics[name])
    }
    assert changed == {"layer4"}


@pytest.mark.parametrize(("trainable", "count"), [("none", 0), ("all", None)])
def test_wholly_frozen_or_not(trainable: Any, count: int | None) -> None:
    encoder = ImageEncoder("test_vit?size=64", trainable=trainable)
    trained = sum(parameter.requires_grad for parameter in encoder.parameters())
    assert trained == (len(list(encoder.parameters())) if count is None else count)


def test_a_frozen_encoder_still_gives_the_gradient_of_its_input() -> None:
    images = pictures(1).requires_grad_()
    ImageEncoder("test_resnet?size=64", trainable="none")(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
