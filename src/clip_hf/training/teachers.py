# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Teachers of a student: any CLIPs, which see the student's own crops and texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..embedding.dual_encoder import DualEncoder
from ..embedding.load_encoder import load_dual_encoder
from ..model.image_processing_clip_hf import ClipHFImageProcessor


TEACHER_FEATURES = "teacher_features"
"""A batch's tensor (batch, width), float32: of each teacher its image features, then its text features."""
# Crops in one pass of a teacher.
_BATCH_SIZE = 64
_GREY_AT_ONCE = 32  # images of one colour that a teacher prepares at a time
_TOLERANCE = 1e-4  # of pixels that should be equal, in units of the teacher's input


@dataclass(frozen=True)
class TeacherRecord:
    """What losses and manifests must know of a teacher.

    Args:
        dim (`int`): Width of its embeddings.
        logit_scale (`float`): Its multiplier of the cosines, not the logarithm.
        name (`str`, *optional*): Its name or path, as it was given.
        fingerprint (`str`, *optional*): Digest of all that decides its features.
    """

    dim: int
    logit_scale: float
    name: str = ""
    fingerprint: str = ""


class _Teacher:
    """One teacher: its encoder, its image size (height, width), and its input for each value of a pixel."""

    def __init__(self, encoder: DualEncoder):
        self.encoder = encoder
        (pixels,) = self._prepare([np.zeros((8, 8, 3), np.uint8)])
        self.size = tuple(pixels.shape[1:])
        grey = np.arange(256, dtype=np.uint8)
        parts = [self._of_grey(grey[start : start + _GREY_AT_ONCE]) for start in range(0, 256, _GREY_AT_ONCE)]
        self.table = torch.cat(parts).T.contiguous()  # (3, 256)
        if not self._follows_table():
            raise self._not_by_pixel()

    def _prepare(self, images: list[np.ndarray]) -> torch.Tensor:
        """The teacher's inputs (n, 3, height, width) for images (height, width, 3), uint8."""
        inputs = self.encoder.prepare([Image.fromarray(image) for image in images])
        pixels = inputs.get("pixel_values")
        if len(inputs) != 1 or pixels is None or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"The teacher {self.encoder.name} takes {', '.join(inputs)}, not only images (3, height, width), so "
                "it cannot be given the student's crops."
            )
        return pixels.float()

    def _of_grey(self, values: np.ndarray) -> torch.Tensor:
        """The inputs (n, 3) for pixels of these values, from images of one colour."""
        pixels = self._prepare([np.full((*self.size, 3), value, np.uint8) for value in values])
        middle = pixels[:, :, self.size[0] // 2, self.size[1] // 2]
        if not torch.allclose(pixels, middle[..., None, None].expand_as(pixels), atol=_TOLERANCE):
            raise self._not_by_pixel()
        return middle

    def _not_by_pixel(self) -> ValueError:
        return ValueError(
            f"The teacher {self.encoder.name} does not prepare images pixel by pixel, so it cannot be given the "
            "student's crops."
        )

    def _follows_table(self) -> bool:
        """Whether an image of two colours, looked at inside each, has the values of the table."""
        height, width = self.size
        colours = np.array([[10, 120, 240], [200, 60, 30]], np.uint8)
        image = np.repeat(colours, [width // 2, width - width // 2], axis=0)[None].repeat(height, axis=0)
        (pixels,) = self._prepare([np.ascontiguousarray(image)])
        for colour, column in zip(colours.astype(int).tolist(), (width // 4, width - 1 - width // 4)):
            expected = torch.stack([self.table[channel, value] for channel, value in enumerate(colour)])
            if not torch.allclose(pixels[:, height // 2, column], expected, atol=_TOLERANCE):
                return False
        return True

    def pixels(self, crops: torch.Tensor) -> torch.Tensor:
        """The teacher's input for crops (batch, 3, height, width), uint8."""
        if tuple(crops.shape[2:]) != self.size:
            images = [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in crops.cpu()]
            height, width = self.size
            resized = [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in images]
            crops = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
        crops = crops.to(self.encoder.device).int()
        table = self.table.to(crops.device)
        return torch.stack([table[channel][crops[:, channel]] for channel in range(3)], dim=1)


class Teachers:
    """One or several CLIPs whose features a student learns from.

    - They see the student's crops, pixel for pixel, normalised each by its own processor's values; and the student's
      texts, before `token_dropout`, in the tokens of their own tokenizers.
    - They run in evaluation mode and without gradients, and are no part of the student's model or checkpoints.

    Args:
        encoders (`Sequence[DualEncoder]`): The teachers, each on its device.
        image_processor ([`ClipHFImageProcessor`]): The student's, which decides the size of the crops.
        resize (`bool`, *optional*, defaults to `False`): Whether a teacher of another image size gets the crops
            resized to its own, bicubically.

    Raises:
        ValueError: if there is no teacher, one of them embeds films, has another image size and `resize` is not set,
            or does more to an image than resize, crop and normalise it.
    """

    def __init__(self, encoders: Sequence[DualEncoder], image_processor: ClipHFImageProcessor, resize: bool = False):
        if not encoders:
            raise ValueError("There is no teacher; give at least one.")
        for encoder in encoders:
            if encoder.media != "images":
                raise ValueError(
                    f"The teacher {encoder.name} embeds films; a student of pictures needs one of images."
                )
        self._teachers = [_Teacher(encoder) for encoder in encoders]
        size = image_processor.crop_size
        size = (size["height"], size["width"])
        for teacher in self._teachers:
            if teacher.size != size and not resize:
                theirs, ours = (f"{height} x {width} pixels" for height, width in (teacher.size, size))
                raise ValueError(
                    f"The teacher {teacher.encoder.name} takes images of {theirs}, and the student's crops have "
                    f"{ours}: choose a student (`image_size`) or a teacher of the other's size, or let the crops be "
                    "resized for the teacher with `resize_for_teachers` (--resize_for_teachers). Enlarged crops have "
                    "no more detail than the student sees."
                )
        self.records = tuple(
            TeacherRecord(encoder.projection_dim, encoder.logit_scale, encoder.name, encoder.fingerprint)
            for encoder in encoders
        )

    def features(self, crops: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        """Features of pairs, of each teacher the images' and then the texts', L2-normalised.

        Args:
            crops (`torch.Tensor` of shape `(batch, 3, height, width)`, uint8): The student's crops.
            texts (`Sequence[str]`): Their texts.

        Returns:
            `torch.Tensor` of shape `(batch, width)`, float32, on the CPU; the width is twice the sum of the teachers'.
        """
        parts = []
        for teacher in self._teachers:
            starts = range(0, len(crops), _BATCH_SIZE)
            inputs = ({"pixel_values": teacher.pixels(crops[start : start + _BATCH_SIZE])} for start in starts)
            parts.append(torch.cat([teacher.encoder.encode_images(each) for each in inputs]))
            parts.append(teacher.encoder.encode_texts(texts))
        return torch.cat(parts, dim=1)

    def add_features(self, batch: dict[str, Any]) -> None:
        """Replace a batch's `crops` by the `teacher_features` of them and of its `texts`, in place."""
        batch[TEACHER_FEATURES] = self.features(batch.pop("crops"), batch["texts"])


def load_teachers(
    names: Sequence[str],
    image_processor: ClipHFImageProcessor,
    *,
    resize: bool = False,
    device: str | torch.device | None = None,
) -> Teachers:
    """Load teachers by name.

    Args:
        names (`Sequence[str]`): What [`load_dual_encoder`] takes: names, folders and files of CLIPs of any library.
        image_processor, resize: As in [`Teachers`].
        device (`str` or `torch.device`, *optional*): Where to put them; by default an accelerator, if there is one.

    Returns:
        [`Teachers`]: them all.

    Raises:
        OSError, ValueError, TypeError, ImportError: if one cannot be loaded or is no dual encoder; the message names
            it. ValueError too as in [`Teachers`].
    """
    encoders = []
    for name in names:
        try:
            encoders.append(load_dual_encoder(name, device=device))
        except (OSError, ValueError, TypeError, ImportError) as error:
            kind = next(each for each in (OSError, ImportError, TypeError, ValueError) if isinstance(error, each))
            raise kind(
                f"The teacher {name} cannot be used; it must be a CLIP with an image and a text encoder. {error}"
            ) from error
    return Teachers(encoders, image_processor, resize)
