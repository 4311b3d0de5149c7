# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot classifiers: the text embeddings of labels under prompt templates (Radford et al. 2021, section 3.1).

Shapes: P prompts without repetition, L labels, `dim` the width of the shared embedding space.
"""

import copy
import json
import shlex
import threading
import weakref
from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Integral
from pathlib import Path
from string import Formatter
from types import MemberDescriptorType, MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.utils import logging

from .checks_clip_hf import type_of
from .prompts_clip_hf import PROMPT_SETS, get_prompt_set
from .text_state_clip_hf import rows_checksum, text_state


logger = logging.get_logger(__name__)

# A text batch holds at most this many tokens, padding included: 1,000 labels under one template make one batch, and
# the widest hidden layer (4,096 channels in RN50x64's text tower) stays at 256 MB in float32.
MAX_TOKENS_PER_BATCH = 2**14
# Shorter texts than three quarters of a batch's longest go into the next one, if the batch has as many texts as this:
# 256 texts of 4 to 32 tokens take 0.8 of the time then.
_LEAST_TEXTS = 64
_PLACEHOLDERS = {"", "0", "label"}
# Models of ours with both towers, by `model_type`: those with a repo's own code are of other classes.
OUR_MODEL_TYPES = ("clip_hf", "clip_hf_video")


def check_labels(labels: Iterable[str | int]) -> list[str | int]:
    """Check that `labels`, in any ordered container, are different, non-empty strings or whole numbers.

    Returns a list, in which labels of numpy and torch are Python's own, which JSON takes. The wrong type is a
    `TypeError`, other faults are a `ValueError`.
    """
    if isinstance(labels, str):
        near = [label.strip() for label in labels.split(",")]
        raise TypeError(f"Labels must be a list of strings, not one string: given {labels!r}, pass {near!r}.")
    if isinstance(labels, (bytes, bytearray, Mapping, set, frozenset)) or not hasattr(labels, "__iter__"):
        raise TypeError(f"Labels must be a list of strings; given {type_of(labels)}.")
    labels = list(labels)
    if not labels:
        raise ValueError("There are no labels: pass a list of at least one string.")
    for index, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, (str, Integral)):
            raise TypeError(f"Label {index} is {label!r}, {type_of(label)}; labels must be strings or whole numbers.")
        if isinstance(label, str) and not label.strip():
            raise ValueError(f"Label {index} is blank ({label!r}).")
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"Labels must differ from each other; these occur more than once: {repeated[:10]}.")
    return [label if isinstance(label, str) else int(label) for label in labels]


def warn_of_one_label(labels: Sequence[str | int]) -> None:
    """Warn if the only label has commas: it may be several that were passed as one, as by `--labels red,blue`."""
    several = [part.strip() for part in str(labels[0]).split(",") if part.strip()] if len(labels) == 1 else []
    if len(several) > 1:
        _warn_once(
            f"There is one label only, {_short(str(labels[0]))}, which is the answer for every image. Did you mean "
            f"several? Pass {several!r}, or on the command line `--labels {shlex.join(several)}`."
        )


def check_templates(templates) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Check prompt templates, and look up those of a named prompt set.

    `templates` is a template, the name of a prompt set, a list of templates, or a mapping of each label to its own
    prompts. A template says where the label goes with `{}` or `{label}`; a label's own prompts may do without. The
    wrong type is a `TypeError`, other faults are a `ValueError`.
    """
    if isinstance(templates, Mapping):
        if not templates:
            raise ValueError("The mapping from labels to prompts is empty.")
        return {
            label: _check_list(prompts, f"the prompts of {label!r}", False) for label, prompts in templates.items()
        }
    if isinstance(templates, str):
        if templates in PROMPT_SETS:
            return get_prompt_set(templates)
        # A single word is a misspelled name, and anything else a template without its placeholder.
        if "{" not in templates and templates and not any(c.isspace() for c in templates):
            get_prompt_set(templates)
    return _check_list(templates, "the templates", True)


def load_prompt_set(name_or_path: str | Path) -> list[str] | dict[str, list[str]]:
    """Load a prompt set for [`build_text_classifier`] and the pipeline's `hypothesis_template`.

    Args:
        name_or_path (`str` or `Path`): One of [`prompt_set_names`], or a file: `.txt` with one template a line, or
            `.json` with a list of templates or an object that maps each label to its prompts.

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
        content = path.read_text(encoding="utf-8-sig")
        lines = [line for line in content.splitlines() if line.strip()]
        prompts = check_templates(json.loads(content) if path.suffix == ".json" else lines)
    except (ValueError, TypeError, RecursionError) as error:  # errors of JSON and of UTF-8 are ValueErrors
        raise ValueError(f"{str(path)!r} does not hold a prompt set: {error}") from error
    return {label: list(texts) for label, texts in prompts.items()} if isinstance(prompts, dict) else list(prompts)


def _check_list(templates, what: str, needs_placeholder: bool) -> tuple[str, ...]:
    templates = (templates,) if isinstance(templates, str) else templates
    if isinstance(templates, bytes) or not isinstance(templates, Sequence):
        raise TypeError(
            f"{what[0].upper()}{what[1:]} must be a string or a list of strings; given {templates!r}, "
            f"{type_of(templates)}."
        )
    if not templates:
        raise ValueError(f"The list of {what.removeprefix('the ')} is empty.")
    for template in templates:
        if not isinstance(template, str) or not template.strip():
            raise TypeError(f"{template!r} among {what} must be a string that is not blank.")
        if template in PROMPT_SETS and needs_placeholder:
            raise ValueError(f"The prompt set {template!r} must stand alone: give its name, or a list of templates.")
        if not _has_placeholder(template) and needs_placeholder:
            raise ValueError(
                f"The template {template!r} does not say where the label goes: write {{}} there, as in 'a photo of a "
                f"{{}}.', or name a prompt set: {', '.join(sorted(PROMPT_SETS))}."
            )
    return tuple(templates)


def _has_placeholder(template: str) -> bool:
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"The template {template!r} has unbalanced braces: write {{{{ for a brace.") from error
    for _, field, width, conversion in parts:
        if field not in _PLACEHOLDERS or width or conversion:  # a width might be of gigabytes
            shown = f"{field}{(conversion and f'!{conversion}') or ''}{width and f':{width}'}"
            raise ValueError(
                f"The template {template!r} has the placeholder {{{shown}}}; only {{}} and {{label}} are filled."
            )
    return bool(parts)


def prompts_for(labels: Sequence[str], templates) -> list[list[str]]:
    """Return the prompts of each label, in the templates' order; see [`check_labels`] and [`check_templates`]."""
    labels = check_labels(labels)
    templates = check_templates(templates)
    if isinstance(templates, Mapping):
        missing = [label for label in labels if label not in templates]
        if missing:
            raise ValueError(f"The mapping has no prompts for {len(missing)} of the labels: {missing[:10]}.")
        prompts_of = templates
    else:
        prompts_of = dict.fromkeys(labels, templates)
    # A field may occur more than once, and positional ones count up.
    return [
        [prompt.format(*[label] * max(1, prompt.count("{")), label=label) for prompt in prompts_of[label]]
        for label in labels
    ]


def evaluated(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, without touching it, so that threads and a training loop may share it.

    That is `model` itself if all of it is in evaluation mode; else [`evaluated_copy`].
    """
    return evaluated_copy(model) if any(module.training for module in model.modules()) else model


def evaluated_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules in evaluation mode, which share all parameters and buffers with those of `model`.

    Attributes that lead to modules through containers, bound methods and `partial`s lead to the copies; closures, and
    objects of other classes, still lead to the modules themselves. Other attributes are the same objects.
    """
    copies: dict[int, Any] = {}
    for module in model.modules():
        if id(module) in copies:
            continue
        if isinstance(module, torch.jit.ScriptModule):
            parts = copy.deepcopy(module).eval().modules()
            copies.update((id(part), new) for part, new in zip(module.modules(), parts, strict=True))
        else:
            copies[id(module)] = object.__new__(type(module))
    for module in model.modules():
        new = copies[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            continue
        # What `torch.compile` made of a module belongs to that module.
        attributes = {**vars(module), "training": False, "_compiled_call_impl": None}
        vars(new).update({name: _moved(value, copies) for name, value in attributes.items()})
        vars(new)["_modules"] = {name: _moved(child, copies) for name, child in module._modules.items()}
        for slot, value in list(_slots(module)):
            slot.__set__(new, _moved(value, copies))
    return _moved(model, copies)


def _slots(module: nn.Module) -> Iterator[tuple[MemberDescriptorType, Any]]:
    """The slots, of classes with `__slots__`, that have a value, and those values."""
    for each in type(module).__mro__:
        for slot in vars(each).values():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):
                    yield slot, slot.__get__(module)


def _parts(value: Any) -> list:
    """Return the parts of an attribute that is not a module."""
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values(), *vars(value).values()]
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset, deque)) else []


