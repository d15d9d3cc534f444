"""Charts of numbers: positions, counts, trends, times, scores, intervals, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from delfjax.plots.style import (
    BLUE,
    GREEN,
    GREY,
    GRID,
    HEADLINE,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    TEXT,
    VERMILLION,
    WIDTH,
    blank_figure,
    with_looks,
)
from delfjax.text import printable


def plot_positions(groups: Mapping[str, Float[np.ndarray, "_ 2"]], *, title: str) -> Figure:
    """Positions on the globe, with north up and east to the right.

    Args:
        groups: name → ``(latitude, longitude)``, degrees; each group has its own colour and marker.
        title: headline.

    Raises:
        ValueError: there are more groups than colours.
    """
    figure = blank_figure(title, width=WIDTH, height=0.5 * WIDTH + HEADLINE)
    axes = figure.add_axes((0.07, 0.1, 0.74, 0.78))
    marks = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"), (PURPLE, "D"))
    for name, positions, (colour, mark) in with_looks(groups, marks):
        axes.scatter(
            positions[:, 1],
            positions[:, 0],
            s=22,
            c=colour,
            marker=mark,
            alpha=0.6,
            linewidths=0,
            label=name,
        )
    axes.set(
        xlim=(-180, 180), ylim=(-90, 90), xlabel="longitude, degrees", ylabel="latitude, degrees"
    )
    axes.set_xticks(range(-180, 181, 60))
    axes.set_yticks(range(-90, 91, 30))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=TEXT)
    return figure


def plot_counts(groups: Mapping[str, Num[np.ndarray, " _"]], *, title: str, label: str) -> Figure:
    """Counts in descending order, one curve for each group.

    Args:
        groups: name → one count for each member of the group.
        title: headline.
        label: what is counted, written beside the axis.

    Raises:
        ValueError: there are more groups than colours.
    """
    figure = blank_figure(title, width=WIDTH, height=0.4 * WIDTH + HEADLINE)
    axes = figure.add_axes((0.08, 0.14, 0.73, 0.72))
    for name, counts, colour in with_looks(groups, (BLUE, ORANGE, GREEN, PURPLE)):
        axes.step(
            np.arange(1, len(counts) + 1),
            np.sort(counts)[::-1],
            where="mid",
            color=colour,
            linewidth=2,
            label=name,
        )
    axes.set(xlabel="rank", ylabel=label, ylim=(0, None))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=TEXT)
    return figure


def plot_trends(
    curves: Mapping[str, Mapping[float, float]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    difference: bool = False,
) -> Figure:
    """A measure against a setting, one line with markers for each curve.

    Args:
        curves: name → setting → measure in [0, 1], or a difference of two.
        title: headline.
        xlabel: name of the setting.
        ylabel: name of the measure.
        difference: the measure is a difference: show the range of its values, and a line at zero.

    Raises:
        ValueError: there are more curves than colours.
    """
    figure = blank_figure(title, width=0.8 * WIDTH, height=0.45 * WIDTH + HEADLINE)
    axes = figure.add_axes((0.09, 0.13, 0.66, 0.75))
    looks = ((BLUE, "o"), (ORANGE, "^"), (GREEN, "s"), (VERMILLION, "D"), (PURPLE, "v"), (SKY, "P"))
    for name, curve, (colour, mark) in with_looks(curves, looks):
        axes.plot(
            list(curve), list(curve.values()), color=colour, marker=mark, linewidth=2, label=name
        )
    settings = sorted({setting for curve in curves.values() for setting in curve})
    axes.set_xticks(settings, [f"{setting:g}" for setting in settings])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if difference:
        axes.axhline(0, color="black", linewidth=1)
    else:
        axes.set_ylim(0, 1)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=TEXT)
    return figure


def plot_tier_scores(
    tiers: Mapping[str, Mapping[str, float]], *, title: str = "Mean average precision"
) -> Figure:
    """Scores of each tier side by side, one bar for each way of ranking.

    Args:
        tiers: tier → way of ranking (such as votes or inliers) → mean average precision in [0, 1].
        title: headline.
    """
    ways = list(dict.fromkeys(way for scores in tiers.values() for way in scores))
    width = max(0.4 * WIDTH, min(WIDTH, 0.55 * len(tiers) * len(ways) + 1.6))
    figure = blank_figure(title, width=width, height=3.4)
    axes = _bar_axes(figure)
    bar_width = 0.8 / max(1, len(ways))
    for number, way in enumerate(ways):
        aside = (number - (len(ways) - 1) / 2) * bar_width
        places = [place + aside for place, scores in enumerate(tiers.values()) if way in scores]
        values = [scores[way] for scores in tiers.values() if way in scores]
        colour = (SKY, BLUE, ORANGE, GREEN, PURPLE)[number % 5]
        bars = axes.bar(places, values, width=0.92 * bar_width, color=colour, label=way)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=SMALL)
    axes.set_xticks(range(len(tiers)), [printable(tier) for tier in tiers], fontsize=TEXT)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_visible(False)
    if len(ways) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=TEXT)
    return figure


def plot_intervals(
    rows: Mapping[str, tuple[float, float, float]], *, title: str = "", label: str = ""
) -> Figure:
    """Means with their intervals, one row for each setting, which leaves room for long names.

    Args:
        rows: setting → mean, lower and upper end of its interval, the ends NaN without an interval;
            drawn from top to bottom.
        title: headline; by default the number of settings.
        label: what the numbers are, written below the axis.
    """
    headline = title or f"{len(rows)} setting{'' if len(rows) == 1 else 's'}"
    figure = blank_figure(
        headline, width=0.8 * WIDTH, height=0.34 * max(1, len(rows)) + HEADLINE + 0.7
    )
    axes = _bar_axes(figure)
    for place, (mean, low, high) in enumerate(rows.values()):
        axes.plot([low, high], [place, place], color=SKY, linewidth=5, solid_capstyle="butt")
        axes.plot(mean, place, marker="o", color=BLUE, markersize=7)
        axes.annotate(
            f"{mean:.4g}",
            (mean, place),
            xytext=(0, 7),
            textcoords="offset points",
            fontsize=SMALL,
            ha="center",
        )
    axes.set_yticks(range(len(rows)), [printable(name) for name in rows], fontsize=TEXT)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.margins(x=0.08)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, fontsize=TEXT)
    return figure


def plot_against(
    across: Num[np.ndarray, " n"],
    up: Num[np.ndarray, " n"],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Two scores of the same things, one dot for each, with the diagonal on which both are equal.

    Args:
        across: scores on the horizontal axis, in [0, 1].
        up: scores on the vertical axis.
        title: headline.
        xlabel: what the first scores are.
        ylabel: what the second ones are.
    """
    figure = blank_figure(title, width=0.62 * WIDTH, height=4.6)
    axes = _bar_axes(figure)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    # Dots with equal coordinates would hide each other.
    axes.scatter(across, up, s=36, color=BLUE, alpha=0.45, linewidths=0)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_aspect("equal")
    axes.set_xlabel(xlabel, fontsize=TEXT)
    axes.set_ylabel(ylabel, fontsize=TEXT)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    return figure


