# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP's text transformer and Vision Transformer. Hidden states are (batch, length, hidden_size) throughout."""

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_clip_hf import ClipHFTextConfig, ClipHFViTConfig
from .linear_clip_hf import apply_linear
from .modeling_clip_hf_base import (
    ClipHFMultiHeadAttention,
    ClipHFPreTrainedModel,
    PackedTexts,
    check_pixel_values,
    check_tensor,
    first_embeddings,
    init_like_torch_linear_,
    init_normal_,
    interpolate_positions,
    known_kwargs,
    num_rows,
    unused_weights,
)


def _is_text(config) -> bool:
    return config.model_type == ClipHFTextConfig.model_type


class ClipHFAttention(ClipHFMultiHeadAttention):
    """Multi-head self-attention. Causal if the caller says so, by a mask or `is_causal`, as the text tower does."""

    def __init__(self, config: ClipHFTextConfig | ClipHFViTConfig):
        super().__init__(config)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def init_weights_(self, factor: float) -> None:
        width = self.config.hidden_size
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            if _is_text(self.config):
                init_normal_(projection.weight, factor * width**-0.5)
            elif projection.weight is not None:
                # torch's MultiheadAttention draws the three as one matrix (3 * width, width), Xavier-uniformly.
                bound = factor * math.sqrt(6 / (4 * width))
                init.uniform_(projection.weight, -bound, bound)
        if _is_text(self.config):
            init_normal_(self.out_proj.weight, factor * (width * 2 * self.config.num_hidden_layers) ** -0.5)
        else:
            init_like_torch_linear_(self.out_proj, factor)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            if projection.bias is not None:
                init.zeros_(projection.bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pooled_at: tuple | None = None,
        **kwargs,
    ):
        output, weights = self.attend(hidden_states, hidden_states, attention_mask, **kwargs)
        return apply_linear(self.out_proj, output if pooled_at is None else output[pooled_at]), weights


