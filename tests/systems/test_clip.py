"""CLIP: the loss from its definition, the clamp, weight decay, the sigmoid form, and zero-shot classification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import BadRow, open_rows
from counterpoint.systems.clip import CLIP
from counterpoint.views.captions import Captioned, PictureOrText, caption_candidates

TINY = "dual:test_vit+bert:1x32x2?dim=16&size=32&length=16"


def _system(**arguments: object) -> CLIP:
    return CLIP(TINY, **arguments)  # type: ignore[arg-type]


def _batch(system: CLIP, rows: int = 5) -> dict[str, Tensor]:
    data = open_rows("emoji:validation")[:rows]
    return system.collate([system.views()(row, np.random.default_rng(i)) for i, row in enumerate(data)])


def _slow_softmax(image: Tensor, text: Tensor, scale: float) -> float:
    n, total = len(image), 0.0
    for rows, columns in ((image, text), (text, image)):
        for i in range(n):
            logits = [scale * float(rows[i] @ columns[j]) for j in range(n)]
            total -= (logits[i] - math.log(sum(map(math.exp, logits)))) / n / 2
    return total


def _slow_sigmoid(image: Tensor, text: Tensor, scale: float, bias: float) -> float:
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            sign = 1 if i == j else -1
            total += math.log(1 + math.exp(-sign * (scale * float(image[i] @ text[j]) + bias)))
    return total / len(image)


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_loss_equals_its_definition(objective: str) -> None:
    system = _system(objective=objective).double().eval()
    batch = {name: v.double() if v.is_floating_point() else v for name, v in _batch(system).items()}
    features = system.encode(batch)
    torch.testing.assert_close(features["image"].norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(features["text"].norm(dim=1), torch.ones(5, dtype=torch.float64))
    scale = float(system.encoder.logit_scale.exp())
    if objective == "softmax":
        assert scale == pytest.approx(1 / 0.07, rel=1e-6)
        expected = _slow_softmax(features["image"], features["text"], scale)
    else:
        assert scale == pytest.approx(10, rel=1e-6) and float(system.bias) == -10
        expected = _slow_sigmoid(features["image"], features["text"], scale, -10.0)
    assert float(system.loss(features)["contrast"]) == pytest.approx(expected, abs=1e-10)


def test_a_single_pair_has_no_loss_and_no_gradient() -> None:
    system = _system().eval()
    loss = system.loss(system.encode(_batch(system, 1)))["contrast"]
    loss.backward()
    assert float(loss) == 0.0
    assert all(p.grad is None or float(p.grad.abs().max()) == 0.0 for p in system.parameters())


@pytest.mark.parametrize(("value", "clamped"), [(-1.0, 0.0), (9.0, math.log(100)), (2.0, 2.0)])
def test_the_log_scale_is_clamped_after_the_step_only(value: float, clamped: float) -> None:
    system = _system().eval()
    system.encoder.logit_scale.data.fill_(value)
    features = system.encode(_batch(system))
    system.loss(features)["contrast"].backward()
    gradient = system.encoder.logit_scale.grad
    assert gradient is not None and float(gradient.abs()) > 0, "clamping in the forward pass would kill it"
    assert float(system.encoder.logit_scale) == value
    with torch.no_grad():
        system.after_step(features)
    assert float(system.encoder.logit_scale) == pytest.approx(clamped)


def test_no_weight_decay_on_biases_norms_and_scale() -> None:
    system = _system(objective="sigmoid")
    groups = system.parameter_groups()
    plain = {id(parameter) for group in groups if group.get("weight_decay") == 0.0 for parameter in group["params"]}
    decayed = [parameter for group in groups if "weight_decay" not in group for parameter in group["params"]]
    assert id(system.encoder.logit_scale) in plain and id(system.bias) in plain
    assert decayed and all(parameter.dim() > 1 for parameter in decayed)


@pytest.mark.parametrize("name", [TINY, "fixture:vit"])
def test_the_text_tower_learns_at_its_own_rate(name: str) -> None:
    system = CLIP(name, text_learning_rate=0.1)
    scale_of = {id(p): group.get("scale", 1.0) for group in system.parameter_groups() for p in group["params"]}
    names = {name: scale_of[id(parameter)] for name, parameter in system.named_parameters()}
    slow = {name for name, scale in names.items() if scale == 0.1}
    image = {name for name in names if ".visual." in name or ".image" in name or "logit_scale" in name}
    assert slow and not slow & image and slow | image == set(names)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text_learning_rate": -1.0}, "text_learning_rate must be >= 0"),
        ({"largest_scale": 0.5}, "must be >= 1, got 0.5"),
    ],
)
def test_impossible_settings(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _system(**wrong)


def test_the_largest_scale_is_a_setting() -> None:
    system = _system(largest_scale=14.0)
    with torch.no_grad():
        system.encoder.logit_scale.fill_(4.0)
        system.after_step({})
    assert float(system.encoder.logit_scale.exp()) == pytest.approx(14.0)


def test_a_row_is_embedded_as_what_it_has() -> None:
    system = _system().eval()
    row = open_rows("emoji:validation")[0]
    preprocess = system.preprocess()
    both = system.embed(system.collate([preprocess(row)]))
    assert both.keys() == {"image", "text"}
    for column in ("image", "text"):
        alone = system.embed(system.collate([preprocess({"id": "0", column: row[column]})]))
        assert alone.keys() == {column}
        torch.testing.assert_close(alone[column], both[column])
        assert float(alone[column].detach().norm()) == pytest.approx(1, abs=1e-6)
    with pytest.raises(KeyError, match="image"):
        preprocess({"id": "0", "label": 3})


def test_zero_shot_averages_unit_prompts_and_normalises_again() -> None:
    system = _system().eval()
    names, templates = ["cat", "red apple", "key"], ["a {}", "the photo of {}"]
    images = torch.randn(4, 3, 32, 32)
    probabilities = system.classify(images, names, templates)
    with torch.no_grad():
        rows = normalize(system.encoder.encode_image(images), dim=1)
        logits = torch.zeros(4, 3)
        for c, name in enumerate(names):
            vectors = [
                system.encoder.encode_text(system.encoder.tokenize([t.replace("{}", name)]))[0] for t in templates
            ]
            mean = sum(vector / vector.norm() for vector in vectors) / len(vectors)
            logits[:, c] = rows @ (mean / mean.norm()) / 0.07
    torch.testing.assert_close(probabilities, logits.softmax(dim=1), rtol=1e-4, atol=1e-5)
    for bad in ([], ["no place for the name"]):
        with pytest.raises(ValueError, match="templates"):
            system.classify(images, names, bad)


def test_the_view_follows_the_encoder() -> None:
    system = _system()
    view = system.views()
    assert isinstance(view, Captioned)
    assert (view.image.size, view.image.mean, view.image.std) == (32, system.encoder.mean, system.encoder.std)
    sample = view(open_rows("emoji:validation")[0], np.random.default_rng(0))
    assert sample["image"].shape == (3, 32, 32) and isinstance(sample["text"], str)


def test_one_of_several_captions_is_drawn_uniformly() -> None:
    row = {**open_rows("emoji:validation")[0], "text": ["first", "second", "third"]}
    view = _system().views()
    drawn = [view(row, np.random.default_rng(seed))["text"] for seed in range(60)]
    counts = [drawn.count(text) for text in row["text"]]
    assert min(counts) >= 8 and sum(counts) == 60
    assert PictureOrText()({"id": "0", "text": row["text"]}) == {"text": "first"}


def test_templates_are_drawn_uniformly_around_the_caption() -> None:
    view = _system(caption_templates=["{}", "a drawing of {}"]).views()
    row = open_rows("emoji:validation")[0]
    drawn = [view(row, np.random.default_rng(seed))["text"] for seed in range(60)]
    assert set(drawn) == {row["text"], f"a drawing of {row['text']}"}
    assert 15 < drawn.count(row["text"]) < 45
    with pytest.raises(ValueError, match="templates must hold {} for the caption, got 'a drawing'"):
        Captioned(templates=("a drawing",))


@pytest.mark.parametrize("caption", [None, "", "  ", [], [3], 7.5])
def test_a_row_without_a_caption_is_a_bad_row(caption: object) -> None:
    with pytest.raises(BadRow, match="caption"):
        caption_candidates({"id": "0", "text": caption})


def test_only_the_chosen_parts_train() -> None:
    system = _system(trainable="head")
    names = {name for name, parameter in system.named_parameters() if parameter.requires_grad}
    assert names == {
        f"encoder.towers.{name}"
        for name in ("image_projection.weight", "text_projection.weight", "text_projection.bias", "logit_scale")
    }
