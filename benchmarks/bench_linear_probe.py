# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Does our linear probe choose what scikit-learn's would, score the same, and how long does each take?

The whole protocol of the paper: the search for lambda over a validation split, the refit, the test. One search drives
either side; the sides take turns in every round, with the same number of threads. scikit-learn's `LogisticRegression`
runs twice: with its default tolerance, which stops before the minimum where lambda is small, and with one so small
that only iterations or rounding stop it. How far a side came is the norm of the gradient over that of the penalty's
part, for its final classifier: a bound of the coefficients' relative error. Ours ends at 1e-4 for every lambda.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sklearn
import torch
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from clip_hf.embedding import encode_image_column, load_dual_encoder
from clip_hf.evaluation import (
    LinearProbeOptions,
    linear_probe,
    load_splits,
    split_validation,
)
from clip_hf.evaluation.tasks.linear_probe import search_lambda


# Train, validation and test: features and labels of each.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
DATA = ("digits", "digits-model", "synthetic")


@dataclass
class Outcome:
    """What a side found."""

    best_lambda: float
    accuracy: float
    stopped: int  # regressions that ran out of iterations
    gradient: float  # norm of the gradient over that of the penalty's part, in the end
    sweep: dict[float, float]


def digits(model: str | None) -> Parts:
    """scikit-learn's digits: pixels, or the features of a model before its projection."""
    if model is None:
        return parts_of(*load_digits(return_X_y=True))
    encoder, found = load_dual_encoder(model), load_splits("digits")
    encoded = {name: encode_image_column(encoder, part.data, projected=False) for name, part in found.items()}
    names = ("train", "validation", "test")
    return tuple(part for name in names for part in (encoded[name].astype(np.float64), found[name].targets))


def synthetic(rows: int, width: int, classes: int) -> Parts:
    """Overlapping classes; the variances of features fall off, as those of a model's do in their own axes."""
    generator = np.random.default_rng(0)
    total = rows * 8 // 5
    labels = generator.integers(0, classes, total)
    means = generator.normal(size=(classes, width))
    features = (0.25 * means[labels] + generator.normal(size=(total, width))) * np.logspace(0, -1.5, width)
    turn, _ = np.linalg.qr(generator.normal(size=(width, width)))
    return parts_of(features @ turn + 0.3, labels)


def parts_of(features: np.ndarray, labels: np.ndarray) -> Parts:
    """Five eighths to train, an eighth for validation, a quarter to test; each class in every part."""
    rest, test = split_validation(labels, 0.25, seed=0)
    train, validation = (rest[rows] for rows in split_validation(labels[rest], 1 / 6, seed=0))
    return tuple(part for rows in (train, validation, test) for part in (features[rows], labels[rows]))


def ours(parts: Parts, iterations: int) -> Outcome:
    """Our probe."""
    found = linear_probe(*parts, options=LinearProbeOptions(max_iterations=iterations, resamples=1))
    gradient = relative_gradient(parts, found.classifier.coefficients, found.classifier.intercept, found.best_lambda)
    stopped = sum(not fit.converged for fit in found.fits)
    return Outcome(found.best_lambda, found.accuracy, stopped, gradient, found.sweep)


def scikit_learn(tolerance: float) -> Callable[[Parts, int], Outcome]:
    """scikit-learn's regressions in the same search."""

    def probe(parts: Parts, iterations: int) -> Outcome:
        stopped = 0

        def fit(features: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticRegression:
            nonlocal stopped
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = LogisticRegression(C=1 / penalty, tol=tolerance, max_iter=iterations).fit(features, labels)
            stopped += int(found.n_iter_.max() >= iterations)
            return found

        train, train_labels, validation, validation_labels, test, test_labels = parts
        best, sweep = search_lambda(
            lambda penalty: fit(train, train_labels, penalty).score(validation, validation_labels)
        )
        both = np.concatenate([train, validation]), np.concatenate([train_labels, validation_labels])
        final = fit(*both, best)
        gradient = relative_gradient(parts, final.coef_, final.intercept_, best)
        return Outcome(best, float(final.score(test, test_labels)), stopped, gradient, sweep)

    return probe


def relative_gradient(parts: Parts, coefficients: np.ndarray, intercept: np.ndarray, penalty: float) -> float:
    """Norm of the gradient over that of the penalty's part, for the final classifier on train and validation."""
    features, labels = np.concatenate([parts[0], parts[2]]), np.concatenate([parts[1], parts[3]])
    errors = softmax(features @ coefficients.T + intercept, axis=1)
    errors[np.arange(len(labels)), labels] -= 1
    by_coefficients = errors.T @ (features - features.mean(axis=0)) + penalty * coefficients
    norm = np.hypot(np.linalg.norm(by_coefficients), np.linalg.norm(errors.sum(axis=0)))
    return float(norm / (penalty * np.linalg.norm(coefficients)))


SIDES = {
    "ours": ours,
    "scikit-learn, tol 1e-4": scikit_learn(1e-4),
    "scikit-learn, tol 1e-10": scikit_learn(1e-10),
}


def compare(name: str, parts: Parts, rounds: int, iterations: int, sides: list[str]) -> None:
    """Print a row for each side, with medians over rounds."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    outcomes: dict[str, Outcome] = {}
    for _ in range(rounds):
        for side in sides:
            started = time.perf_counter()
            outcomes[side] = SIDES[side](parts, iterations)
            seconds[side].append(time.perf_counter() - started)
    base, shape = outcomes[sides[0]], f"{len(parts[0])} x {parts[0].shape[1]}, {parts[1].max() + 1} classes"
    for side, found in outcomes.items():
        middle = statistics.median(seconds[side])
        ratio = statistics.median(other / own for other, own in zip(seconds[side], seconds[sides[0]]))
        same = sum(found.sweep.get(penalty) == score for penalty, score in base.sweep.items())
        print(
            f"| {name}: {shape} | {side} | {found.best_lambda:.4g} | {same}/{len(base.sweep)} | "
            f"{100 * found.accuracy:.2f}% | {found.stopped} | {found.gradient:.1e} | {middle:.2f} s | {ratio:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, help="default: all; digits-model needs --model")
    parser.add_argument("--model", help="a CLIP whose features of digits to probe")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=1000, help="at most, for each regression")
    parser.add_argument(
        "--size", type=int, nargs=3, default=[10_000, 512, 100], help="synthetic: rows, width, classes"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="the first is divided by")
    arguments = parser.parse_args()
    names = arguments.data or [name for name in DATA if arguments.model or name != "digits-model"]
    if "digits-model" in names and not arguments.model:
        parser.error("digits-model needs --model")
    torch.set_num_threads(arguments.threads)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads; "
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, numpy {np.__version__}; float64, at most "
        f"{arguments.iterations} iterations; medians of {arguments.rounds} rounds"
    )
    print("| data | side | lambda | same scores | test | out of iterations | gradient | time | / first |")
    print("|---|---|---|---|---|---|---|---|---|")
    with threadpool_limits(arguments.threads):
        for name in names:
            if name == "synthetic":
                parts = synthetic(*arguments.size)
            else:
                parts = digits(arguments.model if name == "digits-model" else None)
            compare(name, parts, arguments.rounds, arguments.iterations, arguments.sides)


if __name__ == "__main__":
    main()
