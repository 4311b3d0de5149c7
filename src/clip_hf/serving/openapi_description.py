# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The server's description in OpenAPI 3.1, made of the models that check its requests."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .request_schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ErrorAnswer,
    ExplainAnswer,
    ExplainRequest,
    HuggingFaceAnswer,
    HuggingFaceRequest,
    ModelsAnswer,
    PromptSetsAnswer,
    RankAnswer,
    RankRequest,
    SearchAnswer,
    SearchRequest,
    ServedModel,
)
from .server_options import ServerOptions


_SCHEMAS = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is wrong; `param` says where.",
    "401": "The API key is missing or wrong.",
    "403": "The host, or the web page that sent it, is not allowed.",
    "404": "There is no such path, model, index or row.",
    "405": "The path has no such method; `Allow` lists those it has.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is neither JSON nor a form.",
    "429": "There are too many requests; `Retry-After` says when to try again.",
    "503": "The server is loading or ending, or took too long; `Retry-After` says when to try again.",
}
# A red square of 4 x 4 pixels.
_PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR4nGN8JifHAANMDEgANwcAOnABKjmKqkgA"
    "AAAASUVORK5CYII="
)
# As OpenAPI 3.1 has it, and as older tools read it.
_FILE = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
# Requests with a body: their models, what they are for, and an example that works.
_POSTS: dict[str, tuple[type[BaseModel], type[BaseModel], str, dict[str, Any]]] = {
    "/v1/embeddings": (
        EmbeddingsRequest,
        EmbeddingsAnswer,
        "Embed texts and images",
        {"input": ["a red square", {"image": _PICTURE}]},
    ),
    "/v1/classify": (
        ClassifyRequest,
        ClassifyAnswer,
        "Classify images with your labels",
        {"image": _PICTURE, "labels": ["red", "blue"], "templates": "a {} square."},
    ),
    "/v1/explain": (
        ExplainRequest,
        ExplainAnswer,
        "Find the places of an image that speak for labels",
        {"image": _PICTURE, "labels": ["red"], "templates": "a {} square."},
    ),
    "/v1/hf/{name}": (
        HuggingFaceRequest,
        HuggingFaceAnswer,
        "Answer Hugging Face's InferenceClient",
        {"inputs": _PICTURE, "parameters": {"candidate_labels": ["red", "blue"]}},
    ),
    "/v1/rank": (
        RankRequest,
        RankAnswer,
        "Rank texts and images by how well they fit a query",
        {"query": {"image": _PICTURE}, "candidates": ["a red square", "a blue circle"], "top_k": 1},
    ),
    "/v1/search": (
        SearchRequest,
        SearchAnswer,
        "Search the index",
        {"query": [{"text": "a red square"}, {"text": "a circle", "weight": -0.5}], "top_k": 3},
    ),
}
# The field that a form's files and texts become, as `read_form` has it.
_FORM_ITEMS = {
    "/v1/embeddings": "input",
    "/v1/classify": "images",
    "/v1/explain": "image",
    "/v1/hf/{name}": "inputs",
    "/v1/rank": "candidates",
    "/v1/search": "query",
}
_OPERATIONS = {
    "/v1/embeddings": "create_embeddings",
    "/v1/classify": "classify_images",
    "/v1/explain": "explain_image",
    "/v1/hf/{name}": "answer_inference_client",
    "/v1/rank": "rank_candidates",
    "/v1/search": "search_index",
    "/v1/models": "list_models",
    "/v1/models/{name}": "get_model",
    "/v1/prompt-sets": "list_prompt_sets",
    "/v1/search/image": "get_search_image",
    "/health/live": "check_live",
    "/health/ready": "check_ready",
    "/openapi.json": "get_description",
    "/metrics": "get_metrics",
    "/docs": "show_docs",
    "/": "show_page",
    "/page/{name}": "get_page_file",
}
_JSON_GETS: dict[str, tuple[type[BaseModel] | None, str]] = {
    "/v1/models": (ModelsAnswer, "What is served"),
    "/v1/models/{name}": (ServedModel, "What is served, by its name"),
    "/v1/prompt-sets": (PromptSetsAnswer, "Prompt sets that requests may name"),
    "/health/live": (None, "Whether the process answers"),
    "/health/ready": (None, "Whether requests are welcome"),
    "/openapi.json": (None, "This description"),
}
_OTHER_GETS = {
    "/metrics": ("text/plain", "Counts and times, for Prometheus"),
    "/docs": ("text/html", "This description, to read"),
    "/": ("text/html", "The page"),
    "/page/{name}": ("application/octet-stream", "A file of the page"),
    "/v1/search/image": ("image/jpeg", "A small picture of a row of the index"),
}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_OPEN = ("/health/live", "/health/ready", "/openapi.json", "/docs", "/", "/page/{name}")


