# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Requests that are wrong: how soon they fail and how little of them is repeated; null; and prefixes of paths."""

import base64
import re
import time

import pytest

from clip_hf.serving import ServingLimits
from clip_hf.serving.request_errors import RequestError
from clip_hf.serving.request_schemas import (
    ClassifyRequest,
    EmbeddingsRequest,
    ExplainRequest,
    HuggingFaceRequest,
    RankRequest,
    SearchRequest,
    parse_request,
)
from encoding_inputs import png


KEY = "a-key-of-more-than-16-characters"
PICTURE = base64.b64encode(png(1)).decode()
SCHEMAS = {
    "embeddings": EmbeddingsRequest,
    "classify": ClassifyRequest,
    "explain": ExplainRequest,
    "hf/tiny": HuggingFaceRequest,
    "rank": RankRequest,
    "search": SearchRequest,
}
MANY = 400_000


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("classify", {"labels": [1] * MANY}, "labels", "too_many_prompts"),
        ("classify", {"labels": [1] * 20_000}, "labels[0]", "invalid_value"),
        ("classify", {"labels": ["a"], "background": ["a"] * 20_001}, "background", "too_many_prompts"),
        ("classify", {"labels": ["a"], "background": [1] * 20_000}, "background", "invalid_value"),
        ("classify", {"labels": ["a"], "templates": [1] * 20_000}, "templates", "invalid_value"),
        (
            "classify",
            {"labels": ["a"], "templates": dict.fromkeys(map(str, range(20_001)), 1)},
            "templates",
            "too_many_prompts",
        ),
        (
            "classify",
            {"labels": ["a"], "templates": dict.fromkeys(map(str, range(20_000)), 1)},
            "templates",
            "invalid_value",
        ),
        ("classify", {"labels": ["a"], "templates": {"a": ["a"] * 20_001}}, "templates", "too_many_prompts"),
        ("classify", {"labels": ["a"], **dict.fromkeys(map(str, range(MANY)), 1)}, "0", "unknown_field"),
        ("hf/tiny", {"inputs": "a", "parameters": dict.fromkeys(map(str, range(MANY)), 1)}, "0", "unknown_field"),
        (
            "hf/tiny",
            {"inputs": "a", "parameters": {"candidate_labels": ["a"] * 20_001}},
            "candidate_labels",
            "too_many_prompts",
        ),
        ("search", {"query": "a", "filters": [1] * MANY}, "filters[0]", "invalid_value"),
        ("search", {"query": "a", "filters": ["a"] * MANY}, "filters", "invalid_value"),
    ],
)
def test_a_request_fails_at_its_first_fault(path, body, param, code):
    started = time.process_time()
    with pytest.raises(RequestError) as raised:
        parse_request(SCHEMAS[path], body, ServingLimits())
    assert time.process_time() - started < 0.1  # all requests wait for it
    assert (raised.value.status, raised.value.param, raised.value.code) == (400, param, code)


