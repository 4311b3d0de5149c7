# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Set up a training from its options: processes, folder, data, model and batches."""

import copy
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType, set_seed
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers import PreTrainedConfig

from ..checkpoints.paths import describe_not_found
from ..checkpoints.tokenizer_formats import OPENAI_MERGES
from ..data import PairLoader, hold_out, iter_texts, load_pairs, split_names
from ..model.architectures_clip_hf import ARCHITECTURES
from ..model.configuration_clip_hf import ClipHFConfig
from ..model.configuration_clip_hf_video import ClipHFVideoConfig
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.tokenization_clip_hf import ClipHFTokenizer
from ..utils.atomic import clear_leftovers, replaced_file
from ..utils.json_files import read_json
from ..utils.output_folders import check_output_folder, replacing_folder
from ..utils.processes import join_processes
from .checkpoint_files import check_can_be_resumed
from .distributed import check_processes_agree, make_logit_scale_shardable_, sync_batch_norm
from .freezing import freeze, starts_of_parts
from .held_out import HeldOutPairs
from .low_rank import add_lora
from .options import LOG_NAME, MAX_OPTIONS_BYTES, RECIPE_NAME, TrainingOptions
from .video_models import as_video_model, as_video_processor
from .weight_inheritance import inherit_weights


# The multiplier and bias that Zhai et al. 2023 start from.
_SIGMOID = {"logit_scale_init_value": 2.302585092994046, "logit_bias_init_value": -10.0}
_TOWERS = ("text_config", "vision_config")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Rows of a stream whose texts train a tokenizer.
_TOKENIZER_ROWS = 100_000


def start_accelerator(options: TrainingOptions) -> Accelerator:
    """Join the processes of a training, and seed them; errors as in [`train`]."""
    check_trackers(options.trackers)
    accelerator = join_processes(
        options.cpu,
        mixed_precision=options.mixed_precision,
        log_with=options.trackers or None,
        project_dir=options.output_dir,
        # The loop steps the schedule itself, once a step.
        step_scheduler_with_optimizer=False,
    )
    if options.resume is not None:
        check_can_be_resumed(accelerator, options.trust_checkpoint)
    set_seed(options.seed)
    return accelerator


def check_trackers(names: Iterable[str]) -> None:
    """Raise a `ValueError` for a tracker that Accelerate does not know, or whose package is not installed."""
    known = [str(name) for name in LoggerType if str(name) != "all"]
    available = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ValueError(f"There is no tracker {name!r}; there are {', '.join(sorted(known))}.")
        if name not in available:
            raise ValueError(f"The tracker {name!r} is not installed: `pip install {name}`, or leave it out.")


def check_output_dir(options: TrainingOptions) -> None:
    """Raise a `ValueError` if a training may not write into its folder; call it before anything else."""
    if options.resume is not None:
        if not os.path.exists(options.output_dir):
            clear_leftovers(options.output_dir)  # puts back what a killed process had set aside
        return
    ways = "pass --resume latest to go on with the training in it, or --overwrite to replace it"
    check_output_folder(Path(options.output_dir), options.overwrite, "training", _holds_training, ways)


def _holds_training(folder: Path) -> bool:
    # A training that was killed at its start left only its recipe.
    return (folder / LOG_NAME).exists() or [path.name for path in folder.iterdir()] == [RECIPE_NAME]


@contextmanager
def prepare_output_dir(options: TrainingOptions, active: bool = True) -> Iterator[None]:
    """Prepare the folder of a training: set a training that it replaces aside, and write the options down.

    The replaced training is removed when the block ends, by which time the new one must have started, see
    [`replacing_folder`]. Of several processes, only the `active` one does the work.
    """
    if not active:
        yield
        return
    folder = Path(os.path.abspath(options.output_dir))
    with replacing_folder(folder, options.overwrite and options.resume is None):
        for place in (folder / "best", folder / "last"):
            clear_leftovers(place)
        with replaced_file(folder / RECIPE_NAME) as path:
            path.write_text(yaml.safe_dump(asdict(options), sort_keys=False, allow_unicode=True), encoding="utf-8")
        yield


