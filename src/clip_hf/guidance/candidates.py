# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Choosing among finished pictures: reranking by a text, and linear heads such as LAION's aesthetic predictors."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..checkpoints.weight_files import open_weights
from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from .frozen_embedding import embed_images, embed_texts, frozen_twin


# Numbers of the linear layers of LAION's second predictor; the dropouts have those between. With activations between
# all layers they would be 0, 2, 4, 6, 8.
_LAION_LAYERS = [0, 2, 4, 6, 7]


class Reranking(NamedTuple):
    """What [`rerank`] returns.

    Args:
        order (`list[int]`): Places of the candidates, best first; of equal ones, the first given.
        scores (`list[float]`): The cosine of each candidate with the text, in the order given.
    """

    order: list[int]
    scores: list[float]


def rerank(
    candidates: Sequence[Any], text: str, model: ClipHFModel, processor: ClipHFProcessor, *, batch_size: int = 32
) -> Reranking:
    """Order pictures by their cosine with a text, as DALL-E chose among its samples (Ramesh et al. 2021, section 2.6).

    Args:
        candidates (sequence): Images in any form that the processor takes.
        text (`str`): What they should show.
        model ([`ClipHFModel`]): The judge. One that also guided the pictures overrates them.
        processor ([`ClipHFProcessor`]): The model's.
        batch_size (`int`, *optional*, defaults to 32): Images in one pass.

    Raises:
        TypeError: if the model, the processor or the text is of another class.
        ValueError: if there are no candidates, the text is empty, an image cannot be read, or the model is offloaded.
        FloatingPointError: if the model gives NaN or infinite values.
    """
    model = frozen_twin(model)
    query = embed_texts(model, processor, [text])[0]
    scores = embed_images(model, processor, candidates, batch_size) @ query
    return Reranking(torch.argsort(scores, descending=True, stable=True).tolist(), scores.tolist())


class LinearHead(nn.Sequential):
    """Linear layers from an L2-normalised image embedding to one score, without anything between them.

    LAION's aesthetic predictors are of this kind: one layer, or five (published as an MLP, but without activations;
    its dropout is for training only). It is made of `nn.Linear`s, the last of one output.
    """

    @property
    def width(self) -> int:
        """Width of the embeddings it takes."""
        return self[0].in_features

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        """Scores (n,) of L2-normalised embeddings (n, width), with gradient."""
        if embeds.ndim != 2 or embeds.shape[1] != self.width:
            raise ValueError(
                f"The head takes embeddings of width {self.width}, not of shape {tuple(embeds.shape)}. It was trained "
                "on another CLIP's: load that one (LAION's heads name theirs, such as ViT-L/14 with 768)."
            )
        scores = super().forward(embeds.to(self[0].weight.dtype))
        if scores.shape[1] != 1:
            raise ValueError(f"The head has {scores.shape[1]} outputs; a head that scores pictures has 1.")
        return scores[:, 0]


@torch.inference_mode(False)  # a head made inside that mode would have no gradient
def load_linear_head(path: str | os.PathLike) -> LinearHead:
    """Read a head from a file of weights: safetensors or torch's state dict, of which nothing is executed.

    Names are `weight` and `bias` (one layer), with a prefix or not, or those of LAION's five: `layers.0.weight`, 2, 4,
    6 and 7, of any widths. Other files of several layers are refused, because a file of weights does not say which
    activations lie between them.

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        [`LinearHead`], float32, in evaluation mode, without gradients for its weights.

    Raises:
        FileNotFoundError: if there is no such file, or it is a folder.
        ValueError: if it is damaged, could run code, holds other weights than of such a head, other
            layers than one or LAION's five, or NaN.
    """
    file = open_weights(Path(path))
    if others := {name: stored.dtype for name, stored in file.tensors.items() if not stored.dtype.is_floating_point}:
        raise ValueError(f"{path} is no linear head: it has weights that are no real floats: {others}.")
    tensors = {name: stored.read().float() for name, stored in file.tensors.items()}
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(?:.*?\.)??(?:(\d+)\.)?(weight|bias)", name)
        if match is None or tensor.ndim != (2 if match[2] == "weight" else 1) or not tensor.numel():
            raise ValueError(f"{path} is no linear head: {name} of shape {tuple(tensor.shape)} has no place in one.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} has NaN or infinite values in {name}.")
        if match[2] in layers.setdefault(int(match[1] or 0), {}):
            raise ValueError(f"{path} is no linear head: two layers have the same number ({name}).")
        layers[int(match[1] or 0)][match[2]] = tensor
    if len(layers) > 1 and sorted(layers) != _LAION_LAYERS:
        raise ValueError(
            f"{path} has {len(layers)} linear layers, with the numbers {sorted(layers)}. Activations between layers "
            "cannot be seen in a file of weights, so only one layer is read, or LAION's five without activations, "
            f"with the numbers {_LAION_LAYERS}. Build the head in torch, load the file into it, and call it on "
            "`model.encode_image(pixel_values)`. If it has no activations, save its product, one layer."
        )
    head, width = LinearHead(), None
    for number in sorted(layers):
        weight, bias = layers[number].get("weight"), layers[number].get("bias")
        if weight is None or width not in (None, weight.shape[1]) or (bias is not None and len(bias) != len(weight)):
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"{path} is no linear head: its layers do not follow on each other: {shapes}.")
        layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
        layer.load_state_dict(layers[number], assign=True)
        head.append(layer)
        width = len(weight)
    if width != 1:
        raise ValueError(f"{path} has {width} outputs; a head that scores pictures has 1.")
    return head.eval().requires_grad_(False)


@torch.no_grad()
def score_images(
    images: Sequence[Any],
    head: LinearHead,
    model: ClipHFModel,
    processor: ClipHFProcessor,
    *,
    batch_size: int = 32,
) -> torch.Tensor:
    """What a head says of images: (images,), float32.

    Args:
        images (sequence): Images in any form that the processor takes.
        head ([`LinearHead`]): What [`load_linear_head`] returns.
        model ([`ClipHFModel`]): The CLIP that the head was trained on.
        processor ([`ClipHFProcessor`]): The model's.
        batch_size (`int`, *optional*, defaults to 32): Images in one pass.

    Raises:
        TypeError: if the model, the processor or the head is of another class.
        ValueError: if the head takes embeddings of another width, an image cannot be read, or the model is offloaded.
        FloatingPointError: if the model gives NaN or infinite values.
    """
    model = frozen_twin(model)
    if not isinstance(head, LinearHead):
        raise TypeError(
            f"The head must be a LinearHead, not {type_of(head)}: `load_linear_head(path)` reads one from a file, "
            "`LinearHead(layer)` makes one of an `nn.Linear` in memory."
        )
    head(torch.zeros(1, model.config.projection_dim, device=head[0].weight.device))  # before the images are read
    return head(embed_images(model, processor, images, batch_size).to(head[0].weight))
