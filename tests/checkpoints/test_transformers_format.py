# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' folders and ours, the towers for other programs, and `from_pretrained` of files of other formats."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from openai_like import (
    assert_bit_equal,
    assert_same_features,
    features,
    in_precision,
    inputs_of,
    make_model,
    open_clip_config,
    read_as_openai,
    relative_difference,
    to_openai,
    write_open_clip,
)
from safetensors.torch import load_file, save_file

from clip_hf import (
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFResNetModel,
    ClipHFTextModel,
    ClipHFTextModelWithProjection,
    ClipHFTokenizer,
    ClipHFVisionModelWithProjection,
    ClipHFViTModel,
    checkpoints,
)
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from tiny_models import CAPTIONS


TEXT = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "max_position_embeddings": 24, "bos_token_id": 598, "eos_token_id": 599}
VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION |= {"image_size": 64, "patch_size": 16, "hidden_act": "gelu"}


@pytest.fixture(scope="module")
def theirs():
    """transformers' own model; none of its biases is a constant. Not to be changed."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name != "logit_scale":
                parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name and name.endswith("weight")))
    return model


@pytest.fixture
def folder(theirs, tiny_processor, tmp_path):
    """A folder of transformers' with a processor."""
    theirs.save_pretrained(tmp_path / "theirs")
    tiny_processor.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def stored(checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in checkpoint.tensors.items()}


# --------------------------------------------------------------------------------------------------------- round trips


def save_as(weights, how, folder):
    """Save weights as transformers does, or did."""
    names = list(weights)
    if how == "one file":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif how == "old file":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        ending = "safetensors" if how == "shards" else "bin"
        stem = "model" if how == "shards" else "pytorch_model"
        weight_map = {}
        for number, part in enumerate((names[:20], names[20:21], names[21:])):
            shard = f"{stem}-{number}.{ending}"
            chosen = {name: weights[name] for name in part}
            save_file(chosen, folder / shard) if how == "shards" else torch.save(chosen, folder / shard)
            weight_map |= dict.fromkeys(part, shard)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("how", ["one file", "shards", "old file", "old shards"])
def test_folders_go_back_bit_for_bit(theirs, how, precision, tiny_processor, tmp_path):
    folder = tmp_path / "theirs"
    theirs.config.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    weights = in_precision(theirs.state_dict(), precision)
    save_as(weights, how, folder)
    model, processor = checkpoints.load(folder)
    assert isinstance(processor, ClipHFProcessor)
    if precision == "float32":
        assert_same_features(features(model), features(theirs))
    for format in ("transformers", "clip_hf"):
        checkpoints.save(model, processor, tmp_path / format, format=format)
        assert_bit_equal(load_file(tmp_path / format / "model.safetensors"), weights)
        dtype = json.loads((tmp_path / format / "config.json").read_text())["dtype"]
        assert dtype == precision
    again, _ = checkpoints.load(tmp_path / "clip_hf", dtype="auto")
    assert again.dtype == getattr(torch, precision)


def test_shards_are_read_through_their_index_or_their_config(theirs, tmp_path):
    theirs.config.save_pretrained(tmp_path)
    save_as(theirs.state_dict(), "shards", tmp_path)
    for name in ("model.safetensors.index.json", "config.json"):
        checkpoint = checkpoints.read_checkpoint(tmp_path / name)
        assert checkpoint.format == "transformers"
        assert_bit_equal(stored(checkpoint), theirs.state_dict())


