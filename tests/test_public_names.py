# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The public names are a promise: they change on purpose, each is documented, and none collides with transformers'."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers

import clip_hf


REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"

# A name that is added or removed here is added to or removed from docs/reference and CHANGELOG.md too.
PUBLIC_NAMES = {
    "clip_hf": [
        "ARCHITECTURES",
        "ClipHFConfig",
        "ClipHFForImageClassification",
        "ClipHFForVideoClassification",
        "ClipHFImageProcessor",
        "ClipHFModel",
        "ClipHFOutput",
        "ClipHFPreTrainedModel",
        "ClipHFProcessor",
        "ClipHFResNetConfig",
        "ClipHFResNetModel",
        "ClipHFTextConfig",
        "ClipHFTextEncoder",
        "ClipHFTextModel",
        "ClipHFTextModelOutput",
        "ClipHFTextModelWithProjection",
        "ClipHFTokenizer",
        "ClipHFViTConfig",
        "ClipHFViTModel",
        "ClipHFVideoConfig",
        "ClipHFVideoModel",
        "ClipHFVideoOutput",
        "ClipHFVideoProcessor",
        "ClipHFVisionModelOutput",
        "ClipHFVisionModelWithProjection",
        "ClipHFZeroShotImageClassificationPipeline",
        "ClipHFZeroShotVideoClassificationPipeline",
        "ImageLimits",
        "UnreadableImage",
        "__version__",
        "build_text_classifier",
        "contrastive_loss",
        "gather_with_grad",
        "load_prompt_set",
        "open_image",
        "pipeline",
        "prompt_set_names",
        "register",
        "same_label_loss",
        "sigmoid_loss",
    ],
    "clip_hf.adaptation": [
        "AdaptOptions",
        "AdaptationReport",
        "AdaptedSeed",
        "Change",
        "CurveOptions",
        "CurvePoint",
        "GreedySoup",
        "InterpolationCurve",
        "MeasuredParts",
        "TaskVector",
        "TrainingSize",
        "adapt",
        "add_task_vectors",
        "average_weights",
        "draw_curve",
        "greedy_soup",
        "inherit_weights",
        "interpolate_weights",
        "load_measured_parts",
        "reestimate_batch_norm_",
        "size_training",
        "stretch_context",
        "task_vector",
    ],
    "clip_hf.checkpoints": [
        "Checkpoint",
        "ConversionReport",
        "FORMATS",
        "SourceOptions",
        "TOWERS",
        "config_from_open_clip",
        "convert",
        "load",
        "read_checkpoint",
        "save",
    ],
    "clip_hf.cli": ["main"],
    "clip_hf.data": [
        "ATTRIBUTION",
        "Augmentation",
        "Duplicates",
        "ImageTextCollator",
        "ImageTextDataset",
        "ImageTextStream",
        "MixedStream",
        "OPENMOJI_TEMPLATES",
        "PairExtras",
        "PairLoader",
        "PairOptions",
        "QueryBalance",
        "REVERSED_ACTIONS",
        "SCENE_CLASSES",
        "SkipCounter",
        "SkippedRow",
        "balance_by_query",
        "caption_from_emoji_name",
        "deduplicate",
        "hold_out",
        "iter_texts",
        "load_composed_scenes",
        "load_line_drawings",
        "load_moving_drawings",
        "load_openmoji",
        "load_pairs",
        "load_placed_drawings",
        "queries_from_captions",
        "random_square_crop",
        "read_captions",
        "replaced_folder",
        "split_emoji_name",
        "split_names",
    ],
    "clip_hf.embedding": [
        "DualEncoder",
        "EmbeddedPart",
        "EmbeddingFolder",
        "EmbeddingJob",
        "EmbeddingOptions",
        "EmbeddingSummary",
        "EncodingOptions",
        "FeatureBatch",
        "JobTiming",
        "ReadableImages",
        "RowColumns",
        "VideoEncoder",
        "embed",
        "encode_image_column",
        "encode_image_stream",
        "encode_readable_images",
        "encode_text_list",
        "encode_text_stream",
        "load_dual_encoder",
        "read_embeddings",
    ],
    "clip_hf.explain": [
        "DENSE_METHODS",
        "HeadContributions",
        "ImageExplanation",
        "METHODS",
        "Segmentation",
        "TextSpan",
        "UNSEEN",
        "WordExplanation",
        "attention_twin",
        "default_method",
        "dense_features",
        "explain_image",
        "explain_words",
        "head_contributions",
        "image_maps",
        "relevance",
        "segment_image",
        "text_spans",
    ],
    "clip_hf.export": [
        "ClipHFExportedConfig",
        "ClipHFExportedModel",
        "FeatureParity",
        "MIN_COSINE",
        "ParityReport",
        "TowerSpeed",
        "export_model",
    ],
    "clip_hf.evaluation": [
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
    ],
    "clip_hf.guidance": [
        "ClipGuidance",
        "CutOuts",
        "DifferentiablePreprocessing",
        "LinearHead",
        "Reranking",
        "load_linear_head",
        "rerank",
        "score_images",
        "spherical_distance",
    ],
    "clip_hf.metrics": ["METRICS", "load", "path"],
    "clip_hf.model_card": [
        "ModelCardDetails",
        "create_model_card",
        "push_with_model_card",
        "update_model_card",
        "write_model_card",
    ],
    "clip_hf.search": [
        "ApproximateIndex",
        "DuplicateGroup",
        "DuplicateReport",
        "Effort",
        "EmbeddingIndex",
        "FilmFrame",
        "FilmRefresh",
        "FolderRefresh",
        "FoundMoment",
        "LabelScorer",
        "LabelThreshold",
        "LabelThresholds",
        "LabelledSample",
        "ModerationLabels",
        "Moment",
        "MomentSearcher",
        "NoMatch",
        "PictureTags",
        "QueryTerm",
        "Recall",
        "SearchHit",
        "SearchResults",
        "SearchStatistics",
        "Searcher",
        "SheetGroup",
        "SheetItem",
        "SourceIndex",
        "StoreSync",
        "UndoneMoves",
        "VectorStore",
        "add_tags",
        "contradiction_score",
        "contradiction_scores",
        "default_index_folder",
        "encode_query",
        "find_moments",
        "find_near_duplicates",
        "fit_threshold",
        "load_background_texts",
        "load_moderation_labels",
        "merge_moments",
        "open_source_index",
        "open_store",
        "parse_filter",
        "parse_filters",
        "parse_query",
        "read_labelled_sample",
        "read_tags",
        "refresh_film_index",
        "refresh_folder_index",
        "run_duplicates",
        "sidecar_path",
        "sync_store",
        "tag_rows",
        "undo_moves",
        "write_contact_sheet",
    ],
    "clip_hf.serving": [
        "AsyncClient",
        "BatchingOptions",
        "Client",
        "ItemError",
        "LoadedModel",
        "ServerError",
        "ServerOptions",
        "ServingLimits",
        "create_app",
        "ray_app",
        "serve",
    ],
    "clip_hf.training": [
        "AveragedWeights",
        "Checkpoints",
        "ContrastiveObjective",
        "DistillationLoss",
        "DistillationWeights",
        "GradCache",
        "HeldOutPairs",
        "LOG_NAME",
        "LoraOptions",
        "LossGuard",
        "OptimizerOptions",
        "PairLoss",
        "ParameterCounts",
        "Restored",
        "SameLabelLoss",
        "SigmoidLoss",
        "SoftLabelLoss",
        "SoftTargets",
        "SoftTextLoss",
        "SoftmaxLoss",
        "StopSignal",
        "StoredFeatures",
        "TeacherRecord",
        "Teachers",
        "TextSetLoss",
        "Training",
        "TrainingDiverged",
        "TrainingLog",
        "TrainingOptions",
        "adamw_from_paper",
        "adamw_parameter_groups",
        "add_lora",
        "build_model",
        "build_optimizer",
        "build_pair_loss",
        "check_launch",
        "check_processes_agree",
        "clamp_logit_scale_",
        "cosine_schedule",
        "count_parameters",
        "describe_plan",
        "describe_training",
        "feature_loss",
        "fit_batch_size",
        "freeze",
        "interactive_loss",
        "load_adapter",
        "load_teachers",
        "load_training_data",
        "logit_bias_of",
        "logit_scale_of",
        "make_logit_scale_shardable_",
        "merge_lora",
        "parse_options",
        "plot_training",
        "prepare_model",
        "push_model",
        "read_recipe",
        "restore_scalar_logit_scale",
        "save_adapter",
        "save_model",
        "soft_target_loss",
        "store_features",
        "store_for_training",
        "sync_batch_norm",
        "train",
    ],
    "clip_hf.video": [
        "ClipSampling",
        "UnreadableVideo",
        "VIDEO_ENDINGS",
        "VideoDescription",
        "VideoLimits",
        "cut_clip",
        "describe_video",
        "frame_times",
        "is_video",
        "read_clip",
        "read_frames",
        "scene_cuts",
    ],
}
VERSION = "clip_hf.__version__"


