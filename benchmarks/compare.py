"""Whether two sides did the same work: equal outputs, equal directions, or equal distributions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.work import Arrays, Compare, Disagreement, saying


def same(tolerance: float) -> Compare:
    """Every array agrees: the largest difference is at most `tolerance` times the largest value."""

    def check(ours: Arrays, theirs: Arrays) -> Mapping[str, float]:
        worst = 0.0
        for name in _names(ours, theirs):
            first, second = np.asarray(ours[name], dtype=float), np.asarray(theirs[name], dtype=float)
            if first.shape != second.shape:
                raise Disagreement(f"{name} has shape {first.shape} here and {second.shape} there")
            if not (np.isfinite(first).all() and np.isfinite(second).all()):
                raise Disagreement(f"{name} is not finite")
            difference = float(np.abs(first - second).max() / max(np.abs(second).max(), 1e-30))
            if difference > tolerance:
                raise Disagreement(f"{name} differs by {difference:.2g} of its largest value, allowed: {tolerance:g}")
            worst = max(worst, difference)
        return {"largest difference, relative": worst}

    return check


def same_directions(at_least: float) -> Compare:
    """Rows of every array point the same way: their least cosine is at least so much."""

    def check(ours: Arrays, theirs: Arrays) -> Mapping[str, float]:
        least = 1.0
        for name in _names(ours, theirs):
            first, second = (np.asarray(side[name], dtype=np.float64) for side in (ours, theirs))
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            least = min(least, float(((first * second).sum(1) / lengths).min()))
        if least < at_least:
            raise Disagreement(f"the least cosine is {least:.7f}, allowed: {at_least:g}")
        return {"least cosine": least}

    return check


def same_distribution(chance: float = 1e-3) -> Compare:
    """Samples of every name have one distribution: no Kolmogorov-Smirnov test says otherwise.

    Args:
        chance: that equal distributions are called different by any of the tests (Bonferroni).
    """

    def check(ours: Arrays, theirs: Arrays) -> Mapping[str, float]:
        from scipy.stats import ks_2samp

        names, least, widest = _names(ours, theirs), 1.0, 0.0
        for name in names:
            found = ks_2samp(np.asarray(ours[name]), np.asarray(theirs[name]))
            with saying(name):
                if found.pvalue < chance / len(names):
                    raise Disagreement(
                        f"distributions differ: distance {found.statistic:.3f}, p {found.pvalue:.1g}, "
                        f"means {np.mean(ours[name]):.4g} and {np.mean(theirs[name]):.4g}"
                    )
            least, widest = min(least, float(found.pvalue)), max(widest, float(found.statistic))
        return {"statistics compared": float(len(names)), "largest KS distance": widest, "least p": least}

    return check


def _names(ours: Arrays, theirs: Arrays) -> list[str]:
    if sorted(ours) != sorted(theirs):
        raise Disagreement(f"one side gives {sorted(ours)}, the other {sorted(theirs)}")
    return sorted(ours)
