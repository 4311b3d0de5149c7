# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What can go wrong, as the page tells it: beside what is wrong, or with what it waits for, and then it goes on."""

import base64
import io
import threading

import pytest
from page_visits import noise
from PIL import Image
from playwright.sync_api import expect

from clip_hf.serving.serving_limits import ServingLimits
from encoding_inputs import png


KEY = "correct-horse-battery"
LABELS = ["cat", "dog", "horse", "bird", "fish", "butterfly"]


def test_server_that_becomes_ready(visit, start_server, loaded):
    may_load = threading.Event()

    def load():
        assert may_load.wait(timeout=20)
        return loaded

    server = start_server(load=load)
    opened = visit(server.url, expects_failures=True)
    expect(opened.page.locator("#notices")).to_contain_text("The server is getting ready.")
    expect(opened.page.locator("#state")).to_have_text("Getting ready")
    opened.add(png(1))
    may_load.set()
    expect(opened.page.locator("#state")).to_have_text("Ready")
    opened.expect_bars(server.classify(png(1), LABELS))
    expect(opened.page.locator("#notices .notice")).to_have_count(0)


def test_server_that_goes_and_comes_back(visit, start_server):
    server = start_server()
    opened = visit(server.url, expects_failures=True)
    opened.add(png(1))
    opened.expect_bars(server.classify(png(1), LABELS))
    server.stop()
    opened.set_labels("one", "two")
    expect(opened.page.locator("#notices")).to_contain_text("The server cannot be reached.")
    expect(opened.page.locator("#state")).to_have_text("Not reachable")
    server.start()
    expect(opened.page.locator("#state")).to_have_text("Ready")
    opened.expect_bars(server.classify(png(1), ["one", "two"]))
    expect(opened.page.locator("#notices .notice")).to_have_count(0)


def test_key(visit, start_server, loaded):
    server = start_server(index=True, api_key=KEY)
    opened = visit(server.url, expects_failures=True)
    key = opened.page.get_by_label("This server asks for a key")
    expect(key).to_be_focused()
    expect(opened.page.locator("#key-error")).to_be_hidden()
    for wrong, said in (("nötig", "letters, digits and signs only"), ("wrong-key-of-some-length", "refused this key")):
        key.fill(wrong)
        key.press("Enter")
        expect(opened.page.locator("#key-error")).to_contain_text(said)
    key.fill(KEY)
    key.press("Enter")
    expect(opened.page.locator("#nav-search")).to_be_visible()
    expect(opened.page.locator("#key-form")).to_be_hidden()
    assert opened.page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]") == [
        {"api-key": KEY},
        {},
        "",
    ]
    opened.page.reload()
    opened.page.locator("#nav-search").click()
    opened.drop(png(1))
    expect(opened.page.locator("#grid img").first).to_be_visible()  # a photo of the index, which the key opens too


