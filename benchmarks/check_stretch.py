# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Texts of more than 77 tokens: retrieval before and after a training with stretched positions.

A picture shows four drawings of OpenMoji, and its caption describes them one after the other, in more than 77 tokens.
Test pictures come in fours that differ in the last drawing only, which the caption names beyond token 77: a model that
cuts texts there cannot tell the four apart. Test pictures are combinations that training has not seen.

The start is the demo's ViT (`make demo`), whose 40 positions are stretched to CLIP's 77: like a published CLIP it
knows only the first positions well. Compared are this model and the same one stretched to 248, each before and after
the same training on long captions, so that what the length brings is seen apart from what the training brings. It
takes about eight minutes on two idle cores; `--quick` tries the parts in one.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from bench_image_processor import print_machine
from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.adaptation import stretch_context
from clip_hf.data import load_openmoji
from clip_hf.data.openmoji import drawing_captions, render_drawings
from clip_hf.embedding import load_dual_encoder
from clip_hf.evaluation import recall_at_k, target_ranks
from clip_hf.training import parse_options, train
from clip_hf.utils.intervals import wilson_interval
from clip_hf.utils.terminal_tables import draw_table


PLACES = ("top left", "top right", "bottom left", "bottom right")
CONTEXTS = (77, 248)
KEEP = 20
NUM_DRAWINGS = 24
FOURS = 4  # test pictures that share their first three drawings


def describe(names: list[str]) -> str:
    """A long caption: a clause for each drawing, in the order of `PLACES`."""
    clauses = [
        f"and the drawing in the part of this picture at the {place} side is of {name}"
        for place, name in zip(PLACES, names)
    ]
    return f"these are four drawings in one picture: {'; '.join(clauses)}"


def choose_pictures(num_train: int, num_groups: int, seed: int) -> dict[str, list[tuple[int, ...]]]:
    """Combinations of four drawings: for training, and in groups that differ in the last for testing."""
    generator = np.random.default_rng(seed)
    test = []
    while len(test) < FOURS * num_groups:
        *first, a, b, c, d = generator.permutation(NUM_DRAWINGS)[: 3 + FOURS].tolist()
        test += [(*first, last) for last in (a, b, c, d)]
    taken = set(test)
    train: list[tuple[int, ...]] = []
    while len(train) < num_train:
        picture = tuple(generator.permutation(NUM_DRAWINGS)[:4].tolist())
        if picture not in taken:
            taken.add(picture)
            train.append(picture)
    return {"train": train, "test": test}


