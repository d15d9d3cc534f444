"""Damaged files of datasets: every reader reads them, or refuses them in one line."""

from __future__ import annotations

import functools
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from delfjax.datasets.columns import DatasetError
from delfjax.datasets.fetch.unpacking import unpack
from delfjax.datasets.folder_benchmark import load_folder
from delfjax.datasets.images import decode_image
from delfjax.datasets.published import google_landmarks, landmarks, oxford_paris, revisited
from delfjax.world.census import Census
from delfjax.world.knobs import world_config
from delfjax.world.reading import open_world
from delfjax.world.writing import CONFIG, MANIFEST, SCHEMA, VERSION
from tests.fuzzing import damaged, damaged_json, damaged_text, damaged_value, failures

_QUERY = {"query": 2, "path": "c.jpg", "landmark": "t", "tier": "x", "ok": [0, 1], "junk": [2]}
_TRUTH = {"imlist": ["a.jpg", "ü/b.jpg", "c.jpg"], "gnd": [_QUERY]}
_IDS = [f"{number:016x}" for number in range(6)]


def ground_truth(rng: np.random.Generator, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "groundtruth.json").write_bytes(damaged_json(_TRUTH, rng))
    load_folder(folder)


_LISTS: Mapping[str, str] = {
    "train.csv": "".join(f"{one},http://a/{one}.jpg,{one[-1]}\n" for one in _IDS),
    "train_clean.csv": f"1,{_IDS[0]} {_IDS[1]}\n2,{_IDS[2]}\n",
    "index.csv": "".join(f"{one}\n" for one in _IDS[:3]),
    "index_image_to_landmark.csv": f"{_IDS[0]},7\n{_IDS[2]},None\n",
    "test.csv": f"{_IDS[4]}\n{_IDS[5]}\n",
    "retrieval_solution_v2.1.csv": (
        f"{_IDS[4]},{_IDS[0]} {_IDS[1]},Public\n{_IDS[5]},None,Ignored\n"
    ),
    "recognition_solution_v2.1.csv": f"{_IDS[4]},7 8,Public\n{_IDS[5]},,Private\n",
}
_HEADERS = {
    "train.csv": "id,url,landmark_id",
    "train_clean.csv": "landmark_id,images",
    "index_image_to_landmark.csv": "id,landmark_id",
    "retrieval_solution_v2.1.csv": "id,images,Usage",
    "recognition_solution_v2.1.csv": "id,landmarks,Usage",
}


def lists_of_google_landmarks(rng: np.random.Generator, folder: Path) -> None:
    chosen = str(rng.choice(list(_LISTS)))
    for name, rows in _LISTS.items():
        text = f"{_HEADERS.get(name, 'id')}\n{rows}"
        data = damaged_text(text, rng) if name == chosen else text.encode()
        (folder / name).write_bytes(data)
    load = (
        google_landmarks.load_v1,
        google_landmarks.load_v1_train,
        google_landmarks.load_v2,
        google_landmarks.load_v2_recognition,
        google_landmarks.load_v2_clean,
    )
    _all(folder, *load)


def ground_truth_of_oxford(rng: np.random.Generator, folder: Path) -> None:
    texts = {
        "query": "oxc1_all_souls_000001 1.5 2 30 40\n",
        "good": "all_souls_000002\n",
        "ok": "all_souls_000001\nall_souls_000003\n",
        "junk": "",
    }
    for number in range(1, 4):
        (folder / f"all_souls_{number:06d}.jpg").write_bytes(b"x")
    chosen = str(rng.choice(list(texts)))
    for label, text in texts.items():
        data = damaged_text(text, rng) if label == chosen else text.encode()
        (folder / f"all_souls_1_{label}.txt").write_bytes(data)
    oxford_paris.load_oxford5k(folder)


def hostile_value(rng: np.random.Generator) -> Any:
    """What JSON cannot hold: pairs of pairs, of which a text would never end, and odd arrays."""
    pairs: Any = (1, 2)
    for _ in range(60):
        pairs = (pairs, pairs)
    values = (
        *(pairs, [pairs], b"\xff", {1}, (), [[1], [1, 2]], [0, [0]], [True], [10**400], "01"),
        *(np.array(["\ud800"]), np.full(2, 0xFFFFFFFF, np.uint32).view("<U1"), np.array([b"0"])),
        *(np.array(0), np.zeros((2, 0)), np.array([[0, 1]]), np.array([0.0]), np.array([np.nan])),
        *(np.array([2**64 - 1], np.uint64), np.array([-(2**63)]), np.float32("nan"), np.int8(1)),
    )
    return values[int(rng.integers(0, len(values)))]


def ground_truth_of_revisited_oxford(rng: np.random.Generator, folder: Path) -> None:
    """Damage the bytes of the pickle, or the values in it."""
    entry = {"bbx": [1.0, 2.0, 30.0, 40.0], "easy": [0], "hard": np.array([1]), "junk": []}
    truth = {"gnd": [entry], "imlist": ["a_1", "a_2"], "qimlist": ["a_3"]}
    protocol = int(rng.integers(0, 5))
    if rng.random() < 0.6:
        truth = damaged_value(truth, rng)
        if rng.random() < 0.2:
            entry[str(rng.choice(list(entry)))] = hostile_value(rng)
        data = pickle.dumps(truth, protocol)
    else:
        data = damaged(pickle.dumps(truth, protocol), rng)
    place = folder / "roxford5k"
    (place / "jpg").mkdir(parents=True)
    (place / "gnd_roxford5k.pkl").write_bytes(data)
    (folder / "revisitop1m").mkdir()
    names = b"aa/1.jpg\nbb/2.jpg\n"
    names = damaged_text(names.decode(), rng) if rng.random() < 0.5 else names
    (folder / "revisitop1m" / "revisitop1m.txt").write_bytes(names)
    revisited.load_roxford5k_r1m(folder)


