# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the pages presuppose, in its smallest form: models under names of the hub, pairs, labelled pictures, recipes.

`INPUTS` lists everything that a reader is taken to have. What is not in it, a page has to make.
"""

import csv
import itertools
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFTokenizer, checkpoints
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.data import load_openmoji
from clip_hf.evaluation import get_dataset
from films import numbered_frames, write_film
from pair_data import caption_of, encoded, image_of, rows_of, samples_of, write_parquet, write_tar
from tiny_models import CAPTIONS, IMAGE_SIZE, MORE_TEXTS, VOCAB_SIZE, make_tiny_model


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
VOCABULARY = {"vocab_size": 49408, "max_position_embeddings": 77}
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 1, **VOCABULARY}
VISION = {
    "vit": {
        "model_type": "clip_hf_vit",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "patch_size": 16,
        "image_size": IMAGE_SIZE,
    },
    "resnet": {"model_type": "clip_hf_resnet", "stage_depths": [1, 1, 1, 1], "width": 4, "image_size": IMAGE_SIZE},
}
NUM_PAIRS = 24


# -------------------------------------------------------------------------------------------------------------- models


@cache
def openai_tokenizer() -> ClipHFTokenizer:
    return ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)


@cache
def small_tokenizer() -> ClipHFTokenizer:
    """One that takes less time to load, and to be compared for a cache of features."""
    return ClipHFTokenizer.train([*CAPTIONS, *MORE_TEXTS], vocab_size=VOCAB_SIZE, context_length=77)


def tiny_clip(tower: str, tokenizer: ClipHFTokenizer):
    """A tiny model, and its processor."""
    # OpenAI's code has four times the width.
    text = {**TEXT, "intermediate_size": 256, "vocab_size": len(tokenizer)}
    model = make_tiny_model(tower, text_config=text, vision_config=VISION[tower])
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = ClipHFImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    return model, ClipHFProcessor(images, tokenizer)


def write_ours(tower: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        for part in tiny_clip(tower, small_tokenizer()):
            part.save_pretrained(path)

    return write


def write_format(tower: str, form: str) -> Callable[[Path], None]:
    return lambda path: checkpoints.save(*tiny_clip(tower, openai_tokenizer()), path, format=form)


def write_stock(path: Path) -> None:
    """A CLIP of transformers with the vocabulary and the image size of the one on the hub, and hardly any weights."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 49406, "eos_token_id": 49407}
    config = CLIPConfig(
        text_config={**small, **VOCABULARY, **ends},
        vision_config={**small, "image_size": 224, "patch_size": 32},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(path)
    ours = json.loads(openai_tokenizer().backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in ours["merges"]]
    tokenizer = CLIPTokenizer(vocab=ours["vocab"], merges=merges, model_max_length=77)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(path)


# --------------------------------------------------------------------------------------------------------------- pairs


def write_pairs_folder(path: Path) -> None:
    """Pictures of one colour each, of which even a model of random weights thinks differently."""
    path.mkdir(parents=True)
    with open(path / "metadata.jsonl", "w", encoding="utf-8") as table:
        for number in range(NUM_PAIRS):
            colour = tuple(int(level) for level in np.random.default_rng(number).integers(0, 256, 3))
            Image.new("RGB", (12, 10), colour).save(path / f"{number}.png")
            table.write(json.dumps({"file_name": f"{number}.png", "caption": caption_of(number)}) + "\n")


def write_table(numbers: range) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pictures = path.parent / f"{path.stem}_pictures"
        pictures.mkdir(parents=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "caption"])
            for number in numbers:
                image_of(number).save(pictures / f"{number}.png")
                table.writerow([f"{pictures.name}/{number}.png", caption_of(number)])

    return write


