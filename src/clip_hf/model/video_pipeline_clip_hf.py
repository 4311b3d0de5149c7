# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot classification of films as a transformers pipeline.

Shapes: `views` clips of each film, `frames` frames of each clip, P prompts of each of L labels.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from .label_scores_clip_hf import check_count, score_labels
from .pipeline_clip_hf import CALL_OPTIONS, ClipHFZeroShotImageClassificationPipeline
from .processing_clip_hf import is_video_processor
from .video_opening_clip_hf import DEFAULT_VIDEO_LIMITS, VideoLimits
from .video_processing_clip_hf import is_picture, split_films
from .video_reading_clip_hf import ClipSampling, read_clip
from .zero_shot_clip_hf import evaluated, features, prompts_for


AGGREGATES = ("embeddings", "probabilities")
DEFAULT_PROMPT_SET = "actionclip"
_VIDEO_OPTIONS = ("num_frames", "num_views", "aggregate", "video_limits")


class ClipHFZeroShotVideoClassificationPipeline(ClipHFZeroShotImageClassificationPipeline):
    """Zero-shot classification of films: `pipeline("zero-shot-video-classification", model=...)` for CLIP.

    It is [`ClipHFZeroShotImageClassificationPipeline`], with its options and results, for films. The model is a
    [`ClipHFVideoModel`] or any CLIP, whose frames' L2-normalised embeddings are then averaged (`meanP`).

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import clip_hf

    >>> classifier = pipeline("zero-shot-video-classification", model=path)
    >>> classifier("skate.mp4", ["skateboarding", "dancing"], num_views=3)
    [{'score': 0..., 'label': '...'}, {'score': 0..., 'label': '...'}]
    ```
    """

    noun = "video"
    call_options = (*(name for name in CALL_OPTIONS if name not in ("image_limits", "timeout")), *_VIDEO_OPTIONS)

    def __call__(
        self, videos: Any = None, candidate_labels: list[str] | None = None, **kwargs
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterable[list[dict[str, Any]]]:
        """Score `candidate_labels` for each film.

        Options besides those of [`ClipHFZeroShotImageClassificationPipeline`]'s call:

        - `hypothesis_template`: as there; by default the prompt set `"actionclip"`, the 16 prompts of ActionCLIP.
        - `aggregate` (`str`): what becomes of several prompts, and of several views of a film. `"embeddings"`, the
          default: their embeddings are averaged (Radford et al. 2021, section 3.1.4). `"probabilities"`: there is a
          softmax over the labels for each prompt and view, and these are averaged, as in ActionCLIP's test.
        - `num_frames` (`int`): frames of a clip; by default the video processor's, the model's, or 8.
        - `num_views` (`int`): clips of each film, at different places of its parts; by default 1.
        - `video_limits` ([`VideoLimits`]): bytes, pixels and seconds of a film that may be read.

        Args:
            videos: A film or several, as [`ClipHFVideoProcessor`] takes them: paths, bytes, undecoded films of
                `datasets`, lists of frames, arrays; or a dataset or generator of them.
            candidate_labels (`Iterable[str | int]`): The labels, all different.
            **kwargs: The options above, `num_workers` and `batch_size`.

        Returns:
            As there: for one film a list of `{"score": float, "label": str}`, best first.

        Raises:
            ValueError: if an option does not make sense, before any work; if a film cannot be read, with its index.
            TypeError: if an option, a label or a film is of the wrong type, or there is no such option.
        """
        return super().__call__(videos, candidate_labels, **kwargs)

    def check_model_type(self, supported_models) -> None:
        """Nothing: any model with the two towers will do."""

    def _sanitize_parameters(self, **kwargs):
        own = {name: kwargs.pop(name) for name in _VIDEO_OPTIONS if name in kwargs}
        own = {name: value for name, value in own.items() if value is not None}
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        for name in ("num_frames", "num_views"):
            if name in own:
                preprocess[name] = check_count(name, own[name], 1)
        if "video_limits" in own:
            preprocess["video_limits"] = own["video_limits"]
        if "aggregate" in own:
            if own["aggregate"] not in AGGREGATES:
                raise ValueError(
                    f"`aggregate` is {own['aggregate']!r}; it must be one of {', '.join(map(repr, AGGREGATES))}."
                )
            forward["aggregate"] = own["aggregate"]
        _check_together({**getattr(self, "_forward_params", {}), **forward})
        return preprocess, forward, postprocess

    def preprocess(
        self,
        video: Any,
        num_frames: int | None = None,
        num_views: int = 1,
        video_limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
        **options,
    ) -> dict[str, torch.Tensor]:
        """Pixels of one film; `options` are those of the image processor.

        Returns:
            `dict[str, torch.Tensor]`: `pixel_values` of shape (1, views, frames, channels, height, width).
        """
        if num_frames is None:
            num_frames = getattr(self.image_processor, "num_frames", getattr(self.model.config, "num_frames", 8))
        (film,) = split_films(video)
        if is_picture(film):
            frames, num_frames, num_views = [film], 1, 1
        else:
            frames = read_clip(film, ClipSampling(num_frames, num_views), limits=video_limits)
        if is_video_processor(self.image_processor):
            options["do_sample_frames"] = False
            frames = frames[0] if len(frames) == 1 else frames
        pixel_values = self.image_processor(images=frames, return_tensors="pt", **options)["pixel_values"]
        shape = (1, num_views, num_frames, *pixel_values.shape[-3:])
        return {"pixel_values": pixel_values.to(self.dtype).reshape(shape)}

    def is_single(self, video: Any) -> bool:
        """Whether `video` is one film, perhaps as a list of its frames; TypeError if it cannot be one or several."""
        if isinstance(video, np.ndarray | torch.Tensor):
            return video.ndim < 5
        if isinstance(video, list | tuple):
            return bool(video) and all(isinstance(frame, Image.Image) or _is_picture(frame) for frame in video)
        # A decoder of torchcodec looks like a list of frames; reading it says what to do instead.
        return type(video).__name__ == "VideoDecoder" or super().is_single(video)

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """L2-normalised embeddings of films (batch, dim): the mean of their views'."""
        return nn.functional.normalize(self._embed_views(pixel_values).mean(dim=1), dim=-1)

    def _embed_views(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, views, frames, channels, height, width) -> L2-normalised (batch, views, dim), in float32."""
        model, (batch, views, frames) = evaluated(self.model), pixel_values.shape[:3]
        if self.model.config.model_type == "clip_hf_video":
            return features(model, "image", pixel_values=pixel_values.flatten(0, 1)).unflatten(0, (batch, views))
        embeds = features(model, "image", pixel_values=pixel_values.flatten(0, 2))  # a row a frame, L2-normalised
        return nn.functional.normalize(embeds.unflatten(0, (batch, views, frames)).mean(dim=2), dim=-1)

    def _forward(
        self,
        model_inputs: dict[str, torch.Tensor],
        labels: list[str],
        templates=DEFAULT_PROMPT_SET,
        aggregate: str = "embeddings",
        **options,
    ) -> dict[str, torch.Tensor]:
        """Scores (batch, labels) of a batch of films, in float32."""
        if aggregate == "embeddings":
            return super()._forward(model_inputs, labels, templates, **options)
        prompts = prompts_for(labels, templates)  # L lists of P
        classifiers = [] if options.get("classifiers") is None else options["classifiers"]
        if not classifiers:
            # One classifier for all, each prompt by itself: the cache keeps it as one.
            each = [prompt for texts in prompts for prompt in texts]
            single = {index: prompt.replace("{", "{{").replace("}", "}}") for index, prompt in enumerate(each)}
            wanted = [(list(single), single)]
            classifiers += self._classifiers.get_all(
                self.model, self.tokenizer, wanted, options.get("tokenizer_kwargs")
            )
        embeds = self._embed_views(model_inputs["pixel_values"])  # (batch, views, dim)
        with torch.autocast(embeds.device.type, enabled=False):
            cosines = embeds @ classifiers[0].to(embeds).T  # (batch, views, L * P)
        cosines = cosines.unflatten(-1, (len(labels), -1)).transpose(2, 3)  # (batch, views, P, L)
        bias = getattr(self.model, "logit_bias", None)
        scale, bias = self.model.logit_scale.exp().to(cosines), None if bias is None else bias.to(cosines)
        scores = score_labels(cosines.flatten(0, 2), len(labels), scale, bias, False, "softmax")
        return {"scores": scores.unflatten(0, cosines.shape[:3]).mean(dim=(1, 2))}


def _is_picture(frame: Any) -> bool:
    return isinstance(frame, np.ndarray | torch.Tensor) and frame.ndim < 4


def _check_together(options: Mapping[str, Any]) -> None:
    """Check what averaging probabilities excludes."""
    if options.get("aggregate") != "probabilities":
        return
    given = [name for name in ("background", "multi_label") if options.get(name)]
    if given or options.get("function_to_apply", "softmax") != "softmax":
        raise ValueError(
            f"`aggregate='probabilities'` averages softmaxes over the labels; leave out "
            f"`{given[0] if given else 'function_to_apply'}`, or use 'embeddings'."
        )
    templates = options.get("templates")
    if isinstance(templates, Mapping) and len({len(prompts) for prompts in templates.values()}) > 1:
        raise ValueError(
            "`aggregate='probabilities'` needs as many prompts for every label, because it compares the labels prompt "
            "by prompt; the mapping has different numbers. Use 'embeddings'."
        )
