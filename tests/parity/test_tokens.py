# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Token ids against OpenAI's `SimpleTokenizer` with the published merges."""

import json
import sys
from pathlib import Path

import pytest

import references
from clip_hf import ClipHFTokenizer
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from plain_tokenizer import PIECES, emoji_names, hard_texts, text_ids


@pytest.fixture(scope="module")
def openai():
    return references.load_openai_tokenizer()


@pytest.fixture(scope="module")
def tokenizer():
    return ClipHFTokenizer.from_bpe_file(references.openai_bpe_path())


def differences(tokenizer, openai, texts):
    return [ascii(text) for text, ids in zip(texts, text_ids(tokenizer, texts)) if ids != openai.encode(text)]


def test_vocabulary(tokenizer, openai):
    assert tokenizer.get_vocab() == openai.encoder
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (49406, 49407, 77)


def test_ids_of_hard_texts(tokenizer, openai):
    texts = list(dict.fromkeys(hard_texts(8000, seed=20)))
    assert len(texts) > 7000
    assert differences(tokenizer, openai, texts) == []


def test_ids_of_every_character(tokenizer, openai):
    texts = []
    # Planes 4 to 13 have no characters, 15 and 16 are private: a sample of them.
    for start in (*range(0, 0x34000, 32), *range(0x34000, 0x110000, 1024), *range(0xE0000, 0xE0200, 32)):
        texts.append(" ".join(f"a{chr(code)}B{chr(code)}" for code in range(start, start + 32)))
    assert differences(tokenizer, openai, texts) == []


def test_ids_of_every_piece_next_to_a_letter_a_digit_and_a_sign(tokenizer, openai):
    pieces = [piece for pieces in PIECES.values() for piece in pieces]
    texts = [template.format(piece) for piece in pieces for template in ("Ab{}Σ", "1{}2", "'{}s", " \t{}\n")]
    assert differences(tokenizer, openai, texts) == []


def test_ids_of_emoji_names_in_many_languages(tokenizer, openai):
    assert differences(tokenizer, openai, emoji_names(step=5)) == []


def test_literal_special_tokens_that_stand_alone(tokenizer, openai):
    texts = ["<|startoftext|>a cat<|endoftext|>", "a <|endoftext|> b", "&lt;|endoftext|&gt;"]
    assert differences(tokenizer, openai, texts) == []


@pytest.mark.parametrize("after", ["", " b", "b", "7", "!", "|>", "'s"])
@pytest.mark.parametrize("token", ["endoftext", "startoftext"])
def test_where_literal_special_tokens_follow_another_rule(tokenizer, openai, token, after):
    """
    OpenAI's rule: in any case, but not behind a sign, which takes the token's own signs to itself. Ours, which is
    transformers': in exactly this form, wherever it stands.
    """
    exact, upper = f"<|{token}|>", f"<|{token.upper()}|>"
    place = openai.encoder[exact]
    for before, behind_a_sign in (
        ("", False),
        ("a cat ", False),
        ("cat", False),
        ("7", False),
        ("cat!", True),
        ("(", True),
    ):
        ours = [place in ids for ids in text_ids(tokenizer, [before + exact + after, before + upper + after])]
        theirs = [place in openai.encode(before + form + after) for form in (exact, upper)]
        assert ours == [True, False]
        assert theirs == ([False, False] if behind_a_sign else [True, True])
        same = [text for text in (exact, upper) if differences(tokenizer, openai, [before + text + after]) == []]
        assert same == ([upper] if behind_a_sign else [exact])


def test_decoding(tokenizer, openai):
    for text in hard_texts(1000, seed=21):
        ids = openai.encode(text)
        assert tokenizer.decode(ids) == openai.decode(ids).removesuffix(" ")


def test_the_merges_that_come_with_the_library_are_openais():
    ours = ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)
    theirs = ClipHFTokenizer.from_bpe_file(references.openai_bpe_path())
    assert ours.get_vocab() == theirs.get_vocab()
    assert json.loads(ours.backend_tokenizer.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
