# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training: the paper's optimiser and what keeps the temperature in bounds."""

from .optimization import adamw_from_paper, adamw_parameter_groups, clamp_logit_scale_


__all__ = ["adamw_from_paper", "adamw_parameter_groups", "clamp_logit_scale_"]
