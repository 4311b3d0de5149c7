# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf classify` and `clip-hf search` with `--server`: the output is that without, and errors say what to do."""

import io
import json
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from clip_hf.cli import main
from clip_hf.embedding import load_dual_encoder
from clip_hf.search import SearchHit, SearchResults, open_source_index
from clip_hf.serving import Client, LoadedModel
from encoding_inputs import write_model_and_photos
from live_server import live_server


KEY = "the-key-of-this-test"
LABELS = ["cat", "dogs in the snow", "number seven"]


@pytest.fixture(scope="module")
def folder(tiny_processor, tmp_path_factory):
    """A folder with `model`, six `photos` and their index, and two files that are no images."""
    folder = write_model_and_photos(tmp_path_factory.mktemp("served"), tiny_processor, 6)
    encoder = load_dual_encoder(folder / "model")
    open_source_index(folder / "photos", encoder)
    (folder / "bad").mkdir()
    (folder / "bad" / "cut.png").write_bytes((folder / "photos" / "1.png").read_bytes()[:200])
    (folder / "bad" / "text.jpg").write_bytes(b"no image")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def url(folder):
    """A server of the model with the index."""
    encoder = load_dual_encoder(folder / "model")
    with live_server(lambda: LoadedModel(encoder, open_source_index(folder / "photos", encoder))) as running:
        yield running


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run the command in the folder: exit status, output, errors."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(list(arguments))
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


_NUMBER = re.compile(r"-?\d+\.\d+(?:e-\d+)?")


def assert_alike(text: str, expected: str) -> None:
    """The same text, but for the last digits of its numbers."""
    assert _NUMBER.sub("#", text) == _NUMBER.sub("#", expected)
    assert list(map(float, _NUMBER.findall(text))) == pytest.approx(
        list(map(float, _NUMBER.findall(expected))), abs=1e-5
    )


# ------------------------------------------------------------------------------------------------------------ classify


@pytest.mark.parametrize(
    "options",
    [
        ["--json"],
        ["--top-k", "1"],
        ["--json", "--multi-label", "--threshold", "0.4"],
        ["--json", "--template", "a map of {}.", "the {}"],
        ["--json", "--template", "openai_imagenet_subset"],
        ["--json", "--batch-size", "2"],
    ],
)
def test_classify_writes_what_it_writes_without_a_server(url, run, options):
    arguments = ["classify", "photos", "photos/3.png", "--labels", *LABELS, *options]
    here, there = run(*arguments, "--model", "model", "--device", "cpu"), run(*arguments, "--server", url)
    assert there[0] == here[0] == 0
    assert_alike(there[1], here[1])
    assert there[1].count("\n") >= 7


def test_images_that_cannot_be_used_are_named_and_skipped(url, run):
    arguments = ["classify", "photos/0.png", "bad", "nope.png", "empty", "photos/1.png", "--labels", *LABELS, "--json"]
    here, there = run(*arguments, "--model", "model"), run(*arguments, "--server", url)
    assert_alike(there[1], here[1])
    assert there[0] == here[0] == 1 and there[1].count("\n") == 2
    lines = [line.removeprefix("clip-hf classify: ") for line in there[2].splitlines() if "clip-hf" in line]
    assert [line.partition(":")[0] for line in lines] == ["bad/cut.png", "bad/text.jpg", "nope.png", "empty"]
    assert lines[2:] == ["nope.png: there is no such file.", "empty: there is no image in this folder."]
    assert lines == [line.removeprefix("clip-hf classify: ") for line in here[2].splitlines() if "clip-hf" in line]


@pytest.mark.slow  # it starts a process
def test_answers_come_while_the_pipe_pauses(url, folder):
    command = [sys.executable, "-m", "clip_hf", "classify", "-", "--top-k", "1", "--server", url, "--labels", *LABELS]
    done = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    watch = threading.Timer(120, done.kill)
    watch.start()
    for names in (["photos/0.png"], ["photos/1.png", "photos/2.png"]):
        done.stdin.write("".join(f"{name}\n" for name in names))
        done.stdin.flush()
        assert [done.stdout.readline().split("\t")[0] for _ in names] == names
    done.communicate(timeout=60)
    watch.cancel()
    assert done.returncode == 0


def test_labels_that_are_too_long_end_it(url, run):
    status, out, err = run("classify", "photos", "--server", url, "--labels", "a " * 500, "b")
    assert (status, out) == (1, "") and "tokens" in err and "status 400" in err


# -------------------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize(
    "tokens",
    [
        ["a", "small", "red", "dog"],
        ["a beach", "+", "photos/3.png", "-", "0.5*people", "--top-k", "3"],
        ["./photos/5.png", "--filter", "width>0", "--no-match"],
        ["--threshold", "1", "a dog"],
    ],
)
def test_search_finds_what_it_finds_without_a_server(url, run, tokens):
    here = run("search", "photos", *tokens)
    for arguments in (["--server", url, *tokens], [*tokens, f"--serv={url}"]):
        status, out, err = run("search", *arguments)
        assert status == here[0] == 0
        assert_alike(out.replace(url, "photos"), here[1].replace("photos/", ""))
        assert err.splitlines()[0] == here[2].splitlines()[0]


