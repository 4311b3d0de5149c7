# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What other people's code calls and reads on a CLIP, against transformers' model with the same weights."""

import functools
import io
import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutput

from clip_hf import (
    ClipHFConfig,
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFResNetModel,
    ClipHFTextModel,
    ClipHFTextModelWithProjection,
    ClipHFVisionModelWithProjection,
    ClipHFViTModel,
)
from tiny_models import CONTEXT_LENGTH, TOWERS, make_tiny_model, tiny_config


@pytest.fixture(scope="module")
def both() -> tuple[ClipHFModel, CLIPModel]:
    """A tiny model of ours and transformers' with the same weights, in float64."""
    ours = make_tiny_model("vit").double()
    towers = {name: getattr(ours.config, name).to_dict() for name in ("text_config", "vision_config")}
    for tower in towers.values():
        del tower["model_type"]
    theirs = CLIPModel(CLIPConfig(**towers, projection_dim=ours.config.projection_dim)).double().eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


# transformers' eager attention rounds its weights to float32 in between.
TOLERANCES = {"sdpa": {"rtol": 1e-10, "atol": 1e-12}, "eager": {"rtol": 1e-3, "atol": 1e-6}}


@pytest.fixture(params=TOLERANCES)
def tolerance(request, both) -> dict[str, float]:
    """Of a comparison with transformers, with either implementation of attention in both models."""
    for model in both:
        model.set_attn_implementation(request.param)
    return TOLERANCES[request.param]


# Arguments -----------------------------------------------------------------------------------------------------------


@functools.cache
def callables(tower: str) -> dict:
    """Every method that takes inputs, with the names of the inputs it takes; the models are not to be changed."""
    model = make_tiny_model(tower)
    texts, images = ("input_ids", "attention_mask"), ("pixel_values",)
    heads = ClipHFTextModelWithProjection(model.config.text_config), ClipHFForImageClassification(model.config)
    return {
        "forward": (model, (*texts, *images)),
        "get_text_features": (model.get_text_features, texts),
        "get_image_features": (model.get_image_features, images),
        "encode_text": (model.encode_text, texts),
        "encode_image": (model.encode_image, images),
        "text tower": (model.text_model, texts),
        "vision tower": (model.vision_model, images),
        "text with projection": (heads[0].eval(), texts),
        "vision with projection": (ClipHFVisionModelWithProjection(model.config.vision_config).eval(), images),
        "classifier": (heads[1].eval(), images),
    }


def values(result) -> list[torch.Tensor]:
    return [result] if torch.is_tensor(result) else [value for value in result.values() if torch.is_tensor(value)]


@pytest.mark.parametrize("name", callables("vit"))
def test_unknown_arguments_without_a_value_are_let_through(name, tower, text_inputs, pixel_values):
    call, takes = callables(tower)[name]
    inputs = {key: value for key, value in {**text_inputs, "pixel_values": pixel_values}.items() if key in takes}
    nothing = {"token_type_ids": None, "inputs_embeds": None, "use_cache": False, "head_mask": None, "task_ids": None}
    nothing |= {"return_dict": None, "output_attentions": None, "output_hidden_states": False}
    with torch.no_grad():
        expected, actual = call(**inputs), call(**inputs, **nothing)
    assert len(values(actual)) > 0
    for one, other in zip(values(actual), values(expected), strict=True):
        assert torch.equal(one, other)
    for value in (torch.ones(4, 10), 0, "", True):
        with pytest.raises(TypeError, match="Unknown input `token_type_ids`"):
            call(**inputs, token_type_ids=value)
    with pytest.raises(TypeError, match=f"Unknown input `{takes[0]}s` of .*. Did you mean `{takes[0]}`"):
        call(**inputs, **{f"{takes[0]}s": inputs[takes[0]]})


NO_TENSOR = (
    ["a cat"],
    Image.new("RGB", (64, 64)),
    np.zeros((1, 3, 64, 64), np.float32),
    [[598, 599]],
    "a cat",
    3,
)


@pytest.mark.parametrize("name", callables("vit"))
def test_what_is_no_tensor_is_a_type_error_that_says_what_makes_one(name, tower):
    call, takes = callables(tower)[name]
    for value in NO_TENSOR:
        maker = rf"`{takes[0]}` is an? {type(value).__name__}; it must be a tensor.*processor\("
        with pytest.raises(TypeError, match=maker):
            call(**{takes[0]: value})


def test_a_whole_batch_in_place_of_an_input_is_a_type_error(tiny_model, tiny_processor, images):
    batch = tiny_processor(text=["a cat"], images=images[:1], return_tensors="pt")
    for encode in (tiny_model.encode_text, tiny_model.encode_image):
        with pytest.raises(TypeError, match=r"by name, `\*\*inputs`"):
            encode(batch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_pixels_that_are_not_normalised_floats_are_refused(tiny_model, dtype):
    pixels = torch.zeros(1, 3, 64, 64, dtype=dtype)
    for call in (tiny_model.encode_image, tiny_model.get_image_features, tiny_model.vision_model):
        with pytest.raises(ValueError, match=rf"is of {dtype}; it must be of floats, .*processor\("):
            call(pixels)
    with pytest.raises(ValueError, match="it must be of floats"):
        tiny_model(pixel_values=pixels, input_ids=torch.tensor([[598, 599]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool, torch.uint8, torch.int16, torch.complex64])
def test_ids_of_other_dtypes_are_refused(tiny_model, dtype):
    ids = torch.ones(1, 3, dtype=dtype)
    for call in (tiny_model.encode_text, tiny_model.get_text_features, tiny_model.text_model, tiny_model):
        with pytest.raises(ValueError, match=rf"dtype {dtype}; it must be \(batch, length\) of integers"):
            call(ids)


def test_ids_of_int32_are_taken(tiny_model, text_inputs):
    ids = text_inputs["input_ids"]
    assert torch.equal(tiny_model.encode_text(ids.int()), tiny_model.encode_text(ids))


# Parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "causal", "is_causal"])
@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_encoder_takes_and_gives_what_transformers_does(both, tolerance, tower, mask):
    embeds = torch.randn(4, 10, 32, dtype=torch.float64)
    results = []
    for model in both:
        part = getattr(model, tower)
        options = {"none": {}, "is_causal": {"is_causal": True}}.get(mask)
        if options is None:
            options = {"attention_mask": create_causal_mask(part.config, embeds, torch.ones(4, 10), None)}
        with torch.no_grad():
            results.append(part.encoder(inputs_embeds=embeds, **options))
    actual, expected = results
    assert type(actual) is BaseModelOutput
    assert actual.keys() == expected.keys()
    assert actual[0].shape == (4, 10, 32)
    torch.testing.assert_close(actual[0], expected[0], **tolerance)
    assert torch.equal(getattr(both[0], tower).encoder(embeds, **options)[0], actual.last_hidden_state)


def test_encoder_of_a_resnet_gives_the_whole_batch(pixel_values):
    model, pixel_values = make_tiny_model("resnet").vision_model.double(), pixel_values.double()
    with torch.no_grad():
        output = model.encoder(model.stem(pixel_values))
        expected = model(pixel_values).last_hidden_state
    assert output[0] is output.last_hidden_state
    torch.testing.assert_close(output[0], expected, rtol=1e-10, atol=1e-10)


def test_text_embeddings_equal_transformers(both, text_inputs):
    ids, positions = text_inputs["input_ids"], torch.arange(10).flip(0)[None]
    ours, theirs = (model.text_model.embeddings for model in both)
    embeds = torch.randn(4, 10, 32, dtype=torch.float64)
    for inputs in (
        {"input_ids": ids},
        {"input_ids": ids, "position_ids": positions},
        {"inputs_embeds": embeds},
        {"inputs_embeds": embeds, "position_ids": positions},
        {"input_ids": ids, "inputs_embeds": embeds},
    ):
        assert torch.equal(ours(**inputs), theirs(**inputs)), list(inputs)
    with pytest.raises(ValueError, match="25 tokens long and the model has 24 positions"):
        ours(inputs_embeds=torch.zeros(1, 25, 32))
    with pytest.raises(ValueError, match="Both `input_ids` and `inputs_embeds` are missing"):
        ours()


@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_image_embeddings_equal_transformers(both, size):
    ours, theirs = (model.vision_model.embeddings for model in both)
    pixels, options = torch.randn(2, 3, *size, dtype=torch.float64), {"interpolate_pos_encoding": size != (64, 64)}
    with torch.no_grad():
        actual, expected = ours(pixels, **options), theirs(pixels, **options)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        positions = [part.interpolate_pos_encoding(actual, *size) for part in (ours, theirs)]
    assert positions[0].shape == (1, actual.shape[1], 32)
    torch.testing.assert_close(*positions, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_prompts_learned_as_coop_does_equal_transformers(both, tolerance, tower, text_inputs, pixel_values):
    """Embeddings, encoder and LayerNorm called one by one, with a vector in place of a token."""
    prompt, outputs = torch.randn(32, dtype=torch.float64), []
    for model in both:
        part = getattr(model, tower)
        with torch.no_grad():
            if tower == "text_model":
                embeds = part.get_input_embeddings()(text_inputs["input_ids"])
                embeds[:, 1] = prompt
                hidden = part.embeddings(inputs_embeds=embeds)
                mask = create_causal_mask(part.config, hidden, text_inputs["attention_mask"], None)
                hidden = part.final_layer_norm(part.encoder(inputs_embeds=hidden, attention_mask=mask)[0])
            else:
                hidden = part.pre_layrnorm(part.embeddings(pixel_values.double()))
                hidden = torch.cat([hidden, prompt.expand(4, 1, -1)], dim=1)
                hidden = part.post_layernorm(part.encoder(inputs_embeds=hidden)[0])
        outputs.append(hidden)
    torch.testing.assert_close(*outputs, **tolerance)


def test_recorded_layers_equal_transformers(both, text_inputs, pixel_values):
    for model in both:
        model.set_attn_implementation("eager")
    inputs = {**text_inputs, "pixel_values": pixel_values.double()}
    with torch.no_grad():
        actual, expected = (model(**inputs, output_hidden_states=True, output_attentions=True) for model in both)
    for name in ("text_model_output", "vision_model_output"):
        for kind in ("hidden_states", "attentions"):
            one, other = actual[name][kind], expected[name][kind]
            assert len(one) == len(other) == 3 + (kind == "hidden_states")
            torch.testing.assert_close(one, other, **TOLERANCES["eager"])


# Attributes ----------------------------------------------------------------------------------------------------------

# What transformers' parts have and ours do not, and why.
NOT_OURS = {"CLIPEncoder.gradient_checkpointing": "a switch that nothing reads: the layers are what is recomputed"}


def described(value):
    """What can be compared of an attribute; None for modules, methods and the like."""
    return value.tolist() if torch.is_tensor(value) else value if isinstance(value, int | float | str) else None


def test_parts_have_the_names_and_attributes_of_transformers(both):
    towers = [model.vision_model.config for model in both], [model.text_model.config for model in both]
    torch.manual_seed(0)
    pairs = [
        both,
        [cls(towers[1][i]) for i, cls in enumerate((ClipHFTextModelWithProjection, CLIPTextModelWithProjection))],
        [cls(towers[0][i]) for i, cls in enumerate((ClipHFVisionModelWithProjection, CLIPVisionModelWithProjection))],
        [cls(both[i].config) for i, cls in enumerate((ClipHFForImageClassification, CLIPForImageClassification))],
    ]
    missing, compared = set(), 0
    for ours, theirs in pairs:
        modules = dict(ours.named_modules())
        assert modules.keys() == dict(theirs.named_modules()).keys()
        for name, other in theirs.named_modules():
            kind = type(other).__name__
            for attribute in {one for one in dir(other) if not one.startswith("__")}:
                if not hasattr(modules[name], attribute):
                    missing.add(f"{kind}.{attribute}")
                elif kind.startswith("CLIP") and attribute in vars(other) | other._buffers:
                    value = getattr(modules[name], attribute)
                    if not attribute.startswith("_") and attribute not in ("warnings_issued",):
                        assert described(value) == described(getattr(other, attribute)), (name, attribute)
                        compared += described(value) is not None
    assert missing == NOT_OURS.keys()
    assert compared > 100
    for one, other in ([model.config for model in both], *towers):
        names = {name for name in dir(other) if not name.startswith("_")} - set(dir(one))
        assert names == set()


def test_attributes_of_the_resnet_tower():
    model = make_tiny_model("resnet")
    pool = model.vision_model.attention_pool
    assert (model.projection_dim, model.text_embed_dim, model.vision_embed_dim) == (16, 32, 256)
    assert (pool.embed_dim, pool.num_heads, pool.head_dim, pool.scale) == (256, 4, 64, 0.125)
    assert (model.config.vision_config.initializer_range, model.config.vision_config.initializer_factor) == (0.02, 1.0)


# Texts without an end ------------------------------------------------------------------------------------------------


def test_texts_without_an_end_of_text_may_be_allowed(text_inputs):
    model = make_tiny_model("vit").double()
    ended, mask = text_inputs["input_ids"], text_inputs["attention_mask"]
    with torch.no_grad():
        expected = model.get_text_features(ended, mask).pooler_output
        with pytest.raises(ValueError, match=r"texts \[0\] .* text_config.allow_missing_eos = True"):
            model.encode_text(torch.tensor([[598, 0, 0, 0]]))
        model.config.text_config.allow_missing_eos = True
        assert torch.equal(model.get_text_features(ended, mask).pooler_output, expected)
        # Without its end, a text is pooled at its last token: the features of `ids[:length]` at `length - 1`.
        ids = ended.clone()
        ids[ids == 599] = 0
        for options in ({"attention_mask": mask}, {}):
            features = model.get_text_features(ids, **options)
            last = mask.sum(dim=1) - 1 if options else torch.full((4,), 9)
            at = features.last_hidden_state[torch.arange(4), last]
            torch.testing.assert_close(features.pooler_output, model.text_projection(at))
            plain = torch.nn.functional.normalize(features.pooler_output, dim=-1)
            torch.testing.assert_close(model.encode_text(ids, **options), plain, rtol=1e-12, atol=1e-12)
        left, left_mask = ids[:, :3].flip(1), torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]])
        features = model.get_text_features(left, left_mask)
        at = features.last_hidden_state[torch.arange(4), torch.tensor([2, 2, 2, 1])]
        torch.testing.assert_close(features.pooler_output, model.text_projection(at))
        with pytest.raises(ValueError, match=r"texts \[1\] "):
            model.encode_text(left, left_mask * torch.tensor([[1], [0], [1], [1]]))


def test_missing_ends_stay_allowed_in_a_saved_model(tmp_path):
    config = tiny_config("vit")
    config.text_config.allow_missing_eos = True
    ClipHFModel(config).save_pretrained(tmp_path)
    assert ClipHFConfig.from_pretrained(tmp_path).text_config.allow_missing_eos
    assert ClipHFModel.from_pretrained(tmp_path).encode_text(torch.zeros(1, 4, dtype=torch.long)).shape == (1, 16)


# Export --------------------------------------------------------------------------------------------------------------


class Features(torch.nn.Module):
    """What an exported program computes: a model's method, a tensor back."""

    def __init__(self, model: torch.nn.Module, method: str):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output = getattr(self.model, self.method)(*inputs)
        return (
            output
            if torch.is_tensor(output)
            else output["pooler_output" if "get" in self.method else "logits_per_image"]
        )


def example(method: str, batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 598, (batch, length))
    ids[:, 0], ids[:, -1] = 598, 599
    texts, images = {"input_ids": ids}, {"pixel_values": torch.randn(batch, 3, 64, 64)}
    return {**texts, **images} if method == "forward" else texts if "text" in method else images


# Either vision tower; the text towers are the same.
@pytest.mark.slow_but_for("vit-forward-sdpa", "encode_text-eager", "get_text_features-sdpa", "resnet-encode_image")
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("tower", "method"),
    [
        ("vit", "get_text_features"),
        ("vit", "encode_text"),
        *itertools.product(TOWERS, ("get_image_features", "encode_image", "forward")),
    ],
)
def test_legacy_onnx_export_takes_other_batches_and_lengths(tower, method, attn_implementation):
    model = make_tiny_model(tower)
    model.set_attn_implementation(attn_implementation)
    module, inputs, file = Features(model, method).eval(), example(method, 2, 10), io.BytesIO()
    axes = {name: {0: f"batch of {name}"} for name in inputs}
    if "input_ids" in axes:
        axes["input_ids"][1] = "length"
    options = {"input_names": [*inputs], "dynamic_axes": axes, "opset_version": 17, "dynamo": False}
    torch.onnx.export(module, tuple(inputs.values()), file, **options)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for batch, length in ((1, 10), (3, 10), (2, 7), (4, CONTEXT_LENGTH)):
        inputs = example(method, batch, length)
        with torch.no_grad():
            expected = module(*inputs.values())
        actual = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_legacy_onnx_export_of_texts_that_need_no_end():
    model = make_tiny_model("vit")
    model.text_model.config.allow_missing_eos = True
    module, ids, file = Features(model, "encode_text").eval(), example("encode_text", 2, 10)["input_ids"], io.BytesIO()
    axes = {"input_ids": {0: "batch", 1: "length"}}
    options = {"input_names": ["input_ids"], "dynamic_axes": axes, "opset_version": 17, "dynamo": False}
    torch.onnx.export(module, (ids,), file, **options)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    ids = example("encode_text", 4, 7)["input_ids"]
    ids[1, -1], ids[2, 3] = 5, 599  # without an end, and with one in the middle
    with torch.no_grad():
        expected = module(ids)
    actual = torch.from_numpy(session.run(None, {"input_ids": ids.numpy()})[0])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_exported_feature_maps_have_the_usual_order(strict):
    """ExecuTorch knows no other; outside of an export they are channels last on a CPU, which is faster."""
    program = torch.export.export(
        Features(make_tiny_model("resnet"), "get_image_features"), (torch.randn(2, 3, 64, 64),), strict=strict
    )
    of_maps = ("conv2d", "batch_norm", "relu_", "avg_pool2d")
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    values = [node.meta["val"] for node in nodes if any(name in str(node.target) for name in of_maps)]
    assert len(values) > 20
    assert {value.dim_order() for value in values} == {(0, 1, 2, 3)}


def test_towers_are_what_their_tests_take_them_for(tower):
    model = make_tiny_model(tower)
    assert type(model.vision_model) is {"vit": ClipHFViTModel, "resnet": ClipHFResNetModel}[tower]
    assert type(model.text_model) is ClipHFTextModel
