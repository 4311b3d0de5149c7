# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip_hf.pipeline` on whatever is a CLIP, against the parts it is made of; and the labels that pipelines take."""

import collections
import json
import logging

import datasets
import numpy as np
import pandas
import pytest
import torch
import transformers
from test_pipeline_clip_hf import LABELS, TEMPLATE, assert_same, by_label, make_pipe
from transformers import CLIPModel, pipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

import clip_hf
from clip_hf import (
    ClipHFForImageClassification,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFTokenizer,
    ClipHFZeroShotImageClassificationPipeline,
    build_text_classifier,
    checkpoints,
)
from clip_hf.model import zero_shot_clip_hf
from test_registration import stock_repo, stock_tokenizer, tiny_siglip  # noqa: F401
from tiny_models import CONTEXT_LENGTH, IMAGE_SIZE, make_tiny_model


TASK = "zero-shot-image-classification"
TEMPLATES = ["a photo of a {}.", "a drawing of a {}."]


@pytest.fixture
def model():
    return make_tiny_model("vit")


@pytest.fixture
def pipe(model, tiny_processor):
    return make_pipe(model, tiny_processor)


@pytest.fixture
def repo(model, tiny_processor, tmp_path):
    model.save_pretrained(tmp_path / "repo")
    tiny_processor.save_pretrained(tmp_path / "repo")
    return tmp_path / "repo"


# ------------------------------------------------------------------------------------------------ from names and paths


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_a_repo_of_ours(repo, model, tiny_processor, images, as_path):
    pipe = clip_hf.pipeline(as_path(repo), device="cpu")
    assert type(pipe) is ClipHFZeroShotImageClassificationPipeline
    expected = make_pipe(model, tiny_processor)(images, LABELS, hypothesis_template=TEMPLATES)
    assert_same(pipe(images, LABELS, hypothesis_template=TEMPLATES), expected)


def test_a_stock_repo_takes_all_our_options(stock_repo, images):  # noqa: F811
    pipe = clip_hf.pipeline(stock_repo, device="cpu", batch_size=2, top_k=2)
    assert type(pipe) is ClipHFZeroShotImageClassificationPipeline
    assert [type(part) for part in (pipe.model, pipe.tokenizer, pipe.image_processor)] == [
        ClipHFModel,
        ClipHFTokenizer,
        ClipHFImageProcessor,
    ]
    stock = transformers.pipeline(TASK, model=str(stock_repo), device="cpu")
    assert type(stock) is ZeroShotImageClassificationPipeline
    labels = ["cat", "dog", "seven"]
    expected = [result[:2] for result in stock(images, labels, hypothesis_template="{}")]
    assert_same(pipe(images, labels, hypothesis_template="{}"), expected, tolerance=1e-4)
    # Where the stock pipeline fails, or gives each label the same text without a word.
    with pytest.raises(AttributeError):
        stock(images[0], labels, hypothesis_template=["a {}", "{}"])
    several = by_label(pipe(images[0], labels, hypothesis_template=["a {}", "{}"], top_k=3))
    assert len(set(several.values())) == 3


@pytest.mark.parametrize("format", ["open_clip", "transformers", "clip_hf"])
def test_folders_of_other_formats(model, tiny_processor, images, tmp_path, format):
    checkpoints.save(model, tiny_processor, tmp_path / "out", format=format)
    pipe = clip_hf.pipeline(tmp_path / "out", device="cpu", candidate_labels=LABELS)
    assert_same(pipe(images), make_pipe(model, tiny_processor)(images, LABELS), tolerance=1e-4)


def test_dtype_and_where_the_files_are(repo, images):
    pipe = clip_hf.pipeline(repo.parent, subfolder="repo", dtype="float64", device="cpu", local_files_only=True)
    assert pipe.model.dtype == torch.float64
    assert clip_hf.pipeline(repo, dtype=torch.bfloat16, device="cpu").model.dtype == torch.bfloat16
    assert_same(pipe(images, LABELS), clip_hf.pipeline(repo, device="cpu")(images, LABELS))


