# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP for films: the embeddings of a clip's frames become one, through one of ActionCLIP's temporal heads.

Shapes: `batch` clips of `frames` frames each; `dim` is `projection_dim`, the width of the shared space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_clip_hf import ClipHFViTConfig
from .configuration_clip_hf_video import ClipHFVideoConfig
from .linear_clip_hf import apply_linear
from .modeling_clip_hf import (
    ClipHFModel,
    ClipHFOutput,
    build_vision_tower,
    build_visual_projection,
    classifier_around,
    init_projection_,
    scaled_rows,
    tower_kwargs,
)
from .modeling_clip_hf_base import ClipHFPreTrainedModel, check_tensor, init_normal_, unused_weights
from .modeling_clip_hf_transformer import ClipHFEncoder


# Standard deviation of the frame positions and of the token before them. Positions are added to channels of about unit
# size: half of it, as in CLIP's text tower, whose tokens have 0.02 and positions 0.01. With 0.02 Transf told 61% of
# the actions of `benchmarks/check_actions.py` from their reverses after 300 steps, with 0.5 it is 92%.
POSITION_STD = 0.5


@dataclass
class ClipHFVideoOutput(ClipHFOutput):
    """Output of [`ClipHFVideoModel`]: that of [`ClipHFModel`], where an image is a clip.

    `vision_model_output` is per clip in its `pooler_output`, and per frame, clip after clip, in all else.
    """

    @property
    def video_embeds(self) -> torch.Tensor | None:
        """L2-normalised embeddings of the clips, `(clips, projection_dim)`: `image_embeds`."""
        return self.image_embeds

    @property
    def logits_per_video(self) -> torch.Tensor | None:
        """Cosines times `exp(logit_scale)`, `(clips, texts)`: `logits_per_image`."""
        return self.logits_per_image


# ------------------------------------------------------------------------------------------------- the temporal heads


class ClipHFMeanHead(nn.Module):
    """`meanP`: the mean of the frames' embeddings. It has no parameters, and cannot see the order of the frames."""

    def __init__(self, config: ClipHFVideoConfig):
        super().__init__()

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, dim), each frame L2-normalised -> (batch, dim)."""
        return frames.mean(dim=1)


class ClipHFConvHead(nn.Module):
    """`Conv_1D`: a convolution along time, each channel by itself, added to the frames; then the mean.

    - It starts as a shift, as in the released code: a quarter of the channels is taken from the frame before, a
      quarter from the frame after, the others stay.
    - The released code mixes channels of one frame by mistake, because it reshapes (frames, channels) to (channels,
      frames); here the convolution runs along time, as the paper says.
    - Beyond its ends a clip is continued with its first and last frame, where the released code has zeros. So a still
      clip, and a picture, starts with the embedding that `meanP` gives; other clips differ from it by
      `(first - last) / (2 * frames)` in the shifted channels.
    - A mean after a convolution is linear in the frames: all but the ends of the clip weigh the same. So the head
      sees the order of the frames only through `first - last`: it learns left from right, or growing from shrinking,
      but not what returns to where it began, nor a turn that may start at any angle. `Transf` and `LSTM` can.
    """

    def __init__(self, config: ClipHFVideoConfig):
        super().__init__()
        dim = config.projection_dim
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, padding_mode="replicate", groups=dim, bias=False)

    def init_weights_(self, factor: float) -> None:
        """Fill the convolution: a shift."""
        dim = self.conv.in_channels
        kernel = torch.zeros(dim, 1, 3)
        kernel[: dim // 4, 0, 0] = 1.0  # from the frame before
        kernel[dim // 4 : dim - dim // 4, 0, 1] = 1.0
        kernel[dim - dim // 4 :, 0, 2] = 1.0  # from the frame after
        init.copy_(self.conv.weight, kernel)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, dim), each frame L2-normalised -> (batch, dim)."""
        convolved = self.conv(frames.transpose(1, 2)).transpose(1, 2)  # (batch, dim, frames) within
        return (frames + convolved).mean(dim=1)


