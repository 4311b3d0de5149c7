# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPForImageClassification
from transformers import CLIPModel as StockCLIPModel

from clip_hf import (
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFResNetModel,
    ClipHFTextModel,
    ClipHFTextModelWithProjection,
    ClipHFVisionModelWithProjection,
    ClipHFViTModel,
    contrastive_loss,
    sigmoid_loss,
)
from clip_hf.model import modeling_clip_hf
from plain_clip import cosine_logits, image_features, text_features
from tiny_models import IMAGE_SIZE, make_tiny_model, tiny_config, wake_batch_norm


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def in_float64(model, pixel_values):
    return model.double(), pixel_values.double()


# Against the plain reference -----------------------------------------------------------------------------------------


def plain_texts(weights, config, text_inputs):
    texts = []
    for ids, mask in zip(text_inputs["input_ids"], text_inputs["attention_mask"], strict=True):
        texts.append(text_features(weights, config, ids[mask.bool()].tolist()))
    return torch.stack(texts)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_features_and_logits_equal_the_plain_reference(tower, attn_implementation, text_inputs, pixel_values):
    model, pixel_values = in_float64(make_tiny_model(tower), pixel_values)
    model.set_attn_implementation(attn_implementation)
    weights = model.state_dict()
    texts = plain_texts(weights, model.config.text_config, text_inputs)
    images = torch.stack([image_features(weights, model.config.vision_config, image) for image in pixel_values])
    # The comparison says nothing unless the features depend on the input.
    assert relative_difference(images[0], images[1]) > 0.3
    assert relative_difference(texts[0], texts[1]) > 0.3
    with torch.no_grad():
        assert relative_difference(model.get_text_features(**text_inputs).pooler_output, texts) < 1e-12
        assert relative_difference(model.get_image_features(pixel_values).pooler_output, images) < 1e-12
        output = model(pixel_values=pixel_values, **text_inputs)
    logits = cosine_logits(images, texts, weights["logit_scale"].exp())
    assert relative_difference(output.logits_per_image, logits) < 1e-12
    assert relative_difference(output.logits_per_text, logits.T) < 1e-12


def test_gradients_equal_the_plain_references(tower, text_inputs, pixel_values):
    model, pixel_values = in_float64(make_tiny_model(tower), pixel_values)
    loss = model(pixel_values=pixel_values, **text_inputs, return_loss=True).loss
    parameters = dict(model.named_parameters())
    actual = dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))
    weights = {**model.state_dict(), **parameters}
    texts = plain_texts(weights, model.config.text_config, text_inputs)
    images = torch.stack([image_features(weights, model.config.vision_config, image) for image in pixel_values])
    logits = cosine_logits(images, texts, weights["logit_scale"].exp())
    labels = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    plain_loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-12)
    expected = torch.autograd.grad(plain_loss, parameters.values())
    largest = max(gradient.norm() for gradient in expected)
    for (name, gradient), plain_gradient in zip(actual.items(), expected, strict=True):
        # A key's bias has no influence on a softmax: its gradient is rounding in both.
        assert (gradient - plain_gradient).norm() <= 1e-10 * plain_gradient.norm() + 1e-14 * largest, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_float32_of_the_same_weights(tower, dtype, text_inputs, pixel_values, tmp_path):
    make_tiny_model(tower).save_pretrained(tmp_path)
    half = ClipHFModel.from_pretrained(tmp_path, dtype=dtype).eval()
    full = copy.deepcopy(half).float()
    tolerance = {torch.float16: 6e-3, torch.bfloat16: 5e-2}[dtype]
    with torch.no_grad():
        for encode, inputs in (
            (lambda model: model.encode_text(**text_inputs), "text"),
            (lambda model: model.encode_image(pixel_values), "image"),
        ):
            embeds = encode(half)
            assert embeds.dtype is dtype, inputs
            assert relative_difference(embeds.float(), encode(full)) < tolerance, inputs


def test_batch_norm_stays_float32_in_half_precision(tmp_path):
    make_tiny_model("resnet").save_pretrained(tmp_path)
    model = ClipHFModel.from_pretrained(tmp_path, dtype=torch.float16)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert {module.weight.dtype, module.running_var.dtype} == {torch.float32}, name
    assert model.vision_model.stem.conv1.weight.dtype is torch.float16


