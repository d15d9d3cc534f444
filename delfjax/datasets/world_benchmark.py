"""The rendered landmark world as a benchmark, and its landmarks cut out of their photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
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
    table = world.manifest
    database = np.concatenate([world.rows("database"), world.rows("distractor")])
    asked = np.concatenate([world.rows("query"), world.rows("no_match")])
    count = world.census.config.landmarks
    subject = np.asarray(table["subject"])
    searched = np.where((subject >= 0) & (subject < count), subject, -1)[asked]
    ok, junk = _answers(table, database, searched)
    own = [[int(number)] if number >= 0 else [] for number in searched]
    gps = _positions(table)
    queries = make_queries(
        ImagePaths(table["path"].take(asked)),
        {"ok": IndexSets.of(ok), "junk": IndexSets.of(junk)},
        landmarks=IndexSets.of(own),
        split=np.asarray(table["split"].take(asked)).astype(np.str_),
        gps=gps[asked],
    )
    labels = np.where(subject < count, subject, -1)
    distractors = len(world.rows("distractor"))
    return RetrievalDataset(
        "world",
        root,
        ImagePaths(table["path"].take(database)),
        queries,
        distractors=distractors,
        landmarks=labels[database].astype(np.int64),
        landmark_names=_names(world.census, range(count)),
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


def load_world_rehearsal(
    root: Path,
    *,
    held: Sequence[int],
    absent: Sequence[int] = (),
    query_views: int = 4,
    database_views: int | None = None,
) -> RetrievalDataset:
    """The training photographs of a world as a benchmark, to tune a search on.

    The first views of every landmark ask, and those that follow are the database.

    Args:
        root: folder of the world.
        held: numbers of the training landmarks in the database, from 0.
        absent: numbers of others, whose photographs ask but which the database does not hold; in
            the benchmark they are queries without a match.
        query_views: photographs of each landmark that ask.
        database_views: most photographs of each landmark in the database; all others if ``None``.

    Raises:
        DatasetError: there is no world in ``root``, or it is unfinished or damaged; or a number is
            not that of a training landmark, or stands in both lists.
    """
    world = _opened(root)
    config = world.census.config
    chosen = np.array([*held, *absent], np.int64)
    known = np.isin(chosen, np.arange(config.train_landmarks))
    if len(np.unique(chosen)) < len(chosen) or not known.all():
        raise DatasetError(
            f"{root}: held {list(held)} and absent {list(absent)} must be different numbers from 0"
            f" to {config.train_landmarks - 1}"
        )
    table = world.manifest
    rows = world.rows("train")
    subject = np.asarray(table["subject"].take(rows)) - config.landmarks
    order = np.argsort(subject, kind="stable")
    view = np.empty(len(rows), np.int64)
    view[order] = np.arange(len(rows)) - np.searchsorted(subject[order], subject[order])
    asking = (view < query_views) & np.isin(subject, chosen)
    last = len(rows) if database_views is None else query_views + database_views
    within = (view >= query_views) & (view < last)
    stored = within & np.isin(subject, np.array(held, np.int64))
    searched = subject[asking] + config.landmarks
    ok, junk = _answers(table, rows[stored], searched)
    gps = _positions(table)
    queries = make_queries(
        ImagePaths(table["path"].take(rows[asking])),
        {"ok": IndexSets.of(ok), "junk": IndexSets.of(junk)},
        landmarks=IndexSets.of([[int(number)] for number in subject[asking]]),
        gps=gps[rows[asking]],
    )
    return RetrievalDataset(
        "world_rehearsal",
        root,
        ImagePaths(table["path"].take(rows[stored])),
        queries,
        landmarks=subject[stored].astype(np.int64),
        landmark_names=_names(
            world.census, range(config.landmarks, config.landmarks + config.train_landmarks)
        ),
        gps=gps[rows[stored]],
    )


def _answers(
    table: pa.Table, database: Int[np.ndarray, " n"], searched: Int[np.ndarray, " q"]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Answers (ok) and junk of each query, as positions in the database.

    Args:
        table: the manifest of a world.
        database: its rows that are searched.
        searched: landmark that each query searches for; −1 for none.
    """
    owner, landmark, well = _showing(table)
    position = np.full(len(table), -1, np.int64)
    position[database] = np.arange(len(database))
    held = position[owner] >= 0
    shown = position[owner[held]]
    by_landmark = _grouped(landmark[held], int(searched.max(initial=-1)) + 1)
    nothing = np.empty(0, np.int64)
    members = [by_landmark[number] if number >= 0 else nothing for number in searched]
    ok, junk = (
        [shown[some[well[held][some] == enough]] for some in members] for enough in (True, False)
    )
    return ok, junk


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
