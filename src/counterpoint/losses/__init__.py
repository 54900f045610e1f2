"""Contrastive losses: pure functions of tensors, without modules, state, random draws or communication."""

from counterpoint.losses.attribute_alignment import attribute_alignment
from counterpoint.losses.clip import clip_loss
from counterpoint.losses.feature_distance import feature_distance
from counterpoint.losses.guidance import negative_probability, residual_guidance
from counterpoint.losses.info_nce import info_nce, moco_loss
from counterpoint.losses.joint_entropy import joint_entropy
from counterpoint.losses.late_interaction import (
    late_interaction,
    late_interaction_directions,
    late_interaction_similarity,
)
from counterpoint.losses.nt_xent import nt_xent
from counterpoint.losses.ranking import ranking_hinge
from counterpoint.losses.segmentation import box_region_loss, pixel_cross_entropy
from counterpoint.losses.siglip import siglip_loss
from counterpoint.losses.sinkhorn import sinkhorn, swapped_prediction
from counterpoint.losses.supervised_contrastive import supervised_contrastive

__all__ = [
    "attribute_alignment",
    "box_region_loss",
    "clip_loss",
    "feature_distance",
    "info_nce",
    "joint_entropy",
    "late_interaction",
    "late_interaction_directions",
    "late_interaction_similarity",
    "moco_loss",
    "negative_probability",
    "nt_xent",
    "pixel_cross_entropy",
    "ranking_hinge",
    "residual_guidance",
    "siglip_loss",
    "sinkhorn",
    "supervised_contrastive",
    "swapped_prediction",
]
