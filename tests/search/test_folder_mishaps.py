# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of folders where something is odd: foreign folders, kills, links, read-only disks, no numbers."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from clip_hf.embedding import load_dual_encoder
from clip_hf.embedding.dual_encoder import NotFiniteError
from clip_hf.search import (
    EmbeddingIndex,
    NoMatch,
    QueryTerm,
    folder_index,
    folder_work,
    open_source_index,
    refresh_folder_index,
)
from clip_hf.search.folder_index import rebuild_folder_index
from clip_hf.search.index_places import OtherIndexError
from clip_hf.utils import atomic
from encoding_inputs import count_images, quiet
from pair_data import image_of
from tiny_models import make_tiny_model


ROWS = 6
NAMES = [f"{number}.png" for number in range(ROWS)]


@pytest.fixture
def encoder(tiny_processor):
    return load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Pictures that are some hours old."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        image_of(number).save(folder / name)
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))
    return folder


@pytest.fixture
def place(photos) -> Path:
    return photos.with_name("photos.clip-index")


@pytest.fixture
def refresh(encoder, photos, place):
    return lambda: refresh_folder_index(encoder, photos, place, encoding=quiet(batch_size=2))


@pytest.fixture
def rebuild(encoder, photos, place):
    return lambda: rebuild_folder_index(encoder, photos, place, encoding=quiet(batch_size=2))


def ids_of(place: Path) -> list[str]:
    return sorted(EmbeddingIndex.open(place).ids().tolist())


# ----------------------------------------------------------------------------------------------------- foreign folders


@pytest.mark.parametrize("manifest", ['{"name": "site"}', "[]", "no JSON"])
def test_a_folder_with_an_index_json_of_another_program_is_not_replaced(encoder, photos, tmp_path, manifest):
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.json").write_text(manifest)
    (site / "thesis.txt").write_text("years of work")
    for is_rebuild in (False, True):
        with pytest.raises(ValueError, match=r"site is no index, and not empty \(index.json, thesis.txt\).*--index"):
            open_source_index(photos, encoder, index_folder=site, rebuild=is_rebuild, encoding=quiet())
    assert {path.name: path.read_text() for path in site.iterdir()} == {
        "index.json": manifest,
        "thesis.txt": "years of work",
    }


def test_an_index_in_which_somebody_keeps_files_is_not_replaced(refresh, rebuild, place):
    refresh()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other things than an index \(thesis.txt\).*not replaced"):
        rebuild()
    assert (place / "thesis.txt").read_text() == "years of work" and ids_of(place) == NAMES


def test_all_that_we_keep_in_an_index_goes_when_it_is_replaced(encoder, photos, refresh, rebuild, place):
    refresh()
    (photos / "bad.png").write_bytes(b"no picture")
    refresh()
    index = EmbeddingIndex.open(place)
    NoMatch(encoder, index).lowest_score([QueryTerm(1.0, text="a dog")])
    assert {"index.json", "no_match.npz", "segments", "unreadable.json"} <= {path.name for path in place.iterdir()}
    assert rebuild().embedded == ROWS and not (place / "no_match.npz").exists()


def test_what_lies_where_an_index_is_built_is_not_removed(refresh, rebuild, place):
    refresh()
    beside = place.with_name(".photos.clip-index.rebuild")
    beside.mkdir()
    (beside / "thesis.txt").write_text("years of work")
    with suppress(OSError, ValueError):
        rebuild()
    assert (beside / "thesis.txt").read_text() == "years of work" and ids_of(place) == NAMES


def test_a_damaged_index_says_so_and_may_be_built_anew(refresh, rebuild, place):
    refresh()
    (place / "index.json").write_text("{")
    with pytest.raises(ValueError, match="index.json is no JSON file"):
        refresh()
    assert rebuild().embedded == ROWS and ids_of(place) == NAMES


def test_pictures_beside_an_index_json_are_a_folder_of_pictures(encoder, photos, place):
    (photos / "index.json").write_text('{"title": "gallery"}')
    assert len(open_source_index(photos, encoder, encoding=quiet()).index) == ROWS and ids_of(place) == NAMES


# --------------------------------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    pass