def _leads_to_a_module(value: Any, seen: set[int]) -> bool:
    if isinstance(value, nn.Module):
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(_leads_to_a_module(part, seen) for part in _parts(value))


def _moved(value: Any, copies: dict[int, Any]) -> Any:
    """An attribute's value for the copy; `copies` maps the ids of modules and containers to their copies."""
    if isinstance(value, nn.Module):
        if type(value).__name__ == "OptimizedModule":  # of `torch.compile`: it calls the one that it was made of
            value = value._orig_mod
        return copies.get(id(value), value)
    if id(value) not in copies and _leads_to_a_module(value, set()):
        copies[id(value)] = _copied(value, copies)
    return copies.get(id(value), value)


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """A copy of a container, bound method or `partial`, in which each part is moved."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _moved(value.__self__, copies))
    if isinstance(value, partial):
        keywords = {name: _moved(each, copies) for name, each in value.keywords.items()}
        new = partial(_moved(value.func, copies), *(_moved(each, copies) for each in value.args), **keywords)
        vars(new).update({name: _moved(each, copies) for name, each in vars(value).items()})
        return new
    if isinstance(value, (tuple, frozenset)):
        base = tuple if isinstance(value, tuple) else frozenset
        new = base.__new__(type(value), [_moved(each, copies) for each in value])  # a named tuple, too
        return copies.get(id(value), new)  # a list in it may have led back here
    new = copies[id(value)] = copy.copy(value)  # before its parts, which may hold it
    if isinstance(value, dict):
        moved = [(_moved(key, copies), _moved(each, copies)) for key, each in list(value.items())]
    else:
        moved = [_moved(each, copies) for each in list(value)]
    new.clear()
    new.update(moved) if isinstance(value, (dict, set)) else new.extend(moved)
    return new


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run `model` in evaluation mode (no dropout, BatchNorm's running statistics); then restore each module's mode."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def features(model: nn.Module, kind: str, **inputs: torch.Tensor) -> torch.Tensor:
    """L2-normalised embeddings of texts or images from any CLIP-like model; `kind` is `"text"` or `"image"`.

    Shape (batch, dim), in float32, or float64 if the model is.
    """
    if getattr(getattr(model, "config", None), "model_type", None) in OUR_MODEL_TYPES:
        inputs["pooled_only"] = True  # nothing else is used here, and the towers are faster
    for method in (f"get_{kind}_features", f"encode_{kind}"):
        if hasattr(model, method):
            output = getattr(model, method)(**inputs)
            break
    else:
        raise TypeError(f"{type(model).__name__} has neither `get_{kind}_features` nor `encode_{kind}`.")
    output = output if isinstance(output, torch.Tensor) else output.pooler_output
    # Half precision would lose the differences between the embeddings of similar prompts when they are averaged.
    return nn.functional.normalize(output.to(torch.promote_types(output.dtype, torch.float32)), dim=-1)


@torch.no_grad()
def build_text_classifier(
    model: nn.Module,
    processor,
    labels: Sequence[str],
    templates="a photo of a {}.",
    *,
    tokenizer_kwargs: dict | None = None,
    max_tokens_per_batch: int = MAX_TOKENS_PER_BATCH,
) -> torch.Tensor:
    """Weights of a zero-shot classifier: one text embedding per label, ensembled over prompts in embedding space.

    Each prompt's embedding is normalised, a label's prompts are averaged, and the mean is normalised again (Radford et
    al. 2021, section 3.1.4). Prompts that occur more than once are encoded once, in batches of similar length; the
    result is that of encoding them one by one. The model runs in evaluation mode.

    Args:
        model (`nn.Module`): A [`ClipHFModel`], or another model with `get_text_features` or `encode_text`, such as
            transformers' `CLIPModel`.
        processor (`ClipHFProcessor` or tokenizer): The model's processor or tokenizer.
        labels (`Sequence[str]`): The labels, all different: strings, or whole numbers. Labels that the tokenizer makes
            one are warned of.
        templates (`str`, `Sequence[str]` or `Mapping`, *optional*, defaults to `"a photo of a {}."`): One template,
            several to average over, the name of a prompt set ([`prompt_set_names`]), or each label's own prompts. `{}`
            or `{label}` stands for the label.
        tokenizer_kwargs (`dict`, *optional*): Further arguments of the tokenizer. Prompts that are too long are cut
            with a warning; `"truncation": True` cuts without.
        max_tokens_per_batch (`int`, *optional*, defaults to 16384): Upper bound of the tokens in a batch, padding
            included. Lower it if memory runs out.

    Returns:
        `torch.Tensor` of shape (num_labels, dim): L2-normalised rows in the order of `labels`, on the model's device,
        in float32 (float64 if the model is).

    Raises:
        TypeError: if labels or templates are of the wrong type.
        ValueError: if there are no labels, a label is blank or occurs twice, a template has no placeholder, there is
            no prompt set of that name, or a mapping lacks a label.

    Example:

    ```python
    >>> from clip_hf import ClipHFModel, ClipHFProcessor, build_text_classifier

    >>> model, processor = ClipHFModel.from_pretrained(path), ClipHFProcessor.from_pretrained(path)
    >>> classifier = build_text_classifier(model, processor, ["cat", "dog"], "openai_imagenet")
    >>> similarities = model.encode_image(**processor(images=image, return_tensors="pt")) @ classifier.T
    ```
    """
    return _build(model, processor, labels, templates, tokenizer_kwargs, max_tokens_per_batch)


@torch.no_grad()
def _build(
    model: nn.Module,
    processor,
    labels: Sequence[str],
    templates,
    tokenizer_kwargs: dict | None,
    max_tokens_per_batch: int = MAX_TOKENS_PER_BATCH,
    see_ids: Callable[[Iterable[list[int]]], None] = lambda ids: None,
) -> torch.Tensor:
    """[`build_text_classifier`]; `see_ids` gets the prompts' token ids before they are encoded."""
    labels = check_labels(labels)
    prompts = prompts_for(labels, templates)
    model, tokenizer = evaluated(model), getattr(processor, "tokenizer", processor)
    ids: dict[str, list[int]] = {}

    def encode(texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        tokens = _tokenize(model, tokenizer, texts, tokenizer_kwargs)
        ids.update(zip(texts, tokens["input_ids"]))
        see_ids(ids.values())
        return _encode_tokens(model, tokenizer, tokens, max_tokens_per_batch)

    classifier = ensemble_prompts(prompts, encode)
    if not (tokenizer_kwargs or {}).keys() & {"truncation", "max_length"}:
        _say_what_is_cut(tokenizer, ids, context_length(model, tokenizer))
    _say_what_is_alike(labels, [sorted(ids[prompt] for prompt in texts) for texts in prompts])
    return classifier


def _warn_once(message: str) -> None:
    """Warn once in a program: not in each process, nor at each call of a training that encodes its labels again."""
    is_first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    if is_first:
        logger.warning_once(message)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}")


