"""The photos that a training run was started on: a run resumes on the same photos with the same
labels, or not at all.

Their record lies beside the checkpoints. A photo that cannot be read has no digest, and is compared
by name and label alone: a disk that is away for a while does not end a run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from delfjax.files import read_json_object, write_json
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.checkpoints import CHECKPOINTS

_FILE = "photos.json"


def require_same_photos(folder: Path, photos: LabelledPhotos) -> None:
    """Record the photos of a run in its folder or, if it has a checkpoint to resume from, compare
    them.

    Args:
        folder: folder of the run; created if missing.
        photos: the photos to train on; their digests are compared where both are known.

    Raises:
        TrainingError: the run was started on other photos; the message names the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / _FILE
    resumed = any(entry.name.isdigit() for entry in (folder / CHECKPOINTS).glob("*"))
    now: dict[str, Any] = {
        "paths": list(photos.paths),
        "labels": photos.labels.tolist(),
        "contents": list(photos.contents) or [""] * len(photos.paths),
    }
    held: dict[str, Any] | None = None
    if resumed and file.is_file():
        held = _read(file)
        changes = list(_changes(held, now))
        if changes:
            raise TrainingError(
                f"{folder}: holds a training run on other photos: {'; '.join(changes)}; choose"
                " another folder, or remove this one to start again"
            )
        now["contents"] = [
            old or new for old, new in zip(held["contents"], now["contents"], strict=True)
        ]
    elif resumed:
        warnings.warn(
            f"{folder}: holds a training run of an earlier version, which did not record its"
            " photos; it resumes with those that are there now",
            stacklevel=2,
        )
    if now != held:
        write_json(file, now, ensure_ascii=False)


def _read(file: Path) -> dict[str, Any]:
    record = read_json_object(file, error=TrainingError)
    columns = [record.get(name) for name in ("paths", "labels", "contents")]
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) != 1 or -1 in lengths:
        raise TrainingError(
            f"{file}: damaged: expected paths, labels and contents of equally many photos"
        )
    return record


def _changes(held: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What is different about the photos now, a phrase for each kind of change."""
    before, after = set(held["paths"]), set(now["paths"])
    if held["paths"] != now["paths"]:
        yield from _phrase(sorted(before - after), "gone")
        yield from _phrase(sorted(after - before), "new")
        if before == after:
            yield "their order has changed"
        return
    labels = zip(held["paths"], held["labels"], now["labels"], strict=True)
    yield from _phrase([path for path, old, new in labels if old != new], "labelled otherwise")
    contents = zip(held["paths"], held["contents"], now["contents"], strict=True)
    yield from _phrase(
        [path for path, old, new in contents if old and new and old != new], "another file now"
    )


def _phrase(paths: Sequence[str], what: str) -> Iterator[str]:
    if len(paths) == 1:
        yield f"{paths[0]} is {what}"
    elif paths:
        yield f"{paths[0]} and {len(paths) - 1} more are {what}"
