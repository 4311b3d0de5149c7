# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""TextSpan (Gandelsman et al. 2024): what each attention head adds to the image embedding, and which texts span it.

Shapes: n images, l layers, h heads, d the shared space, m texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..model.checks_clip_hf import check_whole, type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_base import check_pixel_values
from .attention_twin import attention_twin
from .image_maps import is_vit, last_layers


# Below this share of its size a vector counts as zero: it is the rounding of float64, over some hundred steps.
_ZERO = 1e-10


@dataclass(frozen=True)
class HeadContributions:
    """What the parts of a vision tower add to an image embedding before it is normalised.

    Args:
        heads (`torch.Tensor` of shape `(n, l, h, d)`): Direct contribution of each attention head.
        mlps (`torch.Tensor` of shape `(n, l, d)`): Direct contribution of each MLP; `(n, 0, d)` of a ResNet.
        rest (`torch.Tensor` of shape `(n, d)`): All else: the layers before, and the biases.
        layers (`tuple[int, ...]`): Numbers of the layers, from 0; a ResNet's attention pool is layer 0.
    """

    heads: torch.Tensor
    mlps: torch.Tensor
    rest: torch.Tensor
    layers: tuple[int, ...]

    @property
    def image_features(self) -> torch.Tensor:
        """The sum of all parts `(n, d)`: the model's image features before they are normalised."""
        return self.heads.sum(dim=(1, 2)) + self.mlps.sum(dim=1) + self.rest


@dataclass(frozen=True)
class TextSpan:
    """The texts that span what one head adds, best first.

    Args:
        layer, head (`int`): Which head, from 0.
        texts (`tuple[str, ...]`): The chosen texts; fewer than were asked for if they already span all there is.
        explained (`tuple[float, ...]`): Share of the head's variance over the images that the first 1, 2, ... texts
            explain together, 0 to 1.
        variance (`float`): The head's variance over the images: the mean squared distance from its mean.
    """

    layer: int
    head: int
    texts: tuple[str, ...]
    explained: tuple[float, ...]
    variance: float


@torch.no_grad()
def head_contributions(
    model: ClipHFModel, pixel_values: torch.Tensor, *, layers: str | int | None = None, batch_size: int = 32
) -> HeadContributions:
    """Split image embeddings into what each attention head adds directly (Gandelsman et al. 2024, section 3).

    The class token of a ViT is a sum of what its layers add. The final LayerNorm subtracts a mean and divides by a
    deviation; with the deviation that the image has, it and the projection are linear, so the sum stays one. A head's
    effect through later layers is not in its contribution. A ResNet's attention pool is one layer, whose heads and
    the projection's bias make up the embedding.

    Args:
        model ([`ClipHFModel`]): The model, also compiled or with adapters of peft; it is left as it is.
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Images of the model's size from the processor.
        layers (`"all"`, `"last"` or `int`, *optional*): Which layers are split, as in [`image_maps`]: so many of a
            ViT's last, and a ResNet has one; what the layers before add is in `rest`. By default the last four, as in
            the paper, or all where there are fewer.
        batch_size (`int`, *optional*, defaults to 32): Images at once.

    Returns:
        [`HeadContributions`], on the model's device, at least float32. Its sum is `get_image_features`.

    Raises:
        TypeError: if the model is no [`ClipHFModel`], or `pixel_values` no tensor.
        ValueError: if there are no images or they have a wrong shape, or a number is out of range.
    """
    model = attention_twin(model)
    check_pixel_values(pixel_values, model.config.vision_config.num_channels)
    if len(pixel_values) == 0:
        raise ValueError("`pixel_values` has no images; give at least one.")
    check_whole("batch_size", batch_size, 1)
    count = model.config.vision_config.num_hidden_layers if is_vit(model) else 1
    numbers = tuple(last_layers(range(count), min(4, count) if layers is None else layers))
    parts = []
    for batch in pixel_values.to(model.device).split(batch_size):
        parts.append(_vit_parts(model, batch, numbers[0]) if is_vit(model) else _pool_parts(model, batch))
    heads, mlps, rest = (torch.cat(each) for each in zip(*parts))
    return HeadContributions(heads, mlps, rest, numbers)


