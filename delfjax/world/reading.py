"""Read a finished world: its photographs, and the exact truth about each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int64, UInt8

from delfjax.errors import quoted
from delfjax.world.census import SPLITS, Census, Frame
from delfjax.world.photography import Site
from delfjax.world.rendering import Truth, render_truth
from delfjax.world.scene import Scene
from delfjax.world.solids import WorldError
from delfjax.world.writing import MANIFEST, SCHEMA, read_config

# Path of a photograph.
_PATH = r"^\w+(/\w+)*\.jpg$"
# Largest size of a manifest, bytes: so much for each photograph, and as much again for a short one.
_ROW_BYTES, _SPARE_BYTES = 1000, 1 << 20
# A point counts as seen in a second view if its depth there agrees with the depth of the surface at
# that pixel, to within twice the sum of a share of the depth …
_DEPTH_SHARE = 2e-3
# … and a constant, metres.
_DEPTH_M = 0.02


@dataclass(frozen=True, eq=False)
class World:
    """A finished world.

    Attributes:
        root: its folder.
        census: its landmarks and photographs.
        manifest: one row for each photograph, with the columns of
            :data:`~delfjax.world.writing.SCHEMA`.
    """

    root: Path
    census: Census
    manifest: pa.Table

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Paths of the photographs, relative to the root, in the order of the manifest."""
        return tuple(self.manifest["path"].to_pylist())

    def frame(self, row: int) -> Frame:
        """The census entry of the photograph in ``row`` of the manifest."""
        return self.census.frame(row)

    def scene(self, row: int) -> tuple[Site, Scene]:
        """The site and the scene of the photograph in ``row``, to render it again."""
        site, shot = self.census.shot(self.frame(row), int(self.manifest["attempt"][row].as_py()))
        return site, shot.scene

    def truth(self, row: int) -> Truth:
        """What each pixel centre of the photograph in ``row`` sees."""
        return render_truth(self.scene(row)[1])

    def mask(self, row: int) -> Bool[np.ndarray, "h w"]:
        """Which pixels of the photograph in ``row`` show a landmark."""
        return self.truth(row).owner > 0

    def rows(self, split: str) -> Int64[np.ndarray, " n"]:
        """Rows of the manifest in ``split``."""
        return np.flatnonzero(np.asarray(pc.equal(self.manifest["split"], split))).astype(np.int64)


@dataclass(frozen=True)
class TrueCorrespondences:
    """Points of a landmark that two photographs both see.

    Attributes:
        first_yx: pixel centres of the first photograph.
        second_yx: positions of the same points in the second photograph, pixels.
    """

    first_yx: Float[np.ndarray, "n 2"]
    second_yx: Float[np.ndarray, "n 2"]


def open_world(root: Path) -> World:
    """Open a finished world.

    Raises:
        WorldError: there is no world in ``root``, it is not finished or of another version, or its
            manifest is damaged.
    """
    config = read_config(root)
    file = root / MANIFEST
    if not file.is_file():
        raise WorldError(
            f"{root}: the world is not finished; repeat the command that renders it, and it resumes"
        )
    census = Census(config)
    return World(root, census, _read_manifest(file, census))


def _read_manifest(file: Path, census: Census) -> pa.Table:
    """The rows of a manifest, checked against what its columns may hold."""
    try:
        with pq.ParquetFile(file) as opened:
            if not opened.schema_arrow.equals(SCHEMA):
                raise WorldError(
                    f"{file}: not the manifest of a world; expected the columns"
                    f" {', '.join(SCHEMA.names)}"
                )
            _require_size(opened.metadata, file, census)
            manifest = opened.read()
            manifest.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise WorldError(f"{file}: not a parquet file, or damaged ({quoted(error)})") from None
    problem = _problem(manifest, census)
    if problem is not None:
        raise WorldError(f"{file}: damaged: {problem}; render the world into another folder")
    return manifest


def _require_size(metadata: pq.FileMetaData, file: Path, census: Census) -> None:
    """Refuse a manifest before it is read whose rows are not those of its world, or are too long.

    Raises:
        WorldError: the manifest is refused.
    """
    rows = metadata.num_rows
    if rows != census.frame_count:
        raise WorldError(
            f"{file}: has {rows} rows, expected {census.frame_count}, one for each photograph"
        )
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    if size > _ROW_BYTES * rows + _SPARE_BYTES:
        raise WorldError(
            f"{file}: unpacks to {size} bytes, expected at most {_ROW_BYTES} for each of {rows}"
            " photographs"
        )


