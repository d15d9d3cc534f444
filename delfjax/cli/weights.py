"""Weight files: ``delfjax weights inspect | convert | export | record | card``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from delfjax.cli.groups import Group
from delfjax.cli.options import Maybe, Preset, Set, UsageError, Words, require_writable
from delfjax.cli.output import print, print_json

_SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Inspect:
    """List the tensors of a weight file without running any code in it.

    Example: delfjax weights inspect resnet50.pth
    """

    file: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(
            metavar="FILE",
            help=".pth (zip or legacy), .safetensors, or a TensorFlow SavedModel or checkpoint",
        ),
    ]

    def run(self) -> None:
        """Print name, type and shape of every tensor."""
        from delfjax.models.foreign.importing import read_tensors
        from delfjax.models.weights import is_described, load_weights

        tensors = read_tensors(self.file)
        if self.file.suffix == _SAFETENSORS and is_described(self.file):
            print_json(load_weights(self.file)[1], indent=1)
        for name, tensor in tensors.items():
            print(f"{name:60s} {tensor.dtype!s:8s} {tuple(tensor.shape)}")
        print(
            f"{len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} values",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class Convert:
    """Convert a PyTorch or TensorFlow checkpoint to a weight file.

    A backbone has the tensor names of torchvision or efficientnet-lite0-pytorch.

    TensorFlow's DELF or DELG becomes a model file, for `--set model=FILE`.

    So does a PyTorch network of cirtorch or deep-image-retrieval.

    Example: delfjax weights convert delf/model --pca delf/pca --out d.safetensors
    """

    file: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(
            metavar="FILE",
            help=".pth (zip or legacy), .safetensors, or a TensorFlow SavedModel or checkpoint",
        ),
    ]
    out: Annotated[
        Path,
        tyro.conf.arg(metavar="FILE", help=".safetensors file to write"),
    ]
    pca: Annotated[
        Words,
        tyro.conf.arg(
            metavar="PATH ...",
            help=(
                "folder or .datum files of the PCA of TensorFlow's DELF; --set reduction.dim=N"
                " says how many dimensions to keep"
            ),
            help_behavior_hint="(default: none)",
        ),
    ] = ()
    overrides: Set = ()

    def run(self) -> None:
        """Convert, or list every name that does not fit."""
        from delfjax.models.foreign.delf_release import import_published
        from delfjax.models.foreign.retrieval_networks import import_network, recognise_network
        from delfjax.models.foreign.tf_checkpoints import is_tf_checkpoint
        from delfjax.models.model_files import card

        require_writable("--out", self.out, (_SAFETENSORS,), inputs=[self.file, *self.pca])
        if is_tf_checkpoint(self.file):
            pca = [Path(name) for name in self.pca]
            import_published(self.out, self.file, pca=pca, overrides=self.overrides)
            print(*card(self.out), sep="\n")
            return
        if self.pca:
            raise UsageError(f"--pca: {self.file} is no TensorFlow checkpoint, whose PCA it is for")
        if self.file.suffix != _SAFETENSORS and (found := recognise_network(self.file)):
            import_network(self.out, found, overrides=self.overrides)
            print(*card(self.out), sep="\n")
            return
        self._convert_backbone()

    def _convert_backbone(self) -> None:
        from delfjax.config import DelfConfig
        from delfjax.models.delf import architecture
        from delfjax.models.foreign.importing import (
            import_efficientnet_lite,
            import_torchvision_resnet,
            import_torchvision_vgg16,
            read_tensors,
        )
        from delfjax.models.model_files import override_system
        from delfjax.models.tensors import named_shapes
        from delfjax.models.weights import save_weights

        backbone = override_system(DelfConfig(), self.overrides).backbone
        expected = named_shapes(architecture(backbone))
        convert = import_torchvision_resnet
        if backbone.name == "vgg16":
            convert = import_torchvision_vgg16
        elif backbone.name.startswith("efficientnet_lite"):
            convert = import_efficientnet_lite
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
    """Write a whole system into one model file, for `--set model=FILE`.

    Example: delfjax weights export mine.safetensors --store my.store
    """

    out: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE", help=".safetensors file to write")
    ]
    store: Annotated[
        Maybe[Path],
        tyro.conf.arg(
            metavar="DIR",
            help="feature store extracted with this very config, to fit the reduction on",
            help_behavior_hint="(default: none, no reduction in the file)",
        ),
    ] = None
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Write the file, then print its card."""
        from delfjax.config import named_weights, preset, to_dict
        from delfjax.features.export import export_system
        from delfjax.models.model_files import card, override_system

        config = override_system(preset(self.preset), self.overrides)
        weights = [file.path for file in named_weights(to_dict(config))]
        require_writable("FILE", self.out, (_SAFETENSORS,), inputs=weights)
        export_system(self.out, config, store=self.store)
        print(*card(self.out), sep="\n")


@dataclass(frozen=True)
class Record:
    """Add scores to the card of a weight file.

    Example: delfjax weights record mine.safetensors scores.json
    """

    file: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="FILE", help=".safetensors file written by delfjax"),
    ]
    scores: Annotated[
        tyro.conf.Positional[Words],
        tyro.conf.arg(
            metavar="JSON ...",
            help="files written by `delfjax evaluate --json` with this weight file",
            help_behavior_hint="(one or more)",
        ),
    ] = ()

    def run(self) -> None:
        """Write the file anew, then print its card."""
        from delfjax.models.model_files import card, record_scores

        if not self.scores:
            raise UsageError("no scores: give a file written by `delfjax evaluate --json`")
        record_scores(self.file, [Path(name) for name in self.scores])
        print(*card(self.file), sep="\n")


@dataclass(frozen=True)
class Card:
    """Show what a weight file is, what it was trained on, and how it scored.

    Example: delfjax weights card landmark_world
    """

    file: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="FILE", help="weight file, or the name of one that ships with delfjax"
        ),
    ]

    def run(self) -> None:
        """Print the card."""
        from delfjax.models.model_files import card
        from delfjax.models.weights import named_file

        print(*card(named_file(self.file)), sep="\n")


WEIGHTS = Group(
    about="Inspect, convert, export and describe weight files.",
    sections={
        "commands": {
            "inspect": Inspect,
            "convert": Convert,
            "export": Export,
            "record": Record,
            "card": Card,
        }
    },
)
