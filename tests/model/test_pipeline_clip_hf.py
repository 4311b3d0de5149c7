# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pipeline against the stock pipeline on the same weights, its own options, its inputs, and what it refuses."""

import base64
import copy
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from test_image_reading_clip_hf import drip, head, server_of
from test_zero_shot_clip_hf import counted_text_passes
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel
from transformers.pipelines.pt_utils import KeyDataset
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from clip_hf import (
    ClipHFImageProcessor,
    ClipHFZeroShotImageClassificationPipeline,
    build_text_classifier,
)
from clip_hf.model import zero_shot_clip_hf
from tiny_models import IMAGE_SIZE, as_transformers_clip, make_tiny_model


LABELS = ["cat", "dog playing in the snow", "number seven", "map of the world"]
TEMPLATE = "This is a photo of {}."


def make_pipe(model, processor, cls=ClipHFZeroShotImageClassificationPipeline, **kwargs):
    components = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    return cls(model=model, device="cpu", **{**components, **kwargs})


@pytest.fixture(scope="module")
def model():
    return make_tiny_model("vit")


@pytest.fixture
def pipe(model, tiny_processor):
    return make_pipe(model, tiny_processor)


def by_label(result):
    return {entry["label"]: entry["score"] for entry in result}


def assert_same(results, expected, tolerance=1e-5):
    """Results of several images: the same labels in the same order with the same scores."""
    results, expected = list(results), list(expected)
    assert len(results) == len(expected)
    for result, other in zip(results, expected):
        assert [entry["label"] for entry in result] == [entry["label"] for entry in other]
        np.testing.assert_allclose(
            [entry["score"] for entry in result], [entry["score"] for entry in other], rtol=0, atol=tolerance
        )


def cosines(model, processor, images, prompts_by_label):
    """(images, labels) from the model itself, for lists of complete prompts."""
    with torch.no_grad():
        rows = []
        for prompts in prompts_by_label:
            embeddings = [model.encode_text(**processor(text=[p], return_tensors="pt"))[0] for p in prompts]
            rows.append(F.normalize(torch.stack(embeddings).mean(dim=0), dim=0))
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        return model.encode_image(pixels) @ torch.stack(rows).T


# -------------------------------------------------------------------------------------------------- the stock pipeline


def test_scores_are_the_stock_pipelines(tower, tiny_processor, images):
    model = make_tiny_model(tower)
    stock = make_pipe(model, tiny_processor, ZeroShotImageClassificationPipeline)
    expected = stock(images, LABELS)
    spread = [max(by_label(result).values()) - min(by_label(result).values()) for result in expected]
    assert min(spread) > 0.05  # or equal scores would show nothing
    pipe = make_pipe(model, tiny_processor)
    assert_same(pipe(images, LABELS), expected)
    assert_same(pipe(images, LABELS, batch_size=3), expected)
    assert_same(pipe(images, LABELS, hypothesis_template=TEMPLATE), expected)
    template = "a photo of a {}, folded"
    assert_same(
        pipe(images, LABELS, hypothesis_template=template), stock(images, LABELS, hypothesis_template=template)
    )
    assert set(pipe(images, LABELS)[0][0]) == {"score", "label"}


def test_scores_are_those_of_transformers_clip(model, pipe, tiny_processor, images):
    clip = as_transformers_clip(model)
    stock = make_pipe(clip, tiny_processor, ZeroShotImageClassificationPipeline)
    assert_same(pipe(images, LABELS), stock(images, LABELS))
    assert_same(make_pipe(clip, tiny_processor)(images, LABELS, batch_size=2), stock(images, LABELS))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "rotated"])
def test_images_are_opened_as_the_stock_pipeline_opens_them(model, pipe, tiny_processor, images, mode, tmp_path):
    stock = make_pipe(model, tiny_processor, ZeroShotImageClassificationPipeline)
    image = images[2]
    if mode == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        image.save(tmp_path / "rotated.png", exif=exif)
        image = str(tmp_path / "rotated.png")
        assert by_label(pipe(image, LABELS)) != pytest.approx(by_label(pipe(images[2], LABELS)), abs=1e-3)
    else:
        image = image.convert(mode)
    assert_same([pipe(image, LABELS)], [stock(image, LABELS)])