def public(qualified_name: str) -> object:
    """The object of a name such as `clip_hf.data.load_openmoji`."""
    module, _, name = qualified_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public_members(public_class: type) -> Iterator[tuple[str, Callable | property]]:
    """Public methods and properties that our classes define, the bases of a public class too."""
    for cls in public_class.__mro__:
        if cls.__module__.split(".")[0] != public_class.__module__.split(".")[0]:
            continue
        for name, member in vars(cls).items():
            member = getattr(member, "__func__", member)  # class and static methods
            is_public = not name.startswith("_") or name == "__call__"
            if is_public and (inspect.isfunction(member) or isinstance(member, property)):
                yield f"{cls.__name__}.{name}", member


def missing_docstrings(public_class: type) -> list[str]:
    """Public methods and properties without a docstring of their own; that of torch or transformers does not count."""
    return [name for name, member in public_members(public_class) if not (member.__doc__ or "").strip()]


def documented_parameters(item: Callable) -> list[str]:
    """The names of the `Args:` section of a docstring; an entry may name several, as in `a, b (int): Both.`"""
    section = re.search(
        r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(item.__doc__ or ""), flags=re.MULTILINE | re.DOTALL
    )
    if section is None:
        return []
    entries = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*\))?:", section[1], flags=re.MULTILINE)
    return [name.strip("*") for entry in entries for name in entry.split(", ")]


