# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Detect that a model's text features may have changed: a checksum of the text tower's weights, and its settings."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .image_resizing_clip_hf import map_in_threads


# Parts of a model that text features do not depend on.
_IMAGE_ONLY = {"vision_model", "visual_projection", "logit_scale"}
# Modules of ours and of transformers that use their `token_embedding` only to look up the tokenizer's ids.
_TEXT_EMBEDDINGS = {"ClipHFTextEmbeddings", "CLIPTextEmbeddings"}


def _text_modules(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for name, child in module.named_children():
        if name not in _IMAGE_ONLY:
            yield from _text_modules(child)


# Two sums are taken, of the words at byte 0 and at byte 4, because changed top bits can cancel in one of them (it is
# modulo 2**64); in the other they are bit 31. The weights are odd, so that every change of one word changes the sum,
# and random, so that words that change places change it, too.
_WORD_WEIGHTS = np.random.default_rng(0).integers(-(2**62), 2**62, (2, 512)) * 2 + 1
_ROW = 4096  # bytes
_ROWS_AT_ONCE = 2**7  # the second reading finds them in the processor's cache
_ROWS_PER_THREAD = 2**11


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The ordinary tensors inside a special one (quantised, sparse, spread over processes)."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain_tensors(getattr(tensor, name))
    elif tensor.is_quantized:
        yield tensor.dequantize()
    else:
        yield tensor if tensor.layout == torch.strided else tensor.to_dense()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, uint8 (bytes,)."""
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
    return torch.stack([(word * weight).sum(dim=1) for word, weight in zip(words, weights)])


def _checksum(tensors: list[torch.Tensor]) -> int:
    """A number that changes with the bits of `tensors`, which are all on one device.

    A change of one bit always changes it; changes of several bits are missed about once in 2**32. Each value is read
    once. For ViT-B/32's text tower this takes about 13% of the time of one photo.
    """
    pieces, rests = [], []
    for bits in map(_bits, tensors):
        end = max(0, bits.numel() - 4) // _ROW * _ROW
        steps = range(0, end, _ROWS_PER_THREAD * _ROW)
        pieces += [bits[start : min(start + steps.step, end) + 4] for start in steps]
        rests.append(bits[end:])
    threads = min(torch.get_num_threads(), len(pieces)) if rests[0].device.type == "cpu" else 1
    sums = list(map_in_threads(_word_sums, pieces, max(1, threads)))
    return hash(tuple(torch.cat(each, -1).cpu().numpy().tobytes() for each in (sums, rests) if each))


@torch.no_grad()
def tensors_checksum(tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
    """[`_checksum`] of tensors of any kind that are in memory: a number for each device."""
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in tensors:
        for plain in _plain_tensors(tensor):
            by_device.setdefault(plain.device, []).append(plain)
    return tuple(map(_checksum, by_device.values()))


# Attributes that every module has: its mode, parameters, children and hooks.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_SCALARS = (bool, int, float, str, type(None))


def _plain_values(attributes: dict[str, Any]) -> tuple:
    """The attributes that are numbers, strings or None, or a list, tuple or dict of them."""
    result = []
    for name, value in attributes.items():
        if name in _OF_EVERY_MODULE:
            continue
        values = value if type(value) in (list, tuple) else (value,)
        if type(value) is dict:
            values = (*value, *value.values())
        if all(isinstance(each, _SCALARS) for each in values):
            result.append((name, *values))
    return tuple(result)


def _token_tables(modules: list[nn.Module]) -> dict[int, torch.Tensor]:
    """Return, by module id, the weights of token embeddings where only the rows of the texts' ids matter.

    That is certain only for plain `nn.Embedding`s in text towers known here.
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
def rows_checksum(tables: Iterable[torch.Tensor], ids: Sequence[int]) -> tuple:
    return tuple(_checksum([table[torch.tensor(ids, device=table.device)]]) for table in tables)


@torch.no_grad()
def text_state(model: nn.Module) -> tuple[tuple, list[torch.Tensor]]:
    """Return a value that changes when the text features may have changed, and the token embeddings it leaves out.

    The value contains a checksum of all weights, because torch's counters of changes miss those made through `.data`,
    as when LoRA weights are merged. Weights that are not in memory (offloaded) always count as changed.
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
