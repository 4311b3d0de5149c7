# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Make a CLIP name actions: a video model from a CLIP of pictures, trained on films, on one page.

    make demo  # trains a CLIP of drawings, which does not know where they are; the next command teaches it that
    clip-hf train --model outputs/demo/resnet/last --dataset placed-drawings --batch_size 64 --max_steps 400 \
        --learning_rate 5e-4 --max_grad_norm 1 --output_dir outputs/placed
    python examples/train_video.py --output_dir outputs/video
    python examples/train_video.py --dataset my_films --caption_column caption --model openai/clip-vit-base-patch32

Without `--dataset` the films are drawings that move, grow, spin and appear: five pairs of actions, each the other's
reverse in time. So the order of the frames decides, and the head `meanP`, which has no order, can only guess which of
a pair it is. The films that are classified at the end are of drawings that training has not seen.

`clip-hf train --num_frames 8 --temporal_head LSTM --loss same_label --freeze vision` makes the same updates; it also
evaluates, saves checkpoints and resumes exactly.
"""

import argparse
import sys
from collections.abc import Sequence

from clip_hf.utils.extras import require_extra


require_extra("train", "examples/train_video.py", "accelerate", "datasets")
require_extra("video", "examples/train_video.py", "av")

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from clip_hf import (
    ClipHFModel,
    ClipHFProcessor,
    ClipHFVideoModel,
    ClipHFVideoProcessor,
    pipeline,
    same_label_loss,
)
from clip_hf.data import PairLoader, PairOptions, load_pairs, split_names
from clip_hf.training import check_launch, clamp_logit_scale_, cosine_schedule, freeze
from clip_hf.utils.failures import reported_failures


HEADS = ("meanP", "Conv_1D", "Transf", "LSTM", "Transf_cls")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--dataset", default="moving-drawings", help="folder, table, tars or hub name of films")
    parser.add_argument("--model", default="outputs/placed/last", help="CLIP to start from (default: %(default)s)")
    parser.add_argument("--freeze", nargs="*", default=["vision"], help="parts that are not trained (default: vision)")
    parser.add_argument("--output_dir", default="outputs/video", help="where the model goes (default: %(default)s)")
    parser.add_argument("--caption_column", default="action", help="column of the texts (default: %(default)s)")
    parser.add_argument("--temporal_head", default="LSTM", choices=HEADS, help="default: %(default)s")
    parser.add_argument("--temporal_num_layers", type=int, default=2, help="of Transf and Transf_cls (default: 2)")
    parser.add_argument("--num_frames", type=int, default=8, help="of a clip, one from each segment (default: 8)")
    parser.add_argument("--steps", type=int, default=300, help="batches to train on (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="clips of all processes together (default: 32)")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of the towers (default: %(default)s)")
    parser.add_argument("--head_multiplier", type=float, default=10, help="of the head's rate (default: 10)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read films (default: 0)")
    parser.add_argument("--num_shown", type=int, default=10, help="held-out films to classify (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the head, the order and the frames (default: 0)")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU even if there is a GPU")
    return parser.parse_args(arguments)


def build_model(options: argparse.Namespace) -> tuple[ClipHFVideoModel, ClipHFProcessor]:
    """A video model with the towers of a CLIP, and the processor that gives it clips."""
    model = ClipHFVideoModel.from_clip(
        ClipHFModel.from_pretrained(options.model),
        options.temporal_head,
        num_frames=options.num_frames,
        temporal_num_layers=options.temporal_num_layers,
    )
    processor = ClipHFProcessor.from_pretrained(options.model)
    video_processor = ClipHFVideoProcessor.from_pretrained(options.model, num_frames=options.num_frames)
    return model, ClipHFProcessor(video_processor, processor.tokenizer)


def build_optimizer(model: ClipHFVideoModel, learning_rate: float, head_multiplier: float) -> torch.optim.Optimizer:
    """AdamW; the new head learns faster than the towers, which know most of what they need."""
    of_head = {id(parameter) for parameter in model.temporal_parameters()}
    head, towers = [], []
    for parameter in model.parameters():
        (head if id(parameter) in of_head else towers).append(parameter)
    groups = [{"params": towers, "lr": learning_rate}, {"params": head, "lr": learning_rate * head_multiplier}]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.2)


def train(options: argparse.Namespace) -> None:
    accelerator = Accelerator(cpu=options.cpu or not torch.accelerator.is_available())
    check_launch(accelerator)
    set_seed(options.seed)

    # Films and their texts. A film is opened when its turn comes, and only the frames of its clip are read.
    pair_options = PairOptions(caption_column=options.caption_column, num_frames=options.num_frames, seed=options.seed)
    with accelerator.main_process_first():
        data = load_pairs(options.dataset, options=pair_options)
    model, processor = build_model(options)

    # Batches of this process: pixel_values (clips, frames, 3, height, width). The frame of each segment is drawn at
    # random, so that every epoch sees other frames; the crop is the same for all frames of a clip.
    loader = PairLoader(
        data,
        processor,
        pair_options,
        batch_size=options.batch_size,
        num_steps=options.steps,
        num_workers=options.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )

    model.train()
    if options.freeze:
        accelerator.print(freeze(model, options.freeze))
    optimizer = build_optimizer(model, options.learning_rate, options.head_multiplier)
    schedule = cosine_schedule(optimizer, min(options.steps // 10, options.steps - 1), options.steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    clip = accelerator.unwrap_model(model)

    bar = tqdm(loader, total=options.steps, desc="train", unit="step", disable=not accelerator.is_main_process)
    for batch in bar:
        skipped = len(batch.pop("skipped"))  # films that cannot be used
        del batch["noticed"]
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        labels = batch.pop("text_ids")
        output = model(**batch, return_logits=False)
        # Several clips of a batch show the same action: all of them are positives of its text.
        loss = same_label_loss(
            output.image_embeds, output.text_embeds, clip.logit_scale.exp(), labels=labels, gather=True
        )
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        clamp_logit_scale_(clip)
        schedule.step()
        bar.set_postfix(loss=f"{accelerator.reduce(loss.detach(), 'mean').item():.3f}", skipped=skipped)

    if accelerator.is_main_process:
        clip.save_pretrained(options.output_dir)
        processor.save_pretrained(options.output_dir)
        print(f"The model is in {options.output_dir}.")
        show(options, data[options.caption_column])
    accelerator.wait_for_everyone()


def show(options: argparse.Namespace, texts: Sequence[str]) -> None:
    """Classify films of the part `test` zero-shot, by text; without such a part, films of the training."""
    held_out = "test" in split_names(options.dataset, media="videos")
    pair_options = PairOptions(caption_column=options.caption_column, media="videos")
    films = load_pairs(options.dataset, split="test" if held_out else None, options=pair_options)
    labels = sorted({str(text) for text in texts})
    classifier = pipeline(options.output_dir, task="zero-shot-video-classification")
    print(f"{'Held-out' if held_out else 'Training'} films among {len(labels)} texts:")
    for row in films.select(range(min(options.num_shown, len(films)))):
        best = classifier(row["video"]["path"], candidate_labels=labels, hypothesis_template="{}")[0]
        sign = "=" if best["label"] == row[options.caption_column] else "x"
        print(f"  {sign} {row[options.caption_column]}: {best['label']} ({best['score']:.0%})")


if __name__ == "__main__":
    with reported_failures(__file__):
        train(parse(sys.argv[1:]))
    PartialState().destroy_process_group()
