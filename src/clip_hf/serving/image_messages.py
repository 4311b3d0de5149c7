# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a client is told of an image that cannot be used: a sentence by kind, never the text of a decoder.

The texts of decoders are for the operator's log. They may hold addresses in memory (CVE-2026-22778) and paths.
"""

from ..model.image_reading_clip_hf import UnreadableImage
from .request_errors import RequestError


_SENTENCES = {
    "EXIF damaged": "its EXIF orientation cannot be read. Save it again without EXIF data.",
    "file damaged": "the file is damaged and cannot be decoded. Save it again, as JPEG or PNG.",
    "file empty": "the file is empty.",
    "file too large": "the file has more bytes than this server takes. Send a smaller one.",
    "file truncated": "the file ends too early. Send it again.",
    "format not supported": "this variant of its format is not supported. Send it as JPEG or PNG.",
    "image too large": "it has more pixels than this server decodes. Send a smaller one.",
    "image too small": "it has no pixels, or fewer than the model takes. Send a larger one.",
    "more than 8 bits": "it has more than 8 bits a channel, which this model does not take. Send it with 8 bits.",
    "not an image": "it is not an image in a format that this server reads. Send it as JPEG or PNG.",
}
_OTHER = "it cannot be read as an image. Send it as JPEG or PNG."


def describe_unreadable(error: UnreadableImage) -> str:
    """Say what is wrong with an image, by the kind of the error alone."""
    return _SENTENCES.get(error.kind, _OTHER)


def find_unreadable(error: BaseException | None) -> UnreadableImage | None:
    """The [`UnreadableImage`] that an error is, or that caused it; None if there is none."""
    while error is not None and not isinstance(error, UnreadableImage):
        error = error.__cause__
    return error


def unreadable_image_error(error: UnreadableImage, where: str) -> RequestError:
    """Build the answer for an image that cannot be used: status 400, and a code that is the kind of the error."""
    kind = error.kind if error.kind in _SENTENCES else "image unreadable"
    code = "image_" + kind.lower().removeprefix("image ").replace(" ", "_")
    return RequestError(
        400, f"The image at `{where}` cannot be used: {describe_unreadable(error)}", code=code, param=where
    )
