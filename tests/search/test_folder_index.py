# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of folders: what has changed is embedded, nothing else is read."""


import pytest

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import refresh_folder_index
from encoding_inputs import count_images, quiet
from pair_data import image_of
from tiny_models import make_tiny_model


ROWS = 12


@pytest.fixture
def encoder(tiny_processor):
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    encoder.counted = count_images(encoder.model)
    return encoder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(ROWS):
        image_of(number).save(folder / ("sub" if number % 2 else "") / f"{number:02d}.png")
    return folder


@pytest.fixture
def refresh(encoder, photos):
    def run(**options):
        encoder.counted.clear()
        return refresh_folder_index(encoder, photos, f"{photos}.clip-index", encoding=quiet(batch_size=4, **options))
    return run


def numbers(result):
    names = ("added", "renamed", "edited", "removed", "unchanged", "read", "embedded")
    return {name: getattr(result, name) for name in names if getattr(result, name)}


def test_first_and_second(refresh, encoder):
    result = refresh()
    assert numbers(result) == {"added": ROWS, "read": ROWS, "embedded": ROWS}
    assert sum(encoder.counted) == ROWS
    result = refresh()
    assert numbers(result) == {"unchanged": ROWS}
