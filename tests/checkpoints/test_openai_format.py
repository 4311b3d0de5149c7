# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""State dicts of OpenAI's names: read, written back bit for bit, and refused where they do not fit."""

import copy
import math

import pytest
import torch
from openai_like import (
    assert_bit_equal,
    assert_same_features,
    features,
    in_precision,
    make_model,
    read_as_openai,
    relative_difference,
    to_openai,
)

from clip_hf import ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, checkpoints


def save(path, weights):
    torch.save(weights, path)
    return path


@pytest.fixture
def weights(source_model):
    """The tiny model's weights under OpenAI's names."""
    return to_openai(source_model.state_dict())


# ------------------------------------------------------------------------------------------------------ names by hand


def test_names_shapes_and_layouts_of_a_vit(source_models, tmp_path):
    model = source_models["vit"]
    checkpoints.save(model, None, tmp_path / "vit.pt", format="openai")
    written, ours = read_as_openai(tmp_path / "vit.pt"), model.state_dict()
    assert written["visual.proj"].shape == (128, 16)
    assert torch.equal(written["visual.proj"], ours["visual_projection.weight"].T)
    assert torch.equal(written["text_projection"], ours["text_projection.weight"].T)
    attention = "vision_model.encoder.layers.1.self_attn"
    parts = [ours[f"{attention}.{part}_proj.weight"] for part in ("q", "k", "v")]
    assert torch.equal(written["visual.transformer.resblocks.1.attn.in_proj_weight"], torch.cat(parts))
    parts = [ours[f"text_model.encoder.layers.0.self_attn.{part}_proj.bias"] for part in ("q", "k", "v")]
    assert torch.equal(written["transformer.resblocks.0.attn.in_proj_bias"], torch.cat(parts))
    for theirs, here in {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "transformer.resblocks.1.mlp.c_proj.weight": "text_model.encoder.layers.1.mlp.fc2.weight",
        "transformer.resblocks.1.ln_2.bias": "text_model.encoder.layers.1.layer_norm2.bias",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }.items():
        assert torch.equal(written[theirs], ours[here]), theirs
    # 12 for each of the four layers, 6 around the text tower's and 8 around the vision tower's.
    assert len(written) == 4 * 12 + 6 + 8


def test_names_shapes_and_layouts_of_a_resnet(source_models, tmp_path):
    model = source_models["resnet"]
    checkpoints.save(model, None, tmp_path / "resnet.pt", format="openai")
    written, ours = read_as_openai(tmp_path / "resnet.pt"), model.state_dict()
    for theirs, here in {
        "visual.conv3.weight": "vision_model.stem.conv3.weight",
        "visual.bn1.running_mean": "vision_model.stem.bn1.running_mean",
        "visual.layer2.1.conv2.weight": "vision_model.encoder.stages.1.blocks.1.conv2.weight",
        "visual.layer1.0.downsample.0.weight": "vision_model.encoder.stages.0.blocks.0.shortcut.conv.weight",
        "visual.layer4.0.downsample.1.running_var": "vision_model.encoder.stages.3.blocks.0.shortcut.bn.running_var",
        "visual.attnpool.positional_embedding": "vision_model.attention_pool.position_embedding.weight",
        "visual.attnpool.k_proj.bias": "vision_model.attention_pool.k_proj.bias",
        "visual.attnpool.c_proj.weight": "visual_projection.weight",
        "visual.attnpool.c_proj.bias": "visual_projection.bias",
    }.items():
        assert torch.equal(written[theirs], ours[here]), theirs
    assert "visual.layer2.1.downsample.0.weight" not in written
    assert written["visual.attnpool.c_proj.weight"].shape == (16, 128)
    assert written["visual.bn1.num_batches_tracked"].dtype == torch.int64


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.slow_but_for("vit", "resnet-float32")
@pytest.mark.parametrize("precision", ["float32", "float16", "mixed", "bfloat16"])
def test_state_dicts_go_back_bit_for_bit(weights, source_model, precision, merges, tmp_path):
    weights = in_precision(weights, precision)
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    assert len(dtypes) == (2 if precision == "mixed" else 1)
    path = save(tmp_path / "theirs.pt", weights)
    model, processor = checkpoints.load(path, merges=merges)
    assert isinstance(processor, ClipHFProcessor)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    checkpoints.save(model, processor, tmp_path / "back.pt", format="openai")
    assert_bit_equal(read_as_openai(tmp_path / "back.pt"), weights)
    if precision == "float32":
        assert_bit_equal(model.state_dict(), source_model.state_dict())
        assert_same_features(features(model), features(source_model))