def text_spans(
    contributions: HeadContributions | torch.Tensor,
    text_embeds: torch.Tensor,
    texts: Sequence[str],
    num: int = 5,
) -> list[TextSpan]:
    """Find the few texts whose directions explain most of what each head adds (Gandelsman et al. 2024, algorithm 1).

    The text whose products with the head's contributions vary most over the images is taken, its direction is removed
    from contributions and texts, and so on. As in the authors' code, contributions are centred, and texts are first
    projected onto what contributions span. A name tells what a head tells images apart by, if the bank has it: with
    few or one-sided texts the best one may still explain little, so read `explained`.

    Args:
        contributions ([`HeadContributions`] or `torch.Tensor` of shape `(n, l, h, d)`): Of at least two images.
        text_embeds (`torch.Tensor` of shape `(m, d)`): Embeddings of the texts.
        texts (`Sequence[str]`): The m texts.
        num (`int`, *optional*, defaults to 5): How many texts to choose for each head.

    Returns:
        `list[TextSpan]`: one for each layer and head, heads of one layer together. A head that adds the same to every
        image has no texts.

    Raises:
        ValueError: if shapes do not fit, `num` is below 1, or there are NaN.
        TypeError: if contributions or embeddings are not tensors.
    """
    heads = contributions.heads if isinstance(contributions, HeadContributions) else contributions
    numbers = contributions.layers if isinstance(contributions, HeadContributions) else range(10**6)
    _check_span_inputs(heads, text_embeds, texts, num)
    directions = text_embeds.detach().double().cpu().numpy()
    values = heads.detach().double().cpu().numpy()
    spans = []
    for place, layer in zip(range(values.shape[1]), numbers):
        for head in range(values.shape[2]):
            chosen, explained, variance = _greedy_span(values[:, place, head], directions, num)
            names = tuple(texts[row] for row in chosen)
            spans.append(TextSpan(layer, head, names, tuple(explained), variance))
    return spans


# -------------------------------------------------------------------------------------------------- contributions


