"""Who lives in a world: its landmarks, where they stand, and every photograph there is of them,
before any is taken.

Landmarks are numbered: those that are searched for, then those for training, then strangers, which
are only seen by distractors and by queries without a match. Half of the strangers belong to
families of landmarks that are searched for: they look like one and are another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from delfjax.rng import named_generator
from delfjax.world.architecture import Landmark, make_landmark
from delfjax.world.knobs import WorldConfig
from delfjax.world.photography import Shot, Site, take_shot

SPLITS = ("train", "database", "query", "distractor", "no_match")
# Photographs in a folder.
FOLDER_SIZE = 1000
# Share of the landmarks that have another one beside them.
_PAIRED = 0.2
# Share of distractors and of queries without a match that show a street and no landmark at all.
_STREETS = 0.5
# Strangers there are for each photograph of one.
_STRANGERS_PER_PHOTO = 0.5
_KM_PER_DEGREE = 111.2
# Cities are far apart; the landmarks of one are within walking distance.
_LANDMARKS_PER_CITY = 6
_CITY_RADIUS_KM = 3.0


@dataclass(frozen=True)
class Frame:
    """One photograph to be taken.

    Attributes:
        number: its position among all photographs of the world.
        split: one of :data:`SPLITS`.
        index: its position in its split.
        landmark: number of the landmark it is taken of; −1 for a street.
    """

    number: int
    split: str
    index: int
    landmark: int

    @property
    def path(self) -> str:
        """Where it lies under the root of the world."""
        return f"{self.split}/{self.index // FOLDER_SIZE:03d}/{self.index:07d}.jpg"


@dataclass(frozen=True)
class Place:
    """A landmark on the globe: latitude and longitude in degrees, and the compass direction it
    faces in radians."""

    latitude: float
    longitude: float
    facing: float

    def moved(self, east_m: float, north_m: float) -> tuple[float, float]:
        """Latitude and longitude of a point some metres away, degrees."""
        latitude = self.latitude + north_m / 1000 / _KM_PER_DEGREE
        return latitude, self.longitude + east_m / 1000 / _KM_PER_DEGREE / math.cos(
            math.radians(self.latitude)
        )


class Census:
    """The landmarks of a world and its photographs.

    Args:
        config: of the world.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        seen = config.distractors + config.no_match
        self.strangers = (
            max(math.ceil(seen * (1 - _STREETS) * _STRANGERS_PER_PHOTO), 2) if seen else 0
        )
        self.landmark = lru_cache(maxsize=512)(self._landmark)

    @property
    def landmark_count(self) -> int:
        """All landmarks, strangers included."""
        return self.config.landmarks + self.config.train_landmarks + self.strangers

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Photographs ``start`` … ``stop`` − 1, in order."""
        for number in range(
            start, self.frame_count if stop is None else min(stop, self.frame_count)
        ):
            yield self.frame(number)

    @property
    def frame_count(self) -> int:
        """How many photographs there are."""
        return sum(count for _, count in self._splits())

    def frame(self, number: int) -> Frame:
        """Photograph ``number``."""
        index = number
        for split, count in self._splits():
            if index < count:
                return Frame(number, split, index, self._subject(split, index))
            index -= count
        raise IndexError(f"photograph {number} of {self.frame_count}")

    def family(self, number: int) -> int:
        """Family of a landmark."""
        config = self.config
        searched = math.ceil(config.landmarks / config.family_size)
        trained = math.ceil(config.train_landmarks / config.family_size)
        if number < config.landmarks:
            return number // config.family_size
        if number < config.landmarks + config.train_landmarks:
            return searched + (number - config.landmarks) // config.family_size
        stranger = number - config.landmarks - config.train_landmarks
        # Every other stranger looks like a landmark that is searched for.
        return stranger // 2 % searched if stranger % 2 == 0 else searched + trained + stranger // 2

    def place(self, number: int) -> Place:
        """Where on the globe a landmark stands."""
        first = self._partner(number)
        if first is not None and first < number:
            # The second of a pair stands where the first says.
            host = self.place(first)
            dx, dy = self.neighbour_at(first)
            # The landmark's −y points to `facing`, its −x a quarter turn clockwise from there.
            cosine, sine = math.cos(host.facing), math.sin(host.facing)
            latitude, longitude = host.moved(-dx * cosine - dy * sine, dx * sine - dy * cosine)
            return Place(latitude, longitude, host.facing)
        city = named_generator(self.config.seed, f"city {self._city(number)}")
        latitude, longitude = (
            math.degrees(math.asin(city.uniform(-0.6, 0.85))),
            city.uniform(-180, 180),
        )
        rng = named_generator(self.config.seed, f"place {number}")
        away, direction = _CITY_RADIUS_KM * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
        centre = Place(latitude, longitude, 0.0)
        latitude, longitude = centre.moved(
            1000 * away * math.sin(direction), 1000 * away * math.cos(direction)
        )
        return Place(latitude, longitude, float(rng.uniform(0, 2 * math.pi)))

    def site(self, number: int) -> Site:
        """What stands where landmark ``number`` is photographed; a street for −1 and below."""
        if number < 0:
            rng = named_generator(self.config.seed, f"street {number}")
            return Site(None, None, (0.0, 0.0), float(rng.uniform(0, 2 * math.pi)), number)
        partner = self._partner(number)
        facing = self.place(number).facing
        if partner is None:
            return Site(self.landmark(number), None, (0.0, 0.0), facing, number)
        first = min(number, partner)
        dx, dy = self.neighbour_at(first)
        at = (dx, dy) if number == first else (-dx, -dy)
        return Site(self.landmark(number), self.landmark(partner), at, facing, first)

    def neighbour_at(self, first: int) -> tuple[float, float]:
        """Where the neighbour of ``first`` stands in the frame of ``first``, metres."""
        second = self._partner(first)
        if second is None:
            raise ValueError(f"landmark {first} has no neighbour")
        rng = named_generator(self.config.seed, f"pair {first}")
        apart = self.landmark(first).radius + self.landmark(second).radius + rng.uniform(1, 6)
        return float(apart * rng.choice((-1, 1))), float(rng.uniform(-2, 10))

    def shot(self, frame: Frame, attempt: int = 0) -> tuple[Site, Shot]:
        """Take a photograph; another ``attempt`` is another photograph of the same subject."""
        site = self.site(frame.landmark)
        rng = named_generator(self.config.seed, f"{frame.split} {frame.index} {attempt}")
        return site, take_shot(site, self.config, rng)

    def shown(self, frame: Frame) -> tuple[int, ...]:
        """Numbers of the landmarks of the site, owner 1 first."""
        partner = None if frame.landmark < 0 else self._partner(frame.landmark)
        return (
            ()
            if frame.landmark < 0
            else (frame.landmark,)
            if partner is None
            else (frame.landmark, partner)
        )

    def _splits(self) -> tuple[tuple[str, int], ...]:
        c = self.config
        of_landmarks = (
            c.train_landmarks * c.train_views,
            c.landmarks * c.database_views,
            c.landmarks * c.query_views,
        )
        return tuple(zip(SPLITS, (*of_landmarks, c.distractors, c.no_match), strict=True))

    def _subject(self, split: str, index: int) -> int:
        config = self.config
        if split == "train":
            return config.landmarks + index % config.train_landmarks
        if split in ("database", "query"):
            return index % config.landmarks
        # Distractors, then queries without a match: streets and strangers by turns; no stranger is
        # in both.
        if index % 2 < 2 * _STREETS - 0.5:
            return -1 - index - (config.distractors if split == "no_match" else 0)
        half = self.strangers // 2
        own = index // 2 % max(half, 1)
        first = config.landmarks + config.train_landmarks
        return first + (own if split == "distractor" else min(half + own, self.strangers - 1))

    def _partner(self, number: int) -> int | None:
        """The landmark beside ``number``, of another family but the same purpose; ``None`` for
        most."""
        config = self.config
        for start, count in ((0, config.landmarks), (config.landmarks, config.train_landmarks)):
            if not start <= number < start + count:
                continue
            stride = count // 2
            own = (number - start) % stride if stride else 0
            if stride < config.family_size or number - start >= 2 * stride:
                return None
            if named_generator(config.seed, f"paired {start + own}").uniform() >= _PAIRED:
                return None
            return number + stride if number - start < stride else number - stride
        return None

    def _city(self, number: int) -> int:
        """City of a landmark. Those of a family stand in different ones, and no city has landmarks
        of two purposes.

        So a landmark in the right city is the right landmark but for unlike ones, and nothing near
        a stranger or a street is in the database: what a query without a match retrieves is wrong
        by its position as well.
        """
        config, first = self.config, 0
        for count in (config.landmarks, config.train_landmarks, max(self.strangers, 1)):
            cities = math.ceil(count / _LANDMARKS_PER_CITY)
            if number < count:
                return first + number % cities
            first, number = first + cities, number - count
        raise IndexError(f"landmark {number} past the last")

    def street(self, rng: np.random.Generator) -> Place:
        """A place in a city of strangers."""
        known = self.config.landmarks + self.config.train_landmarks
        return self.place(known + int(rng.integers(max(self.strangers, 1))))

    def _landmark(self, number: int) -> Landmark:
        return make_landmark(
            number, self.family(number), seed=self.config.seed, likeness=self.config.likeness
        )
