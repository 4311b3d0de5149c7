# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A copy of modules has the model's weights, and a mode, a configuration and hooks of its own."""

import threading
from functools import partial

import pytest
import torch

from clip_hf.utils.module_copies import copy_modules
from tiny_models import make_tiny_model


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_are_shared_and_nothing_else(tower, frozen):
    model = make_tiny_model(tower).train()
    twin = copy_modules(model, frozen=frozen)
    twin.set_attn_implementation("eager")
    assert model.config._attn_implementation == "sdpa" and twin.config._attn_implementation == "eager"
    assert model.vision_model.config._attn_implementation == "sdpa"
    assert all(module.training for module in model.modules()) and not any(m.training for m in twin.modules())
    pairs = list(zip(model.named_parameters(), twin.named_parameters(), strict=True))
    for (name, weight), (other_name, other) in pairs:
        assert name == other_name and weight.data_ptr() == other.data_ptr()
        assert weight.requires_grad and other.requires_grad == (not frozen)
    with torch.no_grad():
        model.logit_scale += 1
    assert twin.logit_scale == model.logit_scale
    assert twin.vision_model.config is twin.config.vision_config


def test_hooks_come_along_and_stay_apart(tower):
    model, calls, lock = make_tiny_model(tower), [], threading.Lock()

    def count(lock, *inputs):
        calls.append(1)

    model.vision_model.register_forward_hook(partial(count, lock))  # a lock cannot be copied
    twin = copy_modules(model)
    twin.vision_model.register_forward_hook(lambda *inputs: calls.append(2))
    pixels = torch.zeros(1, 3, 64, 64)
    twin.encode_image(pixels)
    assert calls == [1, 2]
    model.encode_image(pixels)
    assert calls == [1, 2, 1]
