"""Encoders come back from what a run stores, without a network or packages, and with their trained weights."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from counterpoint.encoders import assets, text
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.text import TextEncoder

PAIR = "dual:test_resnet+bert:1x16x2?dim=8&size=64"


class Both(nn.Module):
    """What a system looks like to `assets`: encoders somewhere inside."""

    def __init__(self, clip: str = PAIR) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {"image": ImageEncoder("test_vit?size=64"), "text": TextEncoder("bert:2x16x2", layers=1)}
        )
        self.clip = ClipEncoder(clip)
        self.again = ImageEncoder("test_vit?size=64")


def no_network(*_: Any, **__: Any) -> None:
    raise AssertionError("the network was asked")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The part of a run directory that encoders read."""
    torch.manual_seed(5)
    system = Both()
    assets.save(system, tmp_path / "assets")
    save_file({name: value.contiguous() for name, value in system.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.yaml").write_text("format: 1\n")
    return tmp_path


def test_what_is_stored(run: Path) -> None:
    configs = [asset.config for asset in assets.read(run / "assets")]
    stored = [(config["kind"], config["name"], config["prefix"]) for config in configs]
    assert stored == [
        ("image", "test_vit?size=64", "body.image"),
        ("text", "bert:2x16x2", "body.text"),
        ("clip", PAIR, "clip"),
        ("image", "test_resnet?size=64", "clip.towers.image"),
        ("text", "bert:1x16x2", "clip.towers.text"),
    ]
    assert not list(run.glob("assets/**/*.safetensors"))


def test_a_system_comes_back_without_network_or_packages(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(text, "MINILM", "a_package_that_is_not_there")
    with pytest.raises(ValueError, match="pip"):
        Both()
    with assets.loading(run / "assets"):
        system = Both()
    tensors = assets.read_safetensors(run / "model.safetensors")
    system.load_state_dict(tensors)
    tokens = system.clip.tokenize(["a cat"])
    assert system.clip.encode_text(tokens).shape == (1, 8)


def test_the_context_ends(run: Path) -> None:
    with pytest.raises(RuntimeError), assets.loading(run / "assets"):
        raise RuntimeError
    assert assets.find("image", "test_vit") is None


def test_what_is_not_stored_is_named(run: Path) -> None:
    with (
        assets.loading(run / "assets"),
        pytest.raises(ValueError, match="stores no image encoder 'resnet18'; it has: image"),
    ):
        ImageEncoder("resnet18")


@pytest.mark.parametrize("kind", ["image", "text", "clip"])
def test_an_encoder_is_taken_out_of_a_run(run: Path, kind: str) -> None:
    build: Any = {"image": ImageEncoder, "text": TextEncoder, "clip": ClipEncoder}[kind]
    encoder = build(f"run:{run}").eval()
    prefix = {"image": "body.image.", "text": "body.text.", "clip": "clip."}[kind]
    weights = assets.read_safetensors(run / "model.safetensors", prefix=prefix)
    assert set(weights) == set(encoder.state_dict())
    assert all(torch.equal(weights[name], value) for name, value in encoder.state_dict().items())


def test_an_encoder_of_a_run_can_be_stored_again(run: Path, tmp_path: Path) -> None:
    system = nn.ModuleList([ClipEncoder(f"run:{run}"), ImageEncoder(f"run:{run}")])
    assets.save(system, tmp_path / "second")
    with assets.loading(tmp_path / "second"):
        again = nn.ModuleList([ClipEncoder(f"run:{run}"), ImageEncoder(f"run:{run}")])
    again.load_state_dict(system.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again[0].eval().encode_image(images), system[0].eval().encode_image(images))


def test_folders_that_are_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run directory"):
        ImageEncoder(f"run:{tmp_path / 'nowhere'}")
    for config in run.glob("assets/*/config.json"):
        content = json.loads(config.read_text())
        config.write_text(json.dumps(content | {"kind": "speech"}))
    with pytest.raises(ValueError, match="has no text encoder; it has: speech"):
        TextEncoder(f"run:{run}")
    next(run.glob("assets/*/config.json")).write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        TextEncoder(f"run:{run}")


def test_weights_of_another_network_are_refused(run: Path) -> None:
    path = next(path for path in run.glob("assets/*/config.json") if '"body.image"' in path.read_text())
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"architecture": "test_vit2"}))
    with pytest.raises(ValueError, match="do not fit this architecture"):
        ImageEncoder(f"run:{run}")
