# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Ranks of retrieval against a plain float64 computation: near-ties, equal texts, any blocks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clip_hf.evaluation.numerics.ranking as ranking
from clip_hf.evaluation import RetrievalRanks, caption_ids, retrieval_ranks


def plain_ranks(images, texts, image_of_text):
    """The definition, query by query, with a stable sort of float64 scores."""
    images, texts = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    scores = np.stack([(row * texts).sum(axis=1) for row in images])
    orders = np.argsort(-scores, axis=1, kind="stable"), np.argsort(-scores, axis=0, kind="stable")
    to_text = [np.flatnonzero(image_of_text[order] == row)[0] for row, order in enumerate(orders[0])]
    to_image = [np.flatnonzero(order == owner)[0] for order, owner in zip(orders[1].T, image_of_text, strict=True)]
    return np.array(to_text), np.array(to_image)


def normalised(array, dtype=np.float32):
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(dtype)


def random_pairs(num_images=150, num_texts=600, dim=48, noise=5.0, dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    owners = np.concatenate([np.arange(num_images), generator.integers(num_images, size=num_texts - num_images)])
    generator.shuffle(owners)
    images = generator.normal(size=(num_images, dim))
    texts = images[owners] + noise * generator.normal(size=(num_texts, dim))
    return normalised(images, dtype), normalised(texts, dtype), owners


def near_ties(images, texts, owners):
    """Scores that differ by less than float32 tells, in both directions."""
    generator = np.random.default_rng(1)
    images[:] = images[0] + 1e-7 * generator.normal(size=images.shape)
    texts[:] = texts[0] + 1e-7 * generator.normal(size=texts.shape)
    return images, texts, owners


def near_ties_of_float64(images, texts, owners):
    """Differences below float32's in float64 embeddings: as float32 they are the same."""
    images, texts, owners = near_ties(images, texts, owners)
    generator = np.random.default_rng(2)
    images = np.float64(images[:1]) + 1e-11 * generator.normal(size=images.shape)
    return images, np.float64(texts[:1]) + 1e-11 * generator.normal(size=texts.shape), owners


def duplicates(images, texts, owners):
    """Every image four times, every text twice: ties between what is the same."""
    images[:] = images[np.arange(len(images)) // 4]
    texts[:] = texts[np.arange(len(texts)) // 2]
    return images, texts, owners


def all_equal(images, texts, owners):
    images[:], texts[:] = images[0], texts[0]
    return images, texts, owners


def signs(images, texts, owners):
    """Only a few different scores: ties between what is not the same."""
    return np.sign(images), np.sign(texts), owners


def unlike_norms(images, texts, owners):
    generator = np.random.default_rng(3)
    powers = [np.exp2(generator.integers(-25, 25, size=(len(rows), 1))) for rows in (images, texts)]
    return (images * powers[0]).astype(np.float32), (texts * powers[1]).astype(np.float32), owners


def huge(images, texts, owners):
    """Products that overflow in float32, or in float64."""
    return images.astype(np.float64) * 1e200, texts * np.float32(1e30), owners


def minute(images, texts, owners):
    """Products that vanish in float32."""
    return images * np.float32(1e-30), texts * np.float32(1e-30), owners


CASES = [near_ties, near_ties_of_float64, duplicates, all_equal, signs, unlike_norms, huge, minute]


def assert_same_ranks(found: RetrievalRanks, images, texts, owners):
    expected = plain_ranks(images, texts, owners)
    np.testing.assert_array_equal(found.image_to_text, expected[0])
    np.testing.assert_array_equal(found.text_to_image, expected[1])


def test_worked_example_of_the_docstring():
    found = retrieval_ranks([[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.6], [0.6, 0.8], [0.9, 0.1]], [0, 0, 1])
    assert found.image_to_text.tolist() == [1, 2]
    assert found.text_to_image.tolist() == [0, 1, 1]
    assert found.image_to_text.dtype == found.text_to_image.dtype == np.int64


@pytest.mark.parametrize("noise", [0.5, 5.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_embeddings(noise, dtype):
    pairs = random_pairs(noise=noise, dtype=dtype)
    assert_same_ranks(retrieval_ranks(*pairs), *pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_adversarial_embeddings(case):
    pairs = case(*random_pairs(seed=4))
    assert_same_ranks(retrieval_ranks(*pairs), *pairs)


@pytest.mark.parametrize("case", [duplicates, signs, near_ties], ids=lambda case: case.__name__)
@pytest.mark.parametrize("shape", [(1, 1000), (1000, 7), (37, 53), (300, 2500)])
def test_any_blocks(case, shape, monkeypatch):
    pairs = case(*random_pairs(40, 2100, dim=16))
    found = retrieval_ranks(*pairs, block_shape=shape)
    assert_same_ranks(found, *pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_blocks_as_tensors(case, monkeypatch):
    # What an accelerator does, on the CPU.
    def count(self, scores, rows, columns, threads):
        self._add(self._count(torch.from_numpy(scores), rows, columns), rows, columns)

    monkeypatch.setattr(ranking._Ranking, "_count_in_tiles", count)
    pairs = case(*random_pairs(60, 250, seed=5))
    assert_same_ranks(retrieval_ranks(*pairs, block_shape=(33, 100)), *pairs)


def test_rounding_in_float32_would_change_ranks():
    # The near-ties above are ones: without float64 the ranks are others.
    images, texts, owners = near_ties(*random_pairs())
    scores = images @ texts.T
    order = np.argsort(-scores, axis=0, kind="stable")
    rounded = [np.flatnonzero(column == owner)[0] for column, owner in zip(order.T, owners, strict=True)]
    assert (plain_ranks(images, texts, owners)[1] != rounded).mean() > 0.1


@pytest.mark.parametrize("adversary", ["cancelling", "random"])
def test_the_bound_holds_the_error_of_float32(adversary):
    generator = np.random.default_rng(6)
    images, texts = generator.normal(size=(2, 64, 512))
    if adversary == "cancelling":
        # Large terms that cancel leave the largest errors.
        images[:, 1::2], texts[:, 1::2] = images[:, ::2], -texts[:, ::2] + 1e-4 * generator.normal(size=(64, 256))
    images, texts = normalised(images), normalised(texts)
    exact = images.astype(np.float64) @ texts.T.astype(np.float64)
    side = ranking._Side(images)
    for text in range(len(texts)):
        side.right_scores = exact[:, text]
        low, high = side.bounds(slice(None), 1.0, np.dtype(np.float32))
        one_by_one = np.zeros(len(images), np.float32)
        for column in range(512):
            one_by_one += images[:, column] * texts[text, column]
        for found in (one_by_one, images @ texts[text]):
            assert ((low <= found) & (found <= high)).all()
    assert (high - low).max() < 1e-4


def test_few_scores_are_recomputed():
    pairs = random_pairs(400, 2000, dim=512, noise=1e6)
    found = retrieval_ranks(*pairs)
    assert 0 < found.recomputed < 0.002 * 400 * 2000
    assert retrieval_ranks(*random_pairs(400, 2000, dim=512, noise=1.0)).recomputed < 20


def test_equal_embeddings_are_not_computed_one_by_one():
    assert retrieval_ranks(*all_equal(*random_pairs())).recomputed == 0


def test_scores_do_not_depend_on_how_many_are_computed():
    images, texts, _ = random_pairs(noise=1e6)
    rows = np.arange(len(images))
    together = ranking._pair_scores(images, texts, rows, rows)
    one_by_one = [ranking._pair_scores(images, texts, rows[row : row + 1], rows[row : row + 1])[0] for row in rows]
    swapped = ranking._pair_scores(texts, images, rows, rows)
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(together, swapped)


def test_rows_that_only_share_a_hash_are_not_taken_for_equal(monkeypatch):
    factors = SimpleNamespace(integers=lambda *_, **__: np.full(48, 2**63 - 1, np.uint64))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: factors)
    rows = np.ones((3, 48), np.float32)
    rows[1, 0], rows[2, 1] = 2, 2  # the same sum of bits
    assert len(set(ranking._identities(rows))) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors(dtype):
    images, texts, owners = random_pairs()
    images, texts = torch.from_numpy(images).to(dtype).requires_grad_(), torch.from_numpy(texts).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = retrieval_ranks(images, texts, torch.from_numpy(owners))
    assert_same_ranks(found, images.detach().double().numpy(), texts.double().numpy(), owners)


def test_read_only_arrays_are_taken_without_a_warning(recwarn):
    pairs = random_pairs()
    for array in pairs:
        array.flags.writeable = False
    assert_same_ranks(retrieval_ranks(*pairs), *pairs)
    assert not recwarn.list


def test_products_less_exact_than_float32_are_noticed(monkeypatch):
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda left, right: product(left.bfloat16(), right.bfloat16()).float()
    )
    with pytest.raises(RuntimeError, match="less exact than float32.*set_float32_matmul_precision"):
        retrieval_ranks(*random_pairs())


def with_value(array, row, value):
    array = np.array(array, copy=True)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, t, o: (with_value(i, 7, np.nan), t, o), "image_embeds.*NaN or infinite.*row 7"),
        (lambda i, t, o: (i, with_value(t, (9, 1), np.inf), o), "text_embeds.*NaN or infinite.*row 9"),
        (lambda i, t, o: (i, with_value(t, (9, 1), -np.inf), o), "text_embeds.*NaN or infinite.*row 9"),
        (lambda i, t, o: (with_value(i, [3, 5], 0), t, o), "image_embeds.*zeros in rows 3, 5"),
        (lambda i, t, o: (i[:, :-1], t, o), "47 columns.*48"),
        (lambda i, t, o: (i[0], t, o), r"image_embeds.*shape \(48,\)"),
        (lambda i, t, o: (i, t[:0], o[:0]), r"text_embeds.*shape \(0, 48\)"),
        (lambda i, t, o: (i, t.astype(complex), o), "text_embeds.*complex"),
        (lambda i, t, o: (i, t, o[:-1]), r"image_of_text.*shape \(599,\).*600"),
        (lambda i, t, o: (i, t, o.astype(float)), "image_of_text.*float64"),
        (lambda i, t, o: (i, t, with_value(o, 11, -1)), "no image for the texts in row 11: -1"),
        (lambda i, t, o: (i, t, with_value(o, 12, 150)), "no image for the texts in row 12: 150 is not from 0 to 149"),
        (lambda i, t, o: (i, t, np.where(np.isin(o, [4, 8]), 5, o)), "images in rows 4, 8 have no text"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        retrieval_ranks(*change(*random_pairs()))


def test_bad_ids():
    images, texts, owners = random_pairs()
    with pytest.raises(ValueError, match=r"text_ids.*shape \(599,\).*600 texts"):
        retrieval_ranks(images, texts, owners, text_ids=owners[:-1])


@pytest.mark.parametrize("shape", [(0, 5), (5,), (1.5, 2)])
def test_bad_blocks(shape):
    with pytest.raises(ValueError, match="block_shape"):
        retrieval_ranks(*random_pairs(), block_shape=shape)


# --------------------------------------------------------------------------------------------------------- equal texts


def test_caption_ids():
    assert caption_ids(["a dog", "a cat", "A dog ", "a cat", "a  dog"]).tolist() == [0, 1, 0, 1, 2]


def plain_ranks_of_equal_texts(images, texts, image_of_text, ids):
    """Query by query: of equal texts only the first is a candidate; every image with one of them is right."""
    firsts = [row for row in range(len(ids)) if ids[row] not in ids[:row]]
    scores = np.stack([(np.float64(row) * np.float64(texts[firsts])).sum(axis=1) for row in images])
    right = {(image, number) for image, number in zip(image_of_text.tolist(), ids)}
    candidates = [ids[row] for row in firsts]
    to_text = [
        min(
            place
            for place, column in enumerate(np.argsort(-row, kind="stable"))
            if (image, candidates[column]) in right
        )
        for image, row in enumerate(scores)
    ]
    to_image = [
        min(
            place
            for place, image in enumerate(np.argsort(-scores[:, candidates.index(number)], kind="stable"))
            if (image, number) in right
        )
        for number in ids
    ]
    return to_text, to_image


@pytest.mark.parametrize("case", [None, near_ties, duplicates, signs], ids=lambda case: getattr(case, "__name__", ""))
def test_equal_texts_are_one_candidate_and_right_for_each_of_their_images(case):
    pairs = random_pairs(40, 150, dim=16, noise=2.0)
    images, texts, owners = case(*pairs) if case else pairs
    ids = np.random.default_rng(8).integers(60, size=150).tolist()
    found = retrieval_ranks(images, texts, owners, text_ids=ids, block_shape=(7, 11))
    to_text, to_image = plain_ranks_of_equal_texts(images, texts, owners, ids)
    assert found.image_to_text.tolist() == to_text and found.text_to_image.tolist() == to_image


def test_equal_texts_by_hand():
    # Two images share the caption 7. The scores with 7 and 5 are (0, 1), (1, 0), (0.6, 0.8).
    images, texts = [[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    found = retrieval_ranks(images, texts, [0, 2, 1], text_ids=[7, 5, 7])
    assert found.image_to_text.tolist() == [1, 0, 0]
    # Either 7 finds image 1 first, which is right for both; 5 finds image 0 before image 2.
    assert found.text_to_image.tolist() == [0, 1, 0]
