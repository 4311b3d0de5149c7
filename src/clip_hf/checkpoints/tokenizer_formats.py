# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The tokenizer of a checkpoint: from merges that are given, from its own folder, or OpenAI's."""

import functools
import json
from pathlib import Path

from transformers import CLIPTokenizer

from ..model.configuration_clip_hf import OPENAI_VOCAB_SIZE, ClipHFTextConfig
from ..model.tokenization_clip_hf import ClipHFTokenizer
from ..utils.json_files import read_json


OPENAI_MERGES = Path(__file__).parent / "openai_merges.txt.gz"
"""The 48,894 merges that OpenAI published with its models (github.com/openai/CLIP, MIT), gzipped."""

_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer of transformers."""
    return any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FILES)


def build_tokenizer(
    merges: str | Path | None, config: ClipHFTextConfig, folder: Path | None
) -> ClipHFTokenizer | None:
    """The tokenizer of a model: from `merges`, a file or a folder, else from its own `folder`, else OpenAI's.

    `None` where nothing is given and the vocabulary has not the size of OpenAI's.

    Raises:
        FileNotFoundError: if the merges do not exist.
        ValueError: if a vocabulary is not the model's, or is not one of byte pairs as CLIP's is.
    """
    if merges is not None:
        source = Path(merges)
        tokenizer = _from_folder(source) if source.is_dir() else None
        tokenizer = tokenizer or ClipHFTokenizer.from_bpe_file(source, context_length=config.max_position_embeddings)
    elif folder is not None and has_tokenizer(folder):
        source, tokenizer = folder, _from_folder(folder)
    elif config.vocab_size == OPENAI_VOCAB_SIZE:
        source = OPENAI_MERGES
        tokenizer = ClipHFTokenizer.from_bpe_file(source, context_length=config.max_position_embeddings)
    else:
        return None
    tokenizer.model_max_length = config.max_position_embeddings
    # A vocabulary may be padded to a round number of rows, but every id needs one.
    if len(tokenizer) > config.vocab_size or tokenizer.eos_token_id != config.eos_token_id:
        raise ValueError(
            f"The tokenizer of {source} does not belong to this model: it has {len(tokenizer)} ids and ends texts "
            f"with id {tokenizer.eos_token_id}, the model has {config.vocab_size} and ends them with "
            f"{config.eos_token_id}. Give the merges that the model was trained with."
        )
    return tokenizer


def _from_folder(folder: Path) -> ClipHFTokenizer:
    if not has_tokenizer(folder):
        raise ValueError(f"{folder} has no tokenizer: there is neither tokenizer.json nor vocab.json and merges.txt.")
    path = folder / "tokenizer.json"
    if path.is_file():
        model = read_json(path, dict).get("model")
        model = model if isinstance(model, dict) else {}
        if model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
            raise ValueError(
                f"The tokenizer of {folder} is no byte-pair tokenizer as CLIP's are (model {model.get('type')!r}, "
                f"end of word {model.get('end_of_word_suffix')!r}); models with another have no counterpart here."
            )
    return ClipHFTokenizer.from_pretrained(folder)


def save_for_transformers(tokenizer: ClipHFTokenizer, folder: Path) -> None:
    """Write a tokenizer as transformers' own, which loads without this library.

    The vocabulary is the same; texts that need OpenAI's clean-up (see `ClipHFTokenizer`) get other ids from that
    class. Beside tokenizer.json lie `vocab.json` and `merges.txt`, as in the CLIP repos on the hub: all that
    transformers before version 5 and many other programs read.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    theirs = CLIPTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        model_max_length=tokenizer.model_max_length,
        **{name: getattr(tokenizer, name) for name in names},
    )
    theirs.save_pretrained(folder)
    theirs.backend_tokenizer.model.save(str(folder))


def is_openais(tokenizer: ClipHFTokenizer) -> bool:
    """Whether a tokenizer has the vocabulary that OpenAI published, which `clip.tokenize` and open_clip have too."""
    return len(tokenizer) == OPENAI_VOCAB_SIZE and tokenizer.get_vocab() == _openai_vocabulary()


@functools.cache
def _openai_vocabulary() -> dict[str, int]:
    return ClipHFTokenizer.from_bpe_file(OPENAI_MERGES).get_vocab()
