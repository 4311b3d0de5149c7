# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Who can use the page: by keyboard, with a screen reader, on a phone, in light and dark; and what it loads."""

import re

import pytest
from page_visits import page_folder
from playwright.sync_api import expect

from encoding_inputs import png


LABELS = ["cat", "dog", "horse", "bird", "fish", "butterfly"]
VIEWS = ["#classify", "#search", "#about", "docs"]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
# Texts that can be seen and whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
FAINT_TEXTS = """() => {
    const parse = (colour) => [...colour.matchAll(/[\\d.]+/g)].map(([number]) => Number(number));
    const luminance = (colour) => parse(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if ((parse(colour)[3] ?? 1) === 1) return colour;
        }
        return "rgb(0, 0, 0)";
    };
    const faint = [];
    let seen = 0;
    for (const element of document.querySelectorAll("body *")) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!hasText || !element.checkVisibility()) continue;
        const [light, dark] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => b - a);
        seen += 1;
        if ((light + 0.05) / (dark + 0.05) < 4.5) faint.push([element.outerHTML.slice(0, 80), light, dark]);
    }
    return {seen, faint};
}"""
OUTLINE = """() => getComputedStyle(
    document.activeElement.closest(".chips, .searchbar") ?? document.activeElement).outlineStyle"""
NEEDS_NAME = r"- (button|link|textbox|searchbox|combobox|checkbox|region|navigation|img|list)(?! \")"


def open_view(visit, server, view: str, **options):
    """A view with something in it."""
    opened = visit(f"{server.url}{'' if view == 'docs' else view}", **options)
    if view == "#classify":
        opened.add(png(1))
        opened.expect_bars(server.classify(png(1), LABELS))
        opened.page.get_by_role("button", name="fish", exact=True).click()
        expect(opened.page.locator(".heat")).to_be_visible()
    elif view == "#search":
        expect(opened.page.locator("#search")).to_be_visible()
        opened.drop(png(1))
        expect(opened.page.locator("#found")).not_to_be_empty()
    elif view == "#about":
        expect(opened.page.locator("#facts dd").first).to_have_text("tiny")
    else:
        opened.page.goto(f"{server.url}docs")
        expect(opened.page.locator(".route")).not_to_have_count(0)
    return opened


@pytest.mark.parametrize("view", VIEWS)
def test_contrast_and_width_and_names(visit, server, view):
    opened = open_view(visit, server, view, **PHONE)
    assert opened.page.evaluate("document.scrollingElement.scrollWidth") == 360
    for scheme in ("light", "dark"):
        opened.page.emulate_media(color_scheme=scheme)
        background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")
        contrast = opened.page.evaluate(FAINT_TEXTS)
        assert contrast["seen"] > 10 and contrast["faint"] == []
    tree = opened.page.locator("body").aria_snapshot()
    unnamed = [line for line in tree.splitlines() if re.search(NEEDS_NAME, line) and "listitem" not in line]
    assert [line for line in unnamed if not re.search(r"- list:?$", line)] == []
    for landmark in ("banner", "navigation", "main"):
        assert len(re.findall(rf"^ *- {landmark}\b", tree, re.MULTILINE)) == 1
    assert tree.count("- heading") == len(re.findall(r'- heading "[^"]', tree)) > 0


def test_by_keyboard_alone(visit, server):
    opened = visit(server.url)
    opened.page.on("filechooser", lambda _: None)  # the browser reports choosers from now on
    expect(opened.page.locator("#nav-search")).to_be_visible()
    press = opened.page.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(40):
            press("Tab")
            if opened.page.locator(selector).evaluate("element => element === document.activeElement"):
                assert opened.page.evaluate(OUTLINE) == "solid"
                return
        raise AssertionError(f"the tab key does not reach {selector}")

    press("Tab")
    expect(opened.page.locator(".skip")).to_be_focused()
    tab_to("#choose")
    with opened.page.expect_file_chooser() as chooser:
        press("Enter")
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": png(1)}])
    opened.expect_bars(server.classify(png(1), LABELS))
    tab_to("#label")
    opened.page.keyboard.type("tree")
    press("Enter")
    tab_to("#several")
    press("Space")
    opened.expect_bars(server.classify(png(1), [*LABELS, "tree"], multi_label=True))
    opened.page.locator("#nav-search").focus()
    press("Enter")
    expect(opened.page.locator("#search-title")).to_be_focused()
    tab_to("#words")
    opened.page.keyboard.type("cat")
    press("Enter")
    expect(opened.page.locator("#found")).not_to_be_empty()
    tab_to("#found button, #grid li:first-child button")
    press("Enter")
    tab_to("#grid li:first-child button")
    press("Enter")
    expect(opened.page.locator("#like-title")).to_be_focused()


