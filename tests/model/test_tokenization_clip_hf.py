# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The tokenizer against a plain byte-pair encoding, and as a tokenizer of transformers."""

import copy
import json
import logging
import pickle
import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, CLIPTokenizer

from clip_hf import ClipHFTokenizer
from clip_hf.model import bpe_clip_hf
from plain_tokenizer import PlainTokenizer, emoji_names, hard_texts, merges_of, text_ids


SOT, EOT = "<|startoftext|>", "<|endoftext|>"
VOCAB_SIZE = 3000
PLAIN = ["a photo of a cat", "Two dogs, 3 cats & no bird?", "it's a DOG's life", "", "  spaces\tand\nlines ", "x" * 50]
SPECIAL_CASES = [
    "İstanbul ΑΣ",
    "ﬁne &amp;amp; ‘dandy’",
    "e\u0301 猫が好き",
    "👨‍👩‍👧 it'ſ",
    "a\u0345b",
    "\ud83d\ude00 \ud800",
]


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


@pytest.fixture(scope="module")
def plain(trained):
    return PlainTokenizer(merges_of(trained))


@pytest.fixture
def log(caplog):
    """Everything that transformers and our own module log."""
    root = logging.getLogger("transformers")
    was, root.propagate = root.propagate, True
    caplog.set_level(logging.WARNING)
    yield caplog
    root.propagate = was


def differences(first, second, texts):
    return [ascii(text) for text, a, b in zip(texts, first, second, strict=True) if a != b]


# ------------------------------------------------------------------------------------------------------------- ids


def test_ids_of_hard_texts_equal_the_plain_reference(tokenizer, plain):
    texts = hard_texts(3000)
    expected = [plain.encode(text) for text in texts]
    assert len({tuple(ids) for ids in expected}) > 2000
    assert differences(text_ids(tokenizer, texts), expected, texts) == []
    # The same through `tokenizers`, with Python's rules plugged in.
    texts, expected = texts[-500:], expected[-500:]
    encoding = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)
    assert differences([item.ids for item in encoding.encodings], expected, texts) == []


def test_ids_of_unusual_characters_equal_the_plain_reference(tokenizer, plain):
    characters = [chr(code) for code in range(0x110000)]
    changed_by_case = [char for char in characters if char.lower() != char or char.upper() != char]
    spaces = [char for char in characters if char.isspace()]
    chosen = sorted({*changed_by_case, *spaces, *random.Random(0).sample(characters, 3000)})
    texts = ["Σ".join((f"a{char}B", char, f"{char}{char} 'S")) for char in chosen]
    assert differences(text_ids(tokenizer, texts), [plain.encode(text) for text in texts], texts) == []


def test_words_are_encoded_the_same_from_the_cache_and_when_it_overflows(tokenizer, plain, monkeypatch):
    texts = hard_texts(300, seed=1)
    expected = [plain.encode(text) for text in texts]
    monkeypatch.setattr(bpe_clip_hf, "_CACHED_WORDS", 20)
    for _ in range(2):
        assert differences(text_ids(tokenizer, texts), expected, texts) == []


def test_separators_of_ascii_are_no_spaces(tokenizer):
    tokenizer.clean_text = False  # it would remove them
    for code in range(0x1C, 0x20):
        encoding = tokenizer(f"a{chr(code)}b")
        assert len(encoding["input_ids"]) == 5
        assert encoding.encodings[0].ids == encoding["input_ids"]


def test_the_cache_of_words_has_a_bound(tokenizer, monkeypatch):
    monkeypatch.setattr(bpe_clip_hf, "_CACHED_WORDS", 20)
    cache = bpe_clip_hf._WordIds(tokenizer.backend_tokenizer.model)
    sizes = []
    for number in range(100):
        assert cache[f"w{number}"] == cache[f"w{number}"]
        sizes.append(len(cache))
    assert max(sizes) == 20
    cache.clear()
    for length, kept in ((128, 1), (129, 0)):
        assert len(cache["x" * length]) > 1
        assert len(cache) == kept
        cache.clear()


