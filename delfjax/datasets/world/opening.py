"""Read a world: as a benchmark like any other, and with everything that is exactly known about its photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int64
from PIL import Image

from delfjax.datasets.images import DecodedImage, ImageError, decode_image, hash_file
from delfjax.datasets.retrieval import (
    DatasetError,
    ImagePaths,
    IndexSets,
    RetrievalDataset,
    make_queries,
    no_queries,
    offsets_of,
)
from delfjax.datasets.world.building import (
    MANIFEST,
    PICTURE_SHARE,
    SCHEMA,
    SUBJECT,
    VISIBLE_SHARE,
    read_config,
)
from delfjax.datasets.world.census import Census, Frame
from delfjax.datasets.world.photography import Site
from delfjax.datasets.world.rendering import Scene, Truth, render_truth

# A point is seen in another view when what that view sees there is no nearer than this, as a share of the depth …
_DEPTH_SHARE = 2e-3
# … plus this, metres.
_DEPTH_M = 0.02
# Around a landmark that is cut out: the middle of the range, which networks take for nothing.
_GREY = 127


@dataclass(frozen=True, eq=False)
class World:
    """A finished world.

    Attributes:
        root: its folder.
        census: its landmarks and photographs.
        manifest: one row for each photograph, columns as in :data:`~.building.SCHEMA`.
    """

    root: Path
    census: Census
    manifest: pa.Table

    @cached_property
    def paths(self) -> ImagePaths:
        """Photographs in the order of the manifest."""
        return ImagePaths(self.manifest["path"])

    def frame(self, row: int) -> Frame:
        """The photograph in ``row`` of the manifest."""
        return self.census.frame(row)

    def scene(self, row: int) -> tuple[Site, Scene]:
        """What the photograph in ``row`` shows, to be rendered again."""
        site, shot = self.census.shot(self.frame(row), int(self.manifest["attempt"][row].as_py()))
        return site, shot.scene

    def truth(self, row: int) -> Truth:
        """What each pixel centre of the photograph in ``row`` sees."""
        return render_truth(self.scene(row)[1])

    def mask(self, row: int) -> Bool[np.ndarray, "h w"]:
        """Pixels of the photograph in ``row`` that show a landmark."""
        return self.truth(row).owner > 0

    def rows(self, split: str) -> Int64[np.ndarray, " n"]:
        """Rows of the manifest in ``split``."""
        return np.flatnonzero(np.asarray(pc.equal(self.manifest["split"], split))).astype(np.int64)


@dataclass(frozen=True, eq=False)
class CutLandmarks:
    """Photographs of which nothing is left but their landmark, as images to extract: cut to its mask, grey around it, enlarged.

    Attributes:
        world: the world.
        rows: photograph → its row of the manifest.
    """

    world: World
    rows: Mapping[str, int]

    @classmethod
    def of(cls, world: World, rows: Iterable[int]) -> CutLandmarks:
        """The photographs in some rows of the manifest, each taken of a landmark."""
        return cls(world, {world.paths[row]: row for row in rows})

    @property
    def names(self) -> tuple[str, ...]:
        """The photographs."""
        return tuple(self.rows)

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """A landmark by itself, its longer side ``max_side``.

        Raises:
            ImageError: the photograph cannot be read, or shows nothing of its landmark.
        """
        whole = decode_image(self.world.root / name, max_side=self.world.census.config.image_side)
        mask = self.world.truth(self.rows[name]).owner == SUBJECT
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            raise ImageError(self.world.root / name, "shows nothing of its landmark")
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        cut = Image.fromarray(np.where(mask[..., None], whole.pixels, np.uint8(_GREY))[box])
        factor = max_side / max(cut.size)
        width, height = (max(1, round(side * factor)) for side in cut.size)
        pixels = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC))
        return DecodedImage(pixels, (height, width), whole.content_hash)

    def content_hash(self, name: str) -> str:
        """Digest of the whole photograph; ``OSError`` where it cannot be read."""
        return hash_file(self.world.root / name)


@dataclass(frozen=True)
class Correspondences:
    """Points of a landmark that two photographs both see.

    Attributes:
        first_yx: pixel centres of the first photograph.
        second_yx: where the second sees the same points, pixels.
    """

    first_yx: Float[np.ndarray, "n 2"]
    second_yx: Float[np.ndarray, "n 2"]


def open_world(root: Path) -> World:
    """Open a finished world.

    Raises:
        WorldError: there is no world in ``root``, or one of another version.
        DatasetError: it is not finished, or its manifest is damaged.
    """
    config = read_config(root)
    file = root / MANIFEST
    if not file.is_file():
        raise DatasetError(f"{root}: the world is not finished; the command that began it goes on")
    try:
        manifest = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file}: not a parquet file ({str(error).splitlines()[0]:.100})") from None
    if not manifest.schema.equals(SCHEMA):
        raise DatasetError(f"{file}: other columns than those of a world")
    return World(root, Census(config), manifest)


def correspondences(world: World, first: int, second: int) -> Correspondences:
    """Exact correspondences between two photographs of the same landmark: every pixel centre of the first is tried.

    Args:
        world: the world.
        first: row of the manifest.
        second: another row.

    Returns:
        None where the photographs have no landmark in common.
    """
    site1, scene1 = world.scene(first)
    site2, scene2 = world.scene(second)
    seen1, seen2 = render_truth(scene1), render_truth(scene2)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for owner1, number1, origin1 in _standing(site1):
        for owner2, number2, origin2 in _standing(site2):
            if number1 != number2:
                continue
            first_yx = np.argwhere(seen1.owner == owner1)
            points = seen1.points[seen1.owner == owner1].astype(np.float64) - origin1 + origin2
            second_yx, depth = scene2.camera.project(points)
            kept = _sees(seen2, second_yx, depth, owner2)
            pairs.append((first_yx[kept].astype(np.float64), second_yx[kept]))
    if not pairs:
        return Correspondences(np.empty((0, 2)), np.empty((0, 2)))
    return Correspondences(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))


def load_world(root: Path) -> RetrievalDataset:
    """The benchmark of a world: database and distractors; queries, and those without a match.

    A photograph is an answer (ok) when it shows the query's landmark well enough; one that shows less of it is junk.

    Raises:
        WorldError: there is no world in ``root``.
        DatasetError: it is not finished or damaged.
    """
    world = open_world(root)
    table = world.manifest
    database = np.concatenate([world.rows("database"), world.rows("distractor")])
    asked = np.concatenate([world.rows("query"), world.rows("no_match")])
    owner, landmark, well = _showing(table)
    count = world.census.config.landmarks
    position = np.full(len(table), -1, np.int64)
    position[database] = np.arange(len(database))
    held = position[owner] >= 0
    shown, by_landmark = position[owner[held]], _grouped(landmark[held], count)
    subject, nothing = np.asarray(table["subject"]), np.empty(0, np.int64)
    searched = (subject >= 0) & (subject < count)
    members = [by_landmark[subject[query]] if searched[query] else nothing for query in asked]
    ok, junk = ([shown[some[well[held][some] == enough]] for some in members] for enough in (True, False))
    own = [[int(subject[query])] if searched[query] else [] for query in asked]
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
    """The training photographs of a world: landmarks that are never searched for, numbered from 0.

    Raises:
        WorldError: there is no world in ``root``.
        DatasetError: it is not finished or damaged.
    """
    world = open_world(root)
    rows = world.rows("train")
    config = world.census.config
    subject = np.asarray(world.manifest["subject"].take(rows)) - config.landmarks
    return RetrievalDataset(
        "world_train",
        root,
        ImagePaths(world.manifest["path"].take(rows)),
        no_queries(),
        landmarks=subject.astype(np.int64),
        landmark_names=_names(world.census, range(config.landmarks, config.landmarks + config.train_landmarks)),
        gps=_positions(world.manifest)[rows],
    )


def _names(census: Census, numbers: range) -> tuple[str, ...]:
    return tuple(f"{census.landmark(number).kind} {number}" for number in numbers)


def _positions(table: pa.Table) -> Float[np.ndarray, "n 2"]:
    """Latitude and longitude of every photograph, degrees."""
    return np.stack([np.asarray(table["latitude"]), np.asarray(table["longitude"])], axis=1)


def _grouped(labels: np.ndarray, count: int) -> list[np.ndarray]:
    """Where each of the labels 0 … ``count`` − 1 stands, in order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(count + 1)))[1 : count + 1]


