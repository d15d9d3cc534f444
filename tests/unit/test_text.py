"""Names are shown as they are, but for what a terminal would obey."""

from __future__ import annotations

import pytest

from delfjax.text import printable


@pytest.mark.parametrize(
    "text",
    ["plain.jpg", "Tür à Zürich.jpg", "東京 😀.jpg", "a\\b", "a b\u202fc", "", "ZWJ 👩\u200d🚀"],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
        ("two\nlines\r", r"two\nlines\r"),
        ("C1 \x9b2J", r"C1 \x9b2J"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("not utf-8 \udcfe", r"not utf-8 \udcfe"),
        ("para\u2029graph\x85", r"para\u2029graph\x85"),
        ("tab\tnul\0", r"tab\tnul\x00"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
