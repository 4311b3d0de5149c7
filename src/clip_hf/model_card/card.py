# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Model cards for the hub: a README.md with metadata that is made from the configuration, and renewed without loss.

The text is in `model_card_template.md.jinja`. Each generated section stands between two comments; the first holds a
hash of the section, so that an edit by hand is seen. A comment at the end of the card records what was
generated, so that a deletion is seen, too.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id, yaml_dump
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..model.checks_clip_hf import type_of, unknown_option
from ..model.configuration_clip_hf import ClipHFConfig
from ..model.configuration_clip_hf_video import ClipHFVideoConfig
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.modeling_clip_hf import ClipHFModel
from ..model.video_pipeline_clip_hf import DEFAULT_PROMPT_SET
from ..model.video_processing_clip_hf import ClipHFVideoProcessor
from ..model.zero_shot_clip_hf import check_labels
from ..utils.atomic import replaced_file
from ..utils.wording import listed
from .section_comments import Section, find_record, find_sections, replace_sections
from .section_texts import (
    HOME_FOLDER,
    NO_TRAINING,
    architecture_name,
    card_template,
    class_names_of,
    enumeration,
    evaluation_section,
    image_steps,
    known_prompts,
    licence_section,
    one_line,
    public_name,
    public_result,
    public_setting,
    python_literal,
    training_section,
    without_comments,
    without_paths,
)


CARD_NAME = "README.md"
# What stands for a model that has no name on the hub, and for a picture, in the card's code.
_PLACEHOLDER = "path/to/this/folder"
_IMAGE, _FILM = "photo.jpg", "film.mp4"
_PROMPT = "a photo of a {}."
_LABELS = ("cat", "dog", "car")
_VIDEO_TAGS = ("video", "video-classification", "zero-shot-video-classification")
_IMAGE_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# What transformers' `push_to_hub` takes.
_PUSH_OPTIONS = (
    "commit_description",
    "commit_message",
    "create_pr",
    "max_shard_size",
    "private",
    "revision",
    "tags",
    "token",
)

# Looser, so that a section counts as there when its comments were damaged.
_SECTION_START = re.compile(r"<!--\s*clip_hf card: ([a-z-]+)")
_RECORD_TEXT = (
    "<!-- The sections between these comments are generated, and renewed with the card; one that is edited or deleted "
    "by hand stays as it was left. clip_hf card record: {} -->"
)
_NUM_PARAMETERS = re.compile(r" The model has [0-9,]+ parameters\.")
_LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")


