# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Large contrastive batches in little memory: GradCache.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states

from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel
from .text_sets import embed_pairs


class _RandomState:
    """The states of the random generators of the CPU and of the devices that some tensors are on."""

    def __init__(self, tensors: Sequence[torch.Tensor]):
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)


class GradCache:
    """Forward and backward of a contrastive batch, with only a chunk of it at a time in the towers with gradient.

    1. All embeddings are computed, chunk by chunk and without gradient.
    2. The loss over all of them gives the gradient of each embedding.
    3. Each chunk goes through the towers again, now with gradient, and the gradients of its embeddings go back.

    The random state of a chunk's first pass is restored for its second, so that dropout drops the same values. The
    gradient of the parameters is exactly that of the whole batch; the cost is one more forward pass.

    Args:
        accelerator (`Accelerator`): Does the backward passes; gradients are averaged over processes once, in that of
            the last chunk.
        model (`nn.Module`): A [`ClipHFModel`] as `accelerator.prepare` returned it.
        loss_function (`Callable`): `(image_embeds, text_embeds, *scalars) -> loss`, such as [`contrastive_loss`]; the
            embeddings are those of this process's whole batch.
        scalars (`Callable`): `() -> tuple of tensors`: the other learned inputs of the loss, such as the multiplier
            `model.logit_scale.exp()`.
        chunk_size (`int`): Pairs of this process in the towers at a time. It need not divide the batch.
        parameters (`Sequence[nn.Parameter]`, *optional*): Those of the loss function itself, outside the model; their
            gradients are this process's.

    Raises:
        ValueError: if `chunk_size` is not positive, BatchNorm computes statistics of a batch, or DeepSpeed, which
            averages gradients after each backward pass, is in use.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        loss_function: Callable[..., torch.Tensor],
        scalars: Callable[[], tuple[torch.Tensor, ...]],
        chunk_size: int,
        parameters: Sequence[nn.Parameter] = (),
    ):
        if chunk_size < 1:
            raise ValueError(f"`chunk_size` is {chunk_size}; it must be at least 1.")
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ValueError(
                "GradCache does not work with DeepSpeed, whose engine owns the backward pass. Use "
                "DistributedDataParallel or FSDP2, or gradient checkpointing instead of GradCache."
            )
        self.accelerator = accelerator
        self.model = model
        self.clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
        self.loss_function = loss_function
        self.scalars = scalars
        self.chunk_size = chunk_size
        self.parameters = tuple(parameters)
        self.model.train()
        self._check_batch_norm()

    def _check_batch_norm(self) -> None:
        for name, module in self.clip.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                raise ValueError(
                    f"GradCache runs a batch in chunks, and {name} would normalise each chunk by its own statistics, "
                    "not by the batch's: the gradient would be another one. Freeze BatchNorm (--freeze batch_norm, "
                    "`model.freeze_batch_norm()`), train a ViT, or do without GradCache."
                )

    def _no_sync(self) -> AbstractContextManager:
        # Accelerate's own does nothing with one process, but a process group may have only one.
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return self.accelerator.no_sync(self.model)

    def _chunks(self, batch: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        size = len(next(iter(batch.values())))
        for start in range(0, size, self.chunk_size):
            yield {name: value[start : start + self.chunk_size] for name, value in batch.items()}

    def _needs_gradient(self, tower: nn.Module, *above: nn.Module) -> bool:
        trained = any(parameter.requires_grad for module in (tower, *above) for parameter in module.parameters())
        # A frozen tower with dropout must run again, because it draws random numbers before the other tower does.
        return trained or tower.training

    def backward(self, batch: Mapping[str, torch.Tensor], /, **loss_options: Any) -> torch.Tensor:
        """Add the gradients of the batch's loss to those of the parameters, and return this process's loss, a scalar.

        `batch` holds `pixel_values`, `input_ids` and what else the model's `forward` takes with one row for each pair;
        `loss_options` go to the loss function, such as `text_ids` of the whole batch. BatchNorm that computes
        statistics of a batch is a ValueError.
        """
        self._check_batch_norm()
        states, image_embeds, text_embeds = [], [], []
        with torch.no_grad():
            for chunk in self._chunks(batch):
                states.append(_RandomState(tuple(chunk.values())))
                for parts, embeds in zip((image_embeds, text_embeds), embed_pairs(self.model, chunk), strict=True):
                    parts.append(embeds)
        images, texts = (torch.cat(embeds).requires_grad_() for embeds in (image_embeds, text_embeds))
        scalars = self.scalars()
        copies = tuple(scalar.detach().requires_grad_(scalar.requires_grad) for scalar in scalars)
        with torch.enable_grad():
            loss = self.loss_function(images, texts, *copies, **loss_options)
        wanted = [images, texts, *(copy for copy in copies if copy.requires_grad), *self.parameters]
        # A loss may leave out some of its inputs: their gradient is 0.
        grad_images, grad_texts, *others = torch.autograd.grad(loss, wanted, materialize_grads=True)
        after = _RandomState(tuple(batch.values()))
        learned = [*(scalar for scalar in scalars if scalar.requires_grad), *self.parameters]
        self._second_pass(batch, states, (grad_images, grad_texts), list(zip(others, learned, strict=True)))
        after.restore()
        return loss.detach()

    def _second_pass(
        self,
        batch: Mapping[str, torch.Tensor],
        states: list[_RandomState],
        gradients: tuple[torch.Tensor, torch.Tensor],
        others: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Send the gradients of the embeddings through the model, and with the last chunk those of the loss's other
        inputs.
        """
        clip = self.clip
        names = []
        head = [clip.temporal_head] if isinstance(clip, ClipHFVideoModel) else []
        if self._needs_gradient(clip.vision_model, clip.visual_projection, *head):
            names.append("pixel_values")
        if self._needs_gradient(clip.text_model, clip.text_projection):
            names += [name for name in batch if name != "pixel_values"]
        grads_of = [gradient.split(self.chunk_size) for gradient in gradients]
        for number, (chunk, state) in enumerate(zip(self._chunks(batch), states, strict=True)):
            is_last = number == len(states) - 1
            with contextlib.nullcontext() if is_last else self._no_sync():
                state.restore()
                surrogate = sum(((gradient * tensor).sum() for gradient, tensor in others if is_last), start=0.0)
                if names:
                    both = embed_pairs(self.model, {name: chunk[name] for name in names})
                    for embeds, of_chunks in zip(both, grads_of, strict=True):
                        if embeds is not None and embeds.requires_grad:
                            surrogate = surrogate + (embeds * of_chunks[number]).sum()
                if isinstance(surrogate, torch.Tensor):
                    self.accelerator.backward(surrogate)
