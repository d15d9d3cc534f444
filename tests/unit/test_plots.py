"""Figures show what they claim, are legible, and leave the global state of matplotlib alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from delfjax import plots
from delfjax.types import LocalFeatures

WIDE = np.full((60, 80, 3), 120, dtype=np.uint8)
TALL = np.full((90, 40, 3), 30, dtype=np.uint8)
KEYPOINTS = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 70.0]])
INLIERS = np.array([True, False, True])
FEATURES = LocalFeatures(
    keypoints_yx=np.array([[10, 10], [20, 30], [40, 50], [0, 0]], dtype=np.float32),
    scales=np.array([1.0, 0.5, 1.0, 1.0], dtype=np.float32),
    scores=np.array([1.0, 3.0, 2.0, 9.0], dtype=np.float32),
    descriptors=np.zeros((4, 2), dtype=np.float32),
    valid=np.array([True, True, True, False]),
)
BOXES = np.array(
    [[5, 5, 15, 15], [10, 20, 30, 40], [35, 45, 45, 55], [0, 0, 9, 9]], dtype=np.float32
)
NO_FEATURES = LocalFeatures(
    keypoints_yx=np.zeros((0, 2), dtype=np.float32),
    scales=np.zeros(0, dtype=np.float32),
    scores=np.zeros(0, dtype=np.float32),
    descriptors=np.zeros((0, 2), dtype=np.float32),
    valid=np.zeros(0, dtype=bool),
)
RESULTS = [
    plots.RankedImage(TALL, "right.jpg", "87 inliers", True),
    plots.RankedImage(WIDE, "a/very/long/path/that/does/not/fit.jpg", "9 inliers", False),
    plots.RankedImage(WIDE, "unknown.jpg"),
]


CURVES = {
    "votes": (np.array([1, 2, 2]), np.array([1.0, 1.0, 0.5])),
    "inliers": (np.arange(1, 4), np.array([1.0, 0.9, 0.4])),
}


def _correspondences() -> Figure:
    return plots.plot_correspondences(
        WIDE,
        WIDE,
        keypoints1_yx=KEYPOINTS,
        keypoints2_yx=KEYPOINTS,
        inliers=INLIERS,
        title="a and b",
    )


POSITIONS = {"here": np.array([(48.9, 2.3), (-33.9, 151.2)]), "there": np.array([(0.0, -179.0)])}
TRENDS = {"scale": {0.0: 0.8, 0.5: 0.6, 1.0: 0.3}, "occlusion": {0.0: 0.7, 1.0: 0.5}}
FIGURES: dict[str, Callable[[], Figure]] = {
    "ranked list": lambda: plots.plot_ranked_list(WIDE, RESULTS),
    "ranked list of nothing": lambda: plots.plot_ranked_list(WIDE, []),
    "ranked list in rows": lambda: plots.plot_ranked_list(WIDE, RESULTS * 3),
    "correspondences": _correspondences,
    "no correspondence": lambda: plots.plot_correspondences(
        WIDE, TALL, keypoints1_yx=KEYPOINTS[:0], keypoints2_yx=KEYPOINTS[:0], inliers=INLIERS[:0]
    ),
    "attention": lambda: plots.plot_attention(
        WIDE, np.eye(4, 5), first_cell_yx=(7.5, 7.5), cell_px=16.0
    ),
    "keypoints": lambda: plots.plot_keypoints(WIDE, FEATURES, boxes_yx=BOXES),
    "no keypoint": lambda: plots.plot_keypoints(TALL, NO_FEATURES),
    "precision and recall": lambda: plots.plot_precision_recall(
        CURVES, label="true positives of all queries"
    ),
    "reliability": lambda: plots.plot_reliability(
        {name: (np.linspace(0.05, 0.95, 4), np.array([0.0, 0.4, 0.5, 1.0])) for name in ("a", "b")}
    ),
    "reliability of nothing": lambda: plots.plot_reliability({}),
    "precision and recall of nothing": lambda: plots.plot_precision_recall({}),
    "tier scores": lambda: plots.plot_tier_scores(
        {"photo": {"votes": 0.8, "inliers": 0.9}, "pair": {"votes": 0.5}}
    ),
    "gallery": lambda: plots.plot_gallery(
        [WIDE, TALL] * 9, [f"photo {k}" for k in range(18)], title="Photos"
    ),
    "gallery in two columns": lambda: plots.plot_gallery(
        [WIDE, TALL], ["wide", "tall"], title="Photos", columns=2
    ),
    "positions": lambda: plots.plot_positions(POSITIONS, title="Landmarks"),
    "counts": lambda: plots.plot_counts(
        {"some": np.array([1, 5, 2])}, title="Photos of each", label="photos"
    ),
    "trends": lambda: plots.plot_trends(
        TRENDS, title="Turned up", xlabel="setting", ylabel="mean average precision"
    ),
}


def _drawn(figure: Figure) -> np.ndarray:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    with Image.open(stream) as image:
        return np.asarray(image.convert("RGB"))


def _texts(figure: Figure) -> list[str]:
    # The names of bars become texts only when they are drawn.
    figure.canvas.draw()
    return [str(text.get_text()) for text in figure.findobj(Text)]


def _photo_axes(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize(
    "draw",
    [
        lambda many: plots.plot_positions(
            dict.fromkeys(many, POSITIONS["here"]), title="Landmarks"
        ),
        lambda many: plots.plot_counts(
            dict.fromkeys(many, np.array([1, 5, 2])), title="Photos of each", label="photos"
        ),
        lambda many: plots.plot_trends(
            dict.fromkeys(many, TRENDS["scale"]), title="Turned up", xlabel="setting", ylabel="mAP"
        ),
    ],
)
def test_more_groups_than_colours_are_refused_rather_than_left_out(
    draw: Callable[[str], Figure],
) -> None:
    with pytest.raises(
        ValueError, match="at most [46] groups can be told apart, got 7: a, b, c, d, e, f, g"
    ):
        draw("abcdefg")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_a_laptop_screen_and_is_not_blank(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    pixels = _drawn(figure)
    assert 150 < pixels.shape[0] <= 800 and 400 <= pixels.shape[1] <= 1250
    assert np.ptp(pixels) > 100


@pytest.mark.parametrize("name", FIGURES)
def test_every_word_is_large_enough_to_read_and_stays_on_the_canvas(name: str) -> None:
    figure = FIGURES[name]()
    figure.canvas.draw()
    hidden = {label for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)
              for label in axis.get_ticklabels()}  # fmt: skip
    words = [
        text
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and text not in hidden
    ]
    assert words
    for text in words:
        assert text.get_fontsize() >= 9
        box, canvas = text.get_window_extent(), figure.bbox
        # A pixel for the antialiased edge of a letter.
        assert (
            box.x0 >= -1 and box.x1 <= canvas.x1 + 1 and box.y0 >= -1 and box.y1 <= canvas.y1 + 1
        ), text.get_text()


@pytest.mark.parametrize("name", FIGURES)
def test_the_global_state_of_matplotlib_is_left_alone(name: str) -> None:
    before = dict(matplotlib.rcParams)
    FIGURES[name]()
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_a_notebook_shows_a_figure_as_the_value_of_a_cell() -> None:
    png = FIGURES["tier scores"]()._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_verdicts_show_by_colour_and_by_mark() -> None:
    figure = plots.plot_ranked_list(WIDE, RESULTS)
    query, right, wrong, unknown = _photo_axes(figure)
    assert [axes.get_title() for axes in (query, right, wrong, unknown)] == [
        "query", "1 · 87 inliers ✓", "2 · 9 inliers ✗", "3",
    ]  # fmt: skip
    frames = [
        to_hex(axes.spines["left"].get_edgecolor()).upper()
        for axes in (query, right, wrong, unknown)
    ]
    assert frames == [plots.BLACK, plots.BLUE, plots.VERMILLION, plots.GREY.upper()]
    assert wrong.get_xlabel() == "…" + RESULTS[1].title[-21:]


def test_the_headline_counts_the_right_results() -> None:
    assert "3 results, 1 of 2 right" in _texts(plots.plot_ranked_list(WIDE, RESULTS))
    assert "1 result" in _texts(plots.plot_ranked_list(WIDE, RESULTS[2:]))
    assert "No result" in _texts(plots.plot_ranked_list(WIDE, []))


def test_images_keep_their_proportions_in_a_ranked_list() -> None:
    figure = plots.plot_ranked_list(WIDE, RESULTS)
    figure.canvas.draw()
    for axes, image in zip(_photo_axes(figure), [WIDE, TALL, WIDE, WIDE], strict=True):
        corners = axes.transData.transform(
            [(-0.5, -0.5), (image.shape[1] - 0.5, image.shape[0] - 0.5)]
        )
        across, up = np.abs(corners[1] - corners[0])
        assert across / up == pytest.approx(image.shape[1] / image.shape[0], rel=1e-6)


def test_inliers_are_joined_and_counted_and_outliers_stay_faint() -> None:
    figure = _correspondences()
    assert "a and b: 2 inliers of 3 putative matches" in _texts(figure)
    lines = {
        str(c.get_label()): c for c in figure.axes[0].collections if isinstance(c, LineCollection)
    }
    assert len(lines["inliers"].get_segments()) == 2
    assert len(lines["outliers"].get_segments()) == 1
    assert lines["outliers"].get_colors()[0][3] < 0.5


def test_a_line_ends_at_the_pixel_it_names_in_both_images() -> None:
    """The second image is drawn at twice its size; the ends are compared in each image's extent."""
    small = WIDE[:30, :40]
    figure = plots.plot_correspondences(
        WIDE,
        small,
        keypoints1_yx=KEYPOINTS,
        keypoints2_yx=KEYPOINTS[::-1] / 4,
        inliers=np.array([True, False, False]),
    )
    first, second = (image for image in figure.axes[0].images if isinstance(image, AxesImage))
    inlier = next(
        c for c in figure.axes[0].collections if c.get_label() == "inliers"
    ).get_segments()[0]
    for point, image, yx in (
        (inlier[0], first, KEYPOINTS[0]),
        (inlier[1], second, KEYPOINTS[2] / 4),
    ):
        left, right, bottom, top = image.get_extent()
        columns, rows = image.get_array().shape[1], image.get_array().shape[0]
        column = (point[0] - left) / (right - left) * columns - 0.5
        row = (point[1] - top) / (bottom - top) * rows - 0.5
        np.testing.assert_allclose((row, column), yx, atol=1e-9)


