"""The compiled renderer: a scene becomes a photograph, or the exact truth about each of its pixels.

Images are rendered in square tiles, one after another. Each tile tests only the solids that may
show in it, which the host finds by projecting their corners (:func:`tile_lists`). One program
serves all scenes of one image size. A scene is always rendered by the same program on one device,
so the bytes do not depend on how many devices share the work.

The frames are those of :mod:`delfjax.world.scene`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from delfjax.programs import StoredProgram
from delfjax.types import storable
from delfjax.world.materials import RGB, ground_albedo, shade, sky_colour
from delfjax.world.raycast import FAR, SeenFromSun, Vector, nearest, shadowed, surface_at
from delfjax.world.scene import MAX_SOLIDS, TILE_PX, Camera, Scene
from delfjax.world.solids import COLUMN, COLUMNS, WorldError, corners, table

# A solid with a point nearer to the camera than this counts as covering the whole image, metres.
_CLIP_M = 0.3
# Rays of a pixel, as offsets from its centre in pixels: a rotated grid, which smooths edges
# near the vertical and the horizontal.
_SAMPLES_YX = ((-0.375, -0.125), (-0.125, 0.375), (0.375, 0.125), (0.125, -0.375))
# Margin around the outlines of solids, metres, because single precision is not exact.
_SLACK_M = 0.05
# Shadow rays start this far from the surface, metres.
_LIFT_M = 0.02
# Reach of the point-spread function, pixels.
_BLUR_REACH = 4


class Photograph(NamedTuple):
    """A rendered photograph.

    Attributes:
        image: RGB.
        owner: the landmark visible in a pixel (1 or 2); 0 for anything else.
        present: whether landmark 1 and landmark 2 lie behind a pixel, even if hidden.
    """

    image: UInt8[np.ndarray, "h w 3"]
    owner: UInt8[np.ndarray, "h w"]
    present: Bool[np.ndarray, "2 h w"]


class Truth(NamedTuple):
    """What each pixel centre sees.

    Attributes:
        owner: the landmark (1 or 2); 0 for anything else.
        solid: number of the solid in the scene; −1 for ground and sky.
        depth: depth along the optical axis, metres; infinite for the sky.
        points: the point seen, in the world, metres; NaN for the sky.
    """

    owner: UInt8[np.ndarray, "h w"]
    solid: Int32[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    points: Float32[np.ndarray, "h w 3"]


def render(scene: Scene, *, device: jax.Device | None = None) -> Photograph:
    """Photograph a scene.

    Args:
        scene: what to photograph; the sides of its image are multiples of :data:`TILE_PX` pixels.
        device: the device to render on; by default the first local device.

    Raises:
        WorldError: the scene has more than :data:`MAX_SOLIDS` solids, or a side of its image is not
            a multiple of :data:`TILE_PX`.
    """
    packed = _pack(scene, device=device, shadows=True)
    size, tiles = scene.camera.size, _PHOTOGRAPH(packed)
    image = _film(size)(tiles.light, packed.film, packed.noise_seed)
    present = np.asarray(_assembled(jax.device_get(tiles.present), size))
    return Photograph(
        image=jax.device_get(image),
        owner=np.asarray(_assembled(jax.device_get(tiles.owner), size)),
        present=np.moveaxis(present, -1, 0),
    )


def render_truth(scene: Scene, *, device: jax.Device | None = None) -> Truth:
    """What each pixel centre of a scene sees.

    Raises:
        WorldError: as in :func:`render`.
    """
    packed = _pack(scene, device=device, shadows=False)
    tiles = vars(_TRUTH(packed))
    return Truth(
        **{
            name: np.asarray(_assembled(part, scene.camera.size))
            for name, part in jax.device_get(tiles).items()
        }
    )


def tile_lists(
    shapes: Float[np.ndarray, "n k 3"],
    camera: Camera,
    *,
    showing: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Int32[np.ndarray, "tiles m"], Int32[np.ndarray, " tiles"]]:
    """Which convex shapes may show in each tile.

    Args:
        shapes: ``k`` points of each shape whose convex hull contains it, metres.
        camera: the camera that sees them.
        showing: which shapes to list; by default all.

    Returns:
        For each tile, the numbers of the shapes, padded to :data:`MAX_SOLIDS`, and how many of
        these are not padding.
    """
    rows, columns = camera.size[0] // TILE_PX, camera.size[1] // TILE_PX
    positions, depth = camera.project(shapes)
    close = (depth < _CLIP_M).any(axis=1)
    low, high = positions.min(axis=1) - 1, positions.max(axis=1) + 1
    low[close], high[close] = -np.inf, np.inf
    starts_y, starts_x = np.arange(rows) * TILE_PX, np.arange(columns) * TILE_PX
    ahead = np.asarray((depth >= _CLIP_M).any(axis=1))
    in_rows = (high[:, :1] >= starts_y) & (low[:, :1] <= starts_y + TILE_PX) & ahead[:, None]
    in_columns = (high[:, 1:] >= starts_x) & (low[:, 1:] <= starts_x + TILE_PX)
    shows = (in_rows[:, :, None] & in_columns[:, None, :]).reshape(len(shapes), rows * columns).T
    shows = shows if showing is None else shows & showing
    numbers = np.zeros((rows * columns, MAX_SOLIDS), np.int32)
    for tile, members in enumerate(shows):
        found = np.flatnonzero(members)
        numbers[tile, : len(found)] = found
    return numbers, shows.sum(axis=1).astype(np.int32)


def seen_from_sun(
    boxes: Float[np.ndarray, "n 8 3"], sun: tuple[float, float, float]
) -> SeenFromSun:
    """Bounds of solids as seen from the sun.

    Args:
        boxes: corners of a bounding box of each solid, metres.
        sun: unit vector towards the sun.
    """
    towards = np.array(sun)
    across = np.cross(towards, np.eye(3)[np.argmin(np.abs(towards))])
    across = across / np.linalg.norm(across)
    axes = np.stack([across, np.cross(towards, across), towards])
    places = boxes @ axes.T
    low, high = places.min(axis=1) - _SLACK_M, places.max(axis=1) + _SLACK_M
    outlines = np.zeros((MAX_SOLIDS, 5), np.float32)
    outlines[: len(boxes)] = np.stack(
        [low[:, 0], high[:, 0], low[:, 1], high[:, 1], high[:, 2]], axis=-1
    )
    return SeenFromSun(axes.astype(np.float32), outlines)


@storable
@dataclass(frozen=True)
class _PhotographTiles:
    """What :class:`Photograph` is made of, tile by tile; light is linear RGB."""

    light: Float32[Array, "*tiles h w 3"]
    owner: UInt8[Array, "*tiles h w"]
    present: Bool[Array, "*tiles h w 2"]


@storable
@dataclass(frozen=True)
class _TruthTiles:
    """The fields of :class:`Truth`, tile by tile."""

    owner: UInt8[Array, "*tiles h w"]
    solid: Int32[Array, "*tiles h w"]
    depth: Float32[Array, "*tiles h w"]
    points: Float32[Array, "*tiles h w 3"]


class _Packed(NamedTuple):
    """A scene as arrays."""

    solids: Array
    tiles_yx: Array
    centre_yx: Array
    seen: Array
    seen_count: Array
    casting: Array
    casting_count: Array
    sun: SeenFromSun
    position: Array
    rotation: Array
    focal_px: Array
    sunlight: Array
    skylight: Array
    sky: Array
    ground: Array
    haze: Array
    darkness: Array
    film: Array
    noise_seed: Array


def _pack(scene: Scene, *, device: jax.Device | None, shadows: bool) -> _Packed:
    solids, camera, light, film = scene.solids, scene.camera, scene.light, scene.film
    if len(solids) > MAX_SOLIDS:
        raise WorldError(f"a scene has {len(solids)} solids; at most {MAX_SOLIDS} can be rendered")
    if camera.size[0] % TILE_PX or camera.size[1] % TILE_PX:
        raise WorldError(
            f"the image size is {camera.size}; rows and columns must be multiples of {TILE_PX}"
        )
    rows = np.zeros((MAX_SOLIDS, len(COLUMNS)), np.float32)
    rows[: len(solids)] = table(solids)
    boxes = corners(solids)
    seen, seen_count = tile_lists(boxes, camera)
    casting, casting_count = np.zeros_like(seen), np.zeros_like(seen_count)
    if shadows:
        casters = np.array([solid.casts for solid in solids], bool)
        casting, casting_count = tile_lists(_swept(boxes, light.sun), camera, showing=casters)
    sky = (
        *light.zenith,
        *light.horizon,
        light.clouds,
        light.seed % 65_521,
        light.halo,
        *light.hills,
    )
    ground = (
        *scene.ground.near,
        *scene.ground.far,
        scene.ground.slab_m,
        scene.ground.radius_m,
        scene.ground.seed % 65_521,
    )
    post = (film.exposure, *film.white, film.blur_px, *film.motion_yx_px, film.noise, film.vignette)
    tops, lefts = (np.arange(0, side, TILE_PX) for side in camera.size)
    tiles_yx = np.stack([np.repeat(tops, len(lefts)), np.tile(lefts, len(tops))], axis=-1)
    centre_yx = (np.array(camera.size) - 1) / 2
    lists = (
        rows,
        tiles_yx.astype(np.float32),
        centre_yx.astype(np.float32),
        seen,
        seen_count,
        casting,
        casting_count,
        seen_from_sun(boxes, light.sun),
    )
    floats = (
        camera.position,
        camera.rotation,
        camera.focal_px,
        light.sunlight,
        light.skylight,
        sky,
        ground,
        light.visibility_m,
        light.darkness,
        post,
    )
    values = (
        *lists,
        *(np.asarray(value, np.float32) for value in floats),
        np.asarray(film.seed % 2**31, np.int32),
    )
    # Always name the device: arrays without one would compile the program a second time.
    place = jax.local_devices()[0] if device is None else device
    return _Packed._make(jax.device_put(value, place) for value in values)


def _swept(
    boxes: Float[np.ndarray, "n 8 3"], sun: tuple[float, float, float]
) -> Float[np.ndarray, "n 16 3"]:
    """Corners of each box, and the points where their shadows fall on the ground, metres."""
    heights = boxes[..., 2:]
    shadow = boxes - np.array(sun) * heights / max(sun[2], 1e-3)
    return np.concatenate([boxes, shadow], axis=1)


def _photograph(scene: _Packed) -> _PhotographTiles:
    """What the camera sees of a scene, several rays a pixel."""
    offsets, sides = jnp.array(_SAMPLES_YX, jnp.float32), (len(_SAMPLES_YX), TILE_PX, TILE_PX)

    def tile(number: Array) -> _PhotographTiles:
        direction, length = _rays(scene, number, offsets)
        light, owner, present = _see(scene, number, direction, length)
        return _PhotographTiles(
            light=light.reshape(*sides, 3).mean(axis=0),
            owner=owner.reshape(sides)[0].astype(jnp.uint8),
            present=present.reshape(2, *sides)[:, 0].transpose(1, 2, 0),
        )

    tiles: _PhotographTiles = jax.lax.map(tile, jnp.arange(len(scene.tiles_yx), dtype=jnp.int32))
    return tiles


def _truth(scene: _Packed) -> _TruthTiles:
    """What each pixel centre sees of a scene."""
    sides = (TILE_PX, TILE_PX)

    def tile(number: Array) -> _TruthTiles:
        direction, length = _rays(scene, number, jnp.zeros((1, 2), jnp.float32))
        origin = _components(scene.position)
        hit, row, _ = nearest(
            scene.solids, scene.seen[number], scene.seen_count[number], origin, direction
        )
        level = _ground_length(scene.position[2], direction[2])
        row = jnp.where(level < hit, -1, row)
        hit = jnp.minimum(hit, level)
        nothing = hit >= FAR
        points = jnp.stack([o + hit * d for o, d in zip(origin, direction, strict=True)], axis=-1)
        points = jnp.where(nothing[:, None], jnp.nan, points)
        owner = jnp.where(row < 0, 0.0, scene.solids[jnp.maximum(row, 0), COLUMN["owner"]]).astype(
            jnp.uint8
        )
        depth = jnp.where(nothing, jnp.inf, hit / length)
        return _TruthTiles(
            owner=owner.reshape(sides),
            solid=row.reshape(sides),
            depth=depth.reshape(sides),
            points=points.reshape(*sides, 3),
        )

    tiles: _TruthTiles = jax.lax.map(tile, jnp.arange(len(scene.tiles_yx), dtype=jnp.int32))
    return tiles


def _assembled(tiles: Array | np.ndarray, size: tuple[int, int]) -> Array | np.ndarray:
    """Tiles put together into one image, on the device or on the host, where the tiles are."""
    rows, columns = size[0] // TILE_PX, size[1] // TILE_PX
    grid = tiles.reshape(rows, columns, TILE_PX, TILE_PX, *tiles.shape[3:])
    return grid.swapaxes(1, 2).reshape(*size, *tiles.shape[3:])


def _rays(scene: _Packed, tile: Array, offsets_yx: Array) -> tuple[Vector, Array]:
    """Unit rays of a tile (samples × rows × columns, flat), and the ratio of length to depth along
    each."""
    side = jnp.arange(TILE_PX, dtype=jnp.float32)
    top, left = (
        scene.tiles_yx[tile, 0] - scene.centre_yx[0],
        scene.tiles_yx[tile, 1] - scene.centre_yx[1],
    )
    sides = (len(offsets_yx), TILE_PX, TILE_PX)
    y = jnp.broadcast_to((top + side)[None, :, None] + offsets_yx[:, 0, None, None], sides)
    x = jnp.broadcast_to((left + side)[None, None, :] + offsets_yx[:, 1, None, None], sides)
    right, down = x.reshape(-1) / scene.focal_px, y.reshape(-1) / scene.focal_px
    length = jnp.sqrt(right * right + down * down + 1)
    r = scene.rotation
    along_x, along_y, along_z = (
        (right * r[0, k] + down * r[1, k] + r[2, k]) / length for k in range(3)
    )
    return (along_x, along_y, along_z), length


def _see(
    scene: _Packed, tile: Array, direction: Vector, length: Array
) -> tuple[Array, Array, Array]:
    """Light, owner and presence of landmarks along each ray."""
    origin, sun = _components(scene.position), _components(scene.sun.axes[2])
    hit, row, present = nearest(
        scene.solids, scene.seen[tile], scene.seen_count[tile], origin, direction
    )
    level = _ground_length(scene.position[2], direction[2])
    solid = (row >= 0) & (hit <= level)
    hit = jnp.minimum(hit, level)
    nothing = hit >= FAR
    reach = jnp.where(nothing, 1.0, hit)

    def on_surfaces() -> tuple[RGB, Array]:
        return _surface_light(scene, tile, jnp.where(solid, row, -1), reach, direction, nothing)

    def on_none() -> tuple[RGB, Array]:
        dark = jnp.zeros_like(hit)
        return (dark, dark, dark), dark

    light, owner = jax.lax.cond(jnp.all(nothing), on_none, on_surfaces)
    haze = 1 - jnp.exp(-reach / scene.haze)
    horizon = scene.sky[3:6]
    hazy = tuple(light[c] + (horizon[c] - light[c]) * haze for c in range(3))
    sky = sky_colour(direction, sun, scene.sky, seen=jnp.any(nothing))
    seen = [jnp.where(nothing, s, h) for s, h in zip(sky, hazy, strict=True)]
    return jnp.stack(seen, axis=-1), owner, present


def _surface_light(
    scene: _Packed, tile: Array, row: Array, reach: Array, direction: Vector, nothing: Array
) -> tuple[RGB, Array]:
    """Light from what each ray meets, and its owner.

    Args:
        scene: the scene.
        tile: number of the tile.
        row: row of the solid in the table; −1 for the ground.
        reach: length of each ray.
        direction: unit direction of each ray.
        nothing: rays that meet neither a solid nor the ground; their result is meaningless.
    """
    sun = _components(scene.sun.axes[2])
    x, y, z = (o + reach * d for o, d in zip(_components(scene.position), direction, strict=True))
    solid = row >= 0
    rows = scene.solids[jnp.maximum(row, 0)]
    surface = surface_at(rows, (x, y, z), direction)
    nx, ny, nz = surface.normal
    nx, ny, nz = jnp.where(solid, nx, 0.0), jnp.where(solid, ny, 0.0), jnp.where(solid, nz, 1.0)
    facing = jnp.abs(nx * direction[0] + ny * direction[1] + nz * direction[2])
    # A pixel covers more of a surface that is seen at a slant. Textures fade by the geometric mean
    # of its two extents.
    footprint = reach / scene.focal_px / jnp.sqrt(jnp.maximum(facing, 0.02))
    shading = shade(rows, surface, footprint, sun, scene.darkness)
    level = ground_albedo(x, y, footprint, scene.ground, seen=~jnp.all(solid))
    lifted = (x + _LIFT_M * nx, y + _LIFT_M * ny, z + _LIFT_M * nz)
    towards = nx * sun[0] + ny * sun[1] + nz * sun[2]
    asked = (towards > 0) & ~nothing
    dark = shadowed(
        scene.solids, scene.casting[tile], scene.casting_count[tile], lifted, scene.sun, asked=asked
    )
    direct = jnp.maximum(towards, 0.0) * (1 - dark.astype(jnp.float32))
    # Surfaces that face down or lie near the ground see less of the sky, and the ground reflects a
    # little light back.
    open_sky = (0.55 + 0.45 * nz) * (0.6 + 0.4 * jnp.clip(z / 1.5, 0.0, 1.0))
    back = jnp.maximum(0.5 - 0.5 * nz, 0.0) * 0.12
    mirror = jnp.where(solid, shading.mirror, 0.0) * (0.25 + 0.75 * (1 - facing) ** 3)
    light = []
    for c in range(3):
        albedo = jnp.where(solid, shading.albedo[c], level[c])
        incoming = scene.sunlight[c] * (direct + back) + scene.skylight[c] * open_sky
        light.append(albedo * incoming * (1 - mirror) + jnp.where(solid, shading.glow[c], 0.0))

    mirrors = jnp.any(mirror > 0.01)

    def with_mirrors() -> RGB:
        towards = 2 * (nx * direction[0] + ny * direction[1] + nz * direction[2])
        up = jnp.abs(direction[2] - towards * nz)
        sky = sky_colour(
            (direction[0] - towards * nx, direction[1] - towards * ny, up),
            sun,
            scene.sky,
            seen=mirrors,
        )
        return light[0] + sky[0] * mirror, light[1] + sky[1] * mirror, light[2] + sky[2] * mirror

    lit: RGB = jax.lax.cond(mirrors, with_mirrors, lambda: (light[0], light[1], light[2]))
    return lit, jnp.where(solid, rows[:, COLUMN["owner"]], 0.0)


def _ground_length(height: Array, down: Array) -> Array:
    length = -height / jnp.where(jnp.abs(down) < 1e-6, -1e-6, down)
    # The ground ends where the hills begin.
    return jnp.where((down < -1e-6) & (length < 4000.0), length, FAR)


def _develop(tiles: Array, film: Array, noise_seed: Array, *, size: tuple[int, int]) -> Array:
    """Light to an image: exposure, colour cast, blur, vignette, tone curve and noise."""
    light = jnp.asarray(_assembled(tiles, size))
    exposure, white, blur, motion = film[0], film[1:4], film[4], film[5:7]
    noise, vignette = film[7], film[8]
    rows, columns = light.shape[:2]
    blurred = _blurred(light, blur, motion)
    y = jnp.linspace(-1, 1, rows, dtype=jnp.float32)[:, None]
    x = jnp.linspace(-1, 1, columns, dtype=jnp.float32)[None]
    shaded = (
        blurred * (1 - vignette * 0.5 * (y * y + x * x))[..., None] * (white * exposure)[None, None]
    )
    # A film-like curve, dark in the shadows and soft in the highlights, then about the gamma of
    # sRGB.
    toned = shaded * (2.51 * shaded + 0.03) / (shaded * (2.43 * shaded + 0.59) + 0.14)
    encoded = jnp.clip(toned, 0.0, 1.0) ** (1 / 2.2)
    grain = jax.random.normal(jax.random.key(noise_seed), encoded.shape, jnp.float32)
    levels = 255 * encoded + noise * grain
    return jnp.clip(jnp.round(levels), 0, 255).astype(jnp.uint8)


_PHOTOGRAPH = StoredProgram(_photograph, settings={"program": "photograph"})
_TRUTH = StoredProgram(_truth, settings={"program": "truth"})


@cache
def _film(size: tuple[int, int]) -> StoredProgram[Array]:
    return StoredProgram(
        partial(_develop, size=size), settings={"program": "develop", "size": size}
    )


def _blurred(light: Array, sigma: Array, motion_yx: Array) -> Array:
    """``light`` blurred by a Gaussian and along a movement: separable passes, then the mean of
    shifts."""
    offsets = jnp.arange(-_BLUR_REACH, _BLUR_REACH + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 0.05)) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        padding = [(_BLUR_REACH, _BLUR_REACH) if axis == a else (0, 0) for a in range(3)]
        padded = jnp.pad(light, padding, mode="edge")
        count = light.shape[axis]
        parts = [
            jax.lax.slice_in_dim(padded, k, k + count, axis=axis) * weights[k]
            for k in range(len(offsets))
        ]
        light = sum(parts[1:], parts[0])

    def shaken() -> Array:
        rows, columns = light.shape[:2]
        y, x = jnp.mgrid[0:rows, 0:columns].astype(jnp.float32)

        def add(total: Array, share: Array) -> tuple[Array, None]:
            at = [
                jnp.clip(y + share * motion_yx[0], 0, rows - 1),
                jnp.clip(x + share * motion_yx[1], 0, columns - 1),
            ]
            shift = partial(jax.scipy.ndimage.map_coordinates, coordinates=at, order=1)
            return total + jax.vmap(shift, in_axes=-1, out_axes=-1)(light) / 5, None

        total: Array = jax.lax.scan(
            add, jnp.zeros_like(light), jnp.linspace(-0.5, 0.5, 5, dtype=jnp.float32)
        )[0]
        return total

    moved: Array = jax.lax.cond(jnp.abs(motion_yx).sum() > 0, shaken, lambda: light)
    return moved


def _components(vector: Array) -> Vector:
    return vector[0], vector[1], vector[2]