class ClipHFLSTMHead(nn.Module):
    """`LSTM`: one layer over the frames, its outputs added to them; then the mean.

    - The part of the weights that proposes new contents of the cells starts at zero, so the outputs do too, and the
      head equals `meanP`; the first step of training moves it, the gates follow from the second. In the released code
      all is random.
    """

    def __init__(self, config: ClipHFVideoConfig):
        super().__init__()
        self.lstm = nn.LSTM(config.projection_dim, config.projection_dim, batch_first=True)

    def init_weights_(self, factor: float) -> None:
        """Fill the layer: torch's default, a uniform distribution on +-1/sqrt(dim), and zeros for the contents."""
        dim = self.lstm.hidden_size
        bound = factor * dim**-0.5
        for weight in self.lstm.parameters():
            value = torch.empty(weight.shape).uniform_(-bound, bound)
            value[2 * dim : 3 * dim] = 0.0  # torch's order: input gate, forget gate, contents, output gate
            init.copy_(weight, value)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, dim), each frame L2-normalised -> (batch, dim)."""
        frames = _unit_channels(frames)
        return (frames + self.lstm(frames)[0]).mean(dim=1)


class ClipHFTemporalTransformer(ClipHFPreTrainedModel):
    """`Transf` and `Transf_cls`: transformer layers of CLIP's kind over the frames, with learned positions.

    `Transf` adds what the layers make of the frames to them; then the mean.

    - The last projection of every attention and MLP starts at zero, so the head equals `meanP`; the first step of
      training moves it, all else follows from the second. In the released code all is random.
    - The positions are input to the layers, but no part of the result: the released code leaves their mean in every
      embedding.

    `Transf_cls` puts a learned token before the frames; its last state, through a LayerNorm, is the clip's embedding.

    - There is no way past its layers, so it cannot start as `meanP`: it must be trained before it is of use.
    - Its layers normalise their inputs, as CLIP's do; the released code's (torch's default) normalise sums.

    Clips of another number of frames than the positions are for get positions interpolated along time.
    """

    config_class = ClipHFViTConfig
    base_model_prefix = "temporal_head"
    input_modalities = ("video",)
    input_embeddings_path = "position_embedding"

    def __init__(self, config: ClipHFViTConfig, num_frames: int, with_token: bool):
        super().__init__(config)
        self.num_frames = num_frames
        self.position_embedding = nn.Embedding(num_frames, config.hidden_size)
        self.encoder = ClipHFEncoder(config)
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size)) if with_token else None
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if with_token else None
        self.post_init()

    @classmethod
    def of(cls, config: ClipHFVideoConfig) -> "ClipHFTemporalTransformer":
        """The head of a video model's configuration."""
        dim = config.projection_dim
        layers = ClipHFViTConfig(
            hidden_size=dim,
            intermediate_size=4 * dim,
            num_hidden_layers=config.temporal_num_layers,
            num_attention_heads=config.temporal_num_heads,
            projection_dim=dim,
            initializer_factor=config.initializer_factor,
        )
        layers._attn_implementation = config._attn_implementation
        return cls._from_config(layers, num_frames=config.num_frames, with_token=config.temporal_head == "Transf_cls")

    def init_weights_(self, factor: float) -> None:
        """Fill the positions and the token; without a token, the last projections become zero."""
        init_normal_(self.position_embedding.weight, factor * POSITION_STD)
        if self.class_embedding is not None:
            init_normal_(self.class_embedding, factor * POSITION_STD)
            return
        for layer in self.encoder.layers:
            for projection in (layer.self_attn.out_proj, layer.mlp.fc2):
                init.zeros_(projection.weight)
                init.zeros_(projection.bias)

    def positions(self, frames: int) -> torch.Tensor:
        """Positions (frames, dim); those of `num_frames` are interpolated to another number."""
        positions = self.position_embedding(torch.arange(self.num_frames, device=self.device))
        if frames == self.num_frames:
            return positions
        # Frames are the centres of equal parts of the film; `align_corners=False` takes positions for the same.
        resized = nn.functional.interpolate(positions.T[None], size=frames, mode="linear", align_corners=False)
        return resized[0].T

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames, dim), each frame L2-normalised -> (batch, dim)."""
        frames = _unit_channels(frames)
        positions = self.positions(frames.shape[1]).to(frames.dtype)
        hidden_states = frames + positions
        if self.class_embedding is None:
            hidden_states = self.encoder(hidden_states)[0]
            return (frames + hidden_states - positions).mean(dim=1)
        token = self.class_embedding.expand(len(frames), 1, -1)
        hidden_states = torch.cat([token, hidden_states], dim=1)  # (batch, 1 + frames, dim)
        return self.final_layer_norm(self.encoder(hidden_states, pooled_at=(slice(None), 0))[0])


def _unit_channels(frames: torch.Tensor) -> torch.Tensor:
    # Channels of a vector of length 1 are about 1/sqrt(dim): too small for gates and for sums with positions.
    return frames * frames.shape[-1] ** 0.5


_HEADS = {
    "meanP": ClipHFMeanHead,
    "Conv_1D": ClipHFConvHead,
    "Transf": ClipHFTemporalTransformer.of,
    "LSTM": ClipHFLSTMHead,
    "Transf_cls": ClipHFTemporalTransformer.of,
}


# ------------------------------------------------------------------------------------------------- the whole models


def _as_pictures(pixel_values: torch.Tensor | None, num_channels: int) -> tuple[torch.Tensor, int]:
    """The frames of all clips one after another, (batch * frames, 3, height, width), and the number of clips."""
    check_tensor("pixel_values", pixel_values, "the processor: processor(videos=films, return_tensors='pt')")
    if pixel_values.ndim == 4:  # pictures: clips of one frame each; the tower checks the rest
        return pixel_values, len(pixel_values)
    if pixel_values.ndim != 5 or pixel_values.shape[2] != num_channels or 0 in pixel_values.shape[:2]:
        raise ValueError(
            f"`pixel_values` has the shape {tuple(pixel_values.shape)}; it must be (batch, frames, {num_channels}, "
            f"height, width) for clips, or (batch, {num_channels}, height, width) for pictures, as the video "
            "processor makes it."
        )
    return pixel_values.flatten(0, 1), len(pixel_values)


def _pool_frames(head: nn.Module, features: torch.Tensor, batch: int) -> torch.Tensor:
    """Projected features of frames (batch * frames, dim), not normalised -> those of clips (batch, dim)."""
    frames = nn.functional.normalize(features, dim=-1)
    return head(frames.reshape(batch, -1, features.shape[-1]))


class _LoadsWholeHead:
    """Loading: a temporal head that was saved and does not fit is an error; it does not become a random one."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info=False, **kwargs):
        """As in [`ClipHFPreTrainedModel`].

        Raises:
            ValueError: also if another temporal head was saved than is asked for.
        """
        problem = (
            f"{pretrained_model_name_or_path} was saved with another temporal head. Load it without `temporal_head`, "
            "`temporal_num_layers` and `num_frames`: it takes clips of any number of frames, and "
            "`ClipHFVideoModel.from_clip(model, temporal_head, num_frames)` gives it a new head."
        )
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        except RuntimeError as error:
            if "num_frames" in kwargs and "ismatch" in str(error):
                raise ValueError(problem) from error
            raise
        found = {f"temporal_head.{name}" for name in model.temporal_head.state_dict()}
        lost = [name for name in info["unexpected_keys"] if name.startswith("temporal_head.")]
        if lost or 0 < len(found & set(info["missing_keys"])) < len(found):
            raise ValueError(problem)
        return (model, info) if output_loading_info else model


