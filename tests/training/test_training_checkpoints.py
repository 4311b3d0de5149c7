# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints that are whole, or not there; and the same on all processes."""

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator, DistributedType
from torch import nn

from clip_hf.training.checkpoint_files import foreign_names, names_in, pickles_among, sha256_of_manifest
from clip_hf.training.training_checkpoints import Checkpoints, Restored
from clip_hf.utils.atomic import set_aside
from file_limits import longest_file
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
        shared = {"best": 0.25 * step, "schedule": self.schedule.state_dict()}
        return checkpoints.save(self.accelerator, step, shared=shared, per_process=own)

    def restore(self, checkpoints: Checkpoints, which: str = "latest") -> Restored | None:
        restored = checkpoints.restore(self.accelerator, which)
        self.schedule.load_state_dict(restored.shared.pop("schedule"))
        return restored


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
    restored = other.restore(checkpoints)
    assert (restored.step, restored.path) == (3, path)
    assert restored.shared == {"best": 0.75}
    assert restored.per_process == {"rows": [3, 0]}
    losses, weights = [other.step(number) for number in range(3, 6)], other.weights()
    assert losses == expected[0]
    for name, value in expected[1].items():
        assert torch.equal(weights[name], value)


def test_the_count_of_accumulated_batches_is_that_of_the_first_process(training, checkpoints, monkeypatch):
    """A process that was not there when the checkpoint was saved gets it from the first one."""
    training.save(checkpoints, 1)

    def told(values: list) -> None:
        if isinstance(values[0], int):
            values[:] = [7]

    monkeypatch.setattr("clip_hf.training.training_checkpoints.broadcast_object_list", told)
    training.restore(checkpoints)
    assert training.accelerator.step == 7


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


def test_a_path_is_taken_as_it_is_and_only_a_name_is_looked_for_here(training, checkpoints, monkeypatch):
    path = training.save(checkpoints, 3)
    monkeypatch.chdir(path.parents[1])
    relative = path.relative_to(path.parents[1])
    for named in (path.name, relative, str(relative), f"./{relative}", path):
        assert checkpoints.restore(training.accelerator, named).path == path
    gone = relative.with_name("step_00000009")
    with pytest.raises(OSError, match=f"^The checkpoint {gone} cannot be used: .* there are: step_00000003"):
        checkpoints.restore(training.accelerator, gone)


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


@pytest.mark.parametrize("name", ["step_00000001", "step_00000002"])
def test_one_that_was_set_aside_when_the_process_was_killed_is_put_back(name, training, checkpoints):
    for step in (1, 2):
        training.save(checkpoints, step)
    aside = set_aside(checkpoints.folder / name)
    (checkpoints.folder / f".{name}.tmp").mkdir()
    assert aside.name.startswith(f".{name}.") and names(checkpoints)[:2] == sorted([aside.name, f".{name}.tmp"])
    assert checkpoints.restore(training.accelerator).step == 2
    assert names(checkpoints) == ["step_00000001", "step_00000002"]


# Saves step 2 again and then step 3, which removes step 1, in a fresh process each time: the first dies at its first
# call that renames or removes, the second at its second, and so on.
KILLED = """
import os, shutil, sys, warnings
from pathlib import Path
import torch
from accelerate import Accelerator
from clip_hf.training import Checkpoints
warnings.simplefilter("error", RuntimeWarning)
accelerator = Accelerator(cpu=True)
model = accelerator.prepare(torch.nn.Linear(2, 2))
def save(folder, step, value):
    Checkpoints(folder).save(accelerator, step, shared={"value": value}, per_process={})
def deadly(function, calls):
    def call(*arguments, **keywords):
        calls.append(None)
        if len(calls) == number:
            os._exit(9)
        return function(*arguments, **keywords)
    return call
start = Path(sys.argv[1]) / "start"
for step in (1, 2):
    save(start, step, "old")
for number in range(1, 60):
    folder = Path(sys.argv[1]) / str(number)
    shutil.copytree(start, folder)
    child = os.fork()
    if child == 0:
        calls = []
        for module, name in ((os, "rename"), (shutil, "rmtree")):
            setattr(module, name, deadly(getattr(module, name), calls))
        for step in (2, 3):
            save(folder, step, "new")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    restored = Checkpoints(folder).restore(accelerator)
    names = ",".join(sorted(path.name.removeprefix("step_0000000") for path in folder.iterdir()))
    print(number, code, restored.step, restored.shared["value"], names, flush=True)
    if code == 0:
        break
"""


