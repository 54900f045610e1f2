"""DenseCLIP: every place of a picture is compared with the names of the classes, and the scores help to segment it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from counterpoint.data import Rows
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.dense import Dense, DenseStages, pixel_text_scores
from counterpoint.encoders.guiding import text_tower
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.prompting import ContextDecoder, DecoderShape, contextual_features, short_tokens
from counterpoint.encoders.pyramid import SegmentationHead
from counterpoint.encoders.windows import label_maps
from counterpoint.losses import pixel_cross_entropy
from counterpoint.system import Batch, Features, System, Term, with_own_rate
from counterpoint.views.image import Resize
from counterpoint.views.segmented import SegmentedView, check_class_names

__all__ = ["DenseCLIP"]


class DenseCLIP(System):
    """Segmentation in which places of a picture meet the names of the classes (arXiv 2112.01518).

    Args:
        classes: their names, in the order of the numbers in the masks.
        clip: `ClipEncoder` whose text tower reads the names, frozen; and whose image tower is trained.
        backbone: an `ImageEncoder` to train in the place of CLIP's image tower, of any kind; None takes CLIP's.
        prompting: "post" adds to each text what it finds in the picture, behind the text tower; "pre" lets learnt
            queries find the contexts in the picture, which costs a text pass for each; "none" does neither.
        guidance: False leaves the texts out: plain fine-tuning of the same network, the paper's baseline.
        contexts: learnt vectors in front of every name.
        text_length: tokens of a name with its start and end; longer names are cut.
        decoder: size of the context decoder.
        view: how pictures and masks are cut and distorted; its normalisation follows the encoder.
        stride: pixels from one window to the next when a picture is segmented; None is two thirds of the view.
        width: channels of the feature pyramid.
        hidden: channels of the head.
        temperature: divides the scores in the auxiliary loss.
        gamma: what the findings of "post" are multiplied by at first, for each number of a text.
        auxiliary: weight of the cross-entropy of the scores themselves.
        backbone_learning_rate: factor on the learning rate of the image network.
    """

    paper = "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (arXiv 2112.01518)"
    needs = ("image", "mask")
    couples = False
    modality = "image segmentation"
    tokens: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        clip: str = "open_clip:RN50/openai",
        backbone: str | None = None,
        prompting: Literal["post", "pre", "none"] = "post",
        guidance: bool = True,
        contexts: int = 8,
        text_length: int = 5,
        decoder: DecoderShape = DecoderShape(),  # noqa: B008 (frozen)
        view: SegmentedView = SegmentedView(),  # noqa: B008 (frozen)
        stride: int | None = None,
        width: int = 256,
        hidden: int = 128,
        temperature: float = 0.07,
        gamma: float = 1e-4,
        auxiliary: float = 0.4,
        backbone_learning_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.class_names = tuple(classes)
        if len(set(self.class_names)) != len(classes) or len(classes) < 2 or isinstance(classes, str):
            raise ValueError(f"classes must be at least two different names, got {classes!r}")
        if contexts < 1 or not temperature > 0:
            raise ValueError(f"contexts must be at least 1, temperature above 0; got {contexts} and {temperature}")
        if prompting not in ("post", "pre", "none"):
            raise ValueError(f"prompting must be 'post', 'pre' or 'none', got {prompting!r}")
        self.clip = ClipEncoder(clip, trainable="none" if backbone else ["towers.model.visual."])
        self.backbone = ImageEncoder(backbone) if backbone else None
        seen = self.backbone or self.clip
        self.view = replace(view, mean=seen.mean, std=seen.std, classes=len(classes))
        self.stride = stride or max(1, 2 * view.size // 3)
        self.prompting, self.guidance, self.temperature, self.auxiliary = prompting, guidance, temperature, auxiliary
        self.backbone_learning_rate = backbone_learning_rate
        self.dense = DenseStages(seen, self.clip.dim, view.size)
        channels = list(self.dense.channels)
        if guidance:
            self._add_texts(contexts, text_length, decoder, gamma)
            channels[self.dense.level] += len(classes)
        self.head = SegmentationHead(channels, width=width, hidden=hidden, classes=len(classes))

    def _add_texts(self, contexts: int, text_length: int, shape: DecoderShape, gamma: float) -> None:
        tower, dim = text_tower(self.clip), self.clip.dim
        self.register_buffer("tokens", short_tokens(self.clip, self.class_names, text_length))
        inner = tower.token_embedding.weight.shape[1]
        first = torch.empty(contexts, dim if self.prompting == "pre" else inner)
        self.contexts = nn.Parameter(nn.init.trunc_normal_(first))
        if self.prompting != "none":
            self.decoder = ContextDecoder(dim, shape, inner if self.prompting == "pre" else dim)
        if self.prompting == "post":
            self.gamma = nn.Parameter(torch.full((dim,), gamma))

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """Nothing is kept; the names must be those of the masks.

        Raises:
            ValueError: the data name their classes otherwise.
        """
        check_class_names(rows, self.class_names)
        return {}

    def views(self) -> SegmentedView:
        """A square of the picture and of its mask."""
        return self.view

    def preprocess(self) -> Resize:
        """The middle of the picture."""
        return Resize(self.view.size, self.view.mean, self.view.std)

    def name_features(self) -> Tensor:
        """(1, K, D) of the names behind their contexts, the same for every picture; not normalised."""
        return contextual_features(text_tower(self.clip), self.tokens, self.contexts[None])

    def texts(self, found: Dense, names: Tensor | None = None) -> Tensor:
        """(B, K, D) of the names as each picture colours them; `names` are `name_features()` if they are known."""
        places = torch.cat([found.whole[:, None], found.cells.flatten(2).mT], dim=1)  # (B, 1 + h * w, D)
        if self.prompting == "pre":
            contexts = self.decoder(self.contexts.expand(len(places), -1, -1), places)
            return contextual_features(text_tower(self.clip), self.tokens, contexts)
        texts = (self.name_features() if names is None else names).expand(len(places), -1, -1)
        return texts + self.gamma * self.decoder(texts, places) if self.prompting == "post" else texts

    def scored(self, images: Tensor, names: Tensor | None = None) -> Features:
        """Normalised pictures (B, 3, H, W) -> `logits` (B, K, h, w), and with guidance `scores` (B, K, h', w')."""
        found = self.dense(self.backbone or self.clip, images)
        if not self.guidance:
            return {"logits": self.head(found.maps)}
        scores, maps = pixel_text_scores(found.cells, self.texts(found, names)), list(found.maps)
        maps[self.dense.level] = torch.cat([maps[self.dense.level], scores], dim=1)
        return {"logits": self.head(maps), "scores": scores}

    def encode(self, batch: Batch) -> Features:
        """`logits`, `scores` and the masks (B, H, W)."""
        return {**self.scored(batch["image"]), "mask": batch["mask"]}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Cross-entropy of the head and, at a temperature, of the score map; ignored pixels add 0 and count."""
        guess = math.log(len(self.class_names))
        decoded = pixel_cross_entropy(features["logits"], features["mask"], temperature=1.0)
        terms: dict[str, Tensor | Term] = {"decode": Term.mean(decoded, guess=guess)}
        if self.guidance and self.auxiliary:
            value = pixel_cross_entropy(features["scores"], features["mask"], temperature=self.temperature)
            terms["auxiliary"] = Term.mean(value, guess=guess, weight=self.auxiliary)
        return terms

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The image network learns at its own rate; biases, norms and `gamma` have no weight decay."""
        slow = (self.backbone or self.clip).parameters()
        return with_own_rate(super().parameter_groups(), slow, self.backbone_learning_rate)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) of the whole picture; CLIP's image embedding, for a CLIP."""
        return self.dense(self.backbone or self.clip, batch["image"]).whole

    def segment(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], of any size -> class numbers (B, H, W): of the head, in sliding windows."""
        return self._labels(images, "logits")

    def segment_by_text(self, images: Tensor) -> Tensor:
        """The same from the score map alone: which name is nearest to each place.

        Raises:
            ValueError: the system was built without guidance.
        """
        if not self.guidance:
            raise ValueError("guidance=False: there are no texts to compare places with")
        return self._labels(images, "scores")

    @torch.no_grad()
    def _labels(self, images: Tensor, part: str) -> Tensor:
        names = self.name_features() if self.guidance and self.prompting != "pre" else None
        return label_maps(
            lambda views: self.scored(views, names)[part],
            images.to(self.device),
            window=self.view.size,
            stride=self.stride,
            mean=self.view.mean,
            std=self.view.std,
        )
