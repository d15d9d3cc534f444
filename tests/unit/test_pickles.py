"""Ground-truth pickles: plain values and arrays are read, everything else is refused, and nothing
is executed."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delfjax import pickles
from delfjax.pickles import BINARY_OPCODES, Admitted, RefusedError, unpickle

PLAIN = {
    "gnd": [{"bbx": (1.5, 2, 3, 4), "easy": [0, 70_000, -3], "junk": []}],
    "imlist": ["Zürich", "b"],
    7: [None, True, False, 2**80, 1e-300, b"bytes", {1, 2}, frozenset("a")],
}
ARRAYS = {
    "int64": np.arange(6).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
    "text": np.array(["a", "Zürich"]),
    "none": np.empty((0, 4)),
    "scalar": np.float64(2.5),
}
PROTOCOLS = range(6)


class OwnError(Exception):
    """The error of a module that reads pickles."""


def read_plain_pickle(path: Path) -> Any:
    return pickles.read_plain_pickle(path, error=OwnError)


def _written(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "gnd.pkl").write_bytes(data)
    return tmp_path / "gnd.pkl"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    # Protocols below 3 and 4 call a class for bytes and sets.
    value = PLAIN if protocol >= 4 else {**PLAIN, 7: PLAIN[7][:5]}  # type: ignore[index]  # of a dictionary of several types
    assert read_plain_pickle(_written(tmp_path, pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_read_by_value_and_in_native_byte_order(
    tmp_path: Path, protocol: int, kind: str
) -> None:
    read = read_plain_pickle(_written(tmp_path, pickle.dumps([ARRAYS[kind]], protocol)))[0]
    np.testing.assert_array_equal(read, ARRAYS[kind])
    if isinstance(read, np.ndarray):
        assert read.dtype == np.asarray(ARRAYS[kind]).dtype.newbyteorder("=")


def test_byte_strings_and_arrays_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    dtype = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    array = empty + b"(I1\n(I2\nt" + dtype + b"I00\nS'\\x01\\x7f'\ntb"
    read = read_plain_pickle(
        _written(
            tmp_path, b"(dp1\nS'imlist'\np2\n(lp3\nS'all_souls'\np4\nasS'ok'\n" + array + b"s."
        )
    )
    assert read["imlist"] == ["all_souls"]
    np.testing.assert_array_equal(read["ok"], np.array([1, 127], np.uint8))


class _Malice:
    """Runs a command when it is unpickled in the ordinary way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_forbidden_class_is_refused_by_name_and_never_run(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"gnd": [_Malice(tmp_path / "proof")]}, protocol)
    with pytest.raises(OwnError, match=r"gnd.pkl: holds posix.mkdir; only containers, numbers"):
        read_plain_pickle(_written(tmp_path, data))
    assert not (tmp_path / "proof").exists()
    # The same pickle does run where nothing stops it.
    pickle.loads(data)
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pickle.dumps(collections.OrderedDict(a=1), 2), "holds collections.OrderedDict"),
        (pickle.dumps(np.array([object]), 2), "holds .*builtin.*object"),
        (pickle.dumps(np.array([[1], None], object), 2), "array of 'O8'; only numbers and text"),
        (pickle.dumps(np.zeros(2, [("a", "i4")]), 2), "array of 'V4'; only numbers and text"),
        (b"\x80\x02cbuiltins\neval\n.", "holds builtins.eval"),
        (b"\x80\x02cnumpy\nload\n.", "holds numpy.load"),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "holds a function where a value should be"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02K\x01Q.", "opcode BINPERSID"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo index 2147483647, expected at most 500000"),
        (b"\x80\x02]q\x00h\x00a.", "container that contains itself"),
        (pickle.dumps(PLAIN, 2)[:40], "truncated or damaged"),
        (b"", "truncated or damaged"),
        (b"<html>302 Found</html>", "truncated or damaged"),
        (b"\x80\x02K\x01K\x01K\x01s.", "truncated or damaged"),
        (pickle.dumps(np.arange(4, dtype=np.int8), 4)[:-12], "truncated or damaged"),
        (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R.",
            "array without contents",
        ),
    ],
)
def test_a_pickle_with_anything_else_is_refused_in_one_line(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(OwnError, match=reason) as refused:
        read_plain_pickle(_written(tmp_path, data))
    assert str(refused.value).startswith(str(tmp_path / "gnd.pkl")) and "\n" not in str(
        refused.value
    )


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        {"\udcff": 1},
        np.array(["a", "\ud800"]),
        np.full(2, 0x110000, np.uint32).view("<U1"),
        np.full(2, 0x110000, np.uint32).astype(">u4").view(">U1"),
    ],
    ids=["text", "key", "array", "large codes", "large codes, big endian"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_not_text_is_refused(tmp_path: Path, value: object, protocol: int) -> None:
    file = _written(tmp_path, pickle.dumps(value, protocol))
    with pytest.raises(OwnError, match=r"half a character|what is not text") as error:
        read_plain_pickle(file)
    assert str(error.value).isprintable()


def test_an_array_whose_bytes_do_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.arange(6, dtype=np.int8).reshape(2, 3), 2).replace(
        b"K\x02K\x03\x86", b"K\x09K\x09\x86"
    )
    with pytest.raises(OwnError, match=r"array of shape \(9, 9\) and type int8 that has 6 bytes"):
        read_plain_pickle(_written(tmp_path, data))


