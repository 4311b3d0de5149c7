# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of retrieval by hand, their intervals and what a random order gives."""

import json

import datasets
import numpy as np
import pytest
import torch

import clip_hf.evaluation.tasks.retrieval as retrieval
from clip_hf.data.skips import SkipCounter
from clip_hf.embedding.bulk_encoding import ReadableImages
from clip_hf.embedding.dual_encoder import DualEncoder
from clip_hf.evaluation.numerics.ranking import RetrievalRanks
from clip_hf.evaluation.registry.evaluation_data import RetrievalData
from clip_hf.evaluation.tasks.retrieval import RetrievalOptions, evaluate_retrieval
from tiny_models import CAPTIONS, make_tiny_model


# ------------------------------------------------------------------------------------------------------ the evaluation


class FixedEncoder(DualEncoder):
    """Gives each text the embedding that a table holds for it."""

    def __init__(self, texts: dict[str, list[float]]):
        super().__init__(torch.nn.Linear(1, 1), None, "fixed")
        self.texts, self.asked = texts, []

    device = torch.device("cpu")

    def encode_texts(self, texts):
        self.asked += texts
        return torch.tensor([self.texts[text] for text in texts])

    _prepare = _image_tower = _scale_and_bias = _described_processor = _image_features = _text_batches = _token_ids = (
        None
    )


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
    result = evaluate_retrieval(encoder, data, options=RetrievalOptions(ks=(1, 2), resamples=50))
    assert encoder.asked == ["a", "b", "c"]  # each once
    # Image 0 finds a first. Image 1 finds b (0.8), then c. Image 2 finds b and c (0.96 each), then a (0.6).
    assert result.image_to_text_ranks.tolist() == [0, 1, 2]
    # a finds image 0, which is right for the other a too; b finds images 2, 1, 0; c images 2, 0, 1.
    assert result.text_to_image_ranks.tolist() == [0, 2, 2, 0]
    assert result.metrics == pytest.approx(
        {
            "image_to_text_R@1": 1 / 3,
            "image_to_text_R@2": 2 / 3,
            "text_to_image_R@1": 2 / 4,
            "text_to_image_R@2": 2 / 4,
            "image_to_text_median_rank": 2,
            "text_to_image_median_rank": 2,
        }
    )
    assert (result.num_images, result.num_texts, result.num_different_texts) == (3, 4, 3)
    assert "1 caption repeats an earlier one" in result.details()
    # A random order: an image has 2, 1 and 1 of the 3 texts; each a is right for 2 of the 3 images, b and c for 1.
    chance = {"image_to_text_R@1": 4 / 9, "image_to_text_R@2": 7 / 9, "text_to_image_R@1": 1 / 2}
    assert result.chance == pytest.approx({**chance, "text_to_image_R@2": 5 / 6})
    assert "| image_to_text_R@1 | 33.33% | " in result.table() and "| 77.78% |" in result.table()


def test_template_goes_around_the_captions(by_hand):
    data, texts = by_hand
    encoder = FixedEncoder({f"a photo of {text}": row for text, row in texts.items()})
    result = evaluate_retrieval(encoder, data, options=RetrievalOptions(template="a photo of {}"))
    assert encoder.asked[0] == "a photo of a"
    assert result.metrics["image_to_text_R@1"] == pytest.approx(1 / 3)


def test_results_are_written(by_hand, tmp_path):
    data, texts = by_hand
    result = evaluate_retrieval(FixedEncoder(texts), data, options=RetrievalOptions(resamples=20))
    paths = result.save(tmp_path)
    assert {path.name for path in paths} == {f"retrieval-pairs-test.{end}" for end in ("json", "md", "npz", "png")}
    written = json.loads((tmp_path / "retrieval-pairs-test.json").read_text())
    assert written["metrics"]["text_to_image_R@1"] == pytest.approx(2 / 4)
    assert "image_of_text" not in written["details"]
    assert np.load(tmp_path / "retrieval-pairs-test.npz")["text_to_image_ranks"].tolist() == [0, 2, 2, 0]
    assert "3 images, 4 captions" in (tmp_path / "retrieval-pairs-test.md").read_text()


def test_random_order_of_the_plot(by_hand):
    data, texts = by_hand
    result = evaluate_retrieval(FixedEncoder(texts), data, options=RetrievalOptions(resamples=0))
    assert result.intervals == {}
    # Of 3 texts, two are image 0's and one is each other's: first with 2/3, 1/3, 1/3; among two with 1, 2/3, 2/3.
    counts = retrieval._right_counts(result.image_of_text, result.text_ids)
    assert retrieval.random_order_recalls(*counts["image_to_text"], 9) == pytest.approx([4 / 9, 7 / 9, 1])
    assert result.chance["image_to_text_R@10"] == result.chance["text_to_image_R@10"] == 1
    curves = {line.get_label(): line.get_xydata() for line in result.figure().axes[0].get_lines()}
    assert curves["text to image"].tolist() == [[1, 50], [2, 50], [3, 100]]
    assert curves["text to image, random order"][:, 1] == pytest.approx([50, 250 / 3, 100])


