"""A grammar of landmarks: ten kinds of monuments, in families whose members look alike.

A family fixes kind, palette and proportions; a member deviates from it, less the more alike the
world is made, and always has ornaments, stripes and windows of its own. A landmark stands at the
origin and faces south (−y), metres.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from delfjax.rng import named_generator
from delfjax.world.solids import (
    Colour,
    Hole,
    Material,
    Point,
    Real,
    Solid,
    ball,
    box,
    dome,
    placed,
    round_tower,
)

# Deviation of a member from its family when nothing makes them alike, as a share of the range of
# each measure.
_DEVIATION = 0.3

# Stones: wall, joints and stripes, ornaments. Linear RGB of limestone, sandstone, brick, marble,
# granite, plaster, slate.
_STONES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((0.56, 0.50, 0.38), (0.36, 0.31, 0.23), (0.70, 0.66, 0.56)),
    ((0.50, 0.34, 0.20), (0.30, 0.19, 0.11), (0.62, 0.50, 0.34)),
    ((0.36, 0.13, 0.08), (0.52, 0.45, 0.38), (0.62, 0.58, 0.50)),
    ((0.68, 0.66, 0.62), (0.20, 0.26, 0.24), (0.46, 0.24, 0.20)),
    ((0.30, 0.29, 0.28), (0.17, 0.17, 0.18), (0.52, 0.50, 0.46)),
    ((0.66, 0.48, 0.22), (0.70, 0.66, 0.58), (0.74, 0.70, 0.62)),
    ((0.62, 0.34, 0.28), (0.68, 0.60, 0.52), (0.74, 0.68, 0.60)),
    ((0.42, 0.50, 0.48), (0.66, 0.66, 0.62), (0.24, 0.30, 0.30)),
    ((0.24, 0.22, 0.22), (0.40, 0.36, 0.30), (0.56, 0.44, 0.20)),
)
# Roofs: tile, slate, copper, gilding, lead.
_ROOFS: tuple[Colour, ...] = (
    (0.34, 0.12, 0.06),
    (0.10, 0.11, 0.13),
    (0.16, 0.36, 0.30),
    (0.62, 0.42, 0.10),
    (0.26, 0.28, 0.30),
    (0.08, 0.16, 0.30),
)


@dataclass(frozen=True)
class Landmark:
    """One landmark.

    Attributes:
        number: its id in the world.
        family: number of its family; the members of one look alike.
        kind: what it is, such as ``"cathedral"``.
        solids: its parts about the origin.
        height: metres.
        radius: of a circle on the ground that holds it, metres.
    """

    number: int
    family: int
    kind: str
    solids: tuple[Solid, ...]
    height: float
    radius: Real


@dataclass(frozen=True)
class Genes:
    """The measures of one member of a family: what the family has, and how far the member is from
    it.

    Attributes:
        seed: of the world.
        family: number of the family.
        member: number of the landmark.
        likeness: 1 makes all members of a family alike but for their ornaments, 0 makes them
            deviate as much as they may.
    """

    seed: int
    family: int
    member: int
    likeness: float

    def share(self, name: str) -> float:
        """A number between 0 and 1 for the measure ``name``."""
        family = named_generator(self.seed, f"family {self.family} {name}").uniform()
        member = named_generator(self.seed, f"member {self.member} {name}").normal()
        return min(max(family + (1 - self.likeness) * _DEVIATION * member, 0.0), 1.0)

    def span(self, name: str, low: Real, high: Real) -> float:
        """A measure between ``low`` and ``high``."""
        return low + (high - low) * self.share(name)

    def count(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        return min(int(self.span(name, low, high + 1)), high)

    def own(self, name: str) -> int:
        """A seed that no other landmark has."""
        return int(
            named_generator(self.seed, f"member {self.member} seed {name}").integers(1, 65_000)
        )

    def tint(self, colour: Colour) -> Colour:
        """``colour`` a little off, in a way of the member's own."""
        rng = named_generator(self.seed, f"member {self.member} tint")
        factors = 1 + (0.03 + 0.1 * (1 - self.likeness)) * rng.normal(size=3)
        red, green, blue = (
            float(min(max(c * f, 0.02), 0.9)) for c, f in zip(colour, factors, strict=True)
        )
        return red, green, blue


