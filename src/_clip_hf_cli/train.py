# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The options of a training: the arguments of `clip-hf train` and the keys of its recipes."""

import argparse
import functools
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from .evaluate import IMAGE_LIMITS


_EPILOG = """\
examples:
  clip-hf train examples/recipes/demo.yaml --output_dir outputs/vit
  clip-hf train examples/recipes/finetune.yaml --model my/clip --dataset "data/*.parquet"
  clip-hf train examples/recipes/demo.yaml --output_dir outputs/vit --resume latest
  torchrun --nproc_per_node 2 -m clip_hf train examples/recipes/demo.yaml --output_dir outputs/vit
  accelerate launch -m clip_hf train examples/recipes/pretrain_vit_b32.yaml --dataset "{00000..09999}.tar" \\
      --pairs_per_epoch 400000000
"""
# The first option of each group in the help.
_GROUPS = {
    "output_dir": "output and resuming",
    "dataset": "data",
    "background_color": "image files",
    "color_jitter": "augmentation beyond the paper's random square crop, off by default",
    "model": "model",
    "teachers": "teachers that the model learns from (distillation)",
    "epochs": "optimisation",
    "grad_cache_chunk_size": "memory and speed",
    "eval_every": "evaluation",
}


def _option(default: Any, text: str) -> Any:
    """A field with its default and its help; each object has a list of its own."""
    kind = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**kind, metadata={"help": text})


