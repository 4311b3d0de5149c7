# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search in the page: by words, by pictures, by both, and by clicking on what was found."""

import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from encoding_inputs import png


@pytest.fixture
def opened(visit, server):
    opened = visit(f"{server.url}#search")
    expect(opened.page.locator("#search")).to_be_visible()
    return opened


def search_words(opened, words: str) -> None:
    opened.page.locator("#words").fill(words)
    opened.page.locator("#words").press("Enter")


def image_term(number: int) -> dict:
    return {"image": base64.b64encode(png(number)).decode()}


def accept_all(opened) -> None:
    """Let a tiny model's hits count, which fit no better than chance."""

    def drop_share(route):
        body = {name: value for name, value in route.request.post_data_json.items() if name != "no_match"}
        route.continue_(post_data=json.dumps(body))

    opened.page.route("**/v1/search", drop_share)


def test_words_then_a_result(opened, server):
    accept_all(opened)
    search_words(opened, "a red flower")
    hits = server.search("a red flower")
    opened.expect_hits(hits)
    expect(opened.page.locator("#grid img")).to_have_count(len(hits))
    assert all(
        width > 0 for width in opened.page.locator("#grid img").evaluate_all("all => all.map(i => i.naturalWidth)")
    )
    opened.page.locator("#grid button").nth(2).click()
    expect(opened.page.locator("#like-title")).to_be_focused()
    expect(opened.page.locator("#words")).to_have_value("")
    opened.expect_hits(others_like(server, hits[2]))


def others_like(server, row: str) -> list[str]:
    found = server.search({"id": row})
    assert len(found) == 6 and row in found
    return [each for each in found if each != row]


@pytest.mark.parametrize("row", ["red/0.png", "<img src=x onerror=hacked=1>.png"])
def test_others_like_a_row_and_back(opened, server, row):
    page = opened.page
    accept_all(opened)
    search_words(opened, "a red flower")
    hits = server.search("a red flower")
    opened.expect_hits(hits)
    page.unroute("**/v1/search")
    with page.expect_request(lambda request: request.url.endswith("edge=512")) as large:
        page.locator("#grid button").nth(hits.index(row)).click()
    opened.expect_hits(others_like(server, row))  # all of them, though they fit no better than chance
    assert parse_qs(urlsplit(large.value.url).query)["id"] == [row]
    expect(page.locator("#like-name")).to_have_text(row)
    expect(page.locator("#like-image img")).to_be_visible()
    expect(page.locator("#found")).to_have_text(
        "5 pictures, the best first. Choose one to see it larger, and others like it."
    )
    accept_all(opened)
    page.get_by_role("button", name="Back to what was found").click()
    opened.expect_hits(hits)
    expect(page.locator("#words")).to_have_value("a red flower")
    expect(page.locator("#like")).to_be_hidden()
    page.go_forward()
    opened.expect_hits(others_like(server, row))
    page.reload()
    opened.expect_hits(others_like(server, row))
    expect(page.get_by_role("button", name="Back to what was found")).to_be_hidden()
    page.get_by_role("button", name="Search without this picture").click()
    expect(page.locator("#grid li")).to_have_count(0)
    expect(page.locator("#like")).to_be_hidden()


def test_back_to_the_first_view(visit, server):
    page = visit(server.url).page
    page.locator("#nav-search").click()
    expect(page.locator("#search")).to_be_visible()
    page.go_back()
    expect(page.locator("#classify")).to_be_visible()
    expect(page.locator("#search")).to_be_hidden()
    expect(page.locator("nav a[aria-current]")).to_have_text("Classify")


def test_back_from_another_view_keeps_what_was_found(opened, server):
    accept_all(opened)
    search_words(opened, "a red flower")
    hits = server.search("a red flower")
    opened.expect_hits(hits)
    opened.page.get_by_role("link", name="About").click()
    sent = []
    opened.page.on("request", lambda request: sent.append(request.url))
    opened.page.go_back()
    expect(opened.page.locator("#search")).to_be_visible()
    opened.expect_hits(hits)
    assert not [url for url in sent if "v1/search" in url]


