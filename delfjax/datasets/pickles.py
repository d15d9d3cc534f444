"""Ground truth that was published as pickles, read without running anything in them.

A pickle is a program. The reader here gives it nothing to call but stand-ins for what makes a NumPy
array, which hold bytes until they have been checked, and admits plain containers, numbers and text
besides. The opcodes are looked at before, so that a class is refused without being looked up and no
memo index allocates what is not there.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from delfjax.datasets.columns import DatasetError

# Ground truth of the real benchmarks has about a megabyte; larger files are refused, bytes.
MAX_BYTES = 256 << 20

# Whatever makes plain values and arrays, in every protocol, that of Python 2 (text) included. Left
# out: what makes an object of a class by other means than a call (NEWOBJ, INST, OBJ), persistent
# ids, and the extension registry.
_OPCODES = frozenset(
    {
        *(
            "PROTO",
            "FRAME",
            "STOP",
            "MARK",
            "POP",
            "POP_MARK",
            "DUP",
            "NONE",
            "NEWTRUE",
            "NEWFALSE",
        ),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *(
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "BINBYTES",
            "SHORT_BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
        ),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *(
            "EMPTY_TUPLE",
            "TUPLE",
            "TUPLE1",
            "TUPLE2",
            "TUPLE3",
            "EMPTY_LIST",
            "LIST",
            "APPEND",
            "APPENDS",
        ),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    }
)
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
# Kinds of array elements that are numbers or text; objects are not.
_KINDS = frozenset("biufSU")
_NUMPY_CORES = ("numpy.core", "numpy._core")

# What unpickling a malformed file raises; all of it means the same here.
_MALFORMED = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Refused(Exception):
    """Why a pickle is refused; the public function adds which file."""


class _Name:
    """Stands for the class ``numpy.ndarray``; nothing can be done with it."""

    __slots__ = ()


class _DType:
    """Stands for a NumPy element type: its code, and its byte order once that is set."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code
        self.order: Literal["<", ">", "|", "="] = "|"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"element type with the state {state!r:.60}")
        self.order = order

    def real(self) -> np.dtype[Any]:
        """The NumPy type, if it is one of numbers or text."""
        if not isinstance(self.code, str):
            raise _Refused(f"element type {self.code!r:.40}")
        dtype = np.dtype(self.code)
        if dtype.kind not in _KINDS or dtype.fields is not None:
            raise _Refused(f"array of {self.code!r:.40}, only numbers and text are admitted")
        return dtype.newbyteorder(self.order)


