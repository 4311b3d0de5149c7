# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Are the ranks of `retrieval_ranks` exact, and what do they take in time and memory?

First all ranks of 5,000 x 25,000 random embeddings are held against a dense float64 computation. Then sizes up to
100,000 x 500,000 (`--full`), beside the same with the whole matrix of scores in float32, CLIP_benchmark's recall
(`make parity-env`), and the matrix products alone. Each figure comes from a process of its own; memory is that of the
whole process with its embeddings. At every size, ranks of some queries are held against float64. A way that would not
fit into the memory that is free, or take far longer, is left out.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import time

import numpy as np
import torch

import references
from clip_hf.evaluation import retrieval_ranks
from measuring import measured, peak_gib


DIM = 512
TEXTS = 5  # of each image
WAYS = ("ours", "dense", "clip_benchmark", "products")
SIZES = (2_000, 5_000, 10_000)
FULL = (2_000, 5_000, 10_000, 20_000, 100_000)
# CLIP_benchmark's way takes minutes from here on.
_LARGEST_FOR_CLIP_BENCHMARK = 2_000
# They grow as ours do, which is known by then.
_LARGEST_FOR_PRODUCTS = 20_000
_CHECKED = 100
_BLOCK = (1024, 1984)


def random_pairs(size: int, device: str, noise: float) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Embeddings (size, DIM) and (TEXTS * size, DIM), a text's near its image's, and each text's image."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.randperm(TEXTS * size, generator=generator) % size
    images = torch.empty(size, DIM).normal_(generator=generator)
    texts = torch.empty(TEXTS * size, DIM)
    for own, image in zip(texts.split(16384), owners.split(16384), strict=True):
        own.normal_(generator=generator).mul_(noise).add_(images[image])
        own.div_(own.norm(dim=1, keepdim=True))
    images.div_(images.norm(dim=1, keepdim=True))
    return images.to(device), texts.to(device), owners.numpy()


def dense_ranks(images: torch.Tensor, texts: torch.Tensor, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks by the definition from the whole matrix, in the dtype of the embeddings; ties are not looked at."""
    scores = images @ texts.T
    owners = torch.from_numpy(owners).to(scores.device)
    right = scores[owners, torch.arange(len(texts), device=scores.device)]
    best = torch.full((len(images),), -torch.inf, dtype=scores.dtype, device=scores.device)
    best.scatter_reduce_(0, owners, right, "amax")
    to_text = (scores > best[:, None]).sum(dim=1)
    return to_text.cpu().numpy(), (scores > right).sum(dim=0).cpu().numpy()


def clip_benchmark_recalls(images: torch.Tensor, texts: torch.Tensor, owners: np.ndarray) -> dict[str, float]:
    """R@1, 5 and 10 with CLIP_benchmark's own functions, called as its `evaluate` does, in batches of 64."""
    path = references.parity_path("clip_benchmark", "metrics", "zeroshot_retrieval.py")
    spec = importlib.util.spec_from_file_location("clip_benchmark_retrieval", path)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    scores = texts @ images.T
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), torch.from_numpy(owners)] = True
    recalls = {}
    for name, own, right in (("text_to_image", scores, positive), ("image_to_text", scores.T, positive.T)):
        for k in (1, 5, 10):
            found = theirs.batchify(theirs.recall_at_k, own, right, 64, scores.device, k=k)
            recalls[f"{name}_R@{k}"] = (found > 0).float().mean().item()
    return recalls


def products(images: torch.Tensor, texts: torch.Tensor) -> None:
    """The matrix products of `retrieval_ranks` and nothing else."""
    for right in texts.split(_BLOCK[1]):
        for left in images.split(_BLOCK[0]):
            left @ right.T


def wrong_ranks(images: torch.Tensor, texts: torch.Tensor, owners: np.ndarray, ranks) -> int:
    """How many of the ranks of some images and texts differ from float64's."""
    generator = np.random.default_rng(1)
    wrong = 0
    for image in generator.choice(len(images), _CHECKED):
        scores = _float64_scores(images[image], texts)
        wrong += int((scores > scores[owners == image].max()).sum()) != ranks.image_to_text[image]
    for text in generator.choice(len(texts), _CHECKED):
        scores = _float64_scores(texts[text], images)
        wrong += int((scores > scores[owners[text]]).sum()) != ranks.text_to_image[text]
    return int(wrong)


def _float64_scores(query: torch.Tensor, candidates: torch.Tensor) -> np.ndarray:
    parts = [part.double() @ query.double() for part in candidates.split(16384)]
    return torch.cat(parts).cpu().numpy()


def recalls_of(to_text: np.ndarray, to_image: np.ndarray) -> dict[str, float]:
    ranks = {"image_to_text": to_text, "text_to_image": to_image}
    return {f"{name}_R@{k}": float((own < k).mean()) for name, own in ranks.items() for k in (1, 5, 10)}


