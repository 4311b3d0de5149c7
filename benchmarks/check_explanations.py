# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether relevance maps point at the drawing that is asked for: each method, both demo models, against maps that know
nothing, and the time of each map against one forward pass.

A scene is two of OpenMoji's drawings side by side on white, 64 x 64 pixels, and each of the two is asked for by its
name. What the figures mean: docs/explain/faithfulness.md. "noticed" is what the check with random weights says of
noise, a Gaussian in the middle and an edge detector; it must find all three.

200 scenes take about 10 minutes on two quiet cores; `--scenes 20 --repeats 2` is a short form.
"""

import argparse
import statistics
import time

import datasets
import numpy as np
import torch
from PIL import Image

from bench_image_processor import print_machine
from clip_hf.data.openmoji import drawing_captions, render_drawings
from clip_hf.embedding import EncodingOptions, load_dual_encoder
from clip_hf.evaluation import MEANINGLESS_MAPS, ExplanationOptions, evaluate_explanation, random_weights_check
from clip_hf.explain import METHODS, image_maps
from clip_hf.utils.terminal_tables import draw_table


SIDE = 64
LONGEST_NAME = 15


def make_scenes(count: int, seed: int) -> datasets.Dataset:
    """Two drawings side by side, with their masks."""
    generator = np.random.default_rng(seed)
    left_out = ("button", "flag", "keycap")
    names = [name for name in drawing_captions() if len(name) <= LONGEST_NAME and not any(w in name for w in left_out)]
    pairs = [generator.choice(sorted(set(names)), 2, replace=False).tolist() for _ in range(count)]
    drawings = render_drawings(sorted({name for pair in pairs for name in pair}), SIDE // 2)
    rows = []
    for pair in pairs:
        canvas, mask = Image.new("RGB", (SIDE, SIDE), "white"), np.zeros((SIDE, SIDE), np.uint8)
        for place, name in enumerate(pair):
            left, top = place * SIDE // 2, SIDE // 4
            canvas.paste(drawings[name], (left, top), drawings[name])
            drawn = np.asarray(drawings[name])[..., 3] > 127
            mask[top : top + SIDE // 2, left : left + SIDE // 2][drawn] = place + 1
        rows.append({"image": canvas, "labels": pair, "mask": Image.fromarray(mask)})
    names = datasets.List(datasets.Value("string"))
    features = {"image": datasets.Image(), "labels": names, "mask": datasets.Image()}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def print_times(encoder, pixels: torch.Tensor, texts: torch.Tensor, repeats: int) -> None:
    """Median seconds of a map, in turns with a forward pass, and their ratio."""
    calls = {"forward pass": lambda: encoder.model.encode_image(pixels)}
    for method in METHODS:
        calls[method] = lambda method=method: image_maps(encoder.model, pixels, texts, method)
    seconds = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            with torch.set_grad_enabled(name != "forward pass"):
                call()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [(name, f"{1000 * each:.1f}", f"{each / medians['forward pass']:.1f}") for name, each in medians.items()]
    print(draw_table(f"Time of {len(pixels)} images, {len(texts)} texts", ("what", "ms", "forward passes"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["outputs/demo/vit/last", "outputs/demo/resnet/last"])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print_machine()
    scenes = make_scenes(options.scenes, options.seed)
    for path in options.models:
        encoder = load_dual_encoder(path)
        asked = ExplanationOptions(seed=options.seed, encoding=EncodingOptions(progress=False))
        result = evaluate_explanation(encoder, scenes, asked)
        print(f"\n{result.terminal_table()}\n{result.details()}")
        pixels = encoder.prepare(scenes[:8]["image"])["pixel_values"]
        texts = encoder.encode_texts(scenes[0]["labels"])
        for name, make_maps in MEANINGLESS_MAPS.items():
            problem = random_weights_check(make_maps, encoder.model, pixels, texts).problem
            print(f"{name} noticed: {problem or 'NO'}")
        print_times(encoder, pixels, texts, options.repeats)


if __name__ == "__main__":
    main()
