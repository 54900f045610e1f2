"""Figures are made without a display, look the same every time, and take any text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from counterpoint.reporting.claim import Sweep
from counterpoint.reporting.figures import (
    claim_figure,
    curve_figure,
    map_figure,
    picture_grid,
    project,
    similarity_figure,
)
from counterpoint.reporting.style import INLINE, inline_svg, save_figure

ODD = "a $x^2 & <b> [red] {door} \N{GREEK SMALL LETTER ALPHA} " + "long " * 30


def comparison(**values: Any) -> SimpleNamespace:
    settings = {
        "name": "a against b",
        "treatment": "a",
        "baseline": "b",
        "metric": "accuracy",
        "direction": "higher",
        "margin": 0.0,
        "difference": 0.2,
        "interval": (0.1, 0.3),
        "verdict": "holds",
        "baseline_metric": None,
    }
    return SimpleNamespace(**{**settings, **values})


SCORES = {"a": {"accuracy": [0.5, 0.55]}, "b": {"accuracy": [0.3, 0.31]}, "c": {"loss": [1.0, 2.0]}}


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)) for _ in range(count)]


MAKERS = {
    "curve": lambda path: curve_figure({ODD: ([1, 2, 3], [1.0, float("nan"), 2.0])}, title=ODD, path=path),
    "curve of one point": lambda path: curve_figure({"x": ([5], [1.0])}, title="x", guides={ODD: 2.0}, path=path),
    "claim": lambda path: claim_figure(SCORES, [comparison(name=ODD), comparison(baseline=0.1)], title=ODD, path=path),
    "similarity": lambda path: similarity_figure(np.eye(3), title=ODD, rows=[ODD] * 3, columns=[ODD] * 3, path=path),
    "map of dots": lambda path: map_figure(np.random.rand(40, 2), title="x", groups=[ODD[:7]] * 40, path=path),
    "map of pictures": lambda path: map_figure(np.eye(2), title="x", pictures=pictures(2), path=path),
    "grid": lambda path: picture_grid([(ODD, [(pictures(1)[0], ODD)])], title=ODD, path=path),
}


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("error")
def test_every_figure_is_saved(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / f"figure.{kind}"
    MAKERS[name](path)
    if kind == "png":
        with Image.open(path) as image:
            assert min(image.size) > 100
            assert len(np.unique(np.asarray(image.convert("L")))) > 2  # something is drawn
    else:
        assert path.read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figure_has_the_same_bytes(kind: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.{kind}" for number in (1, 2)]
    for path in paths:
        curve_figure({"loss": ([1, 2], [2.0, 1.0])}, title="loss", path=path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_settings_of_the_user_are_untouched() -> None:
    before = dict(mpl.rcParams)
    curve_figure({"loss": ([1, 2], [2.0, 1.0])}, title="loss")
    assert dict(mpl.rcParams) == before


def test_other_endings_are_refused(tmp_path: Path) -> None:
    figure = curve_figure({"loss": ([1, 2], [2.0, 1.0])}, title="loss")
    with pytest.raises(ValueError, match=r"saved as \.png or \.svg, got 'x\.pdf'"):
        save_figure(figure, tmp_path / "x.pdf")


def test_the_claim_shows_means_verdict_and_interval() -> None:
    figure = claim_figure(SCORES, [comparison(verdict="does not hold", interval=(-0.1, 0.0), margin=0.05)], title="t")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["b", "a"]
    assert {text.get_text() for text in left.texts} == {"0.525", "0.305"}
    assert right.get_title(loc="left") == "does not hold"
    drawn = [tuple(line.get_xdata()) for line in right.lines]
    assert (-0.1, 0.0) in drawn
    assert (0.05, 0.05) in drawn


def test_a_sweep_is_a_curve_through_the_means_above_the_comparisons() -> None:
    sweep = Sweep("temperature", {"b": 1.0, "a": 0.1}, ["accuracy"])
    figure = claim_figure(SCORES, [comparison()], title="t", sweep=sweep)
    curve = figure.axes[0]
    assert (curve.get_xlabel(), curve.get_xscale()) == ("temperature", "log")
    xs, ys = curve.lines[-1].get_data()
    assert list(xs) == [0.1, 1.0] and list(ys) == pytest.approx([0.525, 0.305])
    assert len(figure.axes) == 3


def test_a_baseline_of_another_metric_is_drawn_from_it() -> None:
    """Also where the arm has the treatment's metric as well."""
    scores = {"a": {"accuracy": [0.5, 0.55], "guesser": [0.2, 0.3]}}
    figure = claim_figure(scores, [comparison(baseline="a", baseline_metric="guesser")], title="t")
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == {"0.525", "0.250"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a,\nguesser", "a"]


def test_one_seed_has_no_interval() -> None:
    endless = (float("-inf"), float("inf"))
    figure = claim_figure(SCORES, [comparison(interval=endless, verdict="inconclusive")], title="t")
    assert figure.axes[1].get_xlabel() == "difference, one seed: no interval"


def test_a_claim_without_comparisons_is_refused() -> None:
    with pytest.raises(ValueError, match="comparisons is empty"):
        claim_figure(SCORES, [], title="t")


def test_a_map_keeps_apart_what_is_apart() -> None:
    """Two bundles of directions stay two bundles, by either method; PCA agrees with the singular values."""
    rng = np.random.default_rng(0)
    centres = np.eye(2, 16)[np.repeat([0, 1], 40)]
    vectors = centres + 0.01 * rng.normal(size=(80, 16))
    for method, name in (("pca", "PCA"), ("tsne", "t-SNE"), ("auto", "t-SNE")):
        points, how = project(vectors, method=method)
        assert how == name
        between = np.linalg.norm(points[:40].mean(0) - points[40:].mean(0))
        assert between > 3 * max(points[:40].std(), points[40:].std())
    points, _ = project(vectors, method="pca")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    strengths = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), strengths[:2], rtol=1e-10)


