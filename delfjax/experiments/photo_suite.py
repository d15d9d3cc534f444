"""The photographs and settings that the notebooks share: their parameters decide everything they do.

The photographs are those of :mod:`delfjax.datasets.skimage_photos`; they are written once into the cache and never
change there, so that each notebook finds what an earlier one left by asking for the same parameters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from delfjax import config, paths
from delfjax.config import ConfigError, DelfConfig, config_hash, require_known, to_dict
from delfjax.datasets.folder import PhotoFolder, load_groundtruth
from delfjax.datasets.skimage_photos import DISTRACTORS, OBJECTS, write_photo_set
from delfjax.datasets.world.building import VERSION, build_world
from delfjax.datasets.world.config import WorldConfig, world_config
from delfjax.experiments.provenance import split_overrides
from delfjax.experiments.runs import FinishedRun, Run, open_run, start_run
from delfjax.training.config import TwoStages, training_preset

# Objects and distractors of the smallest set: photographs of unlike things, two of them with much repetition.
_FEW_OBJECTS = ("astronaut", "chelsea", "coffee", "motorcycle", "rocket")
_FEW_DISTRACTORS = ("clock", "gravel", "moon")
# Tens of thousands of descriptors, not millions: with the paper's 60 neighbours nearly every image gets a vote from nearly
# every feature, and chance yields many inliers. Hence fewer neighbours, and a tolerance half as wide as the default for
# photographs half as large. Measured on "quick": 99.9 % of wrong photos stay below 25 inliers, 91 % of right ones do not.
_SMALL_DATABASE = ("search.neighbours=10", "verification.threshold_px=10", "verification.min_inliers=25")
# Photographs of 256 pixels take seconds; enlarged, for cells of 8 pixels.
_CI_SCALES = "features.scales=[0.7071, 1.0, 1.4142, 2.0]"
# Features of a photograph of the world: more than a landmark of it has cells at all scales together.
_FEW_FEATURES = 300
# Levels of these: smaller ones have a dozen cells. 2.0 costs as much as all others together, but on small photographs the
# attention needs its small cells: measured on the world of "quick", mAP 0.477 against 0.432 without it (norm: 0.359 and 0.364).
_FEW_SCALES = (0.5, 0.7071, 1.0, 1.4142, 2.0)
# Longest side of the photographs, pixels.
_SIDES = {"ci": 256, "quick": 512, "full": 1024}


# What each experiment of the suite depends on: sections of the config, and the run it reads (role, experiment). A notebook
# that is not listed, a copy of one for instance, depends on the whole config.
_EXTRACTION = ("backbone", "scorer", "features")
_SEARCH = (*_EXTRACTION, "reduction", "index", "search", "verification")
_STAGES: dict[str, tuple[tuple[str, ...], tuple[str, str] | None]] = {
    "10_inspect_dataset": (("backbone", "features"), None),
    "11_mine_landmarks": ((*_EXTRACTION, "reduction", "verification"), None),
    "13_measure_challenges": (_SEARCH, None),
    "20_finetune_descriptors": (("backbone", "finetune"), None),
    "21_train_attention": (("backbone", "finetune", "attention"), None),
    "30_extract_features": (_EXTRACTION, None),
    "40_build_index": ((*_EXTRACTION, "reduction", "index"), ("features", "30_extract_features")),
    "41_search_and_verify": (_SEARCH, ("index", "40_build_index")),
    "42_explore_results": (_SEARCH, ("index", "40_build_index")),
    "50_ablation": ((*_SEARCH, "finetune", "attention"), None),
    "51_visualise_attention": (("backbone", "features", "attention"), None),
}
# A world that is searched alone: nothing to train on, and an answer to every query.
_SEARCHED_ALONE = {"train_landmarks": 0, "train_views": 0, "no_match": 0}
# The world of `13_measure_challenges`: as large as each preset has time for.
_CHALLENGE: dict[str, dict[str, int]] = {
    "ci": {"landmarks": 4, "family_size": 2, "database_views": 2, "query_views": 1, "distractors": 2},
    "quick": {"landmarks": 24, "family_size": 4, "database_views": 3, "query_views": 2, "distractors": 24},
    "full": {"landmarks": 120, "family_size": 4, "database_views": 4, "query_views": 2, "distractors": 120, "image_side": 512},
}
# What `11_mine_landmarks` changes of the world of a preset: for seconds, fewer photographs, and enough of each landmark.
_MINED: dict[str, dict[str, int]] = {
    "ci": {**_SEARCHED_ALONE, "landmarks": 4, "database_views": 8, "query_views": 0, "distractors": 6},
}
# How each preset trains: in seconds, in a minute or two on two cores, or as long as the paper's presets would.
_TRAINED = tuple(field.name for field in fields(TwoStages))
_SECONDS: dict[str, Any] = {
    "square_side": 192,
    "crop_side": 160,
    "batch_size": 16,
    "rescales": (0.7071, 1.0),
    "validate_every": 10,
    "log_every": 1,
}
_TRAINING = {
    "ci": TwoStages(
        replace(training_preset("quick_finetune"), **_SECONDS, steps=20),
        replace(training_preset("quick_attention"), **_SECONDS, steps=40),
    ),
    "quick": TwoStages(training_preset("quick_finetune"), training_preset("quick_attention")),
    "full": TwoStages(training_preset("paper_finetune"), training_preset("paper_attention")),
}
# Trainings that `50_ablation` averages over.
_TRAININGS = {"ci": 1, "quick": 3, "full": 3}
DATASETS = ("embedded", "world")
PRESETS = tuple(_SIDES)


@dataclass(frozen=True)
class PhotoExperiment:
    """Settings of the suite under one set of parameters.

    Attributes:
        config: the whole system.
        training: both stages of its training.
        objects: photographs that are searched for.
        distractors: photographs without an answer.
        photo_side: longest side of the photographs, pixels.
        parameters: what the notebook was given.
    """

    config: DelfConfig
    training: TwoStages
    objects: tuple[str, ...]
    distractors: tuple[str, ...]
    photo_side: int
    parameters: Mapping[str, Any]

    def settings(self, experiment: str) -> dict[str, Any]:
        """Plain values that decide every result of ``experiment``, seed included: the config of its run."""
        whole = {**to_dict(self.config), **to_dict(self.training)}
        sections = _STAGES[experiment][0] if experiment in _STAGES else [n for n in whole if n != "seed"]
        used = {name: whole[name] for name in sections}
        used["features"] = {k: v for k, v in whole["features"].items() if k != "batch_size"}
        if experiment == "50_ablation":
            used["seeds"] = list(self.seeds)
        needed = "world" if experiment in _WORLDS else "embedded"
        if experiment in _STAGES and self.parameters["dataset"] != needed:
            raise ConfigError(f"{experiment}: dataset {self.parameters['dataset']!r}, this notebook is about {needed!r} alone")
        if experiment in _WORLDS:
            return {"dataset": "world", "world": _WORLDS[experiment](self).plain(), "seed": self.config.seed, **used}
        return {"dataset": self.parameters["dataset"], "photos": self.photos(), "seed": self.config.seed, **used}

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the trainings that an average is taken over."""
        return tuple(self.config.seed + number for number in range(_TRAININGS[self.parameters["preset"]]))

    def world(self, **changes: Any) -> WorldConfig:
        """The landmark world of these parameters, with some of its fields changed."""
        return world_config(self.parameters["preset"], seed=self.config.seed, **changes)

    def photos(self) -> dict[str, Any]:
        """Plain values that decide the bytes of the photographs."""
        return {
            "objects": list(self.objects),
            "distractors": list(self.distractors),
            "photo_side": self.photo_side,
            "seed": self.config.seed,
        }

    def start(self, experiment: str, *, resume: bool = False, **upstream: FinishedRun) -> Run:
        """Start the run of ``experiment`` that reads the runs ``upstream`` (role=run)."""
        settings = self.settings(experiment)
        return start_run(experiment, settings, parameters=self.parameters, upstream=upstream, resume=resume)


