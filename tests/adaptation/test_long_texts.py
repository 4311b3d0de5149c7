# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stretched positions: against the published rule, short texts unchanged, and the command."""

import numpy as np
import pytest
import torch

from clip_hf import ClipHFForImageClassification, ClipHFModel, ClipHFProcessor, checkpoints
from clip_hf.adaptation import long_texts, stretch_context
from clip_hf.cli import main
from tiny_models import CAPTIONS, CONTEXT_LENGTH, as_transformers_clip, make_tiny_model, tiny_config


KEEP = 12
LONG = " ".join(CAPTIONS[:4])


def published_positions(old: torch.Tensor) -> torch.Tensor:
    """Long-CLIP's 248 of 77 positions: quarters between neighbours, then quarters of the last step."""
    rows = [old[place] for place in range(20)]
    for place in range(20, 77):
        step = old[place + 1] - old[place] if place < 76 else old[76] - old[75]
        rows += [old[place] + quarter * step / 4 for quarter in range(4)]
    return torch.stack(rows)


def test_the_published_lengths_give_the_published_positions():
    old = torch.randn(77, 5, dtype=torch.float64)
    new = long_texts.stretch_positions(old, 248, 20)
    assert torch.equal(new[:20], old[:20])
    torch.testing.assert_close(new, published_positions(old), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("context_length", "keep"), [(30, 3), (25, 0), (100, 10), (41, 22)])
def test_other_lengths_follow_the_same_line(context_length, keep):
    # Positions on a line stay on one, with a smaller step from where they are stretched.
    old = torch.arange(24.0)[:, None] * torch.tensor([[1.0, -2.0]])
    new = long_texts.stretch_positions(old, context_length, keep)
    assert new.shape == (context_length, 2)
    step = (24 - keep) / (context_length - keep)
    places = torch.cat([torch.arange(keep), keep + step * torch.arange(context_length - keep)])
    torch.testing.assert_close(new[:, 0], places.float())
    torch.testing.assert_close(new[:, 1], -2 * places.float())


def test_short_texts_keep_their_features_and_long_ones_are_read_to_the_end(tower, tiny_processor, pixel_values):
    model = make_tiny_model(tower)
    stretched, processor = stretch_context(model, tiny_processor, 60, KEEP)
    assert (model.config.text_config.max_position_embeddings, tiny_processor.tokenizer.model_max_length) == (24, 24)
    lengths = [len(ids) for ids in tiny_processor.tokenizer(CAPTIONS)["input_ids"]]
    short = [text for text, length in zip(CAPTIONS, lengths) if length <= KEEP]
    assert short and max(lengths) > KEEP
    with torch.no_grad():
        for texts, is_kept in ((short, True), (CAPTIONS, False)):
            before, after = (
                each.encode_text(**its(text=texts, return_tensors="pt", padding=True))
                for each, its in ((model, tiny_processor), (stretched, processor))
            )
            assert (float((before - after).abs().max()) < 1e-6) == is_kept
        torch.testing.assert_close(model.encode_image(pixel_values), stretched.encode_image(pixel_values))
        # What differs beyond the old length is seen now.
        pair = [LONG + " cat", LONG + " fish"]
        assert len(processor.tokenizer(pair)["input_ids"][0]) > CONTEXT_LENGTH
        for each, its, differs in ((model, tiny_processor, False), (stretched, processor, True)):
            one, two = each.encode_text(**its(text=pair, return_tensors="pt", padding=True))
            assert (not torch.equal(one, two)) == differs


def test_it_is_saved_and_loads_as_any_clip(tmp_path, tiny_processor, capsys):
    make_tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    line = ["stretch", str(tmp_path / "model"), "--context", "60", "--keep", str(KEEP), "-o", str(tmp_path / "long")]
    assert main(line) == 0
    assert "long captions" in capsys.readouterr().out
    expected, _ = stretch_context(tmp_path / "model", context_length=60, keep=KEEP)
    model, processor = checkpoints.load(tmp_path / "long")
    again = ClipHFModel.from_pretrained(tmp_path / "long")
    for loaded in (model, again):
        assert loaded.config.text_config.max_position_embeddings == 60
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in expected.state_dict().items())
    assert processor.tokenizer.model_max_length == 60
    assert ClipHFProcessor.from_pretrained(tmp_path / "long").tokenizer.model_max_length == 60
    assert len(processor(text=[LONG * 2])["input_ids"][0]) == 60
    card = (tmp_path / "long" / "README.md").read_text()
    assert "stretched to 60" in card and "kept_positions" in card
    assert main(line) == 1
    assert "long" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0


def test_models_of_other_formats(tmp_path, tiny_processor):
    model = make_tiny_model("vit")
    as_transformers_clip(model).save_pretrained(tmp_path / "transformers")
    tiny_processor.save_pretrained(tmp_path / "transformers")
    stretched, _ = stretch_context(tmp_path / "transformers", context_length=60, keep=KEEP)
    expected, _ = stretch_context(model, tiny_processor, 60, KEEP)
    assert isinstance(stretched, ClipHFModel)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(stretched.state_dict()[name], value)
    with pytest.raises(ValueError, match="CLIPModel is no CLIP of ours"):
        stretch_context(as_transformers_clip(model), tiny_processor)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"context_length": 24}, ValueError, "`context_length` is 24, and the model has 24 positions already"),
        ({"context_length": 8193}, ValueError, "`context_length` is 8193; it must be at most 8192"),
        ({"context_length": 30, "keep": 23}, ValueError, "`keep` is 23; it must be from 0 to 22"),
        ({"context_length": np.int64(3)}, ValueError, "`context_length` is 3"),
        ({"keep": -1}, ValueError, "`keep` is -1; it must be from 0 to 22"),
        ({"context_length": 30.0}, TypeError, "`context_length` is 30.0; it must be an integer"),
        ({"processor": None}, TypeError, "A model in memory needs its processor"),
        ({"processor": "folder"}, TypeError, "`processor` is a str; it must be a whole one"),
        ({"model": 3}, TypeError, "`model` is an int; it must be a CLIP or where it is"),
    ],
)
def test_impossible_options(tiny_processor, options, error, message):
    with pytest.raises(error, match=message):
        stretch_context(
            **{"model": make_tiny_model("vit"), "processor": tiny_processor, "context_length": 60, **options}
        )


def test_a_part_of_a_model_or_of_a_processor_is_refused(tiny_processor):
    with pytest.raises(TypeError, match="ClipHFForImageClassification lacks a tower; give a whole CLIP"):
        stretch_context(ClipHFForImageClassification(tiny_config("vit", num_labels=2)), tiny_processor)
    with pytest.raises(TypeError, match="`processor` is a .*Tokenizer.*; it must be a whole one"):
        stretch_context(make_tiny_model("vit"), tiny_processor.tokenizer)


def test_a_frozen_model_stays_frozen_and_half_precision_half(tiny_processor):
    for frozen in (True, False):
        model = make_tiny_model("vit").half().requires_grad_(not frozen)
        weight = stretch_context(model, tiny_processor, 60, KEEP)[0].text_model.embeddings.position_embedding.weight
        assert weight.requires_grad == (not frozen) and weight.dtype == torch.float16 and len(weight) == 60
