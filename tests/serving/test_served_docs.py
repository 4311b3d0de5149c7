# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pages about the server, against a server as a reader starts it: curl lines with the answers that comments show
below them, and blocks of Python."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snippet_inputs import write_ours
from snippets import ROOT, blocks_of, run_python


PORT = 8000  # in the pages
PAGES = ("README.md", "docs/howto/serve.md", "docs/howto/serve_api.md")
# Words that an answer must repeat; other strings and all numbers depend on the model.
_FIXED = ("object", "model", "owned_by", "status", "type", "param", "code", "encoding_format")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """The command of the pages in a folder like the checkout, with a tiny model: the folder, and the address."""
    folder = tmp_path_factory.mktemp("served_docs")
    write_ours("vit")(folder / "outputs" / "demo" / "vit" / "last")
    shutil.copytree(ROOT / "examples" / "pictures", folder / "examples" / "pictures")
    command = "-m clip_hf serve outputs/demo/vit/last --index examples/pictures --port 0".split()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        lines = iter(process.stdout.readline, "")
        address = next(match[0] for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        next(line for line in lines if "ready" in line)
        yield folder, address
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait(30) == 0


def curl_lines(page: str) -> list[tuple[str, str | None]]:
    """The curl commands of a page, each with the answer that the comment below it shows."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [
        line
        for block in blocks_of(page, text)
        if block.kind == "bash"
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    return [
        (line, after[2:] if after.startswith("# {") else None)
        for line, after in zip(lines, [*lines[1:], ""])
        if line.startswith("curl ")
    ]


def parse_shown(shown: str):
    """JSON in which `...` stands for what is left out."""
    python = re.sub(r"\.\.\.\}", '"...": ...}', re.sub(r", \.\.\.\]", ", ...]", shown))
    for json_word, python_word in (("null", "None"), ("true", "True"), ("false", "False")):
        python = re.sub(rf"\b{json_word}\b", python_word, python)
    return ast.literal_eval(python)


def check_answer(shown, given, where: str = "answer") -> None:
    """Compare an answer with the one that a page shows: the same fields, lengths and types, and fixed words."""
    if isinstance(shown, dict):
        whole = "..." not in shown
        names = shown.keys() - {"..."}
        assert names == given.keys() if whole else names <= given.keys(), (where, given.keys())
        for name in names:
            if name in _FIXED:
                assert given[name] == shown[name], where
            check_answer(shown[name], given[name], f"{where}.{name}")
    elif isinstance(shown, list):
        whole = ... not in shown
        assert len(given) == len(shown) if whole else len(given) >= len(shown), where
        for place, (one, other) in enumerate(zip(shown, given)):
            check_answer(one, other, f"{where}[{place}]")
    elif shown is not ...:
        numbers = isinstance(shown, int | float) and isinstance(given, int | float)
        assert numbers or type(shown) is type(given), (where, given)


@pytest.mark.parametrize("page", PAGES)
def test_the_curl_lines_of_a_page(page, server):
    folder, address = server
    lines = curl_lines(page)
    assert lines, page
    for line, shown in lines:
        command = line.replace(f"http://127.0.0.1:{PORT}", address)
        assert command != line, line
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{command} --fail-with-body --max-time 30"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        is_error = shown is not None and shown.startswith('{"error"')
        assert done.returncode == (22 if is_error else 0), (line, done.stdout, done.stderr)
        if shown is not None:
            check_answer(parse_shown(shown), json.loads(done.stdout), line)


def test_the_thumbnail_is_a_jpeg(server):
    folder, _ = server
    assert (folder / "hit.jpg").read_bytes().startswith(b"\xff\xd8")


def test_the_python_of_the_page(server, monkeypatch):
    folder, address = server
    monkeypatch.chdir(folder)
    page, names = "docs/howto/serve.md", {"__name__": "__main__"}
    blocks = [block for block in blocks_of(page, (ROOT / page).read_text(encoding="utf-8")) if block.kind == "python"]
    assert len(blocks) >= 2
    for block in blocks:
        run_python("\n" * block.line + block.text.replace(f"http://127.0.0.1:{PORT}", address), names, page)


def test_every_route_has_a_curl_line(client):
    described = client.get("/openapi.json").json()["paths"]
    text = (ROOT / "docs/howto/serve_api.md").read_text(encoding="utf-8")
    for path in described:
        assert f"http://127.0.0.1:{PORT}{path.partition('{')[0]}" in text, path


@pytest.mark.parametrize(
    "shown",
    [
        '{"object": "list"}',
        '{"object": "model", "data": [1, 2], "more": "x"}',
        '{"object": "list", "data": [1, 2, 3], "more": "x"}',
        '{"object": "list", "data": [1, 2], "more": null}',
        '{"object": "list", "other": ..., ...}',
    ],
)
def test_a_wrong_answer_is_found(shown):
    given = {"object": "list", "data": [5, 6.5], "more": "y"}
    for right in ('{"object": "list", "data": [1, ...], ...}', '{"object": "list", "data": [1, 2], "more": "x..."}'):
        check_answer(parse_shown(right), given)
    with pytest.raises(AssertionError):
        check_answer(parse_shown(shown), given)
