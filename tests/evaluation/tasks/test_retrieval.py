# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Ranks of retrieval against a plain float64 computation, near-ties and all; figures of the evaluation by hand."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

import clip_hf.evaluation.tasks.retrieval as retrieval
from clip_hf.data.skips import SkipCounter
from clip_hf.embedding.bulk_encoding import ReadableImages
from clip_hf.embedding.dual_encoder import DualEncoder
from clip_hf.evaluation.registry.evaluation_data import RetrievalData
from clip_hf.evaluation.tasks.retrieval import (
    RetrievalEvaluationOptions,
    RetrievalRanks,
    evaluate_retrieval,
    retrieval_ranks,
)
from tiny_models import CAPTIONS, make_tiny_model


# ----------------------------------------------------------------------------------------------------------- the ranks


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

    monkeypatch.setattr(retrieval._Ranking, "_count_in_tiles", count)
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
    side = retrieval._Side(images)
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
    together = retrieval._pair_scores(images, texts, rows, rows)
    one_by_one = [retrieval._pair_scores(images, texts, rows[row : row + 1], rows[row : row + 1])[0] for row in rows]
    swapped = retrieval._pair_scores(texts, images, rows, rows)
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(together, swapped)


def test_rows_that_only_share_a_hash_are_not_taken_for_equal(monkeypatch):
    factors = SimpleNamespace(integers=lambda *_, **__: np.full(48, 2**63 - 1, np.uint64))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: factors)
    rows = np.ones((3, 48), np.float32)
    rows[1, 0], rows[2, 1] = 2, 2  # the same sum of bits
    assert len(set(retrieval._identities(rows))) == 3


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
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(*change(*random_pairs()))


@pytest.mark.parametrize("shape", [(0, 5), (5,), (1.5, 2)])
def test_bad_blocks(shape):
    with pytest.raises(ValueError, match="block_shape"):
        retrieval_ranks(*random_pairs(), block_shape=shape)


# ------------------------------------------------------------------------------------------------------ the evaluation


class FixedEncoder(DualEncoder):
    """Gives each text the embedding that a table holds for it."""

    def __init__(self, texts: dict[str, list[float]]):
        self.texts, self.name, self.asked = texts, "fixed", []

    device = torch.device("cpu")

    def encode_texts(self, texts):
        self.asked += texts
        return torch.tensor([self.texts[text] for text in texts])

    _prepare = _image_tower = _scale_and_bias = _described_processor = _image_features = _text_batches = None


@pytest.fixture
def by_hand(monkeypatch):
    """Three images whose cosines with four captions are worked out below."""
    captions = [["a", "b"], ["c"], ["a"]]
    images = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
    found = ReadableImages(images, np.arange(3), SkipCounter())
    monkeypatch.setattr(retrieval, "encode_readable_images", lambda *_, **__: found)
    data = RetrievalData("pairs", datasets.Dataset.from_dict({"image": [0, 1, 2]}), "image", captions)
    # a: 1, 0, 0.6    b: 0.6, 0.8, 0.96    c: 0.8, 0.6, 0.96
    texts = {"a": [1.0, 0.0], "b": [0.6, 0.8], "c": [0.8, 0.6]}
    return data, texts


def test_figures_by_hand(by_hand):
    data, texts = by_hand
    encoder = FixedEncoder(texts)
    result = evaluate_retrieval(encoder, data, options=RetrievalEvaluationOptions(ks=(1, 2), resamples=50))
    assert encoder.asked == ["a", "b", "c"]  # each once
    # Image 0 finds a first. Image 1 finds b (0.8), then c. Image 2 finds b and c (0.96 each), then image 0's a (0.6)
    # before its own.
    assert result.image_to_text_ranks.tolist() == [0, 1, 3]
    # a finds image 0; b images 2, 1, 0; c images 2, 0, 1; the other a images 0, 2.
    assert result.text_to_image_ranks.tolist() == [0, 2, 2, 1]
    assert result.metrics() == pytest.approx(
        {
            "image_to_text_R@1": 1 / 3,
            "image_to_text_R@2": 2 / 3,
            "text_to_image_R@1": 1 / 4,
            "text_to_image_R@2": 2 / 4,
            "image_to_text_median_rank": 2,
            "text_to_image_median_rank": 2.5,
        }
    )
    assert (result.num_images, result.num_texts, result.num_different_texts) == (3, 4, 3)
    assert "1 text is the same as an earlier one" in result.details()
    # Of a random order: an image has 2, 1 and 1 of the 4 texts, a text 1 of the 3 images.
    chance = {"image_to_text_R@1": 1 / 3, "image_to_text_R@2": 11 / 18, "text_to_image_R@1": 1 / 3}
    assert result.chance == pytest.approx({**chance, "text_to_image_R@2": 2 / 3})
    assert "| image_to_text_R@1 | 33.33% | " in result.table() and "| 61.11% |" in result.table()


def test_template_goes_around_the_captions(by_hand):
    data, texts = by_hand
    encoder = FixedEncoder({f"a photo of {text}": row for text, row in texts.items()})
    result = evaluate_retrieval(encoder, data, options=RetrievalEvaluationOptions(template="a photo of {}"))
    assert encoder.asked[0] == "a photo of a"
    assert result.metrics()["image_to_text_R@1"] == pytest.approx(1 / 3)


