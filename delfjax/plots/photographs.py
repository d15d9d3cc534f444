"""Figures of photographs: ranked lists, correspondences, attention, keypoints, galleries.

Images are RGB ``uint8``; coordinates are ``(y, x)`` pixels, pixel centres at integers.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from delfjax.plots.style import (
    ATTENTION,
    BLACK,
    BLUE,
    GAP,
    GREEN,
    HEADLINE,
    LINE,
    LINES,
    ORANGE,
    PAPER,
    PURPLE,
    SCORES,
    SEAM,
    SKY,
    SMALL,
    TALLEST,
    TEXT,
    VERDICTS,
    VERMILLION,
    WIDTH,
    YELLOW,
    Photo,
    axes_at,
    blank_figure,
    elided,
    evenly_spaced,
)
from delfjax.types import Array, LocalFeatures

# Characters of a note that fit into one line over a photo of a ranked list.
_NOTE_WIDTH = 22


@dataclass(frozen=True)
class RankedImage:
    """One entry of a ranked list, ready to draw.

    Attributes:
        image: RGB.
        title: its name, on one line.
        score: the score it was ranked by, with its unit, such as ``"87 inliers"``.
        verdict: whether it is right; ``None`` if unknown.
        note: text over the image, such as why it is blank.
    """

    image: Photo
    title: str
    score: str = ""
    verdict: bool | None = None
    note: str = ""


def plot_ranked_list(
    query: Photo,
    results: Sequence[RankedImage],
    *,
    title: str = "",
    columns: int = 6,
    query_title: str = "query",
) -> Figure:
    """The query and its results in rows; frames and marks tell right results from wrong ones.

    Args:
        query: RGB.
        results: ranked images, best first; may be empty.
        title: headline; by default the number of results, and of right ones among those judged.
        columns: images in a row, including the query.
        query_title: name of the query.
    """
    shown = [RankedImage(query, query_title), *results]
    cells = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    side = (WIDTH - GAP) / columns - GAP
    step = 0.75 * side + 2 * LINE + GAP
    # At least two cells wide, because the headline needs the room.
    width = max(2, cells) * (side + GAP) + GAP
    height = rows * step + HEADLINE
    figure = blank_figure(title or _count_verdicts(results), width=width, height=height)
    for rank, result in enumerate(shown):
        row, column = divmod(rank, columns)
        bottom = height - HEADLINE - row * step - LINE - 0.75 * side
        axes = axes_at(figure, (GAP + column * (side + GAP), bottom, side, 0.75 * side))
        colour, mark = VERDICTS[result.verdict] if rank else (BLACK, "")
        place = f"{rank} · {result.score}" if result.score else str(rank)
        _draw_framed(
            axes,
            result.image,
            colour=colour,
            headline=f"{place} {mark}".rstrip() if rank else query_title,
        )
        if rank:
            axes.set_xlabel(elided(result.title), fontsize=SMALL, labelpad=4)
        if result.note:
            _write_note(axes, result.note)
    return figure


def plot_thumbnail(image: Photo, *, verdict: bool | None = None) -> Figure:
    """A small picture of a photo, with the frame it would have in a ranked list.

    Args:
        image: RGB.
        verdict: whether it is right; ``None`` if unknown.
    """
    width, height = 1.5, 1.125
    figure = blank_figure("", width=width, height=height)
    axes = axes_at(figure, (0.02, 0.02, width - 0.04, height - 0.04))
    _draw_framed(axes, image, colour=VERDICTS[verdict][0], headline="")
    return figure


def plot_correspondences(
    image1: Photo,
    image2: Photo,
    *,
    keypoints1_yx: Float[Array, "m 2"],
    keypoints2_yx: Float[Array, "m 2"],
    inliers: Bool[Array, " m"],
    title: str = "",
    max_lines: int = 120,
) -> Figure:
    """Two images at the same height, with their inliers joined by lines.

    The colour of a line follows its height in the first image, so that crossing lines stand out and
    each line can be followed. The outliers are drawn faintly behind.

    Args:
        image1: RGB.
        image2: RGB.
        keypoints1_yx: matched keypoints in the first image, pixels.
        keypoints2_yx: matched keypoints in the second image, pixels.
        inliers: which matches agree with the verified transform.
        title: text in front of the counts, such as the names of the images.
        max_lines: most inliers to draw, and most outliers, each evenly spaced among all of them.
    """
    height = max(image1.shape[0], image2.shape[0])
    factor1, factor2 = height / image1.shape[0], height / image2.shape[0]
    gap = 0.02 * height
    left = image1.shape[1] * factor1 + gap
    width = left + image2.shape[1] * factor2
    kept = np.asarray(inliers)
    count = f"{int(kept.sum())} inliers of {len(kept)} putative matches"
    drawn = f" ({max_lines} drawn)" if kept.sum() > max_lines else ""
    figure, (axes,) = _photo_row(
        [width / height], title=f"{title}: {count}{drawn}" if title else count + drawn
    )
    for image, factor, offset in ((image1, factor1, 0.0), (image2, factor2, left)):
        extent = (offset, offset + image.shape[1] * factor, height, 0.0)
        axes.imshow(image, extent=extent, interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0))
    # The outer edge of the images is drawn at 0, so pixel centres lie half a pixel inside.
    start = (np.asarray(keypoints1_yx, dtype=np.float64)[:, ::-1] + 0.5) * factor1
    end = (np.asarray(keypoints2_yx, dtype=np.float64)[:, ::-1] + 0.5) * factor2 + (left, 0.0)
    _draw_outliers(axes, start[~kept], end[~kept], max_lines=max_lines)
    _draw_inliers(axes, start[kept], end[kept], height=float(height), max_lines=max_lines)
    return figure


def plot_attention(
    image: Photo,
    scores: Float[Array, "rows columns"],
    *,
    first_cell_yx: tuple[float, float],
    cell_px: float,
    title: str = "Where the scorer looks",
    label: str = "attention score",
) -> Figure:
    """A photo, and beside it the same photo under a heat map of scores, with a colour bar.

    Args:
        image: RGB.
        scores: one score for each cell of the feature map.
        first_cell_yx: centre of cell (0, 0), pixels of ``image``.
        cell_px: distance between neighbouring cells, pixels of ``image``.
        title: headline.
        label: what the scores are, written beside the colour bar.
    """
    height, width = image.shape[:2]
    values = np.asarray(scores, dtype=np.float64)
    figure, (plain, overlaid, bar) = _photo_row([width / height] * 2, title=title, bar=True)
    top, left = (first - cell_px / 2 for first in first_cell_yx)
    extent = (left, left + cell_px * values.shape[1], top + cell_px * values.shape[0], top)
    plain.imshow(image)
    overlaid.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    heat = overlaid.imshow(
        values, extent=extent, cmap=ATTENTION, alpha=0.65, interpolation="bilinear"
    )
    for axes in (plain, overlaid):
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    _draw_bar(bar, heat, label=label)
    return figure


def plot_keypoints(
    image: Photo,
    features: LocalFeatures,
    *,
    boxes_yx: Float[Array, "n 4"] | None = None,
    top: int = 200,
    boxes: int = 5,
    title: str = "",
) -> Figure:
    """The keypoints with the highest scores, and the receptive boxes of a few of them.

    A keypoint is drawn larger the smaller its image scale, that is, the more of the photo it sees.

    Args:
        image: RGB.
        features: local features of one image.
        boxes_yx: receptive boxes of the features, ``(y0, x0, y1, x1)`` in pixels of ``image``; by
            default no box is drawn.
        top: most keypoints to draw, highest score first.
        boxes: most receptive boxes to draw: that of the best keypoint of each image scale, highest
            score first.
        title: headline; by default the number of keypoints drawn and in all.
    """
    valid = np.flatnonzero(np.asarray(features.valid))
    scores, scales = np.asarray(features.scores), np.asarray(features.scales)
    order = valid[np.argsort(-scores[valid], kind="stable")][:top]
    points = np.asarray(features.keypoints_yx)[order]
    height, width = image.shape[:2]
    headline = title or f"Top {len(order)} of {len(valid)} keypoints"
    figure, (axes, bar) = _photo_row([width / height], title=headline, bar=True)
    axes.imshow(image)
    shown = axes.scatter(
        points[:, 1],
        points[:, 0],
        s=14 / np.sqrt(scales[order]),
        c=scores[order],
        cmap=SCORES,
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if boxes_yx is not None:
        _draw_boxes(axes, np.asarray(boxes_yx)[order], scales[order], count=boxes)
    _draw_bar(bar, shown, label="score")
    return figure


def plot_gallery(
    photos: Sequence[Photo], captions: Sequence[str], *, title: str, columns: int = 6
) -> Figure:
    """Photos in rows, each centred in a square with its caption above.

    Args:
        photos: RGB, of any size.
        captions: one for each photo, short enough for its column.
        title: headline.
        columns: photos in a row.

    Raises:
        ValueError: the numbers of photos and captions differ.
    """
    cell = (WIDTH - GAP * (columns + 1)) / columns
    rows = max(1, math.ceil(len(photos) / columns))
    high = cell + LINE + GAP
    figure = blank_figure(title, width=WIDTH, height=HEADLINE + rows * high)
    for place, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        row, column = divmod(place, columns)
        axes = axes_at(
            figure, (GAP + column * (cell + GAP), (rows - 1 - row) * high + GAP, cell, cell)
        )
        axes.imshow(photo)
        height, width = photo.shape[:2]
        side = max(height, width)
        axes.set_xlim((width - side) / 2 - 0.5, (width + side) / 2 - 0.5)
        axes.set_ylim((height + side) / 2 - 0.5, (height - side) / 2 - 0.5)
        axes.set_axis_off()
        axes.set_title(caption, fontsize=SMALL, pad=3)
    return figure


def _photo_row(
    aspects: Sequence[float], *, title: str, bar: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure for photos side by side, as large as fits.

    Args:
        aspects: ratio of width to height of each photo.
        title: headline.
        bar: whether to leave room for a colour bar.

    Returns:
        The figure, and the axes of the photos followed by those of the colour bar.
    """
    gaps = GAP * (len(aspects) + 1)
    bar_room = 0.75 if bar else 0.0
    tall = min(TALLEST - HEADLINE - GAP, (WIDTH - gaps - bar_room) / sum(aspects))
    figure = blank_figure(
        title, width=tall * sum(aspects) + gaps + bar_room, height=tall + HEADLINE + GAP
    )
    axes = []
    left = GAP
    for aspect in aspects:
        axes.append(axes_at(figure, (left, GAP, tall * aspect, tall)))
        axes[-1].set_axis_off()
        left += tall * aspect + GAP
    if bar:
        axes.append(axes_at(figure, (left, GAP, 0.16, tall)))
    return figure, axes


