# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How many connections a server can hold, and what it says of those that it refuses."""

import asyncio
import logging
import sys

from ..utils.wording import counted
from .server_metrics import ServerMetrics


logger = logging.getLogger("clip_hf.serving")

# Open files that are no connections: of the model, the index, and images that are fetched.
_OTHER_FILES = 256
_LOG_SECONDS = 1.0


def make_room_for_connections(wanted: int) -> int:
    """Raise the process' bound of open files as far as so many connections need, and return how many there can be."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    # Infinity is -1, or a number above all others.
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # a sandbox, or a system with a bound of its own
        allowed = soft
    if allowed >= needed:
        return wanted
    possible = min(wanted, max(allowed // 2, allowed - _OTHER_FILES))
    if possible < wanted:
        logger.warning(
            "This process may have %s open files (`ulimit -n`), so it takes %s at a time, not %s.",
            f"{allowed:,}",
            counted(possible, "connection"),
            f"{wanted:,}",
        )
    return possible


class RefusedConnections:
    """Counts connections that are refused, and logs their number once a second at most."""

    def __init__(self, metrics: ServerMetrics, limit: int):
        self._metrics, self._limit, self._num_new = metrics, limit, 0

    def add(self) -> None:
        """Count one."""
        self._metrics.count_refused_connection()
        self._num_new += 1
        if self._num_new == 1:
            asyncio.get_running_loop().call_later(_LOG_SECONDS, self._log)

    def _log(self) -> None:
        logger.warning(
            "%s refused: all %s that there may be are busy.",
            counted(self._num_new, "connection"),
            f"{self._limit:,}",
        )
        self._num_new = 0
