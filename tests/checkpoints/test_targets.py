# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Models and processors of every kind to every format: it computes the same there, or it is refused and the message
names the formats that take it."""

import json
import re

import numpy as np
import pytest
import torch
import transformers
from openai_like import assert_bit_equal, assert_same_features, features, make_model
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFTokenizer, checkpoints
from clip_hf.checkpoints import FORMATS
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from tiny_models import CAPTIONS, IMAGE_SIZE


ALL, SQUARE = set(FORMATS), {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
OTHERS = {"clip_hf", "open_clip", "transformers"}
# Arguments of the model, options of the image processor, and the formats that hold the two.
KINDS = {
    "plain": ({}, {}, ALL),
    "larger resize": ({}, {"size": {"shortest_edge": 66}}, {"clip_hf", "transformers"}),
    "squash": ({}, {"size": SQUARE, "do_center_crop": False}, OTHERS),
    "another mean": ({}, {"image_mean": [0.5, 0.4, 0.3]}, OTHERS),
    "bilinear": ({}, {"resample": 2}, OTHERS),
    "Lanczos": ({}, {"resample": 1}, {"clip_hf", "transformers"}),
    "no rescaling": ({}, {"do_rescale": False, "do_normalize": False}, {"clip_hf", "transformers"}),
    "gelu": ({"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "gelu"}}, {}, OTHERS),
    "two activations": ({"text": {"hidden_act": "gelu"}}, {}, {"clip_hf", "transformers"}),
    "relu": ({"text": {"hidden_act": "relu"}, "vision": {"hidden_act": "relu"}}, {}, {"clip_hf", "transformers"}),
    "three heads": ({"text": {"hidden_size": 96, "num_attention_heads": 3}}, {}, OTHERS),
    "width of a head": ({"vision": {"hidden_size": 120, "num_attention_heads": 3}}, {}, OTHERS),
    "short context": ({"text": {"max_position_embeddings": 24}}, {}, ALL),
    "odd projection": ({"projection_dim": 17}, {}, ALL),
    "epsilon": ({"text": {"layer_norm_eps": 1e-3}}, {}, OTHERS),
    "sigmoid": ({"logit_bias_init_value": -10.0}, {}, {"clip_hf"}),
}


def image_processor_of(options):
    return ClipHFImageProcessor(**{"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": SQUARE, **options})


def pictures():
    """Two images, of even sizes when resized: transformers crops others half a pixel beside OpenAI's place."""
    rows, columns = np.mgrid[:90, :180]
    waves = np.stack([rows * 2, columns * 1.5, 128 + 100 * np.sin(rows / 9 + columns / 7)], axis=-1)
    picture = Image.fromarray(waves.clip(0, 255).astype(np.uint8))
    return [picture, picture.resize((100, 200))]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_to_every_format(kind, format, tiny_tokenizer, merges, tmp_path):
    changes, options, holding = KINDS[kind]
    model, image_processor = make_model("vit", **changes), image_processor_of(options)
    path, processor = tmp_path / "it.pt", ClipHFProcessor(image_processor, tiny_tokenizer)
    if format not in holding:
        with pytest.raises(ValueError, match="format|transformers' CLIP has") as caught:
            checkpoints.save(model, processor, path, format=format)
        pattern = r" What can hold it: ([\w, ]+?)(?: \(but not ([\w, ]+)\))?\.$"
        can, cannot = re.search(pattern, str(caught.value)).groups()
        assert set(can.split(", ")) == holding
        assert set((cannot or format).split(", ")) | {format} == ALL - holding
        assert list(tmp_path.iterdir()) == []
        return
    checkpoints.save(model, processor, path, format=format)
    back, again = checkpoints.load(path, **({"merges": merges} if format == "openai" else {}))
    assert_bit_equal(back.state_dict(), model.state_dict())
    assert_same_features(features(back), features(model))
    expected = processor(text=CAPTIONS[:1], images=pictures(), return_tensors="pt")
    found = again(text=CAPTIONS[:1], images=pictures(), return_tensors="pt")
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.pixel_values, expected.pixel_values)
    if format == "transformers":
        theirs = transformers.CLIPProcessor.from_pretrained(path)
        pixels = theirs(images=pictures(), return_tensors="pt").pixel_values
        torch.testing.assert_close(pixels.float(), expected.pixel_values.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_a_resnet_goes_where_there_are_resnets(format, source_models, tiny_processor, tmp_path):
    if format != "transformers":
        checkpoints.save(source_models["resnet"], tiny_processor, tmp_path / "it.pt", format=format)
        return
    message = r"Its text tower can be written \(tower='text'\). What can hold it: clip_hf, openai, open_clip\.$"
    with pytest.raises(ValueError, match=message):
        checkpoints.save(source_models["resnet"], tiny_processor, tmp_path / "it.pt", format=format)
    other = ClipHFProcessor(image_processor_of({"size": {"shortest_edge": 66}}), tiny_processor.tokenizer)
    with pytest.raises(ValueError, match=r"What can hold it: clip_hf \(but not openai, open_clip\)\.$"):
        checkpoints.save(source_models["resnet"], other, tmp_path / "it.pt", format=format)


# -------------------------------------------------------------------------------------------------------- vocabularies


@pytest.fixture(scope="module")
def own_tokenizer_of_openais_size():
    """As many ids as OpenAI's, and as many merges; two of them in another order."""
    openais = ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)
    model = json.loads(openais.backend_tokenizer.to_str())["model"]
    vocabulary = model["vocab"]
    first, second = "cat</w>", "dog</w>"
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    return ClipHFTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in model["merges"]])


