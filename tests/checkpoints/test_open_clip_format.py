# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""open_clip's folders, configurations and training checkpoints: translated exactly, or refused by name."""

import copy
import json
import shutil

import pytest
import torch
from openai_like import (
    assert_bit_equal,
    assert_same_features,
    features,
    in_precision,
    make_model,
    open_clip_config,
    relative_difference,
    to_openai,
    write_open_clip,
)
from PIL.Image import Resampling
from safetensors.torch import load_file, save_file

from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, checkpoints
from clip_hf.checkpoints import open_clip_format as open_clip


H14 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}
G14 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637}
    | {"patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}
BIG_G14 = {
    "embed_dim": 1280,
    "vision_cfg": {"image_size": 224, "layers": 48, "width": 1664, "head_width": 104, "mlp_ratio": 4.9231}
    | {"patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1280, "heads": 20, "layers": 32},
}
B32_256 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 256, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
B16_PLUS_240 = {
    "embed_dim": 640,
    "vision_cfg": {"image_size": 240, "layers": 12, "width": 896, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 640, "heads": 10, "layers": 12},
}
RN50X4 = {
    "embed_dim": 640,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 288, "layers": [4, 6, 10, 6], "width": 80, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 640, "heads": 10, "layers": 12},
}
# The configuration, and millions of parameters where they are published.
NAMED = {
    "ViT-H-14": (H14, 986.11),
    "ViT-g-14": (G14, 1366.68),
    "ViT-bigG-14": (BIG_G14, 2539.57),
    "ViT-B-32-256": (B32_256, None),
    "ViT-B-16-plus-240": (B16_PLUS_240, 208.38),
    "RN50x4": (RN50X4, None),
}


@pytest.fixture
def weights(source_model):
    """The tiny model's weights under OpenAI's names, which are open_clip's."""
    return to_openai(source_model.state_dict())


@pytest.fixture
def folder(tower, weights, tiny_tokenizer, tmp_path):
    """A folder of open_clip's."""
    return write_open_clip(tmp_path / "theirs", weights, open_clip_config(tower), tiny_tokenizer)


def with_option(tower: str, part: str, **options) -> dict:
    """A `model_cfg` with other options in one of its parts."""
    return open_clip_config(tower, **({part: options} if part else options))["model_cfg"]


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize("precision", ["float32", "float16", "mixed", "bfloat16"])
def test_folders_go_back_bit_for_bit(tower, weights, source_model, precision, tiny_tokenizer, tmp_path):
    weights = in_precision(weights, precision)
    config = open_clip_config(tower)
    theirs = write_open_clip(tmp_path / "theirs", weights, config, tiny_tokenizer)
    model, processor = checkpoints.load(theirs)
    assert isinstance(processor, ClipHFProcessor)
    checkpoints.save(model, processor, tmp_path / "back", format="open_clip")
    assert_bit_equal(load_file(tmp_path / "back" / "open_clip_model.safetensors"), weights)
    if precision == "float32":
        assert_bit_equal(model.state_dict(), source_model.state_dict())
        assert_same_features(features(model), features(source_model))
        assert json.loads((tmp_path / "back" / "open_clip_config.json").read_text()) == config


NAMES = ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.pth"]


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize("name", [*NAMES, "model.safetensors"])
@pytest.mark.parametrize("as_file", [False, True], ids=["folder", "file"])
def test_weights_of_every_name_load(tower, weights, source_model, name, as_file, tiny_tokenizer, tmp_path):
    theirs = write_open_clip(tmp_path, weights, open_clip_config(tower), tiny_tokenizer, name)
    checkpoint = checkpoints.read_checkpoint(theirs / name if as_file else theirs)
    assert checkpoint.format == "open_clip"
    assert_bit_equal({k: tensor.read() for k, tensor in checkpoint.tensors.items()}, source_model.state_dict())


def test_the_configuration_itself_names_its_folder(folder):
    assert checkpoints.read_checkpoint(folder / "open_clip_config.json").format == "open_clip"


def test_weights_are_found_beside_a_config_json_of_no_clip(folder, source_model):
    (folder / "config.json").write_text('{"model_type": "clip"}')
    checkpoint = checkpoints.read_checkpoint(folder)
    assert checkpoint.format == "open_clip"
    assert_bit_equal({k: tensor.read() for k, tensor in checkpoint.tensors.items()}, source_model.state_dict())


def test_a_folder_of_timm_and_open_clip_is_open_clips(folder, source_model):
    # On the hub, timm's repos hold its own configuration and the vision tower under its names, too.
    content = {"architecture": "vit_base_patch32_clip_224", "num_classes": 512, "pretrained_cfg": {"tag": "openai"}}
    (folder / "config.json").write_text(json.dumps(content))
    save_file({"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}, folder / "model.safetensors")
    assert checkpoints.read_checkpoint(folder).format == "open_clip"
    assert_bit_equal(ClipHFModel.from_pretrained(folder).state_dict(), source_model.state_dict())
    assert isinstance(ClipHFProcessor.from_pretrained(folder), ClipHFProcessor)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="a model of type 'None'"):
        checkpoints.read_checkpoint(folder)


def test_a_folder_of_transformers_and_open_clip_is_transformers(source_models, tiny_processor, tmp_path):
    # As LAION's are on the hub.
    model = source_models["vit"]
    checkpoints.save(model, tiny_processor, tmp_path / "it", format="open_clip")
    checkpoints.save(model, tiny_processor, tmp_path / "theirs", format="transformers")
    for path in (tmp_path / "theirs").iterdir():
        shutil.copy(path, tmp_path / "it")
    assert checkpoints.read_checkpoint(tmp_path / "it").format == "transformers"
    assert_bit_equal(ClipHFModel.from_pretrained(tmp_path / "it").state_dict(), model.state_dict())


def test_what_was_trained_is_not_rounded(tower, weights, tiny_tokenizer, tmp_path):
    theirs = write_open_clip(tmp_path / "theirs", in_precision(weights, "mixed"), open_clip_config(tower))
    tiny_tokenizer.save_pretrained(theirs)
    model, processor = checkpoints.load(theirs)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] = 1 + 2**-20
    checkpoints.save(model, processor, tmp_path / "back", format="open_clip")
    back = load_file(tmp_path / "back" / "open_clip_model.safetensors")
    assert {tensor.dtype for tensor in back.values() if tensor.is_floating_point()} == {torch.float32}


def test_pixels_are_prepared_as_the_folder_says(folder):
    image_processor = checkpoints.load(folder)[1].image_processor
    assert list(image_processor.image_mean) == [0.5, 0.4, 0.3]
    assert list(image_processor.image_std) == [0.2, 0.3, 0.4]
    assert dict(image_processor.size) == {"shortest_edge": 64}


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("custom_text", [False, True], ids=["plain", "custom text"])
def test_training_checkpoints_load(tower, weights, source_model, wrapper, custom_text, merges, tmp_path):
    text = "text." if custom_text else ""
    names = {name: name if name.startswith("visual.") or name == "logit_scale" else text + name for name in weights}
    state_dict = {wrapper + names[name]: tensor for name, tensor in weights.items()}
    state_dict[wrapper + "logit_scale"] = weights["logit_scale"].reshape(1)
    content = {"epoch": 3, "name": "run", "state_dict": state_dict, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / "epoch_3.pt")
    config = open_clip_config(tower)
    model, processor = checkpoints.load(tmp_path / "epoch_3.pt", config=config, merges=merges)
    assert model.logit_scale.shape == ()
    assert_bit_equal(model.state_dict(), source_model.state_dict())
    assert list(processor.image_processor.image_mean) == [0.5, 0.4, 0.3]
    # With preprocess given, it comes before what the configuration says.
    options = {"config": config, "merges": merges, "preprocess": "openai"}
    _, processor = checkpoints.load(tmp_path / "epoch_3.pt", **options)
    assert processor.image_processor.image_mean[0] == pytest.approx(0.48145466)


def test_prefixes_that_only_some_names_have_are_refused(weights, tmp_path):
    torch.save(
        {("module." if name != "ln_final.bias" else "") + name: t for name, t in weights.items()}, tmp_path / "a"
    )
    with pytest.raises(ValueError, match="some names begin with 'module.' and some do not, such as ln_final.bias"):
        checkpoints.load(tmp_path / "a")


# --------------------------------------------------------------------------------------------------- what is asked for


OPTIONS = {"text_heads": 2, "preprocess": "openai", "hidden_act": "quick_gelu", "vision_heads": 2}


@pytest.mark.parametrize("left_out", [*OPTIONS, None])
def test_what_weights_alone_do_not_say_is_asked_for(weights, source_model, left_out, merges, tmp_path):
    write_open_clip(tmp_path, weights, None, name="open_clip_pytorch_model.bin")
    options = {name: value for name, value in OPTIONS.items() if name != left_out}
    path = tmp_path / "open_clip_pytorch_model.bin"
    if left_out is None:
        model, _ = checkpoints.load(path, merges=merges, **options)
        assert_same_features(features(model), features(source_model))
        return
    with pytest.raises(ValueError, match=f"all of: {left_out}\\. ") as caught:
        checkpoints.load(path, **options)
    for part in (str(path), "open_clip_config.json", "`config`"):
        assert part in str(caught.value)


@pytest.mark.parametrize("how", ["safetensors", "training", "custom text", "bin", "name"])
def test_nothing_of_open_clips_is_taken_for_openais(weights, how, tmp_path):
    names = {"safetensors": "a.safetensors", "bin": "a.bin", "name": "open_clip_pytorch_model.pth"}
    path = tmp_path / names.get(how, "a.pt")
    if how == "custom text":
        weights = {name if name.startswith(("visual.", "logit")) else f"text.{name}": t for name, t in weights.items()}
    content = {"state_dict": weights, "epoch": 1} if how == "training" else weights
    if how == "safetensors":
        write_open_clip(tmp_path, weights, None, name=path.name)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="text_heads, preprocess, hidden_act, vision_heads"):
        checkpoints.load(path)


