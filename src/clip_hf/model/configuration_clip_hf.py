# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Configurations of CLIP: the text tower, the two vision towers, and the whole model."""

import copy
import json
import math
from dataclasses import fields
from functools import wraps

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.generation import GenerationConfig
from transformers.utils import logging

from .architectures_clip_hf import ARCHITECTURES
from .checks_clip_hf import (
    LARGEST,
    no_such,
    require_activation,
    require_heads,
    require_probability,
    require_sizes,
    type_of,
    unknown_option,
)


logger = logging.get_logger(__name__)

# transformers' types of the same models: their config files load as ours, nested ones too.
_TRANSFORMERS_MODEL_TYPES = {
    "clip": "clip_hf",
    "clip_text_model": "clip_hf_text",
    "clip_vision_model": "clip_hf_vit",
}
# OpenAI's vocabulary: 512 byte symbols, 48,894 merges, 2 special tokens.
OPENAI_VOCAB_SIZE = 49408
# Early transformers wrote this id into every CLIP config; no CLIP tokenizer has ever used it.
_LEGACY_EOS_TOKEN_ID = 2
# Arguments that `PreTrainedConfig` takes besides its fields.
_BASE_ARGUMENTS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "torch_dtype",
    "use_cache",
} | set(GenerationConfig._get_default_generation_params())


def _known_arguments(cls: type) -> set[str]:
    return {field.name for field in fields(cls)} | _BASE_ARGUMENTS


def _describe_unknown(cls: type, names: list[str]) -> str:
    known = sorted({field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)})
    messages = [unknown_option(name, cls.__name__, known) for name in names]
    return f"{' '.join(messages)} Available: {', '.join(known)}."


def checked_config(cls: type) -> type:
    """Make a strict config class refuse unknown options, and raise plain `ValueError` for what `strict` finds."""
    strict_init = cls.__init__

    @wraps(strict_init)
    def __init__(self, **kwargs):
        unknown = [name for name in kwargs if name not in _known_arguments(cls) and not name.startswith("_")]
        if unknown:
            raise ValueError(_describe_unknown(cls, unknown))
        try:
            strict_init(self, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"{cls.__name__}: {error}") from error

    cls.__init__ = __init__
    return cls


_DAMAGE = (AttributeError, LookupError, RecursionError, json.JSONDecodeError, UnicodeDecodeError)


def _from_transformers(config_dict: dict) -> dict:
    """Rewrite a config of one of transformers' CLIP types, nested ones too, into ours; others come back as they are.

    Keys that are not part of the architecture (such as generation settings) are dropped, the legacy end-of-text id is
    repaired, and each tower gets the whole model's `projection_dim`, with which transformers builds the projections.
    """
    if not isinstance(config_dict.get("model_type"), str | None):
        raise ValueError(f"`model_type` is {config_dict['model_type']!r:.60}; it must be a text, such as 'clip_hf'.")
    if config_dict.get("model_type") not in _TRANSFORMERS_MODEL_TYPES:
        return config_dict
    cls = _CONFIG_CLASSES[_TRANSFORMERS_MODEL_TYPES[config_dict["model_type"]]]
    kept = {field.name for field in fields(cls)} | {"torch_dtype", "num_labels"}
    result = {key: value for key, value in config_dict.items() if key in kept}
    result["model_type"] = cls.model_type
    if cls is ClipHFTextConfig and result.get("eos_token_id") == _LEGACY_EOS_TOKEN_ID:
        # None stands for the last two ids of the vocabulary. A vocabulary beyond OpenAI's has tokens added after them.
        vocab_size = result.get("vocab_size", OPENAI_VOCAB_SIZE)
        openai = vocab_size >= OPENAI_VOCAB_SIZE
        result["bos_token_id"] = OPENAI_VOCAB_SIZE - 2 if openai else None
        result["eos_token_id"] = OPENAI_VOCAB_SIZE - 1 if openai else None
    if cls is ClipHFConfig:
        for name, model_type in (("text_config", "clip_text_model"), ("vision_config", "clip_vision_model")):
            # An old file's `*_config_dict`, where there is one, overrules the whole of `*_config`.
            tower = config_dict.get(f"{name}_dict") or config_dict.get(name) or {}
            tower = _from_transformers({**tower, "model_type": model_type})
            result[name] = {**tower, "projection_dim": result.get("projection_dim", 512)}
    return result


