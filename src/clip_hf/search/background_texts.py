# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captions of everyday pictures: what a query or a label must beat to count as found."""

from functools import cache
from pathlib import Path

from ..utils.json_files import read_json


@cache
def load_background_texts() -> tuple[str, ...]:
    """Captions of everyday pictures over many themes, no two alike: the measure of how well *anything* fits.

    The cosine of a text and a picture says little by itself: its level differs from model to model and from collection
    to collection. It becomes a statement beside the cosines of texts that have nothing to do with the query. These are
    such texts: people, animals, food, rooms, streets, landscapes, sports, documents, screens, art, signs, textures.
    They were written for this purpose and describe no particular dataset.

    Returns:
        `tuple[str, ...]`: 370 captions in English, 2 to 10 words each.
    """
    themes = read_json(Path(__file__).with_name("background_texts.json"), dict)
    return tuple(text for texts in themes.values() for text in texts)