def test_a_processor_from_elsewhere(repo, model, tiny_processor, images, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "processor")
    expected = clip_hf.pipeline(repo, device="cpu")(images, LABELS)
    for processor in (tiny_processor, tmp_path / "processor", str(tmp_path / "processor")):
        assert_same(clip_hf.pipeline(tmp_path / "model", processor, device="cpu")(images, LABELS), expected)
    other = ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE, do_normalize=False)
    mixed = clip_hf.pipeline(repo, image_processor=other, device="cpu")
    assert mixed.image_processor is other and type(mixed.tokenizer) is ClipHFTokenizer
    assert by_label(mixed(images[0], LABELS)) != pytest.approx(by_label(expected[0]), abs=1e-3)
    with pytest.raises(OSError, match="has no image processor"):
        clip_hf.pipeline(tmp_path / "model")


# -------------------------------------------------------------------------------------------------------- from memory


def peft_model(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


@pytest.mark.parametrize("wrap", [lambda model: model, peft_model], ids=["plain", "peft"])
def test_a_model_in_memory(model, tiny_processor, images, wrap):
    expected = make_pipe(model, tiny_processor)(images, LABELS)
    tokenizer, image_processor = tiny_processor.tokenizer, tiny_processor.image_processor
    model = wrap(model)
    for pipe in (
        clip_hf.pipeline(model, tiny_processor, device="cpu"),
        clip_hf.pipeline(model, processor=tiny_processor, device="cpu"),
        clip_hf.pipeline(model, tokenizer=tokenizer, image_processor=image_processor, device="cpu"),
        clip_hf.pipeline(model, image_processor, tokenizer=tokenizer, image_processor=image_processor, device="cpu"),
    ):
        assert pipe.model is model
        assert_same(pipe(images, LABELS), expected)
    with pytest.raises(ValueError, match="was not loaded from anywhere, .*: pass `processor=...`, or `tokenizer=...`"):
        clip_hf.pipeline(model)


def test_a_loaded_model_knows_where_its_processor_is(repo, stock_repo, images):  # noqa: F811
    expected = clip_hf.pipeline(repo, device="cpu")(images, LABELS)
    assert_same(clip_hf.pipeline(ClipHFModel.from_pretrained(repo), device="cpu")(images, LABELS), expected)
    pipe = clip_hf.pipeline(CLIPModel.from_pretrained(stock_repo), device="cpu")
    assert type(pipe.model) is CLIPModel and type(pipe.tokenizer) is ClipHFTokenizer
    assert_same(
        pipe(images, ["cat", "dog"], hypothesis_template="{}"),
        clip_hf.pipeline(stock_repo, device="cpu")(images, ["cat", "dog"], hypothesis_template="{}"),
    )


def test_what_load_returns(model, tiny_processor, images, tmp_path):
    checkpoints.save(model, tiny_processor, tmp_path / "out", format="open_clip")
    pipe = clip_hf.pipeline(*checkpoints.load(tmp_path / "out"), device="cpu")
    assert_same(pipe(images, LABELS), make_pipe(model, tiny_processor)(images, LABELS), tolerance=1e-4)


def test_transformers_pipeline_takes_a_model_and_a_processor(model, tiny_processor, images):
    expected = make_pipe(model, tiny_processor)(images, LABELS)
    parts = {"tokenizer": tiny_processor.tokenizer, "image_processor": tiny_processor.image_processor}
    for given in ({"processor": tiny_processor}, parts, {**parts, "processor": tiny_processor}):
        pipe = transformers.pipeline(TASK, model=model, device="cpu", **given)
        assert type(pipe) is ClipHFZeroShotImageClassificationPipeline
        assert_same(pipe(images, LABELS), expected)
    with pytest.raises(ValueError, match=r"which tokenizer to use: .*`clip_hf.pipeline\(model, processor\)` does all"):
        transformers.pipeline(TASK, model=model)
    with pytest.raises(ValueError, match="which image processor to use"):
        transformers.pipeline(TASK, model=model, tokenizer=tiny_processor.tokenizer)


def test_stock_models_need_what_they_needed(stock_repo, tmp_path, images):  # noqa: F811
    model = CLIPModel.from_pretrained(stock_repo)
    with pytest.raises(ValueError, match="Impossible to guess which tokenizer to use"):
        transformers.pipeline(TASK, model=model, processor=transformers.CLIPProcessor.from_pretrained(stock_repo))
    model.save_pretrained(tmp_path / "alone")
    transformers.CLIPTokenizer.from_pretrained(stock_repo).save_pretrained(tmp_path / "alone")
    with pytest.raises(OSError, match="Can't load image processor for"):
        transformers.pipeline(TASK, model=str(tmp_path / "alone"))


# ----------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: 3, TypeError, "`model` is 3, an int; it must be a hub name, a path, or a model in memory"),
        (lambda folder: None, TypeError, "`model` is None"),
        (lambda folder: TASK, ValueError, "The first argument is the model"),
        (lambda folder: torch.nn.Linear(2, 2), ValueError, "is a Linear, which is not a CLIP with an image"),
        (lambda folder: make_tiny_model("vit").text_model, ValueError, "is a ClipHFTextModel, which is not a CLIP"),
        (lambda folder: folder / "missing", OSError, "missing"),
        (
            lambda folder: folder / "classifier",
            ValueError,
            "is a classifier with a fixed set of classes .*lacks [0-9]+ weights",
        ),
        (lambda folder: folder / "siglip", ValueError, "type 'siglip', which is not a CLIP"),
    ],
)
def test_what_is_no_clip(tiny_processor, tmp_path, caplog, monkeypatch, make, error, message):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    ClipHFForImageClassification(make_tiny_model("vit").config).save_pretrained(tmp_path / "classifier")
    tiny_siglip().save_pretrained(tmp_path / "siglip")
    with pytest.raises(error, match=message):
        clip_hf.pipeline(make(tmp_path), tiny_processor)
    assert "LOAD REPORT" not in caplog.text


