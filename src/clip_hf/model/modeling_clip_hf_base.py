# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What CLIP's towers share: the attention, the rules of initialisation, and the base class of all models."""

import inspect
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs

from .checks_clip_hf import did_you_mean
from .configuration_clip_hf import ClipHFConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Attention in plain tensor operations: the reference of the other implementations, and the one with weights.

    Args:
        query (`torch.Tensor` of shape `(batch, heads, queries, head_dim)`)
        key, value (`torch.Tensor` of shape `(batch, heads, keys, head_dim)`)
        attention_mask (`torch.Tensor` that broadcasts to `(batch, heads, queries, keys)`, *optional*): added.

    Returns:
        `(batch, queries, heads, head_dim)` and the weights `(batch, heads, queries, keys)`.
    """
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    # At least float32, so that half precision does not lose small weights; float64 stays what it is.
    softmax_dtype = torch.promote_types(query.dtype, torch.float32)
    weights = nn.functional.softmax(weights, dim=-1, dtype=softmax_dtype).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class PackedTexts(NamedTuple):
    """
    A batch of texts whose tokens stand one after another, (tokens, hidden_size), so that padding is not computed, nor
    a beginning that several texts have in common more than once: what a token becomes depends on those before it.

    All but attention looks at single tokens; for attention the texts are padded to the longest, on the right, where
    a causal mask makes padding irrelevant. A named tuple, so that accelerate moves it between devices.

    Args:
        source (`torch.Tensor` of shape `(tokens,)`): a token's place in the flattened ids.
        padded (`torch.Tensor` of shape `(batch, longest)`): the token at each place of the padded texts; after a
            text's end its last token, which nothing looks at.
        tokens (`torch.Tensor` of shape `(tokens,)`): a token's place in the flattened padded texts.
        last (`torch.Tensor` of shape `(batch,)`): each text's last token.
    """

    source: torch.Tensor
    padded: torch.Tensor
    tokens: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, keep: torch.Tensor, keys: torch.Tensor | None = None) -> "PackedTexts":
        """
        Pack the tokens where `keep` `(batch, length)` is true, at least one in each text.

        Args:
            keep (`torch.Tensor` of shape `(batch, length)`, bool): the tokens of each text.
            keys (`torch.Tensor` of shape `(batch, length)`, int64, not negative, *optional*): equal for equal tokens
                at equal positions. With them, texts share what they begin with.
        """
        lengths = keep.sum(dim=1, keepdim=True)  # (batch, 1)
        column = torch.arange(int(lengths.max()), device=keep.device)
        last = lengths.cumsum(dim=0) - 1  # (batch, 1)
        packed = cls(
            source=keep.flatten().nonzero()[:, 0],
            padded=torch.minimum(last - lengths + 1 + column, last),
            tokens=(column < lengths).flatten().nonzero()[:, 0],
            last=last[:, 0],
        )
        return packed if keys is None else packed._share_beginnings(keys, column < lengths)

    def _share_beginnings(self, keys: torch.Tensor, inside: torch.Tensor) -> "PackedTexts":
        """The same texts with each token that ends the same beginning, `inside` the texts `(batch, longest)`, once."""
        keys = keys.flatten()[self.source][self.padded].masked_fill(~inside, -1)
        texts, text_of = torch.unique(keys, dim=0, return_inverse=True)  # sorted, so equal beginnings are neighbours
        differs = (texts != texts.roll(1, dims=0)).cummax(dim=1).values
        differs[0] = True
        is_new = differs & (texts >= 0)
        # Numbers grow from text to text: the largest so far in a column is that of the beginning that a text shares.
        number = is_new.flatten().cumsum(0).view(is_new.shape) - 1
        number = torch.where(is_new, number, -1).cummax(dim=0).values[text_of]  # (batch, longest)
        ends = inside.sum(dim=1, keepdim=True) - 1
        padded = number.gather(1, torch.minimum(torch.arange(inside.shape[1], device=ends.device), ends))
        # Of the places that have a number the first, so that it does not change from run to run.
        places = inside.flatten().nonzero()[:, 0]
        tokens = places.new_empty(int(is_new.sum()))
        tokens.scatter_reduce_(0, number.flatten()[places], places, "amin", include_self=False)
        source = self.source[self.padded.flatten()[tokens]]
        return PackedTexts(source, padded, tokens, padded.gather(1, ends)[:, 0])

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden_size) -> (batch, longest, hidden_size)."""
        # Rows are looked up as those of an embedding are: its backward pass is faster than that of indexing.
        return nn.functional.embedding(self.padded, packed)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(batch, longest, hidden_size) -> (tokens, hidden_size)."""
        return nn.functional.embedding(self.tokens, padded.flatten(0, 1))


class ClipHFMultiHeadAttention(nn.Module):
    """
    Multi-head attention with separate query, key and value projections, through the implementation that the config
    names (sdpa, eager, flash, flex). What attends to what is the subclasses'.
    """

    is_causal = False

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.embed_dim, self.num_heads = config.hidden_size, config.num_attention_heads
        self.head_dim = self.embed_dim // self.num_heads
        self.scale = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packed: PackedTexts | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            queries (`torch.Tensor` of shape `(batch, queries, hidden_size)`): what attends.
            keys (`torch.Tensor` of shape `(batch, keys, hidden_size)`): what is attended to.
            packed (`PackedTexts`, *optional*): how `queries` and `keys` are packed, `(tokens, hidden_size)`.

        Returns:
            `(batch, queries, hidden_size)`, or packed as the queries are, and, from implementations that have them,
            the weights.
        """
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        query, key, value = self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)
        if packed is not None:
            query, key, value = packed.pad(query), packed.pad(key), packed.pad(value)
        # (batch, length, hidden_size) -> (batch, heads, length, head_dim)
        # Reshaped, not unflattened: in the legacy ONNX export that gives shapes which only the traced batch has.
        heads = self.num_heads, self.head_dim
        query, key, value = (x.reshape(*x.shape[:-1], *heads).transpose(1, 2) for x in (query, key, value))
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scale,
            dropout=self.dropout if self.training else 0.0,
            **kwargs,
        )
        output = output.reshape(*output.shape[:2], self.embed_dim).contiguous()  # (batch, queries, hidden_size)
        return output if packed is None else packed.pack(output), weights


