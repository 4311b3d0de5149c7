# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From a folder of JPEG files to embeddings, with a ViT-B/32 of random weights, the same on all sides.

Sides whose packages are not installed are left out, and a line says so.

- Ours: `encode_image_stream` over `load_dual_encoder`, exact and drafted, in PyTorch and in each `--runtime`.
- sentence-transformers (`pip install sentence-transformers`; the extra `dev` has it):
  `SentenceTransformer(folder).encode(images, batch_size=...)`.
- clip-retrieval inference: its pins (numpy below 2, pyarrow below 16, open_clip below 3) exclude the versions here,
  so these are its pieces, as its `reader.py` and `mapper.py` have them: a DataLoader whose workers, one a core, open
  each file and apply open_clip's transform, two batches ahead; `encode_image`, L2-normalised, as float16 in numpy.
  They need open_clip alone (`make parity-env`).
- open_clip without workers: the same in one process.

Half of the files are scikit-learn's photographs, half OpenMoji's drawings, enlarged. All sides take turns; figures are
medians, and cosines those of the embeddings with ours.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench_image_processor import medians, print_machine
from bench_preprocessing import enlarged_jpeg, photograph
from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer, checkpoints
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.data import load_openmoji
from clip_hf.embedding import EncodingOptions, encode_image_stream, load_dual_encoder
from references import load_open_clip, optional_peer


def save_images(folder: Path, count: int, size: int) -> list[str]:
    """JPEG files of 4:3 photographs and square drawings, `size` pixels wide, in turn."""
    drawings = load_openmoji()["train"]
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if number % 2:
            path.write_bytes(enlarged_jpeg(drawings[number]["image"], size))
        else:
            image = photograph(number // 2, size, size * 3 // 4)
            image.rotate(number % 7).save(path, quality=90)  # no two files alike
    return list(map(str, paths))


class Files(Dataset):
    """Image files as an open_clip transform prepares them."""

    def __init__(self, paths: list[str], transform: Callable):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]))


@torch.no_grad()
def with_open_clip(model: torch.nn.Module, transform: Callable, paths: list[str], workers: int, batch_size: int):
    """Embeddings in float16 by the pieces of clip-retrieval's inference."""
    ahead = {"prefetch_factor": 2} if workers else {}
    parts = []
    for pixels in DataLoader(Files(paths, transform), batch_size, num_workers=workers, **ahead):
        features = model.encode_image(pixels)
        features /= features.norm(dim=-1, keepdim=True)
        parts.append(features.cpu().to(torch.float16).numpy())
    return np.concatenate(parts)


def load_sides(folder: Path, paths: list[str], batch_size: int, runtimes: list[str]) -> dict[str, Callable]:
    """Functions without arguments that give the embeddings (n, 512) of all files."""
    torch.manual_seed(0)
    model = ClipHFModel(ClipHFConfig.from_architecture("ViT-B/32")).eval()
    processor = ClipHFProcessor(ClipHFImageProcessor(), ClipHFTokenizer.from_bpe_file(OPENAI_MERGES))
    for format in ("clip_hf", "transformers", "open_clip"):
        checkpoints.save(model, processor, folder / format, format=format)
    options = EncodingOptions(batch_size=batch_size, progress=False)

    def ours(runtime: str | None, draft: bool) -> Callable[[], np.ndarray]:
        encoder = load_dual_encoder(folder / "clip_hf", runtime=runtime, device="cpu")
        encoder.set_image_options(draft=draft)

        def encode() -> np.ndarray:
            return np.concatenate([batch.features for batch in encode_image_stream(encoder, paths, options=options)])

        return encode

    sides = {
        "clip_hf": ours(None, draft=False),
        "clip_hf, draft": ours(None, draft=True),
        **{f"clip_hf, {name}": ours(name, draft=False) for name in runtimes},
        **{f"clip_hf, {name}, draft": ours(name, draft=True) for name in runtimes},
    }
    package = optional_peer(
        "sentence-transformers", partial(import_module, "sentence_transformers"), "pip install sentence-transformers"
    )
    if package is not None:
        sentences = package.SentenceTransformer(str(folder / "transformers"), device="cpu")
        sides["sentence-transformers"] = lambda: sentences.encode(
            [Image.open(path) for path in paths], batch_size=batch_size, normalize_embeddings=True
        )
    open_clip = optional_peer("open_clip", load_open_clip, "make parity-env")
    if open_clip is not None:
        theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder / 'open_clip'}")
        theirs.eval()
        for name, workers in (("clip-retrieval's pieces", os.cpu_count()), ("open_clip, no workers", 0)):
            sides[name] = partial(with_open_clip, theirs, transform, paths, workers, batch_size)
    return sides


def main() -> None:
    """Print a table for each width of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="files (default: 128)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[640, 2000], help="widths (default: 640 2000)")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a pass of the model (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds whose median is taken (default: 5)")
    parser.add_argument("--runtime", nargs="*", default=[], metavar="NAME", help="such as onnx and openvino")
    arguments = parser.parse_args()
    print_machine()
    installed = {each.metadata["Name"]: each.version for each in distributions()}
    print(", ".join(f"{name} {installed.get(name, '-')}" for name in ("sentence-transformers", "pillow")))
    print(f"{os.cpu_count()} workers, threads as torch has them")
    threads = torch.get_num_threads()
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "images").mkdir()
            paths = save_images(Path(folder) / "images", arguments.images, size)
            sides = load_sides(Path(folder), paths, arguments.batch_size, arguments.runtime)
            exact = sides["clip_hf"]()
            seconds = medians({(name, threads): side for name, side in sides.items()}, arguments.repeats)
            print(f"\n{len(paths)} files {size} pixels wide")
            print(f"{'':26} {'images/s':>9} {'clip_hf is':>11} {'cosine, mean':>13} {'least':>9}")
            for name, side in sides.items():
                embeds = side().astype(np.float32)
                cosines = (embeds * exact).sum(axis=1) / np.linalg.norm(embeds, axis=1)
                ratio = seconds[name, threads] / seconds["clip_hf", threads]
                print(
                    f"{name:<26} {len(paths) / seconds[name, threads]:9.1f} {ratio:10.2f}x {cosines.mean():13.6f} "
                    f"{cosines.min():9.6f}"
                )


if __name__ == "__main__":
    main()