def test_what_was_trained_is_not_rounded(weights, merges, tmp_path):
    path = save(tmp_path / "theirs.pt", in_precision(weights, "mixed"))
    model, processor = checkpoints.load(path, merges=merges)
    with torch.no_grad():
        # No number of float16.
        model.text_projection.weight[0, 0] = 1 + 2**-20
    checkpoints.save(model, processor, tmp_path / "back.pt", format="openai")
    back = read_as_openai(tmp_path / "back.pt")
    assert {tensor.dtype for tensor in back.values() if tensor.is_floating_point()} == {torch.float32}
    assert back["text_projection"][0, 0] == 1 + 2**-20
    # Said so, it is rounded; norms and embeddings are not.
    checkpoints.save(model, processor, tmp_path / "half.pt", format="openai", dtype=torch.float16)
    half = read_as_openai(tmp_path / "half.pt")
    assert half["text_projection"][0, 0] == 1
    assert_bit_equal(half, in_precision(back, "mixed"))


def test_the_model_does_not_depend_on_the_file(weights, merges, tmp_path):
    path = save(tmp_path / "theirs.pt", weights)
    model, _ = checkpoints.load(path, merges=merges)
    before = features(model)
    # A mapped file shows what is written into it.
    path.write_bytes(bytes(path.stat().st_size))
    assert_same_features(features(model), before)


@pytest.mark.slow_but_for("vit", "resnet-auto")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, "bfloat16", "auto"])
def test_load_converts(weights, dtype, merges, tmp_path):
    path = save(tmp_path / "theirs.pt", in_precision(weights, "float16"))
    model, _ = checkpoints.load(path, dtype=dtype, merges=merges)
    expected = {"auto": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, dtype)
    for name, parameter in model.named_parameters():
        kept = ".bn" in name and expected != torch.float64
        assert parameter.dtype == (torch.float32 if kept else expected), name


def test_batch_norm_may_exceed_half_precision(source_models, merges, tmp_path):
    weights = to_openai(source_models["resnet"].state_dict())
    variance = weights["visual.bn1.running_var"]
    variance.copy_(variance * 1e6 + 1 / 3)
    path = save(tmp_path / "theirs.pt", weights)
    model, _ = checkpoints.load(path, dtype=torch.float16, merges=merges)
    assert torch.equal(model.vision_model.stem.bn1.running_var, variance)
    options = checkpoints.SourceOptions(merges=merges, preprocess="openai")
    report = checkpoints.convert(path, tmp_path / "ours", dtype=torch.float16, options=options)
    assert report.dtypes.keys() == {"float32", "float16", "int64"}
    ours = ClipHFModel.from_pretrained(tmp_path / "ours")
    assert ours.dtype == torch.float16
    assert torch.equal(ours.vision_model.stem.bn1.running_var, variance)


def test_values_too_large_for_a_dtype_are_refused(weights, tmp_path):
    weights["ln_final.bias"][3] = 1e6
    path = save(tmp_path / "theirs.pt", weights)
    with pytest.raises(ValueError, match="final_layer_norm.bias has values up to 1e"):
        checkpoints.load(path, dtype=torch.float16)


# ------------------------------------------------------------------------------------------- what the file leaves open


