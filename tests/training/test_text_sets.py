# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Hard negatives, short captions and labels: the definition written out, in chunks, and over two processes."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from clip_hf import contrastive_loss, sigmoid_loss
from clip_hf.training import (
    ContrastiveObjective,
    SigmoidLoss,
    SoftLabelLoss,
    SoftmaxLoss,
    SoftTargets,
    TextSetLoss,
    soft_target_loss,
)
from several_processes import run_processes
from tiny_models import IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


BATCH, TEXTS, LENGTH = 6, 4, 7
# The second row has no negatives, the third two; 3 is the caption of the fourth row, and so no negative.
NEGATIVE_IDS = torch.tensor([[20, -1], [-1, -1], [21, 3], [22, -1], [20, 23], [-1, -1]])
IDS = {
    "text_ids": torch.tensor([1, 2, 1, 3, 4, 5]),
    "short_ids": torch.tensor([10, 11, 12, 13, 13, 14]),
    "image_ids": torch.tensor([7, 8, 9, 9, 10, 11]),
    "negative_ids": NEGATIVE_IDS,
}
KINDS = ("softmax", "sigmoid", "labels", "vectors")


def make_batch() -> dict[str, torch.Tensor]:
    """Three channels and four texts, the caption, a short one and negatives; rows of different numbers."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, VOCAB_SIZE - 2, (BATCH, TEXTS, LENGTH), generator=generator)
    input_ids[..., -1] = VOCAB_SIZE - 1
    mask = torch.ones_like(input_ids)
    mask[:, 2:] *= (NEGATIVE_IDS >= 0)[..., None]
    pixels = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "input_ids": input_ids, "attention_mask": mask, **IDS}


def batch_for(kind: str) -> dict[str, torch.Tensor]:
    batch = make_batch()
    if kind not in ("labels", "vectors"):
        return batch
    batch |= {name: batch[name][:, 0] for name in ("input_ids", "attention_mask")}
    if kind == "labels":
        return batch | {"label_ids": torch.tensor([[5, 9], [5, -1], [7, -1], [9, 7], [3, -1], [5, 9]])}
    vectors = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return batch | {"label_vectors": F.normalize(vectors, dim=1)}


def loss_for(kind: str):
    if kind in ("labels", "vectors"):
        return SoftLabelLoss(4.0)
    return TextSetLoss(SoftmaxLoss() if kind == "softmax" else SigmoidLoss(), 0.5, has_negatives=True)


def model_for(kind: str):
    torch.manual_seed(0)
    bias = {"logit_bias_init_value": -3.0} if kind == "sigmoid" else {}
    return make_tiny_model("vit", **bias).double().train()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def plain_text_sets(images, texts, scalars) -> torch.Tensor:
    """Every logit written out: of each image with all captions and all negatives, of each caption with all images."""
    captions = texts[:, 0]
    ids = {name: IDS[name] for name in ("text_ids", "image_ids")}
    short_ids = {"image_ids": IDS["image_ids"], "text_ids": IDS["short_ids"]}
    kept = [(row, place) for row, place in (NEGATIVE_IDS >= 0).nonzero().tolist() if NEGATIVE_IDS[row, place] != 3]
    negatives = torch.stack([texts[row, 2 + place] for row, place in kept])
    if len(scalars) == 2:
        loss = sigmoid_loss(images, captions, *scalars, **ids)
        for image in images:
            for negative in negatives:
                loss = loss - F.logsigmoid(-(scalars[0] * (image @ negative) + scalars[1])) / BATCH
        return loss + 0.5 * sigmoid_loss(images, texts[:, 1], *scalars, **short_ids)
    (scale,) = scalars
    positive = torch.zeros(BATCH, BATCH, dtype=torch.bool)
    for value in ids.values():
        positive |= value[:, None] == value[None]
    targets = positive.double() / positive.sum(dim=1, keepdim=True)
    per_image = (scale * images @ torch.cat([captions, negatives]).T).log_softmax(dim=1)[:, :BATCH]
    per_text = (scale * captions @ images.T).log_softmax(dim=1)
    loss = -((targets * per_image).sum() + (targets * per_text).sum()) / (2 * BATCH)
    return loss + 0.5 * contrastive_loss(images, texts[:, 1], scale, **short_ids)


def plain(kind: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients from one forward pass of every text, those of the padding too."""
    model, batch = model_for(kind), batch_for(kind)
    images = model(pixel_values=batch["pixel_values"], return_logits=False).image_embeds
    inputs = {name: batch[name].reshape(-1, LENGTH) for name in ("input_ids", "attention_mask")}
    # Padding has no token to attend to.
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    texts = model(**inputs, return_logits=False).text_embeds
    scale = model.logit_scale.exp()
    if kind in ("softmax", "sigmoid"):
        bias = () if model.logit_bias is None else (model.logit_bias,)
        loss = plain_text_sets(images, texts.unflatten(0, (BATCH, TEXTS)), (scale, *bias))
    else:
        vectors = batch.get("label_vectors")
        if vectors is None:
            vectors = torch.tensor(
                [
                    [
                        sum(a == b for a in one if a >= 0 for b in two) / math.sqrt(count(one) * count(two))
                        for two in rows
                    ]
                    for rows in [batch["label_ids"].tolist()]
                    for one in rows
                ]
            ).double()
            # Any vectors with these products are the same targets.
            values, basis = torch.linalg.eigh(vectors)
            vectors = basis * values.clamp(min=0).sqrt()
        loss = soft_target_loss(images, texts, scale, targets=[SoftTargets(vectors, vectors, 4.0)])
    loss.backward()
    return loss.detach(), gradients(model)