def plot_precision_recall(
    curves: Mapping[str, tuple[Num[np.ndarray, " points"], Float[np.ndarray, " points"]]],
    *,
    title: str = "Precision and recall",
    label: str = "recall",
) -> Figure:
    """Precision against recall, one line for each system.

    Args:
        curves: system → recall and precision in [0, 1], by falling threshold, from the first point
            where precision is defined. An integer recall is a count.
        title: headline.
        label: what recall is, written below the axis, such as ``"true positives of all queries"``.
    """
    figure = blank_figure(title, width=0.7 * WIDTH, height=4.0)
    axes = _bar_axes(figure)
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        colour = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)[number % 6]
        marker = "osD^vP"[number % 6]
        axes.plot(
            recall,
            precision,
            color=colour,
            marker=marker,
            markersize=5,
            markevery=max(1, len(recall) // 20),
            label=name,
        )
    axes.set_xlim(left=0)
    axes.locator_params(
        axis="x", integer=all(recall.dtype.kind in "iu" for recall, _ in curves.values())
    )
    # Fix the ticks and drop those beyond the limit, whose labels would lie off the canvas.
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= axes.get_xlim()[1]])
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel(label, fontsize=TEXT)
    axes.set_ylabel("precision", fontsize=TEXT)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    if curves:
        axes.legend(frameon=False, fontsize=TEXT)
    return figure


