# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
A training step (forward, contrastive loss, backward, AdamW) of clip_hf, open_clip and transformers, in pairs a second.

All sides have the same weights, images and captions, each with the optimiser that its own training program sets up,
and take their steps in turns. Their gradients are compared first. Models: a ViT-B/32, and an RN50 of half the width
for images of 128 pixels with a text tower of half the width and depth. Captions: OpenMoji's in its templates, and
several of them in one sentence. open_clip always computes its whole context of 77 tokens; a second model of it is
given a context no longer than the longest caption of all. On CUDA the steps run once more under bfloat16 autocast, and
the share of the processor's peak that a side's own operations use (MFU) is printed.
"""

import argparse
import contextlib
import copy
import datetime
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

import references
from clip_hf import ClipHFModel, checkpoints
from clip_hf.checkpoints.openai_names import rename
from clip_hf.checkpoints.stored_tensor import StoredTensor
from clip_hf.data import OPENMOJI_TEMPLATES, load_openmoji
from clip_hf.training.optimizer import OptimizerOptions, build_optimizer


MODELS = {
    "ViT-B/32": {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"width": 512, "heads": 8, "layers": 12},
    },
    "small RN50": {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 128, "layers": [3, 4, 6, 3], "width": 32},
        "text_cfg": {"width": 256, "heads": 4, "layers": 6},
    },
}
CONTEXT = 77
LEARNING_RATE, WEIGHT_DECAY = 1e-5, 0.2
# Relative, of all gradients as one vector, in float64: a ResNet's BatchNorm magnifies what float32 rounds away.
LARGEST_DIFFERENCE = 1e-8
PAIRS_COMPARED = 4


def make_captions(names: list[str], kind: str, count: int) -> list[str]:
    """OpenMoji's captions as its templates have them, or sentences of three of them."""
    draw = random.Random(0)
    if kind == "OpenMoji":
        return [draw.choice(OPENMOJI_TEMPLATES).format(name) for name in draw.sample(names, count)]
    sentence = "A picture of {} next to {}, with {} far away in the background."
    return [sentence.format(*draw.sample(names, 3)) for _ in range(count)]


@dataclass
class Batch:
    """Images and captions as the sides want them; `padded` have 77 tokens, `cut` those of the longest caption."""

    pixel_values: torch.Tensor  # (batch, 3, size, size)
    texts: dict[str, torch.Tensor]  # padded to the longest of the batch
    padded: dict[str, torch.Tensor]
    cut: torch.Tensor

    def first(self, count: int) -> "Batch":
        """The first pairs, their images in float64."""
        tokens = [{name: value[:count] for name, value in ids.items()} for ids in (self.texts, self.padded)]
        return Batch(self.pixel_values[:count].double(), *tokens, self.cut[:count])

    def zero_padded(self, ids: torch.Tensor) -> torch.Tensor:
        """As open_clip's tokenizer pads: it pools where the highest id is."""
        mask = torch.zeros_like(ids)
        mask[:, : self.texts["attention_mask"].shape[1]] = self.texts["attention_mask"]
        return ids * mask


def make_batches(processor, images, captions: list[str], batch_size: int, device: str) -> list[Batch]:
    longest = processor.tokenizer(captions, padding=True, return_tensors="pt").input_ids.shape[1]
    batches = []
    for start in range(0, len(captions), batch_size):
        part = slice(start, start + batch_size)
        pixel_values = processor.image_processor(images[part], return_tensors="pt").pixel_values
        tokens = {
            length: processor.tokenizer(captions[part], return_tensors="pt", **options)
            for length, options in {
                0: {"padding": True},
                longest: {"padding": "max_length", "max_length": longest},
                CONTEXT: {"padding": "max_length", "max_length": CONTEXT},
            }.items()
        }
        texts, padded = tokens[0].to(device), tokens[CONTEXT].to(device)
        cut = tokens[longest].input_ids.to(device)
        batches.append(Batch(pixel_values.to(device), dict(texts), dict(padded), cut))
    return batches


@dataclass
class Side:
    """A library's model, its optimiser and its loss; sides that differ in padding only share the first two."""

    name: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def ratios(self, other: "Side") -> tuple[float, float]:
        """
        How much faster the other is, by the clock and by processor time.

        Medians over the rounds: within a round all sides were equally disturbed. Processor time is steadier where
        other programs want the cores, but with several threads it counts their waiting for each other.
        """
        return tuple(
            statistics.median(a / b for a, b in zip(mine, others, strict=True))
            for mine, others in ((self.seconds, other.seconds), (self.cpu_seconds, other.cpu_seconds))
        )

    def forward_backward(self, batch: Batch, autocast: bool = False) -> None:
        self.optimizer.zero_grad()
        context = torch.autocast("cuda", torch.bfloat16) if autocast else contextlib.nullcontext()
        with context:
            loss = self.loss(self.model, batch)
        loss.backward()

    def step(self, batch: Batch, autocast: bool = False) -> None:
        """Take a step and note its seconds."""
        cuda = batch.pixel_values.is_cuda
        torch.cuda.synchronize() if cuda else None
        start, cpu_start = time.perf_counter(), time.process_time()
        self.forward_backward(batch, autocast)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        torch.cuda.synchronize() if cuda else None
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu_start)