class ClearFileErrors:
    """Mixin (first base) that turns the errors of damaged files into one that names the folder and the cure."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load as the other base class does.

        Raises:
            ValueError: if a file is there, but damaged.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except Exception as error:
            # tokenizers raise plain `Exception`; JSON's and UTF-8's errors name no file. An AttributeError without a
            # name is not Python's own: a library says something about the arguments.
            of_arguments = isinstance(error, AttributeError) and error.name is None
            if of_arguments or (type(error) is not Exception and not isinstance(error, _DAMAGE)):
                raise
            problem = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise ValueError(
                f"A file of {pretrained_model_name_or_path} that {cls.__name__} needs is damaged ({problem}). Copy or "
                "download it again."
            ) from error


class _ClipHFBaseConfig(ClearFileErrors, PreTrainedConfig):
    """Base class of the configurations: how their files are read."""

    # Other people's heads draw their weights with it, as on transformers' CLIP; ours are drawn as OpenAI's.
    initializer_range = 0.02

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read a config file as [`PreTrainedConfig`] does; a config of transformers' CLIP becomes ours."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = config_dict.get("model_type")
        # Other libraries write a config.json without a type.
        our_fields = {field.name for known in _CONFIG_CLASSES.values() for field in fields(known)}
        foreign = model_type is None and config_dict and not config_dict.keys() & our_fields
        if foreign or model_type not in (None, *_TRANSFORMERS_MODEL_TYPES, *_CONFIG_CLASSES):
            # Another family's weights would load in part, and the rest would stay random.
            raise ValueError(
                f"The config of {pretrained_model_name_or_path} is of a model of type {model_type!r}, which is not a "
                f"CLIP; the types that load are {', '.join((*_CONFIG_CLASSES, *_TRANSFORMERS_MODEL_TYPES))}."
            )
        return _from_transformers(config_dict), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Build the configuration from the contents of a config file.

        Unlike the constructor, this keeps unknown options as attributes, with a warning, because a file may come from
        a newer release.

        Raises:
            ValueError: if it is a configuration of another type.
        """
        config_dict = _from_transformers(config_dict)
        cls.class_for(config_dict)
        known = _known_arguments(cls)
        unknown = {k: v for k, v in config_dict.items() if k not in known and not k.startswith("_")}
        if unknown:
            logger.warning(f"{_describe_unknown(cls, sorted(unknown))} Kept as plain attributes.")
        known_dict = {key: value for key, value in config_dict.items() if key not in unknown}
        result = super().from_dict(known_dict, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for key, value in unknown.items():
            setattr(config, key, value)
        return result

    @classmethod
    def _classes(cls) -> dict[str, type]:
        """Return the classes that `cls` stands for, by `model_type`: itself, or both vision towers'."""
        if cls.model_type:
            return {cls.model_type: cls}
        return {config.model_type: config for config in _CONFIG_CLASSES.values() if issubclass(config, cls)}

    @classmethod
    def class_for(cls, config_dict: dict, name: str = "The configuration") -> type:
        """Return the configuration class that `config_dict` is of; `name` begins the error of another type."""
        classes = cls._classes()
        model_type = config_dict.get("model_type", next(iter(classes)))
        result = classes.get(_TRANSFORMERS_MODEL_TYPES.get(model_type, model_type))
        if result is None:
            theirs = [repr(theirs) for theirs, ours in _TRANSFORMERS_MODEL_TYPES.items() if ours in classes]
            raise ValueError(
                f"{name} is of type {model_type!r}; it must be one of {', '.join([*map(repr, classes), *theirs])} for "
                f"{cls.__name__}. Use the class that is made for its type."
            )
        return result

    @classmethod
    def accepts(cls, config: PreTrainedConfig) -> bool:
        """Return whether a configuration is of this class, or has its `model_type` and comes from remote code."""
        return isinstance(config, cls) or config.model_type in cls._classes()

    @classmethod
    def check(cls, config: PreTrainedConfig, user: str) -> None:
        """Raise ValueError unless `accepts(config)`; `user` is who needs it, for the message."""
        if cls.accepts(config):
            return
        convertible = _TRANSFORMERS_MODEL_TYPES.get(config.model_type) in cls._classes()
        cure = f" Convert it: {cls.__name__}.from_dict(config.to_dict())." if convertible else ""
        raise ValueError(
            f"{user} needs a {cls.__name__}, not {type_of(config)} (of type {config.model_type!r}).{cure}"
        )


@checked_config
@strict
class ClipHFTextConfig(_ClipHFBaseConfig):
    r"""Configuration of CLIP's text transformer. The defaults are those of ViT-B/32 (Radford et al. 2021, table 20).

    Args:
        vocab_size (`int`, *optional*, defaults to 49408): Number of token ids: 512 byte symbols, 48,894 merges and 2
            special tokens in the published models.
        hidden_size (`int`, *optional*, defaults to 512): Width of the transformer.
        intermediate_size (`int`, *optional*, defaults to 2048): Width of the hidden layer of each MLP.
        num_hidden_layers (`int`, *optional*, defaults to 12): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 8): Number of attention heads; divides `hidden_size`.
        max_position_embeddings (`int`, *optional*, defaults to 77): Context length in tokens, both special tokens
            included.
        hidden_act (`str`, *optional*, defaults to `"quick_gelu"`): Activation of the MLPs: `"quick_gelu"` for OpenAI's
            weights, `"gelu"` for most of open_clip's.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the layer normalisations.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout probability of the attention weights in
            training.
        projection_dim (`int`, *optional*, defaults to 512): Width of the shared embedding space.
        bos_token_id (`int`, *optional*): Id of the start-of-text token; by default the last but one of the vocabulary.
        eos_token_id (`int`, *optional*): Id of the end-of-text token, at whose first position the features are taken;
            by default the last one.
        pad_token_id (`int`, *optional*): Id of the padding token; by default `eos_token_id`.
        allow_missing_eos (`bool`, *optional*, defaults to `False`): Whether a text may lack the end-of-text token; its
            features are then taken at its last token. For tools that make up token ids, such as the baselines of
            captum's attributions. Without it such a text is an error.
        initializer_factor (`float`, *optional*, defaults to 1.0): Factor on the standard deviation of every random
            initial value.

    Raises:
        ValueError: if a size is not positive, the heads do not divide the width, a token id is outside the
            vocabulary, the activation is not known, or an option is misspelled.
    """

    model_type = "clip_hf_text"
    base_config_key = "text_config"

    vocab_size: int = OPENAI_VOCAB_SIZE
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    projection_dim: int = 512
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    allow_missing_eos: bool = False
    initializer_factor: float | int = 1.0

    def __post_init__(self, **kwargs):
        if self.bos_token_id is None:
            self.bos_token_id = self.vocab_size - 2
        if self.eos_token_id is None:
            self.eos_token_id = self.vocab_size - 1
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check the sizes, the heads and the activation."""
        require_sizes(self)
        require_heads(self.hidden_size, self.num_attention_heads)
        require_activation(self.hidden_act)
        require_probability(self, "attention_dropout")

    def validate_token_ids(self):
        """Check that the ids the model works with are ids of the vocabulary."""
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            if not 0 <= value < self.vocab_size:
                raise ValueError(
                    f"`{name}` is {value}, which is not an id of a vocabulary of {self.vocab_size} (`vocab_size`). "
                    "Give the tokenizer's id, or leave it out if the special tokens are the vocabulary's last two."
                )


class ClipHFVisionConfig(_ClipHFBaseConfig):
    """Either vision tower's configuration: `from_pretrained` and `from_dict` return a [`ClipHFViTConfig`] or a
    [`ClipHFResNetConfig`], as the file's `model_type` says.
    """

    base_config_key = "vision_config"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Read the vision tower's configuration from its own config file or a whole model's."""
        config_dict, _ = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        tower = cls.class_for(config_dict.get(cls.base_config_key, config_dict))
        return super(ClipHFVisionConfig, tower).from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Build the configuration of the tower that `config_dict["model_type"]` names."""
        config_dict = _from_transformers(config_dict)
        tower = cls.class_for(config_dict)
        return super(ClipHFVisionConfig, tower).from_dict(config_dict, **kwargs)


@checked_config
@strict
class ClipHFViTConfig(ClipHFVisionConfig):
    r"""Configuration of CLIP's Vision Transformer. The defaults are those of ViT-B/32 (Radford et al. 2021, table 20).

    Args:
        hidden_size (`int`, *optional*, defaults to 768): Width of the transformer.
        intermediate_size (`int`, *optional*, defaults to 3072): Width of the hidden layer of each MLP.
        num_hidden_layers (`int`, *optional*, defaults to 12): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 12): Number of attention heads; divides `hidden_size`.
        num_channels (`int`, *optional*, defaults to 3): Number of image channels.
        image_size (`int`, *optional*, defaults to 224): Height and width of the images, in pixels.
        patch_size (`int`, *optional*, defaults to 32): Height and width of a patch, in pixels; at most `image_size`.
        hidden_act (`str`, *optional*, defaults to `"quick_gelu"`): Activation of the MLPs: `"quick_gelu"` for OpenAI's
            weights, `"gelu"` for most of open_clip's.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the layer normalisations.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout probability of the attention weights in
            training.
        projection_dim (`int`, *optional*, defaults to 512): Width of the shared embedding space.
        initializer_factor (`float`, *optional*, defaults to 1.0): Factor on the standard deviation of every random
            initial value.

    Raises:
        ValueError: if a size is not positive, a patch is larger than the image, the heads do not divide the width,
            the activation is not known, or an option is misspelled.
    """

    model_type = "clip_hf_vit"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    projection_dim: int = 512
    initializer_factor: float | int = 1.0

    # OpenAI's ViT projects without a bias, its ResNet with one.
    projection_bias = False

    @property
    def grid_size(self) -> int:
        """Number of patches along each side of an image of `image_size`."""
        return self.image_size // self.patch_size

    def validate_architecture(self):
        """Check the sizes, the heads and the activation."""
        require_sizes(self)
        if self.patch_size > self.image_size:
            raise ValueError(
                f"`patch_size` {self.patch_size} is larger than `image_size` {self.image_size}: no patch would fit."
            )
        require_heads(self.hidden_size, self.num_attention_heads)
        require_activation(self.hidden_act)
        require_probability(self, "attention_dropout")


@checked_config
@strict
class ClipHFResNetConfig(ClipHFVisionConfig):
    r"""Configuration of CLIP's modified ResNet. The defaults are those of RN50 (Radford et al. 2021, table 19).

    Args:
        stage_depths (`list[int]`, *optional*, defaults to `[3, 4, 6, 3]`): Number of bottleneck blocks of each of the
            four stages.
        width (`int`, *optional*, defaults to 64): Channels of the stem; even. The last stage has `32 * width`, which
            is `hidden_size`.
        num_attention_heads (`int`, *optional*): Heads of the attention pool; divides `hidden_size`. By default `width
            // 2`: 64 channels each.
        num_channels (`int`, *optional*, defaults to 3): Number of image channels.
        image_size (`int`, *optional*, defaults to 224): Height and width of the images, in pixels; at least 31,
            because the tower halves them five times.
        projection_dim (`int`, *optional*, defaults to 1024): Width of the shared embedding space.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout probability of the attention pool's weights
            in training.
        initializer_factor (`float`, *optional*, defaults to 1.0): Factor on the standard deviation of every random
            initial value.

    Raises:
        ValueError: if a size is not positive, there are not four stages, the width is odd, the heads do not divide
            `hidden_size`, the image is too small, or an option is misspelled.
    """

    model_type = "clip_hf_resnet"

    stage_depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    num_attention_heads: int | None = None
    num_channels: int = 3
    image_size: int = 224
    projection_dim: int = 1024
    attention_dropout: float | int = 0.0
    initializer_factor: float | int = 1.0

    projection_bias = True

    def __post_init__(self, **kwargs):
        self.stage_depths = list(self.stage_depths)
        if self.num_attention_heads is None:
            self.num_attention_heads = max(self.width // 2, 1)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, the width of the pooled features."""
        return 32 * self.width

    @property
    def num_hidden_layers(self) -> int:
        """Number of stages, each of which gives one hidden state."""
        return len(self.stage_depths)

    @property
    def grid_size(self) -> int:
        """Height and width of the last feature map for an image of `image_size`."""
        # The first convolution halves and rounds up, four average pools halve and round down.
        return (self.image_size + 1) // 2 // 16

    def validate_architecture(self):
        """Check the sizes, the stages and the heads."""
        require_sizes(self)
        most = LARGEST["num_hidden_layers"]
        if len(self.stage_depths) != 4 or not all(0 < depth <= most for depth in self.stage_depths):
            raise ValueError(
                f"`stage_depths` is {self.stage_depths}; it must be four numbers of blocks, 1 to {most}, such as "
                "[3, 4, 6, 3]."
            )
        if self.width % 2:
            raise ValueError(f"`width` is {self.width}; it must be even, because the stem starts with half of it.")
        if self.grid_size < 1:
            raise ValueError(
                f"`image_size` is {self.image_size}; it must be at least 31, because the tower halves it five times."
            )
        require_heads(self.hidden_size, self.num_attention_heads)
        require_probability(self, "attention_dropout")


