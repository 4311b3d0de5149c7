# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Int8 towers: what is rounded, what stays float32, and what it costs."""

import shutil

import onnx
import openvino
import pytest
import torch

from clip_hf.export import ClipHFExportedConfig
from clip_hf.export.exported_folder import TOWERS, tower_file
from clip_hf.export.parity_report import measure_parity
from clip_hf.export.quantizing import needs_calibration, quantize_towers
from clip_hf.export.runtime_sessions import kept_signal_stack, open_session
from clip_hf.export.tower_inputs import Samples
from tiny_models import make_tiny_model


# Images and texts: in smooth colours, as photos are; the tiny models' vocabulary has 600 tokens, 599 ends a text.
PIXELS = torch.nn.functional.interpolate(
    torch.randn(24, 3, 5, 5, generator=torch.Generator().manual_seed(0)), (64, 64)
)
IDS = torch.randint(0, 598, (8, 12), generator=torch.Generator().manual_seed(1))
IDS[:, -1] = 599


@pytest.fixture(scope="module")
def int8_folder(exported_folder, tmp_path_factory):
    """A function of tower and runtime: the folder of the tiny model, its towers in int8."""
    made = {}

    def quantized(tower: str, runtime: str):
        if (tower, runtime) not in made:
            folder = tmp_path_factory.mktemp("int8") / f"{tower}-{runtime}"
            shutil.copytree(exported_folder(tower, runtime), folder)
            config = ClipHFExportedConfig.from_pretrained(folder, precision="int8")
            calibration = Samples(PIXELS[::2], IDS[:0], True) if needs_calibration(config) else None
            quantize_towers(folder, config, calibration)
            made[tower, runtime] = folder
        return made[tower, runtime]

    return quantized


@pytest.mark.slow
@torch.no_grad()
def test_features_are_close(tower, tiny_model, runtime, int8_folder):
    # A tiny random ResNet, whose few channels differ much, loses more than a trained one.
    least = {"vit": 0.999, "resnet": 0.95}[tower]
    folder = int8_folder(tower, runtime)
    images, texts = (open_session(folder / tower_file(name, runtime), runtime, "int8") for name in TOWERS)
    compared = PIXELS[1::2]
    actual = torch.from_numpy(images("image_embeds", {"pixel_values": compared.numpy()}))
    parity = measure_parity(tiny_model.encode_image(compared), actual)
    assert least < parity.cosine_min < 0.9999999, parity  # they are int8
    actual = torch.from_numpy(texts("text_embeds", {"input_ids": IDS.numpy()}))
    parity = measure_parity(tiny_model.encode_text(IDS), actual)
    assert 0.999 < parity.cosine_min < 0.9999999, parity


def test_only_a_resnet_needs_images(exported_folder):
    for tower, precision, needs in (("vit", "int8", False), ("resnet", "int8", True), ("resnet", "float32", False)):
        config = ClipHFExportedConfig.from_pretrained(exported_folder(tower, "onnx"), precision=precision)
        assert needs_calibration(config) == needs


@pytest.mark.slow
def test_stem_and_shortcuts_stay_float32_in_onnx(int8_folder):
    graph = onnx.load(int8_folder("resnet", "onnx") / "image_tower.onnx").graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    plain = {name for name in weights if not name.endswith("_DequantizeLinear_Output")}
    stages = len(make_tiny_model("resnet").vision_model.encoder.stages)
    assert len(plain) == 3 + stages < len(weights)
    assert all(".stem." in name or ".shortcut." in name for name in plain)
    assert any(node.op_type == "MatMulInteger" for node in graph.node)


@pytest.mark.slow
def test_stem_and_shortcuts_stay_float32_in_openvino(int8_folder):
    model = openvino.Core().read_model(int8_folder("resnet", "openvino") / "image_tower.xml")
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    rounded = [node for node in convolutions if node.input_value(0).get_node().get_type_name() == "FakeQuantize"]
    plain = [node for node in convolutions if node not in rounded]
    stages = make_tiny_model("resnet").vision_model.encoder.stages
    assert len(plain) == 3 + len(stages) and len(rounded) == 3 * sum(len(stage.blocks) for stage in stages)
    shortcuts = sorted(stage.blocks[0].shortcut.conv.weight.shape for stage in stages)
    assert sorted(torch.Size(node.input_value(1).get_shape()) for node in plain[3:]) == shortcuts
    # Nothing but inputs of convolutions, and weights, is rounded.
    quantized = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    readers = {each.get_node().get_type_name() for node in quantized for each in node.output(0).get_target_inputs()}
    assert readers == {"Convolution"}


def test_openvino_alone_takes_ranges_from_inputs(int8_folder):
    """The option is in the file: whoever opens it needs to know nothing."""
    path = int8_folder("vit", "openvino") / "image_tower.xml"
    with kept_signal_stack():
        compiled = openvino.Core().compile_model(path, "CPU")
    assert int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 128
    constants = [node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    weights = {
        len(node.get_output_shape(0)): node for node in constants if max(node.get_output_shape(0), default=0) > 4
    }
    assert weights[2].get_element_type() == openvino.Type.i8  # of products
    assert weights[4].get_element_type() == openvino.Type.f32  # of the patches


def test_towers_that_are_open_can_be_replaced(exported_folder, tmp_path):
    """OpenVINO maps weights into memory: had their file been written into, the open towers would crash."""
    folder = tmp_path / "export"
    shutil.copytree(exported_folder("vit", "openvino"), folder)
    config = ClipHFExportedConfig.from_pretrained(folder, precision="int8")
    session = open_session(folder / "image_tower.xml", "openvino", "float32")
    before = session("image_embeds", {"pixel_values": PIXELS[:2].numpy()})
    with (folder / "image_tower.bin").open("rb") as file:
        content = file.read()
        quantize_towers(folder, config, None)
        file.seek(0)
        assert file.read() == content
    assert (session("image_embeds", {"pixel_values": PIXELS[:2].numpy()}) == before).all()


@pytest.mark.slow
def test_openvino_runs_int8_towers_of_onnx(int8_folder):
    path = int8_folder("vit", "onnx") / "image_tower.onnx"
    features = [
        torch.from_numpy(open_session(path, runtime, "int8")("image_embeds", {"pixel_values": PIXELS.numpy()}))
        for runtime in ("onnx", "openvino")
    ]
    assert measure_parity(*features).cosine_min > 0.999
