"""The settings of the notebooks, derived from the parameters that all of them share.

A notebook works on one dataset: the landmark world, the embedded photographs of
:mod:`delfjax.datasets.skimage_photos`, or a benchmark of the catalogue, by name.
:mod:`delfjax.suite.data` makes or opens it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pandas as pd

from delfjax import config, paths
from delfjax.config import (
    EXTRACTION_SECTIONS,
    METHOD,
    METHODS,
    MODEL,
    STAGE_SECTIONS,
    SYSTEM,
    SYSTEM_SECTIONS,
    Config,
    ConfigError,
    DelfConfig,
    GlobalTrainingConfig,
    TrainingStages,
    assignments_of,
    joined_assignments,
    override,
    parse_overrides,
    require_known,
    to_dict,
    training_preset,
)
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.skimage_photos import DISTRACTORS, OBJECTS
from delfjax.evaluation.dataset_protocols import PROTOCOLS
from delfjax.models.model_files import override_system, pinned_assignment
from delfjax.suite.runs.folders import PRESETS, FinishedRun, Run, RunError, open_run, start_run
from delfjax.world.knobs import WorldConfig, world_config

# Objects and distractors of the smallest photo set: different things, two of them with much
# repetition.
_FEW_OBJECTS = ("astronaut", "chelsea", "coffee", "motorcycle", "rocket")
_FEW_DISTRACTORS = ("clock", "gravel", "moon")
# Settings for databases of tens of thousands of descriptors instead of millions. With the paper's
# 60 neighbours, nearly every image would get a vote from nearly every feature, and many inliers
# would arise by chance. Hence fewer neighbours, a smaller residual and more inliers. Measured on
# "quick": 99.9 % of wrong photos stay below 25 inliers, and 91 % of right ones reach them. Ten
# neighbours are easily as similar as copies would be.
_SMALL_DATABASE = (
    "search.neighbours=10",
    "search.crowded_cosine=1",
    "verification.threshold_px=10",
    "verification.min_inliers=25",
)
# Photographs of 256 pixels are extracted in seconds. Scale 2.0 enlarges them, so that a cell of 16
# pixels covers 8 of theirs.
_CI_SCALES = "features.scales=[1.0, 2.0]"
# Settings for photographs of the world. A landmark has about 300 cells over all scales, and so few
# matches need fewer hypotheses: on the world of "quick", mAP does not fall (0.464; 0.462 with the
# default, which tries four times as many).
_SMALL_PHOTOS = (
    "features.max_features=300",
    "search.shortlist=30",
    "verification.pair_hypotheses=1024",
    "verification.refined=64",
)
# Further changes for the world, by preset.
#
# Scales: pyramid levels below 0.5 have only a dozen cells. Scale 2.0 costs as much as all others
# together, but on small photographs the attention needs its small cells: without it, mAP is 0.432
# instead of 0.477. Whole octaves take three fifths of the time of half octaves and compile three
# programs instead of five. Measured on the world of "quick": mAP of the norm is 0.369 (0.361 with
# half octaves), of the attention 0.443 (0.480).
#
# Index: the 168,000 descriptors of "quick" do not need a codebook for millions. The smaller one is
# built in a quarter of the time and searched in two thirds, and mAP changes by less than 0.01. The
# 12,000 descriptors of "ci" need lists of about 200: with the default's lists of 30, the codes of
# the residuals within a list are learned from too few descriptors.
_WORLD_CHANGES: dict[str, tuple[str, ...]] = {
    "ci": (_CI_SCALES, "index.lists=64"),
    "quick": (
        "features.scales=[0.5, 1.0, 2.0]",
        "index.lists=1024",
        "index.probes=16",
        "index.train_samples=40960",
    ),
    "full": ("features.scales=[0.5, 0.7071, 1.0, 1.4142, 2.0]",),
}
# Longest side of the photographs, pixels.
_SIDES = {"ci": 256, "quick": 512, "full": 1024}
# Sections that a notebook's overrides can change; no run depends on the section of mining.
_SECTIONS = (*SYSTEM_SECTIONS, *STAGE_SECTIONS)
# Stages that train a global descriptor, one of which `23_train_global` is about.
RECIPES = ("siamac", "dir")
# What each experiment of the suite depends on: sections of the config, besides the seed, and the
# run that it reads (role, experiment). A notebook that is not listed, such as a user's copy,
# depends on all sections.
_EXTRACTION = EXTRACTION_SECTIONS
_SEARCH = (*_EXTRACTION, "reduction", "index", "search", "verification")
_TRAINED = ("finetune", "attention", *RECIPES)
_COMPARED = (*_SEARCH, "global_features", "ranking", "expansion", *_TRAINED)
_STAGES: dict[str, tuple[tuple[str, ...], tuple[str, str] | None]] = {
    "10_inspect_dataset": (("backbone", "features"), None),
    "11_mine_landmarks": ((*_EXTRACTION, "reduction", "verification"), None),
    "13_measure_challenges": (tuple(name for name in _SEARCH if name != "scorer"), None),
    "20_finetune_descriptors": (("backbone", "finetune"), None),
    "21_train_attention": (("backbone", "finetune", "attention"), None),
    "22_train_delg": ((*_SEARCH, "finetune", "attention", "delg"), None),
    "23_train_global": (("global_features", *RECIPES), None),
    "30_extract_features": (_EXTRACTION, None),
    "31_fit_reduction": (_SEARCH, ("features", "30_extract_features")),
    "40_build_index": ((*_EXTRACTION, "reduction", "index"), ("features", "30_extract_features")),
    "41_search_and_verify": (_SEARCH, ("index", "40_build_index")),
    "42_explore_results": (_SEARCH, ("index", "40_build_index")),
    "50_ablation": ((*_SEARCH, "finetune", "attention"), None),
    "51_visualise_attention": (("backbone", "features", "attention"), None),
    "52_reject_no_match": (_COMPARED, None),
    "60_compare_with_dir": (_COMPARED, None),
    "61_combine_delf_dir": (_COMPARED, None),
    "62_compare_with_congas": ((*_SEARCH, *METHODS, "finetune", "attention"), None),
}
# A world that is only searched: no training photographs, and an answer to every query.
_SEARCHED_ALONE = {"train_landmarks": 0, "train_views": 0, "no_match": 0}
# The world of `13_measure_challenges`, sized to fit the time of each preset.
_CHALLENGE: dict[str, dict[str, int]] = {
    "ci": {
        "landmarks": 4,
        "family_size": 2,
        "database_views": 2,
        "query_views": 1,
        "distractors": 2,
    },
    "quick": {
        "landmarks": 16,
        "family_size": 4,
        "database_views": 3,
        "query_views": 2,
        "distractors": 16,
    },
    "full": {
        "landmarks": 120,
        "family_size": 4,
        "database_views": 4,
        "query_views": 2,
        "distractors": 120,
        "image_side": 512,
    },
}
# Changes to the world for training global descriptors: at "ci", more landmarks to train on, because
# a tuple takes each of its negatives from another.
_RANKED: dict[str, dict[str, int]] = {"ci": {"train_landmarks": 10, "train_views": 4}}
# Changes to the world for `11_mine_landmarks`: at "ci", fewer photographs in all, but enough of
# each landmark.
_MINED: dict[str, dict[str, int]] = {
    "ci": {
        **_SEARCHED_ALONE,
        "landmarks": 4,
        "database_views": 8,
        "query_views": 0,
        "distractors": 6,
    },
}
# Training by preset: "ci" takes seconds, "quick" a minute or two on two cores, and "full" as long
# as the paper's presets.
_SECONDS: dict[str, Any] = {
    "square_side": 192,
    "crop_side": 160,
    "batch_size": 16,
    "rescales": (0.7071, 1.0),
    "validate_every": 10,
    "log_every": 1,
}
_FEW_TUPLES: dict[str, Any] = {
    "square_side": 128,
    "frozen_layers": 14,
    "batch_size": 2,
    "steps": 12,
    "validate_every": 6,
    "log_every": 1,
}


def _few_tuples(recipe: str) -> GlobalTrainingConfig:
    """The training of a global descriptor at "ci"."""
    chosen = training_preset(f"quick_{recipe}")
    assert isinstance(chosen, GlobalTrainingConfig)
    # A PCA of few regions starts the projection.
    head = replace(chosen.head, projection_dim=min(chosen.head.projection_dim, 64))
    return replace(chosen, **_FEW_TUPLES, head=head)


_TRAINING = {
    "ci": TrainingStages(
        replace(training_preset("quick_finetune"), **_SECONDS, steps=20),
        replace(training_preset("quick_attention"), **_SECONDS, steps=40),
        replace(
            training_preset("quick_delg"),
            **{**_SECONDS, "rescales": (0.7071,)},
            frozen_layers=12,
            steps=20,
        ),
        *(_few_tuples(recipe) for recipe in RECIPES),
    ),
    **{
        name: TrainingStages(
            **cast(
                dict[str, Any],
                {stage: training_preset(f"{length}_{stage}") for stage in STAGE_SECTIONS},
            )
        )
        for name, length in (("quick", "quick"), ("full", "paper"))
    },
}
# DIR projects to 2048 dimensions, but the network that all systems share here has 320 channels.
_TRAINING["full"] = replace(
    _TRAINING["full"], dir=replace(_TRAINING["full"].dir, head=_TRAINING["quick"].dir.head)
)
# Number of trainings that `50_ablation` averages over.
_TRAININGS = {"ci": 1, "quick": 3, "full": 3}
# Datasets of the notebooks: two that need no download, and every named benchmark with a protocol.
_FOLDER = "folder"
DATASETS = ("world", "embedded", *(name for name in PROTOCOLS if name not in ("world", "folder")))


@dataclass(frozen=True)
class PhotoExperiment:
    """Settings of the suite for one set of parameters.

    Attributes:
        whole: config of the system and of its training stages.
        objects: embedded photographs that are searched for.
        distractors: embedded photographs that answer no query.
        photo_side: longest side of the embedded photographs, pixels.
        parameters: parameters of the notebook.
    """

    whole: Config
    objects: tuple[str, ...]
    distractors: tuple[str, ...]
    photo_side: int
    parameters: Mapping[str, Any]

    def settings(self, experiment: str) -> dict[str, Any]:
        """Config of a run of ``experiment``: the plain values that determine its results.

        Raises:
            ConfigError: the experiment works only on another dataset.
        """
        whole = to_dict(self.whole)
        used = {name: whole[name] for name in _sections_of(experiment) if name != "seed"}
        used["features"] = {
            name: value for name, value in whole["features"].items() if name != "batch_size"
        }
        method = whole["features"][METHOD]
        if method in METHODS:
            used[method] = whole[method]
        # At its place in the config, a section of a method that is not that of `features` is no
        # part of a hash; but an experiment that runs several methods depends on all of theirs.
        if set(METHODS) <= set(_STAGES.get(experiment, ((), None))[0]):
            used["methods"] = {name: used.pop(name) for name in METHODS}
        if experiment == "50_ablation":
            used["seeds"] = list(self.seeds)
        if self.recipe:
            for other in set(RECIPES) - {self.recipe}:
                used.pop(other, None)
        return {**self._data(experiment), "seed": self.whole.seed, **used}

    def _data(self, experiment: str) -> dict[str, Any]:
        """Plain values that determine every image, or that identify a copy of a benchmark."""
        dataset = self.dataset
        if experiment in _WORLDS and dataset != "world":
            raise ConfigError(
                f"{experiment}: dataset is {dataset!r}, but this notebook works only on 'world'"
            )
        if dataset == "world":
            return {
                "dataset": dataset,
                "world": _WORLDS.get(experiment, PhotoExperiment.world)(self).plain(),
            }
        if dataset == "embedded":
            return {"dataset": dataset, "photos": self.photos()}
        return {"dataset": dataset, "content": _content(dataset, self.folder or paths.data_root())}

    @property
    def config(self) -> DelfConfig:
        """Config of the whole system."""
        return self.whole.system

    @property
    def training(self) -> TrainingStages:
        """Configs of the training stages."""
        return self.whole.stages

    @property
    def dataset(self) -> str:
        """Name of the dataset, one of :data:`DATASETS`; ``folder`` for a labelled photo folder."""
        return _FOLDER if self.folder else str(self.parameters["dataset"])

    @property
    def folder(self) -> Path | None:
        """The labelled photo folder; ``None`` for a dataset with a name."""
        return _labelled_folder(str(self.parameters["dataset"]))

    @property
    def recipe(self) -> str:
        """The stage of :data:`RECIPES` that the notebook is about; empty for any other notebook."""
        return str(self.parameters.get("recipe", ""))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings that `50_ablation` averages over."""
        return tuple(
            self.whole.seed + number for number in range(_TRAININGS[self.parameters["preset"]])
        )

    def world(self, **changes: Any) -> WorldConfig:
        """Config of the landmark world, with some of its fields changed."""
        return world_config(self.parameters["preset"], seed=self.whole.seed, **changes)

    def photos(self) -> dict[str, Any]:
        """Plain values that determine the bytes of the embedded photographs."""
        return {
            "objects": list(self.objects),
            "distractors": list(self.distractors),
            "photo_side": self.photo_side,
            "seed": self.whole.seed,
        }

    def start(self, experiment: str, *, resume: bool = False, **upstream: FinishedRun) -> Run:
        """Start a run of ``experiment``.

        Args:
            experiment: its name.
            resume: keep the files of an unfinished run.
            **upstream: role=run for each finished run that the new run reads.

        Raises:
            RunError: see :func:`~delfjax.suite.runs.folders.start_run`.
        """
        settings = self.settings(experiment)
        return start_run(
            experiment, settings, parameters=self.parameters, upstream=upstream, resume=resume
        )


