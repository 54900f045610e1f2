"""Frames that talk to each other, their integration, and names that look at a video."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.frame_towers import FrameTower, OpenClipFrames, TransformersFrames, frame_tower
from counterpoint.encoders.video_clip import CrossFrames, FrameIntegration, FrameMessages, VideoPrompts

FRAMES = 3


def _video(rows: int = 2, size: int = 16, frames: int = FRAMES) -> Tensor:
    return torch.randn(rows, frames, 3, size, size, generator=torch.Generator().manual_seed(0))


@cache
def _fixture() -> ClipEncoder:
    return ClipEncoder("fixture:vit").eval()


def _transformers_clip(folder: Path) -> ClipEncoder:
    """A tiny CLIP as transformers stores it."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 99, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog"]))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return ClipEncoder(str(folder)).eval()


def _towers(folder: Path) -> list[tuple[ClipEncoder, FrameTower]]:
    encoders = [_fixture(), _transformers_clip(folder)]
    return [(encoder, frame_tower(encoder)) for encoder in encoders]


@torch.no_grad()
def test_without_messages_a_frame_is_a_picture(tmp_path: Path) -> None:
    for encoder, tower in _towers(tmp_path):
        video = _video(size=encoder.size)
        found = CrossFrames(tower, messages=False)(tower, video)
        alone = torch.stack([encoder.encode_image(clip) for clip in video])
        torch.testing.assert_close(found.frames, alone, rtol=1e-4, atol=1e-5)
        assert found.patches.shape == (2, FRAMES, found.patches.shape[2], tower.width)
        assert not list(CrossFrames(tower, messages=False).parameters())


def test_both_kinds_of_tower(tmp_path: Path) -> None:
    (first, open_clip), (second, other) = _towers(tmp_path)
    assert isinstance(open_clip, OpenClipFrames) and isinstance(other, TransformersFrames)
    for encoder, tower in ((first, open_clip), (second, other)):
        names = [name for name, _ in encoder.named_parameters()]
        own = [name for name in names if name.startswith(tower.parameters)]
        text = set(encoder.text_parameters())
        assert own and set(names) - text - set(own) <= {"towers.model.logit_scale", "towers.model.logit_bias"}


@pytest.mark.parametrize("name", ["fixture:resnet", "dual:test_vit+bert:1x32x2?dim=16&size=32&length=16"])
def test_other_towers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no image transformer of CLIP's original form: name one, such as"):
        frame_tower(ClipEncoder(name))


