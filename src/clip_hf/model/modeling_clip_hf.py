# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP: the two towers with their projections, alone and together, and a vision tower with a classifier."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel  # noqa: F401 (diffusers looks for the second one here)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .checks_clip_hf import type_of
from .configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFVisionConfig
from .linear_clip_hf import apply_linear
from .loss_clip_hf import contrastive_loss, sigmoid_loss
from .modeling_clip_hf_base import (
    ClipHFPreTrainedModel,
    init_like_torch_linear_,
    init_normal_,
    known_kwargs,
    unused_weights,
)
from .modeling_clip_hf_resnet import ClipHFResNetModel
from .modeling_clip_hf_transformer import ClipHFTextModel, ClipHFViTModel


@dataclass
class ClipHFTextModelOutput(ModelOutput):
    """Output of [`ClipHFTextModelWithProjection`].

    Args:
        text_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): Projected features, not normalised.
        last_hidden_state (`torch.Tensor` of shape `(batch, length, hidden_size)`): The tower's output at every token.
        hidden_states (`tuple[torch.Tensor]`, with `output_hidden_states=True`): The embeddings and each layer's
            output, `(batch, length, hidden_size)`.
        attentions (`tuple[torch.Tensor]`, with `output_attentions=True`): Each layer's weights, `(batch, heads,
            length, length)`.
    """

    text_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class ClipHFVisionModelOutput(ModelOutput):
    """Output of [`ClipHFVisionModelWithProjection`].

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): Projected features, not normalised.
        last_hidden_state (`torch.Tensor`): The tower's last output: `(batch, 1 + patches, hidden_size)` of a ViT,
            `(batch, hidden_size, height, width)` of a ResNet.
        hidden_states (`tuple[torch.Tensor]`, with `output_hidden_states=True`): The embeddings and each layer's output
            (ViT); the stem's and each stage's feature map (ResNet).
        attentions (`tuple[torch.Tensor]`, with `output_attentions=True`): Each layer's weights (ViT); the attention
            pool's, `(batch, heads, 1, positions)` (ResNet).
    """

    image_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class ClipHFOutput(ModelOutput):
    """Output of [`ClipHFModel`].

    Args:
        loss (`torch.Tensor`, scalar, with `return_loss=True`): The contrastive loss.
        logits_per_image (`torch.Tensor` of shape `(images, texts)`): Cosines times `exp(logit_scale)`.
        logits_per_text (`torch.Tensor` of shape `(texts, images)`): Its transpose.
        text_embeds (`torch.Tensor` of shape `(texts, projection_dim)`): L2-normalised text embeddings.
        image_embeds (`torch.Tensor` of shape `(images, projection_dim)`): L2-normalised image embeddings.
        text_model_output (`BaseModelOutputWithPooling`): The text tower's output; its `pooler_output` is projected.
        vision_model_output (`BaseModelOutputWithPooling`): The vision tower's output; its `pooler_output` is
            projected.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple:
        """The values that are not None, those of the towers as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


def tower_kwargs(model: nn.Module, kwargs: dict) -> dict:
    """Check the keyword arguments of a forward pass, and ask the tower for an output object, not a tuple."""
    return known_kwargs(model, kwargs) | {"return_dict": True}


def recorded(output: BaseModelOutputWithPooling) -> dict:
    """Return what a tower's output holds besides the pooled features."""
    return {name: getattr(output, name) for name in ("last_hidden_state", "hidden_states", "attentions")}


def build_vision_tower(config: PreTrainedConfig) -> ClipHFResNetModel | ClipHFViTModel:
    """Return the vision tower that a configuration of either kind is of, with random weights."""
    # Compare `model_type`, not the class: remote-code configs are different classes.
    is_resnet = config.model_type == ClipHFResNetConfig.model_type
    return (ClipHFResNetModel if is_resnet else ClipHFViTModel)._from_config(config)