class ClipHFVideoModel(_LoadsWholeHead, ClipHFModel):
    """CLIP for films (ActionCLIP, Wang et al. 2021): the embedding of a clip is made of those of its frames.

    - `pixel_values` are clips `(batch, frames, 3, height, width)`, or pictures `(batch, 3, height, width)`, which are
      clips of one frame; all that is said of images in [`ClipHFModel`] holds for clips;
    - the frames' projected features are L2-normalised first, so that every frame counts alike and the embeddings of an
      index of frames can be pooled as well; the released code joins them as they are;
    - `config.temporal_head` joins them: `meanP` (no parameters), `Conv_1D`, `Transf`, `LSTM` or `Transf_cls`. All but
      the last start as `meanP`, `Conv_1D` nearly; the classes `ClipHF...Head` say how they differ from the release;
    - the weights are those of [`ClipHFModel`], and `temporal_head`: [`from_clip`] and `from_pretrained` make a video
      model of any CLIP.
    """

    config_class = ClipHFVideoConfig
    input_modalities = ("video", "image", "text")
    output_class: ClassVar[type] = ClipHFVideoOutput

    def __init__(self, config: ClipHFVideoConfig):
        super().__init__(config)
        self.temporal_head = _HEADS[config.temporal_head](config)
        self.post_init()

    @classmethod
    def from_clip(
        cls,
        clip: ClipHFModel,
        temporal_head: str | None = None,
        num_frames: int | None = None,
        temporal_num_layers: int | None = None,
    ) -> "ClipHFVideoModel":
        """A video model around the towers of a CLIP. They are shared, not copied: training one trains the other.

        Args:
            clip ([`ClipHFModel`]): Any CLIP of ours; a [`ClipHFVideoModel`] gets a new head.
            temporal_head, num_frames, temporal_num_layers (*optional*): As in [`ClipHFVideoConfig`].

        Returns:
            [`ClipHFVideoModel`], in the mode, dtype and on the device of `clip`.

        Raises:
            ValueError: if there is no such head, or `clip` is no CLIP of ours.
        """
        if not isinstance(clip, ClipHFModel):
            raise ValueError(
                f"`clip` is a {type(clip).__name__}; it must be a ClipHFModel. `ClipHFModel.from_pretrained(folder)` "
                "loads transformers', OpenAI's and open_clip's models."
            )
        config = cls.config_class.from_image_config(clip.config, temporal_head, num_frames, temporal_num_layers)
        with torch.device("meta"):
            model = cls(config)
        # The towers look at their own configurations, which are therefore shared, too.
        config.text_config, config.vision_config = clip.config.text_config, clip.config.vision_config
        model.config = config
        for name in (
            "text_model",
            "vision_model",
            "text_projection",
            "visual_projection",
            "logit_scale",
            "logit_bias",
        ):
            setattr(model, name, getattr(clip, name))
        model.temporal_head = _HEADS[config.temporal_head](config)
        model.temporal_head.apply(model._init_weights)
        model.temporal_head.to(device=clip.logit_scale.device, dtype=clip.visual_projection.weight.dtype)
        return model.train(clip.training)

    def temporal_parameters(self) -> list[nn.Parameter]:
        """The parameters of the temporal head, which ActionCLIP trains at ten times the towers' rate."""
        return list(self.temporal_head.parameters())

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """The features of clips. Arguments as in [`ClipHFModel`]; `pixel_values` as in the class.

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` `(batch, projection_dim)` are the clips' features, not
            normalised; all else is per frame, clip after clip.
        """
        frames, batch = _as_pictures(pixel_values, self.config.vision_config.num_channels)
        kwargs["return_dict"] = True
        output = super().get_image_features(frames, interpolate_pos_encoding, pooled_only=pooled_only, **kwargs)
        output.pooler_output = _pool_frames(self.temporal_head, output.pooler_output, batch)
        return output

    def get_video_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`get_image_features` by its other name."""
        return self.get_image_features(pixel_values, **kwargs)

    def encode_video(self, pixel_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """L2-normalised embeddings of clips, `(batch, projection_dim)`: `encode_image` by its other name."""
        return self.encode_image(pixel_values, **kwargs)


class ClipHFForVideoClassification(_LoadsWholeHead, ClipHFPreTrainedModel):
    """CLIP's vision tower with a temporal head and a linear classifier on the clips' embeddings: fixed classes.

    - The classifier stands on the L2-normalised embedding, so that a zero-shot classifier can be its weights, see
      [`from_text_classifier`].
    - A folder of [`ClipHFVideoModel`] or of any CLIP loads: the classifier is then random.
    """

    config_class = ClipHFVideoConfig
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    input_embeddings_path = "vision_model"
    _keys_to_ignore_on_load_unexpected = unused_weights("text_model", "text_projection", "logit_scale", "logit_bias")

    def __init__(self, config: ClipHFVideoConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = build_vision_tower(config.vision_config)
        self.visual_projection = build_visual_projection(config.vision_config)
        self.temporal_head = _HEADS[config.temporal_head](config)
        self.classifier = nn.Linear(config.projection_dim, config.num_labels)
        self.post_init()

    def init_weights_(self, factor: float) -> None:
        """Fill the projection and the classifier, whose logits of random classes have unit variance."""
        init_projection_(self.visual_projection, factor)
        init_normal_(self.classifier.weight, factor)
        init.zeros_(self.classifier.bias)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the classifier; if clip_hf is installed, with its model card, see [`ClipHFModel.push_to_hub`]."""
        push = ClipHFModel.push_with_card
        return super().push_to_hub(repo_id, **kwargs) if push is None else push(self, repo_id, **kwargs)

    @classmethod
    def from_text_classifier(
        cls, video_model: ClipHFVideoModel, classifier: torch.Tensor, labels: Sequence[str]
    ) -> "ClipHFForVideoClassification":
        """A classifier whose probabilities are, at first, the zero-shot ones of a video model.

        Args:
            video_model ([`ClipHFVideoModel`]): Its vision tower and head are shared, not copied.
            classifier (`torch.Tensor` of shape `(labels, projection_dim)`): What `build_text_classifier` returns.
            labels (sequence of `str`): The classes' names, for `config.id2label`.

        Raises:
            ValueError: if the shapes do not fit, or two labels are alike.
        """
        weight = scaled_rows(video_model, classifier)
        parts = ("vision_model", "visual_projection", "temporal_head")
        return classifier_around(cls, video_model, labels, parts, {"classifier.weight": weight})

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: Clips `(batch, frames, 3, height, width)` or pictures, as in [`ClipHFVideoModel`].
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Class ids, for the loss that `config.problem_type`
                names.
            interpolate_pos_encoding: As in the vision towers.

        Returns:
            `ImageClassifierOutput`; `hidden_states` and `attentions` are per frame, clip after clip.
        """
        kwargs = tower_kwargs(self, kwargs)
        frames, batch = _as_pictures(pixel_values, self.config.vision_config.num_channels)
        output = self.vision_model(
            frames, interpolate_pos_encoding=interpolate_pos_encoding, pooled_only=True, **kwargs
        )
        features = apply_linear(self.visual_projection, output.pooler_output)
        embeds = nn.functional.normalize(_pool_frames(self.temporal_head, features, batch), dim=-1)
        logits = apply_linear(self.classifier, embeds)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


# Saving one then copies our files next to it, and names the class in `auto_map`.
ClipHFVideoModel.register_for_auto_class("AutoModel")
ClipHFForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")


def _files_exported_with_the_model() -> None:
    # Never called, as in the image model's file: it makes the pipeline travel with the model.
    from .video_pipeline_clip_hf import ClipHFZeroShotVideoClassificationPipeline  # noqa: F401
