# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf` as a whole: what it lists, what it imports, and what it says of a wrong command line."""

import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import _clip_hf_cli.convert
import _clip_hf_cli.embed
import _clip_hf_cli.evaluate
import _clip_hf_cli.interpolate
import _clip_hf_cli.search
from _clip_hf_cli import plain_warnings
from clip_hf import ImageLimits
from clip_hf.adaptation import interpolation
from clip_hf.checkpoints import FORMATS, TOWERS
from clip_hf.cli import evaluate as cli_evaluate
from clip_hf.cli import main
from clip_hf.embedding import EmbeddingOptions, EncodingOptions
from clip_hf.embedding.job_options import DTYPES
from clip_hf.embedding.part_files import FILE_FORMATS
from clip_hf.evaluation import CLASSIFICATION_METRICS, TASKS
from clip_hf.evaluation.tasks.zero_shot import AGGREGATES
from clip_hf.model.image_reading_clip_hf import DEFAULT_LIMITS
from clip_hf.model.image_transform_clip_hf import HIGH_BIT_DEPTH
from clip_hf.search.approximate_index import KINDS
from clip_hf.search.duplicate_report import DEFAULT_THRESHOLD
from clip_hf.search.index_places import MODALITIES
from clip_hf.search.no_match import DEFAULT_SHARE
from clip_hf.utils.extras import MissingExtra


COMMANDS = (
    *("classify", "convert", "train", "adapt", "evaluate", "compare", "interpolate", "soup", "stretch"),
    *("embed", "search", "export", "env", "serve", "explain"),
)


def stopped(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command line that argparse ends."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return (stop.value.code, *capsys.readouterr())


def test_help_lists_every_command(capsys):
    status, out, _ = stopped(capsys, "--help")
    assert status == 0
    assert all(re.search(rf"\n    {name}\s", out) for name in COMMANDS)


def test_the_command_alone_prints_the_help(capsys):
    _, help_text, _ = stopped(capsys, "--help")
    assert main([]) == 0
    assert capsys.readouterr() == (help_text, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_of_its_own(name, capsys):
    status, out, _ = stopped(capsys, name, "--help")
    assert status == 0
    assert out.startswith(f"usage: clip-hf {name} ") and f"clip-hf {name} " in out.split("examples:")[1]


@pytest.mark.parametrize("arguments", [["evaluates"], ["evaluate"], ["evaluate", "model", "--tasks", "zero-shot"]])
def test_a_wrong_command_line_ends_with_2(arguments, capsys):
    status, out, err = stopped(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: clip-hf")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("evalute model", r"clip-hf: error: argument COMMAND: invalid choice: 'evalute' .* Did you mean evaluate\?"),
        ("--versoin", r"clip-hf: error: unknown option --versoin\. Did you mean --version\?"),
        ("evaluate --taks retrieval", r"clip-hf evaluate: error: unknown option --taks\. Did you mean --tasks\?"),
        ("evaluate m --batchsize=8", r"clip-hf evaluate: error: unknown option --batchsize\. .* --batch-size\?"),
        ("compare a b --no-exif-orientation", r"clip-hf compare: error: .* --no-apply-exif-orientation\?"),
        ("evaluate m --tasks zeroshot", r"clip-hf evaluate: error: argument --tasks: .* Did you mean zero_shot\?"),
        ("convert a b --to openclip", r"clip-hf convert: error: argument --to: .* Did you mean open_clip\?"),
        ("convert a b --frobnicate", r"clip-hf convert: error: unknown option --frobnicate$"),
        ("convert --dtype float16 -- --a --b c", r"clip-hf convert: error: argument --dtype: .*|.*unrecognized .* c$"),
    ],
)
def test_a_misspelling_names_what_was_probably_meant(line, error, capsys):
    status, _, err = stopped(capsys, *line.split())
    assert status == 2
    assert re.fullmatch(error, err.strip().splitlines()[-1])


def test_options_may_be_shortened_as_argparse_allows(capsys):
    assert stopped(capsys, "--vers")[:2] == (0, "clip_hf 0.1.0\n")


COMMAND_LINES = {
    "classify": ["photo.png", "--model", "m", "--labels", "a"],
    "convert": ["a", "b"],
    "train": [],
    "evaluate": ["m"],
    "compare": ["a", "b"],
    "interpolate": ["a", "b"],
    "soup": ["a", "b", "-o", "soup"],
    "stretch": ["m", "-o", "long"],
    "embed": ["m", "source", "destination"],
    "search": ["photos"],
    "export": ["m", "destination"],
    "env": [],
    "explain": ["photo.png", "a cat", "--model", "m"],
    "serve": ["m"],
    "adapt": ["m", "digits", "-o", "adapted"],
}


def replace_command(monkeypatch, run) -> None:
    """Let every command do this in place of its work."""
    loaded = SimpleNamespace(import_module=lambda _: SimpleNamespace(run=run))
    monkeypatch.setattr(_clip_hf_cli, "importlib", loaded)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "env"])  # it has no such option
