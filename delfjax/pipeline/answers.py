"""What a match or a search of photos returns: results that print as text and plot as a figure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from delfjax import plots
from delfjax.datasets.images import ImageError, decode_image
from delfjax.errors import DelfjaxError, DelfjaxWarning
from delfjax.retrieval.search import RankedList, VerifiedMatches
from delfjax.text import printable

# Longer side of a photo in a figure, pixels.
_FIGURE_SIDE = 1024
# Shown instead of a photo that is missing or has changed.
_BLANK = np.full((192, 256, 3), 236, np.uint8)


class MissingPhotosError(DelfjaxError):
    """A figure was requested of photos that have moved or were never given as files."""


@dataclass(frozen=True)
class PhotoMatch(VerifiedMatches):
    """The mutual nearest neighbours of two photos, verified geometrically.

    ``print`` shows the verdict in one line.

    Attributes:
        photos: the two files; ``None`` for a photo given as features.
        required: least evidence for which the photos match.
        content_hashes: digest of each photo's file when its features were extracted.
    """

    photos: tuple[Path | None, Path | None]
    required: float
    content_hashes: tuple[str, str]

    @property
    def match(self) -> bool:
        """Whether the photos show the same place or thing."""
        return self.evidence >= self.required

    def plot(self, *, title: str = "") -> plots.Plot:
        """Both photos, with lines joining their inliers.

        Args:
            title: precedes the count of inliers.

        Raises:
            MissingPhotosError: a photo was given as features, or has changed since it was matched.
            ImageError: a photo can no longer be read.
        """
        files = [photo for photo in self.photos if photo is not None]
        if len(files) < len(self.photos):
            raise MissingPhotosError(
                "this match was made from features, which have no pixels; match files, or draw with"
                " plots.plot_correspondences"
            )
        first, second = (decode_image(file, max_side=_FIGURE_SIDE) for file in files)
        for file, image, expected in zip(files, (first, second), self.content_hashes, strict=True):
            if image.content_hash != expected:
                raise MissingPhotosError(f"{file}: changed since it was matched; match it again")
        return plots.plot_correspondences(
            first.pixels,
            second.pixels,
            keypoints1_yx=first.shown_yx(self.query_yx),
            keypoints2_yx=second.shown_yx(self.database_yx),
            inliers=self.inlier,
            title=title,
        )

    def __str__(self) -> str:
        verdict = _verdict(self.match)
        return (
            f"{verdict}: {self.inlier.sum()} inliers of {len(self.inlier)} putative matches,"
            f" evidence {self.evidence:.1f} of {self.required:.1f}"
        )


@dataclass(frozen=True)
class FoundPhoto:
    """One photo of a ranked list.

    Attributes:
        rank: starts at 1, the best.
        image: name in the index, the path relative to the folder of photos.
        inliers: putative matches with the query that agree on one transform; ``None`` in a search
            by global descriptors alone.
        votes: putative matches with the query, before verification; ``None`` likewise.
        evidence: sum of the squared cosines of the inliers among the mutual matches with the query,
            on which the verdict rests; ``None`` if the photo was not verified.
        match: whether it shows the same place or thing as the query; ``None`` if it was not
            verified.
        cosine: cosine of the global descriptors; ``None`` in a search by local features alone.
        by_way_of: the photos by way of which it was found, from the query on; empty if directly.
    """

    rank: int
    image: str
    inliers: int | None
    votes: int | None
    evidence: float | None
    match: bool | None
    cosine: float | None = None
    by_way_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchResults:
    """The best photos of an index for one query: a sequence of :class:`FoundPhoto`, best first.

    ``print`` shows it as a table.

    Attributes:
        query: file of the query; ``None`` if it was given as features.
        photos: the photos found, best first.
        root: folder that the names are relative to; ``None`` if the index does not record it.
        ranked: all images of the index by local features, by number, with the correspondences of
            the shortlist; ``None`` in a search by global descriptors alone.
        content_hashes: name → digest of the photo's file when it was extracted, if recorded.
    """

    query: Path | None
    photos: tuple[FoundPhoto, ...]
    root: Path | None
    ranked: RankedList | None = field(repr=False, compare=False)
    content_hashes: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __iter__(self) -> Iterator[FoundPhoto]:
        return iter(self.photos)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, place: int) -> FoundPhoto:
        return self.photos[place]

    @property
    def matches(self) -> tuple[FoundPhoto, ...]:
        """The photos that show the same place or thing as the query."""
        return tuple(photo for photo in self.photos if photo.match)

    def plot(self) -> plots.Plot:
        """The query and the photos found, in rows; the colour of a frame marks a match.

        A photo that is missing, or has changed since it was indexed, is a blank with a note, and a
        warning names it.

        Raises:
            MissingPhotosError: the folder of photos is missing or unknown, or the query was given
                as features.
            ImageError: the query can no longer be read.
        """
        if self.root is None or not self.root.is_dir():
            raise MissingPhotosError(
                f"the photos of this index are not at {self.root or 'a known place'}"
            )
        if self.query is None:
            raise MissingPhotosError(
                "the query was given as features, which have no pixels; search for a file"
            )
        shown = [self._drawn(photo, self.root / photo.image) for photo in self.photos]
        count = f"{len(self.matches)} of the first {len(self)} results match"
        query = decode_image(self.query, max_side=_FIGURE_SIDE)
        return plots.plot_ranked_list(
            query.pixels, shown, title=count if shown else "nothing is indexed"
        )

    def _drawn(self, photo: FoundPhoto, file: Path) -> plots.RankedImage:
        pixels, note = _BLANK, ""
        try:
            image = decode_image(file, max_side=_FIGURE_SIDE)
        except ImageError as error:
            note = error.reason
        else:
            if self.content_hashes.get(photo.image, image.content_hash) == image.content_hash:
                pixels = image.pixels
            else:
                note = "changed since it was indexed"
        if note:
            warnings.warn(
                f"{file}: {note}; the figure leaves it blank", DelfjaxWarning, stacklevel=3
            )
        return plots.RankedImage(
            pixels,
            title=photo.image,
            score=_score(photo),
            verdict=photo.match,
            note=note,
        )

    def __str__(self) -> str:
        shown = {
            "rank": [str(photo.rank) for photo in self.photos],
            "inliers": [_number(photo.inliers) for photo in self.photos],
            "votes": [_number(photo.votes) for photo in self.photos],
            "cosine": [_number(photo.cosine, ".3f") for photo in self.photos],
            "evidence": [_number(photo.evidence, ".1f") for photo in self.photos],
        }
        if all(photo.cosine is None for photo in self.photos):
            del shown["cosine"]
        if self.ranked is None:
            del shown["inliers"], shown["votes"], shown["evidence"]
        columns = [
            [text.rjust(_WIDTHS[name]) for text in (name, *texts)] for name, texts in shown.items()
        ]
        verdicts = ["verdict", *(_verdict(photo.match) for photo in self.photos)]
        names = ["image", *(_image(photo) for photo in self.photos)]
        return "\n".join(
            f"{' '.join(numbers)}  {verdict:12s} {name}"
            for *numbers, verdict, name in zip(*columns, verdicts, names, strict=True)
        )


# Widths of the columns of numbers.
_WIDTHS = {"rank": 4, "inliers": 7, "votes": 6, "cosine": 6, "evidence": 8}


def _score(photo: FoundPhoto) -> str:
    return f"cosine {photo.cosine:.2f}" if photo.inliers is None else f"{photo.inliers} inliers"


def _number(value: float | int | None, form: str = "d") -> str:
    return "-" if value is None else format(value, form)


def _image(photo: FoundPhoto) -> str:
    via = ", ".join(map(printable, photo.by_way_of))
    return printable(photo.image) + (f" (by way of {via})" if via else "")


def _verdict(match: bool | None) -> str:
    return "not verified" if match is None else "match" if match else "no match"
