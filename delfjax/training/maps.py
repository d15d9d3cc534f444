"""Feature maps that the frozen part of a network makes once, kept in the cache: training on a CPU becomes a matter of minutes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float16, UInt8
from tqdm.auto import tqdm

from delfjax import paths, programs
from delfjax.config import config_hash
from delfjax.datasets.images import ImageError, hash_file
from delfjax.models.layers import fold_batch_norm
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import tensor_digest
from delfjax.training.config import TrainingConfig
from delfjax.training.networks import Network
from delfjax.training.photos import LabelledPhotos, TrainingError

# Raised whenever the same photographs and layers give other maps.
_VERSION = 2
# Photographs of one compiled call.
_TOGETHER = 8


def cached_maps(
    network: Network, photos: LabelledPhotos, *, config: TrainingConfig, progress: bool = True
) -> list[Float16[np.ndarray, "n _ _ c"]]:
    """Maps of the whole central square of every photograph, one array for each of the rescales; memory-mapped from the cache.

    Raises:
        TrainingError: a photograph cannot be read.
        OSError: the disk is full; no part of a map is left.
    """
    folder = paths.cache_root() / "maps" / _identity(network, photos, config)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(len(config.rescales)) if not _file(folder, config, number).is_file()]
    if missing:
        squares = _squares(photos, config.square_side, progress=progress)
        graph, state = nnx.split(fold_batch_norm(network))
        for number in tqdm(missing, desc="maps", unit="rescale", disable=not progress):
            side = max(1, round(config.square_side * config.rescales[number]))
            made = np.concatenate(list(_maps(graph, state, squares, side)))
            _write(_file(folder, config, number), made)
    return [np.load(_file(folder, config, number), mmap_mode="r") for number in range(len(config.rescales))]


def _maps(graph: nnx.GraphDef[Network], state: nnx.State[Any, Any], squares: np.ndarray, side: int) -> Iterator[np.ndarray]:
    def fixed(state: nnx.State[Any, Any], pixels: jax.Array) -> tuple[jax.Array]:
        size = (len(pixels), side, side, 3)
        scaled = jax.image.resize(pixels.astype(jnp.float32), size, "bilinear", antialias=True)
        return (nnx.merge(graph, state).fixed(scaled).astype(jnp.float16),)

    settings = {"program": "maps", "side": side, "network": programs.description(graph)}
    compiled = programs.StoredProgram(fixed, settings=settings)
    for start in range(0, len(squares), _TOGETHER):
        part = squares[start : start + _TOGETHER]
        padded = np.concatenate([part, np.repeat(part[-1:], _TOGETHER - len(part), axis=0)])
        yield np.asarray(compiled(state, padded)[0])[: len(part)]


def _squares(photos: LabelledPhotos, side: int, *, progress: bool) -> UInt8[np.ndarray, "n side side 3"]:
    def read(member: int) -> np.ndarray:
        try:
            return photos.square(member, side)
        except ImageError as error:
            raise TrainingError(f"{error}; remove it from the list, or train without cached_maps") from None

    count = len(photos.paths)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return np.stack(list(tqdm(pool.map(read, range(count)), total=count, desc="read", unit="image", disable=not progress)))


def _identity(network: Network, photos: LabelledPhotos, config: TrainingConfig) -> str:
    """What decides every map: the layers, their weights and their geometry, the photographs, and how large they are."""
    content = hashlib.sha256()
    for path in photos.paths:
        content.update(hash_file(photos.root / path).encode())
    layers = network.fixed_layers
    weights = {f"{depth}.{name}": value for depth, layer in enumerate(layers) for name, value in named_tensors(layer).items()}
    return config_hash(
        {
            "version": _VERSION,
            "backbone": type(network.backbone).__name__,
            "layers": len(layers),
            "windows": [vars(window) for window in network.backbone.windows("conv4")],
            "weights": tensor_digest(weights),
            "photos": content.hexdigest(),
            "square_side": config.square_side,
        }
    )


def _file(folder: Path, config: TrainingConfig, number: int) -> Path:
    return folder / f"rescale-{config.rescales[number]:g}.npy"


def _write(file: Path, values: np.ndarray) -> None:
    partial = file.with_suffix(f".partial{os.getpid()}")
    try:
        with partial.open("wb") as out:
            np.save(out, values, allow_pickle=False)
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
