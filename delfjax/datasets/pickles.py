"""Reading ground truth that was published as pickles, without running anything in them.

A pickle is a program. This reader admits plain containers, numbers and text. The only things it
lets a pickle call are stand-ins for the functions that make NumPy arrays; they hold bytes until
those have been checked. The opcodes are checked first: a forbidden class is refused without being
looked up, and no memo index can allocate memory for entries that do not exist.
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

# Larger files are refused, bytes; the ground truth of the real benchmarks has about a megabyte.
MAX_BYTES = 256 << 20

# Opcodes that make plain values and arrays in every protocol, including Python 2's text protocol.
# Left out are those that make an object of a class without a call (NEWOBJ, INST, OBJ), persistent
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
# Kinds of array elements that are numbers or text, not objects.
_KINDS = frozenset("biufSU")
_NUMPY_CORES = ("numpy.core", "numpy._core")

# Errors that unpickling a malformed file raises; all of them mean the same here.
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
    """Stands for the class ``numpy.ndarray``; it has no attributes and cannot be called."""

    __slots__ = ()


class _DType:
    """Stands for a NumPy element type: its code and, once set, its byte order."""

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
        """The NumPy type, refused unless it is one of numbers or text."""
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
    """Stands for one of the functions that make arrays.

    It has no attributes, so a pickle cannot leave a trace on it.
    """

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
        """The number as a Python object."""
        return _array(self.raw, self.dtype, (), fortran=False).item()


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the names that make NumPy arrays to stand-ins, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted name; any other name is refused without being looked up."""
        if (module, name) == ("numpy", "ndarray"):
            return _Name()
        if (module, name) == ("numpy", "dtype"):
            return _Function("dtype")
        if (module, name) == ("_codecs", "encode"):
            return _Function("encode")
        # Protocol 2 writes the bytes of an empty array as a call of `bytes`.
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
    """The value of a pickle that holds only plain values and NumPy arrays.

    Plain values are dictionaries, lists, tuples, sets, numbers, text and bytes. Byte strings of
    Python 2 become text (Latin-1, which keeps every byte; in its text protocol they must be ASCII).

    Raises:
        DatasetError: the file is missing, too large, truncated or damaged, or holds anything else;
            nothing in it was run.
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
            # Python warns of text with a bad escape before such text is refused or read as it is.
            warnings.simplefilter("ignore", DeprecationWarning)
            _check_opcodes(data)
            # This is the C unpickler, whose memo is an array; its indices were checked above.
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
        # The memo is an array, so a large index would allocate everything below it. Python 2 counts
        # from one.
        if opcode.name in _MEMO_WRITES - {"MEMOIZE"} and (
            not isinstance(argument, int) or argument > writes + 1
        ):
            raise _Refused(f"pickle memo index {argument} out of sequence")
        writes += opcode.name in _MEMO_WRITES


def _real(value: Any, done: dict[int, Any]) -> Any:
    """``value`` with arrays in place of their stand-ins.

    A shared value is converted once; a cycle is refused.
    """
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
    # The original is kept as well: while it lives, no other object can have its id.
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
