# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which temporal heads see the order of frames: ten actions, five pairs of which each is the other's reverse in time.

The films are moving drawings (`clip_hf.data.load_moving_drawings`). There are two stages:

1. The demo's CLIP (`make demo` trains it into outputs/demo) learns from pictures where things are, because it does not
   tell places and turns apart: `placed-drawings`, whose captions name them, and which have no drawing of the films. A
   linear probe measures it on the films' drawings. The model is kept in `--placed`, and found there by the next run.
   It is the demo's ResNet: its ViT, whose patches have a quarter of the picture's width, learns places far slower.
2. Each head is trained on films, once for each seed. The vision tower stays as it is, so the frames of all films are
   embedded once, and a training takes seconds: the real heads, text tower, loss and sampling, on embedded frames.
   `--confirm` trains one head with `clip_hf.training.train` on the films themselves instead. It is done in two ways:

   - on the names of the actions, and measured on drawings that training has not seen. "within pairs" is the share of
     films whose action has a higher cosine than its reverse: a model that does not see the order of the frames gives
     both films of a pair the same embedding, and is right for one of the two;
   - on captions of drawing and action, and measured on combinations of the two that training has not seen together.
     The right caption is chosen among all of all drawings and actions, and the right action among the ten captions of
     the film's drawing.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn

from bench_image_processor import print_machine
from clip_hf import ClipHFModel, ClipHFProcessor, ClipHFVideoModel, same_label_loss
from clip_hf.data import REVERSED_ACTIONS, load_moving_drawings, load_placed_drawings
from clip_hf.data.moving_drawings import motion_caption
from clip_hf.training import (
    OptimizerOptions,
    build_optimizer,
    clamp_logit_scale_,
    cosine_schedule,
    freeze,
    parse_options,
    train,
)
from clip_hf.utils.terminal_tables import draw_table
from clip_hf.video import ClipSampling, read_frames


HEADS = ("meanP", "Conv_1D", "LSTM", "Transf", "Transf_cls")
ACTIONS = [action for pair in REVERSED_ACTIONS for action in pair]
SHORT_NAMES = ("left/right", "up/down", "grow/shrink", "spin", "appear/vanish")  # of `REVERSED_ACTIONS`
NUM_FRAMES = 8
# Each weight of a convolution must grow to several times its size before the ends of a clip outweigh its mean.
MULTIPLIERS = {"Conv_1D": 25.0}
"""By how much more than `--head_multiplier` the rate of a head exceeds that of the towers."""
TITLES = {
    "actions": "Drawings that were not seen: right in %, mean (lowest-highest) over the seeds",
    "combinations": "Combinations that were not seen: right in %, mean (lowest-highest) over the seeds",
}


def run_training(settings: dict, folder: Path, seed: int, num_workers: int) -> float:
    """Train on the CPU without evaluation and checkpoints; returns the seconds it took."""
    started = time.perf_counter()
    settings = {"eval_every": 1_000_000, "save_every": 0, "seed": seed, "output_dir": folder, **settings}
    words = [text for name, value in settings.items() for text in (f"--{name}", *str(value).split())]
    train(parse_options([*words, "--num_workers", str(num_workers), "--cpu"]))
    return time.perf_counter() - started


def teach_places(options: argparse.Namespace) -> None:
    """Stage one: train the demo's CLIP on pictures whose captions say where things are, unless that is done."""
    if not (options.placed / "last" / "config.json").is_file():
        with tempfile.TemporaryDirectory() as folder:
            clip = ClipHFModel.from_pretrained(options.model)
            # A trained CLIP is sure of itself: of captions that it cannot tell apart yet, at its own temperature,
            # the first steps would mostly unlearn.
            clip.logit_scale.data.fill_(clip.config.logit_scale_init_value)
            clip.save_pretrained(folder)
            ClipHFProcessor.from_pretrained(options.model).save_pretrained(folder)
            settings = {
                "model": folder,
                "dataset": "placed-drawings",
                "max_steps": options.placed_steps,
                "batch_size": 64,
                "learning_rate": 5e-4,
                "max_grad_norm": 1.0,
            }
            seconds = run_training(settings, options.placed, 0, options.num_workers)
        print(f"stage one: {options.placed_steps} steps on placed-drawings in {seconds:.0f} s", flush=True)
    rows = [
        (name, *(f"{value:.2f}" for value in probe_places(folder).values()))
        for name, folder in (("before", options.model), ("after", options.placed / "last"))
    ]
    title = "Stage one: what a linear probe reads from a picture of a drawing that was not seen, R2"
    print(f"\n{draw_table(title, ('', 'x', 'y', 'size', 'sine of angle', 'cosine', 'opacity'), rows)}\n", flush=True)