def lists_of_landmarks(rng: np.random.Generator, folder: Path) -> None:
    for part in landmarks.PARTS:
        text = f"http://a.org/{part}/1.jpg 3\nhttps://b.org/{part}/2.jpg 0 12 5.5 80 90\n"
        data = damaged_text(text, rng) if rng.random() < 0.6 else text.encode()
        (folder / f"annotation_clean_{part}.txt").write_bytes(data)
    landmarks.load_landmarks_clean(folder)


@functools.cache
def _world() -> tuple[dict[str, Any], pa.Table]:
    """Description and manifest of a world of which nothing was rendered."""
    config = world_config("ci", landmarks=2, family_size=1, train_landmarks=1)
    plain = {"int64": 1, "int32": 96, "float": 0.5, "double": 0.5, "string": "x"}
    rows = []
    for frame in Census(config).frames():
        row = {field.name: plain.get(str(field.type), []) for field in SCHEMA}
        row |= {"path": frame.path, "split": frame.split, "subject": frame.landmark, "time": 0}
        row |= {"landmarks": [0], "visible": [0.5], "covers": [0.2], "columns": config.image_side}
        rows.append(row)
    table = pa.Table.from_pylist(rows, SCHEMA)
    return {"version": VERSION, "config": config.plain()}, table


def description_of_a_world(rng: np.random.Generator, folder: Path) -> None:
    description, manifest = _world()
    (folder / CONFIG).write_bytes(damaged_json(description, rng))
    pq.write_table(manifest, folder / MANIFEST)
    open_world(folder)


def manifest_of_a_world(rng: np.random.Generator, folder: Path) -> None:
    description, manifest = _world()
    (folder / CONFIG).write_text(json.dumps(description))
    out = io.BytesIO()
    compression = str(rng.choice(["none", "snappy"]))
    pq.write_table(manifest, out, compression=compression)
    (folder / MANIFEST).write_bytes(damaged(out.getvalue(), rng))
    open_world(folder)


@functools.cache
def _tar(kind: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name in ("a/1.jpg", "a/" + "long" * 40 + ".jpg", "list.txt"):
            header = tarfile.TarInfo(name)
            header.size = 700
            tar.addfile(header, io.BytesIO(bytes(700)))
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    return out.getvalue()[: 1 << 14]


def _with_tar_checksums(data: bytes) -> bytes:
    """Damage reaches the fields of a header only if its checksum is right."""
    changed = bytearray(data)
    for at in range(0, len(changed) - 511, 512):
        if changed[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = f"{sum(changed[at : at + 512]):06o}\0 ".encode()
    return bytes(changed)


def archives(rng: np.random.Generator, folder: Path) -> None:
    kind = int(rng.integers(0, 4))
    if kind == 3:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as made:
            for number, way in enumerate((zipfile.ZIP_STORED, 8, zipfile.ZIP_BZIP2, 14)):
                made.writestr(f"a/{number}.jpg", bytes(700), compress_type=way)
        data = damaged(out.getvalue(), rng)
    else:
        data = damaged(_tar((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[kind % 2]), rng)
        data = _with_tar_checksums(data) if rng.random() < 0.8 else data
        data = gzip.compress(data, 1) if kind == 2 else data
    (folder / "archive").write_bytes(data)
    unpack(folder / "archive", folder / "unpacked", limit=1 << 20)


_KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("JPEG", {"quality": 90}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("PPM", {}),
)


@functools.cache
def _image(kind: int) -> bytes:
    pixels = np.random.default_rng(kind).integers(0, 256, (40, 56, 3), np.uint8)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    name, options = _KINDS[kind]
    Image.fromarray(pixels).save(out, name, exif=exif, **options)
    return out.getvalue()


def _with_png_checksums(data: bytes) -> bytes:
    changed, at = bytearray(data), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def pictures(rng: np.random.Generator, folder: Path) -> None:
    kind = int(rng.integers(0, len(_KINDS)))
    data = damaged(_image(kind), rng)
    if _KINDS[kind][0] == "PNG":
        data = _with_png_checksums(data)
    (folder / "photo").write_bytes(data)
    decode_image(folder / "photo", max_side=int(rng.choice([16, 48, 1 << 30])))


def _all(folder: Path, *loads: Callable[[Path], object]) -> None:
    """Every loader is tried, also after one that refuses the folder."""
    refusal: DatasetError | None = None
    for load in loads:
        try:
            load(folder)
        except DatasetError as error:
            refusal = error
    if refusal is not None:
        raise refusal


READERS = (
    ground_truth,
    lists_of_google_landmarks,
    ground_truth_of_oxford,
    ground_truth_of_revisited_oxford,
    lists_of_landmarks,
    description_of_a_world,
    manifest_of_a_world,
    archives,
    pictures,
)


def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    assert not failures(*READERS, count=40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", READERS, ids=[reader.__name__ for reader in READERS])
def test_two_thousand_damaged_files_are_read_or_refused_in_one_line(
    reader: Callable[[np.random.Generator, Path], None],
) -> None:
    assert not failures(reader, count=2000, seed=1)
