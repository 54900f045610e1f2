from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import plain

from counterpoint.data import BadRow, DataError, Loader, Row, Rows, open_rows


def numbers(count: int = 40) -> Rows:
    return Rows.from_list([{"id": f"r{n:03d}", "text": str(n), "group": n // 4} for n in range(count)])


def draw(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    return {"value": torch.tensor(float(row["text"])), "noise": torch.from_numpy(rng.random(3)), "text": row["text"]}


def picky(row: Row, rng: np.random.Generator) -> dict[str, Any]:
    """Every tenth row is bad."""
    if int(row["text"]) % 10 == 3:
        raise BadRow("number ends in three")
    return draw(row, rng)


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys()
        and all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_hold_what_collate_returns_and_the_ids() -> None:
    loader = Loader(numbers(), draw, batch=8, seed=0)
    batches = list(loader.batches(0))
    assert loader.batches_per_epoch == len(batches) == 5
    for position, batch in enumerate(batches):
        assert batch["value"].shape == (8,) and batch["noise"].shape == (8, 3)
        assert batch["_ids"] == [f"r{int(value):03d}" for value in batch["value"]]
        assert batch["_position"] == position
    assert sorted(name for batch in batches for name in batch["_ids"]) == numbers().column("id")
    assert loader.seen == 40 and loader.skipped == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("view", [draw, picky])
def test_workers_change_nothing(workers: int, view: Any) -> None:
    quiet = Loader(numbers(), view, batch=8, seed=5, max_skip_rate=0.5)
    busy = Loader(numbers(), view, batch=8, seed=5, workers=workers, max_skip_rate=0.5)
    for epoch in (0, 1):
        assert same(list(quiet.batches(epoch)), list(busy.batches(epoch)))
    assert quiet.skipped == busy.skipped and quiet.seen == busy.seen


def test_the_global_generators_are_left_alone() -> None:
    for workers in (0, 2):
        states = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index, union-attr]
        list(Loader(numbers(), draw, batch=8, seed=0, workers=workers).batches(0))
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1] == np.random.get_state()[1].tobytes()  # type: ignore[index, union-attr]
        assert states[2] == random.getstate()


def test_samples_depend_on_seed_and_epoch_only() -> None:
    def noise(seed: int, epoch: int, batch: int = 8) -> dict[str, bytes]:
        found = Loader(numbers(), draw, batch=batch, seed=seed).batches(epoch)
        return {name: row.numpy().tobytes() for b in found for name, row in zip(b["_ids"], b["noise"], strict=True)}

    assert noise(1, 2) == noise(1, 2) == noise(1, 2, batch=5)
    assert not set(noise(1, 2).values()) & set(noise(1, 3).values())
    assert not set(noise(1, 2).values()) & set(noise(2, 2).values())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_start_gives_the_tail(workers: int, start: int) -> None:
    loader = Loader(numbers(), draw, batch=8, seed=0, workers=workers)
    whole = list(loader.batches(1))
    assert same(list(loader.batches(1, start=start)), whole[start:])


def test_an_abandoned_epoch_leaves_no_trace() -> None:
    loader = Loader(numbers(), draw, batch=8, seed=0, workers=2)
    for _ in loader.batches(0):
        break
    assert same(list(loader.batches(1)), list(Loader(numbers(), draw, batch=8, seed=0).batches(1)))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("group", [None, "group"])
def test_processes_together_see_the_batches_of_one(count: int, group: str | None) -> None:
    whole = list(Loader(numbers(), draw, batch=8, seed=0, group=group).batches(2))
    loaders = [Loader(numbers(), draw, batch=8, seed=0, shard=(index, count), group=group) for index in range(count)]
    parts = [list(loader.batches(2)) for loader in loaders]
    assert {len(part) for part in parts} == {len(whole)}
    for position, batch in enumerate(whole):
        pieces = [part[position] for part in parts]
        assert [name for piece in pieces for name in piece["_ids"]] == batch["_ids"]
        assert torch.equal(torch.cat([piece["noise"] for piece in pieces]), batch["noise"])
        sizes = [len(piece["_ids"]) for piece in pieces]
        assert max(sizes) - min(sizes) <= 1


def test_processes_keep_step_when_a_slice_is_empty_or_bad() -> None:
    rows = numbers(17)  # the last batch has one row: two of three processes get none
    parts = [
        list(Loader(rows, draw, batch=4, seed=0, drop_last=False, shard=(index, 3)).batches(0)) for index in range(3)
    ]
    assert [len(part) for part in parts] == [5, 5, 5]
    assert sorted(len(part[-1]["_ids"]) for part in parts) == [0, 0, 1]
    empty = next(part[-1] for part in parts if not part[-1]["_ids"])
    assert empty["noise"].shape == (0, 3) and empty["value"].shape == (0,) and empty["text"] == []
    lone = [
        list(Loader(numbers(20), picky, batch=2, seed=0, shard=(index, 2), max_skip_rate=1).batches(0))
        for index in range(2)
    ]
    assert [len(part) for part in lone] == [10, 10]
    assert sum(not batch["_ids"] for part in lone for batch in part) == 2


def test_one_process_leaves_out_a_batch_without_rows() -> None:
    loader = Loader(numbers(20), picky, batch=1, seed=0, shuffle=False)
    positions = [batch["_position"] for batch in loader.batches(0)]
    assert positions == [n for n in range(20) if n not in (3, 13)] and loader.batches_per_epoch == 20


def test_bad_rows_are_counted_once_and_listed() -> None:
    loader = Loader(numbers(), picky, batch=8, seed=0, max_skip_rate=0.2)
    sizes = [len(batch["_ids"]) for batch in loader.batches(0)]
    assert sum(sizes) == 36 and loader.seen == 40
    assert sorted(loader.skipped) == [(f"r{n:03d}", "number ends in three") for n in (3, 13, 23, 33)]
    list(loader.batches(1))
    assert loader.seen == 80 and len(loader.skipped) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_rows_stop_the_run(workers: int) -> None:
    loader = Loader(numbers(400), picky, batch=8, seed=0, max_skip_rate=0.05, workers=workers)
    with pytest.raises(DataError, match=r"more than max_skip_rate=0.05. First: r\d+: number ends in three"):
        list(loader.batches(0))
    assert 50 <= loader.seen < 400
    few = Loader(numbers(20), picky, batch=4, seed=0, max_skip_rate=0.05, workers=workers)
    with pytest.raises(DataError, match="2 of 20 rows"):
        list(few.batches(0))


def test_an_allowed_rate_is_no_false_alarm() -> None:
    """Exactly the allowed share is bad; in many orders the bad rows come early."""
    for seed in range(20):
        loader = Loader(numbers(200), picky, batch=8, seed=seed, max_skip_rate=0.1)
        assert len(list(loader.batches(0))) == 25 and len(loader.skipped) == 20


def test_not_one_usable_row() -> None:
    def hopeless(row: Row, rng: np.random.Generator) -> dict[str, Any]:
        raise BadRow("never")

    with pytest.raises(DataError, match="8 of 8 rows cannot be used"):
        list(Loader(numbers(8), hopeless, batch=4, seed=0).batches(0))
    with pytest.raises(DataError, match="not one of 8 rows can be used"):
        list(Loader(numbers(8), hopeless, batch=4, seed=0, shard=(0, 2), max_skip_rate=1).batches(0))


class OddError(Exception):
    """An error that cannot be rebuilt from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("workers", [0, 2])
def test_mistakes_in_a_view_surface_and_name_the_row(workers: int) -> None:
    def broken(row: Row, rng: np.random.Generator) -> dict[str, Any]:
        return {"value": {}["missing"]} if row["id"] == "r017" else draw(row, rng)

    with pytest.raises(KeyError, match="missing") as caught:
        list(Loader(numbers(), broken, batch=8, seed=0, workers=workers).batches(0))
    notes = "\n".join(caught.value.__notes__)
    assert "while making the view of row 'r017'" in notes and "in broken" in notes

    def odd(row: Row, rng: np.random.Generator) -> dict[str, Any]:
        raise OddError(1, 2)

    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        list(Loader(numbers(), odd, batch=8, seed=0, workers=workers).batches(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_mistakes_in_collate_surface(workers: int) -> None:
    def uneven(row: Row, rng: np.random.Generator) -> Mapping[str, Any]:
        return {"value": torch.zeros(1 + int(row["text"]) % 2)}

    with pytest.raises(RuntimeError) as caught:
        list(Loader(numbers(), uneven, batch=8, seed=0, workers=workers).batches(0))
    assert any("while collating a batch" in note for note in caught.value.__notes__)


def test_groups_never_meet_in_a_batch() -> None:
    loader = Loader(numbers(), draw, batch=8, seed=0, group="group", workers=2)
    seen = set()
    for epoch in range(4):
        for batch in loader.batches(epoch):
            assert len({int(text) // 4 for text in batch["text"]}) == len(batch["text"]) == 8
            seen |= set(batch["_ids"])
    assert len(seen) == 40
    with pytest.raises(DataError, match="no column 'concept'; found: text, group"):
        Loader(numbers(), draw, batch=8, seed=0, group="concept")
    with pytest.raises(ValueError, match="only 10 groups"):
        Loader(numbers(), draw, batch=12, seed=0, group="group")
    with pytest.raises(ValueError, match="shuffle=False cannot be kept"):
        Loader(numbers(), draw, batch=8, seed=0, group="group", shuffle=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 41}, "only 40 rows: choose batch <= 40"),
        ({"batch": 4, "seed": -1}, "seed must not be negative"),
        ({"batch": 4, "workers": -1}, "workers must not be negative"),
        ({"batch": 4, "shard": (2, 2)}, "shard is"),
        ({"batch": 4, "shard": (0, 5)}, "cannot be shared by 5 processes"),
        ({"batch": 4, "max_skip_rate": 2.0}, "between 0 and 1"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Loader(numbers(), draw, **{"seed": 0, **settings})
    with pytest.raises(DataError, match="no rows"):
        Loader(numbers().select([]), draw, batch=1, seed=0)


def test_fewer_batches_than_workers_do_not_hang() -> None:
    """No starvation: 2 batches for 6 workers on each of 2 processes."""
    for index in range(2):
        loader = Loader(numbers(8), draw, batch=4, seed=0, workers=6, shard=(index, 2))
        assert [len(batch["_ids"]) for batch in loader.batches(0)] == [2, 2]
        assert list(loader.batches(0, start=2)) == []


_SCRIPT = """
import sys, hashlib
from counterpoint.data import Loader, open_rows
from counterpoint.data.images import decode
import numpy as np, torch
def view(row, rng):
    return {"x": torch.from_numpy(np.asarray(decode(row["image"])).copy()).float() + rng.random(), "y": row["label"]}
rows = open_rows(sys.argv[2])
total = hashlib.sha256(rows.fingerprint.encode())
for batch in Loader(rows, view, batch=8, seed=3, workers=int(sys.argv[1])).batches(1):
    total.update("".join(batch["_ids"]).encode() + batch["x"].numpy().tobytes() + batch["y"].numpy().tobytes())
print(total.hexdigest())
"""


def test_same_samples_for_any_hash_seed_and_worker_count(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "abcde"[number % 5] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(plain(number))
    found = set()
    for hash_seed, workers in (("0", "0"), ("1", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _SCRIPT, workers, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_builtin_rows_in_workers() -> None:
    def pixels(row: Row, rng: np.random.Generator) -> dict[str, Any]:
        from counterpoint.data.images import decode

        return {"pixels": torch.from_numpy(np.asarray(decode(row["image"])).copy())}

    rows = open_rows("digits:validation")
    quiet, busy = (list(Loader(rows, pixels, batch=32, seed=0, workers=w).batches(0)) for w in (0, 2))
    assert same(quiet, busy) and quiet[0]["pixels"].shape == (32, 8, 8, 3)
