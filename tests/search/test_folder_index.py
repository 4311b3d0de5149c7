# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of folders: what has changed is embedded, nothing else is opened, and nothing is lost."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from clip_hf.embedding import EmbeddingOptions, embed, load_dual_encoder, read_embeddings
from clip_hf.model.image_reading_clip_hf import ImageLimits
from clip_hf.search import EmbeddingIndex, folder_index, folder_work, refresh_folder_index
from clip_hf.search.folder_index import rebuild_folder_index
from clip_hf.search.folder_refresh import row_id
from clip_hf.search.index_places import locked_index
from clip_hf.search.index_segments import IndexManifest
from encoding_inputs import quiet
from pair_data import bad_files, encoded, image_of
from tiny_models import make_tiny_model


ROOT = Path(__file__).resolve().parents[2]
ROWS = 12
NAMES = [f"{'sub/' if number % 2 else ''}{number:02d}.png" for number in range(ROWS)]


@pytest.fixture(autouse=True)
def no_recent_files(monkeypatch):
    """Files that were just written count like old ones."""
    monkeypatch.setattr(folder_work, "TIME_STEP", -1)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        image_of(number).save(folder / name)
    return folder


@pytest.fixture
def refresh(encoder, photos):
    """Refreshes the index of the photos; counts passes anew."""

    def run(**options):
        encoder.counted.clear()
        result = refresh_folder_index(encoder, photos, f"{photos}.clip-index", encoding=quiet(batch_size=4, **options))
        assert result.embedded == sum(encoder.counted)
        return result

    return run


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files whose bytes are read."""
    names, fetch = [], folder_index.fetch_file
    monkeypatch.setattr(
        folder_index, "fetch_file", lambda path, limits: names.append(path.name) or fetch(path, limits)
    )
    return names


def numbers(result) -> dict[str, int]:
    """The counts that are not 0."""
    names = ("added", "renamed", "edited", "removed", "unchanged", "read", "embedded")
    found = {name: getattr(result, name) for name in names} | {"skipped": len(result.skipped)}
    return {name: count for name, count in found.items() if count}


def rows_of(index: EmbeddingIndex) -> dict[str, tuple]:
    """Vector and digest of each row by its id."""
    ids = index.ids().tolist()
    digests = index.metadata()["digest"].to_pylist()
    return dict(zip(ids, zip(map(np.ndarray.tobytes, index.vectors(ids)), digests, strict=True), strict=True))


def touch(path: Path, seconds: int = 100) -> None:
    os.utime(path, (time.time() + seconds, time.time() + seconds))


# ---------------------------------------------------------------------------------------------------- what has changed


def test_first_run_and_nothing_changed(refresh, opened, photos):
    result = refresh()
    assert numbers(result) == {"added": ROWS, "read": ROWS, "embedded": ROWS}
    assert sorted(opened) == sorted(os.path.basename(name) for name in NAMES)
    generation = result.index.generation
    opened.clear()
    result = refresh()
    assert numbers(result) == {"unchanged": ROWS}
    assert opened == [] and result.index.generation == generation
    assert result.describe().startswith(f"{ROWS} pictures of {photos} (nothing has changed; ")


def test_rows_hold_what_is_known_of_the_files(refresh, photos):
    index = refresh().index
    assert index.ids().tolist() == sorted(NAMES)
    (row,) = index.metadata(["sub/03.png"]).to_pylist()
    status = (photos / "sub/03.png").stat()
    assert 0 <= time.time_ns() - row.pop("read") < 60e9
    assert row == {
        "name": "sub/03.png",
        "path": b"sub/03.png",
        "digest": row["digest"],
        "bytes": status.st_size,
        "modified": status.st_mtime_ns,
        "width": 12,
        "height": 10,
    }


def test_vectors_and_digests_are_those_of_an_embed_job(refresh, encoder, photos, tmp_path):
    options = EmbeddingOptions(rows_per_part=ROWS)
    embed(encoder, photos, tmp_path / "embedded", options=options, encoding=quiet(batch_size=4))
    (part,) = read_embeddings(tmp_path / "embedded")
    index = refresh().index
    assert part.rows["name"].to_pylist() == index.ids().tolist()
    assert part.rows["digest"].to_pylist() == index.metadata()["digest"].to_pylist()
    stored = index.vectors(index.ids()).astype(np.float16)
    assert np.array_equal(stored, part.images)


def test_added(refresh, photos):
    refresh()
    image_of(100).save(photos / "sub" / "new.png")
    assert numbers(refresh()) == {"added": 1, "unchanged": ROWS, "read": 1, "embedded": 1}


def test_renamed_keeps_its_vector(refresh, photos):
    before = rows_of(refresh().index)
    (photos / "00.png").rename(photos / "sub" / "z.png")
    result = refresh()
    assert numbers(result) == {"renamed": 1, "unchanged": ROWS - 1, "read": 1}
    after = rows_of(result.index)
    assert after.pop("sub/z.png") == before.pop("00.png")
    assert after == before


def test_copied(refresh, photos):
    before = rows_of(refresh().index)
    shutil.copy(photos / "00.png", photos / "copy.png")
    result = refresh()
    assert numbers(result) == {"renamed": 1, "unchanged": ROWS, "read": 1}
    assert rows_of(result.index) == before | {"copy.png": before["00.png"]}


def test_edited(refresh, photos, encoder):
    before = rows_of(refresh().index)
    image_of(200).save(photos / "02.png")
    touch(photos / "02.png")
    result = refresh()
    assert numbers(result) == {"edited": 1, "unchanged": ROWS - 1, "read": 1, "embedded": 1}
    after = rows_of(result.index)
    expected = encoder.encode_images([image_of(200)]).numpy()
    assert np.allclose(result.index.vectors(["02.png"]), expected, atol=1e-3)
    assert after.pop("02.png") != before.pop("02.png") and after == before


def test_edited_with_the_same_time_but_another_size(refresh, photos):
    refresh()
    status = (photos / "02.png").stat()
    (photos / "02.png").write_bytes(encoded(image_of(201).resize((30, 30))))
    os.utime(photos / "02.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert numbers(refresh()) == {"edited": 1, "unchanged": ROWS - 1, "read": 1, "embedded": 1}


def test_removed(refresh, photos):
    refresh()
    (photos / "02.png").unlink()
    (photos / "sub/03.png").unlink()
    result = refresh()
    assert numbers(result) == {"removed": 2, "unchanged": ROWS - 2}
    assert not {"02.png", "sub/03.png"} & set(result.index.ids())


def test_touched_is_read_once(refresh, photos):
    before = rows_of(refresh().index)
    touch(photos / "02.png")
    result = refresh()
    assert numbers(result) == {"unchanged": ROWS, "read": 1}
    assert rows_of(result.index) == before
    assert numbers(refresh()) == {"unchanged": ROWS}


def test_two_files_that_exchanged_their_names(refresh, photos):
    before = rows_of(refresh().index)
    (photos / "00.png").rename(photos / "t")
    (photos / "02.png").rename(photos / "00.png")
    (photos / "t").rename(photos / "02.png")
    touch(photos / "00.png")
    touch(photos / "02.png")
    result = refresh()
    assert numbers(result) == {"edited": 2, "unchanged": ROWS - 2, "read": 2}
    assert rows_of(result.index) == before | {"00.png": before["02.png"], "02.png": before["00.png"]}


def test_a_ring_of_exchanged_names_over_several_commits(refresh, photos, monkeypatch):
    # Each row's old vector is needed by a later commit, after the row itself has gone.
    before = rows_of(refresh().index)
    monkeypatch.setattr(folder_work, "COMMIT_ROWS", 1)
    names = sorted(NAMES)
    contents = [(photos / name).read_bytes() for name in names]
    for name, content in zip(names, [contents[-1], *contents[:-1]], strict=True):
        (photos / name).write_bytes(content)
        touch(photos / name)
    result = refresh()
    assert numbers(result) == {"edited": ROWS, "read": ROWS}
    assert rows_of(result.index) == {name: before[old] for name, old in zip(names, [names[-1], *names[:-1]])}


def test_the_same_picture_twice_among_new_files_is_embedded_once(refresh, photos):
    for name in ("a.png", "sub/b.png", "z.png"):
        image_of(300).save(photos / name)
    result = refresh()
    assert numbers(result) == {"added": ROWS + 3, "read": ROWS + 3, "embedded": ROWS + 1}
    rows = rows_of(result.index)
    assert rows["a.png"] == rows["sub/b.png"] == rows["z.png"]


def test_all_at_once_is_one_commit(refresh, photos):
    generation = refresh().index.generation
    (photos / "00.png").rename(photos / "moved.png")
    (photos / "02.png").unlink()
    image_of(400).save(photos / "04.png")
    touch(photos / "04.png")
    image_of(401).save(photos / "new.png")
    result = refresh()
    assert numbers(result) == {
        "added": 1,
        "renamed": 1,
        "edited": 1,
        "removed": 1,
        "unchanged": ROWS - 3,
        "read": 3,
        "embedded": 2,
    }
    assert result.index.generation == generation + 1
    sentence = f"{ROWS} pictures of {photos} (1 added, 1 renamed or copied, 1 edited, 1 removed; "
    assert result.describe().startswith(sentence)


def test_compacted_when_it_is_worth_it(refresh, photos):
    refresh()
    for number in range(3):  # a quarter: not yet
        (photos / NAMES[number]).unlink()
    assert sum(each.removed for each in IndexManifest.read(refresh().index.folder).segments) == 3
    (photos / NAMES[3]).unlink()
    result = refresh()
    (segment,) = IndexManifest.read(result.index.folder).segments
    assert (segment.rows, segment.removed) == (ROWS - 4, 0)
    assert sorted(rows_of(result.index)) == sorted(NAMES[4:])


# ---------------------------------------------------------------------------------------------------------- file names


def test_names_of_every_kind_are_different_rows(refresh, photos, encoder):
    names = ["new\nline.png", "n" * 250 + ".png", os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png", r"caf\\udce9.png"]
    names += ["http:x.png", " spaces .PNG", "ü.png"]
    for number, name in enumerate(names):
        (photos / name).write_bytes(encoded(image_of(600 + number)))
    os.symlink(photos / "00.png", photos / "link.png")
    os.symlink(photos / "nowhere.png", photos / "broken.png")
    result = refresh()
    assert numbers(result) == {"added": ROWS + 9, "read": ROWS + 9, "embedded": ROWS + 8}
    table = result.index.metadata()
    paths = {os.fsdecode(path) for path in table["path"].to_pylist()}
    assert paths == {*NAMES, *names, "link.png"}
    for number, name in enumerate(names):
        (row,) = result.index.metadata([row_id(name)]).to_pylist()
        assert os.fsdecode(row["path"]) == name
        expected = encoder.encode_images([image_of(600 + number)]).numpy()
        assert np.allclose(result.index.vectors([row_id(name)]), expected, atol=1e-3)
    assert numbers(refresh()) == {"unchanged": ROWS + 9}


def test_ids_are_the_names_unless_they_need_an_escape():
    assert row_id("a\\b.png") == "a\\b.png"
    assert row_id(os.fsdecode(b"a\xff.png")) == r"a\udcff.png"
    assert row_id(r"a\udcff.png") == r"a\\udcff.png"
    assert row_id(os.fsdecode(b"a\\\xff.png")) == r"a\\\udcff.png"


def test_hidden_files_and_videos_are_left_out_with_a_word(refresh, photos, caplog):
    (photos / "clip.mp4").write_bytes(b"0" * 100)
    (photos / ".hidden.png").write_bytes(encoded(image_of(700)))
    (photos / ".trash").mkdir()
    image_of(701).save(photos / ".trash" / "a.png")
    assert numbers(refresh()) == {"added": ROWS, "read": ROWS, "embedded": ROWS}
    assert f"1 file in {photos} was left out, by ending: 1 .mp4." in caplog.text


# ---------------------------------------------------------------------------------------------------- unreadable files


def test_unreadable_pictures_are_remembered_until_they_change(refresh, photos, opened, caplog):
    bad = {kind: data for kind, data in bad_files().items() if kind not in ("more than 8 bits", "image too small")}
    for number, data in enumerate(bad.values()):
        (photos / f"bad{number}.jpg").write_bytes(data)
    result = refresh(max_skipped_share=1)
    assert numbers(result) == {
        "added": ROWS,
        "read": ROWS + len(bad),
        "embedded": ROWS,
        "skipped": len(bad),
    }
    assert [row.kind for row in result.skipped] == list(bad)
    assert result.skipped[0].message == "bad0.jpg cannot be used: the file is empty."
    assert result.skipped[0].place == "picture (bad0.jpg)"
    assert f"{len(bad)} of {ROWS + len(bad)} pictures" in caplog.text
    opened.clear()
    again = refresh(max_skipped_share=1)
    assert opened == [] and again.skipped == result.skipped
    image_of(800).save(photos / "bad0.jpg", "PNG")
    (photos / "bad1.jpg").unlink()
    result = refresh(max_skipped_share=1)
    assert numbers(result) == {
        "added": 1,
        "unchanged": ROWS,
        "read": 1,
        "embedded": 1,
        "skipped": len(bad) - 2,
    }
    assert numbers(refresh(max_skipped_share=1)) == {"unchanged": ROWS + 1, "skipped": len(bad) - 2}


def test_other_limits_try_again(refresh, photos, encoder):
    image_of(0).resize((100, 100)).save(photos / "large.png")
    encoder.set_image_options(image_limits=ImageLimits(max_pixels=5000))
    assert [row.kind for row in refresh().skipped] == ["image too large"]
    encoder.set_image_options(image_limits=ImageLimits())
    assert numbers(refresh()) == {"added": 1, "unchanged": ROWS, "read": 1, "embedded": 1}


def test_a_damaged_list_of_unreadable_files_only_costs_a_try(refresh, photos):
    (photos / "bad.jpg").write_bytes(b"")
    index = refresh().index
    (index.folder / "unreadable.json").write_text('{"reader": 1')
    assert numbers(refresh()) == {"unchanged": ROWS, "read": 1, "skipped": 1}
    assert numbers(refresh()) == {"unchanged": ROWS, "skipped": 1}


def test_one_of_three_may_be_bad_and_all_may_not(refresh, photos):
    for name in NAMES[2:]:
        (photos / name).unlink()
    (photos / "bad.png").write_bytes(b"")
    assert numbers(refresh(max_skipped_share=0.05)) == {"added": 2, "read": 3, "embedded": 2, "skipped": 1}
    for name in NAMES[:2]:
        (photos / name).write_bytes(b"no picture")
    for _ in range(2):  # the second run remembers
        with pytest.raises(ValueError, match="No picture of .*photos can be read: .*cannot be used"):
            refresh()


def test_a_share_of_bad_pictures_is_an_error_and_what_was_read_stays(refresh, photos):
    for number in range(3):
        (photos / f"bad{number}.png").write_bytes(b"")
    for _ in range(2):  # the second run remembers
        with pytest.raises(ValueError, match=r"3 of 15 pictures \(20.00%\).*max_skipped_share"):
            refresh()
        assert len(EmbeddingIndex.open(f"{photos}.clip-index")) == ROWS
    refresh(max_skipped_share=0.2)


def test_a_picture_that_becomes_unreadable_loses_its_row(refresh, photos):
    refresh()
    (photos / "00.png").write_bytes((photos / "00.png").read_bytes()[:100])
    result = refresh()
    assert numbers(result) == {"removed": 1, "unchanged": ROWS - 1, "read": 1, "skipped": 1}
    assert "00.png" not in result.index.ids()


def test_copies_of_a_truncated_picture_are_all_left_out(refresh, photos):
    for name in ("bad1.png", "bad2.png"):
        (photos / name).write_bytes(encoded(image_of(0).resize((64, 64)))[:-300])
    result = refresh(max_skipped_share=0.5)
    assert numbers(result) == {"added": ROWS, "read": ROWS + 2, "embedded": ROWS, "skipped": 2}
    assert {row.name for row in result.skipped} == {"bad1.png", "bad2.png"}


def _while_reading(monkeypatch, name: str, act) -> None:
    """Do something to a file between two looks at its size and time."""
    fetch = folder_index.fetch_file

    def fetch_and_act(path, limits):
        data = fetch(path, limits)
        if path.name == name:
            act(path)
        return data

    monkeypatch.setattr(folder_index, "fetch_file", fetch_and_act)


@pytest.mark.parametrize(
    "act, kind", [(Path.unlink, "file missing"), (lambda path: path.write_bytes(b"half"), "file changed")]
)
def test_a_file_that_changes_while_it_is_read_is_left_to_the_next_run(refresh, photos, monkeypatch, act, kind):
    content = (photos / "00.png").read_bytes()
    with monkeypatch.context() as patch:
        _while_reading(patch, "00.png", act)
        result = refresh()
    assert numbers(result) == {"added": ROWS - 1, "read": ROWS, "embedded": ROWS - 1, "skipped": 1}
    assert result.skipped[0].kind == kind
    (photos / "00.png").write_bytes(content)
    assert numbers(refresh()) == {"added": 1, "unchanged": ROWS - 1, "read": 1, "embedded": 1}


# ----------------------------------------------------------------------------------------------- folders that are gone


def test_a_folder_that_is_gone_or_empty_never_empties_its_index(refresh, photos, tmp_path):
    before = rows_of(refresh().index)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="There is no folder .*photos.* drive is mounted"):
        refresh()
    photos.mkdir()
    with pytest.raises(OSError, match="holds no pictures, and its index .*clip-index has 12, which stay.*mounted"):
        refresh()
    assert rows_of(EmbeddingIndex.open(f"{photos}.clip-index")) == before
    photos.rmdir()
    (tmp_path / "elsewhere").rename(photos)
    assert numbers(refresh()) == {"unchanged": ROWS}


def test_a_folder_without_pictures_makes_no_index(encoder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures; their endings are"):
        refresh_folder_index(encoder, tmp_path / "empty", tmp_path / "index", encoding=quiet())
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("stays", [False, True], ids=["gone", "mount point"])
def test_a_folder_that_vanishes_in_the_middle(refresh, photos, monkeypatch, tmp_path, stays):
    before = rows_of(refresh().index)
    (photos / "02.png").unlink()  # would be removed
    image_of(900).save(photos / "new.png")

    def vanish(path):
        photos.rename(tmp_path / "elsewhere")
        if stays:
            photos.mkdir()

    with monkeypatch.context() as patch:
        _while_reading(patch, "new.png", vanish)
        with pytest.raises(FileNotFoundError, match="vanished while it was read"):
            refresh()
    assert rows_of(EmbeddingIndex.open(f"{photos}.clip-index")) == before


def test_a_subfolder_that_cannot_be_read_is_not_empty(refresh, photos, monkeypatch):
    before = rows_of(refresh().index)
    scandir = os.scandir

    def refuse(path="."):
        if str(path).endswith("photos/sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="the folder .*sub cannot be read, so its files are unknown"):
        refresh()
    monkeypatch.undo()
    assert rows_of(EmbeddingIndex.open(f"{photos}.clip-index")) == before


# ------------------------------------------------------------------------------------------------------- other indexes


def test_another_model_is_refused_and_built_anew_on_demand(refresh, encoder, photos, tiny_processor):
    before = rows_of(refresh().index)
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    index_folder = f"{photos}.clip-index"
    with pytest.raises(ValueError, match="is by .*: model .* is '.*' there and '.*' now. .*--index.*--rebuild"):
        refresh_folder_index(other, photos, index_folder, encoding=quiet())
    assert rows_of(EmbeddingIndex.open(index_folder)) == before
    result = rebuild_folder_index(other, photos, index_folder, encoding=quiet())
    assert numbers(result)["embedded"] == ROWS and result.index.folder == Path(index_folder)
    assert rows_of(EmbeddingIndex.open(index_folder)) != before
    assert [path.name for path in photos.parent.iterdir() if "clip-index" in path.name] == ["photos.clip-index"]


def test_other_image_options_are_refused(refresh, encoder):
    refresh()
    encoder.set_image_options(background_color="red")
    with pytest.raises(ValueError, match=r"background_color.* is as the image processor says there"):
        refresh()


def test_an_old_index_stays_until_the_new_one_is_whole(refresh, encoder, photos, monkeypatch):
    before = rows_of(refresh().index)
    monkeypatch.setattr(folder_work, "COMMIT_ROWS", 4)
    index_folder, taken = f"{photos}.clip-index", folder_index._FolderWork._take

    def fail(self, batch):
        if self.embedded == 8:
            raise KeyboardInterrupt
        taken(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(folder_index._FolderWork, "_take", fail)
        with pytest.raises(KeyboardInterrupt):
            rebuild_folder_index(encoder, photos, index_folder, encoding=quiet(batch_size=4))
    assert rows_of(EmbeddingIndex.open(index_folder)) == before
    result = rebuild_folder_index(encoder, photos, index_folder, encoding=quiet(batch_size=4))
    assert numbers(result) == {"added": 4, "unchanged": 8, "read": 4, "embedded": 4}  # it went on
    assert rows_of(EmbeddingIndex.open(index_folder)) == before


def test_what_a_killed_rebuild_of_another_model_left_is_not_used(refresh, encoder, photos, tiny_processor):
    refresh()
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    refresh_folder_index(other, photos, photos.parent / ".photos.clip-index.rebuild", encoding=quiet())
    result = rebuild_folder_index(encoder, photos, f"{photos}.clip-index", encoding=quiet())
    assert numbers(result)["embedded"] == ROWS


def test_the_index_of_another_folder_is_refused(refresh, encoder, photos):
    before = rows_of(refresh().index)
    shutil.copytree(photos, photos.parent / "others")
    with pytest.raises(ValueError, match=r"is the index of .*photos, not of .*others. .*--index.*--rebuild"):
        refresh_folder_index(encoder, photos.parent / "others", f"{photos}.clip-index", encoding=quiet())
    assert rows_of(EmbeddingIndex.open(f"{photos}.clip-index")) == before


def test_folder_and_index_may_be_moved_together(refresh, encoder, photos, tmp_path):
    refresh()
    (tmp_path / "moved").mkdir()
    photos.rename(tmp_path / "moved" / "pictures")
    Path(f"{photos}.clip-index").rename(tmp_path / "moved" / "pictures.clip-index")
    moved = tmp_path / "moved" / "pictures"
    result = refresh_folder_index(encoder, moved, f"{moved}.clip-index", encoding=quiet())
    assert numbers(result) == {"unchanged": ROWS}
    assert EmbeddingIndex.open(f"{moved}.clip-index").description["source"]["location"] == str(moved)


def test_an_index_among_the_pictures_must_be_hidden(encoder, photos):
    with pytest.raises(ValueError, match="would lie among the pictures of .*begins with a dot"):
        refresh_folder_index(encoder, photos, photos / "index", encoding=quiet())
    inside = refresh_folder_index(encoder, photos, photos / "all.clip-index", encoding=quiet())
    assert numbers(inside)["added"] == ROWS
    result = refresh_folder_index(encoder, photos, photos / ".index", encoding=quiet())
    assert numbers(result)["added"] == ROWS
    assert numbers(refresh_folder_index(encoder, photos, photos / ".index", encoding=quiet())) == {"unchanged": ROWS}


def test_a_folder_that_is_no_index_is_not_written_to(encoder, photos, tmp_path):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").write_text("dear")
    for build in (refresh_folder_index, rebuild_folder_index):
        with pytest.raises(ValueError, match="documents is no index, and not empty"):
            build(encoder, photos, tmp_path / "documents", encoding=quiet())
    assert [path.name for path in (tmp_path / "documents").iterdir()] == ["letter.txt"]


# ----------------------------------------------------------------------------------------------- processes and crashes


def test_a_second_process_waits_for_the_first(refresh, photos, caplog):
    results = []
    index_folder = Path(f"{photos}.clip-index")
    with locked_index(index_folder):
        thread = threading.Thread(target=lambda: results.append(refresh()))
        thread.start()
        while "Another process brings" not in caplog.text:
            assert thread.is_alive()
            time.sleep(0.01)
        assert not index_folder.exists() and not results
    thread.join()
    assert numbers(results[0])["added"] == ROWS
    assert not [path for path in photos.parent.iterdir() if path.name.endswith(".lock")]


@pytest.mark.parametrize("point", ["before a commit", "after a commit", "in a batch"])
@pytest.mark.parametrize("count", [1, 2])
def test_after_a_crash_the_next_run_goes_on_with_the_same_batches(refresh, encoder, photos, monkeypatch, point, count):
    for number in range(3):  # batches are divided as if these were not there
        shutil.copy(photos / "00.png", photos / f"{number}copy.png")
    monkeypatch.setattr(folder_work, "COMMIT_ROWS", 4)
    whole = refresh_folder_index(encoder, photos, photos.parent / "whole", encoding=quiet(batch_size=4)).index
    change, encode, calls = EmbeddingIndex.change, type(encoder)._encode_prepared, []

    def crash(run, *arguments, **options):
        calls.append(1)
        if len(calls) == count and point != "after a commit":
            raise KeyboardInterrupt
        result = run(*arguments, **options)
        if len(calls) == count:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        if point == "in a batch":
            patch.setattr(type(encoder), "_encode_prepared", lambda *args: crash(encode, *args))
        else:
            patch.setattr(EmbeddingIndex, "change", lambda *args, **options: crash(change, *args, **options))
        with pytest.raises(KeyboardInterrupt):
            refresh()
    there = rows_of(EmbeddingIndex.open(f"{photos}.clip-index"))
    assert there.items() <= rows_of(whole).items()
    assert len(there) >= 4 * (count - (point != "after a commit"))
    result = refresh()
    assert result.unchanged == len(there) and rows_of(result.index) == rows_of(whole)


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on():
    """`benchmarks/check_search.py` for 20,000 files takes minutes."""
    command = [sys.executable, str(ROOT / "benchmarks" / "check_search.py"), "--files", "300", "--kills", "3"]
    run = subprocess.run([*command, "--commit", "32"], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
