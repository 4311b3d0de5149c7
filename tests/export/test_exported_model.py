# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exported towers against the model in PyTorch."""

import json
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModel, AutoModelForZeroShotImageClassification

from clip_hf.export import ClipHFExportedModel
from clip_hf.export.exported_folder import write_record


@contextmanager
def half_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow_but_for("vit", "resnet-onnx")
@torch.no_grad()
def test_features_are_those_of_pytorch(tower, tiny_model, runtime, exported_folder, pixel_values, text_inputs):
    exported = ClipHFExportedModel.from_pretrained(exported_folder(tower, runtime))
    for batch in (1, 4):  # the axes are dynamic
        pixels, ids = pixel_values[:batch], text_inputs["input_ids"][:batch]
        torch.testing.assert_close(exported.encode_image(pixels), tiny_model.encode_image(pixels), atol=1e-5, rtol=0)
        torch.testing.assert_close(exported.encode_text(ids), tiny_model.encode_text(ids), atol=1e-5, rtol=0)
        pooled = tiny_model.vision_model(pixels).pooler_output
        torch.testing.assert_close(exported.pooled_image_features(pixels), pooled, atol=1e-4, rtol=1e-5)
    first, second = exported.encode_image(pixel_values)[:2]
    assert torch.dist(first, second) > 0.01  # features that do not depend on the image would agree, too
    short = text_inputs["input_ids"][2:3, :3]
    torch.testing.assert_close(exported.encode_text(short), tiny_model.encode_text(short), atol=1e-5, rtol=0)


@torch.no_grad()
def test_logits_are_those_of_pytorch(tower, tiny_model, exported_folder, pixel_values, text_inputs):
    exported = AutoModelForZeroShotImageClassification.from_pretrained(exported_folder(tower, "onnx"))
    logits = exported(input_ids=text_inputs["input_ids"], pixel_values=pixel_values).logits_per_image
    expected = tiny_model(**text_inputs, pixel_values=pixel_values).logits_per_image
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_outputs_may_be_tuples(exported_folder, pixel_values, text_inputs):
    exported = ClipHFExportedModel.from_pretrained(exported_folder("vit", "onnx"))
    whole = exported(text_inputs["input_ids"], pixel_values)
    logits, *_ = exported(text_inputs["input_ids"], pixel_values, return_dict=False)
    (embeds,) = exported.get_image_features(pixel_values, return_dict=False)
    assert torch.equal(logits, whole.logits_per_image) and torch.equal(embeds, whole.image_embeds)


def test_openvino_runs_onnx_and_not_the_reverse(exported_folder, pixel_values):
    towers = [AutoModel.from_pretrained(exported_folder("vit", "onnx"), runtime=each) for each in ("onnx", "openvino")]
    assert [each.runtime for each in towers] == ["onnx", "openvino"]
    torch.testing.assert_close(*(each.encode_image(pixel_values) for each in towers), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="ONNX Runtime cannot read that"):
        AutoModel.from_pretrained(exported_folder("vit", "openvino"), runtime="onnx")


@torch.no_grad()
def test_texts_that_would_give_other_features_are_refused(exported_folder, text_inputs):
    exported = ClipHFExportedModel.from_pretrained(exported_folder("vit", "onnx"))
    ids, mask = text_inputs["input_ids"], text_inputs["attention_mask"]
    assert torch.equal(exported.encode_text(ids, mask), exported.encode_text(ids))
    with pytest.raises(ValueError, match=r"texts \[1\] of the batch have no end-of-text token"):
        exported.encode_text(torch.where(torch.arange(4)[:, None] == 1, 5, ids))
    with pytest.raises(ValueError, match="padded on the left"):
        exported.encode_text(ids.flip(1), mask.flip(1))
    with pytest.raises(ValueError, match="have 25 tokens; this model takes at most 24"):
        exported.encode_text(ids.new_full((1, 25), 599))