def test_options_of_others_may_be_unset(pipe, images):
    unset = {"trust_remote_code": None, "use_fast": False, "function": None}
    assert_same(pipe(images, LABELS, **unset), pipe(images, LABELS))
    for options in ({"use_fast": True}, {"multi_labels": False}, {"treshold": 0.5}):
        with pytest.raises(TypeError, match=f"Unknown option `{next(iter(options))}`"):
            pipe(images, LABELS, **options)


def test_unknown_options_are_refused_before_anything_is_loaded(model, tiny_processor):
    with pytest.raises(
        TypeError,
        match="Unknown option `devce` of the pipeline. Did you mean `device`.*: candidate_labels, .*, batch_size",
    ):
        clip_hf.pipeline("no/such/model", devce="cpu")
    for name in ("device_map", "num_workers", "image_processor", "revision"):
        with pytest.raises(TypeError, match=f"Available: .*{name}"):
            clip_hf.pipeline(model, tiny_processor, frobnicate=1)


def test_a_device_map_is_for_models_that_are_loaded(repo, model, tiny_processor, images):
    pipe = clip_hf.pipeline(repo, device_map="cpu")
    assert pipe.device == torch.device("cpu")
    assert_same(pipe(images, LABELS), make_pipe(model, tiny_processor)(images, LABELS))
    with pytest.raises(ValueError, match="but found nowhere"):  # it reaches transformers
        clip_hf.pipeline(repo, device_map="nowhere")
    with pytest.raises(ValueError, match="`device_map` places a model as it is loaded; this one is in memory"):
        clip_hf.pipeline(model, tiny_processor, device_map="cpu")