def test_results_are_written(by_hand, tmp_path):
    data, texts = by_hand
    result = evaluate_retrieval(FixedEncoder(texts), data, options=RetrievalEvaluationOptions(resamples=20))
    paths = result.save(tmp_path)
    assert {path.name for path in paths} == {f"retrieval-pairs-test.{end}" for end in ("json", "md", "npz", "png")}
    written = json.loads((tmp_path / "retrieval-pairs-test.json").read_text())
    assert written["metrics"]["text_to_image_R@1"] == pytest.approx(1 / 4)
    assert "image_of_text" not in written["details"]
    assert np.load(tmp_path / "retrieval-pairs-test.npz")["text_to_image_ranks"].tolist() == [0, 2, 2, 1]
    assert "3 images, 4 texts" in (tmp_path / "retrieval-pairs-test.md").read_text()


def test_random_order_of_the_plot(by_hand):
    data, texts = by_hand
    result = evaluate_retrieval(FixedEncoder(texts), data, options=RetrievalEvaluationOptions(resamples=0))
    assert result.intervals() == {}
    # Of 4 texts, two are image 0's and one is each other's: first with 1/2, 1/4, 1/4; among two with 5/6, 1/2, 1/2.
    chance = retrieval._chance_of_images(np.arange(1, 5), result.image_of_text)
    assert chance == pytest.approx([1 / 3, 11 / 18, (1 + 3 / 4 + 3 / 4) / 3, 1])
    assert result.chance["image_to_text_R@10"] == result.chance["text_to_image_R@10"] == 1
    curves = {line.get_label(): line.get_xydata() for line in result.figure().axes[0].get_lines()}
    assert curves["text to image"].tolist() == [[1, 25], [2, 50], [3, 100]]
    assert curves["text to image, random order"][:, 1] == pytest.approx([100 / 3, 200 / 3, 100])


def test_intervals_resample_images_with_their_texts():
    # Half of the images have nine texts, all found or none, so that texts of an image go together.
    generator = np.random.default_rng(0)
    sizes = np.where(np.arange(200) % 2, 9, 1)
    owners = np.repeat(np.arange(200), sizes)
    found = generator.random(200) < 0.6
    ranks = RetrievalRanks(np.where(found, 0, 7), np.where(found[owners], 0, 30))
    options = RetrievalEvaluationOptions(ks=(1,), resamples=2000)
    intervals = retrieval._intervals(ranks, owners, options)
    low, high = intervals["text_to_image_R@1"]
    hits, total = found * sizes, sizes.sum()
    share = hits.sum() / total
    # The delta method's standard error of a ratio of sums over images.
    error = np.sqrt(((hits - share * sizes) ** 2).sum()) / total
    assert (low, high) == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=0.25 * error)
    assert (high - low) > 1.5 * 2 * 1.96 * np.sqrt(share * (1 - share) / total)  # wider than if texts were drawn
    low, high = intervals["image_to_text_R@1"]
    error = np.sqrt(found.mean() * (1 - found.mean()) / 200)
    assert (low, high) == pytest.approx((found.mean() - 1.96 * error, found.mean() + 1.96 * error), abs=0.25 * error)
    assert intervals["text_to_image_median_rank"][0] == 1
    assert retrieval._intervals(ranks, owners, options) == intervals


def test_intervals_of_the_median_are_those_of_resampled_medians():
    generator = np.random.default_rng(1)
    owners = np.repeat(np.arange(30), generator.integers(1, 4, size=30))
    ranks = RetrievalRanks(generator.integers(50, size=30), generator.integers(50, size=len(owners)))
    options = RetrievalEvaluationOptions(ks=(1,), resamples=40, seed=3)
    generator = np.random.default_rng(3)
    medians = []
    for _ in range(40):
        drawn = generator.integers(30, size=30)
        medians.append(np.median(np.concatenate([ranks.text_to_image[owners == image] for image in drawn])) + 1)
    expected = np.quantile(medians, [0.025, 0.975])
    found = retrieval._intervals(ranks, owners, options)["text_to_image_median_rank"]
    assert found == pytest.approx(tuple(expected))


def test_tiny_model_on_a_dataset(images, tiny_processor):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    rows = {"image": images, "caption": [[caption, f"{caption}!"] for caption in CAPTIONS]}
    data = datasets.Dataset.from_dict(rows, features=features)
    model = make_tiny_model("vit")
    options = RetrievalEvaluationOptions(resamples=20)
    result = evaluate_retrieval(model, data, processor=tiny_processor, options=options)
    with torch.no_grad():
        image_embeds = model.encode_image(tiny_processor(images=images, return_tensors="pt")["pixel_values"])
        texts = [text for captions in rows["caption"] for text in captions]
        inputs = tiny_processor(text=texts, return_tensors="pt", padding=True)
        text_embeds = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    expected = plain_ranks(image_embeds, text_embeds, np.repeat(np.arange(5), 2))
    assert result.image_to_text_ranks.tolist() == expected[0].tolist()
    assert result.text_to_image_ranks.tolist() == expected[1].tolist()
    assert result.metrics()["image_to_text_R@10"] == 1


def test_images_without_caption_are_named(by_hand):
    data, texts = by_hand
    data.captions[1] = []
    with pytest.raises(ValueError, match="images in row 1 of pairs have no caption"):
        evaluate_retrieval(FixedEncoder(texts), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "a photo"}, "template.*must hold {} once"),
        ({"template": "{} {}"}, "template.*must hold {} once"),
        ({"ks": ()}, "ks"),
        ({"ks": (0,)}, "ks"),
        ({"resamples": -1}, "resamples"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        RetrievalEvaluationOptions(**options)
