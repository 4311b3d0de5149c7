# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The configs to launch with against Accelerate's own code, and the SLURM script with stand-ins for SLURM."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "examples" / "launch"


def unknown_keys(path: Path) -> list[str]:
    """Keys that Accelerate's config does not have, or that its launcher would pass over in silence."""
    config = load_config_from_file(str(path))  # raises at an unknown key of the first level
    options = {action.dest for action in launch.launch_command_parser()._actions}
    nested = [*(config.fsdp_config or {}), *(config.deepspeed_config or {})]
    return [key for key in nested if key not in options]


def launched(name: str, monkeypatch, *more: str):
    """What `accelerate launch` makes of a config."""
    monkeypatch.chdir(ROOT)
    arguments = ["--config_file", str(CONFIGS / name), *more, "-m", "clip_hf", "train", "--resume", "latest"]
    return launch._validate_launch_command(launch.launch_command_parser().parse_args(arguments))[0]


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_key_is_known_and_the_number_of_processes_is_asked_for(name, monkeypatch):
    assert unknown_keys(CONFIGS / name) == []
    assert launched(name, monkeypatch, "--num_processes", "8").num_processes == 8
    with pytest.raises(ValueError, match="--num_processes"):
        launched(name, monkeypatch)


def test_unknown_keys_are_noticed(tmp_path):
    config = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text())
    config["fsdp_config"]["fsdp_reshard"] = True
    (tmp_path / "nested.yaml").write_text(yaml.safe_dump(config))
    assert unknown_keys(tmp_path / "nested.yaml") == ["fsdp_reshard"]
    (tmp_path / "first.yaml").write_text(yaml.safe_dump({**config, "num_gpus": 8}))
    with pytest.raises(ValueError, match="unknown keys \\(\\['num_gpus'\\]\\)"):
        unknown_keys(tmp_path / "first.yaml")


def test_fsdp2_reaches_the_plugin(monkeypatch):
    args = launched("fsdp2.yaml", monkeypatch, "--num_processes", "8", "--main_process_port", "0")
    assert args.use_fsdp and not args.multi_gpu and args.mixed_precision == "bf16"
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy is not None
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert not plugin.cpu_ram_efficient_loading and not plugin.activation_checkpointing


def test_deepspeed_reaches_the_plugin(monkeypatch):
    args = launched("deepspeed_zero2.yaml", monkeypatch, "--num_processes", "8", "--main_process_port", "0")
    assert args.use_deepspeed
    config = load_config_from_file(str(CONFIGS / "deepspeed_zero2.yaml"))
    # As `launch_command` does it.
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    for name, value in prepare_deepspeed_cmd_env(args)[1].items():
        monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()  # refuses options that stand in both files
    assert plugin.zero_stage == 2
    assert plugin.gradient_accumulation_steps == 1
    assert plugin.deepspeed_config["bf16"] == {"enabled": True}


# -------------------------------------------------------------------------------------------------------------- SLURM

COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> calls; fi',
    # Two processes, as two nodes with one each would have.
    "srun": """while [ "$1" != bash ]; do shift; done
        for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=0 "$@" & echo $! >> pids; done; wait; wait""",
    "scancel": 'echo "$@" >> calls; kill -TERM $(cat pids)',
    "python": """trap 'sleep 0.3; echo saved >> saved; exit 0' TERM
        echo "$RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR:$MASTER_PORT $@" >> started
        for i in $(seq 1 $ROUNDS); do sleep 0.1; done; exit $END""",
}


@pytest.fixture
def slurm_job(tmp_path):
    """A function that starts the script with stand-ins for SLURM's commands and for the training."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)

    def start(rounds: int, end: int = 0) -> subprocess.Popen:
        environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "41",
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "ROUNDS": str(rounds),
            "END": str(end),
        }
        command = ["bash", str(CONFIGS / "slurm.sh"), "recipe.yaml", "--output_dir", "a folder"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment)

    return start


def test_a_slurm_job_that_ends_is_not_queued_again(slurm_job, tmp_path):
    assert slurm_job(rounds=1).wait(timeout=60) == 0
    started = sorted((tmp_path / "started").read_text().splitlines())
    arguments = "-m clip_hf train recipe.yaml --output_dir a folder --resume latest"
    assert started == [f"{rank}/2 0 node1:20041 {arguments}" for rank in (0, 1)]
    assert not (tmp_path / "calls").exists()


def test_a_slurm_job_that_is_signalled_saves_and_is_queued_again(slurm_job, tmp_path):
    job = slurm_job(rounds=1000)
    deadline = time.monotonic() + 60
    for name in ("started", "pids"):
        while not (tmp_path / name).exists() or len((tmp_path / name).read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 0
    assert (tmp_path / "saved").read_text().split() == ["saved", "saved"]
    assert (tmp_path / "calls").read_text().splitlines() == ["--signal=TERM 41", "requeue 41"]