# Against transformers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock_repo(tmp_path_factory):
    """A folder that transformers' CLIPModel wrote, with biases and gains that are not at their initial values."""
    torch.manual_seed(0)
    text_config = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    text_config |= {"num_attention_heads": 4, "max_position_embeddings": 24, "bos_token_id": 598, "eos_token_id": 599}
    vision_config = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision_config |= {"image_size": IMAGE_SIZE, "patch_size": 16}
    config = CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=16)
    model = StockCLIPModel(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("stock")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_equals_transformers(stock_repo, attn_implementation, padding_side, text_inputs, pixel_values):
    ours, info = ClipHFModel.from_pretrained(
        stock_repo, attn_implementation=attn_implementation, output_loading_info=True
    )
    assert {name: list(value) for name, value in info.items() if value} == {}
    theirs = StockCLIPModel.from_pretrained(stock_repo).double().eval()
    ours, pixel_values = in_float64(ours, pixel_values)
    if padding_side == "left":
        padding = 1  # not the end-of-text id, whose first place transformers would take the features at
        for row, length in enumerate(text_inputs["attention_mask"].sum(dim=1).tolist()):
            for name, fill in (("input_ids", padding), ("attention_mask", 0)):
                values = text_inputs[name][row].clone()
                text_inputs[name][row, :-length] = fill
                text_inputs[name][row, -length:] = values[:length]
    with torch.no_grad():
        expected = theirs(pixel_values=pixel_values, **text_inputs, return_loss=True)
        actual = ours(pixel_values=pixel_values, **text_inputs, return_loss=True)
    for name in ("text_embeds", "image_embeds", "logits_per_image", "loss"):
        assert relative_difference(actual[name], expected[name]) < 1e-10, name
    real = text_inputs["attention_mask"].bool()
    states = [output.text_model_output.last_hidden_state[real] for output in (actual, expected)]
    assert relative_difference(*states) < 1e-10


def test_other_resolutions_equal_transformers(stock_repo):
    ours = ClipHFModel.from_pretrained(stock_repo).double()
    theirs = StockCLIPModel.from_pretrained(stock_repo).double().eval()
    pixel_values = torch.randn(2, 3, 96, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.get_image_features(pixel_values, interpolate_pos_encoding=True).pooler_output
        actual = ours.get_image_features(pixel_values, interpolate_pos_encoding=True).pooler_output
    assert relative_difference(actual, expected) < 1e-12


@pytest.mark.parametrize(
    "cls", [ClipHFTextModel, ClipHFTextModelWithProjection, ClipHFViTModel, ClipHFVisionModelWithProjection]
)
def test_towers_load_from_a_stock_repo(stock_repo, cls, text_inputs, pixel_values):
    whole = ClipHFModel.from_pretrained(stock_repo)
    tower, info = cls.from_pretrained(stock_repo, output_loading_info=True)
    assert {name: list(value) for name, value in info.items() if value} == {}
    text = "Text" in cls.__name__
    inputs = text_inputs if text else {"pixel_values": pixel_values}
    projected = "Projection" in cls.__name__
    with torch.no_grad():
        output = tower(**inputs)
        if projected:
            features = whole.get_text_features(**inputs) if text else whole.get_image_features(**inputs)
            torch.testing.assert_close(output["text_embeds" if text else "image_embeds"], features.pooler_output)
        else:
            expected = (whole.text_model if text else whole.vision_model)(**inputs).pooler_output
            torch.testing.assert_close(output.pooler_output, expected)


def test_classifier_of_transformers_gives_the_same_logits(pixel_values, tmp_path):
    torch.manual_seed(0)
    vision_config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision_config |= {"image_size": IMAGE_SIZE, "patch_size": 16}
    theirs = CLIPForImageClassification(CLIPConfig(vision_config=vision_config, num_labels=7)).eval()
    theirs.save_pretrained(tmp_path)
    ours, info = ClipHFForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: list(value) for name, value in info.items() if value} == {}
    labels = torch.tensor([0, 3, 6, 2])
    with torch.no_grad():
        expected, actual = theirs(pixel_values, labels), ours(pixel_values, labels)
    torch.testing.assert_close(actual.logits, expected.logits)
    torch.testing.assert_close(actual.loss, expected.loss)


def test_index_buffers_in_old_repos_are_no_surprise(stock_repo, tmp_path):
    weights = load_file(stock_repo / "model.safetensors")
    for name, length in (("text_model", 24), ("vision_model", 17)):
        weights[f"{name}.embeddings.position_ids"] = torch.arange(length)[None]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((stock_repo / "config.json").read_text())
    _, info = ClipHFModel.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: list(value) for name, value in info.items() if value} == {}


