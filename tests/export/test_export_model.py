# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`export_model`: what it writes, reports and refuses."""

import errno
import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from export_reports import report_of
from PIL import ExifTags, Image

from clip_hf import ClipHFModel
from clip_hf.embedding import load_dual_encoder
from clip_hf.export import ClipHFExportedConfig, ClipHFExportedModel, export_model, exporting
from clip_hf.export.export_card import write_export_card
from clip_hf.export.exported_folder import write_record
from clip_hf.export.runtime_sessions import kept_signal_stack
from clip_hf.export.sources import as_exportable, describe_model
from clip_hf.export.tower_inputs import NamedItems, Samples, prepare_samples
from clip_hf.export.towers import ImageTower
from tiny_models import CAPTIONS, as_transformers_clip, make_tiny_model


class _Exported(Exception):
    """Raised in place of the export, which takes seconds."""


@pytest.fixture
def no_export(monkeypatch):
    """Whatever is refused late would raise `_Exported`."""

    def export_towers(*args):
        raise _Exported

    monkeypatch.setattr(exporting, "export_towers", export_towers)


def test_the_folder_says_what_it_is(exported_folder):
    folder = exported_folder("vit", "onnx")
    record = json.loads((folder / "export.json").read_text())
    assert {"runtime": "onnx", "precision": "float32", "calibration": None}.items() <= record.items()
    assert {"clip_hf", "torch", "transformers", "onnxruntime"} <= record["versions"].keys() and record["opset"] > 16
    assert len(record["source_weights"]) == 32
    report = record["report"]
    assert report["images"]["count"] == 8 and report["images"]["cosine_min"] > 0.99999
    assert report["top1_agreement"] == 1 and report["speed"] == []
    assert "random ones were compared" in report["notes"][0]


def run_card(folder, image, texts: list[str]) -> dict:
    """The variables after the code of a folder's card for its runtime alone has run on an image and texts."""
    card = (folder / "README.md").read_text()
    code = re.search(r"alone\n\n```python\n(.*?)```", card, re.DOTALL)[1]
    assert "clip_hf" not in code
    names: dict = {}
    code = code.replace("path/to/this/folder", str(folder)).replace("cat.jpg", str(image))
    with kept_signal_stack():  # the card's lines run OpenVINO alone
        exec(code.replace('["a cat", "a dog"]', repr(texts)), names)
    return names


def test_the_card_runs_in_its_runtime_alone(exported_folder, runtime, tmp_path):
    folder, texts = exported_folder("vit", runtime), ["a cat", "a dog", "a map of the whole world " * 20]
    # The crop lies between two pixels, and the file is turned.
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).resize((93, 71), Image.Resampling.BICUBIC).save(tmp_path / "cat.jpg", exif=exif)
    names = run_card(folder, tmp_path / "cat.jpg", texts)
    encoder = load_dual_encoder(folder)
    image_embeds, text_embeds = encoder.encode_images([tmp_path / "cat.jpg"]), encoder.encode_texts(texts)
    np.testing.assert_allclose(names["image_embeds"], image_embeds, atol=1e-5)
    np.testing.assert_allclose(names["text_embeds"], text_embeds, atol=1e-5)
    np.testing.assert_allclose(names["logits"], encoder.logit_scale * image_embeds @ text_embeds.T, atol=1e-4)
    card = (folder / "README.md").read_text()
    assert "| `pooled_features` | (batch, 32), float32 | before the projection" in card.replace("out: ", "")
    assert encoder.encode_images([tmp_path / "cat.jpg"], projected=False).shape == (1, 32)
    assert "Compared on 8 random images and 16 default prompts, as no texts were given." in card
    assert "They do not clean texts, which the tokenizer" in card and "are clipped to white" in card