@dataclass
class ModelCardDetails:
    """What a model card says beyond the configuration. All of it is optional: the card
    says 'not recorded' where something is missing.

    Args:
        model_id (`str`, *optional*): The model's name on the hub, which the card's code loads; by default what the
            writing function is given.
        base_model (`str`, *optional*): The model that this one was made from. It goes into the metadata only if it is
            a name on the hub.
        license (`str`, *optional*): The hub's identifier of the weights' licence, such as `"mit"`. Leave it out if you
            do not know it.
        datasets (`list[str]`, *optional*): What the model was trained on. Those that are names on the hub go into the
            metadata.
        language (`list[str]`, *optional*): ISO 639 codes of the texts' languages, such as `["en"]`.
        tags (`list[str]`, *optional*): Further tags for the hub.
        eval_results (`list[EvalResult]`, *optional*): Measured results, for a table and the metadata's `model-index`.
        training (`dict[str, object]`, *optional*): Training settings by name, shown as a table.
        source (`str`, *optional*): Where the weights come from, such as `"converted from OpenAI's RN50.pt"`.
        openai_weights (`bool`, *optional*, defaults to `False`): Whether the weights are OpenAI's own. If not, the
            card says that the paper's findings on limitations and bias are about other models.
        limitations (`str`, *optional*): Limitations of this model, in Markdown, for a section of their own after those
            that the paper found.
        example_image (`str`, *optional*, defaults to `"photo.jpg"`): Path or URL of the image in the card's code.
        example_labels (`list[str]`, *optional*, defaults to `["cat", "dog", "car"]`): Labels in the card's code.
        title (`str`, *optional*): The card's heading; by default the model's name.
        image_processor ([`ClipHFImageProcessor`], *optional*): The model's, whose settings the section on
            preprocessing lists; by default the one that is saved in the folder of the card.

    Paths of this machine are cut to their last part wherever they stand for a model, data, a source or a setting, and
    URLs lose passwords and queries; `title` and `limitations` stay as they are.

    Raises:
        TypeError: if a list is none, or a result is no `EvalResult`.
        ValueError: if `license` or a language does not have the form of the hub's identifiers, or the labels are not
            different, non-empty strings.
    """

    model_id: str | None = None
    base_model: str | None = None
    license: str | None = None
    datasets: list[str] = field(default_factory=list)
    language: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    eval_results: list[EvalResult] = field(default_factory=list)
    training: dict[str, object] = field(default_factory=dict)
    source: str | None = None
    openai_weights: bool = False
    limitations: str | None = None
    example_image: str | None = _IMAGE
    example_labels: list[str] = field(default_factory=lambda: list(_LABELS))
    title: str | None = None
    image_processor: ClipHFImageProcessor | None = None

    def __post_init__(self):
        for name in ("datasets", "language", "tags", "eval_results"):
            value, kind = getattr(self, name), EvalResult if name == "eval_results" else str
            if not isinstance(value, (list, tuple)) or not all(isinstance(item, kind) for item in value):
                raise TypeError(f"`{name}` is {value!r:.200}; it must be a list of `{kind.__name__}`.")
        if not isinstance(self.training, dict):
            raise TypeError(f"`training` is {type_of(self.training)}; it must be a dict of settings.")
        if self.license is not None and not _LICENCE_NAME.fullmatch(self.license):
            raise ValueError(
                f"`license` is {self.license!r}; it must be an identifier of the hub in small letters, such as 'mit', "
                "'apache-2.0' or 'other'. Leave it out if the licence is not known."
            )
        wrong = [code for code in self.language if not _LANGUAGE_CODE.fullmatch(code)]
        if wrong:
            raise ValueError(f"`language` has {wrong}; the hub takes ISO 639 codes, such as 'en'.")
        check_labels(self.example_labels)


# ------------------------------------------------------------------------------------------------------------- making


def create_model_card(
    config: ClipHFConfig,
    model_id: str | None,
    details: ModelCardDetails | None = None,
    num_parameters: int | None = None,
) -> ModelCard:
    """Make a model card from a configuration and facts about the weights.

    Args:
        config (`ClipHFConfig`): The whole model's configuration, or a classifier's, which its `architectures` tell.
        model_id (`str`, *optional*): The model's name on the hub, `"owner/name"`, which the card's code loads. Of a
            folder the last part names the model, and the code has a placeholder, because the card may be read
            elsewhere. `details.model_id` comes before it.
        details (`ModelCardDetails`, *optional*): What the configuration does not say.
        num_parameters (`int`, *optional*): Number of parameters, such as `model.num_parameters()`.

    Returns:
        `huggingface_hub.ModelCard`: metadata and text; `str(card)` is the README.

    Raises:
        TypeError: if `config` is not the configuration of a whole CLIP.
        ValueError: if `model_id` is blank or has several lines, or `num_parameters` is not positive.
    """
    details = details or ModelCardDetails()
    model_id = model_id if details.model_id is None else details.model_id
    _check(config, model_id, num_parameters)
    on_hub = model_id is not None and "/" in model_id.strip() and _has_form_of_hub(model_id.strip())
    name = model_id.strip() if on_hub else _name_of(model_id, details.title)
    tower = "resnet" if config.vision_config.model_type == "clip_hf_resnet" else "vit"
    is_video = config.model_type == ClipHFVideoConfig.model_type
    prompts, classes = known_prompts(details.training.get("templates")), class_names_of(config)
    metadata, details = _metadata(name, tower, details, is_video, classes is not None), _public(details)
    training = training_section(details.source, details.base_model, details.datasets, details.training)
    vision, text = config.vision_config, config.text_config
    content = card_template().render(
        card_data=metadata.to_yaml(),
        title=one_line(details.title or name.rpartition("/")[2]),
        config=config,
        vision=vision,
        text=text,
        stage_depths=enumeration(vision.stage_depths) if tower == "resnet" else None,
        architecture=architecture_name(config),
        num_parameters=num_parameters,
        on_hub=on_hub,
        model=python_literal(name if on_hub else _PLACEHOLDER),
        placeholder=_PLACEHOLDER,
        **_usage(is_video, details.example_image, prompts, classes),
        labels=python_literal(list(details.example_labels)),
        mean=", ".join(map(str, OPENAI_CLIP_MEAN)),
        std=", ".join(map(str, OPENAI_CLIP_STD)),
        image_steps=image_steps(details.image_processor) if details.image_processor is not None else None,
        training=training,
        evaluation=evaluation_section(details.eval_results),
        openai_weights=details.openai_weights,
        limitations=without_comments(details.limitations or "").strip(),
        licence=licence_section(ModelCardData(license=details.license)),
    )
    card = ModelCard(content)
    body = replace_sections(card.text.strip("\n"), lambda section: _section(section.name, section.body))
    generated = {key: value for key, value in card.data.to_dict().items() if key != "model-index"}
    if details.eval_results:
        generated["model_name"] = card.data.model_name
    example = (details.example_image or _IMAGE, *details.example_labels)
    unknown = {
        "title": not on_hub and details.title is None,
        "usage": not on_hub and not prompts and example == (_IMAGE, *_LABELS),
        "preprocessing": details.image_processor is None,
        "training": training == NO_TRAINING,
        "limitations": training == NO_TRAINING and not details.openai_weights,
    }
    record = _Record(
        [section.name for section in find_sections(body)],
        generated,
        [name for name, is_unknown in unknown.items() if is_unknown],
    )
    card.text = f"{body}\n\n{record.comment()}\n"
    return card


