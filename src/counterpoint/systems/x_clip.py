"""X-CLIP: a pre-trained CLIP learns to see videos: frames talk to each other, and class names look at the video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from counterpoint.data import Row, Rows
from counterpoint.encoders.class_names import FrozenNames, bare_names
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.frame_towers import frame_tower, take_video_weights
from counterpoint.encoders.video_clip import CrossFrames, FrameIntegration, VideoPrompts
from counterpoint.system import Batch, Features, System, Term, with_own_rate, without_decay
from counterpoint.views.labelled_clips import ClipOrText, LabelledClip, collate_clips
from counterpoint.views.mixing import Mixing

__all__ = ["XCLIP"]


class XCLIP(System):
    """Video recognition by class names, on top of a CLIP of pictures and texts (arXiv 2208.02816).

    Args:
        encoder: `ClipEncoder` with an image transformer of the original form: `open_clip:`, `hf:` or `fixture:vit`. An
            X-CLIP of the hub (`hf:microsoft/xclip-base-patch32`) brings all weights along.
        view: how frames are chosen, cropped and distorted; its normalisation follows the encoder.
        messages: cross-frame communication: frames send each other a message in front of every block. False leaves the
            frames alone with themselves.
        integration: layers of the transformer that knows the frames' order; 0 averages the frames.
        prompts: layers of the decoder through which class names look at the video; 0 leaves the names as they are.
        alpha: what the findings of `prompts` are multiplied by at first.
        train_text: False keeps the text tower as it is. True also trains it, for words that the CLIP does not know.
        mixing: mixup and cutmix.
        smoothing: share of the target that is spread over all classes.
        new_learning_rate: factor on the learning rate of messages, integration and prompts.
        test_clips, test_crops: views of a video at inference; probabilities, and unit vectors, are averaged.
    """

    paper = "Expanding Language-Image Pretrained Models for General Video Recognition (arXiv 2208.02816)"
    needs = ("video", "label")
    couples = False
    modality = "video-text"

    def __init__(
        self,
        encoder: str = "open_clip:ViT-B-16-quickgelu/openai",
        view: LabelledClip = LabelledClip(),  # noqa: B008 (frozen)
        messages: bool = True,
        integration: int = 1,
        prompts: int = 2,
        alpha: float = 0.1,
        train_text: bool = False,
        mixing: Mixing = Mixing(),  # noqa: B008 (frozen)
        smoothing: float = 0.1,
        new_learning_rate: float = 10.0,
        test_clips: int = 1,
        test_crops: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1 or min(integration, prompts) < 0:
            raise ValueError(
                f"smoothing must be in [0, 1), integration and prompts at least 0; got {smoothing}, {integration} and "
                f"{prompts}"
            )
        self.encoder = ClipEncoder(encoder)
        tower = frame_tower(self.encoder)
        text = [name for name in self.encoder.text_parameters() if train_text]
        self.encoder.freeze([*tower.parameters, *text])
        self.view = replace(view, mean=self.encoder.mean, std=self.encoder.std)
        self.mixing, self.smoothing, self.train_text = mixing, smoothing, train_text
        self.new_learning_rate, self.test_clips, self.test_crops = new_learning_rate, test_clips, test_crops
        self.cross_frames = CrossFrames(tower, messages=messages)
        self.mit = FrameIntegration(tower.dim, view.frames, layers=integration) if integration else None
        self.prompts = VideoPrompts(tower.dim, layers=prompts, alpha=alpha, width=tower.width) if prompts else None
        take_video_weights(self.encoder, {"cross_frames": self.cross_frames, "mit": self.mit, "prompts": self.prompts})
        self.class_names: tuple[str, ...] = ()
        self._known = FrozenNames()

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """The names of the classes.

        Raises:
            ValueError: labels without names.
        """
        if not rows.class_names:
            raise ValueError(f"x_clip needs labels with names: sort the clips of {rows.name} into folders of classes")
        return {"class_names": list(rows.class_names)}

    def use(self, facts: Mapping[str, Any]) -> None:
        """Take the names of the classes."""
        self.class_names = tuple(facts.get("class_names", ()))

    def views(self) -> LabelledClip:
        """Frames from all over the film."""
        return self.view

    def preprocess(self) -> ClipOrText:
        """Whatever the row has of film and text."""
        view = self.view
        return ClipOrText(view.frames, view.size, self.test_clips, self.test_crops, view.mean, view.std)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """See `collate_clips`."""
        return collate_clips(samples, self.encoder.tokenize, self.mixing)

    def watch(self, video: Tensor) -> tuple[Tensor, Tensor | None]:
        """Clips (B, T, 3, s, s) -> (B, D) of the clips, and (B, N, D) of their places where there are prompts."""
        found = self.cross_frames(frame_tower(self.encoder), video)
        whole = found.frames.mean(dim=1) if self.mit is None else self.mit(found.frames)
        return whole, None if self.prompts is None else self.prompts.places(found.patches)

    def logits(self, whole: Tensor, places: Tensor | None, texts: Tensor) -> Tensor:
        """(B, D), (B, N, D) and texts (K, D) -> (B, K): scaled cosines of a clip and the names as it colours them."""
        seen = texts.expand(len(whole), -1, -1)  # (B, K, D)
        if self.prompts is not None and places is not None:
            seen = seen + self.prompts(seen, places)
        scale = self.encoder.logit_scale.exp()
        return scale * torch.einsum("bd,bkd->bk", normalize(whole, dim=1), normalize(seen, dim=2))

    def name_features(self, names: Sequence[str]) -> Tensor:
        """(K, D) of the bare names, "_" read as a blank; those of a frozen text tower are computed once."""
        return bare_names(self.encoder, names) if self.train_text else self._known(self.encoder, names)

    def encode(self, batch: Batch) -> Features:
        """`logits` (B, K), and what the batch says of the labels."""
        if not self.class_names:
            raise ValueError("x_clip knows no classes yet: they come with the data that it is trained on")
        logits = self.logits(*self.watch(batch["video"]), self.name_features(self.class_names))
        return {"logits": logits, **{name: batch[name] for name in ("label", "partner", "share")}}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Cross-entropy with the smoothed labels of both clips of a mixture (one direction: each clip picks a name)."""
        logits, share = features["logits"], features["share"][:, None]
        first, second = (one_hot(features[name], logits.shape[1]).to(logits) for name in ("label", "partner"))
        target = share * first + (1 - share) * second  # (B, K)
        target = (1 - self.smoothing) * target + self.smoothing / logits.shape[1]
        total = cross_entropy(logits, target, reduction="sum")
        return {"names": Term(total, len(logits), guess=math.log(logits.shape[1]))}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """New modules learn faster; biases, norms, `alpha` and positions have no weight decay."""
        clip = {id(parameter) for parameter in self.encoder.parameters()}
        new = [parameter for parameter in self.parameters() if id(parameter) not in clip]
        groups = with_own_rate(super().parameter_groups(), new, self.new_learning_rate)
        return without_decay(groups, [value for name, value in self.named_parameters() if "position" in name])

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Unit rows (B, D) of what the batch holds: `video` (the mean over its views), `text` (without any video)."""
        spaces = {}
        if "video" in batch:
            rows, views = batch["video"].shape[:2]
            whole, _ = self.watch(batch["video"].flatten(0, 1))
            spaces["video"] = normalize(normalize(whole, dim=1).unflatten(0, (rows, views)).mean(dim=1), dim=1)
        if "input_ids" in batch:
            spaces["text"] = normalize(self.encoder.encode_text(batch), dim=1)
        return spaces

    @torch.no_grad()
    def classify(self, rows: Sequence[Row], class_names: Sequence[str] | None = None) -> Tensor:
        """Probabilities (N, K) of rows with a `video`, among any names; by default those of the training data.

        Raises:
            ValueError: no names at all.
            BadRow: a video that cannot be decoded.
        """
        names = self.class_names if class_names is None else tuple(class_names)
        if not names:
            raise ValueError("no class names: pass some, as in classes='running,jumping'")
        preprocess = self.preprocess()
        videos = torch.stack([preprocess({"video": row["video"]})["video"] for row in rows]).to(self.device)
        logits = self.logits(*self.watch(videos.flatten(0, 1)), self.name_features(names))  # (N * V, K)
        return logits.softmax(dim=1).unflatten(0, videos.shape[:2]).mean(dim=1).float().cpu()
