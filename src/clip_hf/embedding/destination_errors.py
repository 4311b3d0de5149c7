# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What to do where the file system refuses what an embedding job writes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


_FILES = ("Too many files are open", "raise the limit (`ulimit -n`) or use fewer threads or processes")
_LOCKS = ("The file system has no locks", "give each job its share (`shard`, --shard I/N), which needs none")
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Numbers of the errors of a file system without locks."""
_ACCESS = ("This user must not write", "change the permissions of the folder or give another destination")
# By the number of the error: what is wrong, and what helps.
_CAUSES = {
    errno.ENOSPC: ("There is no space left", "make room"),
    errno.EDQUOT: ("The disk quota is used up", "make room or ask for more"),
    errno.EFBIG: ("A file would be larger than is allowed", "give fewer `rows_per_part` in another destination"),
    errno.EROFS: ("The file system is read-only", "mount it for writing or give another destination"),
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: ("The disk or file server fails", "check it"),
    errno.ESTALE: ("The file server lost a file", "check it"),
    **dict.fromkeys(NO_LOCKS, _LOCKS),
    errno.ENAMETOOLONG: ("A file's name would be too long", "give a destination with a shorter path"),
}


@contextmanager
def naming_destination(folder: Path) -> Iterator[None]:
    """Say of an `OSError` in writing to a job's folder which folder it is, what stays and what to do.

    Files are written under other names and renamed, so none is ever half there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CAUSES:
            raise
        cause, cure = _CAUSES[error.errno]
        raise OSError(
            error.errno,
            f"{cause}: {folder} cannot be written ({error.strerror}). What is there stays and is complete: {cure}, "
            "and run this again, which goes on from there",
        ) from error
