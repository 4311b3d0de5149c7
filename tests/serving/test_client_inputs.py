# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the clients take and where: images of all modes, arrays, generators, forked processes, several event loops."""

import asyncio
import io
import multiprocessing

import numpy as np
import pytest
import torch
from fake_server import fake_server
from PIL import Image

from clip_hf.embedding import load_dual_encoder
from clip_hf.serving import AsyncClient, Client, ItemError
from clip_hf.serving.client_items import read_image
from tiny_models import make_tiny_model


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)


@pytest.fixture
def server():
    with fake_server() as running:
        yield running


@pytest.fixture(scope="module")
def encoder(tiny_processor):
    return load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


def image_of(mode: str) -> Image.Image:
    if mode.startswith("I;"):
        return Image.frombytes(mode, (50, 20), PIXELS.tobytes()[:2000])
    return Image.fromarray(PIXELS if mode != "P" else PIXELS[..., :3]).convert(mode)


@pytest.mark.parametrize(
    "mode", "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB I F I;16 I;16L I;16B HSV I;16N".split()
)
def test_the_server_sees_an_image_of_any_mode_as_the_encoder_here(encoder, mode):
    image = image_of(mode)
    if mode in ("HSV", "I;16N"):
        with pytest.raises(ValueError, match=rf"no file holds an image of mode {mode} exactly: convert it"):
            read_image(image)
        return
    data = read_image(image)
    for policy, color in (("clip", None), ("clip" if mode == "F" else "scale", (1, 20, 200))):
        encoder.set_image_options(high_bit_depth=policy, background_color=color)
        sent, here = (encoder.prepare([each])["pixel_values"] for each in (data, image))
        assert torch.equal(sent, here)


def test_arrays_are_images_as_they_are_here():
    grey, mask = PIXELS[..., 0], PIXELS > 99
    for array, expected in (
        (PIXELS, PIXELS),
        (np.moveaxis(PIXELS[..., :3], 2, 0), PIXELS[..., :3]),
        (grey, grey),
        (grey[None], grey),
        (mask[..., 0], mask[..., 0] * np.uint8(255)),
        (torch.from_numpy(mask), mask * np.uint8(255)),
    ):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(read_image(array)))), expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3)), "dtype float64 is no image that can be sent: pass uint8 or bool of shape"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\)"),
        (np.zeros(4, np.uint8), "pass uint8"),
        (torch.zeros(3, 8, 8, requires_grad=True), r"shape \(3, 8, 8\) and dtype torch.float32"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), "pass uint8"),
        (np.zeros((3, 5, 4), np.uint8), r"\(3, 5, 4\) the first or the last axis may be the channels"),
    ],
)
def test_what_is_no_image_for_sure_is_refused(server, array, message):
    with Client(server.url) as client, pytest.raises(ItemError, match=message):
        client.embed_images([array])
    assert not server.requests


# ---------------------------------------------------------------------------------- processes, event loops, generators


def _embed(client: Client, answers: multiprocessing.Queue) -> None:
    answers.put(client.embed_texts(["text 1", "text 2"])[:, 0].tolist())
    client.close()


def test_a_forked_process_has_threads_and_connections_of_its_own(server):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with Client(server.url, timeout=5) as client:
        client.embed_texts(["text 0"])
        process = context.Process(target=_embed, args=(client, answers))
        process.start()
        try:
            assert answers.get(timeout=20) == [1, 2]
            process.join(20)
        finally:
            process.kill()
        assert process.exitcode == 0
        assert client.embed_texts(["text 3"])[:, 0].tolist() == [3]


def test_an_asynchronous_client_is_not_bound_to_one_event_loop(server):
    client = AsyncClient(server.url, max_retries=0)
    for _ in range(2):
        assert asyncio.run(client.embed_texts(["text 1"]))[:, 0].tolist() == [1]
    asyncio.run(client.close())


def test_asynchronous_generators_are_taken_by_the_asynchronous_client(server):
    read = []

    async def numbers():
        for number in range(100):
            await asyncio.sleep(0)
            read.append(number)
            yield b"%d" % number

    async def work():
        async with AsyncClient(server.url) as client:
            assert (await client.embed_images(numbers()))[:, 0].tolist() == list(range(100))
            read.clear()
            stream = client.embed_image_stream(numbers(), batch_size=2)
            assert (await anext(stream))[0] == 0
            await stream.aclose()
            assert len(read) <= 2 * client.max_in_flight + 1

            async def broken():
                yield b"1"
                raise KeyError("mine")

            with pytest.raises(KeyError, match="mine"):
                await client.embed_images(broken())

    asyncio.run(work())
    with Client(server.url) as client, pytest.raises(TypeError, match="is for `AsyncClient`"):
        client.embed_images(numbers())
