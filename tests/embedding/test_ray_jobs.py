# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs on a local Ray cluster: workers that die change nothing, and errors are the plain job's."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace

import pytest
import torch

from clip_hf.cli import main
from clip_hf.embedding import EmbeddingOptions, RowColumns, embed, load_dual_encoder
from clip_hf.embedding import ray as ray_jobs
from encoding_inputs import quiet
from job_inputs import files_in
from pair_data import image_of
from tiny_models import make_tiny_model


SMALL = EmbeddingOptions(rows_per_part=4)
ENCODING = quiet(batch_size=2)
ROWS = 400


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors and a GPU that is not there, on this machine, without dashboard."""
    import ray

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names
    options = {"include_dashboard": False, "log_to_driver": False, "_temp_dir": folder}
    # What is defined here is sent to the workers, who cannot import it.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, num_gpus=0 if torch.accelerator.is_available() else 1, **options)
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def one_thread():
    """As many threads as a worker of one processor has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_processor):
    """A folder with `model`, and images in `photos`."""
    folder = tmp_path_factory.mktemp("inputs")
    make_tiny_model("vit").save_pretrained(folder / "model")
    tiny_processor.save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / "photos" / f"{number:03d}.png")
    return folder


@pytest.fixture
def few(inputs, tmp_path):
    """A list of eight images."""
    path = tmp_path / "few.txt"
    path.write_text("".join(f"{inputs}/photos/{number:03d}.png\n" for number in range(8)))
    return path


class Troubled:
    """A method of an encoder that fails for one image, in a worker only: `trouble` is an error, or None for death."""

    def __init__(self, method, name: str, trouble: Exception | None):
        self.method, self.name, self.trouble, self.driver = method, name, trouble, os.getpid()

    def __call__(self, images):
        if os.getpid() != self.driver and any(str(image["path"]).endswith(self.name) for image in images):
            if self.trouble is not None:
                raise self.trouble
            os.kill(os.getpid(), signal.SIGKILL)
        return self.method(images)


def troubled_encoder(inputs, trouble: Exception | None):
    """An encoder that meets trouble in workers at the sixth image."""
    encoder = load_dual_encoder(inputs / "model")
    encoder.prepare = Troubled(encoder.prepare, "005.png", trouble)
    return encoder


def workers(ray) -> list[int]:
    """Process numbers of the workers that live."""
    # The public way needs the dashboard.
    actors = ray._private.state.actors().values()
    return [actor["Pid"] for actor in actors if actor["State"] == "ALIVE" and "Worker" in actor["ActorClassName"]]


def kill_a_worker(ray, folder, killed: list[int]) -> None:
    """Kill one of the actors when some parts are there."""
    while len(list(folder.glob("rows/part-*"))) < 5:
        time.sleep(0.005)
    killed += workers(ray)[:1]
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(cluster, one_thread, inputs, tmp_path):
    model, photos = inputs / "model", inputs / "photos"
    plain = embed(model, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    killed: list[int] = []
    thread = threading.Thread(target=kill_a_worker, args=(cluster, tmp_path / "out", killed), daemon=True)
    thread.start()
    summary = ray_jobs.embed(model, photos, tmp_path / "out", num_workers=2, options=SMALL, encoding=ENCODING)
    thread.join(60)
    assert len(killed) == 1
    assert summary.is_complete and (summary.rows, summary.parts) == (plain.rows, plain.parts) == (ROWS, ROWS // 4)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "plain")
    assert not workers(cluster)


@pytest.mark.slow
def test_a_part_that_kills_its_workers_is_named(cluster, inputs, few, tmp_path):
    encoder, options = troubled_encoder(inputs, None), replace(SMALL, rows_per_part=2)
    with pytest.raises(RuntimeError, match=r"3 workers died over part-00000-00002, rows 4 to 5 of .*few\.txt\. .*exit"):
        ray_jobs.embed(encoder, few, tmp_path / "out", num_workers=1, options=options, encoding=ENCODING)
    assert len(list((tmp_path / "out").glob("rows/*.parquet"))) >= 2
    assert not workers(cluster)


@pytest.mark.slow
def test_what_a_worker_refuses_is_the_error(cluster, inputs, tmp_path):
    (tmp_path / "bad").mkdir()
    for number in range(20):
        (tmp_path / "bad" / f"{number:03d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="No row of .* can be used"):
        ray_jobs.embed(inputs / "model", tmp_path / "bad", tmp_path / "out", num_workers=2, options=SMALL)


@pytest.mark.slow
def test_relative_paths_are_found_by_workers_elsewhere(cluster, inputs, tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("image\nphotos/000.png\nphotos/001.png\n")
    monkeypatch.chdir(inputs)
    options = replace(SMALL, columns=RowColumns(image_root="."))
    summary = ray_jobs.embed("model", f"{tmp_path}/t.csv", tmp_path / "out", num_workers=1, options=options)
    assert summary.rows == 2, summary
