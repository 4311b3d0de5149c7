# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenMoji's black line drawings: the domain that a CLIP trained on its coloured drawings has never seen."""

import functools
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from .cached_folders import cached_folder
from .openmoji import ATTRIBUTION, drawing_captions, drawing_packages, render_drawings


# Raised when the same packages and options give other images, captions or parts than before.
_RECIPE_VERSION = 1
_TEST_SHARE, _VALIDATION_SHARE = 0.25, 0.15


def _draw_on_white(drawing: Image.Image) -> Image.Image:
    white = Image.new("RGBA", drawing.size, "white")
    return Image.alpha_composite(white, drawing.convert("RGBA")).convert("RGB")


def _distinct_drawings(image_size: int) -> dict[str, Image.Image]:
    """Line drawings by name: those that are not blank, and that no other name has as well."""
    rendered = render_drawings(drawing_captions(), image_size, only_lines=True)
    drawings = {caption: _draw_on_white(drawing) for caption, drawing in rendered.items()}
    blank = bytes([255]) * (3 * image_size**2)
    copies = Counter(drawing.tobytes() for drawing in drawings.values())
    return {
        caption: drawing
        for caption, drawing in drawings.items()
        if drawing.tobytes() != blank and copies[drawing.tobytes()] == 1
    }


def _split_rows(num_rows: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of each part, in the drawings' order."""
    order = np.random.default_rng(seed).permutation(num_rows)
    test, validation = round(_TEST_SHARE * num_rows), round(_VALIDATION_SHARE * num_rows)
    parts = {"train": order[test + validation :], "validation": order[test : test + validation], "test": order[:test]}
    return {name: np.sort(rows) for name, rows in parts.items()}


def _write(recipe: dict[str, Any], folder: Path) -> None:
    drawings = list(_distinct_drawings(recipe["image_size"]).items())
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    info = datasets.DatasetInfo(
        description="OpenMoji's black line drawings with their English names.",
        homepage="https://openmoji.org",
        license="CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
        citation=ATTRIBUTION,
        features=features,
    )
    parts = {}
    for name, rows in _split_rows(len(drawings), recipe["seed"]).items():
        values = []
        for caption, drawing in (drawings[row] for row in rows):
            with io.BytesIO() as buffer:
                drawing.save(buffer, "PNG")
                values.append({"image": {"bytes": buffer.getvalue(), "path": None}, "caption": caption})
        parts[name] = datasets.Dataset.from_list(values, features=features, info=info, split=datasets.NamedSplit(name))
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")


def load_line_drawings(
    cache_dir: str | os.PathLike | None = None, image_size: int = 72, seed: int = 0
) -> datasets.DatasetDict:
    """Load OpenMoji's black line drawings with their English names; rendered the first time, in about ten seconds.

    They are the drawings of [`load_openmoji`] without the layers of their colours, as OpenMoji itself exports its
    black drawings: the same names in a domain that training on `openmoji` never shows.

    Lines show neither skin tones nor what tells flags and coloured circles apart. So there is one drawing for each
    name without skin tones (a tone would be a guess, and its line drawing would be in training under another tone),
    and names that share their line drawing with another are left out: each picture has one right name, and no test
    picture is seen in training. The parts are drawn at random, 60% `train`, 15% `validation`, 25% `test`. The names
    of all parts are candidates; each was in the training part of `openmoji`, as a coloured drawing.

    The drawings are OpenMoji's, under CC BY-SA 4.0; works made from them must carry [`ATTRIBUTION`].

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*): Folder for the rendered datasets, with one folder for
            each combination of sources and options. By default `clip_hf_openmoji_lines` in the cache of `datasets`.
        image_size (`int`, *optional*, defaults to 72): Height and width of the images in pixels.
        seed (`int`, *optional*, defaults to 0): Decides the parts.

    Returns:
        `datasets.DatasetDict` with the splits `train`, `validation` and `test`, and in each the columns `image` (RGB,
        black on white) and `caption`.

    Raises:
        ImportError: if a package that the dataset is made from is missing.
        ValueError: if `image_size` is not positive.
    """
    if image_size < 1:
        raise ValueError(f"`image_size` is {image_size}; it must be at least 1 pixel.")
    # Equal recipes give equal datasets. drawing_captions() names the missing packages before they are looked at.
    drawing_captions()
    recipe = {"image_size": image_size, "seed": seed, "recipe_version": _RECIPE_VERSION}
    recipe["packages"] = drawing_packages()
    write = functools.partial(_write, recipe)
    return datasets.load_from_disk(str(cached_folder("openmoji_lines", recipe, write, cache_dir)))