def test_options_decide_what_is_computed(source_models, merges, tmp_path):
    write_open_clip(tmp_path, to_openai(source_models["vit"].state_dict()), None)
    found = {}
    for hidden_act in ("quick_gelu", "gelu"):
        for heads in (2, 8):
            options = {**OPTIONS, "hidden_act": hidden_act, "vision_heads": heads, "merges": merges}
            model, _ = checkpoints.load(tmp_path, **options)
            assert model.config.vision_config.num_attention_heads == heads
            found[hidden_act, heads] = features(model)["image"]
    for choice in (("gelu", 2), ("quick_gelu", 8)):
        assert relative_difference(found[choice], found["quick_gelu", 2]) > 1e-3


@pytest.mark.parametrize("kind", ["dict", "file", "folder", "model_cfg alone"])
def test_a_configuration_may_be_given_in_every_form(tower, weights, source_model, kind, merges, tmp_path):
    write_open_clip(tmp_path / "weights", weights, None)
    config = open_clip_config(tower)
    if kind in ("file", "folder"):
        config = tmp_path / "open_clip_config.json"
        config.write_text(json.dumps(open_clip_config(tower)))
        config = config if kind == "file" else tmp_path
    elif kind == "model_cfg alone":
        config = config["model_cfg"]
    model, processor = checkpoints.load(tmp_path / "weights", config=config, merges=merges)
    assert_bit_equal(model.state_dict(), source_model.state_dict())
    mean = 0.48145466 if kind == "model_cfg alone" else 0.5
    assert processor.image_processor.image_mean[0] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", "is no configuration of open_clip's"), ("{", "is no JSON file"), ('{"embed_dim": 3}', "it lacks one of")],
)
def test_what_is_no_configuration_is_refused(weights, content, message, tmp_path):
    write_open_clip(tmp_path, weights, None)
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ValueError, match=f"mine.json.* {message}"):
        checkpoints.load(tmp_path, config=tmp_path / "mine.json")
    with pytest.raises(FileNotFoundError, match="no configuration of open_clip's at .*other.json"):
        checkpoints.load(tmp_path, config=tmp_path / "other.json")


