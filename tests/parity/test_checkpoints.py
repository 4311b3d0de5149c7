# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints of OpenAI's code, open_clip and transformers: read, compared with those libraries, and written back."""

import copy
import json
import sys

import pytest
import torch
import transformers
from openai_models import (
    SHAPES,
    assert_bit_equal,
    calibrate_model,
    config_of,
    in_float64,
    openai_model,
    relative_difference,
    token_ids,
)

import references
from clip_hf import ClipHFModel, checkpoints
from clip_hf.checkpoints.openai_names import our_shapes, source_shape, weight_table
from clip_hf.checkpoints.stored_tensor import StoredTensor


LIMIT = 1e-10  # relative, in float64


@pytest.fixture(scope="module")
def inputs():
    """For a configuration: images (3, 3, size, size) in float64 and texts (3, context length)."""

    def make(config):
        torch.manual_seed(1)
        size = config.vision_config.image_size
        pixels = torch.randn(3, 3, size, size) + 3 * torch.randn(3, 3, 1, 1)
        return pixels.double(), token_ids(config, 3)

    return make


def assert_same_features(ours: ClipHFModel, theirs: torch.nn.Module, pixels, ids, name: str) -> None:
    ours.double()
    with torch.no_grad():
        expected = {"image": theirs.encode_image(pixels), "text": theirs.encode_text(ids)}
        actual = {
            "image": ours.get_image_features(pixels).pooler_output,
            "text": ours.get_text_features(ids).pooler_output,
        }
    for kind, features in expected.items():
        assert relative_difference(features[0], features[1]) > 0.2, kind
        difference = relative_difference(actual[kind], features)
        print(f"{name} {kind} float64: relative difference {difference:.1e}")
        assert difference <= LIMIT, kind


def weights_of(path) -> dict[str, torch.Tensor]:
    """The weights in a file or folder, under the names that they have there."""
    return {name: tensor.read() for name, tensor in checkpoints.read_checkpoint(path).source_tensors.items()}


def half(model: torch.nn.Module) -> torch.nn.Module:
    """Half precision as OpenAI's code makes it: norms and embeddings stay in float32."""
    references.load_openai_model_module().convert_weights(model)
    return model


# ------------------------------------------------------------------------------------------------------------ OpenAI's


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_openai_state_dicts_load_and_go_back(shape, precision, inputs, tmp_path):
    torch.manual_seed(0)
    config = config_of(shape)
    theirs = openai_model(config)
    if precision == "float16":
        half(theirs)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    model, processor = checkpoints.load(tmp_path / "theirs.pt")
    checkpoints.save(model, processor, tmp_path / "back.pt", format="openai")
    assert_bit_equal(weights_of(tmp_path / "back.pt"), dict(theirs.state_dict()))
    checkpoints.save(model, processor, tmp_path / "ours")
    assert_same_features(model, in_float64(theirs), *inputs(config), f"{shape} from {precision}")
    assert processor.image_processor.crop_size["height"] == config.vision_config.image_size
    assert processor.tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    reloaded = ClipHFModel.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    assert_same_features(reloaded, theirs, *inputs(config), f"{shape} from {precision}, converted")


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("shape", ["small ResNet", "small ViT", "RN50", "ViT-B/32"])
def test_torchscript_archives_load_without_torch_jit(shape, precision, inputs, tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = config_of(shape)
    theirs = openai_model(config)
    # The published archives hold these sizes beside the weights.
    for name, size in (
        ("input_resolution", config.vision_config.image_size),
        ("context_length", config.text_config.max_position_embeddings),
        ("vocab_size", config.text_config.vocab_size),
    ):
        delattr(theirs, name) if hasattr(theirs, name) else None
        theirs.register_buffer(name, torch.tensor(size))
    expected = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    if precision == "float16":
        expected = {name: tensor.clone() for name, tensor in half(theirs).state_dict().items()}
        # Traced in float32, for this processor has few kernels of half precision; then filled with the halved weights.
        theirs.float()
    pixels, ids = inputs(config)
    archive = torch.jit.trace(theirs, (pixels[:1].float(), ids[:1]), check_trace=False)
    if precision == "float16":
        for name, parameter in archive.named_parameters():
            parameter.data = expected[name].clone()
    archive.save(str(tmp_path / "model.pt"))

    def forbidden(*args, **kwargs):
        raise AssertionError("torch.jit.load must not be called")

    monkeypatch.setattr(torch.jit, "load", forbidden)
    monkeypatch.setattr(torch._C, "import_ir_module", forbidden)
    report = checkpoints.convert(tmp_path / "model.pt", tmp_path / "ours")
    print(report)
    assert report.source_format == "openai" and not [note for note in report.notes if "which program" in note]
    model, processor = checkpoints.load(tmp_path / "model.pt")
    checkpoints.save(model, processor, tmp_path / "back.pt", format="openai")
    sizes = ("input_resolution", "context_length", "vocab_size")
    expected = {name: tensor for name, tensor in expected.items() if name not in sizes}
    assert_bit_equal(weights_of(tmp_path / "back.pt"), expected)
    assert_same_features(model, in_float64(theirs), pixels, ids, f"{shape} TorchScript {precision}")


# ----------------------------------------------------------------------------------------------------------- open_clip


OPEN_CLIP = {
    "small ResNet": {
        "embed_dim": 32,
        "vision_cfg": {"layers": [2, 1, 2, 1], "width": 16, "image_size": 96},
        "text_cfg": {"width": 64, "heads": 2, "layers": 3, "context_length": 32},
    },
    # What ViT-H/14 and its larger sisters have: GELU, heads of another width, another ratio of the MLP.
    "small ViT": {
        "embed_dim": 48,
        "vision_cfg": {"layers": 3, "width": 160, "head_width": 80, "mlp_ratio": 4.3637, "patch_size": 14}
        | {"image_size": 84},
        "text_cfg": {"width": 96, "heads": 3, "layers": 2, "mlp_ratio": 3.5},
    },
    "small QuickGELU ViT": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64, "norm_kwargs": {"eps": 1e-6}},
        "text_cfg": {"width": 64, "heads": 2, "layers": 2, "norm_kwargs": {"eps": 1e-6}},
    },
    "small tanh ViT": {
        "embed_dim": 48,
        "vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "image_size": 64}
        | {"act_kwargs": {"approximate": "tanh"}},
        "text_cfg": {"width": 64, "heads": 2, "layers": 2, "act_kwargs": {"approximate": "tanh"}}
        | {"pool_type": "eos", "eos_id": 49407},
    },
}
NAMED = ("RN50", "RN50x4-quickgelu", "ViT-B-32")


