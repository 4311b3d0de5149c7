# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The manifest of embedding jobs: which destination, source and options a job may go on with."""

import errno
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from job_inputs import ENCODING, SMALL, sources

from clip_hf.embedding import (
    EmbeddingJob,
    EmbeddingOptions,
    RowColumns,
    dual_encoder,
    embed,
    embedding_job,
    job_manifest,
    load_dual_encoder,
    part_files,
    read_embeddings,
)
from clip_hf.utils import dtypes
from encoding_inputs import files_in, quiet
from pair_data import image_of
from tiny_models import make_tiny_model


def test_the_place_of_data_and_model_does_not_matter(encoder, photos, tmp_path, plain):
    shutil.copytree(photos, tmp_path / "elsewhere" / "images")
    embed(encoder, tmp_path / "elsewhere" / "images", tmp_path / "out", options=SMALL, encoding=ENCODING)
    files = files_in(tmp_path / "out")
    assert {name for name in plain if files[name] != plain[name]} == {"manifest.json"}  # which names the source


def test_another_model_source_or_option_is_refused_by_name(encoder, photos, tmp_path, plain, tiny_processor):
    other = load_dual_encoder(make_tiny_model("vit", seed=1), processor=tiny_processor)
    finer = EmbeddingOptions(rows_per_part=4, dtype="float32")
    for arguments, message in (
        ((other, photos, tmp_path / "plain", SMALL, ENCODING), "model fingerprint is "),
        (
            (encoder, photos, tmp_path / "plain", finer, ENCODING),
            r"options rows_per_part \(--rows-per-part\) is 8 there and 4 now",
        ),
        (
            (encoder, photos, tmp_path / "plain", SMALL, quiet(batch_size=8)),
            r"options batch_size \(--batch-size\) is 4 there and 8 now",
        ),
    ):
        with pytest.raises(ValueError, match=f"holds embeddings of another job, .*{message}"):
            EmbeddingJob(*arguments)
    image_of(99).save(photos / "99.png")
    with pytest.raises(ValueError, match="source rows is 22 there and 23 now; source fingerprint is"):
        EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING)
    assert files_in(tmp_path / "plain") == plain