class _Array:
    """Stands for an array until its bytes have been checked against its shape."""

    __slots__ = ("state",)

    def __init__(self, *_prototype: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def real(self) -> np.ndarray:
        """The array: a copy in native byte order."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise _Refused("array without contents")
        _version, shape, dtype, fortran, raw = self.state
        return _array(raw, dtype, shape, fortran=fortran is True)


class _Function:
    """Stands for one of the functions that make arrays; without attributes, so that no pickle
    leaves a trace on it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __setstate__(self, state: object) -> None:
        raise _Refused(f"state {state!r:.40} for the function {self._name}")

    def __call__(self, *arguments: Any) -> object:
        if self._name == "encode":
            text, encoding = arguments if len(arguments) == 2 else ("", "")
            if not isinstance(text, str) or encoding != "latin1":
                raise _Refused(f"encoding {encoding!r:.20}, only latin1 stands for bytes")
            return text.encode("latin1")
        if self._name == "bytes":
            if arguments:
                raise _Refused(f"bytes made of {arguments!r:.40}")
            return b""
        if self._name == "scalar":
            dtype, raw = arguments
            return _Scalar(dtype, raw)
        if self._name == "_frombuffer":
            raw, dtype, shape, order = arguments
            made = _Array()
            made.state = (1, shape, dtype, order == "F", bytes(raw))
            return made
        return _Array() if self._name == "_reconstruct" else _DType(*arguments)


class _Scalar:
    """Stands for a NumPy number until it has been checked."""

    __slots__ = ("dtype", "raw")

    def __init__(self, dtype: object, raw: object) -> None:
        self.dtype, self.raw = dtype, raw

    def real(self) -> object:
        """The number, as Python has it."""
        return _array(self.raw, self.dtype, (), fortran=False).item()


class _PlainUnpickler(pickle.Unpickler):
    """Admits what makes NumPy arrays, as stand-ins; no imports, no other class."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for an admitted name; anything else is refused without being looked up."""
        if (module, name) == ("numpy", "ndarray"):
            return _Name()
        if (module, name) == ("numpy", "dtype"):
            return _Function("dtype")
        if (module, name) == ("_codecs", "encode"):
            return _Function("encode")
        # How protocol 2 writes no bytes, those of an empty array.
        if name == "bytes" and module in ("__builtin__", "builtins"):
            return _Function(name)
        for core in _NUMPY_CORES:
            if module == f"{core}.multiarray" and name in ("_reconstruct", "scalar"):
                return _Function(name)
            if module == f"{core}.numeric" and name == "_frombuffer":
                return _Function(name)
        raise _Refused(
            f"holds {module}.{name}; only containers, numbers, text and NumPy arrays are admitted"
        )


def read_plain_pickle(path: Path) -> Any:
    """The value in a pickle that holds nothing but dictionaries, lists, tuples, sets, numbers, text
    and arrays.

    Byte strings of Python 2 become text (Latin-1 keeps every byte; in its text protocol they must
    be ASCII).

    Raises:
        DatasetError: the file is missing, too large, truncated or damaged, or holds anything else.
            Nothing in it is run.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DatasetError(
                f"{path}: {size} bytes, at most {MAX_BYTES} are read as ground truth"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            # Text with a bad escape is refused, or read as it stands; Python's warning of it would
            # come first.
            warnings.simplefilter("ignore", DeprecationWarning)
            _check_opcodes(data)
            # The C unpickler, whose memo is an array: its indices were checked above.
            return _real(_PlainUnpickler(io.BytesIO(data), encoding="latin1").load(), {})
    except _Refused as reason:
        raise DatasetError(f"{path}: {reason}") from None
    except _MALFORMED as error:
        raise DatasetError(
            f"{path}: truncated or damaged pickle ({type(error).__name__}: {error!s:.100})"
        ) from None


def _check_opcodes(data: bytes) -> None:
    writes = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise _Refused(f"pickle opcode {opcode.name}, which plain values have no use for")
        # The memo is an array: an index far out would allocate all before it. Python 2 counts from
        # one.
        if opcode.name in _MEMO_WRITES - {"MEMOIZE"} and (
            not isinstance(argument, int) or argument > writes + 1
        ):
            raise _Refused(f"pickle memo index {argument} out of sequence")
        writes += opcode.name in _MEMO_WRITES


def _real(value: Any, done: dict[int, Any]) -> Any:
    """``value`` with arrays in place of what stands for them; what is shared is converted once, a
    cycle is refused."""
    if value is None or type(value) in (bool, int, float, str, bytes, bytearray):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise _Refused("holds a container that holds itself")
        return done[id(value)][1]
    done[id(value)] = _UNFINISHED
    if isinstance(value, _Array | _Scalar):
        made: Any = value.real()
    elif type(value) is dict:
        made = {_real(key, done): _real(item, done) for key, item in value.items()}
    elif type(value) in (list, tuple, set, frozenset):
        made = type(value)(_real(item, done) for item in value)
    else:
        raise _Refused(
            f"holds a {type(value).__name__.lstrip('_').lower()} where a value should be"
        )
    # Kept with its original, whose id stays taken as long as that lives.
    done[id(value)] = (value, made)
    return made


_UNFINISHED = object()


def _array(raw: object, dtype: object, shape: object, *, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise _Refused(f"array of {type(dtype).__name__}, expected a NumPy element type")
    real = dtype.real()
    # Python 2 wrote the bytes of an array as a byte string, which is read as Latin-1 text.
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes | bytearray):
        raise _Refused(f"array whose contents are a {type(raw).__name__}, expected bytes")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise _Refused(f"array of shape {shape!r:.40}")
    if math.prod(shape) * real.itemsize != len(data):
        raise _Refused(f"array of shape {shape} and type {real} with {len(data)} bytes")
    elements = np.frombuffer(bytes(data), real) if len(data) else np.empty(0, real)
    return elements.reshape(shape, order="F" if fortran else "C").astype(real.newbyteorder("="))
