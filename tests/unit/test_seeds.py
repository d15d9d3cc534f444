"""Every seed that a config accepts can be used, and no other is accepted."""

from __future__ import annotations

import pytest

from delfjax.config import ConfigError, DelfConfig, IndexConfig, override
from delfjax.retrieval.local_index import _build_vectors
from delfjax.rng import named_generator


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_seed_in_the_range_builds_inverted_lists(seed: int) -> None:
    assert override(DelfConfig(), [f"seed={seed}"]).seed == seed
    rows = named_generator(seed, "rows").normal(size=(100, 8)).astype("float32")
    vectors = _build_vectors(rows, IndexConfig(kind="ivf", lists=2), seed)
    assert vectors.ntotal == len(rows)


@pytest.mark.parametrize("seed", ["-1", "-5000000000", "4294967296", "1.5", "9" * 5000, "[" * 5000])
def test_any_other_seed_is_refused_in_one_short_line(seed: str) -> None:
    with pytest.raises(ConfigError, match=r"^config field 'seed': .*, got ") as refused:
        override(DelfConfig(), [f"seed={seed}"])
    assert len(str(refused.value)) < 300
