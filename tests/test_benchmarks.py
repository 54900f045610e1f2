"""The benchmark suite: its arithmetic, its comparisons, its page, and one work at a tiny size. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is no part of the package

from benchmarks import compare, figures, measures, page, quality_page, work  # noqa: E402
from benchmarks.work import Bar, Case, Disagreement, Job, Options  # noqa: E402


def _case(ours: list[float], theirs: list[float], **more: Any) -> dict[str, Any]:
    sides = {
        "counterpoint": {"seconds": ours, "megabytes": [1.0] * len(ours), **more},
        "peer": {"seconds": theirs, "megabytes": [4.0] * len(theirs)},
    }
    return {"sides": sides, "agreement": {}}


def test_a_ratio_is_that_of_the_medians_and_lies_in_its_interval() -> None:
    found = measures.ratio_of_medians([1.0, 3.0, 2.0], [4.0, 8.0, 40.0])
    assert found["ratio"] == 2.0 / 8.0
    assert found["low"] <= found["ratio"] <= found["high"]
    assert measures.ratio_of_medians([1.0, 2.0], [1.0, 2.0]) == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert measures.inverse({"ratio": 0.5, "low": 0.25, "high": 1.0}) == {"ratio": 2.0, "low": 1.0, "high": 4.0}


def test_an_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        found = measures.ratio_of_medians(rng.lognormal(0.0, 0.1, 15), rng.lognormal(np.log(2), 0.1, 15))
        covered += found["low"] <= 0.5 <= found["high"]
    assert covered >= 34


def test_a_share_of_the_limit_counts_the_products_alone() -> None:
    assert measures.share_of_limit(2e9, 0.04, gigaflops=100.0) == pytest.approx(0.5)
    assert measures.share_of_limit(None, 0.04, gigaflops=100.0) is None


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        (Bar("time", 0.6), "met"),
        (Bar("time", 0.4), "missed"),
        (Bar("speed", at_least=1.9), "met"),
        (Bar("speed", at_least=2.1), "missed"),
        (Bar("memory", 0.25), "met"),
        (Bar("seconds", 0.9), "missed"),
        (Bar("megabytes", 1.0), "met"),
        (Bar("limit", at_least=0.9), "met"),
        (Bar("recall", at_least=0.9), "missed"),
        (Bar("something else", at_least=0.9), "not measured"),
        (Bar("time", 0.5, peer="another"), "not measured"),
        (Bar("time", 0.5, side="counterpoint, fast"), "not measured"),
    ],
)
def test_verdicts(bar: Bar, expected: str) -> None:
    case = _case([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], share=0.95, facts={"recall": 0.8})
    assert measures.verdict(case, bar) == expected


def test_a_verdict_that_the_interval_leaves_open_is_marked() -> None:
    case = _case([1.0, 1.0, 1.9, 1.0, 1.8], [2.0, 2.0, 2.0, 2.0, 2.0])
    assert measures.verdict(case, Bar("time", 0.6)) == "met?"


def test_a_side_that_crashed_gives_no_figure() -> None:
    case = _case([1.0], [])
    case["sides"]["peer"]["error"] = "exit 1: RuntimeError"
    assert measures.verdict(case, Bar("time", 0.6)) == "not measured"
    assert measures.compared(case, "counterpoint", "peer", "seconds") is None


def test_equal_outputs_are_told_from_different_ones() -> None:
    check = compare.same(1e-3)
    assert check({"loss": 1.0}, {"loss": 1.0001})["largest difference, relative"] == pytest.approx(1e-4, rel=1e-3)
    with pytest.raises(Disagreement, match="loss differs"):
        check({"loss": 1.0}, {"loss": 1.01})
    with pytest.raises(Disagreement, match="not finite"):
        check({"loss": float("nan")}, {"loss": 1.0})
    with pytest.raises(Disagreement, match="one side gives"):
        check({"loss": 1.0}, {"value": 1.0})


def test_directions_are_compared_without_lengths() -> None:
    rows = np.eye(3)
    assert compare.same_directions(0.999)({"rows": rows}, {"rows": 5 * rows}) == {"least cosine": 1.0}
    with pytest.raises(Disagreement, match="least cosine"):
        compare.same_directions(0.999)({"rows": rows}, {"rows": rows + 0.2})


def test_distributions_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    first, second, other = rng.normal(size=400), rng.normal(size=400), rng.normal(0.5, size=400)
    assert compare.same_distribution()({"red": first}, {"red": second})["least p"] > 1e-3
    with pytest.raises(Disagreement, match="red: distributions differ"):
        compare.same_distribution()({"red": first}, {"red": other})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_work_says_what_it_does_without_running(device: str) -> None:
    """Works are listed on machines without peers and without a GPU."""
    for name in work.work_names():
        module = work.find_work(name)
        assert module.TITLE
        assert module.UNIT
        for case in work.cases_of(name, Options(device=device)):
            assert next(iter(case.sides)) == work.OURS
            for bar in case.bars:
                assert (bar.at_most is None) != (bar.at_least is None)
                assert bar.side in case.sides
                assert bar.peer is None or bar.peer in case.sides


def test_an_unknown_work_is_named() -> None:
    with pytest.raises(ValueError, match="no work is called 'clip'; there are: .*clip_loss"):
        work.find_work("clip")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_work_runs_and_its_page_is_written(tmp_path: Path) -> None:
    """Late interaction needs no peer from elsewhere; its sizes are tiny, its outputs are compared all the same."""
    done = _run("late_interaction", "--size", "tiny", "--rounds", "1", "--threads", "1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "late_interaction.json").read_text())
    (case,) = result["cases"]
    assert case["agreement"]["dense einsum"]["largest difference, relative"] < 1e-3
    assert case["sides"]["counterpoint"]["seconds"][0] > 0
    assert case["limits"]["float32"] > 0
    docs = _docs(tmp_path)
    text = page.write_page(tmp_path, docs).read_text()
    assert "| dense einsum |" in text
    assert (
        "CLIP loss, forward and backward: N = 16,384, d = 512, float32 | time at most 0.55 of open_clip | not meas"
        in text
    )
    assert (docs / "figures" / "benchmark_time.png").exists()


def test_a_peer_that_crashes_is_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import rounds

    answers: dict[str, Callable[[], dict[str, Any]]] = {
        "limits": lambda: {"float32": 1.0, "bfloat16": 1.0, "copy": 1.0},
        "counterpoint": lambda: {"seconds": [3.0, 1.0, 2.0], "megabytes": 1.0, "held": 0.0, "flops": 1e9},
    }

    def answer(what: str, options: Options, timeout: float, **arguments: Any) -> dict[str, Any]:
        key = arguments.get("side", what)
        if key not in answers:
            raise rounds.Failure("exit 1: RuntimeError: not enough memory")
        return answers[key]()

    def never() -> Job:
        raise AssertionError("a side is made in a process of its own")

    monkeypatch.setattr(rounds, "in_fresh_process", answer)
    case = Case("any", {"counterpoint": never, "peer": never}, bars=[Bar("time", 0.5)])
    found = rounds._run_case("any", 0, case, Options(), 2, print)
    assert found["sides"]["counterpoint"]["seconds"] == [2.0, 2.0]
    assert found["sides"]["counterpoint"]["share"] == pytest.approx(0.5)
    assert found["sides"]["peer"]["error"] == "exit 1: RuntimeError: not enough memory"
    assert measures.verdict(found, case.bars[0]) == "not measured"


def test_a_process_that_fails_tells_why() -> None:
    from benchmarks import rounds

    with pytest.raises(rounds.Failure, match="exit 1: ValueError: no work is called 'none'"):
        rounds.in_fresh_process("side", Options(), 120, work="none", number=0, side="counterpoint")


def test_figures_of_results_that_are_gone_are_removed(tmp_path: Path) -> None:
    (tmp_path / "benchmark_time.png").write_bytes(b"old")
    assert figures.draw({}, tmp_path) == []
    assert not (tmp_path / "benchmark_time.png").exists()


def test_a_paired_difference_is_students_interval() -> None:
    """By hand: differences 1, 2, 3 have mean 2, deviation 1, and 4.303 / sqrt(3) on either side."""
    found = quality_page.paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found["mean"] == pytest.approx(2.0)
    assert found["low"] == pytest.approx(2.0 - 4.302653 / 3**0.5, abs=1e-5)
    assert found["high"] == pytest.approx(2.0 + 4.302653 / 3**0.5, abs=1e-5)
    assert quality_page.paired_difference([0.5], [0.25]) == {"mean": 0.25, "low": None, "high": None}
    with pytest.raises(ValueError, match="same seeds, at least one; got 2 and 1"):
        quality_page.paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([0.5, 0.6, 0.7], [0.1, 0.2, 0.31], "met"),
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], "met"),
        ([0.1, 0.2, 0.31], [0.5, 0.6, 0.7], "missed"),
        ([0.5, 0.9, 0.5], [0.5, 0.5, 0.6], "met?"),
        ([0.5, 0.5, 0.6], [0.5, 0.9, 0.5], "missed?"),
        ([0.9], [0.1], "met?"),
    ],
)
def test_scores_are_judged_by_their_interval(ours: list[float], theirs: list[float], expected: str) -> None:
    assert quality_page.verdict(quality_page.paired_difference(ours, theirs)) == expected


def test_scores_that_nobody_measured_are_said_to_be_missing(tmp_path: Path) -> None:
    text = "\n".join(quality_page.section(tmp_path))
    for title in quality_page.TITLES.values():
        assert f"| {title} | | | not measured | not measured |" in text


@pytest.mark.slow
def test_two_sides_are_trained_and_scored(tmp_path: Path) -> None:
    """CLIP's peer needs no package that the project does not need itself; a tiny budget, no score is judged."""
    command = [sys.executable, "-m", "benchmarks.quality", "clip", "--size", "tiny", "--seeds", "1", "--seconds", "0.2"]
    done = subprocess.run([*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / quality_page.FILE).read_text())["clip"]
    for name, side in found["sides"].items():
        trained = name != "untrained"
        assert all((steps > 0) == trained for steps in side["steps"])
        assert all((spent >= found["budget"]) == trained for spent in side["seconds"])
        assert all(0 <= value <= 1 for values in side["scores"].values() for value in values)
    assert set(found["differences"]) == {"open_clip", "open_clip, our settings"}
    text = page.write_page(tmp_path, _docs(tmp_path)).read_text()
    assert "### CLIP on emoji, against open_clip" in text
    assert "| SwAV on mnist5k, against lightly | | | not measured | not measured |" in text


def _docs(folder: Path) -> Path:
    """A folder for a page and its figures."""
    docs = folder / "docs"
    (docs / "figures").mkdir(parents=True)
    return docs


def test_the_clock_of_our_side_counts_the_processor_and_is_given_back() -> None:
    import time

    from benchmarks import quality, quality_works

    from counterpoint.data import open_rows
    from counterpoint.training import loop

    assert set(quality_works.WORKS) == set(quality_page.TITLES)
    work = quality_works.WORKS["clip"](True)
    rows, system = open_rows(work.data), work.build()
    began = time.process_time()
    steps, spent = quality.train_ours(system, rows, work, 0.5, 0)
    assert loop.time is time
    assert steps > 0
    assert 0.5 <= spent <= time.process_time() - began


def test_a_budget_ends_with_the_step_that_passes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import quality_peers

    now = iter([1.0, 1.0, 2.5, 2.5])
    monkeypatch.setattr(quality_peers.time, "process_time", lambda: next(now))
    budget = quality_peers.Budget(2.0, began=0.0)
    assert not budget.over
    assert budget.progress == 0.5
    assert budget.over
    assert budget.ended == 2.5
    assert budget.progress == 1.0
