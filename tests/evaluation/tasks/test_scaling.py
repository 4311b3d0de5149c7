# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Error against compute: the fit against scipy's, its interval, the published models, bad input."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from clip_hf.evaluation.tasks.scaling import fit_scaling


# GFLOPs of image and text together, and zero-shot top-1 on ImageNet, of OpenAI's ResNets, from open_clip's tables
# (docs/model_profile.csv, docs/openclip_results.csv).
PUBLISHED = {
    "RN50": (18.18, 59.82),
    "RN101": (25.5, 62.28),
    "RN50x4": (51.82, 66.27),
    "RN50x16": (162.69, 70.72),
    "RN50x64": (552.65, 73.91),
}


def published():
    gflops, accuracies = np.array(list(PUBLISHED.values())).T
    return gflops, 1 - accuracies / 100, list(PUBLISHED)


def test_worked_example_of_the_docstring():
    result = fit_scaling([1, 10, 100], [0.8, 0.4, 0.2])
    assert result.slope == pytest.approx(np.log10(0.5), abs=1e-12)
    assert result.r_squared == pytest.approx(1)
    assert result.error_at(1000) == pytest.approx(0.1)
    assert result.error_at([[1.0], [10.0]]) == pytest.approx(np.array([[0.8], [0.4]]))
    assert result.slope_interval == pytest.approx((result.slope, result.slope))
    assert isinstance(result.error_at(5), float)


@pytest.mark.parametrize("seed", range(5))
def test_fit_agrees_with_scipy(seed):
    generator = np.random.default_rng(seed)
    compute, errors = 10 ** generator.uniform(-3, 20, size=12), generator.uniform(0.01, 1, size=(12, 7))
    result = fit_scaling(torch.from_numpy(compute), torch.from_numpy(errors))
    expected = stats.linregress(np.log10(compute), np.log10(errors.mean(axis=1)))
    assert result.slope == pytest.approx(expected.slope, abs=1e-12)
    assert result.intercept == pytest.approx(expected.intercept, abs=1e-11)
    assert result.r_squared == pytest.approx(expected.rvalue**2, abs=1e-12)


def test_published_models():
    result = fit_scaling(*published(), data="ImageNet")
    assert result.slope == pytest.approx(-0.1258, abs=5e-5)
    assert result.r_squared > 0.98
    assert result.slope_interval[0] < result.slope < result.slope_interval[1] < 0
    assert "30.4x range" in result.details()
    assert "| RN50x4 | 51.82 | 33.73% |" in result.details()


@pytest.mark.slow
def test_interval_covers_the_slope_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    x = np.linspace(0, 2, 20)
    covered = []
    for _ in range(200):
        errors = 10 ** (-0.3 - 0.2 * x + 0.02 * generator.normal(size=20))
        low, high = fit_scaling(10**x, errors, resamples=200).slope_interval
        covered.append(low <= -0.2 <= high)
    assert 0.86 < np.mean(covered) < 0.99


def test_what_is_resampled():
    generator = np.random.default_rng(0)
    compute, trend = np.array([1.0, 3.0, 10.0, 30.0, 100.0]), np.array([0.6, 0.5, 0.42, 0.35, 0.3])
    # All tasks on one line: only the noise of the models is left to resample, and the other way round.
    by_model = trend[:, None] * np.exp(0.05 * generator.normal(size=(5, 1))) * np.ones(8)
    widths = {
        kind: np.ptp(fit_scaling(compute, by_model, resample=kind).slope_interval)
        for kind in ("points", "tasks", "both")
    }
    assert widths["tasks"] < 1e-12 < 1e-3 < widths["points"] == pytest.approx(widths["both"], rel=0.2)
    exponents = np.linspace(0.5, 1.5, 8)
    by_task = (trend[:, None] / 0.6) ** exponents * 0.6
    widths = {
        kind: np.ptp(fit_scaling(compute, by_task, resample=kind).slope_interval)
        for kind in ("points", "tasks", "both")
    }
    assert widths["tasks"] > 2 * widths["points"]
    assert widths["both"] > 0.9 * widths["tasks"]
    assert (
        fit_scaling(compute, by_task).slope_interval == fit_scaling(compute, by_task, resample="both").slope_interval
    )


def test_equal_errors_have_no_r_squared():
    result = fit_scaling([1, 10, 100], [0.5, 0.5, 0.5])
    assert result.slope == pytest.approx(0, abs=1e-12)
    assert np.isnan(result.r_squared)
    assert "| r_squared | - |" in result.table()


def test_results_are_written(tmp_path):
    compute, errors, names = published()
    result = fit_scaling(compute, np.stack([errors, errors**2], axis=1), names, data="two tasks")
    paths = result.save(tmp_path)
    assert [path.suffix for path in paths] == [".json", ".md", ".png"]
    written = json.loads(paths[0].read_text())
    assert written["metrics"]["slope"] == pytest.approx(result.slope)
    assert written["details"]["names"] == names
    axes = result.figure().axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert {text.get_text() for text in axes.texts} == set(names)
    assert len(axes.lines) == 3  # two tasks and the line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute": [1, 10], "error": [0.5, 0.4]}, "2 models.*three"),
        ({"compute": [1, 10, 100, 1000]}, r"shape \(4,\) and `error` \(3,\)"),
        ({"compute": [0, 10, 100]}, "compute.*0.0.*above 0"),
        ({"compute": [1, 10, np.inf]}, "compute.*inf"),
        ({"compute": [1, 10, np.nan]}, "compute.*nan"),
        ({"compute": [7, 7, 7]}, "All models have the compute 7"),
        ({"error": [0.5, 40.0, 0.3]}, "40.0 for model 1.*not percent"),
        ({"error": [0.5, 0.0, 0.3]}, "0.0 for model 1"),
        ({"error": [0.5, 0.4, np.nan]}, "nan for model 2"),
        ({"names": ["a", "b"]}, "names.*each of the 3"),
        ({"resample": "models"}, "resample.*points, tasks, both"),
        ({"resample": "tasks"}, "one task only"),
        ({"resamples": 0}, "resamples"),
        ({"confidence": 95}, "confidence"),
    ],
)
def test_bad_input(change, message):
    arguments = {"compute": [1, 10, 100], "error": [0.5, 0.4, 0.3], **change}
    with pytest.raises(ValueError, match=message):
        fit_scaling(**arguments)


@pytest.mark.parametrize("compute", [0, -1.0, [1.0, np.nan]])
def test_bad_compute_to_predict_for(compute):
    with pytest.raises(ValueError, match="compute"):
        fit_scaling([1, 10, 100], [0.5, 0.4, 0.3]).error_at(compute)
