# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The index of a folder of pictures: what each kind of change costs, and what is left when it is killed.

    python benchmarks/check_search.py --files 20000 --kills 20

Makes small JPEGs of drawings, all different, and a small CLIP of random weights, so that reading and bookkeeping
count, not the model. Prints a table: the first run, nothing changed, 100 files added, renamed, edited, removed and
touched (only their time of change), each with seconds, files that were opened, and pictures that passed the model.
Then it kills (SIGKILL) a process that builds the index at random moments, and starts it again: a fork, so that no time
goes into loading libraries and model. It compares what is there each time with the uninterrupted index. Exits with 1
if a count is wrong, a row differs in a bit, or nothing was killed. Try it with few:

    python benchmarks/check_search.py --files 300 --kills 3 --commit 32
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from check_embed import describe_machine
from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.embedding import DualEncoder, EncodingOptions, load_dual_encoder
from clip_hf.search import EmbeddingIndex, FolderRefresh, folder_work, refresh_folder_index


SIZE = 64  # pixels of the model's pictures
FILES_PER_FOLDER = 1000
TIME_STEP = folder_work.TIME_STEP / 1e9 + 0.1  # seconds; younger files are read again


def write_picture(path: Path, number: int) -> None:
    """A JPEG of 64 to 96 pixels: shapes in colours that no other number has."""
    choose = random.Random(number)

    def colour() -> tuple[int, int, int]:
        return tuple(choose.randrange(256) for _ in range(3))

    width, height = choose.randint(64, 96), choose.randint(64, 96)
    image = Image.new("RGB", (width, height), colour())
    draw = ImageDraw.Draw(image)
    for _ in range(choose.randint(2, 6)):
        corners = [(choose.randrange(width), choose.randrange(height)) for _ in range(choose.randint(3, 5))]
        draw.polygon(corners, fill=colour())
        left, top = corners[0]
        draw.ellipse((left - 8, top - 8, left + 8, top + 8), fill=colour())
    image.save(path, "JPEG", quality=88)


def write_pictures(folder: Path, numbers: range) -> list[Path]:
    """Pictures by their numbers, 1,000 in a subfolder; returns their paths."""
    paths = [folder / f"{number // FILES_PER_FOLDER:03d}" / f"{number:06d}.jpg" for number in numbers]
    for path, number in zip(paths, numbers, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, number)
    return paths


def write_model(folder: Path) -> str:
    """A CLIP of random weights, small enough that its time hardly counts."""
    torch.manual_seed(0)
    config = ClipHFConfig.from_architecture("ViT-B/32").to_dict()
    for tower in ("vision_config", "text_config"):
        config[tower] |= {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    config["vision_config"] |= {"image_size": SIZE, "patch_size": 16}
    size = {"height": SIZE, "width": SIZE}
    image_processor = ClipHFImageProcessor(size={"shortest_edge": SIZE}, crop_size=size)
    ClipHFModel(ClipHFConfig(**config)).save_pretrained(folder)
    ClipHFProcessor(image_processor, ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)).save_pretrained(folder)
    return str(folder)


def refresh(encoder: DualEncoder, photos: Path, index_folder: Path) -> FolderRefresh:
    return refresh_folder_index(encoder, photos, index_folder, encoding=EncodingOptions(progress=False))


# ------------------------------------------------------------------------------------------------------------- changes


def changes(photos: Path, files: int, count: int) -> list[tuple[str, Callable[[], object], dict[str, int]]]:
    """Each kind of change: its name, what makes it, and the counts that it must give; in this order."""
    paths = sorted(photos.rglob("*.jpg"))
    parts = [paths[kind::5][:count] for kind in range(4)]

    def rename() -> None:
        for path in parts[0]:
            path.rename(path.with_name(f"renamed {path.name}"))

    def edit() -> None:
        for number, path in enumerate(parts[1], 2_000_000):
            write_picture(path, number)

    def touch() -> None:
        for path in parts[3]:
            os.utime(path, (1_000_000_000, 1_000_000_000))

    total, new = files + count, range(1_000_000, 1_000_000 + count)
    return [
        ("nothing changed", lambda: None, {"unchanged": files}),
        (
            f"{count} added",
            lambda: write_pictures(photos, new),
            {"added": count, "unchanged": files, "read": count, "embedded": count},
        ),
        (f"{count} renamed", rename, {"renamed": count, "unchanged": total - count, "read": count}),
        (
            f"{count} edited",
            edit,
            {"edited": count, "unchanged": total - count, "read": count, "embedded": count},
        ),
        (f"{count} removed", lambda: list(map(os.unlink, parts[2])), {"removed": count, "unchanged": total - count}),
        (f"{count} touched", touch, {"unchanged": total - count, "read": count}),
    ]


