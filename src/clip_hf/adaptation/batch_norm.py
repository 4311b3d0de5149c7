# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Measure a ResNet's BatchNorm statistics anew, for weights that no training has had."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..utils.wording import counted, listed


def batch_norm_layers(model: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers of a model that have running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def reestimate_batch_norm_(model: nn.Module, batches: Iterable[torch.Tensor | Mapping[str, torch.Tensor]]) -> int:
    """Replace BatchNorm's running statistics by those of given images, in place.

    Interpolated weights give activations whose means and variances are not the interpolated ones. One pass over some
    hundred images measures them: each layer gets the mean over the batches of its batch means and of its (unbiased)
    batch variances, a batch weighing as much as it has images. Nothing else of the model changes, and layers that
    `freeze_batch_norm` froze are measured, too.

    Args:
        model (`nn.Module`): A CLIP or an image classifier with a ResNet.
        batches (`Iterable`): Pixel values (batch, 3, height, width), as the image processor makes them, or mappings
            that hold `pixel_values`; on any device. Images of the kind that the model will see, without labels. Large
            batches: inside a batch each layer sees the layers before it normalised by this batch.

    Returns:
        `int`: the number of images.

    Raises:
        ValueError: if the model has no BatchNorm layers with statistics (a ViT, folded layers), there are no batches,
            a batch has too few values to have a variance, or pixel values or statistics are not finite.
        TypeError: if pixel values are integers, as raw images have them.
    """
    layers = batch_norm_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no BatchNorm layers with statistics of their own: a ViT has none, and "
            "`fold_batch_norm` removes a ResNet's."
        )
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("There are no batches to measure BatchNorm's statistics on; give some images.")
    tower = getattr(model, "vision_model", model)
    parameter = next(tower.parameters())
    modes = {module: module.training for module in model.modules()}
    settings = [(layer, layer.momentum, getattr(layer, "frozen", None)) for layer in layers]
    num_images = 0
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    counters = [layer.num_batches_tracked.clone() for layer in layers]
    try:
        model.eval()
        for layer in layers:
            _measure(layer)
        with torch.no_grad():
            for batch in itertools.chain([first], batches):
                pixel_values = _pixel_values(batch).to(parameter.device, parameter.dtype)
                num_images += len(pixel_values)
                for layer in layers:
                    layer.momentum = len(pixel_values) / num_images
                tower(pixel_values)
        if not all(bool((layer.running_mean + layer.running_var).isfinite().all()) for layer in layers):
            raise ValueError("The statistics of these images are NaN or infinite; look at the model's weights.")
    except BaseException:
        for layer, (mean, variance) in zip(layers, before):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
        raise
    finally:
        for (layer, momentum, frozen), counter in zip(settings, counters):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(counter)
            if frozen is not None:
                layer.frozen = frozen
        for module, training in modes.items():
            module.training = training
    return num_images


def _measure(layer: nn.Module) -> None:
    """Let a layer update its statistics, a frozen one too."""
    layer.training = True
    if hasattr(layer, "frozen"):
        layer.frozen = False


def _pixel_values(batch: Any) -> torch.Tensor:
    if isinstance(batch, Mapping) and "pixel_values" not in batch:
        raise ValueError(f"A batch has {listed(list(map(str, batch)), 4) or 'nothing'}, but no `pixel_values`.")
    pixel_values = batch["pixel_values"] if isinstance(batch, Mapping) else batch
    if not isinstance(pixel_values, torch.Tensor) or pixel_values.ndim != 4:
        shape = tuple(pixel_values.shape) if isinstance(pixel_values, torch.Tensor) else type(pixel_values).__name__
        raise ValueError(f"A batch is {shape}; it must be pixel values (batch, 3, height, width).")
    if not len(pixel_values):
        raise ValueError(f"A batch has {counted(0, 'image')}; leave it out.")
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"`pixel_values` are {pixel_values.dtype}; give them as the image processor makes them, normalised."
        )
    if not bool(pixel_values.isfinite().all()):
        raise ValueError("`pixel_values` are NaN or infinite; look at the images or how they were prepared.")
    return pixel_values
