"""The Landmarks dataset (Babenko et al.), full and cleaned, of which only lists of URLs survive.

Layout: ``annotation_{full,clean}_{train,val}.txt`` in the root, in ``annotations/`` or in
``annotations_landmarks/``. A line holds the URL of an image and the number of its landmark. In the
clean lists the numbers of a box follow; they are not read, because the order of its edges could not
be confirmed.

Many of the URLs are dead, and the lists do not say how an image is named on disk. Here it is
``images/<the URL without its scheme>``, which is where ``wget -x -P images -i urls.txt`` puts it. A
line may also hold a path under the root in place of the URL.

Source: Babenko et al., Neural Codes for Image Retrieval, ECCV 2014; lists of Gordo et al., Deep
    Image Retrieval, ECCV 2016.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delfjax.datasets.benchmark import RetrievalDataset, no_queries
from delfjax.datasets.columns import DatasetError, ImagePaths, require_inside, require_unique

PARTS = ("train", "val")
_FOLDERS = (".", "annotations", "annotations_landmarks")


def load_landmarks_full(root: Path) -> RetrievalDataset:
    """The full lists, training then validation: labelled images, no queries."""
    return _load(root, "full")


def load_landmarks_clean(root: Path) -> RetrievalDataset:
    """The cleaned lists, training then validation: labelled images, no queries."""
    return _load(root, "clean")


def _load(root: Path, kind: str) -> RetrievalDataset:
    paths = []
    labels = []
    sizes = []
    for part in PARTS:
        file = _find(root, f"annotation_{kind}_{part}.txt")
        images, landmarks = _read(file)
        paths.append(images)
        labels.append(landmarks)
        sizes.append(f"{len(landmarks)} {part}")
    column = pa.chunked_array(paths, pa.large_string())
    require_unique(column, f"{root}: the lists annotation_{kind}_*.txt")
    return RetrievalDataset(
        f"landmarks_{kind}",
        root,
        ImagePaths(column),
        no_queries(),
        landmarks=np.concatenate(labels),
        notes=(" + ".join(sizes),),
    )


def _find(root: Path, name: str) -> Path:
    found = next(
        (root / folder / name for folder in _FOLDERS if (root / folder / name).is_file()), None
    )
    if found is None:
        raise DatasetError(
            f"{root / name}: no such file, nor in {', '.join(_FOLDERS[1:])} there; "
            "it is one of DIR's lists"
        )
    return found


def _read(file: Path) -> tuple[pa.Array, np.ndarray]:
    try:
        lines = pa.array(file.read_text(encoding="utf-8").splitlines(), pa.large_string())
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read as text: {error}") from None
    fields = pc.extract_regex(
        lines, r"^(?P<source>\S+)[ \t]+(?P<label>\d{1,9})(?:[ \t]+-?[\d.]+)*[ \t]*$"
    )
    odd = pc.index(pc.is_null(fields), pa.scalar(True)).as_py()
    if odd >= 0:
        raise DatasetError(
            f"{file}: line {odd + 1} is {lines[odd].as_py()!r:.80}, "
            "expected an address and a landmark number"
        )
    source, label = pc.struct_field(fields, "source"), pc.struct_field(fields, "label")
    paths = pc.replace_substring_regex(source, r"^https?://", "images/")
    require_inside(paths, str(file))
    return paths.cast(pa.large_string()), np.asarray(label.cast(pa.int64()))