class _QuickGELU(torch.autograd.Function):
    """QuickGELU as a SiLU of `1.702 * x`: two passes over memory backward instead of five, and only `x` is kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x * 1.702).mul_(1 / 1.702)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives, which the operator below lacks
            sigmoid = torch.sigmoid(1.702 * x)
            return grad * (sigmoid + 1.702 * x * sigmoid * (1 - sigmoid))
        return torch.ops.aten.silu_backward(grad, x * 1.702)  # the factor and its inverse cancel out


class ClipHFQuickGELU(nn.Module):
    """`x * sigmoid(1.702 * x)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Compilers fuse the formula themselves, and exported programs have no custom gradients.
        return _QuickGELU.apply(x) if _can_look_at_values(x) else x * torch.sigmoid(1.702 * x)


class ClipHFMLP(nn.Module):
    """Two linear layers with the config's activation between them."""

    def __init__(self, config: ClipHFTextConfig | ClipHFViTConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ClipHFQuickGELU() if config.hidden_act == "quick_gelu" else ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def init_weights_(self, factor: float) -> None:
        init_like_torch_linear_(self.fc1, factor)
        init_like_torch_linear_(self.fc2, factor)
        if _is_text(self.config):
            width = self.config.hidden_size
            init_normal_(self.fc1.weight, factor * (2 * width) ** -0.5)
            init_normal_(self.fc2.weight, factor * (width * 2 * self.config.num_hidden_layers) ** -0.5)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return apply_linear(self.fc2, self.activation_fn(apply_linear(self.fc1, hidden_states)))


class ClipHFEncoderLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer: attention and MLP, each on the normalised stream and added to it.

    With `pooled_at`, an index of the tokens that are pooled, its output is only theirs: `(batch, hidden_size)`.
    """

    def __init__(self, config: ClipHFTextConfig | ClipHFViTConfig):
        super().__init__()
        self.embed_dim = config.hidden_size
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ClipHFAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ClipHFMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pooled_at: tuple | None = None,
        **kwargs,
    ):
        normalised = self.layer_norm1(hidden_states)
        attention_output, _ = self.self_attn(normalised, attention_mask, pooled_at=pooled_at, **kwargs)
        if pooled_at is not None:
            hidden_states = hidden_states[pooled_at]
        hidden_states = hidden_states + attention_output
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class ClipHFEncoder(nn.Module):
    """A stack of transformer layers. `last_hidden_state` is `(batch, length, hidden_size)`; with `pooled_at`, the last
    layer computes only the tokens that are pooled, `(batch, hidden_size)`.
    """

    def __init__(self, config: ClipHFTextConfig | ClipHFViTConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([ClipHFEncoderLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pooled_at: tuple | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        hidden_states = inputs_embeds
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        hidden_states = self.layers[-1](hidden_states, attention_mask, pooled_at=pooled_at, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class ClipHFTextEmbeddings(nn.Module):
    """Token embeddings, of `input_ids` or given as `inputs_embeds`, plus learned positions."""

    def __init__(self, config: ClipHFTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def init_weights_(self, factor: float) -> None:
        init_normal_(self.token_embedding.weight, factor * 0.02)
        init_normal_(self.position_embedding.weight, factor * 0.01)

    @property
    def position_ids(self) -> torch.Tensor:
        """All positions, `(1, max_position_embeddings)`."""
        number = num_rows(self.position_embedding, self.config.max_position_embeddings)
        return torch.arange(number, device=self.position_embedding.weight.device)[None]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("Both `input_ids` and `inputs_embeds` are missing; give one.")
            inputs_embeds = self.token_embedding(input_ids)
        if position_ids is None:
            length = inputs_embeds.shape[-2]
            self.check_length(length)
            position_ids = torch.arange(length, device=inputs_embeds.device)
        return inputs_embeds + self.position_embedding(position_ids)

    def check_length(self, length: int) -> None:
        longest = num_rows(self.position_embedding, self.config.max_position_embeddings)
        if length > longest:
            raise ValueError(
                f"The texts are {length} tokens long and the model has {longest} positions. Let the tokenizer "
                f"truncate them: truncation=True, max_length={longest}."
            )


class ClipHFTextModel(ClipHFPreTrainedModel):
    """CLIP's text transformer without the projection (Radford et al. 2021, section 2.4).

    - attention is causal;
    - `last_hidden_state` `(batch, length, hidden_size)` has passed the final LayerNorm; `pooler_output`
      `(batch, hidden_size)` is its value at the first end-of-text token of each text, so padding changes nothing.
    """

    config_class = ClipHFTextConfig
    base_model_prefix = "text_model"
    input_modalities = ("text",)
    _can_record_outputs = {"hidden_states": ClipHFEncoderLayer, "attentions": ClipHFAttention}
    input_embeddings_path = "embeddings.token_embedding"
    _keys_to_ignore_on_load_unexpected = unused_weights(
        "vision_model", "text_projection", "visual_projection", "logit_scale"
    )

    def __init__(self, config: ClipHFTextConfig):
        super().__init__(config)
        self.embeddings = ClipHFTextEmbeddings(config)
        self.encoder = ClipHFEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @property
    def eos_token_id(self) -> int:
        """Id of the end-of-text token, of the configuration."""
        return self.config.eos_token_id

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Embed texts, without the projection.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, length)`, integer): Token ids, at most
                `config.max_position_embeddings` a text, each text with an end-of-text token.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 for tokens, 0 for padding. Not
                needed for padding on the right, which nothing attends to.
            position_ids (`torch.Tensor` of shape `(batch, length)`, integer, *optional*): Positions of the tokens, by
                default 0, 1, 2, ... also where the padding is on the left.
            pooled_only (`bool`, *optional*, defaults to `False`): Whether `last_hidden_state` may be left out, which
                is faster: padding and tokens after the end of a text are then skipped, and shared prefixes are
                computed once. Ignored if hidden states or attentions are requested.

        Raises:
            ValueError: if the ids have another shape or dtype, are too long or outside the vocabulary, or a text has
                no end-of-text token and `config.allow_missing_eos` is not set.
            TypeError: if `input_ids` is not a tensor, or an input is unknown.
        """
        kwargs = known_kwargs(self, kwargs)
        self._check_input_ids(input_ids)
        input_ids = input_ids.reshape(-1, input_ids.shape[-1])
        first_eos = self._first_eos(input_ids, attention_mask)
        pooled_only = self.only_pools(pooled_only, kwargs)
        packed = self._pack(input_ids, attention_mask, position_ids, first_eos) if pooled_only else None
        if packed is None:
            hidden_states = padded = self.embeddings(input_ids, position_ids)
            rows = torch.arange(input_ids.shape[0], device=padded.device)
            pooled_at = rows, first_eos.to(padded.device)
        else:
            hidden_states = self._packed_embeddings(input_ids, position_ids, packed)  # (tokens, hidden_size)
            padded, attention_mask = hidden_states.new_empty((*packed.padded.shape, 0)), None
            pooled_at = (packed.last,)
        # By position: the last is `past_key_values` before transformers 5.24, `cache` from then on.
        mask = create_causal_mask(self.config, padded, attention_mask, None)
        kwargs["is_causal"] = True
        if pooled_only:
            pooled = self.encoder(hidden_states, mask, pooled_at=pooled_at, packed=packed, **kwargs)[0]
            return BaseModelOutputWithPooling(pooler_output=self.final_layer_norm(pooled))
        hidden_states = self.final_layer_norm(self.encoder(hidden_states, mask, **kwargs)[0])
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[pooled_at])

    def _first_eos(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the index of each text's first end-of-text token, (batch,), or, if allowed, of its last token."""
        is_eos = input_ids == self.config.eos_token_id
        keep = None
        if attention_mask is not None and attention_mask.shape == is_eos.shape:
            keep = attention_mask.bool()
            is_eos = is_eos & keep  # left padding consists of end-of-text tokens too
        if self.config.allow_missing_eos:
            keep = torch.ones_like(is_eos) if keep is None else keep
            # Numbers and logic only: ONNX cannot sum or select booleans.
            is_last = keep & (keep.int().cumsum(dim=-1) == keep.int().sum(dim=-1, keepdim=True))
            is_eos = is_eos | (is_last & ~is_eos.any(dim=-1, keepdim=True))
        self._check_eos(is_eos)
        return is_eos.int().argmax(dim=-1)

    def _pack(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        first_eos: torch.Tensor,
    ) -> PackedTexts | None:
        """Pack the tokens that the pooled token depends on.

        Returns None where the values cannot be read (tracing, no data), or the shapes are unusual.
        """
        same_shape = attention_mask is None or attention_mask.shape == input_ids.shape
        if not (same_shape and input_ids.numel() and _can_look_at_values(input_ids)):
            return None
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        keep = places <= first_eos[:, None]
        keep = keep if attention_mask is None else keep & attention_mask.bool()
        if self._drops_out():
            return PackedTexts.of(keep)  # each text needs its own dropout mask
        position_ids = places if position_ids is None else position_ids
        return PackedTexts.of(keep, input_ids.long() * self.config.max_position_embeddings + position_ids)

    def _drops_out(self) -> bool:
        """Whether a forward pass draws dropout: attention's, or that of an adapter (LoRA's, by peft)."""
        if not self.training:
            return False
        layers = (module for module in self.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
        return self.config.attention_dropout > 0 or any(layer.training and layer.p > 0 for layer in layers)

    def _packed_embeddings(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None, packed: PackedTexts
    ) -> torch.Tensor:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        position_ids = position_ids.expand(input_ids.shape)
        return self.embeddings(input_ids.flatten()[packed.source], position_ids.flatten()[packed.source])

    def _check_input_ids(self, input_ids: torch.Tensor | None) -> None:
        check_tensor(
            "input_ids", input_ids, "the tokenizer or the processor: processor(text=texts, return_tensors='pt')"
        )
        if input_ids.ndim < 2 or input_ids.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"`input_ids` has the shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}; it must be (batch, "
                "length) of integers (int64 or int32), as the tokenizer makes it with return_tensors='pt'."
            )
        self.embeddings.check_length(input_ids.shape[-1])
        if _can_look_at_values(input_ids) and input_ids.device.type == "cpu" and input_ids.numel():
            # On an accelerator the look-up fails by itself, and reading values here would wait for it.
            vocab_size = num_rows(self.embeddings.token_embedding, self.config.vocab_size)
            low, high = input_ids.aminmax()
            if low < 0 or high >= vocab_size:
                raise ValueError(
                    f"`input_ids` has ids from {low} to {high}; the model's vocabulary has {vocab_size} ids, from 0. "
                    "Use the tokenizer that was saved with the model."
                )

    def _check_eos(self, is_eos: torch.Tensor) -> None:
        if not _can_look_at_values(is_eos):
            return
        has_eos = is_eos.any(dim=-1)
        if not has_eos.all():
            without = (~has_eos).nonzero().flatten().tolist()
            raise ValueError(
                f"The texts {without[:8]} of the batch have no end-of-text token (id {self.config.eos_token_id}), at "
                "which CLIP takes a text's features. Tokenize with add_special_tokens=True and the tokenizer that was "
                "saved with the model; if its end-of-text id is another one, correct text_config.eos_token_id. To "
                "allow texts without it, set text_config.allow_missing_eos = True."
            )