# Text ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_padding_changes_nothing(attn_implementation, text_inputs):
    model = make_tiny_model("vit").double()
    model.set_attn_implementation(attn_implementation)
    with torch.no_grad():
        padded = model.encode_text(**text_inputs)
        without_mask = model.encode_text(text_inputs["input_ids"])
        torch.testing.assert_close(without_mask, padded)
        for row, length in enumerate(text_inputs["attention_mask"].sum(dim=1).tolist()):
            ids = text_inputs["input_ids"][row : row + 1, :length]
            torch.testing.assert_close(model.encode_text(ids)[0], padded[row])
            left = torch.nn.functional.pad(ids, (5, 0), value=599)  # end-of-text tokens as padding
            mask = torch.nn.functional.pad(torch.ones_like(ids), (5, 0))
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            torch.testing.assert_close(model.encode_text(left, mask, positions)[0], padded[row])


def test_features_are_taken_at_the_first_end_of_text():
    model = make_tiny_model("vit")
    ids = torch.tensor([[598, 5, 6, 599, 7, 8, 599, 599]])
    torch.testing.assert_close(model.encode_text(ids), model.encode_text(ids[:, :4]))


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (torch.tensor([[598, 5, 599], [598, 5, 6]]), r"texts \[1\] of the batch have no end-of-text token \(id 599\)"),
        (torch.full((1, 25), 599), "25 tokens long and the model has 24 positions"),
        (torch.tensor([598, 599]), r"shape \(2,\)"),
        (torch.tensor([[598.0, 599.0]]), "torch.float32; it must be .* integers"),
        (torch.tensor([[598, 600, 599]]), "ids from 598 to 600; the model's vocabulary has 600"),
        (torch.tensor([[598, -1, 599]]), "ids from -1 to 599"),
        (None, "`input_ids` is missing"),
    ],
)
def test_bad_token_ids_are_refused(input_ids, message):
    with pytest.raises(ValueError, match=message):
        make_tiny_model("vit").text_model(input_ids)


def test_as_many_tokens_as_positions_are_taken():
    ids = torch.full((2, 24), 5)
    ids[:, -1] = 599
    with torch.no_grad():
        assert make_tiny_model("vit").encode_text(ids).shape == (2, 16)


def test_attention_dropout_is_for_training_only(text_inputs, pixel_values):
    config = tiny_config("vit")
    for tower in (config.text_config, config.vision_config):
        tower.attention_dropout = 0.5
    model = ClipHFModel(config).eval()
    plain = make_tiny_model("vit")
    plain.load_state_dict(model.state_dict())
    encode = {"text": lambda model: model.encode_text(**text_inputs), "image": lambda m: m.encode_image(pixel_values)}
    with torch.no_grad():
        for attn_implementation in ("sdpa", "eager"):
            model.set_attn_implementation(attn_implementation)
            for kind, run in encode.items():
                torch.testing.assert_close(run(model.eval()), run(plain), msg=kind)
                assert relative_difference(run(model.train()), run(plain)) > 0.01, kind


# Images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (32, 64), (100, 75)])
def test_other_resolutions(tower, size):
    model = make_tiny_model(tower)
    pixel_values = torch.randn(2, 3, *size)
    with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
        model.encode_image(pixel_values)
    embeds = model.encode_image(pixel_values, interpolate_pos_encoding=True)
    assert embeds.shape == (2, 16)
    assert relative_difference(embeds[0], embeds[1]) > 0.05


def test_the_trained_resolution_is_not_touched_by_interpolation(tiny_model, pixel_values):
    with torch.no_grad():
        expected = tiny_model.encode_image(pixel_values)
        assert torch.equal(tiny_model.encode_image(pixel_values, interpolate_pos_encoding=True), expected)


def test_resized_positions_keep_a_linear_ramp():
    from clip_hf.model.modeling_clip_hf_base import interpolate_positions

    ramp = torch.arange(8.0).repeat(8, 1)  # grows with the column
    positions = torch.cat([torch.tensor([[9.0]]), ramp.reshape(64, 1)])
    resized = interpolate_positions(positions, 8, 8, 16)
    assert resized[0] == 9
    inner = resized[1:].reshape(8, 16)[:, 4:-4]
    torch.testing.assert_close(inner[:, 2:] - inner[:, :-2], torch.ones(8, 6))


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64), (2, 64, 64, 3)])
def test_bad_pixel_values_are_refused(tiny_model, shape):
    with pytest.raises(ValueError, match=r"it must be \(batch, 3, height, width\)"):
        tiny_model.encode_image(torch.zeros(shape))