def test_brackets_are_those_of_the_post_processor(tokenizer):
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    start, end = (SOT, tokenizer.bos_token_id), (EOT, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(start, end)
    assert tokenizer("a")["input_ids"][0] == tokenizer.eos_token_id
    assert tokenizer("a")["input_ids"] == tokenizer("a").encodings[0].ids


@pytest.mark.slow
def test_saved_json_alone_gives_the_same_ids_for_clean_text(tokenizer):
    """`tokenizers` has other Unicode tables than Python, so only characters that Python knows are compared."""
    texts = [tokenizer.clean(text) for text in hard_texts(2000, seed=2)]
    texts = [text for text in texts if not any(unicodedata.category(char) == "Cn" for char in text)]
    assert len(texts) > 1000
    backend = tokenizer.backend_tokenizer
    ids = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    different = differences(ids, text_ids(tokenizer, texts), texts)
    assert len(different) <= 0.02 * len(texts), different[:10]
    assert backend.decode(backend.encode("a photo of 2 cats.").ids) == "a photo of 2 cats ."


# --------------------------------------------------------------------------------------------- literal special tokens


def test_literal_special_tokens_follow_the_rule_of_transformers(tokenizer):
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    for text in (f"a {EOT}b", f"a{EOT} B", "A &lt;|endoftext|&gt; b"):
        assert text_ids(tokenizer, text) == [*text_ids(tokenizer, "a"), end, *text_ids(tokenizer, "b")]
        assert end not in text_ids(tokenizer, text, split_special_tokens=True)
    assert text_ids(tokenizer, SOT) == [start]
    # Only in exactly this form.
    assert end not in text_ids(tokenizer, EOT.upper())
    tokenizer.split_special_tokens = True
    assert end not in text_ids(tokenizer, EOT)
    encoding = tokenizer(EOT)
    assert encoding.encodings[0].ids == encoding.input_ids


def test_added_tokens_are_found(tokenizer):
    before = len(tokenizer)
    assert tokenizer.add_tokens(["<Cat>", AddedToken("Zürich", normalized=True)]) == 2
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["[X]"]}) == 1
    assert len(tokenizer) == before + 3
    assert text_ids(tokenizer, "a [X] b")[1] == before + 2
    assert before + 1 in text_ids(tokenizer, "in ZÜRICH now")
    ids = [text_ids(tokenizer, text) for text in ("a <cat>b", "[X]", "zürich <Cat>[X]")]
    encodings = tokenizer(["a <cat>b", "[X]", "zürich <Cat>[X]"], add_special_tokens=False).encodings
    assert ids == [encoding.ids for encoding in encodings]
    tokenizer.backend_tokenizer.add_tokens(["!!!cat!!!"])
    assert text_ids(tokenizer, "!!!cat!!!") == [before + 3]


# -------------------------------------------------------------------------------------- the calls of transformers


@pytest.mark.parametrize("padding", [False, True, "max_length"])
@pytest.mark.parametrize("truncation", [None, True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_side": "left", "max_length": 12},
        {"add_special_tokens": False, "max_length": 7},
        {"pad_to_multiple_of": 8, "max_length": 16},
        {"max_length": 2},
        {"return_attention_mask": False},
    ],
)
def test_both_ways_of_encoding_agree(tokenizer, padding, truncation, options):
    """`return_length` needs `Encoding` objects, so it takes the way through transformers' own code."""
    options = {**options, "padding": padding, "truncation": truncation, "verbose": False}
    texts = PLAIN + SPECIAL_CASES + ["long " * 100]
    for side in ("right", "left"):
        tokenizer.truncation_side = side
        words, backend = tokenizer(texts, **options), tokenizer(texts, return_length=True, **options)
        assert backend.pop("length") == [len(ids) for ids in words["input_ids"]]
        assert words.data == backend.data
        assert [item.ids for item in words.encodings] == words["input_ids"]
        assert [item.attention_mask for item in words.encodings] == [item.attention_mask for item in backend.encodings]
        for text in texts:
            single, backend = tokenizer(text, **options), tokenizer(text, return_length=True, **options)
            backend.pop("length")
            assert single.data == backend.data


