"""Photos: ``delfjax extract | index | search | match``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from delfjax.cli.options import (
    DatasetName,
    DatasetRoot,
    Flag,
    Preset,
    Set,
    UsageError,
    require_one,
    require_writable,
)

if TYPE_CHECKING:
    from delfjax.config import DelfConfig
    from delfjax.datasets.photo_folder import PhotoFolder
    from delfjax.features.extractor import Extractor
    from delfjax.features.store import FeatureStore
    from delfjax.retrieval.local_index import LocalIndex
    from delfjax.retrieval.search import RankedList, VerifiedMatches
    from delfjax.types import ImageFeatures

_SOURCE = "source.json"
# Longer side of a photo in a figure, pixels.
_FIGURE_SIDE = 1024
_PICTURES = (".png", ".pdf", ".svg")
_EXTRACTION = ("backbone", "scorer", "features")


@dataclass(frozen=True)
class Extract:
    """Extract the local features of every photo in a folder, or of a dataset's database, into a
    store; run again, it resumes."""

    photos: Annotated[
        tyro.conf.Positional[Path | None],
        tyro.conf.arg(
            metavar="FOLDER", help="folder of photos, searched recursively; not with --dataset"
        ),
    ] = None
    dataset: DatasetName = ""
    root: DatasetRoot = None
    store: Annotated[
        Path | None,
        tyro.conf.arg(
            help=(
                "folder of the feature store, made when missing; of a dataset by default in the"
                " cache"
            )
        ),
    ] = None
    preset: Preset = "default"
    overrides: Set = ()
    retry_failed: Annotated[
        Flag, tyro.conf.arg(help="try images with a recorded failure again")
    ] = False

    def run(self) -> None:
        """Extract, then say what could not be read."""
        from delfjax.config import override, preset
        from delfjax.features.dataset_loop import extract_dataset
        from delfjax.features.store import FeatureStore

        require_one("folder of photos", self.photos, self.dataset, self.root)
        config = override(preset(self.preset), self.overrides)
        photos, store = self._dataset(config) if self.photos is None else self._folder(self.photos)
        extract_dataset(_extractor(config), photos, store, retry_failed=self.retry_failed)
        (store / _SOURCE).write_text(
            json.dumps({"photos": str(photos.root.resolve())}), encoding="utf-8"
        )
        failures = FeatureStore.open(store).subset(photos.names).failures()
        for name, reason in [*photos.problems, *failures.items()]:
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if self.store is None:
            print(f"store: {store}", file=sys.stderr)

    def _folder(self, folder: Path) -> tuple[PhotoFolder, Path]:
        from delfjax.datasets.photo_folder import scan_folder

        if self.store is None:
            raise UsageError(
                f"{folder}: --store is missing; say where the features of this folder are to be"
                " kept"
            )
        photos = scan_folder(folder)
        if not photos.names:
            raise UsageError(f"{folder}: no photos in this folder ({photos.ignored} other files)")
        return photos, self.store

    def _dataset(self, config: DelfConfig) -> tuple[PhotoFolder, Path]:
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.datasets.photo_folder import PhotoFolder
        from delfjax.pipeline.one_system import default_store

        dataset = open_dataset(self.dataset, self.root)
        return PhotoFolder(dataset.root, tuple(dataset.database)), self.store or default_store(
            dataset, config
        )


@dataclass(frozen=True)
class Index:
    """Fit the reduction on a store and build the search index."""

    out: Annotated[
        Path, tyro.conf.arg(help="folder of the index; an index already there is replaced")
    ]
    store: Annotated[
        tyro.conf.Positional[Path | None],
        tyro.conf.arg(
            metavar="STORE", help="feature store made by `delfjax extract`; not with --dataset"
        ),
    ] = None
    dataset: DatasetName = ""
    root: DatasetRoot = None
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Build and write the index."""
        from delfjax.retrieval.local_index import build_index, require_replaceable

        require_one("feature store", self.store, self.dataset, self.root)
        require_replaceable(self.out)
        store, config, photos = self._dataset() if self.store is None else self._given(self.store)
        index = build_index(store, config=config, photos=photos)
        index.save(self.out)
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in index.seconds.items())
        kept = f"PCA keeps {index.reduction.explained:.0%} of the variance"
        print(
            f"index: {len(index.names)} images, {len(index.scales)} features, {kept} ({times})",
            file=sys.stderr,
        )

    def _given(self, place: Path) -> tuple[FeatureStore, DelfConfig, str]:
        from delfjax.config import DelfConfig, from_dict, override, preset, to_dict
        from delfjax.features.store import FeatureStore

        store = FeatureStore.open(place)
        base = from_dict(DelfConfig, {**to_dict(preset(self.preset)), **store.config})
        _refuse_extraction_overrides(self.overrides, f"the store {place}")
        return store, override(base, self.overrides), _source(place)

    def _dataset(self) -> tuple[FeatureStore, DelfConfig, str]:
        """The store of a dataset is told by the preset and the settings it was extracted with."""
        from delfjax.config import override, preset
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.features.store import FeatureStore
        from delfjax.pipeline.one_system import default_store

        config = override(preset(self.preset), self.overrides)
        dataset = open_dataset(self.dataset, self.root)
        store = FeatureStore.open(default_store(dataset, config), config=config.extraction())
        return store.subset(dataset.database), config, str(dataset.root.resolve())


