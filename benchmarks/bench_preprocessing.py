# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From JPEG files to pixel values: images a second, and how far each side's pixels are from OpenAI's.

(a) `ClipHFImageProcessor`, exact and with `draft=True`; hf-processors-rs, which decodes and prepares in Rust, with
    both of its backends; transformers' `CLIPImageProcessorPil`; OpenAI's transform; and torchvision's transforms of
    tensors, which is what transformers' `CLIPImageProcessor` calls. They take turns, on photographs of four sizes.

(b) With `--factors`: what drafts of other sizes than the default would do to pixels, and with `--models` to the
    features and the zero-shot top-1 of these models on OpenMoji's 300 held-out drawings, enlarged to 600 and 1,000
    pixels, among all 3,953 names.

OpenAI's code and torchvision come from `make parity-env`, hf-processors-rs from `pip install hf-processors-rs`.
Without the last its sides are left out, and a line says so.

The photographs are scikit-learn's two, mirrored and repeated up to the size: a pixel has the detail of a camera's.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from bench_image_processor import medians, print_machine
from clip_hf import ClipHFImageProcessor
from clip_hf.data import load_openmoji
from clip_hf.embedding import load_dual_encoder
from clip_hf.model import image_transform_clip_hf
from references import load_torchvision, openai_transform, optional_peer


SIZES = ((4000, 3000, 4), (1280, 960, 8), (640, 480, 16), (224, 224, 32))
Side = Callable[[list[str]], np.ndarray | torch.Tensor]


