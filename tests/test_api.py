"""The public face does not change by accident: names, signatures and options are compared with a stored list."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path

import pytest

import counterpoint

ROOT = Path(__file__).parents[1]


def _freezer():  # type: ignore[no-untyped-def]
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("freeze_api")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_the_frozen_list_is_what_there_is() -> None:
    """A system that is not in the list yet is no error: a new one needs no shared list."""
    freezer = _freezer()
    stored, found = freezer.read(freezer.FILE.read_text(encoding="utf-8")), freezer.sections()
    new = {heading for heading in found if heading not in stored and heading.startswith("[system ")}
    current = {heading: lines for heading, lines in found.items() if heading not in new}
    stored = {heading: lines for heading, lines in stored.items() if heading in current} | {
        heading: lines for heading, lines in stored.items() if heading not in current
    }
    before, after = freezer.render(dict(sorted(stored.items()))), freezer.render(dict(sorted(current.items())))
    changes = difflib.unified_diff(before.splitlines(), after.splitlines(), "tests/api.txt", "now", lineterm="", n=2)
    text = "\n".join(changes)
    assert not text, f"the public API changed; if that is meant: python tools/freeze_api.py\n{text}"


@pytest.mark.parametrize("name", counterpoint.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(counterpoint, name)
    assert value is not None
    if callable(value):
        assert value.__name__ == name
        assert value.__doc__


def test_a_submodule_of_the_same_name_does_not_hide_a_function() -> None:
    """`counterpoint.export` is the function, whoever imported the package `counterpoint.export` first."""
    for name in ("export", "predict", "quickstart"):
        importlib.import_module(f"counterpoint.{name}")
        assert callable(getattr(counterpoint, name))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        counterpoint.trian  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert set(counterpoint.__all__) <= set(dir(counterpoint))


def test_type_checkers_see_what_is_imported_lazily() -> None:
    """The names under TYPE_CHECKING are those of the table, from the same modules."""
    source = Path(counterpoint.__file__).read_text(encoding="utf-8")
    for name, home in counterpoint._HOME.items():
        assert f"    from {home} import {name} as {name}\n" in source