def test_as_many_labels_as_allowed_are_taken():
    labels = [str(number) for number in range(20_000)]
    body = {"labels": labels, "templates": dict.fromkeys(labels, "a {}"), "background": "a"}
    asked = parse_request(ClassifyRequest, body, ServingLimits())
    assert (asked.labels, asked.templates, asked.background) == (labels, body["templates"], "a")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("search", {"query": "a", "filters": ["width>1"] * 33}, "filters"),
        ("search", {"query": "a", "filters": ["width>" + "1" * 1000]}, "filters[0]"),
        ("embeddings", {"input": "a", "model": "x" * 257}, "model"),
        ("embeddings", {"input": "a", "user": "x" * 257}, "user"),
    ],
)
def test_free_texts_are_bounded(client, path, body, param):
    answer = client.post(f"/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("search", {"query": "a", "filters": ["y" * 900]}),
        ("search", {"query": "a", "filters": ["y" * 450 + "=" + "y" * 450]}),
        ("search", {"query": "a", "filters": ["width=" + "y'\\" * 300]}),
        ("search", {"query": "a", "filters": ["width~" + "y" * 900]}),
        ("search", {"query": {"id": "y" * 5000}}),
        ("search", {"query": {"y" * 5000: 1}}),
        ("embeddings", {"input": {"y" * 5000: 1}}),
        ("embeddings", {"input": "a", "y" * 5000: 1}),
        ("embeddings", {"input": "a", "dimensions": 10**18}),
        ("embeddings", {"input": "a", "encoding_format": "y" * 5000}),
        ("embeddings", {"input": "a", "model": "y" * 250}),
        ("classify", {"image": "x", "labels": ["y" * 5000] * 2}),
        ("classify", {"image": PICTURE, "labels": ["a"], "templates": "y" * 5000}),
        ("classify", {"image": PICTURE, "labels": ["a"], "templates": {"y" * 5000: "a"}}),
        ("classify", {"image": PICTURE, "labels": ["a"], "function_to_apply": "y" * 5000}),
    ],
)
def test_no_message_repeats_much_of_what_was_given(client, path, body):
    answer = client.post(f"/v1/{path}", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert len(error["message"]) <= 1003 and error["message"].count("y") < 330
    assert len(error["param"] or "") <= 103
    assert not re.search("y{102}", error["message"])


def test_messages_quote_little_and_keep_their_own_words():
    long = "it's" + " b" * 200
    message = RequestError(
        400, f"The model's own words are {long!r} and {'c' * 99!r}; it's {'d' * 98!r}.", code="x"
    ).message
    assert message == f"The model's own words are {repr(long)[:100]}... and {('c' * 99)!r:.100}...; it's {'d' * 98!r}."


@pytest.mark.parametrize("path", ["embeddings", "classify", "explain", "rank", "search"])
def test_null_is_the_same_as_leaving_a_field_out(client, path):
    bodies = {
        "embeddings": {"input": "a"},
        "classify": {"images": PICTURE, "labels": ["a", "b"]},
        "explain": {"image": PICTURE, "labels": ["a"]},
        "rank": {"query": "a", "candidates": ["a"]},
        "search": {"query": "a"},
    }
    nulls = {name: None for name in SCHEMAS[path].model_fields if name not in bodies[path]}
    assert len(nulls) >= 3
    answer = client.post(f"/v1/{path}", json=bodies[path])
    assert answer.status_code == 200
    assert client.post(f"/v1/{path}", json={**nulls, **bodies[path]}).json() == answer.json()
    error = client.post(f"/v1/{path}", json=dict.fromkeys(bodies[path])).json()["error"]
    assert error["code"] == "missing_field"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "UTF-8"),
        ('{"input": "a"}'.encode("utf-16"), "send JSON in UTF-8"),
        (b'{"input": "\xe9"}', "UTF-8"),
    ],
)
def test_another_encoding_is_named(client, content, message):
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/embeddings", content=content, headers=headers)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    with_bom = b'\xef\xbb\xbf{"input": "a"}'
    assert client.post("/v1/embeddings", content=with_bom, headers=headers).status_code == 200


def test_paths_without_v1_are_named(client):
    answer = client.post("/embeddings", json={"input": "a"})
    assert answer.status_code == 404 and "begin with /v1/" in answer.json()["error"]["message"]


@pytest.mark.parametrize("prefix", ["/clip", "/a/b"])
def test_the_app_works_below_a_prefix(make_client, monkeypatch, prefix):
    client = make_client(api_key=KEY)
    monkeypatch.setattr(client._transport, "root_path", prefix)
    key = {"authorization": f"Bearer {KEY}"}
    assert client.post(f"{prefix}/v1/search", json={"query": "a"}).status_code == 401
    answer = client.post(f"{prefix}/v1/search", json={"query": "a", "top_k": 1}, headers=key)
    url = answer.json()["data"][0]["image_url"]
    assert url.startswith(f"{prefix}/v1/search/image?id=")
    assert client.get(url, headers=key).headers["content-type"] == "image/jpeg"
    assert client.get(f"{prefix}/").status_code == client.get(f"{prefix}/health/ready").status_code == 200
    assert client.get(f"{prefix}/nothing", headers=key).status_code == 404
    metrics = client.get(f"{prefix}/metrics", headers=key).text
    assert 'clip_hf_requests_total{route="/v1/search",status="200"}' in metrics and prefix not in metrics


def test_a_form_says_how_true_is_written_and_takes_lists_with_brackets(client):
    files, labels = {"image": ("1.png", png(1))}, {"labels[]": ["a", "b"]}
    answer = client.post("/v1/classify", data={**labels, "multi_label": "True"}, files=files)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "multi_label") and "write true or false" in error["message"]
    answer = client.post("/v1/classify", data={**labels, "multi_label": "true"}, files=files)
    assert {each["label"] for each in answer.json()["data"][0]["predictions"]} == {"a", "b"}
