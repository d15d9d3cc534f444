"""The convolutional network that turns an image into a feature map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from delfjax.config.values import Strict


@dataclass(frozen=True)
class BackboneConfig(Strict):
    """The convolutional network that turns an image into a feature map."""

    name: Literal["efficientnet_lite0", "efficientnet_lite2", "resnet50", "resnet101", "vgg16"] = (
        "efficientnet_lite0"
    )
    # The feature map to use. The paper uses conv4; for EfficientNet-Lite, conv4 is the stride-16
    # output. VGG16 has conv4, conv5 (conv5_3 after its ReLU, stride 16) and pool5 (stride 32).
    output: Literal["conv4", "conv5", "pool5"] = "conv4"
    # Where a ResNet puts its strides: "he" in the first 1×1 of a stage (He et al. 2015; receptive
    # field 291 at conv4), "v1.5" in the 3×3 (torchvision; 267). With TensorFlow's padding and input
    # range: "slim" (the released DELF model, receptive field/stride 291/32), "keras" (the newer
    # code of DELF and DELG, 291/16) and "keras_strided" (that code's default, stride 32). Must
    # match the weights. EfficientNet ignores it.
    stride_layout: Literal["he", "v1.5", "slim", "keras", "keras_strided"] = "v1.5"
    # "imagenet" (installed with the library for EfficientNet-Lite0), "random" (for tests), or a
    # .safetensors file written by delfjax: its path, to which the digest of its weights is added.
    weights: str = "imagenet"