@torch.inference_mode()
def probe_places(folder: Path | str) -> dict[str, float]:
    """R2 of a ridge regression from the pictures' embeddings; fitted on two thirds of the drawings of the films."""
    model, processor = ClipHFModel.from_pretrained(folder).eval(), ClipHFProcessor.from_pretrained(folder)
    pictures = load_placed_drawings()["test"]
    embedded = []
    for start in range(0, len(pictures), 128):
        images = [Image.open(image["path"]) for image in pictures[start : start + 128]["image"]]
        embedded.append(model.encode_image(processor(images=images, return_tensors="pt")["pixel_values"]))
    inputs = torch.cat(embedded).double().numpy()
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    angle = np.deg2rad(pictures["angle"])
    columns = {name: np.array(pictures[name]) for name in ("x", "y", "size")}
    columns |= {"sine": np.sin(angle), "cosine": np.cos(angle), "opacity": np.array(pictures["opacity"])}
    drawings = np.array(pictures["drawing"])
    fitted = np.isin(drawings, np.unique(drawings)[::3], invert=True)
    found = {}
    for name, values in columns.items():
        centred = values - values[fitted].mean()
        gram = inputs[fitted].T @ inputs[fitted] + 1e-2 * np.eye(inputs.shape[1])
        errors = centred - inputs @ np.linalg.solve(gram, inputs[fitted].T @ centred[fitted])
        found[name] = 1 - float((errors[~fitted] ** 2).mean() / values[~fitted].var())
    return found


def train_on_films(options: argparse.Namespace, head: str, seed: int, folder: Path) -> float:
    """Train a head on the films' actions with the library's own training; returns the seconds it took."""
    settings = {
        "model": options.placed / "last",
        "dataset": "moving-drawings",
        "caption_column": "action",
        "num_frames": NUM_FRAMES,
        "temporal_head": head,
        "temporal_num_layers": options.layers,
        "freeze": "vision",
        "loss": "same_label",
        "learning_rate": options.learning_rate,
        "head_learning_rate_multiplier": options.head_multiplier,
        "batch_size": options.batch_size,
        "max_grad_norm": 1.0,
        "max_steps": options.steps,
    }
    return run_training(settings, folder, seed, options.num_workers)


@torch.inference_mode()
def embed_frames(folder: Path, films: datasets.Dataset) -> torch.Tensor:
    """Embeddings of all frames of films of one length, (films, frames, dim).

    The two films of a pair have the same frames in reverse (a test holds that), which are embedded once.
    """
    model, processor = ClipHFModel.from_pretrained(folder).eval(), ClipHFProcessor.from_pretrained(folder)
    embedded: dict[int, torch.Tensor] = {}
    result = []
    for video, pair in zip(films["video"], films["pair"], strict=True):
        if pair in embedded:
            result.append(embedded[pair].flip(0))
            continue
        frames = [image for _, image in read_frames(video["path"])]
        embedded[pair] = model.encode_image(processor(images=frames, return_tensors="pt")["pixel_values"])
        result.append(embedded[pair])
    return torch.stack(result)


