# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Near-duplicates: time and memory of the join, and precision and recall on drawings with planted copies.

- Without `--model`: `--rows` random unit vectors, as many copies with noise planted among them as `--planted` says.
  The components that come back are compared with those that were planted. Beside it the plain way, a product of all
  rows in float32, block by block, on `--plain-rows` of them, with the time scaled to all by the square.
- With `--model FOLDER`: OpenMoji's drawings, and of `--copies` of them a copy of each kind: half the size, JPEG of
  quality 30, another colour balance. For each threshold and kind: recall, the share of copies that are in one group
  with their drawing. Precision: the share of pairs (kept, other) in which both come from one drawing. Drawings of
  equal pixels that OpenMoji itself has count as one drawing.
"""

import argparse
import io
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from bench_image_processor import print_machine
from clip_hf.data import load_openmoji
from clip_hf.embedding import EncodingOptions, encode_image_column, load_dual_encoder
from clip_hf.search import EmbeddingIndex, find_near_duplicates


THRESHOLDS = (0.90, 0.94, 0.95, 0.97, 0.99)


def halve(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def recompress(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def recolour(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * (0.85, 1.0, 0.8)).astype(np.uint8))


KINDS = {"resized": halve, "recompressed": recompress, "recoloured": recolour}


def measure_join(rows: int, dim: int, planted: int, plain_rows: int, threshold: float) -> None:
    generator = np.random.default_rng(0)

    def blocks():
        for start in range(0, rows, 16384):
            block = generator.standard_normal((min(16384, rows - start), dim), dtype=np.float32)
            if not start:
                copies = block[:planted] + 0.2 * generator.standard_normal((planted, dim), dtype=np.float32)
            yield block
        yield copies

    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddingIndex.build(Path(folder, "index"), blocks())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        start = time.perf_counter()
        groups = find_near_duplicates(index, threshold, progress=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        units = next(index.scan(plain_rows))[1]
    right = sum(group.others == [rows + group.kept] for group in groups)
    print(f"\n{rows:,} random rows of {dim} values and {planted:,} planted copies, cosine {threshold} or more\n")
    print(f"groups: {len(groups):,}, of them planted {right:,} of {planted:,}")
    print(f"join: {seconds:.1f} s; peak memory {peak:.2f} GiB, {before:.2f} GiB before")
    start = time.perf_counter()
    for top in range(0, len(units), 2048):
        np.flatnonzero(units[top : top + 2048] @ units[top:].T >= threshold)
    plain = (time.perf_counter() - start) * (rows / len(units)) ** 2
    ratio = plain / seconds
    print(f"all products in float32, scaled from {len(units):,} rows: {plain:.1f} s, {ratio:.1f} times as long")


def measure_copies(model: str, copies: int) -> None:
    encoder = load_dual_encoder(model)
    drawings = [row for part in load_openmoji().values() for row in part["image"]]
    # Drawings of the same pixels are one.
    first: dict[bytes, int] = {}
    origins = [first.setdefault(image.tobytes(), number) for number, image in enumerate(drawings)]
    chosen = np.random.default_rng(0).choice(len(drawings), copies, replace=False)
    images, kinds, owners = list(drawings), ["drawing"] * len(drawings), list(origins)
    for kind, change in KINDS.items():
        for number in chosen:
            images.append(change(drawings[number]))
            kinds.append(kind)
            owners.append(origins[number])
    options = EncodingOptions(batch_size=64, progress=True)
    data = datasets.Dataset.from_dict({"image": images})
    vectors = encode_image_column(encoder, data, options=options)
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddingIndex.build(Path(folder, "index"), vectors)
        print(f"\n{len(drawings):,} drawings, {copies:,} copies of each kind, {model}\n")
        print("| threshold | precision | " + " | ".join(f"recall, {kind}" for kind in KINDS) + " |")
        print("|---|---|" + "---|" * len(KINDS))
        for threshold in THRESHOLDS:
            group_of = np.arange(len(images))
            pairs, same = 0, 0
            for group in find_near_duplicates(index, threshold):
                group_of[[group.kept, *group.others]] = group.kept
                pairs += len(group.others)
                same += sum(owners[other] == owners[group.kept] for other in group.others)
            found = Counter(kind for kind, place, owner in zip(kinds, group_of, owners) if place == group_of[owner])
            recalls = " | ".join(f"{found[kind] / copies:.1%}" for kind in KINDS)
            print(f"| {threshold} | {same / max(1, pairs):.1%} | {recalls} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--planted", type=int, default=1000)
    parser.add_argument("--plain-rows", type=int, default=10_000)
    parser.add_argument("--threshold", type=float, default=0.94)
    parser.add_argument("--model", help="folder of a model: measure copies of OpenMoji's drawings instead")
    parser.add_argument("--copies", type=int, default=500)
    options = parser.parse_args()
    print_machine()
    if options.model:
        measure_copies(options.model, options.copies)
    else:
        measure_join(options.rows, options.dim, options.planted, options.plain_rows, options.threshold)


if __name__ == "__main__":
    main()