def test_every_model_of_images_takes_other_resolutions(tower):
    pixel_values = torch.randn(2, 3, 96, 64)
    model = make_tiny_model(tower)
    config = model.config
    projected, classifier = ClipHFVisionModelWithProjection(config.vision_config), ClipHFForImageClassification(config)
    for other in (projected, classifier):
        other.eval().vision_model.load_state_dict(model.vision_model.state_dict())
        with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
            other(pixel_values)
    projected.visual_projection.load_state_dict(model.visual_projection.state_dict())
    with torch.no_grad():
        whole = model(pixel_values=pixel_values, interpolate_pos_encoding=True).vision_model_output
        embeds = projected(pixel_values, interpolate_pos_encoding=True).image_embeds
        torch.testing.assert_close(embeds, whole.pooler_output)
        logits = classifier(pixel_values, interpolate_pos_encoding=True).logits
        output = model.vision_model(pixel_values, interpolate_pos_encoding=True)
        pooled = output.pooler_output if tower == "resnet" else output.last_hidden_state[:, 1:].mean(dim=1)
        torch.testing.assert_close(logits, classifier.classifier(pooled))


# The whole model -----------------------------------------------------------------------------------------------------


def test_encodings_are_normalised_features(tiny_model, text_inputs, pixel_values):
    with torch.no_grad():
        for embeds, output in (
            (tiny_model.encode_text(**text_inputs), tiny_model.get_text_features(**text_inputs)),
            (tiny_model.encode_image(pixel_values), tiny_model.get_image_features(pixel_values)),
        ):
            features = output.pooler_output
            assert embeds.shape == (4, 16)
            torch.testing.assert_close(embeds, features / features.norm(dim=-1, keepdim=True))
            assert (features.norm(dim=-1) - 1).abs().min() > 1e-3


def test_either_input_may_be_left_out(tiny_model, text_inputs, pixel_values):
    with torch.no_grad():
        both = tiny_model(pixel_values=pixel_values, **text_inputs)
        text, image = tiny_model(**text_inputs), tiny_model(pixel_values=pixel_values)
    assert torch.equal(text.text_embeds, both.text_embeds)
    assert torch.equal(image.image_embeds, both.image_embeds)
    assert set(text.keys()) == {"text_embeds", "text_model_output"}
    with pytest.raises(ValueError, match="Both `input_ids` and `pixel_values` are missing"):
        tiny_model()


def test_return_loss(tiny_model, text_inputs, pixel_values):
    output = tiny_model(pixel_values=pixel_values, **text_inputs, return_loss=True)
    expected = contrastive_loss(output.image_embeds, output.text_embeds, tiny_model.logit_scale.exp())
    torch.testing.assert_close(output.loss, expected)
    with pytest.raises(ValueError, match="needs both"):
        tiny_model(**text_inputs, return_loss=True)
    with pytest.raises(ValueError, match="4 texts and 3 images"):
        tiny_model(pixel_values=pixel_values[:3], **text_inputs, return_loss=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("bias", "name"), [(None, "contrastive_loss"), (-3.0, "sigmoid_loss")])
def test_negatives_come_from_all_processes_in_training_only(
    bias, name, training, text_inputs, pixel_values, monkeypatch
):
    calls, loss = [], getattr(modeling_clip_hf, name)
    monkeypatch.setattr(
        modeling_clip_hf, name, lambda *args, **options: calls.append(options) or loss(*args, **options)
    )
    model = make_tiny_model("vit", logit_bias_init_value=bias).train(training)
    ids = {"image_ids": torch.tensor([0, 1, 1, 2]), "text_ids": torch.tensor([0, 1, 2, 0])}
    model(pixel_values=pixel_values, **text_inputs, return_loss=True, **ids)
    assert calls == [{"gather": training, **ids}]