def test_ids_are_bracketed_and_padded_with_the_end_of_text_token(tokenizer):
    cat, dog = text_ids(tokenizer, ["a cat", "dog"])
    encoding = tokenizer(["a cat", "dog"], padding=True)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert (start, end, tokenizer.pad_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1, len(tokenizer) - 1)
    missing = len(cat) - len(dog)
    assert missing > 0
    assert encoding["input_ids"] == [[start, *cat, end], [start, *dog, end] + [end] * missing]
    assert encoding["attention_mask"][1] == [1] * (len(dog) + 2) + [0] * missing
    left = tokenizer(["a cat", "dog"], padding=True, padding_side="left")
    assert left["input_ids"][1] == [end] * missing + [start, *dog, end]
    assert left["attention_mask"][1] == [0] * missing + [1] * (len(dog) + 2)
    tokenizer.padding_side = "left"
    assert tokenizer(["a cat", "dog"], padding=True).data == left.data
    assert tokenizer(["a cat", "dog"], padding=True, padding_side="right").data == encoding.data


@pytest.mark.parametrize(("name", "kind"), [("pt", torch.Tensor), ("np", np.ndarray)])
def test_tensors(tokenizer, name, kind):
    encoding = tokenizer(PLAIN, padding=True, return_tensors=name)
    lists = tokenizer(PLAIN, padding=True)
    for key in ("input_ids", "attention_mask"):
        assert isinstance(encoding[key], kind)
        assert encoding[key].dtype in (torch.int64, np.int64)
        assert encoding[key].tolist() == lists[key]
    assert tokenizer("one", return_tensors=name)["input_ids"].shape[0] == 1


def test_texts_of_different_lengths_make_no_tensor(tokenizer):
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(["one", "one two three"], return_tensors="pt")


def test_offsets_refer_to_clean_text(tokenizer):
    for text in PLAIN + SPECIAL_CASES:
        clean = tokenizer.clean(text)
        encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        assert encoding["offset_mapping"] == tokenizer(text, add_special_tokens=False).encodings[0].offsets
        parts = {clean[slice(*offset)] for offset in encoding["offset_mapping"]}
        expected = "".join(plain_word for plain_word in "".join(clean.split()).replace("\u0345", ""))
        assert "".join(clean[i] for i in covered(encoding["offset_mapping"])) == expected, parts


def covered(offsets):
    return sorted({index for start, end in offsets for index in range(start, end)})


def test_a_batch_gives_words_characters_and_spans(tokenizer):
    encoding = tokenizer("Two DOGS's")
    assert encoding.is_fast
    assert encoding.tokens()[0] == SOT and encoding.tokens()[-1] == EOT
    assert encoding.char_to_word(4) == 1
    assert tuple(encoding.word_to_chars(2)) == (8, 10)
    assert encoding.char_to_token(0) == 1
    assert encoding.word_ids()[-1] is None
    for twin in (copy.copy(encoding), copy.deepcopy(encoding), pickle.loads(pickle.dumps(encoding))):
        assert twin["input_ids"] == encoding["input_ids"]
        assert twin.word_ids() == encoding.word_ids()
    tensors = tokenizer(PLAIN, padding=True, return_tensors="pt").to("cpu")
    assert tensors.word_ids(1)[1] == 0


def test_a_batch_remembers_the_tokenizer_that_made_it(tokenizer):
    encoding = tokenizer(["a [X] b", "b"], padding=True)
    tokenizer.add_tokens(["[X]"])
    tokenizer.padding_side = "left"
    assert [item.ids for item in encoding.encodings] == encoding["input_ids"]


