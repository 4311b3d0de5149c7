# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt by training the towers: low rank, the contrastive loss on class prompts, or all weights."""

import time
from dataclasses import asdict
from pathlib import Path

from ..embedding.load_encoder import load_dual_encoder
from ..model.modeling_clip_hf import ClipHFModel
from ..model_card.card import ModelCardDetails, write_model_card
from .adapt_data import Draw
from .adapt_folder import RUNS_FOLDER
from .adapt_report import AdaptedSeed
from .adapted_model import Adapted, Starting
from .measuring_change import zero_shot_figures
from .tower_training import train_towers


class TowerMethod:
    """Trains the towers on draws of examples, for one model and task."""

    def __init__(self, start: Starting, folder: Path):
        self.start = start
        self.folder = folder

    def __call__(self, draw: Draw) -> Adapted:
        """Train the towers on the examples of a draw."""
        options, encoding = self.start.options, self.start.options.encoding
        started = time.perf_counter()
        width = self.start.encoder.model.config.vision_config.hidden_size
        trained, size = train_towers(options, draw, width, self.folder / RUNS_FOLDER / f"seed{draw.seed}")
        seconds = time.perf_counter() - started
        encoder = load_dual_encoder(str(trained), device=self.start.encoder.device)
        encoder.set_image_options(**options.image_options)
        score = None
        if draw.validation is not None:
            score = zero_shot_figures(encoder, draw.validation, encoding)[0].value
        count = sum(parameter.numel() for parameter in encoder.model.parameters())
        entry = AdaptedSeed(
            seed=draw.seed,
            examples=len(draw.train),
            validation_rows=0 if draw.validation is None else len(draw.validation),
            validation=score,
            settings={name: value for name, value in asdict(size).items() if value is not None},
            trained=count,
            parameters=count,
            seconds=seconds,
        )
        on_task = zero_shot_figures(encoder, self.start.data.test, encoding)
        retained = self.start.retained
        on_retained = [] if retained is None else zero_shot_figures(encoder, retained, encoding)

        def save(folder: Path, details: ModelCardDetails) -> None:
            model: ClipHFModel = encoder.model
            model.save_pretrained(folder)
            encoder.processor.save_pretrained(folder)
            write_model_card(folder, model.config, None, details, count)

        return Adapted(entry, on_task, on_retained, save)
