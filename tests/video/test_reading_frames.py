# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frames of films by time: every frame of these says its own number."""

import itertools
import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf.model import video_reading_clip_hf as reading
from clip_hf.model.video_opening_clip_hf import open_film
from clip_hf.video import (
    ClipSampling,
    UnreadableVideo,
    VideoLimits,
    describe_video,
    frame_times,
    read_clip,
    read_frames,
)
from films import joined_stream, numbered_frames, read_number, write_film


COUNT = 120
KINDS = {
    "mpeg4.avi": ("mpeg4", {}),
    "h264.avi": ("libx264", {"bf": "2", "g": "20"}),
    "h264.mp4": ("libx264", {"bf": "3", "g": "20"}),
    "open_gop.mkv": ("libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=20:scenecut=0"}),
    "open_gop.ts": ("libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=20:scenecut=0"}),
    "refresh.ts": ("libx264", {"bf": "2", "x264-params": "intra-refresh=1:keyint=20"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "12", "sc_threshold": "1000000000"}),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    frames = numbered_frames(COUNT)
    return {name: write_film(folder / name, frames, codec=c, options=o) for name, (c, o) in KINDS.items()}


@pytest.fixture(params=KINDS)
def film(request, films):
    return films[request.param]


@pytest.fixture
def eager(monkeypatch):
    """Jumps wherever it can, and counts the jumps."""
    jumps = []
    monkeypatch.setattr(reading, "_FRAMES_A_JUMP_COSTS", 0)
    jump = reading._Reader._jump
    monkeypatch.setattr(reading._Reader, "_jump", lambda self, time: (jumps.append(time), jump(self, time))[1])
    return jumps


def test_all_frames_come_once_in_order(film):
    times, images = zip(*read_frames(film), strict=True)
    assert [read_number(image) for image in images] == list(range(COUNT))
    assert np.array_equal(times, frame_times(film))
    assert np.allclose(np.diff(times), 0.04, atol=0.0011)
    assert {image.mode for image in images} == {"RGB"}


def test_jumping_gives_the_same_frames_as_decoding_all(film, eager):
    frames = {time: image.tobytes() for time, image in read_frames(film)}
    draw = random.Random(0)
    asked = [draw.uniform(0, max(frames)) for _ in range(30)]
    for time, (shown, image) in zip(asked, read_frames(film, times=asked), strict=True):
        assert shown == max((other for other in frames if other <= time), default=min(frames))
        assert image.tobytes() == frames[shown]
    assert len(eager) > 5 or film.name in ("mpeg2.mpg", "h264.avi")
    assert all(image.tobytes() == frames[time] for time, image in read_frames(film, key_frames=True))


def test_key_frames_are_those_of_the_stream(films):
    assert [read_number(i) for _, i in read_frames(films["open_gop.mkv"], key_frames=True)] == list(
        range(0, COUNT, 20)
    )
    assert [read_number(i) for _, i in read_frames(films["mpeg2.mpg"], key_frames=True)][:3] == [0, 12, 24]


def test_a_rate_is_a_grid_of_times_before_the_end(films):
    def numbers(fps):
        return [(round(time, 2), read_number(image)) for time, image in read_frames(films["h264.mp4"], fps=fps)]

    assert numbers(1) == [(0.0, 0), (1.0, 25), (2.0, 50), (3.0, 75), (4.0, 100)]
    assert [number for _, number in numbers(2)] == [0, 12, 25, 37, 50, 62, 75, 87, 100, 112]
    assert numbers(0.1) == [(0.0, 0)]
    assert [number for _, number in numbers(1000)] == list(range(COUNT))


def test_frames_at_ntsc_rates_are_chosen_by_time(tmp_path):
    path = write_film(tmp_path / "a.mp4", numbered_frames(95), rate=Fraction(30000, 1001))
    found = [(time, read_number(image)) for time, image in read_frames(path, fps=1)]
    assert [number for _, number in found] == [0, 29, 59, 89]  # at 1 s frame 29.97 is due: 29 is on the screen
    assert [time for time, _ in found] == [number * 1001 / 30000 for _, number in found]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), 12])
def test_a_frame_is_found_by_its_own_time(tmp_path, rate):
    film = write_film(tmp_path / "own.mkv" if rate == 12 else tmp_path / "own.mp4", numbered_frames(60), rate=rate)
    times = frame_times(film)
    assert [read_number(image) for _, image in read_frames(film, times=times)] == list(range(60))
    assert [time for time, _ in read_frames(film, times=times.tolist())] == times.tolist()
    between = (times[:-1] + times[1:]) / 2
    assert [read_number(image) for _, image in read_frames(film, times=between)] == list(range(59))


