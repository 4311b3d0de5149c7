# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot segmentation of composed scenes by the demo's models: mean IoU of each method of dense features.

Each method's size is chosen on the part `validation`; the figure is that of `test` at this size. Only the pixels of
drawings count, and each gets one of the names of all drawings. `windows`, the slow reference, embeds a square around
each place. Some minutes on two idle cores; `--scenes 10` tries the parts in less than one.
"""

import argparse

import numpy as np
from tqdm.auto import tqdm

from bench_image_processor import print_machine
from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.data import SCENE_CLASSES, load_composed_scenes
from clip_hf.evaluation.numerics.region_overlap import mean_iou, mean_iou_interval, overlap_counts
from clip_hf.explain import DENSE_METHODS, segment_image


def count(model, processor, rows, method: str, size: int, template: str) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions (scenes, classes)."""
    counts = []
    for row in tqdm(rows, desc=f"{method} at {size}", unit="scene", leave=False, disable=None):
        numbers = np.array([-1, *(SCENE_CLASSES.index(label) for label in row["labels"])])
        found = segment_image(model, processor, row["image"], SCENE_CLASSES, template, method, size=size)
        counts.append(overlap_counts(found.class_map, numbers[np.asarray(row["mask"])], len(SCENE_CLASSES)))
    return tuple(np.stack(each) for each in zip(*counts, strict=True))


def main() -> None:
    """Choose sizes on one part and print the figures of the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["outputs/demo/vit/last", "outputs/demo/resnet/last"])
    parser.add_argument("--methods", nargs="+", default=list(DENSE_METHODS), choices=DENSE_METHODS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 192])
    parser.add_argument("--scenes", type=int, default=200, help="scenes of each part")
    parser.add_argument("--template", default="an emoji of {}.")
    options = parser.parse_args()
    print_machine()
    scenes = load_composed_scenes()
    parts = {part: scenes[part].select(range(min(options.scenes, len(scenes[part])))) for part in scenes}
    for path in options.models:
        model, processor = ClipHFModel.from_pretrained(path).eval(), ClipHFProcessor.from_pretrained(path)
        for method in options.methods:
            tried = {
                size: mean_iou(*count(model, processor, parts["validation"], method, size, options.template))
                for size in options.sizes
            }
            best = max(tried, key=tried.get)
            counts = count(model, processor, parts["test"], method, best, options.template)
            low, high = mean_iou_interval(*counts)
            sizes = ", ".join(f"{size}: {100 * value:.1f}" for size, value in tried.items())
            print(
                f"{path} {method}: test mIoU {100 * mean_iou(*counts):.1f}% ({100 * low:.1f} to {100 * high:.1f}) at "
                f"{best} pixels; validation {sizes}",
                flush=True,
            )


if __name__ == "__main__":
    main()