def open_clip_optimizer(model: torch.nn.Module, resnet: bool) -> torch.optim.AdamW:
    """AdamW with the groups and values of open_clip's training program."""
    no_decay, decay = [], []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        (no_decay if plain else decay).append(parameter)
    groups = [{"params": no_decay, "weight_decay": 0.0}, {"params": decay, "weight_decay": WEIGHT_DECAY}]
    betas, eps = ((0.9, 0.999), 1e-8) if resnet else ((0.9, 0.98), 1e-6)
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=betas, eps=eps)


def make_open_clip(model_cfg: dict, weights: dict[str, torch.Tensor] | None, context: int) -> torch.nn.Module:
    """open_clip's model; its BatchNorm has random gains, for at 1 and 0 a fresh ResNet's blocks do nothing."""
    model_cfg = copy.deepcopy(model_cfg)
    model_cfg["text_cfg"]["context_length"] = context
    model = references.load_open_clip().CLIP(**model_cfg, output_dict=True)
    if weights is not None:
        weights = {**weights, "positional_embedding": weights["positional_embedding"][:context]}
        model.load_state_dict(weights)
        return model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.train()


def make_models(model_cfg: dict, folder: Path):
    """open_clip's model, ours and, for a ViT, transformers', of the same weights; and our processor."""
    torch.manual_seed(0)
    theirs = make_open_clip(model_cfg, None, CONTEXT)
    torch.save({"state_dict": theirs.state_dict()}, folder / "theirs.pt")
    (folder / "theirs.json").write_text(json.dumps(model_cfg))
    ours, processor = checkpoints.load(folder / "theirs.pt", config=folder / "theirs.json", preprocess="openai")
    stock = None
    if "patch_size" in model_cfg["vision_cfg"]:
        checkpoints.save(ours, processor, folder / "stock", format="transformers")
        stock = CLIPModel.from_pretrained(folder / "stock", attn_implementation="sdpa").train()
    return ours.train(), theirs, stock, processor


