# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt by a head on frozen features: the towers stay, so what the model could do before stays too."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..evaluation import FeatureHead, fit_head
from ..evaluation.tasks.measured_change import encode_data, figure_of_scores
from ..model.modeling_clip_hf import ClipHFForImageClassification
from ..model_card.card import ModelCardDetails, write_model_card
from .adapt_data import Draw
from .adapt_report import AdaptedSeed
from .adapted_model import Adapted, Starting


class HeadMethod:
    """Fits heads to draws of examples, for one model and task."""

    def __init__(self, start: Starting):
        self.start = start
        self.test, self.text = start.on_task.images, start.on_task.text

    def __call__(self, draw: Draw) -> Adapted:
        """Fit a head to the examples of a draw."""
        encoder, options, metric = self.start.encoder, self.start.options, self.test.data.metric
        train = encode_data(encoder, draw.train, options.encoding)
        validation = None if draw.validation is None else encode_data(encoder, draw.validation, options.encoding)
        rows = None if validation is None else (validation.features, validation.data.targets)
        started = time.perf_counter()
        head = fit_head(
            options.method,
            train.features,
            train.data.targets,
            self.text,
            rows,
            logit_scale=encoder.logit_scale,
            seed=draw.seed,
        )
        seconds = time.perf_counter() - started
        settings, cached = {**head.chosen, "chosen on": head.chosen_on}, 0
        if head.keys is not None:
            cached = settings["cached values"] = head.keys.size + head.values.size
        entry = AdaptedSeed(
            seed=draw.seed,
            examples=len(train.features),
            validation_rows=0 if rows is None else len(rows[1]),
            validation=None if rows is None else figure_of_scores(metric, head.scores(rows[0]), rows[1]).value,
            settings=settings,
            trained=trained_values(head),
            parameters=encoder.model.num_parameters() + head.weight.size + head.bias.size + cached,
            seconds=seconds,
        )
        figure = figure_of_scores(metric, head.scores(self.test.features), self.test.data.targets)

        def save(folder: Path, details: ModelCardDetails) -> None:
            labels = distinct_labels(self.test.data.class_names)
            model = ClipHFForImageClassification.from_feature_head(encoder.model, head, labels)
            model.save_pretrained(folder)
            encoder.image_processor.save_pretrained(folder)
            write_model_card(folder, model.config, None, details, model.num_parameters())

        return Adapted(entry, [figure], self.start.on_retained.figures, save)


def distinct_labels(names: Sequence[str]) -> list[str]:
    """The names of classes; several with one name each get their number."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({place})" for place, name in enumerate(names)]


def trained_values(head: FeatureHead) -> int:
    """Number of values that were trained: weights, and biases if there are any; of a cache its keys or nothing."""
    if head.keys is not None:
        return head.keys.size if head.chosen.get("epochs") else 0
    return head.weight.size + (head.bias.size if head.bias.any() else 0)
