"""RAVE: the residual vector step by step, what it means in words, the shift that removes a bias, and both variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import Rows
from counterpoint.enhancement import Alternation
from counterpoint.losses.residual import token_scores
from counterpoint.systems.rave import RAVE
from counterpoint.views.photograph import Photograph

VIEW = Photograph(size=24)


def _system(**arguments: Any) -> RAVE:
    settings: dict[str, Any] = {"width": 4, "initial_light": 0.7, "view": VIEW, "guide_view": VIEW}
    torch.manual_seed(0)
    return RAVE(clip="fixture:vit", identity="fixture:resnet", **{**settings, **arguments})


def _rows(count: int = 12) -> Rows:
    """Dark and bright noise, in turn."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        high = 256 if number % 2 else 80
        picture = rng.integers(0, high, (30, 20, 3), dtype=np.uint16).astype(np.uint8)
        rows.append({"id": f"{number}", "image": picture, "source": "welllit" if number % 2 else "backlit"})
    return Rows.from_list(rows)


def _rows_of(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_facts_are_those_of_all_pictures() -> None:
    system, rows = _system(), _rows()
    facts = system.prepare(rows)
    assert {name: value.shape for name, value in facts.items()} == {"residual": (128,), "threshold": (1,)}
    system.use(facts)
    torch.testing.assert_close(system.residual.norm(), torch.tensor(1.0))
    batch = system.collate([system.views()(row, np.random.default_rng(0)) for row in rows])
    shares = system.judged(batch["image"]) @ system.residual
    lit = batch["welllit"] == 1
    assert float(shares[lit].mean()) > float(shares[~lit].mean()), "the residual points towards the well-lit pictures"
    assert _system(guidance="latent").prepare(rows) == {}


def test_one_kind_of_pictures_is_refused() -> None:
    rows = _rows()
    for kind, missing in ((0, "welllit"), (1, "backlit")):
        with pytest.raises(ValueError, match=f"no row with source='{missing}'"):
            _system().prepare(rows.select(range(kind, 12, 2)))


def test_guidance_against_loops() -> None:
    system = _system().double()
    system.use({"residual": normalize(_rows_of((1, 128), 4), dim=1)[0], "threshold": torch.tensor([0.3])})
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features = system.encode({"image": images})
    terms = system.loss(features)
    enhanced = (images / (system.net(images) + 1e-9)).clamp(0, 1)
    wanted = sum((float(feature @ system.residual) - 0.3) ** 2 for feature in system.judged(enhanced)) / 3
    assert float(terms["guidance"].total) == pytest.approx(wanted, rel=1e-6)  # type: ignore[union-attr]
    assert terms["guidance"].weight == 6 * 320  # type: ignore[union-attr]


def test_words_and_their_cosines() -> None:
    system = _system()
    system.use(system.prepare(_rows()))
    words = ["dark", "bright", "sun", "night", "dog"]
    near, far = system.interpret(2, words)
    cosines = token_scores(system.embed_words(words), system.residual).tolist()
    ranked = sorted(zip(cosines, words, strict=True), reverse=True)
    assert [word for word, _ in near] == [word for _, word in ranked[:2]]
    assert [word for word, _ in far] == [word for _, word in ranked[::-1][:2]]
    assert near[0][1] == pytest.approx(ranked[0][0], abs=1e-6)
    everything, _ = system.interpret(3)
    assert everything[0][1] >= near[0][1] and len(everything) == 3


def test_a_shifted_system_has_another_residual() -> None:
    plain, moved = _system().prepare(_rows()), _system(shift=15).prepare(_rows())
    assert float(plain["residual"] @ moved["residual"]) < 0.999
    assert float(moved["residual"].norm()) == pytest.approx(1.0, abs=1e-5)


def test_stages_of_both_variants() -> None:
    plan = Alternation(guides=5, reconstruction=4, enhancement=6, refinement=3, rounds=2, extensions=0)
    assert [stage.name for stage in _system(alternation=plan).stages()] == ["reconstruction", "enhance"]
    latent = _system(alternation=plan, guidance="latent")
    names = ["guides", "reconstruction", "enhance1", "refine1", "enhance2", "refine2"]
    assert [stage.name for stage in latent.stages()] == names
    assert latent.guides().shape == (2, 128) and [n for n, _ in latent.named_parameters() if n == "latents"]
    assert latent.stages()[0].train == ("latents",)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="shift=3 with guidance='latent'"):
        _system(guidance="latent", shift=3)
    with pytest.raises(ValueError, match="has a direction and no pair of guides"):
        _system().guides()
    with pytest.raises(ValueError, match="has no stages"):
        system = RAVE(clip="fixture:vit", identity="fixture:vit", width=4, view=VIEW)
        system.encode({"image": torch.rand(1, 3, 24, 24)})
