"""Running out of memory halves the piece; terms and accumulated batches add up; features are checked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_caching import difference, gradients_of, make_batch
from torch import Tensor
from training_toys import BatchNormToy, QueueToy, Toy, UncoupledToy, build, make_rows

from counterpoint.distributed import process_index
from counterpoint.storage import read_json
from counterpoint.system import Term
from counterpoint.training.devices import make_fabric
from counterpoint.training.gradients import Gradients
from counterpoint.training.settings import TrainingSettings
from counterpoint.training.terms import uneven_counts
from counterpoint.training.train import train
from processes import run_on_processes

CUDA_TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB"


def small_card(toy: Toy, rows: int, *, only_process: int | None = None, error: type[Exception] = RuntimeError) -> Toy:
    """A toy whose encoder runs out of memory above so many rows."""
    encode = toy.encode

    def limited(batch: dict[str, Any]) -> dict[str, Tensor]:
        if len(batch["first"]) > rows and only_process in (None, process_index()):
            raise error(CUDA_TEXT)
        return encode(batch)

    toy.encode = limited  # type: ignore[method-assign]
    return toy


@pytest.mark.parametrize("kind", [Toy, QueueToy, UncoupledToy])
@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_out_of_memory_halves_until_it_fits(kind: type[Toy], error: type[Exception]) -> None:
    batch = make_batch(19)
    with pytest.warns(UserWarning) as caught:
        found = gradients_of(small_card(build(kind), 5, error=error), batch, None)
    assert [str(warning.message).split("micro_batch=")[1] for warning in caught] == ["9", "4"]
    assert difference(found, gradients_of(build(kind), batch, None)) <= 1e-6


@pytest.mark.filterwarnings("ignore:out of memory")
def test_out_of_memory_in_the_loss_is_noticed_too() -> None:
    toy, calls = build(Toy), [0]
    loss = toy.loss

    def limited(features: dict[str, Tensor]) -> Any:
        calls[0] += 1
        if calls[0] < 3:
            raise RuntimeError(CUDA_TEXT)
        return loss(features)

    toy.loss = limited  # type: ignore[method-assign]
    batch = make_batch(16)
    assert difference(gradients_of(toy, batch, None), gradients_of(build(Toy), batch, None)) <= 1e-6
    assert calls[0] == 3


@pytest.mark.filterwarnings("ignore:out of memory")
def test_one_row_that_does_not_fit_ends_clearly() -> None:
    with pytest.raises(RuntimeError, match="micro_batch=1.*smaller encoder") as caught:
        gradients_of(small_card(build(Toy), 0), make_batch(9), None)
    assert CUDA_TEXT in str(caught.value.__cause__)


@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_batch_norm_that_forbids_pieces_is_named() -> None:
    with pytest.raises(ValueError, match="BatchNorm1d"):
        gradients_of(small_card(build(BatchNormToy), 5), make_batch(9), None)


def test_other_errors_are_not_mistaken_for_memory() -> None:
    toy = build(Toy)
    toy.encode = lambda batch: torch.zeros(2, 3) @ torch.zeros(2, 3)  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gradients_of(toy, make_batch(9), None)


def short_of_memory(sizes: list[int], rows: int) -> tuple[Tensor, int | None]:
    """Only process 1 runs out of memory; all must go on together."""
    whole = make_batch(sum(sizes))
    start = sum(sizes[: process_index()])
    own = {name: value[start : start + sizes[process_index()]] for name, value in whole.items()}
    toy = small_card(build(Toy), rows, only_process=1).train()
    fabric, _ = make_fabric(TrainingSettings())
    gradients = Gradients(toy, toy.encode, toy.loss, fabric, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradients([own], 0, "train", 0)
    from counterpoint.distributed import average_gradients

    average_gradients(toy.parameters())
    return torch.cat([p.grad.reshape(-1).double() for p in toy.parameters() if p.grad is not None]), (
        gradients.micro_batch
    )


def test_memory_that_ends_on_one_process_halves_on_all() -> None:
    whole = gradients_of(build(Toy), make_batch(19), None)
    answers = run_on_processes(short_of_memory, 2, [9, 10], 4)
    assert [micro_batch for _, micro_batch in answers] == [2, 2]
    assert all(difference(found, whole) <= 1e-6 for found, _ in answers)


@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_run_goes_on_and_remembers_the_smaller_piece(tmp_path: Path) -> None:
    overrides = {"batch": 16, "steps": 6}
    limited = train(small_card(build(Toy), 5), make_rows(), out=tmp_path / "a", overrides=overrides, quiet=True)
    plain = train(build(Toy), make_rows(), out=tmp_path / "b", overrides=overrides, quiet=True)
    for found, wanted in zip(
        limited.system(build(Toy)).parameters(), plain.system(build(Toy)).parameters(), strict=True
    ):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert read_json(limited.checkpoints[-1] / "state.json")["micro_batch"] == 4


def plain_uncoupled(toy: UncoupledToy, batches: list[dict[str, Any]]) -> Tensor:
    """What the sum over all rows says, written down without pieces."""
    toy.train()
    parts = [toy.encode(batch) for batch in batches]
    features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    terms = toy.loss(features)
    uneven = terms["uneven"]
    assert isinstance(uneven, Term) and isinstance(terms["mean"], Tensor)
    (terms["mean"] + 0.5 * uneven.total / uneven.count).backward()  # type: ignore[operator]
    return torch.cat([p.grad.reshape(-1).double() for p in toy.parameters() if p.grad is not None])


def accumulated(toy: Toy, batches: list[dict[str, Any]], micro_batch: int | None) -> Tensor:
    fabric, _ = make_fabric(TrainingSettings())
    Gradients(toy.train(), toy.encode, toy.loss, fabric, micro_batch)(batches, 0, "train", 0)  # type: ignore[arg-type]
    return torch.cat([p.grad.reshape(-1).double() for p in toy.parameters() if p.grad is not None])


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_uneven_counts_are_those_of_all_accumulated_batches(micro_batch: int | None) -> None:
    batches = [make_batch(rows, seed=rows) for rows in (7, 12, 3)]
    wanted = plain_uncoupled(build(UncoupledToy), batches)  # type: ignore[arg-type]
    assert difference(accumulated(build(UncoupledToy), batches, micro_batch), wanted) <= 1e-6


def test_accumulated_batches_of_a_coupled_system_are_averaged() -> None:
    batches = [make_batch(8, seed=seed) for seed in range(3)]
    wanted = sum(gradients_of(build(Toy), batch, None) for batch in batches) / 3
    assert isinstance(wanted, Tensor)
    assert difference(accumulated(build(Toy), batches, 3), wanted) <= 1e-6


def test_counting_does_not_touch_running_statistics() -> None:
    class Normed(BatchNormToy, UncoupledToy):
        couples = False

        def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            return UncoupledToy.encode(self, batch)

    toys = [build(Normed), build(Normed)]
    batches = [make_batch(8, seed=seed) for seed in range(2)]
    accumulated(toys[0], batches, None)
    for batch in batches:
        toys[1].train().encode(batch)
    for found, wanted in zip(toys[0].buffers(), toys[1].buffers(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"z": torch.zeros(3, 2), "scale": torch.tensor(1.0)}, "feature 'scale' of Toy.*got \\(\\)"),
        ({"z": torch.zeros(3, 2), "prototypes": torch.zeros(5, 2)}, "feature 'prototypes' of Toy.*got \\(5, 2\\)"),
        ({"z": torch.zeros(3, 2), "n": 3}, "feature 'n' of Toy.*got int"),
        (torch.zeros(3), "must return a dict of tensors, got Tensor"),
    ],
)
def test_features_that_are_not_rows_are_named(features: Any, words: str) -> None:
    toy = build(Toy)
    toy.encode = lambda batch: features  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=words):
        gradients_of(toy, make_batch(3), None)


@pytest.mark.parametrize(
    ("terms", "words"),
    [({}, "dict of named terms"), ({"a": 1.0}, "loss term 'a' of Toy"), ({"a": torch.zeros(3)}, "must be a scalar")],
)
def test_terms_that_are_no_scalars_are_named(terms: Any, words: str) -> None:
    toy = build(Toy)
    toy.loss = lambda features: terms  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=words):
        gradients_of(toy, make_batch(3), None)


def test_a_count_of_one_is_a_count() -> None:
    """On one process of several: all must send the same number of counts, or they wait for ever."""
    value = torch.ones(())
    terms = {"counted": Term(value, 1), "mean": Term.mean(value), "plain": Term(value)}
    assert uneven_counts(terms) == {"counted": 1}