@pytest.mark.parametrize("precision", ["float32", "float16", "mixed", "bfloat16"])
def test_our_own_folders_go_back_bit_for_bit(tower, source_model, precision, tiny_processor, merges, tmp_path):
    weights = in_precision(to_openai(source_model.state_dict()), precision)
    torch.save(weights, tmp_path / "theirs.pt")
    model, processor = checkpoints.load(tmp_path / "theirs.pt", merges=merges)
    checkpoints.save(model, processor, tmp_path / "ours")
    again, again_processor = checkpoints.load(tmp_path / "ours")
    checkpoints.save(again, again_processor, tmp_path / "back.pt", format="openai")
    assert_bit_equal(read_as_openai(tmp_path / "back.pt"), weights)
    plain = ClipHFModel.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    assert_same_features(features(plain), features(model))
    assert isinstance(ClipHFProcessor.from_pretrained(tmp_path / "ours"), ClipHFProcessor)


def test_what_was_trained_is_not_rounded(theirs, tmp_path):
    theirs.config.save_pretrained(tmp_path / "theirs")
    save_as(in_precision(theirs.state_dict(), "float16"), "one file", tmp_path / "theirs")
    model, processor = checkpoints.load(tmp_path / "theirs")
    with torch.no_grad():
        model.text_projection.weight[0, 0] = 1 + 2**-20
    for format in ("transformers", "clip_hf"):
        checkpoints.save(model, processor, tmp_path / format, format=format)
        back = load_file(tmp_path / format / "model.safetensors")
        assert {tensor.dtype for tensor in back.values()} == {torch.float32}


def test_a_file_is_read_with_the_config_beside_it(folder, theirs):
    checkpoint = checkpoints.read_checkpoint(folder / "model.safetensors")
    assert checkpoint.format == "transformers"
    assert checkpoint.config.vision_config.hidden_act == "gelu"
    assert checkpoint.config.text_config.hidden_act == "quick_gelu"
    assert_bit_equal(stored(checkpoint), theirs.state_dict())


def test_older_files_load(theirs, folder):
    weights = dict(theirs.state_dict())
    name = "text_model.embeddings.position_ids"
    weights |= {name: torch.arange(24)[None], "logit_scale": weights["logit_scale"].reshape(1)}
    save_file(weights, folder / "model.safetensors")
    checkpoint = checkpoints.read_checkpoint(folder)
    assert checkpoint.notes == [f"No weights, left out: {name}."]
    assert_bit_equal(stored(checkpoint), theirs.state_dict())
    save_file(weights | {name: torch.arange(24).flip(0)[None]}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} does not count the positions from 0 on"):
        checkpoints.read_checkpoint(folder)


# ----------------------------------------------------------------------------------------------------- what is refused


def test_weights_that_do_not_fit_are_named(theirs, folder):
    weights = dict(theirs.state_dict())
    del weights["text_model.final_layer_norm.bias"]
    weights["extra.weight"], weights["logit_scale"] = torch.zeros(3), torch.zeros(2)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="is not the CLIP that its configuration says") as caught:
        checkpoints.load(folder)
    for part in (
        str(folder),
        "lacks the weights text_model.final_layer_norm.bias;",
        "no place for extra.weight;",
        "another shape logit_scale (2 instead of one number)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("dtype", ["int64", "half a float", torch.int8])
def test_a_dtype_that_is_none_is_refused(folder, dtype):
    with pytest.raises(ValueError, match=f"`dtype` is {dtype!r}; it must be a floating dtype"):
        checkpoints.load(folder, dtype=dtype)
    assert checkpoints.load(folder, dtype="torch.bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("model_type", ["bert", "clip_text_model", "clip_vision_model", "siglip", None])
def test_a_config_of_another_model_is_refused(folder, model_type):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    with pytest.raises(ValueError, match=f"is of a model of type '{model_type}'; a whole CLIP"):
        checkpoints.load(folder)


def test_a_saved_text_tower_is_no_whole_clip(theirs, tmp_path):
    theirs.text_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'clip_text_model'; a whole CLIP.*ClipHFTextModelWithProjection"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "", "\x00"])
def test_a_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is no JSON file"):
        checkpoints.load(folder)


def test_a_config_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has a config.json but no weights: none of model.safetensors, "):
        checkpoints.load(folder)


def test_weights_without_a_config_are_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="there is no config.json beside it"):
        checkpoints.load(folder / "model.safetensors")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' was given, "),
        ({"text_heads": 2}, "text_heads=2 was given, "),
        ({"vision_heads": 6}, "vision_heads=6 was given, "),
        ({"config": open_clip_config("vit")}, "has its own config.json. Leave `config` out."),
    ],
)
def test_options_that_contradict_the_config_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.load(folder, **options)


