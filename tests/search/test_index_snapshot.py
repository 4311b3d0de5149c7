# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Readers while the index changes: threads, forked processes, and folders that are replaced."""

import errno
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from clip_hf.search import EmbeddingIndex, index_snapshot
from clip_hf.search.index_places import build_beside
from clip_hf.search.index_segments import Segment


VECTORS = np.random.default_rng(0).normal(size=(40, 8))


@pytest.fixture
def index(tmp_path) -> EmbeddingIndex:
    return EmbeddingIndex.build(tmp_path / "index", VECTORS[:20], description={"of": "first"})


def test_an_identity_is_drawn_once(tmp_path, index):
    before = index.identity
    index.add(VECTORS[20:])
    index.compact()
    assert EmbeddingIndex.open(index.folder).identity == before
    assert EmbeddingIndex.build(tmp_path / "other", VECTORS[:20]).identity != before


def test_a_reader_never_mixes_two_indexes(index, monkeypatch):
    """A rebuild takes the folder's place after the manifest, or after one of the segment's files, was read."""

    def build(fresh):
        return EmbeddingIndex.build(fresh, -VECTORS[:20], description={"of": "second"})

    mapped = index_snapshot.Segment

    def swap_before(*args):
        monkeypatch.setattr(index_snapshot, "Segment", mapped)
        build_beside(index.folder, build)
        return Segment(*args)

    monkeypatch.setattr(index_snapshot, "Segment", swap_before)
    opened = EmbeddingIndex.open(index.folder)
    assert opened.description == {"of": "second"}
    assert opened.generation == index.generation
    assert opened.vectors([3]).tolist() == (-index.vectors([3])).tolist()
    with pytest.raises(ValueError, match="was built anew since it was opened"):
        index.add(VECTORS[20:])


@pytest.mark.slow
def test_a_folder_that_is_swapped_all_the_time_can_be_read(index):
    stop, faults = threading.Event(), []

    def build(fresh, sign):
        return EmbeddingIndex.build(fresh, VECTORS * sign, description={"s": sign})

    def swap():
        for number in range(10**6):
            if stop.is_set():
                return
            sign = (-1) ** number
            build_beside(
                index.folder,
                lambda fresh, sign=sign: EmbeddingIndex.build(fresh, VECTORS * sign, description={"s": sign}),
            )

    build_beside(index.folder, lambda fresh: build(fresh, 1))
    swapper = threading.Thread(target=swap)
    swapper.start()
    end = time.monotonic() + 2
    try:
        while time.monotonic() < end:
            opened = EmbeddingIndex.open(index.folder)
            scores, _ = opened.search(VECTORS[3] * opened.description["s"], 1)
            faults += [scores] if scores[0] < 0.999 else []
    finally:
        stop.set()
        swapper.join()
    assert not faults


def test_threads_share_an_object_that_changes(index):
    stop, faults = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                scores, ids = index.search(VECTORS[:2], 5)
                assert ids[:, 0].tolist() == [0, 1] and scores.shape == (2, 5)
                assert index.vectors(index.ids()[:3]).shape == (3, 8)
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            index.add(VECTORS[20:])
            index.remove(index.ids()[20:])
            if number % 3 == 2:
                index.compact()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []


def test_a_forked_process_searches(tmp_path):
    """It would wait for ever for threads that it did not inherit, so it uses one."""
    index = EmbeddingIndex.build(tmp_path / "index", np.random.default_rng(0).normal(size=(20000, 64)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = index.search(np.ones(64), 5)[1].tolist()
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(0 if index.search(np.ones(64), 5)[1].tolist() == expected else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_what_fails_after_the_rows_are_written_is_no_commit(index, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(index_snapshot, "Segment", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            EmbeddingIndex(index.folder)
        patch.setattr(index_snapshot.IndexSnapshot, "read", classmethod(lambda cls, folder: index._now))
        with pytest.raises(OSError, match="Too many open files"):
            index.add(VECTORS[20:])
    assert len(EmbeddingIndex.open(index.folder)) == 20 == len(index)
    with monkeypatch.context() as patch:  # what is left to do after the commit may fail
        calls = iter([lambda folder, manifest: None, refuse])
        patch.setattr("clip_hf.search.embedding_index.delete_leftovers", lambda *args: next(calls)(*args))
        index.add(VECTORS[20:])
    assert len(EmbeddingIndex.open(index.folder)) == 40 == len(index)