def _showing(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, landmark, and whether it shows well enough, for everything that shows anywhere."""
    lists = table["landmarks"].combine_chunks()
    counts = np.asarray(pc.list_value_length(lists))
    flat = [np.asarray(pc.list_flatten(table[name])) for name in ("landmarks", "visible", "covers")]
    rows = np.repeat(np.arange(len(table)), np.diff(offsets_of(counts)))
    return rows, flat[0], (flat[1] >= VISIBLE_SHARE) & (flat[2] >= PICTURE_SHARE)


def _standing(site: Site) -> list[tuple[int, int, np.ndarray]]:
    """Owner, number and position of the landmarks of a site."""
    standing = [] if site.landmark is None else [(1, site.landmark.number, np.zeros(3))]
    if site.neighbour is not None:
        standing.append((2, site.neighbour.number, np.array((*site.neighbour_at, 0.0))))
    return standing


def _sees(truth: Truth, yx: np.ndarray, depth: np.ndarray, owner: int) -> np.ndarray:
    """Which points, at ``yx`` pixels and ``depth`` metres, a photograph sees."""
    rows, columns = truth.owner.shape
    inside = (depth > 0) & (yx >= -0.5).all(axis=1) & (yx[:, 0] < rows - 0.5) & (yx[:, 1] < columns - 0.5)
    nearest = np.where(inside[:, None], np.round(yx), 0).astype(np.int64)
    y, x = nearest[:, 0], nearest[:, 1]
    slack = _DEPTH_M + _DEPTH_SHARE * depth
    seen = inside & (truth.owner[y, x] == owner) & (np.abs(truth.depth[y, x] - depth) <= slack * 2)
    return np.asarray(seen)
