# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The base class of all models, and what the towers share: attention, input checks, positions, initialisation."""

import inspect
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs

from .checks_clip_hf import did_you_mean, type_of
from .configuration_clip_hf import ClipHFConfig
from .linear_clip_hf import apply_linear


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
    """Attention in plain tensor operations: the reference of the other implementations, and the one with weights.

    `query` is `(batch, heads, queries, head_dim)`, `key` and `value` `(batch, heads, keys, head_dim)`, the mask is
    added; the result is `(batch, queries, heads, head_dim)` and the weights `(batch, heads, queries, keys)`.
    """
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    # At least float32, so that half precision does not lose small weights; float64 stays float64.
    softmax_dtype = torch.promote_types(query.dtype, torch.float32)
    weights = nn.functional.softmax(weights, dim=-1, dtype=softmax_dtype).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class PackedTexts(NamedTuple):
    """Texts packed without padding into one row of tokens, (tokens, hidden_size).

    A beginning that several texts share is computed once, because a token depends only on those before it. Attention
    itself gets the texts padded on the right to the longest; all other layers look at single tokens. It is a named
    tuple so that accelerate can move it between devices.
    """

    source: torch.Tensor  # (tokens,): index of each token in the flattened ids
    padded: torch.Tensor  # (batch, longest): the token at each place of the padded texts; past the end the last one
    tokens: torch.Tensor  # (tokens,): index of each token in the flattened padded texts
    last: torch.Tensor  # (batch,): index of each text's last token

    @classmethod
    def of(cls, keep: torch.Tensor, keys: torch.Tensor | None = None) -> "PackedTexts":
        """Pack the tokens where `keep` `(batch, length)` is true, at least one in each text.

        Args:
            keep (`torch.Tensor` of shape `(batch, length)`, bool): the tokens of each text.
            keys (`torch.Tensor` of shape `(batch, length)`, int64, not negative, *optional*): equal for equal tokens
                at equal positions. With them, shared prefixes are computed once.
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
        return packed if keys is None else packed.share_prefixes(keys, column < lengths)

    def share_prefixes(self, keys: torch.Tensor, inside: torch.Tensor) -> "PackedTexts":
        """Return the same texts, with each shared beginning stored once.

        `keys` are those of `of`; `inside`, bool `(batch, longest)`, says where the padded texts have tokens.
        """
        keys = keys.flatten()[self.source][self.padded].masked_fill(~inside, -1)
        texts, text_of = torch.unique(keys, dim=0, return_inverse=True)  # sorted, so equal prefixes are neighbours
        differs = (texts != texts.roll(1, dims=0)).cummax(dim=1).values
        differs[0] = True
        is_new = differs & (texts >= 0)
        # Numbers grow from text to text: the largest so far in a column is that of the prefix that a text shares.
        number = is_new.flatten().cumsum(0).view(is_new.shape) - 1
        number = torch.where(is_new, number, -1).cummax(dim=0).values[text_of]  # (batch, longest)
        ends = inside.sum(dim=1, keepdim=True) - 1
        padded = number.gather(1, torch.minimum(torch.arange(inside.shape[1], device=ends.device), ends))
        # Take the first place of each number, so that runs do not differ.
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
    """Multi-head attention with separate query, key and value projections, through the implementation that the config
    names (sdpa, eager, flash, flex). Subclasses decide what attends to what.
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
        """Attend from `queries` to `keys`, each `(batch, length, hidden_size)`, or as `packed` says.

        Returns:
            `(batch, queries, hidden_size)`, or packed as the queries are, and, from implementations that have them,
            the weights.
        """
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        query, key, value = (
            apply_linear(projection, x)
            for projection, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, keys))
        )
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


class ClipHFFoldedBatchNorm(nn.Identity):
    """Stands where a BatchNorm stood whose work the convolution before it now does, see `fold_batch_norm`."""


def known_kwargs(model: nn.Module, kwargs: dict) -> dict:
    """Return the keyword arguments of a forward pass that transformers knows.

    Unknown ones that are None or False are dropped: tools pass inputs of other models, such as `token_type_ids=None`.
    Others raise a `TypeError`, because a misspelled input would otherwise be ignored.
    """
    known = {"return_dict", "use_cache", *TransformersKwargs.__annotations__}
    unknown = [name for name in kwargs if name not in known]
    for name in unknown:
        if kwargs[name] is not None and kwargs[name] is not False:
            inputs = [*inspect.signature(type(model).forward).parameters]
            raise TypeError(f"Unknown input `{name}` of {type(model).__name__}.{did_you_mean(name, inputs, '`')}")
    return {name: value for name, value in kwargs.items() if name in known} if unknown else kwargs