@checked_config
@strict
class ClipHFConfig(_ClipHFBaseConfig):
    r"""Configuration of a whole CLIP: a text tower, a vision tower of either kind, and what joins them.

    - `vision_config` is polymorphic: its `model_type`, `"clip_hf_vit"` or `"clip_hf_resnet"`, decides the tower.
    - A config.json of type `clip` (transformers) loads as this class.

    Args:
        text_config (`ClipHFTextConfig`, transformers' `CLIPTextConfig` or `dict`, *optional*): The text tower; by
            default that of ViT-B/32.
        vision_config (`ClipHFViTConfig`, `ClipHFResNetConfig`, `CLIPVisionConfig` or `dict`, *optional*): The vision
            tower; by default that of ViT-B/32. A `dict` needs a `model_type` unless it is a ViT's.
        projection_dim (`int`, *optional*, defaults to 512): Width of the shared embedding space. Both towers'
            `projection_dim` follow it.
        logit_scale_init_value (`float`, *optional*, defaults to ln(1 / 0.07)): Initial value of the logarithm of the
            multiplier of the cosines (Radford et al. 2021, section 2.5).
        logit_bias_init_value (`float`, *optional*): Initial value of a learned bias on the logits; the model's loss is
            then the sigmoid loss (Zhai et al. 2023, where it is -10). By default there is none, as in CLIP.
        initializer_factor (`float`, *optional*, defaults to 1.0): Factor on the standard deviation of the projections'
            initial values.
        classifier_input (`str`, *optional*, defaults to `"hidden"`): What the classifier of
            [`ClipHFForImageClassification`] stands on: the tower's hidden states, or the `"embedding"`.
        num_cache_keys (`int`, *optional*, defaults to 0): Examples in its Tip-Adapter cache, on the embedding.

    Raises:
        ValueError: if a size is not positive, a tower has another `projection_dim` or is of another type, or an option
            is misspelled.

    Example:

    ```python
    >>> from clip_hf import ClipHFConfig, ClipHFModel

    >>> config = ClipHFConfig.from_architecture("RN50x4")
    >>> config.vision_config.hidden_size
    2560
    >>> model = ClipHFModel(config)  # random weights
    ```
    """

    model_type = "clip_hf"
    # The vision tower's class is resolved in `__post_init__`.
    sub_configs_defaults = {"text_config": ClipHFTextConfig, "vision_config": ClipHFVisionConfig}
    # What a saved whole model is loaded with: its class, Auto classes and pipeline.
    _whole_model = "modeling_clip_hf.ClipHFModel"
    _auto_classes = ("AutoModel", "AutoModelForZeroShotImageClassification")
    _task = "zero-shot-image-classification"
    _pipeline = "pipeline_clip_hf.ClipHFZeroShotImageClassificationPipeline"

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = math.log(1 / 0.07)
    logit_bias_init_value: float | int | None = None
    initializer_factor: float | int = 1.0
    classifier_input: str = "hidden"
    num_cache_keys: int = 0

    def __post_init__(self, **kwargs):
        self.text_config = self._tower_config("text_config", ClipHFTextConfig)
        self.vision_config = self._tower_config("vision_config", ClipHFVisionConfig)
        kwargs.pop("custom_pipelines", None)  # see the property
        super().__post_init__(**kwargs)

    @property
    def custom_pipelines(self) -> dict:
        """What makes `pipeline(model=repo, trust_remote_code=True)` find the task and our pipeline without this
        library.

        Empty where this library is imported: the pipeline is registered then, and the field would make transformers
        ask for `trust_remote_code` all the same.
        """
        if not type(self).__module__.startswith("transformers_modules."):
            return {}
        if self.architectures == ["ClipHFForImageClassification"]:
            impl = "pipeline_clip_hf.ClipHFImageClassificationPipeline"
            return {"image-classification": {"impl": impl, "pt": ["AutoModelForImageClassification"]}}
        if self.architectures != [self._whole_model.rpartition(".")[2]]:
            return {}
        return {self._task: {"impl": self._pipeline, "pt": [self._auto_classes[-1]]}}

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Save config.json; a whole model's says which classes of the repo's own code to load it with."""
        if self.architectures == [self._whole_model.rpartition(".")[2]]:
            auto_map = dict.fromkeys(self._auto_classes, self._whole_model)
            self.auto_map = {**(getattr(self, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _tower_config(self, name: str, base: type) -> PreTrainedConfig:
        config = getattr(self, name)
        if isinstance(config, PreTrainedConfig):
            if base.accepts(config):
                return config
            config = config.to_dict()
        config = {} if config is None else config
        cls = base.class_for(config, f"`{name}`")
        config_dict = {"projection_dim": self.projection_dim, **_from_transformers(config)}
        config_dict.pop("model_type", None)
        if config.get("model_type") in _TRANSFORMERS_MODEL_TYPES:
            config_dict["projection_dim"] = self.projection_dim  # transformers builds with the whole model's, too
        return cls(**config_dict)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Build the configuration from the contents of a config file; unknown options in a tower only warn, too."""
        config_dict = copy.deepcopy(_from_transformers(config_dict))
        for name, tower_class in (("text_config", ClipHFTextConfig), ("vision_config", ClipHFVisionConfig)):
            if isinstance(config_dict.get(name), dict):
                config_dict[name].setdefault("projection_dim", config_dict.get("projection_dim", 512))
                config_dict[name] = tower_class.from_dict(config_dict[name])
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_architecture(cls, name: str, **kwargs) -> "ClipHFConfig":
        """Configuration of one of the nine published models (Radford et al. 2021, tables 19 and 20).

        Args:
            name (`str`): One of `RN50`, `RN101`, `RN50x4`, `RN50x16`, `RN50x64`, `ViT-B/32`, `ViT-B/16`, `ViT-L/14`
                and `ViT-L/14@336px`.
            kwargs: Further arguments of [`ClipHFConfig`]; they overrule the published ones.

        Raises:
            ValueError: if there is no such model.
        """
        if name not in ARCHITECTURES:
            raise ValueError(no_such("architecture", name, ARCHITECTURES, cutoff=0.4))
        return cls(**{**copy.deepcopy(ARCHITECTURES[name]), **kwargs})

    @classmethod
    def from_text_vision_configs(
        cls, text_config: PreTrainedConfig, vision_config: PreTrainedConfig, **kwargs
    ) -> "ClipHFConfig":
        """Configuration of a whole model from those of its towers; arguments and errors as in [`ClipHFConfig`].

        `projection_dim` is by default the text tower's.
        """
        kwargs.setdefault("projection_dim", text_config.projection_dim)
        return cls(text_config=text_config, vision_config=vision_config, **kwargs)

    def validate_architecture(self):
        """Check that the two towers meet in one space."""
        require_sizes(self)
        for name in ("text_config", "vision_config"):
            tower = getattr(self, name)
            if tower.projection_dim != self.projection_dim:
                raise ValueError(
                    f"`{name}.projection_dim` is {tower.projection_dim} and `projection_dim` {self.projection_dim}; "
                    f"the towers meet in one space: leave it out of `{name}`, or give the same number."
                )

    def validate_classifier(self):
        """Check what a classifier stands on, and its cache."""
        most = 2**24 if self.classifier_input == "embedding" else 0
        if self.classifier_input not in ("hidden", "embedding") or not 0 <= self.num_cache_keys <= most:
            raise ValueError(
                f"`classifier_input` is {self.classifier_input!r} and `num_cache_keys` {self.num_cache_keys}; allowed "
                "are 'hidden' with 0 keys, and 'embedding' with 0 to 2**24."
            )


_CONFIG_CLASSES: dict[str, type] = {}


def add_config_class(cls: type) -> None:
    """Make a configuration's `model_type` known to all of ours, and its class to the Auto classes of a saved repo."""
    _CONFIG_CLASSES[cls.model_type] = cls
    # Saving one then copies our files next to it, and names the class in `auto_map`.
    cls.register_for_auto_class("AutoConfig")


for _config_class in (ClipHFTextConfig, ClipHFViTConfig, ClipHFResNetConfig, ClipHFConfig):
    add_config_class(_config_class)
