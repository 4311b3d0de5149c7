# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluation reads files by the rules of training: pictures, hidden files, tables, and where paths may lead."""

import csv
import json
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_hf.cli import main
from clip_hf.evaluation.registry.evaluation_data import (
    CaptionedDataOptions,
    ClassificationOptions,
    load_classification,
    load_retrieval,
)
from clip_hf.model.image_reading_clip_hf import open_image
from hostile_paths import HOSTILE
from pair_data import encoded, image_of


pytestmark = pytest.mark.usefixtures("own_cache")


def write_image(path: Path, number: int = 0, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image_of(number), kind))


def paths_of(data) -> list:
    images = data.data[data.image_column]
    return [image["path"] if isinstance(image, dict) else image for image in images]


# ------------------------------------------------------------------------------------------------------------- folders


def test_class_folders_have_pictures_of_all_formats_and_nothing_hidden(tmp_path, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr("clip_hf.data.image_folders.logger.warning", warnings.append)
    folder = tmp_path / ".data"
    write_image(folder / "cat" / "00000.ppm", 0, "PPM")
    write_image(folder / "cat" / "1.PNG", 1)
    write_image(folder / "dog" / "2.tga", 2, "TGA")
    for name in (
        "cat/.ipynb_checkpoints/1-checkpoint.png",
        "cat/._1.png",
        "dog/__MACOSX/2.png",
        "__MACOSX/cat/3.png",
        ".ipynb_checkpoints/4.png",
    ):
        write_image(folder / name)
    for name in ("cat/GT-00000.csv", "cat/1.txt", "dog/3.mp4", "dog/4.mp4", "readme.md", "loose.png"):
        (folder / name).write_text("")
    data = load_classification(folder)
    assert data.class_names == ["cat", "dog"] and data.targets.tolist() == [0, 0, 1]
    assert [Path(path).name for path in paths_of(data)] == ["00000.ppm", "1.PNG", "2.tga"]
    by_ending, beside = warnings
    assert by_ending == f"3 files in {folder} were left out, by ending: 2 .mp4, 1 .csv."
    assert beside.startswith(f"2 files in {folder} were left out, for lying beside the class folders: ")
    assert all(text in beside for text in ("1 .md", "1 .png"))


def test_folders_without_images_are_no_classes(tmp_path, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr("clip_hf.data.data_sources.logger.warning", warnings.append)
    for part, name in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        write_image(tmp_path / part / name / "0.png")
    for part, name in (("test", "dog"), ("test", "dir.jpg"), ("train", "empty"), ("train", "text")):
        (tmp_path / part / name).mkdir()
    (tmp_path / "train" / "text" / "a.txt").write_text("")
    assert load_classification(tmp_path).class_names == ["cat", "dog"]  # a class of the training may lack tests
    assert warnings == [f"These folders of {tmp_path} hold no images and are no classes: dir.jpg, empty, text."]


def test_a_class_folder_whose_name_is_not_utf_8_is_named(tmp_path):
    for name in ("good", os.fsdecode(b"bad\xff")):
        write_image(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=rf"The name of {tmp_path}/bad\\udcff is not UTF-8; rename it"):
        load_classification(tmp_path)


def test_hidden_tables_and_parquet_are_no_data(tmp_path):
    write_image(tmp_path / "a.png")
    for name in ("test.csv", ".~lock.test.csv", "._test.csv"):
        (tmp_path / name).write_text("image,label\na.png,0\n" if name == "test.csv" else "damaged")
    assert load_classification(tmp_path, ClassificationOptions(class_names=["cat"])).split == "test"
    (tmp_path / "rows" / ".cache").mkdir(parents=True)
    pq.write_table(pa.table({"image": ["a.png"], "label": [0]}), tmp_path / "rows" / "test.parquet")
    (tmp_path / "rows" / ".cache" / "train.parquet").write_bytes(b"damaged")
    assert len(load_classification(tmp_path / "rows", ClassificationOptions(class_names=["cat"]))) == 1


# -------------------------------------------------------------------------------------------------------------- tables


def test_quotes_in_tables_swallow_no_rows(tmp_path):
    lines = [f"{number}.png\tcat {number}\t0\n" for number in range(10)]
    lines[3] = lines[3].replace("cat", '"cat')
    (tmp_path / "q.tsv").write_text("".join(["image\tnote\tlabel\n", *lines]))
    options = ClassificationOptions(class_names=["cat"])
    data = load_classification(tmp_path / "q.tsv", options)
    assert len(data) == 10 and data.data["note"][3] == '"cat 3'
    (tmp_path / "q.csv").write_text("".join(["image\tnote\tlabel\n", *lines]).replace("\t", ","))
    with pytest.raises(ValueError, match="Line 5 of .*q.csv"):
        load_classification(tmp_path / "q.csv", options)


def test_json_tables(tmp_path):
    rows = [{"image": f"{number}.png", "label": number % 2, "caption": f"cat {number}"} for number in range(4)]
    options = ClassificationOptions(class_names=["cat", "dog"])
    (tmp_path / "test.json").write_text(json.dumps(rows))
    for source in (tmp_path / "test.json", tmp_path):
        assert load_classification(source, options).targets.tolist() == [0, 1, 0, 1]
    assert load_retrieval(tmp_path / "test.json").captions == [[f"cat {number}"] for number in range(4)]
    (tmp_path / "test.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        load_classification(tmp_path / "test.json", options)
    (tmp_path / "test.json").write_text(json.dumps([rows[0], {**rows[1], "label": "dog"}]))
    with pytest.raises(ValueError, match=r"The column 'label' of .*test.json has values of different kinds"):
        load_classification(tmp_path / "test.json", options)


def test_other_json_in_a_folder_is_no_table(tmp_path):
    write_image(tmp_path / "cat" / "a.png")
    (tmp_path / "class_names.json").write_text('["cat"]')
    assert len(load_classification(tmp_path)) == 1


# -------------------------------------------------------------------------------------------------------------- places


def _csv(folder: Path, paths: list[str], delimiter: str = ",", column: str = "image") -> Path:
    path = folder / ("test.csv" if delimiter == "," else "test.tsv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([column, "label", "caption"])
        writer.writerows([each, 0, "a cat"] for each in paths)
    return path


def _jsonl(folder: Path, paths: list[str]) -> Path:
    (folder / "test.jsonl").write_text("\n".join(json.dumps({"image": p, "label": 0, "caption": "a"}) for p in paths))
    return folder / "test.jsonl"


def _parquet(folder: Path, paths: list[str], structs: bool = False, name: str = "image") -> Path:
    images = [{"bytes": None, "path": path} for path in paths] if structs else paths
    rows = {name: images, "label": [0] * len(paths), "caption": ["a cat"] * len(paths)}
    pq.write_table(pa.table(rows), folder / "test.parquet")
    return folder / "test.parquet"


KINDS = {
    "csv": _csv,
    "tsv": lambda folder, paths: _csv(folder, paths, "\t"),
    "folder of a csv": lambda folder, paths: _csv(folder, paths, column="file_name").parent,
    "jsonl": _jsonl,
    "parquet of paths": _parquet,
    "parquet of structs": lambda folder, paths: _parquet(folder, paths, structs=True),
    "folder of parquet": lambda folder, paths: _parquet(folder, paths).parent,
}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_paths_are_refused(kind, tmp_path):
    folder = tmp_path / "data"
    write_image(folder / "good.png")
    for each in (tmp_path, tmp_path / "data2"):
        write_image(each / "a.png")
    source = KINDS[kind](folder, ["good.png", *HOSTILE])
    loaded = [load_classification(source, ClassificationOptions(class_names=["cat"]))]
    if kind != "folder of a csv":  # a folder with captions is read by the name metadata.csv
        loaded.append(load_retrieval(source))
    for data in loaded:
        good, *others = paths_of(data)
        assert good == str(folder / "good.png") and len(others) == len(HOSTILE)
        assert all(path.startswith("refused:") for path in others)
        for row in range(1, len(HOSTILE) + 1):
            with pytest.raises(ValueError, match="is not (used|opened)"):
                open_image(data.data[row][data.image_column])


@pytest.mark.parametrize("kind", KINDS)
def test_image_root_is_an_option(kind, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    write_image(tmp_path / "pictures" / "b.png")
    monkeypatch.chdir(folder)
    outside = str(tmp_path / "pictures" / "b.png")
    source = KINDS[kind](folder, ["a.png", outside, "../pictures/b.png"])
    source = os.path.relpath(source)
    source = "./" if source == "." else source

    def places(**options) -> list:
        return paths_of(load_classification(source, ClassificationOptions(class_names=["cat"], **options)))

    assert places() == [str(folder / "a.png"), f"refused:{outside}", "refused:../pictures/b.png"]
    assert places(image_root=str(tmp_path / "pictures")) == [str(folder / "a.png"), outside, outside]
    if kind != "folder of a csv":
        assert paths_of(load_retrieval(source, CaptionedDataOptions(image_root="/")))[1:] == [outside, outside]


def test_columns_of_other_names_and_saved_data(tmp_path):
    options = ClassificationOptions(class_names=["cat"], image_column="photo")
    data = load_classification(_parquet(tmp_path, ["a.png", "../a.png"], name="photo"), options)
    assert paths_of(data) == [str(tmp_path / "a.png"), "refused:../a.png"]
    saved = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png"), "b.png"], "label": [0, 0]})
    saved.save_to_disk(tmp_path / "saved")
    data = load_classification(tmp_path / "saved", ClassificationOptions(class_names=["cat"]))
    assert paths_of(data) == [str(tmp_path / "a.png"), str(tmp_path / "saved" / "b.png")]


def test_data_of_the_hub_lead_only_to_what_was_downloaded(tmp_path, monkeypatch):
    paths = [str(tmp_path / "cache" / "a.png"), "/etc/passwd"]
    data = datasets.Dataset.from_dict({"image": paths, "label": [0, 0], "txt": ["a", "b"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: data)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *arguments: ["test"])
    expected = [paths[0], "refused:/etc/passwd"]
    options = ClassificationOptions(class_names=["cat"], image_column="image", label_column="label")
    assert paths_of(load_classification("someone/cats", options)) == expected
    assert paths_of(load_retrieval("flickr8k", CaptionedDataOptions(image_column="image"))) == expected


@pytest.mark.parametrize("option", ["--image-root", "--image_root"])
def test_the_command_has_the_option(option, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("clip_hf.cli.evaluate.run_suite", lambda model, options, **rest: asked.append(options) or [])
    arguments = ["evaluate", "a_model", "--data", "a.csv", "--output-dir", str(tmp_path), option]
    assert main([*arguments, str(tmp_path)]) == 0
    assert asked[0].data_options.image_root == str(tmp_path)
    assert main([*arguments, str(tmp_path / "photos")]) == 1
    assert re.search(r"--image-root\) is '.*photos', which is no folder", capsys.readouterr().err)


def test_borders_are_cut_by_the_reader_of_all_images(tmp_path):
    from clip_hf.evaluation.registry.evaluation_data import _without_border

    image = image_of(0)
    whole = encoded(image)
    cut = _without_border({"image": {"bytes": whole, "path": None}}, "image", 2)["image"]
    assert open_image(cut).tobytes() == image.crop((2, 2, 10, 8)).tobytes()
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "a.eps").write_bytes(encoded(Image.new("RGB", (9, 9)), "EPS"))
    for path in (str(tmp_path / "a.png"), str(tmp_path / "a.eps"), "refused:/etc/passwd", "file:///etc/passwd", None):
        assert _without_border({"image": {"bytes": None, "path": path}}, "image", 2) == {}
