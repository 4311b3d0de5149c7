# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The registry of datasets: complete, consistent with the class names and prompts, and read without an import."""

import json
from collections import Counter
from pathlib import Path

import pytest

from clip_hf.data import OPENMOJI_TEMPLATES
from clip_hf.data.built_in_datasets import BUILT_IN_DATASETS
from clip_hf.evaluation.numerics.metrics import CLASSIFICATION_METRICS
from clip_hf.evaluation.registry.dataset_registry import (
    dataset_names,
    get_dataset,
    imagenet_subsets,
    load_class_names,
    load_templates,
    registry_name,
)


# The paper's suite (appendix A.1, table 9), with those that are not scored by plain accuracy.
PAPER_METRICS = {
    **dict.fromkeys(
        (
            "birdsnap cars cifar10 cifar100 clevr_counts country211 dtd eurosat fer2013 food101 gtsrb imagenet "
            "kitti_distance mnist patch_camelyon rendered_sst2 resisc45 stl10 sun397 ucf101"
        ).split(),
        "top1",
    ),
    **dict.fromkeys(("fgvc_aircraft", "pets", "caltech101", "flowers102"), "mean_per_class"),
    "voc2007": "map_11point",
    "kinetics700": "top1_top5_mean",
    "hateful_memes": "roc_auc",
}


def test_the_papers_27_datasets_and_their_metrics():
    assert len(PAPER_METRICS) == 27
    assert {name: get_dataset(name).metric for name in dataset_names(suite="paper")} == PAPER_METRICS


@pytest.mark.parametrize("name", dataset_names("classification"))
def test_classification_entries_are_consistent(name):
    entry = get_dataset(name)
    assert entry.name == name and entry.title
    assert entry.metric in CLASSIFICATION_METRICS
    assert "test" in entry.splits
    assert entry.label_column
    assert entry.hub_id or name in BUILT_IN_DATASETS or entry.notes  # what has no place says why
    templates = load_templates(entry.prompts)
    assert all("{}" in template for template in templates)
    if entry.class_names not in (None, "features"):
        assert len(load_class_names(entry.class_names)) == entry.num_classes


@pytest.mark.parametrize("name", dataset_names("retrieval"))
def test_retrieval_entries_are_consistent(name):
    entry = get_dataset(name)
    assert entry.caption_column and "test" in entry.splits
    assert entry.hub_id or name in BUILT_IN_DATASETS


def test_the_documentation_lists_every_dataset():
    page = Path(__file__).resolve().parents[3] / "docs" / "evaluation" / "datasets.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for name in dataset_names():
        entry = get_dataset(name)
        (row,) = (row for row in rows if row.startswith(f"| `{name}` |") and (entry.hub_id or "|") in row)
        assert entry.metric == "recall" or f"`{entry.metric}`" in row


def test_tasks_of_an_entry():
    assert get_dataset("openmoji").tasks == ("classification", "retrieval")
    assert get_dataset("mscoco").tasks == ("retrieval",)
    assert get_dataset("pets").tasks == ("classification",)


@pytest.mark.parametrize("spelling", ["imagenet_a", "imagenet-a", "ImageNet-A"])
def test_capitals_and_hyphens_do_not_matter(spelling):
    assert registry_name(spelling) == "imagenet_a"
    assert get_dataset(spelling).name == "imagenet_a"


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match="no dataset 'food-10'.*Did you mean 'food101'"):
        get_dataset("food-10")
    with pytest.raises(ValueError, match="'classification', 'retrieval'"):
        dataset_names("detection")
    with pytest.raises(ValueError, match="'paper'"):
        dataset_names(suite="papers")


# --------------------------------------------------------------------------------------------------------- class names


def test_class_names_hold_no_blank_and_no_copy_but_imagenets_two():
    for name in dataset_names("classification"):
        source = get_dataset(name).class_names
        if source in (None, "features"):
            continue
        names = load_class_names(source)
        assert all(name.strip() for name in names)
        repeated = [name for name, count in Counter(names).items() if count > 1]
        assert set(repeated) <= {"missile", "sunglasses"}


