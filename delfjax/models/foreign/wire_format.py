"""Protocol buffers without generated code: what a message holds, by the numbers of its fields.

Numbers come unsigned, as they are stored; a negative one is larger than 2⁶³. Anything malformed is
a ``ValueError``.
Source: the published encoding of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at byte ``at``, seven bits to the byte, and where it ends.

    Raises:
        ValueError: the data end within it, or it takes more than 64 bits.
    """
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise ValueError(f"a number begins but does not end before byte {len(data)}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if byte >= 0x80 or value >= 1 << 64:
        raise ValueError(f"a number of more than 64 bits ends at byte {at}")
    return value, at


@dataclass(frozen=True)
class Message:
    """The fields of a message; those that are absent have no values.

    Attributes:
        values: number of a field → its values, in order.
    """

    values: dict[int, list[int | bytes]]

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """A message from its bytes.

        Raises:
            ValueError: they are none.
        """
        values: dict[int, list[int | bytes]] = {}
        for field, value in _fields(data):
            values.setdefault(field, []).append(value)
        return cls(values)

    def numbers(self, field: int) -> list[int]:
        """All values of a field of integers, packed or not.

        Raises:
            ValueError: what should be packed integers is none.
        """
        found: list[int] = []
        for value in self.values.get(field, []):
            found += [value] if isinstance(value, int) else _packed(value)
        return found

    def number(self, field: int) -> int:
        """The last value of a field of integers, 0 where there is none."""
        return next(reversed(self.numbers(field)), 0)

    def parts(self, field: int) -> list[bytes]:
        """All values of a field of texts, bytes or messages.

        Raises:
            ValueError: a value is a number.
        """
        values = self.values.get(field, [])
        if any(isinstance(value, int) for value in values):
            raise ValueError(f"field {field} holds a number where text or a message was expected")
        return [value for value in values if isinstance(value, bytes)]

    def text(self, field: int) -> str:
        """The last value of a field of text, empty where there is none.

        Raises:
            ValueError: it is no text.
        """
        return next(reversed(self.parts(field)), b"").decode()

    def messages(self, field: int) -> list[Message]:
        """All values of a field of messages.

        Raises:
            ValueError: a value is none.
        """
        return [Message.parse(part) for part in self.parts(field)]

    def floats(self, field: int) -> Float32[np.ndarray, " n"]:
        """All values of a field of floats, packed or not.

        Raises:
            ValueError: what should be packed floats is none.
        """
        values = self.values.get(field, [])
        raw = b"".join(
            value if isinstance(value, bytes) else (value & 0xFFFFFFFF).to_bytes(4, "little")
            for value in values
        )
        return np.frombuffer(raw, "<f4").astype(np.float32)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = varint(data, at)
            yield tag >> 3, value
            continue
        if kind not in (_EIGHT_BYTES, _LENGTH, _FOUR_BYTES):
            raise ValueError(f"field {tag >> 3} is of kind {kind}, which is none that is in use")
        length, at = varint(data, at) if kind == _LENGTH else (8 if kind == _EIGHT_BYTES else 4, at)
        if length > len(data) - at:
            raise ValueError(f"field {tag >> 3} leaves its message of {len(data)} bytes")
        content, at = bytes(data[at : at + length]), at + length
        yield tag >> 3, content if kind == _LENGTH else int.from_bytes(content, "little")


def _packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        found.append(value)
    return found
