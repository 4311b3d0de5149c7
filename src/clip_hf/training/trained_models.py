# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Save trained models with their processors and cards, in folders and on the hub."""

import copy
import os
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from huggingface_hub import EvalResult
from torch import nn

from ..data.built_in_datasets import BUILT_IN_DATASETS
from ..model.configuration_clip_hf import ClipHFConfig
from ..model.configuration_clip_hf_video import ClipHFVideoConfig
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.video_processing_clip_hf import ClipHFVideoProcessor
from ..model_card.card import ModelCardDetails, write_model_card
from ..model_card.section_texts import HOME_FOLDER, architecture_label, public_name
from ..utils.atomic import replaced_folder
from ..utils.intervals import wilson_interval
from ..utils.wording import HUB_TASKS, INTERVAL, TASK_TITLES
from .distributed import restore_scalar_logit_scale
from .freezing import ParameterCounts
from .held_out import HeldOutPairs
from .low_rank import has_lora, merge_lora, save_adapter
from .options import SOFT_LOSSES, TrainingOptions
from .pair_losses import loss_of


# Within a trained model's folder: its LoRA adapter, not merged.
ADAPTER_FOLDER = "adapter"
# The options that the card shows.
# Named in every card; the other settings where they differ from their default, or belong to one that does.
_ALWAYS = ("batch_size", "learning_rate", "weight_decay", "layer_decay", "warmup_share", "loss", "label_smoothing")
_ALWAYS += ("templates", "mixed_precision", "seed")
NOT_IN_CARDS = (
    # What the card says in other words: the model, the steps, the held-out pairs.
    *("model", "config", "dataset", "epochs", "min_steps", "max_steps", "pairs_per_epoch"),
    *("eval_dataset", "eval_split", "eval_share", "eval_every", "eval_rows", "eval_with_train_captions"),
    # Places, logging, and what stops a training.
    *("output_dir", "overwrite", "resume", "trust_checkpoint", "save_every", "keep_checkpoints", "image_root"),
    *("trackers", "log_every", "push_to_hub", "max_skipped_share", "max_loss_ratio"),
    # The machine, its memory and its speed, which change no result beyond rounding.
    *("num_workers", "cache_images", "padding", "grad_cache_chunk_size", "loss_chunk_size", "gradient_checkpointing"),
    *("compile", "cpu"),
)
"""The options of a training that its card leaves out, because they change neither the data nor what is learnt."""
_NAMES_OF_PLACES = ("tokenizer", "inherit_from", "teachers", "teacher_features", "target_model")
_OF_TEACHERS = ("contrastive_weight", "distill_soft", "distill_features", "distill_interactive")


def describe_training(
    options: TrainingOptions,
    num_steps: int,
    metrics: dict[str, float],
    config: ClipHFConfig | None = None,
    num_pairs: int | None = None,
    held_out: HeldOutPairs | None = None,
    counts: ParameterCounts | None = None,
    teachers: Sequence[str] = (),
) -> ModelCardDetails:
    """Collect what a model card says about a training.

    Args:
        options ([`TrainingOptions`]): How it was trained.
        num_steps (`int`): Steps that were done.
        metrics (`dict[str, float]`): Shares from 0 to 1 on held-out pairs, by name; may be empty.
        config ([`ClipHFConfig`], *optional*): The model's configuration; the title then names its architecture.
        num_pairs (`int`, *optional*): Number of training pairs, if known.
        held_out ([`HeldOutPairs`], *optional*): What the metrics were measured on; with it they have intervals.
        counts ([`ParameterCounts`], *optional*): The trained parameters; named where others are frozen.
        teachers (`Sequence[str]`, *optional*): Names of the teachers; by default those of the options, which lack them
            where only their features are given.
    """
    settings: dict[str, object] = {"steps": num_steps, "training_pairs": num_pairs}
    if held_out is not None:
        settings["held_out_pairs"] = held_out.summary()
    settings |= _settings_of(options, config)
    if teachers:
        settings["teachers"] = list(map(public_name, teachers))
    if counts is not None and counts.frozen:
        settings["trained_parameters"] = counts.trained
    datasets = [_name_of(source) for source in options.dataset]
    return ModelCardDetails(
        title=_title(options, config, datasets),
        base_model=options.model,
        datasets=datasets,
        eval_results=_held_out_results(metrics, _name_of_held_out(options), held_out),
        training={name: value for name, value in settings.items() if value not in (None, [])},
    )


