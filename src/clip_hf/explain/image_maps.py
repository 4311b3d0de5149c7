# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Relevance of the places of an image for texts. Maps are (images, texts, rows, columns)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..model.checks_clip_hf import check_whole, did_you_mean, type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_base import check_pixel_values
from .attention_twin import attention_twin, check_explainable


# Covered images that go through the model at once.
_OCCLUDED_BATCH = 64
# Pixels between the places of a ResNet's last feature map (Radford et al. 2021, section 2.4; He et al. 2016, table 1).
_RESNET_STRIDE = 32


@dataclass
class MapRequest:
    """What a method is asked: images, texts, and a twin of the model ([`attention_twin`]).

    Args:
        twin ([`ClipHFModel`]): The twin, whose weights may be of any dtype.
        pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): As the processor makes them.
        text_embeds (`torch.Tensor` of shape `(texts, dim)`): L2-normalised.
        layers (`"all"`, `"last"` or `int`): Which attention layers count: so many of the last.
        window, stride (`int`, *optional*): Occlusion: pixels of the covered square's edge, and of its steps.
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
        return is_vit(self.twin)

    def cosines(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        """Cosines `(images, texts)`, and the vision tower's output."""
        output = self.twin.get_image_features(pixel_values, interpolate_pos_encoding=True, **kwargs)
        embeds = output.pooler_output.to(self.text_embeds.dtype)
        return nn.functional.normalize(embeds, dim=-1) @ self.text_embeds.T, output

    def attentions(self, output: Any) -> tuple[torch.Tensor, ...]:
        """The weights `(images, heads, queries, keys)` of the layers that count, the last one last."""
        return last_layers(output.attentions, self.layers)

    def grid_size(self, output: Any) -> tuple[int, int]:
        """Rows and columns of a ViT's patches, or of a ResNet's last feature map."""
        if not self.is_vit:
            return tuple(output.last_hidden_state.shape[2:])
        patch = self.twin.config.vision_config.patch_size
        return self.pixel_values.shape[2] // patch, self.pixel_values.shape[3] // patch


def is_vit(model: ClipHFModel) -> bool:
    """Whether a model's vision tower is a ViT and not a ResNet."""
    return model.config.vision_config.model_type == "clip_hf_vit"


def cell_size(model: ClipHFModel) -> int:
    """Edge of a map's cell in pixels of the model's input; the first cell begins at the top left.

    Cells need not cover an input whose edges are no multiple of it: a ViT leaves out the rest, a ResNet's last places
    see it.
    """
    config = model.config.vision_config
    return config.patch_size if is_vit(model) else _RESNET_STRIDE


def last_layers(each: Sequence[Any], layers: str | int) -> Sequence[Any]:
    """What belongs to the layers that `layers` names, of `each` layer: `"all"`, `"last"`, or so many of the last.

    Raises:
        ValueError: if there are not so many, or it is none of these.
    """
    number = {"all": len(each), "last": 1}.get(layers, layers) if isinstance(layers, str) else layers
    if isinstance(number, str) or check_whole("layers", number, 1) > len(each):
        raise ValueError(
            f"`layers` is {layers!r}; it must be 'all', 'last', or how many of the last layers count, 1 to "
            f"{len(each)} in this model."
        )
    return each[len(each) - number :]


def attention_relevance(scores: torch.Tensor, attentions: tuple[torch.Tensor, ...], keep_graph: bool) -> torch.Tensor:
    """Chefer's relevance of each token for each other, `(batch, queries, keys)`.

    `scores` are summed; score i of the batch must depend on row i of the weights `(batch, heads, queries, keys)` only.
    """
    gradients = torch.autograd.grad(scores.sum(), attentions, retain_graph=keep_graph)
    dtype = torch.promote_types(attentions[0].dtype, torch.float32)
    relevance = torch.eye(attentions[0].shape[-1], dtype=dtype, device=scores.device)
    for gradient, weights in zip(gradients, attentions, strict=True):
        weighted = (gradient.to(dtype) * weights.detach().to(dtype)).clamp(min=0).mean(dim=1)
        # The attention pool has one query, the mean, which is no token of the map.
        relevance = weighted if weights.shape[2] == 1 else relevance + weighted @ relevance
    return relevance


def chefer_maps(request: MapRequest) -> torch.Tensor:
    """Gradient-weighted attention relevance (Chefer et al. 2021, section 3.2): from layer to layer
    `R <- R + (mean over heads of (gradient x attention) where positive) R`; a map is the pooled token's row of R.

    The gradient is that of the logit, `exp(logit_scale)` times the cosine, as in the authors' code for CLIP. A ResNet
    has one attention layer, its attention pool.
    """
    cosines, output = request.cosines(request.pixel_values.requires_grad_(), output_attentions=True)
    attentions, grid = request.attentions(output), request.grid_size(output)
    logits = request.twin.logit_scale.detach().exp() * cosines
    maps = [attention_relevance(column, attentions, True)[:, 0, 1:] for column in logits.unbind(1)]
    return torch.stack(maps, dim=1).unflatten(-1, grid)


