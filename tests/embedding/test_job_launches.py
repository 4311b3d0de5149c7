# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf embed` as launchers and schedulers run it: torchrun, and SLURM's script with a SLURM that is not there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from encoding_inputs import files_in, write_model_and_photos


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "launch" / "embed_slurm.sh"
ROWS = 60
SMALL = ("--rows-per-part", "1", "--batch-size", "1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# An interpreter that says how it was called, and waits until it is told to end or to go on.
FAKE_PYTHON = """\
#!/bin/bash
echo "$@" >> "$CALLS"
[[ -z ${WAIT:-} ]] || exec sleep 30
exit "${STATUS:-0}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_processor) -> Path:
    """A folder with `model`, and images in `photos`."""
    return write_model_and_photos(tmp_path_factory.mktemp("launches"), tiny_processor, ROWS)


@pytest.fixture
def slurm(tmp_path):
    """Runs SLURM's script with the variables of a job; its calls of `python` and `scontrol` are written to `calls`."""
    for name in ("python", "scontrol"):
        (tmp_path / name).write_text(
            FAKE_PYTHON if name == "python" else '#!/bin/bash\necho scontrol "$@" >> "$CALLS"\n'
        )
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}

    def start(**variables: str) -> subprocess.Popen:
        environment = {**kept, "PATH": path, "CALLS": f"{tmp_path}/calls", "SLURM_JOB_ID": "70", **variables}
        return subprocess.Popen(["bash", SCRIPT, "a b", "c"], env=environment, stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(
    ("array", "shard"),
    [
        # identity, first, last, step, jobs
        ((0, 0, 3, 1, 4), "0/4"),
        ((3, 0, 3, 1, 4), "3/4"),
        ((1, 1, 4, 1, 4), "0/4"),
        ((4, 1, 4, 1, 4), "3/4"),
        ((6, 2, 8, 2, 4), "2/4"),
        ((7, 7, 7, 1, 1), "0/1"),
        (None, "0/1"),
        ((7, 1, 7, 1, 3), None),
    ],
)
def test_shares_of_any_array_count_from_zero(array, shard, slurm, tmp_path):
    names = ("ID", "MIN", "MAX", "STEP", "COUNT")
    variables = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in zip(names, array or ())}
    job = slurm(SLURM_CPUS_PER_TASK="3", **variables)
    said = job.communicate(timeout=30)[1]
    if shard is None:
        assert job.returncode == 2 and "The array has gaps" in said
        assert not (tmp_path / "calls").exists()
        return
    assert (job.returncode, said) == (0, "")
    called = (tmp_path / "calls").read_text()
    assert called == f"-m clip_hf embed a b c --shard {shard} --num-threads 3\n"


def test_a_job_without_time_ends_and_is_queued_again(slurm, tmp_path):
    job = slurm(WAIT="1")
    while not (tmp_path / "calls").exists():
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=20)
    assert job.returncode == 0
    assert (tmp_path / "calls").read_text().splitlines()[1:] == ["scontrol requeue 70"]


def test_a_job_that_fails_is_not_queued_again(slurm, tmp_path):
    job = slurm(STATUS="3")
    job.communicate(timeout=20)
    assert job.returncode == 3
    assert "scontrol" not in (tmp_path / "calls").read_text()


def launch(folder: Path, destination: Path, *launcher: str) -> list[str]:
    command = ["-m", "clip_hf", "embed", f"{folder}/model", f"{folder}/photos", f"{destination}", *SMALL]
    return [sys.executable, *launcher, *command]


@pytest.mark.slow
def test_a_launch_ends_with_one_of_its_processes_and_goes_on_later(folder, tmp_path):
    subprocess.run(launch(folder, folder / "plain"), env=ENVIRONMENT, check=True, capture_output=True)
    command = launch(folder, tmp_path / "out", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    job = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while job.poll() is None and len(list(tmp_path.glob("out/rows/part-*"))) < 5:
        time.sleep(0.005)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said = job.communicate(timeout=60)[1]
    assert job.returncode != 0, said
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    assert files_in(tmp_path / "out", with_hidden=False) == files_in(folder / "plain")
