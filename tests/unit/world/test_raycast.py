"""Rays meet solids where the solids' definitions say, with the right surface and shadow there."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.world.raycast import FAR, SeenFromSun, Vector, nearest, shadowed, surface_at
from delfjax.world.rendering import seen_from_sun
from delfjax.world.scene import MAX_SOLIDS
from delfjax.world.solids import Hole, Material, Shape, Solid, corners, table

RAYS = 4000
_surface_at = jax.jit(surface_at)
_shadowed = jax.jit(shadowed)


def _inside(solid: Solid, points: np.ndarray) -> np.ndarray:
    """How far points lie inside a solid by its definition: positive inside, 0 on the surface.

    This is not a distance.
    """
    cosine, sine = np.cos(solid.yaw), np.sin(solid.yaw)
    dx, dy, z = (points - np.array(solid.base)).T
    x, y = cosine * dx + sine * dy, cosine * dy - sine * dx
    share = z / solid.height
    hx, hy = solid.half
    if solid.shape == Shape.BOX:
        rooms = (
            hx * (1 - solid.taper[0] * share) - abs(x),
            hy * (1 - solid.taper[1] * share) - abs(y),
            z,
            solid.height - z,
        )
    elif solid.shape == Shape.FRUSTUM:
        rooms = ((1 - solid.taper[0] * share) - np.hypot(x / hx, y / hy), z, solid.height - z)
    else:
        rooms = (
            1 - np.sqrt((x / hx) ** 2 + (y / hy) ** 2 + share**2),
            z - solid.cut * solid.height,
        )
    return np.min(rooms, axis=0)


SOLIDS = {
    "cuboid": Solid(Shape.BOX, (1.0, 2.0, 0.5), (1.5, 0.8), 2.0, yaw=0.4),
    "gable": Solid(Shape.BOX, (0.0, 0.0, 0.0), (2.0, 1.0), 1.5, taper=(1.0, 0.0), yaw=-1.0),
    "pyramid": Solid(Shape.BOX, (0.0, 1.0, 1.0), (1.0, 1.0), 3.0, taper=(1.0, 1.0)),
    "cylinder": Solid(Shape.FRUSTUM, (0.5, 0.0, 0.0), (1.0, 0.6), 3.0, yaw=0.7),
    "cone": Solid(Shape.FRUSTUM, (0.0, 0.0, 0.0), (1.2, 1.2), 2.5, taper=(1.0, 0.0)),
    "stump": Solid(Shape.FRUSTUM, (0.0, 0.0, 0.0), (1.2, 1.0), 2.5, taper=(0.4, 0.0)),
    "ellipsoid": Solid(Shape.ELLIPSOID, (0.0, 0.5, 1.0), (1.0, 1.5), 0.8, yaw=0.3),
    "dome": Solid(Shape.ELLIPSOID, (0.0, 0.0, 1.0), (1.5, 1.5), 2.0, cut=0.0),
}


def _rays(seed: int, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays that start around a solid and mostly meet it."""
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(RAYS, 3))
    origins = 8 * origins / np.linalg.norm(origins, axis=1, keepdims=True) + target
    directions = target + rng.uniform(-1.5, 1.5, (RAYS, 3)) - origins
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


@jax.jit
def _nearest(
    rows: jnp.ndarray, origin: Vector, direction: Vector
) -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
    return nearest(rows, jnp.arange(len(rows)), jnp.int32(len(rows)), origin, direction)


def _columns(array: np.ndarray) -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
    x, y, z = jnp.asarray(array.T, jnp.float32)
    return x, y, z


@pytest.mark.parametrize("name", SOLIDS)
def test_a_ray_stops_where_it_first_enters_the_solid(name: str) -> None:
    solid = SOLIDS[name]
    origins, directions = _rays(0, np.add(solid.base, (0, 0, solid.height / 3)))
    length, row, _ = _nearest(jnp.asarray(table([solid])), _columns(origins), _columns(directions))
    length = np.asarray(length, np.float64)
    steps = np.linspace(0, 16, 3201)
    # The definition, sampled every 5 mm along each ray.
    within = np.stack([_inside(solid, origins + step * directions) > 0 for step in steps], axis=1)
    first = np.where(within.any(axis=1), steps[within.argmax(axis=1)], np.inf)
    hits = length < FAR
    assert 0.2 < hits.mean() < 1, "the rays do not include both hits and misses"
    assert not (np.isfinite(first) & ~hits).any(), "a ray through the solid was taken for a miss"
    # A ray may cut a corner between two samples: only hits that the samples confirm are compared.
    both = hits & np.isfinite(first)
    assert np.abs(length[both] - first[both]).max() < 0.006
    assert np.array_equal(np.asarray(row) == 0, hits)
    on_surface = _inside(solid, origins[hits] + length[hits, None] * directions[hits])
    # A tenth of a millimetre at a distance of 8 m: for a grazing ray, the square root loses half
    # the digits of single precision.
    assert np.abs(on_surface).max() < 1e-4


@pytest.mark.parametrize("name", SOLIDS)
def test_a_step_along_the_normal_leaves_the_solid(name: str) -> None:
    solid = SOLIDS[name]
    origins, directions = _rays(1, np.add(solid.base, (0, 0, solid.height / 3)))
    rows = jnp.asarray(table([solid]))
    length, _, _ = _nearest(rows, _columns(origins), _columns(directions))
    hits = np.asarray(length) < FAR
    points = origins + np.where(hits, np.asarray(length), 0)[:, None] * directions
    surface = _surface_at(jnp.repeat(rows, RAYS, axis=0), _columns(points), _columns(directions))
    normal = np.stack([np.asarray(part) for part in surface.normal], axis=1)[hits]
    points, directions = points[hits], directions[hits]
    assert np.abs(np.linalg.norm(normal, axis=1) - 1).max() < 1e-5
    assert ((normal * directions).sum(axis=1) <= 1e-6).all()
    # Points near an edge may belong to either face, so a few may fail.
    outside = _inside(solid, points + 0.01 * normal) < 0
    inside = _inside(solid, points - 0.01 * normal) > 0
    assert outside.mean() > 0.995
    assert inside.mean() > 0.97


