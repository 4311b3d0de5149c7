# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pixels and speed of `ClipHFImageProcessor` beside OpenAI's transform and transformers' `CLIPImageProcessorPil`.

The pixels are compared on odd images: every mode of Pillow, from 1x1 over 1xN to 10,000xN. Times are of batches of
decoded photographs in several sizes and of 72-pixel pictures, with one thread and with all, medians of interleaved
runs. torchvision's own processor (`CLIPImageProcessor`) is not measured: its operators need a torchvision
that is built for the installed torch.
"""

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clip_hf import ClipHFImageProcessor
from references import load_torchvision, openai_transform


# Mode La is left out: OpenAI's transform cannot read it.
MODES = (
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B",
    "I;16L", "I;16N",
)  # fmt: skip
SIZES = (
    (1, 1), (1, 2), (3, 1), (1, 97), (331, 1), (2, 1500), (2000, 3), (5, 4), (223, 225), (224, 224), (225, 224),
    (229, 311), (449, 224), (640, 427), (427, 640), (90, 60), (1000, 7), (13, 450),
)  # fmt: skip
LONG = (("RGB", (1, 10_000)), ("RGB", (10_000, 1)), ("L", (3, 10_000)), ("P", (10_000, 2)), ("RGB", (10_000, 1_200)))


def make_image(mode: str, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """An image of random values of 0 to 255 in every band, half of them smooth so that resizing is not all noise."""
    width, height = size
    if mode in ("I", "F") or mode.startswith("I;16"):
        dtype = {"I": "<i4", "F": "<f4", "I;16B": ">u2"}.get(mode, "<u2")
        return Image.frombytes(mode, size, generator.integers(0, 256, (height, width)).astype(dtype).tobytes())
    blank = Image.new(mode, size)
    image = Image.frombytes(mode, size, generator.integers(0, 256, len(blank.tobytes()), dtype=np.uint8).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(generator.integers(0, 256, 768, dtype=np.uint8).tobytes())
        if mode == "P" and width % 2:
            image.info["transparency"] = 3
    return image


def odd_images() -> Iterator[tuple[str, Image.Image]]:
    """Some 350 images with a name each."""
    generator = np.random.default_rng(0)
    for mode in MODES:
        for width, height in SIZES:
            yield f"{mode} {width}x{height}", make_image(mode, (width, height), generator)
    for mode, (width, height) in LONG:
        yield f"{mode} {width}x{height}", make_image(mode, (width, height), generator)


def count_differences() -> None:
    """Print on how many odd images one value differs in one bit."""
    reference = openai_transform(224)
    ours, stock = ClipHFImageProcessor(), CLIPImageProcessorPil()
    images = different = stock_different = failed = 0
    for _, image in odd_images():
        expected = reference(image).numpy()
        images += 1
        different += not np.array_equal(ours(image, return_tensors="np").pixel_values[0], expected)
        try:
            pixels = stock(image, return_tensors="np").pixel_values[0]
            stock_different += not np.allclose(pixels, expected, rtol=0, atol=1e-5)  # its rounding is not counted
        except Exception:
            failed += 1
    print(f"{images} odd images of {len(MODES)} modes against OpenAI's transform:")
    print(f"  ClipHFImageProcessor     {different:4} differ in a bit")
    print(f"  CLIPImageProcessorPil    {stock_different:4} differ by more than 1e-5, {failed} raise an error\n")


def photographs(size: tuple[int, int], count: int) -> list[Image.Image]:
    """scikit-learn's two photographs in turn, resized to `size` and turned where `size` is upright."""
    images = []
    for array in load_sample_images().images:
        image = Image.fromarray(array)
        image = image.transpose(Image.Transpose.ROTATE_90) if size[0] < size[1] else image
        images.append(image.resize(size, Image.Resampling.BICUBIC))
    return [images[index % 2].copy() for index in range(count)]


def medians(sides: dict[tuple[str, int], Callable[[], object]], repeats: int) -> dict[tuple[str, int], float]:
    """Median seconds of each side, which take turns. A side is named by what it is and its number of threads."""
    times: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, run in sides.items():
            torch.set_num_threads(side[1])
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                times[side].append(time.perf_counter() - start)
    return {side: statistics.median(values) for side, values in times.items()}


def measure(images: list[Image.Image], repeats: int, threads: int) -> None:
    """Print one row: milliseconds per image, and how many times as long the others take with their best threads."""
    transform = openai_transform(224)
    ours, stock = ClipHFImageProcessor(), CLIPImageProcessorPil()
    runs = {
        "ours": lambda: ours(images, return_tensors="pt"),
        "openai": lambda: torch.stack([transform(image) for image in images]),
        "stock": lambda: stock(images, return_tensors="pt"),
    }
    sides = {(name, count): run for name, run in runs.items() for count in sorted({1, threads})}
    result = {side: 1e3 * seconds / len(images) for side, seconds in medians(sides, repeats).items()}
    openai = min(result["openai", 1], result["openai", threads])
    hf = min(result["stock", 1], result["stock", threads])
    one, all_threads = result["ours", 1], result["ours", threads]
    print(
        f"{images[0].width}x{images[0].height}".rjust(10),
        f"x{len(images):<3} {one:7.2f} {all_threads:7.2f} {openai:7.2f} {hf:7.2f}",
        f"{openai / one:9.2f} {openai / all_threads:7.2f} {hf / one:9.2f} {hf / all_threads:7.2f}",
    )


def print_machine() -> None:
    """Print what the figures depend on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {
        "Python": platform.python_version(),
        "Pillow": PIL.__version__,
        "torch": torch.__version__,
        "torchvision": load_torchvision().__version__,
        "transformers": transformers.__version__,
    }
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{datetime.date.today()}, {model}, {torch.get_num_threads()} threads{load}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="rounds whose median is taken (default: 9)")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch of small ones (default: 16)")
    parser.add_argument("--only-times", action="store_true", help="leave out the comparison of pixels")
    arguments = parser.parse_args()
    print_machine()
    if not arguments.only_times:
        count_differences()
    threads = torch.get_num_threads()
    print("milliseconds per image, ours with one thread and with all, the others with whichever is faster; then how")
    print("many times as long they take as ours with one thread and with all")
    print(f"{'size':>10} {'':4} {'ours 1':>7} {f'ours {threads}':>7} {'OpenAI':>7} {'HF PIL':>7}", end=" ")
    print(f"{'OpenAI/1':>9} {f'/{threads}':>7} {'HF PIL/1':>9} {f'/{threads}':>7}")
    for size, batch in (
        ((72, 72), arguments.batch),
        ((640, 427), arguments.batch),
        ((427, 640), arguments.batch),
        ((1500, 1000), max(arguments.batch // 2, 1)),
        ((4000, 3000), max(arguments.batch // 8, 1)),
        ((72, 72), 1),
        ((640, 427), 1),
        ((4000, 3000), 1),
        ((3000, 4000), 1),
        ((2000, 100), 1),
    ):
        measure(photographs(size, batch), arguments.repeats, threads)


if __name__ == "__main__":
    main()
