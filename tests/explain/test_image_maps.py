# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Maps of images against plain computations in float64, and that the caller's model stays as it was."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from clip_hf.explain import METHODS, attention_twin, default_method, image_maps
from clip_hf.explain.image_maps import MapRequest, last_layers, window_starts
from tiny_models import IMAGE_SIZE, as_transformers_clip, make_tiny_model, tiny_config


DIM = 16


@pytest.fixture
def text_embeds() -> torch.Tensor:
    return nn.functional.normalize(torch.randn(3, DIM), dim=-1)


def exact_request(model, pixel_values, text_embeds, **options) -> MapRequest:
    """A request in float64, whose maps are not rounded to float32."""
    return MapRequest(attention_twin(model.double()), pixel_values.double(), text_embeds.double(), **options)


def two_layer_model():
    config = tiny_config("vit")
    config.vision_config.num_hidden_layers = 2
    torch.manual_seed(3)
    model = type(make_tiny_model("vit"))(config).eval()
    with torch.no_grad():  # sharper attention than that of random weights, so that heads differ
        for layer in model.vision_model.encoder.layers:
            layer.self_attn.q_proj.weight.mul_(6)
    return model.double()


def plain_layer(layer, x, heads: int, given: torch.Tensor | None = None):
    """One pre-norm layer in plain operations; its weights are computed, or given. Returns output and weights."""
    attention, width = layer.self_attn, x.shape[-1]
    normalised = layer.layer_norm1(x)
    query, key, value = (
        (normalised @ part.weight.T + part.bias).view(len(x), -1, heads, width // heads).transpose(1, 2)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (query @ key.transpose(2, 3) / math.sqrt(width // heads)).softmax(-1) if given is None else given
    mixed = (weights @ value).transpose(1, 2).reshape(x.shape)
    x = x + mixed @ attention.out_proj.weight.T + attention.out_proj.bias
    hidden = layer.layer_norm2(x) @ layer.mlp.fc1.weight.T + layer.mlp.fc1.bias
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return x + hidden @ layer.mlp.fc2.weight.T + layer.mlp.fc2.bias, weights


def plain_logit(model, x, text, heads: int, given: list[torch.Tensor | None]):
    """The logit of token embeddings with a text, and each layer's weights."""
    weights = []
    for layer, each in zip(model.vision_model.encoder.layers, given, strict=True):
        x, used = plain_layer(layer, x, heads, each)
        weights.append(used)
    pooled = model.vision_model.post_layernorm(x[:, 0]) @ model.visual_projection.weight.T
    return model.logit_scale.exp() * (pooled / pooled.norm(dim=-1, keepdim=True)) @ text, weights


def test_chefer_of_two_layers_is_the_computation_by_hand(pixel_values, text_embeds):
    model, heads = two_layer_model(), 4
    maps = METHODS["chefer"](exact_request(model, pixel_values[:1], text_embeds))
    with torch.no_grad():
        tokens = model.vision_model.pre_layrnorm(model.vision_model.embeddings(pixel_values[:1].double()))
        _, (first, second) = plain_logit(model, tokens, text_embeds[0].double(), heads, [None, None])

    def gradient(text, index: int) -> torch.Tensor:
        """That of a layer's weights while all later ones follow."""
        leaf = (first, second)[index].detach().clone().requires_grad_()
        given = [leaf, None] if index == 0 else [first, leaf]
        return torch.autograd.grad(plain_logit(model, tokens, text, heads, given)[0].sum(), leaf)[0]

    length = 17
    for number, text in enumerate(text_embeds.double()):
        result = torch.eye(length, dtype=torch.float64)
        for index, weights in enumerate((first, second)):
            change, slopes = torch.zeros(length, length, dtype=torch.float64), gradient(text, index)
            for head in range(heads):
                for i in range(length):
                    for j in range(length):
                        product = float(slopes[0, head, i, j] * weights[0, head, i, j])
                        change[i, j] += max(product, 0.0) / heads
            result = result + change @ result
        torch.testing.assert_close(maps[0, number].flatten(), result[0, 1:], rtol=1e-9, atol=1e-12)
    assert maps.std() > 1e-4


def test_chefer_of_a_resnet_is_its_attention_pools(pixel_values, text_embeds):
    model = make_tiny_model("resnet").double()
    maps = METHODS["chefer"](exact_request(model, pixel_values, text_embeds))
    tower = attention_twin(model).vision_model
    with torch.no_grad():
        features = tower(pixel_values.double()).last_hidden_state
    x = features.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + tower.attention_pool.position_embedding.weight
    pool, heads = tower.attention_pool, 4
    query, key, value = (
        part(each).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, each in ((pool.q_proj, x[:, :1]), (pool.k_proj, x), (pool.v_proj, x))
    )
    weights = (query @ key.transpose(2, 3) / math.sqrt(key.shape[-1])).softmax(-1).detach().requires_grad_()
    embeds = model.visual_projection((weights @ value).transpose(1, 2).reshape(len(x), -1))
    logits = model.logit_scale.exp() * nn.functional.normalize(embeds, dim=-1) @ text_embeds.double().T
    for number in range(3):
        (slopes,) = torch.autograd.grad(logits[:, number].sum(), weights, retain_graph=True)
        expected = (slopes * weights).clamp(min=0).mean(1)[:, 0, 1:]
        torch.testing.assert_close(maps[:, number].flatten(1), expected.detach(), rtol=1e-9, atol=1e-12)


def test_grad_cam_by_finite_differences(tower, pixel_values, text_embeds):
    """The gradient is that of the cosine when a channel rises everywhere at once."""
    model = make_tiny_model(tower).double()
    request = exact_request(model, pixel_values[:1], text_embeds)
    maps = METHODS["grad_cam"](request)
    step = 1e-5
    # What the features are the output of: the last feature map, or the layer before the last.
    tower_model = request.twin.vision_model
    module = tower_model.encoder.layers[-2] if tower == "vit" else tower_model.encoder.stages[-1]
    seen = []

    def change(_, __, output):
        """Rows 2 i and 2 i + 1 have channel i a step higher and lower."""
        seen.append(output)
        channels = output.shape[-1 if tower == "vit" else 1]
        output = output.repeat(2 * channels, *(1 for _ in output.shape[1:]))
        for channel in range(channels):
            for row, by in ((2 * channel, step), (2 * channel + 1, -step)):
                part = output[row, 1:, channel] if tower == "vit" else output[row, channel]
                part += by
        return output

    handle = module.register_forward_hook(change)
    with torch.no_grad():
        cosines = request.cosines(pixel_values[:1].double())[0]  # (2 channels, texts)
    handle.remove()
    features = seen[0][0, 1:].T if tower == "vit" else seen[0][0].flatten(1)  # (channels, places)
    places = features.shape[1]
    slopes = (cosines[::2] - cosines[1::2]) / (2 * step)
    expected = (slopes.T / places) @ features  # all places rise, so the slope is the sum over them
    torch.testing.assert_close(maps[0].flatten(1), expected.clamp(min=0), rtol=1e-5, atol=1e-9)
    assert expected.max() > 0


@pytest.mark.parametrize(("window", "stride"), [(None, None), (20, 9), (16, 16)])
def test_occlusion_is_a_plain_loop(tower, window, stride, pixel_values, text_embeds):
    model, pixel_values, text_embeds = make_tiny_model(tower).double(), pixel_values[:2].double(), text_embeds.double()
    maps = METHODS["occlusion"](exact_request(model, pixel_values, text_embeds, window=window, stride=stride))
    cell = stride or {"vit": 16, "resnet": 32}[tower]
    edge = window or 32
    starts = list(range(0, IMAGE_SIZE - edge + 1, cell))
    starts += [] if starts[-1] == IMAGE_SIZE - edge else [IMAGE_SIZE - edge]
    for number, image in enumerate(pixel_values):
        values = [[[] for _ in range(IMAGE_SIZE)] for _ in range(IMAGE_SIZE)]
        with torch.no_grad():
            whole = model.encode_image(image[None])[0] @ text_embeds.T
            for y in starts:
                for x in starts:
                    covered = image.clone()
                    covered[:, y : y + edge, x : x + edge] = image.mean(dim=(1, 2))[:, None, None]
                    drop = whole - model.encode_image(covered[None])[0] @ text_embeds.T
                    for row in range(y, y + edge):
                        for column in range(x, x + edge):
                            values[row][column].append(drop)
        pixels = torch.stack([torch.stack([torch.stack(each).mean(0) for each in row]) for row in values])
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                part = pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
                torch.testing.assert_close(maps[number, :, row, column], part.mean((0, 1)), rtol=1e-9, atol=1e-12)
    assert maps.shape[2] == math.ceil(IMAGE_SIZE / cell)


def test_rollout_is_the_product_of_the_layers(pixel_values, text_embeds):
    model = make_tiny_model("vit")
    maps = image_maps(model, pixel_values, text_embeds, "rollout")
    model.set_attn_implementation("eager")
    attentions = model.vision_model(pixel_values, output_attentions=True).attentions
    expected = torch.eye(17)
    for weights in attentions:
        expected = (weights.mean(1) / 2 + torch.eye(17) / 2) @ expected
    torch.testing.assert_close(maps[:, 0].flatten(1), expected[:, 0, 1:])
    assert torch.equal(maps[:, 0], maps[:, 2])  # it knows nothing of the text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_shapes_and_independence_of_the_batch(tower, method, pixel_values, text_embeds):
    model = make_tiny_model(tower)
    maps = image_maps(model, pixel_values, text_embeds, method)
    assert maps.shape == (4, 3, *({"vit": (4, 4), "resnet": (2, 2)}[tower])) and maps.dtype == torch.float32
    assert not maps.requires_grad and maps.isfinite().all()
    alone = image_maps(model, pixel_values[1:2], text_embeds[2:], method)
    torch.testing.assert_close(alone[0, 0], maps[1, 2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_attention_implementation_does_not_matter(tower, method, pixel_values, text_embeds):
    maps = []
    for implementation in ("eager", "sdpa"):
        model = make_tiny_model(tower)
        model.set_attn_implementation(implementation)
        maps.append(image_maps(model, pixel_values, text_embeds, method))
        assert model.config.vision_config._attn_implementation == implementation
    assert torch.equal(*maps)


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_model_is_untouched(tower, method, pixel_values, text_embeds):
    model = make_tiny_model(tower).train()
    model.text_model.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    pixel_values.requires_grad_()

    def state():
        return (
            [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
            [(name, each.requires_grad, id(each.grad), each._version) for name, each in model.named_parameters()],
            [(name, each._version) for name, each in model.named_buffers()],
            copy.deepcopy(model.config.to_dict()),
            model.config.vision_config._attn_implementation,
        )

    before = state()
    result = image_maps(model, pixel_values, text_embeds, method)
    assert state() == before and pixel_values.grad is None
    assert torch.equal(result, image_maps(model.eval().requires_grad_(False), pixel_values, text_embeds, method))


def test_threads_do_not_meet(tower, pixel_values, text_embeds):
    """Maps of one model from several threads, while others use and differentiate it."""
    model = make_tiny_model(tower)
    expected = {method: image_maps(model, pixel_values, text_embeds, method) for method in METHODS}
    with torch.no_grad():
        embeds = model.encode_image(pixel_values)

    def explain(method: str) -> bool:
        return torch.equal(image_maps(model, pixel_values, text_embeds, method), expected[method])

    def use(_) -> bool:
        output = model.encode_image(pixel_values)
        return output.requires_grad and torch.equal(output.detach(), embeds) and model.config.vision_config is config

    config = model.config.vision_config
    with ThreadPoolExecutor(6) as pool:
        results = [*pool.map(explain, [*METHODS] * 3), *pool.map(use, range(12))]
    assert all(results) and config._attn_implementation == "sdpa"
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize(("height", "width"), [(64, 126), (96, 113), (64, 95)])
def test_occlusion_of_a_size_that_cells_do_not_fill(tower, height, width, text_embeds):
    """A cell that one square covers alone has that square's drop, wherever the image ends."""
    model, cell = make_tiny_model(tower), {"vit": 16, "resnet": 32}[tower]
    pixel_values = torch.randn(1, 3, height, width)
    chefer = image_maps(model, pixel_values, text_embeds, "chefer")
    assert image_maps(model, pixel_values, text_embeds, "occlusion").shape == chefer.shape
    maps = image_maps(model, pixel_values, text_embeds, "occlusion", window=cell)

    def cosines(images):
        with torch.no_grad():
            return model.encode_image(images, interpolate_pos_encoding=True)[0] @ text_embeds.T

    starts = [window_starts(length, cell, cell) for length in (height, width)]
    checked = 0
    for row, y in enumerate(starts[0][: maps.shape[2]]):
        for column, x in enumerate(starts[1][: maps.shape[3]]):
            covering = sum(
                abs(y - other_y) < cell and abs(x - other_x) < cell for other_y in starts[0] for other_x in starts[1]
            )
            if (y, x) != (row * cell, column * cell) or covering > 1:
                continue
            covered = pixel_values.clone()
            covered[..., y : y + cell, x : x + cell] = pixel_values.mean((2, 3), keepdim=True)
            drop = cosines(pixel_values) - cosines(covered)
            torch.testing.assert_close(maps[0, :, row, column], drop, rtol=1e-3, atol=1e-5)
            checked += 1
    assert checked


def test_no_images_make_no_maps(tower, text_embeds):
    for method in METHODS:
        assert image_maps(make_tiny_model(tower), torch.zeros(0, 3, 64, 64), text_embeds, method).shape[:2] == (0, 3)


def test_the_twin_shares_its_weights(tiny_model):
    twin = attention_twin(tiny_model.train())
    assert all(a is b for a, b in zip(twin.parameters(), tiny_model.parameters(), strict=True))
    assert all(a is b for a, b in zip(twin.buffers(), tiny_model.buffers(), strict=True))
    assert not any(module.training for module in twin.modules()) and tiny_model.training
    assert twin.config is not tiny_model.config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(tower, dtype, pixel_values, text_embeds):
    expected = image_maps(make_tiny_model(tower), pixel_values, text_embeds)
    maps = image_maps(make_tiny_model(tower).to(dtype), pixel_values, text_embeds)
    assert maps.dtype == torch.float32
    assert torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1] > 0.98


def test_folded_compiled_and_inference_mode(tower, pixel_values, text_embeds):
    model = make_tiny_model(tower)
    expected = image_maps(model, pixel_values, text_embeds)
    with torch.inference_mode():
        assert torch.equal(image_maps(model, pixel_values * 1, text_embeds * 1), expected)
    assert torch.equal(image_maps(torch.compile(model), pixel_values, text_embeds), expected)
    torch.testing.assert_close(
        image_maps(model.fold_batch_norm(), pixel_values, text_embeds), expected, rtol=1e-3, atol=1e-5
    )


def test_a_model_with_adapters_of_peft(pixel_values, text_embeds):
    from peft import LoraConfig, get_peft_model

    model = make_tiny_model("vit")
    plain = image_maps(model, pixel_values, text_embeds)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    changed = image_maps(wrapped, pixel_values, text_embeds)
    assert not torch.allclose(changed, plain)
    torch.testing.assert_close(
        image_maps(wrapped.merge_and_unload(), pixel_values, text_embeds), changed, rtol=1e-3, atol=1e-5
    )


def test_other_sizes(tower, text_embeds):
    for height, width in ((96, 64), (63, 81)):
        maps = image_maps(make_tiny_model(tower), torch.randn(1, 3, height, width), text_embeds)
        assert maps.shape[2:] == ((height // 16, width // 16) if tower == "vit" else maps.shape[2:])


def test_layers(pixel_values, text_embeds):
    model = make_tiny_model("vit")
    by_layers = {
        layers: image_maps(model, pixel_values, text_embeds, layers=layers) for layers in ("all", "last", 1, 2, 3)
    }
    assert torch.equal(by_layers["all"], by_layers[3]) and torch.equal(by_layers["last"], by_layers[1])
    assert not torch.allclose(by_layers[2], by_layers[3]) and not torch.allclose(by_layers[1], by_layers[2])
    for wrong in (0, 4, -1, "first", True, 1.5):
        with pytest.raises(ValueError, match="`layers` is"):
            last_layers(tuple(pixel_values[:3]), wrong)


def test_defaults():
    assert (
        default_method(make_tiny_model("vit")) == "chefer" and default_method(make_tiny_model("resnet")) == "grad_cam"
    )
    assert window_starts(10, 4, 3) == [0, 3, 6] and window_starts(10, 4, 4) == [0, 4, 6]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "chefr"}, ValueError, "`method` is 'chefr'.*chefer, grad_cam.* Did you mean 'chefer'"),
        ({"layers": 4}, ValueError, "`layers` is 4; it must be 'all', 'last'.* 1 to 3 in this model"),
        ({"method": "grad_cam", "layers": "last"}, ValueError, "grad_cam has no such choice; chefer and rollout do"),
        ({"window": 8}, ValueError, "belong to the method occlusion, not chefer"),
        ({"method": "occlusion", "window": 65}, ValueError, "must fit into the image of 64 x 64"),
        ({"method": "occlusion", "window": 8, "stride": 9}, ValueError, "stride must not exceed the window"),
        ({"text_embeds": torch.ones(0, DIM)}, ValueError, "at least one text"),
        ({"text_embeds": torch.ones(2, DIM)}, ValueError, "rows of length 4 to 4; they must be L2-normalised"),
        ({"text_embeds": [[1.0]]}, TypeError, "`text_embeds` is a list"),
        ({"pixel_values": torch.ones(3, 64, 64)}, ValueError, "`pixel_values` has the shape"),
        ({"pixel_values": None}, ValueError, "`pixel_values` is missing"),
        ({"model": nn.Linear(1, 1)}, TypeError, "`model` is a Linear; .*ClipHFModel.from_pretrained"),
    ],
)
def test_bad_input(change, error, message, pixel_values, text_embeds):
    given = {"model": make_tiny_model("vit"), "pixel_values": pixel_values, "text_embeds": text_embeds} | change
    with pytest.raises(error, match=message):
        image_maps(**given)


def test_transformers_clip_is_refused(pixel_values, text_embeds):
    with pytest.raises(TypeError, match=r"`model` is a CLIPModel; .*`ClipHFModel.from_pretrained\(path\)` reads"):
        image_maps(as_transformers_clip(make_tiny_model("vit")), pixel_values, text_embeds)


def test_offloaded_weights_are_refused(pixel_values, text_embeds):
    with pytest.raises(ValueError, match="offloaded; load it whole"):
        image_maps(make_tiny_model("vit").to("meta"), pixel_values, text_embeds)


@pytest.mark.parametrize("method", ["chefer", "grad_cam", "occlusion"])
def test_damaged_weights_are_said(tower, method):
    model = make_tiny_model(tower)
    with torch.no_grad():
        model.visual_projection.weight.fill_(torch.nan)
    embeds = nn.functional.normalize(torch.randn(2, 16), dim=-1)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        image_maps(model, torch.randn(1, 3, 64, 64), embeds, method)
