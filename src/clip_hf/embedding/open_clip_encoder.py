# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""open_clip's models behind our interface, loaded and run by open_clip itself."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..model.checks_clip_hf import did_you_mean
from ..model.zero_shot_clip_hf import MAX_TOKENS_PER_BATCH
from ..utils.fingerprints import tokenizer_digest
from .dual_encoder import DualEncoder
from .transformers_encoder import count_uncut_tokens


class OpenClipEncoder(DualEncoder):
    """A model of open_clip, or another with `encode_image`, `encode_text` and `visual`, such as OpenAI's own class.

    Features before the projection exist for the image towers `VisionTransformer`, `ModifiedResNet` and `TimmModel`
    (except with attention pools, which end with the projection). Texts are encoded at full length, as open_clip does.
    The processor is a pair: the transform of an image to a tensor (channels, height, width), and the tokenizer of a
    list of texts to token ids (n, length).
    """

    packages = (*DualEncoder.packages, "open_clip_torch", "open_clip", "timm", "torchvision", "tokenizers")

    def __init__(self, model: nn.Module, processor: Any, name: str):
        pair = isinstance(processor, (tuple, list)) and len(processor) == 2 and all(map(callable, processor))
        if not pair:
            raise TypeError(
                f"{name} needs processor=(preprocess, tokenizer), as open_clip's `create_model_and_transforms` and "
                f"`get_tokenizer` give them; given {type(processor).__name__}."
            )
        super().__init__(model, tuple(processor), name)
        self.transform, self.tokenizer = processor

    def _prepare(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.stack([self.transform(image) for image in images])}

    def _size_rule(self) -> dict[str, int] | None:
        sizes = [getattr(step, "size", None) for step in getattr(self.transform, "transforms", [])]
        sides = [side for size in sizes if size for side in (size if isinstance(size, (list, tuple)) else [size])]
        return {"shortest_edge": max(sides)} if sides else None

    def _image_tower(self) -> nn.Module:
        return self.model.visual

    def _described_processor(self) -> Any:
        # The repr of a function holds its address.
        transform = re.sub(r" at 0x[0-9a-f]+", "", repr(self.transform))
        tokenizer = getattr(self.tokenizer, "tokenizer", None)  # one of transformers inside
        if hasattr(tokenizer, "get_vocab"):
            content = tokenizer_digest(tokenizer)
        else:
            vocabulary = getattr(self.tokenizer, "encoder", None) or {}
            content = hashlib.blake2b(json.dumps(sorted(map(str, vocabulary.items()))).encode()).hexdigest()
        plain = {
            key: str(value)
            for key, value in sorted(vars(self.tokenizer).items())
            if isinstance(value, (bool, int, float, str)) and key != "name_or_path"
        }
        return [transform, type(self.tokenizer).__name__, content, plain]

    def _image_features(self, inputs: dict[str, Any], projected: bool) -> torch.Tensor:
        pixel_values = inputs["pixel_values"]
        features = self.model.encode_image(pixel_values) if projected else self._before_projection(pixel_values)
        return features[0] if isinstance(features, tuple) else features  # some towers return their tokens, too

    def _before_projection(self, pixel_values: torch.Tensor) -> torch.Tensor:
        visual = self.model.visual
        attnpool = getattr(visual, "attnpool", None)
        if hasattr(visual, "trunk") and hasattr(visual, "head"):
            return self._before_timm_head(visual, pixel_values)
        if isinstance(getattr(visual, "proj", None), nn.Parameter):
            # An identity in the projection's place is exact, and leaves the model as it is.
            replaced = {"proj": _identity(visual.proj, visual.proj.shape[0])}
        elif hasattr(visual, "proj") and visual.proj is None:
            replaced = {}
        elif isinstance(getattr(attnpool, "c_proj", None), nn.Linear):
            weight, bias = attnpool.c_proj.weight, attnpool.c_proj.bias
            replaced = {"attnpool.c_proj.weight": _identity(weight, weight.shape[1])}
            if bias is not None:
                replaced["attnpool.c_proj.bias"] = bias.new_zeros(weight.shape[1])
        else:
            raise self._no_such_features(type(visual).__name__)
        return torch.func.functional_call(visual, replaced, (pixel_values,))

    def _before_timm_head(self, visual: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
        layers = {name for name, _ in visual.head.named_children()}
        if "pool" in layers:
            raise self._no_such_features("TimmModel with an attention pool that ends with the projection")
        classifier = visual.trunk.get_classifier()
        if layers & {"proj", "mlp"} or isinstance(classifier, nn.Identity):
            return visual.trunk(pixel_values)
        # The trunk's own classifier is the projection.
        return visual.trunk.forward_head(visual.trunk.forward_features(pixel_values), pre_logits=True)

    def _no_such_features(self, tower: str) -> ValueError:
        return ValueError(
            f"The image tower of {self.name} is a {tower}, which gives no features before the projection. "
            "Use the projected ones (projected=True)."
        )

    def _text_batches(self, texts: list[str]) -> Iterator[tuple[list[int], torch.Tensor]]:
        size = max(1, MAX_TOKENS_PER_BATCH // self.tokenizer(texts[:1]).shape[-1])
        for start in range(0, len(texts), size):
            token_ids = self.tokenizer(texts[start : start + size])
            yield list(range(start, start + len(token_ids))), self.model.encode_text(token_ids.to(self.device))

    def _token_ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(ids) for ids in self.tokenizer(texts).tolist()]

    @cached_property
    def context_length(self) -> int:
        """The tokens of the longest text that is not cut."""
        return self.tokenizer([""]).shape[-1]

    @cached_property
    def _counting_tokenizer(self) -> Any:
        return copy.deepcopy(self.tokenizer)

    def _count_tokens(self, texts: list[str]) -> list[int]:
        tokenizer = self._counting_tokenizer
        if callable(getattr(tokenizer, "encode", None)):  # open_clip's own, which adds a token at both ends
            return [len(tokenizer.encode(text)) + 2 for text in texts]
        inner = getattr(tokenizer, "tokenizer", None)  # one of transformers inside
        if not callable(inner):
            raise TypeError(
                f"The tokenizer of {self.name}, {type(tokenizer).__name__}, does not tell how many tokens a text has "
                "before it is cut: it has neither `encode` nor a `tokenizer` of transformers."
            )
        clean = getattr(tokenizer, "clean_fn", str)
        return count_uncut_tokens(inner, [clean(text) for text in texts])


def _identity(weight: torch.Tensor, size: int) -> torch.Tensor:
    return torch.eye(size, dtype=weight.dtype, device=weight.device)


def load_open_clip(name: str) -> tuple[nn.Module, tuple[Callable, Callable]]:
    """Load a model of open_clip with its transform and tokenizer, in float32 on the CPU.

    The name is `"ARCH/PRETRAINED_OR_PATH"`, such as `"ViT-B-32/laion2b_s34b_b79k"`; or what open_clip takes instead:
    `"hf-hub:ORG/REPO"`, `"local-dir:FOLDER"`.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "open_clip is not installed: `pip install open_clip_torch`. Checkpoints whose towers are not timm's are "
            "read without it: give the folder or the weight file."
        ) from error
    weights = None
    if not name.startswith(("hf-hub:", "local-dir:")):
        name, _, weights = name.partition("/")
        known = open_clip.list_models()
        if name not in known:
            raise ValueError(f"open_clip has no architecture {name!r}.{did_you_mean(name, known, cutoff=0.3)}")
        if not weights:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise ValueError(f"Name the weights: 'open_clip:{name}/TAG_OR_PATH'. Published tags: {tags}.")
    try:
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights)
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"open_clip cannot load {name}{f' with weights {weights!r}' if weights else ''}: {error} If the weights "
            "are not on this machine, download them first, or name their path: 'open_clip:ARCH/PATH'."
        ) from error
    return model, (transform, tokenizer)
