# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films from every kind of source, by the readers of images: which files count, what rows hold, what is refused.

Nothing is decoded here, so that any bytes are a film.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from clip_hf import ClipHFImageProcessor
from clip_hf.data import ImageTextDataset, PairOptions, load_pairs, split_names
from clip_hf.data.data_sources import find_source
from clip_hf.data.labelled_images import read_labelled
from clip_hf.data.media import IMAGES, VIDEOS, find_media
from clip_hf.data.row_shards import RowColumns, shard_rows
from pair_data import encoded, image_of, write_tar


NUMBERS = range(4)
FILMS = PairOptions(media="videos")

pytestmark = pytest.mark.usefixtures("own_cache")


def film_of(number: int) -> bytes:
    return f"film {number}".encode()


def caption_of(number: int) -> str:
    return f"a film of {number}"


def write_films(folder: Path, captions: bool = True) -> Path:
    """A folder of films with a picture, which does not count, beside each."""
    folder.mkdir(parents=True)
    for number in NUMBERS:
        path = folder / f"{number}.mp4"
        path.write_bytes(film_of(number))
        path.with_suffix(".png").write_bytes(encoded(image_of(number)))
        if captions:
            path.with_suffix(".txt").write_text(caption_of(number), encoding="utf-8")
    return folder


def write_folder(folder: Path) -> str:
    return str(write_films(folder / "films"))


def write_csv(folder: Path) -> str:
    write_films(folder / "films", captions=False)
    lines = ["video,caption", *(f"films/{n}.mp4,{caption_of(n)}" for n in NUMBERS)]
    (folder / "films.csv").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "films.csv")


def write_metadata(folder: Path) -> str:
    write_films(folder / "films", captions=False)
    lines = [json.dumps({"file_name": f"{n}.mp4", "caption": caption_of(n)}) for n in NUMBERS]
    (folder / "films" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "films")


def rows_with(value: Callable[[int], Any]) -> dict[str, list]:
    return {"video": [value(n) for n in NUMBERS], "caption": [caption_of(n) for n in NUMBERS]}


def write_parquet_of_bytes(folder: Path) -> str:
    datasets.Dataset.from_dict(rows_with(film_of)).to_parquet(folder / "films.parquet")
    return str(folder / "films.parquet")


def write_parquet_of_structs(folder: Path) -> str:
    rows = rows_with(lambda n: {"bytes": film_of(n), "path": f"{n}.mp4"})
    datasets.Dataset.from_dict(rows).to_parquet(folder / "films.parquet")
    return str(folder / "films.parquet")


def write_parquet_of_paths(folder: Path) -> str:
    write_films(folder / "films", captions=False)
    datasets.Dataset.from_dict(rows_with(lambda n: f"films/{n}.mp4")).to_parquet(folder / "films.parquet")
    return str(folder / "films.parquet")


def write_saved(folder: Path) -> str:
    write_films(folder / "films", captions=False)
    # As `datasets` itself has columns of films: they would be decoded by torchcodec.
    data = datasets.Dataset.from_dict(rows_with(lambda n: str(folder / "films" / f"{n}.mp4")))
    data.cast_column("video", datasets.Video()).save_to_disk(folder / "saved")
    return str(folder / "saved")


def write_shard(folder: Path) -> str:
    thumbnail = encoded(image_of(0), "JPEG")
    samples = [{"jpg": thumbnail, "mp4": film_of(n), "txt": caption_of(n).encode()} for n in NUMBERS]
    return write_tar(folder / "films.tar", samples)


WRITERS = [
    write_folder,
    write_csv,
    write_metadata,
    write_parquet_of_bytes,
    write_parquet_of_structs,
    write_parquet_of_paths,
    write_saved,
    write_shard,
]


def content_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return Path(value).read_bytes()
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


