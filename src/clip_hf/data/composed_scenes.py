# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scenes of several OpenMoji drawings, with the pixels of each: for segmentation and for tests of explanations."""

import functools
import io
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from .cached_folders import cached_folder
from .openmoji import ATTRIBUTION, drawing_captions, drawing_packages, render_drawings


SCENE_CLASSES = (
    "banana",
    "bicycle",
    "cactus",
    "camera",
    "castle",
    "cow",
    "crab",
    "elephant",
    "frog",
    "guitar",
    "hamburger",
    "key",
    "mushroom",
    "owl",
    "penguin",
    "pig",
    "red apple",
    "rocket",
    "sailboat",
    "strawberry",
    "sunflower",
    "tiger",
    "umbrella",
    "watermelon",
)
"""Names of the drawings in the scenes of [`load_composed_scenes`], in the order of their numbers."""
_OPAQUE = 128  # a pixel belongs to a drawing from this alpha on
# Raised when the same packages and options give other scenes than before.
_RECIPE_VERSION = 1
_PARTS = {"validation": (2, 4), "test": (2, 4), "pairs": (2, 2)}  # fewest and most drawings of a scene


def _draw_places(part: str, number: int, generator: np.random.Generator) -> list[tuple[float, float, float]]:
    """Left and upper edge and size of each drawing, as shares of the width: apart from each other, each in a cell."""
    if part == "pairs":
        cells = [(0.0, float(generator.uniform(0, 0.5))), (0.5, float(generator.uniform(0, 0.5)))]
    else:
        chosen = generator.permutation(4)[:number]
        cells = [(0.5 * (cell % 2), 0.5 * (cell // 2)) for cell in chosen]
    places = []
    for x, y in cells:
        size = float(generator.uniform(0.36, 0.5))
        left, top = generator.uniform(0, 0.5 - size, 2) if size < 0.5 else (0, 0)
        places.append((x + float(left), y + float(top), size))
    return places


def _compose(
    drawings: list[Image.Image], places: list[tuple[float, float, float]], size: int, background: tuple[int, ...]
) -> tuple[Image.Image, np.ndarray]:
    """A scene, and its mask: 0 where there is nothing, k + 1 where drawing k is."""
    scene, mask = Image.new("RGB", (size, size), background), np.zeros((size, size), np.uint8)
    for number, (drawing, (x, y, share)) in enumerate(zip(drawings, places, strict=True), 1):
        edge = round(share * size)
        left, top = min(round(x * size), size - edge), min(round(y * size), size - edge)
        placed = drawing.resize((edge, edge), Image.Resampling.BICUBIC)
        alpha = placed.getchannel("A")
        scene.paste(placed.convert("RGB"), (left, top), alpha)
        mask[top : top + edge, left : left + edge][np.asarray(alpha) >= _OPAQUE] = number
    return scene, mask


def _boxes(mask: np.ndarray, number: int) -> list[list[int]]:
    """Left, top, right and bottom of each drawing's pixels."""
    boxes = []
    for k in range(1, number + 1):
        rows, columns = np.nonzero(mask == k)
        boxes.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return boxes


def _encode(image: Image.Image) -> dict[str, Any]:
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}


def _make_part(part: str, recipe: dict[str, Any], drawings: dict[str, Image.Image]) -> list[dict[str, Any]]:
    generator = np.random.default_rng([recipe["seed"], list(_PARTS).index(part)])
    fewest, most = _PARTS[part]
    rows = []
    for _ in range(recipe["num_scenes"]):
        names = [SCENE_CLASSES[i] for i in generator.permutation(len(SCENE_CLASSES))]
        names = names[: int(generator.integers(fewest, most + 1))]
        background = tuple(int(value) for value in generator.integers(190, 256, 3))
        places = _draw_places(part, len(names), generator)
        scene, mask = _compose([drawings[name] for name in names], places, recipe["image_size"], background)
        boxes = _boxes(mask, len(names))
        rows.append({"image": _encode(scene), "labels": names, "mask": _encode(Image.fromarray(mask)), "boxes": boxes})
    return rows


def _write(recipe: dict[str, Any], folder: Path) -> None:
    drawings = render_drawings(SCENE_CLASSES, recipe["image_size"])
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "labels": datasets.List(datasets.Value("string")),
            "mask": datasets.Image(),
            "boxes": datasets.List(datasets.List(datasets.Value("int32"))),
        }
    )
    info = datasets.DatasetInfo(
        description="Scenes of several OpenMoji drawings, with the pixels of each.",
        homepage="https://openmoji.org",
        license="CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
        citation=ATTRIBUTION,
        features=features,
    )
    parts = {
        part: datasets.Dataset.from_list(
            _make_part(part, recipe, drawings), features=features, info=info, split=datasets.NamedSplit(part)
        )
        for part in _PARTS
    }
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")


def load_composed_scenes(
    cache_dir: str | os.PathLike | None = None, *, image_size: int = 128, num_scenes: int = 200, seed: int = 0
) -> datasets.DatasetDict:
    """Load scenes of OpenMoji's drawings with the pixels of each drawing; made the first time, in seconds.

    A scene of the parts `validation` and `test` shows two to four drawings of [`SCENE_CLASSES`] on a pale colour, one
    in each quarter at most; a scene of `pairs` two, side by side. None is covered by another. The drawings are those
    of [`load_openmoji`], which a CLIP trained on it has seen alone and larger.

    The drawings are OpenMoji's, under CC BY-SA 4.0; works made from them must carry [`ATTRIBUTION`].

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*): Folder for the scenes, with one folder for each combination of
            packages and options. By default `clip_hf_openmoji_scenes` in the cache of `datasets`.
        image_size (`int`, *optional*, defaults to 128): Height and width of the scenes in pixels, 32 or more.
        num_scenes (`int`, *optional*, defaults to 200): Scenes of each part.
        seed (`int`, *optional*, defaults to 0): Decides all that is random.

    Returns:
        `datasets.DatasetDict` with the parts `validation`, `test` and `pairs` and the columns `image` (RGB), `labels`
        (names of the drawings), `mask` (8 bits a pixel: 0 for the background, k + 1 for the k-th label) and `boxes`
        (left, top, right and bottom of each label in pixels).

    Raises:
        ImportError: if a package that the scenes are made from is missing.
        ValueError: if a number is out of its range.
    """
    lowest = {"image_size": (image_size, 32), "num_scenes": (num_scenes, 1)}
    for name, (value, low) in lowest.items():
        if value < low:
            raise ValueError(f"`{name}` is {value}; it must be at least {low}.")
    drawing_captions()  # names the missing packages before they are looked at
    recipe = {"image_size": image_size, "num_scenes": num_scenes, "seed": seed, "recipe_version": _RECIPE_VERSION}
    recipe["packages"] = drawing_packages()
    folder = cached_folder("openmoji_scenes", recipe, functools.partial(_write, recipe), cache_dir)
    return datasets.load_from_disk(str(folder))