def test_call_forms(pipe, images, tmp_path):
    image = images[0]
    image.save(tmp_path / "image.png")
    buffer = io.BytesIO()
    image.save(buffer, "png")
    text = base64.b64encode(buffer.getvalue()).decode()
    expected = pipe(image, LABELS)
    assert [isinstance(entry["score"], float) for entry in expected] == [True] * len(LABELS)
    forms = [
        str(tmp_path / "image.png"),
        tmp_path / "image.png",
        text,
        f"data:image/png;base64,{text}",
        buffer.getvalue(),
        {"bytes": buffer.getvalue(), "path": None},
        {"bytes": None, "path": str(tmp_path / "image.png")},
        np.asarray(image),
        torch.from_numpy(np.array(image)).permute(2, 0, 1),
    ]
    for form in forms:
        assert_same([pipe(form, candidate_labels=LABELS)], [expected])
        assert_same(pipe([form, image], LABELS), [expected, expected])
    assert_same([pipe(images=image, candidate_labels=tuple(LABELS))], [expected])
    assert_same(pipe((image,), LABELS), [expected])
    assert_same(pipe(np.stack([np.asarray(image)] * 2), LABELS), [expected] * 2)
    assert pipe([], LABELS) == []


def test_a_url_is_fetched_with_the_timeout(pipe, images):
    buffer = io.BytesIO()
    images[0].save(buffer, "png")
    picture = head(Content_Length=len(buffer.getvalue())) + buffer.getvalue()
    with server_of(lambda connection, _: connection.sendall(picture)) as url:
        assert_same([pipe(url, LABELS, timeout=30)], [pipe(images[0], LABELS)])
    with server_of(drip) as url, pytest.raises(ValueError, match=f"{url}.*longer than the 0.2 seconds allowed"):
        pipe(url, LABELS, timeout=0.2)
    with server_of(lambda connection, _: connection.sendall(head("404 Not Found"))) as url:
        with pytest.raises(
            ValueError, match=rf"^Image 0 \('{url}'\) cannot be read: the download failed: HTTP Error 404"
        ):
            pipe([url], LABELS)


@pytest.mark.parametrize("bad", [3, None, True, 2.5, np.int64(3)], ids=repr)
def test_numbers_are_no_images(pipe, images, bad):
    with counted_text_passes(pipe.model) as passes:
        if bad is not None:
            with pytest.raises(TypeError, match="An image is a path, a URL, .* or a tensor, not .*: given "):
                pipe(bad, LABELS)
        with pytest.raises(TypeError, match="Image 1 is of a type that is not supported: .* a path, a URL .*, got"):
            pipe([images[0], bad], LABELS[::-1])
        for several in ({"image": 3}, [[1, 2], [3, 4]], {1, 2}, range(2)):
            with pytest.raises(TypeError, match="is of a type that is not supported"):
                list(pipe(several, LABELS[::-1]))
    assert passes == []


def test_ties_keep_the_order_of_the_labels(pipe, images):
    prompts = {"second": "a cat", "first": "a cat", "third": "a cat", "best or worst": "the number seven"}
    labels = [entry["label"] for entry in pipe(images[0], list(prompts), hypothesis_template=prompts)]
    labels.remove("best or worst")
    assert labels == ["second", "first", "third"]


def test_options_can_be_given_once_for_all_calls(model, tiny_processor, images):
    pipe = make_pipe(model, tiny_processor, candidate_labels=LABELS, top_k=2, batch_size=2, num_workers=1)
    expected = make_pipe(model, tiny_processor)(images, LABELS)
    assert_same(pipe(images), [result[:2] for result in expected])
    assert_same(pipe(images, top_k=1), [result[:1] for result in expected])
    assert len(pipe(images[0], ["a", "b", "c"], top_k=3)) == 3


# ------------------------------------------------------------------------------------------------ templates and scores


