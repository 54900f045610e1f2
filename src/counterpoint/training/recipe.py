"""Recipes: the published values of a system (paper), a version for two cores (small), and one for tests (tiny)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import torch
import yaml

from counterpoint.construction import check_names

__all__ = ["Recipe", "choose_recipe", "list_recipes", "read_recipe"]

_PARTS = ("data", "columns", "system", "training", "fitting")


@dataclass(frozen=True)
class Recipe:
    """Content of recipes/<system>/<name>.yaml.

    Attributes:
        name: "paper", "small", "tiny" or another file's name.
        data: default data source, or None.
        columns: renaming of its columns.
        system: constructor arguments.
        training: training settings.
        fitting: arguments of `fit` for a training-free estimator: model, shots, validation, augmentations ...
    """

    name: str
    data: Any = None
    columns: dict[str, str] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    fitting: dict[str, Any] = field(default_factory=dict)


def list_recipes(system: str) -> list[str]:
    """Names of the recipes that a system ships, claims aside."""
    folder = resources.files("counterpoint") / "recipes" / system
    if not folder.is_dir():
        return []
    names = [entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return sorted(name for name in names if name != "claim")


def read_recipe(system: str, name: str) -> Recipe:
    """A recipe of a system.

    Raises:
        ValueError: the system has no such recipe, or the file has an unknown part; names those there are.
    """
    known = list_recipes(system)
    if name not in known:
        raise ValueError(f"{system} has no recipe {name!r}; there are {', '.join(known) or 'none'}")
    path = resources.files("counterpoint") / "recipes" / system / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(content, Mapping):
        raise ValueError(f"recipe {system}/{name}.yaml must be a mapping with the parts {', '.join(_PARTS)}")
    check_names(content, _PARTS, f"recipe {system}/{name}.yaml")
    return Recipe(
        name=name,
        data=content.get("data"),
        columns=dict(content.get("columns") or {}),
        system=dict(content.get("system") or {}),
        training=dict(content.get("training") or {}),
        fitting=dict(content.get("fitting") or {}),
    )


def choose_recipe(system: str, name: str | None = None) -> tuple[Recipe, str]:
    """The recipe that is asked for; else `small` without a GPU and `paper` with one.

    Returns:
        The recipe (an empty one called "none" when the system ships none) and a line that says why.

    Raises:
        ValueError: see `read_recipe`.
    """
    if name is not None:
        return read_recipe(system, name), f"recipe {system}/{name}"
    known = list_recipes(system)
    cuda = torch.cuda.is_available()
    wanted = ("paper", "small") if cuda else ("small", "paper")
    chosen = next((candidate for candidate in wanted if candidate in known), None)
    if chosen is None:
        return Recipe("none"), f"{system} ships no recipe: the defaults of the system and of training"
    reason = "a GPU is present" if cuda else "no GPU is present"
    return read_recipe(system, chosen), f"recipe {system}/{chosen} ({reason}; choose another with --recipe)"
