# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The options of a training, checked, from a command line, a recipe, or both."""

import argparse
import itertools
import math
import os
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from _clip_hf_cli import Parser
from _clip_hf_cli.train import TrainingFields, add_arguments, is_none

from ..data import Augmentation, PairOptions
from ..data.texts import template_columns
from ..model.checks_clip_hf import type_of, unknown_option
from ..model.configuration_clip_hf_video import TEMPORAL_HEADS
from ..model.image_reading_clip_hf import ImageLimits
from ..model.image_transform_clip_hf import HIGH_BIT_DEPTH, parse_color
from ..model.prompts_clip_hf import PROMPT_SETS, get_prompt_set
from ..utils.extras import require_extra
from ..utils.json_files import read_text
from .low_rank import LoraOptions
from .optimizer import OptimizerOptions


LOG_NAME = "training_log.jsonl"
RECIPE_NAME = "recipe.yaml"
MAX_OPTIONS_BYTES = 2**20  # largest recipe or configuration that is read
_LORA = ("lora_alpha", "lora_dropout", "lora_modules")
_STEPS = ("epochs", "min_steps", "max_steps", "batch_size", "keep_checkpoints", "log_every", "pairs_per_epoch")
_SIZES = ("grad_cache_chunk_size", "loss_chunk_size", "eval_rows", "max_image_pixels", "max_image_bytes", "resize_to")
_FRAMES = ("num_frames", "temporal_num_layers")
_DISTILLATION = ("contrastive_weight", "distill_soft", "distill_features", "distill_interactive")
_MAX_WORKERS = max(64, 2 * (os.cpu_count() or 1))  # thousands of processes stop a machine
LOSSES = ("softmax", "sigmoid", "same_label", "soft_labels", "soft_texts", "classes")
SOFT_LOSSES = ("same_label", "soft_labels", "soft_texts")
_IMAGE_OPTIONS = ("background_color", "apply_exif_orientation", "high_bit_depth")  # saved with the processor
_SHARES = ("patch_dropout", "unmasked_share", "warmup_share", "eval_share", "label_smoothing", "ema_decay")
# Options, what their values must meet unless they are None, and how a message says it.
_RANGES = (
    ((*_STEPS, *_SIZES, *_FRAMES), lambda value: value >= 1, "at least 1"),
    (
        ("save_every", "warmup_steps", "target_scale", "short_caption_weight", *_DISTILLATION),
        lambda value: value >= 0,
        "at least 0",
    ),
    (("num_workers",), lambda value: 0 <= value <= _MAX_WORKERS, f"from 0 to {_MAX_WORKERS} on this machine"),
    (
        ("max_grad_norm", "eval_every", "max_image_seconds", "head_learning_rate_multiplier"),
        lambda value: value > 0,
        "greater than 0",
    ),
    (("max_loss_ratio",), lambda value: value > 1, "greater than 1"),
    (_SHARES, lambda value: 0 <= value < 1, "at least 0 and less than 1"),
)