@pytest.mark.slow_but_for("options0-None", "options1-white", "options2-color2")
@pytest.mark.parametrize("color", [None, "white", [200, 30, 90]])
@pytest.mark.parametrize("options", [{}, {"size": {"height": 64, "width": 64}}, {"size": 80, "resample": 2}])
def test_the_card_prepares_transparent_images_as_the_processor(
    exported_folder, tiny_processor, tmp_path, color, options
):
    folder = tmp_path / "export"
    shutil.copytree(exported_folder("vit", "onnx"), folder)
    image_processor = type(tiny_processor.image_processor)(
        **{"size": 64, "crop_size": 64, **options}, background_color=color
    )
    processor = type(tiny_processor)(image_processor, tiny_processor.tokenizer)
    record = json.loads((folder / "export.json").read_text())
    write_export_card(folder, ClipHFExportedConfig.from_pretrained(folder), processor, record, report_of(1.0))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    drawing = Image.fromarray(pixels).resize((93, 70), Image.Resampling.BICUBIC)
    for name, image in {
        "rgba.png": drawing,
        "la.png": drawing.convert("LA"),
        "rgb.png": drawing.convert("RGB"),
        "palette.png": drawing.convert("RGB").quantize(8),
        "transparent_palette.png": drawing.convert("RGB").quantize(8),
    }.items():
        saving = {"transparency": 3} if name == "transparent_palette.png" else {}
        image.save(tmp_path / name, **saving)
        found = run_card(folder, tmp_path / name, ["a cat"])["pixel_values"]
        expected = image_processor([tmp_path / name], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


def test_the_card_writes_no_lines_that_would_be_wrong(exported_folder, tiny_processor, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported_folder("vit", "onnx"), folder)
    (folder / "tokenizer.json").unlink()
    record, config = json.loads((folder / "export.json").read_text()), ClipHFExportedConfig.from_pretrained(folder)
    for options in ({"do_normalize": False}, {"rescale_factor": 1.0}, {"size": {"max_height": 64, "max_width": 64}}):
        image_processor = type(tiny_processor.image_processor)(**{"size": 64, "crop_size": 64, **options})
        processor = type(tiny_processor)(image_processor, tiny_processor.tokenizer)
        write_export_card(folder, config, processor, record, report_of(1.0))
        card = (folder / "README.md").read_text()
        assert "pixel_values = ...  # (images, 3, 64, 64), float32, as `processor_config.json` says" in card
        assert "input_ids = ...  # (texts, length), int64, of the tokenizer in the folder" in card
        assert "import Image" not in card and "import Tokenizer" not in card


def test_pooled_features_are_those_before_the_projection(pixel_values):
    """Of transformers' CLIP as of ours."""
    tiny_model = make_tiny_model("vit")
    expected = tiny_model.vision_model(pixel_values).pooler_output
    for model in (tiny_model, as_transformers_clip(tiny_model)):
        with torch.no_grad():
            towers = ImageTower(model)(pixel_values)
            embeds = model.get_image_features(pixel_values=pixel_values).pooler_output
        torch.testing.assert_close(towers["pooled_features"], expected.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(towers["image_embeds"], torch.nn.functional.normalize(embeds), atol=1e-5, rtol=1e-5)
        processor = SimpleNamespace(image_processor=None, tokenizer=None, save_pretrained=None)
        assert describe_model(model, processor, "onnx", "float32").has_projection


def test_another_dtype_is_exported_from_a_float32_copy():
    model = make_tiny_model("resnet").half().train()
    with as_exportable(model) as source:
        assert {weight.dtype for weight in source.parameters()} == {torch.float32} and not source.training
    assert model.dtype == torch.float16 and all(module.training for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8(tower, tiny_model, runtime, tiny_processor, images, tmp_path):
    turned = [image.rotate(angle) for angle in range(0, 360, 45) for image in images]
    before = [(module, module.training) for module in tiny_model.train().modules()]
    report = export_model(
        tiny_model,
        tmp_path / "int8",
        runtime,
        "int8",
        processor=tiny_processor,
        images=NamedItems(turned, "turned drawings"),
        texts=NamedItems(CAPTIONS, "of their names"),
        allow_loss=True,  # a tiny random ResNet, whose few channels differ much, loses several hundredths
    )
    assert all(module.training == training for module, training in before)
    assert 0.8 < report.images.cosine_min < 0.9999999  # they are int8
    calibrating = 20 if tower == "resnet" else 0
    assert (report.images.count, report.texts.count) == (40 - calibrating, 5) and len(report.speed) == 4
    record = json.loads((tmp_path / "int8" / "export.json").read_text())
    assert (record["calibration"] or {"images": 0})["images"] == calibrating
    data = f"{40 - calibrating} turned drawings and 5 of their names"
    assert report.data == record["report"]["data"] == data
    card = (tmp_path / "int8" / "README.md").read_text()
    assert f"Compared on {data}." in card
    assert ("Calibrated on 20 turned drawings." in card) == (tower == "resnet")
    exported = ClipHFExportedModel.from_pretrained(tmp_path / "int8")
    assert exported.precision == "int8"
    with pytest.raises(ValueError, match="int8 towers run as they are"):
        ClipHFExportedModel.from_pretrained(tmp_path / "int8", dtype="float32")


def test_a_loss_is_refused_and_nothing_is_written(monkeypatch, exported_folder, tiny_processor, tmp_path):
    source, folder = exported_folder("vit", "onnx"), tmp_path / "export"
    shutil.copytree(source, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def export_towers(model, config, temporary):
        for path in source.glob("*_tower.*"):
            shutil.copy(path, temporary)

    monkeypatch.setattr(exporting, "export_towers", export_towers)
    torch.manual_seed(7)
    other = ClipHFModel(make_tiny_model("vit").config).eval()  # other weights than the towers'
    with pytest.raises(ValueError, match="differ from PyTorch.*allow-loss"):
        export_model(other, folder, processor=tiny_processor)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    report = export_model(other, folder, processor=tiny_processor, allow_loss=True)
    assert report.images.cosine_min < 0.999
    assert json.loads((folder / "export.json").read_text())["report"]["images"]["cosine_min"] < 0.999


def test_the_report_names_what_was_compared(exported_folder, tiny_processor, images):
    config = ClipHFExportedConfig.from_pretrained(exported_folder("vit", "onnx"))
    drawings, names = NamedItems(images, "drawings"), NamedItems(CAPTIONS, "of their names")
    for data, expected in (
        ((drawings, names), "5 drawings and 5 of their names"),
        ((drawings, None), "5 drawings and 16 default prompts, as no texts were given"),
        ((None, names), "8 random images and 5 of their names"),
        ((images, CAPTIONS), "5 given images and 5 given texts"),
    ):
        assert prepare_samples(config, tiny_processor, *data).in_words() == expected


def test_calibrating_images_are_not_compared():
    samples = Samples(torch.arange(5.0).reshape(5, 1, 1, 1), torch.zeros(1, 3, dtype=torch.int64), True)
    compared, calibration = samples.split()
    assert compared.pixel_values.flatten().tolist() == [1, 3]
    assert calibration.pixel_values.flatten().tolist() == [0, 2, 4]
    other = Samples(samples.pixel_values + 1, samples.input_ids, True)
    assert samples.describe()["images_sha256"] != other.describe()["images_sha256"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "pass some hundred"),
        ({"precision": "int4"}, "must be one of"),
        ({"precision": "bfloat16"}, "ONNX Runtime does not compute in bfloat16"),
        ({"runtime": "tensorrt"}, "'onnx' or 'openvino'"),
    ],
)
def test_bad_options(no_export, options, message, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_model(make_tiny_model("vit"), tmp_path / "x", **options, processor=tiny_processor)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "single"), [("images", "cat.jpg"), ("texts", "a cat")])
def test_single_images_and_texts_are_no_lists(no_export, name, single, tiny_processor, tmp_path):
    with pytest.raises(TypeError, match=rf"`{name}` is '{single}'; it must be a list, such as \['{single}'\]"):
        export_model(make_tiny_model("vit"), tmp_path / "x", processor=tiny_processor, **{name: single})
    assert not list(tmp_path.iterdir())


def test_settings_of_pytorch_do_not_reach_the_towers(monkeypatch, tiny_processor, tmp_path):
    def export_towers(*args):
        assert not torch.is_autocast_enabled("cpu") and torch.zeros(1).device.type == "cpu"
        raise _Exported

    monkeypatch.setattr(exporting, "export_towers", export_towers)
    for setting in (torch.autocast("cpu", torch.bfloat16), torch.device("meta")):
        model = make_tiny_model("vit")
        with setting, pytest.raises(_Exported):
            export_model(model, tmp_path / "x", processor=tiny_processor)


def test_bad_models_and_destinations(no_export, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="Linear is of the type None; models of the types clip_hf, clip, siglip"):
        export_model(torch.nn.Linear(2, 2), tmp_path / "x", processor=tiny_processor)
    with pytest.raises(TypeError, match="must be the model's processor"):
        export_model(make_tiny_model("vit"), tmp_path / "x")
    with pytest.raises(OSError, match="no file or folder"):
        export_model(tmp_path / "none.pt", tmp_path / "x")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="is no export"):
        export_model(make_tiny_model("vit"), mine, processor=tiny_processor)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_changed_models_are_refused(no_export, tiny_processor, tmp_path):
    def refused(model, message):
        with pytest.raises(ValueError, match=message):
            export_model(model, tmp_path / "x", processor=tiny_processor)
        assert not (tmp_path / "x").exists()

    model = make_tiny_model("vit")
    layer = model.vision_model.encoder.layers[0]
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        handle = register(lambda *args: None)
        refused(model, "'vision_model.encoder.layers.0' has hooks or a `forward` of its own")
        handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    refused(model, "'model' has hooks or a `forward` of its own")
    handle.remove()
    layer.forward = lambda x: x
    refused(model, r"layers.0' has hooks or a `forward` of its own \(forward .*<lambda>\)")
    del layer.forward
    model.config.quantization_config = {"bits": 4}
    refused(model, "quantised")
    del model.config.quantization_config
    refused(make_tiny_model("vit").to("meta"), "not in memory")
    model.config.vision_config.num_channels = 1
    refused(model, "with 1 channels")
    model.config.vision_config.num_channels = 3
    with pytest.raises(_Exported):
        export_model(model, tmp_path / "x", processor=tiny_processor)


