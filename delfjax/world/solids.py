"""What the world is made of: upright solids with procedural materials, described on the host.

The frame is right-handed: x to the east, y to the north, z up, in metres. A solid stands on the
centre of its base and turns only about the vertical, which is enough for architecture and keeps
every intersection in closed form.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from delfjax.errors import DelfjaxError

Real = float | int
Colour = tuple[Real, Real, Real]
Point = tuple[Real, Real, Real]


class WorldError(DelfjaxError):
    """A world cannot be made or read; the message names the file or value and the remedy."""


class Shape(IntEnum):
    """Kinds of solids.

    ``BOX``
        Its sides may lean inwards, by ``taper`` times the half width over the whole height: (0, 0)
        is a cuboid, (1, 1) a pyramid, (1, 0) a gable roof whose ridge runs along y.
    ``FRUSTUM``
        Elliptic, with ``taper[0]`` as for boxes: 0 is a cylinder, 1 a cone.
    ``ELLIPSOID``
        Centred on its base, cut off below ``cut`` times its height: −1 is whole, 0 is a dome.
    """

    BOX = 0
    FRUSTUM = 1
    ELLIPSOID = 2


class Hole(IntEnum):
    """What is cut out of a surface: nothing, a row of arched openings, or gaps between leaves."""

    NONE = 0
    ARCHES = 1
    LEAVES = 2


@dataclass(frozen=True)
class Material:
    """The look of a surface.

    Colours are linear RGB, lengths are metres, shares and strengths lie between 0 and 1. A strength
    of 0 turns a pattern off.

    Attributes:
        base: colour of the wall.
        second: colour of joints and stripes.
        accent: colour of ornaments and window frames.
        masonry: strength of the blocks, which are laid in courses.
        course_m: height of a course.
        block_m: width of a block.
        window_pitch_m: approximate distance between window axes; 0 for a wall without windows.
        storey_m: approximate height of a storey.
        window_width: width of a window as a share of the pitch.
        window_height: height of a window as a share of the storey.
        arched: roundness of the heads of the windows.
        ornament: strength of the friezes, whose motifs follow from ``seed``.
        ornament_m: size of a motif of a frieze.
        stripes: strength of the horizontal stripes, whose order follows from ``seed``.
        stripe_m: height of a stripe.
        rosette_m: radius of the large motif in the middle of each face; 0 for none.
        rosette_height: height of its centre as a share of the solid's height.
        roof: strength of a pattern of tiles.
        foliage: 1 for leaves.
        grime: strength of stains.
        gloss: share of the sky that the surface mirrors.
        hole: what is cut out.
        hole_pitch_m: distance between openings, or size of a clump of leaves.
        hole_width: width of an opening as a share of the pitch, or share of gaps between leaves.
        hole_height_m: height of an opening, from the base to its top.
        seed: seed of everything random on the surface.
    """

    base: Colour = (0.5, 0.48, 0.44)
    second: Colour = (0.3, 0.28, 0.26)
    accent: Colour = (0.62, 0.58, 0.5)
    masonry: Real = 0.0
    course_m: Real = 0.4
    block_m: Real = 0.9
    window_pitch_m: Real = 0.0
    storey_m: Real = 3.5
    window_width: Real = 0.4
    window_height: Real = 0.55
    arched: Real = 0.0
    ornament: Real = 0.0
    ornament_m: Real = 1.2
    stripes: Real = 0.0
    stripe_m: Real = 1.0
    rosette_m: Real = 0.0
    rosette_height: Real = 0.6
    roof: Real = 0.0
    foliage: Real = 0.0
    grime: Real = 0.3
    gloss: Real = 0.0
    hole: Hole = Hole.NONE
    hole_pitch_m: Real = 1.0
    hole_width: Real = 0.5
    hole_height_m: Real = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Solid:
    """One solid.

    Attributes:
        shape: its kind.
        base: centre of its base, ``(x, y, z)``, metres.
        half: half extents along its own x and y at the base, metres.
        height: metres.
        material: its surface.
        taper: how far the sides lean inwards along x and y.
        yaw: rotation about the vertical, counter-clockwise from above, radians.
        cut: where an ellipsoid is cut off, as a share of its height.
        owner: 0 for surroundings; 1, 2, … for the landmarks of a scene.
        casts: whether it casts a shadow.
    """

    shape: Shape
    base: Point
    half: tuple[Real, Real]
    height: Real
    material: Material = field(default_factory=Material)
    taper: tuple[Real, Real] = (0.0, 0.0)
    yaw: Real = 0.0
    cut: Real = -1.0
    owner: int = 0
    casts: bool = True


# Columns of a table of solids, in order; the renderer looks them up by name.
GEOMETRY_COLUMNS = (
    "shape",
    "x",
    "y",
    "z",
    "cos",
    "sin",
    "hx",
    "hy",
    "height",
    "taper_x",
    "taper_y",
    "cut",
    "owner",
)
_COLOUR_FIELDS = ("base", "second", "accent")
_PLAIN_FIELDS = tuple(
    f.name for f in dataclasses.fields(Material) if f.name not in (*_COLOUR_FIELDS, "seed")
)
_CHANNELS = "rgb"
MATERIAL_COLUMNS = (
    *(f"{name}_{c}" for name in _COLOUR_FIELDS for c in _CHANNELS),
    *_PLAIN_FIELDS,
    "seed",
)
COLUMNS = (*GEOMETRY_COLUMNS, *MATERIAL_COLUMNS)
COLUMN = {name: number for number, name in enumerate(COLUMNS)}


def box(base: Point, size: Point, material: Material, **more: Any) -> Solid:
    """A box of ``size`` (width, depth, height) on ``base``; ``more`` sets other fields of
    :class:`Solid`."""
    return dataclasses.replace(
        Solid(Shape.BOX, base, (size[0] / 2, size[1] / 2), size[2], material), **more
    )


def round_tower(base: Point, radius: Real, height: Real, material: Material, **more: Any) -> Solid:
    """A cylinder, or a cone with ``taper=(1, 0)``; ``more`` sets other fields."""
    return dataclasses.replace(
        Solid(Shape.FRUSTUM, base, (radius, radius), height, material), **more
    )


def dome(base: Point, radius: Real, height: Real, material: Material, **more: Any) -> Solid:
    """The upper half of an ellipsoid on ``base``; ``more`` sets other fields of :class:`Solid`."""
    return dataclasses.replace(
        Solid(Shape.ELLIPSOID, base, (radius, radius), height, material, cut=0.0), **more
    )


def ball(centre: Point, radii: Point, material: Material, **more: Any) -> Solid:
    """A whole ellipsoid about ``centre``; ``more`` sets other fields of :class:`Solid`."""
    return dataclasses.replace(
        Solid(Shape.ELLIPSOID, centre, (radii[0], radii[1]), radii[2], material), **more
    )


def placed(
    solids: Iterable[Solid],
    *,
    at: Point = (0.0, 0.0, 0.0),
    yaw: float = 0.0,
    owner: int | None = None,
) -> list[Solid]:
    """The solids turned about the origin by ``yaw`` radians, then moved by ``at``.

    An ``owner`` replaces that of every solid.
    """
    cosine, sine = math.cos(yaw), math.sin(yaw)
    moved = []
    for solid in solids:
        x, y, z = solid.base
        base = (cosine * x - sine * y + at[0], sine * x + cosine * y + at[1], z + at[2])
        moved.append(
            dataclasses.replace(
                solid, base=base, yaw=solid.yaw + yaw, owner=solid.owner if owner is None else owner
            )
        )
    return moved


def table(solids: Sequence[Solid]) -> Float32[np.ndarray, "n columns"]:
    """The solids as a table: one row each, with the columns :data:`COLUMNS`."""
    rows = [_row(solid) for solid in solids]
    return np.array(rows, np.float32).reshape(len(rows), len(COLUMNS))


def corners(solids: Sequence[Solid]) -> Float[np.ndarray, "n 8 3"]:
    """Corners of a bounding box of each solid, metres."""
    rows = [
        (*s.base, *s.half, s.height, math.cos(s.yaw), math.sin(s.yaw), _bottom(s)) for s in solids
    ]
    x, y, z, hx, hy, height, cosine, sine, low = (
        np.array(rows, np.float64).reshape(-1, 9).T[:, :, None]
    )
    sides = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (0, 1)], np.float64)
    across, along = sides[:, 0] * hx, sides[:, 1] * hy
    upright = z + np.where(sides[:, 2] > 0, height, low)
    return np.stack(
        [x + cosine * across - sine * along, y + sine * across + cosine * along, upright], axis=-1
    )


def _bottom(solid: Solid) -> float:
    """Height of the lowest point of a solid above its base centre, metres; negative below it."""
    return solid.cut * solid.height if solid.shape == Shape.ELLIPSOID else 0.0


def _row(solid: Solid) -> list[float]:
    material = solid.material
    geometry = (
        solid.shape,
        *solid.base,
        math.cos(solid.yaw),
        math.sin(solid.yaw),
        *solid.half,
        solid.height,
        *solid.taper,
        solid.cut,
        solid.owner,
    )
    colours = [channel for name in _COLOUR_FIELDS for channel in getattr(material, name)]
    plain = [getattr(material, name) for name in _PLAIN_FIELDS]
    # Small enough for single precision to hold the seeds, and offsets added to them, exactly.
    return [float(value) for value in (*geometry, *colours, *plain, material.seed % 65_521)]
