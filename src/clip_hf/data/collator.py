# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches for contrastive training."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..model.image_transform_clip_hf import per_channel, value_table


if TYPE_CHECKING:
    from ..model.image_processing_clip_hf import ClipHFImageProcessor
    from ..model.processing_clip_hf import ClipHFProcessor


# What items may have besides, see `PairExtras`: more texts, and labels.
_TEXTS, _LABELS = ("short", "negatives"), ("label_vector", "label_ids")
_EXTRAS = (*_TEXTS, *_LABELS)


@dataclass
class ImageTextCollator:
    """Makes batches of the items of an [`ImageTextDataset`].

    A batch holds

    - `pixel_values` `(batch, channels, height, width)`, of films `(batch, frames, channels, height, width)`; float32,
      rescaled and normalised by the processor's own bits;
    - `input_ids` and `attention_mask` `(batch, length)`;
    - `text_ids` `(batch,)`, int64, equal for pairs with the same caption, which are no negatives of each other;
    - `image_ids` `(batch,)`, int64, if the items have them;
    - `teacher_features` `(batch, width)`, float32, if the items have them;
    - where the items have short captions or negatives, `input_ids` and `attention_mask` of all texts of a pair,
      `(batch, texts, length)`: the caption, the short caption, the negatives; texts that a pair has not are masked
      throughout. `short_ids` `(batch,)` and `negative_ids` `(batch, negatives)` are as `text_ids`, -1 for none;
    - where they have labels, `label_vectors` `(batch, width)`, float32, or `label_ids` `(batch, most)`, -1 for none;
    - `texts`, the list of texts, with `keep_texts`; `crops` `(batch, channels, height, width)`, uint8, the pixels
      before they are rescaled and normalised, with `keep_crops`;
    - `skipped`, a list of the [`SkippedRow`] that the items replace;
    - `noticed`: how many captions were cut at the context length (`"captions_cut"`), and how many crops of pictures
      that lost their transparency have one colour (`"plain_images"`).

    Args:
        processor ([`ClipHFProcessor`]): Its tokenizer makes the token ids, its image processor says how to rescale and
            normalise.
        padding (`str`, *optional*, defaults to `"longest"`): Pad texts to the longest of the batch, or to the context
            length (`"max_length"`).
        token_dropout (`float`, *optional*, defaults to 0): Probability of leaving out each token but the first and
            last, in items with a `token_seed`.
        return_loss (`bool`, *optional*, defaults to `False`): For `transformers.Trainer`: add `return_loss=True` and
            `return_logits=False`, which ask the model for a loss and no more, and leave out `skipped` and `noticed`,
            which its `forward` does not take.
        keep_texts (`bool`, *optional*, defaults to `False`): Add `texts`.
        keep_crops (`bool`, *optional*, defaults to `False`): Add `crops`.
    """

    processor: "ClipHFProcessor"
    padding: str = "longest"
    token_dropout: float = 0.0
    return_loss: bool = False
    keep_texts: bool = False
    keep_crops: bool = False

    def __call__(self, items: list[dict]) -> dict[str, Any]:
        """Make a batch of items; texts are truncated to the context length."""
        tokens, num_cut = self._tokenise(items)
        batch = {
            **tokens,
            "pixel_values": batch_pixels(self.processor.image_processor, [item["pixel_values"] for item in items]),
            "text_ids": torch.tensor([item["text_id"] for item in items]),
        }
        if "image_id" in items[0]:
            batch["image_ids"] = torch.tensor([item["image_id"] for item in items])
        batch |= _extras(items)
        if "teacher_features" in items[0]:
            features = np.stack([item["teacher_features"] for item in items])
            batch["teacher_features"] = torch.from_numpy(features.astype(np.float32, copy=False))
        if self.keep_crops:
            batch["crops"] = torch.from_numpy(np.stack([item["pixel_values"] for item in items]))
        if self.keep_texts:
            batch["texts"] = [item["text"] for item in items]
        if self.return_loss:
            if "texts" in batch or any(name in items[0] for name in _EXTRAS):
                raise ValueError(
                    "`return_loss` is for `transformers.Trainer`, whose loss has one text a pair and no labels: leave "
                    "`label_column`, `negative_column`, `short_caption_column` and `keep_texts` out."
                )
            return {**batch, "return_loss": True, "return_logits": False}
        batch["skipped"] = [item["skipped"] for item in items if item.get("skipped") is not None]
        # Crops of opaque pictures may be plain: a white corner.
        lost_alpha = torch.tensor([item.get("lost_alpha", False) for item in items])
        batch["noticed"] = {"captions_cut": num_cut, "plain_images": count_plain(batch["pixel_values"][lost_alpha])}
        return batch

    def _tokenise(self, items: list[dict]) -> tuple[dict[str, torch.Tensor], int]:
        """Token ids and their mask, and how many of the texts were cut."""
        if not any(name in items[0] for name in _TEXTS):
            return self._tokenise_texts([item["text"] for item in items], [item.get("token_seed") for item in items])
        rows = [_all_texts(item) for item in items]
        width = max(map(len, rows))
        # A text that is not there is an empty one without attention; no tower sees it.
        texts = [text for row in rows for text in [*row, *[""] * (width - len(row))]]
        seeds = [item["token_seed"] + place if self.token_dropout else 0 for item in items for place in range(width)]
        tokens, num_cut = self._tokenise_texts(texts, seeds)
        tokens = {name: value.unflatten(0, (len(items), width)) for name, value in tokens.items()}
        for row, mask in zip(rows, tokens["attention_mask"]):
            mask[len(row) :] = 0
        return tokens, num_cut

    def _tokenise_texts(self, texts: list[str], seeds: list[int]) -> tuple[dict[str, torch.Tensor], int]:
        tokenizer = self.processor.tokenizer
        if self.token_dropout:
            ids = tokenizer(texts, truncation=True)["input_ids"]
            lengths = [len(row) for row in ids]
            ids = [self._drop_tokens(row, seed) for row, seed in zip(ids, seeds)]
            encoded = tokenizer.pad({"input_ids": ids}, padding=self.padding, return_tensors="pt")
        else:
            encoded = tokenizer(texts, padding=self.padding, truncation=True, return_tensors="pt")
            lengths = encoded["attention_mask"].sum(dim=1).tolist()
        tokens = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        # Only texts that fill the context may have been cut, so only those are tokenized again.
        limit = tokenizer.model_max_length
        full = [text for text, length in zip(texts, lengths) if length == limit]
        whole = tokenizer(full, truncation=False, verbose=False)["input_ids"] if full else []
        return tokens, sum(len(ids) > limit for ids in whole)

    def _drop_tokens(self, ids: list[int], seed: int) -> list[int]:
        generator = random.Random(seed)
        inner = ids[1:-1]  # without start and end of text
        kept = [token for token in inner if generator.random() >= self.token_dropout]
        return [ids[0], *(kept or inner[:1]), ids[-1]]


