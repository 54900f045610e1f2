"""Pictures of point clouds: what is nearer hides what is behind, in both views."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from counterpoint.predict.cloud_picture import cloud_colours, draw_cloud
from counterpoint.reporting.thumbnails import thumbnail

RED, GREEN = np.array([255, 0, 0], dtype=np.uint8), np.array([0, 255, 0], dtype=np.uint8)


def test_the_higher_point_is_seen_from_above_and_the_nearer_one_from_the_front() -> None:
    low = np.column_stack([np.tile(np.linspace(-5, 5, 50), 50), np.repeat(np.linspace(-5, 5, 50), 50), np.zeros(2500)])
    high = low[:1250] + [0, 0, 3.0]  # half of the area, y below 0, is covered
    xyz = np.concatenate([high, low])
    colours = np.repeat([GREEN, RED], [1250, 2500], axis=0)
    picture = draw_cloud(xyz, colours, 101)
    above, front = picture[:101], picture[102:]
    is_green, is_red = (above == GREEN).all(axis=2), (above == RED).all(axis=2)
    assert is_green[55:].sum() > 1000 and not is_red[55:].any(), "smaller y is lower in the picture"
    assert is_red[:45].sum() > 1000 and not is_green[:45].any()
    assert 20 < len(front) < 45
    assert (front[:6] == GREEN).all(axis=2).any() and (front[-6:] == RED).all(axis=2).any()
    assert not (front[:6] == RED).all(axis=2).any()


def test_a_stray_return_does_not_shrink_the_rest() -> None:
    rng = np.random.default_rng(0)
    xyz = np.concatenate([rng.uniform(-5, 5, (3000, 3)), [[5000.0, 0, 0]]])
    picture = draw_cloud(xyz, np.tile(RED, (3001, 1)), 100)
    assert (picture[:100] == RED).all(axis=2).mean() > 0.2


def test_colours_are_the_points_own_or_their_height() -> None:
    xyz = np.column_stack([np.zeros(100), np.zeros(100), np.linspace(0, 4, 100)])
    own = np.random.default_rng(0).random((100, 3))
    np.testing.assert_array_equal(cloud_colours({"xyz": xyz, "colour": own}), np.round(own * 255))
    found = cloud_colours({"xyz": xyz}).astype(int)
    assert found[0, 2] > found[0, 0] and found[-1, 0] > found[-1, 2]
    flat = cloud_colours({"xyz": np.zeros((4, 3))})
    assert (flat == flat[0]).all()


def test_thumbnails_fit_their_side() -> None:
    points = np.random.default_rng(0).uniform(-5, 5, (500, 3)).astype(np.float32)
    found = thumbnail("points", points, 96)
    assert isinstance(found, Image.Image) and found.mode == "RGB" and max(found.size) == 96
    assert len(np.unique(np.asarray(found).reshape(-1, 3), axis=0)) > 20


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must both be \(N, 3\)"):
        draw_cloud(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8), 50)
