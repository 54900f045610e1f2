"""Optimisers: groups, names, and the published formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training_toys import Toy, build

from counterpoint.training.optimisers import (
    build_optimiser,
    export_state,
    freeze_all_but,
    import_state,
    set_learning_rate,
)
from counterpoint.training.settings import OPTIMISERS, TrainingSettings


def settings(**values: Any) -> TrainingSettings:
    return TrainingSettings(learning_rate=0.1, weight_decay=0.01, **values)


def fill_gradients(toy: Toy, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in toy.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_groups_keep_scale_and_decay() -> None:
    class Scaled(Toy):
        def parameter_groups(self) -> list[dict[str, Any]]:
            return [
                {"params": list(self.backbone.parameters()), "scale": 0.1},
                {"params": list(self.head.parameters())},
            ]

    optimiser = build_optimiser(build(Scaled), settings())
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.01, 0.1])
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.01, 0.01]
    set_learning_rate(optimiser, 0.02)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.002, 0.02])


def test_biases_are_not_decayed_by_default() -> None:
    optimiser = build_optimiser(build(Toy), settings())
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.dim() > 1)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_state_travels_by_name(name: str) -> None:
    toys = [build(Toy), build(Toy)]
    optimisers = [build_optimiser(toy, settings(optimiser=name)) for toy in toys]
    for step in range(3):
        fill_gradients(toys[0], step)
        optimisers[0].step()
    toys[1].load_state_dict(toys[0].state_dict())
    import_state(optimisers[1], toys[1], export_state(optimisers[0], toys[0]))
    for toy, optimiser in zip(toys, optimisers, strict=True):
        fill_gradients(toy, 9)
        optimiser.step()
    for first, second in zip(toys[0].parameters(), toys[1].parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["lars", "larc"])
def test_layerwise_rates_follow_the_formula(name: str) -> None:
    """You et al. 2017, eq. 6: local rate = trust |w| / (|g| + decay |w|); LARC never goes above the rate itself."""
    toy = build(Toy)
    weight = toy.head.weight
    before = weight.detach().clone()
    fill_gradients(toy)
    assert weight.grad is not None
    optimiser = build_optimiser(toy, settings(optimiser=name, momentum=0.0))
    gradient = weight.grad.clone()
    optimiser.step()
    local = 0.001 * before.norm() / (gradient.norm() + 0.01 * before.norm())
    step = min(float(local) / 0.1, 1.0) * 0.1 if name == "larc" else float(local) * 0.1
    assert torch.allclose(weight, before - step * (gradient + 0.01 * before), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (lambda toy: [{"params": list(toy.head.parameters())}], "leaves out backbone.0.weight and 3 more"),
        (lambda toy: [{"params": list(toy.parameters())}, {"params": [toy.head.bias]}], "lists head.bias twice"),
    ],
)
def test_groups_that_do_not_cover_are_named(groups: Any, words: str) -> None:
    toy = build(Toy)
    toy.parameter_groups = lambda: groups(toy)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=words):
        build_optimiser(toy, settings())


def test_nothing_to_train_is_said() -> None:
    toy = build(Toy).requires_grad_(False)
    with pytest.raises(ValueError, match="everything is frozen"):
        build_optimiser(toy, settings())


def test_freezing_follows_prefixes_and_keeps_what_was_frozen() -> None:
    toy = build(Toy)
    toy.head.bias.requires_grad_(False)
    trainable = {name: parameter.requires_grad for name, parameter in toy.named_parameters()}
    freeze_all_but(toy, ("head", "backbone.3.weight"), trainable)
    assert {n for n, p in toy.named_parameters() if p.requires_grad} == {"head.weight", "backbone.3.weight"}
    freeze_all_but(toy, (), trainable)
    assert {n for n, p in toy.named_parameters() if not p.requires_grad} == {"head.bias"}
    with pytest.raises(ValueError, match="a stage trains 'heads'.*there are backbone, head"):
        freeze_all_but(toy, ("heads",), trainable)


def test_a_prefix_is_a_whole_name() -> None:
    holder = build(Toy)
    holder.head_two = nn.Linear(2, 2)
    freeze_all_but(holder, ("head",), {name: True for name, _ in holder.named_parameters()})
    assert not holder.head_two.weight.requires_grad and holder.head.weight.requires_grad


def pictures() -> nn.Conv2d:
    """A convolution as image encoders hold it: its weights lie in memory with the channels last."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)


def stepped(module: Any, optimiser: Any, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in module.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        optimiser.step()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_state_from_a_file_goes_on_in_the_memory_order_of_the_weights(name: str) -> None:
    class Pictures(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = pictures()  # type: ignore[assignment]

    whole, parts, rest = (build(Pictures) for _ in range(3))
    stepped(whole, build_optimiser(whole, settings(optimiser=name)), range(4))
    first = build_optimiser(parts, settings(optimiser=name))
    stepped(parts, first, range(2))
    # What a safetensors file gives back: the numbers in row order.
    states = {
        parameter: {key: torch.as_tensor(value).contiguous().clone() for key, value in state.items()}
        for parameter, state in export_state(first, parts).items()
    }
    rest.load_state_dict(parts.state_dict())
    second = build_optimiser(rest, settings(optimiser=name))
    import_state(second, rest, states)
    stepped(rest, second, range(2, 4))
    for before, after in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(before, after)


def test_weights_with_gaps_in_memory_take_the_plain_kernel() -> None:
    class Gaps(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.head.weight = nn.Parameter(torch.zeros(6, 12)[:, ::2])

    assert all(group["fused"] for group in build_optimiser(build(Toy), settings()).param_groups)
    assert not any(group["fused"] for group in build_optimiser(build(Gaps), settings()).param_groups)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_parameters_may_get_their_first_gradient_later_than_others(name: str) -> None:
    toy = build(Toy)
    optimiser = build_optimiser(toy, settings(optimiser=name))
    fill_gradients(toy)
    toy.head.weight.grad = None
    before = toy.head.weight.detach().clone()
    optimiser.step()
    assert torch.equal(toy.head.weight, before)
    fill_gradients(toy)
    optimiser.step()
    assert not torch.equal(toy.head.weight, before)
