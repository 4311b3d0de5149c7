# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""BatchNorm folded into convolutions, and convolutions that do all in one pass, against the plain path."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import Trainer, TrainingArguments

from clip_hf import ClipHFForImageClassification, ClipHFModel, ClipHFVisionModelWithProjection
from clip_hf.model.modeling_clip_hf_resnet import ClipHFResNetModel
from tiny_models import make_tiny_model, tiny_config, wake_batch_norm


MODELS = {
    "whole": lambda: ClipHFModel(tiny_config("resnet")),
    "tower": lambda: ClipHFResNetModel(tiny_config("resnet").vision_config),
    "tower with projection": lambda: ClipHFVisionModelWithProjection(tiny_config("resnet").vision_config),
    "classifier": lambda: ClipHFForImageClassification(tiny_config("resnet", num_labels=5)),
}


def awake(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[kind]()
    wake_batch_norm(model if kind == "tower" else model.vision_model)
    return model.eval()


def outputs(model: nn.Module, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """All tensors that a vision model gives, its hidden states too."""
    result = model(pixel_values=pixel_values, output_hidden_states=True)
    result = getattr(result, "vision_model_output", None) or result
    values = [*(value for value in result.values() if isinstance(value, torch.Tensor)), *(result.hidden_states or ())]
    assert len(values) >= 2
    return values


def assert_close(actual: list[torch.Tensor], expected: list[torch.Tensor], limit: float) -> None:
    for mine, plain in zip(actual, expected, strict=True):
        assert mine.shape == plain.shape
        assert (mine - plain).norm() <= limit * plain.norm()


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of Intel's GPUs, whenever these flags are set
@pytest.mark.parametrize("kind", MODELS)
def test_folding_changes_rounding_only(kind, pixel_values):
    model = awake(kind)
    exact = copy.deepcopy(model).double()
    folded = copy.deepcopy(model)
    assert folded.fold_batch_norm() is folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected = outputs(model, pixel_values)
        assert_close(outputs(folded, pixel_values), expected, 1e-6)
        with torch.backends.mkldnn.flags(enabled=False):
            assert_close(outputs(folded, pixel_values), expected, 1e-6)
        expected = outputs(exact, pixel_values.double())
        assert_close(outputs(exact.fold_batch_norm(), pixel_values.double()), expected, 1e-12)
    assert_close(outputs(folded, pixel_values), outputs(model, pixel_values), 1e-6)  # with gradients of the text tower


def test_one_operator_gives_what_three_do(pixel_values):
    tower = awake("tower").fold_batch_norm()
    block, x = tower.encoder.stages[0].blocks[0], torch.randn(2, 8, 16, 16)
    before = x.clone()
    with torch.no_grad():
        fused = block(x)
        handles = [
            layer.register_forward_hook(lambda *_: None) for layer in block.modules() if hasattr(layer, "kernel_size")
        ]
        plain = block(x)
    assert_close([fused], [plain], 1e-6)
    assert torch.equal(x, before)  # it is not the place of the sum
    assert (plain >= 0).all() and (plain == 0).any()
    assert len(handles) >= 4


def test_hooks_of_convolutions_still_run(pixel_values):
    tower = awake("tower").fold_batch_norm()
    seen = []
    tower.stem.conv2.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        tower(pixel_values)
    assert seen == [(len(pixel_values), 4, 32, 32)]


def test_gradients_of_pixels_are_those_of_the_model(pixel_values):
    model = awake("tower").double()
    gradients = []
    for each in (model, copy.deepcopy(model).fold_batch_norm()):
        pixels = pixel_values.double().requires_grad_()
        gradients += torch.autograd.grad(each(pixels).pooler_output.square().sum(), pixels)
    assert_close(gradients[1:], gradients[:1], 1e-10)


def test_folding_again_changes_nothing(pixel_values):
    tower = awake("tower").fold_batch_norm()
    state = {name: value.clone() for name, value in tower.state_dict().items()}
    again = copy.deepcopy(tower.fold_batch_norm()).fold_batch_norm()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    for name, convolution in tower.named_modules():
        if isinstance(convolution, nn.Conv2d):
            assert convolution.weight.is_contiguous(memory_format=torch.channels_last), name
            assert not convolution.weight.requires_grad and not convolution.bias.requires_grad


def test_a_vit_stays_as_it_is(pixel_values):
    model = make_tiny_model("vit").train()
    state = model.state_dict()
    assert model.fold_batch_norm() is model and model.training
    assert model.state_dict().keys() == state.keys()
    model.train()


@pytest.mark.parametrize("kind", MODELS)
def test_a_folded_model_refuses_to_train_and_to_be_saved(kind, tmp_path):
    model = awake(kind).train().fold_batch_norm()
    assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match=r"cannot be trained: `fold_batch_norm\(\)` has .* Load the model anew"):
        model.train()
    assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match="cannot be saved"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert model.eval() is model


def test_trainer_is_refused(tmp_path, pixel_values):
    model = awake("classifier").fold_batch_norm()
    data = [{"pixel_values": pixels, "labels": 1} for pixels in pixel_values]
    options = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match="cannot be trained"):
        Trainer(model, options, train_dataset=data).train()


