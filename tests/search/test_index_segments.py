# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files of an index: what killed writers, other processes and damage do to them."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clip_hf.search import EmbeddingIndex, embedding_index
from clip_hf.search.index_segments import IndexManifest, schema_text


VECTORS = np.random.default_rng(0).normal(size=(30, 4))
CHANGES = {
    "add": lambda index: index.add(VECTORS[20:25]),
    "remove": lambda index: index.remove([3, 4, 17]),
    "change": lambda index: index.change(add=(VECTORS[5:8], [5, 50, 51], None), remove=[5, 6, *range(10, 19)]),
    "compact": lambda index: index.compact(),
    "merge": lambda index: index.add(VECTORS[20:21]),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """An index of two segments, with removed rows."""
    index = EmbeddingIndex.build(tmp_path / "index", VECTORS[:10])
    index.add(VECTORS[10:20])
    index.remove([0, 19])
    return index.folder


def content(folder: Path) -> tuple:
    index = EmbeddingIndex.open(folder)
    ids = index.ids()
    return ids.tolist(), index.vectors(ids).tolist(), index.search(VECTORS[:2], 5)[1].tolist()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"write.lock"}


def named_files(folder: Path) -> set[str]:
    """The files that the manifest names, and itself."""
    names = {"index.json"}
    for record in IndexManifest.read(folder).segments:
        inside = [*record.files, *([record.removed_file] if record.removed_file else [])]
        names |= {f"segments/{record.number}/{name}" for name in inside}
    return names


def run_and_die_at(step: int, work: Callable[[], None]) -> bool:
    """Run in a child that dies, as if killed, before its `step`-th call that flushes, renames or deletes files.

    Returns:
        Whether it lived to the end, because there are fewer calls.
    """
    child = os.fork()
    if not child:
        calls = iter(range(10**6))

        def dying(function: Callable) -> Callable:
            def call(*args, **kwargs):
                if next(calls) == step:
                    os._exit(9)
                return function(*args, **kwargs)

            return call

        for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


@pytest.mark.slow_but_for("add", "change")
@pytest.mark.parametrize("name", CHANGES)
def test_a_writer_that_dies_leaves_the_index_before_or_after_the_commit(tmp_path, folder, name, monkeypatch):
    if name == "merge":
        monkeypatch.setattr(embedding_index, "_MOST_SEGMENTS", 2)
    change = CHANGES[name]
    before = content(folder)
    shutil.copytree(folder, tmp_path / "changed")
    change(EmbeddingIndex.open(tmp_path / "changed"))
    after, ends = content(tmp_path / "changed"), []
    for step in range(1000):
        trial = tmp_path / f"trial-{step}"
        shutil.copytree(folder, trial)
        lived = run_and_die_at(step, lambda trial=trial: change(EmbeddingIndex.open(trial)))
        ends.append(content(trial))
        assert ends[-1] in (before, after)
        index = EmbeddingIndex.open(trial)
        index.change(description={"next": True})  # the next writer
        assert files(trial) == named_files(trial)
        if ends[-1] == before and name != "compact":
            change(index)
            assert content(trial) == after
        shutil.rmtree(trial)
        if lived:
            break
    assert ends[0] == before
    assert ends[-1] == after
    assert step > 5


