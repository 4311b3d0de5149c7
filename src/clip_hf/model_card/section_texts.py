# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Text of the sections of a model card that depend on the origin of the weights."""

import functools
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image

from ..model.architectures_clip_hf import ARCHITECTURES
from ..model.configuration_clip_hf import ClipHFConfig
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.prompts_clip_hf import PROMPT_SETS
from ..utils.wording import INTERVAL


TEMPLATE = Path(__file__).with_name("model_card_template.md.jinja")
HOME_FOLDER = "home folder"
"""What [`public_name`] calls somebody's home folder, whose own name is a person's."""
_HOMES = ("home", "users")
_URL_SCHEMES = ("http", "https", "hf")
# Owner and name, or a name alone; names of data have spaces, too.
_NAME = re.compile(r"\w[\w .,+()-]*(/\w[\w .,+()-]*)?")
_SIGN = r"[^\s()\[\]<>\"'`,]"
_PATH_IN_TEXT = re.compile(rf"{_SIGN}*[/\\]{_SIGN}*|{_SIGN}+@{_SIGN}+:{_SIGN}+")
# Signs of patterns, of Windows' drives, and of files: what holds one is no name on the hub.
_LOCAL = re.compile(r"[*?{\[]|^[A-Za-z]:|\\|\.(csv|tsv|jsonl?|parquet|arrow|tar(\.\w+)?|tgz|zip|pt|safetensors)$")
_LABEL_TEMPLATE = re.compile(r"[^{}]*\{\}[^{}]*")
NO_TRAINING = (
    "## Training\n\nNeither the source of the weights nor the settings of their training are recorded in this card."
)
_INTERVALS = "The intervals are for other images of the same kind, not for another training."
_NO_RESULTS = "## Evaluation\n\nNo results are recorded in this card."
_NO_LICENCE = (
    "## Licence\n\nThe licence of the weights is not recorded in this card; ask whoever published them before you use "
    "them."
)
_CODE_LICENCE = "The Python files saved with the model are clip_hf's, under Apache-2.0."


@functools.cache
def card_template() -> jinja2.Template:
    """The card without its facts; compiled once, because that takes as long as all else about a card."""
    return jinja2.Template(TEMPLATE.read_text(encoding="utf-8"))


def architecture_name(config: ClipHFConfig) -> str | None:
    """The published model with the same layers and widths, if there is one."""
    for name, sizes in ARCHITECTURES.items():
        pairs = [(config, {"projection_dim": sizes["projection_dim"]})]
        pairs += [(getattr(config, tower), sizes[tower]) for tower in ("text_config", "vision_config")]
        if all(getattr(part, key, None) == value for part, expected in pairs for key, value in expected.items()):
            return name
    return None


def class_names_of(config: ClipHFConfig) -> list[str] | None:
    """The classes of a classifier with a fixed set of them; None of a CLIP."""
    if not {"ClipHFForImageClassification", "ClipHFForVideoClassification"}.intersection(config.architectures or ()):
        return None
    return [name for _, name in sorted(config.id2label.items())]


def architecture_label(config: ClipHFConfig) -> str:
    """The image encoder in two words: a published model's name, or its kind."""
    vision = config.vision_config
    kind = "ResNet" if vision.model_type == "clip_hf_resnet" else f"ViT/{vision.patch_size}"
    return architecture_name(config) or kind


