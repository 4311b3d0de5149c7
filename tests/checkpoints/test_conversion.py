# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`convert`: from every format to every format, what it reports, and that it sees what is wrong."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
import transformers
from openai_like import (
    assert_bit_equal,
    assert_same_features,
    features,
    in_precision,
    make_model,
    open_clip_config,
    read_as_openai,
    relative_difference,
    to_openai,
    write_open_clip,
)

from clip_hf import ARCHITECTURES, ClipHFModel, ClipHFProcessor, checkpoints
from clip_hf.checkpoints import conversion
from clip_hf.checkpoints import open_clip_format as open_clip
from clip_hf.checkpoints import openai_format as openai
from clip_hf.checkpoints.conversion import TOLERANCE, TOLERANCE_OF_ROUNDED_WEIGHTS, fixed_inputs
from clip_hf.checkpoints.stored_tensor import StoredTensor
from clip_hf.model_card import ModelCardDetails
from clip_hf.utils import atomic


FORMATS = ("clip_hf", "openai", "open_clip", "transformers")


@pytest.fixture(scope="module")
def sources(source_models, tiny_processor, tmp_path_factory):
    """Every model in every format that holds it, by tower and format; not to be changed."""
    folder, result = tmp_path_factory.mktemp("sources"), {}
    for tower, model in source_models.items():
        for format in FORMATS:
            if (tower, format) != ("resnet", "transformers"):
                path = folder / f"{tower}-{format}{'.pt' if format == 'openai' else ''}"
                checkpoints.save(model, tiny_processor, path, format=format)
                result[tower, format] = path
    return result


@pytest.fixture
def options(merges):
    """What a file of OpenAI's with a small vocabulary leaves open."""
    return checkpoints.SourceOptions(merges=merges)


def destination(folder, to):
    return folder / ("it.pt" if to == "openai" else "it")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


PAIRS = [
    (tower, source, to)
    for tower in ("vit", "resnet")
    for source in FORMATS
    for to in FORMATS
    if tower == "vit" or "transformers" not in (source, to)
]


@pytest.mark.slow_but_for("clip_hf")
@pytest.mark.parametrize(("tower", "source", "to"), PAIRS)
def test_from_every_format_to_every_format(sources, source_models, tower, source, to, options, tmp_path):
    path = destination(tmp_path, to)
    given = options if source == "openai" else None
    report = checkpoints.convert(sources[tower, source], path, to, options=given)
    assert names(tmp_path) == [path.name]
    model, processor = checkpoints.load(path, **({"merges": options.merges} if to == "openai" else {}))
    assert isinstance(processor, ClipHFProcessor)
    assert_bit_equal(model.state_dict(), source_models[tower].state_dict())
    assert_same_features(features(model), features(source_models[tower]))
    assert (report.source_format, report.format, report.tolerance) == (source, to, TOLERANCE)
    assert report.differences.keys() == {"image", "text"}
    assert all(0 <= value <= 1e-5 for value in report.differences.values())
    assert report.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert report.num_weights == len(checkpoints.read_checkpoint(sources[tower, source]).source_tensors)
    assert sum(report.dtypes.values()) == len(checkpoints.read_checkpoint(path).source_tensors)
    assert report.dtypes.keys() == ({"float32"} if tower == "vit" else {"float32", "int64"})
    assert report.seconds > 0


@pytest.mark.parametrize(("format", "name"), [("transformers", "model"), ("open_clip", "open_clip_model")])
def test_the_file_of_a_folder_stands_for_the_folder(sources, source_models, format, name, tmp_path):
    source = sources["vit", format] / f"{name}.safetensors"
    report = checkpoints.convert(source, tmp_path / "it")
    assert report.source_format == format
    assert max(report.differences.values()) <= TOLERANCE
    assert_bit_equal(checkpoints.load(tmp_path / "it")[0].state_dict(), source_models["vit"].state_dict())


def test_every_format_is_tested():
    assert checkpoints.FORMATS == FORMATS


def test_the_report_reads_well(sources, source_models, tmp_path, options):
    report = checkpoints.convert(sources["vit", "openai"], tmp_path / "it", options=options)
    text = str(report)
    count = len(to_openai(source_models["vit"].state_dict()))
    assert text.splitlines()[0] == f"{sources['vit', 'openai']} (openai) -> {tmp_path / 'it'} (clip_hf)"
    assert f"weights:  {count} of {count} used once, none missing, none left over" in text
    assert re.search(r"\(\d\.\d\dM parameters\)", text)
    assert re.search(r"features: largest relative difference image \d\.\de-\d\d, text .* tolerance 1e-04\)", text)
    assert "note:     No weights, left out: input_resolution, context_length, vocab_size." in text
    torch.save(to_openai(source_models["vit"].state_dict()), tmp_path / "plain.pt")
    plain = checkpoints.convert(tmp_path / "plain.pt", tmp_path / "another", options=options)
    assert "note:     The file does not say which program wrote it." in str(plain)