def test_options_are_checked(model, tiny_processor):
    with pytest.raises(TypeError, match="Unknown option `topk` of the pipeline. Did you mean `top_k`"):
        clip_hf.pipeline(model, tiny_processor, topk=3)
    with pytest.raises(ValueError, match="There is no tokenizer: the processor is a ClipHFImageProcessor"):
        clip_hf.pipeline(model, tiny_processor.image_processor)
    with pytest.raises(ValueError, match="scores with a sigmoid and a bias"):
        clip_hf.pipeline(tiny_siglip(), tiny_processor)


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "labels",
    [
        range(3),
        {0: "cat", 1: "two dogs"}.values(),
        {"cat": 0, "two dogs": 1}.keys(),
        {"cat", "two dogs"},
        frozenset({"cat", "two dogs"}),
        np.array(["cat", "two dogs"]),
        np.arange(3),
        pandas.Series(["cat", "two dogs"], index=[7, 9]),
        pandas.Index(["cat", "two dogs"]),
        datasets.Dataset.from_dict({"label": ["cat", "two dogs"]})["label"],
        collections.deque(["cat", "two dogs"]),
        ["cat", 3],
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_labels_that_the_stock_pipeline_takes(model, pipe, tiny_processor, images, labels):
    stock = make_pipe(model, tiny_processor, ZeroShotImageClassificationPipeline)
    expected = [stock(image, labels) for image in images]
    assert_same(pipe(images, labels), expected)
    types = {type(entry["label"]) for entry in expected[0]} - {np.int64}  # which JSON does not take
    assert {type(entry["label"]) for entry in pipe(images[0], labels)} == (types or {int})
    json.dumps(pipe(images[0], labels))
    prompts = [[TEMPLATE.format(label)] for label in labels]
    assert len({e["score"] for e in expected[0]}) == len(prompts) > 1  # or equal scores would show nothing


def test_a_generator_of_labels(pipe, images):
    assert_same(pipe(images, (label for label in LABELS)), pipe(images, LABELS))
    given = iter(LABELS)
    assert_same(make_pipe(pipe.model, pipe, candidate_labels=given)(images), pipe(images, LABELS))


def test_labels_passed_as_one_are_said(model, tiny_processor, images, caplog):
    pipe = make_pipe(model, tiny_processor)
    assert pipe(images[0], ["red, light blue"]) == [{"score": 1.0, "label": "red, light blue"}]
    (message,) = caplog.messages
    assert message.startswith("There is one label only, 'red, light blue', which is the answer for every image.")
    assert message.endswith("Pass ['red', 'light blue'], or on the command line `--labels red 'light blue'`.")
    caplog.clear()
    for labels in (["red, blue", "green"], ["red"], ["red,"], [7]):
        pipe(images[0], labels)
    assert not caplog.messages


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_warnings_are_said_once_and_by_the_first_process(model, tiny_processor, caplog, monkeypatch, rank):
    """As of a training, each of whose processes encodes the labels again after every epoch."""
    zero_shot_clip_hf.logger.warning_once.cache_clear()
    if rank is not None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    for _ in range(2):
        build_text_classifier(model, tiny_processor, ["bird", "Bird", "bee " * CONTEXT_LENGTH])
    assert len(caplog.messages) == (0 if rank == 1 else 2)


def test_labels_that_the_model_cannot_tell_apart_are_said(model, tiny_processor, images, caplog):
    pipe = make_pipe(model, tiny_processor)
    long = "the number seven " * CONTEXT_LENGTH
    labels = [f"{long} one", "letter_A", "cat", "letter_a", f"{long} two"]
    scores = by_label(pipe(images[0], labels))
    assert scores[labels[0]] == pytest.approx(scores[labels[4]], abs=1e-5)
    assert scores["letter_A"] == pytest.approx(scores["letter_a"], abs=1e-5)
    pipe(images[1], labels)
    cut, alike = caplog.messages  # once
    assert "'This is a photo of the number seven the  ... ber seven  one." in cut
    assert f"has 155 tokens, but at most {CONTEXT_LENGTH} fit: it is cut, and so is 1 more of the 5 prompts" in cut
    assert alike.count(";") == 1 and "'letter_A', 'letter_a'" in alike and alike.count("'the number seven the") == 2
    caplog.clear()
    pipe(images[0], labels[:3])
    assert "fit: it is cut. Shorten it" in caplog.messages[0] and len(caplog.messages) == 1
    caplog.clear()
    pipe(images[0], labels[:3], tokenizer_kwargs={"truncation": True})
    pipe(images[0], ["cat", "dog"], hypothesis_template=["a photo of a {}.", "a {}"])
    assert not caplog.messages
    pipe(images[0], ["Cat", "cat", "dog"], hypothesis_template=["a photo of a {}.", "a {}"])
    assert "'Cat', 'cat'." in caplog.messages[0]
    caplog.clear()
    # All templates must agree: these labels have one prompt in common.
    pipe(images[0], ["cat", "dog"], hypothesis_template={"cat": ["a pet", "a cat"], "dog": ["a pet", "a dog"]})
    assert not caplog.messages


# -------------------------------------------------------------------------------------- transformers' own `pipeline()`


def test_the_pipeline_function(tower, tiny_model, tiny_processor, images, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    expected = make_pipe(tiny_model, tiny_processor)(images, LABELS)
    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path), device="cpu")
    assert type(pipe) is ClipHFZeroShotImageClassificationPipeline
    assert isinstance(pipe, ZeroShotImageClassificationPipeline)
    assert_same(pipe(images, LABELS), expected)
    pipe = pipeline(
        "zero-shot-image-classification",
        model=tiny_model,
        tokenizer=tiny_processor.tokenizer,
        image_processor=tiny_processor.image_processor,
        device="cpu",
        top_k=1,
        batch_size=2,
    )
    assert_same(pipe(images, LABELS), [result[:1] for result in expected])