def test_a_configuration_that_is_given_comes_before_the_folders(tower, folder):
    given = open_clip_config(tower, quick_gelu=False)
    given["preprocess_cfg"]["mean"] = [0.1, 0.1, 0.1]
    model, processor = checkpoints.load(folder, config=given)
    assert model.config.text_config.hidden_act == "gelu"
    assert list(processor.image_processor.image_mean) == [0.1, 0.1, 0.1]


def test_an_activation_that_contradicts_the_configuration_is_refused(folder):
    with pytest.raises(ValueError, match="hidden_act='gelu' was given, but the configuration says 'quick_gelu'"):
        checkpoints.load(folder, hidden_act="gelu")
    checkpoints.load(folder, hidden_act="quick_gelu")


def test_end_of_text_elsewhere_goes_there_and_back(tmp_path):
    model = make_model("vit", text={"eos_token_id": 17, "bos_token_id": 16, "pad_token_id": 17})
    checkpoints.save(model, None, tmp_path / "theirs", format="open_clip")
    written = json.loads((tmp_path / "theirs" / "open_clip_config.json").read_text())
    assert written["model_cfg"]["text_cfg"]["pool_type"] == "eos"
    assert written["model_cfg"]["text_cfg"]["eos_id"] == 17
    back, _ = checkpoints.load(tmp_path / "theirs")
    assert back.config.text_config.eos_token_id == 17