@dataclass
class TrainingFields:
    """The options of a training with their defaults; `clip_hf.training.TrainingOptions` checks them.

    A default that differs from the paper (Radford et al. 2021, section 2.5 and table 18) suits data that fit on a
    computer: a smaller batch, and warm-up as a share of the training. `recipes/pretrain_*.yaml` have the paper's.
    """

    output_dir: str = _option(
        "outputs/clip", "Folder for the models (last/, and best/ if pairs are held out), checkpoints, log."
    )
    overwrite: bool = _option(False, "Replace the training that is in output_dir.")
    resume: str | None = _option(None, "`latest`, or a checkpoint's folder: go on from there, exactly.")
    trust_checkpoint: bool = _option(
        False,
        "Resume from a checkpoint that holds pickles (DeepSpeed's, FSDP's shards), which can run programs: only from "
        "one that you wrote.",
    )
    save_every: int = _option(1000, "Steps between checkpoints, and one at the end; 0 for none.")
    keep_checkpoints: int = _option(2, "How many of the newest checkpoints to keep.")
    trackers: list[str] = _option([], "Where else to log: tensorboard, trackio, wandb, ... (what Accelerate has).")
    log_every: int = _option(10, "Steps between entries for the trackers; the log file has every step.")
    push_to_hub: str | None = _option(None, "Name of a repo on the hub for the model, its processor and card.")
    seed: int = _option(0, "Seed of weights, order, crops, captions and dropout.")
    dataset: list[str] = _option(["openmoji"], "One or more sources: see clip_hf.data.load_pairs.")
    dataset_weights: list[float] = _option([], "Share of each source; without, each row comes once an epoch.")
    eval_dataset: str | None = _option(None, "Held-out pairs; without it the split `test` of the only source, if any.")
    eval_split: str | None = _option(None, "Part of eval_dataset; without it `test`, or all where it has no parts.")
    eval_share: float = _option(0.0, "Hold out this share of the pairs, where nothing else is held out.")
    streaming: bool = _option(False, "Read the data in sequence, for datasets that do not fit on a disk.")
    pairs_per_epoch: int | None = _option(None, "Streams: pairs of an epoch, if the length is given in epochs.")
    num_frames: int | None = _option(None, "The data are films: frames of a clip. One of each of as many segments.")
    image_column: str | None = _option(None, "Column of the images (default: image), or of the films (video).")
    caption_column: str = _option("caption", "Column of the captions; of a list of captions one is drawn.")
    image_id_column: str | None = _option(None, "Rows that share this value are no negatives of each other.")
    label_column: str | None = _option(None, "soft_labels: column of vectors, or of classes, one or a list.")
    negative_column: str | None = _option(
        None, "Hard negatives: a text or a list of texts that do not describe the image."
    )
    short_caption_column: str | None = _option(None, "Short captions beside the captions, for a loss of their own.")
    short_caption_weight: float = _option(1.0, "Weight of the loss of the short captions.")
    image_root: str | None = _option(
        None, "Image paths in tables may lead below this folder, besides the table's own."
    )
    templates: list[str] = _option(
        ["{}"], "Texts; one is drawn for each pair. {} is the caption, {title} a column; or the name of a prompt set."
    )
    max_skipped_share: float = _option(0.05, "Rows that cannot be used are skipped; more than this share is an error.")
    cache_images: bool = _option(False, "Keep the resized images in memory.")
    num_workers: int = _option(0, "Processes that load images for each training process.")
    shuffle_buffer: int = _option(1000, "Streams: rows that are shuffled at a time.")
    bucket_batches: int = _option(0, "Batches among which pairs are sorted by their texts' length; changes negatives.")
    padding: str = _option("longest", "Pad texts to the `longest` of a batch, or to `max_length` (for --compile).")
    background_color: str | None = _option(
        None, "What transparent images are put on: white, #ffffff or 255,255,255. Saved with the model."
    )
    apply_exif_orientation: bool | None = _option(
        None, "Turn images by their EXIF orientation (default: as the model's processor). Saved with the model."
    )
    high_bit_depth: str | None = _option(
        None, "Images of more than 8 bits: error, clip or scale (default: as the model's processor). Saved with it."
    )
    min_image_size: int = _option(1, "Skip images whose shorter edge has fewer pixels.")
    max_image_pixels: int | None = _option(None, "Skip images of more pixels (default: Pillow's limit).")
    max_image_bytes: int = _option(IMAGE_LIMITS["bytes"][1], "Skip image files of more bytes.")
    max_image_seconds: float = _option(IMAGE_LIMITS["seconds"][1], "Skip images whose download takes longer.")
    color_jitter: list[float] = _option([0.0, 0.0, 0.0, 0.0], "Strengths: brightness, contrast, saturation, hue.")
    blur: float = _option(0.0, "Probability of a Gaussian blur.")
    horizontal_flip: float = _option(0.0, "Probability of a flip; captions that say left or right are then wrong.")
    rand_augment: list[float] = _option([], "RandAugment: number of changes, and magnitude 0 to 30, such as 2 9.")
    crop_scale: list[float] = _option(
        [], "RandomResizedCrop: least and largest share of the area, such as 0.08 1; replaces the square crop."
    )
    token_dropout: float = _option(0.0, "Probability to leave out a token of a text.")
    model: str | None = _option(None, "Folder, file or hub name of a model to start from. Without it: from scratch.")
    config: str = _option("ViT-B/32", "From scratch: a published architecture, or a JSON file for ClipHFConfig.")
    tokenizer: str | None = _option(None, "From scratch: `openai`, or a tokenizer's folder. Without: one is trained.")
    vocab_size: int = _option(4096, "From scratch: size of the vocabulary to train.")
    resize_to: int | None = _option(None, "From scratch: an image's shorter side before the crop, in pixels.")
    inherit_from: str | None = _option(
        None, "From scratch: folder of a larger model whose weights, in part, and tokenizer the new one starts with."
    )
    teachers: list[str] = _option([], "CLIPs of any library that the model learns from; see --model of evaluate.")
    teacher_features: str | None = _option(
        None, "Folder of `clip-hf embed --for-training`: the teachers' features, computed once."
    )
    resize_for_teachers: bool = _option(False, "Resize the crops for teachers of another image size.")
    contrastive_weight: float = _option(1.0, "Weight of the loss without a teacher; 0 leaves it out.")
    distill_soft: float = _option(1.0, "Weight of the soft loss: the teachers' similarities of the batch.")
    distill_features: float = _option(2000.0, "Weight of the mean squared error of image and text features.")
    distill_interactive: float = _option(1.0, "Weight of the contrastive loss with the teachers' features.")
    temporal_head: str | None = _option(
        None, "Films: meanP, Conv_1D, Transf, LSTM or Transf_cls (default: the model's, or meanP)."
    )
    temporal_num_layers: int | None = _option(None, "Films: layers of the heads Transf and Transf_cls (default: 6).")
    loss: str = _option(
        "softmax",
        "`softmax` as CLIP; `same_label`: equal captions are one class; `soft_labels`: label_column says how near two "
        "pairs are; `soft_texts`: target_model says it; `classes`: each image against the prompts of all "
        "captions (few classes); from scratch `sigmoid` as SigLIP.",
    )
    target_scale: float = _option(
        10.0, "same_label, soft_labels, soft_texts: the targets are the softmax of this times the similarities."
    )
    target_model: str | None = _option(None, "soft_texts: the model whose similarities of the texts are the targets.")
    lora_rank: int | None = _option(
        None, "Train LoRA adapters of this rank (CLIP-LoRA: 2) and freeze all else, logit_scale too. Needs `model`."
    )
    lora_alpha: float = _option(1.0, "LoRA: an update is scaled by this over the root of the rank.")
    lora_dropout: float = _option(0.25, "LoRA: probability of leaving out a value of an adapter's input.")
    lora_modules: list[str] = _option(
        ["q_proj", "k_proj", "v_proj"], "LoRA: last part of the names of the linear layers and convolutions to adapt."
    )
    freeze: list[str] = _option([], "Parts to keep as they are: vision, text, all_but_projections, batch_norm, ...")
    epochs: int = _option(32, "Passes over the data (table 18: 32).")
    min_steps: int | None = _option(None, "Least number of steps: few pairs are repeated within an epoch.")
    max_steps: int | None = _option(None, "Number of steps, instead of epochs.")
    batch_size: int = _option(128, "Pairs of a step, of all processes together (table 18: 32768).")
    optimizer: str = _option("adamw", "`adamw`, or `adamw_8bit` (needs bitsandbytes).")
    learning_rate: float = _option(5e-4, "Highest learning rate (tables 19 and 20: 5e-4 and less).")
    weight_decay: float = _option(0.2, "Weight decay of weights that are not gains or biases (table 18: 0.2).")
    layer_decay: float = _option(1.0, "Factor of the learning rate from each layer to the one below it.")
    head_learning_rate_multiplier: float = _option(1.0, "Films: the temporal head's learning rate, as a multiple.")
    warmup_steps: int | None = _option(None, "Steps in which the learning rate rises (table 18: 2000).")
    warmup_share: float = _option(0.1, "The same as a share of all steps, where warmup_steps is not given.")
    max_grad_norm: float | None = _option(None, "Largest norm of the gradient; larger ones are scaled down.")
    label_smoothing: float = _option(0.0, "Share of the targets that is spread over all pairs.")
    ema_decay: float | None = _option(None, "Average the weights with this decay, to evaluate and save the average.")
    max_loss_ratio: float = _option(3.0, "Stop where the loss is more than this times the median of the last ones.")
    grad_cache_chunk_size: int | None = _option(None, "Pairs of a process in the towers at a time (GradCache).")
    loss_chunk_size: int | None = _option(
        None, "Rows of the similarity matrix in memory at a time (default: automatic)."
    )
    mixed_precision: str = _option("no", "`no`, `fp16` or `bf16`; the weights and the loss are float32 in any case.")
    patch_dropout: float = _option(0.0, "ViT: share of the patches that a step leaves out (FLIP: 0.5).")
    unmasked_share: float = _option(0.0, "patch_dropout: share of the steps, the last ones, that see all patches.")
    gradient_checkpointing: bool = _option(False, "Compute activations again in the backward pass, to save memory.")
    compile: bool = _option(False, "Compile the model with torch.compile.")
    sync_batch_norm: bool = _option(False, "BatchNorm over the pairs of all processes (GPUs).")
    cpu: bool = _option(False, "Train on the CPU even if there is a GPU.")
    eval_every: float = _option(1.0, "Epochs between evaluations on held-out pairs; the end is always evaluated.")
    eval_rows: int = _option(5000, "Held-out pairs to evaluate on at most.")
    eval_with_train_captions: bool = _option(False, "Zero-shot: choose among the training captions as well.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments: a recipe, and all options; only passed options are set."""
    parser.usage = "clip-hf train [RECIPE] [--option value ...]"
    parser.description = (
        "Train a CLIP on image-text pairs, from scratch or from a pretrained one.\n\n"
        "A recipe is a YAML file of options; options on the command line overrule it. `none` gives an option that\n"
        "a recipe has set its default again, and empties a list. The batch size is that of all processes together,\n"
        "the negatives come from all of them, and the update is that of one process with the whole batch. (Except\n"
        "for BatchNorm in a ResNet: see --freeze batch_norm and --sync_batch_norm.) SIGTERM and Ctrl-C save a\n"
        "checkpoint before they end the training, and --resume latest goes on exactly where it stopped."
    )
    parser.epilog = _EPILOG
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="file of options (.yaml or .json)")
    kinds = typing.get_type_hints(TrainingFields)
    group = parser
    for option in fields(TrainingFields):
        if option.name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[option.name])
        settings = _settings_of(kinds[option.name])
        group.add_argument(f"--{option.name}", default=argparse.SUPPRESS, help=_help_of(option), **settings)


