"""How large and how hard a world is: one frozen record, and three presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delfjax.config import require_known
from delfjax.world.challenges import KNOBS
from delfjax.world.solids import WorldError


@dataclass(frozen=True)
class WorldConfig:
    """A world. Counts of images are totals; :mod:`~delfjax.world.challenges` explains the knobs.

    Attributes:
        seed: of everything.
        landmarks: that are searched for.
        family_size: members of a family that look alike.
        train_landmarks: for training alone; none of them, and none of their families, is searched
            for.
        train_views: photographs of each of these.
        database_views: photographs in the database of each landmark that is searched for.
        query_views: queries of each.
        distractors: photographs in the database that show none of them: streets, and other
            landmarks.
        no_match: queries that show nothing that is in the database: streets, and other landmarks.
        image_side: longer side of a photograph, pixels; the shorter is three quarters of it.
    """

    seed: int = 0
    landmarks: int = 60
    family_size: int = 3
    train_landmarks: int = 60
    train_views: int = 12
    database_views: int = 6
    query_views: int = 2
    distractors: int = 200
    no_match: int = 60
    image_side: int = 256
    scale: float = 0.4
    occlusion: float = 0.4
    clutter: float = 0.4
    likeness: float = 0.5
    viewpoint: float = 0.4
    tilt: float = 0.4
    framing: float = 0.4
    weather: float = 0.4
    film: float = 0.4

    def __post_init__(self) -> None:
        for name in KNOBS:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise WorldError(f"world: {name} is {value}, expected a number from 0 to 1")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 1 if field.name in ("family_size", "landmarks") else 0
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise WorldError(f"world: {field.name} is {value}, expected at least {least}")
        if self.image_side % 128:
            raise WorldError(
                f"world: image_side is {self.image_side}, expected a multiple of 128 pixels"
            )

    def plain(self) -> dict[str, Any]:
        """Plain values that decide every byte of the world."""
        return dataclasses.asdict(self)


PRESETS: Mapping[str, WorldConfig] = {
    # Seconds.
    "ci": WorldConfig(
        landmarks=8,
        family_size=2,
        train_landmarks=4,
        train_views=4,
        database_views=4,
        query_views=1,
        distractors=8,
        no_match=4,
    ),
    # Minutes: about 1,500 photographs.
    "quick": WorldConfig(),
    # A hundred thousand photographs and more, in hours; sharded and resumable.
    "full": WorldConfig(
        landmarks=1500,
        family_size=5,
        train_landmarks=2500,
        train_views=20,
        database_views=16,
        query_views=4,
        distractors=40_000,
        no_match=4_000,
        image_side=512,
    ),
}


def world_config(preset: str, **changes: Any) -> WorldConfig:
    """A preset with some of its fields changed.

    Raises:
        ConfigError: no such preset or field; the nearest is named.
        WorldError: a value that is out of range.
    """
    require_known("world preset", preset, PRESETS)
    for name, value in changes.items():
        require_known(
            "world field", name, [field.name for field in dataclasses.fields(WorldConfig)]
        )
        if name not in KNOBS and not isinstance(value, int):
            raise WorldError(f"world: {name} is {value}, expected a whole number")
    typed: dict[str, Any] = {
        name: float(value) if name in KNOBS else value for name, value in changes.items()
    }
    return dataclasses.replace(PRESETS[preset], **typed)
