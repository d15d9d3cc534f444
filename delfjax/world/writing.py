"""Write a world to disk: photographs as JPEG, and one manifest in parquet.

Photographs are taken in parts of 200. A part is done once its rows are on disk; an interrupted call
loses only the part it was working on. A world is finished when ``manifest.parquet`` exists. The
same configuration gives the same bytes, for any number of workers and devices; so a photograph that
was deleted or cut short since is taken again.
"""

from __future__ import annotations

import datetime
import io
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from delfjax.device import processors
from delfjax.errors import quoted
from delfjax.files import Lock, read_json_object, remove_leftovers, replace_file, write_json
from delfjax.rng import named_generator
from delfjax.world.census import Census, Frame
from delfjax.world.knobs import WorldConfig
from delfjax.world.photography import Shot
from delfjax.world.rendering import Photograph, render
from delfjax.world.solids import WorldError

MANIFEST = "manifest.parquet"
CONFIG = "world.json"
# Increased whenever the same configuration would give other bytes.
VERSION = 2
# A photograph shows its landmark if at least this share of the landmark within the frame is not
# hidden, and if the landmark covers at least this share of the picture.
VISIBLE_SHARE, PICTURE_SHARE = 0.25, 0.01
# Owner of the landmark that is photographed; the owner of its neighbour follows.
SUBJECT = 1
# Attempts at a photograph that shows its landmark.
_ATTEMPTS = 6
# Photographs in a part.
_PART = 200
# The first and the last bytes of a JPEG file.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Photographs looked at in parallel; a disk of a server takes a millisecond to open one.
_LOOKS = 16
_PARTS = "parts"
_LOCK = ".lock"
# Standard deviation of the positions of photographs: with good reception, and between high walls
# (metres), and the share of the latter.
_GPS_NOISE_M, _GPS_LOST_M, _GPS_LOST_SHARE = 8.0, 250.0, 0.04
_FIRST_DAY = datetime.datetime(2012, 1, 1)

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("split", pa.string()),
        ("subject", pa.int64()),
        ("attempt", pa.int32()),
        # The landmarks that show; the share of each that is not hidden; its share of the picture.
        ("landmarks", pa.list_(pa.int64())),
        ("visible", pa.list_(pa.float32())),
        ("covers", pa.list_(pa.float32())),
        ("family", pa.int64()),
        ("kind", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("time", pa.timestamp("ms")),
        ("azimuth_rad", pa.float32()),
        ("distance_m", pa.float32()),
        ("height_share", pa.float32()),
        ("roll_rad", pa.float32()),
        ("rows", pa.int32()),
        ("columns", pa.int32()),
    ]
)


@dataclass(frozen=True)
class BuildReport:
    """What one call of :func:`build_world` did.

    Attributes:
        done: photographs it took.
        skipped: photographs that existed before.
        restored: how many of those it took had been taken before, and were missing or cut short.
    """

    done: int
    skipped: int
    restored: int = 0


def build_world(
    root: Path, config: WorldConfig, *, workers: int | None = None, progress: bool = True
) -> BuildReport:
    """Write a world, or resume where an earlier call stopped.

    Photographs that an earlier call took and that are missing or cut short are taken again.

    Args:
        root: folder of the world.
        config: configuration of the world.
        workers: photographs taken at a time, on the local devices in turn; by default the number of
            processors.
        progress: whether to show a progress bar.

    Raises:
        WorldError: the folder holds another world, or other files and no world.
        OSError: the disk is full; finished parts stay, and the next call resumes after them.
    """
    census = Census(config)
    root.mkdir(parents=True, exist_ok=True)
    _refuse_other_files(root)

    def on_wait(holder: str) -> None:
        if progress:
            tqdm.write(f"{root}: {holder} is rendering it; waiting for it", file=sys.stderr)

    # Of two builders of one folder the second waits, and finds it finished.
    with Lock(root / _LOCK, wait_s=math.inf, on_wait=on_wait):
        _claim(root, config)
        if _has_manifest(root, census):
            # An earlier call may have been killed before it removed them.
            shutil.rmtree(root / _PARTS, ignore_errors=True)
            starts = range(0, census.frame_count, _PART)
            return _restore(root, census, starts, workers=workers, progress=progress)
        remove_leftovers(root)
        return _build(root, census, workers=workers, progress=progress)


