# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""LoRA: what is trained, that merging changes nothing, that adapters load everywhere, and what is refused."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, pipeline

import clip_hf
from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.checkpoints import convert
from clip_hf.embedding import load_dual_encoder
from clip_hf.training import LoraOptions, add_lora, load_adapter, merge_lora, save_adapter
from tiny_models import make_tiny_model


CONVOLUTIONS = ("conv", "conv1", "conv2", "conv3", "q_proj", "v_proj", "visual_projection", "fc2")
LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "patch_embedding", "text_projection")
MODULES = {"vit": LINEAR, "resnet": CONVOLUTIONS}


def woken(model, modules, **options):
    """The model with an adapter that changes its features: a new one adds nothing."""
    counts = add_lora(model, LoraOptions(modules=modules, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return counts


@torch.no_grad()
def cosines(model, pixel_values, text_inputs):
    dtype = next(model.parameters()).dtype
    return model(pixel_values=pixel_values.to(dtype), **text_inputs).logits_per_image / model.logit_scale.exp()


@pytest.fixture
def adapted(tower, tiny_processor, tmp_path):
    """A base folder, an adapter folder, and the model with the adapter on it."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    model = make_tiny_model(tower)
    model.save_pretrained(base)
    tiny_processor.save_pretrained(base)
    model = ClipHFModel.from_pretrained(base)
    woken(model, MODULES[tower])
    save_adapter(model, folder, processor=tiny_processor)
    return base, folder, model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_merged_model_is_the_adapters(tower, dtype, pixel_values, text_inputs):
    model = make_tiny_model(tower).to(dtype)
    names = set(model.state_dict())
    plain = cosines(model, pixel_values, text_inputs)
    woken(model, MODULES[tower])
    expected = cosines(model.eval(), pixel_values, text_inputs)
    assert (expected - plain).abs().max() > 0.01
    merged = merge_lora(model)
    assert merged is model and set(model.state_dict()) == names
    tolerance = {"rtol": 0, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(cosines(model, pixel_values, text_inputs), expected, **tolerance)
    if tower == "resnet":  # which takes plain layers only
        folded = cosines(model.fold_batch_norm(), pixel_values, text_inputs)
        torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("rank_stabilised", "scale"), [(True, 3 / 2**0.5), (False, 3 / 2)])
def test_an_update_is_scaled_by_alpha_over_the_root_of_the_rank(rank_stabilised, scale):
    model = make_tiny_model("vit")
    layer = model.text_model.encoder.layers[1].self_attn.q_proj
    weight = layer.weight.detach().clone()
    woken(model, ("q_proj",), alpha=3.0, rank_stabilised=rank_stabilised)
    lora = model.text_model.encoder.layers[1].self_attn.q_proj
    update = lora.lora_B["default"].weight @ lora.lora_A["default"].weight
    merge_lora(model)
    torch.testing.assert_close(layer.weight, weight + scale * update)


def test_only_adapters_are_trained_and_features_start_as_they_were(tower, pixel_values, text_inputs):
    model = make_tiny_model(tower)
    plain = cosines(model, pixel_values, text_inputs)
    counts = add_lora(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    # Rank 2, three of 32 x 32 in each layer: of both towers, or of the text tower and the pool of 256.
    layers, pool = (6, 0) if tower == "vit" else (3, 1)
    assert counts.trained == layers * 3 * 2 * 64 + pool * 3 * 2 * 2 * 256
    assert counts.frozen == make_tiny_model(tower).num_parameters()
    # But for rounding: plain layers may take a faster product.
    torch.testing.assert_close(cosines(model, pixel_values, text_inputs), plain, rtol=1e-5, atol=1e-5)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    cosines(model.train(), pixel_values, text_inputs)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_a_frozen_part_gets_no_adapter():
    model = make_tiny_model("vit")
    add_lora(model, frozen=("text_model.", "text_projection."))
    names = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert names and all(name.startswith("vision_model.") for name in names)
    with pytest.raises(ValueError, match="q_proj, k_proj, v_proj are only in parts that are frozen"):
        add_lora(make_tiny_model("vit"), frozen=("text_model.", "vision_model."))


LOADERS = {
    "peft": lambda base, folder: PeftModel.from_pretrained(ClipHFModel.from_pretrained(base), folder),
    "ours": lambda base, folder: ClipHFModel.from_pretrained(folder),
    "auto": lambda base, folder: AutoModel.from_pretrained(folder),
    "load_adapter": lambda base, folder: load_adapter(ClipHFModel.from_pretrained(base), folder),
    "merged": lambda base, folder: clip_hf.checkpoints.load(folder)[0],
    "encoder": lambda base, folder: load_dual_encoder(folder).model,
}


def test_adapters_load_everywhere(adapted, pixel_values, text_inputs, images):
    base, folder, model = adapted
    expected = cosines(model, pixel_values, text_inputs)
    assert (expected - cosines(ClipHFModel.from_pretrained(base), pixel_values, text_inputs)).abs().max() > 0.01
    for name, load in LOADERS.items():
        actual = cosines(load(base, folder).eval(), pixel_values, text_inputs)
        assert (actual - expected).abs().max() < 2e-6, name
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["lora_dropout"]) == (2, 1.0, True, 0.25)
    assert config["base_model_name_or_path"] == str(base)
    readme = (folder / "README.md").read_text()
    assert "base_model:" not in readme and f"# A LoRA adapter of {base.name}\n" in readme
    assert str(base.parent) not in readme
    save_adapter(model, folder.parent / "of-the-hub", "me/first")
    assert "base_model: me/first\n" in (folder.parent / "of-the-hub" / "README.md").read_text()
    labels = ["a cat", "two dogs", "a map"]
    plain = clip_hf.pipeline(merge_lora(model), ClipHFProcessor.from_pretrained(base))
    for pipe in (pipeline("zero-shot-image-classification", model=str(folder)), clip_hf.pipeline(str(folder))):
        scores = {entry["label"]: entry["score"] for entry in pipe(images[0], candidate_labels=labels)}
        for entry in plain(images[0], candidate_labels=labels):
            assert scores[entry["label"]] == pytest.approx(entry["score"], abs=1e-5)


def test_adapters_for_another_model_are_refused(adapted, tower, tmp_path):
    _, folder, model = adapted
    other = "resnet" if tower == "vit" else "vit"
    with pytest.raises(ValueError, match="belongs to another model than this ClipHFModel: there is no vision_model"):
        load_adapter(make_tiny_model(other), folder)
    # transformers' own way, which `AutoModel` and `pipeline` take.
    with pytest.raises(ValueError, match="belongs to another model than this ClipHFModel"):
        make_tiny_model(other).load_adapter(str(folder))
    wide = make_tiny_model(tower, text_config={**model.config.text_config.to_dict(), "hidden_size": 64})
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    with pytest.raises(ValueError, match="belongs to another .* has 64 inputs, and the adapter's 32"):
        load_adapter(wide, folder)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())
    with pytest.raises(ValueError, match="has an adapter already, on .*merge_lora"):
        load_adapter(model, folder)


def test_bad_folders_are_named(adapted, tmp_path):
    base, folder, model = adapted
    with pytest.raises(FileNotFoundError, match="is no folder of an adapter: it has no adapter_config.json"):
        load_adapter(merge_lora(model), base)
    with pytest.raises(ValueError, match="holds a LoRA adapter and no model"):
        convert(folder, tmp_path / "out")
    config = folder / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "base_model_name_or_path": str(tmp_path / "nowhere")}))
    with pytest.raises(FileNotFoundError, match="was trained on .*nowhere, which is not here"):
        ClipHFModel.from_pretrained(folder)
    config.write_text(json.dumps({**content, "target_modules": ["q_proj", "k_proj", "v_proj", "fc2"]}))
    plain = ClipHFModel.from_pretrained(base)
    with pytest.raises(ValueError, match="lacks weights for|has weights for"):
        load_adapter(plain, folder)
    assert not any("lora" in name for name in plain.state_dict())
    (folder / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(plain, folder)
    config.write_text("[]")
    with pytest.raises(ValueError, match="cannot be read, or lacks `base_model_name_or_path`"):
        ClipHFModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ("q_porj",)}, "No module is named 'q_porj'; .* fc1, .*Did you mean 'q_proj'"),
        ({"modules": ("layer_norm1",)}, "layer_norm1 is a `?LayerNorm.* convolutions, here .*patch_embedding"),
        ({"modules": ("token_embedding",)}, "token_embedding is an? `?Embedding"),
        ({"modules": ("mlp",)}, "mlp is a `?ClipHFMLP"),
        ({"modules": "q_proj"}, "`modules` is 'q_proj'; it must be names"),
        ({"modules": ()}, r"`modules` is \(\)"),
        ({"rank": 0}, "`rank` is 0; it must be a whole number of at least 1"),
        ({"alpha": 0.0}, "`alpha` is 0.0"),
        ({"dropout": 1.0}, "`dropout` is 1.0"),
    ],
)
def test_bad_options_are_named(options, message):
    model = make_tiny_model("vit")
    with pytest.raises(ValueError, match=message):
        add_lora(model, LoraOptions(**options))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_models_without_an_adapter_are_told():
    model = make_tiny_model("vit")
    with pytest.raises(ValueError, match="has no adapter to merge"):
        merge_lora(model)
    with pytest.raises(ValueError, match="has no adapter to save"):
        save_adapter(model, "unused")
    add_lora(model)
    with pytest.raises(ValueError, match="give the model's name or path as `base_model`"):
        save_adapter(model, "unused")


# ----------------------------------------------------------------------------------------------------- shared prefixes


def _rows_of_first_layer(model, input_ids):
    """How many tokens the first layer of the text tower computes."""
    seen = []
    layer = model.text_model.encoder.layers[0].layer_norm1
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output.numel() // output.shape[-1]))
    model.encode_text(input_ids)
    handle.remove()
    return seen[0]


def test_texts_with_one_beginning_get_a_dropout_draw_each():
    model = make_tiny_model("vit")
    input_ids = torch.tensor([[598, 5, 6, 7, 599], [598, 5, 6, 7, 599]])
    woken(model, ("q_proj", "k_proj", "v_proj"), dropout=0.5)
    one, two = model.train().encode_text(input_ids)
    assert (one - two).abs().max() > 1e-3
    assert _rows_of_first_layer(model, input_ids) == 10
    one, two = model.eval().encode_text(input_ids)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert _rows_of_first_layer(model, input_ids) == 5


def test_without_dropout_beginnings_stay_shared_in_training():
    model = make_tiny_model("vit")
    add_lora(model, LoraOptions(dropout=0.0))
    input_ids = torch.tensor([[598, 5, 6, 7, 599], [598, 5, 6, 8, 599]])
    assert _rows_of_first_layer(model.train(), input_ids) == 7
    assert _rows_of_first_layer(make_tiny_model("vit").train(), input_ids) == 7
