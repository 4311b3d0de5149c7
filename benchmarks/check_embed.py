# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs at scale: speed against the model's own, memory against the number of images, and killed jobs.

    python benchmarks/check_embed.py --model openai/clip-vit-base-patch32
    python benchmarks/check_embed.py --ray --kills 20 --images 20000

Makes JPEGs from OpenMoji and the pictures of examples/, and prints one table. Speed is measured with `--model` (by
default a ViT-B/32 of random weights); memory and kills with a small model, so that 20,000 images take minutes. Exits
with 1 if a killed job, or one on Ray with a killed worker, left other bytes than one that ran through, if nothing was
killed, or if ten times as many images take more than a tenth more memory. Try it with few:

    python benchmarks/check_embed.py --images 300 --speed-images 64 --rounds 1 --kills 3 --ray
"""

import argparse
import contextlib
import datetime
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from PIL import Image

from clip_hf import ClipHFConfig, ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, ClipHFTokenizer
from clip_hf.checkpoints.tokenizer_formats import OPENAI_MERGES
from clip_hf.data import load_openmoji
from clip_hf.embedding import EmbeddingOptions, EncodingOptions, embed, load_dual_encoder
from clip_hf.embedding import ray as ray_jobs


PICTURES = Path(__file__).resolve().parents[1] / "examples" / "pictures"


# Equal bytes need as many threads; Ray gives a worker of one processor one.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def describe_machine() -> str:
    """Processor, cores, version of torch, and the date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}"