def count(labels: list[int]) -> int:
    return sum(label >= 0 for label in labels)


@pytest.mark.parametrize("chunk_size", [None, 4, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_definition(kind, chunk_size):
    expected, theirs = plain(kind)
    model = model_for(kind)
    trained = ContrastiveObjective(Accelerator(cpu=True), model, loss_for(kind), grad_cache_chunk_size=chunk_size)
    found = trained.backward(batch_for(kind))
    tolerance = 1e-6 if kind == "labels" else 1e-12  # vectors of classes are float32
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    largest = max(value.abs().max() for value in theirs.values())
    ours = gradients(model)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= 10 * tolerance * largest, name


def _worker(rank: int) -> dict:
    """The first process has rows with fewer negatives (and classes) than the second, and pads less."""
    results = {}
    for kind in KINDS:
        for chunk_size in (None, 2):
            batch = {name: value.chunk(2)[rank] for name, value in batch_for(kind).items()}
            if rank == 1 and kind in ("softmax", "sigmoid"):
                batch["negative_ids"] = F.pad(batch["negative_ids"], (0, 1), value=-1)
                for name in ("input_ids", "attention_mask"):
                    batch[name] = F.pad(batch[name], (0, 0, 0, 1))
            if rank == 0 and kind == "labels":
                batch["label_ids"] = F.pad(batch["label_ids"], (0, 2), value=-1)
            accelerator, model = Accelerator(cpu=True), model_for(kind)
            prepared = accelerator.prepare_model(model)
            trained = ContrastiveObjective(accelerator, prepared, loss_for(kind), grad_cache_chunk_size=chunk_size)
            loss = accelerator.reduce(trained.backward(batch), "mean")
            results[kind, chunk_size] = loss.numpy(), {name: g.numpy() for name, g in gradients(model).items()}
    return results


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path):
    expected = {kind: plain(kind) for kind in KINDS}
    for results in run_processes(_worker, 2, tmp_path):
        for (kind, _), (loss, ours) in results.items():
            whole, theirs = expected[kind]
            tolerance = 1e-6 if kind == "labels" else 1e-12
            assert float(loss) == pytest.approx(whole.item(), rel=tolerance)
            largest = max(value.abs().max() for value in theirs.values())
            for name, value in ours.items():
                assert (torch.as_tensor(value) - theirs[name]).abs().max() <= 10 * tolerance * largest, name


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_batch_without_negatives_has_the_plain_loss_and_finite_gradients(kind):
    """Rows without any, and rows whose only negatives are captions of the batch."""
    base = SoftmaxLoss() if kind == "softmax" else SigmoidLoss()
    images, texts = (F.normalize(torch.randn(3, n, 4, dtype=torch.float64), dim=-1) for n in (1, 2))
    images = images[:, 0].requires_grad_()
    scalars = [torch.tensor(5.0), torch.tensor(-2.0)][: 1 if kind == "softmax" else 2]
    text_ids = torch.tensor([1, 2, 3])
    expected = base(images, texts[:, 0], *scalars, text_ids=text_ids)
    for count_of, negative_ids in ((1, torch.empty(3, 0, dtype=torch.int64)), (2, torch.tensor([[2], [-1], [1]]))):
        loss = TextSetLoss(base, has_negatives=True)(
            images, texts[:, :count_of], *scalars, text_ids=text_ids, negative_ids=negative_ids
        )
        torch.testing.assert_close(loss, expected)
        (found,), (plain_gradient,) = (
            torch.autograd.grad(each, images, retain_graph=True) for each in (loss, expected)
        )
        torch.testing.assert_close(found, plain_gradient)


def test_hard_negatives_raise_the_loss():
    images = torch.eye(3, dtype=torch.float64)
    loss = TextSetLoss(SoftmaxLoss(), has_negatives=True)
    near, far = torch.stack([images, images], dim=1), torch.stack([images, -images], dim=1)
    ids = {"text_ids": torch.tensor([0, 1, 2]), "negative_ids": torch.tensor([[3], [4], [5]])}
    values = [loss(images, texts, torch.tensor(10.0), **ids).item() for texts in (near, far)]
    assert values[0] == pytest.approx(math.log(2) / 2, rel=1e-3) and values[1] < 1e-3