@pytest.mark.slow
def test_a_kill_at_any_point_of_a_save_leaves_two_whole_checkpoints(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line[1] for line in lines] == ["9"] * (len(lines) - 1) + ["0"]
    found = [line[2:] for line in lines]
    stages = [["2", "old", "1,2"], ["2", "new", "1,2"], ["3", "new", "1,2,3"], ["3", "new", "2,3"]]
    assert [stages.index(one) for one in found] == sorted(stages.index(one) for one in found)
    assert found[0] == stages[0] and found[-1] == stages[-1] and stages[1] in found and len(found) > 6


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def forge(path: Path, name: str, content: bytes, listed: bool = True) -> None:
    """Put a file into a checkpoint, with a manifest that fits."""
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).unlink(missing_ok=True)
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    if listed:
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": sha256_of_manifest(manifest)}))


def torch_file(content: object, zipped: bool = True) -> bytes:
    with io.BytesIO() as file:
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        return file.getvalue()


def compressed(content: bytes, more: int = 0) -> bytes:
    """A file of torch's with all in it compressed, and `more` zeros after each tensor."""
    with zipfile.ZipFile(io.BytesIO(content)) as old, io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name) + bytes(more if "/data/" in name else 0))
        return file.getvalue()


@pytest.mark.parametrize("content", [{"text": "x" * 2_000_000}, {"tensor": torch.zeros(10)}])
def test_a_compressed_file_is_not_unpacked(content, training, checkpoints):
    path = training.save(checkpoints, 1)
    forge(path, "shared.pt", compressed(torch_file(content), more=2_000_000))
    with pytest.raises(ValueError, match="holds shared.pt, which this training did not write.*it is compressed"):
        checkpoints.restore(training.accelerator)


# What we write, and what Accelerate, torch and DeepSpeed read besides.
FORGED = [
    "shared.pt",
    "process_00000.pt",
    "accelerate/optimizer.bin",
    "accelerate/scheduler.bin",
    "accelerate/scaler.pt",
    "accelerate/random_states_0.pkl",
    "accelerate/random_states_7.pkl",
    "accelerate/pytorch_model_fsdp.bin",
    "accelerate/model.safetensors",
    "accelerate/custom_checkpoint_0.pkl",
    "accelerate/sampler.bin",
    "accelerate/dl_state_dict.bin",
    "accelerate/pytorch_model.bin",
    "accelerate/pytorch_model_fsdp_0/.metadata",
    "accelerate/optimizer_0/__0_0.distcp",
    "accelerate/pytorch_model/mp_rank_00_model_states.pt",
    "accelerate/latest",
    "code.py",
]


# What DeepSpeed (ZeRO 1 to 3) and FSDP write.
PICKLED = [
    "accelerate/pytorch_model/mp_rank_00_model_states.pt",
    "accelerate/pytorch_model/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "accelerate/pytorch_model/zero_pp_rank_1_mp_rank_00_model_states.pt",
    "accelerate/pytorch_model_fsdp_0/.metadata",
    "accelerate/optimizer_0/__0_0.distcp",
    "accelerate/pytorch_model_fsdp_rank0.bin",
]


@pytest.mark.parametrize("name", PICKLED)
def test_pickles_of_a_backend_are_saved_and_read_if_trusted(name, training, checkpoints, tmp_path, monkeypatch):
    """Accelerate with a backend that writes, and reads, a file more."""
    save_state, load_state = training.accelerator.save_state, training.accelerator.load_state
    marker = tmp_path / "executed"

    def save(folder):
        save_state(folder)
        file = Path(folder).parent / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(pickle.dumps(Marker(marker)))

    def load(folder):
        load_state(folder)
        pickle.loads((Path(folder).parent / name).read_bytes())

    monkeypatch.setattr(training.accelerator, "save_state", save)
    monkeypatch.setattr(training.accelerator, "load_state", load)
    path = training.save(checkpoints, 1)
    for which in ("latest", path):
        with pytest.raises(ValueError, match=f"holds {name}: pickles, which can run programs.* --trust_checkpoint"):
            checkpoints.restore(training.accelerator, which)
    assert not marker.exists()
    assert checkpoints.restore(training.accelerator, trusted=True).step == 1 and marker.exists()
    # Trust is in those alone, and not in damaged ones.
    forge(path, "accelerate/custom_checkpoint_0.pkl", b"", listed=False)
    with pytest.raises(ValueError, match="holds accelerate/custom_checkpoint_0.pkl"):
        checkpoints.restore(training.accelerator, trusted=True)
    (path / "accelerate/custom_checkpoint_0.pkl").unlink()
    _flip(path / name)
    with pytest.raises(OSError, match=f"No checkpoint in .* is whole: .*{name} is not what was written"):
        checkpoints.restore(training.accelerator, trusted=True)


