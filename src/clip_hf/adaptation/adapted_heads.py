# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt by a head on frozen features: the towers stay, so what the model could do before stays too."""

import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ..evaluation.numerics.logistic_regression import LogisticRegressionOptions, RegularizationPath
from ..evaluation.tasks.linear_probe import search_lambda
from ..evaluation.tasks.zero_shot import class_embeddings
from ..model_card.card import ModelCardDetails, write_model_card
from .adapt_data import Draw
from .adapt_report import AdaptedSeed
from .adapted_model import Adapted, Starting
from .measuring_change import encode_data, figure_of_scores


_PENALTY = 0.1  # lambda without validation rows, for features of variance 1, see `FewShotOptions.text_penalty`


class HeadMethod:
    """Fits heads to draws of examples, for one model and task."""

    def __init__(self, start: Starting):
        self.start = start
        options, data, encoder = start.options, start.data, start.encoder
        test = data.test
        self.text = class_embeddings(encoder, test.class_names, test.templates, options.encoding)
        self.test = encode_data(encoder, test, options.encoding)

    def __call__(self, draw: Draw) -> Adapted:
        """Fit a head to the examples of a draw."""
        encoder, encoding = self.start.encoder, self.start.options.encoding
        train = encode_data(encoder, draw.train, encoding)
        validation = None if draw.validation is None else encode_data(encoder, draw.validation, encoding)
        started = time.perf_counter()
        weights = encoder.logit_scale * self.text.astype(np.float64)
        path = RegularizationPath(
            train.features,
            train.data.targets,
            num_classes=len(weights),
            center=weights,
            options=LogisticRegressionOptions(intercept=False),
        )
        variance = float(train.features.astype(np.float64).var(axis=0).sum()) or 1.0
        score = None
        if validation is None:
            head = path.solve(_PENALTY * variance)
        else:
            metric = self.test.data.metric

            def score_of(penalty: float) -> float:
                scores = path.solve(penalty).scores(validation.features)
                return figure_of_scores(metric, scores, validation.data.targets).value

            penalty, tried = search_lambda(score_of)
            head, score = path.solve(penalty), tried[penalty]
        entry = AdaptedSeed(
            seed=draw.seed,
            examples=len(train.features),
            validation_rows=0 if validation is None else len(validation.features),
            validation=score,
            settings={"lambda": head.penalty},
            trained=head.coefficients.size,
            parameters=sum(p.numel() for p in encoder.model.parameters()) + head.coefficients.size,
            seconds=time.perf_counter() - started,
        )
        figure = figure_of_scores(self.test.data.metric, head.scores(self.test.features), self.test.data.targets)

        def save(folder: Path, details: ModelCardDetails) -> None:
            encoder.model.save_pretrained(folder)
            encoder.processor.save_pretrained(folder)
            save_file({"classifier.weight": head.coefficients.astype(np.float32)}, str(folder / "head.safetensors"))
            write_model_card(folder, encoder.model.config, None, details)

        return Adapted(entry, [figure], self.start.on_retained, save)
