# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a client of `clip-hf serve` sends, what it makes of the answers, and when it tries again: all but the I/O.

A dialogue is a generator. It yields a [`ClientRequest`] and is sent the response, or the error of the transport; or
it yields seconds to wait. [`Client`] and [`AsyncClient`] carry dialogues out.
"""

import base64
import random
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import orjson

from ..model.zero_shot_clip_hf import check_labels
from ..search.queries import QueryTerm
from ..search.search_results import SearchHit, SearchResults
from .client_items import Batch, ItemError, read_image, read_item, read_text, wire


_TRY_AGAIN = (429, 502, 503, 504)
_REFUSED_ITEM = (400, 413, 422)
_TOO_MUCH = ("too_many_items", "too_many_parts")
_FINAL = ("timeout", "model_failed")  # the same request would take as long, or fail, again
_ELSEWHERE = (404, 405)  # what other servers answer here
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0  # seconds
_ITEM = re.compile(r"(?:input|images)\[(\d+)\]")
_PICTURES = "/v1/search/image?"


class ServerError(RuntimeError):
    """An answer of the server that is an error.

    Args:
        status (`int`): The HTTP status.
        message (`str`): What is wrong, in the server's words.
        code (`str`, *optional*): The kind of error in a word, such as `"queue_full"`.
        param (`str`, *optional*): The part of the request that is wrong, such as `"labels"`.
        request_id (`str`, *optional*): What names the request in the server's log.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ):
        named = "" if request_id is None else f", request {request_id}"
        super().__init__(f"{message} (status {status}{named})")
        self.status, self.message, self.code, self.param, self.request_id = status, message, code, param, request_id

    def __reduce__(self):
        return type(self), (self.status, self.message, self.code, self.param, self.request_id)


@dataclass(frozen=True)
class ClientRequest:
    """A request: GET without a body, else POST. The body is sent as JSON; with images as a form, which costs the
    server less than base64."""

    path: str
    body: dict[str, Any] | None = None
    images: Sequence[bytes] = ()

    def arguments(self) -> dict[str, Any]:
        """What httpx takes."""
        if self.body is None:
            return {"method": "GET", "url": self.path}
        if self.images:
            files = [("images", ("image", image, "application/octet-stream")) for image in self.images]
            fields = {name: _form_field(value) for name, value in self.body.items()}
            return {"method": "POST", "url": self.path, "data": fields, "files": files}
        content = orjson.dumps(self.body, option=orjson.OPT_SERIALIZE_NUMPY)
        return {
            "method": "POST",
            "url": self.path,
            "content": content,
            "headers": {"Content-Type": "application/json"},
        }


def _form_field(value: Any) -> str:
    """A value as the server reads it in a form: texts as they are, unless they look like JSON."""
    if isinstance(value, str):
        if not value.lstrip().startswith(("[", "{")):
            return value
        value = [value]
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


