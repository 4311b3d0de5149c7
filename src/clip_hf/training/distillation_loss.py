# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Losses that a student learns from its teachers' features with.

Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation": contrastive relational distillation,
feature distillation and interactive contrastive learning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ..model.checks_clip_hf import check_finite
from ..model.loss_clip_hf import check_pairs, gather_with_grad
from ..model.modeling_clip_hf import ClipHFModel
from .pair_losses import PairLoss
from .soft_target_loss import SoftTargets, soft_target_loss
from .teachers import TEACHER_FEATURES, TeacherRecord


_IDS = ("image_ids", "text_ids")


@dataclass(frozen=True)
class DistillationWeights:
    """Factors of the parts of a [`DistillationLoss`]; a part with 0 is not computed.

    Args:
        contrastive (`float`, *optional*, defaults to 1.0): Of the loss without a teacher. MobileCLIP's small models
            have 0 (Vasu et al. 2024), CLIP-KD 1.
        soft (`float`, *optional*, defaults to 1.0): Of [`soft_target_loss`] with the teachers' similarities; CLIP-KD's
            and TinyCLIP's 1.
        features (`float`, *optional*, defaults to 2000.0): Of [`feature_loss`]; CLIP-KD's 2000.
        interactive (`float`, *optional*, defaults to 1.0): Of [`interactive_loss`]; CLIP-KD's 1.

    Raises:
        ValueError: if a factor is negative or not finite, or all are 0.
        TypeError: if one is no number.
    """

    contrastive: float = 1.0
    soft: float = 1.0
    features: float = 2000.0
    interactive: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if check_finite(name, value) < 0:
                raise ValueError(f"The weight `{name}` is {value}; it must be at least 0.")
        if not any(vars(self).values()):
            raise ValueError("All weights of the loss are 0, so nothing would be learnt; give one that is not.")


def feature_loss(image_embeds: torch.Tensor, text_embeds: torch.Tensor, targets: SoftTargets) -> torch.Tensor:
    """The mean squared error of L2-normalised embeddings, of the images plus of the texts.

    The mean is over pairs and dimensions, as in CLIP-KD's code, whence its factor of 2000: for a cosine `c` to the
    teacher and a width `d`, a pair's error is `(2 - 2 c) / d`.

    Args:
        image_embeds, text_embeds (`torch.Tensor` of shape `(batch, dim)`): The student's, L2-normalised.
        targets ([`SoftTargets`]): The teacher's `images` and `texts`, of the same shape, L2-normalised.

    Returns:
        `torch.Tensor`, a scalar. The teacher gets no gradient.

    Raises:
        ValueError: if the batch is empty, or the shapes differ.
    """
    images, texts = _teacher_embeds(image_embeds, text_embeds, targets)
    return F.mse_loss(image_embeds, images) + F.mse_loss(text_embeds, texts)


