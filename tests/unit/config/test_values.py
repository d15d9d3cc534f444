"""The hash of a config means the same everywhere, and a dictionary is read strictly."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from delfjax.config import (
    PRESETS,
    ConfigError,
    DelfConfig,
    config_hash,
    from_dict,
    override,
    to_dict,
)
from delfjax.files import flatten


def test_the_hash_is_the_same_in_another_process() -> None:
    script = (
        "from delfjax.config import PRESETS, config_hash; print(*map(config_hash,"
        " PRESETS.values()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert run.stdout.split() == [config_hash(config) for config in PRESETS.values()]


def test_the_hash_does_not_depend_on_the_order_of_fields() -> None:
    def backwards(values: Any) -> Any:
        return (
            {k: backwards(values[k]) for k in reversed(values)}
            if isinstance(values, dict)
            else values
        )

    plain = to_dict(DelfConfig())
    assert list(backwards(plain)) != list(plain)
    assert config_hash(backwards(plain)) == config_hash(plain)


@pytest.mark.parametrize("method", ["delf", "sift", "congas"])
def test_every_field_changes_the_hash(method: str) -> None:
    """Every field but those of the methods that are not used."""
    plain = to_dict(override(DelfConfig(), [f"features.method={method}"]))
    seen = {config_hash(plain)}
    others = {"sift", "congas"} - {method}
    fields = [path for path in flatten(plain) if path.partition(".")[0] not in others]
    for path in fields:
        changed = json.loads(json.dumps(plain))
        *rooms, leaf = path.split(".")
        place = changed
        for room in rooms:
            place = place[room]
        place[leaf] = "something else"
        seen.add(config_hash(changed))
    assert len(seen) == 1 + len(fields)


@pytest.mark.parametrize(
    "values", [{"feature": {}}, {"features": {"max_sides": 3}}, {"seed": 0, "speed": 1}]
)
def test_unknown_fields_of_a_dictionary_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="config field '(feature|features.max_sides|speed)'"):
        from_dict(DelfConfig, values)


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DelfConfig().features.max_side = 3  # type: ignore[misc]  # that it is an error is the claim
