# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The course of trainings as a picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.figures import COLOURS, new_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A smoothed point is the mean over this share of the training's steps.
_SMOOTHED = 0.02


def plot_training(logs: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str = "Training") -> "Figure":
    """Draw loss and temperature over the steps of one or several trainings.

    The pale line is the loss of each step; the strong one is its mean over the 2% of the steps around it.

    Args:
        logs (`Mapping[str, Sequence[Mapping]]`): By name, the entries of `training_log.jsonl`, as
            `TrainingLog.entries` reads them. Entries of evaluations are left out.
        title (`str`, *optional*, defaults to `"Training"`): Title of the figure.

    Raises:
        ValueError: if a log has no entry of a step.
        MissingExtra: if matplotlib is not installed.
    """
    with new_figure(title, 3.6) as figure:
        losses, temperatures = figure.subplots(1, 2)
        for place, (name, log) in enumerate(logs.items()):
            colour = COLOURS[place % len(COLOURS)]
            entries = [entry for entry in log if "loss" in entry]
            if not entries:
                raise ValueError(f"The log of {name} has no entry of a step.")
            steps = np.array([entry["step"] for entry in entries])
            loss = np.array([entry["loss"] for entry in entries], dtype=np.float64)
            losses.plot(steps, loss, color=colour, alpha=0.3, linewidth=0.8)
            losses.plot(steps, _smooth(loss), color=colour, label=name)
            temperatures.plot(steps, [entry["temperature"] for entry in entries], color=colour, label=name)
        losses.set(xlabel="step", ylabel="contrastive loss (nats)", ylim=(0, None), title="Loss")
        temperatures.set(xlabel="step", ylabel="temperature, 1 / logit scale", title="Temperature")
        for axis in (losses, temperatures):
            axis.legend()
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each value, (n,); the window is cut at the ends."""
    half = int(len(values) * _SMOOTHED / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
