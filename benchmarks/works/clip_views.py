"""Two clips of a film, decoded and distorted, for CVRL."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import same_distribution
from benchmarks.pictures import colours, columns
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options

TITLE = "Clip decoding and views for CVRL, one worker of one thread"
UNIT = "pairs of clips"
FRAMES, STRIDE, SIZE = 16, 2, 224


def films() -> list[dict[str, Any]]:
    """The built-in clips as files' bytes, without the damaged copy."""
    from counterpoint.data import open_rows

    return [dict(row) for row in open_rows("clips") if row["id"] != "carphone-distorted"]


def our_clips(row: dict[str, Any], rng: np.random.Generator) -> list[Tensor]:
    """`counterpoint.views.video.ClipViews` with its defaults."""
    from counterpoint.views.video import ClipViews

    made = ClipViews(frames=FRAMES, stride=STRIDE, size=SIZE)(row, rng)
    return [made["first"], made["second"]]


class Peer:
    """PyAV from the key frame before each clip to the clip's end, then `torchvision.transforms.v2` on the clip.

    The starts are drawn by our function, the same distribution on both sides.
    """

    def __init__(self) -> None:
        from torchvision.transforms import v2

        from counterpoint.views.image import IMAGENET_MEAN, IMAGENET_STD

        def pipeline(blur: float, solarise: float) -> Any:
            return v2.Compose(
                [
                    v2.RandomResizedCrop(SIZE, scale=(0.3, 1.0), ratio=(0.5, 2.0), antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                    v2.RandomGrayscale(0.2),
                    v2.RandomApply([v2.GaussianBlur(2 * (SIZE // 20) + 1, (0.1, 2.0))], p=blur),
                    v2.RandomSolarize(128, p=solarise),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                ]
            )

        self.pipelines = (pipeline(1.0, 0.0), pipeline(0.1, 0.2))

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> list[Tensor]:
        """Both clips, (3, T, size, size) each."""
        import av

        from counterpoint.views.clip_sampling import frame_numbers, two_starts

        with av.open(io.BytesIO(row["video"])) as container:
            stream = container.streams.video[0]
            frames, drawn = stream.frames, rng.random(4)
            starts = two_starts(
                frames, FRAMES, STRIDE, interval=float(drawn[0]), places=(float(drawn[1]), float(drawn[2]))
            )
            order = (starts.first, starts.second) if drawn[3] < 0.5 else (starts.second, starts.first)
            clips = [
                self._clip(container, stream, frame_numbers(start, FRAMES, STRIDE, frames).tolist()) for start in order
            ]
        return [pipe(clip).transpose(0, 1) for pipe, clip in zip(self.pipelines, clips, strict=True)]

    def _clip(self, container: Any, stream: Any, numbers: list[int]) -> Tensor:
        """(T, 3, H, W) uint8."""
        first = stream.start_time or 0
        container.seek(first + int(numbers[0] / stream.average_rate / stream.time_base), stream=stream)
        wanted, found = set(numbers), {}
        for number, frame in self._numbered(container, stream, first):
            if number in wanted:
                found[number] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
            if number >= numbers[-1]:
                break
        last = found[max(found)]
        return torch.stack([found.get(number, last) for number in numbers])

    @staticmethod
    def _numbered(container: Any, stream: Any, first: int) -> Iterator[tuple[int, Any]]:
        for frame in container.decode(stream):
            yield round((frame.pts - first) * stream.time_base * stream.average_rate), frame


def clips_job(make: Any, options: Options) -> Job:
    """Every film once."""
    clips, rows = make(), films()[2:] if options.tiny else films()
    rng = np.random.default_rng(options.round)

    def run() -> None:
        for row in rows:
            clips(row, rng)

    def output() -> Arrays:
        draws, own = 20 if options.tiny else 150, np.random.default_rng(7)
        torch.manual_seed(7)
        made = [clips(rows[number % len(rows)], own) for number in range(draws)]
        found: dict[str, np.ndarray] = {}
        for place in (0, 1):
            tall = [pair[place].flatten(1, 2) for pair in made]  # (3, T * size, size)
            found |= columns([colours(clip) for clip in tall], f"clip {place}")
        return found

    moved = len(rows) * 2 * 4.0 * 3 * FRAMES * SIZE**2
    return Job(run, output, warm=lambda: clips(rows[-1], rng), moved=moved)


def cases(options: Options) -> list[Case]:
    """The paper's clips: 16 frames, every second one, 224 pixels."""
    if options.device != "cpu":
        return []
    return [
        Case(
            name=f"2 x {FRAMES} frames of {SIZE} pixels",
            sides={
                OURS: partial(clips_job, lambda: our_clips, options),
                "PyAV, torchvision v2": partial(clips_job, Peer, options),
            },
            items=1 if options.tiny else 3,
            compare=same_distribution(),
            bars=[Bar("speed", at_least=2.0)],
            threads=1,
            note="The built-in films: 640 x 272, 1280 x 720 and 176 x 144 pixels. Compared: colour means, contrast, "
            "saturation and sharpness of either clip, in 150 draws each.",
        )
    ]
