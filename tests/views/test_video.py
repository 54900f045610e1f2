"""Views of films: what is drawn once a clip, what a clip keeps, and that no more is decoded than a view needs."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.data.videos import open_video
from counterpoint.views import video as views
from counterpoint.views.video import ClipViews, FixedClips
from films import film, number_of, numbered

PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
STRONG = ClipViews(frames=5, stride=1, size=20, blur=(0.5, 0.5), solarise=(0.3, 0.3), **PLAIN)


def _picture(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _still(frames: int = 12) -> dict[str, Any]:
    """A film in which nothing happens."""
    return {"id": "still", "video": np.stack([_picture()] * frames)}


def _row(frames: int = 60) -> dict[str, Any]:
    return {"id": "numbered", "video": numbered(frames)}


def _shown(clip: Tensor) -> list[int]:
    return [number_of((frame.permute(1, 2, 0) * 255).numpy()) for frame in clip.unbind(1)]


@pytest.mark.parametrize("seed", range(12))
def test_a_still_film_gives_still_clips(seed: int) -> None:
    """Exactly: every draw is one for the whole clip."""
    sample = STRONG(_still(), np.random.default_rng(seed))
    for clip in (sample["first"], sample["second"]):
        assert clip.shape == (3, 5, 20, 20) and clip.dtype == torch.float32
        assert (clip == clip[:, :1]).all()
    assert not torch.equal(sample["first"], sample["second"])


def test_the_ablations() -> None:
    settings = {"frames": 5, "stride": 1, "size": 20, **PLAIN}
    each = ClipViews(spatial="frame", **settings)(_still(), np.random.default_rng(0))["first"]
    assert all(not torch.equal(each[:, 0], each[:, place]) for place in range(1, 5))
    untouched = ClipViews(spatial="none", **settings)(_still(), np.random.default_rng(0))
    assert torch.equal(untouched["first"], untouched["second"])
    assert torch.equal(untouched["first"], FixedClips(frames=5, size=20, stride=1, **PLAIN)(_still())["video"][0])


def test_frames_of_a_clip_lie_one_stride_apart_and_clips_differ_in_time() -> None:
    view = ClipViews(frames=6, stride=3, size=48, spatial="none", **PLAIN)
    orders, intervals = set(), set()
    for seed in range(60):
        sample = view(_row(), np.random.default_rng(seed))
        numbers = [_shown(sample[name]) for name in ("first", "second")]
        for shown in numbers:
            assert np.diff(shown).tolist() == [3] * 5 and 0 <= shown[0] < 60 - 15
        orders.add(numbers[0][0] <= numbers[1][0])
        intervals.add(abs(numbers[0][0] - numbers[1][0]))
    assert orders == {True, False}, "which of the two comes first is drawn"
    assert len(intervals) > 12 and max(intervals) > 20


def test_the_density_of_the_interval_is_a_setting() -> None:
    means = {}
    for kind in ("decreasing", "uniform", "increasing"):
        view = ClipViews(frames=4, stride=1, size=48, spatial="none", interval=kind, **PLAIN)
        found = []
        for seed in range(80):
            sample = view(_row(), np.random.default_rng(seed))
            found.append(abs(_shown(sample["first"])[0] - _shown(sample["second"])[0]))
        means[kind] = float(np.mean(found)) / 57
    assert means["decreasing"] == pytest.approx(1 / 3, abs=0.07)
    assert means["uniform"] == pytest.approx(1 / 2, abs=0.08)
    assert means["increasing"] == pytest.approx(2 / 3, abs=0.07)


def test_short_films_are_repeated() -> None:
    sample = ClipViews(frames=6, stride=2, size=48, spatial="none", **PLAIN)(_row(4), np.random.default_rng(0))
    shown = _shown(sample["first"])
    assert np.diff(shown).tolist() in ([2, -2, 2, -2, 2], [-2, 2, -2, 2, -2])
    assert ClipViews(frames=6, size=16, **PLAIN)(_row(1), np.random.default_rng(0))["first"].shape == (3, 6, 16, 16)


def test_the_same_draws_give_the_same_clips() -> None:
    first, second = (STRONG(_row(), np.random.default_rng(5)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = pickle.loads(pickle.dumps(STRONG))(_row(), np.random.default_rng(5))
    assert torch.equal(first["second"], again["second"])


def test_blur_and_solarise_are_each_clip_s_own() -> None:
    """A bright film: only the second clip is inverted."""
    view = ClipViews(
        frames=2, size=20, jitter_probability=0.0, grey=0.0, blur=(0.0, 0.0), solarise=(0.0, 1.0), scale=(1.0, 1.0)
    )
    bright = {"id": "bright", "video": np.full((6, 24, 24, 3), 240, dtype=np.uint8)}
    sample = view(bright, np.random.default_rng(0))
    assert float(sample["first"].min()) > 1.5 and float(sample["second"].max()) < -1.0
    plain = ClipViews(frames=2, size=20, jitter_probability=0.0, grey=0.0, blur=(1.0, 0.0), **PLAIN)
    sample = plain(_still(), np.random.default_rng(3))
    rough = [float(sample[name].diff(dim=3).abs().mean()) for name in ("first", "second")]
    assert rough[0] < 0.8 * rough[1]


def test_no_more_pixels_are_decoded_than_the_smallest_crop_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int | None]] = []

    class _Watched:
        def __init__(self, value: Any) -> None:
            self.video = open_video(value)
            self.frames, self.height, self.width = self.video.frames, self.video.height, self.video.width

        def read(self, indices: list[int], *, smallest_side: int | None = None) -> np.ndarray:
            asked.append((len(indices), smallest_side))
            return self.video.read(indices, smallest_side=smallest_side)

        def __enter__(self) -> _Watched:
            return self

        def __exit__(self, *error: object) -> None:
            self.video.close()

    monkeypatch.setattr(views, "open_video", _Watched)
    row = {"id": "large", "video": film(numbered(30, 192, 256))}
    for seed in range(5):
        ClipViews(frames=4, size=16)(row, np.random.default_rng(seed))
    FixedClips(frames=4, size=16)(row)
    assert [count for count, _ in asked] == [8] * 5 + [4]
    assert all(side is not None and 16 <= side <= 45 for _, side in asked)  # 16 / sqrt(0.3 * 0.5) at the utmost


def test_a_view_cuts_the_same_piece_out_of_a_film_however_large_it_is() -> None:
    """Red grows to the right and green downwards: the colours say where a pixel comes from."""
    for seed in range(6):
        cuts = []
        for height, width in ((48, 64), (480, 640)):
            frame = np.zeros((height, width, 3), dtype=np.uint8)
            frame[..., 0] = np.round(np.linspace(0, 255, width))
            frame[..., 1] = np.round(np.linspace(0, 255, height))[:, None]
            view = ClipViews(frames=2, size=16, blur=(0.0, 0.0), jitter_probability=0.0, grey=0.0, **PLAIN)
            row = {"id": "a", "video": np.stack([frame] * 4)}
            cuts.append(view(row, np.random.default_rng(seed))["first"])
        assert float((cuts[0] - cuts[1]).abs().max()) < 1.5 / 48 + 0.5 / 16  # whole pixels of both frames


def test_fixed_clips_span_the_film_or_lie_evenly_in_it() -> None:
    whole = FixedClips(frames=5, size=48, **PLAIN)(_row(50))["video"]
    assert whole.shape == (1, 3, 5, 48, 48) and _shown(whole[0]) == [5, 15, 25, 35, 45]
    pieces = FixedClips(frames=4, size=48, stride=2, clips=3, **PLAIN)(_row(50))["video"]
    assert [_shown(clip)[0] for clip in pieces] == [7, 22, 36] and _shown(pieces[1]) == [22, 24, 26, 28]
    short = FixedClips(frames=4, size=48, stride=2, clips=2, **PLAIN)(_row(3))["video"]
    assert _shown(short[0]) == [0, 2, 1, 0] and torch.equal(short[0], short[1])


def test_squares_lie_evenly_along_the_longer_side() -> None:
    frames = np.zeros((1, 10, 30, 3), dtype=np.uint8)
    frames[..., 0] = np.arange(30) * 8
    for video in (frames, frames.transpose(0, 2, 1, 3)):
        found = FixedClips(frames=1, size=10, crops=3, **PLAIN)({"id": "a", "video": video})["video"]
        starts = [round(float(square[0, 0, 0, 0]) * 255 / 8) for square in found]
        assert found.shape == (3, 3, 1, 10, 10) and starts == [0, 10, 20]
        centred = FixedClips(frames=1, size=10, **PLAIN)({"id": "a", "video": video})["video"]
        assert torch.equal(centred[0], found[1])


def test_several_clips_and_crops_keep_their_order() -> None:
    """Clip by clip, and within a clip square by square."""
    settings: dict[str, Any] = {"frames": 2, "size": 24, "stride": 1, **PLAIN}
    found = FixedClips(clips=2, crops=2, **settings)(_row(20))["video"]
    for square in (0, 1):
        alone = FixedClips(clips=1, crops=2, **settings)
        for clip, start in enumerate((4, 14)):
            piece = {"id": "piece", "video": numbered(20)[start : start + 2]}
            assert torch.equal(found[2 * clip + square], alone(piece)["video"][square])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frames": 0}, "frames must be at least 1"),
        ({"stride": 0}, "stride"),
        ({"size": 0}, "size"),
        ({"scale": (0.5, 1.5)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"blur_radius": (0.0, 1.0)}, "blur_radius"),
        ({"blur": (1.2, 0.0)}, "blur: a probability"),
        ({"flip": -0.1}, "flip: a probability"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, "jitter"),
        ({"power": 0.0}, "power"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ClipViews(**settings)


def test_settings_of_fixed_clips() -> None:
    with pytest.raises(ValueError, match="needs a stride"):
        FixedClips(clips=2)
    with pytest.raises(ValueError, match="crops"):
        FixedClips(crops=0)


def test_films_that_cannot_be_read_are_bad_rows() -> None:
    for view in (lambda row: STRONG(row, np.random.default_rng(0)), FixedClips()):
        with pytest.raises(BadRow):
            view({"id": "a", "video": b"no film"})