@dataclass(frozen=True)
class _Palette:
    """Materials of one landmark."""

    wall: Material
    plain: Material
    roof: Material
    metal: Material


def kinds() -> tuple[str, ...]:
    """Kinds of landmarks there are."""
    return tuple(_KINDS)


def make_landmark(number: int, family: int, *, seed: int, likeness: float) -> Landmark:
    """A landmark.

    Args:
        number: its id.
        family: number of its family.
        seed: of the world.
        likeness: how alike the members of a family are, 0 … 1.
    """
    genes = Genes(seed, family, number, likeness)
    names = kinds()
    # Families go through the kinds in turn: every world of ten families has all of them.
    kind = names[(family + int(named_generator(seed, "kinds").integers(len(names)))) % len(names)]
    solids = tuple(_KINDS[kind](genes, _palette(genes)))
    height = max(s.base[2] + s.height for s in solids)
    radius = max(math.hypot(s.base[0], s.base[1]) + 0.8 * max(s.half) for s in solids)
    return Landmark(number, family, kind, solids, height, radius)


def _palette(genes: Genes) -> _Palette:
    wall, joints, accent = _STONES[
        int(named_generator(genes.seed, f"family {genes.family} stone").integers(len(_STONES)))
    ]
    roof = _ROOFS[
        int(named_generator(genes.seed, f"family {genes.family} roof").integers(len(_ROOFS)))
    ]
    bricks = genes.share("bricks") > 0.6
    material = Material(
        base=genes.tint(wall),
        second=joints,
        accent=accent,
        masonry=genes.span("masonry", 0.4, 1.0),
        course_m=0.14 if bricks else genes.span("course", 0.35, 0.8),
        block_m=0.35 if bricks else genes.span("block", 0.7, 1.8),
        stripes=genes.span("stripes", 0.3, 0.9) if genes.share("striped") > 0.5 else 0.0,
        stripe_m=genes.span("stripe height", 0.4, 1.6),
        ornament=genes.span("ornament", 0.5, 1.0),
        ornament_m=genes.span("ornament size", 0.9, 1.9),
        storey_m=genes.span("storey", 3.6, 5.5),
        window_pitch_m=genes.span("window pitch", 2.4, 4.2),
        window_width=genes.span("window width", 0.3, 0.5),
        window_height=genes.span("window height", 0.45, 0.7),
        arched=genes.span("arched", 0.0, 1.0) if genes.share("arches") > 0.35 else 0.0,
        grime=genes.span("grime", 0.25, 0.8),
        seed=genes.own("wall"),
    )
    plain = dataclasses.replace(material, window_pitch_m=0.0, stripes=0.0, seed=genes.own("plain"))
    roofing = Material(
        base=genes.tint(roof),
        roof=1.0 if roof[0] > roof[2] else 0.5,
        grime=0.4,
        seed=genes.own("roof"),
    )
    metal = Material(
        base=(0.62, 0.42, 0.10) if genes.share("gilt") > 0.5 else (0.16, 0.36, 0.30),
        gloss=0.5,
        grime=0.2,
    )
    return _Palette(material, plain, roofing, metal)