def build_visual_projection(config: PreTrainedConfig) -> nn.Linear:
    """Return the projection of a vision tower with this configuration."""
    return nn.Linear(config.hidden_size, config.projection_dim, bias=config.projection_bias)


def init_projection_(projection: nn.Linear, factor: float) -> None:
    """Fill a projection into the shared space."""
    init_normal_(projection.weight, factor * projection.in_features**-0.5)
    init_like_torch_linear_(projection, factor, weight=False)


class ClipHFModel(ClipHFPreTrainedModel):
    """CLIP: a text tower and a vision tower, ResNet or ViT, whose projections meet in one space (Radford et al. 2021).

    - weight names are those of transformers' CLIP, so every CLIP repo on the hub loads;
    - a ResNet tower's projection is the output projection of OpenAI's attention pool, and has a bias;
    - either input may be left out of `forward`: the output then holds only the other's embeddings;
    - with `config.logit_bias_init_value` it has a learned bias, and its loss is the sigmoid loss.
    """

    input_embeddings_path = "text_model"
    output_class: ClassVar[type] = ClipHFOutput
    # clip_hf sets this to its writer of model cards; it stays None in remote code.
    push_with_card: ClassVar[Callable | None] = None

    def __init__(self, config: ClipHFConfig):
        super().__init__(config)
        self.projection_dim = config.projection_dim
        self.text_embed_dim, self.vision_embed_dim = config.text_config.hidden_size, config.vision_config.hidden_size
        self.text_model = ClipHFTextModel._from_config(config.text_config)
        self.vision_model = build_vision_tower(config.vision_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = build_visual_projection(config.vision_config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        bias = config.logit_bias_init_value
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.post_init()

    def init_weights_(self, factor: float) -> None:
        """Fill the projections, the logit scale and the logit bias."""
        init_projection_(self.text_projection, factor)
        init_projection_(self.visual_projection, factor)
        init.constant_(self.logit_scale, self.config.logit_scale_init_value)
        if self.logit_bias is not None:
            init.constant_(self.logit_bias, self.config.logit_bias_init_value)

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        # transformers calls it once the weights are there; a random text tower would take the place of what is not.
        super()._adjust_missing_and_unexpected_keys(loading_info)
        missing = sorted(key for key in loading_info.missing_keys if key.startswith("text_model."))
        for name in self.config.architectures or ():
            task = {"ForImageClassification": "image", "ForVideoClassification": "video"}.get(name[-22:])
            if task is not None and missing:
                source = self.config.name_or_path
                for keys in (loading_info.missing_keys, loading_info.unexpected_keys):
                    keys.clear()  # transformers would print them before this error
                raise ValueError(
                    f"{source} is a classifier with a fixed set of classes ({name}), not a CLIP with an image and a "
                    f"text tower: it lacks {len(missing)} weights, such as {missing[0]}. It cannot compare images "
                    f"with texts; run it as pipeline('{task}-classification', model={source!r})."
                )

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the model to the hub. If clip_hf is installed, write or update the model card too.

        Args:
            repo_id (`str`): The repo, such as `"me/my-clip"`.
            kwargs: As in [`PreTrainedModel.push_to_hub`]; `details`, a `clip_hf.model_card.ModelCardDetails`, goes
                into the card.

        Returns:
            `str`: the URL of the commit.
        """
        if ClipHFModel.push_with_card is None:
            return super().push_to_hub(repo_id, **kwargs)
        return ClipHFModel.push_with_card(self, repo_id, **kwargs)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """The text tower's output, projected. Arguments as in [`ClipHFTextModel`].

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` `(batch, projection_dim)` are the text features, not
            normalised; `encode_text` returns them normalised.
        """
        kwargs = tower_kwargs(self, kwargs)
        output = self.text_model(input_ids, attention_mask, position_ids, pooled_only=pooled_only, **kwargs)
        output.pooler_output = apply_linear(self.text_projection, output.pooler_output)
        return output

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """The vision tower's output, projected. Arguments as in [`ClipHFViTModel`] and [`ClipHFResNetModel`].

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` `(batch, projection_dim)` are the image features, not
            normalised; `encode_image` returns them normalised.
        """
        kwargs = tower_kwargs(self, kwargs)
        output = self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, pooled_only=pooled_only, **kwargs
        )
        output.pooler_output = apply_linear(self.visual_projection, output.pooler_output)
        return output

    def encode_text(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """L2-normalised text embeddings, `(batch, projection_dim)`. Arguments as in [`ClipHFTextModel`]."""
        kwargs |= {"return_dict": True, "pooled_only": True}
        features = self.get_text_features(input_ids, attention_mask, position_ids, **kwargs)
        return nn.functional.normalize(features.pooler_output, dim=-1)

    def encode_image(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """L2-normalised image embeddings, `(batch, projection_dim)`. Arguments as in the vision towers."""
        kwargs |= {"return_dict": True, "pooled_only": True}
        features = self.get_image_features(pixel_values, interpolate_pos_encoding, **kwargs)
        return nn.functional.normalize(features.pooler_output, dim=-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        image_ids: torch.Tensor | None = None,
        text_ids: torch.Tensor | None = None,
        return_logits: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClipHFOutput:
        """Embed texts and images and compare each with each.

        Args:
            input_ids, attention_mask, position_ids: As in [`ClipHFTextModel`].
            pixel_values, interpolate_pos_encoding: As in [`ClipHFViTModel`] and [`ClipHFResNetModel`].
            return_loss (`bool`, *optional*): Whether to compute the contrastive loss; text i is then the caption of
                image i. In training within a process group the negatives come from all processes, see
                [`contrastive_loss`].
            image_ids, text_ids (`torch.Tensor` of shape `(batch,)`, integer, *optional*): For the loss: pairs with the
                same id are not negatives of each other, see [`contrastive_loss`].
            return_logits (`bool`, *optional*, defaults to `True`): Whether to compute the logits of all pairs. False
                saves their memory in training, because the loss does not need them, and time: the towers leave out
                `last_hidden_state` too (`pooled_only`).

        Returns:
            [`ClipHFOutput`]

        Raises:
            ValueError: if no input is given, the loss lacks one, or a shape or dtype is wrong.
            TypeError: if an input is unknown (and not None or False), or not a tensor.
        """
        kwargs = tower_kwargs(self, kwargs) | {"pooled_only": not return_logits}
        if input_ids is None and pixel_values is None:
            raise ValueError("Both `input_ids` and `pixel_values` are missing; give texts, images, or both.")
        images = texts = image_embeds = text_embeds = logits_per_image = logits_per_text = loss = None
        if pixel_values is not None:
            images = self.get_image_features(pixel_values, interpolate_pos_encoding, **kwargs)
            image_embeds = nn.functional.normalize(images.pooler_output, dim=-1)
        if input_ids is not None:
            texts = self.get_text_features(input_ids, attention_mask, position_ids, **kwargs)
            text_embeds = nn.functional.normalize(texts.pooler_output, dim=-1)
        if images is not None and texts is not None and return_logits:
            cosines = text_embeds @ image_embeds.to(text_embeds.device).T  # (texts, images)
            logits_per_text = cosines * self.logit_scale.exp().to(cosines.device)
            if self.logit_bias is not None:
                logits_per_text = logits_per_text + self.logit_bias.to(cosines.device)
            logits_per_image = logits_per_text.T
        if return_loss:
            loss = self._loss(image_embeds, text_embeds, image_ids=image_ids, text_ids=text_ids)
        return self.output_class(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=texts,
            vision_model_output=images,
        )

    def _loss(
        self, image_embeds: torch.Tensor | None, text_embeds: torch.Tensor | None, **ids: torch.Tensor | None
    ) -> torch.Tensor:
        if image_embeds is None or text_embeds is None:
            raise ValueError("`return_loss=True` needs both `input_ids` and `pixel_values`.")
        if len(image_embeds) != len(text_embeds):
            raise ValueError(
                f"`return_loss=True` pairs text i with image i, but there are {len(text_embeds)} texts and "
                f"{len(image_embeds)} images."
            )
        image_embeds = image_embeds.to(text_embeds.device)
        embeds, scale, options = (image_embeds, text_embeds), self.logit_scale.exp(), {"gather": self.training, **ids}
        if self.logit_bias is not None:
            return sigmoid_loss(*embeds, scale, self.logit_bias, **options)
        return contrastive_loss(*embeds, scale, **options)


class ClipHFTextEncoder(ClipHFPreTrainedModel):
    """[`ClipHFTextModel`] as the part `text_model`, where diffusers' `clip_skip` and LoRA files expect it.

    It loads from every CLIP, whole or its text tower; `AutoModel` with clip_hf gives [`ClipHFTextModel`].
    """

    config_class = ClipHFTextConfig
    base_model_prefix = "text_model"
    input_modalities = ("text",)
    input_embeddings_path = "text_model"
    _keys_to_ignore_on_load_unexpected = unused_weights(
        "vision_model", "text_projection", "visual_projection", "logit_scale"
    )

    def __init__(self, config: ClipHFTextConfig):
        super().__init__(config)
        self.text_model = ClipHFTextModel._from_config(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Embed texts; arguments and output as in [`ClipHFTextModel`]."""
        return self.text_model(input_ids, attention_mask, position_ids, **tower_kwargs(self, kwargs))


class ClipHFTextModelWithProjection(ClipHFPreTrainedModel):
    """CLIP's text tower with its projection into the shared space."""

    config_class = ClipHFTextConfig
    base_model_prefix = "text_model"
    input_modalities = ("text",)
    input_embeddings_path = "text_model"
    _keys_to_ignore_on_load_unexpected = unused_weights("vision_model", "visual_projection", "logit_scale")

    def __init__(self, config: ClipHFTextConfig):
        super().__init__(config)
        self.text_model = ClipHFTextModel._from_config(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    def init_weights_(self, factor: float) -> None:
        """Fill the projection."""
        init_projection_(self.text_projection, factor)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClipHFTextModelOutput:
        """Embed texts; arguments as in [`ClipHFTextModel`]. Returns [`ClipHFTextModelOutput`]."""
        kwargs = tower_kwargs(self, kwargs)
        output = self.text_model(input_ids, attention_mask, position_ids, **kwargs)
        embeds = apply_linear(self.text_projection, output.pooler_output)
        return ClipHFTextModelOutput(text_embeds=embeds, **recorded(output))


class ClipHFVisionModelWithProjection(ClipHFPreTrainedModel):
    """CLIP's vision tower, ResNet or ViT as the config says, with its projection into the shared space."""

    config_class = ClipHFVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    input_embeddings_path = "vision_model"
    _keys_to_ignore_on_load_unexpected = unused_weights("text_model", "text_projection", "logit_scale")

    def __init__(self, config: ClipHFVisionConfig):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        self.visual_projection = build_visual_projection(config)
        self.post_init()

    def init_weights_(self, factor: float) -> None:
        """Fill the projection."""
        init_projection_(self.visual_projection, factor)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ClipHFVisionModelOutput:
        """Embed images; arguments as in the vision towers. Returns [`ClipHFVisionModelOutput`]."""
        kwargs = tower_kwargs(self, kwargs)
        output = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        embeds = apply_linear(self.visual_projection, output.pooler_output)
        return ClipHFVisionModelOutput(image_embeds=embeds, **recorded(output))


def require_parts(clip: Any, head: Any, attribute: str, what: str) -> None:
    if not hasattr(clip, "logit_scale") or not hasattr(head, attribute):
        raise TypeError(f"Give a CLIP and {what}, not {type_of(clip)} and {type_of(head)}.")


def scaled_rows(clip: ClipHFModel, classifier: Any) -> torch.Tensor:
    """A text classifier's rows times the multiplier of the cosines."""
    require_parts(clip, classifier, "shape", "a tensor or an array")
    classifier = torch.as_tensor(classifier)
    return classifier * clip.logit_scale.detach().exp().to(classifier.device)


def classifier_around(
    cls: type, clip: ClipHFModel, labels: Sequence[str], parts: Sequence[str], weights: dict, **options: Any
) -> ClipHFPreTrainedModel:
    """Build a classifier around `parts` of a CLIP, which are shared, with weights by name and config options."""
    cls.config_class.check(clip.config, cls.__name__)
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if isinstance(labels, str) or not len(labels) or repeated:
        raise ValueError(f"`labels` must be different names, not {labels!r:.60} (repeated: {repeated[:4]}).")
    if wrong := [name for name, value in weights.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"There are NaN or infinite values for {', '.join(wrong)}.")
    classifier = weights["classifier.weight"]
    shape = (len(labels), clip.config.projection_dim)
    if tuple(classifier.shape) != shape:
        raise ValueError(
            f"`classifier` has the shape {tuple(classifier.shape)}; it must be {shape}: one row a label, as "
            "`build_text_classifier` returns them."
        )
    dropped = ("architectures", "auto_map", "custom_pipelines")
    config = {name: value for name, value in clip.config.to_dict().items() if name not in dropped}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = cls.config_class.from_dict(config | names | options)
    with torch.device("meta"):
        model = cls(config)
    # The tower looks at its own configuration, which is therefore shared, too.
    config.text_config, config.vision_config = clip.config.text_config, clip.config.vision_config
    model.config = config
    for name in parts:
        setattr(model, name, getattr(clip, name))
    for name, value in ({"classifier.bias": classifier.new_zeros(len(labels))} | weights).items():
        module, _, leaf = name.rpartition(".")
        value = value.detach().to(clip.visual_projection.weight, copy=True)
        setattr(model.get_submodule(module), leaf, nn.Parameter(value))
    return model.train(clip.training)


class ClipHFForImageClassification(ClipHFPreTrainedModel):
    """CLIP's vision tower with a classifier.

    - `config.classifier_input="hidden"`: on a ViT it stands on the mean of the patches' last hidden states, as in
      transformers' `CLIPForImageClassification`, whose repos load; on a ResNet on the attention-pooled features;
    - `"embedding"`: it stands on the L2-normalised embedding, so that a zero-shot classifier can be its weights, see
      [`from_text_classifier`] and [`from_feature_head`];
    - with `config.num_cache_keys` Tip-Adapter's cache adds to its logits (Zhang et al. 2022); alpha and beta are
      multiplied into the weights.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    input_embeddings_path = "vision_model"
    _keys_to_ignore_on_load_unexpected = unused_weights(
        "text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias"
    )
    _shared = ("vision_model", "visual_projection")

    def __init__(self, config: ClipHFConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = build_vision_tower(config.vision_config)
        width = config.vision_config.hidden_size
        if config.classifier_input == "embedding":
            self.visual_projection = build_visual_projection(config.vision_config)
            width = config.projection_dim
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels > 0 else nn.Identity()
        if config.num_cache_keys:
            self.cache_keys = nn.Linear(width, config.num_cache_keys)
            self.cache_values = nn.Linear(config.num_cache_keys, config.num_labels, bias=False)
        self.post_init()

    def init_weights_(self, factor: float) -> None:
        """Fill the projection, the classifier and the cache."""
        if self.config.classifier_input == "embedding":
            init_projection_(self.visual_projection, factor)
        for name in ("classifier", "cache_keys", "cache_values"):
            layer = getattr(self, name, None)
            if isinstance(layer, nn.Linear):
                init_normal_(layer.weight, factor * layer.in_features**-0.5)
                if layer.bias is not None:
                    init.zeros_(layer.bias)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Upload the classifier; if clip_hf is installed, with its model card, see [`ClipHFModel.push_to_hub`]."""
        push = ClipHFModel.push_with_card
        return super().push_to_hub(repo_id, **kwargs) if push is None else push(self, repo_id, **kwargs)

    @classmethod
    def from_text_classifier(
        cls, clip: ClipHFModel, classifier: torch.Tensor, labels: Sequence[str]
    ) -> "ClipHFForImageClassification":
        """A classifier whose logits are, at first, the zero-shot ones of a CLIP: the head of WiSE-FT.

        Args:
            clip ([`ClipHFModel`]): Its vision tower and projection are shared, not copied.
            classifier (`torch.Tensor` or array of shape `(labels, projection_dim)`): What `build_text_classifier`
                returns.
            labels (sequence of `str`): The classes' names. ValueError if there are not as many as rows, or two alike.
        """
        weights = {"classifier.weight": scaled_rows(clip, classifier)}
        if clip.logit_bias is not None:
            weights["classifier.bias"] = clip.logit_bias.expand(len(labels))
        return classifier_around(cls, clip, labels, cls._shared, weights, classifier_input="embedding")

    @classmethod
    def from_feature_head(cls, clip: ClipHFModel, head: Any, labels: Sequence[str]) -> "ClipHFForImageClassification":
        """A classifier with a head that `clip_hf.evaluation.fit_head` fitted to embeddings of a CLIP.

        Args:
            clip, labels: As in [`from_text_classifier`].
            head (`FeatureHead`): Weights, and for a cache keys, values, `alpha` and `beta`.
        """
        require_parts(clip, head, "beta", "a head of `fit_head`")
        weights = {"classifier.weight": head.weight, "classifier.bias": head.bias}
        num_keys = 0 if head.keys is None else len(head.keys)
        if num_keys:
            weights |= {"cache_keys.weight": head.beta * head.keys, "cache_values.weight": head.alpha * head.values}
            weights["cache_keys.bias"] = [-head.beta] * num_keys
        weights = {name: torch.as_tensor(value) for name, value in weights.items()}
        options = {"classifier_input": "embedding", "num_cache_keys": num_keys}
        return classifier_around(cls, clip, labels, cls._shared, weights, **options)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values, interpolate_pos_encoding: As in the vision towers.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Class ids, for the loss that `config.problem_type`
                names.
        """
        kwargs = tower_kwargs(self, kwargs)
        on_embedding = self.config.classifier_input == "embedding"
        output = self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, pooled_only=on_embedding, **kwargs
        )
        if on_embedding:
            features = nn.functional.normalize(apply_linear(self.visual_projection, output.pooler_output), dim=-1)
        else:
            features = output.last_hidden_state
            features = features[:, 1:].mean(dim=1) if features.ndim == 3 else output.pooler_output
        logits = apply_linear(self.classifier, features)
        if self.config.num_cache_keys:
            logits = logits + apply_linear(self.cache_values, apply_linear(self.cache_keys, features).exp())
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


# Saving one then copies our files next to it, and names the class in `auto_map`.
for _model_class in (ClipHFModel, ClipHFTextEncoder, ClipHFTextModelWithProjection, ClipHFVisionModelWithProjection):
    _model_class.register_for_auto_class("AutoModel")
ClipHFForImageClassification.register_for_auto_class("AutoModelForImageClassification")


def _files_exported_with_the_model() -> None:
    # Never called. transformers finds the files to copy into a saved repo by reading import lines; this one makes the
    # pipeline travel with the model.
    from .pipeline_clip_hf import ClipHFZeroShotImageClassificationPipeline  # noqa: F401