def test_shards_of_torch_are_known_and_deepspeed_finds_its_own(training, checkpoints, monkeypatch):
    path = training.save(checkpoints, 1)
    shards = path / "accelerate" / "pytorch_model_fsdp_0"
    dcp.save({"model": training.model.state_dict()}, checkpoint_id=shards, no_dist=True)
    found = [file for file in names_in(path) if "fsdp" in file]
    assert len(found) == 2 and pickles_among(found) == found and not foreign_names(names_in(path))
    shutil.rmtree(shards)
    # It would train on from new weights without a word.
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match=r"does not fit this training \(it was not saved with DeepSpeed\)"):
        checkpoints.restore(training.accelerator, trusted=True)


@pytest.mark.parametrize("name", FORGED)
def test_a_pickle_of_someone_else_is_not_executed(name, training, checkpoints, tmp_path):
    """Neither passed over nor read, whether asked for or the latest."""
    training.save(checkpoints, 1)
    path = training.save(checkpoints, 2)
    marker = Marker(tmp_path / "executed")
    message = "step_00000002 " + ("is whole, but does not fit" if name.endswith(".safetensors") else "holds")
    for content in (pickle.dumps(marker), torch_file({"step": marker}), torch_file({"step": marker}, zipped=False)):
        forge(path, name, content)
        for which in ("latest", path):
            with pytest.raises(ValueError, match=message):
                checkpoints.restore(training.accelerator, which)
    assert not (tmp_path / "executed").exists()


def test_a_registered_object_is_refused_when_it_is_saved(training, checkpoints):
    training.save(checkpoints, 1)
    training.accelerator.register_for_checkpointing(training.schedule)
    with pytest.raises(ValueError, match=r"wrote accelerate/custom_checkpoint_0.pkl.*in `shared` instead"):
        training.save(checkpoints, 2)
    assert names(checkpoints) == ["step_00000001"]


STATES = [
    [1, 2],
    {},
    {"step": 1},
    {"step": 1, "random_state": (3, (1, 2), None), "numpy_random_seed": (), "torch_manual_seed": torch.zeros(3)},
]


@pytest.mark.parametrize("states", STATES)
def test_random_states_that_would_be_ignored_are_an_error(states, training, checkpoints):
    path = training.save(checkpoints, 1)
    forge(path, "accelerate/random_states_0.pkl", torch_file(states))
    with pytest.raises(ValueError, match="holds accelerate/random_states_0.pkl, which this training did not write"):
        checkpoints.restore(training.accelerator)


@pytest.mark.parametrize("name", ["shared.pt", "accelerate/optimizer.bin", "manifest.json", "accelerate", "more"])
def test_links_and_pipes_are_not_opened(name, training, checkpoints, tmp_path):
    path = training.save(checkpoints, 1)
    if name == "more":
        os.mkfifo(path / name)
    else:
        os.rename(path / name, tmp_path / "elsewhere")
        (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"step_00000001 holds {name}, which"):
        checkpoints.restore(training.accelerator)


def _change(**changes):
    return lambda manifest: json.dumps({**manifest, **changes})


def _add_file(name: str, described: object):
    return lambda manifest: json.dumps({**manifest, "files": {**manifest["files"], name: described}})