def _cathedral(genes: Genes, of: _Palette) -> list[Solid]:
    width, length = genes.span("nave width", 9, 13), genes.span("nave length", 18, 28)
    height, tower_width = genes.span("nave height", 11, 16), genes.span("tower width", 4.5, 6.5)
    tower_height, spire = genes.span("tower height", 18, 30), genes.span("spire", 4, 15)
    front = dataclasses.replace(
        of.wall,
        rosette_m=genes.span("rose", 1.8, 0.3 * width),
        rosette_height=0.62,
        window_pitch_m=0.0,
        seed=genes.own("rose"),
    )
    parts = [
        box((0, length / 2, 0), (width, length, height), of.wall),
        box(
            (0, length / 2, height), (width + 0.8, length + 0.4, 0.5 * width), of.roof, taper=(1, 0)
        ),
        box((0, -0.3, 0), (width - 1, 0.8, height + 1.5), front),
        box((0, -0.3, height + 1.5), (width - 1, 0.8, 0.45 * width), of.plain, taper=(1, 0)),
        # The portal: recessed arches.
        box((0, -0.9, 0), (4.4, 0.8, 5.0), _arch(of.plain, 4.4, 0.7, 4.2)),
        box((0, -0.75, 0), (3.4, 0.2, 4.2), _dark(of)),
    ]
    for side in (-1, 1):
        x = side * (width / 2 + tower_width / 2 - 0.6)
        lower = tower_height * 0.7
        parts += [
            box((x, 0.8, 0), (tower_width, tower_width, lower), of.wall),
            box((x, 0.8, lower), (tower_width + 0.6, tower_width + 0.6, 0.5), of.plain),
            box(
                (x, 0.8, lower + 0.5),
                (tower_width - 0.6, tower_width - 0.6, tower_height - lower),
                _belfry(of, genes),
            ),
            box(
                (x, 0.8, tower_height + 0.5),
                (tower_width, tower_width, spire),
                of.roof,
                taper=(1, 1),
            ),
        ]
    if genes.share("crossing") > 0.5:
        parts.append(
            box(
                (0, 0.6 * length, height + 0.2 * width),
                (2.5, 2.5, genes.span("fleche", 8, 16)),
                of.roof,
                taper=(1, 1),
            )
        )
    for k in range(genes.count("buttresses", 3, 5)):
        y = 4 + k * (length - 5) / 4
        parts += [
            box(
                (side * (width / 2 + 0.8), y, 0),
                (1.6, 0.9, 0.75 * height),
                of.plain,
                taper=(0.5, 0),
            )
            for side in (-1, 1)
        ]
    return parts


def _campanile(genes: Genes, of: _Palette) -> list[Solid]:
    width, height, tiers = (
        genes.span("width", 5, 8),
        genes.span("height", 26, 42),
        genes.count("tiers", 3, 5),
    )
    parts = [box((0, 0, 0), (width + 2, width + 2, 1.5), of.plain)]
    level = 1.5
    for tier in range(tiers):
        tall = (height - 1.5) / tiers
        w = width * (1 - 0.04 * tier)
        material = of.wall if tier < tiers - 1 else _belfry(of, genes)
        if tier == tiers // 2:
            material = dataclasses.replace(
                material, rosette_m=genes.span("clock", 1.1, 0.3 * w), rosette_height=0.5
            )
        parts += [
            box(
                (0, 0, level),
                (w, w, tall - 0.6),
                dataclasses.replace(material, seed=genes.own(f"tier {tier}")),
            ),
            box((0, 0, level + tall - 0.6), (w + 0.8, w + 0.8, 0.6), of.plain),
        ]
        level += tall
    top = genes.share("top")
    if top < 0.4:
        parts.append(
            box((0, 0, level), (width, width, genes.span("spire", 5, 14)), of.roof, taper=(1, 1))
        )
    elif top < 0.7:
        parts += [
            round_tower((0, 0, level), 0.36 * width, 3.0, of.plain),
            dome((0, 0, level + 3.0), 0.4 * width, 0.5 * width, of.roof),
            ball((0, 0, level + 3.2 + 0.5 * width), (0.4, 0.4, 0.6), of.metal),
        ]
    else:
        parts += _battlements((0, 0, level), (width + 0.8, width + 0.8), of.plain)
    return parts


