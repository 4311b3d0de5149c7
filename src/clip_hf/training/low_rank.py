# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""LoRA (Hu et al. 2022) by peft: train matrices of low rank beside the weights, as CLIP-LoRA does (Zanella and Ben
Ayed 2024).
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..checkpoints.adapters import (
    ADAPTER,
    adapted_layers,
    check_without_adapter,
    mark_adapter,
)
from ..checkpoints.adapters import load_adapter as load_adapter
from ..checkpoints.adapters import merge_lora as merge_lora
from ..model.checks_clip_hf import did_you_mean, type_of
from ..model.processing_clip_hf import ClipHFProcessor
from ..model_card.card import is_hub_name
from ..model_card.section_texts import public_name
from ..utils.atomic import replaced_folder
from ..utils.extras import require_extra
from ..utils.wording import listed
from .freezing import ParameterCounts, count_parameters


_ADAPTABLE = (nn.Linear, nn.Conv2d)
_README = """\
---
{base_model}library_name: peft
tags:
- clip
- lora
---

# A LoRA adapter of {base}

Rank {rank}, alpha {alpha:g} ({scale}), on {modules}.

```python
from clip_hf import ClipHFModel, ClipHFProcessor

model = ClipHFModel.from_pretrained("this/folder")  # {base} with the adapter on it
processor = ClipHFProcessor.from_pretrained("this/folder")
```
"""


@dataclass(frozen=True)
class LoraOptions:
    """The settings of [`add_lora`]; the defaults are CLIP-LoRA's (Zanella and Ben Ayed 2024, section 5).

    Args:
        rank (`int`, *optional*, defaults to 2): Rank of each update `B A`.
        alpha (`float`, *optional*, defaults to 1.0): The update is multiplied with `alpha / sqrt(rank)`.
        dropout (`float`, *optional*, defaults to 0.25): Probability of leaving out a value of an adapter's input.
        modules (`Sequence[str]`, *optional*, defaults to `("q_proj", "k_proj", "v_proj")`): Names of modules, the last
            part or more of it: each linear layer and each convolution whose name ends so gets an adapter. `q_proj`,
            `k_proj`, `v_proj` are in every layer of both towers, and in a ResNet's attention pool.
        rank_stabilised (`bool`, *optional*, defaults to `True`): With `False`, multiply with `alpha / rank`, as the
            first LoRA did; gradients then shrink with the rank (Kalajdzievski 2023).

    Raises:
        ValueError: if a value is out of its range.
    """

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    rank_stabilised: bool = True

    def __post_init__(self):
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"`rank` is {self.rank!r}; it must be a whole number of at least 1.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"`alpha` is {self.alpha}; it must be finite and greater than 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}; it must be at least 0 and less than 1.")
        if isinstance(self.modules, str) or not self.modules or not all(isinstance(m, str) for m in self.modules):
            raise ValueError(f"`modules` is {self.modules!r}; it must be names of modules, such as ('q_proj',).")
        object.__setattr__(self, "modules", tuple(self.modules))


def add_lora(model: nn.Module, options: LoraOptions | None = None, *, frozen: Sequence[str] = ()) -> ParameterCounts:
    """Put LoRA adapters onto a model and freeze all else, `logit_scale` and the statistics of BatchNorm too.

    The features do not change at first, because each `B` starts as zeros. The model stays of its class; its adapted
    layers are peft's. `save_pretrained` writes the adapter alone from then on; [`merge_lora`] ends that.

    Args:
        model ([`ClipHFModel`]): Changed in place, before the optimiser is built and the model is wrapped.
        options ([`LoraOptions`], *optional*): Rank, modules and the rest.
        frozen (`Sequence[str]`, *optional*): Beginnings of names of modules that get no adapter: `("text_model.",)`.

    Returns:
        [`ParameterCounts`]: how many parameters are trained, and how many not.

    Raises:
        ValueError: if a name fits no module, or one that is neither linear nor a convolution, or the model has an
            adapter already; the model is then unchanged.
        ImportError: if peft is not installed.
    """
    options = options or LoraOptions()
    require_extra("adapt", "LoRA", "peft")
    from peft import LoraConfig, inject_adapter_in_model

    check_without_adapter(model)
    targets = _find_targets(model, options.modules)
    left = [name for name in targets if not name.startswith(tuple(frozen))]
    if not left:
        raise ValueError(
            f"`modules` {listed(options.modules, 8)} are only in parts that are frozen ({listed(frozen, 4)}); freeze "
            "less, or name modules of other parts."
        )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=options.rank_stabilised,
        target_modules=list(options.modules),
        # Only where something is left out, because peft warns of an exclusion that excludes nothing.
        exclude_modules="|".join(f"{re.escape(start)}.*" for start in frozen) if len(left) < len(targets) else None,
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model, ADAPTER)
    mark_adapter(model)
    if hasattr(model, "freeze_batch_norm"):
        model.freeze_batch_norm()
    return count_parameters(model)