def test_options_may_have_hyphens_or_underscores(name, monkeypatch):
    """All options of more than one word, alone and with `=VALUE`, in both spellings."""
    asked = []
    replace_command(monkeypatch, lambda options: asked.append(options) or 0)
    parser = _clip_hf_cli.Parser()
    getattr(_clip_hf_cli, name).add_arguments(parser)
    options = [each for each in parser._actions if each.option_strings and re.search(r"[_-]", each.dest)]
    assert options
    for action in options:
        negations = [f"--no-{option.removeprefix('--')}" for option in action.option_strings]
        listed = [option for option in action.option_strings if option not in negations and len(option) > 2]
        assert len(listed) == 1  # the help shows one spelling
        words = listed[0].removeprefix("--").replace("_", "-").split("-")
        value = next((choice for choice in action.choices or () if choice != action.default), "1")
        value = "0.5" if action.dest == "no_match" else value  # which is more than 0 and less than 1
        values = [] if action.nargs == 0 else [value]
        for separator in "_-":
            spelled = f"--{separator.join(words)}"
            assert main([name, *COMMAND_LINES[name], spelled, *values]) == 0
            if values:
                assert main([name, *COMMAND_LINES[name], f"{spelled}={value}"]) == 0
        assert all(options == asked[0] for options in asked)
        assert getattr(asked[0], action.dest) != action.default
        asked.clear()


@pytest.mark.parametrize("alphas", ["-0.5,0.5", "-1:1:0.5", "-.5", "-1e-3"])
@pytest.mark.parametrize("option", ["--alpha", "--alpha="])
def test_negative_numbers_with_commas_are_no_options(option, alphas, monkeypatch):
    found = []
    monkeypatch.setattr("clip_hf.cli.interpolate.run", lambda options: found.append(options) or 0)
    line = ["interpolate", "a", "b", *([option, alphas] if option == "--alpha" else [option + alphas]), "-o", "new"]
    assert main(line) == 0 and found[0].alpha == alphas and found[0].output_dir == "new"