@pytest.mark.parametrize("limit, size", [(3_000_000, (2048, 256)), (500_000, (1024, 128))])
def test_picture_beyond_the_limit_is_scaled_down(visit, start_server, limit, size):
    opened = visit(start_server(limits=ServingLimits(max_body_bytes=limit)).url)
    opened.page.set_default_timeout(15_000)
    with opened.page.expect_request("**/v1/classify") as sent:
        opened.add(noise(2400, 300), "large.png")
    expect(opened.page.locator(".picture .note")).to_have_text(
        "This picture has 2.4 MB, more than the server takes. "
        f"It was sent as a smaller JPEG of {size[0]} × {size[1]} pixels."
    )
    expect(opened.page.locator(".bars li")).to_have_count(len(LABELS))
    with Image.open(io.BytesIO(base64.b64decode(sent.value.post_data_json["image"]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", size)
        assert min(picture.getpixel((4, 4))) > 245  # transparent before


def test_picture_that_the_browser_cannot_scale_down(visit, start_server):
    opened = visit(start_server(limits=ServingLimits(max_body_bytes=500_000)).url)
    opened.add(b"\0" * 500_000, "odd.png")
    expect(opened.page.locator(".picture .error")).to_contain_text("the browser cannot scale it down")


def test_too_large_for_the_server(visit, start_server):
    limits = ServingLimits(max_image_pixels=400)
    opened = visit(start_server(limits=limits).url, expects_failures=True)
    opened.add(png(1))
    expect(opened.page.locator(".picture .error")).to_have_text(
        "This picture has more pixels than the server takes. Choose a smaller one."
    )


def test_too_large_body(visit, server):
    opened = visit(server.url, expects_failures=True)
    error = {"message": "The body is larger than 10 bytes.", "type": "x", "param": None, "code": "body_too_large"}
    opened.page.route("**/v1/classify", lambda route: route.fulfill(status=413, json={"error": error}))
    opened.add(png(1))
    expect(opened.page.locator(".picture .error")).to_contain_text("more than the server takes at once")


@pytest.mark.parametrize(
    "break_it, where, said",
    [
        (lambda opened: opened.add(b"no picture", "odd.png"), ".picture .error", "Save it as JPEG or PNG."),
        (lambda opened: opened.set_labels("long " * 50), "#labels-error", "too long for this model. Shorten it."),
        (lambda opened: use_template(opened, "no place"), "#templates-error", "Write {} where the label goes"),
    ],
    ids=["picture", "labels", "templates"],
)
def test_messages_stand_beside_what_is_wrong(visit, server, break_it, where, said):
    opened = visit(server.url, expects_failures=True)
    opened.add(png(1))
    break_it(opened)
    expect(opened.page.locator(where).first).to_contain_text(said)
    shown = [error for error in opened.page.locator(".error").all() if error.is_visible()]
    assert len(shown) == 1


def use_template(opened, template: str) -> None:
    opened.page.locator("#prompts").select_option("own")
    opened.page.locator("#template").fill(template)


def test_message_goes_with_what_was_wrong(visit, server):
    opened = visit(server.url, expects_failures=True)
    opened.add(png(1))
    use_template(opened, "no place")
    expect(opened.page.locator("#templates-error")).to_be_visible()
    opened.page.locator("#template").fill("a {}")
    opened.expect_bars(server.classify(png(1), LABELS, templates="a {}"))
    expect(opened.page.locator("#templates-error")).to_be_hidden()


@pytest.mark.parametrize(
    "code, param, where, said",
    [
        ("text_too_long", "labels[1]", "#labels-error", "The label “dog” is too long for this model. Shorten it."),
        ("text_too_long", "templates", "#templates-error", "Your sentence is too long for this model. Shorten it."),
        ("too_many_prompts", "labels", "#labels-error", "These are too many labels. Remove some."),
        ("image_file_damaged", "image", ".picture .error", "This picture is damaged. Open it in another program and"),
        ("not_known_here", "image", ".picture .error", "What the server says."),
    ],
)
def test_people_read_sentences_for_people(visit, server, code, param, where, said):
    opened = visit(server.url, expects_failures=True)
    error = {"message": "What the server says.", "type": "x", "param": param, "code": code}
    opened.page.route("**/v1/classify", lambda route: route.fulfill(status=400, json={"error": error}))
    opened.add(png(1))
    expect(opened.page.locator(where)).to_contain_text(said)


def test_busy_server_is_asked_again(visit, server):
    opened = visit(server.url, expects_failures=True, hurries=False)
    answers = [429]

    def refuse_once(route):
        if answers:
            error = {"message": "busy", "type": "rate_limit_error", "param": None, "code": "queue_full"}
            route.fulfill(status=answers.pop(), headers={"Retry-After": "1"}, json={"error": error})
        else:
            route.continue_()

    opened.page.route("**/v1/classify", refuse_once)
    opened.add(png(1))
    expect(opened.page.locator("#notices")).to_have_text("The server is busy. Trying again in 1 s.")
    expect(opened.page.locator(".bars li")).to_have_count(0)
    opened.expect_bars(server.classify(png(1), LABELS))
    expect(opened.page.locator("#notices .notice")).to_have_count(0)


def test_broken_connections_end(visit, server):
    opened = visit(server.url, expects_failures=True)
    opened.page.route("**/v1/classify", lambda route: route.abort())
    opened.add(png(1))
    expect(opened.page.locator(".picture .error")).to_have_text("The connection broke off.", timeout=8000)