def photograph(number: int, width: int, height: int) -> Image.Image:
    """One of two photographs, mirrored and repeated up to a size; or reduced to it, if that is smaller."""
    image = Image.fromarray(load_sample_images().images[number % 2])
    if width < image.width:
        return image.resize((width, height), Image.Resampling.LANCZOS)
    rows, columns = -(-height // image.height), -(-width // image.width)
    array = np.asarray(image)
    row = np.concatenate([array[:, :: 1 - 2 * (column % 2)] for column in range(columns)], axis=1)
    whole = np.concatenate([row[:: 1 - 2 * (index % 2)] for index in range(rows)])
    return Image.fromarray(whole[:height, :width])


def save_photographs(folder: Path, width: int, height: int, count: int) -> list[str]:
    """Paths of JPEG files, quality 90, chroma at half the size."""
    paths = [folder / f"{width}x{height}_{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photograph(number, width, height).save(path, quality=90)
    return list(map(str, paths))


def rust_side(package: ModuleType, backend: str) -> Side:
    """hf-processors-rs's processor with the configuration of OpenAI's models, on as many threads as torch has."""
    with tempfile.TemporaryDirectory() as folder:
        CLIPImageProcessorPil().save_pretrained(folder)
        file = Path(folder, "preprocessor_config.json")
        config = {**json.loads(file.read_text()), "image_processor_type": "CLIPImageProcessor"}
        file.write_text(json.dumps(config))
        processor = package.AutoImageProcessor.from_pretrained(folder, backend=backend)
    return lambda paths: processor(paths, num_threads=torch.get_num_threads())


def tensor_transform() -> Side:
    """torchvision's transforms of uint8 tensors, whose filter is torch's."""
    functional = load_torchvision().transforms.functional
    mean, std = ClipHFImageProcessor.image_mean, ClipHFImageProcessor.image_std

    def prepare(path: str) -> torch.Tensor:
        with Image.open(path) as image:
            pixels = functional.pil_to_tensor(image.convert("RGB"))
        pixels = functional.resize(pixels, 224, functional.InterpolationMode.BICUBIC, antialias=True)
        return functional.normalize(functional.center_crop(pixels, 224).float() / 255, mean, std)

    return lambda paths: torch.stack([prepare(path) for path in paths])


def sides() -> dict[str, Side]:
    """All sides: paths to pixel values (batch, 3, 224, 224), with as many threads as torch has."""
    ours, stock, openai = ClipHFImageProcessor(), CLIPImageProcessorPil(), openai_transform(224)

    def with_openai(paths: list[str]) -> torch.Tensor:
        return torch.stack([openai(Image.open(path)) for path in paths])

    rust = optional_peer(
        "hf-processors-rs", partial(import_module, "hf_processors_rs"), "pip install hf-processors-rs"
    )
    backends = () if rust is None else ("pil", "torchvision")
    return {
        "ours": lambda paths: ours(paths, return_tensors="pt").pixel_values,
        "ours, draft": lambda paths: ours(paths, return_tensors="pt", draft=True).pixel_values,
        **{f"rs, {backend}": rust_side(rust, backend) for backend in backends},
        "HF PIL": lambda paths: stock([Image.open(path) for path in paths], return_tensors="pt").pixel_values,
        "OpenAI": with_openai,
        "torchvision": tensor_transform(),
    }


def differences(pixels: np.ndarray | torch.Tensor, exact: torch.Tensor) -> np.ndarray:
    """Absolute differences in units of 8-bit values."""
    std = 255 * torch.tensor(ClipHFImageProcessor.image_std).view(3, 1, 1)
    return ((torch.as_tensor(np.asarray(pixels)) - exact).abs() * std).numpy()


def measure(everyone: dict[str, Side], paths: list[str], repeats: int, threads: int) -> None:
    """Print a table for files of one size."""
    runs = {
        (name, count): (lambda side=side: side(paths)) for name, side in everyone.items() for count in {1, threads}
    }
    seconds = {side: value / len(paths) for side, value in medians(runs, repeats).items()}
    fastest = {name: min(seconds[name, 1], seconds[name, threads]) for name in everyone}
    exact = everyone["OpenAI"](paths)
    for name, side in everyone.items():
        one, best = (1 / seconds[name, count] for count in (1, threads))
        ratio = fastest["ours"] / fastest[name]
        difference = differences(side(paths), exact)
        print(
            f"{name:<16} {one:9.1f} {best:9.1f} {ratio:8.2f}x {difference.mean():9.3f} "
            f"{np.percentile(difference, 99):6.1f} {difference.max():6.1f}"
        )


def compare_factors(paths: dict[str, list[str]]) -> None:
    """Print the differences of drafts that have more or less pixels than by default."""
    ours = ClipHFImageProcessor()
    print(f"\n{'size':>10} {'factor':>7} {'ms':>7} {'mean':>9} {'p99':>6} {'max':>6}")
    for size, files in paths.items():
        exact = ours(files, return_tensors="pt").pixel_values
        for factor in (1, 1.5, 2, 4):
            image_transform_clip_hf.DRAFT_FACTOR = factor
            start = time.perf_counter()
            pixels = ours(files, return_tensors="pt", draft=True).pixel_values
            each = 1e3 * (time.perf_counter() - start) / len(files)
            found = differences(pixels, exact)
            print(
                f"{size:>10} {factor:7} {each:7.2f} {found.mean():9.3f} {np.percentile(found, 99):6.1f} "
                f"{found.max():6.1f}"
            )
    image_transform_clip_hf.DRAFT_FACTOR = 2


def compare_features(model: str) -> None:
    """Print how drafts of OpenMoji's held-out drawings change the features of a model and its answers."""
    data = load_openmoji()
    names = sorted({name for split in data.values() for name in split["caption"]})
    truth = torch.tensor([names.index(name) for name in data["test"]["caption"]])
    encoder = load_dual_encoder(model, device="cpu")
    texts = encoder.encode_texts(names)
    print(f"\n{model}, {len(truth)} drawings, {len(names)} names")
    print(f"{'size':>10} {'factor':>7} {'cosine, mean':>13} {'least':>8} {'same top-1':>11} {'top-1':>7} {'exact':>7}")
    for size in (600, 1000):
        files = [enlarged_jpeg(image, size) for image in data["test"]["image"]]
        encoder.set_image_options(draft=False)
        exact = encoder.encode_images(files)
        best = (exact @ texts.T).argmax(dim=1)
        encoder.set_image_options(draft=True)
        for factor in (1, 2, 4):
            image_transform_clip_hf.DRAFT_FACTOR = factor
            features = encoder.encode_images(files)
            cosines, found = (features * exact).sum(dim=1), (features @ texts.T).argmax(dim=1)
            same, right, before = ((a == b).float().mean() for a, b in ((found, best), (found, truth), (best, truth)))
            print(
                f"{size:>10} {factor:7} {cosines.mean():13.5f} {cosines.min():8.5f} {same:11.1%} {right:7.1%} "
                f"{before:7.1%}"
            )
    image_transform_clip_hf.DRAFT_FACTOR = 2


def enlarged_jpeg(image: Image.Image, size: int) -> bytes:
    """A drawing on white, as a square JPEG file of quality 90."""
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    with io.BytesIO() as file:
        image.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        return file.getvalue()


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="rounds whose median is taken (default: 9)")
    parser.add_argument("--factors", action="store_true", help="compare drafts of other sizes than the default")
    parser.add_argument("--models", nargs="*", default=[], metavar="FOLDER", help="models whose features to compare")
    arguments = parser.parse_args()
    print_machine()
    installed = {each.metadata["Name"]: each.version for each in distributions()}
    print(f"hf-processors-rs {installed.get('hf-processors-rs', '-')}")
    threads, everyone = torch.get_num_threads(), sides()
    with tempfile.TemporaryDirectory() as folder:
        files = {f"{w}x{h}": save_photographs(Path(folder), w, h, count) for w, h, count in SIZES}
        for size, paths in files.items():
            print(f"\n{size}, {len(paths)} files of {Path(paths[0]).stat().st_size / 1e3:,.0f} and more kB:")
            print("images/s with one thread and with all; the better over ours; differences of pixels (0 to 255)")
            print(f"{'':16} {'1 thread':>9} {f'{threads} threads':>9} {'ratio':>9} {'mean':>9} {'p99':>6} {'max':>6}")
            measure(everyone, paths, arguments.repeats, threads)
        if arguments.factors:
            torch.set_num_threads(threads)
            compare_factors(files)
    for model in arguments.models:
        compare_features(model)


if __name__ == "__main__":
    main()
