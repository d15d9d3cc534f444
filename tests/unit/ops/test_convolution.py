"""Convolutions equal SciPy's in the form of either platform."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from delfjax.ops import convolution
from delfjax.ops.cpu import products


def _gradients(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, ...]:
    """Gradients for ``x`` and ``kernel`` of a nonlinear sum of ``function(x, kernel)``."""

    def total(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(x, kernel) / 10))

    found: tuple[jax.Array, ...] = jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel)
    return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
def test_depthwise_equals_scipy_and_the_grouped_convolution(
    taps: int, stride: int, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(2, 13, 16, 4)).astype(np.float32)
    kernel = rng.normal(size=(taps, taps, 4)).astype(np.float32)
    ours = jax.jit(lambda x, k: convolution.depthwise(x, k, stride=stride))(x, kernel)
    grouped = jax.jit(lambda x, k: convolution._grouped(x, k, stride))(x, kernel)
    expected = np.stack(
        [
            [
                correlate2d(image[..., c], kernel[..., c], "valid")[::stride, ::stride]
                for c in range(4)
            ]
            for image in x.astype(np.float64)
        ]
    ).transpose(0, 2, 3, 1)
    # 25 float32 products of size about one.
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(grouped, ours, atol=1e-5)


@pytest.mark.parametrize(
    ("taps", "stride", "piece"), [(3, 1, 16), (3, 2, 16), (5, 1, 2), (5, 2, 2)]
)
def test_the_gradient_of_depthwise_equals_that_of_the_grouped_convolution(
    taps: int, stride: int, piece: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_MOST_ROWS", piece)
    monkeypatch.setattr(convolution, "_FEW_ROWS", piece)
    # With stride 2, no tap meets the last of the 12 columns.
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 9, 12, 4), (taps, taps, 4))
    )

    def bent(function: Callable[..., jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel, stride=stride)))

    def grouped(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
        return convolution._grouped(x, kernel, stride)

    gradients = (
        jax.jit(jax.grad(bent(function), argnums=(0, 1)))
        for function in (convolution.depthwise, grouped)
    )
    found, expected = (gradient(x, kernel) for gradient in gradients)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(
    ("taps", "stride", "pad", "dtype", "off"),
    [
        (3, 1, (1, 1), jnp.float32, 2e-5),
        (3, 1, (0, 2), jnp.float32, 2e-5),
        (3, 2, (0, 1), jnp.float32, 2e-5),
        (3, 3, (1, 1), jnp.float32, 2e-5),
        (7, 2, (2, 3), jnp.float32, 2e-5),
        (3, 1, (1, 1), jnp.bfloat16, 0.1),
    ],
)
@pytest.mark.parametrize(("channels", "outputs"), [(4, 5), (16, 5), (16, 17)])
def test_the_gradient_of_a_dense_convolution_equals_that_of_the_plain_one(
    taps: int,
    stride: int,
    pad: tuple[int, int],
    dtype: jnp.dtype,
    off: float,
    channels: int,
    outputs: int,
) -> None:
    rng = np.random.default_rng(0)
    # With stride 2, the last of the 12 columns may meet no tap.
    shapes = (2, 9, 12, channels), (taps, taps, channels, outputs)
    x, kernel = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)

    def plain(x: jax.Array, kernel: jax.Array, *, stride: int, pad: tuple[int, int]) -> jax.Array:
        return convolution._plain_convolved(x, kernel, stride, pad)

    found, expected = (
        _gradients(partial(function, stride=stride, pad=pad), x, kernel)
        for function in (convolution.dense, plain)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=off)


def test_the_gradient_of_a_kernel_does_not_depend_on_how_many_images_are_summed_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 8, 8, 3), (3, 3, 3, 5))
    )
    found, programs = {}, {}
    for most in (6, 5, 1):
        monkeypatch.setattr(products, "_MOST_CELLS", most * 64)
        gradient = jax.jit(
            jax.grad(
                lambda kernel: jnp.sum(jnp.sin(convolution.dense(x, kernel, stride=1, pad=(1, 1))))
            )
        )
        programs[most] = gradient.lower(kernel).as_text()
        found[most] = np.asarray(gradient(kernel))
    for most in (5, 1):
        np.testing.assert_allclose(found[most], found[6], rtol=1e-4, atol=1e-4)
    # They really sum in another order, even where a processor rounds to the same values.
    assert len(set(programs.values())) == 3


@pytest.mark.parametrize(("channels", "outputs"), [(32, 5), (33, 5), (5, 32)])
def test_the_gradient_of_a_product_equals_that_of_the_plain_one(
    channels: int, outputs: int, rng: np.random.Generator
) -> None:
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 9, 12, channels), (channels, outputs))
    )

    found, expected = (
        _gradients(function, x, kernel) for function in (products.pointwise, products.plain_product)
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 7)])
@pytest.mark.parametrize(
    ("taps", "stride", "pad"),
    [(3, 2, (1, 1)), (3, 2, (0, 0)), (3, 2, (0, 1)), (2, 2, (0, 0)), (3, 1, (1, 1))],
)
def test_the_maximum_of_windows_and_its_gradient_equal_those_of_the_plain_one(
    taps: int, stride: int, pad: tuple[int, int], height: int, width: int, rng: np.random.Generator
) -> None:
    # Whole numbers, so that many cells tie: the gradient goes to the first.
    x = jnp.asarray(rng.integers(-3, 4, (2, height, width, 5)), jnp.float32)

    def bent(
        function: Callable[..., jax.Array],
    ) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        def of_x(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            largest = function(x, taps, stride, pad)
            # Every window has a different gradient.
            return jnp.sum(
                largest * jnp.arange(1.0, largest.size + 1).reshape(largest.shape)
            ), largest

        return jax.jit(jax.grad(of_x, has_aux=True))

    def ours(x: jax.Array, taps: int, stride: int, pad: tuple[int, int]) -> jax.Array:
        return convolution.maximum(x, taps=taps, stride=stride, pad=pad)

    (gradient, largest), (plain_gradient, plain) = (
        bent(function)(x) for function in (ours, convolution._plain_largest)
    )
    np.testing.assert_array_equal(largest, plain)
    np.testing.assert_array_equal(ours(x, taps, stride, pad), plain)
    np.testing.assert_array_equal(gradient, plain_gradient)


def test_zero_outside_leaves_the_image_and_clears_the_rest() -> None:
    x = jnp.ones((2, 4, 5, 1))
    extent = jnp.array([[2, 3], [4, 5]], jnp.int32)
    masked = np.asarray(convolution.zero_outside(x, extent))
    assert masked[0].sum() == 6 and masked[0, :2, :3].all()
    assert masked[1].all()


def test_the_mask_of_a_padded_canvas_starts_after_the_padding() -> None:
    held = np.asarray(convolution.inside(jnp.array([[2, 2]], jnp.int32), 5, 5, before=1))[
        0, :, :, 0
    ]
    assert np.argwhere(held).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
