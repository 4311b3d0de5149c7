# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs on a local Ray cluster: workers that die change nothing, and errors are the plain job's."""

import os
import shutil
import signal
import tempfile
import threading
import time

import pytest

from clip_hf.embedding import EmbeddingOptions, embed
from clip_hf.embedding import ray as ray_jobs
from encoding_inputs import quiet
from pair_data import image_of
from tiny_models import make_tiny_model


pytestmark = pytest.mark.slow
SMALL = EmbeddingOptions(rows_per_part=4)
ENCODING = quiet(batch_size=2)
ROWS = 400


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors on this machine, without dashboard."""
    import ray

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def model(tmp_path, tiny_processor):
    make_tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(ROWS):
        image_of(number).save(tmp_path / "photos" / f"{number:03d}.png")
    return tmp_path / "photos"


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def kill_a_worker(ray, folder, killed: list[int]) -> None:
    """Kill one of the actors when some parts are there."""
    while len(list(folder.glob("rows/part-*"))) < 5:
        time.sleep(0.005)
    # The public way needs the dashboard.
    actors = ray._private.state.actors().values()
    busy = [actor["Pid"] for actor in actors if actor["State"] == "ALIVE" and "Map" in actor["ActorClassName"]]
    os.kill(busy[0], signal.SIGKILL)
    killed += busy[:1]


def test_a_killed_worker_changes_nothing(cluster, model, photos, tmp_path):
    plain = embed(model, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    killed: list[int] = []
    thread = threading.Thread(target=kill_a_worker, args=(cluster, tmp_path / "out", killed), daemon=True)
    thread.start()
    summary = ray_jobs.embed(model, photos, tmp_path / "out", num_workers=2, options=SMALL, encoding=ENCODING)
    thread.join(60)
    assert len(killed) == 1
    assert summary.is_complete and (summary.rows, summary.parts) == (plain.rows, plain.parts) == (ROWS, ROWS // 4)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_what_a_worker_refuses_is_the_error(cluster, model, photos, tmp_path):
    for number in range(ROWS):
        (photos / f"{number:03d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="max_skipped_share=0.05"):
        ray_jobs.embed(model, photos, tmp_path / "out", num_workers=2, options=SMALL, encoding=ENCODING)
    with pytest.raises(ValueError, match="`num_workers` is 0"):
        ray_jobs.embed(model, photos, tmp_path / "out", num_workers=0)
