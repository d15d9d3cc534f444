"""The settings that the notebooks share: their parameters decide everything they do.

A notebook is about one dataset: the landmark world, the embedded photographs of
:mod:`delfjax.datasets.skimage_photos`, or a benchmark of the catalogue by its name.
:mod:`delfjax.suite.data` makes or opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from delfjax import config, paths
from delfjax.config import (
    EXTRACTION_SECTIONS,
    MODEL,
    STAGE_SECTIONS,
    SYSTEM_SECTIONS,
    Config,
    ConfigError,
    DelfConfig,
    TrainingStages,
    assignments_of,
    override,
    parse_overrides,
    require_known,
    to_dict,
    training_preset,
)
from delfjax.datasets.catalogue import open_dataset
from delfjax.datasets.skimage_photos import DISTRACTORS, OBJECTS
from delfjax.evaluation.dataset_protocols import PROTOCOLS
from delfjax.models.model_files import override_system
from delfjax.suite.runs.folders import PRESETS, FinishedRun, Run, open_run, start_run
from delfjax.world.knobs import WorldConfig, world_config

# Objects and distractors of the smallest set: photographs of unlike things, two of them with much
# repetition.
_FEW_OBJECTS = ("astronaut", "chelsea", "coffee", "motorcycle", "rocket")
_FEW_DISTRACTORS = ("clock", "gravel", "moon")
# Tens of thousands of descriptors, not millions: with the paper's 60 neighbours nearly every image
# gets a vote from nearly every feature, and chance yields many inliers. Hence fewer neighbours, and
# a tolerance half as wide as the default for photographs half as large. Measured on "quick": 99.9 %
# of wrong photos stay below 25 inliers, 91 % of right ones do not.
_SMALL_DATABASE = (
    "search.neighbours=10",
    "verification.threshold_px=10",
    "verification.min_inliers=25",
)
# Photographs of 256 pixels take seconds; enlarged, for cells of 8 pixels.
_CI_SCALES = "features.scales=[1.0, 2.0]"
# Photographs of the world: as many features as a landmark of it has cells at all scales together.
# So few matches need no more hypotheses: on the world of "quick" mAP 0.464, and 0.462 with the
# default, four times as many.
_SMALL_PHOTOS = (
    "features.max_features=300",
    "search.shortlist=30",
    "verification.pair_hypotheses=1024",
    "verification.refined=64",
)
# What a preset changes for them. Scales: levels smaller than 0.5 have a dozen cells. 2.0 costs as
# much as all others together, but on small photographs the attention needs its small cells: without
# it, mAP 0.432 against 0.477. Whole octaves take three fifths of the time of half octaves and
# compile three programs in place of five: measured on the world of "quick", mAP of norm 0.369
# (0.361) and of attention 0.443 (0.480). Index: the 168,000 descriptors of "quick" need no codebook
# for millions: it is made in a quarter of the time and searched in two thirds of it, and mAP
# changes by less than 0.01. The 12,000 of "ci" need lists of 200: with the default's of 30, codes
# of what is left within a list are learnt from too little.
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


# Sections that overrides of a notebook can change; no run depends on mining's.
_SECTIONS = (*SYSTEM_SECTIONS, *STAGE_SECTIONS)
# What each experiment of the suite depends on: sections of the config beside the seed, and the run
# it reads (role, experiment). A notebook that is not listed, a copy of one for instance, depends on
# all sections.
_EXTRACTION = EXTRACTION_SECTIONS
_SEARCH = (*_EXTRACTION, "reduction", "index", "search", "verification")
_STAGES: dict[str, tuple[tuple[str, ...], tuple[str, str] | None]] = {
    "10_inspect_dataset": (("backbone", "features"), None),
    "11_mine_landmarks": ((*_EXTRACTION, "reduction", "verification"), None),
    "13_measure_challenges": (tuple(name for name in _SEARCH if name != "scorer"), None),
    "20_finetune_descriptors": (("backbone", "finetune"), None),
    "21_train_attention": (("backbone", "finetune", "attention"), None),
    "22_train_delg": ((*_SEARCH, *STAGE_SECTIONS), None),
    "30_extract_features": (_EXTRACTION, None),
    "31_fit_reduction": (_SEARCH, ("features", "30_extract_features")),
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
# What `11_mine_landmarks` changes of the world of a preset: for seconds, fewer photographs, and
# enough of each landmark.
_MINED: dict[str, dict[str, int]] = {
    "ci": {
        **_SEARCHED_ALONE,
        "landmarks": 4,
        "database_views": 8,
        "query_views": 0,
        "distractors": 6,
    },
}
# How each preset trains: in seconds, in a minute or two on two cores, or as long as the paper's
# presets would.
_SECONDS: dict[str, Any] = {
    "square_side": 192,
    "crop_side": 160,
    "batch_size": 16,
    "rescales": (0.7071, 1.0),
    "validate_every": 10,
    "log_every": 1,
}
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
    ),
    **{
        name: TrainingStages(
            **{stage: training_preset(f"{length}_{stage}") for stage in STAGE_SECTIONS}
        )
        for name, length in (("quick", "quick"), ("full", "paper"))
    },
}
# Trainings that `50_ablation` averages over.
_TRAININGS = {"ci": 1, "quick": 3, "full": 3}
# What a notebook can be about: two that need no download, and every benchmark that has a name and a
# protocol.
DATASETS = ("world", "embedded", *(name for name in PROTOCOLS if name not in ("world", "folder")))


@dataclass(frozen=True)
class PhotoExperiment:
    """Settings of the suite under one set of parameters.

    Attributes:
        whole: the system, and how each stage of it is trained.
        objects: photographs that are searched for.
        distractors: photographs without an answer.
        photo_side: longest side of the photographs, pixels.
        parameters: what the notebook was given.
    """

    whole: Config
    objects: tuple[str, ...]
    distractors: tuple[str, ...]
    photo_side: int
    parameters: Mapping[str, Any]

    def settings(self, experiment: str) -> dict[str, Any]:
        """Plain values that decide every result of ``experiment``, seed included: the config of its
        run."""
        whole = to_dict(self.whole)
        used = {name: whole[name] for name in _sections_of(experiment) if name != "seed"}
        used["features"] = {k: v for k, v in whole["features"].items() if k != "batch_size"}
        if experiment == "50_ablation":
            used["seeds"] = list(self.seeds)
        return {**self._data(experiment), "seed": self.whole.seed, **used}

    def _data(self, experiment: str) -> dict[str, Any]:
        """Plain values that decide every image, or tell one copy of a benchmark from another."""
        dataset = self.dataset
        if experiment in _WORLDS and dataset != "world":
            raise ConfigError(
                f"{experiment}: dataset {dataset!r}, this notebook is about 'world' alone"
            )
        if dataset == "world":
            return {
                "dataset": dataset,
                "world": _WORLDS.get(experiment, PhotoExperiment.world)(self).plain(),
            }
        if dataset == "embedded":
            return {"dataset": dataset, "photos": self.photos()}
        return {"dataset": dataset, "content": _content(dataset, paths.data_root())}

    @property
    def config(self) -> DelfConfig:
        """The whole system."""
        return self.whole.system

    @property
    def training(self) -> TrainingStages:
        """How each stage of it is trained."""
        return self.whole.stages

    @property
    def dataset(self) -> str:
        """Name of the dataset, one of :data:`DATASETS`."""
        return str(self.parameters["dataset"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the trainings that an average is taken over."""
        return tuple(
            self.whole.seed + number for number in range(_TRAININGS[self.parameters["preset"]])
        )

    def world(self, **changes: Any) -> WorldConfig:
        """The landmark world of these parameters, with some of its fields changed."""
        return world_config(self.parameters["preset"], seed=self.whole.seed, **changes)

    def photos(self) -> dict[str, Any]:
        """Plain values that decide the bytes of the photographs."""
        return {
            "objects": list(self.objects),
            "distractors": list(self.distractors),
            "photo_side": self.photo_side,
            "seed": self.whole.seed,
        }

    def start(self, experiment: str, *, resume: bool = False, **upstream: FinishedRun) -> Run:
        """Start the run of ``experiment`` that reads the runs ``upstream`` (role=run)."""
        settings = self.settings(experiment)
        return start_run(
            experiment, settings, parameters=self.parameters, upstream=upstream, resume=resume
        )


