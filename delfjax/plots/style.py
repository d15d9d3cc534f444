"""The look of all figures: colours, sizes and lettering; also figures as the bytes of a PNG file.

Colour-blind readers can tell the colours apart (Okabe and Ito), and no figure relies on colour
alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text

from delfjax.text import printable

# The data of a group, and its look.
V = TypeVar("V")
L = TypeVar("L")
# The sides have no names, because the images of one figure differ in size.
Photo = UInt8[np.ndarray, "_ _ 3"]
# The type of a figure, for annotations in other rooms, which do not import matplotlib.
Plot = Figure
# Okabe and Ito 2008, "Color Universal Design".
BLACK, GREY = "#000000", "#8c8c8c"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
# Lines of a grid, and paper around photos.
GRID, PAPER = "#e5e5e5", "#f0f0f0"
# Colour maps of attention over a photo, and of keypoints by score.
ATTENTION, SCORES = "inferno", "plasma"
# Verdict → colour of the frame, and a mark that says the same without colour.
VERDICTS = {True: (BLUE, "✓"), False: (VERMILLION, "✗"), None: (GREY, "")}
# Greatest width of a figure, and greatest height of one with photos, inches: 1,200 × 780 pixels,
# which fit a laptop's screen.
WIDTH, TALLEST = 10.0, 6.5
_DPI = 120
# Room for a headline, for a line of text, and between images, inches.
HEADLINE, LINE, GAP = 0.42, 0.22, 0.1
# Sizes of the lettering, points.
SMALL, TEXT, _TITLE = 9, 10, 12
# Lines over photos are bright, to show on dark photos, with a dark seam, to show on bright ones.
LINES = LinearSegmentedColormap.from_list("sky to yellow", [SKY, "#56e0b0", YELLOW, ORANGE])
SEAM = [Stroke(linewidth=2.2, foreground=(0, 0, 0, 0.55)), Normal()]


class InlineFigure(Figure):
    """A figure that a notebook shows as a cell's value, without ``pyplot`` or a magic command.

    All text in it is drawn literally, since names of files may look like formulas.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure."""
        for text in self.findobj(Text):
            _make_literal(text)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def stacked_png(figures: Sequence[Figure]) -> bytes:
    """The figures as the bytes of one PNG file: stacked, the first on top, on a white ground."""
    pictures = [_rasterised(figure) for figure in figures]
    height = sum(len(picture) for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        sheet[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    stream = io.BytesIO()
    imsave(stream, sheet, format="png")
    return stream.getvalue()


def blank_figure(title: str, *, width: float, height: float) -> Figure:
    """An empty figure, ``width`` × ``height`` inches or as wide as its headline, without layout."""
    figure = InlineFigure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    headline = figure.suptitle(
        title, fontsize=_TITLE, fontweight="bold", y=1 - 0.1 / height, va="top"
    )
    _make_literal(headline)
    figure.set_figwidth(max(width, headline.get_window_extent().width / _DPI + 0.2))
    return figure


def _make_literal(text: Text) -> None:
    """Draw the text as it is, neither as a formula nor with characters that no font has."""
    text.set_parse_math(False)
    text.set_text("\n".join(printable(line) for line in text.get_text().split("\n")))


def with_looks(groups: Mapping[str, V], looks: Sequence[L]) -> list[tuple[str, V, L]]:
    """Name, data and look of each group, no two of one look.

    Raises:
        ValueError: there are more groups than looks.
    """
    if len(groups) > len(looks):
        raise ValueError(
            f"at most {len(looks)} groups can be told apart, got {len(groups)}: {', '.join(groups)}"
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
    """New axes at ``place``: left, bottom, width and height in inches."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = place
    return figure.add_axes((left / width, bottom / height, across / width, up / height))


def elided(name: str, limit: int = 22) -> str:
    """``name``, or an ellipsis and its end, on one line of at most ``limit`` characters, to fit
    under an image."""
    shown = printable(name)
    return shown if len(shown) <= limit else f"…{shown[1 - limit :]}"


def evenly_spaced(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` evenly spaced indices below ``count``."""
    if not count:
        return np.arange(0)
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))
