"""Frames spread over a film, distorted alike; a film or a text for inference; batches of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.views.labelled_clips import ClipOrText, LabelledClip, collate_clips, drawn_frames
from counterpoint.views.mixing import Mixing

PLAIN = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter_probability": 0.0, "grey": 0.0, "blur": 0.0}


def _film(frames: int = 20, height: int = 24, width: int = 24) -> np.ndarray:
    """Frame t has the value 10 t everywhere."""
    values = (10 * np.arange(frames)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (frames, height, width, 3)).copy()


def _numbers(clip: Tensor, view: LabelledClip | ClipOrText) -> list[float]:
    """Which frames of `_film` a clip (T, 3, s, s) shows."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))
    return ((clip * std + mean) * 25.5).mean(dim=(1, 2, 3)).tolist()


@pytest.mark.parametrize(("frames", "count"), [(20, 4), (21, 4), (7, 3), (5, 5), (3, 8), (1, 4)])
def test_one_frame_of_each_part(frames: int, count: int) -> None:
    seen = set()
    for seed in range(300):
        numbers = drawn_frames(frames, np.random.default_rng(seed).random(count))
        assert numbers.min() >= 0 and numbers.max() < frames and bool((np.diff(numbers) >= 0).all())
        bounds = np.arange(count + 1) * frames / count
        assert all(int(low) <= n <= high for n, low, high in zip(numbers, bounds[:-1], bounds[1:], strict=True))
        seen |= set(numbers.tolist())
    assert seen == set(range(frames))


def test_a_drawn_number_next_to_one_stays_in_the_film() -> None:
    assert drawn_frames(3, np.array([np.nextafter(1.0, 0.0)])).tolist() == [2]


def test_training_shows_the_frames_that_were_drawn() -> None:
    view = LabelledClip(frames=4, size=8, **PLAIN)  # type: ignore[arg-type]
    sample = view({"id": "0", "video": _film(), "label": 3}, np.random.default_rng(5))
    assert sample["video"].shape == (4, 3, 8, 8) and sample["label"] == 3
    wanted = drawn_frames(20, np.random.default_rng(5).random(4)).tolist()
    assert _numbers(sample["video"], view) == pytest.approx(wanted, abs=1e-4)


def test_all_frames_are_distorted_alike() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 40, 30, 3), dtype=np.uint8)
    row = {"id": "0", "video": np.repeat(picture, 9, axis=0), "label": 0}
    view = LabelledClip(frames=3, size=16, blur=0.5)
    found = [view(row, np.random.default_rng(seed))["video"] for seed in range(6)]
    assert all(torch.equal(clip[0], frame) for clip in found for frame in clip)
    assert not torch.equal(found[0], found[1])


def test_the_same_draw_gives_the_same_sample() -> None:
    view, row = LabelledClip(frames=3, size=16), {"id": "0", "video": _film(), "label": 1}
    first, second = (view(row, np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(first["video"], second["video"]) and first["draw"] == second["draw"]


def test_inference_takes_the_middle_of_each_part() -> None:
    view = ClipOrText(frames=4, size=8)
    found = view({"id": "0", "video": _film()})["video"]
    assert found.shape == (1, 4, 3, 8, 8)
    assert _numbers(found[0], view) == pytest.approx([2, 7, 12, 17], abs=1e-4)


def test_several_clips_take_different_frames_of_each_part() -> None:
    view = ClipOrText(frames=2, size=8, clips=3)
    found = view({"id": "0", "video": _film(12)})["video"]
    assert [_numbers(clip, view) for clip in found] == [
        pytest.approx([1, 7], abs=1e-4),
        pytest.approx([3, 9], abs=1e-4),
        pytest.approx([5, 11], abs=1e-4),
    ]


@pytest.mark.parametrize("upright", [False, True])
def test_three_crops_lie_along_the_longer_side(upright: bool) -> None:
    film = np.zeros((4, 8, 24, 3), dtype=np.uint8)
    film[:, :, 8:16], film[:, :, 16:] = 100, 200
    if upright:
        film = film.transpose(0, 2, 1, 3)
    view = ClipOrText(frames=2, size=8, crops=3)
    found = view({"id": "0", "video": film})["video"]
    assert [_numbers(crop, view) for crop in found] == [pytest.approx([n, n], abs=1e-4) for n in (0, 10, 20)]
    assert ClipOrText(frames=2, size=8, clips=4, crops=3)({"id": "0", "video": film})["video"].shape[0] == 12


def test_what_a_row_has() -> None:
    view = ClipOrText(frames=2, size=8)
    assert set(view({"id": "0", "video": _film(), "text": ["a dog", "a cat"]})) == {"video", "text"}
    assert view({"id": "0", "text": "a dog"}) == {"text": "a dog"}
    with pytest.raises(BadRow, match="neither a video nor a text"):
        view({"id": "0", "video": None, "text": None})
    with pytest.raises(KeyError, match="video"):
        view({"id": "0"})


def test_rows_that_cannot_be_used() -> None:
    with pytest.raises(BadRow, match="it has no label"):
        LabelledClip()({"id": "0", "video": _film(), "label": None}, np.random.default_rng(0))
    with pytest.raises(BadRow):
        LabelledClip()({"id": "0", "video": b"no film", "label": 0}, np.random.default_rng(0))


@pytest.mark.parametrize("settings", [{"frames": 0}, {"size": 0}, {"clips": 0}, {"crops": 2}])
def test_unusable_settings_of_inference(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, crops 1 or 3"):
        ClipOrText(**settings)  # type: ignore[arg-type]


def test_unusable_settings_of_training() -> None:
    with pytest.raises(ValueError, match="frames must be at least 1; got 0"):
        LabelledClip(frames=0)


def _tokens(texts: Sequence[str]) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[len(text)] for text in texts])}


def test_training_batches_are_mixed_by_their_first_draw() -> None:
    view, rng = LabelledClip(frames=2, size=8), np.random.default_rng
    samples = [view({"id": "0", "video": _film(), "label": n}, rng(n)) for n in range(4)]
    batch = collate_clips(samples, _tokens, Mixing())
    wanted = Mixing()(torch.stack([s["video"] for s in samples]), torch.arange(4), rng(samples[0]["draw"]))
    assert batch.keys() == wanted.keys() and all(torch.equal(batch[name], wanted[name]) for name in batch)


def test_batches_for_inference_are_not_mixed() -> None:
    view = ClipOrText(frames=2, size=8)
    samples = [view({"id": "0", "video": _film(), "text": text}) for text in ("a", "dog")]
    batch = collate_clips(samples, _tokens, Mixing())
    assert set(batch) == {"video", "input_ids"} and batch["video"].shape == (2, 1, 2, 3, 8, 8)
    assert batch["input_ids"].tolist() == [[1], [3]]
    assert torch.equal(batch["video"][0], samples[0]["video"])
