# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP's modified ResNet. Feature maps are (batch, channels, height, width) throughout."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from itertools import count

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .checks_clip_hf import type_of
from .configuration_clip_hf import ClipHFResNetConfig
from .linear_clip_hf import convolutions_fuse, runs_plainly
from .modeling_clip_hf_base import (
    ClipHFFoldedBatchNorm,
    ClipHFMultiHeadAttention,
    ClipHFPreTrainedModel,
    check_pixel_values,
    first_embeddings,
    init_like_torch_linear_,
    init_normal_,
    interpolate_positions,
    known_kwargs,
    unused_weights,
)


class ClipHFBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that can be frozen: it then uses its running statistics in training mode too."""

    frozen = False

    def freeze_statistics(self, freeze_affine: bool) -> None:
        self.frozen = True
        self.eval()
        if freeze_affine:
            self.requires_grad_(False)

    def train(self, mode: bool = True):
        return super().train(mode and not self.frozen)


@contextmanager
def _untracked_statistics(module: nn.Module):
    """Let BatchNorm layers update copies of their running statistics; on exit the copies are discarded."""
    layers = [layer for layer in module.modules() if getattr(layer, "track_running_stats", False)]
    buffers = [dict(layer._buffers) for layer in layers]
    for layer in layers:
        layer._buffers.update({name: buffer.clone() for name, buffer in layer._buffers.items()})
    try:
        yield
    finally:
        for layer, originals in zip(layers, buffers, strict=True):
            layer._buffers.update(originals)


def _recomputable(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Forward for gradient checkpointing: the second call, in the backward pass, leaves BatchNorm statistics alone."""
    calls = count()

    def forward(x: torch.Tensor) -> torch.Tensor:
        with _untracked_statistics(module) if next(calls) else nullcontext():
            return module(x)

    return forward


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the layer computes what its class does, with weights in memory, and nobody listens to it."""
    if type(layer) is not kind or "forward" in vars(layer):
        return False
    if any(getattr(layer, f"_{name}_hooks") for name in ("forward", "forward_pre", "backward", "backward_pre")):
        return False
    tensors = [layer._parameters.get("weight")]  # pruned weights are no parameters
    if kind is ClipHFBatchNorm2d:
        tensors += [layer.bias, layer.running_mean, layer.running_var]
    elif layer.bias is not None:  # ours have none
        return False
    return type(tensors[0]) is nn.Parameter and not any(tensor is None or tensor.is_meta for tensor in tensors)


class ClipHFConvolutions(nn.Module):
    """Base of the modules whose convolutions `conv`, `conv1`, ... are each followed by a BatchNorm `bn`, `bn1`, ..."""

    def pairs(self) -> list[tuple[str, nn.Module, nn.Module]]:
        """Name of each BatchNorm that is not folded, its convolution, and itself."""
        names = [name for name, _ in self.named_children() if name.startswith("bn")]
        layers = [(name, getattr(self, name.replace("bn", "conv")), getattr(self, name)) for name in names]
        return [each for each in layers if not isinstance(each[2], ClipHFFoldedBatchNorm)]

    def check_foldable(self) -> None:
        """Raise ValueError unless all convolutions and norms are plain layers with weights in memory."""
        for name, *layers in self.pairs():
            for layer, kind in zip(layers, (nn.Conv2d, ClipHFBatchNorm2d), strict=True):
                if not _is_plain(layer, kind):
                    raise ValueError(
                        f"`fold_batch_norm` needs plain layers in memory; the one at `{name}` or before it is "
                        f"{type_of(layer)} that is wrapped, replaced, hooked, pruned or offloaded, or lacks "
                        "weights or statistics. Merge adapters (`merge_and_unload()`), remove hooks, make pruning "
                        "permanent, and load the model onto one device first."
                    )

    @torch.no_grad()
    def fold_batch_norm_(self) -> None:
        """Give the convolutions the norms' scale and shift, and drop the norms."""
        for name, conv, norm in self.pairs():
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            weight = (conv.weight.double() * scale[:, None, None, None]).to(conv.weight.dtype)
            conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
            conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
            setattr(self, name, ClipHFFoldedBatchNorm())


