"""Settings from plain values to constructor arguments and back."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from counterpoint.construction import as_plain, check_names, complete, construct, merged


@dataclass(frozen=True)
class Crops:
    sizes: tuple[int, ...] = (224, 96)
    scale: tuple[float, float] = (0.1, 1.0)
    mode: Literal["near", "cubic"] = "cubic"


@dataclass(frozen=True)
class Flip:
    chance: float = 0.5


class Model:
    def __init__(
        self,
        encoder: str,
        views: Crops | Flip | None = None,
        temperature: float = 0.1,
        layers: int | None = None,
        names: list[str] | None = None,
        frozen: bool = False,
    ) -> None:
        self.given = {"encoder": encoder, "views": views, "temperature": temperature}
        self.given |= {"layers": layers, "names": names, "frozen": frozen}


@pytest.mark.parametrize(
    ("arguments", "name", "wanted"),
    [
        ({"temperature": "1e-3"}, "temperature", 1e-3),  # YAML reads 1e-3 as text
        ({"temperature": 1}, "temperature", 1.0),
        ({"layers": "4"}, "layers", 4),
        ({"layers": 4.0}, "layers", 4),
        ({"layers": None}, "layers", None),
        ({"frozen": "true"}, "frozen", True),
        ({"views": {"sizes": [32, 16]}}, "views", Crops(sizes=(32, 16))),
        ({"views": {"scale": ["0.2", 1]}}, "views", Crops(scale=(0.2, 1.0))),
        ({"views": {"chance": 0.25}}, "views", Flip(0.25)),
        ({"views": Flip(0.1)}, "views", Flip(0.1)),
        ({"names": ("a", "b")}, "names", ["a", "b"]),
    ],
)
def test_values_get_the_type_of_the_hint(arguments: dict[str, Any], name: str, wanted: Any) -> None:
    built = construct(Model, {"encoder": "resnet18", **arguments})
    assert built.given[name] == wanted
    assert type(built.given[name]) is type(wanted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Model needs encoder"),
        ({"encoder": "a", "temprature": 1}, "Model has no 'temprature'; did you mean temperature"),
        ({"encoder": 3}, "Model.encoder must be text, got 3"),
        ({"encoder": "a", "temperature": "warm"}, "Model.temperature must be a number, got 'warm'"),
        ({"encoder": "a", "layers": 2.5}, "Model.layers must be a whole number, got 2.5"),
        ({"encoder": "a", "frozen": 1}, "Model.frozen must be true or false"),
        ({"encoder": "a", "views": {"chance": 0.5, "size": 3}}, "has no"),
        ({"encoder": "a", "views": {"mode": "linear"}}, "Crops.mode must be one of|has no 'mode'"),
        ({"encoder": "a", "views": {"scale": [1]}}, "Crops.scale must have 2 values|has no 'scale'"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        construct(Model, arguments)


def test_plain_values_describe_and_rebuild() -> None:
    arguments = {"encoder": "resnet18", "views": Crops(sizes=(8,)), "layers": 2}
    plain = complete(Model, arguments)
    assert plain == {
        "encoder": "resnet18",
        "views": {"sizes": [8], "scale": [0.1, 1.0], "mode": "cubic"},
        "temperature": 0.1,
        "layers": 2,
        "names": None,
        "frozen": False,
    }
    assert construct(Model, plain).given == construct(Model, arguments).given
    assert complete(Model, {**arguments, "views": {"sizes": [8]}}) == plain  # as a recipe writes it
    assert list(plain) == list(inspect.signature(Model).parameters)


def test_overrides_reach_into_groups() -> None:
    base = {"views": {"sizes": [224], "scale": [0.1, 1.0]}, "layers": 2}
    both = merged(base, {"views": {"sizes": [96]}, "encoder": "a"})
    assert both == {"views": {"sizes": [96], "scale": [0.1, 1.0]}, "layers": 2, "encoder": "a"}
    assert base == {"views": {"sizes": [224], "scale": [0.1, 1.0]}, "layers": 2}


def test_only_plain_values_are_kept() -> None:
    assert as_plain({"a": (1, Path("x")), "b": None}, "it") == {"a": [1, "x"], "b": None}
    with pytest.raises(TypeError, match="it.a is a set"):
        as_plain({"a": {1}}, "it")


def test_names_without_a_near_one_list_all() -> None:
    with pytest.raises(ValueError, match="stage has no 'zzz'; known are alpha, beta"):
        check_names({"zzz": 1}, ["alpha", "beta"], "stage")
