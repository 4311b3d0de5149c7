# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluation on held-out pairs during training: zero-shot classification among captions, and retrieval.

The figures are those of `evaluate_zero_shot` and `evaluate_retrieval`, by the same functions.
"""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers.utils import logging

from ..data import PairOptions, SkippedRow, read_captions
from ..data.clip_reading import build_reader
from ..data.collator import batch_pixels
from ..data.locations import undecoded
from ..data.texts import template_columns
from ..evaluation.numerics.metrics import recall_at_k, target_ranks
from ..evaluation.numerics.ranking import caption_ids, folded_caption, retrieval_ranks
from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.zero_shot_clip_hf import build_text_classifier, eval_mode


logger = logging.get_logger(__name__)

_BATCH_SIZE = 128
# Images scored at once, so that many further classes need little memory.
_SCORED_ROWS = 1024


class HeldOutPairs:
    """Evaluates a model on captioned images or films that training does not see; all processes share the work.

    - Of a film it is the clip of the middle frames of its segments, see [`ClipSampling`].
    - *Zero-shot classification*: an image's first caption is its class, and the classes are the different first
      captions (and `more_labels`), sorted. `zero_shot_top1` and `zero_shot_top5` are `top1` and `top5` of
      [`evaluate_zero_shot`] with these classes and one prompt.
    - *Retrieval*: `image_to_text_R@k` and `text_to_image_R@k` of [`evaluate_retrieval`]. Rows with the same image id
      are one image with the captions of all of them.

    All figures are shares from 0 to 1. Case and white space at the ends of captions do not count. Among equal cosines
    the earlier candidate comes first. A model that gives embeddings that are not finite, or all zeros, scores 0.

    Args:
        data (`datasets.Dataset`): The pairs.
        processor ([`ClipHFProcessor`]): The model's processor.
        options ([`PairOptions`]): Columns of images, captions and, if there is one, image ids. Captions are put into
            its first template that needs nothing but the caption.
        max_rows (`int`, *optional*, defaults to 5000): Use only this many rows, the first ones. Their pixels stay in
            memory (8 frames of 224 x 224 take 1.2 MB a film). Images are read as in
            training, with the options' limits. Rows whose image cannot be used are left out, with a warning.
        more_labels (`Sequence[str]`, *optional*): Further classes, such as the captions of the training data.

    Raises:
        ValueError: if a column is missing, or no pair can be used.
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
        images = undecoded(data.select_columns([options.image_column]))
        ids = data[options.image_id_column] if options.image_id_column else [None] * len(data)
        reader = build_reader(processor.image_processor, options, training=False)
        # Pixels are uint8, not yet scaled: (channels, height, width), of films (frames, channels, height, width).
        self.pixels, self.captions, places = [], [], {}
        skipped: list[SkippedRow] = []
        for number, (row, row_captions, image_id) in enumerate(zip(images, captions, ids, strict=True)):
            row_captions = [folded_caption(caption) for caption in row_captions]
            if image_id in places:
                self.captions[places[image_id]] += row_captions
                continue
            pixels = reader.read(row[options.image_column], f"row {number}", None, threads=torch.get_num_threads())
            if isinstance(pixels, SkippedRow):
                skipped.append(pixels)
                continue
            self.pixels.append(pixels)
            if image_id is not None:
                places[image_id] = len(self.captions)
            self.captions.append(row_captions)
        if not self.pixels:
            raise ValueError(
                f"None of the {len(data)} held-out {reader.noun}s can be read; there is nothing to evaluate on. "
                f"{skipped[0].message}"
            )
        if skipped:
            logger.warning(
                f"{len(skipped)} of {len(data)} held-out {reader.noun}s cannot be used and are left out. "
                f"{skipped[0].message}"
            )
        self.processor, self.noun = processor, reader.noun
        # A template that names other columns needs more than a caption.
        self.template = next((t for t in options.templates if template_columns(t) == ("",)), "{}")
        self.labels = sorted({captions[0] for captions in self.captions} | set(map(folded_caption, more_labels)))
        self.texts = list(dict.fromkeys(caption for captions in self.captions for caption in captions))
        # A text that is a label and a caption is encoded once.
        self._every_text = {text: place for place, text in enumerate(sorted({*self.labels, *self.texts}))}

    @property
    def num_pairs(self) -> int:
        """Number of captions: an image with five captions counts five times."""
        return sum(map(len, self.captions))

    def num_queries(self, metric: str) -> int:
        """Number of images or of different captions behind a figure of [`HeldOutPairs.evaluate`]."""
        return len(self.texts if metric.startswith("text_to_image") else self.pixels)

    def summary(self) -> str:
        """The numbers of pairs, images, captions and classes, on one line."""
        return (
            f"{self.num_pairs:,}: {len(self.pixels):,} {self.noun}s and {len(self.texts):,} different captions; "
            f"zero-shot among {len(self.labels):,} classes"
        )

    def evaluate(self, accelerator: Accelerator, model: nn.Module) -> dict[str, float]:
        """Compute the figures, shares from 0 to 1 by name; every process calls this and gets the same.

        `model` is as `accelerator.prepare` returned it. Under mixed precision its image tower runs in that precision,
        as in training.
        """
        clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
        with torch.no_grad(), eval_mode(clip):
            images = self._encode_images(accelerator, clip)  # (images, dim)
            embeds = build_text_classifier(clip, self.processor, list(self._every_text), [self.template])
        images, embeds = images.cpu().numpy(), embeds.float().cpu().numpy()
        names = {"zero_shot_top": (1, 5), "image_to_text_R@": (1, 5, 10), "text_to_image_R@": (1, 5, 10)}
        if not all(np.isfinite(rows).all() and rows.any(axis=1).all() for rows in (images, embeds)):
            return {f"{name}{k}": 0.0 for name, ks in names.items() for k in ks}
        ranks = self._ranks(images, embeds)
        return {f"{name}{k}": recall_at_k(ranks[name], k) for name, ks in names.items() for k in ks}

    def _ranks(self, images: np.ndarray, embeds: np.ndarray) -> dict[str, np.ndarray]:
        """For each metric prefix, the rank of the first right candidate of each query; 0 is the best."""
        classifier = embeds[[self._every_text[label] for label in self.labels]]
        class_of = {label: index for index, label in enumerate(self.labels)}
        targets = np.array([class_of[captions[0]] for captions in self.captions])
        zero_shot = [
            target_ranks(images[start : start + _SCORED_ROWS] @ classifier.T, targets[start : start + _SCORED_ROWS])
            for start in range(0, len(images), _SCORED_ROWS)
        ]
        captions = [caption for captions in self.captions for caption in captions]
        image_of_text = np.repeat(np.arange(len(images)), [len(captions) for captions in self.captions])
        texts = embeds[[self._every_text[caption] for caption in captions]]
        retrieval = retrieval_ranks(images, texts, image_of_text, text_ids=caption_ids(captions))
        return {
            "zero_shot_top": np.concatenate(zero_shot),
            "image_to_text_R@": retrieval.image_to_text,
            "text_to_image_R@": retrieval.text_to_image,
        }

    def _encode_images(self, accelerator: Accelerator, clip: ClipHFModel) -> torch.Tensor:
        # Each process encodes equally many images (the last repeats some), because a sharded model needs as many
        # forward passes everywhere.
        count, processes = len(self.pixels), accelerator.num_processes
        share = -(-count // processes)
        rows = [(accelerator.process_index * share + i) % count for i in range(share)]
        parts = []
        frames = len(self.pixels[0]) if self.pixels[0].ndim == 4 else 1
        size = max(1, _BATCH_SIZE // frames)
        for start in range(0, share, size):
            batch = [self.pixels[row] for row in rows[start : start + size]]
            batch = batch_pixels(self.processor.image_processor, batch).to(accelerator.device)
            with accelerator.autocast():
                parts.append(clip.encode_image(batch).float())
        return accelerator.gather(torch.cat(parts))[:count]