def check_tensor(name: str, value, maker: str) -> None:
    """Raise unless a model's input is a tensor; `maker` says what makes one."""
    if value is None:
        raise ValueError(f"`{name}` is missing. It comes from {maker}.")
    if not isinstance(value, torch.Tensor | torch.fx.Proxy):
        cure = "Pass its entries by name, `**inputs`" if hasattr(value, "keys") else f"It comes from {maker}"
        raise TypeError(f"`{name}` is {type_of(value)}; it must be a tensor. {cure}.")


def check_pixel_values(pixel_values: torch.Tensor | None, num_channels: int) -> None:
    """Raise ValueError or TypeError unless `pixel_values` is `(batch, num_channels, height, width)` of floats."""
    check_tensor("pixel_values", pixel_values, "the processor: processor(images=images, return_tensors='pt')")
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"`pixel_values` has the shape {tuple(pixel_values.shape)}; it must be (batch, {num_channels}, height, "
            "width), channels first, as the image processor makes it."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` is of {pixel_values.dtype}; it must be of floats, scaled and normalised as the processor "
            "does: processor(images=images, return_tensors='pt')."
        )


def num_rows(embedding: nn.Module, configured: int) -> int:
    """Return the number of rows of an embedding; `configured` if a layer of another library (peft) hides it."""
    return getattr(embedding, "num_embeddings", configured)


def first_embeddings(embedding: nn.Module, number: int, device: torch.device) -> torch.Tensor:
    """Return the first rows of an embedding. It is called, because its weight may be offloaded or wrapped (peft)."""
    return embedding(torch.arange(number, device=device))


def interpolate_positions(positions: torch.Tensor, grid_size: int, height: int, width: int) -> torch.Tensor:
    """Resize learned positions `(1 + grid_size ** 2, hidden_size)` to another grid, bicubically.

    The first, of the class or mean token, stays: `(1 + height * width, hidden_size)`.
    """
    first, grid = positions[:1], positions[1:]
    grid = grid.reshape(1, grid_size, grid_size, -1).permute(0, 3, 1, 2)  # (1, hidden_size, grid_size, grid_size)
    grid = nn.functional.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
    return torch.cat([first, grid.flatten(2).transpose(1, 2)[0]])


def init_normal_(tensor: torch.Tensor | None, std: float) -> None:
    """Fill a tensor from a normal distribution; None, where quantisation replaced it, is skipped."""
    if tensor is not None:
        init.normal_(tensor, mean=0.0, std=std)


def init_like_torch_linear_(module: nn.Linear | nn.Conv2d, factor: float, weight: bool = True) -> None:
    """Fill weight and bias from torch's own default, a uniform distribution on +-1/sqrt(fan_in).

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


def unused_weights(*parts: str) -> list[str]:
    """Return the patterns of weights that a model has no use for: `parts` of a whole CLIP, and old repos' indices."""
    return [r"(^|\.)position_ids$", *(f"^{part}" for part in parts)]


class ClipHFPreTrainedModel(PreTrainedModel):
    """Base class of all models here: loading, saving and initialisation.

    - Initialisation is OpenAI's: each module that is more than a container has a method `init_weights_(factor)`.
    - `freeze_batch_norm` keeps BatchNorm statistics fixed in fine-tuning; `fold_batch_norm` makes inference faster.
    """

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
    # clip_hf sets this to its reader of other formats; it stays None in remote code.
    read_other_format: ClassVar[Callable | None] = None
    # The module that first sees the input, or the tower that holds it.
    input_embeddings_path = ""
    _keys_to_ignore_on_load_unexpected = unused_weights()

    def __init__(self, config: PreTrainedConfig, *inputs, **kwargs):
        if isinstance(config, PreTrainedConfig):  # transformers refuses everything else
            self.config_class.check(config, type(self).__name__)
        super().__init__(config, *inputs, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a model from a folder or a hub repo, as [`PreTrainedModel.from_pretrained`] does; transformers' CLIP
        repos load as well, and so do OpenAI's and open_clip's files and folders (see `clip_hf.checkpoints`).

        Raises:
            OSError: if there is no such repo, or its weights are missing, incomplete or damaged.
            ValueError: if its config is invalid or not a CLIP's, or a file of another format cannot be read exactly.
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

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs):
        """Load an adapter of peft's, as [`PreTrainedModel.load_adapter`] does, but exactly.

        Raises:
            ValueError: if the adapter belongs to another model: some of its weights have no place here, or some of
                this model's adapted layers no weights; if its weights are damaged, or hold NaN. The adapter is then
                taken off again.
        """
        name, cause = adapter_name or "default", None
        misfit = f"belongs to another model than this {type(self).__name__}"
        try:
            info = super().load_adapter(peft_model_id, adapter_name, **kwargs)
        except SafetensorError as error:
            problem, cause = f"cannot be read ({error}): copy or download it again", error
        except RuntimeError as error:  # other shapes
            cause = error
            problem = f"{misfit}, or adapter_config.json has another rank `r`: its weights have other shapes"
        else:
            wrong = sorted({*info.missing_keys, *info.unexpected_keys})
            state = {} if wrong else self.get_adapter_state_dict(name)
            broken = [key for key, value in state.items() if not value.isfinite().all()]
            if not wrong and not broken:
                return info
            problem = (
                f"{misfit}: {len(info.unexpected_keys)} of its weights have no place here, and "
                f"{len(info.missing_keys)} of this model's are not in it, such as {wrong[0]}. adapter_config.json "
                "names the model that it was trained on"
                if wrong
                else f"has NaN or infinity in {broken[0]}; its training failed"
            )
        self.delete_adapter(name)
        raise ValueError(f"The adapter {peft_model_id} {problem}.") from cause

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that first sees the input: the token embedding, or a vision tower's first convolution."""
        module = self.get_submodule(self.input_embeddings_path)
        return module.get_input_embeddings() if isinstance(module, PreTrainedModel) else module

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the module that first sees the input."""
        module = self.get_submodule(self.input_embeddings_path)
        if isinstance(module, PreTrainedModel):
            module.set_input_embeddings(value)
        else:
            self.set_submodule(self.input_embeddings_path, value)

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

    def only_pools(self, pooled_only: bool, kwargs: dict) -> bool:
        """Return whether the call needs `pooler_output` only: recorded layers must be complete."""
        recorded = ("output_hidden_states", "output_attentions")
        return pooled_only and not any(kwargs.get(name) or getattr(self.config, name, None) for name in recorded)

    def freeze_batch_norm(self, freeze_affine: bool = True) -> int:
        """Keep every BatchNorm at its running statistics, in training mode too. Fine-tuning a ResNet tower on small
        batches needs this.

        Args:
            freeze_affine (`bool`, *optional*, defaults to `True`): Whether gains and biases stop being trained as
                well.

        Returns:
            `int`: the number of layers frozen; 0 for a model without BatchNorm.
        """
        layers = [module for module in self.modules() if hasattr(module, "freeze_statistics")]
        for layer in layers:
            layer.freeze_statistics(freeze_affine)
        return len(layers)

    def fold_batch_norm(self):
        """Fold every BatchNorm into the convolution before it, in place, for faster inference; nothing undoes it.

        - Features differ by rounding: about 1e-7 of their size in float32, because the products are made in float64.
        - The model goes into evaluation mode. From then on `train()`, `save_pretrained` and `load_state_dict` of
          weights with BatchNorm raise a `ValueError`, and the convolutions require no gradients.
        - The convolutions' weights are stored channels last. Without gradients on a CPU, each convolution then adds
          its bias and the shortcut and applies its ReLU in one pass (oneDNN).
        - A model without BatchNorm, or folded before, stays as it is.

        Returns:
            The model itself.

        Raises:
            ValueError: if a convolution or BatchNorm is not a plain one in memory (of peft, quantised, pruned, with
                hooks, offloaded); the model is then left as it was.
        """
        blocks = [module for module in self.modules() if hasattr(module, "fold_batch_norm_")]
        for block in blocks:
            block.check_foldable()
        for block in blocks:
            block.fold_batch_norm_()
        return self.eval() if blocks else self

    def train(self, mode: bool = True):
        """Set training mode (or, with `mode=False`, evaluation mode), as torch does.

        Raises:
            ValueError: if training mode is asked of a model whose BatchNorm is folded.
        """
        if mode:
            self._check_not_folded("be trained")
        return super().train(mode)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the model, as [`PreTrainedModel.save_pretrained`] does, in files of the modes that the umask gives.

        Raises:
            ValueError: if the model's BatchNorm is folded.
        """
        self._check_not_folded("be saved")
        result = super().save_pretrained(save_directory, *args, **kwargs)
        # safetensors makes files that only their owner can read. Of a model with adapters only these are saved.
        for weights in Path(save_directory).glob("*.safetensors"):
            is_adapter = weights.name.startswith("adapter_model")
            shutil.copymode(weights.with_name("adapter_config.json" if is_adapter else "config.json"), weights)
        return result

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # `load_state_dict`, of a wrapper too, calls it before anything of this model is copied.
        folded = [name for name, module in self.named_modules() if isinstance(module, ClipHFFoldedBatchNorm)]
        if any(key.startswith(tuple(f"{prefix}{name}." for name in folded)) for key in state_dict):
            self._check_not_folded("load weights with BatchNorm")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_not_folded(self, action: str) -> None:
        if any(isinstance(module, ClipHFFoldedBatchNorm) for module in self.modules()):
            raise ValueError(
                f"This {type(self).__name__} cannot {action}: `fold_batch_norm()` has folded its BatchNorm into the "
                "convolutions, for inference. Load the model anew, and do this before folding."
            )
