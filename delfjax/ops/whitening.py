"""Whitening of global descriptors on the host, in float64: a shift and a projection, then L2.

* PCA whitening (Jégou and Chum 2012) divides each principal component by its standard deviation.
  A PCA of few descriptors overstates how small the small variances are, and dividing by them ruins
  the descriptors; a share of the mean variance, added to each, prevents that.
* Learned whitening Lw (Radenović et al. 2016, siaMAC; after Mikolajczyk and Matas 2007) learns from
  pairs that show one thing: it whitens the differences within pairs and then rotates to the
  principal directions of what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from delfjax.device import one_blas_thread
from delfjax.errors import DelfjaxError

# Rows that are converted to float64 at a time.
_ROWS = 8192
# A variance below this share of the largest counts as zero: float64 carries 16 digits, and a sum
# over many descriptors loses some of them.
_ZERO = 1e-12
# Share of the mean variance that is added where pairs are too few to estimate every variance within
# them. Source: ours; a hundredth limits what a direction without any variance gains to ten times
# the gain of an average one.
_SINGULAR_SHARE = 1e-2


class WhiteningError(DelfjaxError):
    """A whitening cannot be fitted, or does not fit the descriptors that it is applied to."""


@dataclass(frozen=True)
class Projection:
    """A shift and a linear map, followed by L2: a whitening, or the projection of DIR's regions.

    Attributes:
        shift: subtracted first.
        matrix: applied from the right; its columns are the directions that are kept.
    """

    shift: Float[np.ndarray, " c"]
    matrix: Float[np.ndarray, "c d"]

    def __call__(self, descriptors: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n d"]:
        """L2-normalised rows of ``(x − shift) · matrix``, float32, computed in float64.

        A descriptor of zeros, which an image too small for the network has, stays one.

        Raises:
            WhiteningError: the descriptors have another length than those it was fitted on, or hold
                values that are not finite.
        """
        _require_finite(descriptors)
        if descriptors.shape[1] != len(self.shift):
            raise WhiteningError(
                f"descriptors have {descriptors.shape[1]} dimensions, but the whitening was fitted"
                f" on {len(self.shift)}"
            )
        found = np.zeros((len(descriptors), self.matrix.shape[1]), np.float32)
        shift = self.shift.astype(np.float64)
        matrix = self.matrix.astype(np.float64)
        with one_blas_thread():
            for start in range(0, len(descriptors), _ROWS):
                rows = descriptors[start : start + _ROWS].astype(np.float64)
                mapped = (rows - shift) @ matrix
                mapped *= rows.any(axis=1, keepdims=True)
                norms = np.linalg.norm(mapped, axis=1, keepdims=True)
                found[start : start + _ROWS] = mapped / np.maximum(norms, np.finfo(float).tiny)
        return found


def pca_whitening(
    descriptors: Float[np.ndarray, "n c"], *, dim: int = 0, shrinkage: float = 1.0
) -> Projection:
    """PCA whitening: each principal component divided by ``√(its variance + shrinkage · mean
    variance)``, largest variance first.

    The sign of each direction is chosen to make its entry of largest magnitude positive.

    Args:
        descriptors: one per row.
        dim: dimensions kept; 0 keeps all.
        shrinkage: share of the mean variance; 0 is plain whitening.

    Raises:
        WhiteningError: there are fewer than two descriptors, all are equal, they hold values that
            are not finite, or they do not span ``dim`` dimensions and nothing is added.
    """
    count, channels = descriptors.shape
    kept = _kept(dim, channels)
    if count < 2:
        raise WhiteningError(f"a PCA needs at least 2 descriptors, got {count}")
    _require_finite(descriptors)
    with one_blas_thread():
        mean = descriptors.mean(axis=0, dtype=np.float64)
        moment = _second_moment(descriptors, mean) / (count - 1)
        variances, directions = _descending(moment)
    if variances[0] <= 0:
        raise WhiteningError(f"all {count} descriptors are equal, so no PCA can be fitted on them")
    spread = np.maximum(variances, 0) + shrinkage * variances.mean()
    spanned = int((spread > _ZERO * variances[0]).sum())
    if spanned < kept:
        raise WhiteningError(
            f"{count} descriptors span only {spanned} of {kept} dimensions; keep at most {spanned},"
            " or set a shrinkage above 0"
        )
    return Projection(mean, directions[:, :kept] / np.sqrt(spread[:kept]))


def learned_whitening(
    descriptors: Float[np.ndarray, "n c"], pairs: Int[np.ndarray, "p 2"], *, dim: int = 0
) -> Projection:
    """Learned whitening Lw from pairs of descriptors that show one thing.

    With ``m`` the mean of the queries, ``C_S`` the mean of ``(q − p)(q − p)ᵀ`` over the pairs and
    ``L Lᵀ = C_S`` its Cholesky factors, the directions are the eigenvectors of the covariance of
    ``L⁻¹ (x − m)`` over all descriptors, largest eigenvalue first. Where pairs do not determine
    every variance (fewer pairs than dimensions, for instance), a hundredth of the mean variance is
    added to each.

    Args:
        descriptors: all descriptors, one per row.
        pairs: rows of a query and of its positive; a query may have several.
        dim: dimensions kept; 0 keeps all.

    Raises:
        WhiteningError: there are fewer than two pairs, a pair names no descriptor, the positives
            equal their queries, or a descriptor holds values that are not finite.
    """
    count, channels = descriptors.shape
    kept = _kept(dim, channels)
    if len(pairs) < 2:
        raise WhiteningError(f"a learned whitening needs at least 2 pairs, got {len(pairs)}")
    if pairs.min() < 0 or pairs.max() >= count:
        raise WhiteningError(
            f"pairs name the descriptors {pairs.min()} to {pairs.max()}, but there are {count}"
        )
    _require_finite(descriptors)
    queries, positives = (descriptors[side].astype(np.float64) for side in pairs.T)
    mean = queries.mean(axis=0)
    with one_blas_thread():
        within = (queries - positives).T @ (queries - positives) / len(pairs)
        inverse = np.linalg.inv(np.linalg.cholesky(_regular(within)))
        moment = inverse @ _second_moment(descriptors, mean) @ inverse.T / count
        _, directions = _descending(moment)
        return Projection(mean, inverse.T @ directions[:, :kept])


def _regular(within: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c c"]:
    """A covariance with a little added to each variance if it is singular."""
    variances = np.linalg.eigvalsh(within)
    if variances[-1] <= 0:
        raise WhiteningError(
            "the positives equal their queries, so no whitening can be learned from them"
        )
    if variances[0] > _ZERO * variances[-1]:
        return within
    regular: np.ndarray = within + _SINGULAR_SHARE * variances.mean() * np.eye(len(within))
    return regular


def _second_moment(
    descriptors: Float[np.ndarray, "n c"], mean: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "c c"]:
    """Sum of ``(x − mean)(x − mean)ᵀ``."""
    total = np.zeros((len(mean), len(mean)))
    for start in range(0, len(descriptors), _ROWS):
        centred = descriptors[start : start + _ROWS].astype(np.float64) - mean
        total += centred.T @ centred
    return total


def _descending(
    moment: Float[np.ndarray, "c c"],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c c"]]:
    """Eigenvalues, largest first, and eigenvectors in columns, the entry of largest magnitude of
    each positive."""
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))]
    return values, vectors * np.sign(largest)


def _kept(dim: int, channels: int) -> int:
    if not 0 <= dim <= channels:
        raise WhiteningError(
            f"{dim} dimensions are to be kept of {channels}; expected 1 to {channels}, or 0 for all"
        )
    return dim or channels


def _require_finite(descriptors: Float[np.ndarray, "n c"]) -> None:
    finite = np.isfinite(descriptors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise WhiteningError(
            f"descriptor {row} holds values that are not finite; expected numbers alone"
        )
