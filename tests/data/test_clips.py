# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training clips of films: which frames they have, that these are changed alike, and films that cannot be used."""

import random
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import Augmentation, ImageTextDataset, PairLoader, PairOptions, SkippedRow, load_pairs
from clip_hf.data.clip_reading import build_reader
from clip_hf.data.rand_augment import CHANGES, MAX_MAGNITUDE, apply_change, rand_augment
from films import numbered_frames, read_number, write_film


SIZE = 32  # of a numbered frame, which has 64 pixels
PROCESSOR = ClipHFImageProcessor(size=64, crop_size=64)
CHANGED = Augmentation((0.4, 0.4, 0.2, 0.1), 0.5, horizontal_flip=0.5, rand_augment=(2, 9))

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six films of 16 numbered frames, a short one, a still one, and two that cannot be used."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(6):
        write_film(folder / f"{number}.mp4", numbered_frames(16, first=16 * number))
    write_film(folder / "short.mp4", numbered_frames(3))
    write_film(folder / "still.mp4", 16 * numbered_frames(1))
    (folder / "damaged.mp4").write_bytes((folder / "0.mp4").read_bytes()[:200])
    (folder / "text.mp4").write_text("no film")
    for path in folder.glob("*.mp4"):
        path.with_suffix(".txt").write_text(f"the film {path.stem}", encoding="utf-8")
    return folder


def options_of(num_frames: int = 4, **others) -> PairOptions:
    return PairOptions(num_frames=num_frames, **others)


def numbers_in(clip: np.ndarray) -> list[int]:
    """The numbers that the frames of `(frames, 3, height, width)` show."""
    return [read_number(Image.fromarray(frame.transpose(1, 2, 0))) for frame in clip]


def test_a_frame_of_each_segment_is_drawn_and_evaluation_takes_the_middle(folder):
    reader = build_reader(PROCESSOR, options_of())
    drawn = [numbers_in(reader.read(folder / "1.mp4", "row 0", random.Random(seed))) for seed in range(6)]
    for numbers in drawn:
        assert [(number - 16) // 4 for number in numbers] == [0, 1, 2, 3]
    assert len({tuple(numbers) for numbers in drawn}) > 1
    assert numbers_in(reader.read(folder / "1.mp4", "row 0", None)) == [16 + 4 * i + 1 for i in range(4)]


@pytest.mark.parametrize("kind", ["path", "struct", "bytes"])
def test_films_are_read_from_what_columns_hold(folder, kind):
    path = folder / "2.mp4"
    sources = {
        "path": str(path),
        "struct": {"path": str(path), "bytes": None},
        "bytes": {"path": "2.mp4", "bytes": path.read_bytes()},
    }
    clip = build_reader(PROCESSOR, options_of()).read(sources[kind], "row 0", None)
    assert (clip.shape, clip.dtype, numbers_in(clip)) == ((4, 3, 64, 64), np.uint8, [33, 37, 41, 45])


def test_short_films_repeat_frames(folder):
    numbers = numbers_in(build_reader(PROCESSOR, options_of(8)).read(folder / "short.mp4", "row 0", None))
    assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2}


def test_all_frames_of_a_clip_are_cut_out_and_changed_alike(folder):
    """Film 3's clip is that of its frames as pictures, each with the draws that the clip had."""
    processor = ClipHFImageProcessor(size=48, crop_size=32)
    reader = build_reader(processor, options_of(augmentation=CHANGED))
    for seed in range(8):
        still = reader.read(folder / "still.mp4", "row 0", random.Random(seed))
        changed = reader.augment(still, random.Random(seed))
        assert changed.shape == (4, 3, 32, 32)
        assert (still == still[:1]).mean() > 0.99  # the codec's noise
        same = np.repeat(still[:1], 4, axis=0)
        assert (reader.augment(same, random.Random(seed)) == changed[:1]).all()
        pictures = build_reader(processor, PairOptions(augmentation=CHANGED))
        moving = reader.read(folder / "3.mp4", "row 0", random.Random(seed))
        each = [pictures.augment(frame, random.Random(seed)) for frame in moving]
        assert np.array_equal(reader.augment(moving, random.Random(seed)), np.stack(each))