def test_a_folder_among_the_words_is_told(url, run):
    assert "all words are the query, also photos, a folder here" in run("search", "--server", url, "photos", "dog")[2]
    assert "a folder here" not in run("search", "--server", url, "dog", "photos")[2]


def test_names_are_escaped_once(run, monkeypatch):
    found = SearchResults([SearchHit(1, 0.5, "a\\udce4\x1b.png", {"name": "a\\udce4\x1b\n.png"})], 0.5, None)
    monkeypatch.setattr(Client, "models", lambda self: [])
    monkeypatch.setattr(Client, "search", lambda self, *_, **__: found)
    assert run("search", "--server", "http://127.0.0.1:9", "dog")[1] == "0.500000\ta\\udce4\\x1b\\n.png\n"


def test_search_writes_json_and_a_sheet(url, run, tmp_path):
    status, out, _ = run("search", "--server", url, "a dog", "--json", "--top-k", "2", "--html", f"{tmp_path}/a.html")
    here = [json.loads(line) for line in run("search", "photos", "a dog", "--json", "--top-k", "2")[1].splitlines()]
    for record in here:
        del record["path"]  # where it lies on that machine
    there = [json.loads(line) for line in out.splitlines()]
    for record in (*here, *there):
        del record["metadata"]["read"]  # files that are new are read again
    assert status == 0 and [{**hit, "score": 0} for hit in there] == [{**hit, "score": 0} for hit in here]
    assert [hit["score"] for hit in there] == pytest.approx([hit["score"] for hit in here], abs=1e-6)
    sheet = (tmp_path / "a.html").read_text()
    assert sheet.count('src="data:image/') == 2 and f"a dog in {url}" in sheet


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("classify a.png --labels a --server URL --model m", "--server decides what --model would"),
        ("classify a.png --labels a --server URL --dtype float32 --draft", "what --draft, --dtype would"),
        ("classify a.png --labels a", "name a model with --model, or a server with --server"),
        ("search --server URL a --model m", "--server decides what --model would"),
        ("search --server URL a --rebuild --index i", "what --index, --rebuild would"),
        ("search --server URL a --batch-size 3 --over texts", "what --over, --batch-size would"),
        ("search --server URL --duplicates", "what --duplicates would"),
        ("search --server URL", "give a query, and no SOURCE"),
    ],
)
def test_options_that_do_not_go_with_a_server(run, line, message):
    status, _, err = run(*line.replace("URL", "http://127.0.0.1:9").split())
    assert status == 2 and message in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["classify photos --model model --labels a b", "search photos dog"])
def test_a_key_without_a_server(run, command):
    status, _, err = run(*command.split(), "--api-key-file", "key")
    assert status == 1 and "name the server with --server" in err.splitlines()[-1]


def test_nobody_listens(run):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        there = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status, _, err = run("search", "--server", there, "a dog")
    assert status == 1 and f"clip-hf search: No server at {there}: " in err and "`clip-hf serve MODEL`" in err
    status, _, err = run("classify", "photos", "--server", "127.0.0.1:80", "--labels", "a", "b")
    assert status == 1 and "must begin with http:// or https://" in err


class Other(BaseHTTPRequestHandler):
    """A server of something else."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, *_):
        pass


def test_another_server_listens(run):
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        status, _, err = run("search", "--server", there, "a dog")
        server.shutdown()
    assert status == 1 and f"{there} does not answer as `clip-hf serve` does. Is the address right?" in err


def test_keys_and_a_server_without_an_index(folder, run, monkeypatch):
    encoder = load_dual_encoder(folder / "model")
    (folder / "key").write_text(f"{KEY}\n")
    (folder / "wrong").write_text("another-key-that-is-wrong")
    with live_server(lambda: LoadedModel(encoder), api_key=KEY) as there:
        classify = ["classify", "photos/0.png", "--labels", "a", "b", "--server", there]
        assert run(*classify, "--api-key-file", "key")[0] == 0
        for more in ([], ["--api-key-file", "wrong"]):
            status, _, err = run(*classify, *more)
            assert status == 1 and "status 401" in err and "--api-key-file FILE or $CLIP_HF_API_KEY" in err
        monkeypatch.setenv("CLIP_HF_API_KEY", KEY)
        assert run(*classify)[0] == 0
        status, _, err = run("search", "--server", there, "a dog")
        assert status == 1 and "has no index" in err and "--index" in err
        status, _, err = run(*classify, "--api-key-file", "none")
        assert status == 1 and "--api-key-file: there is no file none." in err
        (folder / "blank").write_text("a b")
        status, _, err = run(*classify, "--api-key-file", "blank")
        assert status == 1 and "visible ASCII" in err and "--api-key-file FILE or" in err


def test_paths_need_standard_input(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    status, _, err = run("classify", "-", "--labels", "a", "b", "--server", "http://127.0.0.1:9")
    assert status == 1 and "No server at" in err
