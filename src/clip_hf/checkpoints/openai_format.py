# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenAI's files: the nine published models, which are TorchScript archives, and plain state dicts of its class.

What the weights do not say is fixed by OpenAI's code: QuickGELU, heads of 64 channels, LayerNorm epsilon 1e-5,
features at the highest token id, and its image transform.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from ..model.configuration_clip_hf import (
    OPENAI_VOCAB_SIZE,
    ClipHFConfig,
    ClipHFResNetConfig,
    ClipHFTextConfig,
    ClipHFViTConfig,
)
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..utils.wording import listed
from .checkpoint import IMAGE_OPTIONS, Checkpoint, SourceOptions, check_no_logit_bias, note_left_out
from .checkpoint_format import CheckpointFormat
from .openai_names import BATCH_NORM_STATISTICS, rename, rename_back
from .reference import openai_features
from .stored_tensor import StoredTensor
from .tokenizer_formats import build_tokenizer, is_openais
from .torchscript_writer import write_torchscript
from .weight_files import WeightFile


HEAD_DIM = 64
LAYER_NORM_EPS = 1e-5
CONTEXT_LENGTH = 77
# What OpenAI's archives hold besides the weights.
_SIZES = ("input_resolution", "context_length", "vocab_size")
PUBLISHED = {
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762": "RN50",
    "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599": "RN101",
    "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd": "RN50x4",
    "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa": "RN50x16",
    "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c": "RN50x64",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B/16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L/14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L/14@336px",
}
"""SHA-256 of OpenAI's nine files, which are part of their addresses in `clip/clip.py`, and which model each is."""
_SIGNATURE = ("token_embedding.weight", "positional_embedding", "ln_final.weight", "text_projection", "logit_scale")


