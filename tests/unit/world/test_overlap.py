"""The overlap of photographs is that of their exact correspondences."""

from __future__ import annotations

import numpy as np
import pytest

from delfjax.suite.data import world_set
from delfjax.world.knobs import world_config
from delfjax.world.overlap import CoObserved, co_observed
from delfjax.world.reading import World, correspondences, open_world


@pytest.fixture(scope="module")
def world() -> World:
    return open_world(world_set(world_config("ci")))


@pytest.fixture(scope="module")
def found(world: World) -> CoObserved:
    return co_observed(world, world.rows("train").tolist())


def test_the_share_is_that_of_all_pixels_of_the_landmark(world: World, found: CoObserved) -> None:
    rows = world.rows("train")
    for number in range(0, len(found.first), 7):
        first, second = int(rows[found.first[number]]), int(rows[found.second[number]])
        common = len(correspondences(world, first, second).first_yx)
        # Three standard deviations of a share estimated from 256 pixels.
        assert abs(found.share[number] - common / world.mask(first).sum()) < 0.1


def test_the_scale_of_a_pair_is_the_inverse_of_that_of_its_opposite(found: CoObserved) -> None:
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    scale = dict(zip(pairs, found.scale.tolist(), strict=True))
    products = [value * scale[pair[::-1]] for pair, value in scale.items() if pair[::-1] in scale]
    # The two see different parts of a landmark, at different distances.
    assert len(products) > 10 and np.all(np.abs(np.log(products)) < 0.3)


def test_photographs_of_different_sites_share_nothing(found: CoObserved) -> None:
    assert np.array_equal(found.sites[found.first], found.sites[found.second])
    assert (found.share > 0).all() and (found.share <= 1).all()
    assert (found.first != found.second).all()
