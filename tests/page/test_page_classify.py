# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Classify in the page: it shows exactly what `/v1/classify` answers, whichever way pictures and labels came."""

import re

import pytest
from playwright.sync_api import expect

from encoding_inputs import png


LABELS = ["cat", "dog", "horse", "bird", "fish", "butterfly"]  # the page begins with these
# Requests that the page aborts come back all the same, as with a browser that is slow to abort.
NEVER_ABORT = """const realFetch = window.fetch;
window.fetch = (url, options = {}) => realFetch(url, {...options, signal: undefined});"""


@pytest.fixture
def opened(visit, server):
    return visit(server.url)


def test_chosen_pictures(opened, server):
    with opened.page.expect_file_chooser() as chooser:
        opened.page.locator("#choose").click()
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": png(n)} for n in (1, 2)]
    chooser.value.set_files(files)
    opened.expect_bars(server.classify(png(1), LABELS), 0)
    opened.expect_bars(server.classify(png(2), LABELS), 1)
    expect(opened.page.locator(".picture h2")).to_have_text(["1.png", "2.png"])
    expect(opened.page.locator("#latency")).to_have_text(
        re.compile(r"^Last answer: \d+ ms in the server, \d+ ms in all\.$")
    )


def test_dropped_picture(opened, server):
    opened.drop(png(3))
    opened.expect_bars(server.classify(png(3), LABELS))


def test_pasted_picture(opened, server):
    opened.paste(opened.page.locator("body"), name="image.png", content=png(4))
    opened.expect_bars(server.classify(png(4), LABELS))


def test_widths_follow_the_scores(opened, server):
    opened.add(png(1))
    wanted = server.classify(png(1), LABELS)
    opened.expect_bars(wanted)
    for fill, (_, score) in zip(opened.page.locator(".fill").all(), wanted, strict=True):
        assert float(fill.evaluate("element => element.style.width").rstrip("%")) == pytest.approx(
            float(score.rstrip("%")), abs=0.06
        )


def test_edited_labels_move_the_bars(opened, server):
    opened.add(png(1))
    opened.expect_bars(server.classify(png(1), LABELS))
    box = opened.page.locator("#label")
    box.press_sequentially("tree,")
    opened.expect_bars(server.classify(png(1), [*LABELS, "tree"]))
    box.press_sequentially("bush;")
    opened.expect_bars(server.classify(png(1), [*LABELS, "tree", "bush"]))
    box.press("Backspace")
    box.press("Backspace")
    box.press("Backspace")
    opened.expect_bars(server.classify(png(1), LABELS[:5]))
    opened.page.get_by_role("button", name="Remove cat").click()
    opened.expect_bars(server.classify(png(1), LABELS[1:5]))
    opened.paste(box, text="one\ntwo, three;dog\n\n")
    now = [*LABELS[1:5], "one", "two", "three"]
    opened.expect_bars(server.classify(png(1), now))
    expect(opened.page.locator("#labels span")).to_have_text(now)
    opened.page.get_by_role("button", name="Weather").click()
    opened.expect_bars(server.classify(png(1), ["sun", "rain", "snow", "clouds", "rainbow"]))


def test_no_labels(opened):
    opened.add(png(1))
    opened.set_labels()
    expect(opened.page.locator(".picture .note")).to_have_text("Add a label to see how well it fits.")
    expect(opened.page.locator(".bars li")).to_have_count(0)


def test_many_labels_are_shown_on_demand(opened, server):
    labels = [f"label {number}" for number in range(14)]
    opened.set_labels()
    opened.paste(opened.page.locator("#label"), text="\n".join(labels))
    opened.add(png(1))
    wanted = server.classify(png(1), labels)
    opened.expect_bars(wanted[:10])
    opened.page.get_by_role("button", name="Show all 14 labels").click()
    opened.expect_bars(wanted)


def test_prompts(opened, server):
    opened.add(png(1))
    opened.page.locator("#prompts").select_option("openai_imagenet_subset")
    opened.expect_bars(server.classify(png(1), LABELS, templates="openai_imagenet_subset"))
    opened.page.locator("#prompts").select_option("own")
    opened.page.locator("#template").fill("{}")
    opened.expect_bars(server.classify(png(1), LABELS, templates="{}"))
    opened.page.locator("#prompts").select_option("")
    opened.expect_bars(server.classify(png(1), LABELS))
    expect(opened.page.locator("#template")).to_be_hidden()


def test_several_may_fit(opened, server):
    opened.add(png(1))
    opened.page.get_by_label("Several labels may fit").check()
    opened.expect_bars(server.classify(png(1), LABELS, multi_label=True))


def test_removed_picture(opened, server):
    opened.add(png(1), "first.png")
    opened.add(png(2), "second.png")
    opened.page.get_by_role("button", name="Remove second.png").click()
    expect(opened.page.locator(".picture h2")).to_have_text("first.png")
    expect(opened.page.get_by_role("button", name="Remove first.png")).to_be_focused()
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator("#classify-empty")).to_be_visible()
    expect(opened.page.locator("#choose")).to_be_focused()


def test_earlier_requests_are_aborted(visit, server):
    opened = visit(server.url, hurries=False)  # all of the labels come in one request
    aborted = []
    opened.page.on("requestfailed", lambda request: aborted.append(request.failure))
    held = []
    opened.page.route("**/v1/classify", lambda route: held.append(route) if not held else route.continue_())
    with opened.page.expect_request("**/v1/classify"):
        opened.add(png(1))
    with opened.page.expect_event("requestfailed"):
        opened.set_labels("one", "two")
    assert len(held) == 1 and aborted == ["net::ERR_ABORTED"]
    opened.expect_bars(server.classify(png(1), ["one", "two"]))


def test_stale_answer_is_dropped(visit, server):
    opened = visit(server.url, script=NEVER_ABORT)
    held = []
    opened.page.route("**/v1/classify", lambda route: held.append(route) if not held else route.continue_())
    with opened.page.expect_request("**/v1/classify"):
        opened.add(png(1))
    opened.set_labels("one", "two")
    wanted = server.classify(png(1), ["one", "two"])
    opened.expect_bars(wanted)
    with opened.page.expect_response("**/v1/classify"):
        held[0].continue_()
    opened.page.wait_for_timeout(100)
    opened.expect_bars(wanted)


def test_markup_is_text(opened, server):
    label = "<img src=x>"
    opened.set_labels(label, "<b>dog</b>")
    opened.add(png(1), name="<img src=x onerror=hacked=1>.png")
    opened.expect_bars(server.classify(png(1), [label, "<b>dog</b>"]))
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img[src=x]").count() == opened.page.locator("main b").count() == 0
    expect(opened.page.locator(".picture h2")).to_have_text("<img src=x onerror=hacked=1>.png")


def test_other_files_are_named(opened):
    opened.add(b"words", "notes.txt", "text/plain")
    expect(opened.page.locator("#files-error")).to_have_text("Not a picture: notes.txt")
    expect(opened.page.locator(".picture")).to_have_count(0)
