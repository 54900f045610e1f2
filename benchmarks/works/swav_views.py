"""SwAV's views from JPEG bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.compare import same_distribution
from benchmarks.pictures import colours, columns, jpegs, ramp, where
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options

TITLE = "SwAV views from JPEG bytes, one worker of one thread"
UNIT = "images"
MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
PLAIN: dict[str, Any] = {"flip": 0.0, "jitter_probability": 0.0, "grey": 0.0, "blur": 0.0}
PLAIN_PEER: dict[str, Any] = {"hf_prob": 0.0, "cj_prob": 0.0, "random_gray_scale": 0.0, "gaussian_blur": 0.0}
Views = Callable[[bytes], list[Tensor]]
Maker = Callable[[bool, int], Views]


def our_views(plain: bool, seed: int) -> Views:
    """`counterpoint.views.image.MultiCrop`; with `plain` crops alone."""
    from counterpoint.views.image import MultiCrop

    view, rng = MultiCrop(mean=MEAN, std=STD, **(PLAIN if plain else {})), np.random.default_rng(seed)

    def call(jpeg: bytes) -> list[Tensor]:
        made = view({"image": jpeg}, rng)
        return [crop for name in ("crops0", "crops1") for crop in made[name]]

    return call


def peer_views(plain: bool, seed: int) -> Views:
    """lightly's `SwaVTransform` on what its data set opens: a PIL picture in RGB."""
    import torch
    from lightly.transforms import SwaVTransform

    torch.manual_seed(seed)
    transform = SwaVTransform(normalize={"mean": list(MEAN), "std": list(STD)}, **(PLAIN_PEER if plain else {}))
    return lambda jpeg: list(transform(Image.open(io.BytesIO(jpeg)).convert("RGB")))


def views_job(make: Maker, options: Options, places: tuple[int, ...]) -> Job:
    """Every photograph once.

    Args:
        make: (plain, seed) -> views of a picture.
        options: of the run.
        places: numbers of the views whose distributions are compared, one for each size.
    """
    pictures, views = jpegs(3 if options.tiny else None), make(False, options.round)

    def run() -> None:
        for jpeg in pictures:
            views(jpeg)

    def output() -> Arrays:
        draws = 40 if options.tiny else 600
        found: dict[str, np.ndarray] = {}
        crops, distorted, picture = make(True, 1), make(False, 2), ramp()
        boxes = [crops(picture) for _ in range(draws)]
        # Each photograph equally often on both sides; one view a draw, so that the samples are independent.
        tones = [distorted(pictures[number % len(pictures)]) for number in range(draws)]
        for place in places:
            found |= columns([where(made[place], MEAN, STD) for made in boxes], f"view {place}")
            found |= columns([colours(made[place]) for made in tones], f"view {place}")
        return found

    moved = len(pictures) * sum(4.0 * view.numel() for view in views(pictures[0]))
    return Job(run, output, warm=lambda: views(pictures[0]), moved=moved)


def views_case(
    name: str, options: Options, ours: Maker, peer: tuple[str, Maker], *, places: tuple[int, ...], note: str
) -> Case:
    """The built-in photographs through both sides.

    Args:
        name: what is made of a photograph.
        options: of the run.
        ours: (plain, seed) -> views of a picture.
        peer: its name, and the same of it.
        places: as for `views_job`.
        note: what the reader is told.
    """
    count = 3 if options.tiny else 19
    return Case(
        name=f"{name}, {count} photographs",
        sides={side: partial(views_job, make, options, places) for side, make in ((OURS, ours), peer)},
        items=count,
        compare=same_distribution(),
        bars=[Bar("speed", at_least=4.0)],
        threads=1,
        note=note,
    )


def cases(options: Options) -> list[Case]:
    """The paper's crops: 2 of 224 pixels, 6 of 96."""
    if options.device != "cpu":
        return []
    note = (
        "The built-in photographs (300 to 1,400 pixels) as JPEG of quality 90, decoding included. Compared: place and "
        "size of crops, colour means, contrast, saturation and sharpness, in 600 draws each."
    )
    peer = ("lightly SwaVTransform", peer_views)
    return [views_case("2 x 224 + 6 x 96 pixels", options, our_views, peer, places=(0, 2), note=note)]
