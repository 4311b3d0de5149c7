# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of films: frames that show something new, the intervals they stand for, and what changes bring."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_hf import ClipHFVideoModel
from clip_hf.embedding import load_dual_encoder
from clip_hf.embedding.film_frames import plan_frames
from clip_hf.model.video_reading_clip_hf import describe_video, read_frames
from clip_hf.search import EmbeddingIndex, FilmFrame, film_index, folder_work, open_source_index, refresh_film_index
from clip_hf.search.index_places import OtherIndexError, locked_index
from drawings import COLOURS, PATTERNS, draw
from encoding_inputs import quiet
from films import add_sound, write_film
from tiny_models import make_tiny_model


RATE = 5
SCENES = [("red", "square", 3), ("green", "bar", 2), ("blue", "cross", 4)]  # seconds


def scene_frames(scenes) -> list[np.ndarray]:
    """Frames of drawings that are held for whole seconds, on a canvas of 64x64."""
    return [
        np.asarray(draw(colour, pattern).resize((64, 64)))
        for colour, pattern, seconds in scenes
        for _ in range(seconds * RATE)
    ]


def write_scenes(path: Path, scenes) -> Path:
    return write_film(path, scene_frames(scenes), rate=RATE)


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    """Files that were just written count like old ones; a tiny model gives all pictures about the same embedding."""
    monkeypatch.setattr(folder_work, "TIME_STEP", -1)
    monkeypatch.setattr(film_index, "SAME_COSINE", 0.9999)


@pytest.fixture
def films(tmp_path) -> Path:
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    write_scenes(folder / "a.mp4", SCENES)
    write_scenes(folder / "sub" / "b.mkv", SCENES[::-1])
    return folder


@pytest.fixture
def refresh(encoder, films):
    def run(source=films, max_skipped_share=0.05, **options):
        encoder.counted.clear()
        encoding = quiet(batch_size=4, max_skipped_share=max_skipped_share)
        result = refresh_film_index(encoder, source, f"{source}.moments.clip-index", encoding=encoding, **options)
        assert result.embedded == sum(encoder.counted)
        return result

    return run


def numbers(result) -> dict[str, int]:
    """The counts that are not 0."""
    names = ("films", "added", "renamed", "edited", "removed", "unchanged", "read", "embedded")
    found = {name: getattr(result, name) for name in names} | {"skipped": len(result.skipped)}
    return {name: count for name, count in found.items() if count}


def intervals(index: EmbeddingIndex, name: str) -> list[tuple[float, float, float]]:
    rows = [row for row in index.metadata().to_pylist() if row["name"] == name]
    return [(row["start"], row["end"], row["time"]) for row in rows]


def content(index: EmbeddingIndex) -> dict[str, tuple]:
    """All that decides a search, by id."""
    ids = index.ids().tolist()
    rows = index.metadata().select(["name", "start", "end", "time", "is_last", "digest"]).to_pylist()
    return dict(zip(ids, zip(map(np.ndarray.tobytes, index.vectors(ids)), map(str, rows), strict=True), strict=True))


def touch(path: Path) -> None:
    os.utime(path, (time.time() + 100, time.time() + 100))


# ---------------------------------------------------------------------------------------------------------- intervals


def test_a_scene_that_is_held_is_one_row_with_its_interval(refresh, films):
    result = refresh()
    assert numbers(result) == {"films": 2, "added": 2, "read": 2, "embedded": 6}
    assert result.sampled == 18  # seconds
    # Looked at each second, a scene is known to begin between two looks: half-way.
    assert intervals(result.index, "a.mp4") == [(0.0, 2.5, 0.0), (2.5, 4.5, 3.0), (4.5, 9.0, 5.0)]
    assert result.index.ids().tolist()[:3] == ["a.mp4#0", "a.mp4#1", "a.mp4#2"]
    assert result.describe().startswith(f"6 frames of 2 films of {films} (2 added; ")