def test_random_order_where_an_image_has_a_caption_twice():
    # Image 0 has "x" twice, which is one candidate of 2.
    counts = retrieval._right_counts(np.array([0, 0, 1]), np.array([0, 0, 1]))
    assert retrieval.random_order_recalls(*counts["image_to_text"], 1) == pytest.approx([1 / 2])
    assert counts["text_to_image"][0].tolist() == [1, 1, 1]


def test_intervals_resample_images_with_their_texts():
    # Half of the images have nine texts, all found or none, so that texts of an image go together.
    generator = np.random.default_rng(0)
    sizes = np.where(np.arange(200) % 2, 9, 1)
    owners = np.repeat(np.arange(200), sizes)
    found = generator.random(200) < 0.6
    ranks = RetrievalRanks(np.where(found, 0, 7), np.where(found[owners], 0, 30))
    options = RetrievalOptions(ks=(1,), resamples=2000)
    intervals = retrieval._intervals(ranks, owners, np.arange(len(owners)), options)
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
    assert retrieval._intervals(ranks, owners, np.arange(len(owners)), options) == intervals


def test_images_that_share_a_text_directly_or_through_others_are_one_cluster():
    owners, texts = np.array([0, 0, 1, 1, 2, 3, 4]), np.array([0, 1, 1, 2, 2, 3, 4])
    assert retrieval.images_sharing_texts(owners, texts).tolist() == [0, 0, 0, 1, 2]
    assert retrieval.images_sharing_texts(np.array([0, 0, 1]), np.array([0, 0, 1])) is None
    assert retrieval.images_sharing_texts(np.array([0, 1, 2, 0]), np.array([3, 0, 1, 1])).tolist() == [0, 1, 0]


def test_images_of_one_text_are_drawn_together():
    """Of 20 texts with ten images each, some are found: 20 texts are 20 observations, not 200."""
    text_ids = np.repeat(np.arange(20), 10)
    found = text_ids % 3 > 0
    ranks = RetrievalRanks(np.where(found, 0, 7), np.where(found, 0, 30))
    options = RetrievalOptions(ks=(1,), resamples=2000)
    intervals = retrieval._intervals(ranks, np.arange(200), text_ids, options)
    share = found.mean()
    for name, observations in (("text_to_image_R@1", 20), ("image_to_text_R@1", 200)):
        error = np.sqrt(share * (1 - share) / observations)
        assert intervals[name] == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=0.3 * error)


def test_intervals_of_the_median_are_those_of_resampled_medians():
    generator = np.random.default_rng(1)
    owners = np.repeat(np.arange(30), generator.integers(1, 4, size=30))
    ranks = RetrievalRanks(generator.integers(50, size=30), generator.integers(50, size=len(owners)))
    options = RetrievalOptions(ks=(1,), resamples=40, seed=3)
    generator = np.random.default_rng(3)
    medians = []
    for _ in range(40):
        drawn = generator.integers(30, size=30)
        medians.append(np.median(np.concatenate([ranks.text_to_image[owners == image] for image in drawn])) + 1)
    expected = np.quantile(medians, [0.025, 0.975])
    found = retrieval._intervals(ranks, owners, np.arange(len(owners)), options)["text_to_image_median_rank"]
    assert found == pytest.approx(tuple(expected))


def test_tiny_model_on_a_dataset(images, tiny_processor):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    rows = {"image": images, "caption": [[caption, f"{caption}!"] for caption in CAPTIONS]}
    data = datasets.Dataset.from_dict(rows, features=features)
    model = make_tiny_model("vit")
    options = RetrievalOptions(resamples=20)
    result = evaluate_retrieval(model, data, processor=tiny_processor, options=options)
    with torch.no_grad():
        image_embeds = model.encode_image(tiny_processor(images=images, return_tensors="pt")["pixel_values"])
        texts = [text for captions in rows["caption"] for text in captions]
        inputs = tiny_processor(text=texts, return_tensors="pt", padding=True)
        text_embeds = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    order = (image_embeds @ text_embeds.T).argsort(dim=1, descending=True)
    assert result.image_to_text_ranks.tolist() == [(row // 2).tolist().index(image) for image, row in enumerate(order)]
    order = (text_embeds @ image_embeds.T).argsort(dim=1, descending=True)
    assert result.text_to_image_ranks.tolist() == [row.tolist().index(text // 2) for text, row in enumerate(order)]
    assert result.metrics["image_to_text_R@10"] == 1


def test_images_without_caption_are_named(by_hand):
    data, texts = by_hand
    data.captions[1] = []
    with pytest.raises(ValueError, match="Images of pairs have no caption, in rows 1"):
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
        RetrievalOptions(**options)
