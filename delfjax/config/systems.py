"""Retrieval systems by name: ``delf``, ``sift``, ``dir``, ``siamac``, …, joined by ``+``, with
``+qe`` last.

A name stands for fields of a config: which local features and which global descriptors the
database is ranked by, and whether queries are expanded; ``system=NAME`` among overrides sets them
all. Networks and weights are fields of their own, so every system runs on any backbone and any
trained file.
"""

from __future__ import annotations

import json

from delfjax.config.identities import DELF
from delfjax.config.overrides import Assignment
from delfjax.config.system import DelfConfig
from delfjax.config.values import ConfigError, nearest, to_dict
from delfjax.errors import shown
from delfjax.files import flatten

EXPANSION = "qe"
# Local features → the fields that suit them. Features that turn with the image may match photos
# held in any way, and points are placed more precisely than the cells of a feature map. Source of
# the numbers: chosen on the training landmarks of the rendered world. The mAP of SIFT is 0.302 with
# 40 dimensions, 0.306 with its own 128, and then 0.321, 0.315, 0.315 and 0.306 with tolerances of
# 3, 5, 8 and 12 px; that of CONGAS 0.397, 0.402, 0.403 and 0.394.
_LOCAL: dict[str, dict[str, object]] = {
    DELF: {},
    "sift": {
        "verification.max_rotation_deg": 180.0,
        "verification.threshold_px": 5.0,
        "reduction.dim": 128,
        "reduction.whiten": False,
        # The paper's 10 do not divide 128.
        "index.pq_subvectors": 16,
    },
    "congas": {"verification.max_rotation_deg": 180.0, "verification.threshold_px": 5.0},
}
LOCAL = tuple(_LOCAL)
# The same fields for features that none of them is about.
_USUAL = {
    path: flatten(to_dict(DelfConfig()))[path]
    for path in dict.fromkeys(path for fields in _LOCAL.values() for path in fields)
}
# Global descriptor → the fields of `global_features` that make it.
_POOLINGS: dict[str, dict[str, object]] = {
    "mac": {"pooling": "mac"},
    "rmac": {"pooling": "rmac", "rmac_levels": 3, "rmac_whole_image": False},
    "gem": {"pooling": "gem"},
    # Source: Radenović et al. 2016, whose R-MAC adds the whole image as a region.
    "siamac": {"pooling": "rmac", "rmac_levels": 3, "rmac_whole_image": True},
    # Source: Gordo et al. 2017, code.
    "dir": {"pooling": "rmac", "rmac_levels": 2, "rmac_whole_image": False},
}
GLOBAL = tuple(_POOLINGS)
# What ranks → how `+qe` expands. Alone, a global descriptor cannot tell whether its first answers
# are right, and many neighbours drown the query where a landmark has few photos; one is the setting
# of DIR's code. Beside local features, the links between verified images say more than their global
# descriptors: averaging those lowers mAP across night and season.
_EXPANSIONS: dict[str, dict[str, object]] = {
    "local": {"queries": "none", "neighbours": 10, "links": "verified"},
    "global": {"queries": "average", "neighbours": 1, "links": "none"},
    "fused": {"queries": "none", "neighbours": 10, "links": "verified"},
}
# The systems that `--system all` stands for: the rows of the poster's table, and what they consist
# of.
SYSTEMS = (
    DELF,
    "delf+qe",
    "mac",
    "rmac",
    "gem",
    "siamac",
    "siamac+qe",
    "dir",
    "dir+qe",
    "delf+dir",
    "delf+dir+qe",
    "congas",
)


def system_assignments(name: str, *, method: str = DELF) -> list[Assignment]:
    """The fields that make a config the system called ``name``.

    What suits the local features is set where they are others than before: a config that has them
    already keeps what was chosen for it.

    Args:
        name: one of :data:`LOCAL`, or one of :data:`GLOBAL`, or one of each; ``+qe`` at the end
            expands queries: those of global descriptors by their neighbours, those of local
            features along verified links.
        method: what makes the local features of the config.

    Raises:
        ConfigError: there is no such system; the message names the nearest.
    """
    parts = name.split("+")
    expanded = parts[-1] == EXPANSION
    named = parts[:-1] if expanded else parts
    local = [name for name in named[:1] if name in _LOCAL]
    pooled = named[len(local) :]
    if len(pooled) > 1 or not (local or pooled) or any(part not in _POOLINGS for part in pooled):
        hint = nearest(name, (*SYSTEMS, *LOCAL)) or ";"
        raise ConfigError(
            f"system {shown(name)} is unknown{hint} a system is one of"
            f" {', '.join(LOCAL)}, one of {', '.join(GLOBAL)}, or both, as in delf+dir, and"
            f" +{EXPANSION} at the end expands queries"
        )
    by = "local"
    if pooled:
        by = "fused" if local else "global"
    fields: dict[str, object] = {
        f"global_features.{field}": value
        for part in pooled
        for field, value in _POOLINGS[part].items()
    }
    for part in local:
        fields["features.method"] = part
        if part != method:
            fields |= {**_USUAL, **_LOCAL[part]}
    fields["ranking.by"] = by
    fields |= {f"expansion.{field}": value for field, value in _EXPANSIONS[by].items()}
    if not expanded:
        fields |= {"expansion.queries": "none", "expansion.links": "none"}
    return [Assignment(path, json.dumps(value)) for path, value in fields.items()]


def uses_local(config: DelfConfig) -> bool:
    """Whether a system ranks by local features."""
    return config.ranking.by != "global"


def uses_global(config: DelfConfig) -> bool:
    """Whether a system ranks by global descriptors, or takes candidates from them."""
    return config.ranking.by != "local" or config.ranking.candidates != "local"
