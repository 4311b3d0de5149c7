# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What makes a training step fast, against the plain path: outputs and gradients in float64."""

import pytest
import torch

from clip_hf.model.modeling_clip_hf_base import PackedTexts
from clip_hf.model.modeling_clip_hf_transformer import ClipHFQuickGELU
from tiny_models import make_tiny_model


LIMIT = 1e-10
CASES = ("right", "right, no mask", "right, mask of floats", "left", "left, positions", "shared positions", "holes")
CASES += ("tokens after the end", "one text", "two captions an image")
CASES += (
    "common beginnings",
    "common beginnings, left",
    "one begins another",
    "equal texts",
    "equal, moved positions",
    "alike after a difference",
    "other tokens at other positions",
)


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def assert_same_gradients(model, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Of two scalars, with respect to all parameters that they depend on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [torch.autograd.grad(value, parameters, allow_unused=True) for value in (actual, expected)]
    largest = max(gradient.norm() for gradient in gradients[1] if gradient is not None)
    compared = 0
    for (name, _), mine, plain in zip(model.named_parameters(), *gradients, strict=True):
        assert (mine is None) == (plain is None), name
        if plain is not None:
            compared += 1
            assert (mine - plain).norm() <= LIMIT * plain.norm() + 1e-14 * largest, name
    assert compared > 10


def text_cases(text_inputs) -> dict[str, dict[str, torch.Tensor]]:
    ids, mask = text_inputs["input_ids"], text_inputs["attention_mask"]
    left_ids, left_mask = ids.clone(), mask.clone()
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        left_ids[row] = ids[row].roll(-length)  # the padding, which is end-of-text tokens, comes first
        left_mask[row] = mask[row].roll(-length)
    positions = (left_mask.cumsum(dim=1) - 1).clamp(min=0)
    holes = mask.clone()
    holes[0, 3:5] = 0
    alike, alike_left = ids.clone(), left_ids.clone()
    alike[[0, 1, 3], 1:3] = torch.tensor([5, 6])
    alike[2, 1] = 5
    alike[3, 3] = alike[1, 3]
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        alike_left[row] = alike[row].roll(-length)
    begins = ids.clone()
    begins[0, 1:6] = begins[1, 1:6]
    ends = ids[[0, 0, 0, 0]].clone()
    ends[:, 2] = torch.tensor([3, 4, 5, 4])  # all else is equal, also after it
    moved = torch.arange(10).repeat(4, 1)
    moved[1:3, 1:] += 3
    other, places = ids[[1, 1, 1, 1]].clone(), torch.arange(10).repeat(4, 1)
    # Pairs of token and position that are alike if they are added, or counted in steps one too short.
    other[:, 1], places[:, 1] = torch.tensor([5, 6, 7, 6]), torch.tensor([23, 0, 1, 2])
    after = ids.clone()
    after[2, 5:8] = torch.tensor([7, 8, 599])  # tokens after the end of a text
    return {
        "right": {"input_ids": ids, "attention_mask": mask},
        "right, no mask": {"input_ids": ids},
        "right, mask of floats": {"input_ids": ids, "attention_mask": mask.float()},
        "left": {"input_ids": left_ids, "attention_mask": left_mask},
        "left, positions": {"input_ids": left_ids, "attention_mask": left_mask, "position_ids": positions},
        "shared positions": {"input_ids": ids, "position_ids": torch.arange(10).flip(0)[None]},
        "holes": {"input_ids": ids, "attention_mask": holes},
        "tokens after the end": {"input_ids": after},
        "one text": {"input_ids": ids[1:2]},
        "two captions an image": {"input_ids": ids.reshape(2, 2, 10)},
        "common beginnings": {"input_ids": alike, "attention_mask": mask},
        "common beginnings, left": {"input_ids": alike_left, "attention_mask": left_mask},
        "one begins another": {"input_ids": begins},
        "equal texts": {"input_ids": ids[[0, 1, 1, 0]]},
        "alike after a difference": {"input_ids": ends},
        "other tokens at other positions": {"input_ids": other, "position_ids": places},
        "equal, moved positions": {"input_ids": ids[[1, 1, 1, 1]], "position_ids": moved},
    }


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_packed_texts_equal_padded_ones(case, attn_implementation, text_inputs):
    model = make_tiny_model("vit").double().train()
    model.set_attn_implementation(attn_implementation)
    inputs = text_cases(text_inputs)[case]
    expected = model.get_text_features(**inputs)
    actual = model.get_text_features(**inputs, pooled_only=True)
    assert actual.last_hidden_state is None
    assert expected.last_hidden_state.shape[:2] == inputs["input_ids"].reshape(-1, 10).shape
    assert relative_difference(actual.pooler_output, expected.pooler_output) <= LIMIT
    weights = torch.randn_like(expected.pooler_output)
    assert_same_gradients(model, (actual.pooler_output * weights).sum(), (expected.pooler_output * weights).sum())


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_pooled_only_images_equal_whole_ones(tower, attn_implementation, pixel_values):
    model = make_tiny_model(tower).double().train()
    model.set_attn_implementation(attn_implementation)
    expected = model.get_image_features(pixel_values.double())
    actual = model.get_image_features(pixel_values.double(), pooled_only=True)
    assert actual.last_hidden_state is None and expected.last_hidden_state is not None
    assert relative_difference(actual.pooler_output, expected.pooler_output) <= LIMIT
    weights = torch.randn_like(expected.pooler_output)
    assert_same_gradients(model, (actual.pooler_output * weights).sum(), (expected.pooler_output * weights).sum())


def test_a_training_step_without_logits_is_the_same_step(tower, text_inputs, pixel_values):
    model = make_tiny_model(tower).double().train()
    inputs = {"pixel_values": pixel_values.double(), **text_inputs, "return_loss": True}
    expected, actual = model(**inputs), model(**inputs, return_logits=False)
    assert actual.logits_per_image is None and actual.text_model_output.last_hidden_state is None
    assert relative_difference(actual.loss, expected.loss) <= LIMIT
    assert_same_gradients(model, actual.loss, expected.loss)


def tokens_computed(model, **inputs) -> list[int]:
    """How many tokens the MLP of each text layer is given."""
    counts = []
    handles = [
        layer.mlp.register_forward_hook(lambda module, args, output: counts.append(output.shape[:-1].numel()))
        for layer in model.text_model.encoder.layers
    ]
    model.get_text_features(**inputs, pooled_only=True)
    for handle in handles:
        handle.remove()
    return counts


def beginnings(inputs: dict[str, torch.Tensor]) -> int:
    """How many different beginnings the texts have, each token with its position."""
    ids = inputs["input_ids"].reshape(-1, 10)
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    positions = inputs.get("position_ids", torch.arange(10)).expand(ids.shape)
    found = set()
    for own, keep, places in zip(ids.tolist(), mask.tolist(), positions.tolist(), strict=True):
        text = [(token, place) for token, kept, place in zip(own, keep, places, strict=True) if kept]
        end = next(index for index, (token, _) in enumerate(text) if token == 599)
        found |= {tuple(text[: length + 1]) for length in range(end + 1)}
    return len(found)


@pytest.mark.parametrize("case", CASES)
def test_neither_padding_nor_a_beginning_twice_is_computed(case, text_inputs):
    model = make_tiny_model("vit")
    inputs = text_cases(text_inputs)[case]
    expected = beginnings(inputs)
    assert expected < inputs["input_ids"].numel()
    texts = inputs["input_ids"].numel() // 10
    assert tokens_computed(model, **inputs) == [expected, expected, texts]


def test_with_dropout_each_text_is_computed_for_itself(text_inputs):
    model = make_tiny_model("vit")
    model.text_model.config.attention_dropout = 0.1
    inputs = text_cases(text_inputs)["equal texts"]
    tokens = 2 * (text_inputs["attention_mask"][:2].sum().item())
    assert tokens_computed(model.train(), **inputs) == [tokens, tokens, 4]
    assert tokens_computed(model.eval(), **inputs) == [beginnings(inputs)] * 2 + [4]


def test_the_last_layer_computes_the_class_token_only(pixel_values):
    model = make_tiny_model("vit")
    shapes = []
    for layer in model.vision_model.encoder.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    model.get_image_features(pixel_values, pooled_only=True)
    assert shapes == [(4, 17, 32)] * 2 + [(4, 32)]


def test_layers_that_are_asked_for_are_whole(tower, text_inputs, pixel_values):
    model = make_tiny_model(tower)
    model.set_attn_implementation("eager")
    inputs = {"pixel_values": pixel_values, **text_inputs, "output_hidden_states": True, "output_attentions": True}
    expected, actual = model(**inputs), model(**inputs, return_logits=False)
    for output in ("text_model_output", "vision_model_output"):
        for kind in ("hidden_states", "attentions"):
            for value, plain in zip(actual[output][kind], expected[output][kind], strict=True):
                assert torch.equal(value, plain)
        assert torch.equal(actual[output].last_hidden_state, expected[output].last_hidden_state)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_layers_that_the_config_asks_for_are_whole(name, tower, text_inputs, pixel_values):
    model = make_tiny_model(tower)
    model.set_attn_implementation("eager")
    for part in (model.text_model, model.vision_model):
        setattr(part.config, name, True)
    with torch.no_grad():
        for run in (
            lambda **options: model.get_text_features(**text_inputs, **options),
            lambda **options: model.get_image_features(pixel_values, **options),
        ):
            expected, actual = run(), run(pooled_only=True)
            kind = name.removeprefix("output_")
            assert len(actual[kind]) == len(expected[kind]) > 0
            for value, plain in zip(actual[kind], expected[kind], strict=True):
                assert torch.equal(value, plain)
            assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_of_packed_texts(use_reentrant, text_inputs, pixel_values):
    plain, checkpointed = make_tiny_model("vit").double().train(), make_tiny_model("vit").double().train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    inputs = {"pixel_values": pixel_values.double().requires_grad_(), **text_inputs, "return_loss": True}
    for model in (plain, checkpointed):
        model(**inputs, return_logits=False).loss.backward()
    for (name, parameter), expected in zip(checkpointed.named_parameters(), plain.parameters(), strict=True):
        if not use_reentrant or parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=LIMIT, atol=1e-12, msg=name)