def test_results_are_announced_and_keystrokes_are_not(visit, server):
    opened = visit(server.url)
    announcer = opened.page.locator("#announcer")
    expect(announcer).to_have_attribute("role", "status")
    opened.add(png(1))
    best = ", ".join(f"{label} {score}" for label, score in server.classify(png(1), LABELS)[:3])
    expect(announcer).to_have_text(f"photo.png: {best}")
    opened.page.locator("#label").press_sequentially("tree")
    opened.page.wait_for_timeout(100)
    expect(announcer).to_have_text(f"photo.png: {best}")
    opened.page.locator("#label").press("Enter")
    best = ", ".join(f"{label} {score}" for label, score in server.classify(png(1), [*LABELS, "tree"])[:3])
    expect(announcer).to_have_text(f"photo.png: {best}")


def test_reduced_motion(visit, server):
    opened = open_view(visit, server, "#classify")
    for motion, wanted in (("reduce", "0s"), ("no-preference", "0.35s")):
        opened.page.emulate_media(reduced_motion=motion)
        duration = "element => getComputedStyle(element).transitionDuration"
        assert opened.page.locator(".fill").first.evaluate(duration) == wanted


def test_about(visit, server):
    opened = open_view(visit, server, "#about")
    facts = dict(zip(opened.page.locator("dt").all_text_contents(), opened.page.locator("dd").all_text_contents()))
    model = server.get("v1/models")["data"][0]["facts"]
    assert facts["Parameters"] == f"{model['parameters']:,}" and facts["Pictures in the index"] == "6"
    opened.page.get_by_role("link", name="how to call it").click()
    expect(opened.page.get_by_role("heading", name="POST /v1/classify", exact=True)).to_be_visible()


def test_docs_show_every_route(visit, server):
    opened = open_view(visit, server, "docs")
    shown = [heading.inner_text().split() for heading in opened.page.locator(".route h2").all()]
    assert shown.pop() == ["Errors", "of", "every", "route"]
    is_main = [path.startswith("/v1/") for _, path in shown]
    assert is_main == sorted(is_main, reverse=True) and len(set(is_main)) == 2
    expect(opened.page.locator(".route h3", has_text="Errors")).to_have_count(0)
    paths = server.get("openapi.json")["paths"]
    assert sorted(map(tuple, shown)) == sorted((method.upper(), path) for path in paths for method in paths[path])
    classify = opened.page.locator(".route", has=opened.page.get_by_role("heading", name="POST /v1/classify"))
    expect(classify.locator("dt", has_text=re.compile(r"^labels$")).first).to_be_visible()
    expect(classify.locator("code")).to_contain_text(f"curl '{server.url}v1/classify'")
    expect(classify.locator("code")).to_contain_text('"labels":["red","blue"]')
    expect(opened.page.locator("code", has_text="{name}").first).to_contain_text(f"curl '{server.url}")
    assert opened.page.get_by_text("[object Object]").count() == opened.page.get_by_text("undefined").count() == 0


def test_docs_name_the_key(visit, start_server):
    opened = open_view(visit, start_server(api_key="correct-horse-battery"), "docs", expects_failures=True)
    expect(opened.page.locator("code", has_text="v1/classify")).to_contain_text("-H 'Authorization: Bearer KEY'")
    expect(opened.page.locator("code", has_text="health/live")).not_to_contain_text("Bearer")


def test_files_hold_no_inline_code_and_no_other_origin():
    for path in page_folder().iterdir():
        text = path.read_text(encoding="utf-8")
        others = set(re.findall(r"https?://[\w./-]+", text)) - {
            "http://www.w3.org/2000/svg",
            "http://www.apache.org/licenses/LICENSE-2.0",
        }
        assert not others, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path.name
        if path.suffix == ".html":
            assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]* src=)", text), path.name


def test_picture_on_a_phone_is_in_sight_with_its_name(visit, server):
    page = (opened := visit(server.url, **PHONE)).page
    opened.add(png(1), "temple.jpg")
    opened.expect_bars(server.classify(png(1), LABELS))
    expect(page.locator(".picture")).to_be_in_viewport(ratio=0.99)
    lines = "element => element.getBoundingClientRect().height / parseFloat(getComputedStyle(element).lineHeight)"
    assert page.locator(".picture h2").evaluate(lines) < 1.5
