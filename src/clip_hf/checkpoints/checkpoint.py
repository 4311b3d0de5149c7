# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every format is read into and written from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..model.configuration_clip_hf import ClipHFConfig
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.tokenization_clip_hf import ClipHFTokenizer
from ..utils.wording import listed
from .stored_tensor import StoredTensor


IMAGE_OPTIONS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)
"""What other formats know of an image processor."""


@dataclass(frozen=True)
class SourceOptions:
    """What a source may leave open. Reading such a source without the option is an error.

    Args:
        hidden_act (`str`, *optional*): activation of the MLPs, `"quick_gelu"` or `"gelu"`.
        text_heads (`int`, *optional*): attention heads of the text tower.
        vision_heads (`int`, *optional*): attention heads of the vision tower (of a ResNet: of its attention pool).
        config (`dict`, `str` or `Path`, *optional*): open_clip's configuration of the model, or its JSON file.
        preprocess (`dict` or `str`, *optional*): open_clip's `preprocess_cfg`, or `"openai"` for OpenAI's transform.
        merges (`str` or `Path`, *optional*): byte-pair merges in OpenAI's format, or a folder with a tokenizer.
    """

    hidden_act: str | None = None
    text_heads: int | None = None
    vision_heads: int | None = None
    config: dict[str, Any] | str | Path | None = None
    preprocess: dict[str, Any] | str | None = None
    merges: str | Path | None = None

    def check_against(self, config: ClipHFConfig) -> None:
        """Raise a `ValueError` if what was given contradicts a configuration that leaves nothing open."""
        text, vision = config.text_config, config.vision_config
        stated = [
            ("hidden_act", text.hidden_act),
            ("hidden_act", getattr(vision, "hidden_act", self.hidden_act)),
            ("text_heads", text.num_attention_heads),
            ("vision_heads", vision.num_attention_heads),
        ]
        for name, value in stated:
            choice = getattr(self, name)
            if choice not in (None, value):
                raise ValueError(f"{name}={choice!r} was given, but the configuration says {value!r}.")


@dataclass
class Checkpoint:
    """A CLIP whose weights may still be in their files.

    Args:
        format (`str`): what it was read from: `"openai"`, `"open_clip"`, `"transformers"` or `"clip_hf"`.
        source (`str`): where it was read from, for messages.
        config (`ClipHFConfig`): its configuration.
        tensors (`dict[str, StoredTensor]`): its weights, under our names.
        source_tensors (`dict[str, StoredTensor]`): the same weights, under the names of the format.
        image_processor (`ClipHFImageProcessor`, *optional*): `None` where the source says nothing about pixels.
        tokenizer (`ClipHFTokenizer`, *optional*): `None` where the source has no vocabulary.
        notes (`list[str]`): what a reader should know: what was assumed, and what was left out.
    """

    format: str
    source: str
    config: ClipHFConfig
    tensors: dict[str, StoredTensor]
    source_tensors: dict[str, StoredTensor]
    image_processor: ClipHFImageProcessor | None = None
    tokenizer: ClipHFTokenizer | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def processor(self) -> ClipHFProcessor | ClipHFImageProcessor | ClipHFTokenizer | None:
        """Image processor and tokenizer as one processor, or the one of them that exists."""
        if self.image_processor is not None and self.tokenizer is not None:
            return ClipHFProcessor(self.image_processor, self.tokenizer)
        return self.image_processor if self.image_processor is not None else self.tokenizer

    @classmethod
    def of(cls, model: ClipHFModel, processor: Any) -> "Checkpoint":
        """The checkpoint that a model in memory is; a `TypeError` for a class that cannot be written."""
        # Compare names: remote code gives a model another class of the same name.
        if type(model).__name__ != ClipHFModel.__name__:
            raise TypeError(f"`model` must be a ClipHFModel, a whole CLIP; given {type(model).__name__}.")
        parts = {"ClipHFImageProcessor": None, "ClipHFTokenizer": None}
        names = ("image_processor", "tokenizer")
        members = [getattr(processor, name) for name in names if hasattr(processor, name)] or [processor]
        for part in members:
            if part is None:
                continue
            if type(part).__name__ not in parts:
                raise TypeError(
                    "`processor` must be a ClipHFProcessor, a ClipHFImageProcessor, a ClipHFTokenizer or None; given "
                    f"{type(part).__name__}. `ClipHFProcessor.from_pretrained` makes one of any CLIP repo."
                )
            parts[type(part).__name__] = part
        tensors = {name: _of_parameter(name, tensor) for name, tensor in model.state_dict().items()}
        image_processor, tokenizer = parts.values()
        return cls("clip_hf", "the model", model.config, tensors, tensors, image_processor, tokenizer)


def check_no_logit_bias(checkpoint: Checkpoint, format: str) -> None:
    """Raise a `ValueError` if the model has a logit bias, which only our own format holds."""
    if checkpoint.config.logit_bias_init_value is not None:
        raise ValueError(f"The model has a logit bias, of the sigmoid loss, which the format {format} cannot hold.")


def note_left_out(names: list[str]) -> list[str]:
    """The note on tensors of a source that are not weights; an empty list if there are none."""
    return [f"No weights, left out: {listed(names, 4)}."] if names else []


def _of_parameter(name: str, tensor) -> StoredTensor:
    if name == "logit_scale":  # one element of one axis while FSDP2 trains it
        tensor = tensor.reshape(())
    return StoredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor.detach().cpu())