def _domed(genes: Genes, of: _Palette) -> list[Solid]:
    width, height = genes.span("width", 18, 28), genes.span("height", 8, 12)
    radius, drum = genes.span("dome radius", 0.22, 0.34) * width, genes.span("drum", 3, 7)
    rise = radius * genes.span("dome rise", 0.8, 1.5)
    ribbed = dataclasses.replace(of.roof, ornament=0.8, ornament_m=1.6, accent=of.plain.accent)
    parts = [
        box((0, 6, 0), (width, 14, height), of.wall),
        box((0, 6, height), (width + 1, 15, 0.8), of.plain),
        *_portico(genes, of, width=0.45 * width, height=height),
        round_tower(
            (0, 6, height),
            radius * 0.96,
            drum,
            dataclasses.replace(of.wall, window_pitch_m=2.2, storey_m=drum),
        ),
        round_tower((0, 6, height + drum), radius * 1.06, 0.6, of.plain),
        dome((0, 6, height + drum + 0.5), radius, rise, ribbed),
        round_tower((0, 6, height + drum + rise), 0.16 * radius, 2.2, of.plain),
        dome((0, 6, height + drum + rise + 2.2), 0.2 * radius, 1.5, of.metal),
    ]
    if genes.share("turrets") > 0.45:
        tall = height + genes.span("turret", 4, 9)
        for side in (-1, 1):
            x = side * (width / 2 - 1.8)
            parts += [
                round_tower((x, 0.8, 0), 1.8, tall, of.wall),
                dome((x, 0.8, tall), 2.0, 2.4, of.roof),
                round_tower((x, 0.8, tall + 2.3), 0.15, 2.0, of.metal, casts=False),
            ]
    return parts


def _triumphal_arch(genes: Genes, of: _Palette) -> list[Solid]:
    width, height, depth = (
        genes.span("width", 13, 20),
        genes.span("height", 13, 19),
        genes.span("depth", 4, 6),
    )
    opening, rise = (
        genes.span("opening", 0.32, 0.42) * width,
        genes.span("rise", 0.6, 0.72) * height,
    )
    pier = (width - opening) / 2
    attic = genes.span("attic", 2.5, 4.0)
    face = dataclasses.replace(of.plain, seed=genes.own("face"), storey_m=height / 3)
    parts = [
        box((side * (opening + pier) / 2, 0, 0), (pier, depth, height), face) for side in (-1, 1)
    ]
    parts += [
        box((0, 0, rise), (opening, depth, height - rise), face),
        box(
            (0, -depth / 2 - 0.05, 0),
            (width, 0.3, height),
            _arch(face, width, opening / width, rise),
        ),
        box(
            (0, depth / 2 + 0.05, 0),
            (width, 0.3, height),
            _arch(face, width, opening / width, rise),
        ),
        box((0, 0, height), (width + 1.2, depth + 1.2, 0.8), of.plain),
        box(
            (0, 0, height + 0.8),
            (width - 0.6, depth - 0.4, attic),
            dataclasses.replace(
                of.plain, rosette_m=0.4 * attic, rosette_height=0.5, seed=genes.own("attic")
            ),
        ),
    ]
    for x in (-width / 2 + 0.8, -opening / 2 - 0.8, opening / 2 + 0.8, width / 2 - 0.8):
        parts += _column((x, -depth / 2 - 0.9, 0), 0.55, height, of.plain)
        if genes.share("figures") > 0.4:
            parts += placed(_figure(genes, of.metal, 2.2), at=(x, -depth / 2 - 0.6, height + 0.8))
    if genes.share("crowned") > 0.5:
        parts += placed(_figure(genes, of.metal, 4.0), at=(0, 0, height + 0.8 + attic))
    return parts


def _monument(genes: Genes, of: _Palette) -> list[Solid]:
    """A figure on a pedestal, on steps."""
    pedestal, tall = genes.span("pedestal", 3.5, 8), genes.span("figure", 4.5, 8)
    width = genes.span("pedestal width", 2.4, 4.2)
    carved = dataclasses.replace(
        of.plain,
        rosette_m=0.36 * width,
        rosette_height=0.55,
        seed=genes.own("relief"),
        storey_m=2.5,
    )
    parts = [
        box((0, 0, 0.35 * k), (width + 4 - 1.2 * k, width + 4 - 1.2 * k, 0.35), of.plain)
        for k in range(3)
    ]
    parts += [
        box((0, 0, 1.05), (width, width, pedestal), carved, taper=(0.08, 0.08)),
        box((0, 0, 1.05 + pedestal), (width + 0.5, width + 0.5, 0.4), of.plain),
    ]
    statue = (
        of.metal
        if genes.share("bronze") > 0.5
        else dataclasses.replace(of.plain, masonry=0.0, ornament=0.0)
    )
    if genes.share("rider") > 0.55:
        parts += placed(_rider(genes, statue, tall), at=(0, 0, 1.45 + pedestal))
    else:
        parts += placed(_figure(genes, statue, tall), at=(0, 0, 1.45 + pedestal))
    if genes.share("guards") > 0.5:
        for side in (-1, 1):
            parts += placed(_figure(genes, statue, 2.4), at=(side * (width / 2 + 1.4), -0.6, 0.7))
    return parts


