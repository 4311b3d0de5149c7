# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The server's routes: embeddings, labels, explanations, ranking and search, what is served, health, and the page."""

import asyncio
import base64
import logging
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..embedding.dual_encoder import DualEncoder
from ..model.prompts_clip_hf import get_prompt_set, prompt_set_names
from ..search.index_sources import SourceIndex
from ..utils.wording import counted
from .image_explanations import ExplainOptions
from .image_fetching import ImageFetcher
from .index_search import RowItem, SearchOptions
from .inference_engine import InferenceEngine
from .label_options import ClassifyOptions
from .model_facts import model_facts
from .openapi_description import describe_api
from .request_errors import RequestError
from .request_inputs import ImageItem, Item, TextItem, count_items, read_form, read_items
from .request_schemas import (
    ClassifyRequest,
    EmbeddingsRequest,
    ExplainRequest,
    HuggingFaceRequest,
    RankRequest,
    SearchRequest,
    load_json,
    parse_request,
)
from .server_metrics import ServerMetrics
from .server_middleware import ServerMiddleware, Traffic
from .server_options import ServerOptions


logger = logging.getLogger("clip_hf.serving")

PAGE = Path(__file__).parent / "page"
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_MIN_EDGE, _MAX_EDGE = 16, 1024
_TERM_FIELDS = {"text", "image", "id", "weight"}


@dataclass
class LoadedModel:
    """What a server serves.

    Args:
        encoder ([`DualEncoder`]): The model.
        source ([`SourceIndex`], *optional*): The index to search, opened with this model.
    """

    encoder: DualEncoder
    source: SourceIndex | None = None


class ServingState:
    """What the routes and the server share; it is `app.state.serving`.

    Args:
        load (`Callable`): Loads the model.
        options ([`ServerOptions`]): Name, key, hosts and limits.
    """

    def __init__(self, load: Callable[[], LoadedModel], options: ServerOptions):
        self.options, self.traffic = options, Traffic(ServerMetrics())
        self.engine: InferenceEngine | None = None
        self.facts: dict[str, Any] = {}
        self.load_error: Exception | None = None
        self.created = int(time.time())
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: logger.error("The model cannot be loaded: %s", self.load_error)
        self._load = load

    def start_loading(self) -> None:
        """Load the model in a thread; the engine is made here, on the event loop's thread."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                loaded = self._load()
                try_model(loaded.encoder)
                result: Any = (loaded, model_facts(loaded.encoder, loaded.source))
            except Exception as error:
                result = error
            try:
                loop.call_soon_threadsafe(finish, result)
            except RuntimeError:
                pass  # the server has ended meanwhile

        def finish(result: Any) -> None:
            if isinstance(result, Exception):
                self.load_error = result
                self.on_failure()
                return
            loaded, self.facts = result
            self.engine = InferenceEngine(
                loaded.encoder,
                self.options.limits,
                batching=self.options.batching,
                source=loaded.source,
                metrics=self.traffic.metrics,
            )
            self.on_ready()

        # A daemon, so that the server can end while a model loads.
        threading.Thread(target=work, name="load", daemon=True).start()

    def ready_engine(self) -> InferenceEngine:
        """The engine; RequestError as long as there is none."""
        if self.engine is not None:
            return self.engine
        if self.load_error is not None:
            raise RequestError(503, "The model cannot be loaded; the server's log says why.", code="not_loaded")
        raise RequestError(503, "The model is being loaded: try again.", code="loading", retry_after=1)

    def describe(self) -> str:
        """The served model in one line."""
        rows = self.facts["index_rows"]
        index = "" if rows is None else f", index of {counted(rows, 'row')}"
        return f"model {self.options.name} ({self.facts['runtime']}, {self.facts['dtype']}){index}"


def try_model(encoder: DualEncoder) -> None:
    """Embed a text and an image, so that a model that cannot is never ready, and the first request is not slower.

    Raises:
        ValueError: if features, or the factor of cosines, are not finite.
    """
    encoder.encode_texts(["a photo"])
    encoder.encode_images([Image.new("RGB", (64, 64), "gray")])
    if not math.isfinite(encoder.logit_scale):
        raise ValueError(f"The model's logit scale is {encoder.logit_scale}: its weights are damaged.")


def create_app(load: Callable[[], LoadedModel], options: ServerOptions) -> Starlette:
    """Make the server's app. Its model is loaded in a thread at start-up; until then `/health/ready` answers 503.

    Args:
        load (`Callable`): Loads the model, and opens its index.
        options ([`ServerOptions`]): Name, key, hosts and limits.

    Returns:
        `Starlette`: an ASGI app.
    """
    state = ServingState(load, options)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state.start_loading()
        yield
        state.traffic.draining = True
        if state.engine is not None:
            await state.engine.drain()
            await asyncio.to_thread(state.engine.close)
        handlers.fetcher.close()

    handlers = _Routes(state)
    routes = handlers.routes()
    paths = [route.path for route in routes]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(ServerMiddleware, options=options, traffic=state.traffic, routes=paths)],
        exception_handlers={HTTPException: _answer_http_exception},
    )
    app.router.redirect_slashes = False
    app.state.serving = state
    return app


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    """An unknown path, or a method that a path does not have."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = RequestError(405, f"{request.scope['path'][:100]} takes {allowed} only.", code="method_not_allowed")
        return _json(problem.body(), 405, headers={"Allow": allowed})
    problem = RequestError(
        error.status_code,
        "There is no such path: paths of requests begin with /v1/, and /docs lists all.",
        code="not_found",
    )
    return _json(problem.body(), error.status_code)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, media_type="application/json"
    )