@pytest.mark.parametrize(
    "templates", [["a {}", "the {label}."], "openai_imagenet_subset", {label: [label, "7"] for label in LABELS}]
)
def test_templates_are_ensembled_in_embedding_space(model, pipe, tiny_processor, images, templates):
    classifier = build_text_classifier(model, tiny_processor, LABELS, templates)
    pixels = tiny_processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = (model.logit_scale.exp() * model.encode_image(pixels) @ classifier.T).softmax(dim=-1)
    for result, row in zip(pipe(images, LABELS, hypothesis_template=templates), expected):
        assert by_label(result) == pytest.approx(dict(zip(LABELS, row.tolist())), abs=1e-6)


def test_cosine_and_logits(model, pipe, tiny_processor, images):
    expected = cosines(model, tiny_processor, images, [[TEMPLATE.format(label)] for label in LABELS])
    scale = model.logit_scale.exp().item()
    for index, row in enumerate(expected.tolist()):
        cosine = pipe(images[index], LABELS, function_to_apply="cosine")
        assert by_label(cosine) == pytest.approx(dict(zip(LABELS, row)), abs=1e-6)
        logits = pipe(images[index], LABELS, function_to_apply="none")
        assert by_label(logits) == pytest.approx({k: scale * v for k, v in zip(LABELS, row)}, abs=1e-4)
        alone = pipe(images[index], LABELS[:1], function_to_apply="cosine")
        assert alone[0]["score"] == pytest.approx(row[0], abs=1e-6)


def test_multi_label_scores_each_label_against_the_background(model, pipe, tiny_processor, images):
    for background, prompts in ((None, ["a photo."]), (["a map.", "the snow"], ["a map.", "the snow"])):
        all_prompts = [[TEMPLATE.format(label)] for label in LABELS] + [prompts]
        logits = model.logit_scale.exp() * cosines(model, tiny_processor, images, all_prompts)
        expected = torch.stack([logits[:, :-1], logits[:, -1:].expand(-1, 4)]).softmax(dim=0)[0]
        for result, row in zip(pipe(images, LABELS, multi_label=True, background=background), expected.tolist()):
            assert by_label(result) == pytest.approx(dict(zip(LABELS, row)), abs=1e-5)
    # A label's score does not depend on the others, nor do the scores sum to 1.
    several = by_label(pipe(images[0], LABELS, multi_label=True))
    assert by_label(pipe(images[0], LABELS[1:3], multi_label=True)) == pytest.approx(
        {label: several[label] for label in LABELS[1:3]}, abs=1e-6
    )
    assert abs(sum(several.values()) - 1) > 0.1


def test_the_background_takes_part_in_the_softmax(model, pipe, tiny_processor, images):
    all_prompts = [[TEMPLATE.format(label)] for label in LABELS] + [["the snow"]]
    logits = model.logit_scale.exp() * cosines(model, tiny_processor, images, all_prompts)
    for result, row in zip(pipe(images, LABELS, background="the snow"), logits.softmax(dim=-1).tolist()):
        assert by_label(result) == pytest.approx(dict(zip(LABELS, row)), abs=1e-5)
        assert sum(by_label(result).values()) < 0.999


def test_a_model_with_a_bias_tells_for_each_label_by_itself(tiny_processor, images):
    model = make_tiny_model("vit", logit_bias_init_value=-3.0)
    pipe = make_pipe(model, tiny_processor)
    prompts = [[TEMPLATE.format(label)] for label in LABELS]
    all_cosines = cosines(model, tiny_processor, images, [*prompts, ["the snow"]])
    logits = model.logit_scale.exp() * all_cosines - 3
    own = logits[:, :-1]
    with counted_text_passes(model) as passes:
        for options, expected in (
            ({}, own.softmax(dim=-1)),
            ({"multi_label": True}, own.sigmoid()),
            ({"function_to_apply": "none"}, own),
            ({"function_to_apply": "cosine"}, all_cosines[:, :-1]),
        ):
            for result, row in zip(pipe(images, LABELS, **options), expected.tolist(), strict=True):
                assert by_label(result) == pytest.approx(dict(zip(LABELS, row)), abs=1e-4), options
        assert [batch for batch, _ in passes] == [4]  # no background
    for multi_label, expected in ((True, (own - logits[:, -1:]).sigmoid()), (False, logits.softmax(dim=-1))):
        results = pipe(images, LABELS, background="the snow", multi_label=multi_label)
        for result, row in zip(results, expected.tolist(), strict=True):
            assert by_label(result) == pytest.approx(dict(zip(LABELS, row)), abs=1e-5)