def test_a_destination_that_would_harm_something_is_refused(encoder, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; the destination must be a folder"):
        EmbeddingJob(encoder, photos, tmp_path / "file")
    for inside in (photos / "out", photos, photos / "." / "x" / ".." / "out"):
        with pytest.raises(ValueError, match="lies in the source .*, whose files it would become"):
            EmbeddingJob(encoder, photos, inside)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no manifest.json"):
        EmbeddingJob(encoder, photos, tmp_path / "used")
    with pytest.raises(OSError):
        EmbeddingJob(encoder, photos, tmp_path / "file" / "below")
    EmbeddingJob(encoder, photos, tmp_path / "photos_too")


def test_a_destination_behind_a_link_to_nothing_is_refused(encoder, photos, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    for destination in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(FileNotFoundError, match="/link is a link to nowhere, which is not there, .* give another"):
            EmbeddingJob(encoder, photos, destination, SMALL, ENCODING)
    (tmp_path / "nowhere").mkdir()
    assert embed(encoder, photos, tmp_path / "link", options=SMALL, encoding=ENCODING).is_complete


@pytest.mark.parametrize("destination", ["", " ", "s3://bucket/embedded"])
def test_a_destination_that_is_no_folder_of_this_machine_is_refused(destination, encoder, photos):
    with pytest.raises(ValueError, match=f"The destination is '{destination}'; it must be a folder on a disk"):
        EmbeddingJob(encoder, photos, destination, SMALL, ENCODING)


def test_a_list_of_paths_is_kept_for_the_next_run(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    embed(encoder, ["00.png", "01.png"], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (tmp_path / "out" / "source.txt").read_text() == f"{photos}/00.png\n{photos}/01.png\n"
    assert embed(encoder, [], tmp_path / "out", options=SMALL, encoding=ENCODING).timing is None
    with pytest.raises(ValueError, match="source.txt lists other images"):
        embed(encoder, ["02.png"], tmp_path / "out", options=SMALL, encoding=ENCODING)


def test_paths_with_odd_characters_are_kept_or_refused(encoder, tmp_path):
    odd = ["a\rb.png", " c.png", "d .png", "\u2028e.png", "f\x0cg.png"]
    for name in odd:
        image_of(0).save(tmp_path / name, format="png")
    summary = embed(encoder, [tmp_path / name for name in odd], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.bad) == (len(odd), {})
    again = embed(encoder, [tmp_path / name for name in odd], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert again.timing is None
    for name in ("a.png\r", "a\nb.png", " "):
        with pytest.raises(ValueError, match="is no path that a list can hold: .* rename the file"):
            embed(encoder, [tmp_path / "d .png", name], tmp_path / "odd", options=SMALL, encoding=ENCODING)


@pytest.mark.parametrize("section", ["model", "source", "options"])
def test_a_manifest_without_its_sections_is_an_error_that_names_it(section, encoder, photos, tmp_path, plain):
    path = tmp_path / "plain" / "manifest.json"
    for value in ({}, {section: []}):
        manifest = json.loads(path.read_text())
        manifest.pop(section, None)
        path.write_text(json.dumps({**manifest, **value}))
        for action in (
            lambda: read_embeddings(tmp_path / "plain"),
            lambda: EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING),
        ):
            with pytest.raises(ValueError, match=f"manifest.json is damaged: '{section}' is missing.* Put back a"):
                action()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"modalities": "video"}, "`modalities` is 'video'; it must be one of 'images', 'texts', 'both'"),
        ({"file_format": "hdf5"}, "`file_format` is 'hdf5'; it must be one of 'safetensors', 'npy'"),
        ({"dtype": "int8"}, "`dtype` is 'int8'; it must be one of 'float16', 'float32'"),
        ({"rows_per_part": 0}, "`rows_per_part` is 0"),
        ({"shard": (4, 4)}, r"`shard` is 4/4; it must be \(i, n\) with i from 0 to n-1"),
        ({"shard": "0/4"}, "`shard` is '0/4'; it must be"),
        ({"shard": (0, 4.0)}, "`shard` is 0/4.0; it must be"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingOptions(**values)


def test_sources_that_hold_nothing_to_embed_are_refused(encoder, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    image_of(0).save(tmp_path / "one.png")
    texts = EmbeddingOptions(modalities="texts")
    for source, options, message in (
        (tmp_path / "empty", SMALL, "holds no images, Parquet files, tars or metadata"),
        (tmp_path / "empty.txt", SMALL, "is empty: it has no rows"),
        ([], SMALL, "The list of images is empty"),
        ([tmp_path / "one.png"], texts, "has no captions, so no texts can be embedded"),
        (tmp_path / "nowhere", SMALL, "There is no file or folder"),
    ):
        with pytest.raises(ValueError, match=message):
            EmbeddingJob(encoder, source, tmp_path / "out", options, ENCODING)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


KINDS = ["folder", "table", "list", "paths", "tar", "saved", "memory", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"image_column": "imgae"},
            r"no column 'imgae'.* (it has|end in) .*image|has n.* columns.* `image_column` \(--image-column\) out",
        ),
        (
            {"caption_column": "cap"},
            r"no column 'cap'.* (it has|end in) .*caption|has n.* columns.* `caption_column` \(--caption-column\) out",
        ),
        ({"split": "tarin"}, "there is no .tarin.|no split `tarin`; it has train"),
        ({"image_root": "nowhere"}, r"`image_root` \(--image-root\) is 'nowhere', which is no folder"),
    ],
)
def test_misspelt_columns_are_said_before_anything_is_written(columns, message, kind, encoder, photos, tmp_path):
    data = photos if kind == "folder" else sources(tmp_path / "data")[kind]
    options = replace(SMALL, columns=RowColumns(**columns))
    with pytest.raises(ValueError, match=message):
        EmbeddingJob(encoder, data, tmp_path / "out", options, ENCODING)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------- what decides the numbers


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda encoder: encoder.model.to(torch.bfloat16),
            r"model dtype \(--dtype\) is 'float32' there and 'bfloat16' ",
        ),
        (
            lambda encoder: setattr(encoder, "runtime", "onnx"),
            r"model runtime \(--runtime\) is 'torch' there and 'onnx' ",
        ),
        (
            lambda encoder: encoder.set_image_options(background_color="white"),
            r"image_options background_color \(--background-color\) is as the image processor says there and "
            r"\[255, 255, 255\] now",
        ),
        (
            lambda encoder: encoder.set_image_options(apply_exif_orientation=False, draft=True),
            r"apply_exif_orientation \(--apply-exif-orientation\) is as the image processor says there and False "
            r"now; image_options draft \(--draft\) is as the image processor says there and True now",
        ),
    ],
)
def test_another_option_of_the_model_is_named_and_its_fingerprint_left_out(
    change, message, encoder, photos, tmp_path, plain
):
    change(encoder)
    with pytest.raises(ValueError, match=message) as caught:
        EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING)
    assert "fingerprint" not in str(caught.value)


