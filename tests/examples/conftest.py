# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Makes the examples importable, and gives them data and recipes of the smallest kind."""

import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from tiny_models import make_tiny_model


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "yellow": (240, 220, 20)}
PATTERNS = ("square", "bar", "frame", "corner", "cross")
RECIPES = {"vit": "demo.yaml", "resnet": "demo_resnet.yaml"}


def draw(colour: str, pattern: str) -> Image.Image:
    pixels = np.full((40, 40, 3), 255, dtype=np.uint8)
    inside = {
        "square": np.s_[10:30, 10:30],
        "bar": np.s_[16:24, 2:38],
        "frame": np.s_[4:36, 4:36],
        "corner": np.s_[2:14, 2:14],
        "cross": np.s_[4:36, 17:23],
    }[pattern]
    pixels[inside] = COLOURS[colour]
    if pattern == "frame":
        pixels[10:30, 10:30] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def tiny_data() -> datasets.DatasetDict:
    """Sixteen captioned drawings to train on and four to test, compositions of a colour and a pattern."""
    names = [(colour, pattern) for colour in COLOURS for pattern in PATTERNS]
    splits = {"train": [], "test": []}
    for index, (colour, pattern) in enumerate(names):
        row = {"image": draw(colour, pattern), "caption": f"{pattern}: {colour}"}
        splits["test" if index in (1, 7, 13, 19) else "train"].append(row)
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows, features=features) for split, rows in splits.items()}
    )


@pytest.fixture(scope="session")
def tiny_data_folder(tiny_data, tmp_path_factory) -> Path:
    """The same, as a folder of `save_to_disk`."""
    folder = tmp_path_factory.mktemp("tiny_data")
    tiny_data.save_to_disk(str(folder))
    return folder


@pytest.fixture
def recipe_of(tiny_data_folder, tmp_path):
    """A function that writes the demo's recipe for a tower, with a tiny model and few pairs, and returns its path."""

    def write(tower: str, **options) -> Path:
        recipe = yaml.safe_load((EXAMPLES / "recipes" / RECIPES[tower]).read_text())
        recipe["config"]["text_config"] |= {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        recipe["config"]["text_config"]["num_hidden_layers"] = 1
        small = {
            "vit": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
            "resnet": {"width": 4, "stage_depths": [1, 1, 1, 1]},
        }[tower]
        recipe["config"]["vision_config"] |= {**small, "image_size": 32}
        recipe |= {"dataset": str(tiny_data_folder), "vocab_size": 514, "resize_to": 36, "batch_size": 8}
        # The pairs are learnt in `epochs` of two steps.
        recipe |= {"epochs": 2, "eval_every": 100.0, "save_every": 0, "cpu": True, **options}
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        path = folder / f"{tower}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.fixture(scope="session")
def model_folder(tiny_processor, tmp_path_factory) -> Path:
    """A tiny model with its processor, saved."""
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model("vit").save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder
