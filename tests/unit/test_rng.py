"""Random streams depend only on seed and name."""

from __future__ import annotations

import numpy as np

from delfjax.rng import named_generator


def test_a_stream_depends_only_on_seed_and_name() -> None:
    def draw(seed: int, name: str) -> tuple[float, ...]:
        return tuple(named_generator(seed, name).random(3))

    assert draw(1, "index") == draw(1, "index")
    assert len({draw(1, "index"), draw(2, "index"), draw(1, "reduction"), draw(0, "")}) == 4


def test_a_stream_stays_the_same_from_version_to_version() -> None:
    # The integers of PCG64 seeded with (7, crc32 of the name), which NumPy promises not to change.
    crc = 0x352441C2  # of "abc", as in the definition of CRC-32
    expected = np.random.default_rng([7, crc]).integers(1 << 30, size=4)
    assert np.array_equal(named_generator(7, "abc").integers(1 << 30, size=4), expected)