def test_threads_export_one_after_the_other(monkeypatch, tiny_processor, tmp_path):
    model, is_exporting = make_tiny_model("vit"), threading.Lock()

    def export_towers(*args):
        assert is_exporting.acquire(blocking=False)
        time.sleep(0.2)
        is_exporting.release()
        raise _Exported

    def export(name):
        with pytest.raises(_Exported):
            export_model(model, tmp_path / name, processor=tiny_processor)

    monkeypatch.setattr(exporting, "export_towers", export_towers)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(export, "ab")) == [None, None]


@pytest.mark.slow
def test_threads_export_for_both_runtimes(tiny_processor, tmp_path):
    model = make_tiny_model("vit")

    def export(runtime):
        return export_model(model, tmp_path / runtime, runtime, processor=tiny_processor)

    with ThreadPoolExecutor(2) as pool:
        for report in pool.map(export, ("onnx", "openvino")):
            assert min(report.images.cosine_min, report.texts.cosine_min) > 0.99999


def test_hooks_of_transformers_are_no_change():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(text_config=sizes, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    model = transformers.CLIPModel(config).eval()
    model.get_image_features(pixel_values=torch.zeros(1, 3, 32, 32), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    processor = SimpleNamespace(image_processor=None, tokenizer=None, save_pretrained=None)
    assert describe_model(model, processor, "onnx", "float32").context_length == 77


def test_a_full_disk_leaves_nothing(monkeypatch, tiny_processor, tmp_path):
    def export_towers(model, config, folder):
        (folder / "image_tower.onnx").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "export_towers", export_towers)
    with pytest.raises(OSError, match="No space left"):
        export_model(make_tiny_model("vit"), tmp_path / "x", processor=tiny_processor)
    assert not list(tmp_path.iterdir())


def test_what_appears_at_the_destination_meanwhile_stays(monkeypatch, tiny_processor, tmp_path):
    def export_towers(*args):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "thesis.tex").write_text("x")

    monkeypatch.setattr(exporting, "export_towers", export_towers)
    monkeypatch.setattr(exporting, "_write_report", lambda *args: report_of(1.0))
    with pytest.raises(FileExistsError, match="x exists and is no export"):
        export_model(make_tiny_model("vit"), tmp_path / "x", processor=tiny_processor)
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "thesis.tex"]


