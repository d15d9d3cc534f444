"""Geometric verification: the number of putative matches of a query with each database image that
agree on one transform.

Candidates are verified in calls of a fixed number of lanes, with one compiled program per lane
length. Because every lane is computed alike, the result of a candidate depends bit for bit on its
own matches alone, never on the candidates that share its call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

import jax
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from delfjax.config import VerificationConfig
from delfjax.errors import DelfjaxError
from delfjax.ops.geometry import Effort, Limits, PointPairs, RobustFit, robust_fit
from delfjax.programs import StoredProgram
from delfjax.types import Matches, Verification

# Candidates per compiled call, and length of the shortest lane: small enough that padding does not
# delay a single pair of images, large enough that the overhead of calls does not dominate.
_LANES = 8
_SHORTEST = 64
# Each longer lane is four times as long, which makes three programs up to 1024 matches. Compiling
# more of them would take longer than several thousand candidates gain from a closer fit.
_STEP = 4
# Fewest matches that determine a transform.
_FEWEST = 3


@dataclass(frozen=True)
class _Call:
    """The input of one compiled call, and the data needed to interpret its output.

    Attributes:
        candidates: the candidates in the first lanes; further lanes are unused.
        chosen: slots of each candidate's matches, the most similar first; padding refers to slots
            that are not valid.
        query_middle: origin of each lane's query points, ``x + iy``, pixels.
        database_middle: origin of each lane's database points, ``x + iy``, pixels.
        points: fields of ``PointPairs`` for every lane.
    """

    candidates: Int[np.ndarray, " used"]
    chosen: Int[np.ndarray, "used width"]
    query_middle: Complex[np.ndarray, " used"]
    database_middle: Complex[np.ndarray, " used"]
    points: dict[str, np.ndarray]


class VerificationError(DelfjaxError):
    """Matches hold values that no transform can be fitted to."""


def verify(matches: Matches, *, config: VerificationConfig) -> Verification:
    """Fit a transform to the matches of every candidate and count its one-to-one inliers, which are
    the candidate's score.

    The result is deterministic and does not depend on how the matches are ordered (unless two are
    equally similar), padded or batched. If a candidate has more than ``config.max_matches``
    matches, only the most similar are considered; the others are not inliers.

    Args:
        matches: matches of one pair of images, or of a shortlist along a leading axis. Slots that
            are not valid may hold anything.
        config: the model, the tolerance in pixels of the database image, the effort and the limits.

    Returns:
        Arrays on the host. A candidate without an acceptable transform has no inliers and the
        identity; an acceptable transform has at least three inliers that are not collinear.

    Raises:
        VerificationError: a valid match has a coordinate, scale or similarity that is not finite,
            or a scale that is not positive.
    """
    valid = np.asarray(matches.valid)
    *batch, slots = valid.shape
    candidates = math.prod(batch)
    flat = {
        name: np.asarray(part).reshape(candidates, *np.shape(part)[len(batch) :])
        for name, part in _arrays(matches).items()
    }
    batched = Matches(**flat)
    _check(batched)
    mask = np.zeros((candidates, slots), bool)
    transform = np.tile(np.eye(3, dtype=np.float32), (candidates, 1, 1))
    effort = _effort(config)
    limits = _limits(config)
    calls = list(_calls(batched, config))
    # All calls are dispatched before the first result is waited for.
    fit = _fit(effort)
    answers = [fit(call.points, limits) for call in calls]
    for call, answer in zip(calls, answers, strict=True):
        inside, fitted = jax.device_get((answer.inliers, answer.transform))
        used, width = call.chosen.shape
        picked = np.zeros((used, slots), bool)
        np.put_along_axis(picked, call.chosen, inside[:used, :width], axis=1)
        mask[call.candidates] = picked
        found = picked.any(axis=1)
        transform[call.candidates[found]] = _in_pixels(fitted[:used], call, config.threshold_px)[
            found
        ]
    return Verification(
        inliers=mask.sum(axis=1, dtype=np.int32).reshape(batch),
        inlier_mask=mask.reshape(valid.shape),
        transform=transform.reshape(*batch, 3, 3),
    )


@cache
def _fit(effort: Effort) -> StoredProgram[RobustFit]:
    """The program that fits all lanes of a call."""

    def one(lane: dict[str, jax.Array], limits: dict[str, jax.Array]) -> RobustFit:
        return robust_fit(PointPairs(**lane), Limits(**limits), effort=effort)

    return StoredProgram(
        jax.vmap(one, in_axes=(0, None)), settings={"program": "verification", **asdict(effort)}
    )


def _calls(matches: Matches, config: VerificationConfig) -> Iterator[_Call]:
    """Group the candidates by lane length, and divide each group into calls."""
    valid = np.asarray(matches.valid)
    # The sort puts valid slots first; it is stable, so equally similar matches keep their order.
    rank = np.argsort(
        np.where(valid, -np.asarray(matches.similarity, np.float32), np.inf), axis=1, kind="stable"
    )
    count = np.minimum(valid.sum(axis=1), config.max_matches)
    length = np.array([_padded(int(n)) for n in count], np.int64)
    for slots in np.unique(length[count >= _FEWEST]):
        group = np.flatnonzero((length == slots) & (count >= _FEWEST))
        for start in range(0, len(group), _LANES):
            lanes = group[start : start + _LANES]
            yield _call(
                matches, lanes, rank[lanes, :slots], count[lanes], int(slots), config.threshold_px
            )


def _padded(count: int) -> int:
    """Length of the shortest lane that holds ``count`` matches."""
    length = _SHORTEST
    while length < count:
        length *= _STEP
    return length


def _call(
    matches: Matches,
    lanes: Int[np.ndarray, " used"],
    chosen: Int[np.ndarray, "used width"],
    count: Int[np.ndarray, " used"],
    slots: int,
    threshold_px: float,
) -> _Call:
    used, width = chosen.shape
    valid = np.zeros((_LANES, slots), bool)
    valid[:used] = np.arange(slots)[None] < count[:, None]
    held = valid[:used, :width]

    def gather(part: jax.Array | np.ndarray) -> np.ndarray:
        return np.take_along_axis(np.asarray(part)[lanes], chosen, axis=1)

    def spread(values: np.ndarray, fill: int) -> np.ndarray:
        lane = np.full((_LANES, slots), fill, values.dtype)
        lane[:used, :width] = np.where(held, values, fill)
        return lane

    query_yx, database_yx = (
        np.where(
            held[..., None],
            np.take_along_axis(np.asarray(part, np.float32)[lanes], chosen[..., None], axis=1),
            0,
        )
        for part in (matches.query_yx, matches.database_yx)
    )
    query_middle, database_middle = _middle(query_yx, held), _middle(database_yx, held)
    source_id, source_sharing = _shared(query_yx, held)
    target_id, target_sharing = _shared(database_yx, held)
    # The image scale of a feature is inversely proportional to the size of what it shows.
    enlargement = gather(matches.query_scales) / np.where(held, gather(matches.database_scales), 1)
    if matches.turns is not None:
        enlargement = enlargement * np.exp(1j * np.where(held, gather(matches.turns), 0))
    return _Call(
        candidates=lanes,
        chosen=chosen,
        query_middle=query_middle,
        database_middle=database_middle,
        points={
            "source": spread(_in_thresholds(query_yx, query_middle, threshold_px), 0),
            "target": spread(_in_thresholds(database_yx, database_middle, threshold_px), 0),
            "enlargement": spread(
                enlargement.astype(np.complex64 if matches.turns is not None else np.float32), 1
            ),
            "weight": spread(1 / np.maximum(source_sharing, target_sharing).astype(np.float32), 0),
            "valid": valid,
            "source_id": spread(source_id, 0),
            "target_id": spread(target_id, 0),
        },
    )


def _middle(
    at_yx: Float[np.ndarray, "used width 2"], held: Bool[np.ndarray, "used width"]
) -> Complex[np.ndarray, " used"]:
    """Middle of the bounding box of the held points, ``x + iy``.

    Unlike a mean, whose rounding depends on the order of the points, extremes are exact.
    """
    low = np.where(held[..., None], at_yx, np.inf).min(axis=1).astype(np.float64)
    high = np.where(held[..., None], at_yx, -np.inf).max(axis=1).astype(np.float64)
    middle: Complex[np.ndarray, " used"] = (low + high) @ np.array([0.5j, 0.5])
    return middle


def _in_thresholds(
    at_yx: Float[np.ndarray, "used width 2"],
    middle: Complex[np.ndarray, " used"],
    threshold_px: float,
) -> Complex[np.ndarray, "used width"]:
    at = at_yx[..., 1].astype(np.float64) + 1j * at_yx[..., 0]
    scaled: Complex[np.ndarray, "used width"] = ((at - middle[:, None]) / threshold_px).astype(
        np.complex64
    )
    return scaled


def _shared(
    at_yx: Float[np.ndarray, "used width 2"], held: Bool[np.ndarray, "used width"]
) -> tuple[Int[np.ndarray, "used width"], Int[np.ndarray, "used width"]]:
    """For each slot, the number of its point among the distinct points of the lane (``0`` …
    ``width − 1``), and how many held slots share that point."""
    used, width = held.shape
    # View a point as one 64-bit integer; adding zero turns −0.0 into 0.0.
    point = np.ascontiguousarray(at_yx + np.float32(0)).view(np.uint64)[..., 0]
    # All bits set is not a finite point, so slots that are not held form a group of their own.
    point = np.where(held, point, np.uint64(2**64 - 1))
    order = np.argsort(point, axis=1, kind="stable")
    ranked = np.take_along_axis(point, order, axis=1)
    number = np.zeros((used, width), np.int32)
    number[:, 1:] = np.cumsum(ranked[:, 1:] != ranked[:, :-1], axis=1)
    identity = np.empty_like(number)
    np.put_along_axis(identity, order, number, axis=1)
    everywhere = identity + width * np.arange(used, dtype=np.int32)[:, None]
    return identity, np.bincount(everywhere.ravel(), minlength=used * width)[everywhere]


def _in_pixels(
    fitted: Float[np.ndarray, "used 3 3"], call: _Call, threshold_px: float
) -> Float[np.ndarray, "used 3 3"]:
    """Convert transforms of points in units of the threshold, relative to the middles, to
    transforms of pixels."""

    def frame(middle: Complex[np.ndarray, " used"]) -> Float[np.ndarray, "used 3 3"]:
        to_pixels = np.tile(np.diag([threshold_px, threshold_px, 1.0]), (len(middle), 1, 1))
        to_pixels[:, 0, 2], to_pixels[:, 1, 2] = middle.real, middle.imag
        return to_pixels

    inverse = np.linalg.inv(frame(call.query_middle))
    return (frame(call.database_middle) @ fitted.astype(np.float64) @ inverse).astype(np.float32)


def _arrays(matches: Matches) -> dict[str, jax.Array | np.ndarray]:
    return {name: part for name, part in vars(matches).items() if part is not None}


def _check(matches: Matches) -> None:
    """Refuse valid matches with values that are not finite or scales that are not positive; the
    error names the first."""
    valid = np.asarray(matches.valid)
    for name, part in _arrays(matches).items():
        values = np.asarray(part)
        bad = ~np.isfinite(values)
        if name.endswith("_scales"):
            bad |= values <= 0
        bad = (bad.any(axis=-1) if bad.ndim > valid.ndim else bad) & valid
        if bad.any():
            where = tuple(int(k) for k in np.argwhere(bad)[0])
            wanted = "a finite number above zero" if name.endswith("_scales") else "finite numbers"
            raise VerificationError(
                f"{name} of match {where[1]} of candidate {where[0]} is {values[where]}, expected"
                f" {wanted}"
            )


def _effort(config: VerificationConfig) -> Effort:
    return Effort(
        model=config.model,
        pairs=config.pair_hypotheses,
        rotations=tuple(math.radians(angle) for angle in config.rotations_deg),
        refined=config.refined,
        finalists=config.finalists,
        tolerances=config.refine_tolerances,
        final_fits=config.final_fits,
    )


def _limits(config: VerificationConfig) -> dict[str, np.ndarray]:
    bounds = {
        "scale": config.max_scale_change,
        "anisotropy": config.max_anisotropy,
        "rotation": math.radians(config.max_rotation_deg),
        "spread": config.min_spread,
    }
    return {name: np.asarray(bound, np.float32) for name, bound in bounds.items()}