def known_kwargs(model: nn.Module, kwargs: dict) -> dict:
    """
    The keyword arguments of a forward pass that transformers knows.

    Others that are None or False go: tools pass what other models take, such as `token_type_ids=None`.

    Raises:
        TypeError: if another has a value, such as a misspelled input, which would travel unnoticed to the attention.
    """
    known = {"return_dict", "use_cache", *TransformersKwargs.__annotations__}
    unknown = [name for name in kwargs if name not in known]
    for name in unknown:
        if kwargs[name] is not None and kwargs[name] is not False:
            inputs = [*inspect.signature(type(model).forward).parameters]
            raise TypeError(f"{type(model).__name__} has no input {name!r}.{did_you_mean(name, inputs)}")
    return {name: value for name, value in kwargs.items() if name in known} if unknown else kwargs


def check_tensor(name: str, value, maker: str) -> None:
    """Raise unless a model's input is a tensor; `maker` says what makes one."""
    if value is None:
        raise ValueError(f"`{name}` is missing. It comes from {maker}.")
    if not isinstance(value, torch.Tensor | torch.fx.Proxy):
        cure = "Pass its entries by name, `**inputs`" if hasattr(value, "keys") else f"It comes from {maker}"
        raise TypeError(f"`{name}` is a {type(value).__name__}; it must be a tensor. {cure}.")


def num_rows(embedding: nn.Module, configured: int) -> int:
    """Rows of an embedding; `configured` where another library's layer stands in for it and does not say (peft)."""
    return getattr(embedding, "num_embeddings", configured)


def init_normal_(tensor: torch.Tensor | None, std: float) -> None:
    """Fill a tensor from a normal distribution; one that quantisation took away is left alone."""
    if tensor is not None:
        init.normal_(tensor, mean=0.0, std=std)


