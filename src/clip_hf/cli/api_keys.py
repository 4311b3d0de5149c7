# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The key of a server, from a file or from the environment."""

import logging
import os
import stat

from _clip_hf_cli.serve import KEY_VARIABLE

from ..data.texts import escaped


logger = logging.getLogger("clip_hf.serving")

_MAX_BYTES = 65536


def read_api_key(file: str | None) -> str | None:
    """The key in the file of `--api-key-file`; without one that of the environment, or None.

    White space around it does not count. It warns of a file that everyone on the machine can change.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no text, or far more than a key.
    """
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
        return None if key is None else key.strip()
    name = f"--api-key-file: {escaped(file)}"
    try:
        with open(file, "rb") as opened:
            mode, data = os.fstat(opened.fileno()).st_mode, opened.read(_MAX_BYTES + 1)
        text = data.decode()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--api-key-file: there is no file {escaped(file)}.") from error
    except OSError as error:
        raise OSError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} holds no text; a key is letters and digits.") from error
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{name} has more than {_MAX_BYTES:,} bytes: it is no file with a key.")
    if mode & stat.S_IWOTH and stat.S_ISREG(mode):
        logger.warning("%s can be changed by every user of this machine: `chmod o-w` it.", name)
    return text.strip()
