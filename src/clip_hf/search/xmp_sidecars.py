# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""XMP sidecars: tags in a small XML file beside a picture, where photo programs look for them.

Tags go into `dc:subject`, the standard's keywords, and into `lr:hierarchicalSubject`, which darktable and Immich read
instead; into `digiKam:TagsList` only where digiKam made one. A sidecar that another program wrote keeps every byte:
new tags are inserted, nothing is written anew.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape

from ..utils.atomic import replaced_file
from ..utils.json_files import check_regular
from ..utils.wording import quoted


XMP_STYLES = {"append": "photo.jpg.xmp", "replace": "photo.xmp"}
"""How a sidecar's name is made, with that of `photo.jpg`. The first is the default: it is unique to the picture, and
darktable, digiKam, Immich, PhotoPrism and exiftool read it. Lightroom, Bridge and Capture One look for the second."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_SUBJECT = "dc:subject"
# The lists of tags: namespace, what parts the levels of a hierarchy, and what a tag has instead.
_PROPERTIES = {
    _SUBJECT: ("http://purl.org/dc/elements/1.1/", "", ""),
    "lr:hierarchicalSubject": ("http://ns.adobe.com/lightroom/1.0/", "|", "/"),
    "digiKam:TagsList": ("http://www.digikam.org/ns/1.0/", "/", "|"),
}
_ONLY_IF_THERE = ("digiKam:TagsList",)
# expat's name of each, with the name of the property.
_NAMES = {f"{namespace} {name.partition(':')[2]}": name for name, (namespace, _, _) in _PROPERTIES.items()}
_DESCRIPTION, _ITEM, _VALUE = f"{_RDF} Description", f"{_RDF} li", f"{_RDF} value"
_LISTS = (f"{_RDF} Bag", f"{_RDF} Seq")
# Only under the first name may tags have characters other than ASCII's: not every reader knows the second.
_ENCODINGS = ("utf-8", "utf8", "us-ascii", "ascii")
# Larger ones hold no tags that a person chose; darktable's with long histories have some hundred KB.
_MOST_BYTES = 2**24
_DEEPEST = 100
# What XML 1.0 cannot hold, and what a list of keywords would show as a new line.
_NOT_IN_XML = re.compile(r"[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A start tag from its `<` to its `>`, which may also stand in a quoted value.
_START_TAG = re.compile(rb"""<([^\s/>]+)(?:[^>"']|"[^"]*"|'[^']*')*>""")
_EMPTY = f"""\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="clip_hf">
 <rdf:RDF xmlns:rdf="{_RDF}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


def sidecar_path(picture: str | os.PathLike, style: str = "append") -> Path:
    """The sidecar of a picture.

    Args:
        picture (`str` or `os.PathLike`): The picture.
        style (`str`, *optional*, defaults to `"append"`): `"append"` for `photo.jpg.xmp`, `"replace"` for `photo.xmp`.

    Returns:
        `Path` beside the picture, whether or not it is there.

    Raises:
        ValueError: if there is no such style.
    """
    if style not in XMP_STYLES:
        raise ValueError(f"The style of sidecars is {style!r}; it must be one of {quoted(XMP_STYLES)}.")
    picture = Path(picture)
    return picture.with_name(f"{picture.name}.xmp") if style == "append" else picture.with_suffix(".xmp")


def check_sidecars(pictures: Iterable[str | os.PathLike], tags: Iterable[str], style: str = "append") -> None:
    """Check that sidecars of this style can be written, before the first one is.

    Raises:
        ValueError: if two pictures would share a sidecar, or a tag has characters that XML cannot hold.
    """
    owners: dict[Path, str | os.PathLike] = {}
    for picture in pictures:
        other = owners.setdefault(sidecar_path(picture, style), picture)
        if other != picture:
            raise ValueError(
                f"{os.fspath(other)!r} and {os.fspath(picture)!r} would share one sidecar. Write them in the style "
                f"'append', whose sidecars have the whole name of the picture: {XMP_STYLES['append']}."
            )
    for tag in tags:
        if _NOT_IN_XML.search(tag):
            raise ValueError(f"The label {tag!r} has a line break or a character that XMP cannot hold; take it out.")


def add_tags(picture: str | os.PathLike, tags: Sequence[str], style: str = "append") -> Path | None:
    """Add tags to a picture's sidecar, which is made if there is none. The picture is not touched.

    Tags that the sidecar has already are not added again, and none is removed: a sidecar does not say who wrote a tag.

    Args:
        picture (`str` or `os.PathLike`): The picture.
        tags (`Sequence[str]`): Its tags, without blanks around them. In
            `lr:hierarchicalSubject`, where `|` parts the levels of a hierarchy, a tag has `/` instead.
        style (`str`, *optional*, defaults to `"append"`): The sidecar's name, see [`sidecar_path`].

    Returns:
        `Path` of the sidecar that was written; None where all tags were there.

    Raises:
        ValueError: if the sidecar cannot be read as XMP in UTF-8, or declares a document type or entities. It is then
            as it was.
        OSError: if it cannot be read or written.
    """
    path = Path(os.path.realpath(sidecar_path(picture, style)))
    tags = [tag for tag in map(str.strip, tags) if tag]
    check_sidecars([picture], tags, style)
    is_new = not path.exists()
    before = _EMPTY if is_new else _read(path)
    after = _insert(before, tags, path)
    if not tags or after == before:
        return None
    with replaced_file(path) as temporary:
        temporary.write_bytes(after)
        if not is_new:
            shutil.copymode(path, temporary)
    return path


def read_tags(sidecar: str | os.PathLike) -> list[str]:
    """The tags in a sidecar's `dc:subject`, in their order.

    Args:
        sidecar (`str` or `os.PathLike`): The sidecar.

    Returns:
        `list[str]`: the tags, without blanks around them.

    Raises:
        ValueError, OSError: as in [`add_tags`].
    """
    return _parse(_read(Path(sidecar)), Path(sidecar)).lists[_SUBJECT].items


def _read(path: Path) -> bytes:
    check_regular(path)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"The sidecar {path} has more than {_MOST_BYTES:,} bytes; it is no sidecar of a picture.")
    return path.read_bytes()


# ----------------------------------------------------------------------------------------------- reading and inserting


@dataclass
class _Element:
    """An element of the file: the offsets of its start tag and its end tag; those of `<empty/>` have no end tag."""

    start: int
    end: int = -1


@dataclass
class _TagList:
    """One of the picture's lists of tags: its rdf:Bag, its items, and what a property without rdf:Bag has instead."""

    bag: _Element | None = None
    items: list[str] = field(default_factory=list)
    empty: _Element | None = None
    is_other: bool = False


class _Sidecar:
    """What must be known of a sidecar to insert tags; expat's offsets are those of the bytes.

    The picture's lists are the properties of the rdf:Descriptions that lie in the rdf:RDF itself: a structure deeper
    inside, such as a region or an ingredient, may have a dc:subject of its own.
    """

    def __init__(self) -> None:
        self.rdf: _Element | None = None
        self.abouts: list[str] = []
        self.lists = {name: _TagList() for name in _PROPERTIES}
        self._stack: list[tuple[str, _Element]] = []
        self._rdf_depth = 0
        self._item: list[str] | None = None
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def parse(self, data: bytes) -> None:
        self._parser.Parse(data, True)

    def _refuse_doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type, which XMP has not and which may name entities")

    def _in_description(self) -> list[str]:
        """The names of the open elements in one of the picture's rdf:Descriptions, from this on; else none."""
        if self.rdf is None or self.rdf.end >= 0:
            return []
        names = [name for name, _ in self._stack[self._rdf_depth :]]
        return names if names[:1] == [_DESCRIPTION] else []

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._stack) >= _DEEPEST:
            raise ValueError(f"its elements are nested more than {_DEEPEST} deep")
        element = _Element(self._parser.CurrentByteIndex)
        self._stack.append((name, element))
        if name == f"{_RDF} RDF" and self.rdf is None:
            self.rdf, self._rdf_depth = element, len(self._stack)
        path = self._in_description()
        if len(path) == 1:
            self.abouts.append(attributes.get(f"{_RDF} about", ""))
            for each in _NAMES.keys() & attributes:
                self.lists[_NAMES[each]].is_other = True
        elif len(path) > 1 and path[1] in _NAMES:
            self._start_in_list(self.lists[_NAMES[path[1]]], path[2:], element, attributes)

    def _start_in_list(
        self, tags: _TagList, path: Sequence[str], element: _Element, attributes: Mapping[str, str]
    ) -> None:
        if not path and not attributes:
            tags.empty = element
        elif len(path) == 1 and path[0] in _LISTS:
            tags.bag = tags.bag or element
        elif len(path) == 2 and path[0] in _LISTS and path[1] == _ITEM:
            self._item = [attributes.get(_VALUE, "")]
        elif len(path) < 2:
            tags.is_other = True

    def _end(self, name: str) -> None:
        path = self._in_description()
        if self._item is not None and len(path) == 4:
            if item := "".join(self._item).strip():
                self.lists[_NAMES[path[1]]].items.append(item)
            self._item = None
        _, element = self._stack.pop()
        element.end = self._parser.CurrentByteIndex

    def _text(self, text: str) -> None:
        path = self._in_description()
        # The text of an item with qualifiers is in an rdf:value.
        if self._item is not None and (len(path) == 4 or path[-1] == _VALUE):
            self._item.append(text)
        elif len(path) == 2 and path[1] in _NAMES and text.strip():
            self.lists[_NAMES[path[1]]].is_other = True


def _parse(data: bytes, path: Path) -> _Sidecar:
    sidecar = _Sidecar()
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4] or _declared_encoding(data) not in _ENCODINGS:
            raise ValueError("it is not in UTF-8")
        sidecar.parse(data)
        if sidecar.rdf is None:
            raise ValueError("it has no rdf:RDF")
        if len(set(sidecar.abouts)) > 1:
            raise ValueError(f"its rdf:Descriptions are about different things: {quoted(sorted(set(sidecar.abouts)))}")
        for name, tags in sidecar.lists.items():
            if tags.is_other and tags.bag is None:
                raise ValueError(f"its {name} has no rdf:Bag")
    except (ValueError, expat.ExpatError) as error:
        raise ValueError(
            f"The sidecar {os.fspath(path)!r} is no XMP that tags can be added to: {error}. It was left as it is; "
            "move it away, and a new one is written."
        ) from error
    return sidecar


