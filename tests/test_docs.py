"""Every code block of every page and of the README runs, in order, in a folder with a few pictures and texts."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import pages
import workshop
from counterpoint.cli import VERBS, main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"python", "bash"}
NOT_RUN = {"text", "yaml"}
"""Blocks that are no code."""
WITH_CODE = [page for page in PAGES if any(block.language in LANGUAGES for block in pages.blocks(page))]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workshop.copy(workshop.made(), tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def _begin(page: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The namespace of a page; runs that the page makes itself are not there before it does."""
    text = page.read_text(encoding="utf-8")
    for run in Path("runs").iterdir():
        if re.search(rf'(--out |out=")runs/{run.name}\b', text):
            shutil.rmtree(run)
    module = types.ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, "docs_page", module)
    return module


def _run_python(block: pages.Block, module: types.ModuleType, page: Path) -> None:
    text = "\n" * (block.line - 1) + block.text  # tracebacks then name the line of the page
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, str(page), "exec"), vars(module))


def _run_shell(block: pages.Block, page: Path) -> None:
    for command in block.commands():
        words = shlex.split(command, comments=True)
        where = f"{_name(page)}, line {block.line}: {command}"
        if words[0] == "counterpoint":
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                status = main(pages.small(words[1:]))
            assert status == 0, f"{where}\n{output.getvalue()}"
            continue
        found = _process(command, page)
        assert found.returncode == 0, f"{where}\n{found.stdout}{found.stderr}"


def _process(command: str, page: Path) -> subprocess.CompletedProcess[str]:
    """A command that is not ours. `make` only says what it would do: these are the tests it would run."""
    if command.split()[0] == "make":
        command = f"make --directory {shlex.quote(str(ROOT))} --dry-run {command.removeprefix('make')}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=600, check=False
    )


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_every_block_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks in order, one namespace a page; those tagged slow run behind the marker."""
    module = _begin(page, monkeypatch)
    for block in pages.blocks(page):
        if "slow" in block.tags:
            continue
        if block.language == "python":
            _run_python(block, module, page)
        elif block.language == "bash":
            _run_shell(block, page)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_every_shell_block_runs_as_a_process(
    page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same commands typed into a shell, those tagged slow too; `counterpoint` is the installed program."""
    shim = tmp_path / "bin" / "counterpoint"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "pages.py"} "$@"\n')
    shim.chmod(0o755)
    module = _begin(page, monkeypatch)
    for block in pages.blocks(page):
        if block.language == "python" and "slow" not in block.tags:
            _run_python(block, module, page)  # a later command may need what it wrote
        elif block.language == "bash":
            for command in block.commands():
                command = re.sub(r"^counterpoint\b", shlex.quote(str(shim)), command)
                found = _process(command, page)
                assert found.returncode == 0, f"{_name(page)}: {command}\n{found.stdout}{found.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_blocks_have_a_language_that_is_run(page: Path) -> None:
    """No block escapes the tests by a misspelt language."""
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^```(\S*)", text, re.MULTILINE)[::2]
    assert set(opened) <= LANGUAGES | NOT_RUN, f"{_name(page)}: {set(opened) - LANGUAGES - NOT_RUN}"
    assert text.count("\n```") % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links and anchors; pictures that a command makes are listed by the page that shows them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{_name(page)} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{_name(page)} links to {target}, which has {sorted(anchors)}"


def test_every_verb_has_a_page_that_the_index_links() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert (ROOT / "docs" / "verbs" / f"{verb}.md").is_file(), f"docs/verbs/{verb}.md is missing"
        assert f"(verbs/{verb}.md)" in index, f"docs/index.md does not link the page of {verb}"


def _unlinked(text: str) -> list[str]:
    """Lines of the index, whether or not a system had its page when they were written."""
    return [re.sub(r"\[(`\w+`)\]\(\w+\.md\)", r"\1", line) for line in text.splitlines()]


def test_generated_pages_are_up_to_date() -> None:
    """`make docs` writes them. A system that is not in the index yet is no error: it needs no shared list."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import make_docs
    finally:
        sys.path.remove(str(ROOT / "tools"))
    wanted = make_docs.reference()
    found = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert found == wanted, "docs/reference.md is old: run `make docs` (python tools/make_docs.py)"
    lines = set(_unlinked(make_docs.systems_index()))
    stored = (ROOT / "docs" / "systems" / "README.md").read_text(encoding="utf-8")
    old = [line for line in _unlinked(stored) if line not in lines]
    assert not old, f"docs/systems/README.md is old: run `make docs`; wrong: {old}"
