"""SimCLR's and MoCo's views from JPEG bytes."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.work import Case, Options
from benchmarks.works.swav_views import MEAN, PLAIN, PLAIN_PEER, STD, Views, views_case

TITLE = "SimCLR and MoCo views from JPEG bytes, one worker of one thread"
UNIT = "images"


def our_views(recipe: str, plain: bool, seed: int) -> Views:
    """`counterpoint.views.image.TwoViews`."""
    import dataclasses

    from counterpoint.views.image import TwoViews

    base = TwoViews.simclr() if recipe == "SimCLR" else TwoViews.moco()
    view = dataclasses.replace(base, mean=MEAN, std=STD, **(PLAIN if plain else {}))
    rng = np.random.default_rng(seed)

    def call(jpeg: bytes) -> list[Tensor]:
        made = view({"image": jpeg}, rng)
        return [made["first"], made["second"]]

    return call


def peer_views(recipe: str, plain: bool, seed: int) -> Views:
    """lightly's `SimCLRTransform` and `MoCoV2Transform`."""
    import torch
    from lightly.transforms import MoCoV2Transform, SimCLRTransform

    torch.manual_seed(seed)
    kind = SimCLRTransform if recipe == "SimCLR" else MoCoV2Transform
    transform = kind(normalize={"mean": list(MEAN), "std": list(STD)}, **(PLAIN_PEER if plain else {}))
    return lambda jpeg: list(transform(Image.open(io.BytesIO(jpeg)).convert("RGB")))


def cases(options: Options) -> list[Case]:
    """Both recipes at 224 pixels."""
    if options.device != "cpu":
        return []
    return [
        views_case(
            f"{recipe}, 2 x 224 pixels",
            options,
            partial(our_views, recipe),
            (f"lightly {recipe}Transform", partial(peer_views, recipe)),
            places=(0,),
            note="Photographs and comparison as for SwAV's views.",
        )
        for recipe in ("SimCLR", "MoCo")
    ]
