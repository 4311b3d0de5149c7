# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a training leaves: models with their processors and cards, in folders and on the hub."""

from pathlib import Path

import torch
from accelerate import Accelerator
from huggingface_hub import EvalResult
from torch import nn

from ..atomic import replaced_folder
from ..model_card import ModelCardDetails, write_model_card
from ..modeling_clip_hf import ClipHFModel
from ..processing_clip_hf import ClipHFProcessor
from .distributed import scalar_logit_scale
from .options import TrainingOptions


# Settings that say how a model was trained, as the card shows them.
_CARD_SETTINGS = (
    "batch_size",
    "learning_rate",
    "weight_decay",
    "layer_decay",
    "warmup_steps",
    "warmup_share",
    "loss",
    "label_smoothing",
    "freeze",
    "templates",
    "ema_decay",
    "mixed_precision",
    "seed",
)


def describe_training(options: TrainingOptions, num_steps: int, metrics: dict[str, float]) -> ModelCardDetails:
    """
    What a model card says of a training.

    Args:
        options ([`TrainingOptions`]):
            How it was trained.
        num_steps (`int`):
            Steps that were done.
        metrics (`dict[str, float]`):
            Percentages on held-out pairs, by name; may be empty.
    """
    settings = {"steps": num_steps, **{name: getattr(options, name) for name in _CARD_SETTINGS}}
    part = options.eval_split or ("held out" if options.eval_share else "test")
    held_out = options.eval_dataset or f"{options.dataset[0]} ({part})"
    results = [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type="held-out",
            dataset_name=held_out,
            metric_type=name,
            metric_value=round(value, 2),
        )
        for name, value in metrics.items()
    ]
    return ModelCardDetails(
        base_model=options.model,
        datasets=[_name_of(source) for source in options.dataset],
        eval_results=results,
        training={name: value for name, value in settings.items() if value not in (None, [])},
    )


def _name_of(source: str) -> str:
    """A source as the card names it; only what is on the hub may look like a name on the hub."""
    if source == "openmoji":
        return "OpenMoji (openmoji.org, CC BY-SA 4.0)"
    is_local = Path(source).exists() or any(sign in source for sign in "*{")
    return f"files: {source}" if is_local else source


def save_model(
    folder: Path, accelerator: Accelerator, model: nn.Module, processor: ClipHFProcessor, details: ModelCardDetails
) -> None:
    """
    Write a model, its processor and its card, all of them or, if this stops half-way, nothing; every process calls it.

    Args:
        folder (`Path`):
            Where to; what is there is replaced.
        accelerator (`Accelerator`):
            Of this process.
        model (`nn.Module`):
            As `accelerator.prepare` returned it.
        processor ([`ClipHFProcessor`]):
            Of the model.
        details ([`ModelCardDetails`]):
            For the card.
    """
    clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
    state: dict[str, torch.Tensor] = scalar_logit_scale(accelerator.get_state_dict(model))
    if accelerator.is_main_process:
        state = {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}
        with replaced_folder(folder) as temporary:
            clip.save_pretrained(temporary, state_dict=state)
            processor.save_pretrained(temporary)
            write_model_card(temporary, clip.config, folder.name, details, clip.num_parameters())
    accelerator.wait_for_everyone()


def push_model(folder: Path, repo_id: str, details: ModelCardDetails) -> str:
    """
    Upload a saved model with its processor and card to the hub; on one process.

    Args:
        folder (`Path`):
            Where [`save_model`] wrote it.
        repo_id (`str`):
            The repo, such as `"me/my-clip"`; made if need be.
        details ([`ModelCardDetails`]):
            For the card.

    Returns:
        `str`: the URL of the model's commit.
    """
    ClipHFProcessor.from_pretrained(folder).push_to_hub(repo_id)
    return ClipHFModel.from_pretrained(folder).push_to_hub(repo_id, details=details)


__all__ = ["describe_training", "push_model", "save_model"]
