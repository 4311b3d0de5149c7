# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Relevance of the places of an image for texts. Maps are (images, texts, rows, columns), float32."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..model.checks_clip_hf import check_whole, did_you_mean
from ..model.modeling_clip_hf import ClipHFModel
from .attention_twin import attention_twin


@dataclass
class Request:
    """What a method is asked: a twin of the model, images, and the embeddings of texts.

    Args:
        twin ([`ClipHFModel`]): What [`attention_twin`] returned.
        pixel_values (`torch.Tensor`): `(images, 3, height, width)`, as the processor makes them.
        text_embeds (`torch.Tensor`): `(texts, dim)`, L2-normalised.
        layers (`"all"`, `"last"` or `int`): Attention layers that count, the last so many.
        window, stride (`int`, *optional*): Occlusion: pixels of the covered square, and of its steps.
    """

    twin: ClipHFModel
    pixel_values: torch.Tensor
    text_embeds: torch.Tensor
    layers: str | int = "all"
    window: int | None = None
    stride: int | None = None

    @property
    def is_vit(self) -> bool:
        """Whether the vision tower is a ViT."""
        return self.twin.config.vision_config.model_type == "clip_hf_vit"

    def forward(self, pixel_values: torch.Tensor | None = None, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        """Cosines (images, texts), and the vision tower's output."""
        pixel_values = self.pixel_values if pixel_values is None else pixel_values
        output = self.twin.get_image_features(pixel_values, interpolate_pos_encoding=True, **kwargs)
        return nn.functional.normalize(output.pooler_output, dim=-1) @ self.text_embeds.T, output

    def attentions(self, output: Any) -> tuple[torch.Tensor, ...]:
        """The weights (images, heads, queries, keys) of the layers that count, the last one last."""
        found = output.attentions
        number = {"all": len(found), "last": 1}.get(self.layers, self.layers)
        if isinstance(number, str) or check_whole("layers", number, 1) > len(found):
            raise ValueError(
                f"`layers` is {self.layers!r}; it must be 'all', 'last', or a number of last layers from 1 to "
                f"{len(found)}."
            )
        return found[-number:]

    def grid(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., places) -> (..., rows, columns)."""
        height, width = self.pixel_values.shape[2:]
        if self.is_vit:
            patch = self.twin.config.vision_config.patch_size
            return tokens.unflatten(-1, (height // patch, width // patch))
        return tokens.unflatten(-1, (height // 32, width // 32))


def chefer_maps(request: Request) -> torch.Tensor:
    """Gradient-weighted attention relevance (Chefer et al. 2021): from layer to layer
    `R <- R + mean over heads of (gradient x attention, where positive) R`, and the pooled token's row of it.

    The gradient is of the logit, `exp(logit_scale)` times the cosine, as in the authors' code. A ResNet has one such
    layer, the attention pool.
    """
    with torch.enable_grad():
        cosines, output = request.forward(request.pixel_values.requires_grad_(), output_attentions=True)
        attentions = request.attentions(output)
        logits = request.twin.logit_scale.exp() * cosines
        return torch.stack([_chefer_map(request, column, attentions) for column in logits.unbind(1)], dim=1)


def _chefer_map(request: Request, logits: torch.Tensor, attentions: tuple[torch.Tensor, ...]) -> torch.Tensor:
    gradients = torch.autograd.grad(logits.sum(), attentions, retain_graph=True)
    size = attentions[0].shape[-1]
    relevance = torch.eye(size, dtype=torch.promote_types(logits.dtype, torch.float32), device=logits.device)
    for gradient, weights in zip(gradients, attentions, strict=True):
        weighted = (
            (gradient * weights).detach().to(relevance.dtype).clamp(min=0).mean(dim=1)
        )  # (images, queries, keys)
        relevance = weighted if weights.shape[2] == 1 else relevance + weighted @ relevance
    return request.grid(relevance[:, 0, 1:])


def grad_cam_maps(request: Request) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of the cosine: channels weighted by their mean gradient, where positive.

    The features are a ResNet's last feature map, before the attention pool, or a ViT's patches before the last
    layer, after which no gradient reaches them.
    """
    with torch.enable_grad():
        pixel_values = request.pixel_values.requires_grad_()
        cosines, output = request.forward(pixel_values, output_hidden_states=True)
        features = output.hidden_states[-2] if request.is_vit else output.last_hidden_state
        maps = []
        for column in cosines.unbind(1):
            (gradient,) = torch.autograd.grad(column.sum(), features, retain_graph=True)
            values, gradient = features.detach().float(), gradient.float()
            if request.is_vit:  # (images, 1 + patches, hidden_size)
                cam = (values * gradient[:, 1:].mean(dim=1, keepdim=True)).sum(dim=-1)[:, 1:]
            else:  # (images, hidden_size, rows, columns)
                cam = (values * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).flatten(1)
            maps.append(request.grid(cam.clamp(min=0)))
        return torch.stack(maps, dim=1)


METHODS: dict[str, Callable[[Request], torch.Tensor]] = {"chefer": chefer_maps, "grad_cam": grad_cam_maps}
"""How maps can be made, by name."""


def default_method(model: nn.Module) -> str:
    """Return the method for a model's tower: `"chefer"` for a ViT, `"grad_cam"` for a ResNet."""
    return "chefer" if model.config.vision_config.model_type == "clip_hf_vit" else "grad_cam"


def image_maps(
    model: nn.Module,
    pixel_values: torch.Tensor,
    text_embeds: torch.Tensor,
    method: str | None = None,
    *,
    layers: str | int = "all",
    window: int | None = None,
    stride: int | None = None,
) -> torch.Tensor:
    """Return how much each place of images speaks for texts."""
    method = method or default_method(model)
    if method not in METHODS:
        raise ValueError(
            f"`method` is {method!r}; it must be one of {', '.join(METHODS)}.{did_you_mean(method, METHODS)}"
        )
    pixel_values = pixel_values.detach().clone()
    request = Request(attention_twin(model), pixel_values, text_embeds.detach(), layers, window, stride)
    return METHODS[method](request).detach().float()
