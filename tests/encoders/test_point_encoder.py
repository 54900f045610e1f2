"""The voxel network: where points go, what comes back at a place, and what a run stores of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterpoint.encoders import assets
from counterpoint.encoders.correspondence import Correspondence, at_points, correspondence, transported
from counterpoint.encoders.points import PointEncoder

NAME = "voxel4?range=4,-1,2&cell=1,1,0.5&levels=2"


def _cloud(count: int = 30, seed: int = 0, **more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    xyz = (torch.rand(1, count, 3, generator=generator) - 0.5) * torch.tensor([9.0, 9.0, 3.5])
    return {"xyz": xyz, "valid": torch.ones(1, count, dtype=torch.bool), **more}


def test_points_are_averaged_in_their_cells() -> None:
    encoder = PointEncoder(NAME)
    assert encoder.grid.shape == (6, 8, 8)
    cloud = _cloud()
    cloud["valid"][0, :5] = False
    voxels = encoder._voxels(cloud)
    wanted = torch.zeros_like(voxels)
    members: dict[tuple[int, int, int], list[Tensor]] = {}
    for place, valid in zip(cloud["xyz"][0], cloud["valid"][0], strict=True):
        x, y, z = place.tolist()
        cell = (int((z + 1) // 0.5), int((y + 4) // 1), int((x + 4) // 1))
        if not valid or not all(0 <= c < n for c, n in zip(cell, (6, 8, 8), strict=True)):
            continue
        inner = [(x + 4) % 1 - 0.5, (y + 4) % 1 - 0.5, ((z + 1) % 0.5) / 0.5 - 0.5, (z + 1) / 3]
        members.setdefault(cell, []).append(encoder.point(torch.tensor(inner)))
    assert len(members) > 10
    for (z, y, x), values in members.items():
        wanted[0, :4, z, y, x] = torch.stack(values).mean(dim=0)
        wanted[0, 4, z, y, x] = torch.tensor(1.0 + len(values)).log()
    torch.testing.assert_close(voxels, wanted, atol=1e-5, rtol=1e-5)


def test_a_volume_is_read_between_the_centres_of_its_cells() -> None:
    encoder = PointEncoder(NAME)
    axes = [torch.arange(size, dtype=torch.float64) for size in encoder.grid.shape]
    ramp = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]  # (1, 3, Z, Y, X): each cell holds its own index
    places = torch.tensor([[[0.3, -1.2, 0.6], [-3.5, 3.5, -0.75], [40.0, 0.5, 0.25]]], dtype=torch.float64)
    places.requires_grad_()
    found = encoder.at(ramp, places)
    torch.testing.assert_close(found[0, 0], torch.tensor([2.7, 2.3, 3.8], dtype=torch.float64))
    torch.testing.assert_close(found[0, 1], torch.tensor([0.0, 7.0, 0.0], dtype=torch.float64))
    assert found[0, 2, 2] == 7, "beyond the outermost centre its value is kept"
    found[0, 0, 0].backward()
    torch.testing.assert_close(places.grad[0, 0], torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))


def test_padding_and_company_change_nothing() -> None:
    encoder = PointEncoder(NAME).eval()
    short, long = _cloud(20, 1), _cloud(30, 2)
    padded = {
        "xyz": torch.cat([torch.nn.functional.pad(short["xyz"], (0, 0, 0, 10), value=0.3), long["xyz"]]),
        "valid": torch.cat([torch.nn.functional.pad(short["valid"], (0, 10)), long["valid"]]),
    }
    with torch.no_grad():
        torch.testing.assert_close(encoder(padded)[0], encoder(short)[0], atol=1e-6, rtol=0)
        points = encoder.per_point(padded)
        torch.testing.assert_close(points[0, :20], encoder.per_point(short)[0], atol=1e-6, rtol=0)
    assert not points[0, 20:].any()


def test_order_of_points_changes_nothing_and_every_weight_learns() -> None:
    encoder = PointEncoder("voxel4?range=4,-1,2&cell=1&features=intensity+colour&levels=3")
    cloud = _cloud(40)
    cloud["features"] = torch.rand(1, 40, 4)
    order = torch.randperm(40)
    shuffled = {name: value[:, order] for name, value in cloud.items()}
    torch.testing.assert_close(encoder(cloud), encoder(shuffled), atol=1e-6, rtol=0)
    encoder.per_point(cloud).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    changed = {**cloud, "features": 1 - cloud["features"]}
    assert not torch.allclose(encoder(cloud), encoder(changed), atol=1e-4)


def test_half_precision_keeps_places_and_counts() -> None:
    encoder, cloud = PointEncoder("voxel8?range=4,-1,2&cell=0.1,0.1,1&levels=2").eval(), _cloud(2000)
    with torch.no_grad():
        exact = encoder.per_point(cloud)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = encoder.per_point(cloud)
    assert (half - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_run_stores_what_the_network_is_built_from(tmp_path: Path) -> None:
    encoder = PointEncoder(NAME)
    assets.save(torch.nn.ModuleDict({"encoder": encoder}), tmp_path)
    with assets.loading(tmp_path):
        again = PointEncoder(NAME)
    assert again.grid == encoder.grid and again.levels == encoder.levels
    again.load_state_dict(encoder.state_dict())
    cloud = _cloud()
    torch.testing.assert_close(again(cloud), encoder(cloud))


def test_parts_are_frozen_by_name_and_by_level() -> None:
    def trained(what: str) -> set[str]:
        names = [n for n, p in PointEncoder(NAME, trainable=what).named_parameters() if p.requires_grad]
        return {name.split(".")[0] for name in names}

    assert trained("head") == {"last"} and trained("last:1") == {"up", "last"}
    assert trained("last:2") == {"down", "up", "last"} and trained("none") == set()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("voxel", "nearest: voxel"),
        ("voxel16?range=1,2", "range must be X0,Y0,Z0,X1,Y1,Z1 or R,Z0,Z1"),
        ("voxel16?range=4,2,1", "each from low to high"),
        ("voxel16?range=a,1,2", "numbers with commas"),
        ("voxel16?cell=0", "one or three lengths above 0"),
        ("voxel16?cell=0.01", "raise cell or narrow range"),
        ("voxel16?features=smell", "must be some of intensity, colour"),
        ("voxel16?levels=1", "levels must be from 2 to 6"),
        ("voxel16?depth=1", "unknown option"),
    ],
)
def test_names_that_mean_nothing_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PointEncoder(name)


def test_wrong_shapes_are_named() -> None:
    encoder = PointEncoder(NAME + "&features=intensity")
    with pytest.raises(ValueError, match=r"features must be \(B, N, 1\) for intensity"):
        encoder({**_cloud(), "features": torch.zeros(1, 30, 3)})
    with pytest.raises(ValueError, match=r"xyz must be \(B, N, 3\), valid \(B, N\)"):
        encoder({"xyz": torch.zeros(1, 3), "valid": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"volume is \(1, 2, 3\), xyz \(1, 4, 3\)"):
        encoder.at(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3))


def test_correspondence_attends_to_valid_points_alone() -> None:
    first, second = torch.randn(2, 5, 3).double(), torch.randn(2, 4, 3).double()
    valid = torch.tensor([[True, True, False, True], [False] * 4])
    shares = correspondence(first, second, valid, temperature=0.5)
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(2, 5).double())
    assert not shares[0, :, 2].any()
    torch.testing.assert_close(transported(first, second, valid, temperature=0.5), shares @ second)
    cosine = torch.nn.functional.cosine_similarity(first[0, 1], second[0], dim=1)[valid[0]]
    torch.testing.assert_close(shares[0, 1][valid[0]], (cosine / 0.5).softmax(dim=0))


def test_padding_joins_no_statistic_of_the_correspondence_network() -> None:
    torch.manual_seed(0)
    network = Correspondence(3, 4, temperature=0.2)
    first, second = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    valid = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    found = network(first, second, valid, valid)
    noisy = [torch.where(valid.unsqueeze(2), points, 100.0) for points in (first, second)]
    for ours, other in zip(found, network(*noisy, valid, valid), strict=True):
        torch.testing.assert_close(ours[valid], other[valid])
    swapped = network(second, first, valid, valid)
    torch.testing.assert_close(found[0][valid], swapped[1][valid])
    assert not at_points(network.layers, first, valid)[~valid].any()
