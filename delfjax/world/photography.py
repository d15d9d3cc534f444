"""How a photograph comes about: a place, a time, a camera, and what happens to stand in the way.

Everything is drawn from one generator for each photograph, so that any of them can be made again
alone. The landmark stands at the origin; the camera is to its south, give or take the spread of
viewpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from delfjax.rng import named_generator
from delfjax.world import surroundings
from delfjax.world.architecture import Landmark
from delfjax.world.knobs import WorldConfig
from delfjax.world.rendering import MAX_SOLIDS, Camera, Film, Ground, Light, Scene, look_at
from delfjax.world.solids import Solid, placed

# Share of the picture's height that a landmark takes when the spread of the scale is 0.
_NOMINAL_SHARE = 0.72
# Limits of the octaves by which that share is changed at scale 1: from 0.3 to 2.2 times.
_OCTAVES = (-1.75, 1.15)
# Angle of view of the short side of a normal lens, radians.
_FIELD_OF_VIEW = math.radians(40)
_EYE_M = 1.65
# Standard deviations at full spread.
_VIEWPOINT_RAD, _TILT_RAD = math.radians(55), math.radians(12)
# Nobody photographs a landmark from its back.
_WIDEST_RAD = math.radians(85)
_GROUNDS: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((0.34, 0.31, 0.27), 1.2),
    ((0.26, 0.25, 0.24), 0.6),
    ((0.42, 0.36, 0.28), 2.0),
    ((0.40, 0.34, 0.24), 0.0),
    ((0.14, 0.20, 0.06), 0.0),
)


@dataclass(frozen=True)
class Site:
    """Where a landmark stands.

    Attributes:
        landmark: the landmark itself; ``None`` for a street without one.
        neighbour: another landmark that stands beside it, placed in the frame of the first.
        facing: compass direction that the landmark faces, radians clockwise from north.
        number: of the site, for what is drawn once for all its photographs.
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
        scene: what is seen, and how.
        hour: local time of day.
        azimuth_rad: direction of the camera from the front of the landmark, to the east positive.
        distance_m: to the landmark.
        height_share: height or breadth of the landmark as a share of the picture's height.
        roll_rad: tilt of the camera.
        quality: of the JPEG.
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
        site: where.
        config: how hard it is.
        rng: decides everything that the site leaves open.
    """
    radius, height = (site.landmark.radius, site.landmark.height) if site.landmark else (9.0, 12.0)
    upright = rng.uniform() < (0.6 if height > 1.8 * radius else 0.15)
    short = config.image_side * 3 // 4
    size = (config.image_side, short) if upright else (short, config.image_side)
    azimuth = float(
        np.clip(rng.normal(0, _VIEWPOINT_RAD * config.viewpoint), -_WIDEST_RAD, _WIDEST_RAD)
    )
    share = _NOMINAL_SHARE * 2 ** (config.scale * rng.uniform(*_OCTAVES))
    # What has to fit: the height, or the breadth of a broad one.
    extent = max(height, 1.5 * radius * size[0] / size[1])
    focal = short / 2 / math.tan(_FIELD_OF_VIEW / 2)
    distance = focal * extent / (share * size[0])
    nearest = radius + 4.0
    if distance < nearest:
        focal, distance = focal * nearest / distance, nearest
    raised = rng.uniform(2.0, 0.6 * height) if rng.uniform() < 0.2 else _EYE_M
    position = (distance * math.sin(azimuth), -distance * math.cos(azimuth), float(raised))
    target = _target(rng, config, radius=radius, height=height, share=share)
    roll = float(rng.normal(0, _TILT_RAD * config.tilt))
    camera = look_at(position, target, roll=roll, focal_px=focal, size=size)
    hour, light = _light(rng, config, facing=site.facing)
    ground_rng = named_generator(config.seed, f"site {site.number} ground")
    near, slab = _GROUNDS[int(ground_rng.integers(len(_GROUNDS)))]
    far, _ = _GROUNDS[int(ground_rng.integers(len(_GROUNDS)))]
    ground = Ground(
        near, far, slab, radius + float(ground_rng.uniform(6, 25)), int(ground_rng.integers(60_000))
    )
    solids = _contents(site, camera, config, rng, radius=radius)
    film, quality = _film(rng, config, light)
    scene = Scene(tuple(solids), camera, light, ground, film)
    return Shot(scene, hour, azimuth, distance, share, roll, quality)


def landmark_solids(site: Site) -> list[Solid]:
    """The landmarks of a site: owner 1, and owner 2 for its neighbour."""
    solids = placed(site.landmark.solids, owner=1) if site.landmark else []
    if site.neighbour:
        solids += placed(site.neighbour.solids, at=(*site.neighbour_at, 0.0), owner=2)
    return solids


def _target(
    rng: np.random.Generator, config: WorldConfig, *, radius: float, height: float, share: float
) -> tuple[float, float, float]:
    """What the camera looks at: the middle of the landmark; a part of it from near; beside it when
    badly framed."""
    detail = min(max(share - 0.6, 0.0), 1.0)
    stray = config.framing * (0.35 + 0.9 * max(0.5 - share, 0.0))
    across = rng.uniform(-1, 1) * radius * (0.6 * detail + stray)
    up = height * (0.45 + rng.uniform(-0.4, 0.4) * (detail + 0.4 * stray))
    return float(across), 0.0, float(max(up, 1.0))


def _contents(
    site: Site, camera: Camera, config: WorldConfig, rng: np.random.Generator, *, radius: float
) -> list[Solid]:
    """Landmarks, surroundings and whatever stands in the way, the most important first."""
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
            angle, away = rng.uniform(-0.25, 1.25) * math.pi, radius + rng.uniform(3, 18)
            at = (away * math.cos(angle), away * math.sin(angle), 0.0)
            groups.append(placed(make(rng), at=at, yaw=rng.uniform(0, 2 * math.pi)))
    # None of these may stand on a neighbour or between the camera and the landmark.
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
    """Whether a group stands neither on a landmark nor in the line of sight to the first."""
    x, y = np.mean([s.base[:2] for s in group], axis=0)
    size = max(max(s.half) for s in group)
    if any(math.hypot(x - cx, y - cy) < r + size for cx, cy, r in keep_off):
        return False
    cx, cy = float(camera.position[0]), float(camera.position[1])
    length = math.hypot(cx, cy)
    # Position along the line from the landmark to the camera, and distance from it.
    along = (x * cx + y * cy) / length
    aside = abs(x * cy - y * cx) / length
    between = 0 < along < length + size + 3
    return not (between and aside < size + 1.0 + 0.12 * (length - along))


def _in_the_way(
    camera: Camera, config: WorldConfig, rng: np.random.Generator, *, radius: float
) -> list[list[Solid]]:
    """People, vehicles, trees and boughs between the camera and the landmark, where the camera sees
    them."""
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
    """Hour, sun, sky and haze."""
    night = rng.uniform() < 0.14 * config.weather
    spread = 1.5 + 5.3 * config.weather
    hour = (
        float(rng.uniform(20.5, 23.0))
        if night
        else float(np.clip(13 + rng.uniform(-spread, spread), 6.6, 19.6))
    )
    elevation = (
        math.radians(58) * math.sin(math.pi * (hour - 6) / 14) if not night else math.radians(35)
    )
    azimuth = math.radians(90 + (hour - 6) * 13) - facing + math.pi
    sun = (
        math.cos(elevation) * math.sin(azimuth),
        math.cos(elevation) * math.cos(azimuth),
        math.sin(elevation),
    )
    clouds = float(rng.uniform(0.05, 0.3 + 0.65 * config.weather))
    overcast = min(max((clouds - 0.55) / 0.4, 0.0), 1.0)
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
    """What camera and file format do to the light, and the quality of the JPEG."""
    hard = config.film
    bright = float(np.mean(light.sunlight)) * 0.3 + float(np.mean(light.skylight)) * 0.75
    exposure = (
        0.85 / bright * 2 ** float(rng.normal(0, 0.6 * hard)) * (0.5 if light.darkness else 1.0)
    )
    white = _rgb(1 + 0.14 * hard * rng.normal(size=3))
    soft = rng.uniform() < 0.2 * hard
    blur = float(rng.uniform(1.0, 1.8) if soft else rng.uniform(0.35, 0.7))
    motion = (0.0, 0.0)
    if rng.uniform() < 0.16 * hard:
        length, angle = rng.uniform(2, 5), rng.uniform(0, math.pi)
        motion = (float(length * math.sin(angle)), float(length * math.cos(angle)))
    noise = float(rng.uniform(0.5, 1.0 + 6 * hard) + (4 if light.darkness else 0))
    quality = int(rng.integers(round(92 - 45 * hard), 94))
    return (
        Film(
            exposure,
            white,
            blur,
            motion,
            noise,
            float(rng.uniform(0, 0.35)),
            int(rng.integers(2**31)),
        ),
        quality,
    )


def _rgb(colour: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(channel) for channel in colour)
    return red, green, blue