def write_described(path: Path) -> None:
    """Captioned pictures, each with a title and with captions that are wrong."""
    pictures = path.parent / f"{path.stem}_pictures"
    pictures.mkdir(parents=True)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(NUM_PAIRS):
            image_of(number).save(pictures / f"{number}.png")
            wrong = [caption_of((number + shift) % NUM_PAIRS) for shift in range(number % 3)]
            row = {"image": f"{pictures.name}/{number}.png", "caption": caption_of(number), "wrong": wrong}
            file.write(json.dumps(row | {"title": caption_of(number).split()[-1]}) + "\n")


# --------------------------------------------------------------------------------------------------- labelled pictures


def write_class_folders(classes: list[str], **images_of_part: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        numbers = itertools.count()
        for (part, images), name in itertools.product(images_of_part.items(), classes):
            folder = path / part / name
            folder.mkdir(parents=True)
            for index in range(images):
                (folder / f"{index}.png").write_bytes(encoded(image_of(next(numbers))))

    return write


def write_registry_data(name: str, **images_of_part: int) -> Callable[[Path], None]:
    """Folders that are called by their label's number, as many as the registry's dataset has classes."""
    return lambda path: write_class_folders(
        [str(label) for label in range(get_dataset(name).num_classes)], **images_of_part
    )(path)


def write_hub_data(name: str, images: int = 1) -> Callable[[Path], None]:
    """Parquet files under the name of a repository of the hub, which `datasets` takes before it asks the hub."""

    def write(path: Path) -> None:
        entry = get_dataset(name)
        labels = [str(label) for label in range(entry.num_classes) for _ in range(images)]
        features = datasets.Features(
            {
                entry.image_column or "image": datasets.Image(),
                entry.label_column or "label": datasets.ClassLabel(names=sorted(set(labels), key=int)),
            }
        )
        path.mkdir(parents=True)
        for place, part in enumerate(("train", entry.splits["test"])):
            pictures = [image_of(number + place * len(labels)) for number in range(len(labels))]
            columns = dict(zip(features, (pictures, labels)))
            datasets.Dataset.from_dict(columns, features=features).to_parquet(path / f"{part}-00000-of-00001.parquet")

    return write


def write_annotated(path: Path) -> None:
    """Pictures with annotations, 32 of each combination of two of them."""
    values = {"gender": ("Female", "Male"), "age_group": ("0-19", "20-"), "race": ("one", "other")}
    rows = [
        {"image": image_of(number), **dict(zip(values, combination))}
        for number, combination in enumerate(list(itertools.product(*values.values())) * 16)
    ]
    features = {"image": datasets.Image(), **{name: datasets.Value("string") for name in values}}
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).save_to_disk(str(path))