def plot_reliability(
    curves: Mapping[str, tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]],
    *,
    title: str = "Reliability",
) -> Figure:
    """Share of right answers against their predicted probability; calibrated ones lie on the line.

    Args:
        curves: model → mean predicted probability and observed share of each bin, in [0, 1].
        title: headline.
    """
    figure = blank_figure(title, width=0.5 * WIDTH, height=0.5 * WIDTH + HEADLINE)
    axes = _bar_axes(figure)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    for number, (name, (predicted, observed)) in enumerate(curves.items()):
        colour = (BLUE, ORANGE, GREEN, PURPLE, SKY)[number % 5]
        marker = "osD^v"[number % 5]
        axes.plot(predicted, observed, color=colour, marker=marker, markersize=6, label=name)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("predicted probability", fontsize=TEXT)
    axes.set_ylabel("share that is right", fontsize=TEXT)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=TEXT)
    return figure


def plot_against_published(
    published: Mapping[str, Mapping[str, float]],
    measured: Mapping[str, Mapping[str, float]],
    *,
    title: str = "",
) -> Figure:
    """Published and measured scores, one panel for each dataset and one row for each system.

    Args:
        published: system → dataset → published mean average precision, percent.
        measured: the same for our own runs, also on datasets of our own; may be empty.
        title: headline; by default the unit and how many numbers are published and measured.
    """
    rows = [*published.values(), *measured.values()]
    datasets = list(dict.fromkeys(dataset for scores in rows for dataset in scores))
    count = sum(len(scores) for scores in measured.values())
    total = sum(len(scores) for scores in published.values())
    headline = (
        title or f"Mean average precision in percent: {total} published, {count} measured here"
    )
    figure = blank_figure(headline, width=WIDTH, height=0.3 * len(published) + 1.4)
    room = HEADLINE / figure.get_size_inches()[1]
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - room)))
    panels = figure.subplots(1, len(datasets), sharex=True, sharey=True, squeeze=False)[0]
    for axes, dataset in zip(panels, datasets, strict=True):
        for scores, colour, marker, name in (
            (published, GREY, "o", "published"),
            (measured, BLUE, "D", "measured here"),
        ):
            known = [(row[dataset], system) for system, row in scores.items() if dataset in row]
            places = [list(published).index(system) for _, system in known]
            axes.plot(
                [value for value, _ in known],
                places,
                marker,
                color=colour,
                markersize=7,
                label=name,
            )
        axes.set_title(dataset, fontsize=TEXT)
        axes.grid(color=GRID)
        axes.tick_params(length=0, labelsize=SMALL)
        axes.spines[:].set_visible(False)
    axes.set_yticks(range(len(published)), list(published), fontsize=SMALL)
    axes.set_ylim(len(published) - 0.5, -0.5)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=TEXT,
    )
    return figure


def _bar_axes(figure: Figure) -> Axes:
    """Axes for bars, without frame and ticks, since the bars carry their numbers."""
    room = HEADLINE / figure.get_size_inches()[1]
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - room)))
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=TEXT)
    return axes
