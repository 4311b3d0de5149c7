# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Clients of `clip-hf serve`: they batch, try again, and keep the order."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal

import httpx
import numpy as np

from ..search.search_results import SearchResults
from .client_items import ItemError, batches, read_image, read_text
from .client_protocol import ClientRequest, Dialogue, Outcome, Protocol, classify_options
from .server_middleware import is_loopback


DEFAULT_URL = "http://127.0.0.1:8000"
API_KEY_VARIABLE = "CLIP_HF_API_KEY"
_IMAGES, _TEXTS = 32, 256  # a request
_END = object()

OnError = Literal["raise", "yield"]


class _Settings:
    """What both clients are made of: where the server is, and the dialogues of each task."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 20,
        max_retry_seconds: float = 120.0,
        max_in_flight: int = 4,
    ):
        _check_number("timeout", timeout, 0.001)
        _check_number("max_retries", max_retries, 0, Integral)
        _check_number("max_retry_seconds", max_retry_seconds, 0)
        _check_number("max_in_flight", max_in_flight, 1, Integral)
        trusts_env = not _leads_to_this_machine(url)  # no proxy leads to this machine
        # Clients of OpenAI's API are given the address with /v1.
        self.url, self.max_in_flight = url.rstrip("/").removesuffix("/v1").rstrip("/"), int(max_in_flight)
        self.protocol = Protocol(self.url, max_retries, max_retry_seconds)
        headers = _headers(os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key)
        self._options = {"base_url": self.url, "headers": headers, "timeout": float(timeout), "trust_env": trusts_env}
        self._opened: Any = None

    def text_dialogues(self, texts: Iterable[str], batch_size: int, truncate: bool) -> Iterator[Dialogue | None]:
        """Dialogues that embed texts."""
        return self._dialogues(partial(self.protocol.embed, options={"truncate": truncate}), texts, "text", batch_size)

    def image_dialogues(self, images: Iterable[Any], batch_size: int) -> Iterator[Dialogue | None]:
        """Dialogues that embed images."""
        return self._dialogues(partial(self.protocol.embed, options={}), images, "image", batch_size)

    def classify_dialogues(
        self, images: Iterable[Any], batch_size: int, labels: Sequence[str], options: dict[str, Any]
    ) -> Iterator[Dialogue | None]:
        """Dialogues that classify images."""
        ask = partial(self.protocol.classify, options=classify_options(labels, options))
        return self._dialogues(ask, images, "image", batch_size)

    def _dialogues(self, ask, items: Iterable[Any], kind: str, batch_size: int) -> Iterator[Dialogue | None]:
        _check_number("batch_size", batch_size, 1, Integral)
        read = read_text if kind == "text" else read_image
        return (None if batch is None else ask(batch) for batch in batches(items, kind, read, batch_size))


def _check_number(name: str, value: Any, lowest: float, kind: type = Real) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not value >= lowest:
        what = "whole number" if kind is Integral else "number"
        raise ValueError(f"`{name}` is {value!r}; it must be a {what} of at least {lowest:g}.")


def _headers(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError(
            "The API key must be of visible ASCII characters, one at least; what was given has others (a line's end?)."
        )
    return {"Authorization": f"Bearer {api_key}"}


def _leads_to_this_machine(url: str) -> bool:
    """Whether the URL names this machine; a ValueError for what is no URL of http."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"The server's URL is {url!r:.200}: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"The server's URL is {url!r:.200}; it must begin with http:// or https:// and name a host.")
    return is_loopback(parsed.host)


def _check(results: Iterable[Any], on_error: OnError) -> Iterator[Any]:
    """The results; the first [`ItemError`] is raised, unless they are to be yielded."""
    for result in results:
        if isinstance(result, ItemError) and on_error == "raise":
            raise result
        yield result


def _check_on_error(on_error: OnError) -> None:
    if on_error not in ("raise", "yield"):
        raise ValueError(f'`on_error` is {on_error!r}; it must be "raise" or "yield".')


def _wait_for(items: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """The items of an asynchronous generator, for another thread than that of its event loop."""

    async def next_item() -> Any:
        return await anext(iterator, _END)

    iterator = aiter(items)
    while (item := asyncio.run_coroutine_threadsafe(next_item(), loop).result()) is not _END:
        yield item


def _matrix(rows: list[np.ndarray]) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)