def test_names_are_whole(visit, server):
    opened = visit(f"{server.url}#search", viewport={"width": 360, "height": 740})
    expect(opened.page.locator("#search")).to_be_visible()
    accept_all(opened)
    search_words(opened, "anything")
    expect(opened.page.locator("#grid li")).to_have_count(6)
    cut = "all => all.filter((name) => name.scrollWidth > name.clientWidth).length"
    assert opened.page.locator("#grid .name").evaluate_all(cut) == 0


def test_picture_and_words_together(opened, server):
    accept_all(opened)
    opened.page.set_input_files("#search-file", {"name": "a.png", "mimeType": "image/png", "buffer": png(3)})
    opened.expect_hits(server.search([image_term(3)]))
    search_words(opened, "blue")
    opened.expect_hits(server.search([{"text": "blue"}, image_term(3)]))
    opened.page.get_by_role("button", name="Search without this picture").click()
    opened.page.get_by_role("button", name="Search", exact=True).click()
    opened.expect_hits(server.search("blue"))


def test_dropped_and_pasted_pictures(opened, server):
    accept_all(opened)
    opened.drop(png(1))
    opened.expect_hits(server.search(image_term(1)))
    opened.paste(opened.page.locator("body"), name="b.png", content=png(5))
    opened.expect_hits(server.search(image_term(5)))


def test_number_of_results(opened):
    accept_all(opened)
    search_words(opened, "cat")
    expect(opened.page.locator("#grid li")).to_have_count(6)
    with opened.page.expect_request("**/v1/search") as sent:
        opened.page.locator("#count").select_option("48")
    assert sent.value.post_data_json["top_k"] == 48


def test_nothing_fits(opened, server):
    answer = {"object": "list", "model": "tiny", "data": [], "best_score": 0.1, "lowest_score": 0.2}

    def refuse(route):
        sent = route.request.post_data_json
        if "no_match" in sent:
            assert sent["no_match"] == 0.05
            route.fulfill(json=answer)
        else:
            route.continue_()

    opened.page.route("**/v1/search", refuse)
    search_words(opened, "a submarine")
    expect(opened.page.locator("#found")).to_contain_text("Nothing fits.")
    expect(opened.page.locator("#grid li")).to_have_count(0)
    opened.page.get_by_role("button", name="Show the closest pictures all the same").click()
    opened.expect_hits(server.search("a submarine"))
    expect(opened.page.locator("#found")).to_have_text(
        "6 pictures, the best first. Choose one to see it larger, and others like it."
    )


def test_some_fit(opened, server):
    opened.page.locator("#words").fill("a submarine")
    every = server.post("v1/search", {"query": "a submarine"})

    def keep_one(route):
        is_cut = "no_match" in route.request.post_data_json
        route.fulfill(json={**every, "data": every["data"][:1], "lowest_score": 0.1} if is_cut else every)

    opened.page.route("**/v1/search", keep_one)
    opened.page.locator("#words").press("Enter")
    expect(opened.page.locator("#found")).to_contain_text("1 picture fits. Choose it")
    opened.page.get_by_role("button", name="Show others that fit less well").click()
    opened.expect_hits([hit["id"] for hit in every["data"]])


def test_empty_query(opened):
    opened.page.get_by_role("button", name="Search", exact=True).click()
    expect(opened.page.locator("#search-error")).to_have_text("Write what you look for, or choose a picture.")


def test_ids_are_text(opened):
    accept_all(opened)
    search_words(opened, "anything")
    expect(opened.page.locator("#grid .name", has_text="<img src=x")).to_have_count(1)
    expect(opened.page.locator("#grid img")).to_have_count(6)
    assert opened.page.evaluate("window.hacked") is None


def test_no_index_no_search(visit, start_server):
    opened = visit(f"{start_server().url}#search")
    expect(opened.page.locator("#facts dt").first).to_be_attached()
    expect(opened.page.locator("#nav-search")).to_be_hidden()
    expect(opened.page.locator("#search")).to_be_hidden()
    expect(opened.page.locator("#classify")).to_be_visible()
