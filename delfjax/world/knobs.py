"""The configuration of a world: how large and how hard it is, and three presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delfjax.config import require_known
from delfjax.world.challenges import KNOBS
from delfjax.world.solids import WorldError

# Largest number of landmarks or photographs of a kind, and largest image side, pixels.
MAX_COUNT = 1_000_000_000


@dataclass(frozen=True)
class WorldConfig:
    """The size of a world, and its knobs, which :mod:`~delfjax.world.challenges` explains.

    Attributes:
        seed: the seed of everything random.
        landmarks: number of targets, the landmarks that queries search for.
        family_size: landmarks in a family of look-alikes.
        train_landmarks: number of landmarks for training. No query searches for them or for a
            member of their families.
        train_views: photographs of each training landmark.
        database_views: photographs of each target in the database.
        query_views: queries of each target.
        distractors: photographs in the database that show no target, in all: streets and other
            landmarks.
        no_match: queries that show nothing of the database, in all: streets and other landmarks.
        image_side: longer side of a photograph, pixels, a multiple of 128; the shorter side is
            three quarters of it.

    Raises:
        WorldError: a value is out of range.
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
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in KNOBS:
                if type(value) not in (int, float) or not 0 <= value <= 1:
                    raise WorldError(
                        f"world: {field.name} is {value!r:.60}, expected a number from 0 to 1"
                    )
                continue
            least = 1 if field.name in ("family_size", "landmarks") else 0
            if type(value) is not int:
                raise WorldError(f"world: {field.name} is {value!r:.60}, expected a whole number")
            if value < least:
                raise WorldError(f"world: {field.name} is {value}, expected at least {least}")
            if value > MAX_COUNT and field.name != "seed":
                raise WorldError(f"world: {field.name} is larger than {MAX_COUNT}")
        if self.image_side % 128 or not self.image_side:
            raise WorldError(
                f"world: image_side is {self.image_side}, expected a multiple of 128 pixels"
            )

    def plain(self) -> dict[str, Any]:
        """The fields as plain values, which together decide every byte of the world."""
        return dataclasses.asdict(self)


PRESETS: Mapping[str, WorldConfig] = {
    # Takes seconds.
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
    # Takes minutes: about 1,500 photographs.
    "quick": WorldConfig(),
    # Takes hours: more than 100,000 photographs, written in resumable parts.
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
        ConfigError: there is no such preset or field; the message suggests the nearest name.
        WorldError: a value is of the wrong type or out of range.
    """
    require_known("world preset", preset, PRESETS)
    fields = [field.name for field in dataclasses.fields(WorldConfig)]
    for name, value in changes.items():
        require_known("world field", name, fields)
        if name not in KNOBS and not isinstance(value, int):
            raise WorldError(f"world: {name} is {value}, expected a whole number")
    typed: dict[str, Any] = {
        name: float(value) if name in KNOBS else value for name, value in changes.items()
    }
    return dataclasses.replace(PRESETS[preset], **typed)
