# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`load` and `save`: a model in memory from any format, and into any format."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..utils.dtypes import parse_dtype
from .adapters import base_of_adapter, is_adapter_folder, load_adapter, load_with_adapter, merge_lora
from .checkpoint import Checkpoint, SourceOptions
from .paths import check_exists
from .reading import is_foreign, lacks_config, read_checkpoint
from .stored_tensor import StoredTensor
from .transformers_format import widest_dtype
from .writing import (
    check_destination,
    check_format_holds,
    convert_tensor,
    dtype_in_model,
    notes_on_format,
    with_dtype,
    write_checkpoint,
)


logger = logging.get_logger(__name__)


def load(
    path: str | os.PathLike, *, dtype: torch.dtype | str = torch.float32, **options: Any
) -> tuple[ClipHFModel, Any]:
    """Load a checkpoint of any format: OpenAI's `.pt` (TorchScript archive or state dict), open_clip's folder, weights
    or training checkpoint, a folder of transformers' `CLIPModel`, or one of ours. Of a folder with a LoRA adapter it
    is the adapter's model, with the adapter merged into its weights.

    Args:
        path (`str` or `os.PathLike`): the file or folder.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `torch.float32`): what floating weights are converted
            to; half precision becomes float32 without loss. `"auto"` takes the widest dtype of the file.
        options: what the source leaves open; the fields of [`SourceOptions`].

    Returns:
        The [`ClipHFModel`], in evaluation mode, and its [`ClipHFProcessor`]. Where the source has no vocabulary, or
        says nothing about pixels, the second is the image processor or the tokenizer alone, or `None`, and a warning
        says so.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is not recognised, damaged, not a CLIP, or cannot be read exactly; the message says what to
            do.
        TypeError: if there is no option of that name.

    Example:

    ```python
    >>> from clip_hf import checkpoints

    >>> model, processor = checkpoints.load("RN50.pt")
    >>> checkpoints.save(model, processor, "rn50-open_clip", format="open_clip")
    ```
    """
    if is_adapter_folder(path):
        return _load_merged(path, dtype, options)
    checkpoint = read_checkpoint(path, SourceOptions(**options))
    for note in checkpoint.notes:
        logger.info(note)
    if checkpoint.image_processor is None:
        logger.warning(f"{path} has no preprocessor_config.json: no image processor was loaded with the model.")
    if checkpoint.tokenizer is None:
        logger.warning(f"{path} has no vocabulary: no tokenizer was loaded with the model. `merges=...` gives it one.")
    return build_model(checkpoint, ClipHFModel, dtype), checkpoint.processor


def _load_merged(path: str | os.PathLike, dtype: torch.dtype | str, options: dict) -> tuple[ClipHFModel, Any]:
    """The model of an adapter with the adapter merged, and the processor in the adapter's folder or the model's."""
    model, processor = load(base_of_adapter(path), dtype=dtype, **options)
    if (Path(path) / "processor_config.json").is_file():
        processor = ClipHFProcessor.from_pretrained(path)
    return merge_lora(load_adapter(model, path)), processor


def build_model(checkpoint: Checkpoint, cls: type, dtype: torch.dtype | str | None, *args: Any, **kwargs: Any) -> Any:
    """The model of a checkpoint, or the part of it of class `cls`, in evaluation mode.

    `dtype` is as in [`load`]; `args` and `kwargs` are further arguments of `from_pretrained`, and so is the result.
    """
    if dtype is None or dtype == "auto":
        dtype = widest_dtype(checkpoint.tensors)
    dtype = parse_dtype(dtype)
    if kwargs.get("config") is None:
        parts = (checkpoint.config, checkpoint.config.text_config, checkpoint.config.vision_config)
        config = next((part for part in parts if isinstance(part, cls.config_class)), None)
        if issubclass(cls.config_class, type(checkpoint.config)):  # a video model's has a head besides
            config = cls.config_class.from_dict(checkpoint.config.to_dict())
        if config is None:
            raise ValueError(
                f"{checkpoint.source} has a vision tower of type {parts[2].model_type!r}, which is none for "
                f"{cls.__name__}."
            )
        # Options such as num_labels are for the configuration, as they are where transformers reads it.
        kwargs.pop("config", None)
        config, kwargs = type(config).from_dict(config.to_dict(), return_unused_kwargs=True, **kwargs)
        kwargs["config"] = config
    state_dict = {name: _in_memory(name, tensor, dtype) for name, tensor in checkpoint.tensors.items()}
    # With a state dict instead of a path: a registered conversion would change what the model saves, too.
    result = cls.from_pretrained(None, *args, state_dict=state_dict, dtype=dtype, **kwargs)
    model = result[0] if isinstance(result, tuple) else result
    model.name_or_path = checkpoint.source
    if isinstance(model, ClipHFModel):
        # So that a file of half precision can be written again as it was.
        model.checkpoint_dtypes = {name: tensor.dtype for name, tensor in checkpoint.tensors.items()}
    return result