def _say_what_is_cut(tokenizer, ids: dict[str, list[int]], limit: int) -> None:
    """Warn of prompts that were too long; `ids` are those after cutting."""
    full = [text for text, token_ids in ids.items() if len(token_ids) >= limit]
    if not full:
        return
    lengths = [len(token_ids) for token_ids in tokenizer(full, truncation=False, verbose=False)["input_ids"]]
    cut = [(text, length) for text, length in zip(full, lengths) if length > limit]
    if cut:
        text, length = cut[0]
        more = f", and so {'is' if len(cut) == 2 else 'are'} {len(cut) - 1:,} more of the {len(ids):,} prompts"
        more = "" if len(cut) == 1 else more
        _warn_once(
            f"The prompt {_short(text)} has {length} tokens, but at most {limit} fit: it is cut{more}. Shorten it, or "
            "pass tokenizer_kwargs={'truncation': True} to cut without this warning."
        )


def _say_what_is_alike(labels: list, keys: list[list]) -> None:
    """Warn of labels that have the same text embedding, because their prompts have the same token ids."""
    groups: dict[str, list] = {}
    for label, key in zip(labels, keys):
        groups.setdefault(repr(key), []).append(label)
    alike = [group for group in groups.values() if len(group) > 1]
    if alike:
        shown = "; ".join(", ".join(_short(str(label)) for label in group[:5]) for group in alike[:5])
        _warn_once(
            f"The model cannot tell these labels apart, because the token ids of their prompts are the same: {shown}. "
            "Tokenizers of CLIP ignore case and cut what is too long: choose labels that differ in words, early on."
        )


