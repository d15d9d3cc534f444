"""Photos: ``delfjax extract | index | search | match | evaluate``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from delfjax import plots
from delfjax.cli.options import Flag, Preset, Set, UsageError, require_writable
from delfjax.config import DelfConfig, from_dict, override, preset, to_dict
from delfjax.datasets.folder import scan_folder
from delfjax.datasets.images import decode_image
from delfjax.experiments.evaluate_folder import evaluate_folder
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore
from delfjax.models.delf import load_delf
from delfjax.retrieval.local_index import LocalIndex, build_index, open_index, require_replaceable
from delfjax.retrieval.search import Correspondences, RankedList, match_pair, search
from delfjax.types import ImageFeatures

_SOURCE = "source.json"
# Longer side of a photo in a figure, pixels.
_FIGURE_SIDE = 1024
_PICTURES = (".png", ".pdf", ".svg")
_EXTRACTION = ("backbone", "scorer", "features")

@dataclass(frozen=True)
class Extract:
    """Extract the local features of every photo in a folder into a store; run again, it resumes."""

    photos: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="folder of photos, searched recursively")]
    store: Annotated[Path, tyro.conf.arg(help="folder of the feature store, made when missing")]
    preset: Preset = "default"
    overrides: Set = ()
    retry_failed: Annotated[Flag, tyro.conf.arg(help="try images with a recorded failure again")] = False

    def run(self) -> None:
        """Extract, then say what could not be read."""
        config = override(preset(self.preset), self.overrides)
        photos = scan_folder(self.photos)
        if not photos.names:
            raise UsageError(f"{self.photos}: no photos in this folder ({photos.ignored} other files)")
        extract_dataset(_extractor(config), photos, self.store, retry_failed=self.retry_failed)
        (self.store / _SOURCE).write_text(json.dumps({"photos": str(self.photos.resolve())}), encoding="utf-8")
        problems = [*photos.problems, *FeatureStore.open(self.store).failures().items()]
        for name, reason in problems:
            print(f"failed: {name}: {reason}", file=sys.stderr)


@dataclass(frozen=True)
class Index:
    """Fit the reduction on a store and build the search index."""

    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="feature store made by `delfjax extract`")]
    out: Annotated[Path, tyro.conf.arg(help="folder of the index; an index already there is replaced")]
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Build and write the index."""
        require_replaceable(self.out)
        store = FeatureStore.open(self.store)
        base = from_dict(DelfConfig, {**to_dict(preset(self.preset)), **store.config})
        _refuse_extraction_overrides(self.overrides, f"the store {self.store}")
        index = build_index(store, config=override(base, self.overrides), photos=_source(self.store))
        index.save(self.out)
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in index.seconds.items())
        kept = f"PCA keeps {index.reduction.explained:.0%} of the variance"
        print(f"index: {len(index.names)} images, {len(index.scales)} features, {kept} ({times})", file=sys.stderr)


