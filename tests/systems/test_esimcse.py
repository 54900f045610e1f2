from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.losses.simcse import esimcse_loss
from counterpoint.systems.esimcse import ESimCSE

TEXTS = [
    "a storm is moving east across the mountains tonight",
    "the company said profits fell in the last quarter",
    "rain has fallen in some parts of the north coast",
    "police are looking for a man seen near the station",
    "the team won its third match of the season",
]


def _system(**arguments: object) -> ESimCSE:
    torch.manual_seed(0)
    settings = {"encoder": "bert:1x16x2", "queue": 7, "momentum": 0.5, **arguments}
    return ESimCSE(**settings)  # type: ignore[arg-type]


def _batch(system: ESimCSE, step: int = 0) -> dict[str, Tensor]:
    view = system.views()
    rng = np.random.default_rng(step)
    return system.collate([view({"id": str(i), "text": text}, rng) for i, text in enumerate(TEXTS)])


def test_the_queue_holds_the_last_anchors_of_the_momentum_encoder() -> None:
    """Three steps of five sentences through a queue of seven, followed by hand."""
    system = _system().train()
    optimiser = torch.optim.SGD(system.parameters(), lr=0.5)
    slow = {name: value.clone() for name, value in system.encoder.state_dict().items()}
    pushed: list[Tensor] = []
    for step in range(3):
        batch = _batch(system, step)
        online = {name: value.clone() for name, value in system.encoder.state_dict().items()}
        system.before_step()
        for name, value in slow.items():
            if value.is_floating_point():
                slow[name] = 0.5 * value + 0.5 * online[name]  # with the weights before this step's update
        features = system.encode(batch)
        pushed.append(_slow_anchors(system, slow, batch))
        assert torch.allclose(features["slow"], pushed[-1], atol=1e-6)
        assert not features["slow"].requires_grad
        used = system.queue.rows().clone()
        assert len(used) == min(7, 5 * step)  # never this step's own anchors
        loss = system.loss(features)["contrast"]
        assert torch.allclose(loss, esimcse_loss(features["first"], features["second"], queue=used, temperature=0.05))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        system.after_step({name: value.detach() for name, value in features.items()})
        assert torch.allclose(system.queue.rows(), torch.cat(pushed)[-7:], atol=1e-6)
    assert not torch.equal(
        online["model.embeddings.word_embeddings.weight"], slow["model.embeddings.word_embeddings.weight"]
    )


def _slow_anchors(system: ESimCSE, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The unaltered sentences, without dropout, through the momentum weights and the online head."""
    twin = _system()
    twin.encoder.load_state_dict(weights)
    twin.encoder.eval()
    anchors = {name: batch[name][:, 0] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return system.head(twin.encoder(anchors))


def test_dropout_alone_makes_the_pair_of_simcse() -> None:
    system = _system(repetition=0.0, queue=0).train()
    batch = _batch(system)
    assert torch.equal(batch["input_ids"][:, 0], batch["input_ids"][:, 1])
    features = system.encode(batch)
    assert set(features) == {"first", "second"}
    assert not torch.allclose(features["first"], features["second"])
    system.eval()
    features = system.encode(batch)
    assert torch.allclose(features["first"], features["second"], atol=1e-6)
    assert system.queue is None and system.slow is None
    assert not list(system.buffers()) or all("queue" not in name for name, _ in system.named_buffers())


def test_pair_is_padded_together() -> None:
    system = _system(repetition=0.9)
    batch = _batch(system)
    assert batch["input_ids"].shape[:2] == (5, 2)
    lengths = batch["attention_mask"].sum(dim=2)
    assert int(lengths.max()) == batch["input_ids"].shape[2]
    assert bool((lengths[:, 1] > lengths[:, 0]).any())


def test_the_head_is_for_cls_and_for_training_only() -> None:
    system = _system(pooling="cls").eval()
    samples = [system.preprocess()({"id": "0", "text": text}) for text in TEXTS]
    embedded = system.embed(system.collate(samples))
    tokens = system.encoder.tokenize(TEXTS)
    hidden = system.encoder.hidden_states(tokens)[-1]
    assert torch.allclose(embedded, hidden[:, 0], atol=1e-6)
    for pooling in ("cls_before_pooler", "avg", "avg_top2", "avg_first_last"):
        assert not list(_system(pooling=pooling).head.parameters())


def test_the_momentum_encoder_starts_as_a_copy_of_loaded_weights() -> None:
    system = _system()
    for name, value in system.encoder.state_dict().items():
        assert torch.equal(value, system.slow.module.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in system.slow.parameters())


def test_guess_level_counts_the_queue() -> None:
    system = _system()
    assert system.guess_level(5) == pytest.approx(math.log(5))
    system.queue.push(torch.zeros(5, 16))
    assert system.guess_level(5) == pytest.approx(math.log(10))


def test_dropout_can_be_set() -> None:
    system = _system(dropout=0.15)
    rates = {module.p for module in system.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.15}
    with pytest.raises(ValueError, match="dropout must be in"):
        _system(dropout=1.0)


def test_length_bias_sees_a_model_that_looks_at_lengths_only() -> None:
    rows = [{"id": str(i), "text": " ".join(["rain"] * (1 + i))} for i in range(25)]
    system = _system()

    def by_length(batch: dict[str, Tensor]) -> Tensor:
        length = batch["attention_mask"][:, 0].sum(dim=1).double()
        return torch.stack([torch.cos(length / 30), torch.sin(length / 30)], dim=1)

    system.embed = by_length  # type: ignore[method-assign]
    assert system.measure_length_bias(rows) > 0.99  # type: ignore[arg-type]
    system.embed = lambda batch: torch.randn(len(batch["input_ids"]), 4)  # type: ignore[method-assign]
    assert abs(system.measure_length_bias(rows)) < 0.3  # type: ignore[arg-type]
