# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The report says in words what was gained and lost, and what to try."""

from dataclasses import replace

import pytest

from clip_hf.adaptation import AdaptationReport, AdaptedSeed, AdaptOptions, Change
from clip_hf.adaptation.adapt_report import advise, caption_notes, describe_changes


GAINED = Change("task", "x (test)", "top1", 50, 0.5, [0.6, 0.7], (0.4, 0.6), (0.6, 0.7), (0.05, 0.25))
NOISE = Change("task", "x (test)", "top1", 50, 0.5, [0.52], (0.4, 0.6), (0.4, 0.6), (-0.05, 0.09))
LOST = Change("task", "x (test)", "top1", 50, 0.5, [0.3], (0.4, 0.6), (0.2, 0.4), (-0.3, -0.1))
WIDE = Change("task", "x (test)", "top1", 26, 0.5, [0.654], (0.3, 0.7), (0.5, 0.8), (-0.039, 0.346))
GROUPS = Change("task", "z (test)", "text_to_image_R@1", 144, 0.3, [0.5], (0, 1), (0, 1), (0.0, 0.5), clusters=6)
SAME = Change("task", "x (test)", "top1", 50, 0.5, [0.5], (0.4, 0.6), (0.4, 0.6), (0.0, 0.0))
CEILING = Change("task", "x (test)", "top1", 50, 1.0, [1.0], (1, 1), (1, 1), (0.0, 0.0))
FORGOT = Change("retained", "y (test)", "top1", 50, 0.5, [0.3], (0.4, 0.6), (0.2, 0.4), (-0.3, -0.1))
KEPT = Change("retained", "y (test)", "top1", 50, 0.5, [0.5], (0.4, 0.6), (0.4, 0.6), (0.0, 0.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (GAINED, "lora gained on the task: top-1 accuracy on x (test), +15.00 points (95% interval +5.00 to +25.00)."),
        (
            NOISE,
            "lora did not help beyond noise of zero-shot: top-1 accuracy on x (test), +2.00 points",
        ),
        (LOST, "lora lost on the task: top-1 accuracy on x (test), -20.00 points"),
        (FORGOT, "What the model could do before fell: top-1 accuracy on y (test), -20.00 points"),
        (
            WIDE,
            "26 test pictures cannot decide whether lora helps: top-1 accuracy on x (test), +15.40 points (95% "
            "interval -3.90 to +34.60). Give data with a test part, or more rows.",
        ),
        (GROUPS, "144 test pictures in 6 groups with equal captions cannot decide whether lora helps: "),
        (SAME, "lora changed nothing on the task: top-1 accuracy on x (test)"),
        (replace(WIDE, role="retained"), "26 test pictures cannot decide whether what the model could do before is"),
        (KEPT, "What the model could do before is unchanged: top-1 accuracy on y (test)."),
    ],
)
def test_what_was_gained_and_lost(change, words):
    assert describe_changes([change], "lora")[0].startswith(words)


def test_several_figures_of_the_task_have_one_conclusion():
    (words,) = describe_changes([NOISE, GAINED], "flyp")
    assert words.startswith(
        "flyp gained on the task, in some of its figures: top-1 accuracy on x (test), +2.00 points"
    )
    assert "; top-1 accuracy on x (test), +15.00 points" in words and "did not help" not in words
    assert describe_changes([LOST, GAINED], "flyp")[0].startswith("flyp gained and lost on the task: ")
    assert describe_changes([NOISE, WIDE], "flyp")[0].startswith("26 test pictures cannot decide whether flyp helps: ")
    assert advise([NOISE, GAINED], AdaptOptions(model="m", data="d", output_dir="o")) == []


def test_captions_that_repeat_are_noted():
    (note,) = caption_notes([GAINED, GROUPS])
    assert note.startswith("Captions of z (test) repeat: its 144 pictures form 6 groups that share captions.")