def _build(root: Path, census: Census, *, workers: int | None, progress: bool) -> BuildReport:
    parts = root / _PARTS
    parts.mkdir(exist_ok=True)
    starts = range(0, census.frame_count, _PART)
    missing = [start for start in starts if not (parts / _part_name(start)).is_file()]
    there = [start for start in starts if start not in set(missing)]
    before = _restore(root, census, there, workers=workers, progress=progress)
    todo = sum(min(_PART, census.frame_count - start) for start in missing)
    with _Camera(root, census, workers) as camera, _bar(census, todo, progress) as bar:
        for start in missing:
            rows = []
            for row in camera.take(census.frames(start, start + _PART)):
                rows.append(row)
                bar.update()
            _write_table(parts / _part_name(start), rows)
    tables = [pq.read_table(parts / _part_name(start)) for start in starts]
    _replace_table(root / MANIFEST, pa.concat_tables(tables) if tables else SCHEMA.empty_table())
    shutil.rmtree(parts)
    return BuildReport(todo + before.done, before.skipped, before.restored)


def _restore(
    root: Path, census: Census, starts: Iterable[int], *, workers: int | None, progress: bool
) -> BuildReport:
    """Take those photographs of finished parts again whose files are missing or cut short."""
    frames = [frame for start in starts for frame in census.frames(start, start + _PART)]
    with ThreadPoolExecutor(_LOOKS) as pool:
        whole = pool.map(is_whole_jpeg, (root / frame.path for frame in frames))
        lost = [frame for frame, kept in zip(frames, whole, strict=True) if not kept]
    if lost:
        with _Camera(root, census, workers) as camera, _bar(census, len(lost), progress) as bar:
            for _ in camera.take(lost):
                bar.update()
    return BuildReport(len(lost), len(frames) - len(lost), len(lost))


