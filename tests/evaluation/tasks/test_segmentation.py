# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The task `segmentation`: figures against a plain computation, every output, and what is refused."""

import datasets
import numpy as np
import pytest
from PIL import Image

from clip_hf.cli import main
from clip_hf.embedding import load_dual_encoder
from clip_hf.evaluation import SegmentationOptions, compare_results, evaluate_segmentation, load_results
from clip_hf.evaluation.tasks.segmentation import SEGMENTATION_METHODS
from clip_hf.explain import dense_features
from encoding_inputs import quiet
from tiny_models import as_transformers_clip, make_tiny_model


NAMES = ["blue thing", "grey thing", "red thing"]
COLOURS = {"blue thing": (20, 40, 220), "grey thing": (128, 128, 128), "red thing": (230, 20, 30)}
FEATURES = {
    "image": datasets.Image(),
    "labels": datasets.List(datasets.Value("string")),
    "mask": datasets.Image(),
}


def scene(number: int, size: tuple[int, int] = (128, 64)) -> dict:
    """Two rectangles of other colours, with their mask."""
    names = [NAMES[number % 3], NAMES[(number + 1) % 3]]
    canvas, mask = Image.new("RGB", size, "white"), np.zeros(size[::-1], np.uint8)
    for place, name in enumerate(names, 1):
        left = (place - 1) * size[0] // 2 + 5
        mask[8:40, left : left + 30 + number] = place
        canvas.paste(COLOURS[name], (left, 8, left + 30 + number, 40))
    return {"image": canvas, "labels": names, "mask": Image.fromarray(mask)}


def true_classes(row: dict) -> np.ndarray:
    return np.array([-1, *(NAMES.index(name) for name in row["labels"])])[np.asarray(row["mask"])]


def dataset(rows: list[dict], features: dict = FEATURES) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


@pytest.fixture(scope="module")
def scenes() -> datasets.Dataset:
    return dataset([scene(number) for number in range(3)])


QUICK = {"templates": "a {}", "resamples": 30, "encoding": quiet()}


