"""ResNet50 against a float64 forward pass written from the definition, and against PyTorch where it
is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from delfjax.models import tensors
from delfjax.models.foreign import importing
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.models.resnet import BLOCKS, ResNet, StrideLayout
from tests.unit.models.random_networks import random_tensors

RESNET50 = BLOCKS["resnet50"]
# float32 rounding of a sum of n products grows like √n · 6e-8, through some fifty layers; measured,
# about 1e-6 here. A stride in the wrong convolution, for one, shows as an error of a fifth of the
# largest value.
TOLERANCE = 1e-4


def built(
    stride_layout: StrideLayout, rng: np.random.Generator, *, classes: int | None = None
) -> ResNet:
    """A ResNet50 with random tensors, in inference mode."""
    abstract = tensors.abstract(
        lambda rngs: ResNet(RESNET50, stride_layout=stride_layout, classes=classes, rngs=rngs)
    )
    model = tensors.with_tensors(abstract, random_tensors(tensors.named_shapes(abstract), rng))
    model.eval()
    return model


def feature_maps(model: ResNet, x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    """conv4 and conv5, by one compiled program."""
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state: Any, x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
        merged = nnx.merge(graph, state)
        return merged(x, output="conv4"), merged(x, output="conv5")

    maps: tuple[FeatureMap, FeatureMap] = forward(state, x)
    return maps


class Reference:
    """The network from its definition: one image ``[h, w, c]``, float64, a sum over taps for each
    convolution."""

    def __init__(self, named: dict[str, np.ndarray], stride_layout: StrideLayout) -> None:
        self.named = {name: tensor.astype(np.float64) for name, tensor in named.items()}
        self.stride_layout = stride_layout

    def conv_norm(self, x: np.ndarray, name: str, *, stride: int = 1) -> np.ndarray:
        """Convolution with symmetric zero padding, then batch norm with the running statistics."""
        kernel = self.named[f"{name}.kernel"]
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        taps = kernel.shape[0]
        half = taps // 2
        padded = np.pad(x, ((half, half), (half, half), (0, 0)))
        rows, columns = (x.shape[0] - 1) // stride + 1, (x.shape[1] - 1) // stride + 1
        total = np.zeros((rows, columns, kernel.shape[3]))
        for i in range(taps):
            for j in range(taps):
                total += (
                    padded[i : i + stride * rows : stride, j : j + stride * columns : stride]
                    @ kernel[i, j]
                )
        scale, offset, mean, variance = (
            self.named[f"{name}.norm.{k}"] for k in ("scale", "bias", "mean", "var")
        )
        normalised: np.ndarray = (total - mean) / np.sqrt(variance + 1e-5) * scale + offset
        return normalised

    def block(self, x: np.ndarray, name: str, *, stride: int) -> np.ndarray:
        """Bottleneck block."""
        first, second = (stride, 1) if self.stride_layout == "he" else (1, stride)
        y = np.maximum(self.conv_norm(x, f"{name}.reduce", stride=first), 0)
        y = np.maximum(self.conv_norm(y, f"{name}.spatial", stride=second), 0)
        y = self.conv_norm(y, f"{name}.expand")
        if f"{name}.shortcut.kernel" in self.named:
            x = self.conv_norm(x, f"{name}.shortcut", stride=stride)
        return np.maximum(x + y, 0)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """conv4 and conv5."""
        x = np.maximum(self.conv_norm(x.astype(np.float64), "stem", stride=2), 0)
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::2, ::2]
        x = windows.max(axis=(-2, -1))
        maps = []
        for stage, repeats in enumerate(RESNET50):
            for repeat in range(repeats):
                x = self.block(
                    x, f"stages.{stage}.{repeat}", stride=2 if stage and not repeat else 1
                )
            maps.append(x)
        return maps[2], maps[3]


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal to :data:`TOLERANCE` of the largest value, which has to be of order one for that to
    mean something."""
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    assert largest > 0.5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("stride_layout", ["he", "v1.5"])
def test_resnet50_equals_its_definition_in_float64(
    stride_layout: StrideLayout, rng: np.random.Generator
) -> None:
    model = built(stride_layout, rng)
    named = tensors.named_tensors(model)
    # An odd and an even side, on a canvas larger than the image and with values outside it that
    # must not matter.
    canvas = rng.normal(0, 1, (1, 64, 64, 3)).astype(np.float32)
    image = canvas[0, :63, :48]
    ours = feature_maps(model, FeatureMap(canvas, np.array([[63, 48]], np.int32)))
    for level, reference in zip(ours, Reference(named, stride_layout)(image), strict=True):
        rows, columns = np.asarray(level.extent)[0]
        assert_close(np.asarray(level.values)[0, :rows, :columns], reference)


