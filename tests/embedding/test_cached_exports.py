# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The cache of exports below `$HF_HOME`: made once, mended if damaged, and clear where it cannot be written."""

import errno
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from clip_hf.embedding import load_dual_encoder
from clip_hf.export import opening
from tiny_models import make_tiny_model


TEXTS = ["a cat", "a map of the whole world"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The `$HF_HOME` of the test."""
    monkeypatch.setattr(opening.constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def cached(home, exported_folder, monkeypatch) -> list:
    """Exports are copies of those of the session. The list has an item for each."""
    made = []

    def copy(model, folder, runtime, *, processor):
        assert hasattr(processor, "save_pretrained")
        made.append(runtime)
        shutil.copytree(exported_folder("vit", runtime), folder)

    monkeypatch.setattr(opening, "export_model", copy)
    return made


@pytest.fixture
def load(tiny_processor):
    """Loads the same model by its export in the cache."""
    return lambda: load_dual_encoder(make_tiny_model("vit"), "onnx", processor=tiny_processor)


def entries(home: Path) -> list[Path]:
    return [path for path in (home / "clip_hf" / "exports").iterdir() if path.suffix != ".lock"]


@pytest.mark.slow
def test_a_model_is_exported_once(cached, home, tiny_processor, images, tmp_path):
    model = make_tiny_model("vit")
    ours = load_dual_encoder(model, processor=tiny_processor)
    exported = load_dual_encoder(model, "onnx", processor=tiny_processor)
    assert exported.name == "ClipHFModel (onnx, float32)"
    torch.testing.assert_close(exported.encode_images(images), ours.encode_images(images), atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    again = load_dual_encoder(tmp_path / "model", "onnx")  # the same weights
    assert cached == ["onnx"] and again.name == f"{tmp_path / 'model'} (onnx, float32)"
    (folder,) = entries(home)
    with torch.no_grad():
        model.logit_scale += 1
    load_dual_encoder(model, "onnx", processor=(tiny_processor.image_processor, tiny_processor.tokenizer))
    assert cached == ["onnx", "onnx"]
    (folder / "text_tower.onnx").write_bytes(b"damaged")
    mended = load_dual_encoder(tmp_path / "model", "onnx")
    assert cached == ["onnx"] * 3 and torch.equal(mended.encode_texts(TEXTS), again.encode_texts(TEXTS))


def test_hooks_are_refused_though_the_plain_model_was_exported(cached, tiny_processor):
    model = make_tiny_model("vit")
    load_dual_encoder(model, "onnx", processor=tiny_processor)
    model.visual_projection.register_forward_hook(lambda module, args, output: output.roll(1, -1))
    with pytest.raises(ValueError, match=r"'visual_projection' has hooks or a `forward` of its own \(forward_hook "):
        load_dual_encoder(model, "onnx", processor=tiny_processor)
    assert cached == ["onnx"]


def test_buffers_that_are_not_saved_count(cached, tiny_processor):
    model = make_tiny_model("vit")
    for sign in (1.0, 1.0, -1.0):
        model.visual_projection.register_buffer("sign", torch.tensor(sign), persistent=False)
        load_dual_encoder(model, "onnx", processor=tiny_processor)
    assert cached == ["onnx"] * 2


def test_the_processor_given_counts(cached, tiny_processor):
    processor = type(tiny_processor)(tiny_processor.image_processor, tiny_processor.tokenizer)
    assert load_dual_encoder(make_tiny_model("vit"), "onnx", processor=processor).processor is processor


def _truncate(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


def _replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("what is this?")


@pytest.mark.slow_but_for("<lambda>0", "<lambda>3", "<lambda>6")
@pytest.mark.parametrize(
    "damage",
    [
        _truncate("image_tower.onnx"),
        _truncate("config.json"),
        _truncate("export.json"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "export.json").write_text("null"),
        lambda folder: (folder / "export.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "export.json").unlink(),
        lambda folder: (folder / "text_tower.onnx").unlink(),
        lambda folder: [path.unlink() for path in folder.iterdir()],
        _replace_by_file,
    ],
)
def test_a_damaged_export_is_made_again(cached, home, load, damage):
    expected = load().encode_texts(TEXTS)
    (folder,) = entries(home)
    damage(folder)
    assert torch.equal(load().encode_texts(TEXTS), expected) and cached == ["onnx"] * 2
    assert torch.equal(load().encode_texts(TEXTS), expected) and cached == ["onnx"] * 2
    assert entries(home) == [folder]


def test_what_the_cache_does_not_use_may_be_missing(cached, home, load):
    load()
    (folder,) = entries(home)
    (folder / "tokenizer.json").unlink()
    load()
    shutil.rmtree(folder)  # someone makes room
    load()
    assert cached == ["onnx"] * 2


def test_an_export_that_is_there_needs_no_right_to_write(cached, home, load, monkeypatch):
    load()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(opening, "FileLock", refuse)
    load()
    assert cached == ["onnx"]
    (folder,) = entries(home)
    (folder / "export.json").unlink()
    with pytest.raises(OSError, match="Permission denied. Set HF_HOME to a folder with room that you may write to"):
        load()


def test_where_there_is_no_room_the_message_says_what_to_do(cached, home, load, monkeypatch):
    home.write_text("a file")  # a read-only file system fails alike
    with pytest.raises(OSError, match=r"could not be exported for the runtime 'onnx' into .*home/clip_hf/exports: "):
        load()
    home.unlink()

    def fill(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(opening, "export_model", fill)
    with pytest.raises(OSError, match="No space left on device.*`clip-hf export MODEL FOLDER --runtime onnx`"):
        load()

    def without_locks(*args, **kwargs):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(opening, "FileLock", without_locks)
    with pytest.raises(OSError, match="does not appear to support flock.*Set HF_HOME"):
        load()


def test_what_another_process_exports_meanwhile_is_taken(cached, home, load, monkeypatch):
    load()
    (folder,) = entries(home)
    folder.rename(home / "made")

    def wait(path):
        (home / "made").rename(folder)
        return nullcontext()

    monkeypatch.setattr(opening, "FileLock", wait)
    load()
    assert cached == ["onnx"]


def test_the_lock_of_a_killed_process_is_none(cached, home, load):
    load()
    (folder,) = entries(home)
    shutil.rmtree(folder)
    code = "import sys, time, filelock; filelock.FileLock(sys.argv[1]).acquire(); print(1, flush=True); time.sleep(99)"
    command = [sys.executable, "-c", code, f"{folder}.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "1\n"
        holder.send_signal(signal.SIGKILL)
    load()
    assert cached == ["onnx"] * 2