def train_head(
    options: argparse.Namespace, head: str, frames: torch.Tensor, texts: list[str], seed: int
) -> tuple[ClipHFVideoModel, float]:
    """Train a head and the text tower on embedded frames (films, frames, dim); returns the model and the seconds."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    clip = ClipHFModel.from_pretrained(options.placed / "last")
    model = ClipHFVideoModel.from_clip(clip, head, NUM_FRAMES, options.layers).train()
    freeze(model, ["vision"])
    optimizer = build_optimizer(
        model,
        OptimizerOptions(
            learning_rate=options.learning_rate,
            head_multiplier=options.head_multiplier * MULTIPLIERS.get(head, 1.0),
        ),
    )
    steps = options.steps if len(set(texts)) == len(ACTIONS) else 2 * options.steps
    schedule = cosine_schedule(optimizer, steps // 10, steps)
    tokens = ClipHFProcessor.from_pretrained(options.placed / "last")(text=texts, padding=True, return_tensors="pt")
    labels = torch.tensor([sorted(set(texts)).index(text) for text in texts])
    generator, sampling = np.random.default_rng(seed), ClipSampling(NUM_FRAMES)
    order = np.concatenate(
        [generator.permutation(len(texts)) for _ in range(1 + steps * options.batch_size // len(texts))]
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step in range(steps):
        rows = order[step * options.batch_size : (step + 1) * options.batch_size]
        chosen = [sampling.choose(frames.shape[1], generator=generator) for _ in rows]
        clips = frames[rows[:, None], np.array(chosen)]
        video = nn.functional.normalize(model.temporal_head(clips), dim=-1)
        text = model.encode_text(**{name: value[rows] for name, value in tokens.items()})
        loss = same_label_loss(video, text, model.logit_scale.exp(), labels=labels[rows])
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clamp_logit_scale_(model)
        schedule.step()
    return model.eval(), time.perf_counter() - started


@torch.inference_mode()
def similarities(
    options: argparse.Namespace, model: ClipHFVideoModel, frames: torch.Tensor, texts: list[str]
) -> np.ndarray:
    """Cosines of films and texts, (films, texts), from the middle frames of the segments."""
    clips = frames[:, ClipSampling(NUM_FRAMES).choose(frames.shape[1])]
    video = nn.functional.normalize(model.temporal_head(clips), dim=-1)
    tokens = ClipHFProcessor.from_pretrained(options.placed / "last")(text=texts, padding=True, return_tensors="pt")
    return (video @ model.encode_text(**tokens).T).numpy()


def action_figures(scores: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """Percentages of right answers from scores of films and the ten actions."""
    rows = np.arange(len(answers))
    chosen = scores.argmax(1)
    # The two of a pair are neighbours: 0 and 1, 2 and 3, ...
    own, reverse = scores[rows, answers], scores[rows, answers ^ 1]
    within = np.where(own == reverse, 0.5, own > reverse)
    by_pair = {name: 100 * float(within[answers // 2 == pair].mean()) for pair, name in enumerate(SHORT_NAMES)}
    return {
        "action": 100 * float((chosen == answers).mean()),
        "pair": 100 * float((chosen // 2 == answers // 2).mean()),
        "within pairs": 100 * float(within.mean()),
        **by_pair,
    }


def all_captions(films: datasets.Dataset) -> list[str]:
    """The captions of all combinations of drawings and actions, drawing by drawing."""
    return [motion_caption(drawing, action) for drawing in sorted(set(films["drawing"])) for action in ACTIONS]


def combination_figures(scores: np.ndarray, films: datasets.Dataset) -> dict[str, float]:
    """Percentages of right captions, drawings and actions, from scores of films and `all_captions`."""
    texts, drawings = all_captions(films), sorted(set(films["drawing"]))
    answers = np.array([texts.index(caption) for caption in films["caption"]])
    chosen = scores.argmax(1)
    of_drawing = scores.reshape(len(films), len(drawings), len(ACTIONS))[
        np.arange(len(films)), answers // len(ACTIONS)
    ]
    figures = action_figures(of_drawing, answers % len(ACTIONS))
    return {
        "caption": 100 * float((chosen == answers).mean()),
        "drawing": 100 * float((chosen // len(ACTIONS) == answers // len(ACTIONS)).mean()),
        "action of the drawing": figures["action"],
        "within pairs": figures["within pairs"],
    }


def confirm(options: argparse.Namespace, frames: torch.Tensor, labels: np.ndarray) -> None:
    """Train one head with the library's training, on the films themselves, and print its figures."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = train_on_films(options, options.confirm, 0, Path(folder) / "model")
        model = ClipHFVideoModel.from_pretrained(Path(folder) / "model" / "last").eval()
        figures = action_figures(similarities(options, model, frames, ACTIONS), labels)
    print(
        json.dumps({"check": "clip_hf.training", "head": options.confirm, **figures, "seconds": seconds}), flush=True
    )