def make_data(folder: Path, options: argparse.Namespace) -> datasets.DatasetDict:
    """Draw the pictures, and save them with their captions."""
    names = [
        name for name in drawing_captions() if len(name) <= 10 and name.isascii() and name.replace(" ", "").isalpha()
    ]
    names = np.random.default_rng(options.seed).permutation(names)[:NUM_DRAWINGS].tolist()
    drawings = list(render_drawings(names, 32).values())
    parts = {}
    for part, pictures in choose_pictures(options.num_train, options.num_groups, options.seed).items():
        rows = []
        for picture in pictures:
            image = Image.new("RGB", (64, 64), "white")
            for place, drawing in enumerate(picture):
                image.paste(drawings[drawing], (32 * (place % 2), 32 * (place // 2)), drawings[drawing])
            rows.append({"image": image, "caption": describe([names[drawing] for drawing in picture])})
        features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
        parts[part] = datasets.Dataset.from_list(rows, features=features)
    data = datasets.DatasetDict(parts)
    data.save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def check_lengths(data: datasets.DatasetDict, processor: ClipHFProcessor) -> None:
    """Print how long the captions are, and see that those of a four differ beyond token 77 only."""
    texts = list(data["test"]["caption"])
    ids = [processor.tokenizer(text)["input_ids"] for text in texts]
    lengths = [len(row) for row in ids]
    for start in range(0, len(ids), FOURS):
        assert len({tuple(row[:76]) for row in ids[start : start + FOURS]}) == 1
        assert len({tuple(row) for row in ids[start : start + FOURS]}) == FOURS
    assert min(lengths) > 77 and max(lengths) < 248, (min(lengths), max(lengths))
    print(f"{len(texts)} test captions of {min(lengths)} to {max(lengths)} tokens; such as:\n  {texts[0]}", flush=True)


@torch.inference_mode()
def short_text_change(before: Path, after: Path, keep: int) -> tuple[float, int]:
    """The largest change of a feature among OpenMoji's captions of at most `keep` tokens, and how many these are."""
    processor = ClipHFProcessor.from_pretrained(before)
    captions = sorted(set(load_openmoji()["train"]["caption"]))
    lengths = [len(ids) for ids in processor.tokenizer(captions)["input_ids"]]
    captions = [text for text, length in zip(captions, lengths) if length <= keep]
    first, second = (load_dual_encoder(str(folder)).encode_texts(captions) for folder in (before, after))
    return float((first - second).abs().max()), len(captions)


@torch.inference_mode()
def recalls(folder: Path, data: datasets.Dataset) -> dict[str, float]:
    """R@K in both directions, and the share of pictures whose caption is the nearest of its four."""
    encoder = load_dual_encoder(str(folder))
    images = encoder.encode_images(list(data["image"])).numpy()
    texts = encoder.encode_texts(list(data["caption"])).numpy()
    scores, targets = images @ texts.T, np.arange(len(images))
    found = {}
    for name, matrix in (("image to text", scores), ("text to image", scores.T)):
        ranks = target_ranks(matrix, targets)
        found |= {f"{name} R@{k}": recall_at_k(ranks, k) for k in (1, 5)}
    blocks = np.stack([scores[start : start + FOURS, start : start + FOURS] for start in targets[::FOURS]])
    own = np.diagonal(blocks, axis1=1, axis2=2)[..., None]
    # Of equal captions none is right: a model that cannot tell them apart is not to win by their order.
    found["right of four"] = float(((blocks >= own).sum(axis=2) == 1).mean())
    return found


def train_on(model: Path, data: Path, folder: Path, options: argparse.Namespace) -> float:
    """Train on the long captions; returns the seconds it took."""
    started = time.perf_counter()
    settings = {
        "model": model,
        "dataset": data,
        "max_steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "cache_images": "true",
        "eval_every": 1_000_000,
        "save_every": 0,
        "seed": options.seed,
        "output_dir": folder,
    }
    words = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    train(parse_options([*words, "--templates", "{}", "--cpu"]))
    return time.perf_counter() - started


def save(model: ClipHFModel, processor: ClipHFProcessor, folder: Path) -> Path:
    """Save a model with its processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    """Stretch, train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("outputs/demo/vit/last"), help="the demo's ViT")
    parser.add_argument("--num-train", type=int, default=2000)
    parser.add_argument("--num-groups", type=int, default=100)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/stretch.json"))
    parser.add_argument("--quick", action="store_true", help="a few steps and rows, to see that all parts run")
    options = parser.parse_args()
    if options.quick:
        options.num_train, options.num_groups, options.steps, options.batch_size = 32, 8, 2, 8
    logging.disable_progress_bar()
    print_machine()
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = make_data(work / "data", options)
        short = save(*stretch_context(options.model, context_length=CONTEXTS[0], keep=KEEP), work / "77")
        long = save(*stretch_context(short, context_length=CONTEXTS[1], keep=KEEP), work / "248")
        check_lengths(data, ClipHFProcessor.from_pretrained(long))
        change, count = short_text_change(options.model, long, KEEP)
        print(f"{count} captions of at most {KEEP} tokens: features change by {change:.1e} at most", flush=True)
        assert change < 1e-6
        for model in (short, long):
            found[f"{model.name} tokens, before"] = recalls(model, data["test"])
            seconds = train_on(model, work / "data", work / f"trained-{model.name}", options)
            found[f"{model.name} tokens, trained"] = recalls(work / f"trained-{model.name}" / "last", data["test"])
            print(f"{model.name} tokens: {options.steps} steps in {seconds:.0f} s", flush=True)
    rows = [
        (name, *(f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})" for value, low, high in cells))
        for name, cells in (
            (name, [(value, *wilson_interval(value, len(data["test"]))) for value in values.values()])
            for name, values in found.items()
        )
    ]
    title = f"{len(data['test'])} pictures and captions, % (95% interval)"
    print(f"\n{draw_table(title, ('model', *next(iter(found.values()))), rows)}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"short_text_change": change, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