def test_the_generator_goes_on_after_a_clip_as_after_a_picture():
    reader = build_reader(PROCESSOR, options_of(augmentation=CHANGED))
    clip = np.zeros((4, 3, 64, 64), np.uint8)
    after_clip, after_picture = random.Random(3), random.Random(3)
    reader.augment(clip, after_clip)
    build_reader(PROCESSOR, PairOptions(augmentation=CHANGED)).augment(clip[0], after_picture)
    assert after_clip.random() == after_picture.random()


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("damaged.mp4", None, "The film of row 7"),
        ("text.mp4", None, "The film of row 7"),
        ("gone.mp4", "file missing", "gone.mp4"),
        (None, "film missing", "there is no film"),
        ("refused:/etc/passwd", "location refused", "image_root"),
        ("small.mp4", "film too small", "64x64 pixels; 65 are the least"),
    ],
)
def test_films_that_cannot_be_used_are_skipped_rows(folder, source, kind, text):
    least = 65 if source == "small.mp4" else 1
    source = "0.mp4" if source == "small.mp4" else source
    is_name = source is not None and not source.startswith("refused")
    path = str(folder / source) if is_name else source
    skipped = build_reader(PROCESSOR, options_of(min_image_size=least)).read(
        {"path": path, "bytes": None}, "row 7", random.Random(0)
    )
    assert isinstance(skipped, SkippedRow)
    assert text in skipped.message
    assert kind is None or skipped.kind == kind


def test_limits_on_bytes_hold_for_films(folder):
    limits = options_of(image_limits=PairOptions().image_limits.__class__(max_bytes=1000))
    skipped = build_reader(PROCESSOR, limits).read(str(folder / "0.mp4"), "row 0", None)
    assert skipped.kind == "file too large"


def test_a_missing_decoder_ends_the_training_instead_of_skipping_every_film(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match="extra `video`"):
        build_reader(PROCESSOR, options_of())


def test_films_need_a_number_of_frames(folder, tiny_tokenizer):
    options = PairOptions(media="videos")
    with pytest.raises(ValueError, match="films, and `num_frames`"):
        ImageTextDataset(load_pairs(folder, options=options), PROCESSOR, options)


# --------------------------------------------------------------------------------------------------------- the loader


def batches_of(folder, tokenizer, *, num_workers=0, steps=4, state=None, streaming=False, ranks=1, **others):
    options = options_of(seed=5, max_skipped_share=0.5, **others)
    data = load_pairs(folder, options=options, streaming=streaming)
    processor = ClipHFProcessor(ClipHFImageProcessor(size=40, crop_size=SIZE), tokenizer)
    loaders = [
        PairLoader(
            data,
            processor,
            options,
            batch_size=4,
            num_steps=steps,
            num_workers=num_workers,
            rank=rank,
            world_size=ranks,
        )
        for rank in range(ranks)
    ]
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(state)
    return loaders


def test_batches_of_clips_do_not_depend_on_workers_processes_or_a_resume(folder, tiny_tokenizer):
    changed = {"augmentation": CHANGED, "templates": ("{}", "a video of {}.")}
    (loader,) = batches_of(folder, tiny_tokenizer, **changed)
    batches = list(loader)
    assert batches[0]["pixel_values"].shape == (4, 4, 3, SIZE, SIZE)
    assert sum(len(batch["skipped"]) for batch in batches) > 0
    (with_workers,) = batches_of(folder, tiny_tokenizer, num_workers=2, **changed)
    for expected, batch in zip(batches, with_workers, strict=True):
        assert torch.equal(expected["pixel_values"], batch["pixel_values"])
    (stopped,) = batches_of(folder, tiny_tokenizer, **changed)
    for _ in zip(range(2), stopped):
        pass
    (resumed,) = batches_of(folder, tiny_tokenizer, state=stopped.state_dict(), **changed)
    for expected, batch in zip(batches[2:], resumed, strict=True):
        assert torch.equal(expected["pixel_values"], batch["pixel_values"])
        assert torch.equal(expected["input_ids"], batch["input_ids"])
    two = zip(*batches_of(folder, tiny_tokenizer, ranks=2, **changed))
    for expected, parts in zip(batches, two, strict=True):
        assert torch.equal(expected["pixel_values"], torch.cat([part["pixel_values"] for part in parts]))


