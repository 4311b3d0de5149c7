# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A saved repo loads in a fresh process without clip_hf, by plain transformers with `trust_remote_code=True`."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import pipeline

from clip_hf import ClipHFForImageClassification, ClipHFTextModelWithProjection
from tiny_models import make_tiny_model
from without_clip_hf import run_without_clip_hf


TASK = "zero-shot-image-classification"
LABELS = ["cat", "dog", "number seven"]
CLASSES = ["ClipHFZeroShotImageClassificationPipeline", "ClipHFModel", "ClipHFTokenizer", "ClipHFImageProcessor"]

LOAD_EVERYTHING = """
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, AutoTokenizer,
    pipeline,
)

image = Image.open(f"{folder}/image.png")
labels = json.load(open(f"{folder}/labels.json"))
trust = {"trust_remote_code": True}
names = {auto.__name__: is_remote(auto.from_pretrained(repo, **trust)) for auto in (
    AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, AutoTokenizer, AutoImageProcessor)}
processor = AutoProcessor.from_pretrained(repo, **trust)
names["parts"] = [is_remote(processor.tokenizer), is_remote(processor.image_processor)]
result = {"names": names, "scores": [], "pipelines": []}
for arguments in ((TASK, repo), (None, repo)):
    pipe = pipeline(*arguments, device="cpu", **trust)
    result["pipelines"].append([is_remote(x) for x in (pipe, pipe.model, pipe.tokenizer, pipe.image_processor)])
    result["scores"].append(pipe(image, labels, hypothesis_template="openai_imagenet_subset", top_k=2))
inputs = processor(text=labels, images=image, padding=True, return_tensors="pt")
model = AutoModel.from_pretrained(repo, **trust)
result["logits"] = model(**inputs).logits_per_image.tolist()
result["config"] = repr(pipe.model.config)

# Saving what was loaded, through each way of loading, gives a repo again.
pipe.save_pretrained(f"{folder}/from pipeline")
AutoModel.from_pretrained(repo, **trust).save_pretrained(f"{folder}/from parts")
processor.save_pretrained(f"{folder}/from parts")
json.dump(result, open(f"{folder}/result.json", "w"))
""".replace("TASK", repr(TASK))

PIPELINES_AGAIN = """
from PIL import Image
from transformers import AutoProcessor, pipeline

image = Image.open(f"{folder}/image.png")
labels = json.load(open(f"{folder}/labels.json"))
scores = []
for again in ("from pipeline", "from parts"):
    pipe = pipeline(model=f"{folder}/{again}", trust_remote_code=True, device="cpu")
    is_remote(pipe)
    processor = AutoProcessor.from_pretrained(f"{folder}/{again}", trust_remote_code=True)
    assert is_remote(processor) == "ClipHFProcessor"
    scores.append(pipe(image, labels, hypothesis_template="openai_imagenet_subset", top_k=2))
json.dump(scores, open(f"{folder}/result.json", "w"))
"""


def save_repo(model, processor, folder, image):
    repo = folder / "our repo-v1.0"  # a name that is no module name
    model.save_pretrained(repo)
    processor.save_pretrained(repo)
    image.save(folder / "image.png")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return repo


