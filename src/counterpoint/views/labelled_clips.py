"""Clips with labels: a few frames spread over a film, distorted alike, for training; a film or a text for inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow, Row
from counterpoint.data.videos import open_video
from counterpoint.views import pixels
from counterpoint.views.captions import caption_candidates
from counterpoint.views.clip_sampling import evenly_spaced
from counterpoint.views.image import CLIP_MEAN, CLIP_STD, OneView, Triple
from counterpoint.views.mixing import Mixing

__all__ = ["ClipOrText", "LabelledClip", "SpreadClip", "collate_clips", "drawn_frames"]

_BOX = 2 * pixels.ATTEMPTS + 2
_REST = 14
"""Uniform numbers that decide where a crop lies, and what happens to it. All are always drawn."""
_CROPS = (1, 3)


def drawn_frames(frames: int, drawn: np.ndarray) -> np.ndarray:
    """(T,) numbers of frames, one from each of T equal parts of a film, from T numbers in [0, 1).

    A film with fewer frames than parts repeats some.
    """
    count = len(drawn)
    return np.minimum(((np.arange(count) + drawn) * frames / count).astype(np.int64), frames - 1)


@dataclass(frozen=True)
class SpreadClip(OneView):
    """Frames from all over a film, one drawn from each of equal parts.

    Crop, flip, colours and blur are drawn once, and are the same for all frames.

    Attributes:
        frames: how many.
        flip: probability of mirroring left to right. Set it to 0 where left and right mean something.
    """

    frames: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1; got {self.frames}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"video": (frames, 3, size, size)}.

        Raises:
            BadRow: no film.
        """
        when, how = rng.random(self.frames), rng.random(_BOX + _REST)
        with open_video(row["video"]) as video:
            found = video.read(drawn_frames(video.frames, when).tolist(), smallest_side=self._smallest_side())
        frames = torch.from_numpy(found).permute(0, 3, 1, 2)  # (T, 3, H, W) uint8
        box = self._box(frames[0], self.scale, how[:_BOX])
        cuts = [pixels.resize_box(frame, box, self.size, bicubic=self.bicubic) for frame in frames]
        return {"video": torch.stack([self._finish(cut, how[_BOX:]) for cut in cuts])}

    def _smallest_side(self) -> int:
        """Shorter side at which every crop that can be drawn still has a pixel for each that is wanted."""
        narrowest = self.scale[0] * min(self.ratio[0], 1 / self.ratio[1])
        return math.ceil(self.size / math.sqrt(narrowest))


@dataclass(frozen=True)
class LabelledClip(SpreadClip):
    """A `SpreadClip` with the label. The defaults are X-CLIP's for Kinetics (arXiv 2208.02816 and its code)."""

    scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey: float = 0.2

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"video": (frames, 3, size, size), "label": int, "draw": int for `Mixing`}.

        Raises:
            BadRow: no film, or no label.
        """
        if row["label"] is None:
            raise BadRow("it has no label")
        clip = super().__call__(row, rng)
        return {**clip, "label": int(row["label"]), "draw": int(rng.integers(2**31))}


@dataclass(frozen=True)
class ClipOrText:
    """Inference: what a row has of a film and a text (of several candidates the first).

    Attributes:
        frames: of a clip; clip c of C has, of each of `frames` equal parts, what lies at (c + 1/2) / C of the part.
        size: side of the squares, in pixels; the shorter side of the film is resized to it.
        clips: different choices of frames.
        crops: 1 cuts the centred square, 3 also those at both ends of the longer side.
        mean, std: per-channel normalisation of values in [0, 1].
    """

    frames: int = 8
    size: int = 224
    clips: int = 1
    crops: int = 1
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __post_init__(self) -> None:
        if min(self.frames, self.size, self.clips) < 1 or self.crops not in _CROPS:
            raise ValueError(f"frames, size and clips must be at least 1, crops 1 or 3; got {self}")

    def __call__(self, row: Row) -> dict[str, Any]:
        """One row -> {"video": (clips * crops, frames, 3, size, size)}, {"text": str}, or both.

        Raises:
            BadRow: a film that cannot be decoded, an empty text, or neither.
            KeyError: the row has neither column.
        """
        sample: dict[str, Any] = {}
        if row.get("video") is not None:
            sample["video"] = self.views(row["video"])
        if row.get("text") is not None:
            sample["text"] = caption_candidates(row)[0]
        if not sample:
            if "video" in row or "text" in row:
                raise BadRow("it has neither a video nor a text")
            raise KeyError("video")
        return sample

    def views(self, value: Any) -> Tensor:
        """A film -> (clips * crops, frames, 3, size, size)."""
        with open_video(value) as video:
            numbers = evenly_spaced(video.frames, self.frames * self.clips)
            numbers = numbers.reshape(self.frames, self.clips).T  # (clips, frames)
            found = video.read(numbers.flatten().tolist(), smallest_side=self.size)
        frames = torch.from_numpy(found).permute(0, 3, 1, 2)  # (clips * frames, 3, H, W) uint8
        height, width = frames.shape[2:]
        side, views = min(height, width), []
        for share in (0.5,) if self.crops == 1 else (0.0, 0.5, 1.0):
            left, top = round(share * (width - side)), round(share * (height - side))
            box = (left, top, left + side, top + side)
            cuts = [pixels.to_float(pixels.resize_box(frame, box, self.size, bicubic=True)) for frame in frames]
            crop = torch.stack([pixels.normalise(cut, self.mean, self.std) for cut in cuts])
            views.append(crop.unflatten(0, (self.clips, self.frames)))  # (clips, frames, 3, size, size)
        return torch.stack(views, dim=1).flatten(0, 1)


def collate_clips(
    samples: Sequence[Mapping[str, Any]], tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]], mixing: Mixing
) -> dict[str, Tensor]:
    """Samples of `LabelledClip` or `ClipOrText` -> a batch of what they have.

    Training: `video` (B, T, 3, s, s), mixed; `label` (B,), `partner` (B,) and `share` (B,): see `Mixing`. Everything
    else: `video` (B, V, T, 3, s, s), `input_ids` and `attention_mask` (B, L). What is mixed is decided by the first
    sample's `draw`.
    """
    batch: dict[str, Tensor] = {}
    if "video" in samples[0]:
        batch["video"] = torch.stack([sample["video"] for sample in samples])
    if "text" in samples[0]:
        batch |= tokenize([sample["text"] for sample in samples])
    if "draw" in samples[0]:
        labels = torch.tensor([sample["label"] for sample in samples])
        batch |= mixing(batch["video"], labels, np.random.default_rng(samples[0]["draw"]))
    return batch
