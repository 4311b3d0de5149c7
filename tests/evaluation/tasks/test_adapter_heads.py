# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The task `adapters`: the draws of few-shot, a curve of each head, plot, table and JSON, and bad input."""

import json

import numpy as np
import pytest

from clip_hf.evaluation import HEAD_METHODS, AdapterOptions, compare_heads, fit_head
from clip_hf.evaluation.tasks.few_shot import draw_shots


CLASSES, WIDTH = 3, 10


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def draw(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(CLASSES), per_class))
    centres = unit(np.random.default_rng(9).normal(size=(CLASSES, WIDTH)))
    return unit(centres[labels] + 0.3 * generator.normal(size=(len(labels), WIDTH))), labels


TEXT = unit(np.random.default_rng(9).normal(size=(CLASSES, WIDTH)) + np.random.default_rng(8).normal(size=WIDTH))
DATA = *draw(6, 0), *draw(50, 1)


def test_curves_are_the_heads_of_the_rows_drawn(tmp_path):
    options = AdapterOptions(methods=("tip", "text_linear"), shots=(2, 1), seeds=(0, 5), logit_scale=30.0)
    result = compare_heads(*DATA, text_classifier=TEXT, options=options)
    train, labels, test, test_labels = DATA
    assert result.shots == [1, 2] and result.seeds == [0, 5] and list(result.curves) == ["tip", "text_linear"]
    for method, curve in result.curves.items():
        for place, shots in enumerate(result.shots):
            for column, seed in enumerate(result.seeds):
                rows = draw_shots(labels, shots, seed)
                head = fit_head(method, train[rows], labels[rows], TEXT, logit_scale=30.0, seed=seed)
                assert curve.scores[place, column] == (head.scores(test).argmax(axis=1) == test_labels).mean()
                assert curve.chosen[place][column] == head.chosen
        assert "fixed" in curve.chosen_on[0] and "folds" in curve.chosen_on[1]
    assert result.zero_shot == ((test @ TEXT.T).argmax(axis=1) == test_labels).mean()
    assert result.metrics["2_shot_tip"] == pytest.approx(result.curves["tip"].scores[1].mean())
    result.data = "drawn"
    paths = result.save(tmp_path)
    assert {path.suffix for path in paths} == {".json", ".md", ".png"}
    assert json.loads(paths[0].read_text())["details"]["curves"]["tip"]["chosen"][1][0]["beta"] > 0
    assert "| shots | Tip-Adapter | linear from text |" in paths[1].read_text()


def test_the_plot_has_a_line_with_bars_for_each_head():
    options = AdapterOptions(shots=(1,), seeds=(0, 1))
    result = compare_heads(*DATA, text_classifier=TEXT, options=options)
    assert list(result.curves) == list(HEAD_METHODS)
    axis = result.figure().axes[0]
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert sorted(names) == sorted(
        ["Tip-Adapter", "Tip-Adapter-F", "CLAP", "linear from text", "linear probe", "zero-shot"]
    )
    assert len(axis.containers) == 5 and "standard deviation over 2 draws" in axis.get_title(loc="left")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("lora",)}, r"`methods` are \['lora'\]; give one or more of tip"),
        ({"methods": ()}, "give one or more"),
        ({"shots": (0,)}, "shots from 1"),
        ({"seeds": ()}, "at least one of each"),
        ({"metric": "map_11point"}, "'map_11point'; it must be one of top1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AdapterOptions(**options)


def test_bad_data():
    with pytest.raises(ValueError, match=r"go up to 16, but 3 of 3 classes .* The most that every class has is 6"):
        compare_heads(*DATA, text_classifier=TEXT)
    with pytest.raises(ValueError, match="allowed are 0 to 1"):
        compare_heads(*DATA, text_classifier=TEXT[:2])
    with pytest.raises(ValueError, match="test_features are not L2-normalised"):
        compare_heads(*DATA[:2], 2 * DATA[2], DATA[3], text_classifier=TEXT)
