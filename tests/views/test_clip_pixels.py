"""Pixel operations of clips against their definitions, written out."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from counterpoint.views import clip_pixels


def _clip(frames: int = 3, size: int = 7, seed: int = 0) -> Tensor:
    return torch.rand(3, frames, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_contrast_is_relative_to_each_channel_of_the_whole_clip(factor: float) -> None:
    clip = _clip() * torch.tensor([0.2, 0.9, 0.5]).view(1, 3, 1, 1)  # frames of different brightness
    found = clip_pixels.adjust_contrast(clip.clone().flatten(1, 2), factor).view_as(clip)
    for channel in range(3):
        mean = float(clip[channel].double().mean())
        expected = (mean + factor * (clip[channel].double() - mean)).clamp(0, 1)
        torch.testing.assert_close(found[channel].double(), expected, atol=1e-6, rtol=0)
    if factor == 0.4:
        means = clip.mean(dim=(0, 2, 3)), found.mean(dim=(0, 2, 3))
        torch.testing.assert_close(means[1].diff(), 0.4 * means[0].diff())  # a flicker stays a flicker


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_saturation_is_that_of_hue_saturation_value(factor: float) -> None:
    clip = _clip(2, 5)
    clip[:, 0, 0, 0] = 0.4  # grey
    clip[:, 0, 0, 1] = 0.0  # black
    found = clip_pixels.adjust_saturation(clip.clone().flatten(1, 2), factor).view_as(clip)
    for place in np.ndindex(2, 5, 5):
        hue, saturation, value = colorsys.rgb_to_hsv(*(float(clip[(channel, *place)]) for channel in range(3)))
        expected = colorsys.hsv_to_rgb(hue, min(1.0, saturation * factor), value)
        assert [float(found[(channel, *place)]) for channel in range(3)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_blur_is_a_gaussian_with_zeros_outside(reach: int) -> None:
    clip = _clip(2, 5)
    found = clip_pixels.blur(clip, 0.8, reach=reach)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 0.8) ** 2)
    weights /= weights.sum()
    padded = np.pad(clip.numpy().astype(np.float64), [(0, 0), (0, 0), (reach, reach), (reach, reach)])
    expected = np.zeros((3, 2, 5, 5))
    for y in range(5):
        for x in range(5):
            patch = padded[:, :, y : y + 2 * reach + 1, x : x + 2 * reach + 1]
            expected[:, :, y, x] = np.einsum("ctij,i,j->ct", patch, weights, weights)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_blur_may_reach_beyond_the_frame() -> None:
    clip = _clip(1, 3)
    found = clip_pixels.blur(clip, 2.0, reach=9)
    assert found.shape == clip.shape and torch.isfinite(found).all() and (found < clip.amax()).all()


def test_solarise_inverts_the_bright_half() -> None:
    torch.testing.assert_close(
        clip_pixels.solarise(torch.tensor([0.0, 0.49, 0.5, 1.0])), torch.tensor([0.0, 0.49, 0.5, 0.0])
    )


def test_a_cut_is_the_same_box_of_every_frame() -> None:
    frames = torch.randint(0, 256, (4, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = clip_pixels.cut(frames, (5, 2, 25, 18), 8)
    assert found.dtype == torch.uint8 and found.shape == (4, 3, 8, 8)
    for frame, cut in zip(frames, found, strict=True):
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
        expected = picture.crop((5, 2, 25, 18)).resize((8, 8), Image.Resampling.BILINEAR)
        assert np.abs(cut.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 1
