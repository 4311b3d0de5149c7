# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the subcommands of `clip-hf` do, one module each; `_clip_hf_cli` has the parser and their arguments."""

from _clip_hf_cli import main


__all__ = ["main"]
