"""A restricted reader of pickles, which executes nothing from them.

A pickle is a program for a stack machine. This machine knows only the opcodes that the caller
admits, and it calls only the stand-ins that the caller names; Python's own unpickler is not used. A
small file must not cost much time or memory either. Therefore the number of opcodes is limited,
keys of dictionaries are text or small integers (the hash of a nested tuple takes exponential time,
and large integers can be chosen to have one hash), and messages never print a nested value.

:func:`read_plain_pickle` uses the machine to read plain values and NumPy arrays; its stand-ins hold
the bytes of an array until they have been checked.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from delfjax.errors import quoted, shown

# Largest file of plain values that is read, bytes; ground truth takes about a megabyte. Text takes
# up to four times as much memory as in the file, and an array is copied twice.
MAX_BYTES = 64 << 20
# Most opcodes of one pickle. The state of a large network has some ten thousand, ground truth some
# hundred thousand. Each can make an empty set, which takes 600 bytes until it has been checked.
MAX_OPCODES = 500_000
# Deepest nesting of plain values; ground truth has four levels.
MAX_DEPTH = 100
# Most axes of an array, as in NumPy. The product of a million sizes would take minutes.
MAX_AXES = 64
# Integers below this are their own hashes.
_MAX_KEY = 1 << 31

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
# Codes of NumPy's types that are numbers or text, not objects.
_CODE = re.compile(r"[biufSU][0-9]{1,9}")

# Exceptions that unpickling a malformed file may raise; all mean that the file is damaged.
MALFORMED = (
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
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

    Values may be nested to any depth and may contain themselves.

    Args:
        data: bytes that contain the pickle.
        admitted: what the pickle may contain.
        start: position of its first byte.
        persistent: returns the value of a persistent id, if that opcode is admitted.

    Raises:
        RefusedError: the pickle contains something else, or more than :data:`MAX_OPCODES` opcodes.
        Exception: one of :data:`MALFORMED`: the pickle is truncated or damaged.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = _Machine(admitted, persistent)
    with warnings.catch_warnings():
        # Python warns about bad escapes in text before the text is refused or read unchanged.
        warnings.simplefilter("ignore", DeprecationWarning)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name not in admitted.opcodes:
                raise RefusedError(
                    f"contains the pickle opcode {opcode.name}, which {admitted.what} do not use"
                )
            if count == MAX_OPCODES:
                raise RefusedError(f"contains a pickle of more than {MAX_OPCODES:,} opcodes")
            machine.step(opcode.name, argument)
    return machine.pop(), stream.tell()


def checked_key(key: object) -> str | int:
    """A key of a dictionary or an element of a set, whose hash takes little time.

    Raises:
        RefusedError: it is neither text nor a small integer.
    """
    if type(key) is str or (type(key) is int and abs(key) < _MAX_KEY):
        return key
    raise RefusedError(
        f"holds {shown(key)} as the key of a dictionary or in a set; only text and integers below"
        f" {_MAX_KEY} are admitted there"
    )


class _Machine:
    """The stack machine of pickles without the parts that could execute anything."""

    def __init__(self, admitted: Admitted, persistent: Callable[[Any], Any] | None) -> None:
        self._admitted = admitted
        self._persistent = persistent
        self._stack: list[Any] = []
        # What lies below each mark.
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Execute one opcode; those without an entry in a table frame the pickle."""
        if name in _VALUES:
            # Making the value may exchange the stack, at a mark.
            value = _VALUES[name](self, argument)
            self._stack.append(value)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)

    def top(self, kind: type[Any] = object) -> Any:
        """The value on top, which must be of a type."""
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"adds items to {shown(self._stack[-1])}")
        return self._stack[-1]

    def pop(self) -> Any:
        """Remove and return the value on top."""
        return self._stack.pop()

    def taken(self, count: int) -> list[Any]:
        """Remove and return several values from the top."""
        if len(self._stack) < count:
            raise ValueError(f"takes {count} values from a stack of {len(self._stack)}")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def mark(self) -> None:
        """Set a mark on the stack."""
        self._below.append(self._stack)
        self._stack = []

    def marked(self) -> list[Any]:
        """Remove and return the values above the last mark, and remove the mark."""
        values = self._stack
        self._stack = self._below.pop()
        return values

    def drop(self) -> None:
        """Remove the value on top, or the mark if it is on top."""
        if self._stack:
            self._stack.pop()
        else:
            self.marked()

    def put(self, index: int | None) -> None:
        """Remember the value on top, under the next index if none is given."""
        index = len(self._memo) if index is None else index
        if not 0 <= index <= MAX_OPCODES:
            raise RefusedError(
                f"has the pickle memo index {shown(index)}, expected at most {MAX_OPCODES}"
            )
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> Any:
        """The value remembered under an index."""
        return self._memo[index]

    def text(self, argument: str) -> str:
        """A byte string of Python 2, decoded."""
        return argument.encode("latin-1").decode(self._admitted.encoding)

    def named(self, module: object, name: object) -> Any:
        """The stand-in of an admitted name; any other name is refused without being looked up."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise RefusedError(f"names {shown(module)}.{shown(name)}, expected text")
        if (module, name) not in self._admitted.names:
            label = f"{module}.{name}"
            held = label if label.isprintable() and len(label) < 100 else shown(label)
            raise RefusedError(f"holds {held}; only {self._admitted.what} are admitted")
        return self._admitted.names[module, name]

    def called(self, function: Any, arguments: Any) -> Any:
        """What a stand-in makes of arguments; nothing else is called."""
        admitted = any(function is each for each in self._admitted.names.values())
        if not (admitted and callable(function) and isinstance(arguments, tuple)):
            raise RefusedError(f"calls {shown(function)} with {shown(arguments)}")
        return function(*arguments)

    def identified(self, pid: Any) -> Any:
        """The value of a persistent id."""
        if self._persistent is None:
            raise RefusedError(
                f"contains the persistent id {shown(pid)}, which {self._admitted.what} do not have"
            )
        return self._persistent(pid)


# Opcode → the value that it pushes, from the machine and the opcode's argument.
_VALUES: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG"),
            *("BINFLOAT", "FLOAT"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        lambda machine, argument: argument,
    ),
    **dict.fromkeys(
        ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
        lambda machine, argument: _checked_text(argument),
    ),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.text),
    "NONE": lambda machine, _: None,
    "NEWTRUE": lambda machine, _: True,
    "NEWFALSE": lambda machine, _: False,
    "EMPTY_TUPLE": lambda machine, _: (),
    "TUPLE1": lambda machine, _: tuple(machine.taken(1)),
    "TUPLE2": lambda machine, _: tuple(machine.taken(2)),
    "TUPLE3": lambda machine, _: tuple(machine.taken(3)),
    "TUPLE": lambda machine, _: tuple(machine.marked()),
    "EMPTY_LIST": lambda machine, _: [],
    "LIST": lambda machine, _: machine.marked(),
    "EMPTY_DICT": lambda machine, _: {},
    "DICT": lambda machine, _: _filled({}, machine.marked()),
    "EMPTY_SET": lambda machine, _: set(),
    "FROZENSET": lambda machine, _: frozenset(map(checked_key, machine.marked())),
    "DUP": lambda machine, _: machine.top(),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, argument: machine.named(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.named(*machine.taken(2)),
    "REDUCE": lambda machine, _: machine.called(*machine.taken(2)),
    "BINPERSID": lambda machine, _: machine.identified(machine.pop()),
}
# Opcode → what it does to the machine without pushing a value.
_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.marked(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.marked()),
    "SETITEM": lambda machine, _: _set_items(machine, machine.taken(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.marked()),
    "ADDITEMS": lambda machine, _: _add_items(machine, machine.marked()),
    "BUILD": lambda machine, _: _set_state(machine, machine.pop()),
}


def _checked_text(text: str) -> str:
    """Text that can be written to a file and to a terminal."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"holds half a character, in {shown(text)}") from None
    return text


