# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip_hf.pipeline`: our zero-shot pipelines for any CLIP, in whichever format its files are."""

import os
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from .checkpoints.paths import describe_not_found
from .export.exported_model import AUTOMATIC_MAPS
from .export.opening import check_options, load_export_processor, open_cached_export, open_if_exported
from .export.runtimes import RUNTIMES
from .model.checks_clip_hf import type_of, unknown_option
from .model.configuration_clip_hf_video import ClipHFVideoConfig
from .model.image_processing_clip_hf import ClipHFImageProcessor, is_unset
from .model.modeling_clip_hf import ClipHFModel
from .model.modeling_clip_hf_video import ClipHFVideoModel
from .model.pipeline_clip_hf import ClipHFZeroShotImageClassificationPipeline
from .model.processing_clip_hf import LOCATION_KEYS, ClipHFProcessor
from .model.tokenization_clip_hf import ClipHFTokenizer
from .model.video_pipeline_clip_hf import ClipHFZeroShotVideoClassificationPipeline
from .utils.dtypes import parse_inference_dtype


TASK = "zero-shot-image-classification"
VIDEO_TASK = "zero-shot-video-classification"
PIPELINES = {TASK: ClipHFZeroShotImageClassificationPipeline, VIDEO_TASK: ClipHFZeroShotVideoClassificationPipeline}
_PARTS = {"tokenizer": ClipHFTokenizer, "image_processor": ClipHFImageProcessor}
# Options for making the pipeline; its call options and the image processor's options are defaults for its calls.
_OPTIONS = ("device", "batch_size", "num_workers", "device_map", *_PARTS, *LOCATION_KEYS)


def pipeline(
    model: str | os.PathLike | nn.Module,
    processor: Any = None,
    *,
    task: str = TASK,
    runtime: str | None = None,
    dtype: torch.dtype | str | None = None,
    **options: Any,
) -> ClipHFZeroShotImageClassificationPipeline:
    """Make a zero-shot classification pipeline of any CLIP, for images or films.

    For a stock CLIP repo `transformers.pipeline` gives transformers' own pipeline, without ensembles of templates,
    prompt sets and other options of [`ClipHFZeroShotImageClassificationPipeline`]. This function always gives ours,
    with our model and processor, which compute what the stock ones do (see the processor for where pixels differ).

    Args:
        model (`str`, `os.PathLike` or `nn.Module`): The name of a CLIP repo on the hub or its folder, stock or saved
            by us; a file or folder of OpenAI's or open_clip's format (see `clip_hf.checkpoints`); a folder of
            `clip-hf export`; or a model in memory, such as a [`ClipHFModel`], a `CLIPModel` of transformers, or one
            wrapped by peft.
        processor ([`ClipHFProcessor`], `str` or `os.PathLike`, *optional*): The processor, or its repo or folder. By
            default the one beside the model's weights, also for a model in memory that was loaded from somewhere.
        task (`str`, *optional*, defaults to `"zero-shot-image-classification"`): What the pipeline is for, this or
            `"zero-shot-video-classification"`.
        runtime (`str`, *optional*): What runs the model: `"torch"`, `"onnx"` or `"openvino"`. By default PyTorch, and
            an exported folder by that for which it was made. With one of the others, a model that is not exported yet
            is exported once, in float32, into `clip_hf/exports` below `$HF_HOME`.
        dtype (`torch.dtype` or `str`, *optional*): The dtype to compute in; by default that of the files. `"auto"` is
            the one that suits the device: bfloat16 on a processor that is measured to be faster with it, else float32,
            and on an accelerator the half precision that it has natively. A model in memory keeps its own by default,
            and is converted in place otherwise, as by `model.to(dtype)`. Exports run in their own precision; those of
            OpenVINO may run in bfloat16, which `"auto"` picks as above.
        **options: `tokenizer` and `image_processor` in place of the processor's, as objects or as their repo or
            folder; where the files are (`revision`, `token`, `cache_dir`, `local_files_only`, ...); `device_map`, with
            which accelerate places a model that is loaded; and all options of the pipeline: `device`, `batch_size`,
            `num_workers`, `candidate_labels`, `hypothesis_template`, `top_k`, ...

    Returns:
        [`ClipHFZeroShotImageClassificationPipeline`]: call it with images and labels; or
        [`ClipHFZeroShotVideoClassificationPipeline`]: call it with films and labels.

    Raises:
        OSError: if there is no such repo, folder or file, or a part is missing in it.
        ValueError: if it is not a CLIP with both towers, has no vocabulary, or an option does not make sense.
        TypeError: if `model` is neither a name nor a model, or there is no such option; before the model is loaded.
        MissingExtra: if the runtime is not installed.

    Example:

    ```python
    >>> import clip_hf

    >>> classify = clip_hf.pipeline("openai/clip-vit-base-patch32", device="cpu")
    >>> classify("cat.jpg", ["cat", "dog"], hypothesis_template="openai_imagenet")
    [{'score': 0..., 'label': '...'}, {'score': 0..., 'label': '...'}]
    >>> classify = clip_hf.pipeline(*clip_hf.checkpoints.load("RN50.pt"))
    ```
    """
    location = {name: options.pop(name) for name in LOCATION_KEYS if name in options}
    if task not in PIPELINES or (isinstance(model, str) and model in PIPELINES):
        raise ValueError(f"The first argument is the model; `task` is {' or '.join(map(repr, PIPELINES))}.")
    dtype = options.pop("torch_dtype", None) if dtype is None else dtype  # transformers' name before v5
    check_options(runtime, dtype, options.get("device"))
    _check_names(options, PIPELINES[task].call_options)
    is_name = isinstance(model, str | os.PathLike)
    source = model if is_name else getattr(model, "name_or_path", None)
    device_map = options.pop("device_map", None)
    if device_map is not None and not is_name:
        raise ValueError("`device_map` places a model as it is loaded; this one is in memory. Use `device`.")
    loading = location if device_map is None else {**location, "device_map": device_map}
    exported = open_if_exported(model, runtime, dtype, options.get("device"), **loading)
    if exported is None:
        model = _open_model(model, runtime, dtype, options.get("device"), loading)
    passed = {name: _load_part(name, options.pop(name, None), location) for name in _PARTS}
    if processor is None and None in passed.values():
        if not source:
            raise ValueError(
                f"The {type(model).__name__} was not loaded from anywhere, so its processor is unknown: pass "
                "`processor=...`, or `tokenizer=...` and `image_processor=...`."
            )
        processor = source if exported is None else load_export_processor(exported)
    if isinstance(processor, str | os.PathLike):
        processor = ClipHFProcessor.from_pretrained(processor, **location)
    parts = {name: getattr(processor, name, None) if part is None else part for name, part in passed.items()}
    missing = [name for name, part in parts.items() if part is None]
    if missing:
        raise ValueError(
            f"There is no {missing[0].replace('_', ' ')}: the processor is {type_of(processor)}. Pass "
            f"`{missing[0]}=...`, or a `ClipHFProcessor`."
        )
    if exported is None and runtime in RUNTIMES:
        whole = processor if all(part is None for part in passed.values()) else ClipHFProcessor(**parts)
        exported = open_cached_export(model, whole, runtime, dtype, str(source or type(model).__name__))
    return PIPELINES[task](model=exported or model, task=task, **parts, **options)