def _usage(
    is_video: bool, example: str | None, prompts: str | list[str] | None, classes: list[str] | None
) -> dict[str, Any]:
    """What the code in the card of an image or a video model is about; `example` is an image or film."""
    default = DEFAULT_PROMPT_SET if is_video else _PROMPT
    usual = _FILM if is_video else _IMAGE
    example = usual if example in (None, _IMAGE) else example
    return {
        "is_video": is_video,
        "prompts": python_literal(prompts or default),
        "gives_prompts": not is_video or prompts not in (None, default),
        "noun": "film" if is_video else "image",
        "classes": None if classes is None else one_line(listed(classes, 20)),
        "num_classes": None if classes is None else len(classes),
        "task": f"{'zero-shot-' if classes is None else ''}{'video' if is_video else 'image'}-classification",
        "model_class": "ClipHFVideoModel" if is_video else "ClipHFModel",
        "image": python_literal(example),
        "default_image": usual if example == usual else None,
    }


def _name_of(model_id: str | None, title: str | None) -> str:
    """The name of a model that is not on the hub."""
    name = public_name(model_id) if model_id else HOME_FOLDER
    return (title or "CLIP").strip() if name == HOME_FOLDER else name


def _public(details: ModelCardDetails) -> ModelCardDetails:
    """Details without paths of this machine."""
    return replace(
        details,
        base_model=details.base_model and public_name(details.base_model),
        datasets=[public_name(name) for name in details.datasets],
        eval_results=[public_result(result) for result in details.eval_results],
        source=details.source and without_paths(details.source),
        example_image=details.example_image and public_name(details.example_image),
        training={key: public_setting(value) for key, value in details.training.items()},
    )


def _check(config: ClipHFConfig, model_id: str, num_parameters: int | None) -> None:
    # Compare `model_type`, not the class: remote-code configs are different classes.
    if getattr(config, "model_type", None) not in (ClipHFConfig.model_type, ClipHFVideoConfig.model_type):
        raise TypeError(f"`config` is {type_of(config)}; a model card needs a whole CLIP's ClipHFConfig.")
    is_name = isinstance(model_id, str) and model_id.strip() and len(model_id.strip().splitlines()) == 1
    if model_id is not None and not is_name:
        raise ValueError(f"`model_id` is {model_id!r}; it must be a name or a folder, such as 'me/my-clip'.")
    if num_parameters is not None and num_parameters <= 0:
        raise ValueError(f"`num_parameters` is {num_parameters}; it must be greater than 0, or left out.")


