# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Any CLIP behind one interface: ours, transformers', open_clip's and sentence-transformers'."""
