"""The command line: every verb runs as a process, helps, and answers a mistake with one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import workshop
from counterpoint.cli import VERBS, main

RUNS = {
    "systems": ["--json"],
    "train": ["swav", "photos/", "--recipe", "tiny", "--steps", "2", "--crops.sizes", "24,16", "--out", "runs/new"],
    "fit": ["gda_clip", "labelled/", "--model", "fixture:vit", "--shots", "2", "--out", "runs/fitted"],
    "evaluate": ["runs/swav", "labelled/", "--protocols", "knn,geometry", "--json"],
    "embed": ["runs/clip", "captions.csv", "--out", "new.lance"],
    "search": ["made.lance", "a red door", "--json"],
    "predict": ["runs/classifier", "photos/", "--out", "answers", "--json"],
    "report": ["runs/clip", "--sample", "12"],
    "doctor": ["runs/swav"],
    "export": ["runs/swav", "--out", "exported", "--format", "timm"],
}
"""A call that works, for every verb that is done in seconds."""


def _has_the_sizes_that_were_asked_for() -> None:
    config = yaml.safe_load(Path("runs/new/config.yaml").read_text())
    assert config["system"]["arguments"]["crops"]["sizes"] == [24, 16]


def _answers_every_picture() -> None:
    assert len(Path("answers/predictions.jsonl").read_text().splitlines()) == 24


def _is_a_page() -> None:
    assert "<!DOCTYPE html>" in Path("runs/clip/report.html").read_text()[:20]


def _agrees_with_the_run() -> None:
    assert json.loads(Path("exported/parity.json").read_text())["parity"]["image"]["max_difference"] < 1e-4


LEFT = {
    "train": _has_the_sizes_that_were_asked_for,
    "predict": _answers_every_picture,
    "report": _is_a_page,
    "export": _agrees_with_the_run,
}
"""What a verb leaves behind."""
MINUTES = ("quickstart", "reproduce")

MISTAKES = {
    "systems": (["--jsn"], "there is no option --jsn"),
    "train": (["swv", "photos/"], "no system is called 'swv'; nearest: swav"),
    "fit": (["swav", "labelled/"], "swav is trained, not fitted: use `counterpoint train swav ...`"),
    "evaluate": (["runs/nothing"], "runs/nothing is not a run directory: it does not exist"),
    "embed": (["runs/clip"], "DATA is missing"),
    "search": (["nothing.lance", "a red door"], "there is no table at"),
    "predict": (["runs/classifier", "photos/"], "--out is missing"),
    "report": (["photos/"], "photos is not a run directory: it has no config.yaml"),
    "doctor": (["runs/swav", "extra"], "'extra' is one argument too many"),
    "reproduce": (["swvv"], "no system is called 'swvv'"),
    "export": (["runs/swav", "--out", "x", "--format", "onx"], "no format is called 'onx'; nearest: onnx"),
    "quickstart": (["--seconds", "soon"], "--seconds takes number, got 'soon'"),
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data, tiny runs and a table; the tests run in it."""
    place = workshop.copy(workshop.made(), tmp_path_factory.mktemp("cli"))
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main(["embed", "runs/clip", "captions.csv", "--out", "made.lance"]) == 0
        yield place
    finally:
        os.chdir(before)


def _counterpoint(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [str(Path(sys.executable).with_name("counterpoint")), *words]
    return subprocess.run(command, capture_output=True, text=True, env=settings, timeout=280, check=False)


@pytest.mark.parametrize("verb", RUNS)
def test_every_verb_runs_as_a_process(verb: str) -> None:
    found = _counterpoint(verb, *RUNS[verb])
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    if "--json" in RUNS[verb]:
        assert json.loads(found.stdout)
    LEFT.get(verb, lambda: None)()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("quickstart", "--seconds", "5", "--out", "runs/quick"), ("reproduce", "gda_clip", "--out", "claim")]
)
def test_the_long_verbs_run_as_processes(words: tuple[str, ...]) -> None:
    found = subprocess.run(
        [str(Path(sys.executable).with_name("counterpoint")), *words],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_every_verb_is_tried() -> None:
    assert set(RUNS) | set(MINUTES) == set(VERBS) == set(MISTAKES)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: counterpoint {verb}")
    assert "show this help message and exit" in text


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_as_a_process(verb: str) -> None:
    found = _counterpoint(verb, "--help")
    assert found.returncode == 0
    assert found.stdout.startswith(f"usage: counterpoint {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_a_mistake_is_one_line(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = MISTAKES[verb]
    assert main([verb, *words]) == 2
    found = capsys.readouterr()
    lines = found.err.strip().splitlines()
    assert len(lines) == 1, found.err
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_mistake_is_one_line_as_a_process() -> None:
    found = _counterpoint("evaluate", "runs/nothing")
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1


def test_debug_shows_where_a_mistake_came_from() -> None:
    found = _counterpoint("trian", COUNTERPOINT_DEBUG="1")
    assert found.returncode == 2
    assert "Traceback" in found.stderr
    assert found.stderr.rstrip().endswith("(see `counterpoint --help`)")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text and VERBS[verb].summary in text for verb in VERBS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "counterpoint 0.1.0\n"


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert "there is no verb 'evalute'; did you mean evaluate?" in capsys.readouterr().err


def test_help_of_a_system_shows_its_own_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments, defaults and texts of the constructor, groups of settings, and the training settings."""
    assert main(["train", "swav", "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage: counterpoint train swav [DATA ...] [options]" in text
    for part in ("--crops.sizes <whole number,...>", "[default 224,96]", "--prototypes", "--micro-batch", "runs/swav"):
        assert part in text, part


def test_a_name_that_both_have_takes_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    """`momentum` is ESimCSE's own; that of the optimiser is `--training.momentum`."""
    assert main(["train", "esimcse", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--momentum <number>   of the encoder that fills the queue" in text
    assert "--training.momentum" in text


def test_without_a_system_train_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--steps", "3"]) == 2
    assert "name the system first: counterpoint train SYSTEM" in capsys.readouterr().err


def test_answers_are_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "made.lance", "a [red] door", "--top", "2"]) == 0
    text = capsys.readouterr().out
    assert "answers to 'a [red] door'" in text
    assert "picture" in text


def test_a_picture_is_a_query_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "made.lance", "--image", "door.jpg", "--top", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) >= {"id", "score", "text"} for row in rows] == [True] * 3
    assert rows[0]["id"].endswith("zero-0.png") or rows[0]["score"] > 0.99


def test_scores_stand_beside_chance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/swav", "labelled/", "--protocols", "knn"]) == 0
    text = capsys.readouterr().out
    assert "chance" in text
    assert "0.3333" in text


def test_a_wrong_column_names_those_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "swav", "sentences.txt", "--recipe", "tiny", "--out", "runs/wrong"]) == 2
    err = capsys.readouterr().err
    assert "needs the column 'image'" in err
    assert "text" in err
    assert not Path("runs/wrong").exists()


def test_what_a_recipe_says_of_its_own_data_is_not_asked_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    """CLIP's small recipe groups emoji by concept; a table of one's own has no such column."""
    words = ["train", "clip", "captions.csv", "--recipe", "small", "--steps", "1", "--batch", "4", "--out", "runs/own"]
    assert main(words) == 0
    assert "captions.csv has no column 'group': batches are drawn without groups" in capsys.readouterr().err
    assert main([*words[:-1], "runs/asked", "--group", "group"]) == 2
    assert "group" in capsys.readouterr().err


def test_closing_the_pipe_is_no_error() -> None:
    command = f"{Path(sys.executable).with_name('counterpoint')} --help | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0
    assert found.stderr == ""
