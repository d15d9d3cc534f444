"""Robust fit of an affine map or a homography to the putative matches of one pair of images.

Points are complex numbers ``x + iy`` in units of the inlier threshold, so an inlier has a residual
of at most one. An affine map is ``q = offset + linear·(p − centre) + antilinear·conj(p − centre)``.
In this form, a map without an antilinear part is a similarity; the singular values are ``|linear| ±
|antilinear|``, the determinant is their product, and the rotation is the angle of ``linear``; and
the least-squares fit has a closed form that stays well posed for two points and for points on a
line.

The fit is deterministic. The hypotheses are similarities, through ordered pairs of correspondences
and through single correspondences at the scale of their features. All are scored on all
correspondences; the best are refitted, and the best of those compete by one-to-one inliers. Every
function is pure and works on one pair of images; ``vmap`` extends it to a shortlist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from delfjax.types import storable

# Correspondences per step of the loops that score and fit. Looping over correspondences avoids a
# table of hypotheses by correspondences. On a CPU, unrolled scoring is five times faster than one
# fused reduction of that table, and for the fits a matrix product is ten times faster than unrolled
# sums.
SCORE_BLOCK, FIT_BLOCK = 16, 128

# Standard deviations of the priors that keep fits to few points well posed: noise of an inlier in
# thresholds, stretch and perspective without a unit. Measured: on pairs with 13 true inliers or
# more, a ridge between zero and three times this one changed the share of inliers kept by less than
# 0.001; with nine, by 0.01.
_NOISE, _STRETCH, _PERSPECTIVE = 0.25, 0.2, 0.3
_TINY = 1e-6

# In full float32 precision; by default, accelerators drop half the digits.
_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PointPairs:
    """Putative matches of one pair of images, the most similar first, followed by padding.

    Attributes:
        source: query points, ``x + iy``, thresholds.
        target: database points, ``x + iy``, thresholds.
        enlargement: linear part of the similarity that the two features of a match fix: the ratio
            of target size to source size, from their scales, times ``exp(i·turn)`` if they have an
            orientation.
        weight: one over the number of correspondences that share an end point; zero where not
            valid.
        valid: which slots hold a correspondence.
        source_id: number of the query point in ``[0, m)``, the same for correspondences that share
            it.
        target_id: number of the database point in ``[0, m)``, likewise.
    """

    source: Complex[Array, " m"]
    target: Complex[Array, " m"]
    enlargement: Float[Array, " m"] | Complex[Array, " m"]
    weight: Float[Array, " m"]
    valid: Bool[Array, " m"]
    source_id: Int[Array, " m"]
    target_id: Int[Array, " m"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Affine:
    """Affine maps ``q = offset + linear·(p − centre) + antilinear·conj(p − centre)``."""

    linear: Complex[Array, " h"]
    antilinear: Complex[Array, " h"]
    offset: Complex[Array, " h"]
    centre: Complex[Array, " h"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Limits:
    """Limits beyond which a transform is rejected as degenerate.

    Attributes:
        scale: largest enlargement or reduction in any direction.
        anisotropy: largest ratio of the two singular values.
        rotation: largest rotation, radians.
        spread: smallest standard deviation of the inliers along any direction, thresholds.
    """

    scale: Float[Array, ""]
    anisotropy: Float[Array, ""]
    rotation: Float[Array, ""]
    spread: Float[Array, ""]


@dataclass(frozen=True)
class Effort:
    """How much to try, as static numbers of a compiled program.

    Meanings and sources are in :class:`~delfjax.config.VerificationConfig`.
    """

    model: Literal["affine", "homography"]
    pairs: int
    rotations: tuple[float, ...]
    refined: int
    finalists: int
    tolerances: tuple[float, ...]
    final_fits: int


@storable
@dataclass(frozen=True)
class RobustFit:
    """The transform that one pair of images agrees on. If none is acceptable, there are no inliers
    and the transform is the identity.

    Attributes:
        inliers: which correspondences agree with the transform, one to one.
        transform: maps homogeneous ``(x, y, 1)``, thresholds.
    """

    inliers: Bool[Array, "*lanes m"]
    transform: Float[Array, "*lanes 3 3"]


def robust_fit(points: PointPairs, limits: Limits, *, effort: Effort) -> RobustFit:
    """The transform with most one-to-one inliers among those tried."""
    maps, possible = hypotheses(points, limits, pairs=effort.pairs, rotations=effort.rotations)
    score = jnp.where(possible, support(maps, points, effort.tolerances[0]), -1.0)
    maps, possible = _best(maps, score, effort.refined)
    maps = _refits(maps, points, effort.tolerances)
    score = jnp.where(
        possible & allowed(maps.linear, maps.antilinear, limits), support(maps, points, 1.0), -1.0
    )
    maps, possible = _best(maps, score, effort.finalists)
    # Start with wide tolerances again: a fit to part of the inliers then reaches the rest.
    matrices = as_matrices(_refits(maps, points, (*effort.tolerances, *[1.0] * effort.final_fits)))
    if effort.model == "homography":
        refine = partial(
            refine_homography, points=points, wide=effort.tolerances, fits=effort.final_fits
        )
        homographies = jax.vmap(refine)(matrices)
        matrices = jnp.concatenate([homographies, matrices])
        possible = jnp.concatenate([possible, possible])
    return _choose(matrices, possible, points, limits)


def hypotheses(
    points: PointPairs, limits: Limits, *, pairs: int, rotations: tuple[float, ...]
) -> tuple[Affine, Bool[Array, " h"]]:
    """Similarities through pairs of correspondences, then through single correspondences.

    Pair ``k`` joins correspondence ``k mod n`` with the one ``1 + k div n`` ranks below it,
    cyclically. So neighbours in rank come first, every correspondence is used equally often, and
    short lists are exhausted. A single correspondence takes the scale from its features, with their
    orientation if they have one, and is turned further by each of the rotations.

    Args:
        points: the correspondences.
        limits: what a similarity may do.
        pairs: number of pairs.
        rotations: rotations to try with each single correspondence, radians.

    Returns:
        The similarities, and which of them exist and are acceptable.
    """
    count = jnp.maximum(jnp.sum(points.valid, dtype=jnp.int32), 1)
    step = jnp.arange(pairs, dtype=jnp.int32)
    first = step % count
    second = (first + 1 + step // count) % count
    source = points.source[second] - points.source[first]
    target = points.target[second] - points.target[first]
    # Two points closer than a threshold say nothing about scale and rotation.
    apart = (jnp.abs(source) > 1.0) & (jnp.abs(target) > 1.0)
    linear = jnp.where(apart, target, 0.0) / jnp.where(apart, source, 1.0)
    turns = jnp.exp(1j * jnp.asarray(rotations, jnp.float32).astype(jnp.complex64))
    single = (turns[:, None] * points.enlargement.astype(jnp.complex64)[None, :]).reshape(-1)
    linear = jnp.concatenate([linear, single])
    maps = Affine(
        linear=linear,
        antilinear=jnp.zeros_like(linear),
        offset=jnp.concatenate(
            [points.target[first] + target / 2, jnp.tile(points.target, len(rotations))]
        ),
        centre=jnp.concatenate(
            [points.source[first] + source / 2, jnp.tile(points.source, len(rotations))]
        ),
    )
    exists = jnp.concatenate([apart & points.valid[first], jnp.tile(points.valid, len(rotations))])
    return maps, exists & allowed(maps.linear, maps.antilinear, limits)


def allowed(
    linear: Complex[Array, " h"], antilinear: Complex[Array, " h"], limits: Limits
) -> Bool[Array, " h"]:
    """Which affine maps keep the orientation and the limits of scale, anisotropy and rotation."""
    largest = jnp.abs(linear) + jnp.abs(antilinear)
    smallest = jnp.abs(linear) - jnp.abs(antilinear)
    sized = (smallest * limits.scale >= 1.0) & (largest <= limits.scale)
    return (
        sized
        & (largest <= limits.anisotropy * smallest)
        & (jnp.abs(jnp.angle(linear)) <= limits.rotation)
    )


def support(maps: Affine, points: PointPairs, tolerance: float) -> Float[Array, " h"]:
    """Score of each map: the sum over correspondences of ``weight · max(0, 1 − (r / tolerance)²)``.

    ``r`` is the residual; the tolerance is in thresholds. Source: the truncated quadratic of MSAC
    (Torr and Zisserman 2000), as a score rather than a cost.
    """
    coefficients = _coefficients(maps)

    def add(
        total: Float[Array, " h"], block: Float[Array, "block 5"]
    ) -> tuple[Float[Array, " h"], None]:
        for k in range(SCORE_BLOCK):
            dx, dy = _residual(coefficients, block[k])
            total = total + block[k, 4] * jnp.maximum(0.0, 1.0 - (dx * dx + dy * dy) / tolerance**2)
        return total, None

    start = jnp.zeros(maps.linear.shape, jnp.float32)
    total: Float[Array, " h"] = jax.lax.scan(add, start, _rows(points, SCORE_BLOCK))[0]
    return total


def _refits(maps: Affine, points: PointPairs, tolerances: tuple[float, ...]) -> Affine:
    schedule = jnp.asarray(tolerances, jnp.float32)
    fitted: Affine = jax.lax.scan(
        lambda current, step: (refit(current, points, step), None), maps, schedule
    )[0]
    return fitted


def refit(maps: Affine, points: PointPairs, tolerance: float | Float[Array, ""]) -> Affine:
    """Weighted least-squares fit of each map to the correspondences within ``tolerance`` of it.

    Minimises ``Σ g |q − offset − linear·p' − antilinear·conj(p')|² + ridge·|antilinear|²`` with
    ``p' = p − centre``. The weights ``g`` are the terms of :func:`support`, because a similarity is
    inaccurate far from its points. The ridge, a prior towards similarities, only decides what the
    points leave open. Maps with fewer than two inliers stay as they are.

    Args:
        maps: current estimates.
        points: the correspondences.
        tolerance: largest residual of a correspondence that takes part, thresholds.
    """
    g, x, y, xx, xy, yy, u, v, xu, xv, yu, yv = _moments(maps, points, tolerance)
    share = 1.0 / jnp.maximum(g, _TINY)
    mean_x, mean_y = x * share, y * share
    # Second moments about the means: of the source, then of source and target, the latter also as
    # complex products of the target with conj(source) and with the source.
    xx, xy, yy = xx - x * mean_x, xy - x * mean_y, yy - y * mean_y
    xu, xv, yu, yv = xu - u * mean_x, xv - v * mean_x, yu - u * mean_y, yv - v * mean_y
    straight, mirrored = jax.lax.complex(xu + yv, xv - yu), jax.lax.complex(xu - yv, xv + yu)
    trace, skew = xx + yy, jax.lax.complex(xx - yy, 2.0 * xy)
    ridge = _NOISE**2 / _STRETCH**2
    # |skew| ≤ trace, so ridge·trace bounds the determinant from below, even if the difference loses
    # its digits, as for points on a line.
    size = jnp.abs(skew)
    determinant = jnp.maximum((trace - size) * (trace + size), 0.0) + ridge * trace
    scale = jax.lax.complex(1.0 / jnp.maximum(determinant, _TINY), jnp.zeros_like(trace))
    trace, ridged = trace.astype(jnp.complex64), (trace + ridge).astype(jnp.complex64)
    fitted = Affine(
        linear=(straight * ridged - mirrored * jnp.conj(skew)) * scale,
        antilinear=(mirrored * trace - straight * skew) * scale,
        offset=jax.lax.complex(u * share, v * share),
        centre=jax.lax.complex(mean_x, mean_y),
    )
    # A single point has a trace of zero and does not determine a map.
    enough = determinant > _TINY
    kept: Affine = jax.tree.map(lambda new, old: jnp.where(enough, new, old), fitted, maps)
    return kept


def refine_homography(
    matrix: Float[Array, "3 3"], points: PointPairs, *, wide: tuple[float, ...], fits: int
) -> Float[Array, "3 3"]:
    """Homography by Gauss–Newton on the residuals in the target.

    The inliers are chosen anew before each step. Source coordinates are centred on them and scaled
    to a mean square of one, so that the two perspective parameters are the relative change of scale
    across the inliers. Source: Hartley 1997 (normalisation).

    Args:
        matrix: start, usually an affine map.
        points: the correspondences.
        wide: tolerances of the first steps, thresholds.
        fits: number of further steps, with a tolerance of one threshold.
    """
    inside = _inside(_project(matrix, points)[0], points, 1.0)
    share = inside / jnp.maximum(jnp.sum(inside), 1.0)
    x, y = points.source.real, points.source.imag
    middle_x, middle_y = jnp.sum(share * x), jnp.sum(share * y)
    radius = jnp.sqrt(
        jnp.maximum(jnp.sum(share * ((x - middle_x) ** 2 + (y - middle_y) ** 2)), _TINY)
    )
    zero, one = jnp.zeros_like(radius), jnp.ones_like(radius)
    outward = jnp.stack([radius, zero, middle_x, zero, radius, middle_y, zero, zero, one]).reshape(
        3, 3
    )
    inward = (
        jnp.stack([one, zero, -middle_x, zero, one, -middle_y, zero, zero, radius]).reshape(3, 3)
        / radius
    )
    centred = replace(
        points, source=jax.lax.complex((x - middle_x) / radius, (y - middle_y) / radius)
    )
    # Wider at first, because an affine map fits only the middle of a plane seen in perspective.
    tolerances = jnp.asarray([*wide, *[1.0] * fits], jnp.float32)
    refined: Float[Array, "3 3"] = jax.lax.scan(
        lambda current, tolerance: (_gauss_newton(current, centred, tolerance), None),
        _product(matrix, outward),
        tolerances,
    )[0]
    return _product(refined, inward)


def one_to_one(
    residual2: Float[Array, " m"], inside: Bool[Array, " m"], points: PointPairs
) -> Bool[Array, " m"]:
    """Inliers that remain if each point of either image is used at most once.

    This is the greedy choice by growing residual; of equal residuals, the more similar
    correspondence wins.

    Args:
        residual2: squared residuals, thresholds²; at most one where ``inside``.
        inside: correspondences to choose from.
        points: the correspondences, which may share end points.
    """
    slots = residual2.shape[0]
    index_bits = (slots - 1).bit_length()
    # One integer orders by residual, then by rank; it is unique, so no choice ever ties.
    steps = (jnp.clip(residual2, 0.0, 1.0) * float(2 ** (30 - index_bits) - 1)).astype(jnp.int32)
    key = (steps << index_bits) | jnp.arange(slots, dtype=jnp.int32)
    never = jnp.iinfo(jnp.int32).max

    def choose(
        state: tuple[Bool[Array, " m"], Bool[Array, " m"]],
    ) -> tuple[Bool[Array, " m"], Bool[Array, " m"]]:
        kept, left = state
        bid = jnp.where(left, key, never)
        first_source = jnp.full(slots, never).at[points.source_id].min(bid)[points.source_id]
        first_target = jnp.full(slots, never).at[points.target_id].min(bid)[points.target_id]
        won = left & (bid == first_source) & (bid == first_target)
        used_source = jnp.zeros(slots, bool).at[points.source_id].max(won)[points.source_id]
        used_target = jnp.zeros(slots, bool).at[points.target_id].max(won)[points.target_id]
        return kept | won, left & ~used_source & ~used_target

    start = (jnp.zeros(slots, bool), inside)
    kept: Bool[Array, " m"] = jax.lax.while_loop(lambda state: jnp.any(state[1]), choose, start)[0]
    return kept


def as_matrices(maps: Affine) -> Float[Array, "h 3 3"]:
    """The maps as matrices that act on homogeneous ``(x, y, 1)``."""
    a, b, c, d, e, f = _coefficients(maps)
    zero, one = jnp.zeros_like(a), jnp.ones_like(a)
    return jnp.stack([a, b, c, d, e, f, zero, zero, one], axis=-1).reshape(-1, 3, 3)


def _choose(
    matrices: Float[Array, "h 3 3"], possible: Bool[Array, " h"], points: PointPairs, limits: Limits
) -> RobustFit:
    """The acceptable transform with the most one-to-one inliers, and which these are.

    Ties go to the smaller mean squared residual.
    """

    def judge(
        matrix: Float[Array, "3 3"], exists: Bool[Array, ""]
    ) -> tuple[Bool[Array, " m"], Float[Array, ""]]:
        residual2, denominator = _project(matrix, points)
        inside = exists & points.valid & (residual2 <= 1.0) & (denominator > 0.0)
        kept = one_to_one(residual2, inside, points)
        sane = _sane(matrix, denominator, kept, points, limits)
        kept = kept & sane
        count = jnp.sum(kept, dtype=jnp.float32)
        return kept, count + 1.0 - jnp.sum(jnp.where(kept, residual2, 0.0)) / jnp.maximum(
            count, 1.0
        )

    kept, merit = jax.vmap(judge)(matrices, possible)
    best = jnp.argmax(merit)
    identity = jnp.eye(3, dtype=jnp.float32)
    return RobustFit(kept[best], jnp.where(jnp.any(kept[best]), matrices[best], identity))


def _sane(
    matrix: Float[Array, "3 3"],
    denominator: Float[Array, " m"],
    kept: Bool[Array, " m"],
    points: PointPairs,
    limits: Limits,
) -> Bool[Array, ""]:
    """Whether a transform is within the limits and its inliers spread in two directions.

    The inliers must spread in both images. The scale is checked at every inlier, the anisotropy and
    the rotation at their centre. The denominator is linear in the source: if it is positive at all
    inliers, no horizon crosses their hull.
    """
    share = jnp.where(kept, 1.0 / jnp.maximum(jnp.sum(kept, dtype=jnp.float32), 1.0), 0.0)
    narrow = jnp.minimum(_narrowest(points.source, share), _narrowest(points.target, share))
    centre = jnp.stack(
        [jnp.sum(share * points.source.real), jnp.sum(share * points.source.imag), 1.0]
    )
    mapped = _product(matrix, centre)
    # Derivative of the map at the centre: (A − q·gᵀ) / denominator.
    slope = (matrix[:2, :2] - (mapped[:2] / mapped[2])[:, None] * matrix[2:, :2]) / mapped[2]
    linear = jax.lax.complex(slope[0, 0] + slope[1, 1], slope[1, 0] - slope[0, 1]) / 2
    antilinear = jax.lax.complex(slope[0, 0] - slope[1, 1], slope[1, 0] + slope[0, 1]) / 2
    # A homography maps a unit square to the area det H / denominator³.
    area = jnp.linalg.det(matrix) / jnp.maximum(denominator, _TINY) ** 3
    sized = (denominator > 0.0) & (area * limits.scale**2 >= 1.0) & (area <= limits.scale**2)
    central: Bool[Array, ""] = allowed(linear[None], antilinear[None], limits)[0] & (
        mapped[2] > 0.0
    )
    return central & jnp.all(sized | ~kept) & (narrow >= limits.spread**2)


def _narrowest(at: Complex[Array, " m"], share: Float[Array, " m"]) -> Float[Array, ""]:
    """Smallest variance of points along any direction; the weights ``share`` sum to one."""
    x, y = at.real, at.imag
    dx, dy = x - jnp.sum(share * x), y - jnp.sum(share * y)
    xx, xy, yy = jnp.sum(share * dx * dx), jnp.sum(share * dx * dy), jnp.sum(share * dy * dy)
    return (xx + yy - jnp.sqrt((xx - yy) ** 2 + 4.0 * xy * xy)) / 2.0


def _gauss_newton(
    matrix: Float[Array, "3 3"], points: PointPairs, tolerance: Float[Array, ""]
) -> Float[Array, "3 3"]:
    """One Gauss–Newton step on the eight free parameters, with a prior against perspective."""
    matrix = matrix / matrix[2, 2]
    residual2, denominator = _project(matrix, points)
    weight = jnp.where(denominator > _TINY, _inside(residual2, points, tolerance), 0.0)
    x, y, one = points.source.real, points.source.imag, jnp.ones_like(residual2)
    mapped = _product(jnp.stack([x, y, one], axis=-1), matrix.T)
    safe = jnp.maximum(denominator, _TINY)
    u, v = mapped[:, 0] / safe, mapped[:, 1] / safe
    zero = jnp.zeros_like(x)
    along_x = jnp.stack([x, y, one, zero, zero, zero, -u * x, -u * y]) / safe[None]
    along_y = jnp.stack([zero, zero, zero, x, y, one, -v * x, -v * y]) / safe[None]
    prior = jnp.zeros(8, jnp.float32).at[6:].set(_NOISE**2 / _PERSPECTIVE**2)
    # Parameters that fewer than four inliers leave undetermined keep their values.
    normal = (
        _product(along_x * weight[None], along_x.T)
        + _product(along_y * weight[None], along_y.T)
        + jnp.diag(prior + _TINY)
    )
    pull = _product(along_x, weight * (points.target.real - u)) + _product(
        along_y, weight * (points.target.imag - v)
    )
    parameters = matrix.reshape(9)[:8]
    moved = parameters + jnp.linalg.solve(normal, pull - prior * parameters)
    return jnp.append(moved, 1.0).reshape(3, 3)


def _project(
    matrix: Float[Array, "3 3"], points: PointPairs
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Squared residuals in the target (thresholds²), and the denominators of the projection."""
    x, y = points.source.real, points.source.imag
    denominator = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    safe = jnp.where(jnp.abs(denominator) > _TINY, denominator, _TINY)
    dx = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / safe - points.target.real
    dy = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / safe - points.target.imag
    return dx * dx + dy * dy, denominator


