"""Array pytrees that the rooms of the library exchange, and what makes a class such a pytree.

Conventions (never contradicted): images are NHWC RGB; coordinates are ``(y, x)`` in pixels of the
original image with pixel centres at integers; boxes are ``(y0, x0, y1, x1)``; ``scale`` is the
factor applied to the image (0.25 … 2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax import export
from jaxtyping import Bool, Float, Int

T = TypeVar("T")

Array = jax.Array | np.ndarray


def storable(kind: type[T]) -> type[T]:
    """Make a dataclass of arrays a pytree, and one that a stored program
    (:class:`~delfjax.programs.StoredProgram`) can return."""

    def assembled(aux_data: object, children: Sequence[object]) -> T:
        # Of a program that is read, these are shapes: a constructor that checks would refuse them.
        made = object.__new__(kind)
        vars(made).update(zip(names, children, strict=True))
        return made

    jax.tree_util.register_dataclass(kind)
    names = [field.name for field in fields(cast(Any, kind))]
    return export.register_pytree_node_serialization(
        kind,
        serialized_name=f"{kind.__module__}.{kind.__qualname__}",
        serialize_auxdata=lambda _: b"",
        deserialize_auxdata=lambda _: (),
        from_children=assembled,
    )


@storable
@dataclass(frozen=True)
class LocalFeatures:
    """Local features of one image, or of a batch padded to a common number of features.

    Attributes:
        keypoints_yx: centres of the receptive fields, pixels of the original image.
        scales: image scale of each feature, the factor that was applied to the image.
        scores: attention scores, not negative, larger is more relevant; zero where not valid.
        descriptors: L2-normalised rows; zero where not valid.
        valid: which of the ``n`` slots hold a feature; an image may have none.
        orientations: direction of each feature, radians from the x axis towards the y axis;
            ``None`` of a method whose features have none.
    """

    keypoints_yx: Float[Array, "*batch n 2"]
    scales: Float[Array, "*batch n"]
    scores: Float[Array, "*batch n"]
    descriptors: Float[Array, "*batch n d"]
    valid: Bool[Array, "*batch n"]
    orientations: Float[Array, "*batch n"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Matches:
    """Putative matches of one query image with database images, padded to ``m`` for each.

    Attributes:
        query_yx: matched keypoints in the query, pixels.
        database_yx: matched keypoints in the database images, pixels.
        query_scales: image scale of each query feature.
        database_scales: image scale of each database feature.
        similarity: cosine of the two descriptors of a match.
        valid: which slots hold a match.
        turns: how far each database feature is turned from the query feature, radians from the x
            axis towards the y axis; ``None`` if the features have no orientation.
    """

    query_yx: Float[Array, "*candidates m 2"]
    database_yx: Float[Array, "*candidates m 2"]
    query_scales: Float[Array, "*candidates m"]
    database_scales: Float[Array, "*candidates m"]
    similarity: Float[Array, "*candidates m"]
    valid: Bool[Array, "*candidates m"]
    turns: Float[Array, "*candidates m"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Verification:
    """Outcome of geometric verification.

    Attributes:
        inliers: number of one-to-one matches consistent with ``transform``.
        inlier_mask: which of the ``m`` matches these are.
        transform: maps homogeneous query ``(x, y, 1)`` to database ``(x, y, 1)``, pixels; identity
            if no transform was found.
    """

    inliers: Int[Array, "*candidates"]
    inlier_mask: Bool[Array, "*candidates m"]
    transform: Float[Array, "*candidates 3 3"]


@dataclass(frozen=True)
class ImageFeatures:
    """The features of one image, on the host, without padding.

    Attributes:
        local: local features, all of them valid; may be empty.
        global_descriptor: L2-normalised; ``None`` if it was not extracted.
        image_size: rows and columns of the original image, pixels.
        content_hash: digest of the bytes of the image file.
    """

    local: LocalFeatures
    global_descriptor: Float[np.ndarray, " g"] | None
    image_size: tuple[int, int]
    content_hash: str
