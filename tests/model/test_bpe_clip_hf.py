# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Text clean-up, merges files and training of the tokenizer."""

import copy
import gzip
import html
import importlib.util
import json
import random
import re
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import ftfy
import pytest
from ftfy.badness import BADNESS_RE, is_bad

from clip_hf import ClipHFTokenizer
from clip_hf.model import bpe_clip_hf
from clip_hf.model.bpe_clip_hf import clean_like_openai, normalize_linearly, split_words
from plain_tokenizer import PIECES, PlainTokenizer, emoji_names, merges_of, text_ids


SOT, EOT = "<|startoftext|>", "<|endoftext|>"
VOCAB_SIZE = 3000


@pytest.fixture(scope="module")
def corpus():
    return emoji_names(step=12)


@pytest.fixture(scope="module")
def trained(corpus):
    return ClipHFTokenizer.train(corpus, VOCAB_SIZE)


@pytest.fixture
def tokenizer(trained):
    """A copy, so that no test sees what another has changed or has been warned about."""
    return copy.deepcopy(trained)


# --------------------------------------------------------------------------------------------------------- clean-up


def ftfy_and_html(text):
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def test_text_that_counts_as_clean_is_not_changed():
    clean = 0
    for start in range(0, 0x110000, 64):
        characters = [chr(code) for code in range(start, start + 64)]
        text = " ".join(characters)
        for part in [text] if bpe_clip_hf.is_clean(text) else characters:
            if bpe_clip_hf.is_clean(part):
                clean += len(part)
                assert ftfy_and_html(part) == part, ascii(part)
    assert clean > 100_000


def test_text_that_counts_as_clean_is_not_changed_whatever_stands_together():
    generator = random.Random(0)
    suspects = [chr(code) for code in (*range(0x20, 0x500), *range(0x2010, 0x2060), *range(0x20A0, 0x2600))]
    quotes = [*PIECES["quotes"], "café", "Straße", "猫", "é", "Ã", "\u0301"]
    pieces = [piece for pieces in PIECES.values() for piece in pieces if len(piece) < 20]
    clean = 0
    for _ in range(6000):
        source = generator.choice([suspects, suspects, pieces, quotes])
        text = "".join(generator.choices([*source, "a", " ", "\t", "\n"], k=generator.randint(2, 6)))
        expected = ftfy_and_html(text)
        assert bpe_clip_hf.clean_like_openai(text) == expected, ascii(text)
        if bpe_clip_hf.is_clean(text):
            clean += 1
            assert expected == text, ascii(text)
    assert clean > 1000


def test_without_ftfy_only_text_that_may_need_it_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)  # importing it fails
    spec = importlib.util.spec_from_file_location("bpe_without_ftfy", bpe_clip_hf.__file__)
    without_ftfy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without_ftfy)
    for text in ("a photo of a cat", "猫の写真", "thumbs up \U0001f44d"):
        assert without_ftfy.clean_like_openai(text) == text
    for text in ("cafÃ©", "fish &amp; chips", "a “quoted” word", "e\u0301"):
        with pytest.raises(ImportError, match="pip install ftfy"):
            without_ftfy.clean_like_openai(text)


def test_ftfy_finds_no_mojibake_in_quiet_characters():
    """`is_clean` does not ask ftfy about these, so its search must not know them."""
    pattern = BADNESS_RE.pattern
    known = set(pattern)
    for first, last in re.findall("([^\x00-\x7f])-([^\x00-\x7f])", pattern):
        known.update(chr(code) for code in range(ord(first), ord(last) + 1))
    assert {"é", "Ã", "€", "ж", "█"} <= known
    quiet = re.compile(f"[{bpe_clip_hf._QUIET}]")
    assert [ascii(char) for char in known if char > "\x7f" and quiet.match(char)] == []
    generator = random.Random(0)
    assert not any(is_bad("".join(chr(generator.randrange(1, 127)) for _ in range(50))) for _ in range(300))