def _settings_of(options: TrainingOptions, config: ClipHFConfig | None) -> dict[str, object]:
    """The options that a card names, in their order, without paths."""
    shown = {*_ALWAYS}
    for is_given, names in (
        (options.lora_rank, ("lora_alpha", "lora_dropout", "lora_modules")),
        (options.has_teachers, _OF_TEACHERS),
        (options.loss in SOFT_LOSSES, ("target_scale",)),
        (options.short_caption_column, ("short_caption_weight",)),
        (options.patch_dropout, ("unmasked_share",)),
        (options.num_frames, ("head_learning_rate_multiplier",)),
    ):
        shown |= set(names) if is_given else set()
    settings = {}
    for option in fields(options):
        value = getattr(options, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if option.name not in NOT_IN_CARDS and (option.name in shown or value != default):
            if option.name in _NAMES_OF_PLACES:
                value = list(map(public_name, value)) if isinstance(value, list) else value and public_name(value)
            settings[option.name] = value
    if options.warmup_steps is not None:
        del settings["warmup_share"]
    if isinstance(config, ClipHFVideoConfig):
        settings["temporal_head"] = config.temporal_head
    if config is not None:
        settings["loss"] = loss_of(options.loss, config.logit_bias_init_value is not None)
    return settings


def _title(options: TrainingOptions, config: ClipHFConfig | None, datasets: list[str]) -> str:
    """Such as "vit: a CLIP with ViT/16, trained on OpenMoji", where `vit` is the training's folder."""
    name = public_name(os.path.abspath(options.output_dir))
    clip = "a video CLIP" if isinstance(config, ClipHFVideoConfig) else "a CLIP"
    kind = clip if config is None else f"{clip} with {architecture_label(config)}"
    origin = f"{public_name(options.model)} fine-tuned on" if options.model else f"{kind}, trained on"
    sources = [source.removeprefix("files: ").partition(" (")[0] for source in datasets]
    text = f"{origin} {', '.join(sources[:2])}{' and others' if len(sources) > 2 else ''}"
    return text if name == HOME_FOLDER else f"{name}: {text}"


def _name_of_held_out(options: TrainingOptions) -> str:
    """The held-out pairs of a training as its card names them."""
    part = options.eval_split or ("held out" if options.eval_share else "test")
    if options.eval_dataset:
        return public_name(options.eval_dataset) + (f" ({options.eval_split})" if options.eval_split else "")
    return f"{public_name(options.dataset[0])} ({part})"


def _held_out_results(
    metrics: dict[str, float], dataset_name: str, held_out: HeldOutPairs | None = None
) -> list[EvalResult]:
    """Figures of [`HeldOutPairs`] for a model card, in percent: `..._R@k` of retrieval, the others of zero-shot.

    With the pairs themselves each has a 95% interval, Wilson's for a share of that many images or texts: it tells of
    other images of the same kind, not of another training.
    """
    results = []
    for name, value in metrics.items():
        task = "retrieval" if "_R@" in name else "zero_shot"
        args = None
        if held_out is not None:
            args = {INTERVAL: _percent_interval(value, held_out.num_queries(name))}
        results.append(
            EvalResult(
                task_type=HUB_TASKS[task],
                task_name=TASK_TITLES[task],
                dataset_type="held-out",
                dataset_name=dataset_name,
                metric_type=name,
                metric_name=f"{name.replace('zero_shot', 'zero-shot').replace('_', ' ')} (%)",
                metric_value=round(100 * value, 2),
                metric_args=args,
            )
        )
    return results


def _percent_interval(share: float, count: int) -> list[float]:
    """The 95% interval of a share of `count`, in percent: for 0 of 10, 0 to 27.75."""
    return [round(100 * float(end), 2) for end in wilson_interval(share, count)]


def _name_of(source: str) -> str:
    """A source of pairs as the card names it; only sources on the hub may look like a hub name."""
    if source in BUILT_IN_DATASETS:
        return BUILT_IN_DATASETS[source].credit
    is_local = Path(source).exists() or any(sign in source for sign in "*{")
    name = public_name(source)
    return f"files: {name}" if is_local or name != source else source


def save_model(
    folder: Path, accelerator: Accelerator, model: nn.Module, processor: ClipHFProcessor, details: ModelCardDetails
) -> None:
    """Write a model, its processor and its card: all of them or, on an error, nothing. Every process calls it.

    Of a model with LoRA adapters it is the plain model with the adapters merged; they themselves are in the folder
    `adapter` within, see [`save_adapter`].

    Args:
        folder (`Path`): The folder to write; an existing one is replaced.
        accelerator (`Accelerator`): The accelerator of this process.
        model (`nn.Module`): The model as `accelerator.prepare` returned it.
        processor ([`ClipHFProcessor`]): The model's processor.
        details ([`ModelCardDetails`]): What the card says.
    """
    clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
    state: dict[str, torch.Tensor] = restore_scalar_logit_scale(accelerator.get_state_dict(model))
    if accelerator.is_main_process:
        state = {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}
        with replaced_folder(folder) as temporary:
            if has_lora(clip):
                save_adapter(clip, temporary / ADAPTER_FOLDER, details.base_model, processor)
                clip = merge_lora(copy.deepcopy(clip))
                state = clip.state_dict()
            clip.save_pretrained(temporary, state_dict=state)
            processor.save_pretrained(temporary)
            name = public_name(str(Path(os.path.abspath(folder)).parent))
            write_model_card(temporary, clip.config, name, details, clip.num_parameters())
    accelerator.wait_for_everyone()


def push_model(folder: Path, repo_id: str, details: ModelCardDetails) -> str:
    """Upload a saved model with its processor and card to the hub; only one process calls it.

    Args:
        folder (`Path`): The folder that [`save_model`] wrote.
        repo_id (`str`): The repo, such as `"me/my-clip"`; created if it does not exist.
        details ([`ModelCardDetails`]): What the card says.

    Returns:
        `str`: the URL of the model's commit.
    """
    processor = ClipHFProcessor.from_pretrained(folder)
    processor.push_to_hub(repo_id)
    # On the hub the repo's name is the title.
    details = replace(details, title=None, image_processor=processor.image_processor)
    is_video = isinstance(processor.image_processor, ClipHFVideoProcessor)
    model = (ClipHFVideoModel if is_video else ClipHFModel).from_pretrained(folder)
    return model.push_to_hub(repo_id, details=details)
