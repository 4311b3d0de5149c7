# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf env`: on this machine, and on made-up ones."""

import importlib.metadata
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from clip_hf.cli import env, main
from clip_hf.embedding import load_dual_encoder
from clip_hf.export import opening
from clip_hf.utils.processor import ProductTimes
from tiny_models import make_tiny_model


@pytest.fixture
def processor(monkeypatch):
    """Let the processor have bfloat16 or not, and products take 3 ms in float32, 1 ms in bfloat16."""

    def set_bfloat16(has_bfloat16: bool) -> None:
        info = SimpleNamespace(
            name="Pentium", vendor="Intel", cores=3, features={"avx2": None}, has_bfloat16=has_bfloat16
        )
        monkeypatch.setattr(env, "read_processor", lambda: info)
        monkeypatch.setattr(env, "time_products", lambda: ProductTimes(3e-3, 1e-3))
        monkeypatch.setattr(env, "pick_dtype", lambda device: torch.bfloat16 if has_bfloat16 else torch.float32)
        monkeypatch.setattr(opening, "picks_bfloat16", lambda: has_bfloat16)

    return set_bfloat16


def test_json_and_the_tables_say_the_same(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["machine", "torch", "dtype_auto", "runtimes", "versions"]
    assert facts["versions"]["torch"] == torch.__version__ and facts["machine"]["cores"] >= 1
    assert facts["dtype_auto"]["cpu"] in ("float32", "bfloat16")
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    for part, values in facts.items():
        assert part.replace("_", " ") in shown
        assert all(name in shown for name in values)
    assert facts["machine"]["processor"] in shown


@pytest.mark.slow
def test_what_is_shown_is_what_an_encoder_takes(exported_folder, tiny_processor, capsys):
    """On this machine, whatever it is."""
    assert main(["env", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["dtype_auto"]
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor, dtype="auto", device="cpu")
    assert str(encoder.dtype) == f"torch.{shown['cpu']}"
    for runtime in ("onnx", "openvino"):
        exported = load_dual_encoder(exported_folder("vit", "onnx"), runtime, "auto")
        assert str(exported.dtype) == f"torch.{shown[runtime]}" and exported.name.endswith(f", {shown[runtime]})")


def test_the_choice_is_shown_with_its_reason(processor, capsys):
    processor(True)
    assert env.describe_environment()["dtype_auto"] == {
        "cpu": "bfloat16",
        "onnx": "float32",
        "openvino": "bfloat16",
        "cpu_because": "a layer takes 1.00 ms in bfloat16, 3.00 ms in float32",
    }
    processor(False)
    chosen = env.describe_environment()["dtype_auto"]
    assert chosen["cpu"] == chosen["openvino"] == "float32" and "no native bfloat16" in chosen["cpu_because"]
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["avx2", "-"] for line in lines)
    assert any(line.split() == ["accelerators", "none"] for line in lines)


def test_packages_that_are_not_installed_are_none(monkeypatch):
    def not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(env.importlib.metadata, "version", not_found)
    facts = env.describe_environment()
    assert facts["runtimes"] == dict.fromkeys(("torch", "onnx", "openvino"), False)
    assert {name for name, version in facts["versions"].items() if version} == {"clip_hf", "python"}


def test_an_accelerator_is_named(processor, monkeypatch):
    processor(True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "GPU {}".format)
    facts = env.describe_environment()
    assert facts["machine"]["accelerators"] == ["cuda:0 GPU 0", "cuda:1 GPU 1"]
    assert facts["dtype_auto"]["cuda"] == "bfloat16"


@pytest.mark.slow
def test_it_needs_no_extra():
    """No optional package is imported."""
    code = """
import sys
from clip_hf.cli import main
assert main(["env"]) == 0
optional = {"datasets", "onnx", "onnxruntime", "openvino", "nncf", "ray", "pyarrow"}
print("imported:", sorted(optional & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.endswith("imported: []\n"), done.stdout + done.stderr
