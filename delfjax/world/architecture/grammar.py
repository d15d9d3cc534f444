"""A grammar of landmarks: ten kinds of monuments, in families whose members look alike.

A family fixes the kind, the palette and the proportions. A member deviates from them, less so the
higher the world's likeness, and always has ornaments, stripes and windows of its own. A landmark
stands at the origin and faces south (−y); lengths are metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from delfjax.rng import named_generator
from delfjax.world.architecture.genes import Genes
from delfjax.world.architecture.monuments import MONUMENTS
from delfjax.world.architecture.palettes import make_palette
from delfjax.world.solids import Real, Solid


@dataclass(frozen=True)
class Landmark:
    """One landmark.

    Attributes:
        number: its number in the world.
        family: number of its family, whose members look alike.
        kind: what it is, a key of :data:`~delfjax.world.architecture.monuments.MONUMENTS` such as
            ``"cathedral"``.
        solids: its parts, placed about the origin.
        height: metres.
        radius: radius of a circle on the ground that holds it, metres.
    """

    number: int
    family: int
    kind: str
    solids: tuple[Solid, ...]
    height: float
    radius: Real


def make_landmark(number: int, family: int, *, seed: int, likeness: float) -> Landmark:
    """Build a landmark.

    Args:
        number: its number in the world.
        family: number of its family.
        seed: seed of the world.
        likeness: how alike the members of a family are, from 0 to 1.
    """
    genes = Genes(seed, family, number, likeness)
    kinds = tuple(MONUMENTS)
    # Families take the kinds in turn, so that every world of ten families has all of them.
    kind = kinds[(family + int(named_generator(seed, "kinds").integers(len(kinds)))) % len(kinds)]
    solids = tuple(MONUMENTS[kind](genes, make_palette(genes)))
    height = max(s.base[2] + s.height for s in solids)
    radius = max(math.hypot(s.base[0], s.base[1]) + 0.8 * max(s.half) for s in solids)
    return Landmark(number, family, kind, solids, height, radius)
