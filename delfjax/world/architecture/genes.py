"""The measures of a landmark: what its family has in common, and how far the member deviates."""

from __future__ import annotations

from dataclasses import dataclass

from delfjax.rng import named_generator
from delfjax.world.solids import Colour, Real

# Standard deviation of a member's measures from those of its family at likeness 0, as a share of
# the range of each measure.
_DEVIATION = 0.3


@dataclass(frozen=True)
class Genes:
    """Everything random about one landmark, drawn by name.

    The same name gives the members of a family similar values, and one landmark always the same
    value.

    Attributes:
        seed: seed of the world.
        family: number of the family.
        member: number of the landmark.
        likeness: how alike the members of a family are: at 1 they differ only in their ornaments,
            at 0 as much as the grammar allows.
    """

    seed: int
    family: int
    member: int
    likeness: float

    def share(self, name: str) -> float:
        """A number in [0, 1] for the measure ``name``."""
        family = named_generator(self.seed, f"family {self.family} {name}").uniform()
        member = named_generator(self.seed, f"member {self.member} {name}").normal()
        return min(max(family + (1 - self.likeness) * _DEVIATION * member, 0.0), 1.0)

    def span(self, name: str, low: Real, high: Real) -> float:
        """The measure ``name``, between ``low`` and ``high``."""
        return low + (high - low) * self.share(name)

    def count(self, name: str, low: int, high: int) -> int:
        """The whole number ``name``, from ``low`` to ``high`` inclusive."""
        return min(int(self.span(name, low, high + 1)), high)

    def own_seed(self, name: str) -> int:
        """A seed drawn for this landmark alone, independent of its family."""
        return int(
            named_generator(self.seed, f"member {self.member} seed {name}").integers(1, 65_000)
        )

    def tint(self, colour: Colour) -> Colour:
        """``colour`` (linear RGB) with a small cast of this landmark's own."""
        rng = named_generator(self.seed, f"member {self.member} tint")
        factors = 1 + (0.03 + 0.1 * (1 - self.likeness)) * rng.normal(size=3)
        red, green, blue = (
            float(min(max(c * f, 0.02), 0.9)) for c, f in zip(colour, factors, strict=True)
        )
        return red, green, blue
