# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Configuration of CLIP for films: a CLIP's, and the head that joins the embeddings of a clip's frames."""

from huggingface_hub.dataclasses import strict

from .checks_clip_hf import no_such, require_sizes
from .configuration_clip_hf import ClipHFConfig, add_config_class, checked_config


TEMPORAL_HEADS = ("meanP", "Conv_1D", "Transf", "LSTM", "Transf_cls")
"""The heads of ActionCLIP (Wang et al. 2021, section 3.3), as the paper calls them."""

MAX_FRAMES = 2**14  # of a clip; a damaged file must not make a program build for ever
MAX_LAYERS = 1000


@checked_config
@strict
class ClipHFVideoConfig(ClipHFConfig):
    r"""Configuration of a CLIP for films: that of [`ClipHFConfig`], and the temporal head.

    - The config of an image CLIP, ours or transformers', loads as this class, with the default head.

    Args:
        temporal_head (`str`, *optional*, defaults to `"meanP"`): How the embeddings of a clip's frames become one:
            `"meanP"`, `"Conv_1D"`, `"Transf"`, `"LSTM"` or `"Transf_cls"`; see [`ClipHFVideoModel`].
        num_frames (`int`, *optional*, defaults to 8): Frames of a clip: what the video processor takes from a film,
            and the learned positions of `"Transf"` and `"Transf_cls"`.
        temporal_num_layers (`int`, *optional*, defaults to 6): Layers of `"Transf"` and `"Transf_cls"`.

    The other arguments are those of [`ClipHFConfig`].

    Raises:
        ValueError: if there is no such head, a number is not positive, or as for [`ClipHFConfig`].
    """

    model_type = "clip_hf_video"
    _whole_model = "modeling_clip_hf_video.ClipHFVideoModel"
    _auto_classes = ("AutoModel",)
    _task = "zero-shot-video-classification"
    _pipeline = "video_pipeline_clip_hf.ClipHFZeroShotVideoClassificationPipeline"

    temporal_head: str = "meanP"
    num_frames: int = 8
    temporal_num_layers: int = 6

    @property
    def temporal_num_heads(self) -> int:
        """Attention heads of the temporal transformer: 64 channels each, or the next number that divides the width."""
        most = max(self.projection_dim // 64, 1)
        return next(heads for heads in range(most, 0, -1) if self.projection_dim % heads == 0)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read a config file as [`ClipHFConfig`] does; the config of an image CLIP becomes a video model's."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _from_image_config(config_dict), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Build the configuration from the contents of a config file, of an image CLIP too."""
        return super().from_dict(_from_image_config(config_dict), **kwargs)

    @classmethod
    def from_image_config(
        cls,
        config: ClipHFConfig,
        temporal_head: str | None = None,
        num_frames: int | None = None,
        temporal_num_layers: int | None = None,
    ) -> "ClipHFVideoConfig":
        """The configuration of an image CLIP with a temporal head.

        Args:
            config ([`ClipHFConfig`]): The image CLIP's, or a [`ClipHFVideoConfig`].
            temporal_head, num_frames, temporal_num_layers (*optional*): As for the class; by default those of `config`
                or the class.

        Raises:
            ValueError: as for the class.
        """
        if config.model_type not in (ClipHFConfig.model_type, cls.model_type):
            ClipHFConfig.check(config, cls.__name__)
        head = {"temporal_head": temporal_head, "num_frames": num_frames, "temporal_num_layers": temporal_num_layers}
        given = {name: value for name, value in head.items() if value is not None}
        return cls.from_dict(_from_image_config(config.to_dict()) | given)

    def validate_temporal_head(self):
        """Check the head's name and sizes."""
        require_sizes(self)
        if self.temporal_head not in TEMPORAL_HEADS:
            raise ValueError(no_such("temporal head", self.temporal_head, TEMPORAL_HEADS, cutoff=0.4))
        for name, most in (("num_frames", MAX_FRAMES), ("temporal_num_layers", MAX_LAYERS)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be from 1 to {most:,}.")


def _from_image_config(config_dict: dict) -> dict:
    """Give the config of an image CLIP the video model's type; what names the image model's classes goes."""
    if config_dict.get("model_type") not in (ClipHFConfig.model_type, "clip"):
        return config_dict
    dropped = ("architectures", "auto_map", "custom_pipelines")
    return {key: value for key, value in config_dict.items() if key not in dropped} | {
        "model_type": ClipHFVideoConfig.model_type
    }


add_config_class(ClipHFVideoConfig)
