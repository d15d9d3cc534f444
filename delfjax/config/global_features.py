"""Global descriptors: from an image to one vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from delfjax.config.backbone import BackboneConfig
from delfjax.config.values import PositiveFloat, PositiveInt, Strict


@dataclass(frozen=True)
class RegionProjectionConfig(Strict):
    """Shift and projection of each region of R-MAC before the regions are summed, as in DIR."""

    # Path of a .safetensors file written by delfjax that holds the projection; empty for none.
    weights: str = ""


@dataclass(frozen=True)
class WhiteningConfig(Strict):
    """Whitening of global descriptors, followed by L2."""

    # "none"; "pca", fitted on the database; "learned" (Lw), read from a file.
    kind: Literal["none", "pca", "learned"] = "pca"
    # Path of the .safetensors file with the learned whitening.
    weights: str = ""
    # Dimensions kept; 0 keeps all.
    dim: Annotated[int, Field(ge=0)] = 0
    # Share of the mean variance that is added to every variance before "pca" divides by it. A PCA
    # of few images overstates how small the small variances are, and whitening by it ruins the
    # descriptors. Source: chosen on the training landmarks of the rendered world, where the mAP of
    # VGG16 with R-MAC is 0.265 without whitening, 0.167 with a share of 0.1, 0.250 with 1, 0.291
    # with 10; that of EfficientNet-Lite0 is 0.302 without and 0.323 with 10.
    shrinkage: PositiveFloat = 10.0


@dataclass(frozen=True)
class GlobalConfig(Strict):
    """From an image to its global descriptor: one vector, pooled from one feature map."""

    # Source: chosen on the training landmarks of the rendered world. The mAP of R-MAC is 0.323
    # with this, 0.291 with VGG16 to conv5_3 (siaMAC's), which takes ten times as long, and 0.202
    # with conv4.
    backbone: BackboneConfig = field(
        default_factory=lambda: BackboneConfig(name="efficientnet_lite0", output="conv5")
    )
    # Longer sides that the image is reduced to, pixels; it is never enlarged. The descriptors of
    # several sizes are summed. Source: DIR uses 550, 800 and 1050, siaMAC 1024; ours for a CPU.
    sides: Annotated[tuple[Annotated[int, Field(ge=32, le=4096)], ...], Field(min_length=1)] = (
        512,
    )
    pooling: Literal["mac", "rmac", "gem"] = "rmac"
    # Exponent of "gem". Source: Radenović et al. 2018, 3 before it is learned.
    gem_exponent: PositiveFloat = 3.0
    # Levels of "rmac". Source: Tolias et al. 2016 and siaMAC, 3; DIR, 2.
    rmac_levels: Annotated[int, Field(ge=1, le=4)] = 3
    # Add the MAC of the whole image to the regions. Source: siaMAC's code does, DIR's does not.
    rmac_whole_image: bool = False
    region_projection: RegionProjectionConfig = field(default_factory=RegionProjectionConfig)
    whitening: WhiteningConfig = field(default_factory=WhiteningConfig)
    # Precision of the backbone.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Images per compiled call and device; 0 chooses by platform (1 on CPU, 16 on accelerators).
    batch_size: Annotated[int, Field(ge=0)] = 0
    # Kind of the index: "exact", or "ivf_pq", one byte for each of `pq_subvectors` parts.
    index: Literal["exact", "ivf_pq"] = "exact"
    pq_subvectors: PositiveInt = 64
