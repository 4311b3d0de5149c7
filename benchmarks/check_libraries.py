# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The same weights in clip_hf, open_clip and sentence-transformers: how far do their features differ?

    .venv/bin/python benchmarks/check_libraries.py

A model of random weights with the shapes of `--architecture`, OpenAI's vocabulary and the pictures of
`examples/pictures`. It is written in our format and in open_clip's; each library reads a folder and prepares images
and texts itself. Printed are the largest differences of any coordinate of L2-normalised features. It needs
`make parity-env`.
"""

import argparse
import datetime
import platform
import tempfile
from pathlib import Path

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers import __version__ as sentence_transformers_version

import references
from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer, checkpoints
from clip_hf.embedding import load_dual_encoder


PICTURES = Path(__file__).resolve().parent.parent / "examples" / "pictures"
TEXTS = ["a photo of a cat", "two dogs & a bird", "naïve café", "it&#39;s a “quoted” sign", "word " * 100]


def encode_with_open_clip(folder: Path, paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features as open_clip's README computes them, one text at a time."""
    open_clip = references.load_open_clip()
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        pixel_values = torch.stack([preprocess(Image.open(path)) for path in paths])
        return model.encode_image(pixel_values, normalize=True), model.encode_text(tokenizer(TEXTS), normalize=True)


def encode_with_sentence_transformers(folder: Path, paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    model = SentenceTransformer(str(folder), device="cpu")
    options = {"normalize_embeddings": True, "convert_to_tensor": True}
    return model.encode([Image.open(path) for path in paths], **options), model.encode(TEXTS, **options)


def least_difference(features: torch.Tensor) -> float:
    """Of any two rows: what the differences between libraries have to be seen beside."""
    between = (features[:, None] - features[None]).abs().amax(dim=-1)
    return between[~torch.eye(len(features), dtype=torch.bool)].min().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B/32")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = ClipHFModel(ClipHFConfig.from_architecture(arguments.architecture)).eval()
    tokenizer = ClipHFTokenizer.from_bpe_file(references.openai_bpe_path())
    processor = ClipHFProcessor(ClipHFImageProcessor(), tokenizer)
    paths = sorted(path for path in PICTURES.iterdir() if path.suffix != ".md")
    versions = f"torch {torch.__version__}, sentence-transformers {sentence_transformers_version}"
    open_clip_version = references.load_open_clip().__version__
    print(f"{platform.processor() or platform.machine()}, {versions}, open_clip {open_clip_version}")
    print(f"{datetime.date.today()}; {arguments.architecture}, {len(paths)} pictures, {len(TEXTS)} texts")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "open_clip")
        model.save_pretrained(ours)
        processor.save_pretrained(ours)
        checkpoints.save(model, processor, theirs, format="open_clip")
        encoder = load_dual_encoder(ours, device="cpu")
        images, texts = encoder.encode_images(paths), encoder.encode_texts(TEXTS)
        least = (least_difference(images), least_difference(texts))
        print(f"Two pictures differ by {least[0]:.1e} or more, two texts by {least[1]:.1e}")
        for name, encode, place in (
            ("sentence-transformers", encode_with_sentence_transformers, ours),
            ("open_clip", encode_with_open_clip, theirs),
        ):
            other_images, other_texts = encode(place, paths)
            print(f"{name}, difference by picture, by text:")
            by_picture = (images - other_images).abs().amax(dim=1).tolist()
            print("  " + ", ".join(f"{path.name} {value:.1e}" for path, value in zip(paths, by_picture)))
            by_text = (texts - other_texts).abs().amax(dim=1).tolist()
            print("  " + ", ".join(f"{text[:24]!r} {value:.1e}" for text, value in zip(TEXTS, by_text)))


if __name__ == "__main__":
    main()
