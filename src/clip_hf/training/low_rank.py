# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""LoRA (Hu et al. 2022) by peft: train matrices of low rank beside the weights, as CLIP-LoRA does (Zanella and Ben
Ayed 2024).
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors.torch import load, save
from torch import nn

from ..checkpoints.adapters import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    BASE_WEIGHTS,
    adapted_layers,
    base_digest,
    check_no_adapter_folder,
    check_without_adapter,
    is_adapter_folder,
    mark_adapter,
    plain_after_error,
)
from ..checkpoints.adapters import load_adapter as load_adapter
from ..checkpoints.adapters import merge_lora as merge_lora
from ..model.checks_clip_hf import check_finite, check_whole, did_you_mean, type_of
from ..model.processing_clip_hf import ClipHFProcessor
from ..model_card.card import is_hub_name
from ..model_card.section_texts import public_name
from ..utils.atomic import replaced_folder
from ..utils.extras import require_extra
from ..utils.wording import listed, quoted
from .freezing import ParameterCounts, count_parameters


_ADAPTABLE = (nn.Linear, nn.Conv2d)
# What an adapter's folder holds: peft's files, the card, and a processor's with its code.
_FILES = ("adapter_*", "README.md", "*processor_config.json", "tokenizer*.json", "special_tokens_map.json")
_FILES += ("added_tokens.json", "vocab.*", "merges.txt", "chat_template.*", "*_clip_hf*.py")
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
        TypeError: if `alpha` or `dropout` is no number.
    """

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    rank_stabilised: bool = True

    def __post_init__(self):
        # Python's numbers, because peft writes them into JSON.
        object.__setattr__(self, "rank", check_whole("rank", self.rank, 1))
        for name in ("alpha", "dropout"):
            object.__setattr__(self, name, check_finite(name, getattr(self, name)))
        if self.alpha <= 0:
            raise ValueError(f"`alpha` is {self.alpha}; it must be greater than 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}; it must be at least 0 and less than 1.")
        listing = isinstance(self.modules, Collection) and not isinstance(self.modules, str)
        if not listing or not self.modules or not all(isinstance(name, str) and name for name in self.modules):
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
        ValueError: if a name fits no module, or one that is neither linear nor a convolution, the rank is above a
            layer's smaller side, or the model has an adapter already; the model is then unchanged.
        TypeError: if an argument is of another type.
        ImportError: if peft is not installed.
    """
    options = LoraOptions() if options is None else options
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is {type_of(model)}; it must be a model, such as a `ClipHFModel`.")
    if not isinstance(options, LoraOptions):
        raise TypeError(f"`options` is {type_of(options)}; it must be `LoraOptions`, such as `LoraOptions(rank=2)`.")
    require_extra("adapt", "LoRA", "peft")
    from peft import LoraConfig, inject_adapter_in_model

    check_without_adapter(model)
    _check_beginnings(model, frozen)
    targets = _find_targets(model, options.modules)
    left = [name for name in targets if not name.startswith(tuple(frozen))]
    if not left:
        raise ValueError(
            f"`modules` {listed(options.modules, 8)} are only in parts that are frozen ({listed(frozen, 4)}); freeze "
            "less, or name modules of other parts."
        )
    _check_rank(model, left, options.rank)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=options.rank_stabilised,
        target_modules=list(options.modules),
        # Only where something is left out, because peft warns of an exclusion that excludes nothing.
        exclude_modules="|".join(f"{re.escape(start)}.*" for start in frozen) if len(left) < len(targets) else None,
    )
    with plain_after_error(model):
        inject_adapter_in_model(config, model.requires_grad_(False), ADAPTER)
    mark_adapter(model)
    if hasattr(model, "freeze_batch_norm"):
        model.freeze_batch_norm()
    return count_parameters(model)


def _check_beginnings(model: nn.Module, frozen: Sequence[str]) -> None:
    """Raise an error unless each text is the beginning of a parameter's name."""
    if isinstance(frozen, str) or not all(isinstance(start, str) for start in frozen):
        raise TypeError(f"`frozen` is {frozen!r}; it must be a list of beginnings of names, such as ['text_model.'].")
    names = [name for name, _ in model.named_parameters()]
    for start in frozen:
        if not any(name.startswith(start) for name in names):
            raise ValueError(
                f"`frozen` has {start!r}, with which no name of a parameter begins; the parts are "
                f"{', '.join(name for name, _ in model.named_children())}."
                f"{did_you_mean(start, (f'{name}.' for name, _ in model.named_modules() if name))}"
            )


