# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How often `clip-hf search --no-match` answers where it should not, and stays silent where it should answer.

The index holds OpenMoji's drawings, the model is the demo's (`make demo`). Queries are names of drawings, drawn at
random. Each is asked twice: of the whole index, which has its drawing; and of the index without all drawings whose
names share a word with it, which should say that nothing fits. Beside the rule itself stand two others: whole captions
as the background, and whole captions of which a half is in the index, as everyday captions are in a folder of photos.
"""

import argparse
import math
import re
import tempfile
from pathlib import Path

import datasets
import numpy as np

from bench_image_processor import print_machine
from clip_hf.data import load_openmoji
from clip_hf.embedding import EncodingOptions, encode_image_column, load_dual_encoder
from clip_hf.search import EmbeddingIndex, NoMatch, QueryTerm, load_background_texts
from clip_hf.search.no_match import mix_captions
from clip_hf.utils.terminal_tables import draw_table


# Words that say nothing of what a drawing shows.
COMMON = frozenset("man woman person men women people of with in and the a on to mr mrs s button sign face".split())
SHARES = (0.1, 0.05, 0.02)


def words_of(name: str) -> frozenset[str]:
    """The words of a drawing's name that say what it shows."""
    return frozenset(re.findall(r"[a-z]+", name.lower())) - COMMON


def threshold(best: np.ndarray, share: float) -> float:
    """The score that at most `share` of the best scores exceed."""
    return float(np.sort(best)[::-1][math.floor(share * len(best))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", default="outputs/demo/vit/last", help="the model (default: the demo's)")
    parser.add_argument("--queries", type=int, default=600, help="how many names to ask for")
    options = parser.parse_args()
    encoder = load_dual_encoder(options.model)
    data = datasets.concatenate_datasets(list(load_openmoji().values()))
    rows = encode_image_column(encoder, data, "image", options=EncodingOptions(progress=False))
    words = [words_of(name) for name in data["base"]]
    names = [name for name in dict.fromkeys(data["base"]) if words_of(name)]
    generator = np.random.default_rng(0)
    asked = list(generator.choice(names, options.queries, replace=False))
    others = [name for name in names if name not in asked]
    scores = encoder.encode_texts(asked).numpy() @ rows.T
    shares_a_word = np.array([[bool(words_of(name) & each) for each in words] for name in asked])
    there, absent = scores.max(1), np.where(shares_a_word, -1, scores).max(1)

    captions = list(load_background_texts())
    half = len(captions) // 2
    known = [*generator.choice(others, half, replace=False), *captions[half:]]
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddingIndex.build(Path(folder) / "index", rows, description={"over": "images"})
        rule = NoMatch(encoder, index)
        thresholds = {"mixed captions (the rule)": [rule.lowest_score([QueryTerm(1, text="any")], s) for s in SHARES]}
        pictures = [rule.lowest_score([QueryTerm(1, image="any")], share) for share in SHARES]
    for title, texts in (
        ("whole captions", captions),
        ("mixed captions, half known", mix_captions(known)),
        ("whole captions, half known", known),
    ):
        best = (encoder.encode_texts(texts).numpy() @ rows.T).max(1)
        thresholds[title] = [threshold(best, share) for share in SHARES]

    print_machine()
    print(f"{options.model}; {len(rows):,} drawings; {len(asked)} names\n")
    table = [
        (title, f"{share:.0%}", f"{lowest:.3f}", f"{np.mean(absent > lowest):.1%}", f"{np.mean(there <= lowest):.1%}")
        for title, lowests in thresholds.items()
        for share, lowest in zip(SHARES, lowests)
    ]
    columns = ("background", "promised", "lowest score", "answers for what is absent", "silent for what is there")
    print(draw_table("Queries by text", columns, table))
    shown = ", ".join(f"{share:.0%} {lowest:.3f}" for share, lowest in zip(SHARES, pictures))
    print(f"\nQueries by picture, lowest score by share: {shown}")


if __name__ == "__main__":
    main()
