# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embeddings, classification, ranking and search over HTTP: the server, its page, and its clients."""

from ..utils.extras import require_extra


require_extra("serve", "clip_hf.serving", "httpx", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn")

from .client_items import ItemError
from .client_protocol import ServerError
from .dynamic_batching import BatchingOptions
from .http_server import serve
from .ray_serving import ray_app
from .server_app import LoadedModel, create_app
from .server_options import ServerOptions
from .serving_client import AsyncClient, Client
from .serving_limits import ServingLimits


__all__ = [
    "AsyncClient",
    "BatchingOptions",
    "Client",
    "ItemError",
    "LoadedModel",
    "ServerError",
    "ServerOptions",
    "ServingLimits",
    "create_app",
    "ray_app",
    "serve",
]
