# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf embed`: the command as a whole, by itself, killed, and on several processes."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip_hf.cli import main
from clip_hf.embedding import part_files, read_embeddings
from encoding_inputs import files_in, write_model_and_photos
from pair_data import encoded, image_of
from several_processes import torchrun


ROWS = 40
SMALL = ("--rows-per-part", "8", "--batch-size", "4", "--num-threads", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_processor) -> Path:
    """A folder with `model`, and images in `photos`."""
    return write_model_and_photos(tmp_path_factory.mktemp("embed"), tiny_processor, ROWS)


def test_the_command_embeds_and_says_what_there_is(folder, tmp_path, capsys):
    arguments = ["embed", f"{folder}/model", f"{folder}/photos", f"{tmp_path}/out", *SMALL]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"40 rows in 5 parts of {tmp_path}/out.\n") and "rows/s; model " in said
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"40 rows in 5 parts of {tmp_path}/out.\n"
    assert main([*arguments, "--file-dtype", "float32"]) == 1
    assert "options dtype (--file-dtype) is 'float16' there and 'float32' now" in capsys.readouterr().err


def test_the_command_fails_where_parts_are_gone_in_the_end(folder, tmp_path, monkeypatch, capsys):
    write = part_files.PartStore.write

    def forgetful(store, name, content):
        record = write(store, name, content)
        (tmp_path / "out" / "rows" / "part-00000-00000.parquet").unlink(missing_ok=True)
        return record

    monkeypatch.setattr(part_files.PartStore, "write", forgetful)
    arguments = ["embed", f"{folder}/model", f"{folder}/photos", f"{tmp_path}/out", *SMALL]
    assert main(arguments) == 1
    assert f"{tmp_path}/out lost 1 part while the job ran, part-00000-00000 first" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(arguments) == 0


def test_paths_come_from_standard_input(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.png").write_bytes(encoded(image_of(0))[:-50])
    lines = f"{folder}/photos/00.png\n{tmp_path}/bad.png\n{folder}/photos/01.png\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["embed", f"{folder}/model", "-", f"{tmp_path}/out", *SMALL, "--images"]) == 0
    said = capsys.readouterr().out
    left_out = f"Left out: 1 file truncated; {tmp_path}/out/bad lists them.\n  The image of row 1 ("
    assert f"{left_out}{tmp_path}/bad.png) cannot be used: " in said and said.count("bad.png") == 1
    (part,) = read_embeddings(tmp_path / "out")
    assert part.rows["name"].to_pylist() == [f"{folder}/photos/00.png", f"{folder}/photos/01.png"]


def test_blank_lines_of_standard_input_do_not_count_and_odd_names_are_said(folder, tmp_path, monkeypatch, capsys):
    image_of(0).save(tmp_path / "a.png\r", format="png")
    arguments = ["embed", f"{folder}/model", "-", f"{tmp_path}/out", *SMALL]
    lines = f"\n{folder}/photos/00.png\r\n  \n\t\r\n{folder}/photos/01.png".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("2 rows in 1 part")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{tmp_path}/a.png\r\n".encode())))
    assert main([*arguments[:3], f"{tmp_path}/odd", *SMALL]) == 1
    assert "a.png\\r' is no path that a list can hold" in capsys.readouterr().err


def test_an_image_root_that_comes_later_needs_a_retry(folder, tmp_path, capsys):
    (tmp_path / "t.csv").write_text(f"image\n{folder}/photos/00.png\nb.png\n")
    image_of(1).save(tmp_path / "b.png")
    arguments = ["embed", f"{folder}/model", f"{tmp_path}/t.csv", f"{tmp_path}/out", "--max-skipped-share", "1"]
    for more in ([], ["--image-root", f"{folder}/photos"]):
        assert main([*arguments, *more]) == 0
        assert "1 location refused; " in (said := capsys.readouterr().out) and "--retry-bad" in said
    assert main([*arguments, *more, "--retry-bad"]) == 0
    assert capsys.readouterr().out.startswith("2 rows in 1 part")


@pytest.mark.parametrize("shard", ["4/4", "1", "-1/2", "a/b"])
def test_a_share_that_is_none_is_refused(shard, folder, tmp_path, capsys):
    assert main(["embed", f"{folder}/model", f"{folder}/photos", f"{tmp_path}/out", f"--shard={shard}"]) == 1
    assert f"shard` is {shard}" in capsys.readouterr().err.replace("--shard is '", "shard` is ").replace("'", "")
    assert not (tmp_path / "out").exists()


def test_shares_make_up_the_whole(folder, tmp_path, capsys):
    for task in "01":
        arguments = ["embed", f"{folder}/model", f"{folder}/photos", f"{tmp_path}/out", *SMALL, "--shard", f"{task}/2"]
        assert main(arguments) == 0
        assert ("of other shares are missing" in capsys.readouterr().out) == (task == "0")
    assert read_embeddings(tmp_path / "out").summary["rows"] == ROWS


@pytest.mark.slow
def test_processes_of_a_launch_share_the_work(folder, tmp_path):
    assert main(["embed", f"{folder}/model", f"{folder}/photos", f"{tmp_path}/plain", *SMALL]) == 0
    done = torchrun("-m", "clip_hf", "embed", folder / "model", folder / "photos", tmp_path / "out", *SMALL)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "out", with_hidden=False) == files_in(tmp_path / "plain")


@pytest.mark.slow
def test_kills_change_nothing(folder, tmp_path):
    command = [sys.executable, "-m", "clip_hf", "embed", f"{folder}/model", f"{folder}/photos"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ("--rows-per-part", "2", "--batch-size", "2")
    subprocess.run([*command, f"{tmp_path}/plain", *options], env=environment, check=True, capture_output=True)
    generator, kills = random.Random(0), 0
    for _ in range(4):
        job = subprocess.Popen([*command, f"{tmp_path}/out", *options], env=environment, stdout=subprocess.DEVNULL)
        before = len(list(tmp_path.glob("out/rows/part-*")))
        while job.poll() is None and len(list(tmp_path.glob("out/rows/part-*"))) <= before:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.02)
        job.send_signal(signal.SIGKILL)
        kills += job.wait() == -signal.SIGKILL
    subprocess.run([*command, f"{tmp_path}/out", *options], env=environment, check=True, capture_output=True)
    assert kills
    assert files_in(tmp_path / "out", with_hidden=False) == files_in(tmp_path / "plain")
