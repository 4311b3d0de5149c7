# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot image classification as a transformers pipeline, and pipelines of one tower that read files as it does."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from numbers import Number
from queue import Queue
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.image_feature_extraction import ImageFeatureExtractionPipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from .checks_clip_hf import unknown_option
from .image_processing_clip_hf import is_unset, opens_files
from .image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits, UnreadableImage, open_image
from .image_transform_clip_hf import turn_upright
from .label_scores_clip_hf import (
    DEFAULT_TEMPLATE,
    best_labels,
    check_background,
    check_count,
    check_function,
    check_together,
    parts_of_classifier,
    score_labels,
)
from .processing_clip_hf import ClipHFProcessor, is_video_processor
from .zero_shot_clip_hf import (
    OUR_MODEL_TYPES,
    TextClassifierCache,
    check_labels,
    check_templates,
    evaluated,
    features,
    warn_of_one_label,
)


CALL_OPTIONS = (
    "candidate_labels",
    "hypothesis_template",
    "background",
    "multi_label",
    "function_to_apply",
    "top_k",
    "threshold",
    "image_limits",
    "timeout",
    "tokenizer_kwargs",
)
# What `transformers.pipeline` hands on to every pipeline class.
_FACTORY_OPTIONS = {"local_files_only"}
# Options of the image processor that the pipeline sets itself.
_NOT_IMAGE_OPTIONS = {"return_tensors", "device", "data_format", "disable_grouping"}