class Client(_Settings):
    """A client of `clip-hf serve`.

    - An image is whatever [`open_image`] takes, or an array of uint8 or bool. A file is sent as it is; what is in
      memory, without loss, as PNG or TIFF.
    - Any number of items may be given: they are sent in batches, several at a time, and the results keep their order.
      The streams read their input as they go, and hold no more than the batches in flight.
    - Requests are sent again while the server is full, restarts or cannot be reached, and never if it refuses them.
    - It may be used by several threads, after a fork, and as a context manager, which closes its connections.

    Args:
        url (`str`, *optional*, defaults to `"http://127.0.0.1:8000"`): Where the server is.
        api_key (`str`, *optional*): The server's key; by default what `$CLIP_HF_API_KEY` holds.
        timeout (`float`, *optional*, defaults to 60): Seconds that connecting, sending and answering may take each.
        max_retries (`int`, *optional*, defaults to 20): How often a request is sent again if the server is full, not
            ready or gone. Waits grow from 0.1 to 5 seconds, or are what the server says. Other errors are final.
        max_retry_seconds (`float`, *optional*, defaults to 120): For how long a request is sent again.
        max_in_flight (`int`, *optional*, defaults to 4): Requests of one call at a time.

    Raises:
        ValueError: if the URL is none of http or https, the key cannot be sent, or a number is out of range.

    Example:

    ```python
    from clip_hf.serving import Client

    with Client("http://127.0.0.1:8000") as client:
        rows = client.embed_images(["cat.jpg", "dog.jpg"])  # (2, dim)
        predictions = client.classify(["cat.jpg"], ["cat", "dog"])
    ```
    """

    def _open(self) -> tuple[httpx.Client, ThreadPoolExecutor]:
        """The connections and threads of this process: after a fork, those of its parent are not to be used."""
        if self._opened is None or self._opened[0] != os.getpid():
            pool = ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="clip-client")
            self._opened = (os.getpid(), httpx.Client(**self._options), pool)
        return self._opened[1:]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        http, pool = self._open()
        pool.shutdown(cancel_futures=True)
        http.close()

    def embed_texts(self, texts: Iterable[str], *, batch_size: int = _TEXTS, truncate: bool = False) -> np.ndarray:
        """Embed texts.

        Args:
            texts (`Iterable[str]`): The texts.
            batch_size (`int`, *optional*, defaults to 256): The most texts of a request.
            truncate (`bool`, *optional*, defaults to `False`): Cut texts that the model's context has no room for,
                instead of an error.

        Returns:
            `np.ndarray` of shape (texts, dim), float32, each row of length 1; (0, 0) for no texts.

        Raises:
            ItemError: a `ValueError` that names a text that cannot be embedded.
            ServerError: if the server refuses or fails.
            OSError: if it cannot be reached, or does not answer in time.
        """
        return _matrix(list(self.embed_text_stream(texts, batch_size=batch_size, truncate=truncate)))

    def embed_images(self, images: Iterable[Any], *, batch_size: int = _IMAGES) -> np.ndarray:
        """Embed images: (images, dim), float32; arguments and errors as in [`Client.embed_texts`]."""
        return _matrix(list(self.embed_image_stream(images, batch_size=batch_size)))

    def embed_text_stream(
        self, texts: Iterable[str], *, batch_size: int = _TEXTS, truncate: bool = False, on_error: OnError = "raise"
    ) -> Iterator[np.ndarray | ItemError]:
        """Yield the embedding (dim,) of each text, or its [`ItemError`]; see [`Client.embed_image_stream`]."""
        _check_on_error(on_error)
        return self._stream(self.text_dialogues(texts, batch_size, truncate), on_error)

    def embed_image_stream(
        self, images: Iterable[Any], *, batch_size: int = _IMAGES, on_error: OnError = "raise"
    ) -> Iterator[np.ndarray | ItemError]:
        """Yield the embedding (dim,) of each image, in their order, with bounded memory.

        Args:
            images (`Iterable`): The images; a generator is read as its results are.
            batch_size (`int`, *optional*, defaults to 32): The most images of a request.
            on_error (`str`, *optional*, defaults to `"raise"`): `"yield"` yields the [`ItemError`] of an image that
                cannot be used in its place, and goes on.

        Raises:
            ItemError, ServerError, OSError: as in [`Client.embed_texts`].
        """
        _check_on_error(on_error)
        return self._stream(self.image_dialogues(images, batch_size), on_error)

    def classify(self, images: Iterable[Any], labels: Sequence[str], **options: Any) -> list[list[dict[str, Any]]]:
        """Score labels for each image, as the pipeline does.

        Args:
            images (`Iterable`): The images.
            labels (`Sequence[str]`): The labels, all different.
            **options: `templates` (a template, several, the name of a prompt set, or each label's own prompts),
                `top_k`, `threshold`, `multi_label`, `background` and `function_to_apply`, as the pipeline has them;
                `truncate`; `batch_size` and `on_error`, as in [`Client.embed_image_stream`].

        Returns:
            `list[list[dict]]`: for each image its `{"score": float, "label": str}`, best first.

        Raises:
            ItemError, ServerError, OSError: as in [`Client.embed_texts`].
        """
        return list(self.classify_stream(images, labels, **options))

    def classify_stream(
        self,
        images: Iterable[Any],
        labels: Sequence[str],
        *,
        batch_size: int = _IMAGES,
        on_error: OnError = "raise",
        **options: Any,
    ) -> Iterator[list[dict[str, Any]] | ItemError]:
        """Yield the predictions of each image; see [`Client.classify`] and [`Client.embed_image_stream`]."""
        _check_on_error(on_error)
        return self._stream(self.classify_dialogues(images, batch_size, labels, options), on_error)

    def explain(self, image: Any, labels: Sequence[str], **options: Any) -> dict[str, Any]:
        """Find the places of an image that speak for labels.

        Args:
            image: The image.
            labels (`Sequence[str]`): The labels, all different, at most 32.
            **options: `templates` as in [`Client.classify`], of which `"{}"` takes each label as the whole text;
                `method`: `"chefer"`, `"grad_cam"` or `"rollout"`; and `truncate`.

        Returns:
            `dict`: `"method"`; `"seen_box"`, the part of the image that the model sees: left, top, right and bottom
            in fractions of its width and height; and `"data"`, for each label `"label"`, `"cosine"`, `"relevance"`,
            an array (rows, columns) of float32 that covers this part, whose largest value is 1, and `"largest"`, that
            value in the method's own unit.

        Raises:
            ServerError: if the model is no [`ClipHFModel`] in PyTorch, or as in [`Client.embed_texts`].
            OSError: as in [`Client.embed_texts`].
            ValueError: if the image cannot be read, or labels repeat.
        """
        return self._carry_out(self.protocol.explain(image, labels, options))

    def rank(self, query: Any, candidates: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """Rank candidates by how well they fit a query: strings are texts, all else, such as a `Path`, is an image.

        Args:
            query: A text or an image.
            candidates (`Sequence`): Texts and images.
            **options: `top_k` and `truncate`.

        Returns:
            `list[dict]`: best first `{"index": int, "score": float, "cosine": float}`; the scores are a softmax.
        """
        return self._carry_out(self.protocol.rank(query, candidates, options))

    def search(self, query: Any, *, picture_edge: int | None = None, **options: Any) -> SearchResults:
        """Search the server's index.

        Args:
            query: A text, an image (a `Path`, bytes, ...), or a list of texts, images, [`QueryTerm`]s with weights,
                and `{"id": ..., "weight": ...}` for a row's picture.
            picture_edge (`int`, *optional*): Fetch the hits' pictures, as JPEG with at most this many pixels an edge.
            **options: `top_k`, `threshold`, `filters` (`["width>=800"]`) and `no_match`.

        Returns:
            [`SearchResults`]: best first; the hits' `picture` is the bytes of a JPEG, or None.
        """
        return self._carry_out(self.protocol.search(query, options, picture_edge))

    def models(self) -> list[dict[str, Any]]:
        """The server's models, with what is known of each in `"facts"`."""
        return self._carry_out(self.protocol.models())

    def is_ready(self) -> bool:
        """Whether the server is there, has loaded its model, and takes requests."""
        return self._carry_out(self.protocol.is_ready())

    def _stream(self, dialogues: Iterator[Dialogue | None], on_error: OnError) -> Iterator[Any]:
        """The results of dialogues in their order, with `max_in_flight` at a time; at a None all so far."""
        stopped, (_, pool) = threading.Event(), self._open()
        waiting: deque[Future] = deque()
        try:
            for dialogue in dialogues:
                if dialogue is not None:
                    waiting.append(pool.submit(self._carry_out, dialogue, stopped))
                while len(waiting) >= self.max_in_flight or (dialogue is None and waiting):
                    yield from _check(waiting.popleft().result(), on_error)
            while waiting:
                yield from _check(waiting.popleft().result(), on_error)
        finally:
            stopped.set()
            for future in waiting:
                future.cancel()

    def _carry_out(self, dialogue: Dialogue, stopped: threading.Event | None = None) -> Any:
        stopped, outcome = stopped or threading.Event(), None
        while not stopped.is_set():
            try:
                step = dialogue.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, ClientRequest):
                outcome = self._send(step)
            else:
                outcome = stopped.wait(step)

    def _send(self, request: ClientRequest) -> Outcome:
        try:
            return self._open()[0].request(**request.arguments())
        except httpx.RequestError as error:
            return error


