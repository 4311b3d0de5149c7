# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A tiny encoder whose passes are counted."""

import pytest

from clip_hf.embedding import load_dual_encoder
from encoding_inputs import count_images
from tiny_models import make_tiny_model


@pytest.fixture
def encoder(tiny_processor):
    """A tiny model whose passes of the image tower are counted in `encoder.counted`, by their batch sizes."""
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    encoder.counted = count_images(encoder.model)
    return encoder
