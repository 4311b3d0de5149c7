# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The processor: an image processor and a tokenizer in one object."""

import os
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import transformers
from huggingface_hub.errors import HFValidationError
from packaging.version import Version
from transformers import AutoImageProcessor
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file

from .checks_clip_hf import unknown_option
from .configuration_clip_hf import ClearFileErrors
from .image_processing_clip_hf import ClipHFImageProcessor, ClipHFImageProcessorKwargs, is_unset
from .tokenization_clip_hf import ClipHFTokenizer


# Arguments of `from_pretrained` that say where files are.
LOCATION_KEYS = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")
# Arguments of a call that are not options of one part.
_OTHER_ARGUMENTS = {
    "videos",
    "audio",
    "common_kwargs",
    "videos_kwargs",
    "audio_kwargs",
    *ProcessingKwargs.__annotations__,
}
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class _KwargsBefore523(ProcessingKwargs, total=False):
    _defaults = {"text_kwargs": {"padding": True}}


class ClipHFProcessor(ClearFileErrors, ProcessorMixin):
    """Prepares images and texts for `ClipHFModel`.

    It differs from transformers' `CLIPProcessor`:

    - `from_pretrained` makes a `ClipHFImageProcessor` and a `ClipHFTokenizer` from any CLIP repository, whatever
      classes its files name. A missing file raises an error that names it.
    - Texts are padded to the longest of the call unless `padding` says otherwise.
    - Images may be paths or anything else that `ClipHFImageProcessor` takes; unknown options raise an error.

    Args:
        image_processor (`ClipHFImageProcessor`): Prepares images; may also be another image processor of transformers.
            With a `ClipHFVideoProcessor` it is the processor of a `ClipHFVideoModel`, and its images are films.
        tokenizer (`ClipHFTokenizer`): Prepares texts; may also be another tokenizer of transformers.

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
    # The installed library sets this to its reader of other checkpoint formats; a repo's own code has none.
    read_other_format: ClassVar[Callable | None] = None

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        for name, value in (("image_processor", image_processor), ("tokenizer", tokenizer)):
            if value is None:
                raise ValueError(f"{type(self).__name__} needs an image processor and a tokenizer; {name} is missing.")
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Unpack[ProcessingKwargs]) -> BatchFeature:
        """Prepare images, texts, or both.

        Args:
            images (*optional*): One or many images in any form that `ClipHFImageProcessor` takes; films, if the image
                processor is a `ClipHFVideoProcessor`, which may also be called `videos`.
            text (`str` or `list[str]`, *optional*): One or many texts.
            **kwargs: Options of the image processor and of the tokenizer (`return_tensors="pt"` applies to both), or
                `images_kwargs={...}` and `text_kwargs={...}`.

        Returns:
            `BatchFeature`: `pixel_values` (images, 3, height, width), of films (films, frames, 3, height, width),
            float32, if there are any; `input_ids` and `attention_mask` (texts, length), int64, if there are texts.

        Raises:
            ValueError: There are neither images nor texts, a list is empty, or an image or an option cannot be used.
            TypeError: An option is unknown and neither None nor False, or a text is not a string.
        """
        names = self._all_option_names()
        kwargs = _known_options(kwargs, set().union(_OTHER_ARGUMENTS, *names.values()), type(self).__name__)
        for group in kwargs.keys() & names.keys():
            kwargs[group] = _known_options(kwargs[group] or {}, names[group], group)
        if is_video_processor(self.image_processor) and kwargs.get("videos") is not None:
            if images is not None:
                raise ValueError("`videos` and `images` are the same for a video processor; give one of them.")
            images = kwargs.pop("videos")
        return super().__call__(images=images, text=list(text) if isinstance(text, tuple) else text, **kwargs)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs) -> tuple:
        """Leave the inputs as they are: the image processor opens files one by one, when it needs them."""
        return images, text, videos, audio

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        """Check the inputs; see `__call__` for the errors."""
        if videos is not None or audio is not None:
            raise ValueError(f"{type(self).__name__} takes images and text, not videos or audio.")
        if images is None and text is None:
            raise ValueError(f"{type(self).__name__} needs images=..., text=..., or both.")
        if isinstance(text, list):
            if not text:
                raise ValueError("`text` is an empty list.")
            for index, item in enumerate(text):
                if not isinstance(item, str):
                    raise TypeError(f"Text {index} must be a string, not {type(item).__name__}: {item!r:.60}.")
        elif not isinstance(text, str | None):
            raise TypeError(f"`text` must be a string or a list of strings, not {type(text).__name__}.")

    def _all_option_names(self) -> dict[str, set[str]]:
        valid = getattr(self.image_processor, "valid_kwargs", ClipHFImageProcessorKwargs)
        text = {"return_mm_token_type_ids", "return_text_replacement_offsets", *TextKwargs.__annotations__}
        return {"images_kwargs": {*ImagesKwargs.__annotations__, *valid.__annotations__}, "text_kwargs": text}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save as transformers does, but without changing the processor: `auto_map` goes into the files only."""
        # transformers writes the processor's class into the tokenizer.
        processor_class = getattr(self.tokenizer, "_processor_class", None)
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        if is_video_processor(self.image_processor):
            # In a file of its own, too: `AutoVideoProcessor` does not look for it among the parts of a processor.
            files += self.image_processor.save_pretrained(save_directory)
        for part in (self, self.image_processor):
            vars(part).pop("auto_map", None)
        self.tokenizer._processor_class = processor_class
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs):
        """Load a processor from a folder or a hub repo, whatever CLIP classes its files name.

        OpenAI's and open_clip's files and folders load as well (see `clip_hf.checkpoints`).

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
        """Read the processor's file as transformers does, with a plain error for a folder that does not exist."""
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
        """Load our image processor and tokenizer, whatever the files name, unless they are arguments."""
        image_processor, tokenizer = kwargs.pop("image_processor", None), kwargs.pop("tokenizer", None)
        location = {key: kwargs[key] for key in LOCATION_KEYS if key in kwargs}

        def exists(filename: str) -> bool:
            path = cached_file(
                pretrained_model_name_or_path, filename, **location, _raise_exceptions_for_missing_entries=False
            )
            return path is not None

        def check(is_there: bool, part: str, files: str, maker: str) -> None:
            names = (CONFIG_NAME, PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, *chain(*TOKENIZER_FILES))
            if not is_there and not os.path.isdir(pretrained_model_name_or_path) and not any(map(exists, names)):
                raise OSError(
                    f"There is neither a folder {pretrained_model_name_or_path} nor a repository of this name on the "
                    "hub (offline: in the hub's cache)."
                )
            if not is_there:
                raise OSError(
                    f"{pretrained_model_name_or_path} has no {part.replace('_', ' ')}: it has neither {files}. Save "
                    f"one into the folder with `{maker}.save_pretrained(folder)`, or pass `{part}=...`."
                )

        if image_processor is None:
            check(
                "image_processor" in (processor_dict or {}) or exists(IMAGE_PROCESSOR_NAME),
                "image_processor",
                f"{IMAGE_PROCESSOR_NAME} nor an entry 'image_processor' in {PROCESSOR_NAME}",
                "ClipHFImageProcessor(size=..., crop_size=...)",
            )
            image_processor = _load_image_processor(cls, pretrained_model_name_or_path, location, **kwargs)
        if tokenizer is None:
            check(
                any(all(map(exists, names)) for names in TOKENIZER_FILES),
                "tokenizer",
                "tokenizer.json nor both vocab.json and merges.txt",
                "tokenizer",
            )
            # The tokenizer would store and save options that it does not know.
            options = {
                key: value for key, value in kwargs.items() if key not in ClipHFImageProcessorKwargs.__annotations__
            }
            tokenizer = ClipHFTokenizer.from_pretrained(pretrained_model_name_or_path, **options)
        return [image_processor, tokenizer]