@pytest.mark.parametrize(
    ("alpha", "warnings", "words"),
    [
        (1.0, [], "The training barely moved the model (3 steps at a learning rate of 1e-06): raise --steps or"),
        (0.0, [], "On the validation rows the trained weights are no better than those before, so alpha is 0"),
        (
            0.0,
            ["The training has 3 steps."] * 2,
            "The training can hardly have moved the model: The training has 3 st",
        ),
    ],
)
def test_a_training_that_changed_no_answer_is_named(alpha, warnings, words):
    settings = {"steps": 3, "learning_rate": 1e-6, "alpha": alpha, "alpha from": "validation rows"}
    seeds = [replace(one, settings=settings) for one in report().seeds]
    (advice,) = advise([SAME, KEPT], AdaptOptions(model="m", data="d", output_dir="o"), seeds, warnings)
    assert advice.startswith(words)
    (advice,) = advise([GAINED, FORGOT], AdaptOptions(model="m", data="d", output_dir="o"), seeds)
    assert f"try a --wise below {alpha:g}, or a head" in advice
    shown = report(seeds=seeds).how_measured()
    assert f"Alpha, the share of the way to the trained weights: {alpha:g}, {alpha:g} (by validation rows)." in shown


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ([GAINED, KEPT], {}, []),
        ([NOISE], {"shots": 4}, ["Keep the model as it was, or try more examples (--shots), better prompts"]),
        ([LOST], {}, ["Keep the model as it was, or try more data"]),
        ([NOISE], {"method": "clap"}, ["or, if untried, --method lora."]),
        ([CEILING], {}, ["Zero-shot is at its ceiling here"]),
        ([GAINED, FORGOT], {}, ["To keep more of what it could do before, try a smaller --wise"]),
        ([WIDE], {}, []),
        ([GAINED, FORGOT], {"wise": 0.8}, ["try a smaller --wise"]),
    ],
)
def test_what_to_try(changes, options, words):
    advice = advise(changes, AdaptOptions(model="m", data="d", output_dir="o", **options))
    assert len(advice) == len(words) and all(word in line for word, line in zip(words, advice))


def test_captions_are_told_only_what_they_can_do():
    captions = [replace(LOST, metric="image_to_text_R@1"), FORGOT]
    options = AdaptOptions(model="m", data="d", output_dir="o", method="flyp", caption_column="caption")
    kept, retained = advise(captions, options)
    assert kept.endswith("or try more data, --steps or --learning-rate, or, if untried, --method lora.")
    assert retained.endswith("try a smaller --wise.")


def test_a_short_training_that_moved_the_model_is_not_said_not_to_have():
    options = AdaptOptions(model="m", data="d", output_dir="o")
    assert advise([GAINED], options, [], ["It has 30 steps."]) == []
    assert (
        advise([NOISE], options, [], ["It has 30 steps."])[0]
        == "The training may have been too short: It has 30 steps."
    )


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
    assert (result.metric_value, result.metric_args) == (65.0, {"interval_95": [60.0, 70.0]})
    assert result.metric_name == "top-1 accuracy after adaptation (%), mean of 2 draws, before 50.00"


def test_the_card_names_the_part_of_the_data_apart():
    one = replace(GAINED, data="x", after=[0.6], split="test")
    (result,) = report(changes=[one], seeds=report().seeds[1:]).eval_results()
    assert (result.dataset_name, result.dataset_type, result.dataset_split) == ("x", "x", "test")
    assert result.metric_name == "top-1 accuracy after adaptation (%), before 50.00"
    assert "x (test): top-1 accuracy" in report(changes=[one]).table()


def test_the_plot_is_drawn(tmp_path):
    figure = report(changes=[GAINED, FORGOT], seeds=report().seeds[:1]).figure()
    axis = figure.axes[0]
    heights = [round(patch.get_height()) for patch in axis.patches]
    assert heights == [50, 65, 50, 30] and axis.get_legend() is not None
