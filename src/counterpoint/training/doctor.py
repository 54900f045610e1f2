"""`doctor`: reads a run's figures and says what is wrong and what usually helps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.run import Run
from counterpoint.training.health import REMEDIES

__all__ = ["Finding", "diagnose", "doctor"]

_TAIL = 5
"""Log lines at the end of a run that are judged."""
_LOW_TEMPERATURE, _HIGH_TEMPERATURE = 0.95, 0.15
"""Shares of the repulsion on the hardest tenth of the negatives; 0.1 is an even push."""


@dataclass(frozen=True)
class Finding:
    """One thing the doctor found.

    Attributes:
        kind: "healthy", one of the health monitor's kinds, "above_guess", "diverging", "skipped", "unfinished",
            "low_temperature", "high_temperature" or "no_figures".
        severity: "ok", "note" or "problem".
        message: what was seen, with numbers.
        remedy: what usually helps; empty when nothing needs to be done.
    """

    kind: str
    severity: str
    message: str
    remedy: str = ""


def doctor(run: str | Path | Run) -> list[Finding]:
    """Print the diagnosis of a run and return it; see `diagnose`."""
    findings = diagnose(run)
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    for finding in findings:
        print(
            f"{marks[finding.severity]} {finding.message}" + (f"\n        {finding.remedy}" if finding.remedy else "")
        )
    return findings


def diagnose(run: str | Path | Run) -> list[Finding]:
    """What a run's figures say, worst first; a single "healthy" finding when all is well.

    Raises:
        ValueError: not a run directory, or one of `fit`, which has no training to judge.
    """
    run = run if isinstance(run, Run) else Run(run)
    if run.fitted:
        raise ValueError(f"{run.path} was fitted, not trained: there is nothing to diagnose; use `evaluate`")
    records = [record for record in run.metrics() if "loss" in record]
    if not records:
        return [Finding("no_figures", "problem", "the run ended before its first log line.", "Lower log_every.")]
    findings = _warned(records) + _diverging(records) + _skipped(run) + _unfinished(run, records)
    if not any(finding.kind == "guess" for finding in findings):
        findings += _above_guess(records)
    findings += _temperature(records)
    findings.sort(key=lambda finding: ("problem", "note", "ok").index(finding.severity))
    if any(finding.severity == "problem" for finding in findings):
        return findings
    return [Finding("healthy", "ok", _summary(records)), *findings]


def _warned(records: Sequence[dict[str, Any]]) -> list[Finding]:
    """Warnings of the run; those that the end of the run no longer shows become notes."""
    findings = []
    for record in records:
        for kind in record.get("warnings", []):
            still = _still(kind, records[-_TAIL:])
            when = f"since step {record['step']}" if still else f"at step {record['step']}, no longer at the end"
            message = f"{_describe(kind, records[-1] if still else record)} ({when})."
            findings.append(Finding(kind, "problem" if still else "note", message, REMEDIES.get(kind, "")))
    return findings


def _still(kind: str, tail: Sequence[dict[str, Any]]) -> bool:
    """Whether the end of the run still shows what was warned of."""

    def middle(name: str, default: float) -> float:
        values = [record[name] for record in tail if record.get(name) is not None]
        return statistics.median(values) if values else default

    if kind == "guess":
        ratios = [r["guessed_loss"] / r["guess"] for r in tail if r.get("guess") and r.get("guessed_loss") is not None]
        return not ratios or statistics.median(ratios) > 0.95
    checks = {
        "collapse": middle("effective_rank", 0.0) < 2.5,
        "duplicates": middle("duplicate_rate", 1.0) > 0.15,
        "idle": middle("update_ratio", 0.0) < 1e-6,
        "no_gradient": middle("gradient_norm", 0.0) == 0,
        "starvation": middle("wait_share", 1.0) > 0.4,
    }
    return checks.get(kind, True)


def _describe(kind: str, record: dict[str, Any]) -> str:
    """A kind of warning with the numbers of one record."""
    texts = {
        "collapse": f"the embedding has collapsed: effective rank {record.get('effective_rank') or 0:.2f}",
        "duplicates": f"{100 * (record.get('duplicate_rate') or 0):.0f} % of a batch have a near-duplicate in it",
        "guess": f"the loss {record.get('guessed_loss') or 0:.3f} is no better than guessing "
        f"({record.get('guess') or 0:.3f})",
        "idle": f"a step changes the weights by {record.get('update_ratio') or 0:.1e} of their size: the learning rate "
        f"{record.get('learning_rate') or 0:g} does nothing",
        "no_gradient": "the gradient is exactly zero: nothing is trained",
        "starvation": f"{100 * (record.get('wait_share') or 0):.0f} % of the time is spent waiting for data",
    }
    return texts.get(kind, kind)


def _diverging(records: Sequence[dict[str, Any]]) -> list[Finding]:
    """A loss that ends far above its own minimum."""
    stage = records[-1]["stage"]
    losses = [record["loss"] for record in records if record["stage"] == stage and record["loss"] is not None]
    if len(losses) < 2 * _TAIL:
        return []
    best, last = min(losses), statistics.median(losses[-_TAIL:])
    if last <= best + 0.5 * abs(losses[0] - best) or last <= best:
        return []
    message = f"the loss ends at {last:.4g}, far above its lowest {best:.4g}."
    remedy = "Usual remedies: a lower learning rate, a longer warm-up, clip_gradient=1."
    return [Finding("diverging", "problem", message, remedy)]


def _temperature(records: Sequence[dict[str, Any]]) -> list[Finding]:
    """Whom the contrast pushes at the end of the run (the uniformity-tolerance dilemma of Wang and Liu 2021)."""
    shares = [record["hardest_share"] for record in records[-_TAIL:] if record.get("hardest_share") is not None]
    if not shares:
        return []
    share = statistics.median(shares)
    message = f"{100 * share:.0f} % of the repulsion falls on the hardest tenth of the negatives."
    if share > _LOW_TEMPERATURE:
        remedy = "If rows of one meaning are among them they are pushed apart too: a higher temperature tolerates them."
        return [Finding("low_temperature", "note", message, remedy)]
    if share < _HIGH_TEMPERATURE:
        remedy = "Near rows are hardly told apart: a lower temperature, or harder negatives, spread them."
        return [Finding("high_temperature", "note", message, remedy)]
    return []


def _above_guess(records: Sequence[dict[str, Any]]) -> list[Finding]:
    """A run that ends no better than a guesser although the monitor had no reason, or no time, to warn."""
    last = records[-1]
    if not last.get("guess") or last.get("guessed_loss") is None or last["guessed_loss"] < last["guess"]:
        return []
    message = f"the loss ends at {last['guessed_loss']:.3f}, no better than guessing ({last['guess']:.3f})."
    remedy = "Usual remedies: train longer when the loss still falls; otherwise a learning rate 3x to 10x higher."
    return [Finding("above_guess", "note", message, remedy)]


def _skipped(run: Run) -> list[Finding]:
    if not run.finished:
        return []
    result = run.result()
    skipped = result.get("skipped", [])
    if not skipped:
        return []
    message = f"{len(skipped)} rows could not be used; first {skipped[0][0]}: {skipped[0][1]}."
    return [Finding("skipped", "note", message, f"All are listed in {run.path / 'result.json'}.")]


def _unfinished(run: Run, records: Sequence[dict[str, Any]]) -> list[Finding]:
    if run.finished:
        return []
    message = f"the run has not ended: last line at step {records[-1]['step']}."
    return [Finding("unfinished", "note", message, "Continue it with resume.")]


def _summary(records: Sequence[dict[str, Any]]) -> str:
    last = records[-1]
    parts = [f"loss {records[0]['loss']:.4g} -> {last['loss']:.4g}"]
    if last.get("guess") is not None:
        parts.append(f"a guesser has {last['guess']:.4g}")
    if last.get("effective_rank") is not None:
        parts.append(f"effective rank {last['effective_rank']:.1f}")
    return f"healthy: {', '.join(parts)}."
