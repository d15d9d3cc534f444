"""Parts that several kinds of monuments share: columns, porticos, battlements, figures.

Each function returns solids in metres; unless it takes a ``base``, they stand at the origin and
face south (−y).
"""

from __future__ import annotations

import dataclasses

from delfjax.world.architecture.genes import Genes
from delfjax.world.architecture.palettes import Palette
from delfjax.world.solids import Hole, Material, Point, Real, Solid, ball, box, placed, round_tower


def portico(genes: Genes, palette: Palette, *, width: Real, height: Real) -> list[Solid]:
    """A row of columns under a pediment, in front of a wall ``height`` metres high."""
    columns = genes.count("portico columns", 4, 6)
    pitch = width / columns
    parts = [box((0, -2.6, 0), (width + 1.5, 4, 0.6), palette.plain)]
    for k in range(columns):
        x = (k - (columns - 1) / 2) * pitch
        parts += column((x, -3.6, 0.6), 0.24 * pitch, height - 1.8, palette.plain)
    frieze = dataclasses.replace(palette.plain, storey_m=0.6, ornament_m=0.8)
    pediment = dataclasses.replace(
        palette.plain, rosette_m=0.07 * width, rosette_height=0.36, seed=genes.own_seed("portico")
    )
    parts += [
        box((0, -2.4, height - 1.2), (width + 0.8, 3.6, 1.2), frieze),
        box((0, -2.4, height), (width + 1.2, 3.8, 0.24 * width), pediment, taper=(1, 0)),
    ]
    return parts


def column(base: Point, radius: Real, height: Real, material: Material) -> list[Solid]:
    """A round column with a square plinth and capital."""
    x, y, z = base
    shaft = dataclasses.replace(material, ornament=0.0, masonry=0.3, course_m=1.4, block_m=20.0)
    return [
        box((x, y, z), (2.5 * radius, 2.5 * radius, 0.4), shaft),
        round_tower((x, y, z + 0.4), radius, height - 0.9, shaft, taper=(0.15, 0)),
        box((x, y, z + height - 0.5), (2.5 * radius, 2.5 * radius, 0.5), shaft),
    ]


def battlements(base: Point, size: tuple[Real, Real], material: Material) -> list[Solid]:
    """A parapet over a plan of ``size`` (width, depth), with merlons along its front."""
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


def figure(genes: Genes, material: Material, tall: Real) -> list[Solid]:
    """A standing figure in a cloak, ``tall`` metres high, with one arm raised."""
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
    # A staff in the raised hand, a pair of wings, or neither.
    attribute = genes.share("attribute")
    if attribute > 0.66:
        foot = (side * (reach + 0.01) + lean, -0.05 * tall, 0.2 * tall)
        parts.append(round_tower(foot, 0.018 * tall, 1.0 * tall, plain))
    elif attribute > 0.33:
        wing = (0.14 * tall, 0.03 * tall, 0.24 * tall)
        parts += [ball((s * 0.2 * tall, 0.08 * tall, 0.7 * tall), wing, plain) for s in (-1, 1)]
    return parts


def rider(genes: Genes, material: Material, tall: Real) -> list[Solid]:
    """A figure on a horse that looks to one side, ``tall`` metres high."""
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
    person = placed(figure(genes, material, 0.62 * tall), at=(0, 0, 0.48 * tall))
    return [*legs, raised, *horse, *person]


def arched(material: Material, width: Real, share: Real, height: Real) -> Material:
    """``material`` for a wall ``width`` metres wide with one arched opening in its middle.

    Args:
        material: the wall without the opening.
        width: of the wall, metres.
        share: width of the opening as a share of ``width``.
        height: of the opening, metres.
    """
    return dataclasses.replace(
        material, hole=Hole.ARCHES, hole_pitch_m=width, hole_width=share, hole_height_m=height
    )


def belfry(genes: Genes, palette: Palette) -> Material:
    """The wall of a belfry, with tall, wide, dark windows."""
    return dataclasses.replace(
        palette.wall,
        window_pitch_m=genes.span("belfry pitch", 1.8, 3.0),
        storey_m=9.0,
        window_width=0.55,
        window_height=0.8,
        seed=genes.own_seed("belfry"),
    )


def dark_interior(palette: Palette) -> Material:
    """The dark that shows through a gate."""
    return dataclasses.replace(palette.plain, base=(0.05, 0.04, 0.035), masonry=0.0, ornament=0.0)
