# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Heat maps in the page: what `/v1/explain` answers, over the right part of the picture, on and off again."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from clip_hf.embedding import load_dual_encoder
from clip_hf.serving.server_app import LoadedModel
from encoding_inputs import png
from tiny_models import as_transformers_clip, make_tiny_model


LABELS = ["cat", "dog", "horse", "bird", "fish", "butterfly"]  # the page begins with these
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
# The lightness of a map's pixels, in rows, and where canvas and picture are.
READ_MAP = """(canvas) => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const lightness = [];
    for (let at = 0; at < data.length; at += 4) lightness.push(data[at] + data[at + 1] + data[at + 2]);
    const places = [canvas, canvas.parentElement.querySelector("img")].map((element) => {
        const {x, y, width, height} = element.getBoundingClientRect();
        return [x, y, width, height];
    });
    return {lightness, size: [canvas.height, canvas.width], places};
}"""


def wide_png() -> bytes:
    """A picture of which a square crop leaves two thirds out."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 120, 3), np.uint8))
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return file.getvalue()


def button(opened, label: str, picture: int = 0):
    return opened.page.locator(".picture").nth(picture).get_by_role("button", name=label, exact=True)


@pytest.fixture
def opened(visit, server):
    opened = visit(server.url)
    opened.add(wide_png(), "wide.png")
    opened.expect_bars(server.classify(wide_png(), LABELS))
    return opened


@pytest.mark.parametrize("options", [{}, PHONE], ids=["wide", "phone"])
def test_a_map_lies_where_the_model_looks(visit, server, options):
    opened = visit(server.url, **options)
    opened.add(wide_png(), "wide.png")
    button(opened, "dog").click()
    opened.page.locator(".heat").wait_for()
    found = opened.page.locator(".heat").evaluate(READ_MAP)
    canvas, picture = found["places"]
    assert canvas == pytest.approx(picture, abs=0.5)
    lightness = np.reshape(found["lightness"], found["size"])
    assert lightness.shape == (85, 256)
    answer = server.post("v1/explain", {"image": base64.b64encode(wide_png()).decode(), "labels": ["dog"]})
    left, top, right, bottom = np.multiply(answer["seen_box"], [256, 85] * 2)
    assert 70 < left < right < 186
    # Outside, only two tones of grey; inside, the centre of each cell has the rank of its value.
    outside = np.delete(lightness, slice(int(left), int(right) + 1), axis=1)
    assert {round(tone / 3 / 5) * 5 for tone in np.unique(outside)} == {150, 205}  # but for rounding with opacity
    grid = np.array(answer["data"][0]["relevance"])
    rows = (top + (np.arange(grid.shape[0]) + 0.5) * (bottom - top) / grid.shape[0]).astype(int)
    columns = (left + (np.arange(grid.shape[1]) + 0.5) * (right - left) / grid.shape[1]).astype(int)
    shown = lightness[np.ix_(rows, columns)]
    assert np.corrcoef(shown.ravel(), grid.ravel())[0, 1] > 0.9 and shown.argmax() == grid.argmax()
    caption = opened.page.locator(".caption")
    expect(caption).to_contain_text("What speaks for “dog”, by gradient-weighted attention. Strongest place:")
    expect(caption).to_contain_text("does not see what is striped. It does not say that the label is right")
    expect(opened.page.locator("#announcer")).to_contain_text("wide.png: What speaks for “dog”")
    assert opened.page.evaluate("document.scrollingElement.scrollWidth") == opened.page.viewport_size["width"]


def test_the_keyboard_lays_a_map_on_and_takes_it_off(opened):
    dog, cat = button(opened, "dog"), button(opened, "cat")
    dog.focus()
    opened.page.keyboard.press("Enter")
    expect(opened.page.get_by_role("img", name="Heat map of “dog”")).to_be_visible()
    expect(dog).to_have_attribute("aria-pressed", "true")
    assert dog.evaluate("element => getComputedStyle(element, '::after').outlineStyle") == "solid"
    expect(dog).to_have_accessible_description("Choose a label to see what in the picture speaks for it.")
    cat.focus()
    opened.page.keyboard.press("Space")
    expect(opened.page.get_by_role("img", name="Heat map of “cat”")).to_be_visible()
    expect(opened.page.locator(".heat")).to_have_count(1)
    expect(dog).to_have_attribute("aria-pressed", "false")
    opened.page.keyboard.press("Space")
    expect(opened.page.locator(".heat, .caption")).to_have_count(0)
    expect(cat).to_have_attribute("aria-pressed", "false")
    expect(opened.page.locator("#announcer")).to_have_text("wide.png: the map of cat is gone")


def test_a_click_anywhere_on_a_bar_counts(opened):
    bar = opened.page.locator(".bars li").first
    box = bar.bounding_box()
    opened.page.mouse.click(box["x"] + box["width"] - 5, box["y"] + box["height"] - 3)
    expect(opened.page.locator(".heat")).to_be_visible()


def test_a_map_goes_with_its_label_and_its_sentence(opened, server):
    button(opened, "dog").click()
    expect(opened.page.locator(".heat")).to_be_visible()
    opened.set_labels("dog", "tree")
    opened.expect_bars(server.classify(wide_png(), ["dog", "tree"]))
    expect(opened.page.locator(".heat")).to_have_count(0)  # the label was away for a moment
    button(opened, "dog").click()
    with opened.page.expect_response("**/v1/classify"):
        opened.page.locator("#label").fill("bush")
        opened.page.locator("#label").press("Enter")
    expect(opened.page.locator(".heat")).to_be_visible()
    opened.page.locator("#prompts").select_option("own")
    opened.page.locator("#template").fill("{} on a hill")
    expect(opened.page.locator(".heat, .caption")).to_have_count(0)
    with opened.page.expect_request("**/v1/explain") as asked:
        button(opened, "dog").click()
    assert asked.value.post_data_json["templates"] == "{} on a hill"
    expect(opened.page.locator(".heat")).to_be_visible()


def test_only_the_map_of_the_last_choice_comes(opened):
    held = []
    opened.page.route("**/v1/explain", lambda route: held.append(route) if not held else route.continue_())
    with opened.page.expect_request("**/v1/explain"):
        button(opened, "dog").click()
    with opened.page.expect_event("requestfailed"):
        button(opened, "cat").click()
    expect(opened.page.get_by_role("img", name="Heat map of “cat”")).to_be_visible()
    expect(opened.page.locator(".heat")).to_have_count(1)


def test_a_refusal_is_shown_in_the_card(visit, server):
    opened = visit(server.url, expects_failures=True)
    opened.add(wide_png())
    error = {"error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": "not_explainable"}}
    opened.page.route("**/v1/explain", lambda route: route.fulfill(status=400, json=error))
    button(opened, "dog").click()
    expect(opened.page.locator(".picture .error")).to_have_text("No.")
    expect(button(opened, "dog")).to_have_attribute("aria-pressed", "false")
    expect(opened.page.locator(".explained")).to_have_count(0)


def test_two_pictures_have_their_own_maps(opened):
    opened.add(png(1), "other.png")
    button(opened, "dog", 0).click()
    button(opened, "fish", 1).click()
    expect(opened.page.locator(".heat")).to_have_count(2)
    opened.page.get_by_role("button", name="Remove other.png").click()
    expect(opened.page.get_by_role("img", name="Heat map of “fish”")).to_be_visible()


def test_a_model_that_cannot_be_explained_has_no_buttons(visit, start_server, tiny_processor):
    foreign = load_dual_encoder(as_transformers_clip(make_tiny_model("vit")), processor=tiny_processor)
    server = start_server(load=lambda: LoadedModel(foreign))
    opened = visit(server.url)
    opened.add(png(1))
    opened.expect_bars(server.classify(png(1), LABELS))
    expect(opened.page.locator(".bars button")).to_have_count(0)
    expect(opened.page.locator(".hint")).to_be_hidden()
