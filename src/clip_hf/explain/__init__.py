# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where a CLIP looks, and what it sees at each place: relevance maps, dense features, text spans."""

__all__: list[str] = []
