# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The options of a training: on the command line, in a recipe, or both."""

import argparse
import functools
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..data import Augmentation, PairOptions
from ..model.checks_clip_hf import did_you_mean
from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits
from ..model.image_transform_clip_hf import parse_color
from ..utils.json_files import read_text
from .optimization import OptimizerOptions


LOG_NAME = "training_log.jsonl"
_RECIPE_ENDINGS = (".yaml", ".yml", ".json")
MAX_OPTIONS_BYTES = 2**20  # of a recipe or configuration that a user wrote


def _option(default: Any, text: str) -> Any:
    """A field with its default and its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingOptions:
    """
    What can be set for a training, on the command line or in a recipe.

    A default that differs from the paper (Radford et al. 2021, section 2.5 and table 18) is one for data that fit on a
    computer: a smaller batch, and warm-up as a share of the training. `recipes/pretrain_*.yaml` have the paper's.

    Raises:
        ValueError: if a value is out of its range, or two options exclude each other.
    """

    # Where, and whether to go on
    output_dir: str = _option("outputs/clip", "Folder for the models (last/, best/), the checkpoints and the log.")
    overwrite: bool = _option(False, "Replace the training that is in output_dir.")
    resume: str | None = _option(None, "`latest`, or a checkpoint's folder: go on from there, exactly.")
    trust_checkpoint: bool = _option(
        False,
        "Resume from a checkpoint that holds pickles (DeepSpeed's, FSDP's shards), which can run programs: only from "
        "one that you wrote.",
    )
    save_every: int = _option(1000, "Steps between checkpoints, and one at the end; 0 for none.")
    keep_checkpoints: int = _option(2, "How many of the newest checkpoints to keep.")
    trackers: list[str] = field(
        default_factory=list,
        metadata={"help": "Where else to log: tensorboard, trackio, wandb, ... (what Accelerate has)."},
    )
    log_every: int = _option(10, "Steps between entries for the trackers; the log file has every step.")
    push_to_hub: str | None = _option(None, "Name of a repo on the hub for the model, its processor and card.")
    seed: int = _option(0, "Seed of weights, order, crops, captions and dropout.")
    # Data
    dataset: list[str] = field(
        default_factory=lambda: ["openmoji"], metadata={"help": "One or more sources: see clip_hf.data.load_pairs."}
    )
    dataset_weights: list[float] = field(
        default_factory=list, metadata={"help": "Share of each source; without, each row comes once an epoch."}
    )
    eval_dataset: str | None = _option(None, "Held-out pairs; without it the split `test` of the only source, if any.")
    eval_split: str | None = _option(None, "Part of eval_dataset; without it `test`, or all where it has no parts.")
    eval_share: float = _option(0.0, "Hold out this share of the pairs, where nothing else is held out.")
    streaming: bool = _option(False, "Read the data in sequence, for data sets that do not fit on a disk.")
    pairs_per_epoch: int | None = _option(None, "Streams: pairs of an epoch, if the length is given in epochs.")
    image_column: str = _option("image", "Column of the images.")
    caption_column: str = _option("caption", "Column of the captions; of a list of captions one is drawn.")
    image_id_column: str | None = _option(None, "Rows that share this value are no negatives of each other.")
    image_root: str | None = _option(
        None, "Image paths in tables may lead below this folder, besides the table's own."
    )
    templates: list[str] = field(
        default_factory=lambda: ["{}"],
        metadata={"help": "Texts of which one is drawn: {} is the caption, {title} a column."},
    )
    max_skipped_share: float = _option(0.05, "Rows that cannot be used are skipped; more than this share is an error.")
    cache_images: bool = _option(False, "Keep the resized images in memory.")
    num_workers: int = _option(0, "Processes that load images for each training process.")
    shuffle_buffer: int = _option(1000, "Streams: rows that are shuffled at a time.")
    bucket_batches: int = _option(0, "Batches among which pairs are sorted by their texts' length; changes negatives.")
    padding: str = _option("longest", "Pad texts to the `longest` of a batch, or to `max_length` (for --compile).")
    # Image files
    background_color: str | None = _option(
        None, "What transparent images are put on: white, #ffffff or 255,255,255. Saved with the model."
    )
    apply_exif_orientation: bool | None = _option(
        None, "Turn images by their EXIF orientation (default: as the model's processor). Saved with the model."
    )
    min_image_size: int = _option(1, "Skip images whose shorter edge has fewer pixels.")
    max_image_pixels: int | None = _option(None, "Skip images of more pixels (default: Pillow's limit).")
    max_image_bytes: int = _option(DEFAULT_LIMITS.max_bytes, "Skip image files of more bytes.")
    max_image_seconds: float = _option(DEFAULT_LIMITS.max_seconds, "Skip images whose download takes longer.")
    # Augmentation beyond the paper's random square crop, all off by default
    color_jitter: list[float] = field(
        default_factory=lambda: [0.0, 0.0, 0.0, 0.0],
        metadata={"help": "Strengths: brightness, contrast, saturation, hue."},
    )
    blur: float = _option(0.0, "Probability of a Gaussian blur.")
    horizontal_flip: float = _option(0.0, "Probability of a flip; captions that say left or right are then wrong.")
    token_dropout: float = _option(0.0, "Probability to leave out a token of a text.")
    # Model
    model: str | None = _option(None, "Folder, file or hub name of a model to start from. Without it: from scratch.")
    config: str = _option("ViT-B/32", "From scratch: a published architecture, or a JSON file for ClipHFConfig.")
    tokenizer: str | None = _option(None, "From scratch: `openai`, or a tokenizer's folder. Without: one is trained.")
    vocab_size: int = _option(4096, "From scratch: size of the vocabulary to train.")
    resize_to: int | None = _option(None, "From scratch: an image's shorter side before the crop, in pixels.")
    loss: str = _option("softmax", "From scratch: `softmax` as CLIP, or `sigmoid` as SigLIP.")
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "Parts to keep as they are: vision, text, all_but_projections, batch_norm, ..."},
    )
    # Optimisation
    epochs: int = _option(32, "Passes over the data (table 18: 32).")
    min_steps: int | None = _option(None, "Least number of steps: few pairs are repeated within an epoch.")
    max_steps: int | None = _option(None, "Number of steps, instead of epochs.")
    batch_size: int = _option(128, "Pairs of a step, of all processes together (table 18: 32768).")
    optimizer: str = _option("adamw", "`adamw`, or `adamw_8bit` (needs bitsandbytes).")
    learning_rate: float = _option(5e-4, "Highest learning rate (tables 19 and 20: 5e-4 and less).")
    weight_decay: float = _option(0.2, "Weight decay of weights that are not gains or biases (table 18: 0.2).")
    layer_decay: float = _option(1.0, "Factor of the learning rate from each layer to the one below it.")
    warmup_steps: int | None = _option(None, "Steps in which the learning rate rises (table 18: 2000).")
    warmup_share: float = _option(0.1, "The same as a share of all steps, where warmup_steps is not given.")
    max_grad_norm: float | None = _option(None, "Largest norm of the gradient; larger ones are scaled down.")
    label_smoothing: float = _option(0.0, "Share of the targets that is spread over all pairs.")
    ema_decay: float | None = _option(None, "Average the weights with this decay, to evaluate and save the average.")
    max_loss_ratio: float = _option(3.0, "Stop where the loss is more than this times the median of the last ones.")
    # Memory and speed
    grad_cache_chunk_size: int | None = _option(None, "Pairs of a process in the towers at a time (GradCache).")
    loss_chunk_size: int | None = _option(
        None, "Rows of the similarity matrix in memory at a time (default: automatic)."
    )
    mixed_precision: str = _option("no", "`no`, `fp16` or `bf16`; the weights and the loss are float32 in any case.")
    gradient_checkpointing: bool = _option(False, "Compute activations again in the backward pass, to save memory.")
    compile: bool = _option(False, "Compile the model with torch.compile.")
    sync_batch_norm: bool = _option(False, "BatchNorm over the pairs of all processes (GPUs).")
    cpu: bool = _option(False, "Train on the CPU even if there is a GPU.")
    # Evaluation
    eval_every: float = _option(1.0, "Epochs between evaluations on held-out pairs; the end is always evaluated.")
    eval_rows: int = _option(5000, "Held-out pairs to evaluate on at most.")
    eval_with_train_captions: bool = _option(False, "Zero-shot: choose among the training captions as well.")

    def __post_init__(self):
        self._check_ranges()
        self._check_choices()
        self.pair_options  # noqa: B018  (raises now what is wrong)
        self.image_options  # noqa: B018
        self.optimizer_options  # noqa: B018

    def _check_ranges(self) -> None:
        at_least = {
            "epochs": 1,
            "min_steps": 1,
            "max_steps": 1,
            "batch_size": 1,
            "save_every": 0,
            "keep_checkpoints": 1,
            "log_every": 1,
            "pairs_per_epoch": 1,
            "num_workers": 0,
            "warmup_steps": 0,
            "grad_cache_chunk_size": 1,
            "loss_chunk_size": 1,
            "eval_rows": 1,
            "max_image_pixels": 1,
            "max_image_bytes": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` is {value}; it must be at least {least}.")
        for name in ("max_grad_norm", "eval_every", "max_image_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}; it must be greater than 0.")
        for name in ("warmup_share", "eval_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least 0 and less than 1.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"`label_smoothing` is {self.label_smoothing}; it must be at least 0 and less than 1, where all pairs "
                "would be equally right."
            )
        if self.ema_decay is not None and not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"`ema_decay` is {self.ema_decay}; it must be at least 0 and less than 1.")
        if not self.max_loss_ratio > 1.0:
            raise ValueError(f"`max_loss_ratio` is {self.max_loss_ratio}; it must be greater than 1.")

    def _check_choices(self) -> None:
        choices = {"loss": ("softmax", "sigmoid"), "mixed_precision": ("no", "fp16", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}.")
        if self.loss == "sigmoid" and self.label_smoothing:
            raise ValueError("`label_smoothing` is for the softmax loss; the sigmoid loss has none.")
        if self.streaming and self.max_steps is None and self.pairs_per_epoch is None:
            raise ValueError(
                "A stream does not know its length, and the learning rate's schedule needs it: give `max_steps`, or "
                "`epochs` and `pairs_per_epoch`."
            )
        if self.streaming and self.eval_share:
            raise ValueError(
                "`eval_share` is for data that are read in any order, not for `streaming`; give an `eval_dataset`."
            )
        if self.streaming and self.cache_images:
            raise ValueError("`cache_images` is for data that are read in any order, not for `streaming`.")

    def warmup_steps_of(self, num_steps: int) -> int:
        """Steps in which the learning rate rises, of a training of `num_steps`; a share leaves at least one."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return min(math.ceil(self.warmup_share * num_steps), num_steps - 1)

    @property
    def pair_options(self) -> PairOptions:
        """What decides the pairs, for [`PairLoader`]."""
        augmentation = Augmentation(tuple(self.color_jitter), self.blur, horizontal_flip=self.horizontal_flip)
        names = {known.name for known in fields(PairOptions)} & {known.name for known in fields(self)}
        values = {name: getattr(self, name) for name in names if name != "templates"}
        limits = ImageLimits(
            max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes, max_seconds=self.max_image_seconds
        )
        return PairOptions(**values, templates=tuple(self.templates), augmentation=augmentation, image_limits=limits)

    @property
    def image_options(self) -> dict[str, Any]:
        """What the options say of the model's image processor; empty where they leave it as it is."""
        found: dict[str, Any] = {}
        if self.background_color is not None:
            found["background_color"] = parse_color(self.background_color)
        if self.apply_exif_orientation is not None:
            found["apply_exif_orientation"] = self.apply_exif_orientation
        return found

    @property
    def optimizer_options(self) -> OptimizerOptions:
        """What decides the updates, for [`build_optimizer`]."""
        return OptimizerOptions(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
        )


