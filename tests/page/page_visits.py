# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the tests of the page share: servers in threads, visits that record what goes wrong, and files for the page."""

import base64
import io
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, JSHandle, Locator, Page, expect

import clip_hf
from clip_hf.serving.server_app import LoadedModel, create_app
from clip_hf.serving.server_options import ServerOptions


# What the index has.
PHOTOS = ("red/0.png", "red/1.png", "blue/2.png", "3.png", "<img src=x onerror=hacked=1>.png", "5.png")
# The events of a drop or of pasting, with a file or a text.
_MAKE_TRANSFER = """({name, type, content, text}) => {
    const transfer = new DataTransfer();
    if (text !== undefined) transfer.setData("text/plain", text);
    else transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, {type}));
    return transfer;
}"""
_PASTE = """(element, transfer) => element.dispatchEvent(
    new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true}))"""


# Waits of the page end ten times as soon, so that tests do not wait for its pauses between keystrokes and tries.
_HURRY = "const wait = window.setTimeout; window.setTimeout = (action, time) => wait(action, time / 10);"


class PageServer:
    """A server in a thread, which can be stopped and started again at the same address."""

    def __init__(self, load: Callable[[], LoadedModel], options: ServerOptions):
        self.load, self.options, self.port = load, options, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self.client = httpx.Client(verify=False)  # one for all: to load certificates takes longer than a request
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        app = create_app(self.load, self.options)
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.uvicorn.run, args=([listener],), daemon=True)
        self.thread.start()
        while not self.uvicorn.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self.client.close()
        self.uvicorn.should_exit = True
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post(f"{self.url}{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str) -> dict[str, Any]:
        return self.client.get(f"{self.url}{path}").json()

    def classify(self, picture: bytes, labels: list[str], **options) -> list[tuple[str, str]]:
        """Labels and scores, best first, as the page is to show them."""
        image = base64.b64encode(picture).decode()
        answer = self.post("v1/classify", {"image": image, "labels": labels, **options})
        return [(each["label"], f"{each['score']:.1%}") for each in answer["data"][0]["predictions"]]

    def search(self, query: Any, **options) -> list[str]:
        """The ids of hits, best first."""
        return [hit["id"] for hit in self.post("v1/search", {"query": query, **options})["data"]]


class Visit:
    """A page in a browser context of its own. It records errors in the console and the addresses of all requests.

    Args:
        script (`str`): JavaScript to run before the page's.
        expects_failures (`bool`): Whether requests may fail: Chromium writes each into the console.
        hurries (`bool`): Whether the page's waits end sooner.
        options: Options of the context, such as `viewport` and `color_scheme`.
    """

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        script: str = "",
        expects_failures: bool = False,
        hurries: bool = True,
        **options,
    ):
        self.context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 800}, "reduced_motion": "reduce", **options}
        )
        self.context.set_default_timeout(5000)
        self.page: Page = self.context.new_page()
        self.page.add_init_script(f"{script}\n{_HURRY if hurries else ''}")
        self.expects_failures, self.allowed = expects_failures, (url.split("#")[0], f"blob:{url.split('#')[0]}")
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._read_console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _read_console(self, message: ConsoleMessage) -> None:
        is_failure = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not (self.expects_failures and is_failure):
            self.problems.append(message.text)

    def close(self) -> None:
        self.context.close()

    def add(self, picture: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
        self.page.set_input_files("#files", {"name": name, "mimeType": kind, "buffer": picture})

    def set_labels(self, *labels: str) -> None:
        """Remove the labels that are there, and type others."""
        self.page.locator("#label").fill("")
        for _ in range(self.page.locator("#labels li").count()):
            self.page.locator("#label").press("Backspace")
        for label in labels:
            self.page.locator("#label").fill(label)
            self.page.locator("#label").press("Enter")

    def transfer(self, **content) -> JSHandle:
        if isinstance(content.get("content"), bytes):
            content["content"] = base64.b64encode(content["content"]).decode()
        return self.page.evaluate_handle(_MAKE_TRANSFER, {"type": "image/png", **content})

    def drop(self, picture: bytes, name: str = "dropped.png", kind: str = "image/png") -> None:
        transfer = self.transfer(name=name, content=picture, type=kind)
        for event in ("dragover", "drop"):
            self.page.dispatch_event("body", event, {"dataTransfer": transfer})

    def paste(self, locator: Locator, **content) -> None:
        locator.evaluate(_PASTE, self.transfer(**content))

    def expect_bars(self, wanted: list[tuple[str, str]], picture: int = 0) -> None:
        """Wait until a picture has these labels and scores."""
        bars = self.page.locator(".picture").nth(picture).locator(".bars")
        expect(bars.locator(".name")).to_have_text([label for label, _ in wanted])
        expect(bars.locator(".score")).to_have_text([score for _, score in wanted])

    def expect_hits(self, ids: list[str]) -> None:
        """Wait until the grid has these rows."""
        names = self.page.locator("#grid .name")
        expect(names).to_have_text([id_.rpartition("/")[2] for id_ in ids])
        assert [name.get_attribute("title") for name in names.all()] == ids


def noise(width: int, height: int) -> bytes:
    """A PNG of as many bytes as pixels can have, whose upper left part is transparent."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:80, :80] = 0
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def page_folder() -> Path:
    return Path(clip_hf.__file__).parent / "serving" / "page"
