"""Cached feature maps: the frozen layers of a network run once per photo, which brings training on
a CPU down to minutes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float16, Int, UInt8
from tqdm.auto import tqdm

from delfjax import paths, programs
from delfjax.config import TrainingConfig, config_hash
from delfjax.datasets.images import ImageError
from delfjax.device import processors
from delfjax.files import replacing, write_json
from delfjax.models.delf import Backbone
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import tensor_digest
from delfjax.records import read_record
from delfjax.training.batches import LabelledPhotos, PaddedPhotos, TrainingError
from delfjax.training.networks import GlobalNetwork, Network

# To be increased when the same photos and layers give other maps.
_VERSION = 3
# Names the photos that could not be read.
_FAILURES = "failures.json"
# Photos per compiled call.
_TOGETHER = 8
# Bytes of a file that are read at a time.
_BLOCK = 1 << 22


class CachedMaps(NamedTuple):
    """Feature maps of photos.

    Attributes:
        maps: one memory-mapped array per rescale.
        failures: photo → reason, for photos that cannot be read; their maps mean nothing.
    """

    maps: list[Float16[np.ndarray, "n _ _ c"]]
    failures: dict[int, str]


def cached_maps(
    network: Network, photos: LabelledPhotos, *, config: TrainingConfig, progress: bool = True
) -> CachedMaps:
    """Feature maps of the whole central square of every photo.

    If ``config.frozen_layers`` is less than the number of fixed layers, the maps after those layers
    are cached as well and the final maps are computed from them. All backbones that share the
    frozen layers then share that work.

    Args:
        network: the network that learns from the maps.
        photos: the photos.
        config: settings of the stage.
        progress: show progress bars.

    Raises:
        TrainingError: too many photos cannot be read, or a photo cannot be read that could be
            before.
        OSError: a map cannot be written, for instance because the disk is full; no partial file is
            left.
    """
    depth = len(network.fixed_layers)
    ends = (config.frozen_layers, depth) if 0 < config.frozen_layers < depth else (depth,)
    photos = photos.hashed(progress=progress)
    kept = _kept(network, photos, ends, content=_content(photos), config=config, progress=progress)
    return CachedMaps([np.load(file, mmap_mode="r") for file in kept.files], kept.failures)


class WholeMaps(NamedTuple):
    """Feature maps of whole photos on canvases of one size.

    Attributes:
        maps: a memory-mapped array, each photo in the upper left corner of its canvas.
        extent: rows and columns of each photo's map.
        failures: photo → reason, for photos that cannot be read; their maps mean nothing.
    """

    maps: Float16[np.ndarray, "n h w c"]
    extent: Int[np.ndarray, "n 2"]
    failures: dict[int, str]


def cached_whole_maps(
    network: GlobalNetwork,
    photos: LabelledPhotos,
    *,
    config: TrainingConfig,
    progress: bool = True,
) -> WholeMaps:
    """Feature maps, after the frozen layers, of every photo as a whole.

    Args:
        network: the network that learns from the maps.
        photos: the photos, reduced to a longer side of ``config.square_side`` and padded to a
            square.
        config: settings of the stage.
        progress: show progress bars.

    Raises:
        TrainingError: too many photos cannot be read, or a photo cannot be read that could be
            before.
        OSError: the maps cannot be written, for instance because the disk is full; no partial file
            is left.
    """
    photos = photos.hashed(progress=progress)
    ends = (len(network.fixed_layers),)
    whole = _identity(network, _content(photos), ends, config, whole=True)
    folder = paths.cache_root() / "maps" / whole
    files = [folder / "whole.npy", folder / "extent.npy"]
    failures = _read_failures(folder / _FAILURES, len(photos.paths))
    if failures is None or not all(_is_whole(file) for file in files):
        read, failures = read_photos(photos, config.square_side, progress=progress)
        folder.mkdir(parents=True, exist_ok=True)
        for file, values in zip(files, _mapped(network, read, progress=progress), strict=True):
            _write(file, values)
        write_json(folder / _FAILURES, {str(member): why for member, why in failures.items()})
    maps, extent = (np.load(file, mmap_mode="r") for file in files)
    return WholeMaps(maps, np.array(extent), failures)


def read_photos(
    photos: LabelledPhotos, side: int, *, progress: bool
) -> tuple[PaddedPhotos, dict[int, str]]:
    """All photos, reduced to ``side`` and padded to a square, and those that cannot be read, whose
    canvases are black.

    Raises:
        TrainingError: see :func:`cached_whole_maps`.
    """
    extent = np.zeros((len(photos.paths), 2), np.int32)

    def read(member: int) -> np.ndarray:
        pixels = photos.whole(member, side)
        extent[member] = pixels.shape[:2]
        return padded(pixels, side)

    values, failures = _each_photo(
        photos, read, empty=np.zeros((side, side, 3), np.uint8), progress=progress
    )
    extent[list(failures)] = 1
    return PaddedPhotos(values, extent), failures


def padded(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """A photo in the upper left corner of a black square."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)))


