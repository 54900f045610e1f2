"""SwAV against a step written as loops from the paper, and what is special in its training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.batch_norm import GlobalBatchNorm, convert_batch_norm
from counterpoint.data import open_rows
from counterpoint.systems.swav import SwAV, encode_crops
from counterpoint.training.optimisers import build_optimiser
from counterpoint.training.settings import TrainingSettings
from counterpoint.views.image import MultiCrop

CROPS = MultiCrop(sizes=(32, 16), counts=(2, 1), scales=((0.3, 1.0), (0.1, 0.3)))


def _system(**arguments: object) -> SwAV:
    settings = {"hidden": 16, "dim": 6, "prototypes": 7, "crops": CROPS, "freeze": 0, **arguments}
    return SwAV("test_resnet?size=32", **settings).to(torch.float64)  # type: ignore[arg-type]


def _embeddings(rows: int, views: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(rows, views, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=2)


def _slow_codes(scores: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    """Sinkhorn-Knopp as the paper's appendix writes it, on plain numbers: rows are samples."""
    n, k = len(scores), len(scores[0])
    q = [[math.exp(scores[i][j] / epsilon) for j in range(k)] for i in range(n)]
    for _ in range(iterations):
        for j in range(k):
            mass = sum(q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] /= mass * k
        for i in range(n):
            mass = sum(q[i])
            q[i] = [value / (mass * n) for value in q[i]]
    return [[value * n for value in row] for row in q]


def _slow_loss(
    embeddings: Tensor, prototypes: Tensor, assigned: tuple[int, ...], queues: dict[int, Tensor], system: SwAV
) -> float:
    rows, views, _ = embeddings.shape
    scores = [[[float(embeddings[b, v] @ c) for c in prototypes] for b in range(rows)] for v in range(views)]
    total = 0.0
    for i in assigned:
        earlier = [[float(z @ c) for c in prototypes] for z in queues.get(i, [])]
        codes = _slow_codes(earlier + scores[i], system.epsilon, system.iterations)[len(earlier) :]
        for v in range(views):
            if v == i:
                continue
            for b in range(rows):
                exponents = [math.exp(s / system.temperature) for s in scores[v][b]]
                for q, e in zip(codes[b], exponents, strict=True):
                    total -= q * math.log(e / sum(exponents)) / rows
    return total / len(assigned) / (views - 1)


@pytest.mark.parametrize(("views", "assigned"), [(2, (0, 1)), (5, (0, 1)), (3, (2,))])
@pytest.mark.parametrize("queue", [0, 8])
def test_one_step_equals_the_paper_in_loops(views: int, assigned: tuple[int, ...], queue: int) -> None:
    crops = MultiCrop(sizes=(32,), counts=(views,), scales=((0.3, 1.0),))
    system = _system(crops=crops, assigned=assigned, queue=queue, queue_starts=0)
    system.before_step()
    queues = {}
    if queue:
        for crop in assigned:
            queues[crop] = _embeddings(queue, 1, seed=crop + 10)[:, 0]
            system.queues[str(crop)].push(queues[crop])
    embeddings = _embeddings(4, views)
    expected = _slow_loss(embeddings, system.prototypes.weight.detach(), assigned, queues, system)
    assert abs(float(system.swap(embeddings)) - expected) < 1e-12


