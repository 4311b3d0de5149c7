# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Zero-shot classification of many images with many labels: the stock transformers pipeline against ours.

Both run the same ViT-B/32-shaped random weights, the stock pipeline through transformers' CLIPModel, tokenizer and
image processor. The parts are timed in turns, in rounds, so that a busy machine slows all of them alike. The stock
pipeline encodes all labels again for each image (once per batch when it is given a batch size); `--stock-images` times
fewer images with it and scales up.
"""

import argparse
import datetime
import itertools
import logging
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from clip_hf import (
    ClipHFConfig,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFTokenizer,
    ClipHFZeroShotImageClassificationPipeline,
)


TEMPLATE = "This is a photo of {}."
KINDS = ("cat", "dog", "horse", "bird", "fish", "car", "train", "boat", "house", "bridge", "tree", "flower", "apple")
KINDS += ("lemon", "table", "chair", "lamp", "clock", "phone", "book", "guitar", "drum", "hat", "shoe", "ball")
LOOKS = ("red", "blue", "green", "small", "old", "wooden", "striped", "shiny", "broken", "wild")
PLACES = ("", " on a beach", " in the snow", " at night")


def make_labels(count: int) -> list[str]:
    """Labels of one to five words: "cat", "red cat", "red cat on a beach", ..."""
    looks = ["", *(f"{look} " for look in LOOKS)]
    labels = [f"{look}{kind}{place}" for place, look, kind in itertools.product(PLACES, looks, KINDS)]
    if count > len(labels):
        raise SystemExit(f"There are {len(labels)} labels at most.")
    return labels[:count]


def make_images(count: int) -> list[Image.Image]:
    """Images of 500x375, blurred noise."""
    generator = np.random.default_rng(0)
    coarse = [Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize((500, 375), Image.Resampling.BICUBIC) for image in coarse]


def make_pipelines(labels: list[str], device: str, dtype: torch.dtype):
    """The stock pipeline and ours, on the same weights and vocabulary."""
    prompts = [TEMPLATE.format(label) for label in labels]
    logging.getLogger("clip_hf").setLevel(logging.ERROR)  # that so few texts make a small vocabulary
    tokenizer = ClipHFTokenizer.train(prompts, vocab_size=2000)
    config = ClipHFConfig.from_architecture("ViT-B/32")
    config.text_config.bos_token_id = tokenizer.bos_token_id
    config.text_config.eos_token_id = config.text_config.pad_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    model = ClipHFModel(config).eval()
    towers = [config.text_config.to_dict(), config.vision_config.to_dict()]
    for tower in towers:
        tower.pop("model_type")
    clip = CLIPModel(CLIPConfig(text_config=towers[0], vision_config=towers[1], projection_dim=config.projection_dim))
    clip.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        stock_tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert stock_tokenizer(prompts)["input_ids"] == tokenizer(prompts)["input_ids"]
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    average = statistics.mean(lengths)
    print(f"prompts: {len(prompts)}, of {min(lengths)} to {max(lengths)} tokens, {average:.1f} on average")
    stock = ZeroShotImageClassificationPipeline(
        model=clip.eval().to(dtype),
        tokenizer=stock_tokenizer,
        image_processor=CLIPImageProcessorPil(),
        device=device,
    )
    ours = ClipHFZeroShotImageClassificationPipeline(
        model=model.to(dtype), tokenizer=tokenizer, image_processor=ClipHFImageProcessor(), device=device
    )
    return stock, ours


@dataclass
class Timings:
    """Seconds of each call, on the clock and of processor time, and what the text tower did in it."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    text_passes: int = 0
    prompts_encoded: int = 0

    def measure(self, counter, images, labels, **kwargs):
        """Time one call of the pipeline of `counter`; the results."""
        passes, prompts = counter.text_passes, counter.prompts_encoded
        start, cpu_start = time.perf_counter(), time.process_time()
        results = counter.pipe(images, candidate_labels=labels, **kwargs)
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu_start)
        self.text_passes += counter.text_passes - passes
        self.prompts_encoded += counter.prompts_encoded - prompts
        return results


class TextPasses:
    """Counts what the text tower of a pipeline does. The hook stays, because a new one clears our cache of labels."""

    def __init__(self, pipe):
        self.pipe, self.text_passes, self.prompts_encoded = pipe, 0, 0
        pipe.model.text_model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.text_passes += 1
        self.prompts_encoded += len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])


def difference(results, others) -> float:
    """Largest relative difference of a label's scores."""
    largest = 0.0
    for result, other in zip(results, others, strict=True):
        scores = {entry["label"]: entry["score"] for entry in other}
        largest = max(largest, max(abs(entry["score"] / scores[entry["label"]] - 1) for entry in result))
    return largest


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--stock-images", type=int, help="images that the stock pipeline classifies; default: all")
    parser.add_argument("--rounds", type=int, default=4, help="turns that the work is divided into")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"device {args.device}, {args.dtype}, {torch.get_num_threads()} threads")
    labels, images = make_labels(args.labels), make_images(args.images)
    stock, ours = make_pipelines(labels, args.device, getattr(torch, args.dtype))
    stock_images = images[: args.stock_images or args.images]
    stock, ours = TextPasses(stock), TextPasses(ours)
    for counter in (stock, ours):  # warm up both towers
        counter.pipe(images[:2], candidate_labels=labels[:2])

    one_by_one, batched, first, cached = Timings(), Timings(), Timings(), Timings()
    expected, largest = [], 0.0
    for part in np.array_split(np.arange(len(stock_images)), args.rounds):
        ours.pipe._classifiers.clear()
        results = first.measure(ours, images, labels, batch_size=32)
        cached.measure(ours, images, labels, batch_size=32)
        expected += one_by_one.measure(stock, [stock_images[index] for index in part], labels)
        batched.measure(stock, images, labels, batch_size=32)
        largest = max(largest, difference(expected, results[: len(expected)]))

    scale = len(images) / len(stock_images)
    total, cpu_total = scale * sum(one_by_one.seconds), scale * sum(one_by_one.cpu_seconds)
    measured = "measured" if scale == 1 else f"scaled up from {len(stock_images)} images"
    print(f"\n{args.images} images x {args.labels} labels; medians of {args.rounds} calls but for the first line")
    print(f"{'':34}{'seconds':>9} {'ratio':>7} {'CPU s':>9} {'ratio':>7} {'text passes':>12} {'prompts':>8}  a call")
    row = "{:34}{:9.2f} {:6.1f}x {:9.2f} {:6.1f}x {:12.0f} {:8.0f}"
    passes, prompts = scale * one_by_one.text_passes, scale * one_by_one.prompts_encoded
    print(row.format(f"stock ({measured})", total, 1, cpu_total, 1, passes, prompts))
    calls = {"stock, batch_size=32": batched, "clip_hf, first call": first, "clip_hf, labels cached": cached}
    for name, timings in calls.items():
        seconds, cpu_seconds = statistics.median(timings.seconds), statistics.median(timings.cpu_seconds)
        passes, prompts = timings.text_passes / args.rounds, timings.prompts_encoded / args.rounds
        print(row.format(name, seconds, total / seconds, cpu_seconds, cpu_total / cpu_seconds, passes, prompts))
    per_image = total / len(images)
    print(f"stock pipeline: {per_image:.2f} s an image; largest relative difference of a score: {largest:.1e}")


if __name__ == "__main__":
    main()