def test_top_k_and_threshold(pipe, images):
    expected = pipe(images, LABELS)
    assert_same(pipe(images, LABELS, top_k=2), [result[:2] for result in expected])
    assert_same(pipe(images, LABELS, top_k=99), expected)
    threshold = expected[0][1]["score"] - 1e-4
    kept = [[entry for entry in result if entry["score"] >= threshold] for result in expected]
    assert_same(pipe(images, LABELS, threshold=threshold), kept)
    assert_same(pipe(images, LABELS, threshold=threshold, top_k=1), [result[:1] for result in kept])
    alone = pipe(images[0], LABELS)
    assert pipe(images[0], LABELS, threshold=alone[1]["score"]) == alone[:2]
    assert pipe(images[0], LABELS, threshold=0) == alone
    assert pipe(images[0], LABELS, threshold=1) == []
    assert pipe(images[0], LABELS, threshold=-0.99, function_to_apply="cosine")


def test_tokenizer_kwargs(pipe, images):
    short = by_label(pipe(images[0], LABELS, tokenizer_kwargs={"max_length": 5}))
    assert short == pytest.approx(dict.fromkeys(LABELS, 0.25), abs=1e-5)  # "This is" is all that is left
    assert by_label(pipe(images[0], LABELS)) != pytest.approx(short, abs=1e-2)


# -------------------------------------------------------------------------------------------- the text tower runs once


def test_labels_are_encoded_once(model, pipe, images):
    with counted_text_passes(model) as passes:

        def encoded():
            return [batch for batch, _ in passes]

        pipe(images, LABELS)
        assert encoded() == [4]
        pipe(images, LABELS, batch_size=2, num_workers=2)
        pipe(images[0], LABELS, top_k=1, threshold=0.5)
        list(pipe((image for image in images), LABELS, function_to_apply="cosine"))
        assert encoded() == [4]
        pipe(images[0], LABELS, multi_label=True)
        pipe(images[1], LABELS, multi_label=True)
        assert encoded() == [4, 1]  # the background
        pipe(images[0], LABELS, hypothesis_template="a {}")
        assert encoded() == [4, 1, 4]


def test_changed_weights_are_noticed_between_calls(tiny_processor, images):
    model = make_tiny_model("vit")
    pipe = make_pipe(model, tiny_processor)
    before = pipe(images, LABELS)
    model.load_state_dict(make_tiny_model("vit", seed=1).state_dict())
    after = pipe(images, LABELS)
    assert by_label(after[0]) != pytest.approx(by_label(before[0]), abs=1e-3)
    assert_same(after, make_pipe(model, tiny_processor)(images, LABELS))


def test_a_model_in_training_mode_is_evaluated(tower, tiny_processor, images):
    model = make_tiny_model(tower)
    expected = make_pipe(model, tiny_processor)(images, LABELS)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    assert_same(make_pipe(model, tiny_processor)(images, LABELS, batch_size=3), expected)
    assert model.training and model.vision_model.training
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def wrapped(model, kind):
    """A model as users put it into a pipeline, in training mode, with something that only evaluation leaves alone."""
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, lora_dropout=0.5)
        model = get_peft_model(model, lora)
    if kind == "offloaded":
        from accelerate.hooks import ModelHook, add_hook_to_module

        for module in list(model.modules()):
            add_hook_to_module(module, ModelHook())
    return model


