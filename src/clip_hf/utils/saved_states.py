# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Check the types in a saved state before it is used, because somebody else may have written it."""

from collections.abc import Mapping
from types import UnionType
from typing import Any

from .wording import listed


def check_kinds(value: Any, kind: Any, where: str) -> None:
    """Check the types of nested plain values and tensors; a `ValueError` says where one differs.

    A kind is a class or a union; `float` stands for integers, too. `[kind]` is a list of such values, `{str: kind}` a
    dict of such values; any other dict gives the kind of each key and must match exactly. `where` names the value in
    messages.
    """
    if isinstance(kind, list):
        _check_type(value, list, where)
        for index, item in enumerate(value):
            check_kinds(item, kind[0], f"{where}[{index}]")
    elif isinstance(kind, dict):
        _check_type(value, Mapping, where)
        kinds = dict.fromkeys(value, kind[str]) if str in kind else kind
        for problem, keys in (("lacks", kinds.keys() - value.keys()), ("has unknown", value.keys() - kinds.keys())):
            if keys:
                names = listed(sorted(repr(key)[:80] for key in keys), 3)
                raise ValueError(f"{where} {problem} {names}; it is not what this training saves.")
        for key, item in value.items():
            if str in kind:
                _check_type(key, str, f"A key of {where}")
            check_kinds(item, kinds[key], f"{where}[{key!r}]")
    else:
        _check_type(value, int | float if kind is float else kind, where)


def kinds_of(value: Any) -> Any:
    """The `kind` of a value for [`check_kinds`]; all items of a list have the kind of the first."""
    if isinstance(value, Mapping):
        return {key: kinds_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kinds_of(value[0])] if value else list
    return type(value)


def _check_type(value: Any, kind: type | UnionType, where: str) -> None:
    # In Python True is an integer.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        name = kind.__name__ if isinstance(kind, type) else kind
        raise ValueError(
            f"{where} is of type {type(value).__name__} and must be of type {name}; it is not what this training "
            "saves."
        )
