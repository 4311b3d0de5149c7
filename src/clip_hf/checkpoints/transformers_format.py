# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' folders: `CLIPModel`, in one file or in shards, and single towers for other programs; and our own.

The weights have the same names in both, so reading is a check of names and shapes. What transformers' CLIP cannot
compute (a ResNet tower) is refused.
"""

import copy
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from ..model.configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.modeling_clip_hf import ClipHFModel
from ..utils.json_files import read_json
from .checkpoint import IMAGE_OPTIONS, Checkpoint, SourceOptions, check_no_logit_bias, note_left_out
from .checkpoint_format import CheckpointFormat
from .open_clip_format import WEIGHT_NAMES as OPEN_CLIP_WEIGHT_NAMES
from .open_clip_format import image_processor_from_open_clip
from .openai_names import rename
from .reference import model_features
from .stored_tensor import StoredTensor
from .tokenizer_formats import build_tokenizer, save_for_transformers
from .weight_files import TRANSFORMERS_WEIGHT_NAMES, WeightFile, first_file, save_weights


MODEL_TYPES = ("clip", ClipHFConfig.model_type)
TOWERS = {
    "text": "CLIPTextModel",
    "text_with_projection": "CLIPTextModelWithProjection",
    "vision": "CLIPVisionModel",
    "vision_with_projection": "CLIPVisionModelWithProjection",
}
"""What `save(..., tower=...)` writes: the class of transformers that loads it."""


# ------------------------------------------------------------------------------------------------------------- reading


def read_config_type(folder: Path) -> str | None:
    """The `model_type` in a folder's config.json; `None` where there is no such file."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    return str(config.get("model_type")) if isinstance(config, dict) else "none"


def holds_clip(folder: Path) -> bool:
    """Whether a folder has weights and the config.json of a CLIP; timm writes one of another kind."""
    return read_config_type(folder) in MODEL_TYPES and first_file(folder, TRANSFORMERS_WEIGHT_NAMES) is not None


def _check_position_ids(name: str, tensor: StoredTensor) -> None:
    positions = tensor.read().flatten()
    if not torch.equal(positions.long(), torch.arange(len(positions))):
        raise ValueError(
            f"{name} does not count the positions from 0 on; CLIP's position embeddings have no other order."
        )


# ------------------------------------------------------------------------------------------------------------- writing


def widest_dtype(tensors: dict[str, StoredTensor]) -> torch.dtype:
    """The dtype that holds every floating value of some tensors without loss."""
    result = None
    for dtype in {tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating_point}:
        result = dtype if result is None else torch.promote_types(result, dtype)
    return result or torch.float32


def is_batch_norm(name: str) -> bool:
    """Whether a weight belongs to BatchNorm, which stays in float32 in half precision."""
    # Its variances may exceed what float16 holds.
    return bool(re.search(r"\.bn\d?\.", name))


def config_to_transformers(checkpoint: Checkpoint) -> transformers.CLIPConfig:
    """transformers' configuration for our model; a `ValueError` for a ResNet, which its CLIP does not have."""
    config = checkpoint.config
    if config.vision_config.model_type == ClipHFResNetConfig.model_type:
        raise ValueError(
            f"{checkpoint.source} has a ResNet tower, and transformers' CLIP has vision transformers only. Its text "
            "tower can be written (tower='text')."
        )
    return transformers.CLIPConfig(
        text_config=_text_config(config).to_dict(),
        vision_config=_shared(transformers.CLIPVisionConfig, config.vision_config).to_dict(),
        projection_dim=config.projection_dim,
        logit_scale_init_value=config.logit_scale_init_value,
    )


def _shared(cls: type, tower: Any):
    names = set(cls().to_dict()) - {"model_type", "transformers_version", "architectures", "dtype", "torch_dtype"}
    return cls(**{name: getattr(tower, name) for name in names if hasattr(tower, name)})


def _text_config(config: ClipHFConfig) -> transformers.CLIPTextConfig:
    return _shared(transformers.CLIPTextConfig, config.text_config)


def _tower(checkpoint: Checkpoint, tower: str) -> tuple[Any, str, list[str]]:
    if tower.startswith("vision"):
        config = config_to_transformers(checkpoint).vision_config
        prefixes = ("vision_model.", "visual_projection.")
    else:
        config = _text_config(checkpoint.config)
        prefixes = ("text_model.", "text_projection.")
    # Without the projection too, names begin with the tower's: image generators expect that.
    prefixes = prefixes if tower.endswith("_with_projection") else prefixes[:1]
    return config, TOWERS[tower], [name for name in checkpoint.tensors if name.startswith(prefixes)]


def _save_image_processor(image_processor: ClipHFImageProcessor, folder: Path) -> None:
    options = image_processor.to_dict()
    content = {name: options[name] for name in IMAGE_OPTIONS if name in options}
    content |= {"image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor"}
    text = json.dumps(content, indent=2, sort_keys=True, default=dict) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


