# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows held out by what they hold: how many, which belong together, and on what that does not depend."""

import datasets
import numpy as np
import pytest

from clip_hf.data import PairOptions, hold_out
from pair_data import dataset_of, rows_of


def captions(data: datasets.Dataset) -> list[str]:
    return data["caption"][:] if isinstance(data["caption"], list) else list(data["caption"])


def table(paths: list[str], texts: list, **columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image": paths, "caption": texts, **columns})


def numbered(count: int) -> datasets.Dataset:
    return table([f"/pictures/{n}.png" for n in range(count)], [f"caption {n}" for n in range(count)])


def test_a_share_is_held_out_and_nothing_is_lost():
    data = dataset_of(rows_of(range(120)))
    train, held_out = hold_out(data, 0.25)
    assert 15 <= len(held_out) <= 45
    assert sorted(captions(train) + captions(held_out)) == sorted(captions(data))
    assert captions(train) == [text for text in captions(data) if text in set(captions(train))]  # in their order


def test_the_sides_depend_on_content_and_seed_alone():
    data = numbered(600)
    held_out = set(captions(hold_out(data, 0.1)[1]))
    assert 40 <= len(held_out) <= 80
    shuffled = data.select(np.random.default_rng(0).permutation(600))
    assert set(captions(hold_out(shuffled, 0.1)[1])) == held_out
    # Rows stay on their side when others are added.
    assert set(captions(hold_out(data.select(range(300)), 0.1)[1])) == {c for c in held_out if int(c.split()[1]) < 300}
    assert held_out < set(captions(hold_out(data, 0.2)[1]))
    other = set(captions(hold_out(data, 0.1, PairOptions(seed=1))[1]))
    assert len(other & held_out) < 0.5 * len(held_out)


@pytest.mark.parametrize("belonging", ["image bytes", "image path", "caption", "one of the captions", "image id"])
def test_what_belongs_together_is_on_one_side(belonging):
    paths, texts, ids = [], [], []
    for group in range(200):
        for copy in range(3):
            paths.append(f"/{group}.png" if belonging == "image path" else f"/{group}-{copy}.png")
            same, own = f"Caption of {group} ", f"{group} {copy}"
            texts.append([own, same.upper() if copy else same] if "caption" in belonging else [own])
            ids.append(group if belonging == "image id" else 3 * group + copy)
    data = table(paths, texts if belonging != "caption" else [each[1] for each in texts], photo=ids)
    if belonging == "image bytes":
        rows = rows_of(number // 3 for number in range(90))
        data = dataset_of([{**row, "caption": f"text {number}"} for number, row in enumerate(rows)])
    data = data.add_column("group", [row // 3 for row in range(len(data))])
    options = PairOptions(image_id_column="photo" if belonging == "image id" else None)
    train, held_out = hold_out(data, 0.3, options)
    assert not set(train["group"]) & set(held_out["group"])
    assert 0.15 * len(data) < len(held_out) < 0.45 * len(data)


def test_files_count_by_what_they_hold_and_not_by_where_they_lie(tmp_path):
    held_out = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        for n in range(200):  # each file twice
            (folder / f"{n}.png").write_bytes(f"picture {n // 2}".encode())
        paths = [str(folder / f"{n}.png") for n in range(200)]
        held_out.append(captions(hold_out(table(paths, [f"caption {n}" for n in range(200)]), 0.3)[1]))
    assert held_out[0] == held_out[1]
    numbers = {int(caption.split()[1]) for caption in held_out[0]}
    assert numbers == {number ^ 1 for number in numbers}


def test_names_of_classes_and_large_groups_do_not_decide():
    paths = [f"/{n}.png" for n in range(600)]
    train, held_out = hold_out(table(paths, [f"class {n % 6}" for n in range(600)]), 0.1)
    assert set(captions(train)) == set(captions(held_out)) and 40 <= len(held_out) <= 80
    # One picture makes up half of the rows: it is never held out.
    data = table(["/same.png"] * 300 + paths[300:], [f"caption {n}" for n in range(600)])
    for seed in range(5):
        held_out = hold_out(data, 0.1, PairOptions(seed=seed))[1]
        assert "/same.png" not in held_out["image"] and 15 <= len(held_out) <= 45
    for seed in range(10):  # the draw alone would hold it out in nine of ten
        assert "/same.png" not in hold_out(data, 0.9, PairOptions(seed=seed))[1]["image"]


def test_rows_that_belong_together_through_others_do_not_depend_on_their_order():
    # Chains: each row has a caption of the one before it and of the one after it.
    texts = [[f"{chain} {link}", f"{chain} {link + 1}"] for chain in range(60) for link in range(5)]
    data = table([f"/{n}.png" for n in range(300)], texts)
    held_out = {tuple(each) for each in captions(hold_out(data, 0.3)[1])}
    for seed in range(3):
        shuffled = data.select(np.random.default_rng(seed).permutation(300))
        assert {tuple(each) for each in captions(hold_out(shuffled, 0.3)[1])} == held_out


def test_pictures_that_begin_alike_are_not_the_same():
    images = [b"header" * 1000 + f"{n:06d}".encode() for n in range(200)]
    rows = [{"image": {"bytes": data, "path": None}, "caption": f"text {n}"} for n, data in enumerate(images)]
    assert 10 <= len(hold_out(dataset_of(rows), 0.2)[1]) <= 70


def test_rows_without_anything_and_streams():
    rows = [{"image": None, "caption": None}, *rows_of(range(30))]
    train, held_out = hold_out(dataset_of(rows), 0.3)
    assert len(train) + len(held_out) == 31
    with pytest.raises(TypeError, match="held out of a `datasets.Dataset`, not of an IterableDataset"):
        hold_out(numbered(30).to_iterable_dataset(), 0.1)


@pytest.mark.parametrize(
    ("share", "message"),
    [(0.0, "`share` is 0.0"), (1.0, "`share` is 1.0"), (1e-6, "A share of 1e-06 of 20 rows holds out 0 of them")],
)
def test_shares_that_cannot_be(share, message):
    with pytest.raises(ValueError, match=message):
        hold_out(numbered(20), share)


def test_a_share_that_leaves_one_side_empty_should_be_smaller_or_larger():
    with pytest.raises(ValueError, match="share of 1e-06 of 20 rows holds out 0 of them.* a larger share"):
        hold_out(numbered(20), 1e-6)
    with pytest.raises(ValueError, match="share of 0.99 of 20 rows holds out 20 of them.* a smaller share"):
        hold_out(numbered(20), 0.99)


def test_columns_that_are_not_there():
    with pytest.raises(ValueError, match="no column 'text'"):
        hold_out(numbered(20), 0.5, PairOptions(caption_column="text"))
