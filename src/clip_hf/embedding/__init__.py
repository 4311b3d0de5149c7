# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embeddings of images and texts from any CLIP: one at a time, in bulk, and kept on disk."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.embedding", "accelerate", "datasets", "filelock", "fsspec", "pyarrow")

from ..data.row_shards import RowColumns
from .bulk_encoding import ReadableImages, encode_image_column, encode_readable_images, encode_text_list
from .dual_encoder import DualEncoder
from .embedding_job import EmbeddingJob, embed
from .encoding_ahead import FeatureBatch
from .encoding_options import EncodingOptions
from .feature_stream import encode_image_stream, encode_text_stream
from .job_options import EmbeddingOptions
from .job_progress import JobTiming
from .job_summary import EmbeddingSummary
from .load_encoder import load_dual_encoder
from .part_files import EmbeddedPart, EmbeddingFolder, read_embeddings
from .video_encoder import VideoEncoder


__all__ = [
    "DualEncoder",
    "EmbeddedPart",
    "EmbeddingFolder",
    "EmbeddingJob",
    "EmbeddingOptions",
    "EmbeddingSummary",
    "EncodingOptions",
    "FeatureBatch",
    "JobTiming",
    "ReadableImages",
    "RowColumns",
    "VideoEncoder",
    "embed",
    "encode_image_column",
    "encode_image_stream",
    "encode_readable_images",
    "encode_text_list",
    "encode_text_stream",
    "load_dual_encoder",
    "read_embeddings",
]