class AsyncClient(_Settings):
    """A client of `clip-hf serve` for asyncio: [`Client`] with `await`, and streams for `async for`.

    Arguments and errors are those of [`Client`]. A thread reads images and texts, so that the event loop goes on; they
    may come from an asynchronous generator, too. An instance may be used in one event loop after another, not in two
    at once.

    Example:

    ```python
    from clip_hf.serving import AsyncClient

    async def embed(images):
        async with AsyncClient("http://127.0.0.1:8000") as client:
            return [row async for row in client.embed_image_stream(images)]
    ```
    """

    def _open(self) -> httpx.AsyncClient:
        """The connections of this event loop."""
        loop = asyncio.get_running_loop()
        if self._opened is None or self._opened[0] is not loop:
            self._opened = (loop, httpx.AsyncClient(**self._options))
        return self._opened[1]

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._open().aclose()

    async def embed_texts(
        self, texts: Iterable[str], *, batch_size: int = _TEXTS, truncate: bool = False
    ) -> np.ndarray:
        """As [`Client.embed_texts`]."""
        stream = self.embed_text_stream(texts, batch_size=batch_size, truncate=truncate)
        return _matrix([row async for row in stream])

    async def embed_images(self, images: Iterable[Any], *, batch_size: int = _IMAGES) -> np.ndarray:
        """As [`Client.embed_images`]."""
        return _matrix([row async for row in self.embed_image_stream(images, batch_size=batch_size)])

    def embed_text_stream(
        self, texts: Iterable[str], *, batch_size: int = _TEXTS, truncate: bool = False, on_error: OnError = "raise"
    ) -> AsyncIterator[np.ndarray | ItemError]:
        """As [`Client.embed_text_stream`]."""
        _check_on_error(on_error)
        return self._stream(self.text_dialogues(texts, batch_size, truncate), on_error)

    def embed_image_stream(
        self, images: Iterable[Any], *, batch_size: int = _IMAGES, on_error: OnError = "raise"
    ) -> AsyncIterator[np.ndarray | ItemError]:
        """As [`Client.embed_image_stream`]."""
        _check_on_error(on_error)
        return self._stream(self.image_dialogues(images, batch_size), on_error)

    async def classify(
        self, images: Iterable[Any], labels: Sequence[str], **options: Any
    ) -> list[list[dict[str, Any]]]:
        """As [`Client.classify`]."""
        return [predictions async for predictions in self.classify_stream(images, labels, **options)]

    def classify_stream(
        self,
        images: Iterable[Any],
        labels: Sequence[str],
        *,
        batch_size: int = _IMAGES,
        on_error: OnError = "raise",
        **options: Any,
    ) -> AsyncIterator[list[dict[str, Any]] | ItemError]:
        """As [`Client.classify_stream`]."""
        _check_on_error(on_error)
        return self._stream(self.classify_dialogues(images, batch_size, labels, options), on_error)

    async def explain(self, image: Any, labels: Sequence[str], **options: Any) -> dict[str, Any]:
        """As [`Client.explain`]."""
        return await self._carry_out(self.protocol.explain(image, labels, options))

    async def rank(self, query: Any, candidates: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """As [`Client.rank`]."""
        return await self._carry_out(self.protocol.rank(query, candidates, options))

    async def search(self, query: Any, *, picture_edge: int | None = None, **options: Any) -> SearchResults:
        """As [`Client.search`]."""
        return await self._carry_out(self.protocol.search(query, options, picture_edge))

    async def models(self) -> list[dict[str, Any]]:
        """As [`Client.models`]."""
        return await self._carry_out(self.protocol.models())

    async def is_ready(self) -> bool:
        """As [`Client.is_ready`]."""
        return await self._carry_out(self.protocol.is_ready())

    def _dialogues(self, ask, items: Iterable[Any], kind: str, batch_size: int) -> Iterator[Dialogue | None]:
        listed = _wait_for(items, asyncio.get_running_loop()) if hasattr(items, "__aiter__") else items
        return super()._dialogues(ask, listed, kind, batch_size)

    async def _stream(self, dialogues: Iterator[Dialogue | None], on_error: OnError) -> AsyncIterator[Any]:
        waiting: deque[asyncio.Task] = deque()
        try:
            while (dialogue := await asyncio.to_thread(next, dialogues, _END)) is not _END or waiting:
                if dialogue is not _END and dialogue is not None:
                    waiting.append(asyncio.create_task(self._carry_out(dialogue)))
                while waiting and (len(waiting) >= self.max_in_flight or dialogue in (None, _END)):
                    for result in _check(await waiting.popleft(), on_error):
                        yield result
        finally:
            for task in waiting:
                task.cancel()

    async def _carry_out(self, dialogue: Dialogue) -> Any:
        outcome = None
        while True:
            try:
                step = dialogue.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, ClientRequest):
                outcome = await self._send(step)
            else:
                outcome = await asyncio.sleep(step)

    async def _send(self, request: ClientRequest) -> Outcome:
        try:
            return await self._open().request(**request.arguments())
        except httpx.RequestError as error:
            return error