def test_shared_values_are_converted_once_so_that_nesting_cannot_blow_up(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    assert len(read_plain_pickle(_written(tmp_path, pickle.dumps(value, 2)))) == 2


# Sixty-fold nesting of pairs of the same tuple: its hash and its text take 2⁶⁰ steps.
_PAIRS = b")" + b"2\x86" * 60
_COLLIDING = pickle.dumps({count * (2**61 - 1): None for count in range(1, 40)}, 2)
_FROM_BUFFER = (
    b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(%scnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
    b"%sX\x01\x00\x00\x00CtR."
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x02}" + _PAIRS + b"Ns.", "as the key of a dictionary"),
        (b"\x80\x04\x8f(" + _PAIRS + b"\x90.", "as the key .* or in a set"),
        (b"\x80\x04(" + _PAIRS + b"\x91.", "as the key .* or in a set"),
        (_COLLIDING, "holds 2305843009213693951 as the key of a dictionary"),
        (b"\x80\x02cnumpy\ndtype\n" + _PAIRS + b"\x85R.", "expected|holds a dtype"),
        (b"\x80\x02" + _PAIRS + _PAIRS + b"R.", "calls .* with"),
        (b"\x80\x02]" + _PAIRS + b"b.", "sets the state .* on"),
        (b"]" * 5000 + b"a" * 4999 + b".", "nests values deeper than 100 levels"),
        (_FROM_BUFFER % (b"J\xff\xff\xff\x7f", b"K\x01\x85"), "contents are a int, expected bytes"),
        (_FROM_BUFFER % (b"C\x01a", b"(" + b"K\x01" * 65 + b"t"), "65 axes, expected at most 64"),
        (
            _FROM_BUFFER.replace(b"\x02\x00\x00\x00u1", b"\x05\x00\x00\x00u1,u1")
            % (b"C\x01a", b"K\x01\x85"),
            "array of 'u1,u1'; only numbers and text",
        ),
        (b"\x80\x02K\x01r\xff\xff\xff\xff.", "memo index 4294967295"),
        (b"p%d\n." % 2**61, "truncated or damaged|memo index"),
    ],
)
def test_a_small_pickle_cannot_take_much_time_or_memory(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(OwnError, match=reason) as refused:
        read_plain_pickle(_written(tmp_path, data))
    assert len(str(refused.value)) < 400 and str(refused.value).isprintable()


def test_the_number_of_opcodes_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    assert len(read_plain_pickle(_written(tmp_path, b"(" + b"N" * 997 + b"l."))) == 997
    with pytest.raises(OwnError, match="more than 1,000 opcodes"):
        read_plain_pickle(_written(tmp_path, b"(" + b"N" * 998 + b"l."))


def test_a_missing_pickle_is_named(tmp_path: Path) -> None:
    with pytest.raises(OwnError, match=r"gnd.pkl: cannot be read: No such file"):
        read_plain_pickle(tmp_path / "gnd.pkl")


_NUMBERS = Admitted(
    what="numbers",
    opcodes=BINARY_OPCODES | {"BINPERSID"},
    names={("numbers", "Number"): int},
    encoding="ascii",
)


def test_the_caller_says_what_is_admitted_and_where_to_begin() -> None:
    data = b"before" + pickle.dumps([1, {"a": (2.5, None)}], 4) + b"after"
    assert unpickle(data, _NUMBERS, start=6) == ([1, {"a": (2.5, None)}], len(data) - 5)
    called = b"\x80\x02cnumbers\nNumber\nX\x02\x00\x00\x0042\x85R."
    assert unpickle(called, _NUMBERS) == (42, len(called))
    with pytest.raises(RefusedError, match="opcode FROZENSET, which numbers do not use"):
        unpickle(pickle.dumps(frozenset((1,)), 4), _NUMBERS)
    with pytest.raises(RefusedError, match="holds numbers.Complex; only numbers are admitted"):
        unpickle(called.replace(b"Number", b"Complex"), _NUMBERS)


def test_persistent_ids_are_for_the_caller_to_read() -> None:
    data = b"\x80\x02K\x07Q."
    assert unpickle(data, _NUMBERS, persistent=lambda pid: pid + 1) == (8, len(data))
    with pytest.raises(RefusedError, match="persistent id 7, which numbers do not have"):
        unpickle(data, _NUMBERS)