def test_a_learned_bias_is_in_the_logits_and_the_loss_is_the_sigmoid_loss(text_inputs, pixel_values):
    plain, model = make_tiny_model("vit"), make_tiny_model("vit", logit_bias_init_value=-3.0)
    model.load_state_dict(plain.state_dict(), strict=False)
    inputs = {"pixel_values": pixel_values, **text_inputs, "text_ids": torch.tensor([0, 1, 0, 2])}
    output, expected = model(**inputs, return_loss=True), plain(**inputs)
    torch.testing.assert_close(output.logits_per_text, expected.logits_per_text - 3)
    torch.testing.assert_close(output.logits_per_image, output.logits_per_text.T)
    embeds, scalars = (output.image_embeds, output.text_embeds), (model.logit_scale.exp(), torch.tensor(-3.0))
    torch.testing.assert_close(output.loss, sigmoid_loss(*embeds, *scalars, text_ids=inputs["text_ids"]))
    weights = plain.state_dict()
    assert ClipHFModel.from_pretrained(None, config=model.config, state_dict=weights).logit_bias.item() == -3


def test_positions_reach_the_text_tower(tiny_model, text_inputs, pixel_values):
    positions = torch.arange(10).flip(0).expand(4, 10)
    with torch.no_grad():
        expected = tiny_model.encode_text(**text_inputs, position_ids=positions)
        assert relative_difference(expected, tiny_model.encode_text(**text_inputs)) > 0.01
        output = tiny_model(pixel_values=pixel_values, **text_inputs, position_ids=positions)
        torch.testing.assert_close(output.text_embeds, expected)
        single = ClipHFTextModelWithProjection(tiny_model.config.text_config).eval()
        single.load_state_dict({k: v for k, v in tiny_model.state_dict().items() if k.startswith("text_")})
        embeds = single(**text_inputs, position_ids=positions).text_embeds
        torch.testing.assert_close(torch.nn.functional.normalize(embeds, dim=-1), expected)


def test_misspelled_inputs_are_refused(tiny_model, text_inputs, pixel_values):
    with pytest.raises(TypeError, match="Unknown input `pixel_value` of ClipHFModel. Did you mean `pixel_values`"):
        tiny_model(pixel_value=pixel_values, **text_inputs)


def test_hidden_states_and_attentions(tower, text_inputs, pixel_values):
    model = make_tiny_model(tower)
    model.set_attn_implementation("eager")
    output = model(pixel_values=pixel_values, **text_inputs, output_hidden_states=True, output_attentions=True)
    text, vision = output.text_model_output, output.vision_model_output
    assert [tuple(state.shape) for state in text.hidden_states] == [(4, 10, 32)] * 4
    assert [tuple(weights.shape) for weights in text.attentions] == [(4, 4, 10, 10)] * 3
    if tower == "vit":
        assert [tuple(state.shape) for state in vision.hidden_states] == [(4, 17, 32)] * 4
        assert [tuple(weights.shape) for weights in vision.attentions] == [(4, 4, 17, 17)] * 3
        torch.testing.assert_close(vision.hidden_states[-1], vision.last_hidden_state)
    else:
        shapes = [(4, 8, 16, 16), (4, 32, 16, 16), (4, 64, 8, 8), (4, 128, 4, 4), (4, 256, 2, 2)]
        assert [tuple(state.shape) for state in vision.hidden_states] == shapes
        assert [tuple(weights.shape) for weights in vision.attentions] == [(4, 4, 1, 5)]
    for weights in (*text.attentions, *vision.attentions):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    upper = torch.ones(10, 10, dtype=torch.bool).triu(1)
    assert all(weights[..., upper].abs().max() == 0 for weights in text.attentions)


def test_return_dict_false_gives_tuples(tiny_model, text_inputs, pixel_values):
    with torch.no_grad():
        named = tiny_model(pixel_values=pixel_values, **text_inputs)
        plain = tiny_model(pixel_values=pixel_values, **text_inputs, return_dict=False)
    assert torch.equal(plain[0], named.logits_per_image)
    assert isinstance(plain[-1], tuple)


@pytest.mark.parametrize("cls", [ClipHFModel, ClipHFForImageClassification])
def test_saved_model_loads_as_the_same(cls, tower, pixel_values, text_inputs, tmp_path):
    torch.manual_seed(0)
    model = cls(tiny_config(tower, num_labels=5)).eval()
    if tower == "resnet":
        wake_batch_norm(model.vision_model)
    model.save_pretrained(tmp_path)
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: list(value) for name, value in info.items() if value} == {}
    inputs = {"pixel_values": pixel_values, **(text_inputs if cls is ClipHFModel else {})}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs)[0], model(**inputs)[0])