@dataclass(frozen=True)
class Search:
    """Find the photos of an index that show what a query photo shows."""

    index: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="index made by `delfjax index`")]
    query: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="photo to search for")]
    top: Annotated[int, tyro.conf.arg(help="results shown")] = 10
    json: Annotated[Flag, tyro.conf.arg(help="print JSON instead of a table")] = False
    figure: Annotated[Path | None, tyro.conf.arg(help="write a picture of the ranked list here")] = None
    overrides: Set = ()

    def run(self) -> None:
        """Search and print the ranked list."""
        require_writable("--figure", self.figure, _PICTURES)
        index = open_index(self.index)
        _refuse_extraction_overrides(self.overrides, f"the index {self.index}", "reduction", "index", "seed")
        config = override(index.config, self.overrides)
        query = _features(_extractor(config), self.query)
        ranked = search(index, query, config=config.search, verification=config.verification)
        results = _results(index, ranked, self.top, config.verification.min_inliers)
        if self.json:
            print(json.dumps({"query": str(self.query), "results": results}, indent=1, ensure_ascii=False))
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
    figure: Annotated[Path | None, tyro.conf.arg(help="write a picture of the correspondences here")] = None
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Match and print what was found."""
        require_writable("--figure", self.figure, _PICTURES)
        config = override(preset(self.preset), self.overrides)
        extractor = _extractor(config)
        first, second = _features(extractor, self.image1), _features(extractor, self.image2)
        found = match_pair(first, second, verification=config.verification, max_side=extractor.max_side)
        if self.json:
            print(json.dumps(_match_json(found)))
        else:
            verdict = "match" if found.inlier.sum() >= config.verification.min_inliers else "no match"
            print(f"{verdict}: {found.inlier.sum()} inliers of {len(found.inlier)} putative matches")
        if self.figure is not None:
            _match_figure(self.image1, self.image2, found, self.figure)


@dataclass(frozen=True)
class Evaluate:
    """Score the whole system on a folder with a groundtruth.json: mAP by votes and by inliers, per tier."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="folder with groundtruth.json and its photos")]
    json: Annotated[Path | None, tyro.conf.arg(help="write scores, timings and rankings to this file")] = None
    store: Annotated[Path | None, tyro.conf.arg(help="feature store; by default one in the cache")] = None
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Evaluate and print one line a tier."""
        require_writable("--json", self.json)
        config = override(preset(self.preset), self.overrides)
        result = evaluate_folder(self.folder, config, store=self.store)
        if self.json is not None:
            self.json.write_text(result.to_json(), encoding="utf-8")
        for tier, scores in result.tiers.items():
            print(f"{tier:12s} mAP  votes {scores['votes']:.3f}  inliers {scores['inliers']:.3f}")
        times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
        print(f"{result.num_images} images, {result.num_failed} failed; {times}; config {result.config_hash}")


def _extractor(config: DelfConfig) -> Extractor:
    return Extractor(config, load_delf(config))


def _features(extractor: Extractor, path: Path) -> ImageFeatures:
    return extractor.dispatch([decode_image(path, max_side=extractor.max_side)]).result()[0]


def _refuse_extraction_overrides(overrides: tuple[str, ...], what: str, *more: str) -> None:
    for assignment in overrides:
        room = assignment.partition("=")[0].partition(".")[0].strip()
        if room in (*_EXTRACTION, *more):
            raise UsageError(f"--set {assignment}: {room} was decided when {what} was made; make it again with that setting")


def _source(store: Path) -> str:
    file = store / _SOURCE
    return str(json.loads(file.read_text(encoding="utf-8"))["photos"]) if file.is_file() else ""


def _results(index: LocalIndex, ranked: RankedList, top: int, min_inliers: int) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank + 1,
            "image": index.names[image],
            "inliers": int(inliers),
            "votes": int(votes),
            "match": bool(inliers >= min_inliers),
        }
        for rank, (image, inliers, votes) in enumerate(zip(ranked.images, ranked.inliers, ranked.votes, strict=True))
        if rank < top
    ]


def _print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'rank':>4s} {'inliers':>7s} {'votes':>6s}  {'verdict':8s} image")
    for row in results:
        verdict = "match" if row["match"] else "no match"
        print(f"{row['rank']:4d} {row['inliers']:7d} {row['votes']:6d}  {verdict:8s} {row['image']}")
    if not any(row["match"] for row in results):
        print("nothing in this index shows the same place or thing", file=sys.stderr)


def _match_json(found: Correspondences) -> dict[str, Any]:
    return {
        "putative": len(found.inlier),
        "inliers": int(found.inlier.sum()),
        "transform": np.asarray(found.transform, np.float64).tolist(),
        "keypoints1_yx": np.asarray(found.query_yx[found.inlier], np.float64).tolist(),
        "keypoints2_yx": np.asarray(found.database_yx[found.inlier], np.float64).tolist(),
    }


def _ranked_figure(index: LocalIndex, query: Path, results: list[dict[str, Any]], file: Path) -> None:
    root = Path(index.photos)
    if not index.photos or not root.is_dir():
        raise UsageError(f"--figure: the photos of this index are not at {index.photos or 'a known place'}")
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
    title = f"{matched} of the first {len(results)} results match" if results else "nothing is indexed"
    figure = plots.plot_ranked_list(decode_image(query, max_side=side).pixels, shown, title=title)
    figure.savefig(file)


def _match_figure(first: Path, second: Path, found: Correspondences, file: Path) -> None:
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

