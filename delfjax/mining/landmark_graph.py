"""Communities of a graph of photos: what is one landmark, and where a single photo of two of them
only seems to join them.

Connected components chain: one photo with two landmarks in it, or one wrong edge, makes them one.
Here edges belong together when they are sides of the same triangle of three photos that all match
each other; communities are chains of triangles with common sides. A bridge is in no triangle, and
triangles that meet in one photo alone stay apart.

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

    A photo in several communities goes to the one that it shares most inliers with; ties go to the
    earlier one.

    Args:
        pairs: verified pairs ``i < j`` in ascending order.
        inliers: of each pair.
        count: number of photos.
        config: inliers of an edge, and photos of a landmark.

    Returns:
        Landmark of each photo, the one with most photos first (ties: the one with the lowest
        photo); −1 for none.
    """
    joined = inliers >= config.min_inliers
    edges, strength = pairs[joined], inliers[joined]
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
    """Community of each edge: its own triangles, all triangles that share a side with these, and so
    on.

    Args:
        edges: ``i < j`` in ascending order, each once.
        count: number of nodes.

    Returns:
        Numbers from 0 in the order of the first edges; −1 for an edge in no triangle.
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
    """Numbers of the three edges of each triangle of the graph: those of nodes ``(i, j)``, ``(j,
    k)``, ``(i, k)``, i < j < k.

    Args:
        edges: ``i < j`` in ascending order, each once.
        count: number of nodes.
    """
    starts = np.searchsorted(edges[:, 0], np.arange(count + 1))
    second = edges[:, 1]
    # From every edge (i, j) on to every edge (j, k): is there one from i to k?
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
    """Photo, community and inliers between them, one row for each that share an edge."""
    rows, inverse = np.unique(np.stack([photo, community], axis=1), axis=0, return_inverse=True)
    total = np.bincount(inverse.ravel(), weights=inliers, minlength=len(rows)).astype(np.int64)
    return np.concatenate([rows, total[:, None]], axis=1)


def _by_size(labels: Int64[np.ndarray, " n"], least: int) -> Int64[np.ndarray, " n"]:
    """Labels renumbered, the most frequent first; −1 where there are fewer than ``least`` of
    one."""
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
