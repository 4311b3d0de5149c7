# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf convert`: a checkpoint of any format into one of any format."""

import argparse
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from transformers.utils import logging

from ..checkpoints import SourceOptions, convert
from ..model_card.card import CARD_NAME, ModelCardDetails, card_on_hub, update_model_card
from ..utils.atomic import replaced_file
from ..utils.dtypes import parse_dtype
from ..utils.json_files import read_json


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status."""
    # The bars of single steps would break into the one of the whole.
    logging.disable_progress_bar()
    details = ModelCardDetails(
        model_id=options.push_to_hub,
        base_model=options.base_model,
        license=options.license,
        datasets=options.datasets,
    )
    report = convert(
        options.source,
        options.destination,
        options.to,
        tower=options.tower,
        dtype=parse_dtype(options.dtype),
        overwrite=options.overwrite,
        options=SourceOptions(
            hidden_act=options.hidden_act,
            text_heads=options.text_heads,
            vision_heads=options.vision_heads,
            config=options.config,
            preprocess=_preprocess(options.preprocess),
            merges=options.merges,
        ),
        card=details,
    )
    print(report)
    if options.push_to_hub:
        try:
            print(f"uploaded: {_push(Path(options.destination), options.push_to_hub, options.private)}")
        except Exception as error:  # the hub's, of the connection, of its client
            raise RuntimeError(
                f"{options.destination} is written, but uploading it to {options.push_to_hub} failed ({error}). Once "
                f"that is mended: `hf upload {options.push_to_hub} {options.destination}`."
            ) from error
    return 0


def _preprocess(value: str | None) -> dict[str, Any] | str | None:
    if value is None or value == "openai":
        return value
    path = Path(value)
    if not path.is_file():
        raise ValueError(f"--preprocess {value}: neither 'openai' nor a JSON file that exists.")
    content = read_json(path)
    return content.get("preprocess_cfg", content) if isinstance(content, dict) else content


def _push(path: Path, repo_id: str, private: bool) -> str:
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    message = "Upload with clip-hf convert"
    if path.is_dir():
        card, there = path / CARD_NAME, card_on_hub(api, repo_id)
        if there is not None and card.is_file():
            # What was written by hand on the hub stays.
            merged = update_model_card(there.decode(), ModelCard(card.read_text(encoding="utf-8")))
            with replaced_file(card) as temporary:
                temporary.write_text(str(merged), encoding="utf-8")
        return str(api.upload_folder(repo_id=repo_id, folder_path=path, commit_message=message))
    return str(api.upload_file(repo_id=repo_id, path_or_fileobj=path, path_in_repo=path.name, commit_message=message))
