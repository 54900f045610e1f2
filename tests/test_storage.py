"""Atomic writes, verified reads: nothing half-written is ever read, no flipped bit goes unnoticed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint import storage
from counterpoint.storage import CorruptedError, StorageError


def example(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(16, 8, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
    }


def write(path: Path, seed: int = 0) -> Path:
    return storage.write_state(
        path, tensors={"model": example(seed)}, values={"state": {"step": seed, "rate": 0.1}}
    )


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    write(tmp_path / "a")
    tensors, values = storage.read_state(tmp_path / "a")
    assert equal(tensors["model"], example())
    assert values == {"state": {"step": 0, "rate": 0.1}}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_floats_keep_all_digits(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 2.0**-1074, 1 / 3]
    storage.write_json(tmp_path / "v.json", values)
    assert storage.read_json(tmp_path / "v.json") == values


def test_tied_tensors_are_stored_once_each(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    storage.write_tensors(
        tmp_path / "t.safetensors", {"a": weight, "b": weight, "c": weight.T, "row": weight[1]}
    )
    read = storage.read_tensors(tmp_path / "t.safetensors")
    assert equal(read, {"a": weight, "b": weight, "c": weight.T, "row": weight[1]})


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", 0)
    write(tmp_path / "a", 1)
    assert storage.read_state(tmp_path / "a")[1]["state"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_tensors_are_stored_as_tensors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="rate is a float"):
        storage.write_tensors(tmp_path / "t.safetensors", {"rate": 0.1})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def damage(path: Path, generator: random.Random) -> str:
    """One flipped bit or a cut-off end in one of the files."""
    victim = generator.choice(sorted(found for found in path.iterdir()))
    content = bytearray(victim.read_bytes())
    if generator.random() < 0.3:
        content = content[: generator.randrange(len(content))]
    else:
        position = generator.randrange(len(content))
        content[position] ^= 1 << generator.randrange(8)
    victim.write_bytes(bytes(content))
    return victim.name


def test_every_flipped_bit_and_truncation_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "good")
    generator = random.Random(0)
    named = 0
    for number in range(100):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(tmp_path / "good", bad)
        victim = damage(bad, generator)
        with pytest.raises(CorruptedError) as caught:
            storage.read_state(bad)
        named += victim in str(caught.value)
    assert named == 100


def test_every_byte_of_the_checksums_counts(tmp_path: Path) -> None:
    storage.write_state(tmp_path / "a", tensors={}, values={"v": 1})
    listing = tmp_path / "a" / storage.CHECKSUMS
    original = listing.read_bytes()
    generator = random.Random(2)
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << generator.randrange(8)
        listing.write_bytes(bytes(changed))
        with pytest.raises(CorruptedError, match=storage.CHECKSUMS):
            storage.verify(tmp_path / "a")
    listing.write_bytes(original)
    storage.verify(tmp_path / "a")


@pytest.mark.parametrize("change", ["missing", "added", "swapped", "no list"])
def test_changed_directories_are_noticed(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a")
    if change == "missing":
        (path / "model.safetensors").unlink()
    elif change == "added":
        (path / "extra.bin").write_bytes(b"x")
    elif change == "swapped":
        shutil.copy(write(tmp_path / "b", 1) / "model.safetensors", path / "model.safetensors")
    else:
        (path / storage.CHECKSUMS).unlink()
    with pytest.raises(
        CorruptedError, match="extra.bin" if change == "added" else "model.safetensors|checksums.json"
    ):
        storage.read_state(path)


class Explodes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def header(content: bytes, length: int | None = None) -> bytes:
    return (len(content) if length is None else length).to_bytes(8, "little") + content


def entries(**changes: Any) -> bytes:
    """A header of one tensor with something wrong, and its 8 bytes."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return header(json.dumps({"a": entry}).encode()) + bytes(8)


def million() -> bytes:
    item = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return header(b"{" + b",".join(item % number for number in range(10**6)) + b"}")


def overlap() -> bytes:
    parts = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [at, at + 8]}
        for name, at in (("a", 0), ("b", 4))
    }
    return header(json.dumps(parts).encode()) + bytes(12)


