"""The map from above: codes of boxes, and which cells are answers."""

from __future__ import annotations

import math

import pytest
import torch

from counterpoint.encoders.bird_eye import CentreHead, box_code, box_from_code, peaks
from counterpoint.encoders.points import Grid
from counterpoint.losses.centres import centre_map

GRID = Grid((-4.0, -2.0, -1.0), (4.0, 2.0, 1.0), (1.0, 0.5, 2.0))  # 8 cells along x, 8 along y


def test_a_code_gives_its_box_back() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(20, 3, generator=generator) * torch.tensor([8.0, 4.0, 2.0]) + torch.tensor(GRID.low)
    size, yaw = 0.2 + 4 * torch.rand(20, 3, generator=generator), 6 * torch.rand(20, generator=generator) - 3
    cells = ((centres[:, :2] - torch.tensor(GRID.low[:2])) / torch.tensor(GRID.cell[:2])).floor()
    code = box_code(GRID, centres, size, yaw)
    assert code.shape == (20, 8) and code[:, :2].min() >= 0 and code[:, :2].max() < 1
    again = box_from_code(GRID, cells, code)
    for found, wanted in zip(again, (centres, size, yaw), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_answers_are_peaks_best_first_and_apart() -> None:
    heat, code = torch.zeros(2, 8, 8), torch.zeros(8, 8, 8)
    code[:2], code[7] = 0.5, 1.0  # in the middle of their cells, yaw 0, sides 1
    heat[0, 3, 4], heat[0, 3, 5] = 0.9, 0.8  # neighbours: the second is no peak
    heat[0, 6, 1], heat[0, 6, 3] = 0.7, 0.6  # two metres apart
    heat[1, 3, 4] = 0.5  # another class at the same place
    heat[1, 0, 0] = 0.04  # too improbable
    found = peaks(heat, code, GRID, least=0.05, most=10, apart=(1.0, 1.0))
    assert found["score"].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])
    assert found["label"].tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(found["centre"][0], torch.tensor([0.5, -0.25, 0.0]))
    torch.testing.assert_close(found["size"], torch.ones(4, 3))
    assert found["yaw"].tolist() == [0.0] * 4
    farther = peaks(heat, code, GRID, least=0.05, most=10, apart=(2.5, 1.0))
    assert farther["score"].tolist() == pytest.approx([0.9, 0.7, 0.5]), "the worse of two near ones is left out"
    assert peaks(heat, code, GRID, least=0.05, most=2, apart=(1.0, 1.0))["score"].tolist() == pytest.approx([0.9, 0.7])
    none = peaks(torch.zeros(2, 8, 8), code, GRID, least=0.05, most=2, apart=(1.0, 1.0))
    assert none["centre"].shape == (0, 3)


def test_a_fresh_head_expects_little() -> None:
    torch.manual_seed(0)
    heat, code = CentreHead(4, 2, 3, 16)(torch.randn(2, 4, 2, 5, 6))
    assert heat.shape == (2, 3, 5, 6) and code.shape == (2, 8, 5, 6)
    assert abs(float(heat.detach().sigmoid().mean()) - 0.1) < 0.05


def test_the_map_is_one_at_centres_and_falls_off() -> None:
    centres = torch.tensor([[[2.5, 1.2], [2.9, 3.0], [9.0, 1.0], [0.0, 0.0]]])
    labels, spread = torch.tensor([[0, 0, 1, -1]]), torch.full((1, 4), 0.8)
    heat, cells = centre_map(centres, labels, spread=spread, classes=2, size=(5, 6))
    assert cells.tolist() == [[1 * 6 + 2, 3 * 6 + 2, -1, -1]]
    for y in range(5):
        for x in range(6):
            bumps = [math.exp(-((x - 2) ** 2 + (y - row) ** 2) / (2 * 0.8**2)) for row in (1, 3)]
            assert float(heat[0, 0, y, x]) == pytest.approx(max(bumps), rel=1e-5)
    assert float(heat[0, 0, 1, 2]) == 1.0 and not heat[0, 1].any()
