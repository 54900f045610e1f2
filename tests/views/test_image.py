"""The views themselves: shapes, distributions, determinism, odd sources, wrong settings."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2

from counterpoint.data import BadRow
from counterpoint.views import pixels
from counterpoint.views.image import CLIP_MEAN, CLIP_STD, MultiCrop, OneView, Resize, TwoViews

PLAIN = {"flip": 0.0, "jitter_probability": 0.0, "grey": 0.0, "blur": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def ramp(width: int = 200, height: int = 150) -> Image.Image:
    """Red is the column, green the row, in 1 / 255 of the size: a crop tells where it was cut."""
    columns = np.broadcast_to(np.arange(width) * 255 / (width - 1), (height, width))
    rows = np.broadcast_to((np.arange(height) * 255 / (height - 1))[:, None], (height, width))
    return Image.fromarray(np.stack([columns, rows, columns * 0], axis=2).round().astype(np.uint8))


def noise() -> Image.Image:
    """Smooth colours of every hue, 200 x 150."""
    colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((200, 150), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def test_multi_crop_shapes_and_defaults() -> None:
    views = MultiCrop()({"image": ramp()}, np.random.default_rng(0))
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "crops0": (2, 3, 224, 224),
        "crops1": (6, 3, 96, 96),
    }
    assert all(view.dtype == torch.float32 and view.isfinite().all() for view in views.values())
    assert MultiCrop().std == (0.228, 0.224, 0.225)


def test_two_views_and_one_view() -> None:
    rng = np.random.default_rng(0)
    pair = TwoViews(size=32)({"image": ramp()}, rng)
    assert pair["first"].shape == pair["second"].shape == (3, 32, 32)
    assert not torch.equal(pair["first"], pair["second"])
    assert OneView(size=32)({"image": ramp()}, rng)["image"].shape == (3, 32, 32)
    assert TwoViews.moco(32).scale == (0.2, 1.0)
    assert TwoViews.simclr(32).jitter == (0.8, 0.8, 0.8, 0.2)


@pytest.mark.parametrize(
    "view", [MultiCrop(sizes=(32, 16), counts=(2, 3)), TwoViews(size=24), OneView(size=24, rotation=9)]
)
def test_a_view_depends_on_its_generator_only(view: Any) -> None:
    row = {"image": jpeg(ramp())}
    torch.manual_seed(1)
    first = view(row, np.random.default_rng(5))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = pickle.loads(pickle.dumps(view))(row, np.random.default_rng(5))
    other = view(row, np.random.default_rng(6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was not drawn from


def test_a_view_does_not_depend_on_threads() -> None:
    view, row = TwoViews(size=224), {"image": ramp(400, 300)}
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([view(row, np.random.default_rng(seed)) for seed in range(4)])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_views_can_be_trained_on() -> None:
    weight = torch.ones(3, requires_grad=True)
    for view in (MultiCrop(sizes=(16, 8), counts=(1, 2)), TwoViews(size=16), OneView(size=16, rotation=9), Resize(16)):
        for made in view({"image": ramp()}, np.random.default_rng(0)).values():
            assert made.is_contiguous() and not made.is_inference()
            (made.movedim(-3, -1) * weight).sum().backward()


def boxes(view: TwoViews, count: int, seed: int) -> np.ndarray:
    """(count, 4): left, right, top, bottom of drawn crops as shares of the picture, read off the ramp."""
    rng, row = np.random.default_rng(seed), {"image": ramp()}
    found = []
    for _ in range(count // 2):
        for crop in view(row, rng).values():
            red, green = crop[0].mean(dim=0), crop[1].mean(dim=1)
            step = (red[-1] - red[0]) / (len(red) - 1) / 2, (green[-1] - green[0]) / (len(green) - 1) / 2
            found.append([red[0] - step[0], red[-1] + step[0], green[0] - step[1], green[-1] + step[1]])
    return np.array(found)


def test_crops_have_torchvisions_distribution() -> None:
    scale = (0.08, 1.0)
    ours = boxes(TwoViews(size=32, scale=scale, **PLAIN), 1600, seed=0)
    torch.manual_seed(0)
    theirs = []
    for _ in range(3000):
        top, left, height, width = RandomResizedCrop.get_params(torch.empty(3, 150, 200), list(scale), [3 / 4, 4 / 3])
        theirs.append([left / 200, (left + width) / 200, top / 150, (top + height) / 150])
    reference = np.array(theirs)

    def measures(found: np.ndarray) -> dict[str, np.ndarray]:
        wide, high = found[:, 1] - found[:, 0], found[:, 3] - found[:, 2]
        return {
            "area": wide * high,
            "log aspect": np.log(wide * 200 / (high * 150)),
            "left": found[:, 0],
            "top": found[:, 2],
        }

    mine, known = measures(ours), measures(reference)
    for name in mine:
        # Two-sample Kolmogorov-Smirnov distance; 0.06 is the 0.1 % level for 1600 and 3000 draws.
        grid = np.sort(np.concatenate([mine[name], known[name]]))
        first = np.searchsorted(np.sort(mine[name]), grid, side="right") / len(mine[name])
        second = np.searchsorted(np.sort(known[name]), grid, side="right") / len(known[name])
        assert np.abs(first - second).max() < 0.06, name


def test_colours_have_torchvisions_distribution() -> None:
    plain = {**PLAIN, "jitter_probability": 0.8, "grey": 0.2}
    ours, rng = [], np.random.default_rng(0)
    view, source = TwoViews(size=24, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), **plain), noise()
    for _ in range(500):
        ours += list(view({"image": source}, rng).values())
    torch.manual_seed(0)
    jitter = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8)
    reference = v2.Compose(
        [v2.Resize((24, 24)), v2.ToDtype(torch.float32, scale=True), jitter, v2.RandomGrayscale(0.2)]
    )
    theirs = [reference(pixels.to_bytes(source)) for _ in range(1000)]

    def measures(crops: list[torch.Tensor]) -> dict[str, np.ndarray]:
        stacked = torch.stack(crops)  # (1000, 3, 24, 24)
        found = {name: stacked[:, channel].mean((1, 2)) for channel, name in enumerate(("red", "green", "blue"))}
        found["contrast"] = stacked.mean(1).std((1, 2))
        found["saturation"] = (stacked.amax(1) - stacked.amin(1)).mean((1, 2))
        return {name: values.numpy() for name, values in found.items()}

    mine, known = measures(ours), measures(theirs)
    for name in mine:
        assert ks_2samp(mine[name], known[name]).pvalue > 1e-3 / len(mine), name


def test_scale_ranges_of_multi_crop() -> None:
    view = MultiCrop(sizes=(16, 16), counts=(2, 2), **PLAIN)
    rng, areas = np.random.default_rng(0), {"crops0": [], "crops1": []}
    for _ in range(200):
        for name, crops in view({"image": ramp()}, rng).items():
            for crop in crops:
                wide = (crop[0, 0, -1] - crop[0, 0, 0]) * 16 / 15
                areas[name].append(float(wide * (crop[1, -1, 0] - crop[1, 0, 0]) * 16 / 15))
    assert min(areas["crops0"]) > 0.12 and max(areas["crops0"]) > 0.9
    assert min(areas["crops1"]) > 0.04 and max(areas["crops1"]) < 0.16


def test_probabilities_of_flip_and_grey() -> None:
    view = TwoViews(size=8, **{**PLAIN, "flip": 0.3, "grey": 0.25})
    rng, flips, greys = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        for crop in view({"image": ramp(40, 30)}, rng).values():
            flips += int(crop[0, 4, 0] > crop[0, 4, -1])
            greys += int(torch.equal(crop[0], crop[1]))
    # Grey crops keep the direction of the red ramp only mostly: count flips generously. Four standard errors.
    assert greys / 2000 == pytest.approx(0.25, abs=0.04)
    assert flips / 2000 == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_sources_of_any_mode(mode: str) -> None:
    image = ramp(20, 20).convert("L").convert("I") if mode == "I;16" else ramp(20, 20)
    views = MultiCrop(sizes=(16, 8), counts=(1, 2))({"image": image.convert(mode)}, np.random.default_rng(0))
    assert views["crops0"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (1, 40), (40, 1), (8, 8, 1)])
def test_tiny_sources(shape: tuple[int, ...]) -> None:
    row = {"image": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}
    for view in (MultiCrop(), TwoViews(size=16), OneView(size=16, rotation=10), Resize(16)):
        for seed in range(3):
            assert all(value.isfinite().all() for value in view(row, np.random.default_rng(seed)).values())


def test_a_picture_that_cannot_be_read_is_a_bad_row() -> None:
    with pytest.raises(BadRow):
        MultiCrop()({"image": b"no picture"}, np.random.default_rng(0))


def test_large_jpegs_are_decoded_small_enough_but_never_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = [], pixels.read
    monkeypatch.setattr(pixels, "read", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1])
    data = jpeg(ramp(1600, 1200))
    TwoViews(size=32, scale=(0.9, 1.0))({"image": data}, np.random.default_rng(0))
    assert seen[-1].shape == (3, 150, 200)
    cuts, resize = [], pixels.resize_box
    monkeypatch.setattr(pixels, "resize_box", lambda p, box, size, **k: cuts.append(box) or resize(p, box, size, **k))
    for seed in range(40):
        TwoViews(size=64, scale=(0.05, 1.0))({"image": data}, np.random.default_rng(seed))
    assert all(min(right - left, bottom - top) >= 63 for left, top, right, bottom in cuts)


def test_resize_is_a_centre_crop() -> None:
    image = Resize(size=50, mean=(0.0,) * 3, std=(1.0,) * 3)({"image": ramp(200, 100)})["image"]
    assert image.shape == (3, 50, 50)
    assert image[0, 0, 0] == pytest.approx(0.25, abs=0.01)
    assert image[0, 0, -1] == pytest.approx(0.75, abs=0.01)
    whole = Resize(size=50, mean=(0.0,) * 3, std=(1.0,) * 3, crop="squash")({"image": ramp(200, 100)})["image"]
    assert whole[0, 0, 0] == pytest.approx(0.0, abs=0.02)
    assert whole[0, 0, -1] == pytest.approx(1.0, abs=0.02)


def test_resize_agrees_with_torchvisions_preprocessing() -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, ToTensor
    from torchvision.transforms import Resize as Shorter

    image = ramp(120, 90)
    chain = Compose(
        [Shorter(32, InterpolationMode.BICUBIC), CenterCrop(32), ToTensor(), Normalize(CLIP_MEAN, CLIP_STD)]
    )
    ours = Resize(32, CLIP_MEAN, CLIP_STD)({"image": image})["image"]
    assert (ours - chain(image)).abs().max() < 0.06  # cutting first, then resizing: differs at the border only


@pytest.mark.parametrize(
    ("view", "settings", "named"),
    [
        (MultiCrop, {"sizes": (32, 16), "counts": (2,)}, "counts"),
        (MultiCrop, {"sizes": (0, 16)}, "sizes"),
        (MultiCrop, {"counts": (0, 0)}, "counts"),
        (MultiCrop, {"scales": ((0.5, 0.2), (0.05, 0.14))}, "scales"),
        (TwoViews, {"scale": (0.0, 1.0)}, "scale"),
        (TwoViews, {"size": -3}, "size"),
        (TwoViews, {"flip": 1.5}, "flip"),
        (TwoViews, {"jitter": (0.4, 0.4, 0.4, 0.7)}, "jitter"),
        (TwoViews, {"blur_radius": (2.0, 0.1)}, "blur_radius"),
        (OneView, {"std": (0.0, 1.0, 1.0)}, "std"),
        (OneView, {"ratio": (0.0, 1.0)}, "ratio"),
        (Resize, {"size": 0}, "size"),
        (Resize, {"crop": "middle"}, "crop"),
    ],
)
def test_wrong_settings_are_named(view: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        view(**settings)
