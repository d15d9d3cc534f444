"""Revisited Oxford and Paris, and the million distractors that go with them.

Layout: ``gnd_roxford5k.pkl`` beside the folder ``jpg``. Without a folder ``jpg``, the images are
looked for in the folder of the classic dataset beside this one. Distractors: ``revisitop1m.txt``,
one name a line, beside its own ``jpg``.

The pickle is ``{"gnd": [{"bbx": (x1, y1, x2, y2), "easy": […], "hard": […], "junk": […]}, …],
"imlist": […], "qimlist": […]}``, with names without extension and zero-based indices. It is read
without running anything in it (:mod:`delfjax.pickles`).

Source: Radenović et al., Revisiting Oxford and Paris, CVPR 2018, and its files
    (cmp.felk.cvut.cz/revisitop).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delfjax.datasets.benchmark import RetrievalDataset, make_queries, moved_below, with_distractors
from delfjax.datasets.columns import (
    DatasetError,
    ImagePaths,
    IndexSets,
    joined,
    require_inside,
    require_unique,
)
from delfjax.datasets.published.oxford_paris import images_by_name
from delfjax.datasets.query_images import box_from_xyxy
from delfjax.errors import quoted, shown
from delfjax.pickles import read_plain_pickle

LABELS = ("easy", "hard", "junk")
# The images of the revisited datasets are those of the classic ones.
_CLASSIC = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}


def load_roxford5k(root: Path) -> RetrievalDataset:
    """Revisited Oxford: labels easy, hard, junk; the query images are not in the database."""
    return _load(root, "roxford5k")


def load_rparis6k(root: Path) -> RetrievalDataset:
    """Revisited Paris: labels easy, hard, junk; the query images are not in the database."""
    return _load(root, "rparis6k")


def load_roxford5k_r1m(root: Path) -> RetrievalDataset:
    """Revisited Oxford with the million distractors.

    They are read from ``roxford5k/`` and ``revisitop1m/`` under ``root``.
    """
    return _with_million(load_roxford5k(root / "roxford5k"), root, name="roxford5k_r1m")


def load_rparis6k_r1m(root: Path) -> RetrievalDataset:
    """Revisited Paris with the million distractors.

    They are read from ``rparis6k/`` and ``revisitop1m/`` under ``root``.
    """
    return _with_million(load_rparis6k(root / "rparis6k"), root, name="rparis6k_r1m")


def _load(root: Path, name: str) -> RetrievalDataset:
    file = root / f"gnd_{name}.pkl"
    content = read_plain_pickle(file, error=DatasetError)
    imlist, qimlist = (
        _names(_key(content, key, f"{file}"), f"{file}: {key}") for key in ("imlist", "qimlist")
    )
    entries = _key(content, "gnd", f"{file}")
    if not isinstance(entries, list):
        raise DatasetError(f"{file}: gnd is a {type(entries).__name__}, expected a list")
    if len(entries) != len(qimlist):
        raise DatasetError(
            f"{file}: gnd has {len(entries)} entries, "
            f"expected one for each of {len(qimlist)} queries"
        )
    boxes = []
    sets = {label: list[np.ndarray]() for label in LABELS}
    for number, entry in enumerate(entries):
        where = f"{file}: gnd[{number}]"
        boxes.append(
            box_from_xyxy(_sequence(_key(entry, "bbx", where), where + ".bbx"), where + ".bbx")
        )
        for label, members in _labelled(entry, where, len(imlist)).items():
            sets[label].append(members)
    folder, database, queries = _place(root, _CLASSIC[name], imlist, qimlist)
    columns = make_queries(
        queries,
        {label: IndexSets.of(members) for label, members in sets.items()},
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
    )
    return RetrievalDataset(name, folder, database, columns)


def _place(
    root: Path, classic: str, imlist: list[str], qimlist: list[str]
) -> tuple[Path, ImagePaths, ImagePaths]:
    """The folder that holds the images, and the paths of database and queries in it."""
    if (root / "jpg").is_dir():
        database, queries = ([f"jpg/{name}.jpg" for name in names] for names in (imlist, qimlist))
        return root, ImagePaths(database), ImagePaths(queries)
    folder = root.parent / classic
    if not folder.is_dir():
        raise DatasetError(
            f"{root}: no images, neither in {root / 'jpg'} nor in {folder}; "
            f"put those of {classic} there"
        )
    paths = images_by_name(folder)
    missing = next((name for name in (*imlist, *qimlist) if name not in paths), None)
    if missing is not None:
        raise DatasetError(
            f"{folder}: image {missing!r:.80} is missing; unpack the images of {classic} again"
        )
    return (
        folder,
        ImagePaths([paths[name] for name in imlist]),
        ImagePaths([paths[name] for name in qimlist]),
    )


def _with_million(dataset: RetrievalDataset, root: Path, *, name: str) -> RetrievalDataset:
    file = root / "revisitop1m" / "revisitop1m.txt"
    try:
        lines = pa.array(file.read_text(encoding="utf-8").splitlines(), pa.large_string())
    except OSError as error:
        raise DatasetError(
            f"{file}: cannot be read: {error.strerror}; it comes with the distractors"
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: not text; download it again") from None
    require_inside(lines, str(file))
    require_unique(lines, str(file))
    named = pc.if_else(
        pc.match_substring_regex(lines, r"(?i)\.jpe?g$"), lines, joined(lines, ".jpg")
    )
    below = moved_below(dataset, dataset.root.name)
    return with_distractors(below, ImagePaths(named).under("revisitop1m/jpg"), name=name)


def _labelled(entry: Mapping[str, Any], where: str, size: int) -> dict[str, np.ndarray]:
    """The database indices under each label of one query, checked to be disjoint."""
    labelled = {
        label: _indices(_key(entry, label, where), f"{where}.{label}", size) for label in LABELS
    }
    together = np.concatenate(list(labelled.values()))
    unique, counts = np.unique(together, return_counts=True)
    if len(unique) < len(together):
        raise DatasetError(
            f"{where}: index {unique[counts > 1][0]} is labelled twice, expected one label"
        )
    return labelled


def _indices(values: Any, where: str, size: int) -> np.ndarray:
    numbers = _sequence(values, where)
    if not all(type(number) is int for number in numbers):
        raise DatasetError(f"{where} is {shown(numbers)}, expected a list of whole numbers")
    outside = next((number for number in numbers if not 0 <= number < size), None)
    if outside is not None:
        raise DatasetError(
            f"{where} holds {shown(outside)}, expected indices into imlist, 0 to {size - 1}"
        )
    return np.array(numbers, np.int64)


def _names(values: Any, where: str) -> list[str]:
    names = [str(name) if isinstance(name, str) else "" for name in _sequence(values, where)]
    column = pa.array(names, pa.large_string())
    require_inside(column, where)
    require_unique(column, where)
    return names


def _sequence(values: Any, where: str) -> Sequence[Any]:
    if isinstance(values, np.ndarray):
        listed: list[Any] = values.ravel().tolist()
        return listed
    if not isinstance(values, list | tuple):
        raise DatasetError(f"{where} is a {type(values).__name__}, expected a list")
    return values


def _key(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} is a {type(entry).__name__}, expected a dictionary")
    if key not in entry:
        raise DatasetError(
            f"{where} has no {key!r}; it has: {quoted(', '.join(map(repr, entry))) or 'nothing'}"
        )
    return entry[key]
