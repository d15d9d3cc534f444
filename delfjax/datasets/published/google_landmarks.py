"""Google-Landmarks, versions 1 and 2, from the CSV files they were published with.

Version 2 has these files, and images at ``train/a/b/c/abc….jpg``, in folders named by the first
three characters of the id:

- ``train.csv (id, url, landmark_id)``, ``train_clean.csv (landmark_id, images)``;
- ``index.csv (id)``, ``index_image_to_landmark.csv (id, landmark_id)``, ``test.csv (id)``;
- ``retrieval_solution_v2.1.csv (id, images, Usage)`` and
  ``recognition_solution_v2.1.csv (id, landmarks, Usage)``.

Version 1 has ``train.csv (id, url, landmark_id)``, ``index.csv (id, url)`` and
``test.csv (id, url)``, and images at ``train/abc….jpg``. A CSV file may lie in the root, in
``metadata/``, or in the folder of the images it lists.

The landmark ids of the index are not those of the training set. The GPS positions that the paper
of version 1 scores by were never published; the columns ``latitude`` and ``longitude`` (degrees)
of its CSV files are read where someone has added them.

Source: github.com/cvdfoundation/google-landmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from delfjax.datasets.benchmark import Queries, RetrievalDataset, make_queries, no_queries
from delfjax.datasets.columns import (
    DatasetError,
    ImagePaths,
    IndexSets,
    joined,
    offsets_of,
    positions,
    require_unique,
)
from delfjax.errors import quoted

RETRIEVAL_SOLUTION = "retrieval_solution_v2.1.csv"
RECOGNITION_SOLUTION = "recognition_solution_v2.1.csv"
USAGES = ("Public", "Private", "Ignored")
# Version 1 writes None for an image without a landmark.
_NULLS = ["", "None"]
_TEXT = pa.large_string()
_GPS = ("latitude", "longitude")


def load_v2(root: Path) -> RetrievalDataset:
    """Version 2, retrieval: the test images are searched for in the index.

    Every test image is a query. The solution lists its answers (label ok); a query without answers
    has an empty set, and most of them are in the split Ignored.

    Raises:
        DatasetError: a CSV file is missing or malformed, or the solution names an image that the
            index lacks.
    """
    ids = _ids(_find(root, "index.csv", "index"))
    solution = _find(root, RETRIEVAL_SOLUTION, "test")
    table = _solution(solution, "images")
    flat, lengths = _words(table["images"])
    answers = positions(flat, ids)
    if (answers < 0).any():
        stray = flat[int(np.flatnonzero(answers < 0)[0])].as_py()
        raise DatasetError(
            f"{solution}: names image {stray!r:.40}, which index.csv lacks; "
            "both must be of one version"
        )
    queries = make_queries(
        _sharded("test", table["id"], solution),
        {"ok": IndexSets(offsets_of(lengths), answers)},
        split=np.asarray(table["Usage"].to_pylist(), np.str_),
    )
    landmarks = _index_landmarks(root, ids)
    return RetrievalDataset(
        "google_landmarks_v2",
        root,
        _sharded("index", ids, root / "index.csv"),
        queries,
        landmarks=landmarks,
    )


def load_v2_recognition(root: Path) -> RetrievalDataset:
    """Version 2, recognition: the test images are searched for in the training set.

    The solution lists the landmarks of each test image.
    """
    train = load_v2_train(root)
    solution = _find(root, RECOGNITION_SOLUTION, "test")
    table = _solution(solution, "landmarks")
    flat, lengths = _words(table["landmarks"])
    queries = make_queries(
        _sharded("test", table["id"], solution),
        {},
        landmarks=IndexSets(offsets_of(lengths), _whole_numbers(flat, solution)),
        split=np.asarray(table["Usage"].to_pylist(), np.str_),
    )
    return RetrievalDataset(
        "google_landmarks_v2_recognition", root, train.database, queries, landmarks=train.landmarks
    )


def load_v2_train(root: Path) -> RetrievalDataset:
    """Version 2, the whole training set: labelled images, no queries."""
    file = _find(root, "train.csv", "train")
    table = _read(file, {"id": _TEXT, "landmark_id": pa.int64()})
    require_unique(table["id"], str(file))
    return RetrievalDataset(
        "google_landmarks_v2_train",
        root,
        _sharded("train", table["id"], file),
        no_queries(),
        landmarks=_labels(table, file),
    )


def load_v2_clean(root: Path) -> RetrievalDataset:
    """Version 2, the cleaned training set, landmark by landmark as in ``train_clean.csv``."""
    file = _find(root, "train_clean.csv", "train")
    table = _read(file, {"landmark_id": pa.int64(), "images": _TEXT})
    flat, lengths = _words(table["images"])
    require_unique(flat, str(file))
    landmarks = np.repeat(_labels(table, file), lengths)
    return RetrievalDataset(
        "google_landmarks_v2_clean",
        root,
        _sharded("train", flat, file),
        no_queries(),
        landmarks=landmarks,
    )


def load_v1(root: Path) -> RetrievalDataset:
    """Version 1: the test images are queries; without labels, because none were published."""
    index = _find(root, "index.csv", "index")
    test = _find(root, "test.csv", "test")
    database = _read_v1(index)
    queries = _read_v1(test)
    unanswered = "landmark_id" not in queries.column_names
    return RetrievalDataset(
        "google_landmarks_v1",
        root,
        _flat("index", database["id"], index),
        _v1_queries(queries, test),
        landmarks=_landmarks(database) if "landmark_id" in database.column_names else None,
        gps=_gps(database, index),
        notes=("the answers to the queries were never published",) if unanswered else (),
    )


def load_v1_train(root: Path) -> RetrievalDataset:
    """Version 1, the training set: labelled images, no queries; −1 for no landmark."""
    file = _find(root, "train.csv", "train")
    table = _read_v1(file)
    if "landmark_id" not in table.column_names:
        raise DatasetError(
            f"{file}: no column 'landmark_id'; it has: {', '.join(table.column_names)}"
        )
    return RetrievalDataset(
        "google_landmarks_v1_train",
        root,
        _flat("train", table["id"], file),
        no_queries(),
        landmarks=_labels(table, file),
        gps=_gps(table, file),
    )


def _v1_queries(table: pa.Table, file: Path) -> Queries:
    landmarks = None
    if "landmark_id" in table.column_names:
        ids = _landmarks(table)
        landmarks = IndexSets(offsets_of(ids >= 0), ids[ids >= 0])
    return make_queries(
        _flat("test", table["id"], file), {}, landmarks=landmarks, gps=_gps(table, file)
    )


def _read_v1(file: Path) -> pa.Table:
    optional = {"landmark_id": pa.int64(), **{name: pa.float64() for name in _GPS}}
    table = _read(file, {"id": _TEXT}, optional)
    require_unique(table["id"], str(file))
    return table


def _gps(table: pa.Table, file: Path) -> np.ndarray | None:
    if not set(_GPS) <= set(table.column_names):
        return None
    latitude, longitude = (
        np.asarray(pc.fill_null(table[name], np.nan), np.float64) for name in _GPS
    )
    wrong = np.flatnonzero((np.abs(latitude) > 90) | (np.abs(longitude) > 180))
    if len(wrong):
        row = wrong[0]
        raise DatasetError(
            f"{file}: row {row + 1}: latitude {latitude[row]:g} and longitude {longitude[row]:g}, "
            "expected degrees within ±90 and ±180"
        )
    return np.stack([latitude, longitude], axis=1)


def _find(root: Path, name: str, split: str) -> Path:
    places = [root / name, root / "metadata" / name, root / split / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DatasetError(
            f"{root / name}: no such file, nor in 'metadata' or {split!r} there; "
            "it comes with the dataset"
        )
    return found


def _read(
    file: Path,
    columns: Mapping[str, pa.DataType],
    optional: Mapping[str, pa.DataType] | None = None,
) -> pa.Table:
    """The named columns of a CSV file; other columns are dropped."""
    types = {**columns, **(optional or {})}
    header = _header(file)
    missing = [name for name in columns if name not in header]
    if missing:
        raise DatasetError(
            f"{file}: no column {missing[0]!r}; it has: {quoted(', '.join(header)) or 'nothing'}"
        )
    convert = pyarrow.csv.ConvertOptions(
        column_types=types,
        include_columns=[name for name in types if name in header],
        null_values=_NULLS,
        strings_can_be_null=False,
    )
    try:
        table = pyarrow.csv.read_csv(file, convert_options=convert)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{file}: {quoted(error)}; download it again") from None
    if not len(table):
        raise DatasetError(f"{file}: has no rows; download it again")
    return table


def _header(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            # Bounded, because a damaged file may not contain a single line end.
            first = lines.readline(4096)
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: not text; download it again") from None
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from None
    return [name.strip().strip('"') for name in first.split(",") if name.strip()]


def _solution(file: Path, answers: str) -> pa.Table:
    table = _read(file, {"id": _TEXT, answers: _TEXT, "Usage": _TEXT})
    require_unique(table["id"], str(file))
    unknown = set(pc.unique(table["Usage"]).to_pylist()) - set(USAGES)
    if unknown:
        raise DatasetError(
            f"{file}: Usage {min(unknown)!r:.40}, expected one of {', '.join(USAGES)}"
        )
    return table


def _ids(file: Path) -> pa.ChunkedArray:
    ids = _read(file, {"id": _TEXT})["id"]
    require_unique(ids, str(file))
    return ids


def _index_landmarks(root: Path, ids: pa.ChunkedArray) -> np.ndarray | None:
    """Landmark of each image of the index; ``None`` if the file is missing.

    It was published later than the others.
    """
    places = [
        place / "index_image_to_landmark.csv" for place in (root, root / "metadata", root / "index")
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None
    table = _read(file, {"id": _TEXT, "landmark_id": pa.int64()})
    rows = positions(ids, table["id"])
    return (
        np.where(rows < 0, -1, _landmarks(table)[rows])
        if len(table)
        else np.full(len(ids), -1, np.int64)
    )


def _landmarks(table: pa.Table) -> np.ndarray:
    return np.asarray(pc.fill_null(table["landmark_id"], -1)).astype(np.int64)


def _labels(table: pa.Table, file: Path) -> np.ndarray:
    """Landmark of each row of a training set, −1 for none; at least one row has one."""
    labels = _landmarks(table)
    if (labels < 0).all():
        raise DatasetError(
            f"{file}: no row has a landmark_id, a whole number from 0; download it again"
        )
    return labels


def _words(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The space-separated words of all rows, flat, and the number of words of each row.

    A row that is empty or ``None`` has no words.
    """
    trimmed = pc.utf8_trim_whitespace(column)
    blank = pc.if_else(pc.is_in(trimmed, pa.array(_NULLS, _TEXT)), pa.scalar("", _TEXT), trimmed)
    split = pc.split_pattern_regex(blank, r"\s+").combine_chunks()
    flat = pc.list_flatten(split)
    # Splitting an empty text gives one empty word.
    lengths = np.where(
        np.asarray(pc.equal(blank, "")), 0, np.asarray(pc.list_value_length(split))
    ).astype(np.int64)
    return flat.filter(pc.not_equal(flat, "")), lengths


