# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The report says in words what was gained and lost, and what to try."""

import pytest

from clip_hf.adaptation import AdaptationReport, AdaptedSeed, AdaptOptions, Change
from clip_hf.adaptation.adapt_report import advise, describe_changes


GAINED = Change("task", "x (test)", "top1", 50, 0.5, [0.6, 0.7], (0.4, 0.6), (0.6, 0.7), (0.05, 0.25))
NOISE = Change("task", "x (test)", "top1", 50, 0.5, [0.52], (0.4, 0.6), (0.4, 0.6), (-0.05, 0.09))
LOST = Change("task", "x (test)", "top1", 50, 0.5, [0.3], (0.4, 0.6), (0.2, 0.4), (-0.3, -0.1))
CEILING = Change("task", "x (test)", "top1", 50, 1.0, [1.0], (1, 1), (1, 1), (0.0, 0.0))
FORGOT = Change("retained", "y (test)", "top1", 50, 0.5, [0.3], (0.4, 0.6), (0.2, 0.4), (-0.3, -0.1))
KEPT = Change("retained", "y (test)", "top1", 50, 0.5, [0.5], (0.4, 0.6), (0.4, 0.6), (0.0, 0.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (GAINED, "lora gained on the task: top-1 accuracy on x (test), +15.00 points (95% interval +5.00 to +25.00)."),
        (
            NOISE,
            "lora did not help beyond noise: top-1 accuracy on x (test) is within noise of zero-shot, +2.00 points",
        ),
        (LOST, "lora lost on the task: top-1 accuracy on x (test), -20.00 points"),
        (FORGOT, "What the model could do before fell: top-1 accuracy on y (test), -20.00 points"),
        (KEPT, "What the model could do before is unchanged: top-1 accuracy on y (test)."),
    ],
)
def test_what_was_gained_and_lost(change, words):
    assert describe_changes([change], "lora")[0].startswith(words)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ([GAINED, KEPT], {}, []),
        ([NOISE], {"shots": 4}, ["Keep the model as it was, or try more examples (--shots), better prompts"]),
        ([LOST], {}, ["Keep the model as it was, or try more data"]),
        ([NOISE], {"method": "clap"}, ["or --method lora."]),
        ([CEILING], {}, ["Zero-shot is at its ceiling here"]),
        ([GAINED, FORGOT], {}, ["To keep more of what it could do before, try --wise auto"]),
        ([GAINED, FORGOT], {"wise": 0.8}, ["try a smaller --wise"]),
    ],
)
def test_what_to_try(changes, options, words):
    advice = advise(changes, AdaptOptions(model="m", data="d", output_dir="o", **options))
    assert len(advice) == len(words) and all(word in line for word, line in zip(words, advice))


def report(**changed) -> AdaptationReport:
    facts = {"examples": 8, "validation_rows": 4, "settings": {"steps": 100, "rate": 0.0002}, "seconds": 1.5}
    facts |= {"trained": 10, "parameters": 1000}
    values = {"model": "m", "data": "x", "method": "lora", "shots": 4, "changes": [GAINED], "saved_seed": 1}
    values |= {"seeds": [AdaptedSeed(seed=seed, validation=0.5 + seed / 4, **facts) for seed in (0, 1)]}
    values |= {"validation_from": "4 rows", "verdict": ["It gained."], "folder": "o"}
    return AdaptationReport(**{**values, **changed})


def test_the_table_and_the_files(tmp_path, undrawn_plots):
    shown = report().table()
    assert "| task | x (test): top-1 accuracy | 50.00% (40.00% to 60.00%) | 65.00% ± 7.07 (60.00% to 70.00%) " in shown
    assert "| +15.00 points | +5.00 to +25.00 |" in shown
    assert report().metrics == {
        "top1_before": 0.5,
        "top1_after": pytest.approx(0.65),
        "top1_change": pytest.approx(0.15),
    }
    paths = report().save(tmp_path, "results")
    assert [path.name for path in paths] == ["results.json", "results.md", "results.png"]
    text = paths[1].read_text()
    assert (
        "Seed 1 (saved): 8 examples, 10 of 1,000 parameters trained in 1.5 s; steps 100, rate 0.0002; validation"
        in text
    )
    assert "paired bootstrap over test pictures and over the 2 draws" in text and "It gained." in text
    (result,) = report().eval_results()
    assert (result.metric_value, result.metric_args) == (70.0, {"interval_95": [60.0, 70.0]})


def test_the_plot_is_drawn(tmp_path):
    figure = report(changes=[GAINED, FORGOT], seeds=report().seeds[:1]).figure()
    axis = figure.axes[0]
    heights = [round(patch.get_height()) for patch in axis.patches]
    assert heights == [50, 65, 50, 30] and axis.get_legend() is not None
