# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether relevance maps point at the drawing that is asked for: each method, both demo models, against maps that know
nothing, and the time of each map against one forward pass.

A scene of `openmoji_scenes`, part `pairs`, is two of OpenMoji's drawings side by side, and each of the two is asked
for by its name. What the figures mean: docs/explain/faithfulness.md. "noticed" is what the check with random weights
says of noise, a Gaussian in the middle and an edge detector; it must find all three.

200 scenes take about 10 minutes on two quiet cores; `--scenes 20 --repeats 2` is a short form.
"""

import argparse
import statistics
import time

import torch

from bench_image_processor import print_machine
from clip_hf.data import load_composed_scenes
from clip_hf.embedding import EncodingOptions, load_dual_encoder
from clip_hf.evaluation import MEANINGLESS_MAPS, ExplanationOptions, evaluate_explanation, random_weights_check
from clip_hf.explain import METHODS, image_maps
from clip_hf.utils.terminal_tables import draw_table


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
    scenes = load_composed_scenes(num_scenes=options.scenes, seed=options.seed)["pairs"]
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
