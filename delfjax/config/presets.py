"""Presets: named configs of the system and of its training stages."""

from __future__ import annotations

from dataclasses import replace

from delfjax.config.backbone import BackboneConfig
from delfjax.config.system import (
    DelfConfig,
    FeaturesConfig,
    IndexConfig,
    ScorerConfig,
)
from delfjax.config.training import (
    DelgConfig,
    GlobalTrainingConfig,
    HeadConfig,
    OptimiserConfig,
    TrainingConfig,
    TuplesConfig,
)
from delfjax.config.values import require_known

PRESETS: dict[str, DelfConfig] = {
    "default": DelfConfig(),
    # About a third of the default's time, for a laptop.
    "fast": DelfConfig(features=FeaturesConfig(max_side=384, max_features=500)),
    # Takes seconds, for tests and for notebooks in continuous integration.
    "ci": DelfConfig(
        features=FeaturesConfig(max_side=256, max_features=300, scales=(0.5, 0.7071, 1.0))
    ),
    # The paper's index: 8192 coarse cells, 5 of them visited, 50-bit codes.
    "paper2017": DelfConfig(
        backbone=BackboneConfig(name="resnet50", stride_layout="he", weights="random"),
        scorer=ScorerConfig(weights="random"),
        # FAISS recommends at least 39 training descriptors per cell.
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
    # Source: the DELG paper, 512 px and 1.5 million steps; the learning rate is from the TF2 code.
    "paper_delg": TrainingConfig(stage="delg", square_side=585, crop_side=512, steps=1_500_000),
    # The quick presets take about a minute each on two cores, for photographs of 256 pixels.
    # Measured on the landmark world: half the learning rate with as many steps lowers the mAP of FT
    # from 0.433 to 0.406, and of FT+ATT from 0.494 to 0.469.
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
        # This stage trains no layer of the backbone. Its maps are computed from those of the first
        # nine layers, which the other quick stages cache too.
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
    # Source: Radenović et al. 2016 and their code: VGG16, MAC, 362 px, 30 epochs, 5 tuples of a
    # query, a positive and 5 negatives; SGD. Unconfirmed: the overlap and scale of positives, and
    # that an epoch has 2000 queries and a pool of 22,000 photos, as in their later code.
    "paper_siamac": GlobalTrainingConfig(
        square_side=362,
        batch_size=5,
        steps=30 * 400,
        validate_every=400,
        head=HeadConfig(pooling="mac", whiten="rmac"),
        tuples=TuplesConfig(pool=22_000, mine_every=133),
        optimiser=OptimiserConfig(
            learning_rate=1e-3, momentum=0.9, weight_decay=5e-4, schedule="fifths"
        ),
    ),
    # Source: Gordo et al. 2016: R-MAC with two levels, shift and projection to 2048 dimensions,
    # 800 px. Unconfirmed: all numbers of the training, which their release leaves out. The number
    # of steps is ours.
    "paper_dir": GlobalTrainingConfig(
        square_side=800,
        batch_size=64,
        accumulate=64,
        steps=4000,
        validate_every=200,
        head=HeadConfig(pooling="rmac", rmac_levels=2, projection_dim=2048),
        tuples=TuplesConfig(
            loss="triplet",
            margin=0.1,
            min_overlap=0.0,
            max_scale_change=100.0,
            negatives=1,
            hardest=25,
            one_per_landmark=False,
            pool=5000,
            mine_every=16,
        ),
        optimiser=OptimiserConfig(
            learning_rate=1e-3, momentum=0.9, weight_decay=5e-5, schedule="tenth"
        ),
    ),
    "quick_siamac": GlobalTrainingConfig(
        square_side=256,
        cached_maps=True,
        frozen_layers=12,
        batch_size=5,
        steps=60,
        validate_every=20,
        head=HeadConfig(pooling="mac", whiten="rmac"),
        tuples=TuplesConfig(mine_every=20),
        optimiser=OptimiserConfig(name="adamw", learning_rate=1e-4, warmup_steps=5),
    ),
    "quick_dir": GlobalTrainingConfig(
        square_side=256,
        cached_maps=True,
        frozen_layers=12,
        batch_size=8,
        steps=60,
        validate_every=20,
        head=HeadConfig(pooling="rmac", rmac_levels=2, projection_dim=256),
        tuples=TuplesConfig(loss="triplet", margin=0.1, negatives=2, hardest=10, mine_every=20),
        optimiser=OptimiserConfig(name="adamw", learning_rate=1e-4, warmup_steps=5),
    ),
}


def preset(name: str) -> DelfConfig:
    """The system preset called ``name``.

    Raises:
        ConfigError: there is no such preset; the message names the nearest.
    """
    require_known("preset", name, PRESETS)
    return PRESETS[name]


def training_preset(name: str) -> TrainingConfig:
    """The training preset called ``name``.

    Raises:
        ConfigError: there is no such preset; the message names the nearest.
    """
    require_known("training preset", name, TRAINING_PRESETS)
    return TRAINING_PRESETS[name]
