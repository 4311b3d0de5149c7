# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Auto classes and `pipeline` give our classes for our repos, and stock classes, unchanged, for all others."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
    pipeline,
)
from transformers.models.auto import video_processing_auto
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

import clip_hf
from clip_hf import (
    ClipHFConfig,
    ClipHFForImageClassification,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFResNetConfig,
    ClipHFResNetModel,
    ClipHFTextConfig,
    ClipHFTextEncoder,
    ClipHFTextModel,
    ClipHFTextModelWithProjection,
    ClipHFTokenizer,
    ClipHFVisionModelWithProjection,
    ClipHFViTConfig,
    ClipHFViTModel,
    ClipHFZeroShotImageClassificationPipeline,
)
from tiny_models import IMAGE_SIZE, as_transformers_clip, make_tiny_model


TASK = "zero-shot-image-classification"
LABELS = ["cat", "dog", "number seven"]


@pytest.fixture
def repo(tiny_model, tiny_processor, tmp_path):
    """The folder of a saved model and processor of ours."""
    tiny_model.save_pretrained(tmp_path / "repo")
    tiny_processor.save_pretrained(tmp_path / "repo")
    return tmp_path / "repo"


def stock_tokenizer(vocab_size=600):
    """transformers' CLIPTokenizer with bytes and special tokens only."""
    from tokenizers.pre_tokenizers import ByteLevel

    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=24)


@pytest.fixture
def stock_repo(tmp_path):
    """The folder of a saved CLIP of transformers."""
    tokenizer = stock_tokenizer()
    model = as_transformers_clip(make_tiny_model("vit"))
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    model.save_pretrained(tmp_path / "stock")
    CLIPProcessor(image_processor, tokenizer).save_pretrained(tmp_path / "stock")
    return tmp_path / "stock"


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        (AutoConfig, ClipHFConfig),
        (AutoModel, ClipHFModel),
        (AutoModelForZeroShotImageClassification, ClipHFModel),
        (AutoProcessor, ClipHFProcessor),
        (AutoImageProcessor, ClipHFImageProcessor),
        (AutoTokenizer, ClipHFTokenizer),
    ],
)
@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}])
def test_auto_classes_give_the_installed_classes(repo, auto_class, expected, trust):
    assert type(auto_class.from_pretrained(repo, **trust)) is expected


def test_the_processors_parts_are_ours(repo):
    for trust in ({}, {"trust_remote_code": True}):
        processor = AutoProcessor.from_pretrained(repo, **trust)
        assert type(processor.image_processor) is ClipHFImageProcessor
        assert type(processor.tokenizer) is ClipHFTokenizer


def test_auto_model_for_image_classification(tower, tmp_path):
    config = make_tiny_model(tower).config
    ClipHFForImageClassification(config).save_pretrained(tmp_path)
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is ClipHFForImageClassification
    assert type(AutoModelForImageClassification.from_config(config)) is ClipHFForImageClassification


@pytest.mark.parametrize(
    ("make", "config_class", "auto"),
    [
        (lambda config: ClipHFTextModel(config.text_config), ClipHFTextConfig, ClipHFTextModel),
        (lambda config: ClipHFTextModelWithProjection(config.text_config), ClipHFTextConfig, ClipHFTextModel),
        (lambda config: ClipHFTextEncoder(config.text_config), ClipHFTextConfig, ClipHFTextModel),
        (lambda config: ClipHFViTModel(config.vision_config), ClipHFViTConfig, ClipHFViTModel),
        (lambda config: ClipHFVisionModelWithProjection(config.vision_config), ClipHFViTConfig, ClipHFViTModel),
    ],
    ids=["text", "text with projection", "text encoder", "vit", "vit with projection"],
)
def test_towers(tmp_path, make, config_class, auto):
    model = make(make_tiny_model("vit").config)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is config_class
    assert type(AutoModel.from_pretrained(tmp_path)) is auto


def test_resnet_tower_and_the_components_of_a_tower(tmp_path, tiny_processor):
    config = make_tiny_model("resnet").config
    ClipHFResNetModel(config.vision_config).save_pretrained(tmp_path / "vision")
    tiny_processor.image_processor.save_pretrained(tmp_path / "vision")
    assert type(AutoConfig.from_pretrained(tmp_path / "vision")) is ClipHFResNetConfig
    assert type(AutoModel.from_pretrained(tmp_path / "vision")) is ClipHFResNetModel
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "vision")) is ClipHFImageProcessor
    ClipHFTextModel(config.text_config).save_pretrained(tmp_path / "text")
    tiny_processor.tokenizer.save_pretrained(tmp_path / "text")
    for trust in ({}, {"trust_remote_code": False}):
        assert type(AutoTokenizer.from_pretrained(tmp_path / "text", **trust)) is ClipHFTokenizer


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}])
def test_the_pipeline_of_a_repo(repo, images, trust):
    pipe = pipeline(TASK, model=str(repo), device="cpu", **trust)
    assert type(pipe) is ClipHFZeroShotImageClassificationPipeline
    assert type(pipe.model) is ClipHFModel
    assert type(pipe.tokenizer) is ClipHFTokenizer
    assert type(pipe.image_processor) is ClipHFImageProcessor
    assert len(pipe(images, LABELS, top_k=2)[0]) == 2


