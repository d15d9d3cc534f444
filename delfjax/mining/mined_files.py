"""Mined landmarks on disk: a folder with one JSON file and one file of arrays.

``landmarks.json`` lists every landmark with its centre and photos, for people and programs, and
holds the settings. ``arrays-….npz`` (without pickles) holds what is needed to add photos later.
Both are replaced in one step (:mod:`delfjax.filesets`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from delfjax.config import ConfigError, MiningConfig, VerificationConfig, from_dict, to_dict
from delfjax.errors import shown
from delfjax.features.reduction import Reduction
from delfjax.files import read_json_object
from delfjax.filesets import FileSet
from delfjax.mining.mine import MinedLandmarks, MiningError
from delfjax.mining.visual_graph import VisualGraph

# Version 1 lacks the digest in the name of the arrays, and is read as well.
FORMAT_VERSION = 2
_FORMAT = "delfjax mined landmarks"
_HEADER = "landmarks.json"
_ARRAYS = "arrays.npz"
_FILES = FileSet(
    what="a folder of mined landmarks", header=_HEADER, parts=(_ARRAYS,), error=MiningError
)
_OWN = ("positions_deg", "clusters", "landmarks", "centres_deg", "representatives")


def save_landmarks(mined: MinedLandmarks, folder: Path) -> None:
    """Write a result into a folder; an earlier result there is replaced in one step.

    Raises:
        MiningError: the folder holds something else.
        OSError: a file cannot be written; the error names it, and the earlier result stays.
    """
    arrays = {name: getattr(mined, name) for name in _OWN}
    arrays |= {
        field.name: getattr(mined.graph, field.name) for field in dataclasses.fields(VisualGraph)
    }
    arrays |= {"mean": mined.reduction.mean, "projection": mined.reduction.projection}
    header = {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        "config": to_dict(mined.config),
        "verification": to_dict(mined.verification),
        "reduction": {
            "explained": mined.reduction.explained,
            "extraction_hash": mined.reduction.extraction_hash,
        },
        "landmarks": [_listed(mined, number) for number in range(len(mined.centres_deg))],
        "names": list(mined.names),
    }
    _FILES.write(
        folder,
        {_ARRAYS: lambda out: np.savez(out, allow_pickle=False, **arrays)},
        lambda files: {**header, "files": files},
    )


def open_landmarks(folder: Path) -> MinedLandmarks:
    """Read a result.

    Raises:
        MiningError: the folder holds no result, or one that is damaged or of another version.
    """
    return _FILES.read(folder, lambda: _open(folder))


def _open(folder: Path) -> MinedLandmarks:
    file = folder / _HEADER
    if not file.is_file():
        raise MiningError(
            f"{folder}: no mined landmarks here ({_HEADER} is missing); "
            "make them with `delfjax mine`"
        )
    header = read_json_object(file, error=MiningError)
    if header.get("format") != _FORMAT or header.get("version") not in (1, FORMAT_VERSION):
        raise MiningError(
            f"{file}: format {shown(header.get('format'))}, version"
            f" {shown(header.get('version'))}, but this delfjax reads"
            f" {_FORMAT!r}, version 1 or {FORMAT_VERSION}; mine anew"
        )
    try:
        arrays = _arrays(folder, header)
        graph = VisualGraph(*(arrays[field.name] for field in dataclasses.fields(VisualGraph)))
        known = header["reduction"]
        return MinedLandmarks(
            config=from_dict(MiningConfig, header["config"]),
            verification=from_dict(VerificationConfig, header["verification"]),
            reduction=Reduction(
                arrays["mean"], arrays["projection"], known["explained"], known["extraction_hash"]
            ),
            names=tuple(header["names"]),
            graph=graph,
            **{name: arrays[name] for name in _OWN},
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, ConfigError) as error:
        raise MiningError(f"{folder}: damaged mined landmarks ({error!r:.80}); mine anew") from None


def _arrays(folder: Path, header: dict[str, Any]) -> dict[str, np.ndarray]:
    if header["version"] == FORMAT_VERSION:
        with (
            _FILES.opened(folder, header["files"]) as streams,
            np.load(streams[_ARRAYS], allow_pickle=False) as stored,
        ):
            return {name: stored[name] for name in stored.files}
    content = (folder / _ARRAYS).read_bytes()
    if hashlib.sha256(content).hexdigest() != header["arrays"]:
        raise MiningError(
            f"{folder / _ARRAYS}: damaged (its digest is not the recorded one); mine anew"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything other than an earlier result.

    A folder that is empty or does not exist yet is accepted.

    Raises:
        MiningError: the folder holds something else, or cannot be written.
    """
    _FILES.require_replaceable(folder)


@contextmanager
def adding(folder: Path, *, on_wait: Callable[[str], object]) -> Iterator[None]:
    """Let no other process mine into a folder until the block ends; see
    :meth:`delfjax.filesets.FileSet.revising`.

    Raises:
        OSError: the lock cannot be created.
    """
    with _FILES.revising(folder, on_wait=on_wait):
        yield


def _listed(mined: MinedLandmarks, number: int) -> dict[str, Any]:
    latitude, longitude = (float(part) for part in mined.centres_deg[number])
    return {
        "latitude": latitude,
        "longitude": longitude,
        "representative": mined.names[mined.representatives[number]],
        "photos": [mined.names[photo] for photo in mined.photos(number)],
    }