def test_names_at_known_places():
    assert load_class_names("class_names.json#imagenet")[:2] == ["tench", "goldfish"]
    assert load_class_names("class_names.json#imagenet")[999] == "toilet paper"
    assert load_class_names("class_names.json#cars")[0] == "AM General Hummer SUV 2000"
    assert load_class_names("class_names.json#cars")[195] == "smart fortwo Convertible 2012"
    assert load_class_names("class_names.json#sun397")[396] == "youth hostel"
    assert load_class_names("class_names.json#clevr_counts") == ["3", "4", "5", "6", "7", "8", "9", "10"]


def test_imagenet_subsets():
    subsets = imagenet_subsets()
    assert subsets["synsets"][0] == "n01440764" and len(set(subsets["synsets"])) == 1000
    assert subsets["synsets"] == sorted(subsets["synsets"])
    assert len(set(subsets["imagenet-a"])) == len(set(subsets["imagenet-r"])) == 200
    classes = [label for entry in subsets["objectnet"].values() for label in entry["classes"]]
    assert len(subsets["objectnet"]) == 113 and len(classes) == len(set(classes)) == 125
    # ImageNet-A's first folder is n01498041, a stingray.
    assert load_class_names("imagenet_subsets.json#imagenet-a")[0] == "stingray"
    assert subsets["objectnet"]["alarm_clock"] == {"name": "alarm clock", "classes": [409, 530]}


def test_class_names_from_files(tmp_path):
    (tmp_path / "names.txt").write_text("cat\nmaine coon\n\n", encoding="utf-8")
    (tmp_path / "names.json").write_text('["cat", "dog"]', encoding="utf-8")
    assert load_class_names(tmp_path / "names.txt") == ["cat", "maine coon"]
    assert load_class_names(str(tmp_path / "names.json")) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "list of at least one"), ('["cat", " "]', "class 1 is ' '"), ("[1]", "class 0 is 1"), ("no", "no JSON")],
)
def test_files_without_class_names(tmp_path, content, message):
    (tmp_path / "names.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_class_names(tmp_path / "names.json")


def test_unknown_class_names():
    with pytest.raises(ValueError, match="no 'pet'.*Did you mean 'pets'"):
        load_class_names("class_names.json#pet")
    with pytest.raises(ValueError, match="neither a file"):
        load_class_names("pets")


# ------------------------------------------------------------------------------------------------------------- prompts


@pytest.fixture
def clip_benchmark(tmp_path, monkeypatch):
    """A clip-benchmark that must not be imported."""
    folder = tmp_path / "clip_benchmark" / "datasets"
    folder.mkdir(parents=True)
    (tmp_path / "clip_benchmark" / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    names = {"pets": ["Birman", "beagle"]}
    templates = {"pets": ["a photo of a {c}, a pet."], "own": {"Birman": ["a cat, the {c}."]}}
    (folder / "en_classnames.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "en_zeroshot_classification_templates.json").write_text(json.dumps(templates), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from clip_hf.evaluation.registry import dataset_registry as registry

    registry._clip_benchmark_data.cache_clear()
    yield
    registry._clip_benchmark_data.cache_clear()


@pytest.mark.usefixtures("clip_benchmark")
def test_names_and_prompts_of_an_installed_clip_benchmark():
    assert load_class_names("clip_benchmark:pets") == ["Birman", "beagle"]
    assert load_templates("clip_benchmark:pets") == ("a photo of a {}, a pet.",)
    assert load_templates("clip_benchmark:own") == {"Birman": ("a cat, the {}.",)}
    with pytest.raises(ValueError, match="no 'dogs'"):
        load_templates("clip_benchmark:dogs")


def test_clip_benchmark_that_is_not_installed(monkeypatch):
    from clip_hf.evaluation.registry import dataset_registry as registry

    registry._clip_benchmark_data.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install clip-benchmark"):
        load_templates("clip_benchmark:pets")


def test_templates_from_everywhere(tmp_path):
    (tmp_path / "own.txt").write_text("a {}.\nthe {}.\n", encoding="utf-8")
    assert load_templates("pets") == ("a photo of a {}, a type of pet.",)
    assert load_templates("openmoji") == OPENMOJI_TEMPLATES
    assert load_templates(str(tmp_path / "own.txt")) == ("a {}.", "the {}.")
    assert load_templates("a {}!") == ("a {}!",)
    assert load_templates(["a {}", "the {label}"]) == ("a {}", "the {label}")
    with pytest.raises(ValueError, match="Did you mean 'pets'"):
        load_templates("petz")
