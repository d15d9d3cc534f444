"""The search pipeline: query features → putative matches → shortlist → geometric verification →
ranked list."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from delfjax.config import SearchConfig, VerificationConfig
from delfjax.ops.half_pixel import resize_matrices, to_resized_px
from delfjax.ops.matching import mutual_nearest
from delfjax.retrieval.local_index import LocalIndex, PutativeMatches
from delfjax.retrieval.verification import verify
from delfjax.types import Array, ImageFeatures, LocalFeatures, Matches, Verification

# Share of a shortlist that has to match for the next one to be verified, too: copies of one photo
# must not keep other photos from being verified.
_CROWDED_SHORTLIST = 0.9


@dataclass(frozen=True)
class VerifiedMatches:
    """Matches of the query with one database image, and the result of their verification.

    Attributes:
        query_yx: matched query keypoints, pixels of the original image.
        database_yx: matched database keypoints, pixels of the original image.
        cosine: cosine of each match's two descriptors.
        inlier: which matches agree with ``transform``.
        transform: maps query ``(x, y, 1)`` to database ``(x, y, 1)``.
    """

    query_yx: Float[np.ndarray, "m 2"]
    database_yx: Float[np.ndarray, "m 2"]
    cosine: Float[np.ndarray, " m"]
    inlier: Bool[np.ndarray, " m"]
    transform: Float[np.ndarray, "3 3"]

    @property
    def evidence(self) -> float:
        """Sum of the inliers' squared cosines.

        Unrelated photos have inliers too, of matches that merely happened to be the best; but
        those are hardly similar. The square discounts them.
        """
        return float(np.square(self.cosine[self.inlier].clip(0), dtype=np.float64).sum())


@dataclass(frozen=True)
class RankedList:
    """The ranked list of one query, best first.

    Attributes:
        images: every database image: the verified shortlist, then other images with a match, then
            images without one.
        votes: number of putative matches of each image.
        inliers: number of verified matches of each image; zero if it was not verified.
        by_votes: the images in their order before verification.
        correspondences: image → verified matches, for the images that were verified.
    """

    images: Int[np.ndarray, " images"]
    votes: Int[np.ndarray, " images"]
    inliers: Int[np.ndarray, " images"]
    by_votes: Int[np.ndarray, " images"]
    correspondences: dict[int, VerifiedMatches]


def search(
    index: LocalIndex,
    query: ImageFeatures,
    *,
    config: SearchConfig,
    verification: VerificationConfig,
) -> RankedList:
    """Rank every database image for one query, by inliers and then by votes.

    Args:
        index: the index of the database.
        query: unreduced features of the query image, extracted with the config of the index.
        config: number of neighbours and length of the shortlist.
        verification: geometric model and tolerance.
    """
    return search_reduced(
        index,
        reduced_features(index, query),
        query.image_size,
        config=config,
        verification=verification,
    )


def reduced_features(index: LocalIndex, image: ImageFeatures) -> LocalFeatures:
    """The local features of an image with its descriptors reduced as those of the index."""
    return dataclasses.replace(
        image.local, descriptors=index.reduction(np.asarray(image.local.descriptors))
    )


def search_reduced(
    index: LocalIndex,
    query: LocalFeatures,
    image_size: tuple[int, int],
    *,
    config: SearchConfig,
    verification: VerificationConfig,
) -> RankedList:
    """:func:`search` for features that are reduced already, such as those of a database image.

    Args:
        index: the index of the database.
        query: reduced features of the query image.
        image_size: height and width of the original query image, pixels.
        config: number of neighbours and length of the shortlist.
        verification: geometric model and tolerance.
    """
    putative = index.putative_matches(
        np.asarray(query.descriptors),
        neighbours=config.neighbours,
        crowded=config.crowded_cosine,
    )
    verified = _verify_shortlist(index, query, image_size, putative, config, verification)
    inliers = np.zeros(len(index.names), np.int64)
    inliers[: len(verified)] = [int(matches.inlier.sum()) for matches in verified]
    unmatched = np.setdiff1d(np.arange(len(index.names)), putative.images)
    votes = np.concatenate([putative.votes, np.zeros(len(unmatched), np.int64)])
    by_votes = np.concatenate([putative.images, unmatched])
    # The sort is stable: images without inliers, as all that were not verified, keep their order.
    ranked = np.argsort(-inliers, kind="stable")
    return RankedList(
        images=by_votes[ranked],
        votes=votes[ranked],
        inliers=inliers[ranked],
        by_votes=by_votes,
        correspondences=dict(zip(putative.images.tolist(), verified, strict=False)),
    )


def _verify_shortlist(
    index: LocalIndex,
    query: LocalFeatures,
    image_size: tuple[int, int],
    putative: PutativeMatches,
    config: SearchConfig,
    verification: VerificationConfig,
) -> list[VerifiedMatches]:
    """Verify the images with most votes: a shortlist, and another as long as nearly all match."""
    query_factor = _downscale_factors(np.array([image_size]), index.config.features.max_side)
    verified: list[VerifiedMatches] = []
    for start in range(0, len(putative.images), config.shortlist):
        block = slice(start, min(start + config.shortlist, len(putative.images)))
        matches = _matches(index, query, putative, block)
        factors = _downscale_factors(
            index.image_sizes[putative.images[block]], index.config.features.max_side
        )
        found = _verify_downscaled(
            matches, np.repeat(query_factor, len(factors)), factors, verification
        )
        verified += [_correspondences(matches, found, row) for row in range(len(factors))]
        matching = np.asarray(found.inliers) >= verification.min_inliers
        if config.crowded_cosine == 1 or matching.mean() < _CROWDED_SHORTLIST:
            break
    return verified


def compare(
    index: LocalIndex,
    query: ImageFeatures,
    images: Sequence[int],
    *,
    verification: VerificationConfig,
) -> list[VerifiedMatches]:
    """Match a query with some database images, each on its own, as :func:`match_pair` does.

    How many neighbours of the query's features lie in an image depends on what else the database
    holds. In a small one, nearly every feature has a neighbour in every image, and many inliers
    arise by chance. Mutual nearest neighbours of two images mean the same in any database.

    Args:
        index: the index of the database.
        query: unreduced features of the query image, extracted with the config of the index.
        images: numbers of the database images.
        verification: geometric model and tolerance.
    """
    if not len(images):
        return []
    reduced = reduced_features(index, query)
    max_side = index.config.features.max_side
    query_factors = np.repeat(
        _downscale_factors(np.array([query.image_size]), max_side), len(images)
    )
    factors = _downscale_factors(index.image_sizes[np.asarray(images)], max_side)
    matches = _stacked([_mutual_matches(reduced, index.features(image)) for image in images])
    verified = _verify_downscaled(matches, query_factors, factors, verification)
    return [_correspondences(matches, verified, row) for row in range(len(images))]


def verify_candidates(
    index: LocalIndex,
    query: ImageFeatures,
    candidates: Int[np.ndarray, " c"],
    *,
    votes: Int[np.ndarray, " images"],
    preference: Float[np.ndarray, " images"],
    verification: VerificationConfig,
) -> RankedList:
    """Verify images that something else has found, each on its own (:func:`compare`).

    Args:
        index: the index of the database.
        query: unreduced features of the query image, extracted with the config of the index.
        candidates: numbers of the images to verify.
        votes: votes of every image, for the list returned.
        preference: orders images with equally many inliers, such as those that are not verified.
        verification: geometric model and tolerance.
    """
    verified = compare(index, query, candidates.tolist(), verification=verification)
    inliers = np.zeros(len(preference), np.int64)
    inliers[candidates] = [int(matches.inlier.sum()) for matches in verified]
    preferred = np.argsort(-preference, kind="stable")
    ranked = preferred[np.argsort(-inliers[preferred], kind="stable")]
    return RankedList(
        images=ranked,
        votes=votes[ranked],
        inliers=inliers[ranked],
        by_votes=preferred,
        correspondences=dict(zip(candidates.tolist(), verified, strict=True)),
    )


def match_pair(
    first: ImageFeatures, second: ImageFeatures, *, verification: VerificationConfig, max_side: int
) -> VerifiedMatches:
    """Mutual nearest neighbours of two images' unreduced descriptors, verified geometrically.

    Args:
        first: features of the image that the transform maps from.
        second: features of the image that it maps to.
        verification: geometric model and tolerance.
        max_side: limit on the longer side, pixels; larger images were downscaled to it before
            extraction.
    """
    matches = _mutual_matches(first.local, second.local)
    first_factor, second_factor = (
        _downscale_factors(np.array([image.image_size]), max_side) for image in (first, second)
    )
    return _correspondences(
        matches, _verify_downscaled(matches, first_factor, second_factor, verification), 0
    )


def _mutual_matches(first: LocalFeatures, second: LocalFeatures) -> Matches:
    size = _padded_size(max(len(first.scales), len(second.scales)))
    nearest, cosine, mutual = jax.device_get(
        _mutual_nearest()(
            _rows(first.descriptors, size),
            _rows(second.descriptors, size),
            _rows(first.valid, size),
            _rows(second.valid, size),
        )
    )
    mine = np.flatnonzero(mutual)
    theirs = nearest[mine]
    return Matches(
        query_yx=np.asarray(first.keypoints_yx)[None, mine],
        database_yx=np.asarray(second.keypoints_yx)[None, theirs],
        query_scales=np.asarray(first.scales)[None, mine],
        database_scales=np.asarray(second.scales)[None, theirs],
        similarity=cosine[None, mine],
        valid=np.ones((1, len(mine)), bool),
        turns=_turns(first.orientations, second.orientations, mine[None], theirs[None]),
    )


def _turns(
    first: Array | None,
    second: Array | None,
    mine: Int[np.ndarray, "candidates m"],
    theirs: Int[np.ndarray, "candidates m"],
) -> Float[np.ndarray, "candidates m"] | None:
    """How far the second feature of each match is turned from the first, radians."""
    if first is None or second is None:
        return None
    return np.asarray(np.asarray(second)[theirs] - np.asarray(first)[mine], np.float32)


def _stacked(pairs: Sequence[Matches]) -> Matches:
    """Matches of several pairs of images, padded to the longest list."""
    longest = max(pair.valid.shape[1] for pair in pairs)

    def padded(part: np.ndarray | jax.Array) -> np.ndarray:
        room = [(0, 0)] * np.ndim(part)
        room[1] = (0, longest - np.shape(part)[1])
        return np.pad(np.asarray(part), room)

    fields = {
        name: np.concatenate([padded(getattr(pair, name)) for pair in pairs])
        for name, part in vars(pairs[0]).items()
        if part is not None
    }
    return Matches(**fields)


def _downscale_factors(sizes: Int[np.ndarray, "n 2"], max_side: int) -> Float[np.ndarray, " n"]:
    """Scale factor at which each image was extracted: 1, or less if it was downscaled."""
    longer: np.ndarray = np.asarray(sizes).max(axis=1, initial=1)
    return np.asarray(np.minimum(1.0, max_side / longer))


def _verify_downscaled(
    matches: Matches,
    query_factors: Float[np.ndarray, " candidates"],
    database_factors: Float[np.ndarray, " candidates"],
    config: VerificationConfig,
) -> Verification:
    """Verify in the pixels of the downscaled images, where the tolerance has the same meaning for
    photos of any size; the transform returned is for original pixels."""
    downscaled = dataclasses.replace(
        matches,
        query_yx=_resized(np.asarray(matches.query_yx), query_factors),
        database_yx=_resized(np.asarray(matches.database_yx), database_factors),
    )
    verified = verify(downscaled, config=config)
    downscale = resize_matrices(query_factors)
    enlarge = resize_matrices(1 / database_factors)
    transform = np.asarray(verified.transform, np.float64)
    found = (np.asarray(verified.inliers) > 0)[:, None, None]
    original = np.where(found, enlarge @ transform @ downscale, transform)
    return dataclasses.replace(verified, transform=original.astype(np.float32))


def _resized(
    points_yx: Float[np.ndarray, "candidates m 2"], factors: Float[np.ndarray, " candidates"]
) -> Float[np.ndarray, "candidates m 2"]:
    return np.asarray(to_resized_px(points_yx, factors[:, None, None]), np.float32)


def _matches(
    index: LocalIndex, query: LocalFeatures, putative: PutativeMatches, block: slice
) -> Matches:
    """Putative matches of a block of images, padded to the longest list of matches."""
    votes = putative.votes[block]
    longest = int(votes.max(initial=0))
    slot = np.arange(longest)[None]
    valid = slot < votes[:, None]
    pick = np.where(valid, putative.starts[:-1][block, None] + slot, 0)
    mine, theirs = putative.query_index[pick], putative.database_index[pick]
    return Matches(
        query_yx=np.asarray(query.keypoints_yx)[mine],
        database_yx=np.asarray(index.keypoints_yx)[theirs],
        query_scales=np.asarray(query.scales)[mine],
        database_scales=np.asarray(index.scales)[theirs],
        similarity=putative.cosine[pick],
        valid=valid,
        turns=_turns(query.orientations, index.orientations, mine, theirs),
    )


def _correspondences(matches: Matches, verified: Verification, row: int) -> VerifiedMatches:
    held = np.asarray(matches.valid)[row]
    return VerifiedMatches(
        query_yx=np.asarray(matches.query_yx)[row][held],
        database_yx=np.asarray(matches.database_yx)[row][held],
        cosine=np.asarray(matches.similarity)[row][held],
        inlier=np.asarray(verified.inlier_mask)[row][held],
        transform=np.asarray(verified.transform)[row],
    )


@cache
def _mutual_nearest() -> jax.stages.Wrapped:
    return jax.jit(mutual_nearest)


def _padded_size(count: int) -> int:
    # With powers of two, a few compiled programs serve pairs with any number of features.
    return max(64, 1 << (count - 1).bit_length())


def _rows(values: np.ndarray | jax.Array, size: int) -> np.ndarray:
    values = np.asarray(values)
    return np.concatenate([values, np.zeros((size - len(values), *values.shape[1:]), values.dtype)])
