# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is no film, or half of one: each kind has its own message, and nothing else is opened."""

import gc
import io
import os
import sys

import av
import numpy as np
import pytest

from clip_hf.model import video_opening_clip_hf as opening
from clip_hf.video import (
    UnreadableVideo,
    VideoLimits,
    cut_clip,
    describe_video,
    frame_times,
    is_video,
    read_clip,
    read_frames,
)
from films import numbered_frames, read_number, write_film


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad") / "film.mp4"
    return write_film(path, numbered_frames(50), codec="libx264", options={"g": "10", "movflags": "faststart"})


def write_sound(path, cover=False):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        if cover:
            picture = container.add_stream("png")
            picture.width = picture.height = 8
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def kind_of(path, read=describe_video):
    with pytest.raises(UnreadableVideo) as error:
        read(path)
    return error.value.kind, str(error.value)


def test_a_missing_empty_or_wrong_file_is_named(tmp_path):
    assert kind_of(tmp_path / "nothing.mp4") == ("file missing", f"there is no file {tmp_path / 'nothing.mp4'}.")
    assert kind_of(write_bytes(tmp_path / "a.mp4", b""))[0] == "file empty"
    assert kind_of(write_bytes(tmp_path / "b.mp4", b"hello" * 100))[0] == "not a video"
    assert kind_of(write_bytes(tmp_path / "c.mp4", os.urandom(5000)))[0] == "not a video"
    assert kind_of(tmp_path)[0] == "not a regular file"
    assert kind_of("  ")[0] == "video missing"
    assert kind_of({"path": None, "bytes": None})[0] == "video missing"
    assert kind_of({"path": None, "bytes": "text"}) == ("not a video", "its bytes are of type str.")


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert kind_of(tmp_path / "pipe.mp4")[0] == "not a regular file"
    assert kind_of("/dev/zero")[0] == "not a regular file"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/a.mp4",
        "data:video/mp4;base64,AAAA",
        "hls+http://a/b",
        "s3://a/b.mp4",
        "concat::a.mp4",
        "file:///a",
    ],
)
def test_urls_are_refused(url):
    kind, message = kind_of(url)
    assert kind == "location refused" and message.endswith(
        "films are read from no URL; download it and give its path or bytes."
    )


def test_playlists_open_no_other_file(tmp_path, film):
    stream = write_film(tmp_path / "inner.ts", numbered_frames(10), codec="libx264")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{stream}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile {film}\n".encode()
    dash = b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="x"></MPD>'
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    for number, content in enumerate((playlist, concat, dash, sdp)):
        for ending in ("mp4", "m3u8", "ts"):
            assert kind_of(write_bytes(tmp_path / f"{number}.{ending}", content))[0] == "not a video"
    # Without the limit to formats, FFmpeg itself does open the file that the list names.
    assert av.open(str(tmp_path / "0.m3u8"), options={"allowed_extensions": "ALL"}).streams.video


def test_a_wrong_ending_does_no_harm(tmp_path, film):
    path = write_bytes(tmp_path / "film.txt", film.read_bytes())
    assert len(frame_times(path)) == 50


def test_bytes_open_files_and_mappings_are_films(film):
    data = film.read_bytes()
    with open(film, "rb") as file:
        for source in (str(film), data, memoryview(data), io.BytesIO(data), {"path": "x.mp4", "bytes": data}, file):
            assert [read_number(image) for _, image in read_frames(source, fps=1)] == [0, 25]
        assert not file.closed
    with pytest.raises(TypeError, match="expected the path, the bytes or the open file of a film.*got int"):
        describe_video(7)
    with pytest.raises(TypeError, match=r"got VideoDecoder. Cast the column to `datasets.Video\(decode=False\)`"):
        describe_video(type("VideoDecoder", (), {})())
    with pytest.raises(UnreadableVideo, match="must be seekable"):
        describe_video(type("Stream", (), {"read": lambda self, n=-1: b""})())
    with open(film) as file, pytest.raises(TypeError, match='is open as text; open it in binary mode, "rb"'):
        describe_video(file)


class FaultyFile(io.BytesIO):
    """Fails at its second read."""

    def __init__(self, data, error):
        super().__init__(data)
        self.error, self.count = error, 0

    def read(self, size=-1):
        self.count += 1
        if self.count > 1:
            raise self.error
        return super().read(1000)


def test_what_fails_while_reading_is_named(film, monkeypatch):
    data = film.read_bytes()
    assert kind_of(FaultyFile(data, OSError(5, "disk gone"))) == (
        "file cannot be read",
        "the film: it cannot be read on: disk gone.",
    )
    with pytest.raises(RuntimeError, match="not of the film"):
        describe_video(FaultyFile(data, RuntimeError("not of the film")))
    with pytest.raises(MemoryError):
        describe_video(FaultyFile(data, MemoryError()))
    assert kind_of("/proc/self/mem")[0] in ("file cannot be read", "file empty")

    class Container:  # as PyAV does when a damaged FLV grows a stream
        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def demux(self, *streams):
            yield next(iter(self.container.demux(*streams)))
            raise IndexError("list index out of range")

    import_av = opening.importlib.import_module
    for read in (frame_times, lambda path: list(read_frames(path)), lambda path: cut_clip(path, 0, 1, "part.mkv")):
        with monkeypatch.context() as patch:
            patch.setattr(import_av("av"), "open", lambda *a, _open=av.open, **k: Container(_open(*a, **k)))
            assert kind_of(film, read)[0] == "damaged"