def ensemble_prompts(
    prompts: Sequence[Sequence[str]], encode: Callable[[list[str]], Iterable[tuple[Sequence[int], torch.Tensor]]]
) -> torch.Tensor:
    """Average each label's prompts in embedding space, whatever encodes them: L2-normalised (num_labels, dim).

    `encode` gets texts that are all different, and yields the indices of some and their L2-normalised embeddings
    (batch, dim) until each came once.
    """
    uses: dict[str, list[int]] = {}  # prompt -> labels it belongs to, as often as it occurs
    for row, texts_of_label in enumerate(prompts):
        for prompt in texts_of_label:
            uses.setdefault(prompt, []).append(row)
    texts, classifier = list(uses), None
    for batch, embeddings in encode(texts):
        if classifier is None:
            classifier = embeddings.new_zeros(len(prompts), embeddings.shape[-1])  # (L, dim)
        pairs = [(row, place) for place, index in enumerate(batch) for row in uses[texts[index]]]
        rows, places = torch.tensor(pairs, device=embeddings.device).T
        # The sum instead of the mean: they differ in length only.
        classifier.index_add_(0, rows, embeddings[places])
    return nn.functional.normalize(classifier, dim=-1)


@torch.no_grad()
def encode_in_batches(
    model: nn.Module,
    processor,
    texts: Sequence[str],
    tokenizer_kwargs: dict | None = None,
    max_tokens_per_batch: int = MAX_TOKENS_PER_BATCH,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Encode texts in batches of similar length: the indices of some and their L2-normalised embeddings (batch, dim).

    Arguments as in [`build_text_classifier`].
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    return _encode_tokens(model, tokenizer, _tokenize(model, tokenizer, texts, tokenizer_kwargs), max_tokens_per_batch)


def _tokenize(
    model: nn.Module, tokenizer, texts: Sequence[str], tokenizer_kwargs: dict | None
) -> dict[str, list[list[int]]]:
    options = {"truncation": True, "max_length": context_length(model, tokenizer), **(tokenizer_kwargs or {})}
    if getattr(getattr(model, "config", None), "fixed_length", False):  # of an exported SigLIP
        options["padding"] = "max_length"
    return dict(tokenizer(list(texts), **options))


@torch.no_grad()
def _encode_tokens(
    model: nn.Module, tokenizer, tokens: dict[str, list[list[int]]], max_tokens_per_batch: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    encoded = {key: [torch.as_tensor(row, device="cpu") for row in rows] for key, rows in tokens.items()}
    lengths = [len(ids) for ids in encoded["input_ids"]]
    # Sorted by length to pad little, then by tokens so that texts with equal beginnings share a batch: towers of ours
    # compute these once.
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], encoded["input_ids"][index].tolist()))
    device = input_device(model)
    # Exported models ask for smaller batches.
    max_tokens_per_batch = min(max_tokens_per_batch, getattr(model, "max_tokens_per_batch", max_tokens_per_batch))
    while order:
        # From the longest down: the first text of a batch is what the others are padded to.
        longest = lengths[order[-1]]
        num_long = len(order) - bisect_left(order, 0.75 * longest, key=lengths.__getitem__)
        size = max(1, min(max_tokens_per_batch // longest, max(num_long, _LEAST_TEXTS)))
        batch, order = order[-size:], order[:-size]
        # On the right, whatever the tokenizer's side: on the left, padding would shift the positions.
        inputs = {
            key: nn.utils.rnn.pad_sequence(
                [rows[index] for index in batch],
                batch_first=True,
                padding_value=(tokenizer.pad_token_id or 0) if key == "input_ids" else 0,
            ).to(device)
            for key, rows in encoded.items()
        }
        yield batch, features(model, "text", **inputs)


def input_device(model: nn.Module) -> torch.device:
    """The device that a model's inputs belong on: its own, or the CPU if its weights are offloaded."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device  # offloaded: accelerate moves the inputs


def context_length(model: nn.Module, tokenizer) -> int:
    """The longest text that both model and tokenizer take, in tokens."""
    config = getattr(model, "config", None)
    lengths = (
        getattr(getattr(config, "text_config", None), "max_position_embeddings", None),
        getattr(config, "context_length", None),  # of an exported model, which has no configuration of its text tower
        getattr(tokenizer, "model_max_length", None),
    )
    return min(length for length in (*lengths, 2**31 - 1) if length is not None)


class TextClassifierCache:
    """Text classifiers by model, weights, labels and templates, so that labels are encoded once.

    - The cache drops a model's classifiers when any weight of the text tower changes (training, loading, merging or
      switching adapters, edits through `.data`, another dtype or device), when a number or string among the attributes
      of its modules and configuration does (`eps`, the active adapter), or its forward hooks do. Training the image
      tower drops nothing. Only the embedding rows of the prompts' tokens count, if the embedding is a plain one. An
      offloaded text tower is never cached.
    - Other tokenizer settings (length, side of truncation or padding, vocabulary size) give other classifiers, as do
      autocast and inference mode. Call `clear` after other changes that are made to a tokenizer or model in place:
      an exchanged vocabulary or normaliser of a tokenizer, functions and tensors that modules hold in lists.
    - Threads may share one.
    - Models and tokenizers are held weakly: the cache keeps none alive.
    - Per model it holds the `max_entries` classifiers used last; one of 1,000 labels in 512 dimensions takes 2 MB.
    """

    max_entries = 8

    def __init__(self):
        self._models: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, OrderedDict]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __reduce__(self):
        # Neither weak references nor locks can be copied; a copy, as in a worker process, starts empty.
        return type(self), ()

    def __len__(self) -> int:
        return sum(len(classifiers) for _, classifiers in self._models.values())

    def clear(self) -> None:
        """Forget every classifier."""
        self._models.clear()

    def get(
        self, model: nn.Module, processor, labels, templates, tokenizer_kwargs: dict | None = None
    ) -> torch.Tensor:
        """The classifier of [`build_text_classifier`], from the cache if nothing it depends on has changed. It is
        shared: do not change it in place.
        """
        return self.get_all(model, processor, [(labels, templates)], tokenizer_kwargs)[0]

    def get_all(
        self, model: nn.Module, processor, labels_and_templates: Sequence[tuple], tokenizer_kwargs: dict | None = None
    ) -> list[torch.Tensor]:
        """[`~TextClassifierCache.get`] for several pairs of labels and templates; the weights are checked once."""
        tokenizer = getattr(processor, "tokenizer", processor)
        setting = self._setting(model, tokenizer, tokenizer_kwargs or {})
        result = []
        with self._lock:
            state, tables = text_state(model)
            known, classifiers = self._models.get(model, (None, None))
            if known != state:
                classifiers = OrderedDict()
                self._models[model] = (state, classifiers)
            for labels, templates in labels_and_templates:
                labels, templates = check_labels(labels), check_templates(templates)
                prompts = tuple(templates.items()) if isinstance(templates, Mapping) else templates
                key = (tuple(labels), prompts, *setting)
                classifier, ids, rows = classifiers.get(key, (None, (), None))
                if classifier is None or rows_checksum(tables, ids) != rows:
                    classifiers[key] = self._encode(model, processor, labels, templates, tokenizer_kwargs, tables)
                    if len(classifiers) > self.max_entries:
                        classifiers.popitem(last=False)
                classifiers.move_to_end(key)
                result.append(classifiers[key][0])
        return result

    @staticmethod
    def _setting(model: nn.Module, tokenizer, options: dict) -> tuple:
        """Return what a classifier depends on besides weights, labels and templates."""
        device = input_device(model).type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        sides = [getattr(tokenizer, name, None) for name in ("truncation_side", "padding_side")]
        return (
            *(weakref.ref(tokenizer), len(tokenizer), context_length(model, tokenizer), *sides),
            tuple(sorted((key, repr(value)) for key, value in options.items())),
            *(autocast, torch.is_inference_mode_enabled()),
        )

    @staticmethod
    def _encode(model: nn.Module, processor, labels, templates, options: dict | None, tables: list) -> tuple:
        """A classifier, the token ids that it was made of, and a checksum of their embeddings."""
        ids, rows = [], []
        padding = getattr(getattr(processor, "tokenizer", processor), "pad_token_id", None) or 0

        def see_ids(prompts: Iterable[list[int]]) -> None:
            ids.extend(sorted({padding}.union(*prompts)))
            rows.append(rows_checksum(tables, ids))  # before encoding: what changes meanwhile shows next time

        return _build(model, processor, labels, templates, options, see_ids=see_ids), ids, rows[0]
