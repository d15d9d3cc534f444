"""Weight files: ``delfjax weights inspect | convert | export | record | card``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from delfjax.cli.options import Preset, Set, require_writable
from delfjax.config import DelfConfig, override, preset
from delfjax.features.export import export_system
from delfjax.models.delf import architecture
from delfjax.models.foreign.delf_release import import_published
from delfjax.models.foreign.importing import (
    import_efficientnet_lite0,
    import_torchvision_resnet,
    read_tensors,
)
from delfjax.models.foreign.tf_checkpoints import is_tf_checkpoint
from delfjax.models.model_files import card, record_scores
from delfjax.models.tensors import named_shapes
from delfjax.models.weights import WeightsError, load_weights, save_weights, shipped_attention


@dataclass(frozen=True)
class Inspect:
    """List the tensors of a weight file (.pth of either layout, .safetensors, TensorFlow's) without
    running anything in it."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="weight file")]

    def run(self) -> None:
        """Print name, shape and type of every tensor."""
        tensors = read_tensors(self.file)
        if self.file.with_suffix(".json").is_file():
            print(json.dumps(load_weights(self.file)[1], indent=1))
        for name, tensor in tensors.items():
            print(f"{name:60s} {tensor.dtype!s:8s} {tuple(tensor.shape)}")
        print(
            f"{len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} values",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class Convert:
    """Convert a checkpoint to our safetensors and JSON: a backbone with torchvision's (or the
    embedded EfficientNet's) names, or a whole DELF or DELG of TensorFlow's, which `--set
    model=FILE` then means on every command."""

    file: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(
            help=(
                ".pth of either layout, .safetensors, or a SavedModel or checkpoint of TensorFlow's"
            )
        ),
    ]
    out: Annotated[
        Path, tyro.conf.arg(help=".safetensors file to write; a .json appears beside it")
    ]
    pca: Annotated[
        tuple[Path, ...],
        tyro.conf.arg(
            help="of TensorFlow's DELF: folder or .datum files of its PCA; --set reduction.dim=N"
        ),
    ] = ()
    overrides: Set = ()

    def run(self) -> None:
        """Convert, or list every name that does not fit."""
        if is_tf_checkpoint(self.file):
            require_writable("--out", self.out, (".safetensors",))
            import_published(self.out, self.file, pca=self.pca, overrides=self.overrides)
            print("\n".join(card(self.out)))
            return
        if self.pca:
            raise WeightsError("--pca goes with a checkpoint of TensorFlow's alone")
        backbone = override(DelfConfig(), self.overrides).backbone
        expected = named_shapes(architecture(backbone))
        convert = (
            import_efficientnet_lite0
            if backbone.name == "efficientnet_lite0"
            else import_torchvision_resnet
        )
        tensors = convert(read_tensors(self.file), expected, source=self.file)
        about = {
            "name": backbone.name,
            "stride_layout": backbone.stride_layout,
            "source": self.file.name,
        }
        save_weights(self.out, tensors, about)
        print(f"{self.out}: {len(tensors)} tensors of {backbone.name}", file=sys.stderr)


@dataclass(frozen=True)
class Export:
    """Put a whole system into one file, which `--set model=FILE` then means on every command and in
    every notebook."""

    out: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE", help=".safetensors file to write")
    ]
    store: Annotated[
        Path | None,
        tyro.conf.arg(help="features that this very system extracted, to fit the reduction on"),
    ] = None
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Write the file, then print its card."""
        require_writable("FILE", self.out, (".safetensors",))
        config = override(preset(self.preset), self.overrides)
        export_system(self.out, config, store=self.store)
        print("\n".join(card(self.out)))


@dataclass(frozen=True)
class Record:
    """Put scores on the card of a weight file."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="weight file of ours")]
    scores: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(
            metavar="JSON", help="what `delfjax evaluate --json` wrote when it used the file"
        ),
    ]

    def run(self) -> None:
        """Write the file anew, then print its card."""
        record_scores(self.file, self.scores)
        print("\n".join(card(self.file)))


@dataclass(frozen=True)
class Card:
    """Say what a weight file is, what it was trained on, and how it scored."""

    file: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help="weight file, or the name of one that comes with the suite"),
    ]

    def run(self) -> None:
        """Print the card."""
        own = Path(self.file).suffix == ".safetensors"
        print("\n".join(card(self.file if own else shipped_attention(self.file))))


Weights = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Record, tyro.conf.subcommand("record")]
    | Annotated[Card, tyro.conf.subcommand("card")]
)


@dataclass(frozen=True)
class WeightsCommand:
    """Look into weight files, convert foreign ones, or put a whole system into one."""

    action: tyro.conf.OmitSubcommandPrefixes[Weights]

    def run(self) -> None:
        """Run the action."""
        self.action.run()
