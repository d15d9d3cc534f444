"""Photos: ``delfjax extract | index | search | match``.

The work is done by :mod:`delfjax.pipeline.photos`, which takes seconds to import: a command imports
it when it runs, after its options were checked.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from delfjax.cli.options import (
    DatasetName,
    DatasetRoot,
    Flag,
    Maybe,
    Preset,
    Set,
    SystemName,
    UsageError,
    accepted_changes,
    named,
    namesakes,
    require_at_least,
    require_one,
    require_utf8,
    require_writable,
    resolved,
)
from delfjax.cli.output import print, print_json

if TYPE_CHECKING:
    from delfjax.retrieval.local_index import LocalIndex
    from delfjax.retrieval.system_index import SystemIndex

_PICTURES = (".png", ".pdf", ".svg")
# Sections of the config that an index was built with and that a search cannot change.
_INDEXED = (
    "backbone",
    "scorer",
    "features",
    "sift",
    "congas",
    "reduction",
    "index",
    "global_features",
    "seed",
)


@dataclass(frozen=True)
class Extract:
    """Extract the features of a folder of photos, or a dataset, into a store.

    The same command resumes, and follows photos that are new, renamed or gone.

    Example: delfjax extract ~/Photos --store my.store
    """

    photos: Annotated[
        tyro.conf.Positional[Maybe[Path]],
        tyro.conf.arg(
            metavar="[FOLDER]",
            help="folder of photos, searched recursively",
            help_behavior_hint="(or --dataset)",
        ),
    ] = None
    dataset: DatasetName = ""
    root: DatasetRoot = None
    store: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="DIR",
            help="folder of the feature store, made when missing",
            help_behavior_hint="(default for a dataset: one in the cache)",
        ),
    ] = None
    system: SystemName = ""
    preset: Preset = "default"
    overrides: Set = ()
    retry_failed: Annotated[Flag, tyro.conf.arg(help="retry failed images, changed or not")] = False

    def run(self) -> None:
        """Extract, then say what could not be read."""
        require_one("folder of photos", self.photos, self.dataset, self.root)
        require_utf8("--store", self.store)
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.datasets.photo_folder import PhotoFolder
        from delfjax.pipeline.dataset_features import default_stores
        from delfjax.pipeline.photos import extract_photos, find_photos

        config = resolved(self.preset, self.system, self.overrides)
        pooled = None
        if self.photos is None:
            dataset = open_dataset(self.dataset, self.root)
            photos = PhotoFolder(dataset.root, tuple(dataset.database))
            place, pooled = (self.store, None) if self.store else default_stores(dataset, config)
        elif self.store is None:
            raise UsageError(
                f"{self.photos}: --store is missing; say where the features of this folder are to"
                " be kept"
            )
        else:
            photos = find_photos(self.photos)
            place = self.store
        store = extract_photos(
            photos, place, config=config, pooled=pooled, retry_failed=self.retry_failed
        )
        if photos.left_out:
            print(f"left out: {photos.left_out}", file=sys.stderr)
        for name, reason in [*photos.problems, *store.failures().items()]:
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if self.store is None:
            print(f"store: {place}", file=sys.stderr)


@dataclass(frozen=True)
class Index:
    """Fit the reduction on a feature store and build the search index.

    Example: delfjax index my.store --out my.index
    """

    out: Annotated[
        Path,
        tyro.conf.arg(metavar="DIR", help="folder for the index; replaces an earlier one"),
    ]
    store: Annotated[
        tyro.conf.Positional[Maybe[Path]],
        tyro.conf.arg(
            metavar="[STORE]",
            help="feature store made by `delfjax extract`",
            help_behavior_hint="(or --dataset)",
        ),
    ] = None
    dataset: DatasetName = ""
    root: DatasetRoot = None
    system: SystemName = ""
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Build and write the index."""
        require_one("feature store", self.store, self.dataset, self.root)
        require_utf8("--out", self.out)
        from delfjax.config import (
            EXTRACTION_SECTIONS,
            METHODS,
            MODEL,
            SYSTEM,
            SYSTEM_SECTIONS,
            parse_overrides,
            preset,
        )
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.models.model_files import override_system
        from delfjax.pipeline.dataset_features import default_stores
        from delfjax.pipeline.photos import build_index, open_store, stored_config
        from delfjax.retrieval.local_index import require_replaceable

        require_replaceable(self.out)
        if self.store is None:
            # The preset and the settings that a dataset was extracted with identify its store.
            config = resolved(self.preset, self.system, self.overrides)
            dataset = open_dataset(self.dataset, self.root)
            place, pooled = default_stores(dataset, config)
            store = open_store(place).subset(dataset.database)
            index = build_index(store, config=config, photos=dataset.root.resolve(), pooled=pooled)
        else:
            store = open_store(self.store)
            stored = stored_config(store, preset(self.preset))
            asked = parse_overrides(
                [*named(self.system), *self.overrides], sections=(*SYSTEM_SECTIONS, MODEL, SYSTEM)
            )
            since = f"the store {self.store} was made"
            fixed = (*EXTRACTION_SECTIONS, *METHODS)
            changes = accepted_changes(stored, asked, fixed, since)
            index = build_index(store, config=override_system(stored, changes))
        index.save(self.out)
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in index.seconds.items())
        print(f"index: {len(index.names)} images, {_held(index)} ({times})", file=sys.stderr)


