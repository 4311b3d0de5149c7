# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scores of labels, made of the cosines of images and labels, and the options that shape them."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from .checks_clip_hf import check_whole
from .zero_shot_clip_hf import check_templates, prompts_for


DEFAULT_TEMPLATE = "This is a photo of {}."  # the stock pipeline's
DEFAULT_BACKGROUND = "a photo."
SCORES = ("softmax", "cosine", "none")


def check_count(name: str, value: int | None, least: int) -> int:
    """A whole number, `least` for None; ValueError for others."""
    return least if value is None else check_whole(name, value, least)


def check_function(value: str) -> str:
    """ValueError if `function_to_apply` is none of [`SCORES`]."""
    if value not in SCORES:
        raise ValueError(f"`function_to_apply` is {value!r}; it must be one of {', '.join(map(repr, SCORES))}.")
    return value


def check_background(value: str | list[str]) -> tuple[str, ...]:
    """Check the prompts of the background, which are complete sentences."""
    prompts = check_templates({"background": value})["background"]
    if any("{" in prompt for prompt in prompts):
        raise ValueError(f"`background` is {value!r}; it has no label, so its prompts cannot have a placeholder.")
    return prompts


def check_together(options: Mapping[str, Any]) -> None:
    """Check options that depend on each other: `labels`, `templates`, `background`, `multi_label`,
    `function_to_apply` and `threshold`, as far as they are given.
    """
    threshold, function = options.get("threshold"), options.get("function_to_apply", "softmax")
    if isinstance(options.get("templates"), Mapping) and "labels" in options:
        prompts_for(options["labels"], options["templates"])
    if options.get("background") is not None and function != "softmax":
        raise ValueError(f"`background` takes part in a softmax only; `function_to_apply` is {function!r}.")
    if options.get("multi_label") and function != "softmax":
        raise ValueError(
            f"`multi_label` changes the softmax only; `function_to_apply` is {function!r}, whose scores do not "
            "depend on other labels anyway."
        )
    if threshold is not None:
        low, high = {"softmax": (0, 1), "cosine": (-1, 1), "none": (-math.inf, math.inf)}[function]
        if isinstance(threshold, bool) or not isinstance(threshold, Real) or not low <= threshold <= high:
            raise ValueError(
                f"`threshold` is {threshold!r}; with `function_to_apply={function!r}` scores are numbers from "
                f"{low} to {high}."
            )


def parts_of_classifier(
    labels: Sequence, templates, background: tuple[str, ...] | None, needs_background: bool
) -> list[tuple]:
    """Labels and templates of the classifier, and those of the background, where it is given or needed."""
    if needs_background:
        background = background or (DEFAULT_BACKGROUND,)
    # The background's prompts are complete: a mapping takes them as they are.
    return [(labels, templates)] + ([] if background is None else [(["background"], {"background": background})])


def score_labels(
    cosines: torch.Tensor, num_labels: int, scale: Any, bias: Any, multi_label: bool, function_to_apply: str
) -> torch.Tensor:
    """Scores (batch, labels) of cosines (batch, labels [+ 1]), whose last column is the background's, if it is there.

    `scale` is the model's factor of cosines, and `bias` its term, None for a model without one.
    """
    if function_to_apply == "cosine":
        return cosines
    # A model with a bias was trained to tell for each label by itself.
    logits = scale * cosines + (0.0 if bias is None else bias)
    if function_to_apply == "none":
        return logits
    if cosines.shape[1] == num_labels:
        return torch.sigmoid(logits) if multi_label else logits.softmax(dim=-1)
    if multi_label:
        # A softmax over two is the sigmoid of their difference.
        return torch.sigmoid(logits[:, :-1] - logits[:, -1:])
    return logits.softmax(dim=-1)[:, :-1]


def best_labels(
    scores: torch.Tensor, labels: Sequence, top_k: int | None = None, threshold: float | None = None
) -> list[dict[str, Any]]:
    """The labels of one image with their scores (labels,), best first."""
    scores, order = scores.sort(descending=True, stable=True)
    best = zip(scores[:top_k].tolist(), order[:top_k].tolist())
    return [{"score": s, "label": labels[i]} for s, i in best if threshold is None or s >= threshold]
