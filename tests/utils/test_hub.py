# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tests of the one question whether the hub can be reached."""

import datasets
import pytest
from huggingface_hub import HfApi

from clip_hf.data import load_pairs, split_names
from clip_hf.embedding import load_dual_encoder
from clip_hf.evaluation import load_classification
from clip_hf.utils import hub


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[str]:
    """The names that a hub was asked for that does not answer."""
    names: list[str] = []

    def repo_info(self, name, **options):
        names.append(name)
        raise OSError("Name or service not known")

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return names


@pytest.mark.parametrize("load", [load_pairs, split_names, load_classification, load_dual_encoder])
def test_a_hub_that_does_not_answer_is_not_asked_for_files(load, asked, monkeypatch):
    for name in ("load_dataset", "get_dataset_split_names"):
        monkeypatch.setattr(datasets, name, lambda *arguments, **options: pytest.fail("the hub was asked for files"))
    with pytest.raises((ValueError, OSError), match="someone/cats.*the hub does not answer, Name or service"):
        load("someone/cats")
    assert set(asked) == {"someone/cats"}


def test_what_was_downloaded_before_is_loaded_without_the_hub(asked, monkeypatch, tmp_path):
    (tmp_path / "datasets--someone--cats").mkdir()
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *arguments: ["train"])
    assert split_names("someone/cats") == ("train",)
    (tmp_path / "someone___dogs").mkdir()
    assert split_names("someone/dogs") == ("train",)
    assert not asked