def test_variable_rates_give_each_frame_once(tmp_path):
    stamps = [0, 10, 20, 500, 510, 2000]  # hundredths of a second
    path = write_film(tmp_path / "a.mkv", numbered_frames(6), pts=stamps, rate=100)
    assert frame_times(path).tolist() == [stamp / 100 for stamp in stamps]
    found = [(time, read_number(image)) for time, image in read_frames(path, fps=1)]
    assert found == [(0.0, 0), (0.2, 2), (5.0, 3), (5.1, 4), (20.0, 5)]
    asked = [0, 4.99, 5.0, 19.9, 20]
    assert [read_number(image) for _, image in read_frames(path, times=asked)] == [0, 2, 3, 4, 5]


def test_a_stamp_a_hundred_hours_off_costs_one_frame(tmp_path, caplog):
    for place in (30, 49):
        path = tmp_path / f"{place}.mkv"
        write_film(path, numbered_frames(50), codec="mjpeg", pix_fmt="yuvj420p", broken={place: 360_000 * 25})
        found = [read_number(image) for _, image in itertools.islice(read_frames(path, fps=5), 100)]
        assert found == ([0, 5, 10, 15, 20, 25, 29, 35, 40, 45] if place == 30 else list(range(0, 50, 5)))
        assert "second 360000 is left out" in caplog.text
        assert len(frame_times(path)) == 49
        caplog.clear()


def test_stamps_within_the_limit_but_out_of_order_cost_one_frame(tmp_path, caplog):
    path = tmp_path / "a.mkv"
    write_film(path, numbered_frames(50), codec="mjpeg", pix_fmt="yuvj420p", broken={30: 3000 * 25})
    assert [read_number(i) for _, i in read_frames(path, fps=5)] == [0, 5, 10, 15, 20, 25, 29, 35, 40, 45]
    assert "1 frames are left out" in caplog.text


def test_a_film_longer_than_the_limit_is_an_error(films):
    with pytest.raises(UnreadableVideo, match="`max_seconds` allows") as error:
        list(read_frames(films["h264.mp4"], limits=VideoLimits(max_seconds=1)))
    assert error.value.kind == "video too long"


def test_times_come_in_the_order_asked_and_the_end_is_kept(films):
    path = films["h264.mp4"]
    assert [read_number(i) for _, i in read_frames(path, times=[4.7, 0, 2.0, 2.0])] == [117, 0, 50, 50]
    assert [read_number(i) for _, i in read_frames(path, times=[4.8])] == [119]
    assert list(read_frames(path, times=[])) == []
    with pytest.raises(ValueError, match=r"`times` has 5, but .*h264\.mp4 ends at second 4\.800"):
        list(read_frames(path, times=[5]))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"fps": 0}, "`fps` is 0; it must be greater than 0"),
        ({"fps": float("nan")}, "`fps` has nan; it must be a finite number"),
        ({"fps": True}, "`fps` has True"),
        ({"times": [1, -0.5]}, "`times` has -0.5; a film begins at second 0"),
        ({"times": ["1"]}, "`times` has '1'"),
        ({"times": 5}, "`times` is 5; it must be several numbers"),
        ({"times": [10**400]}, "must be a finite number"),
        ({"fps": 1, "times": [0]}, "three choices"),
        ({"fps": 1, "key_frames": True}, "three choices"),
    ],
)
def test_wrong_choices_are_named_before_anything_is_opened(choice, message):
    with pytest.raises(ValueError, match=message):
        read_frames("nothing.mp4", **choice)


def test_numbers_of_any_kind_and_size_are_taken(films):
    def numbers(**choice):
        return [read_number(image) for _, image in read_frames(films["h264.mp4"], **choice)]

    assert numbers(fps=np.float32(1)) == numbers(fps=torch.tensor(1)) == [0, 25, 50, 75, 100]
    assert numbers(times=torch.tensor([1.0, 2.0])) == numbers(times=np.array([1, 2], np.float32)) == [25, 50]
    assert numbers(fps=1e-9) == [0]
    for film in ("h264.mp4", "mpeg4.avi"):
        with pytest.raises(ValueError, match=r"`times` has 1e\+300, but .* ends at second"):
            list(read_frames(films[film], times=[0, 1e300]))


