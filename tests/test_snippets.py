# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Every fenced block of README, docs and examples runs, page by page, as a reader would run it from top to bottom.

The fast test runs all of it in one process, with fewer of OpenMoji's drawings and without drawing plots; the slow
one runs the commands in a shell, with their launchers. Trainings are of one step. `NOT_RUN` lists what neither runs;
that is checked as far as it can be.
"""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import json
import re
import shlex

import huggingface_hub
import pytest

from _clip_hf_cli.serve import HOST, PORT
from clip_hf.cli import main
from clip_hf.data import load_pairs
from clip_hf.evaluation import CaptionedDataOptions, load_moments, load_retrieval
from clip_hf.serving import ServingLimits
from pair_data import image_of, use_few_films, use_openmoji
from snippet_inputs import DOCSTRING_INPUTS, INPUTS, World, docstring_names
from snippets import ROOT, Block, blocks_of, check_command, commands_of, launched, run_here, run_in_shell, run_python


PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
        ROOT / "benchmarks" / "README.md",
        ROOT / "CONTRIBUTING.md",
    )
}
BLOCKS = {page: blocks for page, text in PAGES.items() if (blocks := blocks_of(page, text))}

# How a command begins -> why no test runs it. All of it is checked nevertheless: options, files, targets.
NOT_RUN = {
    "pip install": "installs packages",
    "make": "builds environments, trains for minutes, or runs these very tests",
    ".venv/bin/python benchmarks/": "measures for minutes",
    "sbatch": "needs SLURM",
    "clip-hf search my_photos a dog on a beach --store": "needs a server",
    "torchrun --nnodes 2": "needs two nodes of eight GPUs",
    "accelerate launch --config_file examples/launch/multi_gpu.yaml --num_processes 8": "needs eight GPUs",
    "accelerate launch --num_processes 8 -m clip_hf evaluate": "needs eight GPUs",
    "clip-hf serve": "runs until it is stopped; tests/serving/test_served_docs.py runs it",
    "curl": "needs the server; tests/serving/test_served_docs.py runs it",
}
# Pages whose Python needs a running server; tests/serving/test_served_docs.py runs it.
SERVED = ("docs/howto/serve.md",)
# How a command begins -> why only the slow test runs it.
ONLY_SLOW = {
    "clip-hf adapt outputs/demo/vit/last digits --shots 16 --seeds 3": "three trainings of 400 steps",
    "clip-hf adapt outputs/demo/vit/last digits --shots 16 --method clap": "tests/adaptation adapts so",
    "clip-hf evaluate outputs/demo/vit/last --tasks explanation": "maps of 60 scenes; its task has faster tests",
    "clip-hf evaluate openai/clip-vit-base-patch32 --tasks zero_shot linear_probe --data food101": "101 classes",
    "torchrun --nproc_per_node 2 -m clip_hf train examples/recipes/pretrain_rn50.yaml": "a large ResNet",
    "clip-hf embed openai/clip-vit-base-patch32 my_images embedded_by_ray": "starts a cluster",
    "clip-hf classify examples/pictures --model outputs/demo/vit/last --runtime onnx": "exports first",
    "clip-hf export outputs/demo/vit/last vit-openvino": "exports, which tests/export does",
    "clip-hf embed vit-openvino": "needs that export",
    "clip-hf evaluate openai/clip-vit-base-patch32 --tasks robustness": "80,000 prompts of three datasets",
    "python examples/linear_probe.py": "some thirty regressions on all digits; the example has a faster test",
}
# Pages whose Python and commands take longest: many models, exports and trainings, which other tests run too.
SLOW_PAGES = (
    "docs/adapt/distillation.md",
    "docs/adapt/frozen_features.md",
    "docs/adapt/low_rank.md",
    "docs/adapt/soft_targets.md",
    "docs/adapt/weights_in_between.md",
    "docs/evaluation/few_shot.md",
    "docs/evaluation/index.md",
    "docs/evaluation/linear_probe.md",
    "docs/evaluation/retrieval.md",
    "docs/evaluation/video.md",
    "docs/evaluation/zero_shot.md",
    "docs/howto/clusters.md",
    "docs/howto/curation.md",
    "docs/howto/embed.md",
    "docs/howto/evaluate_any_model.md",
    "docs/howto/export.md",
    "docs/howto/fast_inference.md",
    "docs/howto/pictures.md",
    "docs/howto/search.md",
    "docs/howto/tag.md",
    "docs/howto/train.md",
    "docs/howto/video_search.md",
    "docs/howto/video_training.md",
    "examples/README.md",
)
# A block that is no program -> the test that holds it.
NO_PROGRAMS = {
    ("docs/howto/convert.md", "RN50.pt (openai) -> rn50 (clip_hf)"): "test_the_report_of_a_conversion",
    ("docs/reference/checkpoints.md", "clip-hf convert SOURCE DESTINATION"): "test_the_usage_of_convert",
    ("examples/README.md", '{"file_name": "0001.jpg"'): "test_the_line_of_a_metadata_file",
    ("docs/howto/zero_shot_classification.md", '{"image": "cat.png"'): "test_the_line_of_classify",
    ("docs/evaluation/video.md", "[\n"): "test_the_rows_of_films",
    ("docs/evaluation/video.md", '{"video": "one.mp4"'): "test_the_rows_of_films",
    ("docs/howto/serve_security.md", "server {"): "test_the_settings_of_nginx_are_those_of_the_server",
}


def reason_against(command: str, table: dict[str, str]) -> str | None:
    """Why a command is not run; None if it is."""
    return next((reason for beginning, reason in table.items() if command.startswith(beginning)), None)


def all_commands() -> list[tuple[Block, str]]:
    bash = (block for blocks in BLOCKS.values() for block in blocks if block.kind == "bash")
    return [(block, command) for block in bash for command in commands_of(block.text)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def run_page(page: str, execute, skipped: dict[str, str]) -> None:
    """Run a page's blocks in the current folder; Python has one namespace for the page."""
    names = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.kind == "python" and page not in SERVED:
            # With as many empty lines before it, errors tell the line of the page.
            run_python("\n" * block.line + block.text, names, page)
        elif block.kind == "bash":
            for command in commands_of(block.text):
                if reason_against(command, skipped) is None:
                    execute(command)