def _metadata(name: str, tower: str, details: ModelCardDetails, is_video: bool, is_classifier: bool) -> ModelCardData:
    pipeline_tag = "feature-extraction" if is_video else "zero-shot-image-classification"
    tags = ["clip", "clip_hf", tower, "zero-shot", *(_VIDEO_TAGS if is_video else ())]
    if is_classifier:
        pipeline_tag = f"{'video' if is_video else 'image'}-classification"
        tags = [tag for tag in tags if not tag.startswith("zero-shot")]
    base_model = details.base_model if details.base_model and is_hub_name(details.base_model) else None
    return ModelCardData(
        base_model=base_model,
        datasets=[name for name in details.datasets if is_hub_name(name)] or None,
        eval_results=[public_result(result) for result in details.eval_results] or None,
        language=list(details.language) or None,
        # The hub chooses its loading snippet, its widget and how it counts downloads by this name. It does not know
        # clip_hf, and transformers is what loads the repository.
        library_name="transformers",
        license=details.license,
        # Without results it would become a key of the metadata.
        model_name=name if details.eval_results else None,
        # Of films the hub has no zero-shot task, and "video-classification" puts a random classifier on these weights.
        pipeline_tag=pipeline_tag,
        tags=[*tags, *details.tags],
    )


def is_hub_name(name: str) -> bool:
    """Whether a name can be that of a repository on the hub, and is no path here."""
    return _has_form_of_hub(name) and public_name(name) == name and not os.path.exists(name)


def _has_form_of_hub(name: str) -> bool:
    # The hub refuses a card whose metadata name what cannot be a repository.
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


# --------------------------------------------------------------------------------------------- sections and the record


def _hash(body: str) -> str:
    # Editors change line ends and strip trailing spaces; neither is an edit.
    lines = [line.rstrip() for line in body.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:10]


def _section(name: str, body: str) -> str:
    return f"<!-- clip_hf card: {name} {_hash(body)} -->\n{body.strip()}\n<!-- /clip_hf card: {name} -->"


@dataclass
class _Record:
    """What was generated: the sections, the metadata, and the sections for which nothing but defaults was known."""

    sections: list[str]
    metadata: dict[str, Any]
    unknown: list[str]

    def comment(self) -> str:
        """The comment at the end of the card."""
        return _RECORD_TEXT.format(json.dumps(vars(self), ensure_ascii=False).replace(">", "\\u003e"))


def _read_record(text: str) -> _Record | None:
    """The record in a card; None if there is no such comment."""
    match = find_record(text)
    if match is None:
        return None
    try:
        record = json.loads(match[0])
        sections, unknown = record["sections"], record.get("unknown", [])
        return _Record([str(name) for name in sections], dict(record["metadata"]), [str(name) for name in unknown])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


# ----------------------------------------------------------------------------------------------------------- updating


class _UpdatedModelCard(ModelCard):
    """A model card that keeps the metadata block as it was read, comments too, where an entry has not changed.

    `huggingface_hub`'s writes the whole block anew.
    """

    @ModelCard.content.getter
    def content(self) -> str:
        """The README: metadata and text."""
        match = REGEX_YAML_BLOCK.search(self._content)
        line_break = _line_break(self._content)
        block = _edited_yaml(match[2].replace("\r\n", "\n") if match else "", self.data.to_dict())
        return f"---\n{block}---\n".replace("\n", line_break) + self.text


