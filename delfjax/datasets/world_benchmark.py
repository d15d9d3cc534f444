"""The rendered landmark world as a benchmark, and its landmarks cut out of their photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int64
from PIL import Image

from delfjax.datasets.benchmark import RetrievalDataset, make_queries, no_queries
from delfjax.datasets.columns import DatasetError, ImagePaths, IndexSets, offsets_of
from delfjax.datasets.images import DecodedImage, ImageError, decode_image
from delfjax.world.census import Census
from delfjax.world.reading import World, open_world
from delfjax.world.solids import WorldError
from delfjax.world.writing import PICTURE_SHARE, SUBJECT, VISIBLE_SHARE

# Grey value around a cut-out landmark: mid-range, so close to zero after normalisation.
_GREY = 127


@dataclass(frozen=True, eq=False)
class CutLandmarks:
    """Landmarks cut out of their photographs, as images to extract.

    Each is cropped to the landmark's mask, grey outside the mask, and enlarged.

    Attributes:
        world: the world.
        rows: photograph → its row of the manifest.
    """

    world: World
    rows: Mapping[str, int]

    @classmethod
    def of(cls, world: World, rows: Iterable[int]) -> CutLandmarks:
        """The photographs in the given rows of the manifest, each of which shows a landmark."""
        return cls(world, {world.paths[row]: row for row in rows})

    # An image is more than its file: it has a mask.
    whole = False
    scanned = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the photographs."""
        return tuple(self.rows)

    @property
    def root(self) -> Path:
        """Folder of the world."""
        return self.world.root

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """The landmark of a photograph, with its longer side ``max_side`` pixels.

        Raises:
            ImageError: the photograph cannot be read, or nothing of its landmark is visible.
        """
        whole = decode_image(self.world.root / name, max_side=self.world.census.config.image_side)
        mask = self.world.truth(self.rows[name]).owner == SUBJECT
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            raise ImageError(
                self.world.root / name, "shows nothing of its landmark", whole.content_hash
            )
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        cut = Image.fromarray(np.where(mask[..., None], whole.pixels, np.uint8(_GREY))[box])
        factor = max_side / max(cut.size)
        width, height = (max(1, round(side * factor)) for side in cut.size)
        pixels = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC))
        return DecodedImage(pixels, (height, width), whole.content_hash)

    def path(self, name: str) -> Path:
        """The whole photograph."""
        return self.world.root / name

    def is_gone(self, name: str) -> bool:
        """Never: photographs of a finished world do not leave."""
        return False


def load_world(root: Path) -> RetrievalDataset:
    """The benchmark of a world: database and distractors, queries with and without a match.

    A photograph is an answer (ok) if it shows the query's landmark well enough, and junk if it
    shows less of it.

    Raises:
        DatasetError: there is no world in ``root``, or it is unfinished or damaged.
    """
    world = _opened(root)
    database = np.concatenate([world.rows("database"), world.rows("distractor")])
    asked = np.concatenate([world.rows("query"), world.rows("no_match")])
    landmarks = range(world.census.config.landmarks)
    return _benchmark(world, database, asked, landmarks, len(world.rows("distractor")))


def load_world_tuning(root: Path, *, views: int = 2) -> RetrievalDataset:
    """A benchmark among the training photographs of a world, on which a system may be tuned: its
    landmarks are in no query of :func:`load_world`.

    Args:
        root: folder of the world.
        views: photographs of each training landmark that are queries, its first; the others are the
            database.

    Raises:
        DatasetError: there is no world in ``root``, or it is unfinished or damaged.
    """
    world = _opened(root)
    rows, config = world.rows("train"), world.census.config
    subject = np.asarray(world.manifest["subject"])[rows]
    first = np.concatenate([part[:views] for part in _grouped(subject, int(subject.max()) + 1)])
    asked = np.sort(rows[first])
    landmarks = range(config.landmarks, config.landmarks + config.train_landmarks)
    return _benchmark(world, np.setdiff1d(rows, asked), asked, landmarks, 0)


