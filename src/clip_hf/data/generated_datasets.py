# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Datasets that `datasets` makes and keeps in its cache, with errors as the readers of files raise them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import datasets


@contextlib.contextmanager
def raising_causes() -> Iterator[None]:
    """Raise what made `datasets` fail, where it says no more than that an error occurred."""
    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        problem = error.__cause__ or error
    else:
        return
    raise problem


def generate_dataset(
    read: Callable[..., Iterator[dict[str, Any]]], features: datasets.Features, arguments: dict[str, Any]
) -> datasets.Dataset:
    """The rows that `read(**arguments)` yields, kept in the cache of `datasets`; what it raises comes out as it is."""
    with raising_causes():
        return datasets.Dataset.from_generator(read, features=features, gen_kwargs=arguments)
