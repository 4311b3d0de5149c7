# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Near-duplicates are the components of all pairs above a threshold, as a full matrix in float64 gives them."""

import numpy as np
import pyarrow as pa
import pytest

from clip_hf.search import EmbeddingIndex, find_near_duplicates
from clip_hf.search import near_duplicates as module


def plain_groups(index: EmbeddingIndex, threshold: float) -> list[list]:
    """Components by a flood through the matrix of all cosines."""
    rows = np.concatenate([np.delete(segment.rows, segment.removed, axis=0) for segment in index.segments])
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near, left, groups = rows @ rows.T >= threshold - 1e-12, set(range(len(rows))), []
    while left:
        reached, new = set(), {min(left)}
        while new:
            reached |= new
            new = {int(other) for row in new for other in np.flatnonzero(near[row])} - reached
        left -= reached
        if len(reached) > 1:
            groups.append(sorted(index.ids()[sorted(reached)].tolist()))
    return groups


def found_groups(index: EmbeddingIndex, threshold: float) -> list[list]:
    return [sorted([group.kept, *group.others]) for group in find_near_duplicates(index, threshold)]


def random_rows(count: int, dim: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim))


def at_cosine(row: np.ndarray, cosine: float, seed: int = 7) -> np.ndarray:
    """A unit vector with this cosine to a row."""
    row = row / np.linalg.norm(row)
    other = np.random.default_rng(seed).standard_normal(len(row))
    other -= other @ row * row
    return cosine * row + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95, 1.0])
def test_groups_are_those_of_the_whole_matrix(tmp_path, dtype, threshold, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", (32, 80))
    generator = np.random.default_rng(1)
    rows = random_rows(400)
    noise = 10.0 ** generator.uniform(-4, 0.3, (150, 1)) * random_rows(150, seed=2)
    rows = np.concatenate([rows, rows[generator.integers(0, 400, 150)] + noise])[generator.permutation(550)]
    index = EmbeddingIndex.build(tmp_path / "index", rows, dtype=dtype)
    assert found_groups(index, threshold) == plain_groups(index, threshold)


def test_narrow_cones_have_the_same_groups(tmp_path, monkeypatch):
    """As CLIP's: all rows lie around one direction, and few directions hold most of the rest."""
    monkeypatch.setattr(module, "_BLOCK", (64, 128))
    rows = 2 + random_rows(600, 64) * np.linspace(10, 0.1, 64)
    rows[300:340] = rows[:40] + random_rows(40, 64, seed=1)
    index = EmbeddingIndex.build(tmp_path / "index", rows)
    expected = plain_groups(index, 0.95)
    assert found_groups(index, 0.95) == expected and len(expected) == 40


def test_a_chain_is_one_group_though_its_ends_differ(tmp_path):
    a = np.eye(8)[0]
    b, c = np.cos(0.5) * np.eye(8)[0] + np.sin(0.5) * np.eye(8)[1], np.cos(1) * a + np.sin(1) * np.eye(8)[1]
    index = EmbeddingIndex.build(tmp_path / "index", np.stack([a, np.eye(8)[5], b, c]), dtype="float32")
    (group,) = find_near_duplicates(index, 0.87)
    assert (group.kept, group.others) == (0, [2, 3])
    np.testing.assert_allclose(group.cosines, [np.cos(0.5), np.cos(1)], atol=1e-6)
    assert find_near_duplicates(index, 0.88) == []


def test_a_cosine_of_exactly_the_threshold_counts(tmp_path):
    rows = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, -1, 0, 0]])
    index = EmbeddingIndex.build(tmp_path / "index", rows)
    assert found_groups(index, 0.5) == [[0, 1]]
    assert found_groups(index, np.nextafter(0.5, 1) + 1e-9) == []


def test_copies_reach_a_threshold_of_one(tmp_path):
    rows = random_rows(30)
    index = EmbeddingIndex.build(tmp_path / "index", np.concatenate([rows, rows[:5] * 3, rows[:5] * 7]))
    groups = find_near_duplicates(index, 1.0)
    assert [group.others for group in groups] == [[30 + row, 35 + row] for row in range(5)]
    assert all((group.cosines == group.cosines[0]).all() and 1 - 1e-12 < group.cosines[0] <= 1 for group in groups)


