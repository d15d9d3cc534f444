"""Description of a normalised region by the amplitudes of Gabor wavelets.

Source: US patent 8,098,938 (CONGAS): a region is normalised to a fixed size and orientation;
    wavelets are made for it, fewer for low frequencies, which would overlap; the amplitudes of
    their products with the region are the descriptor. Kernel without a constant part: Wiskott et
    al. 1997, "Face recognition by elastic bunch graph matching".
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from delfjax.ops.pooling import l2_normalise

# Standard deviation of a region below which it counts as uniform, for grey values from 0 to 1.
_LEAST_SPREAD = 1e-5


def wavelets(
    samples: int,
    *,
    wavelengths: Sequence[float],
    places: Sequence[int],
    directions: int,
    envelope: float,
) -> Complex[np.ndarray, "wavelets samples samples"]:
    """Gabor wavelets on a square region.

    A wavelet is a plane wave under a Gaussian, less the multiple of the Gaussian that leaves a sum
    of zero. Gaussians sum to one, so that in natural images, whose amplitudes fall with the
    frequency, all frequencies have amplitudes of one order.

    Args:
        samples: samples along a side of the region.
        wavelengths: wavelength of each frequency, as a share of the side.
        places: places of each frequency along a side; they are equally spaced.
        directions: directions of the wave, equally spaced over half a turn.
        envelope: standard deviation of the Gaussian times the wave number.
    """
    axis = np.arange(samples) - (samples - 1) / 2
    y, x = axis[:, None], axis[None]
    found = []
    for wavelength, count in zip(wavelengths, places, strict=True):
        number = 2 * np.pi / (wavelength * samples)
        middles = (np.arange(count) - (count - 1) / 2) * samples / count
        for middle_y in middles:
            for middle_x in middles:
                dy, dx = y - middle_y, x - middle_x
                bell = np.exp(-(dy**2 + dx**2) * (number / envelope) ** 2 / 2)
                bell /= bell.sum()
                for angle in np.arange(directions) * np.pi / directions:
                    wave = np.exp(1j * number * (np.cos(angle) * dx + np.sin(angle) * dy))
                    found.append(bell * (wave - (bell * wave).sum()))
    return np.stack(found)


def amplitudes(
    regions: Float[jax.Array, "n s s"],
    kernels: Complex[np.ndarray, "k s s"],
    *,
    power: float,
) -> Float[jax.Array, "n k"]:
    """L2-normalised amplitudes of each region's products with the wavelets, raised to ``power``.

    A region without contrast has the descriptor zero.

    Args:
        regions: grey values of normalised regions.
        kernels: from :func:`wavelets`.
        power: exponent; below 1, strong wavelets count less.
    """
    flat = normalised(regions).reshape(len(regions), -1)
    parts = kernels.reshape(len(kernels), -1)
    matrix = np.concatenate([parts.real, parts.imag]).T.astype(np.float32)
    products = jnp.matmul(flat, matrix, precision=jax.lax.Precision.HIGHEST)
    real, imaginary = products[:, : len(parts)], products[:, len(parts) :]
    return l2_normalise((real**2 + imaginary**2) ** (power / 2))


def normalised(regions: Float[jax.Array, "n s s"]) -> Float[jax.Array, "n s s"]:
    """Regions of mean 0 and standard deviation 1; one without contrast is 0."""
    centred = regions - jnp.mean(regions, axis=(1, 2), keepdims=True)
    spread = jnp.sqrt(jnp.mean(centred**2, axis=(1, 2), keepdims=True))
    return jnp.where(spread > _LEAST_SPREAD, centred / jnp.maximum(spread, _LEAST_SPREAD), 0.0)
