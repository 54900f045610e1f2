"""Every built-in set whose package is here: splits, columns, labels. What is not here is skipped by name."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from counterpoint.data import DataError, Rows, list_builtins, open_rows
from counterpoint.data.images import decode
from counterpoint.data.open import builtin_module
from counterpoint.data.packages import find_package
from counterpoint.data.splits import hash_order, hash_share, hashed_split


def need(name: str) -> None:
    try:
        for package in builtin_module(name).NEEDS:
            find_package(package)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", list_builtins())
def test_description(name: str) -> None:
    module = builtin_module(name)
    assert module.__doc__ and len(module.__doc__) > 100
    assert module.LICENCE and module.SPLITS
    documented = module.__doc__.lower()
    assert all(split.split("-")[0] in documented for split in module.SPLITS if split != "all")


@pytest.mark.parametrize("name", list_builtins())
def test_every_split_opens_and_reads(name: str) -> None:
    need(name)
    for split in builtin_module(name).SPLITS:
        rows = open_rows(f"{name}:{split}")
        assert len(rows) > 0
        row = rows[len(rows) // 2]
        assert set(rows.columns) | {"id"} == set(row)
        assert len(set(rows.column("id"))) == len(rows)
        for column, value in row.items():
            if column == "image":
                assert decode(value).mode == "RGB"
            elif column in ("text", "other", "translation", "group"):
                assert isinstance(value, str) and value.strip()
        if "label" in rows.columns:
            found = set(rows.column("label"))
            assert rows.class_names and found <= set(range(len(rows.class_names)))
            # A split of one language still numbers it like all of them.
            assert len(found) == len(rows.class_names) or (name == "prompts" and len(found) == 1)


@pytest.mark.parametrize("name", ["digits", "mnist5k", "textures", "emoji", "ui-translations"])
def test_splits_do_not_overlap(name: str) -> None:
    need(name)
    ids = [set(open_rows(f"{name}:{split}").column("id")) for split in ("train", "validation", "test")]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])


@pytest.mark.parametrize(("name", "total"), [("digits", 1797), ("mnist5k", 5000), ("textures", 2000)])
def test_labelled_splits_cover_everything(name: str, total: int) -> None:
    need(name)
    sizes = {split: len(open_rows(f"{name}:{split}")) for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == total
    assert 0.65 < sizes["train"] / total < 0.75 and 0.15 < sizes["test"] / total < 0.25


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    for row in open_rows("digits:validation").select(range(20)):
        number = int(row["id"])
        assert row["label"] == data.target[number]
        pixels = np.asarray(decode(row["image"]))[..., 0]
        assert np.array_equal(np.round(pixels / (255 / 16)), data.images[number])


def test_mnist_pictures() -> None:
    need("mnist5k")
    rows = open_rows("mnist5k:all")
    assert np.bincount(rows.column("label")).tolist() == [500] * 10
    assert decode(rows[0]["image"]).size == (28, 28)


def test_lee() -> None:
    need("lee")
    pairs = open_rows("lee:test")
    assert len(pairs) == 50 * 49 // 2 and len(open_rows("lee:test-documents")) == 50
    scores = np.array(pairs.column("score"))
    assert scores.min() >= 0 and scores.max() <= 1 and scores.std() > 0.05
    sentences = open_rows("lee")
    assert len(open_rows("lee:documents")) == 300 and len(sentences) > 2000
    assert len(set(sentences.column("text"))) == len(sentences)
    tests = " ".join(open_rows("lee:test-documents").column("text"))
    assert not any(text in tests for text in sentences.column("text") if len(text) > 40)


@pytest.mark.parametrize(("name", "count", "first"), [("wordsim", 353, "love"), ("simlex", 999, "old")])
def test_word_pairs(name: str, count: int, first: str) -> None:
    need(name)
    rows = open_rows(name)
    assert len(rows) == count and rows[0]["text"] == first
    assert 0 <= min(rows.column("score")) < max(rows.column("score")) <= 10


def test_translations_keep_a_sentence_on_one_side() -> None:
    need("ui-translations")
    texts = [set(open_rows(f"ui-translations:{split}").column("text")) for split in ("train", "test")]
    assert not texts[0] & texts[1]
    rows = open_rows("ui-translations:all")
    assert len(set(rows.column("language"))) > 90 and len(rows) > 50_000
    german = {row["text"]: row["translation"] for row in rows if row["language"] == "de"}
    assert german["Yes"] == "Ja" and '\\"' not in " ".join(german.values())


def test_photos_are_read_from_the_wheel() -> None:
    need("photos")
    sizes = {row["id"]: decode(row["image"]).size for row in open_rows("photos")}
    assert len(sizes) == 19 and sizes["astronaut"] == (512, 512)


def test_hash_splits() -> None:
    shares = [hash_share(f"key {number}") for number in range(4000)]
    assert min(shares) >= 0 and max(shares) < 1
    assert np.histogram(shares, bins=4, range=(0, 1))[0].min() > 900
    assert hash_share("a") == 0.7913742705223816, "the first 56 bits of the SHA-256 of the letter a"
    assert hash_order(["b", "a", "b"], salt="x") == hash_order(["a", "b"], salt="x")
    assert {hashed_split(f"k{n}", train=0.5, validation=0.2) for n in range(50)} == {"train", "validation", "test"}
    assert hashed_split("k", train=1.0, validation=0.0) == "train"


def test_splits_do_not_depend_on_the_hash_seed() -> None:
    code = "from counterpoint.data import open_rows; print(open_rows('digits:test').fingerprint)"
    found: set[Any] = {open_rows("digits:test").fingerprint}
    environment = {**os.environ, "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found | {done.stdout.strip()} == found


def test_names_with_the_split() -> None:
    assert open_rows("digits").name == "digits:train"
    assert isinstance(open_rows("digits:test"), Rows)
