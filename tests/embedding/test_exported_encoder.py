# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exported models as encoders: the features are those of PyTorch, and what cannot be had is refused at once."""

import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from clip_hf import ClipHFModel, checkpoints
from clip_hf.embedding import EncodingOptions, encode_text_list, load_dual_encoder
from clip_hf.embedding.exported_encoder import ExportedEncoder
from clip_hf.export import exported_model, opening, runtime_sessions, runtimes
from clip_hf.utils import devices
from tiny_models import CAPTIONS, MORE_TEXTS, make_tiny_model


TEXTS = [*MORE_TEXTS, "a cat", CAPTIONS[0], "dog", "a cat", "x " * 60]  # of mixed lengths, the last one cut


@pytest.fixture
def folder(exported_folder):
    """The tiny ViT, exported as ONNX, which both runtimes read."""
    return exported_folder("vit", "onnx")


@pytest.fixture
def precisions(monkeypatch) -> list[str]:
    """The precision of each tower that is opened. On any processor bfloat16 is allowed, and stands for float32."""
    opened = []

    def open_session(path, runtime, precision):
        opened.append(precision)
        return runtime_sessions.open_session(path, runtime, "float32")

    monkeypatch.setattr(runtimes, "read_processor", lambda: SimpleNamespace(has_bfloat16=True))
    monkeypatch.setattr(exported_model, "open_session", open_session)
    return opened


def distance(features: torch.Tensor, others: torch.Tensor) -> float:
    """The largest distance of two rows, in lengths of the longest row."""
    assert features.dtype == torch.float32 and features.device.type == "cpu" and not features.requires_grad
    return float((features - others).norm(dim=-1).max() / others.norm(dim=-1).max())


def test_features_are_those_of_pytorch(tower, runtime, exported_folder, tiny_model, tiny_processor, images):
    ours = load_dual_encoder(tiny_model, processor=tiny_processor)
    exported = load_dual_encoder(exported_folder(tower, "onnx"), runtime)
    assert type(exported) is ExportedEncoder
    assert distance(exported.encode_images(images), ours.encode_images(images)) < 1e-5
    assert distance(exported.encode_texts(TEXTS), ours.encode_texts(TEXTS)) < 1e-5
    before = [each.encode_images(images, projected=False) for each in (exported, ours)]
    assert before[0].shape != exported.encode_images(images).shape and distance(*before) < 1e-4
    assert min(float((a - b).norm()) for a, b in zip(before[0], before[0][1:])) > 1e-3
    assert (exported.projection_dim, exported.logit_bias) == (16, 0.0)
    assert exported.logit_scale == pytest.approx(ours.logit_scale)


def test_an_export_runs_as_it_was_made(folder):
    exported = load_dual_encoder(str(folder))
    assert exported.name == f"{folder} (onnx, float32)" and exported.dtype == torch.float32
    assert repr(exported).endswith("device='cpu', dtype=torch.float32)")


def test_texts_are_padded_to_the_longest_of_small_batches(folder, runtime, monkeypatch):
    exported = load_dual_encoder(folder, runtime)
    expected = exported.encode_texts(TEXTS)
    shapes = []
    encode_text = exported.model.encode_text

    def counted(input_ids, **kwargs):
        shapes.append(tuple(input_ids.shape))
        return encode_text(input_ids, **kwargs)

    monkeypatch.setattr(exported.model, "encode_text", counted)
    monkeypatch.setattr(type(exported.model), "max_tokens_per_batch", 24)
    by_twos = exported.encode_texts(TEXTS)
    # Six different texts, from the longest down.
    assert sum(rows for rows, _ in shapes) == 6 and len(shapes) > 3
    assert all(rows == 1 or rows * length <= 24 for rows, length in shapes)
    # Padding on the right changes nothing.
    assert distance(by_twos, expected) < 1e-5


def test_bulk_encoding_takes_it(folder, tiny_processor, tmp_path):
    exported = load_dual_encoder(folder)
    options = EncodingOptions(progress=False, cache_dir=tmp_path)
    features = encode_text_list(exported, TEXTS, options=options)
    np.testing.assert_allclose(features, exported.encode_texts(TEXTS).numpy(), atol=1e-6)
    ours = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    encode_text_list(ours, TEXTS, options=options)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2  # neither takes the other's features


def test_the_fingerprint_is_of_files_runtime_precision_and_processing(folder, exported_folder, precisions):
    encoders = [
        load_dual_encoder(folder),
        load_dual_encoder(folder, "openvino"),
        load_dual_encoder(folder, "openvino", torch.bfloat16),
        load_dual_encoder(exported_folder("resnet", "onnx")),
    ]
    fingerprints = {encoder.fingerprint for encoder in encoders}
    assert len(fingerprints) == 4 and encoders[0].fingerprint == load_dual_encoder(folder).fingerprint
    encoders[0].set_image_options(background_color="white")
    assert encoders[0].fingerprint not in fingerprints
    encoders[1].model.record["files"]["text_tower.onnx"]["sha256"] = "another"
    assert encoders[1].fingerprint not in fingerprints


def test_openvino_may_compute_in_bfloat16(folder, precisions):
    for dtype in ("bfloat16", torch.bfloat16):
        half = load_dual_encoder(folder, "openvino", dtype)
        assert half.dtype == torch.bfloat16 and half.name.endswith("(openvino, bfloat16)")
    assert precisions == ["bfloat16"] * 4  # two towers each
    assert load_dual_encoder(folder, "openvino").dtype == torch.float32 and precisions[4:] == ["float32"] * 2