def _can_look_at_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values can be read: not during tracing or compilation, and not on the meta device."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing() or isinstance(tensor, torch.fx.Proxy)
    return not tracing and tensor.device.type != "meta"


class ClipHFViTEmbeddings(nn.Module):
    """Patch embeddings after a class embedding, plus learned positions."""

    def __init__(self, config: ClipHFViTConfig):
        super().__init__()
        self.config = config
        self.embed_dim, self.image_size, self.patch_size = config.hidden_size, config.image_size, config.patch_size
        self.num_patches = config.grid_size**2
        self.num_positions = self.num_patches + 1
        width, patch_size = self.embed_dim, self.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch_size, stride=patch_size, bias=False)
        self.position_embedding = nn.Embedding(self.num_positions, width)

    def init_weights_(self, factor: float) -> None:
        std = factor * self.config.hidden_size**-0.5
        init_normal_(self.class_embedding, std)
        init_like_torch_linear_(self.patch_embedding, factor)
        init_normal_(self.position_embedding.weight, std)

    @property
    def position_ids(self) -> torch.Tensor:
        """All positions, `(1, 1 + patches)`."""
        return torch.arange(self.num_positions, device=self.position_embedding.weight.device)[None]

    def interpolate_pos_encoding(self, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the positions, `(1, 1 + patches, hidden_size)`, for images of `height` x `width` pixels."""
        positions = first_embeddings(self.position_embedding, self.num_positions, embeddings.device)
        grid = height // self.patch_size, width // self.patch_size
        if grid != (self.config.grid_size, self.config.grid_size):
            positions = interpolate_positions(positions, self.config.grid_size, *grid)
        return positions[None]

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        check_pixel_values(pixel_values, self.config.num_channels)
        height, width = pixel_values.shape[2:]
        size = self.config.image_size
        if (height, width) != (size, size) and not interpolate_pos_encoding:
            raise ValueError(
                f"The images are {height} x {width} pixels, the tower is made for {size} x {size}. Resize them, or "
                "pass interpolate_pos_encoding=True."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        class_embedding = self.class_embedding.expand(patches.shape[0], 1, -1)
        embeddings = torch.cat([class_embedding, patches], dim=1)  # (batch, 1 + patches, hidden_size)
        return embeddings + self.interpolate_pos_encoding(embeddings, height, width)


class ClipHFViTModel(ClipHFPreTrainedModel):
    """CLIP's Vision Transformer without the projection (Radford et al. 2021, section 2.4).

    - unlike the usual one, it has a LayerNorm between the embeddings and the transformer (its weights are called
      `pre_layrnorm` in every published repo);
    - `last_hidden_state` `(batch, 1 + patches, hidden_size)` is the transformer's output, `pooler_output`
      `(batch, hidden_size)` the class token's after the final LayerNorm;
    - in training mode, `patch_dropout` is the share of patches that are left out (FLIP, Li et al. 2023): others for
      each image, never the class token. It is no part of the configuration.
    """

    patch_dropout: float = 0.0
    config_class = ClipHFViTConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _can_record_outputs = {"hidden_states": ClipHFEncoderLayer, "attentions": ClipHFAttention}
    input_embeddings_path = "embeddings.patch_embedding"
    _keys_to_ignore_on_load_unexpected = unused_weights(
        "text_model", "text_projection", "visual_projection", "logit_scale", "classifier"
    )

    def __init__(self, config: ClipHFViTConfig):
        super().__init__(config)
        self.embeddings = ClipHFViTEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = ClipHFEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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
        """Embed images, without the projection.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, num_channels, height, width)`): Normalised images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): Whether images may differ in size from
                `config.image_size`: the positions are then resized bicubically.
            pooled_only (`bool`, *optional*, defaults to `False`): Whether `last_hidden_state` may be left out, which
                is faster: the last layer is then computed for the class token only. Ignored if hidden states or
                attentions are requested.

        Raises:
            ValueError: if `pixel_values` has a wrong shape or dtype, or images have a size that is not allowed.
            TypeError: if `pixel_values` is not a tensor, or an input is unknown.
        """
        kwargs = known_kwargs(self, kwargs)
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding)
        if self.training and self.patch_dropout:
            hidden_states = self._drop_patches(hidden_states)
        hidden_states = self.pre_layrnorm(hidden_states)
        if self.only_pools(pooled_only, kwargs):
            pooled = self.encoder(hidden_states, pooled_at=(slice(None), 0), **kwargs)[0]
            return BaseModelOutputWithPooling(pooler_output=self.post_layernorm(pooled))
        hidden_states = self.encoder(hidden_states, **kwargs)[0]
        pooled = self.post_layernorm(hidden_states[:, 0])
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def _drop_patches(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(batch, 1 + patches, hidden_size) -> the class token and the patches that are kept, in their order."""
        batch, length, width = embeddings.shape
        kept = max(1, round((length - 1) * (1 - self.patch_dropout)))
        drawn = torch.rand(batch, length - 1, device=embeddings.device).topk(kept, dim=1).indices
        places = 1 + drawn.sort(dim=1).values  # (batch, kept)
        patches = embeddings.gather(1, places[..., None].expand(-1, -1, width))
        return torch.cat([embeddings[:, :1], patches], dim=1)


ClipHFTextModel.register_for_auto_class("AutoModel")
ClipHFViTModel.register_for_auto_class("AutoModel")