@pytest.mark.parametrize("tower", checkpoints.TOWERS)
def test_single_towers(sources, tower, tmp_path):
    report = checkpoints.convert(sources["vit", "clip_hf"], tmp_path / "it", "transformers", tower=tower)
    assert report.differences.keys() == {"text" if tower.startswith("text") else "image"}
    assert report.format == f"transformers, {checkpoints.TOWERS[tower]}"
    cls = getattr(transformers, checkpoints.TOWERS[tower])
    _, info = cls.from_pretrained(tmp_path / "it", output_loading_info=True)
    assert not any(info.values())


def test_parameters_are_counted_without_statistics(sources, source_models, tmp_path):
    report = checkpoints.convert(sources["resnet", "clip_hf"], tmp_path / "it")
    model = source_models["resnet"]
    assert report.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert report.num_parameters < sum(tensor.numel() for tensor in model.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("to", FORMATS)
def test_dtypes(sources, to, dtype, tmp_path):
    path = destination(tmp_path, to)
    report = checkpoints.convert(sources["vit", "clip_hf"], path, to, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    # OpenAI's half precision keeps gains and biases of 2 norms in each of 4 layers and of 3 more, 4 embeddings and
    # positions, and the temperature.
    kept = {"float32": 2 * (2 * 4 + 3) + 4 + 1} if to in ("openai", "open_clip") else {}
    assert report.dtypes.keys() == {name, *kept}
    assert {key: report.dtypes[key] for key in kept} == kept
    assert report.tolerance == TOLERANCE_OF_ROUNDED_WEIGHTS
    assert all(1e-5 < value < TOLERANCE_OF_ROUNDED_WEIGHTS for value in report.differences.values())
    if to in ("clip_hf", "transformers"):
        assert json.loads((path / "config.json").read_text())["dtype"] == name


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)])
def test_one_kind_of_half_precision_is_rounded_to_the_other(sources, dtypes, tmp_path):
    checkpoints.convert(sources["vit", "clip_hf"], tmp_path / "first", dtype=dtypes[0])
    assert checkpoints.convert(tmp_path / "first", tmp_path / "same", dtype=dtypes[0]).tolerance == TOLERANCE
    report = checkpoints.convert(tmp_path / "first", tmp_path / "second", dtype=dtypes[1])
    assert report.tolerance == TOLERANCE_OF_ROUNDED_WEIGHTS
    checkpoints.convert(tmp_path / "first", tmp_path / "wide", dtype=torch.float32)
    wide, first = checkpoints.load(tmp_path / "wide")[0], checkpoints.load(tmp_path / "first")[0]
    assert_bit_equal(wide.state_dict(), first.state_dict())


def test_openais_published_files_are_known_by_their_checksum(sources, merges, tmp_path, monkeypatch):
    source = sources["resnet", "openai"]
    options = checkpoints.SourceOptions(merges=merges)
    checkpoints.convert(source, tmp_path / "before", options=options)
    assert "not about this one" in (tmp_path / "before" / "README.md").read_text()
    assert len(openai.PUBLISHED) == 9 and set(openai.PUBLISHED.values()) == set(ARCHITECTURES)
    assert all(len(checksum) == 64 for checksum in openai.PUBLISHED)
    monkeypatch.setitem(openai.PUBLISHED, hashlib.sha256(source.read_bytes()).hexdigest(), "RN50")
    report = checkpoints.convert(source, tmp_path / "after", options=options)
    assert report.notes[0] == "The file is OpenAI's published RN50, by its checksum."
    assert "These are OpenAI's weights" in (tmp_path / "after" / "README.md").read_text()


