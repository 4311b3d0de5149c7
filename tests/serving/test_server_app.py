# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The routes: what they answer, in which shape, and what they say of wrong requests."""

import base64
import io
import re
import shutil
import threading

import jsonschema
import numpy as np
import pytest
import schemathesis
import torch
from PIL import Image
from starlette.testclient import TestClient
from transformers import pipeline

from clip_hf.embedding import load_dual_encoder
from clip_hf.embedding.transformers_encoder import ClipHFEncoder
from clip_hf.search import EmbeddingIndex, SourceIndex, open_source_index
from clip_hf.serving import LoadedModel, ServerOptions, create_app
from clip_hf.serving.model_facts import card_facts, model_facts
from clip_hf.serving.openapi_description import describe_api
from encoding_inputs import png
from tiny_models import make_tiny_model


KEY = "a-key-of-more-than-16-characters"


def encoded(number: int) -> str:
    return base64.b64encode(png(number)).decode()


def error_of(answer, status: int) -> dict:
    """The error of an answer, whose shape and request id are as they should be."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert answer.json() == {"error": {name: error[name] for name in ("message", "type", "param", "code")}}
    assert answer.headers["x-request-id"] and answer.headers["content-type"] == "application/json"
    return error


def ask(client, path: str, **body) -> dict:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---------------------------------------------------------------------------------------------------------- embeddings


def test_embeddings_are_the_encoders_in_the_inputs_order(client, loaded):
    texts = ["a cat", "a photo of a dog on a beach", "a cat"]
    answer = ask(client, "embeddings", model="tiny", input=[texts[0], {"image": encoded(1)}, *texts[1:]])
    assert answer.keys() == {"object", "model", "data", "usage"}
    assert [answer["object"], answer["model"]] == ["list", "tiny"]
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("embedding", index) for index in range(4)]
    rows = np.array([row["embedding"] for row in answer["data"]], np.float32)
    expected = loaded.encoder.encode_texts(texts).numpy()
    assert rows[[0, 2, 3]] == pytest.approx(expected, abs=1e-6)
    assert rows[1] == pytest.approx(loaded.encoder.encode_images([png(1)])[0].numpy(), abs=1e-6)
    tokens = sum(loaded.encoder.count_tokens(texts))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_is_float32_little_endian(client):
    asked = {"input": "a cat", "dimensions": 16}
    floats = ask(client, "embeddings", **asked)["data"][0]["embedding"]
    text = ask(client, "embeddings", encoding_format="base64", **asked)["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == np.array(floats, np.float32).tolist()


def test_modality_says_what_strings_are(client):
    as_image = ask(client, "embeddings", input=encoded(2), modality="image")["data"]
    assert as_image == ask(client, "embeddings", input={"image": encoded(2)})["data"]


def test_files_of_a_form_are_embedded(client):
    files = [("file", ("a.png", png(1))), ("file", ("b.png", png(2)))]
    rows = client.post("/v1/embeddings", files=files).json()["data"]
    assert rows == ask(client, "embeddings", input=[{"image": encoded(1)}, {"image": encoded(2)}])["data"]


# ------------------------------------------------------------------------------------------------- classify and rank


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({}, {}),
        ({"templates": "satellite", "top_k": 2}, {"hypothesis_template": "satellite", "top_k": 2}),
        ({"multi_label": True, "background": "a drawing."}, {"multi_label": True, "background": "a drawing."}),
        ({"function_to_apply": "cosine", "threshold": -0.5}, {"function_to_apply": "cosine", "threshold": -0.5}),
        ({"templates": {"cat": ["a cat"], "dog": "dogs", "car": ["a car", "cars"]}},) * 2,
    ],
)
def test_predictions_are_the_pipelines(client, served_folder, asked, option):
    option = {{"templates": "hypothesis_template"}.get(name, name): value for name, value in option.items()}
    classifier = pipeline("zero-shot-image-classification", model=str(served_folder / "model"))
    labels, images = ["cat", "dog", "car"], [png(1), png(2)]
    expected = classifier([Image.open(io.BytesIO(image)) for image in images], labels, **option)
    answer = ask(client, "classify", images=[encoded(1), encoded(2)], labels=labels, **asked)
    assert [each["index"] for each in answer["data"]] == [0, 1]
    for row, predictions in zip(answer["data"], expected, strict=True):
        assert [each["label"] for each in row["predictions"]] == [each["label"] for each in predictions]
        scores = [each["score"] for each in row["predictions"]]
        assert scores == pytest.approx([each["score"] for each in predictions], abs=1e-6)


def test_a_form_classifies_as_json_does(client):
    form = client.post("/v1/classify", files={"image": png(1)}, data={"labels": ["cat", "dog"], "top_k": "1"}).json()
    assert form == ask(client, "classify", image=encoded(1), labels=["cat", "dog"], top_k=1)
    assert len(form["data"][0]["predictions"]) == 1


@pytest.mark.parametrize("body", [{}, {"image": "x", "images": ["x"]}])
def test_one_of_image_and_images_must_be_there(client, body):
    error = error_of(client.post("/v1/classify", json={"labels": ["a"], **body}), 400)
    assert error["message"].startswith("Give `image` or `images`; given ") and error["param"] == "images"


def test_candidates_come_best_first(client, loaded):
    candidates = ["a cat", {"image": encoded(1)}, "a dog"]
    data = ask(client, "rank", query={"text": "a dog"}, candidates=candidates)["data"]
    features = [*loaded.encoder.encode_texts(["a cat", "a dog"]), *loaded.encoder.encode_images([png(1)])]
    query = features[1]
    cosines = [float(features[place] @ query) for place in (0, 2, 1)]
    scores = np.exp(loaded.encoder.logit_scale * np.array(cosines))
    assert [each["index"] for each in data] == np.argsort(cosines)[::-1].tolist()
    assert [each["cosine"] for each in data] == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)
    assert [each["score"] for each in data] == pytest.approx(sorted(scores / scores.sum(), reverse=True), abs=1e-6)
    assert ask(client, "rank", query="a dog", candidates=candidates, top_k=1)["data"] == data[:1]


def test_candidates_are_a_list(client):
    error = error_of(client.post("/v1/rank", json={"query": "a", "candidates": "b"}), 400)
    assert error["param"] == "candidates"


def test_a_query_of_rank_is_one(client):
    error = error_of(client.post("/v1/rank", json={"query": ["a", "b"], "candidates": ["c"]}), 400)
    assert error["param"] == "query"


# -------------------------------------------------------------------------------------------------------------- search


def test_a_picture_finds_itself(client, loaded, served_folder):
    photo = base64.b64encode((served_folder / "photos" / "3.png").read_bytes()).decode()
    answer = ask(client, "search", query={"image": photo}, top_k=2)
    assert [hit["rank"] for hit in answer["data"]] == [1, 2]
    best = answer["data"][0]
    assert best["metadata"]["name"] == "3.png" and best["score"] == pytest.approx(1, abs=1e-2)
    assert answer["best_score"] == best["score"] and answer["lowest_score"] is None
    again = ask(client, "search", query={"id": best["id"]}, top_k=2)["data"]
    assert [hit["id"] for hit in again] == [hit["id"] for hit in answer["data"]]
    picture = client.get(best["image_url"])
    assert picture.headers["content-type"] == "image/jpeg" and "max-age" in picture.headers["cache-control"]
    original = Image.open(served_folder / "photos" / "3.png")
    assert Image.open(io.BytesIO(picture.content)).size == original.size


def test_pictures_have_the_edge_that_is_asked_for(client, monkeypatch):
    asked = []

    async def thumbnail(*arguments):
        asked.append(arguments)
        return b""

    monkeypatch.setattr(client.app.state.serving.engine, "thumbnail", thumbnail)
    client.get("/v1/search/image?id=a%20b.png")
    client.get("/v1/search/image?id=0&edge=16")
    client.get("/v1/search/image?id=0&edge=1024")
    assert asked == [("a b.png", 256), ("0", 16), ("0", 1024)]


def test_ids_that_are_numbers_are_read_as_numbers(make_client, loaded, tmp_path):
    vectors = loaded.encoder.encode_texts(["a cat", "a dog"]).numpy()
    index = EmbeddingIndex.build(tmp_path / "index", vectors)
    client = make_client(lambda: LoadedModel(loaded.encoder, SourceIndex(index)))
    for id_ in (1, "1"):
        hits = ask(client, "search", query={"id": id_})["data"]
        assert [(hit["id"], hit["image_url"]) for hit in hits] == [(1, None), (0, None)]
    error = error_of(client.post("/v1/search", json={"query": [{"id": "one"}]}), 400)
    assert error["param"] == "query[0].id"
    error_of(client.get("/v1/search/image?id=1"), 404)


def test_weights_and_filters_count(client, loaded):
    query = [{"text": "a cat"}, {"text": "a dog", "weight": -0.5}]
    vector = loaded.encoder.encode_texts(["a cat", "a dog"]).numpy()
    vector = vector[0] - 0.5 * vector[1]
    scores, ids = loaded.source.index.search(vector / np.linalg.norm(vector), 6)
    data = ask(client, "search", query=query, top_k=6)["data"]
    assert [hit["id"] for hit in data] == ids.tolist()
    assert [hit["score"] for hit in data] == pytest.approx(scores.tolist(), abs=1e-5)
    only = ask(client, "search", query=query, filters=["name=2.png"])["data"]
    assert [hit["metadata"]["name"] for hit in only] == ["2.png"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ([], "query"),
        ({"text": "a", "image": "b"}, "query"),
        ({"weight": 1}, "query"),
        ({"text": "a", "wieght": 1}, "query"),
        ([{"text": "a"}, {"text": "b", "weight": 0}], "query[1].weight"),
        ({"text": "a", "weight": True}, "query.weight"),
        ({"text": "a", "weight": "2"}, "query.weight"),
        ({"id": True}, "query.id"),
        ({"id": [1]}, "query.id"),
        (None, "query"),
        (7, "query"),
    ],
)
def test_a_wrong_query_is_named(client, query, param):
    assert error_of(client.post("/v1/search", json={"query": query}), 400)["param"] == param


@pytest.mark.parametrize(
    "path",
    [
        "/v1/search/image",
        *(
            f"/v1/search/image?id=0.png&edge={edge}"
            for edge in (
                "15",
                "1025",
                "",
                "-64",
                "6_4",
                "\u0666\u0664",
                "0000002560000000000",
                "000000256" + "0" * 5000,
            )
        ),
    ],
)
def test_a_wrong_picture_is_refused(client, path):
    assert error_of(client.get(path), 400)["param"] in ("id", "edge")


def test_a_row_that_is_not_there_is_404(client):
    error_of(client.get("/v1/search/image?id=99999"), 404)
    error_of(client.get(f"/v1/search/image?id={'9' * 300}"), 404)
    assert client.post("/v1/search", json={"query": {"id": 99999}}).status_code in (400, 404)


def test_without_an_index_search_says_so(make_client, loaded):
    client = make_client(lambda: LoadedModel(loaded.encoder))
    error = error_of(client.post("/v1/search", json={"query": "a"}), 404)
    assert error["code"] == "no_index" and "--index" in error["message"]
    assert client.get("/v1/models").json()["data"][0]["facts"]["index_rows"] is None


# ------------------------------------------------------------------------------------------------------ wrong requests


@pytest.mark.parametrize("path", ["embeddings", "classify", "explain", "rank", "search"])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"input": NaN}', "invalid_json"),
        (b'"\xff"', "invalid_json"),
        (b"[" * 5000, "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b"{}", "missing_field"),
        (b"[" + b"0," * 500_001 + b"0]", "too_many_values"),
        (b"[" + b"[]," * 50_000 + b"0]", "too_many_values"),
        (b"[" + b"{}," * 50_001 + b"0]", "too_many_values"),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, path, content, code):
    answer = client.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert error_of(answer, 400)["code"] == code


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"inptu": "a"}, "inptu", "There is no field `inptu`. Did you mean `input`? The fields are: model, truncate,"),
        ({"input": "a", "x" * 100: 1}, "x" * 40 + "...", "There is no field `xxxx"),
        ({"input": "a", "truncate": "yes"}, "truncate", "`truncate`: Input should be a valid boolean."),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "`encoding_format`: Input should be 'float' or"),
        ({"input": "a", "model": 7}, "model", "`model`: Input should be a valid string."),
        (
            {"input": "a", "dimensions": 31},
            "dimensions",
            "The model has 16 dimensions, not 31: leave out `dimensions`.",
        ),
        ({"input": [[1, 2]]}, "input[0]", ""),
        ({"input": []}, "input", ""),
    ],
)
def test_a_wrong_field_is_named(client, body, param, message):
    error = error_of(client.post("/v1/embeddings", json=body), 400)
    assert error["param"] == param and error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"


def test_the_place_in_a_list_is_named(client):
    error = error_of(client.post("/v1/classify", json={"image": "x", "labels": ["a", 1]}), 400)
    assert error["param"] == "labels[1]"


def test_another_model_is_404_and_says_which_there_is(client):
    error = error_of(client.post("/v1/embeddings", json={"input": "a", "model": "clip"}), 404)
    assert error["code"] == "model_not_found" and error["message"].endswith("it is 'tiny'.")
    error_of(client.get("/v1/models/clip"), 404)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_another_kind_of_body_is_415(client, headers):
    error = error_of(client.post("/v1/embeddings", content=b'{"input": "a"}', headers=headers), 415)
    assert "application/json" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/rank", "POST"), ("POST", "/metrics", "GET, HEAD")]
)
def test_another_method_is_405(client, method, path, allowed):
    answer = client.request(method, path)
    error_of(answer, 405)
    assert sorted(answer.headers["allow"].split(", ")) == sorted(allowed.split(", "))


def test_another_method_is_405_whatever_the_host(client):
    error_of(client.post("/health/live", headers={"host": "[::1"}), 405)


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/models/", "/page/", "/page/..%2fserver_app.py", "/page/no.js"]
)
def test_an_unknown_path_is_404(client, path):
    assert error_of(client.get(path), 404)["type"] == "not_found_error"


def test_what_fails_unexpectedly_is_logged_and_not_told(client, monkeypatch, caplog):
    async def fail(*_):
        raise KeyError("a secret")

    monkeypatch.setattr(client.app.state.serving.engine, "embed", fail)
    answer = client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-id": "mine.1"})
    error = error_of(answer, 500)
    assert "secret" not in answer.text and "mine.1" in error["message"]
    assert "request mine.1 failed" in caplog.text and "a secret" in caplog.text


# ------------------------------------------------------------------------------------------------------- what is here


def test_the_model_tells_its_facts_and_no_path(make_client, loaded, served_folder):
    (served_folder / "model" / "README.md").write_text(
        "---\nlicense: mit\ndatasets: [openmoji, /home/me/photos]\n---\n# A title\n\n<!-- x -->\nIt sees [things](x)."
    )
    answer = make_client().get("/v1/models")
    (served_folder / "model" / "README.md").unlink()
    (model,) = answer.json()["data"]
    assert [model[name] for name in ("id", "object", "owned_by")] == ["tiny", "model", "clip_hf"]
    facts = model["facts"]
    assert [facts["license"], facts["datasets"], facts["summary"]] == ["mit", ["openmoji"], "It sees things."]
    config = loaded.encoder.model.config
    assert facts["image_size"] == config.vision_config.image_size
    assert facts["context_length"] == config.text_config.max_position_embeddings
    assert facts["parameters"] == sum(each.numel() for each in loaded.encoder.model.parameters())
    assert facts["logit_scale"] == pytest.approx(loaded.encoder.logit_scale)
    assert [facts[name] for name in ("runtime", "dtype", "projection_dim", "index_rows")] == [
        "torch",
        "float32",
        16,
        6,
    ]
    assert str(served_folder) not in answer.text and "/home" not in answer.text


def test_an_exported_model_tells_what_its_encoder_knows(tiny_processor):
    class Exported(ClipHFEncoder):
        """A model whose configuration says nothing, with another runtime."""

        runtime, context_length = "onnx", 24

    model = make_tiny_model("vit")
    encoder = Exported(model, tiny_processor, "tiny")
    facts = model_facts(encoder, None)
    assert (facts["runtime"], facts["parameters"], facts["context_length"]) == ("onnx", None, 24)
    assert facts["image_size"] == model.config.vision_config.image_size
    encoder.prepare = lambda images: {"pixel_values": torch.zeros(1, 3, 4, images[0].width)}
    assert model_facts(encoder, None)["image_size"] is None
    encoder.prepare = lambda images: {"pixel_values": torch.zeros(1, 3, 4, 6)}
    assert model_facts(encoder, None)["image_size"] == [4, 6]


@pytest.mark.parametrize(
    ("card", "summary"),
    [
        ("", None),
        ("---\n: [\n---\nText.", "Text."),
        (
            "---\n- a\n---\n| a |\n\n- b\n\n![x](y)\n\n```\nx\n```\n\nText\nof two lines.\n\nMore.",
            "Text of two lines.",
        ),
        ("x" * 2000, "x" * 1000 + "..."),
    ],
)
def test_a_card_of_any_kind_is_read(card, summary, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert card_facts(tmp_path / "README.md") == {"license": None, "datasets": None, "summary": summary}


def test_a_model_is_found_by_its_name(client):
    assert client.get("/v1/models/tiny").json() == client.get("/v1/models").json()["data"][0]


def test_prompt_sets_are_listed(client):
    sets = {each["name"]: each["templates"] for each in client.get("/v1/prompt-sets").json()["data"]}
    assert sets["pets"] == ["a photo of a {}, a type of pet."] and len(sets["openai_imagenet"]) == 80


def test_metrics_are_of_this_server(client):
    ask(client, "embeddings", input="a")
    text = client.get("/metrics").text
    assert re.search(r'^clip_hf_requests_total\{route="/v1/embeddings",status="200"\} [1-9]', text, re.MULTILINE)
    client.get("/made-up-by-a-client")
    assert "made-up" not in client.get("/metrics").text


def test_a_model_that_is_loading_is_not_ready(loaded):
    go = threading.Event()
    app = create_app(lambda: go.wait() and loaded, ServerOptions("tiny"))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/health/live").status_code == 200
        for answer in (client.get("/health/ready"), client.post("/v1/rank", json={}), client.get("/v1/models")):
            assert error_of(answer, 503)["code"] == "loading" and answer.headers["retry-after"] == "1"
        go.set()
        while client.get("/health/ready").status_code == 503:
            pass
        app.state.serving.traffic.draining = True
        answer = client.get("/health/ready")
        assert error_of(answer, 503)["code"] == "draining" and answer.headers["connection"] == "close"


@pytest.mark.parametrize("part", ["text_projection.weight", "visual_projection.weight", "logit_scale"])
def test_a_model_with_damaged_weights_cannot_be_loaded(part, served_folder, make_client):
    encoder = load_dual_encoder(str(served_folder / "model"))
    encoder.model.get_parameter(part).data.fill_(float("nan"))
    client = make_client(lambda: LoadedModel(encoder))
    assert error_of(client.get("/health/ready"), 503)["code"] == "not_loaded"


def test_the_number_of_rows_is_that_of_now(served_folder, make_client, tmp_path):
    encoder = load_dual_encoder(str(served_folder / "model"))
    photos = shutil.copytree(served_folder / "photos", tmp_path / "photos")
    client = make_client(lambda: LoadedModel(encoder, open_source_index(photos, encoder)))
    rows = lambda: client.get("/v1/models").json()["data"][0]["facts"]["index_rows"]  # noqa: E731
    before = rows()
    (photos / "0.png").rename(tmp_path / "0.png")
    open_source_index(photos, load_dual_encoder(str(served_folder / "model")))  # as another process does
    assert client.post("/v1/search", json={"query": "a cat"}).status_code == 200
    assert rows() == before - 1


def test_a_model_that_cannot_be_loaded_is_never_ready(make_client, caplog):
    def load():
        raise OSError("there is no such model")

    client = make_client(load)
    assert error_of(client.get("/health/ready"), 503)["code"] == "not_loaded"
    assert "there is no such model" in caplog.text and "no such model" not in client.get("/health/ready").text


# ------------------------------------------------------------------------------------------------ page and description


def test_the_page_is_served_with_a_strict_policy(client):
    for path, kind in {"/": "text/html", "/docs": "text/html", "/page/page.js": "text/javascript"}.items():
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ") and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"


def test_every_route_is_described(client):
    described = client.get("/openapi.json").json()
    routes = {route.path.replace(":path", ""): route.methods - {"HEAD"} for route in client.app.routes}
    assert {path: {method.upper() for method in methods} for path, methods in described["paths"].items()} == routes
    names = [each["operationId"] for methods in described["paths"].values() for each in methods.values()]
    assert len(set(names)) == len(names)


def validator(description: dict, schema: dict) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": description["components"]})


def test_the_description_is_valid_openapi(client):
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    schema.validate()
    assert schema.raw_schema["openapi"] == "3.1.0"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify", "/v1/explain", "/v1/rank", "/v1/search"])
def test_examples_are_as_described_and_so_are_their_answers(client, path):
    description = client.get("/openapi.json").json()
    operation = description["paths"][path]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    validator(description, body["schema"]).validate(body["example"])
    answer = client.post(path, json=body["example"])
    assert answer.status_code == 200, answer.text
    validator(description, operation["responses"]["200"]["content"]["application/json"]["schema"]).validate(
        answer.json()
    )
    wrong = {**body["example"], "no such field": 1}
    with pytest.raises(jsonschema.ValidationError):
        validator(description, body["schema"]).validate(wrong)
    problem = description["components"]["responses"]["400"]["content"]["application/json"]["schema"]
    validator(description, problem).validate(client.post(path, json=wrong).json())


def test_all_answers_that_lists_have_are_as_described(client):
    description = client.get("/openapi.json").json()
    for path in ("/v1/models", "/v1/prompt-sets"):
        schema = description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        validator(description, schema).validate(client.get(path).json())


def test_forms_are_described_with_all_their_fields(client):
    description = client.get("/openapi.json").json()
    for path, methods in description["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content")
        if content is None:
            continue
        form = content["multipart/form-data"]["schema"]
        file = form["properties"]["file"]["items"]
        assert file["format"] == "binary" and file["contentMediaType"] == "application/octet-stream"
        schema = description["components"]["schemas"][content["application/json"]["schema"]["$ref"].split("/")[-1]]
        missing = schema["properties"].keys() - form["properties"].keys()
        assert missing == {
            "/v1/embeddings": {"input"},
            "/v1/classify": {"image", "images"},
            "/v1/explain": {"image"},
            "/v1/hf/{name}": {"inputs"},
            "/v1/rank": {"candidates"},
            "/v1/search": {"query"},
        }.get(path)
    assert description["paths"]["/v1/rank"]["post"]["operationId"] == "rank_candidates"
    assert description["servers"] == [{"url": "."}]


def test_forms_rank_and_search_as_described(client):
    files = [("query", ("q.png", png(1))), ("file", ("1.png", png(1))), ("file", ("2.png", png(2)))]
    ranked = client.post("/v1/rank", data={"text": ["a cat"], "top_k": "2"}, files=files)
    assert ranked.status_code == 200, ranked.text
    expected = ask(
        client,
        "rank",
        query={"image": encoded(1)},
        candidates=[{"image": encoded(1)}, {"image": encoded(2)}, "a cat"],
        top_k=2,
    )
    key = [(row["index"], round(row["score"], 4)) for row in ranked.json()["data"]]
    assert len(key) == 2 and {round(row["score"], 4) for row in expected["data"]} == {score for _, score in key}
    found = client.post("/v1/search", data={"filters[]": ["width>1", "width<2"]}, files={"file": ("1.png", png(1))})
    assert found.status_code == 200 and found.json()["data"] == []


def test_a_key_is_described_where_one_is_asked_for(client):
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]
    described = describe_api(ServerOptions("tiny", api_key=KEY))
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert described["paths"]["/v1/rank"]["post"]["security"] == [{"key": []}]
    assert described["paths"]["/health/live"]["get"]["security"] == []


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "The model's name is ''"),
        ({"name": " a"}, "visible characters"),
        ({"name": "a\nb"}, "visible characters"),
        ({"name": "/home/me/model"}, "a path, which clients must not see"),
        ({"name": "~/model"}, "a path"),
        ({"api_key": "short"}, "has 5 characters; it needs 16 or more"),
        ({"api_key": "a key of more than 16 characters"}, "white space"),
        ({"api_key": "k\u00e9y-of-more-than-16"}, "not ASCII"),
        ({"allowed_hosts": ["http://x"]}, "'http://x' is no name or address"),
        ({"allowed_hosts": ["x:80"]}, "without a port"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as raised:
        ServerOptions(**{"name": "tiny", **options})
    assert options.get("api_key", "?") not in str(raised.value)


def test_a_key_is_not_shown():
    assert KEY not in repr(ServerOptions("tiny", api_key=KEY))
