# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tars that cannot be reached or are cut off: what training, evaluation and embedding make of them."""

import builtins
import errno
import gzip
import io
import os
from pathlib import Path

import pytest
from transformers.testing_utils import CaptureLogger

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import PairLoader, PairOptions, load_pairs, streaming, tars
from clip_hf.data.row_shards import RowColumns, shard_rows
from clip_hf.data.tars import DamagedTar, UnreachableTar, check_ends, tar_samples
from clip_hf.evaluation import ClassificationOptions, load_classification, load_retrieval
from pair_data import caption_of, samples_of, write_tar


pytestmark = pytest.mark.usefixtures("own_cache")
URL = "https://example.org/b.tar"


def samples_in(tar: str | Path) -> list:
    return list(tar_samples(str(tar), lambda ending: True))


@pytest.fixture
def whole(tmp_path) -> bytes:
    path = tmp_path / "whole.tar"
    data = Path(write_tar(path, samples_of(range(4)))).read_bytes()
    path.unlink()
    return data


def spoilt(data: bytes) -> bytes:
    """A gzip file of which one byte of the content is another, which only its checksum tells."""
    raw = bytearray(gzip.compress(data, compresslevel=0))
    place = raw.index(b"drawing number 1")
    raw[place] ^= 1
    return bytes(raw)