def _reductions(preset: str, dataset: str) -> list[str]:
    """What the defaults are changed by for small photographs and small databases."""
    if dataset not in ("world", "embedded"):
        return [f"features.max_side={_SIDES[preset]}"]
    if dataset == "embedded":
        scales = [_CI_SCALES] if preset == "ci" else []
        return [f"features.max_side={_SIDES[preset]}", *_SMALL_DATABASE, *scales]
    side = f"features.max_side={world_config(preset).image_side}"
    return [side, *_SMALL_DATABASE, *_SMALL_PHOTOS, *_WORLD_CHANGES[preset]]


@cache
def _content(dataset: str, _data_root: Path) -> str:
    return open_dataset(dataset).digest()


def upstream_of(experiment: str) -> tuple[str, str] | None:
    """Role and name of the experiment whose run ``experiment`` reads; ``None`` where it reads
    none."""
    return _STAGES[experiment][1] if experiment in _STAGES else None


def relevant_overrides(experiment: str, overrides: str) -> str:
    """Those of ``overrides`` that the run of ``experiment`` depends on.

    Raises:
        ConfigError: an unknown field; the nearest is named.
    """
    used = (*_sections_of(experiment), MODEL)
    asked = parse_overrides(assignments_of(overrides), sections=(*_SECTIONS, MODEL))
    return "; ".join(str(assignment) for assignment in asked if assignment.section in used)


