"""Cached maps equal those of the network, and layers that two backbones share are computed once."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from delfjax import paths
from delfjax.config import TrainingConfig
from delfjax.training.batches import LabelledPhotos, TrainingError
from delfjax.training.maps import cached_maps
from delfjax.training.networks import AttentionNetwork, make_network
from tests.unit.models.random_networks import small_resnet

SHARED = 3
CONFIG = TrainingConfig(
    stage="attention", square_side=32, crop_side=32, rescales=(1.0,), hidden=8, frozen_layers=SHARED
)


@pytest.fixture
def photos(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> LabelledPhotos:
    """Three squares of noise, and a separate cache."""
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    names = [f"{number}.png" for number in range(3)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name)
    return LabelledPhotos(tmp_path, names, np.array([0, 1, 0]), 2)


def network(*, changed: int | None = None) -> AttentionNetwork:
    """The network of a small ResNet, with the weights of one layer multiplied by 1.5."""
    backbone = small_resnet()
    if changed is not None:
        layer = backbone.layers("conv4")[changed]
        nnx.update(layer, jax.tree.map(lambda value: 1.5 * value, nnx.state(layer, nnx.Param)))
    made = make_network(backbone, 2, config=CONFIG, output="conv4", rngs=nnx.Rngs(0))
    assert isinstance(made, AttentionNetwork)
    return made


def test_maps_made_in_two_steps_are_those_of_the_network(photos: LabelledPhotos) -> None:
    (found,) = cached_maps(network(), photos, config=CONFIG, progress=False).maps
    whole = network()
    nnx.Module.eval(whole)
    pixels = jnp.asarray(
        np.stack([photos.square(member, CONFIG.square_side) for member in range(3)]), jnp.float32
    )
    expected = np.asarray(nnx.jit(lambda model: model.fixed(pixels))(whole))
    # Half precision on the way and at the end.
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())


def test_backbones_with_the_same_first_layers_share_their_maps(
    photos: LabelledPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = cached_maps(network(), photos, config=CONFIG, progress=False).maps

    def square(*_: object) -> np.ndarray:
        raise LookupError("a photograph is read")

    monkeypatch.setattr(LabelledPhotos, "square", square)
    (again,) = cached_maps(network(), photos, config=CONFIG, progress=False).maps
    (later,) = cached_maps(network(changed=SHARED), photos, config=CONFIG, progress=False).maps
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later), "maps of another backbone were taken for its own"
    with pytest.raises(LookupError):
        cached_maps(network(changed=SHARED - 1), photos, config=CONFIG, progress=False)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_map_is_computed_again(photos: LabelledPhotos, damage: str) -> None:
    (found,) = cached_maps(network(), photos, config=CONFIG, progress=False).maps
    expected = np.array(found)
    files = sorted(paths.cache_root().glob("maps/*/*.npy"))
    wholes = [file.read_bytes() for file in files]
    for file, whole in zip(files, wholes, strict=True):
        file.unlink()
        file.write_bytes(
            {
                "cut": whole[:-1],
                "flipped": whole[:-40] + bytes([whole[-40] ^ 8]) + whole[-39:],
            }[damage]
        )
    (again,) = cached_maps(network(), photos, config=CONFIG, progress=False).maps
    assert np.array_equal(again, expected)
    assert [file.read_bytes() for file in files] == wholes


def test_a_photo_that_cannot_be_read_costs_its_own_map_alone(photos: LabelledPhotos) -> None:
    (whole,) = cached_maps(network(), photos, config=CONFIG, progress=False).maps
    (photos.root / "2.png").write_bytes(b"no image")
    first = cached_maps(network(), photos, config=CONFIG, progress=False)
    assert list(first.failures) == [2] and "not an image" in first.failures[2]
    np.testing.assert_array_equal(first.maps[0][:2], whole[:2])
    again = cached_maps(network(), photos, config=CONFIG, progress=False)
    assert again.failures == first.failures
    for file in paths.cache_root().glob("maps/*/failures.json"):
        file.write_text("[]")
    assert cached_maps(network(), photos, config=CONFIG, progress=False).failures == first.failures


def test_maps_of_a_photo_that_is_away_later_are_those_that_were_cached(
    photos: LabelledPhotos,
) -> None:
    hashed = photos.hashed()
    first = cached_maps(network(), hashed, config=CONFIG, progress=False)
    (photos.root / "0.png").unlink()
    again = cached_maps(network(), hashed, config=CONFIG, progress=False)
    assert again.failures == {}
    np.testing.assert_array_equal(again.maps[0], first.maps[0])
    for file in paths.cache_root().glob("maps/*/*.npy"):
        file.unlink()
    with pytest.raises(TrainingError, match=r"0\.png: cannot be read.*: put it back"):
        cached_maps(network(), hashed, config=CONFIG, progress=False)


def test_a_photo_that_is_missing_from_the_start_has_no_map(photos: LabelledPhotos) -> None:
    (photos.root / "0.png").unlink()
    failures = cached_maps(network(), photos, config=CONFIG, progress=False).failures
    assert failures == {0: "cannot be read: No such file or directory"}
