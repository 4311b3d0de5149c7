# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The file of `--api-key-file`."""

import logging
import os
import stat


logger = logging.getLogger("clip_hf.serving")

_MAX_BYTES = 65536


def read_key_file(path: str) -> str:
    """The key in a file, without white space around it. It warns of a file that everyone on the machine can change.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no text, or far more than a key.
    """
    try:
        with open(path, "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise OSError(f"--api-key-file {path} cannot be read: {error.strerror}.") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"--api-key-file {path} holds no text, but other bytes.") from error
    if len(data) > _MAX_BYTES:
        raise ValueError(f"--api-key-file {path} has more than {_MAX_BYTES:,} bytes: it is no file with a key.")
    if mode & stat.S_IWOTH and stat.S_ISREG(mode):
        logger.warning("Every user of this machine can change --api-key-file %s: `chmod o-w` it.", path)
    return text.strip()
