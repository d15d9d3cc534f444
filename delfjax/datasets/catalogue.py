"""Every dataset by name: where it comes from, what is still available, and its expected counts.

A dataset lies in ``external/<folder>`` under the data root, or where its user says. Nothing here
downloads it; :mod:`delfjax.datasets.fetch.fetching` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from delfjax import paths
from delfjax.config import require_known
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.columns import DatasetError
from delfjax.datasets.fetch import archives
from delfjax.datasets.fetch.archives import FileSet
from delfjax.datasets.folder_benchmark import load_folder
from delfjax.datasets.published import (
    google_landmarks,
    holidays,
    landmarks,
    oxford_paris,
    revisited,
)
from delfjax.datasets.world_benchmark import load_world, load_world_train

UNKNOWN = "unknown"

Loader = Callable[[Path], RetrievalDataset]


@dataclass(frozen=True)
class Expected:
    """A count of the real dataset.

    Attributes:
        values: counts that a complete copy may have; several where copies differ.
        source: where the count comes from.
        confirmed: whether it was counted or read in a primary source, rather than remembered.
    """

    values: tuple[int, ...]
    source: str
    confirmed: bool = True


@dataclass(frozen=True)
class DatasetEntry:
    """What is known about a dataset.

    Attributes:
        title: one line.
        load: reads the dataset from its root.
        folders: its folders under ``external``: one, several for a dataset made of several parts,
            or none where only the user knows the folder.
        origin: where it comes from, or came from.
        availability: what of it is still available.
        licence: terms of use.
        size: how much there is to download.
        expected: counts of the real dataset, by the names that ``count_dataset`` uses.
        published: the files it is published as; none where it is no longer available.
    """

    title: str
    load: Loader
    folders: tuple[str, ...]
    origin: str
    availability: str
    licence: str
    size: str
    expected: Mapping[str, Expected]
    published: tuple[FileSet, ...] = ()


_POSTER = "DELF poster (ICCV 2017)"
_INSPECTED = "counted in the ground-truth pickle"
_CVDF = "github.com/cvdfoundation/google-landmark"
_REMEMBERED = "remembered, not confirmed"
_THERE = "still available, as far as is known"
_BLURRED = (
    "since 2022 as archives with blurred faces "
    "(oxbuild_images-v1.tgz, paris_1-v1.tgz, paris_2-v1.tgz)"
)
_FLICKR = 100_071
_MILLION = Expected((1_001_001,), "revisitop")
_V2_INDEX_LISTS = ("index.csv", "index_image_to_landmark.csv")
_V2_TRAIN = {"database": Expected((4_132_914,), _CVDF), "landmarks": Expected((203_094,), _CVDF)}

_OXFORD = {
    # The poster counts 5,062; the revisited lists, drawn from the same archive, name 4,993 + 70.
    "database": Expected((5_062, 5_063), f"{_POSTER}; 5,063 = 4,993 + 70 of the revisited lists"),
    "queries": Expected((55,), _POSTER),
    "landmarks": Expected((11,), "its text files: 11 landmarks of 5 queries"),
}
_PARIS = {
    # With the damaged images and without them.
    "database": Expected((6_412, 6_392), f"{_POSTER}; 6,392 = 6,322 + 70 of the revisited lists"),
    "queries": Expected((55,), _POSTER),
    "landmarks": Expected((11,), _POSTER),
    "corrupt": Expected((20, 0), "the dataset's own list corrupt.txt; 6,412 − 6,392"),
}
_ROXFORD = {
    "database": Expected((4_993,), _INSPECTED),
    "queries": Expected((70,), _INSPECTED),
    "easy": Expected((3_029,), _INSPECTED),
    "hard": Expected((2_497,), _INSPECTED),
    "junk": Expected((1_356,), _INSPECTED),
}
_RPARIS = {
    "database": Expected((6_322,), _INSPECTED),
    "queries": Expected((70,), _INSPECTED),
    "easy": Expected((6_874,), _INSPECTED),
    "hard": Expected((10_350,), _INSPECTED),
    "junk": Expected((7_153,), _INSPECTED),
}
_HOLIDAYS = {
    "database": Expected((1_491,), _POSTER),
    "queries": Expected((500,), _POSTER),
    "landmarks": Expected((500,), _POSTER),
    "ok": Expected((991,), "its evaluation script"),
}

_OXFORD_FILES = (archives.OXFORD_IMAGES, archives.OXFORD_TRUTH)
_PARIS_FILES = (archives.PARIS_IMAGES, archives.PARIS_TRUTH)


def _extended(base: Mapping[str, Expected], more: Expected) -> dict[str, Expected]:
    """Expected counts with ``more`` distractors; the sum is confirmed only if both terms are."""
    total = tuple(value + more.values[0] for value in base["database"].values)
    sure = more.confirmed and base["database"].confirmed
    return {**base, "database": Expected(total, more.source, sure), "distractors": more}


def _oxford_paris(
    title: str, load: Loader, expected: Mapping[str, Expected], *folders: str
) -> DatasetEntry:
    oxford = folders[0] == "oxford5k"
    origin = f"robots.ox.ac.uk/~vgg/data/{'oxbuildings' if oxford else 'parisbuildings'}"
    published: tuple[FileSet, ...] = _OXFORD_FILES if oxford else _PARIS_FILES
    if len(folders) > 1:
        origin += "; Flickr100k is on the page of Oxford5k"
        published = (*published, archives.FLICKR)
    size = archives.describe_size(published)
    return DatasetEntry(title, load, folders, origin, _BLURRED, UNKNOWN, size, expected, published)


def _revisited(
    title: str, load: Loader, expected: Mapping[str, Expected], *folders: str
) -> DatasetEntry:
    origin = "cmp.felk.cvut.cz/revisitop/data/datasets, images of the classic dataset"
    # The loaders find the images in the folder of the classic dataset.
    published: tuple[FileSet, ...] = (archives.RPARIS_TRUTH, archives.PARIS_IMAGES)
    if folders[0] == "roxford5k":
        published = (archives.ROXFORD_TRUTH, archives.OXFORD_IMAGES)
    if len(folders) > 1:
        origin += "; ptak.felk.cvut.cz/revisitop/revisitop1m (100 archives)"
        published = (*published, archives.MILLION)
    size = archives.describe_size(published) + (", an estimate" if len(folders) > 1 else "")
    return DatasetEntry(title, load, folders, origin, _THERE, UNKNOWN, size, expected, published)


def _version2(
    title: str, load: Loader, size: str, expected: Mapping[str, Expected], files: FileSet
) -> DatasetEntry:
    licence = "one for each image, in train_attribution.csv for the training set"
    return DatasetEntry(
        title, load, ("google_landmarks_v2",), _CVDF, _THERE, licence, size, expected, (files,)
    )


def _version1(title: str, load: Loader, expected: Mapping[str, Expected]) -> DatasetEntry:
    gone = (
        "VANISHED: no longer available; "
        "the paper's queries, database and GPS positions were never published"
    )
    origin = "was at kaggle.com/google/google-landmarks-dataset"
    return DatasetEntry(
        title, load, ("google_landmarks_v1",), origin, gone, UNKNOWN, UNKNOWN, expected
    )


def _babenko(title: str, load: Loader, images: int) -> DatasetEntry:
    origin = (
        "URL lists at skoltech (neural codes); "
        "full and clean lists of DIR at download.europe.naverlabs.com"
    )
    gone = (
        "PARTLY VANISHED: lists of URLs, many of them dead; "
        "some 27,500 images of the clean list were once still available"
    )
    expected = {
        "database": Expected((images,), _REMEMBERED, confirmed=False),
        "landmarks": Expected((586,), "issue #3387 of tensorflow/models"),
    }
    return DatasetEntry(title, load, ("landmarks",), origin, gone, UNKNOWN, UNKNOWN, expected)


def _world(title: str, load: Loader) -> DatasetEntry:
    return DatasetEntry(
        title,
        load,
        ("world",),
        origin="`delfjax datasets render`",
        availability="anywhere, offline",
        licence="none needed: it contains no third-party material",
        size="nothing to download",
        expected={},
    )


CATALOGUE: Mapping[str, DatasetEntry] = {
    "world": _world("The landmark world: rendered landmarks with exact ground truth", load_world),
    "world_train": _world("The landmark world: landmarks for training alone", load_world_train),
    "oxford5k": _oxford_paris("Oxford buildings", oxford_paris.load_oxford5k, _OXFORD, "oxford5k"),
    "paris6k": _oxford_paris("Paris buildings", oxford_paris.load_paris6k, _PARIS, "paris6k"),
    "oxford105k": _oxford_paris(
        "Oxford buildings and 100k distractors from Flickr",
        oxford_paris.load_oxford105k,
        _extended(_OXFORD, Expected((_FLICKR,), _REMEMBERED, confirmed=False)),
        "oxford5k",
        "flickr100k",
    ),
    "paris106k": _oxford_paris(
        "Paris buildings and 100k distractors from Flickr",
        oxford_paris.load_paris106k,
        _extended(_PARIS, Expected((_FLICKR,), _REMEMBERED, confirmed=False)),
        "paris6k",
        "flickr100k",
    ),
    "roxford5k": _revisited("Revisited Oxford", revisited.load_roxford5k, _ROXFORD, "roxford5k"),
    "rparis6k": _revisited("Revisited Paris", revisited.load_rparis6k, _RPARIS, "rparis6k"),
    "roxford5k_r1m": _revisited(
        "Revisited Oxford and a million distractors",
        revisited.load_roxford5k_r1m,
        _extended(_ROXFORD, _MILLION),
        "roxford5k",
        "revisitop1m",
    ),
    "rparis6k_r1m": _revisited(
        "Revisited Paris and a million distractors",
        revisited.load_rparis6k_r1m,
        _extended(_RPARIS, _MILLION),
        "rparis6k",
        "revisitop1m",
    ),
    "holidays": DatasetEntry(
        "INRIA Holidays",
        holidays.load_holidays,
        ("holidays",),
        "lear.inrialpes.fr (jpg1.tar.gz, jpg2.tar.gz)",
        _THERE,
        UNKNOWN,
        archives.describe_size((archives.HOLIDAYS,)),
        _HOLIDAYS,
        (archives.HOLIDAYS,),
    ),
    "holidays_rotated": DatasetEntry(
        "INRIA Holidays, turned upright by hand",
        holidays.load_holidays_rotated,
        ("holidays_rotated",),
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        _HOLIDAYS,
    ),
    "google_landmarks_v1": _version1(
        "Google-Landmarks v1: index and test", google_landmarks.load_v1, {}
    ),
    "google_landmarks_v1_train": _version1(
        "Google-Landmarks v1: training set",
        google_landmarks.load_v1_train,
        {"landmarks": Expected((14_951,), "its training code in tensorflow/models")},
    ),
    "google_landmarks_v2": _version2(
        "Google-Landmarks v2: retrieval, index and test",
        google_landmarks.load_v2,
        "index ≈ 85 GB in 100 archives, test ≈ 10 GB in 20",
        {"database": Expected((761_757,), _CVDF), "queries": Expected((117_577,), _CVDF)},
        archives.google_landmarks_v2(
            "index",
            "test",
            lists=(*_V2_INDEX_LISTS, "test.csv", google_landmarks.RETRIEVAL_SOLUTION),
        ),
    ),
    "google_landmarks_v2_recognition": _version2(
        "Google-Landmarks v2: recognition, train and test",
        google_landmarks.load_v2_recognition,
        "train ≈ 500 GB in 500 archives, test ≈ 10 GB in 20",
        {**_V2_TRAIN, "queries": Expected((117_577,), _CVDF)},
        archives.google_landmarks_v2(
            "train", "test", lists=("train.csv", "test.csv", google_landmarks.RECOGNITION_SOLUTION)
        ),
    ),
    "google_landmarks_v2_train": _version2(
        "Google-Landmarks v2: training set",
        google_landmarks.load_v2_train,
        "≈ 500 GB in 500 archives",
        _V2_TRAIN,
        archives.google_landmarks_v2("train", lists=("train.csv",)),
    ),
    "google_landmarks_v2_clean": _version2(
        "Google-Landmarks v2: cleaned training set",
        google_landmarks.load_v2_clean,
        "≈ 500 GB in 500 archives: those of the training set",
        {"database": Expected((1_580_470,), _CVDF), "landmarks": Expected((81_313,), _CVDF)},
        archives.google_landmarks_v2("train", lists=("train_clean.csv",)),
    ),
    "landmarks_full": _babenko(
        "Landmarks (Babenko), full lists", landmarks.load_landmarks_full, 140_372
    ),
    "landmarks_clean": _babenko(
        "Landmarks (Babenko), cleaned lists", landmarks.load_landmarks_clean, 35_382
    ),
    "folder": DatasetEntry(
        "a folder of photographs: groundtruth.json, or a folder for each landmark",
        load_folder,
        (),
        "yours",
        "yours",
        "yours",
        "yours",
        {},
    ),
}


def dataset_entry(name: str) -> DatasetEntry:
    """The catalogue's entry of a dataset.

    Raises:
        ConfigError: there is no dataset of that name; the message suggests the nearest.
    """
    require_known("dataset", name, CATALOGUE)
    return CATALOGUE[name]


def dataset_root(name: str) -> Path | None:
    """Default root of a dataset; ``None`` where only the user knows the folder.

    The root of a dataset made of several parts (``oxford105k``) is the folder that contains their
    folders.
    """
    folders = dataset_folders(name)
    if len(folders) > 1:
        return folders[0].parent
    return folders[0] if folders else None


def dataset_folders(name: str) -> tuple[Path, ...]:
    """Default folders of a dataset, one for each of its parts."""
    external = paths.data_root() / "external"
    return tuple(external / folder for folder in dataset_entry(name).folders)


def present_datasets() -> tuple[str, ...]:
    """Names of the datasets whose default folders all exist."""
    folders = {name: dataset_folders(name) for name in CATALOGUE}
    return tuple(
        name
        for name, places in folders.items()
        if places and all(place.is_dir() for place in places)
    )


def open_dataset(name: str, root: str | Path | None = None) -> RetrievalDataset:
    """Read a dataset's lists and ground truth, without opening its images.

    Args:
        name: a name in :data:`CATALOGUE`.
        root: its folder; the default is :func:`dataset_root`.

    Raises:
        ConfigError: there is no dataset of that name.
        DatasetError: the dataset is missing, incomplete or malformed; the message names the file,
            the value and the remedy.
    """
    entry = dataset_entry(name)
    place = dataset_root(name) if root is None else Path(root)
    if place is None:
        raise DatasetError(f"dataset {name!r} has no default folder; say which folder to open")
    if not place.is_dir():
        source = f"; {name} comes from {entry.origin} ({entry.availability})"
        raise DatasetError(f"{place}: no such folder{source if entry.folders else ''}")
    return entry.load(place)