PIPELINES = {
    "zero-shot-image-classification": lambda pipe, image: pipe(image, LABELS),
    "image-classification": lambda pipe, image: pipe(image),
    "image-feature-extraction": lambda pipe, image: pipe(image),
    "feature-extraction": lambda pipe, image: pipe("a cat"),
}
PARTS = {
    "one by one": (lambda model: model, "tokenizer", "image_processor"),
    "in the other order": ("image_processor", "tokenizer", lambda model: model),
    "classifier": (lambda model: ClipHFForImageClassification(model.config), "image_processor"),
    "vision tower": (lambda model: model.vision_model, "image_processor"),
    "text tower": (lambda model: model.text_model, "tokenizer"),
}
SERVED = {  # task -> what it is run with
    "zero-shot-image-classification": ("one by one", "in the other order"),
    "image-classification": ("one by one", "classifier"),
    "image-feature-extraction": ("one by one", "vision tower"),
    "feature-extraction": ("one by one", "text tower"),
}


@pytest.fixture
def asks(monkeypatch):
    """What transformers asks of the user: whether to run a folder's own code. The answer is no."""
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "n")
    return questions


def save_parts(tiny_model, tiny_processor, parts, folder):
    for part in PARTS[parts]:
        (getattr(tiny_processor, part) if isinstance(part, str) else part(tiny_model)).save_pretrained(folder)


@pytest.mark.parametrize(("task", "parts"), [(task, parts) for task in SERVED for parts in SERVED[task]])
def test_pipelines_of_parts_saved_one_by_one_ask_nothing(
    tiny_model, tiny_processor, images, tmp_path, asks, task, parts
):
    save_parts(tiny_model, tiny_processor, parts, tmp_path)
    pipe = pipeline(task, model=str(tmp_path), device="cpu")
    assert PIPELINES[task](pipe, images[0])
    assert type(pipe.model).__module__.startswith("clip_hf.")
    assert not asks


@pytest.mark.parametrize("parts", PARTS)
def test_no_auto_class_asks(tiny_model, tiny_processor, tmp_path, asks, parts):
    save_parts(tiny_model, tiny_processor, parts, tmp_path)
    loads = (AutoConfig, AutoModel, AutoTokenizer, AutoImageProcessor, AutoProcessor)
    loaded = set()
    for auto_class in (*loads, AutoVideoProcessor, transformers.AutoFeatureExtractor):
        try:
            auto_class.from_pretrained(tmp_path)
            loaded.add(auto_class)
        except (ValueError, OSError) as error:
            assert "custom code" not in str(error)
    assert not asks
    # As a whole CLIP, a classifier would have a random text tower.
    always = {AutoConfig} if parts == "classifier" else {AutoConfig, AutoModel}
    assert always <= loaded <= set(loads) - ({AutoModel} - always)


def test_a_video_processor_is_refused_with_the_reason(tiny_processor, tmp_path, asks):
    tiny_processor.image_processor.save_pretrained(tmp_path)  # alone, without a config
    with pytest.raises(ValueError, match="has no video processor, because CLIP takes images"):
        AutoVideoProcessor.from_pretrained(tmp_path)
    assert not asks


def test_another_pipeline_class_can_be_asked_for(repo):
    pipe = pipeline(TASK, model=str(repo), device="cpu", pipeline_class=ZeroShotImageClassificationPipeline)
    assert type(pipe) is ZeroShotImageClassificationPipeline


def test_registering_again_changes_nothing():
    def state():
        mappings = (
            transformers.CONFIG_MAPPING,
            transformers.MODEL_MAPPING,
            transformers.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
            transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
            transformers.PROCESSOR_MAPPING,
            transformers.IMAGE_PROCESSOR_MAPPING,
            transformers.TOKENIZER_MAPPING,
            video_processing_auto.VIDEO_PROCESSOR_MAPPING,
        )
        tasks = {task: dict(info) for task, info in PIPELINE_REGISTRY.supported_tasks.items()}
        return [dict(mapping._extra_content) for mapping in mappings], tasks

    before = state()
    clip_hf.register()
    assert state() == before