def undocumented_parameters(function: Callable) -> list[str]:
    """Parameters that the docstring does not name."""
    return [name for name in inspect.signature(function).parameters if name not in documented_parameters(function)]


def unknown_parameters(item: Callable) -> list[str]:
    """What the docstring names, but no argument can be. Where `**kwargs` are taken, any can."""
    parameters = inspect.signature(item).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [name for name in documented_parameters(item) if name not in parameters]


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_the_public_names_are_frozen(module):
    assert list(importlib.import_module(module).__all__) == PUBLIC_NAMES[module]
    assert sorted(PUBLIC_NAMES[module]) == PUBLIC_NAMES[module]


@pytest.fixture(params=PUBLIC_NAMES)
def items(request) -> dict[str, object]:
    """The public objects of each module in turn, by their qualified names."""
    names = [f"{request.param}.{name}" for name in PUBLIC_NAMES[request.param]]
    return {name: public(name) for name in names}


@pytest.fixture
def callables(items) -> dict[str, Callable]:
    return {name: item for name, item in items.items() if callable(item)}


def test_every_public_name_is_in_the_reference(items):
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))
    entries = [f"`{name}`" if name == VERSION else f"\n::: {name}\n" for name in items]
    assert [entry.strip() for entry in entries if entry not in text] == [], "docs/reference lacks them"


def test_every_public_name_has_a_docstring(callables):
    assert [name for name, item in callables.items() if not (item.__doc__ or "").strip()] == []


def test_every_public_method_has_a_docstring(callables):
    classes = [item for item in callables.values() if inspect.isclass(item)]
    assert [name for item in classes for name in missing_docstrings(item)] == []


def test_every_parameter_of_a_public_function_is_documented(callables):
    functions = {name: item for name, item in callables.items() if not inspect.isclass(item)}
    assert [(name, lacks) for name, item in functions.items() for lacks in undocumented_parameters(item)] == []


def test_every_documented_parameter_exists(callables):
    methods = {
        f"{name}: {member_name}": member
        for name, item in callables.items()
        if inspect.isclass(item)
        for member_name, member in public_members(item)
        if inspect.isfunction(member)
    }
    items = {**callables, **methods}
    assert [(name, unknown) for name, item in items.items() for unknown in unknown_parameters(item)] == []


# Of a function, which no file names: `clip_hf.pipeline` is to be found by who looks for `transformers.pipeline`.
SHARED_ON_PURPOSE = ("clip_hf.pipeline",)


def test_no_public_class_has_the_name_of_one_of_transformers(items):
    # Auto classes resolve processors and tokenizers by class name: a shared name would reload as transformers' own.
    # `clip_hf.pipeline` is called like transformers' on purpose, and is a function.
    names = [name for name in items if name not in (VERSION, *SHARED_ON_PURPOSE)]
    assert [name for name in names if hasattr(transformers, name.rpartition(".")[2])] == []


def test_the_docstring_checks_find_what_is_wrong():
    module = type(clip_hf)("made_up.module")
    source = '''
class Base:
    def inherited(self): ...
    @property
    def size(self): ...
class Public(Base):
    def _private(self): ...
    def documented(self):
        """What it does."""
    @classmethod
    def make(cls): ...
    def __call__(self): ...
def function(first, second, *, third=1, fourth=2):
    """What it does.

    Args:
        first: The first, not
            second: here.
        third, fifth (`int` (of any size), *optional*): Two at once.
        fourth (int): One.

    Returns:
        second: not a parameter.
    """
def taker(first, **kwargs):
    """What it does.

    Args:
        first: One.
        other: Taken.
        kwargs: More.
    """
'''
    exec(source, vars(module))
    assert sorted(missing_docstrings(module.Public)) == [
        "Base.inherited",
        "Base.size",
        "Public.__call__",
        "Public.make",
    ]
    assert undocumented_parameters(module.function) == ["second"]
    assert unknown_parameters(module.function) == ["fifth"]
    assert undocumented_parameters(module.taker) == unknown_parameters(module.taker) == []
