"""An X-CLIP as transformers stores it gives the same logits here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.systems.x_clip import XCLIP
from counterpoint.views.labelled_clips import LabelledClip

FRAMES, NAMES = 3, ["a dog", "a red apple", "dog"]


def _stored(folder: Path, **changes: Any) -> transformers.XCLIPModel:
    """A tiny X-CLIP with large weights, so that every part matters, and a tokenizer whose end has the highest id."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    mit = {"mit_hidden_size": 24, "mit_intermediate_size": 96, "mit_num_attention_heads": 1, **changes}
    config = transformers.XCLIPConfig(
        text_config={**tower, "vocab_size": 9, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 16, "patch_size": 8, "num_frames": FRAMES, **mit},
        projection_dim=24,
        prompt_num_attention_heads=1,
    )
    torch.manual_seed(0)
    model = transformers.XCLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "a", "dog", "red", "apple", "[MASK]", "[CLS]", "[SEP]"])
    )
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return model


def _system(folder: Path, **arguments: Any) -> XCLIP:
    return XCLIP(str(folder), view=LabelledClip(frames=arguments.pop("frames", FRAMES), size=16), **arguments).eval()


@torch.no_grad()
def test_the_same_logits(tmp_path: Path) -> None:
    theirs, ours = _stored(tmp_path), _system(tmp_path)
    video = torch.randn(2, FRAMES, 3, 16, 16)
    tokens = ours.encoder.tokenize(NAMES)
    wanted = theirs(pixel_values=video, **tokens)
    found = ours.logits(*ours.watch(video), ours.name_features(NAMES))
    torch.testing.assert_close(found, wanted.logits_per_video, rtol=1e-4, atol=1e-4)
    unit = torch.nn.functional.normalize(ours.watch(video)[0], dim=1)
    torch.testing.assert_close(unit, wanted.video_embeds, rtol=1e-4, atol=1e-5)
    assert ours.encoder.towers.video is None  # taken


def test_parts_that_are_off_are_left_out(tmp_path: Path) -> None:
    _stored(tmp_path)
    system = _system(tmp_path, messages=False, integration=0, prompts=0)
    assert {name.split(".")[0] for name in system.state_dict()} == {"encoder"}


def test_another_shape_is_refused(tmp_path: Path) -> None:
    _stored(tmp_path)
    with pytest.raises(ValueError, match=r"\(mit\) do not fit this architecture: shape of positional_embedding"):
        _system(tmp_path, frames=4)
    with pytest.raises(ValueError, match=r"\(prompts\) do not fit this architecture: .*missing"):
        _system(tmp_path, prompts=3)


def test_other_heads_are_refused(tmp_path: Path) -> None:
    _stored(tmp_path, mit_num_attention_heads=2)
    with pytest.raises(ValueError, match=r"of 24 numbers have 1 heads, the model has \(2, 1\)"):
        _system(tmp_path)


def test_an_x_clip_is_a_clip_of_pictures_too(tmp_path: Path) -> None:
    _stored(tmp_path)
    encoder = ClipEncoder(str(tmp_path))
    assert encoder.encode_image(torch.zeros(2, 3, 16, 16)).shape == (2, 24)