def _small_scale_overrides(preset: str, dataset: str) -> list[str]:
    """Overrides of the defaults for small photographs and small databases."""
    if dataset not in ("world", "embedded"):
        return [f"features.max_side={_SIDES[preset]}"]
    if dataset == "embedded":
        scales = [_CI_SCALES] if preset == "ci" else []
        return [f"features.max_side={_SIDES[preset]}", *_SMALL_DATABASE, *scales]
    side = f"features.max_side={world_config(preset).image_side}"
    return [side, *_SMALL_DATABASE, *_SMALL_PHOTOS, *_WORLD_CHANGES[preset]]


def _labelled_folder(dataset: str) -> Path | None:
    """The folder that the parameter ``dataset`` names, if it is a path and not a name."""
    is_path = dataset.startswith(("~", ".")) or "/" in dataset or os.sep in dataset
    return Path(dataset).expanduser().absolute() if is_path else None


@cache
def _content(dataset: str, place: Path) -> str:
    return open_dataset(dataset, place if dataset == _FOLDER else None).digest()


def upstream_of(experiment: str) -> tuple[str, str] | None:
    """Role and name of the experiment whose run ``experiment`` reads; ``None`` if it reads none."""
    return _STAGES[experiment][1] if experiment in _STAGES else None


def relevant_overrides(experiment: str, overrides: str) -> str:
    """The part of ``overrides`` that a run of ``experiment`` depends on.

    Raises:
        ConfigError: a field is unknown; the message names the nearest.
    """
    used = (*_sections_of(experiment), *METHODS, MODEL, SYSTEM)
    asked = parse_overrides(assignments_of(overrides), sections=(*_SECTIONS, MODEL, SYSTEM))
    return joined_assignments(each for each in asked if each.section in used)


