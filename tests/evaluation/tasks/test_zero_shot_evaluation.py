# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot classification: figures by hand, prompts, intervals, and what cannot be evaluated."""

import json

import datasets
import numpy as np
import pytest
import torch

from clip_hf import build_text_classifier
from clip_hf.embedding.dual_encoder import DualEncoder
from clip_hf.embedding.encoding_options import EncodingOptions
from clip_hf.embedding.load_encoder import load_dual_encoder
from clip_hf.evaluation.registry.evaluation_data import ClassificationData, ClassificationOptions, load_classification
from clip_hf.evaluation.tasks import zero_shot
from clip_hf.evaluation.tasks.zero_shot import (
    EqualClassesWarning,
    ZeroShotOptions,
    class_embeddings,
    class_notes,
    evaluate_zero_shot,
)
from pair_data import encoded, image_of
from tiny_models import make_tiny_model


NAMES = ["cat", "dog", "bird", "map", "horse", "fish"]
TEMPLATES = ("a photo of a {}.", "a drawing of a {}.", "the {}")
QUIET = EncodingOptions(progress=False)


def data_of(labels: list, names: list[str] = NAMES, metric: str = "top1", templates=TEMPLATES) -> ClassificationData:
    """Images that all differ, with these labels: numbers, or lists of numbers."""
    label = datasets.ClassLabel(
        names=list(dict.fromkeys(names)) if len(set(names)) == len(names) else None, num_classes=len(names)
    )
    if len(set(names)) < len(names):
        label = datasets.Value("int64")
    feature = datasets.List(label) if isinstance(labels[0], list) else label
    features = datasets.Features({"image": datasets.Image(decode=False), "label": feature})
    images = [{"bytes": encoded(image_of(number)), "path": None} for number in range(len(labels))]
    data = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    return ClassificationData("shapes", data, "image", "label", list(names), templates, metric, "test", "memory")


class Planted(DualEncoder):
    """Gives the embeddings it is told: of images by their place, of texts by what they say."""

    def __init__(self, images: np.ndarray, texts: dict[str, np.ndarray]):
        super().__init__(torch.nn.Linear(1, 1), None, "planted")
        self.images, self.texts, self.encoded = images, texts, []

    def _prepare(self, images):
        return {"numbers": torch.tensor([_number(image) for image in images])}

    def _image_features(self, inputs, projected):
        return torch.tensor(self.images[inputs["numbers"].numpy()])

    def _text_batches(self, texts):
        self.encoded += texts
        rows = np.stack([next(own for name, own in self.texts.items() if name in text) for text in texts])
        yield list(range(len(texts))), torch.tensor(rows)

    def _token_ids(self, texts):
        return [tuple(map(ord, text.lower())) for text in texts]

    def _scale_and_bias(self):
        return 1.0, 0.0

    def _described_processor(self):
        return None


def _number(image) -> int:
    pixels = np.asarray(image)
    return next(number for number in range(100) if np.array_equal(np.asarray(image_of(number)), pixels))


@pytest.fixture
def planted() -> tuple[Planted, ClassificationData]:
    """Six images of three classes; two are nearer to another class than their own."""
    axes = np.eye(3)
    images = np.stack([axes[0], axes[0], axes[1], axes[1] + 2 * axes[2], axes[2], axes[2] + 2 * axes[0]])
    encoder = Planted(images, {"cat": axes[0], "dog": axes[1], "bird": axes[2]})
    return encoder, data_of([0, 0, 1, 1, 2, 2], NAMES[:3])