def _find_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of the modules to adapt; a `ValueError` says which names are wrong, and lists what there is."""
    modules = dict(model.named_modules())
    adaptable = [name for name, module in modules.items() if isinstance(module, _ADAPTABLE)]
    known = sorted({name.rpartition(".")[2] for name in adaptable})
    targets = []
    for wanted in names:
        found = [name for name in modules if name == wanted or name.endswith(f".{wanted}")]
        if not found:
            raise ValueError(
                f"No module is named {wanted!r}; LoRA adapts linear layers and convolutions, here "
                f"{', '.join(known)}.{did_you_mean(wanted, known)}"
            )
        other = next((name for name in found if not isinstance(modules[name], _ADAPTABLE)), None)
        if other is not None:
            raise ValueError(
                f"{other} is {type_of(modules[other])}; LoRA adapts linear layers and convolutions, here "
                f"{', '.join(known)}."
            )
        targets += found
    return targets


def has_lora(model: nn.Module) -> bool:
    """Whether a model has an adapter that is not merged."""
    return bool(adapted_layers(model))


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike,
    base_model: str | os.PathLike | None = None,
    processor: ClipHFProcessor | None = None,
) -> None:
    """Write a model's adapter as peft does, in `adapter_config.json` and `adapter_model.safetensors`, with a README.

    `ClipHFModel.from_pretrained(folder)` and transformers' `AutoModel` load the model with the adapter on it, and so
    does `peft.PeftModel.from_pretrained(model, folder)` from the plain model.

    Args:
        model (`nn.Module`): A model with an adapter, not wrapped.
        folder (`str` or `os.PathLike`): The folder to write, as a whole or not at all; an existing one is replaced.
        base_model (`str` or `os.PathLike`, *optional*): Name or path of the plain model, by default where the model
            was loaded from. A path on this machine is stored in full.
        processor ([`ClipHFProcessor`], *optional*): Saved with the adapter, so that
            `pipeline("zero-shot-image-classification", model=folder)` finds one.

    Raises:
        ValueError: if the model has no adapter, or its plain model has no name.
    """
    if not has_lora(model):
        raise ValueError(f"This {type(model).__name__} has no adapter to save: `add_lora` gives it one.")
    base = os.fspath(base_model or getattr(model, "name_or_path", "") or "")
    if not base:
        raise ValueError("An adapter is of no use without its model: give the model's name or path as `base_model`.")
    base = os.path.abspath(base) if os.path.exists(base) else base
    config = model.peft_config[ADAPTER]
    config.base_model_name_or_path = base
    with replaced_folder(Path(folder)) as temporary:
        model.save_pretrained(temporary)
        if processor is not None:
            processor.save_pretrained(temporary)
        scale = "scaled by alpha / sqrt(rank)" if config.use_rslora else "scaled by alpha / rank"
        # The metadata of a card name what is on the hub, or nothing.
        base_model = f"base_model: {base}\n" if is_hub_name(base) else ""
        values = {"base_model": base_model, "base": public_name(base)}
        values |= {"rank": config.r, "alpha": config.lora_alpha, "scale": scale}
        modules = ", ".join(f"`{name}`" for name in sorted(config.target_modules))
        (temporary / "README.md").write_text(_README.format(**values, modules=modules), encoding="utf-8")
