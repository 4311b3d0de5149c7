# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Vectors, ids and metadata in the many forms in which callers have them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from clip_hf.search import EmbeddingIndex
from clip_hf.search.index_segments import IndexManifest


VECTORS = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)


@pytest.mark.parametrize("form", [np.asfortranarray, lambda v: np.tile(v, 2)[:, :16], lambda v: v[::-1][::-1]])
@pytest.mark.parametrize("dim", [1, 13, 16])
def test_the_order_of_memory_changes_no_bit(tmp_path, form, dim):
    rows = VECTORS[:, :dim]
    expected = EmbeddingIndex.build(tmp_path / "a", np.ascontiguousarray(rows), dtype="float32")
    index = EmbeddingIndex.build(tmp_path / "b", form(VECTORS)[:, :dim], dtype="float32")
    records = [IndexManifest.read(each.folder).segments[0] for each in (expected, index)]
    assert records[0].digests == records[1].digests
    scores = [index.search(queries, 20) for queries in (np.ascontiguousarray(rows), form(VECTORS)[:, :dim])]
    assert np.array_equal(scores[0][0], scores[1][0]) and np.array_equal(scores[0][1], scores[1][1])


@pytest.mark.parametrize("make", [lambda t: t.bfloat16(), lambda t: t.half(), lambda t: t.requires_grad_()])
def test_tensors_are_rows_and_queries(tmp_path, make):
    tensor = make(torch.from_numpy(VECTORS.copy()))
    index = EmbeddingIndex.build(tmp_path / "index", tensor, torch.arange(50), dtype="float32")
    exact = tensor.detach().to(torch.float32).numpy().astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.array_equal(index.vectors(range(50)), exact.astype(np.float32))
    assert index.search(tensor[7], 1)[1].tolist() == [7]


def test_dictionaries_and_views_become_plain_values(tmp_path):
    words = ["a", "b", "a", "c"]
    in_lists = pa.ListArray.from_arrays([0, 2, 3, 3, 4], pa.array(words).dictionary_encode())
    metadata = pa.table(
        {
            "word": pa.array(words).dictionary_encode(),
            "words": in_lists,
            "view": pa.array(words, pa.string_view()),
            "nested": pa.StructArray.from_arrays([pa.array(words).dictionary_encode()], ["word"]),
        }
    )
    turned = pa.concat_tables([metadata.slice(2), metadata.slice(0, 2)])
    index = EmbeddingIndex.build(tmp_path / "index", VECTORS[:4], metadata=metadata)
    index.add(VECTORS[4:8], metadata=turned)
    index.compact()
    index.add(VECTORS[8:9], metadata=metadata.slice(3))
    expected = [*metadata.to_pylist(), *turned.to_pylist(), *metadata.slice(3).to_pylist()]
    assert EmbeddingIndex.open(index.folder).metadata().to_pylist() == expected
    assert index.metadata([3, 8]).to_pylist() == [expected[3], expected[8]]
    assert index.columns.field("word").type == pa.string()
    assert index.columns.field("words").type == pa.list_(pa.string())


def test_columns_of_which_arrow_takes_no_rows_are_refused(tmp_path):
    column = pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"])
    with pytest.raises(ValueError, match=r"The column 'x' is of type run_end_encoded.* Cast it"):
        EmbeddingIndex.build(tmp_path / "index", VECTORS[:3], metadata=pa.table({"x": column}))


@pytest.mark.parametrize("ids", [{1, 2}, {1: 2}, "ab", b"ab", 5, 5.0])
def test_ids_are_a_list(tmp_path, ids):
    with pytest.raises(TypeError, match="give a list or array of ids"):
        EmbeddingIndex.build(tmp_path / "index", VECTORS[:2], ids)
    index = EmbeddingIndex.build(tmp_path / "index", VECTORS[:2])
    with pytest.raises(TypeError, match="give a list or array of ids"):
        index.remove(ids)


@pytest.mark.parametrize("metadata", [{"a": [1]}, [{"a": 1}], pa.record_batch({"a": [1]})])
def test_metadata_is_a_table(tmp_path, metadata):
    with pytest.raises(TypeError, match=r"give a pyarrow table, such as pa\.table"):
        EmbeddingIndex.build(tmp_path / "index", VECTORS[:1], metadata=metadata)
    index = EmbeddingIndex.create(tmp_path / "index", 16, columns=pa.schema({"a": pa.int64()}))
    with pytest.raises(TypeError, match=r"give a pyarrow table, such as pa\.table"):
        index.add(VECTORS[:1], metadata=metadata)


def test_ids_end_where_64_bits_end(tmp_path):
    index = EmbeddingIndex.build(tmp_path / "index", VECTORS[:1], [2**63 - 1])
    with pytest.raises(ValueError, match="no free ones are above it; give `ids`"):
        index.add(VECTORS[1:2])
    index.add(VECTORS[1:2], [5])
    assert EmbeddingIndex.open(index.folder).ids().tolist() == [2**63 - 1, 5]
    with pytest.raises(ValueError, match=r"below 2\*\*63"):
        index.add(VECTORS[1:2], np.array([2**64 - 1], np.uint64))


def test_texts_that_utf8_cannot_hold_are_no_ids(tmp_path):
    with pytest.raises(ValueError, match="UTF-8"):
        EmbeddingIndex.build(tmp_path / "index", VECTORS[:1], ["\udc80"])


def test_a_row_has_an_upper_limit_of_values(tmp_path):
    with pytest.raises(ValueError, match="from 1 to 1,048,576"):
        EmbeddingIndex.create(tmp_path / "index", 2**20 + 1)
