"""PSNR and SSIM against loops over the definitions, and the protocol on models whose scores are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow, Rows
from counterpoint.data.images import encode_png
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.enhancing import enhanced, psnr, ssim
from counterpoint.system import System
from counterpoint.views.image import Resize


class Brighten(System):
    """Multiplies every value; what a perfect answer to evenly darkened pictures looks like."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.modes: list[bool] = []

    def preprocess(self) -> Resize:
        return Resize(8)

    def enhance(self, images: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return (images * self.factor).clamp(0, 1)


def _picture(seed: int, height: int = 20, width: int = 17) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 128, (height, width, 3), dtype=np.uint8)


def _slow_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """The definition with loops: weights exp(-d^2 / (2 1.5^2)) over 11 x 11 places, normalised."""
    weights = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    total, values = sum(map(sum, weights)), []
    for channel in range(3):
        x, y = first[..., channel] / 255, second[..., channel] / 255
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                pairs = [
                    (weights[i][j] / total, x[top + i, left + j], y[top + i, left + j])
                    for i in range(11)
                    for j in range(11)
                ]
                mx, my = sum(w * a for w, a, _ in pairs), sum(w * b for w, _, b in pairs)
                vx, vy = sum(w * (a - mx) ** 2 for w, a, _ in pairs), sum(w * (b - my) ** 2 for w, _, b in pairs)
                cov = sum(w * (a - mx) * (b - my) for w, a, b in pairs)
                above = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
                values.append(above / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return sum(values) / len(values)


def test_ssim_against_loops() -> None:
    first = _picture(0, 14, 13)
    for second in (_picture(1, 14, 13), first // 2, 255 - first):
        assert ssim(first, second) == pytest.approx(_slow_ssim(first, second), abs=1e-9)
    assert ssim(first, first) == pytest.approx(1.0)
    assert -1 <= ssim(_picture(0, 4, 3), _picture(1, 4, 3)) < 1, "smaller than the window"


def test_psnr_against_the_definition() -> None:
    first, second = _picture(0), _picture(1)
    error = sum((float(a) - float(b)) ** 2 for a, b in zip(first.flat, second.flat, strict=True)) / first.size
    assert psnr(first, second) == pytest.approx(10 * math.log10(255**2 / error))
    assert psnr(first, first) == pytest.approx(10 * math.log10(12 * 255**2))
    with pytest.raises(ValueError, match="must have the same shape"):
        psnr(first, second[1:])


def test_a_picture_goes_through_the_model_in_evaluation_mode() -> None:
    model = Brighten().train()
    picture = _picture(3)
    assert np.array_equal(enhanced(model, picture), 2 * picture)
    assert model.modes == [False] and model.training
    with pytest.raises(BadRow, match="1 x 20 pixels: too small"):
        enhanced(model, picture[:, :1])
    with pytest.raises(BadRow, match="not finite"):
        enhanced(Brighten(math.nan), picture)


def _rows() -> Rows:
    rows: list[dict[str, Any]] = []
    for seed in range(4):
        picture = _picture(seed)
        rows.append({"id": f"dark-{seed}", "image": encode_png(picture), "target": encode_png(2 * picture)})
    rows.append({"id": "bright", "image": encode_png(_picture(9)), "target": None})
    rows.append({"id": "broken", "image": b"no picture", "target": encode_png(_picture(9))})
    rows.append({"id": "other", "image": encode_png(_picture(9)), "target": encode_png(_picture(9, 5, 5))})
    return Rows.from_list(rows)


def test_the_protocol_compares_with_the_target_and_with_the_input() -> None:
    perfect = evaluate(Brighten(), _rows(), protocols=["enhancement"])
    idle = evaluate(Brighten(1.0), _rows(), protocols=["enhancement"])
    assert perfect["scores"]["enhancement/ssim"] == pytest.approx(1.0)
    assert perfect["scores"]["enhancement/psnr"] == pytest.approx(10 * math.log10(12 * 255**2))
    wanted = np.mean([psnr(_picture(seed), 2 * _picture(seed)) for seed in range(4)])
    for found in (idle["scores"]["enhancement/psnr"], perfect["scores"]["enhancement/input_psnr"]):
        assert found == pytest.approx(wanted)
    assert idle["scores"]["enhancement/psnr_gain"] == pytest.approx(0.0)
    assert perfect["chance"]["enhancement/psnr"] == pytest.approx(wanted)
    assert perfect["protocols"]["enhancement"]["pictures"] == 4
    assert perfect["protocols"]["enhancement"]["factor"] == 2.0
    assert idle["scores"]["enhancement/uniform_psnr"] == pytest.approx(perfect["scores"]["enhancement/psnr"])
    assert {row["id"] for row in perfect["skipped"]} == {"broken", "other"}


def test_what_cannot_be_scored_is_named() -> None:
    rows = Rows.from_list([{"id": "a", "image": encode_png(_picture(0)), "target": None}] * 1)
    with pytest.raises(ValueError, match="needs rows with a picture in `target`"):
        evaluate(Brighten(), rows, protocols=["enhancement"])
