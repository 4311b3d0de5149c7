# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Train a CLIP with `transformers.Trainer`, from scratch or from a pretrained one.

    python examples/train_with_trainer.py --output_dir outputs/trainer
    torchrun --nproc_per_node 2 examples/train_with_trainer.py --output_dir outputs/trainer --dataset my_images

For those who use Trainer already. `clip-hf train` is made for contrastive training: batches larger than the memory,
data that stream, and a resume that is exact. Here a step's negatives are the pairs of one micro-batch, on all
processes; `--gradient_accumulation_steps` adds up gradients, but no negatives.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("train", "examples/train_with_trainer.py", "accelerate", "datasets")

import datasets
import numpy as np
import torch
from accelerate import PartialState
from transformers import EvalPrediction, HfArgumentParser, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from clip_hf import ClipHFProcessor
from clip_hf.data import OPENMOJI_TEMPLATES, ImageTextCollator, ImageTextDataset, read_captions
from clip_hf.evaluation import caption_ids, recall_at_k, retrieval_ranks
from clip_hf.model_card import write_model_card
from clip_hf.training import (
    TrainingOptions,
    adamw_from_paper,
    build_model,
    clamp_logit_scale_,
    describe_plan,
    describe_training,
    fit_batch_size,
    load_training_data,
)
from clip_hf.utils.failures import reported_failures


logger = logging.get_logger(__name__)

