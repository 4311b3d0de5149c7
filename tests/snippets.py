# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The fenced blocks of the pages: found, taken apart, checked, and run."""

import ast
import configparser
import contextlib
import functools
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import accelerate.commands.launch
import pytest
import torch.distributed.run
from accelerate.state import AcceleratorState, GradientState, PartialState

from clip_hf.cli import main
from clip_hf.training import parse_options


ROOT = Path(__file__).resolve().parent.parent
# An indented fence ends at the same indentation.
_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)

# What is added to a command so that it takes a moment; argparse takes the last of two values.
REDUCTIONS = {
    "train": "--max_steps 1 --batch_size 4 --num_workers 0 --cpu True",
    "train_clip.py": "--epochs 1 --batch_size 64 --warmup_steps 0 --cpu",
    "train_video.py": "--steps 1 --batch_size 4 --num_shown 1 --cpu",
    "train_with_trainer.py": "--max_steps 1 --per_device_train_batch_size 4 --use_cpu True",
    "adapt": "--resamples 10 --device cpu",
    "evaluate": "--resamples 10 --few-shot-seeds 1",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks = []
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(Block(page, line, found["kind"].strip(), found["text"]))
    fences = len(re.findall(r"^ *```", text, re.MULTILINE))
    assert fences == 2 * len(blocks), f"{page}: {fences} fences are no {len(blocks)} blocks"
    return blocks


def commands_of(text: str) -> list[str]:
    """The commands of a block for bash, one a line, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := shlex.join(shlex.split(line, comments=True)))]


# -------------------------------------------------------------------------------------------------------------- checks


def check_command(command: str) -> None:
    """Check what can be known of a command without running it: that what it names exists, and every option."""
    words = shlex.split(command)
    program = Path(words[0]).name
    if program == "clip-hf":
        _check_options(_help_of_clip_hf(words[1]), words[2:])
        if words[1] == "train" and "--help" not in words:
            with contextlib.chdir(ROOT):
                parse_options(words[2:])  # reads the recipe, and knows the options' values
    elif program == "python" and words[1] == "-m":
        check_command(shlex.join(_module_command(words[2:])))
    elif program == "python":
        _check_script(words[1], words[2:])
    elif program in ("accelerate", "torchrun"):
        check_command(shlex.join(launched(words)))
    elif program == "sbatch":
        script, *arguments = words[1 + len(leading_options(words[1:])) :]
        assert (ROOT / script).is_file(), script
        subcommand = re.search(r"-m clip_hf (\w+)", (ROOT / script).read_text(encoding="utf-8"))[1]
        check_command(shlex.join(["clip-hf", subcommand, *arguments]))
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        asked = [word for word in words[1:] if "=" not in word]
        assert asked and set(asked) <= set(targets), command
    elif words[:2] == ["pip", "install"]:
        _check_pip(words[2:])
    elif program == "curl":
        (address,) = [word for word in words if "://" in word]
        assert address.startswith("http://127.0.0.1:8000/"), f"{command}: no address of `clip-hf serve`"
        files = [word.partition("=@")[2] for word in words if "=@" in word]
        assert all((ROOT / file).is_file() for file in files), command
    else:
        raise AssertionError(f"`{command}` starts a program that no check knows")


def leading_options(words: Sequence[str]) -> list[str]:
    """The options, each with its value, before the first word that is the value of none."""
    place = 0
    while words[place].startswith("-"):
        place += 2
    return list(words[:place])


def launched(words: Sequence[str]) -> list[str]:
    """What `accelerate launch` or `torchrun` starts, as a command of its own; the launcher's options must exist."""
    if words[0] == "accelerate":
        assert words[1] == "launch", words
        options = accelerate.commands.launch.launch_command_parser().parse_args(words[2:])
        assert options.config_file is None or (ROOT / options.config_file).is_file(), options.config_file
    else:
        options = torch.distributed.run.get_args_parser().parse_args(words[1:])
    inner = [options.training_script, *options.training_script_args]
    return ["python", "-m", *inner] if options.module else ["python", *inner]


def _module_command(words: Sequence[str]) -> list[str]:
    assert words[0] == "clip_hf", words
    return ["clip-hf", *words[1:]]


def _check_script(script: str, arguments: Sequence[str]) -> None:
    assert (ROOT / script).is_file(), f"there is no {script}"
    # Its help knows the options, and unlike argparse takes none that was cut short.
    _check_options(_help_of_script(script), arguments)


def _check_options(help_text: str, arguments: Sequence[str]) -> None:
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_text))
    unknown = [word for word in arguments if word.startswith("--") and word.split("=")[0] not in known]
    assert not unknown, f"no such option: {', '.join(unknown)}"