def _inside(
    residual2: Float[Array, " m"], points: PointPairs, tolerance: float | Float[Array, ""]
) -> Float[Array, " m"]:
    """Weights of the correspondences within ``tolerance``; zero for the others."""
    return jnp.where(residual2 <= tolerance**2, points.weight, 0.0)


def _rows(points: PointPairs, block: int) -> Float[Array, "steps block 5"]:
    """Correspondences as rows (source x, y, target x, y, weight), in blocks for the loops."""
    parts = [
        points.source.real,
        points.source.imag,
        points.target.real,
        points.target.imag,
        points.weight,
    ]
    return jnp.stack(parts, axis=-1).reshape(-1, block, 5)


def _best(maps: Affine, score: Float[Array, " h"], count: int) -> tuple[Affine, Bool[Array, " k"]]:
    """The ``count`` maps with the highest scores, and which of the scores are above zero.

    Equal scores keep their order.
    """
    value, index = jax.lax.top_k(score, min(count, score.shape[0]))
    return jax.tree.map(lambda part: part[index], maps), value > 0.0


def _coefficients(maps: Affine) -> tuple[Float[Array, " h"], ...]:
    """``(a, b, c, d, e, f)`` of ``x' = a·x + b·y + c`` and ``y' = d·x + e·y + f``."""
    a = maps.linear.real + maps.antilinear.real
    b = maps.antilinear.imag - maps.linear.imag
    d = maps.linear.imag + maps.antilinear.imag
    e = maps.linear.real - maps.antilinear.real
    x, y = maps.centre.real, maps.centre.imag
    return a, b, maps.offset.real - a * x - b * y, d, e, maps.offset.imag - d * x - e * y


