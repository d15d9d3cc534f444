"""The ten kinds of monuments, each built from the measures and materials of one landmark.

Every kind is a function from genes and palette to solids that stand at the origin and face south
(−y). Lengths are metres.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from delfjax.world.architecture.genes import Genes
from delfjax.world.architecture.monument_parts import (
    arched,
    battlements,
    belfry,
    column,
    dark_interior,
    figure,
    portico,
    rider,
)
from delfjax.world.architecture.palettes import Palette
from delfjax.world.solids import Real, Solid, ball, box, dome, placed, round_tower


def _cathedral(genes: Genes, palette: Palette) -> list[Solid]:
    """A nave with a rose window and a portal between two towers, often with a flèche."""
    width = genes.span("nave width", 9, 13)
    length = genes.span("nave length", 18, 28)
    height = genes.span("nave height", 11, 16)
    front = dataclasses.replace(
        palette.wall,
        rosette_m=genes.span("rose", 1.8, 0.3 * width),
        rosette_height=0.62,
        window_pitch_m=0.0,
        seed=genes.own_seed("rose"),
    )
    parts = [
        box((0, length / 2, 0), (width, length, height), palette.wall),
        box(
            (0, length / 2, height),
            (width + 0.8, length + 0.4, 0.5 * width),
            palette.roof,
            taper=(1, 0),
        ),
        box((0, -0.3, 0), (width - 1, 0.8, height + 1.5), front),
        box((0, -0.3, height + 1.5), (width - 1, 0.8, 0.45 * width), palette.plain, taper=(1, 0)),
        # The portal: recessed arches.
        box((0, -0.9, 0), (4.4, 0.8, 5.0), arched(palette.plain, 4.4, 0.7, 4.2)),
        box((0, -0.75, 0), (3.4, 0.2, 4.2), dark_interior(palette)),
    ]
    for side in (-1, 1):
        parts += _cathedral_tower(genes, palette, side=side, nave_width=width)
    if genes.share("crossing") > 0.5:
        fleche = (2.5, 2.5, genes.span("fleche", 8, 16))
        parts.append(
            box((0, 0.6 * length, height + 0.2 * width), fleche, palette.roof, taper=(1, 1))
        )
    for k in range(genes.count("buttresses", 3, 5)):
        y = 4 + k * (length - 5) / 4
        size = (1.6, 0.9, 0.75 * height)
        parts += [
            box((side * (width / 2 + 0.8), y, 0), size, palette.plain, taper=(0.5, 0))
            for side in (-1, 1)
        ]
    return parts


def _cathedral_tower(genes: Genes, palette: Palette, *, side: int, nave_width: Real) -> list[Solid]:
    """The tower to the west (``side`` −1) or the east (1) of the nave."""
    width = genes.span("tower width", 4.5, 6.5)
    height = genes.span("tower height", 18, 30)
    x = side * (nave_width / 2 + width / 2 - 0.6)
    lower = height * 0.7
    spire = (width, width, genes.span("spire", 4, 15))
    return [
        box((x, 0.8, 0), (width, width, lower), palette.wall),
        box((x, 0.8, lower), (width + 0.6, width + 0.6, 0.5), palette.plain),
        box(
            (x, 0.8, lower + 0.5),
            (width - 0.6, width - 0.6, height - lower),
            belfry(genes, palette),
        ),
        box((x, 0.8, height + 0.5), spire, palette.roof, taper=(1, 1)),
    ]


def _campanile(genes: Genes, palette: Palette) -> list[Solid]:
    """A slender tower in tiers, with a clock and a spire, a lantern or battlements on top."""
    width = genes.span("width", 5, 8)
    height = genes.span("height", 26, 42)
    tiers = genes.count("tiers", 3, 5)
    parts = [box((0, 0, 0), (width + 2, width + 2, 1.5), palette.plain)]
    level = 1.5
    for tier in range(tiers):
        tall = (height - 1.5) / tiers
        w = width * (1 - 0.04 * tier)
        material = palette.wall if tier < tiers - 1 else belfry(genes, palette)
        if tier == tiers // 2:
            material = dataclasses.replace(
                material, rosette_m=genes.span("clock", 1.1, 0.3 * w), rosette_height=0.5
            )
        material = dataclasses.replace(material, seed=genes.own_seed(f"tier {tier}"))
        parts += [
            box((0, 0, level), (w, w, tall - 0.6), material),
            box((0, 0, level + tall - 0.6), (w + 0.8, w + 0.8, 0.6), palette.plain),
        ]
        level += tall
    top = genes.share("top")
    if top < 0.4:
        spire = (width, width, genes.span("spire", 5, 14))
        parts.append(box((0, 0, level), spire, palette.roof, taper=(1, 1)))
    elif top < 0.7:
        parts += [
            round_tower((0, 0, level), 0.36 * width, 3.0, palette.plain),
            dome((0, 0, level + 3.0), 0.4 * width, 0.5 * width, palette.roof),
            ball((0, 0, level + 3.2 + 0.5 * width), (0.4, 0.4, 0.6), palette.metal),
        ]
    else:
        parts += battlements((0, 0, level), (width + 0.8, width + 0.8), palette.plain)
    return parts


def _domed(genes: Genes, palette: Palette) -> list[Solid]:
    """A hall with a portico under a dome on a drum, often between two turrets."""
    width = genes.span("width", 18, 28)
    height = genes.span("height", 8, 12)
    radius = genes.span("dome radius", 0.22, 0.34) * width
    drum = genes.span("drum", 3, 7)
    rise = radius * genes.span("dome rise", 0.8, 1.5)
    drum_wall = dataclasses.replace(palette.wall, window_pitch_m=2.2, storey_m=drum)
    ribbed = dataclasses.replace(
        palette.roof, ornament=0.8, ornament_m=1.6, accent=palette.plain.accent
    )
    parts = [
        box((0, 6, 0), (width, 14, height), palette.wall),
        box((0, 6, height), (width + 1, 15, 0.8), palette.plain),
        *portico(genes, palette, width=0.45 * width, height=height),
        round_tower((0, 6, height), radius * 0.96, drum, drum_wall),
        round_tower((0, 6, height + drum), radius * 1.06, 0.6, palette.plain),
        dome((0, 6, height + drum + 0.5), radius, rise, ribbed),
        round_tower((0, 6, height + drum + rise), 0.16 * radius, 2.2, palette.plain),
        dome((0, 6, height + drum + rise + 2.2), 0.2 * radius, 1.5, palette.metal),
    ]
    if genes.share("turrets") > 0.45:
        tall = height + genes.span("turret", 4, 9)
        for side in (-1, 1):
            x = side * (width / 2 - 1.8)
            parts += [
                round_tower((x, 0.8, 0), 1.8, tall, palette.wall),
                dome((x, 0.8, tall), 2.0, 2.4, palette.roof),
                round_tower((x, 0.8, tall + 2.3), 0.15, 2.0, palette.metal, casts=False),
            ]
    return parts


def _triumphal_arch(genes: Genes, palette: Palette) -> list[Solid]:
    """Two piers, an arched opening, columns and an attic, with or without figures on top."""
    width = genes.span("width", 13, 20)
    height = genes.span("height", 13, 19)
    depth = genes.span("depth", 4, 6)
    opening = genes.span("opening", 0.32, 0.42) * width
    rise = genes.span("rise", 0.6, 0.72) * height
    pier = (width - opening) / 2
    attic = genes.span("attic", 2.5, 4.0)
    face = dataclasses.replace(palette.plain, seed=genes.own_seed("face"), storey_m=height / 3)
    opened = arched(face, width, opening / width, rise)
    inscribed = dataclasses.replace(
        palette.plain, rosette_m=0.4 * attic, rosette_height=0.5, seed=genes.own_seed("attic")
    )
    parts = [
        box((side * (opening + pier) / 2, 0, 0), (pier, depth, height), face) for side in (-1, 1)
    ]
    parts += [
        box((0, 0, rise), (opening, depth, height - rise), face),
        box((0, -depth / 2 - 0.05, 0), (width, 0.3, height), opened),
        box((0, depth / 2 + 0.05, 0), (width, 0.3, height), opened),
        box((0, 0, height), (width + 1.2, depth + 1.2, 0.8), palette.plain),
        box((0, 0, height + 0.8), (width - 0.6, depth - 0.4, attic), inscribed),
    ]
    for x in (-width / 2 + 0.8, -opening / 2 - 0.8, opening / 2 + 0.8, width / 2 - 0.8):
        parts += column((x, -depth / 2 - 0.9, 0), 0.55, height, palette.plain)
        if genes.share("figures") > 0.4:
            on_column = (x, -depth / 2 - 0.6, height + 0.8)
            parts += placed(figure(genes, palette.metal, 2.2), at=on_column)
    if genes.share("crowned") > 0.5:
        parts += placed(figure(genes, palette.metal, 4.0), at=(0, 0, height + 0.8 + attic))
    return parts


def _monument(genes: Genes, palette: Palette) -> list[Solid]:
    """A figure or a rider on a stepped pedestal, with or without guards."""
    pedestal = genes.span("pedestal", 3.5, 8)
    tall = genes.span("figure", 4.5, 8)
    width = genes.span("pedestal width", 2.4, 4.2)
    carved = dataclasses.replace(
        palette.plain,
        rosette_m=0.36 * width,
        rosette_height=0.55,
        seed=genes.own_seed("relief"),
        storey_m=2.5,
    )
    parts = [
        box((0, 0, 0.35 * k), (width + 4 - 1.2 * k, width + 4 - 1.2 * k, 0.35), palette.plain)
        for k in range(3)
    ]
    parts += [
        box((0, 0, 1.05), (width, width, pedestal), carved, taper=(0.08, 0.08)),
        box((0, 0, 1.05 + pedestal), (width + 0.5, width + 0.5, 0.4), palette.plain),
    ]
    stone = dataclasses.replace(palette.plain, masonry=0.0, ornament=0.0)
    statue = palette.metal if genes.share("bronze") > 0.5 else stone
    subject = rider if genes.share("rider") > 0.55 else figure
    parts += placed(subject(genes, statue, tall), at=(0, 0, 1.45 + pedestal))
    if genes.share("guards") > 0.5:
        for side in (-1, 1):
            parts += placed(figure(genes, statue, 2.4), at=(side * (width / 2 + 1.4), -0.6, 0.7))
    return parts


def _castle(genes: Genes, palette: Palette) -> list[Solid]:
    """A curtain wall with a gatehouse between two round towers, and a keep behind it."""
    width = genes.span("width", 18, 28)
    wall = genes.span("wall", 8, 12)
    radius = genes.span("radius", 2.6, 4.2)
    tower = wall + genes.span("tower", 3, 9)
    keep = genes.span("keep", 6, 10)
    keep_x = genes.span("keep x", -5, 5)
    keep_height = wall + genes.span("keep height", 6, 14)
    keep_roof = genes.span("keep roof", 3, 7)
    loopholes = dataclasses.replace(
        palette.wall, window_pitch_m=5.0, window_width=0.18, window_height=0.4
    )
    gate = dataclasses.replace(
        palette.plain, rosette_m=1.1, rosette_height=0.78, seed=genes.own_seed("arms")
    )
    parts = [
        box((0, 0, 0), (width, 2.4, wall), loopholes),
        *battlements((0, 0, wall), (width, 2.4), palette.plain),
        box((0, -1.6, 0), (6, 2.2, wall + 2), gate),
        box((0, -2.75, 0), (6, 0.3, wall + 2), arched(gate, 6, 0.5, 4.4)),
        *battlements((0, -1.6, wall + 2), (6.2, 2.4), palette.plain),
        box((0, -2.72, 0), (3.4, 0.1, 4.5), dark_interior(palette)),
    ]
    for side in (-1, 1):
        grown = tower + side * genes.span("uneven", 0, 3)
        x = side * width / 2
        parts.append(round_tower((x, 0, 0), radius, grown, loopholes))
        if genes.share("cones") > 0.4:
            cone = genes.span("cone", 4, 9)
            parts.append(round_tower((x, 0, grown), radius + 0.6, cone, palette.roof, taper=(1, 0)))
        else:
            parts.append(round_tower((x, 0, grown), radius + 0.5, 1.2, palette.plain))
    roof = (keep + 1, keep + 1, keep_roof)
    return [
        *parts,
        box((keep_x, 9, 0), (keep, keep, keep_height), palette.wall),
        box((keep_x, 9, keep_height), roof, palette.roof, taper=(1, 0.5)),
    ]


def _pagoda(genes: Genes, palette: Palette) -> list[Solid]:
    """Storeys that narrow upwards, each under wide eaves, on a square or a round plan."""
    tiers = genes.count("tiers", 3, 7)
    width = genes.span("width", 7, 11)
    round_plan = genes.share("round") > 0.6
    parts = [box((0, 0, 0), (width + 5, width + 5, 1.2), palette.plain)]
    level = 1.2
    for tier in range(tiers):
        w = width * (1 - tier * genes.span("narrowing", 0.06, 0.12))
        storey = genes.span("storey height", 2.6, 3.8) * (1 - 0.04 * tier)
        wall = dataclasses.replace(
            palette.wall, storey_m=storey, window_pitch_m=1.8, seed=genes.own_seed(f"tier {tier}")
        )
        eaves = genes.span("eaves", 1.2, 2.2)
        if round_plan:
            reach = 0.5 * w + eaves
            parts += [
                round_tower((0, 0, level), 0.5 * w, storey, wall),
                round_tower((0, 0, level + storey), reach, 1.3, palette.roof, taper=(0.45, 0)),
            ]
        else:
            roof = (w + 2 * eaves, w + 2 * eaves, 1.3)
            parts += [
                box((0, 0, level), (w, w, storey), wall),
                box((0, 0, level + storey), roof, palette.roof, taper=(0.4, 0.4)),
            ]
        level += storey + 1.1
    parts += [
        round_tower((0, 0, level), 0.5, genes.span("finial", 3, 7), palette.metal, taper=(0.9, 0)),
        ball((0, 0, level + 1.4), (0.8, 0.8, 0.5), palette.metal),
    ]
    return parts


def _column_monument(genes: Genes, palette: Palette) -> list[Solid]:
    """An obelisk, or a column with a figure on it, on a carved base."""
    height = genes.span("height", 18, 34)
    base = genes.span("base", 4, 6.5)
    carved = dataclasses.replace(
        palette.plain, rosette_m=0.3 * base, rosette_height=0.5, seed=genes.own_seed("base")
    )
    parts = [
        box((0, 0, 0), (base + 3, base + 3, 0.6), palette.plain),
        box((0, 0, 0.6), (base, base, base * 0.8), carved),
        box((0, 0, 0.6 + base * 0.8), (base + 0.6, base + 0.6, 0.4), palette.plain),
    ]
    level = 1.0 + base * 0.8
    spiral = dataclasses.replace(
        palette.plain,
        storey_m=genes.span("rings", 1.8, 3.2),
        ornament=1.0,
        seed=genes.own_seed("shaft"),
    )
    if genes.share("obelisk") > 0.5:
        w = base * 0.55
        parts += [
            box((0, 0, level), (w, w, height), spiral, taper=(0.35, 0.35)),
            box((0, 0, level + height), (0.65 * w, 0.65 * w, 2.0), palette.metal, taper=(1, 1)),
        ]
    else:
        parts += [
            round_tower((0, 0, level), 0.28 * base, height, spiral, taper=(0.15, 0)),
            box((0, 0, level + height), (0.75 * base, 0.75 * base, 0.8), palette.plain),
        ]
        statue = figure(genes, palette.metal, genes.span("figure", 3, 5))
        parts += placed(statue, at=(0, 0, level + height + 0.8))
    return parts


def _temple(genes: Genes, palette: Palette) -> list[Solid]:
    """A cella behind a row of columns under a pediment, with columns along its sides."""
    columns = genes.count("columns", 6, 9)
    height = genes.span("height", 7, 11)
    pitch = genes.span("pitch", 2.2, 3.0)
    width = columns * pitch
    parts = [
        box((0, 5, 0.4 * k), (width + 4 - 1.2 * k, 15 - 1.2 * k, 0.4), palette.plain)
        for k in range(3)
    ]
    cella = dataclasses.replace(palette.wall, window_pitch_m=0.0)
    parts.append(box((0, 6, 1.2), (width - 4, 9, height - 1), cella))
    radius = 0.3 * pitch * genes.span("stout", 0.8, 1.1)
    for k in range(columns):
        x = (k - (columns - 1) / 2) * pitch
        parts += column((x, -0.6, 1.2), radius, height, palette.plain)
    for side in (-1, 1):
        x = side * (width - pitch) / 2
        for k in range(1, 4):
            parts += column((x, -0.6 + 3.2 * k, 1.2), 0.28 * pitch, height, palette.plain)
    frieze = dataclasses.replace(
        palette.plain, storey_m=1.0, ornament=1.0, ornament_m=0.95, seed=genes.own_seed("frieze")
    )
    pediment = dataclasses.replace(
        palette.plain, rosette_m=0.09 * width, rosette_height=0.38, seed=genes.own_seed("pediment")
    )
    parts += [
        box((0, 5, 1.2 + height), (width + 0.6, 13, 1.6), frieze),
        box((0, -1.4, 2.8 + height), (width + 0.6, 0.6, 0.2 * width), pediment, taper=(1, 0)),
        box((0, 5.3, 2.8 + height), (width + 1, 12.6, 0.19 * width), palette.roof, taper=(1, 0)),
    ]
    return parts


def _palace(genes: Genes, palette: Palette) -> list[Solid]:
    """A long front with a mansard roof, a middle with a portico, and two wings."""
    width = genes.span("width", 26, 38)
    height = genes.span("height", 9, 14)
    wing = genes.span("wing", 5, 8)
    middle = genes.span("middle", 8, 12)
    mansard = (0.12, genes.span("mansard", 0.5, 0.95))
    roof = (width, 8, genes.span("roof", 2.5, 5))
    middle_wall = dataclasses.replace(palette.wall, seed=genes.own_seed("middle"))
    wing_wall = dataclasses.replace(palette.wall, seed=genes.own_seed("wing"))
    wing_roof = (wing + 0.6, 9.6, genes.span("wing roof", 3, 7))
    parts = [
        box((0, 3, 0), (width, 8, height), palette.wall),
        box((0, 3, height), (width + 0.8, 8.8, 0.5), palette.plain),
        box((0, 3, height + 0.5), roof, palette.roof, taper=mansard),
        box((0, -0.4, 0), (middle, 3, height + 2), middle_wall),
        *portico(genes, palette, width=middle * 0.9, height=height * 0.8),
    ]
    top = height + 2
    if genes.share("central dome") > 0.5:
        parts += [
            round_tower((0, 2, top), 0.36 * middle, 2.5, palette.wall),
            dome((0, 2, top + 2.5), 0.4 * middle, genes.span("rise", 3, 6), palette.roof),
        ]
    else:
        carved = dataclasses.replace(
            palette.plain, rosette_m=1.3, rosette_height=0.36, seed=genes.own_seed("gable")
        )
        parts.append(box((0, -0.6, top), (middle + 0.6, 2.6, 0.35 * middle), carved, taper=(1, 0)))
    for side in (-1, 1):
        x = side * (width / 2 - wing / 2)
        parts += [
            box((x, 1, 0), (wing, 9, height + 1), wing_wall),
            box((x, 1, height + 1), wing_roof, palette.roof, taper=(1, 0.6)),
        ]
    return parts


# Kind → the function that builds it. The order decides which kind a family is.
MONUMENTS: dict[str, Callable[[Genes, Palette], list[Solid]]] = {
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
