"""What holds for every registered system: found through the registry, run with its tiny recipe, never listed here."""

from __future__ import annotations

import inspect
import itertools
import pickle
import signal
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from every_system import ROWS, arguments_of, gradients_of, recipe_rows
from torch import Tensor

from counterpoint.construction import convert
from counterpoint.evaluation.embedding import embed_all
from counterpoint.run import Run, load
from counterpoint.system import System, find_system, list_systems
from counterpoint.training.checkpoint import read_newest
from counterpoint.training.interrupt import Interrupted
from counterpoint.training.recipe import list_recipes, read_recipe
from counterpoint.training.settings import TrainingSettings
from counterpoint.training.train import train
from processes import run_on_processes

REPOSITORY = Path(__file__).parents[2]
PAPERS = [info.name for info in list_systems() if info.cls.__module__.startswith("counterpoint.systems.")]
TRAINED = [info.name for info in list_systems() if info.trains and "tiny" in list_recipes(info.name)]
WITH_VECTORS = [path.name for path in (REPOSITORY / "tests" / "golden" / "data").iterdir() if path.is_dir()]


def _stages() -> list[tuple[str, str]]:
    found = []
    for name in TRAINED:
        system = find_system(name).cls(
            **{k: convert(v, hint, k) for k, (v, hint) in arguments_of(name, "tiny").items()}
        )
        assert isinstance(system, System)
        found += [(name, stage.name) for stage in system.stages()]
    return found


STAGES = _stages()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("systems")


_RUNS: dict[str, Run] = {}


def _unbroken(name: str, folder: Path) -> Run:
    """The tiny recipe, run once for all tests."""
    if name not in _RUNS:
        _RUNS[name] = train(name, out=folder / name, recipe="tiny", quiet=True)
    return _RUNS[name]


