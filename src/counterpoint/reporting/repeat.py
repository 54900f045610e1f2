"""The command that repeats a run, from what its config.yaml holds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from counterpoint.construction import complete
from counterpoint.run import Run
from counterpoint.system import find_system
from counterpoint.training.recipe import Recipe, list_recipes, read_recipe
from counterpoint.training.settings import TrainingSettings, merge_settings

__all__ = ["repeat_command"]


def repeat_command(run: Run, out: str = "runs/again") -> str | None:
    """A command line that trains the same system on the same data with the same settings.

    What the recipe says already is left out; what the run said otherwise stands there as flags.

    Args:
        run: a run of `train`.
        out: where the repetition goes.

    Returns:
        The command, or None when there is none: fitted, or trained from an instance built in Python.
    """
    config = run.config
    if run.fitted or config["system"].get("arguments") is None:
        return None
    name = run.system_name
    recipe = _recipe(name, config.get("recipe"))
    words = ["counterpoint", "train", name, *map(str, config["data"]), "--out", out]
    if recipe.name != "none":
        words += ["--recipe", recipe.name]
    if config.get("columns"):
        words += ["--columns", ",".join(f"{new}={old}" for new, old in config["columns"].items())]
    arguments = config["system"]["arguments"]
    usual = complete(find_system(name).cls, recipe.system)
    words += [word for pair in _differences(arguments, usual, "") for word in pair]
    settings = TrainingSettings.build(merge_settings(recipe.training, {}))
    taken = set(arguments)
    words += [
        word
        for flag, value in _differences(config["training"], complete(TrainingSettings, vars(settings)), "")
        for word in ((f"--training.{flag[2:]}" if flag[2:].replace("-", "_") in taken else flag), value)
    ]
    return " ".join(shlex.quote(word) for word in words if word)


def _recipe(system: str, name: str | None) -> Recipe:
    return read_recipe(system, name) if name in list_recipes(system) and name is not None else Recipe("none")


def _differences(values: Mapping[str, Any], usual: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """(flag, text) of every value that is not the usual one; groups are entered."""
    for name, value in values.items():
        other = usual.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differences(value, other, f"{prefix}{name}.")
        elif value != other:
            flag = f"{prefix}{name}".replace("_", "-")
            if isinstance(value, bool):
                yield f"--{flag}" if value else f"--no-{flag}", ""
            else:
                yield f"--{flag}", _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        nested = any(isinstance(item, list | tuple | dict) for item in value) or not value
        return json.dumps(value) if nested else ",".join(_text(item) for item in value)
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
