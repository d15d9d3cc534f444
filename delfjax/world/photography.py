"""How a photograph comes about: a place, a time, a camera, and what happens to stand in the way.

Each photograph draws everything from a generator of its own, so that it can be made again without
the others. The landmark stands at the origin; the camera is south of it, within the spread of the
viewpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from delfjax.rng import named_generator
from delfjax.world import surroundings
from delfjax.world.architecture.grammar import Landmark
from delfjax.world.knobs import WorldConfig
from delfjax.world.scene import MAX_SOLIDS, Camera, Film, Ground, Light, Scene, look_at
from delfjax.world.solids import Solid, placed

# Share of the picture's height that a landmark takes at scale 0.
_NOMINAL_SHARE = 0.72
# Octaves by which that share varies at scale 1: a factor of 0.3 to 2.2.
_OCTAVES = (-1.75, 1.15)
# Angle of view of a normal lens along the short side of the picture, radians.
_FIELD_OF_VIEW = math.radians(40)
# Height of a camera held at eye level.
_EYE_M = 1.65
# Standard deviations at viewpoint 1 and at tilt 1.
_VIEWPOINT_RAD = math.radians(55)
_TILT_RAD = math.radians(12)
# Nobody photographs a landmark from behind.
_WIDEST_RAD = math.radians(85)
# Linear RGB of the ground, and the size of its slabs in metres (0 for none).
_GROUNDS: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((0.34, 0.31, 0.27), 1.2),
    ((0.26, 0.25, 0.24), 0.6),
    ((0.42, 0.36, 0.28), 2.0),
    ((0.40, 0.34, 0.24), 0.0),
    ((0.14, 0.20, 0.06), 0.0),
)


@dataclass(frozen=True)
class Site:
    """Where a photograph is taken.

    Attributes:
        landmark: the landmark at the origin; ``None`` for a street without one.
        neighbour: a second landmark beside it; ``None`` for most sites.
        neighbour_at: position of the neighbour in the frame of the landmark, metres.
        facing: compass direction that the landmark faces, radians clockwise from north.
        number: number of the site, which names what all its photographs share.
    """

    landmark: Landmark | None
    neighbour: Landmark | None
    neighbour_at: tuple[float, float]
    facing: float
    number: int


@dataclass(frozen=True)
class Shot:
    """A photograph before it is rendered.

    Attributes:
        scene: what the camera sees, and how.
        hour: local time of day.
        azimuth_rad: direction from the landmark to the camera, measured from the landmark's front,
            positive to the east.
        distance_m: distance from the camera to the landmark.
        height_share: height or breadth of the landmark as a share of the picture's height.
        roll_rad: rotation of the camera about its axis.
        quality: JPEG quality.
    """

    scene: Scene
    hour: float
    azimuth_rad: float
    distance_m: float
    height_share: float
    roll_rad: float
    quality: int


def take_shot(site: Site, config: WorldConfig, rng: np.random.Generator) -> Shot:
    """Choose time, camera and surroundings for a photograph of ``site``.

    Args:
        site: where the photograph is taken.
        config: configuration of the world, with its knobs.
        rng: decides everything that the site leaves open.
    """
    # A street is framed as if a landmark of this size stood in it.
    radius, height = (site.landmark.radius, site.landmark.height) if site.landmark else (9.0, 12.0)
    upright = rng.uniform() < (0.6 if height > 1.8 * radius else 0.15)
    short = config.image_side * 3 // 4
    size = (config.image_side, short) if upright else (short, config.image_side)
    azimuth = float(
        np.clip(rng.normal(0, _VIEWPOINT_RAD * config.viewpoint), -_WIDEST_RAD, _WIDEST_RAD)
    )
    share = _NOMINAL_SHARE * 2 ** (config.scale * rng.uniform(*_OCTAVES))
    # The height has to fit; of a broad landmark, the breadth.
    extent = max(height, 1.5 * radius * size[0] / size[1])
    focal = short / 2 / math.tan(_FIELD_OF_VIEW / 2)
    distance = focal * extent / (share * size[0])
    nearest = radius + 4.0
    if distance < nearest:
        focal = focal * nearest / distance
        distance = nearest
    raised = rng.uniform(2.0, 0.6 * height) if rng.uniform() < 0.2 else _EYE_M
    position = (distance * math.sin(azimuth), -distance * math.cos(azimuth), float(raised))
    target = _target(rng, config, radius=radius, height=height, share=share)
    roll = float(rng.normal(0, _TILT_RAD * config.tilt))
    camera = look_at(position, target, roll=roll, focal_px=focal, size=size)
    hour, light = _light(rng, config, facing=site.facing)
    ground_rng = named_generator(config.seed, f"site {site.number} ground")
    near, slab = _GROUNDS[int(ground_rng.integers(len(_GROUNDS)))]
    far, _ = _GROUNDS[int(ground_rng.integers(len(_GROUNDS)))]
    square_radius = radius + float(ground_rng.uniform(6, 25))
    ground = Ground(near, far, slab, square_radius, int(ground_rng.integers(60_000)))
    solids = _contents(site, camera, config, rng, radius=radius)
    film, quality = _film(rng, config, light)
    scene = Scene(tuple(solids), camera, light, ground, film)
    return Shot(scene, hour, azimuth, distance, share, roll, quality)


def landmark_solids(site: Site) -> list[Solid]:
    """Solids of the landmarks of a site: owner 1 is its landmark, owner 2 the neighbour."""
    solids = placed(site.landmark.solids, owner=1) if site.landmark else []
    if site.neighbour:
        solids += placed(site.neighbour.solids, at=(*site.neighbour_at, 0.0), owner=2)
    return solids


def _target(
    rng: np.random.Generator, config: WorldConfig, *, radius: float, height: float, share: float
) -> tuple[float, float, float]:
    """The point the camera looks at, metres.

    It is the middle of the landmark; in close views a detail of it; in badly framed ones a point
    beside it.
    """
    detail = min(max(share - 0.6, 0.0), 1.0)
    stray = config.framing * (0.35 + 0.9 * max(0.5 - share, 0.0))
    across = rng.uniform(-1, 1) * radius * (0.6 * detail + stray)
    up = height * (0.45 + rng.uniform(-0.4, 0.4) * (detail + 0.4 * stray))
    return float(across), 0.0, float(max(up, 1.0))


def _contents(
    site: Site, camera: Camera, config: WorldConfig, rng: np.random.Generator, *, radius: float
) -> list[Solid]:
    """Solids of the landmarks, of their surroundings, and of what stands in the way.

    At most :data:`~delfjax.world.scene.MAX_SOLIDS`, in this order: the last are left out.
    """
    solids = landmark_solids(site)
    groups: list[list[Solid]] = []
    houses = round(config.clutter * 9) if site.landmark else 9
    for k in range(houses):
        groups.append(surroundings.house_around(rng, k, houses, radius=radius, seed=config.seed))
    scattered: list[tuple[Callable[[np.random.Generator], list[Solid]], float]] = [
        (surroundings.tree, 7 * config.clutter),
        (surroundings.bush, 3 * config.clutter),
        (surroundings.lamp, 1.5 * config.clutter),
    ]
    for make, mean in scattered:
        for _ in range(int(rng.poisson(mean))):
            angle = rng.uniform(-0.25, 1.25) * math.pi
            away = radius + rng.uniform(3, 18)
            at = (away * math.cos(angle), away * math.sin(angle), 0.0)
            groups.append(placed(make(rng), at=at, yaw=rng.uniform(0, 2 * math.pi)))
    # Surroundings may stand neither on a landmark nor between the camera and the landmark.
    keep_off = [(0.0, 0.0, 0.8 * radius)]
    if site.neighbour:
        keep_off.append((*site.neighbour_at, site.neighbour.radius))
    for group in groups:
        if _clear(group, camera, keep_off):
            solids += group
    for group in _in_the_way(camera, config, rng, radius=radius):
        solids += group
    return solids[:MAX_SOLIDS]


def _clear(
    group: Sequence[Solid], camera: Camera, keep_off: Sequence[tuple[float, float, float]]
) -> bool:
    """Whether a group of solids keeps off the landmarks and out of the line of sight.

    Args:
        group: solids of one object.
        camera: the camera, which looks towards the origin.
        keep_off: circles on the ground ``(x, y, radius)``, metres.
    """
    x, y = np.mean([s.base[:2] for s in group], axis=0)
    size = max(max(s.half) for s in group)
    if any(math.hypot(x - cx, y - cy) < r + size for cx, cy, r in keep_off):
        return False
    cx, cy = float(camera.position[0]), float(camera.position[1])
    length = math.hypot(cx, cy)
    # Position along the line from the landmark to the camera, and distance from that line.
    along = (x * cx + y * cy) / length
    aside = abs(x * cy - y * cx) / length
    between = 0 < along < length + size + 3
    return not (between and aside < size + 1.0 + 0.12 * (length - along))


def _in_the_way(
    camera: Camera, config: WorldConfig, rng: np.random.Generator, *, radius: float
) -> list[list[Solid]]:
    """People, vehicles, trees, lamps and boughs in view between the camera and the landmark.

    Returns:
        The solids of each object.
    """
    groups: list[list[Solid]] = []
    forward = camera.rotation[2].copy()
    forward[2] = 0.0
    forward /= np.linalg.norm(forward)
    right = np.array([forward[1], -forward[0], 0.0])
    distance = float(np.hypot(*camera.position[:2]))
    reach = max(distance - radius, 4.0)
    half_width = camera.size[1] / 2 / camera.focal_px
    crowd: list[tuple[Callable[[np.random.Generator], list[Solid]], float, float, float]] = [
        (surroundings.person, 9 * config.occlusion, 3.0, 1.0),
        (surroundings.vehicle, 1.4 * config.occlusion, 7.0, 1.0),
        (surroundings.tree, 1.2 * config.occlusion, 9.0, 0.9),
        (surroundings.lamp, 1.0 * config.occlusion, 5.0, 0.9),
    ]
    for make, mean, near, far in crowd:
        for _ in range(int(rng.poisson(mean))):
            away = rng.uniform(min(near, reach), max(near, far * reach))
            aside = rng.uniform(-1.05, 1.05) * half_width * away
            spot = camera.position + away * forward + aside * right
            groups.append(
                placed(
                    make(rng),
                    at=(float(spot[0]), float(spot[1]), 0.0),
                    yaw=rng.uniform(0, 2 * math.pi),
                )
            )
    if rng.uniform() < 0.4 * config.occlusion:
        side = rng.choice((-1.0, 1.0))
        spot = (
            camera.position
            + 3.2 * camera.rotation[2]
            + side * 3.0 * half_width * camera.rotation[0]
        )
        spot = spot - 3.0 * camera.size[0] / 2 / camera.focal_px * camera.rotation[1]
        groups.append(
            placed(surroundings.bough(rng), at=(float(spot[0]), float(spot[1]), float(spot[2])))
        )
    return groups


def _light(rng: np.random.Generator, config: WorldConfig, *, facing: float) -> tuple[float, Light]:
    """Hour of day, and the sun, sky and haze at that hour.

    Args:
        rng: decides the hour and the weather.
        config: configuration of the world.
        facing: compass direction that the landmark faces, radians clockwise from north.
    """
    night = rng.uniform() < 0.14 * config.weather
    spread = 1.5 + 5.3 * config.weather
    if night:
        hour = float(rng.uniform(20.5, 23.0))
        # The moon's.
        elevation = math.radians(35)
    else:
        hour = float(np.clip(13 + rng.uniform(-spread, spread), 6.6, 19.6))
        elevation = math.radians(58) * math.sin(math.pi * (hour - 6) / 14)
    azimuth = math.radians(90 + (hour - 6) * 13) - facing + math.pi
    sun = (
        math.cos(elevation) * math.sin(azimuth),
        math.cos(elevation) * math.cos(azimuth),
        math.sin(elevation),
    )
    clouds = float(rng.uniform(0.05, 0.3 + 0.65 * config.weather))
    overcast = min(max((clouds - 0.55) / 0.4, 0.0), 1.0)
    # Close to 1 while the sun is low.
    low = math.exp(-math.degrees(elevation) / 9)
    warm = np.array([1.0, 1.0 - 0.38 * low, 1.0 - 0.72 * low])
    sunlight = 2.6 * (1 - 0.92 * overcast) * (1 - 0.55 * low) * warm
    skylight = np.array([0.66, 0.72, 0.86]) * (0.6 - 0.15 * low) * (
        1 - overcast
    ) + 0.95 * overcast * np.ones(3)
    zenith = np.array([0.10, 0.24, 0.62]) * (1 - 0.5 * low) * (1 - overcast) + 0.62 * overcast
    horizon = (np.array([0.62, 0.74, 0.92]) * (1 - low) + np.array([1.0, 0.55, 0.28]) * low) * (
        1 - overcast
    ) + 0.78 * overcast
    if night:
        sunlight, skylight = np.array([0.035, 0.045, 0.07]), np.array([0.16, 0.14, 0.15])
        zenith, horizon = np.array([0.004, 0.008, 0.03]), np.array([0.05, 0.045, 0.06])
    foggy = rng.uniform() < 0.16 * config.weather
    visibility = float(rng.uniform(60, 160) if foggy else rng.uniform(900, 4000))
    hills = 0.55 * horizon + 0.2 * np.array([0.12, 0.18, 0.14]) * (0.1 if night else 1.0)
    halo = 0.0 if night else float((1 - overcast) * (0.25 + low))
    direct, diffuse, above, low_down, distance = (
        _rgb(c) for c in (sunlight, skylight, zenith, horizon, hills)
    )
    seed = int(rng.integers(60_000))
    return hour, Light(
        sun,
        direct,
        diffuse,
        above,
        low_down,
        distance,
        clouds,
        halo,
        visibility,
        darkness=float(night),
        seed=seed,
    )


def _film(rng: np.random.Generator, config: WorldConfig, light: Light) -> tuple[Film, int]:
    """What the camera does to the light, and the JPEG quality."""
    hard = config.film
    bright = float(np.mean(light.sunlight)) * 0.3 + float(np.mean(light.skylight)) * 0.75
    exposure = 0.85 / bright * 2 ** float(rng.normal(0, 0.6 * hard))
    if light.darkness:
        exposure *= 0.5
    white = _rgb(1 + 0.14 * hard * rng.normal(size=3))
    soft = rng.uniform() < 0.2 * hard
    blur = float(rng.uniform(1.0, 1.8) if soft else rng.uniform(0.35, 0.7))
    motion = (0.0, 0.0)
    if rng.uniform() < 0.16 * hard:
        length = rng.uniform(2, 5)
        angle = rng.uniform(0, math.pi)
        motion = (float(length * math.sin(angle)), float(length * math.cos(angle)))
    noise = float(rng.uniform(0.5, 1.0 + 6 * hard) + (4 if light.darkness else 0))
    quality = int(rng.integers(round(92 - 45 * hard), 94))
    vignette = float(rng.uniform(0, 0.35))
    film = Film(exposure, white, blur, motion, noise, vignette, int(rng.integers(2**31)))
    return film, quality


def _rgb(colour: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(channel) for channel in colour)
    return red, green, blue