@pytest.mark.parametrize("picks", [True, False])
def test_auto_is_bfloat16_where_it_is_faster(folder, precisions, monkeypatch, picks):
    monkeypatch.setattr(opening, "picks_bfloat16", lambda: picks)
    expected = torch.bfloat16 if picks else torch.float32
    assert load_dual_encoder(folder, "openvino", "auto").dtype == expected
    assert precisions == [str(expected).removeprefix("torch.")] * 2
    assert load_dual_encoder(folder, "onnx", "auto").dtype == load_dual_encoder(folder, dtype="auto").dtype
    assert load_dual_encoder(folder, dtype="auto").dtype == torch.float32


def test_a_pickled_encoder_opens_its_folder(folder, images):
    encoder = load_dual_encoder(folder)
    again = pickle.loads(pickle.dumps(encoder))
    assert (again.name, again.fingerprint) == (encoder.name, encoder.fingerprint)
    assert torch.equal(again.encode_images(images), encoder.encode_images(images))


def test_an_open_export_is_taken_as_it_is(folder, tiny_processor, images):
    first = load_dual_encoder(folder)
    again = load_dual_encoder(first.model, processor=tiny_processor)
    assert torch.equal(again.encode_images(images), first.encode_images(images)) and again.name == first.name
    with pytest.raises(TypeError, match="needs its processor"):
        load_dual_encoder(first.model)
    for options in ({"runtime": "openvino"}, {"dtype": "float32"}):
        with pytest.raises(ValueError, match="is open already, in onnx and float32: give its folder"):
            load_dual_encoder(first.model, processor=tiny_processor, **options)


# ---------------------------------------------------------------------------------------------------------- bad input


def load_nothing(*args, **kwargs):
    pytest.fail("a model was loaded")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "`runtime` is 'tensorrt'; it must be one of 'torch', 'onnx', 'openvino', or None"),
        ({"runtime": "onnx", "dtype": "int9"}, "`dtype` is 'int9'; it must be a floating dtype"),
        ({"runtime": "onnx", "dtype": "bfloat16"}, "ONNX Runtime does not compute in bfloat16"),
        ({"runtime": "onnx", "dtype": torch.bfloat16}, "or the dtype float32."),
        ({"runtime": "openvino", "dtype": "float16"}, "`dtype` is 'float16'; it must be one of float32, bfloat16."),
        ({"runtime": "onnx", "device": "cuda"}, "Exported models run on the processor only; `device` is 'cuda'"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(tiny_processor, monkeypatch, options, message):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(ClipHFModel, "from_pretrained", load_nothing)
    monkeypatch.setattr(checkpoints, "load", load_nothing)
    for model, processor in (("somewhere", None), (make_tiny_model("vit"), tiny_processor)):
        with pytest.raises(ValueError, match=re.escape(message)):
            load_dual_encoder(model, processor=processor, **options)


def test_a_processor_without_bfloat16_is_told(folder, monkeypatch):
    old = SimpleNamespace(has_bfloat16=False, describe=lambda: "a Pentium (none of the features)")
    monkeypatch.setattr(runtimes, "read_processor", lambda: old)
    with pytest.raises(ValueError, match="This processor, a Pentium"):
        load_dual_encoder(folder, "openvino", "bfloat16")


@pytest.mark.parametrize(("runtime", "module"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_its_extra(folder, tiny_processor, monkeypatch, runtime, module):
    monkeypatch.setitem(sys.modules, module, None)
    for model, processor in ((folder, None), (make_tiny_model("vit"), tiny_processor)):
        with pytest.raises(ImportError, match=rf"{module} is not installed. The extra `{runtime}` of clip_hf"):
            load_dual_encoder(model, runtime, processor=processor)


def test_pytorch_does_not_run_an_export(folder, monkeypatch):
    with pytest.raises(ValueError, match="is an exported model, which PyTorch does not run"):
        load_dual_encoder(folder, "torch")
    for device in ("cuda", "xpu:1", "gpu"):  # not only where there is one
        with pytest.raises(ValueError, match=f"^Exported models run on the processor only; `device` is '{device}'"):
            load_dual_encoder(folder, device=device)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert devices.parse_device("cuda") == torch.device("cuda")
    assert load_dual_encoder(folder).device.type == "cpu"  # although there is an accelerator
    with pytest.raises(ValueError, match="Exported models run on the processor only; `device` is 'cuda'"):
        load_dual_encoder(folder, device="cuda")


def test_torch_by_name_is_the_default(tiny_processor):
    model = make_tiny_model("vit")
    encoder = load_dual_encoder(model, "torch", processor=tiny_processor)
    assert encoder.model is model
    with pytest.raises(ValueError, match="A DualEncoder is used as it is"):
        load_dual_encoder(encoder, "onnx")


def test_a_model_of_another_library_is_not_exported():
    class Other(nn.Module):
        visual = nn.Identity()

        def encode_image(self, image):
            return image

        encode_text = encode_image

    processor = (lambda image: torch.ones(3, 8, 8), lambda texts: torch.ones(len(texts), 5, dtype=torch.long))
    with pytest.raises(ValueError, match="is run by another library, which `runtime='onnx'` cannot replace"):
        load_dual_encoder(Other(), "onnx", processor=processor)
