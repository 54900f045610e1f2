"""DenseCLIP: what meets what, which parameters learn, its variants, and labels at the picture's own resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.encoders.prompting import DecoderShape
from counterpoint.encoders.windows import label_maps
from counterpoint.losses import box_region_loss
from counterpoint.losses.segmentation import enlarged
from counterpoint.systems.denseclip import DenseCLIP
from counterpoint.views.segmented import SegmentedView

CLASSES = ("background", "dog", "a house with a red roof")
BACKBONES = ("test_resnet?size=32", "test_vit?size=32")


def _system(**arguments: Any) -> DenseCLIP:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "clip": "fixture:vit",
        "contexts": 3,
        "decoder": DecoderShape(width=16, heads=2, layers=1, dropout=0.0),
        "view": SegmentedView(size=32),
        "width": 8,
        "hidden": 8,
        **arguments,
    }
    return DenseCLIP(settings.pop("classes", CLASSES), **settings)


def _batch(rows: int = 2, size: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 3, (rows, size, size), generator=generator)
    mask[:, :5] = 255
    return {"image": torch.randn(rows, 3, size, size, generator=generator), "mask": mask}


@pytest.mark.parametrize("prompting", ["post", "pre", "none"])
@pytest.mark.parametrize("seen", ["fixture:vit", "fixture:resnet", *BACKBONES])
def test_every_variant_learns_what_it_should(seen: str, prompting: str) -> None:
    """The text tower never; the image network, the contexts, the decoder and the head do."""
    clip = {"clip": seen} if seen.startswith("fixture") else {"clip": "fixture:vit", "backbone": seen}
    system = _system(prompting=prompting, **clip).train()
    features = system.encode(_batch())
    assert features["logits"].shape[:2] == features["scores"].shape[:2] == (2, 3)
    assert float(features["scores"].detach().abs().max()) <= 1 + 1e-6
    assert features["logits"].shape[2] >= features["scores"].shape[2]
    terms = system.loss(features)
    assert list(terms) == ["decode", "auxiliary"]
    sum(term.total * term.weight for term in terms.values()).backward()  # type: ignore[union-attr, operator]
    learnt = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None and bool(p.grad.any())}
    network = "backbone" if "backbone" in clip else "clip"
    expected = {network, "head", "contexts", *({"decoder"} if prompting != "none" else ())}
    assert expected | ({"gamma"} if prompting == "post" else set()) <= learnt
    for name, parameter in system.clip.named_parameters():
        if "visual" not in name or network == "backbone":
            assert parameter.grad is None and not parameter.requires_grad, name


@torch.no_grad()
def test_the_loss_by_hand() -> None:
    system = _system(temperature=0.1, auxiliary=0.3).eval()
    batch = _batch()
    features = system.encode(batch)
    terms = system.loss(features)

    def by_hand(maps: Tensor) -> float:
        large = torch.nn.functional.interpolate(maps, size=(32, 32), mode="bilinear", align_corners=False)
        logs = large.log_softmax(dim=1).gather(1, batch["mask"].clamp(max=2)[:, None])[:, 0]
        return float(-(logs * (batch["mask"] != 255)).sum() / batch["mask"].numel())

    decode, auxiliary = terms["decode"], terms["auxiliary"]
    assert float(decode.total) == pytest.approx(by_hand(features["logits"]), rel=1e-5)  # type: ignore[union-attr, operator]
    assert float(auxiliary.total) == pytest.approx(by_hand(features["scores"] / 0.1), rel=1e-5)  # type: ignore[union-attr, operator]
    assert auxiliary.weight == 0.3  # type: ignore[union-attr]
    assert list(_system(auxiliary=0.0).loss(features)) == ["decode"]


def test_scores_join_the_map_of_their_size_without_a_temperature() -> None:
    """The head sees the cosines themselves, behind the channels of one level."""
    system = _system().eval()
    seen: list[list[Tensor]] = []
    system.head.register_forward_pre_hook(lambda module, inputs: seen.append(list(inputs[0])))
    with torch.no_grad():
        features = system.encode(_batch())
        found = system.dense(system.clip, _batch()["image"])
    level = system.dense.level
    torch.testing.assert_close(seen[0][level], torch.cat([found.maps[level], features["scores"]], dim=1))
    for number in {0, 1, 2, 3} - {level}:
        torch.testing.assert_close(seen[0][number], found.maps[number])


@torch.no_grad()
def test_texts_follow_the_picture_after_the_tower_or_before() -> None:
    for prompting in ("post", "pre"):
        system = _system(prompting=prompting, gamma=0.5).eval()
        found = system.dense(system.clip, _batch()["image"])
        texts = system.texts(found)
        assert texts.shape == (2, 3, system.clip.dim) and not torch.allclose(texts[0], texts[1], atol=1e-5)
        alone = system.texts(system.dense(system.clip, _batch()["image"][1:]))
        torch.testing.assert_close(texts[1:], alone, rtol=1e-4, atol=1e-5)
    system = _system(prompting="none").eval()
    texts = system.texts(system.dense(system.clip, _batch()["image"]))
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[:1], system.name_features())
    start = _system(gamma=0.0).eval()
    torch.testing.assert_close(
        start.texts(start.dense(start.clip, _batch()["image"])), start.name_features().expand(2, -1, -1)
    )


def test_without_guidance_it_is_the_same_network_without_texts() -> None:
    guided, plain = _system(), _system(guidance=False).eval()
    extra = {name.split(".")[0] for name in guided.state_dict()} - {name.split(".")[0] for name in plain.state_dict()}
    assert extra == {"contexts", "decoder", "gamma", "tokens"}
    assert set(plain.encode(_batch())) == {"logits", "mask"}
    assert list(plain.loss(plain.encode(_batch()))) == ["decode"]
    with pytest.raises(ValueError, match="guidance=False: there are no texts"):
        plain.segment_by_text(torch.rand(1, 3, 32, 32))
    assert plain.segment(torch.rand(1, 3, 32, 32)).shape == (1, 32, 32)


@pytest.mark.parametrize("backbone", [None, BACKBONES[0]])
def test_the_image_network_is_slow_and_norms_do_not_decay(backbone: str | None) -> None:
    system = _system(backbone=backbone, backbone_learning_rate=0.25)
    scale: dict[int, float] = {}
    decay: dict[int, float | None] = {}
    for group in system.parameter_groups():
        for parameter in group["params"]:
            assert id(parameter) not in scale
            scale[id(parameter)], decay[id(parameter)] = group.get("scale", 1.0), group.get("weight_decay")
    slow = system.backbone if backbone else system.clip
    for name, parameter in system.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in scale, name
            continue
        own = any(parameter is other for other in slow.parameters())  # type: ignore[union-attr]
        assert scale[id(parameter)] == (0.25 if own else 1.0), name
    assert decay[id(system.gamma)] == decay[id(system.head.levels[0].convolutions[0][1].weight)] == 0.0
    assert decay[id(system.head.classify.weight)] != 0.0


@torch.no_grad()
def test_embeds_whole_pictures() -> None:
    system = _system().eval()
    images = _batch(size=system.clip.size)["image"]
    torch.testing.assert_close(system.embed({"image": images}), system.clip.encode_image(images), rtol=1e-4, atol=1e-5)
    images = _batch()["image"]
    assert _system(backbone=BACKBONES[1]).eval().embed({"image": images}).shape == (2, system.clip.dim)


@torch.no_grad()
def test_labels_come_from_sliding_windows() -> None:
    system = _system(stride=20).eval()
    images = torch.rand(2, 3, 40, 70, generator=torch.Generator().manual_seed(0))
    for method, part in ((system.segment, "logits"), (system.segment_by_text, "scores")):
        found = method(images)
        assert found.shape == (2, 40, 70) and found.dtype == torch.int64
        wanted = label_maps(
            lambda views, part=part: system.scored(views)[part],
            images,
            window=32,
            stride=20,
            mean=system.clip.mean,
            std=system.clip.std,
        )
        assert float((found == wanted).double().mean()) > 0.999
    assert _system().stride == 21  # two thirds of the window


def test_views_are_normalised_for_the_network_and_know_the_classes() -> None:
    system = _system(backbone=BACKBONES[0])
    assert system.backbone is not None
    assert (system.views().mean, system.views().std, system.views().classes) == (
        system.backbone.mean,
        system.backbone.std,
        3,
    )
    assert system.preprocess().size == 32
    sample = system.views()(
        {"image": np.zeros((40, 50, 3), np.uint8), "mask": np.zeros((40, 50), np.uint8)}, np.random.default_rng(0)
    )
    assert sample["image"].shape == (3, 32, 32) and sample["mask"].shape == (32, 32)


def test_long_names_are_cut_and_different_names_stay_different() -> None:
    system = _system(classes=("dog", "a house with a red roof", "umbrella"), text_length=5).eval()
    assert system.tokens.shape == (3, 5)
    with torch.no_grad():
        found = torch.nn.functional.normalize(system.name_features()[0], dim=1)
    assert float((found @ found.T - torch.eye(3)).max()) < 0.9999


def test_the_score_map_learns_from_boxes_alone() -> None:
    """Detection's auxiliary loss on maps enlarged to a stride of 4: a step down the gradient lowers it."""
    system = _system().train()
    boxes = torch.tensor([[[4.0, 4.0, 24.0, 20.0]], [[0.0, 8.0, 16.0, 31.0]]])
    labels = torch.tensor([[1], [2]])
    optimiser = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=0.02)
    values = []
    for _ in range(6):
        scores = enlarged(system.encode(_batch())["scores"] / system.temperature, (8, 8))
        loss = box_region_loss(scores, boxes, labels, stride=4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] - 0.05, values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("dog",)}, "classes must be at least two different names"),
        ({"classes": ("dog", "dog")}, "classes must be at least two different names"),
        ({"classes": "dog"}, "classes must be at least two different names"),
        ({"contexts": 0}, "contexts must be at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"text_length": 2}, "length must be at least 3"),
        ({"contexts": 100}, "set fewer contexts"),
        ({"prompting": "backbone"}, "prompting must be"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _system(**arguments).name_features()


def test_names_that_are_not_those_of_the_masks_are_refused() -> None:
    system = _system()
    with pytest.raises(ValueError, match="classes are .*: give them with --classes"):
        system.prepare(Rows.from_list([{"image": b"", "mask": b""}], class_names=["ground", "sky"]))
    with pytest.warns(UserWarning, match="the masks of .* name no classes; read as 0 "):
        assert system.prepare(Rows.from_list([{"image": b"", "mask": b""}])) == {}
