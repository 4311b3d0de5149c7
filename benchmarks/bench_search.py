# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exact search of random unit vectors on disk: one query and a batch of 64, against numpy, faiss and usearch.

All sides search the same float16 rows, those that our index stores. Each runs in a process of its own, so that its
memory can be told: what it holds beyond the page cache, and its peak with mapped files. Times are medians of several
searches (of one if it is very slow), so files come from the page cache as far as it holds them. `recall@10` is against
a float64 scan.

- Ours: `EmbeddingIndex.search`, memory-mapped.
- numpy: float16 blocks turned into float32, products by BLAS, memory-mapped.
- faiss, in memory: `IndexFlatIP`, and `IndexScalarQuantizer` as float16 and as `8bit_direct_signed` (values are scaled
  to -127 to 127).
- usearch `search(exact=True)` over the float16 rows, and over int8 rows of the same scale, memory-mapped.

A side that needs more memory than there is, less 4 GiB, is left out, and a line says so.

    python benchmarks/bench_search.py --rows 10000000 --dim 512 --folder /tmp/search
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench_image_processor import print_machine
from clip_hf.search import EmbeddingIndex
from clip_hf.utils.wording import markdown_table


K, BATCH, BLOCK = 10, 64, 65536
_LONGEST = 15  # seconds of one measurement, after which no round begins; a single one counts as it is
Search = Callable[[np.ndarray], np.ndarray]


def random_blocks(rows: int, dim: int) -> Iterator[np.ndarray]:
    """Blocks of random unit vectors, float32; never more than one is in memory."""
    for start in range(0, rows, BLOCK):
        vectors = np.random.default_rng(start).standard_normal((min(BLOCK, rows - start), dim), np.float32)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_queries(dim: int) -> np.ndarray:
    """One batch of random unit queries, float32."""
    queries = np.random.default_rng(1).standard_normal((BATCH, dim), np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def stored_rows(folder: Path, dim: int) -> np.ndarray:
    """The rows of our index, float16, memory-mapped."""
    return np.memmap(folder / "index" / "segments" / "0" / "rows.bin", np.float16, "r").reshape(-1, dim)


def scale_of(rows: np.ndarray) -> float:
    """What brings the largest value to 127, from the first rows; larger ones are clipped."""
    return 127 / float(np.abs(rows[:100_000].astype(np.float32)).max())


def blocks_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows as blocks of float32."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK].astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- the sides


def scan(rows: np.ndarray, dtype: str) -> Search:
    """A scan in blocks by numpy; the truth if `dtype` is float64."""

    def search(queries: np.ndarray) -> np.ndarray:
        best, places = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK].astype(dtype)
            scores = queries.astype(dtype) @ block.T
            if dtype == "float64":
                scores /= np.linalg.norm(block, axis=1)
            top = np.argpartition(-scores, min(K, scores.shape[1] - 1), axis=1)[:, :K]
            best = np.concatenate([best, np.take_along_axis(scores, top, 1)], axis=1)
            places = np.concatenate([places, top + start], axis=1)
            order = np.lexsort((places, -best))[:, :K]
            best, places = np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)
        return places

    return search


def ours(folder: Path, dim: int) -> Search:
    """Our index; the last statistics are kept as `search.index.last_search`."""
    index = EmbeddingIndex.open(folder / "index")

    def search(queries: np.ndarray) -> np.ndarray:
        return index.search(queries, K)[1]

    search.index = index
    return search


def faiss_index(folder: Path, dim: int, kind: str) -> Search:
    """An index of faiss in memory, filled in blocks."""
    import faiss

    rows, scale = stored_rows(folder, dim), 1.0
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    else:
        quantizer = getattr(faiss.ScalarQuantizer, kind)
        index = faiss.IndexScalarQuantizer(dim, quantizer, faiss.METRIC_INNER_PRODUCT)
        scale = scale_of(rows) if kind == "QT_8bit_direct_signed" else 1.0
        index.train(rows[:1000].astype(np.float32) * scale)
    for block in blocks_of(rows):
        index.add(np.clip(block * scale, -127, 127) if scale != 1 else block)
    # The signed quantizer may round queries to whole numbers as well.
    return lambda queries: index.search(queries * np.float32(scale), K)[1]


def usearch_scan(folder: Path, dim: int, dtype: str) -> Search:
    """usearch's exact search of a memory-mapped file; int8 rows are written first."""
    from usearch.index import MetricKind, search

    rows = stored_rows(folder, dim)
    if dtype == "f16":
        return lambda queries: search(
            rows, queries.astype(np.float16), K, MetricKind.IP, exact=True, dtype="f16"
        ).keys.reshape(len(queries), -1)
    scale, path = scale_of(rows), folder / "rows-int8.bin"
    if not path.exists():
        with open(path, "wb") as file:
            for block in blocks_of(rows):
                file.write(np.clip(np.rint(block * scale), -127, 127).astype(np.int8))
    codes = np.memmap(path, np.int8, "r").reshape(-1, dim)

    def search_codes(queries: np.ndarray) -> np.ndarray:
        whole = np.clip(np.rint(queries * scale), -127, 127).astype(np.int8)
        return search(codes, whole, K, MetricKind.Cos, exact=True, dtype="i8").keys.reshape(len(queries), -1)

    return search_codes


