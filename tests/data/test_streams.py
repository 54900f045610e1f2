"""Memory does not grow with the corpus: a large file is opened and read through in the memory of a small one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("own_cache")

MEGABYTE = 2**20

_READ = """
    import resource, sys
    from counterpoint.data import Loader, open_rows
    from counterpoint.data.line_index import RECORD_LIMIT
    import torch
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    rows = open_rows(sys.argv[1])
    opened = peak()
    count = sum(len(row["text"]) > 0 for row in rows)
    read = peak()
    last = rows[len(rows) - 1]["text"]
    loader = Loader(rows, lambda row, rng: {"length": torch.tensor(len(row["text"]))}, batch=256, seed=0)
    for number, batch in enumerate(loader.batches(0)):
        if number == 40:
            break
    print(count, opened - before, read - before, peak() - before, last)
"""


def corpus(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        for number in range(rows):
            text = f"sentence {number} of a corpus that is far too large to be held"
            file.write(f'{{"text": "{text}", "label": {number % 10}}}\n')
    return path


def read_through(path: Path) -> tuple[int, int, int, int, str]:
    command = [sys.executable, "-c", textwrap.dedent(_READ), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    count, opened, read, loaded, *words = done.stdout.split()
    return int(count), int(opened), int(read), int(loaded), " ".join(words)


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    count, opened, read, loaded, last = read_through(corpus(tmp_path / "a.jsonl", 100_000))
    assert count == 100_000 and last.startswith("sentence 99999 ")
    assert opened < 16 * MEGABYTE and read < 24 * MEGABYTE and loaded < 64 * MEGABYTE


@pytest.mark.slow
def test_a_million_rows_take_the_memory_of_a_hundred_thousand(tmp_path: Path) -> None:
    _, opened_small, read_small, loaded_small, _ = read_through(corpus(tmp_path / "small.jsonl", 100_000))
    started = time.monotonic()
    count, opened, read, loaded, last = read_through(corpus(tmp_path / "large.jsonl", 1_000_000))
    assert count == 1_000_000 and last.startswith("sentence 999999 ")
    # What may grow: 8 bytes a row for the map of line starts (file-backed), 8 for the order of the epoch.
    assert opened - opened_small < 20 * MEGABYTE and read - read_small < 24 * MEGABYTE
    assert loaded - loaded_small < 48 * MEGABYTE
    assert time.monotonic() - started < 120


def test_arrow_files_are_read_through_in_little_memory(tmp_path: Path) -> None:
    """300 MB of rows: the mapped pages are given back on the way."""
    code = """
        import resource, sys
        from pathlib import Path
        import pyarrow as pa
        from counterpoint.data import Rows
        from counterpoint.data.arrow import ArrowReader, write_arrow
        path = Path(sys.argv[1])
        schema = pa.schema([("id", pa.string()), ("image", pa.binary())])
        write_arrow(path, ({"id": str(n), "image": bytes([n % 256]) * 100_000} for n in range(3000)), schema, block=20)
        rows = Rows(ArrowReader([path], identity="x", id_column="id"), name="x")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        total = sum(row["image"][7] == number % 256 for number, row in enumerate(rows))
        order = [(number * 7919) % 3000 for number in range(3000)]
        total += sum(rows[number]["image"][7] == number % 256 for number in order)
        print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, path.stat().st_size)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.arrow")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total, grown, size = map(int, done.stdout.split())
    assert total == 6000 and size > 280 * MEGABYTE
    assert grown < 160 * MEGABYTE
