# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Write a model that was made of others, with its processor and card: all of it or nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoints.writing import check_destination
from ..model_card.card import ModelCardDetails, write_model_card
from ..utils.atomic import replaced_folder


def check_free(folder: str | os.PathLike, overwrite: bool = False) -> None:
    """Check, before any work, that a model can be written there.

    Raises:
        FileExistsError: if something is there and `overwrite` is off.
    """
    check_destination(Path(folder), "clip_hf", None, overwrite)


def save_with_card(
    folder: str | os.PathLike,
    model: nn.Module,
    processor: Any,
    details: ModelCardDetails,
    write_more: Callable[[Path], Any] | None = None,
) -> None:
    """Write a model, its processor and its card into a folder, which replaces what is there.

    Args:
        folder (`str` or `os.PathLike`): The folder; see [`check_free`].
        model (`nn.Module`): A model of ours.
        processor ([`ClipHFProcessor`]): Its processor.
        details ([`ModelCardDetails`]): What the card says.
        write_more (`Callable`, *optional*): Is given the folder before it appears, for further files.
    """
    with replaced_folder(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_model_card(temporary, model.config, Path(os.path.abspath(folder)).name, details, model.num_parameters())
        if write_more is not None:
            write_more(temporary)