def published_name(path: Path) -> str | None:
    """Which of OpenAI's nine published models a file is, by its checksum; `None` for any other."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return PUBLISHED.get(hashlib.file_digest(file, "sha256").hexdigest())


def is_openai_named(names) -> bool:
    """Whether weights have the names of OpenAI's code, which are open_clip's too."""
    return all(name in names for name in _SIGNATURE) and any(name.startswith("visual.") for name in names)


def take_extras(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], dict[str, int], list[str]]:
    """Take apart what a file of OpenAI's names holds.

    Returns:
        The weights, the sizes by name (`input_resolution`, `context_length`, `vocab_size`), and the names left out:
        sizes and causal masks.
    """
    weights, sizes, ignored = {}, {}, []
    for name, tensor in tensors.items():
        if name in _SIZES and math.prod(tensor.shape) == 1:
            sizes[name] = int(tensor.read())
            ignored.append(name)
        elif name.split(".")[-1] == "attn_mask":
            _check_causal(name, tensor)
            ignored.append(name)
        else:
            weights[name] = tensor
    return weights, sizes, ignored


def _check_causal(name: str, tensor: StoredTensor) -> None:
    square = len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]
    if square and tensor.dtype.is_floating_point:
        mask = tensor.read().float()
        if torch.equal(mask, torch.full_like(mask, -math.inf).triu(1)):
            return
    raise ValueError(f"The attention mask {name} of shape {tensor.shape} is not causal; CLIP's text tower always is.")


def _count(names, pattern: str) -> int:
    """The number of different first groups of a pattern among names."""
    return len({match[1] for match in (re.match(pattern, name) for name in names) if match})


def _grid(tensor: StoredTensor, name: str) -> int:
    grid = math.isqrt(tensor.shape[0] - 1)
    if grid * grid != tensor.shape[0] - 1 or grid == 0:
        raise ValueError(
            f"{name} has {tensor.shape[0]} positions; one for the whole image and a square grid of others were "
            "expected. Images that are not square have no counterpart here."
        )
    return grid


def _heads(width: int, heads: int | None, option: str) -> int:
    if heads is not None:
        return heads
    if width % HEAD_DIM:
        raise ValueError(
            f"A width of {width} is no multiple of {HEAD_DIM}, the width of every head in OpenAI's code, so the "
            f"number of heads cannot be told from the weights: give {option}."
        )
    return width // HEAD_DIM


def config_from_shapes(tensors: Mapping[str, StoredTensor], sizes: Mapping[str, int], options: SourceOptions):
    """The configuration that weights of OpenAI's names have, from their shapes.

    `sizes` is what the file says about its sizes, to be checked; `hidden_act`, `text_heads` and `vision_heads` of the
    options overrule OpenAI's.
    """
    needed = [*_SIGNATURE, "transformer.resblocks.0.mlp.c_fc.weight"]
    resnet = any(name.startswith("visual.layer1.") for name in tensors)
    needed += (
        ["visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding"]
        if resnet
        else ["visual.conv1.weight", "visual.positional_embedding", "visual.transformer.resblocks.0.mlp.c_fc.weight"]
    )
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(f"These are not the weights of a CLIP: there is no {listed(missing)}.")
    hidden_act = options.hidden_act or "quick_gelu"
    width, projection_dim = tensors["text_projection"].shape
    text_config = ClipHFTextConfig(
        vocab_size=tensors["token_embedding.weight"].shape[0],
        hidden_size=width,
        intermediate_size=tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=_count(tensors, r"transformer\.resblocks\.(\d+)\."),
        num_attention_heads=_heads(width, options.text_heads, "text_heads"),
        max_position_embeddings=tensors["positional_embedding"].shape[0],
        hidden_act=hidden_act,
        layer_norm_eps=LAYER_NORM_EPS,
        projection_dim=projection_dim,
    )
    tower = _resnet_config if resnet else _vit_config
    vision_config = tower(tensors, sizes.get("input_resolution"), projection_dim, hidden_act, options.vision_heads)
    expected = {"context_length": text_config.max_position_embeddings, "vocab_size": text_config.vocab_size}
    expected["input_resolution"] = vision_config.image_size
    for name, value in sizes.items():
        if value != expected[name]:
            raise ValueError(f"The file says that {name} is {value}, but its weights are for {expected[name]}.")
    return ClipHFConfig(text_config=text_config, vision_config=vision_config, projection_dim=projection_dim)


def _vit_config(tensors, resolution, projection_dim, hidden_act, heads) -> ClipHFViTConfig:
    width, channels, patch_size, _ = tensors["visual.conv1.weight"].shape
    grid = _grid(tensors["visual.positional_embedding"], "visual.positional_embedding")
    fits = resolution is not None and resolution // patch_size == grid
    return ClipHFViTConfig(
        hidden_size=width,
        intermediate_size=tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=_count(tensors, r"visual\.transformer\.resblocks\.(\d+)\."),
        num_attention_heads=_heads(width, heads, "vision_heads"),
        num_channels=channels,
        image_size=resolution if fits else patch_size * grid,
        patch_size=patch_size,
        hidden_act=hidden_act,
        layer_norm_eps=LAYER_NORM_EPS,
        projection_dim=projection_dim,
    )


def _resnet_config(tensors, resolution, projection_dim, hidden_act, heads) -> ClipHFResNetConfig:
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    grid = _grid(tensors["visual.attnpool.positional_embedding"], "visual.attnpool.positional_embedding")
    fits = resolution is not None and resolution // 32 == grid
    return ClipHFResNetConfig(
        stage_depths=[_count(tensors, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)],
        width=width,
        num_attention_heads=_heads(32 * width, heads, "vision_heads"),
        image_size=resolution if fits else 32 * grid,
        projection_dim=projection_dim,
    )


def image_processor_of(image_size: int) -> ClipHFImageProcessor:
    """OpenAI's image transform for images of so many pixels a side."""
    return ClipHFImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


def check_expressible(checkpoint: Checkpoint) -> None:
    """Raise a `ValueError` that names every option of a model that OpenAI's code does not have."""
    text, vision, problems = checkpoint.config.text_config, checkpoint.config.vision_config, []
    resnet = vision.model_type == ClipHFResNetConfig.model_type
    for name, tower in (("text_config", text), ("vision_config", vision)):
        if tower.hidden_size != HEAD_DIM * tower.num_attention_heads:
            problems.append(f"{name} has {tower.num_attention_heads} heads in {tower.hidden_size} channels, not of 64")
        if tower is vision and resnet:
            continue
        if tower.hidden_act != "quick_gelu":
            problems.append(f"{name}.hidden_act is {tower.hidden_act!r}, not 'quick_gelu'")
        if tower.layer_norm_eps != LAYER_NORM_EPS:
            problems.append(f"{name}.layer_norm_eps is {tower.layer_norm_eps}, not {LAYER_NORM_EPS}")
        if tower.intermediate_size != 4 * tower.hidden_size:
            problems.append(f"{name}.intermediate_size is not four times the width")
    if text.eos_token_id != text.vocab_size - 1:
        problems.append(f"text_config.eos_token_id is {text.eos_token_id}, not the highest id")
    step = 32 if resnet else vision.patch_size
    if vision.image_size % step:
        problems.append(f"images of {vision.image_size} pixels are not a multiple of {step}")
    if vision.num_channels != 3:
        problems.append(f"images have {vision.num_channels} channels, not 3")
    if checkpoint.image_processor is not None:
        expected, actual = image_processor_of(vision.image_size).to_dict(), checkpoint.image_processor.to_dict()
        problems += [
            f"the image processor's {name} is {actual.get(name)!r}, not {expected[name]!r}"
            for name in IMAGE_OPTIONS
            if not _same(actual.get(name), expected[name])
        ]
    if problems:
        raise ValueError(
            f"{checkpoint.source} cannot be written in OpenAI's format, whose code is fixed: {'; '.join(problems)}."
        )


