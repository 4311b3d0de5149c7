# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Inputs of the tests of embedding jobs: sources of each kind, and what a job wrote."""

from pathlib import Path

from clip_hf.embedding import EmbeddingOptions, read_embeddings
from encoding_inputs import quiet
from pair_data import caption_of, dataset_of, encoded, image_of, rows_of, write_parquet, write_tar


ROWS = 22
SMALL = EmbeddingOptions(rows_per_part=8, dtype="float32")
ENCODING = quiet(batch_size=4)
NUM_PARTS = 3


def names_in(folder: Path) -> list[str]:
    return [name for part in read_embeddings(folder) for name in part.rows["name"].to_pylist()]


def sources(folder: Path) -> dict:
    rows = rows_of(range(ROWS))
    folder.mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / f"{number:02d}.png")
    lines = "".join(f"{number:02d}.png,{caption_of(number)}\n" for number in range(ROWS))
    (folder / "table.csv").write_text(f"image,caption\n{lines}")
    (folder / "list.txt").write_text("".join(f"{number:02d}.png\n\n" for number in range(ROWS)))
    samples = [{"png": encoded(image_of(n)), "txt": caption_of(n).encode()} for n in range(ROWS)]
    write_tar(folder / "a.tar", samples[:16])
    write_tar(folder / "b.tar", samples[16:])
    dataset_of(rows).save_to_disk(str(folder / "saved"))
    write_parquet(folder / "parquet", rows, 2)
    return {
        "table": folder / "table.csv",
        "list": folder / "list.txt",
        "paths": [folder / f"{number:02d}.png" for number in range(ROWS)],
        "tar": f"{folder}/{{a,b}}.tar",
        "saved": folder / "saved",
        "memory": dataset_of(rows),
        "parquet": folder / "parquet",
    }