def _sections_of(experiment: str) -> tuple[str, ...]:
    """The sections of the config that a run of ``experiment`` depends on."""
    return ("seed", *_STAGES[experiment][0]) if experiment in _STAGES else _SECTIONS


def photo_experiment(
    preset: str,
    seed: int,
    *,
    dataset: str = "world",
    overrides: str = "",
    upstream: str = "latest",
    recipe: str = "",
) -> PhotoExperiment:
    """Derive the settings of a notebook from its parameters.

    Args:
        preset: ``"ci"`` takes seconds, with a few small photographs; ``"quick"`` takes minutes;
            ``"full"`` uses all photographs at full size.
        seed: seed of the photographs and of all random draws.
        dataset: ``"world"``, the landmark world; ``"embedded"``, the photographs of scikit-image;
            a benchmark of the catalogue, for which ``preset`` changes only the size of images; or
            the path of a labelled photo folder, likewise.
        overrides: changes of config fields, ``"search.neighbours=5; features.max_features=200"``; a
            value that holds a semicolon is written in double quotes.
        upstream: the run that the notebook reads; recorded for the command that repeats the run.
        recipe: the stage of :data:`RECIPES` that the notebook is about; empty for any other.

    Raises:
        ConfigError: a preset, dataset or field is unknown (the message names the nearest), or a
            field does not accept its value.
        WeightsError: a weight file is missing, or its description is damaged.
    """
    require_known("preset", preset, PRESETS)
    folder = _labelled_folder(dataset)
    if folder is None:
        require_known("dataset", dataset, DATASETS)
    given = {
        "preset": preset,
        # A kernel works in another folder.
        "dataset": dataset if folder is None else str(folder),
        "seed": seed,
        "overrides": overrides,
        "upstream": upstream,
    }
    if recipe:
        require_known("recipe", recipe, RECIPES)
        given["recipe"] = recipe
    system = config.preset("ci" if preset == "ci" else "default")
    base = override(
        Config(**vars(system), **vars(_TRAINING[preset])),
        [*_small_scale_overrides(preset, dataset), f"seed={seed}"],
    )
    parsed = parse_overrides(assignments_of(overrides), sections=(*_SECTIONS, MODEL, SYSTEM))
    asked = [pinned_assignment(assignment) for assignment in parsed]
    if asked != parsed:
        # A kernel works in another folder, and repeats the run with the same weights or fails.
        given["overrides"] = joined_assignments(asked)
    whole = override_system(base, asked)
    if whole.seed != seed:
        raise ConfigError(
            f"overrides set seed to {whole.seed}, but the parameter seed is {seed}; set only the"
            " parameter"
        )
    photos = (_FEW_OBJECTS, _FEW_DISTRACTORS) if preset == "ci" else (OBJECTS, DISTRACTORS)
    return PhotoExperiment(whole, *photos, photo_side=_SIDES[preset], parameters=given)


