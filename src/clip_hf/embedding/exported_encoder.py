# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exported towers behind our interface: run by ONNX Runtime or OpenVINO instead of PyTorch."""

from collections.abc import Iterator
from typing import Any

import torch

from ..export.exported_model import ClipHFExportedModel
from ..export.runtimes import RUNTIMES
from ..utils.fingerprints import plain_config
from .transformers_encoder import ClipHFEncoder, TransformersEncoder


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class ExportedEncoder(ClipHFEncoder):
    """A [`ClipHFExportedModel`].

    - Its name ends with runtime and precision, as in `"my_model (openvino, bfloat16)"`, so that results say what they
      were computed with.
    - Its fingerprint is that of the towers' files, the runtime with its version, and the precision: features in a
      cache are never those of PyTorch or of another precision.
    - ONNX Runtime's int8 products have one range for a whole batch, so features depend on it (`depends_on_batch`).
    - Texts are padded to the longest of their batch, or, if features depend on the padding (SigLIP), to full length.
    """

    def __init__(self, model: ClipHFExportedModel, processor: Any, name: str):
        super().__init__(model, processor, name)
        self.runtime = model.runtime
        self.depends_on_batch = (model.runtime, model.precision) == ("onnx", "int8")
        self.packages = (*self.packages, RUNTIMES[model.runtime].module)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the runtime computes products in."""
        return _DTYPES[self.model.precision]

    def _described_model(self) -> list:
        digests = {name: file["sha256"] for name, file in self.model.record["files"].items()}
        return [self.model.runtime, self.model.precision, plain_config(self.model.config), digests]

    def _digested_weights(self) -> bytes:
        return b""  # their files' digests are described

    @property
    def depends_on_padding(self) -> bool:
        """Whether a text's features change with padding on the right."""
        return self.model.config.fixed_length

    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        if projected:
            return self.model.encode_image(inputs["pixel_values"])
        return self.model.pooled_image_features(inputs["pixel_values"])

    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        if self.depends_on_padding:
            return TransformersEncoder._text_batches(self, texts)
        return super()._text_batches(texts)
