"""Weight files: ``delfjax weights inspect | convert``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from delfjax.cli.options import Set
from delfjax.config import DelfConfig, override
from delfjax.models.delf import backbone_builder
from delfjax.models.tensors import abstract, named_shapes
from delfjax.models.weights import (
    import_efficientnet_lite0,
    import_torchvision_resnet,
    load_weights,
    read_tensors,
    save_weights,
)


@dataclass(frozen=True)
class Inspect:
    """List the tensors of a weight file (.pth of either layout, .safetensors) without running anything in it."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="weight file")]

    def run(self) -> None:
        """Print name, shape and type of every tensor."""
        tensors = read_tensors(self.file)
        if self.file.with_suffix(".json").is_file():
            print(json.dumps(load_weights(self.file)[1], indent=1))
        for name, tensor in tensors.items():
            print(f"{name:60s} {tensor.dtype!s:8s} {tuple(tensor.shape)}")
        print(f"{len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} values", file=sys.stderr)


@dataclass(frozen=True)
class Convert:
    """Convert a checkpoint with torchvision's (or the embedded EfficientNet's) names to our safetensors and JSON."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help=".pth of either layout, or .safetensors")]
    out: Annotated[Path, tyro.conf.arg(help=".safetensors file to write; a .json appears beside it")]
    overrides: Set = ()

    def run(self) -> None:
        """Convert, or list every name that does not fit."""
        backbone = override(DelfConfig(), self.overrides).backbone
        expected = named_shapes(abstract(backbone_builder(backbone)))
        convert = import_efficientnet_lite0 if backbone.name == "efficientnet_lite0" else import_torchvision_resnet
        tensors = convert(read_tensors(self.file), expected, source=self.file)
        about = {"name": backbone.name, "stride_layout": backbone.stride_layout, "source": self.file.name}
        save_weights(self.out, tensors, about)
        print(f"{self.out}: {len(tensors)} tensors of {backbone.name}", file=sys.stderr)


Weights = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")] | Annotated[Convert, tyro.conf.subcommand("convert")]
)


@dataclass(frozen=True)
class WeightsCommand:
    """Look into weight files, or convert foreign ones."""

    action: tyro.conf.OmitSubcommandPrefixes[Weights]

    def run(self) -> None:
        """Run the action."""
        self.action.run()
