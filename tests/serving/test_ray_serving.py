# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The server on Ray Serve: two replicas answer as one, and when one is killed nothing is lost."""

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time

import numpy as np
import pytest

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import QueryTerm, Searcher, open_source_index
from clip_hf.serving import Client, ServerOptions, ray_app
from clip_hf.utils.extras import MissingExtra


# Of Ray's own code.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning")
KEY = "a-key-of-the-replicas"


@pytest.fixture(scope="module")
def serve():
    """Ray Serve on this machine, with two processors."""
    import ray
    from ray import serve

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.url = f"http://127.0.0.1:{port}"
    yield serve
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def replicas() -> list[int]:
    """Process numbers of the replicas that live."""
    import ray

    # The public way needs the dashboard.
    actors = ray._private.state.actors().values()
    return [actor["Pid"] for actor in actors if actor["State"] == "ALIVE" and "clip_hf" in actor["ActorClassName"]]


@pytest.mark.slow
def test_two_replicas_answer_as_one_and_a_killed_one_loses_nothing(serve, served_folder):
    model, photos = served_folder / "model", served_folder / "photos"
    encoder = load_dual_encoder(model)
    source = open_source_index(photos, encoder)
    app = ray_app(
        model,
        ServerOptions("tiny", api_key=KEY),
        num_replicas=2,
        index=source.index.folder,
        ray_actor_options={"num_cpus": 0.5},
    )
    serve.run(app, name="tiny", route_prefix="/clip")
    assert len(replicas()) == 2
    texts, files = [f"a picture of {number} cats" for number in range(2000)], sorted(photos.iterdir())
    expected = encoder.encode_texts(texts).numpy()
    with Client(f"{serve.url}/clip", KEY, max_retry_seconds=60) as client:
        assert client.is_ready()
        np.testing.assert_allclose(client.embed_images(files), encoder.encode_images(files).numpy(), atol=1e-6)
        found = Searcher(encoder, source).search([QueryTerm(1.0, text="a cat")], 3).hits
        assert [hit.id for hit in client.search("a cat", top_k=3).hits] == [hit.id for hit in found]
        rows = []

        def kill_one():
            while len(rows) < 100:
                time.sleep(0.001)
            os.kill(replicas()[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        for row in client.embed_text_stream(texts, batch_size=2):
            rows.append(row)
        killer.join(10)
        np.testing.assert_allclose(np.stack(rows), expected, atol=1e-6)
    with Client(f"{serve.url}/clip", "another key, no, a wrong one".replace(" ", "-"), max_retries=0) as client:
        with pytest.raises(RuntimeError, match="status 401"):
            client.models()
    serve.delete("tiny")


def test_what_is_wrong_is_told_before_ray_starts(tmp_path, monkeypatch):
    options = ServerOptions("tiny")
    with pytest.raises(ValueError, match=r"is no index: build it first, with `clip-hf search SOURCE --index"):
        ray_app("model", options, index=tmp_path)
    with pytest.raises(ValueError, match="runtime"):
        ray_app("model", options, runtime="tensorrt")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="The extra `cluster`"):
        ray_app("model", options)
