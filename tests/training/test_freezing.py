# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Parts of a model that stay as they are."""

import copy
import pickle

import peft
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from clip_hf.training.freezing import count_parameters, freeze
from tiny_models import make_tiny_model, tiny_config


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


FROZEN = {
    "vision": lambda name: name.startswith(("vision_model.", "visual_projection.")),
    "vision_tower": lambda name: name.startswith("vision_model."),
    "text": lambda name: name.startswith(("text_model.", "text_projection.")),
    "text_tower": lambda name: name.startswith("text_model."),
    "projections": lambda name: "_projection." in name,
    "all_but_projections": lambda name: "_projection." not in name and name != "logit_scale",
    "logit_scale": lambda name: name == "logit_scale",
    "batch_norm": lambda name: ".bn" in name,
}


@pytest.mark.parametrize("part", FROZEN)
def test_what_a_part_freezes(tiny_model, part):
    counts = freeze(tiny_model, [part])
    names = {name for name, _ in tiny_model.named_parameters()}
    assert trained(tiny_model) == {name for name in names if not FROZEN[part](name)}
    sizes = {name: parameter.numel() for name, parameter in tiny_model.named_parameters()}
    assert counts.frozen == sum(size for name, size in sizes.items() if FROZEN[part](name))
    assert counts == count_parameters(tiny_model)
    assert counts.trained + counts.frozen == sum(sizes.values())
    assert f"{counts.frozen:,} frozen" in str(counts)


def test_parts_together_and_one_after_another(tiny_model):
    freeze(tiny_model, ["vision", "logit_scale"])
    freeze(tiny_model, ["text_tower"])
    assert trained(tiny_model) == {"text_projection.weight"}


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (["visoin"], ValueError, "no part 'visoin' to freeze; the parts are vision, .*Did you mean 'vision'?"),
        ("vision", TypeError, r"such as \['vision'\]"),
        (["vision", "text", "logit_scale"], ValueError, "nothing to train; freeze less"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_model, parts, error, message):
    before = trained(tiny_model)
    with pytest.raises(error, match=message):
        freeze(tiny_model, parts)
    assert trained(tiny_model) == before


def features(model, pixel_values, text_inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model.encode_image(pixel_values), model.encode_text(**text_inputs)]


def with_dropout(tower):
    model = make_tiny_model(tower)
    config = tiny_config(tower)
    config.vision_config.attention_dropout = config.text_config.attention_dropout = 0.3
    result = type(model)(config)
    result.load_state_dict(model.state_dict())
    return result


@pytest.mark.parametrize(
    ("part", "through"),
    [
        ("vision", lambda model: model),
        ("vision_tower", copy.deepcopy),
        ("text", lambda model: pickle.loads(pickle.dumps(model))),
        ("all_but_projections", lambda model: model),
    ],
)
def test_a_frozen_tower_gives_the_same_in_training(tower, part, through, pixel_values, text_inputs):
    model = with_dropout(tower)
    expected = features(model.eval(), pixel_values, text_inputs)
    freeze(model, [part])
    model = through(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    for _ in range(2):
        actual = features(model.train(), pixel_values, text_inputs)
        same = [torch.allclose(one, other, atol=1e-6) for one, other in zip(actual, expected, strict=True)]
        assert same == [part != "text", part in ("text", "all_but_projections")]
    kept = [torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers() if "running" in name]
    assert all(kept) == (tower == "vit" or part != "text")


def test_frozen_batch_norm_keeps_its_statistics(pixel_values, text_inputs):
    model = make_tiny_model("resnet")
    freeze(model, ["batch_norm"])
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    features(model.train(), pixel_values, text_inputs)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert model.training and model.vision_model.training


def test_adapters_are_left_alone(tower):
    model = with_dropout(tower)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, lora_dropout=0.5)
    peft.inject_adapter_in_model(config, model)
    model.requires_grad_(True)
    freeze(model, ["vision", "text"])
    assert all("lora_" in name or name == "logit_scale" for name in trained(model))
    assert any("vision_model" in name for name in trained(model)) and any("text" in name for name in trained(model))
    model.train()
    model.encode_text(torch.tensor([[598, 3, 599]]))
    dropouts = [module for name, module in model.named_modules() if "lora_dropout.default" in name]
    assert dropouts and all(module.training for module in dropouts)
    assert not model.text_model.encoder.layers[0].self_attn.training


@pytest.mark.slow
def test_a_frozen_tower_compiles_once(pixel_values, text_inputs):
    model = with_dropout("vit")
    freeze(model, ["vision"])
    expected = features(model.eval(), pixel_values, text_inputs)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model.vision_model, backend=counter)
    for _ in range(4):
        model.train()
        output = model.visual_projection(compiled(pixel_values).pooler_output)
        torch.testing.assert_close(torch.nn.functional.normalize(output, dim=-1), expected[0], rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 3
