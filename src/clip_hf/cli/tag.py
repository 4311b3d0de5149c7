# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf tag`: which of some labels fit each picture, as a table, JSON Lines and XMP sidecars."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..embedding import EncodingOptions, encode_image_stream
from ..embedding.load_encoder import check_encoder_options
from ..evaluation import load_templates
from ..search.background_texts import load_background_texts
from ..search.index_sources import SourceIndex
from ..search.label_thresholds import PRECISION, LabelThreshold, LabelThresholds
from ..search.labelled_samples import read_labelled_sample
from ..search.tagging import (
    MODERATION,
    TAG_TEMPLATE,
    TAG_THRESHOLD,
    LabelScorer,
    PictureTags,
    load_moderation_labels,
    tag_rows,
)
from ..search.xmp_sidecars import add_tags, check_sidecars
from ..utils.atomic import replaced_file
from ..utils.terminal_tables import draw_table, wrap_lines
from ..utils.wording import counted, quoted
from .classify import read_labels
from .indexed_sources import find_index, load_index_encoder, open_index
from .terminal_text import encodable, printable


# Pictures in the table; --jsonl has all.
_SHOWN_PICTURES = 100
_BATCH_ROWS = 4096
_PROMISE = (
    "Of all labels, at most about {:.0%} get a threshold whose precision is clearly below the target, on pictures "
    "like the sample; a label that barely got one (few tagged) is the likeliest."
)


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status is 1 where a sidecar could not be written."""
    fitted = _check_options(options)
    labels, templates, background = _label_set(options, fitted)
    device = check_encoder_options(options.runtime, options.dtype, options.device)
    folder, index = find_index(options)
    sample = read_labelled_sample(options.calibrate) if options.calibrate else None
    has_label = sample.matrix(labels) if sample else None
    encoder = load_index_encoder(options, index, device)
    scorer = LabelScorer(encoder, labels, templates, background)
    encoding = EncodingOptions(batch_size=options.batch_size, max_skipped_share=options.max_skipped_share)
    default = TAG_THRESHOLD if options.threshold is None else options.threshold
    if sample:
        fitted = _fit(scorer, sample.pictures, has_label, options, encoding)
        print(encodable(describe_thresholds(fitted, sample.name)), end="\n\n")
    thresholds = [default] * len(labels) if fitted is None else fitted.of(scorer)
    if sample and options.thresholds:
        fitted.save(options.thresholds)
    source = open_index(options, encoder, folder)
    _report_refresh(source)
    tagged = list(tag_rows(scorer, thresholds, source.index.scan(_BATCH_ROWS)))
    pictures = _picture_names(source)
    if options.xmp:
        _check_sidecars(tagged, pictures, options)
    try:
        print(encodable(describe_tags(pictures, tagged, labels, thresholds)), flush=True)
    finally:  # also for a reader that has enough of the output
        if options.jsonl:
            _write_jsonl(options.jsonl, tagged, pictures)
        failed = _write_sidecars(tagged, pictures, options.xmp_style) if options.xmp else 0
    return 1 if failed else 0


def _check_options(options: argparse.Namespace) -> LabelThresholds | None:
    """Refuse options that do not go together, and read the thresholds that were fitted before."""
    reads = options.thresholds is not None and options.calibrate is None
    if options.calibrate is None and options.precision is not None:
        raise ValueError("--precision is what --calibrate aims at: name a labelled sample with --calibrate.")
    if options.precision in (0, 1):
        raise ValueError(f"--precision is {options.precision:g}; it must be above 0 and below 1, such as {PRECISION}.")
    if reads and options.threshold is not None:
        raise ValueError("--thresholds has a threshold for each label; leave --threshold out.")
    if options.labels is None and not reads:
        raise ValueError("Name labels (--labels), or a file of thresholds that were fitted for labels (--thresholds).")
    return LabelThresholds.load(options.thresholds) if reads else None


def _label_set(
    options: argparse.Namespace, fitted: LabelThresholds | None
) -> tuple[Sequence[str], str | Sequence[str] | Mapping[str, Any], Sequence[str] | None]:
    """The labels, their prompts, and the background."""
    templates = None if options.template is None else load_templates(options.template)
    if fitted is not None:
        labels = list(fitted.labels) if options.labels is None else _read_labels(options.labels)
        fitted.check_labels(labels)
        return labels, templates or fitted.prompts, fitted.background
    labels = _read_labels(options.labels)
    if options.labels != [MODERATION]:
        return labels, templates or TAG_TEMPLATE, None
    if templates is not None:
        raise ValueError("The labels of moderation have captions of their own; leave --template out.")
    moderation = load_moderation_labels()
    for limit in moderation.limits:
        print(f"clip-hf tag: moderation: {limit}", file=sys.stderr)
    return labels, moderation.prompts, (*load_background_texts(), *moderation.counterparts)


def _read_labels(values: Sequence[str]) -> list[str]:
    """The labels, each once; what occurs more than once is said."""
    if values == [MODERATION]:
        return list(load_moderation_labels().labels)
    if MODERATION in values:
        raise ValueError(
            f"{MODERATION} is a set of labels that comes with clip_hf and goes alone: tag with it by itself, or name "
            "other labels only."
        )
    counts = Counter(label.strip() for label in read_labels(values))
    repeated = [label for label, count in counts.items() if count > 1]
    if repeated:
        print(
            f"clip-hf tag: {counted(len(repeated), 'label')} occurred more than once; each counts once: "
            f"{quoted(repeated)}",
            file=sys.stderr,
        )
    return list(counts)


def _fit(
    scorer: LabelScorer,
    pictures: Sequence[str],
    has_label: np.ndarray,
    options: argparse.Namespace,
    encoding: EncodingOptions,
) -> LabelThresholds:
    """Thresholds fitted on the pictures of a sample that can be read."""
    batches = list(encode_image_stream(scorer.encoder, pictures, options=encoding, name="the labelled sample"))
    rows = np.concatenate([batch.places for batch in batches])
    return LabelThresholds.fit(
        scorer,
        np.concatenate([batch.features for batch in batches if len(batch.places)]),
        has_label[rows],
        precision=PRECISION if options.precision is None else options.precision,
        fallback=TAG_THRESHOLD if options.threshold is None else options.threshold,
    )


def _report_refresh(source: SourceIndex) -> None:
    if source.refresh is None:
        return
    print(f"clip-hf tag: {encodable(source.refresh.describe())}", file=sys.stderr)
    for row in source.refresh.skipped:
        print(f"clip-hf tag: {row.message}", file=sys.stderr)


def _picture_names(source: SourceIndex) -> list[str]:
    """What the pictures of an index are called, in its order: paths from the root where they are files."""
    table = source.index.metadata()
    column = "path" if "path" in table.column_names else "name"
    names = table[column].to_pylist() if column in table.column_names else [None] * len(source.index)
    folder = "" if source.folder is None else os.path.abspath(source.folder)
    return [_place(folder, name, key) for name, key in zip(names, source.index.ids().tolist(), strict=True)]


def _place(folder: str, name: str | bytes | None, key: int | str) -> str:
    if not name:
        return str(key)
    name = os.fsdecode(name)
    return name if "://" in name or not (folder or os.path.isabs(name)) else os.path.join(folder, name)


# -------------------------------------------------------------------------------------------------------------- output


def _check_sidecars(tagged: Sequence[PictureTags], pictures: Sequence[str], options: argparse.Namespace) -> None:
    """Refuse to write sidecars if not all can be written."""
    with_labels = [name for name, tags in zip(pictures, tagged) if tags.labels]
    no_files = [name for name in with_labels if not (os.path.isabs(name) and os.path.lexists(name))]
    if no_files:
        raise ValueError(
            f"--xmp writes beside pictures that are files, which {quoted(no_files)} of {options.source} "
            f"{'is' if len(no_files) == 1 else 'are'} not. Use --jsonl."
        )
    check_sidecars(with_labels, dict.fromkeys(label for tags in tagged for label in tags.labels), options.xmp_style)


def _write_sidecars(tagged: Sequence[PictureTags], pictures: Sequence[str], style: str) -> int:
    """Write the sidecars of the pictures that have labels; returns how many could not be written."""
    written = failed = 0
    for path, tags in zip(pictures, tagged):
        if not tags.labels:
            continue
        try:
            written += add_tags(path, tags.labels, style) is not None
        except (OSError, ValueError) as error:
            failed += 1
            print(f"clip-hf tag: {printable(str(error))}", file=sys.stderr)
    print(f"{counted(written, 'sidecar')} written.", file=sys.stderr)
    return failed


def _write_jsonl(file: str, tagged: Sequence[PictureTags], pictures: Sequence[str]) -> None:
    """A line for each picture: `{"image": path, "labels": [...], "scores": [...]}`. The file is whole or not there."""
    with replaced_file(file) as temporary, open(temporary, "w", encoding="utf-8") as lines:
        for name, tags in zip(pictures, tagged):
            row = {"image": name, "labels": tags.labels, "scores": [round(score, 6) for score in tags.scores]}
            lines.write(json.dumps(row, allow_nan=False) + "\n")


def describe_thresholds(fitted: LabelThresholds, sample: str) -> str:
    """The thresholds as a table, which labels have none of their own, and what is promised."""
    rows = [(printable(label), *_cells(threshold)) for label, threshold in fitted.labels.items()]
    title = (
        f"Thresholds for a precision of {fitted.precision:g}, fitted on {counted(fitted.pictures, 'picture')} of "
        f"{printable(sample)}; precision and recall are cross-validated estimates"
    )
    table = draw_table(title, ("label", "pictures", "threshold", "tagged", "right", "precision", "recall", ""), rows)
    return f"{table}\n{wrap_lines(_PROMISE.format(1 - fitted.confidence))}"


def _cells(threshold: LabelThreshold) -> tuple[str, ...]:
    shares = ("-" if share is None else f"{share:.3f}" for share in (threshold.precision, threshold.recall))
    value = "-" if threshold.threshold == float("inf") else f"{threshold.threshold:.4g}"
    note = "" if threshold.kind == "fitted" else threshold.kind
    return f"{threshold.examples:,}", value, f"{threshold.tagged:,}", f"{threshold.right:,}", *shares, note


def describe_tags(
    pictures: Sequence[str], tagged: Sequence[PictureTags], labels: Sequence[str], thresholds: Sequence[float]
) -> str:
    """How many pictures have each label, and the first pictures with theirs."""
    counts = Counter(label for tags in tagged for label in tags.labels)
    rows = [
        (printable(label), f"{counts[label]:,}", "never" if threshold == float("inf") else f"{threshold:.4g}")
        for label, threshold in zip(labels, thresholds)
    ]
    bare = sum(not tags.labels for tags in tagged)
    title = f"{counted(len(tagged), 'picture')}, {bare:,} without a label"
    parts = [draw_table(title, ("label", "pictures", "threshold"), rows)]
    shown = [
        (
            printable(each.id if isinstance(each.id, str) else name),
            ", ".join(f"{printable(label)} {score:.2f}" for label, score in zip(each.labels, each.scores)),
        )
        for name, each in zip(pictures[:_SHOWN_PICTURES], tagged)
    ]
    more = len(tagged) - _SHOWN_PICTURES
    title = "Pictures" if more <= 0 else f"The first {_SHOWN_PICTURES} pictures ({more:,} more: --jsonl)"
    parts.append(draw_table(title, ("picture", "labels"), shown))
    return "\n\n".join(parts)
