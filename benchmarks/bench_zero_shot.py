# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The two halves of a zero-shot evaluation with a ViT-B/32-shaped model of random weights.

(a) The text classifier of ImageNet's classes under OpenAI's 80 templates, from the same weights: ours (prompts
    de-duplicated, sorted by length and tokens); ours in the given order and padded to the full 77 tokens, once with a
    tower that leaves out padding and shares beginnings within a batch, and once with one that computes everything; and
    clip_benchmark's `zero_shot_classifier` with open_clip's model and tokenizer. They take turns, in rounds, on
    `--classes` of the 1,000.

(b) Features of `--images` JPEG files of 500x375 through `encode_image_column`: reading, decoding, preparing and
    encoding; without a cache, with an empty one, and with a full one.

(c) With `--evaluation N`: all of `evaluate_zero_shot` on N such images, with ImageNet's 1,000 classes and the 80
    templates.

clip_benchmark and open_clip are in `.parity` (`make parity-env`).
"""

import argparse
import contextlib
import datetime
import importlib.util
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from PIL import Image

import references
from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer, checkpoints
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.embedding import DualEncoder, EncodingOptions, encode_image_column, load_dual_encoder
from clip_hf.evaluation import (
    ClassificationData,
    ZeroShotOptions,
    class_embeddings,
    evaluate_zero_shot,
)
from clip_hf.model.zero_shot_clip_hf import MAX_TOKENS_PER_BATCH, ensemble_prompts
from measuring import peak_gib


def load_clip_benchmark_classifier() -> Callable:
    """clip_benchmark's `zero_shot_classifier`, from its own file; the package is not imported."""
    path = references.clip_benchmark_folder() / "metrics" / "zeroshot_classification.py"
    specification = importlib.util.spec_from_file_location("clip_benchmark_zeroshot_classification", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.zero_shot_classifier


def _clip_benchmark_version() -> str:
    (folder,) = references.clip_benchmark_folder().parent.glob("clip_benchmark-*.dist-info")
    return folder.name.removeprefix("clip_benchmark-").removesuffix(".dist-info")


def imagenet_prompts() -> tuple[list[str], list[str]]:
    """clip_benchmark's English class names of ImageNet, and its templates with `{c}`."""
    folder = references.clip_benchmark_folder() / "datasets"
    names = json.loads((folder / "en_classnames.json").read_text())["imagenet1k"]
    return names, json.loads((folder / "en_zeroshot_classification_templates.json").read_text())["imagenet1k"]


def make_models(device: str, dtype: torch.dtype) -> tuple[DualEncoder, torch.nn.Module, Callable]:
    """Our encoder, and open_clip's model of the same weights with its tokenizer."""
    torch.manual_seed(0)
    model = ClipHFModel(ClipHFConfig.from_architecture("ViT-B/32")).eval()
    processor = ClipHFProcessor(ClipHFImageProcessor(), ClipHFTokenizer.from_bpe_file(OPENAI_MERGES))
    open_clip = references.load_open_clip()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(model, processor, Path(folder) / "model", format="open_clip")
        theirs = open_clip.create_model(f"local-dir:{folder}/model")
    encoder = load_dual_encoder(model, processor=processor, device=device, dtype=dtype)
    return encoder, theirs.eval().to(device, dtype), open_clip.get_tokenizer("ViT-B-32-quickgelu")


@torch.no_grad()
def unsorted_batches(
    encoder: DualEncoder, texts: list[str], compute_all: bool
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Texts in the given order, each padded to the full length; with `compute_all` the tower computes all of it."""
    size = MAX_TOKENS_PER_BATCH // 77
    for start in range(0, len(texts), size):
        batch = texts[start : start + size]
        inputs = encoder.tokenizer(batch, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        features = encoder.model.get_text_features(**inputs.to(encoder.device), pooled_only=not compute_all)
        embeds = torch.nn.functional.normalize(features.pooler_output.float(), dim=-1)
        yield list(range(start, start + len(batch))), embeds.cpu()


def time_classifiers(args: argparse.Namespace, encoder: DualEncoder, theirs, tokenizer) -> None:
    names, templates = imagenet_prompts()
    zero_shot_classifier = load_clip_benchmark_classifier()
    some = [names[index] for index in np.linspace(0, len(names) - 1, args.classes).astype(int)]

    def prompts(classes: list[str]) -> list[list[str]]:
        return [[template.format(c=name) for template in templates] for name in classes]

    def by_clip_benchmark() -> torch.Tensor:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return zero_shot_classifier(theirs, tokenizer, some, templates, args.device, amp=False).T.float().cpu()

    ways = {
        "clip_benchmark, open_clip": by_clip_benchmark,
        "clip_hf, all 77 tokens": lambda: ensemble_prompts(
            prompts(some), lambda texts: unsorted_batches(encoder, texts, True)
        ),
        "clip_hf, no bucketing": lambda: ensemble_prompts(
            prompts(some), lambda texts: unsorted_batches(encoder, texts, False)
        ),
        "clip_hf": lambda: ensemble_prompts(prompts(some), encoder.text_batches),
    }
    lengths = [len(ids) for ids in encoder.tokenizer([text for own in prompts(some) for text in own])["input_ids"]]
    tokens = f"{min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.1f} on average"
    print(f"\n(a) {len(some)} classes x {len(templates)} templates: {len(lengths)} prompts of {tokens}")
    classifiers = {name: way() for name, way in ways.items()}  # warms up as well
    seconds = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    base, expected = statistics.median(seconds["clip_benchmark, open_clip"]), classifiers["clip_benchmark, open_clip"]
    cosines = (expected @ expected.T).fill_diagonal_(-1)
    print(f"medians of {args.rounds} rounds; the two classes most alike have a cosine of {cosines.max():.5f}")
    print(f"{'':28}{'seconds':>9} {'prompts/s':>10} {'ratio':>7} {'max |difference|':>18}")
    for name, times in seconds.items():
        median, difference = statistics.median(times), (classifiers[name] - expected).abs().max().item()
        print(f"{name:28}{median:9.2f} {len(lengths) / median:10.1f} {base / median:6.2f}x {difference:18.1e}")


def make_data(count: int) -> datasets.Dataset:
    """JPEG files of 500x375, blurred noise, some 60 kB each."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append({"bytes": buffer.getvalue(), "path": None})
    size = statistics.mean(len(file["bytes"]) for file in files) / 1000
    print(f"\n(b) {count} JPEG files of 500x375, {size:.0f} kB on average")
    return datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())


def time_images(args: argparse.Namespace, encoder: DualEncoder) -> None:
    data = make_data(args.images)
    options = EncodingOptions(batch_size=args.batch_size, num_threads=args.num_threads, progress=False)
    encode_image_column(encoder, data.select(range(min(8, len(data)))), options=options)  # warms up
    start = time.perf_counter()
    fingerprint = encoder.fingerprint
    print(f"fingerprint of the model, {fingerprint[:8]}...: {time.perf_counter() - start:.2f} s")
    prepared = encoder.prepare([Image.open(io.BytesIO(b)) for b in _first_files(data, args.batch_size)])
    start = time.perf_counter()
    encoder.encode_images(prepared)
    alone = len(prepared["pixel_values"]) / (time.perf_counter() - start)
    print(f"{'the model alone, one batch':28}{alone:10.1f} images/s")
    with tempfile.TemporaryDirectory() as folder:
        cached = EncodingOptions(**{**vars(options), "cache_dir": folder})
        runs = {"without a cache": options, "with an empty cache": cached, "with a full cache": cached}
        for name, each in runs.items():
            start = time.perf_counter()
            features = encode_image_column(encoder, data, options=each)
            elapsed = time.perf_counter() - start
            print(f"{name:28}{len(features) / elapsed:10.1f} images/s {elapsed:9.2f} s")


def time_evaluation(args: argparse.Namespace, encoder: DualEncoder) -> None:
    names, templates = imagenet_prompts()
    data = make_data(args.evaluation)
    labels = np.random.default_rng(1).integers(len(names), size=len(data))
    data = data.add_column("label", labels)
    templates = [template.replace("{c}", "{}") for template in templates]
    labelled = ClassificationData("noise", data, "image", "label", names, tuple(templates))
    texts = {template.format(name) for name in names for template in templates}
    print(f"(c) {len(data)} images, {len(names)} classes, {len(templates)} templates: {len(texts)} different prompts")
    with tempfile.TemporaryDirectory() as folder:
        options = EncodingOptions(
            batch_size=args.batch_size, num_threads=args.num_threads, progress=False, cache_dir=folder
        )
        start = time.perf_counter()
        class_embeddings(encoder, names, templates, options)
        print(f"{'text classifier':28}{time.perf_counter() - start:9.1f} s")
        encode_image_column(encoder, data, options=options)
        print(f"{'and features of the images':28}{time.perf_counter() - start:9.1f} s")
        own = ZeroShotOptions(compare_prompts=False, encoding=options)
        for name in ("and all the rest", "again, all features kept"):
            result = evaluate_zero_shot(encoder, labelled, options=own)
            print(f"{name:28}{time.perf_counter() - start:9.1f} s", flush=True)
            start = time.perf_counter()
    print(f"top-1 {100 * result.accuracy:.2f}% (chance: 0.10%), peak memory {peak_gib('cpu'):.2f} GiB")


def _first_files(data: datasets.Dataset, count: int) -> list[bytes]:
    images = data.cast_column("image", datasets.Image(decode=False))
    return [image["bytes"] for image in images[: min(count, len(data))]["image"]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=20, help="classes of the comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=128, help="images of (b); 0 leaves it out")
    parser.add_argument("--evaluation", type=int, default=0, help="images of (c)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-threads", type=int, default=EncodingOptions().num_threads)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, ",
        end="",
    )
    print(f"open_clip {references.load_open_clip().__version__}")
    print(f"device {args.device}, {args.dtype}, {torch.get_num_threads()} threads")
    encoder, theirs, tokenizer = make_models(args.device, getattr(torch, args.dtype))
    if args.classes:
        time_classifiers(args, encoder, theirs, tokenizer)
    if args.images:
        time_images(args, encoder)
    if args.evaluation:
        time_evaluation(args, encoder)


if __name__ == "__main__":
    main()
