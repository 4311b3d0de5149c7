# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import json
import pickle

import datasets
import numpy as np
import pytest
import torch

from clip_hf.data import Augmentation, ImageTextDataset, PairOptions
from clip_hf.data.collator import ImageTextCollator
from clip_hf.embedding import EncodingOptions, load_dual_encoder
from clip_hf.training import teacher_features
from clip_hf.training.teacher_features import StoredFeatures, store_features
from clip_hf.training.teachers import Teachers
from tiny_models import make_tiny_model


OPTIONS = PairOptions(templates=("{}", "a drawing: {}"), augmentation=Augmentation(horizontal_flip=0.5), seed=3)
QUIET = EncodingOptions(progress=False)


@pytest.fixture(scope="module")
def teachers(tiny_processor):
    """Two tiny teachers."""
    encoders = [load_dual_encoder(make_tiny_model("vit", seed), processor=tiny_processor) for seed in (1, 2)]
    return Teachers(encoders, tiny_processor.image_processor)


def pairs_of(data, processor, options=OPTIONS, **changes):
    values = {**vars(options), **changes}
    return ImageTextDataset(data["train"], processor.image_processor, PairOptions(**values))


@pytest.fixture
def stored(tiny_data, tiny_processor, teachers, tmp_path):
    """The folder of the features of the tiny data, two draws, in float32."""
    pairs = pairs_of(tiny_data, tiny_processor)
    folder = tmp_path / "features"
    count = store_features(folder, pairs, tiny_processor, teachers, draws=2, dtype="float32", encoding=QUIET)
    assert count == 1  # 2 x 16 items fit one part
    return folder


def read(folder, pairs, processor, **options):
    pairs.features = StoredFeatures(folder, pairs, processor.image_processor, **options)
    return pairs


def test_each_item_comes_with_its_teachers_features(stored, tiny_data, tiny_processor, teachers):
    plain = pairs_of(tiny_data, tiny_processor)
    pairs = read(stored, pairs_of(tiny_data, tiny_processor), tiny_processor)
    collator = ImageTextCollator(tiny_processor, keep_texts=True, keep_crops=True)
    for epoch in (0, 1, 5):  # 5 is draw 1 again
        places = [(epoch, row) for row in (3, 0, 11)]
        batch = collator([pairs[place] for place in places])
        live = collator([plain[epoch % 2, row] for _, row in places])
        assert torch.equal(batch["crops"], live["crops"]) and batch["texts"] == live["texts"]
        teachers.add_features(live)
        assert batch["teacher_features"].shape == (3, 64)
        assert torch.allclose(batch["teacher_features"], live["teacher_features"], atol=1e-6)
        assert "crops" not in live
    first, second = (collator([pairs[epoch, 0]])["teacher_features"] for epoch in (0, 1))
    assert torch.dist(first, second) > 1e-3


def test_workers_read_them_too(stored, tiny_data, tiny_processor):
    pairs = read(stored, pairs_of(tiny_data, tiny_processor), tiny_processor)
    expected = pairs[1, 2]["teacher_features"]
    assert np.array_equal(pickle.loads(pickle.dumps(pairs))[1, 2]["teacher_features"], expected)


def test_half_precision_is_the_default(tiny_data, tiny_processor, teachers, tmp_path, stored):
    pairs = pairs_of(tiny_data, tiny_processor)
    store_features(tmp_path / "half", pairs, tiny_processor, teachers, draws=2, encoding=QUIET)
    half = read(tmp_path / "half", pairs, tiny_processor)[0, 3]["teacher_features"]
    whole = read(stored, pairs, tiny_processor)[0, 3]["teacher_features"]
    assert half.dtype == np.float16 and np.array_equal(half, whole.astype(np.float16))


def test_an_interrupted_run_goes_on(tiny_data, tiny_processor, teachers, tmp_path, monkeypatch):
    monkeypatch.setattr("clip_hf.embedding.feature_store._MIN_PART_ROWS", 5)
    pairs, folder = pairs_of(tiny_data, tiny_processor), tmp_path / "features"
    calls, features = [], teachers.features

    def interrupted(crops, texts):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(len(texts))
        return features(crops, texts)

    monkeypatch.setattr(teachers, "features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store_features(folder, pairs, tiny_processor, teachers, encoding=QUIET)
    assert len(list(folder.rglob("part-*.safetensors"))) == 3
    with pytest.raises(ValueError, match="1 of 4 parts of the teacher features .* missing: go on with"):
        StoredFeatures(folder, pairs, tiny_processor.image_processor)
    calls.clear()
    assert store_features(folder, pairs, tiny_processor, teachers, encoding=QUIET) == 1
    assert calls == [1]  # the last of 16 items in parts of five
    assert store_features(folder, pairs, tiny_processor, teachers, encoding=QUIET) == 0
    read(folder, pairs, tiny_processor)[0, 15]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "`items.seed` is 3, not 4"),
        ({"templates": ("{}",)}, "`items.templates` is"),
        ({"augmentation": Augmentation()}, "`items.augmentation.horizontal_flip` is 0.5, not 0.0"),
    ],
)
def test_features_of_other_items_are_refused(changes, message, stored, tiny_data, tiny_processor, teachers):
    pairs = pairs_of(tiny_data, tiny_processor, **changes)
    with pytest.raises(ValueError, match=f"are not those of this training: {message}"):
        StoredFeatures(stored, pairs, tiny_processor.image_processor)
    with pytest.raises(ValueError, match=f"holds other teacher features: {message}"):
        store_features(stored, pairs, tiny_processor, teachers, draws=2, dtype="float32", encoding=QUIET)


