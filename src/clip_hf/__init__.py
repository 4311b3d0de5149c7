# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
CLIP as the paper describes it, as a Hugging Face library.

Importing it registers its classes with transformers: `AutoModel`, `AutoProcessor`, `pipeline` and the others then load
them by the `model_type` or class name in a repo.
"""

from .model.architectures_clip_hf import ARCHITECTURES
from .model.configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFViTConfig
from .model.configuration_clip_hf_video import ClipHFVideoConfig
from .model.image_processing_clip_hf import ClipHFImageProcessor
from .model.image_reading_clip_hf import ImageLimits, UnreadableImage, open_image
from .model.loss_clip_hf import contrastive_loss, gather_with_grad, sigmoid_loss
from .model.modeling_clip_hf import (
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFOutput,
    ClipHFTextEncoder,
    ClipHFTextModelOutput,
    ClipHFTextModelWithProjection,
    ClipHFVisionModelOutput,
    ClipHFVisionModelWithProjection,
)
from .model.modeling_clip_hf_base import ClipHFPreTrainedModel
from .model.modeling_clip_hf_resnet import ClipHFResNetModel
from .model.modeling_clip_hf_transformer import ClipHFTextModel, ClipHFViTModel
from .model.modeling_clip_hf_video import ClipHFForVideoClassification, ClipHFVideoModel, ClipHFVideoOutput
from .model.pipeline_clip_hf import ClipHFZeroShotImageClassificationPipeline
from .model.processing_clip_hf import ClipHFProcessor
from .model.prompts_clip_hf import prompt_set_names
from .model.tokenization_clip_hf import ClipHFTokenizer
from .model.video_loss_clip_hf import same_label_loss
from .model.video_pipeline_clip_hf import ClipHFZeroShotVideoClassificationPipeline
from .model.video_processing_clip_hf import ClipHFVideoProcessor
from .model.zero_shot_clip_hf import build_text_classifier, load_prompt_set
from .registration import register
from .zero_shot_pipeline import pipeline


__version__ = "0.1.0"  # setup.cfg reads it; `_clip_hf_cli.VERSION` repeats it

__all__ = [
    "ARCHITECTURES",
    "ClipHFConfig",
    "ClipHFForImageClassification",
    "ClipHFForVideoClassification",
    "ClipHFImageProcessor",
    "ClipHFModel",
    "ClipHFOutput",
    "ClipHFPreTrainedModel",
    "ClipHFProcessor",
    "ClipHFResNetConfig",
    "ClipHFResNetModel",
    "ClipHFTextConfig",
    "ClipHFTextEncoder",
    "ClipHFTextModel",
    "ClipHFTextModelOutput",
    "ClipHFTextModelWithProjection",
    "ClipHFTokenizer",
    "ClipHFViTConfig",
    "ClipHFViTModel",
    "ClipHFVideoConfig",
    "ClipHFVideoModel",
    "ClipHFVideoOutput",
    "ClipHFVideoProcessor",
    "ClipHFVisionModelOutput",
    "ClipHFVisionModelWithProjection",
    "ClipHFZeroShotImageClassificationPipeline",
    "ClipHFZeroShotVideoClassificationPipeline",
    "ImageLimits",
    "UnreadableImage",
    "__version__",
    "build_text_classifier",
    "contrastive_loss",
    "gather_with_grad",
    "load_prompt_set",
    "open_image",
    "pipeline",
    "prompt_set_names",
    "register",
    "same_label_loss",
    "sigmoid_loss",
]

register()
