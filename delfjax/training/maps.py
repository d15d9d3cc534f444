"""Cached feature maps: the frozen layers of a network run once per photo, which brings training on
a CPU down to minutes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float16, UInt8
from tqdm.auto import tqdm

from delfjax import paths, programs
from delfjax.config import TrainingConfig, config_hash
from delfjax.datasets.images import ImageError
from delfjax.device import processors
from delfjax.files import replacing
from delfjax.models.delf import Backbone
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import tensor_digest
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.networks import Network

# To be increased when the same photos and layers give other maps.
_VERSION = 3
# Photos per compiled call.
_TOGETHER = 8
# Bytes of a file that are read at a time.
_BLOCK = 1 << 22


def cached_maps(
    network: Network, photos: LabelledPhotos, *, config: TrainingConfig, progress: bool = True
) -> list[Float16[np.ndarray, "n _ _ c"]]:
    """Feature maps of the whole central square of every photo, one memory-mapped array per rescale.

    If ``config.frozen_layers`` is less than the number of fixed layers, the maps after those layers
    are cached as well and the final maps are computed from them. All backbones that share the
    frozen layers then share that work.

    Args:
        network: the network that learns from the maps.
        photos: the photos.
        config: settings of the stage.
        progress: show progress bars.

    Raises:
        TrainingError: a photo cannot be read.
        OSError: a map cannot be written, for instance because the disk is full; no partial file is
            left.
    """
    depth = len(network.fixed_layers)
    ends = (config.frozen_layers, depth) if 0 < config.frozen_layers < depth else (depth,)
    content = _content(photos.hashed(progress=progress))
    files = _kept(network, photos, ends, content=content, config=config, progress=progress)
    return [np.load(file, mmap_mode="r") for file in files]


def _kept(
    network: Network,
    photos: LabelledPhotos,
    ends: tuple[int, ...],
    *,
    content: str,
    config: TrainingConfig,
    progress: bool,
) -> list[Path]:
    """Files of the maps after the last layer of ``ends``.

    Missing files are computed from the maps after the layer before it in ``ends`` or, if there is
    none, from the photos.
    """
    folder = paths.cache_root() / "maps" / _identity(network, content, ends, config)
    files = [folder / f"rescale-{rescale:g}.npy" for rescale in config.rescales]
    missing = [number for number, file in enumerate(files) if not _is_whole(file)]
    if not missing:
        return files
    if len(ends) > 1:
        before = _kept(
            network, photos, ends[:-1], content=content, config=config, progress=progress
        )
        inputs = [np.load(file, mmap_mode="r") for file in before]
    else:
        inputs = [_squares(photos, config.square_side, progress=progress)] * len(files)
    folder.mkdir(parents=True, exist_ok=True)
    layers = _Layers(network.output, *(0, *ends)[-2:])
    graph, state = nnx.split(fold_batch_norm(network.backbone))
    for number in tqdm(missing, desc="maps", unit="rescale", disable=not progress):
        side = max(1, round(config.square_side * config.rescales[number]))
        _write(
            files[number],
            np.concatenate(list(_maps(graph, state, inputs[number], layers=layers, side=side))),
        )
    return files


class _Layers(NamedTuple):
    """Layers ``start`` to ``end`` of the layers up to ``output``."""

    output: str
    start: int
    end: int


def _maps(
    graph: nnx.GraphDef[Backbone],
    state: nnx.State[Any, Any],
    inputs: np.ndarray,
    *,
    layers: _Layers,
    side: int,
) -> Iterator[np.ndarray]:
    """Maps after ``layers``, computed from squares resized to ``side`` if ``layers`` begin with the
    first, otherwise from the maps before them."""

    def applied(state: nnx.State[Any, Any], values: jax.Array) -> jax.Array:
        backbone, values = nnx.merge(graph, state), values.astype(jnp.float32)
        if layers.start == 0:
            size = (len(values), side, side, 3)
            values = backbone.normalise(jax.image.resize(values, size, "bilinear", antialias=True))
        made = backbone(
            FeatureMap.full(values), output=layers.output, layers=slice(layers.start, layers.end)
        )
        return jnp.asarray(made.values).astype(jnp.float16)

    settings = {
        "program": "maps",
        "side": side,
        "layers": layers,
        "backbone": programs.description(graph),
    }
    compiled = programs.StoredProgram(applied, settings=settings)
    for start in range(0, len(inputs), _TOGETHER):
        part = inputs[start : start + _TOGETHER]
        padded = np.concatenate([part, np.repeat(part[-1:], _TOGETHER - len(part), axis=0)])
        yield np.asarray(compiled(state, padded))[: len(part)]


def _squares(
    photos: LabelledPhotos, side: int, *, progress: bool
) -> UInt8[np.ndarray, "n side side 3"]:
    def read(member: int) -> np.ndarray:
        try:
            return photos.square(member, side)
        except ImageError as error:
            raise TrainingError(
                f"{error}; remove it from the list, or train without cached_maps"
            ) from None

    count = len(photos.paths)
    with ThreadPoolExecutor(min(8, len(processors()))) as pool:
        return np.stack(
            list(
                tqdm(
                    pool.map(read, range(count)),
                    total=count,
                    desc="read",
                    unit="image",
                    disable=not progress,
                )
            )
        )


def _content(photos: LabelledPhotos) -> str:
    """Digest of the photos' files."""
    content = hashlib.sha256()
    for digest in photos.contents:
        content.update(digest.encode())
    return content.hexdigest()


def _identity(network: Network, content: str, ends: tuple[int, ...], config: TrainingConfig) -> str:
    """Hash of everything that determines the maps after the last layer of ``ends``.

    That is: the layers with their weights and geometry, the photos and their size, and the layers
    after which intermediate maps were rounded.
    """
    layers = network.fixed_layers[: ends[-1]]
    weights = {
        f"{depth}.{name}": value
        for depth, layer in enumerate(layers)
        for name, value in named_tensors(layer).items()
    }
    return config_hash(
        {
            "version": _VERSION,
            "backbone": type(network.backbone).__name__,
            "layers": list(ends),
            "windows": [vars(window) for window in network.backbone.windows("conv4")],
            "weights": tensor_digest(weights),
            "photos": content,
            "square_side": config.square_side,
        }
    )


def _write(file: Path, values: np.ndarray) -> None:
    """Write the array, and after it the digest of all bytes before, which NumPy ignores."""
    with replacing(file) as out:
        np.save(out, values, allow_pickle=False)
        out.flush()
        with Path(out.name).open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").digest()
        out.write(digest)


def _is_whole(file: Path) -> bool:
    """Whether ``file`` can be read and is as it was written; if not, it is computed again."""
    digest = hashlib.sha256()
    size = digest.digest_size
    try:
        with file.open("rb") as stream:
            rest = os.fstat(stream.fileno()).st_size - size
            while rest > 0 and (block := stream.read(min(rest, _BLOCK))):
                digest.update(block)
                rest -= len(block)
            return stream.read() == digest.digest()
    except OSError:
        return False
