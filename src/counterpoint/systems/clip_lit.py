"""CLIP-LIT: a pair of prompts learns what backlit means, and a network brightens pictures until they look well lit."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.guiding import prompt_embeddings, prompt_features, text_tower
from counterpoint.enhancement import Alternation, Enhancement, Weights
from counterpoint.system import Stage
from counterpoint.views.photograph import Photograph

__all__ = ["CLIPLIT"]


class CLIPLIT(Enhancement):
    """Backlit photographs brightened without pairs, guided by a learnt pair of CLIP prompts (arXiv 2303.17569).

    Args:
        clip: `ClipEncoder` whose two towers compare pictures with prompts; frozen, with the original text tower.
        identity: `ClipEncoder` with a ResNet, whose features the pictures must keep; frozen.
        length: words of a prompt. It only says where the text ends: the embeddings of all places are learnt.
        prompts: two texts written by hand, for backlit and for well-lit pictures, instead of learnt ones.
        width: channels of the `IlluminationNet`.
        initial_light: what the map of light starts near; 1 leaves pictures as they are, None is the official start.
        view: what the network sees of a picture.
        guide_view: what the prompts see of it.
        alternation: lengths of the stages; its `guides` are the prompts.
        weights: factors of the losses.
        newest_first: rank the newest results above the older ones, as the official code does by its order of folders.
    """

    paper = "Iterative Prompt Learning for Unsupervised Backlit Image Enhancement (arXiv 2303.17569)"
    guide_parameters = ("prompt",)

    def __init__(
        self,
        clip: str = "open_clip:ViT-B-32/openai",
        identity: str = "open_clip:RN101/openai",
        length: int = 16,
        prompts: tuple[str, str] | None = None,
        width: int = 32,
        initial_light: float | None = None,
        view: Photograph = Photograph(512, zoom=(0.7, 1.3)),  # noqa: B008 (frozen)
        guide_view: Photograph = Photograph(256),  # noqa: B008 (frozen)
        alternation: Alternation = Alternation(),  # noqa: B008 (frozen)
        weights: Weights = Weights(),  # noqa: B008 (frozen)
        newest_first: bool = False,
    ) -> None:
        super().__init__(clip, identity, width, initial_light, view, guide_view, alternation, weights, newest_first)
        self.prompts = prompts
        if prompts is None:
            start = prompt_embeddings(self.clip, [" ".join(["X"] * length)] * 2)  # (2, context, width)
            if not 1 <= length <= start.shape[1] - 2:
                raise ValueError(f"length must lie in [1, {start.shape[1] - 2}] for {clip!r}, got {length}")
            self.prompt, self.end = nn.Parameter(start), length + 1
        else:
            tokens = {name: rows.to(self.device) for name, rows in self.clip.tokenize(prompts).items()}
            self.register_buffer("written", self.clip.encode_text(tokens).detach())

    def guides(self) -> Tensor:
        """(2, D) unit text features, the backlit prompt first."""
        if self.prompts is not None:
            written: Any = self.written
            return normalize(written, dim=1)
        return normalize(prompt_features(text_tower(self.clip), self.prompt, self.end), dim=1)

    def stages(self) -> list[Stage]:
        """Prompts, reconstruction, and rounds of enhancement and refinement of the prompts by ranking."""
        learnt = self.prompts is None
        first = [self.guide_stage("guides", self.alternation.guides)] if learnt else []
        return [*first, self.warm_up(), *self.rounds(refine=learnt)]
