# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How a server is named, guarded and bounded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .dynamic_batching import BatchingOptions
from .serving_limits import ServingLimits


ANY_HOST = "*"
MIN_KEY_CHARACTERS, MAX_KEY_CHARACTERS = 16, 4096
_NAME = r"(?P<name>[\w-]+(?:\.[\w-]+)*)\.?|\[(?P<address>[0-9a-f:.]+)\]"
_HOST = re.compile(_NAME, re.ASCII | re.IGNORECASE)
_HOST_HEADER = re.compile(rf"(?:{_NAME})(?::[0-9]{{1,5}})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class ServerOptions:
    """How a server is named, guarded and bounded.

    Args:
        name (`str`): The model's name to clients; never a path.
        api_key (`str`, *optional*): The key that `Authorization: Bearer KEY` must hold; by default none is asked for.
        allowed_hosts (`Sequence[str]`, *optional*): Names that a request's `Host` header may have, without ports,
            besides those of the loopback device; `"*"` allows all. By default there are no others, so that a web
            page cannot reach a server on its reader's own machine by a name that leads there (DNS rebinding).
        allow_image_hosts (`Sequence[str]`, *optional*): Hosts from which images are fetched by their URL; by default
            none.
        limits ([`ServingLimits`], *optional*): Bounds of requests.
        batching ([`BatchingOptions`], *optional*): How requests share the model.

    Raises:
        ValueError: if the name is empty or a path of this machine, the key has not 16 to 4,096 characters or holds
            white space, or a host is none.
    """

    name: str
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: Sequence[str] = ()
    allow_image_hosts: Sequence[str] = ()
    limits: ServingLimits = field(default_factory=ServingLimits)
    batching: BatchingOptions = field(default_factory=BatchingOptions)

    def __post_init__(self):
        if not self.name or self.name != self.name.strip() or not self.name.isprintable():
            raise ValueError(f"The model's name is {self.name!r}; it must be visible characters: give another one.")
        if self.name.startswith(("/", "\\", "~", ".")):
            raise ValueError(f"The model's name is {self.name!r}, a path, which clients must not see: give another.")
        if self.api_key is not None:
            check_api_key(self.api_key)
        for host in self.allowed_hosts:
            if host != ANY_HOST and not _HOST.fullmatch(host):
                raise ValueError(
                    f"The host {host!r} is no name or address, such as search.example.com, without a port; {ANY_HOST} "
                    "allows all."
                )


def check_api_key(key: str) -> None:
    """Raise a `ValueError`, which does not repeat the key, for one that is too short or no header can hold."""
    if len(key) < MIN_KEY_CHARACTERS:
        raise ValueError(
            f"The API key has {len(key)} characters; it needs {MIN_KEY_CHARACTERS} or more: "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'` makes one."
        )
    if len(key) > MAX_KEY_CHARACTERS:
        raise ValueError(f"The API key has {len(key):,} characters; it may have {MAX_KEY_CHARACTERS:,}.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("The API key holds white space or characters that are not ASCII; no client could send it.")


def host_name(host: str) -> str | None:
    """The name or address in a `Host` header, in small letters, without a port; None if it is none."""
    match = _HOST_HEADER.fullmatch(host)
    return None if match is None else (match["name"] or match["address"]).lower()
