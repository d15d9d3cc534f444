"""Mined landmarks on disk: a folder with one JSON file and one file of arrays.

``landmarks.json`` lists every landmark with its centre and photos, for people and programs, and
holds the settings. ``arrays.npz`` (without pickles) holds what is needed to add photos later. Each
file is replaced in one step, and the JSON file records a digest of the arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from delfjax.config import MiningConfig, VerificationConfig, from_dict, to_dict
from delfjax.features.reduction import Reduction
from delfjax.files import read_json_object, replace_file, write_json
from delfjax.mining.mine import MinedLandmarks, MiningError
from delfjax.mining.visual_graph import VisualGraph

FORMAT_VERSION = 1
_FORMAT = "delfjax mined landmarks"
_HEADER = "landmarks.json"
_ARRAYS = "arrays.npz"
_OWN = ("positions_deg", "clusters", "landmarks", "centres_deg", "representatives")


def save_landmarks(mined: MinedLandmarks, folder: Path) -> None:
    """Write a result into a folder; an earlier result there is replaced.

    Raises:
        MiningError: the folder holds something else.
    """
    require_replaceable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(mined, name) for name in _OWN}
    arrays |= {
        field.name: getattr(mined.graph, field.name) for field in dataclasses.fields(VisualGraph)
    }
    arrays |= {"mean": mined.reduction.mean, "projection": mined.reduction.projection}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    header = {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        "arrays": hashlib.sha256(content.getvalue()).hexdigest(),
        "config": to_dict(mined.config),
        "verification": to_dict(mined.verification),
        "reduction": {
            "explained": mined.reduction.explained,
            "extraction_hash": mined.reduction.extraction_hash,
        },
        "landmarks": [_listed(mined, number) for number in range(len(mined.centres_deg))],
        "names": list(mined.names),
    }
    replace_file(folder / _ARRAYS, content.getbuffer())
    write_json(folder / _HEADER, header, indent=1, ensure_ascii=False)


def open_landmarks(folder: Path) -> MinedLandmarks:
    """Read a result.

    Raises:
        MiningError: the folder holds no result, or one that is damaged or of another version.
    """
    file = folder / _HEADER
    if not file.is_file():
        raise MiningError(
            f"{folder}: no mined landmarks here ({_HEADER} is missing); "
            "make them with `delfjax mine`"
        )
    header = read_json_object(file, error=MiningError)
    try:
        if header["format"] != _FORMAT or header["version"] != FORMAT_VERSION:
            raise MiningError(
                f"{file}: version {header['version']!r}, "
                f"but this delfjax reads version {FORMAT_VERSION}; mine anew"
            )
        content = (folder / _ARRAYS).read_bytes()
        if hashlib.sha256(content).hexdigest() != header["arrays"]:
            raise MiningError(
                f"{folder / _ARRAYS}: damaged (its digest is not the recorded one); mine anew"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
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
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise MiningError(f"{folder}: damaged mined landmarks ({error!r:.80}); mine anew") from None


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything other than an earlier result.

    A folder that is empty or does not exist yet is accepted.

    Raises:
        MiningError: the folder holds something else, or is not a folder.
    """
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / _HEADER).is_file()):
        return
    if folder.exists():
        raise MiningError(
            f"{folder}: exists and holds no mined landmarks, so nothing is written over it; "
            "name another folder"
        )


def _listed(mined: MinedLandmarks, number: int) -> dict[str, Any]:
    latitude, longitude = (float(part) for part in mined.centres_deg[number])
    return {
        "latitude": latitude,
        "longitude": longitude,
        "representative": mined.names[mined.representatives[number]],
        "photos": [mined.names[photo] for photo in mined.photos(number)],
    }
