# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model of a training on films: any CLIP with a temporal head, and its processor."""

from transformers.utils import logging

from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel
from ..model.video_processing_clip_hf import ClipHFVideoProcessor


logger = logging.get_logger(__name__)


def as_video_model(
    model: ClipHFModel, num_frames: int, temporal_head: str | None = None, temporal_num_layers: int | None = None
) -> ClipHFVideoModel:
    """A video model of a CLIP, with the head that is asked for; what a video model has learned stays if it can.

    Args:
        model ([`ClipHFModel`]): Any CLIP; its towers become those of the video model. The head of a
            [`ClipHFVideoModel`] stays, unless another is asked for.
        num_frames (`int`): Frames of a clip.
        temporal_head, temporal_num_layers (*optional*): As in [`ClipHFVideoConfig`]; by default those of the model.

    Raises:
        ValueError: if there is no such head, or a head has learned positions of another number of frames.
    """
    if not isinstance(model, ClipHFVideoModel):
        return ClipHFVideoModel.from_clip(model, temporal_head, num_frames, temporal_num_layers)
    config = model.config
    asked = {"temporal_head": temporal_head, "temporal_num_layers": temporal_num_layers}
    changed = {name: value for name, value in asked.items() if value not in (None, getattr(config, name))}
    if changed:
        if model.temporal_parameters():
            new = ", ".join(f"{name} {value}" for name, value in changed.items())
            logger.warning(f"The model's temporal head, {config.temporal_head}, is replaced by a new one: {new}.")
        return ClipHFVideoModel.from_clip(model, temporal_head, num_frames, temporal_num_layers)
    if num_frames != config.num_frames:
        if hasattr(model.temporal_head, "position_embedding"):
            raise ValueError(
                f"`num_frames` is {num_frames}, and the model's head {config.temporal_head} has learned positions of "
                f"{config.num_frames} frames: give num_frames={config.num_frames}, or another `temporal_head`."
            )
        config.num_frames = num_frames
    return model


def as_video_processor(image_processor: ClipHFImageProcessor, num_frames: int) -> ClipHFVideoProcessor:
    """A video processor whose frames have the pixels of an image processor."""
    settings = {name: value for name, value in image_processor.to_dict().items() if name != "image_processor_type"}
    return ClipHFVideoProcessor.from_dict(settings | {"num_frames": num_frames})
