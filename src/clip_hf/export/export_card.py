# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model card of an exported folder."""

from pathlib import Path
from typing import Any

from ..utils.wording import markdown_table
from .exported_folder import TOWERS, tower_file
from .exported_model import ClipHFExportedConfig
from .parity_report import ParityReport


_HEADER = """\
---
library_name: clip_hf
pipeline_tag: zero-shot-image-classification
tags:
- clip
- {runtime}
---

# A CLIP for {title}, {precision}

Exported by clip_hf; licence and origin are those of the model that was exported. `export.json` has the versions and
the files' SHA-256.

## Use with clip_hf

```python
from clip_hf.embedding import load_dual_encoder

encoder = load_dual_encoder("path/to/this/folder")
features = encoder.encode_images(["photo.jpg"]) @ encoder.encode_texts(["a cat", "a dog"]).T
```
"""
_ALONE = {
    "onnx": """
## Use with ONNX Runtime alone

```python
import numpy as np
import onnxruntime

images = onnxruntime.InferenceSession("path/to/this/folder/image_tower.onnx")
texts = onnxruntime.InferenceSession("path/to/this/folder/text_tower.onnx")
pixel_values = np.zeros((1, 3, {size}, {size}), dtype=np.float32)
input_ids = np.zeros((2, {length}), dtype=np.int64)
(image_embeds,) = images.run(["image_embeds"], {{"pixel_values": pixel_values}})
(text_embeds,) = texts.run(["text_embeds"], {{"input_ids": input_ids}})
logits = {scale:.6g} * image_embeds @ text_embeds.T{bias}
```
""",
    "openvino": """
## Use with OpenVINO alone

```python
import numpy as np
import openvino

options = {{"INFERENCE_PRECISION_HINT": "{hint}"}}
images = openvino.compile_model("path/to/this/folder/image_tower.xml", "CPU", options)
texts = openvino.compile_model("path/to/this/folder/text_tower.xml", "CPU", options)
pixel_values = np.zeros((1, 3, {size}, {size}), dtype=np.float32)
input_ids = np.zeros((2, {length}), dtype=np.int64)
image_embeds = images({{"pixel_values": pixel_values}})["image_embeds"]
text_embeds = texts({{"input_ids": input_ids}})["text_embeds"]
logits = {scale:.6g} * image_embeds @ text_embeds.T{bias}
```
""",
}
_INPUTS = """
| file | name | shape | what |
|---|---|---|---|
| {image_tower} | in: `pixel_values` | (batch, 3, {size}, {size}), float32 | as `preprocessor_config.json` says |
| | out: `image_embeds` | (batch, {width}), float32 | L2-normalised |
| | out: `pooled_features` | (batch, any), float32 | before the projection, not normalised |
| {text_tower} | in: `input_ids` | (batch, {text_length}), int64 | of the tokenizer, padded on the right |
| | out: `text_embeds` | (batch, {width}), float32 | L2-normalised |
"""


def write_export_card(
    folder: Path, config: ClipHFExportedConfig, record: dict[str, Any], report: ParityReport
) -> None:
    """Write the README.md of an exported folder."""
    (folder / "README.md").write_text(_card(config, record, report), encoding="utf-8")


def _card(config: ClipHFExportedConfig, record: dict[str, Any], report: ParityReport) -> str:
    title = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[config.tower_format]
    values = {
        "size": config.image_size,
        "length": config.context_length,
        "scale": 2.718281828459045**config.logit_scale,
        "bias": "" if config.logit_bias is None else f" + {config.logit_bias:.6g}",
        "width": config.projection_dim,
        "hint": "bf16" if config.precision == "bfloat16" else "f32",
        "text_length": config.context_length if config.fixed_length else f"at most {config.context_length}",
    }
    values |= {tower: tower_file(tower, config.tower_format) for tower in TOWERS}
    speed = f"Speed is that of {report.threads} threads of {report.processor}." if report.speed else ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join(
        [
            _HEADER.format(runtime=config.tower_format, title=title, precision=config.precision),
            _ALONE[config.tower_format].format(**values).strip(),
            _INPUTS.format(**values),
            "## Against PyTorch in float32",
            "",
            markdown_table(("", "images", "texts"), report.rows()),
            "",
            " ".join([f"Compared on {report.data}.", speed, *report.notes()]).strip(),
            "",
            f"Made with {versions}.",
            "",
        ]
    )
