# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tip-Adapter: a cache of the examples beside the text classifier, as it is or with trained keys (Zhang et al. 2022).

The original searched alpha and beta, and the epoch of the trained keys, on the test images. Here they are chosen on
validation rows, or by holding out examples.
"""

import itertools
from collections.abc import Iterator

import torch

from .head_fitting import Choice, FeatureHead, Support, choose


ALPHAS = (0.0, *(2.0**power for power in range(-3, 8)))
BETAS = tuple(2.0**power for power in range(9))
"""Candidates; an alpha of 0 is zero-shot."""
# Without rows to choose on: the cache then moves no logit by more than 1 for each example, where cosines move them by
# the logit scale. The paper's starting values are near these.
FIXED = (1.0, 4.0)
# Training of the keys, as published: AdamW at 1e-3, 20 epochs, batches of 256, cosine decay.
EPOCHS = 100
_BATCH = 256
_MOST_FOLDS = 16
_MOST_TRAINED_FOLDS = 5
_CANDIDATES = tuple(itertools.product(ALPHAS, BETAS))


def cache_logits(features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, beta: float) -> torch.Tensor:
    """`exp(-beta * (1 - features @ keys.T)) @ values`, (rows, c); keys are (k, d), values (k, c)."""
    return torch.exp(-beta * (1 - features @ keys.T)) @ values


def fit_tip(support: Support, validation: tuple[torch.Tensor, torch.Tensor] | None) -> FeatureHead:
    """Tip-Adapter: nothing is trained."""

    def predict(part: Support, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        return _candidates(part, rows, part.features)

    choice = choose(support, validation, predict, most_folds=_MOST_FOLDS)
    alpha, beta = FIXED if choice.place is None else _CANDIDATES[choice.place]
    return _head("tip", support, support.features, alpha, beta, choice)


def fit_tip_f(support: Support, validation: tuple[torch.Tensor, torch.Tensor] | None) -> FeatureHead:
    """Tip-Adapter-F: the keys are trained from the examples on; alpha and beta are chosen before and after."""
    plain = fit_tip(support, validation)
    # A cache of weight 0 would not learn.
    start = (plain.alpha, plain.beta) if plain.alpha else FIXED

    def predict(part: Support, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        yield from _candidates(part, rows, part.features)
        yield from _candidates(part, rows, train_keys(part, *start))

    choice = choose(support, validation, predict, most_folds=_MOST_TRAINED_FOLDS)
    if choice.place is None:
        alpha, beta, is_trained = *start, True
    else:
        is_trained, place = divmod(choice.place, len(_CANDIDATES))
        alpha, beta = _CANDIDATES[place]
    keys = train_keys(support, *start) if is_trained else support.features
    return _head("tip_f", support, keys, alpha, beta, choice, epochs=float(EPOCHS if is_trained else 0))


def _candidates(support: Support, rows: torch.Tensor, keys: torch.Tensor) -> Iterator[torch.Tensor]:
    values = torch.nn.functional.one_hot(support.labels, len(support.text)).double()
    zero_shot = support.zero_shot(rows)
    caches = {beta: cache_logits(rows, keys, values, beta) for beta in BETAS}
    for alpha, beta in _CANDIDATES:
        yield zero_shot + alpha * caches[beta]


def train_keys(support: Support, alpha: float, beta: float, epochs: int = EPOCHS) -> torch.Tensor:
    """Keys (n, d) that lower the cross-entropy of the examples, from the examples on.

    - An example does not look at its own key where its class has others: with features that are encoded once, without
      random crops, it would find only itself.
    """
    values = torch.nn.functional.one_hot(support.labels, len(support.text)).double()
    own = (support.counts[support.labels] > 1).double()
    keys = support.features.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([keys], lr=1e-3, eps=1e-4)
    number = len(support.features)
    steps = epochs * -(-number // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(support.seed)
    zero_shot = support.zero_shot(support.features)
    for _ in range(epochs):
        for rows in torch.randperm(number, generator=generator).split(_BATCH):
            affinities = torch.exp(-beta * (1 - support.features[rows] @ keys.T))
            mask = torch.ones_like(affinities)
            mask[torch.arange(len(rows)), rows] -= own[rows]
            logits = zero_shot[rows] + alpha * (affinities * mask) @ values
            loss = torch.nn.functional.cross_entropy(logits, support.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return keys.detach()


def _head(
    method: str, support: Support, keys: torch.Tensor, alpha: float, beta: float, choice: Choice, **chosen: float
) -> FeatureHead:
    values = torch.nn.functional.one_hot(support.labels, len(support.text)).double()
    return FeatureHead(
        method=method,
        weight=(support.scale * support.text).numpy(),
        bias=torch.zeros(len(support.text), dtype=torch.float64).numpy(),
        keys=keys.numpy(),
        values=values.T.contiguous().numpy(),
        alpha=alpha,
        beta=beta,
        chosen={"alpha": alpha, "beta": beta, **chosen},
        chosen_on=choice.chosen_on,
    )