def test_the_pooled_path_compiles_without_graph_breaks(text_inputs, pixel_values):
    model = make_tiny_model("vit")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = {"pixel_values": pixel_values, **text_inputs, "return_loss": True, "return_logits": False}
    torch.testing.assert_close(compiled(**inputs).loss, model(**inputs).loss)


def test_flex_attention_takes_packed_texts(text_inputs):
    model = make_tiny_model("vit")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # torch compiles it for some processors only
        expected = model.encode_text(**text_inputs)
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model.encode_text(**text_inputs), expected, rtol=1e-4, atol=1e-5)


def test_no_texts_give_no_embeddings():
    model = make_tiny_model("vit")
    model.set_attn_implementation("eager")  # transformers' sdpa takes no empty batch
    assert model.encode_text(torch.empty(0, 5, dtype=torch.long)).shape == (0, 16)


def test_packing_and_padding_are_inverse():
    keep = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]]).bool()
    packed = PackedTexts.of(keep)
    assert packed.source.tolist() == [0, 1, 5, 6, 7, 11]
    assert packed.last.tolist() == [1, 4, 5]
    assert packed.padded.tolist() == [[0, 1, 1], [2, 3, 4], [5, 5, 5]]
    tokens = torch.randn(6, 3)
    assert torch.equal(packed.pack(packed.pad(tokens)), tokens)


def test_quick_gelu_equals_its_formula():
    x = torch.linspace(-30, 30, 101, dtype=torch.float64, requires_grad=True)
    expected, actual = x * torch.sigmoid(1.702 * x), ClipHFQuickGELU()(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradgradcheck(ClipHFQuickGELU(), x[::10].detach().requires_grad_())
    derivative = torch.func.vmap(torch.func.grad(ClipHFQuickGELU()))(x.detach())
    torch.testing.assert_close(derivative, gradients[1], rtol=1e-12, atol=1e-15)


def test_feature_maps_are_channels_last_and_the_same(pixel_values):
    model, pixel_values = make_tiny_model("resnet").vision_model.double().train(), pixel_values.double()
    seen = []
    model.encoder.stages[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    actual = model(pixel_values).pooler_output
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    feature_map = model.encoder(model.stem(pixel_values)).last_hidden_state
    assert not feature_map.is_contiguous(memory_format=torch.channels_last)
    expected = model.attention_pool(feature_map)[0]
    assert relative_difference(actual, expected) <= LIMIT
    weights = torch.randn_like(expected)
    assert_same_gradients(model, (actual * weights).sum(), (expected * weights).sum())
