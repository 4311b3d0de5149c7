# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""LoRA: what is trained, that merging changes nothing, that adapters load everywhere, and what is refused."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load, save
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


@pytest.mark.slow_but_for("vit")
def test_adapters_load_everywhere(adapted, pixel_values, text_inputs, images):
    base, folder, model = adapted
    expected = cosines(model, pixel_values, text_inputs)
    assert (expected - cosines(ClipHFModel.from_pretrained(base), pixel_values, text_inputs)).abs().max() > 0.01
    for name, loader in LOADERS.items():
        actual = cosines(loader(base, folder).eval(), pixel_values, text_inputs)
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


@pytest.mark.slow
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
    config.write_text(json.dumps(content))
    good = load((folder / "adapter_model.safetensors").read_bytes())
    name = next(iter(good))
    for damaged in (b"{}", save({**good, name: good[name] * float("nan")})):
        (folder / "adapter_model.safetensors").write_bytes(damaged)
        for loader in (AutoModel.from_pretrained, lambda path: load_adapter(plain, path)):
            with pytest.raises(ValueError, match="adapter_model.safetensors is damaged|has NaN or infinity in"):
                loader(folder)
        with pytest.raises(ValueError, match="cannot be read .*: copy or download it again.$|has NaN or infinity in"):
            ClipHFModel.from_pretrained(base).load_adapter(str(folder))  # transformers'
        assert not any("lora" in name for name in plain.state_dict())


DAMAGE = {
    "truncated": (lambda text: text[:20], "is no JSON file"),
    "empty": (lambda text: "", "is no JSON file"),
    "list": (lambda text: "[]", "holds a list; it must hold a dict"),
    "rank": (lambda text: json.dumps({**json.loads(text), "r": "a"}), "its rank `r` is 'a'"),
    "alpha": (lambda text: json.dumps({**json.loads(text), "lora_alpha": "1"}), "`lora_alpha` is '1'"),
    "kind": (lambda text: json.dumps({**json.loads(text), "peft_type": "NONE"}), "is of the kind NONE"),
}


@pytest.mark.parametrize("tower", ["vit"])
@pytest.mark.parametrize("damage", ["rank", "alpha", "kind"])
def test_auto_classes_check_an_adapter_as_we_do(adapted, damage):
    _, folder, _ = adapted
    change, message = DAMAGE[damage]
    path = folder / "adapter_config.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=message):  # what failed is within the message
        pipeline("zero-shot-image-classification", model=str(folder))


@pytest.mark.parametrize("tower", ["vit"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_configuration_is_one_line(adapted, damage):
    base, folder, _ = adapted
    change, message = DAMAGE[damage]
    path = folder / "adapter_config.json"
    path.write_text(change(path.read_text()))
    for loader in (LOADERS["ours"], LOADERS["load_adapter"]):
        with pytest.raises(ValueError, match=message) as raised:
            loader(base, folder)
        assert "\n" not in str(raised.value)


MISFITS = {
    "another rank": ({"r": 3}, None, "do not match: by adapter_config.json .* shape .3, .* Is its rank `r` another"),
    "one of another rank": (
        {},
        lambda value: torch.cat([value, value]),
        "do not match: .*lora_A.* has the shape .2, ",
    ),
    "no matrix": ({}, lambda value: torch.tensor(1.0), "has 0 dimensions, and the weight of .* 2"),
    "NaN": ({}, lambda value: value * float("nan"), "has NaN or infinity in .*q_proj.lora_A.weight"),
    "types": ({"target_modules": 5}, None, "adapter_config.json is damaged"),
}


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vit"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_after_a_failed_load_the_model_is_as_it_was(adapted, misfit):
    base, folder, _ = adapted
    config, change, message = MISFITS[misfit]
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    if change:
        state = load(weights.read_bytes())
        name = next(name for name in state if name.endswith("q_proj.lora_A.weight"))
        weights.write_bytes(save({**state, name: change(state[name])}))
    model = ClipHFModel.from_pretrained(base).train()
    before, modules = model.state_dict(), [*model.named_modules()]
    with pytest.raises(ValueError, match=message):
        load_adapter(model, folder)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in after)
    assert [*model.named_modules()] == modules and model.training
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder)
    assert all(parameter.requires_grad for parameter in model.parameters())
    woken(model, MODULES["vit"][:1])  # it takes an adapter


