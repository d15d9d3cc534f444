"""TensorFlow checkpoints: every supported type is read from every location, and files that are
damaged or of another kind are refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from delfjax.models.foreign.tf_checkpoints import is_tf_checkpoint, read_tf_tensors
from delfjax.models.weights import WeightsError
from tests.unit.models.foreign.tensor_bundles import (
    GRAPH,
    MAGIC,
    VALUE,
    block_of,
    closed,
    entry,
    example,
    header,
    number,
    object_graph,
    part,
    table,
    varint,
    write_bundle,
    write_objects,
)

ONE = {"x": np.arange(3, dtype=np.float32)}


def refused(path: Path) -> str:
    """The reason a checkpoint is refused with: one line that names the file."""
    with pytest.raises(WeightsError) as error:
        read_tf_tensors(path)
    assert str(path.parent) in str(error.value) and str(error.value).isprintable()
    assert len(str(error.value)) < 600
    return str(error.value)


def replaced(folder: Path, entries: dict[str, bytes], data: bytes = bytes(12)) -> Path:
    """A checkpoint with this index."""
    index = write_bundle(folder / "model", ONE)
    index.write_bytes(table(entries))
    index.with_name("model.data-00000-of-00001").write_bytes(data)
    return index


def test_the_checksum_is_the_published_one() -> None:
    # Source: RFC 3720, appendix B.4.
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA
    assert google_crc32c.value(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize("shards", [1, 3])
def test_every_type_and_shape_is_read(shards: int, tmp_path: Path) -> None:
    read = read_tf_tensors(write_bundle(tmp_path / "model.ckpt-7", example(), shards=shards))
    assert read.keys() == example().keys()
    for name, tensor in example().items():
        widened = tensor.astype(np.float32) if name.endswith("bfloat16") else tensor
        np.testing.assert_array_equal(read[name], widened, strict=True)


@pytest.mark.parametrize(
    "given",
    [
        "saved",
        "saved/variables",
        "saved/variables/variables",
        "saved/variables/variables.index",
        "saved/variables/variables.data-00000-of-00001",
        "trained",
        "trained/model-20",
    ],
)
def test_a_checkpoint_is_found_by_its_folder_its_prefix_or_a_file(
    given: str, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "saved" / "variables" / "variables", ONE)
    write_bundle(tmp_path / "trained" / "model-10", {"y": ONE["x"]})
    write_bundle(tmp_path / "trained" / "model-20", ONE)
    said = (
        'model_checkpoint_path: "/elsewhere/model-20"\nall_model_checkpoint_paths:'
        ' "/elsewhere/model-10"\n'
    )
    (tmp_path / "trained" / "checkpoint").write_text(said)
    assert is_tf_checkpoint(tmp_path / given)
    np.testing.assert_array_equal(read_tf_tensors(tmp_path / given)["x"], ONE["x"], strict=True)


def test_other_files_are_no_checkpoints_of_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"PK")
    assert not is_tf_checkpoint(tmp_path / "model.pth")
    assert "cannot be read" in refused(tmp_path / "model.pth")
    assert "neither a SavedModel" in refused(tmp_path)
    (tmp_path / "checkpoint").write_text("nothing\n")
    assert "has no entry model_checkpoint_path" in refused(tmp_path)


def test_variables_of_objects_go_by_their_names_or_by_their_paths(tmp_path: Path) -> None:
    held = {
        "model/first/kernel": ONE["x"],
        "model/first/bias": ONE["x"] + 1,
        "save_counter": np.array(3, np.int64),
    }
    named = {"model/first/kernel": "net/conv/kernel", "model/first/bias": "net/conv/bias"}
    index = write_objects(tmp_path / "ckpt-1", held, named)
    by_name, by_path = read_tf_tensors(index), read_tf_tensors(index, names="objects")
    assert by_name.keys() == {"net/conv/kernel", "net/conv/bias", "save_counter"}
    assert by_path.keys() == held.keys()
    for path, tensor in held.items():
        np.testing.assert_array_equal(by_path[path], tensor, strict=True)
        np.testing.assert_array_equal(by_name[named.get(path, path)], tensor, strict=True)


def test_variables_whose_names_do_not_tell_them_apart_go_by_their_paths(tmp_path: Path) -> None:
    held = {"first/kernel": ONE["x"], "second/kernel": ONE["x"] + 1}
    index = write_objects(tmp_path / "ckpt-1", held, dict.fromkeys(held, "kernel"))
    assert read_tf_tensors(index).keys() == held.keys()


def test_a_variable_in_a_list_of_keras_has_the_path_of_its_attributes(tmp_path: Path) -> None:
    """Keras keeps lists of variables, and the key of a tensor may be its position in a list."""
    graph = object_graph({"block/kernel": "kernel"}, keys={"block/kernel": f"variables/0{VALUE}"})
    index = write_bundle(tmp_path / "variables", {f"variables/0{VALUE}": ONE["x"]}, graph=graph)
    assert list(read_tf_tensors(index, names="objects")) == ["block/kernel"]


def test_a_variable_that_only_a_list_leads_to_goes_by_its_key(tmp_path: Path) -> None:
    graph = object_graph({"variables/0": "kernel"}, keys={"variables/0": f"variables/0{VALUE}"})
    index = write_bundle(tmp_path / "variables", {f"variables/0{VALUE}": ONE["x"]}, graph=graph)
    assert list(read_tf_tensors(index, names="objects")) == ["variables/0"]


FLOATS = entry(1, (3,), 0, bytes(12))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"x": FLOATS}, "its table has no header"),
        ({"": header(big_endian=True), "x": FLOATS}, "big-endian"),
        ({"": header(0), "x": FLOATS}, "claims 0 data files"),
        ({"": header(10**9), "x": FLOATS}, "claims 1000000000 data files"),
        (
            {"": header(), "\0x\u0080": FLOATS, "x": FLOATS + part(7, b"")},
            "'x' is stored in slices",
        ),
        ({"": header(), "x": entry(20, (), 0, b"")}, "'x' has TensorFlow's type 20"),
        (
            {"": header(), "x": entry(1, (3,), 0, bytes(12), shard=1)},
            "'x' is in data file 1, but there are only 1",
        ),
        (
            {"": header(), "x": entry(1, (4,), 0, bytes(12))},
            "'x' of shape (4,) and type float32 cannot have 12 bytes",
        ),
        ({"": header(), "x": entry(1, (2**64 - 3,), 0, bytes(12))}, "'x' of shape"),
        ({"": header(), "x": entry(1, (2**62,), 0, b"")}, "'x' of shape"),
        ({"": header(), "x": entry(1, (0, 2**63), 0, b"")}, "ValueError"),
        (
            {"": header(), "x": entry(1, (3,), 4, bytes(12))},
            "'x' ends at byte 16 of data file 0, which has 12 bytes",
        ),
        ({"": header(), "x": entry(1, (3,), 2**64 - 8, bytes(12))}, "'x' ends at byte"),
        ({"": header(), "x": entry(1, (3,), 0, bytes(11) + b"\1")}, "checksum of 'x'"),
        ({"": header(), "x": FLOATS[:-2]}, "ValueError"),
        ({"": header(), "x": part(1, b"\1")[:-1]}, "ValueError"),
        ({"": header(), "x": number(1, 1) + number(2, 5)}, "ValueError"),
        ({"": header(), "x": b"\x0b"}, "wire type 3"),
        ({"": header(), "x": entry(1, (1,) * 65, 0, bytes(4))}, "'x' has 65 axes"),
        (
            {"": header(), "x": entry(1, (1,) * 2000, 0, bytes(4))},
            "bytes, expected at most 4,000; a variable stored in slices is not supported",
        ),
        ({"": header(), "n" * 1001: FLOATS}, "bytes, limit 1,000"),
        # Ten thousand tensors of the same bytes would be a hundred times as large as the file.
        ({"": header(), "x": FLOATS, "y": FLOATS}, "its tensors overlap"),
        ({"": header(), GRAPH: entry(7, (), 0, bytes(12))}, "not a single text"),
        ({"": header(), GRAPH: entry(7, (2,), 0, bytes(12))}, "not a single text"),
    ],
)
def test_an_index_that_is_not_read_says_why(
    entries: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    assert reason in refused(replaced(tmp_path, entries))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda data: data[:-1], "does not end with the footer of a table"),
        (lambda data: b"", "does not end with the footer of a table"),
        (lambda data: data[-48:], "truncated: a block ends"),
        (lambda data: b"\1" + data[1:], "checksum of a block of names"),
        (lambda _: table({"": header(), "x": FLOATS}, kind=1), "compressed"),
        (
            lambda data: (
                data[:-48] + (bytes(2) + varint(2**40) + varint(5)).ljust(40, b"\0") + data[-8:]
            ),
            "truncated",
        ),
    ],
)
def test_a_table_that_is_not_read_says_why(
    harm: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    index = write_bundle(tmp_path / "model", ONE)
    index.write_bytes(harm(index.read_bytes()))
    assert reason in refused(index)


def test_blocks_that_overlap_are_refused(tmp_path: Path) -> None:
    """Nested blocks would hold the square of the file's bytes."""
    index = write_bundle(tmp_path / "model", ONE)
    block = block_of([(b"", header()), (b"x", FLOATS)])
    data = closed(block, 0)
    places = block_of([(b"y", varint(0) + varint(len(block))), (b"z", varint(0) + varint(10**9))])
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(places))
    index.write_bytes(
        data + closed(places, 0) + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")
    )
    assert "its blocks overlap" in refused(index)


