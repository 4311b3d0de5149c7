# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How programs end that cannot go on: a line for what a user can mend, a trace for a fault of the code."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clip_hf import ClipHFImageProcessor
from clip_hf.utils.failures import reported_failures


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def of_ours():
    ClipHFImageProcessor(resample=99)


def of_the_program():
    raise ValueError("`--limit` is 0; it must be at least 1.")


def of_a_file():
    open("nowhere/x.png")


def of_the_code():
    torch.zeros(2) @ torch.zeros(3)


def of_python():
    int("x")


def of_the_code_of_a_mapping():
    {}["x"]


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (of_ours, "resample=99 must be one of"),
        (of_the_program, "`--limit` is 0"),
        (of_a_file, "[Errno 2] No such file or directory: 'nowhere/x.png'"),
        (of_the_code, None),
        (of_python, None),
        (of_the_code_of_a_mapping, None),
    ],
)
def test_a_line_or_a_trace(fail, line, capsys, monkeypatch):
    for several in (False, True):
        if several:
            monkeypatch.setenv("WORLD_SIZE", "2")
            monkeypatch.setenv("RANK", "1")
        with pytest.raises(SystemExit) as ended, reported_failures(__file__):
            fail()
        assert ended.value.code == 1
        said = capsys.readouterr().err
        if line is None:
            assert said.startswith("Traceback")
        else:
            assert said.startswith(f"test_failures.py{' (process 1)' if several else ''}: {line}")
            assert said.count("\n") == 1


def test_what_ends_by_itself_is_left_alone():
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), reported_failures(__file__):
            raise error


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["train_clip.py", "--dataset", "nowhere.csv"], "train_clip.py: ", marks=pytest.mark.slow),
        pytest.param(
            ["train_with_trainer.py", "--bach_size", "3"],
            "train_with_trainer.py: Some specified arguments are not",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_programs_end_with_a_line(arguments, line, tmp_path):
    command = [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.startswith(line) and done.stderr.count("\n") == 1


def test_all_programs_tell_their_failures_so():
    programs = sorted(EXAMPLES.glob("*.py"))
    assert len(programs) >= 7
    for program in programs:
        assert "reported_failures(__file__)" in program.read_text()