def _linear_part(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """An affine layer without its bias. It is called, because its weight may be wrapped (peft) or quantised."""
    return module(x) - module(torch.zeros_like(x[:1]))


def _by_head(values: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(n, width) -> (n, h, width): what each head has, and zero elsewhere."""
    width = values.shape[-1]
    head_of = torch.arange(width, device=values.device) // (width // num_heads)
    mask = head_of == torch.arange(num_heads, device=values.device)[:, None]  # (h, width)
    return values[:, None] * mask


def _widened(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _vit_parts(model: ClipHFModel, pixel_values: torch.Tensor, first: int) -> tuple[torch.Tensor, ...]:
    """Contributions, from the layer `first` on, of heads (n, l, h, d) and MLPs (n, l, d), and the rest (n, d)."""
    tower = model.vision_model
    stream = tower.pre_layrnorm(tower.embeddings(pixel_values))  # (n, tokens, width)
    for layer in tower.encoder.layers[:first]:
        stream = layer(stream)
    before, heads, mlps, biases = stream[:, 0], [], [], []
    for layer in tower.encoder.layers[first:]:
        attention = layer.self_attn
        normalised = layer.layer_norm1(stream)
        joined, _ = attention.attend(normalised[:, :1], normalised)  # the class token's, heads side by side
        each = _by_head(joined[:, 0], attention.num_heads)
        heads.append(_linear_part(attention.out_proj, each))
        bias = attention.out_proj(torch.zeros_like(joined[:, 0]))
        biases.append(bias)
        class_token = stream[:, 0] + heads[-1].sum(dim=1) + bias
        mlps.append(layer.mlp(layer.layer_norm2(class_token)))
        stream = layer(stream)
    total = _widened(stream[:, 0])
    norm = tower.post_layernorm
    deviation = (total.var(dim=-1, correction=0) + norm.eps).sqrt()  # (n,)

    def project(part: torch.Tensor) -> torch.Tensor:
        """(n, ..., width) -> (n, ..., d), through the final LayerNorm and the projection without their biases."""
        part = _widened(part)
        part = part - part.mean(dim=-1, keepdim=True)
        scaled = part / deviation.view(-1, *[1] * (part.ndim - 1)) * norm.weight
        return _widened(_linear_part(model.visual_projection, scaled.to(model.visual_projection.weight.dtype)))

    constant = model.visual_projection(norm.bias)
    rest = project(before + torch.stack(biases).sum(dim=0)) + constant
    return project(torch.stack(heads, dim=1)), project(torch.stack(mlps, dim=1)), rest


def _pool_parts(model: ClipHFModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Contributions of the attention pool's heads (n, 1, h, d), of no MLPs (n, 0, d), and the bias (n, d)."""
    tower = model.vision_model
    pooled = tower(pixel_values, pooled_only=True).pooler_output
    heads = _widened(_linear_part(model.visual_projection, _by_head(pooled, tower.attention_pool.num_heads)))
    rest = _widened(model.visual_projection(torch.zeros_like(pooled)))
    return heads[:, None], heads.new_empty(len(heads), 0, heads.shape[-1]), rest


# ---------------------------------------------------------------------------------------------------------- spans


def _check_span_inputs(heads: torch.Tensor, text_embeds: torch.Tensor, texts: Sequence[str], num: int) -> None:
    for name, value in (("contributions", heads), ("text_embeds", text_embeds)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"`{name}` is {type_of(value)}; it must be a tensor, as the model makes it.")
        if not value.isfinite().all():
            raise ValueError(f"`{name}` has NaN or infinity; look at the images, or compute in float32.")
    if heads.ndim != 4 or len(heads) < 2:
        raise ValueError(
            f"`contributions` has the shape {tuple(heads.shape)}; it must be (images, layers, heads, dim) with two "
            "images or more, as `head_contributions` makes it: texts are chosen by how they vary over images."
        )
    if text_embeds.ndim != 2 or text_embeds.shape[1] != heads.shape[3] or len(text_embeds) != len(texts):
        raise ValueError(
            f"`text_embeds` has the shape {tuple(text_embeds.shape)}; with {len(texts)} texts and contributions of "
            f"{heads.shape[3]} dimensions it must be ({len(texts)}, {heads.shape[3]})."
        )
    if len(texts) == 0 or num < 1:
        raise ValueError(f"There are {len(texts)} texts and `num` is {num}; both must be 1 or more.")


def _greedy_span(values: np.ndarray, directions: np.ndarray, num: int) -> tuple[list[int], list[float], float]:
    """Rows of the chosen texts, the share of variance that they explain together, and the variance.

    Only products of contributions (n, d) and of texts (m, d) with the chosen directions are kept up to date, so that
    a step takes n times m operations and not d times as many.
    """
    values = values - values.mean(axis=0)
    _, sizes, basis = np.linalg.svd(values, full_matrices=False)
    total = float((sizes**2).sum())
    # A head that adds the same everywhere differs by rounding only.
    basis = basis[sizes > 1e-7 * max(1.0, sizes.max(initial=0.0))]
    if not len(basis):
        return [], [], total / len(values)
    # Coordinates in the span of the contributions, in which texts are projected onto it.
    values, directions = values @ basis.T, directions @ basis.T
    products = values @ directions.T  # (n, m)
    lengths = (directions**2).sum(axis=1)  # of what is left of each text
    enough = _ZERO * lengths.max()
    left, chosen, explained = total, [], []
    for _ in range(min(num, len(directions))):
        scores = np.where(lengths > enough, (products**2).sum(axis=0), -1.0)
        best = int(scores.argmax())
        if scores[best] <= _ZERO * total * lengths.max():
            break
        unit = directions[best] / np.sqrt(lengths[best])
        along = products[:, best] / np.sqrt(lengths[best])  # contributions along the new direction
        of_texts = directions @ unit
        left -= float((along**2).sum())
        products -= np.outer(along, of_texts)
        directions = directions - np.outer(of_texts, unit)
        lengths = np.maximum((directions**2).sum(axis=1), 0.0)
        chosen.append(best)
        explained.append(min(1.0, 1 - left / total))
    return chosen, explained, total / len(values)
