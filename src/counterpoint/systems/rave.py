"""RAVE: brightens pictures along the one direction that leads from backlit to well-lit ones in CLIP's space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.data import Loader, Rows
from counterpoint.encoders.guiding import vocabulary
from counterpoint.enhancement import Alternation, Enhancement, Weights
from counterpoint.losses import residual_guidance
from counterpoint.losses.residual import residual_vector, shifted, token_scores
from counterpoint.system import Stage, Term
from counterpoint.views.image import Resize
from counterpoint.views.photograph import LitPhotograph, Photograph

__all__ = ["FACTOR", "RAVE"]

FACTOR = 6.0
"""By how much the guidance of the residual counts more than that of two guides."""
_AT_ONCE = 256


class RAVE(Enhancement):
    """Backlit photographs brightened along CLIP's residual vector, without learning prompts (arXiv 2404.01889).

    Args:
        guidance: "residual" is RAVE; "latent" is CLIP-LIT-Latent, which learns two vectors in the joint space in the
            place of prompts and refines them between rounds.
        clip: `ClipEncoder` whose space has the direction; frozen. Its texts are needed for words alone.
        identity: `ClipEncoder` with a ResNet, whose features the pictures must keep; frozen.
        shift: take out of the residual what so many words on each side say; 0 keeps it. Reads the whole vocabulary.
        width: channels of the `IlluminationNet`.
        initial_light: what the map of light starts near; 1 leaves pictures as they are, None is the official start.
        view: what the network sees of a picture.
        guide_view: what the latent vectors see of it.
        alternation: lengths of the stages; "residual" has one enhancement after the reconstruction.
        weights: factors of the losses; the guidance of the residual counts 6 times as much.
    """

    paper = "RAVE: Residual Vector Embedding for CLIP-Guided Backlit Image Enhancement (arXiv 2404.01889)"
    guide_parameters = ("latents",)
    residual: Tensor
    threshold: Tensor

    def __init__(
        self,
        guidance: Literal["residual", "latent"] = "residual",
        clip: str = "open_clip:ViT-B-32/openai",
        identity: str = "open_clip:RN101/openai",
        shift: int = 0,
        width: int = 32,
        initial_light: float | None = None,
        view: Photograph = Photograph(512, zoom=(0.7, 1.3)),  # noqa: B008 (frozen)
        guide_view: Photograph = Photograph(256),  # noqa: B008 (frozen)
        alternation: Alternation = Alternation(learning_rate=5e-4),  # noqa: B008 (frozen)
        weights: Weights = Weights(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(clip, identity, width, initial_light, view, guide_view, alternation, weights)
        if shift < 0 or (shift and guidance == "latent"):
            raise ValueError(f"shift={shift} with guidance={guidance!r}: at least 0, and above it for 'residual' alone")
        self.kind_of_guidance, self.shift = guidance, shift
        if guidance == "latent":
            self.latents = nn.Parameter(torch.randn(2, self.clip.dim))
        else:
            self.register_buffer("residual", torch.zeros(self.clip.dim))
            self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def prepare(self, rows: Rows) -> dict[str, Any]:
        """The residual vector of all pictures, cut to the centre as CLIP takes them.

        Raises:
            ValueError: the rows hold one of the two kinds of pictures only.
        """
        if self.kind_of_guidance == "latent":
            return {}
        view = LitPhotograph(Resize(self.clip.size, self.clip.mean, self.clip.std))
        loader = Loader(rows, view, batch=min(_AT_ONCE, len(rows)), seed=0, shuffle=False, drop_last=False)
        found = [
            (self.clip.encode_image(batch["image"].to(self.device)), batch["welllit"]) for batch in loader.batches(0)
        ]
        embeddings, lit = torch.cat([pair[0] for pair in found]).cpu(), torch.cat([pair[1] for pair in found]) == 1
        if bool(lit.all()) or not bool(lit.any()):
            missing = "backlit" if bool(lit.all()) else "welllit"
            raise ValueError(
                f"{rows.name} has no row with source={missing!r}: the residual needs pictures of both kinds"
            )
        residual = residual_vector(embeddings[~lit], embeddings[lit])
        if self.shift:
            residual, _ = shifted(residual, self.embed_words(vocabulary(self.clip)), self.shift)
        return {"residual": residual.direction, "threshold": residual.threshold.reshape(1)}

    def use(self, facts: Mapping[str, Any]) -> None:
        """Take the residual vector."""
        if "residual" in facts:
            self.residual.copy_(facts["residual"])
            self.threshold.copy_(facts["threshold"].reshape(()))

    def guides(self) -> Tensor:
        """(2, D) unit rows of the latent variant, the backlit one first."""
        if self.kind_of_guidance != "latent":
            raise ValueError("guidance='residual' has a direction and no pair of guides: use guidance='latent'")
        return normalize(self.latents, dim=1)

    def guidance_term(self, image: Tensor) -> Term:
        """Distance from the well-lit pictures' share along the residual."""
        if self.kind_of_guidance == "latent":
            return super().guidance_term(image)
        value = residual_guidance(image, self.residual[None], threshold=self.threshold)
        return Term.mean(value, weight=FACTOR * self.weights.guidance)

    def stages(self) -> list[Stage]:
        """Reconstruction and one enhancement; the latent variant learns guides first and then alternates."""
        if self.kind_of_guidance == "latent":
            return [self.guide_stage("guides", self.alternation.guides), self.warm_up(), *self.rounds(refine=True)]
        return [self.warm_up(), self.net_stage("enhance", self.alternation.enhancement)]

    @torch.no_grad()
    def embed_words(self, words: Sequence[str]) -> Tensor:
        """(V, D) text embeddings, not normalised."""
        parts = []
        for start in range(0, len(words), _AT_ONCE):
            tokens = self.clip.tokenize(words[start : start + _AT_ONCE])
            parts.append(self.clip.encode_text({name: rows.to(self.device) for name, rows in tokens.items()}).cpu())
        return torch.cat(parts)

    def interpret(self, count: int = 15, words: Sequence[str] = ()) -> tuple[list[tuple[str, float]], ...]:
        """What the residual means: the words nearest to it (well-lit) and farthest from it (backlit), with cosines.

        Args:
            count: words on each side.
            words: to choose from; the whole vocabulary of the tokenizer by default.
        """
        chosen = list(words) or vocabulary(self.clip)
        scores = token_scores(self.embed_words(chosen), self.residual.cpu())
        order = scores.argsort(stable=True).tolist()
        ends = order[::-1][:count], order[:count]
        return tuple([(chosen[place], float(scores[place])) for place in places] for places in ends)
