# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What stops a training that diverges."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from clip_hf.training.loss_guard import LossGuard, TrainingDiverged


@dataclass
class Skipped:
    row: int
    reason: str


def batch() -> dict:
    pixels = torch.arange(24.0).reshape(2, 3, 2, 2)
    return {
        "pixel_values": pixels.to(memory_format=torch.channels_last),
        "input_ids": torch.tensor([[1, 2], [3, 4]]),
        "attention_mask": torch.ones(4, 2, dtype=torch.int64)[:2],
        "same_memory": pixels[0],
        "skipped": [Skipped(7, "truncated")],
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "grad_norm"])
def test_what_is_not_finite_stops_at_once(tmp_path, what, value):
    guard = LossGuard(tmp_path / "guard")
    guard.check(0, torch.tensor(4.0), batch(), torch.tensor(1.0))
    values = {"loss": 4.0, "grad_norm": 1.0, what: value}
    with pytest.raises(TrainingDiverged, match="step 1.*Its data lies in .*step_00000001") as caught:
        guard.check(1, values["loss"], batch(), values["grad_norm"], learning_rate=0.5)
    assert caught.value.step == 1
    assert isinstance(caught.value, RuntimeError)
    folder = caught.value.folder
    assert folder == tmp_path / "guard" / "step_00000001"
    assert sorted(path.name for path in folder.iterdir()) == ["rank_00000.json", "rank_00000.safetensors"]
    tensors = load_file(folder / "rank_00000.safetensors")
    expected = {name: tensor for name, tensor in batch().items() if name != "skipped"}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    record = json.loads((folder / "rank_00000.json").read_text(encoding="utf-8"))
    assert record["step"] == 1 and record["recent_losses"] == [4.0] and record["learning_rate"] == 0.5
    assert record["skipped"] == [{"row": 7, "reason": "truncated"}]


def losses(guard: LossGuard, values, start: int = 0) -> int | None:
    """The step at which the guard stops."""
    for step, value in enumerate(values, start=start):
        try:
            guard.check(step, value, {})
        except TrainingDiverged as error:
            return error.step
    return None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10.0 - 0.1 * k for k in range(90)], None),  # falls as it should
        ([2.0] * 60 + [5.9], None),
        ([2.0] * 60 + [6.1], 60),
        ([2.0] * 5 + [60.0] + [2.0] * 60, None),  # too few to judge by
        ([0.01] * 60 + [0.9], None),  # near 0 a multiple says nothing
        ([0.01] * 60 + [1.1], 60),
        ([-3.0] * 60 + [-2.1], None),  # a loss that is negative
        ([-3.0] * 60 + [-1.9], 60),
        ([2.0] * 60 + [5.0] * 150 + [10.0], None),  # the median follows
    ],
)
def test_spikes(tmp_path, values, expected):
    assert losses(LossGuard(tmp_path), values) == expected


def test_the_median_is_what_a_spike_is_measured_by(tmp_path):
    """Of 40 losses of 2 and 10 of 5.9 the median is 2, and the mean 2.78, by which 8 would be no spike."""
    values = [2.0] * 40 + [5.9] * 10
    guard = LossGuard(tmp_path)
    assert losses(guard, values) is None and guard.highest == 6.0
    assert losses(guard, [6.1], start=50) == 50
    # Of an even number the middle of the two.
    guard = LossGuard(tmp_path, window=10)
    assert losses(guard, [1.0] * 5 + [2.0] * 5) is None and guard.highest == 3 * 1.5


def test_options(tmp_path):
    assert losses(LossGuard(tmp_path, max_ratio=math.inf), [2.0] * 60 + [1e9]) is None
    assert losses(LossGuard(tmp_path, window=8), [2.0] * 8 + [6.1]) == 8
    assert losses(LossGuard(tmp_path, min_rise=5.0), [2.0] * 60 + [6.1]) is None
    for option in ({"max_ratio": 1.0}, {"window": 0}, {"min_rise": -1.0}, {"max_ratio": math.nan}):
        with pytest.raises(ValueError, match=f"`{next(iter(option))}` is"):
            LossGuard(tmp_path, **option)


def test_it_goes_on_where_it_was(tmp_path):
    guard = LossGuard(tmp_path)
    losses(guard, [2.0] * 60)
    other = LossGuard(tmp_path)
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.highest == guard.highest == 6.0
    assert losses(other, [6.1]) == 0


def test_it_stops_also_where_nothing_can_be_saved(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingDiverged, match="could not be saved in"):
        LossGuard(tmp_path / "file").check(3, math.nan, batch())