@pytest.mark.parametrize(("option", "value"), [("text_heads", 4), ("vision_heads", 8)])
def test_heads_that_contradict_the_configuration_are_refused(folder, option, value):
    with pytest.raises(ValueError, match=f"{option}={value} was given, but the configuration says 2"):
        checkpoints.load(folder, **{option: value})
    checkpoints.load(folder, **{option: 2})


def test_another_tokenizer_is_asked_for(tower, weights, merges, tmp_path):
    config = open_clip_config(tower, text_cfg={"hf_tokenizer_name": "somebody/else"})
    write_open_clip(tmp_path, weights, config)
    with pytest.raises(ValueError, match="hf_tokenizer_name='somebody/else'.*give its folder as `merges`"):
        checkpoints.load(tmp_path)
    assert isinstance(checkpoints.load(tmp_path, merges=merges)[1], ClipHFProcessor)


# ------------------------------------------------------------------------------------- options of open_clip's, by name


UNSUPPORTED = {
    "init_logit_bias": -10.0,
    "multimodal_cfg": {"width": 8},
    "text_cfg.hf_model_name": "roberta-base",
    "text_cfg.embed_cls": True,
    "text_cfg.no_causal_mask": True,
    "text_cfg.proj_bias": True,
    "text_cfg.proj_type": "none",
    "text_cfg.tokenizer_mode": "clips",
    "text_cfg.tokenizer_kwargs": {"clean": "canonicalize"},
    "text_cfg.final_ln_after_pool": True,
    "text_cfg.ls_init_value": 0.1,
    "text_cfg.output_tokens": True,
    "vision_cfg.timm_model_name": "resnet50",
    "vision_cfg.attentional_pool": True,
    "vision_cfg.no_ln_pre": True,
    "vision_cfg.pos_embed_type": "sin_cos_2d",
    "vision_cfg.final_ln_after_pool": True,
    "vision_cfg.pool_type": "avg",
    "vision_cfg.ls_init_value": 1e-4,
    "vision_cfg.output_tokens": True,
    "vision_cfg.block_type": "custom",
    "vision_cfg.qk_norm": True,
    "vision_cfg.scaled_cosine_attn": True,
    "vision_cfg.scale_heads": True,
    "vision_cfg.scale_attn_inner": True,
    "vision_cfg.scale_attn": True,
    "vision_cfg.scale_fc": True,
    "quick_gelus": True,
    "text_cfg.new_option": 3,
    "vision_cfg.new_option": False,
}


def test_no_unsupported_option_is_left_out_here():
    known = {f"{part}.{name}".removeprefix(".") for part, names in open_clip._UNSUPPORTED.items() for name in names}
    shared = {f"text_cfg.{name}" for name in open_clip._BLOCK_OPTIONS}
    assert known - shared <= UNSUPPORTED.keys()


@pytest.mark.parametrize("option", UNSUPPORTED)
def test_an_option_without_counterpart_is_named(option):
    part, _, name = option.rpartition(".")
    value = UNSUPPORTED[option]
    with pytest.raises(ValueError, match="no counterpart here") as caught:
        checkpoints.config_from_open_clip(with_option("vit", part, **{name: value}))
    assert f"{option}={value!r}" in str(caught.value)
    assert ("(unknown)" in str(caught.value)) == (name in ("quick_gelus", "new_option"))


