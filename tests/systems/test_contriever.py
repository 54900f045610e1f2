from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.distributed import average_gradients, gather, process_count, process_index
from counterpoint.systems.contriever import Contriever
from counterpoint.training.train import train
from counterpoint.views.documents import Crops, Labelled
from processes import run_on_processes

TEXTS = [
    "a storm is moving east across the mountains tonight and will reach the coast by morning",
    "the company said its profits fell in the last quarter because fewer people travelled",
    "rain has fallen in some parts of the north coast but the dams are still half empty",
    "police are looking for a man who was seen near the station early on monday",
]


def _system(**arguments: object) -> Contriever:
    torch.manual_seed(0)
    settings = {"encoder": "bert:1x16x2", "max_length": 32, "queue": 10, "momentum": 0.5, **arguments}
    return Contriever(**settings)  # type: ignore[arg-type]


def _batch(system: Contriever, step: int = 0) -> dict[str, Tensor]:
    view, rng = system.views(), np.random.default_rng(step)
    rows = [
        {"id": str(i), "text": text, "query": text[:20], "positive": text, "negative": TEXTS[i - 1].upper()}
        for i, text in enumerate(TEXTS)
    ]
    return system.collate([view(row, rng) for row in rows])


def test_moco_over_several_steps_followed_by_hand() -> None:
    """Own key against the old queue, then the keys enter it; the key encoder moves before it sees the step."""
    system = _system(key_dropout=False).eval()
    optimiser = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=0.1)
    queue = system.queue.rows().clone()
    assert torch.allclose(queue.norm(dim=1), torch.ones(10))
    slow = {name: value.clone() for name, value in system.encoder.named_parameters()}
    for step in range(4):
        batch = _batch(system, step)
        for name, value in system.encoder.named_parameters():
            slow[name] = 0.5 * slow[name] + 0.5 * value.detach()
        system.before_step()
        features = system.encode(batch)
        for name, value in system.slow.module.named_parameters():
            assert torch.allclose(value, slow[name], atol=1e-6), name
        assert features["query"].requires_grad and not features["key"].requires_grad
        losses = []
        for query, key in zip(features["query"].detach(), features["key"], strict=True):
            logits = [float(query @ key) / 0.05, *(float(query @ old) / 0.05 for old in queue)]
            losses.append(math.log(sum(math.exp(x - max(logits)) for x in logits)) + max(logits) - logits[0])
        loss = system.loss(features)["contrast"]
        assert float(loss.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4, abs=1e-5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        system.after_step({name: value.detach() for name, value in features.items()})
        queue = torch.cat([queue, features["key"]])[-10:]
        assert torch.allclose(system.queue.rows(), queue)


def test_keys_have_dropout_unless_switched_off() -> None:
    for wanted in (True, False):
        system = _system(key_dropout=wanted).train()
        batch = _batch(system)
        first, second = system.encode(batch)["key"], system.encode(batch)["key"]
        assert torch.equal(first, second) is not wanted
    system.eval()
    assert torch.equal(system.encode(batch)["key"], system.encode(batch)["key"])


def test_in_batch_keys_are_each_others_negatives_and_get_gradients() -> None:
    system = _system(mode="inbatch").eval()
    features = system.encode(_batch(system))
    assert system.slow is None and system.queue is None
    assert features["key"].requires_grad
    logits = (features["query"] @ features["key"].T / 0.05).double()
    wanted = (logits.logsumexp(dim=1) - logits.diagonal()).mean()
    assert float(system.loss(features)["contrast"].detach()) == pytest.approx(float(wanted), rel=1e-4)
    assert system.guess_level(4) == pytest.approx(math.log(4))


def test_fine_tuning_counts_the_negatives_of_every_query() -> None:
    system = _system(mode="finetune", labelled=Labelled(negatives=2), label_smoothing=0.1).eval()
    batch = _batch(system)
    assert batch["negatives_ids"].shape[:2] == (4, 2)
    features = system.encode(batch)
    keys = torch.cat([features["key"], features["negatives"].flatten(0, 1)]).double()
    logits = features["query"].double() @ keys.T / 0.05
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(4), label_smoothing=0.1)
    assert float(system.loss(features)["contrast"].detach()) == pytest.approx(float(wanted), rel=1e-4)
    assert system.guess_level(4) == pytest.approx(math.log(12))
    assert system.needs == ("query", "positive")
    assert Contriever.needs == ("text",)


