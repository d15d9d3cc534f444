"""Invariants of average precision, for any ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delfjax.evaluation.average_precision import average_precision, junk_free_ranks

# A ranked list as the role of each item: a positive, junk or a negative.
ROLES = st.lists(st.sampled_from("pjn"), min_size=1, max_size=30)


def _score(roles: list[str], *, missing: int = 1) -> float:
    """Average precision of a list, where ``missing`` more positives were not retrieved."""
    listed = np.array(roles, dtype="U1")
    ranks = junk_free_ranks(listed == "p", listed == "j")
    return average_precision(ranks, num_positives=roles.count("p") + missing)


@given(ROLES)
def test_the_score_lies_between_zero_and_the_share_of_positives_retrieved(roles: list[str]) -> None:
    hits = roles.count("p")
    assert (
        0 <= _score(roles) <= hits / (hits + 1) + 1e-12
    )  # sums of at most 30 fractions in float64


@given(ROLES, st.integers(0, 30))
def test_junk_changes_nothing_wherever_it_stands(roles: list[str], place: int) -> None:
    assert _score([*roles[:place], "j", *roles[place:]]) == _score(roles)


@given(ROLES)
def test_negatives_after_the_last_positive_change_nothing(roles: list[str]) -> None:
    assert _score([*roles, "n", "n"]) == _score(roles)


@given(ROLES, st.data())
def test_moving_a_positive_up_past_a_negative_never_lowers_the_score(
    roles: list[str], data: st.DataObject
) -> None:
    behind = [rank for rank in range(1, len(roles)) if roles[rank - 1] + roles[rank] == "np"]
    if not behind:
        return
    rank = data.draw(st.sampled_from(behind))
    better = [*roles[: rank - 1], "p", "n", *roles[rank + 1 :]]
    assert _score(better) >= _score(roles) - 1e-12


@given(ROLES)
def test_a_negative_at_the_head_always_lowers_a_positive_score(roles: list[str]) -> None:
    if "p" in roles:
        assert _score(["n", *roles]) < _score(roles)
    else:
        assert _score(["n", *roles]) == pytest.approx(0.0)
