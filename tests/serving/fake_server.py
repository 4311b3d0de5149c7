# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A small server with the shapes of `clip-hf serve` and without a model, which fails as it is told."""

import base64
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


def error_body(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error in the server's shape."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


class Handler(BaseHTTPRequestHandler):
    """Does what the next entry of the server's script says, else answers."""

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        server = self.server
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = read_body(raw, self.headers.get("Content-Type", ""))
        with server.lock:
            server.requests.append((self.path, body, dict(self.headers), len(raw)))
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            act = server.script.popleft() if server.script else server.act
        try:
            act(self, body)
        finally:
            with server.lock:
                server.active -= 1

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"X-Request-Id": "r-1", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def read_body(raw: bytes, kind: str) -> dict[str, Any] | None:
    """A body of JSON; a form as the same, with the bytes of its files as `images`."""
    if not kind.startswith("multipart/form-data; boundary="):
        return json.loads(raw) if raw else None
    fields, images = {}, []
    for part in raw.split(b"--" + kind.partition("=")[2].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb' name="(\w+)"', head)[1].decode()
        if b"filename=" in head:
            images.append(data[:-2])
        else:
            text = data[:-2].decode()
            fields[name] = json.loads(text) if text.startswith(("[", "{")) or text.isdecimal() else text
    return {**fields, "images": images}


def number_of(item: str | bytes) -> float:
    """What stands for an item: the number that a text or the bytes of an image end in."""
    text = item if isinstance(item, str) else item.decode()
    return float(text.rpartition(" ")[2])


def respond(handler: Handler, body: Any) -> None:
    """Answer as the server would; an item that ends in `bad` is refused, and named."""
    path = handler.path
    items = (body or {}).get("input") or (body or {}).get("images") or []
    name = "input" if path == "/v1/embeddings" else "images"
    for place, item in enumerate(items):
        try:
            number_of(item)
        except ValueError:
            where = f"{name}[{place}]"
            handler.answer(error_body(f"The image at `{where}` is damaged.", "bad_item", where), 400)
            return
    if path == "/v1/embeddings":
        rows = [np.array([number_of(item), len(items)], "<f4") for item in items]
        data = [{"index": i, "embedding": base64.b64encode(row.tobytes()).decode()} for i, row in enumerate(rows)]
        handler.answer({"data": data[::-1]})
    elif path == "/v1/classify":
        found = [[{"score": number_of(item), "label": label} for label in body["labels"]] for item in items]
        handler.answer({"data": [{"index": i, "predictions": each} for i, each in enumerate(found)]})
    else:
        handler.answer({"data": [{"id": "fake"}]})


def fail(status: int, code: str = "failed", **headers: str) -> Callable[[Handler, Any], None]:
    """An error in the server's shape."""
    return lambda handler, body: handler.answer(error_body("no.", code), status, headers)


def proxy_error(handler: Handler, body: Any) -> None:
    """What a proxy says whose server has died."""
    handler.answer(b"Internal Server Error", 500)


def reset(handler: Handler, body: Any) -> None:
    """Break the connection without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def break_off(handler: Handler, body: Any) -> None:
    """Say that 100 bytes come, and end after ten."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"{" * 10)
    handler.close_connection = True


def delayed(seconds: float) -> Callable[[Handler, Any], None]:
    """Answer late."""

    def act(handler: Handler, body: Any) -> None:
        time.sleep(seconds)
        respond(handler, body)

    return act


@contextmanager
def fake_server(port: int = 0):
    """A running server: `url`, `script` of what it does next, `act` otherwise, and the `requests` it got."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda request, address: None  # of connections that it broke
    server.daemon_threads, server.block_on_close = True, False
    server.lock, server.script, server.requests, server.act = threading.Lock(), deque(), [], respond
    server.active = server.most_active = 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
