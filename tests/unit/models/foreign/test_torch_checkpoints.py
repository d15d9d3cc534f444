"""The restricted reader of PyTorch checkpoints, tested on handmade files.

They are assembled opcode by opcode, so that no test needs torch and hostile ones can be written at
all.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from delfjax.models.foreign import torch_checkpoints
from delfjax.models.weights import WeightsError
from delfjax.pickles import RefusedError
from tests.unit.models.foreign.torch_files import (
    LAYOUTS,
    MAGIC,
    NUMBERS,
    Opcodes,
    built,
    call,
    dumps,
    legacy_file,
    named_class,
    ordered,
    pickled,
    storage,
    tensor,
    zip_file,
)

both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def written(folder: Path, data: bytes, name: str = "model.pth") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path) -> str:
    """The reason a checkpoint is refused with, which has to name the file."""
    with pytest.raises(WeightsError) as error:
        torch_checkpoints.read_torch_tensors(path)
    assert str(path) in str(error.value)
    return str(error.value)


# The restricted reader.


@both_layouts
def test_tensors_are_read_with_names_shapes_and_values(
    layout: Callable[..., bytes], tmp_path: Path
) -> None:
    counter = np.array([7], np.int64)
    root = ordered(
        {
            "conv.weight": tensor(storage(), size=(3, 4), stride=(4, 1)),
            "bn.num_batches_tracked": tensor(
                storage("1", kind="LongStorage", numel=1), size=(), stride=()
            ),
            "epoch": 3,
        }
    )
    read = torch_checkpoints.read_torch_tensors(
        written(tmp_path, layout(root, {"0": NUMBERS, "1": counter}))
    )
    assert list(read) == ["conv.weight", "bn.num_batches_tracked", "epoch"]
    np.testing.assert_array_equal(read["conv.weight"], NUMBERS.reshape(3, 4), strict=True)
    np.testing.assert_array_equal(read["bn.num_batches_tracked"], np.array(7), strict=True)
    np.testing.assert_array_equal(read["epoch"], np.array(3))


@both_layouts
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("DoubleStorage", np.float64),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_every_storage_type_keeps_its_values(
    layout: Callable[..., bytes], kind: str, dtype: type, tmp_path: Path
) -> None:
    values = np.array([0, 1, 2, 100]).astype(dtype)
    root = {"x": tensor(storage(kind=kind, numel=4), size=(4,))}
    read = torch_checkpoints.read_torch_tensors(written(tmp_path, layout(root, {"0": values})))
    np.testing.assert_array_equal(read["x"], values, strict=True)


@both_layouts
def test_bfloat16_is_widened_without_loss(layout: Callable[..., bytes], tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e38, 1e-30], ml_dtypes.bfloat16)
    root = {"x": tensor(storage(kind="BFloat16Storage", numel=4), size=(4,))}
    read = torch_checkpoints.read_torch_tensors(written(tmp_path, layout(root, {"0": values})))
    np.testing.assert_array_equal(read["x"], values.astype(np.float32), strict=True)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("FloatStorage", ">f4"), ("LongStorage", ">i8"), ("BFloat16Storage", ">u2")]
)
def test_a_big_endian_archive_is_swapped(kind: str, dtype: str, tmp_path: Path) -> None:
    # As integers, 0x3F80 is 1.0 and 0x4000 is 2.0 in bfloat16.
    values: np.ndarray = np.array([0x3F80, 0x4000] if kind == "BFloat16Storage" else [1, 2]).astype(
        dtype
    )
    root = {"x": tensor(storage(kind=kind, numel=2), size=(2,))}
    read = torch_checkpoints.read_torch_tensors(
        written(tmp_path, zip_file(root, {"0": values}, byteorder=b"big"))
    )
    assert read["x"].tolist() == [1, 2]
    assert read["x"].dtype.isnative


@both_layouts
def test_offsets_and_strides_are_honoured(layout: Callable[..., bytes], tmp_path: Path) -> None:
    root = {
        "transposed": tensor(storage(), size=(4, 3), stride=(1, 4)),
        "tail": tensor(storage(), offset=10, size=(2,)),
        "every_third": tensor(storage(), offset=1, size=(4,), stride=(3,)),
        "empty": tensor(storage(), size=(0, 5), stride=(5, 1)),
    }
    read = torch_checkpoints.read_torch_tensors(written(tmp_path, layout(root, {"0": NUMBERS})))
    np.testing.assert_array_equal(read["transposed"], NUMBERS.reshape(3, 4).T, strict=True)
    assert read["tail"].tolist() == [10, 11]
    assert read["every_third"].tolist() == [1, 4, 7, 10]
    assert read["empty"].shape == (0, 5)


def test_a_legacy_storage_view_starts_where_it_says(tmp_path: Path) -> None:
    root = {
        "x": tensor(storage(view=("view", 4, 6)), offset=1, size=(5,)),
        "whole": tensor(storage(view=None)),
    }
    read = torch_checkpoints.read_torch_tensors(
        written(tmp_path, legacy_file(root, {"0": NUMBERS}))
    )
    assert read["x"].tolist() == [5, 6, 7, 8, 9]
    assert read["whole"].tolist() == NUMBERS.tolist()


@both_layouts
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (12,), (1,)),
        (0, (13,), (1,)),
        (0, (3, 4), (5, 1)),
        (13, (), ()),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2,), (2**62,)),
        (2**70, (2,), (1,)),
        # Inside the storage, but standing for far more elements than there are.
        (0, (2**40,), (0,)),
        (0, (3, 4), (1,)),
        (0, 12, (1,)),
        (0, ("12",), (1,)),
        (True, (2,), (1,)),
        (None, (2,), (1,)),
    ],
)
def test_no_view_reads_outside_its_storage(
    layout: Callable[..., bytes], offset: Any, size: Any, stride: Any, tmp_path: Path
) -> None:
    root = {"crafted": tensor(storage(), offset=offset, size=size, stride=stride)}
    assert "'crafted'" in refused(written(tmp_path, layout(root, {"0": NUMBERS})))


@pytest.mark.parametrize(
    "view", [("view", 8, 5), ("view", -1, 5), ("view", 0, 2**70), ("view", 0.0, 1)]
)
def test_no_storage_view_reads_outside_its_storage(view: tuple[Any, ...], tmp_path: Path) -> None:
    root = {"x": tensor(storage(view=view), size=(1,))}
    assert "beyond storage '0'" in refused(written(tmp_path, legacy_file(root, {"0": NUMBERS})))


@both_layouts
@pytest.mark.parametrize("numel", [11, 13, -1, 2**40])
def test_a_storage_of_another_length_than_promised_is_refused(
    layout: Callable[..., bytes], numel: int, tmp_path: Path
) -> None:
    root = {"x": tensor(storage(numel=numel), size=(2,))}
    assert "storage" in refused(written(tmp_path, layout(root, {"0": NUMBERS})))


@both_layouts
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_wrapped_data_parallel_state_dictionary_is_unwrapped(
    layout: Callable[..., bytes], wrapper: str, tmp_path: Path
) -> None:
    root = {
        "epoch": 90,
        "arch": "resnet50",
        wrapper: ordered({"module.fc.weight": tensor(storage())}),
    }
    assert list(
        torch_checkpoints.read_torch_tensors(written(tmp_path, layout(root, {"0": NUMBERS})))
    ) == ["fc.weight"]


def test_a_parameter_is_its_tensor(tmp_path: Path) -> None:
    root = {
        "x": call(
            named_class("torch._utils", "_rebuild_parameter"), tensor(storage()), True, ordered({})
        )
    }
    read = torch_checkpoints.read_torch_tensors(written(tmp_path, zip_file(root, {"0": NUMBERS})))
    assert read["x"].tolist() == NUMBERS.tolist()


def test_arrays_that_share_a_storage_cannot_be_written(tmp_path: Path) -> None:
    root = {"x": tensor(storage()), "tied": tensor(storage())}
    read = torch_checkpoints.read_torch_tensors(written(tmp_path, zip_file(root, {"0": NUMBERS})))
    assert np.shares_memory(read["x"], read["tied"])
    assert not read["x"].flags.writeable


@both_layouts
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "open"),
        ("builtins", "dict"),
        ("os", "system"),
        ("collections", "defaultdict"),
        ("torch", "load"),
        ("torch", "FloatTensor"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch.nn.modules.linear", "Linear"),
        ("numpy._core.multiarray", "_reconstruct"),
        # A dotted name must not reach into an admitted class.
        ("collections", "OrderedDict.fromkeys"),
    ],
)
def test_any_other_class_is_refused_by_name(
    layout: Callable[..., bytes], module: str, name: str, tmp_path: Path
) -> None:
    root = {"x": tensor(storage()), "y": call(named_class(module, name))}
    assert f"{module}.{name}" in refused(written(tmp_path, layout(root, {"0": NUMBERS})))


@both_layouts
@pytest.mark.parametrize("stacked", [False, True])
def test_code_in_a_checkpoint_never_runs(
    layout: Callable[..., bytes], stacked: bool, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    by_stack = Opcodes(pickled("builtins") + pickled("open") + b"\x93")
    root = {"x": call(by_stack if stacked else named_class("builtins", "open"), str(marker), "w")}
    reason = refused(
        written(
            tmp_path,
            layout(root, {"0": NUMBERS}, **({"keys": []} if layout is legacy_file else {})),
        )
    )
    assert "builtins.open" in reason
    assert not marker.exists()


def test_code_in_the_header_of_a_legacy_file_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    attack = call(named_class("builtins", "open"), str(marker), "w")
    assert "not a PyTorch checkpoint" in refused(written(tmp_path, dumps(attack)))
    for part in ("protocol", "system", "keys"):
        data = legacy_file({}, {}, **{part: attack})
        assert "builtins.open" in refused(written(tmp_path, data))
    assert not marker.exists()


ODD = "which tensors do not use"


@pytest.mark.parametrize(
    ("opcodes", "reason"),
    [
        # NEWOBJ, INST, EXT1, a decimal integer, a persistent id as text.
        (named_class("collections", "OrderedDict").code + b")\x81", ODD),
        (b"(ios\nsystem\n", ODD),
        (b"\x82\x01", ODD),
        (b"I12\n", ODD),
        (b"P0\n", ODD),
        # An index of 2³¹ would make the memo allocate 32 GB.
        (b"Nr\xff\xff\xff\x7f", "memo index"),
        # Attributes set on what stands for torch's functions and types, so that they would outlive
        # this file.
        (
            built(named_class("torch._utils", "_rebuild_tensor_v2"), {"trace": 1}).code,
            "sets the state a dict on a rebuildtensor",
        ),
        (
            built(named_class("torch", "FloatStorage"), {"trace": 1}).code,
            "sets the state a dict on a storagetype",
        ),
        (
            built(named_class("collections", "OrderedDict"), {"trace": 1}).code,
            "sets the state a dict on a makedictionary",
        ),
        (call(named_class("torch", "FloatStorage"), 3).code, "calls a storagetype with (3)"),
        (pickled(("module", "x")) + b"Q", "does not refer to a storage"),
    ],
)
def test_pickles_that_do_more_than_name_tensors_are_refused(
    opcodes: bytes, reason: str, tmp_path: Path
) -> None:
    assert reason in refused(written(tmp_path, zip_file({"x": Opcodes(opcodes)}, {})))


def test_attributes_cannot_shadow_the_methods_of_a_state_dictionary(tmp_path: Path) -> None:
    state = built(ordered({"x": tensor(storage())}), {"items": 1, "get": 2, "__class__": 3})
    assert list(
        torch_checkpoints.read_torch_tensors(written(tmp_path, zip_file(state, {"0": NUMBERS})))
    ) == ["x"]


@both_layouts
def test_a_file_cut_anywhere_is_refused(layout: Callable[..., bytes], tmp_path: Path) -> None:
    data = layout(ordered({"x": tensor(storage())}), {"0": NUMBERS})
    for length in range(len(data)):
        refused(written(tmp_path, data[:length]))


@both_layouts
def test_a_changed_byte_gives_an_error_of_ours_or_tensors(
    layout: Callable[..., bytes], tmp_path: Path, rng: np.random.Generator
) -> None:
    data = layout(ordered({"x": tensor(storage())}), {"0": NUMBERS})
    outcomes = set()
    for position, change in enumerate(rng.integers(1, 256, len(data))):
        damaged = bytearray(data)
        damaged[position] ^= int(change)
        try:
            read = torch_checkpoints.read_torch_tensors(written(tmp_path, bytes(damaged)))
            assert all(isinstance(array, np.ndarray) for array in read.values())
            outcomes.add("read")
        except WeightsError as error:
            assert "model.pth" in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_changed_value_in_a_zip_archive_is_noticed(tmp_path: Path) -> None:
    data = zip_file({"x": tensor(storage())}, {"0": NUMBERS})
    where = data.index(NUMBERS.tobytes())
    damaged = data[:where] + b"\x01" + data[where + 1 :]
    assert "damaged" in refused(written(tmp_path, damaged))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"just some text\n",
        b"\x89PNG\r\n\x1a\n",
        dumps({"x": 1}),
        MAGIC[:-1],
        b"\x80\x02K\x01.",
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes, tmp_path: Path) -> None:
    assert "not a PyTorch checkpoint" in refused(written(tmp_path, data))


def test_an_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    assert "data.pkl" in refused(written(tmp_path, buffer.getvalue()))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    data = zip_file({"x": tensor(storage())}, {"0": NUMBERS}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(written(tmp_path, data))


def test_a_missing_storage_is_refused(tmp_path: Path) -> None:
    assert "model/data/0" in refused(written(tmp_path, zip_file({"x": tensor(storage())}, {})))
    assert "storage keys" in refused(written(tmp_path, legacy_file({"x": tensor(storage())}, {})))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": 1002}, "legacy protocol 1002"),
        ({"system": {"little_endian": False}}, "little-endian"),
        ({"system": 5}, "little-endian"),
        ({"keys": ["0", "0"]}, "storage keys"),
        ({"keys": [0]}, "storage keys"),
        ({"keys": 3}, "storage keys"),
    ],
)
def test_a_legacy_header_that_does_not_fit_is_refused(
    changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert reason in refused(
        written(tmp_path, legacy_file({"x": tensor(storage())}, {"0": NUMBERS}, **changed))
    )


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ([tensor(storage())], "holds a list"),
        (tensor(storage()), "holds a tensor"),
        ({"note": "text"}, "'note' is a str"),
        ({"x": {"deeper": tensor(storage())}}, "'x' is a dict"),
        ({3: tensor(storage())}, "entry named 3"),
        ({"x": tensor(storage()), "module.x": tensor(storage())}, "'x' twice"),
        ({"x": tensor("not a storage")}, "'x' is a tensor"),
        ({"x": tensor(storage()), "y": tensor(storage(kind="IntStorage"))}, "two different ways"),
    ],
)
def test_anything_but_a_dictionary_of_tensors_is_refused(
    root: Any, reason: str, tmp_path: Path
) -> None:
    assert reason in refused(written(tmp_path, zip_file(root, {"0": NUMBERS})))


def test_missing_files_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "absent.pth")
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_the_reader_agrees_with_torch(
    zipped: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch", reason="the extra `bench` is not installed")
    base = torch.from_numpy(rng.normal(size=(6, 5)).astype(np.float32))
    state = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:4, 2:],
        "bfloat16": base.to(torch.bfloat16),
        "half": base.half(),
        "counter": torch.tensor(3),
        "mask": base > 0,
        "parameter": torch.nn.Parameter(base),
    }
    path = tmp_path / "state.pth"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    read = torch_checkpoints.read_torch_tensors(path)
    assert read.keys() == state.keys()
    for name, theirs in torch.load(path, weights_only=True)["state_dict"].items():
        widened = theirs.float() if theirs.dtype == torch.bfloat16 else theirs
        np.testing.assert_array_equal(read[name], widened.detach().numpy(), strict=True)


def test_text_with_a_bad_escape_is_refused_and_not_warned_of() -> None:
    with pytest.raises((RefusedError, ValueError)):
        torch_checkpoints._unpickle(b"S'\\\xac'\n.", 0)


# Sixty-fold nesting of pairs of the same tuple: its hash and its text take 2⁶⁰ steps.
PAIRS = Opcodes(b")" + b"2\x86" * 60)


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ({"x": Opcodes(PAIRS.code + b"Q")}, "does not refer to a storage"),
        ({"x": Opcodes(pickled(("storage", *5 * (PAIRS,))) + b"Q")}, "needs a type, a key"),
        ({"x": tensor(storage(view=PAIRS))}, "truncated or damaged"),
        (
            {"x": tensor(storage(), size=PAIRS, stride=(1, 1))},
            "'x': offset, sizes and strides must be",
        ),
        ({"x": tensor(storage(), offset=PAIRS)}, "'x': offset, sizes and strides must be"),
        ({"x": tensor(storage(), size=(1,) * 65, stride=(1,) * 65)}, "has 65 axes"),
        ({"x": PAIRS}, "'x' is a tuple; only tensors"),
        (Opcodes(b"}" + PAIRS.code + b"Ns"), "as the key of a dictionary"),
        (
            call(named_class("collections", "OrderedDict"), [(PAIRS, 1)]),
            "as the key of a dictionary",
        ),
        ({"x" * 100_000: 1, "module." + "x" * 100_000: 2}, "twice, with and without"),
        (PAIRS, "expected a dictionary of tensors"),
    ],
)
def test_a_nested_value_anywhere_is_refused_at_once(root: Any, reason: str, tmp_path: Path) -> None:
    message = refused(written(tmp_path, zip_file(root, {"0": NUMBERS})))
    assert reason in message and len(message) < 500


@pytest.mark.parametrize("part", ["protocol", "system", "keys"])
def test_a_nested_value_in_a_legacy_header_is_refused_at_once(part: str, tmp_path: Path) -> None:
    for value in (PAIRS, [PAIRS]):
        data = legacy_file({"x": tensor(storage())}, {"0": NUMBERS}, **{part: value})
        assert len(refused(written(tmp_path, data))) < 500


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A region of the file that is listed as two members could be listed as ten thousand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", dumps({"x": tensor(storage())}))
        archive.writestr("model/data/0", bytes(48_000))
        archive.filelist.append(archive.getinfo("model/data/0"))
    assert "members overlap" in refused(written(tmp_path, buffer.getvalue()))