@pytest.mark.slow_but_for("vit")
def test_an_adapter_knows_its_base_in_each_dtype(adapted, caplog):
    base, folder, _ = adapted
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        load_adapter(ClipHFModel.from_pretrained(base, dtype=dtype), folder)
    assert "other weights" not in caplog.text
    other = ClipHFModel.from_pretrained(base)
    other.text_model.encoder.layers[1].self_attn.q_proj.weight.data[0, 0] += 0.01
    load_adapter(other, folder)
    assert f"The adapter in {folder} was trained on other weights than those of this ClipHFModel" in caplog.text
    caplog.clear()
    weights = folder / "adapter_model.safetensors"  # as peft alone would have written it
    weights.write_bytes(save(load(weights.read_bytes()), {"format": "pt"}))
    load_adapter(merge_lora(other), folder)
    assert "other weights" not in caplog.text


@pytest.mark.parametrize("tower", ["vit"])
def test_the_base_of_an_adapter_is_a_whole_model(adapted, tmp_path):
    _, folder, model = adapted
    with pytest.raises(ValueError, match="adapter, is an adapter itself, and an adapter needs a whole model. Merge"):
        save_adapter(model, tmp_path / "second", base_model=folder)
    assert not (tmp_path / "second").exists()
    (tmp_path / "second").mkdir()
    content = json.loads((folder / "adapter_config.json").read_text())
    for at, names in ((tmp_path / "second", folder), (folder, folder), (folder, tmp_path / "second")):
        (at / "adapter_config.json").write_text(json.dumps({**content, "base_model_name_or_path": str(names)}))
        for read in (ClipHFModel.from_pretrained, clip_hf.checkpoints.load):
            with pytest.raises(ValueError, match="is an adapter itself"):
                read(at)


@pytest.mark.parametrize("tower", ["vit"])
def test_only_an_adapters_folder_is_replaced(adapted, tmp_path):
    base, folder, model = adapted
    save_adapter(model, folder)  # an adapter without a processor replaces one with a processor
    (tmp_path / "empty").mkdir()
    save_adapter(model, tmp_path / "empty")
    kept = {path: path.read_bytes() for path in base.iterdir()}
    with pytest.raises(FileExistsError, match="would be replaced as a whole, and it holds config.json"):
        save_adapter(model, base)
    assert kept == {path: path.read_bytes() for path in base.iterdir()}
    with pytest.raises(FileExistsError, match="it holds adapter, base, empty"):
        save_adapter(model, tmp_path)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="it holds notes.txt"):
        save_adapter(model, folder)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="there is no adapter in it"):
        save_adapter(model, tmp_path / "card")


def test_a_merge_that_fails_merges_nothing(tower, pixel_values, text_inputs):
    model = make_tiny_model(tower)
    woken(model, MODULES[tower])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    name = [name for name in before if name.endswith("lora_B.default.weight")][-1]
    good = model.get_parameter(name).data
    model.get_parameter(name).data = good * float("nan")
    with pytest.raises(
        ValueError, match=f"cannot be merged into {name.partition('.lora_')[0]}: .* Nothing was merged"
    ):
        merge_lora(model)
    model.get_parameter(name).data = good
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], value) for key, value in before.items())
    expected = cosines(model.eval(), pixel_values, text_inputs)
    torch.testing.assert_close(cosines(merge_lora(model), pixel_values, text_inputs), expected, rtol=0, atol=2e-6)


