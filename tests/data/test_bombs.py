"""Small files that want to become large: refused within a second, without the memory they ask for."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pictures import png_bomb

from counterpoint.data import BadRow, DataError, open_rows
from counterpoint.data.images import decode

pytestmark = pytest.mark.usefixtures("own_cache")

MEGABYTE = 2**20


@contextmanager
def cheap(*, seconds: float = 1.0, growth: int = 300 * MEGABYTE) -> Iterator[None]:
    """What runs inside takes less time and memory than that; time is the processor's, so a busy machine is no fault."""
    started, before = time.process_time(), psutil.Process().memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - started < seconds
    assert psutil.Process().memory_info().rss - before < growth
    risen = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    assert risen < growth, f"peak memory rose by {risen} bytes"


def sparse(path: Path, head: bytes, size: int, tail: bytes = b"") -> Path:
    """A file of `size` bytes, zeros between head and tail, that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.seek(size - len(tail) - 1)
        file.write(b"\0" + tail)
    return path


def test_png_of_two_gigapixels(tmp_path: Path) -> None:
    content = png_bomb()
    assert len(content) < MEGABYTE
    (tmp_path / "bomb.png").write_bytes(content)
    for value in (content, tmp_path / "bomb.png"):
        with cheap(), pytest.raises(BadRow):
            decode(value)


def test_picture_whose_header_lies(tmp_path: Path) -> None:
    """A small declared size with a stream that goes on: only the declared pixels are made."""
    import struct

    from pictures import png_chunk

    packer = zlib.compressobj(9)
    stream = b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(128)) + packer.flush()
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")
    with cheap(seconds=2.0):
        assert decode(content).size == (8, 8)


def test_png_with_a_text_bomb() -> None:
    import struct

    from pictures import png_chunk

    packed = zlib.compress(bytes(256 * MEGABYTE), 9)
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"zTXt", b"Comment\0\0" + packed)
        + png_chunk(b"IDAT", zlib.compress(b"\0\0"))
        + png_chunk(b"IEND", b"")
    )
    with cheap():
        try:
            assert decode(content).size == (1, 1)
        except BadRow as error:
            assert error.reason


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.tar.gz", "a.tgz"])
def test_gzip_that_grows_a_thousand_times(tmp_path: Path, own_cache: Path, name: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(16 * MEGABYTE)
    content = b"".join(packer.compress(block) for _ in range(8)) + packer.flush()
    assert 128 * MEGABYTE / len(content) > 900
    (tmp_path / name).write_bytes(content)
    with cheap(), pytest.raises(DataError, match="decompression bomb"):
        open_rows(tmp_path / name)
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_gzip_of_ordinary_tables_is_no_bomb(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "an ordinary sentence, often said, number %d"}\n' % n for n in range(20_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    assert len(open_rows(tmp_path / "a.jsonl.gz")) == 20_000


_OPENINGS = {
    "a.csv": b"text\nx,",
    "quoted.csv": b'text,other\n"',
    "a.tsv": b"text\n",
    "a.jsonl": b'{"text": "',
    "a.txt": b"x",
}


@pytest.mark.parametrize("name", _OPENINGS)
def test_one_field_of_a_gigabyte(tmp_path: Path, name: str) -> None:
    path = sparse(tmp_path / name, _OPENINGS[name], 2**30, b'"}\n')
    with cheap(), pytest.raises(DataError, match="does not end within"):
        open_rows(path)


def test_header_of_a_gigabyte(tmp_path: Path) -> None:
    with cheap(), pytest.raises(DataError):
        open_rows(sparse(tmp_path / "a.csv", b"text", 2**30))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_json(tmp_path: Path, opening: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ' + opening * 1_000_000 + "\n")
    with cheap(), pytest.raises(DataError, match="nested too deeply|not JSON"):
        open_rows(tmp_path / "a.jsonl")


def test_tar_member_that_claims_a_terabyte(tmp_path: Path) -> None:
    import tarfile

    info = tarfile.TarInfo("0.jpg")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with cheap(), pytest.raises(DataError, match="ends inside"):
        open_rows(tmp_path / "a.tar")


def test_refusals_in_a_small_process(tmp_path: Path) -> None:
    """The same in a process that may not grow: a limit on its address space would kill a reader that tries."""
    (tmp_path / "bomb.png").write_bytes(png_bomb())
    sparse(tmp_path / "field.csv", b'text\n"', 2**30)
    code = f"""
        import resource
        from counterpoint.data import BadRow, DataError, open_rows
        from counterpoint.data.images import decode
        import psutil
        limit = psutil.Process().memory_info().vms + 300 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for refused, action in ((BadRow, lambda: decode({str(tmp_path / "bomb.png")!r})),
                                (DataError, lambda: open_rows({str(tmp_path / "field.csv")!r}))):
            try:
                action()
            except refused:
                print("refused")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused", "refused"], done.stderr
