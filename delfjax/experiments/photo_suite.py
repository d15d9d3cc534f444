"""The photographs and settings that the notebooks share: one preset and one seed decide everything they do.

The photographs are those of :mod:`delfjax.datasets.skimage_photos`; they are written once into the cache and never
change there, so that each notebook finds what an earlier one left by asking for the same preset and seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from delfjax import config, paths
from delfjax.config import ConfigError, DelfConfig, config_hash, to_dict
from delfjax.datasets.folder import PhotoFolder, load_groundtruth
from delfjax.datasets.skimage_photos import DISTRACTORS, OBJECTS, write_photo_set
from delfjax.experiments.runs import Run

# Objects and distractors of the smallest set: photographs of unlike things, two of them with much repetition.
_FEW_OBJECTS = ("astronaut", "chelsea", "coffee", "motorcycle", "rocket")
_FEW_DISTRACTORS = ("clock", "gravel", "moon")
# Tens of thousands of descriptors, not millions: with the paper's 60 neighbours nearly every image gets a vote from nearly
# every feature, and chance yields many inliers. Hence fewer neighbours, and a tolerance half as wide as the default for
# photographs half as large. Measured on "quick": 99.9 % of wrong photos stay below 25 inliers, 91 % of right ones do not.
_SMALL_DATABASE = ("search.neighbours=10", "verification.threshold_px=10", "verification.min_inliers=25")
# Photographs of 256 pixels take seconds; enlarged, for cells of 8 pixels.
_CI_SCALES = "features.scales=[0.7071, 1.0, 1.4142, 2.0]"


@dataclass(frozen=True)
class PhotoExperiment:
    """Settings of the suite under one preset and seed.

    Attributes:
        config: the whole system.
        objects: photographs that are searched for.
        distractors: photographs without an answer.
        photo_side: longest side of the photographs, pixels.
    """

    config: DelfConfig
    objects: tuple[str, ...]
    distractors: tuple[str, ...]
    photo_side: int

    def settings(self) -> dict[str, Any]:
        """Plain values that decide every result, seed included: the config of a run."""
        return {"delf": to_dict(self.config), "photos": self.photos()}

    def photos(self) -> dict[str, Any]:
        """Plain values that decide the bytes of the photographs."""
        return {
            "objects": list(self.objects),
            "distractors": list(self.distractors),
            "photo_side": self.photo_side,
            "seed": self.config.seed,
        }


def photo_experiment(preset: str, seed: int) -> PhotoExperiment:
    """What ``preset`` stands for in the notebooks.

    Args:
        preset: ``"ci"``: a few small photographs, seconds; ``"quick"``: all of them at 512 pixels; ``"full"``: at 1024.
        seed: of the photographs and of everything that is drawn at random.

    Raises:
        ConfigError: another preset.
    """
    changes = [f"seed={seed}", *_SMALL_DATABASE]
    if preset == "ci":
        small = config.override(config.preset("ci"), [*changes, _CI_SCALES])
        return PhotoExperiment(small, _FEW_OBJECTS, _FEW_DISTRACTORS, photo_side=small.features.max_side)
    sides = {"quick": 512, "full": 1024}
    if preset not in sides:
        raise ConfigError(f"preset {preset!r} is unknown; the notebooks take: ci, quick, full")
    side = sides[preset]
    whole = config.override(config.preset("default"), [f"features.max_side={side}", *changes])
    return PhotoExperiment(whole, OBJECTS, DISTRACTORS, photo_side=side)


def photo_set(experiment: PhotoExperiment) -> PhotoFolder:
    """The photographs of ``experiment``, written when they are not there yet: all of them or none.

    Raises:
        PhotoSetError: the installed scikit-image lacks a photograph.
    """
    folder = paths.cache_root() / "photos" / config_hash(experiment.photos())
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as partial:
            write_photo_set(
                Path(partial) / "photos",
                seed=experiment.config.seed,
                objects=experiment.objects,
                distractors=experiment.distractors,
                max_side=experiment.photo_side,
            )
            _move(Path(partial) / "photos", folder)
    return PhotoFolder(folder, tuple(sorted(load_groundtruth(folder).imlist)))


def store_of(run: Run) -> Path:
    """Where a run of ``30_extract_features`` keeps its feature store."""
    return run.path / "store"


def index_of(run: Run, kind: str) -> Path:
    """Where a run of ``40_build_index`` keeps its index of that kind."""
    return run.path / f"index-{kind}"


def table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """``rows`` for display: row name → column → value."""
    return pd.DataFrame.from_dict(rows, orient="index")


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        # Another process may have been faster; it wrote the same bytes.
        if not target.is_dir():
            raise