class OtherConvolution(nn.Conv2d):
    pass


def test_what_cannot_be_folded_leaves_the_model_whole(pixel_values):
    tower = awake("tower")
    last = tower.encoder.stages[3].blocks[0]
    last.conv3 = OtherConvolution(last.conv3.in_channels, last.conv3.out_channels, 1, bias=False)
    keys = tower.state_dict().keys()
    with pytest.raises(ValueError, match=r"`bn3` or before it is an OtherConvolution .* Merge adapters"):
        tower.fold_batch_norm()
    assert tower.state_dict().keys() == keys
    offloaded = awake("tower").to("meta")
    with pytest.raises(ValueError, match="offloaded"):
        offloaded.fold_batch_norm()


def _plain_hook(*_):
    return None


def _without(name):
    return lambda block: setattr(block.bn3, name, None)


ODD_LAYERS = {
    "hook of a convolution": lambda block: block.conv3.register_forward_hook(_plain_hook),
    "pre-hook of a convolution": lambda block: block.conv3.register_forward_pre_hook(_plain_hook),
    "hook of a norm": lambda block: block.bn3.register_forward_hook(_plain_hook),
    "pre-hook of a norm": lambda block: block.bn3.register_forward_pre_hook(_plain_hook),
    "backward hook of a norm": lambda block: block.bn3.register_full_backward_hook(_plain_hook),
    "pruned": lambda block: prune.l1_unstructured(block.conv3, "weight", 0.5),
    "pruned, then without its hook": lambda block: (
        prune.l1_unstructured(block.conv3, "weight", 0.5),
        block.conv3._forward_pre_hooks.clear(),
    ),
    "bias": lambda block: setattr(block.conv3, "bias", nn.Parameter(torch.ones(block.conv3.out_channels))),
    "no gain": _without("weight"),
    "no shift": _without("bias"),
    "no mean": _without("running_mean"),
    "no variance": _without("running_var"),
}


@pytest.mark.parametrize("kind", ODD_LAYERS)
def test_hooks_pruning_and_missing_statistics_are_refused(kind):
    tower = awake("tower")
    ODD_LAYERS[kind](tower.encoder.stages[3].blocks[0])
    state = {name: value.clone() for name, value in tower.state_dict().items()}
    with pytest.raises(ValueError, match=r"`bn3` or before it is a .* hooked, pruned .* remove hooks"):
        tower.fold_batch_norm()
    assert tower.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_a_folded_model_refuses_weights_with_batch_norm(kind, strict):
    model = awake(kind)
    other = {name: value + 1 for name, value in model.state_dict().items()}
    model.fold_batch_norm()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for holder, prefix in ((model, ""), (nn.Sequential(model), "0.")):
        with pytest.raises(ValueError, match=r"cannot load weights .* has folded its BatchNorm"):
            holder.load_state_dict({prefix + name: value for name, value in other.items()}, strict=strict)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_folded_model_loads_folded_weights(pixel_values):
    tower, other = awake("tower"), awake("tower")
    with torch.no_grad():
        other.stem.bn1.weight.mul_(2)
        other.fold_batch_norm()
        tower.fold_batch_norm().load_state_dict(other.state_dict())
        assert_close(outputs(tower, pixel_values), outputs(other, pixel_values), 1e-6)


def test_hooks_of_what_is_left_of_a_norm_run(pixel_values):
    tower = awake("tower").fold_batch_norm()
    seen = []
    tower.stem.bn2.register_forward_hook(lambda module, inputs, output: seen.append("after"))
    tower.stem.bn3.register_forward_pre_hook(lambda module, inputs: seen.append("before"))
    with torch.no_grad():
        tower(pixel_values)
    assert seen == ["after", "before"]


def test_half_precision_is_rounded_once(pixel_values):
    tower = awake("tower")
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(tower)
        for module in half.modules():
            if isinstance(module, nn.Conv2d):
                module.to(dtype)
        weight = half.stem.conv1.weight.double()
        scale = half.stem.bn1.weight.double() / (half.stem.bn1.running_var.double() + half.stem.bn1.eps).sqrt()
        half.fold_batch_norm()
        assert half.stem.conv1.weight.dtype == half.stem.conv1.bias.dtype == dtype
        assert torch.equal(half.stem.conv1.weight, (weight * scale[:, None, None, None]).to(dtype))


def test_a_folded_model_compiles_and_exports(pixel_values):
    tower = awake("tower").fold_batch_norm()
    with torch.no_grad():
        expected = tower(pixel_values).pooler_output
        program = torch.export.export(tower, (), {"pixel_values": pixel_values})
        assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
        assert_close([program.module()(pixel_values=pixel_values).pooler_output], [expected], 1e-6)
        traced = torch.compile(tower, backend="aot_eager")
        assert_close([traced(pixel_values).pooler_output], [expected], 1e-6)