def test_pairs_and_words_and_overflow(tokenizer):
    a, b = text_ids(tokenizer, ["a’s", "b"])
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    pair = [start, *a, end, end, *b, end]
    assert tokenizer("a’s", "b")["input_ids"] == pair
    assert tokenizer("b", "a’s")["input_ids"] == [start, *b, end, end, *a, end]
    assert tokenizer([("a’s", "b")])["input_ids"] == [pair]
    assert tokenizer(["a’s"], ["b"])["input_ids"] == [pair]
    words = tokenizer(["A’s", "b c"], is_split_into_words=True)
    assert words["input_ids"] == tokenizer("a’s b c")["input_ids"]
    assert words.word_ids() == [None, *[0] * len(a), 1, 1, None]
    assert tokenizer([["A’s", "b c"], []], is_split_into_words=True)["input_ids"][1] == [start, end]
    parts = tokenizer("a b c d e", max_length=4, truncation=True, return_overflowing_tokens=True)
    assert [len(ids) for ids in parts["input_ids"]] == [4, 4, 3]
    mask = tokenizer("a", return_special_tokens_mask=True, return_token_type_ids=True)
    assert (mask["special_tokens_mask"], mask["token_type_ids"]) == ([1, 0, 1], [0, 0, 0])
    labels = tokenizer("a", text_target="b")["labels"]
    assert labels == tokenizer("b")["input_ids"]


def test_tokens_and_decoding(tokenizer, plain):
    assert tokenizer.tokenize("Man DE") == ["man</w>", "de</w>"]
    assert tokenizer.tokenize("man de", add_special_tokens=True) == [SOT, "man</w>", "de</w>", EOT]
    ids = tokenizer.encode("The cat's café, 猫!")
    assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(ids)) == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat 's café , 猫 !"
    assert tokenizer.decode(ids) == f"{SOT}the cat 's café , 猫 ! {EOT}"
    assert tokenizer.convert_tokens_to_string(["the</w>", "cat</w>"]) == "the cat"
    texts = hard_texts(200, seed=4)
    ids = text_ids(tokenizer, texts)
    assert tokenizer.batch_decode(ids) == [plain.decode(row).removesuffix(" ") for row in ids]
    assert tokenizer.decode([]) == ""
    assert len(tokenizer.get_vocab()) == tokenizer.vocab_size == len(tokenizer) == VOCAB_SIZE


def test_empty_text_is_valid(tokenizer):
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert tokenizer(["", "  ", "\x00"])["input_ids"] == [[tokenizer.bos_token_id, tokenizer.eos_token_id]] * 3


def test_threads_share_a_tokenizer(tokenizer):
    texts = [f"{text} {number}" for number in range(4) for text in PLAIN + SPECIAL_CASES + [f"{EOT} x"]]

    def encode(number):
        # Every call has other settings, which `tokenizers` keeps in the backend.
        options = {"max_length": 5 + number % 7, "padding": "max_length", "truncation": True}
        return tokenizer(texts[number], return_offsets_mapping=number % 3 > 0, **options).data

    expected = [encode(number) for number in range(len(texts))]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(encode, range(len(texts)))) == expected


# ------------------------------------------------------------------------------------------------------ long texts


def test_a_long_text_is_cut_and_one_warning_is_given(tokenizer, log):
    texts = ["a", "a " * 100]
    for _ in range(2):
        cut = tokenizer(texts)
    assert [len(ids) for ids in cut["input_ids"]] == [3, 77]
    assert cut["input_ids"][1][-1] == tokenizer.eos_token_id
    assert len(tokenizer.encode(texts[1])) == 77
    assert len(log.messages) == 1
    assert "Text 1 has 102 tokens, but at most 77 fit: '" in log.text


def test_no_warning_where_nothing_is_cut_or_cutting_is_asked_for(tokenizer, log):
    tokenizer(["a " * 75])
    tokenizer("a " * 100, truncation=True)
    tokenizer("a " * 100, max_length=9)
    tokenizer("a " * 100, verbose=False)
    tokenizer("a " * 100, return_overflowing_tokens=True)
    assert log.messages == []
    tokenizer("a " * 100, padding="max_length", max_length=9)
    assert len(log.messages) == 1


def test_nothing_is_cut_with_truncation_false(tokenizer):
    assert len(tokenizer("a " * 100, truncation=False)["input_ids"]) == 102
    assert len(tokenizer.encode("a " * 100, truncation=False)) == 102
    assert len(tokenizer("a " * 100, truncation=False, strict=True)["input_ids"]) == 102
    assert len(tokenizer.tokenize("a " * 100)) == 100