def _dying(real, name: str, calls: list[str], step: int):
    def call(*arguments, **options):
        if len(calls) >= step:
            raise Killed
        calls.append(name)
        return real(*arguments, **options)

    return call


def kill_at(step: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let nothing be written from a number of calls on, as if the process were dead; returns the calls until then."""
    calls: list[str] = []
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
        patch.setattr(os, name, _dying(getattr(os, name), name, calls, step))
    return calls


@pytest.mark.slow
def test_whenever_a_rebuild_is_killed_the_next_refresh_settles_it(refresh, rebuild, photos, place, monkeypatch):
    for name in NAMES[2:]:
        (photos / name).unlink()
    refresh()
    shutil.copytree(place, photos.parent / "keep")
    monkeypatch.setattr(atomic, "_is_abandoned", lambda *_: True)  # this process stands for a dead one
    seen_without_index = 0
    for step in range(200):
        with monkeypatch.context() as patch:
            calls = kill_at(step, patch)
            with suppress(Killed):
                rebuild()
        is_done = len(calls) < step
        seen_without_index += not place.exists()
        result = refresh()
        assert ids_of(place) == NAMES[:2] and result.embedded == 0, step
        names = sorted(path.name for path in photos.parent.iterdir())
        assert [name for name in names if not name.endswith(".lock")] == ["keep", "photos", "photos.clip-index"], step
        for path in photos.parent.iterdir():
            if path.name not in ("keep", "photos"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(photos.parent / "keep", place)
        if is_done:
            break
    assert is_done and seen_without_index == 1  # between the two renames


def test_an_index_that_the_user_removed_does_not_come_back(refresh, photos, place, monkeypatch):
    refresh()
    monkeypatch.setattr(atomic, "_is_abandoned", lambda *_: True)
    atomic.set_aside(place)  # as a rebuild that is killed after both renames leaves it
    assert refresh().embedded == ROWS
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos", "photos.clip-index"]


def test_what_a_rebuild_for_another_model_has_done_stays(refresh, encoder, photos, place, tiny_processor):
    refresh()
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    beside = place.with_name(".photos.clip-index.rebuild")
    refresh_folder_index(other, photos, beside, encoding=quiet())
    refresh()
    assert ids_of(beside) == NAMES
    rebuild_folder_index(other, photos, place, encoding=quiet())
    assert not beside.exists()


@pytest.mark.parametrize("how", ["ctrl-c", "time"])
def test_batches_that_are_whole_are_kept(refresh, encoder, place, monkeypatch, caplog, how):
    counted, take = count_images(encoder.model), folder_index._FolderWork._take
    if how == "time":
        monkeypatch.setattr(folder_work, "COMMIT_SECONDS", 0.0)
        monkeypatch.setattr(folder_index._FolderWork, "_keep_what_is_ready", lambda self: None)

    def stop(self, batch):
        if self.embedded == 4:
            raise KeyboardInterrupt
        take(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folder_index._FolderWork, "_take", stop)
        refresh()
    assert ids_of(place) == NAMES[:4]
    assert ("Stopped. 4 new pictures of" in caplog.text) == (how == "ctrl-c")
    counted.clear()
    result = refresh()
    assert (result.unchanged, result.added, counted) == (4, 2, [2])


def test_an_index_that_cannot_be_compacted_is_still_whole(refresh, photos, place, monkeypatch, caplog):
    refresh()
    for name in NAMES[:2]:
        (photos / name).unlink()

    def fail(index):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EmbeddingIndex, "compact", fail)
    assert refresh().removed == 2 and ids_of(place) == NAMES[2:]
    assert "is not compacted: [Errno 28] No space left" in caplog.text


# ----------------------------------------------------------------------------------------------- pictures of any kind


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_picture_without_numbers_is_left_out_and_remembered(refresh, encoder, place, monkeypatch, value):
    whole, real = refresh().index, encoder._image_features
    expected = whole.vectors(NAMES[:2] + NAMES[3:])
    shutil.rmtree(place)
    first = {"calls": 0}

    def features(inputs, projected):
        found = real(inputs, projected).clone()
        if first["calls"] == 1:  # the second batch: pictures 2 and 3
            found[0] = value
        first["calls"] += 1
        return found

    monkeypatch.setattr(encoder, "_image_features", features)
    result = refresh()
    assert ids_of(place) == NAMES[:2] + NAMES[3:]
    assert np.array_equal(result.index.vectors(NAMES[:2] + NAMES[3:]), expected)
    (skipped,) = result.skipped
    assert skipped.name == "2.png" and skipped.message.startswith("2.png cannot be used: the model gives no numbers")
    calls = first["calls"]
    assert refresh().skipped == [skipped] and first["calls"] == calls


def test_a_model_without_numbers_for_any_picture_is_an_error(refresh, encoder, place, monkeypatch):
    real = encoder._image_features
    monkeypatch.setattr(encoder, "_image_features", lambda *arguments: real(*arguments) * float("nan"))
    with pytest.raises(NotFiniteError, match="0.png and all others so far.*half precision"):
        refresh()
    assert ids_of(place) == []


def test_a_file_written_while_its_time_cannot_change_is_read_again(refresh, photos, place, monkeypatch):
    path, now = photos / "0.bmp", 2_000_000_000
    monkeypatch.setattr(folder_index.time, "time_ns", lambda: now * 10**9 + 700_000_000)
    for number in (50, 51):  # the same size, and the same second
        image_of(number).save(path)
        os.utime(path, (now, now))
        result = refresh()
    assert (result.edited, result.read, result.embedded) == (1, 1, 1)
    now += 60
    assert (refresh().read, refresh().read) == (1, 0)  # once more, and then it is an old file


def test_a_file_of_the_future_is_not_read_each_time(refresh, photos):
    os.utime(photos / "0.png", (4_000_000_000, 4_000_000_000))
    refresh()
    assert refresh().read == 0


def test_a_damaged_list_of_unreadable_files_is_made_anew(refresh, photos, place):
    (photos / "bad.png").write_bytes(b"")
    os.utime(photos / "bad.png", (1_000_000_000, 1_000_000_000))
    refresh()
    content = json.loads((place / "unreadable.json").read_text())
    for files in ('[["bad.png", 1e999, 1, "a", "b"]]', '{"a": 1}', "[5]", '[[["l"], 1, 1, "a", "b"]]'):
        damaged = json.dumps(content | {"files": "HERE"}).replace('"HERE"', files)
        (place / "unreadable.json").write_text(damaged)
        assert refresh().read == 1
        assert json.loads((place / "unreadable.json").read_text()) == content


# ---------------------------------------------------------------------------------------------------- names and links


def test_a_name_without_room_for_those_of_temporary_files(encoder, photos, tmp_path):
    long = photos.rename(tmp_path / ("n" * 240))
    with pytest.raises(OSError, match="name of the index .* is too long: it may have 190 bytes.*--index"):
        open_source_index(long, encoder, encoding=quiet())
    assert len(open_source_index(long, encoder, index_folder=tmp_path / ("x" * 190), encoding=quiet()).index) == ROWS


def test_a_path_that_is_too_long_is_left_out(refresh, photos, monkeypatch, caplog):
    monkeypatch.chdir(photos)
    for _ in range(25):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    image_of(9).save("deep.png")
    os.chdir(photos)
    assert refresh().added == ROWS
    assert "is left out: its path is too long" in caplog.text
    shutil.rmtree(photos / ("d" * 200))


def test_a_subfolder_whose_files_cannot_be_known_is_an_error(refresh, photos, place, monkeypatch):
    (photos / "sub").mkdir()
    image_of(9).save(photos / "sub" / "a.png")
    assert refresh().added == ROWS + 1
    real = os.stat

    def refuse(path, *arguments, **options):
        if os.fspath(path).endswith("sub/a.png"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return real(path, *arguments, **options)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="the folder .*sub cannot be read, so its"),
    ):
        patch.setattr(os, "stat", refuse)
        refresh()
    assert len(ids_of(place)) == ROWS + 1


def test_links_to_folders_are_counted(refresh, photos, tmp_path, caplog):
    (tmp_path / "others").mkdir()
    image_of(9).save(tmp_path / "others" / "a.png")
    os.symlink(tmp_path / "others", photos / "linked")
    assert refresh().added == ROWS
    assert f"1 file in {photos} was left out, for being a link to a folder: 1 without an ending." in caplog.text


def test_a_link_to_the_folder_is_the_folder(refresh, encoder, photos, place, tmp_path):
    refresh()
    (tmp_path / "links").mkdir()
    os.symlink(photos, tmp_path / "links" / "pictures")
    opened = open_source_index(tmp_path / "links" / "pictures", encoder, encoding=quiet())
    assert opened.index.folder == place and opened.refresh.unchanged == ROWS
    assert opened.picture("0.png") == photos / "0.png"


def test_an_index_on_another_disk_is_replaced_there(refresh, rebuild, place, tmp_path):
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", place)
    refresh()
    before = EmbeddingIndex.open(tmp_path / "disk").ids().tolist()
    assert rebuild().embedded == ROWS
    assert place.is_symlink() and EmbeddingIndex.open(tmp_path / "disk").ids().tolist() == before


# --------------------------------------------------------------------------------------- indexes of others, read-only


@pytest.mark.parametrize(
    "part, value", [("source", "x"), ("source", None), ("model", "x"), ("model", [1]), ("versions", None)]
)
def test_a_description_of_wrong_types_is_another_index(refresh, rebuild, place, part, value):
    index = refresh().index
    index.change(description=index.description | {part: value})
    with pytest.raises(OtherIndexError, match="--index.*--rebuild"):
        refresh()
    assert rebuild().embedded == ROWS


@pytest.mark.parametrize("name", ["../secret.png", "{absolute}/secret.png"])
def test_an_index_does_not_lead_out_of_its_folder(refresh, encoder, photos, place, tmp_path, name):
    image_of(9).save(tmp_path / "secret.png")
    index = refresh().index
    row = index.metadata(["0.png"]).to_pylist()[0] | {"path": os.fsencode(name.format(absolute=tmp_path))}
    vector = index.vectors(["0.png"])
    table = pa.Table.from_pylist([row], folder_index.FOLDER_SCHEMA)
    index.change(add=(vector, ["0.png"], table), remove=["0.png"])
    opened = open_source_index(place, encoder)
    assert opened.picture("0.png") is None and opened.picture("1.png") == photos / "1.png"
    assert refresh().read == 1
    assert open_source_index(place, encoder).picture("0.png") == photos / "0.png"


def test_pictures_of_data_in_memory_are_found_from_the_working_folder(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    data = datasets.Dataset.from_dict({"image": NAMES})
    opened = open_source_index(data, encoder, index_folder=tmp_path / "i", encoding=quiet())
    assert Path(opened.picture(0)).resolve() == photos / "0.png"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("what", ["lock", "commit"])
def test_an_index_that_may_not_be_written_is_searched_as_it_was(
    refresh, rebuild, encoder, photos, place, monkeypatch, what, number
):
    refresh()
    image_of(9).save(photos / "new.png")

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    target = "clip_hf.search.index_places.FileLock.acquire" if what == "lock" else "os.replace"
    monkeypatch.setattr(target, refuse)
    opened = open_source_index(photos, encoder, encoding=quiet())
    assert sorted(opened.index.ids()) == NAMES and opened.refresh.unchanged == ROWS
    assert opened.refresh.describe() == (
        f"{ROWS} pictures of {photos}. The index cannot be brought up to date ({os.strerror(number)}): "
        "searching it as it was."
    )
    with pytest.raises(OSError, match=f"{os.strerror(number)}: the index .* cannot be written"):
        rebuild()
    monkeypatch.undo()
    shutil.rmtree(place)
    monkeypatch.setattr(target, refuse)
    with pytest.raises(OSError, match=f"{os.strerror(number)}: the index .* cannot be written"):
        refresh()


def test_nothing_is_embedded_for_an_index_that_may_not_be_written(refresh, encoder, photos, monkeypatch):
    counted = count_images(encoder.model)
    assert refresh().embedded == sum(counted) == ROWS
    counted.clear()
    image_of(9).save(photos / "new.png")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("segments"))
    assert refresh().stale == "Permission denied" and not counted
