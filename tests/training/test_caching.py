"""Gradient caching: the gradient of a batch that is encoded in pieces equals that of the whole batch."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_toys import WIDTH, BatchNormToy, QueueToy, Toy, UncoupledToy, build

from counterpoint.distributed import average_gradients, gather, process_count, process_index
from counterpoint.training.caching import CachedFeatures, batch_rows, cut
from counterpoint.training.devices import make_fabric
from counterpoint.training.gradients import Gradients
from counterpoint.training.settings import TrainingSettings
from processes import run_on_processes


def make_batch(rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(rows, WIDTH, generator=generator).to(dtype)
    second = first + 0.1 * torch.randn(rows, WIDTH, generator=generator).to(dtype)
    counts = torch.randint(1, 5, (rows,), generator=generator)
    return {"first": first, "second": second, "n": counts, "_ids": [f"r{i}" for i in range(rows)]}


def gradients_of(toy: Toy, batch: dict[str, Any], micro_batch: int | None, precision: str = "32-true") -> Tensor:
    """All gradients of one step in one vector, averaged over the processes."""
    toy.train()
    fabric, _ = make_fabric(TrainingSettings(precision=precision))
    Gradients(toy, toy.encode, toy.loss, fabric, micro_batch)([batch], 0, "train", 0)
    average_gradients(toy.parameters())
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in toy.parameters() if p.requires_grad]
    return torch.cat([grad.reshape(-1).double() for grad in grads])


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", [Toy, QueueToy, UncoupledToy])
@pytest.mark.parametrize("micro_batch", [1, 3, 8, 19])
@pytest.mark.parametrize(("precision", "bar"), [("32-true", 1e-6), ("bf16-mixed", 5e-3)])
def test_pieces_have_the_gradient_of_the_whole(kind: type[Toy], micro_batch: int, precision: str, bar: float) -> None:
    batch = make_batch(19)
    whole = gradients_of(build(kind), batch, None, precision)
    assert difference(gradients_of(build(kind), batch, micro_batch, precision), whole) <= bar


def piecewise(toy: Toy, batch: dict[str, Any], micro_batch: int, precision: str) -> Tensor:
    """The reference with dropout: the same pieces, the same random numbers, but one graph that holds everything."""
    toy.train()
    fabric, _ = make_fabric(TrainingSettings(precision=precision))
    pieces = cut({name: value for name, value in batch.items() if name != "_ids"}, micro_batch)
    torch.manual_seed(7)
    parts = []
    for piece in pieces:
        with fabric.autocast():
            parts.append(toy.encode(piece))
    with fabric.autocast():
        loss = toy.loss({name: torch.cat([part[name] for part in parts]) for name in parts[0]})["contrast"]
    loss.backward()
    return torch.cat([p.grad.reshape(-1).double() for p in toy.parameters() if p.grad is not None])


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 19])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_dropout_draws_the_same_in_both_passes(micro_batch: int, precision: str) -> None:
    batch = make_batch(19)
    wanted = piecewise(build(Toy, dropout=0.5), batch, micro_batch, precision)
    toy = build(Toy, dropout=0.5).train()
    fabric, _ = make_fabric(TrainingSettings(precision=precision))
    pieces = cut({name: value for name, value in batch.items() if name != "_ids"}, micro_batch)
    torch.manual_seed(7)
    cache = CachedFeatures(toy.encode, pieces, fabric.autocast, torch.device("cpu"))
    with fabric.autocast():
        loss = toy.loss(cache.features)["contrast"]
    loss.backward()
    before = torch.get_rng_state()
    cache.replay()
    assert torch.equal(before, torch.get_rng_state())  # what comes next does not depend on the replay
    found = torch.cat([p.grad.reshape(-1).double() for p in toy.parameters() if p.grad is not None])
    assert difference(found, wanted) <= 1e-6


def test_dropout_is_really_on() -> None:
    batch = make_batch(19)
    assert difference(gradients_of(build(Toy, dropout=0.5), batch, 4), gradients_of(build(Toy), batch, 4)) > 0.1


def on_each_process(kind: type[Toy], sizes: list[int], micro_batch: int | None, precision: str) -> Tensor:
    """Gradients of a run in which this process holds its part of the rows."""
    whole = make_batch(sum(sizes))
    start = sum(sizes[: process_index()])
    stop = start + sizes[process_index()]
    own = {name: value[start:stop] for name, value in whole.items()}
    return gradients_of(build(kind), own, micro_batch, precision)


@pytest.mark.parametrize("kind", [Toy, QueueToy, UncoupledToy])
@pytest.mark.parametrize(("sizes", "micro_batch"), [([10, 9], 3), ([5, 14], 6), ([13, 6], 1), ([10, 9], None)])
def test_pieces_on_two_processes(kind: type[Toy], sizes: list[int], micro_batch: int | None) -> None:
    whole = gradients_of(build(kind), make_batch(19), None)
    for found in run_on_processes(on_each_process, 2, kind, sizes, micro_batch, "32-true"):
        assert difference(found, whole) <= 1e-6


def test_pieces_on_two_processes_under_autocast() -> None:
    whole = gradients_of(build(Toy), make_batch(20), None, "bf16-mixed")
    for found in run_on_processes(on_each_process, 2, Toy, [12, 8], 3, "bf16-mixed"):
        assert difference(found, whole) <= 5e-3


def gathered_equals(sizes: list[int]) -> bool:
    rows = torch.arange(sum(sizes), dtype=torch.float64)[:, None]
    start = sum(sizes[: process_index()])
    return torch.equal(gather(rows[start : start + sizes[process_index()]]), rows) and process_count() == len(sizes)


def test_processes_really_hold_different_rows() -> None:
    assert run_on_processes(gathered_equals, 2, [3, 5]) == [True, True]


class Remembers(nn.Module):
    """A deep encoder whose activations are counted while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(16)))

    def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"z": self.layers(batch["x"])}


