# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The app on a port of this machine, in a thread."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from clip_hf.serving import LoadedModel, ServerOptions, create_app


@contextmanager
def live_server(load: Callable[[], LoadedModel], **options) -> Iterator[str]:
    """A server that is ready, with these arguments of [`ServerOptions`]; the URL."""
    app = create_app(load, ServerOptions(**{"name": "tiny", **options}))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while app.state.serving.engine is None:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
