# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLAP: class prototypes that start at their texts and are pulled back to them (Silva-Rodriguez et al. 2024).

Minimised is the mean cross-entropy of `logit_scale * features @ normalised(prototypes).T`, plus the mean over classes
of `strength * multiplier * |prototype - text|^2`. The multipliers are those of the augmented Lagrangian, as published:
the mean zero-shot probability of a class's examples, so classes that the texts know well move less.

The original has no `strength`: its prototypes have the length of the texts before they are normalised, several times
1, so the same angle costs more there. Here they start normalised, and the strength is a hyper-parameter.
"""

import math
from collections.abc import Iterator

import torch

from .head_fitting import FeatureHead, Support, choose


STRENGTHS = tuple(4.0**power for power in range(4, -1, -1))
"""Candidates, strongest first, after an infinite one, which is zero-shot."""
# Where no row can be held out: as if the texts were 8 long.
FIXED_STRENGTH = 64.0
# Published: SGD at 0.1, 300 epochs, batches of 256, cosine decay.
EPOCHS = 300
_BATCH = 256
# The published rate for prototypes that are 8 times as long, and a logit scale of 100.
_LEARNING_RATE = 0.1 / 64 * 100**2
_MOMENTUM = 0.9
_MOST_FOLDS = 5


def fit_clap(support: Support, validation: tuple[torch.Tensor, torch.Tensor] | None) -> FeatureHead:
    """Prototypes with the strength that is best on held-out rows."""

    def predict(part: Support, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        yield part.zero_shot(rows)
        for prototypes in train_prototypes(part, STRENGTHS):
            yield support.scale * rows @ prototypes.T

    choice = choose(support, validation, predict, most_folds=_MOST_FOLDS)
    strength = FIXED_STRENGTH if choice.place is None else (math.inf, *STRENGTHS)[choice.place]
    weight = support.scale * train_prototypes(support, (strength,))[0]
    return FeatureHead(
        method="clap",
        weight=weight.numpy(),
        bias=torch.zeros(len(weight), dtype=torch.float64).numpy(),
        chosen={"strength": strength},
        chosen_on=choice.chosen_on,
    )


def class_multipliers(support: Support) -> torch.Tensor:
    """Mean zero-shot probability of each class's examples, (c,); infinite for a class without examples."""
    shares = support.zero_shot(support.features).softmax(dim=1).gather(1, support.labels[:, None])[:, 0]
    sums = torch.zeros(len(support.text), dtype=torch.float64).index_add_(0, support.labels, shares)
    return torch.where(support.counts > 0, sums / support.counts, math.inf)


def train_prototypes(support: Support, strengths: tuple[float, ...], epochs: int = EPOCHS) -> torch.Tensor:
    """Prototypes for several strengths at once, (strengths, c, d), L2-normalised.

    SGD with momentum in batches of 256 rows, cosine decay. A class whose pull is infinite (all of them at an infinite
    strength, and those without examples) stays at its text.
    """
    pull = torch.tensor(strengths, dtype=torch.float64)[:, None] * class_multipliers(support)  # (s, c)
    is_free = torch.isfinite(pull)[..., None]
    pull = torch.where(is_free[..., 0], pull, 0)[..., None]
    text = support.text
    prototypes = text.expand(len(strengths), *text.shape).clone()
    velocity = torch.zeros_like(prototypes)
    number = len(support.features)
    batches = -(-number // _BATCH)
    # A step must not overshoot: the pull is a parabola, whose curvature bounds the rate.
    curvature = (2 / len(text) * pull).amax(dim=1, keepdim=True)
    most = torch.minimum(torch.tensor(_LEARNING_RATE / support.scale**2), 1 / curvature.clamp_min(1e-9))
    generator = torch.Generator().manual_seed(support.seed)
    for epoch in range(epochs):
        rates = most * (1 + math.cos(math.pi * epoch / epochs)) / 2
        for rows in torch.randperm(number, generator=generator).split(-(-number // batches)):
            gradient = _loss_gradient(prototypes, support.features[rows], support.labels[rows], support.scale)
            gradient += 2 / len(text) * pull * (prototypes - text)
            velocity.mul_(_MOMENTUM).add_(gradient * is_free)
            prototypes -= rates * velocity
    return torch.nn.functional.normalize(prototypes, dim=-1)


def _loss_gradient(
    prototypes: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, scale: float
) -> torch.Tensor:
    """Derivative of the mean cross-entropy by the prototypes, (s, c, d); autograd takes three times as long."""
    norms = prototypes.norm(dim=-1, keepdim=True)
    unit = prototypes / norms
    residual = (scale * features @ unit.transpose(1, 2)).softmax(dim=-1)  # (s, rows, c)
    residual[:, torch.arange(len(labels)), labels] -= 1
    gradient = scale / len(labels) * residual.transpose(1, 2) @ features  # by the normalised prototypes
    return (gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit) / norms