def test_another_version_of_a_library_is_named(encoder, photos, tmp_path, plain, monkeypatch):
    version = job_manifest.package_version

    def newer(package):
        return "99.0" if package == "pillow" else version(package)

    monkeypatch.setattr(job_manifest, "package_version", newer)
    monkeypatch.setattr(dual_encoder, "package_version", newer)
    with pytest.raises(ValueError, match="by .*: versions pillow is '.*' there and '99.0' now. Give"):
        EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING)


@pytest.fixture
def model(tmp_path, tiny_processor) -> str:
    make_tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("began_in", ["bfloat16", "float32"])
def test_auto_stays_what_it_was_when_the_job_began(began_in, model, photos, tmp_path, monkeypatch):
    keywords = {"options": SMALL, "encoding": ENCODING, "device": "cpu", "dtype": "auto"}
    monkeypatch.setattr(dtypes, "picks_bfloat16", lambda: began_in == "bfloat16")
    embed(model, photos, tmp_path / "out", **keywords)
    before = files_in(tmp_path / "out")
    assert json.loads(before["manifest.json"])["model"]["dtype"] == began_in
    (tmp_path / "out" / "rows" / "part-00000-00001.parquet").unlink()
    monkeypatch.setattr(dtypes, "picks_bfloat16", lambda: began_in != "bfloat16")
    assert embed(model, photos, tmp_path / "out", **keywords).timing.rows == 8
    assert files_in(tmp_path / "out") == before
    with pytest.raises(ValueError, match=rf"model dtype \(--dtype\) is '{began_in}' there and 'float16' now"):
        embed(model, photos, tmp_path / "out", **{**keywords, "dtype": "float16"})


def test_auto_that_cannot_stay_is_an_error_that_says_so(model, photos, tmp_path, monkeypatch):
    embed(model, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)

    def refuse(model, **loading):
        raise ValueError(f"There is no {loading['dtype']} here.")

    monkeypatch.setattr(embedding_job, "load_dual_encoder", refuse)
    with pytest.raises(ValueError, match="began in float32, which .* cannot run here: There is no float32 here. Go"):
        embed(model, photos, tmp_path / "out", options=SMALL, encoding=ENCODING, dtype="auto")
    monkeypatch.setattr(embedding_job, "load_dual_encoder", load_dual_encoder)
    with pytest.raises(ValueError, match="^A DualEncoder is used as it is"):
        embed(load_dual_encoder(model), photos, tmp_path / "out", options=SMALL, encoding=ENCODING, dtype="auto")
    monkeypatch.setattr(embedding_job, "load_dual_encoder", refuse)
    with pytest.raises(ValueError, match="^There is no auto here.$"):
        embed(model, photos, tmp_path / "new", options=SMALL, encoding=ENCODING, dtype="auto")


# --------------------------------------------------------------------------------- what happens while a job runs


def after_parts(monkeypatch, count: int, action) -> None:
    """Call `action` when a job has written so many parts."""
    write, written = part_files.PartStore.write, []

    def acting(store, name, content):
        record = write(store, name, content)
        written.append(name)
        if len(written) == count:
            action()
        return record

    monkeypatch.setattr(part_files.PartStore, "write", acting)


def test_a_folder_that_was_removed_or_given_to_another_job_ends_the_job(encoder, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    after_parts(monkeypatch, 1, lambda: shutil.rmtree(out))
    with pytest.raises(FileNotFoundError, match="manifest.json is gone: the destination was removed or emptied"):
        embed(encoder, photos, out, options=SMALL, encoding=ENCODING)
    monkeypatch.undo()
    other = EmbeddingOptions(rows_per_part=4)

    def give_away():
        shutil.rmtree(out)
        EmbeddingJob(encoder, photos, out, other, ENCODING)

    for count in (1, 3):  # in the middle, and when all is written
        shutil.rmtree(out, ignore_errors=True)
        after_parts(monkeypatch, count, give_away)
        with pytest.raises(ValueError, match="/out belongs to another job since this one began"):
            embed(encoder, photos, out, options=SMALL, encoding=ENCODING)
        monkeypatch.undo()
        assert not list(out.glob("rows/*")) and not (out / "summary.json").exists()
    embed(encoder, photos, out, options=other, encoding=ENCODING)


@pytest.mark.parametrize("file", ["rows/part-00000-00000.parquet", "text_embeddings/part-00000-00000.safetensors"])
def test_parts_that_vanish_while_a_job_runs_are_noticed(file, encoder, photos, tmp_path, plain, monkeypatch):
    after_parts(monkeypatch, 3, (tmp_path / "out" / file).unlink)
    with pytest.raises(FileNotFoundError, match="/out lost 1 part while the job ran, part-00000-00000 first"):
        embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert not (tmp_path / "out" / "summary.json").exists()
    assert embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING).timing.rows == 8
    assert files_in(tmp_path / "out") == plain


