# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The texts and images of a request, from JSON and from forms, and what clients are told of those that are refused."""

import asyncio
import base64
import re
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from clip_hf.serving import ServingLimits, request_inputs
from clip_hf.serving.image_fetching import ImageFetcher
from clip_hf.serving.request_errors import RequestError
from clip_hf.serving.request_inputs import ImageItem, TextItem, read_form, read_items


LIMITS = ServingLimits(max_items=5, max_prompts=8, max_text_characters=20, max_body_bytes=100)
PICTURE = b"\x89PNG\r\n\x1a\n and more \xff"
ENCODED = base64.b64encode(PICTURE).decode()
DATA_URI = f"data:image/png;base64,{ENCODED}"


class KnownFetcher(ImageFetcher):
    """Fetches what each URL is said to lead to: bytes, or an error."""

    def __init__(self, known: dict[str, bytes | RequestError]):
        super().__init__([], LIMITS)
        self.known, self.cancelled = known, []

    async def fetch(self, url: str, where: str, budget=None) -> bytes:
        try:
            await asyncio.sleep(0.001 if url in self.known else 5)
        except asyncio.CancelledError:
            self.cancelled.append(url)
            raise
        found = self.known[url]
        if isinstance(found, RequestError):
            raise found
        budget.take(len(found), where)
        return found


def read(value: Any, modality: str | None = None, fetcher: ImageFetcher | None = None) -> list:
    return asyncio.run(read_items(value, "input", LIMITS, fetcher or ImageFetcher([], LIMITS), modality))


def picture(where: str) -> ImageItem:
    return ImageItem(PICTURE, where)


# ---------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("value", "modality", "items"),
    [
        ("a cat", None, [TextItem("a cat", "input")]),
        (["a cat", "b"], None, [TextItem("a cat", "input[0]"), TextItem("b", "input[1]")]),
        ({"text": "a cat"}, None, [TextItem("a cat", "input")]),
        ({"image": ENCODED}, None, [picture("input")]),
        ({"image": DATA_URI}, None, [picture("input")]),
        (DATA_URI, None, [picture("input")]),
        (f"DATA:IMAGE/SVG+XML;charset=utf-8;BASE64,{ENCODED}", None, [picture("input")]),
        (ENCODED, "image", [picture("input")]),
        (DATA_URI, "image", [picture("input")]),
        ([ENCODED, {"image": DATA_URI}], "image", [picture("input[0]"), picture("input[1]")]),
        (["data: some text", {"text": "data:image/"}], None, 2 * [str]),
        (["data:image/", "ä" * 20, "\0", " "], "text", 4 * [str]),
        ("/etc/passwd", None, [TextItem("/etc/passwd", "input")]),
        ([{"text": "a"}, DATA_URI, "b", {"image": ENCODED}], None, ["a", PICTURE, "b", PICTURE]),
        ([picture("images[0]"), "a"], None, [picture("images[0]"), TextItem("a", "input[1]")]),
        ({"image": picture("query")}, "image", [picture("query")]),
    ],
)
def test_items_of_each_shape(value, modality, items):
    found = read(value, modality)
    if items[0] is str:
        items = [
            TextItem(each["text"] if isinstance(each, dict) else each, f"input[{i}]") for i, each in enumerate(value)
        ]
    elif isinstance(items[0], str):
        found = [item.text if isinstance(item, TextItem) else item.data for item in found]
    assert found == items


