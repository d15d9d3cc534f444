"""The images of queries: each cut to its box at full size, under a name of its own.

Boxes are ``(y0, x0, y1, x1)`` in pixels of the upright image, with the numbers of the ground truth.
They are edges rather than pixel centres: a crop holds the rows ``y0 … y1 − 1`` after rounding (half
to even, as Pillow's own ``crop`` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from delfjax.datasets.benchmark import DatasetQuery, RetrievalDataset
from delfjax.datasets.columns import DatasetError
from delfjax.datasets.images import (
    DecodedImage,
    ImageError,
    decode_image,
    identifying,
    reduced_size,
)
from delfjax.errors import shown

# How far a box may extend beyond its image before it is refused, pixels: hand-drawn boxes end on
# the edge, and rounding carries some of them over it. The part outside is cut off.
BOX_SLACK_PX = 1.0
# Longer than any image that can be decoded: a crop is taken at full size, before any reduction.
_NO_REDUCTION = 1 << 30


def read_query(dataset: RetrievalDataset, number: int, *, max_side: int) -> DecodedImage:
    """Pixels of a query: cut to its box at full size, then reduced to ``max_side``.

    Args:
        dataset: the dataset.
        number: position of the query among the dataset's queries.
        max_side: longest side of the result, pixels; a larger crop is reduced as
            :func:`~delfjax.datasets.images.decode_image` does.

    Returns:
        The crop. Its ``original_size`` is the size of the crop before any reduction, its
        ``content_hash`` that of the whole file.

    Raises:
        ImageError: the image is missing or damaged, or the box extends beyond it by more than
            :data:`BOX_SLACK_PX`.

    Source: the crop at full size, then the resize, of the revisited protocol
        (github.com/filipradenovic/revisitop).
    """
    query = dataset.queries[number]
    path = dataset.root / query.path
    if query.box is None:
        return decode_image(path, max_side=max_side)
    whole = decode_image(path, max_side=_NO_REDUCTION)
    with identifying(whole.content_hash):
        y0, x0, y1, x1 = whole_pixels(query.box, whole.original_size, path)
    crop = whole.pixels[y0:y1, x0:x1]
    size = reduced_size((x1 - x0, y1 - y0), max_side)
    if size != (x1 - x0, y1 - y0):
        crop = np.array(Image.fromarray(crop).resize(size, Image.Resampling.BILINEAR), np.uint8)
    return DecodedImage(np.ascontiguousarray(crop), (y1 - y0, x1 - x0), whole.content_hash)


@dataclass(frozen=True, eq=False)
class QueryImages:
    """Queries as images to extract, each cut to its box and named by :func:`crop_name`.

    Because the name contains the box, a cropped query is never confused with the database image it
    was cut from, and a query whose box was corrected counts as a new image.

    Attributes:
        dataset: the dataset.
        numbers: name → a query of that name. Queries with the same image and box have the same
            name and share their features.
    """

    dataset: RetrievalDataset
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, dataset: RetrievalDataset, numbers: Sequence[int]) -> QueryImages:
        """The images of the queries at the given positions of a dataset."""
        return cls(dataset, {crop_name(dataset.queries[number]): number for number in numbers})

    # An image is more than its file: it has a box.
    whole = False
    scanned = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(self.numbers)

    @property
    def root(self) -> Path:
        """Folder of the dataset."""
        return self.dataset.root

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """Pixels of a query; arguments and errors are those of :func:`read_query`."""
        return read_query(self.dataset, self.numbers[name], max_side=max_side)

    def path(self, name: str) -> Path:
        """The whole file that a query is cut from."""
        return self.root / self.dataset.queries[self.numbers[name]].path

    def is_gone(self, name: str) -> bool:
        """Never: queries that are not asked for stay in the store."""
        return False


def crop_name(query: DatasetQuery) -> str:
    """Name of a query's image: its path, followed by ``#`` and the box if it has one."""
    return query.path if query.box is None else f"{query.path}#{','.join(map(repr, query.box))}"


def whole_pixels(
    box: tuple[float, float, float, float], size: tuple[int, int], path: Path | str
) -> tuple[int, int, int, int]:
    """A box rounded to whole pixels and clipped to its image.

    Args:
        box: ``(y0, x0, y1, x1)``, pixels.
        size: rows and columns of the image.
        path: the image, for messages.

    Returns:
        ``(y0, x0, y1, x1)``: the crop holds rows ``y0 … y1 − 1`` and columns ``x0 … x1 − 1``.

    Raises:
        ImageError: the box extends beyond the image by more than :data:`BOX_SLACK_PX`, or holds no
            whole pixel.
    """
    y0, x0, y1, x1 = box
    rows, columns = size
    said = f"box (y0, x0, y1, x1) = ({y0:g}, {x0:g}, {y1:g}, {x1:g})"
    overshoot = max(-y0, -x0, y1 - rows, x1 - columns)
    if overshoot > BOX_SLACK_PX:
        raise ImageError(
            path,
            f"{said} leaves its image of {rows}×{columns} rows × columns; "
            "use the original image, not a resized copy",
        )
    top = max(round(y0), 0)
    left = max(round(x0), 0)
    bottom = min(round(y1), rows)
    right = min(round(x1), columns)
    if bottom <= top or right <= left:
        raise ImageError(path, f"{said} holds no whole pixel")
    return top, left, bottom, right


def box_from_xyxy(numbers: Sequence[object], where: str) -> tuple[float, float, float, float]:
    """``(y0, x0, y1, x1)`` from the ``x1 y1 x2 y2`` of a ground-truth file.

    Args:
        numbers: the four numbers, possibly as text.
        where: file and entry, for messages.

    Raises:
        DatasetError: there are not four finite numbers, or the corners are in the wrong order.
    """
    try:
        x0, y0, x1, y1 = map(_as_number, numbers)
    except (ValueError, OverflowError):
        raise DatasetError(
            f"{where}: box {shown(list(numbers))} is not four numbers x1 y1 x2 y2"
        ) from None
    if not np.isfinite([x0, y0, x1, y1]).all() or x1 <= x0 or y1 <= y0:
        raise DatasetError(
            f"{where}: box x1 y1 x2 y2 = {x0:g} {y0:g} {x1:g} {y1:g}, expected x1 < x2 and y1 < y2"
        )
    return y0, x0, y1, x1


def _as_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")
    return float(value)