def grad_cam_maps(request: MapRequest) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the cosine: the channels' sum, each weighted by its mean
    gradient, where positive.

    The features are a ResNet's last feature map, before the attention pool, or a ViT's patches before the last layer:
    after it no gradient reaches them, because only the class token is pooled.
    """
    cosines, output = request.cosines(request.pixel_values.requires_grad_(), output_hidden_states=True)
    features = output.hidden_states[-2] if request.is_vit else output.last_hidden_state
    grid, maps = request.grid_size(output), []
    for column in cosines.unbind(1):
        (gradient,) = torch.autograd.grad(column.sum(), features, retain_graph=True)
        values, gradient = (x.detach().to(request.text_embeds.dtype) for x in (features, gradient))
        if request.is_vit:  # (images, 1 + patches, hidden_size)
            cam = (values * gradient[:, 1:].mean(dim=1, keepdim=True)).sum(dim=-1)[:, 1:]
        else:  # (images, hidden_size, rows, columns)
            cam = (values * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1).flatten(1)
        maps.append(cam.clamp(min=0))
    return torch.stack(maps, dim=1).unflatten(-1, grid)


@torch.no_grad()
def rollout_maps(request: MapRequest) -> torch.Tensor:
    """Attention rollout (Abnar and Zuidema 2020, section 3): the product over the layers of `(A + I) / 2`, A the mean
    over heads; a map is the pooled token's row. It is the same for every text. A ResNet's is its attention pool's A.
    """
    _, output = request.cosines(request.pixel_values, output_attentions=True)
    rollout = None
    for weights in request.attentions(output):
        mean = weights.to(request.text_embeds.dtype).mean(dim=1)  # (images, queries, keys)
        if mean.shape[1] > 1:
            mean = (mean + torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)) / 2
        rollout = mean if rollout is None else mean @ rollout
    maps = rollout[:, 0, 1:].unflatten(-1, request.grid_size(output))
    return maps[:, None].expand(-1, len(request.text_embeds), -1, -1).clone()


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixel of each window along an edge; the last window ends at the edge."""
    return sorted({*range(0, length - window + 1, stride), length - window})


