"""Write text from elsewhere so that it shows itself and does nothing, as escape sequences would."""

from __future__ import annotations

import shlex

NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, keep: str = "") -> str:
    """Return text in which each character that prints nothing of its own is written as in Python.

    Those are control characters, marks of direction and of lines, and bytes that were no UTF-8; ``keep``
    are characters that stay, such as the end of a line.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in text)


def shell_word(text: str) -> str:
    """Return text as one word of a shell, which shows in one line whatever it holds."""
    return shlex.quote(text) if text.isprintable() else "$'" + visible(text).replace("'", "\\'") + "'"


def _escaped(character: str) -> str:
    code = ord(character)
    if character in NAMED:
        return NAMED[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
