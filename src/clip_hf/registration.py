# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Make transformers' Auto classes and `pipeline` know our classes.

transformers has no entry point for plugins, so `import clip_hf` calls [`register`]. Nothing changes for other models:
the Auto classes get entries for our model types only, and the pipeline of the zero-shot task is picked by model.

The other direction, that a saved repo names its classes and carries their code, does not depend on this library being
imported: the exported files call `register_for_auto_class` themselves.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.image_feature_extraction import ImageFeatureExtractionPipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from .checkpoints.saving import from_pretrained, processor_from_pretrained
from .export.exported_model import ClipHFExportedConfig, ClipHFExportedModel, check_device
from .model.configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFViTConfig
from .model.configuration_clip_hf_video import ClipHFVideoConfig
from .model.image_processing_clip_hf import ClipHFImageProcessor
from .model.modeling_clip_hf import ClipHFForImageClassification, ClipHFModel
from .model.modeling_clip_hf_base import ClipHFPreTrainedModel
from .model.modeling_clip_hf_resnet import ClipHFResNetModel
from .model.modeling_clip_hf_transformer import ClipHFTextModel, ClipHFViTModel
from .model.modeling_clip_hf_video import ClipHFForVideoClassification, ClipHFVideoModel
from .model.pipeline_clip_hf import (
    ClipHFImageClassificationPipeline,
    ClipHFImageFeatureExtractionPipeline,
    ClipHFZeroShotImageClassificationPipeline,
)
from .model.processing_clip_hf import ClipHFProcessor
from .model.tokenization_clip_hf import ClipHFTokenizer
from .model.video_pipeline_clip_hf import ClipHFZeroShotVideoClassificationPipeline
from .model.video_processing_clip_hf import ClipHFVideoProcessor
from .model_card.card import push_with_model_card


_TASK = "zero-shot-image-classification"
_VIDEO_TASK = "zero-shot-video-classification"

_MODELS = (
    (AutoModel, ClipHFConfig, ClipHFModel),
    (AutoModel, ClipHFTextConfig, ClipHFTextModel),
    (AutoModel, ClipHFViTConfig, ClipHFViTModel),
    (AutoModel, ClipHFResNetConfig, ClipHFResNetModel),
    (AutoModelForZeroShotImageClassification, ClipHFConfig, ClipHFModel),
    (AutoModel, ClipHFExportedConfig, ClipHFExportedModel),
    (AutoModelForZeroShotImageClassification, ClipHFExportedConfig, ClipHFExportedModel),
    (AutoModelForImageClassification, ClipHFConfig, ClipHFForImageClassification),
    (AutoModel, ClipHFVideoConfig, ClipHFVideoModel),
    (AutoModelForZeroShotImageClassification, ClipHFVideoConfig, ClipHFVideoModel),
    (AutoModelForVideoClassification, ClipHFVideoConfig, ClipHFForVideoClassification),
)

_CONFIGS = (
    *(ClipHFConfig, ClipHFTextConfig, ClipHFViTConfig, ClipHFResNetConfig),
    *(ClipHFVideoConfig, ClipHFExportedConfig),
)


class ZeroShotImageClassificationDispatcher(ZeroShotImageClassificationPipeline):
    """What `pipeline("zero-shot-image-classification")` constructs: our pipeline for our models, else the stock one.

    The task's pipeline cannot be replaced through `PIPELINE_REGISTRY.register_pipeline`, which would change the scores
    of other models (SigLIP's are no softmax) and write our pipeline's name into their saved configs.
    """

    # With True, `pipeline` would give up on a tokenizer that it cannot guess before it asks us, although it may come
    # with `processor=`.
    _load_tokenizer = None
    _load_image_processor = None

    def __new__(cls, *args, **kwargs):
        model = kwargs["model"] if "model" in kwargs else args[0]
        # Compare `model_type`, not the class: remote-code models are different classes.
        model_type = getattr(model.config, "model_type", None)
        ours = model_type in (ClipHFConfig.model_type, ClipHFVideoConfig.model_type, ClipHFExportedConfig.model_type)
        if model_type == ClipHFExportedConfig.model_type:
            check_device(kwargs.get("device"))
            if kwargs.get("device") is None:
                kwargs["device"] = "cpu"  # where exported models run; an accelerator would be the default
        for name, auto_class in (("tokenizer", AutoTokenizer), ("image_processor", AutoImageProcessor)):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(kwargs.get("processor"), name, None) if ours else None
                if kwargs[name] is None:
                    _raise_why_there_is_none(model, name, auto_class)
        pipeline_class = ClipHFZeroShotImageClassificationPipeline if ours else ZeroShotImageClassificationPipeline
        return pipeline_class(*args, **kwargs)