def test_a_weights_file_cut_in_half_is_refused(tmp_path):
    make_tiny_model("vit").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
    with pytest.raises(OSError, match=f"weights in {tmp_path} cannot be read .* is incomplete or damaged"):
        ClipHFModel.from_pretrained(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path):
    make_tiny_model("vit").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["hidden_size"] = 64
    path.write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"(?i)size mismatch|mismatched"):
        ClipHFModel.from_pretrained(tmp_path)


# Training ------------------------------------------------------------------------------------------------------------


def training_step(model, pixel_values, text_inputs):
    """Loss, gradients and BatchNorm statistics of one step in training mode."""
    model.train()
    model.zero_grad()
    loss = model(pixel_values=pixel_values, **text_inputs, return_loss=True).loss
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return loss.detach(), gradients, {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(tower, use_reentrant, pixel_values, text_inputs):
    plain, checkpointed = make_tiny_model(tower), make_tiny_model(tower)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        pixel_values.requires_grad_()  # the reentrant kind needs an input with a gradient
    counted = []
    module = checkpointed.vision_model
    first = module.encoder.stages[0].blocks[0] if tower == "resnet" else module.encoder.layers[0].mlp
    first.register_forward_pre_hook(lambda *args: counted.append(1))
    expected = training_step(plain, pixel_values, text_inputs)
    actual = training_step(checkpointed, pixel_values, text_inputs)
    assert len(counted) == 2  # once in the forward, once again in the backward pass
    torch.testing.assert_close(actual[0], expected[0])
    for kind in (1, 2):
        for name, value in expected[kind].items():
            torch.testing.assert_close(actual[kind][name], value, msg=name, rtol=1e-4, atol=1e-5)
    tracked = {value.item() for name, value in actual[2].items() if name.endswith("num_batches_tracked")}
    assert tracked == ({5} if tower == "resnet" else set())  # 4 of `wake_batch_norm`, 1 of the step


@pytest.mark.parametrize("freeze_affine", [True, False])
def test_frozen_batch_norm_keeps_its_statistics(freeze_affine, pixel_values, text_inputs):
    model = make_tiny_model("resnet")
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert model.freeze_batch_norm(freeze_affine) == len(layers) > 10
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    expected = model.encode_image(pixel_values)
    model.train()
    assert torch.equal(model.encode_image(pixel_values), expected)
    model(pixel_values=pixel_values, **text_inputs, return_loss=True).loss.backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert {(layer.weight.grad is None) for layer in layers} == {freeze_affine}
    assert model.vision_model.stem.conv1.weight.grad is not None


def test_freezing_a_model_without_batch_norm_freezes_nothing():
    model = make_tiny_model("vit")
    assert model.freeze_batch_norm() == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_few_steps_learn_a_batch_by_heart(tower, pixel_values, text_inputs):
    model = make_tiny_model(tower)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        loss, _, _ = training_step(model, pixel_values, text_inputs)
        optimizer.step()
    output = model(pixel_values=pixel_values, **text_inputs)
    assert loss < 0.1
    assert output.logits_per_image.argmax(dim=1).tolist() == [0, 1, 2, 3]


# Other runtimes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_flex_attention_equals_eager(text_inputs, pixel_values):
    model = make_tiny_model("vit")
    with torch.no_grad():
        expected = model.get_text_features(**text_inputs).pooler_output
        model.set_attn_implementation("flex_attention")
        # Not compiled, as transformers would have it: torch compiles this attention for some processors only.
        with torch.compiler.set_stance("force_eager"):
            actual = model.get_text_features(**text_inputs).pooler_output
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_attention_can_be_chosen_per_tower():
    model = make_tiny_model("vit")
    model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    assert model.text_model.config._attn_implementation == "eager"
    assert model.vision_model.config._attn_implementation == "sdpa"


def test_resnet_and_vit_towers_are_what_the_config_says():
    assert isinstance(make_tiny_model("vit").vision_model, ClipHFViTModel)
    assert isinstance(make_tiny_model("resnet").vision_model, ClipHFResNetModel)


def test_channels_last_gives_the_same_features(tiny_model, pixel_values):
    with torch.no_grad():
        expected = tiny_model.encode_image(pixel_values)
        tiny_model.to(memory_format=torch.channels_last)
        actual = tiny_model.encode_image(pixel_values.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_saved_files_have_one_mode(tmp_path):
    make_tiny_model("vit").save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