def test_dtype_through_the_pipeline_function(tiny_model, tiny_processor, images, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path), dtype=torch.bfloat16, device="cpu")
    assert pipe.model.dtype == torch.bfloat16
    assert len(pipe(images, LABELS, batch_size=2)) == len(images)


def test_a_saved_pipeline_loads_again(tiny_model, tiny_processor, images, tmp_path):
    pipe = make_pipe(tiny_model, tiny_processor)
    pipe.save_pretrained(tmp_path)
    processor_config = json.loads((tmp_path / "processor_config.json").read_text())
    assert processor_config["auto_map"]["AutoProcessor"] == "processing_clip_hf.ClipHFProcessor"
    again = pipeline("zero-shot-image-classification", model=str(tmp_path), device="cpu")
    assert type(again) is ClipHFZeroShotImageClassificationPipeline
    assert_same(again(images, LABELS), pipe(images, LABELS))


def test_peft_models_work(model, tiny_processor, images):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    peft_model = get_peft_model(make_tiny_model("vit"), lora)
    pipe = pipeline(
        "zero-shot-image-classification",
        model=peft_model,
        tokenizer=tiny_processor.tokenizer,
        image_processor=tiny_processor.image_processor,
        device="cpu",
    )
    assert type(pipe) is ClipHFZeroShotImageClassificationPipeline
    with_lora = pipe(images, LABELS)
    with peft_model.disable_adapter():
        assert_same(pipe(images, LABELS), make_pipe(model, tiny_processor)(images, LABELS))
    assert_same(pipe(images, LABELS), with_lora)
    assert by_label(with_lora[0]) != pytest.approx(
        by_label(make_pipe(model, tiny_processor)(images[0], LABELS)), abs=1e-3
    )


# -------------------------------------------------------------------------------------- options of `clip_hf.pipeline`


def test_dtypes_by_either_name(model, tiny_processor, tmp_path):
    model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    for options in ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16}, {"torch_dtype": torch.bfloat16}):
        assert clip_hf.pipeline(tmp_path, **options).model.dtype == torch.bfloat16
        assert clip_hf.pipeline(make_tiny_model("vit"), tiny_processor, **options).model.dtype == torch.bfloat16
    for source in (tmp_path, model):
        for dtype in ("flot16", "int8", 16):
            with pytest.raises(ValueError, match=f"`dtype` is {dtype!r}; it must be"):
                clip_hf.pipeline(source, tiny_processor, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_what_suits_the_device(model, tiny_processor, tmp_path, monkeypatch, dtype):
    asked = []
    monkeypatch.setattr(clip_hf.utils.dtypes, "pick_dtype", lambda device: asked.append(str(device)) or dtype)
    model.save_pretrained(tmp_path)
    for device in ("cpu", torch.device("cpu"), -1):
        for source in (tmp_path, make_tiny_model("vit")):
            pipe = clip_hf.pipeline(source, tiny_processor, dtype="auto", device=device)
            assert (pipe.model.dtype, asked.pop()) == (dtype, "cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    for device_map in ("cpu", {"": "cpu"}):
        assert clip_hf.pipeline(tmp_path, tiny_processor, dtype="auto", device_map=device_map).model.dtype == dtype
        assert asked.pop() == "cpu"
    clip_hf.pipeline(tmp_path, tiny_processor, dtype="auto")
    assert asked == ["cuda"]


def test_parts_may_be_named_by_their_folder(model, tiny_processor, images, tmp_path):
    tiny_processor.tokenizer.save_pretrained(tmp_path / "texts")
    tiny_processor.image_processor.save_pretrained(tmp_path / "images")
    parts = {"tokenizer": str(tmp_path / "texts"), "image_processor": tmp_path / "images"}
    assert_same(
        clip_hf.pipeline(model, **parts)(images, LABELS), clip_hf.pipeline(model, tiny_processor)(images, LABELS)
    )


def test_the_task_may_be_named(model, tiny_processor):
    assert clip_hf.pipeline(model, tiny_processor, task=TASK).task == TASK
    with pytest.raises(ValueError, match="`task` is .*image-classification. or .zero-shot-video-classification."):
        clip_hf.pipeline(model, tiny_processor, task="image-classification")
