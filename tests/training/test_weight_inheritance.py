# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import copy

import pytest
import torch
from transformers import CLIPModel

from clip_hf.adaptation import inherit_weights
from clip_hf.training import add_lora, merge_lora
from tiny_models import IMAGE_SIZE, make_tiny_model, tiny_config


def smaller(tower: str, **changes):
    """The tiny configuration with its towers' options changed: `text_...`, `vision_...` or the model's own."""
    config = tiny_config(tower).to_dict()
    for name, value in changes.items():
        part, _, option = name.partition("_")
        if part in ("text", "vision"):
            config[f"{part}_config"][option] = value
        else:
            config[name] = value
    if "projection_dim" in changes:
        for part in ("text_config", "vision_config"):
            config[part]["projection_dim"] = changes["projection_dim"]
    return type(tiny_config(tower)).from_dict(config)


def test_the_same_configuration_gives_exactly_the_teacher(tower, text_inputs, pixel_values):
    teacher = make_tiny_model(tower)
    student = inherit_weights(teacher, teacher.config)
    assert student.config is not teacher.config
    theirs, ours = teacher.state_dict(), student.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert all(ours[name].data_ptr() != value.data_ptr() for name, value in theirs.items() if value.ndim)
    inputs = {**text_inputs, "pixel_values": pixel_values}
    with torch.no_grad():
        assert torch.equal(teacher(**inputs).logits_per_image, student(**inputs).logits_per_image)


def test_leading_channels_heads_and_every_kth_layer_of_transformers():
    teacher = make_tiny_model("vit", text_config={**tiny_config("vit").text_config.to_dict(), "num_hidden_layers": 6})
    config = smaller(
        "vit",
        text_num_hidden_layers=3,
        text_hidden_size=16,
        text_num_attention_heads=2,
        text_max_position_embeddings=10,
        vision_num_hidden_layers=2,
        vision_hidden_size=24,
        vision_num_attention_heads=3,
        vision_intermediate_size=40,
        projection_dim=8,
    )
    ours, theirs = inherit_weights(teacher, config).state_dict(), teacher.state_dict()

    def check(name, source, *slices):
        assert torch.equal(ours[name], theirs[source][slices]), name

    q_proj = "text_model.encoder.layers.{}.self_attn.q_proj.weight"
    for layer in range(3):  # layers 0, 2, 4 of 6; two of four heads of 8 channels
        check(q_proj.format(layer), q_proj.format(2 * layer), slice(16), slice(16))
    fc1 = "vision_model.encoder.layers.{}.mlp.fc1.weight"
    check(fc1.format(0), fc1.format(0), slice(40), slice(24))
    check(fc1.format(1), fc1.format(1), slice(40), slice(24))  # 1 * 3 // 2
    embeddings = "text_model.embeddings.position_embedding.weight"
    check(embeddings, embeddings, slice(10), slice(16))
    for name, shape in (
        ("text_projection.weight", (8, 16)),
        ("visual_projection.weight", (8, 24)),
        ("vision_model.embeddings.patch_embedding.weight", (24,)),
        ("vision_model.pre_layrnorm.bias", (24,)),
        ("text_model.final_layer_norm.weight", (16,)),
        ("logit_scale", ()),
    ):
        check(name, name, *map(slice, shape))


def test_leading_channels_and_blocks_of_a_resnet(pixel_values):
    teacher = make_tiny_model(
        "resnet",
        vision_config={
            **tiny_config("resnet").vision_config.to_dict(),
            "width": 16,
            "num_attention_heads": 8,
            "stage_depths": [2, 4, 3, 1],
        },
    )
    from clip_hf.model.modeling_clip_hf import ClipHFModel

    config = smaller("resnet", vision_width=8, vision_num_attention_heads=4, vision_stage_depths=[1, 2, 2, 1])
    student = inherit_weights(teacher, config)
    ours, theirs = student.state_dict(), teacher.state_dict()
    stage = "vision_model.encoder.stages.1.blocks.{}.{}"
    for block, source in ((0, 0), (1, 2)):
        for weight, shape in (
            ("conv1.weight", (16, 32 if block == 0 else 64)),
            ("bn2.running_var", (16,)),
            ("bn3.weight", (64,)),
        ):
            mine, other = ours[stage.format(block, weight)], theirs[stage.format(source, weight)]
            assert mine.shape[: len(shape)] == shape
            assert torch.equal(mine, other[tuple(map(slice, shape))])
    pool = "vision_model.attention_pool.k_proj.weight"
    assert torch.equal(ours[pool], theirs[pool][:256, :256])
    assert torch.equal(ours["visual_projection.bias"], theirs["visual_projection.bias"])
    assert student.encode_image(pixel_values).isfinite().all()
    assert isinstance(student, ClipHFModel)


