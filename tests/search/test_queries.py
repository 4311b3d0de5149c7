# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Queries: which terms a command line has, and their weighted sum."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import QueryTerm, encode_query, parse_query
from clip_hf.search.queries import combine_terms
from drawings import draw
from tiny_models import make_tiny_model


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """The working folder, with `dog.png`, `a - b.png` and `notes.txt`."""
    for name in ("dog.png", "a - b.png"):
        draw("red", "cross").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("a text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tiny_processor):
    return load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


def text(words: str, weight: float = 1.0) -> QueryTerm:
    return QueryTerm(weight, text=words)


DOG = Path("dog.png")


@pytest.mark.parametrize(
    ("tokens", "terms"),
    [
        (["a beach"], [text("a beach")]),
        (["a", "dog", "on", "a", "beach"], [text("a dog on a beach")]),
        (
            ["a beach", "+", "dog.png", "-", "0.5*people"],
            [text("a beach"), QueryTerm(1, image=DOG), text("people", -0.5)],
        ),
        (["a beach", "+ dog.png", "- people"], [text("a beach"), QueryTerm(1, image=DOG), text("people", -1)]),
        (["-0.5*people", "+2*a", "beach"], [text("people", -0.5), text("a beach", 2)]),
        (["-", "people", "+", "a", "beach"], [text("people", -1), text("a beach")]),
        ([".5*dog.png"], [QueryTerm(0.5, image=DOG)]),
        (["./dog.png"], [QueryTerm(1, image=Path("./dog.png"))]),
        # Quoted or not, a sign between blanks joins terms.
        (["a beach - people + 2*dog.png"], [text("a beach"), text("people", -1), QueryTerm(2, image=DOG)]),
        (["a beach", "- 0.5 * people"], [text("a beach"), text("people", -0.5)]),
        (["1e3*cat"], [text("cat", 1000)]),
        (["a", "\u2013", "b", "\u2014", "c", "\u2212", "d"], [text("a"), text("b", -1), text("c", -1), text("d", -1)]),
        (["./a - b.png"], [QueryTerm(1, image=Path("a - b.png"))]),
        (["- a - b.png", "+", "a"], [QueryTerm(-1, image=Path("a - b.png")), text("a")]),
        (["./notes.txt"], [QueryTerm(1, image=Path("notes.txt"))]),  # opening it says that it is no picture
        # Texts, though something in them looks like a sign, a weight, or a picture.
        (["semi-dry", "3", "*", "4"], [text("semi-dry 3 * 4")]),
        (["a", "b*c"], [text("a b*c")]),
        (["the", "cat.png"], [text("the cat.png")]),
        (["notes.txt"], [text("notes.txt")]),
        (["a", "+1"], [text("a +1")]),
    ],
)
def test_the_terms_of_a_command_line(tokens, terms, photos):
    assert parse_query(tokens) == terms


def test_a_picture_in_the_home_folder(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    assert parse_query(["~/dog.png"]) == [QueryTerm(1, image=photos / "dog.png")]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "The query is empty"),
        ([""], "blank"),
        (["  "], "blank"),
        (["0.5*"], "blank"),
        (["\udcff"], "not UTF-8"),
        (["-", "people"], "only terms with a minus"),
        (["- people", "- dogs"], "only terms with a minus"),
        (["0*people"], "weight 0"),
        (["9" * 400 + "*people"], "a finite number other than 0"),
        (["nan*people"], "weight nan must be a finite number"),
        (["0.5", "*", "people"], "needs quotes"),
        (["0,5*people"], "weight 0,5 is no number"),
        (["50%*people"], "weight 50% is no number"),
        (["a", "+dog"], "'\\+dog' begins with a sign: put a blank behind it"),
        (["a", "-dog"], "'-dog' begins with a sign"),
        (["like", "file:///x/dog.png"], "URL file://"),
        (["data:image/png;base64,xx"], "URL"),
        (["+"], r"ends with '\+'"),
        (["a", "-"], "ends with '-'"),
        (["a", "+", "-", "b"], r"'\+' right before '-'"),
        (["a", "dog.png"], "dog.png stands beside words"),
        (["dog.png", "dog.png"], "dog.png stands beside words"),
        (["https://example.org/dog.png"], "URL"),
    ],
)
def test_no_query(tokens, message, photos):
    with pytest.raises(ValueError, match=message):
        parse_query(tokens)


@pytest.mark.parametrize(
    "token",
    [
        "./cat.png",
        "/nowhere/cat.jpg",
        "~/cat.webp",
        "../cat.PNG",
        "cat.png",
        "sub/cat.jpg",
        "./notes",
        "~nobody/dog.png",
    ],
)
def test_a_picture_that_is_missing_is_no_text(token, photos):
    with pytest.raises(FileNotFoundError, match="is not there"):
        parse_query([token])


def test_a_missing_picture_is_proposed_from_here_and_from_the_source(photos):
    (photos / "album").mkdir()
    shutil.copy("dog.png", "album/cat.png")
    with pytest.raises(FileNotFoundError, match=r"dgo.png is not there. Did you mean dog.png\?"):
        parse_query(["dgo.png"])
    with pytest.raises(FileNotFoundError, match=r"Did you mean album/cat.png\?"):
        parse_query(["cat.png"], "album")
    with pytest.raises(FileNotFoundError, match="./album is a folder"):
        parse_query(["./album"])


def test_a_term_is_a_text_or_an_image():
    with pytest.raises(ValueError, match="one of the two"):
        QueryTerm(1.0)
    with pytest.raises(ValueError, match="one of the two"):
        QueryTerm(1.0, text="a", image="b.png")
    with pytest.raises(TypeError, match="must be a string"):
        QueryTerm(1.0, text=3)


def test_the_sum_is_of_unit_vectors_with_their_weights(encoder, photos):
    terms = parse_query(["a red cross", "+", "2*dog.png", "-", "0.5*people"])
    texts = encoder.encode_texts(["a red cross", "people"]).double()
    image = encoder.encode_images([draw("red", "cross")]).double()
    expected = texts[0] + 2 * image[0] - 0.5 * texts[1]
    found = encode_query(encoder, terms)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (expected / expected.norm()).numpy(), atol=1e-6)


def test_all_texts_pass_the_model_at_once(encoder, monkeypatch):
    calls = []
    encode = encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: calls.append(texts) or encode(texts))
    encode_query(encoder, [text("a"), text("b", 0.5), text("c", -0.1)])
    assert [each for each in calls if each != ["a photo of a cat"]] == [["a", "b", "c"]]


def test_terms_that_cancel(encoder):
    with pytest.raises(ValueError, match="cancel"):
        encode_query(encoder, [text("a dog"), text("a dog", -1)])


def test_a_large_weight_does_not_drown_in_rounding():
    rows = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1).numpy()
    for weight in (1e6, 1e308, 1e-300):
        np.testing.assert_allclose(combine_terms([weight, weight], rows), combine_terms([1, 1], rows), atol=1e-6)


def test_a_query_of_the_library_is_checked_too(encoder):
    with pytest.raises(ValueError, match="only terms with a minus"):
        encode_query(encoder, [text("a", -1)])
    with pytest.raises(ValueError, match="no terms"):
        encode_query(encoder, [])


def test_a_query_image_that_cannot_be_read(encoder, photos):
    (photos / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="Image 0"):
        encode_query(encoder, parse_query(["bad.png"]))
