"""The feature store: features are read back as written, also after interruptions, and damaged files
are refused by name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delfjax.config import config_hash
from delfjax.features.store import FeatureStore, Group, StoreError, StoreWriter
from delfjax.types import ImageFeatures, LocalFeatures

_CONFIG: dict[str, Any] = {
    "backbone": {"name": "tiny"},
    "features": {"max_side": 64, "scales": [0.5, 1.0]},
}
_DIM = 6
_REPOSITORY = Path(__file__).parents[3]


def _image(name: str, *, pooled: bool = False, dim: int = _DIM) -> ImageFeatures:
    """Features that are a function of the name; about one image in five has none."""
    rng = np.random.default_rng(list(name.encode()))
    count = int(rng.integers(0, 5))
    local = LocalFeatures(
        keypoints_yx=rng.uniform(0, 500, (count, 2)).astype(np.float32),
        scales=rng.choice([0.5, 1.0], count).astype(np.float32),
        scores=rng.uniform(0, 9, count).astype(np.float32),
        descriptors=rng.normal(size=(count, dim)).astype(np.float32),
        valid=np.ones(count, bool),
    )
    vector = rng.normal(size=4).astype(np.float32) if pooled else None
    return ImageFeatures(
        local, vector, (int(rng.integers(1, 9999)), 7), f"{rng.integers(1 << 62):032x}"
    )


def _names(count: int, prefix: str = "ü/photo") -> list[str]:
    return [f"{prefix}{number:03d}.jpg" for number in range(count)]


def _commit(
    writer: StoreWriter,
    groups: Sequence[Group],
    *,
    broken: Sequence[str] = (),
    pooled: bool = False,
) -> None:
    for group in groups:
        good = {name: _image(name, pooled=pooled) for name in group.names if name not in broken}
        writer.commit(group, good, {name: "broken" for name in group.names if name in broken})


def _fill(
    path: Path, names: Sequence[str], *, broken: Sequence[str] = (), shard_size: int = 4
) -> FeatureStore:
    with StoreWriter(path, _CONFIG, shard_size=shard_size) as writer:
        _commit(writer, writer.plan(names), broken=broken)
        return writer.store()


def _assert_equal(one: ImageFeatures, other: ImageFeatures) -> None:
    for field in ("keypoints_yx", "scales", "scores", "valid"):
        assert np.array_equal(getattr(one.local, field), getattr(other.local, field)), field
    assert np.array_equal(
        one.local.descriptors, np.asarray(other.local.descriptors).astype(np.float16)
    )
    assert (one.image_size, one.content_hash) == (other.image_size, other.content_hash)
    assert (one.global_descriptor is None) == (other.global_descriptor is None)
    if one.global_descriptor is not None and other.global_descriptor is not None:
        assert np.array_equal(one.global_descriptor, other.global_descriptor)


def _bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("pooled", [False, True])
def test_what_goes_in_comes_out(tmp_path: Path, pooled: bool) -> None:
    names = _names(11)
    with StoreWriter(tmp_path / "s", _CONFIG, shard_size=4) as writer:
        _commit(writer, writer.plan(reversed(names)), pooled=pooled)
    store = FeatureStore.open(tmp_path / "s", config=_CONFIG)
    assert store.names == tuple(names) and len(store) == 11 and store.descriptor_dim == _DIM
    for number, name in enumerate(names):
        _assert_equal(store.get(name), _image(name, pooled=pooled))
        _assert_equal(store[number], store.get(name))
        assert store.content_hash(name) == _image(name, pooled=pooled).content_hash
    assert store.counts().tolist() == [len(_image(name).local.scales) for name in names]
    assert 0 in store.counts()
    assert store.config == _CONFIG and store.config_hash == config_hash(_CONFIG)


def test_arrays_hold_all_features_image_after_image(tmp_path: Path) -> None:
    names = _names(9)
    store = _fill(tmp_path / "s", names)
    arrays = store.arrays()
    assert arrays.names == tuple(names) and arrays.offsets[-1] == store.counts().sum() > 0
    for number, name in enumerate(names):
        own = slice(arrays.offsets[number], arrays.offsets[number + 1])
        image = store.get(name).local
        for field in ("keypoints_yx", "scales", "scores", "descriptors"):
            assert np.array_equal(getattr(arrays, field)[own], getattr(image, field)), field
    halved = store.arrays(reduce=lambda descriptors: descriptors[:, :2].astype(np.float32))
    assert np.array_equal(halved.descriptors, arrays.descriptors[:, :2].astype(np.float32))


def test_an_empty_store_has_empty_arrays(tmp_path: Path) -> None:
    store = _fill(tmp_path / "s", ["a.jpg"], broken=["a.jpg"])
    assert (
        len(store) == 0 and store.arrays().offsets.tolist() == [0] and store.counts().shape == (0,)
    )
    assert store.failures() == {"a.jpg": "broken"}


def test_arrays_are_memory_mapped(tmp_path: Path) -> None:
    """Nothing is copied on reading: the arrays of an image lie inside the mapped file,
    read-only."""
    store = _fill(tmp_path / "s", _names(4))
    image = next(store.get(name) for name in store.names if len(store.get(name).local.scales))
    address = np.asarray(image.local.descriptors).__array_interface__["data"][0]
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the table of memory mappings is Linux's")
    mapped = [line.split() for line in maps.read_text().splitlines() if str(tmp_path) in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in mapped]
    assert any(begin <= address < end for begin, end in ranges)
    assert not np.asarray(image.local.descriptors).flags.writeable


def test_arrays_outlive_the_store(tmp_path: Path) -> None:
    store = _fill(tmp_path / "s", _names(8), shard_size=1)
    images = [store.get(name) for name in store.names]
    del store
    for name, image in zip(_names(8), images, strict=True):
        _assert_equal(image, _image(name))


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    store = _fill(tmp_path / "s", _names(150), shard_size=1)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    images = [store.get(name) for name in store.names]
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert len(images) == 150 and after - before < 10


def test_a_run_stopped_between_commits_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    names = _names(23)
    _fill(tmp_path / "clean", names, broken=names[5:7])
    for stop in range(6):
        path = tmp_path / f"stopped{stop}"
        with StoreWriter(path, _CONFIG, shard_size=4) as writer:
            groups = writer.plan(names)
            # Out of order, as batches may end.
            _commit(writer, groups[::-1][:stop], broken=names[5:7])
        assert len(FeatureStore.open(path).pending()) == sum(
            len(group.names) for group in groups[: 6 - stop]
        )
        # The shard size of the plan counts, not that of the second run.
        with StoreWriter(path, _CONFIG, shard_size=7) as writer:
            assert writer.plan(names) == groups[: 6 - stop]
            _commit(writer, writer.plan(names), broken=names[5:7])
        assert _bytes(path) == _bytes(tmp_path / "clean")
        assert FeatureStore.open(path).pending() == ()


def test_a_finished_store_plans_nothing(tmp_path: Path) -> None:
    _fill(tmp_path / "s", _names(5))
    before = _bytes(tmp_path / "s")
    with StoreWriter(tmp_path / "s", _CONFIG) as writer:
        assert writer.plan(_names(5)) == []
    assert _bytes(tmp_path / "s") == before


def test_later_images_go_into_new_shards(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _fill(path, _names(6), shard_size=4)
    before = _bytes(path)
    store = _fill(path, [*_names(6), "a/earlier_in_order.jpg"], shard_size=4)
    after = _bytes(path)
    assert {name: after[name] for name in before} == before
    assert store.names[0] == "a/earlier_in_order.jpg" and len(store) == 7
    for name in store.names:
        _assert_equal(store.get(name), _image(name))


def test_a_failure_is_kept_with_its_reason_and_not_planned_again(tmp_path: Path) -> None:
    names = _names(6)
    store = _fill(tmp_path / "s", names, broken=names[2:3])
    assert store.failures() == {names[2]: "broken"} and names[2] not in store
    assert store.done() == frozenset(names)
    with pytest.raises(
        StoreError, match=re.escape(f"holds no image {names[2]!r}; it failed: broken")
    ):
        store.get(names[2])
    with StoreWriter(tmp_path / "s", _CONFIG) as writer:
        assert writer.plan(names) == []


def test_a_retried_failure_is_replaced_by_its_new_result(tmp_path: Path) -> None:
    names = _names(6)
    _fill(tmp_path / "s", names, broken=names[2:4])
    with StoreWriter(tmp_path / "s", _CONFIG) as writer:
        groups = writer.plan(names, again=names[2:4])
        assert [group.names for group in groups] == [tuple(names[2:4])]
        # Asked for a second time before it is committed, it is planned once.
        assert writer.plan(names, again=names[2:4]) == groups
        _commit(writer, groups, broken=names[3:4])
        store = writer.store()
    assert store.failures() == {names[3]: "broken"} and len(store) == 5
    _assert_equal(store.get(names[2]), _image(names[2]))


def test_an_image_extracted_again_has_its_last_features(tmp_path: Path) -> None:
    _fill(tmp_path / "s", _names(3))
    name = _names(3)[1]
    newer = replace(_image("something else"), content_hash="newer")
    with StoreWriter(tmp_path / "s", _CONFIG) as writer:
        (group,) = writer.plan(_names(3), again=[name])
        writer.commit(group, {name: newer}, {})
        store = writer.store()
    assert len(store) == 3 and store.content_hash(name) == "newer"
    _assert_equal(store.get(name), newer)


def test_a_group_is_committed_once_and_whole(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", _CONFIG) as writer:
        (group,) = writer.plan(["a.jpg", "b.jpg"])
        with pytest.raises(ValueError, match="exactly its 2 images"):
            writer.commit(group, {"a.jpg": _image("a.jpg")}, {})
        with pytest.raises(ValueError, match="exactly its 2 images"):
            writer.commit(
                group, {"a.jpg": _image("a.jpg"), "b.jpg": _image("b.jpg")}, {"b.jpg": "broken"}
            )
        _commit(writer, [group])
        with pytest.raises(ValueError, match="must be committed once"):
            _commit(writer, [group])


def test_descriptors_of_two_dimensions_do_not_share_a_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", _CONFIG, shard_size=1) as writer:
        first, second = writer.plan(["a.jpg", "b.jpg"])
        _commit(writer, [first])
        with pytest.raises(StoreError, match=r"descriptors of \[5, 6\] dimensions"):
            writer.commit(second, {"b.jpg": _image("b.jpg", dim=5)}, {})


def test_padding_is_not_stored(tmp_path: Path) -> None:
    image = _image("padded")
    padded = replace(
        image, local=replace(image.local, valid=np.zeros(len(image.local.scales), bool))
    )
    assert len(image.local.scales) > 0
    with StoreWriter(tmp_path / "s", _CONFIG) as writer:
        (group,) = writer.plan(["padded"])
        with pytest.raises(ValueError, match="drop the padding"):
            writer.commit(group, {"padded": padded}, {})


def test_a_store_of_another_config_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    _fill(tmp_path / "s", _names(2))
    other = {**_CONFIG, "features": {**_CONFIG["features"], "max_side": 96}}
    message = r"features.max_side is 64 in the store, but 96 here"
    with pytest.raises(StoreError, match=message):
        FeatureStore.open(tmp_path / "s", config=other)
    with pytest.raises(StoreError, match=message), StoreWriter(tmp_path / "s", other):
        pass
    # The refused writer let go of the lock.
    with StoreWriter(tmp_path / "s", _CONFIG):
        pass


def _rewrite_header(path: Path, **changes: Any) -> None:
    file = path / "store.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2, this delfjax reads 1"),
        ({"version": None}, "version is None"),
        ({"format": "another"}, "format is 'another'"),
        ({"config": {"features": {}}}, "its config does not have the hash"),
        ({"config": 3}, "its config does not have the hash"),
    ],
)
def test_a_header_of_another_format_or_version_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "s"
    _fill(path, _names(2))
    _rewrite_header(path, **changes)
    with pytest.raises(
        StoreError, match=re.escape(f"{path / 'store.json'}: ") + ".*" + re.escape(message)
    ):
        FeatureStore.open(path)


@pytest.mark.parametrize("file", ["store.json", "plan-000000.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\x00"])
def test_damaged_json_is_refused_by_name(tmp_path: Path, file: str, content: bytes) -> None:
    path = tmp_path / "s"
    _fill(path, _names(2))
    (path / file).write_bytes(content)
    with pytest.raises(StoreError, match=re.escape(str(path / file))):
        FeatureStore.open(path)


def _shard(path: Path, number: int = 0) -> Path:
    (file,) = path.glob(f"shard-{number:06d}-*.arrow")
    return file


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_shard_is_refused_by_name(tmp_path: Path, share: float) -> None:
    path = tmp_path / "s"
    _fill(path, _names(4))
    content = _shard(path).read_bytes()
    _shard(path).write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match=re.escape(f"{_shard(path)}: damaged")):
        FeatureStore.open(path)


def test_any_changed_byte_of_a_shard_is_noticed_before_its_rows_are_used(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "s"
    names = _names(4)
    _fill(path, names)
    file, content = _shard(path), _shard(path).read_bytes()
    for place in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged|version|config"):
            FeatureStore.open(path).get(names[0])
    file.write_bytes(content)
    FeatureStore.open(path).verify()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's means")
@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, 60), *(pytest.param(k, 500, marks=pytest.mark.slow) for k in (2, 3, 4, 5))],
)
def test_a_damaged_store_with_right_checksums_is_read_or_refused(seed: int, count: int) -> None:
    """In a process of its own, with limits of time and memory, so that a crash is seen."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.unit.features.mutated_stores", str(seed), str(count)],
        cwd=_REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = process.stdout.split()
    assert process.returncode == 0 and said[-2:] == [str(count - 1), "finished"], (
        f"{said[-1:]}: {process.stderr}"
    )