def is_video_processor(image_processor: Any) -> bool:
    """Whether an image processor is a `ClipHFVideoProcessor`, perhaps of a repo's own code."""
    # By an option, because importing the class would copy it beside every image model.
    return hasattr(image_processor, "apply_exif_orientation") and hasattr(image_processor, "num_frames")


def _load_image_processor(owner: type, source: str | os.PathLike, location: dict[str, Any], **kwargs) -> Any:
    """The image or video processor of a repo; from the installed code or the repo's own, whichever `owner` is of."""
    options, _ = ClipHFImageProcessor.get_image_processor_dict(source, **location)
    if "num_frames" not in options:
        return ClipHFImageProcessor.from_pretrained(source, **kwargs)
    # A processor of the repo's own code runs because the user trusts it.
    kwargs["trust_remote_code"] = owner.__module__.startswith("transformers_modules.")
    return AutoImageProcessor.from_pretrained(source, **kwargs)


def _known_options(options: dict[str, Any], names: set[str], owner: str) -> dict[str, Any]:
    """Drop unknown options that are None or False; others are a `TypeError`."""
    for name in options.keys() - names:
        if not is_unset(name, options[name], names):
            raise TypeError(unknown_option(name, owner, names))
    return {name: value for name, value in options.items() if name in names}


# Makes saving copy our files and name the class in `auto_map`.
ClipHFProcessor.register_for_auto_class("AutoProcessor")
