"""The index of a system that ranks by global descriptors, alone or beside local features.

On disk, the index of local features lies in the folder itself, and that of the global descriptors
of the same photos in a folder within it; an index of global descriptors alone lies in the folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from delfjax.config import DelfConfig
from delfjax.retrieval.global_index import GlobalIndex, is_global_index, open_global_index
from delfjax.retrieval.local_index import LocalIndex, open_local_index
from delfjax.retrieval.ranking import LocalSearcher, SystemSearcher

# Folder of the global part within a store or an index of local features.
GLOBAL_PART = "global"


@dataclass(frozen=True)
class SystemIndex:
    """The indexes that a system ranks by.

    Attributes:
        config: the system.
        local: index of the local features; ``None`` if the system has none.
        pooled: index of the global descriptors; ``None`` if the system has none.
    """

    config: DelfConfig
    local: LocalIndex | None = None
    pooled: GlobalIndex | None = None

    @property
    def names(self) -> list[str]:
        """The images, in the order of their numbers."""
        return self._first.names

    @property
    def photos(self) -> str:
        """Folder that the names are relative to; empty if unknown."""
        return self._first.photos

    @property
    def content_hashes(self) -> list[str]:
        """Digest of the file of each image when it was extracted."""
        return self._first.content_hashes

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each step of the build."""
        held = [part for part in (self.local, self.pooled) if part is not None]
        return {name: taken for part in held for name, taken in part.seconds.items()}

    @property
    def _first(self) -> LocalIndex | GlobalIndex:
        held = self.local or self.pooled
        assert held is not None
        return held

    def searcher(self, config: DelfConfig) -> SystemSearcher:
        """The system ``config``, ready to rank the photos of this index.

        Raises:
            RankingError: the system needs an index that this one lacks.
        """
        local = None if self.local is None else LocalSearcher(self.local)
        return SystemSearcher(config, local, self.pooled)

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder; an existing one is replaced.

        Raises:
            LocalIndexError: ``folder`` holds something else.
            GlobalIndexError: ``folder`` holds something else.
            OSError: the disk is full, or a file cannot be written; the error names it.
        """
        place = Path(folder)
        if self.local is not None:
            replace(self.local, config=self.config).save(place)
            place = place / GLOBAL_PART
        if self.pooled is not None:
            replace(self.pooled, config=self.config).save(place)


def open_index(folder: str | Path) -> LocalIndex | SystemIndex:
    """The index in ``folder``: of local features alone, or of a system with global descriptors.

    Raises:
        LocalIndexError: the folder is not an index, has another version, or is damaged; the message
            names the file.
        GlobalIndexError: the same of the global part.
    """
    path = Path(folder)
    if is_global_index(path):
        pooled = open_global_index(path)
        return SystemIndex(pooled.config, pooled=pooled)
    local = open_local_index(path)
    if not is_global_index(path / GLOBAL_PART):
        return local
    return SystemIndex(local.config, local, open_global_index(path / GLOBAL_PART))
