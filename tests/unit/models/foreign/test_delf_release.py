"""Published models are recognised by their tensor names, misfits are listed by name, and the PCA
follows the published formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delfjax.config import ReductionConfig
from delfjax.models.foreign.delf_release import import_published, read_datum, read_pca, recognise
from delfjax.models.weights import WeightsError
from tests.unit.models.foreign.tensor_bundles import (
    number,
    part,
    varint,
    write_bundle,
    write_datum,
    write_objects,
)

STEM = np.zeros((7, 7, 3, 64), np.float32)
TF1, TF2 = "resnet_v1_50/conv1/weights", "backbone/conv1/kernel"


@pytest.mark.parametrize("scope", ["", "import/", "a/b/"])
def test_a_scope_in_front_of_all_names_is_left_out(scope: str, tmp_path: Path) -> None:
    found = recognise(
        write_bundle(tmp_path / "model", {scope + TF1: STEM, f"{scope}global_step": np.array(1)})
    )
    assert found.tensors.keys() == {TF1, "global_step"}
    assert (found.name, found.layouts, found.coded) == ("resnet50", ("slim",), False)


def test_a_resnet101_is_recognised_by_its_scope(tmp_path: Path) -> None:
    assert (
        recognise(write_bundle(tmp_path / "model", {TF1.replace("50", "101"): STEM})).name
        == "resnet101"
    )


@pytest.mark.parametrize("kernel", ["kernel", "_kernel"])
def test_keras_objects_are_recognised_by_their_attributes(kernel: str, tmp_path: Path) -> None:
    held = {
        f"model/backbone/conv1/{kernel}": STEM,
        "model/autoencoder/conv1/kernel": np.zeros((1, 1, 4, 2), np.float32),
    }
    found = recognise(write_objects(tmp_path / "model", held, {name: "kernel" for name in held}))
    assert found.tensors.keys() == {TF2, "autoencoder/conv1/kernel"}
    assert (
        found.layouts == ("keras_strided", "keras")
        and found.coded
        and found.width("scorer.encoder.kernel") == 2
    )


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"neither DELF nor DELG: none of its 1 tensors \(vgg_16/conv1/weights, …\)",
    ):
        recognise(write_bundle(tmp_path / "model", {"vgg_16/conv1/weights": STEM}))
    with pytest.raises(WeightsError, match="with and without the scope 'a/'"):
        recognise(write_bundle(tmp_path / "model", {f"a/{TF1}": STEM, "a/b": STEM, "b": STEM}))


def test_what_does_not_fit_is_listed_in_the_names_of_the_file(tmp_path: Path) -> None:
    odd = {
        TF1: STEM[:5],
        "resnet_v1_50/conv1/biases": np.zeros(64, np.float32),
        "global_step": np.array(1),
    }
    index = write_bundle(tmp_path / "model", odd)
    with pytest.raises(WeightsError) as error:
        import_published(tmp_path / "out.safetensors", index)
    report = str(error.value)
    assert "model.index: does not fit the model: 1 unexpected, " in report
    assert "unexpected  resnet_v1_50/conv1/biases (64,)" in report and "global_step" not in report
    assert (
        "missing     resnet_v1_50/block3/unit_6/bottleneck_v1/conv2/BatchNorm/moving_mean (256,)"
        in report
    )
    assert "missing     attention_block/attention/compute/conv1/weights (1, 1, 1024, 512)" in report
    assert "block4" not in report
    assert f"misshapen   {TF1} (5, 7, 3, 64), expected (7, 7, 3, 64)" in report
    assert not (tmp_path / "out.safetensors").exists()


def test_a_layout_that_the_tensors_are_not_for_is_refused(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "model", {TF1: STEM})
    with pytest.raises(
        WeightsError, match="is a resnet50 in layout slim, but the config sets .*'he'"
    ):
        import_published(
            tmp_path / "out.safetensors", index, overrides=["backbone.stride_layout=he"]
        )


@pytest.fixture
def pca(tmp_path: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Mean, directions in rows, and variances, in files of the published names."""
    directions = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    arrays = {
        "mean": rng.normal(size=6),
        "pca_proj_mat": directions,
        "pca_vars": np.arange(6, 0, -1),
    }
    for name, array in arrays.items():
        write_datum(tmp_path / f"{name}.datum", array)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def test_a_pca_is_the_published_formula(
    pca: dict[str, np.ndarray], tmp_path: Path, rng: np.random.Generator
) -> None:
    descriptors = rng.normal(size=(5, 6))
    expected = (descriptors - pca["mean"]) @ pca["pca_proj_mat"][:2].T
    for whiten in (False, True):
        held, explained = read_pca([tmp_path], config=ReductionConfig(dim=2, whiten=whiten))
        theirs = expected / np.sqrt(pca["pca_vars"][:2]) if whiten else expected
        # Files and results are float32.
        np.testing.assert_allclose(
            (descriptors - held["mean"]) @ held["projection"], theirs, rtol=1e-5, atol=1e-6
        )
        assert explained == pytest.approx(11 / 21)
    files = [tmp_path / "mean.datum", tmp_path / "pca_proj_mat.datum"]
    held, explained = read_pca(files, config=ReductionConfig(dim=3, whiten=False))
    assert held["projection"].shape == (6, 3) and explained == 1.0
    with pytest.raises(WeightsError, match="0 of the files .* have 'var'"):
        read_pca(files, config=ReductionConfig(dim=3, whiten=True))


def test_a_pca_that_does_not_fit_is_refused(pca: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"shape \(6, 6\) and a mean of 6 values cannot give 7 directions"
    ):
        read_pca([tmp_path], config=ReductionConfig(dim=7, whiten=False))
    write_datum(tmp_path / "pca_vars.datum", pca["pca_vars"] * 0)
    with pytest.raises(WeightsError, match="2 directions need as many positive variances"):
        read_pca([tmp_path], config=ReductionConfig(dim=2, whiten=True))
    write_datum(tmp_path / "mean.datum", pca["mean"][:5])
    with pytest.raises(WeightsError, match="mean of 5 values"):
        read_pca([tmp_path], config=ReductionConfig(dim=2, whiten=False))
    write_datum(tmp_path / "other_mean.datum", pca["mean"])
    with pytest.raises(WeightsError, match="2 of the files .* have 'mean'"):
        read_pca([tmp_path], config=ReductionConfig(dim=2, whiten=False))


def test_a_datum_is_read_packed_or_not_and_refused_when_damaged(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write_datum(tmp_path / "one.datum", array)
    np.testing.assert_array_equal(read_datum(path), array, strict=True)
    whole = path.read_bytes()
    floats = b"".join(varint(1 << 3 | 5) + value.tobytes() for value in array.ravel())
    path.write_bytes(part(1, number(1, 2) + number(1, 3)) + part(2, floats))
    np.testing.assert_array_equal(read_datum(path), array, strict=True)
    for damaged in (
        whole[:-1],
        whole[:-8],
        part(1, part(1, varint(7))) + whole[6:],
        b"\xff" * 12,
        number(1, 2) + number(2, 3),
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"one\.datum: truncated or damaged"):
            read_datum(path)
