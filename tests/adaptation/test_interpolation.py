# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The curve between two models: what is measured on which rows, how alpha is chosen, and the command."""

import csv
import json
import math

import datasets
import numpy as np
import pytest
import torch
from test_weight_space import tune

from clip_hf import ClipHFModel
from clip_hf.adaptation import CurveOptions, CurvePoint, draw_curve, interpolation, load_measured_parts
from clip_hf.cli import main
from clip_hf.evaluation import ZeroShotOptions, evaluate_zero_shot
from drawings import COLOURS, PATTERNS, draw
from tiny_models import make_tiny_model


NAMES = [f"{colour} {pattern}" for colour in list(COLOURS)[:3] for pattern in PATTERNS[:2]]


def rows(part: str, count: int = 12) -> datasets.Dataset:
    """Drawings of six classes; parts differ in their pixels."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    size = {"train": 40, "validation": 48, "test": 56}[part]
    values = [
        {"image": draw(*NAMES[row % 6].split(" ", 1)).resize((size + row, size)), "label": row % 6}
        for row in range(count)
    ]
    return datasets.Dataset.from_list(values, features=features)


@pytest.fixture(scope="module")
def data():
    """Data with a validation part, and data without."""
    task = datasets.DatasetDict({part: rows(part) for part in ("train", "validation", "test")})
    return task, datasets.DatasetDict({part: rows(part, 20) for part in ("train", "test")})


@pytest.fixture
def folders(tower, tiny_processor, tmp_path):
    """A tiny model and its fine-tuning, saved."""
    first = make_tiny_model(tower)
    for name, model in (("a", first), ("b", tune(first, 1, 0.05))):
        model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_alpha_is_never_chosen_on_the_rows_of_the_figures(data):
    task, shift = data
    parts = load_measured_parts(task, 0.25)
    assert (len(parts.test), len(parts.validation), len(parts.train)) == (12, 12, 12)
    assert (parts.test.split, parts.validation.split) == ("test", "validation")
    assert "the validation part" in parts.chosen_on
    parts = load_measured_parts(shift, 0.25)
    assert (len(parts.test), len(parts.validation), len(parts.train)) == (20, 6, 20)
    assert not parts.validation.empty_classes
    assert parts.validation.split == "train" and "25% of the training part" in parts.chosen_on
    parts = load_measured_parts({"all": shift["train"]}, 0.25, seed=1)
    widths = [
        {image.width for image in each.data.cast_column("image", datasets.Image())["image"]}
        for each in (parts.test, parts.validation)
    ]
    assert len(widths[0]) == 14 and len(widths[1]) == 6 and not widths[0] & widths[1]
    with pytest.raises(ValueError, match="has the part test only. Alpha is chosen on validation rows, never"):
        load_measured_parts({"test": task["test"]}, 0.25)
    with pytest.raises(ValueError, match="too few to choose on some"):
        load_measured_parts({"all": task["test"].select([0])}, 0.25)


@pytest.mark.parametrize("tower", ["vit"])
def test_the_ends_of_the_curve_are_the_models(folders, data):
    parts = [load_measured_parts(source, 0.25) for source in data]
    curve = draw_curve(*folders, *parts, CurveOptions(alphas=(1.0, 0.0, 0.5), resamples=50))
    assert [point.alpha for point in curve.points] == [0, 0.5, 1]
    options = ZeroShotOptions(compare_prompts=False, resamples=50)
    for point, folder in ((curve.points[0], folders[0]), (curve.points[2], folders[1])):
        for name, part in zip(("task", "shift"), parts):
            result = evaluate_zero_shot(str(folder), part.test, options)
            assert getattr(point, name) == result.accuracy
            assert getattr(point, f"{name}_interval") == pytest.approx(result.intervals["top1"])
            on_validation = evaluate_zero_shot(str(folder), part.validation, options).accuracy
            assert getattr(point, f"{name}_validation") == on_validation
    assert "of the test rows" in curve.terminal_table() and "validation part" in curve.terminal_table()


@pytest.mark.parametrize("tower", ["vit"])
def test_a_text_tower_that_stayed_is_encoded_once(folders, data, monkeypatch):
    first = ClipHFModel.from_pretrained(folders[0])
    tuned = ClipHFModel.from_pretrained(folders[1])
    tuned.text_model.load_state_dict(first.text_model.state_dict())
    tuned.text_projection.load_state_dict(first.text_projection.state_dict())
    tuned.save_pretrained(folders[1])
    counted, encode = [], interpolation.class_embeddings
    monkeypatch.setattr(interpolation, "class_embeddings", lambda *args: counted.append(args) or encode(*args))
    parts = [load_measured_parts(source, 0.25) for source in data]
    curve = draw_curve(*folders, *parts, CurveOptions(alphas=(0, 0.5, 1), resamples=5))
    assert len(counted) == 2
    assert curve.points[2].task == evaluate_zero_shot(str(folders[1]), parts[0].test).accuracy


def points(*values: tuple[float, float, float]) -> list[CurvePoint]:
    return [CurvePoint(alpha, 0, (0, 0), 0, (0, 0), task, shift) for alpha, task, shift in values]


def test_the_smallest_of_the_best_alphas_is_chosen():
    curve = points((0, 0.1, 0.9), (0.5, 0.5, 0.8), (0.8, 0.6, 0.7), (1, 0.6, 0.2))
    assert interpolation._choose(curve, "both") == 0.5
    assert interpolation._choose(curve, "task") == 0.8


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["resnet"])
def test_batch_norm_is_measured_on_training_images_of_both(folders, data, monkeypatch):
    parts = [load_measured_parts(source, 0.25) for source in data]
    given, measure = [], interpolation.reestimate_batch_norm_
    monkeypatch.setattr(
        interpolation,
        "reestimate_batch_norm_",
        lambda model, batches: measure(model, (given.append(len(batch)) or batch for batch in batches)),
    )
    options = CurveOptions(alphas=(0, 1), resamples=5, batch_norm="reestimate", batch_norm_images=15)
    curve = draw_curve(*folders, *parts, options)
    assert given == [27, 27]  # 12 of the task, 15 of the shift, in one batch for each alpha
    assert curve.batch_norm == "reestimate"
    model, _ = interpolation.interpolated_model(*folders, 0, parts, options)
    kept = ClipHFModel.from_pretrained(folders[0]).state_dict()
    name = next(name for name in kept if name.endswith("running_mean"))
    assert not torch.allclose(model.state_dict()[name], kept[name], rtol=1e-3)
    assert all(torch.equal(value, kept[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("tower", ["vit"])
def test_what_cannot_be_compared_is_refused(folders, data, tiny_processor):
    parts = [load_measured_parts(source, 0.25) for source in data]
    with pytest.raises(ValueError, match="a has no BatchNorm to measure anew"):
        draw_curve(*folders, *parts, CurveOptions(batch_norm="reestimate"))
    tiny_processor.tokenizer.train_new_from_iterator(NAMES, 600).save_pretrained(folders[1])
    with pytest.raises(ValueError, match="have tokenizers with other vocabularies"):
        draw_curve(*folders, *parts)
    for options, message in (
        ({"alphas": ()}, "`alphas` are"),
        ({"alphas": (0, 0)}, "`alphas` are"),
        ({"pick": "shift"}, "`pick` is 'shift'; it must be 'both' or 'task'"),
        ({"batch_norm": "keep"}, "`batch_norm` is 'keep'"),
        ({"validation_share": 1.0}, "`validation_share` is 1.0"),
        ({"alphas": (0, float("nan"))}, "`alphas` is nan; it must be finite"),
        ({"resamples": 1.5}, "`resamples` is 1.5; it must be a whole number of at least 1"),
        ({"seed": None}, "`seed` is None"),
    ):
        with pytest.raises(ValueError, match=message):
            CurveOptions(**options)
    with pytest.raises(TypeError, match="`validation_share` is '0.1', a str"):
        CurveOptions(validation_share="0.1")
    assert CurveOptions(resamples=np.int64(5), alphas=np.linspace(0, 1, 3)).alphas == (0.0, 0.5, 1.0)


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def data_folders(data, tmp_path) -> list[str]:
    for name, source in zip(("task", "shift"), data):
        source.save_to_disk(str(tmp_path / name))
    return ["--data", str(tmp_path / "task"), "--shift", str(tmp_path / "shift"), "--resamples", "5"]


@pytest.mark.parametrize("tower", ["vit"])
def test_the_command_saves_the_chosen_model_with_curve_and_card(folders, data_folders, tmp_path, capsys):
    line = ["interpolate", *map(str, folders), *data_folders, "--alpha", "0:1:0.5", "-o", str(tmp_path / "best")]
    assert main(line) == 0
    out = capsys.readouterr().out
    curve = json.loads((tmp_path / "best" / "interpolation.json").read_text())
    assert [point["alpha"] for point in curve["points"]] == [0, 0.5, 1]
    assert f"alpha = {curve['alpha']:g}" in out and "Chosen by the mean of the accuracies" in out
    with open(tmp_path / "best" / "interpolation.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert float(table[1]["task"]) == curve["points"][1]["task"]
    assert float(table[2]["shift_interval_high"]) == curve["points"][2]["shift_interval"][1]
    assert (tmp_path / "best" / "interpolation.png").stat().st_size > 1000
    model = ClipHFModel.from_pretrained(tmp_path / "best")
    ends = [ClipHFModel.from_pretrained(folder).logit_scale.item() for folder in folders]
    expected = (1 - curve["alpha"]) * ends[0] + curve["alpha"] * ends[1]
    assert math.isclose(model.logit_scale.item(), expected, rel_tol=1e-6)
    card = (tmp_path / "best" / "README.md").read_text()
    assert "fine_tuned_model" in card and "interval_95" in card and "alpha_chosen" in card
    assert main(line) == 1
    assert "best" in capsys.readouterr().err


@pytest.mark.parametrize("tower", ["vit"])
def test_one_alpha_needs_no_data(folders, tmp_path, capsys):
    line = ["interpolate", *map(str, folders), "-o", str(tmp_path / "half")]
    assert main([*line, "--alpha", "0.5"]) == 0
    scales = [ClipHFModel.from_pretrained(folder).logit_scale.item() for folder in (*folders, tmp_path / "half")]
    assert math.isclose(scales[2], (scales[0] + scales[1]) / 2, rel_tol=1e-6)
    capsys.readouterr()
    for more, message in (
        ([], "choose among several values of --alpha"),
        (["--alpha", "0.5", "--data", "digits"], "Give both --data"),
        (["--alpha", "0.5", "--batch-norm", "reestimate"], "reestimate needs images"),
        (["--alpha", "0:1:0.3"], "no whole number of steps"),
        (["--alpha", "much"], "give numbers"),
        (["--alpha", "0:1:0"], "give numbers"),
    ):
        assert main([*line, "--overwrite", *more]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("tower", ["vit"])
def test_models_of_two_kinds_are_named_by_their_paths(folders, tiny_processor, tmp_path, capsys):
    make_tiny_model("resnet").save_pretrained(tmp_path / "c")
    tiny_processor.save_pretrained(tmp_path / "c")
    pair = (str(folders[0]), str(tmp_path / "c"))
    for line in (["interpolate", *pair, "--alpha", "0.5"], ["soup", *pair, "--method", "uniform"]):
        assert main([*line, "-o", str(tmp_path / "out")]) == 1
        assert f"{pair[0]} is a ViT and {pair[1]} is a ResNet" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("tower", ["vit"])
def test_soups_keep_what_does_no_harm(folders, data_folders, tmp_path, capsys):
    line = ["soup", *map(str, folders), "-o", str(tmp_path / "soup"), *data_folders[:2], "--resamples", "5"]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "kept" in out and "the validation part" in out and "95% interval" in out
    assert "greedy soup" in (tmp_path / "soup" / "README.md").read_text()
    ClipHFModel.from_pretrained(tmp_path / "soup")
    assert main(["soup", *map(str, folders), "-o", str(tmp_path / "all"), "--method", "uniform"]) == 0
    scales = [ClipHFModel.from_pretrained(folder).logit_scale.item() for folder in (*folders, tmp_path / "all")]
    assert math.isclose(scales[2], (scales[0] + scales[1]) / 2, rel_tol=1e-6)
    for wrong, message in ((["soup", "a", "-o", "x"], "two or more"), (["soup", "a", "b", "-o", "x"], "give --data")):
        assert main(wrong) == 1
        assert message in capsys.readouterr().err
