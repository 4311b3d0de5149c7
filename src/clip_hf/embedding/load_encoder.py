# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Any CLIP behind one interface: ours, transformers' dual encoders, exported ones, and those of other libraries."""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from torch import nn

from ..checkpoints.dual_models import load_dual_model, read_config
from ..checkpoints.paths import describe_not_found
from ..export.exported_model import ClipHFExportedModel
from ..export.opening import check_options, load_export_processor, open_cached_export, open_if_exported
from ..export.runtimes import RUNTIMES
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.video_reading_clip_hf import ClipSampling
from ..model.zero_shot_clip_hf import input_device
from ..utils.devices import parse_device
from ..utils.dtypes import AUTO, parse_inference_dtype
from .dual_encoder import DualEncoder
from .exported_encoder import ExportedEncoder
from .open_clip_encoder import OpenClipEncoder, load_open_clip
from .transformers_encoder import ClipHFEncoder, SentenceTransformersEncoder, TransformersEncoder
from .video_encoder import VIDEO_TYPE, VideoEncoder, for_pictures


_OPEN_CLIP, _SENTENCE_TRANSFORMERS = "open_clip:", "sentence_transformers:"


def load_dual_encoder(
    model: DualEncoder | nn.Module | str | os.PathLike,
    runtime: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    *,
    processor: Any = None,
    clip: ClipSampling | None = None,
) -> DualEncoder:
    """Put a CLIP of any library behind one interface.

    Args:
        model (`str`, `os.PathLike`, `nn.Module` or `DualEncoder`): What to embed with:

            - a folder, a file or a name on the hub. All that `clip_hf.checkpoints.load` reads (OpenAI's `.pt`,
              open_clip's folders and weight files, transformers' CLIP) runs as a [`ClipHFModel`], with OpenAI's pixels
              and tokens; other dual encoders of transformers (SigLIP, ALIGN, AltCLIP, ...) as transformers runs them;
            - `"open_clip:ARCH/PRETRAINED_OR_PATH"`, run by open_clip;
            - `"sentence_transformers:NAME_OR_PATH"`, run by sentence-transformers;
            - a folder of `clip-hf export`, run by ONNX Runtime or OpenVINO on the processor;
            - a model in memory, with its `processor`;
            - a [`DualEncoder`], which is returned as it is.
        runtime (`str`, *optional*): What runs the model: `"torch"`, `"onnx"` or `"openvino"`. By default PyTorch, and
            an exported folder by that for which it was made. With one of the others, a model of ours or of
            transformers that is not exported yet is exported once, in float32, into `clip_hf/exports` below
            `$HF_HOME`.
        dtype (`torch.dtype` or `str`, *optional*): What to compute in, such as `torch.bfloat16`; or `"auto"`, which is
            bfloat16 on a processor that is measured to be faster with it, else float32, and on an accelerator the half
            precision that it has natively. By default a model in memory keeps its own dtype, an export runs in the
            precision that it was made with, and others are in float32. Of the exports OpenVINO's may run in bfloat16.
        device (`str` or `torch.device`, *optional*): Where to put the model. By default a model in memory stays where
            it is, and others go to the accelerator if there is one.
        processor (*optional*): For a model in memory: its processor, or `(image_processor, tokenizer)`; for one of
            open_clip `(preprocess, tokenizer)`. With a name or path it replaces the model's own.
        clip ([`ClipSampling`], *optional*): To embed films: how many frames and views are taken of each, see
            [`VideoEncoder`]. A [`ClipHFVideoModel`] embeds films by itself, with the frames of its configuration.

    Returns:
        `DualEncoder`: a model in memory is not copied; `device` and `dtype` change it. Of films, a [`VideoEncoder`].

    Raises:
        TypeError: if `model` is none of these, or the processor does not fit.
        ValueError: if it is no dual encoder, lacks weights or cannot be read exactly; if there is no such runtime,
            dtype or device; if a [`DualEncoder`] is given with options.
        OSError: if there is no such file, folder or model, with what to do offline.
        ImportError: if the library or the runtime that was named is not installed.

    Example:

    ```python
    >>> encoder = load_dual_encoder("openai/clip-vit-base-patch32")
    >>> (encoder.encode_images([image]) @ encoder.encode_texts(["a cat", "a dog"]).T).shape
    torch.Size([1, 2])
    ```
    """
    if isinstance(model, DualEncoder):
        if isinstance(model, VideoEncoder) and clip is not None:
            raise ValueError(f"The encoder takes {model.clip} of each film already: give `clip` where it is made.")
        if any(option is not None for option in (processor, device, dtype, runtime)):
            raise ValueError(
                "A DualEncoder is used as it is: give processor, device, dtype and runtime where it is made."
            )
        return _for_films(model, clip)
    _check_runtime_and_dtype(runtime, dtype, device)
    return _for_films(_load(model, runtime, dtype, device, processor), clip)


