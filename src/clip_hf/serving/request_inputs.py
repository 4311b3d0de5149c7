# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Read the texts and images of a request: from JSON values, and from forms with files."""

import asyncio
import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from ..utils.wording import quoted
from .image_fetching import ByteBudget, ImageFetcher
from .request_errors import RequestError
from .serving_limits import ServingLimits


_DATA_URI = re.compile(r"data:image/", re.IGNORECASE)
_DATA_URI_HEADER = re.compile(r"data:image/[a-z0-9.+-]{1,64}(;[a-z0-9.+=_-]{1,64}){0,4};base64", re.IGNORECASE)
_URL_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}:", re.IGNORECASE)
_HTTP = re.compile(r"https?:", re.IGNORECASE)
_ALLOWED = 'an item is a text, {"text": TEXT} or {"image": DATA URI OR BASE64 TEXT}'
_TOKENS = "token ids are not taken, because they belong to another tokenizer. Send the text itself"
_TYPE_NAMES = {bool: "true or false", int: "a number", float: "a number", list: "a list", type(None): "null"}
_LARGE = 2**16  # bytes of a form or characters of base64 text that would hold up the event loop

# Names of a form's parts.
_IMAGE_PARTS = ("image", "images", "file", "files")
_LISTS = ("labels", "filters")
_JSON_PARTS = ("dimensions", "multi_label", "no_match", "threshold", "top_k", "truncate")
_JSON_START = re.compile(r'\s*+(\[|\{\s*")')  # `{} in the snow` is a template
_MAX_PART_BYTES = 2**20


@dataclass(frozen=True)
class TextItem:
    """A text of a request.

    Args:
        text (`str`): The text, valid Unicode.
        where (`str`): Its place in the request, such as `"input[3]"`.
    """

    text: str
    where: str


@dataclass(frozen=True)
class ImageItem:
    """An image of a request.

    Args:
        data (`bytes`): The bytes of an image file; never a path. They are not shown, so that no log holds them.
        where (`str`): Its place in the request, such as `"input[3]"`.
    """

    data: bytes = field(repr=False)
    where: str


Item = TextItem | ImageItem


# ---------------------------------------------------------------------------------------------------------------- JSON


@dataclass(frozen=True)
class _ImageText:
    """An image that is not read yet: its base64 text, or its URL."""

    text: str
    where: str
    is_url: bool


async def read_items(
    value: Any,
    where: str,
    limits: ServingLimits,
    fetcher: ImageFetcher,
    modality: Literal["text", "image"] | None = None,
) -> list[Item]:
    """Read the texts and images of a field.

    Args:
        value (`Any`): A text, `{"text": ...}`, `{"image": ...}`, an [`ImageItem`] of a form, or a list of these. An
            image is a data URI of an image, the base64 text of its file (the standard alphabet, padded, without line
            breaks), or an http(s) URL if the fetcher allows its host. A string is a text, unless it begins with
            `data:image/` or `modality` says otherwise. No string is ever opened as a path.
        where (`str`): The name of the field, such as `"input"`.
        limits ([`ServingLimits`]): Bounds of the number of items, the length of a text, and the bytes fetched.
        fetcher ([`ImageFetcher`]): Fetches what URLs name.
        modality (`"text"` or `"image"`, *optional*): What plain strings are. Items of the other kind are refused.

    Returns:
        `list[Item]`: The items, in their order.

    Raises:
        RequestError: if the value is none of these, or exceeds a limit.
    """
    places = [(value, where)]
    if isinstance(value, list):
        _check_list(value, where, limits)
        places = [(each, f"{where}[{index}]") for index, each in enumerate(value)]
    items = [_parse_item(each, place, limits, modality) for each, place in places]
    images = [item for item in items if isinstance(item, _ImageText)]
    encoded = [image for image in images if not image.is_url]
    if sum(len(image.text) for image in encoded) > _LARGE:
        found = await asyncio.to_thread(_decode_all, encoded)
    else:
        found = _decode_all(encoded)
    found |= await _fetch_all([image for image in images if image.is_url], fetcher, limits)
    return [found.get(item, item) for item in items]


def count_items(value: Any, where: str, limits: ServingLimits) -> int:
    """Count the texts and images of a field, before they are read.

    Raises:
        RequestError: with status 400, if they are more than a request may have.
    """
    count = len(value) if isinstance(value, list) else 1
    if count > limits.max_items:
        raise _invalid(
            where,
            f"has {count:,} items; a request may have {limits.max_items:,}. Send them in several requests",
            "too_many_items",
        )
    return count