Outcome = httpx.Response | httpx.RequestError
Dialogue = Generator[ClientRequest | float, Outcome, Any]
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Protocol:
    """The dialogues with one server.

    Args:
        url (`str`): Its address, for messages.
        max_retries (`int`): How often a request is sent again.
        max_retry_seconds (`float`): For how long.
    """

    url: str
    max_retries: int
    max_retry_seconds: float

    # -------------------------------------------------------------------------------------------------- one request

    def exchange(self, request: ClientRequest, read: Read) -> Dialogue:
        """Send a request until it is answered, and read the answer."""
        started, delay = time.monotonic(), _FIRST_DELAY
        for retry in range(self.max_retries + 1):
            outcome = yield request
            wait = max(delay * random.uniform(0.5, 1), _retry_after(outcome))
            is_late = time.monotonic() - started + wait > self.max_retry_seconds
            if retry == self.max_retries or is_late or not _may_pass(outcome):
                break
            yield wait
            delay = min(2 * delay, _LONGEST_DELAY)
        if not isinstance(outcome, httpx.Response):
            raise self._no_answer(outcome, retry) from outcome
        if outcome.status_code != 200:
            raise self._error_of(outcome)
        try:
            return read(outcome)
        except (ValueError, TypeError, LookupError) as error:
            raise self._other_server(outcome) from error

    def is_ready(self) -> Dialogue:
        """Whether the server is there and takes requests."""
        outcome = yield ClientRequest("/health/ready")
        return isinstance(outcome, httpx.Response) and outcome.status_code == 200

    def _no_answer(self, error: httpx.RequestError, retries: int) -> OSError:
        tries = f" after {retries + 1} tries" if retries else ""
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return TimeoutError(f"{self.url} does not answer in time{tries}: {why}. Raise `timeout`, or send less.")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ConnectionError(
                f"No server at {self.url}{tries}: {why}. Start one with `clip-hf serve MODEL`, or correct the address."
            )
        return ConnectionError(f"The connection to {self.url} broke{tries}: {why}.")

    def _error_of(self, response: httpx.Response) -> ServerError:
        problem = _problem_of(response)
        if problem is None:
            return self._other_server(response)
        return ServerError(response.status_code, *problem, response.headers.get("X-Request-Id"))

    def _other_server(self, response: httpx.Response) -> ServerError:
        status = response.status_code
        if status >= 400 and status not in _ELSEWHERE:
            phrase = f"{status} {response.reason_phrase}".rstrip()
            message = f"Not the server but something before {self.url}, such as a proxy, answered {phrase}."
            return ServerError(status, message, "proxy_error")
        return ServerError(
            status,
            f"{self.url} does not answer as `clip-hf serve` does. Is the address right?",
            code="unknown_answer",
        )

    # ---------------------------------------------------------------------------------------------------- the tasks

    def embed(self, batch: Batch, options: Mapping[str, Any]) -> Dialogue:
        """The embedding of each item of a batch."""

        def request(items: list[str | bytes]) -> ClientRequest:
            body = {"encoding_format": "base64", "modality": batch.kind, **options}
            if batch.kind == "image":
                return ClientRequest("/v1/embeddings", body, items)
            return ClientRequest("/v1/embeddings", {"input": items, **body})

        return self._ask(batch, request, _read_embeddings)

    def classify(self, batch: Batch, options: Mapping[str, Any]) -> Dialogue:
        """The predictions of each image of a batch."""

        def request(items: list[bytes]) -> ClientRequest:
            return ClientRequest("/v1/classify", dict(options), items)

        return self._ask(batch, request, _read_predictions)

    def explain(self, image: Any, labels: Sequence[str], options: Mapping[str, Any]) -> Dialogue:
        """Where the model looks for labels in an image."""
        body = classify_options(labels, options)
        return self.exchange(ClientRequest("/v1/explain", body, [read_image(image)]), _read_explanations)

    def _ask(self, batch: Batch, request: Callable[[list], ClientRequest], read: Read) -> Dialogue:
        """The result of each item, or its [`ItemError`].

        The server refuses a request with a bad item, and names it: the others are then sent without it. A request that
        is too large, or of more items than the server takes, is sent in halves.
        """
        results = list(batch.items)
        waiting = [[place for place, item in enumerate(results) if not isinstance(item, ItemError)]]
        while waiting:
            places = waiting.pop(0)
            if not places:
                continue
            try:
                answers = yield from self.exchange(request([batch.items[place] for place in places]), read)
            except ServerError as error:
                match = _ITEM.match(error.param or "")
                bad = int(match[1]) if match else 0 if len(places) == 1 and error.status == 413 else len(places)
                if error.status in _REFUSED_ITEM and bad < len(places):
                    place = places.pop(bad)
                    # Its place in this request would say nothing.
                    message = re.sub(rf"(The {batch.kind} at )?`{re.escape(error.param or '')}`", "it", error.message)
                    results[place] = ItemError(batch.first + place, batch.kind, message)
                    results[place].__cause__ = error
                    waiting.insert(0, places)
                elif len(places) > 1 and (error.status == 413 or error.code in _TOO_MUCH):
                    waiting[:0] = [places[: len(places) // 2], places[len(places) // 2 :]]
                else:
                    raise
                continue
            if len(answers) != len(places):
                raise ServerError(200, f"{len(answers)} results for {len(places)} {batch.kind}s.", "unknown_answer")
            for place, answer in zip(places, answers):
                results[place] = answer
        return results

    def rank(self, query: Any, candidates: Sequence[Any], options: Mapping[str, Any]) -> Dialogue:
        """The candidates, best first."""
        values = [wire(read_item(item)) for item in candidates]
        body = {"query": wire(read_item(query)), "candidates": values, **options}
        return self.exchange(ClientRequest("/v1/rank", body), _read_data)

    def search(self, query: Any, options: Mapping[str, Any], picture_edge: int | None) -> Dialogue:
        """The rows that answer a query, and their pictures if an edge is given."""
        body = {"query": _wire_query(query), **options}
        results, urls = yield from self.exchange(ClientRequest("/v1/search", body), _read_search)
        if picture_edge is None:
            return results
        hits = []
        for hit, url in zip(results.hits, urls, strict=True):
            if url is not None:
                request = ClientRequest(f"{url}&edge={picture_edge}")
                hit = replace(hit, picture=(yield from self.exchange(request, lambda response: response.content)))
            hits.append(hit)
        return replace(results, hits=hits)

    def models(self) -> Dialogue:
        """The models, with their facts."""
        return self.exchange(ClientRequest("/v1/models"), _read_data)


def classify_options(labels: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a classification as JSON has them, without what is None."""
    given = {"labels": check_labels(labels), **options}
    return {name: value for name, value in given.items() if value is not None}


def _may_pass(outcome: Outcome) -> bool:
    """Whether another try may succeed: the server is full, not ready or gone, or a proxy before it says so."""
    if not isinstance(outcome, httpx.Response):
        return not isinstance(outcome, httpx.LocalProtocolError)
    status, problem = outcome.status_code, _problem_of(outcome)
    if problem is None:
        return status in _TRY_AGAIN or status >= 500
    return status in _TRY_AGAIN and problem[1] not in _FINAL


def _retry_after(outcome: Outcome) -> float:
    """The seconds that the server says."""
    seconds = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    return float(seconds) if seconds.isdecimal() else 0.0


def _problem_of(response: httpx.Response) -> tuple[str, str | None, str | None] | None:
    """Message, code and param of an error; None if another server answers."""
    try:
        error = orjson.loads(response.content)["error"]
        return str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, TypeError, LookupError, AttributeError):
        return None


def _wire_query(query: Any) -> Any:
    """A query as JSON has it: a text, an image, an `{"id": ...}`, or a list of them and of [`QueryTerm`]s."""
    return [_wire_term(term) for term in (query if isinstance(query, list | tuple) else [query])]


def _wire_term(term: Any) -> dict[str, Any]:
    if isinstance(term, QueryTerm):
        item = read_image(term.image) if term.text is None else read_text(term.text)
        return {**wire(item), "weight": term.weight}
    if isinstance(term, Mapping):
        return dict(term)
    return wire(read_item(term))


# ----------------------------------------------------------------------------------------------------------- answers


def _read_data(response: httpx.Response) -> list[dict[str, Any]]:
    data = orjson.loads(response.content)["data"]
    if not isinstance(data, list):
        raise TypeError("no list")
    return data


def _read_explanations(response: httpx.Response) -> dict[str, Any]:
    found = orjson.loads(response.content)
    rows = [{**row, "relevance": np.array(row["relevance"], np.float32)} for row in found["data"]]
    return {"method": found["method"], "seen_box": found["seen_box"], "data": rows}


def _read_search(response: httpx.Response) -> tuple[SearchResults, list[str | None]]:
    """The results without pictures, and where each hit's picture is."""
    found = orjson.loads(response.content)
    hits = [SearchHit(hit["rank"], hit["score"], hit["id"], hit["metadata"]) for hit in found["data"]]
    urls = [hit["image_url"] for hit in found["data"]]
    if not all(url is None or (url.startswith("/") and _PICTURES in url) for url in urls):
        raise ValueError("the key would go where the answer says")
    # Below the client's own URL, whatever prefix a proxy takes away.
    urls = [None if url is None else _PICTURES + url.partition(_PICTURES)[2] for url in urls]
    return SearchResults(hits, found["best_score"], found["lowest_score"]), urls


def _read_embeddings(response: httpx.Response) -> list[np.ndarray]:
    """The embeddings in their order: each (dim,) float32."""
    rows = sorted(_read_data(response), key=lambda row: row["index"])
    return [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]


def _read_predictions(response: httpx.Response) -> list[list[dict[str, Any]]]:
    return [row["predictions"] for row in sorted(_read_data(response), key=lambda row: row["index"])]
