# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Models between and beyond models: interpolated weights, averages of several, and task vectors.

Every function gives a new model and leaves those that it is given as they are. All floating parameters and buffers
take part, BatchNorm's running statistics among them. `logit_scale` is stored as a logarithm and takes part as it is,
as in WiSE-FT's released code, so the multipliers are averaged geometrically. Integer buffers, such as BatchNorm's
counters, are the first model's. Models of several precisions give one of the widest. Tied weights stay tied.
"""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..checkpoints.dual_models import load_dual_model, read_config
from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFForImageClassification
from ..utils.wording import counted, listed


logger = logging.get_logger(__name__)

# Facts about a configuration that do not decide what the weights compute: where it is from, and how it was trained.
_BOOKKEEPING = {
    "_name_or_path",
    "_commit_hash",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "initializer_factor",
    "initializer_range",
    "logit_scale_init_value",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# From this distance of their weights, as a share of the first one's, models have nothing in common: two random starts
# are 1.4 apart, fine-tuning stays below 0.5.
_UNLIKE = 1.0
_SHOWN = 4  # names in a message
_TOWERS = {"clip_hf_vit": "ViT", "clip_hf_resnet": "ResNet"}

Model = nn.Module | str | os.PathLike
"""What the functions here take for a model: the model itself, or its folder, file or name on the hub."""


def interpolate_weights(zero_shot: Model, fine_tuned: Model, alpha: float) -> nn.Module:
    """A model between two: (1 - alpha) zero-shot + alpha fine-tuned (WiSE-FT, Wortsman et al. 2022).

    A ResNet's BatchNorm statistics are interpolated like weights. They then fit neither model exactly:
    [`reestimate_batch_norm_`] measures them anew on images.

    Args:
        zero_shot (`nn.Module`, `str` or path): The model before it was fine-tuned.
        fine_tuned (`nn.Module`, `str` or path): The model after it; an image classifier with an image classifier.
        alpha (`float`): 0 gives the first and 1 the second, both to the last bit. Values outside extrapolate, which
            makes sense only along a fine-tuning: the weights of the two must then be less far apart than those of the
            first are long.

    Returns:
        `nn.Module`: a new model of the first one's class, in evaluation mode; half precision is computed in float32
            and rounded once.

    Raises:
        ValueError: if the models are of different shapes, weights or configurations, one has LoRA or folded BatchNorm
            layers or weights that are not finite, `alpha` is not finite, or is outside 0 to 1 and the models have
            nothing in common, or gives BatchNorm a negative variance or weights that are not finite.
    """
    alpha = _check_number("alpha", alpha)
    first, second = _load(zero_shot), _load(fine_tuned)
    names = (_name_of(zero_shot, "the first model"), _name_of(fine_tuned, "the second model"))
    check_same_shape(first, second, names)
    if facts := _unlike(first, second, names):
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` is {alpha:g}, outside 0 to 1, and {facts}, and beyond them.")
        logger.warning(f"{facts}.")
    result = first if first is not zero_shot else copy.deepcopy(first)
    other = _tensors(second)
    with torch.no_grad():
        for name, tensor in _tensors(result).items():
            if tensor.is_floating_point():
                dtype = torch.promote_types(tensor.dtype, other[name].dtype)
                low, high = (_at_least_float32(each.to(tensor.device, dtype)) for each in (tensor, other[name]))
                # At the ends a difference that overflows would be NaN.
                value = low if alpha == 0 else high if alpha == 1 else torch.lerp(low, high, alpha)
                _set(tensor, name, value, dtype)
    return result.eval()


def average_weights(models: Sequence[Model]) -> nn.Module:
    """The mean of several models' weights: a uniform soup (Wortsman et al. 2022, "Model soups").

    Models that are given by path are loaded one after the other, so two are in memory however many there are.

    Args:
        models (`Sequence[nn.Module | str | path]`): At least one; all fine-tuned from the same model.

    Returns:
        `nn.Module`: a new model of the first one's class, in evaluation mode; half precision is averaged in float32
            and rounded once.

    Raises:
        ValueError: as [`interpolate_weights`], and if there are no models.
        TypeError: if `models` is a single model or path.
    """
    models = _as_list(models)
    soup = _Soup(models[0])
    for model in models[1:]:
        soup.add(model)
    return soup.model()


@dataclass(frozen=True)
class GreedySoup:
    """A greedy soup and how it was made.

    Args:
        model (`nn.Module`): The soup, in evaluation mode.
        kept (`list[int]`): Places of the models in it, among those given, in the order in which they were added.
        score (`float`): Its score on the held-out data.
        scores (`list[float]`): Each model's own score, in the order given.
    """

    model: nn.Module
    kept: list[int]
    score: float
    scores: list[float]


def greedy_soup(models: Sequence[Model], score: Callable[[nn.Module], float]) -> GreedySoup:
    """Average those models that do not make the average worse: a greedy soup (Wortsman et al. 2022, recipe 1).

    The models are sorted by their own score, best first (of equal ones the first given). Each is added to the average,
    and stays if the average then scores no lower than before. At most three models are in memory besides those that
    are given as objects.

    Args:
        models (`Sequence[nn.Module | str | path]`): At least one; all fine-tuned from the same model.
        score (`Callable`): Gives a model's score on *held-out* data, higher is better, never on the test data. It must
            leave the model as it is.

    Returns:
        [`GreedySoup`]: its score is never below the best single model's.

    Raises:
        ValueError, TypeError: as [`average_weights`], and if a score is not finite.
    """
    models = _as_list(models)
    scores = [_check_number(f"the score of model {place}", score(_load(each))) for place, each in enumerate(models)]
    order = sorted(range(len(models)), key=lambda place: -scores[place])  # stable
    soup, kept, best = _Soup(models[order[0]]), [order[0]], scores[order[0]]
    for place in order[1:]:
        candidate = copy.deepcopy(soup)
        candidate.add(models[place])
        reached = _check_number("the score of a soup", score(candidate.model()))
        if reached >= best:
            soup, best = candidate, reached
            kept.append(place)
    return GreedySoup(soup.model(), kept, best, scores)


@dataclass(frozen=True, eq=False)
class TaskVector:
    """What fine-tuning changed: the tuned weights less the base's (Ilharco et al. 2023, "Editing models ...").

    Args:
        differences (`dict[str, torch.Tensor]`): By name of the floating parameter or buffer, at least float32.
    """

    differences: dict[str, torch.Tensor]


def task_vector(base: Model, tuned: Model) -> TaskVector:
    """What fine-tuning changed in the weights, to be added to a model, scaled, or negated.

    Args:
        base (`nn.Module`, `str` or path): The model before.
        tuned (`nn.Module`, `str` or path): The model after.

    Raises:
        ValueError: if the models are of different shapes, weights or configurations, or have LoRA layers.
    """
    first, second = _load(base), _load(tuned)
    check_same_shape(first, second, (_name_of(base, "the base"), _name_of(tuned, "the tuned model")))
    other = _tensors(second)
    return TaskVector(
        {
            name: _at_least_float32(other[name].detach().to(tensor.device)) - _at_least_float32(tensor.detach())
            for name, tensor in _tensors(first).items()
            if tensor.is_floating_point()
        }
    )


def add_task_vectors(base: Model, vectors: Mapping[TaskVector, float]) -> nn.Module:
    """A model to which tasks were added, or from which they were taken (Ilharco et al. 2023).

    Args:
        base (`nn.Module`, `str` or path): The model that the vectors are added to.
        vectors (`Mapping[TaskVector, float]`): Each with its weight: 1 adds the whole fine-tuning, a negative weight
            takes away what it taught. The paper chooses weights on held-out data, one for all vectors.

    Returns:
        `nn.Module`: a new model of the base's class and precision, in evaluation mode.

    Raises:
        ValueError: if a vector is of a model of other shapes, a weight is not finite, or BatchNorm's variances would
            be negative.
        TypeError: if `vectors` is no mapping, or a key is no [`TaskVector`].
    """
    if not isinstance(vectors, Mapping):
        raise TypeError(f"`vectors` is {type_of(vectors)}; give each with its weight, such as {{vector: 1.0}}.")
    model = _load(base)
    _check_plain(model, _name_of(base, "the base"))
    result = model if model is not base else copy.deepcopy(model)
    tensors = {name: tensor for name, tensor in _tensors(result).items() if tensor.is_floating_point()}
    for vector, weight in vectors.items():
        if not isinstance(vector, TaskVector):
            raise TypeError(f"A key of `vectors` is {type(vector).__name__}; `task_vector(base, tuned)` makes them.")
        _check_number("the weight of a task vector", weight)
        shapes = {name: tuple(difference.shape) for name, difference in vector.differences.items()}
        _check_names_and_shapes(
            {name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes, ("the base", "a task vector")
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            value = _at_least_float32(tensor)
            for vector, weight in vectors.items():
                value = value + weight * vector.differences[name].to(value)
            _set(tensor, name, value, tensor.dtype)
    return result.eval()


def relative_distance(first: nn.Module, second: nn.Module) -> float:
    """How far two models' weights are apart, as a share of the length of the first one's: matrices, tables and kernels
    as one vector. 0 for equal models, 1.4 for two random starts.
    """
    other = dict(second.named_parameters())
    distance = length = 0.0
    with torch.no_grad():
        for name, weight in first.named_parameters():
            if weight.ndim >= 2:
                weight = _at_least_float32(weight)
                distance += float((weight - other[name].to(weight)).square().sum())
                length += float(weight.square().sum())
    return (distance / length) ** 0.5 if length else 0.0


def _unlike(first: nn.Module, second: nn.Module, names: tuple[str, str]) -> str:
    """Say that two models have nothing in common; empty if they have."""
    distance = relative_distance(first, second)
    if distance < _UNLIKE:
        return ""
    return (
        f"{names[0]} and {names[1]} have nothing in common: their weights are {distance:.2f} times as far apart "
        "as those of the first are long. Only models that were fine-tuned from the same one have good models "
        "between them"
    )


def check_same_shape(first: nn.Module, second: nn.Module, names: tuple[str, str]) -> None:
    """Check that two models are the same but for the values of their weights.

    Raises:
        ValueError: with the names of the weights or the settings that differ.
    """
    for model, name in zip((first, second), names):
        _check_plain(model, name)
    if type(first).__name__ != type(second).__name__:
        raise ValueError(
            f"{names[0]} is {type(first).__name__} and {names[1]} is {type(second).__name__}; they must be of one "
            "class."
        )
    settings = [_settings(getattr(model, "config", None)) for model in (first, second)]
    towers = [each.get("vision_config.model_type") for each in settings]
    if towers[0] != towers[1]:
        kinds = [_TOWERS.get(tower, tower) for tower in towers]
        raise ValueError(
            f"{names[0]} is a {kinds[0]} and {names[1]} is a {kinds[1]}. Weights can be combined only of models of "
            "one architecture."
        )
    shapes = [{name: tuple(tensor.shape) for name, tensor in _tensors(model).items()} for model in (first, second)]
    _check_names_and_shapes(*shapes, names)
    differing = sorted(key for key in {*settings[0], *settings[1]} if settings[0].get(key) != settings[1].get(key))
    if differing:
        facts = [f"{key} ({settings[0].get(key)!r:.60} and {settings[1].get(key)!r:.60})" for key in differing]
        raise ValueError(
            f"The configurations of {names[0]} and {names[1]} differ: {listed(facts, _SHOWN)}. Weights can be "
            "combined only where they do the same work."
        )


def _check_names_and_shapes(
    first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]], names: tuple[str, str]
) -> None:
    for there, here, name, other in ((first, second, *names), (second, first, *names[::-1])):
        if only := [key for key in there if key not in here]:
            raise ValueError(
                f"{name} has {counted(len(only), 'weight')} that {other} lacks: {listed(only, _SHOWN)}. Weights can "
                "be combined only of models of one architecture."
            )
    if shapes := [f"{key} ({first[key]} and {second[key]})" for key in first if first[key] != second[key]]:
        raise ValueError(
            f"Weights of {names[0]} and {names[1]} differ in shape: {listed(shapes, _SHOWN)}. Weights can be combined "
            "only of models of one architecture."
        )


def _check_plain(model: nn.Module, name: str) -> None:
    """Refuse models whose weights are not what they compute with."""
    adapters = [key for key, _ in model.named_parameters() if "lora_" in key or ".base_layer." in key]
    if adapters or hasattr(model, "peft_config"):
        raise ValueError(
            f"{name} has LoRA layers ({listed(adapters, 2)}). Merge them into the weights first: "
            "`merge_lora(model)` of `clip_hf.training`."
        )
    if any(type(module).__name__ == "ClipHFFoldedBatchNorm" for module in model.modules()):
        raise ValueError(
            f"{name} has folded BatchNorm layers, whose weights cannot be combined. Load it with `from_pretrained`, "
            "and fold after that."
        )
    if meta := [key for key, tensor in _tensors(model).items() if tensor.is_meta]:
        raise ValueError(f"{name} has weights that are not in memory (offloaded): {listed(meta, _SHOWN)}.")
    if wrong := [key for key, tensor in _tensors(model).items() if not bool(tensor.isfinite().all())]:
        raise ValueError(f"{name} has weights that are NaN or infinite: {listed(wrong, _SHOWN)}.")


def _settings(config: Any) -> dict[str, Any]:
    """What of a configuration decides the computation, nested parts with dotted names."""
    if config is None:
        return {}

    def flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in values.items():
            if key in _BOOKKEEPING:
                continue
            result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        return result

    return flat(config.to_dict(), "")


class _Soup:
    """A running mean of models, in at least float32."""

    def __init__(self, model: Model):
        loaded = _load(model)
        self._first_name = _name_of(model, "the first model")
        _check_plain(loaded, self._first_name)
        self._mean = copy.deepcopy(loaded) if loaded is model else loaded
        self._dtypes = {name: tensor.dtype for name, tensor in _tensors(self._mean).items()}
        self._count = 1
        with torch.no_grad():
            for tensor in _tensors(self._mean).values():
                if tensor.is_floating_point():
                    tensor.data = _at_least_float32(tensor)

    def add(self, model: Model) -> None:
        other, names = _load(model), (self._first_name, _name_of(model, "another model"))
        check_same_shape(self._mean, other, names)
        if facts := _unlike(self._mean, other, names):
            logger.warning(f"{facts}.")
        tensors = _tensors(other)
        self._count += 1
        with torch.no_grad():
            for name, mean in _tensors(self._mean).items():
                if mean.is_floating_point():
                    dtype = self._dtypes[name] = torch.promote_types(self._dtypes[name], tensors[name].dtype)
                    mean.data = _at_least_float32(mean.to(torch.promote_types(mean.dtype, dtype)))
                    mean += (tensors[name].to(mean) - mean) / self._count

    def model(self) -> nn.Module:
        """A model of the mean, with the widest of the models' dtypes; of its own where those are not float32."""
        is_half = any(tensor.dtype != self._dtypes[name] for name, tensor in _tensors(self._mean).items())
        result = copy.deepcopy(self._mean) if is_half else self._mean
        for name, tensor in _tensors(result).items():
            tensor.data = tensor.data.to(self._dtypes[name])
        return result.eval()


