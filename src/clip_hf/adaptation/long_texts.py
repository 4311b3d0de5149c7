# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Longer texts for a CLIP: its positions are stretched, so that training on long captions can start (Long-CLIP)."""

import copy
import os
from numbers import Integral
from typing import Any

import torch
from torch import nn

from ..checkpoints.dual_models import load_dual_model
from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel


MAX_CONTEXT = 8192
"""Tokens of the longest text that a model is stretched for: a hundred times CLIP's 77."""


def stretch_positions(positions: torch.Tensor, context_length: int, keep: int) -> torch.Tensor:
    """Stretch learned positions (length, hidden_size) to (context_length, hidden_size), Long-CLIP's way.

    The first `keep` stay. New position p of the others lies at keep + (p - keep) (length - keep) / (context_length -
    keep) on the old ones, between two of which it is interpolated linearly; beyond the last one, the last step goes
    on. So 77 positions with 20 kept become 248 with every old step in four, as published.
    """
    length = len(positions)
    factor = (length - keep) / (context_length - keep)
    places = keep + torch.arange(context_length - keep, dtype=torch.float64, device=positions.device) * factor
    before = places.floor().long().clamp(max=length - 2)
    share = (places - before)[:, None]  # more than 1 beyond the last old position
    wide = positions.detach().double()
    stretched = (1 - share) * wide[before] + share * wide[before + 1]
    return torch.cat([positions.detach()[:keep], stretched.to(positions.dtype)])


def stretch_context(
    model: nn.Module | str | os.PathLike, processor: Any = None, context_length: int = 248, keep: int = 20
) -> tuple[ClipHFModel, Any]:
    """Give a CLIP positions for longer texts (Long-CLIP, Zhang et al. 2024, "Knowledge-preserved stretching").

    Texts of at most `keep` tokens, start and end included, have the features that they had. Longer ones change,
    because their positions moved: train on long captions before they are used, see the page on long texts. Positions
    are interpolated linearly; the few beyond the last old one go on with its last step, see [`stretch_positions`].

    Args:
        model ([`ClipHFModel`], `str` or path): The model, or where it is: any CLIP that loads as one of ours.
        processor ([`ClipHFProcessor`], *optional*): Its processor; needed where the model is given in memory.
        context_length (`int`, *optional*, defaults to 248): Tokens of the longest text, start and end included.
        keep (`int`, *optional*, defaults to 20): How many first positions stay as they are. CLIP learned little about
            those beyond, because few captions are longer.

    Returns:
        A new model and a new processor, which cuts texts at the new length; saved, they load as any CLIP.

    Raises:
        ValueError: if the new length is not greater than the model's or is above 8192, `keep` is not from 0 to the
            model's length less 2, or the model is none of ours.
        TypeError: if a number is no integer, the model has no text tower, a model in memory comes without its
            processor, or that is none.
    """
    for name, value in (("context_length", context_length), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"`{name}` is {value!r}; it must be an integer.")
    context_length, keep = int(context_length), int(keep)  # not NumPy's, which a config.json cannot hold
    if context_length > MAX_CONTEXT:
        raise ValueError(f"`context_length` is {context_length}; it must be at most {MAX_CONTEXT}.")
    if not isinstance(model, nn.Module | str | os.PathLike):
        raise TypeError(f"`model` is {type_of(model)}; it must be a CLIP or where it is.")
    if processor is not None and not hasattr(processor, "tokenizer"):
        raise TypeError(f"`processor` is {type_of(processor)}; it must be a whole one, such as a ClipHFProcessor.")
    if isinstance(model, nn.Module):
        if processor is None:
            raise TypeError("A model in memory needs its processor: stretch_context(model, processor).")
        result = copy.deepcopy(model)
    else:
        result, its_processor = load_dual_model(model, dtype="auto", processor=processor)
        processor = its_processor if processor is None else processor
    if not str(getattr(getattr(result, "config", None), "model_type", "")).startswith("clip_hf"):
        raise ValueError(
            f"{type(result).__name__} is no CLIP of ours; only those have positions that can be stretched. "
            "transformers' CLIP loads as one by its path."
        )
    if not hasattr(result, "text_model") or not hasattr(result, "vision_model"):
        raise TypeError(f"{type(result).__name__} lacks a tower; give a whole CLIP, with its texts.")
    embeddings = result.text_model.embeddings
    length = result.config.text_config.max_position_embeddings
    if context_length <= length:
        raise ValueError(
            f"`context_length` is {context_length}, and the model has {length} positions already; it must be greater."
        )
    if not 0 <= keep <= length - 2:
        raise ValueError(f"`keep` is {keep}; it must be from 0 to {length - 2} for the model's {length} positions.")
    old = embeddings.position_embedding.weight
    weight = stretch_positions(old, context_length, keep)
    embeddings.position_embedding = nn.Embedding(*weight.shape, _weight=weight).requires_grad_(old.requires_grad)
    for module in result.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "max_position_embeddings"):
            config.max_position_embeddings = context_length
    result.config.text_config.max_position_embeddings = context_length
    processor = copy.deepcopy(processor)
    processor.tokenizer.model_max_length = context_length
    return result.eval(), processor