def test_another_epoch_draws_other_frames(folder):
    data = load_pairs(folder, options=options_of(max_skipped_share=0.5))
    row = next(n for n, caption in enumerate(data["caption"]) if caption == "the film 4")
    pairs = ImageTextDataset(data, PROCESSOR, options_of(max_skipped_share=0.5))
    clips = [numbers_in(pairs[epoch, row]["pixel_values"]) for epoch in range(5)]
    assert len({tuple(numbers) for numbers in clips}) > 1
    assert clips[0] == numbers_in(pairs[0, row]["pixel_values"])


def test_streams_of_films(folder, tiny_tokenizer):
    (loader,) = batches_of(folder, tiny_tokenizer, streaming=True, shuffle_buffer=4)
    batches = list(loader)
    assert all(batch["pixel_values"].shape == (4, 4, 3, SIZE, SIZE) for batch in batches)
    assert sum(len(batch["skipped"]) for batch in batches) > 0


def test_text_ids_are_of_the_captions_not_of_the_templates(folder, tiny_tokenizer):
    rows = [{"video": str(folder / f"{n}.mp4"), "caption": ["one", "two"][n % 2]} for n in range(4)]
    options = options_of(templates=("a video of {}.", "{} in a film", "look, {}"))
    processor = ClipHFProcessor(PROCESSOR, tiny_tokenizer)
    loader = PairLoader(datasets.Dataset.from_list(rows), processor, options, batch_size=4, num_steps=6)
    texts = set()
    for batch in loader:
        assert len(set(batch["text_ids"].tolist())) == 2
        texts |= set(map(tuple, batch["input_ids"].tolist()))
    assert len(texts) > 2


# -------------------------------------------------------------------------------------------------------- RandAugment


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_rand_augment_keeps_size_and_mode_and_does_something(name):
    image = picture()
    changed = apply_change(image, name, 0.7)
    assert (changed.size, changed.mode) == (image.size, "RGB")
    assert (np.asarray(changed) == np.asarray(image)).all() == (name in ("identity", "autocontrast"))


def test_strengths_of_rand_augment_by_hand():
    """The ranges of torchvision: 150/331 of the width, 4 bits, a factor of 1.9, a threshold of 0."""
    image = picture()
    pixels = np.asarray(image).astype(int)
    shifted = np.asarray(apply_change(image, "shift_x", 1.0))
    shift = round(32 * 150 / 331)
    assert (shifted[:, : 32 - shift] == pixels[:, shift:]).all() and not shifted[:, 32 - shift :].any()
    back = np.asarray(apply_change(image, "shift_x", -1.0))
    assert (back[:, shift:] == pixels[:, : 32 - shift]).all() and not back[:, :shift].any()
    assert (np.asarray(apply_change(image, "posterize", 1.0)) == pixels // 16 * 16).all()
    assert (np.asarray(apply_change(image, "solarize", 1.0)) == 255 - pixels).all()
    assert np.abs(np.asarray(apply_change(image, "brightness", 1.0)) - np.clip(pixels * 1.9, 0, 255)).max() <= 1
    for name in ("shear_x", "shear_y", "shift_x", "shift_y", "rotate", "brightness", "sharpness", "posterize"):
        assert (np.asarray(apply_change(image, name, 0.0)) == pixels).all(), name


def test_draws_of_rand_augment_cover_all_changes_and_do_not_depend_on_the_image():
    blank, image = Image.new("RGB", (8, 8)), picture()
    for seed in range(20):
        first, second = random.Random(seed), random.Random(seed)
        rand_augment(blank, 3, 9, first)
        rand_augment(image, 3, 9, second)
        assert first.random() == second.random()
    results = {rand_augment(image, 1, MAX_MAGNITUDE, random.Random(seed)).tobytes() for seed in range(200)}
    both_ways = 9  # 14 changes, of which 9 go both ways, and autocontrast is the identity here
    assert len(results) == 14 - 1 + both_ways


@pytest.mark.parametrize("value", [(2,), (0, 9), (2, 31), (2, -1), (1.5, 9), ("2", "9"), 2, (2, float("nan"))])
def test_wrong_values_of_rand_augment_are_named(value):
    with pytest.raises(ValueError, match="`rand_augment` is"):
        Augmentation(rand_augment=value)
    assert not Augmentation(rand_augment=()).is_on
    assert Augmentation(rand_augment=[2, 9]).rand_augment == (2, 9.0)
