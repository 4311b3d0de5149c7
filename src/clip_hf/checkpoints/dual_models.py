# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Load a dual encoder of any format by name or path, as a model for PyTorch with its processor."""

import os
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel

from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..utils.hub import check_hub
from ..utils.wording import listed
from .paths import check_exists, describe_not_found
from .reading import is_foreign, lacks_config
from .saving import load


# Those that run as a model of ours, with OpenAI's pixels and tokens.
_CLIP_TYPES = {"clip": ClipHFModel, "clip_hf": ClipHFModel, "clip_hf_video": ClipHFVideoModel}


def load_dual_model(
    name: str | os.PathLike, dtype: torch.dtype | str = torch.float32, processor: Any = None
) -> tuple[PreTrainedModel, Any]:
    """Load both towers of a model by name or path: all that [`load`] reads and transformers' CLIP as a
    [`ClipHFModel`]; those for films as a [`ClipHFVideoModel`]; others of transformers as transformers runs them.

    Args:
        name (`str` or `os.PathLike`): The folder, file or name on the hub.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`): What floating weights are converted
            to.
        processor (*optional*): The processor to use in place of the model's own, which is then not read.

    Returns:
        The model, in evaluation mode on the CPU, and its processor, with `image_processor` and `tokenizer`.

    Raises:
        ValueError: if it is no dual encoder, lacks weights or a part of its processor, or cannot be read exactly.
        OSError: if there is no such file, folder or model, with what to do offline.
    """
    name = os.fspath(name)
    if is_foreign(name) or lacks_config(name):
        model, its_processor = load(name, dtype=dtype)
        return model, _check_processor(name, its_processor) if processor is None else processor
    model_class, processor_class = _CLIP_TYPES.get(_read_model_type(name)), ClipHFProcessor
    if model_class is None:
        _check_is_dual(name)
        model_class, processor_class = AutoModel, AutoProcessor
    model, info = model_class.from_pretrained(name, dtype=dtype, output_loading_info=True)
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ValueError(
            f"{name} lacks {len(missing)} of the model's weights ({listed(missing, 4)}): random ones would take their "
            "place. Both towers with their projections are needed."
        )
    # After the model, which says of a classifier that it is one; it has no tokenizer either.
    return model, processor_class.from_pretrained(name) if processor is None else processor


def read_config(name: str | os.PathLike, **location: Any) -> dict[str, Any]:
    """The content of a model's config.json.

    Raises:
        ValueError: if it is no object of JSON.
        OSError: if there is none, or it is no JSON at all.
        HFValidationError: if `name` is neither a path nor possible on the hub.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, **location)
    except TypeError:  # transformers', of `null`
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"The config.json of {name} holds no object of JSON. Copy or download it again.")
    return config


def _check_processor(name: str, processor: Any) -> Any:
    if not all(hasattr(processor, part) for part in ("tokenizer", "image_processor")):
        raise ValueError(
            f"{name} does not say how images and texts are prepared. Load it with `clip_hf.checkpoints.load`, whose "
            "options `preprocess` and `merges` say it, and pass model and processor."
        )
    return processor


def _read_model_type(name: str) -> str | None:
    check_exists(name)
    is_here = os.path.exists(name)
    try:
        if not is_here:
            check_hub(name)
        return read_config(name).get("model_type")
    except (OSError, HFValidationError) as error:
        if is_here:
            raise
        raise OSError(describe_not_found(name, error)) from error


def _check_is_dual(name: str) -> None:
    config = AutoConfig.from_pretrained(name)
    model_class = AutoModel._model_mapping.get(type(config), None)
    classes = model_class if isinstance(model_class, (tuple, list)) else (model_class,)
    if not any(hasattr(each, "get_image_features") and hasattr(each, "get_text_features") for each in classes):
        raise ValueError(
            f"{name} is a model of type {config.model_type!r}, which does not embed images and texts in one space. "
            "Models such as CLIP, SigLIP, ALIGN, AltCLIP and ChineseCLIP do."
        )
