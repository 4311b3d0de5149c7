# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""AdamW of 8 bits, whose library is not installed with clip_hf, beside that of 32."""

import copy

import torch
from torch import nn

import references
from clip_hf.training import OptimizerOptions, build_optimizer


def test_moments_of_8_bits(tiny_model):
    references.load_bitsandbytes()  # from here on `build_optimizer` finds it
    big = nn.Parameter(torch.randn(128, 64))
    tiny_model.text_projection.weight = big
    reference = copy.deepcopy(tiny_model)
    options = {"learning_rate": 1e-3, "weight_decay": 0.1}
    optimizer = build_optimizer(tiny_model, OptimizerOptions(name="adamw_8bit", **options))
    plain = build_optimizer(reference, OptimizerOptions(**options))
    before = {name: value.detach().clone() for name, value in tiny_model.named_parameters()}
    torch.manual_seed(0)
    for _ in range(3):
        for own, other in zip(tiny_model.parameters(), reference.parameters(), strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        optimizer.step(), plain.step()
    assert optimizer.state[big]["state1"].dtype is torch.uint8
    assert optimizer.state[tiny_model.logit_scale]["state1"].dtype is torch.float32
    others = dict(reference.named_parameters())
    for name, value in tiny_model.named_parameters():
        moved, off = (others[name] - before[name]).norm(), (value - others[name]).norm()
        assert off < (0.05 if value.numel() >= 4096 else 1e-4) * moved, name
    # Its state goes through a checkpoint.
    state = copy.deepcopy(optimizer.state_dict())
    other = build_optimizer(tiny_model, OptimizerOptions(name="adamw_8bit", **options))
    other.load_state_dict(state)
    assert torch.equal(other.state[big]["state1"], optimizer.state[big]["state1"])
