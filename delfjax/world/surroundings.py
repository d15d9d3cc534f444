"""What stands around landmarks and in front of them: houses, trees, people, vehicles, lamps.

All landmarks draw from one common stock, so that nothing but a landmark identifies a photograph.
Each object stands at the origin; lengths are metres.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from delfjax.rng import named_generator
from delfjax.world.solids import Colour, Hole, Material, Real, Solid, ball, box, placed, round_tower

# Designs of houses in a world: few enough for each to appear beside many landmarks.
HOUSE_DESIGNS = 40

_PLASTERS: tuple[Colour, ...] = (
    (0.62, 0.55, 0.42),
    (0.55, 0.42, 0.30),
    (0.48, 0.50, 0.52),
    (0.58, 0.36, 0.26),
    (0.40, 0.17, 0.11),
    (0.66, 0.64, 0.60),
    (0.34, 0.36, 0.38),
    (0.60, 0.50, 0.24),
)
_ROOFS: tuple[Colour, ...] = (
    (0.32, 0.11, 0.06),
    (0.09, 0.10, 0.12),
    (0.22, 0.14, 0.10),
    (0.28, 0.28, 0.29),
)
_CLOTHES: tuple[Colour, ...] = (
    (0.5, 0.06, 0.05),
    (0.05, 0.10, 0.35),
    (0.06, 0.06, 0.07),
    (0.6, 0.58, 0.55),
    (0.08, 0.28, 0.12),
    (0.55, 0.42, 0.05),
    (0.28, 0.10, 0.28),
    (0.30, 0.22, 0.15),
)
_SKINS: tuple[Colour, ...] = (
    (0.55, 0.34, 0.24),
    (0.36, 0.20, 0.12),
    (0.14, 0.08, 0.05),
    (0.62, 0.42, 0.32),
)
_CARS: tuple[Colour, ...] = (
    (0.45, 0.03, 0.03),
    (0.03, 0.06, 0.22),
    (0.55, 0.55, 0.56),
    (0.04, 0.04, 0.045),
    (0.65, 0.65, 0.62),
    (0.10, 0.24, 0.14),
    (0.62, 0.45, 0.05),
)
# The last colour is autumnal.
_LEAVES: tuple[Colour, ...] = (
    (0.10, 0.19, 0.04),
    (0.16, 0.22, 0.05),
    (0.06, 0.14, 0.05),
    (0.30, 0.16, 0.03),
)
_GLASS = Material(base=(0.03, 0.035, 0.04), gloss=0.9, grime=0.0)
_RUBBER = Material(base=(0.02, 0.02, 0.02), grime=0.0)
_BARK = Material(base=(0.13, 0.09, 0.06), grime=0.6)


def house(design: int, *, seed: int) -> list[Solid]:
    """A house of the stock, with its front to the south.

    Args:
        design: number of the design, below :data:`HOUSE_DESIGNS`.
        seed: seed of the world.
    """
    rng = named_generator(seed, f"house {design}")
    width = rng.uniform(7, 14)
    depth = rng.uniform(8, 11)
    floors = int(rng.integers(2, 6))
    storey = rng.uniform(2.8, 3.4)
    height = floors * storey
    wall = Material(
        base=_pick(rng, _PLASTERS),
        second=(0.35, 0.33, 0.30),
        accent=(0.62, 0.60, 0.56),
        masonry=float(rng.choice([0.0, 0.7])),
        course_m=0.15,
        block_m=0.4,
        window_pitch_m=rng.uniform(1.9, 3.2),
        storey_m=storey,
        window_width=rng.uniform(0.32, 0.5),
        window_height=rng.uniform(0.45, 0.62),
        arched=float(rng.choice([0.0, 0.0, 0.5])),
        grime=rng.uniform(0.2, 0.7),
        seed=int(rng.integers(1, 65_000)),
    )
    roof = Material(base=_pick(rng, _ROOFS), roof=1.0, grime=0.4, seed=int(rng.integers(1, 65_000)))
    parts = [box((0, 0, 0), (width, depth, height), wall)]
    if rng.uniform() < 0.75:
        taper = (0.0, 1.0) if rng.uniform() < 0.6 else (1.0, 0.0)
        size = (width + 0.5, depth + 0.5, rng.uniform(2.5, 4.5))
        parts.append(box((0, 0, height), size, roof, taper=taper))
        parts.append(box((rng.uniform(-0.3, 0.3) * width, 1.0, height), (0.9, 0.9, 4.6), wall))
    else:
        cornice = dataclasses.replace(wall, window_pitch_m=0.0)
        parts.append(box((0, 0, height), (width + 0.3, depth + 0.3, 0.5), cornice))
    if rng.uniform() < 0.5:
        # A shop, with dark glass and an awning.
        awning = Material(
            base=_pick(rng, _CLOTHES), second=(0.7, 0.7, 0.68), stripes=0.0, grime=0.1
        )
        parts.append(box((0, -depth / 2 - 0.05, 0.3), (0.85 * width, 0.15, 2.3), _GLASS))
        parts.append(
            box((0, -depth / 2 - 0.6, 2.6), (0.88 * width, 1.3, 0.5), awning, taper=(0.0, 0.5))
        )
    return parts


def tree(rng: np.random.Generator) -> list[Solid]:
    """A tree with a crown of leaves, or a conifer."""
    height = rng.uniform(5, 12)
    leaves = _leaves(rng, rng.uniform(0.28, 0.5))
    trunk = round_tower((0, 0, 0), 0.03 * height, 0.55 * height, _BARK, taper=(0.4, 0.0))
    if rng.uniform() < 0.2:
        cone = (0.11 * height, 0.11 * height, 0.45 * height)
        return [trunk, ball((0, 0, 0.55 * height), cone, leaves)]
    crown = [ball((0, 0, 0.68 * height), (0.27 * height, 0.27 * height, 0.3 * height), leaves)]
    for _ in range(int(rng.integers(2, 4))):
        angle = rng.uniform(0, 2 * math.pi)
        size = rng.uniform(0.14, 0.2) * height
        centre = (
            0.2 * height * math.cos(angle),
            0.2 * height * math.sin(angle),
            rng.uniform(0.52, 0.78) * height,
        )
        other_leaves = dataclasses.replace(leaves, seed=leaves.seed + 1)
        crown.append(ball(centre, (size, size, 0.9 * size), other_leaves))
    return [trunk, *crown]


def bush(rng: np.random.Generator) -> list[Solid]:
    """A bush or a piece of hedge."""
    size = rng.uniform(0.5, 1.2)
    return [ball((0, 0, 0.5 * size), (1.3 * size, size, 0.8 * size), _leaves(rng, 0.12))]


def person(rng: np.random.Generator) -> list[Solid]:
    """A person, standing or walking."""
    tall = rng.normal(1.72, 0.09)
    top, bottom = _cloth(rng), _cloth(rng)
    skin = Material(base=_pick(rng, _SKINS), grime=0.0)
    hair = Material(
        base=(0.05, 0.035, 0.025) if rng.uniform() < 0.7 else (0.35, 0.22, 0.10), grime=0.0
    )
    step = rng.uniform(0.0, 0.14)
    parts = [
        *(
            round_tower((s * 0.09, s * step, 0), 0.085, 0.5 * tall, bottom, taper=(-0.15, 0.0))
            for s in (-1, 1)
        ),
        ball((0, 0, 0.66 * tall), (0.2, 0.13, 0.2 * tall), top),
        *(
            ball((s * 0.24, s * step * -0.7, 0.62 * tall), (0.06, 0.075, 0.18 * tall), top)
            for s in (-1, 1)
        ),
        ball((0, 0, 0.93 * tall), (0.085, 0.1, 0.115), skin),
        ball((0, 0.025, 0.95 * tall), (0.092, 0.1, 0.11), hair, cut=0.1),
    ]
    if rng.uniform() < 0.35:
        parts.append(ball((0, 0.17, 0.68 * tall), (0.16, 0.1, 0.24), _cloth(rng)))
    return parts


def vehicle(rng: np.random.Generator) -> list[Solid]:
    """A car, or a bus, which hides more; its long side faces south."""
    paint = Material(base=_pick(rng, _CARS), gloss=0.25, grime=0.1)
    if rng.uniform() < 0.25:
        glazed = dataclasses.replace(
            paint,
            window_pitch_m=1.4,
            storey_m=2.9,
            window_width=0.85,
            window_height=0.34,
            accent=paint.base,
        )
        body = [
            box((0, 0, 0.4), (9.5, 2.4, 2.7), glazed),
            box((0, 0, 3.1), (9.3, 2.2, 0.15), paint),
        ]
        wheels = [(x, 0.45) for x in (-3.2, 3.0)]
        half = 1.2
    else:
        cabin = dataclasses.replace(_GLASS, second=paint.base)
        body = [
            box((0, 0, 0.3), (4.2, 1.75, 0.62), paint, taper=(0.04, 0.08)),
            box((-0.2, 0, 0.92), (2.5, 1.6, 0.52), cabin, taper=(0.3, 0.14)),
            box((-0.2, 0, 1.42), (1.8, 1.4, 0.07), paint),
        ]
        wheels = [(x, 0.33) for x in (-1.3, 1.3)]
        half = 0.85
    tyres = [ball((x, s * half, r), (r, 0.12, r), _RUBBER) for x, r in wheels for s in (-1, 1)]
    return [*body, *tyres]


def lamp(rng: np.random.Generator) -> list[Solid]:
    """A street lamp."""
    iron = Material(base=(0.05, 0.06, 0.06), grime=0.1)
    tall = rng.uniform(3.5, 6.0)
    globe = Material(base=(0.7, 0.68, 0.6), gloss=0.3, grime=0.0)
    return [
        round_tower((0, 0, 0), 0.14, 0.8, iron, taper=(0.4, 0.0), casts=False),
        round_tower((0, 0, 0.8), 0.06, tall - 0.8, iron),
        ball((0, 0, tall + 0.2), (0.24, 0.24, 0.3), globe),
    ]


def bough(rng: np.random.Generator) -> list[Solid]:
    """Leaves of a nearby tree that hang into the picture, centred on the origin."""
    leaves = dataclasses.replace(_leaves(rng, rng.uniform(0.42, 0.52)), hole_pitch_m=0.11)
    offsets = rng.normal(0.0, 0.45, (3, 3))
    return [
        ball((float(x), float(y), float(z)), (0.8, 0.5, 0.55), leaves, casts=False)
        for x, y, z in offsets
    ]


def house_around(
    rng: np.random.Generator, place: int, places: int, *, radius: Real, seed: int
) -> list[Solid]:
    """A house behind or beside a landmark, facing it.

    Args:
        rng: decides the design and the exact position.
        place: which of the ``places`` the house takes, counted from east to west.
        places: how many houses share the half circle around the landmark.
        radius: radius of the landmark, metres.
        seed: seed of the world.
    """
    angle = math.pi * ((place + rng.uniform(0.2, 0.8)) / places * 1.24 - 0.12)
    away = radius + rng.uniform(8, 22)
    at = (away * math.cos(angle), away * math.sin(angle) * 0.9 + 6, 0.0)
    return placed(
        house(int(rng.integers(HOUSE_DESIGNS)), seed=seed),
        at=at,
        yaw=angle - math.pi / 2 + rng.normal(0, 0.1),
    )


def _leaves(rng: np.random.Generator, gaps: float) -> Material:
    colour = np.array(_LEAVES[int(rng.choice(len(_LEAVES), p=[0.4, 0.3, 0.2, 0.1]))])
    red, tint, blue = (float(c) for c in colour * (1 + 0.15 * rng.normal(size=3)).clip(0.6, 1.5))
    return Material(
        base=(red, tint, blue),
        foliage=1.0,
        grime=0.0,
        hole=Hole.LEAVES,
        hole_pitch_m=rng.uniform(0.35, 0.6),
        hole_width=gaps,
        seed=int(rng.integers(1, 60_000)),
    )


def _cloth(rng: np.random.Generator) -> Material:
    striped = float(rng.uniform() < 0.2)
    return Material(
        base=_pick(rng, _CLOTHES),
        second=_pick(rng, _CLOTHES),
        stripes=striped,
        stripe_m=0.08,
        grime=0.1,
    )


def _pick(rng: np.random.Generator, choices: tuple[Colour, ...]) -> Colour:
    return choices[int(rng.integers(len(choices)))]
