# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model card of a classifier that an adaptation made: a fixed set of classes, so no zero-shot card."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..model_card.card import CARD_NAME, ModelCardDetails
from ..model_card.section_texts import public_name, public_setting
from ..utils.atomic import replaced_file
from ..utils.wording import INTERVAL, listed, markdown_table


_MOST_NAMES = 20
_USAGE = """\
```python
from transformers import pipeline

classify = pipeline("image-classification", model="path/to/this/folder")
print(classify("photo.jpg"))
```
"""


def write_classifier_card(folder: Path, class_names: Sequence[str], details: ModelCardDetails) -> None:
    """Write the README.md of an adapted classifier.

    Args:
        folder (`Path`): The saved model's folder.
        class_names (`Sequence[str]`): Its classes.
        details ([`ModelCardDetails`]): Title, figures, settings, and in `limitations` what was gained and lost.
    """
    rows = []
    for one in details.eval_results:
        ends = (one.metric_args or {}).get(INTERVAL, ["", ""])
        rows.append((one.dataset_name, one.metric_name, one.metric_value, f"{ends[0]} to {ends[1]}"))
    settings = [(name, public_setting(value)) for name, value in details.training.items()]
    base = public_name(details.base_model or "")
    parts = [
        f"# {details.title}",
        f"A classifier of {len(class_names):,} classes on the image tower of {base}, whose weights it holds as they "
        f"were: {listed(list(class_names), _MOST_NAMES)}.",
        _USAGE,
        "## Gained and lost",
        details.limitations or "Not recorded.",
        "## Figures",
        markdown_table(("data", "metric", "value (%)", "95% interval"), rows),
        "## How it was made",
        markdown_table(("setting", "value"), settings),
    ]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        model_name=details.title,
        eval_results=details.eval_results,
        tags=["clip", "clip_hf"],
    )
    card = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    with replaced_file(folder / CARD_NAME) as path:
        path.write_text(str(card), encoding="utf-8")