def _append(machine: _Machine, values: list[Any]) -> None:
    machine.top(list).extend(values)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    _filled(machine.top(dict), values)


def _add_items(machine: _Machine, values: list[Any]) -> None:
    machine.top(set).update(map(checked_key, values))


def _set_state(machine: _Machine, state: Any) -> None:
    """Attributes are never set: a stand-in takes a state by its method, or the state is refused."""
    take = getattr(type(machine.top()), "__setstate__", None)
    if take is None:
        raise RefusedError(f"sets the state {shown(state)} on {shown(machine.top())}")
    take(machine.top(), state)


def _filled(dictionary: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    """The dictionary with alternating keys and values added."""
    for key, value in zip(values[::2], values[1::2], strict=True):
        dictionary[checked_key(key)] = value
    return dictionary


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
        return _real(unpickle(data, _PLAIN)[0], {}, 0)
    except RefusedError as reason:
        raise error(f"{path}: {reason}") from None
    except MALFORMED as failure:
        raise error(
            f"{path}: truncated or damaged pickle ({type(failure).__name__}: {quoted(failure)})"
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
            raise RefusedError(f"holds an element type with the invalid state {shown(state)}")
        self.order = order

    def real(self) -> np.dtype[Any]:
        """The NumPy type; only numbers and text are admitted."""
        if not isinstance(self.code, str) or not _CODE.fullmatch(self.code):
            raise RefusedError(
                f"holds an array of {shown(self.code)}; only numbers and text are admitted"
            )
        return np.dtype(self.code).newbyteorder(self.order)


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
        raise RefusedError(f"sets the state {shown(state)} on the function {self._name}")

    def __call__(self, *arguments: Any) -> object:
        if self._name == "encode":
            text, encoding = arguments if len(arguments) == 2 else ("", "")
            if not isinstance(text, str) or encoding != "latin1":
                raise RefusedError(f"encodes bytes as {shown(encoding)}, expected 'latin1'")
            return text.encode("latin1")
        if self._name == "bytes":
            if arguments:
                raise RefusedError(f"calls bytes with {shown(arguments)}, expected no arguments")
            return b""
        if self._name == "scalar":
            dtype, raw = arguments
            return _Scalar(dtype, raw)
        if self._name == "_frombuffer":
            raw, dtype, shape, order = arguments
            made = _Array()
            made.state = (1, shape, dtype, order == "F", raw)
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


# Names that NumPy arrays are pickled with → their stand-ins.
ARRAY_NAMES: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
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
    }
)
_PLAIN = Admitted(
    what="containers, numbers, text and NumPy arrays",
    opcodes=_PLAIN_OPCODES,
    names=ARRAY_NAMES,
    encoding="latin1",
)


