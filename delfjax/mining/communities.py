"""Communities of a graph of photos: each is one landmark, even where single photos show two.

Connected components would chain: a single photo of two landmarks, or a single wrong edge, would
make them one. Here two edges belong together when they are sides of the same triangle, that is of
three photos that all match each other. A community is a chain of triangles that share sides. A
bridge between two landmarks is in no triangle, and triangles that share only one photo stay apart.

Source: Palla et al. 2005, "Uncovering the overlapping community structure of complex networks"
    (cliques of three).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from delfjax.config import MiningConfig


def landmark_communities(
    pairs: Int64[np.ndarray, "pairs 2"],
    inliers: Int64[np.ndarray, " pairs"],
    *,
    count: int,
    config: MiningConfig,
) -> Int64[np.ndarray, " count"]:
    """The landmark that each photo shows.

    A photo in several communities goes to the one it shares most inliers with; ties go to the
    earlier community.

    Args:
        pairs: verified pairs ``i < j`` in ascending order.
        inliers: inliers of each pair.
        count: number of photos.
        config: least number of inliers of an edge, and of photos of a landmark.

    Returns:
        Landmark of each photo; −1 for none. Landmarks are numbered from 0 by falling number of
        photos (ties: by their lowest photo).
    """
    joined = inliers >= config.min_inliers
    edges = pairs[joined]
    strength = inliers[joined]
    community = triangle_communities(edges, count=count)
    held = community >= 0
    photo = np.concatenate([edges[held, 0], edges[held, 1]])
    total = _summed(photo, np.tile(community[held], 2), np.tile(strength[held], 2))
    landmarks = np.full(count, -1, np.int64)
    order = np.lexsort((total[:, 1], -total[:, 2], total[:, 0]))
    photos, first = np.unique(total[order, 0], return_index=True)
    landmarks[photos] = total[order[first], 1]
    return _by_size(landmarks, config.min_photos)


def triangle_communities(
    edges: Int64[np.ndarray, "edges 2"], *, count: int
) -> Int64[np.ndarray, " edges"]:
    """Community of each edge: all edges that can be reached through triangles with common sides.

    Args:
        edges: ``i < j`` in ascending order, each once.
        count: number of nodes.

    Returns:
        Numbers from 0 in the order of the communities' first edges; −1 for an edge in no triangle.
    """
    sides = triangles(edges, count=count)
    size = len(edges)
    links = np.concatenate([sides[:, :2], sides[:, 1:]])
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(size, size))
    label = (
        connected_components(graph, directed=False)[1].astype(np.int64)
        if size
        else np.empty(0, np.int64)
    )
    community = np.full(size, -1, np.int64)
    inside = np.unique(sides)
    _, first, inverse = np.unique(label[inside], return_index=True, return_inverse=True)
    community[inside] = np.argsort(np.argsort(first))[inverse]
    return community


def triangles(
    edges: Int64[np.ndarray, "edges 2"], *, count: int
) -> Int64[np.ndarray, "triangles 3"]:
    """The triangles of a graph, each as the numbers of its three edges.

    Args:
        edges: ``i < j`` in ascending order, each once.
        count: number of nodes.

    Returns:
        One row for each triangle of nodes ``i < j < k``: the numbers of its edges ``(i, j)``,
        ``(j, k)`` and ``(i, k)``.
    """
    starts = np.searchsorted(edges[:, 0], np.arange(count + 1))
    second = edges[:, 1]
    # From each edge (i, j) to each edge (j, k): is there an edge (i, k)?
    steps = starts[second + 1] - starts[second]
    lower = np.repeat(np.arange(len(edges)), steps)
    upper = (
        np.arange(len(lower))
        - np.repeat(np.cumsum(steps) - steps, steps)
        + np.repeat(starts[second], steps)
    )
    key = edges[:, 0] * count + second
    wanted = edges[lower, 0] * count + second[upper]
    closing = np.searchsorted(key, wanted)
    there = closing < len(edges)
    there[there] = key[closing[there]] == wanted[there]
    return np.stack([lower[there], upper[there], closing[there]], axis=1).astype(np.int64)


def _summed(
    photo: Int64[np.ndarray, " n"],
    community: Int64[np.ndarray, " n"],
    inliers: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, "rows 3"]:
    """Photo, community and the inliers between them, one row for each photo and community."""
    rows, inverse = np.unique(np.stack([photo, community], axis=1), axis=0, return_inverse=True)
    total = np.bincount(inverse.ravel(), weights=inliers, minlength=len(rows)).astype(np.int64)
    return np.concatenate([rows, total[:, None]], axis=1)


def _by_size(labels: Int64[np.ndarray, " n"], least: int) -> Int64[np.ndarray, " n"]:
    """Labels renumbered by falling frequency; −1 if one occurs fewer than ``least`` times."""
    held = np.flatnonzero(labels >= 0)
    _, first, inverse, sizes = np.unique(
        labels[held], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -sizes))
    number = np.empty(len(order), np.int64)
    number[order] = np.where(sizes[order] >= least, np.arange(len(order)), -1)
    renumbered = np.full(len(labels), -1, np.int64)
    renumbered[held] = number[inverse]
    return renumbered