def load_training_data(options: TrainingOptions) -> tuple[Any, datasets.Dataset | None]:
    """Load the pairs to train on, and the held-out pairs, if any.

    The held-out pairs are those of `eval_dataset`; without it, the part `eval_split` of the only source, by default
    `test` if there is one; without that, a share of the pairs, see [`hold_out`].

    Args:
        options ([`TrainingOptions`]): The options of the training.

    Raises:
        ValueError: if `image_root` is no folder, if the held-out pairs would be training pairs or are ambiguous, or
            as [`load_pairs`] and [`hold_out`].
    """
    if options.image_root is not None and not Path(options.image_root).is_dir():
        raise ValueError(f"`image_root` {options.image_root} is no folder; give a folder that holds the images.")
    held_out = _held_out_part(options)
    data = load_pairs(
        options.dataset,
        weights=options.dataset_weights or None,
        streaming=options.streaming,
        options=options.pair_options,
        seed=options.seed,
    )
    if held_out is not None:
        source, split = held_out
        return data, load_pairs(source, split=split, options=options.pair_options.without_extras())
    if options.eval_share:
        return hold_out(data, options.eval_share, options.pair_options)
    return data, None


def _held_out_part(options: TrainingOptions) -> tuple[str, str | None] | None:
    """The source and the part of the held-out pairs; None if the options name none."""
    source, split, media = options.eval_dataset, options.eval_split, options.pair_options.media
    if source is not None:
        if split is None:
            parts = split_names(source, media)
            split = "test" if "test" in parts else None
            if split is None and len(parts) > 1:
                raise ValueError(
                    f"`eval_dataset` {source} has the parts {', '.join(parts)}: name one as `eval_split`."
                )
            if split is None and source in options.dataset:
                raise ValueError(
                    f"`eval_dataset` {source} is what is trained on, and has no part `test`. Give other data, or "
                    "leave it out and give `eval_share`, to hold out a share."
                )
        return source, split
    if len(options.dataset) > 1:
        if split is not None:
            raise ValueError(f"`eval_split` is {split!r}, of one of several sources: name that as `eval_dataset`.")
        return None
    (source,) = options.dataset
    if split == "train":
        raise ValueError("`eval_split` is 'train', the part that is trained on; name another.")
    if split is None and "test" not in split_names(source, media):
        return None
    return source, split or "test"


def build_model(options: TrainingOptions, data: Any) -> tuple[ClipHFModel, ClipHFProcessor]:
    """Load the model to train and its processor, or build new ones.

    Args:
        options ([`TrainingOptions`]): The options of the training: `model`, or `config`, `tokenizer` and so on.
        data: What [`load_pairs`] returned; without `tokenizer`, one is trained on its texts.

    Raises:
        OSError: if a model, tokenizer or config does not exist.
        ValueError: if one of them cannot be used.
    """
    if options.model:
        model, processor = _load_pretrained(options, options.model, "model")
        for name, value in options.image_options.items():
            setattr(processor.image_processor, name, value)
        return _for_films(options, model, processor)
    return _for_films(options, *_build_new(options, data))


def _load_pretrained(options: TrainingOptions, name: str, option: str) -> tuple[ClipHFModel, ClipHFProcessor]:
    """A saved model and its processor, that of films where `num_frames` is given; `option` is the name's."""
    is_video = options.num_frames is not None and option == "model"
    try:
        model_class = ClipHFVideoModel if is_video else ClipHFModel
        return tuple(each.from_pretrained(name) for each in (model_class, ClipHFProcessor))
    except OSError as error:
        if os.path.exists(name) or isinstance(error, FileNotFoundError):
            raise
        raise OSError(describe_not_found(name, error)) from error
    except ValueError as error:
        config, _ = PreTrainedConfig.get_config_dict(name)
        if not is_video and config.get("model_type") == ClipHFVideoConfig.model_type:
            cure = f"give `num_frames` (its own: {config['num_frames']}) and films as data"
            cure = cure if option == "model" else "inherit from a model of pictures"
            raise ValueError(f"`{option}` {name} is a video model: {cure}.") from error
        raise