@dataclass(frozen=True)
class Search:
    """Find the photos of an index that show what a query photo shows."""

    index: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(help="index made by `delfjax index`")
    ]
    query: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="photo to search for")]
    top: Annotated[int, tyro.conf.arg(help="results shown")] = 10
    json: Annotated[Flag, tyro.conf.arg(help="print JSON instead of a table")] = False
    figure: Annotated[
        Path | None, tyro.conf.arg(help="write a picture of the ranked list here")
    ] = None
    overrides: Set = ()

    def run(self) -> None:
        """Search and print the ranked list."""
        from delfjax.config import override
        from delfjax.retrieval.local_index import open_index
        from delfjax.retrieval.search import search

        require_writable("--figure", self.figure, _PICTURES)
        index = open_index(self.index)
        _refuse_extraction_overrides(
            self.overrides, f"the index {self.index}", "reduction", "index", "seed"
        )
        config = override(index.config, self.overrides)
        query = _features(_extractor(config), self.query)
        ranked = search(index, query, config=config.search, verification=config.verification)
        results = _results(index, ranked, self.top, config.verification.min_inliers)
        if self.json:
            print(
                json.dumps(
                    {"query": str(self.query), "results": results}, indent=1, ensure_ascii=False
                )
            )
        else:
            _print_table(results)
        if self.figure is not None:
            _ranked_figure(index, self.query, results, self.figure)


