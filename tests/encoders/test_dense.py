"""Maps and joint vectors of places from CLIP's own towers and from networks that know no text."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.dense import Dense, DenseStages, pixel_text_scores
from counterpoint.encoders.image import ImageEncoder

CLIPS = ("fixture:resnet", "fixture:vit")
NETWORKS = ("test_resnet?size=64", "test_vit?size=64", "test_convnext?size=64", "test_efficientnet?size=64")


@cache
def _clip(name: str) -> ClipEncoder:
    return ClipEncoder(name).eval()


def _images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _found(encoder: ClipEncoder | ImageEncoder, height: int, width: int, dim: int) -> tuple[DenseStages, Dense]:
    torch.manual_seed(0)
    stages = DenseStages(encoder, dim, encoder.size).eval()
    return stages, stages(encoder, _images(height, width))


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_brings_its_joint_space_along(name: str) -> None:
    clip = _clip(name)
    _, found = _found(clip, clip.size, clip.size, clip.dim)
    with torch.no_grad():
        torch.testing.assert_close(found.whole, clip.encode_image(_images(clip.size, clip.size)), rtol=1e-4, atol=1e-5)
        tokens = clip.image_tokens(_images(clip.size, clip.size))
    torch.testing.assert_close(found.cells.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*CLIPS, *NETWORKS])
def test_four_sizes_of_map(name: str) -> None:
    encoder = _clip(name) if name in CLIPS else ImageEncoder(name).eval()
    stages, found = _found(encoder, encoder.size, 2 * encoder.size, 7 if name in NETWORKS else encoder.dim)
    sizes = [tuple(tensor.shape[2:]) for tensor in found.maps]
    assert [tensor.shape[1] for tensor in found.maps] == stages.channels
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 4 and len(set(sizes)) >= 3
    assert tuple(found.cells.shape[2:]) == sizes[stages.level]
    assert found.cells.shape[3] == 2 * found.cells.shape[2]
    assert found.whole.shape == (2, found.cells.shape[1])


@pytest.mark.parametrize("name", NETWORKS[:2])
def test_other_networks_are_projected_and_their_mean_stands_for_the_picture(name: str) -> None:
    encoder = ImageEncoder(name).eval()
    stages, found = _found(encoder, 64, 64, 7)
    assert found.cells.shape[:2] == (2, 7)
    torch.testing.assert_close(found.whole, found.cells.flatten(2).mean(dim=2))
    assert stages.project is not None
    images = _images(64, 64).requires_grad_()
    stages(encoder, images).cells.square().sum().backward()
    assert all(parameter.grad is not None for parameter in stages.project.parameters())
    assert images.grad is not None and float(images.grad.abs().sum()) > 0


def test_looking_at_a_network_does_not_change_it() -> None:
    encoder = ImageEncoder("test_resnet?size=64").train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    DenseStages(encoder, 7, 64)
    assert encoder.training and encoder.model.training
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", CLIPS)
def test_every_row_by_itself(name: str) -> None:
    clip = _clip(name)
    stages, found = _found(clip, clip.size, clip.size, clip.dim)
    with torch.no_grad():
        alone = stages(clip, _images(clip.size, clip.size)[1:])
    torch.testing.assert_close(found.cells[1:], alone.cells, rtol=1e-4, atol=1e-5)


def test_a_clip_without_places_is_refused_by_name() -> None:
    clip = ClipEncoder("dual:test_resnet+bert:1x16x2?dim=8")
    with pytest.raises(ValueError, match="has no vectors for places: name a CLIP with a ResNet or a transformer"):
        DenseStages(clip, 8, 32)


def test_too_few_blocks_for_four_maps() -> None:
    encoder = ImageEncoder("test_vit?size=64").eval()
    encoder.model.feature_info = encoder.model.feature_info[:3]
    with pytest.raises(ValueError, match="must have at least 4 blocks"):
        DenseStages(encoder, 7, 64)


def test_scores_are_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(2, 4, 2, 3, generator=generator, dtype=torch.float64)
    texts = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    found = pixel_text_scores(cells, texts)
    assert found.shape == (2, 5, 2, 3)
    for b in range(2):
        for k in range(5):
            for y in range(2):
                for x in range(3):
                    place, text = cells[b, :, y, x].tolist(), texts[b, k].tolist()
                    dot = sum(p * t for p, t in zip(place, text, strict=True))
                    assert float(found[b, k, y, x]) == pytest.approx(dot / math.hypot(*place) / math.hypot(*text))
