# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf stretch`: a CLIP with positions for longer texts."""

import argparse
from pathlib import Path

from transformers.utils import logging

from ..adaptation.long_texts import stretch_context
from ..adaptation.saved_models import check_free, save_with_card
from ..model_card import ModelCardDetails
from ..utils.terminal_tables import wrap_lines


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit status."""
    logging.disable_progress_bar()
    folder = Path(options.output_dir)
    check_free(folder, options.overwrite)
    model, processor = stretch_context(options.model, context_length=options.context, keep=options.keep)
    limits = (
        f"The positions were stretched to {options.context} tokens. Texts of more than {options.keep} tokens need a "
        "training on long captions."
    )
    details = ModelCardDetails(
        base_model=options.model,
        training={"stretched_to_tokens": options.context, "kept_positions": options.keep},
        source=f"positions of {options.model} stretched to {options.context}, the first {options.keep} kept",
        limitations=limits,
    )
    save_with_card(folder, model, processor, details)
    print(wrap_lines(f"{limits}\nThe model is in {folder.resolve()}."))
    return 0
