# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films, to frames and to embeddings: frames a second, beside plain loops with PyAV and beside the model alone.

Without `--films`, films are made from noise that moves: `--seconds` long, `--size` wide, with a key frame each 10 s
(x264's usual) and each 2 s (streaming). Each way of reading is run `--repeats` times in turn; the median counts.

- all: every frame as a picture; the plain way is `container.decode` and `to_image`, with threads.
- 1/s: the frames at whole seconds; the plain way decodes all and converts the chosen ones.
- 8 of all: a clip's frames (`read_clip`); the plain way decodes all, keeps their times, and converts the chosen ones.
- 8 times: `read_frames(times=...)` at eight given times, which needs no list of all times.

Then `--clips` made films of 10 s become embeddings, of eight frames each, with a ViT-B/32 of random weights or with
`--model`: the frames are read, prepared, and encoded, each alone; and `encode_image_stream` does all of it, as an
evaluation or an embedding job does: threads read and prepare what comes next. The share is what is left of the model's
own speed then.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch

from bench_image_processor import medians, print_machine
from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.embedding import EncodingOptions, VideoEncoder, encode_image_stream, load_dual_encoder
from clip_hf.video import ClipSampling, describe_video, frame_times, read_clip, read_frames


def make_film(path: Path, seconds: int, width: int, key_seconds: int, seed: int = 0) -> Path:
    height = width * 9 // 16 // 2 * 2
    draw = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 4, 3))
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


def measure_embedding(paths: list[Path], model: str | None, repeats: int) -> None:
    torch.manual_seed(0)
    if model is None:
        processor = ClipHFProcessor(ClipHFImageProcessor(), ClipHFTokenizer.from_bpe_file(OPENAI_MERGES))
        clip = ClipHFModel(ClipHFConfig.from_architecture("ViT-B/32")).eval()
        pictures = load_dual_encoder(clip, processor=processor)
    else:
        pictures = load_dual_encoder(model)
    sampling, options = ClipSampling(8), EncodingOptions(batch_size=4, progress=False)
    encoder = VideoEncoder(pictures, sampling)
    clips = [read_clip(path, sampling) for path in paths]
    batches = [clips[start : start + options.batch_size] for start in range(0, len(clips), options.batch_size)]
    prepared = [encoder.prepare(batch) for batch in batches]
    sides = {
        "read (decoded)": lambda: [read_clip(path, sampling) for path in paths],
        "prepared": lambda: [encoder.prepare(batch) for batch in batches],
        "encoded: the model alone": lambda: [encoder.encode_images(inputs) for inputs in prepared],
        "all, from the files": lambda: list(encode_image_stream(encoder, list(map(str, paths)), options=options)),
    }
    threads = torch.get_num_threads()
    timed = medians({(name, threads): run for name, run in sides.items()}, repeats)
    seconds = {name: taken for (name, _), taken in timed.items()}
    alone = seconds["encoded: the model alone"]
    print(f"\n{len(paths)} films, 8 frames of each; {model or 'ViT-B/32 of random weights'}, {pictures.dtype}\n")
    print("| step | frames/s | share of the model's own speed |")
    print("|---|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {8 * len(paths) / taken:,.0f} | {alone / taken:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", nargs="*", type=Path, help="films to read instead of made ones")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--size", type=int, default=640, help="width of made films in pixels")
    parser.add_argument("--clips", type=int, default=16, help="made films that become embeddings (default: 16)")
    parser.add_argument("--model", help="a CLIP, instead of a ViT-B/32 of random weights")
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
        clips = [
            make_film(Path(folder, f"{number}.mp4"), 10, options.size, 2, seed=number)
            for number in range(options.clips)
        ]
        measure_embedding(clips, options.model, options.repeats)


if __name__ == "__main__":
    main()
