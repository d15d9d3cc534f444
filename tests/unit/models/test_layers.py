"""Building blocks of the backbones: the initialisation of kernels."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from delfjax.models.layers import ConvNorm
from delfjax.ops.receptive_field import Window


def test_a_kernel_begins_with_the_normal_numbers_of_its_key() -> None:
    def build(rngs: nnx.Rngs) -> ConvNorm:
        return ConvNorm(3, 5, Window.centred(3), rngs=rngs)

    kernel = np.asarray(build(nnx.Rngs(7)).kernel[...])
    expected = np.asarray(jax.random.normal(nnx.Rngs(7).params(), (3, 3, 3, 5))) * np.float32(
        np.sqrt(2 / 27)
    )
    np.testing.assert_array_equal(kernel, expected)
    traced = nnx.jit(build)(nnx.Rngs(7))
    np.testing.assert_array_equal(np.asarray(traced.kernel[...]), expected)
