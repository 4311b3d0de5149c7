# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf soup`: the average of several fine-tunings of one CLIP."""

import argparse
from pathlib import Path

from torch import nn
from transformers.utils import logging

from ..adaptation.interpolation import CurveOptions, measure
from ..adaptation.saved_models import check_free, save_with_card
from ..adaptation.weight_space import average_weights, greedy_soup
from ..checkpoints.dual_models import load_dual_model
from ..embedding import EncodingOptions, load_dual_encoder
from ..model_card import ModelCardDetails
from ..utils.terminal_tables import draw_table, wrap_lines
from .interpolate import measured_parts, share_result


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit status."""
    logging.disable_progress_bar()
    if len(options.models) < 2:
        raise ValueError(f"There is nothing to average {options.models[0]} with: name two or more models.")
    if options.method == "greedy" and options.data is None:
        raise ValueError("A greedy soup is chosen on data: give --data, or --method uniform.")
    folder = Path(options.output_dir)
    check_free(folder, options.overwrite)
    _, processor = load_dual_model(options.models[0], dtype="auto")
    details = ModelCardDetails(base_model=options.models[0], source=f"a {options.method} soup (averaged weights)")
    details.training = {"method": options.method, "models": ", ".join(options.models)}
    encoding = EncodingOptions(batch_size=options.batch_size, progress=False)
    scoring = CurveOptions(resamples=options.resamples, seed=options.seed, encoding=encoding)
    parts = None if options.data is None else measured_parts(options.data, options)

    def score(model: nn.Module) -> float:
        return measure(load_dual_encoder(model, processor=processor), parts.validation, scoring)[0]

    if options.method == "uniform":
        soup = average_weights(options.models)
    else:
        made = greedy_soup(options.models, score)
        soup = made.model
        details.training["kept"] = ", ".join(options.models[place] for place in made.kept)
        details.training["chosen_on"] = parts.chosen_on
        rows = [
            (name, f"{100 * value:.2f}%", "kept" if place in made.kept else "")
            for place, (name, value) in enumerate(zip(options.models, made.scores))
        ]
        print(draw_table(f"Accuracy on {parts.chosen_on}", ("model", "alone", "in the soup"), rows))
    if parts is not None:
        value, interval = measure(load_dual_encoder(soup, processor=processor), parts.test, scoring)
        details.eval_results = [share_result(parts, value, interval)]
        low, high = (f"{100 * end:.2f}" for end in interval)
        name = f"{parts.test.name} ({parts.test.metric})"
        print(wrap_lines(f"\nThe soup on the test rows of {name}: {100 * value:.2f}% (95% interval {low} to {high})."))
    save_with_card(folder, soup, processor, details)
    print(f"\nThe model is in {folder.resolve()}.")
    return 0