REFUSED = {
    "empty text": ("", None, "input", "empty_input"),
    "empty list": ([], None, "input", "empty_input"),
    "empty text of many": (["a", ""], None, "input[1]", "empty_input"),
    "empty image": ({"image": ""}, None, "input", "empty_input"),
    "number": (["a", 3.5], None, "input[1]", "invalid_item"),
    "boolean": ([True], None, "input[0]", "invalid_item"),
    "null": (None, None, "input", "invalid_item"),
    "list in a list": ([["a"]], None, "input[0]", "invalid_item"),
    "text is a number": ([{"text": 5}], None, "input[0]", "invalid_item"),
    "text is an image's file": ([{"text": ImageItem(PICTURE, "input")}], None, "input[0]", "invalid_item"),
    "image is an object": ({"image": {"url": "http://a.example/"}}, None, "input", "invalid_item"),
    "token ids": ([1, 2, 3], None, "input", "token_ids_not_taken"),
    "lists of token ids": (["a", [1, 2]], None, "input[1]", "token_ids_not_taken"),
    "both keys": ({"text": "a", "image": ENCODED}, None, "input", "invalid_item"),
    "another key": ([{"pdf": "a"}], None, "input[0]", "invalid_item"),
    "one key more": ([{"text": "a", "x": 1}], None, "input[0]", "invalid_item"),
    "no key": ([{}], None, "input[0]", "invalid_item"),
    "too many": (["a"] * 6, None, "input", "too_many_items"),
    "too long": (["a" * 21], None, "input[0]", "text_too_long"),
    "half of a surrogate pair": (["a", "\ud83d"], None, "input[1]", "invalid_text"),
    "a text among images": ([ENCODED, {"text": "a"}], "image", "input[1]", "wrong_modality"),
    "an image among texts": (["a", {"image": ENCODED}], "text", "input[1]", "wrong_modality"),
    "a file among texts": ([ImageItem(PICTURE, "input[0]")], "text", "input[0]", "wrong_modality"),
    "a path": ("/etc/passwd", "image", "input", "invalid_base64"),
    "a path in an object": ([{"image": "../../etc/hosts"}], None, "input[0]", "invalid_base64"),
    "a file URL": ({"image": "file:///etc/passwd"}, None, "input", "url_not_allowed"),
    "a path of Windows": ({"image": "C:\\secret.png"}, None, "input", "url_not_allowed"),
    "another scheme": ({"image": "s3://bucket/cat.png"}, None, "input", "url_not_allowed"),
    "a URL": ({"image": "http://images.example/cat.png"}, None, "input", "url_not_allowed"),
    "a URL in capitals": ("HTTPS://images.example/cat.png", "image", "input", "url_not_allowed"),
    "base64 without padding": ({"image": ENCODED[:-1]}, None, "input", "invalid_base64"),
    "base64 with too much padding": ({"image": "AAAA===="}, None, "input", "invalid_base64"),
    "base64 with padding inside": ({"image": "AA==AAAA"}, None, "input", "invalid_base64"),
    "base64 that is nothing but padding": ({"image": "===="}, None, "input", "invalid_base64"),
    "base64 of URLs": ({"image": "ab-_"}, None, "input", "invalid_base64"),
    "base64 with a line break": ({"image": "AAAA\nAAAA"}, None, "input", "invalid_base64"),
    "base64 with a space": ({"image": "data:image/png;base64, AAAA"}, None, "input", "invalid_base64"),
    "base64 with a letter beyond ASCII": ({"image": "AAAé"}, None, "input", "invalid_base64"),
    "base64 with half of a pair": ({"image": "AAA\ud800"}, None, "input", "invalid_base64"),
    "data URI without base64": ({"image": "data:image/svg+xml,<svg/>"}, None, "input", "invalid_image"),
    "data URI without a comma": ("data:image/png;base64", None, "input", "invalid_image"),
    "data URI of a text": ({"image": f"data:text/plain;base64,{ENCODED}"}, None, "input", "invalid_image"),
    "data URI of nothing": ({"image": f"data:;base64,{ENCODED}"}, None, "input", "invalid_image"),
    "data URI with a long header": (f"data:image/{'a' * 10_000};base64,{ENCODED}", None, "input", "invalid_image"),
}


