"""Oxford5k and Paris6k as published, and with Flickr100k as distractors (Oxford105k, Paris106k).

Layout of Oxford5k: ``all_souls_000013.jpg`` …, and ``all_souls_1_{query,good,ok,junk}.txt`` in a
folder of their own (``gt_files_170407``). Layout of Paris6k: ``paris/<tag>/paris_<tag>_000000.jpg``
and the same kind of text files. Images and text files may lie anywhere under the root, because they
are identified by their names.

Source: the pages of the two datasets (robots.ox.ac.uk/~vgg/data/oxbuildings, …/parisbuildings).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from delfjax.datasets.benchmark import RetrievalDataset, make_queries, moved_below, with_distractors
from delfjax.datasets.columns import DatasetError, ImagePaths, IndexSets
from delfjax.datasets.photo_folder import as_utf8, scan_folder
from delfjax.datasets.query_images import box_from_xyxy

LABELS = ("good", "ok", "junk")
# Prefix of image names in Oxford's query files: the collection that the images were drawn from.
QUERY_PREFIX = "oxc1_"
# Images of Paris6k that are damaged in the published archive; evaluations leave them out.
# Source: the dataset's own list, robots.ox.ac.uk/~vgg/data/parisbuildings/corrupt.txt.
PARIS_CORRUPT = frozenset(
    f"paris_{tag}_{number:06d}"
    for tag, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
)


@dataclass(frozen=True)
class _TextQuery:
    """The content of a query's four text files; image names are without extension."""

    name: str
    image: str
    box: tuple[float, float, float, float]
    labels: Mapping[str, list[str]]


def load_oxford5k(root: Path) -> RetrievalDataset:
    """Oxford5k: labels good, ok, junk; the query images are in the database.

    Raises:
        DatasetError: images or text files are missing or malformed.
    """
    return _load(root, "oxford5k", corrupt=frozenset())


def load_paris6k(root: Path) -> RetrievalDataset:
    """Paris6k, in the shape of Oxford5k.

    Damaged images (:data:`PARIS_CORRUPT`) that are present stay in the database and are listed as
    corrupt, without a label. They may also have been deleted.

    Raises:
        DatasetError: images or text files are missing or malformed.
    """
    return _load(root, "paris6k", corrupt=PARIS_CORRUPT)


def load_oxford105k(root: Path) -> RetrievalDataset:
    """Oxford5k and Flickr100k, in ``oxford5k/`` and ``flickr100k/`` under ``root``."""
    return _with_flickr(load_oxford5k(root / "oxford5k"), root, name="oxford105k")


def load_paris106k(root: Path) -> RetrievalDataset:
    """Paris6k and Flickr100k, in ``paris6k/`` and ``flickr100k/`` under ``root``."""
    return _with_flickr(load_paris6k(root / "paris6k"), root, name="paris106k")


def images_by_name(root: Path) -> dict[str, str]:
    """Name without folder and extension → path, for every image under a folder, sorted by name.

    Raises:
        DatasetError: there are no images, or two of the same name.
    """
    found: dict[str, str] = {}
    for path in _images(root):
        name = PurePosixPath(path).stem
        if name in found:
            raise DatasetError(
                f"{root}: image {name!r} is there twice, {found[name]!r} and {path!r}; "
                "keep one of them"
            )
        found[name] = path
    return dict(sorted(found.items()))


def _with_flickr(dataset: RetrievalDataset, root: Path, *, name: str) -> RetrievalDataset:
    folder = root / "flickr100k"
    return with_distractors(
        moved_below(dataset, dataset.root.name),
        ImagePaths(_images(folder)).under(folder.name),
        name=name,
    )


def _images(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; put the dataset there, or name its folder")
    names = scan_folder(root).names
    if not names:
        raise DatasetError(
            f"{root}: no images in this folder; unpack the archives of the dataset there"
        )
    return names


def _load(root: Path, name: str, *, corrupt: frozenset[str]) -> RetrievalDataset:
    paths = images_by_name(root)
    index = {image: position for position, image in enumerate(paths)}
    texts = _read_queries(root)
    landmark_names = tuple(sorted({query.name.rpartition("_")[0] for query in texts}))
    number = {landmark: position for position, landmark in enumerate(landmark_names)}
    landmarks = [[number[query.name.rpartition("_")[0]]] for query in texts]
    sets = {
        label: IndexSets.of([_indices(query, label, index, corrupt) for query in texts])
        for label in LABELS
    }
    own = [_position(query.image, index, f"{query.name}_query.txt") for query in texts]
    columns = list(paths.values())
    damaged = [index[image] for image in paths if image in corrupt]
    notes = (f"{len(damaged)} images known to be damaged are in the database",) if damaged else ()
    queries = make_queries(
        ImagePaths([columns[position] for position in own]),
        sets,
        boxes=np.array([query.box for query in texts], np.float64),
        landmarks=IndexSets.of(landmarks),
        in_database=np.array(own, np.int64),
    )
    return RetrievalDataset(
        name,
        root,
        ImagePaths(columns),
        queries,
        landmark_names=landmark_names,
        corrupt=np.array(damaged, np.int64),
        notes=notes,
    )


def _indices(
    query: _TextQuery, label: str, index: Mapping[str, int], corrupt: frozenset[str]
) -> list[int]:
    where = f"{query.name}_{label}.txt"
    return [_position(image, index, where) for image in query.labels[label] if image not in corrupt]


def _position(image: str, index: Mapping[str, int], where: str) -> int:
    if image not in index:
        raise DatasetError(
            f"{where}: names image {image!r:.80}, which is missing; unpack the images again"
        )
    return index[image]


def _read_queries(root: Path) -> list[_TextQuery]:
    """The queries whose text files lie under a folder, sorted by name."""
    files = sorted(root.rglob("*_query.txt"), key=lambda file: file.name)
    if not files:
        raise DatasetError(
            f"{root}: no ground truth (*_query.txt) under this folder; unpack gt_files there"
        )
    odd = next((file.name for file in files if as_utf8(file.name) != file.name), None)
    if odd is not None:
        raise DatasetError(f"{root}: the name of {as_utf8(odd)!r} is not valid UTF-8; rename it")
    times = Counter(file.name for file in files)
    twice = next((name for name, count in times.items() if count > 1), None)
    if twice is not None:
        raise DatasetError(f"{root}: {twice!r} is there twice; keep one copy of the ground truth")
    return [_read_query(file) for file in files]


def _read_query(file: Path) -> _TextQuery:
    words = _text(file).split()
    if len(words) != 5:
        raise DatasetError(f"{file}: {' '.join(words)!r:.80}, expected one line: image x1 y1 x2 y2")
    box = box_from_xyxy(words[1:], str(file))
    name = file.name.removesuffix("_query.txt")
    labels = {label: _text(file.with_name(f"{name}_{label}.txt")).split() for label in LABELS}
    if not labels["good"] and not labels["ok"]:
        raise DatasetError(
            f"{file.with_name(name + '_good.txt')}: empty, as is {name}_ok.txt; "
            "a query needs a positive"
        )
    both = set(labels["junk"]) & {*labels["good"], *labels["ok"]}
    if both:
        raise DatasetError(
            f"{file.with_name(name + '_junk.txt')}: {min(both)!r:.80} is also good or ok, "
            "expected one label"
        )
    return _TextQuery(name, words[0].removeprefix(QUERY_PREFIX), box, labels)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"{file}: cannot be read: {error.strerror}; unpack the ground truth again"
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: not text; unpack the ground truth again") from None