def test_features_of_other_data_teachers_and_sizes_are_refused(stored, tiny_data, tiny_processor, teachers):
    fewer = {"train": tiny_data["train"].select(range(15))}
    with pytest.raises(ValueError, match="`items.rows` is 16, not 15; `items.texts` is"):
        StoredFeatures(stored, pairs_of(fewer, tiny_processor), tiny_processor.image_processor)
    pairs = pairs_of(tiny_data, tiny_processor)
    with pytest.raises(ValueError, match="`teachers` is"):
        StoredFeatures(stored, pairs, tiny_processor.image_processor, teachers.records[:1])
    StoredFeatures(stored, pairs, tiny_processor.image_processor, teachers.records)
    with pytest.raises(ValueError, match="`draws` is 2, not 3; `dtype` is 'float32', not 'float16'"):
        store_features(stored, pairs, tiny_processor, teachers, draws=3, encoding=QUIET)
    other = type(tiny_processor.image_processor)(size={"shortest_edge": 70}, crop_size={"height": 64, "width": 64})
    with pytest.raises(ValueError, match="`items.size.shortest_edge` is 64, not 70"):
        StoredFeatures(stored, pairs, other)


def test_other_pictures_under_the_same_captions_are_noticed(stored, tiny_data, tiny_processor):
    rows = tiny_data["train"]
    columns = {"image": list(reversed(rows["image"])), "caption": rows["caption"]}
    swapped = {"train": datasets.Dataset.from_dict(columns, features=rows.features)}
    pairs = read(stored, pairs_of(swapped, tiny_processor), tiny_processor)
    with pytest.raises(ValueError, match=r"features of row 2 \(draw 0\) .* another crop or text: the images have"):
        pairs[0, 2]


def test_what_is_no_folder_of_features(tiny_data, tiny_processor, teachers, tmp_path, stored):
    pairs = pairs_of(tiny_data, tiny_processor)
    with pytest.raises(ValueError, match="holds no teacher features .* compute them by"):
        StoredFeatures(tmp_path, pairs, tiny_processor.image_processor)
    with pytest.raises(ValueError, match="is not empty and holds no teacher features"):
        store_features(tmp_path, pairs, tiny_processor, teachers)
    with pytest.raises(ValueError, match="`draws` is 0; it must be a whole number of at least 1"):
        store_features(stored, pairs, tiny_processor, teachers, draws=0)
    with pytest.raises(ValueError, match="`dtype` is 'int8'; it must be one of float16, float32"):
        store_features(stored, pairs, tiny_processor, teachers, dtype="int8")
    manifest = json.loads((stored / teacher_features.MANIFEST).read_text())
    (stored / teacher_features.MANIFEST).write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ValueError, match=r"is no manifest of teacher features \(version 1\)"):
        StoredFeatures(stored, pairs, tiny_processor.image_processor)
    (stored / teacher_features.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", ["cut", "features", "checksums"])
def test_damaged_parts_are_refused_before_the_training_and_computed_again(
    damage, stored, tiny_data, tiny_processor, teachers
):
    (part,) = stored.rglob("part-*.safetensors")
    whole = part.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    begin, end = json.loads(whole[8 : 8 + header])[damage if damage != "cut" else "features"]["data_offsets"]
    place = 8 + header + (begin + end) // 2
    flipped = whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :]
    part.write_bytes(whole[:-100] if damage == "cut" else flipped)
    pairs = pairs_of(tiny_data, tiny_processor)
    reason = "it cannot be read" if damage == "cut" else "its content has changed"
    with pytest.raises(ValueError, match=f"{part.name} is damaged: {reason}.* Go on with `clip-hf embed"):
        StoredFeatures(stored, pairs, tiny_processor.image_processor)
    with pytest.warns(UserWarning, match=f"{part.name} is encoded again: {reason}"):
        again = store_features(stored, pairs, tiny_processor, teachers, draws=2, dtype="float32", encoding=QUIET)
    assert again == 1
    StoredFeatures(stored, pairs, tiny_processor.image_processor)