def test_times_that_go_back_are_left_out_everywhere(tmp_path, caplog):
    parts = [
        write_film(
            tmp_path / f"{first}.ts", numbered_frames(50, first=first), codec="libx264", pts=range(start, start + 50)
        )
        for first, start in ((0, 100), (50, 20), (100, 130))
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    times, images = zip(*read_frames(path), strict=True)
    assert "frames are left out, their times are negative or out of order" in caplog.text
    assert [read_number(image) for image in images] == [*range(50), *range(120, 150)]
    assert times == pytest.approx([number / 25 for number in range(80)]) and frame_times(path).tolist() == list(times)
    assert [read_number(image) for image in read_clip(path, ClipSampling(4))] == [9, 29, 49, 139]
    keys = [time for time, _ in read_frames(path, key_frames=True)]
    assert keys == sorted(keys) and min(keys) >= 0


def test_a_joined_stream_is_never_jumped_in(tmp_path, caplog):
    path = joined_stream(tmp_path)
    linear = list(read_frames(path, fps=1))
    assert len(linear) == 40 and all(image.getpixel((9, 9))[0] > 200 for _, image in linear)
    caplog.clear()
    for times in ([30], [30, 3], [38, 2, 21, 39]):
        assert list(read_frames(path, times=times)) == [linear[time] for time in times]
    assert "truncated" not in caplog.text


def test_an_even_transport_stream_is_jumped_in(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.ts", numbered_frames(250) * 4, codec="libx264", options={"g": "25"})
    decoded = []
    decode = reading.Film._decode
    monkeypatch.setattr(reading.Film, "_decode", lambda self, *given: decoded.append(0) or decode(self, *given))
    assert [read_number(image) for _, image in read_frames(path, times=[38, 18.4])] == [200, 210]
    assert len(decoded) < 250


def test_what_is_left_out_is_counted_once(tmp_path, caplog):
    path = joined_stream(tmp_path)
    warnings = []
    for choice in ({}, {"times": [39.9, 3, 39.9, 1, 39.9]}, {"times": [39.9] * 3}):
        caplog.clear()
        list(read_frames(path, **choice))
        warnings.append(caplog.text.count("400 frames are left out"))
        assert caplog.text.count("left out") == 1
    assert warnings == [1, 1, 1]
    wrong = write_film(
        tmp_path / "a.mkv", numbered_frames(50), codec="mjpeg", pix_fmt="yuvj420p", broken={30: 25 * 3000}
    )
    caplog.clear()
    list(read_frames(wrong, times=[1.9, 0.2, 1.9, 0.2, 1.9]))
    assert "1 frames are left out" in caplog.text
    with open_film(path) as film:
        for _ in film.ordered_frames():
            pass
        assert not film.can_jump
        film.rewind()
        assert not film.can_jump and film.counts.total() == 0


@pytest.mark.parametrize("place", [30, 95])
def test_a_wrong_stamp_is_left_out_by_all_that_read(tmp_path, place):
    path = write_film(tmp_path / "a.mkv", numbered_frames(100), codec="libx264", broken={place: 3000 * 25})
    assert frame_times(path).tolist() == [time for time, _ in read_frames(path)]
    assert max(frame_times(path)) < 5


def test_frames_are_copies(films):
    frames = read_frames(films["h264.mp4"])
    first = next(frames)[1]
    pixels = first.tobytes()
    for _ in frames:
        pass
    assert first.tobytes() == pixels


# --------------------------------------------------------------------------------------------------------------- clips


def test_segments_take_their_middle():
    choose = ClipSampling(num_frames=4).choose
    assert choose(40) == [4, 14, 24, 34]  # (10 - 1) / 2 = 4.5
    assert choose(10) == [0, 3, 5, 8]  # 2.5 i + 0.75
    assert choose(2) == [0, 0, 1, 1]
    assert choose(1) == [0, 0, 0, 0]
    assert ClipSampling(num_frames=1).choose(9) == [4]
    assert repr(ClipSampling(np.int64(4))) == "ClipSampling(num_frames=4, num_views=1)"


def test_views_shift_within_the_segments():
    sampling = ClipSampling(num_frames=2, num_views=3)
    assert sampling.choose(10) == [1, 6, 2, 7, 3, 8]
    assert [sampling.choose(10, view=view) for view in range(3)] == [[1, 6], [2, 7], [3, 8]]
    with pytest.raises(ValueError, match="`view` is 3; there are 3 views"):
        sampling.choose(10, view=3)


def test_random_frames_are_spread_over_their_segments():
    draws = np.array([ClipSampling(4).choose(40, generator=np.random.default_rng(seed)) for seed in range(400)])
    assert [sorted(set(column)) for column in draws.T] == [list(range(i, i + 10)) for i in (0, 10, 20, 30)]
    assert abs(draws.mean() - 19.5) < 0.5
    # Each segment has a draw of its own: places in two segments tell nothing of each other.
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.2
    assert set(ClipSampling(8).choose(3, generator=np.random.default_rng(0))) <= {0, 1, 2}
    with pytest.raises(ValueError, match="give one of them"):
        ClipSampling(4).choose(40, generator=np.random.default_rng(0), view=0)


def test_clips_hold_the_chosen_frames(film, eager):
    sampling = ClipSampling(num_frames=5, num_views=2)
    everything = [image.tobytes() for _, image in read_frames(film)]
    clip = read_clip(film, sampling)
    assert [image.tobytes() for image in clip] == [everything[i] for i in sampling.choose(COUNT)]
    drawn = read_clip(film, sampling, generator=np.random.default_rng(3))
    chosen = sampling.choose(COUNT, generator=np.random.default_rng(3))
    assert [read_number(image) for image in drawn] == chosen


def test_a_clip_of_a_long_film_decodes_little(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4", numbered_frames(250) * 4, codec="libx264", options={"g": "25", "bf": "0"})
    decoded = []
    decode = reading.Film._decode

    def count(self, packet, clock):
        for item in decode(self, packet, clock):
            decoded.append(item[0])
            yield item

    monkeypatch.setattr(reading.Film, "_decode", count)
    assert [read_number(i) for i in read_clip(path, ClipSampling(4))] == [n % 250 for n in (124, 374, 624, 874)]
    assert len(decoded) < 250


def test_lists_and_arrays_are_films():
    frames = numbered_frames(40)
    for film in (frames, np.stack(frames), tuple(Image.fromarray(frame) for frame in frames)):
        assert [read_number(image) for image in read_clip(film, ClipSampling(4))] == [4, 14, 24, 34]
    assert [image.mode for image in read_clip([frames[0][..., 0]], ClipSampling(2))] == ["RGB", "RGB"]
    with pytest.raises(UnreadableVideo, match="list of frames is empty"):
        read_clip([])
    with pytest.raises(TypeError, match=r"uint8 array .*, got an array of float64 \(64, 64, 3\)"):
        read_clip([frames[0] / 255])
    with pytest.raises(TypeError, match="got str"):
        read_clip(["a.jpg"])
    with pytest.raises(TypeError, match=r"\(height, width, 3\), got an array of uint8 \(3, 64, 64\)"):
        read_clip(np.stack(frames).transpose(0, 3, 1, 2))
    with pytest.raises(TypeError, match=r"got Tensor\. Only `read_clip` takes frames: a list, or a NumPy array"):
        read_clip(torch.zeros(4, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="`generator` is 0; it must be a `numpy.random.Generator`"):
        read_clip(frames, generator=0)
    with pytest.raises(TypeError, match=r"`view` is 0\.0; it must be an integer"):
        read_clip(frames, view=0.0)


# ------------------------------------------------------------------------------------------------- how they are shown


def test_the_description_says_how_frames_are_shown(films):
    description = describe_video(films["h264.mp4"])
    assert (description.width, description.height, description.rotation) == (64, 64, 0)
    assert (description.codec, description.container) == ("h264", "mov,mp4,m4a,3gp,3g2,mj2")
    assert (description.duration, description.frame_rate, description.num_frames) == (4.8, 25.0, COUNT)
    assert describe_video(films["mpeg2.mpg"]).num_frames is None


def write_turned(path, degrees, hflip=False, vflip=False, ratio=None):
    """A film of one frame, 48x32: red left half, and a white block at the top left; shown after a display matrix."""
    frame = np.zeros((32, 48, 3), dtype=np.uint8)
    frame[:, :24, 0] = 255
    frame[:8, :8] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        if ratio:
            stream.sample_aspect_ratio = ratio
            stream.codec_context.sample_aspect_ratio = ratio
        if degrees or hflip or vflip:
            stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return frame


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_upright(tmp_path, degrees):
    stored = write_turned(tmp_path / "a.mov", degrees)
    ((_, image),) = read_frames(tmp_path / "a.mov")
    assert np.array_equal(np.asarray(image), np.rot90(stored, degrees // 90))  # both count against the clock
    description = describe_video(tmp_path / "a.mov")
    assert (description.width, description.height) == image.size
    assert description.rotation == -degrees % 360


def test_mirrored_frames_are_mirrored_back(tmp_path):
    stored = write_turned(tmp_path / "h.mov", 0, hflip=True)
    assert np.array_equal(np.asarray(next(read_frames(tmp_path / "h.mov"))[1]), stored[:, ::-1])
    stored = write_turned(tmp_path / "v.mov", 0, vflip=True)
    assert np.array_equal(np.asarray(next(read_frames(tmp_path / "v.mov"))[1]), stored[::-1])


def test_pixels_are_made_square_by_the_width(tmp_path):
    write_turned(tmp_path / "a.mov", 0, ratio=Fraction(16, 11))
    assert next(read_frames(tmp_path / "a.mov"))[1].size == (70, 32)  # 48 * 16 / 11 = 69.8
    write_turned(tmp_path / "b.mov", 90, ratio=Fraction(2, 1))
    assert next(read_frames(tmp_path / "b.mov"))[1].size == (32, 96)
    assert (describe_video(tmp_path / "b.mov").width, describe_video(tmp_path / "b.mov").height) == (32, 96)
