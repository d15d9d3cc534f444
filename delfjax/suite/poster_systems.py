"""The systems of the poster's table, built from what was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from delfjax.config import DelfConfig
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.world_benchmark import load_world_rehearsal
from delfjax.models.model_files import override_system
from delfjax.suite.data import world_set
from delfjax.suite.settings import PhotoExperiment, ranking_world
from delfjax.suite.trained_stages import TrainedStage, system, trained_stage

# Row → the named system, and further fields. The rows with a star are the systems as their own
# authors ran them: DIR with the database augmented as well (its code), siaMAC with the five nearest
# averaged (how many they took is not published; ours).
_ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "delf": ("delf", ()),
    "delf+qe": ("delf+qe", ()),
    "rmac": ("rmac", ()),
    "siamac": ("siamac", ()),
    "siamac+qe": ("siamac+qe", ()),
    "siamac+qe*": ("siamac+qe", ("expansion.neighbours=5",)),
    "dir": ("dir", ()),
    "dir+qe": ("dir+qe", ()),
    "dir+qe*": (
        "dir+qe",
        ("expansion.database_neighbours=20",),
    ),
    "delf+siamac": ("delf+siamac", ()),
    "delf+dir": ("delf+dir", ()),
    "delf+dir+qe": ("delf+dir+qe", ()),
    "delf+dir, then qe": ("delf+dir+qe", ("expansion.order=after_fusion",)),
}


@dataclass(frozen=True)
class TrainedNetworks:
    """What the systems of the poster's table are made of.

    Attributes:
        config: DELF: on the landmark world with its own trained stages, FT+ATT; elsewhere as the
            parameters set it.
        siamac: the trained stage "siamac"; ``None`` where the parameters set a trained network.
        dir: the trained stage "dir"; likewise.
    """

    config: DelfConfig
    siamac: TrainedStage | None = None
    dir: TrainedStage | None = None


def trained_networks(experiment: PhotoExperiment, *, progress: bool = False) -> TrainedNetworks:
    """Train on the training landmarks of the world of ``experiment``, or reuse what was trained.

    A network for global descriptors that the parameters set, such as a published one, stays as it
    is.

    Args:
        experiment: its parameters.
        progress: show progress bars.

    Raises:
        TrainingError: see :func:`~delfjax.training.stages.train_stage`.
    """
    config, training = trained_delf(experiment, progress=progress), experiment.training
    seed = experiment.whole.seed
    pooled = config.global_features.backbone
    if pooled.weights not in ("imagenet", "random"):
        return TrainedNetworks(config)
    ranked_root = world_set(ranking_world(experiment), progress=progress)
    siamac, ranked = (
        trained_stage(ranked_root, backbone=pooled, config=stage, seed=seed, progress=progress)
        for stage in (training.siamac, training.dir)
    )
    return TrainedNetworks(config, siamac, ranked)


def trained_delf(experiment: PhotoExperiment, *, progress: bool = False) -> DelfConfig:
    """DELF, FT+ATT: trained on the training landmarks of the world of ``experiment``, or as it was
    trained before; for another dataset, as the parameters set it.

    Args:
        experiment: its parameters.
        progress: show progress bars.

    Raises:
        TrainingError: see :func:`~delfjax.training.stages.train_stage`.
    """
    config, training, seed = experiment.config, experiment.training, experiment.whole.seed
    if experiment.dataset != "world":
        return config
    root = world_set(experiment.world(), progress=progress)
    plain = config.backbone
    tuned = trained_stage(
        root, backbone=plain, config=training.finetune, seed=seed, progress=progress
    )
    fixed = replace(plain, weights=str(tuned.weights))
    attention = trained_stage(
        root, backbone=fixed, config=training.attention, seed=seed, progress=progress
    )
    return system(config, descriptors=tuned, attention=attention)


def tuning_dataset(experiment: PhotoExperiment) -> RetrievalDataset:
    """A benchmark among the training landmarks of the world of ``experiment``, on which numbers of
    a system may be chosen."""
    world = experiment.world()
    landmarks = range(world.train_landmarks)
    found = load_world_rehearsal(world_set(world), held=landmarks, query_views=2)
    # It is scored as the world is.
    return replace(found, name="world")


def poster_systems(
    config: DelfConfig,
    *,
    siamac: TrainedStage | None = None,
    dir: TrainedStage | None = None,
) -> dict[str, DelfConfig]:
    """Row of the table → system.

    Args:
        config: DELF as it was trained.
        siamac: a trained stage "siamac"; its ImageNet network when ``None``.
        dir: a trained stage "dir"; likewise.
    """
    trained = {"siamac": siamac, "dir": dir}
    systems = {}
    for row, (name, fields) in _ROWS.items():
        models = [
            f"model={stage.weights}"
            for part, stage in trained.items()
            if stage is not None and part in name.split("+")
        ]
        systems[row] = override_system(config, [f"system={name}", *models, *fields])
    return systems
