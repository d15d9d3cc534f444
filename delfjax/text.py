"""Text from outside, such as file names, made safe to show on a terminal or in a figure."""

from __future__ import annotations

import unicodedata

# Control characters, halves of characters (which stand for bytes that are not UTF-8), and
# separators of lines and paragraphs.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Marks that change the direction of the text after them, so that a name reads as another one.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """``text`` on one line: line breaks, control characters, marks of direction and bytes that are
    not UTF-8 are escaped as in a Python string, such as ``\\x1b``; all else is unchanged."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) in _UNPRINTABLE or character in _DIRECTIONS:
        return character.encode("unicode_escape").decode("ascii")
    return character
