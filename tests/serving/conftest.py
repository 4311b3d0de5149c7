# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One tiny model with an index, and one app that serves both, for all tests of the server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import open_source_index
from clip_hf.serving import LoadedModel, ServerOptions, create_app
from encoding_inputs import write_model_and_photos
from tiny_models import make_tiny_model


KEY = "a-key-of-more-than-16-characters"


@pytest.fixture(scope="session")
def served_folder(tiny_processor, tmp_path_factory) -> Path:
    """A folder with a tiny `model` and six `photos`."""
    return write_model_and_photos(tmp_path_factory.mktemp("served"), tiny_processor, 6)


@pytest.fixture(scope="session")
def loaded(served_folder) -> LoadedModel:
    """The model with the index of the photos."""
    encoder = load_dual_encoder(str(served_folder / "model"))
    return LoadedModel(encoder, open_source_index(served_folder / "photos", encoder))


@pytest.fixture(scope="session")
def make_client(loaded) -> Iterator[Callable[..., TestClient]]:
    """A function of [`ServerOptions`]' arguments: a client of a ready app with the session's model."""
    clients = []

    def make(load: Callable[[], LoadedModel] = lambda: loaded, **options) -> TestClient:
        app = create_app(load, ServerOptions(**{"name": "tiny", **options}))
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        clients.append(client)
        client.__enter__()
        while client.get("/health/ready").json().get("error", {}).get("code") == "loading":
            pass
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(make_client) -> TestClient:
    """A client of the session's app, which asks for no key."""
    return make_client()


@pytest.fixture(scope="session")
def shared(tiny_processor):
    """A tiny model for tests that do not change it; its scale is that of a trained CLIP."""
    model = make_tiny_model("vit")
    torch.nn.init.constant_(model.logit_scale, np.log(100))
    return load_dual_encoder(model, processor=tiny_processor)
