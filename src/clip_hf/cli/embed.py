# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf embed`: any number of images and captions into a folder."""

import argparse
import re
import sys
from contextlib import nullcontext

from transformers.utils import logging

from ..data.media import IMAGES, VIDEOS, Media, find_media
from ..embedding import (
    EmbeddingJob,
    EmbeddingOptions,
    EmbeddingSummary,
    EncodingOptions,
    RowColumns,
    ray,
)
from ..embedding.embedding_job import load_job_encoder
from ..embedding.job_manifest import find_folder
from ..embedding.job_summary import first_bad_rows, refused_hint
from ..embedding.load_encoder import check_encoder_options
from ..training.distillation import store_for_training
from ..training.options import build_options
from ..utils.processes import start_processes
from ..utils.processor import count_threads
from ..utils.wording import counted
from .classify import image_paths
from .film_options import clip_sampling
from .image_options import image_options


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; returns the exit status."""
    logging.disable_progress_bar()
    if getattr(options, "for_training", False):
        return _store_for_training(options)
    wanted, device = embedding_options(options), options.device
    if options.ray is None:
        device = check_encoder_options(options.runtime, options.dtype, device)
    loading = {"runtime": options.runtime, "dtype": options.dtype, "device": device}
    loading["clip"] = clip_sampling(options.model, options)
    if options.ray is None and (options.ray_cpus, options.ray_gpus) != (None, None):
        raise ValueError("--ray-cpus and --ray-gpus are for workers on Ray: say how many with --ray.")
    if options.ray is not None:
        media = IMAGES if loading["clip"] is None else VIDEOS
        source = _paths_on_stdin(True, media) if options.source == "-" else options.source
        summary = ray.embed(
            options.model,
            source,
            options.destination,
            num_workers=options.ray,
            num_cpus=1 if options.ray_cpus is None else options.ray_cpus,
            num_gpus=options.ray_gpus or 0,
            options=wanted,
            encoding=_encoding_options(options, None),
            image_options=image_options(options),
            **loading,
        )
        print(describe(summary, options.destination))
        return 0
    with start_processes(options.device) as accelerator:
        loading["device"] = accelerator.device if accelerator is not None and device is None else device
        encoding = _encoding_options(options, accelerator)
        # The first process writes manifest and list of paths, or fails, before the others look.
        with accelerator.main_process_first() if accelerator is not None else nullcontext():
            encoder = load_job_encoder(options.model, options.destination, **loading)
            encoder.set_image_options(**image_options(options))
            source = options.source
            if source == "-":
                source = _paths_on_stdin(encoding.process == 0, find_media(encoder.media))
            job = EmbeddingJob(encoder, source, options.destination, wanted, encoding)
        if accelerator is not None:
            accelerator.wait_for_everyone()  # all know which parts to embed again before the first one is
        summary = job.run()
        if encoding.process == 0:
            print(describe(summary, options.destination))
    return 0


def _store_for_training(options: argparse.Namespace) -> int:
    """Compute the teachers' features of a training."""
    training = build_options(options)
    with start_processes("cpu" if training.cpu else None) as accelerator:
        report = store_for_training(training, options.draws, options.file_dtype, accelerator)
        if accelerator is None or accelerator.is_main_process:
            print(report)
    return 0


def embedding_options(options: argparse.Namespace) -> EmbeddingOptions:
    """Turn the arguments into options of a job."""
    modalities = {(True, False): "images", (False, True): "texts", (True, True): "both"}
    return EmbeddingOptions(
        modalities=modalities.get((options.images, options.texts)),
        file_format=options.file_format,
        dtype=options.file_dtype,
        rows_per_part=options.rows_per_part,
        columns=RowColumns(options.image_column, options.caption_column, options.image_root, options.split),
        shard=_parse_shard(options.shard),
        retry_bad=options.retry_bad,
    )


def _encoding_options(options: argparse.Namespace, accelerator) -> EncodingOptions:
    threads = {} if options.num_threads is None else {"num_threads": options.num_threads}
    if options.ray is not None and options.num_threads is None:
        threads = {"num_threads": count_threads(options.ray_cpus or 1)}
    return EncodingOptions(
        batch_size=options.batch_size, accelerator=accelerator, max_skipped_share=options.max_skipped_share, **threads
    )


def _parse_shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ValueError(f"--shard is {text!r}; it must be I/N with I from 0 to N-1, such as 0/4.")
    return int(match[1]), int(match[2])


def _paths_on_stdin(is_read: bool, media: Media) -> list[str]:
    """The paths on standard input, for folders those of `media` in them; none for a process that takes what the first
    one wrote.
    """
    if not is_read:
        return []
    if sys.stdin is None:
        raise ValueError("Standard input is closed, so no paths can be read from it.")
    return [path for path in image_paths(["-"], media) if path is not None]


def describe(summary: EmbeddingSummary, destination: str) -> str:
    """What there is now, in a few lines."""
    texts = f" with {counted(summary.texts, 'caption')}" if summary.texts else ""
    lines = [f"{counted(summary.rows, 'row')}{texts} in {counted(summary.parts, 'part')} of {destination}."]
    if summary.bad:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.bad.items())
        lines.append(f"Left out: {kinds}; {destination}/bad lists them.{refused_hint(summary)}")
        lines += (f"  {line}" for line in first_bad_rows(find_folder(destination)))
    if not summary.is_complete:
        lines.append(f"{counted(summary.missing, 'part')} of other shares are missing; this share is done.")
    if summary.timing is not None:
        lines.append(f"{summary.timing}.")
    return "\n".join(lines)
