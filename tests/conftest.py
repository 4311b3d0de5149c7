# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tiny models, texts and images that the tests share. Nothing here reaches the network."""

import functools
import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path


# Before huggingface_hub is imported: a test that would reach for a hub fails at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from filelock import FileLock
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer
from drawings import COLOURS, PATTERNS, draw
from tiny_models import CAPTIONS, CONTEXT_LENGTH, IMAGE_SIZE, MORE_TEXTS, TOWERS, VOCAB_SIZE, make_tiny_model


EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RECIPES = {"vit": "demo.yaml", "resnet": "demo_resnet.yaml"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item) -> None:
    """Every test draws the same numbers, whichever ran before it; a hook, because shared fixtures draw too."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is `slow_but_for` some cases, mark the others slow.

    A case is named by its whole id, or by words of it between hyphens.
    """
    for item in items:
        for marker in item.iter_markers("slow_but_for"):
            if not any(f"-{case}-" in f"-{item.callspec.id}-" for case in marker.args):
                item.add_marker("slow")


def pytest_collection_finish() -> None:
    """What all tests and modules are made of is no garbage: each collection would look through it again, for a second.

    Every training ends with one.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def unsynced_disk() -> Iterator[None]:
    """Nothing written has to outlast a power cut, and waiting for the disk is most of the time of a small commit.

    Tests of when it is synced put a function of their own in this one's place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        yield


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate's settings, which belong to the whole program, go with the test."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> None:
    """What `datasets` keeps of what a test reads goes with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def undrawn_plots(monkeypatch) -> None:
    """Plots are made and saved, but as one point each: drawing them takes longer than evaluating a tiny model."""

    def save_point(figure, path, **options) -> None:
        Image.new("L", (1, 1)).save(path, "PNG")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_point)


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


@pytest.fixture
def encoder(tiny_processor):
    """A tiny model whose passes of the image tower are counted in `encoder.counted`, by their batch sizes."""
    from clip_hf.embedding import load_dual_encoder
    from encoding_inputs import count_images

    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    encoder.counted = count_images(encoder.model)
    return encoder


@pytest.fixture(params=["onnx", "openvino"])
def runtime(request) -> str:
    """Each runtime of exported models in turn."""
    return request.param


@pytest.fixture(scope="session")
def exported_folder(tiny_processor, tmp_path_factory) -> Callable[[str, str], Path]:
    """A function of tower and runtime: the folder of the tiny model, exported in float32 at the first call.

    The processes of one run share the folders, because an export takes seconds.
    """
    from clip_hf.export import export_model

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def exported(tower: str, runtime: str) -> Path:
        folder = base / "exports" / f"{tower}-{runtime}"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                export_model(make_tiny_model(tower), folder, runtime, processor=tiny_processor)
        return folder

    return exported


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


@pytest.fixture(scope="session")
def tiny_data() -> datasets.DatasetDict:
    """Sixteen captioned drawings to train on and four to test, compositions of a colour and a pattern."""
    names = [(colour, pattern) for colour in COLOURS for pattern in PATTERNS]
    splits = {"train": [], "test": []}
    for index, (colour, pattern) in enumerate(names):
        row = {"image": draw(colour, pattern), "caption": f"{pattern}: {colour}"}
        splits["test" if index in (1, 7, 13, 19) else "train"].append(row)
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows, features=features) for split, rows in splits.items()}
    )


@pytest.fixture(scope="session")
def tiny_data_folder(tiny_data, tmp_path_factory) -> Path:
    """The same, as a folder of `save_to_disk`."""
    folder = tmp_path_factory.mktemp("tiny_data")
    tiny_data.save_to_disk(str(folder))
    return folder


@pytest.fixture
def recipe_of(tiny_data_folder, tmp_path):
    """A function that writes the demo's recipe for a tower, with a tiny model and few pairs, and returns its path."""

    def write(tower: str, **options) -> Path:
        recipe = yaml.safe_load((EXAMPLES / "recipes" / RECIPES[tower]).read_text())
        recipe["config"]["text_config"] |= {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        recipe["config"]["text_config"]["num_hidden_layers"] = 1
        small = {
            "vit": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
            "resnet": {"width": 4, "stage_depths": [1, 1, 1, 1]},
        }[tower]
        recipe["config"]["vision_config"] |= {**small, "image_size": 32}
        recipe |= {"dataset": str(tiny_data_folder), "vocab_size": 514, "resize_to": 36, "batch_size": 8}
        # The pairs are learnt in `epochs` of two steps.
        recipe |= {"epochs": 2, "eval_every": 100.0, "save_every": 0, "cpu": True, **options}
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        path = folder / f"{tower}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write