def _all_texts(item: dict) -> list[str]:
    """The texts of an item that the text tower reads, in their order in a batch."""
    more = [item["short"]] if "short" in item else []
    return [item["text"], *(text for text, _ in [*more, *item.get("negatives", ())])]


def _extras(items: list[dict]) -> dict[str, torch.Tensor]:
    """The ids of the further texts, and the labels."""
    first, extras = items[0], {}
    if "short" in first:
        extras["short_ids"] = torch.tensor([item["short"][1] for item in items])
    if "negatives" in first:
        extras["negative_ids"] = _padded([[number for _, number in item["negatives"]] for item in items])
    if "label_ids" in first:
        extras["label_ids"] = _padded([item["label_ids"] for item in items])
    if "label_vector" in first:
        extras["label_vectors"] = torch.from_numpy(np.stack([item["label_vector"] for item in items]))
    return extras


def _padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.int64).reshape(
        len(rows), width
    )


def count_plain(pixels: torch.Tensor) -> int:
    """The number of images in `(batch, channels, height, width)`, or clips in `(batch, frames, channels, height,
    width)`, whose channels are of one value each; in a clip those of each frame.
    """
    few = pixels[..., ::16, ::16]  # which tell most images
    alike = (few == few[..., :1, :1]).flatten(1).all(dim=1).nonzero().flatten().tolist()
    return sum(bool((pixels[row] == pixels[row][..., :1, :1]).all()) for row in alike)


def batch_pixels(image_processor: "ClipHFImageProcessor", images: list[np.ndarray]) -> torch.Tensor:
    """Images `(channels, height, width)`, or clips `(frames, channels, height, width)`, uint8 -> float32 `(batch,
    ...)` of the same, normalised.
    """
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"The images have different shapes, {shapes}, and form no batch. Use an image processor with "
            "do_center_crop=True and do_convert_rgb=True."
        )
    channels = shapes[0][-3]
    factor = image_processor.rescale_factor if image_processor.do_rescale else None
    mean, std = (
        (per_channel(values) * channels)[:channels] if image_processor.do_normalize else None
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    # There are 256 values, so each is computed once: the processor's own bits, and no arithmetic on floats.
    table = value_table(channels, factor, mean, std)
    pixels = np.empty((len(images), *shapes[0]), np.float32)
    for image, out in zip(images, pixels):
        for frame, frame_out in zip(image.reshape(-1, *shapes[0][-3:]), out.reshape(-1, *shapes[0][-3:])):
            for channel in range(channels):
                np.take(table[channel], frame[channel], out=frame_out[channel], mode="clip")
    return torch.from_numpy(pixels)
