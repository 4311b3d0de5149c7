# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints that are whole, or not there; and the same on all processes."""

import json
import random
import resource
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from clip_hf.training.checkpoints import Checkpoints
from several_processes import run_processes


class Training:
    """A small model with BatchNorm, its optimiser and schedule, on whatever processes there are."""

    def __init__(self, features: int = 6, compile_it: bool = False):
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True)
        model = nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        if compile_it:
            model = torch.compile(model, backend="eager")
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer.optimizer, lambda step: 0.9**step)
        self.accelerator.register_for_checkpointing(self.schedule)

    def step(self, number: int) -> float:
        generator = torch.Generator().manual_seed(number)
        batch = torch.randn(12, 6, generator=generator)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        loss = self.model(batch.chunk(processes)[rank]).square().mean()
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    def weights(self) -> dict:
        return {name: value.clone() for name, value in self.accelerator.unwrap_model(self.model).state_dict().items()}

    def save(self, checkpoints: Checkpoints, step: int) -> Path:
        own = {"rows": [step, self.accelerator.process_index]}
        return checkpoints.save(self.accelerator, step, shared={"best": 0.25 * step}, per_process=own)


@pytest.fixture
def training() -> Training:
    return Training()


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_training_goes_on_to_the_last_bit(training, checkpoints):
    for number in range(3):
        training.step(number)
    path = training.save(checkpoints, 3)
    assert path == checkpoints.folder / "step_00000003"
    expected = [training.step(number) for number in range(3, 6)], training.weights()
    other = Training()
    restored = checkpoints.restore(other.accelerator)
    assert (restored.step, restored.path, restored.num_processes) == (3, path, 1)
    assert restored.shared == {"best": 0.75}
    assert restored.per_process == {"rows": [3, 0]}
    losses, weights = [other.step(number) for number in range(3, 6)], other.weights()
    assert losses == expected[0]
    for name, value in expected[1].items():
        assert torch.equal(weights[name], value)


def test_what_is_shared_comes_back(training, checkpoints):
    shared = {
        "tensor": torch.arange(3.0, requires_grad=True),
        "ordered": OrderedDict(a=1, b=[None, True, "text", b"bytes"]),
        3: (1.5, float("inf")),
    }
    checkpoints.save(training.accelerator, 1, shared=shared, per_process={})
    found = checkpoints.restore(training.accelerator).shared
    assert torch.equal(found.pop("tensor"), torch.arange(3.0))
    assert found == {"ordered": {"a": 1, "b": [None, True, "text", b"bytes"]}, 3: (1.5, float("inf"))}


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"log": [{"loss": np.float64(1.0)}]}, r"shared\['log'\]\[0\]\['loss'\] is of type float64"),
        ({"path": Path(".")}, r"shared\['path'\] is of type PosixPath"),
        ({("a", "b"): 1}, r"shared has the key \('a', 'b'\) of type tuple"),
    ],
)
def test_what_could_not_be_read_back_is_refused(training, checkpoints, shared, message):
    with pytest.raises(TypeError, match=message):
        checkpoints.save(training.accelerator, 1, shared=shared, per_process={})
    assert not checkpoints.folder.exists()


def test_the_newest_stay(training, checkpoints):
    for step in (1, 2, 3, 10):
        training.save(checkpoints, step)
    assert names(checkpoints) == ["step_00000003", "step_00000010"]
    # Back to an earlier step: what is written from there on is newer than step 10.
    assert checkpoints.restore(training.accelerator, "step_00000003").step == 3
    training.save(checkpoints, 4)
    assert names(checkpoints) == ["step_00000004", "step_00000010"]
    assert checkpoints.restore(training.accelerator).step == 4
    training.save(checkpoints, 4)
    assert names(checkpoints) == ["step_00000004", "step_00000010"]
    with pytest.raises(ValueError, match="`keep` is 0"):
        Checkpoints(checkpoints.folder, keep=0)