def open_with(folder, model_type: str, **text_options) -> ClipHFExportedModel:
    """An export as if it were made of another type of model, with other options of the text tower."""
    config = json.loads((folder / "config.json").read_text())
    config["source_config"]["model_type"] = model_type
    config["source_config"]["text_config"].update(text_options)
    (folder / "config.json").write_text(json.dumps(config))
    write_record(folder, {})
    return ClipHFExportedModel.from_pretrained(folder)


@pytest.mark.parametrize(("model_type", "eos_token_id"), [("clip_hf", 599), ("clip", 599), ("clip", 2)])
def test_a_mask_may_hide_only_what_is_after_the_end(exported_folder, text_inputs, tmp_path, model_type, eos_token_id):
    """In transformers' first configurations of CLIP, id 2 stands for the largest id of a text."""
    shutil.copytree(exported_folder("vit", "onnx"), tmp_path / "export")
    exported = open_with(tmp_path / "export", model_type, eos_token_id=eos_token_id)
    ids, mask = text_inputs["input_ids"], text_inputs["attention_mask"]
    assert torch.equal(exported.encode_text(ids, mask), exported.encode_text(ids))
    for tokens in (1, 4, 6):  # of seven, with the end
        hiding = mask.clone()
        hiding[1, tokens:] = 0
        with pytest.raises(ValueError, match=r"texts \[1\] of .* no end-of-text token .* `attention_mask` hides it"):
            exported.encode_text(ids, hiding)


def test_texts_that_may_lack_their_end_are_taken_whole(exported_folder, text_inputs, tmp_path):
    shutil.copytree(exported_folder("vit", "onnx"), tmp_path / "export")
    exported = open_with(tmp_path / "export", "clip_hf", allow_missing_eos=True)
    ids, mask = text_inputs["input_ids"].clamp(max=597), text_inputs["attention_mask"]
    assert exported.encode_text(ids, torch.ones_like(mask)).shape == (4, 16)
    with pytest.raises(ValueError, match=r"texts \[1, 2, 3\] of .* `attention_mask` hides it"):
        exported.encode_text(ids, mask)


def test_options_that_towers_cannot_follow_are_refused(exported_folder, pixel_values):
    exported = ClipHFExportedModel.from_pretrained(exported_folder("vit", "onnx"))
    with pytest.raises(TypeError, match="no option 'interpolate_pos_encoding'"):
        exported.get_image_features(pixel_values, interpolate_pos_encoding=True)
    with pytest.raises(TypeError, match="no option 'return_loss'"):
        exported(pixel_values=pixel_values, return_loss=True)
    with pytest.raises(ValueError, match=r"takes \(batch, 3, 64, 64\)"):
        exported.encode_image(pixel_values[..., :32])


def test_inputs_that_pytorch_refuses_are_refused(runtime, exported_folder, tiny_model, pixel_values, text_inputs):
    exported = ClipHFExportedModel.from_pretrained(exported_folder("vit", "onnx"), runtime=runtime)
    ids = text_inputs["input_ids"]
    for wrong in (pixel_values.to(torch.uint8), pixel_values.bool(), pixel_values.to(torch.complex64)):
        with pytest.raises(ValueError, match="must be of floats"):
            exported.encode_image(wrong)
    for wrong in (ids.float(), ids[0], ids[:, :0]):
        with pytest.raises(ValueError, match=r"it must be \(batch, length\) of integers"):
            exported.encode_text(wrong)
    with pytest.raises(TypeError, match="must be a tensor"):
        exported.encode_text(ids.tolist())
    vocab_size = exported.config.source_config["text_config"]["vocab_size"]
    for wrong in (-1, vocab_size):
        changed = ids.clone()
        changed[0, 1] = wrong
        with pytest.raises(ValueError, match=f"the model's vocabulary has {vocab_size} ids"):
            exported.encode_text(changed)
    with pytest.raises(ValueError, match="must have that of `input_ids`"):
        exported.encode_text(ids, torch.ones(ids.shape[1]))
    with pytest.raises(ValueError, match="is 0 everywhere"):
        exported.encode_text(ids, torch.zeros_like(ids))
    hides_end = torch.zeros_like(ids)
    hides_end[:, 0] = 1
    with pytest.raises(ValueError, match="no end-of-text token"):
        exported.encode_text(ids, hides_end)
    with pytest.raises(TypeError, match="no option 'position_ids'"):
        exported.encode_text(ids, position_ids=torch.arange(ids.shape[1]))