@dataclass
class TrainingOptions(TrainingFields):
    """The options of a training, from the command line or a recipe.

    `clip-hf train --help` lists them; `_clip_hf_cli.train.TrainingFields` has their types, defaults and help.

    Raises:
        ValueError: if a value is out of its range, or two options exclude each other.
    """

    def __post_init__(self):
        self._check_ranges()
        self._check_choices()
        self._check_teachers()
        self.pair_options  # noqa: B018  (raises now what is wrong)
        self.image_options  # noqa: B018
        self.optimizer_options  # noqa: B018
        self._check_lora()

    def _check_ranges(self) -> None:
        for names, is_allowed, rule in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_allowed(value):
                    raise ValueError(f"`{name}` is {value}; it must be {rule}.")

    def _check_choices(self) -> None:
        choices = {"loss": LOSSES, "mixed_precision": ("no", "fp16", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")
        if self.high_bit_depth not in (None, *HIGH_BIT_DEPTH):
            allowed = ", ".join(HIGH_BIT_DEPTH)
            raise ValueError(f"`high_bit_depth` is {self.high_bit_depth!r}; it must be one of {allowed}.")
        if self.resume is not None and not self.resume.strip():
            raise ValueError("`resume` is empty; give `latest` or a checkpoint's folder, or leave it out.")
        if self.loss != "softmax" and self.label_smoothing:
            raise ValueError(f"`label_smoothing` belongs to the softmax loss; the {self.loss} loss has none.")
        self._check_targets()
        self._check_video_choices()
        self._check_classes()
        self._check_patch_dropout()
        if self.streaming and self.max_steps is None and self.pairs_per_epoch is None:
            raise ValueError(
                "A stream does not know its length, and the learning rate's schedule needs it: give `max_steps`, or "
                "`epochs` and `pairs_per_epoch`."
            )
        if self.streaming and self.eval_share:
            raise ValueError(
                "`eval_share` needs data that are read in any order, not `streaming`; give an `eval_dataset`."
            )
        if self.streaming and self.cache_images:
            raise ValueError("`cache_images` needs data that are read in any order, not `streaming`.")

    def _check_classes(self) -> None:
        if self.loss != "classes":
            return
        if self.grad_cache_chunk_size is not None:
            raise ValueError(
                "`grad_cache_chunk_size` is given, and `loss` is classes: an image's loss needs no other image, so "
                "chunks save nothing that a smaller `batch_size` does not. Leave it out."
            )
        for name, reason in (
            ("streaming", "the classes are the different captions, which a stream does not know at first"),
            ("token_dropout", "the texts are the classes' prompts, not those of the pairs"),
            ("loss_chunk_size", "its matrix has a row for each image and a column for each class"),
        ):
            if getattr(self, name):
                raise ValueError(f"`{name}` is {getattr(self, name)}, and `loss` is classes: {reason}. Leave it out.")

    def _check_patch_dropout(self) -> None:
        if self.unmasked_share and not self.patch_dropout:
            raise ValueError("`unmasked_share` belongs to `patch_dropout`: give that, such as 0.5, or leave it out.")
        frozen = {"vision", "vision_tower", "all_but_projections"} & set(self.freeze)
        if self.patch_dropout and frozen:
            raise ValueError(
                f"`patch_dropout` is {self.patch_dropout}, and `freeze` has {', '.join(sorted(frozen))}: a frozen "
                "image tower would see parts of images and learn nothing from it. Leave one of them out."
            )

    def _check_lora(self) -> None:
        if self.lora_rank is None:
            for option in fields(self):
                given = getattr(self, option.name)
                default = option.default if option.default_factory is MISSING else option.default_factory()
                if option.name in _LORA and given != default:
                    raise ValueError(f"`{option.name}` belongs to LoRA: give `lora_rank`, such as 2, or leave it out.")
        elif self.model is None:
            raise ValueError("`lora_rank` adapts a trained model: give `model`, or leave `lora_rank` out.")
        elif self.num_frames is not None:
            raise ValueError(
                "`lora_rank` is given, and the data are films: a temporal head is new and has to be trained whole. "
                "Leave `lora_rank` out; `freeze all_but_projections` trains little, too."
            )
        self.lora_options  # noqa: B018  (raises now what is wrong)
        if self.lora_rank is not None:
            require_extra("adapt", "`lora_rank`", "peft")

    def _check_teachers(self) -> None:
        if self.inherit_from is not None:
            for name in ("model", "tokenizer"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"`inherit_from` makes a new model with the tokenizer of the larger one, and `{name}` is "
                        f"{getattr(self, name)!r}: leave one of the two out."
                    )
        if not self.has_teachers:
            given = [name for name in _DISTILLATION if getattr(self, name) != getattr(type(self), name)]
            for name in [*given, *(["resize_for_teachers"] if self.resize_for_teachers else [])]:
                raise ValueError(f"`{name}` belongs to a training with `teachers` or `teacher_features`: give one.")
            return
        if not any(getattr(self, name) for name in _DISTILLATION[1:]):
            raise ValueError(
                f"There are teachers, but {', '.join(f'`{name}`' for name in _DISTILLATION[1:])} are 0: nothing would "
                "be learnt from them."
            )
        if self.loss == "classes":
            raise ValueError(
                "`loss` is classes, whose texts are of all classes, and teachers see pairs: leave one out."
            )
        for name in ("negative_column", "short_caption_column"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` gives an image more texts, and teachers see one: leave one of the two out."
                )
        if self.num_frames is not None:
            raise ValueError(
                "Teachers see single pictures, and `num_frames` says that the data are films: leave out one."
            )
        if self.teacher_features is not None and self.streaming:
            raise ValueError(
                "`teacher_features` are found by the row, and streams have none: let the teachers run (`teachers`), "
                "or leave `streaming` out."
            )

    @property
    def has_teachers(self) -> bool:
        """Whether the model learns from teachers, running or stored."""
        return bool(self.teachers) or self.teacher_features is not None

    def _check_targets(self) -> None:
        """Check what belongs to some losses only."""
        if self.loss in SOFT_LOSSES:
            if self.loss_chunk_size is not None:
                raise ValueError(
                    f"`loss_chunk_size` belongs to other losses; {self.loss} has no chunks: leave it out."
                )
            if math.isinf(self.target_scale) and self.loss != "same_label":
                raise ValueError(f"`target_scale` is infinite; for {self.loss} give a large number, such as 1000.")
        elif self.target_scale != type(self).target_scale:
            raise ValueError(f"`target_scale` belongs to the losses {', '.join(SOFT_LOSSES)}; `loss` is {self.loss}.")
        for loss, name in (("soft_labels", "label_column"), ("soft_texts", "target_model")):
            if (getattr(self, name) is None) == (self.loss == loss):
                given = f"`loss` is {self.loss}" + (f", and `{name}` is missing" if self.loss == loss else "")
                raise ValueError(f"{given}; `{name}` and the loss {loss} belong together: give both or neither.")
        for name in ("negative_column", "short_caption_column"):
            if getattr(self, name) is not None and self.loss in (*SOFT_LOSSES, "classes"):
                raise ValueError(
                    f"`{name}` gives an image more texts, which the losses softmax and sigmoid take; `loss` is "
                    f"{self.loss}, whose targets are of one text a pair: leave one of the two out."
                )
        if self.short_caption_column is None and self.short_caption_weight != type(self).short_caption_weight:
            raise ValueError("`short_caption_weight` belongs to short captions: give `short_caption_column`.")

    def _check_video_choices(self) -> None:
        if self.loss == "same_label":
            columns = {frozenset(template_columns(template)) for template in self.pair_options.templates}
            if len(columns) > 1:
                raise ValueError(
                    "`templates` name different columns, and `loss` is same_label, whose labels are the texts without "
                    "their template: let all templates name the same columns."
                )
        if self.temporal_head is not None and self.temporal_head not in TEMPORAL_HEADS:
            heads = ", ".join(TEMPORAL_HEADS)
            raise ValueError(f"`temporal_head` is {self.temporal_head!r}; it must be one of {heads}.")
        if self.num_frames is None:
            of_films = {
                "temporal_head": self.temporal_head is not None,
                "temporal_num_layers": self.temporal_num_layers is not None,
                "head_learning_rate_multiplier": self.head_learning_rate_multiplier != 1.0,
            }
            for name in (name for name, is_given in of_films.items() if is_given):
                raise ValueError(f"`{name}` belongs to a training on films: give `num_frames`, the frames of a clip.")
        for name in _IMAGE_OPTIONS if self.num_frames is not None else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` is of image files, and `num_frames` says that the data are films: leave it out."
                )

    def warmup_steps_of(self, num_steps: int) -> int:
        """Steps of warm-up in a training of `num_steps`; a share leaves at least one step at the highest rate."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return min(math.ceil(self.warmup_share * num_steps), num_steps - 1)

    @property
    def pair_options(self) -> PairOptions:
        """The options of [`PairLoader`]: columns, templates, augmentation and so on."""
        augmentation = Augmentation(
            tuple(self.color_jitter),
            self.blur,
            horizontal_flip=self.horizontal_flip,
            rand_augment=tuple(self.rand_augment),
            crop_scale=tuple(self.crop_scale) or None,
        )
        names = {known.name for known in fields(PairOptions)} & {known.name for known in fields(self)}
        values = {name: getattr(self, name) for name in names if name != "templates"}
        values["keep_crops"] = bool(self.teachers) and self.teacher_features is None
        values["keep_texts"] = self.loss == "soft_texts" or values["keep_crops"]
        limits = ImageLimits(
            max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes, max_seconds=self.max_image_seconds
        )
        # A template has braces, so a name without is one of a prompt set.
        sets = (get_prompt_set(name) if name in PROMPT_SETS else (name,) for name in self.templates)
        templates = tuple(itertools.chain.from_iterable(sets))
        return PairOptions(**values, templates=templates, augmentation=augmentation, image_limits=limits)

    @property
    def image_options(self) -> dict[str, Any]:
        """Settings of the model's image processor; empty where the options leave it as it is."""
        settings = {name: getattr(self, name) for name in _IMAGE_OPTIONS if getattr(self, name) is not None}
        if "background_color" in settings:
            settings["background_color"] = parse_color(self.background_color)
        return settings

    @property
    def lora_options(self) -> LoraOptions | None:
        """The options of [`add_lora`]; None without `lora_rank`."""
        if self.lora_rank is None:
            return None
        return LoraOptions(self.lora_rank, self.lora_alpha, self.lora_dropout, tuple(self.lora_modules))

    @property
    def optimizer_options(self) -> OptimizerOptions:
        """The options of [`build_optimizer`]."""
        return OptimizerOptions(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            head_multiplier=self.head_learning_rate_multiplier,
        )


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe: a YAML (or JSON) file with some of [`TrainingOptions`].

    Args:
        path (`Path`): The file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no mapping, has a key twice, a value of the wrong type, or an unknown option; the message
            then suggests the nearest one.
    """
    try:
        recipe = yaml.load(read_text(path, f"The recipe {path}", MAX_OPTIONS_BYTES), _RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe {path} cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"The recipe {path} is nested too deeply; it must be `option: value` lines.") from error
    recipe = {} if recipe is None else recipe
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} is {type_of(recipe)}; it must be `option: value` lines.")
    types = typing.get_type_hints(TrainingOptions)
    for key, value in recipe.items():
        if key not in types:
            raise ValueError(unknown_option(str(key)[:80], f"the recipe {path}", types))
        # A recipe may hold the arguments of the configuration themselves.
        if key != "config" or not isinstance(value, dict):
            recipe[key] = _convert(value, types[key], f"The recipe {path}: `{key}`")
    return recipe


class _RecipeLoader(yaml.SafeLoader):
    """YAML for options.

    - Aliases are refused, because a few lines of them can stand for billions of values.
    - A key that appears twice is an error; PyYAML would silently use the last one.
    - Integers have at most 64 bits, and a value that does not fit its tag is an error of YAML, with its line.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases (`*name`) are not read; write the value out", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        known = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in known:
                raise _error(f"`{key.value:.80}` appears twice; leave one out", key)
            known |= {name} - {None}
        return super().construct_mapping(node, deep)

    def construct_object(self, node, deep=False):
        try:
            value = super().construct_object(node, deep)
        except (AttributeError, LookupError, ValueError) as error:
            raise _error(f"{node.value!s:.80} is no value of its kind: {error}", node) from error
        if isinstance(value, int) and value.bit_length() > 64:
            raise _error("the number is too large", node)
        return value


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _convert(value: Any, kind: Any, what: str) -> Any:
    """Convert a recipe's value to its option's type; YAML reads 5e-4 as a text, and one item may stand for a list."""
    allowed = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        values = value if isinstance(value, list) else [] if is_none(value) else [value]
        return [_convert(item, allowed[0], what) for item in values]
    if allowed:  # an optional value
        return None if is_none(value) else _convert(value, allowed[0], what)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{what} is {value!r:.200}; it must be of type {kind.__name__}.")


def parse_options(arguments: Sequence[str]) -> TrainingOptions:
    """Read the options of a command line, as `clip-hf train` does.

    Args:
        arguments (`Sequence[str]`): A recipe, if any, then options, which overrule it: such as
            `["recipes/finetune.yaml", "--model", "openai/clip-vit-base-patch32"]`.

    Raises:
        OSError: if the recipe cannot be read.
        ValueError: if the recipe or an option is wrong.
    """
    parser = Parser()
    add_arguments(parser)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        names = [f"--{option.name}" for option in fields(TrainingOptions)]
        raise ValueError(f"{unknown_option(unknown[0], 'the training', names)} --help lists them.")
    return build_options(parsed)


def build_options(parsed: argparse.Namespace) -> TrainingOptions:
    """The options that a parsed command line and its recipe set; errors as in [`parse_options`]."""
    values = {option.name: getattr(parsed, option.name) for option in fields(TrainingOptions) if option.name in parsed}
    for name, value in values.items():
        if value == [None]:
            values[name] = []
        elif isinstance(value, list) and None in value:
            raise ValueError(f"`{name}` has `none` among other values; leave one or the other out.")
    recipe = {} if parsed.recipe is None else read_recipe(Path(parsed.recipe))
    given = {**recipe, **values}
    return TrainingOptions(**{name: value for name, value in given.items() if value is not None})
