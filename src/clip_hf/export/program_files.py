# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Writing the graphs of towers: where there is not enough room, the error says so."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_program(save: Callable[[Any, Path], Any], program: Any, path: Path, num_bytes: int) -> None:
    """Write a graph and its weights by a library's function, `save(program, path)`.

    Args:
        save (`Callable`): The function, which raises whatever the library likes.
        program: The graph.
        path (`Path`): The graph's file, in the temporary folder of an export.
        num_bytes (`int`): Bytes that it takes at most.

    Raises:
        OSError: if it cannot be written, with the folder, the room that it takes, and the room that there is.
    """
    try:
        save(program, path)
    except MemoryError:
        raise
    except Exception as error:  # what a full disk makes the libraries raise is often no OSError
        raise _write_error(path.name, path.parent.parent, num_bytes, error) from error


@contextmanager
def needing_room(what: str, folder: Path, num_bytes: int) -> Iterator[None]:
    """Say where room is lacking if what is done in this block fails for want of it; other errors pass.

    Args:
        what (`str`): What is written.
        folder (`Path`): Where the block writes.
        num_bytes (`int`): Bytes that it writes there at most.
    """
    try:
        yield
    except Exception as error:
        free, limit = _room(folder)
        if not isinstance(error, OSError) and num_bytes <= min(free, limit):
            raise
        raise _write_error(what, folder, num_bytes, error) from error


def _write_error(what: str, folder: Path, num_bytes: int, error: Exception) -> OSError:
    free, limit = _room(folder)
    limited = "" if limit == sys.maxsize else f" and files may have {limit / 1e6:,.0f} MB (`ulimit -f`),"
    return OSError(
        f"{what} could not be written in {folder} ({error}). It takes up to {num_bytes / 1e6:,.0f} MB; "
        f"{free / 1e6:,.0f} MB are free there,{limited} so make room or choose a folder on another disk, and export "
        "again."
    )


def _room(folder: Path) -> tuple[int, int]:
    """Bytes that are free on a folder's disk, and that a file may have, `sys.maxsize` where there is no limit."""
    limit = sys.maxsize
    if sys.platform != "win32":
        import resource

        soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        limit = limit if soft == resource.RLIM_INFINITY else soft
    return shutil.disk_usage(folder).free, limit
