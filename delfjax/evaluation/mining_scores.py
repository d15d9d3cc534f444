"""How well mined landmarks agree with the true ones: purity, recall and coverage.

The *majority* of a mined landmark is the true landmark that most of its photos show (ties: the
lowest number). Purity is the share of the photos in mined landmarks that show their majority. A
true landmark with enough photos is *found* when some mined landmark has it as its majority and
holds at least half of its photos; recall is the share of them that is found. A mined landmark
therefore finds at most one true landmark, however many it swallows, and a true landmark split into
three pieces is not found.

Source: purity as in Manning, Raghavan, Schütze 2008, "Introduction to Information Retrieval", 16.3;
    recall is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from delfjax.evaluation.average_precision import EvaluationError

# A true landmark counts if it has at least this many photos. Source: ours.
LEAST_PHOTOS = 5
# Share of its photos that one mined landmark must hold to find it. Source: ours.
FOUND_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class MiningScores:
    """Agreement of mined and true landmarks.

    Attributes:
        purity: share of the photos in mined landmarks that show their majority; NaN where nothing
            was mined.
        recall: share of the counted true landmarks that are found; NaN where none is counted.
        coverage: share of the photos of counted true landmarks that lie in a mined landmark with
            theirs as its majority; NaN where none is counted.
        majority: true landmark of each mined one; −1 where its photos show none.
        found: which true landmarks are found.
        counted: which true landmarks have enough photos to count.
    """

    purity: float
    recall: float
    coverage: float
    majority: Int64[np.ndarray, " mined"]
    found: Bool[np.ndarray, " landmarks"]
    counted: Bool[np.ndarray, " landmarks"]

    def record(self) -> dict[str, float]:
        """The scores as plain numbers."""
        return {
            "purity": self.purity,
            "recall": self.recall,
            "coverage": self.coverage,
            "mined": len(self.majority),
            "landmarks": int(self.counted.sum()),
        }


def score_mining(
    mined: Int[np.ndarray, " photos"],
    subjects: Int[np.ndarray, " photos"],
    shown: Sequence[Sequence[int]],
) -> MiningScores:
    """Compare mined landmarks with the true ones.

    Args:
        mined: mined landmark of each photo, from 0; −1 for none.
        subjects: true landmark that each photo was taken of, from 0; −1 for none. The number of
            photos of a true landmark is counted by it.
        shown: all true landmarks that each photo shows, from 0; several where landmarks stand side
            by side.

    Raises:
        EvaluationError: ``mined`` and ``shown`` differ in length.
    """
    if len(mined) != len(shown):
        raise EvaluationError(
            f"{len(mined)} photos are mined, but {len(shown)} lists say what they show; "
            "expected one list for each photo"
        )
    lengths = np.array([len(one) for one in shown], np.int64)
    photo = np.repeat(np.arange(len(shown)), lengths)
    landmark = np.array([one for many in shown for one in many], np.int64)
    count = int(max(landmark.max(initial=-1), np.max(subjects, initial=-1))) + 1
    pieces = int(np.max(mined, initial=-1)) + 1
    showing = _table(np.asarray(mined)[photo], landmark, (pieces, count))
    taken = _table(mined, subjects, (pieces, count))
    majority = np.full(pieces, -1, np.int64)
    if count:
        majority = np.where(showing.max(axis=1) > 0, showing.argmax(axis=1), -1)
    own = majority >= 0
    right = showing[own, majority[own]].sum()
    held = int((np.asarray(mined) >= 0).sum())
    size = np.bincount(np.asarray(subjects)[np.asarray(subjects) >= 0], minlength=count)
    best, covered = np.zeros(count), np.zeros(count)
    np.maximum.at(best, majority[own], taken[own, majority[own]])
    np.add.at(covered, majority[own], taken[own, majority[own]])
    counted = size >= LEAST_PHOTOS
    found = best >= FOUND_SHARE * np.maximum(size, 1)
    return MiningScores(
        purity=float(right / held) if held else float("nan"),
        recall=float(found[counted].mean()) if counted.any() else float("nan"),
        coverage=(
            float(covered[counted].sum() / size[counted].sum()) if counted.any() else float("nan")
        ),
        majority=majority.astype(np.int64),
        found=found,
        counted=counted,
    )


def _table(
    rows: Int[np.ndarray, " n"], columns: Int[np.ndarray, " n"], shape: tuple[int, int]
) -> Float[np.ndarray, "rows columns"]:
    """How often each pair of row and column occurs; pairs with a negative number are left out."""
    table = np.zeros(shape)
    held = (np.asarray(rows) >= 0) & (np.asarray(columns) >= 0)
    np.add.at(table, (np.asarray(rows)[held], np.asarray(columns)[held]), 1)
    return table