@pytest.mark.parametrize("which", ["none", "query", "document", "both"])
def test_unit_length_where_asked_for(which: str) -> None:
    system = _system(normalise=which).eval()
    features = system.encode(_batch(system))
    for name, wanted in (("query", which in ("query", "both")), ("key", which in ("document", "both"))):
        unit = normalize(features[name], dim=1)
        assert torch.allclose(features[name], unit, atol=1e-6) is wanted


def test_score_is_the_dot_product_and_texts_start_with_their_title() -> None:
    system = _system().eval()
    queries, keys = torch.randn(3, 16), torch.randn(5, 16)
    assert torch.allclose(system.score(queries, keys), queries @ keys.T)
    tokenizer = system.encoder.tokenizer
    sample = system.preprocess()({"id": "a", "title": "storm", "text": "moves east"})
    assert tokenizer.decode(sample["text"], skip_special_tokens=True) == "storm moves east"
    embedded = system.embed(system.collate([sample]))
    assert torch.allclose(embedded, system.encoder(system.encoder.tokenize(["storm moves east"])), atol=1e-6)


def test_fine_tuning_starts_from_a_run(tmp_path: Path) -> None:
    first = train("contriever", out=tmp_path / "first", recipe="tiny", overrides={"steps": 2}, quiet=True)
    rows = [{"id": str(i), "query": t[:15], "positive": t, "negative": [TEXTS[i - 1]]} for i, t in enumerate(TEXTS)]
    second = train(
        "contriever",
        rows,
        out=tmp_path / "second",
        recipe="tiny",
        arguments={"encoder": f"run:{first.path}", "mode": "finetune"},
        overrides={"steps": 1, "batch": 4, "learning_rate": 0.0},
        quiet=True,
    )
    old, new = first.system().encoder.state_dict(), second.system().encoder.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)
    with pytest.raises(ValueError, match="'positive'"):
        train(
            "contriever",
            [{"id": "0", "query": "a", "text": "b"}, {"id": "1", "query": "c", "text": "d"}],
            out=tmp_path / "third",
            recipe="tiny",
            arguments={"mode": "finetune"},
            quiet=True,
        )


def test_settings_of_crops_reach_the_view() -> None:
    system = _system(crops=Crops(chunk=5, ratio=(1.0, 1.0), augmentation="none"))
    sample = system.views()({"id": "0", "text": TEXTS[0]}, np.random.default_rng(0))
    assert len(sample["query"]) == 7 and torch.equal(sample["query"], sample["key"])


def gradients_of_mode(mode: str) -> dict[str, np.ndarray]:
    """Loss and gradients of one step on this process's part of the four rows: 3 + 1 on two processes."""
    torch.set_num_threads(1)
    system = _system(mode=mode, labelled=Labelled(negatives=2)).double().eval()
    mine = {1: (slice(0, 4),), 2: (slice(0, 3), slice(3, 4))}[process_count()][process_index()]
    batch = {name: value[mine] for name, value in _batch(system).items()}
    loss = system.loss(gather(system.encode(batch)))["contrast"]
    loss.backward()
    average_gradients(system.parameters())
    found = {name: p.grad.numpy() for name, p in system.named_parameters() if p.grad is not None}
    return {"loss": loss.detach().numpy(), **found}


@pytest.mark.parametrize("mode", ["inbatch", "finetune"])
def test_every_mode_has_the_same_gradient_on_two_processes(mode: str) -> None:
    alone = gradients_of_mode(mode)
    for found in run_on_processes(gradients_of_mode, 2, mode):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
