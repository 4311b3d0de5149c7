# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The log: a line for each entry, none twice when a training is resumed, none that was cut off."""

import json

import pytest

from clip_hf.training import TrainingLog


@pytest.fixture
def log(tmp_path) -> TrainingLog:
    log = TrainingLog(tmp_path / "log.jsonl")
    log.start(0)
    for step in range(4):
        log.add({"step": step, "loss": 2.0 - step})
        if step % 2:
            log.add({"step": step + 1, "zero_shot_top1": 0.1 * step})
    return log


def test_entries_are_lines_and_floats_are_exact(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl")
    assert log.entries() == []
    log.start(0)
    entries = [{"step": 0, "loss": 0.1 + 0.2}, {"step": 1, "loss": 1 / 3}]
    for entry in entries:
        log.add(entry)
    assert log.entries() == entries == [json.loads(line) for line in log.path.read_text().splitlines()]


def test_a_new_training_starts_a_new_log(log):
    TrainingLog(log.path).start(0)
    assert log.path.exists() and log.entries() == []


@pytest.mark.parametrize(("step", "steps", "evaluations"), [(1, [0], []), (2, [0, 1], [2]), (3, [0, 1, 2], [2])])
def test_a_resumed_training_drops_what_will_be_done_again(step, steps, evaluations, log):
    log.start(step)
    entries = log.entries()
    assert [entry["step"] for entry in entries if "loss" in entry] == steps
    # An evaluation after two steps is not done again by a training that starts with step 2.
    assert [entry["step"] for entry in entries if "loss" not in entry] == evaluations


def test_a_line_that_was_cut_off_is_left_out_and_overwritten(log):
    whole = log.entries()
    with open(log.path, "a") as file:
        file.write('{"step": 4, "lo')
    assert log.entries() == whole
    log.start(4)
    log.add({"step": 4, "loss": 1.0})
    assert log.entries() == [*whole, {"step": 4, "loss": 1.0}]


def test_other_processes_write_nothing(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", active=False)
    log.start(0)
    log.add({"step": 0, "loss": 1.0})
    assert not log.path.exists()


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "[1]", "{}", '{"step": "1"}', "\ufffd", ""])
def test_a_damaged_line_is_named(line, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n' + line + "\n")
    with pytest.raises(ValueError, match="log.jsonl, line 2 is damaged"):
        TrainingLog(path).start(1)
