# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The clients against a server that fails as it is told: nothing is lost, doubled, out of order or tried in vain."""

import asyncio
import base64
import io
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from fake_server import break_off, delayed, error_body, fail, fake_server, proxy_error, reset, respond
from PIL import Image

from clip_hf.search import QueryTerm
from clip_hf.serving import AsyncClient, Client, ItemError, ServerError, client_items


@pytest.fixture
def server():
    with fake_server() as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.url, timeout=5, max_retries=5, max_retry_seconds=20) as made:
        yield made


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("clip_hf.serving.client_protocol._FIRST_DELAY", 0.01)


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def images(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def run(coroutine):
    return asyncio.run(coroutine)


async def collect(stream) -> list:
    return [each async for each in stream]


# ------------------------------------------------------------------------------------------------- batches and streams


def test_batches_keep_the_order(server, client):
    server.act = delayed(0.005)
    rows = client.embed_texts(texts(1000), batch_size=30)
    assert rows.dtype == np.float32 and rows[:, 0].tolist() == list(range(1000))
    assert len(server.requests) == 34 and set(rows[:, 1]) == {30, 10}
    assert 1 < server.most_active <= client.max_in_flight
    body = server.requests[0][1]
    assert (body["modality"], body["encoding_format"], body["truncate"]) == ("text", "base64", False)
    assert client.embed_texts([]).shape == (0, 0)
    assert client.embed_images(images(3))[:, 0].tolist() == [0, 1, 2]


def test_the_asynchronous_client_does_the_same(server):
    server.act = delayed(0.005)

    async def work():
        async with AsyncClient(server.url) as client:
            rows = await client.embed_texts(texts(100), batch_size=9)
            pictures = await client.embed_images(images(40), batch_size=9)
            stream = await collect(client.embed_image_stream([b"1", b"x bad", b"3"], on_error="yield"))
            found = await client.classify(images(3), ["a", "b"], top_k=2)
            return rows, pictures, stream, found, await client.models(), await client.is_ready()

    rows, pictures, stream, found, models, is_ready = run(work())
    assert rows[:, 0].tolist() == list(range(100)) and pictures[:, 0].tolist() == list(range(40))
    assert (stream[0][0], stream[1].index, stream[2][0]) == (1, 1, 3)
    assert [each[0]["score"] for each in found] == [0, 1, 2] and models == [{"id": "fake"}] and is_ready
    assert 1 < server.most_active <= 4


def test_batches_are_bounded_by_bytes(server, client, monkeypatch):
    monkeypatch.setattr(client_items, "MAX_BATCH_BYTES", 1000)
    rows = client.embed_images([b"0" * 400 + b"%d" % number for number in range(5)])
    assert rows.tolist() == [[0, 2], [1, 2], [2, 2], [3, 2], [4, 1]]


def test_a_stream_reads_no_more_than_is_in_flight(server, client):
    read = []

    def source():
        for number in range(10_000):
            read.append(number)
            yield b"%d" % number

    stream = client.embed_image_stream(source(), batch_size=10)
    assert next(stream)[0] == 0
    assert len(read) <= 10 * client.max_in_flight + 1
    assert [row[0] for _, row in zip(range(500), stream)] == list(range(1, 501))
    assert len(read) <= 501 + 10 * (client.max_in_flight + 1)
    stream.close()
    assert len(server.requests) <= 50 + 2 * client.max_in_flight

    async def work():
        read.clear()
        async with AsyncClient(server.url) as other:
            stream = other.embed_image_stream(source(), batch_size=10)
            assert (await anext(stream))[0] == 0
            assert len(read) <= 10 * other.max_in_flight + 1
            await stream.aclose()

    run(work())


def test_a_pause_among_the_items_gives_all_answers_so_far(server, client):
    asked = []

    def source():
        yield b"0"
        yield b"1"
        yield client_items.PAUSE
        asked.append(len(got))
        yield b"2"

    got = []
    for row in client.embed_image_stream(source()):
        got.append(row[0])
    assert got == [0, 1, 2] and asked == [2]


def test_a_broken_off_stream_does_not_wait_for_retries(server, client):
    full = fail(503, **{"Retry-After": "10"})
    server.act = lambda handler, body: (respond if body["input"] == ["text 0"] else full)(handler, body)
    started = time.monotonic()
    stream = client.embed_text_stream(texts(5), batch_size=1)
    assert next(stream)[0] == 0
    stream.close()
    client.close()
    assert time.monotonic() - started < 5


# --------------------------------------------------------------------------------------------------------- bad items


def test_a_bad_item_is_named_and_the_others_go_on(server, client):
    given = [b"0", b"x bad", b"2", b"y bad", b"4"]
    with pytest.raises(ItemError, match=r"Image 1: it is damaged\.") as caught:
        client.embed_images(given)
    assert caught.value.index == 1 and isinstance(caught.value.__cause__, ServerError)
    for size in (1, 2, 5):
        found = list(client.embed_image_stream(given, batch_size=size, on_error="yield"))
        assert [each.index if isinstance(each, ItemError) else each[0] for each in found] == [0, 1, 2, 3, 4]
        assert [isinstance(each, ItemError) for each in found] == [False, True, False, True, False]
    found = list(client.classify_stream(given, ["a"], on_error="yield"))
    assert [isinstance(each, ItemError) for each in found] == [False, True, False, True, False]


def test_an_error_ends_what_is_in_flight(server, client):
    """Also as long as the error is held, and with it the frames that it went through."""
    full = fail(503, **{"Retry-After": "10"})
    server.act = lambda handler, body: (respond if body["images"] == [b"x bad"] else full)(handler, body)
    with pytest.raises(ItemError) as caught:
        for _ in client.embed_image_stream([b"x bad", b"1", b"2", b"3", b"4"], batch_size=1):
            pass
    started = time.monotonic()
    client.close()  # waits for threads
    assert time.monotonic() - started < 5 and caught.value.index == 0


def test_a_file_that_cannot_be_read_is_not_sent(server, client, tmp_path):
    found = list(client.embed_image_stream([tmp_path / "none.png", b"7", tmp_path, None, 5], on_error="yield"))
    assert [str(each)[:8] for each in found if isinstance(each, ItemError)] == [f"Image {n}:" for n in (0, 2, 3, 4)]
    assert found[1].tolist() == [7, 1] and len(server.requests) == 1
    assert "there is no file" in found[0].message and "is a folder" in found[2].message
    with pytest.raises(ItemError, match=r"Text 1: .* \(a lone surrogate\)"):
        client.embed_texts(["a 1", "\ud800"])
    with pytest.raises(ItemError, match="Text 1: 3 is no text"):
        client.embed_texts(["a 1", 3])


def test_a_refused_label_is_no_bad_image(server, client):
    server.act = lambda handler, body: handler.answer(error_body("too long", "text_too_long", "labels[0]"), 400)
    with pytest.raises(ServerError, match="too long"):
        list(client.classify_stream(images(2), ["a"], on_error="yield"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "code"), [(413, "body_too_large"), (400, "too_many_items")])
def test_a_request_that_is_too_large_is_sent_in_halves(server, client, status, code):
    def act(handler, body):
        if len(body["images"]) > 3:
            handler.answer(error_body("too large", code, "images"), status)
        else:
            respond(handler, body)

    server.act = act
    assert client.embed_images(images(10))[:, 0].tolist() == list(range(10))
    server.act = fail(413)
    with pytest.raises(ItemError, match="Image 0: no"):
        client.embed_images(images(1))


# ------------------------------------------------------------------------------------------------------------- retries


@pytest.mark.parametrize("trouble", [fail(429), fail(503), fail(502), fail(504), proxy_error, reset, break_off])
def test_what_may_pass_is_tried_again(server, client, trouble):
    server.script.extend([trouble, trouble])
    assert client.embed_texts(texts(3))[:, 0].tolist() == [0, 1, 2]
    assert len(server.requests) == 3

    async def work():
        async with AsyncClient(server.url) as other:
            return await other.embed_texts(texts(3))

    server.script.extend([trouble, trouble])
    assert run(work())[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("status", "code"),
    [*((status, "some_code") for status in (400, 401, 403, 404, 408, 409, 422, 500)), (503, "timeout")]
    + [(503, "model_failed")],
)
def test_what_is_final_is_not_tried_again(server, client, status, code):
    server.act = fail(status, code)
    with pytest.raises(ServerError, match=rf"no\. \(status {status}, request r-1\)") as caught:
        client.embed_texts(texts(2))
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (status, code, "r-1")
    assert len(server.requests) == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_tries_are_bounded_by_count_and_by_time(server):
    server.act = fail(429)
    with Client(server.url, max_retries=3) as client:
        with pytest.raises(ServerError, match="status 429"):
            client.models()
    assert len(server.requests) == 4
    server.act, started = fail(503, **{"Retry-After": "4"}), time.monotonic()
    with Client(server.url, max_retries=1, max_retry_seconds=3) as client:
        with pytest.raises(ServerError, match="status 503"):
            client.models()
    assert time.monotonic() - started < 3
    with Client(server.url, max_retries=0, max_retry_seconds=0) as client:
        server.act = reset
        with pytest.raises(ConnectionError, match="broke"):
            client.models()


def test_the_servers_wait_is_kept(server, client):
    server.script.append(fail(429, **{"Retry-After": "1"}))
    started = time.monotonic()
    client.models()
    assert time.monotonic() - started >= 1


def test_waits_grow_and_differ(server, client, monkeypatch):
    waits = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    server.script.extend([fail(429)] * 5)
    with Client(server.url) as other:
        other.models()
    waits = [wait for wait in waits if wait is not None]  # those of threads that start
    assert len(waits) == 5 and all(0.005 * 2**n <= wait <= 0.01 * 2**n for n, wait in enumerate(waits))


def test_a_slow_answer_is_an_error_in_time(server):
    server.act = delayed(1.0)
    with Client(server.url, timeout=0.2, max_retries=1) as client:
        with pytest.raises(TimeoutError, match=r"does not answer in time after 2 tries: .* Raise `timeout`"):
            client.models()
        assert not client.is_ready()


def test_a_server_that_restarts_loses_nothing(server):
    got, port = [], server.server_port

    def restart():
        while len(got) < 50:
            time.sleep(0.001)
        server.act = reset
        server.shutdown()
        server.server_close()
        time.sleep(0.3)
        with fake_server(port):
            while len(got) < 3000:
                time.sleep(0.01)

    thread = threading.Thread(target=restart, daemon=True)
    thread.start()
    with Client(server.url) as client:
        for row in client.embed_text_stream(texts(3000), batch_size=10):
            got.append(row[0])
    thread.join(10)
    assert got == list(range(3000))


# -------------------------------------------------------------------------------------------------------------- errors


def test_nobody_listens():
    with fake_server() as server:
        url = server.url
    with Client(url, max_retries=0) as client:
        assert not client.is_ready()
        with pytest.raises(ConnectionError, match=rf"No server at {url}: .* Start one with `clip-hf serve MODEL`"):
            client.models()


@pytest.mark.parametrize("body", [b"<html>It works</html>", b"[]", b'{"data": 3}', b'{"data": [{"index": 0}]}'])
@pytest.mark.parametrize("status", [200, 302, 404])
def test_another_server_is_told(server, client, body, status):
    server.act = lambda handler, _: handler.answer(body, status)
    with pytest.raises(ServerError, match=r"does not answer as `clip-hf serve` does\. Is the address right\?"):
        client.embed_texts(["a"])
    assert len(server.requests) == 1


def test_an_answer_of_another_length_is_an_error(server, client):
    server.act = lambda handler, body: respond(handler, {"input": body["input"][:1]})
    with pytest.raises(ServerError, match="1 results for 2 texts"):
        client.embed_texts(texts(2))


def test_the_answer_of_a_proxy_is_told(server, client):
    server.act = lambda handler, _: handler.answer(b"<html>", 413)
    with pytest.raises(
        ItemError, match=r"before http.*, such as a proxy, answered 413 (Request Entity|Content) Too L"
    ):
        client.embed_images(images(1))
    server.act = lambda handler, _: handler.answer(b"<html>", 502)
    with Client(server.url, max_retries=0) as other:
        with pytest.raises(ServerError, match="such as a proxy, answered 502 Bad Gateway"):
            other.models()


def test_numbers_of_numpy_and_the_address_of_openais_api_are_taken(server):
    with Client(f"{server.url}/v1/", max_retries=np.int64(1), timeout=np.float32(5)) as client:
        assert client.url == server.url
        assert len(client.classify(images(3), ["a"], top_k=np.int64(1), batch_size=np.int32(2))) == 3
        assert server.requests[-1][1]["top_k"] == 1
        client.rank("a", ["b"], top_k=np.int64(7))
        assert server.requests[-1][1]["top_k"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "must begin with http"),
        ({"url": "ftp://a"}, "must begin with http"),
        ({"url": "http://"}, "name a host"),
        ({"url": "http://a:b"}, "The server's URL is 'http://a:b'"),
        ({"api_key": "a\n"}, "visible ASCII"),
        ({"api_key": ""}, "visible ASCII"),
        ({"api_key": "\u00e9"}, "visible ASCII"),
        ({"timeout": 0}, "`timeout` is 0"),
        ({"max_retries": -1}, "`max_retries` is -1; it must be a whole number of at least 0"),
        ({"max_retries": 1.5}, "`max_retries`"),
        ({"max_retry_seconds": float("nan")}, "`max_retry_seconds`"),
        ({"max_in_flight": 0}, "`max_in_flight`"),
    ],
)
def test_settings_are_checked(arguments, message):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=message):
            kind(**arguments)


