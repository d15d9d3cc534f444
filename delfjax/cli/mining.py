"""Landmarks from photos with positions: ``delfjax mine``."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from delfjax.cli.options import (
    Flag,
    Preset,
    Set,
    UsageError,
    accepted_changes,
    require_utf8,
)
from delfjax.cli.output import print

_COLUMNS = ("path", "latitude", "longitude")


@dataclass(frozen=True)
class Mine:
    """Find landmarks: photos taken near each other that match geometrically.

    Example: delfjax mine my.store --positions positions.csv --out landmarks
    """

    store: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="STORE", help="feature store made by `delfjax extract`"),
    ]
    positions: Annotated[
        Path,
        tyro.conf.arg(
            metavar="FILE", help="CSV file with the columns path, latitude, longitude (degrees)"
        ),
    ]
    out: Annotated[
        Path,
        tyro.conf.arg(metavar="DIR", help="folder for the landmarks; replaces an earlier result"),
    ]
    add: Annotated[
        Flag,
        tyro.conf.arg(help="add new photos to the landmarks in --out; compares no pair twice"),
    ] = False
    preset: Preset = "default"
    overrides: Set = ()

    def run(self) -> None:
        """Mine and write the landmarks."""
        from delfjax.mining.mined_files import adding, require_replaceable

        require_utf8("--out", self.out)
        require_replaceable(self.out)

        def on_wait(holder: str) -> None:
            print(f"{self.out}: {holder} is mining there; waiting for it", file=sys.stderr)

        # Of two that add at once, the second adds to what the first has written.
        with adding(self.out, on_wait=on_wait):
            self._mine()

    def _mine(self) -> None:
        from delfjax.config import (
            EXTRACTION_SECTIONS,
            METHODS,
            MODEL,
            SYSTEM_SECTIONS,
            Config,
            MiningConfig,
            parse_overrides,
            preset,
        )
        from delfjax.features.folder_changes import warn_unfinished
        from delfjax.features.store import FeatureStore
        from delfjax.mining.mine import mine_landmarks
        from delfjax.mining.mined_files import open_landmarks, save_landmarks
        from delfjax.models.model_files import override_system
        from delfjax.pipeline.photos import stored_config

        positions = read_positions(self.positions)
        store = FeatureStore.open(self.store)
        warn_unfinished(store)
        known = open_landmarks(self.out) if self.add else None
        asked = parse_overrides(
            self.overrides, sections=(*SYSTEM_SECTIONS, "mining", MODEL), within="mining"
        )
        base = stored_config(store, preset(self.preset))
        since = f"the store {self.store} was made"
        changes = accepted_changes(base, asked, (*EXTRACTION_SECTIONS, *METHODS), since)
        mining = MiningConfig() if known is None else known.config
        whole = override_system(Config(**vars(base), mining=mining), changes)
        mined = mine_landmarks(
            store, positions, config=whole.system, mining=whole.mining, known=known
        )
        save_landmarks(mined, self.out)
        print(f"mine: {mined}", file=sys.stderr)


def read_positions(file: Path) -> dict[str, tuple[float, float]]:
    """Latitude and longitude of photos in degrees, NaN where a field is empty, from a CSV file.

    Raises:
        UsageError: the file is missing or has other columns, or a line is malformed; the message
            names it.
    """
    positions: dict[str, tuple[float, float]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if not set(_COLUMNS) <= set(rows.fieldnames or ()):
                raise UsageError(
                    f"{file}: columns are {', '.join(rows.fieldnames or ['missing'])}, expected"
                    f" {', '.join(_COLUMNS)}"
                )
            for row in rows:
                name, latitude, longitude = (row[column] for column in _COLUMNS)
                if not name or name in positions:
                    raise UsageError(
                        f"{file}: line {rows.line_num}: path {name!r} is"
                        f" {'repeated' if name else 'empty'}, expected one line for each photo"
                    )
                positions[name] = _degrees(latitude), _degrees(longitude)
    except FileNotFoundError:
        raise UsageError(
            f"{file}: no such file, expected a CSV file with the columns {', '.join(_COLUMNS)}"
        ) from None
    except (ValueError, csv.Error) as error:
        raise UsageError(
            f"{file}: line {rows.line_num}: {error}; expected path,latitude,longitude in degrees"
        ) from None
    return positions


def _degrees(text: str | None) -> float:
    value = float(text) if text else math.nan
    if math.isinf(value):
        raise ValueError(f"position {text!r} is not finite")
    return value