class LiveBytes:
    """Bytes of tensors that autograd keeps for backward, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Any:
        if tensor.is_leaf and tensor.requires_grad:
            return tensor
        size = tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        return _Kept(self, tensor, size)

    @staticmethod
    def unpack(kept: Any) -> Tensor:
        return kept.tensor if isinstance(kept, _Kept) else kept


class _Kept:
    def __init__(self, live: LiveBytes, tensor: Tensor, size: int) -> None:
        self.live, self.tensor, self.size = live, tensor, size

    def __del__(self) -> None:
        self.live.now -= self.size


def test_memory_of_activations_falls_with_the_pieces() -> None:
    module, batch = Remembers(), {"x": torch.randn(256, 64)}

    def square(features: dict[str, Tensor]) -> Tensor:
        return (features["z"] @ features["z"].T).square().mean()

    plain, cached = LiveBytes(), LiveBytes()
    with torch.autograd.graph.saved_tensors_hooks(plain.pack, plain.unpack):
        square(module.encode(batch)).backward()
    with torch.autograd.graph.saved_tensors_hooks(cached.pack, cached.unpack):
        cache = CachedFeatures(module.encode, cut(batch, 8), nullcontext, torch.device("cpu"))
        square(cache.features).backward()
        cache.replay()
    assert plain.most > 256 * 64 * 4 * 16
    assert cached.most <= 0.25 * plain.most


def test_batch_norm_in_training_mode_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"micro_batch=4.*backbone\.1 \(BatchNorm1d\)"):
        gradients_of(build(BatchNormToy), make_batch(19), 4)


def test_batch_norm_in_eval_mode_is_fine() -> None:
    toys = [build(BatchNormToy), build(BatchNormToy)]
    for toy in toys:
        toy.train = lambda mode=True, toy=toy: nn.Module.train(toy, False)  # type: ignore[method-assign]
    batch = make_batch(19)
    assert difference(gradients_of(toys[0], batch, 4), gradients_of(toys[1], batch, None)) <= 1e-6


class HeadNormToy(Toy):
    """A BatchNorm in the loss, where all rows are: pieces do not concern it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))  # type: ignore[assignment]


def test_batch_norm_over_the_collected_features_is_allowed() -> None:
    whole = gradients_of(build(HeadNormToy), make_batch(19), None)
    assert difference(gradients_of(build(HeadNormToy), make_batch(19), 4), whole) <= 1e-6


def test_everything_in_a_batch_is_cut_along_its_rows() -> None:
    batch = {
        "tokens": {"input_ids": torch.arange(20).view(5, 4), "mask": torch.ones(5, 4)},
        "crops": [torch.arange(5), torch.arange(5) * 10],
        "names": ["a", "b", "c", "d", "e"],
        "ragged": [torch.zeros(n) for n in range(1, 6)],
        "pairs": [(1, 2)] * 5,
        "temperature": 0.1,
        "scale": torch.tensor(3.0),
        "note": None,
        "title": "whole",
    }
    pieces = cut(batch, 2)
    assert [batch_rows(piece) for piece in pieces] == [2, 2, 1]
    assert torch.equal(pieces[1]["tokens"]["input_ids"], batch["tokens"]["input_ids"][2:4])
    assert torch.equal(pieces[2]["crops"][1], torch.tensor([40]))
    assert pieces[0]["names"] == ["a", "b"] and pieces[2]["names"] == ["e"]
    assert [len(item) for item in pieces[1]["ragged"]] == [3, 4]
    assert pieces[2]["pairs"] == [(1, 2)]
    for piece in pieces:
        assert (piece["temperature"], float(piece["scale"]), piece["note"], piece["title"]) == (0.1, 3, None, "whole")


def test_cut_pieces_make_the_batch_again() -> None:
    generator = random.Random(0)
    for _ in range(50):
        rows, size = generator.randrange(1, 30), generator.randrange(1, 12)
        batch = {"x": torch.randn(rows, 3), "names": [str(i) for i in range(rows)]}
        pieces = cut(batch, size)
        assert torch.equal(torch.cat([piece["x"] for piece in pieces]), batch["x"])
        assert sum((piece["names"] for piece in pieces), []) == batch["names"]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": torch.zeros(4, 2), "y": torch.zeros(3)}, r"batch\['y'\] has 3 rows, the batch 4"),
        ({"x": torch.zeros(4), "deep": {"names": ["a", "b"]}}, r"batch\['deep'\]\['names'\] has 2 rows"),
        ({"note": 3}, "no tensor and no list"),
    ],
)
def test_what_cannot_be_cut_is_named(batch: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cut(batch, 2)


def test_a_piece_has_at_least_one_row() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        cut({"x": torch.zeros(4)}, 0)