def test_a_compressed_shard_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _fill(path, _names(4))
    file = _shard(path)
    batch = pa.ipc.open_file(pa.BufferReader(file.read_bytes())).get_batch(0)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    file.unlink()
    (path / f"shard-000000-{zlib.crc32(content):08x}.arrow").write_bytes(content)
    with pytest.raises(StoreError, match="damaged shard \\(its columns are compressed\\)"):
        FeatureStore.open(path).verify()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"photos": 3}', b'{"photos": "a"}', b'{"photos": "/a\\u0000"}']
)
def test_a_damaged_record_of_the_folder_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s"
    _fill(path, _names(2))
    (path / "source.json").write_bytes(content)
    named = re.escape(f"{path / 'source.json'}: damaged")
    with pytest.raises(StoreError, match=f"{named}.*; delete this file and extract again"):
        print(FeatureStore.open(path).source)


def test_verify_reads_every_shard(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _fill(path, _names(12))
    content = bytearray(_shard(path, 2).read_bytes())
    content[len(content) // 3] ^= 1
    _shard(path, 2).write_bytes(content)
    with pytest.raises(StoreError, match=re.escape(f"{_shard(path, 2)}: damaged")):
        FeatureStore.open(path).verify()


def test_a_shard_of_another_store_is_refused_by_name(tmp_path: Path) -> None:
    other_config = {"backbone": {"name": "other"}}
    with StoreWriter(tmp_path / "other", other_config, shard_size=4) as writer:
        _commit(writer, writer.plan(_names(4)))
    _fill(tmp_path / "s", _names(4))
    _shard(tmp_path / "s").unlink()
    stranger = _shard(tmp_path / "other").rename(tmp_path / "s" / _shard(tmp_path / "other").name)
    with pytest.raises(
        StoreError, match=re.escape(f"{stranger}: shard of config {config_hash(other_config)}")
    ):
        FeatureStore.open(tmp_path / "s")


def test_misplaced_and_doubled_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _fill(path, _names(8))
    second = _shard(path, 1)
    for name, message in (
        (second.name.replace("000001", "000000"), "group 0 is also in"),
        (second.name.replace("000001", "000009"), "no plan has group 9"),
        ("shard-1.arrow", "not a valid file name for a shard"),
    ):
        (path / name).write_bytes(second.read_bytes())
        with pytest.raises(StoreError, match=message):
            FeatureStore.open(path)
        (path / name).unlink()
    _shard(path, 0).unlink()
    second.rename(path / second.name.replace("000001", "000000"))
    with pytest.raises(StoreError, match="not the shard of group 0"):
        FeatureStore.open(path)


def test_a_missing_plan_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _fill(path, _names(3))
    _fill(path, _names(6))
    (path / "plan-000000.json").unlink()
    with pytest.raises(StoreError, match="plan 0 is missing"):
        FeatureStore.open(path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore.open(tmp_path)
    with (
        pytest.raises(StoreError, match=r"not a feature store .*'photo.jpg' is there"),
        StoreWriter(tmp_path, _CONFIG),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_file_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"x")
    with (
        pytest.raises(StoreError, match="cannot be created or listed"),
        StoreWriter(tmp_path / "s", _CONFIG),
    ):
        pass


def test_a_half_written_file_of_a_killed_writer_is_deleted(tmp_path: Path) -> None:
    _fill(tmp_path / "clean", _names(3))
    path = tmp_path / "s"
    path.mkdir()
    (path / ".store.json.tmp").write_bytes(b"{")
    (path / ".shard-000000-12345678.arrow.tmp").write_bytes(b"ARR")
    _fill(path, _names(3))
    assert _bytes(path) == _bytes(tmp_path / "clean")


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with StoreWriter(path, _CONFIG) as writer:
        message = f"is being written by process {os.getpid()} on "
        with pytest.raises(StoreError, match=message), StoreWriter(path, _CONFIG):
            pass
        # Reading goes on meanwhile.
        _commit(writer, writer.plan(_names(2)))
        assert len(FeatureStore.open(path)) == 2
    with StoreWriter(path, _CONFIG) as writer:
        assert writer.plan(_names(2)) == []


_HOLD = """
import sys, time
from pathlib import Path
from delfjax.features.store import StoreWriter
config = {"backbone": {"name": "tiny"}, "features": {"max_side": 64, "scales": [0.5, 1.0]}}
with StoreWriter(Path(sys.argv[1]), config):
    print("held", flush=True)
    time.sleep(120)
"""


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    root = Path(__file__).resolve().parents[3]
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, cwd=root
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(StoreError, match=f"is being written by process {holder.pid} on "),
            StoreWriter(path, _CONFIG),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    started = time.monotonic()
    with StoreWriter(path, _CONFIG) as writer:
        _commit(writer, writer.plan(_names(2)))
    assert time.monotonic() - started < 10
    assert (path / "writer.lock").read_bytes() == b""


def test_a_subset_knows_nothing_of_other_images(tmp_path: Path) -> None:
    names = _names(6)
    store = _fill(tmp_path / "store", names, broken=(names[1], names[4]))
    part = store.subset([names[3], names[0], names[1], "elsewhere"])
    assert (
        part.names == (names[0], names[3])
        and part.failures().keys() == {names[1]}
        and len(part) == 2
    )
    assert names[2] not in part and names[2] in store and part.config_hash == store.config_hash
    _assert_equal(part.get(names[3]), store.get(names[3]))
    assert part.arrays().names == part.names
