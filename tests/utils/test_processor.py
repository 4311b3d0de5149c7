# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What processors are read to be, and which dtype is picked: on made-up ones, because this one is of any kind."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from clip_hf.model import linear_clip_hf
from clip_hf.utils import dtypes, processor
from clip_hf.utils.dtypes import parse_dtype, parse_inference_dtype, pick_dtype
from clip_hf.utils.processor import ProcessorInfo, ProductTimes, picks_bfloat16, read_processor, time_products


ZEN5 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9655
flags\t\t: fpu avx2 avx512f avx_vnni avx512_bf16 avx512_vnni

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: another
flags\t\t: fpu
"""
OLD = "vendor_id : GenuineIntel\nmodel name : Intel(R) Xeon(R) E5-2690\nflags : fpu avx avx2\n"
GRAVITON3 = "processor : 0\nFeatures : fp asimd sve bf16 i8mm\nCPU implementer : 0x41\n"


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Callable[..., ProcessorInfo]:
    """Reads the processor of a machine whose `/proc/cpuinfo` holds a text, or that has none."""

    def read(text: str | None, capabilities: dict | None = None) -> ProcessorInfo:
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        known = SimpleNamespace() if capabilities is None else SimpleNamespace(get_capabilities=lambda: capabilities)
        monkeypatch.setattr(linear_clip_hf, "Path", lambda name: path if name == "/proc/cpuinfo" else None)
        monkeypatch.setattr(processor, "torch", SimpleNamespace(cpu=known))
        monkeypatch.setattr(processor.platform, "processor", lambda: "")
        return read_processor.__wrapped__()

    return read


def test_linux_says_what_an_x86_processor_has(machine):
    info = machine(ZEN5)
    assert (info.name, info.vendor) == ("AMD EPYC 9655", "AuthenticAMD")
    assert {name for name, value in info.features.items() if value} == {"avx2", "avx512", "avx512_bf16", "vnni"}
    assert info.has_bfloat16 and info.cores >= 1
    assert info.describe() == "AMD EPYC 9655 (avx2, avx512, avx512_bf16, vnni)"


def test_a_processor_without_bfloat16_is_none_with(machine):
    info = machine(OLD)
    assert info.features["avx2"] and not info.features["avx512"] and not info.has_bfloat16
    assert info.describe() == "Intel(R) Xeon(R) E5-2690 (avx2)"


def test_linux_says_what_an_arm_processor_has(machine):
    info = machine(GRAVITON3, {"cpu_name": "Neoverse V1"})
    assert (info.name, info.vendor, info.has_bfloat16) == ("Neoverse V1", "0x41", True)
    assert not machine(GRAVITON3.replace(" bf16", "")).has_bfloat16


def test_elsewhere_pytorch_says_it(machine):
    info = machine(None, {"avx2": True, "avx512_f": True, "amx_bf16": True, "architecture": "x86_64"})
    assert info.features == {
        **dict.fromkeys(("avx2", "avx512", "amx_bf16"), True),
        **dict.fromkeys(("avx512_bf16", "vnni", "arm_bf16"), False),
    }
    assert (info.name, info.vendor, info.has_bfloat16) == ("unknown", "unknown", True)


def test_what_nobody_says_is_unknown_and_not_picked(machine):
    info = machine(None)
    assert set(info.features.values()) == {None} and not info.has_bfloat16
    assert info.describe() == "unknown (features unknown)"


def test_this_machine_can_be_read():
    info = read_processor()
    assert info.cores >= 1 and info.name and read_processor() is info


def pick_on(monkeypatch, has_bfloat16: bool, float32: float, bfloat16: float) -> bool:
    """What is picked on a processor with these seconds a product."""

    def measure() -> ProductTimes:
        assert has_bfloat16, "emulated bfloat16 takes long: it must not be tried"
        return ProductTimes(float32, bfloat16)

    monkeypatch.setattr(processor, "read_processor", lambda: SimpleNamespace(has_bfloat16=has_bfloat16))
    monkeypatch.setattr(processor, "time_products", measure)
    return picks_bfloat16()


def test_bfloat16_must_be_native_and_clearly_faster(monkeypatch):
    assert pick_on(monkeypatch, True, 3e-3, 1e-3)
    assert not pick_on(monkeypatch, True, 1.2e-3, 1e-3)
    assert not pick_on(monkeypatch, True, 1e-3, 3e-3)
    assert not pick_on(monkeypatch, False, 3e-3, 1e-3)


def let_products_take(monkeypatch, seconds: dict[torch.dtype, float], quiet: int) -> list[torch.dtype]:
    """Let products take so long, and 5 ms more in all repetitions but one; returns the list of calls."""
    now, calls = [0.0], []

    def product(inputs: torch.Tensor, _) -> None:
        now[0] += seconds[inputs.dtype] + (0 if len(calls) // 2 == quiet else 5e-3)
        calls.append(inputs.dtype)

    monkeypatch.setattr(processor, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(processor, "nn", SimpleNamespace(functional=SimpleNamespace(linear=product)))
    return calls


def test_the_least_of_several_times_counts(monkeypatch):
    """Products in turns, of 2 ms and 1 ms; whatever else happens lengthens all but one of each."""
    calls = let_products_take(monkeypatch, {torch.float32: 2e-3, torch.bfloat16: 1e-3}, quiet=5)
    times = time_products.__wrapped__()
    assert times.float32 == pytest.approx(2e-3) and times.bfloat16 == pytest.approx(1e-3)
    # One to set things up, five until they are quiet, and as many as must show that they become no less.
    assert calls == [torch.float32, torch.bfloat16] * (1 + 5 + 9)


def test_a_machine_that_gets_ever_less_busy_is_measured_for_half_a_second(monkeypatch):
    now, calls = [0.0], []

    def product(inputs: torch.Tensor, _) -> None:
        calls.append(inputs.dtype)
        now[0] += 0.04 * 0.97 ** len(calls)

    monkeypatch.setattr(processor, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(processor, "nn", SimpleNamespace(functional=SimpleNamespace(linear=product)))
    monkeypatch.setattr(processor, "_BETTER", 1.0)
    times = time_products.__wrapped__()
    assert 0.5 < now[0] < 0.7 and times.bfloat16 == pytest.approx(0.04 * 0.97 ** len(calls))


def test_emulated_bfloat16_is_given_up(monkeypatch):
    calls = let_products_take(monkeypatch, {torch.float32: 1.0, torch.bfloat16: 300.0}, quiet=1)
    times = time_products.__wrapped__()
    assert times.bfloat16 > times.float32 and len(calls) == 4


def test_the_times_are_measured_once():
    times = time_products()
    assert 0 < times.float32 < 60 and 0 < times.bfloat16 < 60
    assert time_products() is times


@pytest.mark.parametrize(
    ("device", "bfloat16", "dtype"),
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda:1", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("mps", None, torch.float16),
        ("xpu", None, torch.bfloat16),
        ("meta", None, torch.float32),
    ],
)
def test_auto_is_what_a_device_has(monkeypatch, device, bfloat16, dtype):
    def on_cuda(including_emulation: bool) -> bool:
        assert not including_emulation
        return bfloat16

    monkeypatch.setattr(dtypes, "picks_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", on_cuda)
    assert pick_dtype(device) is parse_inference_dtype("auto", torch.device(device)) is dtype


def test_auto_without_a_device_is_for_the_best_there_is(monkeypatch):
    monkeypatch.setattr(dtypes, "pick_dtype", str)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert parse_inference_dtype("auto") == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert parse_inference_dtype("auto") == "cuda"


def test_other_dtypes_are_those_of_parse_dtype():
    for dtype in (None, "float16", torch.bfloat16):
        assert parse_inference_dtype(dtype, "cpu") is parse_dtype(dtype)
    for wrong in ("Auto", "int8", 3):
        with pytest.raises(ValueError, match="must be a floating dtype"):
            parse_inference_dtype(wrong)
    with pytest.raises(ValueError, match="must be a floating dtype"):
        parse_dtype("auto")  # training and conversion ask for one by its name
