# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""oneDNN's product against the plain layer, and where the plain layer must be called."""

import contextlib

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from clip_hf.model import linear_clip_hf
from clip_hf.model.linear_clip_hf import apply_linear
from tiny_models import make_tiny_model


@pytest.fixture
def on_amd(monkeypatch):
    """This processor as one on which MKL is the slower, and every product as large enough."""
    monkeypatch.setattr(linear_clip_hf, "mkl_is_slower", lambda: True)
    monkeypatch.setattr(linear_clip_hf, "MIN_MULTIPLICATIONS", 0)


@pytest.fixture
def plain_calls(monkeypatch):
    """The layers that were called, which those given to oneDNN are not."""
    calls, forward = [], nn.Linear.forward

    def record(layer, x):
        calls.append(layer)
        return forward(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", record)
    return calls


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 24), (5, 7, 24), (3, 1, 24), (2, 3, 4, 24)])
def test_equals_the_layer(on_amd, plain_calls, shape, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    with torch.no_grad():
        expected = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        assert relative_difference(apply_linear(layer, x), expected) < 1e-6
        columns = torch.randn(*shape[:-2], 24, shape[-2]).transpose(-1, -2)  # not contiguous
        actual = apply_linear(layer, columns)
        assert not plain_calls
        assert relative_difference(actual, layer(columns)) < 1e-6
        assert torch.equal(actual, apply_linear(layer, columns))


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_towers_equal_the_plain_ones(on_amd, plain_calls, tower, pixel_values, text_inputs):
    model = make_tiny_model(tower)
    with torch.no_grad():
        actual = model.encode_image(pixel_values), model.encode_text(**text_inputs)
        assert not plain_calls
        with torch.backends.mkldnn.flags(enabled=False):
            expected = model.encode_image(pixel_values), model.encode_text(**text_inputs)
        assert plain_calls
    for mine, plain in zip(actual, expected, strict=True):
        assert (mine - plain).abs().max() < 1e-6


def with_a_hook(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_hook(lambda *_: None)
    return layer


def with_a_weight_of_a_subclass(layer: nn.Linear) -> nn.Linear:
    class Quantised(torch.Tensor):
        pass

    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)
    return layer


WRAPPED = {
    "a hook": with_a_hook,
    "accelerate's hook": lambda layer: add_hook_to_module(layer, ModelHook()),
    "a weight of a subclass": with_a_weight_of_a_subclass,
    "parametrised": lambda layer: nn.utils.parametrizations.weight_norm(layer),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "half": lambda layer: layer.bfloat16(),
}


@pytest.mark.parametrize("name", WRAPPED)
@torch.no_grad()
def test_wrapped_layers_are_called(on_amd, plain_calls, name):
    layer = WRAPPED[name](nn.Linear(24, 40))
    x = torch.randn(4, 24).to(layer.bias.dtype)
    assert torch.equal(apply_linear(layer, x), layer(x))
    assert len(plain_calls) == 2


@contextlib.contextmanager
def global_hook():
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    yield
    hook.remove()


MODES = {
    "autocast": lambda: torch.autocast("cpu"),
    "mkldnn is off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "flops are counted": lambda: FlopCounterMode(display=False),
    "forward-mode derivatives": torch.autograd.forward_ad.dual_level,
    "hook of all modules": global_hook,
}


@pytest.mark.parametrize("name", MODES)
@torch.no_grad()
def test_modes_that_look_at_layers_see_them(on_amd, plain_calls, name):
    layer, x = nn.Linear(24, 40), torch.randn(4, 24)
    with MODES[name]():
        apply_linear(layer, x)
    assert len(plain_calls) == 1


@torch.no_grad()
def test_transforms_tracers_and_compilers_see_the_layer(on_amd, plain_calls):
    class Projection(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(24, 40)

        def forward(self, x):
            return apply_linear(self.layer, x)

    module, x = Projection(), torch.randn(4, 24)
    mapped = torch.func.vmap(module)(x[:, None])
    assert relative_difference(mapped[:, 0], module.layer(x)) < 1e-6
    for program in (torch.jit.trace(module, x).graph, torch.export.export(module, (x,)).graph):
        assert "mkldnn" not in str(program)
        assert "linear" in str(program)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), module.layer(x))


def test_gradients_are_those_of_the_layer(on_amd, plain_calls):
    layer, x = nn.Linear(24, 40), torch.randn(4, 24)
    apply_linear(layer, x).sum().backward()
    assert len(plain_calls) == 1
    assert torch.equal(layer.bias.grad, torch.full((40,), 4.0))
    layer.requires_grad_(False)
    apply_linear(layer, x.requires_grad_()).sum().backward()
    assert len(plain_calls) == 2
    assert torch.allclose(x.grad, layer.weight.sum(dim=0).expand(4, -1))
    apply_linear(layer, x.detach())  # a frozen tower in training
    assert len(plain_calls) == 2


@torch.no_grad()
def test_small_products_are_not_given_to_onednn(monkeypatch, plain_calls):
    monkeypatch.setattr(linear_clip_hf, "mkl_is_slower", lambda: True)
    layer = nn.Linear(2**10, 2**10)
    apply_linear(layer, torch.randn(1, 2**10))
    apply_linear(layer, torch.randn(0, 2**10))
    apply_linear(nn.Linear(2**5, 2**5), torch.randn(2**10, 2**5))
    assert len(plain_calls) == 3
    apply_linear(layer, torch.randn(2, 2**10))
    assert len(plain_calls) == 3


@torch.no_grad()
def test_an_input_of_another_width_is_refused_by_the_layer(on_amd):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        apply_linear(nn.Linear(24, 40), torch.randn(24, 12))


CPU_INFO = "processor\t: 0\nvendor_id\t: {}\nmodel name\t: any\n"


@pytest.mark.parametrize(
    "maker, capability, expected",
    [
        ("AuthenticAMD", "AVX512", True),
        ("HygonGenuine", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_mkl_is_slower_on_makers_other_than_intel_with_avx512(monkeypatch, tmp_path, maker, capability, expected):
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format(maker))
    monkeypatch.setattr(linear_clip_hf, "Path", lambda path: tmp_path / path.rpartition("/")[2])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert linear_clip_hf.mkl_is_slower.__wrapped__() is expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not linear_clip_hf.mkl_is_slower.__wrapped__()


@pytest.mark.parametrize("system, maker", [("AMD64 Family 25 Model 97, AuthenticAMD", "AuthenticAMD"), ("arm", "arm")])
def test_the_maker_on_systems_without_proc(monkeypatch, tmp_path, system, maker):
    monkeypatch.setattr(linear_clip_hf, "Path", lambda path: tmp_path / "none")
    monkeypatch.setattr(linear_clip_hf.platform, "processor", lambda: system)
    assert linear_clip_hf._maker() == maker
