# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The key of a server, from a file or from the environment."""

import os

from _clip_hf_cli.serve import KEY_VARIABLE

from ..data.texts import escaped


def read_api_key(file: str | None) -> str | None:
    """The key in the file of `--api-key-file`; without one that of the environment, or None.

    Raises:
        OSError, ValueError: if the file cannot be read, or holds no text.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read().strip()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--api-key-file: there is no file {escaped(file)}.") from error
    except OSError as error:
        raise OSError(f"--api-key-file: {escaped(file)} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--api-key-file: {escaped(file)} holds no text; a key is letters and digits.") from error
