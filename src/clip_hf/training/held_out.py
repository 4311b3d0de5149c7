# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How a model in training does on held-out pairs: zero-shot classification among captions, and retrieval."""

import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers.utils import logging

from ..data import PairOptions, read_captions
from ..data.collator import batch_pixels
from ..data.texts import template_columns
from ..model.image_reading_clip_hf import UnreadableImage
from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.zero_shot_clip_hf import build_text_classifier, eval_mode


logger = logging.get_logger(__name__)

_BATCH_SIZE = 128
_RANKS = (1, 5, 10)


class HeldOutPairs:
    """
    Evaluates a model on captioned images that training does not see; all processes share the work.

    - *Zero-shot classification*: an image's first caption is its class, and the classes are the different first
      captions (and `more_labels`). `zero_shot_top1` and `zero_shot_top5` are the percentages of images whose class
      comes first, or among the first five.
    - *Retrieval*: `image_to_text_R@k` is the percentage of images with one of their captions among the k nearest of
      all captions, `text_to_image_R@k` of captions with an image of theirs among the k nearest images. Equal captions
      are one, so that none is wrong for standing in another row; so are rows with the same image id.

    Upper and lower case are the same. Among equal cosines the order counts as drawn by lot: three images and texts
    that are all alike give `R@1` 33.3, and so does a model whose weights are not numbers.

    Args:
        data (`datasets.Dataset`):
            The pairs.
        processor ([`ClipHFProcessor`]):
            Of the model.
        options ([`PairOptions`]):
            Names the columns, that of image ids too if there is one. Its first template for a caption alone goes
            around the captions.
        max_rows (`int`, *optional*, defaults to 5000):
            How many of the first rows to use. Images are read as in training, with the options' limits; rows whose
            image cannot be used are left out, with a warning.
        more_labels (`Sequence[str]`, *optional*):
            Further classes, such as the captions of the training data.

    Raises:
        ValueError: if a column is missing, or there is no pair that can be used.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        processor: ClipHFProcessor,
        options: PairOptions,
        max_rows: int = 5000,
        more_labels: Sequence[str] = (),
    ):
        data = data.select(range(min(max_rows, len(data))))
        captions = read_captions(data, options.caption_column)
        images = data.with_format(None).select_columns([options.image_column])
        images = images.cast_column(options.image_column, datasets.Image(decode=False))
        ids = data[options.image_id_column] if options.image_id_column else [None] * len(data)
        reader = _Reader(processor, options)
        self.pixels, self.captions, places = [], [], {}
        for row, own, image_id in zip(images, captions, ids, strict=True):
            own = [_folded(caption) for caption in own]
            if image_id in places:
                self.captions[places[image_id]] += own
                continue
            pixels = reader.read(row[options.image_column])
            if pixels is None:
                continue
            self.pixels.append(pixels)
            if image_id is not None:
                places[image_id] = len(self.captions)
            self.captions.append(own)
        if not self.pixels:
            raise ValueError(
                f"None of the {len(data)} held-out images can be read; there is nothing to evaluate on. The first: "
                f"{reader.reason}"
            )
        if reader.num_left_out:
            logger.warning(
                f"{reader.num_left_out} of {len(data)} held-out images cannot be used and are left out. The first: "
                f"{reader.reason}"
            )
        self.processor = processor
        # One that names other columns says nothing about a caption alone.
        self.template = next((t for t in options.templates if template_columns(t) == ("",)), "{}")
        self.labels = sorted({own[0] for own in self.captions} | set(map(_folded, more_labels)))
        self.texts = sorted({caption for own in self.captions for caption in own})
        # What stands in both is encoded once.
        self._every_text = {text: place for place, text in enumerate(sorted({*self.labels, *self.texts}))}

    @property
    def num_pairs(self) -> int:
        """Images with a caption each; an image with five captions counts five times."""
        return sum(map(len, self.captions))

    def num_queries(self, metric: str) -> int:
        """Of how many images, or different texts, a metric of [`HeldOutPairs.evaluate`] is the share."""
        return len(self.texts if metric.startswith("text_to_image") else self.pixels)

    def summary(self) -> str:
        """The numbers of pairs, images, texts and classes in a line."""
        return (
            f"{self.num_pairs:,}: {len(self.pixels):,} images and {len(self.texts):,} different captions; zero-shot "
            f"among {len(self.labels):,} classes"
        )

    def evaluate(self, accelerator: Accelerator, model: nn.Module) -> dict[str, float]:
        """
        Compute the percentages, 0 to 100; every process calls it and gets the same.

        Args:
            accelerator (`Accelerator`):
                Of this process.
            model (`nn.Module`):
                A [`ClipHFModel`] as `accelerator.prepare` returned it.
        """
        clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
        with torch.no_grad(), eval_mode(clip):
            images = self._encode_images(accelerator, clip)  # (images, dim)
            embeds = build_text_classifier(clip, self.processor, list(self._every_text), [self.template]).to(images)
        labels, texts = (embeds[[self._every_text[text] for text in own]] for own in (self.labels, self.texts))
        return self._zero_shot(images, labels) | self._retrieval(images, texts)

    def _encode_images(self, accelerator: Accelerator, clip: ClipHFModel) -> torch.Tensor:
        # Equal shares, the last ones filled up: a sharded model's forward passes must be as many everywhere.
        count, processes = len(self.pixels), accelerator.num_processes
        share = -(-count // processes)
        rows = [(accelerator.process_index * share + i) % count for i in range(share)]
        parts = []
        for start in range(0, share, _BATCH_SIZE):
            batch = [self.pixels[row] for row in rows[start : start + _BATCH_SIZE]]
            batch = batch_pixels(self.processor.image_processor, batch).to(accelerator.device)
            with accelerator.autocast():
                parts.append(clip.encode_image(batch).float())
        return accelerator.gather(torch.cat(parts))[:count]

    def _zero_shot(self, images: torch.Tensor, classifier: torch.Tensor) -> dict[str, float]:
        place = {label: index for index, label in enumerate(self.labels)}
        right = torch.zeros(len(images), len(classifier), dtype=torch.bool, device=images.device)
        for row, own in enumerate(self.captions):
            right[row, place[own[0]]] = True
        return _percentages(images, classifier, right, {1: "zero_shot_top1", 5: "zero_shot_top5"})

    def _retrieval(self, images: torch.Tensor, texts: torch.Tensor) -> dict[str, float]:
        place = {text: index for index, text in enumerate(self.texts)}
        right = torch.zeros(len(images), len(texts), dtype=torch.bool, device=images.device)
        for row, own in enumerate(self.captions):
            right[row, [place[caption] for caption in own]] = True
        names = ({k: f"{name}_R@{k}" for k in _RANKS} for name in ("image_to_text", "text_to_image"))
        return _percentages(images, texts, right, next(names)) | _percentages(texts, images, right.T, next(names))


def _percentages(
    queries: torch.Tensor, found: torch.Tensor, right: torch.Tensor, names: dict[int, str]
) -> dict[str, float]:
    """How often one of the right ones, `(queries, found)`, is among the k nearest, for each k in `names`."""
    ahead, tied = [], []
    for start in range(0, len(queries), 1024):
        cosines, own = queries[start : start + 1024] @ found.T, right[start : start + 1024]
        best = cosines.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        ahead.append((cosines > best).sum(dim=1))
        # Not `==`: what is no number is as good as any other.
        tied.append((~((cosines > best) | (cosines < best)) & ~own).sum(dim=1))
    ahead, tied = torch.cat(ahead).double(), torch.cat(tied).double()
    return {name: 100.0 * ((k - ahead) / (tied + 1)).clamp(0, 1).mean().item() for k, name in names.items()}


def _folded(caption: str) -> str:
    return caption.strip().lower()


class _Reader:
    """Reads images as training does, but for the crop, which is that of inference; counts those that it cannot."""

    def __init__(self, processor: ClipHFProcessor, options: PairOptions):
        self.transform = processor.image_processor.transform(
            options.image_limits, do_rescale=False, do_normalize=False
        )
        self.min_image_size = options.min_image_size
        self.num_left_out, self.reason = 0, ""

    def read(self, source: Any) -> np.ndarray | None:
        """uint8 `(channels, height, width)`: ready but for the scaling, so read once for all evaluations."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = self.transform.open(source)
                if min(image.size) < self.min_image_size:
                    raise UnreadableImage("image too small", f"it has {image.width}x{image.height} pixels.")
                return self.transform.pixels(image, torch.get_num_threads(), None)
        except Exception as error:  # one row never ends a training, whatever it makes a library raise
            self.num_left_out, self.reason = self.num_left_out + 1, self.reason or str(error)
            return None


__all__ = ["HeldOutPairs"]
