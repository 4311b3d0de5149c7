# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The models that can be exported, and what an export must know of them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from ..utils.fingerprints import find_overrides
from .exported_model import ClipHFExportedConfig
from .towers import WITH_PROJECTION


# Whether padding changes features, by model type. A text with padding on the right has the features of the text alone
# in CLIP, whose attention is causal; SigLIP was trained with padding to full length.
_FIXED_LENGTH = {"clip_hf": False, "clip": False, "siglip": True}


def describe_model(model: PreTrainedModel, processor: Any, runtime: str, precision: str) -> ClipHFExportedConfig:
    """The configuration of a model's export.

    Raises:
        ValueError: if the model is of a type that cannot be exported, or is changed in a way that an export lacks.
        TypeError: if the processor lacks a part.
    """
    check_exportable(model)
    config, model_type = model.config, model.config.model_type
    if not all(hasattr(processor, part) for part in ("image_processor", "tokenizer", "save_pretrained")):
        raise TypeError(
            f"`processor` is {type(processor).__name__}; it must be the model's processor, with `image_processor` and "
            "`tokenizer`: export_model(model, folder, processor=processor)."
        )
    if _FIXED_LENGTH[model_type] and "attention_mask" in getattr(processor.tokenizer, "model_input_names", ()):
        raise ValueError(
            f"The tokenizer gives an `attention_mask`, which hides the padding that an exported {model_type} sees. "
            'Load it with `from_pretrained(..., model_input_names=["input_ids"])`, as tokenizers of SigLIP are made.'
        )
    bias = getattr(model, "logit_bias", None)
    width = getattr(config, "projection_dim", None) or config.text_config.projection_size
    return ClipHFExportedConfig(
        tower_format=runtime,
        precision=precision,
        projection_dim=width,
        image_size=config.vision_config.image_size,
        # Of the model alone: a tokenizer that cuts earlier still does where the export is used.
        context_length=config.text_config.max_position_embeddings,
        fixed_length=_FIXED_LENGTH[model_type],
        has_projection=model_type in WITH_PROJECTION,
        logit_scale=model.logit_scale.item(),
        logit_bias=None if bias is None else bias.item(),
        source_config=config.to_dict(),
        architectures=["ClipHFExportedModel"],
    )


def check_exportable(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: if the model is of a type that cannot be exported, or an export of it would fail, or would not tell
            it from the model of the same weights.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type == ClipHFExportedConfig.model_type:
        raise ValueError(f"{model.name_or_path} is exported already: name the model that it was made of.")
    if model_type == "clip_hf_video":
        raise ValueError(
            "Video models cannot be exported, because only PyTorch runs their temporal heads: export the CLIP that it "
            "was made of, or run it as it is."
        )
    if model_type not in _FIXED_LENGTH:
        raise ValueError(
            f"{type(model).__name__} is of the type {model_type!r}; models of the types {', '.join(_FIXED_LENGTH)} "
            "can be exported."
        )
    missing = [name for name, weight in model.named_parameters() if weight.is_meta]
    if missing:
        raise ValueError(
            f"{len(missing)} weights, such as {missing[0]}, are not in memory (offloaded, or on the meta device): "
            "load the whole model to the CPU."
        )
    is_quantised = any(not weight.is_floating_point() for weight in model.parameters())
    is_quantised = is_quantised or any(type(module).__module__.startswith("torch.ao.") for module in model.modules())
    if is_quantised or getattr(model.config, "quantization_config", None) is not None:
        raise ValueError('The model is quantised: export the model that it was made of, with precision="int8".')
    vision = model.config.vision_config
    if not isinstance(vision.image_size, int) or getattr(vision, "num_channels", 3) != 3:
        raise ValueError(
            f"The model takes images of size {vision.image_size} with {getattr(vision, 'num_channels', 3)} channels; "
            "models of square images with 3 channels can be exported."
        )
    overrides = find_overrides(model)
    if overrides:
        path, kind, function = overrides[0]
        raise ValueError(
            f"The module {path or 'model'!r} has hooks or a `forward` of its own ({kind} {function}), which an export "
            "would not show: remove them, or merge what they do into the weights, before the model is exported."
        )


@contextmanager
def as_exportable(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode, until the block ends; a copy of it, if it is not in float32 on the CPU."""
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in model.parameters()):
        model = copy.deepcopy(model).to("cpu", torch.float32)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