def test_the_rate_decides_how_close_intervals_are(refresh, encoder):
    result = refresh(frames_per_second=RATE)
    assert intervals(result.index, "a.mp4") == [
        (0.0, pytest.approx(2.9), 0.0),
        (pytest.approx(2.9), pytest.approx(4.9), 3.0),
        (pytest.approx(4.9), 9.0, 5.0),
    ]
    assert numbers(refresh())["unchanged"] == 2  # at the rate of the index
    with pytest.raises(OtherIndexError, match="frames_per_second.*--rebuild"):
        refresh(frames_per_second=1)
    assert len(refresh(frames_per_second=0.5, rebuild=True).index) == len(refresh().index)


def test_vectors_are_those_of_the_frames(refresh, encoder, films):
    index = refresh().index
    row = index.metadata(["a.mp4#1"]).to_pylist()[0]
    (_, frame), *_ = read_frames(films / "a.mp4", times=[row["time"]])
    expected = encoder.encode_images([frame]).numpy()[0]
    assert index.vectors(["a.mp4#1"])[0] @ expected > 0.9999


def test_what_the_model_cannot_tell_apart_is_one_row(refresh, films, monkeypatch):
    monkeypatch.setattr(film_index, "SAME_COSINE", -1.0)
    result = refresh()
    assert result.embedded == 6 and intervals(result.index, "a.mp4") == [(0.0, 9.0, 0.0)]


def test_without_the_pixel_test_the_rows_are_the_same_and_the_work_is_not(refresh, films, monkeypatch):
    rows = content(refresh().index)
    monkeypatch.setattr(film_index, "SAME_PIXELS", -1.0)
    result = refresh(rebuild=True)
    assert result.embedded == 18 and content(result.index).keys() == rows.keys()
    assert intervals(result.index, "a.mp4") == [(0.0, 2.5, 0.0), (2.5, 4.5, 3.0), (4.5, 9.0, 5.0)]


def test_one_film_is_a_source(refresh, films):
    result = refresh(films / "a.mp4")
    assert result.index.ids().tolist() == ["a.mp4#0", "a.mp4#1", "a.mp4#2"]
    assert numbers(refresh(films / "a.mp4")) == {"films": 1, "unchanged": 1}


def test_a_film_of_one_frame(refresh, tmp_path):
    film = write_film(tmp_path / "one.mp4", scene_frames(SCENES)[:1], rate=RATE)
    ((start, end, shown),) = intervals(refresh(film).index, "one.mp4")
    assert start == shown == 0 and 0 <= end <= 0.2


def test_a_film_ends_with_its_pictures_and_not_with_its_sound(refresh, films, tmp_path):
    film = add_sound(films / "a.mp4", tmp_path / "long.mp4", seconds=40)
    assert describe_video(film).duration > 39
    assert intervals(refresh(film).index, "long.mp4") == intervals(refresh(films / "a.mp4").index, "a.mp4")
    (plan,) = plan_frames([str(film)], 1.0)  # of an evaluation
    assert plan.end == 9


# ------------------------------------------------------------------------------------------------------- what changes


def test_nothing_that_is_known_is_opened(refresh, films, monkeypatch):
    refresh()
    monkeypatch.setattr(film_index, "digest_file", lambda path: pytest.fail(f"{path} was read"))
    assert numbers(refresh()) == {"films": 2, "unchanged": 2}


def test_renamed_copied_and_touched_films_are_not_embedded(refresh, films):
    before = content(refresh().index)
    (films / "a.mp4").rename(films / "z.mp4")
    shutil.copy(films / "sub" / "b.mkv", films / "copy.mkv")
    touch(films / "sub" / "b.mkv")
    result = refresh()
    assert numbers(result) == {"films": 3, "renamed": 2, "unchanged": 1, "read": 3}
    after = content(result.index)
    assert [after[f"z.mp4#{row}"][0] for row in range(3)] == [before[f"a.mp4#{row}"][0] for row in range(3)]
    assert [after[f"copy.mkv#{row}"][0] for row in range(3)] == [before[f"sub/b.mkv#{row}"][0] for row in range(3)]
    assert intervals(result.index, "z.mp4") == [(0.0, 2.5, 0.0), (2.5, 4.5, 3.0), (4.5, 9.0, 5.0)]
    assert numbers(refresh()) == {"films": 3, "unchanged": 3}


