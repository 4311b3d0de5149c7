# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Uploading a model: the card goes with it. The hub is a dictionary here."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, RepoUrl
from huggingface_hub.errors import RemoteEntryNotFoundError

from clip_hf import ClipHFForImageClassification
from clip_hf.model_card import ModelCardDetails
from tiny_models import make_tiny_model, tiny_config


class Missing(RemoteEntryNotFoundError):
    """What the hub answers where there is no such file, without an answer of a server."""

    def __init__(self):
        Exception.__init__(self, "there is no such file")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> dict:
    """A hub of one repo in memory: what was made, and the files that were uploaded."""
    repo = {"files": {}, "created": [], "commits": []}

    def create_repo(self, repo_id, **kwargs):
        repo["created"].append((repo_id, kwargs))
        return RepoUrl(f"https://huggingface.co/me/{repo_id.rpartition('/')[2]}")

    def download(self, repo_id, filename, **kwargs):
        if filename not in repo["files"]:
            raise Missing
        path = tmp_path / "downloaded"
        path.write_bytes(repo["files"][filename])
        return str(path)

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        repo["files"] |= {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        repo["commits"].append((repo_id, kwargs))
        return "https://huggingface.co/me/clip/commit/1"

    for name, function in (
        ("create_repo", create_repo),
        ("hf_hub_download", download),
        ("upload_folder", upload_folder),
    ):
        monkeypatch.setattr(HfApi, name, function)
    return repo


def test_push_to_hub_writes_a_card_and_keeps_hand_edits(hub):
    model = make_tiny_model("resnet")
    details = ModelCardDetails(license="mit", training={"batch size": 32768})
    url = model.push_to_hub("clip", details=details, private=True, commit_message="first", tags=["birds"])
    assert url.endswith("/commit/1")
    assert {"README.md", "config.json", "model.safetensors", "modeling_clip_hf.py"} <= hub["files"].keys()
    assert hub["created"] == [("clip", {"private": True, "exist_ok": True})]
    repo_id, options = hub["commits"][0]
    assert repo_id == "me/clip" and options["commit_message"] == "first"
    first = hub["files"]["README.md"].decode()
    card = ModelCard(first)
    assert card.data.license == "mit" and "birds" in card.data.tags
    assert 'model="me/clip"' in first and f"{model.num_parameters():,} parameters" in first
    hub["files"]["README.md"] = (first + "\nWritten by hand.\n").encode()
    model.push_to_hub("clip")
    second = hub["files"]["README.md"].decode()
    assert second == first + "\nWritten by hand.\n"


def test_a_classifier_has_its_card(hub):
    model = ClipHFForImageClassification(tiny_config("vit", id2label={0: "cat", 1: "dog"}))
    model.push_to_hub("clip")
    first = hub["files"]["README.md"].decode()
    assert ModelCard(first).data.pipeline_tag == "image-classification" and "2 classes: cat, dog." in first
    model.push_to_hub("clip")
    assert hub["files"]["README.md"].decode() == first


def test_push_to_hub_refuses_unknown_options_before_anything_is_made(hub):
    with pytest.raises(
        TypeError, match="Unknown option `privat` of push_to_hub. Did you mean `private`. Available: commit_desc"
    ):
        make_tiny_model("vit").push_to_hub("clip", privat=True)
    assert not hub["created"]