@pytest.mark.parametrize("name", TRAINED)
def test_loss_falls_below_where_it_began(name: str, tmp_path: Path) -> None:
    """The whole loss, on one batch that comes again and again; above the guess level, which grows with a queue."""
    recipe = read_recipe(name, "tiny")
    rows = recipe_rows(name)[: min(recipe.training["batch"], len(recipe_rows(name)))]
    overrides = {"steps": 40, "log_every": 2, "schedule": "constant", "warmup_steps": 0, "warmup_fraction": 0.0}
    run = train(name, rows, out=tmp_path / "run", recipe="tiny", overrides=overrides, quiet=True)
    stages = [line["stage"] for line in run.metrics()]
    longest = max(dict.fromkeys(stages), key=stages.count)  # losses of other stages cannot be compared with its own
    lines = [line for line in run.metrics() if line["stage"] == longest]
    excess = [line["loss"] - line.get("guess", 0.0) for line in lines]
    assert np.mean(excess[-4:]) < excess[0] - 0.01, excess


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_stopped_twice_ends_like_an_unbroken_one(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _unbroken(name, folder)
    total = whole.result()["steps"]
    cls = find_system(name).cls
    assert issubclass(cls, System)
    before, stops, steps = cls.before_step, {total // 3, 2 * total // 3}, itertools.count()

    def stopping(self: System) -> None:
        before(self)
        step = next(steps)  # of the whole run: the clock's begins again with every stage
        if step in stops:
            stops.discard(step)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cls, "before_step", stopping)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(name, out=tmp_path / "run", recipe="tiny", resume=True, quiet=True)
    again = train(name, out=tmp_path / "run", recipe="tiny", resume=True, quiet=True)
    assert not stops
    states = [read_newest(run.path / "checkpoints") for run in (whole, again)]
    assert states[0] is not None and states[1] is not None
    first, second = (state[0] if isinstance(state, tuple) else state for state in states)
    _assert_equal(dict(first.weights), dict(second.weights))
    assert first.optimisers.keys() == second.optimisers.keys() and first.optimisers
    for stage, state in first.optimisers.items():
        assert state.keys() == second.optimisers[stage].keys() and state
        for parameter, values in state.items():
            _assert_equal(values, second.optimisers[stage][parameter])


def _assert_equal(first: dict[str, object], second: dict[str, object]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        same = torch.equal(value, other) if isinstance(value, Tensor) else value == other  # type: ignore[arg-type]
        assert same, f"{key} differs"


@pytest.mark.parametrize("name", TRAINED)
def test_loading_gives_the_same_system(name: str, folder: Path) -> None:
    run = _unbroken(name, folder)
    rows = recipe_rows(name)[:6]
    first, second = load(run.path), load(run.path)
    checkpoint = read_newest(run.path / "checkpoints")
    assert checkpoint is not None
    state = checkpoint[0] if isinstance(checkpoint, tuple) else checkpoint
    _assert_equal(dict(state.weights), dict(first.state_dict()))
    _assert_equal(embed_all(first, rows)[1], embed_all(second, rows)[1])


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_row_gets_the_same_vector_in_any_batch(name: str, folder: Path) -> None:
    system = load(_unbroken(name, folder).path)
    rows = recipe_rows(name)[:40]
    ids, spaces = embed_all(system, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    for batch in (1, 2, 7, 32):
        other_ids, others = embed_all(system, rows.select(order), batch=batch)
        back = [other_ids.index(identity) for identity in ids]
        for space, vectors in spaces.items():
            assert torch.isfinite(vectors).all()
            assert (others[space][back] - vectors).abs().max() <= 1e-6, (batch, space)


@cache
def _alone(name: str, stage: str) -> dict[str, np.ndarray]:
    return gradients_of(name, stage)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_more_processes_change_nothing(name: str, stage: str, world_size: int) -> None:
    """Different rows and unequal numbers of them on every process, against one process that holds all."""
    alone = _alone(name, stage)
    for found in run_on_processes(gradients_of, world_size, name, stage):
        assert found.keys() == alone.keys()
        _assert_close(found, alone)


def _assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    scale = max(float(np.abs(value).max()) for key, value in wanted.items() if key.startswith("gradient"))
    assert scale > 0
    for key, value in wanted.items():
        finite = value[np.isfinite(value)]  # the mask of a text tower is not
        size = scale if key.startswith("gradient") else max(1.0, float(np.abs(finite).max(initial=0.0)))
        differs = found[key] != value
        error = float(np.abs(found[key][differs] - value[differs]).max(initial=0.0)) / size
        assert error <= 1e-10, f"{key}: relative error {error:.1e}"


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_micro_batches_change_nothing_or_are_refused(name: str, stage: str, micro_batch: int) -> None:
    assert micro_batch < ROWS
    try:
        found = gradients_of(name, stage, micro_batch)
    except ValueError as error:
        assert "BatchNorm" in str(error) and "micro_batch" in str(error)  # noqa: PT017
        return
    _assert_close(found, _alone(name, stage))


@pytest.mark.parametrize("name", TRAINED)
def test_views_travel_to_workers(name: str, folder: Path) -> None:
    system = load(_unbroken(name, folder).path)
    row = recipe_rows(name)[0]
    view, preprocess = pickle.loads(pickle.dumps((system.views(), system.preprocess())))
    assert view(row, np.random.default_rng(0)).keys() == system.views()(row, np.random.default_rng(0)).keys()
    assert preprocess(row).keys() == system.preprocess()(row).keys()


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_has_its_files(name: str) -> None:
    info = find_system(name)
    wanted = [
        f"docs/systems/{name}.md",
        f"tests/systems/test_{name}.py",
        f"src/counterpoint/recipes/{name}/claim.yaml",
    ]
    if info.trains:
        wanted += [f"src/counterpoint/recipes/{name}/{recipe}.yaml" for recipe in ("paper", "small", "tiny")]
    missing = [path for path in wanted if not (REPOSITORY / path).is_file()]
    assert not missing
    assert info.cls.paper and "(arXiv" in info.cls.paper
    assert info.summary


@pytest.mark.parametrize("name", [name for name in PAPERS if name in WITH_VECTORS])
def test_every_golden_function_has_an_adapter(name: str) -> None:
    sys.path.insert(0, str(REPOSITORY / "tests" / "golden"))
    try:
        from adapters import ADAPTERS
    finally:
        sys.path.pop(0)
    assert [key for key in ADAPTERS if key.startswith(f"{name}/")]


@pytest.mark.parametrize(("name", "recipe"), [(n, r) for n in PAPERS for r in list_recipes(n)])
def test_every_recipe_can_be_read(name: str, recipe: str) -> None:
    found = read_recipe(name, recipe)
    TrainingSettings.build(found.training)
    known = inspect.signature(find_system(name).cls).parameters
    for key, (value, hint) in arguments_of(name, recipe).items():
        assert key in known
        convert(value, hint, key)


@pytest.mark.parametrize("name", PAPERS)
def test_every_argument_is_documented(name: str) -> None:
    cls = find_system(name).cls
    text = inspect.getdoc(cls) or ""
    for argument in inspect.signature(cls).parameters:
        assert argument in text, f"{cls.__name__}: Args says nothing of {argument}"


@pytest.mark.parametrize("name", PAPERS)
def test_every_claim_can_be_read(name: str) -> None:
    from counterpoint.claims import read_claim

    claim = read_claim(name)
    assert len(claim["seeds"]) >= 3
    for arm in claim["arms"].values():
        system = find_system(arm["system"]).name
        if arm.get("recipe"):
            read_recipe(system, arm["recipe"])
        assert set(arm.get("arguments", {})) <= set(inspect.signature(find_system(system).cls).parameters)
        assert set(arm.get("training", {})) <= set(TrainingSettings.names())
    for comparison in claim["comparisons"]:
        assert comparison["treatment"] in claim["arms"]
        assert comparison["baseline"] in claim["arms"] or isinstance(comparison["baseline"], int | float)