def _mapped(
    network: GlobalNetwork, photos: PaddedPhotos, *, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Maps and their extents."""
    graph, state = nnx.split(fold_batch_norm(network))

    def applied(state: nnx.State[Any, Any], values: jax.Array, extent: jax.Array) -> PaddedPhotos:
        photos = PaddedPhotos(values.astype(jnp.float32), extent)
        found = nnx.merge(graph, state).fixed(photos)
        return PaddedPhotos(found.values.astype(jnp.float16), found.extent)

    compiled = jax.jit(applied)
    count = len(photos.values)
    parts = []
    with tqdm(total=count, desc="maps", unit="image", disable=not progress) as bar:
        for start in range(0, count, _TOGETHER):
            rows = np.arange(start, start + _TOGETHER).clip(max=count - 1)
            found = compiled(state, photos.values[rows], photos.extent[rows])
            kept = min(_TOGETHER, count - start)
            parts.append(tuple(np.asarray(each)[:kept] for each in found))
            bar.update(kept)
    values, extent = (np.concatenate(column) for column in zip(*parts, strict=True))
    return values, extent


class _Kept(NamedTuple):
    """The files of maps, and the photos that could not be read when they were computed."""

    files: list[Path]
    failures: dict[int, str]


def _kept(
    network: Network,
    photos: LabelledPhotos,
    ends: tuple[int, ...],
    *,
    content: str,
    config: TrainingConfig,
    progress: bool,
) -> _Kept:
    """Files of the maps after the last layer of ``ends``.

    Missing files are computed from the maps after the layer before it in ``ends`` or, if there is
    none, from the photos.
    """
    folder = paths.cache_root() / "maps" / _identity(network, content, ends, config)
    files = [folder / f"rescale-{rescale:g}.npy" for rescale in config.rescales]
    failures = _read_failures(folder / _FAILURES, len(photos.paths))
    missing = [
        number for number, file in enumerate(files) if failures is None or not _is_whole(file)
    ]
    if failures is not None and not missing:
        return _Kept(files, failures)
    if len(ends) > 1:
        before = _kept(
            network, photos, ends[:-1], content=content, config=config, progress=progress
        )
        inputs = [np.load(file, mmap_mode="r") for file in before.files]
        failures = before.failures
    else:
        squares, failures = _squares(photos, config.square_side, progress=progress)
        inputs = [squares] * len(files)
    folder.mkdir(parents=True, exist_ok=True)
    layers = _Layers(network.output, *(0, *ends)[-2:])
    graph, state = nnx.split(fold_batch_norm(network.backbone))
    for number in tqdm(missing, desc="maps", unit="rescale", disable=not progress):
        side = max(1, round(config.square_side * config.rescales[number]))
        _write(
            files[number],
            np.concatenate(list(_maps(graph, state, inputs[number], layers=layers, side=side))),
        )
    # Without this file the maps are computed again, so it is written last.
    write_json(folder / _FAILURES, {str(member): why for member, why in failures.items()})
    return _Kept(files, failures)


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
) -> tuple[UInt8[np.ndarray, "n side side 3"], dict[int, str]]:
    """The squares of all photos, and the photos that cannot be read, whose squares are black."""
    empty = np.zeros((side, side, 3), np.uint8)
    return _each_photo(
        photos, lambda member: photos.square(member, side), empty=empty, progress=progress
    )


def _each_photo(
    photos: LabelledPhotos,
    function: Callable[[int], np.ndarray],
    *,
    empty: np.ndarray,
    progress: bool,
) -> tuple[np.ndarray, dict[int, str]]:
    """What ``function`` makes of each photo, and the photos that cannot be read, for which
    ``empty`` stands."""
    failures: dict[int, str] = {}

    def read(member: int) -> np.ndarray:
        try:
            return function(member)
        except ImageError as error:
            # The maps are known by the contents of the files, so what is missing now is not
            # recorded as a failure of a content that can be read.
            if error.content_hash != photos.contents[member]:
                raise TrainingError(
                    f"{error}; it could be read when training began: put it back"
                ) from None
            failures[member] = error.reason
            photos.require_enough(failures)
            return empty

    count = len(photos.paths)
    with ThreadPoolExecutor(min(8, len(processors()))) as pool:
        found = list(
            tqdm(
                pool.map(read, range(count)),
                total=count,
                desc="read",
                unit="image",
                disable=not progress,
            )
        )
    return np.stack(found), dict(sorted(failures.items()))


def _read_failures(file: Path, count: int) -> dict[int, str] | None:
    """Photo → reason, as recorded beside maps; ``None`` if there is no intact record."""
    try:
        held = read_record(file, dict[str, str], error=TrainingError)
        failures = {int(member): why for member, why in held.items()}
    except (TrainingError, ValueError):
        return None
    return failures if all(0 <= member < count for member in failures) else None


def _content(photos: LabelledPhotos) -> str:
    """Digest of the photos' files."""
    content = hashlib.sha256()
    for digest in photos.contents:
        content.update(digest.encode())
    return content.hexdigest()


def _identity(
    network: Network,
    content: str,
    ends: tuple[int, ...],
    config: TrainingConfig,
    *,
    whole: bool = False,
) -> str:
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
            **({"whole": True} if whole else {}),
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