@torch.no_grad()
def occlusion_maps(request: MapRequest) -> torch.Tensor:
    """Occlusion (Zeiler and Fergus 2014, section 4.2): how much the cosine drops when a square is covered with the
    image's mean colour; negative where it rises. It needs no gradient and no attention, so it is the plain reference.

    A pixel's value is the mean over the squares that cover it; a map's cell, `stride` pixels wide, has the mean of its
    pixels. By default a cell is one of the grid, and a square two of them, half the image at most. A smaller `window`
    alone steps by itself.
    """
    pixel_values = request.pixel_values
    images, _, height, width = pixel_values.shape
    whole, output = request.cosines(pixel_values)
    rows, columns = request.grid_size(output)
    shorter = min(height, width)
    cell = cell_size(request.twin) if request.stride is None else check_whole("stride", request.stride, 1)
    default = (
        min(max(cell, min(2 * cell, shorter // 2)), shorter) if request.stride is None else min(2 * cell, shorter)
    )
    window = default if request.window is None else check_whole("window", request.window, 1)
    stride = min(cell, window) if request.stride is None else cell
    if window > shorter or stride > window:
        raise ValueError(
            f"`window` is {window} and `stride` {stride} pixels; the window must fit into the image of {height} x "
            f"{width}, and the stride must not exceed the window, or pixels would be left out."
        )
    starts = [(y, x) for y in window_starts(height, window, stride) for x in window_starts(width, window, stride)]
    colour = pixel_values.mean(dim=(2, 3))[..., None, None]
    drops = whole.new_zeros(images, len(request.text_embeds), height, width)
    counts = whole.new_zeros(height, width)
    per_batch = max(1, _OCCLUDED_BATCH // max(1, images))
    for begin in range(0, len(starts), per_batch):
        part = starts[begin : begin + per_batch]
        covered = pixel_values.repeat(len(part), 1, 1, 1)  # (windows * images, 3, height, width)
        for index, (y, x) in enumerate(part):
            covered[index * images : (index + 1) * images, :, y : y + window, x : x + window] = colour
        cosines = request.cosines(covered, pooled_only=True)[0].unflatten(0, (len(part), images))
        for (y, x), cosine in zip(part, cosines, strict=True):
            drops[..., y : y + window, x : x + window] += (whole - cosine)[..., None, None]
            counts[y : y + window, x : x + window] += 1
    cells = nn.functional.avg_pool2d(drops / counts, cell, ceil_mode=True)
    return cells[..., :rows, :columns] if request.stride is None else cells


METHODS: dict[str, Callable[[MapRequest], torch.Tensor]] = {
    "chefer": chefer_maps,
    "grad_cam": grad_cam_maps,
    "rollout": rollout_maps,
    "occlusion": occlusion_maps,
}
"""How maps are made, by name: each is a function of a `MapRequest`."""
UNITS = {
    "chefer": "relevance, without a unit",
    "grad_cam": "relevance, without a unit",
    "rollout": "share of attention",
    "occlusion": "drop of the cosine",
}
"""What the values of each of `METHODS` are."""
_USES_LAYERS = ("chefer", "rollout")


def check_relevance(values: torch.Tensor) -> torch.Tensor:
    """Return the values; FloatingPointError if one is not finite."""
    if not values.isfinite().all():
        raise FloatingPointError(
            "The relevance holds NaN or infinite values: the model's weights are damaged, or its dtype is too small "
            "for them. Look at the weights, or use float32."
        )
    return values


def default_method(model: nn.Module) -> str:
    """Return the method for a model's tower: `"chefer"` for a ViT, `"grad_cam"` for a ResNet.

    Args:
        model ([`ClipHFModel`]): The model; a TypeError for one of another class.
    """
    return "chefer" if is_vit(check_explainable(model)) else "grad_cam"


def check_method(method: str | None, model: nn.Module) -> str:
    """Return the method's name, the default for `None`; ValueError, with the names, if there is none of this name."""
    if method is None:
        return default_method(model)
    if method not in METHODS:
        raise ValueError(
            f"`method` is {method!r}; it must be one of {', '.join(METHODS)}.{did_you_mean(method, METHODS)}"
        )
    return method


def _check_options(method: str, layers: str | int, window: int | None, stride: int | None) -> None:
    if layers != "all" and method not in _USES_LAYERS:
        raise ValueError(f"`layers` is {layers!r}, but {method} has no such choice; {' and '.join(_USES_LAYERS)} do.")
    if method != "occlusion" and not (window is stride is None):
        raise ValueError(f"`window` and `stride` belong to the method occlusion, not {method}.")


def _check_text_embeds(text_embeds: torch.Tensor, dim: int) -> None:
    if not isinstance(text_embeds, torch.Tensor):
        raise TypeError(f"`text_embeds` is {type_of(text_embeds)}; it must be a tensor, as `encode_text` returns it.")
    if text_embeds.ndim != 2 or text_embeds.shape[1] != dim or not len(text_embeds):
        raise ValueError(
            f"`text_embeds` has the shape {tuple(text_embeds.shape)}; it must be (texts, {dim}), of at least one text."
        )
    norms = text_embeds.detach().float().norm(dim=-1)
    if not ((norms - 1).abs() < 0.02).all():
        raise ValueError(
            f"`text_embeds` has rows of length {norms.min():.3g} to {norms.max():.3g}; they must be L2-normalised, as "
            "`encode_text` returns them."
        )


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
    """Return how much each place of images speaks for texts.

    The model is not changed, whatever its attention implementation, mode and dtype. There is one pass of the image
    tower for all texts, and one backward from the image embedding for each; occlusion takes a pass for each square.

    Args:
        model ([`ClipHFModel`]): A CLIP with either vision tower.
        pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): As the processor makes them; positions are
            interpolated for other sizes than the tower's.
        text_embeds (`torch.Tensor` of shape `(texts, dim)`): L2-normalised, of `encode_text` or a text classifier.
        method (`str`, *optional*): One of `METHODS`; by default `"chefer"` for a ViT, `"grad_cam"` for a ResNet.
        layers (`"all"`, `"last"` or `int`, *optional*, defaults to `"all"`): Which attention layers count in chefer
            and rollout: so many of the last. The authors' code for CLIP defaults to the last.
        window (`int`, *optional*): Occlusion: edge of the covered square in pixels; by default two cells of the grid.
        stride (`int`, *optional*): Occlusion: pixels between squares, and the edge of a cell of the map; by default a
            cell of the grid.

    Returns:
        `torch.Tensor` of shape `(images, texts, rows, columns)`, float32: a value for each patch of a ViT, or each
        place of a ResNet's last feature map. The units differ: chefer's and Grad-CAM's are not negative and have none,
        rollout's are shares of attention, occlusion's are differences of cosines.

    Raises:
        TypeError: if the model is of another class, or an input is no tensor.
        ValueError: if the method is unknown or has no such option, or a shape is wrong.
        FloatingPointError: if values are not finite, as those of a model with NaN among its weights.

    Sources: Chefer et al. 2021 (arXiv:2103.15679), Selvaraju et al. 2017 (arXiv:1610.02391), Abnar and Zuidema 2020
    (arXiv:2005.00928), Zeiler and Fergus 2014 (arXiv:1311.2901).
    """
    plain, method = check_explainable(model), check_method(method, model)
    _check_options(method, layers, window, stride)
    check_pixel_values(pixel_values, plain.config.vision_config.num_channels)
    _check_text_embeds(text_embeds, plain.config.projection_dim)
    with torch.inference_mode(False), torch.enable_grad():
        dtype = torch.promote_types(plain.dtype, torch.float32)
        pixel_values = pixel_values.detach().to(plain.device, plain.dtype, copy=True)
        text_embeds = text_embeds.detach().to(plain.device, dtype, copy=True)
        request = MapRequest(attention_twin(plain), pixel_values, text_embeds, layers, window, stride)
        return check_relevance(METHODS[method](request).detach().float())
