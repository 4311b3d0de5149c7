# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How programs end that cannot go on: in a line, where a user can do something about it, else with the trace."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


_PACKAGE = Path(__file__).resolve().parents[1]


def report_failure(error: Exception, program: str) -> None:
    """Print why a program cannot go on; of several processes each says its number.

    Errors raised by our own code, by the program itself (whose path is given), or by files and the network are
    reported by their message alone. Any other may be a fault of the code, so its trace is printed.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    if _is_for_users(error, program):
        several = int(os.environ.get("WORLD_SIZE") or 1) > 1
        rank = f" (process {os.environ.get('RANK')})" if several else ""
        print(f"{Path(program).name}{rank}: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()


def _is_for_users(error: Exception, program: str) -> bool:
    if isinstance(error, OSError) and str(error):
        return True
    if not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    raised_in = Path(frames[-1].filename).resolve()
    if raised_in.name == "hf_argparser.py":  # a wrong command line
        return True
    # Torch's own errors come from our lines too, but those do not say `raise`.
    is_raised = (frames[-1].line or "").startswith("raise")
    return is_raised and (raised_in.is_relative_to(_PACKAGE) or raised_in == Path(program).resolve())


@contextmanager
def reported_failures(program: str) -> Iterator[None]:
    """Within it, an exception ends the program with status 1, and [`report_failure`] prints it.

    `program` is the program's `__file__`.
    """
    try:
        yield
    except Exception as error:
        report_failure(error, program)
        sys.exit(1)