def array_in(value: object) -> np.ndarray:
    """The array that a pickled value stands for, of those admitted by :data:`ARRAY_NAMES`.

    Raises:
        RefusedError: it is no array of numbers or text, or its bytes do not fit its shape.
    """
    if not isinstance(value, _Array):
        raise RefusedError(f"holds {shown(value)} where an array should be")
    return value.real()


def _real(value: Any, done: dict[int, Any], depth: int) -> Any:
    """``value`` with arrays in place of their stand-ins.

    A shared object is converted once; a cycle is refused, and so is deep nesting.
    """
    if value is None or type(value) in (bool, int, float, str, bytes, bytearray):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise RefusedError("holds a container that contains itself")
        return done[id(value)][1]
    if depth == MAX_DEPTH:
        raise RefusedError(f"nests values deeper than {MAX_DEPTH} levels")
    done[id(value)] = _UNFINISHED
    if isinstance(value, _Array | _Scalar):
        made: Any = value.real()
    elif type(value) is dict:
        made = {key: _real(item, done, depth + 1) for key, item in value.items()}
    elif type(value) in (list, tuple):
        made = type(value)([_real(item, done, depth + 1) for item in value])
    elif type(value) in (set, frozenset):
        made = value
    else:
        raise RefusedError(f"holds {shown(value)} where a value should be")
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
            f"holds an array of shape {shown(shape)}, expected a tuple of non-negative integers"
        )
    if len(shape) > MAX_AXES:
        raise RefusedError(f"holds an array of {len(shape)} axes, expected at most {MAX_AXES}")
    if math.prod(shape) * real.itemsize != len(data):
        raise RefusedError(
            f"holds an array of shape {shape} and type {real} that has {len(data)} bytes, expected"
            f" {math.prod(shape) * real.itemsize}"
        )
    elements = np.frombuffer(bytes(data), real) if len(data) else np.empty(0, real)
    if real.kind == "U":
        codes = np.frombuffer(bytes(data), np.dtype(np.uint32).newbyteorder(real.byteorder))
        if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise RefusedError(f"holds an array of type {real} with what is not text")
    return elements.reshape(shape, order="F" if fortran else "C").astype(real.newbyteorder("="))
