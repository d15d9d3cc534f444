"""CONGAS-like local features: extrema of the Laplacian of Gaussian, described by the amplitudes of
Gabor wavelets.

The parameters of CONGAS were never published; :class:`~delfjax.config.CongasConfig` says which ours
are. One program finds the blobs of one octave, on whatever canvas of a fixed set it lies, and one
for each canvas of an image describes the best of all octaves.

Source: US patent 8,098,938; Zheng et al. 2009, "Tour the world"; :mod:`delfjax.ops.blobs`,
    :mod:`delfjax.ops.regions` and :mod:`delfjax.ops.gabor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int, UInt8

from delfjax.config import CongasConfig, DelfConfig, to_dict
from delfjax.datasets.images import DecodedImage
from delfjax.features.batching import BATCHED, BatchExtractor, BatchFeatures
from delfjax.ops import blobs, gabor, pyramid, regions
from delfjax.ops.blobs import Blobs, Octave, ScaleSpace
from delfjax.ops.half_pixel import to_original_px
from delfjax.ops.pyramid import Size
from delfjax.ops.regions import Stack
from delfjax.types import LocalFeatures, storable

# Extractors that stay loaded.
_LOADED = 4
# Blur of the image that a keypoint is described on, of its own scale: as sharp as the samples of
# its region are dense.
_BLUR_SHARE = 0.5
# A second direction of a region counts from this share of the density of the first on. Source: Lowe
# 2004.
_SECOND_DIRECTION = 0.8
# Half the side of the region that the direction is taken from, in scales of the keypoint, and
# samples along its side. Source: Lowe 2004, a window of 1.5 scales, three of them to each side.
_DIRECTION_RADIUS, _DIRECTION_SAMPLES = 4.5, 20
# The last octave of an image has a canvas whose longer side, without the margin of the smallest
# canvas, has fewer pixels than this.
_LAST_SIDE = 64
# Weights of red, green and blue. Source: ITU-R BT.601.
_GREY = (0.299, 0.587, 0.114)


@storable
@dataclass(frozen=True)
class OctaveFeatures:
    """What one octave of an image holds, or of each of a batch.

    Attributes:
        blobs: its blobs, in its pixels.
        images: the images that they are described on, one for each level.
        extent: rows and columns of each image.
        following: the next octave.
    """

    blobs: Blobs
    images: Float[jax.Array, "*b levels h w"]
    extent: Int[jax.Array, "*b 2"]
    following: Octave


class CongasExtractor(BatchExtractor):
    """The compiled programs of CONGAS.

    Descriptors are L2-normalised but not reduced. The scale of a keypoint is the factor that makes
    it as large as the smallest that can be found.
    """

    def __init__(self, config: DelfConfig, *, devices: Sequence[jax.Device] | None = None) -> None:
        """Set up the devices; nothing is compiled before the first batch.

        Args:
            config: only the sections ``congas`` and ``features`` matter.
            devices: all devices of this process by default.
        """
        features, settings = config.features, config.congas
        super().__init__(
            max_side=features.max_side, batch_size=features.batch_size, devices=devices
        )
        self.config = config
        plain = {"count": features.max_features, **to_dict(settings)}
        shapes = pyramid.canvases(features.max_side, [1.0])
        self._first = self._program(
            partial(_first, settings), (BATCHED, BATCHED), {"program": "first octave", **plain}
        )
        self._octave = {
            shape: self._program(
                partial(_octave, settings, features.max_features, self._half(shape)),
                (BATCHED,),
                {"program": "octave", "next": self._half(shape), **plain},
            )
            for shape in shapes
        }
        self._described = self._program(
            partial(_described, settings, features.max_features),
            (BATCHED, BATCHED),
            {"program": "congas", **plain},
        )

    @property
    def extraction(self) -> dict[str, Any]:
        """The plain values that determine the features."""
        return self.config.extraction()

    def canvas(self, height: int, width: int) -> tuple[Size, ...]:
        """The canvas of an image; images with equal canvases can share a batch.

        Args:
            height: rows of the image, pixels.
            width: columns of the image, pixels.
        """
        return (pyramid.canvas_for((height, width), float(self.max_side)),)

    def _half(self, canvas: Size) -> Size:
        """Canvas of the octave after one on ``canvas``."""
        height, width = ((side + 1) // 2 for side in canvas)
        return pyramid.canvas_for((height, width), float(self.max_side))

    def _compute(self, images: Sequence[DecodedImage], shapes: Sequence[Size]) -> BatchFeatures:
        (shape,) = shapes
        pixels = pyramid.place([image.pixels for image in images], shape, self.batch_size)
        sizes = self._padded(np.array([image.pixels.shape[:2] for image in images], np.int32))
        originals = self._padded(np.array([image.original_size for image in images], np.int32))
        octave = self._first(self._put(pixels), sizes)
        found: list[OctaveFeatures] = []
        side = max(shape)
        while True:
            found.append(self._octave[shape](octave))
            octave, shape, side = found[-1].following, self._half(shape), (side + 1) // 2
            if side < _LAST_SIDE // 2:
                break
        return self._described(tuple(found), originals)


def load_congas(config: DelfConfig) -> CongasExtractor:
    """The extractor of ``config``; a process loads it once.

    Args:
        config: only the sections ``congas`` and ``features`` matter.
    """
    return _loaded(DelfConfig(features=config.features, congas=config.congas))


@lru_cache(maxsize=_LOADED)
def _loaded(config: DelfConfig) -> CongasExtractor:
    return CongasExtractor(config)


def _space(settings: CongasConfig) -> ScaleSpace:
    return ScaleSpace(settings.sigma, settings.scales_per_octave)


def _first(
    settings: CongasConfig, pixels: UInt8[jax.Array, "b h w 3"], sizes: Int[jax.Array, "b 2"]
) -> Octave:
    """The first octave of images on their canvases."""
    grey = pixels.astype(jnp.float32) @ jnp.asarray(_GREY, jnp.float32) / 255.0
    found: Octave = jax.vmap(partial(blobs.first_octave, space=_space(settings)))(grey, sizes)
    return found


def _octave(settings: CongasConfig, count: int, following: Size, octave: Octave) -> OctaveFeatures:
    """The blobs of one octave, and the octave after it on the canvas ``following``."""
    space = _space(settings)

    def one(octave: Octave) -> OctaveFeatures:
        found = blobs.find_blobs(
            blobs.responses(octave, space),
            octave.extent,
            space=space,
            contrast=settings.contrast,
            edge_ratio=settings.edge_ratio,
            count=count,
        )
        sharp = [blobs.blurred(octave, space, _BLUR_SHARE * sigma) for sigma in space.scales[1:-1]]
        return OctaveFeatures(
            found, jnp.stack(sharp), octave.extent, blobs.next_octave(octave, space, following)
        )

    computed: OctaveFeatures = jax.vmap(one)(octave)
    return computed


def _described(
    settings: CongasConfig,
    count: int,
    octaves: tuple[OctaveFeatures, ...],
    originals: Int[jax.Array, "b 2"],
) -> BatchFeatures:
    """The features of images, given their octaves and the sizes of the original images."""
    kernels = gabor.wavelets(
        settings.samples,
        wavelengths=settings.wavelengths,
        places=settings.places,
        directions=settings.directions,
        envelope=settings.envelope,
    )
    local = jax.vmap(partial(_features, settings, count, kernels))(octaves, originals)
    return BatchFeatures(local, jnp.zeros((len(originals), 0), jnp.float32))


def _features(
    settings: CongasConfig,
    count: int,
    kernels: Complex[np.ndarray, "k s s"],
    octaves: tuple[OctaveFeatures, ...],
    original: Int[jax.Array, " 2"],
) -> LocalFeatures:
    """The strongest keypoints of all octaves of one image, described."""
    parts = [octave.blobs for octave in octaves]
    found: Blobs = jax.tree.map(lambda *fields: jnp.concatenate(fields), *parts)
    strength, order = jax.lax.top_k(found.strength, count)
    found = jax.tree.map(lambda field: field[order], found)
    octave = order // parts[0].strength.shape[0]
    stack, image = _stack(octaves), octave * settings.scales_per_octave + found.level
    upright = regions.sample_regions(
        stack,
        image,
        found.at_yx,
        spacing=found.sigma * (2 * _DIRECTION_RADIUS / _DIRECTION_SAMPLES),
        direction=jnp.zeros_like(found.sigma),
        samples=_DIRECTION_SAMPLES,
    )
    angles, held = regions.directions(upright, share=_SECOND_DIRECTION)
    best, slot = jax.lax.top_k(jnp.where(held, strength[:, None], 0.0).reshape(-1), count)
    point, angle = slot // 2, angles.reshape(-1)[slot]
    region = regions.sample_regions(
        stack,
        image[point],
        found.at_yx[point],
        spacing=found.sigma[point] * (2 * settings.radius / settings.samples),
        direction=angle,
        samples=settings.samples,
    )
    descriptors = gabor.amplitudes(region, kernels, power=settings.power)
    valid = best > 0
    enlarged = 2.0 ** octave[point].astype(jnp.float32)
    factor = octaves[0].extent.astype(jnp.float32) / original.astype(jnp.float32)
    return LocalFeatures(
        keypoints_yx=to_original_px(found.at_yx[point] * enlarged[:, None], factor[None]),
        scales=settings.sigma / (found.sigma[point] * enlarged),
        scores=jnp.where(valid, best, 0.0),
        descriptors=jnp.where(valid[:, None], descriptors, 0.0),
        valid=valid,
        orientations=angle,
    )


def _stack(octaves: Sequence[OctaveFeatures]) -> Stack:
    """The images that keypoints are described on, by octave and level."""
    shapes = [octave.images.shape for octave in octaves for _ in range(octave.images.shape[0])]
    lengths = [height * width for _, height, width in shapes]
    levels = octaves[0].images.shape[0]
    return Stack(
        pixels=jnp.concatenate([octave.images.reshape(-1) for octave in octaves]),
        start=jnp.asarray(np.cumsum([0, *lengths[:-1]]), jnp.int32),
        width=jnp.asarray([width for *_, width in shapes], jnp.int32),
        extent=jnp.repeat(jnp.stack([octave.extent for octave in octaves]), levels, axis=0),
    )
