# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The plan of a training: its steps and batch size, and whether they can change the model."""

import math
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging

from ..data import split_names
from ..data.parts import find_part
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel
from ..model_card.section_texts import architecture_label
from ..utils.wording import counted
from .freezing import count_parameters
from .held_out import HeldOutPairs
from .learning_rate_schedule import cosine_factor
from .options import TrainingOptions
from .pair_losses import loss_of
from .weight_averaging import share_in_average


logger = logging.get_logger(__name__)

# Fewer steps give a warning: the learning rate would have hardly risen before it falls.
_FEW_STEPS = 50
# If no weight can move by this share of the usual size of weights, the training changes nothing.
_LEAST_MOVE = 0.01
# If the average holds less than this share of what the training moved, it is worth a warning.
_LEAST_AVERAGED = 0.85


def fit_batch_size(options: TrainingOptions, accelerator: Accelerator, data: Any) -> TrainingOptions:
    """Cut the batch size to the number of pairs, with a warning, where the data are fewer.

    Args:
        options ([`TrainingOptions`]): The options of the training.
        accelerator (`Accelerator`): The accelerator of this process; a batch is shared equally by all processes.
        data: What [`load_pairs`] returned. Streams repeat, so they fill any batch.

    Raises:
        ValueError: if there are fewer pairs than processes, or a batch has only one pair and so, with the softmax
            loss, no negatives.
    """
    size, processes = options.batch_size, accelerator.num_processes
    if not options.streaming and len(data) < size:
        size = len(data) // processes * processes
    if size < 1:
        raise ValueError(f"There are {len(data)} pairs for {processes} processes; start fewer processes.")
    if size == 1 and options.loss != "sigmoid":
        raise ValueError(
            "A batch has one pair, and so no negatives: the loss would be 0, and nothing would be learned. Raise "
            "`batch_size`, or give more pairs."
        )
    if size == options.batch_size:
        return options
    if accelerator.is_main_process:
        logger.warning(f"`batch_size` is {options.batch_size} and there are {len(data)} pairs: it is cut to {size}.")
    return replace(options, batch_size=size)


def num_steps_of(options: TrainingOptions, data: Any) -> tuple[int, int]:
    """Count the steps of the training, and of an epoch; `min_steps` makes an epoch of few pairs longer."""
    pairs = options.pairs_per_epoch if options.streaming else len(data)
    if pairs is None:
        return options.max_steps, options.max_steps
    per_epoch = max(1, pairs // options.batch_size)
    if options.max_steps is None and options.min_steps is not None:
        per_epoch = max(per_epoch, math.ceil(options.min_steps / options.epochs))
    return options.max_steps or options.epochs * per_epoch, per_epoch


def check_plan(
    optimizer: torch.optim.Optimizer, num_steps: int, batch_size: int, max_steps: int | None = None
) -> None:
    """Warn if a training is too short, or its learning rate too low, to change the model.

    A step of AdamW moves a weight by about the learning rate, whose mean over the schedule is half the highest one. So
    a weight moves by at most about `learning_rate * num_steps / 2` in the whole training.
    """
    weights = [p.detach() for group in optimizer.param_groups for p in group["params"] if p.ndim >= 2]
    count = sum(weight.numel() for weight in weights)
    if not count:
        return
    size = math.sqrt(sum(weight.double().square().sum().item() for weight in weights) / count)
    rate = max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)
    move = rate * num_steps / 2
    steps = f"The training has {counted(num_steps, 'step')} of {counted(batch_size, 'pair')}"
    longer = "`min_steps`, `epochs`" if max_steps is None else "`max_steps`"
    cure = f"Raise {longer} or `learning_rate`, or lower `batch_size`."
    if move < _LEAST_MOVE * size:
        logger.warning(
            f"{steps}, in which no weight moves by more than {move:.1g}, {move / max(size, 1e-30):.1%} of their usual "
            f"size: it will leave the model nearly as it was. {cure}"
        )
    elif num_steps < _FEW_STEPS:
        logger.warning(f"{steps}; that is little time to learn. {cure}")


def averaged_share(options: TrainingOptions, num_steps: int) -> float:
    """Share of the weights' movement that their average holds at the end, see [`share_in_average`]."""
    factor = cosine_factor(options.warmup_steps_of(num_steps), num_steps)
    return share_in_average(options.ema_decay, [factor(step) for step in range(num_steps)])


