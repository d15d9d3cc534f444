"""Weight files in a config: a path says where a file is now, a digest says which weights it holds.

A field ``weights`` holds the name of known weights (``"imagenet"``), or a file as ``PATH@DIGEST``.
The digest is that of the tensors, and it alone identifies them: the same weights under another path
make the same config, and a file that was overwritten with other weights makes another.
:func:`delfjax.models.model_files.pinned` adds the digest to a field that holds a path alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".safetensors"
# Name of the fields that hold weights, in whatever section.
FIELD = "weights"
_PINNED = re.compile(rf"(.+{re.escape(SUFFIX)})@([0-9a-f]{{64}})", re.DOTALL)
# Digits of a digest that are shown to people.
_SHOWN = 12


@dataclass(frozen=True)
class WeightFile:
    """A weight file as a config names it; as text, ``PATH@DIGEST``.

    Attributes:
        path: where the file is.
        digest: SHA-256 of the tensors in hexadecimal, of those of the section's part where the file
            holds several parts; empty if unknown.
    """

    path: str
    digest: str = ""

    def __str__(self) -> str:
        """The value of a field that names the file."""
        return f"{self.path}@{self.digest}" if self.digest else self.path


def weight_file(value: object) -> WeightFile | None:
    """The file that the value of a field ``weights`` names; ``None`` for any other value."""
    if not isinstance(value, str):
        return None
    pinned = _PINNED.fullmatch(value)
    if pinned is not None:
        return WeightFile(pinned[1], pinned[2])
    return WeightFile(value) if Path(value).suffix == SUFFIX else None


def digests(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with every weight file replaced by its digest."""
    return {
        name: digests(value) if isinstance(value, Mapping) else _digest(name, value)
        for name, value in values.items()
    }


def named_weights(values: Mapping[str, Any]) -> list[WeightFile]:
    """The weight files that plain values name."""
    found: list[WeightFile] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += named_weights(value)
        elif name == FIELD and (file := weight_file(value)) is not None:
            found.append(file)
    return found


def without_digest(values: Mapping[str, Any]) -> list[str]:
    """Paths in plain values that name weight files without a digest, as earlier versions recorded
    them."""
    return [file.path for file in named_weights(values) if not file.digest]


def short_digest(digest: str) -> str:
    """The first digits of a digest, for people; a damaged file may hold anything in its place."""
    first = digest[:_SHOWN]
    return first if first.isprintable() else repr(first)


def abbreviated(value: Any) -> Any:
    """A value of a config for people: of a weight file, its name and the first digits of its
    digest."""
    file = weight_file(value)
    if file is None or not file.digest:
        return value
    return str(WeightFile(Path(file.path).name, short_digest(file.digest)))


def _digest(name: str, value: Any) -> Any:
    file = weight_file(value) if name == FIELD else None
    return value if file is None or not file.digest else file.digest
