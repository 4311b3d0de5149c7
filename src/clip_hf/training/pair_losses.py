# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss of a batch as an object: what it takes of the batch, and what it computes from the embeddings."""

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from ..embedding.dual_encoder import DualEncoder
from ..embedding.load_encoder import load_dual_encoder
from ..model.loss_clip_hf import contrastive_loss, gather_with_grad, sigmoid_loss
from ..model.modeling_clip_hf import ClipHFModel
from ..model.video_loss_clip_hf import same_label_loss
from .class_prompts import ClassPrompts
from .soft_target_loss import SoftTargets, soft_target_loss
from .text_sets import negatives_term


class PairLoss(nn.Module):
    """The loss of a batch of pairs over all processes; a new loss is a subclass and a line in `build_pair_loss`.

    A subclass has

    - `batch_names`: names of a batch's tensors that `forward` takes as keywords, where the batch has them. They may
      be inputs of the model, too, such as `pixel_values` for a teacher;
    - `allows_grad_cache`: whether it is a function of the embeddings of the batch's pairs, so that [`GradCache`] gives
      its gradient;
    - perhaps parameters of its own, such as a projection. The training gives them to the optimiser, averages their
      gradients over the processes and keeps them in checkpoints; they are not saved with the model. Modules that are
      not trained, such as a teacher, must not be registered: hold them in a tuple.

    `forward(image_embeds, text_embeds, /, *scalars, **extras)` takes this process's L2-normalised embeddings, the
    model's multiplier `exp(logit_scale)` and, where it has one, its `logit_bias`, and what `batch_names` says. It
    returns a scalar, whose mean over the processes is the loss of the whole batch. What it takes by position has no
    keyword, so that a batch may have any name, such as `texts`; a subclass that differs is a TypeError.
    """

    batch_names: tuple[str, ...] = ("image_ids", "text_ids")
    allows_grad_cache: bool = True

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        parameters = inspect.signature(cls.forward).parameters.values()
        named = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        if named:
            raise TypeError(
                f"{cls.__name__}.forward takes {', '.join(named)} by position or by keyword, and a batch may have "
                "the same name: put a `/` after what comes by position and a `*` before the rest."
            )

    def model_inputs(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The inputs of the model for those of a batch; a loss may put other texts in their place."""
        return inputs


class SoftmaxLoss(PairLoss):
    """[`contrastive_loss`] with the negatives of all processes.

    Args:
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the targets that is spread over all pairs.
        chunk_size (`int`, *optional*): Rows of the similarity matrix in memory at a time; by default the loss chooses
            by the size of the batch.
    """

    def __init__(self, label_smoothing: float = 0.0, chunk_size: int | None = None):
        super().__init__()
        self.options = {"label_smoothing": label_smoothing, "chunk_size": chunk_size or "auto", "gather": True}

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, /, *scalars: torch.Tensor, **ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        return contrastive_loss(images, texts, *scalars, **self.options, **ids)


class SigmoidLoss(PairLoss):
    """[`sigmoid_loss`] with the negatives of all processes, for models with a `logit_bias`; `chunk_size` is that of
    [`SoftmaxLoss`].
    """

    def __init__(self, chunk_size: int | None = None):
        super().__init__()
        self.options = {"chunk_size": chunk_size or "auto", "gather": True}

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, /, *scalars: torch.Tensor, **ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        return sigmoid_loss(images, texts, *scalars, **self.options, **ids)


class SameLabelLoss(PairLoss):
    """[`same_label_loss`]: pairs of one `text_ids`, whose captions are equal, have one label.

    Args:
        target_scale (`float`): Multiplier of the same-label matrix whose softmax is the targets.
    """

    batch_names = ("text_ids",)

    def __init__(self, target_scale: float):
        super().__init__()
        self.target_scale = target_scale

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, /, *, text_ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        return same_label_loss(
            images, texts, logit_scale, labels=text_ids, target_scale=self.target_scale, gather=True
        )


class ClassesLoss(PairLoss):
    """Cross-entropy of each image over all classes, whose prompts are the texts of every step (CLIP-LoRA, Zanella and
    Ben Ayed 2024, section 4); the text tower is trained through all of them.

    - With several templates one is drawn for each step, the same on all processes.
    - Processes compare their own images with all classes, so nothing is gathered.

    Args:
        prompts ([`ClassPrompts`]): The classes.
        seed (`int`, *optional*, defaults to 0): Of the templates' draws.
    """

    batch_names = ("text_ids",)
    allows_grad_cache = False

    def __init__(self, prompts: ClassPrompts, seed: int = 0):
        super().__init__()
        self.prompts, self.seed = prompts, seed
        # In checkpoints, so that a resumed training goes on with the draws.
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    def model_inputs(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch's images, and the prompts of all classes `(classes, length)` in the template of the step."""
        draw = random.Random(f"{self.seed}/{int(self.num_steps)}")
        tokens = self.prompts.tokens[draw.randrange(len(self.prompts.tokens))]
        self.num_steps += 1
        pixels = inputs["pixel_values"]
        return {"pixel_values": pixels, **{name: value.to(pixels.device) for name, value in tokens.items()}}

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, /, *, text_ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these images of this process, a scalar; `texts` are those of all classes, `(classes, dim)`."""
        matches = text_ids[:, None] == self.prompts.text_ids.to(text_ids.device)  # (batch, classes)
        return nn.functional.cross_entropy(logit_scale * images @ texts.T, matches.int().argmax(dim=1))


class TextSetLoss(PairLoss):
    """The softmax or sigmoid loss of batches that have several texts for each image.

    Args:
        base ([`SoftmaxLoss`] or [`SigmoidLoss`]): The loss of images and captions.
        short_weight (`float`, *optional*): Weight of the same loss of images and short captions, which is added
            (Long-CLIP, Zhang et al. 2024, without its principal components); None where there are none.
        has_negatives (`bool`, *optional*, defaults to `False`): Whether there are hard negatives, which are further
            candidates for all images: NegCLIP, Yuksekgonul et al. 2023. Label smoothing leaves them out.
    """

    batch_names = ("image_ids", "text_ids", "short_ids", "negative_ids")

    def __init__(self, base: PairLoss, short_weight: float | None = None, has_negatives: bool = False):
        super().__init__()
        self.base, self.short_weight, self.has_negatives = base, short_weight, has_negatives

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, /, *scalars: torch.Tensor, **ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar; `texts` are `(n, texts, dim)`: the caption, the short
        caption if there is one, and the negatives.
        """
        of_images = {"image_ids": ids["image_ids"]} if "image_ids" in ids else {}
        captions = texts[:, 0]
        loss = self.base(images, captions, *scalars, text_ids=ids["text_ids"], **of_images)
        if self.has_negatives:
            first = 1 if self.short_weight is None else 2
            loss = loss + negatives_term(images, captions, texts[:, first:], scalars, ids)
        if self.short_weight is not None:
            short = self.base(images, texts[:, 1], *scalars, text_ids=ids["short_ids"], **of_images)
            loss = loss + self.short_weight * short
        return loss


class SoftLabelLoss(PairLoss):
    """[`soft_target_loss`] with the similarities of the pairs' labels as targets.

    Args:
        target_scale (`float`): Multiplier of the labels' cosines.
    """

    batch_names = ("label_vectors", "label_ids")

    def __init__(self, target_scale: float):
        super().__init__()
        self.target_scale = target_scale

    def forward(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        logit_scale: torch.Tensor,
        /,
        *,
        label_vectors: torch.Tensor | None = None,
        label_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar; the labels are vectors `(n, width)`, L2-normalised, or
        ids of classes `(n, most)`, -1 for none.
        """
        vectors = class_vectors(label_ids) if label_vectors is None else label_vectors
        targets = [SoftTargets(vectors, vectors, self.target_scale)]
        return soft_target_loss(images, texts, logit_scale, targets=targets, gather=True)


def class_vectors(label_ids: torch.Tensor) -> torch.Tensor:
    """Vectors whose products are the cosines of sets of classes.

    Args:
        label_ids (`torch.Tensor` of shape `(n, most)`, integer): The classes of each pair of this process, each once,
            filled up with -1.

    Returns:
        `torch.Tensor` of shape `(n, classes)`, float32: 1 for each class of the pair among all classes of the batch of
        all processes, L2-normalised.
    """
    most = torch.tensor(label_ids.shape[1], device=label_ids.device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    padded = F.pad(label_ids, (0, int(most) - label_ids.shape[1]), value=-1)
    classes = gather_with_grad(padded).unique()
    vectors = (label_ids[:, :, None] == classes[classes >= 0]).any(dim=1).float()
    return F.normalize(vectors, dim=1)


class SoftTextLoss(PairLoss):
    """[`soft_target_loss`] with another model's similarities of the pairs' texts as targets.

    Args:
        encoder ([`DualEncoder`]): The other model.
        target_scale (`float`): Multiplier of its cosines.
    """

    batch_names = ("texts",)

    def __init__(self, encoder: DualEncoder, target_scale: float):
        super().__init__()
        self.encoder, self.target_scale = encoder, target_scale

    def forward(
        self, images: torch.Tensor, text_embeds: torch.Tensor, logit_scale: torch.Tensor, /, *, texts: Sequence[str]
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        vectors = self.encoder.encode_texts(texts)
        targets = [SoftTargets(vectors, vectors, self.target_scale)]
        return soft_target_loss(images, text_embeds, logit_scale, targets=targets, gather=True)


class LossChoices(Protocol):
    """The options that [`build_pair_loss`] reads, such as a [`TrainingOptions`]."""

    loss: str
    label_smoothing: float
    loss_chunk_size: int | None
    target_scale: float
    seed: int
    target_model: str | None
    negative_column: str | None
    short_caption_column: str | None
    short_caption_weight: float


# The loss by its option's value, for models without a logit bias.
_BUILDERS: dict[str, Callable[[Any, ClipHFModel], PairLoss]] = {
    "softmax": lambda options, clip: SoftmaxLoss(options.label_smoothing, options.loss_chunk_size),
    "same_label": lambda options, clip: SameLabelLoss(options.target_scale),
    "soft_labels": lambda options, clip: SoftLabelLoss(options.target_scale),
    "soft_texts": lambda options, clip: SoftTextLoss(
        load_dual_encoder(options.target_model, device=clip.logit_scale.device), options.target_scale
    ),
}
_OF_A_BIAS = ("softmax", "sigmoid")


def loss_of(loss: str, has_bias: bool) -> str:
    """The loss that a model is trained with: of softmax and sigmoid, the one that it has a `logit_bias` for or not."""
    if loss not in _OF_A_BIAS:
        return loss
    return "sigmoid" if has_bias else "softmax"


def build_pair_loss(options: LossChoices, clip: ClipHFModel, prompts: ClassPrompts | None = None) -> PairLoss:
    """Build the loss that the options of a training name.

    A model with a `logit_bias` is trained with the sigmoid loss, whether `loss` is `"sigmoid"` or `"softmax"`.

    Args:
        options ([`TrainingOptions`]): The options of the training.
        clip ([`ClipHFModel`]): The model to train, not wrapped.
        prompts (`ClassPrompts`, *optional*): The classes, for the loss `classes`; `read_class_prompts` reads them.

    Raises:
        ValueError: if the loss does not fit the model.
    """
    if clip.logit_bias is None and options.loss == "classes":
        return ClassesLoss(prompts, options.seed)
    if clip.logit_bias is None:
        # The sigmoid loss of a model without a bias: it was pretrained with the softmax loss, and goes on with it.
        return _of_text_sets(options, _BUILDERS[loss_of(options.loss, has_bias=False)](options, clip))
    if options.loss not in _OF_A_BIAS:
        raise ValueError(
            f"The loss is `{options.loss}`, and the model has a `logit_bias`: it is one of the sigmoid loss, and can "
            "only be trained with that."
        )
    if options.label_smoothing:
        raise ValueError(
            f"`label_smoothing` is {options.label_smoothing}, and the model has a `logit_bias`: it is trained "
            "with the sigmoid loss, which has no label smoothing; leave it out."
        )
    return _of_text_sets(options, SigmoidLoss(options.loss_chunk_size))


def _of_text_sets(options: LossChoices, base: PairLoss) -> PairLoss:
    """The loss as it is, or for batches with short captions or negatives, which only go with softmax and sigmoid."""
    has_negatives, has_short = options.negative_column is not None, options.short_caption_column is not None
    if not has_negatives and not has_short:
        return base
    return TextSetLoss(base, options.short_caption_weight if has_short else None, has_negatives)