def runnable(kind: str) -> list[str]:
    """The pages with blocks of a kind that a test runs."""
    if kind == "python":
        pages = (page for page in BLOCKS if page not in SERVED)
        return [page for page in pages if any(block.kind == kind for block in BLOCKS[page])]
    return [*dict.fromkeys(block.page for block, command in all_commands() if not reason_against(command, NOT_RUN))]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in SLOW_PAGES else page
        for page in dict.fromkeys([*runnable("python"), *runnable("bash")])
    ],
)
def test_a_page_runs(page, world, tmp_path, monkeypatch, undrawn_plots):
    use_openmoji(monkeypatch, world.openmoji)
    use_few_films(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "hf_home"))  # exports are kept there
    world.enter(PAGES[page], tmp_path)
    monkeypatch.chdir(tmp_path)
    run_page(page, run_here, {**NOT_RUN, **ONLY_SLOW})


@pytest.mark.parametrize("page", [page for page in SLOW_PAGES if page in runnable("python")])
def test_what_a_slow_page_imports_is_there(page):
    for block in BLOCKS[page]:
        for node in ast.walk(ast.parse(block.text)) if block.kind == "python" else ():
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), page, "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable("bash"))
def test_a_page_runs_in_a_shell(page, world, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    world.enter(PAGES[page], tmp_path)
    monkeypatch.chdir(tmp_path)
    run_page(page, run_in_shell, NOT_RUN)


@pytest.mark.parametrize("page", BLOCKS)
def test_what_a_page_names_exists(page):
    for block in BLOCKS[page]:
        assert block.kind in ("bash", "python", "text", "json"), f"{block}: no test knows {block.kind!r}"
        if block.kind == "bash":
            for command in commands_of(block.text):
                check_command(command)
        elif block.kind != "python":
            tests = [
                test for (its, start), test in NO_PROGRAMS.items() if its == page and block.text.startswith(start)
            ]
            (test,) = tests
            assert callable(globals()[test])


def test_the_rows_of_films(tmp_path):
    captioned, moments = (block.text for block in BLOCKS["docs/evaluation/video.md"] if block.kind == "json")
    (tmp_path / "captioned.json").write_text(captioned)
    (tmp_path / "moments.jsonl").write_text(moments)
    options = CaptionedDataOptions(media="videos")
    assert len(load_retrieval(tmp_path / "captioned.json", options).captions) == 2
    assert load_moments(tmp_path / "moments.jsonl").windows[0].tolist() == [[0, 16]]


def test_the_settings_of_nginx_are_those_of_the_server():
    (settings,) = (block.text for block in BLOCKS["docs/howto/serve_security.md"] if block.text.startswith("server {"))
    limits = ServingLimits()
    assert int(re.search(r"client_max_body_size (\d+)m;", settings)[1]) * 2**20 == limits.max_body_bytes
    assert int(re.search(r"proxy_read_timeout (\d+)s;", settings)[1]) > limits.max_seconds
    assert "proxy_set_header Host $http_host;" in settings and f"http://{HOST}:{PORT};" in settings


def test_the_tables_have_no_entry_too_many():
    commands = [command for _, command in all_commands()]
    for beginning in (*NOT_RUN, *ONLY_SLOW):
        assert any(command.startswith(beginning) for command in commands), beginning
    assert all(any(block.kind == "python" for block in BLOCKS[page]) for page in SERVED)
    assert set(SLOW_PAGES) <= set(BLOCKS)
    for page, start in NO_PROGRAMS:
        assert any(block.text.startswith(start) for block in BLOCKS[page]), (page, start)
    docstrings = "".join(docstring for found in DOCSTRINGS.values() for docstring in found)
    for name in DOCSTRING_INPUTS:
        assert name in docstrings or (name in INPUTS and any(name in text for text in PAGES.values())), name
    assert len(NOT_RUN) <= 10


@pytest.mark.parametrize(
    "command",
    [
        "clip-hf evaluate model --dat digits",
        "clip-hf convert a b --tower-of text",
        "clip-hf train examples/recipes/demo.yaml --epoch 3",
        "clip-hf train examples/recipes/none.yaml",
        "python examples/linear_probe.py --model m --datum digits",
        "python examples/no_example.py",
        "accelerate launch --config_file examples/launch/none.yaml -m clip_hf train examples/recipes/demo.yaml",
        "torchrun --nproc_per_node 2 -m clip_hf train examples/recipes/demo.yaml --no_option 1",
        "python examples/train_clip.py --no_option 1",
        "torchrun --nproc_per_node 2 -m clip_hf evaluate model --no-option",
        "sbatch --nodes 4 examples/launch/none.sh examples/recipes/demo.yaml",
        "sbatch --nodes 4 examples/launch/slurm.sh examples/recipes/pretrain_rn50.yaml --output_dir outputs",
        "make no-such-target",
        "pip install 'clip_hf[train]'",
        "pip install -e '.[no-extra]'",
        "curl https://example.com",
        "curl http://127.0.0.1:8001/v1/embeddings",
        "curl -F image=@no_such_picture.png http://127.0.0.1:8000/v1/classify",
    ],
)
def test_a_wrong_command_is_found(command):
    # SystemExit is a launcher's parser's.
    with pytest.raises((AssertionError, ValueError, OSError, SystemExit)):
        check_command(shlex.join(shlex.split(command)))


@pytest.mark.parametrize(
    "text, error",
    [
        ("model.encode(image)", NameError),
        ("1 + 1  # 3", AssertionError),
        ("print(1 / 3)  # 0.34", AssertionError),
        ('{"top1": 0.5}  # {"top1": 0.52}', AssertionError),
    ],
)
def test_a_wrong_block_is_found(text, error):
    with pytest.raises(error):
        run_python(text, {}, "page")


def test_a_value_is_shown_as_it_is():
    run_python("x = 1 / 3\nprint(x)  # 0.33\n[1, 2]  # [1, 2]\nx  # a third\n{1: x}  # {1: ...}", {}, "page")


def test_no_two_pages_share_a_title():
    titles = [re.search(r"^# (.*)$", text, re.MULTILINE)[1].lower() for page, text in PAGES.items() if "docs/" in page]
    entries = re.findall(r"^ +- (.+): .+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(entries) > 30
    for names in (titles, [entry.lower() for entry in entries]):
        assert [name for name in names if names.count(name) > 1] == []


# ----------------------------------------------------------------------------------------------- blocks of other kinds


def block_that_starts(page: str, start: str) -> Block:
    (block,) = [block for block in BLOCKS[page] if block.text.startswith(start)]
    return block


def test_the_report_of_a_conversion(world, tmp_path, monkeypatch, capsys):
    page = "docs/howto/convert.md"
    world.enter(PAGES[page], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "RN50.pt", "rn50"]) == 0
    shown = block_that_starts(page, "RN50.pt (openai)").text
    texts = (capsys.readouterr().out, shown)
    reports = [[re.sub(r"\d[\d.e-]*", "0", line) for line in text.strip().splitlines()] for text in texts]
    labels = [[line.split(":")[0] for line in report] for report in reports]
    assert labels[0] == labels[1]
    # Which dtypes there are, and what there is to note, depends on the file.
    for line, expected in zip(*reports):
        assert line == expected or line.startswith(("dtypes:", "note:"))


def test_the_usage_of_convert(capsys):
    shown = block_that_starts("docs/reference/checkpoints.md", "clip-hf convert").text
    with contextlib.suppress(SystemExit):
        main(["convert", "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", shown)) == set(re.findall(r"--[a-z-]+", usage))


def test_the_line_of_a_metadata_file(tmp_path):
    line = block_that_starts("examples/README.md", "{").text
    (tmp_path / "metadata.jsonl").write_text(line, encoding="utf-8")
    image_of(0).save(tmp_path / json.loads(line)["file_name"])
    rows = load_pairs(str(tmp_path))
    assert rows["caption"] == ["a cat on a red mat"] and rows.num_rows == 1


def test_the_line_of_classify(world, tmp_path, monkeypatch, capsys):
    page = "docs/howto/zero_shot_classification.md"
    world.enter(PAGES[page], tmp_path)
    monkeypatch.chdir(tmp_path / "examples" / "pictures")
    assert main(["classify", "cat.png", "--model", str(tmp_path / "RN50.pt"), "--labels", "cat", "dog", "--json"]) == 0
    lines = [json.loads(line) for line in (block_that_starts(page, '{"image"').text, capsys.readouterr().out)]
    for line in lines:
        assert set(line) == {"image", "predictions"} and line["image"] == "cat.png"
        assert sorted(entry["label"] for entry in line["predictions"]) == ["cat", "dog"]
        assert sum(entry["score"] for entry in line["predictions"]) == pytest.approx(1)


def test_the_table_of_a_scaling_fit(capsys):
    page = "docs/evaluation/scaling.md"
    names = {}
    block = block_that_starts(page, "from clip_hf.evaluation import fit_scaling")
    run_python(block.text.split("result.save")[0], names, page)
    assert names["result"].table() in PAGES[page]


# ------------------------------------------------------------------------------------------- commands outside of pages

_IN_COMMENTS = re.compile(
    r"^[#\s]+((?:python examples/|torchrun |accelerate launch |sbatch |clip-hf )(?:.*\\\n)*.*)$", re.MULTILINE
)


@pytest.mark.parametrize(
    "path",
    [
        path.relative_to(ROOT).as_posix()
        for folder in ("examples", "src/_clip_hf_cli")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".yaml", ".sh") and _IN_COMMENTS.search(path.read_text(encoding="utf-8"))
    ],
)
def test_commands_in_comments_and_docstrings_can_be_given(path):
    for command in _IN_COMMENTS.findall((ROOT / path).read_text(encoding="utf-8")):
        # What explains an example of `--help` stands behind it.
        command = re.sub(r"\\+\n[#\s]*", " ", command)
        command = re.split(r" {3,}", command)[0]
        if command.endswith(" ..."):  # of a launcher, whose options must exist
            assert launched(shlex.split(command))
        else:
            check_command(command)