def _settings_of(kind: Any) -> dict[str, Any]:
    """How argparse reads an option of this type: `int`, `int | None`, `list[int]` and so on."""
    is_list, is_optional = typing.get_origin(kind) is list, isinstance(kind, types.UnionType)
    value = typing.get_args(kind)[0] if is_list or is_optional else kind
    settings: dict[str, Any] = {"type": _truth_value if value is bool else value}
    if is_list:
        settings["nargs"] = "*"
    elif value is bool:
        settings |= {"nargs": "?", "const": True}
    settings["type"] = _or_none(settings["type"])
    return {**settings, "metavar": {str: "TEXT", bool: "BOOL"}.get(value, "NUMBER")}


def _help_of(option: Any) -> str:
    default = option.default if option.default_factory is MISSING else " ".join(map(str, option.default_factory()))
    shown = "" if default in (None, "") or default is False else f" (default: {default})"
    return f"{option.metadata['help']}{shown}".replace("%", "%%")


def _truth_value(text: str) -> bool:
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return values[text.lower()]


def is_none(value: Any) -> bool:
    """Whether an option's value in a recipe or on the command line stands for no value."""
    return value is None or (isinstance(value, str) and value.strip().lower() == "none")


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(convert)  # argparse names the type in its messages
    def read(text: str) -> Any:
        return None if is_none(text) else convert(text)

    return read
