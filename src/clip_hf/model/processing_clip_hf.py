# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Processor: an image processor and a tokenizer in one object."""

import os
from collections.abc import Callable
from typing import Any, ClassVar

import transformers
from huggingface_hub.errors import HFValidationError
from packaging.version import Version
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file

from .checks_clip_hf import unknown_option
from .configuration_clip_hf import ClearFileErrors
from .image_processing_clip_hf import ClipHFImageProcessor, ClipHFImageProcessorKwargs, is_unset
from .tokenization_clip_hf import ClipHFTokenizer


# What `from_pretrained` takes that says where files are, rather than what is done with them.
LOCATION_KEYS = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")
_GROUPS = {"common_kwargs", "videos_kwargs", "audio_kwargs", *ProcessingKwargs.__annotations__}
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class _KwargsBefore523(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": True}}


class ClipHFProcessor(ClearFileErrors, ProcessorMixin):
    """Prepares images and texts for `ClipHFModel`.

    It differs from transformers' `CLIPProcessor`:

    - `from_pretrained` makes a `ClipHFImageProcessor` and a `ClipHFTokenizer` of any CLIP repository, whatever classes
      its files name. What is missing raises an error that says which file.
    - Texts are padded to the longest of the call unless `padding` says otherwise.
    - Images may be paths, or anything else that `ClipHFImageProcessor` takes; unknown options raise an error.

    Args:
        image_processor (`ClipHFImageProcessor`):
            Prepares images; any transformers image processor works.
        tokenizer (`ClipHFTokenizer`):
            Prepares texts; any transformers tokenizer works.

    Example:

    ```python
    >>> processor = ClipHFProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> inputs = processor(images="cat.jpg", text=["a photo of a cat", "a dog"], return_tensors="pt")
    >>> {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    {'input_ids': (2, 7), 'attention_mask': (2, 7), 'pixel_values': (1, 3, 224, 224)}
    ```
    """

    text_kwargs = {"padding": True}
    if Version(transformers.__version__) < Version("5.23"):  # transformers does not read `text_kwargs` yet
        valid_processor_kwargs = _KwargsBefore523
    # clip_hf sets this to its reader of other formats; it stays None in remote code.
    read_other_format: ClassVar[Callable | None] = None

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        for name, value in (("image_processor", image_processor), ("tokenizer", tokenizer)):
            if value is None:
                raise ValueError(f"{type(self).__name__} needs an image processor and a tokenizer; {name} is missing.")
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Unpack[ProcessingKwargs]) -> BatchFeature:
        """Prepare images, texts, or both.

        Args:
            images (*optional*):
                One image or many, in any form that `ClipHFImageProcessor` takes.
            text (`str` or `list[str]`, *optional*):
                One text or many.
            **kwargs:
                Options of the image processor and of the tokenizer (`return_tensors="pt"` holds for both), or all of
                one's in `images_kwargs={...}` and `text_kwargs={...}`.

        Returns:
            `BatchFeature`: `pixel_values` (images, 3, height, width), float32, if there are images; `input_ids` and
            `attention_mask` (texts, length), int64, if there are texts.

        Raises:
            ValueError: if there are no images and no texts, a list is empty, or an image or option is invalid.
            TypeError: if an option is unknown (and not None or False), or a text is not a string.
        """
        names = self._all_option_names()
        kwargs = _without_unset(kwargs, set().union(_GROUPS, *names.values()))
        for group in kwargs.keys() & names.keys():
            kwargs[group] = _without_unset(kwargs[group] or {}, names[group])
        return super().__call__(images=images, text=list(text) if isinstance(text, tuple) else text, **kwargs)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs) -> tuple:
        """Leave the inputs as they are: the image processor opens files one by one, where it needs them."""
        return images, text, videos, audio

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        """Check what does not depend on the image processor and the tokenizer; see `__call__` for the errors."""
        if videos is not None or audio is not None:
            raise ValueError(f"{type(self).__name__} takes images and text, no videos and no audio.")
        if images is None and text is None:
            raise ValueError(f"{type(self).__name__} was given nothing: pass images=..., text=..., or both.")
        if isinstance(text, list):
            if not text:
                raise ValueError("There are no texts: the list is empty.")
            for index, item in enumerate(text):
                if not isinstance(item, str):
                    raise TypeError(f"Text {index} must be a string, not {type(item).__name__}: {item!r:.60}.")
        elif not isinstance(text, str | None):
            raise TypeError(f"`text` must be a string or a list of strings, not {type(text).__name__}.")
        groups = self._all_option_names()
        for group, names in groups.items():
            _check_names(kwargs.get(group) or {}, names, group)
        _check_names(kwargs, set().union(_GROUPS, *groups.values()), type(self).__name__)

    def _all_option_names(self) -> dict[str, set[str]]:
        valid = getattr(self.image_processor, "valid_kwargs", ClipHFImageProcessorKwargs)
        text = {"return_mm_token_type_ids", "return_text_replacement_offsets", *TextKwargs.__annotations__}
        return {"images_kwargs": {*ImagesKwargs.__annotations__, *valid.__annotations__}, "text_kwargs": text}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save as transformers does, but leave the processor unchanged: `auto_map` goes only into the files."""
        # The tokenizer is told which processor it belongs to.
        processor_class = getattr(self.tokenizer, "_processor_class", None)
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        for part in (self, self.image_processor):
            vars(part).pop("auto_map", None)
        self.tokenizer._processor_class = processor_class
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs):
        """Load a processor from a folder or a hub repo, whichever classes of CLIP its files name; OpenAI's and
        open_clip's files and folders load as well (see `clip_hf.checkpoints`).

        Raises:
            OSError: if there is no such repo, or it lacks an image processor or a tokenizer.
            ValueError: if a file of another format cannot be read exactly.
        """
        read_other_format = ClipHFProcessor.read_other_format
        if read_other_format is not None:
            processor = read_other_format(pretrained_model_name_or_path)
            if processor is not None:
                return processor
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the files as transformers does, with a plain error for a missing folder."""
        try:
            return super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        except HFValidationError as error:
            raise OSError(
                f"{pretrained_model_name_or_path} is neither a folder nor the name of a repository on the hub."
            ) from error

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, processor_dict: dict | None = None, **kwargs
    ) -> list:
        """Load our image processor and tokenizer, whichever classes the files name, unless they are arguments."""
        image_processor, tokenizer = kwargs.pop("image_processor", None), kwargs.pop("tokenizer", None)
        location = {key: kwargs[key] for key in LOCATION_KEYS if key in kwargs}

        def exists(filename: str) -> bool:
            found = cached_file(
                pretrained_model_name_or_path, filename, **location, _raise_exceptions_for_missing_entries=False
            )
            return found is not None

        if image_processor is None:
            if "image_processor" not in (processor_dict or {}) and not exists(IMAGE_PROCESSOR_NAME):
                raise OSError(
                    f"{pretrained_model_name_or_path} has no image processor: there is neither {IMAGE_PROCESSOR_NAME} "
                    f"nor an entry 'image_processor' in {PROCESSOR_NAME}. Save one into the folder with "
                    "`ClipHFImageProcessor(size=..., crop_size=...).save_pretrained(folder)`, or pass "
                    "`image_processor=...`."
                )
            image_processor = ClipHFImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if tokenizer is None:
            if not any(all(map(exists, names)) for names in TOKENIZER_FILES):
                raise OSError(
                    f"{pretrained_model_name_or_path} has no tokenizer: there is neither tokenizer.json nor both "
                    "vocab.json and merges.txt. Save one into the folder with `tokenizer.save_pretrained(folder)`, or "
                    "pass `tokenizer=...`."
                )
            # The tokenizer would store options that it does not know, and save them.
            options = {
                key: value for key, value in kwargs.items() if key not in ClipHFImageProcessorKwargs.__annotations__
            }
            tokenizer = ClipHFTokenizer.from_pretrained(pretrained_model_name_or_path, **options)
        return [image_processor, tokenizer]


def _without_unset(given: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Drop unknown options that are None or False."""
    return {name: value for name, value in given.items() if name in names or not is_unset(name, value, names)}


def _check_names(given: dict[str, Any], names: set[str], where: str) -> None:
    for name in given:
        if name not in names:
            raise TypeError(unknown_option(name, where, names))


# Saving one then copies our files next to it, and names the class in `auto_map`.
ClipHFProcessor.register_for_auto_class("AutoProcessor")