class _Routes:
    """The routes of one server."""

    def __init__(self, state: ServingState):
        self.state, self.options, self.limits = state, state.options, state.options.limits
        self.fetcher = ImageFetcher(state.options.allow_image_hosts, self.limits)
        self.description = orjson.dumps(describe_api(state.options))
        self.page = {path.name: path for path in sorted(PAGE.glob("*")) if path.suffix in _MEDIA_TYPES}

    def routes(self) -> list[Route]:
        """All of them."""
        posts = {
            "/v1/embeddings": self.embeddings,
            "/v1/classify": self.classify,
            "/v1/explain": self.explain,
            "/v1/hf/{name:path}": self.hugging_face,
            "/v1/rank": self.rank,
            "/v1/search": self.search,
        }
        gets = {
            "/v1/models": self.models,
            "/v1/models/{name:path}": self.model,
            "/v1/prompt-sets": self.prompt_sets,
            "/v1/search/image": self.search_image,
            "/health/live": self.live,
            "/health/ready": self.ready,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
            "/docs": self.docs,
            "/": self.index,
            "/page/{name}": self.page_file,
        }
        return [
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
        ]

    # ------------------------------------------------------------------------------------------------------- requests

    async def _parse(self, request: Request, schema: type, items: str) -> tuple[Any, InferenceEngine]:
        """The checked request, and the engine; `items` is the field that a form's files are for."""
        engine = self.state.ready_engine()
        headers = dict(request.scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if kind not in (b"application/json", b"multipart/form-data") or encoding != b"identity":
            raise RequestError(
                415,
                "The Content-Type must be application/json, or multipart/form-data for files; without Content-"
                "Encoding.",
                code="unsupported_media_type",
            )
        if kind == b"application/json":
            value = load_json(await request.body())
        else:
            value = await read_form(request, self.limits, items)
        asked = parse_request(schema, value, self.limits)
        if asked.model is not None:
            self._check_model(asked.model)
        return asked, engine

    def _check_model(self, name: str) -> None:
        if name != self.options.name:
            raise RequestError(
                404,
                f"The model {name[:100]!r} is not served here; it is {self.options.name!r}.",
                code="model_not_found",
                param="model",
            )

    @contextmanager
    def _admit(self, request: Request, engine: InferenceEngine, num_items: int) -> Iterator[None]:
        request.scope["state"]["items"] = num_items
        with engine.admit(num_items):
            yield

    async def _read(self, request: Request, value: Any, where: str, modality: str | None = None) -> list[Item]:
        items = await read_items(value, where, self.limits, self.fetcher, modality)
        # What is not from the body was fetched.
        request.scope["state"]["hold_bytes"](sum(len(item.data) for item in items if isinstance(item, ImageItem)))
        return items

    def _list(self, data: Sequence[dict[str, Any]], **more: Any) -> Response:
        return _json({"object": "list", "model": self.options.name, "data": data, **more})

    async def embeddings(self, request: Request) -> Response:
        """OpenAI's embeddings, of texts and images."""
        asked, engine = await self._parse(request, EmbeddingsRequest, "input")
        width = engine.encoder.projection_dim
        if asked.dimensions not in (None, width):
            raise RequestError(
                400,
                f"The model has {width} dimensions, not {asked.dimensions}: leave out `dimensions`.",
                code="invalid_dimensions",
                param="dimensions",
            )
        with self._admit(request, engine, count_items(asked.input, "input", self.limits)):
            items = await self._read(request, asked.input, "input", asked.modality)
            vectors = await engine.embed(items, asked.truncate)
            tokens = sum(await engine.count_tokens([item.text for item in items if isinstance(item, TextItem)]))
        rows = map(_base64, vectors) if asked.encoding_format == "base64" else vectors
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        return self._list(data, usage={"prompt_tokens": tokens, "total_tokens": tokens})

    async def classify(self, request: Request) -> Response:
        """The zero-shot pipeline's results."""
        asked, engine = await self._parse(request, ClassifyRequest, "images")
        if (asked.image is None) == (asked.images is None):
            what = "both" if asked.image is not None else "none of the two"
            raise RequestError(400, f"Give `image` or `images`; given {what}.", code="missing_field", param="images")
        where = "images" if asked.image is None else "image"
        value = asked.images if asked.image is None else asked.image
        names = ("labels", "templates", "top_k", "multi_label", "threshold", "background", "function_to_apply")
        given = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
        options = ClassifyOptions(truncate=asked.truncate, **given)
        with self._admit(request, engine, count_items(value, where, self.limits)):
            images = await self._read(request, value, where, "image")
            results = await engine.classify(images, options)
        return self._list([{"index": index, "predictions": each} for index, each in enumerate(results)])

    async def explain(self, request: Request) -> Response:
        """The places of an image that speak for labels."""
        asked, engine = await self._parse(request, ExplainRequest, "image")
        given = {} if asked.templates is None else {"templates": asked.templates}
        options = ExplainOptions(asked.labels, method=asked.method, truncate=asked.truncate, **given)
        with self._admit(request, engine, count_items(asked.image, "image", self.limits) + len(asked.labels)):
            images = await self._read(request, asked.image, "image", "image")
            if len(images) != 1:
                raise RequestError(400, "`image` must be one image.", code="invalid_value", param="image")
            found = await engine.explain(images[0], options)
        return self._list(found.rows(asked.labels), method=found.method, seen_box=found.seen_box)

    async def hugging_face(self, request: Request) -> Response:
        """What `huggingface_hub.InferenceClient` asks of a model's address: predictions, or embeddings."""
        asked, engine = await self._parse(request, HuggingFaceRequest, "inputs")
        self._check_model(request.path_params["name"])
        labels, template = asked.parameters.candidate_labels, asked.parameters.hypothesis_template
        with self._admit(request, engine, count_items(asked.inputs, "inputs", self.limits)):
            items = await self._read(request, asked.inputs, "inputs", None if labels is None else "image")
            if labels is None:
                return _json(await engine.embed(items, asked.truncate))
            templates = {} if template is None else {"templates": template}
            results = await engine.classify(items, ClassifyOptions(labels, truncate=asked.truncate, **templates))
        return _json(results if isinstance(asked.inputs, list) else results[0])

    async def rank(self, request: Request) -> Response:
        """Candidates by how well they fit a query."""
        asked, engine = await self._parse(request, RankRequest, "candidates")
        with self._admit(request, engine, 1 + count_items(asked.candidates, "candidates", self.limits)):
            query = await self._read(request, asked.query, "query")
            if len(query) != 1:
                raise RequestError(400, "`query` must be one text or image.", code="invalid_value", param="query")
            candidates = await self._read(request, asked.candidates, "candidates")
            ranked = await engine.rank(query[0], candidates, top_k=asked.top_k, truncate=asked.truncate)
        return self._list(ranked)

    async def search(self, request: Request) -> Response:
        """Rows of the index that fit a query."""
        asked, engine = await self._parse(request, SearchRequest, "query")
        with self._admit(request, engine, count_items(asked.query, "query", self.limits)):
            terms = await self._terms(request, asked.query)
            options = SearchOptions(
                asked.top_k, asked.threshold, asked.filters, asked.no_match, truncate=asked.truncate
            )
            found = await engine.search(terms, options)
        pictures = f"{request.scope['state']['prefix']}/v1/search/image"
        data = [
            {
                "rank": hit.rank,
                "score": hit.score,
                "id": hit.id,
                "metadata": hit.metadata,
                "image_url": None if hit.picture is None else f"{pictures}?{urlencode({'id': hit.id})}",
            }
            for hit in found.hits
        ]
        return self._list(data, best_score=found.best_score, lowest_score=found.lowest_score)

    async def _terms(self, request: Request, query: Any) -> list[tuple[float, Item | RowItem]]:
        """The terms of a query and their weights."""
        is_list = isinstance(query, list)
        values = query if is_list else [query]
        terms: list[tuple[float, Item | RowItem]] = []
        if not values or len(values) > self.limits.max_items:
            raise RequestError(
                400,
                f"`query` has {len(values):,} terms; give 1 to {self.limits.max_items:,}.",
                code="invalid_value",
                param="query",
            )
        for number, value in enumerate(values):
            where, weight = f"query[{number}]" if is_list else "query", 1.0
            if isinstance(value, dict):
                weight, value = _split_weight(value, where)
            if isinstance(value, dict) and value.keys() == {"id"}:
                terms.append((weight, RowItem(self._row_id(value["id"], f"{where}.id"), where)))
                continue
            items = await self._read(request, value, where)
            terms += [(weight, item) for item in items]
        return terms

    def _row_id(self, value: Any, where: str) -> int | str:
        """The id of a row, of the type that ids of the index have."""
        source = self.state.ready_engine().source
        if source is not None and source.index.id_type is int and isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise RequestError(400, f"`{where}` is no id of a row.", code="invalid_value", param=where)
        return value

    async def search_image(self, request: Request) -> Response:
        """A small JPEG picture of a row of the index."""
        engine = self.state.ready_engine()
        if "id" not in request.query_params:
            raise RequestError(400, "The parameter `id` is missing.", code="missing_field", param="id")
        given = request.query_params.get("edge", "256")
        edge = int(given) if re.fullmatch("[0-9]{1,4}", given) else 0
        if not _MIN_EDGE <= edge <= _MAX_EDGE:
            raise RequestError(
                400, f"`edge` must be {_MIN_EDGE} to {_MAX_EDGE} pixels.", code="invalid_value", param="edge"
            )
        with self._admit(request, engine, 1):
            picture = await engine.thumbnail(self._row_id(request.query_params["id"], "id"), edge)
        # The page shows it again and again; it may change with the index.
        return Response(picture, headers={"cache-control": "private, max-age=60"}, media_type="image/jpeg")

    # ---------------------------------------------------------------------------------------------------- what is here

    async def models(self, request: Request) -> Response:
        """The served model, as a list of one."""
        self.state.ready_engine()
        return _json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The served model."""
        self.state.ready_engine()
        self._check_model(request.path_params["name"])
        return _json(self._model())

    def _model(self) -> dict[str, Any]:
        source = self.state.ready_engine().source
        rows = None if source is None else len(source.index)  # others may add to it while it is served
        return {
            "id": self.options.name,
            "object": "model",
            "created": self.state.created,
            "owned_by": "clip_hf",
            "facts": {**self.state.facts, "index_rows": rows},
            "limits": {"max_body_bytes": self.limits.max_body_bytes},
        }

    async def prompt_sets(self, request: Request) -> Response:
        """The prompt sets that requests may name."""
        sets = [{"name": name, "templates": list(get_prompt_set(name))} for name in prompt_set_names()]
        return _json({"object": "list", "data": sets})

    async def live(self, request: Request) -> Response:
        """Whether the process answers."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether requests are welcome: not while the model is loaded or the server ends."""
        if self.state.traffic.draining:
            raise RequestError(503, "The server is ending.", code="draining", retry_after=1)
        self.state.ready_engine()
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counts and times, for Prometheus."""
        metrics = self.state.traffic.metrics
        return Response(metrics.render(), headers={"content-type": metrics.CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        """The description of all this."""
        return Response(self.description, media_type="application/json")

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._page_file("index.html")

    async def docs(self, request: Request) -> Response:
        """The page that shows the description."""
        return self._page_file("docs.html")

    async def page_file(self, request: Request) -> Response:
        """A file of the page."""
        return self._page_file(request.path_params["name"])

    def _page_file(self, name: str) -> Response:
        path = self.page.get(name)  # a table, so that no name leads elsewhere
        if path is None:
            raise HTTPException(404)
        headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
        headers["referrer-policy"] = "no-referrer"
        return Response(path.read_bytes(), headers=headers, media_type=_MEDIA_TYPES[path.suffix])


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()


def _split_weight(term: dict[str, Any], where: str) -> tuple[float, dict[str, Any]]:
    """The weight of a term, and the term without."""
    unknown = term.keys() - _TERM_FIELDS
    if unknown or len(term.keys() - {"weight"}) != 1:
        raise RequestError(
            400,
            f"`{where}` must have one of `text`, `image` and `id`, and may have `weight`; nothing else.",
            code="invalid_value",
            param=where,
        )
    weight = term.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight == 0 or abs(weight) > 1e6:
        raise RequestError(
            400,
            f"`{where}.weight` must be a number other than 0, at most 1,000,000.",
            code="invalid_value",
            param=f"{where}.weight",
        )
    return float(weight), {name: value for name, value in term.items() if name != "weight"}
