# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sources for the tests of checkpoints: tiny models under OpenAI's names, written out by hand, not by our table."""

import copy
import json
import re
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from clip_hf import ClipHFModel
from tiny_models import CONTEXT_LENGTH, IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


TEXT = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
}
VISION = {
    "vit": {
        "model_type": "clip_hf_vit",
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 16,
        "image_size": IMAGE_SIZE,
    },
    "resnet": {"model_type": "clip_hf_resnet", "stage_depths": [1, 2, 1, 1], "width": 4, "image_size": IMAGE_SIZE},
}
# What open_clip's configuration of the same models is.
OPEN_CLIP = {
    "vit": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 24, "vocab_size": 600, "width": 128, "heads": 2, "layers": 2},
    },
    "resnet": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "patch_size": None},
        "text_cfg": {"context_length": 24, "vocab_size": 600, "width": 128, "heads": 2, "layers": 2},
    },
}

_RENAMED = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^vision_model\.stem\.", "visual."),
    (r"^vision_model\.attention_pool\.position_embedding\.weight$", "visual.attnpool.positional_embedding"),
    (r"^vision_model\.attention_pool\.", "visual.attnpool."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.bn\.", ".downsample.1."),
)


def make_model(tower: str, seed: int = 0, text: dict | None = None, vision: dict | None = None, **kwargs):
    """A tiny model that OpenAI's format can hold; no gain, bias or position of it is a constant."""
    text_config, vision_config = {**TEXT, **(text or {})}, {**VISION[tower], **(vision or {})}
    model = make_tiny_model(tower, seed, text_config=text_config, vision_config=vision_config, **kwargs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + name.endswith("weight"))
            elif name.endswith("bias") and ".bn" not in name:
                parameter.normal_(std=0.2)
    return model


def to_openai(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a model of ours under OpenAI's names: right-multiplied and packed where those are."""
    resnet, result = "visual_projection.bias" in weights, {}
    for ours, tensor in weights.items():
        name = ours
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        stage = re.match(r"vision_model\.encoder\.stages\.(\d)\.blocks\.(\d+\..*)", name)
        name = f"visual.layer{int(stage[1]) + 1}.{stage[2]}" if stage else name
        if name.startswith("visual_projection."):
            name = name.replace("visual_projection.", "visual.attnpool.c_proj.") if resnet else "visual.proj"
        part = re.match(r"(.*\.attn\.)([qkv])_proj\.(.*)", name)
        if part and part[2] != "q":
            continue
        if part:
            tensor = torch.cat([weights[ours.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
            name = f"{part[1]}in_proj_{part[3]}"
        result[name] = tensor.T.contiguous() if name in ("text_projection", "visual.proj") else tensor.clone()
    return result


def is_halved(name: str) -> bool:
    """Whether OpenAI's half precision halves the weight of this name: convolutions, linear layers, projections."""
    kept = ("ln_", "bn", "downsample.1.", "embedding", "logit_scale")
    return not any(part in name for part in kept)


def in_precision(weights: dict[str, torch.Tensor], precision: str) -> dict[str, torch.Tensor]:
    """Weights in a dtype; `"mixed"` is OpenAI's: float16 but for norms and embeddings."""
    result = {}
    for name, tensor in weights.items():
        dtype = torch.float32
        if precision == "mixed":
            dtype = torch.float16 if is_halved(name) else torch.float32
        elif precision != "float32":
            dtype = getattr(torch, precision)
        result[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return result


def open_clip_config(tower: str, **options) -> dict:
    """`open_clip_config.json` of a tiny model; `options` are more of `model_cfg`, merged into its parts."""
    model_cfg = copy.deepcopy(OPEN_CLIP[tower])
    # Its vocabulary is not OpenAI's: the tokenizer is that of the folder.
    model_cfg["text_cfg"]["hf_tokenizer_name"] = "tokenizer-of-this-folder"
    for name, value in options.items():
        model_cfg[name] = {**model_cfg.get(name, {}), **value} if name.endswith("_cfg") and value else value
    preprocess_cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
    return {"model_cfg": model_cfg, "preprocess_cfg": {**preprocess_cfg, "resize_mode": "shortest"}}


def write_open_clip(
    folder: Path, weights: dict[str, torch.Tensor], config: dict | None, tokenizer=None, name: str | None = None
) -> Path:
    """A folder as open_clip has it on the hub; `name` is that of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name or "open_clip_model.safetensors"
    if name.endswith(".safetensors"):
        save_file(weights, folder / name, metadata={"format": "pt"})
    else:
        torch.save(weights, folder / name)
    if config is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def assert_bit_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Check that the same names have the same values of the same dtype."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def read_as_openai(path: Path) -> dict[str, torch.Tensor]:
    """The weights that OpenAI's `clip.load` finds in a file; `build_model` drops the sizes of the model as well."""
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own end
        weights = torch.jit.load(file, map_location="cpu").eval().state_dict()
    for name in ("input_resolution", "context_length", "vocab_size"):
        assert weights.pop(name).dtype == torch.int64
    return weights


def inputs_of(model: ClipHFModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (3, 3, size, size) in float64 and texts (3, context length) of three lengths."""
    generator = torch.Generator().manual_seed(7)
    text, size = model.config.text_config, model.config.vision_config.image_size
    # A colour cast of its own for each image: noise alone is the same to a random vision transformer.
    pixels = torch.randn(3, 3, size, size, generator=generator) + 3 * torch.randn(3, 3, 1, 1, generator=generator)
    ids = torch.randint(1, text.vocab_size - 2, (3, text.max_position_embeddings), generator=generator)
    for row, end in enumerate((4, 11, text.max_position_embeddings - 1)):
        ids[row, 0], ids[row, end], ids[row, end + 1 :] = text.bos_token_id, text.eos_token_id, 0
    return pixels.double(), ids


@torch.no_grad()
def features(model) -> dict[str, torch.Tensor]:
    """Features, not normalised, that a copy of a whole CLIP in float64 computes of fixed inputs."""
    model = copy.deepcopy(model).double().eval()
    pixels, ids = inputs_of(model)
    return {
        "image": model.get_image_features(pixel_values=pixels).pooler_output,
        "text": model.get_text_features(input_ids=ids).pooler_output,
    }


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def assert_same_features(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Check that features are the same up to rounding in float64, and that they say something."""
    for kind, values in found.items():
        assert relative_difference(expected[kind][:1], expected[kind][1:2]) > 0.05, kind
        assert relative_difference(values, expected[kind]) <= 1e-10, kind