def _held(index: LocalIndex | SystemIndex) -> str:
    """What an index holds of each image, in words."""
    from delfjax.retrieval.local_index import LocalIndex

    local = index if isinstance(index, LocalIndex) else index.local
    words = []
    if local is not None:
        kept = f"PCA keeps {local.reduction.explained:.0%} of the variance"
        words.append(f"{len(local.scales)} features, {kept}")
    if not isinstance(index, LocalIndex) and index.pooled is not None:
        words.append(f"global descriptors of {index.pooled.dim} dimensions")
    return ", ".join(words)


@dataclass(frozen=True)
class Search:
    """Find the photos of an index that show what a query photo shows.

    Example: delfjax search my.index query.jpg --top 5 --figure found.png
    """

    index: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="INDEX", help="index made by `delfjax index`"),
    ]
    query: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO", help="photo to search for")
    ]
    top: Annotated[int, tyro.conf.arg(help="number of results shown")] = 10
    system: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help="rank by a part of what the index holds, for instance delf or delf+qe",
            help_behavior_hint="(default: as the index was built)",
        ),
    ] = ""
    json: Annotated[Flag, tyro.conf.arg(help="print JSON instead of a table")] = False
    figure: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="FILE",
            help=".png, .pdf or .svg file for a picture of the ranked list",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    overrides: Set = ()

    def run(self) -> None:
        """Search and print the ranked list."""
        require_writable("--figure", self.figure, _PICTURES, inputs=[self.query])
        from delfjax.config import MODEL, SYSTEM, SYSTEM_SECTIONS, parse_overrides

        require_at_least("--top", self.top, 1)
        from delfjax.models.model_files import override_system
        from delfjax.pipeline.answers import MissingPhotosError
        from delfjax.pipeline.photos import search
        from delfjax.retrieval.system_index import open_index

        index = open_index(self.index)
        photos = namesakes(self.figure, index.photos, index.names)
        require_writable("--figure", self.figure, inputs=photos)
        asked = parse_overrides(
            [*named(self.system), *self.overrides], sections=(*SYSTEM_SECTIONS, MODEL, SYSTEM)
        )
        since = f"the index {self.index} was made"
        # The overrides may say where the weights of the index are now.
        changes = accepted_changes(index.config, asked, _INDEXED, since)
        index = replace(index, config=override_system(index.config, changes))
        found = search(index, self.query, top=self.top)
        if self.json:
            answer = {"query": str(self.query), "results": [asdict(photo) for photo in found]}
            print_json(answer, indent=1)
        else:
            print(found)
            if not found.matches and found.ranked is not None:
                print("nothing in this index shows the same place or thing", file=sys.stderr)
        if self.figure is not None:
            try:
                _save(found.plot(), self.figure)
            except MissingPhotosError as error:
                raise UsageError(f"--figure: {error}") from None


@dataclass(frozen=True)
class Match:
    """Match two photos and verify the matches geometrically.

    Example: delfjax match one.jpg other.jpg --figure match.png
    """

    image1: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO1", help="first photo")
    ]
    image2: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO2", help="second photo")
    ]
    json: Annotated[Flag, tyro.conf.arg(help="print JSON instead of a sentence")] = False
    figure: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="FILE",
            help=".png, .pdf or .svg file for a picture of the correspondences",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    system: SystemName = ""
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Match and print what was found."""
        photos = [self.image1, self.image2]
        require_writable("--figure", self.figure, _PICTURES, inputs=photos)
        from delfjax.config import uses_local
        from delfjax.pipeline.photos import match

        config = resolved(self.preset, self.system, self.overrides)
        if not uses_local(config):
            raise UsageError(
                f"--system {self.system}: has global descriptors alone, which match no points; name"
                " one with local features"
            )
        found = match(self.image1, self.image2, config=config)
        if self.json:
            answer = {
                "putative": len(found.inlier),
                "inliers": int(found.inlier.sum()),
                "evidence": found.evidence,
                "match": found.match,
                "transform": found.transform.tolist(),
                "keypoints1_yx": found.query_yx[found.inlier].tolist(),
                "keypoints2_yx": found.database_yx[found.inlier].tolist(),
            }
            print_json(answer)
        else:
            print(found)
        if self.figure is not None:
            _save(found.plot(), self.figure)


def _save(figure: Any, file: Path) -> None:
    """Write a figure, completely or not at all."""
    from delfjax.files import replacing

    with replacing(file) as stream:
        figure.savefig(stream, format=file.suffix[1:].lower())
