"""Runs `claim.yaml`: arms, seeds, intervals, and a verdict that was fixed before the run.

A claim file states the data, the arms (a system with overrides each), the comparisons, the direction and the seeds.
Every arm is trained and evaluated once a seed; a comparison looks at the paired differences over the seeds.

An arm may build on another run: `before` states that one like an arm, and "run:before" among the arm's own arguments
stands for it. Equal ones are trained once a seed. Where `before` has an `evaluation`, its scores are the arm's too,
under names that begin with `before/`. `full` may hold `before`, training settings of the longer runs that are built on.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

from counterpoint.construction import merged
from counterpoint.data import open_rows
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.reporting.claim import Sweep, claim_figure
from counterpoint.run import load
from counterpoint.storage import write_json
from counterpoint.system import find_system
from counterpoint.training.fit import fit
from counterpoint.training.train import train

__all__ = ["ClaimResult", "Comparison", "judge", "read_claim", "reproduce"]

CONFIDENCE = 0.95
EARLIER = "run:before"
_COMPARISON_KEYS = ("treatment", "baseline", "metric", "direction", "margin")


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim and what came out.

    Attributes:
        name: what is compared, in words.
        treatment, baseline: names of arms; the baseline may be a number (chance).
        metric: key of the scores.
        direction: "higher" or "lower": what counts as better.
        margin: smallest difference that counts.
        difference: mean over the seeds of treatment minus baseline, signed so that positive is better.
        interval: 95 % confidence interval of that mean (Student's t over the paired seeds).
        verdict: "holds", "does not hold" or "inconclusive".
        baseline_metric: key of the baseline's scores, where it is not `metric`.
    """

    name: str
    treatment: str
    baseline: str | float
    metric: str
    direction: str
    margin: float
    difference: float
    interval: tuple[float, float]
    verdict: str
    baseline_metric: str | None = None


@dataclass(frozen=True)
class ClaimResult:
    """Everything `reproduce` found: scores per arm and seed, comparisons, seconds, and where the figure lies."""

    system: str
    claim: str
    seeds: list[int]
    scores: dict[str, dict[str, list[float]]]
    comparisons: list[Comparison]
    seconds: float
    figure: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """That of the weakest comparison."""
        found = {comparison.verdict for comparison in self.comparisons}
        for verdict in ("does not hold", "inconclusive"):
            if verdict in found:
                return verdict
        return "holds"


def read_claim(system: str) -> dict[str, Any]:
    """The claim file of a system, checked.

    Raises:
        ValueError: the system ships no claim, or the file lacks a part.
    """
    name = find_system(system).name
    path = resources.files("counterpoint") / "recipes" / name / "claim.yaml"
    if not path.is_file():
        raise ValueError(f"{name} ships no claim.yaml: nothing to reproduce")
    claim = yaml.safe_load(path.read_text())
    missing = [key for key in ("claim", "seeds", "arms") if key not in claim]
    if missing:
        raise ValueError(f"the claim of {name} lacks {', '.join(missing)}")
    if "comparisons" not in claim:
        claim["comparisons"] = [{key: claim[key] for key in _COMPARISON_KEYS if key in claim}]
    for comparison in claim["comparisons"]:
        comparison.setdefault("margin", 0.0)
        comparison.setdefault("name", f"{comparison['treatment']} against {comparison['baseline']}")
        if comparison.get("direction") not in ("higher", "lower"):
            raise ValueError(f"direction must be 'higher' or 'lower', got {comparison.get('direction')!r}")
    return claim


