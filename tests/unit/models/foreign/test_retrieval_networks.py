"""Published networks for global descriptors become model files, complete or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax.cli import main
from delfjax.config import BackboneConfig, DelfConfig
from delfjax.models import tensors
from delfjax.models.delf import architecture, describe_backbone, load_backbone
from delfjax.models.foreign.retrieval_networks import import_network, recognise_network
from delfjax.models.model_files import BACKBONE, PROJECTION, WHITENING, load_part, override_system
from delfjax.models.weights import WeightsError, read_description
from tests.unit.models.foreign.test_importing import torch_names, vgg16_names
from tests.unit.models.foreign.torch_files import (
    LAYOUTS,
    Opcodes,
    legacy_file,
    ordered,
    storage,
    tensor,
    zip_file,
)


def checkpoint(
    state: Mapping[str, np.ndarray],
    *,
    layout: Callable[..., bytes] = zip_file,
    **beside: Any,
) -> bytes:
    """A file as ``torch.save`` writes it: the state dictionary, and what lies beside it."""
    storages = {str(key): np.float32(each).reshape(-1) for key, each in enumerate(state.values())}
    view = (None,) if layout is legacy_file else ()
    entries = {}
    for key, (name, each) in enumerate(state.items()):
        strides = tuple(step // each.itemsize for step in np.ascontiguousarray(each).strides)
        held = storage(str(key), numel=each.size, view=view[0] if view else ())
        entries[name] = tensor(held, size=each.shape, stride=strides)
    return layout({**beside, "state_dict": ordered(entries)}, storages)


def array(values: np.ndarray) -> Opcodes:
    """A NumPy array as protocol 2, which torch uses, writes it."""
    return Opcodes(pickle.dumps(values, protocol=2)[2:-1])


@pytest.fixture
def vgg16(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return vgg16_names(rng)


def converted(tmp_path: Path, data: bytes) -> DelfConfig:
    """The system that a checkpoint becomes."""
    file, out = tmp_path / "published.pth", tmp_path / "global.safetensors"
    file.write_bytes(data)
    found = recognise_network(file)
    assert found is not None
    import_network(out, found)
    return override_system(DelfConfig(), [f"model={out}"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gem_of_cirtorch_brings_its_exponent_and_its_learned_whitening(
    layout: Callable[..., bytes],
    tmp_path: Path,
    vgg16: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> None:
    mean, matrix = rng.normal(size=(512, 1)), rng.normal(size=(512, 512))
    learned = {"m": array(mean), "P": array(matrix)}
    meta = {
        "architecture": "vgg16",
        "pooling": "gem",
        "regional": False,
        "whitening": False,
        "outputdim": 512,
        "mean": [0.485, 0.456, 0.406],
        "Lw": {"retrieval-SfM-120k": {"ss": learned, "ms": learned}},
    }
    state = {**vgg16, "pool.p": np.array([2.92], np.float32)}
    config = converted(tmp_path, checkpoint(state, layout=layout, meta=meta)).global_features
    assert (config.pooling, round(config.gem_exponent, 4)) == ("gem", 2.92)
    assert (config.backbone.name, config.backbone.output) == ("vgg16", "conv5")
    assert config.whitening.kind == "learned" and not config.region_projection.weights
    held, about = load_part(config.whitening.weights, WHITENING)
    np.testing.assert_array_equal(held["shift"], mean[:, 0].astype(np.float32))
    np.testing.assert_array_equal(held["matrix"], matrix.T.astype(np.float32))
    assert about["backbone"] == describe_backbone(config.backbone)
    ours = tensors.named_tensors(load_backbone(config.backbone))
    assert ours["convolutions.5.kernel"][1, 2, 3, 4] == vgg16["features.12.weight"][4, 3, 1, 2]


def test_a_layer_after_the_pooling_becomes_a_shift_and_a_matrix(
    tmp_path: Path, vgg16: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    weight = rng.normal(size=(64, 512)).astype(np.float32)
    bias = rng.normal(size=64).astype(np.float32)
    rows = rng.normal(size=(3, 512))
    for prefix, part in {"whiten": WHITENING, "pool.whiten": PROJECTION}.items():
        state = {**vgg16, f"{prefix}.weight": weight, f"{prefix}.bias": bias}
        config = converted(tmp_path, checkpoint(state)).global_features
        regional = part == PROJECTION
        assert config.pooling == ("rmac" if regional else "mac")
        assert config.whitening.kind == ("none" if regional else "learned")
        assert (config.rmac_levels, config.rmac_whole_image) == (3, regional)
        weights = config.region_projection.weights if regional else config.whitening.weights
        held = load_part(weights, part)[0]
        # A float32 shift of order one, times 512 weights.
        np.testing.assert_allclose(
            (rows - held["shift"]) @ held["matrix"], rows @ weight.T + bias, atol=1e-4
        )


def test_a_bias_that_no_shift_can_stand_for_is_refused(
    tmp_path: Path, vgg16: dict[str, np.ndarray]
) -> None:
    """Two equal rows with different biases."""
    layer = {"whiten.weight": np.ones((2, 512)), "whiten.bias": np.array([0.0, 1.0])}
    with pytest.raises(WeightsError, match="cannot be written as a shift"):
        converted(tmp_path, checkpoint({**vgg16, **layer}))


def test_whatever_does_not_fit_is_listed(tmp_path: Path, vgg16: dict[str, np.ndarray]) -> None:
    file = tmp_path / "odd.pth"
    moved = {name.replace("features.0.", "features.1."): each for name, each in vgg16.items()}
    file.write_bytes(checkpoint({**moved, "pool.p": np.ones(1)}))
    odd = recognise_network(file)
    assert odd is not None
    with pytest.raises(WeightsError, match=r"2 unexpected, 2 missing, 0 misshapen") as error:
        import_network(tmp_path / "out.safetensors", odd)
    assert "unexpected  features.1.bias (64,)" in str(error.value)
    heads = {"pool.q": np.ones(1), "pool.p": np.ones(1), "whiten.weight": np.ones((4, 512))}
    file.write_bytes(checkpoint({**vgg16, **heads}))
    odd = recognise_network(file)
    assert odd is not None
    with pytest.raises(WeightsError) as error:
        import_network(tmp_path / "out.safetensors", odd)
    assert str(error.value).splitlines() == [
        f"{file}: does not fit the model: 2 tensors after the pooling",
        "  unexpected  pool.q (1,)",
        "  missing     whiten.bias",
    ]
    assert not (tmp_path / "out.safetensors").exists()


def test_a_dir_network_is_converted_by_the_command(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    config = BackboneConfig(name="resnet50", output="conv5")
    shapes = tensors.named_shapes(architecture(config))
    named = {f"module.{name}": each for name, each in torch_names(shapes, rng).items()}
    fc = {"module.fc.weight": np.eye(2048), "module.fc.bias": np.full(2048, 0.5)}
    counters = {"module.bn1.num_batches_tracked": np.zeros(1)}
    file, out = tmp_path / "dir.pt", tmp_path / "dir.safetensors"
    exponent = {"module.adpool.p": np.array([2.5])}
    options = {"arch": "resnet50_rmac", "out_dim": 2048, "pooling": "gem"}
    file.write_bytes(checkpoint({**named, **fc, **counters, **exponent}, model_options=options))
    assert main(["weights", "convert", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "global_features.gem_exponent: 2.5" in said and "stride_layout: v1.5" in said
    about = read_description(out)["config"]
    assert about["parts"].keys() == {BACKBONE, WHITENING}
    held = load_part(out, WHITENING)[0]
    np.testing.assert_allclose(held["shift"], -0.5)
    assert load_part(out, BACKBONE)[0].keys() == shapes.keys()


def test_plain_networks_and_classifiers_are_left_to_the_other_importers(
    tmp_path: Path, vgg16: dict[str, np.ndarray]
) -> None:
    file = tmp_path / "vgg16.pth"
    file.write_bytes(checkpoint({**vgg16, "classifier.6.bias": np.zeros(1000)}))
    assert recognise_network(file) is None
    file.write_bytes(checkpoint({"fc.weight": np.zeros((365, 2048)), "fc.bias": np.zeros(365)}))
    assert recognise_network(file) is None


def test_objects_beside_the_network_are_refused(
    tmp_path: Path, vgg16: dict[str, np.ndarray]
) -> None:
    file = tmp_path / "odd.pth"
    call = Opcodes(b"cos\nsystem\n(X\x04\x00\x00\x00truetR")
    file.write_bytes(checkpoint({"pool.p": np.ones(1)}, meta={"pooling": call}))
    with pytest.raises(WeightsError, match="holds os.system; only tensors and NumPy arrays"):
        recognise_network(file)
    file.write_bytes(checkpoint({"pool.p": np.ones(1)}, meta={"Lw": {"a": {"ss": {"m": 1}}}}))
    with pytest.raises(WeightsError, match="whitening without 'ss', 'm' and 'P'"):
        recognise_network(file)
    file.write_bytes(checkpoint(vgg16, meta={"architecture": "alexnet", "pooling": "mac"}))
    found = recognise_network(file)
    assert found is not None
    with pytest.raises(WeightsError, match="a network of 'alexnet'; expected vgg16"):
        import_network(tmp_path / "out.safetensors", found)