def _draw_bar(axes: Axes, coloured: ScalarMappable, *, label: str) -> None:
    """Draw the colour bar of ``coloured`` into ``axes``; leave them empty if it has no values."""
    values = coloured.get_array()
    if values is None or not values.size:
        axes.set_axis_off()
        return
    # Opaque, although the colours over the photo may be translucent.
    bar = axes.figure.colorbar(ScalarMappable(coloured.norm, coloured.cmap), cax=axes)
    bar.set_label(label, fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, length=2)
    bar.outline.set_visible(False)


def _count_verdicts(results: Sequence[RankedImage]) -> str:
    judged = [result.verdict for result in results if result.verdict is not None]
    if not results:
        return "No result"
    number = f"{len(results)} result{'' if len(results) == 1 else 's'}"
    return f"{number}, {sum(judged)} of {len(judged)} right" if judged else number


def _draw_framed(axes: Axes, image: Photo, *, colour: str, headline: str) -> None:
    """Draw an image centred in a 4:3 cell with a coloured frame and a headline above."""
    height, width = image.shape[:2]
    across, up = max(width, height * 4 / 3), max(height, width * 3 / 4)
    axes.imshow(image)
    axes.set(
        xlim=((width - across) / 2 - 0.5, (width + across) / 2 - 0.5),
        ylim=((height + up) / 2 - 0.5, (height - up) / 2 - 0.5),
        xticks=[],
        yticks=[],
        facecolor=PAPER,
    )
    axes.spines[:].set(color=colour, linewidth=3)
    axes.set_title(headline, fontsize=TEXT, color=colour, fontweight="bold", pad=5)