def test_clean_returns_what_openai_cleans(tokenizer):
    assert tokenizer.clean("&amp;lt; ﬁne’s \x07ＬＯＵＤ") == "< fine's LOUD"
    assert tokenizer.clean("sÃ³") == "só"
    text = "no change, ça va 猫"
    assert tokenizer.clean(text) is text


def test_without_clean_up_only_the_normal_form_changes(tokenizer):
    tokenizer.clean_text = False
    assert tokenizer.clean("&amp; ﬁ e\u0301") == "&amp; ﬁ é"
    assert tokenizer("&amp;").input_ids != copy.deepcopy(tokenizer)("&").input_ids
    with pytest.raises(ValueError, match="lone surrogate.*clean_text=True"):
        tokenizer("ok \ud800")


def test_lone_surrogates_become_the_replacement_character(tokenizer):
    assert text_ids(tokenizer, "a \ud800 b") == text_ids(tokenizer, "a \ufffd b")


# ---------------------------------------------------------------------------------------------------- merges files


@pytest.fixture
def merges_text(tokenizer, tmp_path):
    tokenizer.save_vocabulary(str(tmp_path))
    return (tmp_path / "merges.txt").read_bytes()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_from_bpe_file(tokenizer, merges_text, tmp_path, compress):
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(compress(merges_text))
    loaded = ClipHFTokenizer.from_bpe_file(str(path), context_length=20)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == 20
    assert loaded.vocab_size == len(merges_of(tokenizer)) + 514


def test_from_bpe_file_uses_as_many_merges_as_openai(tmp_path):
    symbols = PlainTokenizer([]).tokens[:256]
    merges = [f"{a} {b}" for a in symbols for b in symbols][:50_000]
    (tmp_path / "bpe.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    assert len(ClipHFTokenizer.from_bpe_file(tmp_path / "bpe.txt")) == 49_408


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a merges file: its first line must be a header"),
        (b"{}\n", "not a merges file: its first line must be a header"),
        (b"\x89PNG\xff\xfe", "neither UTF-8 text nor gzip"),
        (
            gzip.compress(b"#version\n" + bytes(random.Random(0).choices(b"abc \n", k=5000)))[:-200],
            "damaged or incomp",
        ),
        (b"\x1f\x8bnot really", "damaged or incomp"),
        (b"#version: 0.2\na b\nc\n", "line 3: 'c' holds 1 symbols instead of 2"),
        (b"#version: 0.2\na b\n\nc d\n", "line 3: '' holds 0 symbols"),
        (b"#version: 0.2\na b\nabc d\n", r"line 3: 'abc d' uses \['abc'\], which no line above makes"),
        (b"#version: 0.2\na b\na b\n", "line 3: 'a b' makes 'ab', which a line above makes already"),
    ],
)
def test_damaged_merges_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bpe.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ClipHFTokenizer.from_bpe_file(path)


def test_a_missing_merges_file_and_a_bad_length_are_refused(tmp_path, merges_text):
    with pytest.raises(FileNotFoundError, match=r"no merges file .*nothing.txt"):
        ClipHFTokenizer.from_bpe_file(tmp_path / "nothing.txt")
    for length in (2, "77", True):
        with pytest.raises(ValueError, match="context_length must be an integer of at least 3"):
            ClipHFTokenizer.from_bpe_file(tmp_path / "merges.txt", context_length=length)


# -------------------------------------------------------------------------------------------------------- training


def test_the_vocabulary_is_laid_out_as_openai_does(trained, corpus):
    tokens = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    assert tokens[:512] == PlainTokenizer([]).tokens
    assert tokens[512:-2] == ["".join(merge) for merge in merges_of(trained)]
    assert tokens[-2:] == [SOT, EOT]
    assert len(tokens) == len(set(tokens)) == VOCAB_SIZE
    # It learned something: names it was trained on take few tokens, and no byte is unknown.
    assert sum(map(len, text_ids(trained, corpus))) < 0.5 * sum(len(text.encode()) for text in corpus)
    ids = text_ids(trained, "".join(map(chr, range(0x21, 0x3000))))
    assert trained.eos_token_id not in ids