def upstream_of(experiment: str) -> tuple[str, str] | None:
    """Role and name of the experiment whose run ``experiment`` reads; ``None`` where it reads none."""
    return _STAGES[experiment][1] if experiment in _STAGES else None


def relevant_overrides(experiment: str, overrides: str) -> str:
    """Those of ``overrides`` that the run of ``experiment`` depends on; unknown fields are kept, to be refused by name."""
    if experiment not in _STAGES:
        return overrides
    sections = (*to_dict(DelfConfig()), *_TRAINED)
    others = {name for name in sections if name not in _STAGES[experiment][0]}
    return "; ".join(part for part in split_overrides(overrides) if part.partition(".")[0] not in others)


def photo_experiment(
    preset: str, seed: int, *, dataset: str = "embedded", overrides: str = "", upstream: str = "latest"
) -> PhotoExperiment:
    """What the parameters of a notebook stand for.

    Args:
        preset: ``"ci"``: a few small photographs, seconds; ``"quick"``: all of them at 512 pixels; ``"full"``: at 1024.
        seed: of the photographs and of everything that is drawn at random.
        dataset: ``"embedded"``, the photographs of scikit-image, or ``"world"``, the landmark world; a notebook is about one
            of them.
        overrides: changes of config fields, ``"search.neighbours=5; features.max_features=200"``.
        upstream: which run the notebook reads; noted here for the command that does the same again.

    Raises:
        ConfigError: another preset or dataset, an unknown field, or a value that it does not take; the nearest is named.
    """
    require_known("preset", preset, PRESETS)
    require_known("dataset", dataset, DATASETS)
    given = {"preset": preset, "dataset": dataset, "seed": seed, "overrides": overrides, "upstream": upstream}
    changes = [f"features.max_side={_SIDES[preset]}", *_SMALL_DATABASE]
    base = config.preset("ci" if preset == "ci" else "default")
    system = config.override(base, [*changes, *([_CI_SCALES] if preset == "ci" else [])])
    asked = split_overrides(overrides)
    trained = [part for part in asked if part.partition(".")[0] in _TRAINED]
    training = config.override(_TRAINING[preset], trained)
    system = config.override(system, [f"seed={seed}", *(part for part in asked if part not in trained)])
    if system.seed != seed:
        raise ConfigError(f"overrides set seed to {system.seed}, the parameter seed says {seed}; set the parameter alone")
    photos = (_FEW_OBJECTS, _FEW_DISTRACTORS) if preset == "ci" else (OBJECTS, DISTRACTORS)
    return PhotoExperiment(system, training, *photos, photo_side=_SIDES[preset], parameters=given)


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


