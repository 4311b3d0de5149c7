# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf adapt`."""

import argparse

from .evaluate import add_image_arguments, add_skip_argument


# By method: what it does, in a few words.
METHODS = {
    "lora": "low-rank changes of both towers, merged at the end (CLIP-LoRA); with captions too",
    "flyp": "all weights, by the contrastive loss on images and prompts of their classes (FLYP); with captions too",
    "full": "all weights, by the cross-entropy over the prompts of all classes; with captions as flyp",
    "probe": "a linear classifier on frozen features, which does not know the texts",
    "text_linear": "the same, held near the text classifier",
    "tip": "a cache of the examples beside the text classifier, nothing trained (Tip-Adapter)",
    "tip_f": "the same, and the cache's keys are trained (Tip-Adapter-F)",
    "clap": "class prototypes that start at the texts and are pulled back to them (CLAP)",
}
TOWER_METHODS = ("lora", "flyp", "full")
DEFAULT_RETAIN = "openmoji"
_EPILOG = """\
examples:
  clip-hf adapt openai/clip-vit-base-patch32 my_photos --shots 16 --seeds 3
  clip-hf adapt my_model my_photos --method clap --templates "a photo of a {}, a type of shoe."
  clip-hf adapt my_model digits --method full --wise 1 --retain cifar10
  clip-hf adapt my_model "pairs/*.parquet" --method flyp --caption-column caption --retain none
  clip-hf adapt outputs/demo/vit/last openmoji_skin_tones --method probe --shots 16    offline
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `clip-hf adapt` to its parser."""
    parser.description = (
        "Adapt a CLIP to labelled images or to captioned pictures, and say what was gained on the task and lost on\n"
        "what the model could do before. Steps and learning rate follow from the data; choices are made on\n"
        "validation rows only. Methods:\n" + "".join(f"\n  {name:12} {text}" for name, text in METHODS.items())
    )
    parser.epilog = _EPILOG
    parser.add_argument("model", help="folder or hub name of a CLIP of ours or of transformers")
    parser.add_argument(
        "data",
        help="labelled images: registry name, NAME=PATH, class folders, table, files, hub name; or captioned pictures",
    )
    parser.add_argument(
        "--method", choices=tuple(METHODS), default="lora", metavar="METHOD", help="see above (default: %(default)s)"
    )
    parser.add_argument("-o", "--output-dir", help="folder for model and report (default: adapted/MODEL-DATA-METHOD)")
    parser.add_argument("--overwrite", action="store_true", help="replace the adaptation that is in the output folder")
    shots = parser.add_argument_group("few shots")
    shots.add_argument("--shots", type=int, metavar="K", help="examples of each class (default: all training rows)")
    shots.add_argument("--seeds", type=int, default=1, metavar="N", help="draws, each with a training of its own")
    shots.add_argument("--seed", type=int, default=0, help="the first draw's seed (default: %(default)s)")
    shots.add_argument(
        "--retain",
        default=DEFAULT_RETAIN,
        metavar="DATA",
        help="what the model could do before, to measure again: labelled or captioned pictures, or none "
        "(default: %(default)s, its names)",
    )
    data = parser.add_argument_group("data", "instead of what the registry or the data say")
    data.add_argument("--image-column", help="column of the images")
    data.add_argument("--label-column", help="column of the classes")
    data.add_argument("--caption-column", help="column of the captions: adapt to captions, not to classes")
    data.add_argument("--class-names", help="file .txt or .json with the classes' names, or clip_benchmark:KEY")
    data.add_argument("--templates", nargs="+", help="prompt set, file, clip_benchmark:KEY, or templates with {}")
    data.add_argument("--image-root", metavar="FOLDER", help="folder that paths in tables may lead to (/: any)")
    how = parser.add_argument_group("training of the towers", "lora, flyp and full; sized to the data by default")
    how.add_argument("--steps", type=int, help="number of updates")
    how.add_argument("--learning-rate", type=float, help="highest learning rate")
    how.add_argument("--batch-size", type=int, help="images of an update")
    how.add_argument("--crop-scale", type=float, nargs="+", metavar="SHARE", help="random crops, such as 0.3 1")
    how.add_argument("--horizontal-flip", type=float, metavar="P", help="probability of a flip (default: 0)")
    how.add_argument(
        "--wise",
        metavar="ALPHA",
        help="share of the way from the old weights to the new (WiSE-FT), 0 to 1; none or 1: the trained model; auto: "
        "the smallest that is about as good as the best on validation rows (default: auto; 1 without such rows)",
    )
    add_skip_argument(add_image_arguments(parser))
    work = parser.add_argument_group("work")
    work.add_argument("--encode-batch-size", type=int, default=64, help="images that are embedded at once")
    work.add_argument("--device", help="such as cuda or cpu (default: an accelerator, if there is one)")
    work.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
