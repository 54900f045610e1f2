"""CVRL: the loss with its monitors, where clips lie, the density of the interval, and what happens to the pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.losses import nt_xent
from counterpoint.systems.cvrl import clip_agreement
from counterpoint.views import clip_pixels, pixels
from counterpoint.views.clip_sampling import frame_numbers, interval_cdf, two_starts

Arrays = Mapping[str, np.ndarray]


def ntxent(given: Arrays) -> Arrays:
    hidden = torch.from_numpy(np.array(given["hidden"])).requires_grad_()
    temperature = float(given["temperature"])
    rows = normalize(hidden, dim=1) if int(given["normalize"]) else hidden
    first, second = rows.chunk(2)
    loss = 2 * nt_xent(first, second, temperature=temperature)
    loss.backward()
    accuracy, entropy = clip_agreement(first, second, temperature=temperature)
    assert hidden.grad is not None
    found = {"loss": loss.detach(), "accuracy": accuracy, "entropy": entropy, "grad_hidden": hidden.grad}
    return {name: value.numpy() for name, value in found.items()}


def temporal_sampler(given: Arrays) -> Arrays:
    names = ("start_1", "start_2", "start_bound", "last_1", "last_2")
    found: dict[str, list[int]] = {name: [] for name in names}
    columns = (given[name].tolist() for name in ("num_frames", "clip_len", "stride", "u", "r"))
    for frames, length, stride, interval, place in zip(*columns, strict=True):
        starts = two_starts(frames, length, stride, interval=interval, places=(place, place))
        last = [int(frame_numbers(start, length, stride, frames)[-1]) for start in starts[:2]]
        for name, value in zip(names, (*starts, *last), strict=True):
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def cdf(given: Arrays) -> Arrays:
    columns = (given[name].tolist() for name in ("k", "max_offset", "power"))
    return {"cdf": np.array([interval_cdf(k, longest, power=p) for k, longest, p in zip(*columns, strict=True)])}


def photometric(given: Arrays) -> Arrays:
    frames, height, width, _ = given["clip"].shape

    def tall() -> Tensor:
        """The clip as one tall picture, anew: operations work in place."""
        clip = torch.from_numpy(np.array(given["clip"])).permute(3, 0, 1, 2)
        return clip.reshape(3, frames * height, width).contiguous()

    blurred = clip_pixels.blur(
        tall().unflatten(1, (frames, height)),
        float(given["blur_sigma"]),
        reach=int(given["blur_kernel_arg"]) // 2,
    )
    found = {
        "brightness": pixels.adjust_brightness(tall(), float(given["brightness"])),
        "contrast": clip_pixels.adjust_contrast(tall(), float(given["contrast"])),
        "saturation": clip_pixels.adjust_saturation(tall(), float(given["saturation"])),
        "hue": pixels.adjust_hue(tall(), float(given["hue"])),
        "grayscale": pixels.to_grey(tall()).expand(3, -1, -1),
        "blur": blurred.flatten(1, 2),
        "solarize": clip_pixels.solarise(tall()),
    }
    return {
        f"out_{name}": value.unflatten(1, (frames, height)).permute(1, 2, 3, 0).numpy() for name, value in found.items()
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "cvrl/ntxent": ntxent,
    "cvrl/temporal_sampler": temporal_sampler,
    "cvrl/interval_cdf": cdf,
    "cvrl/photometric": photometric,
}
