"""A thousand pictures of which three in a hundred are broken: the run ends, and says exactly what it left out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import dirty_folder, plain

from counterpoint.data import DataError, Loader, Row, Rows, open_rows
from counterpoint.data.images import decode

pytestmark = pytest.mark.usefixtures("own_cache")


def view(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    image = decode(row["image"]).resize((8, 8))
    return {"image": torch.from_numpy(np.asarray(image).copy())}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, dict[str, str]]:
    folder = tmp_path_factory.mktemp("dirty") / "pictures"
    good, bad = dirty_folder(folder)
    return folder, good, bad


def one_pass(rows: Rows, workers: int) -> tuple[Loader, list[dict[str, Any]]]:
    loader = Loader(rows, view, batch=50, seed=0, workers=workers, drop_last=False)
    return loader, list(loader.batches(0))


def check(loader: Loader, batches: list[dict[str, Any]], good: int, bad: dict[str, str], prefix: str = "") -> None:
    assert loader.seen == good + len(bad) == 1000
    assert sum(len(batch["_ids"]) for batch in batches) == good
    assert sum(len(batch["image"]) for batch in batches) == good
    skipped = dict(loader.skipped)
    assert len(skipped) == len(loader.skipped)
    assert set(skipped) == {f"{prefix}{name}" for name in bad}
    words = {"zero.jpg": "empty file", "page.jpg": "HTML", "noise.png": "not a picture", "header-only.png": "not a"}
    for name, kind in bad.items():
        reason = skipped[f"{prefix}{name}"]
        assert words.get(kind, "damaged") in reason, f"{name}: {reason}"


def test_folder(dirty: tuple[Path, int, dict[str, str]]) -> None:
    folder, good, bad = dirty
    rows = open_rows(folder)
    loader, batches = one_pass(rows, 0)
    check(loader, batches, good, bad)
    busy, same = one_pass(rows, 2)
    check(busy, same, good, bad)
    assert loader.skipped == busy.skipped
    assert all(
        torch.equal(a["image"], b["image"]) and a["_ids"] == b["_ids"] for a, b in zip(batches, same, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_tar_with_more_faults(dirty: tuple[Path, int, dict[str, str]], tmp_path: Path, workers: int) -> None:
    """The same pictures in a shard, with captions; besides, doubled names, missing halves and a cut-off end."""
    folder, good, bad = dirty
    path = tmp_path / "dirty.tar"
    names = {}
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(sorted(folder.iterdir())):
            ending = "".join(file.suffixes[-1:]) or ".jpg"
            key = f"{number:04d}"
            names[file.name] = f"dirty/{key}"
            _add(tar, f"{key}{ending}", file.read_bytes())
            _add(tar, f"{key}.txt", f"caption {number}".encode())
        for number in range(20):
            _add(tar, f"{number:04d}.txt", b"a second caption")
            _add(tar, f"lonely-{number}.jpg", plain(number))
        _add(tar, "last.jpg", bytes(100_000))
    path.write_bytes(path.read_bytes()[:-90_000])
    rows = open_rows(path)
    reasons = [why for _, why in rows.skipped]
    assert sum("a second text" in why for why in reasons) == 20
    assert sum("missing pair: no text" in why for why in reasons) == 20
    assert sum("ends inside" in why or "cut short" in why for why in reasons) >= 1
    loader, batches = one_pass(rows, workers)
    check(loader, batches, good, {names[name]: kind for name, kind in bad.items()})
    assert rows[0]["text"] == "caption 0"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_run_stops_above_the_rate(tmp_path: Path, workers: int) -> None:
    _, bad = dirty_folder(tmp_path / "worse", good=170)
    assert len(bad) / 200 > 0.1
    with pytest.raises(DataError, match="rows cannot be used, more than max_skip_rate=0.1"):
        one_pass(open_rows(tmp_path / "worse"), workers)
