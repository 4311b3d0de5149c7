# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Patch dropout: the time of a training step with half of the patches, and what accuracy loses and the tail gives back.

    python benchmarks/bench_patch_dropout.py                                # about 15 minutes on two cores
    python benchmarks/bench_patch_dropout.py --steps 2 --repeats 2    # a trial: two minutes

Times: both sides are one model of ViT-B/32's and ViT-B/16's image tower with a small text tower, and take steps in
turns. Accuracy: the demo's ViT (128 wide, 64 patches instead of its 16), trained from scratch on OpenMoji, zero-shot
top-1 on its test part with the Wilson interval, the mean over seeds.
"""

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
import yaml

from clip_hf import ClipHFConfig, ClipHFModel, contrastive_loss
from clip_hf.training import parse_options, train
from clip_hf.utils.intervals import wilson_interval


RECIPE = Path(__file__).resolve().parents[1] / "examples" / "recipes" / "demo.yaml"
TEXT = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 4}
TEXT |= {"vocab_size": 2048, "max_position_embeddings": 40, "bos_token_id": 2046, "eos_token_id": 2047}
RUNS = {
    "all patches": [],
    "half": ["--patch_dropout", "0.5"],
    "half, tail of 10%": ["--patch_dropout", "0.5", "--unmasked_share", "0.1"],
}


def time_steps(patch_size: int, batch_size: int, repeats: int) -> dict[float, float]:
    """Median seconds of a step (forward, loss, backward) without and with patch dropout of 0.5, taken in turns."""
    vision = {"model_type": "clip_hf_vit", "patch_size": patch_size}
    torch.manual_seed(0)
    model = ClipHFModel(ClipHFConfig(text_config=TEXT, vision_config=vision)).train()
    pixel_values = torch.randn(batch_size, 3, 224, 224)
    input_ids = torch.randint(0, 2045, (batch_size, 16))
    input_ids[:, -1] = 2047
    times: dict[float, list[float]] = {0.0: [], 0.5: []}
    for _ in range(1 + repeats):  # the first warms up
        for share, seconds in times.items():
            model.vision_model.patch_dropout = share
            model.zero_grad()
            started = time.perf_counter()
            output = model(pixel_values=pixel_values, input_ids=input_ids, return_logits=False)
            contrastive_loss(output.image_embeds, output.text_embeds, model.logit_scale.exp()).backward()
            seconds.append(time.perf_counter() - started)
    return {share: statistics.median(seconds[1:]) for share, seconds in times.items()}


def train_side(name: str, seed: int, steps: int, folder: Path) -> tuple[float, float]:
    """Zero-shot top-1 on the held-out pairs, 0 to 1, and the seconds that the training took."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["config"]["vision_config"]["patch_size"] = 8
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    arguments = [str(path), *RUNS[name], "--seed", str(seed), "--output_dir", str(folder / f"{name}-{seed}")]
    arguments += ["--save_every", "0", "--eval_every", "1000", "--max_steps", str(steps)]
    started = time.perf_counter()
    log = train(parse_options(arguments))
    evaluations = [entry["zero_shot_top1"] for entry in log if "zero_shot_top1" in entry]
    return evaluations[-1], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32, help="images of a timed step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each side (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="steps of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind (default: %(default)s)")
    parser.add_argument("--test_images", type=int, default=300, help="for the intervals (default: %(default)s)")
    options = parser.parse_args()
    print(f"{datetime.date.today()}, torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for patch_size in (32, 16):
        seconds = time_steps(patch_size, options.batch_size, options.repeats)
        ratio = seconds[0.0] / seconds[0.5]
        print(
            f"ViT-B/{patch_size}, {options.batch_size} pairs: {seconds[0.0]:.2f} s -> {seconds[0.5]:.2f} s a step",
            end="",
        )
        print(f", {ratio:.2f}x faster")
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            results = [train_side(name, seed, options.steps, Path(folder)) for seed in range(options.seeds)]
            accuracy = statistics.mean(top1 for top1, _ in results)
            low, high = wilson_interval(accuracy, options.test_images * options.seeds)
            minutes = statistics.mean(seconds for _, seconds in results) / 60
            shown = ", ".join(f"{top1:.1%}" for top1, _ in results)
            print(f"{name}: top-1 {accuracy:.1%} ({low:.1%} to {high:.1%}; {shown}), {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
