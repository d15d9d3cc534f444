"""The materials of a landmark: stone and roofing chosen by the family, tinted by the member."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from delfjax.rng import named_generator
from delfjax.world.architecture.genes import Genes
from delfjax.world.solids import Colour, Material

# Colours of the wall, of joints and stripes, and of ornaments, linear RGB: limestone, sandstone,
# brick, marble, granite, three plasters, slate.
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
_GILT: Colour = (0.62, 0.42, 0.10)
_VERDIGRIS: Colour = (0.16, 0.36, 0.30)
# Colours of roofs: tile, slate, copper, gilding, lead, blue glaze.
_ROOFS: tuple[Colour, ...] = (
    (0.34, 0.12, 0.06),
    (0.10, 0.11, 0.13),
    _VERDIGRIS,
    _GILT,
    (0.26, 0.28, 0.30),
    (0.08, 0.16, 0.30),
)


@dataclass(frozen=True)
class Palette:
    """The materials of one landmark.

    Attributes:
        wall: walls with windows.
        plain: the same stone without windows and stripes.
        roof: roofing.
        metal: statues, finials and other bronze or gilt parts.
    """

    wall: Material
    plain: Material
    roof: Material
    metal: Material


def make_palette(genes: Genes) -> Palette:
    """The materials of the landmark with these ``genes``."""
    wall_colour, joints, accent = _STONES[
        int(named_generator(genes.seed, f"family {genes.family} stone").integers(len(_STONES)))
    ]
    roof_colour = _ROOFS[
        int(named_generator(genes.seed, f"family {genes.family} roof").integers(len(_ROOFS)))
    ]
    bricks = genes.share("bricks") > 0.6
    wall = Material(
        base=genes.tint(wall_colour),
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
        seed=genes.own_seed("wall"),
    )
    plain = dataclasses.replace(wall, window_pitch_m=0.0, stripes=0.0, seed=genes.own_seed("plain"))
    # Reddish roofs are tiled; on the others the pattern of tiles is faint.
    roof = Material(
        base=genes.tint(roof_colour),
        roof=1.0 if roof_colour[0] > roof_colour[2] else 0.5,
        grime=0.4,
        seed=genes.own_seed("roof"),
    )
    metal = Material(
        base=_GILT if genes.share("gilt") > 0.5 else _VERDIGRIS,
        gloss=0.5,
        grime=0.2,
    )
    return Palette(wall, plain, roof, metal)
