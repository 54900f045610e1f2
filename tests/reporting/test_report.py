"""The page of a run: every kind of run has one, with what it can show, and the command that repeats the run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_page import checked

import counterpoint
import toy_models
import workshop
from counterpoint.cli import main
from counterpoint.reporting.repeat import repeat_command
from counterpoint.reporting.report import report
from counterpoint.run import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workshop.copy(workshop.made(), tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


SECTIONS = {
    "swav": ["Diagnosis", "Training", "Health", "Scores", "Neighbours", "Similarities", "Map of the space"],
    "clip": ["Training", "Health", "Answers to text queries", "Neighbours", "Similarities", "Map of the space"],
    "filip": ["Training", "Health", "Answers to text queries", "Neighbours", "Similarities", "Map of the space"],
    "esimcse": ["Training", "Health", "Neighbours", "Similarities", "Map of the space"],
    "classifier": ["Scores", "Predictions", "Neighbours", "Map of the space"],
}


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_kind_of_run_has_a_page(name: str, folder: Path) -> None:
    if name == "filip":  # token by token: spaces with a third dimension, and a score of its own
        counterpoint.train("filip", "captions.csv", out="runs/filip", recipe="tiny", quiet=True)
    path = report(f"runs/{name}", sample=12)
    assert path == Path(f"runs/{name}/report.html")
    text = path.read_text(encoding="utf-8")
    checked(text)
    assert set(SECTIONS[name]) <= set(headings(text))
    assert headings(text)[-1] == "Model card"
    assert ("data:image/jpeg" in text) == (name != "esimcse")


def test_the_same_run_has_the_same_page(folder: Path) -> None:
    first, second = (report("runs/clip", sample=12, out=f"{name}.html").read_bytes() for name in "ab")
    assert first == second


def test_scores_stand_with_chance_and_protocol(folder: Path) -> None:
    record = counterpoint.evaluate("runs/swav", "labelled/", protocols=["knn"])
    text = report("runs/swav", sample=12).read_text(encoding="utf-8")
    assert f"{record['scores']['knn/accuracy']:.4f}" in text
    assert '<td class="number">0.3333</td>' in text
    assert record["data"]["fingerprint"] in text
    assert "temperature: 0.07" in text


def test_ones_own_queries_are_answered(folder: Path) -> None:
    text = report("runs/clip", queries=["a <odd> query", "another"], sample=12).read_text(encoding="utf-8")
    asked = re.findall(r'<div class="asked">([^<]*)</div>', text)
    assert asked == ["a &lt;odd&gt; query", "another"]


def test_answers_are_in_the_order_of_the_scores(folder: Path) -> None:
    """Against the plain formula: the pictures nearest to the text by cosine."""
    from counterpoint.evaluation.embedding import embed_all
    from counterpoint.reporting.gallery import answer_places
    from counterpoint.reporting.sample import take_sample

    system = counterpoint.load("runs/clip")
    sample = take_sample(system, counterpoint.open_rows("captions.csv"), 24, seed=0)
    query = "picture 3 of a one"
    _, spaces = embed_all(system, [{"id": "q", "text": query}], columns=("text",))
    words = spaces["text"][0].numpy() / np.linalg.norm(spaces["text"][0].numpy())
    images = sample.spaces["image"].numpy()
    cosines = images @ words / np.linalg.norm(images, axis=1)
    assert answer_places(sample, [query], top=5)[0] == np.argsort(-cosines, kind="stable")[:5].tolist()


def test_without_its_data_the_page_says_so(folder: Path) -> None:
    shutil.rmtree("photos")
    text = report("runs/swav").read_text(encoding="utf-8")
    assert "Neighbours" not in headings(text)
    assert "No pictures: the run&#x27;s data are not to be had here" in text
    with pytest.raises(ValueError, match="nothing-there"):
        report("runs/swav", data="nothing-there")


def test_a_run_that_has_not_ended_has_a_page(folder: Path) -> None:
    run = Path("runs/swav")
    (run / "checksums.json").unlink()
    (run / "result.json").unlink()
    with pytest.warns(UserWarning, match="has not ended yet"):
        text = report(run, sample=12).read_text(encoding="utf-8")
    assert "steps so far" in text


def test_skipped_rows_are_listed(folder: Path) -> None:
    Path("photos/<broken>.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40)
    counterpoint.train("swav", "photos/", out="runs/dirty", recipe="tiny", quiet=True)
    text = report("runs/dirty", sample=30).read_text(encoding="utf-8")
    assert "Skipped rows" in headings(text)
    assert "&lt;broken&gt;.png" in text


def test_a_system_of_ones_own_has_a_page(folder: Path) -> None:
    """Trained from an instance, a class that no registry knows."""

    class Own(toy_models.TextModel):
        def views(self):  # type: ignore[no-untyped-def]
            return _TwoTexts()

        def encode(self, batch):  # type: ignore[no-untyped-def]
            return {"a": self.embed(batch), "b": self.embed(batch) + 0.1}

        def loss(self, features):  # type: ignore[no-untyped-def]
            return {"distance": (features["a"] - features["b"]).square().mean()}

    counterpoint.train(
        Own(), "sentences.txt", out="runs/own", overrides={"steps": 2, "batch": 8, "log_every": 1}, quiet=True
    )
    text = report("runs/own").read_text(encoding="utf-8")
    assert "No pictures" in text
    assert repeat_command(Run("runs/own")) is None


class _TwoTexts:
    """The words of a row; draws nothing."""

    def __call__(self, row, rng):  # type: ignore[no-untyped-def]
        return toy_models.read_words(row)


@pytest.mark.parametrize(
    "words",
    [
        ["swav", "photos/", "--recipe", "tiny", "--steps", "2"],
        ["swav", "photos/", "--recipe", "tiny", "--steps", "2", "--crops.sizes", "24,16", "--crops.flip", "0.25"],
        ["clip", "catalogue.csv", "--columns", "image=photo,text=title", "--recipe", "tiny", "--steps", "2"],
        ["esimcse", "sentences.txt", "--recipe", "tiny", "--steps", "2", "--no-redraw", "--training.momentum", "0.8"],
        ["swav", "a=photos/", "b=labelled/", "--recipe", "tiny", "--steps", "2", "--batch", "7", "--betas", "0.8,0.9"],
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:]),
)
def test_the_command_on_the_page_repeats_the_run(words: list[str], folder: Path) -> None:
    """To the last setting, and to the bit."""
    assert main(["train", *words, "--out", "runs/once", "--quiet"]) == 0
    command = repeat_command(Run("runs/once"))
    assert command is not None
    assert main([*shlex.split(command)[1:], "--quiet"]) == 0
    first, second = (yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text()) for name in ("once", "again"))
    assert first == second
    weights = [Path(f"runs/{name}/model.safetensors").read_bytes() for name in ("once", "again")]
    assert weights[0] == weights[1]


def test_mistakes_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="sample must be at least 1"):
        report("runs/swav", sample=0)
    with pytest.raises(ValueError, match="is not a run directory"):
        report("photos")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")),
    reason="needs a Chromium browser (apt-get install chromium)",
)
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page(width: int, folder: Path) -> None:
    """No horizontal scroll bar on a phone, no error on the console, every picture loaded."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    path = report("runs/clip", sample=24)
    found = _dump(browser, path.resolve(), width)
    assert "Model card" in found
    shot = Path("page.png")
    _browse(browser, path.resolve(), width, f"--screenshot={shot.resolve()}")
    from PIL import Image

    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.std() > 5  # not an empty page


def _browse(browser: str, page: Path, width: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", *options]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=180, check=True)


def _dump(browser: str, page: Path, width: int) -> str:
    return _browse(browser, page, width, "--dump-dom").stdout


def test_clips_are_shown_as_filmstrips_and_found_by_words(tmp_path: Path) -> None:
    overrides = {"steps": 1, "batch": 4}
    run = counterpoint.train(
        "x_clip", "motions:validation", out=tmp_path / "run", recipe="tiny", overrides=overrides, quiet=True
    )
    html = counterpoint.report(run.path, data="motions:test").read_text(encoding="utf-8")
    assert "Answers to text queries" in html and html.count("data:image") > 10