@pytest.mark.parametrize("options", [{}, {"return_offsets_mapping": True}, {"truncation": True}])
def test_strict_raises_instead_of_cutting(tokenizer, options):
    texts = ["a", "a " * 100]
    with pytest.raises(ValueError, match="Text 1 has 102 tokens, but at most 77 fit"):
        tokenizer(texts, strict=True, **options)
    tokenizer.strict = True
    with pytest.raises(ValueError, match="at most 9 fit"):
        tokenizer("a " * 100, max_length=9, **options)
    assert len(tokenizer(texts, strict=False, **options)["input_ids"][1]) == 77
    assert len(tokenizer("a " * 75)["input_ids"]) == 77


def test_a_length_that_leaves_no_room_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_length=1 leaves no room for 2 special tokens"):
        tokenizer("a", max_length=1)
    with pytest.raises(ValueError, match="max_length=3 leaves no room for 4 special tokens"):
        tokenizer("a", "b", max_length=3, truncation=True)
    assert tokenizer("a b", max_length=1, add_special_tokens=False)["input_ids"] == text_ids(tokenizer, "a")


# --------------------------------------------------------------------------------------------- saving and loading


def test_save_load_copy_and_pickle_keep_everything(trained, tmp_path):
    tokenizer = copy.deepcopy(trained)
    tokenizer.clean_text = False
    tokenizer.strict = True
    tokenizer.add_tokens(["<cat>"])
    tokenizer("warm the cache", return_offsets_mapping=True)
    tokenizer.save_pretrained(tmp_path)
    twins = [
        ClipHFTokenizer.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
        copy.copy(tokenizer),
        copy.deepcopy(tokenizer),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    for twin in twins:
        assert type(twin) is ClipHFTokenizer
        assert (twin.clean_text, twin.strict, twin.model_max_length, twin.is_fast) == (False, True, 77, True)
        assert twin.get_vocab() == tokenizer.get_vocab()
        assert twin("&amp; a <cat> ﬁ").data == tokenizer("&amp; a <cat> ﬁ").data
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["clean_text"], config["strict"], config["model_max_length"]) == (False, True, 77)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"] is None