def challenge_world(experiment: PhotoExperiment, **knobs: float) -> WorldConfig:
    """Config of a world without training photographs, small enough to render for each setting of a
    knob."""
    return experiment.world(
        **_SEARCHED_ALONE, **_CHALLENGE[experiment.parameters["preset"]], **knobs
    )


def mining_world(experiment: PhotoExperiment) -> WorldConfig:
    """Config of the world to mine: that of the parameters, except for a smaller one at "ci"."""
    return experiment.world(**_MINED.get(experiment.parameters["preset"], {}))


def ranking_world(experiment: PhotoExperiment) -> WorldConfig:
    """Config of the world that global descriptors are trained on: that of the parameters, except
    for more training photographs at "ci"."""
    return experiment.world(**_RANKED.get(experiment.parameters["preset"], {}))


# Experiments that work only on the landmark world → config of that world.
_WORLDS: dict[str, Callable[[PhotoExperiment], WorldConfig]] = {
    "10_inspect_dataset": PhotoExperiment.world,
    "11_mine_landmarks": mining_world,
    "13_measure_challenges": challenge_world,
    "20_finetune_descriptors": PhotoExperiment.world,
    "21_train_attention": PhotoExperiment.world,
    "22_train_delg": PhotoExperiment.world,
    "23_train_global": ranking_world,
    "50_ablation": PhotoExperiment.world,
    "51_visualise_attention": PhotoExperiment.world,
    "52_reject_no_match": PhotoExperiment.world,
}


def features_run(index: FinishedRun) -> FinishedRun:
    """The run of ``30_extract_features`` that a run of ``40_build_index`` read.

    Raises:
        RunError: the run is missing or damaged.
    """
    features = index.provenance.get("upstream", {}).get("features")
    if features is None:
        raise RunError(f"{index.path}: its provenance names no run whose features it indexed")
    return open_run(paths.runs_root() / features)


def store_of(run: Run | FinishedRun) -> Path:
    """Folder of the feature store in a run of ``30_extract_features``."""
    return run.path / "store"


def model_of(run: Run | FinishedRun) -> Path:
    """Model file of the whole system in a run of ``31_fit_reduction``."""
    return run.path / "model.safetensors"


def index_of(run: Run | FinishedRun, kind: str) -> Path:
    """Folder of the index of one kind in a run of ``40_build_index``."""
    return run.path / f"index-{kind}"


def table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Row name → column → value, as a table for display."""
    return pd.DataFrame.from_dict(rows, orient="index")
