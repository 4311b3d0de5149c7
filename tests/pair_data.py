# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images for tests: small and all different, as files of many kinds, and damaged in many ways."""

import dataclasses
import io
import itertools
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from clip_hf.data import built_in_datasets, data_sources, load_moving_drawings, load_placed_drawings, openmoji


SIZE = 8  # pixels of a crop


def image_of(number: int) -> Image.Image:
    """An RGB image of 12 x 10 pixels that no other number has."""
    generator = np.random.default_rng(number)
    return Image.fromarray(generator.integers(0, 256, (10, 12, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    with io.BytesIO() as buffer:
        image.save(buffer, kind, **options)
        return buffer.getvalue()


def use_openmoji(monkeypatch, data: datasets.DatasetDict) -> None:
    """Let `data` be OpenMoji's drawings, wherever they are loaded by name."""
    table = built_in_datasets.BUILT_IN_DATASETS
    monkeypatch.setitem(table, "openmoji", dataclasses.replace(table["openmoji"], load=lambda: data))
    monkeypatch.setattr(openmoji, "load_openmoji", lambda: data)


def use_few_films(monkeypatch) -> None:
    """Let the moving and the placed drawings be few, wherever they are loaded without other options."""
    few = {"num_drawings": 2, "clips_per_action": 1}
    monkeypatch.setattr(load_moving_drawings, "__kwdefaults__", load_moving_drawings.__kwdefaults__ | few)
    few = {"num_drawings": 8, "pictures_per_drawing": 1}
    monkeypatch.setattr(load_placed_drawings, "__kwdefaults__", load_placed_drawings.__kwdefaults__ | few)


def caption_of(number: int) -> str:
    return f"drawing number {number}"


def flat(lists: Iterable[list]) -> list:
    return list(itertools.chain.from_iterable(lists))


def rows_of(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"image": {"bytes": encoded(image_of(n)), "path": None}, "caption": caption_of(n)} for n in numbers]


def dataset_of(rows: list[dict[str, Any]]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.Dataset.from_list(rows, features=features)


def write_parquet(folder: Path, rows: list[dict[str, Any]], num_shards: int = 1) -> str:
    """Parquet files of several row groups each; returns their pattern."""
    folder.mkdir(exist_ok=True)
    whole = dataset_of(rows)
    for shard in range(num_shards):
        whole.shard(num_shards, shard).to_parquet(folder / f"train-{shard:05d}.parquet", batch_size=5)
    return str(folder / "*.parquet")


def as_stream(pattern: str, monkeypatch) -> str:
    """The name of a dataset on the hub, whose only part is the Parquet files of a pattern."""
    load = datasets.load_dataset
    monkeypatch.setattr(data_sources, "check_hub", lambda *arguments: None)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *arguments: ["train"])
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, split, streaming: load(
            "parquet", data_files={"train": pattern}, split=split, streaming=streaming
        ),
    )
    return "owner/name"


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> str:
    """A webdataset tar; a sample is the content of its members by their ending."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for ending, content in sample.items():
                member = tarfile.TarInfo(f"folder.d/{number:06d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


def samples_of(numbers: Iterable[int]) -> list[dict[str, bytes]]:
    return [{"png": encoded(image_of(n)), "txt": caption_of(n).encode()} for n in numbers]


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = struct.pack(">I", 100) + b"IDAT" + bytes(104)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + data


def _texture_of_unknown_kind() -> bytes:
    """A DDS file whose pixels are in a format that nobody knows."""
    header = struct.pack("<7I44x", 124, 0x1007, 10, 12, 0, 0, 0) + struct.pack(
        "<2I4s5I", 32, 4, b"WHAT", 0, 0, 0, 0, 0
    )
    return b"DDS " + header + bytes(20 + 500)


def bad_files() -> dict[str, bytes]:
    """Files that hold no image that can be used, by what is wrong with them; for images of at least 2 pixels."""
    jpeg = encoded(image_of(0).resize((64, 64)), "JPEG")
    deep = np.full((10, 12), 40_000, np.uint16)
    return {
        "file empty": b"",
        "file truncated": jpeg[: len(jpeg) // 2],
        "not an image": b"<html>404 not found</html>",
        "file damaged": b"\x89PNG\r\n\x1a\nnothing of the kind",
        "image too large": _png_header(60_000, 60_000),
        "image too small": encoded(Image.new("RGB", (30, 1))),
        "more than 8 bits": encoded(Image.fromarray(deep)),
        "format not supported": _texture_of_unknown_kind(),
    }


def bad_rows() -> dict[str, dict[str, Any]]:
    """Rows of a Parquet file that cannot be used, by what is wrong with them."""
    (good,) = rows_of([0])
    rows = {kind: {**good, "image": {"bytes": data, "path": None}} for kind, data in bad_files().items()}
    rows["image missing"] = {**good, "image": None}
    rows["file missing"] = {**good, "image": {"bytes": None, "path": "nowhere/cat.jpg"}}
    rows["caption missing"] = {**good, "caption": None}
    rows["caption blank"] = {**good, "caption": " \n"}
    return rows


def bad_samples() -> dict[str, dict[str, bytes]]:
    """Samples of a tar that cannot be used, by what is wrong with them."""
    image = encoded(image_of(0))
    samples = {kind: {"png": data, "txt": b"a cat"} for kind, data in bad_files().items()}
    samples["image missing"] = {"txt": b"a cat"}
    samples["caption missing"] = {"png": image, "json": b"{damaged"}
    samples["caption blank"] = {"png": image, "txt": b"\n"}
    samples["caption of a wrong type"] = {"png": image, "json": json.dumps({"caption": 7}).encode()}
    return samples
