"""A folder with a few small pictures, texts and runs, in which the pages and the command line are tried."""

from __future__ import annotations

import atexit
import csv
import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import counterpoint

NAMES = ("zero", "one", "two")


def make_data(folder: Path) -> None:
    """photos/, labelled/, captions.csv, catalogue.csv, sentences.txt, documents.jsonl, pairs.jsonl, door.jpg."""
    digits = load_digits()
    pictures = [Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)) for image in digits.images]
    chosen = [np.flatnonzero(digits.target == label)[:8] for label in range(len(NAMES))]
    (folder / "photos").mkdir(parents=True)
    captions = []
    for label, places in enumerate(chosen):
        (folder / "labelled" / NAMES[label]).mkdir(parents=True)
        for number, place in enumerate(places):
            pictures[place].save(folder / "photos" / f"{NAMES[label]}-{number}.png")
            pictures[place].save(folder / "labelled" / NAMES[label] / f"{number}.png")
            captions.append((f"photos/{NAMES[label]}-{number}.png", f"picture {number} of a {NAMES[label]}"))
    pictures[0].convert("RGB").save(folder / "door.jpg")
    for name, columns in (("captions.csv", ("image", "text")), ("catalogue.csv", ("photo", "title"))):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *captions])
    words = [f"Sentence number {number} speaks of {NAMES[number % 3]} and little else." for number in range(60)]
    (folder / "sentences.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    documents = [{"text": " ".join(words[start : start + 4])} for start in range(0, 60, 4)]
    pairs = [
        {"query": f"where is {number} spoken of?", "positive": words[number], "negative": words[number - 7]}
        for number in range(40)
    ]
    for name, rows in (("documents.jsonl", documents), ("pairs.jsonl", pairs)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(lines, encoding="utf-8")


def make_runs() -> None:
    """runs/swav, clip, esimcse and classifier, from the data in the current folder."""
    counterpoint.train("swav", "photos/", out="runs/swav", recipe="tiny", quiet=True)
    counterpoint.train("clip", "captions.csv", out="runs/clip", recipe="tiny", quiet=True)
    counterpoint.train("esimcse", "sentences.txt", out="runs/esimcse", recipe="tiny", quiet=True)
    counterpoint.fit("gda_clip", "labelled/", model="fixture:vit", out="runs/classifier", augmentations=1, quiet=True)


@cache
def made() -> Path:
    """A folder with all of it, made once in a session, removed at its end; copy it before you write."""
    folder = Path(tempfile.mkdtemp(prefix="counterpoint-workshop-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_data(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        make_runs()
    finally:
        os.chdir(before)
    return folder


def copy(made: Path, folder: Path) -> Path:
    """A copy that a test may write into."""
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder
