# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Prompt sets: the built-in ones by name, and users' own from files."""

from pathlib import Path

from ..model.prompts_clip_hf import get_prompt_set, prompt_set_names
from ..model.zero_shot_clip_hf import check_templates
from .json_files import read_json, read_text


def load_prompt_set(name_or_path: str | Path) -> list[str] | dict[str, list[str]]:
    """Load a prompt set for [`build_text_classifier`] and the pipeline's `hypothesis_template`.

    Args:
        name_or_path (`str` or `Path`):
            One of [`prompt_set_names`], or a file: `.txt` with one template a line, or `.json` with a list of
            templates or an object that maps each label to its prompts.

    Returns:
        `list[str]` of templates with the placeholder `{}`, or `dict[str, list[str]]` of complete prompts per label.

    Raises:
        ValueError: if there is neither such a set nor such a file, or the file does not hold prompts.

    Example:

    ```python
    >>> from clip_hf import load_prompt_set

    >>> load_prompt_set("pets")
    ['a photo of a {}, a type of pet.']
    >>> len(load_prompt_set("openai_imagenet"))
    80
    ```
    """
    path = Path(name_or_path)
    if path.suffix not in (".txt", ".json"):
        return list(get_prompt_set(str(name_or_path)))
    if not path.is_file():
        raise ValueError(f"There is no prompt file {str(path)!r}.")
    try:
        lines = read_text(path).splitlines() if path.suffix == ".txt" else []
        prompts = read_json(path) if path.suffix == ".json" else [line for line in lines if line.strip()]
        prompts = check_templates(prompts)
    except (ValueError, TypeError) as error:  # a JSON error is a ValueError
        raise ValueError(f"{str(path)!r} does not hold a prompt set: {error}") from error
    return {label: list(own) for label, own in prompts.items()} if isinstance(prompts, dict) else list(prompts)


__all__ = ["load_prompt_set", "prompt_set_names"]
