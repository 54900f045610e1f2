"""Contrastive losses: pure functions of tensors, without modules, state, random draws or communication."""

from counterpoint.losses.attribute_alignment import attribute_alignment
from counterpoint.losses.centres import centre_focal_error
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
from counterpoint.losses.masked_frames import code_diversity, masked_contrast, masked_prediction
from counterpoint.losses.nt_xent import nt_xent
from counterpoint.losses.ordinal_contrast import supremix_loss
from counterpoint.losses.ranking import ranking_hinge
from counterpoint.losses.rendering import (
    eikonal_error,
    free_space_error,
    near_surface_error,
    opacity_from_samples,
    opacity_from_slopes,
    ray_weights,
    rendered_error,
)
from counterpoint.losses.segment_contrast import foreground_contrast, geometric_contrast
from counterpoint.losses.segmentation import box_region_loss, pixel_cross_entropy
from counterpoint.losses.siglip import siglip_loss
from counterpoint.losses.sinkhorn import sinkhorn, swapped_prediction
from counterpoint.losses.supervised_contrastive import supervised_contrastive

__all__ = [
    "attribute_alignment",
    "box_region_loss",
    "centre_focal_error",
    "clip_loss",
    "code_diversity",
    "eikonal_error",
    "feature_distance",
    "foreground_contrast",
    "free_space_error",
    "geometric_contrast",
    "info_nce",
    "joint_entropy",
    "late_interaction",
    "late_interaction_directions",
    "late_interaction_similarity",
    "masked_contrast",
    "masked_prediction",
    "moco_loss",
    "near_surface_error",
    "negative_probability",
    "nt_xent",
    "opacity_from_samples",
    "opacity_from_slopes",
    "pixel_cross_entropy",
    "ranking_hinge",
    "ray_weights",
    "rendered_error",
    "residual_guidance",
    "siglip_loss",
    "sinkhorn",
    "supervised_contrastive",
    "supremix_loss",
    "swapped_prediction",
]