@pytest.mark.parametrize(
    "line",
    [
        "interpolate a b --alpha 0.5 -o",
        "soup a b --method uniform -o",
        "stretch a -o",
        "convert a",
        "export a",
        "evaluate a --data digits --output-dir",
        "compare a b --output-dir",
        "adapt a digits -o",
        "train examples/recipes/demo.yaml --output_dir",
    ],
)
def test_an_output_below_a_file_is_refused_before_any_work(line, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "below" / "x"
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main([*line.split(), str(folder)]) == 1
    assert f"{folder} cannot be written: {tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_what_follows_two_hyphens_is_no_option():
    parser = _clip_hf_cli.Parser()
    parser.add_argument("--top-k")
    parser.add_argument("paths", nargs="*")
    options = parser.parse_args(["--top_k=a_b", "--", "--top_k", "--x_y=1"])
    assert options.top_k == "a_b" and options.paths == ["--top_k", "--x_y=1"]


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_with_130_and_one_line(name, monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    replace_command(monkeypatch, interrupt)
    assert main([name, *COMMAND_LINES[name]]) == 130
    assert capsys.readouterr() == ("", f"clip-hf {name}: interrupted\n")


@pytest.mark.parametrize("module", ["clip_hf.nowhere", "clip_hf", "_clip_hf_cli.nowhere"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_module_of_ours_keeps_its_trace(name, module, monkeypatch):
    def load(_):
        raise ImportError("cannot import name 'x'", name=module)

    monkeypatch.setattr(_clip_hf_cli, "importlib", SimpleNamespace(import_module=load))
    with pytest.raises(ImportError, match="cannot import name"):
        main([name, *COMMAND_LINES[name]])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_extra_is_one_line(name, monkeypatch, capsys):
    def load(_):
        raise MissingExtra("the command", "eval", ["datasets"])

    monkeypatch.setattr(_clip_hf_cli, "importlib", SimpleNamespace(import_module=load))
    assert main([name, *COMMAND_LINES[name]]) == 1
    assert re.fullmatch(f"clip-hf {name}: the command: datasets is not installed.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("classify --model m --labels a b x.png", "--labels takes all that follows it: put IMAGE before the options"),
        ("evaluate --data openmoji m", "--data takes all that follows it: put model before the options"),
        ("compare --data openmoji a b", "--data takes all that follows it: put models before the options"),
        ("convert --datasets a b c", "--datasets takes all that follows it: put source before the options"),
    ],
)
def test_an_option_that_took_the_rest_is_named(line, hint, capsys):
    assert f"{hint}, or after `--`" in stopped(capsys, *line.split())[2]
    assert "takes all" not in stopped(capsys, line.split()[0])[2]


@pytest.mark.parametrize(
    "line",
    ["classify x.png --model nomodel --labels a b", "evaluate nomodel --data openmoji", "train --model nomodel"],
)
def test_a_model_that_is_nowhere_is_one_line(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"clip-hf {line.split()[0]}: There is no file or folder 'nomodel' here, and the hub could not" in said


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
@pytest.mark.parametrize("models", [["evaluate", "m"], ["compare", "a", "b"]])
def test_a_device_that_is_not_there_is_one_line_before_any_work(models, device, monkeypatch, capsys):
    monkeypatch.setattr(cli_evaluate, "run_suite", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    assert main([*models, "--data", "openmoji", "--device", device]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"clip-hf {models[0]}: The device '{device}' is not on this machine; PyTorch ")
    assert " finds cpu" in said and said.count("\n") == 1


def test_a_folder_of_ones_own_has_no_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "m", "--data", "mine=folder"]) == 1
    said = capsys.readouterr().err
    assert "NAME in NAME=PATH must be a dataset of the registry, and 'mine' is none. A folder" in said
    assert "of your own is given by its path alone: folder." in said


def test_the_choices_are_those_of_the_library():
    """The parser names them again, because importing the library takes seconds and needs extras."""
    assert list(_clip_hf_cli.evaluate.TASKS) == list(TASKS)
    assert list(_clip_hf_cli.evaluate.METRICS) == sorted(CLASSIFICATION_METRICS)
    assert _clip_hf_cli.evaluate.AGGREGATES == AGGREGATES
    limits = {f"max_{name}": default for name, (_, default) in _clip_hf_cli.evaluate.IMAGE_LIMITS.items()}
    assert ImageLimits(**limits) == DEFAULT_LIMITS
    assert _clip_hf_cli.evaluate.HIGH_BIT_DEPTH == HIGH_BIT_DEPTH
    assert _clip_hf_cli.evaluate.MAX_SKIPPED_SHARE == EncodingOptions().max_skipped_share
    assert _clip_hf_cli.interpolate.BATCH_NORM == interpolation.BATCH_NORM
    assert _clip_hf_cli.interpolate.PICKS == interpolation.PICKS
    assert _clip_hf_cli.embed.FILE_FORMATS == FILE_FORMATS
    assert _clip_hf_cli.embed.FILE_DTYPES == DTYPES
    assert _clip_hf_cli.embed.ROWS_PER_PART == EmbeddingOptions().rows_per_part
    assert _clip_hf_cli.search.MODALITIES == MODALITIES
    assert _clip_hf_cli.search.APPROXIMATE_KINDS == KINDS
    assert _clip_hf_cli.search.DUPLICATE_COSINE == DEFAULT_THRESHOLD
    assert _clip_hf_cli.search.NO_MATCH_SHARE == DEFAULT_SHARE
    assert _clip_hf_cli.convert.FORMATS == FORMATS
    assert list(_clip_hf_cli.convert.TOWERS) == list(TOWERS)


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS), ["convret"]]
)
def test_nothing_but_the_standard_library_is_imported_before_there_is_work(arguments):
    code = f"""
import sys
from _clip_hf_cli import main
try:
    main({arguments})
finally:
    loaded = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names
    print("imported:", sorted(name for name in loaded if not name.startswith("_")))
"""
    # -S: no site-packages, whose .pth files may import anything.
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path}\n{code}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.endswith("imported: []\n"), done.stdout + done.stderr


def test_the_package_is_a_program(monkeypatch, capsys):
    """In this process; `test_it_is_a_module_for_launchers` starts one."""
    monkeypatch.setattr(sys, "argv", ["clip_hf", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("clip_hf", run_name="__main__")
    assert (stop.value.code, capsys.readouterr().out) == (0, "clip_hf 0.1.0\n")


def test_warnings_are_printed_without_the_place_in_the_library():
    before = warnings.formatwarning
    with plain_warnings("adapt"):
        assert warnings.formatwarning("2 were skipped.\x1b", UserWarning, "a.py", 3) == (
            "clip-hf adapt: 2 were skipped.\\x1b\n"
        )
        assert "a.py:3: DeprecationWarning" in warnings.formatwarning("old", DeprecationWarning, "a.py", 3, "x = 1")
    assert warnings.formatwarning is before
