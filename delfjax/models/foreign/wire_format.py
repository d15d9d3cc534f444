"""A parser of protocol buffers without generated code: fields are accessed by their numbers.

Integers are returned unsigned, as they are stored, so a negative one is at least 2⁶³. Malformed
data raises ``ValueError``.
Source: the published encoding of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at byte ``at``, seven bits per byte, and the position after it.

    Raises:
        ValueError: the data ends within the number, or the number takes more than 64 bits.
    """
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise ValueError(f"a number is cut off at byte {len(data)}, the end of the data")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            break
    if byte >= 0x80 or value >= 1 << 64:
        raise ValueError(f"the number before byte {at} has more than 64 bits")
    return value, at


@dataclass(frozen=True)
class Message:
    """The fields of a message.

    Attributes:
        values: field number → its values in order; a field that is absent has no entry.
    """

    values: dict[int, list[int | bytes]]

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Parse the bytes of a message.

        Raises:
            ValueError: the bytes are not a valid message.
        """
        values: dict[int, list[int | bytes]] = {}
        for field, value in _fields(data):
            values.setdefault(field, []).append(value)
        return cls(values)

    def numbers(self, field: int) -> list[int]:
        """All values of an integer field, packed or not.

        Raises:
            ValueError: the packed integers are malformed.
        """
        found: list[int] = []
        for value in self.values.get(field, []):
            found += [value] if isinstance(value, int) else _packed(value)
        return found

    def number(self, field: int) -> int:
        """The last value of an integer field; 0 if it is absent."""
        return next(reversed(self.numbers(field)), 0)

    def parts(self, field: int) -> list[bytes]:
        """All values of a field of text, bytes or messages.

        Raises:
            ValueError: a value is a number.
        """
        values = self.values.get(field, [])
        if any(isinstance(value, int) for value in values):
            raise ValueError(f"field {field} holds a number, expected text or a message")
        return [value for value in values if isinstance(value, bytes)]

    def text(self, field: int) -> str:
        """The last value of a text field; empty if it is absent.

        Raises:
            ValueError: the value is not text in UTF-8.
        """
        return next(reversed(self.parts(field)), b"").decode()

    def messages(self, field: int) -> Iterator[Message]:
        """All values of a message field, one after the other: parsed, an empty message takes a
        hundred times its two bytes.

        Raises:
            ValueError: a value is not a valid message.
        """
        return (Message.parse(part) for part in self.parts(field))

    def floats(self, field: int) -> Float32[np.ndarray, " n"]:
        """All values of a float field, packed or not.

        Raises:
            ValueError: the number of packed bytes is not a multiple of four.
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
            raise ValueError(f"field {tag >> 3} has wire type {kind}, expected 0, 1, 2 or 5")
        if kind == _LENGTH:
            length, at = varint(data, at)
        else:
            length = 8 if kind == _EIGHT_BYTES else 4
        if length > len(data) - at:
            raise ValueError(
                f"field {tag >> 3} extends beyond the end of its message of {len(data)} bytes"
            )
        content = bytes(data[at : at + length])
        at += length
        yield tag >> 3, content if kind == _LENGTH else int.from_bytes(content, "little")


def _packed(data: bytes) -> list[int]:
    found = []
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        found.append(value)
    return found
