"""Every pixel operation against torchvision's definition."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as reference

from counterpoint.data import BadRow
from counterpoint.data.images import decode
from counterpoint.views import pixels

FACTORS = (0.0, 0.3, 1.0, 1.37, 1.8)


def picture(height: int = 37, width: int = 53, seed: int = 0) -> torch.Tensor:
    """Smooth colours with some saturated, black, white and grey places: (3, H, W) uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    array = np.array(small)
    array[:4], array[4:8], array[8:10, :, 1:] = 0, 255, 0
    array[10:13] = array[10:13, :, :1]
    return torch.from_numpy(array).permute(2, 0, 1)


@pytest.fixture
def values() -> torch.Tensor:
    return pixels.to_float(picture())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_operations_follow_torchvision(values: torch.Tensor, name: str, factor: float) -> None:
    expected = getattr(reference, f"adjust_{name}")(values.clone(), factor)
    torch.testing.assert_close(getattr(pixels, f"adjust_{name}")(values, factor), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.31, -1 / 6, -0.1, -0.05, 0.0, 0.05, 1 / 12, 0.2, 0.25, 1 / 3, 0.5])
def test_hue_follows_torchvision(values: torch.Tensor, shift: float) -> None:
    expected = reference.adjust_hue(values.clone(), shift)
    torch.testing.assert_close(pixels.adjust_hue(values, shift), expected, atol=5e-6, rtol=0)


def test_hue_is_the_same_in_strips(monkeypatch: pytest.MonkeyPatch, values: torch.Tensor) -> None:
    whole = pixels.adjust_hue(values.clone(), 0.13)
    monkeypatch.setattr(pixels, "_STRIP", 100)
    assert torch.equal(pixels.adjust_hue(values, 0.13), whole)


