# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Retrieval of texts by images and of images by texts, and the captions whose image is farthest down.

    python examples/evaluate_retrieval.py --model outputs/demo/vit/last

needs no network: it ranks OpenMoji's 300 held-out drawings and their names. `--data` takes any images with captions,
one or several each: files and folders that `load_pairs` takes, a name of the registry, a name on the hub.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_hf.utils.extras import require_extra


require_extra("eval", "examples/evaluate_retrieval.py", "datasets")

from clip_hf.embedding import EncodingOptions
from clip_hf.evaluation import (
    CaptionedDataOptions,
    RetrievalData,
    RetrievalOptions,
    RetrievalResult,
    evaluate_retrieval,
    load_retrieval,
)
from clip_hf.utils.failures import reported_failures


def print_worst(data: RetrievalData, result: RetrievalResult, count: int) -> None:
    """Print the captions whose image has the lowest rank; some of them do not say what the image shows."""
    captions = [caption for captions in data.captions for caption in captions]
    print("\nCaptions whose image is farthest down:")
    for row in np.argsort(-result.text_to_image_ranks, kind="stable")[:count]:
        print(f"  rank {result.text_to_image_ranks[row] + 1}: {captions[row]!r}, image {result.image_of_text[row]}")


def main(arguments: Sequence[str] | None = None) -> RetrievalResult:
    """Evaluate, print and save the figures; returns them."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, file or hub name of a CLIP")
    parser.add_argument("--data", default="openmoji", help="images with captions (default: %(default)s)")
    parser.add_argument("--split", help="part of the data (default: test)")
    parser.add_argument("--caption-column", help="column of the captions, texts or lists of them (default: caption)")
    parser.add_argument("--template", default="{}", help="what captions are put into, such as 'a photo of {}'")
    parser.add_argument("--limit", type=int, help="use so many images only")
    parser.add_argument("--worst", type=int, default=5, help="captions to print (default: %(default)s)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/retrieval"), help="folder for the results")
    arguments = parser.parse_args(arguments)

    # Features are kept, so that images that were encoded once are not encoded again for another template.
    encoding = EncodingOptions(cache_dir=arguments.output_dir / "features")
    options = RetrievalOptions(template=arguments.template, encoding=encoding)
    columns = CaptionedDataOptions(
        caption_column=arguments.caption_column, split=arguments.split, limit=arguments.limit
    )
    data = load_retrieval(arguments.data, columns)
    result = evaluate_retrieval(arguments.model, data, options)
    print(result.table())
    print(f"\n{result.details()}")
    print_worst(data, result, arguments.worst)
    for path in result.save(arguments.output_dir):
        print(path)
    return result


if __name__ == "__main__":
    with reported_failures(__file__):
        main()
