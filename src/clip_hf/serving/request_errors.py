# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is wrong with a request, in the shape in which OpenAI's API says it."""

import math
import re
from typing import Any


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_MOST_REPEATED = 100
"""Characters of what a client sent that a message repeats."""
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")""", re.DOTALL)
_MAX_MESSAGE = 1000


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status (`int`): The HTTP status: 400 to 499, or 503.
        message (`str`): What was given, what is allowed and what to do, for the client to read. What it quotes is cut
            to 100 characters, and the whole to 1,000.
        code (`str`): The kind of error in one word with underscores, such as `"image_too_large"`.
        param (`str`, *optional*): The part of the request that is wrong, such as `"input[3]"`.
        retry_after (`float`, *optional*): Seconds after which another try may succeed, for 429 and 503.
    """

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after: float | None = None
    ):
        message = _cut(_QUOTED.sub(lambda match: _cut(match[0], _MOST_REPEATED), message), _MAX_MESSAGE)
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param = None if param is None else _cut(param, _MOST_REPEATED)
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The body of the answer, as JSON has it."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers of the answer: `Retry-After` in whole seconds where another try may succeed."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