def _remove(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = [
    ("accelerate/model.safetensors", _remove, "accelerate/model.safetensors is missing"),
    ("accelerate/optimizer.bin", _truncate, r"accelerate/optimizer.bin has [\d,]+ bytes instead of [\d,]+"),
    ("accelerate/model.safetensors", _flip, "accelerate/model.safetensors is not what was written"),
    ("process_00000.pt", _flip, "process_00000.pt is not what was written"),
    ("manifest.json", _remove, "without a manifest"),
    ("manifest.json", _truncate, "without a manifest"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_a_damaged_one_is_passed_over(training, checkpoints, name, damage, message):
    training.save(checkpoints, 1)
    path = training.save(checkpoints, 2)
    if name == "manifest.json" and damage is _truncate:
        (path / name).write_text("{", encoding="utf-8")
    else:
        damage(path / name)
    with pytest.warns(RuntimeWarning, match=f"{path} is damaged .*{message}.*passed over"):
        assert checkpoints.restore(training.accelerator).step == 1
    with pytest.raises(OSError, match="step_00000002 cannot be used: .*In .*: step_00000001"):
        checkpoints.restore(training.accelerator, path)
    # The good one is still there once a new one is whole, and its place may be taken again.
    training.save(checkpoints, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.restore(training.accelerator).step == 2


def test_all_damaged_is_an_error_and_none_is_a_fresh_start(training, checkpoints):
    assert checkpoints.restore(training.accelerator) is None
    for step in (1, 2):
        _flip(training.save(checkpoints, step) / "shared.pt")
    with pytest.raises(OSError, match="No checkpoint in .* is whole: .*step_00000002.*shared.pt.*; .*step_00000001"):
        checkpoints.restore(training.accelerator)
    with pytest.raises(OSError, match="step_00000009 cannot be used: the folder is missing"):
        checkpoints.restore(training.accelerator, "step_00000009")


def test_another_model_is_refused(training, checkpoints):
    training.save(checkpoints, 1)
    with pytest.raises(ValueError, match="is whole, but does not fit this training"):
        checkpoints.restore(Training(features=7).accelerator)


def test_leftovers_of_a_killed_process_go(training, checkpoints):
    training.save(checkpoints, 1)
    for name in (".step_00000002.tmp", ".step_00000000.0123.old"):
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / "file").write_text("half")
    assert checkpoints.restore(training.accelerator).step == 1
    assert names(checkpoints) == ["step_00000001"]


@contextmanager
def small_files(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 2000, 5000])
def test_a_full_disk_leaves_the_one_before(training, checkpoints, size):
    training.save(checkpoints, 1)
    with small_files(size), pytest.raises(OSError, match="step 2 could not be written in .*untouched"):
        training.save(checkpoints, 2)
    assert names(checkpoints) == ["step_00000001"]
    assert checkpoints.restore(training.accelerator).step == 1
    training.save(checkpoints, 2)
    assert checkpoints.restore(training.accelerator).step == 2


def test_a_compiled_model_and_a_plain_one_share_checkpoints(checkpoints):
    compiled = Training(compile_it=True)
    compiled.step(0)
    compiled.save(checkpoints, 1)
    plain = Training()
    checkpoints.restore(plain.accelerator)
    for name, value in plain.weights().items():
        assert torch.equal(compiled.weights()[f"_orig_mod.{name}"], value)


def _two_processes(rank: int, folder: Path) -> dict:
    checkpoints = Checkpoints(folder / "checkpoints")
    training = Training()
    results = {"one": checkpoints.restore(training.accelerator)}  # of one process
    results["one_weights"] = {name: value.numpy() for name, value in training.weights().items()}
    training.step(1)
    random.seed(rank), torch.manual_seed(rank)
    training.save(checkpoints, 2)
    results["draws"] = random.random(), torch.rand(()).item()
    expected, weights = training.step(2), training.weights()
    training.save(checkpoints, 3)
    if rank == 0:
        _flip(checkpoints.folder / "step_00000003" / "process_00001.pt")
    training.accelerator.wait_for_everyone()
    other = Training()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results["two"] = checkpoints.restore(other.accelerator)
    results["warnings"] = [str(one.message) for one in caught if "passed over" in str(one.message)]
    results["draws_again"] = random.random(), torch.rand(()).item()
    results["same"] = other.step(2) == expected
    results["same_weights"] = all(torch.equal(value, weights[name]) for name, value in other.weights().items())
    # The disk is full for one process only.
    try:
        with small_files(100 if rank == 1 else 10**9):
            training.save(checkpoints, 4)
    except OSError as error:
        results["error"] = str(error)
    results["names"] = names(checkpoints)
    try:
        checkpoints.save(training.accelerator, 5, shared={}, per_process={"path": Path(".") if rank else "."})
    except TypeError as error:
        results["type_error"] = str(error)
    return results


def test_two_processes_and_one(tmp_path):
    one = Training()
    one.step(0)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    one.save(checkpoints, 1)
    results = run_processes(_two_processes, 2, tmp_path / "results", tmp_path)
    for rank, result in enumerate(results):
        # One process's checkpoint onto two.
        assert result["one"].step == 1 and result["one"].per_process is None and result["one"].num_processes == 1
        assert result["one"].shared == {"best": 0.25}
        assert all(np.array_equal(value, one.weights()[name].numpy()) for name, value in result["one_weights"].items())
        assert result["two"].step == 2 and result["two"].per_process == {"rows": [2, rank]}
        assert result["same"] and result["same_weights"]
        assert result["draws"] == result["draws_again"]
        assert "step 4 could not be written" in result["error"]
        assert "per_process['path'] is of type PosixPath" in result["type_error"]
        assert result["names"] == ["step_00000002", "step_00000003"]
    assert ["step_00000003 is damaged" in text for text in results[0]["warnings"]] == [True]
    assert results[1]["warnings"] == []
    # Two processes' checkpoint onto one.
    with pytest.warns(RuntimeWarning, match="step_00000003 is damaged"):
        restored = checkpoints.restore(one.accelerator)
    assert (restored.step, restored.per_process, restored.num_processes) == (2, None, 2)
    manifest = json.loads((restored.path / "manifest.json").read_text(encoding="utf-8"))
    assert {"process_00000.pt", "process_00001.pt", "shared.pt"} < set(manifest["files"])
