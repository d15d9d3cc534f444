"""Configs by name: of the system, and of the stages of its training."""

from __future__ import annotations

from dataclasses import replace

from delfjax.config.system import (
    BackboneConfig,
    DelfConfig,
    FeaturesConfig,
    IndexConfig,
    ScorerConfig,
)
from delfjax.config.training import DelgConfig, OptimiserConfig, TrainingConfig
from delfjax.config.values import require_known

PRESETS: dict[str, DelfConfig] = {
    "default": DelfConfig(),
    # A laptop in a hurry: about a third of the time.
    "fast": DelfConfig(features=FeaturesConfig(max_side=384, max_features=500)),
    # Seconds, for tests and notebooks in continuous integration.
    "ci": DelfConfig(
        features=FeaturesConfig(max_side=256, max_features=300, scales=(0.5, 0.7071, 1.0))
    ),
    # The paper's index: 8192 coarse cells, 5 of them visited, 50-bit codes.
    "paper2017": DelfConfig(
        backbone=BackboneConfig(name="resnet50", stride_layout="he", weights="random"),
        scorer=ScorerConfig(weights="random"),
        # FAISS wants 39 training descriptors for each of the cells.
        index=IndexConfig(kind="ivf_pq", lists=8192, probes=5, train_samples=320_000),
    ),
}

_QUICK = TrainingConfig(square_side=384, crop_side=320, cached_maps=True)
TRAINING_PRESETS: dict[str, TrainingConfig] = {
    "paper_finetune": TrainingConfig(steps=500_000),
    "paper_attention": TrainingConfig(
        stage="attention",
        square_side=900,
        crop_side=720,
        rescales=(0.25, 0.3536, 0.5, 0.7071, 1.0),
        steps=500_000,
    ),
    # Source: the DELG paper, 512 px and 1.5 million steps; the rate is that of the TF2 code.
    "paper_delg": TrainingConfig(stage="delg", square_side=585, crop_side=512, steps=1_500_000),
    # A minute or so each on two cores, for photographs of 256 pixels. Measured on the landmark
    # world: in as many steps at half the learning rate, mAP of FT 0.406 in place of 0.433, of
    # FT+ATT 0.469 in place of 0.494.
    "quick_finetune": replace(
        _QUICK,
        crop_side=256,
        frozen_layers=9,
        rescales=(0.3536, 0.5),
        steps=100,
        validate_every=25,
        optimiser=OptimiserConfig(name="adamw", learning_rate=2e-3, warmup_steps=20),
    ),
    "quick_attention": replace(
        _QUICK,
        stage="attention",
        # The attention trains none of them: its maps are made from those that the other stages
        # start from.
        frozen_layers=9,
        rescales=(0.3536, 0.5, 0.7071),
        steps=300,
        validate_every=50,
        optimiser=OptimiserConfig(name="adamw", learning_rate=3e-3, warmup_steps=20),
    ),
    "quick_delg": replace(
        _QUICK,
        stage="delg",
        crop_side=256,
        frozen_layers=9,
        rescales=(0.3536, 0.5),
        steps=150,
        validate_every=50,
        optimiser=OptimiserConfig(name="adamw", learning_rate=1e-3, warmup_steps=20),
        delg=DelgConfig(code_dim=64, embedding_dim=256),
    ),
}


def preset(name: str) -> DelfConfig:
    """The preset called ``name``.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    require_known("preset", name, PRESETS)
    return PRESETS[name]


def training_preset(name: str) -> TrainingConfig:
    """The preset called ``name``.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    require_known("training preset", name, TRAINING_PRESETS)
    return TRAINING_PRESETS[name]