def write_shoes(path: Path) -> None:
    names = ["ankle boot", "sandal"]
    path.mkdir(parents=True)
    rows = [{"image": image_of(number), "label": names[number % 2]} for number in range(8)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(path / "shoes_saved"))
    with open(path / "shoes.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label"])
        for number, row in enumerate(rows):
            row["image"].save(path / f"{number}.png")
            table.writerow([f"{number}.png", row["label"]])
    (path / "shoe_names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def write_many_tars(path: Path) -> None:
    """The 10,000 shards of a large dataset, which are all the same file here."""
    path.mkdir(parents=True)
    write_tar(path / "00000.tar", samples_of(range(NUM_PAIRS)))
    for shard in range(1, 10_000):
        os.link(path / "00000.tar", path / f"{shard:05d}.tar")


def write_copy(source: Path) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(source.read_bytes())


def write_queries(path: Path) -> None:
    path.write_text("drawing\nnumber 1\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- films


def write_films(count: int) -> Callable[[Path], None]:
    """Films of two seconds, of a pattern that is another one in the second, under their numbers."""

    def write(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            frames = [np.asarray(image_of(2 * number + second).resize((64, 64)).convert("RGB")) for second in (0, 1)]
            write_film(path / f"{number}.mp4", [frame for frame in frames for _ in range(4)], rate=4)

    return write


def write_class_films(path: Path) -> None:
    for name in ("opening_a_door", "closing_a_door"):
        write_films(2)(path / name)


def write_captioned_films(path: Path) -> None:
    rows = [{"video": f"MSRVTT/videos/{number}.mp4", "caption": caption_of(number)} for number in range(3)]
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_moments(path: Path) -> None:
    """QVHighlights' form."""
    rows = [{"query": caption_of(number), "vid": str(number), "relevant_windows": [[0, 1]]} for number in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- the whole

# What a page must say for a reader to have it -> its path -> how it is made.
INPUTS: dict[str, dict[str, Callable[[Path], None]]] = {
    "openai/clip-vit-base-patch32": {"openai/clip-vit-base-patch32": write_stock},
    "make demo": {
        "outputs/demo/resnet/last": write_ours("resnet"),
        "outputs/demo/vit/last": write_ours("vit"),
    },
    "RN50.pt": {"RN50.pt": write_format("resnet", "openai")},
    "CLIP-ViT-H-14-laion2B-s32B-b79K": {"CLIP-ViT-H-14-laion2B-s32B-b79K": write_format("vit", "open_clip")},
    "pairs.csv": {"pairs.csv": write_table(range(NUM_PAIRS))},
    "described.jsonl": {"described.jsonl": write_described},
    "held_out.csv": {"held_out.csv": write_table(range(NUM_PAIRS, NUM_PAIRS + 4))},
    "stickers.csv": {"stickers.csv": write_table(range(NUM_PAIRS))},
    "pairs/{00000..09999}.tar": {"pairs": write_many_tars},
    "my_images": {"my_images": write_pairs_folder},
    "my_pairs": {"my_pairs": write_pairs_folder},
    "photos/metadata.jsonl": {"photos": write_pairs_folder},
    "shards/*.parquet": {"shards": lambda path: write_parquet(path, rows_of(range(NUM_PAIRS)), 2)},
    "drawings/*.tar": {
        "drawings/0.tar": lambda path: write_tar(path, samples_of(range(NUM_PAIRS, NUM_PAIRS + 8))),
    },
    "queries.txt": {"queries.txt": write_queries},
    "path/to/class_folders": {"path/to/class_folders": write_class_folders(["cat", "dog"], train=8, test=4)},
    "my_photos": {"my_photos": write_class_folders(["cat", "dog"], **{".": 4})},
    "path/to/food101": {"path/to/food101": write_registry_data("food101", train=2, test=1)},
    "path/to/pets": {"path/to/pets": write_registry_data("pets", train=3, test=1)},
    "path/to/eurosat": {"path/to/eurosat": write_registry_data("eurosat", train=16, test=2)},
    "path/to/imagenet ": {"path/to/imagenet": write_registry_data("imagenet", test=1)},
    "path/to/imagenetv2": {"path/to/imagenetv2": write_registry_data("imagenet_v2", test=1)},
    "path/to/imagenet-a": {"path/to/imagenet-a": write_registry_data("imagenet_a", test=1)},
    "--data cifar10 ": {"uoft-cs/cifar10": write_hub_data("cifar10")},
    "--data food101 ": {"ethz/food101": write_hub_data("food101", images=2)},
    "annotated_photos": {"annotated_photos": write_annotated},
    "skate.mp4": {"skate.mp4": lambda path: write_film(path, numbered_frames(12))},
    "dance.mp4": {"dance.mp4": lambda path: write_film(path, numbered_frames(12, first=100))},
    "data/shoes_saved": {"data": write_shoes},
    "film.mp4": {"film.mp4": lambda path: write_film(path, numbered_frames(50))},
    "my_films": {"my_films": write_class_films},
    "msrvtt_test.json": {
        "msrvtt_test.json": write_captioned_films,
        "MSRVTT": lambda path: write_films(3)(path / "videos"),
    },
    "highlight_val_release.jsonl": {
        "highlight_val_release.jsonl": write_moments,
        "videos": write_films(2),
    },
}
# The same for examples in docstrings.
DOCSTRING_INPUTS = {
    **INPUTS,
    "path/to/cifar10": {"path/to/cifar10": write_registry_data("cifar10", test=1)},
    "path/to/pairs": {"path/to/pairs": write_pairs_folder},
    "cat.jpg": {"cat.jpg": write_copy(EXAMPLES / "pictures" / "temple.jpg")},
    "dog.png": {"dog.png": write_copy(EXAMPLES / "pictures" / "dog.png")},
    "bpe_simple_vocab_16e6.txt.gz": {"bpe_simple_vocab_16e6.txt.gz": write_copy(OPENAI_MERGES)},
    "path": {"my_model": write_ours("vit")},
}


def small_openmoji() -> datasets.DatasetDict:
    """Some of OpenMoji's drawings, those with skin tones among them."""
    whole = load_openmoji()
    toned = [row for row, tones in enumerate(whole["train"]["skin_tones"]) if len(tones) == 1]
    train = sorted({*range(0, len(whole["train"]), 100), *toned[:: len(toned) // 150]})
    return datasets.DatasetDict({"train": whole["train"].select(train), "test": whole["test"].select(range(16))})


def reduced_recipe(recipe: dict, data: str) -> dict:
    """A recipe with a tiny model, on the data given where it is OpenMoji's."""
    recipe = dict(recipe)
    if "config" in recipe:
        tower = "resnet" if "resnet" in str(recipe["config"]) or recipe["config"] == "RN50" else "vit"
        text = {**TEXT, "vocab_size": recipe.get("vocab_size", VOCABULARY["vocab_size"])}
        recipe["config"] = {"projection_dim": 16, "text_config": text, "vision_config": VISION[tower]}
    if recipe.get("dataset") == "openmoji":
        recipe["dataset"] = data
    if "vocab_size" in recipe:
        recipe["vocab_size"] = 514
    return recipe | {"warmup_steps": 0}


class World:
    """Makes folders that look like a checkout beside what a page presupposes; each input is made once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.openmoji = small_openmoji()
        self.openmoji.save_to_disk(str(folder / "openmoji"))
        shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (folder / "examples" / "recipes").glob("*.yaml"):
            recipe = reduced_recipe(yaml.safe_load(path.read_text(encoding="utf-8")), str(folder / "openmoji"))
            path.write_text(yaml.safe_dump(recipe), encoding="utf-8")

    def enter(self, text: str, destination: Path, inputs=INPUTS) -> None:
        """Fill an empty folder with the checkout's examples and the inputs that a text names."""
        _link(self.folder / "examples", destination / "examples")
        for name, parts in inputs.items():
            if name in text:
                for path, make in parts.items():
                    source = self.folder / "inputs" / path
                    if not source.exists():
                        source.parent.mkdir(parents=True, exist_ok=True)
                        make(source)
                    _link(source, destination / path)
                    pictures = f"{source.stem}_pictures"
                    if source.with_name(pictures).is_dir() and source.is_file():  # a table
                        _link(source.with_name(pictures), (destination / path).with_name(pictures))


def _link(source: Path, destination: Path) -> None:
    """A copy that takes no room; what is written to it later must replace files, as everything here does."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, copy_function=os.link)
    else:
        os.link(source, destination)


def docstring_names() -> dict:
    """What examples in docstrings call by the names of their function's parameters."""
    import math

    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = torch.nn.functional.normalize(torch.tensor(x), dim=-1)
    with Image.open(EXAMPLES / "pictures" / "temple.jpg") as picture:
        image = picture.convert("RGB")
    return {
        "path": "my_model",
        "image": image,
        "images": [image],
        "labels": ["a", "b", "c", "d", "e", "f"],
        "math": math,
        "train_x": x[:600],
        "train_y": y[:600],
        "val_x": x[600:900],
        "val_y": y[600:900],
        "test_x": x[900:],
        "test_y": y[900:],
        "classifier": torch.nn.functional.normalize(
            torch.stack([x[:600][y[:600] == digit].mean(0) for digit in range(10)]), dim=-1
        ),
    }