def _as_list(models: Iterable[Model]) -> list[Model]:
    if isinstance(models, nn.Module | str | os.PathLike | Mapping) or not isinstance(models, Iterable):
        raise TypeError(f"`models` is {type_of(models)}; give a list of models or paths, such as ['a', 'b'].")
    models = list(models)
    if not models:
        raise ValueError("There are no models to average; give at least one.")
    return models


def _load(model: Model) -> nn.Module:
    """The model itself, or the one at a path: of ours a CLIP or an image classifier, else a dual encoder."""
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"A model is {type(model).__name__}; it must be a model, a path or a name on the hub.")
    folder = Path(model)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{model} is an adapter, not a model. Merge it into its base first: `load_adapter` and `merge_lora` of "
            "`clip_hf.training`."
        )
    if (folder / "config.json").is_file():
        if ClipHFForImageClassification.__name__ in (read_config(folder).get("architectures") or ()):
            return ClipHFForImageClassification.from_pretrained(folder).eval()
    # Averages are in memory anyway, and the processor is not needed.
    return load_dual_model(model, dtype="auto", processor=_NO_PROCESSOR)[0].eval()


_NO_PROCESSOR = object()


def _name_of(model: Model, default: str) -> str:
    return default if isinstance(model, nn.Module) else str(model)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers by name: the tensors themselves, a tied one under its first name only."""
    saved = model.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(saved.items()) if isinstance(value, torch.Tensor)}
    return {name: value for name, value in saved.items() if first.get(id(value)) == name}


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _set(tensor: torch.Tensor, name: str, value: torch.Tensor, dtype: torch.dtype) -> None:
    """Give a parameter or buffer its value, which must be finite, and a variance not negative."""
    if name.endswith("running_var") and bool((value < 0).any()):
        raise ValueError(
            f"{name} would be negative: BatchNorm's variances cannot be taken this far. Stay nearer to the models."
        )
    value = value.to(dtype)
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} would be NaN or infinite in {dtype}. Stay nearer to the models.")
    tensor.data = value


def _check_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or (not isinstance(value, int | float) and not hasattr(value, "__float__")):
        raise TypeError(f"`{name}` is {type(value).__name__}; it must be a number.")
    number = float(value)
    if not torch.isfinite(torch.tensor(number)):
        raise ValueError(f"`{name}` is {number}; it must be finite.")
    return number
