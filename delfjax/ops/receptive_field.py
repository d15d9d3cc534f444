"""Receptive field of a stack of convolutions and poolings, composed from its layers.

Along one axis a layer is a window: ``kernel`` taps, a ``stride``, and ``pad`` zeros before the
first pixel. The field is never copied from a table, because variants of one network differ: the
ResNet50 of He et al. has 291/16 (size/stride) at conv4, the v1.5 layout 267/16.
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
    """One layer along one axis.

    Attributes:
        kernel: length of the window.
        stride: pixels from one window to the next.
        pad: zeros before the first pixel.
    """

    kernel: int
    stride: int = 1
    pad: int = 0

    @classmethod
    def centred(cls, kernel: int, stride: int = 1) -> Window:
        """A window of odd length with equal padding on both sides."""
        return cls(kernel, stride, (kernel - 1) // 2)


@dataclass(frozen=True)
class ReceptiveField:
    """The part of the network's input that a cell of the feature map depends on.

    Attributes:
        size: side of the square of input pixels that can influence a cell.
        stride: distance between the fields of neighbouring cells, input pixels.
        offset: centre of the field of cell 0, input pixels (pixel centres at integers).
    """

    size: int
    stride: int
    offset: float


def compose(windows: Iterable[Window]) -> ReceptiveField:
    """Receptive field of layers applied one after the other, in this order."""
    size, stride, offset = 1, 1, 0.0
    for window in windows:
        size += (window.kernel - 1) * stride
        offset += ((window.kernel - 1) / 2 - window.pad) * stride
        stride *= window.stride
    return ReceptiveField(size, stride, offset)


def centres_px(field: ReceptiveField, cells_yx: Int[Array, "*n 2"]) -> Float[jax.Array, "*n 2"]:
    """Centres ``(y, x)`` of the receptive fields of ``cells_yx``, pixels of the network's input."""
    centres: jax.Array = jnp.asarray(cells_yx, jnp.float32) * jnp.float32(
        field.stride
    ) + jnp.float32(field.offset)
    return centres


def boxes_px(
    field: ReceptiveField, centres_yx: Float[Array, "*n 2"], scales: Float[Array, "*n"]
) -> Float[jax.Array, "*n 4"]:
    """Receptive boxes ``(y0, x0, y1, x1)`` in pixels of the original image, ends inclusive.

    Args:
        field: receptive field at scale 1.
        centres_yx: centres of the boxes, pixels of the original image.
        scales: image scale of each feature; a box reaches ``(size − 1) / (2 · scale)`` pixels from
            its centre.
    """
    half = ((field.size - 1) / 2 / jnp.asarray(scales))[..., None]
    return jnp.concatenate([centres_yx - half, centres_yx + half], axis=-1)