def test_figures_by_hand(planted):
    result = evaluate_zero_shot(*planted, options=ZeroShotOptions(encoding=QUIET))
    assert result.predictions.tolist() == [0, 0, 1, 2, 2, 0]
    assert result.ranks.tolist() == [0, 0, 0, 1, 0, 1]
    assert result.accuracy == result.values["top1"] == pytest.approx(4 / 6)
    assert result.per_class == [1.0, 0.5, 0.5]
    assert result.values["mean_per_class"] == pytest.approx(2 / 3)
    assert result.confusion.tolist() == [[2, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert sorted(result.most_confused) == [("bird", "cat", 1), ("dog", "bird", 1)]
    assert result.curve["prompts"] == [pytest.approx(4 / 6), 1.0, 1.0]
    assert result.num_images == 6 and result.num_prompts == 3
    low, high = result.intervals["top1"]
    assert 0 <= low < 4 / 6 < high <= 1
    assert result.notes == [] and result.skipped == {}


def collapsed(labels: list[int], predictions: list[int], names: list[str]) -> list[str]:
    """The notes on these predictions."""
    axes = np.eye(len(names))
    encoder = Planted(axes[predictions], dict(zip(names, axes)))
    result = evaluate_zero_shot(encoder, data_of(labels, names), ZeroShotOptions(encoding=QUIET))
    assert all(note in result.table() and note in result.terminal_table() for note in result.notes)
    return result.notes


def test_a_model_that_gives_few_classes_gets_a_note():
    labels = [0, 1, 2, 3, 4, 5] * 4
    (note,) = collapsed(labels, [2] * 24, NAMES)
    assert "only 1 of the 6 classes of shapes (test), whose images have 6: 'bird' to 100.00% of the images" in note
    (note,) = collapsed(labels, [2] * 22 + [0, 1], NAMES)  # several, but one for nearly all
    assert "only 3 of the 6 classes" in note and "'bird' to 91.67%" in note
    assert collapsed(labels, [0, 1, 2] * 8, NAMES) == []  # half of the classes
    assert collapsed([0] * 11 + [1], [0] * 12, NAMES) == []  # as the images are


@pytest.mark.parametrize(
    ("labels", "metric", "chance", "majority"),
    [
        ([0, 0, 0, 1, 2, 5], "top1", {"top1": 1 / 6, "top5": 5 / 6}, 1 / 2),
        ([0, 1, 2, 3, 4, 5], "top1_top5_mean", {"top1_top5_mean": 1 / 2, "mean_per_class": 1 / 6}, 1 / 6),
        ([0, 1, 1, 0, 1, 1], "roc_auc", {"roc_auc": 1 / 2, "top1": 1 / 2}, 2 / 3),
        # Of 6 images 3, 2 and 1 have each class: the precision of one score for all.
        ([[0, 1], [0], [0], [1], [2], []], "map_11point", {"map_11point": 1 / 3}, 1 / 2),
    ],
)
def test_chance_and_the_majority_class(planted, labels, metric, chance, majority):
    encoder, _ = planted
    names = {"roc_auc": NAMES[:2], "map_11point": NAMES[:3]}.get(metric, NAMES)
    encoder.texts = {name: np.eye(3)[place % 3] + 0.1 * place for place, name in enumerate(NAMES)}
    result = evaluate_zero_shot(
        encoder, data_of(labels, names, metric), options=ZeroShotOptions(encoding=QUIET, resamples=0)
    )
    assert {name: result.chance[name] for name in chance} == pytest.approx(chance)
    assert result.chance[f"one_prompt_{metric}"] == result.chance[metric] and "ensemble_gain" not in result.chance
    assert result.majority_class == pytest.approx(majority)
    table = result.table()
    assert (
        f"|  | {100 * chance[metric]:.2f}% |" in table and f"| majority_class | {100 * majority:.2f}% |  |  |" in table
    )
    assert "| ensemble_gain | 0.00 points |  |  |" in table
    content = result.to_dict()
    assert content["chance"] == result.chance and content["majority_class"] == result.majority_class


def test_classes_that_the_model_cannot_tell_apart_are_said(planted):
    """The tokens decide: features of the same tokens may differ by rounding, those of others be equal in bfloat16."""
    encoder, _ = planted
    axes = np.eye(3)
    encoder.texts = {"letter_A": axes[0], "letter_a": axes[0] + 1e-2 * axes[1], "letter_b": axes[0], "cat": axes[0]}
    data = data_of([0, 1, 2, 2], ["letter_A", "letter_b", "letter_a"])
    with pytest.warns(EqualClassesWarning, match="have the same tokens.*'letter_A' = 'letter_a'. They"):
        result = evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET, resamples=0))
    assert len(result.notes) == 1 and "'letter_b'" not in result.notes[0]
    assert result.notes[0] in result.table() and result.to_dict()["notes"] == result.notes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [["letter_A", "letter_a"], ["cat " * 40 + "one", "cat " * 40 + "two"]])
def test_classes_of_the_same_tokens_are_said(tiny_processor, names, dtype):
    """A tokenizer that takes capitals for small letters, and names that differ past the context length."""
    data = data_of([0, 1, 2], [*names, "dog"])
    with pytest.warns(EqualClassesWarning, match="have the same tokens"):
        result = evaluate_zero_shot(make_tiny_model("vit").to(dtype), data, processor=tiny_processor)
    assert "'dog'" not in result.notes[0] and all(repr(name) in result.notes[0] for name in names)


