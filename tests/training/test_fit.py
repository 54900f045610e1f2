"""`fit`: a frozen encoder and an estimator become a classifier that comes back from its run directory."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from counterpoint.data import DataError, open_rows
from counterpoint.fitted import FittedClassifier
from counterpoint.run import Run, load
from counterpoint.system import find_system
from counterpoint.training import recipe as recipes
from counterpoint.training.fit import fit

MODEL = "fixture:vit"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours, eight a class, noisy, in class folders."""
    generator = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("colours")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(8):
            noise = generator.normal(0, 40, (40, 40, 3))
            picture = np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def fitted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit("gda_clip", folder, model=MODEL, out=out, shots=5, augmentations=2, quiet=True)


def probabilities(classifier: Any, folder: Path) -> Tensor:
    rows = open_rows(folder)
    return classifier.classify([rows[index] for index in range(len(rows))])


def test_the_classifier_classifies(fitted: Run, folder: Path) -> None:
    classifier = load(fitted.path)
    assert isinstance(classifier, FittedClassifier) and not classifier.training
    rows = open_rows(folder)
    found = probabilities(classifier, folder)
    assert found.shape == (24, 3)
    assert torch.allclose(found.sum(dim=1), torch.ones(24, dtype=found.dtype))
    labels = torch.tensor([rows[index]["label"] for index in range(24)])
    assert float((found.argmax(dim=1) == labels).double().mean()) > 0.9
    assert classifier.class_names == sorted(COLOURS)


def test_it_comes_back_to_the_bit_without_a_network(fitted: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    first, second = load(fitted.path), load(fitted.path)
    assert torch.equal(probabilities(first, folder), probabilities(second, folder))


def test_the_same_seed_fits_the_same(fitted: Run, folder: Path, tmp_path: Path) -> None:
    again = fit("gda_clip", folder, model=MODEL, out=tmp_path / "run", shots=5, augmentations=2, quiet=True)
    assert torch.equal(probabilities(load(again), folder), probabilities(load(fitted), folder))
    other = fit("gda_clip", folder, model=MODEL, out=tmp_path / "b", shots=5, augmentations=2, seed=1, quiet=True)
    assert not torch.equal(probabilities(load(other), folder), probabilities(load(fitted), folder))


def test_the_run_says_what_was_done(fitted: Run) -> None:
    config = yaml.safe_load((fitted.path / "config.yaml").read_text())
    assert config["kind"] == "fit" and config["system"]["name"] == "gda_clip"
    assert config["encoder"] == MODEL and config["class_names"] == sorted(COLOURS)
    assert config["fitting"]["shots"] == 5 and config["fitting"]["augmentations"] == 2
    assert fitted.fitted and fitted.finished and fitted.result()["rows_read"] == 15
    assert isinstance(fitted.system(), FittedClassifier)


class Recorder(find_system("gda_clip").cls):  # type: ignore[misc]
    """Keeps what `fit` hands over."""

    def fit(
        self, features: Tensor, labels: Tensor | None = None, *, groups: Tensor | None = None, **options: Any
    ) -> Any:
        self.seen = {"features": features, "labels": labels, "groups": groups, **options}
        return super().fit(features, labels, groups=groups, **options)


def test_copies_of_a_picture_stay_together(folder: Path, tmp_path: Path) -> None:
    recorder = Recorder(alpha=1.0)
    fit(recorder, folder, model=MODEL, out=tmp_path / "run", augmentations=3, quiet=True)
    seen = recorder.seen
    assert seen["features"].shape[0] == 72 and seen["text_features"].shape[0] == 3
    assert seen["groups"].bincount().tolist() == [3] * 24
    for group in range(24):
        members = seen["groups"] == group
        assert seen["labels"][members].unique().numel() == 1
        assert not torch.equal(*seen["features"][members][:2])  # each pass draws anew
    assert torch.allclose(seen["features"].norm(dim=1), torch.ones(72), atol=1e-5)
    assert torch.allclose(seen["text_features"].norm(dim=1), torch.ones(3), atol=1e-5)


def test_without_augmentation_each_picture_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    recorder = Recorder(alpha=1.0)
    run = fit(recorder, folder, model=MODEL, out=tmp_path / "run", augmentations=0, validation=folder, quiet=True)
    classifier = load(fit("gda_clip", folder, model=MODEL, out=tmp_path / "b", augmentations=0, quiet=True))
    assert isinstance(classifier, FittedClassifier)
    rows = open_rows(folder)
    prepare = classifier.preprocess()
    images = torch.stack([prepare(rows[index])["image"] for index in range(24)])
    assert torch.allclose(recorder.seen["features"], classifier.embed({"image": images}), atol=1e-5)
    assert torch.equal(recorder.seen["validation"][1], recorder.seen["labels"])
    assert run.config["fitting"]["validation"] == str(folder)


def test_unlabelled_pictures_need_class_names(folder: Path, tmp_path: Path) -> None:
    rows = [{"id": path.name + path.parent.name, "image": path} for path in sorted(folder.rglob("*.png"))]
    with pytest.raises(ValueError, match="has no labels: give `classes`"):
        fit("gda_clip", rows, model=MODEL, out=tmp_path / "run", augmentations=0, quiet=True)
    run = fit("gda_clip", rows, model=MODEL, out=tmp_path / "run", augmentations=0, classes=list(COLOURS), quiet=True)
    assert probabilities(load(run), folder).shape == (24, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"estimator": "gda-clop"}, "nearest: gda_clip"),
        ({"estimator": "swav"}, "swav is a system that is trained: use `train`"),
        ({"arguments": {"mod": "auto"}}, "has no 'mod'; did you mean mode"),
        ({"model": "fixture:vitt"}, "vit"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"columns": {"image": "photo"}}, "photo"),
        ({"classes": ["one"]}, "class"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"estimator": "gda_clip", "model": MODEL, "augmentations": 0, **changes}
    with pytest.raises((ValueError, DataError), match=words):
        fit(values.pop("estimator"), folder, out=tmp_path / "run", quiet=True, **values)
    assert not (tmp_path / "run").exists()


def test_a_recipe_gives_what_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "recipes" / "gda_clip"
    shipped.mkdir(parents=True)
    content = {
        "data": str(folder),
        "system": {"alpha": 2.0},
        "fitting": {"model": MODEL, "augmentations": 0, "shots": 3},
    }
    (shipped / "tiny.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(recipes.resources, "files", lambda package: tmp_path)
    run = fit("gda_clip", out=tmp_path / "run", recipe="tiny", shots=2, quiet=True)
    assert run.config["fitting"]["shots"] == 2 and run.config["system"]["arguments"]["alpha"] == 2.0
    assert run.result()["rows_read"] == 6
    (shipped / "bad.yaml").write_text("fitting: {shot: 3}\n")
    with pytest.raises(ValueError, match="fitting has no 'shot'; did you mean shots"):
        fit("gda_clip", out=tmp_path / "other", recipe="bad", quiet=True)


def test_a_damaged_classifier_is_refused(fitted: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(fitted.path, copy)
    content = bytearray((copy / "estimator.json").read_bytes())
    content[5] ^= 1
    (copy / "estimator.json").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"estimator\.json"):
        load(copy)
    (copy / "checksums.json").unlink()
    with pytest.raises(ValueError, match="incomplete"):
        load(copy)
