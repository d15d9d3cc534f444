"""The identity of a config: what its hash counts, and what a comparison of two configs compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delfjax.config.weight_files import digests

# The method whose configs have the identity that they had when there was no other.
DELF = "delf"
# The others, each with a section of its own.
METHODS = ("sift", "congas")
# The field that names the method.
_FEATURES, METHOD = "features", "method"


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a config that count.

    A weight file counts by its digest, not by its path. Sections of methods that make no features
    of this config do not count.
    """
    features = values.get(_FEATURES)
    method = features.get(METHOD, DELF) if isinstance(features, Mapping) else DELF
    kept = {name: value for name, value in values.items() if name not in {*METHODS} - {method}}
    if method == DELF and isinstance(features, Mapping):
        kept[_FEATURES] = {name: value for name, value in features.items() if name != METHOD}
    return digests(kept)