def public_name(name: str) -> str:
    """The name of a model or of data that can be shown in public.

    Folders of this machine help no reader, and may name a person; URLs may contain a password.

    - A name on the hub stays as it is, if there is no such path here.
    - A URL of `http`, `https` or `hf` loses its user, password, query, fragment and parameters.
    - Everything else is cut to the last part of its path: `"s3://bucket/a/pairs.tar"` becomes `"pairs.tar"`, and a
      home folder `"home folder"`.
    """
    name = name.strip()
    if _NAME.fullmatch(name) and not _LOCAL.search(name) and not os.path.exists(name):
        return name
    if name.startswith("pipe:"):
        return "pipe"  # a command, which may hold anything
    scheme, separator, rest = name.partition("://")
    if separator:
        rest = _without_secrets(rest)
        if scheme.lower() in _URL_SCHEMES:
            return f"{scheme.lower()}://{rest}"
    else:
        rest = re.sub(r"[?#;][^/?#;=]*=.*", "", name)  # a question mark without `=` belongs to a pattern
    parts = [part for part in rest.replace("\\", "/").split("/") if part] or [rest or scheme]
    if not separator and parts[-1] in (".", ".."):
        return public_name(os.path.abspath(os.path.expanduser(name)))
    # A training's folder names the model; last/ and best/ only say which save it is.
    if parts[-1] in ("last", "best") and (Path(name).parent / "recipe.yaml").exists():
        return public_name(str(Path(os.path.abspath(name)).parent))
    own_home = os.path.expanduser("~")
    if _is_home(parts) or (not separator and os.path.abspath(os.path.expanduser(name)) == own_home):
        return HOME_FOLDER
    # As in `jane@host:data`, `C:data` and `s3://key:secret@bucket`.
    return re.split(r"[:@](?!\s)", parts[-1])[-1] if separator or re.search(r":\S", parts[-1]) else parts[-1]


def _without_secrets(rest: str) -> str:
    """What follows the scheme of a URL without user, password, query, fragment and parameters."""
    host = re.split(r"[/?#;]", rest, maxsplit=1)[0]
    if "@" in host or ":" in host:  # a password may hold any sign
        rest = rest.rpartition("@")[2]
    return re.split(r"[?#;]", rest, maxsplit=1)[0]


def _is_home(parts: list[str]) -> bool:
    in_homes = len(parts) > 1 and parts[-2].lower() in _HOMES
    return in_homes or (len(parts) == 1 and parts[0].startswith("~"))


def without_paths(text: str) -> str:
    """A text with [`public_name`] for every path and URL in it."""
    return _PATH_IN_TEXT.sub(lambda match: public_name(match[0]), text)