def read_recipe(path: Path) -> dict[str, Any]:
    """
    Read a recipe: a YAML (or JSON) file with some of [`TrainingOptions`].

    Args:
        path (`Path`):
            The file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no mapping, has a key twice, or one that is no option; the message names the nearest one.
    """
    try:
        recipe = yaml.load(read_text(path, f"The recipe {path}", MAX_OPTIONS_BYTES), _RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe {path} cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"The recipe {path} is nested too deeply; it must be `option: value` lines.") from error
    recipe = {} if recipe is None else recipe
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} is a {type(recipe).__name__}; it must be `option: value` lines.")
    types = typing.get_type_hints(TrainingOptions)
    for key, value in recipe.items():
        if key not in types:
            name = str(key)[:80]
            raise ValueError(f"The recipe {path} has the unknown option {name!r}.{did_you_mean(name, types)}")
        # A recipe may hold the arguments of the configuration themselves.
        if key != "config" or not isinstance(value, dict):
            recipe[key] = _converted(value, types[key], f"The recipe {path}: `{key}`")
    return recipe


class _RecipeLoader(yaml.SafeLoader):
    """
    YAML for options.

    - No aliases, of which a few lines can stand for billions of values.
    - A key that stands twice is an error; otherwise the last one would be taken without a word.
    - Integers have 64 bits, and a value that does not fit its tag is an error of YAML, with its line.
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
                raise _error(f"`{key.value:.80}` stands twice; leave one out", key)
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


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() == "none")


def _converted(value: Any, kind: Any, what: str) -> Any:
    """A recipe's value as its option has it; YAML reads 5e-4 as a text, and one source may stand without brackets."""
    allowed = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        values = value if isinstance(value, list) else [] if _is_none(value) else [value]
        return [_converted(item, allowed[0], what) for item in values]
    if allowed:  # an optional value
        return None if _is_none(value) else _converted(value, allowed[0], what)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{what} is {value!r:.200}; it must be of type {kind.__name__}.")