def open_clip_module(name: str):
    """A module of open_clip's; its package exports functions of the same names."""
    references.load_open_clip()
    return sys.modules[f"open_clip.{name}"]


def open_clip_model(model_cfg: dict, custom_text: bool = False) -> torch.nn.Module:
    """open_clip's model with every tensor random or measured, in evaluation mode."""
    open_clip = references.load_open_clip()
    cls = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model = cls(**copy.deepcopy(model_cfg))
    calibrate_model(model, model_cfg["vision_cfg"]["image_size"])
    return model.eval()


def save_as_open_clip(model, model_cfg: dict, folder) -> None:
    """What open_clip's own uploads write, but for the tokenizer, which comes from the hub there."""
    preprocess_cfg = open_clip_module("transform").PreprocessCfg

    class NoTokenizer:
        def save_pretrained(self, folder):
            pass

    model.visual.image_mean, model.visual.image_std = preprocess_cfg.mean, preprocess_cfg.std
    model.visual.preprocess_cfg = {"interpolation": "bicubic", "resize_mode": "shortest"}
    open_clip_module("push_to_hf_hub").save_for_hf(model, NoTokenizer(), model_cfg, folder)


def model_cfg_of(name: str) -> dict:
    if name in OPEN_CLIP:
        return copy.deepcopy(OPEN_CLIP[name])
    return references.load_open_clip().get_model_config(name)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", [*OPEN_CLIP, *NAMED])
def test_open_clip_folders_load_and_go_back(name, precision, inputs, tmp_path):
    torch.manual_seed(0)
    model_cfg = model_cfg_of(name)
    theirs = open_clip_model(model_cfg)
    if precision == "float16":
        open_clip_module("model").convert_weights_to_lp(theirs, torch.float16)
    save_as_open_clip(theirs, model_cfg, tmp_path / "theirs")
    model, processor = checkpoints.load(tmp_path / "theirs")
    checkpoints.save(model, processor, tmp_path / "back", format="open_clip")
    factory = open_clip_module("factory")
    state_dict = factory.load_state_dict(tmp_path / "back" / "open_clip_model.safetensors")
    assert_bit_equal(state_dict, {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()})
    pixels, ids = inputs(model.config)
    assert_same_features(model, in_float64(theirs), pixels, ids, f"{name} from {precision}")
    # And open_clip makes the same model of the folder that we wrote.
    again = in_float64(factory.create_model(f"local-dir:{tmp_path / 'back'}").eval())
    with torch.no_grad():
        assert relative_difference(again.encode_image(pixels), theirs.encode_image(pixels)) <= LIMIT
        assert relative_difference(again.encode_text(ids), theirs.encode_text(ids)) <= LIMIT


