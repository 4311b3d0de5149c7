# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf serve`: what its options become, and what it refuses before anything slow."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import _clip_hf_cli.serve as arguments
from clip_hf.cli import main
from clip_hf.cli import serve as cli_serve
from clip_hf.embedding import load_dual_encoder
from clip_hf.search import open_source_index
from clip_hf.serving import BatchingOptions, ServerOptions, ServingLimits
from clip_hf.serving.http_server import DRAIN_SECONDS, bind
from encoding_inputs import write_model_and_photos
from pair_data import image_of
from tiny_models import make_tiny_model


KEY = "a-key-of-more-than-16-characters"


@pytest.fixture(scope="module")
def folder(tiny_processor, tmp_path_factory) -> Path:
    """A folder with a tiny `model` and `photos`."""
    return write_model_and_photos(tmp_path_factory.mktemp("serve"), tiny_processor, 3)


@pytest.fixture
def served(monkeypatch) -> list[SimpleNamespace]:
    """What would be served, in place of serving it."""
    calls: list[SimpleNamespace] = []

    def serve(load, options, host, port, **more):
        calls.append(SimpleNamespace(load=load, options=options, host=host, port=port, **more))
        return 0

    monkeypatch.setattr(cli_serve, "serve", serve)
    monkeypatch.delenv(arguments.KEY_VARIABLE, raising=False)
    return calls


def refused(capfd, *line: str) -> str:
    """What a command says that ends with status 1."""
    assert main(["serve", *map(str, line)]) == 1
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("clip-hf serve: ") and said.err.count("\n") == 1
    return said.err


def test_the_defaults_are_the_librarys(served):
    assert main(["serve", "openai/clip-vit-base-patch32"]) == 0
    (call,) = served
    assert call.options == ServerOptions("openai/clip-vit-base-patch32")
    assert (call.host, call.port, call.drain_seconds) == ("127.0.0.1", 8000, DRAIN_SECONDS)


def test_options_arrive(served, folder):
    line = "--name x --host ::1 --port 0 --drain-seconds 1 --max-batch-images 1 --max-batch-texts 2 --max-wait-ms 3"
    line += " --allow-image-hosts a.example --allowed-hosts b.example c.example --max-image-pixels 9"
    limits = {name: 1 + number for number, name in enumerate(arguments.LIMITS)}
    limits |= {"pending_items": 100, "pending_bytes": 100}
    for name, value in limits.items():
        line += f" --max-{name.replace('_', '-')} {value}"
    assert main(["serve", str(folder / "model"), *line.split()]) == 0
    (call,) = served
    assert (call.host, call.port, call.drain_seconds) == ("::1", 0, 1.0)
    assert call.options == ServerOptions(
        name="x",
        allowed_hosts=("b.example", "c.example"),
        allow_image_hosts=("a.example",),
        limits=ServingLimits(max_image_pixels=9, **{f"max_{name}": value for name, value in limits.items()}),
        batching=BatchingOptions(1, 2, 3.0),
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("model", "model"),
        ("model/", "model"),
        ("../serve/model", "model"),
        (".", "serve"),
        ("me/clip", "me/clip"),
        ("open_clip:ViT-B-32/openai", "openai"),
        ("open_clip:ViT-B-32//home/me/weights.pt", "weights.pt"),
        ("sentence_transformers:clip", "sentence_transformers:clip"),
    ],
)
def test_the_name_is_no_path(model, name, tmp_path, monkeypatch):
    (tmp_path / "serve" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "serve")
    assert cli_serve.default_name(model) == name


# -------------------------------------------------------------------------------------------------------- who may ask


def test_other_machines_need_a_key(served, capfd, monkeypatch):
    line = ("m", "--host", "0.0.0.0")
    assert "--host 0.0.0.0 lets other machines in: give --api-key-file or set CLIP_HF_API_KEY" in refused(capfd, *line)
    assert main(["serve", *line, "--no-api-key"]) == 0
    monkeypatch.setenv(arguments.KEY_VARIABLE, f"{KEY}\n")
    assert main(["serve", *line]) == 0
    assert main(["serve", *line, "--no-api-key", "--allowed-hosts", "a.example"]) == 0
    assert [call.options.api_key for call in served] == [None, KEY, None]
    assert [call.options.allowed_hosts for call in served] == [("*",), ("*",), ("a.example",)]


@pytest.mark.parametrize(
    ("host", "address"), [("LOCALHOST", "127.0.0.1"), ("127.1", "127.0.0.1"), ("127.8.9.10", "127.8.9.10")]
)
def test_this_machine_is_known_by_its_address(served, host, address):
    assert main(["serve", "m", "--host", host]) == 0
    assert served[0].host == address and served[0].options.allowed_hosts == ()


