# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Requests that mean harm, for tests/serving/test_hostile_requests.py and benchmarks/check_hostile.py.

Each is bytes on a connection to the loopback device, and the statuses that the server may answer with.
"""

import asyncio
import base64
import io
import json
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from clip_hf.serving import ServingLimits


CLOSED = 0
"""Status of a connection that the server closed without an answer."""
HUNG = -1
"""Status of a connection on which nothing happened for too long."""
RESET, HALF_CLOSE, REPEAT, READ = "reset", "half-close", "repeat", "read"
_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Exchange:
    """What a hostile client does.

    Args:
        data (`bytes`): What it sends.
        statuses (`tuple`): What the server may answer with.
        ending (`str`, *optional*): Then it reads the answer, or half-closes the connection and reads it, or resets
            the connection at once, or repeats the last `step` bytes 20 times a second until the server ends it.
        step (`int`, *optional*): Bytes that are repeated.
    """

    data: bytes
    statuses: tuple[int, ...]
    ending: str = READ
    step: int = 1


@dataclass(frozen=True)
class Answer:
    """The status and the body of an answer."""

    status: int
    body: bytes = b""


async def send(port: int, exchange: Exchange) -> Answer:
    """Do what a hostile client does, to a server on the loopback device."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            return await _send(port, exchange)
    except TimeoutError:
        return Answer(HUNG)
    except ConnectionError:
        return Answer(CLOSED)


async def _send(port: int, exchange: Exchange) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    feeding = asyncio.create_task(_feed(writer, exchange))
    try:
        if exchange.ending == RESET:
            await feeding
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return Answer(CLOSED)
        return await _read(reader)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        writer.transport.abort()


async def _feed(writer: asyncio.StreamWriter, exchange: Exchange) -> None:
    writer.write(exchange.data)
    await writer.drain()
    if exchange.ending == HALF_CLOSE:
        writer.write_eof()
    while exchange.ending == REPEAT:
        await asyncio.sleep(0.05)
        writer.write(exchange.data[-exchange.step :])
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Answer:
    answer = b""
    try:
        while chunk := await reader.read(2**16):
            answer += chunk
    except ConnectionError:
        pass  # what came before counts
    while answer.startswith(b"HTTP/1.1 1"):
        answer = answer.partition(b"\r\n\r\n")[2]
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1."):
        return Answer(CLOSED, answer)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return Answer(int(head.split(b" ", 2)[1]), body[: int(length[1])] if length else body)


# ------------------------------------------------------------------------------------------------------------ building

JSON = "application/json"
REFUSED = (400, 413)
MAYBE_CLOSED = (400, 408, 413, CLOSED)


def build(
    body: bytes | str,
    path: str = "/v1/embeddings",
    kind: str = JSON,
    method: str = "POST",
    length: int | str | None = None,
    headers: str = "",
) -> bytes:
    """A request that closes its connection."""
    body = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    length = len(body) if length is None else length
    lines = f"Host: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{headers}"
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def embed(value, **fields) -> bytes:
    return build(json.dumps({"input": value, **fields}))


def classify(image: str, labels, **fields) -> bytes:
    return build(json.dumps({"image": image, "labels": labels, **fields}), "/v1/classify")


def explain(image: str, labels, **fields) -> bytes:
    return build(json.dumps({"image": image, "labels": labels, **fields}), "/v1/explain")


def embed_image(data: bytes) -> bytes:
    return embed({"image": base64.b64encode(data).decode()})


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


SMALL = save(Image.new("RGB", (8, 8), "red"), "PNG")
SMALL_TEXT = base64.b64encode(SMALL).decode()
BOMB_ROWS = zlib.compress(bytes(20_000_000), 9)
TEXT_BOMB = png_chunk(b"zTXt", b"a\0\0" + BOMB_ROWS)
ZIP_BOMB = b"PK\x03\x04" + BOMB_ROWS