def test_what_the_format_cannot_hold_is_said_before_any_work(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_source_features", None)
    for path, to in ((sources["resnet", "clip_hf"], "transformers"), (sources["vit", "clip_hf"], "openai")):
        if to == "openai":
            shutil.copytree(path, tmp_path / "gelu")
            path = tmp_path / "gelu"
            config = json.loads((path / "config.json").read_text())
            config["text_config"]["hidden_act"] = "gelu"
            (path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="cannot be written|transformers' CLIP has vision transformers only"):
            checkpoints.convert(path, tmp_path / "it", to)


def test_half_precision_is_kept(source_models, options, tmp_path):
    weights = in_precision(to_openai(source_models["resnet"].state_dict()), "mixed")
    torch.save(weights, tmp_path / "theirs.pt")
    there = checkpoints.convert(tmp_path / "theirs.pt", tmp_path / "ours", options=options)
    assert there.tolerance == TOLERANCE
    back = checkpoints.convert(tmp_path / "ours", tmp_path / "back.pt", "openai")
    assert_bit_equal(read_as_openai(tmp_path / "back.pt"), weights)
    assert back.dtypes["float16"] == sum(tensor.dtype == torch.float16 for tensor in weights.values())


def test_notes_are_reported(source_models, tiny_tokenizer, tmp_path):
    weights = to_openai(source_models["resnet"].state_dict())
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    config = open_clip_config("resnet", vision_cfg={"patch_dropout": 0.5})
    del config["preprocess_cfg"]
    kept["attn_mask"] = torch.full((24, 24), -torch.inf).triu(1)
    folder = write_open_clip(tmp_path / "theirs", kept, config, tiny_tokenizer)
    report = checkpoints.convert(folder, tmp_path / "ours")
    text = " ".join(report.notes)
    for part in ("left out: attn_mask", "patch_dropout=0.5", "no preprocess_cfg", "22 counters of BatchNorm"):
        assert part in text
        assert part in str(report)
    assert report.num_weights == len(kept) - 1


# ----------------------------------------------------------------------------------------------------- destinations


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_there_is_not_replaced(sources, to, tmp_path, monkeypatch):
    path = destination(tmp_path, to)
    checkpoints.convert(sources["vit", "clip_hf"], path, to)

    def forbidden(*args, **kwargs):
        raise AssertionError("nothing must be read before the destination is checked")

    with monkeypatch.context() as context:
        context.setattr(conversion, "read_checkpoint", forbidden)
        with pytest.raises(FileExistsError, match="--overwrite"):
            checkpoints.convert(sources["vit", "clip_hf"], path, to)
    checkpoints.convert(sources["vit", "clip_hf"], path, to, overwrite=True)
    assert names(tmp_path) == [path.name]


def test_a_source_may_be_its_own_destination(source_models, tiny_processor, tmp_path):
    checkpoints.save(source_models["vit"], tiny_processor, tmp_path / "it")
    checkpoints.convert(tmp_path / "it", tmp_path / "it", dtype=torch.float16, overwrite=True)
    assert ClipHFModel.from_pretrained(tmp_path / "it").dtype == torch.float16
    assert names(tmp_path) == ["it"]


@pytest.mark.parametrize("to", FORMATS)
def test_too_little_room_is_said_before_writing(sources, to, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(OSError, match="not enough room"):
        checkpoints.convert(sources["vit", "clip_hf"], destination(tmp_path, to), to)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("to", "message"),
    [("transformers", "has a ResNet tower"), ("onnx", "no format 'onnx'"), ("", "no format ''")],
)
def test_what_cannot_be_written_leaves_nothing(sources, to, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        checkpoints.convert(sources["resnet", "clip_hf"], tmp_path / "it", to)
    assert names(tmp_path) == []


# --------------------------------------------------------------------------------------------------- defects are seen


def exchanged(function, change):
    """A version of `rename` or `rename_back` whose result has a defect."""

    def defective(*args, **kwargs):
        result = function(*args, **kwargs)
        tensors = dict(result[0] if isinstance(result, tuple) else result)
        change(tensors)
        return (tensors, *result[1:]) if isinstance(result, tuple) else tensors

    return defective


def swap(tensors, first, second):
    assert first in tensors and second in tensors
    tensors[first], tensors[second] = tensors[second], tensors[first]


def changed(tensors, name, function):
    tensor = tensors[name]
    tensors[name] = StoredTensor(tensor.shape, tensor.dtype, lambda: function(tensor.read()).contiguous())


OURS = "text_model.encoder.layers.1"
READING = {
    "query for key": lambda t: swap(t, f"{OURS}.self_attn.q_proj.weight", f"{OURS}.self_attn.k_proj.weight"),
    "dropped bias": lambda t: changed(t, f"{OURS}.mlp.fc1.bias", torch.zeros_like),
    "transposed text projection": lambda t: changed(t, "text_projection.weight", lambda values: values.T),
    "transposed image projection": lambda t: changed(t, "visual_projection.weight", lambda values: values.T),
    "not a number": lambda t: changed(t, "text_projection.weight", lambda values: values * torch.nan),
    "slightly scaled": lambda t: changed(t, "text_projection.weight", lambda values: values * 1.001),
}
WRITING = {
    "query for key": lambda t: changed(
        t,
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        lambda values: torch.cat([values.chunk(3)[part] for part in (1, 0, 2)]),
    ),
    "dropped bias": lambda t: changed(t, "transformer.resblocks.0.attn.in_proj_bias", torch.zeros_like),
    "transposed projection": lambda t: changed(t, "visual.proj", lambda values: values.T),
}


@pytest.fixture(scope="module")
def square_model():
    """A model whose projections are square, so that a transposed one has the same shape."""
    return make_model("vit", projection_dim=128)


@pytest.mark.parametrize("defect", READING)
def test_a_defect_in_reading_is_seen(square_model, defect, options, tmp_path, monkeypatch):
    torch.save(to_openai(square_model.state_dict()), tmp_path / "theirs.pt")
    checkpoints.convert(tmp_path / "theirs.pt", tmp_path / "ours", options=options)
    shutil.rmtree(tmp_path / "ours")
    monkeypatch.setattr(openai, "rename", exchanged(openai.rename, READING[defect]))
    with pytest.raises(RuntimeError, match="would differ from those of .* so it was not written"):
        checkpoints.convert(tmp_path / "theirs.pt", tmp_path / "ours", options=options)
    assert names(tmp_path) == ["theirs.pt"]


@pytest.mark.parametrize("defect", WRITING)
@pytest.mark.parametrize("to", ["openai", "open_clip"])
def test_a_defect_in_writing_is_seen(square_model, defect, to, tiny_processor, tmp_path, monkeypatch):
    checkpoints.save(square_model, tiny_processor, tmp_path / "ours")
    module = openai if to == "openai" else open_clip
    monkeypatch.setattr(module, "rename_back", exchanged(module.rename_back, WRITING[defect]))
    with pytest.raises(RuntimeError, match="would differ"):
        checkpoints.convert(tmp_path / "ours", destination(tmp_path, to), to)
    assert names(tmp_path) == ["ours"]


@pytest.mark.parametrize("to", ["openai", "open_clip"])
def test_a_replaced_destination_is_kept_when_a_defect_is_seen(square_model, to, tiny_processor, tmp_path, monkeypatch):
    checkpoints.save(square_model, tiny_processor, tmp_path / "ours")
    path = destination(tmp_path, to)
    checkpoints.convert(tmp_path / "ours", path, to)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    before = [file.read_bytes() for file in files]
    module = openai if to == "openai" else open_clip
    monkeypatch.setattr(module, "rename_back", exchanged(module.rename_back, WRITING["dropped bias"]))
    with pytest.raises(RuntimeError, match="would differ"):
        checkpoints.convert(tmp_path / "ours", path, to, overwrite=True)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("to", ["openai", "open_clip"])
def test_what_a_killed_conversion_left_is_cleared_up(sources, to, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = destination(tmp_path, to)
    with atomic.replaced_folder(path) if to == "open_clip" else atomic.replaced_file(path) as half:
        identity = half.name.removeprefix(f".{path.name}.").replace(f"-{os.getpid()}-", f"-{dead.pid}-")
        half.touch()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    leftover = tmp_path / f".{path.name}.{identity}"
    leftover.write_text("half of it")
    checkpoints.convert(sources["vit", "clip_hf"], path, to)
    assert names(tmp_path) == [path.name]
    if to == "open_clip":  # killed between two renames: it is there, and not replaced unasked
        path.rename(leftover.with_suffix(".aside"))
        with pytest.raises(FileExistsError, match="exists; give another path, or overwrite=True"):
            checkpoints.convert(sources["vit", "clip_hf"], path, to)
        assert names(tmp_path) == [path.name]


CONFIG_DEFECTS = {
    ("open_clip", "activation"): ("quick_gelu", False),
    ("open_clip", "heads"): ("text_cfg", {"heads": 4}),
    ("open_clip", "vision heads"): ("vision_cfg", {"head_width": 32}),
    ("open_clip", "epsilon"): ("text_cfg", {"norm_kwargs": {"eps": 1e-2}}),
    ("open_clip", "end of text"): ("text_cfg", {"pool_type": "eos", "eos_id": 598}),
    ("transformers", "activation"): ("hidden_act", "gelu"),
    ("transformers", "heads"): ("num_attention_heads", 4),
    ("transformers", "epsilon"): ("layer_norm_eps", 1e-2),
}


@pytest.mark.parametrize(("to", "defect"), CONFIG_DEFECTS)
def test_a_defect_in_a_configuration_is_seen(sources, to, defect, tmp_path, monkeypatch):
    name, value = CONFIG_DEFECTS[to, defect]
    module, function = (
        (open_clip, "config_to_open_clip")
        if to == "open_clip"
        else (
            checkpoints.transformers_format,
            "_text_config",
        )
    )
    right = getattr(module, function)

    def wrong(*args):
        config = right(*args)
        if to == "transformers":
            setattr(config, name, value)
        elif isinstance(value, dict):
            config[name] |= value
        else:
            config[name] = value
        return config

    monkeypatch.setattr(module, function, wrong)
    # The tokenizer, too, sees another end of text.
    with pytest.raises((RuntimeError, ValueError), match="would differ|does not belong to this model"):
        checkpoints.convert(sources["vit", "clip_hf"], tmp_path / "it", to)
    assert names(tmp_path) == []
    if to == "transformers":
        with pytest.raises(RuntimeError, match="would differ"):
            checkpoints.convert(sources["vit", "clip_hf"], tmp_path / "it", to, tower="text")
        assert names(tmp_path) == []


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "gelu"), ("num_attention_heads", 4)])
def test_a_defect_in_reading_transformers_configuration_is_seen(sources, name, value, tmp_path, monkeypatch):
    right = checkpoints.transformers_format.ClipHFConfig.from_pretrained

    def wrong(path, **kwargs):
        config = right(path, **kwargs)
        if path == sources["vit", "transformers"]:
            setattr(config.vision_config, name, value)
        return config

    monkeypatch.setattr(checkpoints.transformers_format.ClipHFConfig, "from_pretrained", wrong)
    with pytest.raises(RuntimeError, match="would differ"):
        checkpoints.convert(sources["vit", "transformers"], tmp_path / "it")
    assert names(tmp_path) == []


