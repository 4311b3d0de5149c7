# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf` as a whole: what it lists, and what it says where a package is missing."""

import subprocess
import sys

import pytest

from clip_hf.cli import main


COMMANDS = ("convert", "evaluate", "compare")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: clip-hf {name} ") and f"clip-hf {name} " in out.split("examples:")[1]


@pytest.mark.parametrize("arguments", [[], ["evaluates"], ["evaluate"], ["evaluate", "model", "--tasks", "zero-shot"]])
def test_a_wrong_command_line_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: clip-hf")


def test_without_the_packages_of_an_evaluation_the_others_work():
    """As after `pip install clip_hf`: nothing of the extras is there."""
    code = """
import sys
for package in ("accelerate", "datasets", "evaluate", "matplotlib", "pyarrow", "scipy", "sklearn", "fsspec"):
    sys.modules[package] = None
from clip_hf.cli import main
try:
    main(["convert", "--help"])
except SystemExit as stop:
    assert stop.code == 0
sys.exit(main(["evaluate", "model", "--data", "digits"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1 and done.stdout.startswith("usage: clip-hf convert"), done.stderr
    assert "pip install 'clip_hf[eval]'" in done.stderr and "Traceback" not in done.stderr


def test_the_module_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "clip_hf.cli", "--version"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("clip_hf ")
