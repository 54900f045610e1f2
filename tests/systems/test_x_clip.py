"""X-CLIP: what knows the order, what learns how fast, what a name sees of a video, and classes by any names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.embedding import embed_all
from counterpoint.index import embed, search
from counterpoint.predict import predict
from counterpoint.systems.x_clip import XCLIP
from counterpoint.views.labelled_clips import LabelledClip
from counterpoint.views.mixing import Mixing

CLASSES = ["a dog moving left", "a dog moving right", "a red apple growing"]
FRAMES, SIZE = 3, 16


def _system(**arguments: Any) -> XCLIP:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"view": LabelledClip(frames=FRAMES, size=SIZE), **arguments}
    system = XCLIP("fixture:vit", **settings)
    system.use({"class_names": CLASSES})
    return system


def _film(seed: int, frames: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 20, 24, 3), dtype=np.uint8)


def _rows(count: int = 6) -> Rows:
    rows = [{"id": f"{n}", "video": _film(n), "text": CLASSES[n % 3], "label": n % 3} for n in range(count)]
    return Rows.from_list(rows, name="films", class_names=CLASSES)


def _batch(rows: int = 2, size: int = SIZE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(rows, FRAMES, 3, size, size, generator=generator)
    labels = torch.arange(rows) % 3
    return {"video": video, "label": labels, "partner": labels.flip(0), "share": torch.full((rows,), 0.7)}


@torch.no_grad()
def test_permuting_frames_changes_the_logits_only_through_the_positions_of_the_integration() -> None:
    system = _system()
    batch = _batch()
    turned = {**batch, "video": batch["video"][:, [2, 0, 1]]}
    logits = system.encode(batch)["logits"]
    assert (system.encode(turned)["logits"] - logits).abs().max() > 1e-3
    assert system.mit is not None
    system.mit.positional_embedding.zero_()
    logits = system.encode(batch)["logits"]
    torch.testing.assert_close(system.encode(turned)["logits"], logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("prompts", [0, 1])
def test_without_integration_no_variant_knows_the_order(messages: bool, prompts: int) -> None:
    system = _system(integration=0, messages=messages, prompts=prompts)
    batch = _batch()
    turned = {**batch, "video": batch["video"].flip(1)}
    torch.testing.assert_close(system.encode(turned)["logits"], system.encode(batch)["logits"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_baseline_is_the_mean_of_clips_own_frames() -> None:
    system = _system(messages=False, integration=0, prompts=0, view=LabelledClip(frames=FRAMES, size=64))
    batch = _batch(size=64)
    frames = system.encoder.encode_image(batch["video"].flatten(0, 1)).unflatten(0, (2, FRAMES))
    texts = system.encoder.encode_text(system.encoder.tokenize(CLASSES))
    cosines = torch.cosine_similarity(frames.mean(dim=1)[:, None], texts[None], dim=2)
    wanted = system.encoder.logit_scale.exp() * cosines
    torch.testing.assert_close(system.encode(batch)["logits"], wanted, rtol=1e-4, atol=1e-4)
    assert {name.split(".")[0] for name in system.state_dict()} == {"encoder"}


@pytest.mark.parametrize("train_text", [False, True])
def test_what_learns(train_text: bool) -> None:
    system = _system(train_text=train_text).train()
    terms = system.loss(system.encode(_batch()))
    (terms["names"].total / terms["names"].count).backward()  # type: ignore[union-attr, operator]
    learnt = {name for name, p in system.named_parameters() if p.grad is not None and bool(p.grad.any())}
    text = {f"encoder.{name}" for name in system.encoder.text_parameters()}
    assert {name.split(".")[0] for name in learnt} == {"encoder", "cross_frames", "mit", "prompts"}
    assert bool(learnt & text) == train_text
    assert "encoder.towers.model.logit_scale" not in learnt
    frozen = {name for name, p in system.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.towers.model.logit_scale"} | (set() if train_text else text)
    assert all(name in learnt for name, p in system.named_parameters() if p.requires_grad and name not in text)


@torch.no_grad()
def test_the_loss_by_hand() -> None:
    system = _system(smoothing=0.1)
    features = system.encode(_batch(5))
    term = system.loss(features)["names"]
    logits, total = features["logits"].double(), 0.0
    for row in range(5):
        target = [0.1 / 3] * 3
        target[int(features["label"][row])] += 0.9 * 0.7
        target[int(features["partner"][row])] += 0.9 * 0.3
        normaliser = math.log(sum(math.exp(float(value)) for value in logits[row]))
        total -= sum(t * (float(value) - normaliser) for t, value in zip(target, logits[row], strict=True))
    assert float(term.total) == pytest.approx(total, rel=1e-5)  # type: ignore[union-attr]
    assert term.count == 5 and term.guess == pytest.approx(math.log(3))  # type: ignore[union-attr]


def test_new_modules_learn_faster_and_positions_do_not_decay() -> None:
    system = _system(new_learning_rate=4.0)
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    seen = {}
    for group in system.parameter_groups():
        for parameter in group["params"]:
            assert id(parameter) not in seen
            seen[id(parameter)] = (group.get("scale", 1.0), group.get("weight_decay"))
    assert set(seen) == {id(parameter) for parameter in system.parameters() if parameter.requires_grad}
    for key, (scale, decay) in seen.items():
        name, parameter = names[key], dict(system.named_parameters())[names[key]]
        assert scale == (1.0 if name.startswith("encoder.") else 4.0), name
        assert decay == (0.0 if parameter.dim() < 2 or "positional_embedding" in name else None), name


@torch.no_grad()
def test_names_are_asked_once_until_they_or_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    system = _system()
    calls: list[Any] = []
    encode_text = system.encoder.encode_text

    def counted(tokens: dict[str, Tensor]) -> Tensor:
        calls.append(tokens)
        return encode_text(tokens)

    monkeypatch.setattr(system.encoder, "encode_text", counted)
    first = system.name_features(CLASSES)
    assert system.name_features(CLASSES) is first and len(calls) == 1
    other = system.name_features([*CLASSES, "a_bus growing"])
    assert len(calls) == 2 and torch.allclose(other[:3], first, atol=1e-5)
    assert torch.equal(other[3], system.name_features(["a bus growing", "a dog"])[0]) or torch.allclose(
        other[3], system.name_features(["a bus growing", "a dog"])[0], atol=1e-5
    )
    parameter = system.encoder.get_parameter(system.encoder.text_parameters()[0])
    before = system.name_features(CLASSES)
    parameter.mul_(1.5)
    assert not torch.equal(system.name_features(CLASSES), before)
    assert system.to(torch.float64).name_features(CLASSES).dtype == torch.float64


@torch.no_grad()
def test_a_name_is_seen_through_each_video_by_itself() -> None:
    system = _system(alpha=0.5)
    whole, places = system.watch(_batch()["video"])
    texts = system.name_features(CLASSES)
    both = system.logits(whole, places, texts)
    assert places is not None and places.shape == (2, (SIZE // 8) ** 2, system.encoder.dim)
    torch.testing.assert_close(system.logits(whole[1:], places[1:], texts), both[1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(system.logits(whole, places, texts[:2]), both[:, :2], rtol=1e-4, atol=1e-4)
    assert (system.logits(whole, places.flip(0), texts) - both).abs().max() > 1e-3


@torch.no_grad()
def test_views_at_inference_are_averaged() -> None:
    system = _system(test_clips=2, test_crops=3)
    rows = [_rows()[0]]
    video = system.preprocess()({"video": rows[0]["video"]})["video"]
    assert video.shape == (6, FRAMES, 3, SIZE, SIZE)
    logits = system.logits(*system.watch(video), system.name_features(CLASSES))
    torch.testing.assert_close(system.classify(rows)[0], logits.softmax(dim=1).mean(dim=0), rtol=1e-4, atol=1e-5)
    unit = torch.nn.functional.normalize(system.watch(video)[0], dim=1).mean(dim=0)
    found = embed_all(system, rows, columns=("video",))[1]["video"][0]
    torch.testing.assert_close(found, torch.nn.functional.normalize(unit, dim=0), rtol=1e-4, atol=1e-5)


def test_classes_of_its_own_and_any_others() -> None:
    system = _system()
    found = system.classify(list(_rows()))
    assert found.shape == (6, 3) and torch.allclose(found.sum(dim=1), torch.ones(6))
    assert system.classify(list(_rows()), ["a bus", "a dog"]).shape == (6, 2)
    with pytest.raises(BadRow):
        system.classify([{"id": "0", "video": b"nothing"}])
    fresh = XCLIP("fixture:vit", view=LabelledClip(frames=FRAMES, size=SIZE))
    with pytest.raises(ValueError, match="no class names: pass some"):
        fresh.classify(list(_rows()))
    with pytest.raises(ValueError, match="x_clip knows no classes yet"):
        fresh.encode(_batch())
    assert fresh.classify(list(_rows()), CLASSES).shape == (6, 3)


def test_labels_need_names() -> None:
    rows = Rows.from_list([{"video": _film(0), "label": 0}], name="films")
    with pytest.raises(ValueError, match="x_clip needs labels with names: sort the clips of films into folders"):
        _system().prepare(rows)


@pytest.mark.parametrize("arguments", [{"smoothing": 1.0}, {"integration": -1}, {"prompts": -1}])
def test_unusable_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="integration and prompts at least 0"):
        _system(**arguments)


def test_training_batches_are_mixed_and_others_are_not() -> None:
    system = _system(mixing=Mixing(cutmix=0.0))
    rows = _rows()
    view, preprocess = system.views(), system.preprocess()
    batch = system.collate([view(row, np.random.default_rng(n)) for n, row in enumerate(rows)])
    assert set(batch) == {"video", "label", "partner", "share"} and float(batch["share"][0]) < 1
    assert set(system.collate([preprocess(row) for row in rows])) == {"video", "input_ids", "attention_mask"}


def test_predict_by_its_own_classes_and_by_others(tmp_path: Path) -> None:
    rows = [{"id": row["id"], "video": row["video"]} for row in _rows()]
    rows[2]["video"] = b"no film"
    system = _system()
    for classes in (None, "a bus,a dog"):
        found = predict(system, rows, out=tmp_path / str(classes), classes=classes, batch=4)
        lines = [json.loads(line) for line in found.path.read_text().splitlines()]
        names = CLASSES if classes is None else classes.split(",")
        assert found.task == "classify" and [row.id for row in found.skipped] == ["2"]
        assert {answer["label"] for line in lines for answer in line["top"]} == set(names)
        usable = [row for row in rows if row["id"] != "2"]
        wanted = system.classify(usable, names).max(dim=1).values.tolist()
        assert [line["probability"] for line in lines] == pytest.approx(wanted, abs=1e-5)


def test_evaluate_by_its_own_classes_and_by_names() -> None:
    system, rows = _system(), _rows(9)
    result = evaluate(system, rows, protocols=["classification", "zero_shot", "retrieval"])
    right = system.classify(list(rows)).argmax(dim=1) == torch.tensor(rows.column("label"))
    share = pytest.approx(float(right.double().mean()))
    assert result["scores"]["classification/accuracy"] == share == result["scores"]["zero_shot/accuracy"]
    assert result["chance"]["zero_shot/accuracy"] == pytest.approx(1 / 3)
    assert {"retrieval/text_to_video_recall@1", "retrieval/video_to_text_recall@1"} <= set(result["scores"])
    other = Rows.from_list(list(rows.select(range(4))), name="other", class_names=["a bus", "a fish", "a house"])
    found = evaluate(system, other, protocols=["zero_shot"])["scores"]["zero_shot/accuracy"]
    right = system.classify(list(other), other.class_names).argmax(dim=1) == torch.tensor(other.column("label"))
    assert found == pytest.approx(float(right.double().mean()))


def test_zero_shot_scores_classes_that_were_seen_and_others_by_themselves() -> None:
    system = _system()
    names = [CLASSES[0], "a bus", CLASSES[1], "a house"]
    rows = Rows.from_list([{**row, "label": n % 4} for n, row in enumerate(_rows(12))], name="both", class_names=names)
    result = evaluate(system, rows, protocols=["zero_shot"])
    labels, probabilities = torch.tensor(rows.column("label")), system.classify(list(rows), names)
    for part, own in (("seen", [0, 2]), ("unseen", [1, 3])):
        chosen = [row for row, label in enumerate(labels.tolist()) if label in own]
        right = [own[int(probabilities[row, own].argmax())] == int(labels[row]) for row in chosen]
        assert result["scores"][f"zero_shot/{part}_accuracy"] == pytest.approx(sum(right) / len(right))
        assert result["chance"][f"zero_shot/{part}_accuracy"] == 0.5
    assert "zero_shot/seen_accuracy" not in evaluate(system, _rows(), protocols=["zero_shot"])["scores"]


def test_a_text_finds_clips(tmp_path: Path) -> None:
    system = _system()
    rows = [{"id": row["id"], "video": row["video"]} for row in _rows()]
    table = embed(system, rows, out=tmp_path / "clips.lance")
    found = search(table, "a dog moving left", model=system, top=6)
    _, spaces = embed_all(system, rows)
    _, query = embed_all(system, [{"text": "a dog moving left"}], columns=("text",))
    cosines = torch.cosine_similarity(query["text"], spaces["video"]).tolist()
    assert [row["id"] for row in found] == [str(n) for n in np.argsort(cosines)[::-1]]
    assert [row["score"] for row in found] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert all(row["thumbnail"][:4] == b"RIFF" for row in found)