def test_a_figure_is_as_wide_as_its_headline() -> None:
    title = "A headline that is much longer than a picture as narrow as this one has room for"
    figure = plots.plot_tier_scores({"all": {"inliers": 0.5}}, title=title)
    (headline,) = (text for text in figure.findobj(Text) if text.get_text() == title)
    drawn = headline.get_window_extent()
    assert drawn.x0 >= 0 and drawn.x1 <= figure.bbox.x1
    assert figure.get_figwidth() > plots.plot_tier_scores({"all": {"inliers": 0.5}}).get_figwidth()


def test_at_most_max_lines_are_drawn_and_the_title_says_so() -> None:
    points = np.tile(np.linspace(0, 59, 50)[:, None], (1, 2))
    figure = plots.plot_correspondences(
        WIDE,
        WIDE,
        keypoints1_yx=points,
        keypoints2_yx=points,
        inliers=np.ones(50, dtype=bool),
        max_lines=20,
    )
    assert "50 inliers of 50 putative matches (20 drawn)" in _texts(figure)
    lines = next(c for c in figure.axes[0].collections if c.get_label() == "inliers")
    assert len(lines.get_segments()) == 20


def test_the_heat_map_lies_on_the_centres_of_its_cells() -> None:
    figure = plots.plot_attention(
        WIDE, np.eye(4, 5), first_cell_yx=(7.5, 3.0), cell_px=16.0, label="feature norm"
    )
    heat = figure.axes[1].images[-1]
    left, right, bottom, top = heat.get_extent()
    assert (left + 8.0, top + 8.0) == (3.0, 7.5)
    assert ((right - left) / 5, (bottom - top) / 4) == (16.0, 16.0)
    assert figure.axes[2].get_ylabel() == "feature norm"