def test_all_prompts_of_two_classes_must_be_the_same():
    encoder = Planted(np.eye(3), {})
    templates = {"A": ["a pet", "an a"], "a": ["AN A", "a pet"], "b": ["a pet", "a b"]}
    with pytest.warns(EqualClassesWarning):
        (note,) = class_notes(encoder, ["A", "b", "a"], templates, "letters")
    assert "'A' = 'a'. They" in note


def test_many_groups_of_equal_classes_are_counted():
    names = [name for place in range(9) for name in (f"bird {place}", f"BIRD {place}")]
    encoder = Planted(np.eye(3), {})
    with pytest.warns(EqualClassesWarning):
        (note,) = class_notes(encoder, names, "a {}", "birds")
    assert "'bird 0' = 'BIRD 0', 'bird 1' = 'BIRD 1'" in note
    assert "'bird 4' = 'BIRD 4' and 4 more" in note and "bird 5" not in note
    assert class_notes(encoder, names[::2], "a {}", "birds") == []


def test_prompts_are_encoded_once_for_all_kinds(planted):
    encoder, data = planted
    evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET))
    expected = {template.format(name) for template in (*TEMPLATES, "{}") for name in NAMES[:3]}
    encoder.encoded.remove("a photo of a cat")  # to learn the width of features
    assert sorted(encoder.encoded) == sorted(expected)


def test_gains_are_differences_on_the_same_images(planted):
    encoder, data = planted
    axes = np.eye(3)
    # Only the drawings' prompt knows the classes; "a photo of a" says cat to all, and so does the bare name.
    encoder.texts = {f"drawing of a {name}": 3 * axes[place] for place, name in enumerate(NAMES[:3])} | {"": axes[0]}
    result = evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET, resamples=200))
    assert result.values["one_prompt_top1"] == result.values["class_name_top1"] == pytest.approx(2 / 6)
    for gain in ("ensemble_gain", "prompt_gain"):
        assert result.values[gain] == pytest.approx(result.values["top1"] - 2 / 6)
        low, high = result.intervals[gain]
        assert low <= result.values[gain] <= high


@pytest.mark.parametrize(
    ("templates", "kinds"),
    [
        (("{}",), {"prompts"}),
        (("a photo of a {}.",), {"prompts", "class_name"}),
        (("{}", "the {}"), {"prompts", "one_prompt"}),
        (TEMPLATES, {"prompts", "one_prompt", "class_name"}),
        ({name: (f"my {name}", f"your {name}") for name in NAMES[:3]}, {"prompts", "one_prompt", "class_name"}),
        ({name: f"my {name}" for name in NAMES[:3]}, {"prompts", "class_name"}),
    ],
)
def test_kinds_of_prompts(planted, templates, kinds):
    result = evaluate_zero_shot(*planted, options=ZeroShotOptions(templates=templates, encoding=QUIET, resamples=0))
    assert set(result.curve) == kinds
    assert result.intervals == {}
    alone = ZeroShotOptions(templates=templates, encoding=QUIET, resamples=0, compare_prompts=False)
    assert set(evaluate_zero_shot(*planted, options=alone).curve) == {"prompts"}


@pytest.mark.parametrize("place", range(3))
def test_the_paper_s_prompt_is_the_one_prompt_wherever_it_stands(place):
    templates = ["a drawing of a {}.", "the {}."]
    templates.insert(place, "a photo of a {}.")
    kinds = zero_shot._kinds_of_prompts(tuple(templates), ["cat"], compare=True)
    assert kinds["one_prompt"] == "a photo of a {}."
    assert zero_shot._kinds_of_prompts(("the {}.", "a {}"), ["cat"], compare=True)["one_prompt"] == "the {}."


def test_five_classes_have_no_top5():
    axes = np.eye(6)
    for count in (5, 6):
        encoder = Planted(axes, dict(zip(NAMES, axes)))
        data = data_of([*range(count), 0][:6], NAMES[:count])
        result = evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET, resamples=0))
        assert ("top5" in result.values) == (count == 6)