def update_model_card(existing: str | None, card: ModelCard) -> ModelCard:
    """Merge a newly made card into a README that is there, and keep what was written by hand.

    - Metadata: an entry that a person set, changed or deleted stays so; lists are united; of the results in
      `model-index`, those of the same task, dataset and metric are replaced.
    - Text: a generated section is renewed unless it was edited or deleted; everything else stays where it is. The
      sections on results and licence follow the merged metadata. A training section is not replaced by one that says
      nothing.
    - A README without generated sections, written by hand or by another tool, keeps its text; the metadata are merged.

    Updating again with the same card changes nothing.

    Args:
        existing (`str`, *optional*): The README's text; if there is none or it is blank, the result is `card`.
        card (`huggingface_hub.ModelCard`): The new card, of [`create_model_card`].

    Returns:
        `huggingface_hub.ModelCard`: the merged card; `str(...)` is the new README.

    Raises:
        ValueError: if the metadata at the start of `existing` cannot be read.
    """
    if existing is None or not existing.strip():
        return card
    merged = _parse(existing)
    old_record, new_record = _read_record(merged.text), _read_record(card.text)
    generated = old_record.metadata if old_record else {}
    sections = {section.name: section.body for section in find_sections(card.text)}
    kept = _kept_sections(merged.text, sections, old_record, new_record)
    _merge_metadata(merged.data, card.data, generated, keep_name="title" in kept)
    if "evaluation" in sections:
        sections["evaluation"] = evaluation_section(merged.data.get("eval_results"))
    if "licence" in sections:
        sections["licence"] = licence_section(merged.data)
    line_break = _line_break(existing)
    if not merged.text.strip():
        # A README of metadata only, as the hub makes for a new repository.
        body = replace_sections(card.text, lambda section: _section(section.name, sections[section.name]))
        merged.text = body.replace("\n", line_break)
    else:
        renewed = {name: body for name, body in sections.items() if name not in kept}
        merged.text = _renew_sections(merged.text, renewed, line_break)
        if old_record and new_record:
            merged.text = _add_sections(merged.text, sections, old_record.sections, line_break)
            names = [*old_record.sections, *(name for name in sections if name not in old_record.sections)]
            unknown = [name for name in new_record.unknown if name not in kept]
            metadata = _merge_generated(generated, new_record.metadata, keep_name="title" in kept)
            _, start, end = find_record(merged.text)
            merged.text = merged.text[:start] + _Record(names, metadata, unknown).comment() + merged.text[end:]
    return merged


def _kept_sections(text: str, new: dict[str, str], old_record: _Record | None, new_record: _Record | None) -> set[str]:
    """Sections of a README that the new card would empty, because it knows less about the same model.

    Sections that describe another model are kept only if they tell of the training, which nothing else records.
    """
    kept = set(new_record.unknown if new_record else ()) - set(old_record.unknown if old_record else ())
    old = {section.name: section.body for section in find_sections(text)}
    overviews = [_NUM_PARAMETERS.sub("", cards.get("overview", "").replace("\r\n", "\n")) for cards in (old, new)]
    if overviews[0] != overviews[1]:
        return kept & {"training"}
    if not _NUM_PARAMETERS.search(new.get("overview", "")):
        kept.add("overview")
    return kept


def _parse(existing: str) -> ModelCard:
    advice = "Repair the lines between the two '---' at its start, or remove them, and try again."
    if re.match(r"\s*---[ \t]*(\r|\n)", existing) and not REGEX_YAML_BLOCK.search(existing):
        raise ValueError(
            f"The README starts with '---' as if metadata followed, but they are empty or no second '---' ends them. "
            f"{advice}"
        )
    try:
        return _UpdatedModelCard(existing)
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"The README's metadata cannot be read: {error}. {advice}") from error