@pytest.mark.slow_but_for("vit-plain", "vit-lora")
@pytest.mark.parametrize("kind", ["plain", "lora", "offloaded"])
def test_threads_share_a_model_in_training_mode(tower, tiny_processor, images, kind):
    model = wrapped(make_tiny_model(tower), kind)
    tasks = [(image, LABELS[: 2 + index % 3]) for index in range(6) for image in images]
    expected = [make_pipe(model.eval(), tiny_processor)(*task) for task in tasks]
    model.train()
    next(model.children()).eval()  # a part that the user keeps in evaluation mode
    modes = [module.training for module in model.modules()]
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    generator = torch.get_rng_state()
    pipes = [make_pipe(model, tiny_processor) for _ in range(2)]  # that share it
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda index: pipes[index % 2](*tasks[index]), range(len(tasks))))
    assert_same(results, expected)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == gradients
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_weights_are_looked_at_once_a_list_and_for_each_batch_of_a_stream(pipe, images, monkeypatch):
    looks = []
    state = zero_shot_clip_hf.text_state
    monkeypatch.setattr(zero_shot_clip_hf, "text_state", lambda model: looks.append(model) or state(model))
    pipe(images, LABELS, batch_size=2, multi_label=True)
    assert len(looks) == 1
    list(pipe(iter(images), LABELS, batch_size=2, multi_label=True))
    assert len(looks) == 1 + 3


def test_a_model_that_changes_while_a_stream_is_read(tiny_processor, images):
    model = make_tiny_model("vit")
    stream = iter(make_pipe(model, tiny_processor)(iter(images[:2]), LABELS))
    before = next(stream)
    model.text_model.final_layer_norm.bias.data[3] += 5
    after = next(stream)
    assert_same([after], make_pipe(model, tiny_processor)(images[1:2], LABELS))
    assert before != after


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(tower, tiny_processor, images, dtype):
    model = make_tiny_model(tower).to(dtype)
    # The same weights, already rounded, computed precisely. A cosine adds up the errors of both embeddings.
    exact = make_pipe(copy.deepcopy(model).double(), tiny_processor)(images, LABELS, function_to_apply="cosine")
    pipe = make_pipe(model, tiny_processor)
    assert pipe.preprocess(images[0])["pixel_values"].dtype is dtype  # other classes' models need it
    results = pipe(images, LABELS, function_to_apply="cosine", batch_size=2)
    layers = sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in model.modules())
    for result, other in zip(results, exact, strict=True):
        assert by_label(result) == pytest.approx(by_label(other), abs=layers * torch.finfo(dtype).eps / 2)


# -------------------------------------------------------------------------------------------------- inputs that stream


def image_dataset(images):
    return datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))


class Squares(torch.utils.data.Dataset):
    """A dataset that never raises IndexError, so that only its length says where it ends."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index % len(self.images)]


STREAMS = {
    "dataset": Squares,
    "KeyDataset": lambda images: KeyDataset(image_dataset(images), "image"),
    "column": lambda images: image_dataset(images)["image"],
    "undecoded": lambda images: image_dataset(images).cast_column("image", datasets.Image(decode=False))["image"],
    "generator": lambda images: (image for image in images),
    "iterator": iter,
    "map": lambda images: map(Image.Image.copy, images),
}


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("stream", STREAMS)
def test_streams(pipe, images, stream, batch_size, num_workers):
    results = pipe(STREAMS[stream](images), LABELS, batch_size=batch_size, num_workers=num_workers)
    assert not isinstance(results, list)
    if stream in ("dataset", "KeyDataset", "column", "undecoded"):
        assert len(results) == len(images)
    assert_same(results, pipe(images, LABELS))


def test_a_dataset_can_be_read_twice_and_step_by_step(pipe, images):
    results = pipe(Squares(images), LABELS)
    first = list(results)
    assert_same(results, first)
    assert_same([next(results), next(results)], first[:2])


@pytest.mark.parametrize(("num_workers", "batch_size", "limit"), [(0, 1, 2), (0, 2, 2), (2, 1, 7), (2, 2, 7)])
def test_an_endless_generator_is_read_as_needed(pipe, images, num_workers, batch_size, limit):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield images[len(taken) % len(images)]

    results = iter(pipe(endless(), LABELS, num_workers=num_workers, batch_size=batch_size))
    for _ in range(2):
        next(results)
    assert len(taken) <= limit
    results.close()
    wait_for(lambda: not preprocessing_threads())


def preprocessing_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("preprocess")]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.01)


def test_without_workers_a_generator_may_wait_for_results(pipe, images):
    """A server's queue: each image arrives after the result of the one before."""
    results = []

    def questions():
        for count, image in enumerate(images):
            assert len(results) == count
            yield image

    for result in pipe(questions(), LABELS):
        results.append(result)
    assert len(results) == len(images)


