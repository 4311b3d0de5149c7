# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An index beside the databases it is copied into: equal results, rows a second, milliseconds a query, recall of HNSW.

Rows are made up, in groups and around one mean, as embeddings of images are. Queries like images are made as the rows
are. Queries like texts lie around another mean and lean a little towards a row, as texts do: published recall of
image-to-image search says nothing about them.

- Ours: `EmbeddingIndex.search`, exact.
- PostgreSQL with pgvector, the server of the package pgserver in a temporary folder, with its default settings but
  1 GB to build HNSW; `--postgres ADDRESS` takes another server. The table stays.
- Milvus Lite in a temporary folder; `--milvus ADDRESS` takes a server. The collection stays.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench_image_processor import print_machine
from clip_hf.search import EmbeddingIndex, VectorStore, open_store, parse_filters, sync_store


K = 10
FILTER = ["width>=800"]


def make_vectors(rows: int, dim: int, queries: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows (rows, dim) float32, and queries by kind (queries, dim)."""
    rng = np.random.default_rng(0)

    def draw(count: int, scale: float) -> np.ndarray:
        return (scale * rng.standard_normal((count, dim)) / np.sqrt(dim)).astype(np.float32)

    image_mean, text_mean = draw(2, 1.0)
    groups = draw(max(1, rows // 100), 0.7)

    def draw_images(count: int) -> np.ndarray:
        return image_mean + groups[rng.integers(len(groups), size=count)] + draw(count, 0.5)

    images = draw_images(rows)
    texts = text_mean + 0.4 * (images[rng.integers(rows, size=queries)] - image_mean) + draw(queries, 0.6)
    return images, {"image": draw_images(queries), "text": texts}


def milliseconds(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Median time of one query at a time."""
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def print_row(title: str, *values: object) -> None:
    """Print a line of the table."""
    print(f"{title:<44}" + "".join(f"{value:>16}" for value in values))


def measure_exact(index: EmbeddingIndex, store: VectorStore, queries: dict[str, np.ndarray]) -> None:
    """Print what copying and exact search take, and how many queries differ from the index's."""
    where = parse_filters(FILTER, index.filter_columns)
    everything = np.concatenate(list(queries.values()))
    copied = sync_store(index, store, progress=False)
    print_row("copied, rows a second", "", f"{len(index) / copied.seconds:,.0f}")
    again = sync_store(index, store, progress=False)
    assert again.unchanged == len(index)
    print_row("copied again, nothing changed, s", "", f"{again.seconds:.2f}")
    for title, filters, condition in (("", [], None), (f" with {FILTER[0]}", FILTER, where)):
        expected, found = index.search(everything, K, where=condition), store.search(everything, K, filters=filters)
        ids = sum(map(np.any, expected[1] != found[1]))
        scores = sum(map(np.any, expected[0] != found[0]))
        print_row(f"exact{title}: queries of {len(everything)} whose ids differ", "", ids)
        print_row(f"exact{title}: queries whose scores differ", "", scores)
        ours = milliseconds(lambda query, where=condition: index.search(query, K, where=where), everything)
        theirs = milliseconds(lambda query, filters=filters: store.search(query, K, filters=filters), everything)
        print_row(f"exact{title}: ms a query", f"{ours:.2f}", f"{theirs:.2f}")
    batch = everything[:64]
    ours, theirs = seconds(lambda: index.search(batch, K)), seconds(lambda: store.search(batch, K))
    print_row(
        f"exact: ms a query in a batch of {len(batch)}", *(f"{1000 * s / len(batch):.2f}" for s in (ours, theirs))
    )


def measure_hnsw(index: EmbeddingIndex, store: VectorStore, queries: dict[str, np.ndarray]) -> None:
    """Print what an HNSW index takes, and which share of the exact results it finds."""
    print_row("HNSW (m 16, ef_construction 64): built in s", "", f"{seconds(store.create_hnsw):.1f}")
    for store.ef_search in (40, 100, 400):
        for kind, vectors in queries.items():
            _, expected = index.search(vectors, K)
            _, found = store.search(vectors, K, exact=False)
            shares = [len(set(ours) & set(theirs)) / K for ours, theirs in zip(expected, found, strict=True)]
            title = f"HNSW, ef_search {store.ef_search}, {kind} queries"
            print_row(f"{title}: recall@{K}", "", f"{np.mean(shares):.3f}")
            print_row(f"{title}: ms", "", f"{milliseconds(lambda q: store.search(q, K, exact=False), vectors):.2f}")


def main() -> None:
    """Print a table for each database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the index (default: 50000)")
    parser.add_argument("--dim", type=int, default=512, help="values of a row (default: 512)")
    parser.add_argument("--queries", type=int, default=100, help="queries of each kind (default: 100)")
    parser.add_argument("--postgres", metavar="ADDRESS", help="postgresql://...?table=NAME of a server")
    parser.add_argument("--milvus", metavar="ADDRESS", help="milvus://...?collection=NAME of a server")
    arguments = parser.parse_args()
    print_machine()
    print(
        ", ".join(
            f"{name} {version(name)}" for name in ("psycopg", "pgvector", "pymilvus", "milvus-lite", "faiss-cpu")
        )
    )
    vectors, queries = make_vectors(arguments.rows, arguments.dim, arguments.queries)
    metadata = pa.table(
        {"name": [f"photos/{n}.jpg" for n in range(len(vectors))], "width": np.arange(len(vectors)) % 1000}
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        index = EmbeddingIndex.build(Path(folder) / "index", vectors, metadata=metadata)
        print(f"{len(index):,} rows of {index.dim} values, {index.dtype} in the index; {K} results")
        postgres, stop = (arguments.postgres, None) if arguments.postgres else start_postgres(Path(folder))
        try:
            milvus = arguments.milvus or f"milvus://{folder}/vectors.db?collection=bench"
            for title, address in (("PostgreSQL", postgres), ("Milvus", milvus)):
                with open_store(address) as store:
                    print()
                    print_row("", "index", title)
                    measure_exact(index, store, queries)
                    measure_hnsw(index, store, queries)
        finally:
            if stop is not None:
                stop()


def start_postgres(folder: Path) -> tuple[str, Callable[[], None]]:
    """Start a server; returns the address of a table, and what stops the server."""
    import pgserver

    server = pgserver.get_server(folder / "postgres")
    memory = "-c%20maintenance_work_mem=1GB"
    return f"postgresql://postgres@/postgres?host={folder}/postgres&options={memory}&table=bench", server.cleanup


if __name__ == "__main__":
    main()