def test_openais_format_says_that_it_has_no_place_for_a_vocabulary(source_models, tiny_processor, tmp_path, caplog):
    checkpoints.save(source_models["vit"], tiny_processor, tmp_path / "a.pt", format="openai")
    for part in ("no place for a vocabulary", "model of 600 ids", "clip.tokenize(texts, context_length=24)"):
        assert part in caplog.text
    checkpoints.save(source_models["vit"], tiny_processor, tmp_path / "b")
    report = checkpoints.convert(tmp_path / "b", tmp_path / "b.pt", "openai")
    assert "no place for a vocabulary" in str(report)
    for format in ("open_clip", "transformers"):
        assert "vocabulary" not in str(checkpoints.convert(tmp_path / "b", tmp_path / format, format).notes)


def test_a_vocabulary_is_told_from_openais_by_its_words(own_tokenizer_of_openais_size, tmp_path, caplog):
    model = make_model("vit", text={"vocab_size": 49408, "max_position_embeddings": 77})
    openais = ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)
    for tokenizer in (openais, None):
        checkpoints.save(model, tokenizer, tmp_path / f"{tokenizer is None}.pt", format="openai")
        assert "vocabulary" not in caplog.text and "context_length" not in caplog.text
    checkpoints.save(model, own_tokenizer_of_openais_size, tmp_path / "own.pt", format="openai")
    assert "no place for a vocabulary" in caplog.text
    # open_clip would take OpenAI's, did its configuration not say otherwise.
    for tokenizer, name in ((openais, None), (own_tokenizer_of_openais_size, "tokenizer-of-this-folder")):
        checkpoint = checkpoints.Checkpoint.of(model, tokenizer)
        assert (
            checkpoints.open_clip_format.config_of(checkpoint)["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
            == name
        )


def test_what_slow_tokenizers_read_lies_beside_the_fast_ones_file(tiny_processor, source_models, tmp_path):
    for format in ("transformers", "open_clip"):
        checkpoints.save(source_models["vit"], tiny_processor, tmp_path / format, format=format)
        whole = transformers.CLIPTokenizer.from_pretrained(tmp_path / format)
        (tmp_path / format / "tokenizer.json").unlink()
        (tmp_path / format / "tokenizer_config.json").unlink()
        parts = transformers.CLIPTokenizer.from_pretrained(tmp_path / format)
        texts = [*CAPTIONS, "", "Ein Wörterbuch!", "zzz 123 <|endoftext|> x"]
        assert parts(texts).input_ids == whole(texts).input_ids
        assert parts(CAPTIONS[0]).input_ids == tiny_processor.tokenizer(CAPTIONS[0]).input_ids
        assert parts.get_vocab() == tiny_processor.tokenizer.get_vocab()
        assert (tmp_path / format / "merges.txt").read_text(encoding="utf-8").startswith("#version: 0.2\n")
