"""The photos that a training run was started on: a run resumes on the same photos with the same
labels, or not at all.

Their record lies beside the checkpoints. A photo that cannot be read now is compared by name and
label alone: a disk that is away for a while does not end a run. One that could not be read when the
run began is not part of the run, even if it can be read later.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delfjax.errors import DelfjaxWarning
from delfjax.files import write_json
from delfjax.records import Record, Whole, read_record
from delfjax.text import printable
from delfjax.training.batches import LabelledPhotos, TrainingError

_FILE = "photos.json"


def same_photos(folder: Path, photos: LabelledPhotos, *, resumed: bool) -> LabelledPhotos:
    """The photos with the digests that they had when the run began.

    They are recorded in the folder of the run or, if it is resumed, compared.

    Args:
        folder: folder of the run.
        photos: the photos to train on; their digests are compared where both are known.
        resumed: whether there is a checkpoint to resume from.

    Raises:
        TrainingError: the run was started on other photos, and the message names the first; or the
            record is damaged.
    """
    file = folder / _FILE
    if resumed and file.is_file():
        held = _read(file)
        changes = list(_changes(held, _record(photos)))
        if changes:
            raise TrainingError(
                f"{folder}: holds a training run on other photos: {'; '.join(changes)}; choose"
                " another folder, or remove this one to start again"
            )
        return replace(photos, contents=tuple(held["contents"]))
    if resumed:
        warnings.warn(
            f"{file}: is missing, as in runs of earlier versions; training resumes with the photos"
            " that are there now",
            DelfjaxWarning,
            stacklevel=2,
        )
    write_json(file, _record(photos), ensure_ascii=False)
    return photos


def _record(photos: LabelledPhotos) -> dict[str, Any]:
    return {
        "paths": list(photos.paths),
        "labels": photos.labels.tolist(),
        "contents": list(photos.contents) or [""] * len(photos.paths),
    }


@dataclass
class _Photos(Record):
    paths: list[str]
    labels: list[Whole]
    contents: list[str]


def _read(file: Path) -> dict[str, Any]:
    kept = "; if the photos are as they were, remove this file to resume with them"
    try:
        record = read_record(file, _Photos, error=TrainingError)
    except TrainingError as error:
        raise TrainingError(f"{error}{kept}") from None
    if not len(record["paths"]) == len(record["labels"]) == len(record["contents"]):
        raise TrainingError(
            f"{file}: damaged: expected paths, labels and contents of equally many photos{kept}"
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
    if not paths:
        return
    first = f"{printable(paths[0]):.200}"
    if len(paths) == 1:
        yield f"{first} is {what}"
    else:
        yield f"{first} and {len(paths) - 1} more are {what}"