def test_a_key_may_be_in_a_file(served, capfd, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert main(["serve", "m", "--api-key-file", str(tmp_path / "key")]) == 0
    assert served[0].options.api_key == KEY
    (tmp_path / "key").write_text(f"{KEY} {KEY}")
    assert "white space" in refused(capfd, "m", "--api-key-file", tmp_path / "key")
    (tmp_path / "key").write_text("")
    assert "has 0 characters; it needs 16 or more" in refused(capfd, "m", "--api-key-file", tmp_path / "key")
    said = refused(capfd, "m", "--api-key-file", tmp_path / "none")
    assert said == f"clip-hf serve: --api-key-file: there is no file {tmp_path / 'none'}.\n"
    assert "cannot be read: Is a directory" in refused(capfd, "m", "--api-key-file", tmp_path)
    (tmp_path / "key").write_bytes(b"\xff" * 20)
    assert "holds no text" in refused(capfd, "m", "--api-key-file", tmp_path / "key")
    (tmp_path / "key").write_text("k" * 4097)
    assert "has 4,097 characters; it may have 4,096" in refused(capfd, "m", "--api-key-file", tmp_path / "key")


@pytest.mark.parametrize(("mode", "is_warned"), [(0o666, True), (0o644, False)])
def test_a_key_that_everyone_can_change_is_warned_of(served, mode, is_warned, capfd, tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    assert main(["serve", "m", "--api-key-file", str(path)]) == 0
    said = capfd.readouterr().err
    assert (f"WARNING --api-key-file: {path} can be changed by every user" in said) == is_warned


def test_an_empty_key_in_the_environment_is_none_that_opens(served, capfd, monkeypatch):
    monkeypatch.setenv(arguments.KEY_VARIABLE, "")
    assert "has 0 characters" in refused(capfd, "m")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--port 65536", "--port is 65536; a port is 0 to 65535."),
        ("--port -1", "--port is -1"),
        ("--drain-seconds -1", "--drain-seconds is -1.0"),
        ("--name /home/me", "a path, which clients must not see"),
        ("--allowed-hosts http://a", "'http://a' is no name or address"),
        ("--max-items 0", "--max-items is 0; it must be a number greater than 0."),
        ("--max-items 40000", "no request of that size would ever be taken"),
        ("--max-wait-ms -1", "--max-wait-ms is -1.0"),
        ("--device nowhere", "The device 'nowhere' is not on this machine"),
        ("--index nowhere", "nowhere"),
        ("--rebuild", "--rebuild: what belongs to an index goes with"),
        ("--max-image-bytes 0", "--max-image-bytes is 0; it must be a number greater than 0."),
        ("--max-image-seconds nan", "--max-image-seconds is nan"),
        ("--background-color blurple", "'blurple' is not a colour"),
        ("--split train --max-skipped-share 0.5", "--split, --max-skipped-share: what belongs to an index goes with"),
        ("--image-column x --image-root .", "--image-column, --image-root: what belongs to an index goes with"),
        ("--host=", "The host is empty"),
        ("--host 127.0.0.1:80", "'127.0.0.1:80' has a port"),
        ("--host [::1]", "'[::1]' has brackets"),
        ("--host http://a", "'http://a' is a URL"),
        ("--host no.such.invalid", "'no.such.invalid' cannot be resolved"),
    ],
)
def test_wrong_options_are_refused_at_once(served, line, message, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capfd, "m", *line.split())
    assert served == []


@pytest.mark.parametrize("model", ["./model", "/nowhere/model", "a/b/model", "model.safetensors"])
def test_a_path_that_is_not_there_is_refused_at_once(served, model, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"There is no file or folder {model}." in refused(capfd, model)
    assert served == []


def test_options_that_exclude_each_other_are_a_wrong_command_line():
    with pytest.raises(SystemExit) as stop:
        main(["serve", "m", "--no-api-key", "--api-key-file", "x"])
    assert stop.value.code == 2


def test_a_port_in_use_is_one_line(folder, capfd):
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = refused(capfd, folder / "model", "--port", port)
    assert said.startswith(f"clip-hf serve: Cannot listen on 127.0.0.1 port {port}: it is in use: stop the other")


def test_a_model_that_cannot_be_loaded_is_one_line(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "nowhere", "--port", "0"]) == 1
    said = capfd.readouterr()
    assert said.out.startswith("listening on http://127.0.0.1:")
    (line,) = [line for line in said.err.splitlines() if "nowhere" in line]
    assert line.startswith("clip-hf serve: There is no file or folder 'nowhere' here")


# ---------------------------------------------------------------------------------------------------------- the index


def test_a_source_is_indexed_beside_it(served, folder):
    assert main(["serve", str(folder / "model"), "--index", str(folder / "photos")]) == 0
    loaded = served[0].load()
    assert len(loaded.source.index) == 3 and (folder / "photos.clip-index").is_dir()
    assert main(["serve", str(folder / "model"), "--index", str(folder / "photos.clip-index")]) == 0
    assert len(served[1].load().source.index) == 3
    assert main(["serve", str(folder / "model")]) == 0
    assert served[2].load().source is None


def test_an_index_of_another_model_is_refused(served, folder, tiny_processor, tmp_path):
    other = make_tiny_model("resnet")
    other.save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")
    encoder = load_dual_encoder(str(tmp_path / "other"))
    index = open_source_index(folder / "photos", encoder, index_folder=tmp_path / "index").index
    assert main(["serve", str(folder / "model"), "--index", str(index.folder)]) == 0
    with pytest.raises(ValueError, match="other"):
        served[0].load()
    of_other = tmp_path / "photos"
    of_other.mkdir()
    image_of(0).save(of_other / "a.png")
    open_source_index(of_other, encoder)
    line = ["serve", str(folder / "model"), "--index", str(of_other)]
    assert main(line) == main([*line, "--rebuild"]) == 0
    with pytest.raises(ValueError, match=r"build it anew \(--rebuild\)"):
        served[1].load()
    assert len(served[2].load().source.index) == 1


# ----------------------------------------------------------------------------------------------------- the whole of it


@pytest.mark.slow
def test_it_listens_answers_and_ends_with_0(folder):
    command = [sys.executable, "-m", "clip_hf", "serve", str(folder / "model"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
        ready = process.stdout.readline()
        assert (
            ready.startswith("ready in ")
            and float(ready.split()[2]) > 0.5
            and ready.endswith("  model model (torch, float32)\n")
        )
        address = ready.split()[4]
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": "a secret"}, headers={"x-request-id": "mine"})
        assert len(answer.json()["data"][0]["embedding"]) == 16
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 'mine "POST /v1/embeddings" 200' in logged and "secret" not in logged
