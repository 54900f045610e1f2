"""What systems share that brighten backlit pictures by a light map and a frozen CLIP: networks, stages, losses."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data import Rows
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.guiding import clip_pixels, stage_maps
from counterpoint.encoders.illumination import IlluminationNet, relight
from counterpoint.enhancement.plan import EXTENSIONS, MARGINS, Alternation, Weights
from counterpoint.losses import feature_distance, negative_probability, ranking_hinge
from counterpoint.memory.snapshots import LastValues, Snapshots
from counterpoint.stage import Stage, Term
from counterpoint.system import Batch, Features, System
from counterpoint.views.image import Resize
from counterpoint.views.photograph import LitPhotograph, Photograph, is_well_lit

__all__ = ["LOGIT_SCALE", "Enhancement", "identity_distance"]

LOGIT_SCALE = 100.0
_ROWS_AT_ONCE = 64
_WINDOW, _PSNR_WINDOW = 100, 30
_DEAD_PSNR, _DEAD_STEPS = 8.0, 100


def identity_distance(distances: Tensor, weights: Sequence[float]) -> Tensor:
    """Distances (B, 5) of pictures and stages -> sum over pictures, stages weighted; those without weight are left out.

    A sum over the batch and no mean (equation 4): a larger batch holds pictures more firmly.
    """
    return (distances[:, : len(weights)] @ distances.new_tensor(weights)).sum()


class Enhancement(System):
    """The part of CLIP-LIT and its successors that does not depend on what the guides are.

    A subclass gives `guides()` (2, D), unit rows, the first for backlit pictures, or its own `guidance_term`.
    Sums over pictures in the identity loss are over the batch of all processes, as the paper's are over its batch.

    Args:
        clip: `ClipEncoder` that judges; frozen.
        identity: `ClipEncoder` with a ResNet, whose features pictures must keep; frozen.
        width, initial_light: of the `IlluminationNet`.
        view, guide_view: what network and guides see of a picture.
        alternation, weights: lengths of the stages, factors of the losses.
        newest_first: the official code's order of the two results in the ranking, which is the reverse of the sensible
            one.
    """

    needs = ("image", "source")
    modality = "image enhancement"
    guide_parameters: ClassVar[tuple[str, ...]] = ()
    restarts: Tensor

    def __init__(
        self,
        clip: str,
        identity: str,
        width: int,
        initial_light: float | None,
        view: Photograph,
        guide_view: Photograph,
        alternation: Alternation,
        weights: Weights,
        newest_first: bool = False,
    ) -> None:
        super().__init__()
        self.clip = ClipEncoder(clip, trainable="none")
        self.identity = ClipEncoder(identity, trainable="none")
        self.net = IlluminationNet(width, initial_light)
        self.view, self.guide_view = view, guide_view
        self.alternation, self.weights, self.newest_first = alternation, weights, newest_first
        self.snapshots = Snapshots(self.net)
        self.recent, self.recent_psnr = LastValues(_WINDOW), LastValues(_PSNR_WINDOW)
        self.register_buffer("restarts", torch.zeros((), dtype=torch.int64))

    def views(self) -> LitPhotograph:
        """What the network sees."""
        return LitPhotograph(self.view)

    def guide_views(self) -> LitPhotograph:
        """What the guides see."""
        return LitPhotograph(self.guide_view)

    def preprocess(self) -> Resize:
        """The whole picture as a square, in [0, 1]."""
        return Resize(self.view.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop="squash", bicubic=False)

    # What a picture becomes.

    @torch.no_grad()
    def enhance(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], of any resolution, -> the same, brightened."""
        images = images.to(self.device)
        return relight(images, self.net(images, reflect=True))

    def judged(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> unit features (B, D) of the frozen CLIP; differentiable."""
        return normalize(self.clip.encode_image(clip_pixels(images, self.clip)), dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D): how CLIP sees the enhanced picture."""
        return self.judged(self.enhance(batch["image"]))

    # What a stage computes for every row.

    def encode_pictures(self, batch: Batch) -> Features:
        """Unit features `image` (B, D) and `welllit` (B,)."""
        with torch.no_grad():
            return {"image": self.judged(batch["image"]), "welllit": batch["welllit"]}

    def encode_changes(self, batch: Batch) -> Features:
        """What the network did: `distance` (B, 5) from the original's stages, `error` (B,), mean of the squares."""
        return self._changes(batch["image"])[1]

    def encode(self, batch: Batch) -> Features:
        """As `encode_changes`, and of the enhanced picture `image` (B, D)."""
        enhanced, features = self._changes(batch["image"])
        return {"image": self.judged(enhanced), **features}

    def _changes(self, original: Tensor) -> tuple[Tensor, Features]:
        """Pictures (B, 3, H, W) -> what they become, and how far that is from them."""
        enhanced = relight(original, self.net(original))
        with torch.no_grad():
            wanted = stage_maps(self.identity, clip_pixels(original, self.identity))
        found = stage_maps(self.identity, clip_pixels(enhanced, self.identity))
        pairs = zip(found, wanted, strict=True)
        return enhanced, {
            "distance": torch.stack([feature_distance(edited, kept) for edited, kept in pairs], dim=1),
            "error": feature_distance(enhanced.detach(), original),
        }

    @torch.no_grad()
    def encode_results(self, batch: Batch) -> Features:
        """As `encode_pictures`, and `result0`, `result1` (B, D): backlit pictures enhanced by earlier networks."""
        features, backlit = self.encode_pictures(batch), batch["welllit"] == 0
        for place, network in enumerate(self.snapshots.results()):
            result = torch.zeros_like(features["image"])
            # Perhaps none; with `shard` every process calls its encoders equally often.
            images = batch["image"][backlit]
            result[backlit] = self.judged(relight(images, network(images)))
            features[f"result{place}"] = result
        return features

    # Losses.

    @abstractmethod
    def guides(self) -> Tensor:
        """(2, D) unit rows: what backlit and well-lit pictures are near to."""

    def contrast(self, features: Features) -> dict[str, Tensor | Term]:
        """The guides tell backlit from well-lit pictures."""
        logits = LOGIT_SCALE * features["image"] @ self.guides().T
        return {"contrast": Term.mean(cross_entropy(logits, features["welllit"]), guess=math.log(2))}

    def guidance_term(self, image: Tensor) -> Term:
        """What draws enhanced pictures (B, D) away from the backlit guide, which stays where it is."""
        with torch.no_grad():
            guides = self.guides()
        negative = negative_probability(image, guides, logit_scale=LOGIT_SCALE)
        return Term.mean(negative.mean(), guess=0.5, weight=self.weights.guidance)

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Guidance, and the distance of the stages, summed over pictures."""
        distance = identity_distance(features["distance"], self.weights.stages)
        return {
            "guidance": self.guidance_term(features["image"]),
            "identity": Term.mean(distance, weight=self.weights.identity),
        }

    def reconstruction(self, features: Features) -> dict[str, Tensor | Term]:
        """The distance of all stages alike."""
        return {"identity": Term.mean(features["distance"].sum(), weight=self.weights.reconstruction)}

    def ranking(self, features: Features) -> dict[str, Tensor | Term]:
        """Backlit pictures above their results, and these, oldest first, above well-lit pictures.

        Every backlit picture meets every well-lit one of the batch, where the paper draws one. A batch without one of
        the two teaches nothing.
        """
        names = [name for name in ("result0", "result1") if name in features]
        names = names[::-1] if self.newest_first else names
        scored = torch.stack([features[name] for name in ("image", *names)], dim=1)  # (B, 1 + results, D)
        found = negative_probability(scored.flatten(0, 1), self.guides(), logit_scale=LOGIT_SCALE)
        rows = found.unflatten(0, scored.shape[:2])  # (B, 1 + results)
        lit = features["welllit"] == 1
        backlit, well_lit = rows[~lit], rows[lit, 0]
        large, small = MARGINS[len(names)]
        guess = large * (2 if names else 1) + small * len(names)
        if not len(backlit) or not len(well_lit):
            return {"ranking": Term.mean(rows.sum() * 0.0, guess=guess, weight=self.weights.ranking)}
        every = backlit.repeat_interleave(len(well_lit), dim=0), well_lit.repeat(len(backlit))[:, None]
        value = ranking_hinge(torch.cat(every, dim=1), large=large, small=small)  # of (pairs, 2 + results)
        return {"ranking": Term.mean(value, guess=guess, weight=self.weights.ranking)}

    # Stages.

    def guide_stage(self, name: str, steps: int, *, refine: bool = False) -> Stage:
        """A stage that trains the guides: contrast first, ranking later."""
        plan = self.alternation
        return Stage(
            name,
            steps=steps + EXTENSIONS["guides"][0] * plan.extensions,
            train=self.guide_parameters,
            encode="encode_results" if refine else "encode_pictures",
            loss="ranking" if refine else "contrast",
            views="guide_views",
            batch=plan.batch,
            optimiser={"learning_rate": plan.learning_rate},
            state="guides",
            until="stage_is_over",
        )

    def net_stage(self, name: str, steps: int | None, *, loss: str = "loss") -> Stage:
        """A stage that trains the network on backlit pictures."""
        block = EXTENSIONS["enhance"][0] if loss == "loss" else _DEAD_STEPS
        return Stage(
            name,
            steps=None if steps is None else steps + block * self.alternation.extensions,
            train=("net",),
            encode="encode" if loss == "loss" else "encode_changes",
            loss=loss,
            sources=("backlit",),
            state="net",
            until="stage_is_over",
        )

    def warm_up(self) -> Stage:
        """The network learns to leave pictures as they are."""
        return self.net_stage("reconstruction", self.alternation.reconstruction, loss="reconstruction")

    def rounds(self, *, refine: bool) -> list[Stage]:
        """Enhancement and, if wanted, refinement of the guides in turn."""
        plan, found = self.alternation, []
        for number in range(1, plan.rounds + 1):
            found.append(self.net_stage(f"enhance{number}", plan.enhancement))
            if refine and plan.refinement:
                found.append(self.guide_stage(f"refine{number}", plan.refinement, refine=True))
        return found

    def stage_is_over(self) -> bool:
        """After the planned steps: guides and network go on while the loss is high, reconstruction once a restart."""
        plan, step, kind = self.alternation, self.clock.step, self._kind
        if kind == "reconstruction":
            return step >= plan.reconstruction + _DEAD_STEPS * int(self.restarts)
        planned = {"guides": plan.guides, "refine": plan.refinement, "enhance": plan.enhancement}[kind]
        block, limit = EXTENSIONS["enhance" if kind == "enhance" else "guides"]
        if planned is None or step < planned or (step - planned) % block:
            return False
        return not plan.extensions or self.recent.mean(1) <= limit

    @property
    def _kind(self) -> str:
        """The stage without its number."""
        return self.clock.stage.rstrip("0123456789")

    def before_step(self) -> None:
        """A network whose map is 0 nearly everywhere gets no gradient: draw it anew."""
        if self._kind != "reconstruction" or not int(self.recent_psnr.seen) or self.clock.step % _DEAD_STEPS:
            return
        if self.recent_psnr.mean() < _DEAD_PSNR and int(self.restarts) < self.alternation.extensions:
            self.net.reset()
            self.restarts += 1

    def after_step(self, features: Features) -> None:
        """Remember the loss, and the network where the mean of its last 100 losses is the lowest of its round."""
        kind = self._kind
        if self.clock.step == 0:
            self.recent.reset()
            if kind == "enhance":
                self.snapshots.begin_round()
        if kind == "reconstruction":
            self.recent_psnr.push(-10 * features["error"].clamp(min=1e-10).log10().mean())
        elif kind == "enhance" or self.alternation.extensions:
            loss = {"guides": self.contrast, "refine": self.ranking, "enhance": self.loss}[kind]
            terms = [term for term in loss(features).values() if isinstance(term, Term)]
            self.recent.push(torch.stack([term.weight * term.total for term in terms]).sum())
        window = min(_WINDOW, self.clock.total_steps)
        if kind == "enhance" and int(self.recent.seen) >= window:
            self.snapshots.offer(self.net, self.recent.mean(window))

    def measure_guide_accuracy(self, rows: Rows, *, seed: int = 0) -> float:
        """Share of the rows whose `source` the nearer guide tells, in [0, 1]; `seed` is not used."""
        view, right = self.preprocess(), 0.0
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows.select(range(start, min(start + _ROWS_AT_ONCE, len(rows))))
            with torch.no_grad():
                images = torch.stack([view(row)["image"] for row in some]).to(self.device)
                nearer = (self.judged(images) @ self.guides().T).argmax(dim=1).tolist()
            right += sum(int(guide) == is_well_lit(row) for guide, row in zip(nearer, some, strict=True))
        return right / len(rows)
