"""Training: ``delfjax train``."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from delfjax.cli.options import DatasetRoot, Set, UsageError, require_writable
from delfjax.config import DelfConfig, override, to_dict
from delfjax.datasets.catalogue import open_dataset

_BACKBONE = "backbone."


@dataclass(frozen=True)
class Train:
    """Train a stage on labelled photos: descriptors first (finetune), then attention, or delg; the
    same command resumes."""

    dataset: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(help="a dataset with labels, e.g. world_train")
    ]
    out: Annotated[
        Path,
        tyro.conf.arg(
            help=".safetensors file to write; checkpoints and metrics go into a folder beside it"
        ),
    ]
    preset: Annotated[
        str, tyro.conf.arg(help="quick_ or paper_, and finetune, attention or delg")
    ] = "quick_attention"
    root: DatasetRoot = None
    seed: Annotated[int, tyro.conf.arg(help="of everything drawn at random")] = 0
    overrides: Set = ()

    def run(self) -> None:
        """Train, and write what was learnt."""
        require_writable("--out", self.out, (".safetensors",))
        # Optimiser and checkpoints take seconds to import, which no other command has a use for.
        training, stages = (
            importlib.import_module(f"delfjax.training.{name}") for name in ("config", "stages")
        )
        chosen = training.training_preset(self.preset)
        own = [text for text in self.overrides if not text.strip().startswith(_BACKBONE)]
        config = override(chosen, own)
        whole = override(DelfConfig(), [text for text in self.overrides if text not in own])
        folder = self.out.with_suffix(".training")
        if folder.is_file():
            raise UsageError(
                f"{folder}: is a file, expected a folder for the checkpoints of {self.out}"
            )
        report = stages.train_stage(
            open_dataset(self.dataset, self.root),
            backbone=whole.backbone,
            config=config,
            seed=self.seed,
            folder=folder,
        )
        scores = report.validation[report.best_step]
        about = {
            "trained_on": self.dataset,
            "training": to_dict(config),
            "seed": self.seed,
            "validation": scores,
        }
        stages.save_trained(self.out, report, backbone=whole.backbone, about=about)
        for path, reason in report.failures.items():
            print(f"failed: {path}: {reason}", file=sys.stderr)
        print(
            f"train: {report.steps} steps, {report.resumed_at} of them before,"
            f" {report.images_per_second:.0f} images/s; of the photos held out"
            f" {scores['accuracy']:.1%} are named right (step {report.best_step}); {self.out}",
            file=sys.stderr,
        )
