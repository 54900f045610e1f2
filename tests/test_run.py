"""Run directories: what comes back, and one-line errors for what does not."""

from __future__ import annotations

import random
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

sys.path.insert(0, str(Path(__file__).parent / "training"))

from training_toys import QueueToy, Toy, build, make_rows, states_equal, stop_after  # noqa: E402

from counterpoint.run import Run, load, load_weights  # noqa: E402
from counterpoint.storage import CorruptedError  # noqa: E402
from counterpoint.training.interrupt import Interrupted  # noqa: E402
from counterpoint.training.train import train  # noqa: E402


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Run, QueueToy]:
    toy = build(QueueToy)
    run = train(toy, make_rows(), out=tmp_path / "run", overrides={"batch": 16, "steps": 6}, quiet=True)
    assert isinstance(toy, QueueToy)
    return run, toy


def test_the_system_comes_back_as_it_was(trained: tuple[Run, QueueToy]) -> None:
    run, toy = trained
    loaded = load(run.path, system=build(QueueToy, seed=9))
    assert isinstance(loaded, QueueToy) and not loaded.training
    assert states_equal(loaded.state_dict(), toy.state_dict())
    batch = {"first": torch.randn(4, 8)}
    assert torch.equal(loaded.embed(batch), toy.eval().embed(batch))


def test_nothing_is_fetched(trained: tuple[Run, QueueToy], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(trained[0].path, system=build(QueueToy))


def test_an_instance_must_be_given_back(trained: tuple[Run, QueueToy]) -> None:
    with pytest.raises(ValueError, match=r"instance of QueueToy.*load\(path, system=\.\.\.\)"):
        load(trained[0].path)


def test_another_system_is_named(trained: tuple[Run, QueueToy]) -> None:
    with pytest.raises(ValueError, match="holds a QueueToy.*not a Toy"):
        load(trained[0].path, system=build(Toy))


def test_the_same_class_with_other_arguments_is_named(trained: tuple[Run, QueueToy]) -> None:
    with pytest.raises(ValueError, match=r"another system.*queue has shape \(24, 6\) instead of \(30, 6\)"):
        load(trained[0].path, system=build(QueueToy, size=30))


def test_foreign_weights_are_named() -> None:
    toy = build(Toy)
    with pytest.raises(ValueError, match="lacks .* holds layer.bias and 1 more"):
        load_weights(toy, nn.ModuleDict({"layer": nn.Linear(2, 2)}).state_dict(), "other.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a run directory: it has no config.yaml"),
        ("format: 99\n", "written in format 99.*upgrade"),
        ("a: [1,\n", "not valid YAML"),
        ("just text", "no `format` number"),
        ("!!python/object/apply:os.system ['touch /tmp/x']", "not valid YAML"),
    ],
)
def test_what_is_no_run_is_said(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        load(tmp_path)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a run directory: it does not exist"):
        load(tmp_path / "nowhere")


def test_no_flipped_bit_is_loaded(trained: tuple[Run, QueueToy], tmp_path: Path) -> None:
    run, _ = trained
    generator = random.Random(0)
    names = ["model.safetensors", "config.yaml", "facts.json", "result.json", "checksums.json"]
    for number in range(100):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(run.path, bad, ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))
        victim = bad / generator.choice(names)
        content = bytearray(victim.read_bytes())
        if generator.random() < 0.3:
            content = content[: generator.randrange(len(content))]
        else:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        victim.write_bytes(bytes(content))
        with pytest.raises(ValueError) as caught:
            load(bad, system=build(QueueToy))
        assert str(bad) in str(caught.value)
        if isinstance(caught.value, CorruptedError):
            assert victim.name in str(caught.value)
        else:  # a changed digit of the format number reads as a newer format
            assert victim.name == "config.yaml" and "upgrade" in str(caught.value)


def test_a_missing_file_is_named(trained: tuple[Run, QueueToy]) -> None:
    (trained[0].path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        load(trained[0].path, system=build(QueueToy))


def test_an_unfinished_run_gives_its_checkpoint(tmp_path: Path) -> None:
    toy = build(Toy)
    with pytest.raises(Interrupted):
        train(stop_after(toy, 4), make_rows(), out=tmp_path / "run", overrides={"batch": 16, "steps": 9}, quiet=True)
    with pytest.warns(UserWarning, match="has not ended yet: loading its checkpoint 00000004"):
        loaded = load(tmp_path / "run", system=build(Toy, seed=2))
    assert states_equal(loaded.state_dict(), toy.state_dict())
    with pytest.raises(ValueError, match="has not ended yet"):
        Run(tmp_path / "run").result()


def test_a_run_without_a_checkpoint_has_no_weights(tmp_path: Path) -> None:
    config = {"format": 1, "kind": "train", "system": {"name": "Toy", "class": "Toy", "arguments": None}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="no weights.*start it again"):
        load(tmp_path, system=build(Toy))


def test_metrics_survive_a_cut_line(trained: tuple[Run, QueueToy]) -> None:
    path = trained[0].path / "metrics.jsonl"
    before = trained[0].metrics()
    with path.open("a") as file:
        file.write('{"step": 7, "lo')
    assert trained[0].metrics() == before
    path.write_text('{"step"\n{"step": 1}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 1"):
        trained[0].metrics()


def test_a_run_is_a_path(trained: tuple[Run, QueueToy]) -> None:
    assert Path(trained[0]) == trained[0].path
    assert repr(trained[0]).startswith("Run(")