def init_like_torch_linear_(module: nn.Linear | nn.Conv2d, factor: float, weight: bool = True) -> None:
    """
    Fill weight and bias from torch's own default, a uniform distribution on +-1/sqrt(fan_in).

    OpenAI's code leaves every weight that it does not name at this default: the convolutions, the MLPs of the vision
    transformer, and the biases of all MLPs and of the attention pool.
    """
    if getattr(module, "weight", None) is None:
        return
    bound = factor / math.sqrt(module.weight[0].numel())
    if weight:
        init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        init.uniform_(module.bias, -bound, bound)


class ClipHFPreTrainedModel(PreTrainedModel):
    """
    Base class of all models here: loading, saving and initialisation.

    - Initialisation is OpenAI's: each module that is more than a container has a method `init_weights_(factor)`.
    - `freeze_batch_norm` keeps BatchNorm statistics fixed in fine-tuning.
    """

    config: ClipHFConfig
    config_class = ClipHFConfig
    base_model_prefix = "clip"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["ClipHFTextEmbeddings", "ClipHFViTEmbeddings", "ClipHFEncoderLayer", "ClipHFResNetBottleneck"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Our losses are means over a batch; told so, `Trainer` averages them over accumulated batches.
    accepts_loss_kwargs = False
    # The library around the exported model puts here what reads files of other formats; a repo's own code has none.
    read_other_format: ClassVar[Callable | None] = None
    # Older repos store these index buffers as weights.
    _keys_to_ignore_on_load_unexpected = [r"(^|\.)position_ids$"]

    def __init__(self, config: PreTrainedConfig, *inputs, **kwargs):
        if isinstance(config, PreTrainedConfig):  # transformers refuses everything else
            self.config_class.check(config, type(self).__name__)
        super().__init__(config, *inputs, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """
        Load a model from a folder or a hub repo, as [`PreTrainedModel.from_pretrained`] does; transformers' CLIP repos
        load as well, and so do OpenAI's and open_clip's files and folders (see `clip_hf.checkpoints`).

        Raises:
            OSError: if there is no such repo, or its weights are missing, incomplete or damaged.
            ValueError: if its config is not one of a CLIP, or not possible, or a file of another format cannot be read
                exactly.
        """
        read_other_format = ClipHFPreTrainedModel.read_other_format
        if read_other_format is not None and pretrained_model_name_or_path is not None:
            result = read_other_format(cls, pretrained_model_name_or_path, *model_args, **kwargs)
            if result is not None:
                return result
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights in {pretrained_model_name_or_path} cannot be read ({error}): a file is incomplete or "
                "damaged. Copy or download it again."
            ) from error

    @torch.no_grad()
    def _initialize_weights(self, module, is_custom_code: bool = False):
        # transformers takes a module of an outside package without own parameters for initialised and skips it; a
        # block such as the attention pool, which initialises its children, would never be reached.
        return super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d, nn.SyncBatchNorm)):
            super()._init_weights(module)
        elif hasattr(module, "init_weights_"):
            module.init_weights_(self.config.initializer_factor)

    def _only_pools(self, pooled_only: bool, kwargs: dict) -> bool:
        """Whether `pooler_output` is all that this call is asked for: recorded layers must be whole."""
        recorded = ("output_hidden_states", "output_attentions")
        return pooled_only and not any(kwargs.get(name) or getattr(self.config, name, None) for name in recorded)

    def freeze_batch_norm(self, freeze_affine: bool = True) -> int:
        """
        Keep every BatchNorm at its running statistics, in training mode too: what fine-tuning a ResNet tower on
        small batches needs.

        Args:
            freeze_affine (`bool`, *optional*, defaults to `True`):
                Whether gains and biases stop being trained as well.

        Returns:
            `int`: the number of layers frozen; 0 for a model without BatchNorm.
        """
        layers = [module for module in self.modules() if hasattr(module, "freeze_statistics")]
        for layer in layers:
            layer.freeze_statistics(freeze_affine)
        return len(layers)


__all__ = ["ClipHFPreTrainedModel"]