def test_grey_follows_torchvision(values: torch.Tensor) -> None:
    expected = reference.rgb_to_grayscale(values, num_output_channels=1)
    torch.testing.assert_close(pixels.to_grey(values), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("radius", [0.4, 1.0, 1.9])
def test_blur_is_a_gaussian(values: torch.Tensor, radius: float) -> None:
    reach = max(1, round(3 * radius))
    padded = torch.nn.functional.pad(values[None], [reach] * 4, mode="replicate")[0]
    expected = reference.gaussian_blur(padded, [2 * reach + 1] * 2, [radius] * 2)
    expected = expected[:, reach:-reach, reach:-reach]
    torch.testing.assert_close(pixels.blur(values, radius), expected, atol=2e-6, rtol=0)


def test_blur_is_close_to_pillow(values: torch.Tensor) -> None:
    image = Image.fromarray(picture().permute(1, 2, 0).numpy())
    expected = torch.from_numpy(np.array(image.filter(ImageFilter.GaussianBlur(1.5)))).permute(2, 0, 1) / 255
    assert (pixels.blur(values, 1.5) - expected).abs().mean() < 0.01


def test_blur_of_a_tiny_picture_and_of_a_flat_one() -> None:
    assert pixels.blur(torch.rand(3, 2, 1), 2.0).shape == (3, 2, 1)
    flat = torch.full((1, 9, 9), 0.25)
    torch.testing.assert_close(pixels.blur(flat, 2.0), flat)


@pytest.mark.parametrize("bicubic", [False, True])
def test_resizing_a_box_gives_pillows_values(bicubic: bool) -> None:
    source = picture(90, 120)
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    cut = Image.fromarray(source[:, 10:70, 20:100].permute(1, 2, 0).numpy()).resize((32, 32), method)
    ours = pixels.resize_box(source, (20, 10, 100, 70), 32, bicubic=bicubic)
    difference = (ours.permute(1, 2, 0).int() - torch.from_numpy(np.array(cut)).int()).abs()
    assert ours.dtype == torch.uint8
    assert difference.max() <= 1


def encoded(image: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("RGB", {"quality": 90}),
        ("RGB", {"quality": 30, "progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1, "optimize": True}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"kind": "PNG"}),
    ],
)
def test_reading_gives_what_decode_gives(mode: str, settings: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(picture(213, 331).permute(1, 2, 0).numpy()).convert(mode), **settings)
    for side in (None, 200, 50):
        found = pixels.read(data, smallest_side=side)
        assert found.dtype == torch.uint8 and found.stride(0) == 1
        assert torch.equal(found, pixels.to_bytes(decode(data, smallest_side=side)))


def test_reading_turns_upright_and_names_damage(tmp_path: Path) -> None:
    image = Image.fromarray(picture(40, 60).permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels.read(encoded(image, exif=exif)).shape == (3, 60, 40)
    data = encoded(image)
    (tmp_path / "a.jpg").write_bytes(data)
    assert torch.equal(pixels.read(tmp_path / "a.jpg"), pixels.read({"bytes": data, "path": None}))
    with pytest.raises(BadRow, match="damaged picture"):
        pixels.read(data[: len(data) // 2])
    with pytest.raises(BadRow, match="not a picture"):
        pixels.read(b"no picture")


def test_reading_does_not_need_torchvisions_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(picture(40, 60).permute(1, 2, 0).numpy()))
    expected, calls = pixels.read(data), []

    def missing(_: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise RuntimeError("built without libjpeg")

    monkeypatch.setattr("torchvision.io.decode_jpeg", missing)
    assert torch.equal(pixels.read(data), expected)
    assert calls == [1]


def test_results_go_where_they_are_told_to() -> None:
    place, mean, std = torch.empty(2, 3, 37, 53), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    assert pixels.to_float(picture(), flip=True, out=place[1]).data_ptr() == place[1].data_ptr()
    assert torch.equal(place[1], pixels.to_float(picture(), flip=True))
    grey = pixels.to_grey(place[1])
    assert torch.equal(pixels.normalise(grey, mean, std, out=place[0]), pixels.normalise(grey.clone(), mean, std))
    assert torch.equal(pixels.blur(place[1], 1.0), place[1])


def test_to_float_mirrors_and_is_independent_of_its_source() -> None:
    source = picture()
    plain, mirrored = pixels.to_float(source), pixels.to_float(source, flip=True)
    assert torch.equal(plain.flip(2), mirrored)
    plain.zero_()
    assert source.sum() > 0


def test_normalise_follows_torchvision(values: torch.Tensor) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    expected = reference.normalize(values.clone(), list(mean), list(std))
    torch.testing.assert_close(pixels.normalise(values, mean, std), expected, atol=2e-6, rtol=0)
    grey = torch.rand(1, 4, 4)
    torch.testing.assert_close(
        pixels.normalise(grey.clone(), mean, std),
        reference.normalize(grey.expand(3, 4, 4).clone(), list(mean), list(std)),
    )


def test_rotation_turns_about_the_centre_and_fills_with_white() -> None:
    values = torch.zeros(3, 9, 9)
    values[:, 4, 8] = 1.0  # right of the centre
    turned = pixels.rotate(values, 90.0)  # anticlockwise: now above it
    assert turned[0, 0, 4] == pytest.approx(1.0, abs=1e-5)
    assert pixels.rotate(torch.zeros(3, 9, 9), 45.0)[0, 0, 0] == pytest.approx(1.0, abs=1e-5)
    image = Image.fromarray(picture(40, 40).permute(1, 2, 0).numpy())
    expected = np.array(image.rotate(20, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255)))
    ours = pixels.rotate(pixels.to_float(picture(40, 40)), 20.0).permute(1, 2, 0).numpy() * 255
    assert np.abs(ours[12:28, 12:28] - expected[12:28, 12:28]).max() < 3


def test_crop_box_takes_the_first_that_fits() -> None:
    box = pixels.crop_box(100, 50, areas=[0.9, 0.08], ratios=[4 / 3, 1.0], place=(0.0, 0.999))
    assert box == (0, 30, 20, 50)  # 0.9 of the area at 4:3 is higher than 50; 0.08 of it is 20 x 20


def test_crop_box_falls_back_to_the_centre() -> None:
    assert pixels.crop_box(300, 30, areas=[1.0], ratios=[1.0], place=(0.5, 0.5)) == (130, 0, 170, 30)
    assert pixels.crop_box(1, 1, areas=[0.01], ratios=[1.0], place=(0.9, 0.9)) == (0, 0, 1, 1)


def test_crop_boxes_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = (int(side) for side in rng.integers(1, 60, 2))
        ratios = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), 3)).tolist()
        place = (float(rng.random()), float(rng.random()))
        left, top, right, bottom = pixels.crop_box(
            width, height, areas=rng.uniform(0.05, 1, 3).tolist(), ratios=ratios, place=place
        )
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