def test_intervals_depend_on_their_seed(planted):
    first, again, other = (
        evaluate_zero_shot(*planted, options=ZeroShotOptions(encoding=QUIET, resamples=15, seed=seed)).intervals
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_classes_of_one_name_have_one_column_of_scores(planted):
    encoder, _ = planted
    data = data_of([0, 3, 1, 1, 2, 2], ["cat", "dog", "bird", "cat"])
    with pytest.warns(UserWarning, match=r"shapes \(test\) have the same name, .*'cat' \(2 times\)"):
        result = evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET, resamples=0))
    assert len(result.notes) == 1  # one name is no news as one embedding
    # Images 0 and 1 are as near to either cat; the first one comes first.
    assert result.predictions.tolist()[:2] == [0, 0]
    assert result.ranks.tolist()[:2] == [0, 1]


def test_several_classes_an_image(planted):
    encoder, _ = planted
    data = data_of([[0], [0, 1], [1], [1, 2], [2], [0, 2]], NAMES[:3], metric="map_11point")
    result = evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET, resamples=50))
    assert set(result.values) >= {"map_11point", "ensemble_gain"} and "top1" not in result.values
    assert result.figure() is None and result.arrays == {}
    assert 0 < result.accuracy <= 1


def test_two_classes_by_roc_auc(planted):
    encoder, _ = planted
    data = data_of([0, 0, 1, 1, 1, 0], NAMES[:2], metric="roc_auc")
    result = evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET, resamples=50))
    # Margins dog less cat: 0, 0 -> -1; 2 -> 1; 3 -> 1/sqrt(5); 4 -> 0; 5 -> -2/sqrt(5): all dogs are above all cats.
    assert result.accuracy == 1.0


def test_the_classifier_is_that_of_build_text_classifier(tower, tiny_processor):
    model = make_tiny_model(tower)
    expected = build_text_classifier(model, tiny_processor, NAMES, TEMPLATES)
    ours = class_embeddings(load_dual_encoder(model, processor=tiny_processor), [*NAMES, "cat"], TEMPLATES)
    np.testing.assert_allclose(ours[:-1], expected.numpy(), atol=1e-6)
    assert np.array_equal(ours[-1], ours[0])


def test_a_model_is_evaluated_on_a_dataset(tower, tiny_processor, tmp_path):
    model, data = make_tiny_model(tower), data_of([0, 1, 2, 3, 4, 5, 0, 1])
    loaded = load_classification(data.data, ClassificationOptions(templates=TEMPLATES))
    options = ZeroShotOptions(encoding=QUIET, resamples=100)
    result = evaluate_zero_shot(model, loaded, options, processor=tiny_processor)
    again = evaluate_zero_shot(
        model, data.data, ZeroShotOptions(TEMPLATES, encoding=QUIET, resamples=100), processor=tiny_processor
    )
    assert again.metrics == result.metrics
    classifier = build_text_classifier(model, tiny_processor, NAMES, TEMPLATES)
    images = [image_of(number) for number in range(8)]
    with torch.no_grad():
        scores = model.encode_image(**tiny_processor(images=images, return_tensors="pt")) @ classifier.T
    assert result.predictions.tolist() == scores.argmax(dim=1).tolist()
    paths = result.save(tmp_path)
    assert [path.suffix for path in paths] == [".json", ".md", ".npz", ".png"]
    content = json.loads(paths[0].read_text())
    assert content["metrics"]["top1"] == result.accuracy and content["intervals"]["top1"]
    assert "predictions" not in content["details"]
    assert np.load(paths[2])["ranks"].tolist() == result.ranks.tolist()
    card = {one.metric_type: one.metric_value for one in result.eval_results()}
    assert card["top1"] == pytest.approx(100 * result.accuracy, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": "a photo"}, "does not say where the label goes"),
        ({"templates": "petz"}, "no prompt set 'petz'"),
        ({"templates": {"cat": "my cat"}}, "no prompts for 2 of the labels"),
    ],
)
def test_wrong_options_say_what_is_allowed(planted, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_zero_shot(*planted, options=ZeroShotOptions(encoding=QUIET, **options))


def test_classes_without_images_have_no_mean_per_class(planted):
    encoder, _ = planted
    data = data_of([0, 0, 1, 1], NAMES[:3])
    assert "mean_per_class" not in evaluate_zero_shot(encoder, data, options=ZeroShotOptions(encoding=QUIET)).values
    with pytest.raises(ValueError, match="1 of the 3 classes .* 'bird'"):
        load_classification(data.data, ClassificationOptions(metric="mean_per_class"))
