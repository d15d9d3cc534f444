"""What a match or a search of photos returns: results that print as text and plot as a figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from delfjax import plots
from delfjax.datasets.images import decode_image
from delfjax.errors import DelfjaxError
from delfjax.retrieval.search import RankedList, VerifiedMatches

# Longer side of a photo in a figure, pixels.
_FIGURE_SIDE = 1024


class MissingPhotosError(DelfjaxError):
    """A figure of photos that are not where they were, or were never given as files."""


@dataclass(frozen=True)
class PhotoMatch(VerifiedMatches):
    """What two photos have in common: their mutual nearest neighbours, verified geometrically.

    ``print`` says the verdict in one line.

    Attributes:
        photos: the two files; ``None`` for one that was given as features.
        min_inliers: inliers from which the photos are said to match.
    """

    photos: tuple[Path | None, Path | None]
    min_inliers: int

    @property
    def match(self) -> bool:
        """Whether the photos show the same place or thing."""
        return int(self.inlier.sum()) >= self.min_inliers

    def plot(self, *, title: str = "") -> plots.Plot:
        """Both photos, their inliers joined by lines.

        Args:
            title: put before the count of inliers.

        Raises:
            MissingPhotosError: a photo was given as features.
            ImageError: a photo can no longer be read.
        """
        files = [photo for photo in self.photos if photo is not None]
        if len(files) < len(self.photos):
            raise MissingPhotosError(
                "this match was made from features, which have no pixels; match files, or draw"
                " with plots.plot_correspondences"
            )
        first, second = (decode_image(file, max_side=_FIGURE_SIDE) for file in files)
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
        return f"{verdict}: {self.inlier.sum()} inliers of {len(self.inlier)} putative matches"


@dataclass(frozen=True)
class FoundPhoto:
    """One photo of a ranked list.

    Attributes:
        rank: from 1, the best.
        image: its name in the index, the path under the folder of photos.
        inliers: correspondences with the query that agree on one transform.
        votes: putative matches with the query, before verification.
        match: whether it shows the same place or thing as the query.
    """

    rank: int
    image: str
    inliers: int
    votes: int
    match: bool


@dataclass(frozen=True)
class SearchResults:
    """The best photos of an index for one query, best first: a sequence of :class:`FoundPhoto`,
    which ``print`` shows as a table.

    Attributes:
        query: the file searched for; ``None`` if it was given as features.
        photos: what was found.
        root: folder that the names are relative to; ``None`` if the index does not know it.
        ranked: every image of the index by its number, with the correspondences of the shortlist.
    """

    query: Path | None
    photos: tuple[FoundPhoto, ...]
    root: Path | None
    ranked: RankedList = field(repr=False, compare=False)

    def __iter__(self) -> Iterator[FoundPhoto]:
        return iter(self.photos)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, place: int) -> FoundPhoto:
        return self.photos[place]

    @property
    def matches(self) -> tuple[FoundPhoto, ...]:
        """Those that show the same place or thing as the query."""
        return tuple(photo for photo in self.photos if photo.match)

    def plot(self) -> plots.Plot:
        """The query and what was found, in rows; frames tell matches from the rest.

        Raises:
            MissingPhotosError: the photos of the index are not at hand, or the query was given as
                features.
            ImageError: a photo can no longer be read.
        """
        if self.root is None or not self.root.is_dir():
            raise MissingPhotosError(
                f"the photos of this index are not at {self.root or 'a known place'}"
            )
        if self.query is None:
            raise MissingPhotosError(
                "the query was given as features, which have no pixels; search for a file"
            )
        shown = [
            plots.RankedImage(
                decode_image(self.root / photo.image, max_side=_FIGURE_SIDE).pixels,
                title=photo.image,
                score=f"{photo.inliers} inliers",
                verdict=photo.match,
            )
            for photo in self.photos
        ]
        count = f"{len(self.matches)} of the first {len(self)} results match"
        query = decode_image(self.query, max_side=_FIGURE_SIDE)
        return plots.plot_ranked_list(
            query.pixels, shown, title=count if shown else "nothing is indexed"
        )

    def __str__(self) -> str:
        head = f"{'rank':>4s} {'inliers':>7s} {'votes':>6s}  {'verdict':8s} image"
        rows = (
            f"{photo.rank:4d} {photo.inliers:7d} {photo.votes:6d}  {_verdict(photo.match):8s}"
            f" {photo.image}"
            for photo in self.photos
        )
        return "\n".join([head, *rows])


def _verdict(match: bool) -> str:
    return "match" if match else "no match"