def upsampled(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Linear between the centres of places, pixel by pixel."""

    def axis(length: int, cells: int) -> list[tuple[int, int, float]]:
        at = [min(max((i + 0.5) * cells / length - 0.5, 0), cells - 1) for i in range(length)]
        return [(int(x), min(int(x) + 1, cells - 1), x - int(x)) for x in at]

    found = np.empty((len(grid), height, width))
    for y, (above, below, down) in enumerate(axis(height, grid.shape[1])):
        for x, (left, right, along) in enumerate(axis(width, grid.shape[2])):
            upper = (1 - along) * grid[:, above, left] + along * grid[:, above, right]
            lower = (1 - along) * grid[:, below, left] + along * grid[:, below, right]
            found[:, y, x] = (1 - down) * upper + down * lower
    return found


def test_figures_are_those_counted_plainly(tower, tiny_processor, scenes):
    encoder = load_dual_encoder(make_tiny_model(tower), processor=tiny_processor)
    methods = ["maskclip", "whole"]
    result = evaluate_segmentation(encoder, scenes, SegmentationOptions(methods=methods, size=64, **QUICK))
    texts = encoder.encode_texts([f"a {name}" for name in NAMES])
    common, either, shares = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    for number in range(3):
        row = scene(number)
        options = {"size": {"height": 64, "width": 128}, "do_center_crop": False}
        pixels = tiny_processor(images=row["image"], return_tensors="pt", **options).pixel_values
        grid = (dense_features(encoder.model, pixels)[0] @ texts.T).permute(2, 0, 1).detach().numpy()
        of_image = int((encoder.encode_images([row["image"]]) @ texts.T).argmax())
        truth = true_classes(row)
        for place, predicted in enumerate((upsampled(grid, 64, 128).argmax(0), np.full((64, 128), of_image))):
            for k in range(3):
                common[place, k] += ((predicted == k) & (truth == k)).sum()
                either[place, k] += (((predicted == k) & (truth >= 0)) | (truth == k)).sum()
            shares[place, number] = (predicted == truth)[truth >= 0].mean()
    for place, method in enumerate(methods):
        expected = np.mean([one / all_ for one, all_ in zip(common[place], either[place]) if all_])
        assert result.values[f"{method}_miou"] == pytest.approx(expected, abs=2e-3)  # ties of float32
        assert result.values[f"{method}_pixel_accuracy"] == pytest.approx(shares[place].mean(), abs=2e-3)
        low, high = result.intervals[f"{method}_pixel_accuracy"]
        assert low <= result.values[f"{method}_pixel_accuracy"] <= high
        assert result.row_values[f"{method}_intersections"].shape == (3, 3)
    edge = 16 if tower == "vit" else 32
    assert result.grids == {"maskclip": [64 // edge, 128 // edge], "whole": [1, 1]}
    assert result.num_images == 3 and result.class_names == NAMES and result.size == 64
    (axes,) = result.figure().axes
    assert [label.get_text() for label in axes.get_xticklabels()] == methods


def test_chance_is_that_of_random_classes(tiny_processor, scenes):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    result = evaluate_segmentation(encoder, scenes, SegmentationOptions(methods=["whole"], **QUICK))
    truths = [true_classes(scene(number)) for number in range(3)]
    truth = np.concatenate([each[each >= 0] for each in truths])
    guess = np.random.default_rng(0).integers(0, 3, (200, len(truth)))
    ious = [((guess == k) & (truth == k)).sum(1) / ((guess == k) | (truth == k)).sum(1) for k in range(3)]
    assert result.chance["whole_miou"] == pytest.approx(np.mean(ious), abs=2e-3)
    assert result.chance["whole_pixel_accuracy"] == pytest.approx(1 / 3)


def test_the_task_from_the_command_line(scenes, tiny_processor, tmp_path, capsys, undrawn_plots):
    for tower in ("vit", "resnet"):
        make_tiny_model(tower).save_pretrained(tmp_path / tower)
        tiny_processor.save_pretrained(tmp_path / tower)
        scenes.save_to_disk(tmp_path / "scenes")
        arguments = [
            "--tasks",
            "segmentation",
            "--data",
            tmp_path / "scenes",
            "--resamples",
            20,
            "--templates",
            "a {}",
        ]
        arguments += ["--segmentation-size", 96, "--output-dir", tmp_path / f"out_{tower}"]
        assert main(["evaluate", str(tmp_path / tower), *map(str, arguments)]) == 0
    assert "surgery_miou" in capsys.readouterr().out
    (saved,) = load_results(tmp_path / "out_vit")
    assert saved["details"]["size"] == 96 and saved["details"]["grids"]["token"] == [6, 12]
    assert saved["details"]["methods"] == list(SEGMENTATION_METHODS)
    comparison = compare_results([tmp_path / "out_vit", tmp_path / "out_resnet"])
    compared = {row.metric: row for row in comparison.metrics}
    assert compared["maskclip_pixel_accuracy"].difference_intervals[1] is not None


def test_an_image_without_a_label_is_left_out_and_said(tiny_processor):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    options = SegmentationOptions(methods=["token"], **QUICK)
    empty = {**scene(0), "mask": Image.new("L", (128, 64))}
    result = evaluate_segmentation(encoder, dataset([empty, scene(1)]), options)
    assert result.num_images == 1 and "1 image without a labelled pixel" in result.table()
    with pytest.raises(ValueError, match="all masks are 0"):
        evaluate_segmentation(encoder, dataset([empty]), options)


def test_what_is_refused(tiny_processor, scenes):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    other = load_dual_encoder(as_transformers_clip(make_tiny_model("vit")), processor=tiny_processor)
    quick = SegmentationOptions(methods=["token"], **QUICK)
    with pytest.raises(ValueError, match="clip-hf convert"):
        evaluate_segmentation(other, scenes, quick)
    with pytest.raises(ValueError, match="needs .64, 128."):
        evaluate_segmentation(encoder, dataset([{**scene(0), "mask": Image.new("L", (3, 3), 1)}]), quick)
    boxes = datasets.List(datasets.List(datasets.Value("float64")))
    features = {name: kind for name, kind in FEATURES.items() if name != "mask"} | {"boxes": boxes}
    row = {"image": scene(0)["image"], "labels": ["a"], "boxes": [[0, 0, 5, 5]]}
    with pytest.raises(ValueError, match="needs a column 'mask'"):
        evaluate_segmentation(encoder, dataset([row], features), quick)
    with pytest.raises(ValueError, match="`size` is 65; it must be a multiple of 16"):
        evaluate_segmentation(encoder, scenes, SegmentationOptions(methods=["token"], size=65, **QUICK))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["maskclp"]}, "one or more of maskclip"),
        ({"methods": []}, "one or more of"),
        ({"methods": "token"}, "must be a list"),
        ({"methods": ["token"], "window": 32}, "windows is not among"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SegmentationOptions(**options)
