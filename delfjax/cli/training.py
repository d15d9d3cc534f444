"""Training: ``delfjax train``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from delfjax.cli.options import DatasetRoot, Maybe, UsageError, Words, require_writable
from delfjax.cli.output import print

if TYPE_CHECKING:
    import numpy as np

    from delfjax.datasets.benchmark import RetrievalDataset


@dataclass(frozen=True)
class Train:
    """Train one stage: descriptors, attention, DELG, or a global descriptor.

    The preset names the stage; fine-tune descriptors before their attention.

    The same command resumes an interrupted training.

    Example: delfjax train world_train --out attention.safetensors --set steps=500
    """

    dataset: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="DATASET", help="name of a dataset whose photos have labels, e.g. world_train"
        ),
    ]
    out: Annotated[
        Path,
        tyro.conf.arg(
            metavar="FILE",
            help=".safetensors file to write; checkpoints and metrics go to a folder beside it",
        ),
    ]
    preset: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help=(
                "quick_finetune, quick_attention, quick_delg, quick_siamac or quick_dir (minutes on"
                " two cores), or paper_finetune, paper_attention, paper_delg, paper_siamac or"
                " paper_dir (the papers' sizes)"
            ),
        ),
    ] = "quick_attention"
    root: DatasetRoot = None
    pairs: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="FOLDER",
            help=(
                "landmarks that `delfjax mine` found in the same photos, whose verified pairs"
                " siamac and dir learn from"
            ),
        ),
    ] = None
    seed: Annotated[int, tyro.conf.arg(help="seed of all random choices")] = 0
    overrides: Annotated[
        tyro.conf.UseAppendAction[Words],
        tyro.conf.arg(
            name="set",
            metavar="FIELD=VALUE",
            help=(
                "change one field of the training, for instance steps=500, or of the backbone, for"
                " instance backbone.weights=FILE; that of siamac and dir is"
                " global_features.backbone"
            ),
        ),
    ] = ()

    def run(self) -> None:
        """Train, and write what was learnt."""
        from delfjax.config import (
            Config,
            TrainingConfig,
            named_weights,
            parse_overrides,
            to_dict,
            training_preset,
        )
        from delfjax.datasets.catalogue import open_dataset
        from delfjax.models.model_files import override_system
        from delfjax.training.stages import save_trained, train_stage

        require_writable("--out", self.out, (".safetensors",))
        chosen = training_preset(self.preset)
        section = self.preset.partition("_")[2]
        pooled = chosen.stage == "global"
        asked = parse_overrides(
            self.overrides,
            sections=("global_features" if pooled else "backbone", section),
            within=section,
        )
        stage: dict[str, Any] = {section: chosen}
        whole = override_system(Config(**stage, seed=self.seed), asked)
        weights = [file.path for file in named_weights(to_dict(whole))]
        require_writable("--out", self.out, inputs=weights)
        config: TrainingConfig = getattr(whole, section)
        backbone = whole.global_features.backbone if pooled else whole.backbone
        folder = self.out.with_suffix(".training")
        if folder.is_file():
            raise UsageError(
                f"{folder}: is a file, expected a folder for the checkpoints of {self.out}"
            )
        dataset = open_dataset(self.dataset, self.root)
        if self.pairs is not None:
            dataset = replace(dataset, pairs=_mined_pairs(dataset, self.pairs))
        for note in dataset.notes:
            print(note, file=sys.stderr)
        report = train_stage(
            dataset,
            backbone=backbone,
            config=config,
            seed=self.seed,
            folder=folder,
        )
        scores = report.validation.get(report.best_step)
        about = {
            "trained_on": self.dataset,
            "training": to_dict(config),
            "seed": self.seed,
            "validation": scores,
        }
        save_trained(self.out, report, backbone=backbone, about=about)
        for path, reason in report.failures.items():
            print(f"failed: {path}: {reason}", file=sys.stderr)
        result = "no photo is held out, because each landmark has one photo only"
        if pooled:
            result = "no landmark is held out, because there are fewer than four"
        if scores is not None:
            what = "mAP" if pooled else "accuracy"
            value = scores["precision"] if pooled else scores["accuracy"]
            result = f"validation {what} {value:.1%} at step {report.best_step}"
        failed = f", {len(report.failures)} failed" if report.failures else ""
        print(
            f"train: {report.steps} steps, {report.resumed_at} of them earlier,"
            f" {report.images_per_second:.0f} images/s{failed}; {result}; wrote {self.out}",
            file=sys.stderr,
        )


def _mined_pairs(dataset: RetrievalDataset, folder: Path) -> np.ndarray:
    """The verified pairs of mined landmarks, both ways, as database indices.

    Raises:
        MiningError: the folder holds no mined landmarks, or damaged ones.
        UsageError: no pair is of photos of the dataset.
    """
    import numpy as np

    from delfjax.mining.mined_files import open_landmarks

    mined = open_landmarks(folder)
    place = {name: number for number, name in enumerate(dataset.database)}
    known = np.array([place.get(name, -1) for name in mined.names], np.int64)
    verified = mined.graph.inliers >= mined.config.min_inliers
    pairs = known[mined.graph.pairs[verified]]
    pairs = pairs[(pairs >= 0).all(axis=1)]
    if not len(pairs):
        raise UsageError(
            f"--pairs {folder}: none of its {int(verified.sum())} verified pairs is of photos of"
            f" {dataset.name}; mine landmarks from a store of the same folder"
        )
    return np.concatenate([pairs, pairs[:, ::-1]])