def _build_new(options: TrainingOptions, data: Any) -> tuple[ClipHFModel, ClipHFProcessor]:
    """A model from scratch, or from a part of a larger one's weights, and its processor."""
    config = options.config
    if isinstance(config, str):  # a recipe may hold the arguments themselves
        config = ARCHITECTURES.get(config) or read_json(
            Path(config), what=f"The configuration {config}", max_bytes=MAX_OPTIONS_BYTES
        )
    config = _checked_config(copy.deepcopy(config), options.config)
    larger, image_settings = None, {}
    if options.inherit_from is not None:
        larger, processor = _load_pretrained(options, options.inherit_from, "inherit_from")
        tokenizer, image_settings = processor.tokenizer, processor.image_processor.to_dict()
        tokenizer.model_max_length = config["text_config"].setdefault(
            "max_position_embeddings", tokenizer.model_max_length
        )
    else:
        tokenizer = _build_tokenizer(options, config["text_config"].get("max_position_embeddings", 77), data)
    config["text_config"]["vocab_size"] = len(tokenizer)
    # A configuration that was saved with a model has the ids of that model's tokenizer.
    config["text_config"] |= {name: getattr(tokenizer, name) for name in _TOKEN_IDS}
    if options.loss == "sigmoid" and config.get("logit_bias_init_value") is None:
        config |= _SIGMOID
    config = ClipHFConfig(**config)
    model = ClipHFModel(config) if larger is None else inherit_weights(larger.float(), config)
    size = config.vision_config.image_size
    if options.resize_to is not None and options.resize_to < size:
        raise ValueError(f"`resize_to` is {options.resize_to}; it must be at least {size}, the size of the crop.")
    sizes = {
        "size": {"shortest_edge": options.resize_to or size},
        "crop_size": {"height": size, "width": size},
        **options.image_options,
    }
    return model, ClipHFProcessor(ClipHFImageProcessor.from_dict({**image_settings, **sizes}), tokenizer)


def _build_tokenizer(options: TrainingOptions, context_length: int, data: Any) -> ClipHFTokenizer:
    """The tokenizer of a new model: OpenAI's, a saved one, or one trained on the captions."""
    if options.tokenizer == "openai":
        return ClipHFTokenizer.from_bpe_file(OPENAI_MERGES, context_length)
    if options.tokenizer:
        try:
            return ClipHFTokenizer.from_pretrained(options.tokenizer)
        except OSError as error:
            raise OSError(
                f"There is no tokenizer {options.tokenizer} that can be read; `tokenizer` is `openai`, a folder or a "
                "repo on the hub. Without it, one is trained on the captions."
            ) from error
    return ClipHFTokenizer.train(_texts_of(options, data), options.vocab_size, context_length)


def _for_films(
    options: TrainingOptions, model: ClipHFModel, processor: ClipHFProcessor
) -> tuple[ClipHFModel, ClipHFProcessor]:
    """The model and its processor as they are, or as those of films where `num_frames` is given."""
    if options.num_frames is None:
        return model, processor
    model = as_video_model(model, options.num_frames, options.temporal_head, options.temporal_num_layers)
    image_processor = as_video_processor(processor.image_processor, options.num_frames)
    return model, ClipHFProcessor(image_processor, processor.tokenizer)


def _checked_config(config: Any, source: Any) -> dict[str, Any]:
    """The arguments of a new model's configuration, once they are known to be some; `source` is the option's value."""
    what = f"The configuration {source}" if isinstance(source, str) else "The `config` of the recipe"
    wrong = [name for name in _TOWERS if not isinstance(config, dict) or not isinstance(config.get(name), dict)]
    if wrong:
        raise ValueError(f"{what} must have {' and '.join(wrong)} with `option: value` lines; see `ClipHFConfig`.")
    return config


