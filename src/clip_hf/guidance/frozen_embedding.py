# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every part of this package does with a model: freeze it, embed pictures and texts with it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..utils.module_copies import copy_modules, plain_clip


def frozen_twin(model: nn.Module) -> ClipHFModel:
    """A model of the same weights (shared, not copied) in evaluation mode, whose weights get no gradient.

    The caller's model stays as it is, in training and in other threads too. It may be compiled or have adapters.

    Raises:
        TypeError: if it is not a [`ClipHFModel`], or one of films.
        ValueError: if some weights are offloaded.
    """
    return copy_modules(plain_clip(model, "guidance and reranking"), frozen=True)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision becomes float32; float64 stays, in which gradients can be checked."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_finite(values: torch.Tensor, model: ClipHFModel) -> torch.Tensor:
    """Return what a model computed, or raise an `FloatingPointError` that names the model if it is not finite."""
    if not bool(values.isfinite().all()):
        raise FloatingPointError(
            f"The model {model.name_or_path or type(model).__name__} gives NaN or infinite values: its weights are "
            "damaged, or they overflow in half precision; in that case use float32."
        )
    return values


def check_processor(processor: Any) -> ClipHFProcessor:
    """Return the processor, or raise a `TypeError` that says how to get one."""
    if not isinstance(processor, ClipHFProcessor):
        raise TypeError(
            f"The processor must be a ClipHFProcessor, not {type_of(processor)}. "
            "`ClipHFProcessor.from_pretrained(path)` reads that of every CLIP."
        )
    return processor


@torch.no_grad()
def embed_texts(model: ClipHFModel, processor: Any, texts: Sequence[str]) -> torch.Tensor:
    """L2-normalised embeddings of texts, (texts, projection_dim), at least float32; a `ValueError` if one is empty."""
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"A text must be a string, not {type_of(text)}: {text!r:.60}.")
        if not text.strip():
            raise ValueError("A text is empty, which describes no picture. Leave it out or write one.")
    # Strict: of a prompt that is too long nothing is cut unnoticed.
    tokenizer = check_processor(processor).tokenizer
    inputs = tokenizer(list(texts), padding=True, strict=True, return_tensors="pt").to(model.device)
    return check_finite(at_least_float32(model.encode_text(**inputs)), model)


def encode_pixels(model: ClipHFModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """L2-normalised embeddings of pixel values of any size, (images, projection_dim), with gradient."""
    # ResNets do not change the dtype of their input.
    pixel_values = pixel_values.to(model.device, model.dtype)
    return check_finite(at_least_float32(model.encode_image(pixel_values, interpolate_pos_encoding=True)), model)


@torch.no_grad()
def embed_images(model: ClipHFModel, processor: Any, images: Sequence[Any], batch_size: int = 32) -> torch.Tensor:
    """L2-normalised embeddings of images in any form that the processor takes, (images, projection_dim)."""
    if isinstance(images, str | bytes) or not isinstance(images, Sequence) or not len(images):
        raise ValueError(f"The images must be a list of at least one image, not {images!r:.60}.")
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size!r}; it must be a whole number of at least 1.")
    embeds = []
    for start in range(0, len(images), batch_size):
        batch = list(images[start : start + batch_size])
        pixel_values = check_processor(processor)(images=batch, return_tensors="pt").pixel_values
        embeds.append(encode_pixels(model, pixel_values))
    return torch.cat(embeds)
