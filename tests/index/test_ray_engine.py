"""The engine of Ray fills the same table: each row once, to the bit, whatever dies on the way."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import counterpoint
from counterpoint.data import Rows
from counterpoint.evaluation.embedding import Skipped
from counterpoint.index import embed, ray_engine
from counterpoint.index.layout import open_table
from counterpoint.index.parts import Part, Request, embedded_parts
from counterpoint.index.ray_engine import Assignment, collected, embedded_by_ray
from toy_models import TextModel, TokenModel, sentences

_HAS_RAY = importlib.util.find_spec("ray") is not None
_REQUEST = Request(batch=4, workers=0, spaces=None, thumbnail=0)


def _worker(system: torch.nn.Module, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> ray_engine._Worker:
    """A worker in this process, that has loaded already."""
    worker = ray_engine._Worker(Assignment("run", "", None, None, _REQUEST, 1), None, None, "cpu")
    monkeypatch.setattr(worker, "_loaded", (system, rows))
    return worker


def _span(start: int, stop: int) -> dict[str, np.ndarray]:
    """What Ray hands to a worker."""
    return {"start": np.array([start]), "stop": np.array([stop])}


def _ids(parts: list[Part]) -> list[str]:
    return [identity for part in parts for identity in part.table["id"].to_pylist()]


@pytest.fixture
def rows() -> Rows:
    found = sentences(20)
    found[7]["text"] = " "
    return Rows.from_list(found)


def test_messages_carry_the_parts(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker(TokenModel(), rows, monkeypatch)
    expected: list[Skipped] = []
    skipped: list[Skipped] = []
    wanted = list(embedded_parts(worker._load()[0], rows, _REQUEST, expected))
    found = list(collected(worker(_span(0, 20)), rows, skipped))
    assert [part.table for part in found] == [part.table for part in wanted]
    assert [part.spaces for part in found] == [part.spaces for part in wanted]
    assert np.concatenate([part.positions for part in found]).tolist() == [*range(7), *range(8, 20)]
    assert skipped == expected == [Skipped("t7", "the text is empty")]


def test_a_row_that_comes_twice_counts_once(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker(TextModel(), rows, monkeypatch)
    messages = [*worker(_span(5, 15)), *worker(_span(0, 12)), *worker(_span(0, 20))]
    skipped: list[Skipped] = []
    found = _ids(list(collected(messages, rows, skipped)))
    assert len(found) == 19 and set(found) == set(rows.column("id")) - {"t7"}
    assert len(skipped) == 1


def test_a_row_that_does_not_come_is_an_error(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker(TextModel(), rows, monkeypatch)
    messages = [*worker(_span(0, 5)), *worker(_span(6, 20))]
    with pytest.raises(ChildProcessError, match="1 of 20 rows came back from no worker: call embed again"):
        list(collected(messages, rows, []))


def test_other_rows_in_a_worker_are_noticed(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker(TextModel(), rows.select(np.arange(20)[::-1]), monkeypatch)
    with pytest.raises(ValueError, match="it has the row 't19' where there is 't0' here"):
        list(collected(worker(_span(0, 20)), rows, []))


def test_errors_of_a_worker_are_raised_here(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(TextModel):
        def embed(self, batch: Any) -> torch.Tensor:
            raise RuntimeError("no kernel")

    captions = Rows.from_list([{"caption": "x"}])
    with pytest.raises(ValueError, match="^TextModel reads the column 'text', but the rows have caption, id"):
        list(collected(_worker(TextModel(), captions, monkeypatch)(_span(0, 1)), captions, []))
    with pytest.raises(ChildProcessError, match="a worker of Ray failed: RuntimeError: no kernel; what was") as caught:
        list(collected(_worker(Fails(), rows, monkeypatch)(_span(0, 20)), rows, []))
    assert "\n" not in str(caught.value) and "in embed\n" in caught.value.__notes__[0]


def test_without_ray_the_error_says_what_to_install(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"^engine='ray' needs Ray: pip install 'counterpoint\[ray\]'$"):
        next(embedded_by_ray(Assignment("run", "", None, None, _REQUEST, 1), rows, None, []))


def test_a_model_in_memory_and_an_unknown_engine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass its run directory, not a TextModel that is in memory"):
        embed(TextModel(), sentences(3), out=tmp_path / "t", engine="ray")
    with pytest.raises(ValueError, match="engine must be 'local' or 'ray', got 'dask'"):
        embed(TextModel(), sentences(3), out=tmp_path / "t", engine="dask")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_which_cluster_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(running: bool) -> list[Any]:
        calls.clear()
        ray = SimpleNamespace(
            is_initialized=lambda: running,
            init=lambda **settings: calls.append((settings, os.environ["RAY_USAGE_STATS_ENABLED"])),
            shutdown=lambda: calls.append("shutdown"),
        )
        with ray_engine._cluster(ray):  # type: ignore[arg-type]
            calls.append("work")
        return calls

    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run(running=True) == ["work"]
    (settings, reports), *others = run(running=False)
    assert (settings["address"], settings["include_dashboard"], reports) == ("local", False, "0")
    assert others == ["work", "shutdown"] and "RAY_USAGE_STATS_ENABLED" not in os.environ
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    (settings, _), *others = run(running=False)
    assert settings["address"] == "head:6379" and "include_dashboard" not in settings
    assert others == ["work", "shutdown"]


@pytest.mark.parametrize(
    ("machines", "threads", "workers", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 5.0}], 2, 0, (6, {"num_cpus": 2})),
        ([{"CPU": 8.0}], 1, 3, (3, {"num_cpus": 1})),
        ([{"CPU": 2.0}], 16, 0, (1, {"num_cpus": 2})),
        ([{"CPU": 64.0, "GPU": 4.0}, {"CPU": 8.0}], 2, 0, (4, {"num_gpus": 1, "num_cpus": 1})),
    ],
)
def test_how_many_workers(machines: list[Any], threads: int, workers: int, expected: Any) -> None:
    assignment = Assignment("run", "", None, None, _REQUEST._replace(workers=workers), threads)
    nodes = [{"Alive": True, "Resources": found} for found in machines]
    lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}
    assert ray_engine._crew([*nodes, lost], assignment) == expected


def test_how_a_worker_names_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ray_engine._address("emoji:test") == "emoji:test"
    assert ray_engine._address("hub:some/where") == "hub:some/where"
    assert ray_engine._address("./emoji") == str(tmp_path / "emoji")
    assert ray_engine._address(Path("shards/{000..009}.tar")) == str(tmp_path / "shards/{000..009}.tar")
    assert ray_engine._address([{"text": "a"}]) is None


# From here on with Ray itself, on this machine.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "clip"
    counterpoint.train("clip", out=out, recipe="tiny", overrides={"steps": 1}, quiet=True)
    return out


@pytest.fixture(scope="module")
def cluster(run: Path) -> Iterator[None]:
    """One for all tests; the model is trained before, so as not to share the processors."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'counterpoint[ray]'")
    with ray_engine._environment(ray_engine._SETTINGS):
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _album(folder: Path, count: int) -> Path:
    """Pictures with captions, in a table; the eleventh picture is broken."""
    (folder / "pictures").mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (folder / "album.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "image", "text"])
        for number in range(count):
            path = folder / "pictures" / f"{number}.png"
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
            table.writerow([f"p{number}", f"pictures/{number}.png", "word " * (1 + number % 5)])
    (folder / "pictures" / "10.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder / "album.csv"


def _contents(path: Path) -> list[dict[str, Any]]:
    found = open_table(path)
    assert found is not None
    return sorted(found[0].to_arrow().to_pylist(), key=lambda row: row["id"])


@pytest.mark.slow
def test_the_same_table(run: Path, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    _album(tmp_path / "data", 90)
    monkeypatch.chdir(tmp_path)  # workers stand elsewhere
    here = embed(run, "data/album.csv", out="here")
    there = embed(run, "data/album.csv", out="there", engine="ray", workers=2, rows_per_write=16)
    assert _contents(there) == _contents(here) and len(_contents(here)) == 89
    assert Path("there.skipped.jsonl").read_text() == Path("here.skipped.jsonl").read_text()
    assert [json.loads(line)["id"] for line in Path("there.skipped.jsonl").read_text().splitlines()] == ["p10"]
    assert ray.is_initialized(), "a cluster that was there before is not ours to stop"


@pytest.mark.slow
def test_what_is_missing_is_added(run: Path, cluster: None, tmp_path: Path) -> None:
    rows = [{"id": f"t{number}", "text": "word " * (1 + number % 3)} for number in range(50)]
    out = embed(run, rows[10:30], out=tmp_path / "t")
    embed(run, rows, out=out, engine="ray", workers=1)
    assert _contents(out) == _contents(embed(run, rows, out=tmp_path / "whole"))
    version = open_table(out)[0].version  # type: ignore[index]
    assert embed(run, rows, out=out, engine="ray") == out
    assert open_table(out)[0].version == version  # type: ignore[index]


class _Deadly:
    """Ends the process that unpickles it, as a fault of a driver or a lack of memory would."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


@pytest.mark.slow
def test_a_worker_that_keeps_dying_ends_the_call(
    run: Path, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_RESTARTS", 1)  # each start imports torch
    out = embed(run, [{"id": "a", "text": "kept"}], out=tmp_path / "t")
    with pytest.raises(ChildProcessError, match="Ray lost a worker .*: call embed again to go on") as caught:
        embed(run, [{"id": "b", "text": _Deadly()}], out=out, engine="ray", workers=1)
    assert "\n" not in str(caught.value)
    assert [row["id"] for row in _contents(out)] == ["a"]


_CHILD = """
import sys
from counterpoint.index import embed, table

class Announces(table._Table):
    def add(self, block):
        super().add(block)
        print("written", flush=True)
        sys.stdin.readline()

table._Table = Announces
embed(sys.argv[1], sys.argv[2], out=sys.argv[3], batch=8, rows_per_write=8, engine="ray", workers=1)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts Ray three times: 90 s on two free processors
@pytest.mark.skipif(not _HAS_RAY, reason="needs Ray: pip install 'counterpoint[ray]'")
def test_a_call_that_was_killed_goes_on(run: Path, tmp_path: Path) -> None:
    """Killed without warning after some writes, twice; no worker of Ray outlives it."""
    album, out, kept = _album(tmp_path / "data", 200), tmp_path / "t.lance", 0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", _CHILD, str(run), str(album), str(out)]
    for writes in (1, 5):
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as child:
            assert child.stdin is not None and child.stdout is not None
            for number in range(writes):
                child.stdin.write("\n" * bool(number))  # go on
                child.stdin.flush()
                assert child.stdout.readline() == "written\n"
            family = psutil.Process(child.pid).children(recursive=True)
            family = [process for process in family if "Agent" not in process.name()]  # those go a minute later
            child.send_signal(signal.SIGKILL)
        assert any("MapWorker" in process.name() for process in family), "no worker is seen: this tests nothing"
        assert psutil.wait_procs(family, timeout=60)[1] == []
        ids = [row["id"] for row in _contents(out)]
        assert kept + 8 * writes == len(ids) == len(set(ids))
        kept = len(ids)
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert _contents(out) == _contents(embed(run, album, out=tmp_path / "fresh"))
