# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`/v1/explain`: the maps of `image_maps` over the right part of the picture, in their turn among other requests."""

import asyncio
import base64
import io
import threading
from typing import get_args

import numpy as np
import pytest
import torch
from engine_runs import photos, refused, run
from fake_server import fake_server
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.embedding import load_dual_encoder
from clip_hf.explain import METHODS, explain_image
from clip_hf.serving import AsyncClient, Client, LoadedModel, image_explanations
from clip_hf.serving.dynamic_batching import BatchingOptions
from clip_hf.serving.image_explanations import (
    ExplainOptions,
    Explanations,
    can_explain,
    covered_box,
    prepare_explained,
)
from clip_hf.serving.label_options import ClassifyOptions
from clip_hf.serving.request_inputs import ImageItem
from clip_hf.serving.request_schemas import ExplainRequest
from encoding_inputs import png
from tiny_models import as_transformers_clip, make_tiny_model


LABELS = ["a cat", "a dog", "the beach"]


def wide_picture() -> bytes:
    """Noise, turned by EXIF: upright it is 120 wide and 40 high, of which a square crop leaves much out."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture, exif=exif)


def encoded(picture: Image.Image, **options) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "PNG", **options)
        return file.getvalue()


PICTURE = base64.b64encode(png(1)).decode()


def explain(client, **body) -> dict:
    answer = client.post("/v1/explain", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module", params=["vit", "resnet"])
def tower_encoder(request, tiny_processor):
    return load_dual_encoder(make_tiny_model(request.param), processor=tiny_processor)


@pytest.mark.parametrize("method", [None, "chefer", "grad_cam", "rollout"])
def test_maps_are_those_of_the_library_in_the_same_part_of_the_picture(tower_encoder, method):
    picture = wide_picture()
    options = ExplainOptions(LABELS, "a photo of {}.", method)
    found = run(tower_encoder, lambda engine: engine.explain(ImageItem(picture, "image"), options))
    model, processor = tower_encoder.model, tower_encoder.processor
    expected = explain_image(model, processor, picture, LABELS, method=method, templates="a photo of {}.")
    assert found.method == expected.method
    np.testing.assert_allclose(found.maps, expected.grid_maps, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-5)
    width, height = expected.image.size
    assert (width, height) == (120, 40)
    shown = np.multiply(found.seen_box, [width, height] * 2)
    np.testing.assert_allclose(shown, expected.seen_box, atol=1)
    assert found.seen_box[0] > 0.2 and found.seen_box[2] < 0.8
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_box_without_a_crop_ends_where_the_cells_do(tower, tiny_tokenizer):
    """120 x 40 is resized to 192 x 64, and 125 x 40 to 200 x 64: 6 whole cells of a ResNet, 12 of a ViT."""
    processor = ClipHFProcessor(ClipHFImageProcessor(size=64, do_center_crop=False), tiny_tokenizer)
    encoder, cell = load_dual_encoder(make_tiny_model(tower), processor=processor), {"vit": 16, "resnet": 32}[tower]
    for width, shown in ((120, 192), (125, 200)):
        data = encoded(Image.effect_noise((width, 40), 60).convert("RGB"))
        expected = explain_image(encoder.model, processor, data, LABELS[:1])
        inputs, first_cell = prepare_explained(encoder, data)
        assert inputs["pixel_values"].shape[2:] == (64, shown)
        box = covered_box(first_cell, expected.grid_maps)
        np.testing.assert_allclose(box, [0, 0, 192 // cell * cell / shown, 1])
        np.testing.assert_allclose(np.multiply(box[::2], width), expected.cell_edges[0][[0, -1]])


def test_an_answer_has_the_cosines_of_classify_and_grids_in_parts_of_their_largest_value(client, loaded):
    labels = ["cat", "dog"]
    asked = {"image": PICTURE, "labels": labels, "templates": "satellite"}
    answer = explain(client, model="tiny", method="rollout", **asked)
    assert (answer["object"], answer["model"], answer["method"]) == ("list", "tiny", "rollout")
    classified = client.post("/v1/classify", json={**asked, "function_to_apply": "cosine"}).json()
    cosines = {each["label"]: each["score"] for each in classified["data"][0]["predictions"]}
    shape = np.shape(answer["data"][0]["relevance"])
    for index, (label, row) in enumerate(zip(labels, answer["data"], strict=True)):
        assert (row["index"], row["label"]) == (index, label)
        assert row["cosine"] == pytest.approx(cosines[label], abs=1e-6)
        grid = np.array(row["relevance"])
        assert grid.shape == shape and grid.max() == 1 and grid.min() >= 0 and row["largest"] > 0
    files = {"file": ("1.png", png(1))}
    form = client.post(
        "/v1/explain", data={"labels": labels, "templates": "satellite", "method": "rollout"}, files=files
    )
    assert form.json() == answer


def test_a_map_of_zeros_stays_one():
    found = Explanations("chefer", [0, 0, 1, 1], np.zeros(1, np.float32), np.zeros((1, 2, 3), np.float32))
    (row,) = found.rows(["a"])
    assert row["largest"] == 0 and not row["relevance"].any()


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"labels": ["a"]}, "missing_field", "image"),
        ({"image": "x"}, "missing_field", "labels"),
        ({"image": "x", "labels": []}, "invalid_value", "labels"),
        ({"image": "x", "labels": ["a"], "method": "occlusion"}, "invalid_value", "method"),
        ({"image": "x", "labels": ["a"], "layers": 1}, "unknown_field", "layers"),
        ({"image": [{"image": PICTURE}] * 2, "labels": ["a"]}, "invalid_value", "image"),
        ({"image": base64.b64encode(b"no picture").decode(), "labels": ["a"]}, "image_not_an_image", "image"),
        ({"image": PICTURE, "labels": ["a", "a"]}, "invalid_value", "labels"),
        ({"image": PICTURE, "labels": [str(n) for n in range(33)]}, "too_many_labels", "labels"),
        ({"image": PICTURE, "labels": ["cat " * 99]}, "text_too_long", "labels[0]"),
        ({"image": {"text": "a"}, "labels": ["a"]}, "wrong_modality", "image"),
    ],
)
def test_wrong_requests_are_named(client, body, code, param):
    answer = client.post("/v1/explain", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error


def test_a_text_may_be_cut_and_be_the_whole_prompt(client, loaded):
    (row,) = explain(client, image=PICTURE, labels=["cat " * 99], templates="{}", truncate=True)["data"]
    cosine = loaded.encoder.encode_images([png(1)])[0] @ loaded.encoder.encode_texts(["cat " * 99])[0]
    assert row["cosine"] == pytest.approx(float(cosine), abs=1e-5)


def test_methods_are_all_but_that_of_many_passes():
    literal, _ = get_args(ExplainRequest.model_fields["method"].annotation)
    assert set(get_args(literal)) == METHODS.keys() - {"occlusion"}


def test_other_models_say_that_they_cannot_be_explained(make_client, tiny_processor, loaded):
    foreign = load_dual_encoder(as_transformers_clip(make_tiny_model("vit")), processor=tiny_processor)
    assert can_explain(loaded.encoder) and not can_explain(foreign)
    client = make_client(lambda: LoadedModel(foreign))
    assert client.get("/v1/models").json()["data"][0]["facts"]["explains"] is False
    answer = client.post("/v1/explain", json={"image": PICTURE, "labels": ["a"]})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "not_explainable") and "ClipHFModel" in error["message"]


@pytest.mark.slow  # the export
def test_an_exported_model_says_so_too(exported_folder):
    encoder = load_dual_encoder(str(exported_folder("vit", "onnx")))
    assert not can_explain(encoder)
    error = refused(encoder, lambda engine: engine.explain(photos(1)[0], ExplainOptions(["a"])))
    assert error.code == "not_explainable"


def test_passes_have_their_turn_in_the_models_thread_and_change_no_other_answer(shared, monkeypatch):
    calls, image_maps = [], image_explanations.image_maps

    def noted(model, pixel_values, text_embeds, method):
        calls.append((threading.current_thread().name, len(text_embeds)))
        return image_maps(model, pixel_values, text_embeds, method)

    monkeypatch.setattr(image_explanations, "image_maps", noted)
    labels = [f"a cat {number}" for number in range(9)]

    async def use(engine):
        alone = await engine.classify(photos(1, 2), ClassifyOptions(LABELS))
        explained = (engine.explain(photos(number)[0], ExplainOptions(labels)) for number in (1, 2))
        classified = (engine.classify(photos(1, 2), ClassifyOptions(LABELS)) for _ in range(8))
        return alone, await asyncio.gather(*explained, *classified)

    alone, (first, second, *others) = run(shared, use)
    assert sorted(calls) == sorted([("model", 4), ("model", 4), ("model", 1)] * 2)
    assert first.maps.shape == second.maps.shape == (9, *first.maps.shape[1:])
    for results in others:
        for one, other in zip(results, alone, strict=True):
            assert [each["label"] for each in one] == [each["label"] for each in other]
            np.testing.assert_allclose([e["score"] for e in one], [e["score"] for e in other], atol=1e-5)


def test_others_find_one_pass_before_them_however_many_explanations_wait(shared, monkeypatch):
    begun, gate, num_requests = [], threading.Event(), 40

    def held(model, pixel_values, text_embeds, method):
        begun.append(method)
        assert gate.wait(30)
        return torch.zeros(1, len(text_embeds), 2, 2)

    monkeypatch.setattr(image_explanations, "image_maps", held)
    batching = BatchingOptions(max_batch_images=2)  # 8 pictures decoded at a time

    async def use(engine):
        alone = await engine.classify(photos(1), ClassifyOptions(LABELS))
        options = ExplainOptions(["a", "b"])
        explained = [asyncio.create_task(engine.explain(photos(2)[0], options)) for _ in range(num_requests)]
        while not begun:
            await asyncio.sleep(0.01)
        classified = asyncio.create_task(engine.classify(photos(1), ClassifyOptions(LABELS)))
        explained[-1].cancel()  # while it waits
        await asyncio.sleep(0.1)
        gate.set()
        again, num_before = await classified, len(begun)
        await asyncio.gather(*explained[:-1])
        return alone, again, num_before

    alone, again, num_before = run(shared, use, batching=batching)
    assert again[0][0]["label"] == alone[0][0]["label"]
    assert num_before <= 6 and len(begun) == num_requests - 1


def test_a_map_that_is_not_finite_is_an_answer_too(shared, monkeypatch):
    for method in METHODS:
        monkeypatch.setitem(METHODS, method, lambda request: torch.full((1, 1, 2, 2), float("nan")))
    error = refused(shared, lambda engine: engine.explain(photos(1)[0], ExplainOptions(["a"])))
    assert (error.status, error.code, error.param) == (503, "model_failed", "images[0]")


def test_both_clients_send_a_form_and_read_arrays(tmp_path):
    (tmp_path / "a.png").write_bytes(b"png")
    row = {"index": 0, "label": "cat", "cosine": 0.5, "largest": 2.0, "relevance": [[0, 1], [0.5, 0]]}
    answer = {"method": "chefer", "seen_box": [0.1, 0, 0.9, 1], "data": [row]}
    with fake_server() as server:
        server.act = lambda handler, body: handler.answer(answer)
        with Client(server.url) as client:
            found = client.explain(tmp_path / "a.png", ["cat"], templates="{}", method=None)

        async def ask():
            async with AsyncClient(server.url) as client:
                return await client.explain(b"png", ["cat"], templates="{}")

        again = asyncio.run(ask())
    assert [request[:2] for request in server.requests] == [
        ("/v1/explain", {"labels": ["cat"], "templates": ["{}"], "images": [b"png"]})
    ] * 2
    for each in (found, again):
        assert (each["method"], each["seen_box"]) == ("chefer", [0.1, 0, 0.9, 1])
        assert each["data"][0]["relevance"].dtype == np.float32
        assert {**each["data"][0], "relevance": each["data"][0]["relevance"].tolist()} == row