def test_preprocessing_that_is_given_comes_first(folder):
    _, processor = checkpoints.load(folder, preprocess={"mean": 0.25})
    assert list(processor.image_processor.image_mean) == [0.25, 0.25, 0.25]


def test_a_folder_without_image_processor_gives_the_tokenizer(folder, caplog):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    transformers.utils.logging.enable_propagation()
    _, processor = checkpoints.load(folder)
    transformers.utils.logging.disable_propagation()
    assert isinstance(processor, ClipHFTokenizer)
    assert "no image processor was loaded" in caplog.text
    with pytest.raises(ValueError, match="does not say how images are prepared.*--preprocess"):
        checkpoints.convert(folder, folder.with_name("ours"))


@pytest.mark.parametrize("option", ["hidden_acts", "heads"])
def test_misspelled_options_are_refused(folder, option):
    with pytest.raises(TypeError, match=option):
        checkpoints.load(folder, **{option: 1})


# ------------------------------------------------------------------------------------------ towers for other programs


TOWER_CLASSES = {
    "text": transformers.CLIPTextModel,
    "text_with_projection": transformers.CLIPTextModelWithProjection,
    "vision": transformers.CLIPVisionModel,
    "vision_with_projection": transformers.CLIPVisionModelWithProjection,
}


def test_every_tower_is_tested():
    assert {name: cls.__name__ for name, cls in TOWER_CLASSES.items()} == checkpoints.TOWERS


@pytest.mark.parametrize(
    ("tower", "name"),
    [*(("vit", name) for name in TOWER_CLASSES), ("resnet", "text"), ("resnet", "text_with_projection")],
)
def test_towers_are_drop_in(tower, name, source_model, tiny_processor, tmp_path):
    checkpoints.save(source_model, tiny_processor, tmp_path / "tower", format="transformers", tower=name)
    model, info = TOWER_CLASSES[name].from_pretrained(tmp_path / "tower", output_loading_info=True)
    assert not any(info.values()), info
    model.double()
    pixels, ids = inputs_of(source_model)
    kind = name.split("_")[0]
    with torch.no_grad():
        output = model(input_ids=ids) if kind == "text" else model(pixel_values=pixels)
    if name.endswith("_with_projection"):
        found = output.text_embeds if kind == "text" else output.image_embeds
    else:
        own = source_model.text_projection if kind == "text" else source_model.visual_projection
        found = output.pooler_output @ own.weight.detach().double().T
    kind = "text" if kind == "text" else "image"
    assert_same_features({kind: found}, features(source_model))
    files = {path.name for path in (tmp_path / "tower").iterdir()}
    assert ("tokenizer.json" in files) == (kind == "text")
    assert ("preprocessor_config.json" in files) == (kind == "image")
    names = load_file(tmp_path / "tower" / "model.safetensors").keys()
    assert ("text_projection.weight" in names) == (name == "text_with_projection")
    assert ("visual_projection.weight" in names) == (name == "vision_with_projection")


