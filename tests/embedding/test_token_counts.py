# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How many tokens a text has before it is cut, and how many fit, for models of every library."""

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from clip_hf import checkpoints
from clip_hf.embedding import load_dual_encoder
from clip_hf.embedding.transformers_encoder import TransformersEncoder
from tiny_models import make_tiny_model


class LikeOpenClip(nn.Module):
    """As much of the interface of open_clip's models as decides which class encodes."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Linear(3, 3)

    def encode_image(self, pixel_values): ...

    def encode_text(self, token_ids): ...


class OwnTokenizer:
    """As open_clip's: ids are padded and cut, and `encode` gives those between the two that are added."""

    def __init__(self, tokenizer):
        self.within = tokenizer

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 16, dtype=torch.long)

    def encode(self, text: str) -> list[int]:
        return self.within(text, truncation=False)["input_ids"][1:-1]


class TransformersTokenizer:
    """As open_clip's around one of transformers, which gets texts without exclamation marks."""

    def __init__(self, tokenizer):
        self.tokenizer, self.clean_fn = tokenizer, lambda text: text.replace("!", "")

    def __call__(self, texts: list[str]) -> torch.Tensor:
        options = {"max_length": 16, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(texts, **options)["input_ids"]


def make_encoder(kind: str, processor, folder):
    if kind == "ours":
        return load_dual_encoder(make_tiny_model("vit"), processor=processor)
    if kind == "open_clip":
        return load_dual_encoder(LikeOpenClip(), processor=(abs, OwnTokenizer(processor.tokenizer)))
    if kind == "open_clip around transformers":
        return load_dual_encoder(LikeOpenClip(), processor=(abs, TransformersTokenizer(processor.tokenizer)))
    checkpoints.save(make_tiny_model("vit"), processor, folder / "clip", format="transformers")
    prefix = "sentence_transformers:" if kind == "sentence_transformers" else ""
    return load_dual_encoder(f"{prefix}{folder / 'clip'}")


@pytest.mark.parametrize(
    "kind", ["ours", "transformers", "sentence_transformers", "open_clip", "open_clip around transformers"]
)
def test_tokens_are_counted_before_any_is_cut(kind, tiny_processor, tmp_path):
    encoder = make_encoder(kind, tiny_processor, tmp_path)
    short, long = "a cat", "a cat and a dog " * 30
    expected = [len(ids) for ids in tiny_processor.tokenizer([short, long], truncation=False)["input_ids"]]
    assert expected[0] < encoder.context_length < expected[1]
    assert encoder.count_tokens([short, long]) == expected
    assert len(encoder.token_ids([long])[0]) == encoder.context_length
    assert encoder.count_tokens([short, long]) == expected  # whatever encoding left behind
    with pytest.raises(TypeError, match="not one string"):
        encoder.count_tokens("a cat")
    if kind == "open_clip around transformers":
        assert encoder.count_tokens(["a! cat!"]) == expected[:1]


@pytest.mark.slow
def test_exports_count_as_their_model_does(exported_folder, runtime, tiny_processor):
    exported = load_dual_encoder(exported_folder("vit", runtime), runtime)
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    texts = ["a cat", "a cat and a dog " * 30]
    assert exported.count_tokens(texts) == encoder.count_tokens(texts)
    assert exported.context_length == encoder.context_length


def test_a_model_that_gets_its_full_length_may_have_less_than_its_tokenizer(tiny_processor):
    model = make_tiny_model("vit")
    encoder = TransformersEncoder(model, tiny_processor, "tiny")
    encoder.depends_on_padding = True
    tiny_processor.text_kwargs = {"max_length": 7}
    try:
        assert encoder.context_length == 7 == len(encoder.token_ids(["a cat " * 30])[0])
    finally:
        del tiny_processor.text_kwargs


def test_tokens_can_be_counted_while_texts_are_encoded(tiny_processor):
    backend = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]")
    encoder = TransformersEncoder(make_tiny_model("vit"), (tiny_processor.image_processor, tokenizer), "words")
    encoder.depends_on_padding = False  # it is not found out, which would run the model
    texts, length = ["a cat", "a cat " * 30], encoder.context_length
    assert list(map(len, encoder.token_ids(texts))) == [2, length] and length < 60
    assert encoder.count_tokens(texts) == [2, 60]
    # Tokenizers of transformers hold how to cut: counting must not change that of another thread's encoding.
    assert tokenizer.backend_tokenizer.truncation["max_length"] == length


def test_a_tokenizer_that_cannot_count_says_so():
    processor = (abs, lambda texts: torch.zeros(len(texts), 5, dtype=torch.long))
    with pytest.raises(TypeError, match="does not tell how many tokens a text has"):
        load_dual_encoder(LikeOpenClip(), processor=processor).count_tokens(["a cat"])
