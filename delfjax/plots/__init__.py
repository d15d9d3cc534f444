"""Figures from arrays: each function returns a :class:`matplotlib.figure.Figure` and neither shows
nor saves it.

:mod:`~delfjax.plots.style` sets colours and sizes, :mod:`~delfjax.plots.photographs` draws on
photos, :mod:`~delfjax.plots.charts` draws numbers. Nothing here touches the global state of
``pyplot``.
"""

from delfjax.plots.charts import (
    plot_against_published,
    plot_counts,
    plot_intervals,
    plot_positions,
    plot_precision_recall,
    plot_stage_times,
    plot_tier_scores,
    plot_trends,
)
from delfjax.plots.photographs import (
    RankedImage,
    plot_attention,
    plot_correspondences,
    plot_gallery,
    plot_keypoints,
    plot_ranked_list,
    plot_thumbnail,
)
from delfjax.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    InlineFigure,
    Photo,
    Plot,
    png,
    stacked_png,
)

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILLION",
    "YELLOW",
    "InlineFigure",
    "Photo",
    "Plot",
    "RankedImage",
    "plot_against_published",
    "plot_attention",
    "plot_correspondences",
    "plot_counts",
    "plot_gallery",
    "plot_intervals",
    "plot_keypoints",
    "plot_positions",
    "plot_precision_recall",
    "plot_ranked_list",
    "plot_stage_times",
    "plot_thumbnail",
    "plot_tier_scores",
    "plot_trends",
    "png",
    "stacked_png",
]
