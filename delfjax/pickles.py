"""A restricted reader of pickles, which executes nothing from them.

A pickle is a program. :func:`unpickle` lets it call only the stand-ins that the caller names, and
checks all opcodes first: a class is refused without being looked up, and a memo index cannot
allocate memory for entries that do not exist. :func:`read_plain_pickle` uses it to read plain
values and NumPy arrays; its stand-ins hold the bytes of an array until they have been checked.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

# Largest file of plain values that is read, bytes; ground truth takes about a megabyte.
MAX_BYTES = 256 << 20

# What protocols 2 to 5 write for dictionaries, lists, tuples, numbers, text and calls. Left out are
# opcodes that create an object of a class without a call (NEWOBJ, INST, OBJ), persistent ids, and
# the extension registry.
BINARY_OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
        *("BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINSTRING", "SHORT_BINSTRING"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    }
)
# In addition, the text opcodes of protocols 0 and 1, bytes and sets.
_PLAIN_OPCODES = BINARY_OPCODES | {
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE", "PUT", "GET"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),
}
_NUMBERED_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
# NumPy's kinds of array elements that are numbers or text, not objects.
_KINDS = frozenset("biufSU")

# Exceptions that unpickling a malformed file may raise; all mean that the file is damaged.
MALFORMED = (
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


class RefusedError(Exception):
    """The reason why a pickle is refused; callers add the file."""


@dataclass(frozen=True)
class Admitted:
    """What a pickle may contain.

    Attributes:
        what: the admitted values in words, a plural noun for error messages.
        opcodes: names of the admitted opcodes, as in :mod:`pickletools`.
        names: (module, name) → its stand-in. All pickles share the stand-ins, which therefore must
            not accept attributes.
        encoding: encoding of byte strings that Python 2 wrote.
    """

    what: str
    opcodes: frozenset[str]
    names: Mapping[tuple[str, str], Any]
    encoding: str


def unpickle(
    data: bytes,
    admitted: Admitted,
    *,
    start: int = 0,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """The value pickled at ``start``, and the position after its pickle; nothing is imported.

    Args:
        data: bytes that contain the pickle.
        admitted: what the pickle may contain.
        start: position of its first byte.
        persistent: returns the value of a persistent id, if that opcode is admitted.

    Raises:
        RefusedError: the pickle contains something else.
        Exception: one of :data:`MALFORMED`: the pickle is truncated or damaged.
    """
    with warnings.catch_warnings():
        # Python warns about bad escapes in text before the text is refused or read unchanged.
        warnings.simplefilter("ignore", DeprecationWarning)
        end = _checked(data, start, admitted)
        unpickler = _Unpickler(data[start:end], admitted, persistent)
        return unpickler.load(), end


def _checked(data: bytes, start: int, admitted: Admitted) -> int:
    """Check every opcode; return the position after the pickle."""
    stream = io.BytesIO(data)
    stream.seek(start)
    writes = 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in admitted.opcodes:
            raise RefusedError(
                f"contains the pickle opcode {opcode.name}, which {admitted.what} do not use"
            )
        # The memo is an array, so a large index would allocate all entries before it. Python 2
        # counts from one.
        if opcode.name in _NUMBERED_PUTS and (
            not isinstance(argument, int) or argument > writes + 1
        ):
            raise RefusedError(f"pickle memo index {argument} is out of sequence")
        writes += opcode.name in _NUMBERED_PUTS or opcode.name == "MEMOIZE"
    return stream.tell()


class _Unpickler(pickle.Unpickler):
    """The C unpickler, restricted to admitted names."""

    def __init__(
        self, data: bytes, admitted: Admitted, persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(io.BytesIO(data), encoding=admitted.encoding)
        self._admitted = admitted
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted name; any other name is refused without being looked up."""
        if (module, name) not in self._admitted.names:
            raise RefusedError(f"holds {module}.{name}; only {self._admitted.what} are admitted")
        return self._admitted.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """The value of a persistent id."""
        if self._persistent is None:
            raise RefusedError(
                f"contains the persistent id {pid!r:.80}, which {self._admitted.what} do not have"
            )
        return self._persistent(pid)


def read_plain_pickle(path: Path, *, error: Callable[[str], Exception]) -> Any:
    """The value in a pickle of dictionaries, lists, tuples, sets, numbers, text and arrays only.

    Byte strings of Python 2 become text (Latin-1 keeps every byte; in Python 2's text protocol they
    must be ASCII). Nothing in the file is executed.

    Args:
        path: the file.
        error: makes an exception from a message that names the file; usually an error class.

    Raises:
        Exception: made by ``error``: the file is missing, too large, truncated or damaged, or
            contains anything else.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{path}: the file has {size} bytes, expected at most {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as failure:
        raise error(f"{path}: cannot be read: {failure.strerror}") from None
    try:
        return _real(unpickle(data, _PLAIN)[0], {})
    except RefusedError as reason:
        raise error(f"{path}: {reason}") from None
    except MALFORMED as failure:
        raise error(
            f"{path}: truncated or damaged pickle ({type(failure).__name__}: {failure!s:.100})"
        ) from None


class _Name:
    """Stands in for the class ``numpy.ndarray``; it cannot be called."""

    __slots__ = ()


class _DType:
    """Stands in for a NumPy element type: its code, and its byte order once that is set."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code
        self.order: Literal["<", ">", "|", "="] = "|"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise RefusedError(f"holds an element type with the invalid state {state!r:.60}")
        self.order = order

    def real(self) -> np.dtype[Any]:
        """The NumPy type; only numbers and text are admitted."""
        if not isinstance(self.code, str):
            raise RefusedError(
                f"holds an element type {self.code!r:.40}, expected its code as text"
            )
        dtype = np.dtype(self.code)
        if dtype.kind not in _KINDS or dtype.fields is not None:
            raise RefusedError(
                f"holds an array of {self.code!r:.40}; only numbers and text are admitted"
            )
        return dtype.newbyteorder(self.order)


