# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Hugging Face's `InferenceClient`, as it is, against the server."""

import base64

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from clip_hf import pipeline
from live_server import live_server


KEY = "a-key-of-more-than-16-characters"
LABELS = ["a cat", "a dog", "the beach"]


@pytest.fixture
def official(loaded, monkeypatch):
    """Its client of a server with a key; offline it would refuse to send."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    with live_server(lambda: loaded, api_key=KEY) as url:
        yield InferenceClient(f"{url}/v1/hf/tiny", provider="hf-inference", token=KEY)
    huggingface_hub.close_session()


def test_its_tasks_give_the_pipelines_and_the_encoders_numbers(official, loaded, served_folder):
    picture = served_folder / "photos" / "0.png"
    found = official.zero_shot_image_classification(str(picture), LABELS, hypothesis_template="a {} here")
    (expected,) = pipeline(str(served_folder / "model"))([picture], LABELS, hypothesis_template="a {} here")
    assert [each.label for each in found] == [each["label"] for each in expected]
    np.testing.assert_allclose([each.score for each in found], [each["score"] for each in expected], atol=1e-6)
    for texts in ("a cat", ["a cat", "two dogs"]):
        rows = official.feature_extraction(texts, normalize=True)
        expected = loaded.encoder.encode_texts([texts] if isinstance(texts, str) else texts).numpy()
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    with pytest.raises(HfHubHTTPError, match="404"):
        official.feature_extraction("a cat", model=official.model.replace("tiny", "other"))
    with pytest.raises(HfHubHTTPError, match="cannot be used"):
        official.zero_shot_image_classification(b"no picture", LABELS)


def test_several_images_get_a_list_each(client, served_folder):
    data = base64.b64encode((served_folder / "photos" / "0.png").read_bytes()).decode()
    body = {"inputs": data, "parameters": {"candidate_labels": LABELS}}
    single = client.post("/v1/hf/tiny", json=body).json()
    for each in client.post("/v1/hf/tiny", json={**body, "inputs": [data, data]}).json():
        assert [entry["label"] for entry in each] == [entry["label"] for entry in single]
        np.testing.assert_allclose([e["score"] for e in each], [e["score"] for e in single], atol=1e-6)
