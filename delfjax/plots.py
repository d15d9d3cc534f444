"""Figures from arrays: each function returns a :class:`matplotlib.figure.Figure` and neither shows nor saves it.

Nothing here touches the global state of ``pyplot``. Colours are those of Okabe and Ito, told apart by colour-blind
readers, and no figure relies on colour alone. Images are RGB ``uint8``; coordinates are ``(y, x)`` pixels, pixel
centres at integers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from delfjax.types import Array, LocalFeatures

# What a group holds, and how it looks.
V = TypeVar("V")
L = TypeVar("L")

# Rows and columns without names: the images of one figure differ in size.
Photo = UInt8[np.ndarray, "_ _ 3"]
# What the functions return, for annotations elsewhere: matplotlib itself stays in this module.
Plot = Figure

# Okabe and Ito 2008, "Color Universal Design".
BLACK, GREY = "#000000", "#8c8c8c"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

# Verdict → colour of the frame and the mark that says the same without colour.
_VERDICTS = {True: (BLUE, "✓"), False: (VERMILLION, "✗"), None: (GREY, "")}
# Width of a figure and height of one that shows photos, inches; 1 200 × 780 pixels, which a laptop shows in full.
_WIDTH, _TALLEST = 10.0, 6.5
_DPI = 120
# Room for a headline, for a line of text and between images, inches.
_HEADLINE, _LINE, _GAP = 0.42, 0.22, 0.1
_SMALL, _TEXT, _TITLE = 9, 10, 12
# Lines over photos: bright enough for dark ones, with a dark seam for bright ones.
_LINES = LinearSegmentedColormap.from_list("sky to yellow", [SKY, "#56e0b0", YELLOW, ORANGE])
_SEAM = [Stroke(linewidth=2.2, foreground=(0, 0, 0, 0.55)), Normal()]


@dataclass(frozen=True)
class RankedImage:
    """One entry of a ranked list, ready to be drawn.

    Attributes:
        image: RGB.
        title: what it is called, one line.
        score: what it was ranked by, in words, for instance ``"87 inliers"``.
        verdict: whether it is right; ``None`` where that is not known.
    """

    image: Photo
    title: str
    score: str = ""
    verdict: bool | None = None


class InlineFigure(Figure):
    """A figure that a notebook shows as the value of a cell, without ``pyplot`` or a magic command."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def stacked_png(figures: Sequence[Figure]) -> bytes:
    """The figures as one PNG file, the first at the top, each at its own size on white."""
    pictures = [_rasterised(figure) for figure in figures]
    sheet = np.full((sum(map(len, pictures)), max(picture.shape[1] for picture in pictures), 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        sheet[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    stream = io.BytesIO()
    imsave(stream, sheet, format="png")
    return stream.getvalue()


def plot_ranked_list(
    query: Photo, results: Sequence[RankedImage], *, title: str = "", columns: int = 6, query_title: str = "query"
) -> Figure:
    """The query, then its results, best first, in rows; frames and marks tell right from wrong.

    Args:
        query: RGB.
        results: ranked images, best first; possibly none.
        title: headline; by default it counts the results, and the right ones where verdicts are known.
        columns: images in a row, the query included.
        query_title: name of the query.
    """
    shown = [RankedImage(query, query_title), *results]
    cells, rows = min(columns, len(shown)), math.ceil(len(shown) / columns)
    side = (_WIDTH - _GAP) / columns - _GAP
    step = 0.75 * side + 2 * _LINE + _GAP
    # Two cells at least: the headline needs the room.
    width, height = max(2, cells) * (side + _GAP) + _GAP, rows * step + _HEADLINE
    figure = _figure(title or _count_verdicts(results), width=width, height=height)
    for rank, result in enumerate(shown):
        row, column = divmod(rank, columns)
        bottom = height - _HEADLINE - row * step - _LINE - 0.75 * side
        axes = _axes_at(figure, (_GAP + column * (side + _GAP), bottom, side, 0.75 * side))
        colour, mark = _VERDICTS[result.verdict] if rank else (BLACK, "")
        place = f"{rank} · {result.score}" if result.score else str(rank)
        _draw_framed(axes, result.image, colour=colour, headline=f"{place} {mark}".rstrip() if rank else query_title)
        if rank:
            axes.set_xlabel(_elided(result.title), fontsize=_SMALL, labelpad=4)
    return figure


def plot_thumbnail(image: Photo, *, verdict: bool | None = None) -> Figure:
    """A small picture of a photo, with a frame that says whether it is right, as in the ranked list.

    Args:
        image: RGB.
        verdict: whether it is right; ``None`` where that is not known.
    """
    width, height = 1.5, 1.125
    figure = _figure("", width=width, height=height)
    axes = _axes_at(figure, (0.02, 0.02, width - 0.04, height - 0.04))
    _draw_framed(axes, image, colour=_VERDICTS[verdict][0], headline="")
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
    """Two images at one height, with their inliers joined by lines and the other putative matches faint behind.

    A line has the colour of its height in the first image, so that crossing lines stand out and single ones can be
    followed.

    Args:
        image1: RGB.
        image2: RGB.
        keypoints1_yx: matched keypoints in the first image, pixels.
        keypoints2_yx: the same in the second.
        inliers: which matches agree with the verified transform.
        title: put before the count, for instance the names of the images.
        max_lines: inliers, and as many of the others, that are drawn; evenly taken from all of them.
    """
    height = max(image1.shape[0], image2.shape[0])
    factor1, factor2 = height / image1.shape[0], height / image2.shape[0]
    gap = 0.02 * height
    left = image1.shape[1] * factor1 + gap
    width = left + image2.shape[1] * factor2
    kept = np.asarray(inliers)
    count = f"{int(kept.sum())} inliers of {len(kept)} putative matches"
    drawn = f" ({max_lines} drawn)" if kept.sum() > max_lines else ""
    figure, (axes,) = _photo_row([width / height], title=f"{title}: {count}{drawn}" if title else count + drawn)
    for image, factor, offset in ((image1, factor1, 0.0), (image2, factor2, left)):
        extent = (offset, offset + image.shape[1] * factor, height, 0.0)
        axes.imshow(image, extent=extent, interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0))
    # Drawn with the outer edge of the images at 0: pixel centres lie half a pixel in.
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
    """A photo, and beside it the scores of the feature map laid over it, with their scale.

    Args:
        image: RGB.
        scores: one score per cell of the feature map.
        first_cell_yx: where the centre of cell (0, 0) lies, pixels of ``image``.
        cell_px: distance between neighbouring cells, pixels of ``image``.
        title: headline.
        label: what the scores are, beside the colour bar.
    """
    height, width = image.shape[:2]
    values = np.asarray(scores, dtype=np.float64)
    figure, (plain, overlaid, bar) = _photo_row([width / height] * 2, title=title, bar=True)
    top, left = (first - cell_px / 2 for first in first_cell_yx)
    extent = (left, left + cell_px * values.shape[1], top + cell_px * values.shape[0], top)
    plain.imshow(image)
    overlaid.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    heat = overlaid.imshow(values, extent=extent, cmap="inferno", alpha=0.65, interpolation="bilinear")
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
    """The keypoints with the highest scores, larger where they come from a smaller image, and what a few of them see.

    Args:
        image: RGB.
        features: local features of one image.
        boxes_yx: their receptive boxes ``(y0, x0, y1, x1)``, pixels of ``image``; none are drawn without.
        top: keypoints drawn, highest score first.
        boxes: how many receptive boxes are drawn: the best keypoint of each image scale, best first.
        title: headline; by default it counts.
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
        points[:, 1], points[:, 0], s=14 / np.sqrt(scales[order]), c=scores[order], cmap="plasma",
        edgecolors="white", linewidths=0.6, zorder=3,
    )  # fmt: skip
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if boxes_yx is not None:
        _draw_boxes(axes, np.asarray(boxes_yx)[order], scales[order], count=boxes)
    _draw_bar(bar, shown, label="score")
    return figure


def plot_gallery(photos: Sequence[Photo], captions: Sequence[str], *, title: str, columns: int = 6) -> Figure:
    """Photos in rows, each in the middle of a square with its caption above.

    Args:
        photos: RGB, of any sizes.
        captions: one for each photo, short enough for its column.
        title: headline.
        columns: photos in a row.

    Raises:
        ValueError: not as many captions as photos.
    """
    cell = (_WIDTH - _GAP * (columns + 1)) / columns
    rows = max(1, math.ceil(len(photos) / columns))
    high = cell + _LINE + _GAP
    figure = _figure(title, width=_WIDTH, height=_HEADLINE + rows * high)
    for place, (photo, caption) in enumerate(zip(photos, captions, strict=True)):
        row, column = divmod(place, columns)
        axes = _axes_at(figure, (_GAP + column * (cell + _GAP), (rows - 1 - row) * high + _GAP, cell, cell))
        axes.imshow(photo)
        side, (height, width) = max(photo.shape[:2]), photo.shape[:2]
        axes.set_xlim((width - side) / 2 - 0.5, (width + side) / 2 - 0.5)
        axes.set_ylim((height + side) / 2 - 0.5, (height - side) / 2 - 0.5)
        axes.set_axis_off()
        axes.set_title(caption, fontsize=_SMALL, pad=3)
    return figure


def plot_positions(groups: Mapping[str, Float[np.ndarray, "_ 2"]], *, title: str) -> Figure:
    """Positions on the globe, latitude upwards and longitude to the right.

    Args:
        groups: name → ``(latitude, longitude)``, degrees; each has a colour and a mark of its own.
        title: headline.

    Raises:
        ValueError: more groups than there are colours.
    """
    figure = _figure(title, width=_WIDTH, height=0.5 * _WIDTH + _HEADLINE)
    axes = figure.add_axes((0.07, 0.1, 0.74, 0.78))
    marks = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"), (PURPLE, "D"))
    for name, positions, (colour, mark) in _told_apart(groups, marks):
        axes.scatter(positions[:, 1], positions[:, 0], s=22, c=colour, marker=mark, alpha=0.6, linewidths=0, label=name)
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xlabel="longitude, degrees", ylabel="latitude, degrees")
    axes.set_xticks(range(-180, 181, 60))
    axes.set_yticks(range(-90, 91, 30))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=_TEXT)
    return figure


def plot_counts(groups: Mapping[str, Num[np.ndarray, " _"]], *, title: str, label: str) -> Figure:
    """How many of something each member of a group has, the most first: a curve for each group.

    Args:
        groups: name → one count for each member.
        title: headline.
        label: what is counted, beside the axis.

    Raises:
        ValueError: more groups than there are colours.
    """
    figure = _figure(title, width=_WIDTH, height=0.4 * _WIDTH + _HEADLINE)
    axes = figure.add_axes((0.08, 0.14, 0.73, 0.72))
    for name, counts, colour in _told_apart(groups, (BLUE, ORANGE, GREEN, PURPLE)):
        axes.step(np.arange(1, len(counts) + 1), np.sort(counts)[::-1], where="mid", color=colour, linewidth=2, label=name)
    axes.set(xlabel="rank", ylabel=label, ylim=(0, None))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=_TEXT)
    return figure


def plot_trends(curves: Mapping[str, Mapping[float, float]], *, title: str, xlabel: str, ylabel: str) -> Figure:
    """A measure against a setting, a line with marks for each curve.

    Args:
        curves: name → setting → measure, from 0 to 1.
        title: headline.
        xlabel: what is set.
        ylabel: what is measured.

    Raises:
        ValueError: more curves than there are colours.
    """
    figure = _figure(title, width=0.8 * _WIDTH, height=0.45 * _WIDTH + _HEADLINE)
    axes = figure.add_axes((0.09, 0.13, 0.66, 0.75))
    looks = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"), (VERMILLION, "D"), (PURPLE, "v"), (SKY, "P"))
    for name, curve, (colour, mark) in _told_apart(curves, looks):
        axes.plot(list(curve), list(curve.values()), color=colour, marker=mark, linewidth=2, label=name)
    settings = sorted({setting for curve in curves.values() for setting in curve})
    axes.set_xticks(settings, [f"{setting:g}" for setting in settings])
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=_TEXT)
    return figure


def plot_stage_times(seconds: Mapping[str, float], *, title: str = "") -> Figure:
    """How long each stage took, one bar each from top to bottom, in the order given.

    Args:
        seconds: stage → seconds.
        title: headline; by default the total.
    """
    names, values = list(seconds), np.array(list(seconds.values()), dtype=np.float64)
    headline = title or f"{_seconds(float(values.sum()))} in all"
    figure = _figure(headline, width=0.7 * _WIDTH, height=0.36 * len(seconds) + _HEADLINE)
    axes = _bar_axes(figure)
    bars = axes.barh(names, values, color=BLUE, height=0.65)
    axes.bar_label(bars, [_seconds(value) for value in values], padding=4, fontsize=_TEXT)
    axes.invert_yaxis()
    axes.set_xlim(0, max(float(values.max(initial=0.0)), 1e-9) * 1.15)
    axes.xaxis.set_visible(False)
    return figure


def plot_tier_scores(tiers: Mapping[str, Mapping[str, float]], *, title: str = "Mean average precision") -> Figure:
    """Scores of each tier side by side, one bar for each way to rank.

    Args:
        tiers: tier → way to rank (for instance votes, inliers) → mean average precision in [0, 1].
        title: headline.
    """
    ways = list(dict.fromkeys(way for scores in tiers.values() for way in scores))
    figure = _figure(title, width=max(0.4 * _WIDTH, min(_WIDTH, 0.55 * len(tiers) * len(ways) + 1.6)), height=3.4)
    axes = _bar_axes(figure)
    bar_width = 0.8 / max(1, len(ways))
    for number, way in enumerate(ways):
        aside = (number - (len(ways) - 1) / 2) * bar_width
        places = [place + aside for place, scores in enumerate(tiers.values()) if way in scores]
        values = [scores[way] for scores in tiers.values() if way in scores]
        colour = (SKY, BLUE, ORANGE, GREEN, PURPLE)[number % 5]
        bars = axes.bar(places, values, width=0.92 * bar_width, color=colour, label=way)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=_SMALL)
    axes.set_xticks(range(len(tiers)), list(tiers), fontsize=_TEXT)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_visible(False)
    if len(ways) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=_TEXT)
    return figure


def plot_intervals(rows: Mapping[str, tuple[float, float, float]], *, title: str = "", label: str = "") -> Figure:
    """Means with their intervals, one line for each setting from top to bottom, so that long names can be read.

    Args:
        rows: setting → mean, lower and upper end of its interval; not a number where there is none.
        title: headline; by default it counts.
        label: what the numbers are, below the axis.
    """
    headline = title or f"{len(rows)} setting{'' if len(rows) == 1 else 's'}"
    figure = _figure(headline, width=0.8 * _WIDTH, height=0.34 * max(1, len(rows)) + _HEADLINE + 0.7)
    axes = _bar_axes(figure)
    for place, (mean, low, high) in enumerate(rows.values()):
        axes.plot([low, high], [place, place], color=SKY, linewidth=5, solid_capstyle="butt")
        axes.plot(mean, place, marker="o", color=BLUE, markersize=7)
        axes.annotate(f"{mean:.4g}", (mean, place), xytext=(0, 7), textcoords="offset points", fontsize=_SMALL, ha="center")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=_TEXT)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.margins(x=0.08)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.set_xlabel(label, fontsize=_TEXT)
    return figure


def plot_precision_recall(
    curves: Mapping[str, tuple[Num[np.ndarray, " points"], Float[np.ndarray, " points"]]],
    *,
    title: str = "Precision and recall",
    label: str = "recall",
) -> Figure:
    """Precision over recall, one line for each system; a line begins where precision is first defined.

    Args:
        curves: system → recall (integers where it is a count) and precision in [0, 1], by falling threshold.
        title: headline.
        label: what recall is, below the axis, for instance ``"true positives of all queries"``.
    """
    figure = _figure(title, width=0.7 * _WIDTH, height=4.0)
    axes = _bar_axes(figure)
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        colour, marker = (BLUE, ORANGE, GREEN, PURPLE, SKY)[number % 5], "osD^v"[number % 5]
        axes.plot(
            recall, precision, color=colour, marker=marker, markersize=5, markevery=max(1, len(recall) // 20), label=name
        )
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=all(recall.dtype.kind in "iu" for recall, _ in curves.values()))
    # Fixed ticks, none of them outside the limits, where a label would lie off the canvas.
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= axes.get_xlim()[1]])
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel(label, fontsize=_TEXT)
    axes.set_ylabel("precision", fontsize=_TEXT)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    if curves:
        axes.legend(frameon=False, fontsize=_TEXT)
    return figure


def plot_against_published(
    published: Mapping[str, Mapping[str, float]], measured: Mapping[str, Mapping[str, float]], *, title: str = ""
) -> Figure:
    """Published numbers and ours, one panel for each dataset and one line for each system.

    Args:
        published: system → dataset → mean average precision, percent.
        measured: the same, of our own runs; possibly empty.
        title: headline; by default it says how many of the numbers are ours, and their unit.
    """
    datasets = list(dict.fromkeys(dataset for scores in published.values() for dataset in scores))
    count = sum(len(scores) for scores in measured.values())
    total = sum(len(scores) for scores in published.values())
    headline = title or f"Mean average precision in percent: {total} published, {count} measured here"
    figure = _figure(headline, width=_WIDTH, height=0.3 * len(published) + 1.4)
    room = _HEADLINE / figure.get_size_inches()[1]
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - room)))
    panels = figure.subplots(1, len(datasets), sharex=True, sharey=True, squeeze=False)[0]
    for axes, dataset in zip(panels, datasets, strict=True):
        for scores, colour, marker, name in ((published, GREY, "o", "published"), (measured, BLUE, "D", "measured here")):
            known = [(row[dataset], system) for system, row in scores.items() if dataset in row]
            places = [list(published).index(system) for _, system in known]
            axes.plot([value for value, _ in known], places, marker, color=colour, markersize=7, label=name)
        axes.set_title(dataset, fontsize=_TEXT)
        axes.grid(color="#e5e5e5")
        axes.tick_params(length=0, labelsize=_SMALL)
        axes.spines[:].set_visible(False)
    axes.set_yticks(range(len(published)), list(published), fontsize=_SMALL)
    axes.set_ylim(len(published) - 0.5, -0.5)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=_TEXT)
    return figure


def _figure(title: str, *, width: float, height: float) -> Figure:
    """An empty figure of that many inches, or as wide as its headline; places in it are fixed, not laid out."""
    figure = InlineFigure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    headline = figure.suptitle(title, fontsize=_TITLE, fontweight="bold", y=1 - 0.1 / height, va="top")
    figure.set_figwidth(max(width, headline.get_window_extent().width / _DPI + 0.2))
    return figure


def _told_apart(groups: Mapping[str, V], looks: Sequence[L]) -> list[tuple[str, V, L]]:
    """Each group with its name and a look of its own."""
    if len(groups) > len(looks):
        raise ValueError(f"{len(groups)} groups, and {len(looks)} looks to tell them apart: {', '.join(groups)}")
    return [(name, group, look) for (name, group), look in zip(groups.items(), looks[: len(groups)], strict=True)]


def _rasterised(figure: Figure) -> Photo:
    stream = io.BytesIO()
    figure.savefig(stream, format="rgba")
    across, up = figure.canvas.get_width_height()
    return np.frombuffer(stream.getvalue(), np.uint8).reshape(up, across, 4)[..., :3]


def _axes_at(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Axes at (left, bottom, width, height) inches."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = place
    return figure.add_axes((left / width, bottom / height, across / width, up / height))


def _photo_row(aspects: Sequence[float], *, title: str, bar: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of photos side by side, as large as fits, with their axes; those of a colour bar come last.

    Args:
        aspects: width over height of each photo.
        title: headline.
        bar: leave room for a colour bar.
    """
    gaps, bar_room = _GAP * (len(aspects) + 1), 0.75 if bar else 0.0
    tall = min(_TALLEST - _HEADLINE - _GAP, (_WIDTH - gaps - bar_room) / sum(aspects))
    figure = _figure(title, width=tall * sum(aspects) + gaps + bar_room, height=tall + _HEADLINE + _GAP)
    axes, left = [], _GAP
    for aspect in aspects:
        axes.append(_axes_at(figure, (left, _GAP, tall * aspect, tall)))
        axes[-1].set_axis_off()
        left += tall * aspect + _GAP
    if bar:
        axes.append(_axes_at(figure, (left, _GAP, 0.16, tall)))
    return figure, axes


def _draw_bar(axes: Axes, coloured: ScalarMappable, *, label: str) -> None:
    """The colours of ``coloured`` and what they stand for; nothing where there is nothing coloured."""
    values = coloured.get_array()
    if values is None or not values.size:
        axes.set_axis_off()
        return
    # The same colours, but not translucent as they may be over the photo.
    bar = axes.figure.colorbar(ScalarMappable(coloured.norm, coloured.cmap), cax=axes)
    bar.set_label(label, fontsize=_TEXT)
    axes.tick_params(labelsize=_SMALL, length=2)
    bar.outline.set_visible(False)


def _count_verdicts(results: Sequence[RankedImage]) -> str:
    judged = [result.verdict for result in results if result.verdict is not None]
    number = f"{len(results)} result{'' if len(results) == 1 else 's'}" if results else "No result"
    return f"{number}, {sum(judged)} of {len(judged)} right" if judged else number


def _draw_framed(axes: Axes, image: Photo, *, colour: str, headline: str) -> None:
    """An image in the middle of a cell of four by three, with a coloured frame around it and a headline above."""
    height, width = image.shape[:2]
    across, up = max(width, height * 4 / 3), max(height, width * 3 / 4)
    axes.imshow(image)
    axes.set(
        xlim=((width - across) / 2 - 0.5, (width + across) / 2 - 0.5),
        ylim=((height + up) / 2 - 0.5, (height - up) / 2 - 0.5),
        xticks=[],
        yticks=[],
        facecolor="#f0f0f0",
    )
    axes.spines[:].set(color=colour, linewidth=3)
    axes.set_title(headline, fontsize=_TEXT, color=colour, fontweight="bold", pad=5)


def _elided(name: str, limit: int = 22) -> str:
    """``name``, or its end where it is too long to stand under an image."""
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def _evenly(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly taken."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)) if count else np.arange(0)


def _draw_outliers(axes: Axes, start: np.ndarray, end: np.ndarray, *, max_lines: int) -> None:
    drawn = _evenly(len(start), max_lines)
    lines = np.stack([start[drawn], end[drawn]], axis=1)
    axes.add_collection(LineCollection(list(lines), colors=[to_rgba("white", 0.25)], linewidths=0.6, label="outliers"))
    for points in (start, end):
        axes.scatter(points[:, 0], points[:, 1], s=3, color=to_rgba("white", 0.35), linewidths=0)


def _draw_inliers(axes: Axes, start: np.ndarray, end: np.ndarray, *, height: float, max_lines: int) -> None:
    drawn = _evenly(len(start), max_lines)
    segments = list(np.stack([start[drawn], end[drawn]], axis=1))
    lines = LineCollection(segments, cmap=_LINES, linewidths=1.1, path_effects=_SEAM, label="inliers")
    lines.set_array(start[drawn, 1])
    lines.set_clim(0, height)
    axes.add_collection(lines)
    for points in (start, end):
        axes.scatter(
            points[:, 0], points[:, 1], s=10, c=start[:, 1], cmap=_LINES, vmin=0, vmax=height,
            edgecolors="black", linewidths=0.5, zorder=3,
        )  # fmt: skip


def _draw_boxes(axes: Axes, boxes_yx: np.ndarray, scales: np.ndarray, *, count: int) -> None:
    """Receptive boxes of the best keypoint of each scale, each with its centre marked; a legend says which scale."""
    best = np.sort(np.unique(scales, return_index=True)[1])[:count]
    for number, index in enumerate(best):
        y0, x0, y1, x1 = boxes_yx[index]
        colour = (ORANGE, SKY, GREEN, YELLOW, PURPLE, VERMILLION, BLUE)[number % 7]
        label = f"scale {scales[index]:.2g}"
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2, label=label))
        axes.plot((x0 + x1) / 2, (y0 + y1) / 2, marker="+", color=colour, markersize=12, markeredgewidth=2.5, zorder=4)
    if len(best):
        axes.legend(loc="lower left", fontsize=_SMALL, framealpha=0.9).set_zorder(5)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _bar_axes(figure: Figure) -> Axes:
    """Axes of a figure of bars: with numbers on them, bars need neither frame nor ticks."""
    room = _HEADLINE / figure.get_size_inches()[1]
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - room)))
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=_TEXT)
    return axes
