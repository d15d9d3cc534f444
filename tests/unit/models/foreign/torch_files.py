"""A writer of PyTorch checkpoints, opcode by opcode, for tests alone.

The smallest pickler: most functions give the opcodes that leave one value on the stack.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
NUMBERS = np.arange(12, dtype=np.float32)


@dataclass(frozen=True)
class Opcodes:
    """Opcodes that are inserted into a pickle unchanged."""

    code: bytes


def pickled(value: Any) -> bytes:
    """Opcodes of a plain Python value."""
    match value:
        case Opcodes():
            code = value.code
        case None:
            code = b"N"
        case bool():
            code = b"\x88" if value else b"\x89"
        case int():
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            code = b"\x8a" + bytes([len(raw)]) + raw
        case float():
            code = b"G" + struct.pack(">d", value)
        case str():
            code = b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            code = b"(" + b"".join(map(pickled, value)) + b"t"
        case list():
            code = b"](" + b"".join(map(pickled, value)) + b"e"
        case dict():
            code = (
                b"}(" + b"".join(pickled(key) + pickled(item) for key, item in value.items()) + b"u"
            )
        case _:
            raise TypeError(type(value))
    return code


def dumps(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + pickled(value) + b"."


def named_class(module: str, name: str) -> Opcodes:
    return Opcodes(b"c" + f"{module}\n{name}\n".encode())


def call(function: Opcodes, *arguments: Any) -> Opcodes:
    return Opcodes(function.code + pickled(arguments) + b"R")


def built(instance: Opcodes, state: Any) -> Opcodes:
    return Opcodes(instance.code + pickled(state) + b"b")


def ordered(entries: Mapping[str, Any]) -> Opcodes:
    """An OrderedDict with the attribute that torch gives it."""
    empty = call(named_class("collections", "OrderedDict"))
    filled = Opcodes(
        empty.code + b"(" + b"".join(pickled(k) + pickled(v) for k, v in entries.items()) + b"u"
    )
    return built(filled, {"_metadata": call(named_class("collections", "OrderedDict"))})


def storage(
    key: str = "0", *, kind: str = "FloatStorage", numel: int = 12, view: Any = ()
) -> Opcodes:
    """Persistent id of a storage; the legacy layout adds the view (or None)."""
    extra = () if view == () else (view,)
    return Opcodes(
        pickled(("storage", named_class("torch", kind), key, "cpu", numel, *extra)) + b"Q"
    )


def tensor(of: Any, *, offset: Any = 0, size: Any = (12,), stride: Any = (1,)) -> Opcodes:
    rebuild = named_class("torch._utils", "_rebuild_tensor_v2")
    return call(
        rebuild, of, offset, size, stride, False, call(named_class("collections", "OrderedDict"))
    )


def legacy_file(root: Any, storages: Mapping[str, np.ndarray], **changed: Any) -> bytes:
    """Legacy layout; ``changed`` replaces one of its parts."""
    raw = b"".join(
        struct.pack("<q", values.size) + values.tobytes() for values in storages.values()
    )
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = {"protocol": 1001, "system": system, "root": root, "keys": list(storages), **changed}
    return MAGIC + b"".join(dumps(part) for part in parts.values()) + raw


def zip_file(
    root: Any,
    storages: Mapping[str, np.ndarray],
    *,
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Zip layout."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("model/data.pkl", dumps(root))
        archive.writestr("model/byteorder", byteorder)
        for key, values in storages.items():
            archive.writestr(f"model/data/{key}", values.tobytes())
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


LAYOUTS: list[Callable[..., bytes]] = [legacy_file, zip_file]