def _open_model(
    model: str | os.PathLike | nn.Module,
    runtime: str | None,
    dtype: torch.dtype | str | None,
    device: torch.device | str | int | None,
    loading: dict[str, Any],
) -> nn.Module:
    """The model, loaded if it is a name, in its dtype; in float32 if an export is to be made of it."""
    is_name = isinstance(model, str | os.PathLike)
    device = _named_device(device, loading.get("device_map"))
    # An export is made of float32, and computes in `dtype` itself.
    exports = runtime in RUNTIMES
    dtype = parse_inference_dtype(torch.float32 if exports and is_name else None if exports else dtype, device)
    if is_name:
        return _load_model(model, dtype, loading)
    _check_model(model)
    return model if dtype is None else model.to(dtype)


def _named_device(device: Any, device_map: Any) -> torch.device | str | None:
    """The device that a user names; None where it is the accelerator, if there is one."""
    if device is None and device_map is not None:
        device = next(iter(device_map.values()), None) if isinstance(device_map, dict) else device_map
    if isinstance(device, int):  # as in transformers' pipelines: the number of an accelerator, or -1
        return "cpu" if device < 0 else None
    return None if device in AUTOMATIC_MAPS else device


def _check_names(options: dict[str, Any], call_options: tuple[str, ...]) -> None:
    """Refuse unknown options. An image processor of another class has fewer, which the pipeline itself checks."""
    image_options = ClipHFImageProcessor.valid_kwargs.__annotations__
    known = [*call_options, *_OPTIONS, *image_options]
    unknown = [name for name, value in options.items() if name not in known and not is_unset(name, value, known)]
    if unknown:
        raise TypeError(
            f"{unknown_option(unknown[0], 'the pipeline', known)} Available: "
            f"{', '.join((*call_options, *_OPTIONS))} and those of the image processor."
        )


def _load_part(name: str, part: Any, location: dict[str, Any]) -> Any:
    return _PARTS[name].from_pretrained(part, **location) if isinstance(part, str | os.PathLike) else part


def _load_model(source: str | os.PathLike, dtype: torch.dtype | None, location: dict[str, Any]) -> ClipHFModel:
    try:
        model_class = ClipHFVideoModel if _is_video_model(source, location) else ClipHFModel
        model, info = model_class.from_pretrained(source, dtype=dtype or "auto", output_loading_info=True, **location)
    except OSError as error:
        if os.path.exists(source) or isinstance(error, FileNotFoundError):
            raise
        raise OSError(describe_not_found(source, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{source} is not a CLIP with an image and a text tower: it lacks {len(missing)} of the weights, such as "
            f"{missing[0]}. A single tower cannot compare images with labels."
        )
    return model


def _is_video_model(source: str | os.PathLike, location: dict[str, Any]) -> bool:
    files = {name: value for name, value in location.items() if name in LOCATION_KEYS}
    with suppress(OSError, ValueError):  # loading the model says what is wrong
        return PreTrainedConfig.get_config_dict(source, **files)[0].get("model_type") == ClipHFVideoConfig.model_type
    return False


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` is {model!r:.60}, {type_of(model)}; it must be a hub name, a path, or a model in memory."
        )
    towers = ("get_text_features", "get_image_features")
    if not all(hasattr(model, name) for name in (*towers, "config")):
        raise ValueError(
            f"`model` is {type_of(model)}, which is not a CLIP with an image and a text tower: it needs `config`, "
            f"{' and '.join(f'`{name}`' for name in towers)}, as `ClipHFModel` and transformers' `CLIPModel` have."
        )