def test_all_such_options_are_named_at_once():
    model_cfg = with_option("vit", "text_cfg", embed_cls=True) | {"init_logit_bias": -10}
    model_cfg["vision_cfg"]["qk_norm"] = True
    with pytest.raises(ValueError) as caught:
        checkpoints.config_from_open_clip(model_cfg)
    for part in ("text_cfg.embed_cls=True", "init_logit_bias=-10", "vision_cfg.qk_norm=True"):
        assert part in str(caught.value)


HARMLESS = {
    "custom_text": True,
    "output_dict": True,
    "nonscalar_logit_scale": True,
    "multimodal_cfg": None,
    "text_cfg.pad_id": 3,
    "text_cfg.hf_proj_type": "mlp",
    "text_cfg.embed_cls": False,
    "text_cfg.proj_type": "linear",
    "text_cfg.ls_init_value": None,
    "text_cfg.pool_type": "argmax",
    "text_cfg.act_kwargs": {},
    "vision_cfg.timm_model_name": "",
    "vision_cfg.timm_pool": "avg",
    "vision_cfg.pool_type": "tok",
    "vision_cfg.attn_pooler_heads": 8,
    "vision_cfg.patch_dropout": 0.5,
    "vision_cfg.norm_kwargs": {"eps": 1e-5},
    "vision_cfg.image_size": [64, 64],
    "vision_cfg.patch_size": [16, 16],
}


@pytest.mark.parametrize("option", HARMLESS)
def test_options_without_effect_are_accepted(option):
    part, _, name = option.rpartition(".")
    expected = checkpoints.config_from_open_clip(with_option("vit", "")).to_dict()
    model_cfg = with_option("vit", part, **{name: HARMLESS[option]})
    before = copy.deepcopy(model_cfg)
    assert checkpoints.config_from_open_clip(model_cfg).to_dict() == expected
    assert model_cfg == before


def test_patch_dropout_is_noted(weights, tower, tiny_tokenizer, tmp_path):
    config = open_clip_config(tower, vision_cfg={"patch_dropout": 0.5})
    write_open_clip(tmp_path, weights, config, tiny_tokenizer)
    notes = checkpoints.read_checkpoint(tmp_path).notes
    assert notes == ["vision_cfg.patch_dropout=0.5 acts in training only and is not carried over."]


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("vision_cfg", {"image_size": [64, 96]}, "vision_cfg.image_size=.*not square"),
        ("vision_cfg", {"patch_size": [16, 8]}, "vision_cfg.patch_size=.*not square"),
        ("text_cfg", {"pool_type": "last"}, "text_cfg.pool_type='last' has no counterpart"),
        ("text_cfg", {"pool_type": "none"}, "text_cfg.pool_type='none' has no counterpart"),
        ("text_cfg", {"act_kwargs": {"approximate": "tanh"}}, "text_cfg.act_kwargs=.*no counterpart"),
        ("vision_cfg", {"act_kwargs": {"inplace": True}}, "vision_cfg.act_kwargs=.*no counterpart"),
        ("vision_cfg", {"norm_kwargs": {"eps": 1e-6, "bias": False}}, "vision_cfg.norm_kwargs={'bias': False}"),
        ("text_cfg", {"norm_kwargs": {"elementwise_affine": False}}, "text_cfg.norm_kwargs="),
    ],
)
def test_values_without_counterpart_are_named(part, options, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.config_from_open_clip(with_option("vit", part, **options))


def test_values_are_translated():
    model_cfg = with_option("vit", "vision_cfg", norm_kwargs={"eps": 1e-6}, mlp_ratio=4.3637, head_width=32)
    model_cfg["quick_gelu"], model_cfg["init_logit_scale"] = False, 1.5
    model_cfg["text_cfg"] |= {"act_kwargs": {"approximate": "tanh"}, "pool_type": "eos", "eos_id": 7, "mlp_ratio": 3.5}
    config = checkpoints.config_from_open_clip(model_cfg)
    text, vision = config.text_config, config.vision_config
    assert (vision.layer_norm_eps, vision.intermediate_size, vision.num_attention_heads) == (1e-6, 558, 4)
    assert (vision.hidden_act, text.hidden_act, config.logit_scale_init_value) == ("gelu", "gelu_pytorch_tanh", 1.5)
    assert (text.eos_token_id, text.intermediate_size, text.layer_norm_eps) == (7, 448, 1e-5)


def test_defaults_are_open_clips():
    config = checkpoints.config_from_open_clip({"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}})
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.num_attention_heads, text.num_hidden_layers, text.vocab_size) == (512, 8, 12, 49408)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size) == (768, 12, 16, 224)
    assert (text.hidden_act, vision.hidden_act, vision.num_attention_heads) == ("gelu", "gelu", 12)


# ------------------------------------------------------------------------------------------------------- preprocessing


def test_preprocessing_is_openais_by_default():
    for given in ("openai", {}):
        found = open_clip.image_processor_from_open_clip(given, 48)
        assert found.resample == Resampling.BICUBIC
        assert dict(found.size) == {"shortest_edge": 48}
        assert dict(found.crop_size) == {"height": 48, "width": 48}
        assert list(found.image_mean) == [0.48145466, 0.4578275, 0.40821073]
        assert list(found.image_std) == [0.26862954, 0.26130258, 0.27577711]


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"mean": [0.1, 0.2, 0.3]}, "image_mean", [0.1, 0.2, 0.3]),
        ({"std": 0.5}, "image_std", [0.5, 0.5, 0.5]),
        ({"interpolation": "bilinear"}, "resample", Resampling.BILINEAR),
        ({"interpolation": "random"}, "resample", Resampling.BICUBIC),
        ({"resize_mode": "squash"}, "do_center_crop", False),
        ({"fill_color": 0, "mode": "RGB", "size": 64}, "do_center_crop", True),
    ],
)
def test_preprocessing_is_translated(options, name, value):
    found = getattr(open_clip.image_processor_from_open_clip(options, 64), name)
    assert (list(found) if isinstance(value, list) else found) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_mode": "longest"}, "resize_mode='longest'"),
        ({"interpolation": "nearest"}, "interpolation='nearest'"),
        ({"mode": "L"}, "mode='L'"),
        ({"crop_pct": 0.9}, "Unknown option `crop_pct` of preprocess_cfg"),
        ("imagenet", "preprocess='imagenet' must be 'openai' or a mapping"),
        ([1], r"preprocess=\[1\] must be"),
    ],
)
def test_preprocessing_without_counterpart_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        open_clip.image_processor_from_open_clip(options, 64)


