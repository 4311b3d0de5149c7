# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tags of OpenMoji's drawings: fitted thresholds, validated and found, XMP read by exiftool, contradictions.

- Thresholds: the skin tones as labels. They are fitted on one half of the drawings and tag the other; for each tone
  what was cross-validated stands beside what is found, and beside the default threshold without any sample. Once on
  all drawings, most of which a model trained on OpenMoji has seen, and once on the 300 that the split holds out.
- XMP: a sidecar for every fourth drawing, half of them in what exiftool wrote before; exiftool (Debian:
  `apt-get install libimage-exiftool-perl`) must read back every label, and what it wrote itself.
- Contradictions: ROC AUC of `contradiction_scores` for right captions against captions of other drawings, and against
  the same drawing's caption with another skin tone; beside the cosine alone. Alternatives: the background's everyday
  captions, and all tones of the drawing's own base.

`clip-hf train examples/recipes/demo.yaml --output_dir run` trains a model for it: `--model run/last`.
"""

import argparse
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from sklearn.metrics import roc_auc_score

from bench_image_processor import print_machine
from clip_hf.data import load_openmoji
from clip_hf.embedding import DualEncoder, encode_image_column, load_dual_encoder
from clip_hf.search import LabelScorer, LabelThresholds, add_tags, contradiction_scores
from clip_hf.utils.terminal_tables import draw_table


TONES = tuple(f"{tone} skin tone" for tone in ("light", "medium-light", "medium", "medium-dark", "dark"))
TEMPLATES = ("person: {}", "thumbs up: {}", "woman: {}", "man: {}")
HOSTILE = ("<rdf:li>", "a & b", "]]>", "'\"", "žluťoučký 🐈", "&amp;")


def print_thresholds(
    title: str, scorer: LabelScorer, embeds: np.ndarray, has_label: np.ndarray, precision: float
) -> None:
    """Fit on one half, tag the other."""
    half = np.random.default_rng(0).permutation(len(embeds))
    sample, rest = half[::2], half[1::2]
    fitted = LabelThresholds.fit(scorer, embeds[sample], has_label[sample], precision=precision)
    scores, truth = scorer.score(embeds[rest]), has_label[rest]
    rows = []
    for place, (label, threshold) in enumerate(fitted.labels.items()):
        found = _shares(scores[:, place] >= threshold.threshold, truth[:, place])
        default = _shares(scores[:, place] >= 0.5, truth[:, place])
        validated = tuple(map(_show, (threshold.precision, threshold.recall)))
        counts = f"{threshold.examples}", f"{truth[:, place].sum()}", f"{threshold.threshold:.3g}"
        rows.append((label, *counts, *validated, *map(_show, found), *map(_show, default), threshold.kind))
    columns = ("label", "fitted on", "tested on", "threshold", "validated P", "R", "found P", "R", "at 0.5 P", "R", "")
    print(draw_table(f"{title}: {len(sample)} and {len(rest)} drawings, target {precision:g}", columns, rows), "\n")


def _shares(tagged: np.ndarray, truth: np.ndarray) -> tuple[float | None, float]:
    right = (tagged & truth).sum()
    return (right / tagged.sum() if tagged.any() else None), right / truth.sum()


def _show(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def check_xmp(tags: Sequence[Sequence[str]], folder: Path) -> None:
    """Write a sidecar for each list of tags, and read all back with exiftool."""
    if shutil.which("exiftool") is None:
        raise SystemExit("exiftool is not installed: `apt-get install libimage-exiftool-perl`.")
    others = folder / "others.args"
    lines = []
    for number in range(0, len(tags), 2):
        lines += [
            "-xmp:title=a title",
            "-xmp:subject=an old tag",
            "-xmp:rating=4",
            "-o",
            f"{folder}/{number}.png.xmp",
            "-execute",
        ]
    others.write_text("\n".join(lines))
    subprocess.run(["exiftool", "-@", str(others)], check=True, capture_output=True)
    started = time.perf_counter()
    for number, own in enumerate(tags):
        add_tags(folder / f"{number}.png", own)
    seconds = time.perf_counter() - started
    command = ["exiftool", "-json", "-G1", "-struct", "-charset", "utf8", "-ext", "xmp", "-q", str(folder)]
    read = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    wrong = 0
    for entry in read:
        number = int(Path(entry["SourceFile"]).name.partition(".")[0])
        old = number % 2 == 0
        expected = [*(["an old tag"] if old else []), *tags[number]]
        lists = [entry.get(name) for name in ("XMP-dc:Subject", "XMP-lr:HierarchicalSubject")]
        kept = (entry.get("XMP-dc:Title"), entry.get("XMP-xmp:Rating")) == (("a title", 4) if old else (None, None))
        # exiftool gives a list of one as the item, and numbers as such.
        wrong += not kept or any(
            [str(tag) for tag in (each if isinstance(each, list) else [each])] != expected for each in lists
        )
    version = subprocess.run(["exiftool", "-ver"], capture_output=True, text=True).stdout.strip()
    print(
        f"XMP: {len(tags):,} sidecars written in {seconds:.2f} s, half into exiftool's own; exiftool {version} read "
        f"{len(read):,}, {wrong} of them not as written.\n"
    )
    if wrong or len(read) != len(tags):
        raise SystemExit("exiftool did not read what was written.")


def print_contradictions(encoder: DualEncoder, embeds: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    """ROC AUC of right captions against wrong ones."""
    generator = random.Random(0)
    captions = [row["caption"] for row in rows]
    by_base = defaultdict(list)
    for row in rows:
        if row["skin_tones"]:
            by_base[row["base"]].append(row["caption"])
    toned = [n for n, row in enumerate(rows) if row["skin_tones"] and len(set(by_base[row["base"]])) > 1]
    shuffled = [generator.choice([caption for caption in captions if caption != own]) for own in captions]
    hard = {n: generator.choice([each for each in by_base[rows[n]["base"]] if each != captions[n]]) for n in toned}
    kinds = {
        "caption of another drawing": (list(range(len(rows))), shuffled.__getitem__),
        "same drawing, another tone": (toned, hard.__getitem__),
    }
    table = []
    for kind, (numbers, wrong_of) in kinds.items():
        right, wrong = [captions[n] for n in numbers], [wrong_of(n) for n in numbers]
        truth, both = np.repeat([0, 1], len(numbers)), [*right, *wrong]
        pictures = np.concatenate([embeds[numbers]] * 2)
        texts = dict(zip(captions + shuffled, encoder.encode_texts(captions + shuffled).numpy()))
        cosines = np.array([picture @ texts[text] for picture, text in zip(pictures, both)])
        aucs = [roc_auc_score(truth, -cosines), roc_auc_score(truth, contradiction_scores(encoder, pictures, both))]
        if kind.startswith("same"):
            scores = np.empty(len(both))
            for base in {rows[n]["base"] for n in toned}:
                own = [place for place, n in enumerate([*numbers, *numbers]) if rows[n]["base"] == base]
                texts_of_base = [both[place] for place in own]
                scores[own] = contradiction_scores(
                    encoder, pictures[own], texts_of_base, alternatives=sorted(set(by_base[base]))
                )
            aucs.append(roc_auc_score(truth, scores))
        table.append((kind, f"{len(numbers):,}", *(f"{auc:.3f}" for auc in aucs), *[""] * (3 - len(aucs))))
    columns = ("wrong caption", "drawings", "cosine", "against background", "against the base's tones")
    print(draw_table("Contradictions: ROC AUC of right against wrong captions", columns, table))


def main() -> None:
    """Run all three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="what `clip-hf tag` takes")
    parser.add_argument("--precision", type=float, default=0.9, help="target of the thresholds (default: 0.9)")
    options = parser.parse_args()
    print_machine()
    encoder = load_dual_encoder(options.model)
    openmoji = load_openmoji()
    data = datasets.concatenate_datasets([openmoji["train"], openmoji["test"]])
    embeds = encode_image_column(encoder, data, "image")
    rows = data.remove_columns("image").to_list()
    has_label = np.array([[tone in row["skin_tones"] for tone in TONES] for row in rows])
    held_out = slice(len(openmoji["train"]), None)
    scorer = LabelScorer(encoder, TONES, TEMPLATES)
    print_thresholds("All drawings", scorer, embeds, has_label, options.precision)
    print_thresholds("Held-out drawings", scorer, embeds[held_out], has_label[held_out], options.precision)
    with tempfile.TemporaryDirectory() as folder:
        labels = [
            [*row["skin_tones"], row["base"], HOSTILE[number % len(HOSTILE)]] for number, row in enumerate(rows[::4])
        ]
        check_xmp([list(dict.fromkeys(own)) for own in labels], Path(folder))
    for name, part in (("All drawings", slice(None)), ("Held-out drawings", held_out)):
        print(name)
        print_contradictions(encoder, embeds[part], rows[part])


if __name__ == "__main__":
    main()
