# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`python -m clip_hf` is the command `clip-hf`."""

import sys

from _clip_hf_cli import main


if __name__ == "__main__":
    sys.exit(main())
