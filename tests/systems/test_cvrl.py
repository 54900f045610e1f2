"""CVRL against loops written from the paper, its head and vectors, and a run over a folder of films."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import BadRow, open_rows
from counterpoint.evaluation.embedding import embed_all
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.run import load
from counterpoint.systems.cvrl import CVRL, clip_agreement
from counterpoint.training.train import train
from counterpoint.views.video import ClipViews
from films import film, numbered

ENCODER = "small3d?frames=4&size=16&stride=1&width=4"


def _system(**arguments: Any) -> CVRL:
    torch.manual_seed(0)
    settings = {"hidden": 12, "layers": 2, "dim": 6, "embedded_clips": 2, "embedded_crops": 1, **arguments}
    return CVRL(ENCODER, **settings)


def _features(rows: int = 5, seed: int = 0) -> dict[str, Tensor]:
    drawn = torch.randn(2, rows, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return {"first": drawn[0], "second": drawn[1]}


def _slow_loss(first: Tensor, second: Tensor, temperature: float) -> float:
    """L_a + L_b as the official code forms it: cross-entropy over both kinds of logits, a clip's own left out."""
    total = 0.0
    for ours, theirs in ((first, second), (second, first)):
        for i in range(len(ours)):
            across = [float(ours[i] @ other) / temperature for other in theirs]
            within = [float(ours[i] @ other) / temperature for j, other in enumerate(ours) if j != i]
            total += math.log(sum(math.exp(value) for value in across + within)) - across[i]
    return total / len(first)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_the_loss_against_loops(temperature: float) -> None:
    system = _system(temperature=temperature).double().train()
    features = _features()
    terms = system.loss(features)
    hidden = normalize(system.head(torch.cat([_features()["first"], _features()["second"]])), dim=1)
    first, second = hidden.detach().chunk(2)
    contrast = terms["contrast"]
    assert float(contrast.total.detach()) * contrast.weight == pytest.approx(
        _slow_loss(first, second, temperature), abs=1e-10
    )
    assert contrast.guess == math.log(9)
    assert (terms["accuracy"].weight, terms["entropy"].weight) == (0.0, 0.0)
    pair = system.pair(features)
    assert pair is not None and torch.equal(pair[0], features["projected_first"])
    assert system.pair(_features()) is None
    assert system.pair_temperature() == temperature


def test_agreement_against_loops() -> None:
    first, second = (normalize(part, dim=1) for part in _features().values())
    second[2] = first[2]
    accuracy, entropy = clip_agreement(first, second, temperature=0.3)
    hits, total = 0, 0.0
    for i in range(5):
        weights = [math.exp(float(first[i] @ other) / 0.3) for other in second]
        shares = [weight / sum(weights) for weight in weights]
        hits += max(range(5), key=lambda j: shares[j]) == i
        total -= sum(share * math.log(share) for share in shares)
    assert hits > 0
    assert float(accuracy) == pytest.approx(hits / 5)
    assert float(entropy) == pytest.approx(total / 5, abs=1e-6)


def test_clips_are_those_of_the_encoder() -> None:
    system = _system(clips=ClipViews(frames=99, size=99, stride=99, interval="uniform", flip=0.0))
    view, fixed = system.views(), system.preprocess()
    assert (view.frames, view.size, view.stride, view.interval, view.flip) == (4, 16, 1, "uniform", 0.0)
    assert (fixed.frames, fixed.size, fixed.stride, fixed.clips, fixed.crops) == (4, 16, 1, 2, 1)
    assert view.mean == fixed.mean == system.encoder.mean


def test_both_clips_share_one_batch_normalisation() -> None:
    system = _system().train()
    batch = {name: torch.randn(3, 3, 4, 16, 16) for name in ("first", "second")}
    features = system.encode(batch)
    together = system.encoder(torch.cat([batch["first"], batch["second"]]))
    assert torch.allclose(torch.cat([features["first"], features["second"]]), together)


def test_a_vector_is_the_mean_of_unit_vectors() -> None:
    system = _system().eval()
    clips = torch.randn(3, 2, 3, 4, 16, 16)
    with torch.inference_mode():
        found = system.embed({"video": clips})
        expected = (normalize(system.encoder(clips[:, 0]), dim=1) + normalize(system.encoder(clips[:, 1]), dim=1)) / 2
    torch.testing.assert_close(found, expected)


def test_weights_alone_are_decayed() -> None:
    system = _system()
    decayed, plain = system.parameter_groups()
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() <= 1 for p in plain["params"])
    assert plain["weight_decay"] == 0.0


def test_a_temperature_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        _system(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of two classes in two containers, and three files that are none."""
    base = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for label in ("bright", "dark"):
        (base / label).mkdir()
        for number in range(10):
            level = (150 if label == "bright" else 40) + rng.integers(0, 30)
            frames = np.clip(numbered(12 + number, 32, 40) // 8 + level, 0, 255).astype(np.uint8)
            container, codec = ("mp4", "libx264") if number % 2 else ("webm", "libvpx")
            (base / label / f"{number}.{container}").write_bytes(film(frames, container, codec))
    whole = (base / "dark" / "1.mp4").read_bytes()
    (base / "dark" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (base / "bright" / "text.avi").write_text("this is no film")
    (base / "bright" / "empty.webm").touch()
    return base


def test_a_folder_of_films(folder: Path, tmp_path: Path) -> None:
    """Trained on, evaluated by class, embedded; what is broken is counted and named, and stops nothing."""
    arguments = {"encoder": ENCODER, "hidden": 12, "layers": 1, "dim": 6, "embedded_clips": 2, "embedded_crops": 1}
    overrides = {"batch": 8, "steps": 6, "learning_rate": 1e-3, "max_skip_rate": 0.2, "workers": 1}
    run = train(
        "cvrl", folder, out=tmp_path / "run", recipe="tiny", arguments=arguments, overrides=overrides, quiet=True
    )
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in lines)
    system, rows = load(run.path), open_rows(folder)
    assert len(rows) == 23 and rows.class_names == ["bright", "dark"]
    skipped: dict[str, str] = {}
    for name in range(len(rows)):
        try:
            system.preprocess()(rows[name])
        except BadRow as error:
            skipped[rows.row_id(name)] = error.reason
    assert sorted(skipped) == ["bright/empty.webm", "bright/text.avi", "dark/cut.mp4"]
    ids, spaces = embed_all(system, rows)
    assert len(ids) == 20 and not set(ids) & set(skipped)
    assert next(iter(spaces.values())).shape == (20, system.encoder.dim)
    scores = evaluate(run.path, folder, protocols=["knn", "linear_probe"], out=tmp_path / "scores.json")
    assert {found["id"] for found in scores["skipped"]} == set(skipped)
    assert scores["scores"]["linear_probe/accuracy"] > scores["chance"]["linear_probe/accuracy"]
