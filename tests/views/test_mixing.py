"""Mixup and cutmix: what is in a mixture, and how much of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.views.mixing import Mixing

ROWS = 6


def _batch() -> tuple[Tensor, Tensor]:
    """Clip i has the value i everywhere, and the label 10 + i."""
    video = torch.arange(ROWS, dtype=torch.float32)[:, None, None, None, None].expand(-1, 2, 3, 8, 12).clone()
    return video, torch.arange(ROWS) + 10


def _mixed(mixing: Mixing, seed: int) -> dict[str, Tensor]:
    return mixing(*_batch(), np.random.default_rng(seed))


def test_nothing_is_mixed_when_both_are_off() -> None:
    video, labels = _batch()
    found = Mixing(0.0, 0.0)(video, labels, np.random.default_rng(0))
    assert found["video"] is video and bool((found["share"] == 1).all())


@pytest.mark.parametrize("seed", range(20))
def test_mixup_blends_as_much_as_it_says(seed: int) -> None:
    found = _mixed(Mixing(cutmix=0.0), seed)
    share = float(found["share"][0])
    assert 0 <= share <= 1 and bool((found["share"] == share).all())
    assert sorted(found["partner"].tolist()) == sorted(found["label"].tolist())
    wanted = share * (found["label"] - 10) + (1 - share) * (found["partner"] - 10)
    torch.testing.assert_close(found["video"], wanted[:, None, None, None, None].expand_as(found["video"]))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_the_same_rectangle_into_all_frames(seed: int) -> None:
    found = _mixed(Mixing(mixup=0.0), seed)
    own, other = found["label"] - 10, found["partner"] - 10
    for row in range(ROWS):
        frames = found["video"][row]
        assert set(frames.unique().tolist()) <= {float(own[row]), float(other[row])}
        assert bool((frames == frames[:1, :1]).all())
        if own[row] != other[row]:
            pasted = frames[0, 0] == other[row]
            assert float(found["share"][row]) == pytest.approx(1 - float(pasted.double().mean()), abs=1e-6)
            places = pasted.nonzero()
            if len(places):
                (top, left), (bottom, right) = places.amin(dim=0), places.amax(dim=0)
                assert bool(pasted[top : bottom + 1, left : right + 1].all())


def test_the_switch_chooses_between_them() -> None:
    def cuts(mixing: Mixing) -> float:
        """Share of draws whose mixture holds whole values only."""
        found = [_mixed(mixing, seed)["video"] for seed in range(200)]
        return float(np.mean([bool((video == video.round()).all()) for video in found]))

    assert cuts(Mixing(switch=0.0)) < 0.05
    assert cuts(Mixing(switch=1.0)) == 1.0
    assert 0.35 < cuts(Mixing()) < 0.65


def test_the_given_clips_are_left_alone() -> None:
    video, labels = _batch()
    before = video.clone()
    for seed in range(10):
        Mixing()(video, labels, np.random.default_rng(seed))
    assert torch.equal(video, before)


@pytest.mark.parametrize("settings", [{"mixup": -1.0}, {"cutmix": -0.1}, {"switch": 1.5}])
def test_unusable_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mixup and cutmix must be >= 0, switch in \[0, 1\]"):
        Mixing(**settings)
