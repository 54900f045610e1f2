"""Contrastive losses: pure functions of tensors, without modules, state, random draws or communication."""

from counterpoint.losses.clip import clip_loss
from counterpoint.losses.info_nce import info_nce, moco_loss
from counterpoint.losses.late_interaction import (
    late_interaction,
    late_interaction_directions,
    late_interaction_similarity,
)
from counterpoint.losses.nt_xent import nt_xent
from counterpoint.losses.siglip import siglip_loss
from counterpoint.losses.sinkhorn import sinkhorn, swapped_prediction
from counterpoint.losses.supervised_contrastive import supervised_contrastive

__all__ = [
    "clip_loss",
    "info_nce",
    "late_interaction",
    "late_interaction_directions",
    "late_interaction_similarity",
    "moco_loss",
    "nt_xent",
    "siglip_loss",
    "sinkhorn",
    "supervised_contrastive",
    "swapped_prediction",
]