class _Parser(HfArgumentParser):
    """A parser that takes `none` for each option that may be None, and for an empty list."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        kinds = typing.get_type_hints(TrainingOptions)
        for action in self._actions:
            kind = kinds.get(action.dest)
            if type(None) in typing.get_args(kind):
                if bool in typing.get_args(kind):  # without a value as with `True`, as other truth values
                    action.nargs, action.const = "?", True
                action.type = _or_none(action.type)
            elif typing.get_origin(kind) is list:
                action.nargs, action.type = "*", _or_none(action.type)

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        for name, value in vars(namespace).items():
            if value == [None]:
                setattr(namespace, name, [])
            elif isinstance(value, list) and None in value:
                raise ValueError(f"`{name}` has `none` among other values; leave one or the other out.")
        return namespace, rest


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(convert)  # argparse names the type in its messages
    def converted(text: str) -> Any:
        return None if _is_none(text) else convert(text)

    return converted


def parse_options(arguments: Sequence[str]) -> TrainingOptions:
    """
    Options from a command line, which may start with a recipe; the command line overrules it, and `none` there unsets
    an option that has no value by default, or empties a list.

    Args:
        arguments (`Sequence[str]`):
            Such as `["recipes/finetune.yaml", "--model", "openai/clip-vit-base-patch32"]`.

    Returns:
        [`TrainingOptions`]

    Raises:
        OSError: if the recipe cannot be read.
        ValueError: if the recipe or an option is wrong.
    """
    parser = _Parser(
        TrainingOptions,
        description="Train a CLIP. A recipe (.yaml) with any of the options may come first.",
        formatter_class=argparse.HelpFormatter,
    )
    arguments = list(arguments)
    if arguments and arguments[0].endswith(_RECIPE_ENDINGS):
        parser.set_defaults(**read_recipe(Path(arguments.pop(0))))
    options, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        names = [f"--{known.name}" for known in fields(TrainingOptions)]
        hint = did_you_mean(unknown[0], names)
        raise ValueError(f"There is no option {unknown[0]!r}.{hint} --help lists them.")
    return options


__all__ = ["LOG_NAME", "MAX_OPTIONS_BYTES", "TrainingOptions", "parse_options", "read_recipe"]
