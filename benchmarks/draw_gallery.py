# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Draw the pictures of the documentation, docs/images/*.png, from what `make demo` left: `make gallery`.

Similarities, losses and heat maps are the demo's pictures. The demo's two models are evaluated on OpenMoji and
compared. Robustness and scaling are drawn from published figures. The pictures are about 1,200 pixels wide and have
256 colours, which keeps them small.
"""

import argparse
import io
from pathlib import Path

import datasets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from transformers import pipeline

import clip_hf  # noqa: F401  (registers the models with transformers)
from clip_hf.data import ATTRIBUTION, OPENMOJI_TEMPLATES
from clip_hf.evaluation import (
    SuiteOptions,
    compare_results,
    compare_under_shift,
    fit_scaling,
    load_classification,
    plot_predictions,
    run_suite,
)


DATA = ("openmoji", "openmoji_skin_tones")
TASKS = ("zero_shot", "retrieval", "linear_probe", "few_shot")
DRAWINGS = slice(4)
LARGEST = 150_000  # bytes of a picture
PICTURES = {
    "zero_shot": "zero_shot-openmoji_skin_tones-test",
    "retrieval": "retrieval-openmoji-test",
    "linear_probe": "linear_probe-openmoji_skin_tones-test",
    "few_shot": "few_shot-openmoji_skin_tones-test",
}
# Top-1 accuracy of OpenAI's models, from open_clip's tables of results; GFLOPs from its docs/model_profile.csv.
VIT_L_14_336 = {
    "imagenet": 0.7656,
    "imagenet_v2": 0.7089,
    "imagenet_a": 0.7748,
    "imagenet_r": 0.8905,
    "imagenet_sketch": 0.6100,
    "objectnet": 0.7183,
}
RESNETS = {
    "RN50": (18.18, 0.5982),
    "RN101": (25.5, 0.6228),
    "RN50x4": (51.82, 0.6627),
    "RN50x16": (162.69, 0.7072),
    "RN50x64": (552.65, 0.7391),
}


def save_small(source: Path | io.BytesIO, path: Path) -> None:
    """Write a picture with 256 colours, and 800 pixels wide if it would otherwise take more than 150 kB."""
    with Image.open(source) as picture:
        whole = picture.convert("RGB")
    for width in (whole.width, 800):
        small = whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)
        small = small.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    print(f"{path}: {small.width} x {small.height}, {path.stat().st_size / 1000:.0f} kB")


def draw_predictions(demo: Path) -> Figure:
    """Four held-out drawings, and the names that both models find most probable."""
    held_out = load_classification("openmoji")
    rows = np.random.default_rng(0).permutation(len(held_out.data))[DRAWINGS]  # the demo's order
    images = list(
        held_out.data.select(rows).cast_column(held_out.image_column, datasets.Image())[held_out.image_column]
    )
    predictions = {}
    for tower in ("ResNet", "ViT"):
        classifier = pipeline("zero-shot-image-classification", model=str(demo / tower.lower() / "last"))
        names = {"candidate_labels": list(held_out.class_names), "hypothesis_template": list(OPENMOJI_TEMPLATES)}
        predictions[tower] = classifier(images, top_k=5, **names)
    answers = [held_out.class_names[target] for target in held_out.targets[rows]]
    title = "Held-out drawings and the names that each model finds most probable"
    return plot_predictions(images, predictions, answers, title=title, note=ATTRIBUTION)


def published_figures() -> dict[str, Figure]:
    """Figures of models that are too large to evaluate here."""
    gflops, accuracies = zip(*RESNETS.values())
    scaling = fit_scaling(gflops, [1 - accuracy for accuracy in accuracies], list(RESNETS), data="ImageNet")
    robustness = compare_under_shift(VIT_L_14_336, model="openai/clip-vit-large-patch14-336")
    return {"scaling": scaling.figure(), "robustness": robustness.figure()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="the folder that `make demo` wrote, such as outputs/demo")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="where the pictures go")
    parser.add_argument("--results", type=Path, default=Path("outputs/gallery"), help="where the evaluations go")
    arguments = parser.parse_args()
    arguments.images.mkdir(parents=True, exist_ok=True)

    folders = []
    for tower in ("resnet", "vit"):
        folders.append(arguments.results / tower)
        options = SuiteOptions(tasks=TASKS, data=DATA, output_dir=folders[-1], replace_results=True)
        run_suite(str(arguments.demo / tower / "last"), options)
    compare_results(folders, ["ResNet", "ViT"]).save(arguments.results)

    for name in ("similarities", "losses", "relevance_vit", "relevance_resnet"):
        save_small(arguments.demo / f"{name}.png", arguments.images / f"{name}.png")
    for name, stem in PICTURES.items():
        save_small(folders[-1] / f"{stem}.png", arguments.images / f"{name}.png")
    save_small(arguments.results / "comparison.png", arguments.images / "comparison.png")
    for name, figure in {"predictions": draw_predictions(arguments.demo), **published_figures()}.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=150)
        save_small(drawn, arguments.images / f"{name}.png")


if __name__ == "__main__":
    main()
