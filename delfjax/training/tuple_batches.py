"""Batches of tuples of whole photos, drawn anew in rounds as the descriptor changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64

from delfjax.config import GlobalTrainingConfig
from delfjax.datasets.images import ImageError
from delfjax.training.batches import Batch, LabelledPhotos, PaddedPhotos, TrainingError
from delfjax.training.maps import WholeMaps, padded
from delfjax.training.positives import Positives
from delfjax.training.tuples import TupleMiner, held_out_groups

Describe = Callable[[Int64[np.ndarray, " m"]], Float[np.ndarray, "m d"]]


@dataclass(frozen=True)
class MappedPhotos:
    """Photos whose feature maps are cached."""

    cached: WholeMaps

    @property
    def failures(self) -> Mapping[int, str]:
        """Photo → reason, for photos that cannot be read."""
        return self.cached.failures

    def take(self, members: Int64[np.ndarray, " b"]) -> PaddedPhotos:
        """The maps of some photos."""
        return PaddedPhotos(self.cached.maps[members], self.cached.extent[members])


@dataclass(frozen=True)
class FilePhotos:
    """Photos that are read whenever they are needed.

    Attributes:
        photos: the photos.
        side: longer side to which they are reduced, pixels.
        failures: photo → reason, for photos that cannot be read.
    """

    photos: LabelledPhotos
    side: int
    failures: Mapping[int, str]

    def take(self, members: Int64[np.ndarray, " b"]) -> PaddedPhotos:
        """The pixels of some photos.

        Raises:
            TrainingError: a photo cannot be read that could be when training began.
        """
        try:
            read = [self.photos.whole(int(member), self.side) for member in members]
        except ImageError as error:
            raise TrainingError(
                f"{error}; it could be read when training began: put it back"
            ) from None
        extent = np.array([pixels.shape[:2] for pixels in read], np.int32)
        return PaddedPhotos(np.stack([padded(pixels, self.side) for pixels in read]), extent)


WholePhotos = MappedPhotos | FilePhotos


class TupleBatches:
    """Batches of tuples. A round of tuples is drawn with the descriptors of its first step, and its
    batches follow from it.

    Args:
        photos: the photos.
        source: where their inputs come from.
        positives: the positives of each photo.
        config: settings of the stage.
        seed: seed of everything random.

    Raises:
        TrainingError: no photo has a positive, or there are too few landmarks for the negatives.
    """

    def __init__(
        self,
        photos: LabelledPhotos,
        source: WholePhotos,
        *,
        positives: Positives,
        config: GlobalTrainingConfig,
        seed: int,
    ) -> None:
        self.photos = photos
        self.positives = positives
        self._source = source
        self._config = config
        photos.require_enough(source.failures)
        readable = np.ones(len(photos.paths), bool)
        readable[list(source.failures)] = False
        held = held_out_groups(positives.groups, config.validation_share, seed=seed)
        self.validation = held & readable
        self.training = ~held & readable
        self._miner = TupleMiner(
            positives,
            self.training,
            tuples=config.tuples,
            count=config.batch_size * config.tuples.mine_every,
            seed=seed,
        )

    @property
    def failures(self) -> dict[str, str]:
        """Photo → reason, for photos that cannot be read."""
        return {self.photos.paths[member]: why for member, why in self._source.failures.items()}

    @property
    def none_drawn(self) -> Int32[np.ndarray, "q k"]:
        """In place of a round of tuples before any is drawn."""
        config = self._config
        count = config.batch_size * config.tuples.mine_every
        return np.zeros((count, 2 + config.tuples.negatives), np.int32)

    def take(self, members: Int64[np.ndarray, " b"]) -> PaddedPhotos:
        """The inputs of some photos."""
        return self._source.take(members)

    def drawn(self, step: int, describe: Describe) -> Int32[np.ndarray, "q k"]:
        """The tuples of the round that begins with a step: query, positive, negatives.

        Args:
            step: the first step of the round.
            describe: makes the present descriptors of photos.
        """
        number = step // self._config.tuples.mine_every
        queries, pool = self._miner.asked(number)
        members, places = np.unique(np.concatenate([queries, pool]), return_inverse=True)
        descriptors = describe(members)[places]
        tuples = self._miner.drawn(
            number, queries=descriptors[: len(queries)], pool=descriptors[len(queries) :]
        )
        return tuples.astype(np.int32)

    def of(self, tuples: Int32[np.ndarray, "q k"]) -> RoundBatches:
        """The batches of a round."""
        return RoundBatches(self, tuples, self._config)


@dataclass(frozen=True)
class RoundBatches:
    """The batches of one round of tuples."""

    batches: TupleBatches
    tuples: Int32[np.ndarray, "q k"]
    config: Any

    def at(self, step: int) -> Batch:
        """The batch of a step of this round: the queries of all tuples, then their positives, and
        so on."""
        size = self.config.batch_size
        first = step % self.config.tuples.mine_every * size
        members = self.tuples[first : first + size].T.reshape(-1).astype(np.int64)
        return Batch(self.batches.take(members), np.zeros(size, np.int64), members)