class ImageClassificationDispatcher(ImageClassificationPipeline):
    """The same for `pipeline("image-classification")`."""

    def __new__(cls, *args, **kwargs):
        ours, stock = ClipHFImageClassificationPipeline, ImageClassificationPipeline
        return _class_for(args, kwargs, ours, stock)(*args, **kwargs)


class ImageFeatureExtractionDispatcher(ImageFeatureExtractionPipeline):
    """The same for `pipeline("image-feature-extraction")`."""

    def __new__(cls, *args, **kwargs):
        ours, stock = ClipHFImageFeatureExtractionPipeline, ImageFeatureExtractionPipeline
        return _class_for(args, kwargs, ours, stock)(*args, **kwargs)


def _class_for(args: tuple, kwargs: dict, ours: type, stock: type) -> type:
    """`ours` for our models of pictures, also those of a repo's own code; else `stock`."""
    model = kwargs["model"] if "model" in kwargs else args[0]
    types = [config.model_type for config in (ClipHFConfig, ClipHFViTConfig, ClipHFResNetConfig)]
    return ours if getattr(model.config, "model_type", None) in types else stock


def _raise_why_there_is_none(model, name: str, auto_class) -> None:
    """Raise what `pipeline` would have raised for a tokenizer or image processor that it could not load."""
    if model.name_or_path:
        auto_class.from_pretrained(model.name_or_path)
    raise ValueError(
        f"Impossible to guess which {name.replace('_', ' ')} to use: the model was given, not its name. Pass "
        "`tokenizer=...` and `image_processor=...`; for a CLIP, `clip_hf.pipeline(model, processor)` does all of it."
    )


def register() -> None:
    """Register our classes with transformers' Auto classes and its `pipeline` function, and the readers of other
    formats with our classes.

    `import clip_hf` calls it; calling it again changes nothing.
    """
    for config in _CONFIGS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto_class, config, model in _MODELS:
        auto_class.register(config, model, exist_ok=True)
    for config in (ClipHFConfig, ClipHFVideoConfig):
        AutoProcessor.register(config, ClipHFProcessor, exist_ok=True)
    # One class serves whichever backend transformers would pick.
    backends = {"pil": ClipHFImageProcessor, "torchvision": ClipHFImageProcessor}
    for config in (ClipHFConfig, ClipHFViTConfig, ClipHFResNetConfig):
        AutoImageProcessor.register(config, image_processor_classes=dict(backends), exist_ok=True)
        # Every `pipeline` asks for a video processor, of an image CLIP too. transformers derives its name from that of
        # the image processor; were it unknown, users would be asked whether to run the folder's code. Not registered
        # through `AutoVideoProcessor`, which is a dummy where torchvision is not installed.
        VIDEO_PROCESSOR_MAPPING.register(config, {"torchvision": ClipHFVideoProcessor}, exist_ok=True)
    backends = {"pil": ClipHFVideoProcessor, "torchvision": ClipHFVideoProcessor}
    AutoImageProcessor.register(ClipHFVideoConfig, image_processor_classes=backends, exist_ok=True)
    VIDEO_PROCESSOR_MAPPING.register(ClipHFVideoConfig, {"torchvision": ClipHFVideoProcessor}, exist_ok=True)
    # Not for `ClipHFConfig`: a whole model's repo names the class, and for a registered config `AutoTokenizer` would
    # prefer the repo's own code to the installed one when given `trust_remote_code=True`, unlike other Auto classes.
    AutoTokenizer.register(ClipHFTextConfig, tokenizer_class=ClipHFTokenizer, exist_ok=True)
    PIPELINE_REGISTRY.supported_tasks[_TASK]["impl"] = ZeroShotImageClassificationDispatcher
    PIPELINE_REGISTRY.supported_tasks["image-classification"]["impl"] = ImageClassificationDispatcher
    PIPELINE_REGISTRY.supported_tasks["image-feature-extraction"]["impl"] = ImageFeatureExtractionDispatcher
    # Not through `register_pipeline`, which makes `save_pretrained` write into the model's configuration.
    PIPELINE_REGISTRY.supported_tasks[_VIDEO_TASK] = {
        "impl": ClipHFZeroShotVideoClassificationPipeline,
        "pt": (AutoModel,),
        "type": "multimodal",
    }
    # The exported model cannot import the readers of other formats or the model cards, so they are attached here.
    ClipHFPreTrainedModel.read_other_format = staticmethod(from_pretrained)
    ClipHFModel.push_with_card = staticmethod(push_with_model_card)
    ClipHFProcessor.read_other_format = staticmethod(processor_from_pretrained)
