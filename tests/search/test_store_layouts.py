# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a store keeps beside its rows is checked when it is read, and the bound of its rounding holds."""

import json

import numpy as np
import pyarrow as pa
import pytest

from clip_hf.search.store_base import StoreLayout, rounding_bound


LAYOUT = StoreLayout(
    24, "int", pa.schema({"width": pa.int64(), "captions": pa.list_(pa.string())}), {"model": "m"}, "/photos"
)


@pytest.mark.parametrize(
    "change",
    [
        *({"dim": value} for value in ("1; drop", 0, True, None)),
        *({"columns": value} for value in ([], None, {"width": "int1"}, {"width": 1})),
        *({"description": value} for value in (None, [], "x")),
        *({"id_type": value} for value in ("frob", None, [])),
        *({name: None} for name in ("source", "clip_hf", "format")),
    ],
)
def test_damaged_layouts_are_refused(change):
    assert StoreLayout.from_json(LAYOUT.to_json(), "The table t") == LAYOUT
    content = json.loads(LAYOUT.to_json())
    missing = {name: value for name, value in content.items() if name not in change}
    for text in (json.dumps(content | change), json.dumps(missing), "null", "[]", '"x"', "", None):
        with pytest.raises(ValueError, match="The table t exists, but clip_hf did not make it.*remove it and copy"):
            StoreLayout.from_json(text, "The table t")


def test_float32_errors_stay_below_the_bound():
    rng = np.random.default_rng(0)
    for dim in (1, 2, 24, 512, 2000):
        for scale in (1.0, 1e-3):  # rows that are all alike round the same way
            rows = (1 + scale * rng.standard_normal((200, dim))).astype(np.float32)
            query = 1 + scale * rng.standard_normal(dim)
            exact = rows.astype(float) @ query / np.linalg.norm(rows.astype(float), axis=1) / np.linalg.norm(query)
            sums = [np.zeros(200, np.float32) for _ in range(3)]
            small = query.astype(np.float32)
            for column, value in zip(rows.T, small, strict=True):  # one after the other: the worst order
                for total, term in zip(sums, (column * value, column * column, value * value), strict=True):
                    total += term
            errors = np.abs(sums[0] / np.sqrt(sums[1].astype(float) * sums[2]) - exact)
            assert errors.max() < rounding_bound(dim)
    assert rounding_bound(512) < 7e-5
