"""CLIP-LIT against loops over its equations, and the alternation: snapshots, extensions, restarts, stages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from counterpoint.enhancement import Alternation, Enhancement, Weights
from counterpoint.systems.clip_lit import CLIPLIT
from counterpoint.views.photograph import Photograph

VIEW = Photograph(size=24)
PLAN = Alternation(guides=5, reconstruction=4, enhancement=6, refinement=3, rounds=2, batch=None, extensions=0)


def _system(**arguments: Any) -> CLIPLIT:
    settings: dict[str, Any] = {"length": 3, "width": 4, "initial_light": 0.7, "view": VIEW, "guide_view": VIEW}
    torch.manual_seed(0)
    system = CLIPLIT("fixture:vit", "fixture:resnet", **{"alternation": PLAN, **settings, **arguments})
    return system.double().train()


def _batch(rows: int = 5) -> dict[str, Tensor]:
    images = torch.rand(rows, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"image": images, "welllit": torch.tensor([0, 1, 0, 0, 1])[:rows]}


def _apart(system: CLIPLIT) -> CLIPLIT:
    """Prompts that differ: they start alike."""
    with torch.no_grad():
        system.prompt[1] += 0.3 * torch.randn(system.prompt[1].shape, dtype=torch.float64)
    return system


def _probability(system: CLIPLIT, feature: Tensor) -> float:
    logits = [100 * float(feature @ guide) for guide in system.guides()]
    return 1 / (1 + math.exp(logits[1] - logits[0]))


def test_prompts_start_alike_and_part() -> None:
    system = _system()
    features = system.encode_pictures(_batch())
    term = system.contrast(features)["contrast"]
    assert float(term.total) == pytest.approx(math.log(2)) == term.guess  # type: ignore[union-attr]
    term.total.backward()  # type: ignore[union-attr]
    gradient = system.prompt.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[0], -gradient[1])
    assert float(gradient.abs().sum()) > 0
    trained = {name for name, parameter in system.named_parameters() if parameter.grad is not None}
    assert trained == {"prompt"}


def test_contrast_against_loops() -> None:
    system = _apart(_system())
    features = system.encode_pictures(_batch())
    wanted = 0.0
    for feature, lit in zip(features["image"], features["welllit"].tolist(), strict=True):
        away, near = (100 * float(feature @ guide) for guide in system.guides())
        wanted += math.log1p(math.exp(away - near if lit else near - away)) / 5
    assert float(system.contrast(features)["contrast"].total) == pytest.approx(wanted, rel=1e-9)  # type: ignore[union-attr]


def test_enhancement_against_loops() -> None:
    system, batch = _apart(_system()), _batch()
    features = system.encode(batch)
    terms = system.loss(features)
    light = system.net(batch["image"])
    enhanced = (batch["image"] / (light + 1e-9)).clamp(0, 1)
    guidance = sum(_probability(system, feature) for feature in system.judged(enhanced)) / 5
    identity = 0.0
    for row in range(5):
        for stage, weight in enumerate((1.0, 1.0, 1.0, 1.0, 0.5)):
            pair = [_stages(system, images[row : row + 1])[stage] for images in (enhanced, batch["image"])]
            identity += weight * float(((pair[0] - pair[1]) ** 2).mean())
    assert float(terms["guidance"].total) == pytest.approx(guidance)  # type: ignore[union-attr]
    assert float(terms["identity"].total) == pytest.approx(identity)  # type: ignore[union-attr]
    assert (terms["guidance"].weight, terms["identity"].weight) == (320.0, 22.5)  # type: ignore[union-attr]
    sum(term.total * term.weight for term in terms.values()).backward()  # type: ignore[union-attr]
    assert all((p.grad is not None) == name.startswith("net.") for name, p in system.named_parameters())


def _stages(system: Enhancement, images: Tensor) -> list[Tensor]:
    pixels = torch.nn.functional.interpolate(images, (96, 96), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (system.identity.mean, system.identity.std))
    visual: Any = system.identity.towers.model.visual  # type: ignore[union-attr]
    maps = [visual.stem((pixels - mean) / std)]
    for name in ("layer1", "layer2", "layer3", "layer4"):
        maps.append(getattr(visual, name)(maps[-1]))
    return maps


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("results", [0, 1, 2])
def test_ranking_against_loops(results: int, newest_first: bool) -> None:
    system, batch = _apart(_system(newest_first=newest_first)), _batch()
    for _ in range(results):
        system.snapshots.begin_round()
    with torch.no_grad():
        for network, light in ((system.snapshots.previous, 0.4), (system.snapshots.current, 0.8)):
            network.exit.bias.fill_(light)  # type: ignore[union-attr, operator]
    features = system.encode_results(batch)
    networks = [system.snapshots.previous, system.snapshots.current][2 - results :]
    hinges = []
    for i in (0, 2, 3):
        image = batch["image"][i : i + 1]
        pictures = [image, *((image / (network(image) + 1e-9)).clamp(0, 1) for network in networks)]
        scores = [_probability(system, system.judged(picture)[0]) for picture in pictures]
        ordered = [scores[0], *(reversed(scores[1:]) if newest_first else scores[1:])]
        for j in (1, 4):
            chain = [*ordered, _probability(system, system.judged(batch["image"][j : j + 1])[0])]
            large, small = {0: (1.0, 0.0), 1: (0.9, 0.2), 2: (0.9, 0.1)}[results]
            hinge = max(0.0, chain[1] - chain[0] + large)
            hinge += sum(max(0.0, chain[k + 1] - chain[k] + small) for k in range(1, len(chain) - 1))
            if results:
                hinge += max(0.0, chain[-1] - chain[0] + large)
            hinges.append(hinge)
    term = system.ranking(features)["ranking"]
    assert float(term.total) == pytest.approx(sum(hinges) / 6, rel=1e-9)  # type: ignore[union-attr]
    assert term.weight == 200.0  # type: ignore[union-attr]
    term.total.backward()  # type: ignore[union-attr]
    assert {name for name, p in system.named_parameters() if p.grad is not None} == {"prompt"}


def test_a_guesser_has_the_ranking_s_guess_level() -> None:
    system = _system()  # prompts alike: every score is one half
    for results in range(3):
        term = system.ranking(system.encode_results(_batch()))["ranking"]
        assert float(term.total) == pytest.approx(term.guess), results  # type: ignore[union-attr]
        system.snapshots.begin_round()


@pytest.mark.parametrize("welllit", [0, 1])
def test_a_batch_of_one_kind_teaches_no_order(welllit: int) -> None:
    system = _apart(_system())
    features = system.encode_results({**_batch(), "welllit": torch.full((5,), welllit)})
    term = system.ranking(features)["ranking"]
    term.total.backward()  # type: ignore[union-attr]
    assert float(term.total) == 0.0  # type: ignore[union-attr]
    assert system.prompt.grad is not None and not bool(system.prompt.grad.any())


def test_stages_alternate() -> None:
    names = [stage.name for stage in _system().stages()]
    assert names == ["guides", "reconstruction", "enhance1", "refine1", "enhance2", "refine2"]
    stages = {stage.name: stage for stage in _system(alternation=Alternation(extensions=2)).stages()}
    assert stages["guides"].steps == 8000 + 200 and stages["enhance7"].steps == 2100 + 120
    assert stages["reconstruction"].steps == 1000 + 200 and stages["refine14"].steps == 1000 + 200
    assert stages["refine3"].state == stages["guides"].state != stages["enhance3"].state == stages["enhance1"].state
    assert stages["guides"].sources == () and stages["enhance1"].sources == ("backlit",)
    assert stages["guides"].batch == 16 and stages["guides"].optimiser == {"learning_rate": 5e-6}
    few = _system(alternation=Alternation(refinement=0, rounds=1, enhancement=None)).stages()
    assert [(stage.name, stage.steps) for stage in few][2:] == [("enhance1", None)]


def test_prompts_written_by_hand_are_not_trained() -> None:
    system = _system(prompts=("a dark photo", "a bright photo"))
    assert [stage.name for stage in system.stages()] == ["reconstruction", "enhance1", "enhance2"]
    tokens = system.clip.tokenize(["a dark photo", "a bright photo"])
    torch.testing.assert_close(
        system.guides(), torch.nn.functional.normalize(system.clip.encode_text(tokens), dim=1), atol=1e-6, rtol=0
    )
    assert not any(name.startswith("prompt") for name, _ in system.named_parameters())


def test_the_network_is_kept_where_a_round_went_best() -> None:
    system = _system()
    features = {name: value.detach() for name, value in system.encode(_batch()).items()}
    weights = []
    for stage, bias, errors in (("enhance1", 0.0, (3.0, 1.0, 2.0)), ("enhance2", 10.0, (9.0, 8.0, 7.0))):
        for step, error in enumerate(errors):
            system.clock.stage, system.clock.step, system.clock.total_steps = stage, step, 1
            system.net.exit.bias.data.fill_(bias + error)
            system.after_step({**features, "distance": torch.full_like(features["distance"], error)})
        weights.append([float(net.exit.bias) for net in system.snapshots.results()])  # type: ignore[union-attr, arg-type]
    assert weights == [[1.0], [1.0, 17.0]]


def test_rounds_go_on_while_the_loss_is_high() -> None:
    system = _system(alternation=Alternation(guides=10, enhancement=20, refinement=30, reconstruction=40, extensions=3))

    def over(stage: str, step: int, loss: float) -> bool:
        system.clock.stage, system.clock.step = stage, step
        system.recent.push(torch.tensor(loss))
        return system.stage_is_over()

    assert not over("enhance2", 19, 0.0) and over("enhance2", 20, 90.0)
    assert not over("enhance2", 20, 90.1) and not over("enhance2", 79, 0.0) and over("enhance2", 80, 1.0)
    assert over("guides", 10, 60.0) and not over("guides", 10, 61.0) and over("refine1", 130, 1.0)
    assert not over("reconstruction", 39, 0.0) and over("reconstruction", 40, 1000.0)
    endless = _system(alternation=Alternation(enhancement=None, extensions=0))
    endless.clock.stage, endless.clock.step = "enhance1", 10**6
    assert not endless.stage_is_over(), "the run's own length ends it"


def test_a_dead_network_is_drawn_anew() -> None:
    system = _system(alternation=Alternation(reconstruction=150, extensions=2))
    system.net.exit.bias.data.fill_(-1.0)
    features = {name: value.detach() for name, value in system.encode_changes(_batch()).items()}
    assert float(system.net(_batch()["image"]).max()) == 0.0
    system.clock.stage = "reconstruction"
    for step in range(101):
        system.clock.step = step
        system.before_step()
        if step < 100:
            assert float(system.net.exit.bias) == -1.0  # type: ignore[arg-type]
            system.after_step(features)
    assert int(system.restarts) == 1 and float(system.net(_batch()["image"]).min()) > 0.5
    system.clock.step = 150
    assert not system.stage_is_over()
    system.clock.step = 250
    assert system.stage_is_over()
    system.recent_psnr.push(torch.tensor(1e3))  # a good picture again
    system.clock.step = 200
    system.before_step()
    assert int(system.restarts) == 1


def test_any_resolution_is_enhanced_and_embedded() -> None:
    system = _system().float().eval()
    for height, width in ((7, 40), (33, 18)):
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(2))
        found = system.enhance(images)
        assert found.shape == images.shape and not found.requires_grad
        assert float(found.min()) >= 0 and float(found.max()) <= 1 and float(found.mean()) > float(images.mean())
    row = {"id": "a", "image": Image.fromarray(np.full((30, 50, 3), 90, dtype=np.uint8))}
    vectors = system.embed({"image": system.preprocess()(row)["image"][None]})
    assert vectors.shape == (1, 128) and float(vectors.norm()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 40}, r"length must lie in \[1, 22\] for 'fixture:vit', got 40"),
        ({"width": 5}, "width must be a multiple of 4"),
        ({"clip": "dual:test_vit+bert:1x32x2?dim=16&size=32"}, "cannot read learnt prompts"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CLIPLIT(**{"clip": "fixture:vit", "identity": "fixture:resnet", **arguments})
    with pytest.raises(ValueError, match="refinement must be at least 0"):
        Alternation(refinement=-1)
    assert Weights().stages == (1.0, 1.0, 1.0, 1.0, 0.5)
