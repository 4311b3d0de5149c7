# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs on a local Ray cluster: workers that die change nothing, and errors are the plain job's."""

import errno
import math
import os
import pickle
import platform
import shutil
import signal
import socket
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
from clip_hf.embedding.job_progress import JobTiming, combine_timings
from clip_hf.embedding.ray import check_room
from clip_hf.embedding.ray_workers import WorkerFailure, last_line
from clip_hf.utils.extras import MissingExtra
from encoding_inputs import files_in, quiet, write_model_and_photos


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
    return write_model_and_photos(tmp_path_factory.mktemp("inputs"), tiny_processor, ROWS)


@pytest.fixture
def few(inputs, tmp_path):
    """A list of eight images."""
    path = tmp_path / "few.txt"
    path.write_text("".join(f"{inputs}/photos/{number:03d}.png\n" for number in range(8)))
    return path


class Troubled:
    """An encoder's method that fails in workers."""

    def __init__(self, method):
        self.method, self.driver = method, os.getpid()

    def __call__(self, argument, **options):
        if os.getpid() != self.driver:
            self.fail(argument)
        return self.method(argument, **options)


class Deadly(Troubled):
    """The process dies of one image."""

    def fail(self, images):
        if any(str(image["path"]).endswith("005.png") for image in images):
            os.kill(os.getpid(), signal.SIGKILL)