def hub_folder(tokenizer, folder: Path, kind: str) -> Path:
    """A folder as the hub has them: as saved by transformers, by older versions of it, or without `tokenizer.json`."""
    folder.mkdir()
    vocab, merges = tokenizer.get_vocab(), merges_of(tokenizer)
    if kind == "today":
        CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(folder)
        return folder
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    special = {"bos_token": {"content": SOT, **token}, "eos_token": {"content": EOT, **token}, "pad_token": EOT}
    special["unk_token"] = special["eos_token"]
    config = {name: {"__type": "AddedToken", **value} for name, value in special.items() if name != "pad_token"}
    config |= {"pad_token": EOT, "add_prefix_space": False, "errors": "replace", "do_lower_case": True}
    config |= {"name_or_path": "./clip/", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    config |= {"special_tokens_map_file": "./special_tokens_map.json"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    if kind == "old":
        backend = json.loads(CLIPTokenizer(vocab=vocab, merges=merges).backend_tokenizer.to_str())
        backend["model"]["merges"] = [" ".join(merge) for merge in merges]
        backend["added_tokens"] = [
            {"id": vocab[SOT], "content": SOT, "special": True, **token},
            {"id": vocab[EOT], "content": EOT, "special": True, **token, "normalized": False},
        ]
        backend["truncation"] = {"max_length": 5, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
        padding = {"strategy": {"Fixed": 7}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1}
        backend["padding"] = {**padding, "pad_type_id": 0, "pad_token": "!"}
        (folder / "tokenizer.json").write_text(json.dumps(backend))
    return folder


@pytest.mark.parametrize("kind", ["today", "old", "vocab and merges"])
def test_repositories_of_the_hub_load_without_a_warning(tokenizer, tmp_path, log, recwarn, kind):
    loaded = ClipHFTokenizer.from_pretrained(hub_folder(tokenizer, tmp_path / "repo", kind))
    assert type(loaded) is ClipHFTokenizer
    assert (log.messages, [str(warning.message) for warning in recwarn]) == ([], [])
    texts = PLAIN + SPECIAL_CASES + [f"a {EOT}{SOT.upper()} b"]
    assert loaded(texts, padding=True).data == tokenizer(texts, padding=True).data
    assert (loaded.model_max_length, loaded.padding_side) == (77, "right")
    loaded.save_pretrained(tmp_path / "again")
    again = ClipHFTokenizer.from_pretrained(tmp_path / "again")
    assert again(texts, padding=True).data == tokenizer(texts, padding=True).data


def test_saved_vocabulary_and_merges_load(tokenizer, tmp_path):
    tokenizer.save_vocabulary(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    for loaded in (
        ClipHFTokenizer.from_pretrained(tmp_path),
        ClipHFTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")),
        ClipHFTokenizer.from_bpe_file(tmp_path / "merges.txt"),
    ):
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded.model_max_length == 77
        assert loaded(PLAIN).data == tokenizer(PLAIN).data


def test_the_files_of_a_saved_vocabulary_can_have_a_prefix(tokenizer, tmp_path):
    files = tokenizer.save_vocabulary(str(tmp_path), filename_prefix="mine")
    assert files == (str(tmp_path / "mine-vocab.json"), str(tmp_path / "mine-merges.txt"))
    assert ClipHFTokenizer(*files).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_without_vocabulary_or_merges_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="without a vocabulary.* from_bpe_file"):
        ClipHFTokenizer()
    tokenizer.save_vocabulary(str(tmp_path))
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ValueError, match="without merges"):
        ClipHFTokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnot a merge\n")
    with pytest.raises(ValueError, match="Cannot read"):
        ClipHFTokenizer.from_pretrained(tmp_path)


def test_special_tokens_can_have_other_names(corpus):
    tokenizer = ClipHFTokenizer.train(
        corpus, 600, bos_token="<s>", eos_token="</s>", unk_token="</s>", pad_token="</s>"
    )
    assert tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"]) == ["<s>", "a</w>", "</s>"]
    assert len(tokenizer) == 600


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (None, {}, ValueError, "specify either `text` or `text_target`"),
        (3, {}, TypeError, "`text` must be a string or a list of strings; given an int, 3"),
        (b"a", {}, TypeError, "given a bytes, b'a'"),
        ({"a": 1}, {}, TypeError, "given a dict"),
        (np.array(["a"]), {}, TypeError, "given a ndarray"),
        ([], {}, ValueError, "`text` is an empty list"),
        (["a", None], {}, TypeError, r"`text\[1\]` must be a string; given a NoneType"),
        (["a", 5.0], {}, TypeError, r"`text\[1\]` must be a string; given a float, 5.0"),
        ([["a", "b", "c"]], {}, ValueError, "list of 3, but .* inside a list must be a pair .* is_split_into_words"),
        ([["a"]], {}, ValueError, "list of 1, but .* inside a list"),
        ([("a", 1)], {}, TypeError, r"`text\[0\]\[1\]` must be a string"),
        (["a"], {"text_pair": [2]}, TypeError, r"`text_pair\[0\]` must be a string"),
        (["a"], {"text_pair": "b"}, TypeError, "must be a list or tuple with the same length"),
        ("a b", {"is_split_into_words": True}, TypeError, "must be a list of words; given 'a b'"),
        (["a", 1], {"is_split_into_words": True}, TypeError, r"`text\[1\]` must be a string"),
        ([["a"], "b"], {"is_split_into_words": True}, TypeError, r"`text\[1\]` must be a list of words"),
        ([["a", 1]], {"is_split_into_words": True}, TypeError, r"`text\[0\]\[1\]` must be a string"),
    ],
)
def test_bad_input_is_refused(tokenizer, text, options, error, message):
    with pytest.raises(error, match=message):
        tokenizer(text, **options)


def test_encode_refuses_bad_input(tokenizer):
    with pytest.raises(TypeError, match="given an int, 5"):
        tokenizer.encode(5)
