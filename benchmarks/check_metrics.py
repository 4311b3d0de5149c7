# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Are the metrics right, on random and adversarial inputs?

Each metric is compared with scikit-learn's or scipy's, where one has the same definition, and with a slow one in exact
fractions (tests/plain_metrics.py). scikit-learn's are left out on inputs that they refuse (infinite scores) or treat
otherwise (ties between classes, weights whose sum overflows). The figure is the largest difference over all inputs;
exit code 1 if one is above 1e-9.
"""

import argparse
import datetime
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import evaluate
import numpy as np
import scipy
import sklearn
from scipy.spatial.distance import cosine
from scipy.special import expit, logit
from scipy.stats import hmean, linregress
from sklearn import metrics as reference

from clip_hf import metrics
from clip_hf.evaluation.numerics.bootstrap import bootstrap_interval
from clip_hf.evaluation.numerics.caption_scores import clip_score, ref_clip_score
from clip_hf.evaluation.numerics.metrics import (
    CLASSIFICATION_METRICS,
    best_target_ranks,
    confusion_matrix,
    effective_robustness,
    fit_logit_line,
    map_11point,
    mean_per_class_accuracy,
    median_rank,
    per_class_accuracy,
    recall_at_k,
    roc_auc,
    target_ranks,
    top1_top5_mean,
    top_k_accuracy,
)


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_metrics import (
    Case,
    cases,
    plain_map,
    plain_mean_per_class,
    plain_ranks,
    plain_resamples,
    plain_roc_auc,
    plain_top_k,
)


LIMIT = 1e-9
# scikit-learn sums these weights to infinity, or takes their products to zero.
TOO_FAR = ("huge weights", "tiny weights")
Comparison = tuple[str, str, float]  # metric, compared with, largest difference


def difference(actual: object, expected: object) -> float:
    return float(np.abs(np.asarray(actual, dtype=np.float64) - np.asarray(expected, dtype=np.float64)).max())


def sklearn_average_precision(scores: np.ndarray, flags: np.ndarray, weights: np.ndarray | None) -> float:
    precision, recall, _ = reference.precision_recall_curve(flags, scores, sample_weight=weights)
    precision, recall = precision[:-1], recall[:-1]  # the last point is no threshold, but (recall 0, precision 1)
    return np.mean([precision[recall >= k / 10 - 1e-12].max() for k in range(11)])


def compare_with_fractions(case: Case) -> Iterator[Comparison]:
    """Classification metrics against exact ones, which take everything."""
    scores, targets, weights = case.scores, case.targets, case.weights
    ranks = plain_ranks(scores, targets)
    yield "target_ranks", "fractions", difference(target_ranks(scores, targets), ranks)
    for k in (1, 2, 5):
        expected = plain_top_k(scores, targets, weights, k)
        yield "top_k_accuracy", "fractions", difference(top_k_accuracy(scores, targets, k, weights), expected)
    both = (plain_top_k(scores, targets, weights, 1) + plain_top_k(scores, targets, weights, 5)) / 2
    yield "top1_top5_mean", "fractions", difference(top1_top5_mean(scores, targets, weights), both)
    expected = plain_mean_per_class(scores, targets, weights)
    yield (
        "mean_per_class_accuracy",
        "fractions",
        difference(mean_per_class_accuracy(scores, targets, weights), expected),
    )
    expected = plain_map(scores, case.flags, weights)
    yield "map_11point", "fractions", difference(map_11point(scores, case.flags, weights), expected)
    expected = plain_roc_auc(scores[:, 0], case.flags[:, 0], weights)
    yield "roc_auc", "fractions", difference(roc_auc(scores[:, 0], case.flags[:, 0], weights), expected)
    right = [np.flatnonzero(row) if row.any() else [0] for row in case.flags]
    expected = [min(plain_ranks(np.stack([row] * len(r)), np.asarray(r))) for row, r in zip(scores, right)]
    yield "best_target_ranks", "fractions", difference(best_target_ranks(scores, right), expected)
    yield "recall_at_k", "fractions", difference(recall_at_k(ranks, 2), sum(r < 2 for r in ranks) / len(ranks))
    yield "median_rank", "scipy", difference(median_rank(ranks), scipy.stats.scoreatpercentile(ranks, 50) + 1)


def compare_with_sklearn(case: Case) -> Iterator[Comparison]:
    scores, targets, weights = case.scores, case.targets, case.weights
    guesses = scores.argmax(axis=1)
    expected = reference.confusion_matrix(targets, guesses, labels=range(scores.shape[1]))
    yield "confusion_matrix", "scikit-learn", difference(confusion_matrix(scores, targets), expected)
    if case.name in TOO_FAR or not np.isfinite(scores).all():
        return
    expected = reference.accuracy_score(targets, guesses, sample_weight=weights)
    yield "top_k_accuracy", "scikit-learn", difference(top_k_accuracy(scores, targets, 1, weights), expected)
    if all(len(set(row)) == len(row) for row in scores.tolist()):
        for k in (2, 5):
            expected = reference.top_k_accuracy_score(targets, scores, k=k, sample_weight=weights)
            yield "top_k_accuracy", "scikit-learn", difference(top_k_accuracy(scores, targets, k, weights), expected)
    expected = reference.balanced_accuracy_score(targets, guesses, sample_weight=weights)
    actual = mean_per_class_accuracy(scores, targets, weights)
    yield "mean_per_class_accuracy", "scikit-learn", difference(actual, expected)
    expected = reference.recall_score(targets, guesses, average=None, sample_weight=weights, zero_division=0)
    yield "per_class_accuracy", "scikit-learn", difference(per_class_accuracy(scores, targets, weights), expected)
    columns = range(scores.shape[1])
    expected = np.mean([sklearn_average_precision(scores[:, i], case.flags[:, i], weights) for i in columns])
    yield "map_11point", "scikit-learn", difference(map_11point(scores, case.flags, weights), expected)
    for i in columns:
        expected = reference.roc_auc_score(case.flags[:, i], scores[:, i], sample_weight=weights)
        yield "roc_auc", "scikit-learn", difference(roc_auc(scores[:, i], case.flags[:, i], weights), expected)


def compare_bootstrap(case: Case) -> Iterator[Comparison]:
    """All resamples at once against each one by itself."""
    if case.weights is not None or not np.isfinite(case.scores).all():
        return
    scores, seed = case.scores, 3

    def mean_per_class(rows: np.ndarray) -> float:
        return np.nanmean(per_class_accuracy(scores[rows], case.targets[rows]))

    def mean_precision(rows: np.ndarray) -> float:
        columns = [i for i in range(scores.shape[1]) if case.flags[rows, i].any()]
        return map_11point(scores[rows][:, columns], case.flags[rows][:, columns])

    plain = {name: lambda rows, f=f: f(scores[rows], case.targets[rows]) for name, f in CLASSIFICATION_METRICS.items()}
    plain |= {"mean_per_class": mean_per_class, "map_11point": mean_precision}
    for name in ("top1", "top5", "top1_top5_mean", "mean_per_class", "map_11point"):
        values = plain_resamples(plain[name], len(scores), 30, seed)
        targets = case.flags if name == "map_11point" else case.targets
        actual = bootstrap_interval(name, scores, targets, resamples=30, seed=seed)
        yield f"bootstrap of {name}", "one by one", difference(actual, np.quantile(values, [0.025, 0.975]))
    two, flags = scores[:, :2].astype(np.float64), case.flags[:, 1]

    def area(rows: np.ndarray) -> float:
        if len(set(flags[rows])) == 1:
            return np.nan
        return reference.roc_auc_score(flags[rows], two[rows, 1] - two[rows, 0])

    values = plain_resamples(area, len(scores), 30, seed)
    actual = bootstrap_interval("roc_auc", two, flags, resamples=30, seed=seed)
    yield "bootstrap of roc_auc", "scikit-learn", difference(actual, np.nanquantile(values, [0.025, 0.975]))


def compare_on_figures(generator: np.random.Generator, loaded: dict[str, evaluate.Metric]) -> Iterator[Comparison]:
    """Effective robustness and CLIPScore, against scipy."""
    x = expit(generator.normal(size=9) * generator.choice([0.1, 1, 5]))
    y = expit(generator.normal(size=9) * generator.choice([0.1, 1, 5]))
    expected, line = linregress(logit(x), logit(y)), fit_logit_line(x, y)
    scale = max(1, abs(expected.slope), abs(expected.intercept))
    found = np.array([line.slope, line.intercept, line.r_squared])
    wanted = np.array([expected.slope, expected.intercept, expected.rvalue**2])
    yield "fit_logit_line (relative)", "scipy", difference(found / scale, wanted / scale)
    model, shifted = generator.uniform(0.01, 0.99, size=(2, 5))
    wanted = shifted - expit(expected.slope * logit(model) + expected.intercept)
    yield "effective_robustness", "scipy", difference(effective_robustness(model, shifted, x, y), wanted)
    loaded["effective_robustness"].add_batch(accuracy=model, shifted_accuracy=shifted)
    found = loaded["effective_robustness"].compute(baseline_accuracy=x, baseline_shifted_accuracy=y)
    yield "evaluate module effective_robustness", "scipy", difference(found["effective_robustness"], wanted)
    scale = 10.0 ** generator.integers(-100, 100)
    images, texts = generator.normal(size=(2, 6, 7))
    texts[0], texts[1] = 3 * images[0], -2 * images[1]
    expected = np.array([2.5 * max(1 - cosine(a, b), 0) for a, b in zip(images, texts)])
    yield "clip_score", "scipy", difference(clip_score(scale * images, texts / scale), expected)
    found = loaded["clip_score"].compute(image_embeds=images, text_embeds=texts)
    yield "evaluate module clip_score", "scipy", difference(found["clip_score"], expected.mean())
    references = [generator.normal(size=(generator.integers(1, 4), 7)) for _ in images]
    nearest = [max(0, *(1 - cosine(one, text) for one in rows)) for rows, text in zip(references, texts)]
    expected = [hmean([a, b]) if a and b else 0 for a, b in zip(expected, nearest)]
    yield "ref_clip_score", "scipy", difference(ref_clip_score(scale * images, texts, references), expected)


def compare_modules(case: Case, loaded: dict[str, evaluate.Metric]) -> Iterator[Comparison]:
    """The modules for `evaluate`, fed in batches, against exact metrics."""
    targets = {
        "zero_shot_accuracy": case.targets,
        "mean_per_class_accuracy": case.targets,
        "map_11point": case.flags,
        "recall_at_k": case.targets,
    }
    arguments = {"recall_at_k": {"k": [1, 2]}}
    expected = {
        "zero_shot_accuracy": plain_top_k(case.scores, case.targets, case.weights, 1),
        "mean_per_class_accuracy": plain_mean_per_class(case.scores, case.targets, case.weights),
        "map_11point": plain_map(case.scores, case.flags, case.weights),
        "recall_at_k": plain_top_k(case.scores, case.targets, None, 1),
    }
    for name, references in targets.items():
        for rows in np.array_split(np.arange(len(case.scores)), 3):
            loaded[name].add_batch(predictions=case.scores[rows], references=references[rows])
        found = loaded[name].compute(**arguments.get(name, {"sample_weight": case.weights}))
        yield f"evaluate module {name}", "fractions", difference(next(iter(found.values())), expected[name])


def run(comparisons: Callable[[], Iterator[Comparison]], worst: dict[tuple[str, str], list[float]]) -> None:
    for metric, other, figure in comparisons():
        found = worst.setdefault((metric, other), [0.0, 0])
        found[0], found[1] = max(found[0], figure if np.isfinite(figure) else np.inf), found[1] + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="each round has all kinds of inputs, drawn anew")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    versions = f"numpy {np.__version__}, scikit-learn {sklearn.__version__}, scipy {scipy.__version__}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{datetime.date.today()}, {machine}, {versions}, evaluate {evaluate.__version__}")
    generator = np.random.default_rng(arguments.seed)
    loaded = {name: metrics.load(name, keep_in_memory=True) for name in metrics.METRICS}
    worst: dict[tuple[str, str], list[float]] = {}
    inputs = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        for _ in range(arguments.rounds):
            c = int(generator.integers(5, 12))
            n = int(generator.integers(3 * c, 80))
            for case in cases(generator, n, c):
                inputs += 1
                for compare in (compare_with_fractions, compare_with_sklearn, compare_bootstrap):
                    run(lambda compare=compare, case=case: compare(case), worst)
                run(lambda case=case: compare_modules(case, loaded), worst)
            run(lambda: compare_on_figures(generator, loaded), worst)
    print(f"{inputs} inputs of {arguments.rounds} rounds\n\n| metric | compared with | times | largest difference |")
    print("|---|---|---|---|")
    for (metric, other), (figure, times) in sorted(worst.items()):
        print(f"| {metric} | {other} | {times} | {figure:.1e} |")
    above = sum(figure > LIMIT for figure, _ in worst.values())
    print(f"\nlimit {LIMIT:.0e}; above: {above} rows")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