@functools.cache
def _help_of_clip_hf(command: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        main([command, "--help"])
    return printed.getvalue()


@functools.cache
def _help_of_script(script: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as stop:
        _run_script(ROOT / script, ["--help"])
    assert not stop.value.code
    return printed.getvalue()


def _check_pip(arguments: Sequence[str]) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in arguments:
        # A name of ours is on no index: whoever registers it there would be installed.
        assert not re.match(r"clip[_-]hf", word), f"pip install {word}: say `pip install -e .` from a checkout"
        extras = re.fullmatch(r"\.(?:\[(.*)\])?", word)
        if extras and extras[1]:
            assert set(extras[1].split(",")) <= set(setup["options.extras_require"]), word


# ---------------------------------------------------------------------------------------------------------------- runs


def reduced(command: str) -> str:
    """A command with the options that make it short."""
    for script, options in REDUCTIONS.items():
        if re.search(rf"(?<=[/ ]){re.escape(script)}(?= )", command):
            return f"{command} {options}"
    return command


def run_here(command: str) -> None:
    """Run a command in this process, one started by a launcher as one process."""
    words = shlex.split(reduced(command))
    if words[0] in ("accelerate", "torchrun"):
        words = launched(words)
    if words[:2] == ["python", "-m"]:
        words = _module_command(words[2:])
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    if words[0] == "clip-hf":
        assert main(words[1:]) == 0, command
    else:
        assert words[0] == "python", command
        try:
            _run_script(Path(words[1]), words[2:])
        except SystemExit as stop:
            assert not stop.code, f"{command} failed; see what it printed"


def _run_script(script: Path, arguments: Sequence[str]) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [str(script), *arguments]))
        stack.enter_context(mock.patch.object(sys, "path", [str(script.resolve().parent), *sys.path]))
        runpy.run_path(str(script), run_name="__main__")


def run_in_shell(command: str) -> None:
    """Run a command as a reader does, in a shell."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", reduced(command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def run_python(text: str, names: dict, where: str) -> None:
    """Run a block of Python in `names`; values that comments show beside expressions must be the right ones."""
    comments = _comments_of(text)
    for node in ast.parse(text).body:
        # Errors tell the line in the page.
        shown = comments.get(node.end_lineno)
        if isinstance(node, ast.Expr):
            value = eval(compile(ast.Expression(_printed(node.value)), where, "eval"), names)
            print(value)
            if shown is not None:
                assert value == _approximately(shown), f"{where}: `{ast.unparse(node)}` is {value}, not {shown}"
        else:
            exec(compile(ast.Module([node], []), where, "exec"), names)


def _printed(node: ast.expr) -> ast.expr:
    """What `print` prints, where it has one argument."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and len(node.args) == 1:
        return node.args[0]
    return node


def _comments_of(text: str) -> dict[int, object]:
    """Line -> the value that a comment at its end shows, where it shows one in full."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            with contextlib.suppress(ValueError, SyntaxError, MemoryError):
                value = ast.literal_eval(token.string.lstrip("# "))
                if "..." not in token.string:
                    found[token.start[0]] = value
    return found


def _approximately(shown):
    numbers = shown.values() if isinstance(shown, dict) else shown if isinstance(shown, list | tuple) else [shown]
    if any(isinstance(number, float) for number in numbers):
        return pytest.approx(shown, abs=0.0051)
    return shown
