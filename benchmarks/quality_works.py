"""What is trained in the comparison of scores: our systems, and the loops of the peers that train the same encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import quality_peers as peers
from benchmarks import quality_texts as texts
from benchmarks.quality_peers import Optimiser, Peer
from counterpoint.construction import construct
from counterpoint.losses import nt_xent
from counterpoint.run import build_system
from counterpoint.system import Features, System
from counterpoint.systems.contrastive_loss_behaviour import ContrastiveLossBehaviour
from counterpoint.training.recipe import read_recipe
from counterpoint.training.settings import LIMITS
from counterpoint.views.image import TwoViews

ALIKE = ", our settings"
"""Ends the name of a peer that is given our settings where it has its own."""


@dataclass(frozen=True)
class Work:
    """One comparison.

    Attributes:
        data: what both sides train on.
        kept: its columns that they see; they are read into memory before the clock runs.
        columns: renamed columns of it, and of what is scored.
        scored: the arguments of `evaluate` after the model.
        metrics: scores that are compared; higher is better.
        build: our system with fresh weights; the peers train the encoder of another one made the same way.
        training: settings of `counterpoint.train`, without a limit; `batch` is that of every side.
        peers: name -> loop.
        note: what has to be known to read the figures.
    """

    data: str
    kept: Sequence[str]
    scored: Mapping[str, Any]
    metrics: Sequence[str]
    build: Callable[[], System]
    training: Mapping[str, Any]
    peers: Mapping[str, Peer]
    note: str
    columns: Mapping[str, str] = field(default_factory=dict)


class SimCLR(ContrastiveLossBehaviour):
    """SimCLR (arXiv 2002.05709) from parts of the library: two views, an encoder, a head, and its own loss."""

    def loss(self, features: Features) -> dict[str, Any]:
        """NT-Xent."""
        return {"contrast": nt_xent(features["first"], features["second"], temperature=self.temperature)}


def _recipe(system: str, batch: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and training settings of our `small` recipe, without what ends its training."""
    found = read_recipe(system, "small")
    training = {name: value for name, value in found.training.items() if name not in LIMITS}
    return found.system, {**training, "batch": batch or training["batch"]}


def swav(tiny: bool) -> Work:
    """Pictures of digits."""
    arguments, training = _recipe("swav", 32 if tiny else None)
    view: Any = build_system("swav", arguments).views()
    ours = (arguments["hidden"], arguments["dim"], arguments["prototypes"])
    adam = Optimiser(torch.optim.Adam, 1e-3)
    return Work(
        data="mnist5k:train",
        kept=["image"],
        scored={"data": "mnist5k:test", "train_data": "mnist5k:train", "protocols": ["knn", "linear_probe"]},
        metrics=["knn/accuracy", "linear_probe/accuracy"],
        build=lambda: build_system("swav", arguments),
        training=training,
        peers={
            "lightly": peers.swav(view, (512, 128, 512), adam, "its example's: Adam 1e-3, 512 prototypes"),
            f"lightly{ALIKE}": peers.swav(
                view, ours, Optimiser.of_settings(training), f"AdamW {training['learning_rate']}, {ours[2]} prototypes"
            ),
        },
        note="Ours has the settings of its `small` recipe, which was made for this set, and the peer those of its "
        "example; crops are drawn from one distribution, that of our recipe.",
    )


def simclr(tiny: bool) -> Work:
    """Cut-out photographs and drawings, scored by their topic."""
    size, batch = (32, 16) if tiny else (64, 128)
    _, training = _recipe("contrastive_loss_behaviour", batch)
    view = TwoViews.simclr(size)
    arguments = {"encoder": f"test_resnet?size={size}"}
    plain: Any = ContrastiveLossBehaviour(arguments["encoder"], view)
    width = plain.head[0].out_features, plain.head[-1].out_features
    sgd = Optimiser(torch.optim.SGD, 0.06)
    rate = training["learning_rate"]
    return Work(
        data="stamps:train",
        kept=["image"],
        columns={"label": "topic"},
        scored={"data": "stamps:test", "train_data": "stamps:train", "protocols": ["knn", "linear_probe"]},
        metrics=["knn/accuracy", "linear_probe/accuracy"],
        build=lambda: construct(SimCLR, {**arguments, "view": view}),
        training=training,
        peers={
            "lightly": peers.simclr(view, (512, 128, True), 0.5, sgd, "its example's: SGD 0.06, temperature 0.5"),
            f"lightly{ALIKE}": peers.simclr(
                view,
                (*width, False),
                plain.temperature,
                Optimiser.of_settings(training),
                f"AdamW {rate}, temperature {plain.temperature}",
            ),
        },
        note=f"Ours is a system of {SimCLR.__name__}'s loss over `contrastive_loss_behaviour`, with that system's "
        "defaults and the training settings of its `small` recipe, made for another set. SimCLR's views as its paper "
        "draws them on both sides. The label is the topic of a picture.",
    )


