# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Any CLIP as an encoder of films: their frames are embedded and averaged, or combined by the model's temporal head.

Shapes: n films, v views of a film, f frames of a view; n * v * f frames pass the model as one batch.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.image_reading_clip_hf import ImageLimits
from ..model.video_processing_clip_hf import is_picture
from ..model.video_reading_clip_hf import ClipSampling, read_clip
from ..utils.fingerprints import package_version
from .dual_encoder import DualEncoder


VIDEO_TYPE = "clip_hf_video"
"""`model_type` of our video models."""


class VideoEncoder(DualEncoder):
    """A [`DualEncoder`] whose images are films, around one whose images are pictures.

    - A view is `clip.num_frames` frames in equal steps. Their features are L2-normalised and averaged (ActionCLIP's
      meanP); a [`ClipHFVideoModel`] with another temporal head combines them itself.
    - The views' L2-normalised features are averaged.
    - A picture is a clip of one frame: its features are those of [`~VideoEncoder.of_pictures`]. An animated GIF is a
      film.
    - Texts, precision, device and options of images are those of the encoder inside, `encoder.inner`.

    Features before the projection are the averages of the frames' features, not normalised. A temporal head comes
    after the projection, so a model with one has only one kind of features, and gives it for either.

    Args:
        inner ([`DualEncoder`]): Embeds the frames.
        clip ([`ClipSampling`], *optional*): How many frames and views are taken of each film.

    Raises:
        TypeError: if `inner` is an encoder of films already, or `clip` no [`ClipSampling`].
    """

    def __init__(self, inner: DualEncoder, clip: ClipSampling | None = None):
        if not isinstance(inner, DualEncoder) or isinstance(inner, VideoEncoder):
            raise TypeError(f"`inner` must be an encoder of pictures; given {type(inner).__name__}.")
        if clip is not None and not isinstance(clip, ClipSampling):
            raise TypeError(f"`clip` must be a ClipSampling, such as ClipSampling(num_frames=8); given {clip!r:.80}.")
        super().__init__(inner.model, inner.processor, inner.given_name)
        self.inner, self.clip = inner, clip or ClipSampling()

    media = "videos"

    @property
    def of_pictures(self) -> DualEncoder:
        """The encoder inside: it embeds each picture by itself, as a clip of one frame."""
        return self.inner

    # Class attributes of `DualEncoder`; the encoder inside decides them, and may change them.
    @property
    def runtime(self) -> str:
        """What runs the model."""
        return self.inner.runtime

    @property
    def depends_on_batch(self) -> bool:
        """Whether features change with what else is in their batch."""
        return self.inner.depends_on_batch

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages whose versions may change frames, tokens or features."""
        return (*self.inner.packages, "av")

    @property
    def image_limits(self) -> ImageLimits:
        """Bounds of the pictures that are read."""
        return self.inner.image_limits

    @property
    def images_per_item(self) -> int:
        """Frames of a film that pass the model."""
        return self.clip.num_frames * self.clip.num_views

    @property
    def image_options(self) -> dict[str, Any]:
        """Those of the encoder inside, and how many frames and views are taken."""
        return {
            **self.inner.image_options,
            "num_frames": self.clip.num_frames,
            "num_views": self.clip.num_views,
        }

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self.inner.dtype

    @property
    def projection_dim(self) -> int:
        """Width of the space that films and texts share."""
        return self.inner.projection_dim

    @property
    def context_length(self) -> int:
        """The tokens of the longest text that is not cut."""
        return self.inner.context_length

    @property
    def has_temporal_head(self) -> bool:
        """Whether the model combines frames otherwise than by their average."""
        config = getattr(self.model, "config", None)
        return (
            getattr(config, "model_type", None) == VIDEO_TYPE and getattr(config, "temporal_head", "meanP") != "meanP"
        )

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the inner encoder's fingerprint, the frames that are taken, and PyAV's version."""
        frames = [self.clip.num_frames, self.clip.num_views, package_version("av")]
        described = [type(self).__name__, self.inner.fingerprint, frames]
        return hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()

    def set_image_options(self, **options: Any) -> None:
        """As [`DualEncoder.set_image_options`], for pictures; frames of films have no such options."""
        self.inner.set_image_options(**options)

    def prepare(self, films: Sequence[Any]) -> dict[str, torch.Tensor]:
        """The model's inputs for films, or for pictures, each of which is a clip of one frame.

        Args:
            films (`Sequence`): What [`read_clip`] takes: paths, the bytes of files, lists of frames; or what
                [`DualEncoder.prepare`] takes.

        Returns:
            `dict[str, torch.Tensor]`: the inputs of the encoder inside, (films, views * frames, ...), on the CPU; and
            `is_picture` (films,), of which only the first frame counts.

        Raises:
            ValueError: if a film or picture cannot be read.
        """
        images: list[Any] = []  # the different ones
        places: list[int] = []  # of each frame among them
        are_pictures = [is_picture(film) for film in films]
        for film, is_single in zip(films, are_pictures):
            own: dict[int, int] = {}
            for frame in [film] * self.images_per_item if is_single else read_clip(film, self.clip):
                if id(frame) not in own:
                    own[id(frame)] = len(images)
                    images.append(frame)
                places.append(own[id(frame)])
        inputs, index = self.inner.prepare(images), torch.tensor(places)
        is_whole = len(places) == len(images)  # no frame is repeated
        clips = {
            name: (value if is_whole else value[index]).unflatten(0, (len(films), self.images_per_item))
            for name, value in inputs.items()
        }
        return {**clips, "is_picture": torch.tensor(are_pictures)}

    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        is_picture = inputs["is_picture"]
        features = None
        for rows, views, frames in ((is_picture, 1, 1), (~is_picture, self.clip.num_views, self.clip.num_frames)):
            if rows.any():
                own = {name: value[rows, : views * frames] for name, value in inputs.items() if name != "is_picture"}
                found = self._clip_features(own, projected, views, frames)
                features = found.new_empty(len(rows), found.shape[-1]) if features is None else features
                features[rows] = found
        return features

    def _clip_features(self, inputs: dict[str, Any], projected: bool, views: int, frames: int) -> torch.Tensor:
        """(n, v * f, ...) -> (n, dim)."""
        if self.has_temporal_head:
            # (n, v * f, 3, height, width) -> (n * v, f, 3, height, width)
            clips = {name: value.unflatten(1, (views, frames)).flatten(0, 1) for name, value in inputs.items()}
            embeds = self.model.get_image_features(**clips).pooler_output
            return _average_directions(embeds.unflatten(0, (-1, views)))
        flat = {name: value.flatten(0, 1) for name, value in inputs.items()}
        features = self.inner._image_features(flat, projected)  # (n * v * f, dim)
        features = features.to(torch.promote_types(features.dtype, torch.float32)).unflatten(0, (-1, views, frames))
        if not projected:
            return features.mean(dim=(1, 2))
        return _average_directions(_average_directions(features))

    def _prepare(self, images: list[Any]) -> dict[str, torch.Tensor]:
        return self.inner._prepare(images)

    def _image_tower(self) -> nn.Module:
        return self.inner._image_tower()

    def _file_reader(self) -> Any:
        return self.inner._file_reader()

    def _scale_and_bias(self) -> tuple[float, float]:
        return self.inner._scale_and_bias()

    def _described_processor(self) -> Any:
        return self.inner._described_processor()

    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        return self.inner._text_batches(texts)

    def _token_ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        return self.inner._token_ids(texts)

    def _count_tokens(self, texts: list[str]) -> list[int]:
        return self.inner._count_tokens(texts)


def for_pictures(image_processor: Any) -> Any:
    """The image processor that makes a video processor's frames; any other stays as it is."""
    if not hasattr(image_processor, "num_frames"):  # not by its class: a repo's own code has another one
        return image_processor
    options = {name: value for name, value in image_processor.to_dict().items() if name != "num_frames"}
    return ClipHFImageProcessor.from_dict(options)


def _average_directions(features: torch.Tensor) -> torch.Tensor:
    """The mean of L2-normalised features over the last axis but one, in float32 at least."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return nn.functional.normalize(features, dim=-1).mean(dim=-2)
