# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sources that hold films where images are looked for, so that messages say what to do with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..data.media import IMAGES, VIDEOS
from ..data.row_shards import RowColumns, shard_rows
from ..model.video_opening_clip_hf import is_video
from ..utils.wording import counted
from .dual_encoder import DualEncoder


def describe_films(source: Any, columns: RowColumns) -> str:
    """`"3 films"` of a folder, `"films"` of other sources whose first row is one; empty where it is an image, too."""
    is_usual = columns.image_column == IMAGES.role
    of_films = replace(columns, media=VIDEOS.name, image_column=None if is_usual else columns.image_column)
    for each in (columns, of_films):
        try:
            rows = shard_rows(source, each)
            first = next(iter(rows.shards[0].read(0, 1)), {}).get(each.image_column)
        except (OSError, TypeError, ValueError):  # without such a column; what else is wrong is said without films
            continue
        if first is not None and not is_video(first):
            return ""
        if first is not None:
            return counted(rows.shards[0].num_rows, "film") if rows.kind == "folder" else "films"
    return ""


@contextmanager
def naming_films(encoder: DualEncoder, source: Any, columns: RowColumns) -> Iterator[None]:
    """Say of a source without images that it holds films, and how these are embedded."""
    try:
        yield
    except ValueError as error:
        films = describe_films(source, columns) if encoder.media == IMAGES.name else ""
        if not films:
            raise
        raise ValueError(
            f"{error} It holds {films}: to embed these, load the model with `clip=ClipSampling(num_frames=8)` "
            "(--num-frames 8)."
        ) from error
