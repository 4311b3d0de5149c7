# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Recall of approximate indexes for text and for image queries, and their time against the exact search.

- Synthetic: `--rows` image vectors around one direction and 500 text vectors around another, as CLIP's modality gap
  puts them; both vary most in a few directions.
- With `--model FOLDER`: OpenMoji's drawings; the texts are their captions.

Each kind is built once with `min_recall=0` at its least effort, which shows what one gets without asking, and once
with 0.95. The effort is found with one half of the queries, and the recall is that of the other half. Times are
medians of single queries, which take turns with the exact search.
"""

import argparse
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np

from bench_image_processor import print_machine
from clip_hf.data import load_openmoji
from clip_hf.embedding import EncodingOptions, encode_image_column, encode_text_list, load_dual_encoder
from clip_hf.search import ApproximateIndex, EmbeddingIndex, Recall


KINDS = ("hnsw", "ivfpq")


def synthetic(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and texts around two directions, with spectra that fall."""
    generator = np.random.default_rng(0)
    spread = np.arange(1, dim + 1) ** -0.35
    images = generator.standard_normal((rows, dim), dtype=np.float32) * spread
    texts = generator.standard_normal((500, dim), dtype=np.float32) * spread
    centre, other = generator.standard_normal((2, dim), dtype=np.float32) / dim**0.5
    length = np.linalg.norm(spread)
    return (images + length * centre).astype(np.float32), (texts + length * other).astype(np.float32)


def openmoji(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of the drawings, and of 500 of their captions."""
    encoder, data = load_dual_encoder(model), load_openmoji()
    drawings = datasets.concatenate_datasets(list(data.values()))
    options = EncodingOptions(batch_size=64, progress=True)
    images = encode_image_column(encoder, drawings, options=options)
    captions = np.random.default_rng(0).choice(drawings["caption"][:], 500, replace=False).tolist()
    texts = encode_text_list(encoder, captions, options=options)
    return np.asarray(images, np.float32), np.asarray(texts, np.float32)


def median_milliseconds(search, queries: np.ndarray) -> float:
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query, 10)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def short(recall: Recall) -> str:
    low, high = recall.interval_95
    return f"{recall.recall:.3f} ({low:.3f} to {high:.3f})"


def measure(name: str, images: np.ndarray, texts: np.ndarray) -> None:
    print(f"\n{name}: {len(images):,} rows of {images.shape[1]} values, {len(texts):,} texts\n")
    print("| kind | asked for | text recall@10 | image recall@10 | effort | build, s | ms a query | exact, ms |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddingIndex.build(Path(folder, "index"), images)
        for kind in KINDS:
            for least in (0.0, 0.95):
                start = time.perf_counter()
                try:
                    built = ApproximateIndex.build(index, texts, kind=kind, min_recall=least)
                except ValueError as error:
                    print(f"| {kind} | {least} | refused: {error} | | | | | |")
                    continue
                seconds = time.perf_counter() - start
                ours, exact = (median_milliseconds(search, texts[:100]) for search in (built.search, index.search))
                recalls = f"{short(built.text_recall)} | {short(built.image_recall)}"
                effort = f"{built.effort.breadth}, {built.effort.candidates}"
                print(f"| {kind} | {least} | {recalls} | {effort} | {seconds:.1f} | {ours:.2f} | {exact:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--model", help="folder of a model: also measure OpenMoji's drawings")
    options = parser.parse_args()
    print_machine()
    measure("Synthetic", *synthetic(options.rows, options.dim))
    if options.model:
        measure("OpenMoji", *openmoji(options.model))


if __name__ == "__main__":
    main()
