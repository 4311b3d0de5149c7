# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Our models, transformers' dual encoders and sentence-transformers' CLIP, behind one interface."""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..model.checks_clip_hf import type_of
from ..model.image_processing_clip_hf import opens_files
from ..model.zero_shot_clip_hf import MAX_TOKENS_PER_BATCH, context_length, encode_in_batches, eval_mode
from ..utils.fingerprints import plain_config, tokenizer_digest
from .dual_encoder import DualEncoder, first_input_of, move_inputs, scale_and_bias


# How transformers' dual encoders call the layer between the image tower's pooled output and the shared space.
_IMAGE_PROJECTIONS = ("visual_projection", "image_projection", "vision_projection", "vision_proj")
_PROBE = "a photo of a cat"
# Distances of unit vectors. Rounding stays well below; what padding does to features where it matters is far above.
_PADDING_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2}


class TransformersEncoder(DualEncoder):
    """A dual encoder of transformers: any model with `get_image_features` and `get_text_features`.

    Texts of similar length share a batch, unless features depend on the padding, as SigLIP's do: then all texts have
    the full length. A short text is encoded with and without padding to find out. The processor may be a tuple of
    image processor and tokenizer.
    """

    packages = (*DualEncoder.packages, "transformers", "tokenizers")

    def __init__(self, model: nn.Module, processor: Any, name: str):
        for method in ("get_image_features", "get_text_features"):
            if not callable(getattr(model, method, None)):
                raise TypeError(
                    f"{name} is {type_of(model)}, which has no `{method}`: it does not embed images and texts "
                    "in one space. Models such as CLIP, SigLIP, ALIGN, AltCLIP and ChineseCLIP do."
                )
        super().__init__(model, processor, name)
        self.image_processor, self.tokenizer = _split_processor(processor, name)

    def _prepare(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        # Not every processor converts to RGB.
        if not getattr(self.image_processor, "do_convert_rgb", False):
            images = [image if image.mode == "RGB" else image.convert("RGB") for image in images]
        return _tensors_in(self.image_processor(images=list(images), return_tensors="pt"))

    def _size_rule(self) -> dict[str, int] | None:
        return _size_rule(self.image_processor)

    def _image_tower(self) -> nn.Module:
        names = ("vision_model", "image_model")
        return next((getattr(self.model, name) for name in names if hasattr(self.model, name)), self.model)

    def _described_processor(self) -> Any:
        return _describe_processor(self.image_processor, self.tokenizer)

    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        inputs = _accepted(self.model.get_image_features, inputs)
        projection = None if projected else _image_projection(self.model)
        if projection is None:
            return self._pooled(self.model.get_image_features(**inputs))
        with first_input_of(projection) as projection_inputs:
            self.model.get_image_features(**inputs)
        return self._pooled(projection_inputs[0])

    def _pooled(self, output: Any) -> torch.Tensor:
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        if features.ndim == 3 and getattr(self.model.config, "model_type", None) == "flava":
            features = features[:, 0]  # its contrastive loss compares the features of the first token
        if features.ndim != 2:
            raise ValueError(
                f"{self.name} gives features of shape {tuple(features.shape)}, not one vector for each input."
            )
        return features

    def _text_features(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self._pooled(self.model.get_text_features(**_accepted(self.model.get_text_features, inputs)))

    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        if not self.depends_on_padding:
            # Stands for the model: its text features are those that this class pools.
            tower = SimpleNamespace(
                config=self.model.config, parameters=self.model.parameters, encode_text=self._text_features
            )
            yield from encode_in_batches(tower, self.tokenizer, texts)
            return
        length = self._full_length
        padded = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        size = max(1, MAX_TOKENS_PER_BATCH // length)
        for start in range(0, len(texts), size):
            inputs = dict(self.tokenizer(texts[start : start + size], **padded))
            features = self._text_features(**move_inputs(inputs, self.device, torch.float32))
            yield list(range(start, start + len(features))), features

    def _token_ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        length = self.context_length
        return [tuple(ids) for ids in self.tokenizer(texts, truncation=True, max_length=length)["input_ids"]]

    @cached_property
    def context_length(self) -> int:
        """The tokens of the longest text that is not cut."""
        return self._full_length if self.depends_on_padding else context_length(self.model, self.tokenizer)

    @cached_property
    def _counting_tokenizer(self) -> Any:
        return copy.deepcopy(self.tokenizer)  # tokenizers hold how to cut and pad: another thread may be encoding

    def _count_tokens(self, texts: list[str]) -> list[int]:
        return count_uncut_tokens(self._counting_tokenizer, texts)

    @property
    def _full_length(self) -> int:
        options = getattr(self.processor, "text_kwargs", None)
        processor_length = options.get("max_length") if isinstance(options, dict) else None
        model_length = context_length(self.model, self.tokenizer)
        return min(processor_length or model_length, model_length)

    @cached_property
    def depends_on_padding(self) -> bool:
        """Whether a text's features change with padding on the right, masked where the model takes a mask."""
        length = context_length(self.model, self.tokenizer)
        rows = self.tokenizer([_PROBE], truncation=True, max_length=max(2, length // 2))
        short = {key: torch.as_tensor(value) for key, value in rows.items()}  # (1, tokens)
        size = short["input_ids"].shape[1]
        more = min(length, size + 64) - size
        padded = {
            key: nn.functional.pad(value, (0, more), value=(self.tokenizer.pad_token_id or 0) * (key == "input_ids"))
            for key, value in short.items()
        }
        both = [move_inputs(inputs, self.device, torch.float32) for inputs in (short, padded)]
        with torch.no_grad(), eval_mode(self.model):
            return _differ(*(self._text_features(**inputs) for inputs in both))


class ClipHFEncoder(TransformersEncoder):
    """A [`ClipHFModel`]: the last layers compute only what is pooled; texts of similar length always share a batch."""

    packages = (*DualEncoder.packages, "transformers", "tokenizers", "ftfy")
    depends_on_padding = False

    @property
    def projection_dim(self) -> int:
        """Width of the space that images and texts share."""
        return self.model.config.projection_dim

    def prepare(self, images: Sequence[Any]) -> dict[str, torch.Tensor]:
        """As in [`DualEncoder`], but our image processor opens the files itself."""
        if not opens_files(self.image_processor):
            return super().prepare(images)
        processor, images = self.image_processor, list(images)
        transform = processor.transform(self.image_limits)
        batch = transform.empty_batch(len(images))
        is_main = threading.current_thread() is threading.main_thread()
        if not (is_main or batch is None or processor.do_pad or processor.data_format):
            # The image processor has threads of its own, which would compete with the caller's.
            with suppress(ValueError, TypeError):  # the call below names the image
                for image, pixels in zip(images, batch):
                    transform.pixels(image, 1, pixels)
                return {"pixel_values": torch.from_numpy(batch)}
        return dict(processor(images, return_tensors="pt", image_limits=self.image_limits))

    def _file_reader(self) -> Any:
        return self.image_processor if opens_files(self.image_processor) else self

    def _set_image_option(self, name: str, value: Any) -> None:
        if opens_files(self.image_processor):
            self.image_processor = copy.copy(self.image_processor)  # the caller's stays as it is
        setattr(self._file_reader(), name, value)

    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        if projected:
            return self.model.get_image_features(**inputs, pooled_only=True).pooler_output
        return self.model.vision_model(**inputs, pooled_only=True).pooler_output

    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        return encode_in_batches(self.model, self.tokenizer, texts)


class SentenceTransformersEncoder(DualEncoder):
    """A `SentenceTransformer` that embeds images and texts, such as a CLIP; it has its own processor."""

    packages = (*TransformersEncoder.packages, "sentence-transformers")

    def __init__(self, model: nn.Module, processor: Any, name: str):
        if processor is not None:
            raise ValueError("A SentenceTransformer has its own processor: leave `processor` out.")
        modalities = list(getattr(model, "modalities", ["text"]))
        if not {"text", "image"} <= set(modalities):
            raise ValueError(f"{name} embeds {', '.join(map(str, modalities))}; images and texts are needed.")
        super().__init__(model, getattr(model, "processor", None), name)

    @property
    def _inner(self) -> nn.Module:
        """The model of transformers inside."""
        inner = getattr(self.model, "transformers_model", None)
        return self.model if inner is None else inner

    def _prepare(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        return _tensors_in(self.model.preprocess([image.convert("RGB") for image in images]))

    def _size_rule(self) -> dict[str, int] | None:
        return _size_rule(_split_processor(self.processor, self.name)[0])

    def _scale_and_bias(self) -> tuple[float, float]:
        return scale_and_bias(self._inner)

    def _described_processor(self) -> Any:
        return _describe_processor(*_split_processor(self.processor, self.name))

    def _forward(self, modality: str, inputs: dict[str, Any]) -> torch.Tensor:
        inputs = move_inputs(inputs, self.device, next(self.model.parameters()).dtype)
        return self.model.forward({**inputs, "modality": modality})["sentence_embedding"]

    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        if projected:
            return self._forward("image", inputs)
        projection = _image_projection(self._inner)
        if projection is None:
            raise ValueError(f"{self.name} has no known projection of its image tower.")
        with first_input_of(projection) as projection_inputs:
            self._forward("image", inputs)
        return projection_inputs[0]

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        return self._forward("text", self.model.preprocess(texts))

    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        if self.depends_on_padding:
            raise ValueError(
                f"{self.name} pads texts to the longest of a batch, but its features depend on the padding. Evaluate "
                "the model inside, by its own name or folder, without sentence-transformers."
            )
        # By characters, which go with tokens; the longest first.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        for start in range(0, len(order), 256):
            batch = order[start : start + 256]
            yield batch, self._text_features([texts[index] for index in batch])

    def _token_ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        inputs = self.model.preprocess(texts)
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        return [tuple(ids[kept.bool()].tolist()) for ids, kept in zip(inputs["input_ids"], mask)]

    @property
    def context_length(self) -> int:
        """The tokens of the longest text that is not cut."""
        length = context_length(self._inner, self._counting_tokenizer)
        return min(getattr(self.model, "max_seq_length", None) or length, length)

    @cached_property
    def _counting_tokenizer(self) -> Any:
        return copy.deepcopy(_split_processor(self.processor, self.name)[1])

    def _count_tokens(self, texts: list[str]) -> list[int]:
        return count_uncut_tokens(self._counting_tokenizer, texts)

    @cached_property
    def depends_on_padding(self) -> bool:
        """Whether a text's features change with the longest text of its batch."""
        with torch.no_grad(), eval_mode(self.model):
            alone = self._text_features([_PROBE])[:1]
            padded = self._text_features([_PROBE, f"{_PROBE} and a dog and a bird and a fish"])[:1]
        return _differ(alone, padded)


def count_uncut_tokens(tokenizer: Any, texts: list[str]) -> list[int]:
    """The tokens that a tokenizer of transformers makes of each text, with those that it adds."""
    return [len(ids) for ids in tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]]


def _split_processor(processor: Any, name: str) -> tuple[Any, Any]:
    """Image processor and tokenizer of a processor; TypeError if one is missing."""
    if isinstance(processor, (tuple, list)) and len(processor) == 2:
        return tuple(processor)
    parts = tuple(getattr(processor, part, None) for part in ("image_processor", "tokenizer"))
    if any(part is None for part in parts):
        raise TypeError(
            f"{name} needs a processor with an image processor and a tokenizer, or a tuple of the two; given "
            f"{type(processor).__name__}."
        )
    return parts


def _describe_processor(image_processor: Any, tokenizer: Any) -> list:
    drafts = getattr(image_processor, "draft", False)  # no part of the configuration
    described = [type(image_processor).__name__, plain_config(image_processor), tokenizer_digest(tokenizer)]
    return [*described, "draft"] if drafts else described


def _size_rule(image_processor: Any) -> dict[str, int] | None:
    size = getattr(image_processor, "size", None)
    return dict(size) if size and getattr(image_processor, "do_resize", False) else None


def _differ(features: torch.Tensor, others: torch.Tensor) -> bool:
    distance = torch.dist(*(nn.functional.normalize(each.double(), dim=-1) for each in (features, others)))
    # NaN counts as a difference; it is reported where features are used.
    return not float(distance) <= _PADDING_TOLERANCE.get(features.dtype, 1e-4)


def _tensors_in(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def _image_projection(model: nn.Module) -> nn.Module | None:
    candidates = (getattr(model, name, None) for name in _IMAGE_PROJECTIONS)
    return next((module for module in candidates if isinstance(module, nn.Module)), None)


def _accepted(method: Callable, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs that a method takes, because some tokenizers give more."""
    names = inspect.signature(method).parameters
    return {name: value for name, value in inputs.items() if name in names}
