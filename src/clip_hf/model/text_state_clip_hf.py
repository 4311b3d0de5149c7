# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tell whether a model's text features may have changed, by a checksum of the text tower's values and settings."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .image_resizing_clip_hf import map_in_threads


# Parts of a model that text features do not depend on.
_IMAGE_ONLY = {"vision_model", "visual_projection", "temporal_head", "logit_scale"}
# Modules, ours and transformers', that use their `token_embedding` only to look up the tokenizer's ids.
_TEXT_EMBEDDINGS = {"ClipHFTextEmbeddings", "CLIPTextEmbeddings"}


def _text_modules(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for name, child in module.named_children():
        if name not in _IMAGE_ONLY:
            yield from _text_modules(child)


# Weights of the 8-byte words, and of the words that begin 4 bytes later. Sums are modulo 2**64, so an even number of
# changed top bits cancels in the first sum; in the second they are bit 31. The weights are odd, so that every change
# of one word changes the sum, and random, so that swapped words do, too.
_WORD_WEIGHTS = np.random.default_rng(0).integers(-(2**62), 2**62, (2, 512)) * 2 + 1
_ROW = 4096  # bytes
_ROWS_AT_ONCE = 2**7  # the second reading finds them in the processor's cache
_ROWS_PER_THREAD = 2**11


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the ordinary tensors in a tensor of any kind (quantised, sparse, spread over processes)."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain_tensors(getattr(tensor, name))
    elif tensor.is_quantized:
        yield tensor.dequantize()
    else:
        yield tensor if tensor.layout == torch.strided else tensor.to_dense()


def _view_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: uint8 (bytes,)."""
    flat = tensor.detach().reshape(-1)
    if flat.stride(0) != 1 or flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def _word_sums(bits: torch.Tensor) -> torch.Tensor:
    """Weighted sums, int64 (2, rows), of the words at byte 0 and those at byte 4 of `bits` (rows * 4096 + 4,)."""
    if bits.device.type != "cpu":
        return _word_sums_of_torch(bits)
    values, rows = bits.numpy(), bits.numel() // _ROW
    sums = np.empty((2, rows), np.int64)
    for row in range(0, rows, _ROWS_AT_ONCE):
        shape = (min(_ROWS_AT_ONCE, rows - row), _ROW // 8)
        for shift in (0, 1):
            words = np.ndarray(shape, np.int64, values, offset=row * _ROW + 4 * shift)
            np.einsum("rw,w->r", words, _WORD_WEIGHTS[shift], out=sums[shift, row : row + shape[0]])
    return torch.from_numpy(sums)


def _word_sums_of_torch(bits: torch.Tensor) -> torch.Tensor:
    """[`_word_sums`] on any device; slower than numpy on a CPU."""
    words = [part.view(torch.int64).view(-1, _ROW // 8) for part in (bits[:-4], bits[4:].clone())]
    weights = torch.from_numpy(_WORD_WEIGHTS).to(bits.device)
    return torch.stack([(each * weight).sum(dim=1) for each, weight in zip(words, weights)])


def _checksum(tensors: list[torch.Tensor]) -> int:
    """A checksum of tensors on one device.

    Every changed bit changes it; a change of several bits is missed with a probability of about 2**-32. Each value is
    read once from memory, which for ViT-B/32's text tower takes about 13% of the time of one photo.
    """
    pieces, rests = [], []
    for bits in map(_view_bytes, tensors):
        end = max(0, bits.numel() - 4) // _ROW * _ROW
        steps = range(0, end, _ROWS_PER_THREAD * _ROW)
        pieces += [bits[start : min(start + steps.step, end) + 4] for start in steps]
        rests.append(bits[end:])
    threads = min(torch.get_num_threads(), len(pieces)) if rests[0].device.type == "cpu" else 1
    sums = list(map_in_threads(_word_sums, pieces, max(1, threads)))
    return hash(tuple(torch.cat(each, -1).cpu().numpy().tobytes() for each in (sums, rests) if each))


@torch.no_grad()
def tensors_checksum(tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
    """Checksum tensors of any kind that are in memory: one number per device."""
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in tensors:
        for plain in _plain_tensors(tensor):
            by_device.setdefault(plain.device, []).append(plain)
    return tuple(map(_checksum, by_device.values()))


# The mode, parameters, children and hooks of a module.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_SCALARS = (bool, int, float, str, type(None))


def _plain_values(attributes: dict[str, Any]) -> tuple:
    """Attributes that are numbers, strings or None, or a list, tuple or dict of these."""
    result = []
    for name, value in attributes.items():
        if name in _MODULE_ATTRIBUTES:
            continue
        values = value if type(value) in (list, tuple) else (value,)
        if type(value) is dict:
            values = (*value, *value.values())
        if all(isinstance(each, _SCALARS) for each in values):
            result.append((name, *values))
    return tuple(result)


def _token_tables(modules: list[nn.Module]) -> dict[int, torch.Tensor]:
    """Map `id(module)` to the weight of each token embedding of which only the rows of the texts' ids matter.

    Only plain `nn.Embedding`s in known text towers qualify.
    """
    result = {}
    for module in modules:
        table = module._modules.get("token_embedding")
        if (
            type(module).__name__ in _TEXT_EMBEDDINGS
            and type(table) is nn.Embedding
            and type(table.weight) is nn.Parameter
            and not (table.weight.is_meta or table._forward_hooks or table._forward_pre_hooks)
            and "forward" not in vars(table)
        ):
            result[id(table)] = table.weight
    return result


@torch.no_grad()
def rows_checksum(tables: Iterable[torch.Tensor], ids: Sequence[int]) -> tuple[int, ...]:
    """Checksum the rows `ids` of each token embedding (ids, width)."""
    return tuple(_checksum([table[torch.tensor(ids, device=table.device)]]) for table in tables)


@torch.no_grad()
def text_state(model: nn.Module) -> tuple[tuple, list[torch.Tensor]]:
    """Take a snapshot of everything that text features depend on, except the token embeddings.

    It holds a checksum of all values, because torch's version counters miss changes through `.data`, such as merged
    LoRA weights. Values that are not in memory (offloaded) always count as changed. Returned are the snapshot, to
    compare with `==`, and the weights of the token embeddings that it leaves out.
    """
    state, tensors, modules = [], [], list(_text_modules(model))
    tables, configs = _token_tables(modules), {}
    for module in modules:
        state += [type(module), _plain_values(vars(module)), *module._forward_pre_hooks, *module._forward_hooks]
        config = vars(module).get("config")
        if hasattr(config, "to_dict"):
            configs[id(config)] = config
        attributes = (*module._parameters.items(), *module._buffers.items(), *vars(module).items())
        for name, tensor in attributes:
            if not isinstance(tensor, torch.Tensor) or name in _IMAGE_ONLY:
                continue
            state.append((name, tensor.dtype, tensor.device, tensor.shape))
            if tensor is tables.get(id(module)):
                continue
            if tensor.is_meta:
                state.append(object())
                continue
            tensors.append(tensor)
    state += [_plain_values(vars(config)) for config in configs.values()]
    return (*state, *tensors_checksum(tensors)), list(tables.values())
