"""Small systems for tests of what stands on top of systems: one for images, one for texts, one for both."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.data.errors import BadRow
from counterpoint.data.images import decode
from counterpoint.system import System

WORDS = 512
SIDE = 8


def read_pixels(row: Mapping[str, Any]) -> dict[str, Any]:
    picture = decode(row["image"]).resize((SIDE, SIDE))
    return {"image": torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)}


def word_ids(text: str) -> Tensor:
    if not text.strip():
        raise BadRow("the text is empty")
    return torch.tensor([1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.lower().split()])


def read_words(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"ids": [word_ids(row["text"])]}


def read_both(row: Mapping[str, Any]) -> dict[str, Any]:
    sample: dict[str, Any] = {}
    if row.get("image") is not None:
        sample |= read_pixels(row)
    if row.get("text") is not None:
        sample |= read_words(row)
    if not sample:
        raise BadRow("neither image nor text")
    return sample


def pad(samples: Sequence[Mapping[str, Any]]) -> Tensor:
    ids = [sample["ids"][0] for sample in samples]
    return nn.utils.rnn.pad_sequence(ids, batch_first=True)


class ImageModel(System):
    """Convolution, batch normalisation and dropout, then a linear map."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(288, dim)
        )

    def preprocess(self) -> Any:
        return read_pixels

    def embed(self, batch: Mapping[str, Any]) -> Tensor:
        return self.net(batch["image"])


class TextModel(System):
    """A one-layer transformer with a padding mask, mean pooling."""

    needs = ("text",)

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, dim, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(dim, 2, 32, batch_first=True)

    def preprocess(self) -> Any:
        return read_words

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"ids": pad(samples)}

    def embed(self, batch: Mapping[str, Any]) -> Tensor:
        mask = batch["ids"] == 0
        hidden = self.layer(self.words(batch["ids"]), src_key_padding_mask=mask)
        return hidden.masked_fill(mask[..., None], 0).sum(1) / (~mask).sum(1, keepdim=True)


class PairModel(System):
    """Images and texts in one space: the mean colour against the mean of word vectors."""

    needs = ("image", "text")
    modality = "image-text"

    def __init__(self, colours: Mapping[str, Sequence[float]] | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 3, padding_idx=0)
        self.scale = nn.Parameter(torch.ones(()))
        with torch.no_grad():
            if colours:
                self.words.weight.zero_()
            for name, colour in (colours or {}).items():
                self.words.weight[word_ids(name)] = 20 * (torch.tensor(colour, dtype=torch.float32) - 0.5)

    def preprocess(self) -> Any:
        return read_both

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        if "image" in samples[0]:
            batch["image"] = torch.stack([sample["image"] for sample in samples])
        if "ids" in samples[0]:
            batch["ids"] = pad(samples)
        return batch

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        spaces = {}
        if "image" in batch:
            spaces["image"] = self.scale * (batch["image"].mean(dim=(2, 3)) - 0.5)
        if "ids" in batch:
            spaces["text"] = self.words(batch["ids"]).sum(1) / (batch["ids"] > 0).sum(1, keepdim=True)
        return spaces


class TokenModel(System):
    """Late interaction: a text is the set of its word vectors."""

    needs = ("text",)

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, dim, padding_idx=0)

    def preprocess(self) -> Any:
        return read_words

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"ids": pad(samples)}

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"text": nn.functional.normalize(self.words(batch["ids"]), dim=2) * (batch["ids"] > 0)[..., None]}

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        cosines = torch.einsum("qnd,kmd->qknm", queries, keys).masked_fill(~keys.any(2)[None, :, None], -2)
        mask = queries.any(2)[:, None]
        return (cosines.amax(3) * mask).sum(2) / mask.sum(2)


COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


def coloured(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Noisy pictures of one colour each, with its name as text and its number as label."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = number % len(COLOURS)
        name = list(COLOURS)[label]
        picture = np.clip(np.array(COLOURS[name]) * 0.8 + rng.normal(0.1, 0.1, (SIDE, SIDE, 3)), 0, 1)
        rows.append(
            {
                "id": f"p{number}",
                "image": (picture * 255).astype(np.uint8),
                "text": f"a {name} card number{number}",
                "label": label,
            }
        )
    return rows


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of 1 to 30 words."""
    rng = np.random.default_rng(seed)
    vocabulary = [f"word{number}" for number in range(200)]
    return [
        {"id": f"t{number}", "text": " ".join(rng.choice(vocabulary, rng.integers(1, 31)))} for number in range(count)
    ]
