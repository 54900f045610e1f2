"""Where bytes may come from."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from counterpoint.data import BadRow
from counterpoint.data.media import media_source


def test_bytes_paths_and_the_form_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"abc")
    for value in (b"abc", bytearray(b"abc"), {"bytes": b"abc", "path": None}):
        found = media_source(value, "recording")
        assert isinstance(found, io.BytesIO) and found.read() == b"abc"
    for value in (tmp_path / "a.wav", str(tmp_path / "a.wav"), {"bytes": None, "path": str(tmp_path / "a.wav")}):
        assert media_source(value, "recording") == tmp_path / "a.wav"


def test_what_cannot_be_opened_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    for value, reason in (
        (b"", "empty file"),
        (tmp_path / "empty.wav", "empty file"),
        (tmp_path / "pipe.wav", "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "missing.wav", "No such file"),
        ("http://somewhere/a.wav", "is an address"),
        ("a\0b.wav", "cannot be read"),
        (3.5, "float is no recording"),
        (None, "NoneType is no recording"),
        ({"bytes": None, "path": None}, "NoneType is no recording"),
    ):
        with pytest.raises(BadRow, match=reason):
            media_source(value, "recording")
