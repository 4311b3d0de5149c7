# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pixels optimised towards a text: does the picture come to show it, or does it only please the model that guided it?

One of the demo's two models (`make demo`) guides a small picture from grey towards the name of a drawing of OpenMoji;
the other one, which had no part in it, judges. Each text is painted three times: comparing the whole picture,
cut-outs, and augmented cut-outs. Measured while it is painted:

- the cosine of the whole picture with the text, for the guide;
- the same for the mean of 32 cut-outs that the painting has not seen (drawn from another seed);
- the same for the judge, and the place of the text among `--num_names` names (median; half of them is chance).

Of the real drawings of these names the same is given, as what can be reached. It takes about eight minutes on two idle
cores; `--quick` tries the parts in one.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from bench_image_processor import print_machine
from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.data.openmoji import drawing_captions, render_drawings
from clip_hf.guidance import ClipGuidance, CutOuts
from clip_hf.model.image_transform_clip_hf import composite
from clip_hf.utils.terminal_tables import draw_table


MODELS = ("vit", "resnet")
WAYS = {"whole": {"whole": True}, "cut-outs": {}, "augmented": {"augment": True}}


def guide_towards(model: ClipHFModel, processor: ClipHFProcessor, name: str, way: str, num: int) -> ClipGuidance:
    """The loss of a way towards a name."""
    options = dict(WAYS[way])
    if not options.get("whole"):
        options = {"cut_outs": CutOuts(model.config.vision_config.image_size, num, **options)}
    return ClipGuidance(model, processor, [name], **options)


@torch.no_grad()
def measure(picture: torch.Tensor, guidance: ClipGuidance, held_out: ClipGuidance, judge: ClipGuidance) -> dict:
    """The cosines of a picture (1, 3, height, width) now; the judge's targets are the name and then all others."""
    cosines = judge.cosines(picture)[0]
    parts = held_out.cut_outs(picture).flatten(0, 1)
    return {
        "guide": float(guidance.cosines(picture)),
        "held out": float(held_out.cosines(parts).mean()),
        "judge": float(cosines[0]),
        "place": 1 + int((cosines[1:] > cosines[0]).sum()),
    }


def paint(guidance: ClipGuidance, others: tuple, options: argparse.Namespace, seed: int) -> list[dict]:
    """Optimise the pixels of one picture; what is measured before, and after each tenth of the steps."""
    generator = torch.Generator().manual_seed(seed)
    logits = 0.1 * torch.randn(1, 3, options.size, options.size, generator=generator)
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=options.learning_rate)
    curve = [{"step": 0, **measure(logits.sigmoid(), guidance, *others)}]
    for step in range(1, options.steps + 1):
        optimizer.zero_grad()
        guidance(logits.sigmoid()).sum().backward()
        optimizer.step()
        if step % max(1, options.steps // 10) == 0:
            curve.append({"step": step, **measure(logits.sigmoid(), guidance, *others)})
    return curve


def run(options: argparse.Namespace) -> dict:
    """The curves of every guide, way and name, and the figures of the real drawings."""
    names = [name for name in drawing_captions() if name.isascii() and len(name) <= 24]
    names = np.random.default_rng(options.seed).permutation(names)[: options.num_names].tolist()
    chosen = names[: options.num_texts]
    drawings = [composite(drawing, (255, 255, 255)) for drawing in render_drawings(chosen, options.size).values()]
    real = [torch.from_numpy(np.array(drawing)).permute(2, 0, 1)[None] / 255 for drawing in drawings]
    loaded = {}
    for kind in MODELS:
        folder = options.models / kind / "last"
        loaded[kind] = ClipHFModel.from_pretrained(folder).eval(), ClipHFProcessor.from_pretrained(folder)
    results = {"names": chosen, "curves": {}, "real": {}}
    for kind, other in (MODELS, MODELS[::-1]):
        for i, name in enumerate(chosen):
            unseen = CutOuts(loaded[kind][0].config.vision_config.image_size, 32, seed=options.seed + 1000)
            held_out = ClipGuidance(*loaded[kind], [name], cut_outs=unseen)
            judge = ClipGuidance(*loaded[other], [name, *(each for each in names if each != name)], whole=True)
            for way in WAYS:
                guidance = guide_towards(*loaded[kind], name, way, options.num_cut_outs)
                started = time.perf_counter()
                curve = paint(guidance, (held_out, judge), options, options.seed + i)
                seconds = time.perf_counter() - started
                results["curves"].setdefault(f"{kind}, {way}", []).append(curve)
                print(f"{kind}, {way}, {name!r}: {curve[-1]} in {seconds:.0f} s", flush=True)
            results["real"].setdefault(kind, []).append(measure(real[i], guidance, held_out, judge))
    return results


def rows_of(results: dict) -> list[list[str]]:
    """Each guide and way at three points of the painting: means over the texts, of places the median."""
    rows = []
    for label, curves in results["curves"].items():
        for at in (0, len(curves[0]) // 2, -1):
            rows.append([f"{label}, step {curves[0][at]['step']}", *_figures([curve[at] for curve in curves])])
    return rows + [[f"real drawings, guide {kind}", *_figures(each)] for kind, each in results["real"].items()]


def _figures(measured: list[dict]) -> list[str]:
    means = [f"{np.mean([each[name] for each in measured]):.3f}" for name in ("guide", "held out", "judge")]
    return [*means, f"{np.median([each['place'] for each in measured]):.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("outputs/demo"), help="folder of `make demo`")
    parser.add_argument("--num_texts", type=int, default=6)
    parser.add_argument("--num_names", type=int, default=300, help="names that the judge ranks")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--num_cut_outs", type=int, default=16)
    parser.add_argument("--size", type=int, default=96, help="side of the picture")
    parser.add_argument("--learning_rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file of all curves")
    parser.add_argument("--quick", action="store_true", help="two texts, twenty steps: only whether it runs")
    options = parser.parse_args()
    if options.quick:
        options.num_texts, options.steps, options.num_names = 2, 20, 50
    print_machine()
    results = run(options)
    columns = ("", "guide's cosine", "held-out cut-outs", "judge's cosine", f"place of {options.num_names}")
    print(draw_table("Means over the texts, of places the median", columns, rows_of(results)))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
