# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Draw the pictures of the server's page, docs/images/serve_*.png: its views in Chromium, with the demo's model.

    python benchmarks/draw_page.py outputs/demo/vit/last

The server is `clip-hf serve` with an index of OpenMoji's drawings. `make demo` trains the model.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from clip_hf.data import load_openmoji


ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "examples" / "pictures"
LARGEST = 200_000  # bytes of a picture
DRAWINGS = 900  # in the index
EDGE = 320  # pixels of a drawing


def write_drawings(folder: Path) -> None:
    """Write drawings as files that are named by their captions."""
    rows = load_openmoji(image_size=EDGE)["train"].filter(lambda tones: not tones, input_columns="skin_tones")
    for number in range(0, len(rows), max(1, len(rows) // DRAWINGS)):
        row = rows[number]
        row["image"].save(folder / f"{re.sub('[^a-z0-9]+', '_', row['caption'].lower()).strip('_')}.png")


@contextmanager
def run_server(model: Path, drawings: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run the server until the end of the block; yields its process and address."""
    command = [sys.executable, "-u", "-m", "clip_hf", "serve", str(model), "--port", "0", "--index", str(drawings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout.readline, "")
        address = next(match[0] for match in map(re.compile(r"http://[\w.:]+").search, lines) if match)
        try:
            yield process, address
        finally:
            process.terminate()


def open_page(browser: Browser, url: str, width: int, height: int, **options) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.goto(url)
    page.locator(".ready").wait_for()
    page.locator("#nav-search:not([hidden])").wait_for()
    return page


def classify(page: Page, *pictures: str) -> None:
    """Classify pictures and wait until their bars stand still."""
    page.set_input_files("#files", [PICTURES / name for name in pictures])
    page.locator(".picture .bars li").nth(6 * len(pictures) - 1).wait_for()
    page.wait_for_timeout(600)
    page.evaluate("scrollTo(0, 0)")


def save(page: Page, name: str) -> None:
    """Save what is seen."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = ROOT / "docs" / "images" / f"serve_{name}.png"
    picture.save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        raise RuntimeError(f"{path} has {size:,} bytes, more than {LARGEST:,}")
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {size:,} bytes")


def draw_classify(browser: Browser, url: str) -> None:
    page = open_page(browser, url, 1200, 870)
    classify(page, "dog.png", "cat.png")
    save(page, "classify")


def draw_explain(browser: Browser, url: str) -> None:
    page = open_page(browser, url, 1200, 740)
    classify(page, "dog.png")
    page.get_by_role("button", name="dog", exact=True).click()
    page.locator(".heat").wait_for()
    page.evaluate("scrollTo(0, 0)")
    save(page, "explain")


def draw_search(browser: Browser, url: str) -> None:
    page = open_page(browser, f"{url}/#search", 1200, 900, color_scheme="dark")
    page.locator("#words").fill("smiling face")
    page.locator("#words").press("Enter")
    page.get_by_role("button", name="Show others that fit less well").click()
    page.locator("#grid img").nth(23).wait_for()
    page.locator("#grid button").nth(1).click()
    page.locator("#like-image img").wait_for()
    page.locator("#grid img").nth(23).wait_for()
    page.wait_for_timeout(1500)
    page.evaluate("scrollTo(0, 0)")
    save(page, "search")


def draw_phone(browser: Browser, url: str) -> None:
    page = open_page(browser, url, 390, 844, device_scale_factor=2, has_touch=True, is_mobile=True)
    classify(page, "cat.png")
    page.locator("#label-box").evaluate("element => scrollTo(0, element.offsetTop - 48)")
    save(page, "phone")


def draw_errors(browser: Browser, url: str, server: subprocess.Popen) -> None:
    page = open_page(browser, url, 1200, 870)
    classify(page, "dog.png")
    broken = {"name": "holiday.png", "mimeType": "image/png", "buffer": (PICTURES / "cat.png").read_bytes()[:900]}
    page.set_input_files("#files", broken)
    page.locator(".picture .error:not(:empty)").wait_for()
    server.terminate()
    server.wait()
    page.get_by_role("button", name="Feelings").click()
    page.locator("#notice-server").wait_for()
    page.wait_for_timeout(600)
    page.evaluate("scrollTo(0, 0)")
    save(page, "errors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=Path("outputs/demo/vit/last"), help="the demo's model")
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_drawings(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        with run_server(arguments.model, Path(folder)) as (server, url):
            draw_classify(browser, url)
            draw_explain(browser, url)
            draw_search(browser, url)
            draw_phone(browser, url)
            draw_errors(browser, url, server)
        browser.close()


if __name__ == "__main__":
    main()