WHAT = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
MANIFESTS = [
    (lambda manifest: "[" * 100_000, "manifest.json cannot be used"),
    (lambda manifest: '{"step": ' * 100_000 + "1" + "}" * 100_000, "manifest.json cannot be used"),
    (lambda manifest: '{"step": 1' + "0" * 10_000 + "}", "manifest.json cannot be used"),
    (lambda manifest: " " * (17 * 2**20), "no regular file of up to 16 MiB"),
    (lambda manifest: "[]", "the manifest is of type list"),
    (_change(step=3), "its own SHA-256 differs"),
    (_change(number=0), "its own SHA-256 differs"),
    (_add_file("accelerate/scaler.pt", WHAT), "its own SHA-256 differs"),
    (_change(step="1"), r"the manifest\['step'\] is of type str"),
    (_change(number=True), r"the manifest\['number'\] is of type bool"),
    (_change(step=-1), "a number in it is out of its range"),
    (_change(num_processes=0), "a number in it is out of its range"),
    (_change(num_processes=10**9), "a number in it is out of its range"),
    (_change(num_processes=2), "does not list process_00001.pt"),
    (_change(files=[]), r"the manifest\['files'\] is of type list"),
    (_change(files={}), "does not list shared.pt"),
    (_add_file("shared.pt", None), r"\['shared.pt'\] is of type NoneType"),
    (_add_file("shared.pt", ["size", "sha256"]), r"\['shared.pt'\] is of type list"),
    (_add_file("shared.pt", {"size": 1.5, "sha256": ""}), r"\['shared.pt'\]\['size'\] is of type float"),
    (_add_file("shared.pt", {"size": 1}), r"\['shared.pt'\] lacks 'sha256'"),
    (_add_file("shared.pt", {"size": 1, "sha256": {}}), r"\['shared.pt'\]\['sha256'\] is of type dict"),
    (_add_file("../secret", WHAT), "lists '../secret', which no checkpoint has"),
    (_add_file("/etc/passwd", WHAT), "lists '/etc/passwd', which no checkpoint has"),
    (_add_file("accelerate/../../../secret", WHAT), "which no checkpoint has"),
    (_add_file("shared.pt\n", WHAT), "which no checkpoint has"),
    (_add_file("", WHAT), "lists '', which no checkpoint has"),
]


@pytest.mark.parametrize(("change", "message"), MANIFESTS)
def test_a_damaged_manifest_is_passed_over_and_opens_nothing_else(change, message, training, checkpoints, monkeypatch):
    training.save(checkpoints, 1)
    path = training.save(checkpoints, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(change(manifest))
    with pytest.warns(RuntimeWarning, match="step_00000002 is damaged .*passed over"):
        assert checkpoints.restore(training.accelerator).step == 1
    with pytest.raises(OSError, match=f"step_00000002 cannot be used: .*{message}"):
        checkpoints.restore(training.accelerator, path)


def test_a_file_that_the_manifest_leaves_out_is_not_read(training, checkpoints):
    training.save(checkpoints, 1)
    path = training.save(checkpoints, 2)
    forge(path, "accelerate/scaler.pt", b"", listed=False)
    with pytest.warns(RuntimeWarning, match="step_00000002 is damaged .*does not list accelerate/scaler.pt"):
        assert checkpoints.restore(training.accelerator).step == 1


@pytest.mark.parametrize("size", [100, 2000, 5000])
def test_a_full_disk_leaves_the_one_before(training, checkpoints, size):
    training.save(checkpoints, 1)
    with longest_file(size), pytest.raises(OSError, match="step 2 could not be written in .*untouched"):
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
    results = {"one": training.restore(checkpoints)}  # of one process
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
        results["two"] = other.restore(checkpoints)
    results["warnings"] = [str(one.message) for one in caught if "passed over" in str(one.message)]
    results["draws_again"] = random.random(), torch.rand(()).item()
    results["same"] = other.step(2) == expected
    results["same_weights"] = all(torch.equal(value, weights[name]) for name, value in other.weights().items())
    # The disk is full for one process only.
    try:
        with longest_file(100 if rank == 1 else 10**9):
            training.save(checkpoints, 4)
    except OSError as error:
        results["error"] = str(error)
    results["names"] = names(checkpoints)
    try:
        checkpoints.save(training.accelerator, 5, shared={}, per_process={"path": Path(".") if rank else "."})
    except TypeError as error:
        results["type_error"] = str(error)
    return results


@pytest.mark.slow
def test_two_processes_and_one(tmp_path):
    one = Training()
    one.step(0)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    one.save(checkpoints, 1)
    results = run_processes(_two_processes, 2, tmp_path / "results", tmp_path)
    for rank, result in enumerate(results):
        # One process's checkpoint onto two.
        assert result["one"].step == 1 and result["one"].per_process is None
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
    assert (restored.step, restored.per_process) == (2, None)
    manifest = json.loads((restored.path / "manifest.json").read_text(encoding="utf-8"))
    assert {"process_00000.pt", "process_00001.pt", "shared.pt"} < set(manifest["files"])
