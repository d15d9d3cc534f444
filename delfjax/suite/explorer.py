"""A live view of search results for JupyterLab: choose a photo, see the ranked list, click a result
for its matches.

It works with any feature store and the index that was built from it::

    Explorer(open_index(Path("my.index")), FeatureStore.open(Path("my.store")))

Without a live kernel (in an executed copy or a static viewer), the same object shows a picture of
its state. An unreadable photo becomes a line of text in the view: callbacks never raise an error
that a user's files can cause.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import html
from collections.abc import Callable, Hashable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from delfjax import plots
from delfjax.config import DelfConfig
from delfjax.datasets.image_source import ImageSource
from delfjax.datasets.images import DecodedImage, decode_image
from delfjax.errors import DelfjaxError
from delfjax.features.store import FeatureStore
from delfjax.retrieval.local_index import LocalIndex
from delfjax.retrieval.search import VerifiedMatches, search

# Longest side of a photo, pixels: in the ranked list, and in the larger pictures.
_SMALL_SIDE = 240
_LARGE_SIDE = 800
# Number of keypoints shown at first.
_TOP = 200
# Most characters of a name under a thumbnail. The end is kept, since it tells more than the start.
_NAME = 20
_MARKS = {True: " ✓", False: " ✗", None: ""}
# Widths of a card (twelve cards fill two rows in JupyterLab) and of the larger pictures.
_CARD = "148px"
_MATCHES = "100%"
_KEYPOINTS = "640px"
# Shown instead of a photo that cannot be read.
_BLANK = np.full((90, 120, 3), 236, np.uint8)


class ExplorerError(DelfjaxError):
    """A store and an index do not belong together, or something cannot be shown."""


@dataclass(frozen=True)
class Hit:
    """One entry of the ranked list.

    Attributes:
        name: name of the photo.
        inliers: number of inliers.
        verdict: whether the photo is a right answer; ``None`` if that is unknown.
        correspondences: the putative matches with their inliers; ``None`` for photos after the
            shortlist, which are not verified.
    """

    name: str
    inliers: int
    verdict: bool | None
    correspondences: VerifiedMatches | None


class Explorer:
    """The view, shown when it is the value of a notebook cell. Code can drive its controls too.

    Attributes:
        widget: the whole view.
        query: menu of the query photo; ``query.value`` is its name.
        narrow: text field; ``query`` offers only the names that contain its text.
        hits: the ranked list, without the query itself.
        results: one button per result shown, best first; ``results[2].click()`` shows the matches
            of the third.
        thumbnails: the pictures above the buttons.
        top: slider of the number of keypoints shown, those with the highest scores.
        least: slider of the lowest score shown, as a share of the photo's highest score.
        correspondences: picture of the matches with the chosen result.
        keypoints: picture of the query's keypoints.
        again: button that searches for the chosen result.
        message: text that says what could not be shown, and why.
    """

    def __init__(
        self,
        index: LocalIndex,
        store: FeatureStore,
        photos_root: Path | None = None,
        *,
        queries: ImageSource | None = None,
        truth: Mapping[str, Set[str]] | None = None,
        config: DelfConfig | None = None,
        shown: int = 11,
    ) -> None:
        """Build the view and search for the first photo.

        Args:
            index: index of the database.
            store: features of the photos that can be searched for: the store the index was built
                from, or another with the same extraction config.
            photos_root: folder that the names are relative to; by default the one that the index
                records.
            queries: source of the pixels of photos that are not whole files, such as queries cut
                to their boxes.
            truth: photo → its right answers; results of other photos are shown without verdicts.
            config: only its sections ``search`` and ``verification`` are used; by default those of
                the index.
            shown: most results in the list.

        Raises:
            ExplorerError: the store is empty, or has another extraction config than the index.
        """
        if store.config_hash != index.reduction.extraction_hash:
            raise ExplorerError(
                f"{store.path}: extracted with config {store.config_hash}, but the index was built"
                f" from a store with config {index.reduction.extraction_hash}; open the store that"
                " the index was built from"
            )
        if not len(store):
            raise ExplorerError(
                f"{store.path}: holds no photo to search for; extract some photos first"
            )
        self._index = index
        self._store = store
        self._truth = truth or {}
        self._root = Path(index.photos) if photos_root is None else photos_root
        self._queries = queries
        self._cut = frozenset(queries.names if queries else ())
        self._config = config or index.config
        self.hits: tuple[Hit, ...] = ()
        self._chosen = 0
        self._photos: dict[tuple[str, int], DecodedImage] = {}
        self._index_hashes = dict(zip(index.names, index.content_hashes, strict=False))
        # Part of the view → the state it shows, and part → why it could not be shown.
        self._drawn: dict[str, Hashable] = {}
        self._problems: dict[str, str] = {}
        self._make_controls()
        self._make_list(max(0, min(shown, len(index.names) - 1)))
        self.widget = self._arrange()
        self._observe()
        self._search()

    def picture(self) -> bytes:
        """The present view as one PNG: the ranked list, and the matches with the chosen result."""
        query = self.query.value
        entries = [
            plots.RankedImage(
                self._pixels(hit.name), hit.name, f"{hit.inliers} inliers", hit.verdict
            )
            for hit in self.hits[: len(self.results)]
        ]
        figures = [
            plots.plot_ranked_list(
                self._pixels(query),
                entries,
                title=f"Photos that show the same as {_elided(query, 48)}",
            )
        ]
        # Show at least the list; the message of the live view says why there are no matches.
        with contextlib.suppress(DelfjaxError):
            figures.append(self._plot_correspondences())
        return plots.stacked_png(figures)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        live: dict[str, Any] = self.widget._repr_mimebundle_()
        return {
            "application/vnd.jupyter.widget-view+json": live[
                "application/vnd.jupyter.widget-view+json"
            ],
            "image/png": base64.b64encode(self.picture()).decode("ascii"),
            "text/plain": f"Explorer of {len(self._store)} photos, query {self.query.value!r}",
        }

    def _make_controls(self) -> None:
        wide = widgets.Layout(width="460px")
        self.query = widgets.Dropdown(options=self._store.names, description="query", layout=wide)
        self.narrow = widgets.Text(
            placeholder="part of a name, then Enter", description="filter", continuous_update=False
        )
        most = max(1, int(self._store.counts().max()))
        self.top = widgets.IntSlider(
            min(_TOP, most), min=1, max=most, description="keypoints", layout=wide
        )
        self.least = widgets.FloatSlider(
            0.0, min=0.0, max=1.0, step=0.01, description="min. score", layout=wide
        )
        self.least.readout_format = ".0%"
        self.message = widgets.HTML()
        self.again = widgets.Button(
            description="Search for this photo", icon="search", layout=widgets.Layout(width="auto")
        )
        self.correspondences = _picture(_MATCHES)
        self.keypoints = _picture(_KEYPOINTS)

    def _make_list(self, shown: int) -> None:
        width = widgets.Layout(width=_CARD)
        self._query_thumbnail = _picture(_CARD)
        self.thumbnails = tuple(_picture(_CARD) for _ in range(shown))
        self.results = tuple(widgets.Button(layout=width) for _ in range(shown))
        self._names = tuple(widgets.Label(layout=width) for _ in range(shown))

    def _arrange(self) -> widgets.VBox:
        own = widgets.VBox([self._query_thumbnail, widgets.HTML("<b>query</b>")])
        cards = [
            widgets.VBox(list(card))
            for card in zip(self.thumbnails, self.results, self._names, strict=True)
        ]
        grid = widgets.Box(
            [own, *cards], layout=widgets.Layout(flex_flow="row wrap", grid_gap="8px")
        )
        return widgets.VBox(
            [
                widgets.HBox([self.query, self.narrow]),
                self.message,
                grid,
                widgets.HBox([self.again]),
                self.correspondences,
                widgets.HBox([self.top, self.least], layout=widgets.Layout(flex_flow="row wrap")),
                self.keypoints,
            ]
        )

    def _observe(self) -> None:
        self.query.observe(self._search, "value")
        self.narrow.observe(self._narrow, "value")
        for slider in (self.top, self.least):
            slider.observe(self._draw_keypoints, "value")
        for rank, button in enumerate(self.results):
            button.on_click(_with(self._choose, rank))
        self.again.on_click(self._search_again)

    def _search(self, _change: object = None) -> None:
        """Search for the chosen query and draw the whole view."""
        query = self.query.value
        self._photos.clear()
        self._problems.clear()
        try:
            self.hits = self._ranked(query)
        except DelfjaxError as error:
            self.hits = ()
            self._problems["search"] = str(error)
        if not self._root.is_dir():
            self._problems["root"] = (
                f"photos: {self._root} is not a folder; set photos_root to the folder that the"
                " names are relative to"
            )
        self._draw(
            "query",
            self._query_thumbnail,
            query,
            _with(self._plot_thumbnail, query, None),
            blank=True,
        )
        for rank, (thumbnail, button, label) in enumerate(
            zip(self.thumbnails, self.results, self._names, strict=True)
        ):
            hit = self.hits[rank] if rank < len(self.hits) else None
            thumbnail.layout.display = button.layout.display = label.layout.display = (
                None if hit else "none"
            )
            if hit is not None:
                button.description = f"{rank + 1} · {hit.inliers} inliers{_MARKS[hit.verdict]}"
                button.tooltip = hit.name
                label.value = _elided(hit.name)
                self._draw(
                    f"result {rank}",
                    thumbnail,
                    (hit.name, hit.verdict),
                    _with(self._plot_thumbnail, hit.name, hit.verdict),
                    blank=True,
                )
        self._draw_keypoints()
        self._choose(0)

    def _search_again(self, _button: object) -> None:
        name = self.hits[self._chosen].name if self._chosen < len(self.hits) else self.query.value
        if name not in self.query.options:
            self._offer(self._store.names, name)
        self.query.value = name

    def _choose(self, rank: int) -> None:
        """Choose a result: only its matches and two buttons change."""
        self._chosen = rank
        for place, button in enumerate(self.results):
            button.button_style = "primary" if place == rank else ""
        name = self.hits[rank].name if rank < len(self.hits) else ""
        self.again.disabled = name not in self._store
        self._draw(
            "matches", self.correspondences, (self.query.value, name), self._plot_correspondences
        )
        self._show_problems()

    def _narrow(self, _change: object) -> None:
        """Offer only matching queries; the present query stays chosen if it matches."""
        part = self.narrow.value.strip()
        fitting = tuple(name for name in self._store.names if part.casefold() in name.casefold())
        self._problems.pop("narrow", None)
        if fitting:
            self._offer(fitting, self.query.value if self.query.value in fitting else fitting[0])
        else:
            self._problems["narrow"] = f"no photo's name contains {part!r}; the menu is unchanged"
        self._show_problems()

    def _offer(self, names: tuple[str, ...], chosen: str) -> None:
        """Change the names in the menu and the chosen one, with at most one search."""
        before = self.query.value
        self.query.unobserve(self._search, "value")
        self.query.options = names
        self.query.value = chosen
        self.query.observe(self._search, "value")
        if chosen != before:
            self._search()

    def _draw_keypoints(self, _change: object = None) -> None:
        state = (self.query.value, self.top.value, self.least.value)
        self._draw("keypoints", self.keypoints, state, self._plot_keypoints)
        self._show_problems()

    def _draw(
        self,
        part: str,
        place: widgets.Image,
        state: Hashable,
        plot: Callable[[], plots.Plot],
        *,
        blank: bool = False,
    ) -> None:
        """Draw ``part`` unless it already shows ``state``.

        A part that cannot be drawn is blank or hidden, and the problem is recorded for the message.
        """
        if self._drawn.get(part) == state:
            return
        self._problems.pop(part, None)
        self._drawn[part] = state
        try:
            place.value, place.layout.display = plots.png(plot()), None
        except DelfjaxError as error:
            # Do not record it as drawn: the file may be readable the next time.
            del self._drawn[part]
            self._problems[part] = str(error)
            place.value = plots.png(plots.plot_thumbnail(_BLANK))
            place.layout.display = None if blank else "none"

    def _show_problems(self) -> None:
        # A failed search or a missing folder causes all other problems, so one line is enough.
        causes = [self._problems[part] for part in ("search", "root") if part in self._problems]
        lines = causes[:1] or list(dict.fromkeys(self._problems.values()))
        self.message.value = "<br>".join(f"<b>⚠ {html.escape(line)}</b>" for line in lines)

    def _ranked(self, query: str) -> tuple[Hit, ...]:
        found = search(
            self._index,
            self._store.get(query),
            config=self._config.search,
            verification=self._config.verification,
        )
        right = self._truth.get(query)
        hits = (
            Hit(
                name=self._index.names[image],
                inliers=int(inliers),
                verdict=None if right is None else self._index.names[image] in right,
                correspondences=found.correspondences.get(int(image)),
            )
            for image, inliers in zip(found.images, found.inliers, strict=True)
        )
        return tuple(hit for hit in hits if hit.name != query)

    def _photo(self, name: str, side: int) -> DecodedImage:
        if (name, side) not in self._photos:
            source = self._queries if name in self._cut else None
            photo = (
                decode_image(self._root / name, max_side=side)
                if source is None
                else source.read(name, max_side=side)
            )
            if photo.content_hash != self._content_hash(name, photo.content_hash):
                raise ExplorerError(
                    f"{name}: changed since it was extracted; extract and index again"
                )
            self._photos[name, side] = photo
        return self._photos[name, side]

    def _content_hash(self, name: str, otherwise: str) -> str:
        """Digest of a photo's file when its features were extracted, if that was recorded."""
        if name in self._store:
            return self._store.content_hash(name)
        return self._index_hashes.get(name, otherwise)

    def _pixels(self, name: str) -> plots.Photo:
        try:
            return self._photo(name, _SMALL_SIDE).pixels
        except DelfjaxError:
            return _BLANK

    def _plot_thumbnail(self, name: str, verdict: bool | None) -> plots.Plot:
        return plots.plot_thumbnail(self._photo(name, _SMALL_SIDE).pixels, verdict=verdict)

    def _plot_correspondences(self) -> plots.Plot:
        if self._chosen >= len(self.hits):
            raise ExplorerError(f"query {self.query.value!r}: no other photo is in the index")
        query = self.query.value
        hit = self.hits[self._chosen]
        if hit.correspondences is None:
            count = self._config.search.shortlist
            raise ExplorerError(
                f"{hit.name}: not verified; only the {count} photos with most votes are"
                " (search.shortlist)"
            )
        first, second = (self._photo(name, _LARGE_SIDE) for name in (query, hit.name))
        return plots.plot_correspondences(
            first.pixels,
            second.pixels,
            keypoints1_yx=first.shown_yx(hit.correspondences.query_yx),
            keypoints2_yx=second.shown_yx(hit.correspondences.database_yx),
            inliers=hit.correspondences.inlier,
            title=f"query and result {self._chosen + 1}",
        )

    def _plot_keypoints(self) -> plots.Plot:
        query = self.query.value
        photo = self._photo(query, _LARGE_SIDE)
        local = self._store.get(query).local
        scores = np.asarray(local.scores)
        high = scores >= self.least.value * scores.max(initial=0.0)
        features = dataclasses.replace(
            local, keypoints_yx=photo.shown_yx(np.asarray(local.keypoints_yx)), valid=high
        )
        count = min(self.top.value, int(high.sum()))
        title = f"{_elided(query)}: best {count} of {len(scores)} keypoints"
        return plots.plot_keypoints(photo.pixels, features, top=self.top.value, title=title)


def _picture(width: str) -> widgets.Image:
    return widgets.Image(
        format="png",
        layout=widgets.Layout(max_width=width, object_fit="contain", align_self="flex-start"),
    )


def _elided(name: str, limit: int = _NAME) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def _with(function: Callable[..., Any], *arguments: object) -> Callable[..., Any]:
    """A callback that calls ``function`` with ``arguments`` and ignores what the widget passes."""
    return lambda *_: function(*arguments)