def test_training_is_deterministic_and_takes_generators(corpus):
    texts = corpus[:2000]
    first = ClipHFTokenizer.train(texts, 1200)
    assert ClipHFTokenizer.train((text for text in texts), 1200).get_vocab() == first.get_vocab()
    # In another process, where hash tables are in another order.
    program = (
        "import json, sys, bpe_clip_hf as bpe\n"
        "print(json.dumps(bpe.learn_merges(json.load(sys.stdin), bpe.clean_like_openai, 1200 - 514)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        cwd=Path(bpe_clip_hf.__file__).parent,
    )
    assert [tuple(merge) for merge in json.loads(run.stdout)] == merges_of(first), run.stderr


def test_training_cleans_as_encoding_does():
    fancy = ClipHFTokenizer.train(["‘ＣＡＴＳ’ &amp;amp; ﬁsh"] * 3, 530)
    simple = ClipHFTokenizer.train(["'cats' & fish"] * 3, 530)
    assert fancy.get_vocab() == simple.get_vocab()


def test_words_count_as_often_as_they_occur():
    assert merges_of(ClipHFTokenizer.train(["ab"] * 2 + ["yz"] * 3, 515)) == [("y", "z</w>")]
    assert merges_of(ClipHFTokenizer.train(["ab"] * 1500 + ["yz"] * 1600, 515)) == [("y", "z</w>")]


def test_special_tokens_in_the_corpus_are_not_learned():
    tokenizer = ClipHFTokenizer.train([f"{SOT} cat {EOT}"] * 10, 516)
    assert not any("oftext" in "".join(merge) for merge in merges_of(tokenizer))
    for token in (SOT, EOT):
        tokenizer = ClipHFTokenizer.train([f"cat {token}"] * 10, 600)
        assert merges_of(tokenizer) == merges_of(ClipHFTokenizer.train(["cat"] * 10, 600))
    assert text_ids(tokenizer, EOT) == [tokenizer.eos_token_id]


def test_a_small_corpus_gives_a_small_vocabulary(caplog):
    with caplog.at_level("INFO"):
        tokenizer = ClipHFTokenizer.train(["ab"], 600)
    assert len(tokenizer) == 515
    (record,) = [record for record in caplog.records if "give only 1 merges" in record.message]
    assert "the vocabulary has 515 ids instead of 600" in record.message and record.levelname == "INFO"
    assert tokenizer("ab")["input_ids"] == [513, 512, 514]
    assert len(ClipHFTokenizer.train(["ab"], 514)) == 514


@pytest.mark.parametrize(
    ("texts", "vocab_size", "error", "message"),
    [
        (["a"], 513, ValueError, "at least 514 .* given 513"),
        (["a"], "600", ValueError, "at least 514 .* given '600'"),
        ("a text", 600, TypeError, "iterable of strings; given .a text., of type str"),
        (None, 600, TypeError, "iterable of strings; given None, of type NoneType"),
        (["a", None], 600, TypeError, "Text 1 is None, of type NoneType"),
        ([["a"]], 600, TypeError, "Text 0 is .*, of type list"),
        ([], 600, ValueError, "no texts"),
    ],
)
def test_bad_training_input_is_refused(texts, vocab_size, error, message):
    with pytest.raises(error, match=message):
        ClipHFTokenizer.train(texts, vocab_size)


def test_train_new_from_iterator(tokenizer, corpus):
    tokenizer.strict = True
    batches = (corpus[start : start + 100] for start in range(0, 1000, 100))
    new = tokenizer.train_new_from_iterator(batches, 700, new_special_tokens=["[X]"])
    assert new.get_vocab() == {**ClipHFTokenizer.train(corpus[:1000], 700).get_vocab(), "[X]": 700}
    assert new.strict and new.model_max_length == 77
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.clean_text = False
    new = tokenizer.train_new_from_iterator(corpus[:100], 600)
    assert (new.padding_side, new.truncation_side, new.clean_text) == ("left", "left", False)
    with pytest.raises(ValueError, match=r"min_frequency, special_tokens_map cannot be used .*\.train"):
        tokenizer.train_new_from_iterator(corpus, 700, special_tokens_map={"a": "b"}, min_frequency=2)