def _castle(genes: Genes, of: _Palette) -> list[Solid]:
    width, wall, radius = (
        genes.span("width", 18, 28),
        genes.span("wall", 8, 12),
        genes.span("radius", 2.6, 4.2),
    )
    tower = wall + genes.span("tower", 3, 9)
    small = dataclasses.replace(of.wall, window_pitch_m=5.0, window_width=0.18, window_height=0.4)
    gate = dataclasses.replace(of.plain, rosette_m=1.1, rosette_height=0.78, seed=genes.own("arms"))
    parts = [
        box((0, 0, 0), (width, 2.4, wall), small),
        *_battlements((0, 0, wall), (width, 2.4), of.plain),
        box((0, -1.6, 0), (6, 2.2, wall + 2), gate),
        box((0, -2.75, 0), (6, 0.3, wall + 2), _arch(gate, 6, 0.5, 4.4)),
        *_battlements((0, -1.6, wall + 2), (6.2, 2.4), of.plain),
        box((0, -2.72, 0), (3.4, 0.1, 4.5), _dark(of)),
    ]
    for side in (-1, 1):
        grown = tower + side * genes.span("uneven", 0, 3)
        parts.append(round_tower((side * width / 2, 0, 0), radius, grown, small))
        if genes.share("cones") > 0.4:
            parts.append(
                round_tower(
                    (side * width / 2, 0, grown),
                    radius + 0.6,
                    genes.span("cone", 4, 9),
                    of.roof,
                    taper=(1, 0),
                )
            )
        else:
            parts.append(round_tower((side * width / 2, 0, grown), radius + 0.5, 1.2, of.plain))
    keep = genes.span("keep", 6, 10)
    x, top, roof = (
        genes.span("keep x", -5, 5),
        wall + genes.span("keep height", 6, 14),
        genes.span("keep roof", 3, 7),
    )
    return [
        *parts,
        box((x, 9, 0), (keep, keep, top), of.wall),
        box((x, 9, top), (keep + 1, keep + 1, roof), of.roof, taper=(1, 0.5)),
    ]


def _pagoda(genes: Genes, of: _Palette) -> list[Solid]:
    tiers, width = genes.count("tiers", 3, 7), genes.span("width", 7, 11)
    round_plan = genes.share("round") > 0.6
    parts = [box((0, 0, 0), (width + 5, width + 5, 1.2), of.plain)]
    level = 1.2
    for tier in range(tiers):
        w = width * (1 - tier * genes.span("narrowing", 0.06, 0.12))
        storey = genes.span("storey height", 2.6, 3.8) * (1 - 0.04 * tier)
        wall = dataclasses.replace(
            of.wall, storey_m=storey, window_pitch_m=1.8, seed=genes.own(f"tier {tier}")
        )
        eaves = genes.span("eaves", 1.2, 2.2)
        if round_plan:
            parts += [
                round_tower((0, 0, level), 0.5 * w, storey, wall),
                round_tower((0, 0, level + storey), 0.5 * w + eaves, 1.3, of.roof, taper=(0.45, 0)),
            ]
        else:
            parts += [
                box((0, 0, level), (w, w, storey), wall),
                box(
                    (0, 0, level + storey),
                    (w + 2 * eaves, w + 2 * eaves, 1.3),
                    of.roof,
                    taper=(0.4, 0.4),
                ),
            ]
        level += storey + 1.1
    parts += [
        round_tower((0, 0, level), 0.5, genes.span("finial", 3, 7), of.metal, taper=(0.9, 0)),
        ball((0, 0, level + 1.4), (0.8, 0.8, 0.5), of.metal),
    ]
    return parts