def _whole_numbers(words: pa.Array, file: Path) -> np.ndarray:
    odd = pc.index(pc.match_substring_regex(words, r"^\d{1,18}$"), pa.scalar(False)).as_py()
    if odd >= 0:
        raise DatasetError(f"{file}: landmark {words[odd].as_py()!r:.40}, expected a whole number")
    return np.asarray(words.cast(pa.int64()))


def _sharded(split: str, ids: pa.Array | pa.ChunkedArray, file: Path) -> ImagePaths:
    """``train/a/b/c/abc….jpg`` for each id."""
    _require_hex(ids, file)
    first = [pc.utf8_slice_codeunits(ids, place, place + 1) for place in range(3)]
    return ImagePaths(joined(split, *first, joined(ids, ".jpg"), separator="/"))


def _flat(split: str, ids: pa.ChunkedArray, file: Path) -> ImagePaths:
    """``train/abc….jpg`` for each id."""
    _require_hex(ids, file)
    return ImagePaths(joined(split, joined(ids, ".jpg"), separator="/"))


def _require_hex(ids: pa.Array | pa.ChunkedArray, file: Path) -> None:
    odd = pc.index(pc.match_substring_regex(ids, r"^[0-9a-f]{16}$"), pa.scalar(False)).as_py()
    if odd >= 0:
        raise DatasetError(f"{file}: id {ids[odd].as_py()!r:.40}, expected 16 hexadecimal digits")