def test_preprocessing_overlaps_with_the_model(model, pipe, images, monkeypatch):
    """With workers, the next images are read while the model runs; without, they are not."""

    def images_read_while_the_model_runs(num_workers):
        read = []

        def stream():
            for index, image in enumerate(images):
                read.append(index)
                yield image

        def forward(module, args, kwargs):
            if read == [0] and num_workers:
                wait_for(lambda: len(read) > 1)
            seen.append(len(read))

        seen = []
        handle = model.vision_model.register_forward_pre_hook(forward, with_kwargs=True)
        list(pipe(stream(), LABELS, num_workers=num_workers))
        handle.remove()
        return seen

    assert images_read_while_the_model_runs(0) == [1, 2, 3, 4, 5]
    overlapped = images_read_while_the_model_runs(1)
    assert overlapped[0] >= 2 and max(overlapped) == 5


def test_workers_get_no_labels(pipe, images):
    prepared = pipe.preprocess(images[0])
    assert {key: tuple(value.shape) for key, value in prepared.items()} == {
        "pixel_values": (1, 3, IMAGE_SIZE, IMAGE_SIZE)
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_lazily_opened_image_may_come_often(pipe, images, tmp_path, num_workers):
    images[0].save(tmp_path / "image.png")
    image = Image.open(tmp_path / "image.png")
    results = pipe([image] * 12, LABELS, num_workers=num_workers, batch_size=4)
    assert_same(results, [pipe(images[0], LABELS)] * 12)


# ----------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"candidate_labels": None}, ValueError, "There are no labels: pass `candidate_labels"),
        ({"candidate_labels": []}, ValueError, "There are no labels"),
        ({"candidate_labels": "cat, dog"}, TypeError, "must be a list of strings, not one string"),
        ({"candidate_labels": ["cat", "cat"]}, ValueError, "occur more than once"),
        ({"candidate_labels": ["cat", 1.5]}, TypeError, "Label 1 is 1.5, a float; labels must be strings or whole"),
        ({"candidate_labels": ["cat", True]}, TypeError, "Label 1 is True, a bool"),
        ({"candidate_labels": np.array([["cat"]])}, TypeError, "Label 0 is array"),
        ({"candidate_labels": np.array([])}, ValueError, "There are no labels"),
        ({"candidate_labels": 3}, TypeError, "must be a list of strings; given an int"),
        ({"hypothesis_template": "a photo"}, ValueError, "does not say where the label goes"),
        ({"hypothesis_template": []}, ValueError, "The list of templates is empty"),
        ({"hypothesis_template": {"cat": ["a cat"]}}, ValueError, "no prompts for 3 of the labels"),
        ({"hypothesis_template": "openai_imagnet"}, ValueError, "Did you mean 'openai_imagenet'"),
        ({"top_k": 0}, ValueError, "`top_k` is 0; it must be a whole number of at least 1"),
        ({"top_k": 1.5}, ValueError, "`top_k` is 1.5"),
        ({"top_k": True}, ValueError, "`top_k` is True"),
        ({"threshold": 1.5}, ValueError, "`threshold` is 1.5; .* from 0 to 1"),
        ({"threshold": -2, "function_to_apply": "cosine"}, ValueError, "`threshold` is -2; .* from -1 to 1"),
        ({"threshold": "0.5"}, ValueError, "`threshold` is '0.5'"),
        ({"threshold": float("nan")}, ValueError, "`threshold` is nan"),
        ({"function_to_apply": "sigmoid"}, ValueError, "one of 'softmax', 'cosine', 'none'"),
        ({"background": "a photo.", "function_to_apply": "cosine"}, ValueError, "takes part in a softmax only"),
        ({"multi_label": True, "function_to_apply": "cosine"}, ValueError, "`multi_label` changes the softmax only"),
        ({"multi_label": True, "function_to_apply": "none"}, ValueError, "`multi_label` changes the softmax only"),
        ({"background": "a photo of {}."}, ValueError, "cannot have a placeholder"),
        ({"background": []}, ValueError, "The list of prompts of 'background' is empty"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"num_workers": -1}, ValueError, "`num_workers` is -1"),
        ({"topk": 3}, TypeError, "Unknown option `topk` of the pipeline. Did you mean `top_k`"),
        ({"image": None}, ValueError, "There is no image"),
    ],
)
def test_bad_options_raise_before_any_work(model, pipe, arguments, error, message):
    def never():
        pytest.fail("the input was read")
        yield

    arguments = {"image": never(), "candidate_labels": LABELS, **arguments}
    with counted_text_passes(model) as passes, pytest.raises(error, match=message):
        pipe(**arguments)
    assert passes == []


