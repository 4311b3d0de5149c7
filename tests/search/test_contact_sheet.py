# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A contact sheet is one HTML file that shows every picture, whatever the files hold or are called."""

import base64
import errno
import io
import os
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from PIL import Image

from clip_hf.search import SheetGroup, SheetItem, write_contact_sheet
from clip_hf.utils.wording import escape_name
from odd_images import make_image


class Sheet(HTMLParser):
    """What a browser finds in a sheet."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.images, self.links, self.texts = [], [], [], []
        self.marked = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.marked += attrs.get("class") == "marked"
        if tag == "img":
            kind, _, data = attrs["src"].partition(",")
            assert kind == "data:image/jpeg;base64"
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            assert image.size == (int(attrs["width"]), int(attrs["height"]))
            self.images.append(image.convert("RGB"))
        if tag == "a":
            self.links.append(attrs["href"])

    def handle_data(self, data):
        self.texts.append(data)


def write(tmp_path: Path, *items: SheetItem, title: str = "Photos") -> Sheet:
    path = tmp_path / "sheet.html"
    write_contact_sheet(path, title, [SheetGroup("A group", items)])
    return Sheet(path)


def save(path, size=(30, 20), colour=(200, 40, 40), **options):
    Image.new("RGB", size, colour).save(os.fsencode(path), **{"format": "PNG", **options})
    return path


def test_pictures_lines_and_links(tmp_path):
    path = save(tmp_path / "red.png", (400, 100))
    sheet = write(tmp_path, SheetItem(path, ["red.png", "0.913"], is_marked=True), SheetItem(None, ["a text"]))
    assert [image.size for image in sheet.images] == [(200, 50)]
    assert np.abs(np.asarray(sheet.images[0]).astype(int) - (200, 40, 40)).max() <= 4
    assert sheet.links == [path.as_uri()] and sheet.marked == 1
    assert {"Photos", "A group", "red.png", "0.913", "a text"} <= set(sheet.texts)
    assert "script" not in sheet.tags and sheet.tags.count("figure") == 2


def test_small_pictures_are_not_enlarged_and_bytes_have_no_link(tmp_path):
    path = save(tmp_path / "red.png")
    sheet = write(tmp_path, SheetItem(path.read_bytes(), ["row 3"]))
    assert sheet.images[0].size == (30, 20) and sheet.links == []


def test_photos_stand_upright_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", (60, 40), format="JPEG", exif=exif)
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    sheet = write(tmp_path, SheetItem(turned, ["a"]), SheetItem(str(tmp_path / "clear.png"), ["b"]))
    assert sheet.images[0].size == (40, 60)
    assert np.asarray(sheet.images[1]).min() >= 252


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((10, 10), 32768, dtype=np.uint16)).save(tmp_path / "grey.png")
    sheet = write(tmp_path, SheetItem(tmp_path / "grey.png", ["grey"]))
    assert np.abs(np.asarray(sheet.images[0]).astype(int) - 128).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_has_a_thumbnail(tmp_path, mode):
    buffer = io.BytesIO()
    make_image(mode, (300, 200)).save(buffer, format="TIFF" if mode == "CMYK" else "PNG")
    assert write(tmp_path, SheetItem(buffer.getvalue(), [mode])).images[0].size == (200, 133)


NAMES = [
    b"<script>alert(1)</script>.png".replace(b"/", b"\\"),
    b"\"onload='alert(1)'.png",
    b"two\nlines.png",
    b"caf\xe9.png",
    b"100% & #1?.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe".encode(),
    "家族\N{ZERO WIDTH JOINER}.png".encode(),
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_text_and_their_links_lead_to_the_file(tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    save(path)
    sheet = write(tmp_path, SheetItem(path, [path.name]), title=path.name)
    assert {"script", "svg"}.isdisjoint(sheet.tags) and sheet.tags.count("img") == 1
    assert sheet.texts.count(escape_name(path.name)) == 3  # title, heading, caption
    (link,) = sheet.links
    assert link.isascii() and urlsplit(link).scheme == "file"
    assert os.path.samefile(unquote_to_bytes(urlsplit(link).path), path)


def test_names_on_one_line():
    assert escape_name("a\nb\tc") == r"a\nb\tc"
    assert escape_name(os.fsdecode(b"caf\xe9")) == r"caf\udce9"
    assert escape_name("café 家") == "café 家"
    assert escape_name("\u202e") == r"\u202e"


def test_pictures_that_cannot_be_read_have_placeholders_with_the_reason(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    pictures = [tmp_path / "empty.png", tmp_path / "text.jpg", tmp_path / "gone.png", "ssh://host/a.png", "a\0b"]
    sheet = write(tmp_path, *(SheetItem(picture, [str(picture)]) for picture in pictures))
    text = "".join(sheet.texts)
    for kind in ("file empty", "not an image", "file missing", "location refused"):
        assert f"{kind}: " in text
    assert not sheet.images and len(sheet.links) == 2  # the files that are there


def test_a_machine_without_files_left_is_an_error_and_leaves_the_old_sheet(tmp_path, monkeypatch):
    path = save(tmp_path / "red.png")
    write(tmp_path, SheetItem(path, ["old"]))
    before = (tmp_path / "sheet.html").read_bytes()

    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("clip_hf.model.image_reading_clip_hf.os.open", fail)
    with pytest.raises(OSError, match="ulimit -n"):
        write(tmp_path, SheetItem(path, ["new"]))
    monkeypatch.undo()
    assert (tmp_path / "sheet.html").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["red.png", "sheet.html"]


def test_pictures_are_streamed_to_the_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")

    def peak(count: int) -> int:
        items = (SheetItem(tmp_path / "noise.png", [str(number)]) for number in range(count))
        tracemalloc.start()
        write_contact_sheet(tmp_path / "sheet.html", "", [SheetGroup("", items)])
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    few = peak(3)
    assert peak(60) < few + 200_000  # a thumbnail of noise takes 40,000 bytes
    assert (tmp_path / "sheet.html").stat().st_size > 60 * 20_000
