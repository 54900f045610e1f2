"""w2v-BERT: what flows where, what is hidden, and that a recording's draws are its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.encoders.quantiser import Codebook
from counterpoint.system import Batch, Term
from counterpoint.systems.w2v_bert import W2vBERT
from counterpoint.views.audio import Cut, Masking

ENCODER = "conformer:2x16x2?kernel=3&bins=20&rate=8000&dropout=0"
SETTINGS = {
    "contrastive_layers": 1,
    "codebook": Codebook(2, 8, 12),
    "masking": Masking(span=3, least=2, distractors=6),
    "cut": Cut(1.0),
    "contrast_dim": 10,
}


def _system(encoder: str = ENCODER, **arguments: object) -> W2vBERT:
    torch.manual_seed(0)
    return W2vBERT(encoder, **{**SETTINGS, **arguments}).double()  # type: ignore[arg-type]


def _batch(system: W2vBERT, *lengths: int) -> Batch:
    """Noise of so many samples."""
    sound = 0.1 * np.random.default_rng(0).standard_normal(max(lengths))
    rows = [{"id": str(length), "audio": (sound[:length], 8000)} for length in lengths]
    view = system.views()
    batch = system.collate([view(row, np.random.default_rng(n)) for n, row in enumerate(rows)])
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


def _total(terms: dict[str, Tensor | Term], name: str) -> Tensor:
    term = terms[name]
    assert isinstance(term, Term)
    return term.total


def test_every_term_against_its_definition() -> None:
    """Frame by frame, with the tensors that the step itself used."""
    system = _system().eval()
    batch = _batch(system, 8000, 5000)
    model = system.encoder.model
    with torch.no_grad():
        features = system.encode(batch)
        terms = system.loss(features)
        frames, lengths = model.features(batch["features"], batch["lengths"])
        units = system.quantiser(frames)
    mask = batch["mask"]
    hidden = int(mask.sum())
    assert features["count"].tolist() == mask.sum(dim=1).tolist()
    usage = units.probabilities[mask].mean(dim=0)  # (G, V)
    perplexity = (-(usage * usage.log()).sum(dim=1)).exp().sum()
    assert float(_total(terms, "diversity")) == pytest.approx(float((16 - perplexity) / 16))
    chosen = torch.nn.functional.one_hot(units.codes[mask], 8).double().mean(dim=0)
    hard = torch.special.xlogy(chosen, chosen).sum(dim=1).neg().exp().sum()
    assert float(_total(terms, "perplexity")) == pytest.approx(float(hard))
    for name in ("contrastive", "prediction"):
        assert float(_total(terms, name)) == pytest.approx(float(features[name].sum()) / hidden)
    assert 0 < float(_total(terms, "contrastive")) < 3 * math.log(7)
    assert float(_total(terms, "prediction")) == pytest.approx(math.log(8), abs=1.0)


def test_the_quantiser_hears_what_is_hidden_and_the_context_does_not() -> None:
    system = _system().eval()
    batch = _batch(system, 8000)
    place = int(batch["mask"][0].nonzero()[0, 0]) + 1  # inside a span; its windows are heard by hidden frames alone
    other = {**batch, "features": batch["features"].clone()}
    other["features"][0, 4 * place, :] += 3.0
    model, changed = system.encoder.model, []
    with torch.no_grad():
        for inputs in (batch, other):
            frames, lengths = model.features(inputs["features"], inputs["lengths"])
            noise = torch.full((1, frames.shape[1], 16), 0.3, dtype=torch.float64)
            heard = system.hide(frames, inputs["mask"], noise)
            changed.append((system.quantiser(frames).probabilities, model.through(model.start(heard), lengths)))
    assert not torch.allclose(changed[0][0], changed[1][0])
    assert torch.equal(changed[0][1], changed[1][1])


def test_hidden_frames_become_gaussian_vectors() -> None:
    system = _system(mask_deviation=0.1)
    frames, mask = torch.full((4, 500, 16), 9.0, dtype=torch.float64), torch.zeros(4, 500, dtype=torch.bool)
    mask[:, 100:400] = True
    uniform = torch.rand(4, 500, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = system.hide(frames, mask, uniform)
    assert (found[~mask] == 9.0).all()
    assert float(found[mask].mean()) == pytest.approx(0.0, abs=2e-3)
    assert float(found[mask].std()) == pytest.approx(0.1, abs=2e-3)
    assert float((found[mask].abs() > 0.2).double().mean()) == pytest.approx(0.0455, abs=4e-3)  # two deviations
    assert torch.isfinite(system.hide(frames, mask, torch.zeros_like(uniform))).all()


def _gradients(system: W2vBERT, name: str) -> set[str]:
    """Which parts the gradient of one term reaches."""
    system.zero_grad()
    batch = _batch(system, 8000, 6000)
    _total(system.loss(system.encode(batch)), name).backward()
    parts = {
        "features": system.encoder.model.features,
        "first blocks": system.encoder.model.blocks[0],
        "last blocks": system.encoder.model.blocks[1],
        "scores": system.quantiser.scores,
        "vectors": system.quantiser.vectors,
        "context": system.context,
        "target": system.target,
        "head": system.prediction,
    }
    found = set()
    for part, module in parts.items():
        parameters = [module] if isinstance(module, Tensor) else list(module.parameters())
        if any(parameter.grad is not None and bool(parameter.grad.abs().max() > 1e-12) for parameter in parameters):
            found.add(part)
    return found


def test_what_each_loss_teaches() -> None:
    system = _system().train()
    assert _gradients(system, "prediction") == {"features", "first blocks", "last blocks", "head"}
    assert _gradients(system, "contrastive") == {"features", "first blocks", "scores", "vectors", "context", "target"}
    assert _gradients(system, "diversity") == {"features", "scores"}


@pytest.mark.parametrize("training", [True, False])
def test_a_recording_among_others_is_asked_what_it_is_asked_alone(training: bool) -> None:
    """Its masks, its noise and its losses do not depend on what it is padded to (with norms of single frames)."""
    system = _system("conformer:2x16x2?kernel=3&bins=20&rate=8000&dropout=0&norm=layer").train(training)
    batch = _batch(system, 8000, 5000, 3000)
    together = system.encode(batch)
    for place, length in enumerate(batch["lengths"].tolist()):
        frames = -(-length // 4)
        alone = {name: value[place : place + 1] for name, value in batch.items()}
        alone |= {"features": alone["features"][:, :length]}
        alone |= {name: alone[name][:, :frames] for name in ("mask", "distractors")}
        for name, value in system.encode(alone).items():
            torch.testing.assert_close(together[name][place : place + 1], value, rtol=1e-9, atol=1e-9, msg=name)


def test_weights_are_the_papers() -> None:
    terms = _system(contrastive_weight=0.5, diversity_weight=0.05, prediction_weight=2.0).train()
    weights = {name: term.weight for name, term in terms.loss(terms.encode(_batch(terms, 8000))).items()}  # type: ignore[union-attr]
    assert weights == {"contrastive": 0.5, "diversity": 0.05, "prediction": 2.0, "perplexity": 0.0}
    guesses = {name: term.guess for name, term in terms.loss(terms.encode(_batch(terms, 8000))).items()}  # type: ignore[union-attr]
    assert guesses["contrastive"] == pytest.approx(math.log(7)) and guesses["prediction"] == pytest.approx(math.log(8))
    silent = _system(contrastive_weight=0.0).train()
    assert silent.loss(silent.encode(_batch(silent, 8000)))["contrastive"].guess is None  # type: ignore[union-attr]


def test_the_choice_cools_with_the_clock() -> None:
    system = _system(codebook=Codebook(1, 8, 12, hottest=2.0, coldest=0.1, cooling=0.5)).train()
    batch, found = _batch(system, 8000), []
    for step in (0, 1, 50):
        system.clock.step = step
        system.zero_grad()
        _total(system.loss(system.encode(batch)), "contrastive").backward()
        assert system.quantiser.scores.weight.grad is not None
        found.append(float(system.quantiser.scores.weight.grad.norm()))
    assert len(set(found)) == 3


def test_units_and_their_perplexity() -> None:
    system = _system().float().eval()
    sound = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
    rows = [{"id": "a", "audio": (sound, 8000)}, {"id": "b", "audio": (sound[::2], 8000)}]
    batch = system.collate([system.preprocess()(row) for row in rows])
    codes, lengths = system.units(batch)
    assert codes.shape == (2, 25, 2) and lengths.tolist() == [25, 12]
    together = torch.cat([codes[0], codes[1, :12]])
    shares = torch.nn.functional.one_hot(together, 8).float().mean(dim=0)  # (G, V)
    wanted = torch.special.xlogy(shares, shares).sum(dim=1).neg().exp().sum()
    assert system.measure_perplexity(rows) == pytest.approx(float(wanted), rel=1e-5)  # type: ignore[arg-type]
    with torch.no_grad():
        system.quantiser.scores.weight.zero_()
        system.quantiser.scores.bias.zero_()
    assert system.measure_perplexity(rows) == pytest.approx(2.0)  # type: ignore[arg-type]


def test_wrong_settings_are_named() -> None:
    for count in (0, 2):
        with pytest.raises(ValueError, match="contrastive_layers must be between 1 and 1"):
            _system(contrastive_layers=count)


def test_only_conformers_are_pre_trained(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    Wav2Vec2BertModel(Wav2Vec2BertConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder must be a Conformer"):
        _system(str(tmp_path))