def test_small_and_odd_projections() -> None:
    points, how = project(np.ones((2, 1)))
    assert how == "PCA"
    assert np.array_equal(points, np.zeros((2, 2)))
    np.testing.assert_array_equal(*(project(np.random.default_rng(1).normal(size=(60, 5)), seed=3)[0] for _ in "ab"))
    for bad, message in ((np.ones((1, 3)), "at least 2"), (np.full((3, 2), np.nan), "not finite")):
        with pytest.raises(ValueError, match=message):
            project(bad)
    with pytest.raises(ValueError, match="method must be"):
        project(np.ones((3, 2)), method="umap")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"matrix must be \(Q, K\)"):
        similarity_figure(np.ones(3), title="x")
    with pytest.raises(ValueError, match="rows is empty"):
        picture_grid([], title="x")


def test_an_inline_figure_takes_the_colours_of_its_page() -> None:
    """No fixed ink, links of its own only, a label for screen readers."""
    figures = [curve_figure({"loss": ([1, 2], [2.0, 1.0])}, title="loss & <gain>", theme=INLINE) for _ in "ab"]
    first, second = (inline_svg(figure, f"f{n}", 'a "label" & more') for n, figure in enumerate(figures))
    assert 'aria-label="a &quot;label&quot; &amp; more"' in first
    assert "currentColor" in first
    assert "var(--grid)" in first
    for colour in (INLINE.ink, INLINE.muted, INLINE.grid):
        assert colour not in first
    assert "<metadata" not in first
    identities = [set(_ids(text)) for text in (first, second)]
    assert identities[0] and not identities[0] & identities[1]
    for text, found in zip((first, second), identities, strict=True):
        assert set(_links(text)) <= found


def _ids(text: str) -> list[str]:
    import re

    return re.findall(r'\bid="([^"]+)"', text)


def _links(text: str) -> list[str]:
    import re

    return re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text)
