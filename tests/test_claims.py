"""Claims: the verdict, the claim files, and a run from the file to the figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from counterpoint import claims
from counterpoint.run import load
from counterpoint.system import find_system, list_systems
from counterpoint.training.recipe import read_recipe

PAPERS = [info.name for info in list_systems() if info.cls.__module__.startswith("counterpoint.systems.")]


@pytest.mark.parametrize(
    ("differences", "margin", "verdict"),
    [
        ([0.30, 0.31, 0.29], 0.0, "holds"),
        ([0.30, 0.31, 0.29], 0.5, "does not hold"),
        ([0.30, -0.31, 0.1], 0.0, "inconclusive"),
        ([-0.30, -0.31, -0.29], 0.0, "does not hold"),
        ([0.9], 0.0, "inconclusive"),
        ([0.1, 0.1, 0.1], 0.2, "does not hold"),
    ],
)
def test_verdicts(differences: list[float], margin: float, verdict: str) -> None:
    assert claims.judge(differences, margin)[2] == verdict


def test_interval_is_students_t() -> None:
    mean, (low, high), _ = claims.judge([1.0, 2.0, 3.0], 0.0)
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302652729911275 * 1.0 / 3**0.5)  # t of 2 degrees of freedom, 97.5 %
    assert mean - low == pytest.approx(high - mean)


def test_lower_is_better_turns_the_sign() -> None:
    comparison = {"name": "x", "treatment": "a", "baseline": "b", "metric": "m", "direction": "lower", "margin": 0.0}
    scores = {"a": {"m": [1.0, 1.1]}, "b": {"m": [2.0, 2.1]}}
    assert claims._compare(comparison, scores).difference == pytest.approx(1.0)
    assert claims._compare({**comparison, "baseline": 0.5}, scores).difference == pytest.approx(-0.55)


@pytest.mark.parametrize("name", PAPERS)
def test_claim_file_names_arms_that_exist(name: str) -> None:
    claim = claims.read_claim(name)
    for arm in claim["arms"].values():
        builds = claims.EARLIER in arm.get("arguments", {}).values()
        assert builds == ("before" in arm), "an arm that states what it builds on uses it, and the other way round"
        if builds:
            read_recipe(find_system(arm["before"]["system"]).name, arm["before"].get("recipe", "small"))
    for comparison in claim["comparisons"]:
        assert comparison["treatment"] in claim["arms"]
        assert isinstance(comparison["baseline"], int | float) or comparison["baseline"] in claim["arms"]
    assert len(claim["seeds"]) >= 3


def _tiny_claim(_: str) -> dict[str, Any]:
    arm = {"system": "swav", "recipe": "tiny"}
    comparison = {"name": "more steps", "treatment": "two", "baseline": "one", "metric": "geometry/effective_rank"}
    return {
        "claim": "Two steps change the geometry",
        "data": "digits",
        "seeds": [0, 1],
        "arms": {"one": {**arm, "training": {"steps": 1}}, "two": {**arm, "training": {"steps": 2}}},
        "comparisons": [{**comparison, "direction": "higher", "margin": 0.0}],
        "evaluation": {"data": "digits:test", "protocols": ["geometry"]},
    }


def test_reproduce_runs_every_arm_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(claims, "read_claim", _tiny_claim)
    result = claims.reproduce("swav", out=tmp_path)
    assert {len(values) for arm in result.scores.values() for values in arm.values()} == {2}
    assert result.scores["one"]["geometry/effective_rank"] != result.scores["two"]["geometry/effective_rank"]
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["verdict"] == result.verdict
    assert stored["scores"] == result.scores
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def _two_step_claim(_: str) -> dict[str, Any]:
    first = {"system": "swav", "recipe": "tiny", "data": "digits", "training": {"steps": 1}}
    second = {"system": "pixpro", "recipe": "tiny", "training": {"steps": 1, "learning_rate": 0.0}}
    built = {**second, "arguments": {"encoder": "run:before"}}
    return {
        **_tiny_claim(""),
        "arms": {
            "alone": second,
            "built": {**built, "before": {**first, "evaluation": {"protocols": ["geometry"]}}},
            "also built": {**built, "before": first, "training": {"steps": 2}},
            "built again": {**built, "before": first},
        },
        "comparisons": [
            {**_tiny_claim("")["comparisons"][0], "treatment": "built", "baseline": "alone", "name": "built"},
        ],
    }


def test_an_arm_may_build_on_another_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(claims, "read_claim", _two_step_claim)
    trained: list[tuple[str, str]] = []
    weights = {}

    def remembering(name: str, data: Any, *, out: Path, **options: Any) -> Any:
        run = train(name, data, out=out, **options)
        trained.append((name, str(options["arguments"].get("encoder", "")).removeprefix("run:")))
        weights[str(out)] = load(out).encoder.state_dict()
        return run

    train = claims.train
    monkeypatch.setattr(claims, "train", remembering)
    result = claims.reproduce("swav", out=tmp_path, seeds=(4,))
    assert [name for name, _ in trained] == ["pixpro", "swav", "pixpro", "swav", "pixpro", "pixpro"], "equal ones once"
    earlier = [encoder for name, encoder in trained if name == "pixpro"]
    assert earlier[0] == "" and earlier[1] != earlier[2] == earlier[3]
    built = next(state for path, state in weights.items() if Path(path).name == "built-4")
    convolutions = [name for name, value in built.items() if value.dim() == 4]
    assert convolutions and all(built[name].equal(weights[earlier[1]][name]) for name in convolutions)
    assert "before/geometry/effective_rank" in result.scores["built"]
    assert "before/geometry/effective_rank" not in result.scores["also built"]


def test_a_sweep_takes_the_arms_that_set_its_argument_alone() -> None:
    arms = {"a": {"arguments": {"t": 0.1}}, "b": {"arguments": {"t": 1}}, "c": {"arguments": {"t": 1, "hard": True}}}
    found = claims._sweep({"arms": arms, "sweep": {"over": "t", "metrics": ["m"]}})
    assert found is not None and (found.argument, found.values) == ("t", {"a": 0.1, "b": 1.0})
    assert claims._sweep({"arms": arms}) is None


def test_a_system_without_a_claim_says_so() -> None:
    with pytest.raises(ValueError, match="no system is called 'swaf'; nearest: swav"):
        claims.read_claim("swaf")
