"""Errors of the nearest neighbour are divided into look-alikes and everything else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.look_alikes import nearest_errors


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_errors_inside_the_family_are_counted() -> None:
    # Landmarks 0 and 1 are a family, 2 and 3 another. The first two photos of 0 find each other,
    # its third one landmark 1; so does landmark 1's; 2 finds 1, of another family, and 3 finds 2.
    found = nearest_errors(
        on_circle(0, 1, 40, 42, 60, 70), np.array([0, 0, 0, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1])
    )
    assert found.rate == pytest.approx(4 / 6)
    assert found.inside == pytest.approx(1.0)
    assert found.chance == pytest.approx((3 * 1 / 3 + 3 / 5 + 1 / 5 + 1 / 5) / 6)
    assert "67% of the photos are taken for another landmark" in str(found)
    across = nearest_errors(
        on_circle(0, 1, 40, 42, 50, 70), np.array([0, 0, 0, 1, 2, 3]), np.array([0, 0, 0, 1, 0, 1])
    )
    assert across.inside == pytest.approx(0.0)


def test_without_errors_the_share_of_look_alikes_is_undefined() -> None:
    found = nearest_errors(on_circle(0, 1, 90, 91), np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]))
    assert found.rate == 0.0 and math.isnan(found.inside) and found.chance == 1.0


def test_a_single_landmark_is_refused() -> None:
    with pytest.raises(EvaluationError, match="one landmark"):
        nearest_errors(on_circle(0, 1), np.array([4, 4]), np.array([0, 0]))