def test_commands_in_tables_can_be_given():
    names = "classify|convert|evaluate|compare"
    commands = [
        (page, command)
        for page, text in PAGES.items()
        for command in re.findall(rf"`((?:clip-hf (?:{names})|python examples/) ?[^`]+)`", text)
    ]
    assert len(commands) > 10
    for _, command in commands:
        check_command(command)


# ---------------------------------------------------------------------------------------------- examples in docstrings

DOCSTRINGS = {
    path.relative_to(ROOT).as_posix(): examples
    for path in sorted((ROOT / "src").rglob("*.py"))
    if (text := path.read_text(encoding="utf-8")) and ">>> " in text
    for examples in [re.findall(r'"""(?:(?!""").)*?^ *>>> (?:(?!""").)*"""', text, re.MULTILINE | re.DOTALL)]
}


# They export, train or fit for seconds, which tests of their own do.
SLOW_DOCSTRINGS = (
    "src/clip_hf/adaptation/adapting.py",  # trains
    "src/clip_hf/evaluation/tasks/adapter_heads.py",  # fits heads to five draws of four sizes
    "src/clip_hf/export/exporting.py",
)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path in SLOW_DOCSTRINGS else path for path in DOCSTRINGS],
)
def test_examples_in_docstrings(path, world, tmp_path, monkeypatch):
    module = importlib.import_module(path.removeprefix("src/").removesuffix(".py").replace("/", "."))
    names = {**docstring_names(), **vars(module)}
    assert DOCSTRINGS[path]
    for docstring in DOCSTRINGS[path]:
        world.enter(docstring, tmp_path / str(len(list(tmp_path.iterdir()))), DOCSTRING_INPUTS)
        monkeypatch.chdir(max(tmp_path.iterdir(), key=lambda folder: int(folder.name)))
        for example in doctest.DocTestParser().get_examples(inspect.cleandoc(docstring[3:-3]).replace("```", "")):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(example.source, f"{path}: {example.source}", "single"), names)
            found, flags = printed.getvalue(), doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
            assert not example.want or doctest.OutputChecker().check_output(example.want, found, flags), found