def test_a_graph_whose_paths_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """Each object is an attribute of the one before it, so that the paths grow with the square."""
    nodes = [part(1, part(1, number(1, follower) + part(2, "a"))) for follower in range(1, 20_001)]
    index = write_bundle(tmp_path / "objects", ONE, graph=b"".join([*nodes, part(1, b"")]))
    assert "its graph has a path of 1,001 characters, expected at most 1,000" in refused(index)


def test_a_graph_of_too_many_objects_is_refused(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "objects", ONE, graph=part(1, b"") * 100_001)
    assert "its graph has 100,001 objects, expected at most 100,000" in refused(index)


def test_a_folder_whose_latest_checkpoint_has_an_impossible_name_is_refused(tmp_path: Path) -> None:
    for name in ("/a/\0", "model\x1b[2J", "n" * 5000, "/"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
        assert "checkpoint: model_checkpoint_path names" in refused(tmp_path)


def test_keys_out_of_order_are_refused(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "model", ONE)
    index.write_bytes(table({"": header(), "b": FLOATS, "a": FLOATS}, in_order=False))
    assert "not in order, b'a' follows b'b'" in refused(index)


def test_a_missing_file_of_values_is_named(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "model", example(), shards=3)
    index.with_name("model.data-00001-of-00003").unlink()
    assert "model.data-00001-of-00003: cannot be read" in refused(index)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The content cut somewhere, or with one bit flipped."""
    place = int(rng.integers(len(data)))
    if rng.random() < 0.3:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]


def equal(read: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return read.keys() == expected.keys() and all(
        np.array_equal(read[name], expected[name]) for name in read
    )


def test_damage_anywhere_in_the_files_is_noticed_or_harmless(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    index = write_objects(
        tmp_path / "model", {f"net/{name}": tensor for name, tensor in example().items()}
    )
    expected = read_tf_tensors(index)
    noticed = 0
    for file in (index, index.with_name("model.data-00000-of-00001")):
        whole = file.read_bytes()
        for _ in range(150):
            file.write_bytes(damaged(whole, rng))
            try:
                assert equal(read_tf_tensors(index), expected)
            except WeightsError:
                noticed += 1
        file.write_bytes(whole)
    assert noticed > 200


def test_malformed_messages_with_correct_checksums_give_a_weights_error_or_tensors(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Checksums guard against accidents, not against an attacker, who can compute them as well."""
    entries = {"": header(), "x": entry(1, (2, 3), 4, bytes(24)), "y": entry(3, (), 0, bytes(4))}
    graph = object_graph({"a/b/x": "one", "a/y": "two"}, keys={"a/b/x": "x", "a/y": "y"})
    held = {"x": np.zeros((2, 3), np.float32), "y": np.zeros((), np.int32)}
    read = 0
    for _ in range(150):
        name = str(rng.choice(list(entries)))
        index = replaced(tmp_path, {**entries, name: damaged(entries[name], rng)}, bytes(28))
        with contextlib.suppress(WeightsError):
            read += len(read_tf_tensors(index))
        index = write_bundle(tmp_path / "objects", held, graph=damaged(graph, rng))
        with contextlib.suppress(WeightsError):
            read += len(read_tf_tensors(index))
    assert read
