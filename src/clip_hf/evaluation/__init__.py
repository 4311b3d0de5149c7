# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's evaluations (Radford et al. 2021, section 3) for any CLIP of the Hugging Face world."""