class ClipHFZeroShotImageClassificationPipeline(ZeroShotImageClassificationPipeline):
    """Zero-shot image classification: `pipeline("zero-shot-image-classification", model=...)` for CLIP.

    Calls and results are the stock pipeline's, and so are the scores where both have the option. What differs:

    - Labels are encoded once for all images and kept for later calls until the weights change; the stock pipeline
      encodes them again for each image.
    - `hypothesis_template` may be several templates, a named prompt set or each label's own prompts, ensembled in
      embedding space (Radford et al. 2021, section 3.1.4).
    - `top_k`, `threshold`, `multi_label`, `background` and `function_to_apply` shape the scores.
    - `num_workers` preprocesses in threads while the model runs; images in batches share one pass of the image tower.
    - The model runs in evaluation mode whatever mode it is in.
    - Bad input raises before any work, an image that cannot be read with its index.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import clip_hf

    >>> classifier = pipeline("zero-shot-image-classification", model=path)
    >>> classifier("cat.jpg", ["cat", "dog"])
    [{'score': 0..., 'label': '...'}, {'score': 0..., 'label': '...'}]
    >>> classifier(images, labels, hypothesis_template="openai_imagenet", batch_size=32, num_workers=2, top_k=5)
    ```
    """

    noun = "image"  # what is classified, in messages
    call_options = CALL_OPTIONS

    def __init__(self, **kwargs):
        self._classifiers = TextClassifierCache()
        # Compare names, because a repo's own code has another class than ours.
        model_type = kwargs["model"].config.model_type
        if model_type == "clip_hf_exported" and kwargs.get("device") is None:
            kwargs["device"] = "cpu"  # where exported models run; transformers would take an accelerator
        super().__init__(**kwargs)
        if self.tokenizer is None or self.image_processor is None:
            raise ValueError("The pipeline needs a tokenizer and an image processor, or a processor with both.")
        has_bias = getattr(self.model, "logit_bias", None) is not None
        if has_bias and model_type not in (*OUR_MODEL_TYPES, "clip_hf_exported"):
            raise ValueError(
                f"{type(self.model).__name__} scores with a sigmoid and a bias, as SigLIP does; use transformers' "
                "ZeroShotImageClassificationPipeline."
            )

    def __call__(
        self,
        image: Any = None,
        candidate_labels: list[str] | None = None,
        *,
        num_workers: int | None = None,
        batch_size: int | None = None,
        **kwargs,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterable[list[dict[str, Any]]]:
        """Score `candidate_labels` for each image.

        Besides the arguments below there are these options. `pipeline(...)` takes all of them, too, as defaults for
        every call.

        - `hypothesis_template` (`str`, `list[str]` or `dict[str, list[str]]`): one template, several to average over,
          the name of a prompt set ([`prompt_set_names`]), or each label's own prompts. `{}` or `{label}` stands for
          the label. By default `"This is a photo of {}."`, as in the stock pipeline.
        - `function_to_apply` (`str`): what a score is. `"softmax"`, the default: the probability of the label among
          all labels. `"cosine"`: the similarity of image and label, from -1 to 1, independent of the other labels.
          `"none"`: the logit, the cosine times the model's scale (plus its bias, if it has one).
        - `multi_label` (`bool`): whether several labels may fit. Each softmax is then over two, the label and the
          background: the probability that the label describes the image better than `background` does. Scores no
          longer depend on the other labels, and do not sum to 1. A model with a logit bias (trained with the sigmoid
          loss) needs no background: its score is the sigmoid of the logit.
        - `background` (`str` or `list[str]`): prompts of an image that shows none of the labels, ensembled like
          templates; `"a photo."` where `multi_label` needs one. Without `multi_label` it takes part in the softmax and
          is not listed: all scores are low if it fits best.
        - `top_k` (`int`): how many labels to return, best first; by default all.
        - `threshold` (`float`): leaves out labels that score less.
        - `image_limits` ([`ImageLimits`]): pixels, bytes and seconds that reading an image may take; `timeout`
          (`float`) sets the seconds alone.
        - The image processor's options, such as `background_color` and `high_bit_depth`, for this call.
        - `tokenizer_kwargs` (`dict`): further arguments of the tokenizer; `{"truncation": True}` cuts labels that are
          too long without a warning.

        Args:
            image (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, array, or a list, dataset or generator of them):
                What to classify: a path, a URL, base64 text, the bytes of an image file, an image, an array as the
                image processor takes it, or an undecoded image of `datasets` (`{"bytes": ..., "path": ...}`). Also as
                `images=`. The image processor opens images, as it does in training and evaluation: its options say
                what becomes of transparency, EXIF orientation and 16 bits.
            candidate_labels (`Iterable[str | int]`): The labels, all different. Labels that the tokenizer makes one
                are warned of.
            num_workers (`int`, *optional*, defaults to 0): Threads that read and preprocess images while the model
                runs. With 0 that happens in between, and a generator is read one batch at a time.
            batch_size (`int`, *optional*, defaults to 1): Images per pass of the image tower.
            **kwargs: The options above.

        Returns:
            For one image a list of `{"score": float, "label": str}`, best first, ties in the order of the labels; for
            a list of images a list of such lists; for a dataset or generator an iterator of them, computed as it is
            read.

        Raises:
            ValueError: if an option does not make sense, before any work; if an image cannot be read, with its index.
            TypeError: if an option, a label or an image is of the wrong type, or there is no such option.
        """
        image = kwargs.pop("images", image)
        if image is None:
            raise ValueError(f"There is no {self.noun}: pass one as the first argument or as `{self.noun}s=`.")
        if candidate_labels is not None:
            kwargs["candidate_labels"] = candidate_labels
        call_params = self._sanitize_parameters(**kwargs)
        stored = (self._preprocess_params, self._forward_params, self._postprocess_params)
        params = [{**old, **new} for old, new in zip(stored, call_params)]
        if "labels" not in params[1]:
            raise ValueError("There are no labels: pass `candidate_labels=[...]`.")
        num_workers = check_count("num_workers", self._num_workers if num_workers is None else num_workers, 0)
        batch_size = check_count("batch_size", self._batch_size if batch_size is None else batch_size, 1)
        if self.is_single(image):
            return self.run_single(image, *params)
        if not isinstance(image, (list, tuple, np.ndarray, torch.Tensor)):
            return self.get_iterator(image, num_workers, batch_size, *params)
        for index, item in enumerate(image):
            if item is None or isinstance(item, Number):  # raises before the others are read
                self._preprocess_item(index, item, params[0])
        params[1]["classifiers"] = []  # the first batch's serve all: nobody changes the model before the call returns
        return list(self.get_iterator(image, num_workers, batch_size, *params))

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save the model and its processor, for `pipeline` and for the Auto classes; as the model's own method."""
        super().save_pretrained(save_directory, **kwargs)
        if self.model.config.model_type in OUR_MODEL_TYPES:
            ClipHFProcessor(self.image_processor, self.tokenizer).save_pretrained(save_directory)

    def _sanitize_parameters(self, **kwargs):
        image_options = self._image_option_names()
        known = {*self.call_options, *_FACTORY_OPTIONS, *image_options}
        unknown = [name for name in kwargs if name not in known and not is_unset(name, kwargs[name], known)]
        if unknown:
            message = unknown_option(unknown[0], "the pipeline", [*self.call_options, *image_options])
            more = " and the options of the image processor" if image_options else ""
            raise TypeError(f"{message} Available: {', '.join(self.call_options)}{more}.")
        # None stands for the default, so that wrappers can pass every option on.
        options = {name: value for name, value in kwargs.items() if value is not None and name not in _FACTORY_OPTIONS}
        preprocess = {name: options[name] for name in options if name in image_options}
        if "background_color" in image_options and "background_color" in kwargs:
            preprocess["background_color"] = kwargs["background_color"]  # None is a value: no background
        if preprocess:
            self.image_processor.transform(**preprocess)  # raises now if one is wrong
        if "image_limits" in options or "timeout" in options:
            preprocess["image_limits"] = _check_limits(
                options.get("image_limits", DEFAULT_LIMITS), options.get("timeout")
            )
        forward = {}
        if "candidate_labels" in options:
            labels = options["candidate_labels"]
            # Results are in the order of their scores, so that the order of a set does not matter.
            forward["labels"] = check_labels(list(labels) if isinstance(labels, (set, frozenset)) else labels)
            warn_of_one_label(forward["labels"])
        if "hypothesis_template" in options:
            forward["templates"] = check_templates(options["hypothesis_template"])
        if "background" in options:
            forward["background"] = check_background(options["background"])
        if "multi_label" in options:
            forward["multi_label"] = bool(options["multi_label"])
        if "function_to_apply" in options:
            forward["function_to_apply"] = check_function(options["function_to_apply"])
        if "tokenizer_kwargs" in options:
            forward["tokenizer_kwargs"] = dict(options["tokenizer_kwargs"])
        postprocess = {}
        if "labels" in forward:
            postprocess["labels"] = forward["labels"]
        if "top_k" in options:
            postprocess["top_k"] = check_count("top_k", options["top_k"], 1)
        if "threshold" in options:
            postprocess["threshold"] = options["threshold"]
        # Together with the options that the pipeline was made with.
        stored = {**getattr(self, "_forward_params", {}), **getattr(self, "_postprocess_params", {})}
        check_together({**stored, **forward, **postprocess})
        return preprocess, forward, postprocess

    def _image_option_names(self) -> set[str]:
        if not opens_files(self.image_processor):
            return set()
        return set(self.image_processor.valid_kwargs.__annotations__) - _NOT_IMAGE_OPTIONS

    def preprocess(self, image: Any, image_limits: ImageLimits = DEFAULT_LIMITS, **options) -> dict[str, torch.Tensor]:
        """Pixels of one image; `options` are those of the image processor.

        Returns:
            `dict[str, torch.Tensor]`: `pixel_values` of shape (1, channels, height, width) in the model's dtype.
        """
        if opens_files(self.image_processor):
            options["image_limits"] = image_limits
        elif not isinstance(image, (np.ndarray, torch.Tensor)):
            # Another class's processor takes images only, and expects them as the stock pipeline opens them.
            image = turn_upright(open_image(image, image_limits)).convert("RGB")
        images = image if is_video_processor(self.image_processor) else [image]  # a list would be a film's frames
        pixel_values = self.image_processor(images=images, return_tensors="pt", **options)["pixel_values"]
        return {"pixel_values": pixel_values.to(self.dtype)}

    def _forward(
        self,
        model_inputs: dict[str, torch.Tensor],
        labels: list[str],
        templates=DEFAULT_TEMPLATE,
        background: tuple[str, ...] | None = None,
        multi_label: bool = False,
        function_to_apply: str = "softmax",
        tokenizer_kwargs: dict | None = None,
        classifiers: list[torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Scores (batch, labels) of a batch of images, in float32; an empty list of `classifiers` is filled."""
        bias = getattr(self.model, "logit_bias", None)
        needs_background = bias is None and multi_label and function_to_apply == "softmax"
        wanted = parts_of_classifier(labels, templates, background, needs_background)
        classifiers = [] if classifiers is None else classifiers
        if not classifiers:
            classifiers += self._classifiers.get_all(self.model, self.tokenizer, wanted, tokenizer_kwargs)
        image_embeds = self.embed(model_inputs["pixel_values"])  # (batch, dim)
        classifier = torch.cat(classifiers).to(image_embeds)  # (labels [+ 1], dim)
        with torch.autocast(image_embeds.device.type, enabled=False):  # half precision would merge similar scores
            cosines = image_embeds @ classifier.T
        scale = self.model.logit_scale.exp().to(cosines)
        bias = None if bias is None else bias.to(cosines)
        return {"scores": score_labels(cosines, len(labels), scale, bias, multi_label, function_to_apply)}

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """L2-normalised embeddings (batch, dim) of what `preprocess` made, in float32."""
        return features(evaluated(self.model), "image", pixel_values=pixel_values)

    def is_single(self, image: Any) -> bool:
        """Whether `image` is one image, not several; TypeError if it is neither."""
        return _is_one_image(image)

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        labels: list[str],
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """The labels of one image with their scores (1, labels), best first."""
        return best_labels(model_outputs["scores"][0], labels, top_k, threshold)

    def run_single(self, image: Any, preprocess_params: dict, forward_params: dict, postprocess_params: dict):
        """Classify one image; see `__call__`."""
        model_inputs = self._preprocess_item(None, image, preprocess_params)
        return self.postprocess(self.forward(model_inputs, **forward_params), **postprocess_params)

    def get_iterator(
        self,
        inputs: Iterable,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> "_Results":
        """Classify many images as the result is read; see `__call__`."""

        def classify() -> Iterator[list[dict[str, Any]]]:
            prepared = _map_ahead(
                lambda index, image: self._preprocess_item(index, image, preprocess_params),
                _items(inputs),
                num_workers,
                ahead=2 * max(batch_size, num_workers),
            )
            for batch in _batches(prepared, batch_size):
                scores = self.forward(_stack(batch), **forward_params)["scores"]
                for row in scores.split(1):
                    yield self.postprocess({"scores": row}, **postprocess_params)

        return _Results(classify, inputs)

    def _preprocess_item(self, index: int | None, image: Any, params: dict) -> dict[str, torch.Tensor]:
        which = f"The {self.noun}" if index is None else f"{self.noun.capitalize()} {index}"
        try:
            return self.preprocess(image, **params)
        except (TypeError, ValueError, OSError) as error:
            # The image processor puts the image's number before its cause, which is another one here.
            kinds = UnreadableImage if isinstance(error, UnreadableImage) else (TypeError, ValueError)
            cause = error.__cause__ if isinstance(error.__cause__, kinds) else error
            if isinstance(error, TypeError):
                raise TypeError(f"{which} is of a type that is not supported: {cause}") from error
            described = repr(image) if isinstance(image, (str, os.PathLike)) else type(image).__name__
            cause = str(cause).removeprefix(f"{str(image)[:200]}: ")  # a URL is named already
            raise ValueError(f"{which} ({described[:200]}) cannot be read: {cause}") from error


class _ReadsFiles:
    """Pictures come as they are to the image processor, whose reader knows 16 bits, limits and damaged files."""

    def preprocess(self, image: Any, timeout: float | None = None, **options) -> dict[str, torch.Tensor]:
        """Pixels of one image, (1, channels, height, width) in the model's dtype."""
        if not opens_files(self.image_processor):  # another class's
            return super().preprocess(image, timeout=timeout, **options)
        options["image_limits"] = _check_limits(options.get("image_limits", DEFAULT_LIMITS), timeout)
        pixel_values = self.image_processor(images=[image], return_tensors="pt", **options)["pixel_values"]
        return {"pixel_values": pixel_values.to(self.dtype)}


class ClipHFImageClassificationPipeline(_ReadsFiles, ImageClassificationPipeline):
    """`pipeline("image-classification")` for [`ClipHFForImageClassification`]: the stock one, with our reader."""


class ClipHFImageFeatureExtractionPipeline(_ReadsFiles, ImageFeatureExtractionPipeline):
    """`pipeline("image-feature-extraction")` for our vision towers: the stock one, with our reader."""


class _Results:
    """The results of a pipeline call: iterating computes them; as long as the input, where that has a length."""

    def __init__(self, classify: Callable[[], Iterator], inputs: Iterable):
        self._classify = classify
        self._inputs = inputs
        self._iterator: Iterator | None = None

    def __iter__(self) -> Iterator:
        return self._classify()

    def __next__(self):
        if self._iterator is None:
            self._iterator = self._classify()
        return next(self._iterator)

    def __len__(self) -> int:
        return len(self._inputs)


def _check_limits(limits: ImageLimits, timeout: float | None) -> ImageLimits:
    # By the fields, because a repo's own code has a class of its own.
    if not all(hasattr(limits, field.name) for field in fields(ImageLimits)):
        raise TypeError(f"`image_limits` is {limits!r}; it must be an `ImageLimits`.")
    return limits if timeout is None else replace(limits, max_seconds=timeout)


def _is_one_image(image: Any) -> bool:
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return image.ndim < 4
    single = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping)
    if isinstance(image, single) or hasattr(image, "read"):
        return True
    # Numbers of numpy have `__getitem__`.
    if isinstance(image, Number) or not (hasattr(image, "__iter__") or hasattr(image, "__getitem__")):
        raise TypeError(
            "An image is a path, a URL, the bytes of an image file, a PIL image, an array or a tensor, not "
            f"{type(image).__name__}: given {image!r:.60}."
        )
    return False


def _items(inputs: Iterable) -> Iterator:
    # A torch dataset has a length and an index but is no iterator, and need not end with IndexError.
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return (inputs[index] for index in range(len(inputs)))
    return iter(inputs)


def _map_ahead(function: Callable[[int, Any], Any], items: Iterator, num_workers: int, ahead: int) -> Iterator:
    """Map `function(index, item)` over `items` in order, up to `ahead` items before they are asked for.

    One thread reads `items`, which need not be thread-safe, and `num_workers` threads map. Threads rather than
    processes: decoding and resizing release the interpreter lock, and nothing must be copied or pickled.
    """
    if num_workers == 0:
        yield from (function(index, item) for index, item in enumerate(items))
        return
    queue: Queue = Queue(maxsize=ahead)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="preprocess")

    def read() -> None:
        try:
            for index, item in enumerate(items):
                if isinstance(item, Image.Image):
                    # Load here, because the same lazily opened image may occur twice, and loading is not thread-safe.
                    # What cannot be loaded fails again, with its index, in `function`.
                    with suppress(Exception):
                        item.load()
                if stopped.is_set():
                    return
                queue.put(pool.submit(function, index, item))
            queue.put(None)
        except BaseException as error:  # whatever the input raises is the reader's to see
            queue.put(error)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (future := queue.get()) is not None:
            if isinstance(future, BaseException):
                raise future
            yield future.result()
    finally:
        stopped.set()
        while not queue.empty():
            queue.get_nowait()
        pool.shutdown(wait=False, cancel_futures=True)


def _batches(items: Iterator, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _stack(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    shapes = {tuple(item["pixel_values"].shape[1:]) for item in batch}
    if len(shapes) > 1:
        raise ValueError(
            f"The image processor made images of different shapes, {sorted(shapes)}, which cannot form a batch: use "
            "`batch_size=1`, or an image processor that crops."
        )
    return {"pixel_values": torch.cat([item["pixel_values"] for item in batch])}
