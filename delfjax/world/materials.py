"""Procedural surfaces: masonry, windows, ornaments, tiles, leaves, stains, the ground and the sky.

A pattern depends only on the surface coordinates and the seed of a solid, so a landmark looks the
same from everywhere. Colours are linear RGB. Patterns fade out where a pixel is too large to show
them (``footprint``, metres), as they do in a photograph.

The factors and shares by which a pattern changes a colour are the same for all three channels. They
are computed inside a conditional (:func:`_where_any`), which skips a tile whose rays never meet the
pattern and otherwise computes them once; without it, XLA would repeat shared work for each channel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, PyTree

from delfjax.world.noise import hashed, parts_of, plane_noise, value_noise
from delfjax.world.raycast import Surface, Vector
from delfjax.world.solids import COLUMN

RGB = tuple[Array, Array, Array]
T = TypeVar("T")

# Width of joints and frames, metres.
_JOINT_M = 0.03
_FRAME_M = 0.12
# Apparent depth of reliefs: by how much their lit and their dark edges are displaced, metres.
_RELIEF_M = 0.05
_GLASS = (0.035, 0.045, 0.06)
_LAMP = (1.0, 0.72, 0.38)


class Shading(NamedTuple):
    """How a surface responds to light, per ray.

    Attributes:
        albedo: share of the light that it scatters.
        mirror: share of the sky that it mirrors.
        glow: light that it emits.
    """

    albedo: RGB
    mirror: Float32[Array, " n"]
    glow: RGB


def shade(
    rows: Float32[Array, "n c"], surface: Surface, footprint: Array, sun: Vector, darkness: Array
) -> Shading:
    """Shade the surfaces of solids.

    Args:
        rows: for each ray, the row of the table of solids that it meets.
        surface: where each ray meets it.
        footprint: size of a pixel on the surface, metres.
        sun: unit vector towards the sun, which lights one side of a relief.
        darkness: 0 by day, 1 at night, when some windows are lit.
    """

    def get(name: str) -> Array:
        return rows[:, COLUMN[name]]

    seed, u, v = get("seed"), surface.u, surface.v
    base, second, accent = (_colour(rows, name) for name in ("base", "second", "accent"))
    on_wall = surface.side.astype(jnp.float32)
    stripes, blocks, glazing = (
        get(name) * on_wall for name in ("stripes", "masonry", "window_pitch_m")
    )
    zero, one = jnp.float32(0), jnp.float32(1)
    carving = (get("ornament") + get("rosette_m")) * on_wall
    striped = _where_any(stripes, lambda: _stripes(rows, v, stripes), 0.0)
    tone, joint = _where_any(blocks, lambda: _masonry(rows, surface, blocks, footprint), (1.0, 0.0))
    carved, relief = _where_any(
        carving, lambda: _ornaments(rows, surface, footprint, sun), (0.0, 1.0)
    )
    windows = _where_any(
        glazing, lambda: _windows(rows, surface, footprint, sun), _Windows(one, *[zero] * 6)
    )
    tiled = _where_any(get("roof"), lambda: _roof(rows, u, v, footprint), 1.0)
    leafy = _where_any(get("foliage"), lambda: _foliage(rows, surface), 1.0)
    stained = _where_any(get("grime"), lambda: _stains(get("grime"), u, v, seed), 1.0)
    colour = _mix(base, second, striped)
    colour = _mix(_scaled(colour, tone), _scaled(second, 0.6), joint)
    colour = _scaled(_mix(colour, accent, carved), relief)
    colour = _mix(_scaled(colour, windows.shadow), _scaled(accent, 1.1), windows.frame)
    pane = _mix(
        (windows.tone * _GLASS[0], windows.tone * _GLASS[1], windows.tone * _GLASS[2]),
        accent,
        windows.bars,
    )
    colour = _mix(colour, pane, windows.glass)
    colour = _scaled(_scaled(_scaled(colour, tiled), leafy), stained)
    glow = (
        windows.lit * darkness * _LAMP[0],
        windows.lit * darkness * _LAMP[1],
        windows.lit * darkness * _LAMP[2],
    )
    return Shading(colour, jnp.clip(windows.mirror * 0.55 + get("gloss") * 0.5, 0.0, 1.0), glow)


def ground_albedo(
    x: Array, y: Array, footprint: Array, ground: Float32[Array, " g"], *, seen: Bool[Array, ""]
) -> RGB:
    """Albedo of the ground: a square around the origin, and the land beyond it.

    Args:
        x: metres to the east of the origin.
        y: metres to the north of the origin.
        footprint: size of a pixel on the ground, metres.
        ground: colour of the square (3) and of the land (3), size of its slabs in metres (0 for no
            slabs), radius of the square in metres, seed.
        seen: whether any ray meets the ground; if not, the result is meaningless.
    """
    slab, radius, seed = ground[6], ground[7], ground[8]

    def pattern() -> tuple[Array, ...]:
        broad = (
            plane_noise(x * 0.11, y * 0.11, seed) * 0.5
            + plane_noise(x * 0.9, y * 0.9, seed + 1.0) * 0.3
        )
        fine = plane_noise(x * 7.0, y * 7.0, seed + 2.0) * _seen(0.3, footprint)
        grain = 0.65 + 0.5 * broad + 0.25 * fine
        size = jnp.maximum(slab, 0.05)
        joint = jnp.maximum(
            _line(x, size, 0.02, footprint), _line(y, size, 0.02, footprint)
        ) * _seen(size * 0.5, footprint)
        tone = 0.82 + 0.36 * hashed(x / size, y / size, jnp.zeros_like(x), seed + 5.0) * _seen(
            size, footprint
        )
        paved = jnp.where(slab > 0, tone * (1 - 0.5 * joint), 1.0)
        away = jnp.sqrt(x * x + y * y) + 6 * (plane_noise(x * 0.2, y * 0.2, seed + 9.0) - 0.5)
        return paved, jnp.clip((away - radius) * 0.5, 0.0, 1.0), grain

    paved, outside, grain = _where(seen, pattern, x, (1.0, 0.0, 1.0))
    near = (ground[0] * paved, ground[1] * paved, ground[2] * paved)
    return _scaled(_mix(near, (ground[3], ground[4], ground[5]), outside), grain)


def sky_colour(
    direction: Vector, sun: Vector, sky: Float32[Array, " k"], *, seen: Bool[Array, ""]
) -> RGB:
    """Colour of the sky in the given directions, with clouds, and hills and roofs on the horizon.

    Args:
        direction: unit vectors.
        sun: unit vector towards the sun.
        sky: zenith colour (3), horizon colour (3), cloud cover, seed, glow of the sun, colour of
            the hills (3).
        seen: whether any ray meets the sky; if not, the result is meaningless.
    """
    x, y, z = direction
    seed = sky[7]

    def pattern() -> tuple[Array, ...]:
        up = jnp.clip(z, 0.0, 1.0)
        # Clouds lie on a plane far above; near the horizon they are foreshortened.
        reach = 1 / (up + 0.12)
        cx, cy = x * reach * 1.3, y * reach * 1.3
        veil = plane_noise(cx, cy, seed) * 0.55 + plane_noise(cx * 2.3, cy * 2.3, seed + 1.0) * 0.3
        veil = veil + plane_noise(cx * 5.1, cy * 5.1, seed + 2.0) * 0.15
        cover = jnp.clip((veil - (1 - sky[6])) * 3.5, 0.0, 1.0)
        bright = 0.55 + 0.45 * jnp.clip(1.4 - 1.2 * veil, 0.0, 1.0)
        towards = jnp.clip(x * sun[0] + y * sun[1] + z * sun[2], 0.0, 1.0)
        halo = sky[8] * (0.35 * towards**8 + 2.5 * towards**256)
        azimuth = jnp.arctan2(x, y) * 9.0
        far = plane_noise(azimuth, jnp.zeros_like(azimuth), seed + 20.0) * 0.035 + 0.012
        roofs = (
            hashed(azimuth * 5.0, jnp.zeros_like(azimuth), jnp.zeros_like(azimuth), seed + 21.0)
            * 0.03
        )
        skyline = jnp.clip((jnp.maximum(far, roofs) - z) * 300.0, 0.0, 1.0)
        # The gradient is steep close to the horizon.
        return jnp.sqrt(up), cover * 0.9, bright, halo, skyline

    share, cover, bright, halo, skyline = _where(seen, pattern, x, (0.0, 0.0, 0.0, 0.0, 0.0))
    base = _mix((sky[3], sky[4], sky[5]), (sky[0], sky[1], sky[2]), share)
    white = bright * (sky[3] + sky[4] + sky[5]) / 3 * 1.25
    cloudy = _mix(base, (white, white, white), cover)
    lit = (cloudy[0] + halo, cloudy[1] + 0.85 * halo, cloudy[2] + 0.6 * halo)
    return _mix(lit, (sky[9], sky[10], sky[11]), skyline)


def _where(seen: Array, pattern: Callable[[], T], like: Array, plain: PyTree) -> T:
    """Compute ``pattern`` if it is ``seen``.

    Args:
        seen: whether to compute it.
        pattern: returns arrays shaped as ``like``.
        like: an array of the shape and type of the results.
        plain: scalars to fill the results with otherwise, in the structure of the pattern's result.
    """
    result: T = jax.lax.cond(
        seen, pattern, lambda: jax.tree.map(partial(jnp.full_like, like), plain)
    )
    return result


def _where_any(amount: Array, pattern: Callable[[], T], plain: PyTree) -> T:
    """Compute ``pattern`` if any ray of the tile has an ``amount`` of it above zero; otherwise fill
    with ``plain`` values."""
    return _where(jnp.any(amount > 0), pattern, amount, plain)


def _stripes(rows: Array, v: Array, strength: Array) -> Array:
    """Share of the second stone, which is laid in horizontal bands."""
    zero = jnp.zeros_like(v)
    stripe = (
        hashed(v / rows[:, COLUMN["stripe_m"]], zero, zero, rows[:, COLUMN["seed"]] + 3.0) > 0.55
    )
    return strength * stripe.astype(jnp.float32)


def _masonry(
    rows: Array, surface: Surface, strength: Array, footprint: Array
) -> tuple[Array, Array]:
    """Tone of the blocks and share of the joints; every other course is shifted by half a block."""
    course, block, seed = (rows[:, COLUMN[name]] for name in ("course_m", "block_m", "seed"))
    u, v = surface.u, surface.v
    row = jnp.floor(v / course)
    shifted = u + 0.5 * block * (row - 2 * jnp.floor(row / 2))
    tone = hashed(shifted / block, row, jnp.zeros_like(row), seed) - 0.5
    seen = strength * _seen(course, footprint)
    joint = jnp.maximum(
        _line(shifted, block, _JOINT_M, footprint), _line(v, course, _JOINT_M, footprint)
    )
    return 1 + 0.55 * tone * seen, joint * seen * 0.8


def _stains(strength: Array, u: Array, v: Array, seed: Array) -> Array:
    """Factor by which clouds of dirt, and streaks running down, darken a surface."""
    dirt = (
        plane_noise(u * 0.9, v * 0.35, seed + 11.0) * 0.6
        + plane_noise(u * 3.7, v * 0.5, seed + 12.0) * 0.4
    )
    return 1 - strength * 0.55 * dirt


def _ornaments(rows: Array, surface: Surface, footprint: Array, sun: Vector) -> tuple[Array, Array]:
    """Carved friezes and the large motif of a face.

    Returns:
        Share of the accent colour, and the factor by which the relief is brighter towards the sun
        and darker on the other side.
    """
    along = sun[0] * -surface.normal[1] + sun[1] * surface.normal[0]
    on_wall = surface.side.astype(jnp.float32)
    here = _motifs(rows, surface.u, surface.v, surface, footprint) * on_wall
    there = (
        _motifs(
            rows, surface.u + along * _RELIEF_M, surface.v + sun[2] * _RELIEF_M, surface, footprint
        )
        * on_wall
    )
    return here, 1 + 0.9 * (there - here)


def _motifs(rows: Array, u: Array, v: Array, surface: Surface, footprint: Array) -> Array:
    """Share of the accent colour in the friezes and in the large motif of a face, which covers
    them."""

    def get(name: str) -> Array:
        return rows[:, COLUMN[name]]

    size, storey, seed = get("ornament_m"), jnp.maximum(get("storey_m"), 0.1), get("seed")
    # A frieze at the foot of every storey, of three motifs in turn.
    offset = v - jnp.round(v / storey) * storey
    along, number = _cell(u, size)
    band = (jnp.abs(offset) < 0.5 * size) & (v > 0.3 * storey)
    radius = get("rosette_m")
    safe = jnp.maximum(radius, 0.1)
    across, up = u / safe, (v - get("rosette_height") * get("height")) / safe
    large = (radius > 0) & (across * across + up * up < 1.0)
    figure = _motif(
        jnp.where(large, across, along * 2),
        jnp.where(large, up, offset / size * 2),
        jnp.where(large, seed + 101.0, seed + (number - 3 * jnp.floor(number / 3)) * 17.0),
    )
    strength = get("ornament") * _seen(size * 0.6, footprint) * band.astype(jnp.float32)
    return figure * jnp.where(large, 1.0, strength)


def _motif(x: Array, y: Array, seed: Array) -> Array:
    """A figure in the unit disc: petals, a ring, rays and a core, whose counts, sizes and phases
    follow from ``seed``."""
    zero, edge = jnp.zeros_like(x), 0.05
    drawn = [
        part for stream in (1.0, 2.0) for part in parts_of(hashed(zero + stream, zero, zero, seed))
    ]
    angle, radius = jnp.arctan2(x, y), jnp.sqrt(x * x + y * y)
    petals = 3 + jnp.floor(drawn[0] * 7)
    spokes = 2 + jnp.floor(drawn[1] * 10)
    outline = 0.72 + (0.08 + 0.2 * drawn[2]) * jnp.cos(petals * angle + 6.28 * drawn[3])
    figure = _step(outline - radius, edge)
    # A ring, broken by spokes; rays; a core.
    wave = jnp.cos(spokes * angle + 6.28 * drawn[4])
    ring = jnp.abs(radius - (0.35 + 0.2 * drawn[5])) - (0.04 + 0.06 * drawn[6])
    cut = _step(-ring, edge) * (wave > drawn[7] * 1.4 - 1).astype(jnp.float32)
    rays = _step(0.5 * wave - 0.2 - drawn[3] * 0.3, edge) * _step(radius - 0.3, edge)
    core = _step(0.08 + 0.18 * drawn[6] - radius, edge)
    body = figure * (1 - cut) * (1 - 0.7 * rays)
    return jnp.where(drawn[5] > 0.5, jnp.maximum(body, core), body * (1 - core))


class _Windows(NamedTuple):
    """What windows do to a wall, per ray.

    Attributes:
        shadow: factor of the wall's colour where a frame shades it.
        frame: share of the frame.
        tone: factor of the colour of the glass.
        bars: share of the glazing bars in the opening.
        glass: share of the opening, bars included.
        mirror: share of the sky that the glass mirrors.
        lit: light that the glass emits at night.
    """

    shadow: Array
    frame: Array
    tone: Array
    bars: Array
    glass: Array
    mirror: Array
    lit: Array


def _windows(rows: Array, surface: Surface, footprint: Array, sun: Vector) -> _Windows:
    """Windows on a regular grid."""

    def get(name: str) -> Array:
        return rows[:, COLUMN[name]]

    pitch, storey = jnp.maximum(get("window_pitch_m"), 0.2), jnp.maximum(get("storey_m"), 0.2)
    axes = jnp.maximum(jnp.floor(surface.width / pitch + 0.25), 1.0)
    cell_m = surface.width / axes
    axis = jnp.floor((surface.u + surface.width / 2) / cell_m)
    x = surface.u + surface.width / 2 - (axis + 0.5) * cell_m
    floors = jnp.maximum(jnp.round(get("height") / storey), 1.0)
    storey = get("height") / floors
    floor = jnp.floor(surface.v / storey)
    y = surface.v - (floor + 0.5) * storey
    half_w, half_h = 0.5 * get("window_width") * cell_m, 0.5 * get("window_height") * storey
    exists = (
        (get("window_pitch_m") > 0)
        & surface.side
        & (axis >= 0)
        & (axis < axes)
        & (floor < floors)
        & (floor >= 0)
    )
    there = exists.astype(jnp.float32)

    def inside(dx: Array | float, dy: Array | float) -> Array:
        """Signed distance to the edge of the opening, metres, positive inside.

        The opening is an upright rectangle with a head that may be round. ``dx`` and ``dy`` are
        added to the point.
        """
        px, py = jnp.abs(x + dx), y + dy
        radius = half_w * get("arched")
        straight = half_h - radius
        head = jnp.maximum(py - straight, 0.0)
        low = jnp.minimum(half_w - px, half_h + jnp.minimum(py, 0.0))
        reach = half_w - jnp.sqrt(px * px + (head * half_w / jnp.maximum(radius, 1e-3)) ** 2)
        return jnp.where(
            py > straight, jnp.where(get("arched") > 0, reach, jnp.minimum(low, half_h - py)), low
        )

    edge = 0.02 + 0.5 * footprint
    opening = inside(0.0, 0.0)
    glass = _step(opening, edge)
    framed = _step(opening + _FRAME_M, edge)
    along = sun[0] * -surface.normal[1] + sun[1] * surface.normal[0]
    # The reveal casts a shadow on the glass, and the frame on the wall.
    recess = glass * (1 - _step(inside(along * 0.25, 0.25 * sun[2]), edge))
    drop = _step(inside(-along * 0.2, 0.2 * sun[2]) + _FRAME_M, edge) * (1 - framed)
    draw = hashed(axis, floor, surface.face.astype(jnp.float32), get("seed") + 31.0)
    bars = jnp.maximum(
        _line(x, half_w, 0.05, footprint), _line(y + half_h, half_h * 0.7, 0.05, footprint)
    )
    bars = bars * _seen(0.25, footprint)
    seen = there * _seen(jnp.minimum(half_w, half_h), footprint)
    return _Windows(
        shadow=1 - 0.35 * drop * seen,
        frame=framed * seen,
        tone=(0.6 + 1.6 * draw) * (1 - 0.6 * recess),
        bars=bars * 0.8,
        glass=glass * seen,
        mirror=glass * (1 - bars) * (1 - recess) * seen,
        lit=glass * seen * (1 - bars) * (draw > 0.55).astype(jnp.float32),
    )


def _roof(rows: Array, u: Array, v: Array, footprint: Array) -> Array:
    """Tone of rounded tiles laid in rows."""
    seed = rows[:, COLUMN["seed"]]
    row = jnp.floor(v / 0.35)
    shifted = u / 0.3 + 0.5 * (row - 2 * jnp.floor(row / 2))
    across = shifted - jnp.floor(shifted) - 0.5
    up = v / 0.35 - row
    shade_of_tile = 1 - 0.45 * (1 - up) - 0.5 * across * across
    tone = 0.8 + 0.4 * hashed(shifted, row, jnp.zeros_like(row), seed)
    strength = rows[:, COLUMN["roof"]] * _seen(0.35, footprint)
    return 1 + strength * (shade_of_tile * tone - 1)


def _foliage(rows: Array, surface: Surface) -> Array:
    """Tone of leaves: clumps with lighter leaves among darker ones."""
    x, y, z = surface.local
    size, seed = jnp.maximum(rows[:, COLUMN["hole_pitch_m"]], 0.05), rows[:, COLUMN["seed"]]
    clump = value_noise(x / size, y / size, z / size, seed)
    leaf = value_noise(x / size * 4.0, y / size * 4.0, z / size * 4.0, seed + 3.0)
    strength = rows[:, COLUMN["foliage"]]
    tone = 0.35 + 0.9 * clump * (0.5 + leaf)
    return 1 + strength * (tone - 1)


def _cell(coordinate: Array, size: Array) -> tuple[Array, Array]:
    """Position within a cell of a row, from −0.5 to 0.5, and the number of the cell."""
    number = jnp.floor(coordinate / size)
    return coordinate / size - number - 0.5, number


def _line(coordinate: Array, period: Array, width: float, footprint: Array) -> Array:
    """1 on lines ``width`` wide and ``period`` apart, 0 between them, with soft edges."""
    offset = jnp.abs(coordinate - jnp.round(coordinate / period) * period)
    return _step(0.5 * width + 0.25 * footprint - offset, 0.5 * width + 0.5 * footprint)


def _step(value: Array, edge: Array | float) -> Array:
    """0 below −``edge`` / 2, 1 above ``edge`` / 2, linear in between."""
    return jnp.clip(value / edge + 0.5, 0.0, 1.0)


def _seen(size: Array | float, footprint: Array) -> Array:
    """How much of a pattern of ``size`` metres shows in pixels of ``footprint`` metres, 0 to 1."""
    return jnp.clip(1.6 - 1.2 * footprint / size, 0.0, 1.0)


def _mix(first: RGB, second: RGB, share: Array) -> RGB:
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def _scaled(colour: RGB, factor: Array | float) -> RGB:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def _colour(rows: Array, name: str) -> RGB:
    return rows[:, COLUMN[f"{name}_r"]], rows[:, COLUMN[f"{name}_g"]], rows[:, COLUMN[f"{name}_b"]]