def _declared_encoding(data: bytes) -> str:
    declared = re.match(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*encoding\s*=\s*["']([^"']*)""", data)
    return declared[1].decode("latin-1").lower() if declared else "utf-8"


def _insert(data: bytes, tags: Sequence[str], path: Path) -> bytes:
    """The sidecar with the tags that it lacks."""
    sidecar = _parse(data, path)
    insertions: list[tuple[_Element, str]] = []
    new_lists: dict[str, list[str]] = {}
    for name, tag_list in sidecar.lists.items():
        _, separator, instead = _PROPERTIES[name]
        if tag_list.bag is None and name in _ONLY_IF_THERE:
            continue
        # A new list gets the tags that others wrote as well: a program that prefers it would lose them.
        wanted = [*sidecar.lists[_SUBJECT].items, *tags] if tag_list.bag is None else tags
        if separator:
            wanted = [tag.replace(separator, instead) for tag in wanted]
        # An item of a hierarchy is there by its last level, too.
        known = {*tag_list.items, *(item.split(separator or None)[-1] for item in tag_list.items if separator)}
        missing = [tag for tag in dict.fromkeys(wanted) if tag not in known]
        if tag_list.bag is not None:
            rdf = _prefix_at(data, tag_list.bag.start)
            insertions.append((tag_list.bag, _items(rdf, missing)))
        elif missing and tag_list.empty is not None:
            bag = f'<rdf:Bag xmlns:rdf="{_RDF}">\n{_items("rdf:", missing)}</rdf:Bag>'
            insertions.append((tag_list.empty, bag))
        elif missing:
            new_lists[name] = missing
    if new_lists:
        about = sidecar.abouts[0] if sidecar.abouts else ""
        insertions.append((sidecar.rdf, _description(_prefix_at(data, sidecar.rdf.start), about, new_lists)))
    encoding = "utf-8" if _declared_encoding(data) == "utf-8" else "ascii"
    for element, text in sorted(insertions, key=lambda insertion: insertion[0].end, reverse=True):
        data = _insert_into(data, element, text.encode(encoding, "xmlcharrefreplace"))
    return data


def _items(rdf: str, tags: Iterable[str]) -> str:
    return "".join(f"<{rdf}li>{escape(tag)}</{rdf}li>\n" for tag in tags)


def _description(rdf: str, about: str, lists: Mapping[str, Sequence[str]]) -> str:
    """One more rdf:Description of the picture; XMP allows several."""
    lines = []
    for name, tags in lists.items():
        items = (f"     <{rdf}li>{escape(tag)}</{rdf}li>" for tag in tags)
        bag = [f"    <{rdf}Bag>", *items, f"    </{rdf}Bag>"]
        lines += [f'   <{name} xmlns:{name.partition(":")[0]}="{_PROPERTIES[name][0]}">', *bag, f"   </{name}>"]
    # An attribute needs a prefix even where elements have none.
    attribute = f'{rdf}about="' if rdf else f'xmlns:r="{_RDF}" r:about="'
    about = escape(about, {'"': "&quot;"})
    return "\n".join([f'  <{rdf}Description {attribute}{about}">', *lines, f"  </{rdf}Description>\n "])


def _prefix_at(data: bytes, start: int) -> str:
    """The prefix of the element that starts here, with its colon; empty for the default namespace."""
    prefix, colon, _ = _START_TAG.match(data, start)[1].decode().rpartition(":")
    return prefix + colon


def _insert_into(data: bytes, element: _Element, text: bytes) -> bytes:
    """The data with `text` before an element's end tag; `<empty/>` gets an end tag."""
    tag = _START_TAG.match(data, element.start)
    if not text:
        return data
    if not tag[0].endswith(b"/>"):
        return data[: element.end] + text + data[element.end :]
    return data[: tag.end() - 2] + b">" + text + b"</" + tag[1] + b">" + data[tag.end() :]