def test_the_best_keypoints_are_drawn_with_their_receptive_boxes() -> None:
    figure = plots.plot_keypoints(WIDE, FEATURES, boxes_yx=BOXES, top=2)
    axes = figure.axes[0]
    points = next(c for c in axes.collections if isinstance(c, PathCollection))
    # As (x, y), highest score first. The slot that is not valid has the highest score of all, but
    # is left out.
    np.testing.assert_array_equal(points.get_offsets(), [[30, 20], [50, 40]])
    boxes = [patch.get_bbox().bounds for patch in axes.patches if isinstance(patch, Rectangle)]
    assert boxes == [(20.0, 10.0, 20.0, 20.0), (45.0, 35.0, 10.0, 10.0)]
    assert {"Top 2 of 3 keypoints", "scale 0.5", "scale 1"} <= set(_texts(figure))


def test_every_score_of_a_tier_has_a_bar() -> None:
    figure = FIGURES["tier scores"]()
    heights = sorted(round(patch.get_height(), 2) for patch in figure.axes[0].patches)
    assert heights == [0.5, 0.8, 0.9]
    assert {"0.80", "0.90", "0.50", "votes", "inliers", "photo", "pair"} <= set(_texts(figure))


def test_precision_curves_are_drawn_as_given_and_named() -> None:
    figure = FIGURES["precision and recall"]()
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    for name, (recall, precision) in CURVES.items():
        np.testing.assert_array_equal(
            lines[name].get_xydata(), np.stack([recall, precision], axis=-1)
        )
    # The axis of a count has no fractions.
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    assert {"precision", "true positives of all queries", "votes", "inliers"} <= set(_texts(figure))


