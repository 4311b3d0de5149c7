# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A training that was stopped in any way goes on as if it had not been, to the last bit."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file

from clip_hf.training import Training, parse_options, train


ROOT = Path(__file__).resolve().parents[2]
STEPS = 10
# All that is random, and all that has a memory.
EVERYTHING = {
    "batch_size": 6,
    "max_steps": STEPS,
    "save_every": 3,
    "templates": ["{}", "a {}", "the {}."],
    "color_jitter": [0.4, 0.4, 0.4, 0.1],
    "blur": 0.5,
    "horizontal_flip": 0.5,
    "token_dropout": 0.2,
    "max_grad_norm": 5.0,
    "ema_decay": 0.9,
    "eval_every": 3.0,
}
STREAM = {"streaming": True, "cache_images": False, "shuffle_buffer": 7, "pairs_per_epoch": 16}


class Killed(BaseException):
    """Ends a training as SIGKILL does: nothing is saved."""


@pytest.fixture(scope="module")
def captions_folder(tiny_data, tmp_path_factory) -> Path:
    """The tiny data with three captions for each image."""
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    folder = tmp_path_factory.mktemp("captions")
    tiny_data.map(
        lambda row: {"caption": [row["caption"], f"drawing: {row['caption']}", row["caption"].upper()]},
        features=features,
    ).save_to_disk(str(folder))
    return folder


@pytest.fixture
def options_of(recipe_of, captions_folder, tmp_path):
    """A function that makes options for a training into a folder of this name."""

    def make(name: str, *more: str, tower: str = "vit", **changes):
        recipe = recipe_of(tower, **{"dataset": str(captions_folder), **EVERYTHING, **changes})
        content = yaml.safe_load(recipe.read_text())
        content["config"]["text_config"]["attention_dropout"] = 0.2
        if tower == "vit":
            content["config"]["vision_config"]["attention_dropout"] = 0.2
        recipe.write_text(yaml.safe_dump(content))
        return parse_options([str(recipe), "--output_dir", str(tmp_path / name), *more])

    return make


def exact(log: list[dict]) -> list[dict]:
    return [{name: value for name, value in entry.items() if name != "pairs_per_second"} for entry in log]


def stop_at(step: int, action, monkeypatch) -> None:
    """Do something once, in the middle of a step."""
    take_step = Training.step

    def interrupted(self, number, batch):
        if number == step:
            action()
        return take_step(self, number, batch)

    monkeypatch.setattr(Training, "step", interrupted)


def kill_at(step: int, options, monkeypatch) -> None:
    """Train until this step, of which nothing is left."""

    def die():
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(step, die, patch)
        train(options)


def assert_same_training(one: Path, two: Path) -> None:
    for name in ("last", "best", f"checkpoints/step_{STEPS:08d}/accelerate"):
        mine, theirs = (load_file(folder / name / "model.safetensors") for folder in (one, two))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items()), name
    # A card is titled by its training's folder.
    cards = [(folder / "last" / "README.md").read_text().replace(folder.name, "name") for folder in (one, two)]
    assert len({re.sub("card: title [0-9a-f]{10}", "card: title", card) for card in cards}) == 1


QUICK = {
    "map-style": {},
    "stream": STREAM,
}
MORE = {
    "stream, 2 workers": {**STREAM, "num_workers": 2},
    "map-style, 2 workers": {"num_workers": 2},
    "map-style, GradCache": {"grad_cache_chunk_size": 4},
    "map-style, ResNet": {"tower": "resnet"},
    "map-style, not cached, in buckets": {"cache_images": False, "bucket_batches": 2},
}


