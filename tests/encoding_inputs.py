# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the tests of encoding share: images by their numbers, datasets and folders of them, counted
passes, and the files of a job."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from clip_hf.embedding import EncodingOptions
from pair_data import image_of
from tiny_models import make_tiny_model


ROWS = 70  # three parts: 32, 32 and 6 rows


def image(index: int) -> Image.Image:
    generator = np.random.default_rng(index)
    coarse = Image.fromarray(generator.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize((64 + index % 3, 64), Image.Resampling.BICUBIC)


def png(index: int) -> bytes:
    buffer = io.BytesIO()
    image(index).save(buffer, "PNG")
    return buffer.getvalue()


def make_data(rows: int = ROWS, changed: dict[int, bytes] | None = None) -> datasets.Dataset:
    files = [{"bytes": (changed or {}).get(index, png(index)), "path": None} for index in range(rows)]
    return datasets.Dataset.from_dict({"image": files, "label": [0] * rows}).cast_column("image", datasets.Image())


def count_images(model) -> list[int]:
    """A list to which each pass of the image tower adds its number of images."""
    counted = []
    model.vision_model.register_forward_pre_hook(
        lambda _, args, kwargs: counted.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    return counted


def quiet(**kwargs) -> EncodingOptions:
    return EncodingOptions(**{"progress": False, "batch_size": 16, "num_threads": 2, **kwargs})


def write_model_and_photos(folder: Path, processor, count: int) -> Path:
    """Write a tiny model with its processor to `model`, and images to `photos`, whose names are their numbers."""
    make_tiny_model("vit").save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    for number in range(count):
        image_of(number).save(folder / "photos" / f"{number:0{len(str(count))}d}.png")
    return folder


def files_in(folder: Path, *, with_hidden: bool = True) -> dict[str, bytes]:
    """The content of every file of a job but its locks; the hidden ones are what a killed process was writing."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "locks"]
    kept = [path for path in paths if with_hidden or not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}