def approximately(scores):
    return [{"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-6)} for entry in scores]


@pytest.mark.parametrize("tower", ["vit", pytest.param("resnet", marks=pytest.mark.slow)], indirect=True)
def test_a_repo_loads_without_clip_hf(tower, tiny_processor, images, tmp_path):
    model = make_tiny_model(tower)
    repo = save_repo(model, tiny_processor, tmp_path, images[0])
    pipe = pipeline(TASK, model=str(repo), device="cpu")
    expected = pipe(images[0], LABELS, hypothesis_template="openai_imagenet_subset", top_k=2)

    result = run_without_clip_hf(LOAD_EVERYTHING, repo, tmp_path)
    assert result["names"] == {
        "AutoConfig": "ClipHFConfig",
        "AutoModel": "ClipHFModel",
        "AutoModelForZeroShotImageClassification": "ClipHFModel",
        "AutoProcessor": "ClipHFProcessor",
        "AutoTokenizer": "ClipHFTokenizer",
        "AutoImageProcessor": "ClipHFImageProcessor",
        "parts": ["ClipHFTokenizer", "ClipHFImageProcessor"],
    }
    assert result["pipelines"] == [CLASSES, CLASSES]
    assert result["scores"] == [approximately(expected)] * 2
    inputs = tiny_processor(text=LABELS, images=images[0], padding=True, return_tensors="pt")
    assert result["logits"] == [pytest.approx(model(**inputs).logits_per_image[0].tolist(), abs=1e-4)]
    assert '"model_type": "clip_hf"' in result["config"]

    for name in ("from pipeline", "from parts"):
        assert python_files(tmp_path / name) == python_files(repo)
        again = pipeline(TASK, model=str(tmp_path / name), device="cpu")
        assert again(images[0], LABELS, hypothesis_template="openai_imagenet_subset", top_k=2) == expected
    assert run_without_clip_hf(PIPELINES_AGAIN, repo, tmp_path) == [approximately(expected)] * 2


def python_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


def test_what_a_repo_holds(tiny_processor, images, tmp_path):
    repo = save_repo(make_tiny_model("vit"), tiny_processor, tmp_path, images[0])
    config = json.loads((repo / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_clip_hf.ClipHFConfig",
        "AutoModel": "modeling_clip_hf.ClipHFModel",
        "AutoModelForZeroShotImageClassification": "modeling_clip_hf.ClipHFModel",
    }
    source = Path(__file__).resolve().parents[2] / "src" / "clip_hf" / "model"
    exported = {path.name for path in source.glob("*_clip_hf*.py") if "video" not in path.name}
    assert python_files(repo).keys() == exported
    assert sum(map(len, python_files(repo).values())) < 385_000


OTHER_MODELS = {
    "AutoModelForImageClassification": ClipHFForImageClassification,
    "AutoModel": lambda config: ClipHFTextModelWithProjection(config.text_config),
}

CLASSIFIER_PIPELINE = {
    "image-classification": {
        "impl": "pipeline_clip_hf.ClipHFImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
    }
}

LOAD_OTHER_MODELS = """
import transformers

result = {}
for auto_class in ("AutoModelForImageClassification", "AutoModel"):
    model = getattr(transformers, auto_class).from_pretrained(f"{folder}/{auto_class}", trust_remote_code=True)
    result[auto_class] = [is_remote(model), getattr(model.config, "custom_pipelines", {})]
json.dump(result, open(f"{folder}/result.json", "w"))
"""


@pytest.mark.slow
def test_other_models_name_their_own_class(tmp_path):
    expected = {}
    for auto_class, make in OTHER_MODELS.items():
        model = make(make_tiny_model("vit").config)
        model.save_pretrained(tmp_path / auto_class)
        auto_map = json.loads((tmp_path / auto_class / "config.json").read_text())["auto_map"]
        name = type(model).__name__
        assert auto_map == {
            "AutoConfig": f"configuration_clip_hf.{type(model.config).__name__}",
            auto_class: f"modeling_clip_hf.{name}",
        }
        expected[auto_class] = [name, CLASSIFIER_PIPELINE if "ForImage" in name else {}]
    assert run_without_clip_hf(LOAD_OTHER_MODELS, "no repo", tmp_path) == expected


LOAD_FROM_THE_HUB = """
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

for load in (AutoModel.from_pretrained, AutoProcessor.from_pretrained):
    try:
        load(repo, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error)
    else:
        raise AssertionError("the repo's code was run without trust")
assert not any(name.startswith("transformers_modules.") for name in sys.modules)

image = Image.open(f"{folder}/image.png")
labels = json.load(open(f"{folder}/labels.json"))
pipe = pipeline("zero-shot-image-classification", model=repo, trust_remote_code=True, device="cpu")
classes = [is_remote(x) for x in (pipe, pipe.model, pipe.tokenizer, pipe.image_processor)]
is_remote(AutoProcessor.from_pretrained(repo, trust_remote_code=True))
scores = pipe(image, labels, hypothesis_template="openai_imagenet_subset", top_k=2)
pipe.save_pretrained(f"{folder}/from hub")
json.dump([classes, scores], open(f"{folder}/result.json", "w"))
"""


@pytest.mark.slow
def test_a_repo_of_the_hub_loads_without_clip_hf(tiny_processor, images, tmp_path):
    """Hub repos take other ways through transformers than folders; here from the cache of what was downloaded."""
    repo = save_repo(make_tiny_model("resnet"), tiny_processor, tmp_path, images[0])
    expected = pipeline(TASK, model=str(repo), device="cpu")(
        images[0], LABELS, hypothesis_template="openai_imagenet_subset", top_k=2
    )
    cached, commit = tmp_path / "hub" / "models--some.one--our-clip", "0123456789" * 4
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(repo, cached / "snapshots" / commit)
    classes, scores = run_without_clip_hf(LOAD_FROM_THE_HUB, "some.one/our-clip", tmp_path)
    assert classes == CLASSES
    assert scores == approximately(expected)
    # What is saved again has code of its own, no reference to the hub repo.
    assert python_files(tmp_path / "from hub") == python_files(repo)
    for file in (tmp_path / "from hub").glob("*config.json"):
        assert "--" not in json.dumps(json.loads(file.read_text()).get("auto_map", {}))