def test_arguments_are_checked(client):
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        client.embed_texts(["a"], batch_size=0)
    with pytest.raises(ValueError, match="`on_error` is \"skip\"|`on_error` is 'skip'"):
        client.embed_image_stream([b"1"], on_error="skip")
    pixels = np.zeros((32, 32, 3), np.uint8)
    for one in ("cat.jpg", b"cat", bytearray(b"cat"), 3, io.BytesIO(b"cat"), pixels, torch.from_numpy(pixels)):
        with pytest.raises(TypeError, match="Pass a list of images, not one"):
            client.embed_images(one)
    with pytest.raises(TypeError, match="Labels must be a list"):
        client.classify([b"1"], "cat")


def test_the_key_is_sent(server, monkeypatch):
    monkeypatch.setenv("CLIP_HF_API_KEY", "from-env")
    for given, sent in ((None, "Bearer from-env"), ("given", "Bearer given")):
        with Client(server.url, given) as client:
            client.models()
        assert server.requests[-1][2]["Authorization"] == sent
    monkeypatch.delenv("CLIP_HF_API_KEY")
    with Client(server.url) as client:
        client.models()
    assert "Authorization" not in server.requests[-1][2]


def test_no_proxy_leads_to_this_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(server.url) as client:
        assert client.models() == [{"id": "fake"}]