@torch.no_grad()
def test_messages_by_hand() -> None:
    torch.manual_seed(0)
    module = FrameMessages(8, 2).double()
    classes = torch.randn(1, 3, 8, dtype=torch.float64)
    messages = classes[0] @ module.message_fc.weight.T + module.message_fc.bias
    centred = messages - messages.mean(dim=1, keepdim=True)
    normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    attention, heads = module.message_attn, []
    query, key, value = (normed @ part.T for part in attention.in_proj_weight.chunk(3))
    for head in (slice(0, 4), slice(4, 8)):
        weights = (query[:, head] @ key[:, head].T / 2.0).softmax(dim=1)
        heads.append(weights @ value[:, head])
    wanted = messages + torch.cat(heads, dim=1) @ attention.out_proj.weight.T
    torch.testing.assert_close(module(classes)[0], wanted, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_messages_reach_the_other_frames_of_the_same_video_only() -> None:
    torch.manual_seed(0)
    tower = frame_tower(_fixture())
    cross = CrossFrames(tower)
    video = _video()
    changed = video.clone()
    changed[0, 1] += 1.0
    before, after = cross(tower, video).frames, cross(tower, changed).frames
    moved = (before - after).abs().amax(dim=2) > 1e-4
    assert moved.tolist() == [[True] * FRAMES, [False] * FRAMES]
    silent = CrossFrames(tower, messages=False)
    moved = (silent(tower, video).frames - silent(tower, changed).frames).abs().amax(dim=2) > 1e-4
    assert moved.tolist() == [[False, True, False], [False] * FRAMES]


@torch.no_grad()
def test_a_message_is_dropped_behind_the_attention() -> None:
    """The MLP sees as many tokens as there were."""
    tower = frame_tower(_fixture())
    lengths: list[tuple[int, int]] = []

    class Counting(OpenClipFrames):
        def attend(self, block: object, tokens: Tensor) -> Tensor:
            lengths.append((tokens.shape[1], 0))
            return super().attend(block, tokens)

        def think(self, block: object, tokens: Tensor) -> Tensor:
            lengths[-1] = (lengths[-1][0], tokens.shape[1])
            return super().think(block, tokens)

    assert isinstance(tower, OpenClipFrames)
    counting = Counting(tower.visual)
    CrossFrames(counting)(counting, _video(size=16))
    assert lengths == [(1 + 4 + 1, 1 + 4)] * len(tower.blocks)


@torch.no_grad()
def test_order_is_known_to_the_integration_and_to_nobody_else() -> None:
    torch.manual_seed(0)
    tower = frame_tower(_fixture())
    cross, integration = CrossFrames(tower), FrameIntegration(tower.dim, FRAMES)
    video, order = _video(), torch.tensor([2, 0, 1])
    found, turned = cross(tower, video), cross(tower, video[:, order])
    torch.testing.assert_close(turned.frames, found.frames[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.patches, found.patches[:, order], rtol=1e-4, atol=1e-4)
    assert (integration(turned.frames) - integration(found.frames)).abs().max() > 1e-4
    integration.positional_embedding.zero_()
    torch.testing.assert_close(integration(turned.frames), integration(found.frames), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_integration_adds_the_frames_without_their_positions() -> None:
    module = FrameIntegration(8, 2, heads=2, layers=0)
    frames = torch.randn(3, 2, 8)
    wanted = (2 * frames + module.positional_embedding).mean(dim=1)
    torch.testing.assert_close(module(frames), wanted)
    with pytest.raises(ValueError, match="3 frames; there are positions for 2"):
        module(torch.randn(1, 3, 8))


@torch.no_grad()
def test_prompts_are_a_residual_of_each_video_alone() -> None:
    torch.manual_seed(0)
    module = VideoPrompts(8, layers=2, heads=2, alpha=0.1, width=6)
    texts, patches = torch.randn(2, 5, 8), torch.randn(2, 3, 4, 6)
    places = module.places(patches)
    assert places.shape == (2, 4, 8)
    found = module(texts, places)
    torch.testing.assert_close(module(texts[1:], places[1:]), found[1:])
    module.alpha.zero_()
    assert not module(texts, places).any()


@torch.no_grad()
def test_places_are_averaged_over_frames_after_norm_and_projection() -> None:
    torch.manual_seed(0)
    module = VideoPrompts(8, heads=2, width=6)
    patches = 5 * torch.randn(1, 2, 1, 6) + 3
    one, two = (torch.nn.functional.layer_norm(patch, (6,)) @ module.visual_proj for patch in patches[0])
    torch.testing.assert_close(module.places(patches)[0], (one + two) / 2)


def test_new_weights_are_small() -> None:
    torch.manual_seed(0)
    modules = [FrameMessages(64, 4).message_fc, FrameIntegration(64, 4), VideoPrompts(64, width=64)]
    linears = [part for module in modules for part in module.modules() if isinstance(part, torch.nn.Linear)]
    assert len(linears) == 1 + 3 + 2 * 6
    for linear in linears:
        assert 0.01 < float(linear.weight.detach().std()) < 0.03
        assert linear.bias is None or not linear.bias.any()


def test_a_shape_that_is_no_video_is_named() -> None:
    tower = frame_tower(_fixture())
    with pytest.raises(ValueError, match=r"video must be \(B, T, 3, H, W\), got \(2, 3, 16, 16\)"):
        CrossFrames(tower)(tower, torch.zeros(2, 3, 16, 16))