def test_the_tokenizer_of_a_tower_is_transformers_own(source_models, tiny_processor, tmp_path):
    checkpoints.save(source_models["vit"], tiny_processor, tmp_path / "tower", format="transformers", tower="text")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tower")
    assert type(tokenizer) is not ClipHFTokenizer
    assert tokenizer.model_max_length == 24
    for text in (*CAPTIONS[:4], "a photo of a cat"):
        assert tokenizer(text).input_ids == tiny_processor.tokenizer(text).input_ids
    padded = tokenizer(CAPTIONS[:2], padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(
        padded, tiny_processor.tokenizer(CAPTIONS[:2], padding="max_length", return_tensors="pt").input_ids
    )


@pytest.mark.parametrize("tower", [None, "vision", "vision_with_projection"])
def test_a_resnet_has_no_counterpart(source_models, tower, tmp_path):
    with pytest.raises(ValueError, match="has a ResNet tower, and transformers' CLIP has vision transformers only"):
        checkpoints.save(source_models["resnet"], None, tmp_path / "a", format="transformers", tower=tower)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_whole_folder_loads_without_this_library(source_models, tiny_processor, tmp_path):
    model = source_models["vit"]
    checkpoints.save(model, tiny_processor, tmp_path / "theirs", format="transformers")
    pixels, ids = inputs_of(model)
    torch.save({"pixel_values": pixels, "input_ids": ids}, tmp_path / "inputs.pt")
    code = """
import sys, torch
from transformers import AutoModel, AutoProcessor
model, info = AutoModel.from_pretrained("theirs", output_loading_info=True)
assert not any(info.values()), info
processor = AutoProcessor.from_pretrained("theirs")
inputs = torch.load("inputs.pt")
with torch.no_grad():
    output = model.double()(**inputs)
    raw = model.get_text_features(input_ids=inputs["input_ids"]).pooler_output
texts = processor(text=["a photo of a cat"])["input_ids"]
torch.save({"image": output.image_embeds, "text": output.text_embeds}, "outputs.pt")
assert not [name for name in sys.modules if name.startswith("clip_hf")]
print(type(model).__name__, type(processor).__name__, type(processor.tokenizer).__name__, texts[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids = tiny_processor.tokenizer("a photo of a cat").input_ids
    assert done.stdout.split("\n")[0] == f"CLIPModel CLIPProcessor CLIPTokenizer {ids}"
    outputs, expected = torch.load(tmp_path / "outputs.pt"), features(model)
    assert_same_features(
        outputs, {name: values / values.norm(dim=-1, keepdim=True) for name, values in expected.items()}
    )


# ---------------------------------------------------------------------------------- `from_pretrained` of other formats


@pytest.fixture(params=["openai", "open_clip", "open_clip file", "training", "weights of a folder"])
def foreign(request, tower, source_model, tiny_tokenizer, tmp_path):
    """A path that transformers cannot read."""
    weights = to_openai(source_model.state_dict())
    if request.param == "openai":
        torch.save(weights, tmp_path / "theirs.pt")
        return tmp_path / "theirs.pt"
    if request.param == "weights of a folder":
        format = "transformers" if tower == "vit" else "clip_hf"
        checkpoints.save(source_model, tiny_tokenizer, tmp_path / "theirs", format=format)
        return tmp_path / "theirs" / "model.safetensors"
    folder = write_open_clip(tmp_path / "theirs", weights, open_clip_config(tower), tiny_tokenizer)
    if request.param == "training":
        torch.save({"epoch": 1, "state_dict": weights, "optimizer": {}}, folder / "epoch_1.pt")
        return folder / "epoch_1.pt"
    return folder if request.param == "open_clip" else folder / "open_clip_model.safetensors"


def test_every_class_reads_other_formats(foreign, tower, source_model):
    model, info = ClipHFModel.from_pretrained(str(foreign), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not model.training
    assert_same_features(features(model), features(source_model))
    own = ClipHFViTModel if tower == "vit" else ClipHFResNetModel
    expected = source_model.state_dict()
    for cls, prefix in (
        (ClipHFTextModelWithProjection, ""),
        (ClipHFVisionModelWithProjection, ""),
        (ClipHFTextModel, "text_model."),
        (own, "vision_model."),
    ):
        part, info = cls.from_pretrained(foreign, output_loading_info=True)
        assert isinstance(part, cls) and not part.training
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], cls
        weights = part.state_dict()
        assert_bit_equal(weights, {name: expected[prefix + name] for name in weights})


def test_towers_with_projection_give_the_models_features(source_model, tmp_path):
    torch.save(to_openai(source_model.state_dict()), tmp_path / "theirs.pt")
    pixels, ids = inputs_of(source_model)
    text = ClipHFTextModelWithProjection.from_pretrained(tmp_path / "theirs.pt", dtype=torch.float64)
    vision = ClipHFVisionModelWithProjection.from_pretrained(tmp_path / "theirs.pt", dtype=torch.float64)
    with torch.no_grad():
        found = {"image": vision(pixels).image_embeds, "text": text(ids).text_embeds}
    assert_same_features(found, features(source_model))


def test_the_wrong_tower_is_refused(source_models, tmp_path):
    for tower, cls in (("vit", ClipHFResNetModel), ("resnet", ClipHFViTModel)):
        torch.save(to_openai(source_models[tower].state_dict()), tmp_path / "theirs.pt")
        with pytest.raises(
            ValueError, match=f"vision tower of type 'clip_hf_{tower}', which is none for {cls.__name__}"
        ):
            cls.from_pretrained(tmp_path / "theirs.pt")


def test_a_classifier_starts_from_other_formats(tower, source_model, tmp_path):
    torch.save(to_openai(source_model.state_dict()), tmp_path / "theirs.pt")
    model = ClipHFForImageClassification.from_pretrained(tmp_path / "theirs.pt", num_labels=3)
    assert model.classifier.out_features == 3
    name = "embeddings.class_embedding" if tower == "vit" else "stem.conv1.weight"
    expected = source_model.state_dict()[f"vision_model.{name}"]
    assert torch.equal(model.state_dict()[f"vision_model.{name}"], expected)


@pytest.mark.parametrize("dtype", [None, "auto", torch.float16, "float64"])
def test_from_pretrained_takes_a_dtype(source_models, dtype, tmp_path):
    torch.save(in_precision(to_openai(source_models["vit"].state_dict()), "bfloat16"), tmp_path / "theirs.pt")
    kwargs = {} if dtype is None else {"dtype": dtype}
    expected = {None: torch.bfloat16, "auto": torch.bfloat16, "float64": torch.float64}.get(dtype, dtype)
    model = ClipHFModel.from_pretrained(tmp_path / "theirs.pt", **kwargs)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.config.dtype == expected


def test_a_model_names_the_file_it_was_read_from(source_model, merges, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoints.saving.logger, "info", said.append)
    path = tmp_path / "theirs.pt"
    torch.save(to_openai(source_model.state_dict()), path)
    model, _ = checkpoints.load(path, merges=merges)
    assert model.name_or_path == ClipHFModel.from_pretrained(path).name_or_path == str(path)
    assert said == checkpoints.read_checkpoint(path, checkpoints.SourceOptions(merges=merges)).notes
    assert "which program wrote it" in said[0]


def test_an_activation_must_be_that_of_both_towers(tiny_processor, tmp_path):
    model = make_model("vit", vision={"hidden_act": "gelu"})
    checkpoints.save(model, tiny_processor, tmp_path / "ours")
    for given, other in (("quick_gelu", "gelu"), ("gelu", "quick_gelu")):
        with pytest.raises(ValueError, match=f"hidden_act='{given}' was given, but the configuration says '{other}'"):
            checkpoints.load(tmp_path / "ours", hidden_act=given)


def test_a_weight_added_after_loading_is_saved_with_the_others(source_model, merges, tmp_path):
    torch.save(in_precision(to_openai(source_model.state_dict()), "mixed"), tmp_path / "theirs.pt")
    model, processor = checkpoints.load(tmp_path / "theirs.pt", merges=merges)
    model.config.logit_bias_init_value = -10.0
    model.logit_bias = torch.nn.Parameter(torch.tensor(-9.5))
    checkpoints.save(model, processor, tmp_path / "ours")
    again, _ = checkpoints.load(tmp_path / "ours")
    assert again.logit_bias.item() == -9.5
    assert_bit_equal(again.state_dict(), model.state_dict())


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize("dtypes", [("float16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16")])
def test_mixed_dtypes_are_read_into_the_one_that_holds_them_all(source_model, dtypes, merges, tmp_path):
    first, second = (getattr(torch, name) for name in dtypes)
    weights = {
        name: tensor.to(second if tensor.ndim == 1 else first) if tensor.is_floating_point() else tensor
        for name, tensor in to_openai(source_model.state_dict()).items()
    }
    torch.save(weights, tmp_path / "mixed.pt")
    expected = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoints.load(tmp_path / "mixed.pt", merges=merges)[0].state_dict().items()
    }
    found = ClipHFModel.from_pretrained(tmp_path / "mixed.pt")
    # Of two kinds of half precision neither holds the other's numbers.
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert_bit_equal(found.state_dict(), expected)
    assert torch.equal(found.text_projection.weight, weights["text_projection"].T.float())
    assert torch.equal(found.text_model.final_layer_norm.bias, weights["ln_final.bias"].float())
    options = checkpoints.SourceOptions(merges=merges)
    checkpoints.convert(tmp_path / "mixed.pt", tmp_path / "ours", options=options)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "float32"


def test_a_config_that_is_given_is_used(source_models, tmp_path):
    torch.save(to_openai(source_models["vit"].state_dict()), tmp_path / "theirs.pt")
    config = make_model("vit", text={"hidden_act": "gelu"}).config
    model = ClipHFModel.from_pretrained(tmp_path / "theirs.pt", config=config)
    assert model.config.text_config.hidden_act == "gelu"
    assert relative_difference(features(model)["text"], features(source_models["vit"])["text"]) > 1e-3


def test_processors_read_other_formats(tower, source_model, tiny_tokenizer, tmp_path):
    weights = to_openai(source_model.state_dict())
    folder = write_open_clip(tmp_path / "theirs", weights, open_clip_config(tower), tiny_tokenizer)
    for path in (folder, str(folder / "open_clip_model.safetensors")):
        processor = ClipHFProcessor.from_pretrained(path)
        assert list(processor.image_processor.image_mean) == [0.5, 0.4, 0.3]
        assert processor.tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    torch.save(weights, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match="has no vocabulary, and its size of 600 is not that of OpenAI's"):
        ClipHFProcessor.from_pretrained(tmp_path / "theirs.pt")


def test_a_model_from_another_format_saves_itself(source_models, tmp_path):
    torch.save(to_openai(source_models["vit"].state_dict()), tmp_path / "theirs.pt")
    ClipHFModel.from_pretrained(tmp_path / "theirs.pt").save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == ["ClipHFModel"]
    again = ClipHFModel.from_pretrained(tmp_path / "ours")
    assert_bit_equal(again.state_dict(), source_models["vit"].state_dict())


# ---------------------------------------------------------------------------------------------------- OpenAI's merges


def test_bundled_merges_are_openais(tmp_path):
    tokenizer = ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)
    assert len(tokenizer) == 49408
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_a_model_with_openais_vocabulary_gets_its_tokenizer(merges, tmp_path):
    text = {"vocab_size": 49408, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1}
    model = make_model("vit", text={**text, "num_attention_heads": 1})
    torch.save(to_openai(model.state_dict()), tmp_path / "theirs.pt")
    loaded, processor = checkpoints.load(tmp_path / "theirs.pt")
    inputs = processor(text=["a photo of a cat"], return_tensors="pt")
    assert inputs.input_ids.tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407]]
    assert processor.tokenizer.model_max_length == 24
    assert torch.isfinite(loaded.get_text_features(**inputs).pooler_output).all()
    with pytest.raises(ValueError, match="does not belong to this model: it has 600 ids and ends texts with id 599"):
        checkpoints.load(tmp_path / "theirs.pt", merges=merges)