def _teacher_embeds(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, targets: SoftTargets
) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's images and texts without gradient, checked to be of the student's shape."""
    check_pairs(image_embeds, text_embeds)
    if targets.images.shape != image_embeds.shape:
        raise ValueError(
            f"The teacher's embeddings have the shape {tuple(targets.images.shape)} and the student's "
            f"{tuple(image_embeds.shape)}; they must be the same. `DistillationLoss` projects to another width."
        )
    return targets.images.detach(), targets.texts.detach()


def interactive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    targets: SoftTargets,
    *,
    gather: bool = False,
    **ids: torch.Tensor,
) -> torch.Tensor:
    """The contrastive loss between a student's embeddings and its teacher's: student's images with the teacher's
    texts, and student's texts with the teacher's images.

    Args:
        image_embeds, text_embeds (`torch.Tensor` of shape `(batch, dim)`): The student's, L2-normalised.
        logit_scale (`torch.Tensor`, scalar): The student's multiplier of the cosines.
        targets ([`SoftTargets`]): The teacher's `images` and `texts`, of the same shape, L2-normalised.
        gather (`bool`, *optional*, defaults to `False`): Whether the teacher's embeddings come from all processes.
        ids (`torch.Tensor` of shape `(batch,)`, integer): `image_ids`, `text_ids`: pairs that share one are positives
            of each other, as in [`contrastive_loss`].

    Returns:
        `torch.Tensor`, a scalar: the mean of the two cross-entropies. The teacher gets no gradient.

    Raises:
        ValueError: as [`feature_loss`].
    """
    images, texts = _teacher_embeds(image_embeds, text_embeds, targets)
    count, rank = len(image_embeds), dist.get_rank() if gather and dist.is_initialized() else 0
    # Without ids, each pair has a number of its own among those of all processes.
    known = list(ids.values()) or [torch.arange(rank * count, (rank + 1) * count, device=image_embeds.device)]
    positive = torch.zeros((), dtype=torch.bool, device=image_embeds.device)
    for own in known:
        positive = positive | (own[:, None] == (gather_with_grad(own) if gather else own))  # (batch, all pairs)
    target = positive / positive.sum(dim=1, keepdim=True)
    losses = []
    for student, teacher in ((image_embeds, texts), (text_embeds, images)):
        teacher = gather_with_grad(teacher) if gather else teacher
        logits = logit_scale * (student @ teacher.T)
        losses.append(F.cross_entropy(logits, target.to(logits.dtype)))
    return sum(losses) / 2


class DistillationLoss(PairLoss):
    """A pair loss plus what the student learns from its teachers.

    `contrastive * pair_loss + soft * soft_target_loss + features * feature_loss + interactive * interactive_loss`

    - The targets of the soft loss are averaged over the teachers after each one's softmax with its own scale; the
      other two losses are averaged themselves.
    - The soft loss compares similarities, so widths may differ. The other two compare embeddings: for a teacher of
      another width the student's image and text embeddings pass through a learned linear layer each, and are
      normalised again. These layers are trained and kept in checkpoints, not saved with the model.

    Args:
        pair_loss ([`PairLoss`]): The loss without a teacher.
        teachers (`Sequence[TeacherRecord]`): In the order of their features in the batch.
        weights ([`DistillationWeights`]): The factors.
        dim (`int`): Width of the student's embeddings.
    """

    def __init__(self, pair_loss: PairLoss, teachers: Sequence[TeacherRecord], weights: DistillationWeights, dim: int):
        super().__init__()
        self.pair_loss, self.teachers, self.weights = pair_loss, tuple(teachers), weights
        self.batch_names = tuple(dict.fromkeys([*pair_loss.batch_names, *_IDS, TEACHER_FEATURES]))
        self.allows_grad_cache = pair_loss.allows_grad_cache
        compares = weights.features > 0 or weights.interactive > 0
        self.projections = nn.ModuleDict(
            {
                f"{tower}_{number}": nn.Linear(dim, teacher.dim)
                for number, teacher in enumerate(self.teachers)
                if compares and teacher.dim != dim
                for tower in ("image", "text")
            }
        )

    def model_inputs(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The inputs of the model, which the loss without a teacher chooses."""
        return self.pair_loss.model_inputs(inputs)

    def forward(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        logit_scale: torch.Tensor,
        /,
        *bias: torch.Tensor,
        teacher_features: torch.Tensor,
        **extras: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        weights, loss = self.weights, 0.0
        if weights.contrastive:
            own = {name: extras[name] for name in self.pair_loss.batch_names if name in extras}
            loss = weights.contrastive * self.pair_loss(images, texts, logit_scale, *bias, **own)
        with torch.autocast(images.device.type, enabled=False):
            dtype = torch.promote_types(images.dtype, torch.float32)
            images, texts, scale = (tensor.to(dtype) for tensor in (images, texts, logit_scale))
            targets = list(self._targets(teacher_features.to(dtype)))
            if weights.soft:
                loss = loss + weights.soft * soft_target_loss(images, texts, scale, targets=targets, gather=True)
            ids = {name: extras[name] for name in _IDS if name in extras}
            for number, target in enumerate(targets):
                loss = loss + self._compare(number, images, texts, scale, target, ids) / len(targets)
        return loss

    def _targets(self, features: torch.Tensor) -> Iterator[SoftTargets]:
        """Each teacher's part of the features."""
        widths = [width for teacher in self.teachers for width in (teacher.dim, teacher.dim)]
        parts = iter(features.split(widths, dim=1))
        for teacher in self.teachers:
            yield SoftTargets(next(parts), next(parts), teacher.logit_scale)

    def _compare(
        self,
        number: int,
        images: torch.Tensor,
        texts: torch.Tensor,
        scale: torch.Tensor,
        target: SoftTargets,
        ids: dict[str, torch.Tensor],
    ) -> torch.Tensor | float:
        """The losses that compare embeddings with those of a teacher, by its number."""
        weights, loss = self.weights, 0.0
        if f"image_{number}" in self.projections:
            images, texts = (
                self._project(f"{tower}_{number}", embeds) for tower, embeds in (("image", images), ("text", texts))
            )
        if weights.features:
            loss = weights.features * feature_loss(images, texts, target)
        if weights.interactive:
            loss = loss + weights.interactive * interactive_loss(images, texts, scale, target, gather=True, **ids)
        return loss

    def _project(self, name: str, embeds: torch.Tensor) -> torch.Tensor:
        layer = self.projections[name]
        projected = F.linear(embeds, layer.weight.to(embeds.dtype), layer.bias.to(embeds.dtype))
        return F.normalize(projected, dim=-1)


class DistillationChoices(Protocol):
    """The options that [`with_teachers`] reads, such as a [`TrainingOptions`]."""

    contrastive_weight: float
    distill_soft: float
    distill_features: float
    distill_interactive: float


def with_teachers(
    options: DistillationChoices, pair_loss: PairLoss, records: Sequence[TeacherRecord], clip: ClipHFModel
) -> PairLoss:
    """The loss itself, or, where there are teachers, a [`DistillationLoss`] around it.

    Args:
        options ([`TrainingOptions`]): Its weights.
        pair_loss ([`PairLoss`]): The loss without a teacher.
        records (`Sequence[TeacherRecord]`): The teachers, as their features are in the batch.
        clip ([`ClipHFModel`]): The student.
    """
    if not records:
        return pair_loss
    weights = DistillationWeights(
        contrastive=options.contrastive_weight,
        soft=options.distill_soft,
        features=options.distill_features,
        interactive=options.distill_interactive,
    )
    return DistillationLoss(pair_loss, records, weights, clip.config.projection_dim)