def _benchmark(
    world: World,
    database: Int64[np.ndarray, " d"],
    asked: Int64[np.ndarray, " q"],
    searched: range,
    distractors: int,
) -> RetrievalDataset:
    """A benchmark of some rows of a world, whose landmarks ``searched`` are numbered from 0."""
    table = world.manifest
    owner, landmark, well = _showing(table)
    position = np.full(len(table), -1, np.int64)
    position[database] = np.arange(len(database))
    landmark = np.where(np.isin(landmark, searched), landmark - searched.start, -1)
    held = (position[owner] >= 0) & (landmark >= 0)
    shown = position[owner[held]]
    by_landmark = _grouped(landmark[held], len(searched))
    subject = np.asarray(table["subject"])
    known = np.isin(subject, searched)
    labels = np.where(known, subject - searched.start, -1)
    nothing = np.empty(0, np.int64)
    members = [by_landmark[labels[query]] if known[query] else nothing for query in asked]
    ok, junk = (
        [shown[some[well[held][some] == enough]] for some in members] for enough in (True, False)
    )
    own = [[int(labels[query])] if known[query] else [] for query in asked]
    gps = _positions(table)
    queries = make_queries(
        ImagePaths(table["path"].take(asked)),
        {"ok": IndexSets.of(ok), "junk": IndexSets.of(junk)},
        landmarks=IndexSets.of(own),
        split=np.asarray(table["split"].take(asked)).astype(np.str_),
        gps=gps[asked],
    )
    return RetrievalDataset(
        "world",
        world.root,
        ImagePaths(table["path"].take(database)),
        queries,
        distractors=distractors,
        landmarks=labels[database].astype(np.int64),
        landmark_names=_names(world.census, searched),
        gps=gps[database],
    )


def load_world_train(root: Path) -> RetrievalDataset:
    """The training photographs of a world; their landmarks, numbered from 0, are in no query.

    Raises:
        DatasetError: there is no world in ``root``, or it is unfinished or damaged.
    """
    world = _opened(root)
    rows = world.rows("train")
    config = world.census.config
    subject = np.asarray(world.manifest["subject"].take(rows)) - config.landmarks
    return RetrievalDataset(
        "world_train",
        root,
        ImagePaths(world.manifest["path"].take(rows)),
        no_queries(),
        landmarks=subject.astype(np.int64),
        landmark_names=_names(
            world.census, range(config.landmarks, config.landmarks + config.train_landmarks)
        ),
        gps=_positions(world.manifest)[rows],
    )


def _opened(root: Path) -> World:
    """The world in ``root``; its errors become those of any other dataset."""
    try:
        return open_world(root)
    except WorldError as error:
        raise DatasetError(str(error)) from None


def _names(census: Census, numbers: range) -> tuple[str, ...]:
    return tuple(f"{census.landmark(number).kind} {number}" for number in numbers)


def _positions(table: pa.Table) -> Float[np.ndarray, "n 2"]:
    """Latitude and longitude of every photograph, degrees."""
    return np.stack([np.asarray(table["latitude"]), np.asarray(table["longitude"])], axis=1)


def _grouped(labels: np.ndarray, count: int) -> list[np.ndarray]:
    """Indices at which each of the labels 0 … ``count`` − 1 occurs, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(count + 1)))[1 : count + 1]


def _showing(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, landmark, and whether it shows well enough, for each landmark in each photograph."""
    lists = table["landmarks"].combine_chunks()
    counts = np.asarray(pc.list_value_length(lists))
    flat = [np.asarray(pc.list_flatten(table[name])) for name in ("landmarks", "visible", "covers")]
    rows = np.repeat(np.arange(len(table)), np.diff(offsets_of(counts)))
    return rows, flat[0], (flat[1] >= VISIBLE_SHARE) & (flat[2] >= PICTURE_SHARE)