def _write_note(axes: Axes, note: str) -> None:
    axes.text(
        0.5,
        0.5,
        textwrap.fill(note, _NOTE_WIDTH),
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=SMALL,
        parse_math=False,
    )


def _draw_outliers(axes: Axes, start: np.ndarray, end: np.ndarray, *, max_lines: int) -> None:
    drawn = evenly_spaced(len(start), max_lines)
    lines = np.stack([start[drawn], end[drawn]], axis=1)
    axes.add_collection(
        LineCollection(
            list(lines), colors=[to_rgba("white", 0.25)], linewidths=0.6, label="outliers"
        )
    )
    for points in (start, end):
        axes.scatter(points[:, 0], points[:, 1], s=3, color=to_rgba("white", 0.35), linewidths=0)


def _draw_inliers(
    axes: Axes, start: np.ndarray, end: np.ndarray, *, height: float, max_lines: int
) -> None:
    drawn = evenly_spaced(len(start), max_lines)
    segments = list(np.stack([start[drawn], end[drawn]], axis=1))
    lines = LineCollection(segments, cmap=LINES, linewidths=1.1, path_effects=SEAM, label="inliers")
    lines.set_array(start[drawn, 1])
    lines.set_clim(0, height)
    axes.add_collection(lines)
    for points in (start, end):
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=10,
            c=start[:, 1],
            cmap=LINES,
            vmin=0,
            vmax=height,
            edgecolors="black",
            linewidths=0.5,
            zorder=3,
        )


def _draw_boxes(axes: Axes, boxes_yx: np.ndarray, scales: np.ndarray, *, count: int) -> None:
    """Draw the receptive box of the best keypoint of each scale, with its centre and a legend."""
    best = np.sort(np.unique(scales, return_index=True)[1])[:count]
    for number, index in enumerate(best):
        y0, x0, y1, x1 = boxes_yx[index]
        colour = (ORANGE, SKY, GREEN, YELLOW, PURPLE, VERMILLION, BLUE)[number % 7]
        label = f"scale {scales[index]:.2g}"
        axes.add_patch(
            Rectangle(
                (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2, label=label
            )
        )
        axes.plot(
            (x0 + x1) / 2,
            (y0 + y1) / 2,
            marker="+",
            color=colour,
            markersize=12,
            markeredgewidth=2.5,
            zorder=4,
        )
    if len(best):
        axes.legend(loc="lower left", fontsize=SMALL, framealpha=0.9).set_zorder(5)