def image_bombs() -> dict[str, bytes]:
    """Files that are small, and large once they are decoded; or that no decoder should be given."""
    gif = save(
        Image.new("P", (8, 8)), "GIF", save_all=True, append_images=[Image.new("P", (8, 8), i) for i in range(99)]
    )
    return {
        "PNG of 50,000x50,000": png(50_000, 50_000, rows=BOMB_ROWS),
        "PNG of 2^31-1": png(2**31 - 1, 2**31 - 1, rows=BOMB_ROWS),
        "PNG of 8,001x8,001": png(8001, 8001, rows=BOMB_ROWS),
        "PNG with a text bomb": png(8, 8, *[TEXT_BOMB] * 5, rows=zlib.compress(bytes(8 * 25))),
        "PNG of no pixels": png(0, 8),
        "GIF that says 65,535x65,535": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "JPEG that says 65,500x65,500": _large_jpeg(),
        "BMP that says 2^31": b"BM"
        + bytes(12)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6),
        "TIFF with endless directories": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "WebP that says 16,384x16,384": b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xff\xff\xff\x0f" + bytes(12),
        "ICO of 256 bombs": b"\0\0\x01\0\xff\0" + (bytes(8) + struct.pack("<II", 2**31 - 1, 22)) * 255,
        "PPM of 10^9": b"P6 1000000000 1000000000 255\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "zip": ZIP_BOMB,
        "random bytes": random.Random(0).randbytes(5000),
        "a path": b"/etc/passwd",
        "nothing": b"\0" * 100,
    }