def test_films_that_exchanged_their_names(refresh, films, monkeypatch):
    write_scenes(films / "b.mp4", SCENES[::-1])
    before = content(refresh().index)
    (films / "a.mp4").rename(films / "x")
    (films / "b.mp4").rename(films / "a.mp4")
    (films / "x").rename(films / "b.mp4")
    result = refresh()
    assert numbers(result) == {"films": 3, "edited": 2, "unchanged": 1, "read": 2}
    after = content(result.index)
    for one, other in (("a", "b"), ("b", "a")):
        assert [after[f"{one}.mp4#{n}"][0] for n in range(3)] == [before[f"{other}.mp4#{n}"][0] for n in range(3)]


def test_edited_and_removed(refresh, films):
    refresh()
    write_scenes(films / "a.mp4", SCENES[:1])
    (films / "sub" / "b.mkv").unlink()
    result = refresh()
    assert numbers(result) == {"films": 1, "edited": 1, "removed": 1, "read": 1, "embedded": 1}
    assert result.index.ids().tolist() == ["a.mp4#0"] and intervals(result.index, "a.mp4") == [(0.0, 3.0, 0.0)]


def test_the_same_film_twice_among_new_ones_is_embedded_once(refresh, films):
    shutil.copy(films / "a.mp4", films / "b.mp4")
    result = refresh()
    assert numbers(result) == {"films": 3, "added": 3, "read": 3, "embedded": 6}


def test_unreadable_films_are_remembered_until_they_change(refresh, films, monkeypatch, caplog):
    for name in ("bad.mp4", "bad2.mp4"):
        (films / name).write_bytes(b"no film at all")
    (films / "zero.mp4").write_bytes(b"")
    assert numbers(refresh(max_skipped_share=0.6)) == {"films": 2, "added": 2, "read": 5, "embedded": 6, "skipped": 3}
    assert "bad.mp4 cannot be used: this is not" in caplog.text  # the path is not repeated
    assert "3 of 5 films (60.00%) were skipped" in caplog.text
    with pytest.raises(ValueError, match=r"3 of 5 films \(60.00%\) were skipped.*--max-skipped-share"):
        refresh()
    with monkeypatch.context() as patch:
        patch.setattr(film_index, "digest_file", lambda path: pytest.fail(f"{path} was read"))
        assert numbers(refresh(max_skipped_share=0.6)) == {"films": 2, "unchanged": 2, "skipped": 3}
    write_scenes(films / "bad.mp4", SCENES[:2])
    assert numbers(refresh(max_skipped_share=0.6)) == {
        "films": 3,
        "added": 1,
        "unchanged": 2,
        "read": 1,
        "embedded": 2,
        "skipped": 2,
    }


def test_a_film_that_becomes_unreadable_loses_its_rows(refresh, films):
    refresh()
    (films / "a.mp4").write_bytes((films / "a.mp4").read_bytes()[:300])
    assert numbers(refresh()) == {"films": 1, "removed": 1, "unchanged": 1, "read": 1, "skipped": 1}


def test_a_film_that_changes_while_it_is_read_is_left_to_the_next_run(refresh, films, monkeypatch):
    read = film_index.read_frames

    def read_and_touch(path, **options):
        yield from read(path, **options)
        if path.name == "a.mp4":
            touch(path)

    with monkeypatch.context() as patch:
        patch.setattr(film_index, "read_frames", read_and_touch)
        result = refresh()
    assert numbers(result) == {"films": 1, "added": 1, "read": 2, "embedded": 6, "skipped": 1}
    assert result.skipped[0].kind == "file changed" and "a.mp4" in result.skipped[0].message
    assert numbers(refresh()) == {"films": 2, "added": 1, "unchanged": 1, "read": 1, "embedded": 3}


