"""Blobs: where they are and how large, to a tenth of a pixel and two per cent."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from delfjax.ops import blobs
from delfjax.ops.blobs import Octave, ScaleSpace

SPACE = ScaleSpace(sigma=1.6, per_octave=3)
COUNT = 20


def spot(size: tuple[int, int], at_yx: tuple[float, float], sigma: float) -> np.ndarray:
    """A Gaussian of height 1."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.exp(-((y - at_yx[0]) ** 2 + (x - at_yx[1]) ** 2) / (2 * sigma**2)).astype(np.float32)


def found_in(
    image: np.ndarray, extent: tuple[int, int] | None = None, *, octaves: int = 4
) -> np.ndarray:
    """Strength, y, x and scale of each blob, in pixels of the image, the strongest first."""
    octave = blobs.first_octave(
        jnp.asarray(image), jnp.asarray(extent or image.shape, jnp.int32), SPACE
    )
    rows = []
    for number in range(octaves):
        held = blobs.find_blobs(
            blobs.responses(octave, SPACE),
            octave.extent,
            space=SPACE,
            contrast=0.01,
            edge_ratio=10.0,
            count=COUNT,
        )
        scale = 2.0**number
        rows.append(
            np.column_stack(
                [held.strength, np.asarray(held.at_yx) * scale, np.asarray(held.sigma) * scale]
            )
        )
        canvas = ((octave.image.shape[0] + 1) // 2, (octave.image.shape[1] + 1) // 2)
        octave = blobs.next_octave(octave, SPACE, canvas)
    joined = np.concatenate(rows)
    joined = joined[joined[:, 0] > 0]
    return joined[np.argsort(-joined[:, 0])]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("sigma", [1.7, 2.3, 3.1, 4.4, 6.5, 9.0, 14.0])
def test_a_blob_is_found_where_it_is_and_as_large_as_it_is(sigma: float, sign: float) -> None:
    for dy, dx in ((0.0, 0.0), (0.3, -0.4), (-0.5, 0.21)):
        at = 64 + dy, 61 + dx
        strength, *place, scale = found_in(sign * spot((128, 120), at, sigma))[0]
        assert np.abs(np.array(place) - at).max() < 0.1
        assert scale == pytest.approx(sigma, rel=0.02)
        # σ² ∇² of a blob with its own scale is −1/2 in its middle.
        assert strength == pytest.approx(0.5, rel=0.02)


def test_what_a_canvas_holds_beyond_the_image_changes_nothing(rng: np.random.Generator) -> None:
    image = rng.random((70, 90), np.float32)
    canvas = rng.random((128, 128), np.float32)
    canvas[:70, :90] = image
    alone, padded = found_in(image, octaves=3), found_in(canvas, (70, 90), octaves=3)
    assert len(alone) > 5
    np.testing.assert_allclose(padded, alone, atol=1e-4)


def test_an_edge_and_a_uniform_image_have_no_blobs() -> None:
    step = np.zeros((64, 64), np.float32)
    step[:, 32:] = 1.0
    assert not len(found_in(step))
    assert not len(found_in(np.full((64, 64), 0.5, np.float32)))


def test_the_response_equals_the_formula_in_float64(rng: np.random.Generator) -> None:
    """``σ² ∇²(G ∗ I)`` by a sum over all pixels, with the Gaussian's derivatives written out."""
    image = rng.random((40, 40))
    # An octave's image has the blur of its base already; here a random image stands for it.
    octave = Octave(jnp.asarray(image, jnp.float32), jnp.asarray(image.shape, jnp.int32))
    found = np.asarray(blobs.responses(octave, SPACE))
    at = 20, 19
    y, x = np.mgrid[:40, :40]
    square = (y - at[0]) ** 2 + (x - at[1]) ** 2
    for level, sigma in enumerate(SPACE.scales[:3]):
        variance = sigma**2 - SPACE.base**2
        bell = np.exp(-square / (2 * variance)) / (2 * np.pi * variance)
        laplacian = (square / variance**2 - 2 / variance) * bell
        expected = sigma**2 * (laplacian * image).sum()
        assert found[level][at] == pytest.approx(expected, abs=0.01)


def test_kernels_are_exact_for_polynomials() -> None:
    for sigma in (0.9, 1.6, 3.0):
        smooth, curved = blobs.gaussian(sigma), blobs.curvature(sigma)
        at = np.arange(len(smooth)) - len(smooth) // 2
        assert smooth.sum() == pytest.approx(1, abs=1e-6)
        assert smooth @ at**2 == pytest.approx(sigma**2, rel=2e-3)
        for power, expected in ((0, 0), (1, 0), (2, 2)):
            assert curved.astype(np.float64) @ (at**power) == pytest.approx(expected, abs=1e-5)
    assert blobs.gaussian(0.0).tolist() == [1.0]
