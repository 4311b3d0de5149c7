# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files that are missing, damaged, hostile or of something else: each is refused by name, and nothing in it runs."""

import argparse
import errno
import json
import os
import pickle
import warnings
import zipfile

import pytest
import torch
import transformers
from openai_like import (
    assert_bit_equal,
    assert_same_features,
    features,
    in_precision,
    open_clip_config,
    to_openai,
    write_open_clip,
)
from safetensors.torch import save_file

from clip_hf import ClipHFImageProcessor, ClipHFModel, ClipHFTokenizer, checkpoints
from clip_hf.checkpoints.weight_files import open_weights


@pytest.fixture(scope="module")
def weights(source_models):
    """The tiny ViT's weights under OpenAI's names; not to be changed."""
    return to_openai(source_models["vit"].state_dict())


class RunsCode:
    """What a hostile pickle does: to run a command when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def refused(path, *parts: str) -> str:
    """Check that `load` and `from_pretrained` refuse a path with a message that has some parts."""
    with pytest.raises(ValueError) as caught:
        checkpoints.load(path)
    message = str(caught.value)
    for part in parts:
        assert part in message
    if path.is_file():
        with pytest.raises(ValueError):
            ClipHFModel.from_pretrained(path)
    return message


# ------------------------------------------------------------------------------------------------------- nothing there


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "folder", "config.json", "open_clip_config.json"])
def test_what_is_not_there_is_named(name, tmp_path):
    for function in (checkpoints.load, checkpoints.read_checkpoint):
        with pytest.raises(FileNotFoundError, match=f"There is no file or folder {tmp_path / name}"):
            function(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=f"There is no file or folder {tmp_path / name}"):
        checkpoints.convert(tmp_path / name, tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        open_weights(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_refused(tmp_path):
    refused(tmp_path, str(tmp_path), "neither a config.json nor open_clip_config.json", "no weights in it at all")


def test_a_folder_of_one_file_names_it(weights, tmp_path):
    torch.save(weights, tmp_path / "foo.pt")
    refused(tmp_path, "Give one of its files instead: foo.pt.")
    assert checkpoints.read_checkpoint(tmp_path / "foo.pt").format == "openai"


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.safetensors", "a.ckpt"])
@pytest.mark.parametrize("content", [b"", b"This is no model.\n", b"<!DOCTYPE html>", b"\x80\x02", bytes(1000)])
def test_what_holds_no_weights_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, str(tmp_path / name))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(weights, kind, part, tmp_path):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path, str(path))


def test_a_truncated_file_leaves_no_conversion(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pt")
    os.truncate(tmp_path / "a.pt", 10_000)
    with pytest.raises(ValueError):
        checkpoints.convert(tmp_path / "a.pt", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("name", ["a.pt", "a.pth"])
def test_files_from_before_torch_1_6_load(source_models, weights, name, tmp_path):
    mixed = in_precision(weights, "mixed")
    torch.save(mixed, tmp_path / name, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / name)
    stored = open_weights(tmp_path / name).tensors
    assert_bit_equal({key: tensor.read() for key, tensor in stored.items()}, mixed)
    torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=False)
    assert_same_features(features(checkpoints.load(tmp_path / name)[0]), features(source_models["vit"]))


def test_zip_files_are_mapped_not_read(weights, tmp_path, monkeypatch):
    torch.save(weights, tmp_path / "a.pt")
    given, load = [], torch.load

    def spy(*args, **kwargs):
        given.append(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    open_weights(tmp_path / "a.pt")
    assert [(kwargs["mmap"], kwargs["weights_only"]) for kwargs in given] == [(True, True)]


# ------------------------------------------------------------------------------------------------------- hostile files


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.pth"])
@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("where", ["whole", "beside weights", "in a training checkpoint"])
def test_code_in_a_pickle_does_not_run(weights, name, how, where, tmp_path):
    mark = tmp_path / "it-ran"
    content = RunsCode(mark)
    if where == "beside weights":
        content = {**weights, "extra": content}
    elif where == "in a training checkpoint":
        content = {"state_dict": weights, "optimizer": content}
    path = tmp_path / name
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    message = refused(path, str(path), "which is no tensor", "loading it could run code")
    if how != "plain pickle":  # which has tensors in a form of its own
        assert "holds posix.system" in message
    assert "torch.save(model.state_dict(), path)" in message
    assert "weights_only" not in message
    with pytest.raises(ValueError):
        checkpoints.convert(path, tmp_path / "ours")
    assert not mark.exists()
    # It would have run, had it been loaded.
    pickle.loads(path.read_bytes()) if how == "plain pickle" else torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_namespace_beside_the_weights_is_refused_with_advice(weights, tmp_path):
    torch.save({"state_dict": weights, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "holds argparse.Namespace, which is no tensor", "save its weights alone")


def test_a_compressed_pickle_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("torch.load must not be called")

    monkeypatch.setattr(torch, "load", forbidden)
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + b"(" * 50_000_000)
        file.writestr("archive/version", b"3\n")
    assert (tmp_path / "a.pt").stat().st_size < 200_000
    refused(tmp_path / "a.pt", "compressed")


# ------------------------------------------------------------------------------------------------------ something else


OTHERS = {
    "ResNet": {"conv1.weight": torch.zeros(2), "bn1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)},
    "BERT": {"bert.embeddings.word_embeddings.weight": torch.zeros(3, 2), "cls.predictions.bias": torch.zeros(3)},
    "half a CLIP": {"visual.conv1.weight": torch.zeros(2), "visual.proj": torch.zeros(2, 2)},
    "a text tower": {"positional_embedding": torch.zeros(2, 2), "text_projection": torch.zeros(2, 2)},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_another_model_is_refused(other, name, tmp_path):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(OTHERS[other], path)
    some = next(iter(sorted(OTHERS[other]) if name.endswith("safetensors") else OTHERS[other]))
    refused(path, "does not hold a CLIP of a format known here", f"{len(OTHERS[other])} tensors", some)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list instead of tensors by name"),
        (torch.zeros(3), "holds a Tensor instead of tensors by name"),
        ({}, "holds nothing; a state dict"),
        ({"a": torch.zeros(2), "epoch": 3}, "holds besides tensors epoch; a state dict"),
        ({"state_dict": {}}, "holds nothing; a state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", message)


def test_types_that_are_no_weights_are_refused(tmp_path):
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "weights of the types F8_E4M3")


def test_a_bert_folder_is_refused(tmp_path):
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=10)
    transformers.BertModel(config).save_pretrained(tmp_path)
    refused(tmp_path, "is of a model of type 'bert'")
    with pytest.raises(ValueError, match="bert"):
        ClipHFModel.from_pretrained(tmp_path)


# -------------------------------------------------------------------------------------------------------------- shards


@pytest.fixture
def shards(source_models, tmp_path):
    """A folder with two shards; their index is given to be changed."""
    folder = tmp_path / "sharded"
    checkpoints.save(source_models["vit"], None, folder, format="transformers")
    (folder / "model.safetensors").unlink()
    ours = {name: tensor.clone() for name, tensor in source_models["vit"].state_dict().items()}
    names = sorted(ours)
    parts = {"model-1.safetensors": names[:30], "model-2.safetensors": names[30:]}
    for shard, part in parts.items():
        save_file({name: ours[name] for name in part}, folder / shard)
    weight_map = {name: shard for shard, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder, weight_map


def test_shards_load(shards, source_models):
    model, _ = checkpoints.load(shards[0])
    assert_bit_equal(model.state_dict(), source_models["vit"].state_dict())


def test_a_missing_shard_is_named(shards):
    folder, _ = shards
    (folder / "model-2.safetensors").unlink()
    refused(folder, "names the shard model-2.safetensors, which is missing")


@pytest.mark.parametrize("shard", ["../model-1.safetensors", "/tmp/model-1.safetensors", "a/../model-1.safetensors"])
def test_a_shard_elsewhere_is_refused(shards, shard):
    folder, weight_map = shards
    (folder.parent / "model-1.safetensors").write_bytes((folder / "model-1.safetensors").read_bytes())
    weight_map = {name: shard if old == "model-1.safetensors" else old for name, old in weight_map.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, f"names the shard {shard!r}; shards lie beside the index")


def test_an_index_that_disagrees_with_its_shards_is_refused(shards):
    folder, weight_map = shards
    del weight_map["logit_scale"]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "disagree about logit_scale")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_what_is_no_index_is_refused(shards, content):
    folder, _ = shards
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, "model.safetensors.index.json is not an index of shards")


# -------------------------------------------------------------------------------------------------------- vocabularies


def test_without_a_vocabulary_the_image_processor_loads_alone(weights, tmp_path, caplog):
    torch.save(weights, tmp_path / "a.pt")
    transformers.utils.logging.enable_propagation()
    _, processor = checkpoints.load(tmp_path / "a.pt")
    transformers.utils.logging.disable_propagation()
    assert isinstance(processor, ClipHFImageProcessor)
    assert "has no vocabulary: no tokenizer was loaded" in caplog.text
    for to in ("clip_hf", "open_clip", "transformers"):
        with pytest.raises(ValueError, match="has no vocabulary, and its size of 600.*--merges"):
            checkpoints.convert(tmp_path / "a.pt", tmp_path / "ours", to)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    # What has no place for a tokenizer needs none.
    checkpoints.convert(tmp_path / "a.pt", tmp_path / "b.pt", "openai")
    checkpoints.convert(tmp_path / "a.pt", tmp_path / "tower", "transformers", tower="vision")


def test_merges_of_another_vocabulary_are_refused(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pt")
    ClipHFTokenizer.train(["a cat", "a dog"], vocab_size=520, context_length=24).save_pretrained(tmp_path / "small")
    for merges in (tmp_path / "small", checkpoints.tokenizer_formats.OPENAI_MERGES):
        with pytest.raises(ValueError, match="does not belong to this model: it has .* the model has 600") as caught:
            checkpoints.load(tmp_path / "a.pt", merges=merges)
        assert str(merges) in str(caught.value)


def test_a_tokenizer_that_is_given_gets_the_models_context_length(weights, tiny_tokenizer, tmp_path):
    torch.save(weights, tmp_path / "a.pt")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 7}))
    _, processor = checkpoints.load(tmp_path / "a.pt", merges=tmp_path / "tokenizer")
    assert processor.tokenizer.model_max_length == 24


def test_merges_that_are_not_there_are_named(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(OSError, match="merges.txt"):
        checkpoints.load(tmp_path / "a.pt", merges=tmp_path / "merges.txt")
    with pytest.raises(ValueError, match="has no tokenizer: there is neither tokenizer.json nor vocab.json and merge"):
        checkpoints.load(tmp_path / "a.pt", merges=tmp_path)


@pytest.mark.parametrize("change", [{"type": "WordPiece"}, {"end_of_word_suffix": None}])
def test_a_tokenizer_of_another_kind_is_refused(weights, change, tiny_tokenizer, tmp_path):
    folder = write_open_clip(tmp_path, weights, open_clip_config("vit"), tiny_tokenizer)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= change
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, "is no byte-pair tokenizer as CLIP's are")


# --------------------------------------------------------------------------------------------------------- TorchScript


class Holder(torch.nn.Module):
    """A module that only holds weights, by their dotted names."""

    def __init__(self, weights):
        super().__init__()
        below = {}
        for name, tensor in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                below.setdefault(first, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(first, torch.nn.Parameter(tensor.clone(), requires_grad=False))
            else:
                self.register_buffer(first, tensor.clone())
        for name, part in below.items():
            self.add_module(name, Holder(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_torchscript_archives_load_and_their_code_is_not_run(tower, source_models, precision, tmp_path, monkeypatch):
    weights = in_precision(to_openai(source_models[tower].state_dict()), precision)
    sizes = {"input_resolution": 64, "context_length": 24, "vocab_size": 600}
    extras = {name: torch.tensor(size) for name, size in sizes.items()}
    extras["transformer.resblocks.0.attn_mask"] = torch.full((24, 24), -torch.inf).triu(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Holder({**weights, **extras})).save(str(tmp_path / "a.pt"))

    def forbidden(*args, **kwargs):
        raise AssertionError("nothing of the archive must be run or unpickled")

    for module, name in ((torch.jit, "load"), (torch._C, "import_ir_module"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    checkpoint = checkpoints.read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.format == "openai"
    (note,) = checkpoint.notes
    assert note.startswith("No weights, left out: ") and all(name in note for name in extras)
    assert_bit_equal({name: tensor.read() for name, tensor in checkpoint.source_tensors.items()}, weights)
    if precision == "float32":
        model, _ = checkpoints.load(tmp_path / "a.pt")
        assert_same_features(features(model), features(source_models[tower]))
    for options in ({"config": open_clip_config(tower)}, {"preprocess": {"mean": 0.5}}):
        with pytest.raises(ValueError, match="leave out config and preprocess"):
            checkpoints.load(tmp_path / "a.pt", **options)


def test_a_file_that_may_not_be_read_is_not_missing(weights, monkeypatch, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    opened = open

    def refuse(file, *more, **options):  # root may read all
        if file == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *more, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*model\.safetensors"):
        open_weights(path)