@pytest.mark.slow
def test_a_build_that_dies_leaves_no_index(tmp_path):
    for step in range(1000):
        lived = run_and_die_at(step, lambda: EmbeddingIndex.build(tmp_path / "index", VECTORS))
        if lived:
            break
        if (tmp_path / "index").exists():
            assert len(EmbeddingIndex.open(tmp_path / "index")) == 30
            shutil.rmtree(tmp_path / "index")
        else:
            assert EmbeddingIndex.build(tmp_path / "index", VECTORS).ids().tolist() == list(range(30))
            assert [path.name for path in tmp_path.iterdir()] == ["index"]
            shutil.rmtree(tmp_path / "index")
    assert step > 5


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_moment_loses_at_most_one_commit(folder):
    chance = random.Random(0)
    for _ in range(8):
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            index = EmbeddingIndex.open(folder)
            for number in range(10**6):
                index.change(add=(VECTORS[:3], None, None), remove=index.ids()[-1:])
                if number % 3 == 2:
                    index.compact()
                os.write(tell, b"%d " % index.generation)
        time.sleep(chance.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(tell)
        with os.fdopen(told) as said:
            committed = [int(generation) for generation in said.read().split()]
        index = EmbeddingIndex.open(folder)
        if committed:
            assert index.generation - committed[-1] in (0, 1, 2)
        ids = index.ids()
        assert len(set(ids.tolist())) == len(index)
        assert np.isfinite(index.vectors(ids)).all()
        index.add(VECTORS[:1])
        assert files(folder) == named_files(folder)


def test_writers_wait_for_each_other(folder):
    def write(first: int) -> None:
        index = EmbeddingIndex.open(folder)
        for number in range(5):
            index.change(add=(VECTORS[:1], [first + number], None), remove=None if number else [first // 100])

    threads = [threading.Thread(target=write, args=(first,)) for first in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = EmbeddingIndex.open(folder).ids().tolist()
    assert sorted(ids) == sorted([*range(4, 19), *range(100, 105), *range(200, 205), *range(300, 305)])
    assert EmbeddingIndex.open(folder).generation == 3 + 15


def test_an_open_index_stays_as_it_is_while_others_write(folder):
    reader, before = EmbeddingIndex.open(folder), content(folder)
    writer = EmbeddingIndex.open(folder)
    writer.remove([5])
    writer.compact()
    assert reader.ids().tolist() == before[0]
    assert reader.search(VECTORS[:2], 5)[1].tolist() == before[2]
    assert reader.vectors([5]).tolist() == [before[1][before[0].index(5)]]
    reader.add(VECTORS[:1], [99])  # a writer reads what others have committed
    assert reader.ids().tolist() == [number for number in before[0] if number != 5] + [99]


def test_a_reader_between_manifest_and_files_reads_again(folder, monkeypatch):
    read, times = IndexManifest.read.__func__, []

    def slow_read(cls, of):
        manifest = read(cls, of)
        times.append(manifest.generation)
        if len(times) == 1:
            EmbeddingIndex(of).compact()
        return manifest

    monkeypatch.setattr(IndexManifest, "read", classmethod(slow_read))
    index = EmbeddingIndex.open(folder)
    assert index.generation == times[0] + 1
    assert index.ids().tolist() == list(range(1, 19))


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["rows.bin", "codes.bin", "bounds.bin", "table.arrow", "removed-3.npy"])
@pytest.mark.parametrize("fault", ["missing", "short", "empty"])
def test_a_damaged_file_is_named(folder, name, fault):
    path = folder / "segments" / "0" / name
    data = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if fault == "short" else b"")
    with pytest.raises(ValueError, match="Build the index again") as caught:
        EmbeddingIndex.open(folder)
    assert str(folder / "segments" / "0") in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.update(format="another"),
        lambda manifest: manifest.update(version=2),
        lambda manifest: manifest.pop("dim"),
        lambda manifest: manifest.update(dim="4"),
        lambda manifest: manifest.update(more=1),
        lambda manifest: manifest.update(dtype="int8"),
        lambda manifest: manifest.update(columns="AAAA"),
        lambda manifest: manifest.update(segments=3),
        lambda manifest: manifest["segments"][0].update(rows=11),
        lambda manifest: manifest["segments"][0].update(rows="10"),
        lambda manifest: manifest["segments"][0].update(files=["rows.bin"]),
        lambda manifest: manifest["segments"][0].update(removed=2),
        lambda manifest: manifest["segments"][0].update(number="../0"),
        lambda manifest: manifest.update(version=True),
        lambda manifest: manifest.update(dim=True),
        lambda manifest: manifest.update(dim=-4),
        lambda manifest: manifest.update(dim=2**70),
        lambda manifest: manifest.update(generation=-1),
        lambda manifest: manifest.update(next_segment=0),
        lambda manifest: manifest.update(next_id=-1),
        lambda manifest: manifest.update(identity="x"),
        lambda manifest: manifest.update(segments={}),
        lambda manifest: manifest.update(segments=manifest["segments"][:1] * 2),
        lambda manifest: manifest.update(id_type="str"),
        lambda manifest: manifest.update(columns=schema_text(pa.schema({"more": pa.int64()}))),
        lambda manifest: manifest["segments"][0].update(rows=-1),
        lambda manifest: manifest["segments"][0].update(rows=2**62),
        lambda manifest: manifest["segments"][0].update(number=-1),
        lambda manifest: manifest["segments"][0].update(files={}),
        lambda manifest: manifest["segments"][0]["files"].update({"../../x": 1}),
        lambda manifest: manifest["segments"][0]["files"].update({"table.arrow": None}),
        lambda manifest: manifest["segments"][0]["digests"].update({"rows.bin": 5}),
        lambda manifest: manifest["segments"][0]["digests"].pop("codes.bin"),
        lambda manifest: manifest["segments"][0].update(removed=-1),
        lambda manifest: manifest["segments"][0].update(removed=0),
        lambda manifest: manifest["segments"][0].update(removed_file=None),
        lambda manifest: manifest["segments"][0].update(removed_file="../removed-3.npy"),
        lambda manifest: manifest["segments"][0].update(removed_file="."),
    ],
)
def test_a_damaged_manifest_is_refused(folder, edit):
    manifest = json.loads((folder / "index.json").read_text())
    edit(manifest)
    (folder / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="Build the index again"):
        EmbeddingIndex.open(folder)