def test_crops_share_a_call_only_while_their_size_stays() -> None:
    calls: list[tuple[int, ...]] = []

    def backbone(images: Tensor) -> Tensor:
        calls.append(tuple(images.shape))
        return images.mean(dim=(2, 3))

    crops = [torch.full((3, 3, size, size), float(i)) for i, size in enumerate((8, 8, 5, 8, 5))]
    found = encode_crops(backbone, crops)
    assert calls == [(6, 3, 8, 8), (3, 3, 5, 5), (3, 3, 8, 8), (3, 3, 5, 5)]
    assert found[:, 0].tolist() == [0.0] * 3 + [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 3


def test_features_keep_rows_and_crops_apart() -> None:
    system = _system().eval()
    batch = {"crops0": torch.randn(3, 2, 3, 32, 32).double(), "crops1": torch.randn(3, 1, 3, 16, 16).double()}
    features = system.encode(batch)["crops"]
    assert features.shape == (3, 3, system.encoder.dim)
    torch.testing.assert_close(features[1, 2], system.encoder(batch["crops1"][1])[0])
    torch.testing.assert_close(features[2, 1], system.encoder(batch["crops0"][2, 1:2])[0])


def test_the_head_normalises_over_all_crops_at_once() -> None:
    system = _system().train()
    features = torch.randn(4, 3, system.encoder.dim, dtype=torch.float64)
    by_hand = system.head(torch.cat([features[:, crop] for crop in range(3)]))
    by_hand = torch.nn.functional.normalize(by_hand, dim=1).unflatten(0, (3, 4)).transpose(0, 1)
    torch.testing.assert_close(system.project(features), by_hand)
    alone = torch.nn.functional.normalize(system.head(features[:, 0]), dim=1)
    assert not torch.allclose(system.project(features)[:, 0], alone)


def test_the_queue_is_read_once_full_and_pushed_after() -> None:
    system = _system(queue=8, queue_starts=2)
    embeddings = _embeddings(4, 3)
    plain = float(system.swap(embeddings))
    system.clock.epoch = 1
    system.after_step({"embeddings": embeddings})
    assert len(system.queues["0"]) == 0, "nothing is queued before its epoch"
    system.clock.epoch = 2
    system.after_step({"embeddings": embeddings})
    assert len(system.queues["0"]) == 4
    assert float(system.swap(embeddings)) == plain, "half full is not read"
    system.after_step({"embeddings": _embeddings(4, 3, seed=3)})
    assert float(system.swap(embeddings)) != plain
    torch.testing.assert_close(system.queues["1"].rows().flip(0)[4:], embeddings[:, 1], msg="newest first")
    assert not torch.equal(system.queues["0"].rows(), system.queues["1"].rows()), "one queue for each crop"


def test_frozen_prototypes_have_no_gradient_at_all() -> None:
    system = _system(freeze=3)
    for step, frozen in ((0, True), (2, True), (3, False)):
        system.clock.step = step
        system.prototypes.weight.grad = None
        system.before_step()
        features = {"crops": torch.randn(4, 3, system.encoder.dim, dtype=torch.float64, requires_grad=True)}
        system.loss(features)["swap"].backward()
        assert (system.prototypes.weight.grad is None) == frozen
        assert features["crops"].grad is not None


def test_prototypes_are_normalised_before_the_step_not_after() -> None:
    system = _system()
    system.prototypes.weight.data *= 3
    system.after_step({"embeddings": _embeddings(4, 3)})
    assert float(system.prototypes.weight.norm(dim=1).min()) > 2
    system.before_step()
    torch.testing.assert_close(system.prototypes.weight.norm(dim=1), torch.ones(7, dtype=torch.float64))


def test_codes_get_no_gradient_and_small_crops_only_predict() -> None:
    """Gradient of a crop that is assigned but predicts nothing must vanish: two crops, one assigned."""
    crops = MultiCrop(sizes=(32,), counts=(2,), scales=((0.3, 1.0),))
    system = _system(crops=crops, assigned=(0,))
    embeddings = _embeddings(4, 2).requires_grad_()
    system.swap(embeddings).backward()
    assert embeddings.grad is not None
    assert float(embeddings.grad[:, 0].abs().max()) == 0.0
    assert float(embeddings.grad[:, 1].abs().max()) > 0.0


def test_softmax_codes_are_sinkhorn_without_the_balance() -> None:
    scores = torch.randn(6, 7, dtype=torch.float64)
    codes = _system(codes="softmax").assign(scores, 0)
    torch.testing.assert_close(codes, torch.softmax(scores / 0.05, dim=1))
    balanced = _system().assign(scores, 0)
    assert float(balanced.sum(dim=0).std()) < float(codes.sum(dim=0).std())
    torch.testing.assert_close(balanced.sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_the_heads_batch_norm_is_not_made_global_twice() -> None:
    """It runs in `loss`, on the rows of all processes: global statistics would count every row once a process."""
    system = _system()
    convert_batch_norm(system)
    assert not any(isinstance(layer, GlobalBatchNorm) for layer in system.head.modules())
    assert any(isinstance(layer, GlobalBatchNorm) for layer in system.encoder.modules())


def test_larc_without_clipping_moves_every_parameter_by_its_own_rate() -> None:
    """`lars` over the system's single group is apex's LARC(clip=False) around SGD: one step, written out."""
    system = _system().to(torch.float32)
    rate, decay, trust = 0.5, 1e-6, 0.001
    settings = TrainingSettings(optimiser="lars", learning_rate=rate, weight_decay=decay, momentum=0.9)
    optimiser = build_optimiser(system, settings)
    expected = {}
    for name, parameter in system.named_parameters():
        parameter.grad = torch.randn_like(parameter)
        size, slope = float(parameter.detach().norm()), float(parameter.grad.norm())
        local = trust * size / (slope + decay * size + 1e-8) if size > 0 and slope > 0 else 1.0
        expected[name] = parameter.detach() - rate * local * (parameter.grad + decay * parameter.detach())
    optimiser.step()
    for name, parameter in system.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_guess_level_is_that_of_the_prototypes() -> None:
    assert _system().guess_level(256) == math.log(7)


def test_share_of_prototypes_in_use() -> None:
    rows = open_rows("digits:validation")[:70]
    share = _system().to(torch.float32).measure_prototypes_in_use(rows)
    assert share * 7 == round(share * 7) and 1 / 7 <= share <= 1


@pytest.mark.parametrize("assigned", [(), (3,), (0, 7)])
def test_assigned_crops_must_exist(assigned: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="assigned"):
        _system(assigned=assigned)


def test_views_feed_encode() -> None:
    system = _system(queue=8).to(torch.float32)
    row = open_rows("digits:train")[0]
    batch = system.collate([system.views()(row, np.random.default_rng(i)) for i in range(2)])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "crops0": (2, 2, 3, 32, 32),
        "crops1": (2, 1, 3, 16, 16),
    }
    assert system.preprocess()(row)["image"].shape == (3, 32, 32)