def _residual(coefficients: Sequence[Array], row: Array) -> tuple[Array, Array]:
    """Target minus mapped source, as x and y.

    ``row`` holds (source x, y, target x, y, …), each of which broadcasts over the maps.
    """
    a, b, c, d, e, f = coefficients
    return row[2] - (a * row[0] + b * row[1] + c), row[3] - (d * row[0] + e * row[1] + f)


def _moments(
    maps: Affine, points: PointPairs, tolerance: float | Float[Array, ""]
) -> Float[Array, "moments h"]:
    """Weighted sums of 1, x, y, xx, xy, yy, u, v, xu, xv, yu, yv over the inliers of each map.

    The source is (x, y), the target (u, v).
    """
    coefficients = [coefficient[None] for coefficient in _coefficients(maps)]
    x, y, u, v = points.source.real, points.source.imag, points.target.real, points.target.imag
    monomials = jnp.stack(
        [jnp.ones_like(x), x, y, x * x, x * y, y * y, u, v, x * u, x * v, y * u, y * v], axis=-1
    )
    block = min(FIT_BLOCK, x.shape[0])

    def add(
        sums: Float[Array, "moments h"],
        blocks: tuple[Float[Array, "block 5"], Float[Array, "block moments"]],
    ) -> tuple[Float[Array, "moments h"], None]:
        row = blocks[0].T[:, :, None]
        dx, dy = _residual(coefficients, row)
        share = row[4] * jnp.maximum(0.0, 1.0 - (dx * dx + dy * dy) / tolerance**2)
        return sums + _product(blocks[1].T, share), None

    start = jnp.zeros((monomials.shape[1], maps.linear.shape[0]), jnp.float32)
    parts = (_rows(points, block), monomials.reshape(-1, block, monomials.shape[1]))
    sums: Float[Array, "moments h"] = jax.lax.scan(add, start, parts)[0]
    return sums
