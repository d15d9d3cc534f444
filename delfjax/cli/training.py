"""Training: ``delfjax train``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from delfjax.cli.options import DatasetRoot, UsageError, Words, require_writable
from delfjax.cli.output import print


@dataclass(frozen=True)
class Train:
    """Train one stage on labelled photos: descriptors, attention, or DELG.

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
                "quick_finetune, quick_attention or quick_delg (minutes on two cores), or"
                " paper_finetune, paper_attention or paper_delg (the papers' sizes)"
            ),
        ),
    ] = "quick_attention"
    root: DatasetRoot = None
    seed: Annotated[int, tyro.conf.arg(help="seed of all random choices")] = 0
    overrides: Annotated[
        tyro.conf.UseAppendAction[Words],
        tyro.conf.arg(
            name="set",
            metavar="FIELD=VALUE",
            help=(
                "change one field of the training, for instance steps=500, or of the backbone, for"
                " instance backbone.weights=FILE"
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
        asked = parse_overrides(
            self.overrides, sections=("backbone", chosen.stage), within=chosen.stage
        )
        stage: dict[str, Any] = {chosen.stage: chosen}
        whole = override_system(Config(**stage, seed=self.seed), asked)
        weights = [file.path for file in named_weights(to_dict(whole))]
        require_writable("--out", self.out, inputs=weights)
        config: TrainingConfig = getattr(whole, chosen.stage)
        folder = self.out.with_suffix(".training")
        if folder.is_file():
            raise UsageError(
                f"{folder}: is a file, expected a folder for the checkpoints of {self.out}"
            )
        dataset = open_dataset(self.dataset, self.root)
        for note in dataset.notes:
            print(note, file=sys.stderr)
        report = train_stage(
            dataset,
            backbone=whole.backbone,
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
        save_trained(self.out, report, backbone=whole.backbone, about=about)
        for path, reason in report.failures.items():
            print(f"failed: {path}: {reason}", file=sys.stderr)
        result = "no photo is held out, because each landmark has one photo only"
        if scores is not None:
            result = f"validation accuracy {scores['accuracy']:.1%} at step {report.best_step}"
        failed = f", {len(report.failures)} failed" if report.failures else ""
        print(
            f"train: {report.steps} steps, {report.resumed_at} of them earlier,"
            f" {report.images_per_second:.0f} images/s{failed}; {result}; wrote {self.out}",
            file=sys.stderr,
        )