# The metrics need only the two embeddings of the model's outputs.
UNUSED_OUTPUTS = ["logits_per_image", "logits_per_text", "text_model_output", "vision_model_output"]
# What is trained from scratch.
LAYERS = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
TEXT = {**LAYERS, "num_hidden_layers": 2, "max_position_embeddings": 40}
VISION = {**LAYERS, "model_type": "clip_hf_vit", "num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
SMALL_VIT = {"projection_dim": 128, "text_config": TEXT, "vision_config": VISION}


@dataclass
class Options:
    """What the data and the model are."""

    dataset: str = field(default="openmoji", metadata={"help": "`openmoji`, or anything that `load_pairs` takes."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Held-out pairs, if `dataset` has none."})
    eval_split: str | None = field(default=None, metadata={"help": "Part to evaluate on, or `none`; usually `test`."})
    eval_share: float = field(default=0.0, metadata={"help": "Hold out this share, where nothing else is held out."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions."})
    model: str | None = field(default=None, metadata={"help": "Folder or hub name of a model. Without: from scratch."})


@dataclass
class Arguments(TrainingArguments):
    """Trainer's own arguments; the defaults changed here suit a small CLIP, or are needed."""

    output_dir: str = "outputs/trainer"
    num_train_epochs: float = 20
    per_device_train_batch_size: int = 128
    per_device_eval_batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1  # a share of the steps
    max_grad_norm: float = 0.0  # the paper clips no gradients
    eval_strategy: str = "epoch"
    logging_steps: float = 10
    report_to: str | None = "none"
    ddp_find_unused_parameters: bool | None = False  # the loss uses all of them
    dataloader_drop_last: bool = True  # processes compare their pairs, so they need batches of one size
    remove_unused_columns: bool = False  # the collator makes the texts into tokens
    # Trainer computes metrics only where there are labels. These say which captions are equal.
    label_names: list[str] | None = field(default_factory=lambda: ["text_ids"])


class EvaluationPairs(torch.utils.data.Dataset):
    """The first caption of each image, and its central crop, in place of those that training draws."""

    def __init__(self, dataset: datasets.Dataset, processor: ClipHFProcessor, options: Options):
        self.texts = [captions[0] for captions in read_captions(dataset, options.caption_column)]
        self.ids = caption_ids(self.texts)
        self.images = dataset
        self.image_column, self.image_processor = options.image_column, processor.image_processor

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_different(self) -> int:
        """Number of different captions."""
        return int(self.ids.max()) + 1

    def num_queries(self, metric: str) -> int:
        """Number of images, or of different texts, that a metric is the share of; for the card's intervals."""
        return self.num_different if metric.startswith("text_to_image") else len(self.texts)

    def summary(self) -> str:
        """The numbers of pairs and texts in a line."""
        return f"{len(self):,} with {self.num_different:,} different captions"

    def __getitem__(self, row: int) -> dict:
        # Not decoded yet, because the image processor opens files as in training.
        file = self.images[row][self.image_column]
        pixels = self.image_processor(file, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return {"pixel_values": pixels[0].astype(np.uint8), "text": self.texts[row], "text_id": int(self.ids[row])}


class ClipTrainer(Trainer):
    """A Trainer with the paper's optimiser, and with clip_hf's model card in place of its own."""

    options: TrainingOptions

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = adamw_from_paper(self.model, self.args.learning_rate, self.args.weight_decay)
        return self.optimizer

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        # Every pair is evaluated; Trainer has one setting for training and evaluation.
        self.args.dataloader_drop_last, drop_last = False, self.args.dataloader_drop_last
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def create_model_card(self, **kwargs) -> None:
        if self.is_world_process_zero():
            args, config = self.args, self.model.config
            last = next((entry for entry in reversed(self.state.log_history) if "eval_loss" in entry), {})
            metrics = {name.removeprefix("eval_"): value for name, value in last.items() if "_R@" in name}
            details = describe_training(
                self.options, self.state.global_step, metrics, config, len(self.train_dataset), self.eval_dataset
            )
            model_id = args.hub_model_id or Path(args.output_dir).name
            write_model_card(args.output_dir, config, model_id, details, self.model.num_parameters())


class ClipCallback(TrainerCallback):
    """Prints the plan at the start; keeps the inverse temperature at most 100 after each step (paper, section 2.5)."""

    def __init__(self, options: TrainingOptions, num_pairs: int, held_out: EvaluationPairs | None):
        self.options, self.num_pairs, self.held_out = options, num_pairs, held_out

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero:
            print(describe_plan(self.options, model, state.max_steps, self.num_pairs, self.held_out))

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        clamp_logit_scale_(model)


def retrieval_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Recall at 1 and 5, 0 to 1, as `clip-hf evaluate --tasks retrieval` gives it.

    Captions with the same `text_ids` are one candidate, right for each of their images, so `image_to_text_R@1` is the
    top-1 accuracy of zero-shot classification where captions are names of classes.
    """
    text_embeds, image_embeds = prediction.predictions  # each (pairs, dim)
    text_ids = prediction.label_ids
    ranks = retrieval_ranks(image_embeds, text_embeds, np.arange(len(text_ids)), text_ids=text_ids)
    directions = {"image_to_text": ranks.image_to_text, "text_to_image": ranks.text_to_image}
    return {f"{name}_R@{k}": recall_at_k(places, k) for name, places in directions.items() for k in (1, 5)}


def training_options(options: Options, arguments: Arguments) -> TrainingOptions:
    """The options of `clip-hf train` that say the same: they choose the data, build the model and fill its card."""
    shared = {name: getattr(options, name) for name in ("image_column", "caption_column", "model")}
    shared |= {name: getattr(arguments, name) for name in ("output_dir", "learning_rate", "weight_decay", "seed")}
    if options.eval_split != "none":
        shared |= {name: getattr(options, name) for name in ("eval_dataset", "eval_split", "eval_share")}
    warmup = arguments.warmup_steps
    shared |= {"warmup_share": warmup} if warmup < 1 else {"warmup_steps": int(warmup)}
    return TrainingOptions(
        dataset=[options.dataset],
        templates=list(OPENMOJI_TEMPLATES) if options.dataset == "openmoji" else ["{}"],
        cache_images=options.dataset == "openmoji",
        config=SMALL_VIT,
        vocab_size=2048,
        resize_to=66,
        batch_size=arguments.train_batch_size * arguments.world_size,
        mixed_precision="bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        **shared,
    )


def train(options: Options, arguments: Arguments) -> ClipTrainer:
    """Train, evaluate and save; returns the trainer, whose `state.log_history` is the log."""
    ours = training_options(options, arguments)
    # One process prepares the data; the others find them prepared.
    with PartialState().main_process_first():
        pairs, held_out = load_training_data(ours)
    if options.eval_split == "none":
        held_out = None
    ours = fit_batch_size(ours, PartialState(), pairs)
    arguments.per_device_train_batch_size = ours.batch_size // arguments.world_size
    torch.manual_seed(arguments.seed)
    model, processor = build_model(ours, pairs)
    if arguments.gradient_accumulation_steps > 1:
        logger.warning("Gradient accumulation adds no negatives: each micro-batch is compared with itself only.")
    if held_out is None and arguments.eval_strategy != "no":
        logger.warning("Nothing is held out, so nothing is evaluated: give `eval_dataset` or `eval_share`.")
        arguments.eval_strategy = "no"
    trainer = ClipTrainer(
        model,
        arguments,
        data_collator=ImageTextCollator(processor, return_loss=True),
        # Trainer calls its set_epoch, so that crops, captions and templates are drawn anew in each epoch.
        train_dataset=ImageTextDataset(pairs, processor.image_processor, ours.pair_options),
        eval_dataset=None if held_out is None else EvaluationPairs(held_out, processor, options),
        processing_class=processor,
        compute_metrics=retrieval_metrics,
    )
    trainer.options = ours
    trainer.add_callback(ClipCallback(ours, len(trainer.train_dataset), trainer.eval_dataset))
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint, ignore_keys_for_eval=UNUSED_OUTPUTS)
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    return trainer


def parse(arguments: Sequence[str]) -> tuple[Options, Arguments]:
    """Options and Trainer's arguments from a command line."""
    parser = HfArgumentParser((Options, Arguments), description=__doc__.strip().splitlines()[0])
    return parser.parse_args_into_dataclasses(list(arguments))


if __name__ == "__main__":
    with reported_failures(__file__):
        train(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()
