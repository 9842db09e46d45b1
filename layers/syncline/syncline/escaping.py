"""Escape the characters of a text that colour a terminal, forge lines or reverse text."""

from __future__ import annotations

from typing import Final

HIDDEN: Final = frozenset(
    {
        *range(0x20),
        *range(0x7F, 0xA0),
        *(0xAD, 0x61C, 0x180E, 0xFEFF),
        *range(0x200B, 0x2010),  # zero width, and marks of direction
        *range(0x2028, 0x202F),  # ends of lines, and embedded directions
        *range(0x2060, 0x2070),
        *range(0xD800, 0xE000),  # lone surrogates
        *range(0xE0000, 0xE0080),  # tags
    }
)
"""Invisible characters that change the display: controls, line ends, marks of direction, and zero width."""
_ESCAPES: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    for code in HIDDEN
}
_JSON_ESCAPES: Final = {
    code: f"\\u{code:04x}" if code < 0x10000 else f"\\udb40\\u{0xDC00 + code - 0xE0000:04x}"
    for code in HIDDEN
    if code >= 0x20
}


def escape(text: str) -> str:
    """Return a text on one line, with the characters of :data:`HIDDEN` escaped as in Python."""
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def escape_json(line: str) -> str:
    """Return JSON on one line with the characters of :data:`HIDDEN` escaped; it has the same values."""
    return line if line.isascii() and line.isprintable() else line.translate(_JSON_ESCAPES)
