"""The census of a world: its landmarks, where they stand, and the list of its photographs.

Everything follows from the configuration, before anything is rendered. Landmarks are numbered:
first the targets, which queries search for; then those for training; then the strangers, which
appear only in distractors and in queries without a match. Half of the strangers belong to families
of targets: they look like a target but are another landmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from delfjax.rng import named_generator
from delfjax.world.architecture.grammar import Landmark, make_landmark
from delfjax.world.knobs import WorldConfig
from delfjax.world.photography import Shot, Site, take_shot

SPLITS = ("train", "database", "query", "distractor", "no_match")
# Photographs in a folder.
FOLDER_SIZE = 1000
# Share of the landmarks that have a second landmark beside them.
_PAIRED = 0.2
# Share of distractors, and of queries without a match, that show a street without any landmark.
_STREETS = 0.5
# Strangers per photograph of a stranger.
_STRANGERS_PER_PHOTO = 0.5
_KM_PER_DEGREE = 111.2
# Cities are far apart; the landmarks of one are within walking distance.
_LANDMARKS_PER_CITY = 6
_CITY_RADIUS_KM = 3.0


@dataclass(frozen=True)
class Frame:
    """The entry of one photograph in the census.

    Attributes:
        number: position among all photographs of the world.
        split: one of :data:`SPLITS`.
        index: position within the split.
        landmark: number of the landmark that is photographed; negative for a street.
    """

    number: int
    split: str
    index: int
    landmark: int

    @property
    def path(self) -> str:
        """Path of the file, relative to the root of the world."""
        return f"{self.split}/{self.index // FOLDER_SIZE:03d}/{self.index:07d}.jpg"


@dataclass(frozen=True)
class Place:
    """A landmark on the globe.

    Attributes:
        latitude: degrees.
        longitude: degrees.
        facing: compass direction the landmark faces, radians clockwise from north.
    """

    latitude: float
    longitude: float
    facing: float

    def moved(self, east_m: float, north_m: float) -> tuple[float, float]:
        """Latitude and longitude, degrees, of the point so many metres east and north of here."""
        latitude = self.latitude + north_m / 1000 / _KM_PER_DEGREE
        shrinking = math.cos(math.radians(self.latitude))
        return latitude, self.longitude + east_m / 1000 / _KM_PER_DEGREE / shrinking


class Census:
    """The landmarks of a world and its photographs.

    Args:
        config: configuration of the world.

    Attributes:
        config: configuration of the world.
        strangers: number of landmarks that are neither searched for nor trained on.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        photos = config.distractors + config.no_match
        strangers = math.ceil(photos * (1 - _STREETS) * _STRANGERS_PER_PHOTO)
        self.strangers = max(strangers, 2) if photos else 0
        self.landmark = lru_cache(maxsize=512)(self._landmark)

    @property
    def landmark_count(self) -> int:
        """Number of landmarks, strangers included."""
        return self.config.landmarks + self.config.train_landmarks + self.strangers

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Photographs ``start`` to ``stop`` − 1 in order; without ``stop``, to the last."""
        end = self.frame_count if stop is None else min(stop, self.frame_count)
        for number in range(start, end):
            yield self.frame(number)

    @property
    def frame_count(self) -> int:
        """Number of photographs."""
        return sum(count for _, count in self._splits())

    def frame(self, number: int) -> Frame:
        """Photograph ``number``.

        Raises:
            IndexError: the world has fewer photographs.
        """
        index = number
        for split, count in self._splits():
            if index < count:
                return Frame(number, split, index, self._subject(split, index))
            index -= count
        raise IndexError(f"photograph {number}: the world has {self.frame_count}, numbered from 0")

    def family(self, number: int) -> int:
        """Number of the family of a landmark."""
        config = self.config
        targeted = math.ceil(config.landmarks / config.family_size)
        trained = math.ceil(config.train_landmarks / config.family_size)
        if number < config.landmarks:
            return number // config.family_size
        if number < config.landmarks + config.train_landmarks:
            return targeted + (number - config.landmarks) // config.family_size
        stranger = number - config.landmarks - config.train_landmarks
        # Every other stranger looks like a target.
        if stranger % 2 == 0:
            return stranger // 2 % targeted
        return targeted + trained + stranger // 2

    def place(self, number: int) -> Place:
        """Where a landmark stands on the globe."""
        first = self._partner(number)
        if first is not None and first < number:
            # The first landmark of a pair decides where the second stands.
            host = self.place(first)
            dx, dy = self.neighbour_at(first)
            # The landmark's −y points along `facing`, its −x a quarter turn clockwise from there.
            cosine, sine = math.cos(host.facing), math.sin(host.facing)
            latitude, longitude = host.moved(-dx * cosine - dy * sine, dx * sine - dy * cosine)
            return Place(latitude, longitude, host.facing)
        city = named_generator(self.config.seed, f"city {self._city(number)}")
        latitude = math.degrees(math.asin(city.uniform(-0.6, 0.85)))
        longitude = city.uniform(-180, 180)
        rng = named_generator(self.config.seed, f"place {number}")
        away = _CITY_RADIUS_KM * math.sqrt(rng.uniform())
        direction = rng.uniform(0, 2 * math.pi)
        centre = Place(latitude, longitude, 0.0)
        latitude, longitude = centre.moved(
            1000 * away * math.sin(direction), 1000 * away * math.cos(direction)
        )
        return Place(latitude, longitude, float(rng.uniform(0, 2 * math.pi)))

    def site(self, number: int) -> Site:
        """The site of landmark ``number``; a street without landmarks for negative numbers."""
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
        """Position of the neighbour of ``first`` in the frame of ``first``, metres.

        Raises:
            ValueError: ``first`` has no neighbour.
        """
        second = self._partner(first)
        if second is None:
            raise ValueError(f"landmark {first} has no neighbour")
        rng = named_generator(self.config.seed, f"pair {first}")
        apart = self.landmark(first).radius + self.landmark(second).radius + rng.uniform(1, 6)
        return float(apart * rng.choice((-1, 1))), float(rng.uniform(-2, 10))

    def shot(self, frame: Frame, attempt: int = 0) -> tuple[Site, Shot]:
        """Site and shot of a photograph; each ``attempt`` is another shot of the same subject."""
        site = self.site(frame.landmark)
        rng = named_generator(self.config.seed, f"{frame.split} {frame.index} {attempt}")
        return site, take_shot(site, self.config, rng)

    def shown(self, frame: Frame) -> tuple[int, ...]:
        """Numbers of the landmarks at the site of a photograph: owner 1, then owner 2."""
        if frame.landmark < 0:
            return ()
        partner = self._partner(frame.landmark)
        return (frame.landmark,) if partner is None else (frame.landmark, partner)

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
        # Distractors and queries without a match show streets and strangers in turn; no stranger
        # appears in both splits.
        if index % 2 < 2 * _STREETS - 0.5:
            return -1 - index - (config.distractors if split == "no_match" else 0)
        half = self.strangers // 2
        own = index // 2 % max(half, 1)
        first = config.landmarks + config.train_landmarks
        return first + (own if split == "distractor" else min(half + own, self.strangers - 1))

    def _partner(self, number: int) -> int | None:
        """The landmark beside ``number``, or ``None``, as for most landmarks.

        The two of a pair are of different families, and both are targets or both for training.
        """
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
        """Number of the city of a landmark.

        The members of a family stand in different cities, so that of the look-alikes only the right
        one is in the right city. Targets, training landmarks and strangers never share a city, so
        that no target stands near a stranger or a street: whatever a query without a match
        retrieves is wrong by its position too.
        """
        config = self.config
        first = 0
        for count in (config.landmarks, config.train_landmarks, max(self.strangers, 1)):
            cities = math.ceil(count / _LANDMARKS_PER_CITY)
            if number < count:
                return first + number % cities
            first += cities
            number -= count
        raise IndexError(f"landmark {number} past the last of the world")

    def street(self, rng: np.random.Generator) -> Place:
        """A random place in a city of strangers."""
        known = self.config.landmarks + self.config.train_landmarks
        return self.place(known + int(rng.integers(max(self.strangers, 1))))

    def _landmark(self, number: int) -> Landmark:
        return make_landmark(
            number, self.family(number), seed=self.config.seed, likeness=self.config.likeness
        )
