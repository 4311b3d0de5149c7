# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a client says about a classification, checked as the pipeline checks it, and within the server's limits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..model.label_scores_clip_hf import (
    DEFAULT_TEMPLATE,
    check_background,
    check_count,
    check_function,
    check_together,
    parts_of_classifier,
)
from ..model.zero_shot_clip_hf import check_labels, check_templates
from .request_errors import RequestError
from .serving_limits import ServingLimits


_MOST_RESULTS = 2**18  # of one answer: some 15 MB of JSON


@dataclass(frozen=True)
class ClassifyOptions:
    """Labels and how to score them, as [`ClipHFZeroShotImageClassificationPipeline`] has it.

    Args:
        labels (`Sequence[str]`): The labels, all different.
        templates (`str`, `Sequence[str]` or `Mapping`, *optional*): A template, several, a prompt set's name, or each
            label's own prompts.
        top_k (`int`, *optional*): How many labels to return; by default all.
        multi_label (`bool`, *optional*, defaults to `False`): Whether several labels may fit.
        threshold (`float`, *optional*): Leaves out labels that score less.
        background (`str` or `Sequence[str]`, *optional*): Prompts of an image that shows none of the labels.
        function_to_apply (`str`, *optional*, defaults to `"softmax"`): `"softmax"`, `"cosine"` or `"none"`.
        truncate (`bool`, *optional*, defaults to `False`): Whether to cut prompts that are too long for the model.
    """

    labels: Sequence[str]
    templates: str | Sequence[str] | Mapping[str, str | Sequence[str]] = DEFAULT_TEMPLATE
    top_k: int | None = None
    multi_label: bool = False
    threshold: float | None = None
    background: str | Sequence[str] | None = None
    function_to_apply: str = "softmax"
    truncate: bool = False


def check_classify(
    options: ClassifyOptions, num_images: int, limits: ServingLimits, has_bias: bool
) -> list[tuple[list, Any]]:
    """Check options, and return labels and templates of the classifier, and those of the background if there is one.

    Raises:
        RequestError: 400, which names the option.
    """
    with name_option("labels"):
        labels = check_labels(options.labels)
        _check_lengths(labels, "labels", limits)
    with name_option("templates"):
        templates = check_templates(options.templates)
        _check_prompts(labels, templates, limits, "templates")
    with name_option("background"):
        background = None if options.background is None else check_background(options.background)
        _check_prompts([""], background or (), limits, "background")
    with name_option("function_to_apply"):
        function = check_function(options.function_to_apply)
    with name_option("top_k"):
        check_count("top_k", options.top_k, 1)
    num_results = num_images * min(len(labels), options.top_k or len(labels))
    if num_results > _MOST_RESULTS:
        raise RequestError(
            400,
            f"The answer would have {num_results:,} scores; at most {_MOST_RESULTS:,} are given. Send fewer images, "
            "or `top_k`, the number of best labels of each.",
            code="too_many_results",
            param="top_k",
        )
    with name_option(None):
        check_together({**vars(options), "labels": labels, "templates": templates, "background": background})
    needs_background = options.multi_label and not has_bias and function == "softmax"
    return parts_of_classifier(labels, templates, background, needs_background)


def _check_prompts(labels: list, templates: Any, limits: ServingLimits, name: str) -> None:
    """Raise a `RequestError` for too many prompts, or too long ones, before they are made."""
    # A template may say several times where the label goes.
    if isinstance(templates, Mapping):
        sizes = [
            len(prompt) + prompt.count("{") * len(str(label)) for label, own in templates.items() for prompt in own
        ]
        count, longest, characters = len(sizes), max(sizes, default=0), sum(sizes)
    else:
        lengths = [len(str(label)) for label in labels]
        fields = [template.count("{") for template in templates]
        sizes = [len(template) for template in templates]
        count = len(labels) * len(templates)
        longest = max((size + number * max(lengths) for size, number in zip(sizes, fields)), default=0)
        characters = len(labels) * sum(sizes) + sum(lengths) * sum(fields)
    for number, most, what, code in (
        (count, limits.max_prompts, "prompts", "too_many_prompts"),
        (characters, limits.max_prompt_characters, "characters of prompts", "too_many_prompt_characters"),
    ):
        if number > most:
            made = "The background has" if name == "background" else "The labels, times templates, have"
            raise RequestError(
                400,
                f"{made} {number:,} {what}; at most {most:,} are taken. Send fewer or shorter ones.",
                code=code,
                param="background" if name == "background" else "labels",
            )
    if longest > limits.max_text_characters:
        raise _too_many_characters(name, limits)


def _check_lengths(texts: Iterable, name: str, limits: ServingLimits) -> None:
    if any(len(str(text)) > limits.max_text_characters for text in texts):
        raise _too_many_characters(name, limits)


def _too_many_characters(name: str, limits: ServingLimits) -> RequestError:
    return RequestError(
        400,
        f"One of the {name} makes a text of more than {limits.max_text_characters:,} characters. Shorten it.",
        code="text_too_long",
        param=name,
    )


@contextmanager
def name_option(name: str | None) -> Iterator[None]:
    """Raise what is wrong with an option as a `RequestError` that names it."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(400, str(error), code="invalid_value", param=name) from error