# ------------------------------------------------------------------------------------------------------- time it takes


def marks_of(generator: random.Random) -> str:
    marks = [*map(chr, range(0x300, 0x370)), *"\u05b0\u05b1\u0f71\u0f73\u0f75\u0f81\u0344\u0340\u3099\u09be"]
    return "".join(generator.choices(generator.sample(marks, generator.randint(1, 9)), k=generator.randint(60, 150)))


def test_long_runs_of_marks_are_normalised_as_python_does():
    generator = random.Random(0)
    for number in range(400):
        letters = generator.choices(["e", "\u00e9", "\u0fb2", "\u1100", " ", ""], k=3)
        text = "".join(letter + marks_of(generator) for letter in letters)
        for form in ("NFC", "NFD"):
            assert normalize_linearly(form, text) == unicodedata.normalize(form, text)
        assert clean_like_openai(text) == html.unescape(html.unescape(ftfy.fix_text(text))), number


# Each may make a regular expression, a search for mojibake or a normal form look at all that follows again and again.
PATTERNS = [
    "\u0327\u0300",
    "e\u0327\u0300",
    "\u0f73\u0f72\u0f71",
    "&#807;&#768;",
    "\u05b0\u05b1",
    "\u1100\u1161\u11a8",
    "&amp;amp;",
    "\u00c3\u00a9",
    "a",
    " ",
    "'s'",
    "\u03a3'",
    "\ufb01",
    "\u201c\u201d",
    "\x1b[1m",
    "\x80\x81",
    "'",
    "<",
    "<|endoftext|",
    "1",
]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_grows_with_the_length(pattern):
    def seconds(length: int) -> float:
        text = pattern * (length // len(pattern))
        started = time.process_time()
        for word in split_words(clean_like_openai(text)):
            assert word
        return time.process_time() - started

    short = min(seconds(20_000) for _ in range(3))
    # Four times the work, and room for what a machine does besides; growth with the square would take 16 times.
    assert min(seconds(80_000) for _ in range(2)) < 10 * short + 0.05


LEVELS = ["amp;", "AMP;", "#38;", "#x26;", "#0038;", "#X0026;"]
AROUND = ["", "a", "Ã", "©", "“", "\n", "ﬁ", "\x1b[", "1;", "<", "lt;", "eacute;", "Atilde;", "#195;&#169;", "&foo;"]


@pytest.mark.slow
def test_ampersands_escaped_many_times_are_resolved_as_ftfy_does():
    generator = random.Random(0)
    for _ in range(1000):
        text = ""
        for _ in range(generator.randint(1, 4)):
            levels = generator.choices(LEVELS, k=generator.choice([1, 2, 17, 18, 19, 30, 60]))
            around = ["".join(generator.choices(AROUND, k=generator.randint(0, 3))) for _ in range(2)]
            text += f"{around[0]}&{''.join(levels)}{around[1]}"
        assert clean_like_openai(text) == html.unescape(html.unescape(ftfy.fix_text(text))), text


@pytest.mark.parametrize("tail", ["", "lt;", " “é” &amp;amp;lt;"])
def test_time_of_ampersands_escaped_many_times(tail):
    started = time.process_time()
    clean_like_openai(f"&{'amp;' * 25_000}{tail}")
    assert time.process_time() - started < 3  # level by level it takes 20 s


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["7", "İ", "Σ\u0301", "'s"])
def test_time_of_offsets_grows_with_the_length(tokenizer, pattern):
    def seconds(length: int) -> float:
        started = time.process_time()
        offsets = tokenizer(pattern * length, truncation=True, return_offsets_mapping=True)["offset_mapping"]
        assert offsets[1][0] == 0
        return time.process_time() - started

    seconds(1000)
    short = min(seconds(10_000) for _ in range(3))
    assert min(seconds(40_000) for _ in range(2)) < 8 * short + 0.05
