"""Regression check: results and figures of the smallest preset against accepted ones.

``delfjax regression check`` lists everything that has changed by more than its tolerance. After an
intended change, ``delfjax regression accept`` makes today's runs the expected ones. Expected
results are in ``data/fixtures/expected/<experiment>/``: one file with values and tolerances, where
a tolerance can be edited by hand, and a thumbnail of each figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from skimage.color import rgb2gray, rgba2rgb
from skimage.filters import gaussian
from skimage.io import imread, imsave
from skimage.transform import resize

from delfjax import paths
from delfjax.files import flatten, write_json
from delfjax.records import Number, Record, read_record
from delfjax.suite.running.notebook_rules import Kind, kind_of, read_notebook, select
from delfjax.suite.running.runner import prepare
from delfjax.suite.runs.folders import FinishedRun, RunError, open_run

# Relative difference of a float that is attributed to the rounding of another machine. Integers,
# text and booleans must be equal unless a tolerance is set for them.
TOLERANCE = 0.005
# Figures are compared in grey at this width, pixels, blurred with a standard deviation of this
# share of it. Letters of another font blur into the same grey; a bar, photo or line that moved does
# not.
_WIDTH = 320
_BLUR = 0.012
# Largest difference of a blurred pixel, in [0, 1]. Measured: 0.10 between letters with and without
# serifs, 0.16 for a bar that is 5 % shorter, 0.23 for a bar that is 10 % shorter.
PICTURE_TOLERANCE = 0.15
_VALUES = "expected.json"
_PRESET = "ci"


def ci_runs(names: Sequence[str]) -> list[FinishedRun]:
    """Finished runs of the smallest preset, in reading order.

    Args:
        names: prefixes of experiments; all experiments when empty.

    Raises:
        RunError: a name fits no notebook, or an experiment has no finished run.
    """
    experiments = [
        notebook
        for notebook in select(names)
        if kind_of(read_notebook(notebook)) == Kind.EXPERIMENT
    ]
    return [open_run(prepare(notebook, {"preset": _PRESET}).path) for notebook in experiments]


@dataclass
class _Expected(Record):
    """The expected results of an experiment: values and tolerances by dotted name."""

    config_hash: str
    results: dict[str, Any]
    tolerances: dict[str, Number]


def drift(run: FinishedRun, folder: Path) -> list[str]:
    """The differences of a run from the expected results, one line each.

    Args:
        run: a run of the smallest preset.
        folder: folder of its expected results.

    Raises:
        RunError: the experiment has no expected results yet.
    """
    if not (folder / _VALUES).is_file():
        raise RunError(
            f"{folder}: {run.experiment} has no expected results yet; {_remedy(run.experiment)}"
        )
    known = read_record(folder / _VALUES, _Expected, error=RunError)
    lines = (
        []
        if known["config_hash"] == run.hash
        else [f"config is {run.hash}, expected {known['config_hash']}"]
    )
    found = flatten(run.results, lists=True)
    lines += [f"{name} is missing" for name in known["results"].keys() - found.keys()]
    for name, value in found.items():
        if name not in known["results"]:
            lines.append(f"{name} is new")
        elif not _agree(value, known["results"][name], known["tolerances"].get(name)):
            lines.append(f"{name} is {value!r}, expected {known['results'][name]!r}")
    figures, expected = (
        {path.name: path for path in files} for files in (run.figures, folder.glob("*.png"))
    )
    lines += [f"figure {name} is new or missing" for name in figures.keys() ^ expected.keys()]
    for name in figures.keys() & expected.keys():
        difference = picture_difference(_picture(figures[name]), _picture(expected[name]))
        if difference > PICTURE_TOLERANCE:
            lines.append(
                f"figure {name} differs by {difference:.2f}, at most {PICTURE_TOLERANCE} is allowed"
            )
    return sorted(lines)


def accept(run: FinishedRun, folder: Path) -> None:
    """Make ``run`` the expected result; tolerances that were edited by hand stay."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / _VALUES
    known = read_record(file, _Expected, error=RunError) if file.is_file() else {}
    values = {
        "config_hash": run.hash,
        "results": flatten(run.results, lists=True),
        "tolerances": known.get("tolerances", {}),
    }
    write_json(file, values, indent=1, sort_keys=True, end="\n")
    for old in folder.glob("*.png"):
        old.unlink()
    for figure in run.figures:
        imsave(
            folder / figure.name,
            np.round(255 * _picture(figure)).astype(np.uint8),
            check_contrast=False,
        )


def expected_folder(experiment: str) -> Path:
    """Folder of the expected results of an experiment.

    Raises:
        RunError: the library was installed without its checkout.
    """
    root = paths.repository_root()
    if root is None:
        raise RunError(
            "expected results are part of the checkout, but delfjax runs from an installed package"
        )
    return root / "data" / "fixtures" / "expected" / experiment


def picture_difference(
    first: Float[np.ndarray, "h w"], second: Float[np.ndarray, "h2 w2"]
) -> float:
    """Largest difference of two blurred pictures, in [0, 1]; 1 if their heights differ by more than
    that of a letter."""
    if abs(first.shape[0] - second.shape[0]) > 0.04 * _WIDTH:
        return 1.0
    same = resize(second, first.shape, anti_aliasing=True)
    blurred = gaussian(np.abs(gaussian(first - same, sigma=_BLUR * _WIDTH)), sigma=1)
    return float(blurred.max())


def _agree(value: Any, expected: Any, tolerance: float | None) -> bool:
    if isinstance(value, float) or isinstance(expected, float) or tolerance is not None:
        return math.isclose(
            value, expected, rel_tol=TOLERANCE if tolerance is None else tolerance, abs_tol=1e-9
        )
    return bool(value == expected)


def _picture(path: Path) -> Float[np.ndarray, "h w"]:
    """A picture in grey, in [0, 1], at the width in which pictures are compared."""
    pixels = imread(path)
    if pixels.ndim == 2:
        grey = pixels / 255.0
    else:
        grey = rgb2gray(rgba2rgb(pixels) if pixels.shape[2] == 4 else pixels)
    height = max(1, round(grey.shape[0] * _WIDTH / grey.shape[1]))
    resized: np.ndarray = resize(grey, (height, _WIDTH), anti_aliasing=True)
    return np.asarray(resized, np.float64)


def _remedy(experiment: str) -> str:
    return f"`delfjax regression accept {experiment}` makes today's run the expected one"
