# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a saved state is made of."""

import pytest
import torch

from clip_hf.utils.saved_states import check_kinds, kinds_of


FITTING = [
    (1, int),
    (1, float),
    (True, bool),
    (None, dict | None),
    ([], [int]),
    ([1, 2.5], [float]),
    ({}, {str: int}),
    ({"a": [{"b": torch.zeros(1)}]}, {"a": [{"b": torch.Tensor}]}),
]
OTHER = [
    (True, int, "it is of type bool and must be of type int"),
    ("1", float, r"of type str and must be of type int \| float"),
    ((1,), [int], "of type tuple and must be of type list"),
    ([1, "a"], [int], r"it\[1\] is of type str"),
    ([("a", 1)], {str: int}, "of type list and must be of type Mapping"),
    ({1: 1}, {str: int}, "A key of it is of type int and must be of type str"),
    ({"a": 1.5}, {str: int}, r"it\['a'\] is of type float"),
    ({"a": 1}, {"a": int, "b": int, "c": int}, "it lacks 'b', 'c'; it is not what this training saves"),
    ({"a": 1, 5: 1}, {"a": int}, "it has unknown 5;"),
]


@pytest.mark.parametrize(("value", "kind"), FITTING)
def test_what_fits(value, kind):
    check_kinds(value, kind, "it")
    if isinstance(value, dict):
        check_kinds(value, kinds_of(value), "it")


@pytest.mark.parametrize(("value", "kind", "message"), OTHER)
def test_what_does_not_fit(value, kind, message):
    with pytest.raises(ValueError, match=message):
        check_kinds(value, kind, "it")


def test_the_kinds_of_a_value():
    value = {"a": [1.0, 2.0], "b": [], "c": {"d": None}, "e": True}
    assert kinds_of(value) == {"a": [float], "b": list, "c": {"d": type(None)}, "e": bool}
    check_kinds(value, kinds_of(value), "it")
