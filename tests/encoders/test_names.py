"""Model names and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from counterpoint.encoders.names import parse_name, unknown_model


def test_parts_of_a_name(tmp_path: Path) -> None:
    name = parse_name("dual:resnet18+minilm?dim=64&cache=no", ["dual"], ["dim", "cache"])
    assert (name.scheme, name.rest, name.whole("dim", 256)) == ("dual", "resnet18+minilm", 64)
    assert name.flag("cache", default=True) is False
    assert parse_name("resnet18", ["timm"]).scheme == ""
    assert parse_name(str(tmp_path), ["timm"]).scheme == "path"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "empty model name"),
        ("tim:resnet18", "did you mean timm"),
        ("timm:", "nothing after"),
        ("org/name", "write 'hf:org/name'"),
        ("./nowhere", "no such folder"),
        ("resnet18?sise=64", "unknown option 'sise=64'"),
        ("resnet18?size=big", "positive whole number"),
        ("resnet18?size=0", "positive whole number"),
    ],
)
def test_wrong_names_say_what_is_wrong(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_name(name, ["timm", "hf"], ["size"]).whole("size", 1)


def test_a_name_must_be_a_string() -> None:
    with pytest.raises(TypeError, match="string"):
        parse_name(7, ["timm"])  # type: ignore[arg-type]


def test_the_nearest_names_are_given() -> None:
    assert "nearest: resnet18" in str(unknown_model("timm architecture", "resnet81", ["resnet18", "vit_tiny"]))
    assert "known: a, b" in str(unknown_model("fixture", "zzzzzzz", ["b", "a"]))