def _column_monument(genes: Genes, of: _Palette) -> list[Solid]:
    """A column or an obelisk."""
    height = genes.span("height", 18, 34)
    base = genes.span("base", 4, 6.5)
    carved = dataclasses.replace(
        of.plain, rosette_m=0.3 * base, rosette_height=0.5, seed=genes.own("base")
    )
    parts = [
        box((0, 0, 0), (base + 3, base + 3, 0.6), of.plain),
        box((0, 0, 0.6), (base, base, base * 0.8), carved),
        box((0, 0, 0.6 + base * 0.8), (base + 0.6, base + 0.6, 0.4), of.plain),
    ]
    level = 1.0 + base * 0.8
    spiral = dataclasses.replace(
        of.plain, storey_m=genes.span("rings", 1.8, 3.2), ornament=1.0, seed=genes.own("shaft")
    )
    if genes.share("obelisk") > 0.5:
        w = base * 0.55
        parts += [
            box((0, 0, level), (w, w, height), spiral, taper=(0.35, 0.35)),
            box((0, 0, level + height), (0.65 * w, 0.65 * w, 2.0), of.metal, taper=(1, 1)),
        ]
    else:
        parts += [
            round_tower((0, 0, level), 0.28 * base, height, spiral, taper=(0.15, 0)),
            box((0, 0, level + height), (0.75 * base, 0.75 * base, 0.8), of.plain),
        ]
        parts += placed(
            _figure(genes, of.metal, genes.span("figure", 3, 5)), at=(0, 0, level + height + 0.8)
        )
    return parts


def _temple(genes: Genes, of: _Palette) -> list[Solid]:
    columns, height = genes.count("columns", 6, 9), genes.span("height", 7, 11)
    pitch = genes.span("pitch", 2.2, 3.0)
    width = columns * pitch
    parts = [
        box((0, 5, 0.4 * k), (width + 4 - 1.2 * k, 15 - 1.2 * k, 0.4), of.plain) for k in range(3)
    ]
    parts.append(
        box(
            (0, 6, 1.2),
            (width - 4, 9, height - 1),
            dataclasses.replace(of.wall, window_pitch_m=0.0),
        )
    )
    for k in range(columns):
        x = (k - (columns - 1) / 2) * pitch
        parts += _column(
            (x, -0.6, 1.2), 0.3 * pitch * genes.span("stout", 0.8, 1.1), height, of.plain
        )
    for side in (-1, 1):
        for k in range(1, 4):
            parts += _column(
                (side * (width - pitch) / 2, -0.6 + 3.2 * k, 1.2), 0.28 * pitch, height, of.plain
            )
    frieze = dataclasses.replace(
        of.plain, storey_m=1.0, ornament=1.0, ornament_m=0.95, seed=genes.own("frieze")
    )
    pediment = dataclasses.replace(
        of.plain, rosette_m=0.09 * width, rosette_height=0.38, seed=genes.own("pediment")
    )
    parts += [
        box((0, 5, 1.2 + height), (width + 0.6, 13, 1.6), frieze),
        box((0, -1.4, 2.8 + height), (width + 0.6, 0.6, 0.2 * width), pediment, taper=(1, 0)),
        box((0, 5.3, 2.8 + height), (width + 1, 12.6, 0.19 * width), of.roof, taper=(1, 0)),
    ]
    return parts


