"""Sealed directories: nothing half-written is ever read, no flipped bit goes unnoticed, no full disk loses anything."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from counterpoint import sealing, storage
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
    return sealing.write_state(path, tensors={"model": example(seed)}, values={"state": {"step": seed, "rate": 0.1}})


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    write(tmp_path / "a")
    tensors, values = sealing.read_state(tmp_path / "a")
    assert equal(tensors["model"], example())
    assert values == {"state": {"step": 0, "rate": 0.1}}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", 0)
    write(tmp_path / "a", 1)
    assert sealing.read_state(tmp_path / "a")[1]["state"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


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
            sealing.read_state(bad)
        named += victim in str(caught.value)
    assert named == 100


def test_every_byte_of_the_checksums_counts(tmp_path: Path) -> None:
    sealing.write_state(tmp_path / "a", tensors={}, values={"v": 1})
    listing = tmp_path / "a" / sealing.CHECKSUMS
    original = listing.read_bytes()
    generator = random.Random(2)
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << generator.randrange(8)
        listing.write_bytes(bytes(changed))
        with pytest.raises(CorruptedError, match=sealing.CHECKSUMS):
            sealing.verify(tmp_path / "a")
    listing.write_bytes(original)
    sealing.verify(tmp_path / "a")


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
        (path / sealing.CHECKSUMS).unlink()
    with pytest.raises(CorruptedError, match="extra.bin" if change == "added" else "model.safetensors|checksums.json"):
        sealing.read_state(path)


def write_under_limit(folder: str, limit: int) -> None:
    """Runs in its own process: a file size limit cannot be raised again."""
    path = Path(folder)
    write(path / "kept", 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    big = {"big": torch.zeros(200_000)}
    for target in ("fresh", "kept"):
        try:
            sealing.write_state(path / target, tensors={"model": big}, values={})
        except StorageError as error:
            assert isinstance(error, OSError)
            assert "larger than the system allows" in str(error), error
            assert "what was there before is intact" in str(error)
        else:
            raise AssertionError("nothing was raised")
    assert sealing.read_state(path / "kept")[1]["state"]["step"] == 0
    assert [found.name for found in path.iterdir()] == ["kept"]


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    code = f"import test_sealing; test_sealing.write_under_limit({str(tmp_path)!r}, 65536)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
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
    assert sealing.read_state(tmp_path / "kept")[1]["state"]["step"] == 0
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
        sealing.write_directory(tmp_path / "a", fill)
    assert not list(tmp_path.iterdir())


def keep_writing(folder: Path, reported: Connection) -> None:
    """Writes states until it is killed, and reports each one that is done."""
    for step in range(1, 10**9):
        weight = torch.full((20_000,), float(step))
        sealing.write_state(
            folder / f"{step:08d}", tensors={"model": {"weight": weight}}, values={"state": {"step": step}}
        )
        storage.write_json(folder / "latest.json", step)
        if step > 3:
            sealing.remove_directory(folder / f"{step - 3:08d}")
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
        readable = [sealing.read_state(path)[1]["state"]["step"] for path in finished]
        assert max(readable) >= done
        assert storage.read_json(folder / "latest.json") >= done
        storage.remove_stale(folder)
        assert all(path.name.isdigit() or path.name == "latest.json" for path in folder.iterdir())


def test_killed_writers_leave_only_whole_states(tmp_path: Path) -> None:
    storm(tmp_path / "run", 3)


@pytest.mark.slow
def test_fifty_killed_writers(tmp_path: Path) -> None:
    storm(tmp_path / "run", 50)