def test_weights_that_are_not_finite_are_refused(source_models, options, tmp_path):
    weights = to_openai(source_models["vit"].state_dict())
    weights["ln_final.weight"][0] = torch.nan
    torch.save(weights, tmp_path / "theirs.pt")
    with pytest.raises(RuntimeError, match="Should the weights of the source be finite, please report this"):
        checkpoints.convert(tmp_path / "theirs.pt", tmp_path / "ours", options=options)
    assert names(tmp_path) == ["theirs.pt"]


def test_fixed_inputs_are_the_same_each_time_and_tell_models_apart(source_models):
    config = source_models["vit"].config
    first = fixed_inputs(config)
    torch.manual_seed(5)
    second = fixed_inputs(config)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["pixel_values"].shape == (2, 3, 64, 64)
    assert first["input_ids"].shape == (3, 24)
    ends = (first["input_ids"] == 599).int().argmax(dim=-1)
    assert len(set(ends.tolist())) == 3 and ends.max() == 23
    other = make_model("vit", seed=3)
    assert relative_difference(features(other)["text"], features(source_models["vit"])["text"]) > 0.1


# --------------------------------------------------------------------------------------------------- card and progress


def test_a_card_is_written_and_hand_edits_are_kept(sources, tmp_path):
    details = ModelCardDetails(license="mit", datasets=["me/photos"])
    checkpoints.convert(sources["vit", "open_clip"], tmp_path / "it", card=details)
    card = (tmp_path / "it" / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert "me/photos" in card
    assert "Converted with clip_hf from vit-open_clip (open_clip format)." in card
    edited = card.replace("# it", "# My own title", 1) + "\nWritten by hand.\n"
    assert edited != card + "\nWritten by hand.\n"
    (tmp_path / "it" / "README.md").write_text(edited, encoding="utf-8")
    checkpoints.convert(sources["vit", "open_clip"], tmp_path / "it", card=details, overwrite=True)
    renewed = (tmp_path / "it" / "README.md").read_text(encoding="utf-8")
    assert "# My own title" in renewed and "Written by hand." in renewed


@pytest.mark.parametrize("to", ["open_clip", "transformers"])
def test_other_formats_get_no_card(sources, to, tmp_path):
    checkpoints.convert(sources["vit", "clip_hf"], tmp_path / "it", to)
    assert not (tmp_path / "it" / "README.md").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_progress_counts_every_byte_on_stderr(sources, source_models, to, tmp_path, capsys, monkeypatch):
    counts = []

    class Bar(conversion.tqdm):
        def close(self):
            if not self.disable:
                counts.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(conversion, "tqdm", Bar)
    path = destination(tmp_path, to)
    checkpoints.convert(sources["vit", "clip_hf"], path, to)
    size = sum(tensor.numel() * 4 for tensor in source_models["vit"].state_dict().values())
    assert counts[0] == (size, size)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"Writing {path.name}: " in err
