"""Measures of a trained model, and `evaluate`, which runs those that the data allow."""

from counterpoint.evaluation.embedding import DEFAULT_SPACE, Skipped, embed_all, embed_rows
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.few_shot import FewShotResult, few_shot_accuracy
from counterpoint.evaluation.knn import knn_accuracy, knn_scores
from counterpoint.evaluation.linear_probe import LinearProbeResult, linear_probe
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol, list_protocols
from counterpoint.evaluation.retrieval import chance_metrics, rank_gallery, retrieval_metrics, same_group
from counterpoint.evaluation.sts import StsScores, spearman, sts_spearman
from counterpoint.evaluation.zero_shot import TEMPLATES, prompts, top_k_accuracy, zero_shot_classifier

__all__ = [
    "DEFAULT_SPACE",
    "FewShotResult",
    "LinearProbeResult",
    "Measured",
    "NotApplicable",
    "Protocol",
    "Skipped",
    "StsScores",
    "TEMPLATES",
    "chance_metrics",
    "embed_all",
    "embed_rows",
    "evaluate",
    "few_shot_accuracy",
    "knn_accuracy",
    "knn_scores",
    "linear_probe",
    "list_protocols",
    "prompts",
    "rank_gallery",
    "retrieval_metrics",
    "same_group",
    "spearman",
    "sts_spearman",
    "top_k_accuracy",
    "zero_shot_classifier",
]
