"""Everything that crosses processes, with different and unequal rows on each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from counterpoint import batch_norm, distributed
from counterpoint.losses import nt_xent
from processes import ProcessError, run_on_processes

SPLIT = (5, 3, 1)


def _rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _own(rows: Tensor, split: tuple[int, ...] = SPLIT) -> Tensor:
    index = distributed.process_index()
    return rows[sum(split[:index]) : sum(split[: index + 1])]


def _where() -> tuple[int, int]:
    return distributed.process_index(), distributed.process_count()


def _gathered() -> dict[str, Tensor]:
    rows = {
        "real": _rows(9, 4),
        "cube": _rows(9, 2, 3).float(),
        "label": torch.arange(9),
        "mask": torch.arange(9) % 2 == 0,
        "half": _rows(9, 2).bfloat16(),
    }
    return distributed.gather({name: _own(value) for name, value in rows.items()})


def _gather_gradient() -> Tensor:
    own = _own(_rows(9, 4)).requires_grad_()
    (distributed.gather(own) * _rows(9, 4, seed=1)).sum().backward()
    assert own.grad is not None
    return own.grad


def _mismatched(wrong: str) -> str:
    odd = int(distributed.process_index() == 1)
    shape = {"width": (3, 4 + odd), "rank": (3, *[4] * (1 + odd)), "dtype": (3, 4)}[wrong]
    rows = _rows(*shape)
    with pytest.raises(ValueError, match="one shape after the first dimension") as caught:
        distributed.gather(rows.float() if wrong == "dtype" and odd else rows)
    return str(caught.value)


def _sums() -> tuple[Tensor, list[dict[str, int]]]:
    index = distributed.process_index()
    return distributed.reduce_sum(torch.tensor([1.0, index])), distributed.gather_objects({"process": index})


def _averaged() -> list[Tensor | None]:
    index = distributed.process_index()
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3).double())]
    parameters += [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)]
    parameters[0].grad = torch.full((2,), float(index))
    if index == 0:  # on the other processes this parameter took no part
        parameters[1].grad = torch.full((3,), 6.0).double()
    distributed.average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


def _averaged_pictures() -> tuple[tuple[int, ...], tuple[int, ...], Tensor]:
    weight = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    rows = _rows(2, 3, 4, 5).float() * (1 + distributed.process_index())
    weight.grad = torch.empty_like(weight).copy_(rows)
    distributed.average_gradients([weight])
    assert weight.grad is not None
    return weight.stride(), weight.grad.stride(), weight.grad.contiguous()


def _broadcast() -> dict[str, Tensor]:
    torch.manual_seed(distributed.process_index())
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module[1].running_mean.normal_()
    distributed.broadcast_module(module)
    return module.state_dict()


def test_processes_have_an_index_and_a_count() -> None:
    assert run_on_processes(_where, 3) == [(0, 3), (1, 3), (2, 3)]
    assert _where() == (0, 1)


def test_gather_puts_unequal_rows_of_every_type_in_process_order() -> None:
    expected = _gathered_alone()
    for answer in run_on_processes(_gathered, 3):
        for name, value in expected.items():
            assert answer[name].dtype == value.dtype
            assert torch.equal(answer[name], value)


def _gathered_alone() -> dict[str, Tensor]:
    return {
        "real": _rows(9, 4),
        "cube": _rows(9, 2, 3).float(),
        "label": torch.arange(9),
        "mask": torch.arange(9) % 2 == 0,
        "half": _rows(9, 2).bfloat16(),
    }


def test_gather_hands_back_the_own_rows_gradient_times_the_process_count() -> None:
    gradient = torch.cat(run_on_processes(_gather_gradient, 3))
    torch.testing.assert_close(gradient, 3 * _rows(9, 4, seed=1), rtol=0, atol=0)


@pytest.mark.parametrize(("wrong", "shapes"), [("width", "(3, 5)"), ("rank", "(3, 4, 4)"), ("dtype", "(3, 4)")])
def test_rows_of_another_shape_are_refused_by_every_process(wrong: str, shapes: str) -> None:
    messages = run_on_processes(_mismatched, 3, wrong)
    assert len(set(messages)) == 1 and shapes in messages[0]


def test_one_process_is_the_identity() -> None:
    rows = _rows(3, 2).requires_grad_()
    assert distributed.gather(rows) is rows
    assert distributed.reduce_sum(rows) is rows
    assert distributed.gather_objects("x") == ["x"]
    distributed.average_gradients([rows])
    distributed.barrier()
    assert rows.grad is None


def test_sums_and_objects() -> None:
    for total, values in run_on_processes(_sums, 3):
        assert total.tolist() == [3.0, 3.0]
        assert values == [{"process": 0}, {"process": 1}, {"process": 2}]


def test_average_counts_a_missing_gradient_as_zero_unless_it_is_missing_everywhere() -> None:
    for first, second, third, fourth in run_on_processes(_averaged, 3):
        assert first.tolist() == [1.0, 1.0]
        assert second.tolist() == [2.0, 2.0, 2.0]
        assert third is None
        assert fourth is None


def test_average_lies_in_memory_as_the_parameter_does() -> None:
    """Fused optimisers go through both as they lie, without a look at the strides."""
    for weight, gradient, values in run_on_processes(_averaged_pictures, 2):
        assert weight == gradient != values.stride()
        torch.testing.assert_close(values, 1.5 * _rows(2, 3, 4, 5).float())


def test_broadcast_gives_everyone_the_weights_and_buffers_of_process_zero() -> None:
    first, *others = run_on_processes(_broadcast, 3)
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in first.items())


def _network(kind: str, momentum: float | None) -> nn.Module:
    torch.manual_seed(0)
    norm = {"1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d}[kind](4, momentum=momentum)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(norm).double()


def _normalise(module: nn.Module, batches: list[Tensor], weights: list[Tensor]) -> dict[str, Tensor]:
    """Two training steps, then the inference form; the loss is a weighted sum over all rows."""
    found = {}
    for step, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        batch = batch.clone().requires_grad_()
        rows = distributed.gather(module(batch))
        (rows * weight).square().sum().backward()
        distributed.average_gradients(module.parameters())
        assert batch.grad is not None
        # The gradient of the own rows comes back times the number of processes; see the module's docstring.
        found[f"input {step}"] = distributed.gather(batch.grad / distributed.process_count())
        found[f"output {step}"] = rows.detach()
    found |= {f"gradient of {name}": parameter.grad for name, parameter in module.named_parameters()}
    found |= dict(module.named_buffers())
    module.eval()
    found["inference"] = distributed.gather(module(batches[0])).detach()
    return found


def _batches(kind: str) -> list[Tensor]:
    return [3 + 2 * _rows(9, 4, *([] if kind == "1d" else [3, 2]), seed=seed) for seed in (1, 2)]


def _global_norm(kind: str, momentum: float | None) -> dict[str, Tensor]:
    module = batch_norm.convert_batch_norm(_network(kind, momentum))
    assert isinstance(module[0], batch_norm.GlobalBatchNorm)
    batches = _batches(kind)
    weights = [_rows(*batch.shape, seed=5) for batch in batches]
    return _normalise(module, [_own(batch) for batch in batches], weights)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_global_batch_norm_equals_one_process_batch_norm(kind: str, momentum: float | None) -> None:
    batches = _batches(kind)
    weights = [_rows(*batch.shape, seed=5) for batch in batches]
    expected = _normalise(_network(kind, momentum), batches, weights)
    for answer in run_on_processes(_global_norm, 3, kind, momentum):
        assert answer.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_convert_batch_norm_keeps_parameters_buffers_and_mode() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2, momentum=0.3, affine=False)))
    module.eval()
    before = module.state_dict()
    converted = batch_norm.convert_batch_norm(module)
    norm = converted[1][0]
    assert isinstance(norm, batch_norm.GlobalBatchNorm)
    assert norm.momentum == 0.3
    assert norm.weight is None
    assert not norm.training
    assert converted.state_dict().keys() == before.keys()


def test_global_batch_norm_wants_a_batch() -> None:
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        batch_norm.GlobalBatchNorm(3)(torch.zeros(3))


def test_across_processes_names_what_is_no_argument() -> None:
    with pytest.raises(ValueError, match=r"rows names \['image'\], but the loss takes \['first', 'second'"):
        distributed.across_processes(nt_xent, rows=("first", "image"))


def _wrong_rows() -> float:
    wrapped = distributed.across_processes(nt_xent, rows=("first", "second"))
    own = _own(_rows(9, 4))
    return float(wrapped(own, own[:1], temperature=0.1))


def test_a_loss_that_refuses_does_so_on_every_process() -> None:
    with pytest.raises(ValueError, match="same number of rows") as raised:
        run_on_processes(_wrong_rows, 2)
    assert any("on process 0 of 2" in note for note in raised.value.__notes__)
    assert run_on_processes(_where, 2) == [(0, 2), (1, 2)]


def test_across_processes_keeps_the_signature() -> None:
    wrapped = distributed.across_processes(nt_xent, rows=("first", "second"))
    assert wrapped.__name__ == "nt_xent"
    rows = _rows(4, 3)
    assert float(wrapped(rows, second=rows, temperature=0.1)) == float(nt_xent(rows, rows, temperature=0.1))


def _one_fails() -> None:
    if distributed.process_index() == 1:
        raise KeyError("only here")
    distributed.barrier()


def test_a_failure_on_one_process_ends_the_wait_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processes.GRACE", 0.2)
    with pytest.raises(KeyError, match="only here"):
        run_on_processes(_one_fails, 2)
    assert run_on_processes(_where, 2) == [(0, 2), (1, 2)]


def _waits() -> None:
    if distributed.process_index() == 0:
        distributed.barrier()


def test_a_hang_is_ended_by_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_on_processes(_where, 2) == [(0, 2), (1, 2)]
    monkeypatch.setattr("processes.TIMEOUT", 0.5)
    with pytest.raises(ProcessError, match=r"no answer from processes \[0\]"):
        run_on_processes(_waits, 2)