def test_configuration_is_told_from_shapes(weights, tower, tmp_path):
    config = checkpoints.read_checkpoint(save(tmp_path / "theirs.pt", weights)).config
    text, vision = config.text_config, config.vision_config
    assert (text.vocab_size, text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (600, 128, 512, 2)
    assert (text.num_attention_heads, text.max_position_embeddings, text.eos_token_id) == (2, 24, 599)
    assert (text.hidden_act, text.layer_norm_eps, config.projection_dim) == ("quick_gelu", 1e-5, 16)
    assert (vision.image_size, vision.hidden_size, vision.num_attention_heads) == (64, 128, 2)
    if tower == "vit":
        assert (vision.patch_size, vision.num_hidden_layers, vision.hidden_act) == (16, 2, "quick_gelu")
    else:
        assert (vision.stage_depths, vision.width) == ([1, 2, 1, 1], 4)


def test_a_file_that_does_not_say_its_program_is_noted(weights, merges, tmp_path):
    path = save(tmp_path / "theirs.pt", weights)
    options = checkpoints.SourceOptions(merges=merges)
    assert any("which program wrote it" in note for note in checkpoints.read_checkpoint(path, options).notes)


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_options_overrule_openais_code(source_models, hidden_act, merges, tmp_path):
    path = save(tmp_path / "theirs.pt", to_openai(source_models["vit"].state_dict()))
    model, _ = checkpoints.load(path, hidden_act=hidden_act, text_heads=4, vision_heads=8, merges=merges)
    assert model.config.text_config.hidden_act == model.config.vision_config.hidden_act == hidden_act
    assert model.config.text_config.num_attention_heads == 4
    assert model.config.vision_config.num_attention_heads == 8
    difference = relative_difference(features(model)["text"], features(source_models["vit"])["text"])
    assert difference > 1e-3


@pytest.mark.parametrize(("part", "option"), [("text", "text_heads"), ("vision", "vision_heads")])
def test_heads_are_asked_for_where_the_width_does_not_say(part, option, tmp_path):
    model = make_model("vit", **{part: {"hidden_size": 96, "num_attention_heads": 3}})
    path = save(tmp_path / "theirs.pt", to_openai(model.state_dict()))
    with pytest.raises(ValueError, match=f"A width of 96 is no multiple of 64.*give {option}"):
        checkpoints.load(path)
    loaded, _ = checkpoints.load(path, **{option: 3})
    assert_same_features(features(loaded), features(model))


def test_sizes_in_the_file_are_checked(weights, tmp_path):
    sizes = {"input_resolution": 64, "context_length": 24, "vocab_size": 600}
    stored = {name: torch.tensor(size) for name, size in sizes.items()}
    checkpoint = checkpoints.read_checkpoint(save(tmp_path / "right.pt", weights | stored))
    assert [note for note in checkpoint.notes if "left out" in note] == [
        "No weights, left out: input_resolution, context_length, vocab_size."
    ]
    assert not any("which program" in note for note in checkpoint.notes)
    assert not sizes.keys() & checkpoint.source_tensors.keys()
    for name in sizes:
        path = save(tmp_path / f"{name}.pt", weights | stored | {name: torch.tensor(1000)})
        with pytest.raises(ValueError, match=f"says that {name} is 1000, but its weights are for {sizes[name]}"):
            checkpoints.read_checkpoint(path)


def test_an_image_size_between_two_grids_is_kept(source_models, tmp_path):
    weights = to_openai(source_models["vit"].state_dict()) | {"input_resolution": torch.tensor(70)}
    config = checkpoints.read_checkpoint(save(tmp_path / "theirs.pt", weights)).config
    assert config.vision_config.image_size == 70
    assert config.vision_config.grid_size == 4


def test_causal_masks_are_left_out_and_others_refused(weights, tmp_path):
    causal = torch.full((24, 24), -math.inf).triu(1)
    name = "transformer.resblocks.0.attn_mask"
    checkpoint = checkpoints.read_checkpoint(save(tmp_path / "causal.pt", weights | {name: causal}))
    assert f"No weights, left out: {name}." in checkpoint.notes
    masks = {name.replace("0", str(layer)): causal for layer in range(7)}
    notes = checkpoints.read_checkpoint(save(tmp_path / "causal.pt", weights | masks)).notes
    assert any(note.endswith("resblocks.3.attn_mask and 3 more.") for note in notes)
    looser = causal.clone()
    looser[0, 5] = 0.0
    for mask in (looser, torch.zeros(24, 24), causal[:5], causal == 0):
        path = save(tmp_path / "other.pt", weights | {name: mask})
        with pytest.raises(ValueError, match=f"The attention mask {name} of shape .* is not causal"):
            checkpoints.read_checkpoint(path)


def test_missing_counters_of_batch_norm_are_filled(source_models, merges, tmp_path):
    weights = to_openai(source_models["resnet"].state_dict())
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    # 3 in the stem, 3 in each of 5 blocks, and 1 for each of 4 shortcuts.
    assert len(weights) - len(kept) == 22
    path = save(tmp_path / "theirs.pt", kept)
    checkpoint = checkpoints.read_checkpoint(path)
    assert "22 counters of BatchNorm, which change no feature, were missing and are 0." in checkpoint.notes
    model, _ = checkpoints.load(path, merges=merges)
    assert model.vision_model.stem.bn1.num_batches_tracked == 0
    assert_same_features(features(model), features(source_models["resnet"]))


# ----------------------------------------------------------------------------------------------------- what is refused


REMOVED = ["ln_final.bias", "transformer.resblocks.1.attn.in_proj_bias", "transformer.resblocks.0.ln_1.weight"]


@pytest.mark.parametrize("name", REMOVED)
def test_a_missing_weight_is_named(weights, name, tmp_path):
    del weights[name]
    path = save(tmp_path / "theirs.pt", weights)
    with pytest.raises(ValueError, match=f"lacks the weights {name}") as caught:
        checkpoints.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["visual.layer9.0.conv1.weight", "transformer.resblocks.0.ls_1.gamma", "extra"])
