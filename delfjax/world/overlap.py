"""Which photographs of a world see the same points of a landmark, and how many of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from tqdm.auto import tqdm

from delfjax.rng import named_generator
from delfjax.world.reading import World, sees, standing
from delfjax.world.rendering import render_truth
from delfjax.world.scene import Camera

# Pixels of a landmark that are drawn from a photograph. The standard deviation of a share is then
# 0.03 or less.
_POINTS = 256


@dataclass(frozen=True, eq=False)
class CoObserved:
    """Ordered pairs of photographs that see common points, by first and then second photograph.

    Attributes:
        first: position of a photograph in the list that was asked for.
        second: position of another.
        share: share of the points of landmarks in the first photograph that the second sees too,
            (0, 1].
        scale: median factor by which these points are larger in the second photograph.
        sites: site of each photograph asked for; photographs of different sites share no landmark.
    """

    first: Int64[np.ndarray, " n"]
    second: Int64[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    sites: Int64[np.ndarray, " photos"]


def co_observed(world: World, rows: Sequence[int], *, progress: bool = False) -> CoObserved:
    """The pairs of some photographs of a world that see common points of a landmark.

    The points are 256 pixels of landmarks in each photograph, drawn by the seed of the world.

    Args:
        world: the world.
        rows: rows of the photographs in its manifest.
        progress: show a progress bar.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        groups[world.census.site(world.frame(row).landmark).number].append(position)
    found = []
    sites = np.empty(len(rows), np.int64)
    with tqdm(total=len(rows), desc="pairs", unit="image", disable=not progress) as bar:
        for site, members in groups.items():
            sites[members] = site
            views = [_view(world, rows[position]) for position in members]
            found.append(_pairs(np.array(members, np.int64), views))
            bar.update(len(members))
    first, second, share, scale = (
        np.concatenate([np.empty(0, kind), *(each[column] for each in found)])
        for column, kind in enumerate((np.int64, np.int64, np.float64, np.float64))
    )
    order = np.lexsort((second, first))
    return CoObserved(first[order], second[order], share[order], scale[order], sites)


class _View(NamedTuple):
    """What a photograph sees of landmarks.

    Attributes:
        camera: its camera.
        origins: landmark → its owner in the photograph, and where it stands, metres.
        owner: owner of each pixel.
        depth: depth of each pixel, metres.
        points: drawn points, each in the frame of its landmark, metres.
        landmarks: landmark of each drawn point.
        size: pixels that a metre takes at each drawn point.
    """

    camera: Camera
    origins: dict[int, tuple[int, np.ndarray]]
    owner: np.ndarray
    depth: np.ndarray
    points: Float[np.ndarray, "k 3"]
    landmarks: Int64[np.ndarray, " k"]
    size: Float[np.ndarray, " k"]


def _view(world: World, row: int) -> _View:
    site, scene = world.scene(row)
    truth = render_truth(scene)
    origins = {number: (owner, origin) for owner, number, origin in standing(site)}
    at = np.argwhere(truth.owner > 0)
    rng = named_generator(world.census.config.seed, f"overlap {row}")
    y, x = at[rng.permutation(len(at))[:_POINTS]].T
    owners = truth.owner[y, x].astype(np.int64)
    numbers = np.zeros(3, np.int64)
    places = np.zeros((3, 3))
    for number, (owner, origin) in origins.items():
        numbers[owner] = number
        places[owner] = origin
    points = truth.points[y, x].astype(np.float64) - places[owners]
    size = scene.camera.focal_px / truth.depth[y, x].astype(np.float64)
    return _View(scene.camera, origins, truth.owner, truth.depth, points, numbers[owners], size)


def _pairs(
    members: Int64[np.ndarray, " m"], views: Sequence[_View]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns of the pairs among the photographs of a site."""
    counts = np.array([len(view.points) for view in views])
    held = np.arange(max(counts.max(initial=0), 1)) < counts[:, None]
    points, landmarks, size = (
        _padded([getattr(view, name) for view in views], held)
        for name in ("points", "landmarks", "size")
    )
    share = np.zeros((len(views), len(views)))
    scale = np.ones((len(views), len(views)))
    for number, view in enumerate(views):
        seen, larger = _seen_by(view, points, landmarks, size=size)
        seen &= held
        share[:, number] = seen.sum(axis=1) / np.maximum(counts, 1)
        some = seen.any(axis=1)
        scale[some, number] = np.nanmedian(np.where(seen, larger, np.nan)[some], axis=1)
    np.fill_diagonal(share, 0)
    first, second = np.nonzero(share)
    return members[first], members[second], share[first, second], scale[first, second]


def _padded(columns: Sequence[np.ndarray], held: Bool[np.ndarray, "m k"]) -> np.ndarray:
    """Columns of different lengths as rows of one array."""
    padded = np.zeros((*held.shape, *columns[0].shape[1:]), columns[0].dtype)
    padded[held] = np.concatenate(columns)
    return padded


def _seen_by(
    view: _View,
    points: Float[np.ndarray, "m k 3"],
    landmarks: Int64[np.ndarray, "m k"],
    *,
    size: Float[np.ndarray, "m k"],
) -> tuple[Bool[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """Which points a photograph sees, and how many times larger they are there than ``size``."""
    seen = np.zeros(landmarks.shape, bool)
    larger = np.ones(landmarks.shape)
    for number, (owner, origin) in view.origins.items():
        own = landmarks == number
        yx, depth = view.camera.project(points[own] + origin)
        seen[own] = sees(view.owner, view.depth, yx, depth=depth, owner=owner)
        larger[own] = view.camera.focal_px / np.maximum(depth, 1e-9) / size[own]
    return seen, larger
