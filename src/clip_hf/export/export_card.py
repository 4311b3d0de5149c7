# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model card of an exported folder."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..utils.wording import markdown_table
from .exported_folder import TOWERS, tower_file
from .exported_model import ClipHFExportedConfig
from .parity_report import ParityReport
from .runtimes import RUNTIMES


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
{inputs}
images = onnxruntime.InferenceSession(f"{{folder}}/image_tower.onnx")
texts = onnxruntime.InferenceSession(f"{{folder}}/text_tower.onnx")
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
{inputs}
options = {options}
images = openvino.compile_model(f"{{folder}}/image_tower.xml", "CPU", options)
texts = openvino.compile_model(f"{{folder}}/text_tower.xml", "CPU", options)
image_embeds = images({{"pixel_values": pixel_values}})["image_embeds"]
text_embeds = texts({{"input_ids": input_ids}})["text_embeds"]
logits = {scale:.6g} * image_embeds @ text_embeds.T{bias}
```
""",
}
# Pixels and tokens without clip_hf: the processor's for opaque images of 8 bits and for plain texts.
_PREPARED = """\
from PIL import Image, ImageOps
from tokenizers import Tokenizer

folder = "path/to/this/folder"
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
tokenizer.enable_truncation({length})
tokenizer.enable_padding(pad_id={pad_id}{padding})
input_ids = np.array([text.ids for text in tokenizer.encode_batch(["a cat", "a dog"])], dtype=np.int64)

image = {opened}
{resized}
pixels = (np.asarray(image.convert("RGB"), dtype=np.float32) / 255 - {mean}) / {std}
pixel_values = pixels.transpose(2, 0, 1)[None].astype(np.float32)
"""
_OPENED = 'Image.open("cat.jpg")'
_UPRIGHT = f"ImageOps.exif_transpose({_OPENED})"
_CROPPED = """\
size = [int({edge} * side / min(image.size)) for side in image.size]
image = image.resize(size, Image.Resampling.{filter})
left, top = (round((side - {size}) / 2) for side in image.size)
image = image.crop((left, top, left + {size}, top + {size}))"""
_SQUASHED = "image = image.resize(({size}, {size}), Image.Resampling.{filter})"
_INPUTS = """
| file | name | shape | what |
|---|---|---|---|
| {image_tower} | in: `pixel_values` | (batch, 3, {size}, {size}), float32 | as `processor_config.json` says |
| | out: `image_embeds` | (batch, {width}), float32 | L2-normalised |
| | out: `pooled_features` | (batch, any), float32 | before the projection, not normalised |
| {text_tower} | in: `input_ids` | (batch, {text_length}), int64 | of the tokenizer, padded on the right |
| | out: `text_embeds` | (batch, {width}), float32 | L2-normalised |
"""


def write_export_card(
    folder: Path, config: ClipHFExportedConfig, processor: Any, record: dict[str, Any], report: ParityReport
) -> None:
    """Write the README.md of an exported folder."""
    (folder / "README.md").write_text(_card(config, processor, record, report), encoding="utf-8")


def _card(config: ClipHFExportedConfig, processor: Any, record: dict[str, Any], report: ParityReport) -> str:
    title = RUNTIMES[config.tower_format].title
    values = {
        "size": config.image_size,
        "inputs": _prepared(config, processor),
        "scale": 2.718281828459045**config.logit_scale,
        "bias": "" if config.logit_bias is None else f" + {config.logit_bias:.6g}",
        "width": config.projection_dim,
        "options": json.dumps(RUNTIMES[config.tower_format].options[config.precision]),
        "text_length": config.context_length if config.fixed_length else f"at most {config.context_length}",
    }
    values |= {tower: tower_file(tower, config.tower_format) for tower in TOWERS}
    speed = f"Speed is that of {report.threads} threads of {report.processor}, " if report.speed else ""
    speed += "which other programs may have slowed." if speed else ""
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


def _prepared(config: ClipHFExportedConfig, processor: Any) -> str:
    """Lines that prepare images and texts as the processor does."""
    images, tokenizer = processor.image_processor, processor.tokenizer
    edge = dict(images.size).get("shortest_edge")
    resized = (_SQUASHED if edge is None else _CROPPED).format(
        size=config.image_size, edge=edge, filter=Image.Resampling(images.resample).name
    )
    return _PREPARED.format(
        folder="{folder}",
        length=config.context_length,
        pad_id=tokenizer.pad_token_id or 0,
        padding=f", length={config.context_length}" if config.fixed_length else "",
        opened=_UPRIGHT if getattr(images, "apply_exif_orientation", False) else _OPENED,
        resized=resized,
        mean=list(images.image_mean),
        std=list(images.image_std),
    )