def measure_changes(encoder: DualEncoder, photos: Path, index_folder: Path, files: int) -> int:
    """Print the table; how many rows of it are wrong."""
    counted = ("added", "renamed", "edited", "removed", "unchanged", "read", "embedded")
    steps = changes(photos, files, min(100, files // 10))
    line, faults = "{:<16} {:>9} {:>12} {:>19}   {}", 0
    print(
        f"Index of {files:,} files",
        line.format("run", "seconds", "files read", "pictures embedded", "counts"),
        sep="\n",
    )
    first = ("first run", lambda: None, {"added": files, "read": files, "embedded": files})
    for name, change, expected in (first, *steps):
        change()
        time.sleep(TIME_STEP)
        result = refresh(encoder, photos, index_folder)
        found = {each: getattr(result, each) for each in counted if getattr(result, each)}
        is_right = found == expected and not result.skipped
        faults += not is_right
        shown = "as expected" if is_right else f"WRONG: {found}, not {expected}"
        print(
            line.format(name, f"{result.seconds:.2f}", f"{result.read:,}", f"{result.embedded:,}", shown), flush=True
        )
    return faults


# --------------------------------------------------------------------------------------------------------------- kills


def rows_of(index_folder: Path) -> dict[str, tuple]:
    """What the index holds of each picture but when it was read, its vector as bytes; none if there is no index."""
    if not index_folder.exists():
        return {}
    index = EmbeddingIndex.open(index_folder)
    ids = index.ids().tolist()
    metadata = (tuple(row.values()) for row in index.metadata().drop_columns("read").to_pylist())
    return {id_: (row.tobytes(), known) for id_, row, known in zip(ids, index.vectors(ids), metadata, strict=True)}


def start_build(encoder: DualEncoder, photos: Path, index_folder: Path) -> multiprocessing.Process:
    """A process that builds the index, or goes on with it."""
    process = multiprocessing.get_context("fork").Process(target=refresh, args=(encoder, photos, index_folder))
    process.start()
    return process


def kill_often(encoder: DualEncoder, folder: Path, options: argparse.Namespace) -> int:
    """Kill a build at random moments, compare what is there with the whole, and let it end; how many faults."""
    photos = folder / "photos"
    built = refresh(encoder, photos, folder / "whole.clip-index")
    whole, idle = rows_of(built.index.folder), refresh(encoder, photos, built.index.folder).seconds
    # On average, the kills take the time of one build, and some of them see a commit.
    longest = 2 * idle + 2 * built.seconds * max(1 / options.kills, options.commit / len(whole))
    draw, killed, faults, ends, lost = random.Random(0), 0, 0, 0, []
    index_folder = folder / "killed.clip-index"
    for number in range(options.kills):
        before = len(rows_of(index_folder))
        process = start_build(encoder, photos, index_folder)
        time.sleep(draw.uniform(0, longest))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        rows = rows_of(index_folder)
        is_fault = not rows.items() <= whole.items() or len(rows) < before
        faults += is_fault
        lost.append(len(rows) - before)
        print(f"kill {number + 1}: {len(rows):,} rows, {'NOT CONSISTENT' if is_fault else 'consistent'}", flush=True)
        if len(rows) == len(whole):
            ends += 1
            shutil.rmtree(index_folder)
    there = len(rows_of(index_folder))
    last = start_build(encoder, photos, index_folder)
    last.join()
    assert last.exitcode == 0
    same = rows_of(index_folder) == whole
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]
    print(
        f"killed {killed} times, each time consistent: {'yes' if not faults else f'NO, {faults} times'}; rows that a "
        f"killed run added: {', '.join(map(str, lost))}; {ends} times it was whole, and begun anew; the last run went "
        f"on from {there:,} of {len(whole):,} rows | {'equal, bit for bit' if same else 'OTHER ROWS'}"
    )
    return faults + (not same) + (not killed) + bool(leftovers)


# ---------------------------------------------------------------------------------------------------------------- main


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="pictures in the folder (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="times that a build is killed (default: %(default)s)")
    parser.add_argument("--folder", help="folder for pictures and indexes (default: a temporary one)")
    parser.add_argument(
        "--commit", type=int, default=folder_work.COMMIT_ROWS, help="pictures in a commit (default: %(default)s)"
    )
    options = parser.parse_args()
    folder_work.COMMIT_ROWS = options.commit
    torch.set_num_threads(1)  # equal bits need as many threads
    folder = Path(options.folder or tempfile.mkdtemp(prefix="check_search_"))
    try:
        print(describe_machine(), flush=True)
        model = write_model(folder / "model")
        write_pictures(folder / "photos", range(options.files))
        encoder = load_dual_encoder(model, device="cpu")
        faults = measure_changes(encoder, folder / "photos", folder / "photos.clip-index", options.files)
        faults += kill_often(encoder, folder, options)
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