def _same(actual, expected) -> bool:
    if isinstance(expected, (list, tuple)):
        return actual is not None and list(actual) == list(expected)
    return actual == expected


class OpenAIFormat(CheckpointFormat):
    """OpenAI's `.pt` files: TorchScript archives, or state dicts of the same names."""

    name = "openai"
    config_name = None
    keeps_norms_in_float32 = True
    features = staticmethod(openai_features)

    def reads_file(self, file: WeightFile, path: Path, options: SourceOptions) -> bool:
        """Whether the names are OpenAI's."""
        return is_openai_named({name.removeprefix("text.") for name in file.tensors})

    def read(self, file: WeightFile, path: Path, options: SourceOptions) -> Checkpoint:
        """A checkpoint of weights, from which the configuration follows."""
        if options.config is not None or options.preprocess not in (None, "openai"):
            raise ValueError(
                f"{path} is OpenAI's, whose configuration and image transform are fixed: leave out config and "
                "preprocess."
            )
        weights, sizes, ignored = take_extras(file.tensors)
        config = config_from_shapes(weights, sizes, options)
        renamed, filled = rename(weights, config, str(path))
        notes = note_left_out(ignored) + filled
        if not sizes:
            notes.append(
                "The file does not say which program wrote it. It was read as OpenAI's code reads it, with "
                f"{config.text_config.hidden_act} and heads of {HEAD_DIM} channels unless given; if open_clip wrote "
                "it, give its config."
            )
        config.architectures = ["ClipHFModel"]
        tokenizer = build_tokenizer(options.merges, config.text_config, None)
        image_processor = image_processor_of(config.vision_config.image_size)
        return Checkpoint(self.name, str(path), config, renamed, weights, image_processor, tokenizer, notes)

    def check_holds(self, checkpoint: Checkpoint, tower: str | None) -> None:
        """OpenAI's code is fixed."""
        check_no_logit_bias(checkpoint, self.name)
        check_expressible(checkpoint)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """The format has no vocabulary, and its context length is an argument of the tokenizer."""
        text, tokenizer, notes = checkpoint.config.text_config, checkpoint.tokenizer, []
        if text.vocab_size != OPENAI_VOCAB_SIZE if tokenizer is None else not is_openais(tokenizer):
            notes.append(
                "The format openai has no place for a vocabulary. `clip.tokenize` makes ids of OpenAI's, which mean "
                f"other words to this model of {text.vocab_size} ids: keep its own tokenizer, and make ids with that."
            )
        if text.max_position_embeddings != CONTEXT_LENGTH:
            notes.append(f"Call `clip.tokenize(texts, context_length={text.max_position_embeddings})` for this model.")
        return notes

    def write(self, checkpoint: Checkpoint, path: Path, tower: str | None) -> None:
        """Write a TorchScript archive of the parameters, which OpenAI's `clip.load` opens.

        As in OpenAI's own archives, the sizes of the model are in it; its methods are not, so `jit=True` has no use.
        """
        text, vision = checkpoint.config.text_config, checkpoint.config.vision_config
        tensors = rename_back(checkpoint.tensors, checkpoint.config)
        sizes = zip(_SIZES, (vision.image_size, text.max_position_embeddings, text.vocab_size), strict=True)
        stored_sizes = {name: StoredTensor.of(torch.tensor(size)) for name, size in sizes}
        buffers = {name for name in tensors if name.split(".")[-1] in BATCH_NORM_STATISTICS}
        write_torchscript(tensors | stored_sizes, buffers | stored_sizes.keys(), path)