class TransformersFormat(CheckpointFormat):
    """Folders of transformers' `CLIPModel`; single towers too."""

    name = "transformers"
    weight_names = TRANSFORMERS_WEIGHT_NAMES
    has_towers = True
    features = staticmethod(partial(model_features, transformers.CLIPModel))

    def reads_file(self, file: WeightFile, path: Path, options: SourceOptions) -> bool:
        """Whether the names are transformers'; ours are the same, so the configuration beside them decides."""
        if "text_model.embeddings.token_embedding.weight" not in file.tensors:
            return False
        if read_config_type(path.parent) is None:
            raise ValueError(
                f"{path} has the names of transformers' CLIP, but there is no config.json beside it, which says what "
                "its weights cannot (the activation, the heads, the end-of-text token). Put the two into one folder."
            )
        return True

    def reads_folder(self, folder: Path) -> bool:
        """Whether there is a config.json of a CLIP, or one of anything and no weights of open_clip's."""
        has_config = (folder / "config.json").is_file()
        return has_config and (holds_clip(folder) or first_file(folder, OPEN_CLIP_WEIGHT_NAMES) is None)

    def read(self, file: WeightFile, path: Path, options: SourceOptions) -> Checkpoint:
        """A checkpoint of weights, whose config.json lies beside them: of transformers' `CLIPModel` or our own."""
        source, folder = str(path), path if path.is_dir() else path.parent
        model_type = read_config_type(folder)
        if model_type == "clip_hf_video":
            raise ValueError(
                f"{folder} is a video model: ClipHFVideoModel.from_pretrained loads it. It cannot be converted, "
                "because no other format holds a temporal head: convert the CLIP that it was made of."
            )
        if model_type not in MODEL_TYPES:
            raise ValueError(
                f"The config.json of {folder} is of a model of type {model_type!r}; a whole CLIP is of type 'clip' "
                f"(transformers) or '{ClipHFConfig.model_type}'. The towers by themselves load with "
                "ClipHFTextModelWithProjection.from_pretrained and ClipHFVisionModelWithProjection.from_pretrained."
            )
        config = ClipHFConfig.from_pretrained(folder)
        if options.config is not None:
            raise ValueError(
                f"`config` is for open_clip's weights; {folder} has its own config.json. Leave `config` out."
            )
        options.check_against(config)
        config.architectures = ["ClipHFModel"]
        weights, ignored = {}, []
        for name, tensor in file.tensors.items():
            if name.endswith("embeddings.position_ids"):
                _check_position_ids(name, tensor)
                ignored.append(name)
            else:
                weights[name] = tensor
        renamed, _ = rename(weights, config, source, has_our_names=True)
        image_processor = None
        if options.preprocess is not None:
            image_processor = image_processor_from_open_clip(options.preprocess, config.vision_config.image_size)
        elif any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            image_processor = ClipHFImageProcessor.from_pretrained(folder)
        tokenizer = build_tokenizer(options.merges, config.text_config, folder)
        format_name = "clip_hf" if model_type == ClipHFConfig.model_type else "transformers"
        return Checkpoint(
            format_name, source, config, renamed, weights, image_processor, tokenizer, note_left_out(ignored)
        )

    def check_holds(self, checkpoint: Checkpoint, tower: str | None) -> None:
        """transformers has no ResNet and no logit bias."""
        if tower is None:
            check_no_logit_bias(checkpoint, self.name)
        if not (tower or "").startswith("text"):
            config_to_transformers(checkpoint)

    def write(self, checkpoint: Checkpoint, path: Path, tower: str | None) -> None:
        """Write a folder that transformers loads without this library."""
        if tower is None:
            config, architecture, names = config_to_transformers(checkpoint), "CLIPModel", list(checkpoint.tensors)
        else:
            config, architecture, names = _tower(checkpoint, tower)
        config.architectures = [architecture]
        tensors = {name: checkpoint.tensors[name] for name in names}
        config.dtype = widest_dtype(tensors)
        config.save_pretrained(path)
        save_weights(tensors, path / TRANSFORMERS_WEIGHT_NAMES[0])
        if checkpoint.tokenizer is not None and not (tower or "").startswith("vision"):
            save_for_transformers(checkpoint.tokenizer, path)
        if checkpoint.image_processor is not None and not (tower or "").startswith("text"):
            _save_image_processor(checkpoint.image_processor, path)

    def source_config(self, checkpoint: Checkpoint, path: Path) -> transformers.CLIPConfig:
        """transformers' own configuration."""
        return transformers.CLIPConfig.from_pretrained(path if path.is_dir() else path.parent)


class ClipHFFormat(TransformersFormat):
    """Our own folders: what `save_pretrained` of [`ClipHFModel`] and [`ClipHFProcessor`] writes."""

    name = "clip_hf"
    has_towers = False
    features = staticmethod(partial(model_features, ClipHFModel))

    def check_holds(self, checkpoint: Checkpoint, tower: str | None) -> None:
        """It holds every model."""

    def write(self, checkpoint: Checkpoint, path: Path, tower: str | None) -> None:
        """Write what `save_pretrained` of [`ClipHFModel`] and [`ClipHFProcessor`] writes."""
        # No second copy of the weights is made for the model that saves them.
        others = {name: tensor for name, tensor in checkpoint.tensors.items() if not is_batch_norm(name)}
        # transformers writes the dtype into the configuration that it is given, which is that of the caller's model.
        config = copy.deepcopy(checkpoint.config)
        with torch.device("meta"):
            model = ClipHFModel._from_config(config, dtype=widest_dtype(others))
        state_dict = {name: tensor.read().contiguous() for name, tensor in checkpoint.tensors.items()}
        model.save_pretrained(path, state_dict=state_dict)
        if checkpoint.processor is not None:
            checkpoint.processor.save_pretrained(path)

    def source_config(self, checkpoint: Checkpoint, path: Path) -> ClipHFConfig:
        """Our configuration."""
        return checkpoint.config
