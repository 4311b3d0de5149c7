# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The last figures of a training's log are those of `clip-hf evaluate` for the model it saved, to the last digit."""

import json

import datasets
import pytest

from clip_hf.cli import main
from clip_hf.training import parse_options, train
from drawings import COLOURS, PATTERNS, draw


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> str:
    """Captioned drawings, of which several have equal captions; the first caption is the class."""
    rows = []
    for index, (colour, pattern) in enumerate((colour, pattern) for colour in COLOURS for pattern in PATTERNS):
        # Three patterns have the same captions in all colours, so equal captions stand in rows far apart.
        shown = pattern if pattern in ("bar", "frame", "cross") else f"{colour} {pattern}"
        captions = [f"a {shown}", f"{shown} number {index % 7}"]
        rows.append({"image": draw(colour, pattern), "caption": captions, "class": captions[0]})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "class": datasets.Value("string"),
        }
    )
    folder = tmp_path_factory.mktemp("held_out") / "drawings"
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows, features=features)}).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_last_figures_of_the_log_are_those_of_evaluate(tower, held_out, recipe_of, tmp_path):
    recipe = recipe_of(tower, epochs=3, eval_dataset=held_out, eval_with_train_captions=False)
    log = train(parse_options([str(recipe), "--output_dir", str(tmp_path / "out")]))
    logged = {name: value for name, value in log[-1].items() if name != "step"}
    arguments = ["--tasks", "zero_shot", "retrieval", "--data", held_out, "--label-column", "class"]
    results = tmp_path / "results"
    more = ["--templates", "{}", "--resamples", "0", "--output-dir", str(results)]
    assert main(["evaluate", str(tmp_path / "out" / "last"), *arguments, *more]) == 0
    zero_shot, retrieval = (
        json.loads((results / f"{task}-drawings-test.json").read_text())["metrics"]
        for task in ("zero_shot", "retrieval")
    )
    evaluated = {f"zero_shot_{name}": zero_shot[name] for name in ("top1", "top5")}
    evaluated |= {name: value for name, value in retrieval.items() if "_R@" in name}
    assert logged == evaluated
    # Figures that a difference of rules would change.
    assert 0 < logged["text_to_image_R@1"] < logged["text_to_image_R@10"]
    assert len({*logged.values()}) > 3
