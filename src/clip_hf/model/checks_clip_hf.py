# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checks of single configuration values, and the words for types and misspelled names that all messages share."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


# Sizes, and far more than any model has. A damaged or hostile file must not make a program build for ever.
LARGEST = {
    "hidden_size": 2**16,
    "image_size": 2**15,
    "intermediate_size": 2**18,
    "layer_norm_eps": math.inf,
    "max_position_embeddings": 2**20,
    "num_attention_heads": 2**12,
    "num_channels": 2**12,
    "num_hidden_layers": 1000,
    "patch_size": 2**15,
    "projection_dim": 2**16,
    "vocab_size": 2**24,
    "width": 2**11,
}


def require_sizes(config: PreTrainedConfig) -> None:
    """Check that the sizes in a configuration are greater than 0, and not larger than in any model."""
    for name, value in vars(config).items():
        if name in LARGEST and not value > 0:  # NaN is not
            raise ValueError(f"`{name}` is {value}; it must be greater than 0.")
        if name in LARGEST and value > LARGEST[name]:
            raise ValueError(f"`{name}` is {value}; it must be at most {LARGEST[name]:,}.")


def require_activation(name: str) -> None:
    """Check that transformers knows the activation."""
    if name not in ACT2FN:
        raise ValueError(
            f"`hidden_act` is {name!r}, which transformers does not know. Use 'quick_gelu' for OpenAI's weights or "
            f"'gelu' for most of open_clip's; all of them: {', '.join(sorted(ACT2FN))}."
        )


def require_heads(hidden_size: int, num_attention_heads: int) -> None:
    """Check that the heads divide the width."""
    if hidden_size % num_attention_heads:
        raise ValueError(
            f"`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` {num_attention_heads}; every "
            "head must have the same width."
        )


def require_probability(config: PreTrainedConfig, name: str) -> None:
    """Check that a field is at least 0 and less than 1."""
    value = getattr(config, name)
    if not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` is {value}; it must be at least 0 and less than 1.")


def check_whole(name: str, value: int, least: int) -> int:
    """A whole number, of NumPy too, as an `int`; ValueError for others."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least {least}.")
    return int(value)


def check_finite(name: str, value: float) -> float:
    """A finite number, of NumPy too, as a `float`; TypeError for what is none, ValueError for NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` is {value!r:.60}, {type_of(value)}; it must be a number.")
    if not math.isfinite(value):
        raise ValueError(f"`{name}` is {value}; it must be finite.")
    return float(value)


def with_article(name: str) -> str:
    """Return a type's name with its article, for a message: `"a str"`, `"an int"`."""
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def type_of(value: object) -> str:
    """Return the name of a value's type with its article."""
    return with_article(type(value).__name__)


def near_names(name: object, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to `count` known names spelled like `name`, best first, whatever the case; `cutoff` 1 means equal."""
    by_lower_case = {other.lower(): other for other in known}
    return [by_lower_case[near] for near in difflib.get_close_matches(str(name).lower(), by_lower_case, count, cutoff)]


def did_you_mean(name: object, known: Iterable[str], quote: str = "'", *, count: int = 1, cutoff: float = 0.6) -> str:
    """Return `" Did you mean 'y'?"` for a misspelled name, to append to a message; `""` if no known name is near."""
    near = " or ".join(f"{quote}{other}{quote}" for other in near_names(name, known, count, cutoff))
    return f" Did you mean {near}?" if near else ""


def unknown_option(name: object, owner: str, known: Iterable[str]) -> str:
    """Return the message for an option that `owner` does not have."""
    return f"Unknown option `{name}` of {owner}.{did_you_mean(name, known, '`')}"


def no_such(kind: str, name: object, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """Return the message for a name that is not in a list: the near names, then all of them."""
    known = list(known)
    hint = did_you_mean(name, known, count=count, cutoff=cutoff)
    return f"There is no {kind} {name!r}.{hint} Available: {', '.join(known)}."
