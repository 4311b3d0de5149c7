# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Relevance of a text's words for a picture."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.text import Text
from torch import nn

from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..model.zero_shot_clip_hf import check_labels
from .attention_twin import attention_twin, check_explainable
from .image_explanation import embed_picture, embed_texts, picture_cosines, read_picture
from .image_maps import attention_relevance, check_relevance, last_layers


_COLOUR = (213, 94, 0)  # Okabe and Ito's vermilion, as in `utils.figures`


@dataclass(frozen=True)
class WordExplanation:
    """How much each word of a text speaks for a picture.

    Args:
        text (`str`): The text, as the tokenizer cleaned it.
        words (`list[str]`): Its words, split at white space.
        relevance (`np.ndarray` of shape `(words,)`, float32): The sum over each word's tokens. It is not negative and
            has no unit: compare the words of one text.
        cosine (`float`): The cosine of the text with the picture.
    """

    text: str
    words: list[str]
    relevance: np.ndarray
    cosine: float

    def shares(self) -> np.ndarray:
        """Each word's relevance as a share of the largest, 0 to 1."""
        return self.relevance / max(float(self.relevance.max()), np.finfo(np.float32).tiny)

    def html(self) -> str:
        """The words as HTML, each with a background as strong as its share; the tooltip has the value."""
        red, green, blue = _COLOUR
        return " ".join(
            f'<span style="background: rgba({red}, {green}, {blue}, {share:.2f})" title="{value:.4g}">'
            f"{html.escape(word)}</span>"
            for word, share, value in zip(self.words, self.shares(), self.relevance, strict=True)
        )

    def rich_text(self) -> Text:
        """The words for a terminal, each with a background as strong as its share."""
        result = Text()
        for word, share in zip(self.words, self.shares(), strict=True):
            # On white, so that dark text is readable at every share.
            mixed = (round(255 + (channel - 255) * float(share)) for channel in _COLOUR)
            result.append(word, style="black on #{:02x}{:02x}{:02x}".format(*mixed))
            result.append(" ")
        result.rstrip()
        return result


def explain_words(
    model: nn.Module,
    processor: Any,
    image: Any,
    texts: Sequence[str],
    *,
    layers: str | int = "all",
    **image_options: Any,
) -> list[WordExplanation]:
    """Explain which words of texts speak for a picture: Chefer's relevance in the text tower (Chefer et al. 2021).

    A word's value is that of its tokens in the row of the end-of-text token, which is pooled. The begin- and
    end-of-text tokens, which gather attention that means nothing, are left out.

    Args:
        model ([`ClipHFModel`]): The model; it is not changed.
        processor ([`ClipHFProcessor`]): Its processor.
        image: A picture in any form that the pipeline takes: path, URL, bytes, PIL image.
        texts (`Sequence[str]`): The texts, all different.
        layers (`"all"`, `"last"` or `int`, *optional*, defaults to `"all"`): Which attention layers count: so many of
            the last.
        image_options (*optional*): `image_limits` and options of the image processor, such as `high_bit_depth`.

    Returns:
        `list[WordExplanation]`: one a text.

    Raises:
        TypeError: if the model, the processor or the image is of a class that cannot be used.
        ValueError: if there are no texts, one is too long, `layers` is out of range, or the picture cannot be read.
        FloatingPointError: if values are not finite, as those of a model with NaN among its weights.
    """
    plain = check_explainable(model)
    texts = [str(text) for text in check_labels(texts)]
    tokenizer = getattr(processor, "tokenizer", None)
    if not hasattr(tokenizer, "clean"):
        raise TypeError(
            f"`processor` is {type_of(processor)}; words need a ClipHFProcessor, whose tokens have places."
        )
    picture = read_picture(processor, image, **image_options)
    text_embeds = embed_texts(plain, processor, texts)
    encoded = tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping").tolist()
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    pooled_at = _pooled_tokens(plain, ids, mask)
    image_embeds = embed_picture(plain, picture)
    rows = _token_relevance(plain, {"input_ids": ids, "attention_mask": mask}, image_embeds, layers)
    cosines = picture_cosines(image_embeds, text_embeds).tolist()
    result = []
    for index, text in enumerate(texts):
        values = rows[index, pooled_at[index]].cpu().numpy()
        places = [place if keep else (0, 0) for place, keep in zip(offsets[index], mask[index].tolist(), strict=True)]
        result.append(_by_word(tokenizer.clean(text), places[: pooled_at[index]], values, cosines[index]))
    return result


def _pooled_tokens(model: ClipHFModel, ids: torch.Tensor, mask: torch.Tensor) -> list[int]:
    """Index of each text's first end-of-text token, or of its last token where a model may lack one."""
    is_eos = (ids == model.config.text_config.eos_token_id) & mask.bool()
    last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    return torch.where(is_eos.any(dim=1), is_eos.int().argmax(dim=1), last).tolist()


def _token_relevance(
    model: ClipHFModel, inputs: dict[str, torch.Tensor], image_embeds: torch.Tensor, layers: str | int
) -> torch.Tensor:
    """Relevance of each token for each other, (texts, length, length). One pass, and one backward for all texts."""
    with torch.inference_mode(False), torch.enable_grad():
        twin = attention_twin(model)
        # The weights may be frozen; then nothing but the embeddings' output can carry the gradient.
        twin.text_model.embeddings.register_forward_hook(lambda _, __, output: output.requires_grad_())
        # Copies, because tensors of inference mode cannot be saved for a backward pass.
        inputs = {name: tensor.to(twin.device, copy=True) for name, tensor in inputs.items()}
        output = twin.get_text_features(**inputs, output_attentions=True)
        dtype = torch.promote_types(twin.dtype, torch.float32)
        embeds = nn.functional.normalize(output.pooler_output.to(dtype), dim=-1)
        cosines = embeds @ image_embeds[0].detach().clone().to(dtype)
        logits = twin.logit_scale.detach().exp() * cosines
        return check_relevance(attention_relevance(logits, last_layers(output.attentions, layers), False))


def _by_word(text: str, places: list[tuple[int, int]], values: np.ndarray, cosine: float) -> WordExplanation:
    """Sum the values of the tokens whose place (start, end) lies in each word; special tokens have none."""
    found = [(match.start(), match.end(), match.group()) for match in re.finditer(r"\S+", text)]
    sums = np.zeros(len(found), np.float32)
    for (start, end), value in zip(places, values[: len(places)], strict=True):
        for index, (first, last, _) in enumerate(found):
            if start < end and first < end and start < last:
                sums[index] += value
                break
    return WordExplanation(text, [word for *_, word in found], sums, cosine)