def public_setting(value: Any) -> Any:
    """A setting with [`without_paths`] for every text in it."""
    if isinstance(value, dict):
        return {key: public_setting(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([public_setting(item) for item in value])
    return without_paths(value) if isinstance(value, str) else value


def public_result(result: EvalResult) -> EvalResult:
    """A result without paths of this machine."""
    names = {"dataset_type": public_name(result.dataset_type), "dataset_name": public_name(result.dataset_name)}
    others = ("dataset_config", "dataset_split", "dataset_args", "source_name", "source_url")
    names |= {name: public_setting(getattr(result, name)) for name in others}
    # YAML has no numpy scalars and no tensors of one element.
    value = result.metric_value
    return replace(result, **names, metric_value=value.item() if hasattr(value, "item") else value)


def training_section(source: str | None, base_model: str | None, datasets: list[str], training: dict) -> str:
    """Text on the origin of the weights; `NO_TRAINING` if it is unknown."""
    lines = []
    if source:
        lines.append(f"- Source of the weights: {one_line(source)}")
    if base_model:
        lines.append(f"- Made from `{one_line(base_model)}`")
    if datasets:
        lines.append(f"- Trained on {', '.join(f'`{one_line(name)}`' for name in datasets)}")
    if not lines and not training:
        return NO_TRAINING
    settings = "The settings of the training are not recorded in this card."
    if training:
        settings = _table(["Setting", "Value"], [[f"`{key}`", value] for key, value in training.items()])
    return "\n\n".join(filter(None, ["## Training", "\n".join(lines), settings]))


def evaluation_section(results: list[EvalResult] | None) -> str:
    """A table of results, with a column of intervals if one has an interval."""
    if not results:
        return _NO_RESULTS
    # In the order of the metadata, which hold them by task and dataset, so that the table is the same once read again.
    _, results = model_index_to_eval_results(eval_results_to_model_index("", results))
    rows = [
        [
            f"{result.dataset_name} ({result.dataset_config})" if result.dataset_config else result.dataset_name,
            result.dataset_split or "",
            result.task_name or result.task_type,
            result.metric_name or result.metric_type,
            _number(result.metric_value),
            _interval(result.metric_args),
        ]
        for result in results
    ]
    header = ["Dataset", "Split", "Task", "Metric", "Value", "95% interval"]
    if any(row[-1] for row in rows):
        return f"## Evaluation\n\n{_table(header, rows)}\n\n{_INTERVALS}"
    return f"## Evaluation\n\n{_table(header[:-1], [row[:-1] for row in rows])}"


def _number(value: Any) -> Any:
    """A value as evaluations show it, with two decimals; with more where two would change it."""
    if not isinstance(value, float):
        return value
    return f"{value:.2f}" if value == round(value, 2) else f"{value:.6g}"


def _interval(arguments: Any) -> str:
    interval = arguments.get(INTERVAL) if isinstance(arguments, dict) else None
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        return ""
    return f"{_number(interval[0])} to {_number(interval[1])}"


def image_steps(processor: ClipHFImageProcessor) -> list[str]:
    """What an image processor does with an image, step by step."""
    steps = ["turn the image upright by its EXIF orientation" if processor.apply_exif_orientation else ""]
    color = processor.background_color
    if color is None:
        steps.append("drop transparency: transparent places show the colours that are stored in them")
    else:
        steps.append(f"put a transparent image on the background ({', '.join(map(str, color))})")
    if processor.do_resize:
        filter_name = Image.Resampling(int(processor.resample)).name.lower()
        steps.append(f"resize {_size_text(dict(processor.size))} with a {filter_name} filter")
    if processor.do_center_crop:
        steps.append(f"crop the centre of {processor.crop_size['height']} x {processor.crop_size['width']} pixels")
    steps.append("convert to RGB" if processor.do_convert_rgb else "")
    if processor.do_rescale:
        is_usual = math.isclose(processor.rescale_factor, 1 / 255)
        steps.append("scale to 0 to 1" if is_usual else f"multiply by {processor.rescale_factor:g}")
    if processor.do_normalize:
        mean, std = (_values(value) for value in (processor.image_mean, processor.image_std))
        steps.append(f"subtract the mean ({mean}) and divide by the standard deviation ({std})")
    return [step for step in steps if step]


def _size_text(size: dict[str, int]) -> str:
    size = {key: value for key, value in size.items() if value is not None}
    if size.keys() == {"shortest_edge"}:
        return f"the shorter side to {size['shortest_edge']} pixels"
    if size.keys() == {"height", "width"}:
        return f"to {size['height']} x {size['width']} pixels, whatever the aspect ratio,"
    return "to " + " and ".join(f"{key.replace('_', ' ')} {value}" for key, value in size.items())


def _values(value: Any) -> str:
    return ", ".join(f"{number:.8g}" for number in (value if isinstance(value, (list, tuple)) else [value]))


def licence_section(data: ModelCardData) -> str:
    """What the metadata say of the licence."""
    licence = data.get("license_name") or data.get("license")
    if not licence:
        return f"{_NO_LICENCE} {_CODE_LICENCE}"
    names = ", ".join(f"`{one_line(name)}`" for name in (licence if isinstance(licence, list) else [licence]))
    return f"## Licence\n\nThe weights: {names}. {_CODE_LICENCE}"


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [[one_line(cell).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_line(value: Any) -> str:
    """A value for a line of Markdown."""
    return without_comments(" ".join(str(value).split()))


def without_comments(text: str) -> str:
    """`text` with its comments shown, not hidden."""
    # A comment in the text could end a section.
    return text.replace("<!--", "&lt;!--")


def known_prompts(templates: Any) -> str | list[str] | None:
    """The templates of a training as the pipeline takes them; None if none of them needs nothing but a label."""
    templates = [templates] if isinstance(templates, str) else templates or []
    usable = [text for text in templates if text in PROMPT_SETS or _LABEL_TEMPLATE.fullmatch(text)]
    if len(usable) < 2:
        return usable[0] if usable else None
    return list(dict.fromkeys(text for name in usable for text in PROMPT_SETS.get(name, [name])))


def python_literal(value: str | list[str]) -> str:
    """A value as the code on the card has it."""
    return json.dumps(value, ensure_ascii=False).replace("<!--", "\\u003c!--")


def enumeration(numbers: list[int]) -> str:
    """Such as "3, 4, 6 and 3"."""
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
