# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A step's loss and gradients: those of the plain loss, whole or in chunks, softmax or sigmoid, with ids."""

import pytest
import torch
from accelerate import Accelerator

from clip_hf import contrastive_loss, sigmoid_loss
from clip_hf.training import ContrastiveObjective, PairLoss, TrainingOptions, build_pair_loss, pair_losses
from tiny_models import IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


BATCH = 6


@pytest.fixture
def batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, VOCAB_SIZE - 2, (BATCH, 9), generator=generator)
    input_ids[:, 7:] = VOCAB_SIZE - 1
    pixel_values = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)
    return {
        "pixel_values": pixel_values,
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "text_ids": torch.tensor([1, 2, 1, 3, 4, 5]),
        "image_ids": torch.tensor([7, 8, 9, 9, 10, 11]),
        "skipped": [],
    }


def model_of(loss: str):
    bias = {"logit_bias_init_value": -3.0} if loss == "sigmoid" else {}
    return make_tiny_model("vit", **bias).double().train()


def objective_of(accelerator, model, grad_cache_chunk_size=None, **options) -> ContrastiveObjective:
    loss = build_pair_loss(TrainingOptions(**options), model)
    return ContrastiveObjective(
        accelerator, accelerator.prepare(model), loss, grad_cache_chunk_size=grad_cache_chunk_size
    )


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def plain(model, batch, with_ids: bool, label_smoothing: float = 0.0) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    output = model(**inputs)
    ids = {name: batch[name] for name in ("text_ids", "image_ids")} if with_ids else {}
    embeds, scale = (output.image_embeds, output.text_embeds), model.logit_scale.exp()
    if model.logit_bias is not None:
        return sigmoid_loss(*embeds, scale, model.logit_bias, **ids)
    return contrastive_loss(*embeds, scale, label_smoothing=label_smoothing, **ids)


@pytest.mark.parametrize("chunks", [{}, {"loss_chunk_size": 4}, {"grad_cache_chunk_size": 4}])
@pytest.mark.parametrize(("loss", "smoothing"), [("softmax", 0.0), ("softmax", 0.2), ("sigmoid", 0.0)])
@pytest.mark.parametrize("with_ids", [True, False])
def test_loss_and_gradients_are_the_plain_ones(with_ids, loss, smoothing, chunks, batch):
    if not with_ids:
        batch = {name: value for name, value in batch.items() if name not in ("text_ids", "image_ids")}
    reference = model_of(loss)
    expected = plain(reference, batch, with_ids, smoothing)
    expected.backward()
    model = model_of(loss)
    accelerator = Accelerator(cpu=True)
    trained = objective_of(accelerator, model, label_smoothing=smoothing, **chunks)
    before = dict(batch)
    found = trained.backward(batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12) and not found.requires_grad
    assert batch.keys() == before.keys()
    theirs = gradients(reference)
    largest = max(value.abs().max() for value in theirs.values())
    for name, value in gradients(model).items():
        assert (value - theirs[name]).abs().max() <= 1e-12 * largest, name
    # Gradients add up until the optimiser clears them.
    trained.backward(batch)
    assert torch.allclose(model.logit_scale.grad, 2 * theirs["logit_scale"])


@pytest.mark.parametrize("chunks", [{}, {"grad_cache_chunk_size": 4}])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_negatives_come_from_all_processes(loss, chunks, batch, monkeypatch):
    """Process 0 of two, whose other process is played by the gathering: it has the second half of the batch."""
    reference = model_of(loss)
    expected = plain(reference, batch, with_ids=False)
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        output = reference(**inputs)
    half = BATCH // 2
    other = {name: getattr(output, f"{name}_embeds")[half:] for name in ("image", "text")}
    calls = []

    def spy(*embeds, **options):
        calls.append(options.pop("gather"))
        whole = [torch.cat([own, other[name]]) for own, name in zip(embeds[:2], ("image", "text"), strict=True)]
        return {"softmax": contrastive_loss, "sigmoid": sigmoid_loss}[loss](*whole, *embeds[2:], **options)

    monkeypatch.setattr(pair_losses, {"softmax": "contrastive_loss", "sigmoid": "sigmoid_loss"}[loss], spy)
    accelerator = Accelerator(cpu=True)
    trained = objective_of(accelerator, model_of(loss), **chunks)
    found = trained.backward({name: value[:half] for name, value in inputs.items()})
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert calls == [True]


def test_ids_matter(batch):
    accelerator, model = Accelerator(cpu=True), model_of("softmax")
    trained = ContrastiveObjective(accelerator, model)
    with_ids = trained.backward(batch)
    without = trained.backward(
        {name: value for name, value in batch.items() if not name.endswith("_ids") or name == "input_ids"}
    )
    assert with_ids < without


def test_the_sigmoid_loss_has_no_label_smoothing():
    with pytest.raises(ValueError, match="`label_smoothing` is 0.1, and the model has a `logit_bias`"):
        build_pair_loss(TrainingOptions(label_smoothing=0.1), model_of("sigmoid"))


class Projected(PairLoss):
    """A loss with a parameter of its own, and one that it does not use."""

    batch_names = ("pixel_values",)

    def __init__(self, allows_grad_cache: bool = True):
        super().__init__()
        self.allows_grad_cache = allows_grad_cache
        self.projection = torch.nn.Linear(16, 16, dtype=torch.float64)
        self.unused = torch.nn.Parameter(torch.zeros(3))

    def forward(self, images, texts, scale, /, *, pixel_values):
        return (self.projection(images) - texts).square().mean() + scale * pixel_values.mean()


def test_a_loss_whose_arguments_a_batch_could_name_is_refused():
    with pytest.raises(TypeError, match="Named.forward takes images, texts by position or by keyword"):

        class Named(PairLoss):
            batch_names = ("texts",)

            def forward(self, /, images, texts, *scalars, **extras):
                return 0.0


def test_a_loss_has_parameters_of_its_own(batch):
    """Their gradients are those of the plain loss, whole and in chunks, and add up."""
    found = []
    for chunk in (None, 4):
        torch.manual_seed(0)
        model = model_of("softmax")
        loss = Projected()
        trained = ContrastiveObjective(Accelerator(cpu=True), model, loss, grad_cache_chunk_size=chunk)
        value = trained.backward(batch)
        trained.backward(batch)
        found.append((value, gradients(model), gradients(loss)))
    torch.manual_seed(0)
    model = model_of("softmax")
    loss = Projected()
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    output = model(**inputs)
    expected = loss(
        output.image_embeds, output.text_embeds, model.logit_scale.exp(), pixel_values=batch["pixel_values"]
    )
    (2 * expected).backward()
    for value, of_model, of_loss in found:
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(of_model, gradients(model))
        assert torch.equal(of_loss.pop("unused"), torch.zeros(3))
        torch.testing.assert_close(
            of_loss,
            {"projection.weight": loss.projection.weight.grad} | {"projection.bias": loss.projection.bias.grad},
        )


def test_a_loss_that_does_not_work_in_chunks_says_so():
    with pytest.raises(ValueError, match="`grad_cache_chunk_size` is 2, and Projected does not work in chunks"):
        loss = Projected(allows_grad_cache=False)
        ContrastiveObjective(Accelerator(cpu=True), model_of("softmax"), loss, grad_cache_chunk_size=2)