# ------------------------------------------------------------------------------------------------- what is sent


def sent_image(server) -> bytes:
    return server.requests[-1][1]["images"][0]


def test_a_file_is_sent_as_it_is_and_an_image_without_loss(server, client, tmp_path):
    server.act = lambda handler, body: handler.answer({"data": [{"index": 0, "embedding": "AACAPw=="}]})
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    path = tmp_path / "a.jpg"
    for source in (path, str(path), data, bytearray(data), {"bytes": data}, {"path": path}, io.BytesIO(data)):
        assert client.embed_images([source]).tolist() == [[1.0]]
        assert sent_image(server) == data
    for source in (picture, pixels, np.moveaxis(pixels, 2, 0)):
        client.embed_images([source])
        assert np.array_equal(Image.open(io.BytesIO(sent_image(server))), pixels)


def test_an_image_in_memory_keeps_its_orientation(server, client):
    server.act = lambda handler, body: handler.answer({"data": [{"index": 0, "embedding": "AACAPw=="}]})
    picture = Image.new("RGB", (4, 2))
    picture.getexif()[0x0112] = 6
    client.embed_images([picture])
    assert Image.open(io.BytesIO(sent_image(server))).getexif()[0x0112] == 6


def test_a_file_that_is_too_large_is_not_read(client, tmp_path, monkeypatch):
    monkeypatch.setattr(client_items, "IMAGE_LIMITS", client_items.ImageLimits(max_bytes=1000))
    (tmp_path / "a.jpg").write_bytes(b"0" * 1001)
    for source in (tmp_path / "a.jpg", b"0" * 1001, np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)):
        with pytest.raises(ItemError, match="more than the 1,000 bytes"):
            client.embed_images([source])


