"""Systems rank in stages; what they share is searched once; ties keep their order."""

from __future__ import annotations

import pytest

from delfjax.config import SYSTEMS, ConfigError, DelfConfig, system_assignments
from delfjax.config.systems import LOCAL
from delfjax.models.model_files import override_system


@pytest.mark.parametrize("name", [*SYSTEMS, "sift", "sift+qe", "congas+dir"])
def test_every_system_has_fields_of_a_config(name: str) -> None:
    config = override_system(DelfConfig(), [f"system={name}"])
    parts = name.split("+")
    assert (
        config.ranking.by
        == {
            (True, False): "local",
            (False, True): "global",
            (True, True): "fused",
        }[parts[0] in LOCAL, any(part not in (*LOCAL, "qe") for part in parts)]
    )
    assert config.features.method == (parts[0] if parts[0] in LOCAL else "delf")
    assert (config.expansion.links == "verified") == (parts[0] in LOCAL and "qe" in parts)
    # The last name counts, whatever came before.
    again = override_system(DelfConfig(), ["system=delf+siamac+qe", f"system={name}"])
    assert again.ranking == config.ranking and again.expansion == config.expansion


@pytest.mark.parametrize("name", ["", "qe", "delg", "dir+delf", "delf+dir+siamac", "delf+qe+dir"])
def test_an_unknown_system_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(
        ConfigError, match="is unknown.*one of delf, sift, congas, one of mac, rmac"
    ):
        system_assignments(name)


def test_the_default_config_is_delf() -> None:
    assert override_system(DelfConfig(), ["system=delf"]) == DelfConfig()
