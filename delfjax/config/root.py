"""The root: one config with a section for every part."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from delfjax.config.mining import MiningConfig
from delfjax.config.system import DelfConfig, SystemSections
from delfjax.config.training import TrainingStages


@dataclass(frozen=True)
class Config(SystemSections, TrainingStages):
    """Every number that changes a result: the sections of the system, the stages of its training,
    and mining.

    A computation takes only the sections it depends on: a search takes :attr:`system`, mining its
    own section. The hash of a result is therefore independent of all other sections.
    """

    mining: MiningConfig = field(default_factory=MiningConfig)

    @property
    def system(self) -> DelfConfig:
        """The sections of the system."""
        return DelfConfig(**{name: getattr(self, name) for name in SYSTEM_SECTIONS})

    @property
    def stages(self) -> TrainingStages:
        """The stages of the system's training."""
        return TrainingStages(**{name: getattr(self, name) for name in STAGE_SECTIONS})


SYSTEM_SECTIONS = tuple(each.name for each in fields(DelfConfig))
STAGE_SECTIONS = tuple(each.name for each in fields(TrainingStages))
SECTIONS = (*SYSTEM_SECTIONS, *STAGE_SECTIONS, "mining")
