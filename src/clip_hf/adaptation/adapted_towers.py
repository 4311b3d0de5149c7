# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt by training the towers: low rank, the contrastive loss on class prompts, or all weights."""

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..embedding.dual_encoder import DualEncoder
from ..embedding.load_encoder import load_dual_encoder
from ..evaluation.tasks.measured_change import Figure, first_near_best, measure_zero_shot
from ..model_card.card import ModelCardDetails, write_model_card
from .adapt_data import Draw
from .adapt_folder import RUNS_FOLDER
from .adapt_report import AdaptedSeed
from .adapted_model import Adapted, Starting
from .batch_norm import batch_norm_layers, reestimate_batch_norm_
from .tower_training import count_trained, train_towers
from .weight_space import interpolate_weights


ALPHAS = tuple(step / 10 for step in range(11))
"""The shares of the way to the new weights that `wise="auto"` tries."""
_BATCH_NORM_IMAGES = 256  # to measure statistics on between two ResNets


class TowerMethod:
    """Trains the towers on draws of examples, for one model and task."""

    def __init__(self, start: Starting, folder: Path):
        self.start = start
        self.folder = folder

    def __call__(self, draw: Draw) -> Adapted:
        """Train the towers on the examples of a draw."""
        start, options = self.start, self.start.options
        started = time.perf_counter()
        width = start.encoder.model.config.vision_config.hidden_size
        place = self.folder / RUNS_FOLDER / f"seed{draw.seed}"
        trained, size, warnings = train_towers(options, draw, width, place)
        seconds = time.perf_counter() - started
        settings = {name: value for name, value in asdict(size).items() if value is not None}
        encoder = self._encoder(load_dual_encoder(str(trained), device=start.encoder.device))
        encoder, alpha, chosen_on = self._between(encoder, draw)
        settings |= {"alpha": alpha, "alpha from": chosen_on}
        score = None if draw.validation is None else self._on_validation(encoder, draw).value
        entry = AdaptedSeed(
            seed=draw.seed,
            examples=len(draw.train),
            validation_rows=0 if draw.validation is None else len(draw.validation),
            validation=score,
            settings=settings,
            trained=count_trained(place, encoder.model),
            parameters=encoder.model.num_parameters(),
            seconds=seconds,
        )
        on_task = measure_zero_shot(encoder, start.data.test, options.encoding).figures
        on_retained = []
        if start.retained is not None:
            on_retained = measure_zero_shot(encoder, start.retained, options.encoding).figures

        def save(folder: Path, details: ModelCardDetails) -> None:
            encoder.model.save_pretrained(folder)
            # With the options by which images were read for the figures.
            processor = copy.copy(encoder.processor)
            processor.image_processor = encoder.image_processor
            processor.save_pretrained(folder)
            write_model_card(folder, encoder.model.config, None, details, encoder.model.num_parameters())

        return Adapted(entry, on_task, on_retained, save, warnings)

    def _encoder(self, encoder: DualEncoder) -> DualEncoder:
        """The encoder, reading images as the one before does."""
        encoder.set_image_options(**self.start.options.image_options)
        return encoder

    def _on_validation(self, encoder: DualEncoder, draw: Draw) -> Figure:
        """The first figure on the validation rows, without a progress bar, because it is measured many times."""
        encoding = replace(self.start.options.encoding, progress=False)
        return measure_zero_shot(encoder, draw.validation, encoding).figures[0]

    def _between(self, tuned: DualEncoder, draw: Draw) -> tuple[DualEncoder, float, str]:
        """The model at the share that was asked for, or that validation rows choose; the share, and what chose it."""
        wise = self.start.options.wise
        if wise not in (None, "auto"):
            return self._at(tuned, float(wise), draw), float(wise), "what was asked for"
        if draw.validation is None:
            return tuned, 1.0, "the lack of validation rows"
        # The smallest that is near the best, so that the model stays as near to what it was as the task allows.
        alpha = ALPHAS[first_near_best([self._on_validation(self._at(tuned, each, draw), draw) for each in ALPHAS])]
        return self._at(tuned, alpha, draw), alpha, "validation rows"

    def _at(self, tuned: DualEncoder, alpha: float, draw: Draw) -> DualEncoder:
        if alpha == 1:
            return tuned
        before, tuned = self.start.encoder, tuned.model
        model = interpolate_weights(before.model, tuned, alpha)
        encoder = self._encoder(load_dual_encoder(model, processor=before.processor))
        if 0 < alpha < 1 and batch_norm_layers(model):
            reestimate_batch_norm_(model, self._pixels(encoder, draw))
        return encoder

    def _pixels(self, encoder: DualEncoder, draw: Draw) -> Iterator[torch.Tensor]:
        """Pixels of the examples, for the statistics of a ResNet's BatchNorm."""
        data, column = draw.train.data, draw.train.image_column
        count = min(len(data), _BATCH_NORM_IMAGES)
        sources = data.select(torch.linspace(0, len(data) - 1, count).round().long().tolist())[column]
        size = max(2, min(count, self.start.options.encoding.batch_size))
        for first in range(0, count, size):
            batch = sources[first : first + size]
            if len(batch) > 1:
                yield encoder.prepare(batch)["pixel_values"].to(encoder.device)
