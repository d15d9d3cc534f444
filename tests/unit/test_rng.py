"""Random streams depend only on seed and name."""

from __future__ import annotations

import jax
import numpy as np

from delfjax.rng import named_generator, named_key


def test_a_stream_depends_only_on_seed_and_name() -> None:
    def draw(seed: int, name: str) -> tuple[float, ...]:
        return tuple(named_generator(seed, name).random(3))

    assert draw(1, "index") == draw(1, "index")
    assert len({draw(1, "index"), draw(2, "index"), draw(1, "reduction"), draw(0, "")}) == 4


def test_a_key_depends_only_on_seed_and_name() -> None:
    def data(seed: int, name: str) -> tuple[int, ...]:
        return tuple(np.asarray(jax.random.key_data(named_key(seed, name))).tolist())

    assert data(1, "dropout") == data(1, "dropout")
    assert len({data(1, "dropout"), data(2, "dropout"), data(1, "shuffle")}) == 3


def test_a_stream_stays_the_same_from_version_to_version() -> None:
    # The integers of PCG64 seeded with (7, crc32 of the name), which NumPy promises not to change.
    crc = 0x352441C2  # of "abc", as in the definition of CRC-32
    expected = np.random.default_rng([7, crc]).integers(1 << 30, size=4)
    assert np.array_equal(named_generator(7, "abc").integers(1 << 30, size=4), expected)