def measure(way: str, size: int, device: str, noise: float) -> dict:
    """Seconds and GiB of one way, and what it found."""
    images, texts, owners = random_pairs(size, device, noise)
    before = peak_gib(device)
    products(images[:2048], texts[:2048])  # what is set up once
    synchronise(device)
    started = time.perf_counter()
    result = {}
    if way == "ours":
        ranks = retrieval_ranks(images, texts, owners)
        result = recalls_of(ranks.image_to_text, ranks.text_to_image) | {"recomputed": ranks.recomputed}
    elif way == "dense":
        result = recalls_of(*dense_ranks(images, texts, owners))
    elif way == "clip_benchmark":
        result = clip_benchmark_recalls(images, texts, owners)
    else:
        products(images, texts)
    synchronise(device)
    seconds, peak = time.perf_counter() - started, peak_gib(device)
    if way == "ours":
        result["wrong"] = wrong_ranks(images, texts, owners, ranks)
    return result | {"seconds": seconds, "gib": peak, "before": before}


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def agreement(size: int, device: str, noise: float) -> dict:
    """How many ranks differ from those of float64, for `retrieval_ranks` and for float32."""
    images, texts, owners = random_pairs(size, device, noise)
    exact = dense_ranks(images.double(), texts.double(), owners)
    ranks = retrieval_ranks(images, texts, owners)
    ours = (ranks.image_to_text, ranks.text_to_image)
    dense = dense_ranks(images, texts, owners)
    different = {
        name: sum(int((one != other).sum()) for one, other in zip(own, exact, strict=True))
        for name, own in (("ours", ours), ("dense", dense))
    }
    return different | {"recomputed": ranks.recomputed}


def fits(way: str, size: int, device: str) -> bool:
    """Whether the scores, and the mask of them that both dense ways make, fit into the memory that is free."""
    if way in ("ours", "products"):
        return way == "ours" or size <= _LARGEST_FOR_PRODUCTS
    if way == "clip_benchmark" and (size > _LARGEST_FOR_CLIP_BENCHMARK or not references.PARITY_FOLDER.is_dir()):
        return False
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    # A score, what it is compared with, and the masks of both: 14 bytes were measured.
    return 16 * TEXTS * size**2 + 8 * DIM * TEXTS * size < 0.8 * memory


def row(size: int, found: dict[str, list[dict]]) -> str:
    """A line of the table; all ways must have found the same recalls, up to float32's rounding."""
    best = {
        way: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for way, results in found.items()
    }
    ours = best["ours"]
    for way, result in best.items():
        for key in (key for key in result if "_R@" in key):
            assert abs(result[key] - ours[key]) <= 1e-3, (way, key, result, ours)
    cells = [f"{best[way]['gib']:.2f} GiB, {best[way]['seconds']:.2f} s" if way in best else "-" for way in WAYS[:3]]
    cells += [f"{best['products']['seconds']:.2f} s" if "products" in best else "-"]
    ratios = [
        f"{ours['seconds'] / best[way]['seconds']:.2f}" if way in best else "-"
        for way in ("products", "dense", "clip_benchmark")
    ]
    share = 1e6 * ours["recomputed"] / (TEXTS * size**2)
    more = [f"{ours['gib'] - ours['before']:.2f} GiB", f"{share:.1f}", f"{int(ours['wrong'])} of {2 * _CHECKED}"]
    return f"| {size:,} x {TEXTS * size:,} | {' | '.join([*cells, *ratios, *more])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of images; each has 5 texts")
    parser.add_argument("--full", action="store_true", help="sizes up to 100,000 images and 500,000 texts")
    parser.add_argument("--noise", type=float, default=10.0, help="of the texts, in units of their images' embeddings")
    parser.add_argument("--agreement", type=int, default=5_000, help="images for comparing all ranks; 0 for none")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure, up to 10,000 images")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, size, device, noise = arguments.measure
        function = agreement if way == "agreement" else lambda *rest: measure(way, *rest)
        print(json.dumps(function(int(size), device, float(noise))))
        return
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.date.today()}, {name}, torch {torch.__version__}, numpy {np.__version__}; D = {DIM}, float32")
    if arguments.agreement:
        for noise in (arguments.noise, 1e6):
            found = measured(__file__, "agreement", arguments.agreement, device, noise)
            size = arguments.agreement
            print(
                f"{size:,} x {TEXTS * size:,}, noise {noise:g}: of {6 * size:,} ranks, other than in float64: ours "
                f"{found['ours']}, dense float32 {found['dense']}; scores recomputed: {found['recomputed']:,}"
            )
    header = ["images x texts", "ours", "dense", "CLIP_benchmark", "products", "ours / products", "ours / dense"]
    header += ["ours / CLIP_benchmark", "ours beyond embeddings", "recomputed per million", "wrong"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for size in arguments.sizes or (FULL if arguments.full else SIZES):
        found = {way: [] for way in WAYS if fits(way, size, device)}
        for _ in range(arguments.rounds if size <= 10_000 else 1):
            for way, results in found.items():
                results.append(measured(__file__, way, size, device, arguments.noise))
        print(row(size, found), flush=True)


if __name__ == "__main__":
    main()
