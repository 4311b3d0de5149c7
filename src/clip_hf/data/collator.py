# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches for contrastive training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch


if TYPE_CHECKING:
    from ..processing_clip_hf import ClipHFProcessor


@dataclass
class ImageTextCollator:
    """
    Makes batches of the items of an [`ImageTextDataset`].

    A batch holds `pixel_values` `(batch, channels, height, width)`, float32, rescaled and normalised as the processor
    does it; `input_ids` and `attention_mask` `(batch, length)`; and `text_ids` `(batch,)`, which tell pairs with the
    same caption: they are no negatives of each other.

    Args:
        processor ([`ClipHFProcessor`]):
            Its tokenizer makes the token ids, its image processor says how to rescale and normalise.
    """

    processor: "ClipHFProcessor"

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Make a batch of items; texts are padded to the longest of them, and truncated to the context length."""
        texts = self.processor.tokenizer(
            [item["text"] for item in items], padding=True, truncation=True, return_tensors="pt"
        )
        return {
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            # All images of a batch at once, which is several times faster than each on its own.
            "pixel_values": self._normalise(np.stack([item["pixel_values"] for item in items])),
            "text_ids": torch.tensor([item["text_id"] for item in items]),
        }

    def _normalise(self, images: np.ndarray) -> torch.Tensor:
        """uint8 `(batch, channels, height, width)` -> float32 of the same shape."""
        image_processor = self.processor.image_processor
        pixels = torch.from_numpy(images).float()
        if image_processor.do_rescale:
            pixels = pixels * image_processor.rescale_factor
        if image_processor.do_normalize:
            mean, std = (
                torch.tensor(value, dtype=torch.float32)[:, None, None]  # (channels, 1, 1)
                for value in (image_processor.image_mean, image_processor.image_std)
            )
            pixels = (pixels - mean) / std
        return pixels


__all__ = ["ImageTextCollator"]