def test_frames_without_numbers_leave_a_film_out(refresh, films, encoder, monkeypatch):
    image_features = encoder._image_features
    seen = []

    def broken(inputs, projected):
        features = image_features(inputs, projected).clone()
        seen.append(len(features))
        if len(seen) == 2:
            features[-1] = np.nan
        return features

    monkeypatch.setattr(encoder, "_image_features", broken)
    result = refresh()
    assert [row.kind for row in result.skipped] == ["no numbers"] and result.films == 1


# -------------------------------------------------------------------------------------------------- crashes and others


@pytest.mark.slow_but_for("1", "4")
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_after_a_crash_the_next_run_goes_on_within_the_film(refresh, encoder, tmp_path, monkeypatch, count):
    """A commit for each batch of four frames; the model dies at batch `count`."""
    scenes = [(colour, pattern, 2) for colour in COLOURS for pattern in PATTERNS][:14]
    monkeypatch.setattr(film_index, "SAME_PIXELS", 25.0)  # such small films flicker
    folder = tmp_path / "long"
    folder.mkdir()
    write_scenes(folder / "long.mp4", scenes)
    expected = content(refresh(folder).index)
    assert len(expected) == 14
    shutil.rmtree(f"{folder}.moments.clip-index")
    monkeypatch.setattr(folder_work, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(film_index._FilmWork, "_keep_what_is_ready", lambda self: None)  # as a killed process
    encode, calls = type(encoder)._encode_prepared, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return encode(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(encoder), "_encode_prepared", dying)
        with pytest.raises(KeyboardInterrupt):
            refresh(folder)
    there = len(EmbeddingIndex.open(f"{folder}.moments.clip-index"))
    assert there == max(0, 4 * (count - 1) - 1)  # the last row has no end yet
    result = refresh(folder)
    assert result.embedded == 14 - there
    after = content(result.index)
    assert {id_: rest for id_, (_, rest) in after.items()} == {id_: rest for id_, (_, rest) in expected.items()}
    vectors = [np.stack([np.frombuffer(each[id_][0], "f4") for id_ in expected]) for each in (after, expected)]
    np.testing.assert_allclose(*vectors, atol=2e-3)  # the batches differ
    assert numbers(refresh(folder)) == {"films": 1, "unchanged": 1}


def test_ctrl_c_keeps_what_is_ready(refresh, encoder, films, monkeypatch, caplog):
    encode, calls = type(encoder)._encode_prepared, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(encoder), "_encode_prepared", dying)
        with pytest.raises(KeyboardInterrupt):
            refresh()
    assert "Stopped. 3 new frames" in caplog.text
    assert numbers(refresh()) == {"films": 2, "added": 1, "unchanged": 1, "read": 1, "embedded": 3}


def test_a_second_process_waits_for_the_first(refresh, films, caplog):
    refresh()
    done = []
    with locked_index(Path(f"{films}.moments.clip-index")):
        other = threading.Thread(target=lambda: done.append(refresh()))
        other.start()
        deadline = time.monotonic() + 10
        while "waiting for it" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "waiting for it" in caplog.text and not done
    other.join(20)
    assert numbers(done[0]) == {"films": 2, "unchanged": 2}


def test_another_model_is_refused(refresh, films, tiny_processor):
    refresh()
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    with pytest.raises(OtherIndexError, match="--rebuild"):
        refresh_film_index(other, films, f"{films}.moments.clip-index", encoding=quiet())