def check_text(text: str, where: str, limits: ServingLimits) -> None:
    """Check that a text is not empty, not longer than the limit, and valid Unicode.

    Raises:
        RequestError: if it is not.
    """
    if not text:
        raise _invalid(where, "is empty; give a text", "empty_input")
    if len(text) > limits.max_text_characters:
        raise _invalid(
            where, f"has {len(text):,} characters; a text may have {limits.max_text_characters:,}", "text_too_long"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _invalid(where, "is not valid Unicode: it holds half of a surrogate pair", "invalid_text") from None


def _check_list(values: list, where: str, limits: ServingLimits) -> None:
    if not values:
        raise _invalid(where, "is an empty list; give at least one item", "empty_input")
    count_items(values, where, limits)
    if _are_token_ids(values):
        raise _invalid(where, f"is a list of numbers; {_TOKENS}", "token_ids_not_taken")


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _parse_item(value: Any, where: str, limits: ServingLimits, modality: str | None) -> Item | _ImageText:
    kind, content = modality or "text", value
    if isinstance(value, dict):
        if value.keys() not in ({"text"}, {"image"}):
            keys = quoted(sorted(str(key)[:50] for key in value)) or "no key"
            raise _invalid(where, f"has {keys}; {_ALLOWED}", "invalid_item")
        [(kind, content)] = value.items()
    elif isinstance(value, ImageItem) or (isinstance(value, str) and modality is None and _DATA_URI.match(value)):
        kind = "image"
    if modality is not None and kind != modality:
        raise _invalid(where, f"holds an item of kind {kind!r}, and `modality` is {modality!r}", "wrong_modality")
    if isinstance(content, ImageItem) and kind == "image":
        return content
    if _are_token_ids(content):
        raise _invalid(where, f"is a list of numbers; {_TOKENS}", "token_ids_not_taken")
    if not isinstance(content, str):
        raise _invalid(where, f"is {_TYPE_NAMES.get(type(content), 'no text')}; {_ALLOWED}", "invalid_item")
    if kind == "image":
        return _parse_image(content, where)
    check_text(content, where, limits)
    return TextItem(content, where)


def _parse_image(text: str, where: str) -> _ImageText:
    if not text:
        raise _invalid(where, "is empty; give an image", "empty_input")
    if text[:5].lower() == "data:":
        header, comma, content = text.partition(",")
        if not comma or not _DATA_URI_HEADER.fullmatch(header):
            raise _invalid(
                where, "is a data URI, but not of the form data:image/TYPE;base64,BASE64 TEXT", "invalid_image"
            )
        return _ImageText(content, where, is_url=False)
    if not _URL_SCHEME.match(text):
        return _ImageText(text, where, is_url=False)
    if not _HTTP.match(text):
        raise _invalid(
            where, "is an address of another kind than http(s); send the image as a data URI", "url_not_allowed"
        )
    return _ImageText(text, where, is_url=True)


def _decode_all(images: Sequence[_ImageText]) -> dict[_ImageText, ImageItem]:
    return {image: ImageItem(_decode_base64(image), image.where) for image in images}


def _decode_base64(image: _ImageText) -> bytes:
    text = image.text
    try:
        if len(text) % 4 or text.endswith("==="):  # which `validate` lets pass
            raise ValueError
        return base64.b64decode(text, validate=True)
    except ValueError:  # letters beyond ASCII raise one too
        raise _invalid(
            image.where,
            "is not the base64 text of a file: it takes the standard alphabet (with + and /), padded with =, without "
            "line breaks. Paths are not opened",
            "invalid_base64",
        ) from None


async def _fetch_all(
    images: Sequence[_ImageText], fetcher: ImageFetcher, limits: ServingLimits
) -> dict[_ImageText, ImageItem]:
    if not images:
        return {}
    budget = ByteBudget(limits.max_body_bytes)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetcher.fetch(image.text, image.where, budget)) for image in images]
    except ExceptionGroup as errors:  # the first that failed; the others were cancelled
        raise errors.exceptions[0] from None
    return {image: ImageItem(task.result(), image.where) for image, task in zip(images, tasks)}


def _invalid(where: str, problem: str, code: str) -> RequestError:
    return RequestError(400, f"`{where}` {problem}.", code=code, param=where)


# --------------------------------------------------------------------------------------------------------------- forms