def _problem(manifest: pa.Table, census: Census) -> str | None:
    """What is wrong with the rows of a manifest, or ``None``."""
    holed = [name for name in SCHEMA.names if manifest[name].null_count]
    if holed:
        return f"column {holed[0]} has {manifest[holed[0]].null_count} empty values"
    if not pc.all(pc.match_substring_regex(manifest["path"], _PATH), min_count=0).as_py():
        return "column path names something other than photographs in folders of the world"
    wrong = set(pc.unique(manifest["split"]).to_pylist()) - set(SPLITS)
    if wrong:
        return f"column split holds {min(wrong)!r:.40}, expected one of {', '.join(SPLITS)}"
    lists = [manifest[name] for name in ("landmarks", "visible", "covers")]
    lengths = [np.asarray(pc.list_value_length(column)) for column in lists]
    if any(not np.array_equal(lengths[0], other) for other in lengths[1:]):
        return "columns landmarks, visible and covers differ in their lengths"
    sides = (np.asarray(manifest[name]).max(initial=0) for name in ("rows", "columns"))
    if len(manifest) and max(sides) != census.config.image_side:
        return f"its photographs do not have the image_side {census.config.image_side}"
    shown = np.asarray(pc.list_flatten(lists[0]))
    largest = max(shown.max(initial=-1), np.asarray(manifest["subject"]).max(initial=-1))
    outside = largest >= census.landmark_count or shown.min(initial=0) < 0
    return f"names a landmark outside 0 to {census.landmark_count - 1}" if outside else None


def correspondences(world: World, first: int, second: int) -> TrueCorrespondences:
    """Exact correspondences between two photographs of the same landmark.

    Every pixel centre of the first photograph is tried.

    Args:
        world: the world.
        first: row of the first photograph in the manifest.
        second: row of the second photograph.

    Returns:
        The correspondences; empty if the photographs have no landmark in common.
    """
    site1, scene1 = world.scene(first)
    site2, scene2 = world.scene(second)
    seen1, seen2 = render_truth(scene1), render_truth(scene2)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for owner1, number1, origin1 in standing(site1):
        for owner2, number2, origin2 in standing(site2):
            if number1 != number2:
                continue
            first_yx = np.argwhere(seen1.owner == owner1)
            points = seen1.points[seen1.owner == owner1].astype(np.float64) - origin1 + origin2
            second_yx, depth = scene2.camera.project(points)
            kept = sees(seen2.owner, seen2.depth, second_yx, depth=depth, owner=owner2)
            pairs.append((first_yx[kept].astype(np.float64), second_yx[kept]))
    if not pairs:
        return TrueCorrespondences(np.empty((0, 2)), np.empty((0, 2)))
    return TrueCorrespondences(
        np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    )


def standing(site: Site) -> list[tuple[int, int, np.ndarray]]:
    """Owner, number and position (metres) of each landmark of a site."""
    at_site = [] if site.landmark is None else [(1, site.landmark.number, np.zeros(3))]
    if site.neighbour is not None:
        at_site.append((2, site.neighbour.number, np.array((*site.neighbour_at, 0.0))))
    return at_site


def sees(
    owners: UInt8[np.ndarray, "h w"],
    depths: Float[np.ndarray, "h w"],
    yx: Float[np.ndarray, "n 2"],
    *,
    depth: Float[np.ndarray, " n"],
    owner: int,
) -> Bool[np.ndarray, " n"]:
    """Which points of a landmark a photograph sees.

    Args:
        owners: the landmark that each pixel of the photograph shows.
        depths: the depth of each pixel, metres.
        yx: positions of the points, projected into the photograph, pixels.
        depth: depths of the points, metres.
        owner: the landmark, as the photograph numbers it.
    """
    rows, columns = owners.shape
    inside = (
        (depth > 0)
        & (yx >= -0.5).all(axis=1)
        & (yx[:, 0] < rows - 0.5)
        & (yx[:, 1] < columns - 0.5)
    )
    nearest = np.where(inside[:, None], np.round(yx), 0).astype(np.int64)
    y, x = nearest[:, 0], nearest[:, 1]
    slack = _DEPTH_M + _DEPTH_SHARE * depth
    seen = inside & (owners[y, x] == owner) & (np.abs(depths[y, x] - depth) <= slack * 2)
    return np.asarray(seen)