DAMAGED = {
    "empty": (lambda whole: b"", "it lacks the blocks of zeros"),
    "cut between two members": (
        lambda whole: whole[:2048],
        "it lacks the blocks of zeros that end a tar, so it is cut",
    ),
    "cut in a member": (lambda whole: whole[:3000], "unexpected end of data, after the member .*png at byte 2,048"),
    "cut after gzip": (lambda whole: gzip.compress(whole)[:-500], "end-of-stream"),
    "cut in the padding of gzip": (lambda whole: gzip.compress(whole, compresslevel=0)[:-10], "end-of-stream"),
    "of a wrong checksum": (lambda whole: spoilt(whole + bytes(2**17)), "CRC check failed"),
    "a page": (lambda whole: b"<html>404 not found</html>" * 40, "invalid header"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_no_end_is_taken_for_that_of_the_tar(kind, whole, tmp_path):
    spoil, message = DAMAGED[kind]
    (tmp_path / "a.tar").write_bytes(spoil(whole))
    with pytest.raises(DamagedTar, match=f"The tar .*a.tar is damaged, or cannot be read: .*{message}") as caught:
        samples_in(tmp_path / "a.tar")
    assert not isinstance(caught.value, UnreachableTar)


def test_whole_tars_have_nothing_wrong(whole, tmp_path):
    for name, data in (("a", whole), ("b", gzip.compress(whole)), ("c", whole + b"signature"), ("d", bytes(1024))):
        (tmp_path / f"{name}.tar").write_bytes(data)
        assert len(samples_in(tmp_path / f"{name}.tar")) == (0 if name == "d" else 4)
    check_ends([str(tmp_path / f"{name}.tar") for name in "abcd"] + [URL])


def test_tars_that_are_cut_off_are_named_before_anything_is_read(whole, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(whole[:6000] if number % 2 else whole)
    with pytest.raises(DamagedTar, match=r"1.tar is damaged, .* The same holds for .*3.tar. Copy or download them"):
        shard_rows(tmp_path, RowColumns())


def fail_to_open(monkeypatch, name: str, number: int) -> None:
    opened = builtins.open

    def refuse(path, *arguments, **keywords):
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", refuse)


def test_a_tar_that_cannot_be_opened_may_be_whole(whole, tmp_path, monkeypatch):
    (tmp_path / "folder.tar").mkdir()
    for name, message in (("nowhere", "No such file"), ("folder", "Is a directory")):
        with pytest.raises(UnreachableTar, match=f"{name}.tar cannot be opened: {message}"):
            samples_in(tmp_path / f"{name}.tar")
    (tmp_path / "a.tar").write_bytes(whole)
    fail_to_open(monkeypatch, "a.tar", errno.EACCES)
    with pytest.raises(UnreachableTar, match="a.tar cannot be opened: Permission denied"):
        samples_in(tmp_path / "a.tar")
    with pytest.raises(UnreachableTar, match="Permission denied"):
        check_ends([str(tmp_path / "a.tar")])
    for place in ("ftp://example.org/b.tar", "pipe:cat b.tar"):
        with pytest.raises(UnreachableTar, match="cannot be opened"):
            samples_in(place)
    fail_to_open(monkeypatch, "a.tar", errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        samples_in(tmp_path / "a.tar")
    assert caught.value.errno == errno.EIO


class Remote:
    """A tar on a server, of which not all comes."""

    def __init__(self, data: bytes, error: Exception | None):
        self.data, self.error = data, error

    def open(self) -> io.RawIOBase:
        file = io.BytesIO(self.data)
        if self.error is not None:
            read = file.readinto

            def broken(buffer):
                if count := read(buffer):
                    return count
                raise self.error

            return type("Broken", (io.RawIOBase,), {"readable": lambda _: True, "readinto": lambda _, b: broken(b)})()
        return type(
            "Short", (io.RawIOBase,), {"readable": lambda _: True, "readinto": lambda _, b: file.readinto(b)}
        )()


@pytest.mark.parametrize("error", [None, ConnectionResetError("the server is gone")])
def test_a_transfer_that_breaks_off_does_not_end_the_tar(error, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(tars.fsspec, "open", lambda url, mode: Remote(whole[:5000], error))
    with pytest.raises(UnreachableTar, match="b.tar is damaged, or cannot be read"):
        samples_in(URL)
    (tmp_path / "a.tar").write_bytes(whole)
    # What is kept of a training's data must not lack a tar that only this once could not be read.
    with pytest.raises(UnreachableTar, match="b.tar"):
        load_pairs(f"{tmp_path}/a.tar::{URL}")
    first, second = shard_rows(f"{tmp_path}/a.tar::{URL}", RowColumns()).shards
    assert [row["caption"] for row in first.read(0, None)] == list(map(caption_of, range(4)))
    with pytest.raises(UnreachableTar, match="b.tar"):
        list(second.read(0, None))


def test_a_stream_goes_on_after_a_tar_that_cannot_be_reached(whole, tmp_path, monkeypatch, tiny_tokenizer):
    processor = ClipHFProcessor(ClipHFImageProcessor(size=10, crop_size=10), tiny_tokenizer)
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(whole)
    data = load_pairs(f"{tmp_path}/*.tar", streaming=True)
    fail_to_open(monkeypatch, "b.tar", errno.EACCES)
    options = PairOptions(shuffle_buffer=4)
    with CaptureLogger(streaming.logger) as logged:
        batches = list(PairLoader(data, processor, options, batch_size=4, num_steps=4))
    assert "b.tar cannot be opened: Permission denied" in logged.out
    assert {row.kind for batch in batches for row in batch["skipped"]} == {"shard damaged"}


@pytest.mark.parametrize("cut", ["between members", "in a member"])
def test_evaluation_refuses_a_tar_that_is_cut_off(cut, whole, tmp_path):
    """One bad row would stand for thousands that are missing."""
    (tmp_path / "a.tar").write_bytes(whole)
    (tmp_path / "b.tar").write_bytes(whole[: 4096 if cut == "between members" else 5000])
    with pytest.raises(DamagedTar, match="b.tar is damaged"):
        load_retrieval(tmp_path)
    names = ClassificationOptions(label_column="txt", class_names=list(map(caption_of, range(4))))
    with pytest.raises(DamagedTar, match="b.tar is damaged"):
        load_classification(tmp_path, names)
    (tmp_path / "b.tar").write_bytes(whole)
    assert len(load_retrieval(tmp_path)) == 8
