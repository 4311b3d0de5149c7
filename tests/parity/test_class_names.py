# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Class names and prompts against those that clip-benchmark's own files hold, which are OpenAI's too."""

import importlib.util
import json
import sys

import pytest

import references
from clip_hf.evaluation.registry import dataset_registry as registry


DATASETS = references.PARITY_FOLDER / "clip_benchmark" / "datasets"
# Ours -> the key in clip-benchmark's file.
SAME_NAMES = {
    "caltech101": "caltech101_vtab",
    "country211": "country211",
    "eurosat": "eurosat",
    "fer2013": "fer2013",
    "flowers102": "flowers",
    "gtsrb": "gtsrb",
    "imagenet": "imagenet1k",
    "kitti_distance": "kitti_closest_vehicle_distance",
    "mnist": "mnist",
    "patch_camelyon": "pcam",
    "pets": "pets",
    "svhn": "svhn",
}
# Registry name -> the key of its prompts; those left out are worded otherwise there than in OpenAI's list.
SAME_PROMPTS = {
    "caltech101": "caltech101",
    "cars": "cars",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "country211": "country211",
    "dtd": "dtd",
    "eurosat": "eurosat",
    "fer2013": "fer2013",
    "fgvc_aircraft": "fgvc_aircraft",
    "flowers102": "flowers",
    "food101": "food101",
    "gtsrb": "gtsrb",
    "imagenet": "imagenet1k",
    "mnist": "mnist",
    "pets": "pets",
    "rendered_sst2": "renderedsst2",
    "stl10": "stl10",
    "sun397": "sun397",
    "voc2007": "voc2007_multilabel",
}


@pytest.fixture(autouse=True)
def parity_folder_is_searched(monkeypatch):
    monkeypatch.syspath_prepend(references.PARITY_FOLDER)
    registry._clip_benchmark_data.cache_clear()
    yield
    registry._clip_benchmark_data.cache_clear()


@pytest.mark.parametrize(("name", "key"), SAME_NAMES.items())
def test_class_names(name, key):
    assert registry.load_class_names(f"class_names.json#{name}") == registry.load_class_names(f"clip_benchmark:{key}")


@pytest.mark.parametrize(("name", "key"), SAME_PROMPTS.items())
def test_prompts(name, key):
    ours = registry.load_templates(registry.get_dataset(name).prompts)
    theirs = registry.load_templates(f"clip_benchmark:{key}")
    assert sorted(ours) == sorted(theirs)


def test_all_of_clip_benchmarks_files_can_be_used():
    keys = json.loads((DATASETS / "en_zeroshot_classification_templates.json").read_text(encoding="utf-8"))
    loaded = {key: registry.load_templates(f"clip_benchmark:{key}") for key in keys}
    assert all(templates and all("{c}" not in template for template in templates) for templates in loaded.values())


def test_clip_benchmark_is_not_imported():
    assert importlib.util.find_spec("clip_benchmark") is not None
    registry.load_class_names("clip_benchmark:pets")
    assert "clip_benchmark" not in sys.modules


def test_imagenet_subsets_are_timms():
    info = references.PARITY_FOLDER / "timm" / "data" / "_info"
    subsets = registry.imagenet_subsets()
    assert subsets["synsets"] == (info / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    for name in ("imagenet-a", "imagenet-r"):
        indices = (info / f"{name.replace('-', '_')}_indices.txt").read_text(encoding="utf-8").split()
        assert subsets[name] == [int(index) for index in indices]


def test_objectnets_classes_are_named_as_imagenets():
    info = references.PARITY_FOLDER / "timm" / "data" / "_info"
    lines = (info / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t") for line in lines)
    subsets = registry.imagenet_subsets()
    named = {
        folder: [lemmas[subsets["synsets"][label]] for label in entry["classes"]]
        for folder, entry in subsets["objectnet"].items()
    }
    assert sorted(named["chair"]) == ["barber chair", "folding chair", "rocking chair, rocker"]
    assert named["weight_exercise"] == ["dumbbell"] and named["still_camera"][0].startswith("Polaroid camera")
    same = [folder for folder, names in named.items() if any(folder.replace("_", " ") in name for name in names)]
    assert len(same) > 70  # most have ImageNet's word for it