def test_every_backend_of_image_processors_is_ours(repo):
    for config in (ClipHFConfig, ClipHFViTConfig, ClipHFResNetConfig):
        backends = transformers.IMAGE_PROCESSOR_MAPPING[config]
        assert backends == {"pil": ClipHFImageProcessor, "torchvision": ClipHFImageProcessor}
    for backend in ("pil", "torchvision"):
        assert type(AutoImageProcessor.from_pretrained(repo, backend=backend)) is ClipHFImageProcessor


def test_a_model_of_a_repos_own_code_is_told_by_its_type(tiny_processor):
    """Its config is of another class of the same type."""

    class OtherConfig(ClipHFConfig):
        pass

    model = make_tiny_model("vit")
    model.config.__class__ = OtherConfig
    parts = {"tokenizer": tiny_processor.tokenizer, "image_processor": tiny_processor.image_processor}
    pipe = pipeline(TASK, model=model, device="cpu", **parts)
    assert type(pipe) is ClipHFZeroShotImageClassificationPipeline


def test_the_exported_classes_are_handed_what_they_cannot_import():
    assert ClipHFModel.read_other_format is clip_hf.registration.from_pretrained
    assert ClipHFProcessor.read_other_format is clip_hf.registration.processor_from_pretrained
    assert ClipHFModel.push_with_card is clip_hf.registration.push_with_model_card


def test_the_task_keeps_its_defaults():
    info = PIPELINE_REGISTRY.supported_tasks[TASK]
    assert info["pt"] == (AutoModelForZeroShotImageClassification,)
    assert info["default"] == {"model": ("openai/clip-vit-base-patch32", "3d74acf")}
    assert info["type"] == "multimodal"
    assert not hasattr(ClipHFZeroShotImageClassificationPipeline, "_registered_impl")
    assert issubclass(info["impl"], ZeroShotImageClassificationPipeline)


def test_stock_clip_stays_stock(stock_repo, images):
    assert type(AutoConfig.from_pretrained(stock_repo)) is CLIPConfig
    assert type(AutoModel.from_pretrained(stock_repo)) is CLIPModel
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(stock_repo)) is CLIPModel
    processor = AutoProcessor.from_pretrained(stock_repo)
    assert type(processor) is CLIPProcessor
    assert type(processor.tokenizer) is CLIPTokenizer
    assert type(processor.image_processor) is CLIPImageProcessorPil
    pipe = pipeline(TASK, model=str(stock_repo), device="cpu")
    assert type(pipe) is ZeroShotImageClassificationPipeline
    assert type(pipe.model) is CLIPModel
    # The stock pipeline does not truncate, so with bytes for tokens the template has to be short.
    scores = [entry["score"] for entry in pipe(images[0], LABELS, hypothesis_template="{}")]
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_saving_stock_models_leaves_no_trace_of_ours(stock_repo, tmp_path):
    pipeline(TASK, model=str(stock_repo), device="cpu").save_pretrained(tmp_path / "again")
    files = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert "config.json" in files and not any(name.endswith(".py") for name in files)
    for path in (tmp_path / "again").glob("*.json"):
        text = path.read_text(encoding="utf-8").lower()
        assert "clip_hf" not in text and "cliphf" not in text
        assert not {"auto_map", "custom_pipelines"} & json.loads(text).keys()


def tiny_siglip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": 600, "max_position_embeddings": 64, "projection_size": 16},
        vision_config={**sizes, "image_size": IMAGE_SIZE, "patch_size": 16},
    )
    return SiglipModel(config).eval()


def test_siglips_scores_stay_its_own(images, tiny_processor):
    parts = {"tokenizer": stock_tokenizer(), "image_processor": tiny_processor.image_processor, "device": "cpu"}
    model = tiny_siglip()
    pipe = pipeline(TASK, model=model, **parts)
    assert type(pipe) is ZeroShotImageClassificationPipeline
    expected = ZeroShotImageClassificationPipeline(model=model, **parts)(images, LABELS)
    assert pipe(images, LABELS) == expected
    assert abs(sum(entry["score"] for entry in expected[0]) - 1) > 0.1  # a sigmoid of each, not a softmax


IMPORT = """
import os, sys, time, warnings
import torch, transformers
from transformers.pipelines import PIPELINE_REGISTRY
import transformers.modeling_utils
environment, filters = dict(os.environ), list(warnings.filters)
before = set(sys.modules)
theirs = time.process_time()
import clip_hf
ours = time.process_time() - theirs
assert dict(os.environ) == environment, "environment"
heavy = {name.split(".")[0] for name in set(sys.modules) - before} & {
    "accelerate", "datasets", "emoji", "evaluate", "matplotlib", "pandas", "peft", "resvg_py", "sklearn"}
assert not heavy, heavy
assert ours < theirs / 2, f"{ours} s of the processor, after {theirs} s"
"""


def test_importing_is_quick_and_needs_no_extras():
    """Beyond torch and transformers themselves, it takes little and pulls in no optional package."""
    result = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
