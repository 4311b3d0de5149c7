# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's evaluations (Radford et al. 2021, section 3) for any CLIP of the Hugging Face world."""

from ..utils.extras import require_extra


require_extra("eval", "clip_hf.evaluation", "accelerate", "datasets", "filelock", "fsspec", "pyarrow")

from .comparison import Comparison, compare_results, load_results
from .example_figures import plot_predictions, plot_similarities
from .numerics.bootstrap import bootstrap_interval, bootstrap_mean_interval
from .numerics.caption_scores import clip_score, ref_clip_score
from .numerics.feature_heads import HEAD_METHODS, fit_head
from .numerics.head_fitting import FeatureHead
from .numerics.logistic_regression import LinearClassifier, LogisticRegressionOptions, fit_logistic_regression
from .numerics.metrics import (
    CLASSIFICATION_METRICS,
    LogitLine,
    average_precision_11point,
    best_target_ranks,
    confusion_matrix,
    effective_robustness,
    fit_logit_line,
    map_11point,
    mean_per_class_accuracy,
    median_rank,
    per_class_accuracy,
    recall_at_k,
    roc_auc,
    target_ranks,
    top1_top5_mean,
    top_k_accuracy,
)
from .numerics.moment_metrics import first_moment_iou, interval_iou, moment_average_precisions
from .numerics.ranking import RetrievalRanks, caption_ids, retrieval_ranks
from .registry.dataset_registry import RegistryEntry, dataset_names, get_dataset, load_class_names, load_templates
from .registry.evaluation_data import (
    CaptionedDataOptions,
    ClassificationData,
    ClassificationOptions,
    RetrievalData,
    load_classification,
    load_retrieval,
    load_retrieval_splits,
    load_splits,
)
from .registry.located_data import LocatedData, load_located
from .registry.moment_data import MomentData, load_moments
from .suite import TASKS, SuiteOptions, run_suite
from .tasks.adapter_heads import AdapterOptions, AdapterResult, compare_heads, evaluate_adapters
from .tasks.bias import LabelProbeOptions, compare_label_sets, evaluate_label_probe, label_probe
from .tasks.bias_results import LabelProbeResult, LabelSetComparison
from .tasks.evaluation_result import EvaluationResult
from .tasks.evaluation_task import EvaluationTask, TaskSettings
from .tasks.explanation import ExplanationOptions, ExplanationResult, evaluate_explanation
from .tasks.faithfulness import (
    MEANINGLESS_MAPS,
    MapCurve,
    MapMeasure,
    RandomWeightsCheck,
    choice_game,
    deletion_curve,
    insertion_curve,
    pointing_game,
    probability_score,
    random_weights_check,
)
from .tasks.few_shot import FewShotOptions, FewShotResult, evaluate_few_shot, few_shot
from .tasks.imagenet_shifts import baseline_accuracies, shift_names, subset_classes, subset_rows, subset_scores
from .tasks.linear_probe import (
    LinearProbeOptions,
    LinearProbeResult,
    evaluate_linear_probe,
    linear_probe,
    split_validation,
)
from .tasks.moment_retrieval import MomentOptions, MomentResult, evaluate_moments
from .tasks.retrieval import RetrievalOptions, RetrievalResult, evaluate_retrieval
from .tasks.robustness import (
    AdaptationResult,
    RobustnessOptions,
    RobustnessResult,
    ShiftResult,
    compare_adaptation,
    compare_under_shift,
    evaluate_robustness,
)
from .tasks.scaling import ScalingResult, fit_scaling
from .tasks.segmentation import SegmentationOptions, SegmentationResult, evaluate_segmentation
from .tasks.zero_shot import ZeroShotOptions, ZeroShotResult, class_embeddings, evaluate_zero_shot


__all__ = [
    "AdaptationResult",
    "AdapterOptions",
    "AdapterResult",
    "CLASSIFICATION_METRICS",
    "CaptionedDataOptions",
    "ClassificationData",
    "ClassificationOptions",
    "Comparison",
    "EvaluationResult",
    "EvaluationTask",
    "ExplanationOptions",
    "ExplanationResult",
    "FeatureHead",
    "FewShotOptions",
    "FewShotResult",
    "HEAD_METHODS",
    "LabelProbeOptions",
    "LabelProbeResult",
    "LabelSetComparison",
    "LinearClassifier",
    "LinearProbeOptions",
    "LinearProbeResult",
    "LocatedData",
    "LogisticRegressionOptions",
    "LogitLine",
    "MEANINGLESS_MAPS",
    "MapCurve",
    "MapMeasure",
    "MomentData",
    "MomentOptions",
    "MomentResult",
    "RandomWeightsCheck",
    "RegistryEntry",
    "RetrievalData",
    "RetrievalOptions",
    "RetrievalRanks",
    "RetrievalResult",
    "RobustnessOptions",
    "RobustnessResult",
    "ScalingResult",
    "SegmentationOptions",
    "SegmentationResult",
    "ShiftResult",
    "SuiteOptions",
    "TASKS",
    "TaskSettings",
    "ZeroShotOptions",
    "ZeroShotResult",
    "average_precision_11point",
    "baseline_accuracies",
    "best_target_ranks",
    "bootstrap_interval",
    "bootstrap_mean_interval",
    "caption_ids",
    "choice_game",
    "class_embeddings",
    "clip_score",
    "compare_adaptation",
    "compare_heads",
    "compare_label_sets",
    "compare_results",
    "compare_under_shift",
    "confusion_matrix",
    "dataset_names",
    "deletion_curve",
    "effective_robustness",
    "evaluate_adapters",
    "evaluate_explanation",
    "evaluate_few_shot",
    "evaluate_label_probe",
    "evaluate_linear_probe",
    "evaluate_moments",
    "evaluate_retrieval",
    "evaluate_robustness",
    "evaluate_segmentation",
    "evaluate_zero_shot",
    "few_shot",
    "first_moment_iou",
    "fit_head",
    "fit_logistic_regression",
    "fit_logit_line",
    "fit_scaling",
    "get_dataset",
    "insertion_curve",
    "interval_iou",
    "label_probe",
    "linear_probe",
    "load_class_names",
    "load_classification",
    "load_located",
    "load_moments",
    "load_results",
    "load_retrieval",
    "load_retrieval_splits",
    "load_splits",
    "load_templates",
    "map_11point",
    "mean_per_class_accuracy",
    "median_rank",
    "moment_average_precisions",
    "per_class_accuracy",
    "plot_predictions",
    "plot_similarities",
    "pointing_game",
    "probability_score",
    "random_weights_check",
    "recall_at_k",
    "ref_clip_score",
    "retrieval_ranks",
    "roc_auc",
    "run_suite",
    "shift_names",
    "split_validation",
    "subset_classes",
    "subset_rows",
    "subset_scores",
    "target_ranks",
    "top1_top5_mean",
    "top_k_accuracy",
]
