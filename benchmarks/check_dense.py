# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How well the pixels of composed scenes get their class from dense features: each method, at several sizes of the
images, for both demo models, against windows and the class of the whole image.

For each model and method the size, and for windows their edge, with the highest mean intersection over union on the
part `validation` is chosen; the figure to report is that of the part `test` at this choice, measured once. What the
figures mean: docs/explain/dense_features.md.

All 200 scenes of each part take about 30 minutes on two quiet cores, most of them for windows; `--scenes 40 --sizes 64
128` is a short form of 5.
"""

import argparse

from bench_image_processor import print_machine
from clip_hf.embedding import EncodingOptions, load_dual_encoder
from clip_hf.evaluation import SegmentationOptions, SegmentationResult, evaluate_segmentation, load_located
from clip_hf.evaluation.registry.evaluation_data import ImageDataOptions
from clip_hf.evaluation.tasks.segmentation import SEGMENTATION_METHODS
from clip_hf.utils.terminal_tables import draw_table


RATIOS = (0.33, 0.5, 0.75)  # edge of the squares of windows, by the image's


def settings_of(method: str, sizes: list[int]) -> list[tuple[int, int | None]]:
    """Sizes, and for windows their edges, to choose from; the whole image has only the tower's own size."""
    if method == "windows":
        return [(size, round(size * ratio)) for size in sizes for ratio in RATIOS]
    return [(size, None) for size in (sizes[:1] if method == "whole" else sizes)]


def measure(encoder, data, method: str, size: int, window: int | None, resamples: int) -> SegmentationResult:
    """One method at one setting."""
    options = SegmentationOptions(
        methods=[method], size=size, window=window, resamples=resamples, encoding=EncodingOptions(progress=False)
    )
    return evaluate_segmentation(encoder, data, options)


def described(size: int, window: int | None) -> str:
    """A setting in words."""
    return f"{size}" if window is None else f"{size}, squares of {window}"


def check_model(path: str, parts: dict, sizes: list[int]) -> None:
    """Print what every setting gives on validation, and what the chosen ones give on test."""
    encoder = load_dual_encoder(path)
    tried, chosen = [], []
    for method in SEGMENTATION_METHODS:
        found = {}
        for size, window in settings_of(method, sizes):
            result = measure(encoder, parts["validation"], method, size, window, 0)
            found[size, window] = result.values[f"{method}_miou"]
            tried.append((method, described(size, window), f"{100 * found[size, window]:.1f}"))
        best = max(found, key=found.get)
        result = measure(encoder, parts["test"], method, *best, 1000)
        (low, high), name = result.intervals[f"{method}_miou"], f"{method}_miou"
        grid = " x ".join(map(str, result.grids[method]))
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        figures = f"{100 * result.values[name]:.1f}", interval, f"{100 * result.chance[name]:.1f}"
        accuracy = f"{100 * result.values[f'{method}_pixel_accuracy']:.1f}"
        chosen.append((method, described(*best), grid, *figures, accuracy))
    scenes = len(parts["validation"])
    print(draw_table(f"{path}: {scenes} scenes of validation", ("method", "pixels", "mIoU (%)"), tried))
    headings = ("method", "pixels", "places", "mIoU (%)", "95% interval", "chance", "pixel accuracy (%)")
    print(draw_table(f"{path}: {len(parts['test'])} scenes of test, as chosen on validation", headings, chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["outputs/demo/vit/last", "outputs/demo/resnet/last"])
    parser.add_argument("--scenes", type=int, default=200, help="scenes of each part")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 192, 256])
    options = parser.parse_args()
    print_machine()
    parts = {
        part: load_located("openmoji_scenes", ImageDataOptions(split=part, limit=options.scenes))
        for part in ("validation", "test")
    }
    for path in options.models:
        check_model(path, parts, options.sizes)


if __name__ == "__main__":
    main()