def test_errors_of_libraries_that_write_are_errors_of_the_disk(monkeypatch, tiny_processor, tmp_path):
    def save_program(graph, path):
        path.write_bytes(b"half")
        raise RuntimeError("problem writing element 3")

    monkeypatch.setattr(exporting, "_program", lambda *args: (None, save_program))
    with pytest.raises(
        OSError, match=rf"image_tower\.onnx could not be written in {tmp_path} \(problem writing element 3\)"
    ):
        export_model(make_tiny_model("vit"), tmp_path / "x", processor=tiny_processor)
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_folder_stays(monkeypatch, tiny_processor, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setattr(exporting, "export_towers", lambda *args: None)
    monkeypatch.setattr(exporting, "_write_report", lambda *args: SimpleNamespace(check=lambda: None))
    export_model(make_tiny_model("vit"), tmp_path / "link", processor=tiny_processor)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "config.json").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").touch()
    (tmp_path / "to_other").symlink_to(tmp_path / "other")
    with pytest.raises(FileExistsError, match="other exists and is no export"):
        export_model(make_tiny_model("vit"), tmp_path / "to_other", processor=tiny_processor)


def test_damaged_folders_are_refused(exported_folder, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported_folder("vit", "onnx"), folder)
    record = (folder / "export.json").read_bytes()
    (folder / "export.json").unlink()
    with pytest.raises(ValueError, match=r"has no export\.json"):
        ClipHFExportedModel.from_pretrained(folder)
    (folder / "export.json").write_bytes(record)
    shutil.copy(folder / "text_tower.onnx", folder / "image_tower.onnx")
    with pytest.raises(ValueError, match=r"image_tower\.onnx in .* of another export"):
        ClipHFExportedModel.from_pretrained(folder)
    (folder / "image_tower.onnx").unlink()
    with pytest.raises(ValueError, match=r"lacks image_tower\.onnx"):
        ClipHFExportedModel.from_pretrained(folder)


