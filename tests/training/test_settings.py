"""Settings, schedules and recipes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from counterpoint.training import recipe as recipes
from counterpoint.training.recipe import choose_recipe, list_recipes, read_recipe
from counterpoint.training.schedules import learning_rate_factor
from counterpoint.training.settings import TrainingSettings, merge_settings


def test_plain_values_become_settings() -> None:
    settings = TrainingSettings.build({"learning_rate": "1e-3", "betas": [0.9, 0.95], "epochs": 3})
    assert settings.learning_rate == 1e-3 and settings.betas == (0.9, 0.95) and settings.epochs == 3.0


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({}, {"epochs": 10, "batch": 64}),
        ({"batch": 8}, {"epochs": 10, "batch": 8}),
        ({"steps": 5}, {"steps": 5, "batch": 64}),
        ({"seconds": 5.0, "steps": None}, {"seconds": 5.0, "batch": 64}),
    ],
)
def test_a_limit_of_the_user_replaces_those_of_the_recipe(overrides: Any, wanted: Any) -> None:
    assert merge_settings({"epochs": 10, "batch": 64}, overrides) == wanted


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"warmup": 3}, "no 'warmup'; did you mean warmup_steps"),
        ({"batch": 0}, "batch must be above 0"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\)"),
        ({"warmup_fraction": 1.0}, "warmup_fraction must be in"),
        ({"clip_gradient": 0}, "clip_gradient must be above 0"),
        ({"max_skip_rate": 2}, "max_skip_rate must be in"),
        ({"schedule": "cosin"}, "schedule must be one of cosine, linear, constant"),
        ({"learning_rate": math.nan}, "learning_rate must be at least 0"),
    ],
)
def test_settings_out_of_range_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingSettings.build(values)


def test_cosine_follows_its_formula() -> None:
    for step in range(100):
        wanted = 0.1 + 0.5 * 0.9 * (1 + math.cos(math.pi * step / 100))
        assert learning_rate_factor(step / 100, schedule="cosine", floor=0.1) == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_rise_then_fall(schedule: str) -> None:
    factors = [
        learning_rate_factor(step / 50, schedule=schedule, warmup=0.2, floor=0.05, stride=1 / 50) for step in range(51)
    ]
    assert factors[0] == pytest.approx(0.1)
    assert all(later >= earlier for earlier, later in zip(factors[:10], factors[1:11], strict=True))
    assert max(factors) == pytest.approx(1.0)
    assert all(later <= earlier + 1e-12 for earlier, later in zip(factors[10:], factors[11:], strict=False))
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else 0.05)


def test_progress_outside_the_run_is_its_end_or_start() -> None:
    assert learning_rate_factor(1.7, schedule="linear", floor=0.2) == pytest.approx(0.2)
    assert learning_rate_factor(-1.0, schedule="linear") == 1.0
    with pytest.raises(ValueError, match="cosine, linear or constant"):
        learning_rate_factor(0.5, schedule="step")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships recipes for one system."""
    folder = tmp_path / "recipes" / "toy"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text("data: emoji\nsystem: {encoder: resnet18}\ntraining: {learning_rate: 1e-3}\n")
    (folder / "paper.yaml").write_text("system: {encoder: resnet50}\n")
    (folder / "claim.yaml").write_text("claim: x\n")
    monkeypatch.setattr(recipes.resources, "files", lambda package: tmp_path)
    return folder


@pytest.mark.parametrize(("cuda", "name"), [(False, "small"), (True, "paper")])
def test_the_recipe_follows_the_device(shipped: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, name: str) -> None:
    monkeypatch.setattr(recipes.torch.cuda, "is_available", lambda: cuda)
    chosen, why = choose_recipe("toy")
    assert chosen.name == name and f"toy/{name}" in why and "GPU" in why
    assert choose_recipe("toy", "small")[0].name == "small"


def test_recipes_are_read(shipped: Path) -> None:
    assert list_recipes("toy") == ["paper", "small"]
    recipe = read_recipe("toy", "small")
    assert recipe.data == "emoji" and recipe.system == {"encoder": "resnet18"}
    assert TrainingSettings.build(recipe.training).learning_rate == 1e-3


def test_unknown_recipes_and_parts_are_named(shipped: Path) -> None:
    with pytest.raises(ValueError, match="toy has no recipe 'large'; there are paper, small"):
        read_recipe("toy", "large")
    (shipped / "bad.yaml").write_text("trainin: {batch: 3}\n")
    with pytest.raises(ValueError, match="bad.yaml has no 'trainin'; did you mean training"):
        read_recipe("toy", "bad")


def test_a_system_without_recipes_takes_the_defaults(shipped: Path) -> None:
    chosen, why = choose_recipe("other")
    assert chosen.name == "none" and "ships no recipe" in why
