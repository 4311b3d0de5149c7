# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One interface to the two encoders of any CLIP, and a fingerprint of all that decides its features."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits
from ..model.image_transform_clip_hf import HIGH_BIT_DEPTH, draft_edge, open_upright, parse_color
from ..model.text_state_clip_hf import tensors_checksum
from ..model.zero_shot_clip_hf import eval_mode, input_device
from ..utils.fingerprints import (
    find_overrides,
    module_settings,
    package_version,
    plain_config,
    tensors_of,
    weights_digest,
)


# Images in one pass of `encode_images`.
_BATCH_SIZE = 64
_IMAGE_OPTIONS = ("background_color", "apply_exif_orientation", "high_bit_depth", "draft")


class NotFiniteError(ValueError):
    """Features hold NaN or infinite values; `row` is the first row that does, and of images, `features` are all."""

    def __init__(self, row: int, what: str, features: torch.Tensor | None = None):
        super().__init__(
            f"The features of {what} hold NaN or infinite values: the model's weights are damaged, or they overflow "
            "in half precision; in that case use float32."
        )
        self.row, self.features = row, features


class DualEncoder(ABC):
    """A model with an image and a text encoder whose features are compared by their cosine.

    - The same few methods for each library; [`load_dual_encoder`] picks the class.
    - The model runs in evaluation mode and without gradients; its modules' modes are restored.
    - Features come back in float32 on the CPU, whatever the model's dtype and device are.

    Args:
        model (`nn.Module`): The model, on its device and in its dtype.
        processor: Prepares its inputs; each class says which kinds it takes.
        name (`str`): The model's name or path, as it was given.
    """

    runtime: str = "torch"
    """What runs the model: `"torch"`, `"onnx"` or `"openvino"`."""
    depends_on_batch: bool = False
    """Whether features change, by more than rounding, with what else is in their batch."""
    media: str = "images"
    """What it embeds besides texts: `"images"`, or `"videos"` for films."""
    images_per_item: int = 1
    """Images of one item in a pass of the model; a film has several."""

    packages: tuple[str, ...] = ("clip_hf", "pillow")
    """Packages whose versions may change pixels, tokens or features."""
    background_color: Sequence[int] | None = None
    apply_exif_orientation: bool = True
    high_bit_depth: str | None = None
    draft: bool = False
    image_limits: ImageLimits = DEFAULT_LIMITS

    def __init__(self, model: nn.Module, processor: Any, name: str):
        self.model, self.processor, self.given_name = model, processor, name
        self._weights: tuple[Any, bytes] | None = None
        self._replaced_options: dict[str, Any] = {}  # what the image processor itself says

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"

    def __getstate__(self) -> dict[str, Any]:
        # Without memoised values, so that `datasets` sees the same encoder before and after its use.
        state = {k: v for k, v in vars(self).items() if not isinstance(getattr(type(self), k, None), cached_property)}
        return {**state, "_weights": None}

    @property
    def of_pictures(self) -> "DualEncoder":
        """The encoder of single pictures, such as the frames of an index: the one inside an encoder of films."""
        return self

    @property
    def name(self) -> str:
        """The model's name in results: as it was given, with runtime and precision unless PyTorch runs it in float32,
        as in `"my_model (torch, bfloat16)"`.
        """
        precision = str(self.dtype).removeprefix("torch.")
        if (self.runtime, precision) == ("torch", "float32"):
            return self.given_name
        return f"{self.given_name.rstrip('/')} ({self.runtime}, {precision})"

    @property
    def image_options(self) -> dict[str, Any]:
        """The options of [`set_image_options`] that differ from what the model's image processor says, by name.

        Limits are none of them, because they change no pixel; and drafts always differ, because no model has them.
        """
        reader, own = self._file_reader(), {**self._replaced_options, "draft": False}
        values = {name: getattr(reader, name, None) for name in _IMAGE_OPTIONS}
        return {
            name: _plain_option(name, value)
            for name, value in values.items()
            if _plain_option(name, value) != _plain_option(name, own.get(name, value))
        }

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return next(self.model.parameters()).dtype

    @property
    def logit_scale(self) -> float:
        """The factor of cosines: the multiplier itself, not its logarithm."""
        return self._scale_and_bias()[0]

    @property
    def logit_bias(self) -> float:
        """The term added to scaled cosines; 0 for models without one."""
        return self._scale_and_bias()[1]

    @cached_property
    def projection_dim(self) -> int:
        """Width of the space that images and texts share."""
        return self.encode_texts(["a photo of a cat"]).shape[-1]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides features: weights, configuration, processing, dtype and versions of
        libraries, but not the model's path or device. Hooks, and `forward`s put in the place of a class's, count by
        their qualified names, not by what they do. It is computed on each access; weights are digested again only if
        they have changed.
        """
        described = [
            type(self).__name__,
            {package: package_version(package) for package in self.packages},
            self._described_processor(),
            [self.background_color, self.apply_exif_orientation, *filter(None, [self.high_bit_depth])],
            *filter(None, [self.draft and "draft"]),
            *self._described_model(),
        ]
        digest = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=16)
        digest.update(self._digested_weights())
        return digest.hexdigest()

    def prepare(self, images: Sequence[Any]) -> dict[str, torch.Tensor]:
        """The model's inputs for images or what `open_image` takes: paths, URLs, the bytes of files.

        They are on the CPU, in float32, each with the images along its first axis. An image that cannot be read is a
        ValueError. Several threads may call this at once, on different images.
        """
        high_bit_depth = self.high_bit_depth or "clip"  # as Pillow does
        options = (self.image_limits, self.apply_exif_orientation, high_bit_depth, self.background_color)
        edge = self._draft_edge() if self.draft else None
        return self._prepare([open_upright(image, *options, edge) for image in images])

    def set_image_options(
        self,
        *,
        background_color: str | Sequence[int] | None = None,
        apply_exif_orientation: bool | None = None,
        high_bit_depth: str | None = None,
        draft: bool | None = None,
        image_limits: ImageLimits | None = None,
    ) -> None:
        """Change how image files are read from now on; None leaves a setting as it is.

        Args:
            background_color (`str` or `Sequence[int]`, *optional*): Background of images with transparency: a name,
                `"#ffffff"`, or red, green and blue from 0 to 255. By default that of a [`ClipHFModel`]'s image
                processor; other models have none.
            apply_exif_orientation (`bool`, *optional*): Whether to turn images as their EXIF orientation says, the
                default.
            high_bit_depth (`str`, *optional*): Treatment of images of more than 8 bits: `"error"`, `"scale"` or
                `"clip"`, see [`ClipHFImageProcessor`]. By default that of a [`ClipHFModel`]'s image processor; other
                models get what Pillow makes of them, which is mostly white.
            draft (`bool`, *optional*): Whether to decode large JPEG files at a part of their size, see
                [`ClipHFImageProcessor`]: several times as fast, with slightly different pixels. Off by default.
            image_limits ([`ImageLimits`], *optional*): Bounds of the files and images that are read.

        Raises:
            ValueError: if `background_color` is no colour, `high_bit_depth` none of the three, `draft` neither True
                nor False, or the size to which another library resizes is unknown, which drafts need.
        """
        color = None if background_color is None else parse_color(background_color)
        if high_bit_depth not in (None, *HIGH_BIT_DEPTH):
            raise ValueError(f"`high_bit_depth` is {high_bit_depth!r}; it must be one of {', '.join(HIGH_BIT_DEPTH)}.")
        if draft not in (None, True, False):
            raise ValueError(f"`draft` is {draft!r}; it must be True or False.")
        if draft:
            self._draft_edge()  # raises now if that is unknown
        options = {"background_color": color, "apply_exif_orientation": apply_exif_orientation}
        for name, value in {**options, "high_bit_depth": high_bit_depth, "draft": draft}.items():
            if value is not None:
                self._replaced_options.setdefault(name, getattr(self._file_reader(), name))
                self._set_image_option(name, value)
        if image_limits is not None:
            self.image_limits = image_limits

    def _file_reader(self) -> Any:
        """The object with `background_color`, `apply_exif_orientation`, `high_bit_depth` and `draft`."""
        return self

    def _set_image_option(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def _size_rule(self) -> Mapping[str, int] | None:
        """To what images are resized, such as `{"shortest_edge": 224}`; None if that is unknown."""
        return None

    def _draft_edge(self) -> int:
        rule = self._size_rule()
        if not rule:
            raise ValueError(
                f"`draft` needs the size to which images are resized, which {self.name} does not tell; leave it out."
            )
        return draft_edge(rule)

    def items_in(self, batch_size: int) -> int:
        """How many items pass the model at once where `batch_size` images may; one at least."""
        return max(1, batch_size // self.images_per_item)

    @abstractmethod
    def _prepare(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """[`prepare`] for opened images."""

    def encode_images(
        self, images: Sequence[Any] | Mapping[str, torch.Tensor], *, projected: bool = True
    ) -> torch.Tensor:
        """Features of images.

        Args:
            images (`Sequence` or `Mapping[str, torch.Tensor]`): Images or files, see [`prepare`], which pass the model
                64 at a time (or one film of more frames); or what [`prepare`] returned, which passes it at once.
            projected (`bool`, *optional*, defaults to `True`): Features in the space shared with texts, L2-normalised;
                otherwise those before the projection, as the image tower pools them, not normalised (for linear
                probes, paper appendix A.3). Models without a projection, such as SigLIP, have only one kind; it is
                then not normalised either.

        Returns:
            `torch.Tensor` of shape (n, dim), float32, on the CPU.

        Raises:
            ValueError: if there are no images, features are NaN or infinite, or the model does not give features
                before its projection.
        """
        if isinstance(images, Mapping):
            return self._encode_prepared(dict(images), projected)
        if len(images) == 0:
            raise ValueError("There are no images: the list is empty.")
        parts, size = [], self.items_in(_BATCH_SIZE)
        for start in range(0, len(images), size):
            prepared = self.prepare(images[start : start + size])
            parts.append(self._encode_prepared(prepared, projected, start))
        return torch.cat(parts)

    @torch.no_grad()
    def _encode_prepared(self, inputs: dict[str, Any], projected: bool, first: int = 0) -> torch.Tensor:
        dtype = _input_dtype(self._image_tower())
        with eval_mode(self.model):
            features = self._image_features(move_inputs(inputs, self.device, dtype), projected)
        if projected and features.shape[-1] != self.projection_dim:
            raise ValueError(
                f"{self.name} has image features of {features.shape[-1]} dimensions and text features of "
                f"{self.projection_dim}, which cannot be compared: it is no dual encoder."
            )
        features = self._finish(features, projected)
        row = first_not_finite(features)
        if row is not None:
            raise NotFiniteError(first + row, f"image {first + row}", features)
        return features

    def text_batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Encode texts in batches; too long ones are truncated, repeated ones encoded again.

        Texts of similar length share a batch where the model allows.

        Yields:
            `tuple[list[int], torch.Tensor]`: the indices of some texts and their features (batch, projection_dim),
            L2-normalised, float32, on the CPU, until each came once.

        Raises:
            TypeError: if a text is no string.
            ValueError: if there are no texts, or features are NaN or infinite.
        """
        texts = check_texts(texts)
        batches = self._text_batches(texts)
        while True:
            with torch.no_grad(), eval_mode(self.model):
                encoded = next(batches, None)
            if encoded is None:
                return
            batch, features = encoded[0], self._finish(encoded[1], True)
            row = first_not_finite(features)
            if row is not None:
                raise NotFiniteError(batch[row], f"text {batch[row]} ({texts[batch[row]]!r:.80})")
            yield batch, features

    def token_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each text as the model gets it, cut to its length: texts of the same ones are one to it."""
        return self._token_ids(check_texts(texts))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text before any is cut, with those that the tokenizer adds. At most
        [`~DualEncoder.context_length`] of them count. A thread may call this while another one encodes.
        """
        return self._count_tokens(check_texts(texts))

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts; repeated ones are encoded once. Arguments and errors as in [`text_batches`].

        Returns:
            `torch.Tensor` of shape (n, projection_dim), L2-normalised, float32, on the CPU, in the texts' order.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(check_texts(texts)))}
        result = None
        for batch, features in self.text_batches(list(places)):
            result = features.new_empty(len(places), features.shape[-1]) if result is None else result
            result[batch] = features
        return result[[places[text] for text in texts]]

    @staticmethod
    def _finish(features: torch.Tensor, normalised: bool) -> torch.Tensor:
        # Half precision is promoted first: normalising would lose digits.
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        features = nn.functional.normalize(features, dim=-1) if normalised else features
        return features.to("cpu", torch.float32)

    def _described_model(self) -> list:
        """All that decides features besides weights and inputs, as JSON."""
        overrides = [each for each in find_overrides(self.model) if each[1] != "placement"]
        described = [module_settings(self.model), plain_config(getattr(self.model, "config", None))]
        return [*described, overrides] if overrides else described

    def _digested_weights(self) -> bytes:
        """Digest of the weights; they are read again only if they have changed."""
        state = _weights_state(self.model)
        if self._weights is None or self._weights[0] != state:
            self._weights = (state, weights_digest(self.model))
        return self._weights[1]

    def _image_tower(self) -> nn.Module:
        """The part of the model whose dtype pixels must have."""
        return self.model

    def _scale_and_bias(self) -> tuple[float, float]:
        return scale_and_bias(self.model)

    @abstractmethod
    def _described_processor(self) -> Any:
        """All that decides pixels and tokens, as JSON."""

    @abstractmethod
    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        """(n, dim), not normalised, in the model's dtype."""

    @abstractmethod
    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """[`text_batches`] without checks, run in evaluation mode; features need not be normalised."""

    @abstractmethod
    def _token_ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        """[`token_ids`] without checks."""

    @property
    def context_length(self) -> int:
        """The tokens of the longest text that is not cut."""
        raise NotImplementedError

    def _count_tokens(self, texts: list[str]) -> list[int]:
        """[`count_tokens`] without checks."""
        raise NotImplementedError


