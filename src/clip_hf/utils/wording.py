# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Words of messages and tables."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things: `"1 prompt"`, `"2 prompts"`, `"2 classes"` (whose plural is given)."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


__all__ = ["counted"]