async def read_form(request: Request, limits: ServingLimits, items: str = "images") -> dict[str, Any]:
    """Read a form (`multipart/form-data`) into the dictionary that the same request has as JSON.

    - Files named `image`, `images`, `file` or `files` become [`ImageItem`]s of the list `items`. So do the texts of
      such parts: data URIs, base64 texts and URLs. Texts named `text`, or like `items`, are its texts, in their order.
    - A file named `query` is an [`ImageItem`].
    - Names may end with `[]`, as some clients have it for lists.
    - `labels` and `filters` are lists, from repeated parts or one JSON list.
    - `dimensions`, `multi_label`, `no_match`, `threshold`, `top_k` and `truncate` are read as JSON, and so is any
      other part that is a list or an object of JSON.
    - Any other part is text, and a list of texts if it is repeated.

    The files are kept in memory: the body of the request must be bounded already.

    Args:
        request (`starlette.requests.Request`): The request.
        limits ([`ServingLimits`]): `max_prompts` bounds the number of parts.
        items (`str`, *optional*, defaults to `"images"`): Name of the list: `"input"` for embeddings, `"candidates"`
            for ranking.

    Raises:
        RequestError: if the form is not valid, or has too many or too large parts.
    """
    parser = _FormParser(request.headers.get("Content-Type", ""), limits)
    async for chunk in request.stream():
        if len(chunk) > _LARGE:
            await asyncio.to_thread(parser.write, chunk)
        else:
            parser.write(chunk)
    values: dict[str, list] = {}
    for part in parser.finish():
        if part.name in _IMAGE_PARTS or part.name in ("text", items):
            listed = values.setdefault(items, [])
            listed.append(_read_item_part(part, f"{items}[{len(listed)}]"))
        else:
            is_picture = part.is_file and part.name == "query"
            value = ImageItem(bytes(part.data), "query") if is_picture else _read_field(part)
            listed = values.setdefault(part.name, [])
            listed += value if part.name in _LISTS and isinstance(value, list) else [value]
    are_lists = {items, *_LISTS}
    return {name: each[0] if len(each) == 1 and name not in are_lists else each for name, each in values.items()}


@dataclass
class _Part:
    name: str
    is_file: bool
    data: bytearray

    def text(self) -> str:
        if self.is_file:
            raise _invalid(self.name, "is a file; send it as a field of the form", "invalid_form")
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise _invalid(self.name, "is not UTF-8: send UTF-8", "invalid_form") from None


def _read_item_part(part: _Part, where: str) -> Any:
    if part.is_file and part.name != "text":
        return ImageItem(bytes(part.data), where)
    return {"image" if part.name in _IMAGE_PARTS else "text": part.text()}


def _read_field(part: _Part) -> Any:
    text = part.text()
    if part.name not in _JSON_PARTS:
        return _read_json_or_text(part.name, text)
    try:
        return orjson.loads(text)
    except ValueError:
        raise _invalid(
            part.name, 'cannot be read as JSON; write true or false, 3 or 0.5, or ["a", "b"]', "invalid_form"
        ) from None


def _read_json_or_text(name: str, text: str) -> Any:
    """A list or object of JSON (`labels` and `filters` take lists only), else the text, such as `[new] cat`."""
    if not _JSON_START.match(text):
        return text
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    return text if name in _LISTS and not isinstance(value, list) else value


class _FormParser:
    """Collects the parts of a form in memory, within bounds."""

    def __init__(self, content_type: str, limits: ServingLimits):
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise RequestError(
                400,
                "The form has no boundary: send `Content-Type: multipart/form-data; boundary=...`.",
                code="invalid_form",
            )
        self._parts: list[_Part] = []
        self._max_parts = limits.max_prompts
        self._is_complete = False
        names = ("part_begin", "part_data", "header_field", "header_value", "header_end", "headers_finished", "end")
        callbacks = {f"on_{name}": getattr(self, f"_on_{name}") for name in names}
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)
        except FormParserError:
            raise self._error() from None

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise self._error() from None

    def finish(self) -> list[_Part]:
        if not self._is_complete:
            raise self._error()
        return self._parts

    def _error(self) -> RequestError:
        return RequestError(
            400, "The form cannot be read: it is damaged, or ends before its last boundary.", code="invalid_form"
        )

    def _on_part_begin(self) -> None:
        if len(self._parts) == self._max_parts:
            raise RequestError(
                400,
                f"The form has more parts than the {self._max_parts:,} allowed.",
                code="too_many_parts",
            )
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        try:
            name = options[b"name"].decode().removesuffix("[]")
        except (KeyError, UnicodeDecodeError):
            raise self._error() from None
        self._parts.append(_Part(name, b"filename" in options, bytearray()))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        part.data += data[start:end]
        if not part.is_file and len(part.data) > _MAX_PART_BYTES:
            raise _invalid(
                part.name[:50], f"has more than {_MAX_PART_BYTES:,} bytes; send images as files", "part_too_large"
            )

    def _on_end(self) -> None:
        self._is_complete = True