def test_folding_batch_norm_changes_no_feature(rng: np.random.Generator) -> None:
    model = built("v1.5", rng)
    image = rng.normal(0, 1, (1, 48, 48, 3)).astype(np.float32)
    for ours, reference in zip(
        feature_maps(fold_batch_norm(model), FeatureMap.full(image)),
        Reference(tensors.named_tensors(model), "v1.5")(image[0]),
        strict=True,
    ):
        assert_close(np.asarray(ours.values)[0], reference)


def plain_torch_resnet50(torch: Any, stride_layout: StrideLayout) -> Any:
    """ResNet50 with classifier in plain PyTorch, its submodules named as torchvision names them."""
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[name-defined, misc]  # torch is absent where types are checked
        def __init__(self, features: int, width: int, stride: int, first: bool) -> None:
            super().__init__()
            one, three = (stride, 1) if stride_layout == "he" else (1, stride)
            self.conv1, self.bn1 = (
                nn.Conv2d(features, width, 1, one, bias=False),
                nn.BatchNorm2d(width),
            )
            self.conv2, self.bn2 = (
                nn.Conv2d(width, width, 3, three, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.conv3, self.bn3 = (
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.BatchNorm2d(4 * width),
            )
            self.downsample = None
            if first:
                projection = nn.Conv2d(features, 4 * width, 1, stride, bias=False)
                self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.bn1(self.conv1(x)))
            y = torch.relu(self.bn2(self.conv2(y)))
            skipped = x if self.downsample is None else self.downsample(x)
            return torch.relu(self.bn3(self.conv3(y)) + skipped)

    layers, features = {}, 64
    for stage, (repeats, width) in enumerate(zip(RESNET50, (64, 128, 256, 512), strict=True)):
        members = []
        for repeat in range(repeats):
            members.append(Block(features, width, 2 if stage and not repeat else 1, repeat == 0))
            features = 4 * width
        layers[f"layer{stage + 1}"] = nn.Sequential(*members)
    stem = {"conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(64)}
    return nn.ModuleDict({**stem, **layers, "fc": nn.Linear(features, 1000)}).eval()


def randomise(torch: Any, network: Any, rng: np.random.Generator) -> None:
    """Statistics and gains that differ from their defaults, so that a mix-up of names shows."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
                value.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, value.shape)))
            elif name.endswith("bn3.weight"):
                value.copy_(torch.from_numpy(rng.uniform(0.15, 0.45, value.shape)))
            elif value.ndim == 1:
                value.copy_(torch.from_numpy(rng.normal(0, 0.1, value.shape)))
            elif value.ndim == 4:
                fan_in = np.prod(value.shape[1:])
                value.copy_(torch.from_numpy(rng.normal(0, np.sqrt(2 / fan_in), value.shape)))


@pytest.mark.parametrize(
    ("stride_layout", "container"), [("v1.5", "zip"), ("he", "legacy"), ("v1.5", "safetensors")]
)
def test_imported_resnet50_equals_plain_pytorch_at_224_px(
    stride_layout: StrideLayout, container: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="the extra `bench` is not installed")
    network = plain_torch_resnet50(torch, stride_layout)
    randomise(torch, network, rng)
    state = network.state_dict()
    path = tmp_path / ("resnet50.safetensors" if container == "safetensors" else "resnet50.pth")
    if container == "safetensors":
        pytest.importorskip(
            "safetensors.torch", reason="the extra `bench` is not installed"
        ).save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip")

    abstract = tensors.abstract(
        lambda rngs: ResNet(RESNET50, stride_layout=stride_layout, classes=1000, rngs=rngs)
    )
    found = importing.read_tensors(path)
    ours = importing.import_torchvision_resnet(found, tensors.named_shapes(abstract), source=path)
    model = tensors.with_tensors(abstract, ours)
    model.eval()

    image = rng.normal(0, 1, (1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        x = torch.relu(
            network["bn1"](network["conv1"](torch.from_numpy(image.transpose(0, 3, 1, 2))))
        )
        x = network["layer2"](network["layer1"](torch.nn.functional.max_pool2d(x, 3, 2, 1)))
        conv4 = network["layer3"](x)
        conv5 = network["layer4"](conv4)
        logits = network["fc"](conv5.mean(dim=(2, 3)))
    for level, theirs in zip(
        feature_maps(model, FeatureMap.full(image)), (conv4, conv5), strict=True
    ):
        assert_close(np.asarray(level.values), theirs.numpy().transpose(0, 2, 3, 1))
    graph, parameters = nnx.split(model)
    classify = jax.jit(lambda parameters, x: nnx.merge(graph, parameters).classify(x))
    assert_close(np.asarray(classify(parameters, FeatureMap.full(image))), logits.numpy())
