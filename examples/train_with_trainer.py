# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Train a CLIP with `transformers.Trainer`, from scratch or from a pretrained one.

    python examples/train_with_trainer.py --output_dir outputs/trainer
    torchrun --nproc_per_node 2 examples/train_with_trainer.py --output_dir outputs/trainer --dataset my_images

For those who have a Trainer already. `train_clip.py` is made for contrastive training: batches larger than the memory,
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

from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer
from clip_hf.data import OPENMOJI_TEMPLATES, ImageTextCollator, ImageTextDataset, read_captions
from clip_hf.evaluation import caption_ids, recall_at_k, retrieval_ranks
from clip_hf.model_card import write_model_card
from clip_hf.training import (
    TrainingOptions,
    adamw_from_paper,
    clamp_logit_scale_,
    describe_plan,
    describe_training,
    fit_batch_size,
    load_training_data,
)
from clip_hf.utils.failures import reported_failures


logger = logging.get_logger(__name__)

# Outputs of the model that are no metric's business; the two embeddings are left.
UNUSED_OUTPUTS = ["logits_per_image", "logits_per_text", "text_model_output", "vision_model_output"]


@dataclass
class Options:
    """What the data and the model are."""

    dataset: str = field(default="openmoji", metadata={"help": "`openmoji`, or anything that `load_pairs` takes."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Held-out pairs, if `dataset` has none."})
    eval_split: str | None = field(
        default=None, metadata={"help": "Part to evaluate on, or `none`; without it `test` where there is one."}
    )
    eval_share: float = field(default=0.0, metadata={"help": "Hold out this share, where nothing else is held out."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions."})
    model: str | None = field(default=None, metadata={"help": "Folder or hub name of a model. Without: from scratch."})


@dataclass
class Arguments(TrainingArguments):
    """Trainer's own arguments; those with another default here suit a small CLIP, or are what it needs."""

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
    # The loss needs all parameters; to look for others takes time.
    ddp_find_unused_parameters: bool | None = False
    # All processes need batches of one size, for each compares its pairs with those of the others.
    dataloader_drop_last: bool = True
    # Texts are made into tokens by the collator: Trainer would remove them, for the model takes no texts.
    remove_unused_columns: bool = False
    # Metrics are computed only where there are labels; equal captions are told by theirs.
    label_names: list[str] | None = field(default_factory=lambda: ["text_ids"])


class EvaluationPairs(torch.utils.data.Dataset):
    """The first caption of each image, and its centre, in place of what training draws."""

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
        """Of how many images, or different texts, a metric is the share; for the card's intervals."""
        return self.num_different if metric.startswith("text_to_image") else len(self.texts)

    def summary(self) -> str:
        """The numbers of pairs and texts in a line."""
        return f"{len(self):,} with {self.num_different:,} different captions"

    def __getitem__(self, row: int) -> dict:
        # Not decoded yet: the image processor opens files as it does in training.
        file = self.images[row][self.image_column]
        pixels = self.image_processor(file, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return {"pixel_values": pixels[0].astype(np.uint8), "text": self.texts[row], "text_id": int(self.ids[row])}


class ClipTrainer(Trainer):
    """A Trainer with the paper's optimiser, and clip_hf's model card, of `options`, in place of its own."""

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
            evaluations = [entry for entry in self.state.log_history if "eval_image_to_text_R@1" in entry]
            last = evaluations[-1] if evaluations else {}
            metrics = {name.removeprefix("eval_"): value for name, value in last.items() if "_R@" in name}
            details = describe_training(
                self.options, self.state.global_step, metrics, config, len(self.train_dataset), self.eval_dataset
            )
            model_id = args.hub_model_id or Path(args.output_dir).name
            write_model_card(args.output_dir, config, model_id, details, self.model.num_parameters())


class ClampTemperature(TrainerCallback):
    """Keeps the inverse temperature at most 100 after each step (paper, section 2.5)."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        clamp_logit_scale_(model)


class AnnouncePlan(TrainerCallback):
    """Says at the start what is about to be done."""

    def __init__(self, options: TrainingOptions, num_pairs: int, held_out: EvaluationPairs | None):
        self.options, self.num_pairs, self.held_out = options, num_pairs, held_out

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero:
            print(describe_plan(self.options, model, state.max_steps, self.num_pairs, self.held_out))


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


def build_model(options: Options, texts: Sequence[str]) -> tuple[ClipHFModel, ClipHFProcessor]:
    """A pretrained model and its processor; or a small ViT with a vocabulary learned from `texts`."""
    if options.model:
        return ClipHFModel.from_pretrained(options.model), ClipHFProcessor.from_pretrained(options.model)
    tokenizer = ClipHFTokenizer.train(texts, vocab_size=2048, context_length=40)
    layers = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    config = ClipHFConfig(
        text_config={
            **layers,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
        },
        vision_config={
            **layers,
            "model_type": "clip_hf_vit",
            "num_hidden_layers": 4,
            "image_size": 64,
            "patch_size": 16,
        },
        projection_dim=128,
    )
    image_processor = ClipHFImageProcessor(size={"shortest_edge": 66}, crop_size={"height": 64, "width": 64})
    return ClipHFModel(config), ClipHFProcessor(image_processor, tokenizer)


def settings_of(options: Options, arguments: Arguments) -> dict:
    """Trainer's arguments as `train_clip.py` names them."""
    warmup = arguments.warmup_steps
    return {
        "model": options.model,
        "output_dir": arguments.output_dir,
        "batch_size": arguments.train_batch_size * arguments.world_size,
        "learning_rate": arguments.learning_rate,
        "weight_decay": arguments.weight_decay,
        "mixed_precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        **({"warmup_share": warmup} if warmup < 1 else {"warmup_steps": int(warmup)}),
    }


def train(options: Options, arguments: Arguments) -> ClipTrainer:
    """Train, evaluate and save; returns the trainer, whose `state.log_history` is the log."""
    templates = OPENMOJI_TEMPLATES if options.dataset == "openmoji" else ("{}",)
    evaluate = options.eval_split != "none"
    data_options = TrainingOptions(
        dataset=[options.dataset],
        eval_dataset=options.eval_dataset if evaluate else None,
        eval_split=options.eval_split if evaluate else None,
        eval_share=options.eval_share if evaluate else 0.0,
        image_column=options.image_column,
        caption_column=options.caption_column,
        templates=list(templates),
        seed=arguments.seed,
        cache_images=options.dataset == "openmoji",
        **settings_of(options, arguments),
    )
    pair_options = data_options.pair_options
    # Only one process prepares the data; the others find them prepared.
    with PartialState().main_process_first():
        rows, eval_rows = load_training_data(data_options)
    evaluate = evaluate and eval_rows is not None
    data_options = fit_batch_size(data_options, PartialState(), rows)
    arguments.per_device_train_batch_size = data_options.batch_size // arguments.world_size
    captions = [text for texts in read_captions(rows, options.caption_column) for text in texts]
    torch.manual_seed(arguments.seed)
    model, processor = build_model(options, [t.replace("{}", text) for text in captions for t in templates])
    if arguments.gradient_accumulation_steps > 1:
        logger.warning("Gradient accumulation adds no negatives: each micro-batch is compared with itself only.")
    if not evaluate:
        if arguments.eval_strategy != "no":
            logger.warning("Nothing is held out, so nothing is evaluated: give `eval_dataset` or `eval_share`.")
        arguments.eval_strategy = "no"
    trainer = ClipTrainer(
        model,
        arguments,
        data_collator=ImageTextCollator(processor, return_loss=True),
        # Trainer calls its set_epoch, so that crops, captions and templates are drawn anew in each epoch.
        train_dataset=ImageTextDataset(rows, processor.image_processor, pair_options),
        eval_dataset=EvaluationPairs(eval_rows, processor, options) if evaluate else None,
        processing_class=processor,
        compute_metrics=retrieval_metrics,
        callbacks=[ClampTemperature()],
    )
    trainer.options = data_options
    trainer.add_callback(AnnouncePlan(data_options, len(trainer.train_dataset), trainer.eval_dataset))
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
