"""Receptive field of a stack of convolutions and poolings, composed from the layers and never
copied from a table.

Along one axis a layer is a window: ``kernel`` taps, ``stride``, and ``pad`` zeros before the first
pixel. Two variants of one network can differ (291/16 for the He et al. ResNet50 at conv4, 267/16
for the v1.5 layout), which is why it is derived.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from delfjax.types import Array


@dataclass(frozen=True)
class Window:
    """One layer along one axis: window length, stride, and zeros padded before the first pixel."""

    kernel: int
    stride: int = 1
    pad: int = 0

    @classmethod
    def centred(cls, kernel: int, stride: int = 1) -> Window:
        """A window of odd length with as many zeros before as after."""
        return cls(kernel, stride, (kernel - 1) // 2)


@dataclass(frozen=True)
class ReceptiveField:
    """What a cell of the feature map sees of the network's input.

    Attributes:
        size: side of the square of input pixels that can influence a cell.
        stride: input pixels between neighbouring cells.
        offset: input coordinate of the centre of cell 0's field (pixel centres at integers).
    """

    size: int
    stride: int
    offset: float


def compose(windows: Iterable[Window]) -> ReceptiveField:
    """Receptive field of layers applied one after the other, first layer first."""
    size, stride, offset = 1, 1, 0.0
    for window in windows:
        size += (window.kernel - 1) * stride
        offset += ((window.kernel - 1) / 2 - window.pad) * stride
        stride *= window.stride
    return ReceptiveField(size, stride, offset)


def centres_px(field: ReceptiveField, cells_yx: Int[Array, "*n 2"]) -> Float[jax.Array, "*n 2"]:
    """Centres of the receptive fields of ``cells_yx``, in pixels of the network's input, ``(y,
    x)``."""
    centres: jax.Array = jnp.asarray(cells_yx, jnp.float32) * jnp.float32(
        field.stride
    ) + jnp.float32(field.offset)
    return centres


def to_original_px(
    points_yx: Float[Array, "*n 2"], factors_yx: Float[Array, "#*n 2"]
) -> Float[jax.Array, "*n 2"]:
    """Coordinates before a resize by ``factors_yx``, from coordinates after it (pixel centres at
    integers)."""
    original: jax.Array = (jnp.asarray(points_yx) + jnp.float32(0.5)) / factors_yx - jnp.float32(
        0.5
    )
    return original


def boxes_px(
    field: ReceptiveField, centres_yx: Float[Array, "*n 2"], scales: Float[Array, "*n"]
) -> Float[jax.Array, "*n 4"]:
    """Receptive boxes ``(y0, x0, y1, x1)`` in pixels of the original image, edges included.

    Args:
        field: receptive field at scale 1.
        centres_yx: centres in pixels of the original image.
        scales: image scale of each feature; the box is ``size / scale`` wide.
    """
    half = ((field.size - 1) / 2 / jnp.asarray(scales))[..., None]
    return jnp.concatenate([centres_yx - half, centres_yx + half], axis=-1)