def test_a_manifest_that_is_no_json_is_refused(folder):
    (folder / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is no JSON file"):
        EmbeddingIndex.open(folder)


@pytest.mark.parametrize(
    "places", [[10], [-1], [0.0], [[0]], [True], ["0"], [0, 1], np.array([0], ">i8"), np.array([object()])]
)
def test_damaged_places_of_removed_rows_are_refused(folder, places):
    np.save(folder / "segments" / "0" / "removed-3.npy", places, allow_pickle=True)
    with pytest.raises(ValueError, match="Build the index again"):
        EmbeddingIndex.open(folder)


@pytest.mark.parametrize("places", [[3, 1], [2, 2]])
def test_places_of_removed_rows_are_in_order(folder, places):
    EmbeddingIndex.open(folder).remove([1])
    (path,) = (folder / "segments" / "0").glob("removed-*.npy")
    np.save(path, places)
    with pytest.raises(ValueError, match="not in order"):
        EmbeddingIndex.open(folder)


def test_a_pipe_is_not_waited_for(folder):
    path = folder / "segments" / "0" / "removed-3.npy"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="it is no file"):
        EmbeddingIndex.open(folder)


@pytest.mark.parametrize("name", ["rows.bin", "codes.bin", "bounds.bin", "table.arrow", "removed-3.npy"])
def test_a_check_reads_every_byte(folder, name):
    path = folder / "segments" / "0" / name
    index = EmbeddingIndex.open(folder)
    index.check()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is damaged: its digest"):
        index.check()


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
@pytest.mark.parametrize("place", [0, 1])  # scale and error of the first row
def test_a_bound_that_cannot_be_right_is_told(tmp_path, place, value):
    index = EmbeddingIndex.build(tmp_path / "index", VECTORS)
    path = index.folder / "segments" / "0" / "bounds.bin"
    bounds = np.fromfile(path, "<f4")
    bounds[place] = value
    bounds.tofile(path)
    damaged = EmbeddingIndex.open(index.folder)
    with pytest.raises(ValueError, match="damaged: a bound is out of range"):
        damaged.search(VECTORS[:1], 5)


def test_rows_without_scores_are_told(tmp_path):
    index = EmbeddingIndex.build(tmp_path / "index", VECTORS)
    (index.folder / "segments" / "0" / "rows.bin").write_bytes(bytes(30 * 4 * 2))
    damaged = EmbeddingIndex.open(index.folder)
    with pytest.raises(ValueError, match="damaged: fewer rows are found"), np.errstate(all="ignore"):
        damaged.search(VECTORS[:2], 5)


# ----------------------------------------------------------------------------------------------- what is not ours


def test_only_what_a_writer_wrote_is_deleted(tmp_path, folder):
    mine = tmp_path / "mine"
    (mine / "7").mkdir(parents=True)
    (mine / "removed-9.npy").write_text("a note")
    segments = folder / "segments"
    (segments / "8").symlink_to(mine)
    (segments / "notes").mkdir()
    (segments / "9").write_text("a file")
    (segments / "0" / "notes.txt").write_text("a note")
    (segments / "12").mkdir()
    (segments / ".13.0123abcd-1-0123456789ab.tmp").mkdir()
    (segments / "0" / "removed-1.npy").write_text("left")
    EmbeddingIndex.open(folder).change(description={"next": True})
    assert sorted(path.name for path in segments.iterdir()) == ["0", "1", "8", "9", "notes"]
    assert (mine / "7").is_dir() and (mine / "removed-9.npy").exists()
    assert (segments / "0" / "notes.txt").exists() and not (segments / "0" / "removed-1.npy").exists()


def test_segments_behind_a_link_are_not_written(tmp_path, folder):
    (folder / "segments").rename(tmp_path / "elsewhere")
    (folder / "segments").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "2020").mkdir()
    index = EmbeddingIndex.open(folder)
    with pytest.raises(ValueError, match="is a link; nothing is written"):
        index.remove([5])
    assert (tmp_path / "elsewhere" / "2020").is_dir()


def test_a_folder_of_segments_that_a_copy_left_out_is_made(tmp_path):
    index = EmbeddingIndex.create(tmp_path / "index", 4)
    (index.folder / "segments").rmdir()
    index.add(VECTORS)
    assert len(EmbeddingIndex.open(index.folder)) == 30
