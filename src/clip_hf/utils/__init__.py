# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every part of the library uses: files, JSON, optional packages, messages."""