def test_many_equal_rows_are_scored_once_each(tmp_path, monkeypatch):
    scored = []
    cosines = module.pair_cosines
    monkeypatch.setattr(module, "pair_cosines", lambda *rows: scored.append(len(rows[0])) or cosines(*rows))
    rows = np.repeat(random_rows(2), 20_000, axis=0)
    (first, second) = find_near_duplicates(EmbeddingIndex.build(tmp_path / "index", rows), 0.9)
    assert len(first.others) == len(second.others) == 19_999
    assert sum(scored) == 2 * 19_999  # with the kept one, for the report


def test_many_rows_that_are_nearly_equal_are_scored_a_few_times_each(tmp_path, monkeypatch):
    scored = []
    cosines = module.pair_cosines
    monkeypatch.setattr(module, "pair_cosines", lambda *rows: scored.append(len(rows[0])) or cosines(*rows))
    rows = random_rows(1) + 0.01 * random_rows(3000)
    (group,) = find_near_duplicates(EmbeddingIndex.build(tmp_path / "index", rows, dtype="float32"), 0.9)
    assert len(group.others) == 2999 and sum(scored) < 4 * 3000


def test_removed_rows_and_several_segments(tmp_path):
    rows = random_rows(40)
    index = EmbeddingIndex.build(tmp_path / "index", rows, list(range(100, 140)))
    index.add(np.stack([rows[3], rows[7], rows[9]]), [1, 2, 3])
    index.remove([103, 110, 2])
    index.add(rows[[3]], [4])
    assert found_groups(index, 0.99) == [[3, 109], [1, 4]] or found_groups(index, 0.99) == [[3, 109], [1, 4]][::-1]
    assert find_near_duplicates(index, 0.99)[0].kept == 3


def test_no_rows_one_row_one_dimension(tmp_path):
    assert find_near_duplicates(EmbeddingIndex.create(tmp_path / "empty", 4), 0.9) == []
    assert find_near_duplicates(EmbeddingIndex.build(tmp_path / "one", random_rows(1)), 0.9) == []
    line = EmbeddingIndex.build(tmp_path / "line", np.array([[1.0], [-2.0], [3.0], [-1.0], [5.0]]))
    assert found_groups(line, 0.9) == [[0, 2, 4], [1, 3]]


def test_the_best_picture_is_kept(tmp_path):
    row = random_rows(1)[0]
    columns = {"width": [10, 20, 20, 20, None], "height": [10, 20, 20, 20, 9], "bytes": [9, 5, 7, 7, 99]}
    columns = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    ids = ["a", "b", "d", "c", "e"]
    rows = np.stack([row, row, row, at_cosine(row, 0.97), row])
    (group,) = find_near_duplicates(EmbeddingIndex.build(tmp_path / "index", rows, ids, columns), 0.95)
    assert group.kept == "c" and sorted(group.others) == ["a", "b", "d", "e"]
    np.testing.assert_allclose(group.cosines, 0.97, atol=1e-3)


def test_others_are_sorted_by_their_cosine(tmp_path):
    row = random_rows(1)[0]
    rows = np.stack([row, at_cosine(row, 0.96), at_cosine(row, 0.98), at_cosine(row, 0.97)])
    (group,) = find_near_duplicates(EmbeddingIndex.build(tmp_path / "index", rows, dtype="float32"), 0.95)
    assert group.others == [2, 3, 1]
    np.testing.assert_allclose(group.cosines, [0.98, 0.97, 0.96], atol=1e-6)


def test_bounds_are_never_below_the_cosine():
    rows = random_rows(300, 64) * 10.0 ** np.random.default_rng(3).uniform(-2, 2, 64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    _, directions = np.linalg.eigh(rows.T @ rows)
    for width in (1, 16, 64):
        heads = module._split(rows, directions[:, ::-1][:, :width])
        assert (heads @ heads.T - rows @ rows.T).min() > -(width + 16) * np.finfo(np.float32).eps


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_thresholds_out_of_range(tmp_path, threshold):
    index = EmbeddingIndex.create(tmp_path / "index", 4)
    with pytest.raises(ValueError, match=r"greater than 0 and at most 1"):
        find_near_duplicates(index, threshold)
