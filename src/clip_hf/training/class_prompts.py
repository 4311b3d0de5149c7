# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The classes of labelled training images: their prompts as token ids, and the ids that pairs of a class share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..data import PairOptions
from ..data.texts import TextReader, stable_id, template_columns, with_class_names


if TYPE_CHECKING:
    from ..model.processing_clip_hf import ClipHFProcessor

# Above, the texts of a step take far more time and memory than its images.
MAX_CLASSES = 5000


@dataclass(frozen=True)
class ClassPrompts:
    """The prompts of all classes.

    Args:
        names (`tuple[str, ...]`): The classes' captions, in the order of the rows below.
        text_ids (`torch.Tensor` of shape `(classes,)`, int64): What `text_ids` of a batch are for pairs of each class.
        tokens (`tuple[dict[str, torch.Tensor], ...]`): `input_ids` and `attention_mask`, `(classes, length)`, of each
            template.
    """

    names: tuple[str, ...]
    text_ids: torch.Tensor
    tokens: tuple[dict[str, torch.Tensor], ...]


def read_class_prompts(data: Any, options: PairOptions, processor: "ClipHFProcessor") -> ClassPrompts:
    """Read the classes of training data, which are its different captions, sorted.

    Captions that differ only in case or white space at the ends are one class; its name is the first of them, sorted.

    Args:
        data (`datasets.Dataset`): Rows with one caption each. Rows without a usable one are passed over.
        options ([`PairOptions`]): Columns and templates.
        processor ([`ClipHFProcessor`]): Its tokenizer makes the token ids.

    Raises:
        ValueError: if a row has several captions, a template names another column than the caption, or there is only
            one class or more than 5,000.
    """
    for template in options.templates:
        if any(name not in ("", options.caption_column) for name in template_columns(template)):
            raise ValueError(
                f"The loss is `classes`, and the template {template!r} names another column than the caption: the "
                "classes are the captions. Leave the template out, or train with the softmax loss."
            )
    reader = TextReader(options.templates, options.caption_column)
    captions = with_class_names(data.with_format(None).select_columns([options.caption_column]), reader.columns)
    names: dict[int, str] = {}
    for row, value in enumerate(captions[options.caption_column]):
        if reader.find_problem({options.caption_column: value}, f"row {row}"):
            continue
        if not isinstance(value, str) and len(value) > 1:
            raise ValueError(
                f"The loss is `classes`, and row {row} has {len(value)} captions; an image has one class. Give one "
                "caption a row, or train with the softmax loss."
            )
        name = value if isinstance(value, str) else value[0]
        text_id = stable_id(name.strip().lower())
        names[text_id] = min(name, names.get(text_id, name))
        if len(names) > MAX_CLASSES:
            raise ValueError(
                f"The loss is `classes`, and the data have more than {MAX_CLASSES:,} different captions, whose texts "
                "each step would embed. Train with a contrastive loss: `softmax`, or `same_label`."
            )
    if len(names) < 2:
        only = next(iter(names.values()), "none that can be used")
        raise ValueError(f"The loss is `classes`, and the only caption is {only!r}: there is nothing to tell apart.")
    ordered = sorted(names.items(), key=lambda item: item[1])
    tokens = []
    for template in options.templates:
        field = "{" + template_columns(template)[0] + "}"
        texts = [template.replace(field, name) for _, name in ordered]
        encoded = processor.tokenizer(texts, padding=options.padding, truncation=True, return_tensors="pt")
        tokens.append({name: encoded[name] for name in ("input_ids", "attention_mask")})
    ids = torch.tensor([text_id for text_id, _ in ordered])
    return ClassPrompts(tuple(name for _, name in ordered), ids, tuple(tokens))