@pytest.mark.parametrize(("value", "modality", "where", "code"), REFUSED.values(), ids=REFUSED)
def test_items_that_are_refused(value, modality, where, code, monkeypatch):
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr("os.open", None)
    with pytest.raises(RequestError) as error:
        read(value, modality)
    assert (error.value.status, error.value.param, error.value.code) == (400, where, code)
    assert f"`{where}`" in error.value.message
    assert len(error.value.message.encode()) < 300


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", {"pdf": "x"}], """`input[1]` has 'pdf'; an item is a text, {"text": TEXT} or {"image": DATA URI OR"""),
        ([7], "`input` is a list of numbers; token ids are not taken, because they belong to another tokenizer. Send"),
        ("a" * 21, "`input` has 21 characters; a text may have 20."),
        (["a"] * 6, "`input` has 6 items; a request may have 5. Send them in several requests."),
        ([{"\ud800" * 1000: 1}], "`input[0]` has '\\ud800\\ud800"),
    ],
)
def test_messages_say_what_is_allowed(value, message):
    with pytest.raises(RequestError) as error:
        read(value)
    assert error.value.message.startswith(message)


def test_an_image_does_not_show_its_bytes():
    assert repr(picture("input")) == "ImageItem(where='input')"


@pytest.mark.parametrize(("size", "own_thread"), [(1000, False), (100_000, True)])
def test_large_images_are_decoded_beside_the_event_loop(size, own_thread, monkeypatch):
    threads, decode = [], base64.b64decode

    def note_thread(*args, **options) -> bytes:
        threads.append(threading.current_thread())
        return decode(*args, **options)

    monkeypatch.setattr(request_inputs.base64, "b64decode", note_thread)
    assert read(2 * [{"image": base64.b64encode(bytes(size)).decode()}])[1].data == bytes(size)
    assert [thread is not threading.main_thread() for thread in threads] == [own_thread, own_thread]


@pytest.mark.parametrize(("step", "own_thread"), [(1000, False), (100_000, True)])
def test_large_forms_are_taken_apart_beside_the_event_loop(step, own_thread, monkeypatch):
    threads, write = set(), MultipartParser.write

    def note_thread(self, data: bytes) -> int:
        threads.add(threading.current_thread())
        return write(self, data)

    monkeypatch.setattr(MultipartParser, "write", note_thread)
    assert read_parts([("image", bytes(300_000))], step=step)["images"][0].data == bytes(300_000)
    assert (threads == {threading.main_thread()}) != own_thread


def test_urls_are_fetched_in_their_places():
    fetcher = KnownFetcher({"http://a.example/": b"A", "https://b.example/": b"B"})
    items = read(["a", {"image": "https://b.example/"}, {"image": "http://a.example/"}], fetcher=fetcher)
    assert items == [TextItem("a", "input[0]"), ImageItem(b"B", "input[1]"), ImageItem(b"A", "input[2]")]
    assert read("http://a.example/", "image", fetcher) == [ImageItem(b"A", "input")]


def test_a_url_that_fails_ends_the_others():
    fetcher = KnownFetcher({"http://a.example/": RequestError(400, "no", code="url_not_fetched", param="input[0]")})
    with pytest.raises(RequestError, match="no") as error:
        read([{"image": "http://a.example/"}, {"image": "http://slow.example/"}], fetcher=fetcher)
    assert error.value.code == "url_not_fetched"
    assert fetcher.cancelled == ["http://slow.example/"]


def test_images_of_urls_share_the_bytes_of_a_request():
    fetcher = KnownFetcher({f"http://a.example/{i}": bytes(40) for i in range(3)})
    assert len(read([{"image": url} for url in list(fetcher.known)[:2]], fetcher=fetcher)) == 2
    with pytest.raises(RequestError, match="more than the 100 bytes") as error:
        read([{"image": url} for url in fetcher.known], fetcher=fetcher)
    assert error.value.status == 413


# --------------------------------------------------------------------------------------------------------------- forms


def read_body(body: bytes, content_type: str, items: str = "images", step: int = 7) -> dict:
    chunks = [body[start : start + step] for start in range(0, len(body), step)]

    async def receive() -> dict:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    headers = [(b"content-type", content_type.encode())]
    return asyncio.run(read_form(Request({"type": "http", "headers": headers}, receive), LIMITS, items))


def read_parts(parts: list[tuple[str, str | bytes]], items: str = "images", **options) -> dict:
    """Read a form of texts (`str`) and files (`bytes`), as httpx writes it."""
    files = [(name, (None, value) if isinstance(value, str) else ("cat.png", value)) for name, value in parts]
    request = httpx.Request("POST", "http://localhost/", files=files)
    return read_body(request.read(), request.headers["Content-Type"], items, **options)


@pytest.mark.parametrize("step", [1, 7, 10**6])
@pytest.mark.parametrize(
    ("parts", "items", "values"),
    [
        ([("image", PICTURE)], "images", {"images": [picture("images[0]")]}),
        (
            [("image", PICTURE), ("labels", "a cat"), ("labels", "10"), ("file", b"B"), ("top_k", "5")],
            "images",
            {"images": [picture("images[0]"), ImageItem(b"B", "images[1]")], "labels": ["a cat", "10"], "top_k": 5},
        ),
        ([("labels", '["a cat", "ä"]'), ("labels", "[tag"[1:])], "images", {"labels": ["a cat", "ä", "tag"]}),
        ([("labels", "one")], "images", {"labels": ["one"]}),
        ([("labels", "[new] cat"), ("labels", "cat,dog")], "images", {"labels": ["[new] cat", "cat,dog"]}),
        ([("labels", '{"a": 1}'), ("filters", '["a"')], "images", {"labels": ['{"a": 1}'], "filters": ['["a"']}),
        ([("labels", "[" * 100_000)], "images", {"labels": ["[" * 100_000]}),
        (
            [("templates", "[old] {}"), ("query", '{"text": ')],
            "images",
            {"templates": "[old] {}", "query": '{"text": '},
        ),
        ([("filters", "width>=800")], "images", {"filters": ["width>=800"]}),
        (
            [("templates", "{} in the snow"), ("multi_label", "true")],
            "images",
            {"templates": "{} in the snow", "multi_label": True},
        ),
        ([("templates", "{}"), ("templates", "a {}.")], "images", {"templates": ["{}", "a {}."]}),
        ([("templates", '{"cat": ["a {}"]}')], "images", {"templates": {"cat": ["a {}"]}}),
        (
            [("model", "5"), ("user", "null"), ("threshold", "0.5")],
            "images",
            {"model": "5", "user": "null", "threshold": 0.5},
        ),
        (
            [("text", "a cat"), ("images", PICTURE), ("input", "b"), ("input", b"C"), ("image", ENCODED)],
            "input",
            {
                "input": [
                    {"text": "a cat"},
                    picture("input[1]"),
                    {"text": "b"},
                    ImageItem(b"C", "input[3]"),
                    {"image": ENCODED},
                ]
            },
        ),
        (
            [("query", PICTURE), ("candidates", "a cat"), ("text", "[b")],
            "candidates",
            {"query": picture("query"), "candidates": [{"text": "a cat"}, {"text": "[b"}]},
        ),
        ([("query", "a cat")], "candidates", {"query": "a cat"}),
    ],
)
def test_forms(parts, items, values, step):
    assert read_parts(parts, items, step=step) == values


def test_the_items_of_a_form_are_read_like_those_of_json():
    values = read_parts([("text", "data:image/"), ("file", PICTURE), ("image", DATA_URI)], "input")
    assert read(values["input"]) == [TextItem("data:image/", "input[0]"), picture("input[1]"), picture("input[2]")]


@pytest.mark.parametrize(
    ("parts", "param", "code"),
    [
        ([("labels", "a")] * 9, None, "too_many_parts"),
        ([("labels", b"a file")], "labels", "invalid_form"),
        ([("text", b"a file")], "text", "invalid_form"),
        ([("top_k", "five")], "top_k", "invalid_form"),
        ([("threshold", "NaN")], "threshold", "invalid_form"),
        ([("labels", "a" * (2**20 + 1))], "labels", "part_too_large"),
    ],
)
def test_forms_that_are_refused(parts, param, code):
    with pytest.raises(RequestError) as error:
        read_parts(
            [(name, value) for name, value in parts if name != "labels" or value != b"a file"] or parts, step=2**16
        )
    assert (error.value.status, error.value.param, error.value.code) == (400, param, code)


HEAD = b'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (HEAD + b"a\r\n", "multipart/form-data; boundary=x", "damaged, or ends before its last boundary"),
        (HEAD + b"a\r\n--x\r\n", "multipart/form-data; boundary=x", "damaged, or ends before its last boundary"),
        (b"", "multipart/form-data; boundary=x", "damaged, or ends before its last boundary"),
        (b"{}", "multipart/form-data; boundary=x", "damaged"),
        (HEAD + b"a\r\n--x--\r\n", "multipart/form-data; boundary=y", "damaged"),
        (HEAD.replace(b"name=", b"n="), "multipart/form-data; boundary=x", "damaged"),
        (HEAD.replace(b"labels", b"\xff"), "multipart/form-data; boundary=x", "damaged"),
        (b"--x\r\n\r\na\r\n--x--\r\n", "multipart/form-data; boundary=x", "damaged"),
        (b"--x\r\nA: " + b"b" * 10_000 + b"\r\n", "multipart/form-data; boundary=x", "damaged"),
        (b"--x\r\n" + b"A: b\r\n" * 20 + b"\r\n", "multipart/form-data; boundary=x", "damaged"),
        (HEAD + b"\xff\r\n--x--\r\n", "multipart/form-data; boundary=x", "`labels` is not UTF-8"),
        (HEAD + b"a\r\n--x--\r\n", "multipart/form-data", "has no boundary"),
        (HEAD + b"a\r\n--x--\r\n", "multipart/form-data; boundary=", "has no boundary"),
        (HEAD + b"a\r\n--x--\r\n", f"multipart/form-data; boundary={'x' * 300}", "damaged"),
        (b"labels=a", "application/x-www-form-urlencoded", "has no boundary"),
        (b"labels=a", "", "has no boundary"),
    ],
)
def test_damaged_forms(body, content_type, message):
    with pytest.raises(RequestError, match=message) as error:
        read_body(body, content_type, step=1000)
    assert (error.value.status, error.value.code) == (400, "invalid_form")


def test_files_stay_in_memory(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile", None)
    data = bytes(3 * 2**20)
    tracemalloc.start()
    values = read_parts([("image", data)], step=2**16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values["images"][0].data == data
    assert peak < 8 * len(data)


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_on_safety_has_the_limits():
    page = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "serve_security.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `--(max-[a-z-]+)`.*?\| ([\d,]+) \|", page, re.MULTILINE))
    assert rows == {name.replace("_", "-"): f"{value:,.0f}" for name, value in vars(ServingLimits()).items()}
