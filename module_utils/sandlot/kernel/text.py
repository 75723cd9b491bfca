# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes foreign text safe to show."""

from __future__ import annotations


def harmless(text: str) -> str:
    """One printable line; characters that could control a terminal are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_OF_NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def name_part(text: str) -> str:
    """A name without what may be a value: YAML reads {PASSWORD:x} as a key without a value."""
    return text[: len(text) - len(text.lstrip(_OF_NAMES))]