def test_a_left_over_weight_is_named(weights, name, tmp_path):
    path = save(tmp_path / "theirs.pt", weights | {name: torch.zeros(3)})
    with pytest.raises(ValueError, match=f"has weights that this model has no place for {name}"):
        checkpoints.load(path)


@pytest.mark.parametrize("name", ["ln_final.bias", "transformer.resblocks.1.attn.in_proj_weight", "logit_scale"])
def test_a_weight_of_another_shape_is_named(weights, name, tmp_path):
    found = torch.zeros(7, 3)
    expected = " x ".join(map(str, weights[name].shape)) or "one number"
    path = save(tmp_path / "theirs.pt", weights | {name: found})
    with pytest.raises(ValueError, match=rf"another shape {name} \(7 x 3 instead of {expected}\)"):
        checkpoints.load(path)


def test_all_problems_are_listed_at_once(weights, tmp_path):
    del weights["ln_final.bias"]
    weights["extra"], weights["ln_final.weight"] = torch.zeros(3), torch.zeros(5)
    with pytest.raises(ValueError) as caught:
        checkpoints.load(save(tmp_path / "theirs.pt", weights))
    for part in ("lacks the weights ln_final.bias", "no place for extra", "ln_final.weight (5 instead of 128)"):
        assert part in str(caught.value)


def test_positions_that_are_no_square_are_refused(source_models, tmp_path):
    weights = to_openai(source_models["vit"].state_dict())
    weights["visual.positional_embedding"] = torch.zeros(13, 128)
    with pytest.raises(ValueError, match="visual.positional_embedding has 13 positions; .* square"):
        checkpoints.load(save(tmp_path / "theirs.pt", weights))


# --------------------------------------------------------------------------------------------- what cannot be written


UNLIKE_OPENAI = {
    "text heads": ({"text": {"num_attention_heads": 4}}, "text_config has 4 heads in 128 channels, not of 64"),
    "vision heads": ({"vision": {"num_attention_heads": 1}}, "vision_config has 1 heads in 128 channels"),
    "activation": ({"text": {"hidden_act": "gelu"}}, "text_config.hidden_act is 'gelu', not 'quick_gelu'"),
    "vision activation": ({"vision": {"hidden_act": "gelu"}}, "vision_config.hidden_act is 'gelu'"),
    "epsilon": ({"vision": {"layer_norm_eps": 1e-6}}, "vision_config.layer_norm_eps is 1e-06, not 1e-05"),
    "ratio": ({"text": {"intermediate_size": 500}}, "text_config.intermediate_size is not four times the width"),
    "end of text": ({"text": {"eos_token_id": 17}}, "text_config.eos_token_id is 17, not the highest id"),
    "image size": ({"vision": {"image_size": 70}}, "images of 70 pixels are not a multiple of 16"),
    "channels": ({"vision": {"num_channels": 1}}, "images have 1 channels, not 3"),
}


@pytest.mark.parametrize("case", UNLIKE_OPENAI)
def test_a_model_that_openais_code_does_not_have_is_refused(case, tmp_path):
    changes, message = UNLIKE_OPENAI[case]
    model = make_model("vit", **copy.deepcopy(changes))
    with pytest.raises(ValueError, match="cannot be written in OpenAI's format") as caught:
        checkpoints.save(model, None, tmp_path / "ours.pt", format="openai")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0.5]}, "image_std"),
        ({"resample": 2}, "resample"),
        ({"size": {"shortest_edge": 72}}, "size"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_convert_rgb": False}, "do_convert_rgb"),
    ],
)
def test_another_image_transform_is_refused(source_models, options, named, tmp_path):
    square = {"height": 64, "width": 64}
    image_processor = ClipHFImageProcessor(**{"size": {"shortest_edge": 64}, "crop_size": square, **options})
    with pytest.raises(ValueError, match=f"the image processor's {named} is .*, not ") as caught:
        checkpoints.save(source_models["vit"], image_processor, tmp_path / "ours.pt", format="openai")
    assert repr(image_processor.to_dict()[named]) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    checkpoints.save(source_models["vit"], None, tmp_path / "ours.pt", format="openai")


def test_from_pretrained_reads_a_file(weights, source_model, tmp_path):
    path = save(tmp_path / "theirs.pt", weights)
    model, info = ClipHFModel.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_bit_equal(model.state_dict(), source_model.state_dict())