@pytest.mark.parametrize("given", [{"resize_mode": "squash"}, {"interpolation": "bilinear"}, {"std": [0.1, 0.2, 0.3]}])
def test_preprocessing_goes_back(given):
    expected = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}
    expected |= {"resize_mode": "shortest", **given}
    processor = open_clip.image_processor_from_open_clip(expected, 64)
    assert open_clip.preprocess_to_open_clip(processor, 64, "it") == expected


@pytest.mark.parametrize("options", [{"do_normalize": False}, {"resample": 0}, {"size": {"shortest_edge": 72}}])
def test_preprocessing_that_open_clip_lacks_is_refused(source_models, options, tmp_path):
    square = {"height": 64, "width": 64}
    processor = ClipHFImageProcessor(**{"size": {"shortest_edge": 64}, "crop_size": square, **options})
    with pytest.raises(
        ValueError, match="cannot be written in open_clip's format, which has .* The image processor has do"
    ):
        checkpoints.save(source_models["vit"], processor, tmp_path / "ours", format="open_clip")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- known models


@pytest.mark.parametrize("name", NAMED)
def test_published_sizes(name):
    model_cfg, millions = NAMED[name]
    config = checkpoints.config_from_open_clip(model_cfg)
    vision = model_cfg["vision_cfg"]
    assert config.vision_config.image_size == vision["image_size"]
    assert config.text_config.num_attention_heads == model_cfg["text_cfg"]["heads"]
    if name == "RN50x4":
        assert config.vision_config.num_attention_heads == 40
        published = ClipHFConfig.from_architecture("RN50x4").vision_config.to_dict()
        assert config.vision_config.to_dict() == published
    else:
        assert config.vision_config.num_attention_heads == {"ViT-B-16-plus-240": 14, "ViT-B-32-256": 12}.get(name, 16)
        assert config.text_config.hidden_act == config.vision_config.hidden_act == "gelu"
    if millions is not None:
        with torch.device("meta"):
            model = ClipHFModel(config)
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", NAMED)
def test_configurations_go_back(name):
    model_cfg, _ = NAMED[name]
    config = checkpoints.config_from_open_clip(model_cfg)
    back = open_clip.config_to_open_clip(config, "it")
    assert back == model_cfg
    assert checkpoints.config_from_open_clip(back).to_dict() == config.to_dict()


