# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The report of an export: what is a loss, what is slower, and which timings count."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from export_reports import report_of

from clip_hf.export import parity_report
from clip_hf.export.parity_report import TowerSpeed, measure_speeds


def test_what_counts_as_a_loss():
    report_of(0.999995).check()
    report_of(0.995, "int8").check()
    cures = {"float32": "another runtime", "bfloat16": "Use float32", "int8": "calibrate a ResNet on more images"}
    for cosine, precision in ((0.9999, "float32"), (0.998, "bfloat16"), (0.98, "int8"), (float("nan"), "int8")):
        with pytest.raises(ValueError, match=f"The {precision} towers differ.*{cures[precision]}, or accept it"):
            report_of(cosine, precision).check()


def test_what_is_slower_is_said():
    assert report_of(1.0).notes() == []
    assert "SLOWER than float32 in PyTorch on this processor (0.50 times" in report_of(1.0, ratio=0.5).notes()[0]
    speed = TowerSpeed("text", 1, 10.0, 20.0, float32_per_second=25.0)
    (note,) = replace(report_of(1.0, "int8"), speed=(speed,)).notes()
    assert "text tower at batch 1 is SLOWER than float32 in this runtime (onnx) on this processor (0.80 times" in note
    assert ("times PyTorch, batch 16", "0.50", "") in report_of(1.0, ratio=0.5).rows()
    assert report_of(1.0, ratio=0.951).notes() == []
    assert "(0.94 times its speed)" in report_of(1.0, ratio=0.94).notes()[0]


def timed(monkeypatch, *sides: list[float]) -> list[float | None]:
    """Speeds at batch 4 of sides whose passes take these seconds; each round has an untimed pass first."""
    now = 0.0

    def side(seconds):
        passes = iter([each for own in seconds for each in (9.0, own)])

        def run(batch):
            nonlocal now
            assert len(batch) == 4
            now += next(passes)

        return run

    def sleep(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(parity_report, "time", SimpleNamespace(perf_counter=lambda: now, sleep=sleep))
    monkeypatch.setattr(parity_report, "_MAX_SECONDS", 1000.0)
    return measure_speeds([side(seconds) for seconds in sides], torch.zeros(3, 1), 4)


def test_timings_that_scatter_are_no_speed(monkeypatch):
    steady, one_late, scattered = [2.0, 2.0, 2.1, 2.2, 2.0], [2.0, 2.0, 2.0, 2.0, 9.0], [1.5, 2.0, 2.2, 1.4, 2.4]
    assert timed(monkeypatch, steady, one_late, scattered) == [2.0, 2.0, None]


def test_the_fastest_round_counts_if_others_do_not_scatter_from_it(monkeypatch):
    """Other programs only lengthen a pass: a side that they slow in all rounds but one must not look slow."""
    assert timed(monkeypatch, [2.4, 2.4, 2.0, 2.4, 2.4], [9.0, 9.0, 9.0, 2.0, 9.0]) == [2.0, None]


def test_a_single_round_is_taken(monkeypatch):
    speeds = timed(monkeypatch, [2000.0])
    assert speeds == [4 / 2000]


def test_what_scatters_is_left_out_and_said():
    report = report_of(1.0, "int8")
    slow = TowerSpeed("image", 16, torch_per_second=None, exported_per_second=8.0, float32_per_second=10.0)
    report = replace(report, speed=(slow, TowerSpeed("text", 16, 1.0, None, None)))
    slower, left_out = report.notes()
    assert "image tower at batch 16 is SLOWER than float32 in this runtime (onnx)" in slower
    assert left_out == (
        "Speeds whose timings scattered by more than 25% are left out; export on an idle machine to have them."
    )
    assert report.rows()[4:] == [("a second, batch 16", "8.0", "")]  # no row of blanks
    assert [each["ratio"] for each in report.to_dict()["speed"]] == [None, None]
    for name in ("torch_per_second", "exported_per_second", "float32_per_second"):
        speed = replace(TowerSpeed("text", 1, 9.0, 9.0, 9.0), **{name: None})
        assert replace(report, speed=(speed,)).notes() == [left_out]