def _palace(genes: Genes, of: _Palette) -> list[Solid]:
    width, height, wing = (
        genes.span("width", 26, 38),
        genes.span("height", 9, 14),
        genes.span("wing", 5, 8),
    )
    middle, mansard = genes.span("middle", 8, 12), (0.12, genes.span("mansard", 0.5, 0.95))
    parts = [
        box((0, 3, 0), (width, 8, height), of.wall),
        box((0, 3, height), (width + 0.8, 8.8, 0.5), of.plain),
        box((0, 3, height + 0.5), (width, 8, genes.span("roof", 2.5, 5)), of.roof, taper=mansard),
        box(
            (0, -0.4, 0),
            (middle, 3, height + 2),
            dataclasses.replace(of.wall, seed=genes.own("middle")),
        ),
        *_portico(genes, of, width=middle * 0.9, height=height * 0.8),
    ]
    top = height + 2
    if genes.share("central dome") > 0.5:
        parts += [
            round_tower((0, 2, top), 0.36 * middle, 2.5, of.wall),
            dome((0, 2, top + 2.5), 0.4 * middle, genes.span("rise", 3, 6), of.roof),
        ]
    else:
        carved = dataclasses.replace(
            of.plain, rosette_m=1.3, rosette_height=0.36, seed=genes.own("gable")
        )
        parts.append(box((0, -0.6, top), (middle + 0.6, 2.6, 0.35 * middle), carved, taper=(1, 0)))
    for side in (-1, 1):
        x = side * (width / 2 - wing / 2)
        parts += [
            box(
                (x, 1, 0),
                (wing, 9, height + 1),
                dataclasses.replace(of.wall, seed=genes.own("wing")),
            ),
            box(
                (x, 1, height + 1),
                (wing + 0.6, 9.6, genes.span("wing roof", 3, 7)),
                of.roof,
                taper=(1, 0.6),
            ),
        ]
    return parts


def _portico(genes: Genes, of: _Palette, *, width: Real, height: Real) -> list[Solid]:
    columns = genes.count("portico columns", 4, 6)
    pitch = width / columns
    parts = [box((0, -2.6, 0), (width + 1.5, 4, 0.6), of.plain)]
    for k in range(columns):
        parts += _column(
            ((k - (columns - 1) / 2) * pitch, -3.6, 0.6), 0.24 * pitch, height - 1.8, of.plain
        )
    carved = dataclasses.replace(
        of.plain, rosette_m=0.07 * width, rosette_height=0.36, seed=genes.own("portico")
    )
    parts += [
        box(
            (0, -2.4, height - 1.2),
            (width + 0.8, 3.6, 1.2),
            dataclasses.replace(of.plain, storey_m=0.6, ornament_m=0.8),
        ),
        box((0, -2.4, height), (width + 1.2, 3.8, 0.24 * width), carved, taper=(1, 0)),
    ]
    return parts


def _column(base: Point, radius: Real, height: Real, material: Material) -> list[Solid]:
    x, y, z = base
    shaft = dataclasses.replace(material, ornament=0.0, masonry=0.3, course_m=1.4, block_m=20.0)
    return [
        box((x, y, z), (2.5 * radius, 2.5 * radius, 0.4), shaft),
        round_tower((x, y, z + 0.4), radius, height - 0.9, shaft, taper=(0.15, 0)),
        box((x, y, z + height - 0.5), (2.5 * radius, 2.5 * radius, 0.5), shaft),
    ]


def _battlements(base: Point, size: tuple[Real, Real], material: Material) -> list[Solid]:
    """A parapet with crenels: a thin wall on each long side with gaps cut out from above."""
    x, y, z = base
    width, depth = size
    count = max(int(width / 1.6), 3)
    merlons = [
        box(
            (x - width / 2 + (k + 0.5) * width / count, y - depth / 2 + 0.3, z + 0.7),
            (0.55 * width / count, 0.6, 0.9),
            material,
        )
        for k in range(count)
    ]
    return [box((x, y, z), (width + 0.3, depth + 0.3, 0.7), material), *merlons]


