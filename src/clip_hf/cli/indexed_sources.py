# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What `clip-hf search` and `clip-hf tag` do alike: find the index of a source, load its model, and open it."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from transformers.utils import logging

from _clip_hf_cli.search import DEFAULT_MODEL

from ..data.built_in_datasets import BUILT_IN_DATASETS
from ..data.data_sources import KNOWN_ENDINGS, find_source
from ..data.file_patterns import ending_of
from ..data.image_folders import has_images
from ..data.media import VIDEOS
from ..data.row_shards import LIST_ENDING, shard_rows
from ..embedding import DualEncoder, EncodingOptions, RowColumns, load_dual_encoder
from ..embedding.part_files import FORMAT_NAME, MANIFEST
from ..model.video_reading_clip_hf import ClipSampling
from ..search import EmbeddingIndex, SourceIndex, default_index_folder, open_source_index
from ..search.index_places import WHOLE_FILMS, check_index_folder, is_index, section_of
from ..utils.json_files import read_json
from .image_options import image_options
from .terminal_text import printable


def find_modality(options: argparse.Namespace) -> str:
    """What is searched: as `--over` says; else moments where SOURCE is a film or their index; of a folder what its one
    index holds, else what the folder holds; else images.

    Raises:
        ValueError: if a folder holds pictures and films, and there is no index of one of them alone.
    """
    if options.over is not None:
        return options.over
    path = Path(options.source).expanduser()
    if is_index(path):
        return "moments" if EmbeddingIndex.open(path).description.get("over") == "moments" else "images"
    if path.is_file():
        return "moments" if VIDEOS.has_ending(ending_of(str(path))) else "images"
    indexed = _indexed_modalities(options, path)
    if not path.is_dir():
        return "moments" if indexed == ["moments"] else "images"
    has = {"images": has_images(path), "moments": has_images(path, VIDEOS)}
    if len(indexed) == 1:
        other = "images" if indexed == ["moments"] else "moments"
        if has[other]:
            what = "The pictures" if other == "images" else "The films"
            print(
                f"clip-hf search: {what} of {printable(options.source)} are left out, because its index is of "
                f"{indexed[0]}: --over {other} searches them.",
                file=sys.stderr,
            )
        return indexed[0]
    if has["images"] and has["moments"]:
        raise ValueError(
            f"{options.source} holds pictures and films: search one of them with --over images or --over moments."
        )
    return "moments" if has["moments"] else "images"


def _indexed_modalities(options: argparse.Namespace, path: Path) -> list[str]:
    """Which of pictures and films have an index where it is looked for."""
    if options.index is not None:
        named = Path(options.index).expanduser()
        over = EmbeddingIndex.open(named).description.get("over") if is_index(named) else None
        return [over] if over in ("images", "moments") else []
    if not path.name or not path.parent.is_dir():
        return []
    return [over for over in ("images", "moments") if is_index(default_index_folder(path, over))]


def find_index(options: argparse.Namespace, over: str = "images") -> tuple[Path | None, EmbeddingIndex | None]:
    """The folder of the index that is named or lies beside the source, and the index if it is there to be used.

    Raises:
        OSError, ValueError: if there is no such source, the index is damaged, or the options do not go together.
    """
    source = Path(options.source).expanduser()
    if is_index(source):
        if options.index is not None:
            raise ValueError("SOURCE is an index itself: leave out --index.")
        return None, EmbeddingIndex.open(source)
    folder = default_index_folder(options.source, over) if options.index is None else Path(options.index)
    check_index_folder(folder)
    if not is_index(folder):
        _check_source(options, source, over)
    return folder, EmbeddingIndex.open(folder) if is_index(folder) and not options.rebuild else None


def _check_source(options: argparse.Namespace, path: Path, over: str) -> None:
    """Raise a `ValueError` for a source that is not there, is of no kind that can be read, or has no captions."""
    if options.source in BUILT_IN_DATASETS or (path / MANIFEST).is_file():
        return
    if over == "moments":
        if path.is_file() and not VIDEOS.has_ending(ending_of(str(path))):
            endings = ", ".join(sorted(VIDEOS.endings))
            raise ValueError(f"{options.source} is no film by its ending; those are {endings}. {WHOLE_FILMS}")
        if not path.exists():
            raise FileNotFoundError(f"There is no film, and no folder of films, {options.source}: check the path.")
        return
    is_other_file = path.is_file() and ending_of(str(path)) not in (*KNOWN_ENDINGS, LIST_ENDING)
    if not path.exists():
        find_source(options.source, labelled=False)
    elif is_other_file or (path.is_dir() and over == "texts"):
        shard_rows(options.source, row_columns(options), images=False, captions=True)


def load_index_encoder(options: argparse.Namespace, index: EmbeddingIndex | None, device: Any) -> DualEncoder:
    """The model that is named, else that of the index with its precision and image options."""
    images = image_options(options)
    name, runtime, dtype = options.model, options.runtime, options.dtype
    described = {}
    if name is None:
        described = _describe_embedded(options.source) if index is None else index.description
    if name is None and (index is not None or described):
        model = section_of(described, "model")
        if not {"name", "runtime", "dtype"} <= model.keys():
            raise ValueError(f"The index of {options.source} does not say which model made it: name it with --model.")
        name = str(model["name"]).removesuffix(f" ({model['runtime']}, {model['dtype']})")
        runtime, dtype = runtime or model["runtime"], dtype or model["dtype"]
        stored = section_of(described, "image_options")
        images |= {key: value for key, value in stored.items() if images.get(key) is None}
    name = name or DEFAULT_MODEL
    logging.disable_progress_bar()
    frames = {key: images.pop(key) for key in ("num_frames", "num_views") if key in images}
    clip = ClipSampling(**frames) if frames else None
    # The whole path, so that the index names its model wherever the next command is started.
    path = os.path.abspath(name) if os.path.exists(name) else name
    encoder = load_dual_encoder(path, runtime, dtype, device, clip=clip)
    encoder.set_image_options(**images)
    return encoder


def _describe_embedded(source: str) -> dict[str, Any]:
    """The manifest of a folder that `clip-hf embed` wrote; empty for other sources."""
    path = Path(source).expanduser() / MANIFEST
    manifest = read_json(path, dict) if path.is_file() else {}
    return manifest if manifest.get("format") == FORMAT_NAME else {}


def row_columns(options: argparse.Namespace) -> RowColumns:
    """The columns of a source that has some."""
    return RowColumns(options.image_column, options.caption_column, options.image_root, options.split)


def open_index(
    options: argparse.Namespace,
    encoder: DualEncoder,
    folder: Path | None,
    over: str = "images",
    frames_per_second: float | None = None,
) -> SourceIndex:
    """Open the index of the source, as [`open_source_index`] does."""
    threads = {} if options.num_threads is None else {"num_threads": options.num_threads}
    return open_source_index(
        options.source,
        encoder,
        index_folder=folder,
        over=over,
        rebuild=options.rebuild,
        columns=row_columns(options),
        encoding=EncodingOptions(
            batch_size=options.batch_size, max_skipped_share=options.max_skipped_share, **threads
        ),
        frames_per_second=frames_per_second,
    )
