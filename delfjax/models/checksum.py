"""CRC-32C, the checksum of TensorFlow's files, a hundred megabytes in about a second and without a compiled package.

A checksum is linear in the data, so runs of equal length go side by side, one step of all of them at a time, and are put
together in pairs: what a run adds to the state after it is its own checksum, and what the state before it becomes behind
that many bytes is a linear map of 32 bits. Source: the Castagnoli polynomial, as in RFC 3720.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import UInt32

_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
# Runs side by side at most; shorter data than the next are cheaper byte by byte.
_MOST_LANES, _SHORT = 4096, 512


def crc32c(data: bytes | memoryview) -> int:
    """Checksum of ``data``, as everybody else writes it: ``crc32c(b"123456789") == 0xE3069283``."""
    state, lanes = _ONES, 1
    if len(data) >= _SHORT:
        lanes = min(_MOST_LANES, 1 << (len(data).bit_length() // 2))
    whole = len(data) // (2 * lanes) * 2 * lanes if lanes > 1 else 0
    if whole:
        state = _side_by_side(np.frombuffer(data, "<u2", whole // 2).reshape(lanes, -1), state)
    table = _of_bytes()
    for byte in bytes(data[whole:]):
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ _ONES


@functools.cache
def _of_bytes() -> list[int]:
    """What each byte leaves of a state."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return [int(entry) for entry in table]


@functools.cache
def _of_pairs() -> UInt32[np.ndarray, " n"]:
    """What each two bytes leave of a state."""
    table, states = np.array(_of_bytes(), np.uint32), np.arange(65536, dtype=np.uint32)
    for _ in range(2):
        states = table[states & 0xFF] ^ (states >> 8)
    return states


def _side_by_side(words: np.ndarray, state: int) -> int:
    """The state after all ``words`` (two bytes each), row after row."""
    table = _of_pairs()
    states = np.zeros(len(words), np.uint32)
    states[0] = state
    for column in np.ascontiguousarray(words.T):
        states = table[(states ^ column) & 0xFFFF] ^ (states >> 16)
    behind = _behind(2 * words.shape[1])
    while len(states) > 1:
        states, behind = _apply(behind, states[::2]) ^ states[1::2], _apply(behind, behind)
    return int(states[0])


def _behind(count: int) -> UInt32[np.ndarray, " bits"]:
    """What ``count`` zero bytes make of each bit of a state."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = np.array(_of_bytes(), np.uint32)[bits & 0xFF] ^ (bits >> 8)
    result = bits
    while count:
        if count & 1:
            result = _apply(power, result)
        power, count = _apply(power, power), count >> 1
    return result


def _apply(images: UInt32[np.ndarray, " bits"], states: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """A linear map, given by the images of the bits, of each state."""
    result = np.zeros_like(states)
    for bit, image in enumerate(images):
        result ^= image * (states >> np.uint32(bit) & np.uint32(1))
    return result
