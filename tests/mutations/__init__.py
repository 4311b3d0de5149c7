# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Small faults, each put into a copy of the library on its own; the tests must notice it.

A module here is a table of one part of the library. `make test-mutations` runs them all and prints the score;
`tests/test_mutations.py` holds that the tables fit the source.
"""

import importlib
import pkgutil

from .mutation import Mutation


def all_mutations() -> list[Mutation]:
    """The mutations of every table in this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("of_"))
    tables = [importlib.import_module(f".{name}", __name__).MUTATIONS for name in names]
    return [mutation for table in tables for mutation in table]


__all__ = ["Mutation", "all_mutations"]