def judge(differences: list[float], margin: float) -> tuple[float, tuple[float, float], str]:
    """Mean, confidence interval and verdict of paired differences, positive = the treatment is better.

    "holds" when the whole interval lies above `margin`, "does not hold" when it lies at or below, else
    "inconclusive". One seed alone is never more than inconclusive.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, (float("-inf"), float("inf")), "inconclusive"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1)) * error
    low, high = mean - reach, mean + reach
    verdict = "holds" if low > margin else "does not hold" if high <= margin else "inconclusive"
    return mean, (low, high), verdict


class _Runs:
    """The runs of one seed below a folder: an arm, and what it builds on."""

    def __init__(self, claim: Mapping[str, Any], seed: int, folder: Path, full: bool) -> None:
        self._claim, self._seed, self._folder = claim, seed, folder
        self._extra = claim.get("full", {}) if full else {}
        self._earlier: dict[str, tuple[Path, dict[str, float]]] = {}

    def scores(self, name: str) -> dict[str, float]:
        """Train (or fit) an arm and score it; what it builds on is scored as `before/...` where it asks for that."""
        arm = self._claim["arms"][name]
        folder = self._folder / f"{name}-{self._seed}"
        arguments = merged(arm.get("arguments", {}), self._extra.get("arguments", {}))
        scores: dict[str, float] = {}
        if "before" in arm:
            earlier, found = self._built(arm["before"])
            scores |= {f"before/{metric}": value for metric, value in found.items()}
            arguments = {key: f"run:{earlier}" if value == EARLIER else value for key, value in arguments.items()}
        _run(self._claim, {**arm, "arguments": arguments}, self._seed, folder, self._extra.get("training", {}))
        return scores | _scores(self._claim, arm, folder, self._seed)

    def _built(self, arm: Mapping[str, Any]) -> tuple[Path, dict[str, float]]:
        """Folder and scores of a run that arms build on; equal ones run once."""
        key = json.dumps(arm, sort_keys=True)
        if key not in self._earlier:
            folder = self._folder / f"before-{len(self._earlier)}-{self._seed}"
            _run(self._claim, arm, self._seed, folder, self._extra.get("before", {}))
            found = _scores(self._claim, arm, folder, self._seed) if "evaluation" in arm else {}
            self._earlier[key] = folder, found
        return self._earlier[key]


def _run(
    claim: Mapping[str, Any], arm: Mapping[str, Any], seed: int, folder: Path, training: Mapping[str, Any]
) -> None:
    """Train or fit one arm with one seed."""
    info = find_system(arm["system"])
    data, arguments = arm.get("data", claim.get("data")), arm.get("arguments", {})
    if info.trains:
        settings = {**arm.get("training", {}), **training, "seed": seed}
        train(info.name, data, out=folder, recipe=arm.get("recipe"), arguments=arguments, overrides=settings)
    else:
        options = {key: arm[key] for key in ("model", "shots", "validation", "augmentations") if key in arm}
        fit(info.name, data, out=folder, arguments=arguments, seed=seed, **options)


def _scores(claim: Mapping[str, Any], arm: Mapping[str, Any], folder: Path, seed: int) -> dict[str, float]:
    settings = merged(claim.get("evaluation", {}), arm.get("evaluation", {}))
    measures = settings.pop("measures", [])
    scores: dict[str, float] = {}
    data = settings.pop("data", claim.get("data"))
    if settings.get("protocols") != []:
        result = evaluate(folder, data, seed=seed, **settings)
        scores |= {name: float(value) for name, value in result["scores"].items()}
    if measures:
        model, rows = load(folder), open_rows(data)
        for name in measures:
            scores[name] = float(getattr(model, f"measure_{name}")(rows, seed=seed))
    return scores


def _compare(comparison: Mapping[str, Any], scores: Mapping[str, Mapping[str, list[float]]]) -> Comparison:
    metric, baseline = comparison["metric"], comparison["baseline"]
    treated = scores[comparison["treatment"]][metric]
    if isinstance(baseline, int | float):
        reference = [float(baseline)] * len(treated)
    else:
        reference = scores[baseline][comparison.get("baseline_metric", metric)]
    sign = 1.0 if comparison["direction"] == "higher" else -1.0
    differences = [sign * (a - b) for a, b in zip(treated, reference, strict=True)]
    mean, interval, verdict = judge(differences, float(comparison["margin"]))
    return Comparison(
        name=comparison["name"],
        treatment=comparison["treatment"],
        baseline=baseline,
        metric=metric,
        direction=comparison["direction"],
        margin=float(comparison["margin"]),
        difference=mean,
        interval=interval,
        verdict=verdict,
        baseline_metric=comparison.get("baseline_metric"),
    )


def _sweep(claim: Mapping[str, Any]) -> Sweep | None:
    """The curves that a claim asks for: over the arms that set the argument `sweep.over` and nothing else."""
    if "sweep" not in claim:
        return None
    name = claim["sweep"]["over"]
    chosen = {arm: found["arguments"] for arm, found in claim["arms"].items() if list(found["arguments"]) == [name]}
    return Sweep(name, {arm: float(arguments[name]) for arm, arguments in chosen.items()}, claim["sweep"]["metrics"])


def reproduce(
    system: str, *, full: bool = False, seeds: tuple[int, ...] = (), out: str | Path | None = None
) -> ClaimResult:
    """Run a paper's claim: every arm with every seed, then the comparisons its claim.yaml fixed beforehand.

    Args:
        system: name of the system whose claim is run.
        full: the longer arms (`full:` in the claim file) instead of those that end within ten minutes.
        seeds: other seeds than those of the claim file.
        out: folder for result.json and figure.png; `runs/claims/<system>` by default.

    Returns:
        Scores of both arms, differences with 95 % intervals, and the verdict.
    """
    claim = read_claim(system)
    name = find_system(system).name
    target = Path(out) if out is not None else Path("runs") / "claims" / name
    wanted = list(seeds) or list(claim["seeds"])
    began = time.monotonic()
    scores: dict[str, dict[str, list[float]]] = {arm: {} for arm in claim["arms"]}
    with tempfile.TemporaryDirectory(prefix="counterpoint-claim-") as scratch:
        for seed in wanted:
            runs = _Runs(claim, seed, Path(scratch), full)
            for arm_name in claim["arms"]:
                print(f"{name}: arm {arm_name}, seed {seed}", flush=True)
                for metric, value in runs.scores(arm_name).items():
                    scores[arm_name].setdefault(metric, []).append(value)
    comparisons = [_compare(comparison, scores) for comparison in claim["comparisons"]]
    target.mkdir(parents=True, exist_ok=True)
    figure = target / "figure.png"
    claim_figure(scores, comparisons, title=claim["claim"], sweep=_sweep(claim), path=figure)
    result = ClaimResult(
        system=name,
        claim=claim["claim"],
        seeds=wanted,
        scores=scores,
        comparisons=comparisons,
        seconds=time.monotonic() - began,
        figure=str(figure),
        notes=list(claim.get("notes", [])),
    )
    write_json(target / "result.json", json.loads(json.dumps({**asdict(result), "verdict": result.verdict})))
    return result