@dataclass(frozen=True)
class Match:
    """Match two photos and verify the matches geometrically."""

    image1: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="first photo")]
    image2: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="second photo")]
    json: Annotated[Flag, tyro.conf.arg(help="print JSON instead of a sentence")] = False
    figure: Annotated[
        Path | None, tyro.conf.arg(help="write a picture of the correspondences here")
    ] = None
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Match and print what was found."""
        from delfjax.config import override, preset
        from delfjax.retrieval.search import match_pair

        require_writable("--figure", self.figure, _PICTURES)
        config = override(preset(self.preset), self.overrides)
        extractor = _extractor(config)
        first, second = _features(extractor, self.image1), _features(extractor, self.image2)
        found = match_pair(
            first, second, verification=config.verification, max_side=extractor.max_side
        )
        if self.json:
            print(json.dumps(_match_json(found)))
        else:
            verdict = (
                "match" if found.inlier.sum() >= config.verification.min_inliers else "no match"
            )
            print(
                f"{verdict}: {found.inlier.sum()} inliers of {len(found.inlier)} putative matches"
            )
        if self.figure is not None:
            _match_figure(self.image1, self.image2, found, self.figure)


def _extractor(config: DelfConfig) -> Extractor:
    from delfjax.features.extractor import Extractor
    from delfjax.models.delf import load_delf

    return Extractor(config, load_delf(config))


def _features(extractor: Extractor, path: Path) -> ImageFeatures:
    from delfjax.datasets.images import decode_image

    return extractor.dispatch([decode_image(path, max_side=extractor.max_side)]).result()[0]


def _refuse_extraction_overrides(overrides: tuple[str, ...], what: str, *more: str) -> None:
    for assignment in overrides:
        room = assignment.partition("=")[0].partition(".")[0].strip()
        if room in (*_EXTRACTION, *more):
            raise UsageError(
                f"--set {assignment}: {room} was decided when {what} was made; make it again with"
                " that setting"
            )


def _source(store: Path) -> str:
    file = store / _SOURCE
    return str(json.loads(file.read_text(encoding="utf-8"))["photos"]) if file.is_file() else ""


def _results(
    index: LocalIndex, ranked: RankedList, top: int, min_inliers: int
) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank + 1,
            "image": index.names[image],
            "inliers": int(inliers),
            "votes": int(votes),
            "match": bool(inliers >= min_inliers),
        }
        for rank, (image, inliers, votes) in enumerate(
            zip(ranked.images, ranked.inliers, ranked.votes, strict=True)
        )
        if rank < top
    ]


def _print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'rank':>4s} {'inliers':>7s} {'votes':>6s}  {'verdict':8s} image")
    for row in results:
        verdict = "match" if row["match"] else "no match"
        print(
            f"{row['rank']:4d} {row['inliers']:7d} {row['votes']:6d}  {verdict:8s} {row['image']}"
        )
    if not any(row["match"] for row in results):
        print("nothing in this index shows the same place or thing", file=sys.stderr)


def _match_json(found: VerifiedMatches) -> dict[str, Any]:
    import numpy as np

    return {
        "putative": len(found.inlier),
        "inliers": int(found.inlier.sum()),
        "transform": np.asarray(found.transform, np.float64).tolist(),
        "keypoints1_yx": np.asarray(found.query_yx[found.inlier], np.float64).tolist(),
        "keypoints2_yx": np.asarray(found.database_yx[found.inlier], np.float64).tolist(),
    }


def _ranked_figure(
    index: LocalIndex, query: Path, results: list[dict[str, Any]], file: Path
) -> None:
    from delfjax import plots
    from delfjax.datasets.images import decode_image

    root = Path(index.photos)
    if not index.photos or not root.is_dir():
        raise UsageError(
            f"--figure: the photos of this index are not at {index.photos or 'a known place'}"
        )
    side = _FIGURE_SIDE
    shown = [
        plots.RankedImage(
            decode_image(root / row["image"], max_side=side).pixels,
            title=row["image"],
            score=f"{row['inliers']} inliers",
            verdict=row["match"],
        )
        for row in results
    ]
    matched = sum(row["match"] for row in results)
    title = (
        f"{matched} of the first {len(results)} results match" if results else "nothing is indexed"
    )
    figure = plots.plot_ranked_list(decode_image(query, max_side=side).pixels, shown, title=title)
    figure.savefig(file)


def _match_figure(first: Path, second: Path, found: VerifiedMatches, file: Path) -> None:
    import numpy as np

    from delfjax import plots
    from delfjax.datasets.images import decode_image

    images = [decode_image(path, max_side=_FIGURE_SIDE) for path in (first, second)]
    keypoints = [
        (points + 0.5) * (np.array(image.pixels.shape[:2]) / np.array(image.original_size)) - 0.5
        for points, image in zip((found.query_yx, found.database_yx), images, strict=True)
    ]
    figure = plots.plot_correspondences(
        images[0].pixels,
        images[1].pixels,
        keypoints1_yx=keypoints[0],
        keypoints2_yx=keypoints[1],
        inliers=found.inlier,
    )
    figure.savefig(file)