def _sections_of(experiment: str) -> tuple[str, ...]:
    """The sections that the run of ``experiment`` depends on."""
    return ("seed", *_STAGES[experiment][0]) if experiment in _STAGES else _SECTIONS


def photo_experiment(
    preset: str, seed: int, *, dataset: str = "world", overrides: str = "", upstream: str = "latest"
) -> PhotoExperiment:
    """What the parameters of a notebook stand for.

    Args:
        preset: ``"ci"``: a few small photographs, seconds; ``"quick"``: minutes; ``"full"``: as
            many and as large as there are.
        seed: of the photographs and of everything that is drawn at random.
        dataset: ``"world"``, the landmark world; ``"embedded"``, the photographs of scikit-image;
            or a benchmark of the catalogue, which ``preset`` changes nothing of but the size its
            images are reduced to.
        overrides: changes of config fields, ``"search.neighbours=5; features.max_features=200"``.
        upstream: which run the notebook reads; noted here for the command that does the same again.

    Raises:
        ConfigError: another preset or dataset, an unknown field, or a value that it does not take;
            the nearest is named.
    """
    require_known("preset", preset, PRESETS)
    require_known("dataset", dataset, DATASETS)
    given = {
        "preset": preset,
        "dataset": dataset,
        "seed": seed,
        "overrides": overrides,
        "upstream": upstream,
    }
    system = config.preset("ci" if preset == "ci" else "default")
    base = override(
        Config(**vars(system), **vars(_TRAINING[preset])),
        [*_reductions(preset, dataset), f"seed={seed}"],
    )
    asked = parse_overrides(assignments_of(overrides), sections=(*_SECTIONS, MODEL))
    whole = override_system(base, asked)
    if whole.seed != seed:
        raise ConfigError(
            f"overrides set seed to {whole.seed}, the parameter seed says {seed}; set the"
            " parameter alone"
        )
    photos = (_FEW_OBJECTS, _FEW_DISTRACTORS) if preset == "ci" else (OBJECTS, DISTRACTORS)
    return PhotoExperiment(whole, *photos, photo_side=_SIDES[preset], parameters=given)


def challenge_world(experiment: PhotoExperiment, **knobs: float) -> WorldConfig:
    """A world small enough to be rendered once for each setting of a knob; no part of it is for
    training."""
    return experiment.world(
        **_SEARCHED_ALONE, **_CHALLENGE[experiment.parameters["preset"]], **knobs
    )


def mining_world(experiment: PhotoExperiment) -> WorldConfig:
    """The world that is mined: that of the parameters, or for seconds a smaller one."""
    return experiment.world(**_MINED.get(experiment.parameters["preset"], {}))


# Experiments on the landmark world alone, and on which.
_WORLDS: dict[str, Callable[[PhotoExperiment], WorldConfig]] = {
    "10_inspect_dataset": PhotoExperiment.world,
    "11_mine_landmarks": mining_world,
    "13_measure_challenges": challenge_world,
    "20_finetune_descriptors": PhotoExperiment.world,
    "21_train_attention": PhotoExperiment.world,
    "22_train_delg": PhotoExperiment.world,
    "50_ablation": PhotoExperiment.world,
    "51_visualise_attention": PhotoExperiment.world,
}


def features_run(index: FinishedRun) -> FinishedRun:
    """The run of ``30_extract_features`` that a run of ``40_build_index`` names.

    Raises:
        RunError: it is gone or damaged.
    """
    return open_run(paths.runs_root() / str(index.provenance["upstream"]["features"]))


def store_of(run: Run | FinishedRun) -> Path:
    """Where a run of ``30_extract_features`` keeps its feature store."""
    return run.path / "store"


def model_of(run: Run | FinishedRun) -> Path:
    """Where a run of ``31_fit_reduction`` keeps its system, whole."""
    return run.path / "model.safetensors"


def index_of(run: Run | FinishedRun, kind: str) -> Path:
    """Where a run of ``40_build_index`` keeps its index of that kind."""
    return run.path / f"index-{kind}"


def table(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """``rows`` for display: row name → column → value."""
    return pd.DataFrame.from_dict(rows, orient="index")