@pytest.mark.parametrize("intermediate_size", range(300, 400, 7))
def test_every_ratio_goes_back(intermediate_size):
    config = make_model("vit", vision={"intermediate_size": intermediate_size}).config
    back = checkpoints.config_from_open_clip(open_clip.config_to_open_clip(config, "it"))
    assert back.vision_config.intermediate_size == intermediate_size


SCALED = {
    "H": ({"hidden_size": 160, "intermediate_size": 640, "num_attention_heads": 2}, {}),
    "g": ({"hidden_size": 88, "intermediate_size": 383, "num_attention_heads": 1, "patch_size": 14}, {}),
    "epsilon": ({"layer_norm_eps": 1e-3}, {"layer_norm_eps": 1e-4}),
    "tanh": ({"hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": "gelu_pytorch_tanh"}),
    "heads": ({}, {"num_attention_heads": 8, "intermediate_size": 333}),
}


@pytest.mark.parametrize("name", SCALED)
def test_models_unlike_openais_go_there_and_back(name, tiny_processor, tmp_path):
    vision, text = SCALED[name]
    act = {} if "hidden_act" in vision else {"hidden_act": "gelu"}
    model = make_model("vit", vision={**act, **vision}, text={**act, **text})
    checkpoints.save(model, tiny_processor, tmp_path / "theirs", format="open_clip")
    back, processor = checkpoints.load(tmp_path / "theirs")
    for part in ("vision_config", "text_config"):
        found, expected = (getattr(config, part).to_dict() | {"dtype": None} for config in (back.config, model.config))
        assert found == expected
    assert_same_features(features(back), features(model))
    assert processor.tokenizer.get_vocab() == tiny_processor.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"hidden_act": "gelu"}}, "towers of which one uses QuickGELU and the other does not"),
        ({"text": {"hidden_act": "relu"}}, "text_cfg: the activation 'relu'"),
        ({"vision": {"num_channels": 1}}, "images of 1 channels"),
    ],
)
def test_models_that_open_clip_lacks_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match="cannot be written in open_clip's format") as caught:
        checkpoints.save(make_model("vit", **changes), None, tmp_path / "ours", format="open_clip")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- weights and key errors


def test_weights_are_held_against_the_configuration(tower, weights, tiny_tokenizer, tmp_path):
    config = open_clip_config(tower, text_cfg={"layers": 3})
    write_open_clip(tmp_path, weights, config, tiny_tokenizer)
    with pytest.raises(ValueError, match="lacks the weights transformer.resblocks.2.attn.in_proj_weight.* and 4 more"):
        checkpoints.load(tmp_path)
    config = open_clip_config(tower, text_cfg={"layers": 1, "context_length": 25})
    write_open_clip(tmp_path, weights, config)
    with pytest.raises(ValueError, match="no place for transformer.resblocks.1") as caught:
        checkpoints.load(tmp_path)
    assert "positional_embedding (24 x 128 instead of 25 x 128)" in str(caught.value)


def test_a_logit_bias_is_refused(tower, weights, tiny_tokenizer, tmp_path):
    weights["logit_bias"] = torch.tensor(-10.0)
    write_open_clip(tmp_path, weights, open_clip_config(tower), tiny_tokenizer)
    with pytest.raises(ValueError, match="has a logit_bias: it was trained with the sigmoid loss"):
        checkpoints.load(tmp_path)


def test_masks_are_left_out_and_counters_filled(weights, tiny_tokenizer, tmp_path):
    weights["attn_mask"] = torch.full((24, 24), -torch.inf).triu(1)
    resnet = "visual.attnpool.k_proj.bias" in weights
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    write_open_clip(tmp_path, kept, open_clip_config("resnet" if resnet else "vit"), tiny_tokenizer)
    notes = checkpoints.read_checkpoint(tmp_path).notes
    assert notes[0] == "No weights, left out: attn_mask."
    assert len(notes) == (2 if resnet else 1)
