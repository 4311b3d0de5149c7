# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Choose the pairs to train on: balanced over queries, as CLIP's own data were, and without near-duplicate images.

    python examples/curate.py --output_dir outputs/curated --max_per_query 50
    python examples/curate.py --dataset my_pairs --queries queries.txt --model outputs/clip --output_dir curated

What is left is a folder of the `datasets` library, for `clip-hf train`. Without `--queries`, the queries are the
frequent words of the captions themselves; without `--model`, no images are compared.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("train", "examples/curate.py", "ahocorasick_rs", "datasets")

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.data import PairOptions, load_pairs, replaced_folder
from clip_hf.data.curation import balance_by_query, deduplicate, queries_from_captions
from clip_hf.utils.failures import reported_failures


def option(default, text: str):
    """A field of [`Options`]: its default and its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class Options:
    """What to choose from, and how."""

    dataset: str = option("openmoji", "`openmoji`, or anything that `load_pairs` takes.")
    output_dir: str = option("outputs/curated", "Folder to write; must not be there yet, or be empty.")
    image_column: str = option("image", "Column of the images.")
    caption_column: str = option("caption", "Column of the captions.")
    queries: str | None = option(None, "Text file of queries, one a line. Without it: words of the captions.")
    min_count: int = option(5, "Without `queries`: how often a word must occur to be one.")
    max_per_query: int = option(20_000, "Pairs that a query keeps at most.")
    whole_words: bool = option(True, "Match queries as whole words; otherwise inside words too.")
    model: str | None = option(None, "Folder or hub name of a model that compares images.")
    threshold: float = option(0.95, "Cosine from which on two images are duplicates.")
    batch_size: int = option(128, "Images that the model takes at a time.")
    seed: int = option(0, "Decides which pairs of a query are kept.")

    def __post_init__(self):
        output_dir = Path(self.output_dir)
        if output_dir.exists() and (output_dir.is_file() or any(output_dir.iterdir())):
            raise ValueError(f"`output_dir` {self.output_dir} is not empty; choose another.")
        if self.queries is not None and not Path(self.queries).is_file():
            raise ValueError(f"`queries` is {self.queries}; there is no such file.")


def balanced(rows: datasets.Dataset, options: Options) -> datasets.Dataset:
    """The rows that a query keeps."""
    captions = rows[options.caption_column]
    if options.queries is None:
        queries = queries_from_captions(captions, options.min_count)
    else:
        lines = Path(options.queries).read_text(encoding="utf-8").splitlines()
        queries = [line.strip() for line in lines if line.strip()]
    found = balance_by_query(
        captions, queries, options.max_per_query, seed=options.seed, whole_words=options.whole_words
    )
    full = (found.matches > options.max_per_query).sum()
    print(
        f"{len(found.queries)} queries: {(found.matches == 0).sum()} match nothing, {full} match more than "
        f"{options.max_per_query} pairs\n{len(found.unmatched)} of {len(rows)} pairs match no query, "
        f"{len(found.rows)} are kept"
    )
    for place in np.argsort(-found.matches, kind="stable")[:5]:
        print(f"  {found.queries[place]!r}: {found.matches[place]} pairs, its sample has {found.kept[place]}")
    return rows.select(found.rows)


@torch.inference_mode()
def embed_images(rows: datasets.Dataset, options: Options) -> torch.Tensor:
    """Embeddings of all images, (rows, dim)."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model = ClipHFModel.from_pretrained(options.model).to(device).eval()
    processor = ClipHFProcessor.from_pretrained(options.model)
    images = rows.select_columns([options.image_column]).cast_column(options.image_column, datasets.Image())
    embeddings = []
    for batch in tqdm(images.iter(options.batch_size), total=-(-len(images) // options.batch_size), unit="batch"):
        pixels = processor(images=batch[options.image_column], return_tensors="pt")["pixel_values"]
        embeddings.append(model.encode_image(pixels.to(device)))
    return torch.cat(embeddings)


def without_duplicates(rows: datasets.Dataset, options: Options) -> datasets.Dataset:
    """The rows whose image is not nearly that of an earlier one."""
    found = deduplicate(embed_images(rows, options), options.threshold)
    print(f"{len(found.dropped)} of {len(rows)} images are near-duplicates, {len(found.kept)} are kept")
    # Those next to the threshold show whether it is well chosen.
    for place in np.argsort(found.cosines)[:5]:
        pair = (rows[int(row)][options.caption_column] for row in (found.dropped[place], found.duplicate_of[place]))
        print("  {!r} is dropped for {!r}: cosine {:.4f}".format(*pair, found.cosines[place]))
    return rows.select(found.kept)


def curate(options: Options) -> datasets.Dataset:
    """Choose rows and write them; returns them."""
    columns = PairOptions(image_column=options.image_column, caption_column=options.caption_column)
    rows = balanced(load_pairs(options.dataset, options=columns), options)
    if options.model:
        rows = without_duplicates(rows, options)
    if len(rows) == 0:
        raise ValueError("No pair is left; give other queries, or a smaller `min_count`.")
    with replaced_folder(options.output_dir) as folder:
        rows.cast_column(options.image_column, datasets.Image()).save_to_disk(str(folder))
    print(f"Saved {len(rows)} pairs in {options.output_dir}")
    return rows


def parse(arguments: Sequence[str]) -> Options:
    """Options from a command line."""
    parser = HfArgumentParser(Options, description=__doc__.strip().splitlines()[0])
    return parser.parse_args_into_dataclasses(list(arguments))[0]


if __name__ == "__main__":
    with reported_failures(__file__):
        curate(parse(sys.argv[1:]))