def challenge_world(experiment: PhotoExperiment, **knobs: float) -> WorldConfig:
    """A world small enough to be rendered once for each setting of a knob; no part of it is for training."""
    return experiment.world(**_SEARCHED_ALONE, **_CHALLENGE[experiment.parameters["preset"]], **knobs)


def small_photographs(experiment: PhotoExperiment) -> DelfConfig:
    """The system for a world's photographs: fewer features, smaller canvases and, unless asked for, fewer scales."""
    features = experiment.config.features
    scales = _FEW_SCALES if features.scales == config.PYRAMID else features.scales
    changes = [f"max_side={experiment.world().image_side}", f"max_features={min(_FEW_FEATURES, features.max_features)}"]
    asked = [f"features.{change}" for change in (*changes, f"scales={list(scales)}")]
    return config.override(experiment.config, [*asked, "search.shortlist=30"])


def mining_world(experiment: PhotoExperiment) -> WorldConfig:
    """The world that is mined: that of the parameters, or for seconds a smaller one."""
    return experiment.world(**_MINED.get(experiment.parameters["preset"], {}))


# Experiments on the landmark world, and which world; the others are on the embedded photographs.
_WORLDS: dict[str, Callable[[PhotoExperiment], WorldConfig]] = {
    "10_inspect_dataset": PhotoExperiment.world,
    "11_mine_landmarks": mining_world,
    "13_measure_challenges": challenge_world,
    "20_finetune_descriptors": PhotoExperiment.world,
    "21_train_attention": PhotoExperiment.world,
    "50_ablation": PhotoExperiment.world,
    "51_visualise_attention": PhotoExperiment.world,
}


def world_set(config: WorldConfig, *, progress: bool = False) -> Path:
    """Folder of a landmark world in the cache, rendered when it is not there yet; an interrupted one is gone on with."""
    folder = paths.cache_root() / "worlds" / config_hash({"version": VERSION, **config.plain()})
    build_world(folder, config, progress=progress)
    return folder


def features_run(index: FinishedRun) -> FinishedRun:
    """The run of ``30_extract_features`` that a run of ``40_build_index`` names.

    Raises:
        RunError: it is gone or damaged.
    """
    return open_run(paths.runs_root() / str(index.provenance["upstream"]["features"]))


def store_of(run: Run | FinishedRun) -> Path:
    """Where a run of ``30_extract_features`` keeps its feature store."""
    return run.path / "store"


def index_of(run: Run | FinishedRun, kind: str) -> Path:
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
