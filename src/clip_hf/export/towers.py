# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A model's two towers as modules of one input, as they are exported."""

import torch
from torch import nn
from transformers import PreTrainedModel


WITH_PROJECTION = ("clip_hf", "clip")
"""Types of models whose image tower ends with a projection."""


class ImageTower(nn.Module):
    """Images of shape (batch, 3, height, width) to `image_embeds` and `pooled_features`."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict`: `image_embeds` (batch, projection_dim), L2-normalised; `pooled_features` (batch, dim), those
            before the projection, not normalised, where the model has a projection, else before normalisation.
        """
        if self.model.config.model_type in WITH_PROJECTION:
            options = {"pooled_only": True} if self.model.config.model_type == "clip_hf" else {}
            pooled = self.model.vision_model(pixel_values, **options).pooler_output
            features = self.model.visual_projection(pooled)
        else:
            features = pooled = _features(self.model.get_image_features(pixel_values=pixel_values))
        return {"image_embeds": nn.functional.normalize(features, dim=-1), "pooled_features": pooled}


class TextTower(nn.Module):
    """Tokens of shape (batch, length) to `text_embeds`; padding is on the right."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict`: `text_embeds` (batch, projection_dim), L2-normalised.
        """
        features = _features(self.model.get_text_features(input_ids=input_ids))
        return {"text_embeds": nn.functional.normalize(features, dim=-1)}


def _features(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output
