# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Bounds of what a server takes from its clients."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServingLimits:
    """Bounds of one request, and of all requests that are being answered. A request beyond its own is refused with
    status 400, 408 or 413; one that is too many with 429 and `Retry-After`.

    Args:
        max_body_bytes (`int`, *optional*, defaults to 33,554,432): Bytes of a request's body.
        max_items (`int`, *optional*, defaults to 2,048): Texts and images in a request.
        max_prompts (`int`, *optional*, defaults to 20,000): Labels times templates of a request.
        max_prompt_characters (`int`, *optional*, defaults to 4,000,000): Characters of all these prompts.
        max_text_characters (`int`, *optional*, defaults to 8,192): Characters of a text, label or template. (The
            model's context is shorter: texts that do not fit it are refused, or cut if the client says `truncate`.)
        max_image_pixels (`int`, *optional*, defaults to 64,000,000): Pixels of an image.
        max_seconds (`float`, *optional*, defaults to 60): Time from a request's first byte to its answer.
        max_header_seconds (`float`, *optional*, defaults to 10): Time in which a request's headers must arrive.
        max_body_seconds (`float`, *optional*, defaults to 30): Time in which a request's body must arrive.
        max_pending_requests (`int`, *optional*, defaults to 1,024): Requests that are being answered.
        max_pending_items (`int`, *optional*, defaults to 32,768): Texts and images of these.
        max_pending_bytes (`int`, *optional*, defaults to 536,870,912): Bytes of their bodies.
        max_connections (`int`, *optional*, defaults to 4,096): Open connections. For a new one beyond these the
            one that is idle for the longest time is closed; if none is idle, the new one is.

    Raises:
        ValueError: if a limit is not greater than 0, or those of one request exceed those of all.
    """

    max_body_bytes: int = 32 * 2**20
    max_items: int = 2048
    max_prompts: int = 20_000
    max_prompt_characters: int = 4_000_000
    max_text_characters: int = 8192
    max_image_pixels: int = 64_000_000
    max_seconds: float = 60.0
    max_header_seconds: float = 10.0
    max_body_seconds: float = 30.0
    max_pending_requests: int = 1024
    max_pending_items: int = 32_768
    max_pending_bytes: int = 2**29
    max_connections: int = 4096

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"`{name}` is {value!r}; it must be a number greater than 0.")
        for one, every in (("max_items", "max_pending_items"), ("max_prompts", "max_pending_items")):
            self._check_order(one, every)
        self._check_order("max_body_bytes", "max_pending_bytes")

    def _check_order(self, one: str, every: str) -> None:
        if getattr(self, one) > getattr(self, every):
            raise ValueError(
                f"`{one}` is {getattr(self, one):,} and `{every}` {getattr(self, every):,}: no request of that size "
                f"would ever be taken. Raise `{every}`."
            )
