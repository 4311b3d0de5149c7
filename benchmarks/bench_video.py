# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reading films: frames a second of `read_frames` and `read_clip`, beside plain loops with PyAV.

Without `--films`, films are made from noise that moves: `--seconds` long, `--size` wide, with a key frame each 10 s
(x264's usual) and each 2 s (streaming). Each way of reading is run `--repeats` times in turn; the median counts.

- all: every frame as a picture; the plain way is `container.decode` and `to_image`, with threads.
- 1/s: the frames at whole seconds; the plain way decodes all and converts the chosen ones.
- 8 of all: a clip's frames (`read_clip`); the plain way decodes all, keeps their times, and converts the chosen ones.
- 8 times: `read_frames(times=...)` at eight given times, which needs no list of all times.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from bench_image_processor import print_machine
from clip_hf.video import ClipSampling, describe_video, frame_times, read_clip, read_frames


def make_film(path: Path, seconds: int, width: int, key_seconds: int) -> Path:
    height = width * 9 // 16 // 2 * 2
    draw = np.random.default_rng(0).integers(0, 255, (height // 8 + 1, width // 4, 3))
    picture = np.kron(draw, np.ones((8, 8, 1), dtype=np.uint8)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(25 * key_seconds), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(25 * seconds):
            left = 2 * number % width
            frame = np.ascontiguousarray(picture[:height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decode_plainly(path: Path, choose: Callable[[float], bool]) -> int:
    """Decode all frames and turn those that `choose` wants, by their time, into pictures."""
    count = 0
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            if choose(frame.time):
                frame.to_image()
                count += 1
    return count


def each_second() -> Callable[[float], bool]:
    due = 0.0

    def choose(time_of_frame: float) -> bool:
        nonlocal due
        if time_of_frame < due:
            return False
        due += 1
        return True

    return choose


def count(frames) -> int:
    return sum(1 for _ in frames)


def measure(path: Path, repeats: int) -> None:
    described, times = describe_video(path), frame_times(path)
    chosen = {float(times[index]) for index in ClipSampling(8).choose(len(times))}
    eight = sorted(chosen)
    near = lambda second: any(abs(second - other) < 1e-6 for other in eight)  # noqa: E731
    ways = {
        "all": (lambda: count(read_frames(path)), lambda: decode_plainly(path, lambda _: True)),
        "1/s": (lambda: count(read_frames(path, fps=1)), lambda: decode_plainly(path, each_second())),
        "8 of all": (lambda: len(read_clip(path, ClipSampling(8))), lambda: decode_plainly(path, near)),
        "8 times": (lambda: count(read_frames(path, times=eight)), lambda: decode_plainly(path, near)),
    }
    print(f"\n{path.name}: {len(times):,} frames, {described.width}x{described.height}, {described.codec}\n")
    print("| frames | ours, s | plain PyAV, s | ratio | film frames/s, ours |")
    print("|---|---|---|---|---|")
    for name, pair in ways.items():
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for way, record in zip(pair, seconds, strict=True):
                start = time.perf_counter()
                way()
                record.append(time.perf_counter() - start)
        ours, plain = map(statistics.median, seconds)
        print(f"| {name} | {ours:.3f} | {plain:.3f} | {plain / ours:.2f} | {len(times) / ours:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", nargs="*", type=Path, help="films to read instead of made ones")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--size", type=int, default=640, help="width of made films in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        films = options.films or [
            make_film(Path(folder, f"key_frame_each_{seconds}_s.mp4"), options.seconds, options.size, seconds)
            for seconds in (10, 2)
        ]
        for path in films:
            measure(path, options.repeats)


if __name__ == "__main__":
    main()
