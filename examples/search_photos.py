# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Find photos by what they show: by a text, by another photo, and by a photo and a text together.

    python examples/search_photos.py
    python examples/search_photos.py --photos ~/Pictures --model openai/clip-vit-base-patch32 --query "a beach"

The index lies beside the photos' contact sheet in `--output-dir`. Run it again after adding, renaming or removing
photos: only new ones are embedded. `clip-hf search` does the same in a shell.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("train", "examples/search_photos.py", "accelerate", "datasets", "filelock", "pyarrow")

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import (
    QueryTerm,
    Searcher,
    SearchResults,
    SheetGroup,
    SheetItem,
    open_source_index,
    write_contact_sheet,
)
from clip_hf.utils.failures import reported_failures
from clip_hf.utils.terminal_tables import draw_table


PICTURES = Path(__file__).parent / "pictures"


def find(searcher: Searcher, query: str, top_k: int) -> dict[str, SearchResults]:
    """Search three times: by the text, by its best photo, and by that photo with the text taken away."""
    text = QueryTerm(1.0, text=query)
    by_text = searcher.search([text], top_k)
    best = by_text.hits[0]
    photo = QueryTerm(1.0, image=best.picture)
    return {
        query: by_text,
        f"like {best.id}": searcher.search([photo], top_k),
        f"like {best.id}, but less of {query}": searcher.search([photo, QueryTerm(-0.5, text=query)], top_k),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, SearchResults]:
    """Search the photos; returns what each query found."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--photos", type=Path, default=PICTURES, help="folder of pictures, in any depth")
    parser.add_argument("--model", default="outputs/demo/vit/last", help="any CLIP (default: the one of `make demo`)")
    parser.add_argument("--query", default="a red heart", help="what to look for")
    parser.add_argument("--top-k", type=int, default=3, help="hits of each search")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/search"), help="folder for index and sheet")
    options = parser.parse_args(arguments)

    encoder = load_dual_encoder(options.model)
    source = open_source_index(options.photos, encoder, index_folder=options.output_dir / "index")
    print(source.refresh.describe())
    found = find(Searcher(encoder, source), options.query, options.top_k)
    for title, results in found.items():
        rows = [(f"{hit.score:.3f}", str(hit.id)) for hit in results.hits]
        print("\n" + draw_table(title, ("score", "photo"), rows))
    sheet = options.output_dir / "hits.html"
    groups = [
        SheetGroup(title, [SheetItem(hit.picture, [str(hit.id), f"score {hit.score:.3f}"]) for hit in results.hits])
        for title, results in found.items()
    ]
    write_contact_sheet(sheet, f"Photos of {options.photos}", groups)
    print(f"\nThe photos themselves: {sheet}")
    return found


if __name__ == "__main__":
    with reported_failures(__file__):
        main()
