# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""BatchNorm's statistics, measured anew on images."""

import numpy as np
import pytest
import torch

from clip_hf.adaptation import reestimate_batch_norm_
from tiny_models import make_tiny_model


def batches(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 64, 64, generator=generator, dtype=torch.float64) for size in sizes]


@pytest.fixture
def resnet():
    return make_tiny_model("resnet").double()


def plain_statistics(model, given: list[torch.Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean over batches of each layer's batch mean and variance, with every layer normalised by the batch."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    sums = {name: [0.0, 0.0] for name in layers}

    def watch(name):
        def hook(layer, inputs):
            values = inputs[0].transpose(0, 1).flatten(1)
            sums[name][0] += len(inputs[0]) * values.mean(1)
            sums[name][1] += len(inputs[0]) * values.var(1)
            # In place of what the layer would normalise by.
            layer.running_mean, layer.running_var = values.mean(1), values.var(1, unbiased=False)

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    with torch.no_grad():
        for batch in given:
            model.vision_model(batch)
    for hook in hooks:
        hook.remove()
    count = sum(map(len, given))
    return {name: (mean / count, variance / count) for name, (mean, variance) in sums.items()}


def test_statistics_are_the_mean_over_the_batches(resnet):
    given = batches(4, 4, 2)
    weights = {name: tensor.clone() for name, tensor in resnet.state_dict().items() if "running" not in name}
    assert reestimate_batch_norm_(resnet, [given[0], {"pixel_values": given[1]}, given[2]]) == 10
    found = {
        name: (module.running_mean.clone(), module.running_var.clone())
        for name, module in resnet.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert not resnet.training and all(
        torch.equal(resnet.state_dict()[name], tensor) for name, tensor in weights.items()
    )
    for name, expected in plain_statistics(resnet, given).items():
        for value, wanted in zip(found[name], expected):
            torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)


def test_frozen_layers_and_momentum_stay_as_they_were(resnet):
    resnet.freeze_batch_norm()
    layer = next(module for module in resnet.modules() if isinstance(module, torch.nn.BatchNorm2d))
    layer.momentum, before = 0.3, layer.running_mean.clone()
    reestimate_batch_norm_(resnet.train(), iter(batches(4)))
    assert layer.momentum == 0.3 and layer.frozen and not layer.training and resnet.vision_model.training
    assert not torch.equal(layer.running_mean, before)


def test_what_cannot_be_measured_is_refused_and_changes_nothing(resnet):
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    with pytest.raises(ValueError, match="no batches"):
        reestimate_batch_norm_(resnet, [])
    for bad in ([torch.zeros(3, 64, 64)], [*batches(4), batches(4)[0][0]]):
        with pytest.raises(ValueError, match=r"A batch is \(3, 64, 64\)"):
            reestimate_batch_norm_(resnet, bad)
    image, raw = batches(2)[0], torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    for bad, error, message in (
        ({"x": image}, ValueError, "A batch has x, but no `pixel_values`"),
        (raw, TypeError, "`pixel_values` are torch.uint8; give them as the image processor"),
        (image / 0, ValueError, "`pixel_values` are NaN or infinite"),
        (image * 1e200, ValueError, "The statistics of these images are NaN or infinite"),
    ):
        with pytest.raises(error, match=message):
            reestimate_batch_norm_(resnet, [*batches(4), bad])
    assert all(torch.equal(resnet.state_dict()[name], tensor) for name, tensor in before.items())
    with pytest.raises(ValueError, match="ClipHFModel has no BatchNorm layers"):
        reestimate_batch_norm_(make_tiny_model("vit"), batches(2))
    with pytest.raises(ValueError, match="has no BatchNorm layers"):
        reestimate_batch_norm_(resnet.fold_batch_norm(), batches(2))