def test_records_that_describe_no_whole_export_are_refused(exported_folder, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported_folder("vit", "onnx"), folder)
    (folder / "image_tower_old").mkdir()
    ClipHFExportedModel.from_pretrained(folder)
    record = json.loads((folder / "export.json").read_text())
    for name in (None, "text_tower.onnx", "config.json"):
        files = {each: value for each, value in record["files"].items() if each != name}
        (folder / "export.json").write_text(json.dumps({**record, "files": files if name else None}))
        with pytest.raises(ValueError, match=r"must describe both towers and config\.json; it has "):
            ClipHFExportedModel.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "logit_scale": 1.0}))
    (folder / "export.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"config\.json in .* differ from what"):
        ClipHFExportedModel.from_pretrained(folder)
    del config["source_config"]["text_config"]
    (folder / "config.json").write_text(json.dumps(config))
    write_record(folder, {})
    with pytest.raises(ValueError, match="no whole `source_config`"):
        ClipHFExportedModel.from_pretrained(folder)


def test_the_longest_text_is_the_models(exported_folder):
    """A tokenizer that cuts earlier must not decide what other tokenizers of the cached export may give."""
    tokenizer = SimpleNamespace(model_max_length=8)
    processor = SimpleNamespace(image_processor=None, tokenizer=tokenizer, save_pretrained=None)
    model = make_tiny_model("vit")
    described = describe_model(model, processor, "onnx", "float32")
    assert described.context_length == model.config.text_config.max_position_embeddings > 8
