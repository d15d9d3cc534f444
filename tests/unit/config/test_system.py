"""An extraction depends on the sections that decide features, and on the seed where weights are
drawn."""

from __future__ import annotations

import pytest

from delfjax.config import DelfConfig, config_hash, from_dict, override, to_dict


def test_only_sections_that_determine_features_are_part_of_the_extraction() -> None:
    default = config_hash(DelfConfig().extraction())
    for same in (
        "features.batch_size=4",
        "reduction.dim=8",
        "index.kind=ivf",
        "search.neighbours=3",
        "seed=1",
    ):
        assert config_hash(override(DelfConfig(), [same]).extraction()) == default, same
    for other in (
        "features.max_side=512",
        "backbone.output=conv5",
        "scorer.kind=norm",
        "features.nms_iou=0.5",
    ):
        assert config_hash(override(DelfConfig(), [other]).extraction()) != default, other


@pytest.mark.parametrize("drawn", ["backbone.weights=random", "scorer.weights=random"])
def test_the_seed_is_part_of_an_extraction_with_random_weights(drawn: str) -> None:
    one, other = (override(DelfConfig(), [drawn, f"seed={seed}"]).extraction() for seed in (0, 1))
    assert config_hash(one) != config_hash(other)
    # What a store records is enough to draw the same weights again.
    assert from_dict(DelfConfig, {**to_dict(DelfConfig()), **other}).seed == 1
