# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Footers of Parquet files: which columns several files have together, and errors that name the file."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from ..utils.wording import quoted
from .skips import DamagedFile, stop_if_exhausted


logger = logging.get_logger(__name__)

ROWS_PER_READ = 16
"""Rows that are read at once: each may hold an image of many megabytes."""
BUFFER_BYTES = 2**20
"""Bytes of a column that are read at once; without it pyarrow reads all that a row group has of it."""


@contextlib.contextmanager
def naming_damage(path: str) -> Iterator[None]:
    """Make whatever pyarrow raises for a damaged Parquet file a [`DamagedFile`] that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        stop_if_exhausted(error, path)
        if isinstance(error, OSError) and error.errno is not None:  # not of pyarrow: the file cannot be reached
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise DamagedFile(f"{path} is damaged, or no Parquet file: {reason}.") from error


def check_names(path: str, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a Parquet file has two columns of one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has more than one column {twice[0]!r}; rename or remove one of them.")


def check_content(files: Sequence[str]) -> None:
    """Raise a [`DamagedFile`] that names the first file on this machine that cannot be read to its end."""
    for path in (path for path in files if "://" not in path):
        with naming_damage(path), open(path, "rb") as opened:
            file = pq.ParquetFile(opened, buffer_size=BUFFER_BYTES, pre_buffer=False)
            for _ in file.iter_batches(ROWS_PER_READ):
                pass


def common_columns(files: Sequence[str]) -> list[str] | None:
    """The columns that all of these files have, which are read together; None if all have the same.

    The log names what is left out. Nothing is known of remote files.

    Raises:
        ValueError: if a file is damaged, has two columns of one name, or has lists or structs in a column that holds
            single values in another file.
    """
    schemas: dict[str, pa.Schema] = {}
    for path in (path for path in files if "://" not in path):
        with naming_damage(path):
            schemas[path] = pq.read_schema(path)
        check_names(path, schemas[path].names)
    if len(schemas) < 2:
        return None
    (first, schema), *others = schemas.items()
    common = [name for name in schema.names if all(name in each.names for _, each in others)]
    for path, each in others:
        for name in common:
            kinds = schema.field(name).type, each.field(name).type
            if pa.types.is_nested(kinds[0]) != pa.types.is_nested(kinds[1]) and pa.null() not in kinds:
                raise ValueError(
                    f"The column {name!r} holds {kinds[0]} in {first}, but {kinds[1]} in {path}: they cannot be read "
                    "together. Write all of them alike."
                )
    left_out = {name for each in schemas.values() for name in each.names} - set(common)
    if not left_out:
        return None
    logger.warning(
        f"The Parquet files beside {first} have different columns. Those that some lack are not read: "
        f"{quoted(sorted(left_out))}."
    )
    return common
