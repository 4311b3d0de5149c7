# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Patch dropout in a training (FLIP, Li et al. 2023): most steps see some of the patches, the last ones all."""

import math

from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_transformer import ClipHFViTModel


class PatchDropout:
    """Sets how many patches a model's image tower leaves out, step by step.

    Args:
        model ([`ClipHFModel`]): The model to train, not wrapped.
        share (`float`): Share of the patches to leave out, at least 0 and less than 1.
        num_steps (`int`): Steps of the training.
        unmasked_share (`float`, *optional*, defaults to 0.0): The last steps that see all patches, as a share of all
            steps, rounded up.

    Raises:
        ValueError: if the image tower has no patches.
    """

    def __init__(self, model: ClipHFModel, share: float, num_steps: int, unmasked_share: float = 0.0):
        if share and not isinstance(model.vision_model, ClipHFViTModel):
            raise ValueError(
                f"`patch_dropout` is {share}, and the image tower is a {type(model.vision_model).__name__}, whose "
                "convolutions need the whole image: it is of Vision Transformers only. Leave it out."
            )
        self.model, self.share = model, share
        # Rounded first: 0.1 * 30 is a little more than 3.
        self.masked_steps = num_steps - math.ceil(round(unmasked_share * num_steps, 6))

    def start_step(self, step: int) -> None:
        """Set the share for a step, counted from 0."""
        if self.share:
            self.model.vision_model.patch_dropout = self.share if step < self.masked_steps else 0.0