def draw_figures(title: str, runs: dict[str, list[dict[str, float]]], chance: dict[str, float]) -> str:
    """A table of means and spreads (smallest to largest) over the seeds, a row for each head."""
    names = list(next(iter(runs.values()))[0])

    def cell(values: list[float], digits: int) -> str:
        mean, low, high = (f"{each:.{digits}f}" for each in (np.mean(values), min(values), max(values)))
        return mean if len(values) == 1 else f"{mean} ({low}-{high})"

    rows = [
        (head, *(cell([run[name] for run in of_head], 0 if name == "seconds" else 1) for name in names))
        for head, of_head in runs.items()
    ]
    rows.append(("chance", *(f"{chance[name]:.1f}" if name in chance else "" for name in names)))
    return draw_table(title, ("head", *names), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", default="outputs/demo/resnet/last", help="the CLIP (default: the demo's ResNet)")
    parser.add_argument("--placed", type=Path, default=Path("outputs/placed"), help="where stage one is kept")
    parser.add_argument("--placed_steps", type=int, default=400, help="of stage one (default: %(default)s)")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS, help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each head (default: %(default)s)")
    parser.add_argument("--checks", nargs="+", default=["actions", "combinations"], help="which (default: both)")
    parser.add_argument("--steps", type=int, default=800, help="of a training on actions; twice as many on captions")
    parser.add_argument("--batch_size", type=int, default=32, help="clips of a step (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of the towers (default: %(default)s)")
    parser.add_argument("--head_multiplier", type=float, default=4.0, help="of the head's rate (default: 4)")
    parser.add_argument("--confirm", choices=HEADS, help="train this head on the films with the library's training")
    parser.add_argument("--layers", type=int, default=2, help="of Transf and Transf_cls (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read films (default: 1)")
    options = parser.parse_args()
    if not (Path(options.model) / "config.json").is_file():
        raise SystemExit(f"There is no model in {options.model}: `make demo` trains it, or name another with --model.")

    print_machine()
    teach_places(options)
    films = load_moving_drawings()
    print(f"{options.model}; films: {', '.join(f'{len(part)} {name}' for name, part in films.items())}")
    print(" ".join(f"{name}={value}" for name, value in vars(options).items()), flush=True)
    started = time.perf_counter()
    frames = {name: embed_frames(options.placed / "last", part) for name, part in films.items()}
    print(f"all frames embedded in {time.perf_counter() - started:.0f} s", flush=True)
    train_texts = {"actions": films["train"]["action"], "combinations": films["train"]["caption"]}
    labels = np.array(films["test"]["label"])
    if options.confirm is not None:
        confirm(options, frames["test"], labels)
    for check in options.checks:
        runs: dict[str, list[dict[str, float]]] = defaultdict(list)
        for head in options.heads:
            for seed in range(options.seeds):
                model, seconds = train_head(options, head, frames["train"], list(train_texts[check]), seed)
                if check == "actions":
                    figures = action_figures(similarities(options, model, frames["test"], ACTIONS), labels)
                else:
                    left_out = films["combinations"]
                    scores = similarities(options, model, frames["combinations"], all_captions(left_out))
                    figures = combination_figures(scores, left_out)
                runs[head].append({**figures, "seconds": seconds})
                print(json.dumps({"check": check, "head": head, "seed": seed, **runs[head][-1]}), flush=True)
        pairs = dict.fromkeys(SHORT_NAMES, 50.0)
        num_drawings = len(set(films["combinations"]["drawing"]))
        chance = {
            "actions": {"action": 10.0, "pair": 20.0, "within pairs": 50.0, **pairs},
            "combinations": {
                "caption": 10 / num_drawings,
                "drawing": 100 / num_drawings,
                "action of the drawing": 10.0,
                "within pairs": 50.0,
            },
        }[check]
        print(f"\n{draw_figures(TITLES[check], runs, chance)}\n", flush=True)


if __name__ == "__main__":
    main()
