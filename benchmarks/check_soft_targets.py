# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What soft labels, hard negatives and short captions change: the demo's ViT goes on with OpenMoji's skin tones.

The demo's model (`make demo`, outputs/demo/vit/last) is trained further on OpenMoji's train part, in four ways of
equal steps, order, crops and learning rate:

- plain: the contrastive loss;
- hard negatives: each drawing with a skin tone gets its own name with the other four tones as negatives;
- soft labels: base and tones of a drawing are its classes, so that drawings of one base or one tone are half a target
  of each other;
- short captions: the base alone, without its tones, in a loss of its own beside the whole name.

The 300 drawings of the test part are compositions that training never saw; their names may have been negatives of
other drawings. "tone" is the share with one tone for which the right name has the highest cosine among the names with
the five tones; "base" that for which a name of the right base has the highest cosine among all names; "top-1" the
share of right names among all. The settings were not tuned.

All defaults take less than 5 minutes on two quiet cores; `--steps 4 --seeds 1` is a short form.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np

from bench_image_processor import print_machine
from clip_hf.data import load_openmoji
from clip_hf.embedding import load_dual_encoder
from clip_hf.training import TrainingOptions, train
from clip_hf.utils.terminal_tables import draw_table


TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
WAYS = {
    "plain": {},
    "hard negatives": {"negative_column": "negatives"},
    "soft labels": {"loss": "soft_labels", "label_column": "parts"},
    "short captions": {"short_caption_column": "base"},
}


def names_of_tones(base: str) -> list[str]:
    return [f"{base}: {tone} skin tone" for tone in TONES]


def with_columns(data: datasets.Dataset) -> datasets.Dataset:
    """The train part with negatives (of drawings with one tone) and the parts of each name."""
    negatives, parts = [], []
    for base, tones, caption in zip(data["base"], data["skin_tones"], data["caption"], strict=True):
        others = [name for name in names_of_tones(base) if name != caption]
        negatives.append(others if len(tones) == 1 else [])
        parts.append([base, *tones])
    texts = datasets.List(datasets.Value("string"))
    data = data.add_column("negatives", negatives, feature=texts)
    return data.add_column("parts", parts, feature=texts)


def measure(folder: Path, test: datasets.Dataset, names: list[str], bases: list[str]) -> dict[str, float]:
    """Shares from 0 to 1 on the test part; `bases` are those of `names`."""
    encoder = load_dual_encoder(folder)
    images = encoder.encode_images(test["image"]).numpy()
    texts = encoder.encode_texts(names).numpy()
    best = (images @ texts.T).argmax(axis=1)
    place = {name: number for number, name in enumerate(names)}
    rights, tones = [], []
    for image, base, caption, number in zip(images, test["base"], test["caption"], best, strict=True):
        rights.append((names[number] == caption, bases[number] == base))
        candidates = names_of_tones(base)
        if caption in candidates and all(name in place for name in candidates):
            cosines = texts[[place[name] for name in candidates]] @ image
            tones.append(candidates[int(cosines.argmax())] == caption)
    top1, of_base = np.mean(rights, axis=0)
    return {"tone": float(np.mean(tones)), "base": float(of_base), "top-1": float(top1)}


def run(way: str, seed: int, folder: Path, options: argparse.Namespace) -> tuple[Path, float]:
    """Train in one way; returns the model's folder and the seconds it took."""
    output = folder / f"{way.replace(' ', '_')}_{seed}"
    started = time.perf_counter()
    train(
        TrainingOptions(
            output_dir=str(output),
            dataset=[str(folder / "train")],
            model=str(options.model),
            max_steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            target_scale=options.target_scale if way == "soft labels" else TrainingOptions.target_scale,
            background_color="white",
            max_grad_norm=1.0,
            save_every=0,
            seed=seed,
            cpu=True,
            cache_images=True,
            **WAYS[way],
        )
    )
    return output / "last", time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("outputs/demo/vit/last"), help="the model to go on with")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--target_scale", type=float, default=20.0, help="of the soft labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    print_machine()
    openmoji = load_openmoji()
    names = list(dict.fromkeys([*openmoji["train"]["caption"], *openmoji["test"]["caption"]]))
    base_of = {row["caption"]: row["base"] for part in openmoji.values() for row in part.remove_columns("image")}
    bases = [base_of[name] for name in names]
    figures = {"before": [measure(options.model, openmoji["test"], names, bases)]}
    seconds: dict[str, list[float]] = {"before": [0.0]}
    with tempfile.TemporaryDirectory() as folder:
        with_columns(openmoji["train"]).save_to_disk(f"{folder}/train")
        for seed in range(options.seeds):
            for way in WAYS:
                model, took = run(way, seed, Path(folder), options)
                figures.setdefault(way, []).append(measure(model, openmoji["test"], names, bases))
                seconds.setdefault(way, []).append(took)
    rows = []
    for way, results in figures.items():
        cells = []
        for name in ("tone", "base", "top-1"):
            values = [100 * result[name] for result in results]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})")
        rows.append([way, *cells, f"{np.mean(seconds[way]):.0f}"])
    title = f"OpenMoji's held-out compositions, mean (lowest-highest) over {options.seeds} seeds"
    print(draw_table(title, ["way", "tone, %", "base, %", "top-1, %", "seconds"], rows))
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
