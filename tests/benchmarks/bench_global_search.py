"""How long does a search among many global descriptors take, exact and compressed?

Usage: python tests/benchmarks/bench_global_search.py [--images N] [--dim D] [--queries Q]

Clustered vectors stand in for a collection of landmarks, twenty photos of each. One query at a time
is searched for after opening, as `delfjax search` does, beside bare FAISS on the same vectors in
the same run: `IndexFlatIP`, and the lists and codes of the compressed index without its ranking by
descriptors. The times in brackets are of the processor, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from delfjax.config import DelfConfig, config_hash, override
from delfjax.retrieval import global_index
from delfjax.retrieval.global_index import GlobalIndex, open_global_index

FOUND = 10
PHOTOS_OF_EACH = 20


def main(images: int, dim: int, queries: int) -> None:
    """Print times and recall."""
    database, asked = clustered(images, dim, queries)
    bare = faiss.IndexFlatIP(dim)
    bare.add(database)
    true = bare.search(asked, FOUND)[1]
    print(f"{images} x {dim}, {queries} queries, median ms a query: wall (processor)")
    report("FAISS IndexFlatIP", lambda query: bare.search(query, FOUND)[1], asked, true)
    for kind in ("exact", "ivf_pq"):
        started = time.perf_counter()
        index = saved_and_opened(database, kind)
        print(f"  {kind}: built, saved and opened in {time.perf_counter() - started:.1f} s")
        report(
            f"delfjax {kind}", lambda query, i=index: i.nearest(query, FOUND).images, asked, true
        )
        if index.codes is not None:
            report(
                "FAISS codes", lambda query, i=index: i.codes.search(query, FOUND)[1], asked, true
            )


def clustered(images: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Database and queries, unit rows: clusters in 64 directions, and noise in all."""
    rng = np.random.default_rng(0)
    landmarks = rng.normal(size=(images // PHOTOS_OF_EACH, 64))
    directions = rng.normal(size=(64, dim)) / 8

    def photos_of(which: np.ndarray) -> np.ndarray:
        views = landmarks[which] + 0.7 * rng.normal(size=(len(which), 64))
        rows = views @ directions + 0.3 * rng.normal(size=(len(which), dim))
        unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    database = photos_of(np.arange(images) % len(landmarks))
    return database, photos_of(rng.integers(0, len(landmarks), queries))


def saved_and_opened(database: np.ndarray, kind: str) -> GlobalIndex:
    """The index as `delfjax index` leaves it and `delfjax search` opens it."""
    unwhitened = "global_features.whitening.kind=none"
    config = override(DelfConfig(), [f"global_features.index={kind}", unwhitened])
    compressed = kind == "ivf_pq"
    index = GlobalIndex(
        config=config,
        names=[f"{number}.jpg" for number in range(len(database))],
        descriptors=database.astype(np.float16) if compressed else database,
        extraction_hash=config_hash(config.global_extraction()),
        extracted_dim=database.shape[1],
        codes=global_index._codes(database, config) if compressed else None,
    )
    # The files stay mapped after the folder is gone.
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        return open_global_index(Path(folder) / "index")


def report(
    name: str, search: Callable[[np.ndarray], np.ndarray], asked: np.ndarray, true: np.ndarray
) -> None:
    """Print the time of one query and the recall."""
    walls, processors, shared = [], [], []
    search(asked[:1])
    for number in range(len(asked)):
        wall, processor = time.perf_counter(), time.process_time()
        found = search(asked[number : number + 1])[0]
        processors.append(time.process_time() - processor)
        walls.append(time.perf_counter() - wall)
        shared.append(len({*found.tolist()} & {*true[number].tolist()}) / FOUND)
    wall, processor = (1e3 * float(np.median(times)) for times in (walls, processors))
    least = 1e3 * min(walls)
    print(
        f"{name:24s} {wall:8.3f} ({processor:.3f}), least {least:.3f};"
        f" recall@{FOUND} {np.mean(shared):.3f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    main(**vars(parser.parse_args()))
