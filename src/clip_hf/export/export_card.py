# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model card of an exported folder."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..model.image_processing_clip_hf import opens_files
from ..model.image_transform_clip_hf import parse_color
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
# Pixels and tokens without clip_hf; `_limits` says for which images and texts they are those of the processor.
_TOKENS = """\
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
tokenizer.enable_truncation({length})
tokenizer.enable_padding(pad_id={pad_id}{padding})
input_ids = np.array([text.ids for text in tokenizer.encode_batch(["a cat", "a dog"])], dtype=np.int64)
"""
_PIXELS = """\
image = {opened}
{composed}size = {resized}
image = image.resize(size, Image.Resampling.{filter})
{cropped}pixels = (np.asarray(image.convert("RGB"), dtype=np.float32) / 255 - {mean}) / {std}
pixel_values = pixels.transpose(2, 0, 1)[None].astype(np.float32)
"""
_OTHER_TOKENS = "input_ids = ...  # (texts, length), int64, of the tokenizer in the folder\n"
_OTHER_PIXELS = "pixel_values = ...  # (images, 3, {size}, {size}), float32, as `processor_config.json` says\n"
_OPENED = 'Image.open("cat.jpg")'
_UPRIGHT = f"ImageOps.exif_transpose({_OPENED})"
_COMPOSED = """\
if image.has_transparency_data:
    background = Image.new("RGBA", image.size, {color})
    image = Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
"""
_BY_EDGE = "[int({edge} * side / min(image.size)) for side in image.size]"
_CROPPED = """\
left, top = ({rounded} for side, crop in zip(image.size, ({width}, {height})))
image = image.crop((left, top, left + {width}, top + {height}))
"""
_INPUTS = """
| file | name | shape | what |
|---|---|---|---|
| {image_tower} | in: `pixel_values` | (batch, 3, {size}, {size}), float32 | as `processor_config.json` says |
| | out: `image_embeds` | (batch, {width}), float32 | L2-normalised |
| | out: `pooled_features` | (batch, {pooled_width}), float32 | {pooled} |
| {text_tower} | in: `input_ids` | (batch, {text_length}), int64 | of the tokenizer, padded on the right |
| | out: `text_embeds` | (batch, {width}), float32 | L2-normalised |
"""


def write_export_card(
    folder: Path, config: ClipHFExportedConfig, processor: Any, record: dict[str, Any], report: ParityReport
) -> None:
    """Write the README.md of an exported folder."""
    (folder / "README.md").write_text(_card(folder, config, processor, record, report), encoding="utf-8")


def _card(
    folder: Path, config: ClipHFExportedConfig, processor: Any, record: dict[str, Any], report: ParityReport
) -> str:
    title = RUNTIMES[config.tower_format].title
    values = {
        "size": config.image_size,
        "inputs": _prepared(folder, config, processor),
        "scale": 2.718281828459045**config.logit_scale,
        "bias": "" if config.logit_bias is None else f" + {config.logit_bias:.6g}",
        "width": config.projection_dim,
        "pooled_width": record["pooled_dim"],
        "pooled": "before the projection, not normalised" if config.has_projection else "before the normalisation",
        "options": json.dumps(RUNTIMES[config.tower_format].options[config.precision]),
        "text_length": config.context_length if config.fixed_length else f"at most {config.context_length}",
    }
    values |= {tower: tower_file(tower, config.tower_format) for tower in TOWERS}
    is_timed = any(each.exported_per_second for each in report.speed)
    speed = f"Speed is that of {report.threads} threads of {report.processor}, " if is_timed else ""
    speed += "which other programs may have slowed." if speed else ""
    calibration = record["calibration"]
    calibrated = "" if calibration is None else "Calibrated on {images:,} {data}.".format(**calibration)
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join(
        [
            _HEADER.format(runtime=config.tower_format, title=title, precision=config.precision),
            _ALONE[config.tower_format].format(**values).strip(),
            "",
            _limits(processor),
            _INPUTS.format(**values),
            "## Against PyTorch in float32",
            "",
            markdown_table(("", "images", "texts"), report.rows()),
            "",
            " ".join(filter(None, [f"Compared on {report.data}.", calibrated, speed, *report.notes()])),
            "",
            f"Made with {versions}.",
            "",
        ]
    )


def _prepared(folder: Path, config: ClipHFExportedConfig, processor: Any) -> str:
    """Lines that prepare images and texts as the processor does."""
    tokenizer, has_tokens = processor.tokenizer, (folder / "tokenizer.json").is_file()
    tokens = _OTHER_TOKENS
    if has_tokens:
        tokens = _TOKENS.format(
            folder="{folder}",
            length=config.context_length,
            pad_id=tokenizer.pad_token_id or 0,
            padding=f", length={config.context_length}" if config.fixed_length else "",
        )
    pixels = _pixels(processor.image_processor) or _OTHER_PIXELS.format(size=config.image_size)
    imports = {"from PIL import Image, ImageOps": "Image." in pixels, "from tokenizers import Tokenizer": has_tokens}
    return "\n".join(
        [*(line for line, needed in imports.items() if needed), "", 'folder = "path/to/this/folder"', tokens, pixels]
    )


def _pixels(images: Any) -> str | None:
    """Lines that prepare an image; None for an image processor with other steps than the usual ones."""
    size, crop = ({name: edge for name, edge in dict(rule or {}).items() if edge} for rule in _sizes(images))
    does_all = all(getattr(images, step, False) for step in ("do_resize", "do_rescale", "do_normalize"))
    if not does_all or abs(255 * images.rescale_factor - 1) > 1e-6:
        return None
    if size.keys() == {"shortest_edge"}:
        resized = _BY_EDGE.format(edge=size["shortest_edge"])
    elif size.keys() == {"height", "width"}:
        resized = f"({size['width']}, {size['height']})"
    else:
        return None
    color = getattr(images, "background_color", None)
    rounded = "round((side - crop) / 2)" if opens_files(images) else "(side - crop) // 2"
    return _PIXELS.format(
        opened=_UPRIGHT if getattr(images, "apply_exif_orientation", True) else _OPENED,
        composed="" if color is None else _COMPOSED.format(color=(*parse_color(color), 255)),
        resized=resized,
        filter=Image.Resampling(images.resample).name,
        cropped=_CROPPED.format(**crop, rounded=rounded) if crop else "",
        mean=list(images.image_mean),
        std=list(images.image_std),
    )


def _sizes(images: Any) -> tuple[Any, Any]:
    return images.size, images.crop_size if getattr(images, "do_center_crop", False) else None


def _limits(processor: Any) -> str:
    """What those lines leave out."""
    is_ours = opens_files(processor.image_processor)
    parts = [
        "These lines check nothing.",
        "Their pixels are those of the processor for images of 8 bits a channel; images of 16 bits, which the "
        "processor refuses or scales, are clipped to white."
        if is_ours
        else "Their pixels are close to those of the processor for opaque images of 8 bits a channel.",
    ]
    if getattr(processor.tokenizer, "clean_text", False):
        parts.append("They do not clean texts, which the tokenizer of clip_hf does first (ftfy, HTML entities).")
    return " ".join(parts)
