# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What users put into `datasets.map` keeps its fingerprint, whatever it was used for: results are found again."""

import copy
import pickle
import random
import subprocess
import sys

import datasets
import pytest
import torch
from datasets.fingerprint import Hasher
from datasets.utils._dill import dumps

from clip_hf import ClipHFModel, ClipHFProcessor, ClipHFTokenizer, ClipHFZeroShotImageClassificationPipeline
from clip_hf.data import Augmentation, ImageTextCollator, PairOptions
from clip_hf.data.decoding import ImageReader
from clip_hf.embedding.load_encoder import load_dual_encoder
from pair_data import image_of
from tiny_models import CAPTIONS, CONTEXT_LENGTH, MORE_TEXTS, VOCAB_SIZE, make_tiny_model


@pytest.fixture
def tokenizer():
    return ClipHFTokenizer.train([*CAPTIONS, *MORE_TEXTS], vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH)


@pytest.fixture
def processor(tokenizer, tiny_processor):
    return ClipHFProcessor(copy.copy(tiny_processor.image_processor), tokenizer)


def tokenizer_uses(tokenizer):
    yield lambda: tokenizer(["a cat", "words that were not seen before"])
    yield lambda: tokenizer(["a cat"], truncation=True, max_length=5, padding="max_length")
    yield lambda: tokenizer(["a <|endoftext|> cat"], return_offsets_mapping=True)
    yield lambda: tokenizer("a cat").char_to_token(2)
    yield lambda: tokenizer.decode([1, 2, 3])
    yield lambda: tokenizer.pad({"input_ids": [[1, 2], [3]]})
    yield lambda: tokenizer([f"number {number}" for number in range(3000)])


def test_a_tokenizer_is_the_same_after_use(tokenizer):
    before, size = Hasher.hash(tokenizer), len(dumps(tokenizer))
    for use in tokenizer_uses(tokenizer):
        use()
        assert Hasher.hash(tokenizer) == before
        assert len(dumps(tokenizer)) == size  # hashing does not slow down


def test_map_finds_its_results_again(tokenizer, tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a cat", "a dog", "something else"]})

    def tokenize(batch):
        return tokenizer(batch["text"], truncation=True)

    first = rows.map(tokenize, batched=True)
    tokenizer(["a cat"], return_offsets_mapping=True)
    second = rows.map(tokenize, batched=True)
    assert first._fingerprint == second._fingerprint
    other = ClipHFTokenizer.train(MORE_TEXTS, vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH)
    assert Hasher.hash(other) != Hasher.hash(tokenizer)


@pytest.mark.slow
def test_fingerprints_are_the_same_in_another_process(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    make_tiny_model("vit").save_pretrained(tmp_path)
    program = f"""
from datasets.fingerprint import Hasher
from clip_hf import *
processor, model = ClipHFProcessor.from_pretrained({str(tmp_path)!r}), ClipHFModel.from_pretrained({str(tmp_path)!r})
processor(text=["a cat"])
print(Hasher.hash(processor), Hasher.hash(processor.tokenizer), Hasher.hash(model))
"""
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = ClipHFProcessor.from_pretrained(tmp_path)
    here(text=["a cat"])
    model = ClipHFModel.from_pretrained(tmp_path)
    assert there.split() == [Hasher.hash(thing) for thing in (here, here.tokenizer, model)]


def test_copies_are_whole(tokenizer):
    tokenizer("a cat", return_offsets_mapping=True)
    expected = tokenizer(CAPTIONS)["input_ids"]
    for twin in (copy.copy(tokenizer), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin(CAPTIONS)["input_ids"] == expected
        assert (
            twin("a cat", return_offsets_mapping=True)["offset_mapping"]
            == tokenizer("a cat", return_offsets_mapping=True)["offset_mapping"]
        )
        assert Hasher.hash(twin) == Hasher.hash(tokenizer)


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize(
    "kind", ["processor", "image_processor", "model", "tower", "pipeline", "collator", "reader", "options", "encoder"]
)
def test_everything_else_is_the_same_after_use(kind, processor, tower, tmp_path):
    model, image = make_tiny_model(tower), image_of(0).resize((90, 80))
    inputs = processor(text=CAPTIONS, images=[image], return_tensors="pt")
    pipe = ClipHFZeroShotImageClassificationPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor, device="cpu"
    )
    reader = ImageReader(processor.image_processor, cache_images=True)
    item = {"pixel_values": inputs["pixel_values"][0].byte().numpy(), "text": "a cat", "text_id": 1}
    encoder = load_dual_encoder(model, processor=processor)
    thing, uses = {
        "processor": (
            processor,
            [lambda: processor(text="a", images=image), lambda: processor.save_pretrained(tmp_path)],
        ),
        "image_processor": (processor.image_processor, [lambda: processor.image_processor([image] * 2)]),
        "model": (model, [lambda: model(**inputs), lambda: model.encode_text(inputs["input_ids"])]),
        "tower": (model.vision_model, [lambda: model.vision_model(inputs["pixel_values"])]),
        "pipeline": (pipe, [lambda: pipe(image, ["cat", "dog"]), lambda: pipe([image] * 2, ["cat", "dog", "bird"])]),
        "collator": (ImageTextCollator(processor), [lambda: ImageTextCollator(processor)([item])]),
        "reader": (reader, [lambda: reader.read(image, "row 0", random.Random(0), 0)]),
        "options": (PairOptions(augmentation=Augmentation(blur=0.5)), []),
        "encoder": (encoder, [lambda: encoder.encode_images([image]), lambda: encoder.fingerprint]),
    }[kind]
    before = Hasher.hash(thing)
    with torch.no_grad():
        for use in uses:
            use()
            assert Hasher.hash(thing) == before
    assert Hasher.hash(thing) == before
