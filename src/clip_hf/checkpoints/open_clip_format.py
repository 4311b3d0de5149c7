# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""open_clip's files: weights with `open_clip_config.json` beside them, and checkpoints of its training.

The configuration comes from open_clip's, and every weight is held against it. An option that changes what the model
computes, and that has no counterpart here, is refused by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..model.checks_clip_hf import unknown_option
from ..model.configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFViTConfig
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..utils.json_files import read_json
from .checkpoint import IMAGE_OPTIONS, Checkpoint, SourceOptions, check_no_logit_bias, note_left_out
from .checkpoint_format import CheckpointFormat
from .openai_format import config_from_shapes, is_openai_named, take_extras
from .openai_names import rename, rename_back
from .reference import openai_features
from .tokenizer_formats import build_tokenizer, has_tokenizer, is_openais, save_for_transformers
from .weight_files import TRANSFORMERS_WEIGHT_NAMES, WeightFile, first_file, save_weights


CONFIG_NAME = "open_clip_config.json"
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)

# Option: the value with which it changes nothing (its default in open_clip 3.3). Others have no counterpart here.
_BLOCK_OPTIONS = {
    "ls_init_value": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "output_tokens": False,
}
_UNSUPPORTED = {
    "": {"init_logit_bias": None, "multimodal_cfg": None},
    "text_cfg": {
        **_BLOCK_OPTIONS,
        "hf_model_name": None,
        "embed_cls": False,
        "no_causal_mask": False,
        "proj_bias": False,
        "proj_type": "linear",
        "tokenizer_kwargs": None,
        "tokenizer_mode": None,
        "final_ln_after_pool": False,
    },
    "vision_cfg": {
        **_BLOCK_OPTIONS,
        "timm_model_name": None,
        "attentional_pool": False,
        "no_ln_pre": False,
        "pos_embed_type": "learnable",
        "final_ln_after_pool": False,
        "pool_type": "tok",
    },
}
# Options without effect on the features of a model whose options above have their defaults.
_WITHOUT_EFFECT = {
    "": {"custom_text", "nonscalar_logit_scale", "output_dict"},
    "text_cfg": {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "pad_id"},
    "vision_cfg": {
        "attn_pooler_queries",
        "attn_pooler_heads",
        "timm_model_pretrained",
        "timm_pool",
        "timm_proj",
        "timm_proj_bias",
        "timm_drop",
        "timm_drop_path",
    },
}
_TRANSLATED = {
    "": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type", "eos_id"}
    | {"act_kwargs", "norm_kwargs", "hf_tokenizer_name"},
    "vision_cfg": {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"}
    | {"act_kwargs", "norm_kwargs"},
}
# Our name: open_clip's `quick_gelu` and `act_kwargs`.
_ACTIVATIONS = {
    "quick_gelu": (True, {}),
    "gelu": (False, {}),
    "gelu_pytorch_tanh": (False, {"approximate": "tanh"}),
}
_PREPROCESS_KEYS = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
# Of an image processor: what open_clip's transform for inference does not leave open.
_GEOMETRY = [name for name in IMAGE_OPTIONS if name not in ("image_mean", "image_std")]
# open_clip's transform for inference uses the bicubic filter where training draws one at random.
_FILTERS = {"bicubic": Resampling.BICUBIC, "bilinear": Resampling.BILINEAR, "random": Resampling.BICUBIC}


# ------------------------------------------------------------------------------------------------------- configuration


def read_config(config: dict[str, Any] | str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's configuration of a model and of its preprocessing: `model_cfg` and `preprocess_cfg`.

    `config` is `open_clip_config.json`, or one of open_clip's `model_configs`, or the folder or the content of one.
    """
    where = "`config`"
    if not isinstance(config, dict):
        path = Path(config) / CONFIG_NAME if Path(config).is_dir() else Path(config)
        where = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no configuration of open_clip's at {path}.")
        config = read_json(path)
    model_cfg = config.get("model_cfg", config) if isinstance(config, dict) else None
    parts = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(model_cfg, dict) or any(name not in model_cfg for name in parts):
        raise ValueError(f"{where} is no configuration of open_clip's: it lacks one of {', '.join(parts)}.")
    return model_cfg, config.get("preprocess_cfg") or {}


def _refuse_unsupported(model_cfg: Mapping[str, Any]) -> None:
    unsupported = []
    for part, options in _UNSUPPORTED.items():
        values = model_cfg.get(part) or {} if part else model_cfg
        prefix = f"{part}." if part else ""
        for name, value in values.items():
            if name in options:
                if value != options[name] and not (options[name] in (None, False) and not value):
                    unsupported.append(f"{prefix}{name}={value!r}")
            elif name not in _TRANSLATED[part] | _WITHOUT_EFFECT[part]:
                unsupported.append(f"{prefix}{name}={value!r} (unknown)")
    if unsupported:
        raise ValueError(
            f"This model of open_clip's has options that have no counterpart here: {', '.join(unsupported)}. Use "
            "open_clip for it."
        )


def _hidden_act(quick_gelu: bool, act_kwargs: Mapping[str, Any] | None, part: str) -> str:
    given = {} if act_kwargs == {"approximate": "none"} and not quick_gelu else act_kwargs or {}
    for name, options in _ACTIVATIONS.items():
        if options == (quick_gelu, given):
            return name
    raise ValueError(f"{part}.act_kwargs={act_kwargs!r} has no counterpart here. Use open_clip for this model.")


def _layer_norm_eps(norm_kwargs: Mapping[str, Any] | None, part: str) -> float:
    norm_kwargs = dict(norm_kwargs or {})
    eps = norm_kwargs.pop("eps", 1e-5)
    if norm_kwargs:
        raise ValueError(f"{part}.norm_kwargs={norm_kwargs!r} has no counterpart here. Use open_clip for this model.")
    return eps


def _side(size: Any, option: str) -> int:
    """The side of a square."""
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise ValueError(f"vision_cfg.{option}={size!r}: what is not square has no counterpart here.")
    return size


def config_from_open_clip(model_cfg: Mapping[str, Any]) -> ClipHFConfig:
    """Our configuration of a model of open_clip's.

    Args:
        model_cfg (`dict`): the content of one of open_clip's `model_configs`, or `model_cfg` of
            `open_clip_config.json`.

    Raises:
        ValueError: if an option has no counterpart here; the message names all of them.
    """
    _refuse_unsupported(model_cfg)
    text, vision = dict(model_cfg["text_cfg"]), dict(model_cfg["vision_cfg"])
    quick_gelu, projection_dim = bool(model_cfg.get("quick_gelu", False)), model_cfg["embed_dim"]
    width = text.get("width", 512)
    vocab_size = text.get("vocab_size", 49408)
    pool_type = text.get("pool_type", "argmax")
    if pool_type not in ("argmax", "eos"):
        raise ValueError(f"text_cfg.pool_type={pool_type!r} has no counterpart here. Use open_clip for this model.")
    text_config = ClipHFTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=int(width * text.get("mlp_ratio", 4.0)),
        num_hidden_layers=text.get("layers", 12),
        num_attention_heads=text.get("heads", 8),
        max_position_embeddings=text.get("context_length", 77),
        hidden_act=_hidden_act(quick_gelu, text.get("act_kwargs"), "text_cfg"),
        layer_norm_eps=_layer_norm_eps(text.get("norm_kwargs"), "text_cfg"),
        # "argmax" takes the features at the highest id of the text.
        eos_token_id=text.get("eos_id", 2) if pool_type == "eos" else vocab_size - 1,
        projection_dim=projection_dim,
    )
    config = ClipHFConfig(
        text_config=text_config,
        vision_config=_vision_config(vision, quick_gelu, projection_dim),
        projection_dim=projection_dim,
    )
    if model_cfg.get("init_logit_scale") is not None:
        config.logit_scale_init_value = float(model_cfg["init_logit_scale"])
    config.architectures = ["ClipHFModel"]
    return config


def _vision_config(vision: Mapping[str, Any], quick_gelu: bool, projection_dim: int):
    width, head_width = vision.get("width", 768), vision.get("head_width", 64)
    image_size = _side(vision.get("image_size", 224), "image_size")
    layers = vision.get("layers", 12)
    if isinstance(layers, (list, tuple)):
        return ClipHFResNetConfig(
            stage_depths=list(layers),
            width=width,
            num_attention_heads=width * 32 // head_width,
            image_size=image_size,
            projection_dim=projection_dim,
        )
    return ClipHFViTConfig(
        hidden_size=width,
        intermediate_size=int(width * vision.get("mlp_ratio", 4.0)),
        num_hidden_layers=layers,
        num_attention_heads=width // head_width,
        image_size=image_size,
        patch_size=_side(vision.get("patch_size", 16), "patch_size"),
        hidden_act=_hidden_act(quick_gelu, vision.get("act_kwargs"), "vision_cfg"),
        layer_norm_eps=_layer_norm_eps(vision.get("norm_kwargs"), "vision_cfg"),
        projection_dim=projection_dim,
    )


def image_processor_from_open_clip(preprocess_cfg: Mapping[str, Any] | str, image_size: int) -> ClipHFImageProcessor:
    """Our image processor for open_clip's transform for inference.

    What `preprocess_cfg` leaves out has open_clip's defaults: OpenAI's transform, which `"openai"` stands for.
    """
    if preprocess_cfg == "openai":
        preprocess_cfg = {}
    if not isinstance(preprocess_cfg, Mapping):
        raise ValueError(f"preprocess={preprocess_cfg!r} must be 'openai' or a mapping of open_clip's options.")
    for name in sorted(preprocess_cfg.keys() - _PREPROCESS_KEYS):
        raise ValueError(unknown_option(name, "preprocess_cfg", _PREPROCESS_KEYS))
    settings = {name: value for name, value in preprocess_cfg.items() if value is not None}
    interpolation, resize_mode = settings.get("interpolation", "bicubic"), settings.get("resize_mode", "shortest")
    mode = settings.get("mode", "RGB")
    if interpolation not in _FILTERS or resize_mode not in ("shortest", "squash") or mode != "RGB":
        raise ValueError(
            f"preprocess_cfg has interpolation={interpolation!r}, resize_mode={resize_mode!r}, "
            f"mode={mode!r}; counterparts exist for interpolation {', '.join(_FILTERS)}, "
            "resize_mode shortest, squash, and mode RGB."
        )
    crop_size = {"height": image_size, "width": image_size}
    squash = resize_mode == "squash"
    return ClipHFImageProcessor(
        size=crop_size if squash else {"shortest_edge": image_size},
        crop_size=crop_size,
        do_center_crop=not squash,
        resample=_FILTERS[interpolation],
        image_mean=_three(settings.get("mean", OPENAI_CLIP_MEAN)),
        image_std=_three(settings.get("std", OPENAI_CLIP_STD)),
    )


def _three(values: Any) -> list[float]:
    return [float(value) for value in values] if isinstance(values, (list, tuple)) else [float(values)] * 3


# ------------------------------------------------------------------------------------------------------------- reading


def _plain_name(name: str) -> str:
    # open_clip's CustomTextCLIP keeps the text tower in a module of its own.
    return name.removeprefix("text.")


def _notes_on(model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]) -> list[str]:
    notes = []
    dropout = model_cfg["vision_cfg"].get("patch_dropout", 0.0)
    if dropout:
        notes.append(f"vision_cfg.patch_dropout={dropout} acts in training only and is not carried over.")
    if not preprocess_cfg:
        notes.append(
            "There is no preprocess_cfg: images are prepared as open_clip does without one, which is OpenAI's way."
        )
    return notes


def _ask_for_options(source: str, resnet: bool, options: SourceOptions) -> None:
    needed = ["text_heads", "preprocess", "hidden_act", "vision_heads"]
    missing = [name for name in needed if getattr(options, name) is None]
    if missing:
        raise ValueError(
            f"{source} is open_clip's and has no {CONFIG_NAME} beside it, and its weights do not say everything. "
            "Give `config` (that file, or the JSON of the model in open_clip's model_configs), or all of: "
            f"{', '.join(missing)}. {'A ResNet has' if resnet else 'Most of open_clip has'} heads of 64 channels, "
            "but not all of its models; its own models use 'gelu', OpenAI's weights 'quick_gelu'; "
            "preprocess='openai' is the default."
        )


# ------------------------------------------------------------------------------------------------------------- writing


def config_to_open_clip(config: ClipHFConfig, source: str) -> dict[str, Any]:
    """open_clip's configuration for our model; a `ValueError` names all options that have no counterpart there."""
    text, vision, problems = config.text_config, config.vision_config, []
    resnet = vision.model_type == ClipHFResNetConfig.model_type
    towers = {"text_cfg": text} if resnet else {"text_cfg": text, "vision_cfg": vision}
    for part, tower in towers.items():
        if tower.hidden_act not in _ACTIVATIONS:
            problems.append(f"{part}: the activation {tower.hidden_act!r} (there are {', '.join(_ACTIVATIONS)})")
    quick_gelu = {_ACTIVATIONS.get(tower.hidden_act, (None,))[0] for tower in towers.values()}
    if len(quick_gelu) > 1:
        problems.append("towers of which one uses QuickGELU and the other does not")
    if vision.num_channels != 3:
        problems.append(f"images of {vision.num_channels} channels")
    if problems:
        raise ValueError(f"{source} cannot be written in open_clip's format, which has no {'; no '.join(problems)}.")
    text_cfg = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        **_tower_options(text),
    }
    if text.eos_token_id != text.vocab_size - 1:
        text_cfg |= {"pool_type": "eos", "eos_id": text.eos_token_id}
    vision_cfg = {"image_size": vision.image_size, "width": vision.width if resnet else vision.hidden_size}
    head_width = vision.hidden_size // vision.num_attention_heads
    if head_width != 64:
        vision_cfg["head_width"] = head_width
    if resnet:
        vision_cfg |= {"layers": list(vision.stage_depths), "patch_size": None}
    else:
        vision_cfg |= {"layers": vision.num_hidden_layers, "patch_size": vision.patch_size}
        vision_cfg |= _tower_options(vision)
    model_cfg = {"embed_dim": config.projection_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    return model_cfg | ({"quick_gelu": True} if quick_gelu == {True} else {})


def _tower_options(tower: ClipHFTextConfig | ClipHFViTConfig) -> dict[str, Any]:
    result = {}
    if tower.intermediate_size != 4 * tower.hidden_size:
        # open_clip rounds the product down, and prints four digits where those are enough.
        exact = tower.intermediate_size / tower.hidden_size
        ratios = (round(exact, 4), round(exact + 5e-5, 4), exact, (tower.intermediate_size + 0.5) / tower.hidden_size)
        result["mlp_ratio"] = next(
            ratio for ratio in ratios if int(tower.hidden_size * ratio) == tower.intermediate_size
        )
    if _ACTIVATIONS[tower.hidden_act][1]:
        result["act_kwargs"] = dict(_ACTIVATIONS[tower.hidden_act][1])
    if tower.layer_norm_eps != 1e-5:
        result["norm_kwargs"] = {"eps": tower.layer_norm_eps}
    return result


def preprocess_to_open_clip(image_processor: ClipHFImageProcessor, image_size: int, source: str) -> dict[str, Any]:
    """open_clip's `preprocess_cfg` for our image processor; a `ValueError` if it cannot do the same."""
    options = image_processor.to_dict()
    filters = {int(value): name for name, value in _FILTERS.items() if name != "random"}
    size, square = options.get("size"), {"height": image_size, "width": image_size}
    squash = size == square and not options.get("do_center_crop")
    fits = (
        (squash or (size == {"shortest_edge": image_size} and options.get("crop_size") == square))
        and all(options.get(name) for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"))
        and options.get("resample") in filters
        and abs(options.get("rescale_factor", 0) * 255 - 1) < 1e-12
    )
    if not fits:
        raise ValueError(
            f"{source} cannot be written in open_clip's format, which has images resized to the model's {image_size} "
            "pixels by the shorter side and cropped, or squashed, with a bicubic or bilinear filter, and normalised. "
            f"The image processor has {', '.join(f'{name}={options.get(name)!r}' for name in _GEOMETRY)}."
        )
    return {
        "mean": list(options["image_mean"]),
        "std": list(options["image_std"]),
        "interpolation": filters[options["resample"]],
        "resize_mode": "squash" if squash else "shortest",
    }


def config_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of `open_clip_config.json` for our model; a `ValueError` if open_clip cannot do the same."""
    config = checkpoint.config
    content = {"model_cfg": config_to_open_clip(config, checkpoint.source)}
    if checkpoint.image_processor is not None:
        image_size = config.vision_config.image_size
        content["preprocess_cfg"] = preprocess_to_open_clip(checkpoint.image_processor, image_size, checkpoint.source)
    if checkpoint.tokenizer is not None and not is_openais(checkpoint.tokenizer):
        # Without it open_clip takes OpenAI's; in a local folder any name stands for the folder's own tokenizer.
        content["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "tokenizer-of-this-folder"
    return content


class OpenClipFormat(CheckpointFormat):
    """open_clip's folders, weights and training checkpoints."""

    name = "open_clip"
    config_name = CONFIG_NAME
    weight_names = (*WEIGHT_NAMES, *TRANSFORMERS_WEIGHT_NAMES)
    keeps_norms_in_float32 = True
    features = staticmethod(openai_features)

    def reads_file(self, file: WeightFile, path: Path, options: SourceOptions) -> bool:
        """Whether a file of OpenAI's names was written by open_clip: it lies beside an optimizer or open_clip's
        configuration, or has one of its file names. Such weights do not say which activation they were trained with.
        """
        if file.kind == "torchscript" or not is_openai_named({_plain_name(name) for name in file.tensors}):
            return False
        return (
            file.is_training_checkpoint
            or file.kind == "safetensors"
            or path.suffix == ".bin"
            or path.name in WEIGHT_NAMES
            or any(name.startswith("text.") for name in file.tensors)
            or options.config is not None
            or (path.parent / CONFIG_NAME).is_file()
        )

    def reads_folder(self, folder: Path) -> bool:
        """Whether there are weights; their configuration may be given as an option."""
        return first_file(folder, self.weight_names) is not None

    def read(self, file: WeightFile, path: Path, options: SourceOptions) -> Checkpoint:
        """A checkpoint of weights, whose configuration and tokenizer may lie beside them."""
        source, folder = str(path), path if path.is_dir() else path.parent
        tensors = {_plain_name(name): tensor for name, tensor in file.tensors.items()}
        weights, sizes, ignored = take_extras(tensors)
        if "logit_bias" in weights:
            raise ValueError(f"{source} has a logit_bias: it was trained with the sigmoid loss, and is not converted.")
        notes = note_left_out(ignored)
        config_source = options.config
        if config_source is None and (folder / CONFIG_NAME).is_file():
            config_source = folder / CONFIG_NAME
        if config_source is None:
            _ask_for_options(source, any(name.startswith("visual.layer1.") for name in weights), options)
            config, preprocess_cfg = config_from_shapes(weights, sizes, options), {}
            config.architectures = ["ClipHFModel"]
            tokenizer_name = None
        else:
            model_cfg, preprocess_cfg = read_config(config_source)
            tokenizer_name = model_cfg["text_cfg"].get("hf_tokenizer_name")
            config = config_from_open_clip(model_cfg)
            notes += _notes_on(model_cfg, preprocess_cfg)
            options.check_against(config)
        if options.preprocess is not None:
            preprocess_cfg = options.preprocess
        renamed, filled = rename(weights, config, source)
        notes += filled
        image_processor = image_processor_from_open_clip(preprocess_cfg, config.vision_config.image_size)
        if tokenizer_name and options.merges is None and not has_tokenizer(folder):
            raise ValueError(
                f"text_cfg.hf_tokenizer_name={tokenizer_name!r}: the tokenizer of this model is another repo's; give "
                "its folder as `merges`."
            )
        tokenizer = build_tokenizer(options.merges, config.text_config, folder)
        return Checkpoint(self.name, source, config, renamed, weights, image_processor, tokenizer, notes)

    def check_holds(self, checkpoint: Checkpoint, tower: str | None) -> None:
        """open_clip's configuration has no place for some options."""
        check_no_logit_bias(checkpoint, self.name)
        config_of(checkpoint)

    def write(self, checkpoint: Checkpoint, path: Path, tower: str | None) -> None:
        """Write a folder that open_clip loads as `local-dir:FOLDER`, or from the hub."""
        if checkpoint.tokenizer is not None:
            save_for_transformers(checkpoint.tokenizer, path)
        (path / CONFIG_NAME).write_text(json.dumps(config_of(checkpoint), indent=2) + "\n", encoding="utf-8")
        save_weights(rename_back(checkpoint.tensors, checkpoint.config), path / WEIGHT_NAMES[0])