@pytest.mark.parametrize("streaming", [False, True], ids=["map-style", "stream"])
@pytest.mark.parametrize("write", WRITERS)
def test_films_are_read_wherever_images_are(tmp_path, write, streaming):
    data = load_pairs(write(tmp_path), options=FILMS, streaming=streaming)
    rows = {row["caption"]: content_of(row["video"]) for row in data}
    assert rows == {caption_of(n): film_of(n) for n in NUMBERS}


@pytest.mark.parametrize("write", WRITERS)
def test_films_are_embedded_from_the_same_sources(tmp_path, write):
    rows = shard_rows(write(tmp_path), RowColumns(media="videos"), captions=True)
    read = [row for shard in rows.shards for row in shard.read(0, None)]
    assert {row["caption"]: content_of(row["video"]) for row in read} == {caption_of(n): film_of(n) for n in NUMBERS}


def test_fingerprints_of_images_stay_and_those_of_films_differ(tmp_path):
    folder = write_folder(tmp_path)
    prints = [shard_rows(folder, RowColumns(media=media)).fingerprint for media in ("images", "videos")]
    assert prints[0] != prints[1]
    assert RowColumns().roles == {"image": "image", "caption": "caption"}
    assert RowColumns(media="videos").named() == {}


def test_a_list_names_films(tmp_path):
    write_films(tmp_path / "films")
    (tmp_path / "films.txt").write_text("\n".join(f"films/{n}.mp4" for n in NUMBERS), encoding="utf-8")
    rows = shard_rows(tmp_path / "films.txt", RowColumns(media="videos"))
    assert [content_of(row["video"]) for row in rows.shards[0].read(0, None)] == [film_of(n) for n in NUMBERS]


@pytest.mark.parametrize("parts", [(), ("train", "test")], ids=["whole", "parts"])
def test_class_folders_of_films(tmp_path, caplog, parts):
    for part in parts or (".",):
        write_films(tmp_path / part / "juggling")
        write_films(tmp_path / part / "diving")
        (tmp_path / part / "pictures").mkdir()
        (tmp_path / part / "pictures" / "1.png").write_bytes(encoded(image_of(1)))
    source = find_source(tmp_path, labelled=True, media=VIDEOS)
    assert source.part_names == tuple(sorted(parts))
    data = read_labelled(source.rows("test" if parts else None), None, media=VIDEOS)
    assert data.features["label"].names == ["diving", "juggling"]
    assert data.features["video"] == datasets.Video(decode=False)
    assert [content_of(value) for value in data["video"]] == 2 * [film_of(n) for n in NUMBERS]
    assert data["label"] == 4 * [0] + 4 * [1]
    assert "hold no films and are no classes: pictures" in caplog.text


def test_names_of_class_folders_are_captions(tmp_path):
    for name in ("juggling", "pole_vault"):
        write_films(tmp_path / name, captions=False)
    with pytest.raises(ValueError, match="No film in .* has a `.txt` beside it.*--caption_column label"):
        load_pairs(str(tmp_path), options=PairOptions(num_frames=2))
    data = load_pairs(str(tmp_path), options=PairOptions(num_frames=2, caption_column="label"))
    assert data["label"] == 4 * ["juggling"] + 4 * ["pole vault"]


@pytest.mark.parametrize("write", [write_csv, write_shard])
def test_labelled_films_of_tables_and_tars(tmp_path, write):
    source = find_source(write(tmp_path), labelled=True, media=VIDEOS)
    data = read_labelled(source.rows(None), None, media=VIDEOS)
    column = "mp4" if write is write_shard else "video"
    assert [content_of(value) for value in data[column]] == [film_of(n) for n in NUMBERS]


def test_parts_and_pictures_beside_films_stay_apart(tmp_path):
    write_films(tmp_path / "train")
    write_films(tmp_path / "test")
    assert split_names(tmp_path, media="videos") == ("test", "train")
    assert len(load_pairs(tmp_path, split="test", options=FILMS)) == len(NUMBERS)
    pictures = load_pairs(tmp_path, split="test")
    assert all(row["image"]["path"].endswith(".png") for row in pictures)


