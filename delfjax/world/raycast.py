"""Intersections of rays and solids in closed form: the visible surfaces of a tile, and the shadows.

Solids come as a table (:data:`~delfjax.world.solids.COLUMNS`). The loops run over the solids that
may show in a tile, and each step handles all rays of the tile at once, in vector-wide operations;
properties of a solid are gathered per ray only once the nearest is known. Vectors are triples of
arrays; lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32

from delfjax.world.noise import value_noise
from delfjax.world.solids import COLUMN, Hole

# A hit nearer than this is taken for the surface where the ray starts, metres.
NEAREST_M = 1e-3
# Length of a ray that meets nothing.
FAR = 1e9
# Denominators are kept this far from zero: a ray along a face misses it, or meets it far away.
_TINY = 1e-9

Vector = tuple[Array, Array, Array]


class Surface(NamedTuple):
    """The point of a solid that each ray meets.

    Attributes:
        local: the point in the frame of the solid, metres.
        normal: unit normal in the frame of the world, on the side the ray comes from.
        u: coordinate along the surface, metres from the middle of the face.
        v: coordinate up the surface, metres from the base.
        width: width of the face, metres.
        side: whether the face is a side, as walls are, rather than a top or a bottom.
        face: number of the face, 0 to 5.
    """

    local: Vector
    normal: Vector
    u: Float32[Array, " n"]
    v: Float32[Array, " n"]
    width: Float32[Array, " n"]
    side: Bool[Array, " n"]
    face: Int32[Array, " n"]


class SeenFromSun(NamedTuple):
    """Bounds of the solids as seen from the sun, which soon rule out most solids as casters.

    Attributes:
        axes: axes of the sun's frame in the world, as rows: two across the light, then the one
            towards the sun.
        outlines: bounds of each solid along those axes, metres: lowest and highest along the first,
            lowest and highest along the second, highest along the third.
    """

    axes: Float32[Array | np.ndarray, "3 3"]
    outlines: Float32[Array | np.ndarray, "s 5"]


def nearest(
    solids: Float32[Array, "s c"],
    numbers: Int32[Array, " m"],
    count: Int32[Array, ""],
    origin: Vector,
    direction: Vector,
) -> tuple[Float32[Array, " n"], Int32[Array, " n"], Bool[Array, "owners n"]]:
    """The first solid that each ray meets.

    Args:
        solids: table of all solids.
        numbers: rows of the table to test; the rest is padding.
        count: length of ``numbers`` without its padding.
        origin: start of the rays: one point, or one for each ray.
        direction: direction of each ray; lengths along a ray are in units of this vector's length.

    Returns:
        Length to the hit (:data:`FAR` where there is none), row of the solid (−1 where there is
        none), and whether the ray passes through a solid of owner 1 and of owner 2, even if hidden.
    """
    rays = direction[0].shape

    def step(number: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        length, row, owners = found
        solid = solids[numbers[number]]
        hit = _meet(solid, origin, direction)
        closer = hit < length
        owned = solid[COLUMN["owner"]] == jnp.array([1.0, 2.0])
        owners = owners | (owned[:, None] & (hit < FAR)[None])
        return jnp.where(closer, hit, length), jnp.where(closer, numbers[number], row), owners

    start = (
        jnp.full(rays, FAR, jnp.float32),
        jnp.full(rays, -1, jnp.int32),
        jnp.zeros((2, *rays), bool),
    )
    found: tuple[Array, Array, Array] = jax.lax.fori_loop(0, count, step, start)
    return found


def shadowed(
    solids: Float32[Array, "s c"],
    numbers: Int32[Array, " m"],
    count: Int32[Array, ""],
    points: Vector,
    sun: SeenFromSun,
    *,
    asked: Bool[Array, " n"],
) -> Bool[Array, " n"]:
    """Whether a solid lies between each point and the sun.

    Args:
        solids: table of all solids.
        numbers: rows of the table that may cast a shadow; the rest is padding.
        count: length of ``numbers`` without its padding.
        points: one for each ray.
        sun: its direction, and the bounds of each solid as seen from it.
        asked: which points to answer for; the result is meaningless for the others.
    """
    across, up, towards = (
        row[0] * points[0] + row[1] * points[1] + row[2] * points[2] for row in sun.axes
    )
    from_across, from_up, from_towards = (
        jnp.where(asked, place, FAR).min() for place in (across, up, towards)
    )
    to_across, to_up = (jnp.where(asked, place, -FAR).max() for place in (across, up))
    direction = sun.axes[2, 0], sun.axes[2, 1], sun.axes[2, 2]

    def step(number: Array, dark: Array) -> Array:
        row = numbers[number]
        left, right, bottom, top, near = (sun.outlines[row, k] for k in range(5))
        aside = (
            (left > to_across)
            | (right < from_across)
            | (bottom > to_up)
            | (top < from_up)
            | (near < from_towards)
        )
        found: Array = jax.lax.cond(
            aside, lambda: dark, lambda: dark | (_meet(solids[row], points, direction) < FAR)
        )
        return found

    dark: Array = jax.lax.fori_loop(0, count, step, jnp.zeros(points[0].shape, bool))
    return dark


def surface_at(rows: Float32[Array, "n c"], point: Vector, direction: Vector) -> Surface:
    """The surface at ``point``, given the row of the table of the solid that each ray meets."""

    def get(name: str) -> Array:
        return rows[:, COLUMN[name]]

    cosine, sine, height, hx, hy = get("cos"), get("sin"), get("height"), get("hx"), get("hy")
    x, y, z = local = _to_local(point, (get("x"), get("y"), get("z")), cosine, sine)
    lean_x, lean_y = hx * get("taper_x") / height, hy * get("taper_y") / height
    # Boxes: the face with the nearest plane. Planes are in the order +x, −x, +y, −y, top, bottom.
    slack = jnp.stack(
        [
            hx - lean_x * z - x,
            hx - lean_x * z + x,
            hy - lean_y * z - y,
            hy - lean_y * z + y,
            height - z,
            z,
        ]
    )
    face = jnp.argmin(jnp.abs(slack), axis=0).astype(jnp.int32)
    on_x, on_y, on_top, on_bottom = face < 2, (face >= 2) & (face < 4), face == 4, face == 5
    sign = jnp.where(face % 2 == 0, 1.0, -1.0)
    zero = jnp.zeros_like(x)
    flat_z = jnp.where(on_top, 1.0, -1.0)
    box_normal = (
        jnp.where(on_x, sign, zero),
        jnp.where(on_y, sign, zero),
        jnp.where(on_x, lean_x, jnp.where(on_y, lean_y, flat_z)),
    )
    box_uvw = (
        jnp.where(on_x, y * sign, jnp.where(on_y, -x * sign, x)),
        jnp.where(on_top | on_bottom, y, z),
        2 * jnp.where(on_x, hy, hx),
    )
    # Frusta and ellipsoids: the flat cap where the point lies on it, the curved side elsewhere.
    is_frustum = get("shape") == 1.0
    is_box = get("shape") == 0.0
    # The cap of a dome is its lower end; that of a frustum is its upper end.
    cap_z = jnp.where(is_frustum, height, get("cut") * height)
    on_cap = jnp.abs(z - cap_z) < 2e-3 + 1e-4 * height
    on_floor = is_frustum & (jnp.abs(z) < 2e-3)
    flat = on_cap | on_floor
    narrowing = jnp.maximum(1 - get("taper_x") * z / height, 0.0)
    around_z = jnp.where(is_frustum, get("taper_x") * narrowing / height, z / (height * height))
    cap_normal = jnp.where(is_frustum & on_cap, 1.0, -1.0)
    round_normal = (
        jnp.where(flat, zero, x / (hx * hx)),
        jnp.where(flat, zero, y / (hy * hy)),
        jnp.where(flat, cap_normal, around_z),
    )
    azimuth = jnp.arctan2(x / hx, -y / hy)
    round_uvw = (jnp.where(flat, x, azimuth * hx), jnp.where(flat, y, z), 2 * jnp.pi * hx)
    u, v, width = (
        jnp.where(is_box, of_box, of_round)
        for of_box, of_round in zip(box_uvw, round_uvw, strict=True)
    )
    own = tuple(
        jnp.where(is_box, of_box, of_round)
        for of_box, of_round in zip(box_normal, round_normal, strict=True)
    )
    length = jax.lax.rsqrt(own[0] ** 2 + own[1] ** 2 + own[2] ** 2 + 1e-20)
    across, along = own[0] * length, own[1] * length
    normal = (cosine * across - sine * along, sine * across + cosine * along, own[2] * length)
    facing = normal[0] * direction[0] + normal[1] * direction[1] + normal[2] * direction[2]
    turn = jnp.where(facing > 0, -1.0, 1.0)
    normal = (normal[0] * turn, normal[1] * turn, normal[2] * turn)
    side = jnp.where(is_box, on_x | on_y, ~flat)
    return Surface(local, normal, u, v, width, side, jnp.where(is_box, face, jnp.where(flat, 4, 0)))


def leaf_gaps(local: Vector, size: Array, share: Array, seed: Array) -> Bool[Array, " n"]:
    """Which points of foliage are gaps between the leaves.

    Args:
        local: points in the frame of the solid, metres.
        size: size of a clump of leaves, metres.
        share: threshold of the noise, in [0, 1]: the larger, the more gaps.
        seed: seed of the foliage.
    """
    scale = 1 / size
    clumps = value_noise(local[0] * scale, local[1] * scale, local[2] * scale, seed)
    fine = value_noise(
        local[0] * scale * 3.1, local[1] * scale * 3.1, local[2] * scale * 3.1, seed + 7.0
    )
    return 0.6 * clumps + 0.4 * fine < share


def _meet(solid: Float32[Array, " c"], origin: Vector, direction: Vector) -> Float32[Array, " n"]:
    """Length along each ray to ``solid``; :data:`FAR` where the ray misses it."""

    def get(name: str) -> Array:
        return solid[COLUMN[name]]

    start = _to_local(origin, (get("x"), get("y"), get("z")), get("cos"), get("sin"))
    along = _turned(direction, get("cos"), get("sin"))
    kinds: tuple[Callable[..., Array], ...] = (_meet_box, _meet_frustum, _meet_ellipsoid)
    hit: Array = jax.lax.switch(get("shape").astype(jnp.int32), kinds, solid, start, along)
    return hit


def _meet_box(solid: Array, start: Vector, along: Vector) -> Array:
    hx, hy, height = solid[COLUMN["hx"]], solid[COLUMN["hy"]], solid[COLUMN["height"]]
    lean_x, lean_y = hx * solid[COLUMN["taper_x"]] / height, hy * solid[COLUMN["taper_y"]] / height
    x, y, z = start
    dx, dy, dz = along
    enter, leave = (
        jnp.full(jnp.broadcast_shapes(x.shape, dx.shape), -FAR, jnp.float32),
        jnp.float32(FAR),
    )
    planes = (
        (hx - x - lean_x * z, dx + lean_x * dz),
        (hx + x - lean_x * z, -dx + lean_x * dz),
        (hy - y - lean_y * z, dy + lean_y * dz),
        (hy + y - lean_y * z, -dy + lean_y * dz),
        (height - z, dz),
        (z, -dz),
    )
    for room, speed in planes:
        nudged = jnp.where(jnp.abs(speed) < _TINY, _TINY, speed)
        length = room / nudged
        enter = jnp.where(nudged < 0, jnp.maximum(enter, length), enter)
        leave = jnp.where(nudged > 0, jnp.minimum(leave, length), leave)
    passes = leave > enter
    first, last = passes & (enter > NEAREST_M), passes & (leave > NEAREST_M)

    def with_holes() -> Array:
        opened = solid[COLUMN["hole"]]

        def closed(length: Array) -> Array:
            px, py, pz = x + length * dx, y + length * dy, z + length * dz
            # Openings go through the faces that look along y, which are the wide ones of a wall.
            through = jnp.abs(jnp.abs(py) - (hy - lean_y * pz)) < 1e-2
            return ~(through & (opened == float(Hole.ARCHES)) & _in_arch(px, pz, 2 * hx, solid))

        near, far = first & closed(enter), last & closed(leave)
        return jnp.where(near, enter, jnp.where(far, leave, FAR))

    def without_holes() -> Array:
        return jnp.where(first, enter, jnp.where(last, leave, FAR))

    hit: Array = jax.lax.cond(solid[COLUMN["hole"]] > 0, with_holes, without_holes)
    return hit


def _in_arch(u: Array, v: Array, width: Array, solid: Array) -> Array:
    """Whether a point of a wall lies in an arched opening; these are spread over ``width``."""
    pitch = width / jnp.maximum(jnp.round(width / solid[COLUMN["hole_pitch_m"]]), 1.0)
    across = u + width / 2
    offset = across - (jnp.floor(across / pitch) + 0.5) * pitch
    radius = 0.5 * solid[COLUMN["hole_width"]] * pitch
    above = jnp.maximum(v - (solid[COLUMN["hole_height_m"]] - radius), 0.0)
    return offset * offset + above * above < radius * radius


def _meet_frustum(solid: Array, start: Vector, along: Vector) -> Array:
    hx, hy, height, taper = (solid[COLUMN[name]] for name in ("hx", "hy", "height", "taper_x"))
    x, y, z = start[0] / hx, start[1] / hy, start[2]
    dx, dy, dz = along[0] / hx, along[1] / hy, along[2]
    radius, growth = 1 - taper * z / height, -taper * dz / height
    a = dx * dx + dy * dy - growth * growth
    b = x * dx + y * dy - radius * growth
    c = x * x + y * y - radius * radius
    a = jnp.where(jnp.abs(a) < _TINY, _TINY, a)
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))
    real = b * b - a * c > 0
    sped = jnp.where(jnp.abs(dz) < _TINY, _TINY, dz)
    hit = jnp.full(real.shape, FAR, jnp.float32)
    for length in ((-b - root) / a, (-b + root) / a):
        level = z + length * dz
        good = real & (length > NEAREST_M) & (level >= 0) & (level <= height)
        hit = jnp.where(good, jnp.minimum(hit, length), hit)
    for level in (jnp.zeros_like(height), height):
        length = (level - z) / sped
        edge = 1 - taper * level / height
        good = (length > NEAREST_M) & (
            (x + length * dx) ** 2 + (y + length * dy) ** 2 < edge * edge
        )
        hit = jnp.where(good, jnp.minimum(hit, length), hit)
    return hit


def _meet_ellipsoid(solid: Array, start: Vector, along: Vector) -> Array:
    hx, hy, height, cut = (solid[COLUMN[name]] for name in ("hx", "hy", "height", "cut"))
    x, y, z = start[0] / hx, start[1] / hy, start[2] / height
    dx, dy, dz = along[0] / hx, along[1] / hy, along[2] / height
    a = dx * dx + dy * dy + dz * dz
    b = x * dx + y * dy + z * dz
    c = x * x + y * y + z * z - 1
    real = b * b - a * c > 0
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))

    def solid_hits() -> Array:
        hit = jnp.full(real.shape, FAR, jnp.float32)
        for length in ((-b - root) / a, (-b + root) / a):
            good = real & (length > NEAREST_M) & (z + length * dz >= cut)
            hit = jnp.where(good, jnp.minimum(hit, length), hit)
        sped = jnp.where(jnp.abs(dz) < _TINY, _TINY, dz)
        length = (cut - z) / sped
        inside = (x + length * dx) ** 2 + (y + length * dy) ** 2 + cut * cut < 1
        return jnp.where(inside & (length > NEAREST_M), jnp.minimum(hit, length), hit)

    def leafy_hits() -> Array:
        size, share, seed = (solid[COLUMN[name]] for name in ("hole_pitch_m", "hole_width", "seed"))
        hit = jnp.full(real.shape, FAR, jnp.float32)
        for length in ((-b + root) / a, (-b - root) / a):
            local = (
                start[0] + length * along[0],
                start[1] + length * along[1],
                start[2] + length * along[2],
            )
            good = real & (length > NEAREST_M) & ~leaf_gaps(local, size, share, seed)
            hit = jnp.where(good, length, hit)
        return hit

    hit: Array = jax.lax.cond(solid[COLUMN["hole"]] == float(Hole.LEAVES), leafy_hits, solid_hits)
    return hit


def _to_local(point: Vector, base: Vector, cosine: Array, sine: Array) -> Vector:
    return _turned((point[0] - base[0], point[1] - base[1], point[2] - base[2]), cosine, sine)


def _turned(vector: Vector, cosine: Array, sine: Array) -> Vector:
    """A vector of the world, in a frame that is turned about the vertical."""
    x, y, z = vector
    return cosine * x + sine * y, cosine * y - sine * x, z