SIDES: dict[str, tuple[Callable[[Path, int], Search], float]] = {
    "clip_hf, exact": (ours, 0),
    "numpy float16 -> float32": (lambda folder, dim: scan(stored_rows(folder, dim), "float32"), 0),
    "faiss IndexFlatIP": (lambda folder, dim: faiss_index(folder, dim, "flat"), 4),
    "faiss SQ fp16": (lambda folder, dim: faiss_index(folder, dim, "QT_fp16"), 2),
    "faiss SQ 8bit_direct_signed": (lambda folder, dim: faiss_index(folder, dim, "QT_8bit_direct_signed"), 1),
    "usearch exact f16": (lambda folder, dim: usearch_scan(folder, dim, "f16"), 0),
    "usearch exact i8": (lambda folder, dim: usearch_scan(folder, dim, "i8"), 0),
}
"""How to make each side, and the bytes of memory that it needs for each value."""


# ------------------------------------------------------------------------------------------------------- measurements


def memory_mib() -> tuple[float, float]:
    """MiB of this process that no file backs, and of all its resident memory at most."""
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":", 1) for line in file)
    kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "RssFile", "VmHWM")}
    return (kib["VmRSS"] - kib["RssFile"]) / 1024, kib["VmHWM"] / 1024


def available_bytes() -> int:
    """Memory that programs can still get."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def measure(side: str, folder: Path, dim: int, repeats: int) -> dict[str, object]:
    """Times, memory and found rows of one side, in this process."""
    queries = make_queries(dim)
    before = memory_mib()[0]  # what importing takes
    if side == "truth":
        return {"found": scan(stored_rows(folder, dim), "float64")(queries).tolist()}
    search = SIDES[side][0](folder, dim)
    seconds, shares, held = {}, {}, 0.0
    for name, some in (("one", queries[:1]), ("batch", queries)):
        times = []
        while len(times) <= repeats and sum(times) < _LONGEST:
            start = time.perf_counter()
            found = search(some)
            times.append(time.perf_counter() - start)
            held = max(held, memory_mib()[0])
        seconds[name] = statistics.median(times[1:] or times)  # the first round warms up
        if hasattr(search, "index"):
            shares[name] = search.index.last_search.share_rescored
    held_mib, peak_mib = held - before, memory_mib()[1]
    return {"seconds": seconds, "shares": shares, "held": held_mib, "peak": peak_mib, "found": found.tolist()}


def run_side(side: str, arguments: argparse.Namespace) -> dict:
    """Measure a side in a process of its own, with the BLAS kernels that numpy chooses itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    command = [sys.executable, __file__, "--measure", side, "--folder", str(arguments.folder)]
    command += ["--dim", str(arguments.dim), "--repeats", str(arguments.repeats)]
    output = subprocess.run(command, capture_output=True, text=True, env=environment)
    if output.returncode:
        raise RuntimeError(f"{side}: exit {output.returncode}\n{output.stderr[-2000:]}")
    return json.loads(output.stdout.splitlines()[-1])


def times_and_ratio(seconds: float, fastest: float) -> str:
    """Milliseconds, and how many times as long as the fastest."""
    return f"{1000 * seconds:,.0f} ({seconds / fastest:.2f}x)"


def print_table(arguments: argparse.Namespace) -> None:
    """Measure all sides and print one row for each."""
    truth, lines = run_side("truth", arguments)["found"], []
    for side, (_, bytes_of_value) in SIDES.items():
        needed = int(arguments.rows * arguments.dim * bytes_of_value)
        if needed and needed > available_bytes() - 4 * 2**30:
            there = available_bytes() / 2**30
            print(f"{side} is left out: it needs {needed / 2**30:.1f} GiB, {there:.1f} GiB less 4 are available.\n")
            continue
        result = run_side(side, arguments)
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(result["found"], truth, strict=True)])
        lines.append((side, result, recall, result["found"] == truth))
    fastest = {name: min(result["seconds"][name] for _, result, _, _ in lines) for name in ("one", "batch")}
    names = ("one", "batch")
    rows = [
        [
            side,
            *(times_and_ratio(result["seconds"][name], fastest[name]) for name in names),
            f"{result['held']:,.0f}",
            f"{result['peak']:,.0f}",
            f"{recall:.4f}",
            "yes" if equal else "no",
            ", ".join(f"{result['shares'][name]:.6%}" for name in names if result["shares"]) or "-",
        ]
        for side, result, recall, equal in lines
    ]
    columns = ["", "1 query, ms", f"{BATCH} queries, ms", "held beyond the page cache, MiB"]
    columns += ["peak with mapped files, MiB", "recall@10", "ids and order of float64", "rescored (1, batch)"]
    print(markdown_table(columns, rows))


def main() -> None:
    """Build the index if it is not there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="vectors (default: 200,000)")
    parser.add_argument("--dim", type=int, default=512, help="values of each (default: 512)")
    parser.add_argument("--folder", type=Path, required=True, help="where the index is kept; made if it is not there")
    parser.add_argument("--repeats", type=int, default=5, help="searches whose median is taken (default: 5)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.folder, arguments.dim, arguments.repeats)))
        return
    print_machine()
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "faiss-cpu", "usearch")) + "\n")
    if not (arguments.folder / "index").exists():
        start = time.perf_counter()
        EmbeddingIndex.build(arguments.folder / "index", random_blocks(arguments.rows, arguments.dim))
        print(f"built in {time.perf_counter() - start:.0f} s, with the generation of the vectors\n")
    index = EmbeddingIndex.open(arguments.folder / "index")
    if (len(index), index.dim) != (arguments.rows, arguments.dim):
        parser.error(f"{index.folder} has {len(index):,} x {index.dim}; give another --folder.")
    size = sum(path.stat().st_size for path in index.folder.rglob("*") if path.is_file())
    print(f"{arguments.rows:,} x {arguments.dim} random unit vectors, float16; the index has {size:,} bytes on disk\n")
    print_table(arguments)


if __name__ == "__main__":
    main()