@pytest.mark.parametrize("loader", [ClipHFExportedModel, AutoModel])
def test_options_of_transformers_work_or_are_refused(loader, exported_folder):
    folder = exported_folder("vit", "onnx")
    opened = loader.from_pretrained(folder.parent, subfolder=folder.name)
    assert opened.folder == folder and loader.from_pretrained(folder, torch_dtype="float32").precision == "float32"
    for place in ("auto", "cpu", {"": "cpu"}, None):
        assert loader.from_pretrained(folder, device_map=place).device.type == "cpu"
    for place in ("cuda", 0, {"": 0}, {"visual": "cpu", "": "cuda:1"}):
        with pytest.raises(ValueError, match="^Exported models run on the processor only; `device` is "):
            loader.from_pretrained(folder, device_map=place)
    with pytest.raises(ValueError, match="ONNX Runtime does not compute in bfloat16"):
        loader.from_pretrained(folder, torch_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r'not quantised as it is loaded: export it with precision="int8"'):
        loader.from_pretrained(folder, quantization_config={"load_in_8bit": True})
    with pytest.raises(TypeError, match="has no option 'max_memory'; it is opened with `runtime` and `dtype`"):
        loader.from_pretrained(folder, max_memory={0: "1GB"})


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.to("cuda"),
        lambda model: model.cuda(),
        lambda model: model.to("meta"),
        lambda model: model.to(torch.float16),
        lambda model: model.half(),
        lambda model: model.bfloat16(),
        lambda model: model.double(),
    ],
)
def test_it_stays_on_the_processor_and_in_float32(exported_folder, move):
    model = ClipHFExportedModel.from_pretrained(exported_folder("vit", "onnx"))
    with pytest.raises(ValueError, match="^Exported models run on the processor only, and give float32; asked for"):
        move(model)
    assert model.to("cpu", torch.float32).float().cpu().eval() is model and model.device.type == "cpu"
    with pytest.raises(ValueError, match="cannot be trained"):
        model.train()


@pytest.mark.parametrize(
    "setting",
    [lambda: torch.device("meta"), lambda: torch.autocast("cpu", torch.bfloat16), half_by_default],
    ids=["default device", "autocast", "default dtype"],
)
def test_settings_of_pytorch_change_nothing(setting, exported_folder, pixel_values, text_inputs):
    folder = exported_folder("vit", "onnx")
    expected = ClipHFExportedModel.from_pretrained(folder)(text_inputs["input_ids"], pixel_values)
    with setting():
        output = ClipHFExportedModel.from_pretrained(folder)(text_inputs["input_ids"], pixel_values)
    for name in ("logits_per_image", "text_embeds", "image_embeds"):
        assert output[name].dtype == torch.float32 and torch.equal(output[name], expected[name])


def test_a_pickled_model_opens_its_folder(runtime, exported_folder, pixel_values):
    exported = ClipHFExportedModel.from_pretrained(exported_folder("vit", "onnx"), runtime=runtime)
    again = pickle.loads(pickle.dumps(exported))
    assert (again.runtime, again.precision, again.name_or_path) == (runtime, "float32", exported.name_or_path)
    assert torch.equal(again.encode_image(pixel_values), exported.encode_image(pixel_values))


@pytest.mark.slow
def test_a_signal_after_models_are_freed_ends_nothing(exported_folder):
    # In a process of its own, because it would end with a segmentation fault.
    code = """
        import gc, os, signal, sys
        from clip_hf.export import ClipHFExportedModel
        for _ in range(3):
            ClipHFExportedModel.from_pretrained(sys.argv[1], runtime="openvino")
            gc.collect()
        signal.signal(signal.SIGTERM, lambda number, frame: print("received"))
        os.kill(os.getpid(), signal.SIGTERM)
        print("alive")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(exported_folder("vit", "onnx"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, ["received", "alive"]), done.stderr
