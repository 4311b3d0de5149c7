# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The task `explanation`: data with places, figures that the functions give, every output, and what is refused."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf.cli import main
from clip_hf.embedding import load_dual_encoder
from clip_hf.evaluation import (
    ExplanationOptions,
    compare_results,
    evaluate_explanation,
    load_located,
    load_results,
    pointing_game,
)
from clip_hf.evaluation.registry.evaluation_data import ImageDataOptions
from clip_hf.explain import METHODS, image_maps
from drawings import COLOURS, draw
from encoding_inputs import quiet
from tiny_models import as_transformers_clip, make_tiny_model


NAMES = [f"{colour} square" for colour in COLOURS]
FEATURES = {"image": datasets.Image(), "labels": datasets.List(datasets.Value("string"))}
MASK = FEATURES | {"mask": datasets.Image()}
BOXES = FEATURES | {"boxes": datasets.List(datasets.List(datasets.Value("float64")))}


def scene(number: int, size: tuple[int, int] = (80, 64)) -> dict:
    """Two squares of other colours side by side, with their mask."""
    names = [NAMES[number % 4], NAMES[(number + 1 + number // 4) % 4]]
    canvas, mask = Image.new("RGB", size, "white"), np.zeros(size[::-1], np.uint8)
    for place, name in enumerate(names):
        canvas.paste(draw(name.split()[0], "square"), (40 * place, 12))
        mask[22:42, 40 * place + 10 : 40 * place + 30] = place + 1
    return {"image": canvas, "labels": names, "mask": Image.fromarray(mask)}


def dataset(rows: list[dict], features: dict = MASK) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


@pytest.fixture(scope="module")
def scenes() -> datasets.Dataset:
    return dataset([scene(number) for number in range(3)])


@pytest.fixture
def encoder(tower, tiny_processor):
    return load_dual_encoder(make_tiny_model(tower), processor=tiny_processor)


QUICK = ExplanationOptions(methods=["chefer", "grad_cam"], resamples=50, steps=2, checked_images=1, encoding=quiet())


def test_masks_and_boxes_say_the_same(scenes):
    rows = [{**scene(number), "boxes": [[10, 22, 30, 42], [50, 22, 70, 42]]} for number in range(3)]
    boxes = load_located(dataset([{k: v for k, v in row.items() if k != "mask"} for row in rows], BOXES))
    data = load_located(scenes)
    assert data.labels == boxes.labels and data.names == sorted(NAMES)
    for row in range(3):
        assert np.array_equal(data.masks(row, (80, 64)), boxes.masks(row, (80, 64)))
    assert data.masks(0, (80, 64)).sum(axis=(1, 2)).tolist() == [400, 400]
    assert len(load_located(scenes, ImageDataOptions(limit=2))) == 2


def test_figures_are_those_of_the_functions(encoder, scenes, tower):
    result = evaluate_explanation(encoder, scenes, QUICK)
    assert list(result.values)[:2] == [f"{method}_pointing" for method in QUICK.methods]
    texts = encoder.encode_texts(sorted(NAMES))
    masks, maps = [], {method: [] for method in QUICK.methods}
    for number in range(3):
        row = scene(number)
        pixels = encoder.prepare([row["image"]])["pixel_values"]
        own = texts[[sorted(NAMES).index(name) for name in row["labels"]]]
        for method in QUICK.methods:
            maps[method].append(image_maps(encoder.model, pixels, own, method)[0])
        mask = np.asarray(row["mask"])[:, 8:72]  # the processor's crop
        masks += [mask == 1, mask == 2]
    for method in QUICK.methods:
        game = pointing_game(torch.cat(maps[method]), np.stack(masks))
        assert result.values[f"{method}_pointing"] == pytest.approx(game.mean)
        assert result.chance[f"{method}_pointing"] == pytest.approx(game.chance)
        assert result.best_pointing[method] == pytest.approx(game.best)
        assert result.grids[method] == list(maps[method][0].shape[1:])
    assert result.chance["chefer_choice"] == 0.5
    assert result.num_images == 3 and result.num_labels == 4
    assert all(
        low <= result.values[name] <= high for name, (low, high) in result.intervals.items() if "rank" not in name
    )
    assert result.row_values["chefer_deletion"].shape == (3,)
    left, right = result.figure().axes
    assert [label.get_text() for label in left.get_xticklabels()] == list(QUICK.methods)
    assert len(right.get_lines()) == 2


def test_a_label_outside_of_the_crop_is_left_out_and_said(tiny_processor):
    wide = scene(0, (160, 64))  # the crop shows the middle 64 of 160 columns: the right square, in part
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    options = ExplanationOptions(methods=["chefer"], resamples=0, steps=2, checked_images=1)
    result = evaluate_explanation(encoder, dataset([wide, scene(1)]), options)
    assert "1 label outside of what the model's crop shows" in result.table()
    assert result.num_images == 2 and result.intervals == {}


@pytest.mark.slow  # two evaluations with all their steps
def test_the_task_from_the_command_line(scenes, tiny_processor, tmp_path, capsys, monkeypatch, undrawn_plots):
    for slow in ("rollout", "occlusion"):
        monkeypatch.delitem(METHODS, slow)
    for tower in ("vit", "resnet"):
        make_tiny_model(tower).save_pretrained(tmp_path / tower)
        tiny_processor.save_pretrained(tmp_path / tower)
    scenes.select(range(2)).save_to_disk(tmp_path / "scenes")
    for tower in ("vit", "resnet"):
        arguments = ("--tasks", "explanation", "--data", tmp_path / "scenes", "--resamples", "20", "--update-card")
        folder = tmp_path / f"out_{tower}"
        assert main(["evaluate", str(tmp_path / tower), *map(str, arguments), "--output-dir", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "chefer_pointing" in out and "grad_cam_rank_correlation" in out
    (saved,) = load_results(folder)
    assert saved["arrays"]["chefer_choice"].shape == (2,)
    assert "row_values" not in saved["details"]
    card = (tmp_path / "resnet" / "README.md").read_text()
    assert "explanation chefer_pointing" in card
    comparison = compare_results([tmp_path / "out_vit", tmp_path / "out_resnet"])
    compared = {row.metric: row for row in comparison.metrics}
    assert compared["chefer_deletion"].difference_intervals[1] is not None
    assert compared["chefer_rank_correlation"].difference_intervals[1] is None
    assert json.loads((folder / f"{saved_stem(folder)}.json").read_text())["task"] == "explanation"


def saved_stem(folder):
    return next(path.stem for path in folder.glob("explanation-*.json"))


def test_a_figure_that_the_arrays_do_not_give_is_refused(scenes, tiny_processor, tmp_path, undrawn_plots):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    options = ExplanationOptions(methods=["grad_cam"], resamples=0, steps=2, checked_images=1)
    evaluate_explanation(encoder, scenes, options).save(tmp_path)
    path = tmp_path / f"{saved_stem(tmp_path)}.json"
    content = json.loads(path.read_text())
    content["metrics"]["grad_cam_deletion"] += 0.1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="grad_cam_deletion"):
        load_results(tmp_path)


def test_models_without_our_layers_are_refused(scenes, tiny_processor):
    other = load_dual_encoder(as_transformers_clip(make_tiny_model("vit")), processor=tiny_processor)
    with pytest.raises(ValueError, match="clip-hf convert"):
        evaluate_explanation(other, scenes, QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "a list of one or more names"),
        ({"labels": ["a", " "]}, "a list of one or more names"),
        ({"labels": ["a", "a"]}, "a label twice"),
        ({"mask": Image.new("L", (3, 3))}, "needs .64, 80."),
    ],
)
def test_rows_that_say_nothing_are_named(tiny_processor, change, message):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    with pytest.raises(ValueError, match=message):
        evaluate_explanation(encoder, dataset([scene(0), {**scene(1), **change}]), QUICK)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([[0, 0, 5, 5]], "1 boxes for 2 labels"), ([[0, 0, 5, 5], [70, 0, 90, 5]], "within the image")],
)
def test_boxes_that_fit_nothing_are_named(tiny_processor, boxes, message):
    row = {name: value for name, value in scene(0).items() if name != "mask"} | {"boxes": boxes}
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    with pytest.raises(ValueError, match=message):
        evaluate_explanation(encoder, dataset([row], BOXES), QUICK)


def test_data_without_places_are_refused(tiny_processor, tmp_path):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    with pytest.raises(ValueError, match="must have a column 'labels'"):
        load_located(dataset([{"image": scene(0)["image"], "labels": ["a"]}], FEATURES))
    with pytest.raises(ValueError, match="read from Parquet or a folder saved by"):
        (tmp_path / "a.csv").write_text("image,labels\nx.png,a\n")
        load_located(tmp_path / "a.csv")
    empty = dataset([{**scene(0), "mask": Image.new("L", (80, 64))}])
    with pytest.raises(ValueError, match="No label of"):
        evaluate_explanation(encoder, empty, QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["cam"]}, "one or more of chefer"),
        ({"methods": []}, "one or more of"),
        ({"methods": "chefer"}, "must be a list"),
        ({"template": "a photo"}, "once, where the label goes"),
        ({"steps": 0}, "`steps` is 0"),
        ({"checked_images": 0}, "`checked_images` 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ExplanationOptions(**options)