def test_positions_of_another_image_size_are_resized(tower):
    teacher = make_tiny_model(tower)
    size = 2 * IMAGE_SIZE
    student = inherit_weights(teacher, smaller(tower, vision_image_size=size))
    pixels = torch.nn.functional.interpolate(torch.randn(2, 3, 8, 8), (size, size))
    with torch.no_grad():
        expected = teacher.encode_image(pixels, interpolate_pos_encoding=True)
        assert torch.allclose(student.encode_image(pixels), expected, atol=1e-6)


def test_dtype_and_mode(tower):
    teacher = make_tiny_model(tower).to(torch.bfloat16).train()
    student = inherit_weights(teacher, teacher.config)
    assert not student.training and teacher.training
    assert {name: value.dtype for name, value in student.state_dict().items()} == {
        name: value.dtype for name, value in teacher.state_dict().items()
    }


@pytest.mark.parametrize(
    ("tower", "changes", "message"),
    [
        ("vit", {"text_hidden_size": 64, "text_num_attention_heads": 8}, "text_config.hidden_size` is 64, .* only 32"),
        ("vit", {"vision_num_hidden_layers": 4}, "vision_config.num_hidden_layers` is 4, .* only 3"),
        ("vit", {"text_max_position_embeddings": 30}, "max_position_embeddings` is 30, .* only 24"),
        ("vit", {"vision_num_attention_heads": 2}, "`vision_config` has heads of 16 channels, and the larger .* of 8"),
        ("vit", {"vision_patch_size": 8}, "vision_config.patch_size` is 8, and must be the larger model's 16"),
        ("vit", {"vision_hidden_act": "gelu"}, "vision_config.hidden_act` is 'gelu', and must be .* 'quick_gelu'"),
        ("vit", {"text_vocab_size": 601}, "text_config.vocab_size` is 601, and must be the larger model's 600"),
        ("vit", {"projection_dim": 32}, "`projection_dim` is 32, and the larger model has only 16"),
        ("vit", {"logit_bias_init_value": -10.0}, "one of the models has a `logit_bias`"),
        ("resnet", {"vision_width": 16, "vision_num_attention_heads": 8}, "vision_config.width` is 16, .* only 8"),
        ("resnet", {"vision_stage_depths": [1, 3, 1, 1]}, r"stage_depths` is \[1, 3, 1, 1\], .* \[1, 2, 1, 1\]"),
        ("resnet", {"vision_num_attention_heads": 8}, "heads of 32 channels, and the larger model of 64"),
    ],
)
def test_what_cannot_be_inherited_is_refused(tower, changes, message):
    with pytest.raises(ValueError, match=f"The weights cannot be inherited: .*{message}"):
        inherit_weights(make_tiny_model(tower), smaller(tower, **changes))


def test_another_tower_and_folded_norms_are_refused():
    with pytest.raises(ValueError, match="of type clip_hf_vit, and the larger model's of type clip_hf_resnet"):
        inherit_weights(make_tiny_model("resnet"), tiny_config("vit"))
    teacher = copy.deepcopy(make_tiny_model("resnet"))
    teacher.fold_batch_norm()
    with pytest.raises(ValueError, match="BatchNorm is folded"):
        inherit_weights(teacher, teacher.config)
    video = type("Other", (), {"config": CLIPModel.config_class()})()
    with pytest.raises(ValueError, match="The larger model needs a ClipHFConfig"):
        inherit_weights(video, tiny_config("vit"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda model: ("a/path", model.config), TypeError, "`teacher` is a str; it must be a model"),
        (lambda model: (model, model.config.to_dict()), TypeError, "`config` is a dict; it must be a configuration"),
        (lambda model: (model, None), TypeError, "`config` is a NoneType"),
        (lambda model: (model, model.config.vision_config), ValueError, "The smaller model needs a ClipHFConfig"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        inherit_weights(*arguments(make_tiny_model("vit")))


def test_an_adapter_is_merged_before():
    model = make_tiny_model("vit")
    add_lora(model)
    with pytest.raises(ValueError, match="The larger model has an adapter already, .* `merge_lora.model.`"):
        inherit_weights(model, model.config)
    inherit_weights(merge_lora(model), model.config)