def _large_jpeg() -> bytes:
    data = bytearray(save(Image.new("RGB", (8, 8)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


IMAGE_BOMBS = image_bombs()
BOMB_TEXT = base64.b64encode(IMAGE_BOMBS["PNG of 50,000x50,000"]).decode()
LINE_TEXT = base64.b64encode(save(Image.new("RGB", (20_000, 1)), "PNG")).decode()


# --------------------------------------------------------------------------------------------------------------- kinds

Maker = Callable[[random.Random, ServingLimits], Exchange]


def _fixed(data: bytes, *statuses: int, ending: str = READ, step: int = 1) -> Maker:
    return lambda draw, limits: Exchange(data, statuses, ending, step)


def _cut_image(draw: random.Random, limits: ServingLimits) -> Exchange:
    data = bytearray(
        save(Image.new("RGB", (64, 64), "blue"), draw.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
    )
    for _ in range(draw.randrange(1, 9)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return Exchange(embed_image(bytes(data[: draw.randrange(1, len(data) + 1)])), (200, 400))


def _random_body(draw: random.Random, limits: ServingLimits) -> Exchange:
    path = draw.choice(["embeddings", "classify", "explain", "rank", "search"])
    return Exchange(build(draw.randbytes(draw.randrange(2000)), f"/v1/{path}"), (400,))


def _random_bytes(draw: random.Random, limits: ServingLimits) -> Exchange:
    return Exchange(draw.randbytes(draw.randrange(1, 2000)) + b"\r\n\r\n", (400, CLOSED), HALF_CLOSE)


def _changed_request(draw: random.Random, limits: ServingLimits) -> Exchange:
    data = bytearray(classify(SMALL_TEXT, ["cat", "dog"], top_k=1))
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    statuses = (200, 400, 403, 404, 405, 408, 413, 415, 431, CLOSED)
    return Exchange(bytes(data), statuses, HALF_CLOSE)


def _reset(draw: random.Random, limits: ServingLimits) -> Exchange:
    data = embed([f"text {draw.random()}" for _ in range(min(limits.max_items, 200))])
    return Exchange(data[: draw.randrange(1, len(data) + 1)], (CLOSED,), RESET)


def _too_large(draw: random.Random, limits: ServingLimits) -> Exchange:
    return Exchange(build(b" " * (limits.max_body_bytes + 1)), (408, 413, CLOSED))


def _too_large_in_chunks(draw: random.Random, limits: ServingLimits) -> Exchange:
    size = 2**16
    chunks = (b"%x\r\n%s\r\n" % (size, b" " * size)) * (limits.max_body_bytes // size + 1)
    return Exchange(CHUNKED + chunks, (408, 413, CLOSED))


def _many(path: str, field: str, **more: str) -> Maker:
    """100,000 texts in one field."""
    body = {field: [str(number) for number in range(100_000)], **more}
    return _fixed(build(json.dumps(body), f"/v1/{path}"), *REFUSED)


def _form(parts: str | bytes, kind: str = "multipart/form-data; boundary=x") -> bytes:
    return build(parts, "/v1/classify", kind)


CHUNKED = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
PART = '--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\na\r\n'
DEEP = 100_000

KINDS: dict[str, Maker] = {
    # JSON
    "truncated JSON": _fixed(build('{"input": ["a", '), 400),
    "empty body": _fixed(build(""), 400),
    "deep lists": _fixed(build('{"input": ' + "[" * DEEP + "]" * DEEP + "}"), 400),
    "deep objects": _fixed(build('{"input": ' + '{"text":' * DEEP + "1" + "}" * DEEP + "}"), 400),
    "huge number": _fixed(build('{"input": "a", "dimensions": 1' + "0" * 5000 + "}"), 400),
    "infinite number": _fixed(build('{"input": "a", "dimensions": 1e999}'), 400),
    "NaN": _fixed(build('{"input": "a", "dimensions": NaN}'), 400),
    "Infinity": _fixed(build('{"image": "a", "labels": ["a"], "threshold": -Infinity}', "/v1/classify"), 400),
    "repeated keys": _fixed(build('{"input": "a", "input": []}'), 400),
    "two million values": _fixed(build('{"input": [' + "1," * 2_000_001 + "1]}"), *REFUSED),
    "not UTF-8": _fixed(build(b'{"input": "\xff\xfe"}'), 400),
    "half of a surrogate pair": _fixed(build('{"input": "\\ud800"}'), 400),
    "half of a surrogate pair as bytes": _fixed(build(b'{"input": "\xed\xa0\x80"}'), 400),
    "UTF-16": _fixed(build('{"input": "a"}'.encode("utf-16"), kind="application/json; charset=utf-16"), 400),
    "null bytes": _fixed(embed(["\0", "a\0b"]), 200),
    "list for an object": _fixed(build("[]"), 400),
    "text for an object": _fixed(build('"input"'), 400),
    "wrong types": _fixed(embed({"text": ["a"]}), 400),
    "token ids": _fixed(embed([[1, 2, 3]]), 400),
    "unknown field": _fixed(embed("a", __class__="x", trust_remote_code=True), 400),
    "unknown model": _fixed(embed("a", model="../../etc/passwd"), 404),
    "wrong base64": _fixed(embed({"image": "data:image/png;base64,////=AAA"}), 400),
    "URL": _fixed(embed({"image": "http://169.254.169.254/latest/meta-data/"}), 400),
    "file URL": _fixed(embed({"image": "file:///etc/passwd"}), 400),
    "path": _fixed(classify("/etc/passwd", ["a"]), 400),
    "long text": _fixed(embed("a" * 20_000), 400),
    "long text to be cut": _fixed(embed("a " * 400, truncate=True), 200, 400),
    "text of one character, often": _fixed(embed("\u0301" * 4000, truncate=True), 200, 400),
    "100,000 labels": _many("classify", "labels", image=SMALL_TEXT),
    "100,000 texts": _many("embeddings", "input"),
    "100,000 candidates": _many("rank", "candidates", query="a"),
    "labels times templates": _fixed(
        classify(SMALL_TEXT, [str(n) for n in range(2000)], templates=["{} " + str(n) for n in range(2000)]), *REFUSED
    ),
    "equal labels": _fixed(classify(SMALL_TEXT, ["a", "a"]), 400),
    "blank label": _fixed(classify(SMALL_TEXT, [" "]), 400),
    "template that formats": _fixed(classify(SMALL_TEXT, ["a"], templates="{0.__class__.__mro__}"), 400),
    "template that is wide": _fixed(classify(SMALL_TEXT, ["a"], templates="{:>1000000000}"), 400),
    "template that is as wide as its label": _fixed(classify(SMALL_TEXT, ["1000000000"], templates="{:{}}"), 400),
    "prompt that is wide": _fixed(classify(SMALL_TEXT, ["a"], templates={"a": "{label:1000000000}"}), 400),
    "template with a long number": _fixed(classify(SMALL_TEXT, ["a"], templates=f"{{{'9' * 5000}}}"), 400),
    "template of braces": _fixed(classify(SMALL_TEXT, ["a" * 8000], templates="{}" * 4000), 400),
    "background that formats": _fixed(
        classify(SMALL_TEXT, ["a"], multi_label=True, background="{:1000000000}"), 200, 400
    ),
    "template that is a path": _fixed(classify(SMALL_TEXT, ["a"], templates="/etc/passwd"), 400),
    "huge top_k": _fixed(classify(SMALL_TEXT, ["a"], top_k=10**30), 400),
    "negative top_k": _fixed(classify(SMALL_TEXT, ["a"], top_k=-1), 400),
    "search by a huge id": _fixed(build('{"query": {"id": 1' + "0" * 4000 + "}}", "/v1/search"), 400, 404),
    "search with a huge weight": _fixed(build('{"query": {"text": "a", "weight": 1e300}}', "/v1/search"), 400, 404),
    "search with filters that are code": _fixed(
        build('{"query": "a", "filters": ["__import__(\'os\').system(\'id\')==1", "a>=\\u0000"]}', "/v1/search"),
        400,
        404,
    ),
    "picture of a path": _fixed(build("", "/v1/search/image?id=../../../etc/passwd", method="GET"), 400, 404),
    "picture of a huge size": _fixed(build("", f"/v1/search/image?id=0&edge={'9' * 5000}", method="GET"), 400, 404),
    "picture of a huge id": _fixed(build("", f"/v1/search/image?id={'9' * 5000}", method="GET"), 400, 404),
    "picture of a null byte": _fixed(build("", "/v1/search/image?id=%00%ff", method="GET"), 400, 404),
    "explain 100,000 labels": _many("explain", "labels", image=SMALL_TEXT),
    "explain 33 labels": _fixed(explain(SMALL_TEXT, [str(n) for n in range(33)]), 400),
    "explain by a pass for each place": _fixed(explain(SMALL_TEXT, ["a"], method="occlusion"), 400),
    "explain with a template that formats": _fixed(explain(SMALL_TEXT, ["a"], templates="{0.__class__}"), 400),
    "explain a path": _fixed(explain("/etc/passwd", ["a"]), 400),
    "explain a line of pixels": _fixed(explain(LINE_TEXT, ["a"]), 200),
    "explain a bomb": _fixed(explain(BOMB_TEXT, ["a"]), 400),
    "explain nothing": _fixed(build("", "/v1/explain", method="GET"), 405),
    # Media types
    "no media type": _fixed(build("{}", kind=""), 415),
    "text": _fixed(build("{}", kind="text/plain"), 415),
    "XML": _fixed(build("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", kind="text/xml"), 415),
    "pickle": _fixed(build(b"cos\nsystem\n(S'id'\ntR.", kind="application/octet-stream"), 415),
    "compressed body": _fixed(build(BOMB_ROWS, headers="Content-Encoding: deflate\r\n"), 415),
    "media type of nonsense": _fixed(build("{}", kind="application/json;;;=;\x7f"), 200, 400, 415),
    "form without boundary": _fixed(_form(PART, "multipart/form-data"), 400),
    "form that does not end": _fixed(_form(PART), 400),
    "form of 30,000 parts": _fixed(_form(PART * 30_000 + "--x--\r\n"), *REFUSED),
    "form of other boundaries": _fixed(_form(PART, "multipart/form-data; boundary=y"), 400),
    "form with a long boundary": _fixed(_form(PART, f"multipart/form-data; boundary={'y' * 2000}"), 400),
    "form of line breaks": _fixed(_form("--x\r\n" + "\r\n" * 200_000), 400),
    "form with long headers": _fixed(_form("--x\r\nA: " + "b" * 500_000 + "\r\n\r\n"), 400),
    "form whose file has a path": _fixed(
        _form(
            '--x\r\nContent-Disposition: form-data; name="image"; filename="/etc/passwd"\r\n\r\n\r\n'
            + PART
            + "--x--\r\n"
        ),
        400,
    ),
    # HTTP
    "HEAD": _fixed(build("", method="HEAD"), 405),
    "OPTIONS": _fixed(build("", method="OPTIONS"), 405),
    "TRACE": _fixed(build("", method="TRACE"), 405),
    "DELETE": _fixed(build("", "/v1/models/last", method="DELETE"), 405),
    "CONNECT": _fixed(
        b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, 404, 405, CLOSED, ending=HALF_CLOSE
    ),
    "a method that does not exist": _fixed(build("", method="BREW"), 400, 405),
    "path up": _fixed(build("", "/page/../../../../etc/passwd", method="GET"), 400, 404),
    "path up, encoded": _fixed(build("", "/page/%2e%2e%2f%2e%2e%2fetc%2fpasswd", method="GET"), 400, 404),
    "path with a null byte": _fixed(build("", "/page/index.html%00.png", method="GET"), 400, 404),
    "path not UTF-8": _fixed(build("", "/v1/models/%ff%fe", method="GET"), 400, 404),
    "long path": _fixed(build("", "/" + "a" * 60_000, method="GET"), 400, 404, 414, 431),
    "another host": _fixed(build("{}").replace(b"localhost", b"evil.example"), 403),
    "no host": _fixed(build("{}").replace(b"Host: localhost\r\n", b""), 400),
    "two hosts": _fixed(build("{}", headers="Host: localhost\r\n"), 400),
    "another site": _fixed(build("{}", headers="Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n"), 403),
    "long header": _fixed(build("{}", headers=f"X-Long: {'a' * 200_000}\r\n"), 400, 431, CLOSED),
    "many headers": _fixed(build("{}", headers="X-Many: a\r\n" * 20_000), 400, 431, CLOSED),
    "header with a null byte": _fixed(build("{}", headers="X-Null: a\0b\r\n"), 400),
    "header without a name": _fixed(build("{}", headers=": a\r\n"), 400),
    "request id that breaks lines": _fixed(build("{}", headers="X-Request-Id: a%0d%0a\x1b[31m\r\n"), 400),
    "negative content-length": _fixed(build("{}", length=-5), 400),
    "content-length of words": _fixed(build("{}", length="two"), 400),
    "huge content-length": _fixed(build("{}", length=10**15), 413, CLOSED),
    "content-length beyond 64 bits": _fixed(build("{}", length=10**30), 400, 413, CLOSED),
    "two content-lengths": _fixed(build("{}", headers="Content-Length: 3\r\n"), 400),
    "length and chunks": _fixed(build("2\r\n{}\r\n0\r\n\r\n", headers="Transfer-Encoding: chunked\r\n"), 400),
    "content-length too short": _fixed(build('{"input": "a"}', length=5), 400),
    "content-length too long": _fixed(build("{}", length=50), 408, CLOSED, ending=HALF_CLOSE),
    "chunk of a huge size": _fixed(CHUNKED + b"FFFFFFFFFFFFFFFF\r\n{}", 400, 408, 413, CLOSED, ending=HALF_CLOSE),
    "chunk of no size": _fixed(CHUNKED + b"zz\r\n{}\r\n", 400),
    "chunk extensions": _fixed(CHUNKED + b"2;" + b"a=b;" * 50_000 + b"\r\n{}\r\n0\r\n\r\n", 400, 413, 431, CLOSED),
    "unknown transfer coding": _fixed(build("{}", headers="Transfer-Encoding: gzip\r\n"), 400, 501),
    "expect": _fixed(build("{}", headers="Expect: 100-continue\r\n"), 400),
    "unknown expectation": _fixed(build("{}", headers="Expect: the-spanish-inquisition\r\n"), 400, 417),
    "websocket": _fixed(
        build("", "/v1/embeddings", method="GET", headers="Upgrade: websocket\r\nConnection: Upgrade\r\n"), 400, 405
    ),
    "HTTP/0.9": _fixed(b"GET /\r\n\r\n", 200, 400, CLOSED, ending=HALF_CLOSE),
    "HTTP/1.0": _fixed(b"GET /health/live HTTP/1.0\r\n\r\n", 200, 400),
    "HTTP/2": _fixed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100), 400, CLOSED, ending=HALF_CLOSE),
    "HTTP/9.9": _fixed(build("{}").replace(b"HTTP/1.1", b"HTTP/9.9"), 400, 505),
    "TLS": _fixed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400, CLOSED, ending=HALF_CLOSE),
    "line breaks alone": _fixed(b"\r\n" * 1000, 400, 408, CLOSED, ending=HALF_CLOSE),
    "pipelined": _fixed(build("{}").replace(b"close", b"keep-alive") * 30 + build("{}"), 400),
    "smuggled": _fixed(build(b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", length=5), 400),
    # Clients that do not do their part
    "half-closed": _fixed(embed("a"), 200, CLOSED, ending=HALF_CLOSE),
    "half-closed in the body": _fixed(embed("a")[:-5], 400, CLOSED, ending=HALF_CLOSE),
    "half-closed in the headers": _fixed(embed("a")[:50], 400, 408, CLOSED, ending=HALF_CLOSE),
    "slow headers": _fixed(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: aaaaaaaaaa", 408, CLOSED, ending=REPEAT),
    "slow header lines": _fixed(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n", 408, CLOSED, ending=REPEAT, step=6),
    "slow body": _fixed(build('{"input": "aaa', length=10**6), 408, CLOSED, ending=REPEAT),
    "slow chunks": _fixed(CHUNKED + b"1\r\n{\r\n1\r\n \r\n", 408, CLOSED, ending=REPEAT, step=6),
    "nothing sent": _fixed(b"", CLOSED, 408),
    "reset": _reset,
    "body too large": _too_large,
    "body too large, in chunks": _too_large_in_chunks,
    # Drawn
    "image with changed bytes": _cut_image,
    "random body": _random_body,
    "random bytes": _random_bytes,
    "request with changed bytes": _changed_request,
    # Images
    **{
        f"image: {name}": _fixed(embed_image(data), 200 if "text bomb" in name else 400, 400)
        for name, data in IMAGE_BOMBS.items()
    },
}
SLOW = {"slow headers", "slow header lines", "slow body", "slow chunks", "nothing sent"}
"""Kinds that wait until the server's time is over."""
LARGE = {"body too large", "body too large, in chunks", "two million values", "labels times templates"}
"""Kinds of megabytes."""