@pytest.mark.slow_but_for("map-style")
@pytest.mark.parametrize("mode", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_a_killed_training_goes_on_to_the_last_bit(mode, options_of, tmp_path, monkeypatch, capsys):
    changes = {**QUICK, **MORE}[mode]
    whole = train(options_of("whole", **changes))
    assert len({entry["loss"] for entry in whole if "loss" in entry}) == STEPS
    # In the middle of an epoch, after an evaluation, and in the step after a checkpoint.
    kill_at(8, options_of("killed", **changes), monkeypatch)
    kill_at(9, options_of("killed", "--resume", "latest", **changes), monkeypatch)
    assert "Going on after step 6." in capsys.readouterr().out
    resumed = train(options_of("killed", "--resume", "latest", **changes))
    assert "Going on after step 9." in capsys.readouterr().out
    assert exact(resumed) == exact(whole)
    assert_same_training(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_training_killed_before_its_first_checkpoint_starts_anew(options_of, monkeypatch, capsys):
    kill_at(2, options_of("killed", max_steps=4), monkeypatch)
    resumed = train(options_of("killed", "--resume", "latest", max_steps=4))
    assert "No checkpoint yet: from the start." in capsys.readouterr().out
    assert exact(resumed) == exact(train(options_of("whole", max_steps=4)))


@pytest.mark.slow
def test_map_style_data_may_be_loaded_by_other_workers_after_it(options_of, monkeypatch):
    whole = train(options_of("whole"))
    kill_at(7, options_of("killed"), monkeypatch)
    assert exact(train(options_of("killed", "--resume", "latest", num_workers=1))) == exact(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends_without_an_error(number, options_of, tmp_path, monkeypatch, capsys):
    whole = train(options_of("whole"))
    with monkeypatch.context() as patch:
        stop_at(4, lambda: os.kill(os.getpid(), number), patch)
        log = train(options_of("stopped"))
    assert exact(log) == exact(whole)[: len(log)] and log[-1]["step"] == 4
    assert "Stopped after step 5 as asked; --resume latest goes on." in capsys.readouterr().out
    assert not (tmp_path / "stopped" / "last").exists()
    assert exact(train(options_of("stopped", "--resume", "latest"))) == exact(whole)
    assert "Going on after step 5." in capsys.readouterr().out
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_a_longer_training_is_said_to_have_another_schedule(options_of, tmp_path, capsys):
    train(options_of("out", max_steps=3))
    log = train(options_of("out", "--resume", "latest", max_steps=5))
    said = "The checkpoint's training had 3 steps, this one has 5: from here on the learning rate is that of the new"
    assert said in capsys.readouterr().out
    assert [entry["step"] for entry in log if "loss" in entry] == [0, 1, 2, 3, 4]


@pytest.mark.slow_but_for("manifest.json")
@pytest.mark.parametrize("name", ["accelerate/model.safetensors", "shared.pt", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(name, options_of, tmp_path, monkeypatch, capsys):
    whole = train(options_of("whole"))
    kill_at(9, options_of("killed"), monkeypatch)
    damaged = tmp_path / "killed" / "checkpoints" / "step_00000009" / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.warns(RuntimeWarning, match="The checkpoint .*step_00000009 is damaged .*; it is passed over"):
        resumed = train(options_of("killed", "--resume", "latest"))
    assert "Going on after step 6." in capsys.readouterr().out
    assert exact(resumed) == exact(whole)
    assert_same_training(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_checkpoint_of_choice(options_of, tmp_path):
    whole = train(options_of("out"))
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == [
        "step_00000009",
        "step_00000010",
    ]
    resumed = train(options_of("out", "--resume", str(tmp_path / "out" / "checkpoints" / "step_00000009")))
    assert exact(resumed) == exact(whole)
    with pytest.raises(OSError, match="step_00000099 cannot be used.* there are: step_00000009, step_00000010"):
        train(options_of("out", "--resume", "step_00000099"))


@pytest.mark.slow
def test_a_training_that_is_done_is_finished_again(options_of, tmp_path):
    whole = train(options_of("out"))
    card = (tmp_path / "out" / "last" / "README.md").read_text()
    # As if it had been killed while it wrote its last model.
    (tmp_path / "out" / "last" / "README.md").unlink()
    assert exact(train(options_of("out", "--resume", "latest"))) == exact(whole)
    assert (tmp_path / "out" / "last" / "README.md").read_text() == card


OTHER = [
    ({}, {"batch_size": 8}, "had batch_size 6 .now 8.; resume it with the same data and options"),
    ({}, {"seed": 1}, "had seed 0 .now 1."),
    ({}, {**STREAM}, "had .*kind map-style .now stream."),
    (STREAM, {**STREAM, "num_workers": 2}, "had num_workers 1 .now 2."),
    (STREAM, {**STREAM, "shuffle_buffer": 9}, "had shuffle_buffer 7 .now 9."),
    ({}, {"freeze": ["text"]}, "does not fit this training"),
    ({}, {"vocab_size": 520}, "does not fit this training .* give the training's own recipe, .*out/recipe.yaml"),
    ({}, {"max_steps": 2}, "has done 3 steps, and this training has 2: train longer"),
]


@pytest.mark.slow_but_for("first0", "first4", "first5", "first6")
@pytest.mark.parametrize(("first", "then", "message"), OTHER)
def test_another_training_is_not_resumed(first, then, message, options_of, tmp_path):
    train(options_of("out", **{**first, "max_steps": 3}))
    before = (tmp_path / "out" / "training_log.jsonl").read_text()
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        train(options_of("out", "--resume", "latest", **then))
    assert (tmp_path / "out" / "training_log.jsonl").read_text() == before
    assert (tmp_path / "out" / "recipe.yaml").read_text() == recipe


def _without(name: str):
    return lambda state: state.pop(name)


def _with(value: object, *names: str):
    def change(state):
        for name in names[:-1]:
            state = state[name]
        state[names[-1]] = value

    return change


FOREIGN = [
    ("shared", _without("schedule"), "what all processes share lacks 'schedule'; it is not what this training saves"),
    ("shared", _without("best"), "lacks 'best'"),
    ("shared", _with(1, "more"), "has unknown 'more'"),
    ("shared", _with([], "schedule"), r"share\['schedule'\] is of type list and must be of type Mapping"),
    ("shared", _with(None, "schedule", "step"), r"\['schedule'\] has unknown 'step'"),
    (
        "shared",
        _with(["x"], "schedule", "base_lrs"),
        r"\['base_lrs'\]\[0\] is of type str and must be of type int . flo",
    ),
    ("shared", _with(3, "guard"), r"\['guard'\] is of type int and must be of type dict"),
    ("shared", _with(["x"], "guard", "losses"), r"The guard's state\['losses'\]\[0\] is of type str"),
    ("shared", _with("x", "best", "zero_shot_top1"), r"\['best'\]\['zero_shot_top1'\] is of type str"),
    ("shared", _with(None, "metrics"), r"\['metrics'\] is of type NoneType"),
    ("shared", _without("average"), "`ema_decay` must be set both in the checkpoint's training"),
    ("shared", _with(1, "average", "n_averaged"), r"averaged weights\['n_averaged'\] is of type int"),
    ("process_00000", _without("loader"), "what a process saved lacks 'loader'"),
    ("process_00000", _with(True, "loader", "step"), r"The loader's state\['step'\] is of type bool"),
    ("process_00000", _without("skips"), "lacks 'skips'"),
    ("process_00000", _with({"a": "b"}, "skips", "kinds"), r"skipped rows\['kinds'\]\['a'\] is of type str"),
    ("process_00000", _with({1: []}, "skips", "examples"), r"A key of .*\['examples'\] is of type int"),
]


def test_states_of_another_kind_are_refused_before_the_training_goes_on(options_of, tmp_path, monkeypatch):
    kill_at(4, options_of("out"), monkeypatch)
    training = Training(options_of("out", "--resume", "latest"))
    restored = training.checkpoints.restore(training.accelerator)
    for part, change, message in FOREIGN:
        states = {"shared": copy.deepcopy(restored.shared), "process_00000": copy.deepcopy(restored.per_process)}
        change(states[part])
        foreign = replace(restored, shared=states["shared"], per_process=states["process_00000"])
        with pytest.raises(ValueError, match=message):
            training.take_over(foreign)
    training.take_over(restored)
    training.take_over(replace(restored, per_process=None))


def test_the_guard_remembers_the_losses(options_of, monkeypatch):
    kill_at(4, options_of("out"), monkeypatch)
    training = Training(options_of("out", "--resume", "latest"))
    assert training.start() == 3
    assert len(training.guard.state_dict()["losses"]) == 3


# ------------------------------------------------------------------------------------------------- whole processes


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_sigterm_ends_the_program_with_0(options_of, tmp_path):
    options_of("out", save_every=1000, max_steps=5000)
    command = [
        sys.executable,
        "-m",
        "clip_hf",
        "train",
        str(tmp_path / "recipes" / "vit.yaml"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    log = tmp_path / "out" / "training_log.jsonl"
    with subprocess.Popen(
        [*command, "--num_workers", "2"], env=environment(), stdout=subprocess.PIPE, text=True
    ) as job:
        deadline = time.monotonic() + 600
        while not log.exists() or log.read_text().count("\n") < 3:
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        printed, _ = job.communicate(timeout=600)
    assert job.returncode == 0
    done = int(re.search(r"Stopped after step (\d+) as asked", printed)[1])
    assert (tmp_path / "out" / "checkpoints" / f"step_{done:08d}" / "manifest.json").exists()


@pytest.mark.slow
def test_processes_that_are_killed_go_on(tmp_path):
    """`benchmarks/check_resume.py` for all modes takes minutes; these are the hardest ones."""
    command = [sys.executable, str(ROOT / "benchmarks" / "check_resume.py"), "--folder", str(tmp_path / "out")]
    run = subprocess.run(
        [*command, "--steps", "14", "--only", "3", "7", "10"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    # A stream of two processes is none of one.
    folder = tmp_path / "out" / "mode_1"
    options = parse_options(
        [str(folder / "recipe.yaml"), "--output_dir", str(folder / "killed"), "--resume", "latest"]
    )
    with pytest.raises(ValueError, match="had world_size 2 .now 1."):
        train(options)
