"""What a photograph is rendered from: a camera, its film, the light, the ground and the solids.

Frames: the world has x to the east, y to the north and z up, in metres. The camera looks along its
third axis; its first axis points to the right of the image and its second down. Pixels are
``(y, x)`` with centres at integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from delfjax.world.solids import Solid

# Side of a tile, pixels; the sides of an image are multiples of it.
TILE_PX = 32
# Most solids in a scene; fixed, so that one program serves all scenes.
MAX_SOLIDS = 320


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: in the world, metres.
        rotation: the camera's axes (right, down, forward) in the world, as rows.
        focal_px: focal length, pixels.
        size: rows and columns of the image, pixels.
    """

    position: Float[np.ndarray, 3]
    rotation: Float[np.ndarray, "3 3"]
    focal_px: float
    size: tuple[int, int]

    def project(
        self, points: Float[np.ndarray, "*n 3"]
    ) -> tuple[Float[np.ndarray, "*n 2"], Float[np.ndarray, "*n"]]:
        """Project points of the world, metres.

        Returns:
            ``(y, x)`` in pixels, and depth along the optical axis in metres, negative behind the
            camera.
        """
        seen = (points - self.position) @ self.rotation.T
        depth = seen[..., 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        centre = (np.array(self.size) - 1) / 2
        return seen[..., 1::-1] / safe[..., None] * self.focal_px + centre, depth


@dataclass(frozen=True)
class Light:
    """Time of day and weather. Colours are linear RGB.

    Attributes:
        sun: unit vector towards the sun, or at night towards the moon.
        sunlight: colour and strength of its light.
        skylight: colour and strength of the light from the whole sky.
        zenith: colour of the sky overhead.
        horizon: colour of the sky near the horizon, and of the haze.
        hills: colour of the hills and roofs on the horizon.
        clouds: share of the sky that is clouded.
        halo: strength of the glow around the sun.
        visibility_m: distance at which 63 % of the light is scattered away.
        darkness: 0 by day, 1 at night.
        seed: seed of the clouds and the horizon.
    """

    sun: tuple[float, float, float]
    sunlight: tuple[float, float, float]
    skylight: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    hills: tuple[float, float, float]
    clouds: float
    halo: float
    visibility_m: float
    darkness: float
    seed: int


@dataclass(frozen=True)
class Ground:
    """The square in front of a landmark, and the land around it.

    Attributes:
        near: colour of the square, linear RGB.
        far: colour of the land, linear RGB.
        slab_m: size of the slabs of the square; 0 for no slabs.
        radius_m: radius of the square about the landmark.
        seed: seed of the pattern.
    """

    near: tuple[float, float, float]
    far: tuple[float, float, float]
    slab_m: float
    radius_m: float
    seed: int


@dataclass(frozen=True)
class Film:
    """How the camera turns light into an image.

    Attributes:
        exposure: factor applied to the light.
        white: factor of each channel, a colour cast.
        blur_px: standard deviation of the defocus, pixels.
        motion_yx_px: movement during the exposure, pixels.
        noise: standard deviation of the noise, grey levels out of 255.
        vignette: strength of the darkening towards the corners, from 0 to 1.
        seed: seed of the noise.
    """

    exposure: float = 1.0
    white: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur_px: float = 0.0
    motion_yx_px: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.0
    vignette: float = 0.15
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """Everything that decides a photograph: its content, its light and its camera."""

    solids: tuple[Solid, ...]
    camera: Camera
    light: Light
    ground: Ground
    film: Film


def look_at(
    position: tuple[float, float, float],
    target: tuple[float, float, float],
    *,
    roll: float,
    focal_px: float,
    size: tuple[int, int],
) -> Camera:
    """A camera at ``position`` that looks at ``target``.

    Args:
        position: metres.
        target: metres.
        roll: clockwise rotation of the camera about its optical axis, radians.
        focal_px: focal length, pixels.
        size: rows and columns of the image, pixels.
    """
    forward = np.array(target) - np.array(position)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right = right / np.linalg.norm(right)
    down = np.cross(forward, right)
    cosine, sine = math.cos(roll), math.sin(roll)
    rotation = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
    return Camera(np.array(position, np.float64), rotation, focal_px, size)
