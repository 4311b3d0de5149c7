# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tiny models, texts and images that the tests share. Nothing here reaches the network."""

import os
import random


# Before huggingface_hub is imported: a test that would reach for a hub fails at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer
from tiny_models import CAPTIONS, CONTEXT_LENGTH, IMAGE_SIZE, MORE_TEXTS, TOWERS, VOCAB_SIZE, make_tiny_model


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item) -> None:
    """Every test draws the same numbers, whichever ran before it; a hook, because shared fixtures draw too."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> None:
    """What `datasets` keeps of what a test reads goes with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=TOWERS)
def tower(request) -> str:
    """Each kind of vision tower in turn."""
    return request.param


@pytest.fixture
def tiny_model(tower) -> ClipHFModel:
    """A tiny model with the vision tower of the fixture `tower`, in evaluation mode."""
    return make_tiny_model(tower)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> ClipHFTokenizer:
    """A tokenizer with as many ids as the tiny models have, trained on `CAPTIONS` and more."""
    tokenizer = ClipHFTokenizer.train([*CAPTIONS, *MORE_TEXTS], vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH)
    assert len(tokenizer) == VOCAB_SIZE
    return tokenizer


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer) -> ClipHFProcessor:
    """A processor that fits the tiny models."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = ClipHFImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    return ClipHFProcessor(image_processor, tiny_tokenizer)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Five RGB images of different sizes, smooth enough that resizing leaves them different."""
    generator = np.random.default_rng(0)
    result = []
    for width, height in [(80, 64), (64, 64), (200, 101), (37, 90), (130, 131)]:
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        result.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return result


@pytest.fixture
def text_inputs() -> dict[str, torch.Tensor]:
    """Token ids (4, 10) of texts of different lengths, padded on the right with the end-of-text token, and mask."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, 598, (4, 10), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row, length in enumerate([10, 7, 3, 5]):
        input_ids[row, 0] = 598
        input_ids[row, length - 1 :] = 599
        attention_mask[row, length:] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Random normalised images (4, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(1)
    # A colour cast of its own for each image: noise alone is the same to a random vision transformer.
    casts = 3 * torch.randn(4, 3, 1, 1, generator=generator)
    return torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) + casts