def simcse(tiny: bool) -> Work:
    """News sentences, scored by people's judgement of news texts."""
    arguments, training = _recipe("esimcse", 8 if tiny else None)
    arguments = {**arguments, "repetition": 0.0, "queue": 0}
    if tiny:
        arguments |= {"encoder": "bert:1x32x2", "layers": None}
    plain: Any = build_system("esimcse", arguments)
    length = plain.encoder.max_length
    own = Optimiser(torch.optim.AdamW, 5e-5, "linear", 0.1)
    return Work(
        data="lee:train",
        kept=["text"],
        scored={"data": "lee:test", "protocols": ["sts"]},
        metrics=["sts/spearman"],
        build=lambda: build_system("esimcse", arguments),
        training=training,
        peers={
            "sentence-transformers": texts.simcse(
                length, 0.05, own, "its example's: AdamW 5e-5, a tenth of warm-up, linear"
            ),
            f"sentence-transformers{ALIKE}": texts.simcse(
                length, plain.temperature, Optimiser.of_settings(training), f"AdamW {training['learning_rate']}, linear"
            ),
        },
        note="The first two layers of MiniLM, mean of tokens, temperature 0.05 and dropout 0.1 on every side.",
    )


def clip(tiny: bool) -> Work:
    """Emoji and their names; retrieval among concepts never seen."""
    arguments, training = _recipe("clip", 16 if tiny else 64)
    if tiny:
        arguments = {**arguments, "encoder": "dual:test_vit+bert:1x32x2?dim=16&size=32&length=16"}
    own = Optimiser(torch.optim.AdamW, 5e-4, "cosine", 0.1, {"weight_decay": 0.2, "betas": (0.9, 0.999)})
    data, scored = ("emoji:validation", "emoji:validation") if tiny else ("emoji:train", "emoji:test")
    return Work(
        data=data,
        kept=["image", "text", "group"],
        scored={"data": scored, "protocols": ["retrieval"]},
        metrics=["retrieval/text_to_image_recall@10", "retrieval/image_to_text_recall@10"],
        build=lambda: build_system("clip", arguments),
        training=training,
        peers={
            "open_clip": texts.clip(
                _open_clip_view, ["{}"], 100.0, _by_dimension, own, "its defaults: AdamW 5e-4, its own pictures' views"
            ),
            f"open_clip{ALIKE}": texts.clip(
                _our_view(arguments["view"]),
                arguments["caption_templates"],
                arguments["largest_scale"],
                lambda system: system.parameter_groups(),
                Optimiser.of_settings(training),
                f"AdamW {training['learning_rate']}, our views, sentences and rates",
            ),
        },
        note="Ours has the settings of its `small` recipe, which were compared on concepts held out of the training "
        "split, and batches without two pictures of a concept, which open_clip's loop does not have. open_clip's "
        "10,000 steps of warm-up are a tenth of the run here. Batches are half of our recipe's on every side, "
        "for more steps.",
    )


def _open_clip_view(size: int, mean: Any, std: Any) -> Any:
    """open_clip's own change of a picture in training."""
    from open_clip import image_transform

    return image_transform(size, is_train=True, mean=mean, std=std)


def _our_view(view: Mapping[str, Any]) -> Callable[[int, Any, Any], Any]:
    """Our recipe's view in torchvision's words."""

    def make(size: int, mean: Any, std: Any) -> Any:
        from torchvision.transforms import v2

        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=view["scale"], interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(view["flip"]),
                v2.RandomRotation(view["rotation"], fill=255),
                v2.RandomApply([v2.ColorJitter(*view["jitter"])], p=view["jitter_probability"]),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(mean), list(std)),
            ]
        )

    return make


def _by_dimension(system: System) -> list[dict[str, Any]]:
    """open_clip decays what has two dimensions and more."""
    learnt = [parameter for parameter in system.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in learnt if parameter.dim() < 2], "weight_decay": 0.0},
        {"params": [parameter for parameter in learnt if parameter.dim() >= 2]},
    ]


WORKS: Mapping[str, Callable[[bool], Work]] = {"swav": swav, "simclr": simclr, "simcse": simcse, "clip": clip}