def _convolve(
    conv: nn.Module, norm: nn.Module, x: torch.Tensor, residual: torch.Tensor | None = None, relu: bool = True
) -> torch.Tensor:
    """Convolution, BatchNorm, sum with the residual and ReLU, by one operator where the BatchNorm is folded."""
    inputs = (x,) if residual is None else (x, residual)
    is_folded = isinstance(norm, ClipHFFoldedBatchNorm) and not torch.compiler.is_compiling()
    is_folded = is_folded and not (norm._forward_hooks or norm._forward_pre_hooks)
    if is_folded and convolutions_fuse() and runs_plainly(conv, nn.Conv2d, *inputs):
        settings = conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
        sums = () if residual is None else ("add", 1.0)
        return torch.ops.mkldnn._convolution_pointwise(*inputs, *settings, *sums, "relu" if relu else "none", [], "")
    x = norm(conv(x))
    x = x if residual is None else x + residual
    return nn.functional.relu(x, inplace=True) if relu else x


class ClipHFResNetStem(ClipHFConvolutions):
    """The first layers. Unlike the usual ResNet's:

    - three 3x3 convolutions, the first with stride 2, instead of one 7x7;
    - an average pool instead of a max pool.
    """

    def __init__(self, config: ClipHFResNetConfig):
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(config.num_channels, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = ClipHFBatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = ClipHFBatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = ClipHFBatchNorm2d(width)
        self.pool = nn.AvgPool2d(2)

    def init_weights_(self, factor: float) -> None:
        for convolution in (self.conv1, self.conv2, self.conv3):
            init_like_torch_linear_(convolution, factor)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = _convolve(self.conv1, self.bn1, pixel_values)
        x = _convolve(self.conv2, self.bn2, x)
        x = _convolve(self.conv3, self.bn3, x)
        return self.pool(x)  # (batch, width, height / 4, width / 4)


class ClipHFResNetShortcut(ClipHFConvolutions):
    """The shortcut of a block that changes the shape; it averages before it projects, so no pixel is skipped."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.bn = ClipHFBatchNorm2d(out_channels)

    def init_weights_(self, factor: float) -> None:
        init_like_torch_linear_(self.conv, factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _convolve(self.conv, self.bn, self.pool(x), relu=False)


class ClipHFResNetBottleneck(ClipHFConvolutions):
    """A residual block of 1x1, 3x3 and 1x1 convolutions. Unlike the usual one, every convolution has stride 1; where
    the block halves the feature map, an average pool stands before the convolution that would (anti-aliasing).
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = ClipHFBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = ClipHFBatchNorm2d(channels)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = ClipHFBatchNorm2d(out_channels)
        changes_shape = stride > 1 or in_channels != out_channels
        self.shortcut = ClipHFResNetShortcut(in_channels, out_channels, stride) if changes_shape else nn.Identity()

    def init_weights_(self, factor: float) -> None:
        for convolution in (self.conv1, self.conv2, self.conv3):
            init_like_torch_linear_(convolution, factor)
        # Each block starts as its shortcut.
        init.zeros_(self.bn3.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(x)
        x = _convolve(self.conv1, self.bn1, x)
        x = _convolve(self.conv2, self.bn2, x)
        return _convolve(self.conv3, self.bn3, self.pool(x), residual)


class ClipHFResNetStage(nn.Module):
    """Blocks of one resolution. In gradient checkpointing each block is recomputed, its statistics updated once."""

    gradient_checkpointing = False

    def __init__(self, in_channels: int, channels: int, depth: int, stride: int):
        super().__init__()
        out_channels = channels * ClipHFResNetBottleneck.expansion
        blocks = [ClipHFResNetBottleneck(in_channels, channels, stride)]
        blocks += [ClipHFResNetBottleneck(out_channels, channels, stride=1) for _ in range(depth - 1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(_recomputable(block), x)
            else:
                x = block(x)
        return x


class ClipHFResNetEncoder(nn.Module):
    """The four stages; all but the first halve the feature map."""

    def __init__(self, config: ClipHFResNetConfig):
        super().__init__()
        stages = []
        in_channels = config.width
        for index, depth in enumerate(config.stage_depths):
            channels = config.width * 2**index
            stages.append(ClipHFResNetStage(in_channels, channels, depth, stride=1 if index == 0 else 2))
            in_channels = channels * ClipHFResNetBottleneck.expansion
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> BaseModelOutput:
        for stage in self.stages:
            x = stage(x)
        return BaseModelOutput(last_hidden_state=x)


class ClipHFAttentionPool(ClipHFMultiHeadAttention):
    """Pools a feature map with one layer of multi-head attention. Unlike the usual global average pool, the average is
    only the query; keys and values are the average and all positions, with learned positions added.

    The output projection of OpenAI's layer is the model's `visual_projection` (with bias), so that the
    pooled features before it are available, as in the vision transformer.
    """

    def __init__(self, config: ClipHFResNetConfig):
        super().__init__(config)
        self.grid_size = config.grid_size
        self.position_embedding = nn.Embedding(config.grid_size**2 + 1, config.hidden_size)

    def init_weights_(self, factor: float) -> None:
        std = factor * self.config.hidden_size**-0.5
        init_normal_(self.position_embedding.weight, std)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            init_normal_(projection.weight, std)
            init_like_torch_linear_(projection, factor, weight=False)

    def embed_places(self, feature_map: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """The average and all places with their positions, `(batch, 1 + height * width, hidden_size)`."""
        height, width = feature_map.shape[2:]
        # (1 + grid_size ** 2, hidden_size)
        positions = first_embeddings(self.position_embedding, self.grid_size**2 + 1, feature_map.device)
        if (height, width) != (self.grid_size, self.grid_size):
            if not interpolate_pos_encoding:
                size = self.config.image_size
                raise ValueError(
                    f"The images give a feature map of {height} x {width}, the tower is made for {self.grid_size} x "
                    f"{self.grid_size} (images of {size} x {size}). Resize them, or pass "
                    "interpolate_pos_encoding=True."
                )
            positions = interpolate_positions(positions, self.grid_size, height, width)
        x = feature_map.flatten(2).transpose(1, 2)  # (batch, height * width, hidden_size)
        return torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + positions.to(x.dtype)

    def forward(self, feature_map: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs):
        """(batch, hidden_size, height, width) -> (batch, hidden_size), and weights (batch, heads, 1, positions)."""
        x = self.embed_places(feature_map, interpolate_pos_encoding)
        pooled, weights = self.attend(x[:, :1], x, **kwargs)  # only this query's output is used
        return pooled[:, 0], weights


class ClipHFResNetModel(ClipHFPreTrainedModel):
    """CLIP's modified ResNet without the projection (Radford et al. 2021, section 2.4).

    - a stem of three convolutions, anti-aliased strides, and attention pooling, instead of the usual ResNet's;
    - `last_hidden_state` is the last feature map `(batch, hidden_size, height / 32, width / 32)`, `pooler_output` the
      attention-pooled features `(batch, hidden_size)`;
    - `hidden_states` are the stem's output and each stage's; `attentions` are the attention pool's weights.
    """

    config_class = ClipHFResNetConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _can_record_outputs = {"hidden_states": ClipHFResNetStage, "attentions": ClipHFAttentionPool}
    # In half precision BatchNorm's statistics stay float32, as OpenAI's do: a variance may exceed float16's range.
    _keep_in_fp32_modules_strict = ["bn", "bn1", "bn2", "bn3"]
    input_embeddings_path = "stem.conv1"
    _keys_to_ignore_on_load_unexpected = unused_weights(
        "text_model", "text_projection", "visual_projection", "logit_scale", "classifier"
    )

    def __init__(self, config: ClipHFResNetConfig):
        super().__init__(config)
        self.stem = ClipHFResNetStem(config)
        self.encoder = ClipHFResNetEncoder(config)
        self.attention_pool = ClipHFAttentionPool(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Embed images, without the projection. Arguments and errors as in [`ClipHFViTModel`].

        With `interpolate_pos_encoding` it is the attention pool's positions that are resized; `pooled_only` leaves out
        `last_hidden_state`, which saves no time here.
        """
        kwargs = known_kwargs(self, kwargs)
        check_pixel_values(pixel_values, self.config.num_channels)
        pixel_values = pixel_values.to(self.stem.conv1.weight.dtype)
        if pixel_values.device.type == "cpu" and not torch.compiler.is_exporting():
            # Channels last is faster: oneDNN would otherwise reorder every feature map, forward and backward. Exported
            # programs keep the usual order, because some runtimes (ExecuTorch) know no other.
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        feature_map = self.encoder(self.stem(pixel_values))[0]
        pooled, _ = self.attention_pool(feature_map, interpolate_pos_encoding, **kwargs)
        if self.only_pools(pooled_only, kwargs):
            feature_map = None
        return BaseModelOutputWithPooling(last_hidden_state=feature_map, pooler_output=pooled)


ClipHFResNetModel.register_for_auto_class("AutoModel")
