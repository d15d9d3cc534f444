"""How every figure looks: colours, sizes, lettering, and a figure as the bytes of a PNG file.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; no figure relies on
colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patheffects import Normal, Stroke

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
VERDICTS = {True: (BLUE, "✓"), False: (VERMILLION, "✗"), None: (GREY, "")}
# Width of a figure and height of one that shows photos, inches; 1 200 × 780 pixels, which a laptop
# shows in full.
WIDTH, TALLEST = 10.0, 6.5
_DPI = 120
# Room for a headline, for a line of text and between images, inches.
HEADLINE, LINE, GAP = 0.42, 0.22, 0.1
SMALL, TEXT, _TITLE = 9, 10, 12
# Lines over photos: bright enough for dark ones, with a dark seam for bright ones.
LINES = LinearSegmentedColormap.from_list("sky to yellow", [SKY, "#56e0b0", YELLOW, ORANGE])
SEAM = [Stroke(linewidth=2.2, foreground=(0, 0, 0, 0.55)), Normal()]


class InlineFigure(Figure):
    """A figure that a notebook shows as the value of a cell, without ``pyplot`` or a magic
    command."""

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
    sheet = np.full(
        (sum(map(len, pictures)), max(picture.shape[1] for picture in pictures), 3), 255, np.uint8
    )
    top = 0
    for picture in pictures:
        sheet[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    stream = io.BytesIO()
    imsave(stream, sheet, format="png")
    return stream.getvalue()


def blank_figure(title: str, *, width: float, height: float) -> Figure:
    """An empty figure of that many inches, or as wide as its headline; places in it are fixed, not
    laid out."""
    figure = InlineFigure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    headline = figure.suptitle(
        title, fontsize=_TITLE, fontweight="bold", y=1 - 0.1 / height, va="top"
    )
    figure.set_figwidth(max(width, headline.get_window_extent().width / _DPI + 0.2))
    return figure


def told_apart(groups: Mapping[str, V], looks: Sequence[L]) -> list[tuple[str, V, L]]:
    """Each group with its name and a look of its own."""
    if len(groups) > len(looks):
        raise ValueError(
            f"{len(groups)} groups, and {len(looks)} looks to tell them apart: {', '.join(groups)}"
        )
    return [
        (name, group, look)
        for (name, group), look in zip(groups.items(), looks[: len(groups)], strict=True)
    ]


def _rasterised(figure: Figure) -> Photo:
    stream = io.BytesIO()
    figure.savefig(stream, format="rgba")
    across, up = figure.canvas.get_width_height()
    return np.frombuffer(stream.getvalue(), np.uint8).reshape(up, across, 4)[..., :3]


def axes_at(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Axes at (left, bottom, width, height) inches."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = place
    return figure.add_axes((left / width, bottom / height, across / width, up / height))


def elided(name: str, limit: int = 22) -> str:
    """``name``, or its end where it is too long to stand under an image."""
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def evenly(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly taken."""
    return (
        np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))
        if count
        else np.arange(0)
    )
