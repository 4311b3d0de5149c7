# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""TextSpan: parts that sum to the embedding, the choice against a loop with projections, and what is refused."""

import numpy as np
import pytest
import torch

from clip_hf.explain import head_contributions, text_spans
from tiny_models import make_tiny_model


@pytest.mark.parametrize("layers", ["last", 1, "all", None])
def test_parts_sum_to_the_image_features(tiny_model, pixel_values, layers, tower):
    model, pixel_values = tiny_model.double(), pixel_values.double()
    for parameter in model.parameters():  # biases too
        parameter.data += 0.05 * torch.randn_like(parameter)
    parts = head_contributions(model, pixel_values, layers=layers, batch_size=3)
    expected = model.get_image_features(pixel_values).pooler_output
    assert torch.allclose(parts.image_features, expected, rtol=0, atol=1e-13 * expected.abs().max().item())
    split = 1 if tower == "resnet" or layers in ("last", 1) else 3
    assert parts.heads.shape == (4, split, 4, 16)
    assert parts.mlps.shape == (4, split if tower == "vit" else 0, 16)
    assert parts.layers == (tuple(range(3 - split, 3)) if tower == "vit" else (0,))
    assert (parts.heads.std(dim=0) > 0).all()


def test_two_layers_are_the_last_of_all(pixel_values):
    model = make_tiny_model("vit")
    two, each = (head_contributions(model, pixel_values, layers=layers) for layers in (2, "all"))
    assert (
        two.layers == (1, 2) and torch.equal(two.heads, each.heads[:, 1:]) and torch.equal(two.mlps, each.mlps[:, 1:])
    )


def test_contribution_of_a_head_goes_when_the_head_is_switched_off(pixel_values):
    # The last layer's head has only its direct effect, but for the MLP behind it, which is switched off too.
    model = make_tiny_model("vit").double()
    layer = model.vision_model.encoder.layers[-1]
    torch.nn.init.zeros_(layer.mlp.fc2.weight)
    before = head_contributions(model, pixel_values.double(), layers=1)
    deviation = _class_token(model, pixel_values).std(dim=-1, correction=0)
    layer.self_attn.out_proj.weight.data[:, 8:16] = 0  # head 1 of 4, 8 wide
    after = head_contributions(model, pixel_values.double(), layers=1)
    ratio = (deviation / _class_token(model, pixel_values).std(dim=-1, correction=0))[:, None]
    assert after.heads[:, 0, 1].abs().max() < 1e-12
    assert before.heads[:, 0, 1].abs().max() > 1e-3
    for head in (0, 2, 3):
        assert torch.allclose(after.heads[:, 0, head], before.heads[:, 0, head] * ratio, atol=1e-4)


def _class_token(model, pixel_values):
    return model.vision_model(pixel_values.double()).last_hidden_state[:, 0]


def test_half_precision_and_adapters_are_split_as_they_compute(pixel_values):
    from peft import LoraConfig, get_peft_model

    model = make_tiny_model("vit")
    adapted = get_peft_model(model, LoraConfig(target_modules=["out_proj", "visual_projection"], r=2)).base_model.model
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.eval()
    parts = head_contributions(adapted, pixel_values)
    assert torch.allclose(parts.image_features, adapted.get_image_features(pixel_values).pooler_output, atol=1e-4)
    half = make_tiny_model("vit").bfloat16()
    parts = head_contributions(half, pixel_values.bfloat16())
    assert parts.heads.dtype == torch.float32
    expected = half.get_image_features(pixel_values.bfloat16()).pooler_output.float()
    assert torch.allclose(parts.image_features, expected, atol=0.1 * expected.std().item())


def plain_span(values, texts, num):
    """Algorithm 1 with all vectors written out; returns rows and the share of variance."""
    values = values - values.mean(axis=0)
    texts = texts @ np.linalg.pinv(values) @ values  # onto what the values span
    total, chosen, explained = (values**2).sum(), [], []
    for _ in range(num):
        best = int((values @ texts.T).var(axis=0).argmax())
        direction = texts[best] / np.linalg.norm(texts[best])
        values = values - values @ np.outer(direction, direction)
        texts = texts - texts @ np.outer(direction, direction)
        chosen.append(best)
        explained.append(1 - (values**2).sum() / total)
    return chosen, explained