def _line_break(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _merge_metadata(theirs: ModelCardData, ours: ModelCardData, generated: dict[str, Any], keep_name: bool) -> None:
    """Change `theirs`, the metadata of the README, by `ours`; `generated` is what the README was last made with."""
    for key, value in ours.to_dict().items():
        if key != "model-index":
            theirs[key] = _merge_value(theirs.get(key), value, generated.get(key))
    if ours.get("eval_results"):
        name = theirs.get("model_name")
        if name is None or (name == generated.get("model_name") and not keep_name):
            theirs["model_name"] = ours["model_name"]
        theirs["eval_results"] = _merge_results(theirs.get("eval_results") or [], ours["eval_results"])


def _merge_value(theirs: Any, ours: Any, generated: Any) -> Any:
    if isinstance(ours, list):
        have = [] if theirs is None else theirs if isinstance(theirs, list) else [theirs]
        # What was generated and is no longer there was deleted.
        known = [*have, *(generated if isinstance(generated, list) else [])]
        new = [item for item in ours if item not in known]
        return [*have, *new] if new else theirs
    if theirs is None:
        return ours if generated is None else None
    return ours if theirs == generated else theirs


def _merge_generated(before: dict[str, Any], now: dict[str, Any], keep_name: bool) -> dict[str, Any]:
    """The record of generated metadata: lists only grow, because deletions must be remembered."""
    merged = {**before, **now}
    if keep_name and "model_name" in before:
        merged["model_name"] = before["model_name"]
    for key, value in now.items():
        if isinstance(value, list) and isinstance(before.get(key), list):
            merged[key] = [*before[key], *(item for item in value if item not in before[key])]
    return merged


def _result_key(result: EvalResult) -> tuple:
    # Without the name, accuracies among the first one and the first five would be the same metric.
    return (*result.unique_identifier, result.metric_type, result.metric_name, result.metric_config)


def _merge_results(theirs: list[EvalResult], ours: list[EvalResult]) -> list[EvalResult]:
    new = {_result_key(result): result for result in ours}
    replaced = set(new)
    merged = []
    for result in theirs:
        key = _result_key(result)
        if key not in replaced:
            merged.append(result)
        elif key in new:
            merged.append(new.pop(key))
    return [*merged, *new.values()]


def _renew_sections(text: str, sections: dict[str, str], line_break: str) -> str:
    """`text` with each section that nobody edited replaced by the one in `sections`."""

    def renewed(section: Section) -> str:
        new = sections.get(section.name)
        unedited = section.hash == _hash(section.body)
        if new is None or not unedited or _hash(new) == _hash(section.body):
            return text[section.start : section.end]
        return _section(section.name, new).replace("\n", line_break)

    return replace_sections(text, renewed)


def _add_sections(text: str, sections: dict[str, str], known: list[str], line_break: str) -> str:
    """`text` with the sections that the README never had, each after the one that precedes it in `sections`."""
    names = list(sections)
    for index, name in enumerate(names):
        present = {*known, *_SECTION_START.findall(text)}
        if name in present:
            continue
        section = _section(name, sections[name]).replace("\n", line_break)
        ends = {section.name: section.end for section in find_sections(text)}
        before = [ends[other] for other in names[:index] if other in ends]
        if before:
            text = f"{text[: before[-1]]}{2 * line_break}{section}{text[before[-1] :]}"
        else:
            _, start, _ = find_record(text)
            text = f"{text[:start]}{section}{2 * line_break}{text[start:]}"
    return text


def _trailing_comments(chunk: str) -> str:
    """Comments and blank lines after an entry, which may belong to the next one."""
    lines = chunk.splitlines(keepends=True)
    first = len(lines)
    while first and (not lines[first - 1].strip(" \t\n") or lines[first - 1].startswith("#")):
        first -= 1
    return "".join(lines[first:])


def _edited_yaml(block: str, data: dict[str, Any]) -> str:
    """`block` with the top-level entries changed that differ from `data`; the rest stays, comments and order too."""
    full = yaml_dump(data, sort_keys=False)
    try:
        old = yaml.safe_load(block) or {}
        before = ModelCardData(**old).to_dict()
        chunks = []
        for chunk in re.split(r"^(?=[^\s#-])", f"{block}\n" if block.strip() else "", flags=re.MULTILINE):
            entry = yaml.safe_load(chunk) or {}
            key = next(iter(entry), None)
            if key is None or data.get(key) == before.get(key):
                chunks.append(chunk)
            else:
                changed = yaml_dump({key: data[key]}, sort_keys=False) if key in data else ""
                chunks += [changed, _trailing_comments(chunk)]
        missing = {key: value for key, value in data.items() if key not in old}
        chunks.append(yaml_dump(missing, sort_keys=False) if missing else "")
        text = "".join(chunks)
        # The entries were told apart by their looks: make sure that nothing else changed.
        return text if ModelCardData(**yaml.safe_load(text)).to_dict() == data else full
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):
        return full


# ------------------------------------------------------------------------------------------------------------ writing


