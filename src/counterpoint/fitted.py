"""A frozen encoder and a training-free estimator on top, joined into something that classifies rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint import sealing, storage
from counterpoint.construction import construct
from counterpoint.encoders import assets
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.run import Run, load_weights
from counterpoint.system import Estimator, Preprocess, System, find_system
from counterpoint.views.image import Resize

__all__ = ["FittedClassifier", "load_fitted"]


class FittedClassifier(System):
    """What `fit` makes: images in, class probabilities out.

    Args:
        encoder: frozen.
        estimator: fitted on the encoder's normalised features.
        class_names: class k is called `class_names[k]`; None when classes have no names.

    Attributes:
        fitted_<name>: the estimator's tensors, as buffers, so that they are part of the weights.
    """

    needs = ("image",)
    modality = "image-text"

    def __init__(self, encoder: ClipEncoder, estimator: Estimator, class_names: Sequence[str] | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.estimator = estimator
        self.class_names = list(class_names) if class_names is not None else None
        for name, tensor in estimator.state()[0].items():
            self.register_buffer(f"fitted_{name}", tensor)
        self.requires_grad_(False)
        self.eval()

    def preprocess(self) -> Preprocess:
        """The encoder's own: resize, centre crop, normalise."""
        return Resize(size=self.encoder.size, mean=self.encoder.mean, std=self.encoder.std)

    @torch.no_grad()
    def embed(self, batch: dict[str, Any]) -> Tensor | dict[str, Tensor]:
        """Preprocessed batch -> (B, D) image vectors of the encoder, normalised."""
        return normalize(self.encoder.encode_image(batch["image"]).float(), dim=1)

    @torch.no_grad()
    def classify(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """N rows with an `image` -> (N, K) probabilities on the CPU, rows sum to one.

        Raises:
            counterpoint.data.BadRow: a picture that cannot be used.
        """
        prepare = self.preprocess()
        images = torch.stack([prepare(dict(row))["image"] for row in rows]).to(self.device)  # (N, 3, size, size)
        features = self.embed({"image": images})
        assert isinstance(features, Tensor)
        return self.estimator.predict_proba(features.cpu())


def load_fitted(run: Run, *, device: str | torch.device = "cpu") -> FittedClassifier:
    """The classifier of a run that `fit` made, without fetching anything.

    Raises:
        ValueError: damaged or incomplete; names the file.
    """
    if not run.finished:
        raise ValueError(f"{run.path} is incomplete: `fit` was stopped, start it again")
    sealing.verify(run.path, exhaustive=False)
    described = run.config["system"]
    weights = storage.read_tensors(run.path / "model.safetensors")
    info = find_system(described["name"])
    estimator = construct(info.cls, described["arguments"])
    if not isinstance(estimator, Estimator):
        raise ValueError(f"{run.path} names {info.name} as its estimator, which is a system that is trained")
    fitted = {name.removeprefix("fitted_"): value for name, value in weights.items() if name.startswith("fitted_")}
    estimator.load_state(fitted, storage.read_json(run.path / "estimator.json"))
    with assets.loading(run.path / "assets"):
        encoder = ClipEncoder(run.config["encoder"])
    classifier = FittedClassifier(encoder, estimator, run.config.get("class_names"))
    load_weights(classifier, weights, run.path / "model.safetensors")
    classifier.to(device)
    return classifier
