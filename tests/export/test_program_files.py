# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Graphs that cannot be written, because a disk is full or files may not be so long."""

import shutil
import tempfile

import pytest

from clip_hf.export import ClipHFExportedConfig, program_files
from clip_hf.export.exporting import export_towers
from clip_hf.export.program_files import needing_room, write_program
from clip_hf.export.quantizing import quantize_towers
from clip_hf.export.sources import describe_model
from file_limits import longest_file
from tiny_models import make_tiny_model


@pytest.fixture
def temporary(tmp_path):
    """A folder as `replaced_folder` makes it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def test_what_libraries_say_becomes_an_error_of_the_disk(temporary):
    def save(program, path):
        raise RuntimeError(f"iostream error at {program}")

    with pytest.raises(OSError) as caught:
        write_program(save, "graph", temporary / "tower.xml", 5_000_000)
    message = str(caught.value)
    assert f"tower.xml could not be written in {temporary.parent} (iostream error at graph)" in message
    assert "up to 5 MB" in message and "MB are free there" in message and "ulimit" not in message
    with longest_file(2_000_000), pytest.raises(OSError, match=r"files may have 2 MB \(`ulimit -f`\)"):
        write_program(save, "graph", temporary / "tower.xml", 5_000_000)


def test_want_of_memory_is_no_want_of_room(temporary):
    def save(program, path):
        raise MemoryError

    with pytest.raises(MemoryError):
        write_program(save, None, temporary / "tower.xml", 1)


def test_errors_of_other_kinds_pass_where_there_is_room(monkeypatch, tmp_path):
    def fail(error):
        with needing_room("A graph", tmp_path, 1_000_000):
            raise error

    with pytest.raises(RuntimeError, match="no such operator"):
        fail(RuntimeError("no such operator"))
    with pytest.raises(OSError, match=f"A graph could not be written in {tmp_path} .65536 requested and 3 written"):
        fail(OSError("65536 requested and 3 written"))
    monkeypatch.setattr(program_files, "_room", lambda folder: (999_999, 2**60))
    with pytest.raises(OSError, match="A graph could not be written"):
        fail(RuntimeError("bad stream"))


@pytest.mark.slow
def test_exporters_that_find_no_room(runtime, temporary, tiny_processor):
    model = make_tiny_model("vit")
    config = describe_model(model, tiny_processor, runtime, "float32")
    with (
        longest_file(20_000),
        pytest.raises(OSError, match=f"image_tower.* could not be written in {temporary.parent}"),
    ):
        export_towers(model, config, temporary)


def test_quantizers_that_find_no_room(runtime, exported_folder, temporary):
    shutil.copytree(exported_folder("vit", runtime), temporary, dirs_exist_ok=True)
    config = ClipHFExportedConfig.from_pretrained(temporary, precision="int8")
    # ONNX Runtime's writes into a temporary folder first.
    where = tempfile.gettempdir() if runtime == "onnx" else temporary.parent
    with longest_file(20_000), pytest.raises(OSError, match=f"image_tower.* could not be written in {where}"):
        quantize_towers(temporary, config, None)