def _texts_of(options: TrainingOptions, data: Any) -> Iterator[str]:
    """The texts to train a tokenizer on."""
    texts = iter_texts(data, options.pair_options, _TOKENIZER_ROWS if options.streaming else None)
    first = next(texts, None)
    if first is None:
        raise ValueError(
            f"No row has a text: the column {options.caption_column!r} must hold strings that are not blank, or lists "
            "of them."
        )
    return itertools.chain([first], texts)


def prepare_model(options: TrainingOptions, accelerator: Accelerator, model: ClipHFModel) -> ClipHFModel:
    """Apply the options that change the model, such as `freeze`, and return it; call it before the optimiser is built.

    Args:
        options, accelerator ([`TrainingOptions`], `Accelerator`): Those of the training and of this process.
        model ([`ClipHFModel`]): The model, changed in place.

    Raises:
        ValueError: if a part to freeze is unknown, or an option does not fit the model or the machine.
    """
    # Channels last makes convolutions a tenth faster on a CPU, and in half precision on a GPU.
    model.train().to(memory_format=torch.channels_last)
    if options.freeze:
        freeze(model, options.freeze)
    if options.gradient_checkpointing:
        # transformers 5.23 renamed the method and warns of the old name; earlier versions have only the old one.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    # After gradient checkpointing, which in an adapted model would ask for gradients of the token embeddings.
    if options.lora_options is not None:
        _add_adapters(options, accelerator, model)
    if options.sync_batch_norm and accelerator.num_processes > 1:
        sync_batch_norm(model)
    if accelerator.distributed_type == DistributedType.FSDP:
        make_logit_scale_shardable_(model)
    return model


def _add_adapters(options: TrainingOptions, accelerator: Accelerator, model: ClipHFModel) -> None:
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"`lora_rank` does not work with {accelerator.distributed_type.value}: few parameters are trained, so "
            "their optimiser's state needs no sharding. Launch with DistributedDataParallel (torchrun)."
        )
    add_lora(model, options.lora_options, frozen=starts_of_parts(options.freeze))


def wrap_model(options: TrainingOptions, accelerator: Accelerator, model: ClipHFModel, optimizer: Any) -> tuple:
    """Prepare model and optimiser with Accelerate; returns both. The model is compiled if the options say so."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        # DeepSpeed reads it from loaders that Accelerate prepared; ours are not prepared.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = options.batch_size // accelerator.num_processes
    if options.compile:
        model = torch.compile(model)
    model, optimizer = accelerator.prepare(model, optimizer)
    clip = accelerator.unwrap_model(model, keep_torch_compile=False)
    if isinstance(clip, FSDPModule):  # which gathers the weights only for `forward` and for registered methods
        for name in ("get_text_features", "get_image_features", "encode_text", "encode_image"):
            register_fsdp_forward_method(clip, name)
    return model, optimizer


def build_loader(
    options: TrainingOptions, accelerator: Accelerator, data: Any, processor: ClipHFProcessor, num_steps: int
) -> PairLoader:
    """Build the loader of this process's batches; a `ValueError` if the processes have different data or options."""
    loader = PairLoader(
        data,
        processor,
        options.pair_options,
        batch_size=options.batch_size,
        num_steps=num_steps,
        num_workers=options.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    same = {name: value for name, value in asdict(options).items() if name != "output_dir"}
    rows = None if options.streaming else len(data)
    check_processes_agree(accelerator, {**same, "rows": rows, "vocabulary": len(processor.tokenizer)})
    return loader


def load_held_out(
    options: TrainingOptions, held_out: datasets.Dataset | None, data: Any, processor: ClipHFProcessor
) -> HeldOutPairs | None:
    """Prepare the held-out pairs; with `eval_with_train_captions`, the captions of `data` are classes, too."""
    if held_out is None:
        return None
    more_labels: set[str] = set()
    if options.eval_with_train_captions and not options.streaming:
        captions = data.with_format(None)[options.caption_column]
        more_labels = {value if isinstance(value, str) else value[0] for value in captions if value}
    return HeldOutPairs(held_out, processor, options.pair_options, options.eval_rows, sorted(more_labels))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step, so that a resumed training needs no generator's state."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)
