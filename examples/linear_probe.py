# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
A linear probe by the paper's protocol: how good are a model's image features for a linear classifier?

    python examples/linear_probe.py --model outputs/demo/vit/last

needs no network: it probes on scikit-learn's 1,797 handwritten digits. `--data` takes any labelled images with a train
and a test split: a folder `path/train/CLASS/*.jpg`, a saved dataset, a name of the registry, a name on the hub.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_hf.utils.extras import require_extra


require_extra("eval", "examples/linear_probe.py", "datasets", "sklearn")

from clip_hf.embedding import EncodingOptions
from clip_hf.evaluation import (
    ClassificationOptions,
    LinearProbeOptions,
    LinearProbeResult,
    evaluate_linear_probe,
    load_splits,
)
from clip_hf.utils.failures import reported_failures


def main(arguments: Sequence[str] | None = None) -> LinearProbeResult:
    """Encode, probe, print and save the figures; returns them."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, file or hub name of a CLIP")
    parser.add_argument("--data", default="digits", help="labelled images (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="use so many images of each split only")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/linear_probe"), help="folder for the results")
    arguments = parser.parse_args(arguments)

    data = load_splits(arguments.data, ClassificationOptions(limit=arguments.limit))
    # Features are kept, so that images are encoded once.
    encoding = EncodingOptions(cache_dir=arguments.output_dir / "features")
    result = evaluate_linear_probe(arguments.model, data, LinearProbeOptions(encoding=encoding))
    print(result.table())
    print(f"\n{result.details()}")
    for path in result.save(arguments.output_dir):
        print(path)
    return result


if __name__ == "__main__":
    with reported_failures(__file__):
        main()
