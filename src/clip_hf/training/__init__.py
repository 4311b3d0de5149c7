# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training: the loop, with exact gradients of any batch on any number of processes, and exact resuming."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.training", "accelerate", "datasets", "filelock", "fsspec", "pyarrow", "yaml")

from ..utils.processes import check_launch
from .distillation import store_for_training
from .distillation_loss import DistillationLoss, DistillationWeights, feature_loss, interactive_loss
from .distributed import (
    check_processes_agree,
    logit_bias_of,
    logit_scale_of,
    make_logit_scale_shardable_,
    restore_scalar_logit_scale,
    sync_batch_norm,
)
from .freezing import ParameterCounts, count_parameters, freeze
from .grad_cache import GradCache
from .held_out import HeldOutPairs
from .learning_rate_schedule import cosine_schedule
from .loop import Training, train
from .loss_guard import LossGuard, TrainingDiverged
from .low_rank import LoraOptions, add_lora, load_adapter, merge_lora, save_adapter
from .objective import ContrastiveObjective
from .optimizer import (
    OptimizerOptions,
    adamw_from_paper,
    adamw_parameter_groups,
    build_optimizer,
    clamp_logit_scale_,
)
from .options import LOG_NAME, TrainingOptions, parse_options, read_recipe
from .pair_losses import (
    PairLoss,
    SameLabelLoss,
    SigmoidLoss,
    SoftLabelLoss,
    SoftmaxLoss,
    SoftTextLoss,
    TextSetLoss,
    build_pair_loss,
)
from .planning import describe_plan, fit_batch_size
from .soft_target_loss import SoftTargets, soft_target_loss
from .stop_signal import StopSignal
from .teacher_features import StoredFeatures, store_features
from .teachers import TeacherRecord, Teachers, load_teachers
from .trained_models import describe_training, push_model, save_model
from .training_checkpoints import Checkpoints, Restored
from .training_figure import plot_training
from .training_log import TrainingLog
from .training_setup import (
    build_model,
    load_training_data,
    prepare_model,
)
from .weight_averaging import AveragedWeights


__all__ = [
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
]