def describe_api(options: ServerOptions) -> dict[str, Any]:
    """The description of a server, as JSON has it."""
    answers = [answer for _, answer, _, _ in _POSTS.values()]
    answers += [answer for answer, _ in _JSON_GETS.values() if answer is not None]
    models = [(request, "validation") for request, *_ in _POSTS.values()]
    models += [(answer, "serialization") for answer in (*answers, ErrorAnswer)]
    _, definitions = models_json_schema(models, ref_template=_SCHEMAS)
    has_key = options.api_key is not None
    schemas = definitions["$defs"]
    paths = {path: {"post": _describe_post(path, schemas, has_key)} for path in _POSTS}
    for path, (answer, summary) in _JSON_GETS.items():
        schema = {"type": "object"} if answer is None else _reference(answer)
        paths[path] = {"get": _describe_get(path, summary, {"application/json": {"schema": schema}}, has_key)}
    for path, (media_type, summary) in _OTHER_GETS.items():
        paths[path] = {"get": _describe_get(path, summary, {media_type: {}}, has_key)}
    errors = {
        status: {
            "description": text,
            "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": _reference(ErrorAnswer)}},
        }
        for status, text in _ERRORS.items()
    }
    components: dict[str, Any] = {"schemas": schemas, "responses": errors}
    if has_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"clip_hf: {options.name}",
            "version": "1",
            "description": "Embeddings, zero-shot classification, heat maps, ranking and search with a CLIP.",
        },
        "servers": [{"url": "."}],  # the folder of this description, whatever prefix it is at
        "paths": dict(sorted(paths.items())),
        "components": components,
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _SCHEMAS.format(model=model.__name__)}


def _describe_post(path: str, schemas: dict[str, Any], has_key: bool) -> dict[str, Any]:
    request, answer, summary, example = _POSTS[path]
    bodies: dict[str, Any] = {
        "application/json": {"schema": _reference(request), "example": example},
        "multipart/form-data": {"schema": _describe_form(schemas[request.__name__], _FORM_ITEMS[path])},
    }
    return {
        **_operation(path, summary, has_key),
        "parameters": [_NAME] if "{name}" in path else [],
        "description": (request.__doc__ or "").strip(),
        "requestBody": {"required": True, "content": bodies},
        "responses": _responses({"application/json": {"schema": _reference(answer)}}),
    }


def _describe_get(path: str, summary: str, content: dict[str, Any], has_key: bool) -> dict[str, Any]:
    parameters = [_NAME] if "{name}" in path else []
    if path == "/v1/search/image":
        edge = {"type": "integer", "minimum": 16, "maximum": 1024, "default": 256}
        parameters.append({"name": "id", "in": "query", "required": True, "schema": {"type": "string"}})
        parameters.append({"name": "edge", "in": "query", "required": False, "schema": edge})
    return {
        **_operation(path, summary, has_key),
        "parameters": parameters,
        "responses": _responses(content),
    }


def _describe_form(schema: dict[str, Any], items: str) -> dict[str, Any]:
    """The fields of a form: those of the request, with files and texts in place of its items."""
    replaced = (items, "image")
    properties = {name: each for name, each in schema["properties"].items() if name not in replaced}
    properties["file"] = {"type": "array", "items": _FILE, "description": f"Image files, in the order of `{items}`."}
    if items not in ("images", "image"):
        texts = {"type": "array", "items": {"type": "string"}}
        properties["text"] = {**texts, "description": f"Texts, in the order of `{items}`."}
    if "query" in properties:
        properties["query"] = {"anyOf": [{"type": "string"}, _FILE], "description": "A text, or an image file."}
    required = [name for name in schema.get("required", ()) if name in properties]
    return {"type": "object", "properties": properties, "required": required}


def _operation(path: str, summary: str, has_key: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": _OPERATIONS[path], "summary": summary}
    if has_key:
        operation["security"] = [] if path in _OPEN else [{"key": []}]
    return operation


def _responses(content: dict[str, Any]) -> dict[str, Any]:
    errors = {status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS}
    return {"200": {"description": "The answer.", "content": content}, **errors}
