# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A tiny encoder whose passes are counted, and folders of images for jobs."""

from pathlib import Path

import pytest
from job_inputs import ENCODING, ROWS, SMALL

from clip_hf.embedding import embed
from encoding_inputs import files_in
from pair_data import caption_of, encoded, image_of


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of images with texts."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(caption_of(number))
    return folder


@pytest.fixture
def plain(encoder, photos, tmp_path) -> dict[str, bytes]:
    """What an uninterrupted job of one process writes."""
    embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    return files_in(tmp_path / "plain")


@pytest.fixture
def damaged(photos) -> Path:
    (photos / "03.png").write_bytes(encoded(image_of(3))[:-200])
    (photos / "09.png").write_bytes(b"")
    return photos
