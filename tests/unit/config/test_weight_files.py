"""A weight file counts by its digest; its path only says where it is now."""

from __future__ import annotations

from typing import Any

import pytest

from delfjax.config import (
    DelfConfig,
    WeightFile,
    abbreviated,
    config_hash,
    from_dict,
    identity,
    override,
    short_digest,
    to_dict,
    values_hash,
    weight_file,
    without_digest,
)

ONE, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


def system(field: str, path: str, digest: str = "") -> DelfConfig:
    return override(DelfConfig(), [f"{field}={WeightFile(path, digest)}"])


@pytest.mark.parametrize("field", ["backbone.weights", "scorer.weights", "reduction.weights"])
def test_weights_are_the_same_under_every_path_and_others_are_another_config(field: str) -> None:
    here, there = (system(field, path, ONE) for path in ("/a/w.safetensors", "b c@d.safetensors"))
    assert config_hash(here) == config_hash(there) == config_hash(to_dict(there))
    assert config_hash(here) != config_hash(system(field, "/a/w.safetensors", OTHER))
    assert config_hash(here) != config_hash(DelfConfig())
    # What guards a file against damage counts every character of it.
    assert values_hash(to_dict(here)) != values_hash(to_dict(there))


def test_a_path_without_a_digest_hashes_as_in_earlier_versions() -> None:
    assert config_hash({"backbone": {"weights": "bb.safetensors"}}) == "9c554a8daf"
    assert without_digest(to_dict(system("scorer.weights", "a.safetensors"))) == ["a.safetensors"]
    assert not without_digest(to_dict(system("scorer.weights", "a.safetensors", ONE)))


def test_what_a_store_records_finds_the_file_again() -> None:
    plain = to_dict(system("reduction.weights", "/models/w.safetensors", ONE))
    file = weight_file(from_dict(DelfConfig, plain).reduction.weights)
    assert file == WeightFile("/models/w.safetensors", ONE)


@pytest.mark.parametrize("value", ["imagenet", "random", "", "w.npz", f"w.npz@{ONE}", 5, None])
def test_a_value_that_names_no_weight_file_stays_as_it_is(value: Any) -> None:
    assert weight_file(value) is None and abbreviated(value) == value
    assert identity({"a": {"weights": value}}) == {"a": {"weights": value}}


def test_people_see_the_name_and_the_first_digits() -> None:
    assert abbreviated(f"/photos/tuned.safetensors@{ONE}") == "tuned.safetensors@0123456789ab"
    assert abbreviated("/photos/tuned.safetensors") == "/photos/tuned.safetensors"


def test_a_short_digest_can_be_printed_whatever_a_damaged_file_holds() -> None:
    assert short_digest(ONE) == "0123456789ab"
    assert short_digest("\x1b[2J and more") == repr("\x1b[2J and mor")
