# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Train a CLIP: the whole loop on one page, to read and to change.

    python examples/train_clip.py --dataset openmoji --output_dir outputs/page
    python examples/train_clip.py --dataset my_pairs.csv --model openai/clip-vit-base-patch32 --learning_rate 1e-5
    torchrun --nproc_per_node 2 examples/train_clip.py --dataset openmoji --output_dir outputs/page

The batch size is that of all processes together. The negatives of a pair come from all of them, so that the update is
that of one process with the whole batch. `clip-hf train` makes the same updates; it also evaluates, saves checkpoints,
resumes exactly, and stops when the loss diverges.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence

from clip_hf.utils.extras import require_extra


require_extra("train", "examples/train_clip.py", "accelerate", "datasets")

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from clip_hf import (
    ClipHFConfig,
    ClipHFImageProcessor,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFTokenizer,
    contrastive_loss,
)
from clip_hf.data import PairLoader, PairOptions, iter_texts, load_pairs
from clip_hf.training import adamw_from_paper, check_launch, clamp_logit_scale_, cosine_schedule
from clip_hf.training.low_rank import LoraOptions, add_lora, merge_lora, save_adapter
from clip_hf.utils.failures import reported_failures


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--dataset", default="openmoji", help="folder, table, tars or hub name of captioned images")
    parser.add_argument("--model", help="folder or hub name of a model to fine-tune (default: a new, small one)")
    parser.add_argument("--output_dir", default="outputs/page", help="where the model goes (default: %(default)s)")
    parser.add_argument("--image_column", default="image", help="column of the images (default: %(default)s)")
    parser.add_argument("--caption_column", default="caption", help="column of the captions (default: %(default)s)")
    parser.add_argument("--templates", nargs="+", default=["{}"], help="one is drawn for each pair; {} is the caption")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=128, help="of all processes together (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="the highest one (default: %(default)s)")
    parser.add_argument("--weight_decay", type=float, default=0.2, help="not of gains and biases (default: 0.2)")
    parser.add_argument("--warmup_steps", type=int, help="steps of rising learning rate (default: a tenth of all)")
    parser.add_argument("--lora_rank", type=int, help="train LoRA adapters of this rank beside --model (needs peft)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that load images (default: 0)")
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and crops (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU even if there is a GPU")
    options = parser.parse_args(arguments)
    if options.lora_rank and not options.model:
        parser.error("--lora_rank adapts a trained model: give --model")
    return options


def build_model(name: str | None, texts: Iterable[str]) -> tuple[ClipHFModel, ClipHFProcessor]:
    """A pretrained model and its processor; without a name a small, new ViT CLIP with a vocabulary of `texts`."""
    if name:
        return ClipHFModel.from_pretrained(name), ClipHFProcessor.from_pretrained(name)
    tokenizer = ClipHFTokenizer.train(texts, vocab_size=2048, context_length=40)
    layers = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    special_tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 40, **special_tokens}
    vision = {"model_type": "clip_hf_vit", "num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
    config = ClipHFConfig(text_config={**layers, **text}, vision_config={**layers, **vision}, projection_dim=128)
    image_processor = ClipHFImageProcessor(
        size={"shortest_edge": 66}, crop_size={"height": 64, "width": 64}, background_color="white"
    )
    return ClipHFModel(config), ClipHFProcessor(image_processor, tokenizer)


def choose_warmup(warmup_steps: int | None, num_steps: int) -> int:
    return min(math.ceil(0.1 * num_steps), num_steps - 1) if warmup_steps is None else warmup_steps


def save(clip: ClipHFModel, processor: ClipHFProcessor, options: argparse.Namespace) -> None:
    if options.lora_rank:  # the adapter alone; the plain model gets it merged
        save_adapter(clip, f"{options.output_dir}/adapter", options.model, processor)
        clip = merge_lora(clip)
    clip.save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    print(f"The model is in {options.output_dir}: `clip-hf evaluate {options.output_dir} --data ...` measures it.")


def train(options: argparse.Namespace) -> None:
    # Without a GPU, Accelerate finds the other processes only if it is told to use the CPU.
    cpu = options.cpu or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=options.mixed_precision)
    check_launch(accelerator)  # processes that do not know each other would train a model each
    set_seed(options.seed)

    # A `datasets.Dataset` of images and captions. The first process prepares it, the others find it prepared.
    pair_options = PairOptions(
        options.image_column, options.caption_column, templates=tuple(options.templates), seed=options.seed
    )
    with accelerator.main_process_first():
        data = load_pairs(options.dataset, options=pair_options)
    model, processor = build_model(options.model, iter_texts(data, pair_options))

    # Batches of this process: a random square crop, a caption in a template, tokens. The order follows from the seed.
    num_steps = options.epochs * max(1, len(data) // options.batch_size)
    loader = PairLoader(
        data,
        processor,
        pair_options,
        batch_size=options.batch_size,
        num_steps=num_steps,
        num_workers=options.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )

    model.train().to(memory_format=torch.channels_last)
    if options.lora_rank:  # all else is frozen from here on, the logit scale too
        accelerator.print(add_lora(model, LoraOptions(rank=options.lora_rank)))
    optimizer = adamw_from_paper(model, options.learning_rate, options.weight_decay)
    schedule = cosine_schedule(optimizer, choose_warmup(options.warmup_steps, num_steps), num_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    clip = accelerator.unwrap_model(model)

    skipped = 0
    bar = tqdm(loader, total=num_steps, desc="train", unit="step", disable=not accelerator.is_main_process)
    for batch in bar:
        skipped += len(batch.pop("skipped"))  # rows whose image or caption cannot be used
        del batch["noticed"]
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        # Rows with the same image or the same text are no negatives of each other.
        ids = {name: batch.pop(name) for name in ("image_ids", "text_ids") if name in batch}
        output = model(**batch, return_logits=False)
        # `gather` compares this process's pairs with those of all, with gradient; chunks bound the memory.
        loss = contrastive_loss(
            output.image_embeds, output.text_embeds, clip.logit_scale.exp(), chunk_size="auto", gather=True, **ids
        )
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        clamp_logit_scale_(clip)
        schedule.step()
        mean_loss = accelerator.reduce(loss.detach(), "mean").item()
        bar.set_postfix(loss=f"{mean_loss:.3f}", rate=f"{schedule.get_last_lr()[0]:.2g}", skipped=skipped)

    if accelerator.is_main_process:
        save(clip, processor, options)
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    with reported_failures(__file__):
        train(parse(sys.argv[1:]))
    PartialState().destroy_process_group()