def test_queries_and_candidates(server, client, tmp_path):
    (tmp_path / "a.png").write_bytes(b"png")
    encoded = base64.b64encode(b"png").decode()
    client.rank("a cat", ["a dog", tmp_path / "a.png", b"png"], top_k=2)
    assert server.requests[-1][:2] == (
        "/v1/rank",
        {
            "query": {"text": "a cat"},
            "candidates": [{"text": "a dog"}, {"image": encoded}, {"image": encoded}],
            "top_k": 2,
        },
    )
    hit = {"rank": 1, "score": 0.5, "id": "a b", "metadata": {"name": "x"}, "image_url": "/v1/search/image?id=a%20b"}
    found = {"data": [hit], "best_score": 0.5, "lowest_score": None}
    server.act = lambda handler, body: handler.answer(found if body else b"jpeg")
    query = [QueryTerm(1.0, text="a"), QueryTerm(-0.5, image=tmp_path / "a.png"), {"id": 3, "weight": 2}]
    results = client.search(query, top_k=4, filters=["width>=8"], picture_edge=64)
    assert server.requests[-2][1] == {
        "query": [{"text": "a", "weight": 1.0}, {"image": encoded, "weight": -0.5}, {"id": 3, "weight": 2}],
        "top_k": 4,
        "filters": ["width>=8"],
    }
    assert server.requests[-1][0] == "/v1/search/image?id=a%20b&edge=64"
    assert (results.hits[0].picture, results.hits[0].id, results.best_score) == (b"jpeg", "a b", 0.5)
    assert client.search("a").hits[0].picture is None
    found["data"][0]["image_url"] = "/a/prefix/v1/search/image?id=a%20b"  # which the client has in its own URL
    client.search("a", picture_edge=64)
    assert server.requests[-1][0] == "/v1/search/image?id=a%20b&edge=64"
    found["data"][0]["image_url"] = "http://elsewhere/v1/search/image?id=1"
    with pytest.raises(ServerError, match="does not answer as"):
        client.search("a", picture_edge=64)


def test_options_of_a_classification_in_a_form(server, client):
    options = {"templates": "a {}", "top_k": 3, "multi_label": True, "background": ["nothing"], "threshold": None}
    client.classify([b"1"], ["a", "[b]"], **options)
    sent = {"labels": ["a", "[b]"], "templates": "a {}", "top_k": 3, "multi_label": "true", "background": ["nothing"]}
    assert server.requests[-1][1] == {**sent, "images": [b"1"]}
    for text in ("[a] {}", "{} {", ' {"a": 1} {}'):
        client.classify([b"1"], ["a"], templates=text)
        assert server.requests[-1][1]["templates"] == [text]