def sampling_of(model: Any, clip: ClipSampling | None = None) -> ClipSampling | None:
    """The frames that [`load_dual_encoder`] takes of each film, told before the model is loaded.

    Args:
        model: What [`load_dual_encoder`] takes.
        clip ([`ClipSampling`], *optional*): Those asked for.

    Returns:
        [`ClipSampling`]; None where the model embeds pictures.
    """
    if clip is not None or isinstance(model, VideoEncoder):
        return clip or model.clip
    if isinstance(model, DualEncoder | nn.Module):
        config = getattr(getattr(model, "model", model), "config", None)
        return _own_sampling(getattr(config, "model_type", None), getattr(config, "num_frames", None))
    if not os.path.isfile(os.path.join(os.fspath(model), "config.json")):
        return None
    config = read_config(model)
    return _own_sampling(config.get("model_type"), config.get("num_frames"))


def _own_sampling(model_type: str | None, num_frames: int | None) -> ClipSampling | None:
    """The frames of a video model's configuration; None for other models."""
    if model_type != VIDEO_TYPE:
        return None
    return ClipSampling() if num_frames is None else ClipSampling(num_frames=num_frames)


def _for_films(encoder: DualEncoder, clip: ClipSampling | None) -> DualEncoder:
    """The encoder itself, or one of films where they are asked for or the model is of films."""
    if isinstance(encoder, VideoEncoder):
        return encoder
    clip = sampling_of(encoder, clip)
    return encoder if clip is None else VideoEncoder(encoder, clip)


def _load(
    model: nn.Module | str | os.PathLike,
    runtime: str | None,
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    processor: Any,
) -> DualEncoder:
    """The encoder of pictures."""
    in_memory = isinstance(model, nn.Module)
    if not in_memory and not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"`model` must be a name, a path, a model in memory or a DualEncoder; given {type(model).__name__}."
        )
    exported = open_if_exported(model, runtime, dtype, device)
    if exported is not None:
        return _wrap_export(exported, processor, in_memory)
    device = parse_device(device)
    if runtime in RUNTIMES:
        source = _wrap_model(model, processor) if in_memory else _load_by_name(model, processor, torch.float32)
        if getattr(getattr(source.model, "config", None), "model_type", None) == VIDEO_TYPE:
            raise ValueError(
                f"{source.given_name} is a model of films, which only PyTorch runs: leave out `runtime` (--runtime)."
            )
        return _export_once(source, runtime, dtype)
    if in_memory:
        dtype = parse_inference_dtype(dtype, input_device(model) if device is None and dtype == AUTO else device)
        encoder = _wrap_model(model, processor)
    else:
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        dtype = parse_inference_dtype(dtype, device)
        encoder = _load_by_name(model, processor, dtype or torch.float32)
        if isinstance(encoder, ClipHFEncoder) and dtype in (None, torch.float32):
            # Nobody else has the model. In half precision, folded weights would be rounded once more.
            encoder.model.fold_batch_norm()
    options = {"device": device, "dtype": dtype}
    options = {name: value for name, value in options.items() if value is not None}
    if options:
        encoder.model.to(**options)
    return encoder


def check_encoder_options(
    runtime: str | None, dtype: torch.dtype | str | None, device: str | torch.device | None
) -> torch.device | None:
    """Check the options of [`load_dual_encoder`] before anything is loaded; the errors are its. Returns the device."""
    _check_runtime_and_dtype(runtime, dtype, device)
    return parse_device(device)


