# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The exportable model: flat files that are copied beside saved weights and run there without clip_hf."""