def test_films_are_closed_when_reading_stops_midway(film):
    def count():
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = count()
    for number in range(30):
        frames = read_frames(film, times=[1, 0.5])
        next(frames)
        assert count() > before
        if number % 2:
            frames.close()
        del frames
        kind_of(b"hello" * 100)
    assert count() == before


def test_sound_and_covers_are_no_films(tmp_path):
    assert kind_of(write_sound(tmp_path / "a.mp4"))[1].endswith("it has no video stream (only audio).")
    assert kind_of(write_sound(tmp_path / "b.mp4", cover=True))[1].endswith("(only a cover picture, audio).")


def test_one_frame_is_a_film_and_none_is_not(tmp_path):
    path = write_film(tmp_path / "one.mp4", numbered_frames(1, first=5))
    assert [read_number(image) for _, image in read_frames(path, fps=1)] == [5]
    assert [read_number(image) for image in read_clip(path)] == [5] * 8
    assert frame_times(path).tolist() == [0.0]
    none = write_film(tmp_path / "none.mkv", [], codec="mjpeg", pix_fmt="yuvj420p")
    for read in (describe_video, frame_times, read_clip, lambda path: list(read_frames(path, fps=1))):
        assert kind_of(none, read)[0] in ("no frames", "not a video")


def test_a_truncated_film_gives_what_is_there_and_says_so(tmp_path, film, caplog):
    data = film.read_bytes()
    path = write_bytes(tmp_path / "cut.mp4", data[: len(data) * 2 // 3])
    numbers = [read_number(image) for _, image in read_frames(path)]
    assert 10 < len(numbers) < 45 and numbers == list(range(len(numbers)))
    assert "its header says 2.000: it may be truncated" in caplog.text
    assert len(read_clip(path)) == 8
    headless = write_film(tmp_path / "late.mp4", numbered_frames(50), codec="libx264").read_bytes()
    assert kind_of(write_bytes(tmp_path / "headless.mp4", headless[: len(headless) // 2]))[0] == "not a video"


def test_damaged_packets_are_left_out_and_counted(tmp_path, film, caplog):
    data = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[12:15]:
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path = write_bytes(tmp_path / "damaged.mp4", data)
    numbers = [read_number(image) for _, image in read_frames(path)]
    assert 40 <= len(numbers) < 50 and set(range(20, 50)) <= set(numbers)
    assert "packets could not be read or decoded" in caplog.text


def test_large_frames_and_files_are_refused_before_decoding(film):
    with pytest.raises(UnreadableVideo, match="64x64 pixels; `max_pixels` allows 4,000") as error:
        next(read_frames(film, limits=VideoLimits(max_pixels=4000)))
    assert error.value.kind == "video too large"
    for source in (film, film.read_bytes()):
        with pytest.raises(UnreadableVideo, match="more than the 100 that `max_bytes` allows"):
            describe_video(source, limits=VideoLimits(max_bytes=100))
    with pytest.raises(ValueError, match="`max_seconds` is 0; it must be a number greater than 0"):
        VideoLimits(max_seconds=0)


def test_a_codec_without_decoder_is_named(tmp_path):
    path = write_film(tmp_path / "a.mkv", numbered_frames(3), codec="libvpx-vp9", options={"cpu-used": "8"})
    data = path.read_bytes()
    assert data.count(b"V_VP9") == 1
    kind, message = kind_of(write_bytes(tmp_path / "b.mkv", data.replace(b"V_VP9", b"V_XY9")))
    assert kind == "codec not supported" and "no decoder" in message


def test_sizes_and_formats_may_change_in_the_middle(tmp_path):
    first = write_film(tmp_path / "a.ts", numbered_frames(25), codec="libx264", options={"bf": "0"})
    second = write_film(
        tmp_path / "b.ts",
        numbered_frames(25, width=96, height=80, first=25),
        codec="libx264",
        pix_fmt="yuv444p",
        options={"bf": "0"},
        pts=range(25, 50),
    )
    path = write_bytes(tmp_path / "both.ts", first.read_bytes() + second.read_bytes())
    found = [(image.size, read_number(image)) for _, image in read_frames(path)]
    assert [number for _, number in found] == list(range(50))
    assert [size for size, _ in found] == [(64, 64)] * 25 + [(96, 80)] * 25


def test_films_are_known_by_ending_or_first_bytes(tmp_path, film):
    for ending in ("mp4", "avi", "mkv", "ts", "webm", "mpg", "flv", "wmv", "mov"):
        path = write_film(
            tmp_path / f"a.{ending}",
            numbered_frames(2),
            codec="vp8"
            if ending == "webm"
            else "mpeg2video"
            if ending in ("mpg", "ts")
            else "flv1"
            if ending == "flv"
            else "mpeg4",
        )
        assert is_video(path) and is_video(path.read_bytes()), ending
    assert is_video({"path": None, "bytes": film.read_bytes()}) and is_video({"path": "A.MKV", "bytes": None})
    with open(film, "rb") as file:
        assert is_video(file) and file.tell() == 0
    for other in ("a.jpg", "mp4", b"\xff\xd8\xff", b"", None, 7, ["a.mp4"], {}, {"path": None}, b"\0\0\0\x1cftypavif"):
        assert not is_video(other)


def test_without_pyav_the_extra_is_named(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="films are read by PyAV, which is not installed: .* extra `video`"):
        describe_video(film)
