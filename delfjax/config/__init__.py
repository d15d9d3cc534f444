"""Every number that changes a result: frozen dataclasses, presets, strict overrides, a canonical
hash.

A config is a tree of frozen dataclasses. Its root, :class:`Config`, has a section for every part:
the system (:class:`DelfConfig`: all that an extraction, an index and a search depend on), the
stages of its training, and mining. ``override(config, ["features.max_features=500"])`` is the only
way to change a field from text. An unknown field raises a :class:`ConfigError` that names the
nearest one; so does a value of the wrong type. A weight file counts by the digest of what it holds,
not by its path (:mod:`delfjax.config.weight_files`).
"""

from __future__ import annotations

from delfjax.config.backbone import BackboneConfig
from delfjax.config.global_features import (
    GlobalConfig,
    RegionProjectionConfig,
    WhiteningConfig,
)
from delfjax.config.identities import DELF, METHOD, METHODS, identity
from delfjax.config.keypoint_methods import CongasConfig, SiftConfig
from delfjax.config.mining import MiningConfig
from delfjax.config.overrides import (
    MODEL,
    SYSTEM,
    Assignment,
    assignments_of,
    joined_assignments,
    override,
    parse_assignment,
    parse_overrides,
)
from delfjax.config.presets import PRESETS, TRAINING_PRESETS, preset, training_preset
from delfjax.config.ranking import ExpansionConfig, RankingConfig
from delfjax.config.rejection import AnswerModelConfig, RejectionConfig
from delfjax.config.root import SECTIONS, STAGE_SECTIONS, SYSTEM_SECTIONS, Config
from delfjax.config.system import (
    EXTRACTION_SECTIONS,
    PYRAMID,
    DelfConfig,
    FeaturesConfig,
    IndexConfig,
    ReductionConfig,
    ScorerConfig,
    SearchConfig,
    VerificationConfig,
)
from delfjax.config.systems import SYSTEMS, system_assignments, uses_global, uses_local
from delfjax.config.training import (
    DelgConfig,
    GlobalTrainingConfig,
    HeadConfig,
    OptimiserConfig,
    TrainingConfig,
    TrainingStages,
    TuplesConfig,
)
from delfjax.config.values import (
    ConfigError,
    config_hash,
    from_dict,
    require_known,
    to_dict,
    values_hash,
)
from delfjax.config.weight_files import (
    WeightFile,
    abbreviated,
    named_weights,
    short_digest,
    weight_file,
    without_digest,
)

__all__ = [
    "DELF",
    "EXTRACTION_SECTIONS",
    "METHOD",
    "METHODS",
    "MODEL",
    "PRESETS",
    "PYRAMID",
    "SECTIONS",
    "STAGE_SECTIONS",
    "SYSTEM",
    "SYSTEMS",
    "SYSTEM_SECTIONS",
    "TRAINING_PRESETS",
    "AnswerModelConfig",
    "Assignment",
    "BackboneConfig",
    "Config",
    "ConfigError",
    "CongasConfig",
    "DelfConfig",
    "DelgConfig",
    "ExpansionConfig",
    "FeaturesConfig",
    "GlobalConfig",
    "GlobalTrainingConfig",
    "HeadConfig",
    "IndexConfig",
    "MiningConfig",
    "OptimiserConfig",
    "RankingConfig",
    "ReductionConfig",
    "RegionProjectionConfig",
    "RejectionConfig",
    "ScorerConfig",
    "SearchConfig",
    "SiftConfig",
    "TrainingConfig",
    "TrainingStages",
    "TuplesConfig",
    "VerificationConfig",
    "WeightFile",
    "WhiteningConfig",
    "abbreviated",
    "assignments_of",
    "config_hash",
    "from_dict",
    "identity",
    "joined_assignments",
    "named_weights",
    "override",
    "parse_assignment",
    "parse_overrides",
    "preset",
    "require_known",
    "short_digest",
    "system_assignments",
    "to_dict",
    "training_preset",
    "uses_global",
    "uses_local",
    "values_hash",
    "weight_file",
    "without_digest",
]
