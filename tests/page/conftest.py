# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A browser, and servers of a tiny model for it; `make test-page` runs these tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_visits import PHOTOS, PageServer, Visit
from playwright.sync_api import Browser, sync_playwright

from clip_hf.embedding import DualEncoder, load_dual_encoder
from clip_hf.search import open_source_index
from clip_hf.serving.server_app import LoadedModel
from clip_hf.serving.server_options import ServerOptions
from encoding_inputs import image, quiet
from tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(path).is_file():
        pytest.exit(
            f"There is no Chromium at {path}. Get it with `apt-get install chromium`, or name another as in "
            "`make test-page CHROMIUM=/opt/chromium/chrome`.",
            returncode=1,
        )
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visit]]:
    """A function that opens a page; after the test, all that went wrong in it fails the test."""
    visits = []

    def open_page(url: str, **options) -> Visit:
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield open_page
    for each in visits:
        each.close()
    for each in visits:
        assert not each.problems
        assert each.requests and all(url.startswith(each.allowed) for url in each.requests)


@pytest.fixture(scope="session")
def make_encoder(tiny_processor) -> Callable[[], DualEncoder]:
    """A function that makes the same tiny model again; each server has one, because it sets the limits of images."""
    return lambda: load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


@pytest.fixture(scope="session")
def loaded(make_encoder, tmp_path_factory) -> LoadedModel:
    """A tiny model, and the index of a few photos."""
    encoder = make_encoder()
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(PHOTOS):
        (folder / name).parent.mkdir(exist_ok=True)
        image(number).save(folder / name)
    return LoadedModel(encoder, open_source_index(folder, encoder, encoding=quiet()))


@pytest.fixture
def start_server(loaded, make_encoder) -> Iterator[Callable[..., PageServer]]:
    """A function that starts a server of the tiny model, by default without an index."""
    servers = []

    def start(*, load=None, index: bool = False, **options) -> PageServer:
        model = LoadedModel(make_encoder(), loaded.source if index else None)
        servers.append(PageServer(load or (lambda: model), ServerOptions(name="tiny", **options)))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(loaded) -> Iterator[PageServer]:
    """The server of the model and its index, which most tests share."""
    server = PageServer(lambda: loaded, ServerOptions(name="tiny"))
    server.start()
    yield server
    server.stop()
