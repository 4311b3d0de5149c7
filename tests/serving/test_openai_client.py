# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The official `openai` package, as it is, against the server: its embeddings, models, and errors."""

import asyncio
import base64

import numpy as np
import openai
import pytest

from live_server import live_server


KEY = "a key of more than 16 letters".replace(" ", "-")
TEXTS = ["a cat", "two dogs in the snow", "number seven"]


@pytest.fixture(scope="module")
def url(loaded):
    with live_server(lambda: loaded, api_key=KEY) as running:
        yield f"{running}/v1"


@pytest.fixture
def official(url):
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def rows_of(answer) -> np.ndarray:
    assert [row.index for row in answer.data] == list(range(len(answer.data)))
    return np.array([row.embedding for row in answer.data], np.float32)


def test_texts_are_embedded_in_order(official, loaded):
    expected = loaded.encoder.encode_texts(TEXTS).numpy()
    answer = official.embeddings.create(model="tiny", input=TEXTS)  # base64, which it decodes
    np.testing.assert_allclose(rows_of(answer), expected, atol=1e-6)
    assert answer.model == "tiny" and answer.object == "list"
    tokens = sum(loaded.encoder.count_tokens(TEXTS))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    answer = official.embeddings.create(model="tiny", input=TEXTS, encoding_format="float", user="me")
    np.testing.assert_allclose(rows_of(answer), expected, atol=1e-6)
    answer = official.embeddings.create(model="tiny", input=TEXTS[1], dimensions=expected.shape[1])
    np.testing.assert_allclose(rows_of(answer), expected[1:2], atol=1e-6)


def test_images_go_as_data_uris(official, loaded, served_folder):
    path = served_folder / "photos" / "0.png"
    uri = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    expected = loaded.encoder.encode_images([path]).numpy()
    np.testing.assert_allclose(rows_of(official.embeddings.create(model="tiny", input=uri)), expected, atol=1e-6)


def test_the_asynchronous_client(url, loaded):
    async def work():
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            answers = [client.embeddings.create(model="tiny", input=text) for text in TEXTS]
            return np.concatenate([rows_of(answer) for answer in await asyncio.gather(*answers)])

    np.testing.assert_allclose(asyncio.run(work()), loaded.encoder.encode_texts(TEXTS).numpy(), atol=1e-6)


def test_models(official):
    [model] = official.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "clip_hf")
    assert official.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        official.models.retrieve("other")


@pytest.mark.parametrize(
    ("arguments", "error", "code", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found", "model"),
        ({"input": "a " * 500}, openai.BadRequestError, "text_too_long", "input"),
        ({"input": ["a", "b " * 500]}, openai.BadRequestError, "text_too_long", "input[1]"),
        ({"input": []}, openai.BadRequestError, "empty_input", "input"),
        ({"input": [1, 2, 3]}, openai.BadRequestError, "token_ids_not_taken", "input"),
        ({"dimensions": 7}, openai.BadRequestError, "invalid_dimensions", "dimensions"),
        ({"extra_body": {"truncation": True}}, openai.BadRequestError, "unknown_field", "truncation"),
    ],
)
def test_errors_are_its_own_kinds(official, arguments, error, code, param):
    with pytest.raises(error) as caught:
        official.embeddings.create(**{"model": "tiny", "input": "a", **arguments})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id and caught.value.body["message"]


def test_truncate_is_passed_on(official):
    answer = official.embeddings.create(model="tiny", input="a " * 500, extra_body={"truncate": True})
    assert len(answer.data) == 1


def test_a_wrong_key_is_refused(url):
    with openai.OpenAI(base_url=url, api_key="another key that is wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_it_tries_again_when_the_server_is_full(loaded, monkeypatch):
    from clip_hf.serving.inference_engine import InferenceEngine
    from clip_hf.serving.request_errors import RequestError

    refusals = [2]
    admit = InferenceEngine.admit

    def refuse(self, *args, **kwargs):
        if refusals[0]:
            refusals[0] -= 1
            raise RequestError(429, "full", code="queue_full", retry_after=0.1)
        return admit(self, *args, **kwargs)

    monkeypatch.setattr(InferenceEngine, "admit", refuse)
    with live_server(lambda: loaded) as running, openai.OpenAI(base_url=f"{running}/v1", api_key="none") as client:
        with pytest.raises(openai.RateLimitError, match="full"):
            client.with_options(max_retries=0).embeddings.create(model="tiny", input="a")
        assert len(client.embeddings.create(model="tiny", input="a").data) == 1
    assert refusals == [0]