@pytest.mark.parametrize("option", [{"top_k": 0}, {"hypothesis_template": "x y"}, {"candidate_labels": ["a", "a"]}])
def test_bad_options_of_the_pipeline_itself(model, tiny_processor, option):
    with pytest.raises(ValueError):
        make_pipe(model, tiny_processor, **option)


def broken_file(tmp_path, kind):
    path = tmp_path / "broken.png"
    if kind == "missing":
        return path
    good = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(good, "png")
    contents = {"empty": b"", "text": b"no image", "truncated": good.getvalue()[:2000]}
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "16-bit":
        Image.fromarray(np.full((80, 80), 40_000, np.uint16)).save(path)
    elif kind == "bomb":
        path = tmp_path / "bomb.bmp"
        header = io.BytesIO()
        Image.new("1", (1, 1)).save(header, "bmp")
        data = bytearray(header.getvalue())
        data[18:26] = (60_000).to_bytes(4, "little") * 2
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "16-bit", "bomb"])
def test_bad_images_are_named(pipe, images, tmp_path, kind, num_workers):
    path = broken_file(tmp_path, kind)
    with pytest.raises(ValueError, match=r"The image \('.*(broken.png|bomb.bmp)'\) cannot be read: "):
        pipe(str(path), LABELS)
    with pytest.raises(ValueError, match=r"Image 3 \(.*\) cannot be read: "):
        pipe([*images[:3], str(path)], LABELS, batch_size=2, num_workers=num_workers)
    wait_for(lambda: not preprocessing_threads())


def test_results_before_a_bad_image_are_given(pipe, images):
    results = pipe((image for image in [images[0], "no such file.png"]), LABELS, num_workers=1)
    assert_same([next(results)], [pipe(images[0], LABELS)])
    with pytest.raises(ValueError, match=r"Image 1 \('no such file.png'\) cannot be read"):
        next(results)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_other_types_and_errors_of_the_input(pipe, images, num_workers):
    with pytest.raises(TypeError, match="Image 1 is of a type that is not supported"):
        pipe([images[0], 3], LABELS, num_workers=num_workers)
    with pytest.raises(ZeroDivisionError):
        list(pipe((image if image is images[0] else 1 / 0 for image in images), LABELS, num_workers=num_workers))


def test_images_of_different_shapes_form_no_batch(model, tiny_processor, images):
    image_processor = ClipHFImageProcessor(size={"shortest_edge": IMAGE_SIZE}, do_center_crop=False)
    pipe = make_pipe(model, tiny_processor, image_processor=image_processor)
    with pytest.raises(ValueError, match="different shapes.*use `batch_size=1`"):
        pipe(images[:3], LABELS, batch_size=3)


def test_a_1x1_image_works(pipe):
    assert len(pipe(Image.new("RGB", (1, 1)), LABELS)) == len(LABELS)


def test_a_pipeline_without_its_parts(model, tiny_processor):
    with pytest.raises(ValueError, match="needs a tokenizer and an image processor"):
        ClipHFZeroShotImageClassificationPipeline(model=model, tokenizer=tiny_processor.tokenizer, device="cpu")
    pipe = ClipHFZeroShotImageClassificationPipeline(model=model, processor=tiny_processor, device="cpu")
    assert pipe.tokenizer is tiny_processor.tokenizer


def test_siglip_is_refused(tiny_processor):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": 600, "projection_size": 16},
        vision_config={**sizes, "image_size": IMAGE_SIZE, "patch_size": 16},
    )
    with pytest.raises(ValueError, match="SiglipModel scores with a sigmoid and a bias"):
        make_pipe(SiglipModel(config), tiny_processor)
