# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The metrics once more, slowly and exactly, and inputs to compare on: for tests and benchmarks/check_metrics.py.

Sums are fractions, so that nothing rounds: `Fraction(0.1)` is the float 0.1 exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass
class Case:
    """Scores (n, c), class indices (n,), bool targets (n, c) and weights (n,) or None."""

    name: str
    scores: np.ndarray
    targets: np.ndarray
    flags: np.ndarray
    weights: np.ndarray | None = None


def fractions(weights: np.ndarray | None, n: int) -> list[Fraction]:
    return [Fraction(1)] * n if weights is None else [Fraction(float(weight)) for weight in weights]


def plain_ranks(scores: np.ndarray, targets: np.ndarray) -> list[int]:
    """Python's sort is stable: of equal scores the lower class stays first."""
    ranks = []
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: row[i], reverse=True)
        ranks.append(order.index(target))
    return ranks


def plain_top_k(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None, k: int) -> float:
    parts = fractions(weights, len(scores))
    right = sum((part for part, rank in zip(parts, plain_ranks(scores, targets)) if rank < k), Fraction(0))
    return float(right / sum(parts))


def plain_mean_per_class(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
    parts, ranks = fractions(weights, len(scores)), plain_ranks(scores, targets)
    accuracies = []
    for label in range(scores.shape[1]):
        rows = [i for i, target in enumerate(targets.tolist()) if target == label]
        accuracies.append(sum(parts[i] for i in rows if ranks[i] == 0) / sum(parts[i] for i in rows))
    return float(sum(accuracies, Fraction(0)) / len(accuracies))


def plain_average_precision(scores: np.ndarray, flags: np.ndarray, weights: np.ndarray | None) -> Fraction:
    """By the definition: precision and recall at every threshold, then the best precision from each recall on."""
    parts, values = fractions(weights, len(scores)), scores.tolist()
    positives = sum(part for part, flag in zip(parts, flags) if flag)
    found = right = Fraction(0)
    curve = []
    ordered = sorted(range(len(values)), key=lambda i: values[i], reverse=True)
    for place, i in enumerate(ordered):
        found, right = found + parts[i], right + (parts[i] if flags[i] else 0)
        is_last_of_score = place + 1 == len(ordered) or values[ordered[place + 1]] != values[i]
        if is_last_of_score and found:
            curve.append((right / positives, right / found))
    return sum(max(p for r, p in curve if r >= Fraction(k, 10)) for k in range(11)) / 11


def plain_map(scores: np.ndarray, flags: np.ndarray, weights: np.ndarray | None) -> float:
    columns = range(scores.shape[1])
    return float(sum(plain_average_precision(scores[:, i], flags[:, i], weights) for i in columns) / len(columns))


def plain_roc_auc(scores: np.ndarray, flags: np.ndarray, weights: np.ndarray | None) -> float:
    """Every pair of a positive and a negative row."""
    parts, values = fractions(weights, len(scores)), scores.tolist()
    wins = pairs = Fraction(0)
    for i in np.flatnonzero(flags):
        for j in np.flatnonzero(~flags):
            wins += parts[i] * parts[j] * (Fraction(values[i] > values[j]) + Fraction(values[i] == values[j], 2))
            pairs += parts[i] * parts[j]
    return float(wins / pairs)


def plain_resamples(metric: Callable[[np.ndarray], float], n: int, resamples: int, seed: int) -> np.ndarray:
    """A metric of the rows drawn, for every resample."""
    generator = np.random.default_rng(seed)
    return np.array([metric(generator.integers(n, size=n)) for _ in range(resamples)])


def cases(generator: np.random.Generator, n: int = 40, c: int = 6) -> Iterator[Case]:
    """Random and adversarial inputs; every class has a row, and every column a positive and a negative one."""

    def targets() -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([np.arange(c), generator.integers(c, size=n - c)])
        flags = generator.random((n, c)) < generator.uniform(0.05, 0.9)
        flags[np.arange(c), np.arange(c)], flags[np.arange(c), (np.arange(c) + 1) % c] = True, False
        return labels, flags

    labels, _ = targets()
    normal = generator.normal(size=(n, c))
    own = np.eye(c)[labels]
    few = np.where(np.arange(n) < c, np.arange(c)[np.arange(n) % c], 0)
    yield Case("random", normal, *targets())
    yield Case("weights", normal, *targets(), generator.random(n))
    yield Case("equal weights of 0.1", normal.round(1), *targets(), np.full(n, 0.1))
    yield Case("extreme weights", normal, *targets(), 10.0 ** generator.uniform(-4, 4, size=n))
    yield Case("weights of 0", normal, *targets(), np.where(np.arange(n) < 2 * c, 1.0, 0.0))
    yield Case("huge weights", normal, *targets(), generator.random(n) * 1e308)
    yield Case("tiny weights", normal, *targets(), generator.random(n) * 1e-300)
    yield Case("ties", normal.round(0), *targets())
    yield Case("weighted ties", normal.round(0), *targets(), generator.random(n))
    yield Case("all equal", np.zeros((n, c)), *targets())
    yield Case("all right", normal + 100 * own, labels, own.astype(bool))
    yield Case("all wrong", normal - 100 * own, labels, own.astype(bool))
    yield Case("imbalanced", normal, few, np.eye(c)[few].astype(bool))
    yield Case("huge scores", normal * 1e300, *targets())
    yield Case("tiny scores", normal * 1e-310, *targets())
    yield Case("infinite scores", np.where(normal > 1.5, np.inf, np.where(normal < -1, -np.inf, normal)), *targets())
    yield Case("nearly equal scores", 1 + normal.round(0) * 2.0**-52, *targets())
    yield Case("float32", normal.astype(np.float32), *targets())
    yield Case("float16", normal.astype(np.float16), *targets(), generator.random(n).astype(np.float32))
    yield Case("integers", generator.integers(-3, 4, size=(n, c)), *targets())
    yield Case("uint8", generator.integers(0, 256, size=(n, c)).astype(np.uint8), *targets())
    yield Case("as few rows as classes", normal[:c], np.arange(c), np.eye(c, dtype=bool))