def test_the_frame_of_a_thumbnail_shows_the_verdict_as_in_the_ranked_list() -> None:
    figures = {
        verdict: plots.plot_thumbnail(TALL, verdict=verdict) for verdict in (True, False, None)
    }
    frames = {
        verdict: figure.axes[0].spines["left"].get_edgecolor()
        for verdict, figure in figures.items()
    }
    assert [to_hex(frames[verdict]) for verdict in (True, False)] == [
        plots.BLUE.lower(),
        plots.VERMILLION.lower(),
    ]
    assert len(set(frames.values())) == 3


def test_stacked_figures_keep_their_sizes_and_their_order() -> None:
    wide, small = plots.plot_ranked_list(WIDE, RESULTS), plots.plot_thumbnail(TALL)
    sizes = [Image.open(io.BytesIO(plots.png(figure))).size for figure in (wide, small)]
    stacked = np.asarray(Image.open(io.BytesIO(plots.stacked_png([wide, small]))).convert("RGB"))
    assert stacked.shape == (sizes[0][1] + sizes[1][1], sizes[0][0], 3)
    alone = np.asarray(Image.open(io.BytesIO(plots.png(small))).convert("RGB"))
    assert (stacked[sizes[0][1] :, : sizes[1][0]] == alone).all()
    assert (stacked[sizes[0][1] :, sizes[1][0] :] == 255).all()


def test_every_photo_of_a_gallery_has_its_caption_and_its_proportions() -> None:
    figure = FIGURES["gallery"]()
    axes = _photo_axes(figure)
    assert [one.get_title() for one in axes] == [f"photo {k}" for k in range(18)]
    for one, photo in zip(axes, [WIDE, TALL] * 9, strict=True):
        left, right = one.get_xlim()
        low, high = one.get_ylim()
        # Cells are square and hold the whole photo.
        assert right - left == low - high == max(photo.shape[:2])
    with pytest.raises(ValueError, match="zip"):
        plots.plot_gallery([WIDE], [], title="One photo, no caption")


def test_positions_are_drawn_north_up_and_east_right() -> None:
    axes = FIGURES["positions"]().axes[0]
    offsets = [np.asarray(collection.get_offsets()) for collection in axes.collections]
    np.testing.assert_array_equal(offsets[0], [(2.3, 48.9), (151.2, -33.9)])
    assert axes.get_xlim() == (-180, 180) and axes.get_ylim() == (-90, 90)


def test_trends_and_counts_are_drawn_as_given() -> None:
    lines = {str(line.get_label()): line for line in FIGURES["trends"]().axes[0].lines}
    for name, curve in TRENDS.items():
        np.testing.assert_array_equal(lines[name].get_xydata(), list(curve.items()))
    np.testing.assert_array_equal(FIGURES["counts"]().axes[0].lines[0].get_ydata(), [5, 2, 1])


@pytest.mark.parametrize(
    "name", [r"a$x_{y$.jpg", r"$\frac{1}$.jpg", "5$ or 6$ ^_", "two\nlines\x1b\udcff"]
)
def test_names_are_drawn_literally(name: str) -> None:
    figures = [
        plots.plot_ranked_list(
            WIDE, [plots.RankedImage(WIDE, name, name)], title=name, query_title=name
        ),
        plots.plot_gallery([WIDE], [name], title=name),
        plots.plot_tier_scores({name: {name: 0.5, "votes": 0.4}}, title=name),
        plots.plot_intervals({name: (0.5, 0.4, 0.6)}, title=name, label=name),
        plots.plot_trends({name: TRENDS["scale"]}, title=name, xlabel=name, ylabel=name),
        plots.plot_precision_recall({name: CURVES["votes"]}, title=name, label=name),
    ]
    for figure in figures:
        _drawn(figure)
        assert all(not text.get_parse_math() for text in figure.findobj(Text) if text.get_text())
        assert not {"\x1b", "\udcff"} & set("".join(_texts(figure)))