class _Camera:
    """Takes photographs in parallel, on the local devices in turn, while it is open."""

    def __init__(self, root: Path, census: Census, workers: int | None) -> None:
        self._root, self._census = root, census
        self._devices = jax.local_devices()
        self._pool = ThreadPoolExecutor(workers or len(processors()))

    def take(self, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
        """Take and write photographs; yields their rows of the manifest, in order."""
        jobs = [
            self._pool.submit(
                _photograph,
                self._root,
                self._census,
                frame,
                self._devices[frame.number % len(self._devices)],
            )
            for frame in frames
        ]
        for job in jobs:
            yield job.result()

    def __enter__(self) -> _Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _bar(census: Census, todo: int, progress: bool) -> tqdm[Any]:
    return tqdm(
        total=census.frame_count,
        initial=census.frame_count - todo,
        desc="world",
        unit="image",
        disable=not progress,
    )


def _has_manifest(root: Path, census: Census) -> bool:
    """Whether there is a manifest, whole; one that was cut short is made again."""
    try:
        return bool(pq.read_metadata(root / MANIFEST).num_rows == census.frame_count)
    except (OSError, pa.ArrowException):
        return False


def read_config(root: Path) -> WorldConfig:
    """Configuration of the world in ``root``.

    Raises:
        WorldError: there is no world, its description is damaged, or another version made it.
    """
    file = root / CONFIG
    if not file.is_file():
        raise WorldError(f"{file}: no such file; a world is made by `delfjax datasets render`")
    stored = read_json_object(file, error=WorldError)
    version, fields = stored.get("version"), stored.get("config")
    if type(version) is not int or not isinstance(fields, dict):
        raise WorldError(
            f"{file}: not the description of a world; expected a whole number 'version' and an"
            " object 'config'"
        )
    if version != VERSION:
        raise WorldError(
            f"{file}: world of version {version}, this library makes version {VERSION}; remove the"
            " folder"
        )
    try:
        return WorldConfig(**fields)
    except (TypeError, WorldError) as error:
        raise WorldError(f"{file}: {quoted(error)}") from None


def take(
    census: Census, frame: Frame, *, device: jax.Device | None = None
) -> tuple[Shot, Photograph, int]:
    """Take a photograph, again if the subject cannot be seen well enough.

    Returns:
        The shot, the photograph, and the number of the attempt: the first that shows the subject,
        or the best of all attempts.
    """
    best: tuple[float, Shot, Photograph, int] | None = None
    for attempt in range(_ATTEMPTS):
        _, shot = census.shot(frame, attempt)
        photograph = render(shot.scene, device=device)
        if frame.landmark < 0:
            return shot, photograph, attempt
        visible, covers = visibility(photograph, SUBJECT)
        score = min(visible / VISIBLE_SHARE, covers / PICTURE_SHARE)
        if best is None or score > best[0]:
            best = score, shot, photograph, attempt
        if score >= 1:
            break
    assert best is not None
    return best[1:]


def visibility(photograph: Photograph, owner: int) -> tuple[float, float]:
    """How well a landmark can be seen.

    Returns:
        The share of the landmark's pixels within the frame that is not hidden, and the landmark's
        share of the picture.
    """
    seen = int((photograph.owner == owner).sum())
    there = int(photograph.present[owner - 1].sum())
    return (seen / there if there else 0.0), seen / photograph.owner.size


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def is_whole_jpeg(file: Path) -> bool:
    """Whether a JPEG file is there with its first and last bytes; nothing is decoded."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_JPEG_START))
            stream.seek(-len(_JPEG_END), os.SEEK_END)
            return start == _JPEG_START and stream.read() == _JPEG_END
    except OSError:
        return False


def _photograph(root: Path, census: Census, frame: Frame, device: jax.Device) -> dict[str, Any]:
    """Take one photograph and write it; returns its row of the manifest."""
    shot, photograph, attempt = take(census, frame, device=device)
    target = root / frame.path
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, encode_jpeg(photograph.image, shot.quality))
    showing = []
    for owner, landmark in enumerate(census.shown(frame), start=SUBJECT):
        visible, covers = visibility(photograph, owner)
        if visible > 0:
            showing.append((landmark, visible, covers))
    latitude, longitude, time = _where_and_when(census, frame, shot)
    subject = census.landmark(frame.landmark) if frame.landmark >= 0 else None
    rows, columns = photograph.owner.shape
    return {
        "path": frame.path,
        "split": frame.split,
        "subject": frame.landmark,
        "attempt": attempt,
        "landmarks": [landmark for landmark, _, _ in showing],
        "visible": [visible for _, visible, _ in showing],
        "covers": [covers for _, _, covers in showing],
        "family": subject.family if subject else -1,
        "kind": subject.kind if subject else "street",
        "latitude": latitude,
        "longitude": longitude,
        "time": time,
        "azimuth_rad": shot.azimuth_rad,
        "distance_m": shot.distance_m,
        "height_share": shot.height_share,
        "roll_rad": shot.roll_rad,
        "rows": rows,
        "columns": columns,
    }


def _where_and_when(
    census: Census, frame: Frame, shot: Shot
) -> tuple[float, float, datetime.datetime]:
    """What the camera records: latitude and longitude (degrees) with the error of its receiver, and
    the time."""
    rng = named_generator(census.config.seed, f"gps {frame.split} {frame.index}")
    place = census.place(frame.landmark) if frame.landmark >= 0 else census.street(rng)
    x, y = shot.scene.camera.position[:2] if frame.landmark >= 0 else rng.uniform(-3000, 3000, 2)
    # The landmark's −y points along `facing`.
    cosine, sine = math.cos(place.facing), math.sin(place.facing)
    error = rng.normal(0, _GPS_LOST_M if rng.uniform() < _GPS_LOST_SHARE else _GPS_NOISE_M, 2)
    east, north = -x * cosine - y * sine + error[0], x * sine - y * cosine + error[1]
    latitude, longitude = place.moved(float(east), float(north))
    day = _FIRST_DAY + datetime.timedelta(days=int(rng.integers(1800)))
    return latitude, longitude, day + datetime.timedelta(seconds=round(shot.hour * 3600))


def _refuse_other_files(root: Path) -> None:
    """Leave a folder of somebody's photos as it is: files of a world could replace some."""
    found = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    if found and CONFIG not in found:
        raise WorldError(
            f"{root}: not a world ({CONFIG} is missing, but {found[0]!r} is there); name a new"
            " folder"
        )


def _claim(root: Path, config: WorldConfig) -> None:
    """Make the folder this world's, or find that it is."""
    if (root / CONFIG).is_file():
        found = read_config(root)
        if found != config:
            mine, theirs = config.plain(), found.plain()
            name = next(name for name in mine if mine[name] != theirs[name])
            raise WorldError(
                f"{root}: holds another world ({name} is {theirs[name]}, not {mine[name]}); choose"
                " another folder"
            )
        return
    write_json(root / CONFIG, {"version": VERSION, "config": config.plain()}, indent=1)


def _part_name(start: int) -> str:
    return f"part-{start:08d}.parquet"


def _write_table(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    _replace_table(file, pa.Table.from_pylist(list(rows), SCHEMA))


def _replace_table(file: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    replace_file(file, buffer.getbuffer())
