"""The two tiny CLIPs that ship with the library: they load, they are small, they know more than chance."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer
from safetensors import safe_open

from counterpoint.data import open_rows
from counterpoint.encoders.clip import FIXTURES, ClipEncoder
from counterpoint.encoders.fixtures.__main__ import MERGE_COUNT, measure
from counterpoint.encoders.fixtures.text_targets import frequent_words, write_merges

NAMES = ("vit", "resnet")


@pytest.fixture(scope="module", params=NAMES)
def encoder(request: pytest.FixtureRequest) -> ClipEncoder:
    return ClipEncoder(f"fixture:{request.param}", trainable="none").eval()


def folder(encoder: ClipEncoder) -> Path:
    return FIXTURES / encoder.name.removeprefix("fixture:")


def test_architecture_is_the_original_one(encoder: ClipEncoder) -> None:
    model = encoder.towers.model
    assert isinstance(model, open_clip.CLIP)
    assert isinstance(model.visual, ModifiedResNet if encoder.name.endswith("resnet") else VisionTransformer)
    assert model.attn_mask is not None and model.text_pool_type == "argmax"


def test_files_are_small_half_precision_and_attributed(encoder: ClipEncoder) -> None:
    weights = folder(encoder) / "open_clip_model.safetensors"
    assert weights.stat().st_size < 10_000_000
    with safe_open(weights, framework="pt") as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert types <= {"F16", "I64"}
    attribution = (folder(encoder) / "ATTRIBUTION.txt").read_text()
    assert "OpenMoji" in attribution and "CC BY-SA 4.0" in attribution


def test_open_clip_itself_loads_them(encoder: ClipEncoder) -> None:
    model = open_clip.create_model(f"local-dir:{folder(encoder)}").eval()
    images = torch.randn(2, 3, encoder.size, encoder.size)
    tokens = encoder.tokenize(["a red heart", "a cat"])
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode_image(images), model.encode_image(images))
        torch.testing.assert_close(
            encoder.encode_text(tokens), model.encode_text(tokens["input_ids"]), atol=1e-5, rtol=1e-4
        )


def test_any_word_can_be_written(encoder: ClipEncoder) -> None:
    tokenizer = encoder.towers.tokenizer
    assert isinstance(tokenizer, SimpleTokenizer)
    assert tokenizer.vocab_size == encoder.towers.model.vocab_size == 512 + MERGE_COUNT + 2
    text = "floccinaucinihilipilification öß 雪"
    assert tokenizer.decode(tokenizer.encode(text)).strip() == text
    ids = encoder.tokenize(["a very long name " * 30])["input_ids"]
    assert ids[0].max() == ids[0, -1] == tokenizer.eot_token_id


def test_a_row_has_the_same_vector_in_any_batch(encoder: ClipEncoder) -> None:
    images = torch.randn(7, 3, encoder.size, encoder.size)
    texts = ["a", "a cat", "red heart", "", "the sun over the sea", "clock", "a drawing of a very small bird"]

    def unit(vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=1)

    with torch.inference_mode():
        image, text = unit(encoder.encode_image(images)), unit(encoder.encode_text(encoder.tokenize(texts)))
        for size in (1, 2):
            parts = [unit(encoder.encode_image(part)) for part in images.split(size)]
            assert (torch.cat(parts) - image).abs().max() <= 1e-6
            parts = [unit(encoder.encode_text(encoder.tokenize(texts[i : i + size]))) for i in range(0, 7, size)]
            assert (torch.cat(parts) - text).abs().max() <= 1e-6


def test_better_than_chance_on_held_out_concepts(encoder: ClipEncoder) -> None:
    """200 pictures of concepts that training never showed: chance at ten answers is 0.05."""
    scores = measure(encoder, open_rows("emoji:test"))
    assert scores["text_to_image_recall_at_10"] >= 0.12
    assert scores["image_to_text_recall_at_10"] >= 0.12
    stored = json.loads((folder(encoder) / "measured.json").read_text())["trained"]
    for name, value in scores.items():
        assert value == pytest.approx(stored[name], abs=0.011), name  # two of the 200 may fall differently


def test_merges_are_made_the_same_way(encoder: ClipEncoder, tmp_path: Path) -> None:
    write_merges(tmp_path / "merges.gz", MERGE_COUNT)
    assert (tmp_path / "merges.gz").read_bytes() == (folder(encoder) / "bpe_merges.txt.gz").read_bytes()


def test_frequent_words() -> None:
    words = frequent_words(5000)
    assert len(words) == len(set(words)) == 5000
    assert {"cat", "red", "house"} <= set(words)
    assert all(word.isalpha() and word.islower() for word in words)