def make_sides(model_cfg: dict, ours: ClipHFModel, theirs: torch.nn.Module, stock: CLIPModel | None, context: int):
    """Ours first. Models are on the CPU or the GPU already."""
    resnet = ours.config.vision_config.model_type == "clip_hf_resnet"
    clip_loss = references.load_open_clip().ClipLoss()

    def our_loss(model, batch):
        return model(pixel_values=batch.pixel_values, **batch.texts, return_loss=True, return_logits=False).loss

    def open_clip_loss(ids):
        def loss(model, batch):
            output = model(batch.pixel_values, batch.zero_padded(ids(batch)))
            return clip_loss(output["image_features"], output["text_features"], output["logit_scale"])

        return loss

    def all_77(batch):
        return batch.padded["input_ids"]

    options = OptimizerOptions(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    cut = make_open_clip(model_cfg, theirs.state_dict(), context).to(ours.device)
    sides = [
        Side("clip_hf", ours, build_optimizer(ours, options), our_loss),
        Side("open_clip", theirs, open_clip_optimizer(theirs, resnet), open_clip_loss(all_77)),
        Side(f"open_clip, context {context}", cut, open_clip_optimizer(cut, resnet), open_clip_loss(lambda b: b.cut)),
    ]
    if stock is not None:
        # What transformers' Trainer makes unless told otherwise: fused.
        decay = [parameter for parameter in stock.parameters() if parameter.ndim > 1]
        plain = [parameter for parameter in stock.parameters() if parameter.ndim < 2]
        groups = [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)
        for name, texts in (("77", lambda b: b.padded), ("longest", lambda b: b.texts)):

            def loss(model, batch, texts=texts):
                return model(pixel_values=batch.pixel_values, **texts(batch), return_loss=True).loss

            sides.append(Side(f"transformers, padding {name}", stock, optimizer, loss))
    return sides


def gradients(side: Side, ours: ClipHFModel) -> torch.Tensor:
    """All gradients of a side under our names and in our order, as one vector."""
    found = {name: parameter.grad.cpu() for name, parameter in side.model.named_parameters()}
    if side.name.startswith("open_clip"):
        # A gradient is renamed and split as its weight is, through the library's own table.
        weights = {**{name: value.cpu() for name, value in side.model.state_dict().items()}, **found}
        positions = weights["positional_embedding"]
        weights["positional_embedding"] = torch.nn.functional.pad(positions, (0, 0, 0, CONTEXT - len(positions)))
        renamed, _ = rename({k: StoredTensor.of(v) for k, v in weights.items()}, ours.config, side.name)
        found = {name: tensor.read() for name, tensor in renamed.items()}
    return torch.cat([found[name].flatten().double() for name, _ in ours.named_parameters()])


def check_gradients(sides: list[Side], batch: Batch) -> None:
    """Print each side's relative difference from the first's gradients; an error if one is large."""
    expected, batch = None, batch.first(PAIRS_COMPARED)
    for side in sides:
        side.model.double()
        side.forward_backward(batch)
        found = gradients(side, sides[0].model)
        expected = found if expected is None else expected
        difference = ((found - expected).norm() / expected.norm()).item()
        side.optimizer.zero_grad()
        side.model.float()
        print(f"  gradients of {side.name}: relative difference {difference:.1e}", flush=True)
        assert difference <= LARGEST_DIFFERENCE, f"{side.name} computes something else"


def report(sides: list[Side], batch_size: int, flops: dict[str, int] | None, peak: float) -> None:
    """Print medians, ratios and, with `flops` of each side's step, the share of the `peak`."""
    print(f"| {'':28} | s a step | pairs/s | CPU s | clip_hf is faster | in CPU s |" + (" MFU |" if flops else ""))
    for side in sides:
        seconds, cpu_seconds = statistics.median(side.seconds), statistics.median(side.cpu_seconds)
        ratio, cpu_ratio = side.ratios(sides[0])
        row = f"| {side.name:28} | {seconds:8.2f} | {batch_size / seconds:7.1f} | {cpu_seconds:5.2f} |"
        row += f" {ratio:16.2f}x | {cpu_ratio:7.2f}x |"
        print(row + (f" {flops[side.name] / seconds / peak:4.0%} |" if flops else ""), flush=True)
    best = min(sides[1:], key=lambda side: statistics.median(side.seconds))
    ratio, cpu_ratio = best.ratios(sides[0])
    print(f"  against the best other, {best.name}: {ratio:.2f}x, in CPU seconds {cpu_ratio:.2f}x", flush=True)


def run(name: str, kind: str, dataset, args: argparse.Namespace) -> None:
    model_cfg = copy.deepcopy(MODELS[name])
    model_cfg["quick_gelu"] = not args.gelu
    count = args.batch_size * min(args.repetitions, 4)
    captions = make_captions(dataset["caption"], kind, count)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, stock, processor = make_models(model_cfg, Path(folder))
    for model in filter(None, (ours, theirs, stock)):
        model.to(args.device)
    batches = make_batches(processor, dataset["image"][:count], captions, args.batch_size, args.device)
    lengths = sum(batch.texts["attention_mask"].sum().item() for batch in batches) / count
    context = batches[0].cut.shape[1]
    print(f"\n{name}, {kind} captions: {lengths:.1f} tokens on average, at most {context}; {args.batch_size} pairs")
    sides = make_sides(model_cfg, ours, theirs, stock, context)
    check_gradients(sides, batches[0])
    for autocast in (False, True) if args.device == "cuda" else (False,):
        flops = {} if autocast else None
        for side in sides:
            side.step(batches[0], autocast)  # warm up
            side.seconds.clear()
            side.cpu_seconds.clear()
            if autocast:
                with FlopCounterMode(display=False) as counter:
                    side.forward_backward(batches[0], autocast)
                flops[side.name] = counter.get_total_flops()
        for repetition in range(args.repetitions):
            for side in sides[repetition % len(sides) :] + sides[: repetition % len(sides)]:
                side.step(batches[repetition % len(batches)], autocast)
        print("bfloat16 autocast" if autocast else "float32")
        report(sides, args.batch_size, flops, args.peak_tflops * 1e12)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--captions", nargs="+", default=["OpenMoji", "long"], choices=["OpenMoji", "long"])
    parser.add_argument("--batch-size", type=int, default=16, help="pairs of a step")
    parser.add_argument("--repetitions", type=int, default=7, help="timed steps of each side")
    parser.add_argument("--gelu", action="store_true", help="GELU, as open_clip's own models, not QuickGELU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU in bfloat16; default: an H100's")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    open_clip = references.load_open_clip()
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {device}")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, open_clip {open_clip.__version__}"
    print(f"python {platform.python_version()}, {versions}")
    dataset = load_openmoji(image_size=72)["train"]
    for name in args.models:
        for kind in args.captions:
            run(name, kind, dataset, args)


if __name__ == "__main__":
    main()