@pytest.mark.parametrize("custom_text", [False, True], ids=["plain", "custom text"])
@pytest.mark.parametrize("name", ["small ResNet", "small ViT"])
def test_open_clip_training_checkpoints_load(name, custom_text, inputs, tmp_path):
    torch.manual_seed(0)
    model_cfg = model_cfg_of(name)
    theirs = open_clip_model(model_cfg, custom_text)
    optimizer = torch.optim.AdamW(theirs.parameters())
    state_dict = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    state_dict["module.logit_scale"] = state_dict["module.logit_scale"].reshape(1)
    content = {"epoch": 3, "name": "run", "state_dict": state_dict, "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "epoch_3.pt")
    with pytest.raises(ValueError, match="Give `config`"):
        checkpoints.load(tmp_path / "epoch_3.pt")
    (tmp_path / "mine.json").write_text(json.dumps(model_cfg))
    model, _ = checkpoints.load(tmp_path / "epoch_3.pt", config=tmp_path / "mine.json", preprocess="openai")
    assert model.logit_scale.shape == ()
    assert_same_features(model, in_float64(theirs), *inputs(model.config), f"{name} training checkpoint")


def test_every_plain_model_of_open_clip_has_our_shapes():
    open_clip = references.load_open_clip()
    supported, refused = [], {}
    for name in open_clip.list_models():
        model_cfg = open_clip.get_model_config(name)
        try:
            config = checkpoints.config_from_open_clip(model_cfg)
        except ValueError as error:
            refused[name] = str(error)
            continue
        with torch.device("meta"):
            theirs = open_clip.CLIP(**{key: value for key, value in model_cfg.items() if key != "custom_text"})
        expected = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
        shapes = our_shapes(config)
        assert {weight.source: source_shape(weight, shapes) for weight in weight_table(config)} == expected, name
        heads = theirs.transformer.resblocks[0].attn.num_heads
        assert config.text_config.num_attention_heads == heads, name
        if hasattr(theirs.visual, "transformer"):
            assert config.vision_config.num_attention_heads == theirs.visual.transformer.resblocks[0].attn.num_heads
        else:
            assert config.vision_config.num_attention_heads == theirs.visual.attnpool.num_heads
        assert config.vision_config.image_size == open_clip.transform.to_2tuple(theirs.visual.image_size)[0]
        supported.append(name)
    print(f"{len(supported)} of open_clip's models have our shapes: {', '.join(supported)}")
    for name in ("ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-B-32-256", "ViT-B-16-plus-240", "RN50x4", "RN50x64"):
        assert name in supported
    # All others have an option that we lack, and the message names it.
    assert all("no counterpart here" in message for message in refused.values())
    assert "timm_model_name" in refused["ViT-B-16-SigLIP"]
    assert "hf_model_name" in refused["roberta-ViT-B-32"]
    assert "multimodal_cfg" in refused["coca_ViT-B-32"]
    assert "ls_init_value" in refused["ViT-M-16-alt"]
    assert "no_ln_pre" in refused["ViT-L-14-CLIPA"]


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_open_clips(resize_mode, interpolation, images):
    statistics = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    options = {**statistics, "interpolation": interpolation, "resize_mode": resize_mode}
    theirs = open_clip_module("transform").image_transform(64, is_train=False, **options)
    ours = checkpoints.open_clip_format.image_processor_from_open_clip(options, 64)
    for image in images:
        pixels = ours(image, return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(pixels, theirs(image), rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("shape", ["small ViT", "ViT-B/32"])
def test_transformers_folders_load_and_go_back(shape, precision, inputs, tmp_path):
    torch.manual_seed(0)
    config = config_of(shape)
    source = checkpoints.Checkpoint("clip_hf", "the test", config, *({},) * 2)
    theirs = transformers.CLIPModel(checkpoints.transformers_format.config_to_transformers(source)).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.ndim == 1:
            # Larger biases would drown the images: transformers' initial matrices are small.
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.05)
    theirs.to(getattr(torch, precision)).save_pretrained(tmp_path / "theirs", max_shard_size="1MB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    model, processor = checkpoints.load(tmp_path / "theirs", preprocess="openai")
    checkpoints.save(model, processor, tmp_path / "back", format="transformers")
    back = transformers.CLIPModel.from_pretrained(tmp_path / "back")
    assert back.dtype == theirs.dtype
    assert_bit_equal(back.state_dict(), theirs.state_dict())
    pixels, ids = inputs(config)
    theirs.double()
    theirs.encode_image = lambda pixels: theirs.get_image_features(pixels).pooler_output
    theirs.encode_text = lambda ids: theirs.get_text_features(ids).pooler_output
    assert_same_features(model, theirs, pixels, ids, f"{shape} from transformers, {precision}")
    stored = {name: StoredTensor.of(tensor) for name, tensor in theirs.state_dict().items()}
    assert set(stored) == set(our_shapes(config))