def check_average(options: TrainingOptions, num_steps: int) -> None:
    """Warn if the weights' average, which is what is evaluated and saved, holds too little of the training."""
    if options.ema_decay is None:
        return
    share, warmup = averaged_share(options, num_steps), options.warmup_steps_of(num_steps)
    if share < _LEAST_AVERAGED:
        logger.warning(
            f"The average of the weights (`ema_decay` {options.ema_decay:g}) holds {share:.0%} of what "
            f"{counted(num_steps, 'step')} with {counted(warmup, 'step')} of warm-up move, "
            "and it is what is saved. Leave `ema_decay` out, warm up for fewer steps, or train longer."
        )


def describe_plan(
    options: TrainingOptions,
    model: ClipHFModel,
    num_steps: int,
    num_pairs: int | None,
    held_out: HeldOutPairs | None,
    evaluated_by: str | None = None,
) -> str:
    """Describe a training in three lines: the model, the pairs, and the steps with their learning rate.

    Args:
        options ([`TrainingOptions`]): The options of the training.
        model ([`ClipHFModel`]): The model, new or pretrained.
        num_steps (`int`): Steps of the training.
        num_pairs (`int`, *optional*): Pairs to train on; None for a stream, whose length is unknown.
        held_out ([`HeldOutPairs`], *optional*): The held-out pairs.
        evaluated_by (`str`, *optional*): What measures the model besides, where no pairs are held out.
    """
    counts = count_parameters(model)
    with_lora = options.lora_rank is not None
    # What is trained with LoRA is beside the model's parameters, with which it is merged in the end.
    own = counts.frozen if with_lora else counts.frozen + counts.trained
    size = f"{architecture_label(model.config)}, {own:,} parameters"
    if with_lora:
        size += f", all frozen, and {counts.trained:,} beside them trained: LoRA of rank {options.lora_rank}; "
        size += f"logit_scale stays {model.logit_scale.item():.3g}"
    elif counts.frozen:
        size += f", {counts.trained:,} of them trained"
    if isinstance(model, ClipHFVideoModel):
        size += f"; clips of {counted(model.config.num_frames, 'frame')}, temporal head {model.config.temporal_head}"
    what = f"Training a new model from scratch ({size}); `config` makes another, `model` starts from a trained one."
    if options.inherit_from is not None:
        what = f"Training a new model ({size}) that starts from a part of {options.inherit_from}."
    if options.model:
        what = f"Fine-tuning {options.model} ({size})."
    pairs = "a stream of pairs" if num_pairs is None else f"{num_pairs:,} pairs"
    held = held_out.summary() if held_out is not None else evaluated_by or _no_held_out(options)
    steps = f"{counted(num_steps, 'step')} of {options.batch_size:,} pairs"
    if num_pairs:
        steps += f" ({num_steps * options.batch_size / num_pairs:.3g} times through them)"
    rise = f"{counted(options.warmup_steps_of(num_steps), 'step')} of warm-up"
    if options.ema_decay is not None:
        rise += f"; the weights' average holds {averaged_share(options, num_steps):.0%} of what they move"
    teachers = ", ".join(options.teachers)
    if options.teacher_features is not None:
        teachers = f"the features in {options.teacher_features}"
    loss = _describe_loss(options, model)
    return (
        f"{what}{f' Loss: {loss}.' if loss else ''}{f' Teachers: {teachers}.' if teachers else ''}\n"
        f"Data: {pairs} from {', '.join(options.dataset)}. Held out: {held}.\n"
        f"Plan: {steps}; learning rate up to {options.learning_rate:g} after {rise}. Results: "
        f"{options.output_dir}."
    )


def _describe_loss(options: TrainingOptions, model: ClipHFModel) -> str:
    """The loss of a training in a few words; empty if it is CLIP's."""
    loss = loss_of(options.loss, model.logit_bias is not None)
    source = options.target_model if options.label_column is None else f"column {options.label_column}"
    extras = []
    if options.negative_column is not None:
        extras.append(f"hard negatives (column {options.negative_column})")
    if options.short_caption_column is not None:
        weight = f"weight {options.short_caption_weight:g}"
        extras.append(f"short captions (column {options.short_caption_column}, {weight})")
    if loss == "softmax" and not extras:
        return ""
    return f"{loss}{f' ({source})' if source else ''}{' with ' if extras else ''}{' and '.join(extras)}"


def _no_held_out(options: TrainingOptions) -> str:
    """That nothing is held out, and what to give instead; of a single source, the parts that it has besides."""
    parts = split_names(options.dataset[0], options.pair_options.media) if len(options.dataset) == 1 else ()
    others = [part for part in parts if part != find_part("train", parts)]
    split = f"`eval_split`, a part of the data ({' or '.join(f'--eval_split {part}' for part in others)}), "
    return f"none, so nothing is evaluated: give {split if others else ''}`eval_dataset` or `eval_share`"