def test_several_sources_of_films_become_one(tmp_path):
    sources = [write_folder(tmp_path), write_parquet_of_bytes(tmp_path)]
    data = load_pairs(sources, options=FILMS)
    assert data.features["video"] == datasets.Video(decode=False)
    assert sorted(content_of(value) for value in data["video"]) == sorted(2 * [film_of(n) for n in NUMBERS])


def test_paths_lead_where_those_of_images_may(tmp_path):
    (tmp_path / "data").mkdir()
    write_films(tmp_path / "films", captions=False)
    lines = ["video,caption", "../films/0.mp4,out", "films/1.mp4,missing", ",blank", "file:///etc/passwd,scheme"]
    (tmp_path / "data" / "films.csv").write_text("\n".join(lines), encoding="utf-8")
    options = PairOptions(media="videos", num_frames=2, max_skipped_share=0.0)
    data = load_pairs(str(tmp_path / "data" / "films.csv"), options=options)
    with pytest.raises(ValueError, match="4 of 4 rows") as raised:
        ImageTextDataset(data, ClipHFImageProcessor(size=10, crop_size=10), options)
    for text in ("2 location refused", "1 file missing", "1 film missing", "The film of row 0", "image_root"):
        assert text in str(raised.value)
    below = PairOptions(media="videos", image_root=str(tmp_path))
    data = load_pairs(str(tmp_path / "data" / "films.csv"), options=below)
    assert content_of(data[0]["video"]) == film_of(0)


def test_images_are_no_films(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(ValueError, match="holds no films"):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "1.png").write_bytes(encoded(image_of(1)))
        load_pairs(tmp_path / "pictures", options=FILMS)
    rows = {"video": [{"bytes": encoded(image_of(1)), "path": None}], "caption": ["a"]}
    data = datasets.Dataset.from_dict(rows).cast_column("video", datasets.Image())
    data.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="holds images, not films"):
        load_pairs(tmp_path / "saved", options=FILMS)
    films = datasets.Dataset.from_dict({"image": [film_of(1)], "caption": ["a"]}).cast_column(
        "image", datasets.Video()
    )
    films.save_to_disk(tmp_path / "films_saved")
    with pytest.raises(ValueError, match=r"holds films, not images.*media='videos'"):
        load_pairs(tmp_path / "films_saved")


def test_a_missing_column_of_films_is_named(tmp_path):
    path = write_csv(tmp_path)
    with pytest.raises(ValueError, match="no column 'film'.*'video'.*holds the films"):
        load_pairs(path, options=PairOptions(media="videos", image_column="film"))
    with pytest.raises(ValueError, match="no column 'image'.*holds the images"):
        load_pairs(path)


def test_a_tar_without_films_says_so(tmp_path):
    write_tar(tmp_path / "a.tar", [{"jpg": encoded(image_of(1), "JPEG"), "txt": b"one"}])
    with pytest.raises(ValueError, match=r"no column 'video'.*holds the films"):
        load_pairs(str(tmp_path / "a.tar"), options=FILMS)


def test_options_of_media():
    assert PairOptions().image_column == "image"
    assert PairOptions(num_frames=8).media == "videos"
    assert PairOptions(num_frames=8).image_column == PairOptions(media="videos").image_column == "video"
    assert (find_media("images"), find_media("videos")) == (IMAGES, VIDEOS)
    assert not IMAGES.endings & VIDEOS.endings
    with pytest.raises(ValueError, match="`media` is 'films'; it must be one of 'images', 'videos'"):
        PairOptions(media="films")
    for count in (0, True, 2.0, "8"):
        with pytest.raises(ValueError, match="`num_frames` is .* whole number of at least 1"):
            PairOptions(num_frames=count)
    with pytest.raises(ValueError, match="`cache_images`.*leave it out with films"):
        PairOptions(num_frames=8, cache_images=True)