def _check_rank(model: nn.Module, targets: Sequence[str], rank: int) -> None:
    """Raise a `ValueError` if a layer's update could never be of that rank."""
    for name in targets:
        weight = model.get_submodule(name).weight
        rows, columns = len(weight), weight.numel() // len(weight)
        if rank > min(rows, columns):
            raise ValueError(
                f"`rank` is {rank}, and the weight of {name} is {rows} x {columns}: an update of it has at most the "
                f"rank {min(rows, columns)}. Choose a smaller rank, or leave this layer out."
            )


def _find_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of the modules to adapt; a `ValueError` says which names are wrong, and lists what there is."""
    modules = dict(model.named_modules())
    adaptable = [name for name, module in modules.items() if isinstance(module, _ADAPTABLE) and name]
    if not adaptable:
        raise ValueError(
            f"This {type(model).__name__} has no linear layers and no convolutions within, which LoRA could adapt."
        )
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
        folder (`str` or `os.PathLike`): The folder to write, as a whole or not at all. An existing one is replaced if
            it holds an adapter and nothing else.
        base_model (`str` or `os.PathLike`, *optional*): Name or path of the plain model, by default where the model
            was loaded from. A path on this machine is stored in full.
        processor ([`ClipHFProcessor`], *optional*): Saved with the adapter, so that
            `pipeline("zero-shot-image-classification", model=folder)` finds one.

    Raises:
        ValueError: if the model has no adapter, or its plain model has no name or is an adapter.
        FileExistsError: if the folder holds anything else than an adapter; the plain model, say.
    """
    if not has_lora(model):
        raise ValueError(f"This {type(model).__name__} has no adapter to save: `add_lora` gives it one.")
    if ADAPTER not in model.peft_config:
        raise ValueError(f"The adapter is named {quoted(model.peft_config)}; `save_adapter` saves {ADAPTER!r} only.")
    base = os.fspath(base_model or getattr(model, "name_or_path", "") or "")
    if not base:
        raise ValueError("An adapter is of no use without its model: give the model's name or path as `base_model`.")
    base = os.path.abspath(base) if os.path.exists(base) else base
    check_no_adapter_folder(base, f"The adapter's model, {base},")
    _check_replaceable(Path(folder))
    config = model.peft_config[ADAPTER]
    config.base_model_name_or_path = base
    with replaced_folder(Path(folder), _check_replaceable) as temporary:
        model.save_pretrained(temporary)
        weights, digest = temporary / ADAPTER_WEIGHTS, base_digest(model)
        metadata = {"format": "pt", **({BASE_WEIGHTS: digest} if digest else {})}
        weights.write_bytes(save(load(weights.read_bytes()), metadata))
        if processor is not None:
            processor.save_pretrained(temporary)
        scale = "scaled by alpha / sqrt(rank)" if config.use_rslora else "scaled by alpha / rank"
        # The metadata of a card name what is on the hub, or nothing.
        base_model = f"base_model: {base}\n" if is_hub_name(base) else ""
        values = {"base_model": base_model, "base": public_name(base)}
        values |= {"rank": config.r, "alpha": config.lora_alpha, "scale": scale}
        modules = ", ".join(f"`{name}`" for name in sorted(config.target_modules))
        (temporary / "README.md").write_text(_README.format(**values, modules=modules), encoding="utf-8")


def _check_replaceable(folder: Path) -> None:
    """Raise a `FileExistsError` if a folder holds anything else than an adapter."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    other = [
        each.name for each in entries if each.is_dir() or not any(fnmatchcase(each.name, name) for name in _FILES)
    ]
    if other or (entries and not is_adapter_folder(folder)):
        what = f"it holds {listed(other, 3)}" if other else "there is no adapter in it"
        raise FileExistsError(
            f"{folder} would be replaced as a whole, and {what}. An adapter needs a folder of its own, beside its "
            "model's: give another one, or empty it."
        )
