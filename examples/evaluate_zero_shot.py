# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Zero-shot classification of a dataset, and what prompts add to it.

    python examples/evaluate_zero_shot.py --model outputs/demo/vit/last

needs no network: it classifies OpenMoji's held-out drawings. `--data` takes any labelled images: a folder with a
subfolder for each class, a saved dataset, a name of the registry, a name on the hub.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("eval", "examples/evaluate_zero_shot.py", "datasets")

from clip_hf.embedding import EncodingOptions
from clip_hf.evaluation import (
    ClassificationOptions,
    ZeroShotOptions,
    ZeroShotResult,
    evaluate_zero_shot,
    load_classification,
    load_templates,
)
from clip_hf.utils.failures import reported_failures


def main(arguments: Sequence[str] | None = None) -> ZeroShotResult:
    """Evaluate, print and save the figures; returns them."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, file or hub name of a CLIP")
    parser.add_argument("--data", default="openmoji", help="labelled images (default: %(default)s)")
    parser.add_argument("--templates", nargs="+", help="templates with {}, or a prompt set (default: the dataset's)")
    parser.add_argument("--limit", type=int, help="use so many images only")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/zero_shot"), help="folder for the results")
    arguments = parser.parse_args(arguments)

    templates = arguments.templates
    if templates is not None:
        templates = load_templates(templates[0] if len(templates) == 1 else templates)
    data = load_classification(arguments.data, ClassificationOptions(limit=arguments.limit))
    # Images that were encoded once are not encoded again for other prompts.
    encoding = EncodingOptions(cache_dir=arguments.output_dir / "features")
    result = evaluate_zero_shot(arguments.model, data, ZeroShotOptions(templates=templates, encoding=encoding))
    print(result.table())
    print(f"\n{result.details()}")
    for path in result.save(arguments.output_dir):
        print(path)
    return result


if __name__ == "__main__":
    with reported_failures(__file__):
        main()