def write_images(folder: Path, count: int) -> None:
    """JPEGs of 256 to 640 pixels, all different: parts of OpenMoji's drawings and of photos."""
    folder.mkdir(parents=True)
    rows = load_openmoji()["train"]
    bases = [Image.open(path).convert("RGB") for path in sorted(PICTURES.glob("*.[jp][pn]g"))]
    bases += [rows[row]["image"].convert("RGB") for row in range(0, len(rows), len(rows) // 60)]
    for number in range(count):
        draw = random.Random(number)
        image = bases[number % len(bases)]
        left, top = draw.uniform(0, 0.3) * image.width, draw.uniform(0, 0.3) * image.height
        box = (left, top, left + 0.7 * image.width, top + 0.7 * image.height)
        size = (draw.randint(256, 640), draw.randint(256, 640))
        image.resize(size, Image.Resampling.BILINEAR, box).save(folder / f"{number:06d}.jpg", quality=88)


def write_model(folder: Path, **towers: int) -> str:
    """A ViT-B/32 of random weights, made smaller by values of both towers' configs."""
    torch.manual_seed(0)
    config = ClipHFConfig.from_architecture("ViT-B/32").to_dict()
    for tower in ("vision_config", "text_config"):
        config[tower] |= towers
    ClipHFModel(ClipHFConfig(**config)).save_pretrained(folder)
    ClipHFProcessor(ClipHFImageProcessor(), ClipHFTokenizer.from_bpe_file(OPENAI_MERGES)).save_pretrained(folder)
    return str(folder)


# --------------------------------------------------------------------------------------------------------------- speed


def measure_speed(model: str, runtime: str | None, photos: Path, folder: Path, rounds: int) -> None:
    """Images a second of the model on prepared batches, and of jobs from files; one after the other, several times."""
    encoder = load_dual_encoder(model, runtime=runtime)
    paths = sorted(map(str, photos.iterdir()))
    batches = [encoder.prepare(paths[start : start + 64]) for start in range(0, min(len(paths), 256), 64)]
    encoder.encode_images(batches[0])
    alone, jobs = [], []
    for number in range(rounds):
        start = time.perf_counter()
        for batch in batches:
            encoder.encode_images(batch)
        alone.append(sum(len(next(iter(batch.values()))) for batch in batches) / (time.perf_counter() - start))
        options = EmbeddingOptions(modalities="images")
        summary = embed(
            encoder, photos, folder / f"speed{number}", options=options, encoding=EncodingOptions(progress=False)
        )
        jobs.append(summary.timing)
    best = max(jobs, key=lambda timing: timing.rows_per_second)
    print(f"model alone, prepared batches | {max(alone):.1f} images/s")
    print(f"job from files | {best}")
    print(f"job / model | {best.rows_per_second / max(alone):.2f}")


# -------------------------------------------------------------------------------------------------- memory and kills


def start_job(model: str, source: Path, destination: Path, rows_per_part: int) -> subprocess.Popen:
    options = ["--rows-per-part", str(rows_per_part), "--num-threads", "2", "--images"]
    command = [sys.executable, "-m", "clip_hf", "embed", model, str(source), str(destination), *options]
    return subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def peak_memory(model: str, source: Path, destination: Path, rows_per_part: int) -> float:
    """MiB that a job had in memory at most."""
    # Not from `wait4`, which counts what the parent had when it started the job.
    job, peak = start_job(model, source, destination, rows_per_part), 0
    while job.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{job.pid}/status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
        time.sleep(0.05)
    assert job.returncode == 0
    return peak / 2**10


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if not path.name.startswith(".")}


def parts_in(folder: Path) -> int:
    return len(list(folder.glob("rows/part-*")))


def kill_often(model: str, source: Path, destination: Path, rows_per_part: int, kills: int) -> int:
    """Kill a job with SIGKILL at random moments, then let it end; how often it was killed."""
    draw, killed = random.Random(0), 0
    total = -(-len(list(source.iterdir())) // rows_per_part)
    for _ in range(kills):
        before = parts_in(destination)
        job = start_job(model, source, destination, rows_per_part)
        aim = before + draw.uniform(0, 1.5 * total / kills)  # parts, some of them none
        while job.poll() is None and parts_in(destination) < aim:
            time.sleep(draw.uniform(0, 0.05))
        job.send_signal(signal.SIGKILL)
        killed += job.wait() == -signal.SIGKILL
    assert start_job(model, source, destination, rows_per_part).wait() == 0
    return killed


def run_on_ray(model: str, source: Path, destination: Path, rows_per_part: int) -> int:
    """A job of two workers, one of which is killed; how many were."""
    import ray

    killed: list[int] = []

    def kill() -> None:
        while parts_in(destination) < 3:
            time.sleep(0.01)
        # The public way needs the dashboard.
        actors = ray._private.state.actors().values()
        pids = [actor["Pid"] for actor in actors if actor["State"] == "ALIVE"]
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    options = EmbeddingOptions(modalities="images", rows_per_part=rows_per_part)
    encoding = EncodingOptions(num_threads=2, progress=False)
    ray_jobs.embed(model, source, destination, num_workers=2, options=options, encoding=encoding)
    thread.join(10)
    return len(killed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model whose speed is measured (default: ViT-B/32 of random weights)")
    parser.add_argument("--runtime", help="what runs it: torch, onnx or openvino")
    parser.add_argument("--images", type=int, default=20_000, help="for memory and kills (default: %(default)s)")
    parser.add_argument("--speed-images", type=int, default=1024, help="for speed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of speed (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="times that a job is killed (default: %(default)s)")
    parser.add_argument("--ray", action="store_true", help="also run on a local Ray cluster, one worker killed")
    parser.add_argument("--folder", help="folder for images and results (default: a temporary one)")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="check_embed_"))
    print(describe_machine(), flush=True)
    try:
        return run_checks(options, folder)
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)


def run_checks(options: argparse.Namespace, folder: Path) -> int:
    """Print each figure when it is known; 1 if any bytes differ, nothing was killed or the memory grows."""
    parts = max(1, options.images // 160)
    for name, count in (("speed", options.speed_images), ("few", options.images // 10), ("many", options.images)):
        if not (folder / name).exists():
            write_images(folder / name, count)
    model = options.model or write_model(folder / "model")
    measure_speed(model, options.runtime, folder / "speed", folder / "jobs", options.rounds)
    width = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1}
    small = write_model(folder / "small", num_hidden_layers=1, **width)
    few = peak_memory(small, folder / "few", folder / "jobs" / "few", parts)
    many = peak_memory(small, folder / "many", folder / "jobs" / "many", parts)
    print(f"peak memory, {options.images // 10:,} images | {few:.0f} MiB")
    print(f"peak memory, {options.images:,} images | {many:.0f} MiB ({many - few:+.0f})", flush=True)
    plain, faults = contents(folder / "jobs" / "many"), int(many > 1.1 * few)
    killed = kill_often(small, folder / "many", folder / "jobs" / "killed", parts, options.kills)
    same = contents(folder / "jobs" / "killed") == plain
    print(f"killed {killed} times, {len(plain):,} files | {'equal bytes' if same else 'OTHER BYTES'}", flush=True)
    faults += not same or not killed
    if options.ray:
        killed = run_on_ray(small, folder / "many", folder / "jobs" / "ray", parts)
        same = contents(folder / "jobs" / "ray") == plain
        print(f"Ray, {killed} of 2 workers killed | {'equal bytes' if same else 'OTHER BYTES'}")
        faults += not same or not killed
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