def test_lists_of_two_jobs_that_begin_at_once_are_not_mixed(photos, tmp_path):
    """The second looks for a list before the first has written its own."""
    failures = []

    def begin():
        try:
            job_manifest.write_list(tmp_path / "out", [photos / "01.png"], SMALL)
        except ValueError as error:
            failures.append(error)

    (tmp_path / "out" / "locks").mkdir(parents=True)
    thread = threading.Thread(target=begin)
    with FileLock(tmp_path / "out" / "locks" / "manifest.lock"):
        thread.start()
        time.sleep(0.3)
        (tmp_path / "out" / "source.txt").write_text(f"{photos}/00.png\n")
    thread.join(60)
    assert "lists other images than those that were given" in str(failures[0])
    assert (tmp_path / "out" / "source.txt").read_text() == f"{photos}/00.png\n"


# ------------------------------------------------------------------------------------------------ file systems


def test_a_job_that_is_done_writes_nothing(encoder, photos, tmp_path, monkeypatch):
    """So the folder may be read-only."""

    def refuse(*arguments, **keywords):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def times():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))}

    paths = sorted(photos.glob("*.png"))
    summary = embed(encoder, paths, tmp_path / "out", options=SMALL, encoding=ENCODING)
    shutil.rmtree(tmp_path / "out" / "locks")
    before = times()
    monkeypatch.setattr(FileLock, "acquire", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "mkdir", refuse)
    again = embed(encoder, paths, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert again == replace(summary, timing=None) and times() == before
    monkeypatch.undo()
    (tmp_path / "out" / "rows" / "part-00000-00001.parquet").unlink()
    assert embed(encoder, paths, tmp_path / "out", options=SMALL, encoding=ENCODING).timing.rows == 8


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_needs_shares(number, encoder, photos, tmp_path, plain, monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(OSError, match="The file system has no locks: .*/out .* give each job its share .*--shard I/N"):
        embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    for share in range(2):
        options = replace(SMALL, shard=(share, 2))
        embed(encoder, photos, tmp_path / "out", options=options, encoding=ENCODING)
    assert files_in(tmp_path / "out") == plain


@pytest.mark.slow_but_for("122", "13")
@pytest.mark.parametrize(
    "number, message",
    [
        (
            errno.EDQUOT,
            "The disk quota is used up: .*/out cannot be written .*make room or ask for more, and run this",
        ),
        (errno.EROFS, "The file system is read-only: .*/out cannot be written .*another destination, and run this"),
        (errno.EACCES, "This user must not write: .*/out cannot be written .*change the permissions"),
        (errno.EMFILE, r"Too many files are open: .*/out cannot be written .*`ulimit -n`"),
    ],
)
@pytest.mark.parametrize("file", ["source.txt", "manifest.json", "part-00000-00001.safetensors", "summary.json"])
def test_what_the_file_system_refuses_is_said_and_the_next_run_goes_on(
    file, number, message, encoder, photos, tmp_path, monkeypatch
):
    paths = sorted(photos.glob("*.png"))
    moved = os.replace

    def refusing(source, target):
        if Path(target).name == file:
            raise OSError(number, os.strerror(number), target)
        moved(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(OSError, match=message) as caught:
        embed(encoder, paths, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert caught.value.errno == number
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
    assert embed(encoder, paths, tmp_path / "out", options=SMALL, encoding=ENCODING).rows == len(paths)
    embed(encoder, paths, tmp_path / "whole", options=SMALL, encoding=ENCODING)
    there, whole = files_in(tmp_path / "out"), files_in(tmp_path / "whole")
    assert {name for name in whole if there[name] != whole[name]} == {"manifest.json"}  # which names the list