class _Array:
    """Stands in for an array until its bytes have been checked against its shape."""

    __slots__ = ("state",)

    def __init__(self, *_prototype: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def real(self) -> np.ndarray:
        """The array: a copy in native byte order."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise RefusedError("holds an array without contents")
        _version, shape, dtype, fortran, raw = self.state
        return _array(raw, dtype, shape, fortran=fortran is True)


class _Function:
    """Stands in for one of the functions that make arrays; it takes no attributes, so a pickle
    cannot modify it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __setstate__(self, state: object) -> None:
        raise RefusedError(f"sets the state {state!r:.40} on the function {self._name}")

    def __call__(self, *arguments: Any) -> object:
        if self._name == "encode":
            text, encoding = arguments if len(arguments) == 2 else ("", "")
            if not isinstance(text, str) or encoding != "latin1":
                raise RefusedError(f"encodes bytes as {encoding!r:.20}, expected 'latin1'")
            return text.encode("latin1")
        if self._name == "bytes":
            if arguments:
                raise RefusedError(f"calls bytes with {arguments!r:.40}, expected no arguments")
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
    """Stands in for a NumPy number until it has been checked."""

    __slots__ = ("dtype", "raw")

    def __init__(self, dtype: object, raw: object) -> None:
        self.dtype = dtype
        self.raw = raw

    def real(self) -> object:
        """The number as a Python value."""
        return _array(self.raw, self.dtype, (), fortran=False).item()


_PLAIN = Admitted(
    what="containers, numbers, text and NumPy arrays",
    opcodes=_PLAIN_OPCODES,
    names={
        ("numpy", "ndarray"): _Name(),
        ("numpy", "dtype"): _Function("dtype"),
        ("_codecs", "encode"): _Function("encode"),
        # Protocol 2 writes the empty bytes of an empty array as a call of `bytes`.
        ("__builtin__", "bytes"): _Function("bytes"),
        ("builtins", "bytes"): _Function("bytes"),
        # NumPy 2 renamed `numpy.core` to `numpy._core`.
        ("numpy.core.multiarray", "_reconstruct"): _Function("_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"): _Function("_reconstruct"),
        ("numpy.core.multiarray", "scalar"): _Function("scalar"),
        ("numpy._core.multiarray", "scalar"): _Function("scalar"),
        ("numpy.core.numeric", "_frombuffer"): _Function("_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"): _Function("_frombuffer"),
    },
    encoding="latin1",
)


def _real(value: Any, done: dict[int, Any]) -> Any:
    """``value`` with arrays in place of their stand-ins.

    A shared object is converted once, and a cycle is refused.
    """
    if value is None or type(value) in (bool, int, float, str, bytes, bytearray):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise RefusedError("holds a container that contains itself")
        return done[id(value)][1]
    done[id(value)] = _UNFINISHED
    if isinstance(value, _Array | _Scalar):
        made: Any = value.real()
    elif type(value) is dict:
        made = {_real(key, done): _real(item, done) for key, item in value.items()}
    elif type(value) in (list, tuple, set, frozenset):
        made = type(value)(_real(item, done) for item in value)
    else:
        raise RefusedError(
            f"holds a {type(value).__name__.lstrip('_').lower()} where a value should be"
        )
    # The original is kept alive as well, because its id identifies it.
    done[id(value)] = (value, made)
    return made


_UNFINISHED = object()


def _array(raw: object, dtype: object, shape: object, *, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise RefusedError(
            f"holds an array of {type(dtype).__name__}, expected a NumPy element type"
        )
    real = dtype.real()
    # Python 2 wrote the bytes of an array as a byte string, which is read as Latin-1 text.
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes | bytearray):
        raise RefusedError(
            f"holds an array whose contents are a {type(raw).__name__}, expected bytes"
        )
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedError(
            f"holds an array of shape {shape!r:.40}, expected a tuple of non-negative integers"
        )
    if math.prod(shape) * real.itemsize != len(data):
        raise RefusedError(
            f"holds an array of shape {shape} and type {real} that has {len(data)} bytes, expected"
            f" {math.prod(shape) * real.itemsize}"
        )
    elements = np.frombuffer(bytes(data), real) if len(data) else np.empty(0, real)
    return elements.reshape(shape, order="F" if fortran else "C").astype(real.newbyteorder("="))