def _plain_option(name: str, value: Any) -> Any:
    """An option of images as JSON has it; what Pillow does with 16 bits has a name."""
    value = list(value) if isinstance(value, (list, tuple)) else value
    return "clip" if name == "high_bit_depth" and value is None else value


def check_texts(texts: Iterable[str], first: int = 0) -> list[str]:
    """Texts as a list; TypeError if one is no string, ValueError if there are none. `first` numbers the first one."""
    if isinstance(texts, str):
        raise TypeError(f"Texts must be a list of strings, not one string: given {texts!r:.80}, pass [{texts!r:.80}].")
    texts = list(texts)
    if not texts:
        raise ValueError("There are no texts: the list is empty.")
    for index, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise TypeError(f"Text {index} is {text!r:.80}, of type {type(text).__name__}; texts must be strings.")
    return texts


def first_not_finite(features: torch.Tensor) -> int | None:
    """The first row with NaN or an infinite value; None if there is none."""
    bad = ~torch.isfinite(features).all(dim=-1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def move_inputs(inputs: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Move tensors to a device, floating ones to a dtype too; other inputs stay as they are."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


def _input_dtype(tower: nn.Module) -> torch.dtype:
    """The dtype that pixels must have: of the tower's first convolution, else of its first floating parameter."""
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.dtype
    return next(
        (parameter.dtype for parameter in tower.parameters() if parameter.is_floating_point()),
        torch.get_default_dtype(),
    )


def scale_and_bias(model: nn.Module) -> tuple[float, float]:
    """Factor and term that a model applies to cosines: 1 and 0 where it has no such weights."""

    def value(name: str) -> float | None:
        parameter = getattr(model, name, None)
        return float(parameter.detach().double()) if isinstance(parameter, torch.Tensor) else None

    scale, temperature = value("logit_scale"), value("temperature")
    if scale is not None:
        # AIMv2 bounds it.
        scale = math.exp(min(scale, getattr(model, "max_log_logit_scale", math.inf)))
    elif temperature is not None:
        scale = 1 / temperature  # ALIGN
    return (1.0 if scale is None else scale), value("logit_bias") or 0.0


@contextmanager
def first_input_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the first arguments of `module`'s calls while the block runs."""
    inputs: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        handle.remove()


def _weights_state(model: nn.Module) -> tuple:
    """A value that changes when weights do; a checksum takes a fraction of the time of [`weights_digest`]."""
    weights = tensors_of(model)
    kinds = [(name, value.dtype, value.shape, value.is_meta) for name, value in weights.items()]
    return *kinds, tensors_checksum([value for value in weights.values() if not value.is_meta])