class Full(Troubled):
    """The disk is full."""

    def fail(self, inputs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    assert ROWS // 2 < summary.timing.rows <= ROWS and 0 < summary.timing.model < 1
    assert files_in(tmp_path / "out", with_hidden=False) == files_in(tmp_path / "plain")
    assert not workers(cluster)


@pytest.mark.slow
def test_a_part_that_kills_its_workers_is_named(cluster, inputs, few, tmp_path):
    encoder, options = load_dual_encoder(inputs / "model"), replace(SMALL, rows_per_part=2)
    encoder.prepare = Deadly(encoder.prepare)
    with pytest.raises(RuntimeError, match=r"3 workers died over part-00000-00002, rows 4 to 5 of .*few\.txt,"):
        ray_jobs.embed(encoder, few, tmp_path / "out", num_workers=1, options=options, encoding=ENCODING)
    assert len(list((tmp_path / "out").glob("rows/*.parquet"))) >= 2
    assert not workers(cluster)


@pytest.mark.slow
def test_what_a_worker_refuses_is_the_error(cluster, inputs, few, tmp_path):
    encoder = load_dual_encoder(inputs / "model")
    encoder.encode_images = Full(encoder.encode_images)
    with pytest.raises(OSError, match="No space left on device") as caught:
        ray_jobs.embed(encoder, few, tmp_path / "out", num_workers=1, options=SMALL)
    assert caught.value.errno == errno.ENOSPC and "in fail" in str(caught.value.__cause__)
    assert not workers(cluster)
    if not torch.accelerator.is_available():
        with pytest.raises(OSError, match=r"a GPU, but PyTorch .* finds none"):
            ray_jobs.embed(inputs / "model", few, tmp_path / "gpu", num_workers=1, num_gpus=1)


@pytest.mark.slow
def test_relative_paths_are_found_by_workers_elsewhere(cluster, inputs, tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text(f"image\n{inputs}/photos/000.png\n{inputs}/photos/001.png\n")
    monkeypatch.chdir(inputs)
    options = replace(SMALL, columns=RowColumns(image_root="photos"))
    summary = ray_jobs.embed("model", f"{tmp_path}/t.csv", tmp_path / "out", num_workers=1, options=options)
    assert (summary.rows, summary.bad) == (2, {})


@pytest.mark.slow
def test_a_cluster_without_room_is_refused_at_once(cluster, inputs, few, tmp_path, capsys):
    for arguments, message in (
        (["--ray", "3"], "has room for 2 workers of 1 CPU each, not for 3: it has 2 CPU and "),
        (["--ray", "1", "--ray-cpus", "3"], "has room for 0 workers of 3 CPU each, not for 1: it has 2 CPU and "),
        (["--ray", "2", "--ray-gpus", "1"], "of 1 CPU and 1 GPU each, not for 2: it has 2 CPU and "),
    ):
        assert main(["embed", f"{inputs}/model", str(few), f"{tmp_path}/out", *arguments]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_ends_its_workers(number, inputs, tmp_path):
    command = [sys.executable, "-m", "clip_hf", "embed", f"{inputs}/model", f"{inputs}/photos", f"{tmp_path}/out"]
    options = ["--ray", "1", "--rows-per-part", "1", "--batch-size", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    job = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)
    while job.poll() is None and not list(tmp_path.glob("out/rows/*.parquet")):
        time.sleep(0.05)
    job.send_signal(number)
    said = job.communicate(timeout=60)[1]
    written = len(list(tmp_path.glob("out/rows/*.parquet")))
    assert 0 < written < ROWS and "Traceback" not in said, said
    time.sleep(2)
    assert len(list(tmp_path.glob("out/rows/*.parquet"))) == written


# ---------------------------------------------------------------------------------------------------- without cluster


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left", "out"),
        OSError("no such model"),
        MissingExtra("--runtime onnx", "onnx", ["onnxruntime"]),
        UnicodeDecodeError("utf-8", b"a", 0, 1, "odd"),
        RuntimeError("out of memory"),
    ],
)
def test_an_error_of_a_worker_is_the_same_here(error, monkeypatch):
    failure = pickle.loads(pickle.dumps(WorkerFailure.of(error)))
    assert str(failure.error()) == str(error) and isinstance(error, type(failure.error()))
    assert getattr(failure.error(), "errno", None) == getattr(error, "errno", None)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert f"On {failure.host}: " in str(failure.error())


def test_an_error_of_the_code_keeps_its_trace():
    try:
        {}["absent"]
    except KeyError as error:
        told = WorkerFailure.of(error).error()
    assert type(told) is RuntimeError and "in test_an_error_of_the_code" in str(told) and "'absent'" in str(told)


def test_the_timing_of_workers_is_that_of_the_slowest_and_of_the_work_of_all():
    one, two = JobTiming(2.0, 10, 1.0, 0.5, 0.0), JobTiming(6.0, 30, 0.5, 0.1, 0.2)
    both = combine_timings({"a": [one, two], "b": [one]})
    assert (both.seconds, both.rows, both.rows_per_second) == (8.0, 50, 6.25)
    assert (both.model, both.reading, both.preparing) == pytest.approx((0.7, 0.26, 0.12))
    assert combine_timings({}) is None


def test_ray_errors_come_down_to_a_sentence():
    text = "The actor died.\n\tpid: 1\nIt is dead. Worker exit detail: End of file. Some common causes include: (1) x"
    assert last_line(RuntimeError(text)) == "It is dead. Worker exit detail: End of file."
    assert last_line(RuntimeError("a\n\nModuleNotFoundError: No module named 'clip_hf'\n")).endswith("'clip_hf'.")
    assert last_line(RuntimeError()) == "RuntimeError."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": 0}, r"`num_workers` \(--ray\) is 0"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"num_workers": True}, "`num_workers`"),
        ({"num_cpus": 0}, r"`num_cpus` \(--ray-cpus\) is 0"),
        ({"num_cpus": 1.5}, "above 1 a whole number"),
        ({"num_cpus": math.nan}, "`num_cpus`"),
        ({"num_cpus": math.inf}, "`num_cpus`"),
        ({"num_gpus": -1}, "`num_gpus`"),
        ({"num_gpus": 2}, r"`num_gpus` \(--ray-gpus\) is 2; .*For more GPUs start more workers"),
        ({"device": "cpu"}, "`device` .* is 'cpu', but a worker's device is what it asks Ray for"),
        ({"num_gpus": 1, "runtime": "onnx"}, "'onnx', which runs on the processor"),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ray_jobs.embed("absent", "absent", tmp_path / "out", **{"num_workers": 1, **arguments})


def test_the_room_of_machines_counts_workers_that_fit():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    for cpus, gpus, room in ((4, 0, 2), (1, 0.25, 4), (1, 1, 1), (0.1, 0, 110), (9, 0, 0)):
        check_room(nodes, room, cpus, gpus)
        with pytest.raises(ValueError, match=f"room for {room} worker"):
            check_room(nodes, room + 1, cpus, gpus)


def test_gpus_need_a_model_that_can_go_there(encoder, tmp_path):
    with pytest.raises(ValueError, match="A DualEncoder stays on its device"):
        ray_jobs.embed(encoder, "absent", tmp_path / "out", num_workers=1, num_gpus=1)
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match='`dtype` is "auto", which the GPU decides'):
            ray_jobs.embed("absent", "absent", tmp_path, num_workers=1, num_gpus=1, dtype="auto")


def test_a_cluster_out_of_reach_is_an_error_at_once(inputs, few, tmp_path, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr("ray.is_initialized", lambda: False)  # whichever test ran before
        for shown in (address, f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", shown)
            assert main(["embed", f"{inputs}/model", str(few), f"{tmp_path}/out", "--ray", "1"]) == 1
            said = capsys.readouterr().err.splitlines()[-1]
            assert f"The Ray cluster {shown} (RAY_ADDRESS) cannot be reached" in said


def test_options_of_workers_need_workers(inputs, few, tmp_path, capsys):
    assert main(["embed", f"{inputs}/model", str(few), f"{tmp_path}/out", "--ray-gpus", "1"]) == 1
    assert "say how many with --ray" in capsys.readouterr().err
    # The device of a worker on another machine is not looked for on this one.
    assert main(["embed", f"{inputs}/model", str(few), f"{tmp_path}/out", "--ray", "1", "--device", "cuda"]) == 1
    assert "`num_gpus=1` (--ray-gpus 1) for a GPU" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="ray is not installed. The extra `cluster`"):
        ray_jobs.embed("absent", "absent", tmp_path / "out", num_workers=1)
