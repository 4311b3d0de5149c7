# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The server as a Ray Serve application: replicas of the same app, on one machine or many."""

import asyncio
import os
from typing import Any

from ..embedding.load_encoder import check_encoder_options, load_dual_encoder
from ..search.index_places import is_index
from ..search.index_sources import open_source_index
from ..utils.extras import require_extra
from .server_app import LoadedModel, create_app
from .server_options import ServerOptions


_POLL = 0.01  # seconds


class _Replica:
    """What Ray Serve asks of a replica, besides requests."""

    async def check_health(self) -> None:
        """Wait for the engine, which is made when the app starts; raise if there cannot be one."""
        serving = self.app.state.serving
        while serving.engine is None and serving.load_error is None:
            await asyncio.sleep(_POLL)
        serving.ready_engine()


def ray_app(
    model: str | os.PathLike,
    options: ServerOptions,
    *,
    num_replicas: int = 1,
    runtime: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    index: str | os.PathLike | None = None,
    ray_actor_options: dict[str, Any] | None = None,
) -> Any:
    """Make an application of Ray Serve, whose replicas are servers as `clip-hf serve` starts them.

    - Each replica loads the model before it gets requests, and batches its own by the same code. Requests share
      nothing, so replicas may come and go.
    - When a replica dies, those that it was answering fail; [`Client`] sends them again.
    - Model and index must lie under the same names on all machines.

    Args:
        model (`str` or `os.PathLike`): What [`load_dual_encoder`] takes by name.
        options ([`ServerOptions`]): Name, key, hosts and limits. `allowed_hosts` must hold the name by which clients
            call Ray's proxy, unless it listens on the loopback device.
        num_replicas (`int`, *optional*, defaults to 1): Replicas.
        runtime (`str`, *optional*): What runs the model, as in [`load_dual_encoder`].
        dtype (`str`, *optional*): What to compute in.
        device (`str`, *optional*): Where; by default the GPU that Ray gives the replica, if it asks for one.
        index (`str` or `os.PathLike`, *optional*): An index to search, built before, as `clip-hf search` does.
        ray_actor_options (`dict`, *optional*): What each replica asks Ray for: `{"num_cpus": 4}`, `{"num_gpus": 1}`.

    Returns:
        `ray.serve.Application`: pass it to `ray.serve.run`, or name it in a config of `serve deploy`.

    Raises:
        ValueError: if an option does not make sense, or there is no such index.
        MissingExtra: if Ray is not installed.

    Example:

    ```python
    from ray import serve
    from clip_hf.serving import ServerOptions, ray_app

    serve.run(ray_app("my_model", ServerOptions("my_model"), num_replicas=2))
    ```
    """
    require_extra("cluster", "clip_hf.serving.ray_app", "ray")
    from ray import serve

    check_encoder_options(runtime, dtype, device)
    if index is not None and not is_index(index):
        raise ValueError(f"{index} is no index: build it first, with `clip-hf search SOURCE --index {index}`.")
    # Replicas start in other folders.
    name = os.path.abspath(model) if os.path.exists(model) else os.fspath(model)
    place = None if index is None else os.path.abspath(index)

    def build() -> Any:
        encoder = load_dual_encoder(name, runtime, dtype, device)
        loaded = LoadedModel(encoder, None if place is None else open_source_index(place, encoder))
        return create_app(lambda: loaded, options)

    deployment = serve.deployment(
        serve.ingress(build)(_Replica),
        name="clip_hf",
        num_replicas=num_replicas,
        # The app refuses what is too much, with an answer that says when to try again.
        max_ongoing_requests=options.limits.max_pending_requests,
        max_queued_requests=options.limits.max_pending_requests,
        ray_actor_options=ray_actor_options,
    )
    return deployment.bind()