@pytest.mark.parametrize("images", [6, 40])
def test_span_agrees_with_a_loop_of_projections(images):
    generator = torch.Generator().manual_seed(3)
    heads = torch.randn(images, 2, 3, 12, generator=generator, dtype=torch.float64)
    heads = heads * torch.linspace(0.2, 2, 12, dtype=torch.float64) + 5
    embeds = torch.nn.functional.normalize(torch.randn(30, 12, generator=generator, dtype=torch.float64), dim=-1)
    texts = [f"text {number}" for number in range(30)]
    spans = text_spans(heads, embeds, texts, num=4)
    assert [(span.layer, span.head) for span in spans] == [(layer, head) for layer in (0, 1) for head in (0, 1, 2)]
    for span in spans:
        values = heads[:, span.layer, span.head].numpy()
        chosen, explained = plain_span(values, embeds.numpy(), 4)
        assert span.texts == tuple(texts[row] for row in chosen)
        assert np.allclose(span.explained, explained)
        assert span.variance == pytest.approx(values.var(axis=0).sum())


def test_texts_that_made_the_contributions_are_found_and_explain_all():
    generator = torch.Generator().manual_seed(0)
    embeds = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q[:6]
    amounts = torch.randn(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    heads = (amounts @ embeds[[4, 1]] + 7)[:, None, None]
    (span,) = text_spans(heads, embeds, list("abcdef"), num=5)
    assert span.texts == ("e", "b")  # then nothing is left
    assert span.explained[1] == pytest.approx(1)
    assert 0.7 < span.explained[0] < 1


def test_a_head_that_adds_the_same_to_all_images_has_no_texts():
    (span,) = text_spans(torch.ones(5, 1, 1, 4), torch.eye(4), list("abcd"))
    assert (span.texts, span.explained, span.variance) == ((), (), 0)


def test_spans_of_a_model(tiny_model, pixel_values):
    parts = head_contributions(tiny_model, pixel_values)
    spans = text_spans(parts, torch.randn(10, 16), [str(number) for number in range(10)], num=2)
    assert len(spans) == parts.heads.shape[1] * 4
    assert spans[-1].layer == parts.layers[-1]
    assert all(0 < span.explained[0] <= span.explained[1] <= 1 for span in spans)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "ClipHFModel.from_pretrained"),
        ({"pixel_values": torch.zeros(0, 3, 64, 64)}, ValueError, "no images"),
        ({"pixel_values": torch.zeros(3, 64, 64)}, ValueError, "channels first"),
        ({"layers": 0}, ValueError, "`layers` is 0"),
        ({"layers": 4}, ValueError, "`layers` is 4; it must be 'all', 'last'.* 1 to 3 in this model"),
        ({"layers": "first"}, ValueError, "`layers` is 'first'; it must be 'all'"),
        ({"layers": 2, "model": make_tiny_model("resnet")}, ValueError, "1 to 1 in this model"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
    ],
)
def test_wrong_inputs_of_contributions_are_named(pixel_values, change, kind, message):
    arguments = {"model": make_tiny_model("vit"), "pixel_values": pixel_values, **change}
    with pytest.raises(kind, match=message):
        head_contributions(**arguments)


def test_a_model_in_training_mode_is_split_as_in_evaluation_and_stays_in_training(tiny_model, pixel_values):
    expected = head_contributions(tiny_model, pixel_values).heads
    assert torch.equal(head_contributions(tiny_model.train(), pixel_values).heads, expected)
    assert tiny_model.training and tiny_model.vision_model.training


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"contributions": [1.0]}, TypeError, "`contributions` is"),
        ({"contributions": torch.randn(1, 1, 2, 4)}, ValueError, "two images or more"),
        ({"contributions": torch.randn(3, 4)}, ValueError, r"\(images, layers, heads, dim\)"),
        ({"contributions": torch.full((3, 1, 1, 4), torch.nan)}, ValueError, "NaN"),
        ({"text_embeds": torch.eye(3)}, ValueError, r"it must be \(2, 4\)"),
        ({"texts": ["a"]}, ValueError, "with 1 texts"),
        ({"num": 0}, ValueError, "`num` is 0"),
    ],
)
def test_wrong_inputs_of_spans_are_named(change, kind, message):
    arguments = {
        "contributions": torch.randn(3, 1, 2, 4),
        "text_embeds": torch.randn(2, 4),
        "texts": ["a", "b"],
        **change,
    }
    with pytest.raises(kind, match=message):
        text_spans(**arguments)