def _figure(genes: Genes, material: Material, tall: Real) -> list[Solid]:
    """A standing figure in a cloak, one arm raised."""
    plain = dataclasses.replace(material, ornament=0.0, masonry=0.0, window_pitch_m=0.0)
    lean = genes.span("lean", -0.08, 0.08) * tall
    reach = genes.span("reach", 0.12, 0.26) * tall
    side = 1 if genes.share("hand") > 0.5 else -1
    parts = [
        round_tower((0, 0, 0), 0.19 * tall, 0.55 * tall, plain, taper=(0.45, 0)),
        ball((lean / 2, 0, 0.62 * tall), (0.15 * tall, 0.11 * tall, 0.18 * tall), plain),
        ball((lean, 0, 0.88 * tall), (0.075 * tall, 0.08 * tall, 0.1 * tall), plain),
        ball(
            (side * 0.5 * reach + lean, -0.05 * tall, 0.76 * tall),
            (0.5 * reach, 0.05 * tall, 0.055 * tall),
            plain,
        ),
        ball(
            (side * reach + lean, -0.05 * tall, 0.86 * tall),
            (0.05 * tall, 0.05 * tall, 0.14 * tall),
            plain,
        ),
        ball(
            (-side * 0.15 * tall, -0.02 * tall, 0.55 * tall),
            (0.055 * tall, 0.06 * tall, 0.2 * tall),
            plain,
        ),
    ]
    attribute = genes.share("attribute")
    if attribute > 0.66:
        parts.append(
            round_tower(
                (side * (reach + 0.01) + lean, -0.05 * tall, 0.2 * tall),
                0.018 * tall,
                1.0 * tall,
                plain,
            )
        )
    elif attribute > 0.33:
        wing = (0.14 * tall, 0.03 * tall, 0.24 * tall)
        parts += [ball((s * 0.2 * tall, 0.08 * tall, 0.7 * tall), wing, plain) for s in (-1, 1)]
    return parts


def _rider(genes: Genes, material: Material, tall: Real) -> list[Solid]:
    """A rider on a horse that looks to one side."""
    plain = dataclasses.replace(material, ornament=0.0, masonry=0.0, window_pitch_m=0.0)
    turned = 1 if genes.share("horse") > 0.5 else -1
    half = 0.36 * tall
    legs = [
        round_tower((turned * x * half, y, 0), 0.05 * tall, 0.36 * tall, plain)
        for x, y in ((-0.75, -0.1), (-0.7, 0.12), (0.7, 0.12))
    ]
    raised = ball(
        (turned * 1.0 * half, -0.1, 0.3 * tall), (0.13 * tall, 0.05 * tall, 0.06 * tall), plain
    )
    horse = [
        ball((0, 0, 0.45 * tall), (half, 0.14 * tall, 0.15 * tall), plain),
        ball((turned * 0.95 * half, 0, 0.62 * tall), (0.1 * tall, 0.07 * tall, 0.2 * tall), plain),
        ball(
            (turned * 1.25 * half, 0, 0.76 * tall), (0.14 * tall, 0.06 * tall, 0.07 * tall), plain
        ),
        ball(
            (-turned * 1.1 * half, 0, 0.36 * tall), (0.05 * tall, 0.05 * tall, 0.18 * tall), plain
        ),
    ]
    person = placed(_figure(genes, material, 0.62 * tall), at=(0, 0, 0.48 * tall))
    return [*legs, raised, *horse, *person]


def _arch(material: Material, width: Real, share: Real, height: Real) -> Material:
    """A wall of ``width`` with one arched opening in its middle."""
    return dataclasses.replace(
        material, hole=Hole.ARCHES, hole_pitch_m=width, hole_width=share, hole_height_m=height
    )


def _belfry(of: _Palette, genes: Genes) -> Material:
    """Tall, wide, dark windows."""
    return dataclasses.replace(
        of.wall,
        window_pitch_m=genes.span("belfry pitch", 1.8, 3.0),
        storey_m=9.0,
        window_width=0.55,
        window_height=0.8,
        seed=genes.own("belfry"),
    )


def _dark(of: _Palette) -> Material:
    """The inside of a gate."""
    return dataclasses.replace(of.plain, base=(0.05, 0.04, 0.035), masonry=0.0, ornament=0.0)


_KINDS: dict[str, Callable[[Genes, _Palette], list[Solid]]] = {
    "cathedral": _cathedral,
    "campanile": _campanile,
    "domed": _domed,
    "triumphal arch": _triumphal_arch,
    "monument": _monument,
    "castle": _castle,
    "pagoda": _pagoda,
    "column": _column_monument,
    "temple": _temple,
    "palace": _palace,
}