def test_a_folder_without_films_or_that_is_gone(encoder, refresh, films, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no films; their endings are .*mp4"):
        refresh_film_index(encoder, tmp_path / "empty", tmp_path / "index", encoding=quiet())
    refresh()
    films.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="There is no folder .*films"):
        refresh()
    with pytest.raises(ValueError, match="frames_per_second.*is 0; it must be more than 0"):
        refresh(frames_per_second=0)


# ------------------------------------------------------------------------------------------------------------- sources


def test_the_index_is_a_source_itself_and_gives_frames(encoder, films):
    source = open_source_index(films, encoder, over="moments", encoding=quiet())
    assert source.index.folder == Path(f"{films}.moments.clip-index") and source.folder == films
    again = open_source_index(source.index.folder, encoder, over="moments")
    frame = again.picture("sub/b.mkv#1")
    assert frame == FilmFrame(films / "sub" / "b.mkv", 4.0)
    (_, expected), *_ = read_frames(films / "sub" / "b.mkv", times=[4.1])
    assert np.array_equal(np.asarray(frame.image()), np.asarray(expected))
    assert encoder.encode_images([frame]).shape == (1, encoder.projection_dim)  # as `open_image` takes it
    with pytest.raises(OtherIndexError, match="frames_per_second"):
        open_source_index(source.index.folder, encoder, over="moments", frames_per_second=3)
    with pytest.raises(OtherIndexError, match="over"):
        open_source_index(source.index.folder, encoder, over="images")
    (films / "sub" / "b.mkv").unlink()
    assert again.picture("sub/b.mkv#1") is None


def test_pictures_and_films_of_a_folder_have_an_index_each(encoder, films):
    draw("red", "square").save(films / "picture.png")
    pictures = open_source_index(films, encoder, encoding=quiet())
    moments = open_source_index(films, encoder, over="moments", encoding=quiet())
    assert pictures.index.ids().tolist() == ["picture.png"] and len(moments.index) == 6
    assert pictures.index.folder != moments.index.folder
    with pytest.raises(ValueError, match="frames_per_second"):
        open_source_index(films, encoder, frames_per_second=2)


def test_frames_of_an_index_are_pictures_to_a_video_model(films, tiny_processor, tmp_path):
    model = ClipHFVideoModel.from_clip(make_tiny_model("vit"), "LSTM", num_frames=4)
    with torch.no_grad():
        for weight in model.temporal_parameters():
            weight.normal_(std=0.2)
    encoder = load_dual_encoder(model, processor=tiny_processor)
    source = open_source_index(films / "a.mp4", encoder, over="moments", index_folder=tmp_path / "index")
    id_, *_ = source.index.ids().tolist()
    (_, frame), *_ = read_frames(films / "a.mp4", fps=1)
    right = encoder.of_pictures.encode_images([frame]).numpy()
    np.testing.assert_allclose(source.index.vectors([id_]), right, atol=2e-3)
    assert "num_frames" not in source.index.description["image_options"]
    assert open_source_index(tmp_path / "index", encoder, over="moments").index.ids().tolist()


def test_a_full_disk_names_the_index(films, encoder, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EmbeddingIndex, "change", fail)
    with pytest.raises(OSError, match="No space left on device: the index .*my_index cannot be written"):
        refresh_film_index(encoder, films, tmp_path / "my_index", encoding=quiet())


def test_a_film_that_changes_is_not_remembered(films, refresh, monkeypatch):
    (films / "sub" / "b.mkv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(film_index, "film_end", lambda *_, **__: pytest.fail("the film has changed"))
        digest = film_index.digest_file
        patch.setattr(film_index, "digest_file", lambda path: (os.utime(path, (1, 1)), digest(path))[1])
        with pytest.raises(ValueError, match=r"changed while it was read; .* Run this again\."):
            refresh()
    assert numbers(refresh())["added"] == 1


def test_another_rate_is_told_from_another_model(films, refresh, encoder):
    refresh()
    with pytest.raises(OtherIndexError, match=r"is by this model, but with other options: options frames_per_second"):
        refresh(frames_per_second=2.0)