ATTACKS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "length above file": lambda: header(b"{}", 2**40),
    "largest length": lambda: header(b"{}", 2**64 - 1),
    "header of 100 MB": lambda: header(b" " * (100 * 2**20)),
    "a million tensors": million,
    "overlap": overlap,
    "negative": lambda: entries(data_offsets=[-8, 0]),
    "shape and length differ": lambda: entries(shape=[3]),
    "beyond the end": lambda: entries(data_offsets=[0, 4096]),
    "huge shape": lambda: entries(shape=[2**62, 2**62]),
    "not JSON": lambda: header(b"{" * 1000) + bytes(8),
    "deep JSON": lambda: header(b"[" * 100_000) + bytes(8),
}


def refused(path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(CorruptedError, match=path.name):
        storage.read_tensors(path)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_tensors_are_refused_fast(tmp_path: Path, name: str) -> None:
    (tmp_path / "attack.safetensors").write_bytes(ATTACKS[name]())
    refused(tmp_path / "attack.safetensors")


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_pickles_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "attack.safetensors").write_bytes(pickle.dumps(Explodes(tmp_path / "executed"), protocol))
    refused(tmp_path / "attack.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(CorruptedError, match="v.json"):
        storage.read_json(tmp_path / "v.json")


def write_under_limit(folder: str, limit: int) -> None:
    """Runs in its own process: a file size limit cannot be raised again."""
    path = Path(folder)
    write(path / "kept", 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    big = {"big": torch.zeros(200_000)}
    for target in ("fresh", "kept"):
        try:
            storage.write_state(path / target, tensors={"model": big}, values={})
        except StorageError as error:
            assert isinstance(error, OSError)
            assert "larger than the system allows" in str(error), error
            assert "what was there before is intact" in str(error)
        else:
            raise AssertionError("nothing was raised")
    assert storage.read_state(path / "kept")[1]["state"]["step"] == 0
    assert [found.name for found in path.iterdir()] == ["kept"]


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    code = f"import test_storage; test_storage.write_under_limit({str(tmp_path)!r}, 65536)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "disk reported an error"),
    ],
)
def test_errors_of_the_disk_are_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    write(tmp_path / "kept", 0)

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=words) as caught:
        write(tmp_path / "kept", 1)
    assert caught.value.errno == code
    monkeypatch.undo()
    assert storage.read_state(tmp_path / "kept")[1]["state"]["step"] == 0
    assert [found.name for found in tmp_path.iterdir()] == ["kept"]


def test_a_vanished_directory_is_named(tmp_path: Path) -> None:
    for attempt in (
        lambda: write(tmp_path / "gone" / "a"),
        lambda: storage.write_json(tmp_path / "gone" / "v.json", 1),
        lambda: storage.write_tensors(tmp_path / "gone" / "t.safetensors", example()),
    ):
        with pytest.raises(StorageError, match="gone.*the directory has vanished"):
            attempt()


def test_a_failing_fill_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        storage.write_directory(tmp_path / "a", fill)
    assert not list(tmp_path.iterdir())


def keep_writing(folder: Path, reported: Connection) -> None:
    """Writes states until it is killed, and reports each one that is done."""
    for step in range(1, 10**9):
        weight = torch.full((20_000,), float(step))
        storage.write_state(
            folder / f"{step:08d}", tensors={"model": {"weight": weight}}, values={"state": {"step": step}}
        )
        storage.write_json(folder / "latest.json", step)
        if step > 3:
            storage.remove_directory(folder / f"{step - 3:08d}")
        reported.send(step)


def storm(folder: Path, kills: int) -> None:
    """Kill a writer at random moments; whatever it leaves is whole."""
    generator = random.Random(1)
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        receiver, sender = context.Pipe(duplex=False)
        writer = context.Process(target=keep_writing, args=(folder, sender))
        writer.start()
        sender.close()
        done = receiver.recv()  # it is up and writing
        deadline = time.monotonic() + generator.random() * 0.1
        while time.monotonic() < deadline:
            pass
        writer.kill()
        writer.join()
        while receiver.poll():
            try:
                done = receiver.recv()
            except EOFError:
                break
        finished = sorted(path for path in folder.iterdir() if path.name.isdigit())
        readable = [storage.read_state(path)[1]["state"]["step"] for path in finished]
        assert max(readable) >= done
        assert storage.read_json(folder / "latest.json") >= done
        storage.remove_stale(folder)
        assert all(path.name.isdigit() or path.name == "latest.json" for path in folder.iterdir())


def test_killed_writers_leave_only_whole_states(tmp_path: Path) -> None:
    storm(tmp_path / "run", 3)


@pytest.mark.slow
def test_fifty_killed_writers(tmp_path: Path) -> None:
    storm(tmp_path / "run", 50)
