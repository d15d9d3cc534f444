"""Pickles, read without running anything in them.

A pickle is a program. :func:`unpickle` gives it nothing to call but the stand-ins its caller names,
and checks the opcodes first: a class is refused without being looked up, and no memo index
allocates memory for entries that do not exist. :func:`read_plain_pickle` reads plain values and
NumPy arrays that way; its stand-ins hold the bytes of an array until they have been checked.
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

# Files of plain values larger than this are refused, bytes: ground truth has about a megabyte.
MAX_BYTES = 256 << 20

# What protocols 2 to 5 write for dictionaries, lists, tuples, numbers, text and calls. Left out:
# whatever makes an object of a class other than by a call (NEWOBJ, INST, OBJ), persistent ids, and
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
# The text of protocols 0 and 1 as well, bytes and sets.
_PLAIN_OPCODES = BINARY_OPCODES | {
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE", "PUT", "GET"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),
}
_NUMBERED_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
# Kinds of array elements that are numbers or text; objects are not.
_KINDS = frozenset("biufSU")

# What unpickling a malformed file raises; all of it means the same.
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
    """Why a pickle is refused; callers say which file."""


@dataclass(frozen=True)
class Admitted:
    """What a pickle may hold.

    Attributes:
        what: in words, in the plural.
        opcodes: names of them, as :mod:`pickletools` has them.
        names: (module, name) → what stands for it. All pickles share these stand-ins, so they must
            not accept attributes.
        encoding: of byte strings that Python 2 wrote.
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
    """The value pickled at ``start``, and where its pickle ends; nothing is imported.

    Args:
        data: the pickle, and whatever surrounds it.
        admitted: what it may hold.
        start: its first byte.
        persistent: persistent id → value, where the opcode for them is admitted.

    Raises:
        RefusedError: it holds something else.
        Exception: one of :data:`MALFORMED`: it is truncated or damaged.
    """
    with warnings.catch_warnings():
        # Text with a bad escape is refused, or read as it stands; Python's warning of it would come
        # first.
        warnings.simplefilter("ignore", DeprecationWarning)
        end = _checked(data, start, admitted)
        unpickler = _Unpickler(data[start:end], admitted, persistent)
        return unpickler.load(), end


def _checked(data: bytes, start: int, admitted: Admitted) -> int:
    """Look at every opcode; returns where the pickle ends."""
    stream = io.BytesIO(data)
    stream.seek(start)
    writes = 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in admitted.opcodes:
            raise RefusedError(
                f"pickle opcode {opcode.name}, which {admitted.what} have no use for"
            )
        # The memo is an array: an index far out would allocate all before it. Python 2 counts from
        # one.
        if opcode.name in _NUMBERED_PUTS and (
            not isinstance(argument, int) or argument > writes + 1
        ):
            raise RefusedError(f"pickle memo index {argument} out of sequence")
        writes += opcode.name in _NUMBERED_PUTS or opcode.name == "MEMOIZE"
    return stream.tell()


class _Unpickler(pickle.Unpickler):
    """The C unpickler, which looks nothing up but what is admitted."""

    def __init__(
        self, data: bytes, admitted: Admitted, persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(io.BytesIO(data), encoding=admitted.encoding)
        self._admitted = admitted
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """What stands for an admitted name; any other is refused without being looked up."""
        if (module, name) not in self._admitted.names:
            raise RefusedError(f"holds {module}.{name}; only {self._admitted.what} are admitted")
        return self._admitted.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """What a persistent id stands for."""
        if self._persistent is None:
            raise RefusedError(
                f"persistent id {pid!r:.80}, which {self._admitted.what} do not have"
            )
        return self._persistent(pid)


def read_plain_pickle(path: Path, *, error: Callable[[str], Exception]) -> Any:
    """The value in a pickle that holds nothing but dictionaries, lists, tuples, sets, numbers, text
    and arrays.

    Byte strings of Python 2 become text (Latin-1 keeps every byte; in its text protocol they must
    be ASCII).

    Args:
        path: the file.
        error: makes the exception from a message that names the file: an error class, usually.

    Raises:
        Exception: what ``error`` makes: the file is missing, too large, truncated or damaged, or
            holds anything else. Nothing in it is run.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{path}: {size} bytes, at most {MAX_BYTES} are read")
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
            raise RefusedError(f"element type with the state {state!r:.60}")
        self.order = order

    def real(self) -> np.dtype[Any]:
        """The NumPy type, if it is one of numbers or text."""
        if not isinstance(self.code, str):
            raise RefusedError(f"element type {self.code!r:.40}")
        dtype = np.dtype(self.code)
        if dtype.kind not in _KINDS or dtype.fields is not None:
            raise RefusedError(f"array of {self.code!r:.40}, only numbers and text are admitted")
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
            raise RefusedError("array without contents")
        _version, shape, dtype, fortran, raw = self.state
        return _array(raw, dtype, shape, fortran=fortran is True)


class _Function:
    """Stands for one of the functions that make arrays; without attributes, so that no pickle
    leaves a trace on it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __setstate__(self, state: object) -> None:
        raise RefusedError(f"state {state!r:.40} for the function {self._name}")

    def __call__(self, *arguments: Any) -> object:
        if self._name == "encode":
            text, encoding = arguments if len(arguments) == 2 else ("", "")
            if not isinstance(text, str) or encoding != "latin1":
                raise RefusedError(f"encoding {encoding!r:.20}, only latin1 stands for bytes")
            return text.encode("latin1")
        if self._name == "bytes":
            if arguments:
                raise RefusedError(f"bytes made of {arguments!r:.40}")
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


_PLAIN = Admitted(
    what="containers, numbers, text and NumPy arrays",
    opcodes=_PLAIN_OPCODES,
    names={
        ("numpy", "ndarray"): _Name(),
        ("numpy", "dtype"): _Function("dtype"),
        ("_codecs", "encode"): _Function("encode"),
        # How protocol 2 writes no bytes, those of an empty array.
        ("__builtin__", "bytes"): _Function("bytes"),
        ("builtins", "bytes"): _Function("bytes"),
        # Before and since NumPy 2.
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
    """``value`` with arrays in place of what stands for them; what is shared is converted once, a
    cycle is refused."""
    if value is None or type(value) in (bool, int, float, str, bytes, bytearray):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise RefusedError("holds a container that holds itself")
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
    # Kept with its original, whose id stays taken as long as that lives.
    done[id(value)] = (value, made)
    return made


_UNFINISHED = object()


def _array(raw: object, dtype: object, shape: object, *, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise RefusedError(f"array of {type(dtype).__name__}, expected a NumPy element type")
    real = dtype.real()
    # Python 2 wrote the bytes of an array as a byte string, which is read as Latin-1 text.
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes | bytearray):
        raise RefusedError(f"array whose contents are a {type(raw).__name__}, expected bytes")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedError(f"array of shape {shape!r:.40}")
    if math.prod(shape) * real.itemsize != len(data):
        raise RefusedError(f"array of shape {shape} and type {real} with {len(data)} bytes")
    elements = np.frombuffer(bytes(data), real) if len(data) else np.empty(0, real)
    return elements.reshape(shape, order="F" if fortran else "C").astype(real.newbyteorder("="))