def from_pretrained(cls: type, path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
    """What `from_pretrained` of our models does with a path that transformers cannot read; `None` for other paths.

    Raises:
        FileNotFoundError: if nothing is there, and no repo on the hub can have that name.
    """
    if not isinstance(path, (str, os.PathLike)):
        return None
    check_exists(path)
    if is_adapter_folder(path):
        return load_with_adapter(cls, base_of_adapter(path), path, *args, **kwargs)
    # Of an adapter's folder the Auto classes and `pipeline` give the base and, in this way, the folder.
    adapter = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if adapter is not None and is_adapter_folder(adapter):
        del kwargs["adapter_kwargs"]
        return load_with_adapter(cls, path, adapter, *args, **kwargs)
    # Without a config.json transformers would take the default configuration, and then say that weights are missing.
    is_incomplete = lacks_config(path) and kwargs.get("config") is None and not kwargs.get("subfolder")
    if not is_foreign(path) and not is_incomplete:
        return None
    return build_model(read_checkpoint(path), cls, kwargs.pop("dtype", "auto"), *args, **kwargs)


def processor_from_pretrained(path: str | os.PathLike) -> Any:
    """What `ClipHFProcessor.from_pretrained` does with a path that transformers cannot read; `None` for other paths.

    Raises:
        FileNotFoundError: if nothing is there, and no repo on the hub can have that name.
        ValueError: if the source has no vocabulary.
    """
    if not isinstance(path, (str, os.PathLike)):
        return None
    check_exists(path)
    if not is_foreign(path):
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint.tokenizer is None:
        raise ValueError(
            f"{path} has no vocabulary, and its size of {checkpoint.config.text_config.vocab_size} is not that of "
            "OpenAI's. `clip_hf.checkpoints.load(path, merges=...)` takes the merges that the model was trained "
            "with."
        )
    return checkpoint.processor


def _in_memory(name: str, tensor: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor.read().clone()
    dtype = dtype_in_model(name, dtype)
    values = convert_tensor(name, tensor, dtype).read()
    # The model must not depend on a file that is mapped into memory.
    return values.clone() if tensor.dtype == dtype else values


def save(
    model: ClipHFModel,
    processor: Any,
    path: str | os.PathLike,
    *,
    format: str = "clip_hf",
    tower: str | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model in a format: the whole is written, or nothing.

    A model that [`load`] read from half precision, and whose values still are of half precision, is written in the
    dtypes that its file had; else every weight has the dtype that it has in the model.

    Args:
        model (`ClipHFModel`): the model.
        processor ([`ClipHFProcessor`], *optional*): its processor, or a part of one, or `None`. OpenAI's format has no
            place for it; it is then checked to do what OpenAI's code does.
        path (`str` or `os.PathLike`): a file (`openai`) or a folder (the others).
        format (`str`, *optional*, defaults to `"clip_hf"`): `"clip_hf"`, `"openai"` (a TorchScript archive for
            `clip.load`), `"open_clip"` or `"transformers"`.
        tower (`str`, *optional*): with `"transformers"`, a tower for other programs: `"text"` (`CLIPTextModel`),
            `"text_with_projection"`, `"vision"` or `"vision_with_projection"` (`CLIPVisionModelWithProjection`).
        dtype (`torch.dtype`, *optional*): what floating weights are converted to. For OpenAI's and open_clip's
            format half precision keeps norms and embeddings in float32, as their code does.
        overwrite (`bool`, *optional*, defaults to `False`): whether what is at `path` is replaced.

    Raises:
        FileExistsError: if something is at `path` and `overwrite` is off.
        OSError: if there is not enough room, or writing fails; nothing is left behind.
        ValueError: if the format has no counterpart to an option of the model, or there is no such format or tower.
        TypeError: if `model` or `processor` is of another class.
    """
    if isinstance(processor, (str, os.PathLike)):
        raise TypeError(f"The processor comes second and the path third: save(model, processor, {str(processor)!r}).")
    path = Path(path)
    checkpoint = Checkpoint.of(model, processor)
    check_destination(path, format, tower, overwrite)
    check_format_holds(checkpoint, format, tower)
    for note in notes_on_format(checkpoint, format):
        logger.warning(note)
    if dtype is None:
        checkpoint.tensors = _as_they_were(checkpoint.tensors, getattr(model, "checkpoint_dtypes", None))
    with write_checkpoint(with_dtype(checkpoint, dtype, format), path, format, tower):
        pass


def _as_they_were(tensors: dict[str, StoredTensor], dtypes: dict[str, torch.dtype] | None) -> dict[str, StoredTensor]:
    if dtypes is None or dtypes.keys() != tensors.keys():
        return tensors
    for name, tensor in tensors.items():
        if tensor.dtype != dtypes[name]:
            values = tensor.read()
            if not torch.equal(values.to(dtypes[name]).to(tensor.dtype), values):
                return tensors  # trained since: what it has learned would be rounded away
    return {name: convert_tensor(name, tensor, dtypes[name]) for name, tensor in tensors.items()}