def write_model_card(
    folder: str | os.PathLike,
    config: ClipHFConfig,
    model_id: str | None = None,
    details: ModelCardDetails | None = None,
    num_parameters: int | None = None,
) -> Path:
    """Write a model card into a saved model's folder, or renew the one that is there; see [`update_model_card`].

    The file is replaced in one step: if anything fails, the old README.md is there as it was.

    Args:
        folder (`str` or `os.PathLike`): The saved model's folder.
        config (`ClipHFConfig`): The whole model's configuration.
        model_id (`str`, *optional*): The model's name on the hub, as the card's code loads it. Without it the title
            of the details, or else the folder's, is the name, and the code has a placeholder.
        details (`ModelCardDetails`, *optional*): What the configuration does not say.
        num_parameters (`int`, *optional*): Number of parameters.

    Returns:
        `Path`: the README.md.

    Raises:
        NotADirectoryError: if there is no such folder.
        TypeError: if `config` is not the configuration of a whole CLIP.
        ValueError: if an argument is not valid (see [`create_model_card`]), or the README.md that is there cannot be
            read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; save the model there first, then write its card.")
    details = details or ModelCardDetails()
    if details.image_processor is None and any((folder / name).is_file() for name in _IMAGE_PROCESSOR_FILES):
        is_video = getattr(config, "model_type", None) == ClipHFVideoConfig.model_type
        processor_class = ClipHFVideoProcessor if is_video else ClipHFImageProcessor
        details = replace(details, image_processor=processor_class.from_pretrained(folder))
    if model_id is None and details.title is None:
        model_id = folder.resolve().name
    card = create_model_card(config, model_id, details, num_parameters)
    path = folder / CARD_NAME
    try:
        existing = path.read_bytes().decode("utf-8-sig") if path.exists() else None
        text = str(update_model_card(existing, card))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8 and try again.") from error
    except ValueError as error:
        raise ValueError(f"{path} was left as it is. {error}") from error
    if text != existing:
        with replaced_file(path) as temporary:
            temporary.write_bytes(text.encode("utf-8"))
    return path


def card_on_hub(api: HfApi, repo_id: str, revision: str | None = None) -> bytes | None:
    """The README.md of a repo; `None` where the repo has none. Raises what the hub does where it cannot be asked."""
    try:
        return Path(api.hf_hub_download(repo_id, CARD_NAME, revision=revision)).read_bytes()
    except RemoteEntryNotFoundError:
        return None


def push_with_model_card(
    model: ClipHFModel, repo_id: str, details: ModelCardDetails | None = None, **options: Any
) -> str:
    """Upload a model to the hub with its card; what `ClipHFModel.push_to_hub` does.

    A README.md that is in the repo already is renewed as [`update_model_card`] does, so hand edits stay.

    Args:
        model (`ClipHFModel`): The model.
        repo_id (`str`): The repo, such as `"me/my-clip"`; made if need be.
        details (`ModelCardDetails`, *optional*): What the configuration does not say.
        options: As of transformers' `push_to_hub`: `commit_message`, `commit_description`, `private`, `token`,
            `revision`, `create_pr`, `max_shard_size`, `tags`.

    Returns:
        `str`: the URL of the commit.

    Raises:
        TypeError: if there is no such option.
        ValueError: if the README.md that is in the repo cannot be read.
    """
    for name in sorted(options.keys() - set(_PUSH_OPTIONS)):
        raise TypeError(f"{unknown_option(name, 'push_to_hub', _PUSH_OPTIONS)} Available: {', '.join(_PUSH_OPTIONS)}.")
    details = details or ModelCardDetails()
    details = replace(details, tags=[*details.tags, *(options.get("tags") or [])])
    api, revision = HfApi(token=options.get("token")), options.get("revision")
    repo_id = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        shard_size = options.get("max_shard_size")
        model.save_pretrained(folder, **({"max_shard_size": shard_size} if shard_size else {}))
        existing = card_on_hub(api, repo_id, revision)
        if existing is not None:
            Path(folder, CARD_NAME).write_bytes(existing)
        write_model_card(folder, model.config, repo_id, details, model.num_parameters())
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=options.get("commit_message") or f"Upload {type(model).__name__}",
            commit_description=options.get("commit_description"),
            revision=revision,
            create_pr=bool(options.get("create_pr")),
        )
    return str(commit)