def test_an_arched_opening_lets_rays_through_and_the_wall_beside_it_does_not() -> None:
    wall = Material(hole=Hole.ARCHES, hole_pitch_m=4.0, hole_width=0.5, hole_height_m=3.0)
    solid = Solid(Shape.BOX, (0.0, 0.0, 0.0), (2.0, 0.1), 4.0, wall)
    # The opening is 2 m wide and 3 m high: straight up to 2 m, with a round head of radius 1 m.
    yz = np.array(
        [(0.0, 1.0), (0.95, 1.0), (1.05, 1.0), (0.0, 2.95), (0.0, 3.05), (0.8, 2.9), (1.9, 0.5)]
    )
    origins = np.stack([yz[:, 0], np.full(len(yz), -5.0), yz[:, 1]], axis=1)
    directions = np.tile([0.0, 1.0, 0.0], (len(yz), 1))
    length, _, _ = _nearest(jnp.asarray(table([solid])), _columns(origins), _columns(directions))
    assert [bool(value) for value in np.asarray(length) < FAR] == [
        False,
        False,
        True,
        False,
        True,
        True,
        True,
    ]


def test_the_nearest_solid_is_seen_and_landmarks_hidden_behind_it_are_reported() -> None:
    front = Solid(Shape.BOX, (0.0, 3.0, 0.0), (1.0, 0.2), 2.0)
    behind = Solid(Shape.BOX, (0.0, 6.0, 0.0), (2.0, 0.2), 4.0, owner=1)
    far = Solid(Shape.BOX, (0.0, 9.0, 0.0), (4.0, 0.2), 8.0, owner=2)
    solids = jnp.asarray(table([far, front, behind]))
    directions = np.array([(0.0, 1.0, 0.0), (0.25, 1.0, 0.0), (0.4, 1.0, 0.0), (1.0, 1.0, 0.0)])
    origin = (jnp.float32(0), jnp.float32(0), jnp.float32(1))
    length, row, owners = nearest(solids, jnp.arange(3), jnp.int32(3), origin, _columns(directions))
    assert np.asarray(row).tolist() == [1, 1, 0, -1] or np.asarray(row).tolist() == [1, 1, 2, -1]
    assert np.asarray(owners)[0].tolist()[:2] == [True, True]
    assert np.asarray(owners)[1].tolist() == [True, True, True, False]
    assert np.asarray(length)[0] == pytest.approx(2.8, abs=1e-5)


def test_a_solid_between_a_point_and_the_sun_casts_a_shadow() -> None:
    solids = jnp.asarray(
        table([dataclasses.replace(SOLIDS["cuboid"], base=(0.0, 0.0, 0.0), yaw=0.0)])
    )
    points = _columns(np.array([(0.0, -2.0, 0.0), (0.0, 2.0, 0.0), (5.0, 2.0, 0.0)]))
    outlines = np.array([[-FAR, FAR, -FAR, FAR, FAR]], np.float32)
    axes = np.array(
        [(1, 0, 0), (0, np.sqrt(0.5), np.sqrt(0.5)), (0, -np.sqrt(0.5), np.sqrt(0.5))], np.float32
    )
    sun = SeenFromSun(jnp.asarray(axes), jnp.asarray(outlines))
    dark = shadowed(
        solids, jnp.zeros(1, jnp.int32), jnp.int32(1), points, sun, asked=jnp.ones(3, bool)
    )
    assert np.asarray(dark).tolist() == [False, True, False]


def test_ruling_out_casters_by_their_outlines_loses_no_shadow(
    rng: np.random.Generator,
) -> None:
    towards = rng.normal(size=3) * (1, 1, 0) + (0, 0, 0.8)
    solids = [
        dataclasses.replace(one, base=(*rng.uniform(-6, 6, 2), 0.0)) for one in SOLIDS.values()
    ]
    rows = np.zeros((MAX_SOLIDS, table(solids).shape[1]), np.float32)
    rows[: len(solids)] = table(solids)
    sun = seen_from_sun(corners(solids), tuple(towards / np.linalg.norm(towards)))
    everywhere = SeenFromSun(
        sun.axes, np.tile(np.array([-FAR, FAR, -FAR, FAR, FAR], np.float32), (MAX_SOLIDS, 1))
    )
    numbers, count = jnp.arange(len(solids), dtype=jnp.int32), jnp.int32(len(solids))
    shadows = 0
    for _ in range(20):
        # Points close together, like those of a tile; the answer is needed for half of them.
        points = _columns(rng.uniform(-6, 6, 3) * (1, 1, 0) + rng.uniform(0, 1.5, (64, 3)))
        asked = np.arange(64) % 2 == 0
        found, all_of_them = (
            np.asarray(
                _shadowed(
                    jnp.asarray(rows),
                    numbers,
                    count,
                    points,
                    jax.tree.map(jnp.asarray, outlines),
                    asked=asked,
                )
            )
            for outlines in (sun, everywhere)
        )
        np.testing.assert_array_equal(found[asked], all_of_them[asked])
        shadows += found[asked].sum()
        nothing = _shadowed(
            jnp.asarray(rows),
            numbers,
            count,
            points,
            jax.tree.map(jnp.asarray, sun),
            asked=np.zeros(64, bool),
        )
        assert not np.asarray(nothing).any()
    assert 20 < shadows < 600
