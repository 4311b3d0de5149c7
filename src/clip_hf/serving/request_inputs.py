# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Read the texts and images of a request: from JSON values, and from forms with files."""

from dataclasses import dataclass, field


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
