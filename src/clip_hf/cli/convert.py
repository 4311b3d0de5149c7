# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf convert`: a checkpoint of any format into one of any format."""

import argparse
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard
from transformers.utils import logging

from ..atomic import replaced_file
from ..checkpoints import FORMATS, TOWERS, SourceOptions, convert
from ..json_files import read_json
from ..model_card import CARD_NAME, ModelCardDetails, card_on_hub, update_model_card


_DTYPES = ("float32", "float16", "bfloat16")
_EPILOG = """\
examples:
  clip-hf convert RN50.pt rn50                               OpenAI's archive, to a repo of ours
  clip-hf convert open_clip_folder vit-h --license mit       a download of open_clip's
  clip-hf convert epoch_32.pt mine --config ViT-B-32.json --preprocess openai
  clip-hf convert rn50 rn50-open_clip --to open_clip         and back
  clip-hf convert clip-vit-large-patch14 text_encoder --to transformers --tower text
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Convert a CLIP checkpoint, offline, and show that it computes the same. The destination appears when\n"
        "everything has been written and checked."
    )
    parser.epilog = _EPILOG
    parser.add_argument("source", help="a file or folder; its format is recognised")
    parser.add_argument("destination", help="what to write: a file for openai, else a folder")
    parser.add_argument("--to", choices=FORMATS, default="clip_hf", help="format to write (default: %(default)s)")
    parser.add_argument("--tower", choices=TOWERS, help="with --to transformers: write this tower only")
    parser.add_argument("--dtype", choices=_DTYPES, help="convert the weights; by default each keeps its dtype")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the destination")
    source = parser.add_argument_group("what the source may leave open")
    source.add_argument("--config", help="open_clip's JSON of the model, where none lies beside the weights")
    source.add_argument("--hidden-act", help="activation: quick_gelu or gelu")
    source.add_argument("--text-heads", type=int, help="attention heads of the text tower")
    source.add_argument("--vision-heads", type=int, help="attention heads of the vision tower")
    source.add_argument("--preprocess", help="'openai', or a JSON file with open_clip's preprocess_cfg")
    source.add_argument("--merges", help="byte-pair merges in OpenAI's format, or a folder with a tokenizer")
    card = parser.add_argument_group("model card (--to clip_hf)")
    card.add_argument("--license", help="licence of the weights, an identifier of the hub such as mit")
    card.add_argument("--base-model", help="repo on the hub that the weights were made from")
    card.add_argument("--datasets", nargs="+", default=[], help="datasets that the model was trained on")
    hub = parser.add_argument_group("hub")
    hub.add_argument("--push-to-hub", metavar="REPO_ID", help="upload the result to this repo of the hub as well")
    hub.add_argument("--private", action="store_true", help="make the repo a private one, should it be new")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
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
        dtype=getattr(torch, options.dtype) if options.dtype else None,
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


__all__ = ["add_arguments"]
