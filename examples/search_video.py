# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Find moments of films by what they show, and cut them out.

    python examples/search_video.py
    python examples/search_video.py --films ~/Videos --model openai/clip-vit-base-patch32 --query "a bicycle passes"

Without `--films`, it makes a film of the pictures in `examples/pictures`, each held for two seconds. The index lies in
`--output-dir`, beside the contact sheet and the clips. Run it again after adding, renaming or removing films: only new
ones are embedded. `clip-hf search` does the same in a shell.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("train", "examples/search_video.py", "accelerate", "datasets", "filelock", "pyarrow")
require_extra("video", "examples/search_video.py", "av")

import av
from PIL import Image

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import (
    Moment,
    MomentSearcher,
    SheetGroup,
    SheetItem,
    open_source_index,
    parse_query,
    write_contact_sheet,
)
from clip_hf.utils.failures import reported_failures
from clip_hf.utils.terminal_tables import draw_table
from clip_hf.video import cut_clip


PICTURES = Path(__file__).parent / "pictures"
SECONDS, RATE, EDGE = 2, 10, 240


def make_film(path: Path) -> None:
    """Make a film of the pictures that come with the examples, in the order of their names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = EDGE, EDGE, "yuv420p", 2_000_000
        for picture in sorted([*PICTURES.glob("*.png"), *PICTURES.glob("*.jpg")]):
            image = Image.open(picture).convert("RGBA").resize((EDGE, EDGE))
            frame = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            for _ in range(SECONDS * RATE):
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def cut_moments(moments: Sequence[Moment], folder: Path) -> None:
    """Write each moment as a film of its own; a copy begins at the key frame before the moment."""
    folder.mkdir(parents=True, exist_ok=True)
    for moment in moments:
        film = moment.picture.film
        cut_clip(film, moment.start, moment.end, folder / f"{moment.rank}_{film.stem}{film.suffix}")


def main(arguments: Sequence[str] | None = None) -> list[Moment]:
    """Search the films; returns the moments that were found."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--films", type=Path, help="a film, or a folder of films in any depth")
    parser.add_argument("--model", default="outputs/demo/vit/last", help="any CLIP (default: the one of `make demo`)")
    parser.add_argument("--query", default="a red heart", help="what to look for")
    parser.add_argument("--top-k", type=int, default=3, help="the most moments")
    parser.add_argument("--frames-per-second", type=float, help="how often to look (default: once a second)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/search_video"), help="folder for all output")
    options = parser.parse_args(arguments)

    films = options.films
    if films is None:
        films = options.output_dir / "films"
        if not films.exists():
            films.mkdir(parents=True)
            make_film(films / "pictures.mp4")

    encoder = load_dual_encoder(options.model)
    source = open_source_index(
        films,
        encoder,
        over="moments",
        index_folder=options.output_dir / "index",
        frames_per_second=options.frames_per_second,
    )
    print(source.refresh.describe())
    moments = MomentSearcher(encoder, source).search(parse_query([options.query]), options.top_k).hits
    rows = [(f"{each.score:.3f}", f"{each.start:.1f}", f"{each.end:.1f}", each.file) for each in moments]
    print("\n" + draw_table(options.query, ("score", "start", "end", "film"), rows))

    items = [
        SheetItem(
            each.picture,
            [f"{each.file} {each.start:.1f}-{each.end:.1f} s", f"score {each.score:.3f}"],
            link=f"{each.picture.film.absolute().as_uri()}#t={each.start:.1f}",
        )
        for each in moments
    ]
    sheet = options.output_dir / "hits.html"
    write_contact_sheet(sheet, f"{options.query} in {films}", [SheetGroup("", items)])
    cut_moments(moments, options.output_dir / "clips")
    print(f"\nThe moments with links to the films: {sheet}; as films: {options.output_dir / 'clips'}")
    return moments


if __name__ == "__main__":
    with reported_failures(__file__):
        main()