BESIDE = {
    "heads": {"modules_to_save": ["visual_projection", "text_projection"]},
    "within": {"modules_to_save": ["mlp", "text_projection"], "target_modules": ["q_proj", "fc1", "text_projection"]},
    "tokens": {"trainable_token_indices": {"token_embedding": [5, 6]}},
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_peft_trained_beside_the_adapters_is_merged(beside, whole, tmp_path, pixel_values, text_inputs):
    model = make_tiny_model("vit")
    names = set(model.state_dict())
    start = cosines(model, pixel_values, text_inputs)
    wrapped = get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **BESIDE[beside]}))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    expected = cosines(model.eval(), pixel_values, text_inputs)
    assert (expected - start).abs().max() > 1e-2
    merged = merge_lora(wrapped if whole else model)
    assert merged is model and not any(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained(tmp_path / "merged")
    loaded = ClipHFModel.from_pretrained(tmp_path / "merged")
    assert set(loaded.state_dict()) == names
    torch.testing.assert_close(cosines(loaded, pixel_values, text_inputs), expected, rtol=0, atol=2e-6)


def test_trained_modules_that_are_no_numbers_are_not_merged(tmp_path):
    model = make_tiny_model("vit")
    get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["text_projection"]))
    model.text_projection.modules_to_save["default"].weight.data[0, 0] = float("nan")
    before = set(model.state_dict())
    with pytest.raises(ValueError, match="cannot be merged into text_projection: it has NaN .* Nothing was merged"):
        merge_lora(model)
    assert set(model.state_dict()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ("q_porj",)}, "No module is named 'q_porj'; .* fc1, .*Did you mean 'q_proj'"),
        ({"modules": ("layer_norm1",)}, "layer_norm1 is a `?LayerNorm.* convolutions, here .*patch_embedding"),
        ({"modules": ("token_embedding",)}, "token_embedding is an? `?Embedding"),
        ({"modules": ("mlp",)}, "mlp is a `?ClipHFMLP"),
        ({"modules": "q_proj"}, "`modules` is 'q_proj'; it must be names"),
        ({"modules": ()}, r"`modules` is \(\)"),
        ({"modules": ("",)}, r"`modules` is \('',\)"),
        ({"modules": 5}, "`modules` is 5"),
        ({"rank": 33}, "`rank` is 33, and the weight of .*q_proj is 32 x 32: .* at most the rank 32"),
        ({"rank": 0}, "`rank` is 0; it must be a whole number of at least 1"),
        ({"rank": None}, "`rank` is None"),
        ({"alpha": 0.0}, "`alpha` is 0.0"),
        ({"alpha": float("inf")}, "`alpha` is inf; it must be finite"),
        ({"dropout": 1.0}, "`dropout` is 1.0"),
    ],
)
def test_bad_options_are_named(options, message):
    model = make_tiny_model("vit")
    with pytest.raises(ValueError, match=message):
        add_lora(model, LoraOptions(**options))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda model: LoraOptions(alpha="1"), TypeError, "`alpha` is '1', a str; it must be a number"),
        (lambda model: LoraOptions(dropout="a"), TypeError, "`dropout` is 'a', a str"),
        (lambda model: add_lora(model, {"rank": 2}), TypeError, "`options` is a dict; it must be `LoraOptions`"),
        (lambda model: add_lora(torch.nn.Linear), TypeError, "`model` is a type; it must be a model"),
        (lambda model: add_lora(torch.nn.Linear(2, 2)), ValueError, "This Linear has no linear layers .* within"),
        (lambda model: add_lora(model, frozen="text_model."), TypeError, "must be a list .*, such as .'text_model.'"),
        (lambda model: add_lora(model, frozen=("text_modle.",)), ValueError, "'text_modle.'.* mean 'text_model.'"),
    ],
)
def test_bad_arguments_are_named(build, error, message):
    model = make_tiny_model("vit")
    with pytest.raises(error, match=message):
        build(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_numbers_of_numpy_are_saved(tmp_path):
    model = make_tiny_model("vit")
    add_lora(model, LoraOptions(rank=np.int64(3), alpha=np.float32(2), dropout=np.float16(0.5)))
    save_adapter(model, tmp_path / "adapter", "me/first")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 2.0, 0.5)


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