def _check_runtime_and_dtype(
    runtime: str | None, dtype: torch.dtype | str | None, device: str | torch.device | None
) -> None:
    if runtime is not None and not isinstance(runtime, str):
        raise ValueError(f"`runtime` is {runtime!r:.80}. A processor is passed by its name: `processor=...`.")
    check_options(runtime, dtype, device)


def _wrap_export(model: ClipHFExportedModel, processor: Any, in_memory: bool) -> ExportedEncoder:
    if processor is None:
        if in_memory:
            raise TypeError("An exported model in memory needs its processor: pass `processor=...`.")
        processor = load_export_processor(model)
    return ExportedEncoder(model, processor, model.name_or_path)


def _export_once(encoder: DualEncoder, runtime: str, dtype: torch.dtype | str | None) -> ExportedEncoder:
    """The encoder of a model's export in the cache."""
    if not isinstance(encoder, TransformersEncoder):
        raise ValueError(
            f"{encoder.given_name} is run by another library, which `runtime={runtime!r}` cannot replace. Give the "
            "folder or the file of its weights, without the library's name."
        )
    processor = encoder.processor
    if isinstance(processor, (tuple, list)):
        processor = ClipHFProcessor(*processor)
    exported = open_cached_export(encoder.model, processor, runtime, dtype, encoder.given_name)
    return ExportedEncoder(exported, encoder.processor, encoder.given_name)


def _wrap_model(model: nn.Module, processor: Any, name: str | None = None) -> DualEncoder:
    """The encoder of a model in memory."""
    config = getattr(model, "config", None)
    name = (
        name or getattr(model, "name_or_path", None) or getattr(config, "name_or_path", None) or type(model).__name__
    )
    if type(model).__name__ == "SentenceTransformer":
        return SentenceTransformersEncoder(model, processor, type(model).__name__)
    is_open_clip = all(hasattr(model, part) for part in ("visual", "encode_image", "encode_text"))
    if processor is None:
        raise TypeError(
            f"A model in memory ({type(model).__name__}) needs its processor: load_dual_encoder(model, "
            f"processor=processor){', with processor=(preprocess, tokenizer) of open_clip' if is_open_clip else ''}."
        )
    # Compare `model_type`, not the class: a model loaded with its repo's own code has a different class.
    model_type = getattr(config, "model_type", None)
    if model_type == "clip_hf":
        return ClipHFEncoder(model, processor, name)
    if model_type == VIDEO_TYPE:  # of its frames; a `VideoEncoder` goes around it
        encoder = ClipHFEncoder(model, processor, name)
        encoder.image_processor = for_pictures(encoder.image_processor)
        return encoder
    if is_open_clip:
        return OpenClipEncoder(model, processor, name)
    return TransformersEncoder(model, processor, name)


def _load_by_name(model: str | os.PathLike, processor: Any, dtype: torch.dtype) -> DualEncoder:
    """The encoder of a model by name or path."""
    name = os.fspath(model)
    if name.startswith(_OPEN_CLIP):
        model, its_processor = load_open_clip(name.removeprefix(_OPEN_CLIP))
        return OpenClipEncoder(model, processor or its_processor, name)
    if name.startswith(_SENTENCE_TRANSFORMERS):
        return _load_sentence_transformers(name.removeprefix(_SENTENCE_TRANSFORMERS), processor, name)
    path = Path(name)
    if (path / "modules.json").is_file() and not (path / "config.json").is_file():
        return _load_sentence_transformers(name, processor, name)
    try:
        model, processor = load_dual_model(name, dtype, processor)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or path.exists():
            raise
        raise OSError(
            f"{error} What is published for other libraries only is named open_clip:hf-hub:{name} or "
            f"sentence_transformers:{name}."
        ) from error
    return _wrap_model(model, processor, name)


def _load_sentence_transformers(path: str, processor: Any, name: str) -> DualEncoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "sentence-transformers is not installed: `pip install sentence-transformers`, or give the folder of the "
            "CLIP inside without it."
        ) from error
    try:
        # On the CPU at first, like the others.
        model = SentenceTransformer(path, device="cpu")
    except (OSError, HFValidationError) as error:
        raise OSError(describe_not_found(path, error)) from error
    return SentenceTransformersEncoder(model, processor, name)
