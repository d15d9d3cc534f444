"""DELF beside SIFT and CONGAS: accuracy, time and size with the same number of features.

Usage: python tests/benchmarks/bench_local_methods.py FOLDER [METHOD ...]

FOLDER is a labelled folder as `delfjax evaluate` takes it. Programs are compiled before anything is
timed. A query is searched for in the whole folder, its features extracted already.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import delfjax
from delfjax.config import DelfConfig
from delfjax.datasets.photo_folder import PhotoFolder
from delfjax.device import use_compilation_cache
from delfjax.models.model_files import override_system
from delfjax.pipeline.photos import extract_photos

METHODS = ("delf", "congas", "sift")
# Photos whose extraction is timed, and queries whose search is.
TIMED_PHOTOS, TIMED_QUERIES = 60, 20


def main(folder: str, methods: tuple[str, ...]) -> None:
    """Print a line for each method."""
    use_compilation_cache()
    dataset = delfjax.open_dataset("folder", folder)
    names = list(dataset.database)
    some = PhotoFolder(dataset.root, tuple(names[:: max(1, len(names) // TIMED_PHOTOS)]))
    for method in methods:
        config = override_system(DelfConfig(), [f"system={method}"])
        found = delfjax.evaluate(folder, config, progress=False)
        with tempfile.TemporaryDirectory() as scratch:
            seconds = []
            for turn in ("warm", "timed"):
                started = time.perf_counter()
                store = extract_photos(some, Path(scratch) / turn, config=config, progress=False)
                seconds.append((time.perf_counter() - started) / len(some.names))
            whole = extract_photos(
                PhotoFolder(dataset.root, tuple(names)),
                Path(scratch) / "all",
                config=config,
                progress=False,
            )
            index = delfjax.build_index(whole, config=config)
            index.save(Path(scratch) / "index")
            queries = [store.get(name) for name in store.names[: TIMED_QUERIES + 2]]
            for query in queries[:2]:
                delfjax.search(index, query)
            started = time.perf_counter()
            for query in queries[2:]:
                delfjax.search(index, query)
            searched = (time.perf_counter() - started) / len(queries[2:])
            size = sum(file.stat().st_size for file in (Path(scratch) / "index").iterdir())
        tiers = ", ".join(f"{tier} {of['inliers']:.3f}" for tier, of in found.tiers.items())
        print(
            f"{method}: {tiers}; {seconds[-1]:.3f} s a photo,"
            f" {size / len(names) / 1000:.0f} kB a photo in the index, {searched:.3f} s a query"
            f" (config {found.config_hash})",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(__doc__)
    else:
        main(sys.argv[1], tuple(sys.argv[2:]) or METHODS)
